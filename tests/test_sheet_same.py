"""The fast engine against the plain one: the same bytes and the same report, whatever the file and wherever it is cut.

`make soak` tries a million files instead of the 20,000 of `make test`. A file is made from its number alone, so a
failure names all that is needed to see it again: ``mean(NUMBER)``.
"""

from __future__ import annotations

import io
import tempfile
from contextlib import suppress
from dataclasses import replace

import pytest
from oracle import check as plain
from oracle import lines as plain_lines
from oracle import rows as plain_rows
from oracle.mean import Case, mean
from soak import times

from dropzone.drop import Report
from dropzone.sheet import behind, check, hashes, same, trail
from dropzone.sheet import parts as plans
from dropzone.sheet.parts import Files, Outcome, Part, Plan, read_part
from dropzone.sheet.patterns import ENGINES
from dropzone.sheet.rules import KEPT_OF_LONG_LINE, Refusal

pytestmark = pytest.mark.usefixtures("untraced")

FILES = times(20_000, soak=1_000_000)
BLOCKS = max(20, FILES // 5_000)
TRIED = ENGINES | {"no pattern": replace(ENGINES["re"], trusted=False)}  # as a Python has it that cannot be trusted
MODES = [(name, most) for name in TRIED for most in (1, 2, 4)]

Found = tuple[Report, bytes, bytes]


class Here:
    """A part that is read at once, by the same code as another interpreter would."""

    def __init__(self, part: Part, fd: int, files: Files) -> None:
        self.bytes_read = 0
        self._outcome: Outcome | None = None
        with suppress(Refusal):
            self._outcome = read_part(part, fd, files, lambda _: None)

    def wait(self, seconds: float) -> bool:
        return True

    def outcome(self) -> Outcome | None:
        return self._outcome

    def close(self) -> None:
        pass


def by_the_plain_one(case: Case, patch: pytest.MonkeyPatch) -> Found:
    prepared, rejects = io.BytesIO(), io.BytesIO()
    for module in (plain_lines, plain_rows):
        patch.setattr(module, "ROW_LIMIT", case.row_limit)
    patch.setattr(plain_lines, "KEPT_OF_LONG_LINE", min(KEPT_OF_LONG_LINE, case.row_limit))
    report = plain.check(
        io.BytesIO(case.content), prepared, rejects, case.folder, compressed=case.compressed, chunk=case.chunk
    )
    return comparable(report, prepared, rejects)


def by_the_fast_one(case: Case, engine: str, parts: int, patch: pytest.MonkeyPatch) -> Found:
    """With what is large made small, so that small files get there; with and without numpy, and a second thread."""
    prepared, rejects = io.BytesIO(), io.BytesIO()
    patch.setattr(trail, "SMALL", [0, 40, 1 << 20][case.number % 3])
    patch.setattr(hashes, "BLOCK", [2, 8, 1 << 19][case.number // 3 % 3])
    patch.setattr(hashes, "_MARKS", [1, 4, 1 << 26][case.number // 5 % 3])
    patch.setattr(same, "BLOCK", [1, 3, 1 << 14][case.number // 7 % 3])
    patch.setattr(same, "TEXT", [0, 90, 1 << 18][case.number // 2 % 3])
    patch.setattr(hashes, "best", [hashes.best, lambda _: hashes.Plain()][case.number // 9 % 2])
    if case.number % 4 == 0:  # cut where it is wrong, too: in the middle of cells in quotes
        patch.setattr(plans, "_is_row", lambda *_: True)
    patch.setattr(behind, "_AT_ONCE", 40)
    patch.setattr(hashes, "anywhere", lambda: True)  # here all parts are read by one interpreter
    with tempfile.TemporaryFile() as file:
        file.write(case.content)
        file.seek(0)
        report = check(
            io.BytesIO(case.content) if parts == 1 else file,
            prepared,
            rejects,
            case.folder,
            compressed=case.compressed,
            chunk=case.chunk,
            row_limit=case.row_limit,
            cores=1 + case.number % 2,
            engine=TRIED[engine],
            plan=Plan(
                most=1 if case.compressed else parts,
                start=Here,
                smallest=1,
                # At once, or on the way: after some rows, whatever they are like or once some steps were short.
                look=[0, 1, 30, 200][case.number // 18 % 4],
                apart=[1 << 20, 20][case.number // 72 % 2],
            ),
        )
    return comparable(report, prepared, rejects)


def comparable(report: Report, prepared: io.BytesIO, rejects: io.BytesIO) -> Found:
    """All that there is to compare: of a file that is no list, neither what was written nor how much was read."""
    if not report.columns:
        return replace(report, bytes_read=0), b"", b""
    return report, prepared.getvalue(), rejects.getvalue()


@pytest.mark.soak
@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_fast_engine_gives_what_the_plain_one_gives(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared copy, rejects and report are the same, byte for byte, with every engine for patterns."""
    for number in range(block, FILES, BLOCKS):
        case = mean(number)
        engine, parts = MODES[number // BLOCKS % len(MODES)]
        with monkeypatch.context() as patch:
            expected = by_the_plain_one(case, patch)
            found = by_the_fast_one(case, engine, parts, patch)
        assert found == expected, f"mean({number}), {engine}, {parts}"
