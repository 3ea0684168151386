"""System calls as a hostile inbox needs them: relative to directory descriptors, following nothing, replacing nothing.

Knows Linux, and nothing of drops. What fails is an `OSError`; `translated` makes it a `FolderError` with its mend.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

from dropzone.errors import FolderError
from dropzone.readiness import Look

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


@contextlib.contextmanager
def opened_at(name: str | bytes, flags: int, directory: int) -> Iterator[int]:
    """A descriptor for `name` in an open directory, closed at the end."""
    fd = os.open(name, flags, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def open_path(path: Path) -> int:
    """Open a directory following no link in any component: a partner may own one of them."""
    how = _OpenHow(OPEN_DIR, 0, _RESOLVE_NO_SYMLINKS)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    fd = int(_libc.syscall(_OPENAT2, -1, os.fsencode(path), ctypes.byref(how), size))
    # A kernel before 5.6, or a filter on system calls that does not know it: the long way, which tells the real error.
    return fd if fd >= 0 else _open_stepwise(path)


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


@contextlib.contextmanager
def opened_path(path: Path) -> Iterator[int]:
    """`open_path`, closed at the end."""
    fd = open_path(path)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened_file(name: str, flags: int, directory: int, mode: str = "rb") -> Iterator[BinaryIO]:
    """`name` in an open directory as a binary file, closed at the end; files made have mode 0640."""
    fd = os.open(name, flags, 0o640, dir_fd=directory)
    with open(fd, mode) as file:
        yield cast(BinaryIO, file)


def sync_all(fds: Sequence[int]) -> list[OSError | None]:
    """Make each durable; returns what went wrong with each, or None. A disk makes one flush of all that wait for it."""
    if len(fds) < 2:
        return [_sync(fd) for fd in fds]
    with ThreadPoolExecutor(min(len(fds), AT_A_TIME), thread_name_prefix="sync") as pool:
        return list(pool.map(_sync, fds))


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


@contextlib.contextmanager
def translated(op: str, path: Path, hint: str = "") -> Iterator[None]:
    """Raise what fails inside as a FolderError: "cannot OP PATH: …", with the mend where there is one."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EXDEV:
            hint = "Inbox, work/, done/ and failed/ must lie on one mount; give the folder a `spool:` on its own mount"
        elif op == "open" and error.errno in (errno.EACCES, errno.EPERM):
            hint = f"Give it to the user that the daemon runs as, say: chown -R dropzone: {path}"
        elif error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            hint = ""
        raise FolderError(op, str(path), error, hint) from error
