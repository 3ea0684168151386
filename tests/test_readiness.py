"""The rule that says when a file is complete, on looks made by hand and on real open files."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from dropzone.config import Folder
from dropzone.readiness import (
    Candidate,
    Look,
    Probe,
    Reading,
    Ready,
    Seen,
    Unfit,
    Unread,
    Verdict,
    Waiting,
    judge,
    marked_name,
    marker_name,
    probe,
    read,
    why_ignored,
)

LOOK = Look(dev=1, ino=2, size=100, mtime_ns=3, ctime_ns=4, mode=stat.S_IFREG | 0o640, nlink=1)
CALM = Probe(writer=False, ended=True)


@pytest.fixture
def folder() -> Folder:
    return Folder(name="acme", path=Path("/in"), base=Path("/srv"), account="main", segment_id=7, mode="lead")


def verdict(
    folder: Folder,
    candidate: Candidate,
    *,
    now: float,
    look: Look = LOOK,
    marker: Look | None = None,
    found: Probe = CALM,
) -> Verdict:
    return judge(candidate, Seen(look, marker), folder, now=now, ask=lambda: found)


def heard_at(moment: float) -> Candidate:
    candidate = Candidate.found(moment)
    candidate.hear(moment)
    return candidate


def test_a_quiet_whole_file_is_ready_after_its_settle_time(folder: Folder) -> None:
    """Heard of at 10 s: not ready at 11.9 s, ready at 12 s."""
    candidate = heard_at(10.0)
    early = verdict(folder, candidate, now=11.9)
    assert isinstance(early, Waiting)
    assert early.settling
    assert early.until == pytest.approx(12.0)
    assert verdict(folder, candidate, now=12.0) == Ready(Seen(LOOK))


def test_a_file_that_only_a_scan_found_must_be_quiet_for_longer(folder: Folder) -> None:
    """Nobody told when it last moved, so `settle_unseen` counts, from the first look on."""
    candidate = Candidate.found(10.0)
    assert isinstance(verdict(folder, candidate, now=19.9), Waiting)
    assert verdict(folder, candidate, now=20.0) == Ready(Seen(LOOK))


@pytest.mark.parametrize("moved", [{"size": 101}, {"mtime_ns": 5}, {"ctime_ns": 5}, {"ino": 9}])
def test_any_difference_between_two_looks_starts_the_quiet_time_again(folder: Folder, moved: dict[str, int]) -> None:
    """Size, times and identity are only compared with the look before, never with a clock."""
    candidate = heard_at(10.0)
    verdict(folder, candidate, now=10.0)
    again = verdict(folder, candidate, now=12.0, look=replace(LOOK, **moved))
    assert isinstance(again, Waiting)
    assert again.until == pytest.approx(14.0)


def test_an_event_starts_the_quiet_time_again(folder: Folder) -> None:
    """A close in between means that a client still works on it."""
    candidate = heard_at(10.0)
    candidate.hear(11.5)
    assert isinstance(verdict(folder, candidate, now=13.0), Waiting)
    assert isinstance(verdict(folder, candidate, now=13.5), Ready)


def test_an_open_writer_keeps_the_file_out_for_as_long_as_it_takes(folder: Folder) -> None:
    """A healthy upload may pause for minutes; looks get rarer, and it is never claimed."""
    candidate = heard_at(0.0)
    now, gaps = 2.0, []
    for _ in range(12):
        found = verdict(folder, candidate, now=now, found=Probe(writer=True, ended=True))
        assert isinstance(found, Waiting)
        if "open for writing" in found.why:
            gaps.append(found.until - now)
        now = found.until
    assert gaps == sorted(gaps)
    assert gaps[0] < 1 < gaps[-1] <= 5
    assert isinstance(verdict(folder, candidate, now=now + 1.9), Waiting)
    assert isinstance(verdict(folder, candidate, now=now + 5.0), Ready)


def test_where_nobody_can_tell_about_writers_the_file_must_be_quiet_for_longer(folder: Folder) -> None:
    """Network mounts and missing capabilities: 30 s instead of 2 s."""
    candidate = heard_at(0.0)
    unknown = Probe(writer=None, ended=True)
    assert isinstance(verdict(folder, candidate, now=29.0, found=unknown), Waiting)
    assert isinstance(verdict(folder, candidate, now=30.0, found=unknown), Ready)


def test_a_file_that_ends_in_mid_line_is_held_back(folder: Folder) -> None:
    """98 % of the files that were cut off end in mid-line; after `hold_tail` the check decides."""
    candidate = heard_at(0.0)
    cut = Probe(writer=False, ended=False)
    waiting = verdict(folder, candidate, now=2.0, found=cut)
    assert isinstance(waiting, Waiting)
    assert "cut off" in waiting.why
    assert waiting.until == pytest.approx(300.0)
    assert isinstance(verdict(folder, candidate, now=300.0, found=cut), Ready)


def test_a_folder_may_require_the_final_newline(folder: Folder) -> None:
    """With `final_newline: required` a cut file is never taken."""
    strict = folder.having(final_newline="required")
    cut = Probe(writer=False, ended=False)
    assert isinstance(verdict(strict, heard_at(0.0), now=100_000.0, found=cut), Waiting)


def test_an_empty_file_waits_for_its_content(folder: Folder) -> None:
    """`touch` first and the upload 4 s later was seen; half a minute is allowed."""
    candidate = heard_at(0.0)
    empty = replace(LOOK, size=0)
    assert isinstance(verdict(folder, candidate, now=29.0, look=empty), Waiting)
    assert isinstance(verdict(folder, candidate, now=30.0, look=empty), Ready)


def test_a_second_link_is_waited_for_and_then_refused(folder: Folder) -> None:
    """link() and unlink() show two links for a moment; a link that stays lets others change the file."""
    candidate = heard_at(0.0)
    linked = replace(LOOK, nlink=2)
    assert isinstance(verdict(folder, candidate, now=3.0, look=linked), Waiting)
    late = verdict(folder, candidate, now=60.0, look=linked)
    assert isinstance(late, Unfit)
    assert "2 links" in late.why


@pytest.mark.parametrize(
    ("kind", "named"),
    [(stat.S_IFLNK, "symbolic link"), (stat.S_IFDIR, "folder"), (stat.S_IFIFO, "pipe"), (stat.S_IFCHR, "device")],
)
def test_what_is_no_regular_file_is_never_opened(folder: Folder, kind: int, named: str) -> None:
    """A pipe would hang the reader and a device may do anything: the look alone decides."""

    def ask() -> Probe:
        pytest.fail("it was opened")

    found = judge(heard_at(0.0), Seen(replace(LOOK, mode=kind | 0o644)), folder, now=100.0, ask=ask)
    assert isinstance(found, Unfit)
    assert named in found.why


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.csv",
        "~a.csv",
        "#a.csv",
        "a.csv.filepart",
        "a.csv.part",
        "A.CSV.PARTIAL",
        "a.csv.1f2e3d4c.partial",
        "a.csv.tmp",
        "a.csv~",
        "a.csv-0b9bd2a8-5e2c-4a93-9f5c-7b6f5d1f2e3a",
        ".in.a.csv.",
        ".pureftpd-upload.5f2e",
        "a.txt",
        "csv",
    ],
)
def test_names_of_unfinished_and_foreign_files_are_ignored(folder: Folder, name: str) -> None:
    """Names that clients give while they write, and names that the folder does not ask for."""
    assert why_ignored(name, folder)


@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a b.csv", "-rf.csv", "ü.csv", "a.csv.gz", "part.csv"])
def test_names_of_csv_files_are_wanted(folder: Folder, name: str) -> None:
    """Case does not matter, and odd names are no reason to leave a file."""
    assert why_ignored(name, folder) == ""


def test_a_folder_can_ignore_more(folder: Folder) -> None:
    """`ignore` is added to the built-in list."""
    folder = folder.having(ignore=("old-*", "TEST-*"))
    assert "TEST-*" in why_ignored("test-1.csv", folder)
    assert why_ignored("new-1.csv", folder) == ""


@pytest.mark.parametrize(
    ("content", "ended"),
    [
        (b"a@b.co\n", True),
        (b"a@b.co\r", True),
        (b"a@b.co", False),
        ("\ufeffa\n".encode("utf-16-le"), True),
        ("\ufeffa\r".encode("utf-16-be"), True),
        ("\ufeffa".encode("utf-16-le"), False),
        ("\ufeffa\n".encode("utf-16-le")[:-1], False),
        ("\ufeff\u0a0a".encode("utf-16-be"), False),
        ("\ufeff\u0a00".encode("utf-16-le"), False),
        (b"\x1f\x8b\x08rest", None),
        (b"", False),
    ],
)
def test_the_last_bytes_of_a_real_file(tmp_path: Path, content: bytes, *, ended: bool | None) -> None:
    """LF, CR and whole UTF-16 ends are seen; a packed file has no last line to look at."""
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert probe(fd, len(content), local=True) == Probe(writer=False, ended=ended)
        assert probe(fd, len(content), local=False).writer is None
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_the_lease_sees_a_real_writer(tmp_path: Path, flags: int) -> None:
    """Whoever has the file open for writing is seen, and no longer once it is closed."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n")
    writer = os.open(path, flags)
    reader = os.open(path, os.O_RDONLY)
    try:
        assert probe(reader, 2, local=True).writer is True
        os.close(writer)
        assert probe(reader, 2, local=True).writer is False
    finally:
        os.close(reader)


