"""Filing: the log, the rejects and the original into done/ or failed/, several drops at once.

What takes long is that the disk has to have each step before the next one is made. So the drops of one filing go
through the steps together and share the syncs: of their logs, then of the date folders, then of both ends of the moves.
For each of them the order is what it would be alone, and what is wrong with one keeps none of the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dropzone.drop import Drop
from dropzone.errors import FolderError
from dropzone.folders import layout
from dropzone.folders.system import (
    CREATE,
    look_at,
    open_path,
    opened_file,
    rename,
    sync_all,
    sync_path,
    translated,
)
from dropzone.places import LOG, ORIGINAL, OURS, REJECTS, Verdict, path_in, without_extension, work_of
from dropzone.values import value

Step = Callable[[str], None]


@value
class ToFile:
    """A drop that is to be filed by its `verdict`, with the text `log` beside it."""

    drop: Drop
    verdict: Verdict
    log: str


@dataclass(slots=True)
class _Moving:
    """One drop on its way: where it goes, and the open ends of the move."""

    drop: Drop
    text: str  # of the log
    where: str  # the original's path relative to its base
    path: str
    directory: int = -1  # work/ID
    target: int = -1  # the date folder
    log: int = -1  # the log in work/ID, until it is synced
    ended: bool = False  # nothing is left to do
    fault: FolderError | None = None

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    @property
    def stem(self) -> str:
        return without_extension(self.name)

    @property
    def goes_on(self) -> bool:
        return not self.ended and self.fault is None


def file_all(drops: Sequence[ToFile], step: Step) -> list[str | FolderError]:
    """File each; returns for each its path relative to its base, or what is wrong.

    The log comes first, so that a file in done/ always has its log. May be cut off anywhere and run again.
    """
    with contextlib.ExitStack() as stack:
        filing = _Filing(drops, step, stack)
        filing.run()
        return [each.fault or each.where for each in filing.all]


class _Filing:
    def __init__(self, drops: Sequence[ToFile], step: Step, stack: contextlib.ExitStack) -> None:
        self._step = step
        self._stack = stack
        self._directories: dict[str, int] = {}
        self.all = []
        for each in drops:
            where = path_in(each.drop, each.verdict)
            self.all.append(_Moving(each.drop, each.log, where, f"{each.drop.base}/{where}"))

    def run(self) -> None:
        self._each(self._open)
        self._each(self._write_log)
        self._sync_logs()
        self._each(self._move_log)
        self._sync("file: sync log", lambda one: (one.target,))
        # If we die here: logs without their files yet. The rows still say accepted, so the moves are done again.
        self._each(self._move_original)
        self._sync("file: sync target and work/ID", lambda one: (one.target, one.directory))
        # If we die from here on, the rows are still open: this runs again and finds everything in place.
        self._each(self._clear)

    def _each(self, do: Callable[[_Moving], None]) -> None:
        for one in self.all:
            if one.goes_on:
                try:
                    with translated("file", one.path):
                        do(one)
                except FolderError as fault:
                    one.fault = fault

    def _sync(self, what: str, fds: Callable[[_Moving], Iterable[int]]) -> None:
        """Make these descriptors of all that go on durable, each once."""
        going = [one for one in self.all if one.goes_on]
        wanted = list(dict.fromkeys(fd for one in going for fd in fds(one)))
        if not wanted:
            return
        self._step(what)
        errors = dict(zip(wanted, sync_all(wanted), strict=True))
        for one in going:
            for error in filter(None, map(errors.get, fds(one))):
                one.fault = FolderError("file", one.path, error)

    # ------------------------------------------------------------------------------------------------ the steps

    def _open(self, one: _Moving) -> None:
        one.target = self._target(os.path.dirname(one.path))
        try:
            one.directory = open_path(work_of(one.drop))
        except FileNotFoundError:
            if look_at(one.target, os.fsencode(one.name)) is None:
                raise
            one.ended = True  # filed before; we died before the row
            return
        self._stack.callback(os.close, one.directory)

    def _target(self, path: str) -> int:
        if path not in self._directories:
            for made in layout.make(Path(path), 0o750):
                sync_path(made.parent)  # a new date folder must outlive a power cut, or its files do not
        return self._opened(path)

    def _opened(self, path: str) -> int:
        """A directory that many of them share, open until the end."""
        if path not in self._directories:
            self._directories[path] = open_path(path)
            self._stack.callback(os.close, self._directories[path])
        return self._directories[path]

    def _write_log(self, one: _Moving) -> None:
        if look_at(one.target, os.fsencode(f"{one.stem}.log")) is not None:
            return
        with opened_file(LOG, CREATE, one.directory, "wb") as out:
            self._step("file: write log")
            out.write(one.text.encode("utf-8", "backslashreplace"))
            out.flush()
            one.log = os.dup(out.fileno())
        self._stack.callback(os.close, one.log)

    def _sync_logs(self) -> None:
        self._sync("file: sync log text", lambda one: (one.log,) if one.log >= 0 else ())

    def _move_log(self, one: _Moving) -> None:
        if one.log >= 0:
            self._step("file: move log")
            move(one.directory, LOG, one.target, f"{one.stem}.log")
        self._step("file: move rejects")
        move(one.directory, REJECTS, one.target, f"{one.stem}.rejects.csv")

    def _move_original(self, one: _Moving) -> None:
        self._step("file: move original")
        if not move(one.directory, ORIGINAL, one.target, one.name) and not look_at(one.target, os.fsencode(one.name)):
            raise FileNotFoundError(errno.ENOENT, "the file is neither in work/ nor where it should go")

    def _clear(self, one: _Moving) -> None:
        self._step("file: clear work/ID")
        clear(self._opened(f"{one.drop.base}/work"), one.drop.id, one.directory)


def move(source: int, name: str, target: int, new_name: str) -> bool:
    """Rename unless that happened before; empty rejects are no rejects. False when there was nothing to move."""
    look = look_at(source, name.encode())
    if look is None or (name == REJECTS and look.size == 0):
        return False
    rename(source, name, target, new_name)
    return True


def clear(work: int, id: str, directory: int) -> None:
    """Remove what we made in work/ID, and work/ID if nothing else is in it. Never touches an original."""
    for name in os.listdir(directory):
        if name in OURS:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
    with contextlib.suppress(OSError):  # not empty: something that is not ours to remove
        os.rmdir(id, dir_fd=work)
