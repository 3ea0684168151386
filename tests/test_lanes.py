"""Whose turn it is: order within a lane, fairness between lanes and accounts, waits, closed accounts."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet

from dropzone.lanes import Lanes, Turn


def taken(lanes: Lanes, now: float = 0.0, closed: AbstractSet[str] = frozenset()) -> list[str]:
    """The drops whose turn it is, all at once."""
    ids = []
    while (found := lanes.take(now, closed=closed)) is not None:
        ids.append(found.id)
    return ids


def test_a_lane_gives_one_drop_at_a_time_oldest_first() -> None:
    """The second only after the first is through."""
    lanes = Lanes()
    for id in ("1", "2", "3"):
        lanes.add("main/1", "main", id)
    for id in ("1", "2", "3"):
        assert lanes.take(0.0) == ("main/1", "main", id)
        assert lanes.take(0.0) is None
        lanes.give_back("main/1", None)
    assert lanes.take(0.0) is None
    assert len(lanes) == 0


def test_lanes_take_turns() -> None:
    """A lane with a hundred drops does not keep a lane with one waiting, nor an account another one."""
    lanes = Lanes()
    for number in range(100):
        lanes.add("main/1", "main", f"a{number}")
    lanes.add("main/2", "main", "b")
    lanes.add("other/1", "other", "c")
    order = []
    for _ in range(4):
        found = lanes.take(0.0)
        assert found is not None
        order.append(found.id)
        lanes.give_back(found.lane, None)
    assert order == ["a0", "c", "b", "a1"]


def test_a_head_that_must_wait_blocks_its_lane_only() -> None:
    """Order within the lane is kept; the others go on; when it is due the head comes again."""
    lanes = Lanes()
    for lane, id in (("main/1", "a1"), ("main/1", "a2"), ("main/2", "b1"), ("main/2", "b2")):
        lanes.add(lane, "main", id)
    assert taken(lanes) == ["a1", "b1"]
    lanes.give_back("main/1", 50.0)
    lanes.give_back("main/2", None)
    assert lanes.next_due() == 50.0
    assert taken(lanes, 49.9) == ["b2"]
    lanes.give_back("main/2", None)
    assert taken(lanes, 50.0) == ["a1"]
    lanes.give_back("main/1", None)
    assert taken(lanes, 50.0) == ["a2"]
    assert lanes.next_due() == float("inf")


def test_a_drop_that_is_added_behind_a_waiting_head_waits_too() -> None:
    """It neither overtakes the head nor makes it go early."""
    lanes = Lanes()
    lanes.add("main/1", "main", "a1")
    assert taken(lanes) == ["a1"]
    lanes.add("main/1", "main", "a2")
    assert taken(lanes) == []
    lanes.give_back("main/1", 50.0)
    lanes.add("main/1", "main", "a3")
    assert taken(lanes, 10.0) == []
    assert taken(lanes, 50.0) == ["a1"]


def test_waking_lets_those_look_again_that_wait_for_a_person() -> None:
    """What is due at a time of its own is not hurried by it."""
    lanes = Lanes()
    for lane, due in (("main/1", math.inf), ("main/2", 900.0)):
        lanes.add(lane, "main", lane)
        assert taken(lanes) == [lane]
        lanes.give_back(lane, due)
    assert lanes.next_due() == 900.0
    lanes.wake()
    assert taken(lanes) == ["main/1"]


def test_a_closed_account_keeps_its_lanes_and_no_others() -> None:
    """All but those whose head needs no account: a verdict to be filed."""
    lanes = Lanes()
    lanes.add("main/1", "main", "a")
    lanes.add("filing b", "main", "b", free=True)
    lanes.add("other/1", "other", "c")
    assert taken(lanes, closed={"main"}) == ["b", "c"]
    assert lanes.heads("main", 0.0) == [(True, Turn("main/1", "main", "a"))]
    assert taken(lanes) == ["a"]
    assert lanes.heads("main", 0.0) == []


def test_a_head_may_be_taken_out_of_turn() -> None:
    """To try whether an account is open, though it is not due; afterwards it waits as it is told."""
    lanes = Lanes()
    lanes.add("main/1", "main", "a", due=50.0)
    assert lanes.heads("main", 10.0) == [(False, Turn("main/1", "main", "a"))]
    lanes.take_head("main/1")
    assert taken(lanes, 60.0) == []
    lanes.give_back("main/1", 70.0)
    assert taken(lanes, 60.0) == []
    assert taken(lanes, 70.0) == ["a"]


def test_a_lane_may_be_hurried() -> None:
    """What was said before does not count any more; one that is under way, or unknown, is left alone."""
    lanes = Lanes()
    lanes.add("main/1", "main", "a", due=50.0)
    lanes.hurry("main/1")
    lanes.hurry("main/2")
    assert taken(lanes) == ["a"]
    lanes.hurry("main/1")
    assert taken(lanes) == []


def test_a_drop_is_in_its_lane_once() -> None:
    """Added again while it waits or is under way it is not sent twice; afterwards it may come back."""
    lanes = Lanes()
    lanes.add("main/1", "main", "a")
    lanes.add("main/1", "main", "a")
    assert len(lanes) == 1
    assert taken(lanes) == ["a"]
    lanes.add("main/1", "main", "a")
    lanes.give_back("main/1", None)
    assert taken(lanes) == []
    lanes.add("main/1", "main", "a")
    assert taken(lanes) == ["a"]


def test_a_drop_that_comes_back_goes_before_those_that_are_younger() -> None:
    """A held drop that a person released is the oldest of its lane; what is under way is not disturbed by it."""
    lanes = Lanes()
    lanes.add("main/1", "main", "b")
    lanes.add("main/1", "main", "c")
    assert taken(lanes) == ["b"]
    assert lanes.is_busy("b")
    lanes.add_back("main/1", "main", "a")
    assert lanes.has("a")
    assert not lanes.is_busy("a")
    assert taken(lanes) == []
    for id in ("a", "c"):
        lanes.give_back("main/1", None)
        assert taken(lanes) == [id]


def test_a_drop_may_leave_its_lane_before_its_turn() -> None:
    """Somebody has decided about it; the next one moves up, and what is under way is left alone."""
    lanes = Lanes()
    for id in ("1", "2", "3"):
        lanes.add("main/1", "main", id, due=50.0)
    lanes.remove("2")
    lanes.remove("9")
    assert (lanes.head("main/1"), lanes.has("2"), len(lanes)) == ("1", False, 2)
    lanes.remove("1")
    assert taken(lanes, 10.0) == ["3"]
    lanes.remove("3")
    assert lanes.has("3")
    lanes.give_back("main/1", 90.0)
    lanes.remove("3")
    assert (lanes.head("main/1"), len(lanes)) == (None, 0)
