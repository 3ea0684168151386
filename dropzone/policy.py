"""What holds a file back, and what may be done with an outcome that nobody knows, where no person is asked.

Pure functions over facts: no clock, no disk, no ledger. Each returns the event that is to be committed, or None. Three
questions are answered here and nowhere else: does something about the whole file ask for a person's look (`guard`, and
before it is read `guard_unread`), was the same thing accepted before (`duplicate`), and may a file be offered again
that OptiPub may have already (`unknown`, `why_not_again`)?

A repeat is not the first delivery when something happened in between: an unsubscribe is undone by a repeated
subscribe, and rows that others added since are wiped by a repeated `clear`. Hence the windows, by mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dropzone.drop import (
    FORGOTTEN,
    POLICY,
    Attempted,
    Claimed,
    Drop,
    Entry,
    Lost,
    Released,
    Report,
    Resent,
    Retried,
    Skipped,
    Withheld,
    delay,
)
from dropzone.values import value

if TYPE_CHECKING:  # the models are slow to load, and an order needs none
    from dropzone.config import Folder

HOUR_S = 3600.0
REPEATS = 2  # of a drop at most that nobody ordered

# Seconds from the first unknown attempt on during which it may be repeated, where the folder says nothing itself.
_WITHIN_S = {"unsubscribe": math.inf, "suppress": math.inf, "lead": 1800.0, "subscribe": 600.0}
_HOLDS = "the folder holds what is unknown"
_REPLACING_WITHIN_S = 120.0  # with `clear` or a replace-tags column: others may have added rows or tags since
_REPLACING_COLUMNS = frozenset({"tag-replace", "subscriber-tag-replace"})

# Guards of drops that OptiPub may have already: never released, superseded or skipped as if they had not been sent.
UNSURE = ("unknown", FORGOTTEN)


@lru_cache(maxsize=256)
def _parse(settings: str) -> Folder:
    from dropzone.config import Folder

    return Folder.from_settings(settings)


def settings_of(drop: Drop) -> Folder:
    """The folder's settings as they were when the drop was claimed, whatever the configuration says today."""
    return _parse(drop.settings)


def claimed(folder: Folder, name: bytes, size: int, *, base: Path, adopted: bool = False) -> Claimed:
    """A file of the folder is ours, and keeps the settings that the folder has now."""
    return Claimed(
        folder=folder.name,
        name=name,
        account=folder.account,
        segment_id=folder.segment_id,
        lane=folder.lane,
        base=str(base),
        settings=folder.settings_json(),
        size=size,
        adopted=adopted,
    )


@value
class Past:
    """What the ledger knows that a file is judged against."""

    last_rows: int = 0  # rows of the folder's last accepted file; 0: there is none
    hour: int = 0  # files of the folder that were claimed in the hour before this one


def guard_unread(drop: Drop, folder: Folder) -> Withheld | None:
    """Whether the size alone asks for a person's look, before the file is read."""
    if drop.cleared:
        return None
    if drop.size > folder.guards.max_bytes:
        why = f"the file has {drop.size:,} bytes, the folder allows {folder.guards.max_bytes:,}"
        return held(folder, "max_bytes", why)
    if drop.size == 0 and folder.empty == "hold":
        return held(folder, "empty", "the file is empty: not even a header line is in it")
    return None


def guard(drop: Drop, folder: Folder, report: Report, past: Past) -> Withheld | None:
    """Whether something about the whole file asks for a person's look. A breach holds, it never fails a file."""
    if drop.cleared:
        return None
    guard, why = _breach(folder, report, past)
    return held(folder, guard, why, report=report) if guard else None


def _breach(folder: Folder, report: Report, past: Past) -> tuple[str, str]:
    rows, last, guards = report.good_rows, past.last_rows, folder.guards
    if report.cut_off:
        return "incomplete", f"it ends in the middle of a row, in line {report.cut_off:,}: the upload was cut off"
    if report.refused:
        return "", ""  # the check says why, in better words
    if guards.max_files_per_hour is not None and past.hour >= guards.max_files_per_hour:
        return "max_files_per_hour", f"{past.hour:,} files or more came within the hour, as many as the folder allows"
    if rows < guards.min_rows:
        return "min_rows", f"the file has {rows:,} good rows, the folder asks for at least {guards.min_rows:,}"
    if guards.max_rows is not None and rows > guards.max_rows:
        return "max_rows", f"the file has {rows:,} good rows, the folder allows {guards.max_rows:,}"
    if folder.clear and guards.max_shrink is not None and rows < last - guards.max_shrink.of(last):
        return "max_shrink", f"{rows:,} rows would replace the {last:,} rows of the file accepted last"
    if guards.max_growth is not None and last and rows > last + guards.max_growth.of(last):
        return "max_growth", f"the file has {rows:,} rows, the last accepted one had {last:,}"
    return "", ""


def held(folder: Folder, guard: str, why: str, *, report: Report | None = None) -> Withheld:
    """The drop is kept back for `guard`; whether its lane waits with it is the folder's setting.

    One that clears its segment, and that OptiPub may have or not, always keeps the later ones waiting: sent after
    them, it would wipe them.
    """
    blocks = folder.strict_order or (guard in UNSURE and folder.clear)
    return Withheld(guard=guard, why=why, report=report, blocks=blocks)


