"""The rows of one file, or of one part of it: what becomes of each, and what is counted on the way.

Knows how the tiers take turns, and where a good row and a bad row go. Whether the file is refused for what was found is
`check`'s business.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf

from dropzone.config import Folder
from dropzone.drop import MAX_PROBLEMS
from dropzone.errors import Problem
from dropzone.sheet.digests import Entry, read_entry
from dropzone.sheet.header import Header
from dropzone.sheet.held import HeldRows
from dropzone.sheet.lines import Lines
from dropzone.sheet.patterns import Engine
from dropzone.sheet.rows import Cell, Row, in_quotes, read_row
from dropzone.sheet.rules import BLANKS, Fault, Repair, Rule, problem
from dropzone.sheet.source import Sink
from dropzone.sheet.text import as_bytes, text_of
from dropzone.sheet.tiers import Tier, tiers
from dropzone.sheet.trail import Trail

_TELL = 4096  # rows that take a tenth of a second when they are read one by one


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was counted, in the rows of a part or of all.

    `kinds` says of plain addresses that were hashed, or not, in which line the first such row stands.
    """

    rows: int = 0
    bad: int = 0
    leaks: int = 0
    cut_off: int = 0  # the line of a bad row that has no end
    problems: list[Problem] = field(default_factory=list)
    kinds: dict[bool, int] = field(default_factory=dict)
    repairs: Counter[Repair] = field(default_factory=Counter)

    def add(self, later: Tally) -> None:
        """Count what was found in rows that come later."""
        self.rows += later.rows
        self.bad += later.bad
        self.leaks += later.leaks
        self.cut_off = later.cut_off
        self.problems = [*self.problems, *later.problems][:MAX_PROBLEMS]
        self.kinds = later.kinds | self.kinds
        self.repairs.update(later.repairs)


