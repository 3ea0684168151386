"""How long finished files are kept: what goes and what stays, on disk and in the ledger, whatever cuts it off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from console import ask, command, objects
from kit import Kit
from scene import KEY, Scene, make_scene

from dropzone import config as configuration
from dropzone.drop import Accepted, Drop, Expired, Retried, State
from dropzone.errors import FolderError, OperatorError
from dropzone.folders.expiring import find_old, remove_old
from dropzone.keeping import find_expired, prune
from dropzone.ledger.sqlite import SQLiteLedger, SQLiteReader
from dropzone.operate import order
from dropzone.sandbox import Sandbox

GOOD, BAD = b"email,varr_a\nann@example.com,Ann\n", b"email,varr_a\nnobody,x\nann@example.com,Ann\n"
DAY = 86400.0


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture
def scene(tmp_path: Path, sandbox: Sandbox) -> Scene:
    """One file done with a rejects file, one failed; both long ago by the clock of this scene."""
    folders = "acme: {segment_id: 1, mode: lead, bad_rows: 50%, retention: {done: 90d, failed: 365d}, duplicates: skip}"
    scene = make_scene(tmp_path, sandbox.url, folders=folders, defaults="settle: 1s")
    scene.put("good.csv", BAD)
    scene.put("bad.csv", b"email\nnobody\n")
    scene.settle()
    return scene


def drops(scene: Scene) -> dict[bytes, Drop]:
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        return {drop.name: drop for drop in reader.find_drops()}


def filed(scene: Scene) -> list[str]:
    """The kinds of files that lie in done/ and failed/."""
    root = scene.config.root
    return sorted(
        f"{path.relative_to(root).parts[0]} {path.name.partition('.')[2].partition('.')[2]}"
        for kind in ("done", "failed")
        for path in (root / kind).rglob("*")
        if path.is_file()
    )


EVERYTHING = ["done csv", "done log", "done rejects.csv", "failed csv", "failed log", "failed rejects.csv"]


def end_of(drop: Drop) -> float:
    """The end of the day on which a drop was decided."""
    assert drop.verdict_at is not None
    day = datetime.fromtimestamp(drop.verdict_at, UTC).date()
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + DAY


def run(scene: Scene, now: float) -> list[str]:
    with closing(SQLiteLedger(scene.config.state_dir)) as ledger:
        return [old.id for old in prune(scene.config, ledger, now=now)]


def test_files_go_when_the_folder_has_kept_them_long_enough(scene: Scene) -> None:
    """Not a second before the day is so long ago; then with log and rejects, and the empty folder of the date."""
    done = drops(scene)[b"good.csv"]
    assert filed(scene) == EVERYTHING
    assert run(scene, end_of(done) + 90 * DAY - 1) == []
    assert filed(scene) == EVERYTHING
    assert run(scene, end_of(done) + 90 * DAY) == [done.id]
    assert filed(scene) == EVERYTHING[3:]
    assert list((scene.config.root / "done" / "acme").iterdir()) == []
    assert run(scene, end_of(done) + 365 * DAY) == [drops(scene)[b"bad.csv"].id]
    assert filed(scene) == []


class Hurried(SQLiteLedger):
    """A ledger in which somebody retries a failed drop right after its row was read for the first time."""

    retried = False

    def find_drop(self, id: str) -> Drop | None:
        drop = super().find_drop(id)
        if drop is not None and drop.state is State.FAILED and not self.retried:
            self.retried = True  # the ledger reads the row itself when it commits
            self.commit(id, Retried(by="ann", why=""), at=drop.changed_at)
        return drop


def test_a_retry_at_the_same_moment_wins(scene: Scene) -> None:
    """Its files stay, and what else is too old goes all the same."""
    done = drops(scene)[b"good.csv"]
    with closing(Hurried(scene.config.state_dir)) as ledger:
        gone = [old.id for old in prune(scene.config, ledger, now=end_of(done) + 400 * DAY)]
    assert gone == [done.id]
    assert filed(scene) == EVERYTHING[3:]
    assert drops(scene)[b"bad.csv"].state is State.QUEUED


def test_the_row_stays_without_its_history(scene: Scene, sandbox: Sandbox) -> None:
    """A duplicate is known by it; show says what became of the files; a retry has nothing to bring back."""
    done = drops(scene)[b"good.csv"]
    failed = drops(scene)[b"bad.csv"]
    later = end_of(done) + 400 * DAY
    run(scene, later)
    with closing(SQLiteLedger(scene.config.state_dir)) as ledger:
        after = ledger.find_drop(done.id)
        assert after is not None
        assert (after.state, after.digest, after.path) == (State.DONE, done.digest, "")
        accepted, expired = (entry.event for entry in ledger.history(done.id))
        assert isinstance(accepted, Accepted)
        assert expired == Expired(days=90)
        assert ledger.attempts(done.id) == []
        assert done.digest is not None
        assert [each.id for each in ledger.find_accepted("main", 1, done.digest)] == [done.id]
        gone = ledger.find_drop(failed.id)
        assert gone is not None
        with pytest.raises(OperatorError, match="is gone from failed/"):
            order(ledger, "retry", gone, by="ann", why="", at=later)
    out = ask(scene, "show", done.id)[1]
    assert "its files were deleted, as the folder keeps them for 90 days" in out
    (shown,) = objects(scene, "show", done.id)
    assert (shown["file"], [each["event"] for each in shown["events"]]) == (None, ["Accepted", "Expired"])


def test_a_folder_that_has_nothing_filed_yet_has_nothing_old(scene: Scene) -> None:
    """Its place in done/ is made with the first file, and may have been taken away."""
    shutil.rmtree(scene.config.root / "done" / "acme")
    now = scene.clock.wall + 999 * DAY
    assert list(find_old(scene.config.root, "done", "acme", keep_s=DAY, now=now)) == []


def test_without_retention_nothing_ever_goes(scene: Scene) -> None:
    """It is off by default, and by the word none."""
    file = scene.at / "dropzone.yaml"
    file.write_text(file.read_text().replace(", retention: {done: 90d, failed: 365d}", ""))
    scene.config = configuration.load(file)
    assert list(find_expired(scene.config, now=scene.clock.wall + 9999 * DAY)) == []


def test_only_what_has_our_names_is_touched(scene: Scene) -> None:
    """Other files, folders, links and dates that are none stay, whatever lies beside what goes."""
    done = drops(scene)[b"good.csv"]
    place = scene.config.root / "done" / "acme"
    (day,) = place.iterdir()
    keep = [day / "notes.txt", day / "x.csv", day / f"x.{done.id}.csv\n", place / "old" / "x.csv"]
    keep += [place / date / f"x.{done.id}.csv" for date in ("2026-13-45", "0000-00-00", "9999-12-31")]
    for path in keep:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (day / f"link.{done.id}.csv").symlink_to(keep[0])
    (day / f"folder.{done.id}.csv").mkdir()
    run(scene, end_of(done) + 90 * DAY)
    assert all(path.exists() for path in keep)
    assert (day / f"link.{done.id}.csv").is_symlink()
    assert sorted(path.name for path in day.iterdir() if path.is_file() and not path.is_symlink()) == [
        "notes.txt",
        f"x.{done.id}.csv\n",
        "x.csv",
    ]


def test_a_drop_that_is_tried_again_keeps_its_file(scene: Scene, sandbox: Sandbox) -> None:
    """Retried, and not yet brought back: its file in failed/ is the only one there is."""
    failed = drops(scene)[b"bad.csv"]
    with closing(SQLiteLedger(scene.config.state_dir)) as ledger:
        order(ledger, "retry", failed, by="ann", why="", at=scene.clock.wall)
    run(scene, end_of(failed) + 400 * DAY)
    assert filed(scene) == EVERYTHING[3:]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_whatever_cuts_it_off_the_next_look_ends_it(scene: Scene, left: int) -> None:
    """The row is committed first; each file that is still there is found again, and no second event is written."""
    done = drops(scene)[b"good.csv"]
    now = end_of(done) + 90 * DAY
    with closing(SQLiteLedger(scene.config.state_dir)) as ledger:
        ledger.commit(done.id, Expired(days=90), at=now)
    (old,) = find_old(scene.config.root, "done", "acme", keep_s=90 * DAY, now=now)
    for name in old.names[:left]:
        (old.place / name.decode()).unlink()
    assert old.names[-1].endswith(b".log")
    assert run(scene, now) == [done.id]
    assert filed(scene) == EVERYTHING[3:]
    remove_old(old)  # and once more changes nothing
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        assert [type(entry.event) for entry in reader.history(done.id)] == [Accepted, Expired]


def test_a_stop_ends_it_between_two_drops(scene: Scene) -> None:
    """What is left waits for the next day."""
    with closing(SQLiteLedger(scene.config.state_dir)) as ledger:
        assert list(prune(scene.config, ledger, now=scene.clock.wall + 999 * DAY, stopping=lambda: True)) == []
    assert filed(scene) == EVERYTHING


def test_a_place_that_cannot_be_listed_keeps_no_other_waiting(scene: Scene) -> None:
    """done/ is a link now: nobody follows it, and failed/ is pruned all the same."""
    done = drops(scene)[b"good.csv"]
    place = scene.config.root / "done" / "acme"
    place.rename(scene.at / "elsewhere")
    place.symlink_to(scene.at / "elsewhere")
    now = end_of(done) + 999 * DAY
    with pytest.raises(FolderError):
        list(find_old(scene.config.root, "done", "acme", keep_s=DAY, now=now))
    assert run(scene, now) == [drops(scene)[b"bad.csv"].id]
    assert list((scene.at / "elsewhere").rglob("*.csv"))


# ------------------------------------------------------------------------------------------------------- by a person


def make_old(scene: Scene) -> None:
    """Give both date folders a date of long ago, as `prune` has the machine's own clock."""
    for kind in ("done", "failed"):
        (day,) = (scene.config.root / kind / "acme").iterdir()
        day.rename(day.with_name("2001-02-03"))


