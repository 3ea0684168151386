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
from typing import IO, Any, Protocol

SIZE = 8  # bytes of a hash
BLOCK = 1 << 17  # hashes in memory at a time: 1 MiB, and what sorting adds

_WORDS = 8  # words of 8 bytes of an address that count: what is the same so far is compared exactly
_AT_ONCE = 4  # words that are taken of every address; most have no more
_MANY = 1 << 14  # bytes from which on a call of numpy pays
_QUOTE = ord('"')


class Hashing(Protocol):
    """One way to do it. Blocks are hashes one behind the other, eight bytes each."""

    def hashes(self, rows: bytes, end: bytes) -> bytes:
        """A block: the hash of the first cell of each row, as if it were in lower case and had no quotes.

        `rows` are canonical, each with its line end; `end` is what stands behind a first cell, a comma or a line end.
        """

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        """`block` in order, with no more than two of a hash, and for each of `bounds` how many in it are smaller."""

    def repeated(self, block: bytes) -> list[int]:
        """The hashes that stand more than once in a block."""

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        """The places of the hashes of a block whose first bits, the others shifted out, are marked."""


def repeated(
    hashing: Hashing, hashes: Iterator[bytes], count: int, scratch: IO[bytes], tell: Callable[[], None]
) -> Iterator[int]:
    """Every hash that comes more than once in the blocks `hashes`, `count` altogether; `scratch` is an empty file.

    `tell` is called again and again, and may raise.

    The blocks are sorted one by one; then a range of values is looked at after the other, with its part of each. That
    a million rows may have one address makes no range large: two of them in each block tell as much.
    """
    ranges = -(-count // BLOCK)
    bounds = [(part << 64) // ranges for part in range(1, ranges)]
    cuts = []
    at = 0
    for block in hashes:
        in_order, smaller = hashing.sorted(block, bounds)
        scratch.write(in_order)
        # An array, for there are as many as blocks times ranges: as a list they take 20 MiB for a hundred million rows.
        cuts.append(array("Q", [at + SIZE * each for each in (0, *smaller, len(in_order) // SIZE)]))
        at += len(in_order)
        tell()
    for part in range(ranges):
        tell()
        yield from hashing.repeated(b"".join(_cut(scratch, each[part], each[part + 1]) for each in cuts))


def _cut(file: IO[bytes], start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)


class Plain:
    """With Python's own hash and lists. It knows a key of its own, other than the caller's, in each interpreter."""

    def hashes(self, rows: bytes, end: bytes) -> bytes:
        keys = [row.partition(end)[0].strip(b'"') for row in rows.lower().split(b"\n")]
        return array("q", map(hash, keys[:-1])).tobytes()

    def sorted(self, block: bytes, bounds: Sequence[int]) -> tuple[bytes, list[int]]:
        found = sorted(array("Q", block))
        values = array("Q", (each for at, each in enumerate(found) if at < 2 or each != found[at - 2]))
        return values.tobytes(), [bisect_left(values, bound) for bound in bounds]

    def repeated(self, block: bytes) -> list[int]:
        return sorted({one for one, next_ in pairwise(sorted(array("Q", block))) if one == next_})

    def found(self, block: bytes, marks: bytearray, shift: int) -> list[int]:
        return [place for place, each in enumerate(array("Q", block)) if marks[each >> shift]]


class Vectors:
    """With numpy: each step is one call for many rows, on words of eight bytes that begin where an address does."""

    def __init__(self, numpy: Any, key: bytes) -> None:
        self._np = numpy
        self._factors = numpy.frombuffer(key, numpy.uint64) | numpy.uint64(1)
        self._ones, self._highest, self._blanks = map(self._all, b"\x01\x80\x20")
        self._full = self._all(0xFF)

    def _all(self, byte: int) -> Any:
        """A word of eight times this byte."""
        return self._np.uint64(int.from_bytes(bytes([byte]) * SIZE))

    def hashes(self, rows: bytes, end: bytes) -> bytes:
        np = self._np
        line_ends = self._line_ends(np.frombuffer(rows, np.uint8))
        starts = np.empty_like(line_ends)
        starts[:1] = 0
        np.add(line_ends[:-1], 1, out=starts[1:])
        # A view of what stands at each byte; behind the last row there are words to look at, too.
        width = SIZE * _AT_ONCE
        there = np.ndarray(shape=(len(rows) + 1,), dtype=f"V{width}", buffer=rows + bytes(width), strides=(1,))
        block: bytes = self._mixed(there, starts, ord(end)).tobytes()
        return block

    def _line_ends(self, letters: Any) -> Any:
        """Where line ends are, eight bytes at a time: few of these have one, none has two unless rows are tiny."""
        np = self._np
        found = letters == 10
        whole = len(found) - len(found) % SIZE
        words = found[:whole].view(np.uint64)
        places = np.flatnonzero(words != 0)
        bits = words[places]
        if np.bitwise_count(bits).max(initial=0) > 1:
            return np.flatnonzero(found)
        inside = places * SIZE + (np.bitwise_count(bits - np.uint64(1)) >> 3)
        return np.concatenate((inside, whole + np.flatnonzero(found[whole:])))

    def _mixed(self, there: Any, starts: Any, end: int) -> Any:
        """The hashes of the cells that begin at `starts` and go on to the next byte `end`, or have quotes of theirs."""
        np = self._np
        words = there[starts].view(np.uint64)
        quoted = np.flatnonzero(words[::_AT_ONCE].astype(np.uint8) == _QUOTE)
        if len(quoted) == len(starts):
            return self._sums(there, starts + 1, there[starts + 1].view(np.uint64), _QUOTE)
        sums = self._sums(there, starts, words, end)
        if len(quoted):
            sums[quoted] = self._mixed(there, starts[quoted], end)
        return sums

    def _sums(self, there: Any, starts: Any, words: Any, end: int, first: int = 0) -> Any:
        """The sums of each cell's words, each word times its factor; `words` are those at `starts`, and are changed."""
        np = self._np
        inside = self._before(words, end)
        longer = (inside.view(np.int64) >> 63).view(np.uint64)  # all bits of what goes on behind it, or none
        words |= self._blanks  # lower case, and roughly so
        words &= inside
        words ^= words >> np.uint64(29)
        words, longer = words.reshape(-1, _AT_ONCE), longer.reshape(-1, _AT_ONCE)
        sums = words[:, 0] * self._factors[first]
        on = longer[:, 0]
        for column in range(1, _AT_ONCE):
            word = words[:, column] & on
            word *= self._factors[first + column]
            sums += word
            on = on & longer[:, column]
        rows = np.flatnonzero(on)
        if len(rows) and (behind := first + _AT_ONCE) < _WORDS:
            starts = starts[rows] + SIZE * _AT_ONCE
            sums[rows] += self._sums(there, starts, there[starts].view(np.uint64), end, behind)
        return sums

    def _before(self, words: Any, end: int) -> Any:
        """For each word the bits of the bytes before the first `end` in it; all, if it has none.

        As in C's fastest string functions: one less in each byte borrows from the first byte that is zero.
        """
        np = self._np
        others = words ^ self._all(end)
        bits = others - self._ones
        bits &= np.invert(others, out=others)
        bits &= self._highest
        bits &= np.negative(bits, out=others)  # the lowest one of them, or none
        bits >>= np.uint64(7)
        bits -= np.uint64(1)
        return bits

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
        places = np.frombuffer(block, np.uint64) >> np.uint64(shift)
        found: list[int] = np.flatnonzero(np.frombuffer(marks, np.uint8)[places]).tolist()
        return found


def count_lines(text: bytes) -> int:
    """The line ends in `text`. With numpy, once it is there, five times as fast."""
    if len(text) < _MANY or not _numpy.cache_info().currsize or (np := _numpy()) is None:
        return text.count(b"\n")
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == 10))


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
    return Vectors(_numpy(), key) if anywhere() else Plain()


def anywhere() -> bool:
    """Whether one key gives the same hashes in every interpreter."""
    return sys.byteorder == "little" and _numpy() is not None
