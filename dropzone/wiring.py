"""The only place where concrete parts are chosen and joined.

Imports of heavy parts stand inside the functions: asking the queue must not cost the start of an HTTP client.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropzone import __version__, operate
from dropzone import config as configuration
from dropzone.config import Config
from dropzone.errors import ConfigError, DropzoneError, FolderError, OperatorError, Problem, printable

if TYPE_CHECKING:
    from dropzone.daemon import Daemon
    from dropzone.drop import Drop
    from dropzone.folders import Folders
    from dropzone.ledger import Ledger, Reader
    from dropzone.optipub import OptiPub
    from dropzone.progress import Board, Step
    from dropzone.telemetry import Journal

# Where the configuration is looked for when neither -c nor DROPZONE_CONFIG names it.
CONFIG_PLACES = (Path("dropzone.yaml"), Path("/etc/dropzone/dropzone.yaml"))


def find_config(named: Path | None) -> Path:
    """The configuration file to use. Raises ConfigError where there is none."""
    if named is None and os.environ.get("DROPZONE_CONFIG"):
        named = Path(os.environ["DROPZONE_CONFIG"])
    if named is not None:
        return named
    found = next((place for place in CONFIG_PLACES if place.is_file()), None)
    if found is None:
        places = " or ".join(map(str, CONFIG_PLACES))
        hint = "Name one with -c FILE; 'dropzone config example' prints one to begin with"
        problem = Problem(line=0, column=0, what="there is no configuration", hint=hint)
        raise ConfigError(places, (problem,))
    return found


def open_ledger(config: Config) -> Reader:
    """The ledger, for reading only. Raises LedgerError where there is none yet."""
    from dropzone.ledger.sqlite import SQLiteReader

    return SQLiteReader(config.state_dir)


def lay_out(config: Config, *, inboxes: bool = True) -> list[Path]:
    """Make the directories that the configuration asks for; returns those that were missing."""
    from dropzone.folders import Folders

    made: list[Path] = []
    for path, mode in ((config.state_dir, 0o700), (config.root, 0o755)):
        if not path.is_dir():
            _make(path, mode)
            made.append(path)
    return made + Folders().lay_out(config, inboxes=inboxes)


def _make(path: Path, mode: int) -> None:
    try:
        path.mkdir(parents=True)
        path.chmod(mode)
    except OSError as error:
        raise FolderError("make", str(path), error, "Run 'dropzone init' as a user who may") from error


def _followed(config: Config) -> Config:
    """`config` with the symbolic links in the operator's own paths followed, once and now.

    From here on every component is opened without following any, because a partner may exchange one for a link. The
    inboxes themselves, which partners write into, are not followed even here.
    """
    root = Path(os.path.realpath(config.root))

    def inbox(path: Path) -> Path:
        if path.is_relative_to(config.root):
            return root / path.relative_to(config.root)
        return Path(os.path.realpath(path.parent)) / path.name

    folders = {
        name: folder.model_copy(update={"path": inbox(folder.path), "base": Path(os.path.realpath(folder.base))})
        for name, folder in config.folders.items()
    }
    return config.model_copy(update={"root": root, "folders": folders})


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


def order(config: Config, what: str, ids: list[str], why: str) -> Iterator[Drop | OperatorError]:
    """Have the daemon carry out `what` on each drop, or do it here where none runs; each drop's new row, or why not.

    Raises OperatorError, LedgerError and FolderError where nothing can be ordered at all.
    """
    from dropzone.control import ask, user_name
    from dropzone.daemon import state_lock
    from dropzone.ledger.sqlite import SQLiteLedger

    with contextlib.closing(open_ledger(config)) as reader:
        for id in ids:
            answer = ask(config.state_dir, {"order": what, "id": id, "why": why})
            if answer is None:
                with state_lock(config.state_dir), contextlib.closing(SQLiteLedger(config.state_dir)) as ledger:
                    answer = _carry_out(ledger, what, id, user_name(os.getuid()), printable(why))
            if "error" in answer:
                yield OperatorError(answer["error"], answer.get("hint", ""))
            else:
                yield operate.get_drop(reader, id)


def switch(config: Config, what: str, name: str, why: str) -> str:
    """Pause or resume (`what`) the account or folder called `name`, by the daemon or, where none runs, here.

    Returns ``account`` or ``folder``. Raises OperatorError, LedgerError and FolderError.
    """
    from dropzone.control import ask, user_name
    from dropzone.daemon import state_lock
    from dropzone.ledger.sqlite import SQLiteLedger

    kind = operate.kind_of(config, name)
    answer = ask(config.state_dir, {"order": what, "kind": kind, "id": name, "why": why})
    if answer is None:
        with state_lock(config.state_dir), contextlib.closing(SQLiteLedger(config.state_dir)) as ledger:
            operate.switch(ledger, what, kind, name, by=user_name(os.getuid()), why=printable(why), at=time.time())
    elif "error" in answer:
        raise OperatorError(answer["error"], answer.get("hint", ""))
    return kind


def under_way(config: Config) -> dict[str, Step]:
    """What the daemon checks and uploads right now, by drop ID; nothing where none runs or none may be asked."""
    from dropzone.control import ask
    from dropzone.progress import Step

    try:
        answer = ask(config.state_dir, {"ask": "steps"}) or {}
        return {id: Step(**step) for id, step in answer.get("steps", {}).items()}
    except (OperatorError, FolderError, TypeError, AttributeError):
        return {}


def _carry_out(ledger: Ledger, what: str, id: str, by: str, why: str) -> dict[str, str]:
    try:
        drop, _ = operate.order(ledger, what, operate.get_drop(ledger, id), by=by, why=why, at=time.time())
    except DropzoneError as error:
        return {"error": error.message, "hint": error.hint}
    return {"state": drop.state}


def _check_reload(old: Config, new: Config) -> None:
    """Raise where `new` cannot be taken up by a running daemon."""
    if not new.root.is_dir():
        raise FolderError("use", str(new.root), "it is not there", "Mount it, or make it with 'dropzone init'")
    for key in ("state_dir", "concurrency"):
        if getattr(old, key) != getattr(new, key):
            raise OperatorError(f"{key} has changed, and that takes a restart", "Restart dropzone, or change it back")


def _check_folders(folders: Folders, config: Config) -> None:
    """Raise where files of a folder can never be taken over: it is on another mount, or sticky."""
    for folder in config.folders.values():
        fault = folders.find_fault(folder)
        if fault is not None and fault.op == "use":  # what is missing or closed may be mended while we run
            raise fault


def _obedient(daemon: Daemon, ledger: Ledger, board: Board) -> Callable[[dict[str, Any], str], dict[str, Any]]:
    """What the control socket does with a request: the loop carries it out, between two of its own steps."""

    def obey(request: dict[str, Any], by: str) -> dict[str, Any]:
        if "ask" in request:
            return {"steps": {id: asdict(step) for id, step in board.steps().items()}}
        # Escaped: JSON can carry halves of characters that neither the ledger nor the journal could write.
        what, id, why, kind = (printable(str(request.get(name, ""))) for name in ("order", "id", "why", "kind"))
        answered: Future[dict[str, Any]] = Future()

        def carry_out() -> None:
            if not answered.cancelled() and not kind and daemon.order_later(what, id, carry_out):
                return
            if not answered.set_running_or_notify_cancel():
                return  # the asker was told that it was not done
            try:
                answered.set_result(obey_now())
            except DropzoneError as error:
                answered.set_result({"error": error.message, "hint": error.hint})

        def obey_now() -> dict[str, Any]:
            if kind:
                daemon.switch(kind, id, lambda: operate.switch(ledger, what, kind, id, by=by, why=why, at=time.time()))
                return {}
            drop = daemon.order(id, lambda drop: operate.order(ledger, what, drop, by=by, why=why, at=time.time()))
            return {"state": drop.state}

        daemon.call(carry_out)
        try:
            return answered.result(timeout=20)
        except TimeoutError:
            answered.cancel()
            return {"error": "the daemon is busy", "hint": "Try again in a moment"}

    return obey


@contextlib.contextmanager
def running(path: Path, config: Config, journal: Journal) -> Iterator[Daemon]:
    """A daemon on `config`, ready to `run`; holds the state lock, obeys signals, reloads `path` on SIGHUP.

    Raises LockedError, LedgerError and FolderError; on leaving, everything is closed.
    """
    from dropzone.alarms import Alarms
    from dropzone.control import Control
    from dropzone.daemon import Daemon, notify, obey_signals, reloading, state_lock
    from dropzone.folders import Folders
    from dropzone.gates import Gates
    from dropzone.intake import Intake
    from dropzone.ledger.sqlite import SQLiteLedger
    from dropzone.pipeline import Pipeline
    from dropzone.progress import Board
    from dropzone.watch import Watch

    if not config.root.is_dir():
        # Perhaps a mount that is missing: making folders below it would hide that, and files with it.
        raise FolderError("use", str(config.root), "it is not there", "Mount it, or make it with 'dropzone init'")
    config = _followed(config)
    lay_out(config, inboxes=False)
    with state_lock(config.state_dir), contextlib.ExitStack() as stack:
        folders = Folders()
        ledger = SQLiteLedger(config.state_dir)
        stack.callback(ledger.close)
        aside = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="aside"))
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
            aside=aside.submit,
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
        )
        _check_folders(folders, config)

        def reload() -> None:
            reloading()
            try:
                new = _followed(configuration.load(path))
                _check_reload(config, new)
                lay_out(new, inboxes=False)
                _check_folders(folders, new)
            except (ConfigError, FolderError, OperatorError) as error:
                problems = [problem.at(str(path)) for problem in getattr(error, "problems", ())]
                journal.warn("the old configuration stays", why=str(error), problems=problems)
            else:
                accounts.replace(new)
                daemon.configure(new)
                watch.keep(folder.path for folder in new.folders.values())
                journal.say("the configuration was read again", file=str(path))
            notify(READY="1")

        obey_signals(daemon, reload, journal)
        control = Control(config.state_dir, _obedient(daemon, ledger, board))
        stack.callback(control.close)
        daemon.start()
        journal.say("watching", folders=len(config.folders), root=str(config.root), version=__version__)
        notify(READY="1", STATUS=f"Watching {len(config.folders)} folders")
        yield daemon
        notify(STOPPING="1")
