"""The loop over real parts: lanes, the pool, pauses, reloads, the stop, the lock, and what systemd is told."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kit import Kit, kit_on
from scene import KEY, Scene, Step, assert_kept, make_scene

from dropzone import config as configuration
from dropzone import operate
from dropzone.config import Config
from dropzone.daemon import ENVIRONMENT_S, LONGEST_SLEEP_S, ROUND_S, Left
from dropzone.drop import Attempted, Drop, Lost, Report, State, make_id
from dropzone.errors import FolderError, LockedError, OperatorError
from dropzone.folders import Folders, Mark, Wanted
from dropzone.ledger import Pause
from dropzone.ledger.sqlite import SQLiteLedger
from dropzone.opening import lay_out
from dropzone.pipeline import AWAY_S
from dropzone.readiness import Seen
from dropzone.sandbox import Sandbox
from dropzone.service import notify, obey_signals, reloading, state_lock
from dropzone.telemetry import Journal

ROWS = b"email\nann@example.com\n"
TWO = "acme: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}"
PATIENCE_S = 20.0
PAUSE = Pause(by="ann", why="a look", at=1.0)


class Died(BaseException):
    """The end of a life, at an effect."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture
def scene(tmp_path: Path, sandbox: Sandbox) -> Scene:
    return make_scene(tmp_path, sandbox.url, folders=TWO)


@pytest.fixture
def kit(scene: Scene) -> Iterator[Kit]:
    """A kit, started."""
    with kit_on(scene) as kit:
        kit.daemon.start()
        yield kit


def failing(at: str, *, times: int = 1, number: int = errno.ENOSPC) -> Step:
    """A step that fails at the effect `at`, so many times, as a full disk does."""
    left = times

    def step(name: str) -> None:
        nonlocal left
        if name == at and left:
            left -= 1
            raise OSError(number, os.strerror(number))

    return step


def changed(scene: Scene, old: str, new: str) -> Config:
    """The configuration with a change, as a reload would read it."""
    file = scene.at / "dropzone.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return configuration.load(file)


# ------------------------------------------------------------------------------------------------- tick by hand


def test_a_file_goes_all_the_way_by_ticks(kit: Kit, sandbox: Sandbox) -> None:
    """Each tick says how long nothing can happen; at the end file and log lie in done/."""
    scene = kit.scene
    assert kit.turn() == 15.0
    scene.put("a.csv", ROWS, folder="acme")
    kit.daemon.hear(scene.config.folders["acme"].path, b"a.csv")
    assert kit.turn() == 2.0
    assert 0.0 < kit.after(2.0) <= 13.0
    assert kit.states() == {"a.csv": State.DONE}
    assert [each.segment for each in sandbox.imports] == [1]
    assert kit.daemon.left_over() == Left(failed=False, waiting=False, paused=False)
    assert_kept(scene, kit.ledger.find_drops())


def test_the_scan_finds_what_no_event_told_of(kit: Kit) -> None:
    """Inotify may say nothing at all."""
    kit.scene.put("a.csv", ROWS, folder="globex")
    kit.settle()
    assert kit.states() == {"a.csv": State.DONE}


def test_events_of_other_directories_are_nobodys_business(kit: Kit, tmp_path: Path) -> None:
    """A sub-folder of an inbox, a folder that is not in the configuration."""
    kit.turn()
    kit.daemon.hear(tmp_path, b"a.csv")
    kit.daemon.hear(kit.scene.config.folders["acme"].path / "deeper", b"a.csv")
    assert kit.turn() == 15.0


def test_no_more_drops_are_under_way_than_allowed(tmp_path: Path, sandbox: Sandbox) -> None:
    """Ten lanes, `concurrency: 3`: three at once, and all are done in the end."""
    folders = "\n".join(f"f{number}: {{segment_id: {number}, mode: lead}}" for number in range(1, 11))
    scene = make_scene(tmp_path, sandbox.url, folders=folders)
    scene = replace(scene, config=changed(scene, "accounts:", "concurrency: 3\naccounts:"))
    for folder in scene.config.folders:
        scene.put("a.csv", ROWS, folder=folder)
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.settle()
        assert kit.most_at_once == 3
        assert len(sandbox.imports) == 10


def test_files_of_one_segment_arrive_in_order_through_deferrals(kit: Kit, sandbox: Sandbox) -> None:
    """The head of one lane must come again later: its lane waits with it, the other goes on."""
    sandbox.fault("status", status=408, segment=1)
    for number in range(3):
        kit.scene.put(f"a{number}.csv", b"email\na%d@example.com\n" % number, folder="acme")
        kit.scene.put(f"g{number}.csv", b"email\ng%d@example.com\n" % number, folder="globex")
    kit.settle()
    applied = [each for each in sandbox.imports if each.applied]
    for segment, letter in ((1, "a"), (2, "g")):
        firsts = [each.first[0] for each in applied if each.segment == segment]
        assert firsts == [f"{letter}{number}@example.com" for number in range(3)]
    kinds = [(drop.lane, type(event)) for drop, event in kit.events]
    lanes = [lane for lane, kind in kinds if kind is Attempted]
    assert lanes.count("main/1") == 4
    # The other lane was through before the waiting head came again.
    assert lanes.index("main/1", lanes.index("main/1") + 1) > len(lanes) - 4


