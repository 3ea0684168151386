"""From the inbox to the ledger, on real folders and a real ledger, with a clock that is moved by hand."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scene import Scene, Turn, make_scene

from dropzone import config as configuration
from dropzone.adoption import Adoption
from dropzone.config import Config, Folder
from dropzone.drop import Claimed, Drop, Event, State, make_id
from dropzone.errors import FolderError, LedgerError
from dropzone.folders import Folders, Mark, Wanted
from dropzone.intake import BATCH, Intake
from dropzone.opening import lay_out
from dropzone.readiness import SYNC_ASIDE, Seen

ROWS = b"email\nann@example.com\n"
TWO = """\
acme: {segment_id: 1, mode: lead}
globex: {segment_id: 1, mode: lead}
"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return make_scene(tmp_path, "http://127.0.0.1:1", folders=TWO)


@pytest.fixture
def turn(scene: Scene) -> Iterator[Turn]:
    """One life of the program, started; its first scan has found nothing."""
    with scene.turn() as turn:
        turn.start()
        assert turn.intake.tick() == []
        yield turn


def hear(turn: Turn, name: str, *, folder: str = "acme", content: bytes = ROWS) -> None:
    """A partner writes a file, and an event tells of it."""
    turn.scene.put(name, content, folder=folder)
    turn.intake.hear(folder, os.fsencode(name))


def after(turn: Turn, seconds: float) -> list[str]:
    """The names that one look so much later takes over."""
    turn.scene.clock.move(seconds)
    return names(turn.intake.tick())


def names(drops: list[Drop]) -> list[str]:
    return [os.fsdecode(drop.name) for drop in drops]


def in_inbox(scene: Scene, folder: str = "acme") -> list[str]:
    return sorted(path.name for path in scene.config.folders[folder].path.iterdir())


def reasons(turn: Turn) -> list[str]:
    return [why for _, _, why in turn.left_alone]


def reload(scene: Scene, old: str, new: str) -> Config:
    """The configuration with a change, as a reload would read it."""
    file = scene.at / "dropzone.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return configuration.load(file)


# ------------------------------------------------------------------------------------------- when a file is taken


def test_a_file_that_was_heard_of_is_taken_after_its_settle_time(turn: Turn) -> None:
    """Two seconds after the last event, not sooner; then the inbox is empty and the row is there."""
    hear(turn, "a.csv")
    assert after(turn, 0.0) == after(turn, 1.9) == []
    assert after(turn, 0.2) == ["a.csv"]
    assert in_inbox(turn.scene) == []
    assert [drop.state for drop in turn.ledger.find_drops()] == [State.QUEUED]


def test_each_event_starts_the_quiet_time_again(turn: Turn) -> None:
    """A client that closes the file again and again is not hurried."""
    hear(turn, "a.csv")
    for _ in range(5):
        assert after(turn, 1.5) == []
        turn.intake.hear("acme", b"a.csv")
    assert after(turn, 1.9) == []
    assert after(turn, 0.1) == ["a.csv"]


def test_a_file_that_only_the_scan_found_waits_longer(turn: Turn) -> None:
    """Without an event nobody knows when it last moved: `settle_unseen` counts from the scan on."""
    turn.scene.put("a.csv", ROWS, folder="acme")
    assert after(turn, 14.9) == []  # the next scan comes 15 s after the first
    assert after(turn, 0.1) == []
    assert after(turn, 9.9) == []
    assert after(turn, 0.1) == ["a.csv"]


def test_a_change_without_an_event_starts_the_quiet_time_again(turn: Turn) -> None:
    """On network mounts nothing is heard, but two looks that differ tell as much."""
    path = turn.scene.put("a.csv", ROWS, folder="acme")
    turn.intake.scan_soon()
    assert after(turn, 0.0) == []
    path.write_bytes(ROWS + b"bob@example.com\n")
    assert after(turn, 10.0) == []
    assert after(turn, 9.9) == []
    assert after(turn, 0.1) == ["a.csv"]


def test_a_file_that_a_program_has_open_for_writing_stays(turn: Turn) -> None:
    """However quiet it is, a writer keeps it where it is; once that is gone the file is taken."""
    path = turn.scene.put("a.csv", ROWS, folder="acme")
    with path.open("ab"):
        turn.intake.hear("acme", b"a.csv")
        for _ in range(20):
            assert after(turn, 30.0) == []
    turn.intake.hear("acme", b"a.csv")
    assert after(turn, 2.0) == ["a.csv"]


def test_a_file_without_its_last_newline_waits_for_the_rest(turn: Turn) -> None:
    """It looks cut off, so it is taken only after `hold_tail`, 300 s."""
    hear(turn, "a.csv", content=ROWS.rstrip(b"\n"))
    assert after(turn, 2.0) == after(turn, 290.0) == []
    assert after(turn, 8.0) == ["a.csv"]


def test_the_rule_at_the_start_is_the_rule_at_any_other_time(scene: Scene) -> None:
    """Files that were there before the program are found by the first scan, and wait like any that a scan found."""
    scene.put("a.csv", ROWS, folder="acme")
    with scene.turn() as turn:
        turn.start()
        assert names(turn.intake.tick()) == []
        assert after(turn, 9.9) == []
        assert after(turn, 0.1) == ["a.csv"]


# ------------------------------------------------------------------------------------------------------- in order


