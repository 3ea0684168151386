"""From the inbox to the ledger: which files are there, when to look at each again, and taking over what is ready.

The scan is the truth, events are only a reason to look early. All of it is memory that any scan can rebuild; the first
durable thing is the claim. The same rule holds at the start as at any other time. Knows no drop after its first row.

Memory stays small however many files wait: at most `ADMITTED` files are settling at a time, the others stay names in a
folder until there is room, and but a few of those are remembered (`NEXT`). Each inbox may have as many as there is room
left, so that those that are full share it evenly and one that is flooded leaves room for the next. What waits for more
than quiet (a writer, a missing rest) takes no room, so a thousand traps keep no good file out.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from dropzone import policy
from dropzone.config import Config, Folder
from dropzone.drop import Drop, Event, make_id, time_of
from dropzone.errors import FolderError, printable
from dropzone.folders import Claim, Folders, Wanted
from dropzone.folders.inbox import Inbox, Listing
from dropzone.ledger import Ledger
from dropzone.readiness import (
    UNFIT_S,
    Candidate,
    Reading,
    Ready,
    Seen,
    Unfit,
    Unread,
    Waiting,
    is_temporary,
    judge,
    marked_name,
    marker_name,
    why_ignored,
)

BATCH = 100  # files claimed with one round of directory syncs; more would make the first of them wait
ADMITTED = 8_000  # files that may be settling at a time, about; each takes 600 bytes (measured)
LEAST = 400  # one in so many of these an inbox may have even where the others have taken all room
NEXT = 2_000  # names of one inbox that are kept for when there is room; the rest is found by the next scan
REMOTE_SCAN_S = 5.0  # how often to look through an inbox on a file system that reports nothing
LEFTOVER_S = 86_400.0  # a temporary name that is older is worth a word: nobody will finish that upload
AT_HAND = 16  # inboxes kept open during one tick
CONFIRM_S = 1.0  # two listings so far apart, and the same change time at both: nothing can have come unseen

_WHOLE = b""  # stands for the inbox itself among the names in it
_LEFTOVERS = b"/"  # stands for all its left-over temporary files; no name has a slash


@dataclass(slots=True)
class _Memory:
    """What is remembered of one inbox."""

    folder: Folder
    next_scan: float = 0.0
    candidates: dict[bytes, Candidate] = field(default_factory=dict)
    told: dict[bytes, str] = field(default_factory=dict)  # the reason that was reported last, by name
    settling: int = 0  # candidates that lack nothing but quiet time
    known: set[bytes] = field(default_factory=set)  # names that need not be asked about again
    backlog: list[bytes] = field(default_factory=list)  # names for which there was no room; the next one is the last
    more: bool = False  # there are others, or may be, that only a scan can name
    unfinished: dict[bytes, float] = field(default_factory=dict)  # temporary names: when they will be left over
    listed: Listing | None = None  # what the inbox looked like when it was listed last
    listed_at: float = 0.0  # when it was first listed looking so
    unchanged: bool = False  # it was listed again later, looking the same

    def forget_names(self) -> None:
        """Ask about every name anew at the next scan."""
        self.known, self.backlog, self.listed, self.more = set(), [], None, False


class Intake:
    """What waits in the inboxes. Used by one thread.

    `now` is the wall clock (for drop IDs and rows), `monotonic` the one for quiet times. `left_alone` hears, once for
    each file and reason, of what is not taken over and why; `announce` of every committed event.
    `attend` is told of each inbox right before it is scanned, so that its watch can be looked after.
    `aside` has slow work done by another thread; by itself it is done at once. `admitted`: see the module's head.
    """

    def __init__(
        self,
        *,
        folders: Folders,
        ledger: Ledger,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        left_alone: Callable[[str, bytes, str], None] = lambda folder, name, why: None,
        announce: Callable[[Drop, Event], None] = lambda drop, event: None,
        attend: Callable[[Path, int], None] = lambda path, fd: None,
        aside: Callable[[Callable[[], None]], object] = lambda work: work(),
        admitted: int = ADMITTED,
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._now = now
        self._monotonic = monotonic
        self._left_alone = left_alone
        self._announce = announce
        self._attend = attend
        self._aside = aside
        self._admitted = admitted
        self._inboxes: dict[str, _Memory] = {}
        self._settling = 0  # candidates of all inboxes that lack nothing but quiet time
        self._due: list[tuple[float, str, bytes]] = []  # a heap; entries that the candidates contradict are stale
        self._id_ms = 0

    def configure(self, config: Config) -> None:
        """Watch the folders of `config` from now on; candidates of folders that are still there stay."""
        before, self._inboxes = self._inboxes, {}
        for name, folder in config.folders.items():
            memory = self._inboxes[name] = before.get(name) or _Memory(folder)
            memory.folder = folder
            memory.forget_names()
            for file in [file for file in memory.candidates if why_ignored(os.fsdecode(file), folder)]:
                self._forget(memory, file)
            with contextlib.suppress(FolderError), self._folders.inbox(folder) as inbox:  # the scan says what is wrong
                self._attend(folder.path, inbox.fd)  # already now: a file that comes at once is heard of
        self._settling = sum(memory.settling for memory in self._inboxes.values())

    # ------------------------------------------------------------------------------------------------- questions

    def next_look(self) -> float:
        """When there is something to do next, on the monotonic clock."""
        scans = [0.0 if self._can_admit(memory) else memory.next_scan for memory in self._inboxes.values()]
        return min([*scans, *(at for at, _, _ in self._due[:1])], default=math.inf)

    def settling(self) -> bool:
        """Whether a file is there that lacks nothing but quiet time."""
        return any(memory.settling or memory.backlog or memory.more for memory in self._inboxes.values())

    def find(self, folder: str, name: bytes) -> Candidate | None:
        """What is remembered of a file that is not taken over yet: its `verdict` says what it waits for."""
        memory = self._inboxes.get(folder)
        return None if memory is None else memory.candidates.get(name)

    def waiting(self) -> int:
        """How many files are remembered that lie in the inboxes, ready or not."""
        return sum(len(memory.candidates) + len(memory.backlog) for memory in self._inboxes.values())

    # ---------------------------------------------------------------------------------------------------- orders

    def hear(self, folder: str, name: bytes, *, closed: bool = False) -> None:
        """An event told of `name`: its quiet time starts again, and it is looked at now. `closed`: by its writer."""
        memory = self._inboxes.get(folder)
        if memory is None:
            return
        name = marked_name(name, memory.folder) or name
        candidate = memory.candidates.get(name)
        if candidate is None:
            if why_ignored(os.fsdecode(name), memory.folder):
                return
            if memory.settling >= self._room():
                memory.more = True  # a scan finds it once there is room
                return
        now = self._monotonic()
        if candidate is None:
            candidate = memory.candidates[name] = Candidate.found(now)
        candidate.hear(now, closed=closed)
        self._look_again(memory, name, Waiting(now, "it has just changed", settling=True))

    def scan_soon(self, folder: str | None = None) -> None:
        """Scan that folder, or every one, at the next tick: events may have been lost, or the folders are new."""
        for name, memory in self._inboxes.items():
            if folder in (None, name):
                memory.next_scan, memory.listed = 0.0, None

    def tick(self, *, limit: int = BATCH) -> list[Drop]:
        """Scan what is due to be scanned, look at what is due, and claim what is ready (at most `limit` files).

        Returns the new drops, in the order in which the files became ready. Raises FolderError or LedgerError
        only where the machine is at fault; then some may have been taken over already: with a row (ask the ledger) or
        still without one (see `adoption`).
        """
        now = self._monotonic()
        for memory in self._inboxes.values():
            can_admit = self._can_admit(memory)
            if memory.next_scan <= now or (can_admit and not memory.backlog):
                self._scan(memory, now)
            elif can_admit:
                self._admit(memory, now)
        ready: list[tuple[_Memory, Wanted]] = []
        with _AtHand(self._folders) as at_hand:
            while len(ready) < limit and self._due and self._due[0][0] <= now:
                due = heapq.heappop(self._due)
                if (found := self._find_due(*due)) is None:
                    continue  # stale: heard of or forgotten since
                memory, name, candidate = found
                if (seen := self._judge(memory, at_hand, name, candidate, now)) is not None:
                    # Whatever happens next, here or to another file, it is looked at again unless it is gone.
                    why = "it changed while it was taken over"
                    self._look_again(memory, name, Waiting(now + 1.0, why, settling=True))
                    ready.append((memory, Wanted(id=self._make_id(), name=name, seen=seen)))
        return self._claim(ready)

    # ---------------------------------------------------------------------------------------------------- scanning

    def _scan(self, memory: _Memory, now: float) -> None:
        folder = memory.folder
        memory.next_scan = now + folder.scan
        try:
            with self._folders.inbox(folder) as inbox:
                # Watched before it is listed: what comes in between is then seen twice instead of never.
                self._attend(folder.path, inbox.fd)
                if not inbox.is_local:
                    memory.next_scan = now + min(folder.scan, REMOTE_SCAN_S)
                if (names := self._changed_names(memory, inbox, now)) is not None:
                    self._compare(memory, inbox, names, now)
        except FolderError as fault:
            if fault.environment:
                raise
            memory.forget_names()
            self._tell_once(memory, _WHOLE, str(fault))
            return
        memory.told.pop(_WHOLE, None)
        self._admit(memory, now)
        self._tell_leftovers(memory)

    def _changed_names(self, memory: _Memory, inbox: Inbox, now: float) -> set[bytes] | None:
        """The names in it; None where there can be no others than at the last scan, so that idling costs little."""
        listing = inbox.listing()
        if listing is None or listing != memory.listed or memory.more:
            memory.listed, memory.listed_at, memory.unchanged = listing, now, False
        elif memory.unchanged:
            return None
        # Changes within one tick of the clock look the same, so one listing alone proves nothing.
        elif now - memory.listed_at >= CONFIRM_S:
            memory.unchanged = True
        return set(inbox.names())

    def _compare(self, memory: _Memory, inbox: Inbox, names: set[bytes], now: float) -> None:
        """Forget what is gone, and sort what is new into candidates, unfinished uploads, and names of no interest."""
        for name in memory.candidates.keys() - names:
            self._forget(memory, name)
        for name in memory.unfinished.keys() - names:
            del memory.unfinished[name]
        memory.known &= names
        memory.backlog = [name for name in memory.backlog if name in names]
        # By name: nobody can say which of them came first.
        new = sorted(names - memory.known)
        named = new[: max(0, NEXT - len(memory.backlog))]
        memory.more = len(named) < len(new)
        memory.known.update(named)
        fresh = []
        for name in named:
            marked, text = marked_name(name, memory.folder), os.fsdecode(name)
            if marked is not None or is_temporary(text):
                look = inbox.look(name)
                # By ctime, which nobody can set and a restart does not forget; only a word to people hangs on it.
                memory.unfinished[name] = (look.ctime_ns / 1e9 if look else self._now()) + LEFTOVER_S
                self._wake_marked(memory, marked, now)
            elif name not in memory.candidates and not why_ignored(text, memory.folder):
                fresh.append(name)
        if fresh:
            memory.backlog = sorted({*fresh, *memory.backlog}, reverse=True)

    def _room(self) -> int:
        """How many files of one inbox may be settling now: as many as there is room for others."""
        return max(1, self._admitted // LEAST, self._admitted - self._settling)

    def _can_admit(self, memory: _Memory) -> bool:
        """Whether it is worth while to let the next names in."""
        return (memory.more or bool(memory.backlog)) and memory.settling <= self._room() // 2

    def _admit(self, memory: _Memory, now: float) -> None:
        """Make candidates of the names that are next, as many as there is room for."""
        while memory.backlog and memory.settling < self._room():
            name = memory.backlog.pop()
            if name not in memory.candidates:
                memory.candidates[name] = Candidate.found(now)
                self._look_again(memory, name, Waiting(now, "it was just found", settling=True))

    def _wake_marked(self, memory: _Memory, marked: bytes | None, now: float) -> None:
        """Look again at a file whose marker has come, perhaps without an event."""
        candidate = memory.candidates.get(marked) if marked else None
        if marked and candidate and candidate.seen and candidate.seen.marker is None:
            self._look_again(memory, marked, Waiting(now, "its marker has come", settling=True))

    def _tell_leftovers(self, memory: _Memory) -> None:
        """Report once, for all of an inbox, that uploads lie there which nobody will finish."""
        wall, folder = self._now() if memory.unfinished else 0.0, memory.folder
        old = sorted(
            name
            for name, at in memory.unfinished.items()
            if at <= wall and marked_name(name, folder) not in memory.candidates
        )
        if not old:
            memory.told.pop(_LEFTOVERS, None)
        elif _LEFTOVERS not in memory.told:
            why = f"{len(old)} unfinished uploads have lain here for more than a day, such as {printable(old[0])}"
            memory.told[_LEFTOVERS] = why
            self._left_alone(folder.name, _WHOLE, why)

    # ---------------------------------------------------------------------------------------------------- judging

    def _find_due(self, at: float, folder: str, name: bytes) -> tuple[_Memory, bytes, Candidate] | None:
        memory = self._inboxes.get(folder)
        candidate = None if memory is None else memory.candidates.get(name)
        if memory is None or candidate is None or candidate.verdict is None or candidate.verdict.until != at:
            return None
        return memory, name, candidate

    def _judge(self, memory: _Memory, at_hand: _AtHand, name: bytes, candidate: Candidate, now: float) -> Seen | None:
        """The look by which the file is ready, or None; then it is known when to look again."""
        inbox = at_hand.get(memory.folder)
        if inbox is None:  # the scan says why; it is looked at with the next one
            self._look_again(memory, name, Waiting(now + memory.folder.scan, "its inbox cannot be opened"))
            return None
        try:
            seen = inbox.see(name)
            if seen is None:
                self._forget(memory, name)
                return None
            verdict = judge(candidate, seen, memory.folder, now=now, ask=lambda: inbox.probe(name, seen.file))
            if isinstance(verdict, Unread):
                self._read_aside(memory.folder, name, candidate, seen)
                # By itself it is done at once: then the file need not wait for another look.
                verdict = judge(candidate, seen, memory.folder, now=now, ask=lambda: inbox.probe(name, seen.file))
        except FolderError as fault:
            if fault.environment:
                self._look_again(memory, name, Waiting(now + 1.0, str(fault)))
                raise
            verdict = Unfit(now + UNFIT_S, str(fault))
        match verdict:
            case Ready():
                return verdict.seen
            case Unread():
                verdict = Waiting(now + 0.1, "it is being read and written out to disk", settling=True)
            case Unfit() | Waiting(overdue=True):
                self._tell_once(memory, name, verdict.why)
            case Waiting():
                pass
        self._look_again(memory, name, verdict)
        return None

    def _read_aside(self, folder: Folder, name: bytes, candidate: Candidate, seen: Seen) -> None:
        """Do what takes long before a claim in another thread, once for each look."""
        if candidate.busy_with == seen:
            return
        candidate.busy_with = seen

        def read() -> None:
            reading = Reading(seen)
            with contextlib.suppress(FolderError), self._folders.inbox(folder) as inbox:
                reading = inbox.read(name, seen)  # where it fails, the claim meets the same, and says so
            candidate.reading = reading

        self._aside(read)

    # ---------------------------------------------------------------------------------------------------- claiming

    def _claim(self, ready: Sequence[tuple[_Memory, Wanted]]) -> list[Drop]:
        """Rename folder by folder, then write all rows, in the order in which the files became ready."""
        claims: dict[str, Claim] = {}
        faults: list[FolderError] = []
        for memory in {id(memory): memory for memory, _ in ready}.values():
            mine = [wanted for other, wanted in ready if other is memory]
            claims |= {claim.id: claim for claim in self._rename(memory, mine, faults)}
        # If we die here: the files are in work/ without rows; the next start adopts them.
        rows = [
            (claim.id, policy.claimed(memory.folder, claim.name, claim.size, base=claim.base))
            for memory, wanted in ready
            if (claim := claims.get(wanted.id))
        ]
        drops = self._enter(rows) if rows else []
        for memory, wanted in ready:
            if wanted.id in claims:
                self._forget(memory, wanted.name)
        if faults:
            raise faults[0]
        return drops

    def _rename(self, memory: _Memory, files: Sequence[Wanted], faults: list[FolderError]) -> list[Claim]:
        """Take `files` over, all but the row; what the machine is at fault for is added to `faults`."""
        try:
            claims, failed = self._folders.claim(memory.folder, files)
        except FolderError as error:  # the inbox or work/ is gone: no reason for the files of other folders to wait
            claims, failed = [], [(wanted.name, error) for wanted in files]
        for name, fault in failed:
            if fault.environment:
                faults.append(fault)
            else:
                self._look_again(memory, name, Unfit(self._monotonic() + UNFIT_S, str(fault)))
                self._tell_once(memory, name, str(fault))
        return claims

    def _enter(self, rows: Sequence[tuple[str, Event]]) -> list[Drop]:
        drops = self._ledger.commit_all(rows, at=self._now())
        for drop, (_, event) in zip(drops, rows, strict=True):
            self._announce(drop, event)
        return drops

    def _make_id(self) -> str:
        # A millisecond apart at least, and later than the ledger's newest even where the clock was put back: by their
        # IDs orphans are adopted, and drops that were held go back into their lanes, in the order of the claims.
        if not self._id_ms and (newest := self._ledger.find_drops(newest=True, limit=1)):
            self._id_ms = round(time_of(newest[0].id) * 1000)
        self._id_ms = max(round(self._now() * 1000), self._id_ms + 1)
        return make_id(self._id_ms / 1000)

    # --------------------------------------------------------------------------------------------------- remembering

    def _look_again(self, memory: _Memory, name: bytes, verdict: Waiting | Unfit) -> None:
        candidate = memory.candidates[name]
        self._count(memory, _is_settling(verdict) - _is_settling(candidate.verdict))
        candidate.verdict = verdict
        heapq.heappush(self._due, (verdict.until, memory.folder.name, name))

    def _forget(self, memory: _Memory, name: bytes) -> None:
        memory.told.pop(name, None)
        memory.known -= {name, marker_name(name, memory.folder)}  # should they come again, they are others
        memory.listed = None  # and may have come already
        candidate = memory.candidates.pop(name, None)
        if candidate is not None:
            self._count(memory, -_is_settling(candidate.verdict))

    def _count(self, memory: _Memory, settling: int) -> None:
        memory.settling += settling
        self._settling += settling

    def _tell_once(self, memory: _Memory, name: bytes, why: str) -> None:
        if memory.told.get(name) != why:
            memory.told[name] = why
            self._left_alone(memory.folder.name, name, why)


class _AtHand:
    """The inboxes that were looked into last, open until the end: most files of a burst lie in a few."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._open: dict[str, tuple[Inbox | None, contextlib.ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for __, stack in self._open.values():
            stack.close()

    def get(self, folder: Folder) -> Inbox | None:
        """The inbox of `folder`, or None where it cannot be opened. Raises FolderError for faults of the machine."""
        if folder.name in self._open:
            return self._open[folder.name][0]
        if len(self._open) >= AT_HAND:
            oldest = next(iter(self._open))
            self._open.pop(oldest)[1].close()
        with contextlib.ExitStack() as stack:
            found: Inbox | None = None
            try:
                found = stack.enter_context(self._folders.inbox(folder))
            except FolderError as fault:
                if fault.environment:
                    raise
            self._open[folder.name] = (found, stack.pop_all())
        return found


def _is_settling(verdict: Waiting | Unfit | None) -> bool:
    return isinstance(verdict, Waiting) and verdict.settling