def test_a_dead_key_stops_every_lane_of_its_account(kit: Kit, sandbox: Sandbox) -> None:
    """One 401 and no further request for a quarter of an hour; nothing is checked meanwhile; then all go."""
    sandbox.fault("status", status=401)
    kit.scene.put("a.csv", ROWS, folder="acme")
    kit.settle()
    kit.scene.put("b.csv", ROWS, folder="acme")
    kit.scene.put("g.csv", ROWS, folder="globex")
    kit.settle()
    assert len(sandbox.imports) == 1
    assert set(kit.states().values()) == {State.QUEUED}
    assert kit.daemon.left_over() == Left(failed=False, waiting=True, paused=True)
    assert kit.after(900.0) > 0
    kit.settle()
    assert set(kit.states().values()) == {State.DONE}


def test_a_reload_tries_a_paused_account_at_once(kit: Kit, sandbox: Sandbox) -> None:
    """One drop goes and shows whether it is mended; only then the others follow."""
    sandbox.fault("status", status=401, times=2)
    kit.scene.put("a.csv", ROWS, folder="acme")
    kit.settle()
    kit.scene.put("g.csv", ROWS, folder="globex")
    kit.settle()
    assert len(sandbox.imports) == 1
    for tried in (2, 4):
        kit.daemon.configure(kit.scene.config)
        kit.after(0.0)
        assert len(sandbox.imports) == tried
    assert set(kit.states().values()) == {State.DONE}


# ---------------------------------------------------------------------------------------------------------- start


def test_the_start_takes_up_what_an_earlier_run_left(scene: Scene, sandbox: Sandbox) -> None:
    """Queued drops, one found sending, and a file in work/ without a row."""
    scene.put("1.csv", ROWS, folder="acme")
    with scene.turn() as turn:
        turn.start()
        (sending,) = turn.take()
        turn.ledger.commit(sending.id, Attempted(n=1, digest="", size=0, report=Report()), at=scene.clock.wall)
        scene.put("2.csv", ROWS, folder="acme")
        turn.take()
    orphan(scene, "3.csv")
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.turn()
        assert kit.states() == {"1.csv": State.HELD, "2.csv": State.DONE, "3.csv": State.DONE}
        assert kit.daemon.left_over() == Left(failed=True, waiting=False, paused=False)
    assert len(sandbox.imports) == 2


def orphan(scene: Scene, name: str, folder: str = "acme") -> None:
    """A file in work/ without a row, as a crash right after the rename leaves it."""
    scene.put(name, ROWS, folder=folder)
    folders, here = Folders(), scene.config.folders[folder]
    look = folders.look(here, os.fsencode(name))
    assert look is not None
    scene.clock.move(0.01)
    assert folders.claim(here, [Wanted(id=make_id(scene.clock.wall), name=os.fsencode(name), seen=Seen(look))])[0]


def test_a_ledger_that_is_another_one_is_said_so_and_nothing_is_sent(scene: Scene, sandbox: Sandbox) -> None:
    """The state folder was lost: what lies in work/ is held, and what comes now is sent."""
    with kit_on(scene) as kit:
        kit.daemon.start()
    orphan(scene, "old.csv")
    for file in scene.config.state_dir.glob("ledger.db*"):
        file.unlink()
    scene.put("new.csv", ROWS, folder="acme")
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.settle()
        assert kit.states() == {"old.csv": State.HELD, "new.csv": State.DONE}
        (line,) = kit.told("the ledger is not the one that knew this work folder")
        assert line["path"] == str(scene.config.root / "work")
    assert len(sandbox.imports) == 1


