"""A daemon, put together: the only place where its concrete parts are chosen and joined."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dropzone import __version__
from dropzone.adoption import Adoption
from dropzone.alarms import Alarms
from dropzone.answering import Answering
from dropzone.bases import Bases
from dropzone.config import Config
from dropzone.control import Control
from dropzone.daemon import Daemon
from dropzone.errors import ConfigError, DropzoneError, FolderError, LedgerError, OperatorError
from dropzone.folders import Folders
from dropzone.gates import Gates
from dropzone.intake import Intake
from dropzone.keeping import prune
from dropzone.ledger import Ledger, Reader
from dropzone.ledger.sqlite import SQLiteLedger
from dropzone.opening import followed, load, make_missing
from dropzone.optipub import OptiPub
from dropzone.pipeline import Pipeline
from dropzone.progress import Board
from dropzone.service import notify, obey_signals, reloading, state_lock
from dropzone.telemetry import Journal
from dropzone.threads import Pool
from dropzone.watch import Watch


class _Accounts:
    """One HTTP client per account, made when it is first needed. Thread-safe."""

    def __init__(self, config: Config, now: Callable[[], float]) -> None:
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
                self._open[name] = OptiPub(account, now=self._now)
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
    count = size = 0
    try:
        for old in prune(config, ledger, now=time.time(), stopping=stopping):
            count, size = count + 1, size + old.size
    except (FolderError, LedgerError) as error:
        journal.warn("old files could not be deleted; it is tried again in a day", why=str(error))
    if count:
        journal.say("old files were deleted", drops=count, bytes=size)


def _tell_unmade(config: Config, journal: Journal) -> None:
    for name in config.unmade:
        why = f"its segment is still to be created: dropzone segment create --folder {name}"
        journal.warn("a folder is not watched", folder=name, why=why)


@contextlib.contextmanager
def running(path: Path, config: Config, journal: Journal) -> Iterator[Daemon]:
    """A daemon on `config`, ready to `run`; holds the state lock, obeys signals, reloads `path` on SIGHUP.

    Raises LockedError, LedgerError and FolderError; on leaving, everything is closed.
    """
    _check_root(config.root)
    config = followed(config)
    make_missing(config.state_dir, 0o700)
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
            hear=lambda inbox, name, closed: daemon.hear(inbox, name, closed=closed),
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
        adoption = Adoption(
            folders=folders,
            ledger=ledger,
            now=time.time,
            left_alone=journal.left_alone,
            announce=pipeline.announce,
        )
        daemon = Daemon(
            config,
            folders=folders,
            ledger=ledger,
            bases=Bases(adoption, journal),
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
            reloading()
            try:
                new = followed(load(path))
                _check_reload(daemon.config, new, ledger)
                folders.lay_out(new, inboxes=False, occupied=ledger.open_bases())
                _check_folders(folders, new)
            except (ConfigError, FolderError, LedgerError, OperatorError) as error:
                problems = [problem.at(str(path)) for problem in getattr(error, "problems", ())]
                journal.warn("the old configuration stays", why=str(error), problems=problems)
            else:
                accounts.replace(new)
                daemon.configure(new)
                watch.keep(folder.path for folder in new.folders.values())
                _tell_unmade(new, journal)
                journal.say("the configuration was read again", file=str(path))
            notify(READY="1")

        obey_signals(daemon, reload, journal.say)
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
