"""Real inotify: what is heard of, by which path and name, and that our own claims delay nothing."""

from __future__ import annotations

import os
import queue
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unprivileged import as_nobody
from watchdog.observers.inotify_c import InotifyFD

from dropzone.watch import Watch

PATIENCE_S = 10.0
ROWS = b"email\nann@example.com\n"


class Ears:
    """Collects what a watch tells, and waits for it."""

    def __init__(self) -> None:
        self._heard: queue.SimpleQueue[tuple[Path, bytes]] = queue.SimpleQueue()
        self._marks = 0
        self.closed: set[bytes] = set()  # names of which a close, or a finished rename, was told
        self.lost: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self.warnings: list[str] = []
        self.broken = False
        self._gate = threading.Event()
        self._gate.set()
        self._at_gate = threading.Semaphore(0)
        self.watch = Watch(hear=self._hear, lost=self.lost.put, warn=self.warnings.append)

    def _hear(self, inbox: Path, name: bytes, closed: bool) -> None:
        if self.broken:
            raise RuntimeError("a bug in a listener")
        if not self._gate.is_set():
            self._at_gate.release()
            self._gate.wait(PATIENCE_S)
        if closed:
            self.closed.add(name)
        self._heard.put((inbox, name))

    def attend(self, *inboxes: Path) -> None:
        """What every scan does first."""
        for inbox in inboxes:
            fd = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self.watch.attend(inbox, fd)
            finally:
                os.close(fd)

    def stall(self, inbox: Path) -> None:
        """Have the thread that reads the events wait in the middle of one, until `go_on`."""
        self._gate.clear()
        (inbox / "gate").touch()
        self._at_gate.acquire(timeout=PATIENCE_S)

    def go_on(self) -> None:
        self._gate.set()

    def wait_for_death(self) -> None:
        """Wait until no thread reads events any more."""
        for thread in threading.enumerate():
            if isinstance(thread, InotifyFD):
                thread.join(timeout=PATIENCE_S)

    def wait_for_loss(self, inbox: Path | None) -> None:
        """Wait until it is told that events of `inbox` (None: of any) may be missing."""
        while self.lost.get(timeout=PATIENCE_S) != inbox:
            pass

    def wait_for(self, path: Path) -> list[tuple[Path, bytes]]:
        """All that is heard up to the first event of `path`, this one included; older marks count for nothing."""
        wanted: tuple[Path, bytes] = (path.parent, os.fsencode(path.name))
        heard: list[tuple[Path, bytes]] = []
        while True:
            try:
                event = self._heard.get(timeout=PATIENCE_S)
            except queue.Empty:
                pytest.fail(f"not heard of {path}, only of {heard}")
            if event == wanted:
                return [*heard, event]
            if not event[1].startswith(b"mark-"):
                heard.append(event)

    def hush(self, inbox: Path) -> None:
        """Wait until everything that happened so far has been told: events come in order."""
        self._marks += 1
        mark = inbox / f"mark-{self._marks}"
        mark.touch()
        self.wait_for(mark)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """The inbox `acme` below the root's `inbox/`."""
    inbox = tmp_path / "root" / "inbox" / "acme"
    inbox.mkdir(parents=True)
    return inbox


@pytest.fixture
def ears(inbox: Path) -> Iterator[Ears]:
    ears = Ears()
    ears.attend(inbox)
    assert ears.warnings == []
    yield ears
    ears.watch.stop()


def write(path: Path) -> None:
    path.write_bytes(ROWS)


def rename_within(path: Path) -> None:
    part = path.with_name("part")
    part.write_bytes(ROWS)
    part.rename(path)


def rename_in(path: Path) -> None:
    outside = path.parents[3] / "outside"
    outside.write_bytes(ROWS)
    outside.rename(path)


def link_and_unlink(path: Path) -> None:
    part = path.with_name("part")
    part.write_bytes(ROWS)
    os.link(part, path)
    part.unlink()


def link_in(path: Path) -> None:
    outside = path.parents[3] / "outside"
    outside.write_bytes(ROWS)
    os.link(outside, path)


ARRIVALS = [write, rename_within, rename_in, link_and_unlink, link_in, os.mkfifo]


