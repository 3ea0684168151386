"""Several drops filed at once: deaths, faults and meddling in the middle of a batch.

Real folders, a real ledger and a real server. What each of them ends as is what it would have ended as alone.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import kit_on
from scene import KEY, Scene, Step, Turn, assert_kept, make_scene

from dropzone.daemon import ENVIRONMENT_S, Left
from dropzone.drop import DECIDED, Retried, State
from dropzone.ledger import Pause
from dropzone.sandbox import Sandbox

FOLDERS = "acme: {segment_id: 1, mode: lead, bad_rows: 1}\nglobex: {segment_id: 2, mode: lead}"
ONE_BAD = b"email\nann@example.com\nnobody\n"
ALL_BAD = b"email\nnobody\nno one\n"
GOOD = b"email\nbob@example.com\n"
ENDS = {"a.csv": State.DONE, "b.csv": State.FAILED, "c.csv": State.DONE, "d.csv": State.DONE}


class Died(BaseException):
    """The end of a life, at an effect."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture
def make(tmp_path: Path, sandbox: Sandbox) -> Callable[[], Scene]:
    """A new scene each time, on the same server."""
    count = iter(range(1000))

    def make() -> Scene:
        at = tmp_path / str(next(count))
        at.mkdir()
        return make_scene(at, sandbox.url, folders=FOLDERS)

    return make


def decided(scene: Scene, sandbox: Sandbox) -> list[str]:
    """Four drops with their verdicts, none of them filed: accepted in part, refused, tried again, in another folder."""
    scene.put("a.csv", ONE_BAD, folder="acme")
    scene.put("b.csv", ALL_BAD, folder="acme")
    scene.put("c.csv", GOOD, folder="acme")
    scene.put("d.csv", GOOD, folder="globex")
    with scene.turn() as turn:
        turn.start()
        ids = [drop.id for drop in turn.take()]
        turn.pipeline.deliver(ids[0])
        turn.pipeline.deliver(ids[1])
        sandbox.fault("status", status=422)
        turn.pipeline.run(ids[2])
        turn.ledger.commit(ids[2], Retried(by="ann"), at=scene.clock.wall)
        for id in ids:
            turn.pipeline.deliver(id)
        assert all(drop.state in DECIDED for drop in turn.ledger.find_drops())
    return ids


def assert_filed(scene: Scene, turn: Turn) -> None:
    drops = turn.ledger.find_drops()
    assert {os.fsdecode(drop.name): drop.state for drop in drops} == ENDS
    assert_kept(scene, drops)
    for drop in drops:
        filed = Path(drop.base, str(drop.path))
        names = {path.name.removeprefix(filed.stem) for path in filed.parent.glob(f"{filed.stem}*")}
        assert names == {".csv", ".log"} | ({".rejects.csv"} if drop.name in (b"a.csv", b"b.csv") else set())
        assert drop.id in filed.with_suffix(".log").read_text()
    assert not list((scene.config.root / "work").glob("[0-9A-Z]*")), "remains in work/"


def is_filing(step: str) -> bool:
    return step.startswith(("file:", "bring back:")) or step == "ledger: commit Filed"


def steps_of(scene: Scene, ids: list[str]) -> list[str]:
    names: list[str] = []
    with scene.turn(names.append) as turn:
        turn.pipeline.file(ids)
        assert_filed(scene, turn)
    return [name for name in names if is_filing(name)]


def at_step(k: int, act: Callable[[], None], chosen: Callable[[str], bool] = is_filing) -> Step:
    """A step that does `act` at the `k`-th (from 0 on) of the `chosen` effects."""
    left = iter(range(k + 1))

    def step(name: str) -> None:
        if chosen(name) and next(left, None) == k:
            act()

    return step


def die() -> None:
    raise Died


def test_a_death_at_each_effect_of_a_batch(make: Callable[[], Scene], sandbox: Sandbox) -> None:
    """Whatever was moved by then and whatever was not: all are filed at the next start, with their logs."""
    scene = make()
    steps = steps_of(scene, decided(scene, sandbox))
    assert steps.count("file: move original") == 4
    assert steps[-1] == "ledger: commit Filed"
    for k in range(len(steps)):
        scene = make()
        ids = decided(scene, sandbox)
        sent = len(sandbox.imports)
        with scene.turn(at_step(k, die)) as turn, pytest.raises(Died):
            turn.pipeline.file(ids)
        scene.settle()
        with scene.turn() as turn:
            assert_filed(scene, turn)
        assert len(sandbox.imports) == sent


FAULTS = [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EMFILE, errno.EIO]


