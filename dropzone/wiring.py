"""The only place where concrete parts are chosen and joined.

Imports of heavy parts stand inside the functions: asking the queue must not cost the start of an HTTP client.
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
from typing import TYPE_CHECKING

from dropzone import __version__, operate
from dropzone import config as configuration
from dropzone.errors import ConfigError, DropzoneError, FolderError, LedgerError, OperatorError, Problem, printable
from dropzone.ledger import SegmentNote

if TYPE_CHECKING:
    from dropzone.config import Account, Config, Folder, Glance
    from dropzone.daemon import Daemon
    from dropzone.drop import Drop
    from dropzone.folders import Folders
    from dropzone.ledger import Ledger, Reader
    from dropzone.ledger.sqlite import SQLiteLedger
    from dropzone.operate import Finding, Inbox
    from dropzone.optipub import OptiPub
    from dropzone.optipub.segments import Wanted
    from dropzone.telemetry import Journal

# Orders for which the ledger is opened once, where no daemon runs: opening takes longer than an order. Not all of them,
# because a daemon that is started meanwhile waits for us, and whoever reads what we say may be a pager.
_AT_ONCE = 500

# Where the configuration is looked for when neither -c nor DROPZONE_CONFIG names it.
CONFIG_PLACES = (Path("dropzone.yaml"), Path("/etc/dropzone/dropzone.yaml"))


def find_config(named: Path | None) -> Path:
    """The configuration file to use. Raises ConfigError where there is none."""
    if named is None and os.environ.get("DROPZONE_CONFIG"):
        named = Path(os.environ["DROPZONE_CONFIG"])
    if named is not None:
        return named
    found = next(filter(_is_there, CONFIG_PLACES), None)
    if found is None:
        places = " or ".join(map(str, CONFIG_PLACES))
        hint = "Name one with -c FILE; 'dropzone config example' prints one to begin with"
        problem = Problem(line=0, column=0, what="there is no configuration", hint=hint)
        raise ConfigError(places, (problem,))
    return found


def _is_there(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # whoever reads it says so in words
        return True


def glance(path: Path) -> Glance:
    """What a question needs of the configuration in `path`. Raises ConfigError where not even that can be read."""
    seen = configuration.glance(path)
    if seen is not None:
        return seen
    config = configuration.load(path)
    accounts = {name: account.key_created for name, account in config.accounts.items()}
    folders = tuple(config.folders)
    return configuration.Glance(state_dir=config.state_dir, crc=config.crc, folders=folders, accounts=accounts)


def load(path: Path) -> Config:
    """The configuration in `path`, with the segments that were created for its folders. Raises ConfigError."""
    config = configuration.load(path)
    if not config.unmade:
        return config
    with find_ledger(config) as ledger:
        notes = ledger.segment_notes() if ledger else {}
    ids = {}
    for name, unmade in config.unmade.items():
        note = notes.get((unmade.draft.account, unmade.segment_name))
        if note and note.id is not None:
            ids[name] = note.id
    return config.with_segments(ids)


def open_ledger(config: Config | Glance) -> Reader:
    """The ledger, for reading only. Raises LedgerError where there is none yet."""
    from dropzone.ledger.sqlite import SQLiteReader

    return SQLiteReader(config.state_dir)


def lay_out(config: Config) -> list[Path]:
    """Make the directories that the configuration asks for, inboxes too; returns those that were missing."""
    from dropzone.folders import Folders

    made = [*_make_missing(config.state_dir, 0o700), *_make_missing(config.root, 0o755)]
    return made + Folders().lay_out(followed(config), inboxes=True)


def _make_missing(path: Path, mode: int) -> list[Path]:
    if os.path.isdir(path):
        return []
    try:
        path.mkdir(parents=True)
        path.chmod(mode)
    except OSError as error:
        raise FolderError("make", str(path), error, "Run 'dropzone init' as a user who may") from error
    return [path]


def followed(config: Config) -> Config:
    """`config` with the symbolic links in the operator's own paths followed, once and now.

    From here on every component is opened without following any, because a partner may exchange one for a link. The
    inboxes themselves, which partners write into, are not followed even here. Raises FolderError where a link leads
    through a name that the ledger cannot keep.
    """

    @cache
    def follow(path: Path) -> Path:
        real = os.path.realpath(path)
        if not _is_text(real):
            hint = "Rename the folder that is not in UTF-8 on the way, or name another place"
            raise FolderError("use", str(path), f"it leads to {printable(real)}, which is not in UTF-8", hint)
        return Path(real)

    root = follow(config.root)

    def inbox(path: Path) -> Path:
        if path.is_relative_to(config.root):
            return root / path.relative_to(config.root)
        return follow(path.parent) / path.name

    folders = {
        name: folder.having(path=inbox(folder.path), base=follow(folder.base))
        for name, folder in config.folders.items()
    }
    return config.having(root=root, folders=folders)


def _is_text(path: str) -> bool:
    """Whether it is UTF-8, as all that the file can say is; a link may lead anywhere."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Accounts:
    """One HTTP client per account, made when it is first needed. Thread-safe."""

    def __init__(self, config: Config, now: Callable[[], float]) -> None:
        from dropzone.optipub import OptiPub  # at the start of the daemon, not with the first file, which would wait

        self._make = OptiPub
        self._config = config
        self._now = now
        self._lock = threading.Lock()
        self._open: dict[str, OptiPub] = {}

    def __call__(self, name: str) -> OptiPub:
        with self._lock:
            if name not in self._open:
                account = self._config.accounts.get(name)
                if account is None:
                    raise DropzoneError(f"no account is called {name} any more", "Put it back into the configuration")
                self._open[name] = self._make(account, now=self._now)
            return self._open[name]

    def replace(self, config: Config) -> None:
        """Use the accounts of `config` from now on; uploads under way end as they began."""
        with self._lock:
            self._config = config
            self.close()
            self._open = {}

    def close(self) -> None:
        for optipub in self._open.values():
            optipub.close()


