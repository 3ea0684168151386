"""The trail of a check: enough of every good row to say afterwards which addresses came again, in bounded memory.

While rows go by, each leaves a hash of eight bytes, and each run of rows the place in the text where it stands; both go
to temporary files once they are many. At the end the hashes tell which rows may be repeats; none, mostly, or a few. If
there are some, the text is read once more for them, and they are compared exactly (`repeats`), so that the counts never
rest on a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from struct import Struct
from typing import IO, Protocol

from dropzone.sheet import hashes
from dropzone.sheet.behind import Behind
from dropzone.sheet.hashes import SIZE, Hashing, Ordered, Plain

_FRAME = Struct("<BQQII")  # kind, line; of a run its place, rows and bytes; of one row its column, 1, its key's bytes
_CANONICAL, _REWRITTEN, _SINGLE = range(3)  # a run that was written as it came; one that was not; one row
_FRAMES = 512  # that are written at a time; small rows would make ten megabytes of them until rows are hashed (seen)
_AT_ONCE = 1 << 19  # bytes that are hashed at a time: with less, calling takes longer than what is done (measured)
SMALL = 1 << 20  # bytes of rows up to which no library need be imported and nothing goes to disk
_MARKS = 25  # bits of a hash at most that tell whether it is marked: 4 MiB


class Exact(Protocol):
    """Who compares the rows that may be repeats: key, line and column of each."""

    def add(self, rows: Iterable[tuple[bytes, int, int]]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """The files of a trail: where rows stand; the hash of each, in the order of the rows; and the same in blocks."""

    frames: IO[bytes]
    hashes: IO[bytes]
    ordered: IO[bytes]


def new_traces(new: Callable[[], IO[bytes]]) -> Traces:
    """With files that `new` makes."""
    return Traces(frames=new(), hashes=new(), ordered=new())


class Trail:
    """What the rows of a file, or of a part, leave in its `traces`: empty files, or such with `count` rows.

    `key` is what hashes are keyed with; trails that are to be searched together share it. `again` gives the text in
    which the rows stand once more, in pieces. `end` is what stands behind an address: a comma, or the line end.
    """

    def __init__(
        self,
        traces: Traces,
        key: bytes,
        behind: Behind,
        again: Callable[[], Iterator[bytes]] = lambda: iter(()),
        *,
        end: bytes = b",",
        count: int = 0,
    ) -> None:
        self.traces = traces
        self.key = key
        self.again = again
        self.count = count  # good rows
        self._end = end
        self._behind = behind
        self._frames: list[bytes] = []
        self._pending: list[bytes] = []
        self._size = 0
        self._hashing: Hashing | None = None
        self._ordered = Ordered(traces.ordered)

    def add_run(self, line: int, count: int, place: int, run: bytes, written: bytes) -> None:
        """Note `count` rows of one line each, the first in `line`, as they came and as they were written.

        They stand `place` bytes into the text.
        """
        kind = _CANONICAL if run is written else _REWRITTEN
        self._note(_FRAME.pack(kind, line, place, count, len(run)), count, written)

    def add_row(self, line: int, column: int, key: str) -> None:
        """Note one row that was read exactly; its address is `key`, without case."""
        entry = key.encode()
        written = entry + (b"\n" if self._end == b"\n" else self._end + b"\n")
        self._note(_FRAME.pack(_SINGLE, line, column, 1, len(entry)) + entry, 1, written)

    def _note(self, frame: bytes, count: int, written: bytes) -> None:
        self._frames.append(frame)
        if len(self._frames) >= _FRAMES:
            self._write_frames()
        self.count += count
        self._pending.append(written)
        self._size += len(written)
        if self._size > (_AT_ONCE if self._hashing else SMALL):
            self._hash(self._hashing or hashes.best(self.key))

    def finish(self, hashing: Hashing) -> None:
        """Have all that was noted hashed; with `hashing`, if nothing was hashed yet."""
        self._hash(self._hashing or hashing)
        self._behind.finish()

    def put_in_order(self) -> None:
        """Have all hashes in `traces.ordered`; until then the last ones may be missing there."""
        if self._hashing:
            self._ordered.flush(self._hashing)

    @property
    def is_small(self) -> bool:
        """Whether nothing was hashed yet."""
        return self._hashing is None

    def _write_frames(self) -> None:
        self.traces.frames.write(b"".join(self._frames))
        self._frames.clear()

    def _hash(self, hashing: Hashing) -> None:
        self._hashing = hashing
        self._write_frames()
        rows, self._pending, self._size = self._pending, [], 0

        def hash_them() -> None:
            block = hashing.hashes(rows, self._end)
            self.traces.hashes.write(block)
            self._ordered.add(block, hashing)

        if rows:
            self._behind.do(hash_them)


def find_repeats(
    trails: Sequence[Trail],
    exact: Exact,
    read: Callable[[bytes], tuple[bytes, int] | None],
    tell: Callable[[], None],
) -> None:
    """Hand every row whose address may have come before, or may come again, to `exact`, in the order of the file.

    `read` gives the key of a row as it came, and the column where it stands; None if it is none, which can only be if
    somebody has changed the file meanwhile. `tell` is called again and again, and what it raises ends the search. May
    raise OSError, and what reading the text anew raises.
    """
    small = len(trails) == 1 and trails[0].is_small
    hashing = Plain() if small else hashes.best(trails[0].key)
    for trail in trails:
        trail.finish(hashing)
    marks = _Marks(sum(trail.count for trail in trails))
    for value in _repeated(trails, hashing, marks.count, tell):
        marks.add(value)
    for trail in trails if marks.any else ():
        _compare(trail, hashing, marks, exact, read, tell)


def _repeated(trails: Sequence[Trail], hashing: Hashing, count: int, tell: Callable[[], None]) -> Iterable[int]:
    """The hashes that come more than once in the trails, `count` altogether."""
    if count <= hashes.BLOCK:
        return hashing.repeated(b"".join(_read(trail.traces.hashes) for trail in trails))
    for trail in trails:
        trail.put_in_order()
    return hashes.repeated(hashing, [trail.traces.ordered for trail in trails], count, tell)


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


class _Marks:
    """Which beginnings of hashes are marked: one bit for each, so it stays as small as it is whatever is marked."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.any = False
        self.shift = 64 - min(_MARKS, count.bit_length() + 5)
        self.bits = bytearray(1 << (64 - self.shift - 3))

    def add(self, value: int) -> None:
        self.any = True
        place = value >> self.shift
        self.bits[place >> 3] |= 1 << (place & 7)


