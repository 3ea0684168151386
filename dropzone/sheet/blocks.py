"""Records in blocks, each in order: a file of which one range of values after the other can be read from all blocks.

So the records of a whole file come together by their values, with no more in memory than a range has of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import IO, NamedTuple

RANGES = 1 << 10  # of values, at most
BOUNDS = [(part << 64) // RANGES for part in range(1, RANGES)]  # where each but the first begins

_NUMBER = array("I").itemsize


class _Block(NamedTuple):
    """Where in the file a block begins, and how many bytes of a note come before its records."""

    at: int
    note: int


class Blocks:
    """A file of blocks. A record has `size` bytes, of which the first eight are its value, evenly spread."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size

    def write(self, records: bytes, smaller: Sequence[int], note: bytes = b"") -> None:
        """Add a block of records in order. `smaller` are how many of them are smaller than each of `BOUNDS`."""
        head = array("I", [len(note), 0, *smaller, len(records) // self._size])
        self._file.write(b"".join((head, note, records)))

    def notes(self) -> Iterator[bytes]:
        """What was noted of each block."""
        for block in self._all():
            self._file.seek(block.at + _HEAD)
            yield self._file.read(block.note)

    def ranges(self, count: int) -> Iterator[list[bytes]]:
        """The records of each of `count` ranges of values, or of `RANGES` if that is less: those of every block."""
        blocks = list(self._all())
        count = min(RANGES, max(1, count))
        for first, end in pairwise(RANGES * part // count for part in range(count + 1)):
            yield [self._part(block, first, end) for block in blocks]

    def _all(self) -> Iterator[_Block]:
        at = 0
        while True:
            self._file.seek(at)
            head = self._file.read(_HEAD)
            if not head:
                return
            note, count = array("I", head)[:: RANGES + 1]
            yield _Block(at, note)
            at += _HEAD + note + self._size * count

    def _part(self, block: _Block, first: int, end: int) -> bytes:
        """The records of some ranges. Where these begin is looked up, for to know it of all blocks takes much memory."""
        self._file.seek(block.at + _NUMBER * (1 + first))
        cuts = array("I", self._file.read(_NUMBER * (end - first + 1)))
        self._file.seek(block.at + _HEAD + block.note + self._size * cuts[0])
        return self._file.read(self._size * (cuts[-1] - cuts[0]))


_HEAD = _NUMBER * (RANGES + 2)