@contextlib.contextmanager
def find_ledger(config: Config | Glance) -> Iterator[Reader | None]:
    """The ledger, for reading only; None where none was made yet. Raises LedgerError where it cannot be read."""
    from dropzone.ledger.sqlite import FILE_NAME

    try:
        os.stat(config.state_dir / FILE_NAME)
    except FileNotFoundError:
        yield None
        return
    except OSError:  # whoever opens it says so in words
        pass
    with contextlib.closing(open_ledger(config)) as ledger:
        yield ledger


def ask_health(config: Config | Glance) -> operate.Health:
    """How the daemon is, by its own word. Never raises: that it cannot be asked is an answer."""
    from dropzone.control import ask

    try:
        return operate.Health.read(ask(config.state_dir, {"ask": "health"}, timeout_s=2.0), crc=config.crc)
    except OperatorError as error:
        return operate.Health(running=True, unasked=str(error), steps={})


def why(file: Path, paths: list[Path]) -> tuple[list[Finding], operate.Health]:
    """Why each of `paths` was or was not picked up, and how the daemon is.

    The daemon says so where one runs: it knows by which settings it goes, and needs not load them. Else it is found out
    here, by what the configuration `file` says. Raises ConfigError and LedgerError.
    """
    from dropzone.control import ask

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
    from dropzone.control import ask

    with contextlib.suppress(OperatorError):  # whoever cannot be asked, or is too busy, is not needed for it
        if (answer := ask(seen.state_dir, {"ask": "inbox", "folder": name})) and answer.get("inbox"):
            return operate.Inbox.read(answer["inbox"])
    return None


def order(
    config: Config | Glance, what: str, ids: list[str], why: str, *, anew: Config | None = None
) -> Iterator[Drop | OperatorError]:
    """Have the daemon carry out `what` on each drop, or do it here where none runs; each drop's new row, or why not.

    `anew` is the configuration whose settings the drops are to have from now on, where they are not to keep theirs.
    Raises OperatorError, LedgerError and FolderError where nothing can be ordered at all.
    """
    from dropzone.control import ask

    if anew is not None and ask_health(anew).outdated:
        hint = "First: dropzone config check && systemctl reload dropzone"
        raise OperatorError("the daemon goes by an older configuration than the file's", hint)
    with contextlib.closing(open_ledger(config)) as reader:
        while ids:
            answer = ask(config.state_dir, {"order": what, "id": ids[0], "why": why, "anew": anew is not None})
            if answer is None:
                answers, interrupted = _carry_out_some(config, what, ids[:_AT_ONCE], why, anew)
            else:
                answers, interrupted = [answer], False
            for id, answer in zip(ids, answers, strict=False):
                if "error" in answer:
                    yield OperatorError(answer["error"], answer.get("hint", ""))
                else:
                    yield operate.get_drop(reader, id)
            if interrupted:
                raise KeyboardInterrupt
            ids = ids[len(answers) :]


