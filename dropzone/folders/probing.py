"""What the file systems and the kernel allow here, found out by trying: for the diagnosis, not for the daemon's work.

Nothing of a partner is touched: what is tried is tried with a file of our own, whose name no folder takes.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dropzone.folders.system import CREATE, OPEN_FILE, is_local, mount_id, open_path, opened_path, rename, translated

_libc = ctypes.CDLL(None, use_errno=True)
_PROBE = ".dropzone-probe-"  # a leading dot: readiness never takes it
_CLOCK_ERROR = 5  # TIME_ERROR of adjtimex(2)
_IN_CLOEXEC = 0o2000000


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """What a path lies on. `local`: its file system knows every writer, and tells of every change."""

    id: str
    point: str
    type: str
    read_only: bool
    local: bool


def mount_of(path: Path) -> Mount:
    """The mount that `path`, a directory, lies on. Raises FolderError."""
    with translated("look at", path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            wanted, local = mount_id(fd), is_local(fd)
        finally:
            os.close(fd)
        with open("/proc/self/mountinfo") as table:
            for line in table:
                left, _, right = line.partition(" - ")
                id, _, _, _, point, options, *_ = left.split(" ")
                if id == wanted:
                    type_, _, super_options = right.split(" ", 2)
                    read_only = "ro" in options.split(",") or "ro" in super_options.strip().split(",")
                    return Mount(id=id, point=_unescaped(point), type=type_, read_only=read_only, local=local)
        return Mount(id=wanted, point="?", type="?", read_only=False, local=local)


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def try_moves(inbox: Path, work: Path, filed: list[Path]) -> None:
    """Move a file of our own from `inbox` to `work` and on to each of `filed`. Raises FolderError where one refuses."""
    name = _PROBE + secrets.token_hex(6)
    with _probe_file(inbox, name) as here:
        for target in [work, *filed]:
            source = here[-1]
            with translated("move files to", target), opened_path(source) as left, opened_path(target) as right:
                rename(left, name, right, name)
            here.append(target)


@contextmanager
def _probe_file(inbox: Path, name: str) -> Iterator[list[Path]]:
    here = [inbox]
    with translated("write into", inbox), opened_path(inbox) as fd:
        os.close(os.open(name, CREATE | os.O_EXCL, 0o600, dir_fd=fd))
    try:
        yield here
    finally:
        with suppress(OSError):
            (here[-1] / name).unlink()


def find_unreadable(inbox: Path, names: list[bytes]) -> list[bytes]:
    """Those of `names`, files in `inbox`, that this user may not read. Raises FolderError where it cannot look."""
    with translated("open", inbox):
        directory = open_path(inbox)
    try:
        return [name for name in names if _is_file(directory, name) and not _opens(directory, name)]
    finally:
        os.close(directory)


def _is_file(directory: int, name: bytes) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _opens(directory: int, name: bytes) -> bool:
    try:
        os.close(os.open(name, OPEN_FILE, dir_fd=directory))
    except PermissionError:
        return False
    except OSError:  # gone meanwhile
        return True
    return True


def try_inotify() -> None:
    """Ask the kernel for what watching needs, and give it back. Raises FolderError where there is none left."""
    with translated("use", Path("/proc/sys/fs/inotify")):
        fd = _libc.inotify_init1(_IN_CLOEXEC)
        if fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        os.close(fd)


def clock_is_kept() -> bool | None:
    """Whether something keeps the clock right (NTP, a hypervisor's time); None where the kernel does not say."""
    timex = ctypes.create_string_buffer(512)  # all zero asks and changes nothing (modes = 0)
    try:
        state = _libc.adjtimex(timex)
    except AttributeError:  # pragma: no cover - a C library without it
        return None
    return None if state < 0 else state != _CLOCK_ERROR
