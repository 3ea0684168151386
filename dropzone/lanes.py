"""The open drops by lane, in memory: whose turn it is.

A lane is one segment (or order group) of one account: one drop of it is under way at a time, oldest first, and a head
that must wait makes its lane wait (order matters: a subscribe after an unsubscribe, rows after `clear`). Lanes do not
wait for each other. Knows no ledger and no clock: waits are seconds on the monotonic clock, which the caller reads.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect
from collections import deque
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple


class Turn(NamedTuple):
    """The drop at the head of a lane."""

    lane: str
    account: str
    id: str


@dataclass(slots=True)
class _Lane:
    name: str
    account: str
    drops: deque[str] = field(default_factory=deque)
    busy: bool = False
    free: bool = False  # its head needs no account for what comes next: a verdict to be filed, an outcome to be judged
    due: float = 0.0  # monotonic; when the head may be looked at

    @property
    def turn(self) -> Turn:
        """The head, of a lane that has one."""
        return Turn(self.name, self.account, self.drops[0])

    @property
    def queue(self) -> str:
        """In which queue it takes turns."""
        return "" if self.free else self.account


class Lanes:
    """The open drops by lane. `Ledger.open_lanes` fills it at the start."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._known: dict[str, _Lane] = {}  # in which lane each drop is; not always the one of its row (to be filed)
        # Lanes whose head may go, by account; lanes of an account take turns, and accounts do: that is the fairness.
        self._ready: dict[str, deque[str]] = {}
        self._later: list[tuple[float, str]] = []  # a heap of (due, lane); what the lane contradicts is stale

    def add(self, lane: str, account: str, id: str, *, due: float = 0.0, free: bool = False) -> None:
        """Put a drop at the end of its lane, unless it is there already; a new lane is looked at from `due` on."""
        if id in self._known:
            return
        here = self._put(lane, account, id)
        here.drops.append(id)
        if len(here.drops) == 1 and not here.busy:
            here.free = free
            self._wait(here, due)

    def add_back(self, lane: str, account: str, id: str) -> None:
        """Put a drop that had left its lane back to where it was: IDs rise in the order of the claims.

        Its lane is looked at now; see `hurry` for another time.
        """
        here = self._put(lane, account, id)
        waiting = list(here.drops)
        here.drops.insert(bisect(waiting, id, lo=1 if here.busy else 0), id)
        self.hurry(lane)

    def remove(self, id: str) -> None:
        """Take a drop that nobody works on out of its lane, wherever it stands there; what is behind it moves up."""
        if not self.has(id) or self.is_busy(id):
            return
        here = self._known.pop(id)
        was_head = here.drops[0] == id
        here.drops.remove(id)
        if not here.drops:
            del self._lanes[here.name]
        elif was_head:
            self.hurry(here.name)

    def head(self, lane: str) -> str | None:
        """The drop whose turn is next in the lane, or None where the lane is empty."""
        here = self._lanes.get(lane)
        return here.drops[0] if here else None

    def has(self, id: str) -> bool:
        """Whether the drop is in a lane."""
        return id in self._known

    def is_busy(self, id: str) -> bool:
        """Whether the drop is being worked on right now, in whichever lane."""
        here = self._known.get(id)
        return here is not None and here.busy and here.drops[0] == id

    def take(self, now: float, *, closed: AbstractSet[str] = frozenset()) -> Turn | None:
        """Whose turn it is next, or None. The lane is busy until `give_back`.

        Of the accounts in `closed` only those heads are taken that need none.
        """
        while self._later and self._later[0][0] <= now:
            due, name = heapq.heappop(self._later)
            lane = self._lanes.get(name)
            if lane and lane.due == due and not lane.busy:
                self._ready.setdefault(lane.queue, deque()).append(name)
        for queue in list(self._ready):
            if queue in closed:
                continue
            waiting = self._ready.pop(queue)
            while waiting:
                name = waiting.popleft()
                lane = self._lanes.get(name)
                if lane and lane.drops and not lane.busy and lane.queue == queue and lane.due <= now:
                    if waiting:
                        self._ready[queue] = waiting  # at the end: now it is the others' turn
                    lane.busy = True
                    return lane.turn
        return None

    def heads(self, account: str, now: float) -> list[tuple[bool, Turn]]:
        """Whether it is due, and the head, of each lane of the account that nobody works on."""
        return [
            (lane.due <= now, lane.turn)
            for lane in self._lanes.values()
            if lane.account == account and lane.drops and not lane.busy and not lane.free
        ]

    def take_head(self, name: str) -> None:
        """Take this lane's head out of turn; the lane is busy until `give_back`."""
        self._lanes[name].busy = True

    def give_back(self, name: str, due: float | None, *, free: bool = False) -> None:
        """The head of the lane is through (None), or is to be looked at again from `due` on."""
        lane = self._lanes[name]
        lane.busy, lane.free = False, free and due is not None
        if due is not None:
            self._wait(lane, due)
            return
        del self._known[lane.drops.popleft()]
        if lane.drops:
            self._wait(lane, 0.0)
        else:
            del self._lanes[name]

    def hurry(self, name: str, due: float = 0.0, *, free: bool = False) -> None:
        """Have the lane's head looked at from `due` on, whatever was said before."""
        if (lane := self._lanes.get(name)) and not lane.busy:
            lane.free = free
            self._wait(lane, due)

    def wake(self) -> None:
        """Let the lanes look again that wait for a person."""
        for name, lane in self._lanes.items():
            if math.isinf(lane.due):
                self.hurry(name)

    def next_due(self) -> float:
        """When the next waiting lane is due, on the monotonic clock."""
        return self._later[0][0] if self._later else math.inf

    def __len__(self) -> int:
        return len(self._known)

    def _put(self, lane: str, account: str, id: str) -> _Lane:
        """The lane, made where there is none, which the drop is in from now on; not yet where in it."""
        # Its name is not kept with each drop: each row brings a string of its own, of 64 bytes.
        here = self._lanes.setdefault(lane, _Lane(name=lane, account=account))
        self._known[id] = here
        return here

    def _wait(self, lane: _Lane, due: float) -> None:
        lane.due = due
        if math.isinf(due):
            return  # until `hurry` or `wake`
        if due:
            heapq.heappush(self._later, (due, lane.name))
        else:
            self._ready.setdefault(lane.queue, deque()).append(lane.name)
