"""When a file in an inbox is complete: the rule, and the memory of a candidate that the rule needs.

Knows names, looks (what `stat` says), markers, quiet time, open writers and last bytes. Knows no paths and takes
nothing over: `folders` opens the files, `intake` decides when to look again.

No local test can tell a finished upload from one that was cut off under its final name: a killed client closes the
file just like a happy one. What was recorded with 89 real client scenarios, and what each line below answers:

- claiming at the first close took 18 unfinished files: clients close and reopen, so a file must be *quiet* first;
- quiet time alone is no rule (a healthy upload paused 27 s after a 15 s network outage): nobody may have it open for
  writing, which a read lease tells in two microseconds, even for shared mappings and writers in other containers;
- 98 % of the files that were cut end in mid-line: the last byte must be a newline, or the file waits `hold_tail`;
  a packed file says exactly where it ends, so it is read to there;
- size and mtime say nothing by themselves (preallocation; `put -p` brings the sender's old time), so they are only
  ever compared with what they were at the last look, never with our clock;
- link()+unlink() is how OpenSSH renames for SFTP v3: two links for a moment are normal, for longer they are a trap.

Where the folder asks for one, a marker (``x.csv.done``, or a checksum beside the file) says what no test can. It must
not be older than its file: one left over from yesterday's file of that name would make today's first half ready.

How long a file must be quiet (`_quiet_needed`), by what is known of it:

    a marker lies beside it                                                          0.5 s
    an event told when it last moved                                                 `settle`
    only a scan found it                                                             `settle_unseen`
    nobody can tell whether it is open (network mounts, no CAP_LEASE)                30 s, or `settle_unseen`
    the same, and it was seen growing without a close since                          600 s
    it is empty                                                                      30 s
    its last line has no end                                                         `hold_tail`

Times are seconds of a monotonic clock, so that nobody who sets the wall clock can hurry or stop a file.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import hashlib
import os
import re
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
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
_UTF_16 = {b"\xff\xfe": (b"\n\x00", b"\r\x00"), b"\xfe\xff": (b"\x00\n", b"\x00\r")}  # its mark, its line ends

MARKER_S = 0.5  # quiet time where a marker says that the file is whole
EMPTY_S = 30.0  # `touch x.csv`, then the upload 4 s later by another program (seen)
NO_LEASE_S = 30.0  # quiet time where the lease cannot say whether a writer is there
OPEN_S = 600.0  # the same, where it was seen growing and no close was heard of: most likely it is open
WRITER_S = (0.25, 5.0)  # how soon to look again while a writer has the file open
UNFIT_S = 60.0  # how soon to look again at something that is no acceptable file, or that only a person can help
ENDLESS_S = 86_400.0  # a file that comes in for longer is reported even if it grows all the time

SYNC_ASIDE = 4 << 20  # bytes; claiming syncs a file, and 200 MB of it kept all other files waiting for seconds (seen)
READ_BYTES = 1 << 20
MARKER_BYTES = 4096  # no checksum file is longer


# ------------------------------------------------------------------------------------------------------- names


def is_temporary(name: str) -> bool:
    """Whether `name` is one that clients give to files they are still writing, or a hidden one."""
    lowered = name.lower()
    return lowered.startswith(_TEMPORARY_STARTS) or lowered.endswith(_TEMPORARY_ENDS) or bool(_UUID_END.search(lowered))


def why_ignored(name: str, folder: Folder) -> str:
    """Why `name` is no candidate in `folder`, or an empty string when it is one."""
    lowered = name.lower()
    if lowered.startswith(_TEMPORARY_STARTS):
        return f"names that start with {name[0]!r} are temporary or hidden files"
    if is_temporary(name):
        return "the name is one that transfer clients give to unfinished files"
    if marked_name(os.fsencode(name), folder) is not None:
        return "it is the marker of another file, and goes with it"
    for pattern in folder.ignore:
        if fnmatch.fnmatchcase(lowered, pattern.lower()):
            return f"the folder's `ignore` has {pattern!r}"
    if not any(fnmatch.fnmatchcase(lowered, pattern.lower()) for pattern in folder.include):
        return f"the folder's `include` allows only {', '.join(folder.include)}"
    return ""


def marker_name(name: bytes, folder: Folder) -> bytes | None:
    """The name of the marker that `folder` wants beside the file `name`, or None where it wants none."""
    return None if folder.marker == "none" else name + folder.marker.encode()


def marked_name(name: bytes, folder: Folder) -> bytes | None:
    """The name of the file that `name` is the marker of in `folder`, or None where it is no marker."""
    if folder.marker == "none" or not name.endswith(folder.marker.encode()):
        return None
    return name.removesuffix(folder.marker.encode()) or None


# ------------------------------------------------------------------------------------------------------- looks


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
class Seen:
    """A file as it looks, and its marker where it has one and the folder wants one."""

    file: Look
    marker: Look | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """What opening the file told. `writer` is None where nobody can tell; `ended` says: the last byte ends a line.

    `ended` is None for packed files: whether they are whole is known only once they were read to their end.
    """

    writer: bool | None
    ended: bool | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading the file to its end told: `whole` is False for a packed one that is cut off.

    `misfit` says why the file is not the one that its checksum speaks of, empty where it is, or where it has none.
    """

    seen: Seen
    whole: bool = True
    misfit: str = ""