# --------------------------------------------------------------------------------------------- nobody can tell


UNKNOWN = Probe(writer=None, ended=True)


def test_a_file_that_was_seen_growing_and_never_closed_is_waited_for(folder: Folder) -> None:
    """Without a lease: no close was heard of since it grew, so most likely a stalled client has it open: 600 s."""
    candidate = heard_at(0.0)
    verdict(folder, candidate, now=0.0)
    grown = replace(LOOK, size=200)
    verdict(folder, candidate, now=1.0, look=grown)
    waiting = verdict(folder, candidate, now=40.0, look=grown, found=UNKNOWN)
    assert isinstance(waiting, Waiting)
    assert waiting.until == pytest.approx(601.0)
    assert isinstance(verdict(folder, candidate, now=601.0, look=grown, found=UNKNOWN), Ready)


def test_the_close_ends_that_wait(folder: Folder) -> None:
    """Whoever wrote it has closed it: half a minute of quiet is enough then."""
    candidate = heard_at(0.0)
    verdict(folder, candidate, now=0.0)
    grown = replace(LOOK, size=200)
    verdict(folder, candidate, now=1.0, look=grown)
    candidate.hear(2.0, closed=True)
    verdict(folder, candidate, now=2.0, look=grown)
    assert isinstance(verdict(folder, candidate, now=31.0, look=grown, found=UNKNOWN), Waiting)
    assert isinstance(verdict(folder, candidate, now=32.0, look=grown, found=UNKNOWN), Ready)