def duplicate(
    drop: Drop,
    folder: Folder,
    accepted: Sequence[tuple[Drop, Folder]],
    last: str | None,
    joined_since: Callable[[Drop], bool],
    *,
    now: float,
) -> Skipped | Withheld | None:
    """What is to be done with a file whose content OptiPub took already; None: it is sent.

    `accepted` are the drops with the same content for the same segment, with their settings, the latest first; `last`
    is the ID of the segment's last accepted drop. With `clear` only that one counts: an older list that comes again
    after another one is meant to take its place. Opt-outs that come again after people joined (`joined_since` the drop
    was sent) are sent: who left, came back and left once more would be mailed.
    """
    if drop.cleared or drop.tries or folder.duplicates == "send":
        return None
    for first, settings in accepted:
        at = first.verdict_at or first.changed_at
        recent = now - at < folder.duplicates_within  # also where the clock went back: then it is later than now
        if recent and settings.parameters == folder.parameters and not (folder.clear and first.id != last):
            if folder.departs and joined_since(first):
                return None
            skipped = Skipped(first=first.id, first_at=at)
            return skipped if folder.duplicates == "skip" else held(folder, "duplicate", skipped.why)
    return None


def have_left(others: Iterable[Drop]) -> bool:
    """Whether opt-outs are among these drops."""
    return any(settings_of(each).departs for each in others)


def have_joined(others: Iterable[Drop]) -> bool:
    """Whether sign-ups are among these drops."""
    return not all(settings_of(each).departs for each in others)


# ------------------------------------------------------------------------------------------- unknown outcomes


def unknown(drop: Drop, folder: Folder, history: Sequence[Entry], *, departed: bool, now: float) -> Resent | Withheld:
    """What becomes of a drop whose outcome is unknown: offered again after a delay, or held until a person has looked.

    `departed` says whether an unsubscribe or suppress drop of the account was taken, or may have been, since the first
    unknown attempt began.
    """
    repeats = _repeats(history)
    why_not = f"it was sent again {repeats} times already" if repeats >= REPEATS else ""
    if why_not := why_not or why_not_again(folder, history, departed=departed, now=now):
        return held_unknown(drop, folder, why_not)
    wait_s = delay(repeats + 1, initial_s=folder.retry.initial, max_s=folder.retry.max)
    why = f"attempt {last_unknown(history)} may have been taken, and {_allowed(folder, history)}"
    return Resent(by=POLICY, why=why, due_at=now + wait_s)


def held_unknown(drop: Drop, folder: Folder, why_not: str) -> Withheld:
    """The drop is kept back, because it may not be offered again; that the folder wants it so need not be said."""
    return held(folder, "unknown", drop.reason if why_not == _HOLDS else f"{drop.reason} ({why_not})")


def why_not_again(folder: Folder, history: Sequence[Entry], *, departed: bool, now: float) -> str:
    """Why a drop may not be offered again by policy now, as a phrase; empty when it may."""
    within_s = _within_s(folder, history)
    if not within_s:
        return _HOLDS
    if not math.isinf(within_s):
        if now < max(entry.at for entry in history):
            return "the clock was put back meanwhile, so nobody can say how long ago the first such attempt began"
        if not 0 <= now - first_unknown_at(history) < within_s:
            return f"more than {within_s:,.0f} s have passed since the first such attempt began"
    if folder.mode == "subscribe" and departed:
        return "people left in between: an unsubscribe or suppress file of the account was sent"
    return ""


HARMFUL = 2  # the most that `harm_of` says


def harm_of(folder: Folder) -> int:
    """How much harm the folder's files do when one is taken twice, or whose answer is lost: from 0 to `HARMFUL`."""
    if folder.clear:
        return HARMFUL
    return 0 if folder.departs else 1


def may_be_taken(history: Sequence[Entry]) -> bool:
    """Whether OptiPub may have it, whatever became of it since: an answer was lost, or a record of what was sent."""
    return any(
        isinstance(entry.event, Lost) or (isinstance(entry.event, Withheld) and entry.event.guard in UNSURE)
        for entry in history
    )


def first_unknown_at(history: Sequence[Entry]) -> float:
    """When the first attempt began whose outcome nobody knows; infinite where there is none."""
    started_at = math.inf
    for entry in history:
        if isinstance(entry.event, Attempted):
            started_at = entry.at
        elif isinstance(entry.event, Lost):
            return started_at
    return math.inf


def is_repeat(history: Sequence[Entry]) -> bool:
    """Whether the next attempt is one that nobody ordered and that OptiPub may see for the second time."""
    for entry in reversed(history):
        if isinstance(entry.event, Resent | Released | Retried):
            return isinstance(entry.event, Resent) and entry.event.by == POLICY
    return False


def last_unknown(history: Sequence[Entry]) -> int:
    """The number of the latest attempt that OptiPub may have taken already, 0 where there is none."""
    n = lost = 0
    for entry in history:
        if isinstance(entry.event, Attempted):
            n = entry.event.n
        elif isinstance(entry.event, Lost):
            lost = n
    return lost


def _within_s(folder: Folder, history: Sequence[Entry]) -> float:
    if folder.on_unknown is not None:
        return folder.on_unknown
    return _REPLACING_WITHIN_S if _replaces(folder, history) else _WITHIN_S[folder.mode]


def _replaces(folder: Folder, history: Sequence[Entry]) -> bool:
    sent = [entry.event.report for entry in history if isinstance(entry.event, Attempted)]
    return folder.clear or any(not _REPLACING_COLUMNS.isdisjoint(report.columns) for report in sent)


def _allowed(folder: Folder, history: Sequence[Entry]) -> str:
    within_s = _within_s(folder, history)
    if math.isinf(within_s):
        return "the folder repeats what is unknown"
    return f"the folder repeats what is unknown for {within_s:,.0f} s"


def _repeats(history: Sequence[Entry]) -> int:
    """How often it was offered again without anybody's order."""
    return sum(isinstance(entry.event, Resent) and entry.event.by == POLICY for entry in history)
