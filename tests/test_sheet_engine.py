"""What makes the CSV engine fast: hashes of many rows at once, work on another core, reading twice, progress meanwhile.

That all of it changes no byte of the outcome is shown in `test_sheet_same.py`.
"""

from __future__ import annotations

import io
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pytest
import re2
from test_sheet import Nowhere, Stream, folder

from dropzone.errors import Cancelled
from dropzone.sheet import check, hashes, same
from dropzone.sheet.behind import Behind, Later
from dropzone.sheet.cores import count_cores
from dropzone.sheet.hashes import SIZE, Plain, Vectors, new_key
from dropzone.sheet.patterns import ENGINES, Shape, rows
from dropzone.sheet.repeats import Repeats
from dropzone.sheet.source import Twice

_EXACT = replace(ENGINES["re"], trusted=False)  # every row one by one

# ---------------------------------------------------------------------------------------------------------- hashes

_ENTRIES = [b"a@b.c", b"A@B.c", b"b@b.c", b"a@b.co", b"jane.doe@example.com", b"JANE.DOE@example.com", b"1@2.x3",
            b"x" * 30 + b"@example.com", b"x" * 30 + b"@example.org", b"x" * 31 + b"@example.com", b"f" * 32,
            b"F" * 32, b"f" * 31 + b"e", "jürgen@müller.example".encode(), b"j" + b"!" * 22 + b"@b.co"]  # fmt: skip


def _written(chance: random.Random, end: bytes) -> tuple[list[bytes], bytes]:
    entries = [chance.choice(_ENTRIES) for _ in range(chance.choice([1, 2, 3, 50, 700]))]
    quotes = chance.choice([0, 0.2, 1])
    cells = [b'"' + entry + b'"' if chance.random() < quotes else entry for entry in entries]
    tail = [b"\n"] if end == b"\n" else [b",\n", b",x\n", b',"a, b"\n', b",,,\n", b"," + b"y" * 40 + b"\n"]
    return entries, b"".join(cell + chance.choice(tail) for cell in cells)