def switch(config: Config | Glance, what: str, text: str, why: str) -> tuple[str, str]:
    """Pause or resume (`what`) the account or folder that `text` means, by the daemon or, where none runs, here.

    Returns ``account`` or ``folder``, and its name. Raises OperatorError, LedgerError and FolderError.
    """
    from dropzone.control import ask, user_name

    kind, name = operate.find_place(config, text)
    answer = ask(config.state_dir, {"order": what, "kind": kind, "id": name, "why": why})
    if answer is None:
        with _own_ledger(config.state_dir) as ledger:
            operate.switch(ledger, what, kind, name, by=user_name(os.getuid()), why=printable(why), at=time.time())
    elif "error" in answer:
        raise OperatorError(answer["error"], answer.get("hint", ""))
    return kind, name


def _carry_out_some(
    config: Config | Glance, what: str, ids: list[str], why: str, anew: Config | None
) -> tuple[list[dict[str, str]], bool]:
    """Carry out `what` on each drop of `ids`, up to an interrupt; the answers, and whether there was one."""
    from dropzone.control import user_name

    answers: list[dict[str, str]] = []
    by, words = user_name(os.getuid()), printable(why)
    with _own_ledger(config.state_dir) as ledger, _interrupts_wait() as interrupted:
        for id in ids:
            if interrupted():
                break
            answers.append(_carry_out(ledger, what, id, by, words, anew))
    return answers, interrupted()


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


def _carry_out(ledger: Ledger, what: str, id: str, by: str, why: str, anew: Config | None) -> dict[str, str]:
    drop, folders = operate.get_drop(ledger, id), anew.folders if anew else None
    try:
        drop, _ = operate.order(ledger, what, drop, by=by, why=why, at=time.time(), folders=folders)
    except DropzoneError as error:
        return {"error": error.message, "hint": error.hint}
    return {"state": drop.state}


def create_segment(config: Config, account: Account, wanted: Wanted, *, again: bool) -> int:
    """Have a segment created once, whatever happens to the answer; its id. See `operate.creating`."""
    from dropzone.control import user_name
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
    from dropzone.control import ask

    request = {"order": "note segment", "account": account, "name": name, "note": asdict(note) if note else None}
    answer = ask(config.state_dir, request)
    if answer is None:
        with _own_ledger(config.state_dir) as ledger:
            ledger.note_segment(account, name, note)
    elif "error" in answer:
        raise OperatorError(answer["error"], answer.get("hint", ""))


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


def _check_root(root: Path) -> None:
    """Raise where it is not there. Perhaps a mount is missing: folders made below it would hide that, and files too."""
    if not os.path.isdir(root):  # `Path.is_dir` raises where the way to it is closed
        what = "it is not there, or the way to it is closed"
        raise FolderError("use", str(root), what, "Mount it, or make it with 'dropzone init'")


def _check_reload(old: Config, new: Config, ledger: Reader) -> None:
    """Raise where `new` cannot be taken up by a running daemon."""
    _check_root(new.root)
    for key in ("state_dir", "concurrency"):
        if getattr(old, key) != getattr(new, key):
            raise OperatorError(f"{key} has changed, and that takes a restart", "Restart dropzone, or change it back")
    lanes = new.lanes
    for account, segment_id, lane in ledger.open_segments():
        if lanes.get((account, segment_id), lane) != lane:  # one of them may be on its way
            what = f"files of segment {segment_id} are open, and with another order_group the next would overtake them"
            raise OperatorError(what, "Restart dropzone, or change it once 'dropzone queue' shows none of them")


def _check_folders(folders: Folders, config: Config) -> None:
    """Raise where files of a folder can never be taken over: it is on another mount, or sticky."""
    for folder in config.folders.values():
        fault = folders.find_fault(folder)
        if fault is not None and fault.op == "use":  # what is missing or closed may be mended while we run
            raise fault


def _keep(config: Config, ledger: Ledger, journal: Journal, stopping: Callable[[], bool]) -> None:
    """Delete what is kept no longer, and say how much it was."""
    from dropzone.keeping import prune

    count = size = 0
    try:
        for old in prune(config, ledger, now=time.time(), stopping=stopping):
            count, size = count + 1, size + old.size
    except (FolderError, LedgerError) as error:
        journal.warn("old files could not be deleted; it is tried again in a day", why=str(error))
    if count:
        journal.say("old files were deleted", drops=count, bytes=size)


def prune(config: Config) -> None:
    """Have what is kept no longer deleted, by the daemon (soon) or, where none runs, here.

    Raises OperatorError, LedgerError and FolderError.
    """
    from dropzone.control import ask
    from dropzone.keeping import prune

    answer = ask(config.state_dir, {"order": "prune"})
    if answer is None:
        with _own_ledger(config.state_dir) as ledger:
            for _ in prune(config, ledger, now=time.time()):
                pass
    elif "error" in answer:
        raise OperatorError(answer["error"], answer.get("hint", ""))