def test_an_older_copy_of_the_ledger_sends_nothing_that_it_knew(scene: Scene, sandbox: Sandbox) -> None:
    """Copied while files waited, put back after one was sent: none is offered again; what comes now is sent."""
    sandbox.fault("lost_answer", segment=1)
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.daemon.switch("folder", "acme", lambda: kit.ledger.change_folder("acme", PAUSE, by="ann", at=1.0))
        scene.put("a.csv", ROWS, folder="acme")
        kit.settle()
        assert kit.states() == {"a.csv": State.QUEUED}
        with contextlib.closing(sqlite3.connect(scene.config.state_dir / "copy.db")) as copy:
            kit.ledger._db.backup(copy)
        kit.daemon.switch("folder", "acme", lambda: kit.ledger.change_folder("acme", None, by="ann", at=1.0))
        kit.settle()
        assert kit.states() == {"a.csv": State.HELD}
        assert len(sandbox.imports) == 1
        kit.after(60.0)  # the round that writes down how far the ledger is
    for file in scene.config.state_dir.glob("ledger.db*"):
        file.unlink()
    (scene.config.state_dir / "copy.db").rename(scene.config.state_dir / "ledger.db")
    with contextlib.closing(SQLiteLedger(scene.config.state_dir)) as ledger:
        ledger.change_folder("acme", None, by="ann", at=2.0)
    with kit_on(scene) as kit:
        kit.daemon.start()
        scene.put("g.csv", ROWS, folder="globex")
        kit.settle()
        assert kit.told("an older copy of the one that knew this work folder")
        (drop,) = kit.ledger.find_drops(folder="acme")
        assert (drop.state, drop.guard) == (State.HELD, "no record")
        assert kit.states()["g.csv"] is State.DONE
    assert len([each for each in sandbox.imports if each.segment == 1]) == 1


def test_what_an_older_copy_has_as_under_way_is_held_as_no_record(scene: Scene, sandbox: Sandbox) -> None:
    """Sending, unknown or waiting when the copy was made: whatever came of it since, nobody offers it again."""
    with scene.turn() as turn:
        turn.start()
        for n in range(3):
            scene.put(f"{n}.csv", ROWS, folder="acme")
        sending, lost, _ = turn.take()
        for drop in (sending, lost):
            turn.ledger.commit(drop.id, Attempted(n=1, digest="", size=0, report=Report()), at=scene.clock.wall)
        turn.ledger.commit(lost.id, Lost(cause="no answer", sent=None), at=scene.clock.wall)
        Folders().write_mark(scene.config.root, Mark(ledger=turn.ledger.id, written=turn.ledger.written + 1))
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.settle()
        found = kit.ledger.find_drops()
        assert [(drop.state, drop.guard) for drop in found] == [(State.HELD, "no record")] * 3
        assert not sandbox.imports
        order(kit, "retry", lost.id)  # who ordered it has looked
        kit.settle()
        (done,) = kit.ledger.find_drops(states=[State.DONE])
        log = (scene.config.root / str(done.path)).with_suffix(".log").read_text()
        assert "to be offered again, though OptiPub may have it already, by ann" in log
        assert "though OptiPub may have them already from attempt 1" in log
    assert len(sandbox.imports) == 1


def test_what_an_older_copy_has_as_held_may_have_been_released_since(tmp_path: Path, sandbox: Sandbox) -> None:
    """Released and sent after the copy was made: it is held as no record, with its lane, and no release sends it."""
    scene = make_scene(
        tmp_path, sandbox.url, folders="acme: {segment_id: 1, mode: lead, clear: true, guards: {max_rows: 1}}"
    )
    sandbox.fault("lost_answer")
    with kit_on(scene) as kit:
        kit.daemon.start()
        scene.put("a.csv", ROWS + b"bob@example.com\n")
        kit.settle()
        (held,) = kit.ledger.find_drops()
        assert held.guard == "max_rows"
        with contextlib.closing(sqlite3.connect(scene.config.state_dir / "copy.db")) as copy:
            kit.ledger._db.backup(copy)
        order(kit, "release", held.id)
        kit.settle()
        assert ROUND_S <= 60.0  # a copy that is older than a minute is noticed
        kit.after(ROUND_S)  # the round that writes down how far the ledger is
        assert len(sandbox.imports) == 1
    for file in scene.config.state_dir.glob("ledger.db*"):
        file.unlink()
    (scene.config.state_dir / "copy.db").rename(scene.config.state_dir / "ledger.db")
    with kit_on(scene) as kit:
        kit.daemon.start()
        scene.put("b.csv", ROWS)
        kit.settle()
        found = kit.ledger.find_drop(held.id)
        assert found is not None
        assert (found.state, found.guard) == (State.HELD, "no record")
        with pytest.raises(OperatorError, match="may be in OptiPub already"):
            order(kit, "release", held.id)
        assert kit.states()["b.csv"] is State.QUEUED  # sent later, the older list would wipe it
        order(kit, "accept", held.id)
        kit.settle()
        assert set(kit.states().values()) == {State.DONE}
    assert len(sandbox.imports) == 2


@pytest.mark.parametrize("effect", range(1, 6))  # the ledger's own first commit is no effect of this
def test_a_crash_while_an_older_copy_is_taken_up_sends_nothing(scene: Scene, sandbox: Sandbox, effect: int) -> None:
    """Whatever was held before we died, the next start still sees that the ledger is an older copy."""
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.daemon.switch("folder", "acme", lambda: kit.ledger.change_folder("acme", PAUSE, by="ann", at=1.0))
        for n in range(3):
            scene.put(f"{n}.csv", ROWS, folder="acme")
        kit.settle()
        kit.ledger.change_folder("acme", None, by="ann", at=1.0)
        written = kit.ledger.written
    work = scene.config.root
    Folders().write_mark(work, Mark(ledger=Folders().read_mark(work).ledger, written=written + 2))
    left = iter(range(effect + 1))

    def die(_: str) -> None:
        if next(left, None) == effect:
            raise Died

    with kit_on(scene, die) as kit, pytest.raises(Died):
        kit.daemon.start()
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.settle()
        assert {drop.guard for drop in kit.ledger.find_drops()} == {"no record"}
    assert not sandbox.imports


