"""Where bytes come from and go to: a file read forward, counted, and once more from the start where that is needed.

Knows what can be read twice: a plain file from its descriptor, without moving anybody's place in it; anything else
from a copy that is made while it is read for the first time.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Protocol

_IN_MEMORY = 1 << 20  # bytes of a copy that need no disk


class Source(Protocol):
    """What a file has to offer to be read: no seeking, no size."""

    def read(self, size: int, /) -> bytes: ...


class Sink(Protocol):
    """What can be written to."""

    def write(self, piece: bytes, /) -> object: ...


class Stretch:
    """A file from one of its bytes on, read without moving anybody's place in it."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._at = start

    def read(self, size: int, /) -> bytes:
        piece = os.pread(self._fd, size, self._at)
        self._at += len(piece)
        return piece


class Counted:
    """A source that tells how far it has been read, and always gives as much as is asked for while it can."""

    def __init__(self, source: Source, progress: Callable[[int], None]) -> None:
        self._source = source
        self._progress = progress
        self.count = 0

    def read(self, size: int, /) -> bytes:
        pieces = []
        while size and (piece := self._source.read(size)):
            pieces.append(piece)
            size -= len(piece)
            self.count += len(piece)
        self.tell_progress()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def tell_progress(self) -> None:
        self._progress(self.count)

    def seek(self, position: int, /) -> int:
        """There for gzip's types only: gzip seeks when it is asked to rewind, which nobody does here."""
        raise NotImplementedError(position)


class Twice:
    """A source that can be read a second time. The copy that this may take is in `scratch`, until `files` is left."""

    def __init__(self, source: Source, files: ExitStack, scratch: str | None) -> None:
        self._source = source
        self.file = _find_file(source)  # its descriptor and where in it the source begins, if it is a plain file
        self._copy: IO[bytes] | None = None
        if self.file is None:
            copy = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=scratch)  # noqa: SIM115 - it is entered at once
            self._copy = files.enter_context(copy)

    def read(self, size: int, /) -> bytes:
        piece = self._source.read(size)
        if self._copy:
            self._copy.write(piece)
        return piece

    def again(self, start: int = 0) -> Source:
        """The same bytes from `start` on, as far as they were read; of a plain file, as they are by now."""
        if self.file is not None:
            return Stretch(self.file[0], self.file[1] + start)
        assert self._copy is not None
        self._copy.seek(start)
        return self._copy


def _find_file(source: Source) -> tuple[int, int] | None:
    try:
        fd, start = source.fileno(), source.tell()  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None
    return (fd, start) if stat.S_ISREG(os.fstat(fd).st_mode) else None