def test_files_are_taken_in_the_order_in_which_they_became_ready(turn: Turn) -> None:
    """Not by name: who was quiet first goes first, even if one look takes them all."""
    for name in ("c.csv", "a.csv", "b.csv"):
        hear(turn, name)
        turn.scene.clock.move(0.5)
    assert after(turn, 60.0) == ["c.csv", "a.csv", "b.csv"]
    assert names(turn.ledger.find_drops()) == ["c.csv", "a.csv", "b.csv"]


def test_folders_of_one_segment_share_one_order(turn: Turn) -> None:
    """Two folders feed segment 1; a late look must not take one folder's files before the other's."""
    for folder, name in (("globex", "1.csv"), ("acme", "2.csv"), ("globex", "3.csv"), ("acme", "4.csv")):
        hear(turn, name, folder=folder)
        turn.scene.clock.move(0.5)
    assert after(turn, 60.0) == ["1.csv", "2.csv", "3.csv", "4.csv"]
    assert names(turn.ledger.find_drops()) == ["1.csv", "2.csv", "3.csv", "4.csv"]


def test_what_a_scan_finds_at_once_is_taken_by_name(turn: Turn) -> None:
    """Nobody can say which came first, so the order is one that a partner can steer."""
    for name in ("b.csv", "a.csv", "c.csv"):
        turn.scene.put(name, ROWS, folder="acme")
    assert names(turn.take()) == ["a.csv", "b.csv", "c.csv"]


def test_one_look_takes_a_batch_at_most_and_the_next_the_rest(turn: Turn) -> None:
    """A flood of files does not keep the first of them waiting for all."""
    for number in range(BATCH + 5):
        turn.scene.put(f"{number:04}.csv", ROWS, folder="acme")
    turn.intake.scan_soon()
    assert after(turn, 0.0) == []
    while not (first := after(turn, 10.0)):
        pass
    assert first == [f"{number:04}.csv" for number in range(BATCH)]
    assert turn.intake.next_look() <= turn.scene.clock.monotonic
    assert after(turn, 0.0) == [f"{number:04}.csv" for number in range(BATCH, BATCH + 5)]


def test_the_row_holds_the_folder_as_it_was_at_the_claim(turn: Turn) -> None:
    """Name in bytes, size, lane, account, segment, base, and all settings of the folder."""
    hear(turn, "a.csv")
    assert after(turn, 2.0) == ["a.csv"]
    (drop,) = turn.ledger.find_drops()
    folder = turn.scene.config.folders["acme"]
    assert (drop.folder, drop.name, drop.size, drop.lane) == ("acme", b"a.csv", len(ROWS), "main/1")
    assert (drop.account, drop.segment_id, drop.base) == ("main", 1, str(turn.scene.config.root))
    assert Folder.from_settings(drop.settings) == folder
    assert drop.claimed_at == drop.due_at == turn.scene.clock.wall
    assert (turn.scene.config.root / "work" / drop.id / "original").read_bytes() == ROWS


@pytest.mark.parametrize("name", [b"new\nline.csv", b"\xff\xfe.csv", b"\x1b[31m.csv", b"-rf.csv", b"a" * 251 + b".csv"])
def test_hostile_names_are_kept_as_bytes(turn: Turn, name: bytes) -> None:
    """Newlines, escapes, bytes that are no UTF-8, a leading dash, 255 bytes: taken over, name unharmed."""
    turn.scene.put(name, ROWS, folder="acme")
    turn.intake.hear("acme", name)
    assert len(after(turn, 2.0)) == 1
    assert [drop.name for drop in turn.ledger.find_drops()] == [name]


def test_the_same_name_again_is_another_drop(turn: Turn) -> None:
    """A partner who uploads under one name for ever gets a drop for each file."""
    for _ in range(3):
        hear(turn, "daily.csv")
        assert after(turn, 2.0) == ["daily.csv"]
    assert len({drop.id for drop in turn.ledger.find_drops()}) == 3


# ------------------------------------------------------------------------------------------------- when to look


def test_when_to_look_next(turn: Turn) -> None:
    """The next scan while nothing waits, else the moment at which a file may be ready; none without folders."""
    start = turn.scene.clock.monotonic
    assert turn.intake.next_look() == start + 15.0
    assert not turn.intake.settling()
    hear(turn, "a.csv")
    assert turn.intake.next_look() == start
    assert after(turn, 0.0) == []
    assert turn.intake.next_look() == start + 2.0
    assert turn.intake.settling()
    assert after(turn, 2.0) == ["a.csv"]
    assert not turn.intake.settling()
    turn.intake.scan_soon()
    assert turn.intake.next_look() == 0.0


def test_what_is_remembered_of_a_file_can_be_asked(turn: Turn) -> None:
    """Whoever asks why a file still lies there gets the daemon's own reason, not a guess."""
    hear(turn, "a.csv", content=b"email\nann@exam")
    turn.scene.put("b.csv", ROWS, folder="globex")
    turn.intake.scan_soon()
    assert after(turn, 0.0) == after(turn, 3.0) == []
    assert turn.intake.waiting() == 2
    candidate = turn.intake.find("acme", b"a.csv")
    assert candidate is not None
    assert candidate.verdict is not None
    assert "its last line has no end" in candidate.verdict.why
    assert turn.intake.find("acme", b"b.csv") is None
    assert turn.intake.find("nobody", b"a.csv") is None