def test_settle_unseen_may_be_longer_than_the_wait_without_a_lease(folder: Folder) -> None:
    """A slow network mount: what the folder says is the least that is waited."""
    slow = folder.having(settle_unseen=90.0)
    assert isinstance(verdict(slow, heard_at(0.0), now=89.0, found=UNKNOWN), Waiting)
    assert isinstance(verdict(slow, heard_at(0.0), now=90.0, found=UNKNOWN), Ready)


# ------------------------------------------------------------------------------------------------ empty files


@pytest.mark.parametrize("policy", ["hold", "refuse"])
def test_an_empty_file_is_taken_and_judged_later(folder: Folder, policy: str) -> None:
    """Both are verdicts on a drop, so it has to become one."""
    empty = replace(LOOK, size=0)
    asked = folder.having(empty=policy)
    assert isinstance(verdict(asked, heard_at(0.0), now=30.0, look=empty), Ready)


def test_a_folder_may_leave_empty_files(folder: Folder) -> None:
    """`empty: ignore`: never taken, never an alarm; once something is in it, it is a file like any other."""
    candidate, asked = heard_at(0.0), folder.having(empty="ignore")
    waiting = verdict(asked, candidate, now=1_000_000.0, look=replace(LOOK, size=0))
    assert isinstance(waiting, Waiting)
    assert not waiting.overdue
    verdict(asked, candidate, now=1_000_000.0)
    assert isinstance(verdict(asked, candidate, now=1_000_010.0), Ready)


