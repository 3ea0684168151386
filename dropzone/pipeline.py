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

import json
import math
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile, takewhile
from typing import BinaryIO, Protocol, TypeVar, assert_never, cast

from dropzone import policy, receipt, sheet
from dropzone.config import Folder
from dropzone.drop import (
    DECIDED,
    Accepted,
    Attempted,
    CheckFailed,
    Deferred,
    Drop,
    Entry,
    Event,
    Filed,
    Lost,
    Postponed,
    Refused,
    Report,
    Skipped,
    State,
    Superseded,
    Withheld,
    delay,
)
from dropzone.errors import Cancelled, DropzoneError, FolderError, IllegalEvent, LedgerError, printable
from dropzone.folders import Bench, Folders
from dropzone.folders.filing import ToFile
from dropzone.gates import Gates
from dropzone.ledger import Ledger
from dropzone.progress import Board
from dropzone.readiness import Look

DISTURBED_S = 5.0  # a client still writes: look again after
AWAY_S = 60.0  # work/ is not there, as a mount may be: look again after
ACCOUNT_S = 60.0  # the key cannot be read, say: a person has to mend it; try again after
REFILE_S = 30.0  # a verdict that could not be filed: try again after, and each time twice as late …
LONGEST_REFILE_S = 300.0  # … but for this: somebody has mended it, and waits to see that
FAULTS = 5  # unexpected errors in a row until a person has to look
# Bytes. Below that a file is read in a millisecond or two, and threads that compute at the same time only fight over
# the interpreter lock: one after the other they take half of the switches and are through earlier (measured).
SMALL = 1 << 20
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
Delivered = tuple[State | None, float | None]  # the drop's state (None: there is no such drop), when to look again
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """A file that may be sent: what its check found, the digest of its prepared copy, and what it looked like."""

    report: Report
    digest: str
    look: Look


