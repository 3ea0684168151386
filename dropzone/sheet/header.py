"""The first line: what separates the cells, which columns there are, and in which order they are written.

Knows what a column may be called and what the folder says about names. Reads no row but the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import assert_never

from dropzone.config import Folder
from dropzone.errors import Problem
from dropzone.sheet.digests import is_entry
from dropzone.sheet.lines import Lines, Peek
from dropzone.sheet.rows import Cell, Dialect, Row, in_quotes, read_row
from dropzone.sheet.rules import (
    BLANKS,
    DELIMITERS,
    MAX_COLUMNS,
    Refusal,
    Repair,
    Rule,
    is_known,
    mask,
    problem,
    refusal,
    shown,
)

_CALLED = {",": "comma", ";": "semicolon", "\t": "tab"}
_NOT_IN_A_VARIABLE = re.compile("[^a-z0-9_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """How the rows of a file are read and written.

    `names` are the file's columns in the file's order, under the names they are written with; `order` says which of
    them are written, as indexes into `names`, the one of the addresses first. `text` is the line as it came.
    """

    dialect: Dialect
    names: tuple[str, ...]
    order: tuple[int, ...]
    text: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that are written."""
        return tuple(self.names[index] for index in self.order)

    @property
    def entry_end(self) -> bytes:
        """What stands behind the address in a row that is written."""
        return b"," if len(self.order) > 1 else b"\n"

    @property
    def line(self) -> str:
        """The header line of the prepared copy, without its line end."""
        return ",".join(_written(name) for name in self.columns)


def describe(dialect: Dialect) -> str:
    """What a file's delimiter is called in sentences."""
    return _CALLED[dialect.delimiter]


def read_header(lines: Lines, folder: Folder, repairs: Counter[Repair]) -> Header:
    """Take the header line, and the blank ones before it. Raises `Refusal` where no row could be read by it.

    A file of addresses (or digests) alone may come without one: then nothing is taken, and `email` is its header.
    """
    peek = _first_line(lines, folder, repairs)
    dialect = _dialect(peek, folder)
    cells = _first_cells(peek, dialect)
    named = peek.long or "email" in _names(cells, folder)
    if not named and any(is_entry(cell.value.strip(BLANKS)) for cell in cells):
        if len(cells) > 1 or any(delimiter in cells[0].value for delimiter in DELIMITERS):
            raise refusal(Rule.NO_HEADER, peek.line, 1)
        repairs[Repair.HEADER] = 1
        return Header(dialect=dialect, names=("email",), order=(0,), text="email")
    row = read_row(lines, peek, dialect, MAX_COLUMNS)
    _refuse_unreadable(row)
    repairs[Repair.DELIMITER] += row.fields > 1 and dialect.delimiter != ","
    repairs[Repair.LAST_LINE_END] += not row.ended
    return _columns(row, dialect, folder, repairs)


def _first_line(lines: Lines, folder: Folder, repairs: Counter[Repair]) -> Peek:
    blanks = " \t" + "".join(_candidates(folder))
    while peek := lines.peek():
        if peek.long or peek.first.strip(blanks):
            return peek
        lines.take(peek.first)
        repairs[Repair.BLANK_LINES] += 1
    raise refusal(Rule.EMPTY)


def _candidates(folder: Folder) -> tuple[str, ...]:
    match folder.delimiter:
        case "auto":
            return DELIMITERS
        case "tab":
            return ("\t",)
        case "," | ";":
            return (folder.delimiter,)
        case _:
            assert_never(folder.delimiter)


def _first_cells(peek: Peek, dialect: Dialect) -> list[Cell]:
    """The cells of the header, up to a fault: for a look, before it is known what separates them."""
    return [cell for cell in islice(dialect.cells(peek.whole), MAX_COLUMNS) if isinstance(cell, Cell)]


