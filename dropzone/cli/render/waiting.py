"""What waits, and how far what is under way has come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from dropzone import receipt
from dropzone.cli.render.printing import stamp
from dropzone.cli.text import Column, Row, age, bar, many, screen_width, size, table
from dropzone.drop import State
from dropzone.errors import printable
from dropzone.operate import AGES, Ages, Queued
from dropzone.progress import Step

MARKS = {
    State.QUEUED: "·",
    State.SENDING: ">",
    State.HELD: "!",
    State.UNKNOWN: "?",
    State.ACCEPTED: "+",
    State.REFUSED: "x",
    State.DONE: "+",
    State.FAILED: "x",
}
COLOURS = {"!": "yellow", "?": "magenta", "x": "red", "+": "green", ">": "cyan"}

_QUEUE = (
    Column(heading=""),
    Column(heading="ID"),
    Column(heading="STATE", optional=True),
    Column(heading="FOLDER", least=8),
    Column(heading="NAME", least=8),
    Column(heading="SIZE", right=True, spare=True),
    Column(heading="AGE", right=True),
    Column(heading="TRIES", right=True, spare=True),
    Column(heading="NEXT", spare=True),
)


def queue(lines: Sequence[Queued], now: float) -> Iterator[str]:
    """One line per drop, below it why it waits or how far it is; a sum at the end."""
    if not lines:
        yield "The queue is empty."
        return
    yield from table(_QUEUE, [_queue_row(line, now) for line in lines])
    yield f"{many(len(lines), 'drop')}, {size(sum(line.drop.size for line in lines))}{_legend(lines)}"
    if any(line.drop.state is State.HELD for line in lines):
        yield "What can be done about one that is held: dropzone show ID"


def _legend(lines: Sequence[Queued]) -> str:
    """What the marks mean: where it is tight, the column that says so is left out."""
    if screen_width() is None:
        return ""
    states = dict.fromkeys(line.drop.state for line in lines)
    return f"  ({', '.join(f'{MARKS[state]} {state}' for state in states)})"


def _queue_row(line: Queued, now: float) -> Row:
    drop = line.drop
    mark = MARKS[drop.state]
    sentences = []
    if line.step:
        sentences.append(far(line.step))
    elif line.reason:
        sentences.append(receipt.harmless(line.reason))
    return Row(
        cells=(
            mark,
            drop.id,
            drop.state.value,
            drop.folder,
            printable(drop.name),
            size(drop.size),
            age(now - drop.claimed_at),
            str(drop.tries),
            _next(line, now),
        ),
        colour=COLOURS.get(mark),
        below=sentences,
    )


def _next(line: Queued, now: float) -> str:
    if line.drop.state in (State.DONE, State.FAILED):
        return "-"
    if line.drop.state is State.HELD:
        return "a person"
    if line.drop.state is not State.QUEUED:
        return "now"
    return when(line.due_at, now)


def when(due_at: float, now: float) -> str:
    """When something is due: ``now``, ``in 5m``, or once a person says so."""
    if math.isinf(due_at):
        return "a person"
    return "now" if due_at <= now else f"in {age(due_at - now)}"


def far(step: Step) -> str:
    """How far a step is: a bar, the share, the rate and the time left."""
    what = {"check": "checking", "upload": "sending"}.get(step.what, step.what)
    share = step.done / step.total if step.total else 0.0
    left = f", {age(step.left_s)} left" if step.left_s is not None else ""
    return f"{what} [{bar(share)}] {share:4.0%} of {size(step.total)}, {size(step.rate)}/s{left}"


def ages(counted: Sequence[Ages]) -> Iterator[str]:
    """Folders by rows, ages by columns."""
    if not counted:
        yield "The queue is empty."
        return
    headings = [f"<{age(end)}" for end in AGES] + [f">{age(AGES[-1])}"]
    columns = [Column(heading="FOLDER", least=8), Column(heading="ALL", right=True)]
    # On a narrow screen the youngest go: what is old is why somebody asks.
    columns += [Column(heading=heading, right=True, spare=index < 5) for index, heading in enumerate(headings)]
    rows = [
        Row(cells=(line.folder, str(sum(line.counts)), *(str(count or "-") for count in line.counts)))
        for line in counted
    ]
    yield from table(columns, rows)


def ages_member(line: Ages) -> dict[str, Any]:
    """The JSON form of one line of ages; the upper end of each column in seconds, none for the last."""
    ends = (*AGES, None)
    counts = [{"below_s": end, "drops": count} for end, count in zip(ends, line.counts, strict=True)]
    return {"version": 1, "folder": line.folder, "drops": sum(line.counts), "ages": counts}


def queue_member(line: Queued) -> dict[str, Any]:
    """The JSON form of one line of the queue."""
    plain = receipt.as_dict(line.drop)
    return plain | {
        "due_at": stamp(line.due_at),
        "reason": receipt.harmless(line.reason),
        "step": step_member(line.step),
    }


def step_member(step: Step | None) -> dict[str, Any] | None:
    """The JSON form of what is under way; null where nothing is."""
    if step is None:
        return None
    members = {"what": step.what, "done": step.done, "total": step.total}
    return members | {"seconds": round(step.seconds, 3), "rate": round(step.rate), "left_s": step.left_s}
