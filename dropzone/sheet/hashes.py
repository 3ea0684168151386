"""Hashes of many addresses at once, and which rows have one that comes again; with numpy where it is installed.

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
from functools import cache, partial
from itertools import chain, pairwise
from typing import IO, Any, Protocol

from dropzone.sheet.behind import Behind
from dropzone.sheet.blocks import BOUNDS, Blocks, ranges

SIZE = 8  # bytes of a hash
BLOCK = 1 << 17  # hashes in memory at a time, a power of two: 1 MiB, and what sorting adds

WORDS = 8  # words of 8 bytes of an address that count: what is the same so far is compared exactly
WIDTH = SIZE * WORDS
_CELL = f"V{WIDTH}"
_MARKS = 1 << 26  # bits, at most: 8 MiB
_MANY = 1 << 12  # bytes from which on a call of numpy pays
_COMMA, _QUOTE, _LINE_END = b',"\n'
_AT_ONCE = 1 << 13  # rows that are hashed at a time, of which numpy makes half a megabyte again and again
_FREED = 4 << 20  # bytes


class Hashing(Protocol):
    """One way to do it. Hashes stand one behind the other, eight bytes each, and so do numbers of rows.

    In a block *in order* each hash stands once, and its lowest bits have given way to the place of a row that has it.
    """

    def hashes(self, runs: Sequence[bytes], end: bytes) -> bytes:
        """The hash of the first cell of each row, as if it were in lower case and had no quotes.

        The rows in `runs` are canonical, each with its line end; `end` is what stands behind a first cell, a comma or
        a line end.
        """

    def in_order(self, block: bytes) -> tuple[bytes, bytes]:
        """`block` in order, and the places of all rows whose hashes come more than once in it."""

    def smaller(self, block: bytes, bounds: Sequence[int]) -> Sequence[int]:
        """For each of `bounds` how many hashes of a block in order are smaller."""

    def repeated(self, parts: Sequence[bytes]) -> bytes:
        """The rows whose hashes are in several of these parts, one of each block in order, the first block first."""

    def mark(self, marks: bytearray, rows: bytes, block: int, shift: int) -> None:
        """Set the bits of these rows of a block: of each that of its number, shifted."""

    def marked(self, marks: bytes | bytearray, shift: int, first: int, count: int) -> Sequence[int]:
        """Which of `count` rows, from row number `first` on, have their bits set: how many rows they come behind it."""


class Ordered:
    """A file of hashes in blocks, each in order and all but the last full. What is repeated within a block is noted."""

    def __init__(self, file: IO[bytes]) -> None:
        self.blocks = Blocks(file, SIZE)
        self._waiting: list[bytes] = []
        self._size = 0

    def add(self, hashes: bytes, hashing: Hashing) -> None:
        """Take the hashes of some rows more."""
        self._waiting.append(hashes)
        self._size += len(hashes)
        if self._size >= SIZE * BLOCK:
            self._write(hashing, SIZE * BLOCK)

    def flush(self, hashing: Hashing) -> None:
        """Write what was kept back until it was enough for a block, if there is any."""
        self._write(hashing, SIZE)

    def waiting(self) -> bytes:
        """What is kept back."""
        return b"".join(self._waiting)

    def _write(self, hashing: Hashing, least: int) -> None:
        hashes = self.waiting()
        while len(hashes) >= least:
            block, again = hashing.in_order(hashes[: SIZE * BLOCK])
            self.blocks.write(block, hashing.smaller(block, BOUNDS), again)
            hashes = hashes[SIZE * BLOCK :]
        self._waiting, self._size = [hashes], len(hashes)


class Marks:
    """Which rows are marked: a bit for each, or for 2, 4, 8 … neighbours where there are too many of them."""

    def __init__(self, hashing: Hashing, rows: int) -> None:
        self.any = False
        self._hashing = hashing
        self._shift = max(0, (rows - 1).bit_length() - (_MARKS - 1).bit_length())
        self._bits = bytearray((rows >> self._shift + 3) + 1)

    def add(self, rows: bytes, block: int = 0) -> None:
        """Mark these rows of a block."""
        if rows:
            self.any = True
            self._hashing.mark(self._bits, rows, block, self._shift)

    def among(self, first: int, count: int) -> Sequence[int]:
        """Which of `count` rows are marked, the first of them being row number `first`, which is 0 in what is given."""
        octet, last = first >> self._shift + 3, first + count - 1 >> self._shift + 3
        bits = self._bits[octet : last + 1]
        if not bits.strip(b"\0"):
            return ()
        return self._hashing.marked(bits, self._shift, first - (octet << self._shift + 3), count)


def mark_repeated(
    hashing: Hashing, files: Sequence[Ordered], counts: Sequence[int], behind: Behind, tell: Callable[[], None]
) -> Marks:
    """Mark all rows whose hashes come more than once in the files, of which each has so many rows.

    The rows of each file begin with a block of their own. `tell` is called again and again, and may raise.

    A range of values is looked at after the other, with the part of it that each block has. That a million rows may
    have one address makes no range large: one of them in each block tells as much.
    """
    if len(files) == 1 and counts[0] < BLOCK:  # nothing was written
        marks = Marks(hashing, counts[0])
        marks.add(hashing.in_order(files[0].waiting())[1])
        return marks
    count = sum(map(blocks, counts))
    marks = Marks(hashing, count * BLOCK)
    for file in files:
        file.flush(hashing)
    for block, rows in enumerate(chain.from_iterable(file.blocks.notes() for file in files)):
        tell()
        marks.add(rows, block)

    def mark_range(first: int, end: int) -> None:
        marks.add(hashing.repeated([part for file in files for part in file.blocks.parts(first, end)]))

    for first, end in ranges(count):
        tell()
        behind.do(partial(mark_range, first, end))
    behind.finish()
    return marks


def blocks(rows: int) -> int:
    """In how many blocks so many rows are."""
    return -(-rows // BLOCK)


def _place_bits() -> int:
    return (BLOCK - 1).bit_length()


class Plain:
    """With Python's own hash and lists. It knows a key of its own, other than the caller's, in each interpreter."""

    def hashes(self, runs: Sequence[bytes], end: bytes) -> bytes:
        keys = [row.partition(end)[0].strip(b'"') for row in b"".join(runs).lower().split(b"\n")]
        return array("q", map(hash, keys[:-1])).tobytes()

    def in_order(self, block: bytes) -> tuple[bytes, bytes]:
        bits = _place_bits()
        values = sorted(each >> bits << bits | place for place, each in enumerate(array("Q", block)))
        again = {each for pair in _alike(values, bits) for each in pair}
        later = {second for _, second in _alike(values, bits)}
        places = array("Q", (each & BLOCK - 1 for each in again))
        return array("Q", (each for each in values if each not in later)).tobytes(), places.tobytes()

    def smaller(self, block: bytes, bounds: Sequence[int]) -> Sequence[int]:
        values = array("Q", block)
        return [bisect_left(values, bound) for bound in bounds]

    def repeated(self, parts: Sequence[bytes]) -> bytes:
        bits, more = _place_bits(), len(parts).bit_length()
        values = sorted(
            (each >> bits << more | number) << bits | each & BLOCK - 1
            for number, part in enumerate(parts)
            for each in array("Q", part)
        )
        rows = {each & (1 << bits + more) - 1 for pair in _alike(values, bits + more) for each in pair}
        return array("Q", rows).tobytes()

    def mark(self, marks: bytearray, rows: bytes, block: int, shift: int) -> None:
        for row in array("Q", rows):
            bit = block * BLOCK + row >> shift
            marks[bit >> 3] |= 1 << (bit & 7)

    def marked(self, marks: bytes | bytearray, shift: int, first: int, count: int) -> Sequence[int]:
        bits = enumerate(row >> shift for row in range(first, first + count))
        return [place for place, bit in bits if marks[bit >> 3] >> (bit & 7) & 1]


def _alike(values: Sequence[int], bits: int) -> Iterator[tuple[int, int]]:
    """Those side by side that differ in no more than their lowest bits."""
    return ((one, other) for one, other in pairwise(values) if one >> bits == other >> bits)


class Vectors:
    """With numpy: each step is one call for many rows, on the 64 bytes that begin where an address does."""

    def __init__(self, numpy: Any, key: bytes) -> None:
        np = self.np = numpy
        self._factors = np.frombuffer(key, np.uint64) | np.uint64(1)
        self._blanks = np.full(SIZE, 0x20, np.uint8).view(np.uint64)[0]
        # For each number of bytes, all bits of the first so many.
        masks = np.where(np.arange(WIDTH) < np.arange(WIDTH + 1)[:, None], np.uint8(0xFF), np.uint8(0))
        self._masks = masks.view(_CELL).ravel()
        _keep_freed_memory()

    def hashes(self, runs: Sequence[bytes], end: bytes) -> bytes:
        rows = padded(runs)
        starts = self.starts(rows)
        some = (starts[at : at + _AT_ONCE] for at in range(0, len(starts), _AT_ONCE))
        return b"".join(self._hashed(rows, each, ord(end)).tobytes() for each in some)

    def _hashed(self, rows: bytes, starts: Any, end: int) -> Any:
        """The hashes of the cells that begin at `starts` and go on to the next byte `end`, or have quotes of theirs."""
        np = self.np
        cells = self._cells(rows, starts)
        quoted = np.flatnonzero(cells.view(np.uint8)[::WIDTH] == _QUOTE)
        if len(quoted) == len(starts):
            return self._sums(self._cells(rows, starts + 1), _QUOTE)
        sums = self._sums(cells, end)
        if len(quoted):
            sums[quoted] = self._sums(self._cells(rows, starts[quoted] + 1), _QUOTE)
        return sums

    def starts(self, rows: bytes) -> Any:
        """Where in `padded` rows each begins."""
        np = self.np
        ends = self._line_ends(np.frombuffer(rows, np.uint8))
        starts = np.empty_like(ends)
        starts[:1] = 0
        np.add(ends[:-1], 1, out=starts[1:])
        return starts

    def _line_ends(self, letters: Any) -> Any:
        """Where line ends are, eight bytes at a time: few of these have one, none has two unless rows are tiny."""
        np = self.np
        bits = np.packbits(letters == _LINE_END, bitorder="little")
        places = np.flatnonzero(bits != 0)
        bits = bits[places]
        below = bits - np.uint8(1)
        if (bits & below).any():
            return np.flatnonzero(letters == _LINE_END)
        places *= 8
        places += np.bitwise_count(below)
        return places

    def _cells(self, rows: bytes, starts: Any) -> Any:
        """The bytes from each of `starts` on, as one cell each."""
        there = self.np.ndarray(shape=(len(rows) - WIDTH + 1,), dtype=_CELL, buffer=rows, strides=(1,))
        return there[starts]

    def _sums(self, cells: Any, end: int) -> Any:
        """The hash of each of the `cells`, which go on to their first byte `end`; they are changed."""
        words, _ = self._shortened(cells, self._bits(cells.view(self.np.uint8) == end))
        words |= self._blanks  # lower case, and roughly so
        return self.mixed(words)

    def keys(self, rows: bytes, starts: Any) -> tuple[Any, Any]:
        """The first cells of the rows that begin at `starts`, in lower case and without quotes; and which are longer.

        A key is `WORDS` words, with zeros behind its end. Of one that has more it is the beginning.
        """
        np = self.np
        starts = starts + (np.frombuffer(rows, np.uint8)[starts] == _QUOTE)
        cells = self._cells(rows, starts)
        letters = cells.view(np.uint8)
        ends = letters == _COMMA
        ends |= letters == _QUOTE
        ends |= letters == _LINE_END
        upper = (letters - np.uint8(ord("A")) < np.uint8(26)).view(np.uint8)
        letters |= upper << np.uint8(5)
        words, lengths = self._shortened(cells, self._bits(ends))
        full = np.flatnonzero(lengths == WIDTH)
        behind = np.frombuffer(rows, np.uint8)[starts[full] + WIDTH]
        return words, full[(behind != _COMMA) & (behind != _QUOTE) & (behind != _LINE_END)]

    def _bits(self, ends: Any) -> Any:
        """A word for each cell, with a bit for each of its bytes."""
        return self.np.packbits(ends, bitorder="little").view(self.np.uint64)

    def _shortened(self, cells: Any, ends: Any) -> tuple[Any, Any]:
        """The words of each cell up to its first end, with zeros behind that; and how many bytes those are."""
        np = self.np
        lengths = np.bitwise_count(~ends & (ends - np.uint64(1)))  # the zeros below the lowest one
        words = cells.view(np.uint64)
        words &= np.take(self._masks, lengths, mode="clip").view(np.uint64)  # `clip` for none is out of bounds: faster
        return words.reshape(-1, WORDS), lengths

    def mixed(self, words: Any) -> Any:
        """The sum of each row of words, each word times its factor."""
        mixed = words >> self.np.uint64(29)
        mixed ^= words
        return mixed @ self._factors

    def in_order(self, block: bytes) -> tuple[bytes, bytes]:
        np, bits = self.np, self.np.uint64(_place_bits())
        values = np.frombuffer(block, np.uint64) >> bits
        values <<= bits
        values |= np.arange(len(values), dtype=np.uint64)
        values.sort()
        alike = _alike_in(np, values >> bits)
        if not alike.any():
            return values.tobytes(), b""
        again = _with_those_before(np, alike)
        places = values[again] & np.uint64(BLOCK - 1)
        return values[~alike].tobytes(), places.tobytes()

    def smaller(self, block: bytes, bounds: Sequence[int]) -> Sequence[int]:
        np = self.np
        found: list[int] = np.searchsorted(np.frombuffer(block, np.uint64), np.array(bounds, np.uint64)).tolist()
        return found

    def repeated(self, parts: Sequence[bytes]) -> bytes:
        np, bits, more = self.np, self.np.uint64(_place_bits()), self.np.uint64(len(parts).bit_length())
        values = np.frombuffer(b"".join(parts), np.uint64)
        rows = values & np.uint64(BLOCK - 1)
        rows |= np.repeat(np.arange(len(parts), dtype=np.uint64) << bits, [len(part) // SIZE for part in parts])
        # All have about the same highest bits, which give way to the number of the block.
        values = values >> bits
        values <<= bits + more
        values |= rows
        values.sort()
        alike = _alike_in(np, values >> bits + more)
        if not alike.any():
            return b""
        found: bytes = (values[_with_those_before(np, alike)] & np.uint64((1 << int(bits + more)) - 1)).tobytes()
        return found

    def mark(self, marks: bytearray, rows: bytes, block: int, shift: int) -> None:
        np = self.np
        bits = np.frombuffer(rows, np.uint64) + np.uint64(block * BLOCK) >> np.uint64(shift)
        octets = np.uint8(1) << (bits & np.uint64(7)).astype(np.uint8)
        np.bitwise_or.at(np.frombuffer(marks, np.uint8), (bits >> np.uint64(3)).astype(np.intp), octets)

    def marked(self, marks: bytes | bytearray, shift: int, first: int, count: int) -> Sequence[int]:
        np = self.np
        bits = np.unpackbits(np.frombuffer(marks, np.uint8), bitorder="little")
        each = np.repeat(bits, 1 << shift) if shift else bits
        found: Sequence[int] = np.flatnonzero(each[first : first + count])
        return found


def padded(runs: Sequence[bytes]) -> bytes:
    """Runs of rows, and behind the last one something to look at, too."""
    return b"".join([*runs, bytes(WIDTH + SIZE)])


def _alike_in(np: Any, values: Any) -> Any:
    """Which values are the same as the one before."""
    alike = np.empty(len(values), bool)
    alike[:1] = False
    np.equal(values[1:], values[:-1], out=alike[1:])
    return alike


def _with_those_before(np: Any, alike: Any) -> Any:
    """Which are alike, or the one behind them is."""
    both = alike.copy()
    both[:-1] |= alike[1:]
    return both


def _keep_freed_memory() -> None:
    """Have the C library keep freed blocks of up to four megabytes for the next request, and twice that altogether.

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
    return os.urandom(WIDTH)


def best(key: bytes) -> Hashing:
    """The fastest way that is installed."""
    return Vectors(_numpy(), key) if anywhere() else Plain()


def anywhere() -> bool:
    """Whether one key gives the same hashes in every interpreter."""
    return sys.byteorder == "little" and _numpy() is not None
