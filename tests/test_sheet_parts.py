"""Parts of a large file in interpreters of their own: the same outcome, whatever happens to one of them, and no delay.

That the cuts themselves change nothing is tried on many small files in `test_sheet_same.py`.
"""

from __future__ import annotations

import io
import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dropzone.config import Folder
from dropzone.drop import Report
from dropzone.errors import Cancelled
from dropzone.sheet import check, engine
from dropzone.sheet.beside import Beside
from dropzone.sheet.check import parts_are_free
from dropzone.sheet.parts import Files, Outcome, Part, Plan, pays
from dropzone.sheet.patterns import ENGINES

_ROWS = [
    b"a%d@b.co,%s" % (number % 2900, [b"x", b'"y, z"', b" y", b'"1\n2"', b"\x07"][number % 97 % 5])
    for number in range(3000)
]
_CONTENT = b"email,varr_a\r\n" + b"\r\n".join(_ROWS)


class Dead(Beside):
    """An interpreter that is killed before it can tell anything."""

    def __init__(self, part: Part, fd: int, files: Files) -> None:
        super().__init__(part, fd, files)
        self._child.kill()


def folder() -> Folder:
    place = {"name": "acme", "base": "/srv", "path": "/srv/inbox/acme", "account": "main", "segment_id": 1}
    return Folder.from_settings(json.dumps({**place, "mode": "lead", "bad_rows": "100%"}))


def run(plan: Plan | None) -> tuple[Report, bytes, bytes]:
    prepared, rejects = io.BytesIO(), io.BytesIO()
    with tempfile.TemporaryFile() as file:
        file.write(_CONTENT)
        file.seek(0)
        report = check(file, prepared, rejects, folder(), plan=plan)
    return report, prepared.getvalue(), rejects.getvalue()


class Alive(Beside):
    """One of which nothing is lost."""

    def outcome(self) -> Outcome | None:
        outcome = super().outcome()
        assert outcome is not None
        assert outcome.whole
        return outcome


@pytest.mark.parametrize("start", [Alive, Dead], ids=lambda start: start.__name__)
def test_parts_in_other_interpreters_give_what_one_pass_gives(start: type[Beside]) -> None:
    """Prepared copy, rejects and report are the same, and they are too when the other interpreter dies."""
    alone = run(None)
    assert alone[0].repeated_rows
    assert alone[0].bad_rows
    assert run(Plan(most=3, start=start, smallest=1_000)) == alone


def test_a_check_in_parts_can_be_cancelled() -> None:
    """What `progress` raises ends the check and the interpreters beside it, and leaves no file open."""

    def stop(count: int) -> None:
        if count:
            raise Cancelled

    with tempfile.TemporaryFile() as file:
        file.write(_CONTENT)
        file.seek(0)
        with pytest.raises(Cancelled):
            check(file, io.BytesIO(), io.BytesIO(), folder(), plan=Plan(most=3, start=Beside, smallest=1_000),
                  progress=stop)  # fmt: skip


def test_one_file_at_a_time_is_read_in_parts() -> None:
    """Several at once keep the cores busy as it is; the next one may be, once the first is through."""
    with ExitStack() as first, ExitStack() as second:
        assert parts_are_free(first)
        assert not parts_are_free(second)
        first.close()
        assert parts_are_free(second)


def test_parts_are_for_what_keeps_the_interpreter_busy() -> None:
    """Digests of addresses, and patterns by `re`; with RE2 one pass with its writing behind it is faster."""
    hashed = Folder.from_settings(
        json.dumps({**json.loads(folder().settings_json()), "mode": "suppress", "hash": "md5", "hash_plain": True})
    )
    assert pays(folder(), ENGINES["re"])
    for name in ENGINES:
        assert pays(hashed, ENGINES[name])
        assert pays(folder(), ENGINES[name]) == (name == "re")


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
