"""How results look on a terminal (tables and colour) and in a pipe (plain columns, JSON lines).

Whatever a partner chose (names, cells) goes through `printable` before it gets here or in here; nothing raw is printed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from dropzone import receipt
from dropzone.drop import Report, State
from dropzone.errors import printable
from dropzone.ledger import Attempt
from dropzone.operate import Queued, Shown

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
_COLOURS = {"!": "yellow", "?": "magenta", "x": "red", "+": "green", ">": "cyan"}


def colour() -> bool | None:
    """What click is to be told about colours: False where NO_COLOR forbids them, None for terminals only."""
    return False if os.environ.get("NO_COLOR") else None


def json_lines(members: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, ASCII only."""
    for member in members:
        click.echo(json.dumps(member, ensure_ascii=True, default=str))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; headings in bold on a terminal."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    click.secho(_line(headings, widths), bold=True)
    for row in rows:
        line = _line(row, widths)
        colour = _COLOURS.get(row[0][:1]) if row else None
        click.echo(click.style(row[0], fg=colour) + line[len(row[0]) :] if colour else line)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def queue(lines: Sequence[Queued], now: float) -> None:
    """One line per drop, and its reason on a line of its own."""
    headings = ("", "ID", "STATE", "FOLDER", "NAME", "SIZE", "AGE", "TRIES", "NEXT")
    rows = []
    for line in lines:
        drop = line.drop
        rows.append(
            (
                MARKS[drop.state],
                drop.id,
                drop.state.value,
                drop.folder,
                short(printable(drop.name), 30),
                size(drop.size),
                age(now - drop.claimed_at),
                str(drop.tries),
                _next(line, now),
            )
        )
    if not rows:
        click.echo("The queue is empty.")
        return
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    click.secho(_line(headings, widths), bold=True)
    for line, row in zip(lines, rows, strict=True):
        click.echo(click.style(row[0], fg=_COLOURS.get(row[0])) + _line(row, widths)[1:])
        if line.reason:
            click.echo(f"     {receipt.harmless(line.reason)}")
    click.echo(f"{len(rows)} drop{'s' if len(rows) != 1 else ''}, {size(sum(line.drop.size for line in lines))}")


def _next(line: Queued, now: float) -> str:
    if line.drop.state is State.HELD:
        return "a person"
    if line.drop.state is not State.QUEUED:
        return "now"
    return "now" if line.due_at <= now else f"in {age(line.due_at - now)}"


def show(shown: Shown) -> None:
    """All about one drop: the log as it would be filed now, the attempts, and where the file is."""
    click.echo(receipt.render_log(shown.drop, shown.history), nl=False)
    if shown.attempts:
        click.echo("\nAttempts")
        table(
            ("N", "STARTED (UTC)", "OUTCOME", "STATUS", "SECONDS"),
            [
                (
                    str(attempt.n),
                    receipt.clock(attempt.started_at),
                    attempt.outcome or "under way",
                    str(attempt.status or "-"),
                    f"{attempt.ended_at - attempt.started_at:.1f}" if attempt.ended_at else "-",
                )
                for attempt in shown.attempts
            ],
        )
    place = printable(str(shown.path)) if shown.path else "in none of its places: look at work/, done/ and failed/"
    click.echo(f"\nThe file is {place}")


def attempt(attempt: Attempt) -> dict[str, Any]:
    """The JSON form of an attempt."""
    plain = asdict(attempt) | {"why": receipt.harmless(attempt.why)}
    for name in ("started_at", "ended_at"):
        plain[name] = receipt.stamp(plain[name]) if plain[name] is not None else None
    return plain


def check(file: str, report: Report) -> None:
    """Problems like a compiler's, then what was repaired and counted."""
    name = printable(file)
    for problem in report.problems:
        click.echo(printable_problem(problem.at(name)))
    more = report.problem_count - len(report.problems)
    if more:
        click.echo(f"{name}: … and {more:,} more problems")
    for what, count in report.repairs:
        click.echo(f"{name}: repaired {count:,} x {printable(what)}")
    for repeat in report.repeats:
        click.echo(printable_problem(repeat.at(name)))
    if report.repeated_rows:
        click.echo(f"{name}: {report.repeated_rows:,} rows repeat an address")
    click.echo(f"{name}: {report.rows:,} rows read, {report.good_rows:,} good, {report.bad_rows:,} bad")
    verdict = f"would be refused: {report.refused}" if report.refused else "would be sent"
    click.secho(f"{name}: {verdict}", fg="red" if report.refused else "green")


def printable_problem(text: str) -> str:
    """A problem's line without anything that could disturb a terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def error(message: str, hint: str) -> None:
    """One sentence, and what to do about it, on stderr."""
    click.secho(f"dropzone: {printable_problem(message)}", fg="red", err=True)
    if hint:
        click.echo(f"  {printable_problem(hint)}", err=True)


def progress(total: int) -> Any:
    """A callable that draws how far a check is, on a terminal; None elsewhere."""
    if not sys.stderr.isatty() or total < 32 * 1024 * 1024:
        return None
    last, whole = 0.0, False

    def draw(done: int) -> None:
        nonlocal last, whole
        now = time.monotonic()
        if whole or (now - last < 0.2 and done < total):
            return
        last, whole = now, done >= total  # all may be read and not all done: then it is told again and again
        click.echo(f"\r{done / total:4.0%} of {size(total)} read", nl=done >= total, err=True)

    return draw


def short(text: str, length: int) -> str:
    """`text` cut to `length` characters, the end kept: it is what names differ in."""
    return text if len(text) <= length else "…" + text[1 - length :]


def size(count: int) -> str:
    """Bytes for people: ``812 B``, ``1.4 MiB``."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"


def age(seconds: float) -> str:
    """A time span for people: ``42s``, ``17m``, ``5h``, ``3d``."""
    seconds = max(0.0, seconds)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"