def test_a_folder_that_cannot_be_used_is_reported_with_its_mend(scene: Scene) -> None:
    """The inbox is missing: said at the start; the others work; made later, it works without a restart."""
    inbox = scene.config.folders["acme"].path
    inbox.rmdir()
    scene.put("g.csv", ROWS, folder="globex")
    with kit_on(scene) as kit:
        kit.daemon.start()
        (line,) = kit.told("a folder cannot be used")
        assert line["folder"] == "acme"
        assert "Make it with 'dropzone init'" in line["why"]
        kit.settle()
        inbox.mkdir()
        scene.put("a.csv", ROWS, folder="acme")
        kit.settle()
        assert kit.states() == {"g.csv": State.DONE, "a.csv": State.DONE}


# --------------------------------------------------------------------------------------------------------- reload


def test_a_folder_that_is_added_works_after_the_reload(kit: Kit) -> None:
    """With a spool of its own: its work/ is taken up, its inbox scanned, its events heard."""
    spool = kit.scene.at / "spool"
    config = changed(kit.scene, "globex:", f"initech: {{segment_id: 3, mode: lead, spool: {spool}}}\n  globex:")
    lay_out(config)
    inbox = config.folders["initech"].path
    (inbox / "i.csv").write_bytes(ROWS)
    kit.turn()
    kit.daemon.configure(config)
    kit.daemon.hear(inbox, b"i.csv")
    kit.turn()
    kit.after(2.0)
    assert kit.states() == {"i.csv": State.DONE}
    assert len(list((spool / "done" / "initech").rglob("*.log"))) == 1


def test_a_folder_that_is_removed_is_left_alone_after_the_reload(kit: Kit) -> None:
    """Its files stay; its drops that were claimed before still go their way."""
    kit.scene.put("a.csv", ROWS, folder="acme")
    kit.settle()
    config = changed(kit.scene, "  acme: {segment_id: 1, mode: lead}\n", "")
    kit.daemon.configure(config)
    kit.scene.put("b.csv", ROWS, folder="acme")
    kit.daemon.hear(kit.scene.config.folders["acme"].path, b"b.csv")
    kit.settle()
    assert kit.states() == {"a.csv": State.DONE}


# --------------------------------------------------------------------------------------------------------- orders


def order(kit: Kit, what: str, id: str) -> Drop:
    """An operator's order, as the control socket has the loop carry it out."""
    at = kit.scene.clock.wall
    return kit.daemon.order(id, lambda drop: operate.order(kit.ledger, what, drop, by="ann", why="", at=at))


def test_a_drop_that_is_released_goes_before_those_that_came_after_it(kit: Kit, sandbox: Sandbox) -> None:
    """Held while it waits, it lets its lane go on; released, it is the oldest again and goes at once."""
    sandbox.fault("status", status=408)
    kit.scene.put("1.csv", ROWS, folder="acme")
    kit.turn()
    kit.after(10.0)
    (first,) = kit.ledger.find_drops()
    assert order(kit, "hold", first.id).state is State.HELD
    sandbox.fault("status", status=408)
    kit.scene.put("2.csv", ROWS, folder="acme")
    kit.settle()
    order(kit, "release", first.id)
    kit.turn()
    assert kit.states()["1.csv"] is State.DONE
    kit.settle()
    assert set(kit.states().values()) == {State.DONE}


def test_a_clock_that_went_back_before_a_restart_changes_no_order(scene: Scene, sandbox: Sandbox) -> None:
    """Held by a clock that was a year ahead; files come after a restart that has put it right, and it is released."""
    scene.clock.move(365 * 86_400.0)
    with kit_on(scene) as kit:
        kit.daemon.start()
        kit.daemon.switch("folder", "acme", lambda: kit.ledger.change_folder("acme", PAUSE, by="ann", at=1.0))
        scene.put("1.csv", b"email\nfirst@example.com\n", folder="acme")
        kit.settle()
        (first,) = kit.ledger.find_drops()
        order(kit, "hold", first.id)
    scene.clock.move(-365 * 86_400.0)
    with kit_on(scene) as kit:
        kit.daemon.start()
        scene.put("2.csv", b"email\nsecond@example.com\n", folder="acme")
        kit.settle()
        order(kit, "release", first.id)
        kit.daemon.switch("folder", "acme", lambda: kit.ledger.change_folder("acme", None, by="ann", at=1.0))
        kit.settle()
    assert [each.first[0] for each in sandbox.imports] == ["first@example.com", "second@example.com"]


