"""Text for terminals and pipes: how wide it is, tables that fit, sizes and ages for people. Knows nothing of drops.

On a terminal a table is made to fit: long names lose their beginnings, and columns that say least are left out. In a
pipe nothing is cut, because whoever reads there has no edge.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TextIO

import click

from dropzone.values import value


def colour() -> bool | None:
    """What click is to be told about colours: False where NO_COLOR forbids them, None for terminals only."""
    return False if os.environ.get("NO_COLOR") else None


def screen_width(stream: TextIO | None = None) -> int | None:
    """How many columns the terminal on `stream` (standard output) has; None in a pipe."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and len(said) < 6 and int(said):
        return int(said)
    try:  # not shutil's: that brings three compressors along, which a question has to wait for
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def width(text: str) -> int:
    """How many columns `text` takes: two for a wide character, none for one that combines."""
    return len(text) if text.isascii() else _width(text)


@lru_cache(maxsize=128)  # the same few marks stand in every line of a queue
def _width(text: str) -> int:
    return sum(
        0 if unicodedata.category(char) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def short(text: str, length: int) -> str:
    """`text` cut to `length` columns, the end kept: it is what names differ in."""
    if width(text) <= length:
        return text
    kept, taken = 0, 1
    for char in reversed(text):
        taken += width(char)
        if taken > length:
            break
        kept += 1
    return "…" + text[len(text) - kept :]


def pad(text: str, length: int, *, right: bool = False) -> str:
    """`text` filled up with blanks to `length` columns, in front of it with `right`."""
    if text.isascii():  # nearly all of a long queue is
        return text.rjust(length) if right else text.ljust(length)
    blanks = " " * (length - width(text))
    return blanks + text if right else text + blanks


def size(count: float) -> str:
    """Bytes for people: ``812 B``, ``1.4 MiB``."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{int(count)} B" if unit == "B" else f"{number:.1f} {unit}"


def age(seconds: float) -> str:
    """A time span for people: ``42s``, ``17m``, ``5h``, ``3d``."""
    seconds = max(0.0, seconds)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def many(count: int, what: str) -> str:
    """``1 drop``, ``3 drops``, ``1,200 drops``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def bar(share: float, length: int = 20) -> str:
    """How far something is, drawn in `length` characters."""
    full = round(max(0.0, min(share, 1.0)) * length)
    return "#" * full + "-" * (length - full)


_BELOW = "     "  # before the sentences below a row


def below(text: str, indent: str = _BELOW, rest: str | None = None, *, stream: TextIO | None = None) -> Iterator[str]:
    """A sentence behind `indent`; where the screen has an edge it is wrapped, further lines behind `rest`.

    `stream` is where it is going to, by default standard output.
    """
    yield from _wrapped(text, indent, rest, screen_width(stream))


def _wrapped(text: str, indent: str, rest: str | None, columns: int | None) -> Iterator[str]:
    if columns is None or width(indent) + width(text) <= columns:
        yield indent + text
        return
    rest = " " * width(indent) if rest is None else rest
    line, room = indent, max(columns, width(indent) + 20)
    for word in text.split(" "):
        for piece in _pieces(word, room - width(rest)):
            fits = width(line) + width(piece) <= room
            if not fits and line.strip():
                yield line.rstrip()
                line = rest
            line += piece
        line += " "
    yield line.rstrip()


def _pieces(word: str, most: int) -> Iterator[str]:
    """`word` whole where it fits into `most` columns, else cut: a name of 255 characters must go somewhere."""
    piece = ""
    for char in word:
        if width(piece) + width(char) > most:
            yield piece
            piece = ""
        piece += char
    yield piece


# ------------------------------------------------------------------------------------------------------ tables


@value
class Column:
    """One column: `least` is how narrow it may be made, and what becomes of it where it gets tight.

    What is `optional` is left out before anything is cut; what is `spare` once nothing more can be cut, the last first.
    """

    heading: str
    least: int | None = None
    optional: bool = False
    spare: bool = False
    right: bool = False


@value
class Row:
    """The cells of one line, the colour of its first, and sentences below it."""

    cells: Sequence[str]
    colour: str | None = None
    below: Sequence[str] = ()


def table(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a table, its headings in bold, made to fit the terminal if there is one."""
    limit = screen_width()
    texts = list(zip([column.heading for column in columns], *(row.cells for row in rows), strict=True))
    widths = [max(map(_measure(column), column)) for column in texts]
    _fit(columns, widths, limit)
    shown = [_aligned(*each) for each in zip(texts, widths, columns, strict=True) if each[1]]
    heading, *lines = ("  ".join(cells).rstrip() for cells in zip(*shown, strict=True))
    yield click.style(heading, bold=True)
    for row, line in zip(rows, lines, strict=True):
        first = len(short(row.cells[0], widths[0])) if row.colour else 0
        yield click.style(line[:first], fg=row.colour) + line[first:] if first else line
        for sentence in row.below:
            yield from _wrapped(sentence, _BELOW, None, limit)


def _fit(columns: Sequence[Column], widths: list[int], limit: int | None) -> None:
    """Make `widths` fit into `limit` columns: what is optional goes, then names are cut, then what is spare goes."""

    def excess() -> int:
        shown = [each for each in widths if each]
        return sum(shown) + 2 * (len(shown) - 1) - (limit or 0)

    if limit is None:
        return
    for index, column in enumerate(columns):
        if excess() > 0 and column.optional:
            widths[index] = 0
    while excess() > 0:
        wide = [index for index, column in enumerate(columns) if column.least and widths[index] > column.least]
        spare = [index for index, column in enumerate(columns) if column.spare and widths[index]]
        if wide:
            widths[max(wide, key=widths.__getitem__)] -= 1
        elif spare:
            widths[spare[-1]] = 0
        else:
            return


def _measure(texts: Sequence[str]) -> Callable[[str], int]:
    """What tells the width of any of `texts`: nearly always all of a column are ASCII, and a queue may be long."""
    return len if all(map(str.isascii, texts)) else width


def _aligned(texts: Sequence[str], length: int, column: Column) -> Sequence[str]:
    """All cells of one column at the same width, those cut that are longer."""
    if max(map(_measure(texts), texts)) > length:
        texts = [short(text, length) for text in texts]
    if _measure(texts) is len:
        return [text.rjust(length) if column.right else text.ljust(length) for text in texts]
    return [pad(text, length, right=column.right) for text in texts]