def probe(fd: int, size: int, *, local: bool) -> Probe:
    """Ask the open file `fd` for a writer and for its last bytes. `local`: its file system knows every writer.

    The lease is given back at once: while it is held, a client's open() waits (vsftpd answers 553 and gives up).
    """
    writer: bool | None = None
    if local:
        held, writer = take_lease(fd)
        if held:
            drop_lease(fd)
    head, tail = os.pread(fd, 2, 0), os.pread(fd, 2, max(0, size - 2))
    if head == _GZIP:
        return Probe(writer, None)
    if (ends := _UTF_16.get(head)) is not None:
        return Probe(writer, size % 2 == 0 and tail in ends)  # an odd size is half a character
    return Probe(writer, tail.endswith((b"\n", b"\r")))


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


# ----------------------------------------------------------------------------------------------- read to the end


def read(fd: int, seen: Seen, marker: bytes, folder: Folder) -> Reading:
    """Read the open file `fd` as far as `folder` wants to know what only its content tells. `marker` is its text."""
    found = probe(fd, seen.file.size, local=False)
    if not _is_content_asked(seen.file, found, folder):
        return Reading(seen)
    if folder.marker != "none":
        return Reading(seen, misfit=misfit(fd, marker, folder.marker))
    return Reading(seen, whole=_is_packed_whole(fd, max_bytes=folder.guards.max_bytes))


def _is_packed_whole(fd: int, *, max_bytes: int) -> bool:
    """Whether the gzip stream in the open file `fd` has its end. Reads all of it.

    One that is damaged, or unpacks to more than `max_bytes`, counts as whole: that is for the check to say.
    """
    position, unpacked = 0, 0
    member = zlib.decompressobj(wbits=31)
    while piece := os.pread(fd, READ_BYTES, position):
        position += len(piece)
        while piece:
            if member.eof:  # another stream may follow in one file, and what else follows is no part of it
                if not piece.startswith(_GZIP[: len(piece)]):
                    return True
                member = zlib.decompressobj(wbits=31)
            try:
                unpacked += len(member.decompress(piece, READ_BYTES))
            except zlib.error:
                return True
            if unpacked > max_bytes:
                return True
            piece = member.unused_data if member.eof else member.unconsumed_tail
    return member.eof


def misfit(fd: int, marker: bytes, kind: str) -> str:
    """Why the content of the open file `fd` is not what the checksum in `marker` speaks of; empty where it is.

    `marker` is the text of a file as `sha256sum` or `md5sum` write it, or the bare digits; `kind` is ``.sha256`` or
    ``.md5``. Reads all of `fd`.
    """
    algorithm = kind.removeprefix(".")
    wanted = _checksum(marker, algorithm)
    if wanted is None:
        return f"its {kind} file does not hold one {algorithm.upper()} checksum"
    digest, position = hashlib.new(algorithm, usedforsecurity=False), 0
    while piece := os.pread(fd, READ_BYTES, position):
        digest.update(piece)
        position += len(piece)
    found = digest.hexdigest()
    if found == wanted:
        return ""
    return f"its {algorithm.upper()} is {found[:12]}…, but its {kind} file says {wanted[:12]}…"


def _checksum(marker: bytes, algorithm: str) -> str | None:
    """The one checksum in `marker`, in lower case."""
    digits = hashlib.new(algorithm, usedforsecurity=False).digest_size * 2
    found = {match.lower() for match in re.findall(rb"(?<![0-9A-Za-z])[0-9A-Fa-f]+(?![0-9A-Za-z])", marker)}
    fitting = [match.decode() for match in found if len(match) == digits]
    return fitting[0] if len(fitting) == 1 else None


# ------------------------------------------------------------------------------------------------------ verdicts


@dataclass(frozen=True, slots=True)
class Ready:
    """The file may be claimed, if it and its marker still look like `seen`."""

    seen: Seen


