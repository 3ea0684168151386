"""The trail of a check: enough of every good row to say afterwards which addresses came again, in bounded memory.

While rows go by, each leaves a hash of eight bytes, and each run of rows the place in the text where it stands; both go
to temporary files once they are many. At the end the hashes tell which rows may be repeats; none, mostly, or a few. If
there are some, the text is read once more for them, and they are compared exactly (with numpy in `same`, without it in
`repeats`), so that the counts never rest on a hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import IO, Protocol

from dropzone.sheet import hashes
from dropzone.sheet.behind import Behind
from dropzone.sheet.hashes import Hashing, Marks, Ordered, Plain, Vectors, mark_repeated
from dropzone.sheet.repeats import Repeats
from dropzone.sheet.same import Same

_FRAME = Struct("<BQQII")  # kind, line; of a run its place, rows and bytes; of one row its column, 1, its key's bytes
_CANONICAL, _REWRITTEN, _SINGLE = range(3)  # a run that was written as it came; one that was not; one row
_FRAMES = 512  # that are written at a time; small rows would make ten megabytes of them until rows are hashed (seen)
_AT_ONCE = 1 << 18  # bytes that are hashed at a time: with less, calling takes longer than what is done (measured)
SMALL = 1 << 20  # bytes of rows up to which no library need be imported and nothing goes to disk


class Exact(Protocol):
    """Who compares the rows that may be repeats, in the order of the file: key, line and column of each."""

    def add(self, rows: Iterable[tuple[bytes, int, int]]) -> None: ...
    def add_run(self, run: bytes, count: int, places: Sequence[int], line: int) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """The files of a trail: where rows stand, and the hash of each, in blocks."""

    frames: IO[bytes]
    ordered: IO[bytes]


def new_traces(new: Callable[[], IO[bytes]]) -> Traces:
    """With files that `new` makes."""
    return Traces(frames=new(), ordered=new())


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
        self.behind = behind
        self._frames: list[bytes] = []
        self._pending: list[bytes] = []
        self._size = 0
        self._hashing: Hashing | None = None
        self.ordered = Ordered(traces.ordered)

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
        self.behind.finish()

    def put_in_order(self) -> None:
        """Have all hashes in `traces.ordered`; until then the last ones may be missing there."""
        if self._hashing:
            self.ordered.flush(self._hashing)

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
        for rows in _batches(self._pending):
            self.behind.do(partial(self._add_hashes, hashing, rows))
        self._pending, self._size = [], 0

    def _add_hashes(self, hashing: Hashing, rows: Sequence[bytes]) -> None:
        self.ordered.add(hashing.hashes(rows, self._end), hashing)


def _batches(rows: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    """As many at a time as are hashed at once; before it was known that there are many, more of them have come."""
    batch: list[bytes] = []
    size = 0
    for each in rows:
        batch.append(each)
        size += len(each)
        if size > _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def find_repeats(
    trails: Sequence[Trail],
    repeats: Repeats,
    read: Callable[[bytes], tuple[bytes, int] | None],
    tell: Callable[[], None],
) -> None:
    """Hand every row whose address may have come before, or may come again, to `repeats`, in the order of the file.

    `read` gives the key of a row as it came, and the column where it stands; None if it is none, which can only be if
    somebody has changed the file meanwhile. `tell` is called again and again, and what it raises ends the search. May
    raise OSError, and what reading the text anew raises.
    """
    small = len(trails) == 1 and trails[0].is_small
    hashing = Plain() if small else hashes.best(trails[0].key)
    behind = trails[0].behind
    for trail in trails:
        trail.finish(hashing)
    marks = mark_repeated(hashing, [trail.ordered for trail in trails], [trail.count for trail in trails], behind, tell)
    if not marks.any:
        return
    exact = Same(hashing, repeats, behind, tell) if isinstance(hashing, Vectors) else repeats
    block = 0
    for trail in trails:
        _compare(trail, block * hashes.BLOCK, marks, exact, read, tell)
        block += hashes.blocks(trail.count)
    exact.finish()


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
    row: int,
    marks: Marks,
    exact: Exact,
    read: Callable[[bytes], tuple[bytes, int] | None],
    tell: Callable[[], None],
) -> None:
    """Hand the rows of a trail that are marked to `exact`; the first one is row number `row`."""
    frames = trail.traces.frames
    frames.seek(0)
    window = _Window(trail.again())
    while frame := frames.read(_FRAME.size):
        tell()
        kind, line, place, count, size = _FRAME.unpack(frame)
        key = frames.read(size) if kind == _SINGLE else b""
        places = marks.among(row, count)
        row += count
        if not len(places):
            continue
        if kind == _SINGLE:
            exact.add([(key, line, place)])
            continue
        run = window.at(place, size)
        if kind == _CANONICAL:
            exact.add_run(run, count, places, line)
        else:
            rows = run.split(b"\n")
            # All are there, unless somebody has changed the file meanwhile.
            found = ((read(rows[each]), line + each) for each in places if each < len(rows))
            exact.add((entry[0], at, entry[1]) for entry, at in found if entry)
