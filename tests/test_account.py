"""What an account comes to by the answers to its drops: the breaker, the pauses, the waits, and what people order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropzone.account import (
    BREAKER,
    PROBES_S,
    AccountFacts,
    Condition,
    after,
    hastened,
    paused_by,
    resumed,
)
from dropzone.drop import Accepted, Deferred, Event, Lost, Postponed, Refused

TAKEN = Accepted(status=201, body="Import created.")
REFUSED = Refused(status=302, blame="it refused", evidence="")
BROKEN = Deferred(due_at=5.0, cause="no connection", effect="breaker")
LOST = Lost(cause="no answer", sent=9, effect="breaker")
ODD = Lost(cause="a login page", sent=9)
BUSY = Deferred(due_at=160.0, cause="busy", status=503, effect="wait")
DEAD_KEY = Deferred(due_at=1000.0, cause="dead key", status=401, effect="pause")
TIMED_OUT = Deferred(due_at=5.0, cause="408", status=408)


def live(*events: Event, facts: AccountFacts | None = None, at: float = 100.0) -> AccountFacts:
    facts = facts or AccountFacts()
    for event in events:
        facts = after(facts, event, at=at)
    return facts


def test_five_signals_in_a_row_open_the_breaker() -> None:
    """Four do not; an answer in between begins the count again."""
    four = live(BROKEN, LOST, BROKEN, LOST)
    assert (four.condition, four.failures) == (Condition.READY, 4)
    assert live(TAKEN, BROKEN, facts=four).condition is Condition.READY
    assert live(REFUSED, BROKEN, facts=four).condition is Condition.READY
    five = live(BROKEN, facts=four)
    assert (five.condition, five.until, five.why) == (Condition.BROKEN, 130.0, "no connection")


def test_an_open_breaker_is_tried_later_and_later() -> None:
    """After 30 s, 1, 2, 4, 8 and then every 15 minutes; whatever comes but a yes or a no."""
    facts, waits = live(*[BROKEN] * BREAKER), []
    for event in (BROKEN, LOST, TIMED_OUT, ODD, BROKEN, BROKEN):
        waits.append(facts.until - facts.noted_at)
        facts = live(event, facts=facts, at=facts.until)
    assert (*waits, facts.until - facts.noted_at) == (*PROBES_S, PROBES_S[-1])
    assert facts.condition is Condition.BROKEN


@pytest.mark.parametrize("answer", [TAKEN, REFUSED], ids=["accepted", "refused"])
def test_a_yes_or_a_no_closes_the_breaker(answer: Event) -> None:
    """The server is there again; the next failure is the first one."""
    facts = live(answer, facts=live(*[BROKEN] * 9))
    assert (facts.condition, facts.failures, facts.probes, facts.until) == (Condition.READY, 0, 0, 0.0)
    assert live(BROKEN, facts=facts).condition is Condition.READY


def test_what_is_asked_to_wait_is_ready_by_itself() -> None:
    """429 and 503: nothing before the time that was asked for; a longer one counts; a yes ends it."""
    facts = live(BUSY)
    assert (facts.condition, facts.until, facts.probing) == (Condition.WAITING, 160.0, False)
    assert live(Deferred(due_at=300.0, cause="", effect="wait"), facts=facts).until == 300.0
    assert live(TAKEN, facts=facts).condition is Condition.READY


def test_a_dead_key_pauses_until_a_try_succeeds() -> None:
    """Also one that is refused shows that the key is known: only the file was wrong."""
    facts = live(DEAD_KEY)
    assert (facts.condition, facts.until, facts.suspected) == (Condition.PAUSED, 1000.0, False)
    assert live(DEAD_KEY, facts=facts).since == facts.since
    assert live(TAKEN, facts=facts).condition is Condition.READY
    assert live(REFUSED, facts=facts).condition is Condition.READY
    still = live(BUSY, facts=facts, at=1000.0)
    assert (still.condition, still.until) == (Condition.PAUSED, 160.0)


def test_two_refusals_in_a_row_pause_the_account() -> None:
    """Of whatever files; an acceptance in between shows that it is not the account. Then nothing is judged by a no."""
    assert live(REFUSED, TAKEN, REFUSED).condition is Condition.READY
    facts = live(REFUSED, REFUSED)
    assert (facts.condition, facts.suspected, facts.until) == (Condition.PAUSED, True, 130.0)
    assert "2 files in a row were refused" in facts.why
    tried = live(Deferred(due_at=5.0, cause="refused again", status=302), facts=facts, at=130.0)
    assert (tried.suspected, tried.until) == (True, 190.0)
    assert live(TAKEN, facts=tried).condition is Condition.READY


def test_only_a_person_resumes_what_a_person_paused() -> None:
    """Whatever still comes back from uploads that were under way, from a new key file or a reload."""
    facts = paused_by(AccountFacts(), "paused by ann", at=50.0)
    answers: list[Event] = [TAKEN, REFUSED, REFUSED, REFUSED, BUSY, DEAD_KEY, *[LOST] * 9]
    for event in answers:
        facts = live(event, facts=facts)
        assert (facts.condition, facts.until, facts.why) == (Condition.PAUSED, math.inf, "paused by ann")
    assert hastened(facts, at=60.0) == facts
    assert facts.wait_s(1e12) == math.inf
    again = resumed(facts, at=70.0)
    assert (again.condition, again.why, again.since, again.refusals) == (Condition.READY, "", 70.0, 0)


def test_news_let_it_be_tried_at_once() -> None:
    """A changed key file or a reload: the condition stays until a drop has tried."""
    facts = hastened(live(DEAD_KEY), at=200.0)
    assert (facts.condition, facts.wait_s(200.0)) == (Condition.PAUSED, 0.0)
    assert hastened(live(*[BROKEN] * 9), at=101.0).wait_s(101.0) == 0.0


def test_what_a_person_says_of_a_drop_says_nothing_of_the_account() -> None:
    """An operator has found an import: that the key works now is not known from it."""
    facts = live(DEAD_KEY)
    assert live(Accepted(status=None, body="", by="ann"), Postponed(due_at=1.0, why=""), facts=facts) == facts


@pytest.mark.parametrize(("now", "expected"), [(100.0, 60.0), (130.0, 30.0), (170.0, 0.0), (-1e9, 60.0), (1e12, 0.0)])
def test_no_clock_makes_an_account_wait_longer_than_it_was_meant(now: float, expected: float) -> None:
    """As for a drop: set at 100 for 160."""
    assert live(BUSY).wait_s(now) == expected
    assert AccountFacts(until=1e12).wait_s(now) == 0.0


ANSWERS = st.sampled_from([TAKEN, REFUSED, BROKEN, LOST, ODD, BUSY, DEAD_KEY, TIMED_OUT])


@given(st.lists(ANSWERS, max_size=40))
def test_no_sequence_of_answers_closes_an_account_for_good(answers: list[Event]) -> None:
    """Whatever came before: it has a time at which it is tried, and one acceptance makes it ready."""
    facts = live(*answers)
    assert facts.until <= 1000.0
    if facts.condition is not Condition.READY:
        assert facts.why
    assert live(TAKEN, facts=facts).condition is Condition.READY
