"""An inbox that is open: what is in it, how it looks, what reading it tells. Nothing is changed here.

Everything is asked of the directory that was opened, not of its path: whoever exchanges the inbox for another one
meanwhile changes nothing for us. Nothing is followed, and nothing but a regular file is ever read.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from dropzone import readiness
from dropzone.errors import FolderError, printable
from dropzone.folders.system import OPEN_FILE, is_local, look_at, open_path, opened_at, translated
from dropzone.readiness import Candidate, Look, Probe, Reading, Seen, Unread, Verdict, judge, marker_name

if TYPE_CHECKING:  # the models are slow to load, and not every question is about settings
    from dropzone.config import Folder

_MISSING = "Make it with 'dropzone init', or mend `path:`"


Listing = tuple[int, int, int]  # device, inode, change time


class Inbox:
    """The inbox of `folder`, open as the directory `fd`."""

    def __init__(self, folder: Folder, fd: int) -> None:
        self.folder = folder
        self.fd = fd

    @cached_property
    def is_local(self) -> bool:
        """Whether its file system knows every writer and reports every change."""
        return is_local(self.fd)

    def listing(self) -> Listing | None:
        """What changes with every name that comes or goes; None on file systems that cannot be believed in this.

        The directory's ctime, which nobody can set, to the clock's tick.
        """
        if not self.is_local:
            return None
        st = os.fstat(self.fd)
        return st.st_dev, st.st_ino, st.st_ctime_ns

    def names(self) -> list[bytes]:
        """The names in it, in no order. Raises FolderError when it cannot be listed."""
        with translated("list", self.folder.path), os.scandir(self.fd) as entries:
            return [os.fsencode(entry.name) for entry in entries]

    def look(self, name: bytes) -> Look | None:
        """What `name` looks like now, without following links; None when it is gone. Raises FolderError."""
        try:
            return look_at(self.fd, name)
        except OSError as error:  # whoever owns the inbox may shut it, at any time
            raise FolderError("look at", str(self.folder.path / os.fsdecode(name)), error) from error

    def see(self, name: bytes) -> Seen | None:
        """The same, with its marker where the folder wants one."""
        look, marker = self.look(name), marker_name(name, self.folder)
        return None if look is None else Seen(look, self.look(marker) if marker else None)

    def probe(self, name: bytes, look: Look) -> Probe:
        """Open `name` and ask for a writer and its last bytes. Raises FolderError when it cannot be read."""
        with self._opened(name) as fd:
            return readiness.probe(fd, look.size, local=self.is_local)

    def read(self, name: bytes, seen: Seen) -> Reading:
        """Do what takes long before a claim: read `name` as far as that is asked for, and write it out to disk.

        Raises FolderError when it cannot be read.
        """
        with self._opened(name) as fd:
            reading = readiness.read(fd, seen, self.marker_text(name), self.folder)
            if Look.of(os.fstat(fd)) != seen.file:
                return Reading(seen, whole=False, misfit="it changed while it was read")  # and is looked at again
            os.fsync(fd)
            return reading

    def verdict(
        self, name: bytes, candidate: Candidate | None = None, *, now: float = 0.0, thorough: bool = False
    ) -> Verdict | None:
        """What a fresh look says of `name`, for people. None when it is gone.

        What is known of it is in `candidate`; without one the answer is what it lacks beside quiet time. `thorough`
        reads it to its end where only that tells; without it the answer then is `Unread`. Changes nothing on disk.
        Raises FolderError when it cannot be read.
        """
        if (seen := self.see(name)) is None:
            return None
        candidate = candidate or Candidate.calm(self.folder, now)

        def judged() -> Verdict:
            return judge(candidate, seen, self.folder, now=now, ask=lambda: self.probe(name, seen.file))

        found = judged()
        if isinstance(found, Unread) and thorough:
            candidate.reading = self.read(name, seen)
            found = judged()
        return found

    def marker_text(self, name: bytes) -> bytes:
        """What the marker of `name` holds; nothing where it is gone or no file that could be read."""
        marker = marker_name(name, self.folder)
        return read_marker(self.fd, marker) if marker else b""

    @contextlib.contextmanager
    def _opened(self, name: bytes) -> Iterator[int]:
        with faults_of(self.folder, name, "read", self.fd), opened_at(name, OPEN_FILE, self.fd) as fd:
            yield fd


@contextlib.contextmanager
def opened_inbox(folder: Folder) -> Iterator[Inbox]:
    """The inbox of `folder`, closed at the end. Raises FolderError when it is not there, or not a folder."""
    with translated("open", folder.path, _MISSING):
        fd = open_path(folder.path)
    try:
        yield Inbox(folder, fd)
    finally:
        os.close(fd)


def read_marker(directory: int, name: bytes) -> bytes:
    """The first bytes of the marker `name` in an open directory; none where it cannot be read."""
    with contextlib.suppress(OSError), opened_at(name, OPEN_FILE, directory) as fd:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return os.pread(fd, readiness.MARKER_BYTES, 0)
    return b""


@contextlib.contextmanager
def faults_of(folder: Folder, name: bytes, op: str, directory: int) -> Iterator[None]:
    """Raise what fails inside as a FolderError of the file `name`, with the very command that mends its rights."""
    try:
        with translated(op, folder.path / os.fsdecode(name)):
            yield
    except FolderError as fault:
        if isinstance(fault.__cause__, PermissionError):
            raise FolderError(op, str(fault.path), fault.__cause__, _readable(folder, name, directory)) from fault
        raise


def _readable(folder: Folder, name: bytes, directory: int) -> str:
    """What to type so that we may read the file `name`."""
    try:
        st = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return ""
    path = folder.path / os.fsdecode(name)
    commands = []
    if st.st_uid == os.geteuid():
        commands = [] if st.st_mode & stat.S_IRUSR else ["chmod u+r"]
    else:
        if st.st_gid not in (os.getegid(), *os.getgroups()):
            commands.append(f"chgrp {os.getegid()}")
        if not st.st_mode & stat.S_IRGRP:
            commands.append("chmod g+r")
    if not commands:
        return "Its mode allows it, so something else does not: an ACL, or a security module"
    if printable(str(path)) == str(path):
        typed = " && ".join(f"{command} -- {shlex.quote(str(path))}" for command in commands)
    else:  # a name that no shell should be given
        where = f"find {shlex.quote(str(folder.path))} -maxdepth 1 -inum {st.st_ino}"
        typed = " && ".join(f"{where} -exec {command} {{}} +" for command in commands)
    return f"Type: {typed}; and let the server create files with mode 0640 (a umask of 027)"
