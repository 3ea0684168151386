"""Addresses that come again: found exactly, in bounded memory, whatever the size of the file; here row by row.

The keys that come first are kept in memory; once these are enough, each further new key goes to one of a few temporary
files by its hash, and each of those is later gone through in the same way. A key is either kept at its first row or
never, so all its rows meet in one place. A key goes to disk at most once per level, and a level takes thirty times as
many as the one before.
"""

from __future__ import annotations

import tempfile
from array import array
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from struct import Struct
from typing import IO, NamedTuple, Self

from dropzone.errors import Problem
from dropzone.sheet.rules import Rule, mask, problem

FIRST = 10  # repeats that a report names

_HELD = 4 << 20  # bytes of keys in memory, with what Python adds to each
_OVERHEAD = 160
_AT_ONCE = 256  # rows of a part that are written at a time
_FRAME = Struct("<II")  # rows, bytes of their keys
_PART_BITS = 5  # of a hash, that tell the part: three levels are enough for a hundred million keys
_LAST_PART = (1 << _PART_BITS) - 1


class _Repeat(NamedTuple):
    """A row whose key stood in an earlier one; `before` is the line of the last such."""

    line: int
    column: int
    before: int
    masked: str


class Repeats:
    """The rows of one file whose key stood in an earlier row. Leaving it as a context removes what was put on disk.

    `superseded` is called with the line of each row that a later one repeats, in no order, at the latest by `finish`,
    and `tell` again and again meanwhile; it may raise.
    """

    def __init__(
        self,
        *,
        superseded: Callable[[int], object] | None = None,
        tell: Callable[[], object] = lambda: None,
        scratch: str | None = None,
        held: int = _HELD,
    ) -> None:
        self.count = 0
        self.held = held
        self.tell = tell
        self._superseded = superseded
        self._scratch = scratch
        self._first: list[_Repeat] = []
        self._files = ExitStack()
        self._top = _Level(self, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        """Note rows, in the order of the file: key, line and column of each. A key has no line ends in it."""
        self._top.add(rows)

    def add_run(self, run: bytes, count: int, places: Sequence[int], line: int) -> None:
        """Note the rows at these places in a canonical run of `count` rows, the first of which stands in `line`."""
        rows = run.lower().split(b"\n", count)
        # All are there, unless somebody has changed the file meanwhile.
        self.add((key_of(rows[each]), line + each, 1) for each in places if each < len(rows))

    def finish(self) -> None:
        """Bring `count` and what `first` gives up to the whole file."""
        self._top.finish()

    def first(self, subject: str) -> tuple[Problem, ...]:
        """The first `FIRST` rows with a key that had been there, in the order of the file."""
        return tuple(
            problem(Rule.REPEATED, found.line, found.column, subject, masked=found.masked, before=found.before)
            for found in self._first
        )

    def found(self, key: bytes, line: int, column: int, before: int) -> None:
        """Count one repeat, and tell of the row that it supersedes."""
        self.found_many((before,), ((key, line, column, before),))

    def found_many(self, before: Collection[int], earliest: Iterable[tuple[bytes, int, int, int]]) -> None:
        """Count repeats, and tell of the rows `before` that they supersede; `earliest` are the `FIRST` of them.

        These have key, line and column, and the line of the row that they repeat.
        """
        self.count += len(before)
        if self._superseded:
            for line in before:
                self._superseded(int(line))
        for key, line, column, at in earliest:
            if len(self._first) < FIRST or line < self._first[-1].line:
                insort(self._first, _Repeat(line, column, at, mask(key.decode(errors="replace"))))
                del self._first[FIRST:]

    def new_file(self) -> IO[bytes]:
        """A temporary file that is gone when this is left, if not earlier."""
        return self._files.enter_context(tempfile.TemporaryFile(dir=self._scratch))


def key_of(row: bytes) -> bytes:
    """The key of a canonical row in lower case: its first cell, without quotes."""
    return row.partition(b",")[0].strip(b'"')


class _Level:
    """The keys kept in memory, each with the line it was last seen in, and the parts for the others."""

    def __init__(self, repeats: Repeats, level: int) -> None:
        self._repeats = repeats
        self._level = level
        self._seen: dict[bytes, int] = {}
        self._room = repeats.held
        self._parts: list[_Part] = []

    def add(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        # Python's hash of bytes is keyed by chance, so no file can be made to fall into one part at every level.
        seen, room, parts, shift = self._seen, self._room, self._parts, self._level * _PART_BITS
        for key, line, column in rows:
            before = seen.get(key)
            if before is not None:
                self._repeats.found(key, line, column, before)
            elif room < 0:
                parts[hash(key) >> shift & _LAST_PART].add(key, line, column)
                continue
            else:
                room -= len(key) + _OVERHEAD
                if room < 0:
                    parts = self._parts = [_Part(self._repeats.new_file()) for _ in range(_LAST_PART + 1)]
            seen[key] = line
        self._room = room

    def finish(self) -> None:
        self._seen.clear()
        for part in self._parts:
            inner = _Level(self._repeats, self._level + 1)
            for rows in part.take():
                self._repeats.tell()
                inner.add(rows)
            inner.finish()


class _Part:
    """Rows that wait in a temporary file, in their order."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._keys: list[bytes] = []
        self._lines = array("Q")
        self._columns = array("I")

    def add(self, key: bytes, line: int, column: int) -> None:
        self._keys.append(key)
        self._lines.append(line)
        self._columns.append(column)
        if len(self._keys) >= _AT_ONCE:
            self._flush()

    def take(self) -> Iterator[Iterable[tuple[bytes, int, int]]]:
        """All rows, some at a time; then the file is gone."""
        self._flush()
        self._file.seek(0)
        while frame := self._file.read(_FRAME.size):
            count, size = _FRAME.unpack(frame)
            lines, columns = (array(kind, self._file.read(count * array(kind).itemsize)) for kind in "QI")
            yield zip(self._file.read(size).split(b"\n"), lines, columns, strict=True)
        self._file.close()

    def _flush(self) -> None:
        keys = b"\n".join(self._keys)
        if self._keys:
            frame = _FRAME.pack(len(self._keys), len(keys))
            self._file.write(b"".join((frame, self._lines.tobytes(), self._columns.tobytes(), keys)))
        self._keys, self._lines, self._columns = [], array("Q"), array("I")