def test_an_order_on_what_is_not_there_or_under_way_is_refused(kit: Kit, sandbox: Sandbox) -> None:
    """Nobody may change a drop in the hands of the pool; afterwards it is as it would have been."""
    with pytest.raises(OperatorError, match="there is no drop"):
        order(kit, "hold", "000000000000")
    sandbox.fault("slow", seconds=0.3)
    kit.scene.put("1.csv", ROWS, folder="acme")
    kit.turn()
    kit.scene.clock.move(10.0)
    kit.daemon.tick()
    (drop,) = kit.ledger.find_drops()
    with pytest.raises(OperatorError, match="is being checked or sent right now"):
        order(kit, "discard", drop.id)
    kit.turn()
    assert kit.states() == {"1.csv": State.DONE}


# ------------------------------------------------------------------------------------------- the machine is at fault


def test_a_full_disk_pauses_everything_with_one_alert_and_heals_by_itself(scene: Scene, sandbox: Sandbox) -> None:
    """Tried again each minute, however long it takes; no file is judged; one line when it begins, one when it ends."""
    with kit_on(scene, failing("prepare: sync prepared copy", times=5)) as kit:
        kit.daemon.start()
        scene.put("a.csv", ROWS, folder="acme")
        kit.settle()
        scene.put("g.csv", ROWS, folder="globex")
        assert kit.daemon.left_over() == Left(failed=False, waiting=True, paused=False)
        for _ in range(3):
            kit.after(ENVIRONMENT_S)
        assert len(kit.told("intake and sending pause: the machine is at fault")) == 1
        assert kit.told("the machine's fault is over") == []
        assert "No space left on device" in kit.told("intake and sending pause")[0]["fault"]
        for _ in range(6):
            kit.after(ENVIRONMENT_S)
        assert kit.states() == {"a.csv": State.DONE, "g.csv": State.DONE}
        assert len(kit.told("intake and sending pause: the machine is at fault")) == 1
        assert len(kit.told("the machine's fault is over")) == 1
        assert all(drop.faults == 0 for drop in kit.ledger.find_drops())
        assert kit.daemon.left_over() == Left(failed=False, waiting=False, paused=False)
    assert len(sandbox.imports) == 2


def test_nothing_is_looked_at_during_the_pause(scene: Scene) -> None:
    """Neither inboxes nor lanes, until the minute is over."""
    with kit_on(scene, failing("claim: make work/ID")) as kit:
        kit.daemon.start()
        scene.put("a.csv", ROWS, folder="acme")
        kit.turn()
        kit.after(10.0)
        assert len(kit.told("intake and sending pause")) == 1
        scene.put("g.csv", ROWS, folder="globex")
        for left in (50.0, 40.0, 30.0, 20.0, 10.0):
            assert kit.after(10.0) == pytest.approx(left)
        kit.daemon.hear(scene.config.folders["globex"].path, b"g.csv")
        kit.turn()
        assert kit.states() == {}
        kit.after(10.0)
        kit.after(2.0)
        assert kit.states() == {"a.csv": State.DONE, "g.csv": State.DONE}


FAULTS = ["claim: make work/ID", "claim: sync folder", "claim: rename", "ledger: commit Claimed"]


@pytest.mark.parametrize("at", FAULTS)
def test_files_that_were_being_taken_over_when_the_disk_was_full_are_not_forgotten(
    scene: Scene, sandbox: Sandbox, at: str
) -> None:
    """With or without a row, in work/ or still in the inbox: each is sent once after the pause, without a restart."""
    with kit_on(scene, failing(at)) as kit:
        kit.daemon.start()
        for name in ("1.csv", "2.csv", "3.csv"):
            scene.put(name, ROWS, folder="acme")
            scene.put(name.replace(".", "-g."), ROWS, folder="globex")
        kit.settle()
        assert len(kit.told("intake and sending pause")) == 1
        kit.after(ENVIRONMENT_S)
        kit.settle()
        assert set(kit.states().values()) == {State.DONE}
        assert len(kit.states()) == 6
        assert_kept(scene, kit.ledger.find_drops())
    assert len(sandbox.imports) == 6


def test_a_reload_during_a_full_disk_is_finished_later(scene: Scene) -> None:
    """The new folder's work/ cannot be marked: the daemon goes on, and takes it up when the disk is free."""
    spool = scene.at / "spool"
    at_start = 1

    def step(name: str) -> None:
        nonlocal at_start
        if name == "mark: rename":
            at_start -= 1
            if -3 < at_start < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

    with kit_on(scene, step) as kit:
        kit.daemon.start()
        config = changed(scene, "globex:", f"initech: {{segment_id: 3, mode: lead, spool: {spool}}}\n  globex:")
        lay_out(config)
        (config.folders["initech"].path / "i.csv").write_bytes(ROWS)
        kit.daemon.configure(config)
        kit.settle()
        assert kit.states() == {}
        assert len(kit.told("intake and sending pause")) == 1
        for _ in range(3):
            kit.after(ENVIRONMENT_S)
        assert kit.states() == {"i.csv": State.DONE}
        assert Folders().read_mark(spool).ledger == kit.ledger.id


