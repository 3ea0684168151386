"""Hashes of many addresses at once, and which of them come more than once; with numpy where it is installed.

A hash says nothing for sure: two rows of one hash *may* have one address, rows of different hashes have not. So case
may be folded roughly here, and whoever asks has to look at the rows that are left (`trail`). The hashes are keyed by
chance, so that no file can be made to have many rows of one hash.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import IO, Any, Protocol

SIZE = 8  # bytes of a hash
BLOCK = 1 << 17  # hashes in memory at a time: 1 MiB, and what sorting adds

_WORDS = 16  # words of 8 bytes of an address that have a factor of their own; behind them the factors come again
_AT_ONCE = 4  # words that are taken of every address; most have no more


class Hashing(Protocol):
    """One way to do it. Blocks are hashes one behind the other, eight bytes each."""

    def hashes(self, rows: bytes) -> bytes:
        """A block: the hash of the first cell of each row, as if it were in lower case and had no quotes.

        `rows` are canonical, or nothing but the cell, each with its line end.
        """

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        """`block` in order, and for each of `bounds` how many hashes in it are smaller."""

    def repeated(self, block: bytes) -> list[int]:
        """The hashes that stand more than once in a block."""

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        """The places of the hashes of a block whose first bits, the others shifted out, are marked."""


def repeated(
    hashing: Hashing, hashes: Iterator[bytes], count: int, scratch: IO[bytes], tell: Callable[[], None]
) -> Iterator[int]:
    """Every hash that comes more than once in the blocks `hashes`, `count` altogether; `scratch` is an empty file.

    `tell` is called again and again, and may raise.

    The blocks are sorted one by one; then a range of values is looked at after the other, with its part of each.
    """
    ranges = -(-count // BLOCK)
    bounds = [(part << 64) // ranges for part in range(1, ranges)]
    cuts = []
    at = 0
    for block in hashes:
        in_order, smaller = hashing.sorted(block, bounds)
        scratch.write(in_order)
        cuts.append([at + SIZE * each for each in (0, *smaller, len(block) // SIZE)])
        at += len(block)
        tell()
    for part in range(ranges):
        tell()
        yield from hashing.repeated(b"".join(_cut(scratch, each[part], each[part + 1]) for each in cuts))


def _cut(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


class Plain:
    """With Python's own hash and lists. It knows a key of its own, other than the caller's, in each interpreter."""

    def hashes(self, rows: bytes) -> bytes:
        keys = [row.partition(b",")[0].strip(b'"') for row in rows.lower().split(b"\n")]
        return array("q", map(hash, keys[:-1])).tobytes()

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        values = array("Q", sorted(array("Q", block)))
        return values.tobytes(), [bisect_left(values, bound) for bound in bounds]

    def repeated(self, block: bytes) -> list[int]:
        return sorted({one for one, next_ in pairwise(sorted(array("Q", block))) if one == next_})

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        return [place for place, each in enumerate(array("Q", block)) if marks[each >> shift]]


class Vectors:
    """With numpy: each step is one call for all rows, on words of eight bytes that begin where an address does."""

    def __init__(self, numpy: Any, key: bytes) -> None:
        self._np = numpy
        factors = numpy.frombuffer(key, numpy.uint64) | numpy.uint64(1)
        self._factors = numpy.resize(factors, _WORDS)
        # For each number of bytes that an address has in a few words: the bytes of each word that belong to it.
        lengths = numpy.arange(SIZE * _AT_ONCE + 1)[:, None] - SIZE * numpy.arange(_AT_ONCE)
        bits = 8 * numpy.clip(lengths, 0, SIZE).astype(numpy.uint64)
        full = numpy.uint64(0xFFFFFFFFFFFFFFFF)
        self._masks = numpy.where(bits == 64, full, (numpy.uint64(1) << (bits % 64)) - numpy.uint64(1))

    def hashes(self, rows: bytes) -> bytes:
        np = self._np
        padded = rows + bytes(SIZE * _AT_ONCE)
        letters = np.frombuffer(padded, np.uint8)
        starts, ends = self._first_cells(letters, len(rows))
        block: bytes = self._mixed(padded, starts, ends).tobytes()
        return block

    def _first_cells(self, letters: Any, size: int) -> tuple[Any, Any]:
        """Where the first cell of each row begins and ends, without quotes."""
        np = self._np
        line_ends = letters[:size] == 10
        breaks = np.flatnonzero(line_ends | (letters[:size] == 44))
        last = np.flatnonzero(line_ends[breaks])  # of the breaks, those that end a row
        firsts = np.concatenate(([0], last[:-1] + 1))
        ends = breaks[firsts]
        starts = np.concatenate(([0], breaks[last[:-1]] + 1))
        quoted = letters[starts] == 34
        return starts + quoted, ends - quoted

    def _mixed(self, padded: bytes, starts: Any, ends: Any) -> Any:
        np = self._np
        width = SIZE * _AT_ONCE
        chunks = np.ndarray(shape=(len(padded) - width + 1,), dtype=f"V{width}", buffer=padded, strides=(1,))
        sums = np.zeros(len(starts), np.uint64)
        rows: Any = slice(None)
        first = 0
        while len(starts):
            lengths = ends - starts
            words = chunks[starts].view(np.uint64).reshape(-1, _AT_ONCE)
            words |= np.uint64(0x2020202020202020)  # lower case, and roughly so
            words &= self._masks.take(np.minimum(lengths, width), axis=0)
            words ^= words >> np.uint64(29)
            for column in range(_AT_ONCE):  # three times as fast as the product of a table and a row
                sums[rows] += words[:, column] * self._factors[first + column]
            longer = np.flatnonzero(lengths > width)
            rows = longer if isinstance(rows, slice) else rows[longer]
            starts, ends = starts[longer] + width, ends[longer]
            first = (first + _AT_ONCE) % _WORDS
        return sums * self._factors[0]

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        np = self._np
        values = np.sort(np.frombuffer(block, np.uint64))
        return values.tobytes(), np.searchsorted(values, np.array(bounds, np.uint64)).tolist()

    def repeated(self, block: bytes) -> list[int]:
        np = self._np
        values = np.sort(np.frombuffer(block, np.uint64))
        again: list[int] = np.unique(values[1:][values[1:] == values[:-1]]).tolist()
        return again

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        np = self._np
        places = np.frombuffer(block, np.uint64) >> np.uint64(shift)
        found: list[int] = np.flatnonzero(np.frombuffer(marks, np.uint8)[places]).tolist()
        return found


@cache
def _numpy() -> Any:
    """numpy, imported when a large file comes first: it takes a tenth of a second and ten megabytes."""
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
    return Vectors(_numpy(), key) if _numpy() else Plain()


def anywhere() -> bool:
    """Whether one key gives the same hashes in every interpreter."""
    return _numpy() is not None
