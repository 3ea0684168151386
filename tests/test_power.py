"""Power cuts for real: the file system below the daemon loses all that nobody had made durable.

An ext4 file system in an image holds inboxes, work/, done/, failed/ and the ledger. In the middle of the work the
kernel is told to shut it down without writing its journal out (EXT4_IOC_SHUTDOWN): from that moment nothing reaches the
image any more, and what is only in memory is gone, like a machine whose plug was pulled. The daemon dies, the image is
mounted again, the journal is replayed, and the next daemon starts on what is left. Partners and OptiPub live outside.

What the daemon said in its journal was a promise, so it has to be in the ledger afterwards; and no partner of ours
syncs a file. That a cut bites at all show the controls: each takes one safety away from the program, and
must be caught.

What this cannot show is a disk that lies about its own cache. Root is needed, as for every mount.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from books import Books, assert_promise, come_to_rest, read_books
from nursery import Ears, Life, Nursery
from scene import KEY, assert_logs, make_scene
from server import Server
from soak import FACTOR, times

from dropzone.drop import FINISHED, Drop, State
from dropzone.errors import LedgerError
from dropzone.places import where_is

pytestmark = pytest.mark.usefixtures("untraced")

CUTS = times(6, soak=100)
CUTS_PER_DISK = 10
FOLDERS = """\
acme-signups: {segment_id: 1, mode: subscribe, source_campaign: 90, source_partner: 9}
acme-optouts: {segment_id: 2, mode: unsubscribe}
acme-leads: {segment_id: 3, mode: lead}
"""
FAST = "settle: 20ms, settle_unseen: 20ms, scan: 200ms, retry: {initial: 20ms, max: 100ms}"

# Nothing is written by itself: the kernel's timer for the journal would now and then hide that nobody had synced.
MOUNT = "loop,commit=3000,noauto_da_alloc"
IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
NOLOGFLUSH = 2


class Disk:
    """A file system whose power can be cut."""

    def __init__(self, place: Path) -> None:
        self.root = place / "disk"
        self.root.mkdir()
        self._image = place / "image"
        with self._image.open("wb") as image:
            image.truncate(64 << 20)
        _must("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._image)

    def mount(self) -> None:
        _must("mount", "-o", MOUNT, self._image, self.root)

    def unmount(self) -> None:
        # The kernel may still be letting go of what a program had open that has ended already.
        patience = time.monotonic() + 60
        while subprocess.run(["umount", self.root], capture_output=True, check=False).returncode:
            assert time.monotonic() < patience, f"{self.root} stays busy: {self._users()}"
        # A process that was started meanwhile with mounts of its own (`unshare --mount`) has a copy of this one. Until
        # it ends, the image mounted again would be the same file system, without power.
        while self._is_attached():
            assert time.monotonic() < patience, f"{self._image} stays mounted elsewhere"
            time.sleep(0.01)

    def _is_attached(self) -> bool:
        """Whether a loop device still has the image."""
        for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):  # it has just been detached
                if loop.read_text().rstrip("\n") == str(self._image):
                    return True
        return False

    def _users(self) -> list[str]:
        """Who has what open there, for the message."""
        found = []
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if (target := str(link.readlink())).startswith(str(self.root)):
                    found.append(f"{link}: {target}")
        return found

    def sync(self) -> None:
        """Make all of it durable: what was set up for the test is not what the test is about."""
        _must("sync", "--file-system", self.root)

    def cut(self) -> None:
        """From here on nothing is written any more; what is not on the image yet never will be."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(fd)