class Reading:
    """Reads rows behind one header. Good ones go to `prepared`, or are held back in `held`; bad ones to `rejects`."""

    def __init__(
        self,
        folder: Folder,
        header: Header,
        engine: Engine,
        *,
        prepared: Sink,
        rejects: Sink,
        trail: Trail,
        tally: Tally,
        held: HeldRows | None = None,
    ) -> None:
        self._folder = folder
        self._header = header
        self._width = len(header.names)
        self._blanks = header.dialect.blanks
        self._entry_at = header.order[0]
        self._entry_name = header.names[self._entry_at]
        self._hash = folder.hash or "none"
        self._tiers = tiers(header, folder, engine)
        self._prepared = prepared
        self._rejects = rejects
        self._trail = trail
        self._tally = tally
        self._held = held

    def read_all(self, lines: Lines, enough: float = inf) -> int:
        """All rows up to where `lines` is to stop, or until `enough` bytes of the text are passed.

        Gives the number of steps that this took, each a run of rows or one row: they are what the interpreter does
        itself. Raises `Refusal` where the text cannot be read to its end.
        """
        runs = rows = first = 0
        last = every = len(self._tiers)
        while lines.passed < enough and lines.more():
            number = first
            while number < last and not self._run(lines, self._tiers[number]):
                number += 1
            if number < last:
                runs += 1
                # What this tier has refused, one before it would hardly take. If it would, no harm is done.
                first = number + 1 if lines.refused else 0
                continue
            first = 0
            # After a bad row the looser tiers are asked no more, for where one is bad the next that the first tier
            # refuses is most likely bad too; a good row that it refused calls them in again.
            last = every if self._row(lines) else min(1, every)
            rows += 1
            if rows % _TELL == 0:  # one chunk may hold a hundred thousand
                lines.tell_progress()
        return runs + rows

    def key_of(self, row: bytes) -> tuple[bytes, int] | None:
        """What stands in the column of the addresses of a row as it came, for comparing, and its column; None if none.

        A row that was good when it was read first is none only if somebody has changed the file meanwhile.
        """
        cells, fields, _ = self._header.dialect.parse(text_of(row), self._width)
        if fields != self._width:
            return None
        cell = cells[self._entry_at]
        entry = self._read(cell.value)
        return (entry.key.encode(), cell.start + 1) if isinstance(entry, Entry) else None

    # ------------------------------------------------------------------------------------------- many rows

    def _run(self, lines: Lines, tier: Tier) -> bool:
        """The rows that `tier` takes, if it takes the next one."""
        line, place = lines.line, lines.passed
        run = lines.run(tier.pattern)
        if not run:
            return False
        count = lines.line - line
        self._tally.rows += count
        self._tally.kinds.setdefault(tier.hashes, line)
        written = tier.rewrite(run, self._tally.repairs) if tier.rewrite else run
        self._trail.add_run(line, count, place, run, written)
        if self._held:
            self._held.add(line, written, count)
        else:
            self._prepared.write(written)
        return True

    # -------------------------------------------------------------------------------------------- one row

    def _row(self, lines: Lines) -> bool:
        """One row, read exactly, or blank lines; whether nothing was wrong with it."""
        text = lines.plain()
        if text and (fault := self._plainly_wrong(text)):
            self._tally.rows += 1
            self._reject(Row(lines.line, text), fault, "" if fault.rule is Rule.FIELDS else self._entry_name)
            lines.take_plain(text)
            return False
        if empty := lines.skip_empty():
            self._tally.repairs[Repair.BLANK_LINES] += empty
            return True
        dialect = self._header.dialect
        peek = lines.peek()
        assert peek is not None  # there was more
        if not peek.long and dialect.is_blank(peek.first):
            lines.take(peek.first)
            self._tally.repairs[Repair.BLANK_LINES] += 1
            return True
        return self._sort(read_row(lines, peek, dialect, self._width))

    def _plainly_wrong(self, text: str) -> Fault | None:
        """What is wrong with a row of nothing but harmless characters, as most bad rows are, if anything is.

        It asks what `_sort` asks, without making cells of what stands between the delimiters: that takes half the time.
        """
        came = text.split(self._header.dialect.delimiter, self._width)
        if len(came) != self._width:
            blank = self._header.dialect.is_blank(text)
            return None if blank else self._wrong_width(text.count(self._header.dialect.delimiter) + 1)
        cell = came[self._entry_at]
        found = self._read(cell)
        if isinstance(found, Entry) or (found.rule is Rule.NO_ADDRESS and self._header.dialect.is_blank(text)):
            return None
        before = sum(map(len, came[: self._entry_at])) + self._entry_at
        return Fault(found.rule, before + len(cell) - len(cell.lstrip(self._blanks)), found.facts)

    def _sort(self, row: Row) -> bool:
        self._tally.rows += 1
        found = row.fault or self._wrong_width(row.fields) or self._entry(row)
        if isinstance(found, Fault):
            self._reject(row, found, self._subject(row, found))
            return False
        self._write(row, found)
        return True

    def _wrong_width(self, fields: int) -> Fault | None:
        expected = self._width
        return Fault(Rule.FIELDS, 0, {"found": fields, "expected": expected}) if fields != expected else None

    def _entry(self, row: Row) -> Entry | Fault:
        cell = row.cells[self._entry_at]
        found = self._read(cell.value)
        return Fault(found.rule, cell.start, found.facts) if isinstance(found, Fault) else found

    def _read(self, value: str) -> Entry | Fault:
        return read_entry(value.strip(BLANKS), self._hash, hash_plain=self._folder.hash_plain)

    def _reject(self, row: Row, fault: Fault, subject: str) -> None:
        what = fault.rule.what.format_map(fault.facts)
        if len(self._tally.problems) < MAX_PROBLEMS:
            line, column = row.place(fault.at)
            self._tally.problems.append(problem(fault.rule, line, column, subject, **fault.facts))
        reason = f"{subject}: {what}" if subject else what
        self._rejects.write(as_bytes(f"{row.line},{in_quotes(reason)},{row.text}\n"))
        self._tally.bad += 1
        self._tally.cut_off = 0 if row.ended else row.line
        self._tally.leaks += fault.rule is Rule.LEAK

    def _subject(self, row: Row, fault: Fault) -> str:
        """The column in which the fault stands, if it stands in one that the header names."""
        if row.long or fault.rule is Rule.FIELDS:
            return ""
        index = self._header.dialect.index(row.text, fault.at)
        return self._header.names[index] if index < len(self._header.names) else ""

    def _write(self, row: Row, entry: Entry) -> None:
        came = tuple(row.cells)
        first, *others = (came[index] for index in self._header.order)
        cells = [self._written_entry(first, entry), *(self._written(cell) for cell in others)]
        self._tally.repairs[Repair.LAST_LINE_END] += not row.ended
        self._tally.kinds.setdefault(entry.repair is Repair.HASHED, row.line)
        self._trail.add_row(*row.place(first.start), entry.key)
        line = ",".join(cells).encode() + b"\n"
        if self._held:
            # The line of the address, not of the row: it is what `repeats` knows of the row, and no other row has it.
            self._held.add(row.place(first.start)[0], line)
        else:
            self._prepared.write(line)

    def _written_entry(self, cell: Cell, entry: Entry) -> str:
        self._tally.repairs[Repair.BLANKS] += cell.trimmed or cell.value != cell.value.strip(BLANKS)
        if entry.repair:
            self._tally.repairs[entry.repair] += 1
        return in_quotes(entry.text) if cell.quoted else entry.text

    def _written(self, cell: Cell) -> str:
        self._tally.repairs[Repair.BLANKS] += cell.trimmed
        if cell.quoted or "," not in cell.written:
            return cell.written
        self._tally.repairs[Repair.QUOTED] += 1
        return in_quotes(cell.written)