# ---------------------------------------------------------------------------------------------------- alarms


def test_a_writer_that_writes_nothing_is_reported_and_its_file_never_taken(folder: Folder) -> None:
    """A dead network leaves the server's writer open for hours: after `stall_alert` somebody should know."""
    candidate, held = heard_at(0.0), Probe(writer=True, ended=True)
    early = verdict(folder, candidate, now=899.0, found=held)
    assert isinstance(early, Waiting)
    assert not early.overdue
    assert early.until == pytest.approx(899.5)
    late = verdict(folder, candidate, now=900.0, found=held)
    assert isinstance(late, Waiting)
    assert late.overdue
    assert late.why == "not ready, and nothing came for 900 s: a program still has it open for writing"
    assert isinstance(verdict(folder, candidate, now=1_000_000.0, found=held), Waiting)


def test_a_file_that_grows_is_no_stall_but_not_for_days(folder: Folder) -> None:
    """Each difference between two looks begins the time anew; after a day somebody should know all the same."""
    candidate, held = heard_at(0.0), Probe(writer=True, ended=True)
    for now in range(1, 80_000, 600):
        growing = verdict(folder, candidate, now=float(now), look=replace(LOOK, size=now), found=held)
        if isinstance(growing, Waiting):
            assert not growing.overdue
    verdict(folder, candidate, now=86_400.0, look=replace(LOOK, size=1), found=held)
    late = verdict(folder, candidate, now=86_403.0, look=replace(LOOK, size=1), found=held)
    assert isinstance(late, Waiting)
    assert late.overdue
    assert late.why.startswith("not ready after a day")


def test_a_file_that_is_never_taken_for_want_of_a_newline_is_reported(folder: Folder) -> None:
    """`final_newline: required` keeps it for ever, so it must not be for ever in silence."""
    strict = folder.having(final_newline="required")
    candidate = heard_at(0.0)
    verdict(strict, candidate, now=2.0, found=Probe(writer=False, ended=False))
    late = verdict(strict, candidate, now=900.0, found=Probe(writer=False, ended=False))
    assert isinstance(late, Waiting)
    assert late.overdue


def test_quiet_time_alone_is_no_reason_for_an_alarm(folder: Folder) -> None:
    """A folder may ask for an hour of quiet."""
    patient = folder.having(settle=3600.0)
    waiting = verdict(patient, heard_at(0.0), now=3599.0)
    assert isinstance(waiting, Waiting)
    assert not waiting.overdue


# --------------------------------------------------------------------------------------------------- markers


@pytest.fixture
def marked(folder: Folder) -> Folder:
    return folder.having(marker=".done")


MARKER = replace(LOOK, ino=3, size=0)


def test_without_its_marker_no_file_is_ready(marked: Folder) -> None:
    """However quiet and whole it looks; after `stall_alert` it is reported."""
    candidate = heard_at(0.0)
    waiting = verdict(marked, candidate, now=800.0)
    assert isinstance(waiting, Waiting)
    assert "its marker, the same name and .done, is not there" in waiting.why
    late = verdict(marked, candidate, now=1_000_000.0)
    assert isinstance(late, Waiting)
    assert late.overdue


