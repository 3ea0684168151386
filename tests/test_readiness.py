"""The rule that says when a file is complete, on looks made by hand and on real open files."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from dropzone.config import Folder
from dropzone.readiness import Candidate, Look, Probe, Ready, Seen, Unfit, Verdict, Waiting, judge, probe, why_ignored

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
    strict = folder.model_copy(update={"final_newline": "required"})
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
    assert why_ignored("test-1.csv", folder.model_copy(update={"ignore": ("TEST-*",)}))


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
