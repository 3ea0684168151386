"""One CSV from its first byte to the verdict: in how many parts it is read, and when a file is refused.

Knows the order of the steps and the folder's tolerance; each step's rules are known in the other files of `sheet`.

Memory is bounded by the longest allowed row, whatever the file; the time is linear in its size.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import IO

from dropzone.config import Folder
from dropzone.drop import MAX_PROBLEMS, Report
from dropzone.sheet.behind import Behind, Later
from dropzone.sheet.beside import Beside
from dropzone.sheet.hashes import new_key
from dropzone.sheet.header import Header, describe, read_header
from dropzone.sheet.held import HeldRows
from dropzone.sheet.lines import Lines
from dropzone.sheet.parts import LOOK, Files, Others, Outcome, Part, Plan, always_pay, find_cuts, find_file
from dropzone.sheet.patterns import Engine, best
from dropzone.sheet.reading import Reading, Tally
from dropzone.sheet.repeats import Repeats
from dropzone.sheet.rules import ROW_LIMIT, Refusal, Repair
from dropzone.sheet.source import Sink, Source, Twice
from dropzone.sheet.text import CHUNK, Text, as_bytes
from dropzone.sheet.trail import Traces, Trail, find_repeats, new_traces

_COPIED = 1 << 20  # bytes at a time
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

    With more than one of `cores`, writing and hashing go on beside the reading, and a large file is read in as many
    parts side by side, if it is one that can be (an open, plain file in UTF-8) and is faster so, which may show only
    when some of it has been read; the outcome is the same. `row_limit`, `engine` and `plan` are there for tests: how
    many characters a row may have, what runs the patterns, and how parts are cut.
    """
    with ExitStack() as files:
        checking = _Check(
            source,
            prepared,
            rejects,
            folder,
            files,
            compressed=compressed,
            progress=progress or (lambda _: None),
            chunk=chunk,
            scratch=scratch,
            beside=cores > 1,
        )
        engine = engine or best()
        if plan is None:
            plan = Plan(most=1 if compressed else cores, start=Beside, look=0 if always_pay(folder, engine) else LOOK)
        try:
            return checking.run(engine, plan, row_limit)
        except Refusal as refusal:
            return Report(
                problems=refusal.problems[:MAX_PROBLEMS],
                problem_count=len(refusal.problems),
                bytes_read=checking.text.bytes_read,
                refused=refusal.why,
                guard=refusal.guard,
            )


_in_parts = threading.Lock()


def parts_are_free(files: ExitStack) -> bool:
    """Whether no other file is read in parts just now; if so, none is until `files` is left.

    Several files at once keep the cores busy as it is, and each part takes the memory of an interpreter.
    """
    if not _in_parts.acquire(blocking=False):
        return False
    files.callback(_in_parts.release)
    return True


