"""Pieces in blocks, each in order: a file of which one range of values after the other can be read from all blocks.

So the pieces of a whole file come together by their values, with no more in memory than a range has of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import IO, NamedTuple

RANGES = 1 << 10  # of values, at most
BOUNDS = [(part << 64) // RANGES for part in range(1, RANGES)]  # where each but the first begins

_NUMBER = array("I").itemsize


def ranges(count: int) -> Iterable[tuple[int, int]]:
    """All `RANGES` in `count` of them, as far as they go: the first of each, and the one behind its last."""
    count = min(RANGES, max(1, count))
    return pairwise(RANGES * part // count for part in range(count + 1))


class _Block(NamedTuple):
    """Where in the file a block begins, and how many bytes of a note come before its pieces."""

    at: int
    note: int


class Blocks:
    """A file of blocks. A piece has `size` bytes, of which the first eight are its value, evenly spread."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size
        self._known: list[_Block] = []

    def write(self, pieces: bytes, smaller: Sequence[int], note: bytes = b"") -> None:
        """Add a block of pieces in order. `smaller` are how many of them are smaller than each of `BOUNDS`."""
        head = array("I", [len(note), 0, *smaller, len(pieces) // self._size])
        for piece in (head.tobytes(), note, pieces):
            self._file.write(piece)

    def notes(self) -> Iterator[bytes]:
        """What was noted of each block."""
        for block in self._all():
            self._file.seek(block.at + _HEAD)
            yield self._file.read(block.note)

    def parts(self, first: int, end: int) -> list[bytes]:
        """The pieces of each block from one of the `RANGES` on and before another one. Nothing is added any more."""
        self._known = self._known or list(self._all())
        return [self._part(block, first, end) for block in self._known]

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
        """Its pieces in some ranges. Where they begin is looked up: known of all blocks it would take much memory."""
        self._file.seek(block.at + _NUMBER * (1 + first))
        cuts = array("I", self._file.read(_NUMBER * (end - first + 1)))
        self._file.seek(block.at + _HEAD + block.note + self._size * cuts[0])
        return self._file.read(self._size * (cuts[-1] - cuts[0]))


_HEAD = _NUMBER * (RANGES + 2)