@dataclass(frozen=True, slots=True)
class Waiting:
    """Not yet; look again at `until`. `settling`: nothing but quiet time is missing.

    `overdue`: it has been waited for so long that somebody should know.
    """

    until: float
    why: str
    settling: bool = False
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Unread:
    """Quiet and closed, but what takes long has to be done first: reading it to its end, writing it out to disk.

    See `Candidate.reading`.
    """

    seen: Seen


@dataclass(frozen=True, slots=True)
class Unfit:
    """Not a file that we take over (a symlink, a pipe, a second link …); somebody has to remove it."""

    until: float
    why: str


Verdict = Ready | Waiting | Unread | Unfit


@dataclass(slots=True)
class Candidate:
    """What is remembered of one name in one inbox; any scan can rebuild it."""

    first_seen: float
    quiet_since: float
    still_since: float = 0.0  # when its looks last differed
    heard: bool = False  # an event told of it, so we know when it last moved
    growing: bool = False  # it was seen growing, and nobody was heard to close it since
    closed: bool = False  # a close, or a finished rename, was heard of since the last look
    writer_looks: int = 0  # in a row
    seen: Seen | None = None
    reading: Reading | None = None
    busy_with: Seen | None = None  # what it looked like when reading it began
    verdict: Waiting | Unfit | None = None  # of the last look

    @classmethod
    def found(cls, now: float) -> Candidate:
        """A name that was not known before `now`."""
        return cls(first_seen=now, quiet_since=now, still_since=now)

    @classmethod
    def calm(cls, folder: Folder, now: float) -> Candidate:
        """One that has been quiet for as long as any file is waited for, but not for a missing rest (`hold_tail`).

        So judged, a file that nobody remembers shows what it lacks beside quiet time.
        """
        since = now - max(folder.settle, folder.settle_unseen, NO_LEASE_S, EMPTY_S)
        return cls(first_seen=since, quiet_since=since, still_since=now)

    def hear(self, now: float, *, closed: bool = False) -> None:
        """Something happened to the file: its quiet time starts again. `closed`: whoever wrote it has closed it."""
        self.heard = True
        self.closed = self.closed or closed
        self.quiet_since = now
        self.writer_looks = 0

    def see(self, seen: Seen, now: float) -> None:
        """Compare with the last look: whatever the events said (network mounts say nothing), a difference counts."""
        if self.seen is not None and self.seen != seen:
            self.quiet_since = self.still_since = now
            was, now_is = self.seen.file, seen.file
            written = (was.size, was.mtime_ns) != (now_is.size, now_is.mtime_ns)  # not a mere chmod
            self.growing = self.growing or (self.heard and written)
        if self.closed:
            self.closed = self.growing = False
        self.seen = seen


def judge(candidate: Candidate, seen: Seen, folder: Folder, *, now: float, ask: Callable[[], Probe]) -> Verdict:
    """Whether the file is complete, as it is now `seen`. Updates `candidate`; calls `ask` (which opens the file) last.

    Whoever gets `Unread` puts a `Reading` into the candidate and asks again.
    """
    if not stat.S_ISREG(seen.file.mode):
        return Unfit(now + UNFIT_S, f"not a regular file but {_kind(seen.file.mode)}")
    candidate.see(seen, now)
    verdict = _judge(candidate, seen, folder, now, ask)
    return _with_alarm(verdict, candidate, folder, now) if isinstance(verdict, Waiting) else verdict


def _judge(candidate: Candidate, seen: Seen, folder: Folder, now: float, ask: Callable[[], Probe]) -> Verdict:
    look = seen.file
    if folder.marker != "none" and (lacking := _lacks_marker(seen, folder, now)):
        return lacking
    settling = _settling(candidate, _settle(candidate, folder), now)
    if settling is not None and not candidate.writer_looks:  # else ask first whether the writer is still there
        return settling
    if look.size == 0 and (waiting := _empty(candidate, folder, now)) is not None:
        return waiting
    if look.nlink > 1:
        if now - candidate.first_seen < folder.settle_unseen + folder.settle:
            return Waiting(now + 1.0, "it has a second link; some servers rename that way")
        return Unfit(now + UNFIT_S, f"it has {look.nlink} links: whoever holds another could change it under our hands")
    found = ask()
    if (waiting := _writer(candidate, found, folder, now)) is not None:
        return waiting
    if _must_be_read(look, found, folder) and (candidate.reading is None or candidate.reading.seen != seen):
        return Unread(seen)
    return _lacks_rest(candidate, found, folder, now) or Ready(seen)


def _settle(candidate: Candidate, folder: Folder) -> float:
    if folder.marker != "none":
        return min(MARKER_S, folder.settle)
    return folder.settle if candidate.heard else max(folder.settle, folder.settle_unseen)


