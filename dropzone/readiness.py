"""When a file in an inbox is complete: the rule, and the memory of a candidate that the rule needs.

Knows names, looks (what `stat` says), quiet time, open writers and last bytes. Knows no paths and takes nothing
over: `folders` opens the files, `intake` decides when to look again.

No local test can tell a finished upload from one that was cut off under its final name: a killed client closes the
file just like a happy one. What was recorded with 89 real client scenarios, and what each line below answers:

- claiming at the first close took 18 unfinished files: clients close and reopen, so a file must be *quiet* first;
- quiet time alone is no rule (a healthy upload paused 27 s after a 15 s network outage): nobody may have it open for
  writing, which a read lease tells in two microseconds, even for shared mappings and writers in other containers;
- 98 % of the files that were cut end in mid-line: the last byte must be a newline, or the file waits `hold_tail`;
- size and mtime say nothing by themselves (preallocation; `put -p` brings the sender's old time), so they are only
  ever compared with what they were at the last look, never with our clock;
- link()+unlink() is how OpenSSH renames for SFTP v3: two links for a moment are normal, for longer they are a trap.

Times are seconds of a monotonic clock, so that nobody who sets the wall clock can hurry or stop a file.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the models are slow to load, and a question that is not about settings comes by here too
    from dropzone.config import Folder

# Names that transfer clients and editors give to files they are still writing: never candidates.
_TEMPORARY_STARTS = (".", "~", "#")
_TEMPORARY_ENDS = (
    ".filepart", ".part", ".partial", ".tmp", ".temp", ".uploading", ".crdownload", ".swp", ".lock", ".bak", "~",
)  # fmt: skip
_UUID_END = re.compile(r"-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")  # Cyberduck: x.csv-<uuid>

_GZIP = b"\x1f\x8b"

EMPTY_S = 30.0  # `touch x.csv`, then the upload 4 s later by another program (seen)
NO_LEASE_S = 30.0  # quiet time where the lease cannot say whether a writer is there
WRITER_S = (0.25, 5.0)  # how soon to look again while a writer has the file open
UNFIT_S = 60.0  # how soon to look again at something that is no acceptable file


def why_ignored(name: str, folder: Folder) -> str:
    """Why `name` is no candidate in `folder`, or an empty string when it is one."""
    lowered = name.lower()
    if lowered.startswith(_TEMPORARY_STARTS):
        return f"names that start with {name[0]!r} are temporary or hidden files"
    if lowered.endswith(_TEMPORARY_ENDS) or _UUID_END.search(lowered):
        return "the name is one that transfer clients give to unfinished files"
    for pattern in folder.ignore:
        if fnmatch.fnmatchcase(lowered, pattern.lower()):
            return f"the folder's `ignore` has {pattern!r}"
    if not any(fnmatch.fnmatchcase(lowered, pattern.lower()) for pattern in folder.include):
        return f"the folder's `include` allows only {', '.join(folder.include)}"
    return ""


@dataclass(frozen=True, slots=True)
class Look:
    """What one `stat` said; two looks that are equal mean that nothing moved in between."""

    dev: int
    ino: int
    size: int  # bytes
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int

    @classmethod
    def of(cls, st: os.stat_result) -> Look:
        return cls(st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns, st.st_mode, st.st_nlink)


@dataclass(frozen=True, slots=True)
class Probe:
    """What opening the file told. `writer` is None where nobody can tell; `ended` says: the last byte ends a line."""

    writer: bool | None
    ended: bool


def probe(fd: int, size: int, *, local: bool) -> Probe:
    """Ask the open file `fd` for a writer and for its last bytes. `local`: its file system knows every writer.

    The lease is given back at once: while it is held, a client's open() waits (vsftpd answers 553 and gives up).
    """
    writer: bool | None = None
    if local:
        held, writer = take_lease(fd)
        if held:
            drop_lease(fd)
    tail = os.pread(fd, 2, max(0, size - 2))
    ended = tail.endswith((b"\n", b"\r")) or tail in (b"\n\x00", b"\r\x00")  # the latter: UTF-16
    return Probe(writer, ended or os.pread(fd, 2, 0) == _GZIP)  # compressed files have no last line to look at


def take_lease(fd: int) -> tuple[bool, bool | None]:
    """(held, writer): whether we hold a read lease now, and whether somebody has the file open for writing.

    Needs CAP_LEASE for other people's files; without it, and where leases are unknown, writer is None.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return False, True if error.errno == errno.EAGAIN else None
    return True, False


