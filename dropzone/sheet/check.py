"""One CSV from its first byte to the verdict: in how many parts it is read, and when a file is refused.

Knows the order of the steps and the folder's tolerance; each step's rules are known in the other files of `sheet`.

Memory is bounded by the longest allowed row, whatever the file; the time is linear in its size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO

from dropzone.config import Folder
from dropzone.drop import MAX_PROBLEMS, Report
from dropzone.sheet import parts
from dropzone.sheet.hashes import new_key
from dropzone.sheet.header import Header, describe, read_header
from dropzone.sheet.held import HeldRows
from dropzone.sheet.lines import Lines
from dropzone.sheet.parts import Plan
from dropzone.sheet.patterns import Engine, best
from dropzone.sheet.reading import Reading, Tally
from dropzone.sheet.repeats import Repeats, Sink
from dropzone.sheet.rules import ROW_LIMIT, Refusal, Repair
from dropzone.sheet.text import CHUNK, Source, Text, as_bytes
from dropzone.sheet.trail import Trail, find_repeats

_IN_MEMORY = 1 << 20  # bytes of a temporary file that need no disk


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
    cores: int = 1,
    row_limit: int = ROW_LIMIT,
    engine: Engine | None = None,
    plan: Plan | None = None,
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

    With `cores` a large file is read in as many parts side by side, if it is one that can be (an open, plain file in
    UTF-8); the outcome is the same. `row_limit`, `engine` and `plan` are there for tests: how many characters a row
    may have, what runs the patterns, and how parts are cut.
    """
    with ExitStack() as files:
        checking = _Check(folder, prepared, rejects, files, scratch, engine or best())
        text = Text(
            source,
            folder,
            checking.tally.repairs,
            compressed=compressed,
            progress=progress or (lambda _: None),
            chunk=chunk,
        )
        try:
            lines = Lines(text, limit=row_limit)
            header = read_header(lines, folder, checking.tally.repairs)
            checking.read(header, lines, text)
        except Refusal as refusal:
            return Report(
                problems=refusal.problems[:MAX_PROBLEMS],
                problem_count=len(refusal.problems),
                bytes_read=text.bytes_read,
                refused=refusal.why,
            )
        return checking.report(header, text)


class _Check:
    """One check: what it writes to, what it has found."""

    def __init__(
        self, folder: Folder, prepared: Sink, rejects: Sink, files: ExitStack, scratch: str | None, engine: Engine
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._prepared = prepared
        self._rejects = rejects
        self._files = files
        self._scratch = scratch
        self._engine = engine
        self._held = files.enter_context(HeldRows(scratch)) if folder.repeats == "last" else None
        superseded = self._held.supersede if self._held else None
        self._repeats = files.enter_context(Repeats(superseded=superseded, scratch=scratch))

    def read(self, header: Header, lines: Lines, text: Text) -> None:
        """All rows, to where each belongs. Raises `Refusal` where the text cannot be read to its end."""
        self._prepared.write(header.line.encode() + b"\n")
        trail = Trail(self._file(), self._file(), new_key())
        reading = Reading(
            self._folder,
            header,
            self._engine,
            prepared=self._prepared,
            rejects=_Rejects(self._rejects, header),
            trail=trail,
            tally=self.tally,
            held=self._held,
        )
        reading.read_all(lines)
        find_repeats([trail], self._repeats, reading.key_of, self._scratch)
        self._repeats.finish()
        if self._held:
            self._held.release(self._prepared)
            self.tally.repairs[Repair.SUPERSEDED] = self._repeats.count

    def _file(self) -> IO[bytes]:
        return self._files.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=self._scratch))

    def report(self, header: Header, text: Text) -> Report:
        """What was found, once all is read."""
        tally = self.tally
        facts = {"encoding": text.encoding, "delimiter": describe(header.dialect), "hash": self._folder.hash or "none"}
        return Report(
            columns=header.columns,
            rows=tally.rows,
            good_rows=tally.rows - tally.bad - tally.repairs[Repair.SUPERSEDED],
            bad_rows=tally.bad,
            repeated_rows=self._repeats.count,
            repeats=self._repeats.first("email"),
            repairs=tuple((str(each).format(**facts), tally.repairs[each]) for each in Repair if tally.repairs[each]),
            problems=tuple(tally.problems),
            problem_count=tally.bad,
            bytes_read=text.bytes_read,
            refused=refused(tally, self._repeats.count, self._folder),
        )


class _Rejects:
    """The rejects with their header, which is written with the first of them."""

    def __init__(self, sink: Sink, header: Header) -> None:
        self._sink = sink
        self._line = as_bytes(f"line,reason,{header.text}\n")

    def write(self, piece: bytes, /) -> None:
        if self._line:
            self._sink.write(self._line)
            self._line = b""
        self._sink.write(piece)


def refused(tally: Tally, repeated: int, folder: Folder) -> str:
    """Why the file is not to be sent, as a sentence; empty when it is."""
    if tally.leaks:
        rows = "1 row holds" if tally.leaks == 1 else f"{tally.leaks:,} rows hold"
        return f"{rows} a plain address, and the segment takes {folder.hash} digests: sending would leak it"
    if len(tally.kinds) > 1:
        digest, plain = tally.kinds[False], tally.kinds[True]
        return f"the file mixes digests (first in line {digest:,}) and plain addresses (first in line {plain:,})"
    limit = folder.bad_rows
    if tally.bad > (limit if isinstance(limit, int) else limit.of(tally.rows)):
        bad = f"{tally.bad:,} of {tally.rows:,} rows {'is' if tally.bad == 1 else 'are'} bad"
        return f"{bad}, and the folder allows {folder.bad_rows or 'none'}"
    if repeated and folder.repeats == "refuse":
        rows = "1 row repeats" if repeated == 1 else f"{repeated:,} rows repeat"
        return f"{rows} an address of an earlier row, and the folder refuses that"
    return ""
