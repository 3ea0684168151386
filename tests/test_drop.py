"""The table of transitions, walked pair by pair; identities and delays."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropzone.drop import (
    FINISHED,
    POLICY,
    TRANSITIONS,
    Accepted,
    Attempted,
    CheckFailed,
    Claimed,
    Deferred,
    Discarded,
    Drop,
    Event,
    Expired,
    Filed,
    Lost,
    Postponed,
    Refused,
    Released,
    Report,
    Resent,
    Retried,
    Skipped,
    State,
    Superseded,
    Withheld,
    apply,
    delay,
    diagram,
    is_id,
    make_id,
    time_of,
)
from dropzone.errors import IllegalEvent

ID = "2N23520SJ9AH"
REPORT = Report(columns=("email",), rows=3, good_rows=3, refused="1 of 3 rows is bad")
CLAIMED = Claimed(
    folder="acme", name=b"a.csv", account="main", segment_id=7, lane="main/7", base="/srv", settings="{}", size=10
)
EVENTS: tuple[Event, ...] = (
    CLAIMED,
    Postponed(due_at=50.0, why="disk full"),
    CheckFailed(report=REPORT),
    Withheld(guard="min_rows", why="too few rows"),
    Released(by="ann"),
    Attempted(n=1, digest="d" * 64, size=9, report=REPORT),
    Accepted(status=201, body="Import created."),
    Refused(status=302, blame="OptiPub refused it", evidence=""),
    Deferred(due_at=60.0, cause="503"),
    Lost(cause="answer lost", sent=9),
    Resent(by="policy", why="safe"),
    Superseded(newer="2N23520SJ9AK"),
    Skipped(first="2N23520SJ9AA", first_at=5.0),
    Discarded(by="ann", why="test"),
    Filed(path="done/acme/2026-11-22/a.ID.csv"),
    Retried(by="ann"),
    Expired(days=90),
)

# Written out by hand, so that the table in the code is compared with something that is not itself.
ALLOWED = {
    "none": {"Claimed": "queued"},
    "queued": {
        "Postponed": "queued",
        "CheckFailed": "refused",
        "Withheld": "held",
        "Attempted": "sending",
        "Superseded": "accepted",
        "Skipped": "accepted",
        "Discarded": "refused",
    },
    "sending": {"Accepted": "accepted", "Refused": "refused", "Deferred": "queued", "Lost": "unknown"},
    "held": {
        "Released": "queued",
        "Accepted": "accepted",
        "Superseded": "accepted",
        "Discarded": "refused",
        "Withheld": "held",
    },
    "unknown": {"Accepted": "accepted", "Resent": "queued", "Withheld": "held", "Discarded": "refused"},
    "accepted": {"Filed": "done"},
    "refused": {"Filed": "failed"},
    "done": {"Expired": "done"},
    "failed": {"Retried": "queued", "Expired": "failed"},
}


def drop_in(state: State) -> Drop:
    return Drop(
        id=ID,
        folder="acme",
        name=b"a.csv",
        account="main",
        segment_id=7,
        lane="main/7",
        base="/srv",
        settings="{}",
        size=10,
        claimed_at=1.0,
        state=state,
        due_at=1.0,
        changed_at=1.0,
    )


def test_every_kind_of_event_is_walked() -> None:
    """The hand-made events above cover each kind exactly once."""
    assert [type(event) for event in EVENTS] == list(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("state", [None, *State], ids=lambda state: state or "none")
def test_every_pair_of_state_and_event(state: State | None, event: Event) -> None:
    """Each pair either gives the state that the table of the design names, or raises and changes nothing."""
    before = drop_in(state) if state else None
    expected = ALLOWED[state.value if state else "none"].get(type(event).__name__)
    if expected is None:
        with pytest.raises(IllegalEvent, match=type(event).__name__):
            apply(before, event, id=ID, at=9.0)
    else:
        after = apply(before, event, id=ID, at=9.0)
        assert after.state == expected
        assert after.changed_at == 9.0
        assert after.id == ID


def test_every_state_can_be_left_or_is_finished() -> None:
    """No state is a trap: from each one, some way leads to done or failed."""
    for state in State:
        reached, new = {state}, {state}
        while new:
            new = {target for (source, _), target in TRANSITIONS.items() if source in new} - reached
            reached |= new
        assert reached & FINISHED, state


def test_attempts_count_only_where_the_server_may_have_acted() -> None:
    """A deferral spends no attempt; accepted, refused and lost ones do; the try number always rises."""
    drop = apply(None, CLAIMED, id=ID, at=1.0)
    for n, outcome in enumerate((EVENTS[8], EVENTS[8], EVENTS[9]), 1):
        drop = apply(drop, Attempted(n=n, digest="d", size=1, report=REPORT), id=ID, at=2.0)
        drop = apply(drop, outcome, id=ID, at=3.0)
    assert (drop.tries, drop.attempts, drop.state) == (3, 1, State.UNKNOWN)


def test_deferrals_make_the_next_delay_longer_until_the_server_answers() -> None:
    """Deferrals in a row are counted, and an answer sets the count back."""
    drop = drop_in(State.SENDING)
    drop = apply(drop, Deferred(due_at=60.0, cause="503"), id=ID, at=3.0)
    assert (drop.deferrals, drop.due_at, drop.reason) == (1, 60.0, "503")
    drop = apply(drop, Attempted(n=2, digest="d", size=1, report=REPORT), id=ID, at=61.0)
    drop = apply(drop, Refused(status=302, blame="no", evidence=""), id=ID, at=62.0)
    assert (drop.deferrals, drop.verdict_at, drop.reason) == (0, 62.0, "no")


def test_a_released_drop_is_not_held_by_a_guard_again() -> None:
    """Release and retry clear the drop; a resend by policy does not."""
    held = apply(drop_in(State.QUEUED), Withheld(guard="min_rows", why="few"), id=ID, at=2.0)
    assert (held.guard, held.cleared) == ("min_rows", False)
    released = apply(held, Released(by="ann"), id=ID, at=3.0)
    assert (released.guard, released.cleared, released.due_at) == ("", True, 3.0)
    resent = apply(drop_in(State.UNKNOWN), Resent(by="policy", why="safe"), id=ID, at=3.0)
    assert not resent.cleared


def test_what_is_not_sent_says_so_for_good() -> None:
    """A duplicate or a superseded file is done without having been accepted by anybody."""
    for event, spared in ((EVENTS[11], "superseded"), (EVENTS[12], "duplicate")):
        drop = apply(drop_in(State.QUEUED), event, id=ID, at=2.0)
        assert (drop.spared, drop.verdict_at) == (spared, 2.0)
        assert apply(drop, Filed(path="done/a"), id=ID, at=3.0).spared == spared
    assert apply(drop_in(State.SENDING), EVENTS[6], id=ID, at=2.0).spared == ""


def test_a_repeat_is_counted_and_waits_for_its_time() -> None:
    """What the policy sends again has a delay and keeps its reason; its attempt says which one it repeats."""
    resent = apply(drop_in(State.UNKNOWN), Resent(by=POLICY, why="safe", due_at=50.0), id=ID, at=3.0)
    assert (resent.due_at, resent.reason, resent.repeats) == (50.0, "safe", 0)
    attempted = apply(resent, Attempted(n=2, digest="d", size=1, report=REPORT, repeats=1), id=ID, at=60.0)
    assert attempted.repeats == 1


def test_only_a_held_drop_can_block() -> None:
    """Whatever comes next, the lane is free again."""
    held = apply(drop_in(State.QUEUED), Withheld(guard="unknown", why="lost", blocks=True), id=ID, at=2.0)
    assert held.blocks
    for event in (Released(by="ann"), EVENTS[6], EVENTS[13]):
        assert not apply(held, event, id=ID, at=3.0).blocks


@pytest.mark.parametrize(("now", "expected"), [(100.0, 30.0), (120.0, 10.0), (200.0, 0.0), (-1e9, 30.0), (1e12, 0.0)])
def test_no_clock_makes_a_wait_longer_than_it_was_meant(now: float, expected: float) -> None:
    """Set at 100 for 130: whatever the clock says by now, it is no more than 30 seconds."""
    drop = apply(drop_in(State.SENDING), Deferred(due_at=130.0, cause="503"), id=ID, at=100.0)
    assert drop.wait_s(now) == expected


def test_readme_shows_the_diagram_of_the_table() -> None:
    """The diagram in README is the one drawn from the table (`make docs` writes it)."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (block,) = re.findall(r"```mermaid\n(.*?)```", readme, re.DOTALL)
    assert block == diagram()