class Pipeline:
    """Takes one drop as far as it will go. Several drops may run at once, each in one thread.

    `gates` say whether an account takes drops now; `board` is told how far a check or an upload has come. `stopping`
    tells whether to start nothing new; `wait` sleeps that many seconds or until the stop; `sinks` hear of every
    committed event and can change nothing; `fault` hears of unexpected errors, for the traceback. At most `checks`
    files are read at the same time, and one small one beside them.
    """

    def __init__(
        self,
        *,
        folders: Folders,
        ledger: Ledger,
        segments: Callable[[str], Segments],
        gates: Gates,
        board: Board,
        now: Callable[[], float],
        wait: Callable[[float], None],
        stopping: Callable[[], bool],
        sinks: Sequence[Sink] = (),
        fault: Callable[[Drop, Exception], None] = lambda drop, error: None,
        checks: int = 4,
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._segments = segments
        self._now = now
        self._wait = wait
        self._stopping = stopping
        self._sinks = sinks
        self._fault = fault
        self._gates = gates
        self._board = board
        self._large = threading.BoundedSemaphore(checks)
        self._small = threading.Lock()
        self._announcing = threading.Lock()
        self._cancelled: set[str] = set()
        # Full loads that a guard kept back before their turn, until that comes; with what else that depended on.
        self._withheld: dict[str, tuple[bool, str | None]] = {}
        self._unfiled: dict[str, int] = {}  # drops that could not be filed, and how often that was tried
        self.sink_failures = 0

    def run(self, id: str, *, probe: bool = False) -> float | None:
        """Take the drop as far as it goes now; returns when to look again (wall clock), None for never.

        Infinite means: when a person has given an order. A `probe` is offered although its account is closed, to see
        whether it still is. Raises FolderError or LedgerError only where the machine is at fault (disk full, I/O error
        …): then no drop can go on, and none is judged.
        """
        state, due_at = self.deliver(id, probe=probe)
        # A verdict is filed even on the way out: the file should lie where its partner looks for it.
        return self.file([id])[id] if state in DECIDED else due_at

    def deliver(self, id: str, *, probe: bool = False) -> Delivered:
        """The same, but no further than to a verdict, for those who `file` several together; its state as well."""
        drop = self._ledger.find_drop(id)
        if drop is None:
            return None, None
        try:
            drop, due_at = self._deliver(drop, probe=probe)
            return drop.state, due_at
        finally:
            self._cancelled.discard(id)
            self._withheld.pop(id, None)

    def _deliver(self, drop: Drop, *, probe: bool) -> tuple[Drop, float | None]:
        while drop.state not in DECIDED and not self._stopping():
            if drop.state in (State.HELD, State.DONE, State.FAILED):
                return drop, math.inf if drop.blocks else None
            try:
                found = self._guard(partial(self._advance, drop, probe=probe))
            except Cancelled:
                return drop, self._due_at(drop)
            if isinstance(found, Exception):
                self._fault(drop, found)
                found = self._stumble(drop.id, found)
            drop = found
            if drop.state is State.QUEUED:  # whatever came of it: others of its account or lane may go first now
                return drop, self._due_at(drop)
        return drop, self._now()

    @staticmethod
    def _guard(do: Callable[[], _Found]) -> _Found | Exception:
        """What `do` gives, or the error that it ends with; only what keeps every drop from going on is raised."""
        try:
            return do()
        except (Cancelled, LedgerError):
            raise
        except Exception as error:  # the only place that catches everything: one drop must not end the daemon
            if isinstance(error, FolderError) and error.environment:
                raise
            return error

    def _due_at(self, drop: Drop) -> float:
        """When it is due, by a clock that may have been put back since that was set."""
        now = self._now()
        return now + drop.wait_s(now)

    def cancel(self, id: str) -> None:
        """Cut the drop's check short, if it is being checked: what it finds is not needed any more. From any thread."""
        self._cancelled.add(id)

    def _advance(self, drop: Drop, *, probe: bool) -> Drop:
        match drop.state:
            case State.QUEUED:
                return self._offer(drop, probe=probe)
            case State.SENDING:
                cause = (
                    f"dropzone was stopped before the answer was known. Look in OptiPub for {drop.folder}.{drop.id}.csv"
                )
                return self._commit(drop, Lost(cause=cause, sent=None))
            case State.UNKNOWN:
                return self._commit(drop, self._judge_unknown(drop))
            case State.ACCEPTED | State.REFUSED | State.HELD | State.DONE | State.FAILED:
                return drop
            case _:
                assert_never(drop.state)

    # ------------------------------------------------------------------------------------- check, prepare, deliver

    def _offer(self, drop: Drop, *, probe: bool) -> Drop:
        folder = policy.settings_of(drop)
        if newer := self._find_newer(drop, folder):
            return self._give_way(drop, newer)
        found = self._examine(drop, folder)
        if not isinstance(found, _Fit):
            return self._commit(drop, found)
        if known := self._find_known(drop, folder, found):
            return self._commit(drop, known)
        if folder.supersede:
            self._supersede_held(drop)
        return self._send(drop, folder, found, probe=probe)

    def _examine(self, drop: Drop, folder: Folder) -> _Fit | Postponed | CheckFailed | Withheld:
        """Check the file and write its prepared copy; what keeps it from being sent, if anything does.

        May run any number of times, and commits nothing.
        """
        if drop.cleared:
            folder = _without_limit(folder)
        try:
            gone = self._folders.is_gone(drop)
        except FolderError as error:
            if error.environment:
                raise
            return Postponed(due_at=self._now() + AWAY_S, why=str(error))
        if gone:
            why = "its file is gone from work/ and failed/, and nobody but dropzone should take files from there"
            return policy.held(folder, "missing", why)
        self._folders.bring_back(drop)
        if withheld := policy.guard_unread(drop, folder):
            return withheld
        if self._folders.begin_check(drop) >= _UNFINISHED_CHECKS:
            self._folders.end_check(drop)
            why = "reading this file ended the program twice; look at it before it is read again"
            return policy.held(folder, "poison", why)
        # If we die here: the note stays, and the next start counts it.
        try:
            with self._folders.bench(drop) as bench, self._small if drop.size < SMALL else self._large:
                disturbed = bench.disturbed()  # asked first: an upload of hours must not be read whole each time
                report = Report() if disturbed else self._check(drop, folder, bench)
                misfit = "" if disturbed or drop.cleared else bench.misfit(folder.marker)
                disturbed = disturbed or bench.disturbed()
        finally:
            self._folders.end_check(drop)
        if disturbed:
            return Postponed(due_at=self._now() + DISTURBED_S, why=disturbed)
        if misfit:
            return policy.held(folder, "checksum", misfit, report=report)
        if report.guard:  # only seen in reading: it was packed, or it grew
            return policy.held(folder, report.guard, report.refused, report=report)
        if withheld := policy.guard(drop, folder, report, self._past(drop, folder)):
            return withheld
        if report.refused:
            return CheckFailed(report=report)
        return _Fit(report=report, digest=bench.prepared.digest, look=bench.before)

    def _check(self, drop: Drop, folder: Folder, bench: Bench) -> Report:
        tell = self._board.begin(drop.id, "check", drop.size)

        def progress(done: int) -> None:
            tell(done)
            if self._stopping() or drop.id in self._cancelled:
                raise Cancelled

        try:
            return sheet.check(
                bench.source,
                cast(BinaryIO, bench.prepared),
                bench.rejects,
                folder,
                compressed=drop.name.lower().endswith(b".gz"),
                progress=progress,
                scratch=bench.scratch,
                cores=sheet.cores(),
            )
        finally:
            self._board.end(drop.id)

    # ---------------------------------------------------------------------------------- what the past says of it

    def _past(self, drop: Drop, folder: Folder) -> policy.Past:
        compared = folder.clear or folder.guards.max_growth is not None
        facts = self._ledger.segment_facts(drop.account, drop.segment_id, drop.folder) if compared else None
        limit, hour = folder.guards.max_files_per_hour, 0
        if limit is not None:
            since = drop.claimed_at - policy.HOUR_S
            hour = self._ledger.claimed_before(drop, since=since, limit=limit)
        return policy.Past(last_rows=facts.rows if facts else 0, hour=hour)

    def _find_known(self, drop: Drop, folder: Folder, fit: _Fit) -> Skipped | Withheld | None:
        """What is to be done with it because OptiPub took the same before."""
        if folder.duplicates == "send":
            return None
        accepted = self._ledger.find_accepted(drop.account, drop.segment_id, fit.digest)
        if not accepted:
            return None
        last = self._ledger.last_accepted(drop.account, drop.segment_id)
        pairs = [(each, policy.settings_of(each)) for each in accepted if each.id != drop.id]

        def joined_since(first: Drop) -> bool:
            return policy.have_joined(self._taken_since(first))

        return policy.duplicate(drop, folder, pairs, last, joined_since, now=self._now())

    def _find_newer(self, drop: Drop, folder: Folder) -> str | None:
        """The ID of a later file of the folder that takes this one's place: the latest that has passed its check.

        A full load is never given up for one that turns out to be no list. Nobody else works on the later ones: they
        are in the same lane, and their turn comes after this one. But a person may have given it up meanwhile.
        """
        if not folder.supersede or self._was_offered(drop):
            return None
        for newer in reversed(self._behind(drop)):
            if self._fits(newer) and self._waits(newer):
                return newer.id
        return None

    def _fits(self, newer: Drop) -> bool:
        """Whether a drop passes its check before its turn. What does not is not read again by each that is older."""
        # A guard compares with what was accepted last, and a person may release what it held: then it is read anew.
        facts = (newer.cleared, self._ledger.last_accepted(newer.account, newer.segment_id))
        if self._withheld.get(newer.id) == facts:
            return False
        # What is wrong with it is no fault of the older one: it meets that again in its own turn.
        found = self._guard(lambda: self._examine(newer, policy.settings_of(newer)))
        if isinstance(found, CheckFailed):
            with suppress(IllegalEvent):  # somebody has given an order for it just now: that counts
                self._commit(newer, found)
        elif isinstance(found, Withheld | Exception):
            self._withheld[newer.id] = facts
        return isinstance(found, _Fit)

    def _give_way(self, drop: Drop, newer: str) -> Drop:
        """Supersede the drop and those between the two: each of them would have the newer one checked once more."""
        for between in takewhile(lambda each: each.id != newer, self._behind(drop)):
            if policy.settings_of(between).supersede and not self._was_offered(between) and self._waits(between):
                with suppress(IllegalEvent):  # somebody has given an order for it just now: that counts
                    self._commit(between, Superseded(newer=newer))
        return self._commit(drop, Superseded(newer=newer))

    def _behind(self, drop: Drop) -> list[Drop]:
        """The drops of the same folder and lane that wait behind this one, in the order of the claims."""
        waiting = self._ledger.find_drops(states=[State.QUEUED], folder=drop.folder)
        behind = dropwhile(lambda each: each.id != drop.id, waiting)
        return [each for each in behind if each.lane == drop.lane and each.id != drop.id]

    def _was_offered(self, drop: Drop) -> bool:
        """Whether OptiPub has had its say about it, or may have it: then nobody may say that it was not sent."""
        return drop.attempts > 0 or policy.may_be_taken(self._ledger.history(drop.id))

    def _waits(self, drop: Drop) -> bool:
        """Whether it is queued still."""
        found = self._ledger.find_drop(drop.id)
        return found is not None and found.state is State.QUEUED

    def _supersede_held(self, drop: Drop) -> None:
        """File older full loads that are held and were never sent: released later, they would undo this one."""
        open_ones = self._ledger.find_drops(states=[State.HELD, State.QUEUED], folder=drop.folder)
        for older in takewhile(lambda each: each.id != drop.id, open_ones):
            if older.state is State.HELD and not older.tries and not self._was_offered(older):
                with suppress(IllegalEvent):  # somebody has given an order for it just now: that counts
                    self._commit(older, Superseded(newer=drop.id))
                    self.file([older.id])

    def _judge_unknown(self, drop: Drop) -> Event:
        history = self._ledger.history(drop.id)
        departed = policy.have_left(self._taken_since(drop))
        return policy.unknown(drop, policy.settings_of(drop), history, departed=departed, now=self._now())

    def _taken_since(self, drop: Drop) -> list[Drop]:
        """The drops of the account that were taken since this one was sent, or may have been, or may be soon."""
        under_way = self._ledger.find_drops(states=[State.SENDING, State.UNKNOWN])
        others = [each for each in under_way if each.account == drop.account and each.id != drop.id]
        return [*others, *self._ledger.taken_since(drop)]

    # ------------------------------------------------------------------------------------------------------- send

    def _send(self, drop: Drop, folder: Folder, fit: _Fit, *, probe: bool) -> Drop:
        history = self._ledger.history(drop.id) if drop.tries else []
        with self._folders.prepared(drop) as (payload, size):
            try:
                # Client, TLS context, key and request are made before the attempt is announced: a crash in here then
                # costs nothing, instead of leaving an outcome that nobody knows.
                upload = self._segments(drop.account).build(drop, folder, payload, size)
            except DropzoneError as error:
                return self._commit(drop, Postponed(due_at=self._now() + ACCOUNT_S, why=str(error)))
            # Asked as late as can be: what the answers to others said while this one was checked, or a person, holds
            # for it too.
            if self._stopping() or not (probe or self._gates.is_open(drop.account)) or self._is_paused(drop):
                return drop
            repeat = policy.is_repeat(history)
            # Opt-outs and repeated sign-ups exclude each other: announced at the same moment, neither would see the
            # other. All other attempts need not wait for one another.
            with self._announcing if repeat or folder.departs else nullcontext():
                if forbidden := self._forbids(drop, folder, history, repeat=repeat):
                    return self._commit(drop, forbidden)
                if self._folders.look_at_original(drop) != fit.look:
                    why = "the file changed after it was read"
                    return self._commit(drop, Postponed(due_at=self._now() + DISTURBED_S, why=why))
                attempted = Attempted(
                    n=drop.tries + 1,
                    digest=fit.digest,
                    size=size,
                    report=fit.report,
                    repeats=policy.last_unknown(history),
                    mtime_ns=fit.look.mtime_ns,
                )
                drop = self._commit(drop, attempted)
            # If we die from here on until the answer is committed, the row says `sending`: unknown at the next start.
            try:
                tell = self._board.begin(drop.id, "upload", size)
                outcome: Accepted | Refused | Deferred | Lost = upload.send(progress=tell)
            except FolderError as error:  # our own copy could not be read to its end, so the request was never whole
                outcome = Deferred(due_at=self._now() + REFILE_S, cause=str(error))
            finally:
                self._board.end(drop.id)
        return self._commit_outcome(drop, outcome)

    def _is_paused(self, drop: Drop) -> bool:
        return drop.folder in self._ledger.paused_folders()

    def _forbids(self, drop: Drop, folder: Folder, history: Sequence[Entry], *, repeat: bool) -> Event | None:
        """What keeps a repeat, or opt-outs, from being announced right now."""
        if repeat:  # people may have left meanwhile, or its window may be over
            departed = policy.have_left(self._taken_since(drop))
            why_not = policy.why_not_again(folder, history, departed=departed, now=self._now())
            return policy.held_unknown(drop, folder, why_not) if why_not else None
        if folder.departs and any(
            each.account == drop.account and each.repeats and policy.settings_of(each).mode == "subscribe"
            for each in self._ledger.find_drops(states=[State.SENDING])
        ):
            why = "sign-ups of the account are being sent again; people who leave must come after them"
            return Postponed(due_at=self._now() + DISTURBED_S, why=why)
        return None

    def _commit_outcome(self, drop: Drop, outcome: Event) -> Drop:
        """Commit what the server said, however long the disk refuses: forgetting it would make the outcome unknown."""
        while True:
            try:
                return self._commit(drop, self._unless_suspected(drop, outcome))
            except LedgerError:
                if self._stopping():
                    raise
                self._wait(1.0)

    def _unless_suspected(self, drop: Drop, outcome: Event) -> Event:
        """A no while the whole account is under suspicion judges no file: it is offered again when that is over."""
        if isinstance(outcome, Refused) and self._ledger.account_facts(drop.account).suspected:
            cause = f"{outcome.blame} The account is paused, because files before it were refused as well"
            return Deferred(due_at=self._now() + REFILE_S, cause=cause, status=outcome.status)
        return outcome

    # ---------------------------------------------------------------------------------------------------- file

    def file(self, ids: Sequence[str]) -> dict[str, float | None]:
        """File those of the drops `ids` that have their verdict, together: they share what the disk has to wait for.

        For each when to look at it again (wall clock), None for never. Raises as `run` does, once those are filed that
        could be.
        """
        found = [drop for id in ids if (drop := self._ledger.find_drop(id)) is not None and drop.state in DECIDED]
        left = self._file_all(found) if found else []
        for drop in found:
            if drop.id not in left:
                self._unfiled.pop(drop.id, None)
                self._withheld.pop(drop.id, None)  # one that never had its turn: given up, or superseded meanwhile
        return {id: self._now() + self._refile_s(id) if id in left else None for id in ids}

    def _refile_s(self, id: str) -> float:
        return min(math.ldexp(REFILE_S, min(self._unfiled[id], 10) - 1), LONGEST_REFILE_S)

    def _leave(self, drop: Drop, fault: Exception) -> None:
        """It cannot be filed now, which is told once: thousands may wait for the same mend."""
        times = self._unfiled[drop.id] = self._unfiled.get(drop.id, 0) + 1
        if times == 1:
            self._fault(drop, fault)

    def _file_all(self, drops: Sequence[Drop]) -> list[str]:
        """File them; the IDs of those that could not be."""
        filed = self._guard(partial(self._move_all, drops))
        if not isinstance(filed, Exception):
            return filed
        if len(drops) > 1:  # one of them is at fault: it is not to keep the others
            return [id for drop in drops for id in self._file_all([drop])]
        self._leave(drops[0], filed)
        return [drops[0].id]

    def _move_all(self, drops: Sequence[Drop]) -> list[str]:
        paths: dict[str, str | FolderError] = {}
        changed: dict[str, str] = {}
        ready: list[ToFile] = []
        for drop in drops:
            if self._folders.is_gone(drop):
                # Somebody took it from work/. What the server said stands all the same, and nobody may wait for this.
                paths[drop.id] = ""
                continue
            self._folders.bring_back(drop)  # tried again, and given up or superseded before its turn came
            # If we die before the row: the same log and the same path come out again, and what is in place stays.
            history = self._ledger.history(drop.id)
            changed[drop.id] = self._changed_since(drop, history)
            log = receipt.render_log(drop, history, changed=changed[drop.id])
            ready.append(ToFile(drop=drop, verdict="done" if drop.state is State.ACCEPTED else "failed", log=log))
        for each, path in zip(ready, self._folders.file_all(ready), strict=True):
            paths[each.drop.id] = path
        events = [
            (id, Filed(path=path, changed=changed.get(id, ""))) for id, path in paths.items() if isinstance(path, str)
        ]
        filed = self._ledger.commit_all(events, at=self._now()) if events else []
        for drop, (_, event) in zip(filed, events, strict=True):
            self.announce(drop, event)
        faults = [(drop, fault) for drop in drops if isinstance(fault := paths[drop.id], FolderError)]
        for drop, fault in faults:
            if fault.environment:
                raise fault
            self._leave(drop, fault)
        return [drop.id for drop, _ in faults]

    def _changed_since(self, drop: Drop, history: Sequence[Entry]) -> str:
        """That the original is not the one any more that was sent, in words; empty where it is.

        A client keeps its descriptor through all our renames, and where no lease tells of it nothing else can.
        """
        sent = next((e.event for e in reversed(history) if isinstance(e.event, Attempted | CheckFailed)), None)
        look = self._folders.look_at_original(drop)
        if not isinstance(sent, Attempted) or not sent.mtime_ns or look is None:
            return ""
        read = sent.report.bytes_read
        if (look.size, look.mtime_ns) == (read, sent.mtime_ns):
            return ""
        what = f"had {read:,} bytes and has {look.size:,} now" if look.size != read else "has another time of change"
        return f"a client wrote to the file after it was read and sent: it {what}. What came later was not sent"

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
            strict = json.loads(drop.settings).get("strict_order", False)  # not parsed: they may be what is at fault
            return self._commit(drop, Withheld(guard="faults", why=why, blocks=bool(strict)))
        wait_s = delay(drop.faults + 1, initial_s=REFILE_S, max_s=900.0)
        return self._commit(drop, Postponed(due_at=self._now() + wait_s, why=why, fault=True))


def _without_limit(folder: Folder) -> Folder:
    return folder.having(guards=folder.guards.having(max_bytes=sys.maxsize))