def drop_lease(fd: int) -> None:
    """Give the lease on `fd` back."""
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@dataclass(slots=True)
class Candidate:
    """What is remembered of one name in one inbox; any scan can rebuild it."""

    first_seen: float
    quiet_since: float
    heard: bool = False  # an event told of it, so we know when it last moved
    look: Look | None = None
    writer_looks: int = 0  # in a row
    syncing: Look | None = None  # what it looked like when it began to be written out to disk, and when that had ended
    synced: Look | None = None

    def hear(self, now: float) -> None:
        """Something happened to the file: its quiet time starts again."""
        self.heard = True
        self.quiet_since = now
        self.writer_looks = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """The file may be claimed, if it still looks like `look`."""

    look: Look


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not yet; look again at `until`. `settling`: nothing but quiet time is missing."""

    until: float
    why: str
    settling: bool = False


@dataclass(frozen=True, slots=True)
class Unfit:
    """Not a file that we take over (a symlink, a pipe, a second link …); somebody has to remove it."""

    until: float
    why: str


def judge(
    candidate: Candidate, look: Look, folder: Folder, *, now: float, ask: Callable[[], Probe]
) -> Ready | Waiting | Unfit:
    """Whether the file is complete, by a fresh `look`. Updates `candidate`; calls `ask` (which opens the file) last."""
    if not stat.S_ISREG(look.mode):
        return Unfit(now + UNFIT_S, f"not a regular file but {_kind(look.mode)}")
    if candidate.look is not None and candidate.look != look:
        candidate.quiet_since = now  # it moved between two looks, whatever the events said (network mounts say nothing)
    candidate.look = look
    quiet = now - candidate.quiet_since

    def until(need: float) -> float:
        return candidate.quiet_since + need

    settle = folder.settle if candidate.heard else max(folder.settle, folder.settle_unseen)
    if quiet < settle:
        return Waiting(until(settle), f"it must be quiet for {settle:g} s", settling=True)
    if look.size == 0 and quiet < EMPTY_S:
        return Waiting(until(EMPTY_S), "it is empty; some programs make the name first and the content later")
    if look.nlink > 1:
        if now - candidate.first_seen < folder.settle_unseen + settle:
            return Waiting(now + 1.0, "it has a second link; some servers rename that way")
        return Unfit(now + UNFIT_S, f"it has {look.nlink} links: whoever holds another could change it under our hands")
    found = ask()
    if found.writer:
        candidate.quiet_since = now
        candidate.writer_looks += 1
        again = min(WRITER_S[1], WRITER_S[0] * 2 ** min(candidate.writer_looks, 8))
        return Waiting(now + again, "a program still has it open for writing")
    if candidate.writer_looks:
        # It was let go since the last look, nobody knows when: events may be missing, so its quiet time starts here.
        candidate.writer_looks, candidate.quiet_since = 0, now
        return Waiting(until(settle), f"it must be quiet for {settle:g} s", settling=True)
    if found.writer is None and quiet < NO_LEASE_S:
        why = f"nobody can tell whether a writer has it open, so it must be quiet for {NO_LEASE_S:g} s"
        return Waiting(until(NO_LEASE_S), why, settling=True)
    if not found.ended and look.size:
        return _tail(folder, quiet, until(folder.hold_tail), now) or Ready(look)
    return Ready(look)


def _tail(folder: Folder, quiet: float, until: float, now: float) -> Waiting | None:
    if folder.final_newline == "required":
        return Waiting(now + UNFIT_S, "its last line has no end, and the folder requires one")
    if quiet < folder.hold_tail:
        why = f"its last line has no end, so it may be cut off; taken after {folder.hold_tail:g} s of quiet"
        return Waiting(until, why)
    return None


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "something unknown")
