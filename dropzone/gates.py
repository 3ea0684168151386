"""Which accounts are open now: the facts of each, on the monotonic clock, and how many of its drops are under way.

What an account waits for is decided in `account` and kept by the ledger, in the time of the wall clock. Here it is
turned into a wait that no clock change can stretch. Each account may have as many drops under way as the pool is meant
to have in all, so that one whose server stalls takes nothing from the others. Thread-safe.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from dropzone.account import AccountFacts, Condition

LOOK_AGAIN_S = 5.0  # a try that came to nothing (no drop could go): when to look for another


@dataclass(slots=True)
class _Gate:
    facts: AccountFacts = field(default_factory=AccountFacts)
    until: float = 0.0  # monotonic
    running: int = 0


class Gates:
    """The gates of all accounts. `limit` is how many drops of one may be under way."""

    def __init__(self, limit: int, *, now: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._limit = limit
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._gates: dict[str, _Gate] = {}

    def note(self, account: str, facts: AccountFacts) -> None:
        """Go by these facts from now on."""
        with self._lock:
            gate = self._gates.setdefault(account, _Gate())
            if (facts.until, facts.noted_at) != (gate.facts.until, gate.facts.noted_at):
                gate.until = self._monotonic() + facts.wait_s(self._now())
            gate.facts = facts

    def is_open(self, account: str) -> bool:
        """Whether any drop of the account may be offered now."""
        with self._lock:
            return (gate := self._gates.get(account)) is None or self._is_open(gate)

    def closed(self) -> set[str]:
        """The accounts that can take no further drop now."""
        with self._lock:
            return {
                name for name, gate in self._gates.items() if not self._is_open(gate) or gate.running >= self._limit
            }

    def to_try(self) -> list[str]:
        """The accounts of which one drop is to try whether they are open again."""
        with self._lock:
            now = self._monotonic()
            return [
                name
                for name, gate in self._gates.items()
                if gate.facts.probing and not gate.running and gate.until <= now
            ]

    def probing(self) -> list[str]:
        """The accounts that are open again only once a drop has tried."""
        with self._lock:
            return [name for name, gate in self._gates.items() if gate.facts.probing]

    def look_again(self, account: str) -> None:
        """No drop could try: look again later, whatever the facts say."""
        with self._lock:
            gate = self._gates[account]
            gate.until = max(gate.until, self._monotonic() + LOOK_AGAIN_S)

    def begin(self, account: str) -> None:
        """A drop of the account is under way."""
        with self._lock:
            self._gates.setdefault(account, _Gate()).running += 1

    def end(self, account: str) -> None:
        """It no longer is."""
        with self._lock:
            self._gates[account].running -= 1

    def next_due(self) -> float:
        """When the next account may be open, on the monotonic clock."""
        with self._lock:
            shut = (gate for gate in self._gates.values() if not self._is_open(gate) and not gate.running)
            return min((gate.until for gate in shut), default=math.inf)

    def _is_open(self, gate: _Gate) -> bool:
        match gate.facts.condition:
            case Condition.READY:
                return True
            case Condition.WAITING:
                return gate.until <= self._monotonic()
            case _:
                return False