def _settling(candidate: Candidate, need: float, now: float, why: str = "") -> Waiting | None:
    if now - candidate.quiet_since >= need:
        return None
    return Waiting(candidate.quiet_since + need, f"{why}it must be quiet for {need:g} s", settling=True)


def _lacks_marker(seen: Seen, folder: Folder, now: float) -> Waiting | Unfit | None:
    marker = seen.marker
    if marker is None:
        return Waiting(now + UNFIT_S, f"its marker, the same name and {folder.marker}, is not there")
    if not stat.S_ISREG(marker.mode):
        return Unfit(now + UNFIT_S, f"its marker is not a regular file but {_kind(marker.mode)}")
    # ctime, which nobody can set; both are the file system's, so our clock has no part in it. A checksum says by itself
    # which file it means. Clients that finish both at once may end them in either order, hence the leeway.
    if folder.marker == ".done" and marker.ctime_ns + folder.settle * 1e9 < seen.file.ctime_ns:
        why = f"its {folder.marker} marker is older than the file, so it may be left over from another"
        return Waiting(now + UNFIT_S, why)
    return None


def _empty(candidate: Candidate, folder: Folder, now: float) -> Waiting | None:
    if folder.empty == "ignore":
        return Waiting(now + UNFIT_S, "it is empty, and the folder leaves empty files where they are")
    if now - candidate.quiet_since < EMPTY_S:
        why = "it is empty; some programs make the name first and the content later"
        return Waiting(candidate.quiet_since + EMPTY_S, why)
    return None


def _writer(candidate: Candidate, found: Probe, folder: Folder, now: float) -> Waiting | None:
    """What to wait for because somebody has the file open, or may have."""
    if found.writer:
        candidate.quiet_since = now
        candidate.writer_looks += 1
        again = min(WRITER_S[1], WRITER_S[0] * 2 ** min(candidate.writer_looks, 8))
        return Waiting(now + again, "a program still has it open for writing")
    if candidate.writer_looks:
        # It was let go since the last look, nobody knows when: events may be missing, so its quiet time starts here.
        candidate.writer_looks, candidate.quiet_since = 0, now
        return _settling(candidate, _settle(candidate, folder), now)
    if found.writer is None and folder.marker == "none":
        need = OPEN_S if candidate.growing else max(NO_LEASE_S, folder.settle_unseen)
        return _settling(candidate, need, now, "nobody can tell whether a writer has it open, so ")
    return None


def _must_be_read(look: Look, found: Probe, folder: Folder) -> bool:
    return look.size > SYNC_ASIDE or _is_content_asked(look, found, folder)


def _is_content_asked(look: Look, found: Probe, folder: Folder) -> bool:
    """Whether only the whole content tells. Never of a file that the folder's limit will hold anyway."""
    if look.size > folder.guards.max_bytes or folder.marker == ".done":
        return False
    return folder.marker != "none" or found.ended is None


def _lacks_rest(candidate: Candidate, found: Probe, folder: Folder, now: float) -> Waiting | None:
    reading = candidate.reading
    if reading is not None and reading.misfit:
        return Waiting(now + UNFIT_S, f"{reading.misfit}: one of the two is not complete, or not what was meant")
    if folder.marker != "none":
        return None
    ended = (reading is None or reading.whole) if found.ended is None else found.ended
    assert candidate.seen is not None
    if ended or candidate.seen.file.size == 0:
        return None
    what = "its packed content has no end" if found.ended is None else "its last line has no end"
    if folder.final_newline == "required":
        return Waiting(now + UNFIT_S, f"{what}, and the folder requires one")
    if now - candidate.quiet_since < folder.hold_tail:
        why = f"{what}, so it may be cut off; taken after {folder.hold_tail:g} s of quiet"
        return Waiting(candidate.quiet_since + folder.hold_tail, why)
    return None


def _with_alarm(waiting: Waiting, candidate: Candidate, folder: Folder, now: float) -> Waiting:
    """Overdue once it has stood still for `stall_alert`, or has been coming in for a day; else to be looked at then."""
    if candidate.seen is not None and candidate.seen.file.size == 0 and folder.empty == "ignore":
        return waiting
    stalled, endless = candidate.still_since + folder.stall_alert, candidate.first_seen + ENDLESS_S
    if stalled <= now and not waiting.settling:
        why = f"not ready, and nothing came for {folder.stall_alert:g} s: {waiting.why}"
        return replace(waiting, overdue=True, why=why)
    if endless <= now:
        return replace(waiting, overdue=True, why=f"not ready after a day: {waiting.why}")
    return waiting if waiting.settling else replace(waiting, until=min(waiting.until, stalled, endless))


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
