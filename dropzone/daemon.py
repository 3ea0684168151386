"""The loop: take files over, keep each lane in order, give drops to the pool, stop cleanly.

A lane is one segment of one account: one drop of it is under way at a time, oldest first, and a head that must wait
makes its lane wait (order matters: a subscribe after an unsubscribe, rows after `clear`). Lanes do not wait for each
other. The ledger is the truth about what is open; what is kept here in memory is rebuilt from it at every start.

`tick()` is a plain function, so that tests can turn the wheel by hand. Knows no file, no HTTP and no table.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import queue
import signal
import socket
import threading
import time
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from dropzone.config import Config
from dropzone.drop import Drop, Event, State
from dropzone.errors import DropzoneError, FolderError, LedgerError, OperatorError
from dropzone.folders import Folders
from dropzone.intake import Intake
from dropzone.ledger import Ledger
from dropzone.pipeline import Pipeline

ENVIRONMENT_S = 60.0  # how soon to try again when the machine is at fault
_AT_REST = (State.HELD, State.DONE, State.FAILED)
LONGEST_WAIT_S = 3600.0  # of an account; see `optipub.answers`
LONGEST_SLEEP_S = 60.0  # a lost wake-up costs at most this


class LockedError(DropzoneError):
    """Another dropzone has this state folder."""


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process alone. Raises LockedError; the kernel frees it however we end."""
    try:
        fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        hint = "Make the state folder with 'dropzone init'" if missing else "Run it as the user that it belongs to"
        raise FolderError("open", str(state_dir / "lock"), error, hint) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            hint = "Only one may run: see 'systemctl status dropzone' or 'ps'"
            raise LockedError(f"another dropzone runs on {state_dir}", hint) from error
        yield
    finally:
        os.close(fd)


def notify(**facts: str) -> None:
    """Tell systemd (READY=1, STATUS=…, STOPPING=1; see sd_notify(3)). Nothing happens without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    text = "\n".join(f"{name}={value}" for name, value in facts.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
        out.sendto(text.encode(), address)


class Voice(Protocol):
    """How the daemon says things; see `telemetry.Journal`."""

    def say(self, what: str, /, **facts: object) -> None: ...
    def warn(self, what: str, /, **facts: object) -> None: ...


@dataclass(slots=True)
class _Lane:
    drops: deque[str] = field(default_factory=deque)
    account: str = ""
    busy: bool = False
    due_at: float = 0.0  # wall clock; what the head waits for


class Lanes:
    """The open drops by lane. Memory only: `Ledger.open_lanes` fills it at the start."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._known: set[str] = set()
        self._ready: deque[str] = deque()  # lanes whose head may go, in turn: that is the fairness
        self._later: list[tuple[float, str]] = []  # a heap of (due_at, lane)

    def add(self, lane: str, account: str, id: str, *, due_at: float = 0.0) -> None:
        """Put a drop at the end of its lane, unless it is there already; a new lane is looked at from `due_at` on."""
        if id in self._known:
            return
        self._known.add(id)
        here = self._lanes.setdefault(lane, _Lane(account=account))
        here.drops.append(id)
        if len(here.drops) == 1 and not here.busy:
            if due_at:
                heapq.heappush(self._later, (due_at, lane))
            else:
                self._ready.append(lane)

    def add_back(self, lane: str, account: str, id: str) -> None:
        """Put a drop that had left its lane back to where it was: IDs rise in the order of the claims."""
        self._known.add(id)
        here = self._lanes.setdefault(lane, _Lane(account=account))
        waiting = list(here.drops)
        here.drops.insert(bisect(waiting, id, lo=1 if here.busy else 0), id)
        self._ready.append(lane)

    def has(self, id: str) -> bool:
        """Whether the drop is in a lane."""
        return id in self._known

    def is_busy(self, lane: str, id: str) -> bool:
        """Whether the drop is being worked on right now."""
        here = self._lanes.get(lane)
        return here is not None and here.busy and here.drops[0] == id

    def take(self, now: float) -> tuple[str, str, str] | None:
        """The next (lane, account, drop ID) whose turn it is, or None. The lane is busy until `give_back`."""
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[1])
        while self._ready:
            name = self._ready.popleft()
            lane = self._lanes.get(name)
            if lane and lane.drops and not lane.busy:
                lane.busy = True
                return name, lane.account, lane.drops[0]
        return None

    def give_back(self, name: str, due_at: float | None) -> None:
        """The head of the lane is through (None), or is to be looked at again at `due_at`."""
        lane = self._lanes[name]
        lane.busy = False
        if due_at is None:
            self._known.discard(lane.drops.popleft())
            if lane.drops:
                self._ready.append(name)
            else:
                del self._lanes[name]
        else:
            lane.due_at = due_at
            heapq.heappush(self._later, (due_at, name))

    def wake(self) -> None:
        """Let every waiting lane look again now."""
        self._ready += [name for _, name in self._later]
        self._later.clear()

    def next_due(self) -> float:
        """When the next waiting lane is due, on the wall clock."""
        return self._later[0][0] if self._later else float("inf")

    def __len__(self) -> int:
        return len(self._known)