def test_prune_tells_first_and_deletes_then(scene: Scene) -> None:
    """A line for each date; --dry-run deletes nothing; in the end there is nothing left to do."""
    make_old(scene)
    code, out, err = ask(scene, "prune", "--dry-run")
    assert (code, err) == (0, "")
    assert "acme    done    2001-02-03      1" in out
    assert "2 drops" in out
    assert filed(scene) == EVERYTHING
    members = objects(scene, "prune", "--dry-run")
    assert [(each["verdict"], each["date"], len(each["files"])) for each in members] == [
        ("done", "2001-02-03", 3),
        ("failed", "2001-02-03", 3),
    ]
    assert ask(scene, "prune")[0] == 0
    assert filed(scene) == []
    assert ask(scene, "prune")[1] == "Nothing is kept longer than it should be.\n"


def test_a_reader_that_has_seen_enough_keeps_no_file(scene: Scene) -> None:
    """`dropzone prune | head -1`: 0, and what should go is gone."""
    make_old(scene)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:  # noqa: PTH123
        done = subprocess.run(command(scene, "prune"), stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert filed(scene) == []


def test_what_is_old_behind_a_link_goes_too(scene: Scene) -> None:
    """The root may be a link of the operator's."""
    make_old(scene)
    scene.config.root.rename(scene.at / "elsewhere")
    scene.config.root.symlink_to("elsewhere")
    assert "2 drops" in ask(scene, "prune", "--dry-run")[1]
    assert ask(scene, "prune")[0] == 0
    assert filed(scene) == []


def test_a_drop_whose_files_have_gone_is_not_missing(scene: Scene) -> None:
    """`show` says that they were deleted as they should be, and sends nobody looking for them."""
    make_old(scene)
    assert ask(scene, "prune")[0] == 0
    for drop in drops(scene).values():
        assert ask(scene, "show", drop.id)[1].endswith("\n\nThe file is deleted, as `retention:` says\n")


def test_a_clock_that_jumps_ahead_deletes_nothing_for_a_day(scene: Scene) -> None:
    """It may be wrong, and what it calls old is gone for good: that is told, and there is a day to set it right."""
    looks: list[float] = []
    kit = Kit(scene, keep=lambda _: looks.append(scene.clock.wall))

    def after(monotonic_s: float, wall_s: float) -> int:
        scene.clock.monotonic += monotonic_s
        scene.clock.wall += wall_s
        kit.turn()
        kit.daemon._keeper.join()
        return len(looks)

    with closing(kit):
        kit.daemon.start()
        assert after(60, 60) == 1  # at its start
        assert after(DAY, DAY + 3600) == 2  # summer time set by hand, say
        assert after(DAY, 400 * DAY) == 2
        (told,) = kit.told("the clock has leapt ahead")
        assert (told["level"], told["days"]) == ("warning", 399.0)
        assert after(DAY / 2, DAY / 2) == 2
        kit.daemon.keep()  # ordered by somebody who knows
        assert after(1, 1) == 3
        assert after(DAY, DAY) == 4
        assert after(DAY, -500 * DAY) == 5  # back again: nothing is old by that


def test_the_daemon_prunes_by_itself_and_when_it_is_asked(scene: Scene) -> None:
    """At its start and once a day; in between `prune` has it do so at once."""
    make_old(scene)
    with subprocess.Popen(command(scene, "run"), stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr
        try:
            assert any("old files were deleted" in line for line in daemon.stderr)
            assert filed(scene) == []
            place = scene.config.root / "done" / "acme" / "2001-02-03"
            place.mkdir()
            (place / "x.2N23520SJ9AH.csv").write_bytes(GOOD)
            assert ask(scene, "prune")[0] == 0
            assert any('"bytes": 33' in line for line in daemon.stderr)
            assert not place.exists()
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.stderr.read()