def test_without_folders_there_is_nothing_to_look_for(scene: Scene) -> None:
    """An intake that was never configured waits for ever and hears of nothing."""
    with scene.turn() as turn:
        turn.intake.hear("acme", b"a.csv")
        assert turn.intake.next_look() == float("inf")
        assert turn.intake.tick() == []


def test_a_file_that_needs_more_than_quiet_is_not_settling(turn: Turn) -> None:
    """`run --once` waits for files that are settling, and for no writer and no missing newline."""
    hear(turn, "a.csv", content=b"email\nann@exam")
    assert after(turn, 2.0) == []
    assert not turn.intake.settling()


# -------------------------------------------------------------------------------------------- large files, events


class Slow:
    """An intake whose slow work waits until the test does it, and that writes down what it announces."""

    def __init__(self, turn: Turn) -> None:
        self.work: list[Callable[[], None]] = []
        self.announced: list[tuple[str, str]] = []
        clock = turn.scene.clock
        self.intake = Intake(
            folders=turn.folders,
            ledger=turn.ledger,
            now=lambda: clock.wall,
            monotonic=lambda: clock.monotonic,
            announce=self.announce,
            aside=self.work.append,
        )
        self.intake.configure(turn.scene.config)
        self.intake.tick()

    def announce(self, drop: Drop, event: Event) -> None:
        self.announced.append((drop.state.value, type(event).__name__))


def put_large(turn: Turn, name: str, *, more: int = 0) -> None:
    with (turn.scene.inbox / name).open("wb") as file:
        file.truncate(SYNC_ASIDE + more)
        file.seek(0, os.SEEK_END)
        file.write(b"\n")


