"""What a command asks and orders: of the daemon where one runs, else done here, in its place and under its lock.

Knows the words that go over the control socket; `answering` is the other end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropzone import config as configuration
from dropzone import operate
from dropzone.control import ask, user_name
from dropzone.errors import DropzoneError, OperatorError, printable
from dropzone.ledger import SegmentNote
from dropzone.opening import find_ledger, followed, load, open_ledger

if TYPE_CHECKING:
    from dropzone.config import Account, Config, Folder, Glance
    from dropzone.drop import Drop
    from dropzone.ledger import Ledger, Reader
    from dropzone.ledger.sqlite import SQLiteLedger
    from dropzone.operate import Finding, Inbox
    from dropzone.optipub.segments import Wanted

# Orders for which the ledger is opened once, where no daemon runs: opening takes longer than an order. Not all of them,
# because a daemon that is started meanwhile waits for us, and whoever reads what we say may be a pager.
_AT_ONCE = 500

# --------------------------------------------------------------------------------------------------- questions


def ask_health(config: Config | Glance) -> operate.Health:
    """How the daemon is, by its own word. Never raises: that it cannot be asked is an answer."""
    try:
        return operate.Health.read(ask(config.state_dir, {"ask": "health"}, timeout_s=2.0), crc=config.crc)
    except OperatorError as error:
        return operate.Health(running=True, unasked=str(error), steps={})


def why(file: Path, paths: list[Path]) -> tuple[list[Finding], operate.Health]:
    """Why each of `paths` was or was not picked up, and how the daemon is.

    The daemon says so where one runs: it knows by which settings it goes, and needs not load them. Else it is found out
    here, by what the configuration `file` says. Raises ConfigError and LedgerError.
    """
    health = operate.Health(running=False, steps={})
    if seen := configuration.glance(file):
        with contextlib.suppress(OperatorError):
            answer = ask(seen.state_dir, {"ask": "why", "paths": [str(path) for path in paths]})
            health = operate.Health.read(answer, crc=seen.crc)
            if answer and "findings" in answer:
                return [operate.Finding.read(members) for members in answer["findings"]], health
    from dropzone.operate.finding import Finder, Looker

    config = followed(load(file))
    with find_ledger(config) as ledger:
        finder = Finder(config, ledger, Looker(ledger, now=time.time()))
        return [finder.why(path) for path in paths], health


def inboxes(file: Path, ledger: Reader | None, name: str | None) -> Iterator[Inbox]:
    """What lies in the inbox of the folder `name`, or in all of them.

    As for `why` the daemon looks, where one runs, but not where much lies there. Raises ConfigError and OperatorError.
    """
    from dropzone.operate import trying

    loaded = cache(lambda: followed(load(file)))
    seen = configuration.glance(file)
    watched = _watched(seen) if seen else []
    for each in [name] if name is not None else watched or list(loaded().folders):
        told = _ask_inbox(seen, each) if seen and each in watched else None
        yield told or _look_through(trying.get_folder(loaded(), each), ledger)


def _look_through(folder: Folder, ledger: Reader | None) -> Inbox:
    from dropzone.operate.finding import Looker

    return Looker(ledger, now=time.time()).look_through(folder)


def _watched(seen: Glance) -> list[str]:
    """The folders that a daemon watches now, if one runs by the configuration as it is."""
    health = ask_health(seen)
    if not health.running or health.outdated or health.unasked:
        return []
    return [name for name in seen.folders if name not in health.unmade]


def _ask_inbox(seen: Glance, name: str) -> Inbox | None:
    with contextlib.suppress(OperatorError):  # whoever cannot be asked, or is too busy, is not needed for it
        if (answer := ask(seen.state_dir, {"ask": "inbox", "folder": name})) and answer.get("inbox"):
            return operate.Inbox.read(answer["inbox"])
    return None


# ------------------------------------------------------------------------------------------------------ orders


def _refusal(answer: dict[str, Any]) -> OperatorError | None:
    """Why the daemon does not do what it was asked for, if it does not."""
    return OperatorError(answer["error"], answer.get("hint", "")) if "error" in answer else None


def _have_daemon(state_dir: Path, request: dict[str, Any]) -> bool:
    """Have the daemon do it; False where none runs. Raises OperatorError where it does not."""
    answer = ask(state_dir, request)
    if answer is not None and (refusal := _refusal(answer)):
        raise refusal
    return answer is not None


def order(
    config: Config | Glance, what: str, ids: list[str], why: str, *, anew: Config | None = None
) -> Iterator[Drop | OperatorError]:
    """Have the daemon carry out `what` on each drop, or do it here where none runs; each drop's new row, or why not.

    `anew` is the configuration whose settings the drops are to have from now on, where they are not to keep theirs.
    Raises OperatorError, LedgerError and FolderError where nothing can be ordered at all.
    """
    if anew is not None and ask_health(anew).outdated:
        hint = "First: dropzone config check && systemctl reload dropzone"
        raise OperatorError("the daemon goes by an older configuration than the file's", hint)
    with contextlib.closing(open_ledger(config)) as reader:
        while ids:
            answer = ask(config.state_dir, {"order": what, "id": ids[0], "why": why, "anew": anew is not None})
            if answer is None:
                results, interrupted = _carry_out_some(config, what, ids[:_AT_ONCE], why, anew)
            else:
                results, interrupted = [_refusal(answer) or operate.get_drop(reader, ids[0])], False
            yield from results
            if interrupted:
                raise KeyboardInterrupt
            ids = ids[len(results) :]


def _carry_out_some(
    config: Config | Glance, what: str, ids: list[str], why: str, anew: Config | None
) -> tuple[list[Drop | OperatorError], bool]:
    """Carry out `what` on each drop of `ids`, up to an interrupt; what came of them, and whether there was one."""
    results: list[Drop | OperatorError] = []
    by, words = user_name(os.getuid()), printable(why)
    with _own_ledger(config.state_dir) as ledger, _interrupts_wait() as interrupted:
        for id in ids:
            if interrupted():
                break
            results.append(_carry_out(ledger, what, id, by, words, anew))
    return results, interrupted()


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[Callable[[], bool]]:
    """Whether there was a Ctrl-C, which waits: an order that it cut off would be carried out and told to nobody."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


