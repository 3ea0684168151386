"""Prepared rows that wait on disk until it is known which of them a later row of the same address supersedes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from itertools import compress
from struct import Struct
from typing import IO, Self

from dropzone.sheet.source import Sink

_FRAME = Struct(">QII")  # line, number of rows, bytes
_LEFT_OUT = bytes.maketrans(b"\0\1", b"\1\0")


def _new_file(scratch: str | None) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=scratch)


class HeldRows:
    """The rows of one file, held back. A row is known by a line that no other row has."""

    def __init__(self, scratch: str | None = None) -> None:
        self._files = ExitStack()
        self._rows = self._files.enter_context(_new_file(scratch))
        self._marks = self._files.enter_context(_new_file(scratch))  # a byte for each line; sparse

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, line: int, rows: bytes, count: int = 1) -> None:
        """Hold back a row that stood in `line`, or `count` of one line each, in this line and those that follow."""
        self._rows.write(_FRAME.pack(line, count, len(rows)))
        self._rows.write(rows)

    def supersede(self, line: int) -> None:
        """The row that stood in `line` is not to be written."""
        self._marks.seek(line)
        self._marks.write(b"\1")

    def release(self, prepared: Sink, tell: Callable[[], object] = lambda: None) -> None:
        """Write the rows that are left, in the order in which they came; `tell` is called meanwhile, and may raise."""
        self._rows.seek(0)
        while frame := self._rows.read(_FRAME.size):
            tell()
            line, count, size = _FRAME.unpack(frame)
            rows = self._rows.read(size)
            self._marks.seek(line)
            marks = self._marks.read(count)
            if b"\1" not in marks:
                prepared.write(rows)
            elif count > 1:
                left = marks.ljust(count, b"\0").translate(_LEFT_OUT)
                prepared.write(b"".join(compress(rows.splitlines(keepends=True), left)))
