"""What holds a file, what counts as a duplicate, and when an unknown outcome may be offered again."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from dropzone.config import Folder
from dropzone.drop import (
    POLICY,
    Accepted,
    Attempted,
    Deferred,
    Drop,
    Entry,
    Event,
    Lost,
    Released,
    Report,
    Resent,
    Retried,
    Skipped,
    State,
    Withheld,
)
from dropzone.policy import Past, duplicate, guard, held, is_repeat, last_unknown, unknown, why_not_again

LOST = Lost(cause="no answer", sent=9)


def folder(mode: str = "lead", **settings: Any) -> Folder:
    """A folder's settings as the ledger would have kept them."""
    if mode == "subscribe":
        settings |= {"source_campaign": 90, "source_partner": 9}
    if mode == "suppress":
        settings |= {"hash": "sha256"}
    facts = {
        "name": "acme",
        "base": "/srv",
        "path": "/srv/inbox/acme",
        "account": "main",
        "segment_id": 7,
        "mode": mode,
    }
    return Folder.from_settings(json.dumps(facts | settings))


def drop(id: str = "A", **facts: Any) -> Drop:
    known: dict[str, Any] = {
        "id": id,
        "folder": "acme",
        "name": b"a.csv",
        "account": "main",
        "segment_id": 7,
        "lane": "main/7",
        "base": "/srv",
        "settings": "{}",
        "size": 10,
        "claimed_at": 0.0,
        "state": State.QUEUED,
        "due_at": 0.0,
        "changed_at": 0.0,
        "reason": "no answer",
    }
    return Drop(**known | facts)


def report(rows: int, **facts: Any) -> Report:
    return Report(columns=("email",), rows=rows, good_rows=rows, **facts)


def sent(n: int, *columns: str) -> Attempted:
    return Attempted(n=n, digest="d", size=9, report=Report(columns=("email", *columns), rows=1, good_rows=1))


def history(*steps: tuple[float, Event]) -> list[Entry]:
    return [Entry(at=at, event=event) for at, event in steps]


ONCE = history((100.0, sent(1)), (400.0, LOST))


# --------------------------------------------------------------------------------------------------------- guards

GUARDS: dict[str, tuple[dict[str, Any], dict[str, Any], int, Past, str]] = {
    "min_rows": ({"min_rows": 10}, {}, 9, Past(), "9 good rows, the folder asks for at least 10"),
    "max_rows": ({"max_rows": 10}, {}, 1011, Past(), "1,011 good rows, the folder allows 10"),
    "max_shrink": ({}, {"clear": True}, 499, Past(last_rows=1000), "499 rows would replace the 1,000 rows"),
    "max_growth": (
        {"max_growth": "10%"},
        {},
        1101,
        Past(last_rows=1000),
        "1,101 rows, the last accepted one had 1,000",
    ),
    "max_files_per_hour": ({"max_files_per_hour": 3}, {}, 5, Past(hour=3), "3 files or more came within the hour"),
}


@pytest.mark.parametrize("name", GUARDS)
def test_a_breach_holds_with_its_figures(name: str) -> None:
    """Each guard names itself and says what it saw; one row or file less, and the file goes."""
    guards, settings, rows, past, words = GUARDS[name]
    here = folder(guards=guards, **settings)
    found = guard(drop(), here, report(rows), past)
    assert isinstance(found, Withheld)
    assert (found.guard, found.blocks) == (name, False)
    assert words in found.why
    assert guard(drop(cleared=True), here, report(rows), past) is None
    fits = {"min_rows": 10, "max_rows": 10, "max_shrink": 500, "max_growth": 1100}.get(name, rows)
    assert guard(drop(), here, report(fits), Past(last_rows=past.last_rows, hour=2)) is None


def test_a_file_that_was_cut_off_is_held_and_not_refused() -> None:
    """Its last row is bad and has no line end: also where so many bad rows are allowed. Released, it is judged."""
    cut = report(5, cut_off=6, refused="1 of 6 rows is bad")
    found = guard(drop(), folder(bad_rows=10), cut, Past())
    assert isinstance(found, Withheld)
    assert (found.guard, found.report) == ("incomplete", cut)
    assert "in line 6" in found.why
    assert guard(drop(cleared=True), folder(), cut, Past()) is None