def _carry_out(ledger: Ledger, what: str, id: str, by: str, why: str, anew: Config | None) -> Drop | OperatorError:
    drop, folders = operate.get_drop(ledger, id), anew.folders if anew else None
    try:
        drop, _ = operate.order(ledger, what, drop, by=by, why=why, at=time.time(), folders=folders)
    except DropzoneError as error:
        return OperatorError(error.message, error.hint)
    return drop


def switch(config: Config | Glance, what: str, text: str, why: str) -> tuple[str, str]:
    """Pause or resume (`what`) the account or folder that `text` means, by the daemon or, where none runs, here.

    Returns ``account`` or ``folder``, and its name. Raises OperatorError, LedgerError and FolderError.
    """
    kind, name = operate.find_place(config, text)
    if not _have_daemon(config.state_dir, {"order": what, "kind": kind, "id": name, "why": why}):
        with _own_ledger(config.state_dir) as ledger:
            operate.switch(ledger, what, kind, name, by=user_name(os.getuid()), why=printable(why), at=time.time())
    return kind, name


def create_segment(config: Config, account: Account, wanted: Wanted, *, again: bool) -> int:
    """Have a segment created once, whatever happens to the answer; its id. See `operate.creating`."""
    from dropzone.operate.creating import create

    def note(note: SegmentNote | None) -> None:
        _note_segment(config, account.name, wanted.name, note)

    with find_ledger(config) as ledger:
        known = ledger.segment_notes().get((account.name, wanted.name)) if ledger else None
    return create(
        account, wanted, known=None if again else known, note=note, by=user_name(os.getuid()), now=time.time()
    )


def _note_segment(config: Config, account: str, name: str, note: SegmentNote | None) -> None:
    """Write it down, by the daemon where one runs. Raises OperatorError, LedgerError and FolderError."""
    request = {"order": "note segment", "account": account, "name": name, "note": asdict(note) if note else None}
    if not _have_daemon(config.state_dir, request):
        with _own_ledger(config.state_dir) as ledger:
            ledger.note_segment(account, name, note)


def prune(config: Config) -> None:
    """Have what is kept no longer deleted, by the daemon (soon) or, where none runs, here.

    Raises OperatorError, LedgerError and FolderError.
    """
    from dropzone.keeping import prune

    if not _have_daemon(config.state_dir, {"order": "prune"}):
        with _own_ledger(config.state_dir) as ledger:
            for _ in prune(config, ledger, now=time.time()):
                pass


@contextlib.contextmanager
def _own_ledger(state_dir: Path) -> Iterator[SQLiteLedger]:
    """The ledger for writing, where no daemon has it; what it makes is the daemon's user's, also by root's hand."""
    from dropzone.ledger.sqlite import SQLiteLedger
    from dropzone.operate.acting import acting_as, daemon_user
    from dropzone.service import state_lock

    with (
        acting_as(daemon_user(state_dir)),
        state_lock(state_dir),
        contextlib.closing(SQLiteLedger(state_dir)) as ledger,
    ):
        yield ledger