def _dialect(peek: Peek, folder: Folder) -> Dialect:
    """How the cells are separated: the first of the folder's choice by which the header has an `email`, or the first.

    So a semicolon or a tab has to prove itself, and only where a comma does not.
    """
    proven = [
        delimiter for delimiter in DELIMITERS if "email" in _names(_first_cells(peek, Dialect(delimiter)), folder)
    ]
    candidates = _candidates(folder)
    chosen = next((delimiter for delimiter in candidates if delimiter in proven), candidates[0])
    if proven and chosen not in proven:
        raise refusal(Rule.DELIMITER, peek.line, 1, found=f"a {_CALLED[proven[0]]}", expected=f"a {_CALLED[chosen]}")
    return Dialect(chosen)


def _refuse_unreadable(row: Row) -> None:
    if row.fault:
        line, column = row.place(row.fault.at)
        found = problem(row.fault.rule, line, column, "", **row.fault.facts)
        raise Refusal(f"the header line cannot be read: {found.what}", found)
    if row.fields > MAX_COLUMNS:
        raise refusal(Rule.MANY_COLUMNS, row.line, 1, count=row.fields, most=MAX_COLUMNS)


def _columns(row: Row, dialect: Dialect, folder: Folder, repairs: Counter[Repair]) -> Header:
    renames = _renames(folder)
    problems: list[Problem] = []
    names: list[str] = []
    order: list[int] = []
    for index, cell in enumerate(row.cells):
        found = _name(cell, renames)
        name, repair, rule = _allowed(found, folder)
        names.append(name)
        if repair:
            repairs[repair] += 1
        if repair is not Repair.DROPPED:
            if rule is None and name in (names[other] for other in order):
                rule = Rule.TWICE
            order.append(index)
            _count_spelling(cell, found, name, repairs)
        if rule:
            problems.append(problem(rule, *row.place(cell.start), name=_shown(found), number=index + 1))
    if "email" not in names:
        problems.insert(0, problem(Rule.NO_EMAIL, row.line, 1, names=shown(", ".join(names))))
    if problems:
        more = f" (the first of {len(problems)} problems in the header line)" if len(problems) > 1 else ""
        raise Refusal(problems[0].what + more, *problems)
    email = names.index("email")
    repairs[Repair.MOVED] += order[0] != email
    order.sort(key=lambda index: index != email)  # stable: the others keep their order
    return Header(dialect=dialect, names=tuple(names), order=tuple(order), text=row.text)


def _allowed(name: str, folder: Folder) -> tuple[str, Repair | None, Rule | None]:
    """What a column is called in the prepared copy, what was repaired for that, and what rule it breaks."""
    if is_known(name):
        return name, None, None
    if not name and folder.unknown_columns != "drop":
        return name, None, Rule.NAMELESS
    match folder.unknown_columns:
        case "reject":
            return name, None, Rule.UNKNOWN
        case "drop":
            return name, Repair.DROPPED, None
        case "keep":
            return name, None, None
        case "prefix":
            prefixed = "varr_" + _NOT_IN_A_VARIABLE.sub("_", name.removeprefix("varr_"))
            return prefixed, Repair.PREFIXED, None if is_known(prefixed) else Rule.UNKNOWN
        case _:
            assert_never(folder.unknown_columns)


def _count_spelling(cell: Cell, found: str, name: str, repairs: Counter[Repair]) -> None:
    plain = _plain(cell)
    repairs[Repair.NAME_CASE] += cell.trimmed or plain != cell.value
    repairs[Repair.RENAMED] += found != plain
    repairs[Repair.NAME_QUOTES] += cell.quoted and not _written(name).startswith('"')


def _renames(folder: Folder) -> dict[str, str]:
    return {theirs.strip().lower(): ours.strip().lower() for theirs, ours in folder.rename.items()}


def _names(cells: Iterable[Cell], folder: Folder) -> list[str]:
    renames = _renames(folder)
    return [_name(cell, renames) for cell in cells]


def _name(cell: Cell, renames: Mapping[str, str]) -> str:
    plain = _plain(cell)
    return renames.get(plain, plain)


def _plain(cell: Cell) -> str:
    return cell.value.strip(BLANKS).lower()


def _written(name: str) -> str:
    return in_quotes(name) if any(char in ',"\n' for char in name) else name


def _shown(name: str) -> str:
    """A column's name in a sentence; a header with an address in it is none, but who knows."""
    return mask(name) if "@" in name else shown(name)
