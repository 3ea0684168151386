"""Parts of a large file in interpreters of their own: the same outcome, whatever happens to one of them, and no delay.

That the cuts themselves change nothing is tried on many small files in `test_sheet_same.py`.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from dropzone.config import Folder
from dropzone.drop import Report
from dropzone.errors import Cancelled
from dropzone.sheet import check, engine
from dropzone.sheet.beside import Beside
from dropzone.sheet.check import parts_are_free
from dropzone.sheet.parts import Files, Outcome, Part, Plan, always_pay
from dropzone.sheet.patterns import ENGINES

_CHUNK, _ROW_LIMIT = 2_000, 1_000  # so that only a little of a file is read ahead
_GOOD = [b"a%d@b.co,x" % (number % 2900) for number in range(3000)]
_MIXED = [
    b"a%d@b.co,%s" % (number % 2900, [b"x", b'"y, z"', b" y", b'"1\n2"', b"\x07"][number % 97 % 5])
    for number in range(3000)
]


def content(rows: Sequence[bytes]) -> bytes:
    return b"email,varr_a\r\n" + b"\r\n".join(rows)


_CONTENT = content(_MIXED)


class Recorded(Beside):
    """An interpreter that reads a part, and the bytes where those of the last test began."""

    begun: ClassVar[list[int]] = []

    def __init__(self, part: Part, fd: int, files: Files) -> None:
        super().__init__(part, fd, files)
        self.begun.append(part.start)


class Alive(Recorded):
    """One of which nothing is lost."""

    def outcome(self) -> Outcome | None:
        outcome = super().outcome()
        assert outcome is not None
        assert outcome.whole
        return outcome


class Dead(Recorded):
    """One that is killed before it can tell anything."""

    def __init__(self, part: Part, fd: int, files: Files) -> None:
        super().__init__(part, fd, files)
        self._child.kill()


@pytest.fixture(autouse=True)
def begun() -> list[int]:
    Recorded.begun.clear()
    return Recorded.begun


def folder() -> Folder:
    place = {"name": "acme", "base": "/srv", "path": "/srv/inbox/acme", "account": "main", "segment_id": 1}
    return Folder.from_settings(json.dumps({**place, "mode": "lead", "bad_rows": "100%"}))


def nothing(_: int) -> None:
    """Progress that nobody looks at."""


def run(
    plan: Plan | None, text: bytes = _CONTENT, progress: Callable[[int], None] = nothing
) -> tuple[Report, bytes, bytes]:
    prepared, rejects = io.BytesIO(), io.BytesIO()
    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.seek(0)
        report = check(
            file, prepared, rejects, folder(), plan=plan, chunk=_CHUNK, row_limit=_ROW_LIMIT, progress=progress
        )
    return report, prepared.getvalue(), rejects.getvalue()


@pytest.mark.parametrize("start", [Alive, Dead], ids=lambda start: start.__name__)
def test_parts_in_other_interpreters_give_what_one_pass_gives(start: type[Beside], begun: list[int]) -> None:
    """Prepared copy, rejects and report are the same, and they are too when the other interpreter dies."""
    alone = run(None)
    assert alone[0].repeated_rows
    assert alone[0].bad_rows
    assert run(Plan(most=3, start=start, smallest=1_000)) == alone
    assert len(begun) == 2


@pytest.mark.parametrize("start", [Alive, Dead], ids=lambda start: start.__name__)
def test_a_file_is_cut_on_the_way_once_it_turns_out_to_have_many_bad_rows(
    start: type[Beside], begun: list[int]
) -> None:
    """What was read before is kept, what is left is cut, and the outcome is that of one pass."""
    text = content([*_GOOD, *_MIXED[:1000], *(b"nobody,x" for _ in range(300)), *_MIXED[1000:]])
    turn = text.index(b'"y, z"')
    found = run(Plan(most=3, start=start, smallest=1_000, look=5_000, apart=200), text)
    assert found == run(None, text)
    assert found[0].bad_rows > 300
    assert len(begun) == 2
    assert turn < begun[0] < turn + (len(text) - turn) // 2


def test_a_file_of_good_rows_is_not_cut(begun: list[int]) -> None:
    """However often it is asked, long runs keep no interpreter busy."""
    plan = Plan(most=3, start=Recorded, smallest=1_000, look=5_000, apart=200)
    assert run(plan, content(_GOOD))[0].bad_rows == 0
    assert begun == []


def test_a_file_is_not_cut_while_another_one_is(begun: list[int]) -> None:
    """Then it is read in one pass, with the same outcome."""
    plan = Plan(most=3, start=Recorded, smallest=1_000, look=5_000, apart=200)
    with ExitStack() as other:
        assert parts_are_free(other)
        assert run(plan) == run(None)
        assert begun == []
    run(plan)
    assert begun != []


@pytest.mark.parametrize("look", [0, 5_000])
def test_a_check_in_parts_can_be_cancelled(look: int, begun: list[int]) -> None:
    """What `progress` raises ends the check and the interpreters beside it, and leaves no file open."""

    def stop(_: int) -> None:
        if begun:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(Plan(most=3, start=Recorded, smallest=1_000, look=look, apart=200), progress=stop)
    assert begun


def test_one_file_at_a_time_is_read_in_parts() -> None:
    """Several at once keep the cores busy as it is; the next one may be, once the first is through."""
    with ExitStack() as first, ExitStack() as second:
        assert parts_are_free(first)
        assert not parts_are_free(second)
        first.close()
        assert parts_are_free(second)


def test_parts_are_for_what_keeps_the_interpreter_busy() -> None:
    """Digests of addresses, and patterns by `re`, at once; with RE2 it is what shows on the way."""
    hashed = Folder.from_settings(
        json.dumps({**json.loads(folder().settings_json()), "mode": "suppress", "hash": "md5", "hash_plain": True})
    )
    assert always_pay(folder(), ENGINES["re"])
    for name in ENGINES:
        assert always_pay(hashed, ENGINES[name])
        assert always_pay(folder(), ENGINES[name]) == (name == "re")


def test_cores_change_nothing_for_a_small_or_packed_file(tmp_path: Path) -> None:
    """Whoever has cores may always say so: what cannot be cut is read in one pass."""
    small = tmp_path / "small.csv"
    small.write_bytes(_CONTENT)
    with small.open("rb") as file:
        report = check(file, io.BytesIO(), io.BytesIO(), folder(), cores=8)
    assert replace(report, bytes_read=0) == replace(run(None)[0], bytes_read=0)
    piped = check(io.BytesIO(_CONTENT), io.BytesIO(), io.BytesIO(), folder(), cores=8)
    assert piped == report


def test_which_engine_runs_is_said() -> None:
    """The words name the fastest engine that is installed."""
    assert next(iter(ENGINES)) in engine()