def test_a_work_folder_that_is_gone_does_not_keep_the_others_waiting(tmp_path: Path, sandbox: Sandbox) -> None:
    """A mount vanished together with a full disk elsewhere: its folder is reported, the rest goes on."""
    spool = tmp_path / "spool"
    folders = f"acme: {{segment_id: 1, mode: lead}}\nglobex: {{segment_id: 2, mode: lead, spool: {spool}}}"
    scene = make_scene(tmp_path, sandbox.url, folders=folders)
    with kit_on(scene, failing("claim: make work/ID")) as kit:
        kit.daemon.start()
        spool.rename(tmp_path / "away")
        scene.put("a.csv", ROWS, folder="acme")
        scene.put("g.csv", ROWS, folder="globex")
        kit.settle()
        kit.after(ENVIRONMENT_S)
        assert kit.states() == {"a.csv": State.DONE}
        assert kit.told("a work folder cannot be used")[0]["path"] == str(spool / "work")
        assert [line["name"] for line in kit.told("left alone")] == ["g.csv"]
        assert [str(spool / "work") in why for why in kit.daemon.away] == [True]
        (tmp_path / "away").rename(spool)
        kit.after(ENVIRONMENT_S)
        assert kit.states() == {"a.csv": State.DONE, "g.csv": State.DONE}
        assert kit.daemon.away == ()


def test_a_work_folder_that_is_away_at_the_start_is_taken_up_once_it_is_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """Told once; the other folders work, and what lay in it goes its way within a round of its coming back."""
    spool = tmp_path / "spool"
    folders = f"acme: {{segment_id: 1, mode: lead}}\nglobex: {{segment_id: 2, mode: lead, spool: {spool}}}"
    scene = make_scene(tmp_path, sandbox.url, folders=folders)
    sandbox.fault("status", status=408)
    with kit_on(scene) as kit:
        kit.daemon.start()
        scene.put("g.csv", ROWS, folder="globex")
        kit.turn()
        kit.after(10.0)
        assert kit.states() == {"g.csv": State.QUEUED}
    spool.rename(tmp_path / "away")
    with kit_on(scene) as kit:
        kit.daemon.start()
        scene.put("a.csv", ROWS, folder="acme")
        kit.settle()
        for _ in range(20):
            kit.after(ROUND_S)
        assert kit.states() == {"a.csv": State.DONE, "g.csv": State.QUEUED}
        assert [line["path"] for line in kit.told("a work folder cannot be used")] == [str(spool / "work")]
        assert [str(spool / "work") in why for why in kit.daemon.away] == [True]
        (tmp_path / "away").rename(spool)
        kit.after(ROUND_S)
        kit.after(AWAY_S)
        assert kit.daemon.away == ()
        assert kit.states() == {"a.csv": State.DONE, "g.csv": State.DONE}
        assert Folders().read_mark(spool).ledger == kit.ledger.id


def test_a_work_folder_that_no_folder_names_any_more_is_missed_by_nobody(tmp_path: Path, sandbox: Sandbox) -> None:
    """Its mount is gone for good, and a reload without its folder says so: nobody has to do anything."""
    spool = tmp_path / "spool"
    folders = f"acme: {{segment_id: 1, mode: lead}}\nglobex: {{segment_id: 2, mode: lead, spool: {spool}}}"
    scene = make_scene(tmp_path, sandbox.url, folders=folders)
    shutil.rmtree(spool)
    with kit_on(scene) as kit:
        kit.daemon.start()
        assert [str(spool / "work") in why for why in kit.daemon.away] == [True]
        kit.daemon.configure(scene.config.having(folders={"acme": scene.config.folders["acme"]}))
        assert kit.daemon.away == ()


def test_a_fault_that_comes_back_while_recovering_keeps_the_pause(scene: Scene) -> None:
    """Adopting needs the disk as well: one alert all the same, and no file is lost."""
    with kit_on(scene, failing("ledger: commit Claimed", times=4)) as kit:
        kit.daemon.start()
        scene.put("a.csv", ROWS, folder="acme")
        kit.settle()
        for _ in range(3):
            kit.after(ENVIRONMENT_S)
        assert kit.states() == {}
        for _ in range(2):
            kit.after(ENVIRONMENT_S)
        assert kit.states() == {"a.csv": State.DONE}
        assert len(kit.told("intake and sending pause")) == 1