class _Window:
    """A text by the places in it, forward only; what is kept is as long as what was asked for, and a piece more."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._text = b""
        self._begin = 0  # where in the text that begins

    def at(self, place: int, size: int) -> bytes:
        """The `size` bytes that begin `place` bytes into the text; fewer if it ends earlier."""
        while self._begin + len(self._text) < place + size and (piece := next(self._pieces, None)) is not None:
            rest = self._text[max(0, place - self._begin) :]
            self._begin += len(self._text) - len(rest)
            self._text = rest + piece
        return self._text[place - self._begin : place - self._begin + size]


def _compare(
    trail: Trail,
    hashing: Hashing,
    marks: _Marks,
    exact: Exact,
    read: Callable[[bytes], tuple[bytes, int] | None],
    tell: Callable[[], None],
) -> None:
    """Hand key, line and column of the rows of a trail whose hashes are marked to `exact`."""
    frames, add = trail.traces.frames, exact.add
    frames.seek(0)
    trail.traces.hashes.seek(0)
    window = _Window(trail.again())
    while frame := frames.read(_FRAME.size):
        tell()
        kind, line, place, count, size = _FRAME.unpack(frame)
        key = frames.read(size) if kind == _SINGLE else b""
        places = hashing.found(trail.traces.hashes.read(SIZE * count), marks.bits, marks.shift)
        if not places:
            continue
        if kind == _SINGLE:
            add([(key, line, place)])
            continue
        text = window.at(place, size)
        rows = (text.lower() if kind == _CANONICAL else text).split(b"\n")
        # All are there, unless somebody has changed the file meanwhile.
        there = [each for each in places if each < len(rows)]
        if kind == _CANONICAL:
            keys = (rows[each].partition(b",")[0].strip(b'"') for each in there)
            add(zip(keys, map(line.__add__, there), repeat(1)))
        else:
            found = ((read(rows[each]), line + each) for each in there)
            add((entry[0], at, entry[1]) for entry, at in found if entry)
