"""Lines on their way out: in one piece, as JSON, as an error with its mend; and what makes text harmless."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from dropzone import receipt
from dropzone.cli.text import below
from dropzone.errors import printable

START = "Start it: systemctl start dropzone"
RELOAD = "Type: dropzone config check && systemctl reload dropzone"


def say(lines: Iterable[str]) -> None:
    """Print `lines` in one piece."""
    text = "\n".join(lines)
    if text:
        click.echo(text)


def json_lines(members: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, ASCII only."""
    for member in members:
        click.echo(json.dumps(member, ensure_ascii=True, default=str))


def error(message: str, hint: str) -> None:
    """One sentence, and what to do about it, on stderr."""
    for line in below(one_line(message), "dropzone: ", "  ", stream=sys.stderr):
        click.secho(line, fg="red", err=True)
    for line in below(one_line(hint), "  ", stream=sys.stderr) if hint else ():
        click.echo(line, err=True)


def no_daemon(so: str) -> None:
    """That none runs, what follows from it, and what starts it; on stderr."""
    error(f"no daemon runs here, so {so}", START)


def one_line(text: str) -> str:
    """`text` without anything that could disturb a terminal; escapes that it has already stay as they are."""
    return "".join(char if char.isprintable() else printable(char) for char in text)


def marked(mark: str, colour: str | None, sentence: str, indent: str = "", *, gap: int = 2) -> Iterator[str]:
    """A sentence behind its mark, with so many blanks between, wrapped below itself."""
    first, *rest = below(sentence, f"{indent}{mark}{' ' * gap}")
    yield indent + click.style(mark, fg=colour) + first[len(indent) + len(mark) :]
    yield from rest


def stamp(at: float | None) -> str | None:
    """A time in seconds since the epoch as JSON has it; null for none, and for never."""
    return receipt.stamp(at) if at is not None and math.isfinite(at) else None
