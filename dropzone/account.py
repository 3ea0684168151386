"""What an account is to its drops: ready, or why and until when they wait; and the rules by which that changes.

An account is one key at one address, so some answers to one drop speak for all of them. `after()` is the only code
that changes an account, and it is pure: no clock, no disk. The ledger keeps the facts, and commits them together with
the event that they follow from.

    condition  what it means                                              how it ends
    ready      drops go out
    waiting    OptiPub asked all to come back later (429, 503)            by itself, at `until`
    broken     the breaker is open: five signals in a row that the        one drop tries at `until`; taken or refused,
               server is down or out of reach                             it is ready, else the next try is later
    paused     a dead key, a wrong address, two refusals in a row; or a   the same; but what a person has paused ends
               person's order                                             by an order only
"""

from __future__ import annotations

import math
from dataclasses import replace
from enum import StrEnum

from dropzone.drop import Accepted, Deferred, Event, Lost, Refused
from dropzone.values import value

BREAKER = 5  # signals in a row until nothing more is tried
REFUSALS = 2  # in a row, of whatever files: then it is rather the account than the files
PROBES_S = (30.0, 60.0, 120.0, 240.0, 480.0, 900.0)  # until the first try, the second, …; then always the last


class Condition(StrEnum):
    """How an account stands; the module's head says what each means."""

    READY = "ready"
    WAITING = "waiting"
    BROKEN = "broken"
    PAUSED = "paused"


@value
class AccountFacts:
    """What is known of an account. Times are seconds since the epoch; `until` is infinite where a person must act."""

    condition: Condition = Condition.READY
    why: str = ""
    since: float = 0.0  # when it came to this condition
    until: float = 0.0  # when it may be tried again
    noted_at: float = 0.0  # when `until` was set
    failures: int = 0  # breaker signals in a row
    refusals: int = 0  # in a row, without an acceptance between
    probes: int = 0  # tries since it was ready
    accepted_at: float | None = None  # when OptiPub last took a drop of it

    @property
    def probing(self) -> bool:
        """Whether one drop alone is to try, because all of them would fare alike."""
        return self.condition in (Condition.BROKEN, Condition.PAUSED)

    @property
    def suspected(self) -> bool:
        """Whether it is paused for refusals: then a further one says nothing about the file that met it."""
        return self.condition is Condition.PAUSED and self.refusals >= REFUSALS

    def wait_s(self, now: float) -> float:
        """Seconds until it may be tried, at the wall clock's `now`; never longer than was meant (see `Drop.wait_s`)."""
        if self.condition is Condition.READY:
            return 0.0
        return max(0.0, min(self.until - now, self.until - self.noted_at))


def after(facts: AccountFacts, event: Event, *, at: float) -> AccountFacts:
    """The account after `event` of one of its drops."""
    match event:
        case Accepted(by=""):
            return resumed(replace(facts, accepted_at=at), at=at, by_person=False)
        case Refused(blame=blame):
            return _refused(replace(facts, failures=0, refusals=facts.refusals + 1), blame, at)
        case Deferred(effect="wait", due_at=due_at, cause=cause):
            if facts.probing:
                return _try_again(facts, due_at, at)
            return _come_to(facts, Condition.WAITING, cause, due_at, at)
        case Deferred(effect="pause", due_at=due_at, cause=cause):
            return _come_to(facts, Condition.PAUSED, cause, due_at, at)
        case Deferred(effect="breaker", cause=cause) | Lost(effect="breaker", cause=cause):
            return _failed(replace(facts, failures=facts.failures + 1), cause, at)
        case Deferred() | Lost() if facts.probing:
            return _probed(facts, at)
        case _:
            return facts


def resumed(facts: AccountFacts, *, at: float, by_person: bool = True) -> AccountFacts:
    """Ready again. What a person has paused stays so, unless a person says it."""
    if _is_ordered(facts) and not by_person:
        return facts
    since = facts.since if facts.condition is Condition.READY else at
    return replace(facts, condition=Condition.READY, why="", since=since, until=0.0, failures=0, refusals=0, probes=0)


def paused_by(facts: AccountFacts, why: str, *, at: float) -> AccountFacts:
    """Paused by a person, until a person resumes it."""
    return replace(facts, condition=Condition.PAUSED, why=why, since=at, until=math.inf, noted_at=at)


def hastened(facts: AccountFacts, *, at: float) -> AccountFacts:
    """To be tried at once: a key file, the configuration or the program is a new one. What a person paused stays so."""
    return facts if _is_ordered(facts) else replace(facts, until=min(facts.until, at), noted_at=at)


def _is_ordered(facts: AccountFacts) -> bool:
    return facts.condition is Condition.PAUSED and math.isinf(facts.until)


def _refused(facts: AccountFacts, blame: str, at: float) -> AccountFacts:
    """A no is an answer: the key is known there, the server is up. A second one in a row speaks against the account."""
    if _is_ordered(facts):
        return facts
    if facts.refusals < REFUSALS:
        return replace(facts, condition=Condition.READY, why="", until=0.0, probes=0)
    why = f"{facts.refusals} files in a row were refused, so it may be the account and not they. The last: {blame}"
    return _probed(_come_to(facts, Condition.PAUSED, why, at, at), at)


def _failed(facts: AccountFacts, cause: str, at: float) -> AccountFacts:
    if facts.probing:
        return _probed(facts, at)
    if facts.failures < BREAKER:
        return facts
    return _probed(_come_to(facts, Condition.BROKEN, cause, at, at), at)


def _come_to(facts: AccountFacts, condition: Condition, why: str, until: float, at: float) -> AccountFacts:
    if _is_ordered(facts):
        return facts
    if facts.condition is condition:  # as before, only longer
        return replace(facts, why=why, until=until, noted_at=at)
    return replace(facts, condition=condition, why=why, since=at, until=until, noted_at=at, probes=0)


def _probed(facts: AccountFacts, at: float) -> AccountFacts:
    """Another try some time later: each further one twice as late, up to a quarter of an hour."""
    wait_s = PROBES_S[min(facts.probes, len(PROBES_S) - 1)]
    return _try_again(replace(facts, probes=facts.probes + 1), at + wait_s, at)


def _try_again(facts: AccountFacts, until: float, at: float) -> AccountFacts:
    return facts if _is_ordered(facts) else replace(facts, until=until, noted_at=at)