@pytest.mark.parametrize("end", [b",", b"\n"])
@pytest.mark.parametrize("seed", range(40))
def test_hashes_are_the_same_for_the_same_addresses_and_for_no_others(end: bytes, seed: int) -> None:
    """With quotes or without, in any case, whatever stands behind them; of one length more, of many rows or one."""
    entries, rows = _written(random.Random(seed), end)
    for hashing in (Plain(), Vectors(np, new_key())):
        cut = rows.find(b"\n", len(rows) // 2) + 1  # runs are of whole rows
        block = hashing.hashes([rows[:cut], rows[cut:]], end)
        found = [block[at : at + SIZE] for at in range(0, len(block), SIZE)]
        assert len(found) == len(entries)
        assert len(set(zip(entries, found, strict=True))) == len(set(entries))
        assert len(set(found)) == len({entry.lower() for entry in entries})


def test_what_differs_late_is_left_to_the_exact_comparison() -> None:
    """The first 64 bytes are enough for a hash; the report counts such addresses as what they are."""
    local = b"x" * 60
    rows = b"".join(local + b"@%d.example.com,\n" % number for number in range(50))
    report = check(io.BytesIO(b"email,varr_x\n" + rows + rows[:200]), Nowhere(), Nowhere(), folder(bad_rows="100%"))
    assert report.good_rows >= 50
    assert report.repeated_rows == 200 // (len(rows) // 50 - 1)


_WAYS = pytest.mark.parametrize("hashing", [Plain(), Vectors(np, new_key())], ids=["plain", "numpy"])


@_WAYS
def test_a_million_rows_of_one_address_take_the_room_of_one(hashing: hashes.Hashing) -> None:
    """Of each hash one is left in a block in order, or a range of values could grow with the file."""
    rare, often = 7 << 40, 9 << 40
    block, again = hashing.in_order(np.array([often, rare, 1, often, often], np.uint64).tobytes())
    assert np.frombuffer(block, np.uint64).tolist() == [2, rare | 1, often]
    assert sorted(np.frombuffer(again, np.uint64).tolist()) == [0, 3, 4]
    assert list(hashing.smaller(block, [0, 8, 8 << 40, 1 << 63])) == [0, 1, 2, 3]
    assert sorted(np.frombuffer(hashing.repeated([block, b"", block[SIZE:]]), np.uint64).tolist()) == [
        0,
        1,
        2 * hashes.BLOCK,
        2 * hashes.BLOCK + 1,
    ]


@_WAYS
@pytest.mark.parametrize("marks", [4, 1 << 26])
@pytest.mark.parametrize("seed", range(8))
def test_all_rows_of_a_hash_that_comes_again_are_marked(
    seed: int, marks: int, hashing: hashes.Hashing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of files, blocks and rows; others are, too, only where many rows share a bit."""
    monkeypatch.setattr(hashes, "BLOCK", 8)
    monkeypatch.setattr(hashes, "_MARKS", marks)
    chance = random.Random(seed)
    values = [chance.getrandbits(64) for _ in range(400)]
    files = [chance.choices(values, k=chance.choice([0, 1, 8, 300])) for _ in range(chance.choice([1, 3]))]
    with ExitStack() as stack:
        ordered = [hashes.Ordered(stack.enter_context(TemporaryFile())) for _ in files]
        for rows, file in zip(files, ordered, strict=True):
            for value in rows:
                file.add(value.to_bytes(SIZE, "little"), hashing)
        behind = stack.enter_context(Behind(beside=seed % 2 == 0))
        found = hashes.mark_repeated(hashing, ordered, list(map(len, files)), behind, lambda: None)
    counts = Counter(value for rows in files for value in rows)
    again = [[place for place, value in enumerate(rows) if counts[value] > 1] for rows in files]
    first = 0
    for rows, expected in zip(files, again, strict=True):
        marked = list(found.among(first, len(rows)))
        assert marked == expected if marks > 4 else set(expected) <= set(marked)
        assert [place for place in range(len(rows)) if len(found.among(first + place, 1))] == marked
        first += hashes.blocks(len(rows)) * hashes.BLOCK
    assert found.any == any(map(len, again))


_KEYS = [
    "a@b.co",
    *("x" * length + "@b.co" for length in (*range(56, 61), 90)),
    "^a@b.co",
    "~a@b.co",
    "ü@b.co",
    "\u212a@b.co",
]


class _Colliding(Vectors):
    """Has few hashes for all keys, as a key that somebody knows could make it."""

    def mixed(self, words: Any) -> Any:
        return super().mixed(words) & np.uint64(3 << 62)


@pytest.mark.parametrize("vectors", [Vectors, _Colliding])
@pytest.mark.parametrize("seed", range(6))
def test_repeats_are_the_same_many_at_a_time(
    seed: int, vectors: type[Vectors], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that are found row by row: keys of every length, also of one hash; in runs and alone; however cut."""
    chance = random.Random(seed)
    monkeypatch.setattr(same, "BLOCK", chance.choice([1, 5, 40, 1 << 14]))
    monkeypatch.setattr(same, "TEXT", chance.choice([0, 300, 1 << 18]))
    found = []
    for many in (True, False):
        chance, superseded = random.Random(seed), list[int]()
        with Repeats(superseded=superseded.append) as repeats, Behind(beside=seed % 2 == 0) as behind:
            exact = same.Same(vectors(np, new_key()), repeats, behind, lambda: None) if many else repeats
            line = 2
            for _ in range(300):
                keys = chance.choices([*_KEYS, *(f"{number}@b.co" for number in range(200))], k=chance.randrange(1, 9))
                places = [place for place in range(len(keys)) if chance.random() < 0.8]
                if chance.random() < 0.3:
                    exact.add((keys[place].lower().encode(), line + place, 7) for place in places)
                else:
                    cells = (f'"{key}"' if chance.random() < 0.3 else key for key in keys)
                    tail = chance.choice(["", ",x", ',"A,B"'])
                    cased = (cell if "\u212a" in cell else chance.choice([cell, cell.upper()]) for cell in cells)
                    run = "".join(f"{cell}{tail}\n" for cell in cased).replace("Ü", "ü").encode()
                    exact.add_run(run, len(keys), places, line)
                line += len(keys)
            exact.finish()
            repeats.finish()
            found.append((repeats.count, repeats.first("email"), sorted(superseded)))
    assert found[0] == found[1]
    assert found[0][0] > 300


def test_a_million_rows_of_one_address_are_compared_in_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """One record is left of them in each block, and so it is where all blocks come together."""
    monkeypatch.setattr(same, "BLOCK", 64)
    monkeypatch.setattr(same, "_AT_ONCE", 64)
    sizes = []

    class Watched(same.Same):
        def _compared(self, records: Any) -> Any:
            sizes.append(len(records))
            return super()._compared(records)

    with Repeats() as repeats, Behind(beside=False) as behind:
        exact = Watched(Vectors(np, new_key()), repeats, behind, lambda: None)
        for line in range(0, 100_000, 100):
            exact.add_run(b"a@b.co,\nA@b.co,\n" * 50, 100, range(100), line)
        exact.finish()
    assert repeats.count == 99_999
    assert max(sizes) < 2_000


@pytest.mark.parametrize("seed", range(6))
def test_lines_are_counted_the_same_with_numpy(seed: int) -> None:
    """However long the text is, and wherever its line ends are."""
    hashes.best(new_key())
    text = random.Random(seed).choice([b"a", b"\n", b"\n\n\nxyz", b"a@b.co,x\n"]) * (seed * 3_000)
    count = hashes.line_counter(text)
    for start, end in ((0, len(text)), (1, 7), (len(text) // 3, len(text) // 2), (5, 5)):
        assert count(start, end) == text.count(b"\n", start, end)


# -------------------------------------------------------------------------------------------------------- patterns


@pytest.mark.parametrize("loose", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_patterns_take_no_character_that_the_rules_refuse(engine: str, loose: bool) -> None:
    """Each character of Latin-1 at each place of a row: what a pattern takes has no problem when it is read exactly."""
    pattern = rows(Shape(delimiter=",", width=3, entry=0, kind="address", loose=loose), ENGINES[engine])
    taken = 0
    for code in range(1, 256):
        row = 'a@b.co,x,"y"'
        for at in range(len(row) + 1):
            line = (row[:at] + chr(code) + row[at:] + "\n").encode()
            if pattern(line, 0, len(line)) < len(line):
                continue
            taken += 1
            report = check(io.BytesIO(b"email,varr_a,varr_b\n" + line), Nowhere(), Nowhere(), folder(), engine=_EXACT)
            assert (report.good_rows, report.bad_rows) == (1, 0), line
            assert loose or not report.repairs, line
    assert taken > 500


@pytest.mark.parametrize("loose", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_bad_cell_behind_many_others_is_found_at_once(engine: str, loose: bool) -> None:
    """Were there two ways to read a cell, a pattern would try them all: two to the power of eighty."""
    pattern = rows(Shape(delimiter=",", width=82, entry=1, kind="address", loose=loose), ENGINES[engine])
    good = b'x,a@b.co,"y",' + b"z," * 78 + b"last\n"
    for bad in (b'la"st\n', b"la\x01st\n", b"last"):
        line = good + good.replace(b"last\n", bad)
        assert pattern(line, 0, len(line)) == len(good)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pattern_says_where_the_rows_end_that_it_takes(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a place on and up to a place; of a library that has changed inside, too."""
    taking = [ENGINES[engine].compile(rb"(?:[ab]\n)+")]
    with monkeypatch.context() as patch:
        patch.setattr(re2, "compile", lambda pattern, _options: re.compile(pattern))
        taking.append(ENGINES[engine].compile(rb"(?:[ab]\n)+"))
    for pattern in taking:
        text = b"x\na\nb\na\ny\na\n"
        assert [pattern(text, start, len(text)) for start in (0, 2, 4, 8, 10)] == [-1, 8, 8, -1, 12]
        assert pattern(text, 2, 7) == 6
        assert pattern(text, 2, 3) == -1


# ------------------------------------------------------------------------------------------------------ other cores


class _Full:
    """A disk that is full after some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, piece: bytes, /) -> None:
        self.room -= len(piece)
        if self.room < 0:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("count", [1, 2])
def test_a_full_disk_ends_the_check_wherever_it_is_written(count: int) -> None:
    """What goes wrong behind the reading is raised to who reads, and no thread is left."""
    content = b"email\n" + b"".join(b"a%d@example.com\n" % number for number in range(300_000))
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left"):
        check(io.BytesIO(content), _Full(3_000_000), Nowhere(), folder(), cores=count)
    with pytest.raises(OSError, match="No space left"):  # in the very last step
        check(io.BytesIO(content), _Full(len(content) - 1), Nowhere(), folder(), cores=count)
    assert threading.active_count() == before


def test_steps_are_done_in_order_and_not_after_a_failure() -> None:
    """Whoever waits for the end gets the first thing that went wrong."""
    done: list[int] = []

    def fail() -> None:
        raise OSError(5, "Input/output error")

    with Behind(beside=True) as behind:
        for number in range(20):
            behind.do(lambda number=number: done.append(number))  # type: ignore[misc]
        behind.finish()
        assert done == list(range(20))
        behind.do(fail)
        behind.do(lambda: done.append(99))
        with pytest.raises(OSError, match="Input"):
            behind.finish()
    assert 99 not in done


def test_a_cancelled_check_writes_no_further_and_leaves_no_thread() -> None:
    """Work on another core ends with the check that it is for."""
    before = threading.active_count()
    content = b"email\n" + b"".join(b"a%d@example.com\n" % number for number in range(300_000))
    out = Nowhere()

    def stop(count: int) -> None:
        if count > len(content) // 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        check(io.BytesIO(content), out, Nowhere(), folder(), cores=2, progress=stop)
    assert out.size < len(content)
    assert threading.active_count() == before


def test_a_later_sink_writes_the_same_bytes() -> None:
    """Small pieces wait for each other, large ones do not."""
    out = io.BytesIO()
    pieces = [b"x" * size for size in (0, 1, 70_000, 70_000, 1 << 18, 3)]
    with Behind(beside=True) as behind:
        later = Later(out, behind)
        for piece in pieces:
            later.write(piece)
        later.flush()
        behind.finish()
    assert out.getvalue() == b"".join(pieces)


def test_cores_are_those_that_affinity_and_control_groups_allow(tmp_path: Path) -> None:
    """A quota of the group or of one above counts in whole cores; none, or none that can be read, changes nothing."""
    bound = len(os.sched_getaffinity(0))
    group = tmp_path / "groups" / "system.slice" / "dropzone.service"
    group.mkdir(parents=True)
    proc = tmp_path / "cgroup"

    def found() -> int:
        return count_cores(proc=proc, groups=tmp_path / "groups")

    assert found() == bound
    proc.write_text("1:cpu:/old\n0::/system.slice/dropzone.service\n")
    assert found() == bound
    (group / "cpu.max").write_text("max 100000\n")
    assert found() == bound
    (group.parent / "cpu.max").write_text("150000 100000\n")
    assert found() == min(bound, 1)
    (group / "cpu.max").write_text("20000 100000\n")
    assert found() == 1
    (group / "cpu.max").write_text("?\n")
    (group.parent / "cpu.max").write_text("900000 100000\n")
    assert found() == min(bound, 9)


# ---------------------------------------------------------------------------------------------------- reading twice


@pytest.mark.parametrize("kind", ["file", "file from its middle", "pipe"])
def test_a_source_gives_the_same_bytes_again(kind: str, tmp_path: Path) -> None:
    """A plain file by its descriptor, from where it was; anything else from a copy."""
    content = bytes(range(256)) * 9_000
    path = tmp_path / "file"
    path.write_bytes(content)
    with ExitStack() as files:
        file: IO[bytes] = files.enter_context(path.open("rb"))
        start = 1_000 if kind == "file from its middle" else 0
        file.seek(start)
        source = Twice(io.BytesIO(content) if kind == "pipe" else file, files, str(tmp_path))
        first = b"".join(iter(lambda: source.read(100_000), b""))
        assert first == content[start:]
        again = source.again()
        assert b"".join(iter(lambda: again.read(70_000), b"")) == first
        later = source.again(5_000)
        assert later.read(10) == first[5_000:5_010]


def test_a_file_that_changes_while_it_is_read_ends_in_some_report(tmp_path: Path) -> None:
    """Rows that were good when they were read first may be anything the second time; who asks looks for that itself."""
    path = tmp_path / "file.csv"
    rows = b"".join(b"a%d@b.co, x\n" % (number % 50_000) for number in range(100_000))
    for change in (lambda: path.write_bytes(b"x"), lambda: path.write_bytes(b"?" * 2_000_000)):
        path.write_bytes(b"email,varr_x\n" + rows)
        calls = 0

        def changing(count: int, change: Callable[[], object] = change) -> None:
            nonlocal calls
            calls += 1
            if count == len(rows) + 13 and calls > 0:
                change()
                calls = -1_000_000

        with path.open("rb") as file:
            report = check(file, Nowhere(), Nowhere(), folder(), progress=changing)
        assert report.good_rows == 100_000
        assert report.repeated_rows == 0


# -------------------------------------------------------------------------------------------------------- progress


def _longest_gap_s(content: Iterator[bytes], **keys: object) -> tuple[float, float]:
    """The longest time between two words of progress, and that of all; of this thread alone."""
    begun = last = time.thread_time()
    longest = 0.0

    def tell(_: int) -> None:
        nonlocal last, longest
        now = time.thread_time()
        last, longest = now, max(longest, now - last)

    check(Stream(content), Nowhere(), Nowhere(), folder(**keys), progress=tell)
    return longest, time.thread_time() - begun


_TWICE = b"".join(b"a%d@example.com,\n" % number for number in range(150_000))
_LONG_CHECKS: dict[str, tuple[list[bytes], dict[str, object]]] = {
    "plain rows": ([b"a@b.co,x\n" * 400_000], {}),
    "every row twice": ([_TWICE, _TWICE], {}),
    "the last of every two": ([_TWICE, _TWICE], {"repeats": "last"}),
    "blank lines": ([b"\n" * 600_000], {}),
    "bad rows": ([b"x,x\n" * 50_000], {"bad_rows": "100%"}),
    "no line end": ([b"x" * (8 << 20)], {"bad_rows": 1}),
    "an open quote": ([b'a@b.co,"\n', b"b@b.co,x\n" * 300_000], {"bad_rows": 1}),
}


@pytest.mark.parametrize("name", _LONG_CHECKS)
def test_a_stop_takes_effect_within_a_second(name: str) -> None:
    """Whatever a file is like and whichever step is under way, progress is told often enough to end it soon."""
    pieces, keys = _LONG_CHECKS[name]
    longest_s, whole_s = _longest_gap_s(iter([b"email,varr_x\n", *pieces]), **keys)
    # Where it is slow, or traced for coverage: never most of the whole, which is what going on without a word takes.
    assert longest_s < max(1.0, whole_s / 2)
