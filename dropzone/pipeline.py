"""The order of steps for one drop: check → prepare → deliver → file. It reads from top to bottom.

    queued     check the CSV, write the prepared copy, ask the guards, announce the attempt, send, commit the answer
    sending    (found so: we died before the answer was committed) the outcome is unknown
    unknown    the policy for unknown outcomes
    accepted   log, then the file, into done/
    refused    log, then the file, into failed/

Recovery is no part of this: whatever row exists, `run` takes it as far as it goes. The decision is recorded first, then
the disk is made to agree. Knows what each part does, but not how: files are in `folders`, promises in the ledger, the
protocol in `optipub`, the rules for CSVs in `sheet`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import BinaryIO, Protocol, assert_never, cast

from dropzone import receipt, sheet
from dropzone.config import Folder
from dropzone.drop import (
    Accepted,
    Attempted,
    CheckFailed,
    Deferred,
    Drop,
    Event,
    Filed,
    Lost,
    Postponed,
    Refused,
    Report,
    State,
    Withheld,
    delay,
)
from dropzone.errors import Cancelled, DropzoneError, FolderError, LedgerError, printable
from dropzone.folders import Bench, Folders
from dropzone.ledger import Ledger

DISTURBED_S = 5.0  # a client still writes: look again after
ACCOUNT_S = 60.0  # the key cannot be read, say: a person has to mend it; try again after
REFILE_S = 30.0  # a verdict that could not be filed: try again after
FAULTS = 5  # unexpected errors in a row until a person has to look
_DECIDED = (State.ACCEPTED, State.REFUSED)
_UNFINISHED_CHECKS = 2  # a file that took us down twice is not read a third time


class Upload(Protocol):
    """One import request, built and ready; see `optipub.Upload`."""

    def send(self, *, progress: Callable[[int], None] | None = None) -> Accepted | Refused | Deferred | Lost:
        """Offer it once and say what came of it."""


class Segments(Protocol):
    """An account's segments, as `optipub.OptiPub` has them."""

    def build(self, drop: Drop, folder: Folder, payload: BinaryIO, size: int) -> Upload:
        """Get everything ready that may fail before a byte leaves."""


Sink = Callable[[Drop, Event], None]


