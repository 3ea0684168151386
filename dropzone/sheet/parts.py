"""A large file in parts, to be read side by side: where it may be cut, and what one part comes to.

A part begins behind a line end that looks like the end of a row, and is read to the next cut by the same code as a
whole file. Whether the cut was at the end of a row shows when the part before it is read: if that did not come to an
end exactly there (a cell in quotes went on), the parts behind it count for nothing, and `check` reads on alone.
"""

from __future__ import annotations

import codecs
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Protocol

from dropzone.config import Folder
from dropzone.sheet import hashes
from dropzone.sheet.behind import Behind
from dropzone.sheet.header import Header
from dropzone.sheet.lines import Lines, Pattern
from dropzone.sheet.patterns import ENGINES, Engine
from dropzone.sheet.reading import Reading, Tally
from dropzone.sheet.source import Stretch, Twice
from dropzone.sheet.text import Text
from dropzone.sheet.tiers import tiers
from dropzone.sheet.trail import Traces, Trail, new_traces

SMALLEST = 32 << 20  # bytes of a part: reading less takes no longer than starting an interpreter
LOOK = 4 << 20  # bytes of text that show what a file is like: some thirty milliseconds where all rows are good
_APART = 16 << 10  # bytes that a step reads on average: with fewer, the steps take longer than all that patterns do
_SIGHT = 1 << 18  # bytes that are searched for a good place to cut
_BLOCK = 1 << 20
_TELL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is to be read, from the byte `start` to `stop` (None: to the end). Can be sent to another interpreter."""

    settings: str
    encoding: str
    header: Header
    engine: str
    start: int
    stop: int | None
    key: bytes
    row_limit: int
    chunk: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a part came to: `count` good rows between two bytes of the file; `whole` says that a row ended at `end`."""

    tally: Tally
    count: int
    start: int
    end: int
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a part is written to: empty temporary files."""

    prepared: IO[bytes]
    rejects: IO[bytes]
    traces: Traces

    def all(self) -> tuple[IO[bytes], ...]:
        """In the order of the fields."""
        return self.prepared, self.rejects, self.traces.frames, self.traces.ordered


class Running(Protocol):
    """A part that is being read."""

    @property
    def bytes_read(self) -> int: ...

    def wait(self, seconds: float) -> bool:
        """Wait at most so long for its end; whether it has come."""

    def outcome(self) -> Outcome | None:
        """What came of it, once it has ended; None where it did not get to the end, for whatever reason."""

    def close(self) -> None:
        """End it, if it has not ended, and leave nothing behind."""


Start = Callable[[Part, int, Files], Running]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a file is cut: into at most `most` parts of at least `smallest` bytes, all but the first begun by `start`.

    Whether it is cut at all is asked whenever `look` bytes of text have been read, of what they were like; not at all
    where `look` is 0.
    """

    most: int
    start: Start
    smallest: int = SMALLEST
    look: int = 0
    apart: int = _APART

    def pays(self, steps: int, passed: int) -> bool:
        """Whether parts are faster for a file of which `passed` bytes took so many steps of reading."""
        return not self.look or steps * self.apart >= passed


def always_pay(folder: Folder, engine: Engine) -> bool:
    """Whether parts are faster than one pass with its writing and hashing on another core, whatever the file is like.

    They are where the interpreter itself has most of the work: with patterns run by `re`, and with a digest for each
    address. RE2 lets other threads go on meanwhile, and what a part has written must be copied once more; but between
    two runs of rows it does not run, and where bad rows make them short that is most of the time.
    """
    return engine.name == "re" or folder.hash_plain


def find_file(source: Twice, text: Text, folder: Folder, plan: Plan) -> int | None:
    """The descriptor of a source that can be read in parts, None of any other.

    It has to be a plain file read from its start, in UTF-8 (a line end is found without decoding all before it), large
    enough for two parts, and not over its limit. Superseded rows are held back in one place, and without numpy hashes
    hold in one interpreter only.
    """
    if source.file is None or plan.most < 2:
        return None
    fd, start = source.file
    in_utf_8 = codecs.lookup(text.encoding).name == "utf-8"
    fits = 2 * plan.smallest <= os.fstat(fd).st_size <= folder.guards.max_bytes
    # What is asked last has numpy imported, which takes longer than to read a small file.
    return fd if start == 0 and in_utf_8 and fits and folder.repeats != "last" and hashes.anywhere() else None