def test_with_its_marker_a_file_is_ready_at_once_and_needs_no_newline(marked: Folder) -> None:
    """Half a second of quiet, and nobody who writes; the partner has said that it is whole."""
    candidate, cut = heard_at(10.0), Probe(writer=False, ended=False)
    assert isinstance(verdict(marked, candidate, now=10.4, marker=MARKER, found=cut), Waiting)
    assert verdict(marked, candidate, now=10.5, marker=MARKER, found=cut) == Ready(Seen(LOOK, MARKER))


def test_a_marker_does_not_outweigh_a_writer(marked: Folder) -> None:
    """Whoever has the file open is not done, whatever the marker says."""
    held = Probe(writer=True, ended=True)
    assert isinstance(verdict(marked, heard_at(0.0), now=60.0, marker=MARKER, found=held), Waiting)


def test_a_marker_that_is_older_than_its_file_is_left_over(marked: Folder) -> None:
    """From yesterday's file of that name, say: it makes nothing ready. Some moments are nothing: clients end both."""
    today = replace(LOOK, ctime_ns=100_000_000_000)
    old, just_before = replace(MARKER, ctime_ns=97_000_000_000), replace(MARKER, ctime_ns=99_000_000_000)
    waiting = verdict(marked, heard_at(0.0), now=60.0, look=today, marker=old)
    assert isinstance(waiting, Waiting)
    assert "left over" in waiting.why
    assert isinstance(verdict(marked, heard_at(0.0), now=60.0, look=today, marker=just_before), Ready)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])
def test_a_marker_must_be_a_file(marked: Folder, kind: int) -> None:
    """A link to somewhere is no word of the partner's."""
    found = verdict(marked, heard_at(0.0), now=60.0, marker=replace(MARKER, mode=kind | 0o644))
    assert isinstance(found, Unfit)
    assert "its marker is not a regular file" in found.why


def test_the_names_of_markers(marked: Folder) -> None:
    """The file's whole name and the marker's end; a marker is no candidate, whatever `include` says."""
    assert marker_name(b"a.csv", marked) == b"a.csv.done"
    assert marked_name(b"a.csv.done", marked) == b"a.csv"
    assert marked_name(b"a.csv", marked) is None
    assert marked_name(b".done", marked) is None
    assert why_ignored("a.csv.done", marked.having(include=("*",))).startswith("it is the marker")
    plain = marked.having(marker="none")
    assert marker_name(b"a.csv", plain) is None
    assert marked_name(b"a.csv.done", plain) is None


# ------------------------------------------------------------------------------------- what only content tells


ROWS = b"email\nann@example.com\n"
SHA256 = hashlib.sha256(ROWS).hexdigest()
MD5 = hashlib.md5(ROWS, usedforsecurity=False).hexdigest()


