"""Rows that have the same address, found exactly and thousands at a time, with numpy; memory stays bounded.

A record is a key, with the first row that has it and the line of the last. Records are put in order by a hash of their
keys, so that those of one key stand side by side; there the keys are compared, each row but the first is a repeat, and
one record is left. What is left of a block of records goes to a temporary file, if there are several, and at the end
one range of hashes after the other is read from all blocks and treated in the same way. That a million rows have one
address makes neither a block nor a range larger.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dropzone.sheet.blocks import BOUNDS, Blocks
from dropzone.sheet.hashes import SIZE, WORDS, Vectors, padded
from dropzone.sheet.repeats import FIRST, Repeats, key_of

BLOCK = 1 << 14  # records in memory at a time: 1.5 MiB, and a few times that to compare them
TEXT = 1 << 18  # bytes of rows that are cut at a time

_HASH, _LINE, _COLUMN, _LAST, _KEY = range(5)  # the words of a record: of the first row line and column, last line, key
_RECORD = _KEY + WORDS


class Same:
    """Tells `repeats` what it would have found itself. Keys too long for a record are left to it."""

    def __init__(self, vectors: Vectors, repeats: Repeats, tell: Callable[[], None]) -> None:
        self._np = vectors.np
        self._vectors = vectors
        self._repeats = repeats
        self._tell = tell
        self._blocks: Blocks | None = None
        self._count = 0  # records in these
        self._records: list[Any] = []
        self._size = 0  # records in these
        self._text = _Text()

    def add_run(self, run: bytes, count: int, places: Sequence[int], line: int) -> None:
        """Note the rows at these places in a canonical run of `count` rows, the first of which stands in `line`."""
        self._text.add_run(run, count, self._np.asarray(places, self._np.uint64), line)
        if self._text.size >= TEXT:
            self._cut()

    def add(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        """Note rows, in the order of the file: key, line and column of each."""
        for row in rows:
            self._text.add(*row)
        if self._text.size >= TEXT:
            self._cut()

    def finish(self) -> None:
        """Have all compared."""
        self._cut()
        if self._blocks is None:
            self._compared(self._waiting())
            return
        self._write(self._blocks)
        for parts in self._blocks.ranges(-(-self._count // BLOCK)):
            self._tell()
            self._compared(self._np.frombuffer(b"".join(parts), self._np.uint64).reshape(-1, _RECORD))

    def _cut(self) -> None:
        """Make records of the rows that wait as text."""
        np, text = self._np, self._text
        self._text = _Text()
        rows = padded(text.pieces)
        starts = self._vectors.starts(rows)
        places, lines, columns = (np.frombuffer(each, np.uint64) for each in (text.places, text.lines, text.columns))
        if len(places) and places[-1] >= len(starts):  # somebody has changed the file meanwhile
            there = places < len(starts)
            places, lines, columns = places[there], lines[there], columns[there]
        starts = starts[places]
        keys, longer = self._vectors.keys(rows, starts)
        records = np.empty((len(keys), _RECORD), np.uint64)
        records[:, _HASH] = self._vectors.mixed(keys)
        records[:, _LINE] = records[:, _LAST] = lines
        records[:, _COLUMN] = columns
        records[:, _KEY:] = keys
        if len(longer):
            long = (key_of(rows[start : rows.find(b"\n", start)].lower()) for start in starts[longer].tolist())
            self._repeats.add(zip(long, lines[longer].tolist(), columns[longer].tolist(), strict=True))
            records = np.delete(records, longer, axis=0)
        self._records.append(records)
        self._size += len(records)
        if self._size >= BLOCK:
            self._blocks = self._blocks or Blocks(self._repeats.new_file(), SIZE * _RECORD)
            self._write(self._blocks)

    def _waiting(self) -> Any:
        """The records that are not in a block yet."""
        records = self._np.concatenate([*self._records, self._np.empty((0, _RECORD), self._np.uint64)])
        self._records, self._size = [], 0
        return records

    def _write(self, blocks: Blocks) -> None:
        """Make a block of the records that wait, with one of each key."""
        np = self._np
        records = self._compared(self._waiting())
        blocks.write(records.tobytes(), np.searchsorted(records[:, _HASH], np.array(BOUNDS, np.uint64)).tolist())
        self._count += len(records)

    def _compared(self, records: Any) -> Any:
        """The records in order, with one left of each key. They come in the order of the file, where keys are alike."""
        np = self._np
        records = records[self._order(records)]
        again = self._again(records)
        if (~again[1:] & (records[1:, _HASH] == records[:-1, _HASH])).any():  # different keys of one hash
            records = records[np.lexsort((*records.T[_KEY:], records[:, _HASH]))]
            again = self._again(records)
        if not again.any():
            return records
        self._found(records, np.flatnonzero(again))
        firsts = np.flatnonzero(~again)
        left = records[firsts]
        left[:, _LAST] = records[np.append(firsts[1:], len(records)) - 1, _LAST]
        return left

    def _order(self, records: Any) -> Any:
        """The places of the records by their hashes. These are sorted, and their lowest bits give way to the place."""
        np, bits = self._np, self._np.uint64(len(records).bit_length())
        values = records[:, _HASH] >> bits << bits
        values |= np.arange(len(records), dtype=np.uint64)
        values.sort()
        return values & np.uint64((1 << int(bits)) - 1)

    def _again(self, records: Any) -> Any:
        """Which records have the key of the one before."""
        np = self._np
        again = np.zeros(len(records), bool)
        differ = records[1:, _KEY:] != records[:-1, _KEY:]
        np.equal(differ.view(np.uint64).ravel(), 0, out=again[1:])  # eight bytes, each of which says so of a word
        return again

    def _found(self, records: Any, again: Any) -> None:
        """Tell of the records at the places `again`, which repeat those before them."""
        lines, before = records[again, _LINE], records[again - 1, _LAST]
        earliest = self._np.argsort(lines)[:FIRST]
        self._repeats.found_many(
            before,
            [
                (records[again[each], _KEY:].tobytes().rstrip(b"\0"), int(lines[each]), int(columns), int(before[each]))
                for each, columns in zip(earliest, records[again[earliest], _COLUMN], strict=True)
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