def test_descriptors_that_run_out_while_recovering_keep_the_pause(scene: Scene) -> None:
    """The work folder cannot be opened: that is the machine's fault, not the folder's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with kit_on(scene, failing("ledger: commit Claimed")) as kit:
        kit.daemon.start()
        scene.put("a.csv", ROWS, folder="acme")
        kit.settle()
        scene.clock.move(ENVIRONMENT_S)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            kit.daemon.tick()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert kit.daemon.tick() == ENVIRONMENT_S
        assert kit.told("a work folder cannot be used") == []
        kit.after(ENVIRONMENT_S)
        assert kit.states() == {"a.csv": State.DONE}


# ------------------------------------------------------------------------------------------------ run and the stop

FAST = "settle: 20ms, settle_unseen: 20ms, scan: 1s, retry: {initial: 50ms, max: 100ms}"


@pytest.fixture
def quick(tmp_path: Path, sandbox: Sandbox) -> Scene:
    """A scene for the machine's own clocks."""
    return make_scene(tmp_path, sandbox.url, folders=TWO, defaults=FAST)


@contextlib.contextmanager
def running(kit: Kit, *, once: bool = False) -> Iterator[threading.Thread]:
    """The daemon's loop in a thread; it must have ended by the end of the block, or soon after."""
    kit.daemon.start()
    thread = threading.Thread(target=kit.daemon.run, kwargs={"once": once})
    thread.start()
    try:
        yield thread
    finally:
        if thread.is_alive() and not once:
            kit.daemon.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_once_deals_with_what_is_there_and_ends(quick: Scene, sandbox: Sandbox) -> None:
    """It waits for files to settle, takes each as far as it goes, and does not wait for more."""
    quick.put("a.csv", ROWS, folder="acme")
    quick.put("b.csv", b"email\nnobody\n", folder="acme")
    quick.put("g.csv", ROWS, folder="globex")
    with kit_on(quick, in_real_time=True) as kit:
        with running(kit, once=True):
            pass
        assert kit.states() == {"a.csv": State.DONE, "b.csv": State.FAILED, "g.csv": State.DONE}
        assert kit.daemon.left_over() == Left(failed=True, waiting=False, paused=False)


def test_once_with_nothing_to_do_ends_at_once(quick: Scene) -> None:
    """As cron would have it."""
    with kit_on(quick, in_real_time=True) as kit:
        with running(kit, once=True):
            pass
        assert kit.daemon.left_over() == Left(failed=False, waiting=False, paused=False)


def test_once_does_not_wait_for_what_is_due_later(quick: Scene, sandbox: Sandbox) -> None:
    """The server asks to come back in an hour: the file stays queued, and the caller can tell."""
    sandbox.fault("status", status=503, headers={"Retry-After": "3600"})
    quick.put("a.csv", ROWS, folder="acme")
    with kit_on(quick, in_real_time=True) as kit:
        with running(kit, once=True):
            pass
        assert kit.states() == {"a.csv": State.QUEUED}
        assert kit.daemon.left_over() == Left(failed=False, waiting=True, paused=False)


def test_once_does_not_wait_for_an_unfinished_upload(quick: Scene) -> None:
    """A writer has it open, or its last line has no end: it stays in the inbox for the next run."""
    quick.put("cut.csv", b"email\nann@exam", folder="acme")
    with (
        quick.put("open.csv", ROWS, folder="acme").open("ab"),
        kit_on(quick, in_real_time=True) as kit,
        running(kit, once=True),
    ):
        pass
    assert len(list(quick.inbox.iterdir())) == 2


def test_once_ends_when_the_machine_is_at_fault(quick: Scene) -> None:
    """It does not wait a minute for a disk to become free."""
    quick.put("a.csv", ROWS, folder="acme")
    with kit_on(quick, failing("claim: make work/ID", times=99), in_real_time=True) as kit:
        with running(kit, once=True):
            pass
        assert kit.daemon.left_over() == Left(failed=False, waiting=True, paused=False)


def test_the_stop_drains(quick: Scene, sandbox: Sandbox) -> None:
    """What is under way is answered, committed and filed; what waits is not started; then `run` returns."""
    sandbox.fault("slow", seconds=0.3)
    with kit_on(quick, in_real_time=True) as kit:
        for number in range(3):
            quick.put(f"{number}.csv", ROWS, folder="acme")
        with running(kit):
            sandbox.wait_for(requests=1)
            kit.daemon.stop()
        assert kit.states() == {"0.csv": State.DONE, "1.csv": State.QUEUED, "2.csv": State.QUEUED}
        assert_kept(quick, kit.ledger.find_drops())
    assert len(sandbox.imports) == 1


def test_the_stop_ends_a_pause(quick: Scene) -> None:
    """Nobody waits a minute for a daemon with a full disk to end."""
    quick.put("a.csv", ROWS, folder="acme")
    with kit_on(quick, failing("claim: make work/ID", times=99), in_real_time=True) as kit:
        with running(kit) as thread:
            while not kit.told("intake and sending pause"):
                thread.join(0.01)
            kit.daemon.stop()
        assert kit.states() == {}


