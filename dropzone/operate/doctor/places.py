"""The folders: whether the daemon's user may read and move what comes, and what they lie on."""

from __future__ import annotations

import errno
import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dropzone.config import Config, Folder
from dropzone.errors import FolderError, printable
from dropzone.folders import Folders
from dropzone.folders.probing import Mount, find_unreadable, mount_of, try_moves
from dropzone.operate.acting import User
from dropzone.operate.doctor.remarks import Remark, fault, note, of_error, ok, warning
from dropzone.places import VERDICTS
from dropzone.readiness import why_ignored

_LEAST_FREE = 512 << 20  # bytes; below, a prepared copy of a large file may not fit any more
_LEAST_FREE_SHARE = 0.02
_NAMED = 3  # names in one remark
_STATE = ("lock", "ledger.db", "ledger.db-wal", "ledger.db-shm")


def examine_state(config: Config, user: User) -> Iterator[Remark]:
    """The state folder: there, ours, on a local disk with room."""
    place = config.state_dir
    subject = f"state_dir {_shown(place)}"
    try:
        mount = mount_of(place)
    except FolderError as error:
        shut = error.errno == errno.EACCES
        yield of_error(subject, error, f"chown -R {user.name}: {_shown(place)}" if shut else "dropzone init")
        return
    if not mount.local:
        what = f"it is on {mount.type}, and SQLite on a network file system can lose what was promised to the server"
        yield fault(subject, what, "move it to a local disk and set state_dir to that place")
    elif mount.read_only:
        yield fault(subject, "its file system is read-only", f"mount -o remount,rw {mount.point}")
    elif not os.access(place, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        yield fault(subject, f"{user.name} may not write into it", f"chown -R {user.name}: {_shown(place)}")
    elif closed := [each for each in _STATE if (place / each).exists() and not _writable(place / each)]:
        what = f"{user.name} may not write {', '.join(closed)} in it: another user has run it here"  # root, mostly
        yield fault(subject, what, f"chown -R {user.name}: {_shown(place)}")
    else:
        yield ok(subject, f"on {mount.type}, local, writable for {user.name}")
    if place.stat().st_mode & 0o007:
        what = "anybody on this machine may look into it, and it names files and partners"
        yield warning(subject, what, f"chmod o= {_shown(place)}")
    yield from _space(subject, place)


def _writable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK, effective_ids=True)


def examine_root(config: Config) -> Iterator[Remark]:
    """The root: there, and with room."""
    subject = f"root {_shown(config.root)}"
    try:
        mount = mount_of(config.root)
    except FolderError as error:
        yield of_error(subject, error, "mount it, or make it with: dropzone init")
        return
    if mount.read_only:
        yield fault(subject, "its file system is read-only", f"mount -o remount,rw {mount.point}")
    else:
        yield ok(subject, f"on {mount.type}")
    yield from _space(subject, config.root)


def _space(subject: str, place: Path) -> Iterator[Remark]:
    facts = os.statvfs(place)
    free, whole = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    if free < min(_LEAST_FREE, whole) or (whole and free / whole < _LEAST_FREE_SHARE):
        mend = f"make room: du -xh {_shown(place)} | sort -h | tail; old files go by themselves with retention:"
        yield warning(subject, f"only {free >> 20:,} MiB are free", mend)
    if facts.f_files and facts.f_favail < 10_000:
        yield warning(subject, f"only {facts.f_favail:,} more files can be made on it", "make room: remove old files")


def examine_folder(folder: Folder, user: User, *, acting: bool) -> Iterator[Remark]:
    """One watched folder, by trying what the daemon does with it."""
    subject = f"folder {folder.name}"
    folders = Folders()
    if (found := folders.find_fault(folder)) is not None:
        mend = f"chmod 2770 {_shown(folder.path)}; chown {user.name}: {_shown(folder.path)}"
        yield of_error(subject, found, mend)
        return
    if acting:
        filed = [folder.base / "done" / folder.name, folder.base / "failed" / folder.name]
        try:
            try_moves(folder.path, folder.base / "work", filed)
        except FolderError as error:
            yield of_error(subject, error, _own(user, folder))
            return
        try:
            folders.read_mark(folder.base)
        except FolderError as error:
            yield of_error(subject, error, f"chown -R {user.name}: {_shown(folder.base / 'work')}")
            return
        yield ok(subject, f"{user.name} may read {_shown(folder.path)} and move files out of it")
    else:
        yield note(subject, f"whether {user.name} may move files was not tried", "ask as root, or as that user")
    yield from _unreadable(subject, folder, folders)
    yield from _modes(subject, folder)
    yield from _network(subject, mount_of(folder.path))


def _own(user: User, folder: Folder) -> str:
    places = [folder.path, folder.base / "work", folder.base / "done", folder.base / "failed"]
    return f"chown {user.name}: {' '.join(map(_shown, places))}"


def _unreadable(subject: str, folder: Folder, folders: Folders) -> Iterator[Remark]:
    names = [name for name in folders.names(folder) if not why_ignored(os.fsdecode(name), folder)]
    closed = find_unreadable(folder.path, names)
    if closed:
        first = ", ".join(printable(name) for name in closed[:_NAMED]) + (" …" if len(closed) > _NAMED else "")
        what = f"{len(closed)} file{'s' if len(closed) > 1 else ''} in it cannot be read: {first}"
        mend = f"chmod g+r {_shown(folder.path)}/*; and let the server use a umask of 027"
        yield fault(subject, what, mend)


def _modes(subject: str, folder: Folder) -> Iterator[Remark]:
    facts = folder.path.stat()
    if not facts.st_mode & stat.S_ISGID:
        what = (
            f"its inbox hands its group {_group(facts.st_gid)} down to no new file, so we may not be able to read them"
        )
        yield warning(subject, what, f"chmod g+s {_shown(folder.path)}")
    if facts.st_mode & 0o002:
        yield warning(subject, "anybody on this machine may write into its inbox", f"chmod o-w {_shown(folder.path)}")
    for verdict in VERDICTS:
        place = folder.base / verdict
        if os.path.isdir(place / folder.name) and (place / folder.name).stat().st_mode & 0o007:
            what = (
                f"anybody on this machine may look into {_shown(place / folder.name)}, and lists of addresses are there"
            )
            yield warning(subject, what, f"chmod o= {_shown(place / folder.name)}")


def _network(subject: str, mount: Mount) -> Iterator[Remark]:
    if mount.local:
        return
    what = (
        f"its inbox is on {mount.type}: nothing tells of new files there, and nobody can tell whether one is still open"
    )
    mend = "let partners upload under a temporary name and rename, or ask for markers (marker:)"
    yield note(subject, what, mend)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _shown(path: Path) -> str:
    return printable(str(path))