def test_a_fault_of_the_machine_at_each_effect_of_a_batch(make: Callable[[], Scene], sandbox: Sandbox) -> None:
    """It is told once, no drop is judged by it, and once it is over all are filed."""

    def may_fail(step: str) -> bool:  # a sync tells its error by itself: see `sync_all`
        return is_filing(step) and "sync" not in step

    scene = make()
    steps = list(filter(may_fail, steps_of(scene, decided(scene, sandbox))))
    for k in range(len(steps)):
        number = FAULTS[k % len(FAULTS)]

        def fail(number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        scene = make()
        decided(scene, sandbox)
        with kit_on(scene, at_step(k, fail, may_fail)) as kit:
            kit.daemon.start()
            kit.turn()
            assert os.strerror(number) in kit.daemon.fault
            assert len(kit.told("intake and sending pause")) == 1
            assert not kit.told("unexpected error")
            kit.after(ENVIRONMENT_S)
            assert kit.daemon.fault == ""
        with scene.turn() as turn:
            assert_filed(scene, turn)


def test_results_that_somebody_clears_away_in_the_middle_are_made_anew(
    make: Callable[[], Scene], sandbox: Sandbox
) -> None:
    """done/ goes with the logs that were in it by then; no file was, so none is lost, and the logs come out again."""
    scene = make()
    ids = decided(scene, sandbox)
    gone = at_step(0, lambda: shutil.rmtree(scene.config.root / "done"), lambda step: step == "file: move original")
    with scene.turn(gone) as turn:
        due_at = turn.pipeline.file(ids)
        assert [due_at[id] is None for id in ids] == [False, True, False, False]
    with scene.turn() as turn:
        turn.pipeline.file(ids)
        assert {os.fsdecode(drop.name): drop.state for drop in turn.ledger.find_drops()} == ENDS
        assert_kept(scene, turn.ledger.find_drops())


def test_work_that_is_away_is_waited_for(make: Callable[[], Scene], sandbox: Sandbox) -> None:
    """A mount that vanished says nothing about the files on it: filed once it is back."""
    scene = make()
    ids = decided(scene, sandbox)
    work = scene.config.root / "work"
    work.rename(scene.at / "away")
    with scene.turn() as turn:
        due_at = turn.pipeline.file(ids)
        assert None not in due_at.values()
        assert all(drop.state in DECIDED for drop in turn.ledger.find_drops())
        (scene.at / "away").rename(work)
        turn.pipeline.file(ids)
        assert_filed(scene, turn)


def test_what_cannot_be_filed_for_long_is_told_once(make: Callable[[], Scene], sandbox: Sandbox) -> None:
    """Each drop for itself, not each time that it is tried again, which is less and less often."""
    scene = make()
    ids = decided(scene, sandbox)
    place = scene.config.root / "done" / "acme"
    shutil.rmtree(place)
    place.touch()
    with scene.turn() as turn:
        waits_s = []
        for _ in range(8):
            due_at = turn.pipeline.file(ids)[ids[0]]
            assert due_at is not None
            waits_s.append(due_at - scene.clock.wall)
        assert waits_s == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0, 300.0, 300.0]
        assert len(turn.faults) == 2  # of the two that go there
        place.unlink()
        turn.pipeline.file(ids)
        assert_filed(scene, turn)


def test_a_run_that_leaves_a_verdict_unfiled_says_so(make: Callable[[], Scene], sandbox: Sandbox) -> None:
    """Something lies where its folder should be: the file is in neither, and the run is not done."""
    scene = make()
    place = scene.config.root / "done" / "acme"
    place.rmdir()
    place.touch()
    scene.put("c.csv", GOOD, folder="acme")
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.settle()
        assert kit.states() == {"c.csv": State.ACCEPTED}
        assert kit.daemon.left_over() == Left(failed=False, waiting=True, paused=False)
        place.unlink()
        kit.after(900.0)
        assert kit.daemon.left_over() == Left(failed=False, waiting=False, paused=False)


def test_a_check_waits_for_work_that_is_away(make: Callable[[], Scene], sandbox: Sandbox) -> None:
    """However long that takes, nothing is held for it, and then the file is sent."""
    scene = make()
    work = scene.config.root / "work"
    scene.put("c.csv", GOOD, folder="acme")
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.ledger.change_folder("acme", Pause(by="ann", why="", at=1.0), by="ann", at=1.0)
        kit.daemon.switch("folder", "acme", lambda: None)
        kit.settle()
        work.rename(scene.at / "away")
        kit.daemon.switch("folder", "acme", lambda: kit.ledger.change_folder("acme", None, by="ann", at=2.0))
        for _ in range(10):
            kit.after(900.0)
        (drop,) = kit.ledger.find_drops()
        assert (drop.state, drop.faults) == (State.QUEUED, 0)
        assert "cannot open" in drop.reason
        (scene.at / "away").rename(work)
        kit.after(60.0)
        assert kit.states() == {"c.csv": State.DONE}