def reading_of(folder: Folder, path: Path, content: bytes, marker: bytes = b"") -> Reading:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return read(fd, Seen(Look.of(os.fstat(fd))), marker, folder)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (".sha256", f"{SHA256}  a.csv\n"),
        (".sha256", f"{SHA256} *a.csv\r\n"),
        (".sha256", SHA256.upper()),
        (".sha256", f"SHA256 (a.csv) = {SHA256}\n"),
        (".sha256", f"\\{SHA256}  a\\nb.csv\n"),
        (".md5", f"{MD5}  a.csv\n"),
        (".md5", f"MD5 (a.csv) = {MD5}"),
    ],
)
def test_a_checksum_that_fits(folder: Folder, tmp_path: Path, kind: str, text: str) -> None:
    """As sha256sum, md5sum and their BSD sisters write it, or the bare digits."""
    asked = folder.having(marker=kind)
    assert reading_of(asked, tmp_path / "a.csv", ROWS, text.encode()).misfit == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "does not hold one SHA256 checksum"),
        (MD5.encode(), "does not hold one SHA256 checksum"),
        (f"{SHA256} a.csv\n{'0' * 64} b.csv\n".encode(), "does not hold one SHA256 checksum"),
        (b"0" * 64, f"its SHA256 is {SHA256[:12]}…, but its .sha256 file says 000000000000…"),
    ],
)
def test_a_checksum_that_does_not_fit(folder: Folder, tmp_path: Path, text: bytes, why: str) -> None:
    """The file is held back, with both sums or with what is wrong about the checksum file."""
    asked = folder.having(marker=".sha256")
    candidate = heard_at(0.0)
    candidate.reading = reading_of(asked, tmp_path / "a.csv", ROWS, text)
    assert why in candidate.reading.misfit
    seen = candidate.reading.seen
    waiting = judge(candidate, Seen(seen.file, seen.file), asked, now=60.0, ask=lambda: CALM)
    assert isinstance(waiting, Unread)  # another marker: to be read again
    candidate.reading = replace(candidate.reading, seen=Seen(seen.file, seen.file))
    waiting = judge(candidate, Seen(seen.file, seen.file), asked, now=61.0, ask=lambda: CALM)
    assert isinstance(waiting, Waiting)
    assert why in waiting.why


PACKED = gzip.compress(ROWS * 1000)


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (PACKED, True),
        (PACKED + PACKED, True),
        (PACKED + b"\0" * 512, True),
        (PACKED[:-1], False),
        (PACKED[:10], False),
        (PACKED[:3], False),
        (PACKED + PACKED[:-1], False),
        (PACKED[:20] + b"\xff" * 40, True),  # damaged: for the check to say
    ],
    ids=["whole", "two in one", "padded", "a byte short", "its head", "three bytes", "the second cut", "damaged"],
)
def test_a_packed_file_says_where_it_ends(folder: Folder, tmp_path: Path, content: bytes, *, whole: bool) -> None:
    """Cut anywhere, it lacks its end; what is damaged or has something behind it is whole all the same."""
    assert reading_of(folder, tmp_path / "a.csv.gz", content).whole is whole


def test_a_packed_file_is_unpacked_to_the_limit_only(folder: Folder, tmp_path: Path) -> None:
    """A bomb is not worth more than what the folder allows: the check then holds it."""
    small = folder.having(guards=folder.guards.having(max_bytes=1 << 20))
    bomb = gzip.compress(bytes(8 << 20))
    assert reading_of(small, tmp_path / "a.csv.gz", bomb[:-9]).whole
    assert not reading_of(folder, tmp_path / "a.csv.gz", bomb[:-9]).whole


def test_a_packed_file_that_is_cut_waits_like_one_without_its_newline(folder: Folder) -> None:
    """It is read first, then `hold_tail` counts."""
    candidate, packed = heard_at(0.0), Probe(writer=False, ended=None)
    assert isinstance(verdict(folder, candidate, now=2.0, found=packed), Unread)
    candidate.reading = Reading(Seen(LOOK), whole=False)
    waiting = verdict(folder, candidate, now=3.0, found=packed)
    assert isinstance(waiting, Waiting)
    assert "its packed content has no end" in waiting.why
    assert isinstance(verdict(folder, candidate, now=300.0, found=packed), Ready)
    candidate.reading = Reading(Seen(LOOK), whole=True)
    assert isinstance(verdict(folder, candidate, now=4.0, found=packed), Ready)


def test_what_a_file_lacks_beside_quiet_time_can_be_asked_without_memory(folder: Folder) -> None:
    """A candidate that has been quiet for as long as any, but not for `hold_tail`."""
    cut = verdict(folder, Candidate.calm(folder, 1000.0), now=1000.0, found=Probe(writer=False, ended=False))
    assert isinstance(cut, Waiting)
    assert "no end" in cut.why
    assert isinstance(verdict(folder, Candidate.calm(folder, 1000.0), now=1000.0), Ready)
