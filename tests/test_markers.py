"""Markers and checksums beside files: what they make ready, that they go with their file, and crashes in between."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from scene import Scene, Step, Turn, make_scene, no_step
from unprivileged import as_nobody

from dropzone.drop import State
from dropzone.folders import Folders
from dropzone.readiness import Ready, Unfit, Unread, Waiting

ROWS = b"email\nann@example.com\nbob@example.com\n"
SUM = hashlib.sha256(ROWS).hexdigest().encode() + b"  a.csv\n"


def made(tmp_path: Path, marker: str, url: str = "http://127.0.0.1:1") -> Scene:
    return make_scene(tmp_path, url, folders=f"acme: {{segment_id: 1, mode: lead, marker: {marker}}}")


@pytest.fixture
def done(tmp_path: Path) -> Scene:
    """A folder that asks for `.done` markers."""
    return made(tmp_path, ".done")


@pytest.fixture
def summed(tmp_path: Path) -> Scene:
    """A folder that asks for SHA-256 sums."""
    return made(tmp_path, ".sha256")


def started(scene: Scene, step: Step = no_step) -> Turn:
    turn = Turn(scene, step)
    turn.start()
    turn.intake.tick()
    return turn


def arrive(turn: Turn, name: str, content: bytes) -> None:
    turn.scene.put(name, content)
    turn.intake.hear("acme", os.fsencode(name), closed=True)


def after(turn: Turn, seconds: float) -> list[bytes]:
    turn.scene.clock.move(seconds)
    return [drop.name for drop in turn.intake.tick()]


def in_inbox(scene: Scene) -> list[str]:
    return sorted(path.name for path in scene.inbox.iterdir())


def in_work(scene: Scene) -> list[str]:
    return sorted(path.name for place in (scene.config.root / "work").glob("[0-9A-Z]*") for path in place.iterdir())


# ------------------------------------------------------------------------------------------------- .done markers


def test_a_file_is_taken_half_a_second_after_its_marker(done: Scene) -> None:
    """The event of the marker wakes its file; both leave the inbox."""
    turn = started(done)
    arrive(turn, "a.csv", ROWS)
    assert after(turn, 0.0) == after(turn, 100.0) == []
    arrive(turn, "a.csv.done", b"")
    assert after(turn, 0.0) == after(turn, 0.4) == []
    assert after(turn, 0.1) == [b"a.csv"]
    assert in_inbox(done) == []
    turn.close()


def test_the_next_file_of_that_name_needs_its_own_marker(done: Scene) -> None:
    """The old marker went with the old file."""
    turn = started(done)
    for _ in range(2):
        arrive(turn, "a.csv", ROWS)
        assert after(turn, 600.0) == after(turn, 600.0) == []
        arrive(turn, "a.csv.done", b"")
        assert after(turn, 0.0) == []
        assert after(turn, 0.5) == [b"a.csv"]
    turn.close()


def test_a_marker_that_no_event_told_of_is_found_by_the_scan(done: Scene) -> None:
    """Network mounts tell nothing."""
    turn = started(done)
    done.put("a.csv", ROWS)
    turn.intake.scan_soon()
    assert after(turn, 0.0) == after(turn, 20.0) == []
    done.put("a.csv.done", b"")
    assert after(turn, 15.0) == []
    assert after(turn, 0.5) == [b"a.csv"]
    turn.close()


def test_a_file_without_its_marker_is_reported_once(done: Scene) -> None:
    """After `stall_alert`: the partner's client may have died before it."""
    turn = started(done)
    arrive(turn, "a.csv", ROWS)
    for _ in range(100):
        assert after(turn, 60.0) == []
    ((folder, name, why),) = turn.left_alone
    assert (folder, name) == ("acme", b"a.csv")
    assert "its marker, the same name and .done, is not there" in why
    turn.close()


def test_a_marker_without_a_file_makes_nothing_ready_and_is_reported_after_a_day(done: Scene) -> None:
    """Somebody took the file and left the marker: it lies there, and people should know."""
    turn = started(done)
    arrive(turn, "a.csv.done", b"")
    assert after(turn, 60.0) == []
    assert turn.left_alone == []
    done.clock.wall = (done.inbox / "a.csv.done").stat().st_ctime + 86_500.0
    assert after(turn, 60.0) == after(turn, 60.0) == []
    ((_, name, why),) = turn.left_alone
    assert name == b""
    assert why == "1 unfinished uploads have lain here for more than a day, such as a.csv.done"
    turn.close()