def test_a_file_that_the_check_refuses_is_not_held_for_its_size() -> None:
    """The check says why, and the partner is told; holding it would help nobody."""
    assert guard(drop(), folder(guards={"min_rows": 10}), report(0, refused="all rows are bad"), Past()) is None


def test_what_blocks_its_lane() -> None:
    """With strict_order every hold; with clear only what OptiPub may have."""
    assert held(folder(strict_order=True), "min_rows", "few").blocks
    assert held(folder(clear=True), "unknown", "lost").blocks
    assert not held(folder(clear=True), "min_rows", "few").blocks
    assert not held(folder(), "unknown", "lost").blocks


# ----------------------------------------------------------------------------------------------------- duplicates


def known(id: str = "B", at: float = 1000.0) -> Drop:
    return drop(id, state=State.DONE, verdict_at=at)


def nobody(_: Drop) -> bool:
    """Nobody joined meanwhile."""
    return False


def test_the_same_again_is_skipped_within_its_time() -> None:
    """The first one is named; later than a day it is sent; a clock that went back makes nothing old."""
    here = folder()
    found = duplicate(drop(), here, [(known(), here)], "B", nobody, now=1000.0 + 86_399)
    assert found == Skipped(first="B", first_at=1000.0)
    assert duplicate(drop(), here, [(known(), here)], "B", nobody, now=1000.0 + 86_400) is None
    assert duplicate(drop(), here, [(known(), here)], "B", nobody, now=5.0) == found
    assert duplicate(drop(), here, [], None, nobody, now=5.0) is None


def test_other_parameters_are_no_duplicate() -> None:
    """The same addresses as opt-outs do something else than as leads."""
    assert duplicate(drop(), folder("unsubscribe"), [(known(), folder())], "B", nobody, now=1001.0) is None
    tagged = folder(extra_fields={"tagsToAdd": "7"})
    assert duplicate(drop(), tagged, [(known(), folder()), (known("C"), tagged)], "B", nobody, now=1001.0) == Skipped(
        first="C", first_at=1000.0
    )


def test_duplicates_may_be_held_or_sent() -> None:
    """As the folder says; what a person released or the server has seen goes on."""
    holds, sends = folder(duplicates="hold"), folder(duplicates="send")
    found = duplicate(drop(), holds, [(known(), holds)], "B", nobody, now=1001.0)
    assert isinstance(found, Withheld)
    assert (found.guard, "as B" in found.why) == ("duplicate", True)
    assert duplicate(drop(), sends, [(known(), sends)], "B", nobody, now=1001.0) is None
    assert duplicate(drop(cleared=True), holds, [(known(), holds)], "B", nobody, now=1001.0) is None
    assert duplicate(drop(tries=1), folder(), [(known(), folder())], "B", nobody, now=1001.0) is None


@pytest.mark.parametrize("mode", ["subscribe", "lead", "unsubscribe", "suppress"])
def test_who_came_back_can_leave_with_the_same_file_once_more(mode: str) -> None:
    """Opt-outs are sent again where sign-ups were sent in between; sign-ups are not, whoever left or came."""
    here = folder(mode)
    assert isinstance(duplicate(drop(), here, [(known(), here)], "B", nobody, now=1001.0), Skipped)
    found = duplicate(drop(), here, [(known(), here)], "B", lambda first: first.id == "B", now=1001.0)
    assert (found is None) == (mode in {"unsubscribe", "suppress"})


def test_an_older_full_list_that_comes_again_is_sent() -> None:
    """A, B, A with `clear`: the segment holds B now, so the second A changes it."""
    here = folder(clear=True)
    assert duplicate(drop(), here, [(known("B"), here)], "C", nobody, now=1001.0) is None
    assert isinstance(duplicate(drop(), here, [(known("B"), here)], "B", nobody, now=1001.0), Skipped)


# ------------------------------------------------------------------------------------------------ unknown outcomes

