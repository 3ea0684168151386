"""One CSV from its first byte to the verdict: what is written where, what is counted, and when a file is refused.

Knows the order of the steps and the folder's tolerance; each step's rules are known in the other files of `sheet`.
This reads one row after the other and decides each by itself, in the simplest way there is. It is meant to be right
rather than fast, and whatever reads faster has to give the same bytes and the same report.

Memory is bounded by the longest allowed row, whatever the file; the time is linear in its size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from dropzone.config import Folder
from dropzone.drop import MAX_PROBLEMS, Report
from dropzone.errors import Problem
from dropzone.sheet.rules import BLANKS, Fault, Refusal, Repair, Rule, problem
from oracle.digests import Entry, read_entry
from oracle.header import Header, describe, read_header
from oracle.lines import CHUNK, Lines, Source, Text, as_bytes
from oracle.repeats import HeldRows, Repeats, Sink
from oracle.rows import Cell, Row, in_quotes, read_row


def check(
    source: Source,
    prepared: Sink,
    rejects: Sink,
    folder: Folder,
    *,
    compressed: bool = False,
    progress: Callable[[int], None] | None = None,
    chunk: int = CHUNK,
    scratch: str | None = None,
) -> Report:
    """Read `source` as `folder` would and write what is to be sent to `prepared`, bad rows to `rejects`.

    Reads once, forward, and closes nothing. `prepared` is UTF-8 with LF, commas and a header line; checked again it
    comes out the same. To `rejects` nothing is written unless a row is bad; then ``line,reason,`` and the header as it
    came, and every bad row as it came behind its line and reason, in UTF-8, bytes that do not decode left as they are.

    In the report `good_rows` are the rows in `prepared`; with `repeats: last` the superseded ones are neither good nor
    bad. `repairs` come in the order of `Repair`, and those of bad rows do not count. `bytes_read` is of the source,
    packed if it is. A bad row has one problem: a byte that does not decode, else a line that is too long, else the
    first of wrong quotes and control characters, else the number of fields, else the address.

    When `refused` is not empty, `prepared` may hold anything. What makes a file no list at all (no header that can be
    used, a NUL, damaged gzip, more than `guards.max_bytes` unpacked) ends the reading: then the report has the problems
    that led to it and no counts, and `rejects` may hold anything too.

    `progress` gets the bytes of the source read so far, for every `chunk` bytes of text at least. What it raises
    (`Cancelled`) ends the check, and so does an OSError of the streams. Temporary files are made in `scratch`, or
    where the system has them; they are needed for a great many rows, or with `repeats: last`.
    """
    with ExitStack() as files:
        held = files.enter_context(HeldRows(scratch)) if folder.repeats == "last" else None
        repeats = files.enter_context(Repeats(superseded=held.supersede if held else None, scratch=scratch))
        repairs: Counter[Repair] = Counter()
        text = Text(source, folder, repairs, compressed=compressed, progress=progress or (lambda _: None), chunk=chunk)
        try:
            lines = Lines(text)
            header = read_header(lines, folder, repairs)
            prepared.write(header.line.encode() + b"\n")
            rows = _Rows(folder, header, prepared, rejects, repairs, repeats, held)
            rows.read_all(lines)
        except Refusal as refusal:
            return Report(
                problems=refusal.problems[:MAX_PROBLEMS],
                problem_count=len(refusal.problems),
                bytes_read=text.bytes_read,
                refused=refusal.why,
                guard=refusal.guard,
            )
        return rows.report(text)


class _Rows:
    """The data rows of one file: where each goes, and what is to be reported of them all."""

    def __init__(
        self,
        folder: Folder,
        header: Header,
        prepared: Sink,
        rejects: Sink,
        repairs: Counter[Repair],
        repeats: Repeats,
        held: HeldRows | None,
    ) -> None:
        self._folder = folder
        self._header = header
        self._prepared = prepared
        self._rejects = rejects
        self._repairs = repairs
        self._repeats = repeats
        self._held = held
        self._hash = folder.hash or "none"
        self._rows = 0
        self._bad = 0
        self._leaks = 0
        self._cut_off = 0
        self._problems: list[Problem] = []
        self._kinds: dict[bool, int] = {}  # plain addresses that were hashed, or not: the line of the first such row

    def read_all(self, lines: Lines) -> None:
        """All rows, to where each belongs. Raises `Refusal` where the text cannot be read to its end."""
        dialect, width = self._header.dialect, len(self._header.names)
        while peek := lines.peek():
            if not peek.long and dialect.is_blank(peek.first):
                lines.take(len(peek.first))
                self._repairs[Repair.BLANK_LINES] += 1
            else:
                self._sort(read_row(lines, peek, dialect, width))
        self._repeats.finish()
        if self._held:
            self._held.release(self._prepared)
            self._repairs[Repair.SUPERSEDED] = self._repeats.count

    def report(self, text: Text) -> Report:
        """What was found, once all is read."""
        facts = {"encoding": text.encoding, "delimiter": describe(self._header.dialect), "hash": self._hash}
        return Report(
            columns=self._header.columns,
            rows=self._rows,
            good_rows=self._rows - self._bad - self._repairs[Repair.SUPERSEDED],
            bad_rows=self._bad,
            repeated_rows=self._repeats.count,
            repeats=self._repeats.first("email"),
            repairs=tuple((str(each).format(**facts), self._repairs[each]) for each in Repair if self._repairs[each]),
            problems=tuple(self._problems),
            problem_count=self._bad,
            bytes_read=text.bytes_read,
            cut_off=self._cut_off,
            refused=self._refused(),
        )

    # -------------------------------------------------------------------------------------------- one row

    def _sort(self, row: Row) -> None:
        self._rows += 1
        found = row.fault or self._wrong_width(row) or self._entry(row)
        if isinstance(found, Fault):
            self._reject(row, found)
        else:
            self._write(row, found)

    def _wrong_width(self, row: Row) -> Fault | None:
        expected = len(self._header.names)
        return Fault(Rule.FIELDS, 0, {"found": row.fields, "expected": expected}) if row.fields != expected else None

    def _entry(self, row: Row) -> Entry | Fault:
        cell = row.cells[self._header.order[0]]
        found = read_entry(cell.value.strip(BLANKS), self._hash, hash_plain=self._folder.hash_plain)
        return found._replace(at=cell.start) if isinstance(found, Fault) else found

    def _reject(self, row: Row, fault: Fault) -> None:
        line, column = row.place(fault.at)
        found = problem(fault.rule, line, column, self._subject(row, fault), **fault.facts)
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(found)
        if not self._bad:
            self._rejects.write(as_bytes(f"line,reason,{self._header.text}\n"))
        reason = f"{found.subject}: {found.what}" if found.subject else found.what
        self._rejects.write(as_bytes(f"{row.line},{in_quotes(reason)},{row.text}\n"))
        self._bad += 1
        self._cut_off = 0 if row.ended else row.line
        self._leaks += fault.rule is Rule.LEAK

    def _subject(self, row: Row, fault: Fault) -> str:
        """The column in which the fault stands, if it stands in one that the header names."""
        if row.long or fault.rule is Rule.FIELDS:
            return ""
        index = self._header.dialect.index(row.text, fault.at)
        return self._header.names[index] if index < len(self._header.names) else ""

    def _write(self, row: Row, entry: Entry) -> None:
        first, *others = (row.cells[index] for index in self._header.order)
        cells = [self._written_entry(first, entry), *(self._written(cell) for cell in others)]
        self._repairs[Repair.LAST_LINE_END] += not row.ended
        self._kinds.setdefault(entry.repair is Repair.HASHED, row.line)
        self._repeats.add(entry.key, *row.place(first.start))
        line = ",".join(cells).encode() + b"\n"
        if self._held:
            # The line of the address, not of the row: it is what `repeats` knows of the row, and no other row has it.
            self._held.add(row.place(first.start)[0], line)
        else:
            self._prepared.write(line)

    def _written_entry(self, cell: Cell, entry: Entry) -> str:
        self._repairs[Repair.BLANKS] += cell.trimmed or cell.value != cell.value.strip(BLANKS)
        if entry.repair:
            self._repairs[entry.repair] += 1
        return in_quotes(entry.text) if cell.quoted else entry.text

    def _written(self, cell: Cell) -> str:
        self._repairs[Repair.BLANKS] += cell.trimmed
        if cell.quoted or "," not in cell.written:
            return cell.written
        self._repairs[Repair.QUOTED] += 1
        return in_quotes(cell.written)

    # --------------------------------------------------------------------------------------------- the verdict

    def _refused(self) -> str:
        """Why the file is not to be sent, as a sentence; empty when it is."""
        if self._leaks:
            rows = "1 row holds" if self._leaks == 1 else f"{self._leaks:,} rows hold"
            return f"{rows} a plain address, and the segment takes {self._hash} digests: sending would leak it"
        if len(self._kinds) > 1:
            digest, plain = self._kinds[False], self._kinds[True]
            return f"the file mixes digests (first in line {digest:,}) and plain addresses (first in line {plain:,})"
        if self._bad > self._allowed():
            bad = f"{self._bad:,} of {self._rows:,} rows {'is' if self._bad == 1 else 'are'} bad"
            return f"{bad}, and the folder allows {self._folder.bad_rows or 'none'}"
        if self._repeats.count and self._folder.repeats == "refuse":
            rows = "1 row repeats" if self._repeats.count == 1 else f"{self._repeats.count:,} rows repeat"
            return f"{rows} an address of an earlier row, and the folder refuses that"
        return ""

    def _allowed(self) -> int:
        limit = self._folder.bad_rows
        return limit if isinstance(limit, int) else limit.of(self._rows)