def test_a_large_file_is_written_out_aside_and_nobody_waits_for_it(scene: Scene) -> None:
    """Its sync is left to another thread; until that has ended it is not claimed, and other files are."""
    aside: list[Callable[[], None]] = []
    told: list[str] = []
    with scene.turn() as turn:
        intake = Intake(
            folders=turn.folders,
            ledger=turn.ledger,
            now=lambda: scene.clock.wall,
            monotonic=lambda: scene.clock.monotonic,
            announce=lambda drop, event: told.append(f"{type(event).__name__} {os.fsdecode(drop.name)}"),
            aside=aside.append,
        )
        intake.configure(scene.config)
        scene.put("large.csv", b"email\n" + b"ann@example.com\n" * (SYNC_ASIDE // 16))
        scene.put("small.csv", ROWS)
        for _ in range(3):
            intake.tick()
            scene.clock.move(15.0)
        assert told == ["Claimed small.csv"]
        assert intake.settling()
        (sync,) = aside
        sync()
        scene.clock.move(1.0)
        intake.tick()
        assert told == ["Claimed small.csv", "Claimed large.csv"]


def test_a_large_file_that_changed_meanwhile_is_written_out_again(turn: Turn) -> None:
    """What is on disk is another file by now: quiet time and writing out start again."""
    slow, clock = Slow(turn), turn.scene.clock
    put_large(turn, "large.csv")
    slow.intake.hear("acme", b"large.csv")
    clock.move(2.0)
    assert slow.intake.tick() == []
    put_large(turn, "large.csv", more=10)
    slow.work.pop()()
    clock.move(0.1)
    assert slow.intake.tick() == []
    clock.move(2.0)
    assert slow.intake.tick() == []
    slow.work.pop()()
    clock.move(0.1)
    assert names(slow.intake.tick()) == ["large.csv"]


def test_a_large_file_that_is_gone_meanwhile_is_forgotten(turn: Turn) -> None:
    """The work finds no file: no error, and nothing waits."""
    slow, clock = Slow(turn), turn.scene.clock
    put_large(turn, "large.csv")
    slow.intake.hear("acme", b"large.csv")
    clock.move(2.0)
    assert slow.intake.tick() == []
    (turn.scene.inbox / "large.csv").unlink()
    slow.work.pop()()
    clock.move(0.1)
    assert slow.intake.tick() == []
    assert not slow.intake.settling()


def test_every_committed_event_is_announced(turn: Turn) -> None:
    """The claim, the adoption, and the hold of what another ledger knew."""
    slow = Slow(turn)
    hear(turn, "a.csv")
    slow.intake.hear("acme", b"a.csv")
    turn.scene.clock.move(2.0)
    assert names(slow.intake.tick()) == ["a.csv"]
    adoption = Adoption(
        folders=turn.folders, ledger=turn.ledger, now=lambda: turn.scene.clock.wall, announce=slow.announce
    )
    orphan(turn.scene, "b.csv")
    adoption.adopt(turn.scene.config.root, turn.scene.config, trusted=False)
    assert slow.announced == [("queued", "Claimed"), ("queued", "Claimed"), ("held", "Withheld")]


# -------------------------------------------------------------------------------------------- what is left alone


@pytest.mark.parametrize("name", [".a.csv", "~a.csv", "#1.csv", "a.csv.part", "a.csv.filepart", "a.txt", "a.csv~"])
def test_names_of_unfinished_and_other_files_are_no_candidates(turn: Turn, name: str) -> None:
    """Whether heard of or found, they stay for ever, without a word in the log."""
    hear(turn, name)
    assert turn.take() == []
    assert in_inbox(turn.scene) == [name]
    assert turn.left_alone == []
    assert not turn.intake.settling()


def test_a_rename_makes_a_candidate_of_an_unfinished_file(turn: Turn) -> None:
    """The best a client can do: write under another name, then rename."""
    hear(turn, "a.csv.part")
    assert after(turn, 60.0) == []
    (turn.scene.inbox / "a.csv.part").rename(turn.scene.inbox / "a.csv")
    turn.intake.hear("acme", b"a.csv")
    assert after(turn, 2.0) == ["a.csv"]


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def make_second_link(path: Path) -> None:
    path.write_bytes(ROWS)
    os.link(path, path.with_suffix(".other"))


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "a symbolic link": (make_link, "not a regular file but a symbolic link"),
    "a named pipe": (os.mkfifo, "not a regular file but a named pipe"),
    "a folder": (Path.mkdir, "not a regular file but a folder"),
    "a second link": (make_second_link, "it has 2 links"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_acceptable_file_is_reported_once(turn: Turn, kind: str) -> None:
    """The reason comes once, however often it is looked at; the thing itself is not touched."""
    make, why = UNFIT[kind]
    make(turn.scene.inbox / "trap.csv")
    turn.intake.hear("acme", b"trap.csv")
    for _ in range(30):
        assert after(turn, 20.0) == []
    ((folder, name, reason),) = turn.left_alone
    assert (folder, name) == ("acme", b"trap.csv")
    assert why in reason
    assert os.path.lexists(turn.scene.inbox / "trap.csv")


def test_a_trap_that_becomes_a_file_is_taken(turn: Turn) -> None:
    """And if it becomes a trap again, that is reported again."""
    trap = turn.scene.inbox / "a.csv"
    for count in (1, 2):
        make_link(trap)
        turn.intake.hear("acme", b"a.csv")
        assert after(turn, 2.0) == []
        assert len(turn.left_alone) == count
        trap.unlink()
        hear(turn, "a.csv")
        assert after(turn, 2.0) == ["a.csv"]


def test_a_file_that_is_gone_is_forgotten(turn: Turn) -> None:
    """Whether a look or the scan finds it gone: nothing is taken, nothing reported, nothing waits."""
    hear(turn, "a.csv")
    (turn.scene.inbox / "a.csv").unlink()
    assert after(turn, 2.0) == []
    hear(turn, "b.csv")
    (turn.scene.inbox / "b.csv").unlink()
    turn.intake.scan_soon()
    assert after(turn, 0.0) == []
    assert not turn.intake.settling()
    assert turn.left_alone == []
    assert turn.take() == []


def test_an_inbox_that_cannot_be_listed_is_reported_once_each_time(turn: Turn) -> None:
    """The other folders go on; when it is back its files are taken, and a second outage is reported again."""
    inbox, away = turn.scene.config.folders["acme"].path, turn.scene.at / "away"
    for count in (1, 2):
        inbox.rename(away)
        turn.scene.put("g.csv", ROWS, folder="globex")
        assert names(turn.take()) == ["g.csv"]
        assert [(folder, name) for folder, name, _ in turn.left_alone] == [("acme", b"")] * count
        assert f"cannot open {inbox}" in turn.left_alone[-1][2]
        away.rename(inbox)
        hear(turn, "a.csv")
        assert names(turn.take()) == ["a.csv"]


def test_an_inbox_that_was_replaced_by_a_link_is_not_followed(turn: Turn) -> None:
    """Whoever may write to the folder above could otherwise point us anywhere."""
    inbox, elsewhere = turn.scene.config.folders["acme"].path, turn.scene.at / "elsewhere"
    inbox.rename(elsewhere)
    inbox.symlink_to(elsewhere)
    (elsewhere / "a.csv").write_bytes(ROWS)
    turn.intake.hear("acme", b"a.csv")
    assert turn.take() == []
    assert (elsewhere / "a.csv").exists()
    assert all("cannot open" in why for why in reasons(turn))


def test_sub_folders_of_an_inbox_are_not_entered(turn: Turn) -> None:
    """Only what lies in the inbox itself is a candidate."""
    (turn.scene.inbox / "deeper").mkdir()
    (turn.scene.inbox / "deeper" / "a.csv").write_bytes(ROWS)
    assert turn.take() == []
    assert turn.left_alone == []


def limited(turn: Turn, admitted: int) -> Intake:
    """An intake that has so few files settle at a time, half of them in one inbox."""
    clock = turn.scene.clock
    intake = Intake(
        folders=turn.folders,
        ledger=turn.ledger,
        now=lambda: clock.wall,
        monotonic=lambda: clock.monotonic,
        left_alone=lambda *what: turn.left_alone.append(what),
        admitted=admitted,
    )
    intake.configure(turn.scene.config)
    intake.tick()
    return intake


def test_however_many_files_wait_all_are_taken_in_turn(turn: Turn) -> None:
    """Only so many are remembered at a time; as they go, the next are let in, and none is forgotten."""
    intake = limited(turn, 10)
    wanted = [f"{number:03}.csv" for number in range(95)]
    for name in wanted:
        turn.scene.put(name, ROWS, folder="acme")
    intake.scan_soon()
    taken: list[str] = []
    for _ in range(450):
        taken += names(intake.tick())
        assert intake.settling() or len(taken) == len(wanted)
        turn.scene.clock.move(0.5)
    assert taken == wanted


def test_what_is_heard_of_beyond_that_is_found_by_the_scan(turn: Turn) -> None:
    """A flood of events costs no more memory than one of files."""
    intake = limited(turn, 10)
    for number in range(30):
        turn.scene.put(f"{number:03}.csv", ROWS, folder="acme")
        intake.hear("acme", f"{number:03}.csv".encode())
    assert intake.settling()
    taken: list[str] = []
    for _ in range(200):
        taken += names(intake.tick())
        turn.scene.clock.move(0.5)
    assert sorted(taken) == [f"{number:03}.csv" for number in range(30)]


def test_an_inbox_that_rested_for_long_is_as_wide_awake_as_any(turn: Turn) -> None:
    """One that has not changed is not listed again, but whatever comes, goes or comes back is found by the scan."""
    for round_ in range(3):
        for _ in range(6):
            assert after(turn, 15.0) == []
        turn.scene.put("a.csv", ROWS, folder="acme")
        assert after(turn, 15.0) == []
        assert after(turn, 10.0) == ["a.csv"], round_
    turn.scene.put("b.csv", ROWS, folder="acme")
    assert after(turn, 15.0) == []
    (turn.scene.inbox / "b.csv").unlink()
    assert after(turn, 15.0) == after(turn, 15.0) == []
    turn.scene.put("b.csv", ROWS, folder="acme")
    assert after(turn, 15.0) == []
    assert after(turn, 10.0) == ["b.csv"]


def test_files_that_wait_for_ever_take_no_room(turn: Turn) -> None:
    """More traps and cut files than may settle at a time: the good file behind them is taken as ever."""
    intake = limited(turn, 10)
    for number in range(50):
        make_link(turn.scene.inbox / f"a{number}.csv")
        turn.scene.put(f"b{number}.csv", b"email\nann@exam", folder="acme")
    turn.scene.put("z.csv", ROWS, folder="acme")
    intake.scan_soon()
    taken: list[str] = []
    for _ in range(150):
        taken += names(intake.tick())
        turn.scene.clock.move(1.0)
    assert taken == ["z.csv"]


def test_a_flooded_inbox_leaves_room_for_others(turn: Turn) -> None:
    """Files of an inbox that nobody thought of before settle beside hundreds of another, also once that has drained."""
    intake = limited(turn, 100)
    for number in range(300):
        turn.scene.put(f"{number:03}.csv", ROWS, folder="acme")
    intake.scan_soon()
    intake.tick()
    for number in range(40):
        turn.scene.put(f"globex-{number:02}.csv", ROWS, folder="globex")
    intake.scan_soon()
    taken: list[str] = []
    for _ in range(60):
        taken += names(intake.tick())
        turn.scene.clock.move(0.5)
    of_globex = [name for name in taken if name.startswith("globex")]
    assert len(of_globex) == 40
    assert 40 < len(taken) < 300


def test_of_very_many_names_only_the_next_are_remembered(turn: Turn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names beyond those are found by another scan once there is room, in the same order; rubbish ends, too."""
    monkeypatch.setattr("dropzone.intake.NEXT", 20)
    intake = limited(turn, 10)
    wanted = [f"{number:03}.csv" for number in range(95)]
    for name in [*wanted, *(f"{name}.txt" for name in wanted)]:
        turn.scene.put(name, ROWS, folder="acme")
    intake.scan_soon()
    taken: list[str] = []
    most = 0
    while len(taken) < len(wanted):
        taken += names(intake.tick())
        most = max(most, intake.waiting())
        turn.scene.clock.move(max(0.0, intake.next_look() - turn.scene.clock.monotonic))
    assert taken == wanted
    assert most < 30
    for _ in range(20):
        intake.tick()
        turn.scene.clock.move(0.5)
    assert not intake.settling()
    assert intake.next_look() > turn.scene.clock.monotonic


def test_uploads_that_nobody_will_finish_are_reported_once_for_all(turn: Turn) -> None:
    """A temporary name that is older than a day, as a broken line leaves it; another only after they were gone."""
    for name in (".a.csv.AbCdEf", "b.csv.part", "c.csv.filepart"):
        turn.scene.put(name, ROWS, folder="acme")
    turn.scene.clock.wall = (turn.scene.inbox / "b.csv.part").stat().st_ctime + 86_000.0
    assert after(turn, 15.0) == []
    assert turn.left_alone == []
    for _ in range(5):
        assert after(turn, 500.0) == []
    why = "3 unfinished uploads have lain here for more than a day, such as .a.csv.AbCdEf"
    assert turn.left_alone == [("acme", b"", why)]
    for path in turn.scene.inbox.iterdir():
        path.unlink()
    assert after(turn, 15.0) == []
    turn.scene.put("d.csv.tmp", ROWS, folder="acme")
    for _ in range(5):
        assert after(turn, 90_000.0) == []
    assert len(turn.left_alone) == 2


def test_a_packed_file_is_read_to_its_end_before_it_is_taken(turn: Turn) -> None:
    """One that is cut waits for its rest like a last line without its end; a whole one is taken after `settle`."""
    packed = gzip.compress(ROWS * 100)
    hear(turn, "a.csv.gz", content=packed)
    hear(turn, "b.csv.gz", content=packed[:-5])
    assert after(turn, 2.0) == ["a.csv.gz"]
    assert after(turn, 200.0) == []
    hear(turn, "b.csv.gz", content=packed)
    assert after(turn, 0.0) == []
    assert after(turn, 2.0) == ["b.csv.gz"]


def test_the_watch_is_looked_after_before_each_scan(turn: Turn) -> None:
    """At once with a new configuration, then before each listing, with the directory that is listed."""
    attended: list[tuple[Path, int]] = []
    clock = turn.scene.clock
    intake = Intake(
        folders=turn.folders,
        ledger=turn.ledger,
        now=lambda: clock.wall,
        monotonic=lambda: clock.monotonic,
        attend=lambda path, fd: attended.append((path, os.fstat(fd).st_ino)),
    )
    inboxes = [(folder.path, folder.path.stat().st_ino) for folder in turn.scene.config.folders.values()]
    intake.configure(turn.scene.config)
    assert attended == inboxes
    intake.tick()
    clock.move(15.0)
    intake.tick()
    assert attended == inboxes * 3
    intake.scan_soon("globex")
    intake.tick()
    assert attended == [*inboxes * 3, inboxes[1]]


# --------------------------------------------------------------------------------------------------------- races


def racing(scene: Scene, at: str, act: Callable[[], object]) -> Turn:
    """A life in which `act` is done once, right before the effect `at`."""
    acts = [act]

    def step(name: str) -> None:
        if name == at and acts:
            acts.pop()()

    turn = Turn(scene, step)
    turn.start()
    turn.intake.tick()
    return turn


@pytest.mark.parametrize("at", ["claim: sync file", "claim: write origin"])
def test_a_file_that_changes_while_it_is_taken_is_left_and_taken_later(scene: Scene, at: str) -> None:
    """The claim is given up without a word, work/ stays empty, and the quiet time starts again."""
    path = scene.inbox / "a.csv"
    turn = racing(scene, at, lambda: path.write_bytes(ROWS + b"bob@example.com\n"))
    hear(turn, "a.csv")
    assert after(turn, 2.0) == []
    assert path.exists()
    assert turn.left_alone == []
    assert list((scene.config.root / "work").glob("[0-9A-Z]*")) == []
    assert after(turn, 1.0) == after(turn, 1.9) == []
    assert after(turn, 0.2) == ["a.csv"]
    turn.close()


@pytest.mark.parametrize("at", ["claim: sync file", "claim: rename"])
def test_losing_the_race_for_a_file_is_no_error(scene: Scene, at: str) -> None:
    """Somebody moves it away while it is taken: forgotten, and nothing is left in work/."""
    path = scene.inbox / "a.csv"
    turn = racing(scene, at, lambda: path.rename(scene.at / "elsewhere.csv"))
    hear(turn, "a.csv")
    assert turn.take() == []
    assert turn.left_alone == []
    assert turn.ledger.find_drops() == []
    assert list((scene.config.root / "work").glob("[0-9A-Z]*")) == []
    assert not turn.intake.settling()
    turn.close()


def test_a_file_that_is_swapped_for_a_link_is_not_taken(scene: Scene) -> None:
    """Between the look and the rename: what was judged is not what is there, so it goes back and is reported."""
    path = scene.inbox / "a.csv"

    def swap() -> None:
        path.unlink()
        make_link(path)

    turn = racing(scene, "claim: rename", swap)
    hear(turn, "a.csv")
    assert turn.take() == []
    assert path.is_symlink()
    assert [why for why in reasons(turn) if "symbolic link" in why]
    assert turn.ledger.find_drops() == []
    turn.close()


class Racing:
    """An intake of which `act` is done between the judgement and the claim: it is what asks for the time then."""

    def __init__(self, turn: Turn) -> None:
        self.acts: list[Callable[[], object]] = []
        self.left_alone: list[tuple[str, bytes, str]] = []
        self.intake = Intake(
            folders=turn.folders,
            ledger=turn.ledger,
            now=self._now,
            monotonic=lambda: turn.scene.clock.monotonic,
            left_alone=lambda *what: self.left_alone.append(what),
        )
        self._clock = turn.scene.clock
        self.intake.configure(turn.scene.config)
        self.intake.tick()

    def _now(self) -> float:
        if self.acts:
            self.acts.pop()()
        return self._clock.wall


@pytest.mark.parametrize("part", ["inbox/acme", "work"])
def test_a_folder_that_vanishes_before_the_claim_stops_nobody(turn: Turn, part: str) -> None:
    """The reason is reported for the file; when the folder is back, the file is taken."""
    racing = Racing(turn)
    there, away = turn.scene.config.root / part, turn.scene.at / "away"
    hear(turn, "a.csv")
    racing.intake.hear("acme", b"a.csv")
    turn.scene.clock.move(2.0)
    racing.acts.append(lambda: there.rename(away))
    assert racing.intake.tick() == []
    assert [(folder, name) for folder, name, _ in racing.left_alone] == [("acme", b"a.csv")]
    away.rename(there)
    turn.scene.clock.move(60.0)
    assert names(racing.intake.tick()) == ["a.csv"]


# ------------------------------------------------------------------------------------------ the machine is at fault


def failing(at: str, number: int, times: list[int]) -> Callable[[str], None]:
    """A step that fails at the effect `at` with the error `number`, in these of its turns (from 0)."""
    count = 0

    def step(name: str) -> None:
        nonlocal count
        if name == at:
            count += 1
            if count - 1 in times:
                raise OSError(number, os.strerror(number))

    return step


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_a_fault_of_the_machine_loses_no_file_and_judges_none(scene: Scene, number: int) -> None:
    """The second of three files cannot be taken: the fault is raised, and later all three have been taken once."""
    with scene.turn(failing("claim: make work/ID", number, [1])) as turn:
        turn.start()
        for name in ("a.csv", "b.csv", "c.csv"):
            hear(turn, name)
        turn.scene.clock.move(2.0)
        with pytest.raises(FolderError) as raised:
            turn.intake.tick()
        assert raised.value.environment
        assert in_inbox(scene) == ["b.csv"]
        assert after(turn, 60.0) == ["b.csv"]
        assert names(turn.ledger.find_drops()) == ["a.csv", "c.csv", "b.csv"]
        assert turn.left_alone == []


def test_a_ledger_that_refuses_the_row_loses_no_file(scene: Scene) -> None:
    """The file is in work/ by then; the next `adopt` gives it its row."""
    with scene.turn(failing("ledger: commit Claimed", errno.ENOSPC, [0])) as turn:
        turn.start()
        hear(turn, "a.csv")
        turn.scene.clock.move(2.0)
        with pytest.raises(LedgerError):
            turn.intake.tick()
        assert in_inbox(scene) == []
        assert turn.ledger.find_drops() == []
        assert names(turn.adoption.adopt(scene.config.root, scene.config, trusted=True)) == ["a.csv"]
        assert after(turn, 60.0) == []


def test_what_is_adopted_keeps_the_order_in_which_it_was_ready(scene: Scene) -> None:
    """Twenty files were ready at one moment and renamed, and no row was written: their IDs still tell the order."""
    with scene.turn(failing("ledger: commit Claimed", errno.ENOSPC, [0])) as turn:
        turn.start()
        wanted = [f"{number:02}.csv" for number in range(20)]
        for name in wanted:
            scene.put(name, ROWS)
        with pytest.raises(LedgerError):
            turn.take()
        assert names(turn.adoption.adopt(scene.config.root, scene.config, trusted=True)) == wanted


def test_a_sync_that_fails_loses_no_file(scene: Scene) -> None:
    """The rename happened, its directory could not be synced: no row yet, but the next `adopt` finds it."""
    with scene.turn(failing("claim: sync folder", errno.EIO, [0])) as turn:
        turn.start()
        hear(turn, "a.csv")
        turn.scene.clock.move(2.0)
        with pytest.raises(FolderError):
            turn.intake.tick()
        assert names(turn.adoption.adopt(scene.config.root, scene.config, trusted=True)) == ["a.csv"]


@contextlib.contextmanager
def descriptors_kept() -> Iterator[None]:
    """Puts back the limit of open files that the test lowers."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def use_up_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def test_a_fault_while_looking_keeps_those_that_were_ready(turn: Turn) -> None:
    """One file is ready, then there are no descriptors to look at the next: later both are taken, unheard of again."""
    racing = Racing(turn)
    for name in ("a.csv", "b.csv"):
        turn.scene.put(name, ROWS, folder="acme")
        racing.intake.hear("acme", os.fsencode(name))
    turn.scene.clock.move(2.0)
    racing.acts.append(use_up_descriptors)
    with descriptors_kept(), pytest.raises(FolderError, match="Too many open files"):
        racing.intake.tick()
    assert in_inbox(turn.scene) == ["a.csv", "b.csv"]
    turn.scene.clock.move(1.0)
    assert sorted(names(racing.intake.tick())) == ["a.csv", "b.csv"]
    assert racing.left_alone == []


def test_a_fault_while_listing_is_raised(turn: Turn) -> None:
    """Not reported as a fault of the inbox; the next scan comes as ever."""
    turn.scene.put("a.csv", ROWS, folder="acme")
    turn.intake.scan_soon()
    with descriptors_kept():
        use_up_descriptors()
        with pytest.raises(FolderError, match="Too many open files"):
            turn.intake.tick()
    assert turn.left_alone == []
    assert names(turn.take()) == ["a.csv"]


# -------------------------------------------------------------------------------------------------------- adoption


def orphan(scene: Scene, name: str, *, folder: str = "acme") -> str:
    """A file in work/ without a row, as a crash right after the rename leaves it; returns its ID."""
    scene.put(name, ROWS, folder=folder)
    folders, here = Folders(), scene.config.folders[folder]
    look = folders.look(here, os.fsencode(name))
    assert look is not None
    scene.clock.move(0.01)
    ((claim,), ()) = folders.claim(
        here, [Wanted(id=make_id(scene.clock.wall), name=os.fsencode(name), seen=Seen(look))]
    )
    return claim.id


def test_an_orphan_gets_its_row(scene: Scene) -> None:
    """We died between the rename and the row: the drop is queued under the same ID, and says that it was adopted."""
    with scene.turn() as turn:
        turn.start()
    ids = [orphan(scene, "a.csv"), orphan(scene, "g.csv", folder="globex")]
    with scene.turn() as turn:
        turn.start()
        drops = turn.ledger.find_drops()
        assert [(drop.id, drop.folder, drop.state) for drop in drops] == [
            (ids[0], "acme", State.QUEUED),
            (ids[1], "globex", State.QUEUED),
        ]
        (entry,) = turn.ledger.history(ids[0])
        assert isinstance(entry.event, Claimed)
        assert entry.event.adopted
        assert turn.adoption.adopt(scene.config.root, scene.config, trusted=True) == []


def test_an_orphan_of_another_ledger_is_held(scene: Scene) -> None:
    """The ledger that knew it is gone: nobody can say whether it was sent, so nothing is."""
    with scene.turn() as turn:
        turn.start()
        hear(turn, "sent.csv")
        assert after(turn, 2.0) == ["sent.csv"]
    for file in scene.config.state_dir.glob("ledger.db*"):
        file.unlink()
    orphan(scene, "a.csv")
    with scene.turn() as turn:
        turn.start()
        drops = turn.ledger.find_drops()
        assert [(drop.state, drop.guard) for drop in drops] == [(State.HELD, "no record")] * 2
        assert "nobody can say whether it was sent" in drops[0].reason
        hear(turn, "new.csv")
        assert after(turn, 2.0) == ["new.csv"]
        assert turn.ledger.find_drops()[-1].state is State.QUEUED


class Died(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


@pytest.mark.parametrize("at", ["ledger: commit Claimed and Withheld", "mark: rename"])
def test_a_crash_while_orphans_of_another_ledger_are_adopted_sends_none(scene: Scene, at: str) -> None:
    """Wherever the first start with a new ledger dies, the next one holds them all the same."""
    orphan(scene, "a.csv")
    orphan(scene, "b.csv")

    def step(name: str) -> None:
        if name == at:
            raise Died

    with scene.turn(step) as turn, pytest.raises(Died):
        turn.start()
    with scene.turn() as turn:
        turn.start()
        assert [(drop.state, drop.guard) for drop in turn.ledger.find_drops()] == [(State.HELD, "no record")] * 2


def test_only_the_work_folder_of_the_other_ledger_is_distrusted(scene: Scene) -> None:
    """A spool brought over from another host: its orphans are held, those of our own root are queued."""
    spool = scene.at / "spool"
    config = reload(scene, "globex: {", f"globex: {{spool: {spool}, ")
    scene = replace(scene, config=config)
    lay_out(config)
    with scene.turn() as turn:
        turn.start()
        turn.folders.write_mark(spool, Mark(ledger="of another ledger"))
    orphan(scene, "a.csv")
    orphan(scene, "g.csv", folder="globex")
    with scene.turn() as turn:
        turn.start()
        states = {drop.folder: drop.state for drop in turn.ledger.find_drops()}
        assert states == {"acme": State.QUEUED, "globex": State.HELD}


def test_an_orphan_of_a_folder_that_is_gone_stays_and_is_reported(scene: Scene) -> None:
    """Nobody knows what to do with it: it stays in work/, and the report says where."""
    with scene.turn() as turn:
        turn.start()
    id = orphan(scene, "g.csv", folder="globex")
    config = reload(scene, "  globex: {segment_id: 1, mode: lead}\n", "")
    with replace(scene, config=config).turn() as turn:
        turn.start()
        assert turn.ledger.find_drops() == []
        ((folder, name, why),) = turn.left_alone
        assert (folder, name) == ("globex", b"g.csv")
        assert f"work/{id}" in why
        assert "no folder 'globex' is configured any more" in why
    with scene.turn() as turn:
        turn.start()
        assert names(turn.ledger.find_drops()) == ["g.csv"]


def test_empty_remains_in_work_are_removed(scene: Scene) -> None:
    """We died before the rename: the file is still in the inbox, and the empty place goes."""
    id = orphan(scene, "a.csv")
    place = scene.config.root / "work" / id
    (place / "original").rename(scene.inbox / "a.csv")
    with scene.turn() as turn:
        turn.start()
        assert not place.exists()
        assert names(turn.take()) == ["a.csv"]


# ---------------------------------------------------------------------------------------------------------- reload


def test_a_reload_keeps_what_was_known_of_a_file(turn: Turn) -> None:
    """A file that was heard of before is not taken for one that only a scan found."""
    hear(turn, "a.csv")
    assert after(turn, 1.0) == []
    turn.intake.configure(turn.scene.config)
    assert after(turn, 1.0) == ["a.csv"]


def test_a_folder_that_a_reload_removes_is_not_looked_at_any_more(turn: Turn) -> None:
    """Its candidates are forgotten, its events are not heard, its files stay."""
    hear(turn, "g.csv", folder="globex")
    assert after(turn, 0.0) == []
    turn.intake.configure(reload(turn.scene, "  globex: {segment_id: 1, mode: lead}\n", ""))
    assert not turn.intake.settling()
    turn.intake.hear("globex", b"g.csv")
    assert turn.take() == []
    assert in_inbox(turn.scene, "globex") == ["g.csv"]


def test_a_folder_that_a_reload_adds_is_scanned_at_once(turn: Turn) -> None:
    """Its inbox is looked through at the next tick."""
    config = reload(turn.scene, "  globex:", "  initech: {segment_id: 2, mode: lead}\n  globex:")
    config.folders["initech"].path.mkdir()
    (config.folders["initech"].path / "i.csv").write_bytes(ROWS)
    turn.intake.configure(config)
    assert after(turn, 0.0) == []
    assert after(turn, 10.0) == ["i.csv"]


def test_a_name_that_a_reload_ignores_is_not_taken_any_more(turn: Turn) -> None:
    """Even if it was about to be."""
    hear(turn, "a.csv")
    assert after(turn, 1.0) == []
    turn.intake.configure(reload(turn.scene, "defaults: {", "defaults: {ignore: ['a*'], "))
    assert turn.take() == []
    assert in_inbox(turn.scene) == ["a.csv"]