class _Check:
    """One check: what it reads and writes to, what it has found."""

    def __init__(
        self,
        source: Source,
        prepared: Sink,
        rejects: Sink,
        folder: Folder,
        files: ExitStack,
        *,
        compressed: bool,
        progress: Callable[[int], None],
        chunk: int,
        scratch: str | None,
        beside: bool,
    ) -> None:
        self._folder = folder
        self._files = files
        self._scratch = scratch
        self._tally = Tally()
        self._others = others = Others(files, scratch)
        self._source = Twice(source, files, scratch)
        self.text = Text(
            self._source,
            folder,
            self._tally.repairs,
            compressed=compressed,
            progress=lambda count: progress(count + others.bytes_read),
            chunk=chunk,
        )
        self._tell = self.text.tell_progress
        # Before those who write to them: what is left last has to be left by them first.
        self._traces = new_traces(self._file)
        self._held = files.enter_context(HeldRows(scratch)) if folder.repeats == "last" else None
        superseded = self._held.supersede if self._held else None
        self._repeats = files.enter_context(Repeats(superseded=superseded, tell=self._tell, scratch=scratch))
        self._writing = files.enter_context(Behind(beside=beside))
        self._hashing = files.enter_context(Behind(beside=beside))
        self._prepared = Later(prepared, self._writing)
        self._rejects = rejects

    def run(self, engine: Engine, plan: Plan, row_limit: int) -> Report:
        """Read the header and all rows. Raises `Refusal` where the text cannot be read to its end."""
        text, lines = self.text, Lines(self.text, limit=row_limit)
        header = read_header(lines, self._folder, self._tally.repairs)
        self._prepared.write(header.line.encode() + b"\n")
        rejects = _Rejects(self._rejects, header)
        trail = self._trail(self._traces, new_key(), header)
        reading = Reading(
            self._folder,
            header,
            engine,
            prepared=self._prepared,
            rejects=rejects,
            trail=trail,
            tally=self._tally,
            held=self._held,
        )
        if self._look(reading, lines, plan):
            self._begin_others(lines, header, engine, plan, trail.key)
        reading.read_all(lines)
        trails, bytes_read = [trail], text.bytes_read
        if text.stop is not None:
            if outcomes := self._outcomes(lines):
                for files, outcome in zip(self._others.files, outcomes, strict=True):
                    self._take(files, outcome, rejects)
                    trails.append(self._trail(files.traces, trail.key, header, outcome))
                bytes_read = outcomes[-1].end
            else:
                text.go_on()
                reading.read_all(lines)
                bytes_read = text.bytes_read
        find_repeats(trails, self._repeats, reading.key_of, self._tell)
        self._repeats.finish()
        if self._held:
            self._held.release(self._prepared, self._tell)
            self._tally.repairs[Repair.SUPERSEDED] = self._repeats.count
        self._prepared.flush()
        self._writing.finish()
        return self._report(header, bytes_read)

    # ------------------------------------------------------------------------------------------------- parts

    def _look(self, reading: Reading, lines: Lines, plan: Plan) -> bool:
        """Read until it shows that parts pay, for a file that can be cut; whether it did before its rows ended."""
        can_be_cut = find_file(self._source, self.text, self._folder, plan) is not None
        while can_be_cut and lines.more():
            before = lines.passed
            steps = reading.read_all(lines, before + plan.look)
            if plan.pays(steps, lines.passed - before):
                return True
        return False

    def _begin_others(self, lines: Lines, header: Header, engine: Engine, plan: Plan, key: bytes) -> None:
        """Cut what is left of the file, if it can be, and have all parts but the first one read."""
        text = self.text
        fd = find_file(self._source, text, self._folder, plan)
        cuts = find_cuts(fd, plan, text.bytes_read, header, self._folder, engine) if fd is not None else []
        if fd is None or not cuts or not parts_are_free(self._files):
            return
        settings = self._folder.settings_json()
        parts = [
            Part(
                settings=settings,
                encoding=text.encoding,
                header=header,
                engine=engine.name,
                start=start,
                stop=stop,
                key=key,
                row_limit=lines.limit,
                chunk=text.chunk,
            )
            for start, stop in zip(cuts, [*cuts[1:], None], strict=True)
        ]
        text.stop = cuts[0]
        self._others.begin(parts, fd, plan.start)

    def _outcomes(self, lines: Lines) -> list[Outcome]:
        """What came of the other parts, if the first one ended with a row and all others did."""
        return self._others.wait(self._tell) if lines.passed == self.text.stop_at else []

    def _take(self, files: Files, outcome: Outcome, rejects: Sink) -> None:
        """Add what a part came to, to what those before it did."""
        self._tally.add(outcome.tally)
        for sink, file in ((self._prepared, files.prepared), (rejects, files.rejects)):
            file.seek(0)
            while piece := file.read(_COPIED):
                self._tell()
                sink.write(piece)

    # ------------------------------------------------------------------------------------------------ the end

    def _trail(self, traces: Traces, key: bytes, header: Header, part: Outcome | None = None) -> Trail:
        """The trail of what is read here, or the one that a part has left."""

        def again() -> Iterator[bytes]:
            if part is None:
                return self.text.again(self._source.again())
            return self.text.again(self._source.again(part.start), part.start)

        count = part.count if part else 0
        return Trail(traces, key, self._hashing, again, end=header.entry_end, count=count)

    def _file(self) -> IO[bytes]:
        return self._files.enter_context(tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=self._scratch))

    def _report(self, header: Header, bytes_read: int) -> Report:
        tally = self._tally
        facts = {
            "encoding": self.text.encoding,
            "delimiter": describe(header.dialect),
            "hash": self._folder.hash or "none",
        }
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
            bytes_read=bytes_read,
            cut_off=tally.cut_off,
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