@pytest.mark.parametrize("arrive", ARRIVALS, ids=lambda act: act.__name__)
def test_every_way_of_arriving_is_heard_of(ears: Ears, inbox: Path, arrive: Callable[[Path], None]) -> None:
    """A write, renames, OpenSSH's link() and unlink(), and what is no file at all: told with inbox and name."""
    arrive(inbox / "a.csv")
    ears.wait_for(inbox / "a.csv")


def test_the_close_is_heard_of_after_the_last_byte(ears: Ears, inbox: Path) -> None:
    """A file that takes long: its creation is heard of, and its close once more, with all bytes there."""
    with (inbox / "a.csv").open("wb") as file:
        ears.wait_for(inbox / "a.csv")
        ears.hush(inbox)
        file.write(ROWS)
    ears.wait_for(inbox / "a.csv")
    assert (inbox / "a.csv").read_bytes() == ROWS


def chmod(path: Path) -> None:
    path.chmod(0o640)


def touch(path: Path) -> None:
    os.utime(path, (0, 0))


@pytest.mark.parametrize("change", [chmod, touch], ids=lambda act: act.__name__)
def test_late_changes_of_rights_and_times_are_heard_of(ears: Ears, inbox: Path, change: Callable[[Path], None]) -> None:
    """What clients do after the last close, and what makes an unreadable file readable."""
    write(inbox / "a.csv")
    ears.hush(inbox)
    change(inbox / "a.csv")
    ears.wait_for(inbox / "a.csv")


@pytest.mark.parametrize("name", [b"\xff\xfe.csv", b"new\nline.csv", "größe.csv".encode(), b"a" * 255])
def test_names_arrive_as_the_bytes_they_are(ears: Ears, inbox: Path, name: bytes) -> None:
    """Bytes that are no UTF-8, newlines, the longest name: told unharmed."""
    write(inbox / os.fsdecode(name))
    heard = ears.wait_for(inbox / os.fsdecode(name))
    assert heard[-1] == (inbox, name)


def test_reading_and_leaving_are_not_heard_of(ears: Ears, inbox: Path, tmp_path: Path) -> None:
    """Our own opens, and our own claims, would wake us for nothing, and again, and again."""
    write(inbox / "a.csv")
    ears.hush(inbox)
    (inbox / "a.csv").read_bytes()
    (inbox / "a.csv").rename(tmp_path / "claimed")
    write(inbox / "b.csv")
    assert {name for _, name in ears.wait_for(inbox / "b.csv")} == {b"b.csv"}


def test_a_claim_does_not_delay_the_next_event(ears: Ears, inbox: Path, tmp_path: Path) -> None:
    """Left to itself, watchdog holds the leaving half of a move back for 0.5 s, and with it all that comes next."""
    delays = []
    for number in range(8):
        write(inbox / f"{number}.csv")
        ears.hush(inbox)
        (inbox / f"{number}.csv").rename(tmp_path / f"claimed-{number}")
        start = time.monotonic()
        write(inbox / "next.csv")
        ears.wait_for(inbox / "next.csv")
        delays.append(time.monotonic() - start)
    # Held back, each of them would take 0.5 s at least; on a busy machine one or the other may.
    assert min(delays) < 0.25


def test_all_of_a_burst_is_heard_of(ears: Ears, inbox: Path) -> None:
    """Hundreds of files at once: each name is told at least once."""
    wanted = {f"{number:04}.csv".encode() for number in range(500)}
    for name in sorted(wanted):
        write(inbox / os.fsdecode(name))
    mark = inbox / "mark"
    mark.touch()
    assert wanted <= {name for _, name in ears.wait_for(mark)}


def test_a_close_and_a_rename_are_told_as_such(ears: Ears, inbox: Path) -> None:
    """Whoever cannot ask for leases knows by that whether the writer is done; a bare link says nothing."""
    write(inbox / "closed.csv")
    rename_in(inbox / "renamed.csv")
    link_in(inbox / "linked.csv")
    ears.hush(inbox)
    assert {b"closed.csv", b"renamed.csv"} <= ears.closed
    assert b"linked.csv" not in ears.closed


