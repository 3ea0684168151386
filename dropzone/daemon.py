"""The loop: take files over, give each lane its turn, pass drops to the pool, stop cleanly.

The ledger is the truth about what is open; what is kept here in memory (whose turn it is: `lanes`; which accounts are
open: `gates`) is rebuilt from it at every start.

`tick()` is a plain function, so that tests can turn the wheel by hand. Knows no file, no HTTP and no table.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from dropzone.account import AccountFacts, Condition, hastened
from dropzone.alarms import Alarms, Voice
from dropzone.bases import Bases
from dropzone.config import Config
from dropzone.drop import DECIDED, Accepted, Deferred, Drop, Event, Lost, Refused, State, Superseded
from dropzone.errors import DropzoneError, FolderError, LedgerError, NoThreadError, OperatorError
from dropzone.folders import Folders
from dropzone.gates import Gates
from dropzone.intake import Intake
from dropzone.keeping import Keeper
from dropzone.lanes import Lanes, Turn
from dropzone.ledger import Ledger, Pause
from dropzone.pipeline import Delivered, Pipeline
from dropzone.policy import HARMFUL, harm_of, settings_of
from dropzone.threads import Pool

ENVIRONMENT_S = 60.0  # how soon to try again when the machine is at fault
LONGEST_SLEEP_S = 60.0  # a lost wake-up costs at most this
KEYS_S = 5.0  # how often the key files of accounts that wait for one are looked at
ROUND_S = 60.0  # how often it looks for what waits too long, takes long, or ends soon
FILED = 50  # drops that are filed together; more would make the first of them wait, and take too many descriptors
PATIENCE = 10  # tries by which what does less harm goes before what does more, while an account is closed
POOL = 96  # threads at most, of all accounts together; they are made when first needed
_AT_REST = (State.HELD, State.DONE, State.FAILED)


class _Due(TypedDict):
    """When a lane's head is to be looked at, as `Lanes` takes it."""

    due: float
    free: bool


