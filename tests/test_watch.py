"""Real inotify: what is heard of, by which path and name, and that our own claims delay nothing."""

from __future__ import annotations

import os
import queue
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dropzone.watch import Watch

PATIENCE_S = 10.0
ROWS = b"email\nann@example.com\n"


class Ears:
    """Collects what a watch tells, and waits for it."""

    def __init__(self) -> None:
        self._heard: queue.SimpleQueue[tuple[Path, bytes]] = queue.SimpleQueue()
        self._marks = 0
        self.watch = Watch(lambda inbox, name: self._heard.put((inbox, name)))

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
    assert ears.watch.start(inbox.parent, [inbox]) == []
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


def test_a_folder_that_is_made_later_is_heard_of(ears: Ears, inbox: Path) -> None:
    """`init` for a new folder, then a reload: the recursive watch knows it already."""
    later = inbox.parent / "later"
    later.mkdir()
    write(inbox / "mark.csv")
    ears.wait_for(inbox / "mark.csv")
    write(later / "a.csv")
    ears.wait_for(later / "a.csv")


def test_a_folder_outside_the_root_has_a_watch_of_its_own(ears: Ears, inbox: Path, tmp_path: Path) -> None:
    """An existing upload folder elsewhere: itself is watched, what lies deeper in it is not."""
    elsewhere = tmp_path / "home" / "upload"
    (elsewhere / "deeper").mkdir(parents=True)
    assert ears.watch.start(inbox.parent, [inbox, elsewhere]) == []
    write(elsewhere / "deeper" / "no.csv")
    write(elsewhere / "a.csv")
    assert {name for _, name in ears.wait_for(elsewhere / "a.csv")} == {b"a.csv"}
    write(inbox / "b.csv")
    ears.wait_for(inbox / "b.csv")


def test_what_cannot_be_watched_is_reported_and_the_rest_watched(ears: Ears, inbox: Path, tmp_path: Path) -> None:
    """A folder that is not there yet: one sentence with its path and the reason."""
    missing, elsewhere = tmp_path / "missing", tmp_path / "there"
    elsewhere.mkdir()
    faults = ears.watch.start(inbox.parent, [inbox, missing, elsewhere])
    assert faults == [f"{missing} cannot be watched: No such file or directory"]
    for place in (inbox, elsewhere):
        write(place / "a.csv")
        ears.wait_for(place / "a.csv")


def test_a_missing_root_is_reported(tmp_path: Path) -> None:
    """Nothing can be watched, and the scan still finds everything."""
    watch = Watch(lambda inbox, name: None)
    assert watch.start(tmp_path / "no", [tmp_path / "no" / "acme"]) == [
        f"{tmp_path / 'no'} cannot be watched: No such file or directory"
    ]
    watch.stop()


def test_watching_again_replaces_the_first_watch(ears: Ears, inbox: Path, tmp_path: Path) -> None:
    """After a reload: the old folders are not heard of any more, the new ones are, each event once."""
    elsewhere = tmp_path / "there"
    elsewhere.mkdir()
    assert ears.watch.start(tmp_path / "root", [elsewhere]) == []
    write(inbox / "a.csv")
    write(elsewhere / "b.csv")
    ears.hush(elsewhere)
    (elsewhere / "b.csv").chmod(0o640)
    (elsewhere / "c.csv").touch()
    assert ears.wait_for(elsewhere / "c.csv") == [(elsewhere, b"b.csv"), (elsewhere, b"c.csv")]


def test_a_folder_that_was_removed_is_watched_after_the_next_start(ears: Ears, inbox: Path) -> None:
    """Removed and made again it is another directory; a reload brings its events back."""
    inbox.rmdir()
    inbox.mkdir()
    assert ears.watch.start(inbox.parent, [inbox]) == []
    write(inbox / "a.csv")
    ears.wait_for(inbox / "a.csv")


def test_after_the_stop_nothing_is_heard_of(inbox: Path) -> None:
    """`stop` returns when no more calls come, leaves no thread behind, and may be called twice."""
    before = set(threading.enumerate())
    heard: list[bytes] = []
    watch = Watch(lambda inbox, name: heard.append(name))
    assert watch.start(inbox.parent, [inbox]) == []
    assert set(threading.enumerate()) > before
    watch.stop()
    watch.stop()
    assert set(threading.enumerate()) <= before
    write(inbox / "a.csv")
    assert heard == []


def test_an_inotify_that_cannot_be_had_is_reported(inbox: Path) -> None:
    """Out of instances or descriptors: one sentence, and the daemon goes on with the scan alone."""
    watch = Watch(lambda inbox, name: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        faults = watch.start(inbox.parent, [inbox])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert faults == ["inotify cannot be used: inotify instance limit reached"]
    watch.stop()