def test_waiting_ends_with_the_stop(kit: Kit) -> None:
    """The pool's threads sleep in `wait`, so that a stop need not wait for them."""
    kit.daemon.stop()
    before = time.monotonic()
    kit.daemon.wait(600.0)
    assert time.monotonic() - before < 60.0
    assert kit.daemon.stopping
    assert kit.daemon.tick() == LONGEST_SLEEP_S


def test_a_call_from_another_thread_wakes_the_loop(quick: Scene) -> None:
    """The loop sleeps for up to a minute; whatever is called is done at once."""
    done = threading.Event()
    with kit_on(quick, in_real_time=True) as kit, running(kit):
        kit.daemon.call(done.set)
        assert done.wait(PATIENCE_S)


# -------------------------------------------------------------------------------------------------------- signals


@pytest.fixture
def signals() -> Iterator[None]:
    """Puts back the handlers that the test replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon(kit: Kit, signals: None, number: signal.Signals) -> None:
    """SIGTERM quietly; SIGINT says how to stop at once."""
    obey_signals(kit.daemon, lambda: None, Journal(kit._out, plain=False).say)
    os.kill(os.getpid(), number)
    kit.daemon.tick()
    assert kit.daemon.stopping
    assert len(kit.told("once more to stop at once")) == (number == signal.SIGINT)


def test_a_hangup_reloads_in_the_loop(kit: Kit, signals: None) -> None:
    """Not within the signal, where anything might be half done."""
    calls: list[str] = []
    obey_signals(kit.daemon, lambda: calls.append("reload"), Journal(kit._out, plain=False).say)
    os.kill(os.getpid(), signal.SIGHUP)
    assert calls == []
    kit.daemon.tick()
    assert calls == ["reload"]
    assert not kit.daemon.stopping


# ------------------------------------------------------------------------------------------------------- the lock


def test_one_daemon_per_state_folder(tmp_path: Path) -> None:
    """The second is refused with the reason; afterwards the folder is free again."""
    with state_lock(tmp_path):
        with pytest.raises(LockedError) as raised, state_lock(tmp_path):
            pass
        assert str(tmp_path) in str(raised.value)
    with state_lock(tmp_path):
        pass


def test_a_state_folder_on_a_network_file_system_is_refused() -> None:
    """Whatever is not known to be local counts as one, here the kernel's own /proc: no lock, so no ledger is opened."""
    with pytest.raises(FolderError, match="SQLite on a network file system"), state_lock(Path("/proc/self")):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_root_does_not_run_on_the_state_folder_of_another_user(tmp_path: Path) -> None:
    """A ledger of root's in it would keep that user's daemon out: nothing is made, and the way to run it is told."""
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(FolderError, match="and this is root") as refused, state_lock(tmp_path):
        pass
    assert refused.value.hint.startswith("Run it as that user: runuser -u ")
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_is_missing_is_named_with_the_mend(tmp_path: Path) -> None:
    """No lock without a folder to lock; and what is there but cannot be opened is not to be made."""
    with pytest.raises(FolderError, match="dropzone init"), state_lock(tmp_path / "no"):
        pass
    (tmp_path / "lock").mkdir()
    with pytest.raises(FolderError, match="See the disk of the state folder"), state_lock(tmp_path):
        pass


# -------------------------------------------------------------------------------------------------------- systemd


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd would listen on, as a path or in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        if request.param == "path":
            address = str(tmp_path / "notify")
            here.bind(address)
        else:
            here.bind("\0" + f"dropzone-test-{os.getpid()}")
            address = f"@dropzone-test-{os.getpid()}"
        here.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield here


def test_systemd_is_told_in_lines(systemd: socket.socket) -> None:
    """One datagram, one assignment per line."""
    notify(READY="1", STATUS="Watching 2 folders")
    assert systemd.recv(4096) == b"READY=1\nSTATUS=Watching 2 folders"


def test_systemd_is_told_when_a_reload_began(systemd: socket.socket) -> None:
    """With the monotonic time in microseconds, as Type=notify-reload wants it."""
    before = time.monotonic_ns() // 1000
    reloading()
    first, second = systemd.recv(4096).decode().splitlines()
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


def test_a_signal_tells_systemd_that_the_stop_began(kit: Kit, signals: None, systemd: socket.socket) -> None:
    """At once, not only when the drain is over."""
    obey_signals(kit.daemon, lambda: None, Journal(kit._out, plain=False).say)
    os.kill(os.getpid(), signal.SIGTERM)
    assert systemd.recv(4096).startswith(b"STOPPING=1\n")


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, an empty one, or a socket that is gone: no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY="1")
    for address in ("", str(tmp_path / "gone"), "@nobody-listens-here"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify(READY="1")