class Daemon:
    """Joins intake, lanes and pool. One per state folder; `tick` and `run` belong to one thread.

    `now` is the wall clock (due times), `monotonic` the one for waits.
    """

    def __init__(
        self,
        config: Config,
        *,
        folders: Folders,
        ledger: Ledger,
        intake: Intake,
        pipeline: Pipeline,
        voice: Voice,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._config = config
        self._folders = folders
        self._ledger = ledger
        self._intake = intake
        self._pipeline = pipeline
        self._voice = voice
        self._now = now
        self._monotonic = monotonic
        self._inboxes: dict[Path, str] = {}
        self._bases: set[Path] = set()
        self._lanes = Lanes()
        self._pool = ThreadPoolExecutor(config.concurrency, thread_name_prefix="lane")
        self._running: set[Future[float | None]] = set()
        # Everything that should wake the loop comes through here: events, ends of drops, signals. SimpleQueue because
        # its put() may be called from a signal handler.
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._paused_until = 0.0  # monotonic; the machine is at fault
        self._fault = ""
        self._cut_off = False  # a fault may have left files or rows behind that nobody looks at
        self._failed = 0
        self._stop = False
        self._stopped = threading.Event()  # the same for those who sleep; plain for those who only ask

    # ----------------------------------------------------------------------------------------------- for outside

    def call(self, what: Callable[[], None]) -> None:
        """Have `what` done by the loop, soon. From any thread, and from signal handlers."""
        self._calls.put(what)

    def hear(self, inbox: Path, name: bytes, closed: bool = False) -> None:  # noqa: FBT001, FBT002 - as `watch` calls it
        """Something happened to `name` in the directory `inbox`; `closed`: its writer closed it. From any thread."""
        folder = self._inboxes.get(inbox)
        if folder is not None:
            self.call(lambda: self._intake.hear(folder, name, closed=closed))

    def lose(self, inbox: Path | None) -> None:
        """Events of the directory `inbox`, or of any, may have been lost. From any thread."""
        folder = None if inbox is None else self._inboxes.get(inbox)
        self.call(lambda: self._intake.scan_soon(folder))

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to be started."""
        return self._stop

    def stop(self) -> None:
        """Start nothing new; `run` returns when what is under way has ended."""
        self._stop = True
        self._stopped.set()
        self.call(lambda: None)

    def wait(self, seconds: float) -> None:
        """Sleep that long, or until the stop. For the pool's threads."""
        self._stopped.wait(seconds)

    def note(self, drop: Drop, event: Event) -> None:
        """The sink that remembers whether files failed in this run."""
        if drop.state is State.FAILED:
            self._failed += 1

    def left_over(self) -> tuple[bool, bool]:
        """Whether files failed in this run or are held, and whether drops wait for another try."""
        held = bool(self._ledger.find_drops(states=[State.HELD, State.UNKNOWN], limit=1))
        return held or self._failed > 0, len(self._lanes) > 0 or self._fault != ""

    def is_ending(self, id: str) -> bool:
        """Whether nothing more will be done to the drop by whoever works on it; only its lane does not know yet."""
        drop = self._ledger.find_drop(id)
        return drop is not None and drop.state in _AT_REST and self._lanes.is_busy(drop.lane, id)

    def order(self, id: str, carry_out: Callable[[Drop], tuple[Drop, Event]]) -> Drop:
        """Have an operator's order carried out on a drop that nobody works on, and let its lane look again.

        Raises OperatorError where the drop is being worked on. Belongs to the loop's thread: see `call`.
        """
        drop = self._ledger.find_drop(id)
        if drop is None:
            raise OperatorError(f"there is no drop {id}", "'dropzone queue' lists what is there")
        if self._lanes.is_busy(drop.lane, id):
            raise OperatorError(f"{id} is being checked or sent right now", "Try again in a moment")
        drop, event = carry_out(drop)
        self._pipeline.announce(drop, event)
        if not self._lanes.has(id):
            self._lanes.add_back(drop.lane, drop.account, id)
        self._lanes.wake()
        return drop

    def configure(self, config: Config) -> None:
        """Go on with another configuration; drops that were claimed keep what they were claimed under."""
        self._use(config)
        try:
            self._take_up_new()
        except (FolderError, LedgerError) as error:
            self._pause(error)

    def _use(self, config: Config) -> None:
        self._config = config
        self._inboxes = {folder.path: folder.name for folder in config.folders.values()}
        for folder in config.folders.values():
            if fault := self._folders.find_fault(folder):
                self._voice.warn("a folder cannot be used", folder=folder.name, why=str(fault))
        self._intake.configure(config)
        self._intake.scan_soon()
        self._lanes.wake()

    def _take_up_new(self) -> None:
        for base in sorted({folder.base for folder in self._config.folders.values()} - self._bases):
            self._take_up(base)

    def _take_up(self, base: Path) -> None:
        """Adopt what lies in work/ without a row, and mark work/ as this ledger's."""
        mark = self._folders.read_mark(base)
        trusted = mark == self._ledger.id
        if mark and not trusted:
            self._voice.warn("the ledger is not the one that knew this work folder", path=str(base / "work"))
        self._enqueue(self._intake.adopt(base, trusted=trusted))
        # Only now: if we died before, the next start must still see that the ledger is another one.
        self._folders.write_mark(base, self._ledger.id)
        self._bases.add(base)

    # --------------------------------------------------------------------------------------------------- the loop

    def start(self) -> None:
        """Take up what an earlier run left open, and what lies in work/ without a row."""
        self._fill_lanes()
        self._use(self._config)
        self._take_up_new()

    def _fill_lanes(self) -> None:
        for lane, id in self._ledger.open_lanes():
            self._lanes.add(lane, lane.rpartition("/")[0], id)

    def _recover(self) -> None:
        """Take up what a fault of the machine cut off: files in work/ without rows, rows that no lane knows."""
        self._take_up_new()
        for base in sorted(self._bases):
            try:
                self._intake.adopt(base, trusted=True)
            except FolderError as fault:  # one mount that is gone must not keep the other folders waiting
                if fault.environment:
                    raise
                self._voice.warn("a work folder cannot be used", path=str(base / "work"), why=str(fault))
        self._fill_lanes()
        self._cut_off = False

    def tick(self) -> float:
        """Do all that can be done now; returns the seconds until there may be more."""
        self._answer_calls(0)
        if self._monotonic() < self._paused_until:
            return self._paused_until - self._monotonic()
        try:
            if not self._stop:
                if self._cut_off:
                    self._recover()
                self._enqueue(self._intake.tick())
                self._fill_pool()
            if self._fault and not self._running:
                self._voice.say("the machine's fault is over; intake and sending go on", fault=self._fault)
                self._fault = ""
        except (FolderError, LedgerError) as error:
            self._pause(error)
        if self._stop:
            return LONGEST_SLEEP_S
        wait_s = min(self._intake.next_look() - self._monotonic(), self._lanes.next_due() - self._now())
        return max(0.0, min(wait_s, LONGEST_SLEEP_S))

    def run(self, *, once: bool = False) -> None:
        """Turn until stopped; with `once`, until everything that is there now has been dealt with or must wait."""
        while True:
            wait_s = self.tick()
            if not self._running and (self._stop or (once and wait_s > 0 and self._idle())):
                break
            self._answer_calls(wait_s)
        self._pool.shutdown()

    def _idle(self) -> bool:
        """Whether nothing is left but what must wait for a time or a person."""
        return self._fault != "" or (not self._intake.settling() and self._lanes.next_due() > self._now())

    def _answer_calls(self, wait_s: float) -> None:
        """Wait for a call at most `wait_s` seconds, then answer all that came."""
        try:
            call = self._calls.get(timeout=wait_s) if wait_s > 0 else self._calls.get_nowait()
            while True:
                call()
                call = self._calls.get_nowait()
        except queue.Empty:
            return

    def _enqueue(self, drops: list[Drop]) -> None:
        for drop in drops:
            self._lanes.add(drop.lane, drop.account, drop.id)

    def _fill_pool(self) -> None:
        while len(self._running) < self._config.concurrency:
            taken = self._lanes.take(self._now())
            if taken is None:
                return
            lane, account, id = taken
            if (wait_until := self._account_wait(account, id)) is not None:
                self._lanes.give_back(lane, wait_until)
                continue
            future = self._pool.submit(self._pipeline.run, id)
            self._running.add(future)
            ended = partial(self._ended, lane, account, id, future)
            future.add_done_callback(lambda _, ended=ended: self.call(ended))  # type: ignore[misc]

    def _account_wait(self, account: str, id: str) -> float | None:
        """Until when the account keeps the drop from being sent, or None; filing waits for no account."""
        now, wait_until = self._now(), self._ledger.account_facts(account).wait_until
        # Nobody is asked to wait longer than this, so a clock that went back made it look so.
        if not now < wait_until <= now + LONGEST_WAIT_S:
            return None
        drop = self._ledger.find_drop(id)
        return wait_until if drop and drop.state is State.QUEUED else None

    def _ended(self, lane: str, account: str, id: str, future: Future[float | None]) -> None:
        self._running.discard(future)
        try:
            due_at = future.result()
        except (FolderError, LedgerError) as error:
            self._pause(error)
            due_at = self._now()  # with the end of the pause
        if due_at is None or not self._is_decided(id):
            self._lanes.give_back(lane, due_at)
        else:
            # What the server said stands; later files need not wait until this one can be filed.
            self._lanes.give_back(lane, None)
            self._lanes.add(f"filing {id}", account, id, due_at=due_at)

    def _is_decided(self, id: str) -> bool:
        try:
            drop = self._ledger.find_drop(id)
        except LedgerError:
            return False
        return drop is not None and drop.state in (State.ACCEPTED, State.REFUSED)

    def _pause(self, error: DropzoneError) -> None:
        """The machine is at fault, no file: judge nothing, alert once, try again each minute."""
        self._paused_until = self._monotonic() + ENVIRONMENT_S
        self._cut_off = True
        if not self._fault:
            self._voice.warn("intake and sending pause: the machine is at fault", fault=str(error))
        self._fault = str(error)


def obey_signals(daemon: Daemon, reload: Callable[[], None], voice: Voice) -> None:
    """SIGTERM and SIGINT drain, a second SIGINT ends at once (exit code 130), SIGHUP reloads."""
    interrupts = 0

    def interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            # What is under way becomes unknown at the next start; that is what "at once" means.
            os._exit(130)
        daemon.call(lambda: voice.say("stopping after what is under way; once more to stop at once"))
        daemon.stop()

    def terminate(*_: object) -> None:
        notify(STOPPING="1", STATUS="Stopping after what is under way")
        daemon.stop()

    def hang_up(*_: object) -> None:
        daemon.call(reload)

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, hang_up)


def reloading() -> None:
    """Tell systemd that a reload begins (Type=notify-reload needs the time of it)."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
