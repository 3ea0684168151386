"""Rows that have the same address, found exactly and thousands at a time, with numpy; memory stays bounded.

A sighting is a key, with the first row that has it and the line of the last. Sightings are put in order by a hash of
their keys, so that those of one key stand side by side; there the keys are compared, each row but the first is a
repeat, and one sighting is left. What is left of so many goes to a temporary file as a block, if there are several, and
at the end one range of hashes after the other is read from all blocks and treated in the same way. That a million rows
have one address makes neither a block nor a range larger.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from dropzone.sheet.behind import Behind
from dropzone.sheet.blocks import BOUNDS, Blocks, ranges
from dropzone.sheet.hashes import SIZE, WORDS, Vectors, padded
from dropzone.sheet.repeats import FIRST, Repeats, key_of

BLOCK = 1 << 14  # sightings in memory at a time: 1.5 MiB, and a few times that to compare them
TEXT = 1 << 18  # bytes of rows that are handed over at a time
_AT_ONCE = 1 << 12  # of these rows of which sightings are made at a time

_HASH, _LINE, _COLUMN, _LAST, _KEY = range(5)  # the words of a sighting; line and column are those of the first row
_SIGHTING = _KEY + WORDS


class Same:
    """Tells `repeats` what it would have found itself. Keys too long for a sighting are left to it."""

    def __init__(self, vectors: Vectors, repeats: Repeats, behind: Behind, tell: Callable[[], None]) -> None:
        self._np = vectors.np
        self._vectors = vectors
        self._repeats = repeats
        self._behind = behind
        self._tell = tell
        self._blocks: Blocks | None = None
        self._count = 0  # sightings in them
        self._sightings: list[Any] = []  # those in no block yet
        self._size = 0  # how many these are
        self._text = _Text()

    def add_run(self, run: bytes, count: int, places: Sequence[int], line: int) -> None:
        """Note the rows at these places in a canonical run of `count` rows, the first of which stands in `line`."""
        self._text.add_run(run, count, self._np.asarray(places, self._np.uint64), line)
        self._hand_over(TEXT)

    def add(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        """Note rows, in the order of the file: key, line and column of each."""
        for row in rows:
            self._text.add(*row)
        self._hand_over(TEXT)

    def finish(self) -> None:
        """Have all compared."""
        self._hand_over(0)
        self._behind.finish()
        if self._blocks is None:
            self._compared(self._waiting())
            return
        self._write(self._blocks)
        for first, end in ranges(-(-self._count // BLOCK)):
            self._tell()
            self._behind.do(partial(self._compare_range, self._blocks, first, end))
        self._behind.finish()

    def _hand_over(self, least: int) -> None:
        """Have the rows that wait as text made into sightings, if there is so much of it."""
        if self._text.size >= least:
            self._behind.do(partial(self._cut, self._text))
            self._text = _Text()

    def _cut(self, text: _Text) -> None:
        """Make sightings of rows, some at a time: there may be as many as lines of seven bytes."""
        np = self._np
        rows = padded(text.pieces)
        starts = self._vectors.starts(rows)
        places, lines, columns = (np.frombuffer(each, np.uint64) for each in (text.places, text.lines, text.columns))
        if len(places) and places[-1] >= len(starts):  # somebody has changed the file meanwhile
            there = places < len(starts)
            places, lines, columns = places[there], lines[there], columns[there]
        for at in range(0, len(places), _AT_ONCE):
            some = slice(at, at + _AT_ONCE)
            self._see(rows, starts[places[some]], lines[some], columns[some])

    def _see(self, rows: bytes, starts: Any, lines: Any, columns: Any) -> None:
        """Make sightings of the rows that begin at `starts`."""
        keys, longer = self._vectors.keys(rows, starts)
        sightings = self._np.empty((len(keys), _SIGHTING), self._np.uint64)
        sightings[:, _HASH] = self._vectors.mixed(keys)
        sightings[:, _LINE] = sightings[:, _LAST] = lines
        sightings[:, _COLUMN] = columns
        sightings[:, _KEY:] = keys
        if len(longer):
            long = (key_of(rows[start : rows.find(b"\n", start)].lower()) for start in starts[longer].tolist())
            self._repeats.add(zip(long, lines[longer].tolist(), columns[longer].tolist(), strict=True))
            sightings = self._np.delete(sightings, longer, axis=0)
        self._sightings.append(sightings)
        self._size += len(sightings)
        if self._size >= BLOCK:
            self._blocks = self._blocks or Blocks(self._repeats.new_file(), SIZE * _SIGHTING)
            self._write(self._blocks)

    def _waiting(self) -> Any:
        """The sightings that are not in a block yet."""
        sightings = self._np.concatenate([*self._sightings, self._np.empty((0, _SIGHTING), self._np.uint64)])
        self._sightings, self._size = [], 0
        return sightings

    def _write(self, blocks: Blocks) -> None:
        """Make a block of the sightings that wait, with one of each key."""
        np = self._np
        sightings = self._compared(self._waiting())
        # In order but for the lowest bits of the hashes, which no bound has.
        blocks.write(sightings.tobytes(), np.searchsorted(sightings[:, _HASH], np.array(BOUNDS, np.uint64)).tolist())
        self._count += len(sightings)

    def _compare_range(self, blocks: Blocks, first: int, end: int) -> None:
        parts = b"".join(blocks.parts(first, end))
        self._compared(self._np.frombuffer(parts, self._np.uint64).reshape(-1, _SIGHTING))

    def _compared(self, sightings: Any) -> Any:
        """The sightings in order, with one left of each key. They come in the order of the file."""
        np = self._np
        order, twins = self._order(sightings)
        sightings = sightings[order]
        alike = self._are_alike(sightings, twins)
        if not alike.all():  # other keys of one hash may stand in between
            sightings = sightings[np.lexsort((*sightings.T[_KEY:], sightings[:, _HASH]))]
            twins = np.arange(1, len(sightings))
            alike = self._are_alike(sightings, twins)
        again = twins[alike]
        if not len(again):
            return sightings
        self._found(sightings, again)
        left = np.ones(len(sightings), bool)
        left[again] = False
        firsts = np.flatnonzero(left)
        left = sightings[firsts]
        left[:, _LAST] = sightings[np.append(firsts[1:], len(sightings)) - 1, _LAST]
        return left

    def _order(self, sightings: Any) -> tuple[Any, Any]:
        """The places of the sightings by their hashes, and where behind that one stands behind another of its hash.

        The hashes are sorted, with the place in their lowest bits.
        """
        np, bits = self._np, self._np.uint64(len(sightings).bit_length())
        values = sightings[:, _HASH] >> bits
        values <<= bits
        values |= np.arange(len(sightings), dtype=np.uint64)
        values.sort()
        order = values & np.uint64((1 << int(bits)) - 1)
        values >>= bits
        return order, np.flatnonzero(values[1:] == values[:-1]) + 1

    def _are_alike(self, sightings: Any, places: Any) -> Any:
        """Which of the sightings at these places have the key of the one before."""
        np = self._np
        differ = sightings[places, _KEY:] != sightings[places - 1, _KEY:]
        return differ.view(np.uint64).ravel() == 0  # eight bytes, each of which says so of a word

    def _found(self, sightings: Any, again: Any) -> None:
        """Tell of the sightings at the places `again`, which repeat those before them."""
        lines, before = sightings[again, _LINE], sightings[again - 1, _LAST]
        earliest = self._np.argsort(lines)[:FIRST]
        self._repeats.found_many(
            before,
            [
                (
                    sightings[again[each], _KEY:].tobytes().rstrip(b"\0"),
                    int(lines[each]),
                    int(columns),
                    int(before[each]),
                )
                for each, columns in zip(earliest, sightings[again[earliest], _COLUMN], strict=True)
            ],
        )


class _Text:
    """Rows that wait to be cut: pieces of text, and of the rows that count the place in it, line and column."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0  # bytes
        self.places, self.lines, self.columns = array("Q"), array("Q"), array("Q")
        self._rows = 0

    def add_run(self, run: bytes, count: int, places: Any, line: int) -> None:
        self.places.frombytes((places + self._rows).tobytes())
        self.lines.frombytes((places + line).tobytes())
        self.columns.extend(array("Q", [1]) * len(places))
        self._take(run, count)

    def add(self, key: bytes, line: int, column: int) -> None:
        self.places.append(self._rows)
        self.lines.append(line)
        self.columns.append(column)
        self._take(key + b"\n", 1)

    def _take(self, text: bytes, count: int) -> None:
        self.pieces.append(text)
        self.size += len(text)
        self._rows += count