@given(st.floats(min_value=1_767_225_600, max_value=2_500_000_000))
def test_ids_have_one_form(at: float) -> None:
    """A drop ID is 12 characters of Crockford's alphabet, whatever the time."""
    id = make_id(at)
    assert is_id(id)
    assert re.fullmatch("[0-9A-HJKMNP-TV-Z]{12}", id)


def test_ids_sort_by_time_and_differ() -> None:
    """IDs of later milliseconds sort later; IDs of one moment differ by chance."""
    times = [1_795_000_000 + n / 1000 for n in range(1000)]
    ids = [make_id(at) for at in times]
    assert ids == sorted(ids)
    assert [round(time_of(id), 3) for id in ids] == times
    assert len({make_id(1_795_000_000.0) for _ in range(50)}) > 45


@given(st.integers(1, 10_000), st.floats(0.1, 60), st.floats(1, 3600))
def test_delays_stay_in_their_window(n: int, initial_s: float, max_s: float) -> None:
    """A delay is never shorter than half the initial one, never longer than the longest, for any count."""
    value = delay(n, initial_s=initial_s, max_s=max_s)
    assert min(initial_s, max_s) / 2 <= value <= max_s


def test_delays_widen() -> None:
    """The window doubles with each deferral in a row."""
    widest = [max(delay(n, initial_s=5, max_s=900) for _ in range(200)) for n in (1, 3, 6)]
    assert widest[0] <= 5 < widest[1] <= 20 < widest[2] <= 160