# mode and settings, columns, until how many seconds after the first unknown attempt began a repeat is allowed
WINDOWS = {
    "unsubscribe": (folder("unsubscribe"), (), math.inf),
    "suppress": (folder("suppress"), (), math.inf),
    "suppress, clear": (folder("suppress", clear=True), (), 120.0),
    "lead": (folder("lead"), (), 1800.0),
    "lead, clear": (folder("lead", clear=True), (), 120.0),
    "subscribe": (folder("subscribe"), (), 600.0),
    "replaces tags": (folder("lead"), ("tag-replace",), 120.0),
    "replaces subscriber tags": (folder("unsubscribe"), ("subscriber-tag-replace",), 120.0),
    "adds tags": (folder("lead"), ("tag-add",), 1800.0),
    "hold": (folder("unsubscribe", on_unknown="hold"), (), 0.0),
    "resend": (folder("lead", clear=True, on_unknown="resend"), (), math.inf),
    "resend_within": (folder("lead", on_unknown={"resend_within": "5s"}), (), 5.0),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_each_mode_has_its_window(name: str) -> None:
    """It counts from the first unknown attempt, and a clock that went backwards counts as expired."""
    here, columns, within = WINDOWS[name]
    lost = history((100.0, sent(1, *columns)), (100.5, LOST))
    for now, inside in ((101.0, within > 1), (100 + min(within, 1e9) - 0.1, within > 0), (100 + within, False)):
        found = unknown(drop(), here, lost, departed=False, now=min(now, 1e12))
        if inside or math.isinf(within):
            assert isinstance(found, Resent)
            assert found.by == POLICY
            assert found.due_at > min(now, 1e12)
            assert "attempt 1 may have been taken" in found.why
        else:
            assert isinstance(found, Withheld)
            assert (found.guard, found.blocks) == ("unknown", here.clear)
            assert found.why.startswith("no answer")
    for now in (99.0, 100.2):  # also where that is still after the attempt began
        back = unknown(drop(), here, lost, departed=False, now=now)
        assert isinstance(back, Resent if math.isinf(within) else Withheld)
        assert not isinstance(back, Withheld) or not within or "the clock was put back" in back.why


def test_nobody_who_may_have_left_is_signed_up_again() -> None:
    """Opt-outs were sent in between: subscribe is held even where it is to be resent always; the others go."""
    for here in (folder("subscribe"), folder("subscribe", on_unknown="resend")):
        found = unknown(drop(), here, ONCE, departed=True, now=401.0)
        assert isinstance(found, Withheld)
        assert "people left in between" in found.why
    for mode in ("unsubscribe", "suppress", "lead"):
        assert isinstance(unknown(drop(), folder(mode), ONCE, departed=True, now=401.0), Resent)


def test_at_most_two_repeats() -> None:
    """Counted over the whole life; the third unknown outcome is a person's business."""
    steps: list[tuple[float, Event]] = [(100.0, sent(1)), (101.0, LOST)]
    for n in (2, 3):
        again = unknown(drop(), folder("unsubscribe"), history(*steps), departed=False, now=102.0)
        assert isinstance(again, Resent)
        assert f"attempt {n - 1} may have been taken" in again.why
        steps += [(102.0, again), (103.0, sent(n)), (104.0, LOST)]
    found = unknown(drop(), folder("unsubscribe"), history(*steps), departed=False, now=105.0)
    assert isinstance(found, Withheld)
    assert "sent again 2 times already" in found.why


def test_the_window_counts_from_the_first_unknown_attempt() -> None:
    """Deferrals before it do not count, and repeats do not open it again."""
    here = folder("subscribe")
    life = history(
        (10.0, sent(1)), (11.0, Deferred(due_at=90.0, cause="503")), (100.0, sent(2)), (101.0, LOST),
        (102.0, Resent(by=POLICY, why="")), (600.0, sent(3)), (650.0, LOST),
    )  # fmt: skip
    assert why_not_again(here, life, departed=False, now=699.0) == ""
    assert "more than 600 s" in why_not_again(here, life, departed=False, now=700.0)
    assert last_unknown(life) == 3


def test_what_a_person_ordered_is_no_repeat_of_the_policy() -> None:
    """A retry or a release is sent whatever the window says; a deferral in between changes nothing."""
    resent = (402.0, Resent(by=POLICY, why=""))
    assert is_repeat([*ONCE, *history(resent, (403.0, sent(2)), (404.0, Deferred(due_at=500.0, cause="503")))])
    for event in (Resent(by="ann", why=""), Released(by="ann", again=True), Retried(by="ann")):
        assert not is_repeat([*ONCE, *history(resent, (403.0, event))])
    assert not is_repeat(ONCE)
    assert last_unknown(history((1.0, sent(1)), (2.0, Accepted(status=201, body="")))) == 0
