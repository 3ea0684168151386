"""The directories themselves: making them with their modes, and what keeps an inbox from working.

    inbox/FOLDER         2770   for the partner's user too; what it writes keeps the group, and so is ours to read
    work/                0700   ours alone
    done|failed/FOLDER   0750   for the eyes of the group

Whoever may write in an inbox may also exchange what lies in it; everything here is asked of open directories.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dropzone.errors import FolderError
from dropzone.folders.inbox import Inbox, opened_inbox
from dropzone.folders.system import mount_id, opened_path, translated
from dropzone.places import VERDICTS

if TYPE_CHECKING:  # the models are slow to load, and not every question is about settings
    from dropzone.config import Config, Folder

# Mounting comes first: in one that is made in an empty mount point, the drops that lie on the mount seem to be gone.
NO_WORK = "Mount it, or make it with 'dropzone init'"

_INBOX, _WORK, _RESULTS = 0o2770, 0o700, 0o750


def lay_out(config: Config, *, inboxes: bool, occupied: Container[Path] = ()) -> list[Path]:
    """Make the directories that are missing, with their modes; returns those that it made, or put right.

    With `inboxes` those below the root too: group-writable and setgid, so that a partner's user in the group may
    write and what it writes stays readable for us. That is for `dropzone init`: a hardened service may not set
    the setgid bit. A folder with its own `path:` belongs to somebody else: it is never made and never touched.

    Of a base that is `occupied`, with drops in its work/, nothing is made once work/ is away: it is on a mount that is
    missing, and in an empty one the drops would seem to be gone.
    """
    made: list[Path] = []
    for folder in config.folders.values():
        if folder.base in occupied and not os.path.isdir(folder.base / "work"):
            continue
        made += make(folder.base / "work", _WORK)
        for verdict in VERDICTS:
            made += make(folder.base / verdict / folder.name, _RESULTS)
        if inboxes and folder.path.is_relative_to(config.root):
            made += make(folder.path, _INBOX) or _put_right(folder.path, _INBOX)
    return made


def make(path: Path, mode: int) -> list[Path]:
    """Make the directory `path`, and those above it that are missing; returns what it made. Raises FolderError."""
    with translated("look at", path):  # the way to it may be closed to us
        if path.is_dir():
            return []
    made = make(path.parent, 0o755)
    with translated("make", path):
        path.mkdir(exist_ok=True)
        if os.geteuid() == 0:  # `init` by root must not shut the service's own user out
            above = path.parent.stat()
            os.chown(path, above.st_uid, above.st_gid)
        path.chmod(mode)  # mkdir's own mode is cut by the umask
    return [*made, path]


def _put_right(path: Path, mode: int) -> list[Path]:
    """Add what `mode` has to an inbox that was made by hand; what it allows beyond that somebody may have wanted."""
    with translated("set the mode of", path), opened_path(path) as fd:
        st = os.fstat(fd)
        if st.st_mode & mode == mode or os.geteuid() not in (0, st.st_uid):
            return []
        os.fchmod(fd, stat.S_IMODE(st.st_mode) | mode)
    return [path]


def find_fault(folder: Folder) -> FolderError | None:
    """What keeps `folder` from working, with its mend, or None.

    Its `op` is ``use`` where no file of it can ever be taken over or filed as things are laid out; what is missing or
    closed to us may be mended while we run.
    """
    try:
        with opened_inbox(folder) as inbox, translated("look into", folder.path):
            return next(_faults(inbox), None)
    except FolderError as fault:
        return fault


def _faults(inbox: Inbox) -> Iterator[FolderError]:
    folder, st = inbox.folder, os.fstat(inbox.fd)
    # Not st_dev: a bind mount of the same file system has the same one, and refuses the rename (seen).
    mount = mount_id(inbox.fd)
    for place in (folder.base / "work", folder.base / "done" / folder.name, folder.base / "failed" / folder.name):
        with _opened(place) as fd:
            if fd is not None and mount_id(fd) != mount:
                why = f"it is on another mount than {place}, so no rename can take files there"
                hint = f"Give the folder a `spool:` on the mount of {folder.path}"
                yield FolderError("use", str(folder.path), why, hint)
    if st.st_mode & stat.S_ISVTX and os.geteuid() not in (0, st.st_uid):
        hint = f"Type: chmod -t {shlex.quote(str(folder.path))}"
        yield FolderError("use", str(folder.path), "it is sticky, so nobody may move others' files", hint)
    with _opened(folder.base / "work"):
        pass
    if not os.access(f"/proc/self/fd/{inbox.fd}", os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        why = "we may not both read it and move files out of it"
        yield FolderError("take files from", str(folder.path), why, _open_to_us(folder.path, st))


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[int | None]:
    """`place` as a directory; None where it is not there yet, but for work/, without which nothing goes."""
    hint = NO_WORK if place.name == "work" else "Make it with 'dropzone init'"
    try:
        with translated("open", place, hint), opened_path(place) as fd:
            yield fd
    except FolderError as fault:
        if place.name == "work" or not isinstance(fault.__cause__, FileNotFoundError):
            raise
        yield None


def _open_to_us(path: Path, st: os.stat_result) -> str:
    """What to type so that we may list an inbox and move files out of it."""
    quoted = shlex.quote(str(path))
    if st.st_uid == os.geteuid():
        return f"Type: chmod u+rwx {quoted}"
    groups = {os.getegid(), *os.getgroups()}
    chgrp = "" if st.st_gid in groups else f"chgrp {os.getegid()} {quoted} && "
    return f"Type: {chgrp}chmod g+rwxs {quoted}"