def test_sub_folders_are_not_watched(ears: Ears, inbox: Path) -> None:
    """A partner could use up all watches of the machine with folders that nobody looks into."""
    (inbox / "deeper").mkdir()
    ears.attend(inbox)
    write(inbox / "deeper" / "no.csv")
    write(inbox / "a.csv")
    assert {name for _, name in ears.wait_for(inbox / "a.csv")} == {b"deeper", b"a.csv"}


def test_attending_again_changes_nothing_where_all_is_well(ears: Ears, inbox: Path) -> None:
    """Each scan does it: no event comes twice, none is lost, no word."""
    for _ in range(5):
        ears.attend(inbox)
    (inbox / "a.csv").touch()
    ears.attend(inbox)
    (inbox / "b.csv").touch()
    heard = ears.wait_for(inbox / "b.csv")
    assert [name for _, name in heard].count(b"a.csv") <= 3  # created, attributes, closed
    assert ears.lost.empty()
    assert ears.warnings == []


# ------------------------------------------------------------------------------- what makes other watches mute


def make_again(inbox: Path) -> None:
    shutil.rmtree(inbox)
    inbox.mkdir()


def rename_away(inbox: Path) -> None:
    inbox.rename(inbox.with_name("old"))
    inbox.mkdir()


def exchange(inbox: Path) -> None:
    other = inbox.with_name("other")
    other.mkdir()
    inbox.rename(inbox.with_name("old"))
    other.rename(inbox)


@pytest.mark.parametrize("change", [make_again, rename_away, exchange], ids=lambda act: act.__name__)
def test_another_folder_under_the_same_path_is_watched(ears: Ears, inbox: Path, change: Callable[[Path], None]) -> None:
    """The change is told at once, the next scan watches the new folder, and the old one is heard of no more."""
    change(inbox)
    ears.wait_for_loss(inbox)
    ears.attend(inbox)
    write(inbox / "a.csv")
    ears.wait_for(inbox / "a.csv")
    if (old := inbox.with_name("old")).exists():
        write(old / "ghost.csv")
        write(inbox / "b.csv")
        assert b"ghost.csv" not in {name for _, name in ears.wait_for(inbox / "b.csv")}