def _must(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture(scope="session")
def powerless() -> str:
    """Why no power can be cut here, or an empty string."""
    if os.geteuid() != 0:
        return "only root may mount a file system"
    if not shutil.which("mkfs.ext4"):
        return "mkfs.ext4 is not installed"
    with tempfile.TemporaryDirectory(prefix="dropzone-power-") as place:
        try:
            disk = Disk(Path(place))
            disk.mount()
        except AssertionError as refused:
            return f"no file system can be mounted here ({refused})"
        disk.unmount()
    return ""


@pytest.fixture
def place(powerless: str) -> Iterator[Path]:
    """Where images lie: in memory where there is some, because nothing there can outlive this machine anyway."""
    if powerless:
        pytest.skip(f"the power cannot be cut here: {powerless}")
    memory = Path("/dev/shm")  # noqa: S108
    found = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dropzone-power-", dir=found) as place:
        yield Path(place)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(KEY) as server:
        yield server


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


# ------------------------------------------------------------------------------------------------ a house with power


class House:
    """A disk with a scene on it, the journal's other end, and all that partners uploaded and the daemon promised."""

    def __init__(self, place: Path, server: Server, nursery: Nursery, *, before: str = "") -> None:
        self.disk = Disk(place)
        self.disk.mount()
        self.uploaded: dict[str, bytes] = {}
        self._server = server
        self._nursery = nursery
        self._before = before
        self._life: Life | None = None
        server.reset()
        self.scene = make_scene(self.disk.root, server.url, folders=FOLDERS, defaults=FAST)
        self.disk.sync()
        self._journal = place / "journal"
        self.ears = Ears(place / "pipe")

    def close(self) -> None:
        if self._life:
            self._life.kill()
        self.ears.close()
        self.disk.unmount()

    def start(self) -> Life:
        config = self.scene.at / "dropzone.yaml"
        self._life = self._nursery.start("-c", config, "run", journal=self.ears.path, before=self._before)
        return self._life

    # ------------------------------------------------------------------------------------------------ partners

    def upload(self, folder: str, *, renamed: bool = False) -> None:
        """A partner uploads a file of its own, and syncs nothing."""
        name = f"file-{len(self.uploaded):05}.csv"
        # Longer than what a file system keeps in the inode itself.
        rows = "".join(f"{name}-{n}@example.com,{n}\n" for n in range(40))
        self.uploaded[name] = f"email,varr_n\n{rows}".encode()
        inbox = self.scene.config.folders[folder].path
        if renamed:
            (inbox / f"{name}.part").write_bytes(self.uploaded[name])
            (inbox / f"{name}.part").rename(inbox / name)
        else:
            (inbox / name).write_bytes(self.uploaded[name])

    def upload_again(self, books: Books) -> None:
        """What never was taken over, the partners miss after the cut: they upload it once more."""
        taken = {drop.name.decode() for drop in books.drops}
        there = {path.name: path for path in (self.scene.config.root / "inbox").rglob("*.csv*")}
        orphans = [path.read_bytes() for path in (self.scene.config.root / "work").glob("*/original")]
        for name in self.uploaded.keys() - taken:
            content = self.uploaded[name]
            if content in orphans:
                continue
            (self.scene.inbox / name if name not in there else there[name]).write_bytes(content)
        for name, path in there.items():
            if name.endswith(".part"):
                path.unlink()

    # ----------------------------------------------------------------------------------------------- the cut

    def cut(self, life: Life) -> Books:
        """Cut the power, end the daemon with it, and look at what is left."""
        # Everything stops at once. A program that ran on would see what no program can see: while a file system is
        # being shut down, ext4 has let an fdatasync() return without an error for what it then did not keep.
        life.freeze()
        self.disk.cut()
        life.kill()
        self.ears.hear_out()
        self.disk.unmount()
        self.disk.mount()
        books = self._read_books()
        self.assert_kept_word(books)
        return books

    def _read_books(self) -> Books:
        try:
            return read_books(self.scene, self._server)
        except LedgerError:
            assert not self.ears.told, "promises were made, and there is no ledger"
            return Books([], {}, [])  # the power went before the first ledger was made

    def assert_kept_word(self, books: Books) -> None:
        """All that was announced is in the ledger, and every file that it knows lies whole where it says."""
        known = Counter((id, type(event).__name__) for id, events in books.histories.items() for event in events)
        missing = self.ears.told - known
        assert not missing, f"promised, and not in the ledger: {missing}"
        for drop in books.drops:
            self._assert_place(drop)
        for path in (self.scene.config.root / "work").glob("*/original"):
            assert path.read_bytes() in self.uploaded.values(), f"a damaged file was taken over: {path}"
        assert_logs(self.scene)

    def _assert_place(self, drop: Drop) -> None:
        where = where_is(drop)
        assert where is not None, f"the file of {drop.id} ({drop.state}) is lost"
        place = where.relative_to(self.scene.config.root).parts[0]
        wanted = {State.DONE: "done", State.FAILED: "failed"}.get(drop.state)
        assert place == wanted if wanted else place != "inbox", f"the {drop.state} drop {drop.id} lies in {place}/"
        assert where.read_bytes() == self.uploaded[drop.name.decode()], f"the file of {drop.id} is damaged"

    def rest(self) -> Books:
        """One undisturbed life with whatever follows, and then the promise as a whole."""
        come_to_rest(self.scene, self._server, self._nursery, self._journal)
        books = read_books(self.scene, self._server)
        self.assert_kept_word(books)
        assert_promise(self.scene, books, self.uploaded)
        assert all(drop.state in FINISHED for drop in books.drops)
        return books

    def age(self) -> None:
        """Make the ledger one that has worked for weeks: its WAL has its full length, and is written over.

        While it grows, each of its syncs writes the file system's journal out too, and with it whatever nobody synced.
        """
        life = self.start()
        assert life.watches()
        life.kill()
        script = (
            "import os, sqlite3, sys\n"
            "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "db.execute('PRAGMA wal_autocheckpoint = 0')\n"
            "db.execute('CREATE TABLE weeks (text)')\n"
            "db.execute('INSERT INTO weeks VALUES (zeroblob(5000000))')\n"
            "db.execute('DROP TABLE weeks')\n"
            "os._exit(0)\n"  # whoever closes it in order removes the WAL
        )
        _must(sys.executable, "-c", script, self.scene.config.state_dir / "ledger.db")
        self.disk.sync()


@contextlib.contextmanager
def house(place: Path, server: Server, nursery: Nursery, *, aged: bool, before: str = "") -> Iterator[House]:
    with tempfile.TemporaryDirectory(dir=place) as inner:
        made = House(Path(inner), server, nursery, before=before)
        try:
            if aged:
                made.age()
            yield made
        finally:
            made.close()


# ---------------------------------------------------------------------------------------------------------- cuts

MOMENTS = ("Claimed", "Attempted", "Accepted", "Filed", "Deferred", "Refused", "Lost")


def faults(chance: random.Random, *, refuse: bool) -> list[dict[str, object]]:
    kinds: list[dict[str, object]] = [
        {"kind": "status", "status": 503},
        {"kind": "lost_answer"},
        {"kind": "slow", "seconds": 0.05},
    ]
    if refuse:
        kinds = [{"kind": "status", "status": 302, "headers": {"Location": "/segments/1/import"}}]
    return [{**chance.choice(kinds), "segment": chance.randint(1, 3)}] if chance.random() < 0.4 else []


def live_until_the_cut(home: House, server: Server, chance: random.Random, *, refuse: bool) -> None:
    """Partners upload, the daemon works, and the plug is pulled at some moment of it."""
    for fault in faults(chance, refuse=refuse):
        server.ask("POST", "/sandbox/faults", fault)
    folders = list(home.scene.config.folders)
    for _ in range(chance.randrange(4)):
        home.upload(chance.choice(folders), renamed=chance.random() < 0.5)
    life = home.start()
    for _ in range(chance.randrange(1, 6)):
        home.upload(chance.choice(folders), renamed=chance.random() < 0.5)
    moment, left = chance.choice(MOMENTS), chance.randrange(1, 5)

    def is_it(line: dict[str, Any]) -> bool:
        nonlocal left
        left -= line.get("event_kind") == moment
        return left == 0

    home.ears.listen(is_it, 0.4)
    if chance.random() < 0.5:
        life.wait(chance.random() * 0.02)  # not always right behind a commit
    home.upload_again(home.cut(life))


@pytest.mark.soak
@pytest.mark.timeout(0 if FACTOR else 300)
def test_power_cuts_in_the_middle_of_the_work(place: Path, server: Server, nursery: Nursery) -> None:
    """After each cut all promises are in the ledger and all files whole; in the end the books agree."""
    chance = random.Random(20261125)
    cuts = done = 0
    while cuts < CUTS:
        with house(place, server, nursery, aged=chance.random() < 0.5) as home:
            for life in range(min(CUTS_PER_DISK if FACTOR else 2, CUTS - cuts)):
                # One refusal: a second in a row would say more about the account than about its file.
                live_until_the_cut(home, server, chance, refuse=life == 0)
                cuts += 1
            server.ask("DELETE", "/sandbox/faults")
            done += sum(drop.state is State.DONE for drop in home.rest().drops)
    assert done > CUTS


def test_a_cut_at_the_very_start(place: Path, server: Server, nursery: Nursery) -> None:
    """The first lives of all end before there is a whole ledger, or soon after; what comes next begins anew."""
    with house(place, server, nursery, aged=False) as home:
        for wait_s in (0.0, 0.02, 0.05, 0.1):
            home.upload("acme-leads")
            life = home.start()
            life.wait(wait_s)
            home.upload_again(home.cut(life))
        home.rest()


# ------------------------------------------------------------------------------------------------------- controls

_NO_SYNC = """
import os, stat
sync = os.fsync
os.fsync = lambda fd: None if stat.{kind}(os.fstat(fd).st_mode) else sync(fd)
"""
# What is taken away, after which event the power is cut, and what must be noticed.
CONTROLS = {
    "the ledger does not wait for the disk": (
        """
import functools, sqlite3
class Loose(sqlite3.Connection):
    def execute(self, sql, *values):
        return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *values)
sqlite3.connect = functools.partial(sqlite3.connect, factory=Loose)
""",
        "Accepted",
        r"promised, and not in the ledger",
    ),
    "no sync of files": (_NO_SYNC.format(kind="S_ISREG"), "Claimed", r"is damaged"),
    "no sync of folders": (_NO_SYNC.format(kind="S_ISDIR"), "Filed", r"the done drop .* lies in work|is lost"),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_missing_sync_is_noticed(name: str, place: Path, server: Server, nursery: Nursery) -> None:
    """The same cut, and the program without one of its safeties: a promise is broken, or a file is lost."""
    before, moment, broken = CONTROLS[name]
    with house(place, server, nursery, aged=True, before=before) as home:
        home.upload("acme-leads")
        life = home.start()
        assert home.ears.listen(lambda line: line.get("event_kind") == moment)
        with pytest.raises(AssertionError, match=broken):
            home.cut(life)


@pytest.mark.parametrize("name", CONTROLS)
def test_with_all_syncs_the_same_cut_breaks_nothing(name: str, place: Path, server: Server, nursery: Nursery) -> None:
    """The other half of each control: the program as it is keeps its word at exactly that moment."""
    _, moment, _ = CONTROLS[name]
    with house(place, server, nursery, aged=True) as home:
        home.upload("acme-leads")
        life = home.start()
        assert home.ears.listen(lambda line: line.get("event_kind") == moment)
        home.cut(life)
        home.rest()


def test_a_disk_that_others_still_have_mounted_is_waited_for(place: Path) -> None:
    """The tool itself: what is mounted again after a cut has power, though a process had copied the mount."""
    disk = Disk(place)
    disk.mount()
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", "echo; sleep 1"], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline()  # now it has its copy
        disk.cut()
        disk.unmount()
        disk.mount()
        (disk.root / "later").write_bytes(b"x")
        disk.unmount()


def test_a_cut_takes_what_nobody_synced(place: Path, server: Server, nursery: Nursery) -> None:
    """The tool itself: a synced file outlives a cut, its neighbour does not, and nothing is written after it."""
    with house(place, server, nursery, aged=False) as home:
        with (home.disk.root / "synced").open("wb") as file:
            file.write(b"x" * 5000)
            file.flush()
            os.fsync(file.fileno())
        (home.disk.root / "neighbour").write_bytes(b"x" * 5000)
        home.disk.cut()
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (home.disk.root / "later").write_bytes(b"")
        home.disk.unmount()
        home.disk.mount()
        assert (home.disk.root / "synced").read_bytes() == b"x" * 5000
        assert not (home.disk.root / "neighbour").exists()
