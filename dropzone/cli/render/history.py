"""One drop, whole: what its log would say, its attempts, and where its file is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from dropzone import receipt
from dropzone.cli.render.printing import one_line, stamp
from dropzone.cli.render.waiting import far, step_member
from dropzone.cli.text import Column, Row, age, below, pad, table
from dropzone.drop import Expired
from dropzone.errors import printable
from dropzone.ledger import Attempt
from dropzone.operate import Shown


def show(shown: Shown) -> Iterator[str]:
    """All about one drop: what the log would say, with the time between events, the attempts, and where the file is."""
    first, *why = receipt.head(shown.drop)
    yield from (click.style(line, bold=True) for line in below(first, ""))
    for line in why:
        yield from below(line, "")
    if shown.step:
        yield "now " + far(shown.step)
    for title, lines in receipt.sections(shown.drop, shown.history):
        yield ""
        if title:
            yield click.style(title, bold=True)
        if title == receipt.HAPPENED:
            yield from _timeline(shown)
        else:
            for line in lines:
                yield from below(line, "  ", " " * (4 if title else _FACTS))
    if shown.attempts:
        yield "\n" + click.style("Attempts", bold=True)
        yield from table(_ATTEMPTS, [_attempt_row(attempt) for attempt in shown.attempts])
    yield ""
    yield from below(f"The file is {_place(shown)}", "")


def _place(shown: Shown) -> str:
    if shown.path:
        return printable(str(shown.path))
    if shown.history and isinstance(shown.history[-1].event, Expired):
        return "deleted, as `retention:` says"
    return "in none of its places: look at work/, done/ and failed/"


_FACTS = 11  # columns before the value of a fact
_ATTEMPTS = (
    Column(heading="N"),
    Column(heading="STARTED (UTC)"),
    Column(heading="SECONDS", right=True),
    Column(heading="OUTCOME"),
    Column(heading="STATUS"),
)


def _attempt_row(attempt: Attempt) -> Row:
    return Row(
        cells=(
            str(attempt.n),
            receipt.clock(attempt.started_at),
            f"{attempt.ended_at - attempt.started_at:.1f}" if attempt.ended_at else "-",
            attempt.outcome or "under way",
            str(attempt.status or "-"),
        ),
        below=[receipt.harmless(attempt.why)] if attempt.why else (),
    )


def _timeline(shown: Shown) -> Iterator[str]:
    before = None
    for entry in shown.history:
        gap = "" if before is None else f"+{age(entry.at - before)}"
        before = entry.at
        yield from below(receipt.tell(entry.event), f"  {receipt.clock(entry.at)} {pad(gap, 5, right=True)}  ")


def show_member(shown: Shown) -> dict[str, Any]:
    """The JSON form of all about one drop."""
    return receipt.as_dict(shown.drop) | {
        "events": [receipt.event_as_dict(entry) for entry in shown.history],
        "attempts_made": [attempt_member(attempt) for attempt in shown.attempts],
        "file": one_line(str(shown.path)) if shown.path else None,
        "step": step_member(shown.step),
    }


def attempt_member(attempt: Attempt) -> dict[str, Any]:
    """The JSON form of an attempt."""
    plain = asdict(attempt) | {"why": receipt.harmless(attempt.why)}
    for name in ("started_at", "ended_at"):
        plain[name] = stamp(plain[name])
    return plain