class Pipeline:
    """Takes one drop as far as it will go. Several drops may run at once, each in one thread.

    `stopping` tells whether to start nothing new; `wait` sleeps that many seconds or until the stop; `sinks` hear of
    every committed event and can change nothing; `fault` hears of unexpected errors, for the traceback.
    """

    def __init__(
        self,
        *,
        folders: Folders,
        ledger: Ledger,
        segments: Callable[[str], Segments],
        now: Callable[[], float],
        wait: Callable[[float], None],
        stopping: Callable[[], bool],
        sinks: Sequence[Sink] = (),
        fault: Callable[[Drop, Exception], None] = lambda drop, error: None,
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._segments = segments
        self._now = now
        self._wait = wait
        self._stopping = stopping
        self._sinks = sinks
        self._fault = fault
        self.sink_failures = 0

    def run(self, id: str) -> float | None:
        """Take the drop as far as it goes now; returns when to look again (wall clock), None for never.

        Raises FolderError or LedgerError only where the machine is at fault (disk full, I/O error …): then no drop can
        go on, and none is judged.
        """
        drop = self._ledger.find_drop(id)
        # A verdict is filed even on the way out: the file should lie where its partner looks for it.
        while drop is not None and (drop.state in _DECIDED or not self._stopping()):
            if drop.state in (State.HELD, State.DONE, State.FAILED):
                return None
            if drop.state is State.QUEUED and drop.due_at > self._now():
                return drop.due_at
            try:
                drop = self._advance(drop)
            except Cancelled:
                return drop.due_at
            except LedgerError:
                raise
            except Exception as error:  # the only place that catches everything: one drop must not end the daemon
                if isinstance(error, FolderError) and error.environment:
                    raise
                self._fault(drop, error)
                drop = self._stumble(drop.id, error)
                if drop.state in _DECIDED:
                    return self._now() + REFILE_S
        return self._now() if drop else None

    def _advance(self, drop: Drop) -> Drop:
        match drop.state:
            case State.QUEUED:
                return self._deliver(drop)
            case State.SENDING:
                cause = (
                    f"dropzone was stopped before the answer was known. Look in OptiPub for {drop.folder}.{drop.id}.csv"
                )
                return self._commit(drop, Lost(cause=cause, sent=None))
            case State.UNKNOWN:
                return self._commit(drop, Withheld(guard="unknown", why=drop.reason))
            case State.ACCEPTED:
                return self._file(drop, "done")
            case State.REFUSED:
                return self._file(drop, "failed")
            case State.HELD | State.DONE | State.FAILED:
                return drop
            case _:
                assert_never(drop.state)

    # ------------------------------------------------------------------------------------- check, prepare, deliver

    def _deliver(self, drop: Drop) -> Drop:
        folder = settings_of(drop)
        if drop.cleared:
            folder = _without_limit(folder)
        if self._folders.where_is(drop) is None:
            why = "its file is gone from work/ and failed/, and nobody but dropzone should take files from there"
            return self._commit(drop, Withheld(guard="missing", why=why))
        self._folders.bring_back(drop)
        if drop.size > folder.guards.max_bytes:
            why = f"the file has {drop.size:,} bytes, the folder allows {folder.guards.max_bytes:,}"
            return self._commit(drop, Withheld(guard="max_bytes", why=why))
        if drop.size == 0 and folder.empty == "hold" and not drop.cleared:
            return self._commit(drop, Withheld(guard="empty", why="the file is empty: not even a header line is in it"))
        if self._folders.begin_check(drop) >= _UNFINISHED_CHECKS:
            self._folders.end_check(drop)
            why = "reading this file ended the program twice; look at it before it is read again"
            return self._commit(drop, Withheld(guard="poison", why=why))
        # If we die here: the note stays, and the next start counts it.
        try:
            with self._folders.bench(drop) as bench:
                disturbed = bench.disturbed()  # asked first: an upload of hours must not be read whole each time
                report = Report() if disturbed else self._check(drop, folder, bench)
                misfit = "" if disturbed or drop.cleared else bench.misfit(folder.marker)
                disturbed = disturbed or bench.disturbed()
        finally:
            self._folders.end_check(drop)
        if disturbed:
            return self._commit(drop, Postponed(due_at=self._now() + DISTURBED_S, why=disturbed))
        if misfit:
            return self._commit(drop, Withheld(guard="checksum", why=misfit, report=report))
        if report.guard:  # only seen in reading: it was packed, or it grew
            return self._commit(drop, Withheld(guard=report.guard, why=report.refused, report=report))
        if report.refused:
            return self._commit(drop, CheckFailed(report=report))
        if withheld := self._guard(drop, folder, report):
            return self._commit(drop, withheld)
        return self._send(drop, folder, report, bench)

    def _check(self, drop: Drop, folder: Folder, bench: Bench) -> Report:
        def progress(_: int) -> None:
            if self._stopping():
                raise Cancelled

        return sheet.check(
            bench.source,
            cast(BinaryIO, bench.prepared),
            bench.rejects,
            folder,
            compressed=drop.name.lower().endswith(b".gz"),
            progress=progress,
            scratch=str(bench.scratch),
        )

    def _guard(self, drop: Drop, folder: Folder, report: Report) -> Withheld | None:
        """Whether something about the whole file asks for a person's look. A breach holds, it never fails a file."""
        if drop.cleared:
            return None
        rows, guards = report.good_rows, folder.guards
        facts = self._ledger.segment_facts(drop.account, drop.segment_id, drop.folder)
        last = facts.rows if facts else 0
        breach = ""
        if rows < guards.min_rows:
            breach = f"min_rows: the file has {rows:,} good rows, the folder asks for at least {guards.min_rows:,}"
        elif guards.max_rows is not None and rows > guards.max_rows:
            breach = f"max_rows: the file has {rows:,} good rows, the folder allows {guards.max_rows:,}"
        elif folder.clear and guards.max_shrink is not None and rows < last - guards.max_shrink.of(last):
            breach = f"max_shrink: {rows:,} rows would replace the {last:,} rows of the file accepted last"
        elif guards.max_growth is not None and last and rows > last + guards.max_growth.of(last):
            breach = f"max_growth: the file has {rows:,} rows, the last accepted one had {last:,}"
        if not breach:
            return None
        guard, _, why = breach.partition(": ")
        return Withheld(guard=guard, why=why, report=report)

    def _send(self, drop: Drop, folder: Folder, report: Report, bench: Bench) -> Drop:
        with self._folders.prepared(drop) as (payload, size):
            try:
                # Client, TLS context, key and request are made before the attempt is announced: a crash in here then
                # costs nothing, instead of leaving an outcome that nobody knows.
                upload = self._segments(drop.account).build(drop, folder, payload, size)
            except DropzoneError as error:
                return self._commit(drop, Postponed(due_at=self._now() + ACCOUNT_S, why=str(error)))
            if self._stopping():
                return drop
            attempted = Attempted(n=drop.tries + 1, digest=bench.prepared.digest, size=size, report=report)
            drop = self._commit(drop, attempted)
            # If we die from here on until the answer is committed, the row says `sending`: unknown at the next start.
            try:
                outcome: Accepted | Refused | Deferred | Lost = upload.send()
            except FolderError as error:  # our own copy could not be read to its end, so the request was never whole
                outcome = Deferred(due_at=self._now() + REFILE_S, cause=str(error))
        return self._commit_outcome(drop, outcome)

    def _commit_outcome(self, drop: Drop, outcome: Event) -> Drop:
        """Commit what the server said, however long the disk refuses: forgetting it would make the outcome unknown."""
        while True:
            try:
                return self._commit(drop, outcome)
            except LedgerError:
                if self._stopping():
                    raise
                self._wait(1.0)

    # ---------------------------------------------------------------------------------------------------- file

    def _file(self, drop: Drop, verdict: str) -> Drop:
        if self._folders.where_is(drop) is None:
            # Somebody took it from work/. What the server said stands all the same, and nobody may wait for this.
            return self._commit(drop, Filed(path=""))
        # If we die before the row: the same log and the same path come out again, and what is in place stays.
        log = receipt.render_log(drop, self._ledger.history(drop.id))
        return self._commit(drop, Filed(path=self._folders.file(drop, verdict, log)))

    # -------------------------------------------------------------------------------------------------- commit

    def _commit(self, drop: Drop, event: Event) -> Drop:
        after = self._ledger.commit(drop.id, event, at=self._now())
        self.announce(after, event)
        return after

    def announce(self, drop: Drop, event: Event) -> None:
        """Tell the sinks of a committed event. One that fails is counted; it cannot undo what was committed."""
        for sink in self._sinks:
            try:
                sink(drop, event)
            except (OSError, ValueError):  # the journal is full or closed
                self.sink_failures += 1

    def _stumble(self, id: str, error: Exception) -> Drop:
        """An unexpected error judges no file: later again, and after five in a row a person has to look."""
        known = isinstance(error, DropzoneError)
        what = str(error) if known else printable(f"{type(error).__name__}: {error}")
        why = what if known else f"unexpected error, see the journal: {what}"
        drop = self._ledger.find_drop(id)  # what is committed by now, not what the step began with
        assert drop is not None
        if drop.state is State.SENDING:
            return self._commit(drop, Lost(cause=why, sent=None))
        if drop.state is not State.QUEUED:
            return drop
        if drop.faults + 1 >= FAULTS:
            return self._commit(drop, Withheld(guard="faults", why=why))
        wait_s = delay(drop.faults + 1, initial_s=REFILE_S, max_s=900.0)
        return self._commit(drop, Postponed(due_at=self._now() + wait_s, why=why, fault=True))


def _without_limit(folder: Folder) -> Folder:
    return folder.model_copy(update={"guards": folder.guards.model_copy(update={"max_bytes": sys.maxsize})})


@lru_cache(maxsize=256)
def _parse(settings: str) -> Folder:
    return Folder.from_settings(settings)


def settings_of(drop: Drop) -> Folder:
    """The folder's settings as they were when the drop was claimed, whatever the configuration says today."""
    return _parse(drop.settings)