@pytest.fixture
def mounts() -> Iterator[Callable[[Path], None]]:
    """Mounts a small file system in memory on a folder; unmounted at the end."""
    mounted: list[Path] = []

    def mount(at: Path) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "dropzone-test", str(at)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.decode().strip()}")
        mounted.append(at)

    yield mount
    for at in mounted:
        subprocess.run(["umount", "-l", str(at)], capture_output=True, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_a_file_system_mounted_over_the_inbox_is_watched(
    ears: Ears, inbox: Path, mounts: Callable[[Path], None]
) -> None:
    """No event tells of it; the next scan opens the new directory and has it watched."""
    mounts(inbox)
    ears.attend(inbox)
    write(inbox / "a.csv")
    ears.wait_for(inbox / "a.csv")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_an_unmounted_inbox_is_told_at_once_and_watched_again(
    ears: Ears, inbox: Path, mounts: Callable[[Path], None]
) -> None:
    """Nothing of ours keeps the mount busy; what lies below it is watched with the next scan."""
    mounts(inbox)
    ears.attend(inbox)
    subprocess.run(["umount", str(inbox)], check=True)
    ears.wait_for_loss(inbox)
    ears.attend(inbox)
    write(inbox / "a.csv")
    ears.wait_for(inbox / "a.csv")


def test_a_queue_that_overflows_is_told_and_works_on(ears: Ears, inbox: Path) -> None:
    """While nobody reads, more comes than the kernel keeps: that is told, and later events come again."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    ears.stall(inbox)
    fds = [os.open(inbox / name, os.O_CREAT | os.O_WRONLY) for name in ("a", "b")]
    for number in range(limit + 100):
        os.fchmod(fds[number % 2], 0o600 + number % 2)  # two names in turn, because equal events are one
    for fd in fds:
        os.close(fd)
    ears.go_on()
    ears.wait_for_loss(None)
    write(inbox / "later.csv")
    ears.wait_for(inbox / "later.csv")


def test_a_limit_of_watches_is_told_once_and_overcome(ears: Ears, inbox: Path) -> None:
    """The kernel refuses one more watch: one sentence, whatever number of scans; with the limit gone it is watched."""
    limit = Path("/proc/sys/fs/inotify/max_user_watches")
    before, later = limit.read_text(), inbox.with_name("later")
    later.mkdir()
    try:
        limit.write_text("1")
    except OSError:
        pytest.skip("the limit of watches cannot be set here")
    try:
        ears.attend(later)
        ears.attend(later)
    finally:
        limit.write_text(before)
    assert ears.warnings == [f"{later} cannot be watched: inotify watch limit reached"]
    ears.attend(later)
    write(later / "a.csv")
    ears.wait_for(later / "a.csv")


def test_a_folder_that_may_not_be_read_is_told_once_and_overcome(tmp_path: Path) -> None:
    """The library keeps this error to itself; with rights the next scan watches it. As a user who is not root."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()

    ears = Ears()
    with as_nobody(owns=[inbox]):
        fd = os.open(inbox, os.O_PATH)
        inbox.chmod(0o300)
        ears.watch.attend(inbox, fd)
        ears.watch.attend(inbox, fd)
        os.close(fd)
        assert ears.warnings == [f"{inbox} cannot be watched: Permission denied"]
        inbox.chmod(0o700)
        ears.attend(inbox)
        write(inbox / "a.csv")
        ears.wait_for(inbox / "a.csv")
    ears.watch.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced(ears: Ears, inbox: Path) -> None:
    """A bug in whoever listens ends watchdog's thread; the next scan starts another, for every inbox."""
    other = inbox.with_name("other")
    other.mkdir()
    ears.attend(other)
    ears.broken = True
    write(inbox / "a.csv")
    ears.wait_for_death()
    ears.broken = False
    ears.attend(inbox)
    ears.wait_for_loss(None)  # so that the others are scanned, and attended to, too
    ears.attend(other)
    for place in (inbox, other):
        write(place / "b.csv")
        ears.wait_for(place / "b.csv")


def test_an_inbox_behind_a_link_of_the_operator_is_watched(ears: Ears, inbox: Path, tmp_path: Path) -> None:
    """Whatever the path is made of, it is the open directory that is watched."""
    link = tmp_path / "link"
    link.symlink_to(inbox.parent)
    ears.attend(link / "acme")
    write(inbox / "a.csv")
    ears.wait_for(link / "acme" / "a.csv")


def test_only_what_is_kept_is_watched(ears: Ears, inbox: Path, tmp_path: Path) -> None:
    """After a reload: folders that are gone from the configuration are not heard of any more."""
    elsewhere = tmp_path / "there"
    elsewhere.mkdir()
    ears.attend(elsewhere)
    ears.watch.keep([elsewhere])
    write(inbox / "a.csv")
    write(elsewhere / "b.csv")
    assert {place for place, _ in ears.wait_for(elsewhere / "b.csv")} == {elsewhere}


def test_after_the_stop_nothing_is_heard_of(inbox: Path) -> None:
    """`stop` returns when no more calls come, leaves no thread behind, and may be called twice."""
    before = set(threading.enumerate())
    ears = Ears()
    ears.attend(inbox)
    assert set(threading.enumerate()) > before
    ears.watch.stop()
    ears.watch.stop()
    assert set(threading.enumerate()) <= before
    write(inbox / "a.csv")
    assert not ears.closed


def test_an_inotify_that_cannot_be_had_is_told_once_and_overcome(inbox: Path) -> None:
    """Out of instances or descriptors: one sentence, and the daemon goes on with the scan alone until there are."""
    ears = Ears()
    fd = os.open(inbox, os.O_RDONLY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        ears.watch.attend(inbox, fd)
        ears.watch.attend(inbox, fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(fd)
    assert ears.warnings == [f"{inbox} cannot be watched: inotify instance limit reached"]
    ears.attend(inbox)
    write(inbox / "a.csv")
    ears.wait_for(inbox / "a.csv")
    ears.watch.stop()


def test_many_inboxes_take_one_thread(tmp_path: Path) -> None:
    """A thread each would cost a thousand partners a thousand stacks."""
    before = threading.active_count()
    ears = Ears()
    places = [tmp_path / str(number) for number in range(50)]
    for place in places:
        place.mkdir()
    ears.attend(*places)
    assert threading.active_count() == before + 1
    for place in places:
        write(place / "a.csv")
        ears.wait_for(place / "a.csv")
    ears.watch.stop()
