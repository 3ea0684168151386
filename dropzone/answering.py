"""What a request at the control socket means: questions are answered at once, orders by the loop, between two steps.

Knows daemon and ledger, and nothing of sockets (`control`) or of which orders a state allows (`operate`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dropzone import __version__, operate
from dropzone.daemon import Daemon
from dropzone.drop import Drop, Event
from dropzone.errors import DropzoneError, IllegalEvent, OperatorError, printable
from dropzone.ledger import Ledger, SegmentNote
from dropzone.operate.finding import Finder, Looker
from dropzone.progress import Board

_PATIENCE_S = 20.0  # the loop may be waiting for a disk; then the asker is told, and nothing is done later
_AT_ONCE = 500  # files of an inbox: who asks about more looks at them alone, and keeps nobody from the work

Answer = dict[str, Any]


class Answering:
    """Called with each request and the name of the user who sent it; gives the answer. In the asker's own thread."""

    def __init__(self, daemon: Daemon, ledger: Ledger, board: Board, *, now: Callable[[], float] = time.time) -> None:
        self._daemon = daemon
        self._ledger = ledger
        self._board = board
        self._now = now
        self._since = now()
        self._lock = threading.Lock()
        self._waiting: set[Future[Answer]] = set()  # for the loop
        self._closed = False

    def close(self) -> None:
        """Tell everybody who waits for the loop that it has ended; from now on nothing is ordered any more."""
        with self._lock:
            self._closed = True
            for answered in self._waiting:
                answered.cancel()

    def __call__(self, request: dict[str, Any], by: str) -> Answer:
        try:
            return self._answer(request, by)
        except DropzoneError as error:  # a full disk, say: whoever asks next is to be answered too
            return _refusal(error)

    def _answer(self, request: dict[str, Any], by: str) -> Answer:
        match request.get("ask"):
            case None:
                return self._obey(request, by)
            case "why":
                return self._health() | {"findings": self._why(request["paths"])}
            case "inbox":
                return self._health() | {"inbox": self._inbox(str(request["folder"]))}
            case _:
                return self._health()

    def _obey(self, request: dict[str, Any], by: str) -> Answer:
        # Escaped: JSON can carry halves of characters that neither the ledger nor the journal could write.
        what, id, why, kind = (printable(str(request.get(name, ""))) for name in ("order", "id", "why", "kind"))
        match what:
            case "note segment":
                return self._note_segment(request)
            case "prune":
                self._daemon.call(self._daemon.keep)
                return {}
            case "pause" | "resume" if kind:
                return self._by_loop(lambda: self._switch(what, kind, id, by=by, why=why))
            case _:
                anew = bool(request.get("anew"))
                return self._by_loop(lambda: self._order(what, id, by=by, why=why, anew=anew), what=what, id=id)

    def _health(self) -> Answer:
        """How the daemon is, and how far it is with what. Never by the loop, which may be waiting for a disk."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "since": self._since,
            "crc": self._daemon.config.crc,
            "unmade": list(self._daemon.config.unmade),
            "fault": self._daemon.fault,
            "away": list(self._daemon.away),
            "steps": {id: asdict(step) for id, step in self._board.steps().items()},
        }

    def _why(self, paths: list[str]) -> list[Answer]:
        """What stands about each of `paths`. No file is read to its end for that: the daemon does so by itself."""
        finder = Finder(self._daemon.config, self._ledger, self._looker())
        return [finder.why(Path(path)).members() for path in paths]

    def _inbox(self, name: str) -> Answer | None:
        """What lies in the inbox of a folder; None where there is no such folder, or more than can be told here."""
        folder, looker = self._daemon.config.folders.get(name), self._looker()
        if folder is None or looker.count(folder) > _AT_ONCE:
            return None
        return looker.look_through(folder).members()

    def _looker(self) -> Looker:
        return Looker(self._ledger, now=self._now(), thorough=False)

    def _note_segment(self, request: dict[str, Any]) -> Answer:
        note = SegmentNote(**request["note"]) if request["note"] else None
        self._ledger.note_segment(str(request["account"]), str(request["name"]), note)
        return {}

    def _switch(self, what: str, kind: str, name: str, *, by: str, why: str) -> Answer:
        def carry_out() -> None:
            operate.switch(self._ledger, what, kind, name, by=by, why=why, at=self._now())

        self._daemon.switch(kind, name, carry_out)
        return {}

    def _order(self, what: str, id: str, *, by: str, why: str, anew: bool) -> Answer:
        def carry_out(drop: Drop) -> tuple[Drop, Event]:
            folders = self._daemon.config.folders if anew else None
            return operate.order(self._ledger, what, drop, by=by, why=why, at=self._now(), folders=folders)

        return {"state": self._daemon.order(id, carry_out).state}

    def _by_loop(self, act: Callable[[], Answer], *, what: str = "", id: str = "") -> Answer:
        """Have the loop do it, for a drop once nobody works on it; the asker is told what came of it."""
        answered: Future[Answer] = Future()

        def carry_out() -> None:
            # Nothing of this may end the loop, and who was told that it was not done is told nothing more.
            with suppress(InvalidStateError):
                try:
                    if id and not answered.cancelled() and self._daemon.order_later(what, id, carry_out):
                        return
                    if answered.set_running_or_notify_cancel():
                        answered.set_result(act())
                except DropzoneError as error:
                    answered.set_result(_refusal(error))
                except IllegalEvent:  # a newer file took its place between our look and the order, say
                    answered.set_result(_refusal(OperatorError(f"{id} has just changed", "Try again")))

        with self._lock:
            if self._closed:
                return _STOPPED
            self._waiting.add(answered)
        self._daemon.call(carry_out)
        try:
            return answered.result(timeout=_PATIENCE_S)
        except TimeoutError:
            answered.cancel()
            return {"error": "the daemon is busy", "hint": "Try again in a moment"}
        except CancelledError:
            return _STOPPED
        finally:
            with self._lock:
                self._waiting.discard(answered)


_STOPPED = {"error": "the daemon has just stopped, and the order was not carried out", "hint": "Try again in a moment"}


def _refusal(error: DropzoneError) -> Answer:
    return {"error": error.message, "hint": error.hint}