def find_cuts(fd: int, plan: Plan, after: int, header: Header, folder: Folder, engine: Engine) -> list[int]:
    """Where the parts begin that follow the first, which has been read up to the byte `after`.

    What is left is cut into equal parts; empty if there is too little of it.
    """
    size = os.fstat(fd).st_size
    most = min(plan.most, (size - after) // plan.smallest)
    patterns = [tier.pattern for tier in tiers(header, folder, engine)]
    cuts: list[int] = []
    for number in range(1, most):
        at = max(size - (size - after) * (most - number) // most, after)
        sight = os.pread(fd, _SIGHT, at)
        cut = next((end for end in _line_ends(sight) if _is_row(sight[end:], patterns)), None)
        if cut and at + cut < size:
            cuts.append(at + cut)
            after = at + cut + 1
    return cuts


def _line_ends(sight: bytes) -> Sequence[int]:
    ends: list[int] = []
    at = 0
    while (at := sight.find(b"\n", at) + 1) and len(ends) < 1_000:
        ends.append(at)
    return ends


def _is_row(sight: bytes, patterns: Sequence[Pattern]) -> bool:
    """Whether the next line is a good row: in the middle of a cell in quotes, few lines look like one."""
    line = sight[: sight.find(b"\n") + 1].removesuffix(b"\n").removesuffix(b"\r") + b"\n"
    return any(pattern(line, 0, len(line)) > 0 for pattern in patterns)


def new_files(files: ExitStack, scratch: str | None) -> Files:
    """The files of one part, gone when `files` is left."""

    def new() -> IO[bytes]:
        return files.enter_context(tempfile.TemporaryFile(dir=scratch))

    return Files(prepared=new(), rejects=new(), traces=new_traces(new))


class Others:
    """The parts of a file that are read beside the first one."""

    def __init__(self, files: ExitStack, scratch: str | None) -> None:
        self.files: list[Files] = []
        self._stack = files
        self._scratch = scratch
        self._running: list[Running] = []

    def begin(self, parts: Sequence[Part], fd: int, start: Start) -> None:
        """Have each of them read. They end when the stack of files is left, at the latest."""
        for part in parts:
            self.files.append(new_files(self._stack, self._scratch))
            running = start(part, fd, self.files[-1])
            self._stack.callback(running.close)
            self._running.append(running)

    @property
    def bytes_read(self) -> int:
        """How much they have read so far."""
        return sum(running.bytes_read for running in self._running)

    def wait(self, tell: Callable[[], None]) -> list[Outcome]:
        """What came of each, once all have ended; empty if one of them cannot be used. `tell` is called meanwhile."""
        outcomes = []
        for running in self._running:
            while not running.wait(_TELL_S):
                tell()
            if (outcome := running.outcome()) is None or not outcome.whole:
                self._running.clear()  # what they have read is to be read again
                return []
            outcomes.append(outcome)
        return outcomes


def read_part(part: Part, fd: int, files: Files, progress: Callable[[int], None]) -> Outcome:
    """Read one part of the file `fd`. Raises `Refusal` where it cannot be read to its end."""
    folder, tally = Folder.from_settings(part.settings), Tally()
    text = Text(
        Stretch(fd, part.start),
        folder,
        tally.repairs,
        compressed=False,
        progress=progress,
        chunk=part.chunk,
        start=part.start,
        encoding=part.encoding,
    )
    text.stop = None if part.stop is None else part.stop - part.start
    hashing = hashes.best(part.key)  # which has lines counted fast as well
    lines = Lines(text, limit=part.row_limit, line=1 + _count_lines(fd, part.start))
    trail = Trail(files.traces, part.key, Behind(beside=False), end=part.header.entry_end)
    engine = ENGINES[part.engine]
    reading = Reading(
        folder, part.header, engine, prepared=files.prepared, rejects=files.rejects, trail=trail, tally=tally
    )
    reading.read_all(lines)
    trail.finish(hashing)
    trail.put_in_order()
    for file in files.all():
        file.flush()
    whole = text.stop is None or lines.passed == text.stop_at
    return Outcome(tally=tally, count=trail.count, start=part.start, end=part.start + text.bytes_read, whole=whole)


def _count_lines(fd: int, end: int) -> int:
    """The lines before the byte `end`, which a line feed ends."""
    source, count, at = Stretch(fd, 0), 0, 0
    last = b""
    while at < end:
        block = source.read(min(_BLOCK, end - at))
        at += len(block)
        count += hashes.line_counter(block)(0, len(block))
        if b"\r" in block or last == b"\r":
            text = last + block.removesuffix(b"\r")
            count += text.count(b"\r") - text.count(b"\r\n")
        last = b"\r" if block.endswith(b"\r") else b""
        if not block:
            break
    return count