class Died(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


def dying(at: str) -> Step:
    def step(name: str) -> None:
        if name == at:
            raise Died

    return step


STEPS = ["claim: make work/ID", "claim: write origin", "claim: rename marker", "claim: rename", "claim: sync folder"]


@pytest.mark.parametrize("at", [*STEPS, "ledger: commit Claimed"])
def test_a_crash_anywhere_in_the_claim_leaves_no_marker_behind(done: Scene, at: str) -> None:
    """Wherever we die: the next life takes the file once, and a marker is left neither in the inbox nor in work/."""
    turn = started(done, dying(at))
    arrive(turn, "a.csv", ROWS)
    arrive(turn, "a.csv.done", b"")
    assert after(turn, 0.0) == []
    with pytest.raises(Died):
        after(turn, 0.5)
    turn.ledger.close()
    with done.turn() as again:
        again.start()
        again.take()
        assert [drop.name for drop in again.ledger.find_drops()] == [b"a.csv"]
    assert in_inbox(done) == []
    assert in_work(done) == ["marker", "origin", "original"]


def test_a_marker_that_is_put_back_never_replaces_a_new_one(done: Scene) -> None:
    """We died between marker and file, and the partner began again meanwhile: his new marker stands."""
    turn = started(done, dying("claim: rename"))
    arrive(turn, "a.csv", ROWS)
    arrive(turn, "a.csv.done", b"old")
    after(turn, 0.0)
    with pytest.raises(Died):
        after(turn, 0.5)
    turn.ledger.close()
    done.put("a.csv.done", b"new")
    with done.turn() as again:
        again.start()
        assert (done.inbox / "a.csv.done").read_bytes() == b"new"
        assert in_work(done) == []


def test_a_marker_of_a_folder_that_is_gone_is_kept(done: Scene) -> None:
    """Nobody knows where it belongs: it stays in work/ until the folder is configured again."""
    turn = started(done, dying("claim: rename"))
    arrive(turn, "a.csv", ROWS)
    arrive(turn, "a.csv.done", b"")
    after(turn, 0.0)
    with pytest.raises(Died):
        after(turn, 0.5)
    turn.ledger.close()
    assert Folders().orphans(done.config.root, lambda _: False) == []
    assert in_work(done) == ["marker", "origin"]


@pytest.mark.skipif(os.geteuid() != 0, reason="as root every folder is open; inside it is not root")
def test_a_marker_that_cannot_go_back_is_kept_until_it_can(tmp_path: Path) -> None:
    """The inbox is closed to us in the middle of a claim: both are where the next start finds them."""

    def step(name: str) -> None:
        if name == "claim: rename":
            scene.inbox.chmod(0o500)

    with as_nobody(owns=[tmp_path]):
        scene = made(tmp_path, ".done")
        turn = started(scene, step)
        arrive(turn, "a.csv", ROWS)
        arrive(turn, "a.csv.done", b"")
        assert after(turn, 0.0) == after(turn, 0.5) == []
        assert in_work(scene) == ["marker", "origin"]
        turn.close()
        scene.inbox.chmod(0o2770)
        with scene.turn() as again:
            again.start()
            assert in_inbox(scene) == ["a.csv", "a.csv.done"]
            assert [drop.name for drop in again.take() + again.take()] == [b"a.csv"]


def test_a_file_that_changes_during_its_claim_keeps_its_marker(done: Scene) -> None:
    """The claim is given up: both lie where they lay, and later both are taken."""
    acts: list[Callable[[], object]] = [lambda: done.put("a.csv", ROWS + b"eve@example.com\n")]

    def step(name: str) -> None:
        if name == "claim: rename marker" and acts:
            acts.pop()()

    turn = started(done, step)
    arrive(turn, "a.csv", ROWS)
    arrive(turn, "a.csv.done", b"")
    assert after(turn, 0.0) == after(turn, 0.5) == []
    assert in_inbox(done) == ["a.csv", "a.csv.done"]
    assert in_work(done) == []
    assert after(turn, 1.0) == []
    assert after(turn, 0.5) == [b"a.csv"]
    turn.close()


@pytest.mark.parametrize("what", ["gone", "another"])
def test_a_marker_that_is_not_the_one_that_was_seen_stops_the_claim(done: Scene, what: str) -> None:
    """Taken back, or made anew, between the look and the rename."""
    marker = done.inbox / "a.csv.done"

    def act() -> None:
        marker.rename(done.inbox / "old.done")
        if what == "another":
            marker.write_bytes(b"")

    acts: list[Callable[[], object]] = [act]

    def step(name: str) -> None:
        if name == "claim: rename marker" and acts:
            acts.pop()()

    turn = started(done, step)
    arrive(turn, "a.csv", ROWS)
    arrive(turn, "a.csv.done", b"")
    assert after(turn, 0.0) == after(turn, 0.5) == []
    assert (done.inbox / "a.csv").exists()
    assert marker.exists() == (what == "another")
    assert in_work(done) == []
    turn.close()


# ------------------------------------------------------------------------------------------------------- sums


def test_a_sum_that_came_first_waits_for_the_whole_file(summed: Scene) -> None:
    """The sum is there, the data is cut off and resumed: taken when it fits, not before."""
    turn = started(summed)
    arrive(turn, "a.csv.sha256", SUM)
    arrive(turn, "a.csv", ROWS[:20])
    assert after(turn, 0.0) == after(turn, 0.5) == after(turn, 60.0) == []
    arrive(turn, "a.csv", ROWS)
    assert after(turn, 0.0) == []
    assert after(turn, 0.5) == [b"a.csv"]
    assert in_inbox(summed) == []
    turn.close()


def test_a_file_that_never_fits_stays_and_is_reported_once(summed: Scene) -> None:
    """With both sums, so that the partner sees which of the two is wrong."""
    turn = started(summed)
    arrive(turn, "a.csv", ROWS[:-1])
    arrive(turn, "a.csv.sha256", SUM)
    for _ in range(100):
        assert after(turn, 60.0) == []
    ((_, name, why),) = turn.left_alone
    assert name == b"a.csv"
    assert hashlib.sha256(ROWS[:-1]).hexdigest()[:12] in why
    assert SUM[:12].decode() in why
    assert in_inbox(summed) == ["a.csv", "a.csv.sha256"]
    turn.close()


def test_a_corrected_sum_makes_its_file_ready(summed: Scene) -> None:
    """The partner had made it of another file."""
    turn = started(summed)
    arrive(turn, "a.csv", ROWS)
    arrive(turn, "a.csv.sha256", b"0" * 64)
    assert after(turn, 0.0) == after(turn, 0.5) == []
    arrive(turn, "a.csv.sha256", SUM)
    assert after(turn, 0.0) == []
    assert after(turn, 0.5) == [b"a.csv"]
    turn.close()


def test_what_a_client_changes_after_the_claim_is_held(summed: Scene) -> None:
    """It fitted, was taken, and then the client wrote on: the claimed bytes are compared again before they are sent."""
    turn = started(summed)
    arrive(turn, "a.csv", ROWS)
    arrive(turn, "a.csv.sha256", SUM)
    assert after(turn, 0.0) == []
    with (summed.inbox / "a.csv").open("rb+"):
        pass
    assert after(turn, 0.5) == [b"a.csv"]
    (drop,) = turn.ledger.find_drops()
    original = summed.config.root / "work" / drop.id / "original"
    with original.open("ab") as late:
        late.write(b"eve@example.com\n")
    turn.pipeline.run(drop.id)
    (drop,) = turn.ledger.find_drops()
    assert (drop.state, drop.guard) == (State.HELD, "checksum")
    assert "its SHA256 is" in drop.reason
    turn.close()


# ------------------------------------------------------------------------------------------------- empty files


@pytest.mark.parametrize(
    ("policy", "state", "reason"),
    [("hold", State.HELD, "the file is empty"), ("refuse", State.FAILED, "the file is empty")],
)
def test_what_becomes_of_an_empty_file(tmp_path: Path, policy: str, state: State, reason: str) -> None:
    """Held until somebody has looked, or refused and filed in failed/."""
    folders = f"acme: {{segment_id: 1, mode: lead, empty: {policy}}}"
    scene = make_scene(tmp_path, "http://127.0.0.1:1", folders=folders)
    scene.put("a.csv", b"")
    (drop,) = scene.settle()
    assert drop.state is state
    assert reason in drop.reason


def test_an_empty_file_may_be_left_where_it_is(tmp_path: Path) -> None:
    """`empty: ignore`: no drop, no report."""
    scene = make_scene(tmp_path, "http://127.0.0.1:1", folders="acme: {segment_id: 1, mode: lead, empty: ignore}")
    scene.put("a.csv", b"")
    with scene.turn() as turn:
        turn.start()
        for _ in range(5):
            assert turn.take() == []
        assert turn.left_alone == []
    assert in_inbox(scene) == ["a.csv"]


# ---------------------------------------------------------------------------------------------- asked by people


def test_what_a_fresh_look_says_of_each_file(summed: Scene) -> None:
    """For whoever asks why a file still lies there: what it lacks, without any memory of it."""
    summed.put("bare.csv", ROWS)
    for name, text in (("good", SUM), ("bad", b"0" * 64)):
        summed.put(f"{name}.csv", ROWS)
        summed.put(f"{name}.csv.sha256", text)
    (summed.inbox / "link.csv").symlink_to("/etc/passwd")
    with Folders().inbox(summed.config.folders["acme"]) as inbox:
        assert inbox.verdict(b"gone.csv") is None
        bare, link = inbox.verdict(b"bare.csv"), inbox.verdict(b"link.csv")
        assert isinstance(bare, Waiting)
        assert "its marker" in bare.why
        assert isinstance(link, Unfit)
        assert isinstance(inbox.verdict(b"good.csv"), Unread)
        assert isinstance(inbox.verdict(b"good.csv", thorough=True), Ready)
        bad = inbox.verdict(b"bad.csv", thorough=True)
        assert isinstance(bad, Waiting)
        assert "its .sha256 file says 000000000000" in bad.why