_BEHIND: _Due = {"due": 0.0, "free": False}  # when a drop behind the head is looked at, is said when it is the head


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a run that ended left behind."""

    failed: bool  # files failed in this run, or are held
    waiting: bool  # drops wait for another try, or to be filed
    paused: bool  # … and their account or folder for a person


class Daemon:
    """Joins intake, lanes and pool. One per state folder; `tick` and `run` belong to one thread.

    `now` is the wall clock (due times), `monotonic` the one for waits. `keep` deletes what is kept no longer, see
    `Keeper`.
    """

    def __init__(
        self,
        config: Config,
        *,
        folders: Folders,
        ledger: Ledger,
        bases: Bases,
        intake: Intake,
        pipeline: Pipeline,
        gates: Gates,
        alarms: Alarms,
        voice: Voice,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        keep: Callable[[Config], None] = lambda config: None,
    ) -> None:
        self._config = config
        self._folders = folders
        self._ledger = ledger
        self._intake = intake
        self._pipeline = pipeline
        self._gates = gates
        self._alarms = alarms
        self._voice = voice
        self._now = now
        self._monotonic = monotonic
        self._inboxes: dict[Path, str] = {}
        self._bases = bases
        self._lanes = Lanes()
        self._filing = Lanes()  # what has its verdict: each in a lane of its own, for nobody need wait for it
        self._pool = Pool(POOL, "lane")
        self._filer = Pool(1, "filing")
        self._filer.submit(int)  # its thread is made now: later the machine may have none for it
        self._room = POOL  # how many drops may be under way, where the machine has not threads for all
        self._running: set[Future[Any]] = set()
        self._is_filing = False
        # Everything that should wake the loop comes through here: events, ends of drops, signals. SimpleQueue because
        # its put() may be called from a signal handler.
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._paused_until = 0.0  # monotonic; the machine is at fault
        self._fault = ""
        self._cut_off = False  # a fault may have left files or rows behind that nobody looks at
        self._failed = 0
        self._paused_folders: dict[str, Pause] = {}
        self._key_stamps: dict[str, object] = {}  # of accounts that may wait for another key
        self._noting = threading.Lock()
        self._keeper = Keeper(keep, warn=voice.warn, now=now, monotonic=monotonic)
        self._keys_at = self._round_at = 0.0  # monotonic; when to look at these again
        self._after: dict[str, list[Callable[[], None]]] = {}  # what is to be done once nobody works on a drop
        self._stop = False
        self._stopped = threading.Event()  # the same for those who sleep; plain for those who only ask

    # ----------------------------------------------------------------------------------------------- for outside

    def call(self, what: Callable[[], None]) -> None:
        """Have `what` done by the loop, soon. From any thread, and from signal handlers."""
        self._calls.put(what)

    def hear(self, inbox: Path, name: bytes, *, closed: bool = False) -> None:
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
        if self._stop:
            return  # a second signal may come while the first is in here, and holds the lock of `_stopped`
        self._stop = True
        self._stopped.set()
        self.call(lambda: None)

    def wait(self, seconds: float) -> None:
        """Sleep that long, or until the stop. For the pool's threads."""
        self._stopped.wait(seconds)

    def note(self, drop: Drop, event: Event) -> None:
        """The sink that learns what an answer says of its account, and whether files failed in this run."""
        if drop.state is State.FAILED:
            self._failed += 1
        if isinstance(event, Superseded):  # held, it was in no lane, and may have to be filed later
            self.call(lambda: self._lanes.add(drop.lane, drop.account, drop.id))
        if isinstance(event, Accepted | Refused | Deferred | Lost) and self._note_account(drop.account).probing:
            self._keys_at = 0.0  # from now on another key file is news

    def _note_account(self, name: str) -> AccountFacts:
        """Go by what the ledger knows of the account. From any thread."""
        with self._noting:  # read and noted as one: facts that were read earlier must not be noted later
            facts = self._ledger.account_facts(name)
            self._gates.note(name, facts)
        return facts

    def left_over(self) -> Left:
        """What this run leaves behind."""
        held = bool(self._ledger.find_drops(states=[State.HELD, State.UNKNOWN], limit=1))
        waiting = self._ledger.find_drops(states=[State.QUEUED, *DECIDED])
        queued = [drop for drop in waiting if drop.state is State.QUEUED]
        paused = not self._ledger.paused_folders().keys().isdisjoint(drop.folder for drop in queued) or any(
            self._ledger.account_facts(name).condition is Condition.PAUSED for name in {drop.account for drop in queued}
        )
        return Left(failed=held or self._failed > 0, waiting=bool(waiting) or self._fault != "", paused=paused)

    def order_later(self, what: str, id: str, again: Callable[[], None]) -> bool:
        """Have `again` called once nobody works on the drop, if that is soon; False where there is nothing to wait for.

        A check is cut short by an order that makes it needless; an upload is not, for its outcome would be unknown.
        """
        drop = self._ledger.find_drop(id)
        if drop is None or not self._is_busy(id):
            return False
        if drop.state not in _AT_REST:
            if drop.state is not State.QUEUED or what not in ("discard", "hold"):
                return False
            self._pipeline.cancel(id)
        self._after.setdefault(id, []).append(again)
        return True

    def order(self, id: str, carry_out: Callable[[Drop], tuple[Drop, Event]]) -> Drop:
        """Have an operator's order carried out on a drop that nobody works on, and let its lane look again.

        Raises OperatorError where the drop is being worked on. Belongs to the loop's thread: see `call`.
        """
        drop = self._ledger.find_drop(id)
        if drop is None:
            raise OperatorError(f"there is no drop {id}", "'dropzone queue' lists what is there")
        if self._is_busy(id):
            raise OperatorError(f"{id} is being checked or sent right now", "Try again in a moment")
        drop, event = carry_out(drop)
        self._pipeline.announce(drop, event)
        if drop.state in DECIDED:  # filed at once, whoever stands before it in its lane
            self._lanes.remove(id)
            self._filing.add(id, "", id)
        elif not self._lanes.has(id):
            self._lanes.add_back(drop.lane, drop.account, id)
        if head := self._lanes.head(drop.lane):
            self._lanes.hurry(drop.lane, **self._due_of(head))
        return drop

    def switch(self, kind: str, name: str, carry_out: Callable[[], None]) -> None:
        """Have an account or a folder paused or resumed, and act on it at once. Belongs to the loop's thread."""
        carry_out()
        self._paused_folders = dict(self._ledger.paused_folders())
        if kind == "account":
            self._note_account(name)
            self._hurry_all(name)
        self._lanes.wake()

    @property
    def config(self) -> Config:
        """The configuration that it goes by now."""
        return self._config

    @property
    def fault(self) -> str:
        """The fault of the machine for which intake and sending pause, or an empty string."""
        return self._fault

    @property
    def away(self) -> tuple[str, ...]:
        """Why which work folders cannot be used, a sentence each. Any thread may ask."""
        return self._bases.away

    def _hasten(self, names: Iterable[str]) -> None:
        """Have these accounts tried at once: something is new that may have mended them."""
        now = self._now()
        for name in names:
            if self._ledger.account_facts(name).probing:
                self._ledger.change_account(name, lambda facts: hastened(facts, at=now), at=now)
                self._note_account(name)

    def configure(self, config: Config) -> None:
        """Go on with another configuration; drops that were claimed keep what they were claimed under."""
        try:
            self._use(config)
            self._take_up()
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
        self._round_at = 0.0
        for name in config.accounts:
            self._note_account(name)
        self._hasten(config.accounts)  # last: where the disk is full, the account waits for its next try

    def _take_up(self) -> None:
        """Take up the work folders of the configuration that were not yet."""
        for drops, doubted in self._bases.take_up(self._config):
            self._enqueue(drops)
            if doubted:
                self._fill_in()

    def _fill_in(self) -> None:
        """Put what was held before, and keeps its lane waiting only now, to where it stands in its lane."""
        for lane, account, id in self._unplaced():
            self._lanes.add_back(lane, account, id)

    # --------------------------------------------------------------------------------------------------- the loop

    def start(self) -> None:
        """Take up what an earlier run left open, and what lies in work/ without a row."""
        self._paused_folders = dict(self._ledger.paused_folders())
        self._keep_order()  # before the lanes are filled, and long before a file is taken over
        self._fill_lanes()
        self._use(self._config)
        self._take_up()

    def _keep_order(self) -> None:
        """Have what waits go on in the lane of its segment's next files, or these would overtake it."""
        lanes = self._config.lanes
        for account, segment_id, lane in self._ledger.open_segments():
            if (wanted := lanes.get((account, segment_id), lane)) != lane:
                self._ledger.change_lane(account, segment_id, wanted)

    def _fill_lanes(self) -> None:
        for lane, account, id in self._unplaced():
            is_head = self._lanes.head(lane) is None
            self._lanes.add(lane, account, id, **(self._due_of(id) if is_head else _BEHIND))

    def _unplaced(self) -> Iterator[tuple[str, str, str]]:
        """Lane, account and ID of each open drop that is in no lane, in the order of the claims."""
        for lane, id in self._ledger.open_lanes():
            if not self._lanes.has(id) and not self._filing.has(id):
                yield lane, lane.partition("/")[0], id

    def _due_of(self, id: str) -> _Due:
        """When the drop is to be looked at, on the monotonic clock, and whether that needs an account."""
        drop = self._ledger.find_drop(id)
        if drop is None or drop.state is not State.QUEUED:
            return {"due": 0.0, "free": True}
        wait_s = drop.wait_s(self._now())
        return {"due": self._monotonic() + wait_s if wait_s else 0.0, "free": False}

    def _recover(self) -> None:
        """Take up what a fault of the machine cut off: files in work/ without rows, rows that no lane knows."""
        self._take_up()
        self._bases.adopt(self._config)
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
                self._look_round()
                self._fill_pool()
            self._file()
            if self._fault and not self._running:
                self._voice.say("the machine's fault is over; intake and sending go on", fault=self._fault)
                self._fault = ""
        except (FolderError, LedgerError, NoThreadError) as error:
            self._pause(error)
        if self._stop:
            return LONGEST_SLEEP_S
        wait_s = min(self._intake.next_look(), self._next_turn(), self._keys_at, self._round_at) - self._monotonic()
        return max(0.0, min(wait_s, LONGEST_SLEEP_S))

    def _next_turn(self) -> float:
        """When a drop may be taken next, on the monotonic clock; with a full pool only the end of one makes room."""
        # What comes due while a filing is under way waits for its end, which wakes the loop; it would keep it busy.
        due = math.inf if self._is_filing else self._filing.next_due()
        return min(due, self._lanes.next_due(), self._gates.next_due()) if len(self._running) < self._room else due

    def run(self, *, once: bool = False) -> None:
        """Turn until stopped; with `once`, until everything that is there now has been dealt with or must wait."""
        while True:
            wait_s = self.tick()
            if not self._running and (self._stop or (once and wait_s > 0 and self._idle())):
                break
            self._answer_calls(wait_s)
        self._pool.shutdown()
        self._filer.shutdown()
        with contextlib.suppress(FolderError, LedgerError):  # the mark of the last round does as well
            self._bases.mark()
        self._keeper.join()  # it looks for the stop between two drops

    def _idle(self) -> bool:
        """Whether nothing is left but what must wait for a time or a person."""
        return self._fault != "" or (not self._intake.settling() and self._next_turn() > self._monotonic())

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
        while len(self._running) < self._room:
            turn = self._lanes.take(self._monotonic(), closed=self._gates.closed())
            if turn is None:
                break
            try:
                paused = bool(self._paused_folders) and self._is_paused(turn.id)
            except LedgerError:  # the lane is not to stay busy with a drop that nobody works on
                self._lanes.give_back(turn.lane, self._monotonic())
                raise
            if paused:
                self._lanes.give_back(turn.lane, math.inf)
            else:
                self._submit(turn, probe=False)
        for account in self._gates.to_try():
            self._try(account)

    def _is_paused(self, id: str) -> bool:
        drop = self._ledger.find_drop(id)
        return drop is not None and drop.state is State.QUEUED and drop.folder in self._paused_folders

    def _try(self, account: str) -> None:
        """Let one drop try whether the account is open again: what would do least harm, and in turn."""
        suspected = self._ledger.account_facts(account).suspected
        heads = []
        for due, head in self._lanes.heads(account, self._monotonic()):
            drop = self._ledger.find_drop(head.id)
            if drop and drop.state is State.QUEUED and drop.folder not in self._paused_folders:
                harm = _harm_of(drop)
                # In turn, or one file that fares badly by itself would be tried for ever. While answers get lost, what
                # does more harm when it is taken twice or half has its turn that much later; a no does no harm.
                rank = drop.deferrals + (0 if suspected else PATIENCE * harm)
                heads.append((not due and not drop.deferrals, rank, harm, head.id, head))
        if heads:
            *_, turn = min(heads)
            self._lanes.take_head(turn.lane)
            self._submit(turn, probe=True)
        else:
            self._gates.look_again(account)

    def _submit(self, turn: Turn, *, probe: bool) -> None:
        try:
            future = self._pool.submit(self._pipeline.deliver, turn.id, probe=probe)
        except NoThreadError:
            self._lanes.give_back(turn.lane, self._monotonic())
            if not self._running:
                raise
            self._room = len(self._running)  # the end of one of these makes room
            return
        self._gates.begin(turn.account)
        self._running.add(future)
        ended = partial(self._ended, turn, future, probe=probe)
        future.add_done_callback(lambda _: self.call(ended))

    def _ended(self, turn: Turn, future: Future[Delivered], *, probe: bool) -> None:
        self._running.discard(future)
        self._gates.end(turn.account)
        if probe and turn.account in self._gates.to_try():  # it never came to an attempt
            self._gates.look_again(turn.account)
        elif probe and self._gates.is_open(turn.account):  # what the others waited for is over
            self._hurry_all(turn.account)
        try:
            state, due_at = future.result()
        except (FolderError, LedgerError) as error:
            self._pause(error)
            state, due_at = self._find_state(turn.id), self._now()  # with the end of the pause
        if state in DECIDED:
            # What the server said stands; later files need not wait until this one is filed.
            self._lanes.give_back(turn.lane, None)
            self._filing.add(turn.id, "", turn.id)
        else:
            self._lanes.give_back(turn.lane, self._to_wait(due_at), free=state in (State.SENDING, State.UNKNOWN))
            self._carry_out_orders(turn.id)

    def _hurry_all(self, account: str) -> None:
        """Have the head of each lane of the account looked at now."""
        for _, head in self._lanes.heads(account, self._monotonic()):
            self._lanes.hurry(head.lane)

    def _to_wait(self, due_at: float | None) -> float | None:
        """The time of the wall clock on the monotonic one, which no clock change can stretch; None stays None."""
        return None if due_at is None else self._monotonic() + max(0.0, due_at - self._now())

    def _is_busy(self, id: str) -> bool:
        return self._lanes.is_busy(id) or self._filing.is_busy(id)

    def _carry_out_orders(self, id: str) -> None:
        for order in self._after.pop(id, ()):
            order()

    # ---------------------------------------------------------------------------------------------------- filing

    def _file(self) -> None:
        """Have what has its verdict filed, also on the way out: a file should lie where its partner looks for it.

        One filing at a time, in which all that came meanwhile goes together.
        """
        now = self._monotonic()
        ids: list[str] = []
        while not self._is_filing and len(ids) < FILED and (turn := self._filing.take(now)) is not None:
            ids.append(turn.id)
        if ids:
            self._is_filing = True
            future = self._filer.submit(self._pipeline.file, ids)
            self._running.add(future)
            future.add_done_callback(lambda _: self.call(partial(self._filed, ids, future)))

    def _filed(self, ids: list[str], future: Future[dict[str, float | None]]) -> None:
        self._running.discard(future)
        self._is_filing = False
        try:
            due_at = future.result()
        except (FolderError, LedgerError) as error:
            self._pause(error)
            now = self._now()  # with the end of the pause, those that were not filed before the fault
            due_at = {id: now if self._find_state(id) in DECIDED else None for id in ids}
        for id in ids:
            self._filing.give_back(id, self._to_wait(due_at[id]))
            self._carry_out_orders(id)

    def _find_state(self, id: str) -> State | None:
        try:
            drop = self._ledger.find_drop(id)
        except LedgerError:
            return None
        return drop.state if drop else None

    # ------------------------------------------------------------------------------------------------- the round

    def _look_round(self) -> None:
        """Look now and then at what no event tells of."""
        now = self._monotonic()
        if self._keys_at <= now:
            self._look_at_keys()
            self._keys_at = now + KEYS_S if self._key_stamps else math.inf
        if self._round_at <= now:
            self._round_at = now + ROUND_S
            self._room = POOL
            self._take_up()
            self._bases.mark()
            self._alarms.look(self._config)
            self._keeper.look(self._config)

    def keep(self) -> None:
        """Delete what is kept no longer, aside; the next time by itself in a day."""
        self._keeper.keep(self._config)

    def _look_at_keys(self) -> None:
        """Have accounts tried at once whose key file is another one since they wait for it."""
        waiting = [name for name in self._gates.probing() if name in self._config.accounts]
        stamps: dict[str, object] = {name: self._config.accounts[name].api_key.stamp() for name in waiting}
        changed = [name for name, stamp in stamps.items() if self._key_stamps.get(name, stamp) != stamp]
        self._key_stamps = stamps
        self._hasten(changed)

    def _pause(self, error: DropzoneError) -> None:
        """The machine is at fault, no file: judge nothing, alert once, try again each minute."""
        self._paused_until = self._monotonic() + ENVIRONMENT_S
        self._cut_off = True
        if not self._fault:
            self._voice.warn("intake and sending pause: the machine is at fault", fault=str(error))
        self._fault = str(error)


def _harm_of(drop: Drop) -> int:
    try:
        return harm_of(settings_of(drop))
    except DropzoneError:  # they are of another version: it is held for that in its turn
        return HARMFUL
