"""One row, exactly: its cells, their positions, and the first thing that is wrong with its form.

Knows quotes, delimiters and blanks. What a cell means is not known here.

Quotes that are legal are kept as they came: rewriting them costs four times as much (measured) and changes nothing.
Blanks outside of quotes and around unquoted cells go; a space is one, and a tab where it does not separate the cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from dropzone.sheet.lines import Lines, Peek
from dropzone.sheet.rules import CONTROLS, Fault, Rule

_CONTROL = re.compile(f"[{CONTROLS}]")


class Cell(NamedTuple):
    """A cell between two delimiters.

    `start` and `end` are offsets in the row: its first character that is no blank, and the delimiter behind it.
    `written` is the cell as it came, its quotes kept, without the blanks around it; `trimmed` tells that it had some.
    """

    start: int
    end: int
    written: str
    trimmed: bool

    @property
    def quoted(self) -> bool:
        """Whether the cell is in quotes."""
        return self.written.startswith('"')

    @property
    def value(self) -> str:
        """What the cell says: without its quotes, and with each two quotes inside as one."""
        return self.written[1:-1].replace('""', '"') if self.quoted else self.written


class Cells(Protocol):
    """The cells of a row, by their places, and one after the other."""

    def __getitem__(self, index: int, /) -> Cell: ...
    def __iter__(self) -> Iterator[Cell]: ...


class Row(NamedTuple):
    """A row as it came, without its last line end (`ended` tells whether there was one); `line` is its first line.

    `cells` holds the first ones, at most as many as were asked for; `fields` counts all. With a `fault` both are empty.
    """

    line: int
    text: str
    ended: bool = True
    cells: Cells = ()
    fields: int = 0
    fault: Fault | None = None
    long: bool = False  # over the limit: `text` is its beginning and an ellipsis

    def place(self, at: int) -> tuple[int, int]:
        """The physical line and the column, both from 1, of the character `at` so far into the row."""
        return self.line + self.text.count("\n", 0, at), at - self.text.rfind("\n", 0, at)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file separates its cells."""

    delimiter: str

    @property
    def blanks(self) -> str:
        """The characters that are blanks in this file."""
        return " " if self.delimiter == "\t" else " \t"

    def is_blank(self, line: str) -> bool:
        """Whether nothing stands in `line` but blanks and delimiters."""
        return not line.strip(self.blanks + self.delimiter)

    def index(self, text: str, at: int) -> int:
        """In which cell of a row, from 0, the character `at` so far into it stands."""
        if '"' not in text:
            return text.count(self.delimiter, 0, at)
        return sum(1 for cell in self.cells(text) if isinstance(cell, Cell) and cell.end < at)

    def parse(self, text: str, most: int) -> tuple[Cells, int, Fault | None]:
        """The first `most` cells of a row, the number of all, and what is wrong with its quotes."""
        if '"' not in text:
            return _Unquoted(text.split(self.delimiter, most)[:most], self.blanks), text.count(self.delimiter) + 1, None
        kept: list[Cell] = []
        fields = 0
        last_quote = text.rfind('"')
        for cell in self.cells(text):
            if isinstance(cell, Fault):
                return (), 0, cell
            fields += 1
            if fields <= most:  # a row of a million cells must not become a million objects
                kept.append(cell)
            elif cell.end > last_quote:  # nor be looked at a million times
                return tuple(kept), fields + text.count(self.delimiter, cell.end), None
        return tuple(kept), fields, None

    def cells(self, text: str) -> Iterator[Cell | Fault]:
        """The cells of a row, one after the other. Ends with a fault where its quotes are wrong."""
        at = 0
        while at <= len(text):
            cell = self._cell(text, at)
            yield cell
            if isinstance(cell, Fault):
                return
            at = cell.end + 1

    def _cell(self, text: str, at: int) -> Cell | Fault:
        start = self._past_blanks(text, at)
        if text.startswith('"', start):
            return self._quoted_cell(text, at, start)
        end = text.find(self.delimiter, at)
        if end < 0:
            end = len(text)
        quote = text.find('"', start, end)
        if quote >= 0:
            return Fault(Rule.STRAY_QUOTE, quote)
        written = text[at:end].strip(self.blanks)
        return Cell(start, end, written, len(written) < end - at)

    def _quoted_cell(self, text: str, at: int, start: int) -> Cell | Fault:
        closing = _closing_quote(text, start)
        if closing is None:
            return Fault(Rule.OPEN_QUOTE, start)
        end = self._past_blanks(text, closing + 1)
        if end < len(text) and text[end] != self.delimiter:
            return Fault(Rule.AFTER_QUOTE, end)
        written = text[start : closing + 1]
        return Cell(start, end, written, len(written) < end - at)

    def _past_blanks(self, text: str, at: int) -> int:
        while at < len(text) and text[at] in self.blanks:
            at += 1
        return at


class _Unquoted:
    """The cells of a row without a quote: each is looked at only when it is asked for."""

    def __init__(self, came: list[str], blanks: str) -> None:
        self._came = came
        self._blanks = blanks

    def __getitem__(self, index: int, /) -> Cell:
        return self._cell(self._came[index], sum(map(len, self._came[:index])) + index)

    def __iter__(self) -> Iterator[Cell]:
        start = 0
        for came in self._came:
            yield self._cell(came, start)
            start += len(came) + 1

    def _cell(self, came: str, start: int) -> Cell:
        behind_blanks = came.lstrip(self._blanks)
        written = behind_blanks.rstrip(self._blanks)
        end = start + len(came)
        return Cell(end - len(behind_blanks), end, written, len(written) < len(came))


def in_quotes(text: str) -> str:
    """`text` as a cell in quotes."""
    return '"' + text.replace('"', '""') + '"'


def _closing_quote(text: str, opening: int) -> int | None:
    """Where the quotes end that begin at `opening`: at the first one that is not one of two."""
    at = opening + 1
    while (at := text.find('"', at)) >= 0:
        if not text.startswith('""', at):
            return at
        at += 2
    return None


def read_row(lines: Lines, peek: Peek, dialect: Dialect, most: int) -> Row:
    """Take the row that `peek` shows, with at most `most` of its cells.

    Where its quotes are wrong, the row is its first physical line and reading goes on at the next one: a quote that
    was never closed costs one row, not all that follow.
    """
    if peek.long:
        too_long = Fault(Rule.TOO_LONG, 0, {"limit": lines.limit})
        return Row(line=peek.line, text=peek.first + "…", fault=lines.skip() or too_long, long=True)
    text = peek.whole
    cells, fields, quoting = dialect.parse(text, most)
    if quoting and text != peek.first:
        # The first line alone has an odd number of quotes, which no well-formed row has: this finds a fault as well.
        text = peek.first
        cells, fields, quoting = dialect.parse(text, most)
    ended = lines.take(text)
    control = _find_control(text)
    first = min(quoting, control, key=lambda fault: fault.at) if quoting and control else quoting or control
    fault = lines.find_undecodable(text) or first
    if fault:
        cells, fields = (), 0
    return Row(line=peek.line, text=text, ended=ended, cells=cells, fields=fields, fault=fault)


def _find_control(text: str) -> Fault | None:
    found = _CONTROL.search(text)
    return Fault(Rule.CONTROL, found.start(), {"code": ord(found[0])}) if found else None
