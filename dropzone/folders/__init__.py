"""The layout on disk and its atomicity: look into inboxes, claim, prepare, file, bring back.

    {base}/inbox/FOLDER/NAME                                what the partner sees and writes
    {base}/work/ID/original, origin, marker, prepared.csv, rejects.csv, log      ours alone, mode 0700
    {base}/done|failed/FOLDER/2026-11-22/STEM.ID.csv  + STEM.ID.log  (+ STEM.ID.rejects.csv)

The folders alone say where the bytes are. What was promised to the server stands in the ledger, of which this module
knows nothing. Its invariants:

- the original is never altered, copied or deleted, only renamed, and no rename ever replaces anything;
- partners are hostile: names are bytes, every open is `O_NOFOLLOW` relative to a directory descriptor that was itself
  opened component by component, decisions are taken on the open descriptor and compared again after the rename;
- every method may be cut off anywhere and run again.

`origin` is a symbolic link that points nowhere: its target is ``FOLDER/NAME``. One call makes it, it survives like any
directory entry, and `ls -l` shows it; so a file that lost its ledger still knows where it came from.

`step` is called right before each effect with a name for it. It does nothing; the crash tests die in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import stat
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dropzone import readiness
from dropzone.drop import Drop, is_id
from dropzone.errors import FolderError
from dropzone.folders import filing, layout
from dropzone.folders.filing import ToFile, clear, move
from dropzone.folders.inbox import Inbox, faults_of, opened_inbox, read_marker
from dropzone.folders.system import (
    CREATE,
    OPEN_DIR,
    OPEN_FILE,
    Opened,
    look_at,
    opened_at,
    opened_file,
    opened_path,
    rename,
    sync_all,
    translated,
)
from dropzone.places import (
    CHECKS,
    LOG,
    MARKER,
    ORIGIN,
    ORIGINAL,
    PREPARED,
    REJECTS,
    where_is,
    without_extension,
    work_of,
)
from dropzone.readiness import Look, Seen, marker_name
from dropzone.values import value

if TYPE_CHECKING:  # the models are slow to load
    from dropzone.config import Config, Folder

MARK = ".ledger"  # in work/: which ledger knows the drops in it


@value
class Wanted:
    """A file that is ready: it is to be the drop `id` if it, and its marker, still look like `seen`."""

    id: str
    name: bytes
    seen: Seen


@value
class Claim:
    """A file that was renamed into work/ID and is ours from here on."""

    id: str
    folder: str
    name: bytes
    size: int
    base: Path
    touched: bool = False  # an adopted one that was checked before, and perhaps sent: its row was lost later


@dataclass(slots=True)
class Bench:
    """The open files of one check: the original to read, the prepared copy and the rejects to write."""

    source: BinaryIO
    prepared: Digesting
    rejects: Rejects
    before: Look
    scratch: str  # where temporary files may lie: beside the file, not in a /tmp that may be memory
    marker: bytes | None = None  # the text of the marker that was claimed with the file

    def disturbed(self) -> str:
        """Why the original cannot be trusted yet (a client still writes to it, or did meanwhile), or an empty string.

        A writer keeps its descriptor through our rename: 52 MB arrived 24 s after a claim (seen, sftp on a bad line).
        """
        fd = self.source.fileno()
        held, writer = readiness.take_lease(fd)
        if held:
            readiness.drop_lease(fd)
        if writer:
            return "a client still has the file open for writing"
        return "" if Look.of(os.fstat(fd)) == self.before else "the file changed while it was read"

    def misfit(self, kind: str) -> str:
        """Why the claimed bytes are not what their checksum of this `kind` (``.sha256`` …) says; empty where they are.

        It fitted before the claim, but a client that writes on after it changes what was tested.
        """
        if self.marker is None or kind in ("none", ".done"):
            return ""
        return readiness.misfit(self.source.fileno(), self.marker, kind)


class Digesting:
    """A binary writer that counts and digests what goes through it (SHA-256: `digest` in hexadecimal)."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> int:
        self._hash.update(piece)
        self.size += len(piece)
        return self._raw.write(piece)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class Rejects:
    """Where bad rows go. The file is made with the first of them: most files have none, and making one is not free."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self.file: BinaryIO | None = None
        with contextlib.suppress(FileNotFoundError):  # of an earlier check
            os.unlink(REJECTS, dir_fd=directory)

    def write(self, piece: bytes) -> int:
        if self.file is None:
            self.file = opened_file(REJECTS, CREATE, self._directory, "wb")
        return self.file.write(piece)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


@value
class Mark:
    """The ledger that knows what lies in a work/: its identity, and the number of an event that it had by then.

    One that lacks that event is an older copy, put in its place.
    """

    ledger: str = ""
    written: int = 0

    def is_of_another(self, ledger: str) -> bool:
        """Whether some ledger knew it, and not this one."""
        return self.ledger not in ("", ledger)

    def is_ahead_of(self, ledger: str, written: int) -> bool:
        """Whether this ledger knew it, and was further then than it is now."""
        return self.ledger == ledger and self.written > written


class Folders:
    """All that happens on disk to drops. Thread-safe: one drop is only ever in one thread's hands."""

    def __init__(self, *, step: Callable[[str], None] = lambda name: None) -> None:
        self._step = step
        # A writer that opens a file while we hold its lease makes the kernel send SIGIO, whose default kills us (seen).
        with contextlib.suppress(ValueError):  # not in the main thread: whoever is there has done it
            signal.signal(signal.SIGIO, signal.SIG_IGN)

    # ------------------------------------------------------------------------------------------------- lay out

    def lay_out(self, config: Config, *, inboxes: bool, occupied: Container[Path] = ()) -> list[Path]:
        """Make the directories that are missing, with their modes; see `layout.lay_out`."""
        return layout.lay_out(config, inboxes=inboxes, occupied=occupied)

    def find_fault(self, folder: Folder) -> FolderError | None:
        """What keeps `folder` from working, with its mend, or None; see `layout.find_fault`."""
        return layout.find_fault(folder)

    # ------------------------------------------------------------------------------------------------- look in

    @contextlib.contextmanager
    def inbox(self, folder: Folder) -> Iterator[Inbox]:
        """The inbox of `folder`, open for looking. Raises FolderError when it is not there, or not a folder."""
        with opened_inbox(folder) as inbox:
            yield inbox

    def names(self, folder: Folder) -> list[bytes]:
        """The names in the inbox of `folder`, in no order. Raises FolderError when it cannot be listed."""
        with opened_inbox(folder) as inbox:
            return inbox.names()

    def look(self, folder: Folder, name: bytes) -> Look | None:
        """What `name` looks like now, without following links; None when it is gone."""
        with opened_inbox(folder) as inbox:
            return inbox.look(name)

    # --------------------------------------------------------------------------------------------------- claim

    def claim(self, folder: Folder, ready: Sequence[Wanted]) -> tuple[list[Claim], list[tuple[bytes, FolderError]]]:
        """Take over the files `ready` by one rename each into work/ID, with their markers; durable on return.

        A file that is gone or looks different by now is left alone without a word. Returns the claims, and name
        and error of each file that could not be taken. Several at once share the directory syncs.
        """
        claims: list[Claim] = []
        faults: list[tuple[bytes, FolderError]] = []
        with opened_inbox(folder) as inbox, self._work(folder.base) as work, contextlib.ExitStack() as stack:
            files: list[tuple[int, Wanted]] = []
            for wanted in ready:
                with _faults_to(faults, inbox, wanted.name):
                    if (fd := _open_candidate(inbox.fd, wanted.name)) is not None:
                        stack.callback(os.close, fd)
                        self._step("claim: sync file")
                        files.append((fd, wanted))
            # A file nobody fsynced is 0 bytes long after a power cut, even renamed and listed (seen).
            synced = sync_all([fd for fd, _ in files])
            directories: list[int] = []
            for (fd, wanted), error in zip(files, synced, strict=True):
                with _faults_to(faults, inbox, wanted.name):
                    if error is not None:
                        raise error
                    if (directory := self._claim_one(inbox, work, fd, wanted)) is not None:
                        stack.callback(os.close, directory)
                        directories.append(directory)
                        size = wanted.seen.file.size
                        claim = Claim(id=wanted.id, folder=folder.name, name=wanted.name, size=size, base=folder.base)
                        claims.append(claim)
            with translated("sync", folder.path):
                # The targets first, then the source: if we die here, a power cut may keep the old name, the new one
                # or both, but never neither. With nothing claimed there is nothing to sync.
                for fds in ([*directories, work], [inbox.fd]) if claims else ():
                    self._step("claim: sync folder")
                    for error in filter(None, sync_all(fds)):
                        raise error
        return claims, faults

    def _claim_one(self, inbox: Inbox, work: int, fd: int, wanted: Wanted) -> int | None:
        """The open directory work/ID with the file `fd` in it, or None when the name is not that of the look any more.

        The marker goes first. If we die between the two, the next start puts it back (see `orphans`); the other way
        round it would stay behind and make the next file of that name ready before it is whole.
        """
        self._step("claim: make work/ID")
        os.mkdir(wanted.id, 0o700, dir_fd=work)  # if we die here: an empty work/ID, removed at the next start
        directory = os.open(wanted.id, OPEN_DIR, dir_fd=work)
        try:
            self._step("claim: write origin")
            os.symlink(os.fsencode(inbox.folder.name) + b"/" + wanted.name, ORIGIN, dir_fd=directory)
            if self._take_marker(inbox, wanted, directory) and self._rename_claimed(fd, inbox.fd, wanted, directory):
                return directory
        except OSError:
            self._give_up(inbox, wanted.name, work, wanted.id, directory)
            os.close(directory)
            raise
        self._give_up(inbox, wanted.name, work, wanted.id, directory)
        os.close(directory)
        return None

    def _take_marker(self, inbox: Inbox, wanted: Wanted, directory: int) -> bool:
        """Move the marker that was seen into work/ID; False when it is gone, or another one."""
        name = marker_name(wanted.name, inbox.folder)
        if name is None or wanted.seen.marker is None:
            return True
        self._step("claim: rename marker")
        try:
            rename(inbox.fd, name, directory, MARKER)
        except FileNotFoundError:
            return False
        moved = look_at(directory, MARKER.encode())
        if moved is None or (moved.dev, moved.ino) != (wanted.seen.marker.dev, wanted.seen.marker.ino):
            return False
        if inbox.folder.marker != ".done":  # its text is read again with the claimed bytes, perhaps after a power cut
            with opened_at(MARKER, OPEN_FILE, directory) as fd:
                os.fsync(fd)
        return True

    def _give_up(self, inbox: Inbox, name: bytes, work: int, id: str, directory: int) -> None:
        """Clear work/ID after a claim that was not made; the marker goes back, unless a new one is there by now."""
        marker = marker_name(name, inbox.folder)
        if marker is not None and look_at(directory, MARKER.encode()) is not None:
            try:
                rename(directory, MARKER, inbox.fd, marker)
            except FileExistsError:
                os.unlink(MARKER, dir_fd=directory)
            except OSError:  # the inbox refuses: it stays in work/ID, and the next start tries again
                return
        clear(work, id, directory)

    def _rename_claimed(self, fd: int, inbox: int, wanted: Wanted, directory: int) -> bool:
        """Rename exactly the open file `fd`; the lease keeps new writers waiting for the microseconds this takes."""
        look = wanted.seen.file
        held, writer = readiness.take_lease(fd)
        try:
            if writer or Look.of(os.fstat(fd)) != look:
                return False
            self._step("claim: rename")
            try:
                # The rename is the decision. If we die after it, the next start adopts what lies in work/ID.
                rename(inbox, wanted.name, directory, ORIGINAL)
            except FileNotFoundError:
                return False
            moved = look_at(directory, ORIGINAL.encode())
            if moved is None or (moved.dev, moved.ino) != (look.dev, look.ino):
                # Swapped between our look and our rename. It is not what we judged: back where it was.
                rename(directory, ORIGINAL, inbox, wanted.name)
                return False
            return True
        finally:
            if held:
                readiness.drop_lease(fd)

    def orphans(
        self, base: Path, known: Callable[[str], bool], folder_of: Callable[[str], Folder | None] = lambda name: None
    ) -> list[Claim]:
        """Files in work/ that no drop is `known` for: we died between the rename and the row.

        Removes empty remains. A marker whose file was not renamed any more goes back to the inbox of its `folder_of`.
        """
        found: list[Claim] = []
        with self._work(base) as work:
            for id in sorted(os.listdir(work)):
                if not is_id(id) or known(id):
                    continue
                with translated("adopt", base / "work" / id), opened_at(id, OPEN_DIR, work) as directory:
                    try:
                        origin = os.readlink(os.fsencode(ORIGIN), dir_fd=directory)
                    except OSError:  # a power cut may keep the later of two changes only
                        origin = b"/unknown.csv"
                    folder, _, name = origin.partition(b"/")
                    look = look_at(directory, ORIGINAL.encode())
                    if look is None or not stat.S_ISREG(look.mode):
                        self._put_back(folder_of(os.fsdecode(folder)), name, work, id, directory)
                        continue
                    touched = any(look_at(directory, each.encode()) for each in (PREPARED, REJECTS, LOG, CHECKS))
                    found.append(
                        Claim(id=id, folder=os.fsdecode(folder), name=name, size=look.size, base=base, touched=touched)
                    )
        return found

    def _put_back(self, folder: Folder | None, name: bytes, work: int, id: str, directory: int) -> None:
        if look_at(directory, MARKER.encode()) is None:
            clear(work, id, directory)
        elif folder is not None:  # else somebody removed it from the configuration: kept until it comes back
            with contextlib.suppress(FolderError), opened_inbox(folder) as inbox:
                self._give_up(inbox, name, work, id, directory)

    def read_mark(self, base: Path) -> Mark:
        """Which ledger work/ belongs to; the empty mark where none was written down."""
        with self._work(base) as work, translated("read", base / "work" / MARK):
            try:
                with opened_file(MARK, OPEN_FILE, work) as mark:
                    ledger, _, written = mark.read(100).decode("ascii", "replace").strip().partition(" ")
            except FileNotFoundError:
                return Mark()
        return Mark(ledger=ledger, written=int(written) if written.isdecimal() else 0)

    def write_mark(self, base: Path, wanted: Mark) -> None:
        """Write down which ledger knows what lies in work/, and how far it was; atomic and durable."""
        with self._work(base) as work, translated("write", base / "work" / MARK):
            with opened_file(MARK + ".new", CREATE, work, "wb") as mark:
                mark.write(f"{wanted.ledger} {wanted.written}\n".encode())
                mark.flush()
                os.fsync(mark.fileno())
            self._step("mark: rename")
            os.rename(MARK + ".new", MARK, src_dir_fd=work, dst_dir_fd=work)
            os.fsync(work)

    # ----------------------------------------------------------------------------------------- check and prepare

    @contextlib.contextmanager
    def bench(self, drop: Drop) -> Iterator[Bench]:
        """The open files for checking `drop`; what the check writes may be thrown away and made again at any time."""
        with (
            translated("prepare", work_of(drop)),
            opened_path(work_of(drop)) as directory,
            opened_file(ORIGINAL, OPEN_FILE, directory) as source,
            opened_file(PREPARED, CREATE, directory, "wb") as prepared,
            contextlib.closing(Rejects(directory)) as rejects,
        ):
            before = Look.of(os.fstat(source.fileno()))
            marker = read_marker(directory, MARKER.encode()) if look_at(directory, MARKER.encode()) else None
            yield Bench(source, Digesting(prepared), rejects, before, work_of(drop), marker)
            # The row that announces the attempt names this copy's digest, so it has to be there after a power cut.
            self._step("prepare: sync prepared copy")
            prepared.flush()
            os.fsync(prepared.fileno())
            if rejects.file is not None:
                self._step("prepare: sync rejects")
                rejects.file.flush()
                os.fsync(rejects.file.fileno())

    def begin_check(self, drop: Drop) -> int:
        """Note on disk that a check starts; returns how many earlier ones were started and never ended.

        A file that kills the program which reads it must not do so for ever: see `end_check`.
        """
        with translated("prepare", work_of(drop)), opened_path(work_of(drop)) as directory:
            fd = os.open(CHECKS, (CREATE | os.O_APPEND) & ~os.O_TRUNC, 0o600, dir_fd=directory)
            try:
                unfinished = os.fstat(fd).st_size
                os.write(fd, b".")
            finally:
                os.close(fd)
        return unfinished

    def end_check(self, drop: Drop) -> None:
        """The check ended, well or badly, but not by killing us."""
        with translated("prepare", work_of(drop)), opened_path(work_of(drop)) as directory:
            if look_at(directory, CHECKS.encode()):
                os.unlink(CHECKS, dir_fd=directory)

    @contextlib.contextmanager
    def prepared(self, drop: Drop) -> Iterator[tuple[BinaryIO, int]]:
        """The prepared copy, open for reading, and its size in bytes."""
        with (
            translated("read", work_of(drop)),
            opened_path(work_of(drop)) as directory,
            opened_file(PREPARED, OPEN_FILE, directory) as payload,
        ):
            yield payload, os.fstat(payload.fileno()).st_size

    # ---------------------------------------------------------------------------------------------- file, return

    def file_all(self, drops: Sequence[ToFile]) -> list[str | FolderError]:
        """File each, with syncs that they share; returns for each its path relative to its base, or what is wrong.

        The log comes first, so that a file in done/ always has its log. May be cut off anywhere and run again.
        """
        return filing.file_all(drops, self._step)

    def bring_back(self, drop: Drop) -> None:
        """Bring a drop that is tried again back from failed/ into work/ID; its old log goes, the ledger has it all.

        May be cut off anywhere and run again, also when it is back and its date folder has gone since.
        """
        filed = Path(drop.base) / (drop.path or "")
        if not drop.path or not os.path.lexists(filed.parent):
            return
        stem = without_extension(filed.name)
        with translated("bring back", filed), self._work(Path(drop.base)) as work:
            with contextlib.suppress(FileExistsError):
                self._step("bring back: make work/ID")
                os.mkdir(drop.id, 0o700, dir_fd=work)
            with opened_at(drop.id, OPEN_DIR, work) as directory, opened_path(filed.parent) as source:
                with contextlib.suppress(FileExistsError):
                    self._step("bring back: write origin")
                    os.symlink(os.fsencode(drop.folder) + b"/" + drop.name, ORIGIN, dir_fd=directory)
                self._step("bring back: move original")
                move(source, filed.name, directory, ORIGINAL)
                os.fsync(directory)
                os.fsync(work)
                for old in (f"{stem}.log", f"{stem}.rejects.csv"):
                    with contextlib.suppress(FileNotFoundError):
                        self._step("bring back: remove old log")
                        os.unlink(old, dir_fd=source)
                os.fsync(source)

    def look_at_original(self, drop: Drop) -> Look | None:
        """What the original of `drop` looks like in work/ID; None when it is not there."""
        with translated("look at", work_of(drop)):
            try:
                with opened_path(work_of(drop)) as directory:
                    return look_at(directory, ORIGINAL.encode())
            except FileNotFoundError:
                return None

    def is_gone(self, drop: Drop) -> bool:
        """Whether the original of `drop` is in none of its places, and work/ is there to tell.

        Raises FolderError where work/ is away or cannot be read: that says nothing of the files on it.
        """
        if where_is(drop) is not None:
            return False
        with self._work(Path(drop.base)) as work, translated("look for", work_of(drop)):
            return look_at(work, f"{drop.id}/{ORIGINAL}".encode()) is None

    # ------------------------------------------------------------------------------------------------- internals

    def _work(self, base: Path) -> Opened:
        with translated("open", base / "work", layout.NO_WORK):
            return opened_path(f"{base}/work")


# ------------------------------------------------------------------------------------------------------- claims


def _open_candidate(inbox: int, name: bytes) -> int | None:
    try:
        return os.open(name, OPEN_FILE, dir_fd=inbox)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # gone, or swapped for a link: somebody else was first
            return None
        raise


@contextlib.contextmanager
def _faults_to(faults: list[tuple[bytes, FolderError]], inbox: Inbox, name: bytes) -> Iterator[None]:
    """What fails inside is a fault of the file `name`, and the other files go on."""
    try:
        with faults_of(inbox.folder, name, "take", inbox.fd):
            yield
    except FolderError as fault:
        faults.append((name, fault))
