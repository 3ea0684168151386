"""Hashes of many addresses at once, and which of them come more than once; with numpy where it is installed.

A hash says nothing for sure: two rows of one hash *may* have one address, rows of different hashes have not. So case
may be folded roughly here, and whoever asks has to look at the rows that are left (`trail`). The hashes are keyed by
chance, so that no file can be made to have many rows of one hash.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import IO, Any, NamedTuple, Protocol

SIZE = 8  # bytes of a hash
BLOCK = 1 << 17  # hashes in memory at a time: 1 MiB, and what sorting adds

_RANGES = 1 << 10  # of values, at most: with a hundred million rows each has about a block's worth
_BOUNDS = [(part << 64) // _RANGES for part in range(1, _RANGES)]

_WORDS = 8  # words of 8 bytes of an address that count: what is the same so far is compared exactly
_AT_ONCE = 32  # bytes that are taken of every address; most have no more
_CELL = f"V{_AT_ONCE}"
_MANY = 1 << 12  # bytes from which on a call of numpy pays
_QUOTE = ord('"')
_FREED = 2 << 20  # bytes


class Hashing(Protocol):
    """One way to do it. Blocks are hashes one behind the other, eight bytes each."""

    def hashes(self, runs: Sequence[bytes], end: bytes) -> bytes:
        """A block: the hash of the first cell of each row, as if it were in lower case and had no quotes.

        The rows in `runs` are canonical, each with its line end; `end` is what stands behind a first cell, a comma or
        a line end.
        """

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        """`block` in order, with no more than two of a hash, and for each of `bounds` how many in it are smaller."""

    def repeated(self, block: bytes) -> list[int]:
        """The hashes that stand more than once in a block."""

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        """The places of the hashes of a block that are marked: a bit for each, by what is left once it is shifted."""


class Ordered:
    """A file of hashes in blocks, each in order, and before each how many in it are smaller than each of the bounds."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, block: bytes, hashing: Hashing) -> None:
        """Take the hashes of some rows more."""
        self._waiting.append(block)
        self._size += len(block)
        if self._size >= SIZE * BLOCK:
            self.flush(hashing)

    def flush(self, hashing: Hashing) -> None:
        """Write what was kept back until it was enough for a block, if there is any."""
        if not self._waiting:
            return
        in_order, smaller = hashing.sorted(b"".join(self._waiting), _BOUNDS)
        self._file.write(array("I", [0, *smaller, len(in_order) // SIZE]).tobytes() + in_order)
        self._waiting, self._size = [], 0


def repeated(hashing: Hashing, files: Sequence[IO[bytes]], count: int, tell: Callable[[], None]) -> Iterator[int]:
    """Every hash that comes more than once in the files that `Ordered` has written, `count` hashes altogether.

    `tell` is called again and again, and may raise.

    A range of values is looked at after the other, with the part of it that each block has. That a million rows may
    have one address makes no range large: two of them in each block tell as much.
    """
    blocks = [each for file in files for each in _blocks(file)]
    ranges = min(_RANGES, max(1, -(-count // BLOCK)))
    edges = [_RANGES * part // ranges for part in range(ranges + 1)]
    for first, end in pairwise(edges):
        tell()
        yield from hashing.repeated(b"".join(block.part(first, end) for block in blocks))


class _Block(NamedTuple):
    """Where in a file the hashes of a block begin, and at which of them each range does."""

    file: IO[bytes]
    start: int
    cuts: array[int]  # an array: as a list they would take 30 MiB for a hundred million rows

    def part(self, first: int, end: int) -> bytes:
        self.file.seek(self.start + SIZE * self.cuts[first])
        return self.file.read(SIZE * (self.cuts[end] - self.cuts[first]))


def _blocks(file: IO[bytes]) -> Iterator[_Block]:
    at = 0
    while True:
        file.seek(at)
        cuts = array("I", file.read(array("I").itemsize * (_RANGES + 1)))
        if not cuts:
            return
        start = file.tell()
        yield _Block(file, start, cuts)
        at = start + SIZE * cuts[-1]


class Plain:
    """With Python's own hash and lists. It knows a key of its own, other than the caller's, in each interpreter."""

    def hashes(self, runs: Sequence[bytes], end: bytes) -> bytes:
        keys = [row.partition(end)[0].strip(b'"') for row in b"".join(runs).lower().split(b"\n")]
        return array("q", map(hash, keys[:-1])).tobytes()

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        found = sorted(array("Q", block))
        values = array("Q", (each for at, each in enumerate(found) if at < 2 or each != found[at - 2]))
        return values.tobytes(), [bisect_left(values, bound) for bound in bounds]

    def repeated(self, block: bytes) -> list[int]:
        return sorted({one for one, next_ in pairwise(sorted(array("Q", block))) if one == next_})

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        bits = enumerate(each >> shift for each in array("Q", block))
        return [place for place, bit in bits if marks[bit >> 3] >> (bit & 7) & 1]


class Vectors:
    """With numpy: each step is one call for many rows, on the 32 bytes that begin where an address does."""

    def __init__(self, numpy: Any, key: bytes) -> None:
        np = self._np = numpy
        self._factors = np.frombuffer(key, np.uint64) | np.uint64(1)
        self._blanks = np.full(_AT_ONCE, 0x20, np.uint8).view(np.uint64)[0]
        # For each number of bytes, all bits of the first so many.
        masks = np.where(np.arange(_AT_ONCE) < np.arange(_AT_ONCE + 1)[:, None], np.uint8(0xFF), np.uint8(0))
        self._masks = masks.view(_CELL).ravel()
        _keep_freed_memory()

    def hashes(self, runs: Sequence[bytes], end: bytes) -> bytes:
        np = self._np
        # Behind the last row there is something to look at, too.
        rows = b"".join([*runs, bytes(_AT_ONCE)])
        line_ends = self._line_ends(np.frombuffer(rows, np.uint8))
        starts = np.empty_like(line_ends)
        starts[:1] = 0
        np.add(line_ends[:-1], 1, out=starts[1:])
        # What stands at each byte, as a view.
        there = np.ndarray(shape=(len(rows) - _AT_ONCE + 1,), dtype=_CELL, buffer=rows, strides=(1,))
        block: bytes = self._hashed(there, starts, ord(end)).tobytes()
        return block

    def _line_ends(self, letters: Any) -> Any:
        """Where line ends are, eight bytes at a time: few of these have one, none has two unless rows are tiny."""
        np = self._np
        bits = np.packbits(letters == 10, bitorder="little")
        places = np.flatnonzero(bits != 0)
        bits = bits[places]
        below = bits - np.uint8(1)
        if (bits & below).any():
            return np.flatnonzero(letters == 10)
        places *= 8
        places += np.bitwise_count(below)
        return places

    def _hashed(self, there: Any, starts: Any, end: int) -> Any:
        """The hashes of the cells that begin at `starts` and go on to the next byte `end`, or have quotes of theirs."""
        np = self._np
        cells = there[starts]
        quoted = np.flatnonzero(cells.view(np.uint8)[::_AT_ONCE] == _QUOTE)
        if len(quoted) == len(starts):
            return self._sums(there, starts + 1, there[starts + 1], _QUOTE)
        sums = self._sums(there, starts, cells, end)
        if len(quoted):
            sums[quoted] = self._hashed(there, starts[quoted], end)
        return sums

    def _sums(self, there: Any, starts: Any, cells: Any, end: int, first: int = 0) -> Any:
        """The sums of each cell's words, each word times its factor; `cells` are those at `starts`, and are changed."""
        np = self._np
        ends = np.packbits(cells.view(np.uint8) == end, bitorder="little").view(np.uint32)  # one bit for each byte
        lengths = np.bitwise_count(~ends & (ends - np.uint32(1)))  # the zeros below the lowest one
        words = cells.view(np.uint64)
        words |= self._blanks  # lower case, and roughly so
        words &= np.take(self._masks, lengths, mode="clip").view(np.uint64)  # `clip` for none is out of bounds: faster
        words ^= words >> np.uint64(29)
        behind = first + _AT_ONCE // SIZE
        sums = words.reshape(-1, _AT_ONCE // SIZE) @ self._factors[first:behind]
        longer = np.flatnonzero(ends == 0)
        if len(longer) and behind < _WORDS:
            starts = starts[longer] + _AT_ONCE
            sums[longer] += self._sums(there, starts, there[starts], end, behind)
        return sums

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        np = self._np
        values = np.sort(np.frombuffer(block, np.uint64))
        values = values[np.concatenate((np.ones(min(2, len(values)), bool), values[2:] != values[:-2]))]
        return values.tobytes(), np.searchsorted(values, np.array(bounds, np.uint64)).tolist()

    def repeated(self, block: bytes) -> list[int]:
        np = self._np
        values = np.sort(np.frombuffer(block, np.uint64))
        again: list[int] = np.unique(values[1:][values[1:] == values[:-1]]).tolist()
        return again

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        np = self._np
        bits = np.frombuffer(block, np.uint64) >> np.uint64(shift)
        octets = np.frombuffer(marks, np.uint8)[bits >> np.uint64(3)]
        found: list[int] = np.flatnonzero(octets >> (bits & np.uint64(7)).astype(np.uint8) & np.uint8(1)).tolist()
        return found


def _keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to two megabytes for the next request.

    From 128 KiB on, glibc gives each block back to the system, until it sees a larger one freed; every array would come
    with fresh pages then, which takes as long as what is done with it (measured).
    """
    bytes(_FREED)


def line_counter(text: bytes) -> Callable[[int, int], int]:
    """What counts the line ends between two places in `text`, for who asks of several stretches of it.

    With numpy, once it is there, five times as fast.
    """
    if len(text) < _MANY or not _numpy.cache_info().currsize or (np := _numpy()) is None:
        return lambda start, end: text.count(b"\n", start, end)
    ends, count = np.frombuffer(text, np.uint8) == 10, np.count_nonzero
    return lambda start, end: int(count(ends[start:end]))


@cache
def _numpy() -> Any:
    """numpy, imported when a large file comes first: it takes a tenth of a second and ten megabytes."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # or it starts threads that nothing here would use
    try:
        import numpy as np  # noqa: PLC0415
    except ImportError:  # the extra `fast` is not installed
        return None
    return np


def new_key() -> bytes:
    """A key for `best`, by chance."""
    return os.urandom(SIZE * _WORDS)


def best(key: bytes) -> Hashing:
    """The fastest way that is installed."""
    return Vectors(_numpy(), key) if anywhere() else Plain()


def anywhere() -> bool:
    """Whether one key gives the same hashes in every interpreter."""
    return sys.byteorder == "little" and _numpy() is not None
