"""System calls as a hostile inbox needs them: relative to directory descriptors, following nothing, replacing nothing.

Knows Linux, and nothing of drops. What fails is an `OSError`; `translated` makes it a `FolderError` with its mend.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

from dropzone.errors import FolderError, NoThreadError
from dropzone.readiness import Look
from dropzone.threads import Pool

OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a named pipe would hang us for good (seen). O_NOCTTY: a terminal device must not become ours.
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC

# Local file systems know every writer; all others (nfs, smb, fuse, 9p …) grant leases they cannot keep (seen: sshfs).
_LOCAL_FILE_SYSTEMS = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0xF2F52010,  # f2fs
        0x2FC12FC1,  # zfs
        0xCA451A4E,  # bcachefs
        0x3153464A,  # jfs
        0x52654973,  # reiserfs
        0x3434,  # nilfs2
        0x858458F6,  # ramfs
        0x794C7630,  # overlay
    }
)

AT_A_TIME = 8  # syncs; with more the disk was no faster (measured)

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE = 1
_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_SYMLINKS = 4


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def rename(source: int, name: str | bytes, target: int, new_name: str | bytes) -> None:
    """renameat2(RENAME_NOREPLACE): one atomic move that never replaces; OSError, also where the target exists."""
    if _libc.renameat2(source, os.fsencode(name), target, os.fsencode(new_name), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def look_at(directory: int, name: bytes) -> Look | None:
    """What `name` in an open directory looks like, links not followed; None when it is not there."""
    try:
        return Look.of(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return None


class Opened:
    """A descriptor that is closed at the end of a `with`. No generator: dozens are made for each drop."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> int:
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def opened_at(name: str | bytes, flags: int, directory: int) -> Opened:
    """A descriptor for `name` in an open directory, closed at the end."""
    return Opened(os.open(name, flags, dir_fd=directory))


def open_path(path: str | Path) -> int:
    """Open a directory following no link in any component: a partner may own one of them."""
    how = _OpenHow(OPEN_DIR, 0, _RESOLVE_NO_SYMLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd = int(_libc.syscall(_OPENAT2, -1, os.fsencode(path), ctypes.byref(how), size))
    # A kernel before 5.6, or a filter on system calls that does not know it: the long way, which tells the real error.
    return fd if fd >= 0 else _open_stepwise(Path(path))


def _open_stepwise(path: Path) -> int:
    """`open_path` one component at a time; only the last must be readable, the others passable."""
    fd = os.open("/", _PASS)
    for number, part in enumerate(path.parts[1:], 2):
        try:
            inner = os.open(part, OPEN_DIR if number == len(path.parts) else _PASS, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def opened_path(path: str | Path) -> Opened:
    """`open_path`, closed at the end."""
    return Opened(open_path(path))


def opened_file(name: str, flags: int, directory: int, mode: str = "rb") -> BinaryIO:
    """`name` in an open directory as a binary file, for a `with`; files made have mode 0640."""
    return cast(BinaryIO, open(os.open(name, flags, 0o640, dir_fd=directory), mode))


def sync_all(fds: Sequence[int]) -> list[OSError | None]:
    """Make each durable; returns what went wrong with each, or None. A disk makes one flush of all that wait for it."""
    if len(fds) < 2:
        return [_sync(fd) for fd in fds]
    shares = min(len(fds), AT_A_TIME)  # a call for each descriptor would cost more than the sync itself

    def sync_share(first: int) -> list[OSError | None]:
        return [_sync(fd) for fd in fds[first::shares]]

    mine, others = [0], {}
    for first in range(1, shares):
        try:
            others[first] = _crew.submit(sync_share, first)
        except NoThreadError:
            mine.append(first)
    found: list[OSError | None] = [None] * len(fds)
    for first in mine:
        found[first::shares] = sync_share(first)
    for first, other in others.items():
        found[first::shares] = other.result()
    return found


def _new_crew() -> Pool:
    """Who syncs beside us; made anew for a child of ours, in which none of our threads lives on."""
    return Pool(2 * AT_A_TIME, "sync")


def _renew_crew() -> None:
    global _crew  # noqa: PLW0603 - the child's own
    _crew = _new_crew()


_crew = _new_crew()  # its threads stay, once they were needed: to start one takes longer than many a sync
os.register_at_fork(after_in_child=_renew_crew)


def _sync(fd: int) -> OSError | None:
    try:
        os.fsync(fd)
    except OSError as error:
        return error
    return None


def sync_path(path: Path) -> None:
    """Make the entries of a directory durable."""
    with opened_path(path) as fd:
        os.fsync(fd)


def _fdinfo(fd: int, key: str) -> str:
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next((line.split(":", 1)[1].strip() for line in info if line.startswith(key)), "")


def mount_id(fd: int) -> str:
    """Which mount `fd` lies on; renames work within one only."""
    return _fdinfo(fd, "mnt_id")


def is_local(fd: int) -> bool:
    """Whether the file system under `fd` is one that knows every writer and reports every change."""
    found = ctypes.create_string_buffer(256)  # struct statfs; its type comes first, as a long
    if _libc.fstatfs(fd, found) != 0:
        return False
    return int.from_bytes(found.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) in _LOCAL_FILE_SYSTEMS


def translated(op: str, path: str | Path, hint: str = "") -> _Translation:
    """Raise what fails inside as a FolderError: "cannot OP PATH: …", with the mend where there is one."""
    return _Translation(op, path, hint)


class _Translation:
    __slots__ = ("_hint", "_op", "_path")

    def __init__(self, op: str, path: str | Path, hint: str) -> None:
        self._op = op
        self._path = path
        self._hint = hint

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise FolderError(self._op, str(self._path), error, self._mend(error)) from error

    def _mend(self, error: OSError) -> str:
        if error.errno == errno.EXDEV:
            return "Inbox, work/, done/ and failed/ must lie on one mount; give the folder a `spool:` on its own mount"
        if self._op == "open" and error.errno in (errno.EACCES, errno.EPERM):
            return f"Give it to the user that the daemon runs as, say: chown -R dropzone: {self._path}"
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return self._hint
        return ""