def _tell_unmade(config: Config, journal: Journal) -> None:
    for name in config.unmade:
        why = f"its segment is still to be created: dropzone segment create --folder {name}"
        journal.warn("a folder is not watched", folder=name, why=why)


@contextlib.contextmanager
def running(path: Path, config: Config, journal: Journal) -> Iterator[Daemon]:
    """A daemon on `config`, ready to `run`; holds the state lock, obeys signals, reloads `path` on SIGHUP.

    Raises LockedError, LedgerError and FolderError; on leaving, everything is closed.
    """
    from dropzone.alarms import Alarms
    from dropzone.answering import Answering
    from dropzone.control import Control
    from dropzone.daemon import Daemon, obey_signals
    from dropzone.folders import Folders
    from dropzone.gates import Gates
    from dropzone.intake import Intake
    from dropzone.ledger.sqlite import SQLiteLedger
    from dropzone.pipeline import Pipeline
    from dropzone.progress import Board
    from dropzone.service import notify, reloading, state_lock
    from dropzone.threads import Pool
    from dropzone.watch import Watch

    _check_root(config.root)
    config = followed(config)
    _make_missing(config.state_dir, 0o700)
    with state_lock(config.state_dir), contextlib.ExitStack() as stack:
        folders = Folders()
        ledger = SQLiteLedger(config.state_dir)
        stack.callback(ledger.close)
        # Behind the ledger, which knows where drops lie.
        folders.lay_out(config, inboxes=False, occupied=ledger.open_bases())
        aside = stack.enter_context(Pool(2, "aside"))
        accounts = _Accounts(config, time.time)
        stack.callback(accounts.close)
        gates = Gates(config.concurrency, now=time.time, monotonic=time.monotonic)
        board = Board()
        pipeline = Pipeline(
            folders=folders,
            ledger=ledger,
            segments=accounts,
            gates=gates,
            board=board,
            now=time.time,
            wait=lambda seconds: daemon.wait(seconds),  # noqa: PLW0108 - the daemon is made below
            stopping=lambda: daemon.stopping,
            sinks=[journal.event, lambda *what: daemon.note(*what)],  # noqa: PLW0108 - the same
            fault=journal.fault,
            checks=config.concurrency,
        )
        watch = Watch(
            hear=lambda *what: daemon.hear(*what),  # noqa: PLW0108 - the same
            lost=lambda inbox: daemon.lose(inbox),  # noqa: PLW0108 - the same
            warn=lambda why: journal.warn("events are missing, files are found by the scan", why=why),
        )
        stack.callback(watch.stop)
        intake = Intake(
            folders=folders,
            ledger=ledger,
            now=time.time,
            monotonic=time.monotonic,
            left_alone=journal.left_alone,
            announce=pipeline.announce,
            attend=watch.attend,
            aside=aside.do,
        )
        daemon = Daemon(
            config,
            folders=folders,
            ledger=ledger,
            intake=intake,
            pipeline=pipeline,
            gates=gates,
            alarms=Alarms(ledger=ledger, board=board, voice=journal, now=time.time),
            voice=journal,
            now=time.time,
            monotonic=time.monotonic,
            keep=lambda config: _keep(config, ledger, journal, lambda: daemon.stopping),
        )
        _check_folders(folders, config)

        def reload() -> None:
            nonlocal config
            reloading()
            try:
                new = followed(load(path))
                _check_reload(config, new, ledger)
                folders.lay_out(new, inboxes=False, occupied=ledger.open_bases())
                _check_folders(folders, new)
            except (ConfigError, FolderError, LedgerError, OperatorError) as error:
                problems = [problem.at(str(path)) for problem in getattr(error, "problems", ())]
                journal.warn("the old configuration stays", why=str(error), problems=problems)
            else:
                accounts.replace(new)
                daemon.configure(new)
                watch.keep(folder.path for folder in new.folders.values())
                config = new
                _tell_unmade(new, journal)
                journal.say("the configuration was read again", file=str(path))
            notify(READY="1")

        obey_signals(daemon, reload, journal)
        answering = Answering(daemon, ledger, board)
        control = Control(config.state_dir, answering)
        stack.callback(control.close)
        stack.callback(answering.close)
        daemon.start()
        _tell_unmade(config, journal)
        journal.say("watching", folders=len(config.folders), root=str(config.root), version=__version__)
        notify(READY="1", STATUS=f"Watching {len(config.folders)} folders")
        yield daemon
        notify(STOPPING="1")
