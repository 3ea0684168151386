"""What a check has found, like a compiler's messages, and how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import click

from dropzone.cli.render.printing import one_line
from dropzone.cli.text import size
from dropzone.drop import Report
from dropzone.errors import printable


def check(file: str, report: Report) -> Iterator[str]:
    """Problems like a compiler's, then what was repaired and counted."""
    name = printable(file)
    for problem in report.problems:
        yield one_line(problem.at(name))
    more = report.problem_count - len(report.problems)
    if more:
        yield f"{name}: … and {more:,} more problems"
    for what, count in report.repairs:
        yield f"{name}: repaired {count:,} x {printable(what)}"
    for repeat in report.repeats:
        yield one_line(repeat.at(name))
    if report.repeated_rows:
        yield f"{name}: {report.repeated_rows:,} rows repeat an address"
    yield f"{name}: {report.rows:,} rows read, {report.good_rows:,} good, {report.bad_rows:,} bad"
    verdict = f"would be refused: {report.refused}" if report.refused else "would be sent"
    yield click.style(f"{name}: {verdict}", fg="red" if report.refused else "green")


def progress(total: int) -> Callable[[int], None] | None:
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
