"""What an operator can order, by the ledger alone and through the control socket of a running daemon."""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from console import command, on_terminal
from scene import KEY, Scene, make_scene

from dropzone import client, control, operate
from dropzone.cli import cli
from dropzone.drop import Drop, Entry, Released, Retried, State, Withheld
from dropzone.errors import FolderError, OperatorError
from dropzone.lanes import Lanes
from dropzone.ledger.sqlite import SQLiteReader
from dropzone.sandbox import Sandbox
from dropzone.service import state_lock

GOOD = b"email\nann@example.com\n"
FAST = "settle: 20ms, settle_unseen: 20ms, scan: 100ms"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture
def scene(tmp_path: Path, sandbox: Sandbox) -> Scene:
    scene = make_scene(tmp_path, sandbox.url, defaults=FAST)
    scene.clock.wall = time.time()  # commands and daemon have the real one
    return scene


def held(scene: Scene, sandbox: Sandbox) -> Drop:
    """A drop whose answer was lost."""
    sandbox.fault("lost_answer")
    scene.put("a.csv", GOOD)
    (drop,) = scene.settle()
    assert (drop.state, drop.guard) == (State.HELD, "unknown")
    return drop


def run(scene: Scene, *words: str, given: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["-c", str(scene.at / "dropzone.yaml"), *words], input=given)
    return result.exit_code, result.output


def history(scene: Scene, id: str) -> list[Entry]:
    reader = SQLiteReader(scene.config.state_dir)
    try:
        return reader.history(id)
    finally:
        reader.close()


def test_accept_files_what_an_operator_has_found(scene: Scene, sandbox: Sandbox) -> None:
    """`accept` by a shortened ID, without a daemon: the next run files it in done/, and the log says who said so."""
    drop = held(scene, sandbox)
    code, output = run(scene, "accept", drop.id[:10].lower())
    assert (code, output) == (0, f"{drop.id} acme: accepted\n")
    (done,) = scene.settle()
    assert done.state is State.DONE
    log = (scene.config.root / str(done.path)).with_suffix(".log").read_text()
    assert f"{getpass.getuser()} has found it in OptiPub" in log
    assert len(sandbox.imports) == 1


def test_retry_of_an_unknown_drop_offers_it_again_and_owns_up(scene: Scene, sandbox: Sandbox) -> None:
    """`release` refuses with the way out; `retry` sends it twice, and the log says so."""
    drop = held(scene, sandbox)
    code, output = run(scene, "release", drop.id)
    assert code == 1
    assert f"dropzone accept {drop.id}" in output
    assert run(scene, "retry", drop.id)[0] == 0
    (done,) = scene.settle()
    assert (done.state, len(sandbox.imports)) == (State.DONE, 2)
    assert "more than once" in (scene.config.root / str(done.path)).with_suffix(".log").read_text()


def test_retry_brings_a_failed_file_back(scene: Scene, sandbox: Sandbox) -> None:
    """A refused file is sent again, ends in done/, and nothing of it stays in failed/."""
    sandbox.fault("status", status=422)
    scene.put("a.csv", GOOD)
    (drop,) = scene.settle()
    assert drop.state is State.FAILED
    assert run(scene, "retry", "ALL", "--yes") == (0, f"{drop.id} acme: queued\n")
    (done,) = scene.settle()
    assert done.state is State.DONE
    assert not [path for path in (scene.config.root / "failed").rglob("*") if path.is_file()]
    assert any(isinstance(entry.event, Retried) for entry in history(scene, drop.id))


def test_discard_hold_and_ids_from_standard_input(scene: Scene, sandbox: Sandbox) -> None:
    """Held drops go to failed/ unsent; a reason given with --why is kept; `-` reads IDs."""
    with scene.turn() as turn:
        turn.start()
        scene.put("a.csv", GOOD)
        (drop,) = turn.take()
    assert run(scene, "hold", "-", "--why", "wrong list", given=f"{drop.id}\n")[0] == 0
    assert history(scene, drop.id)[-1].event == Withheld(guard="operator", why="wrong list")
    assert run(scene, "discard", drop.id)[0] == 0
    (failed,) = scene.settle()
    assert (failed.state, sandbox.imports) == (State.FAILED, ())


def test_many_orders_without_a_daemon_are_carried_out_some_at_a_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them, once and in the order given, what does not fit refused by itself; between them others may write."""
    with scene.turn() as turn:
        turn.start()
        for number in range(5):
            scene.put(f"{number}.csv", GOOD)
            turn.take()
        first, second, *others = [drop.id for drop in turn.ledger.find_drops()]
    monkeypatch.setattr(client, "_AT_ONCE", 2)
    told = []
    for answer in client.order(scene.config, "discard", [second, first, second, *others], "no more"):
        told.append(answer.id if isinstance(answer, Drop) else "refused")
        with state_lock(scene.config.state_dir):  # a daemon could start while somebody reads our answer
            pass
    assert told == [second, first, "refused", *others]
    assert run(scene, "queue", "--state", "refused", "--json")[1].count("no more") == 5


def test_an_interrupt_ends_it_once_everything_is_told(scene: Scene) -> None:
    """Ctrl-C in the middle of many orders without a daemon: those that were carried out are those that are printed."""
    with scene.turn() as turn:
        turn.start()
        for number in range(200):
            scene.put(f"{number}.csv", GOOD)
        turn.take()
    assert run(scene, "hold", "ALL", "--yes")[0] == 0
    words = command(scene, "discard", "ALL", "--yes")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        with contextlib.closing(SQLiteReader(scene.config.state_dir)) as reader:
            while not reader.find_drops(states=[State.REFUSED], limit=1):
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    with contextlib.closing(SQLiteReader(scene.config.state_dir)) as reader:
        refused = [drop.id for drop in reader.find_drops(states=[State.REFUSED])]
        assert len(reader.find_drops(states=[State.HELD])) == 200 - len(refused)
    assert [line.split()[0] for line in out.splitlines()] == refused


@pytest.mark.parametrize("given", [b"\x00\xff\nrubbish\n", b"\xff" * 9, "e\u0301\u202e".encode(), b"2' OR 1 --"])
def test_rubbish_on_standard_input_is_no_id(scene: Scene, sandbox: Sandbox, given: bytes) -> None:
    """Whatever its bytes are it is called what it is, in a sentence, and nothing is ordered."""
    drop = held(scene, sandbox)
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as where the locale is not C
    done = subprocess.run(
        command(scene, "discard", "-"), input=given, capture_output=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"dropzone: there is no drop ")
    assert len(done.stderr.splitlines()) == 2
    assert history(scene, drop.id)[-1].event == Withheld(guard="unknown", why=drop.reason)


@pytest.mark.parametrize("words", [["show", ""], ["discard", ""], ["show", " "]])
def test_no_id_at_all_is_said_so(scene: Scene, sandbox: Sandbox, words: list[str]) -> None:
    """An empty variable of a script does not end as a sentence without its last word."""
    held(scene, sandbox)
    code, output = run(scene, *words)
    assert (code, output.splitlines()[0]) == (1, "dropzone: an ID is missing")


def test_all_asks_back(scene: Scene, sandbox: Sandbox) -> None:
    """ALL without --yes is refused where nobody can be asked, and says so where nothing fits."""
    code, output = run(scene, "queue")
    assert code == 1  # there is no ledger yet, and it says so
    held(scene, sandbox)
    code, output = run(scene, "accept", "ALL")
    assert code == 1
    assert "--yes" in output
    code, output = run(scene, "retry", "ALL")
    assert "no drop to retry" in output


def test_all_that_is_not_meant_is_said_to_be_left_alone(scene: Scene, sandbox: Sandbox) -> None:
    """A no to the question orders nothing and says so; whoever breaks off leaves the line of the question."""
    held(scene, sandbox)
    words = command(scene, "discard", "ALL")
    with on_terminal(words, NO_COLOR="1") as terminal:
        terminal.wait_for("discard 1 drop of acme? [y/N]: ")
        terminal.type("n\n")
        assert terminal.end() == 1
    assert "dropzone: nothing was ordered\r\n" in terminal.shown
    with on_terminal(words) as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.type("\x04")  # Ctrl-D: between its question and its listening Python may lose a Ctrl-C
        assert terminal.end() == 130
    assert terminal.shown.endswith("\r\n")
    assert run(scene, "queue", "--state", "held", "--json")[1].count("unknown") > 0


@pytest.mark.parametrize(
    ("what", "state"),
    [(what, state) for what in operate.ORDERS for state in (State.DONE, State.SENDING, State.ACCEPTED, State.REFUSED)],
)
def test_orders_that_do_not_fit_are_refused(scene: Scene, what: str, state: State) -> None:
    """What is finished or under way cannot be ordered about; the error names the state."""
    with scene.turn() as turn:
        turn.start()
        scene.put("a.csv", GOOD)
        (drop,) = turn.take()
        with pytest.raises(OperatorError, match=state.value):
            operate.order(turn.ledger, what, replace(drop, state=state), by="ann", why="", at=1.0)


def test_accept_is_only_for_what_was_sent(scene: Scene) -> None:
    """A drop that a guard holds was never sent: accepting it would lose it."""
    scene.put("a.csv", b"email\n")
    (drop,) = scene.settle()
    assert drop.guard == "min_rows"
    code, output = run(scene, "accept", drop.id)
    assert code == 1
    assert "never sent" in output
    assert run(scene, "release", drop.id)[0] == 0
    (done,) = scene.settle()
    assert done.state is State.DONE
    assert any(isinstance(entry.event, Released) for entry in history(scene, drop.id))


# ------------------------------------------------------------------------------------------------ with a daemon


@pytest.fixture
def daemon(scene: Scene) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dropzone", "-c", str(scene.at / "dropzone.yaml"), "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert b"watching" in process.stderr.readline()
        yield process
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0


def wait_for(daemon: subprocess.Popen[bytes], words: str) -> dict[str, object]:
    assert daemon.stderr
    for line in daemon.stderr:
        entry: dict[str, object] = json.loads(line)
        if words in str(entry["event"]):
            return entry
    pytest.fail(f"the daemon never said {words!r}")


def test_a_running_daemon_carries_orders_out(scene: Scene, sandbox: Sandbox, daemon: subprocess.Popen[bytes]) -> None:
    """Through the control socket: the event names who asked, by the kernel's word, and the file is filed at once."""
    sandbox.fault("lost_answer")
    scene.put("a.csv", GOOD)
    id = str(wait_for(daemon, "held (unknown)")["drop"])
    assert run(scene, "accept", id) == (0, f"{id} acme: accepted\n")
    assert getpass.getuser() in str(wait_for(daemon, "accepted")["event"])
    assert str(wait_for(daemon, "filed as done/")["drop"]) == id
    (result,) = client.order(scene.config, "accept", [id], "")
    assert isinstance(result, OperatorError)


def test_the_socket_survives_whatever_is_written_to_it(
    scene: Scene, sandbox: Sandbox, daemon: subprocess.Popen[bytes]
) -> None:
    """Garbage, an unknown order, an unknown drop and a caller who hangs up are answered or forgotten."""
    for garbage in (b"", b"\n", b"[]\n", b"{}\n", b"\xff\xfe\n", b'{"order": 1, "id": 2}\n'):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(scene.config.state_dir / control.NAME))
            caller.sendall(garbage)
            caller.shutdown(socket.SHUT_WR)
            assert b"error" in caller.recv(4096)
    answer = control.ask(scene.config.state_dir, {"order": "release", "id": "nobody"})
    assert answer is not None
    assert "no drop" in str(answer["error"])
    scene.put("b.csv", GOOD)
    wait_for(daemon, "filed as done/")


def test_without_a_daemon_nobody_answers(tmp_path: Path) -> None:
    """No socket, or one that a dead daemon left: None, and the caller takes the ledger itself."""
    assert control.ask(tmp_path, {}) is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / control.NAME))
    assert control.ask(tmp_path, {}) is None


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        (errno.EROFS, "writable again"),
        (errno.ENOSPC, "Make room"),
        (errno.EACCES, "the user that it belongs to"),
        (errno.ENOENT, "dropzone init"),
        (errno.ELOOP, "the disk of the state folder"),
    ],
)
def test_a_lock_that_cannot_be_had_names_the_mend_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, mend: str
) -> None:
    """A file system that is read-only, or full, is no question of the user."""
    open_it = os.open

    def refuse(path: str | Path, *how: int) -> int:
        if path == tmp_path / "lock":
            raise OSError(code, os.strerror(code))
        return open_it(path, *how)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FolderError, match=os.strerror(code)) as refused, state_lock(tmp_path):
        pass
    assert mend in refused.value.hint


def test_a_long_state_folder_is_no_obstacle(tmp_path: Path) -> None:
    """The kernel's 107 bytes for a socket's address do not limit the path of the state folder."""
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    server = control.Control(deep, lambda request, by: {"echo": request, "by": by})
    try:
        assert control.ask(deep, {"a": 1}) == {"echo": {"a": 1}, "by": getpass.getuser()}
    finally:
        server.close()
    assert control.ask(deep, {"a": 1}) is None


# ------------------------------------------------------------------------------------- what an attack has shown


def test_a_reason_in_broken_text_is_escaped_and_harms_nobody(
    scene: Scene, sandbox: Sandbox, daemon: subprocess.Popen[bytes]
) -> None:
    """A Latin-1 terminal, or a caller who sends half a character: the order is carried out, the daemon lives on."""
    sandbox.fault("lost_answer")
    scene.put("a.csv", GOOD)
    id = str(wait_for(daemon, "held (unknown)")["drop"])
    answer = control.ask(scene.config.state_dir, {"order": "discard", "id": id, "why": "zur\udcfcck \ud800"})
    assert answer == {"state": "refused"}
    wait_for(daemon, "filed as failed/")
    assert control.ask(scene.config.state_dir, {"order": "\ud800", "id": "["}) is not None


def test_a_deep_request_does_not_end_the_socket(daemon: subprocess.Popen[bytes], scene: Scene) -> None:
    """A hundred thousand brackets are answered like other garbage, and the next caller is served."""
    assert daemon.poll() is None
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(scene.config.state_dir / control.NAME))
        caller.sendall(b"[" * 100_000 + b"\n")
        assert b"error" in caller.recv(4096)
    assert control.ask(scene.config.state_dir, {"order": "hold", "id": "x"}) is not None


def test_released_drops_go_in_the_order_of_their_claims(scene: Scene, sandbox: Sandbox) -> None:
    """However they are released, files of one segment are offered as they became ready."""
    with scene.turn() as turn:
        turn.start()
        for name in ("1.csv", "2.csv", "3.csv", "4.csv"):
            scene.put(name, GOOD)
            turn.take()
        lanes = Lanes()
        ids = [drop.id for drop in turn.ledger.find_drops()]
        for id in reversed(ids[1:]):
            lanes.add_back("lane", "main", id)
        lanes.add("lane", "main", "Z" * 12)
        lanes.add_back("lane", "main", ids[0])
        order = []
        while taken := lanes.take(0.0):
            order.append(taken[2])
            lanes.give_back("lane", None)
    assert order == [*ids, "Z" * 12]
    assert not sandbox.imports


def test_a_drop_that_was_checked_but_has_no_row_is_held(scene: Scene, sandbox: Sandbox) -> None:
    """An older copy of the ledger was put in place: the file may have been sent, so nothing is sent by itself."""
    drop = held(scene, sandbox)
    with scene.turn() as turn:
        for table in ("drops", "events", "attempts"):
            column = "id" if table == "drops" else "drop_id"
            turn.ledger._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (drop.id,))  # noqa: S608
    (found,) = scene.settle()
    assert (found.id, found.state, found.guard) == (drop.id, State.HELD, "no record")
    assert len(sandbox.imports) == 1
    assert run(scene, "release", drop.id)[0] == 1
    assert run(scene, "accept", drop.id)[0] == 0
    assert scene.settle()[0].state is State.DONE


def test_what_was_too_short_before_the_ledger_was_lost_is_so_afterwards(scene: Scene, sandbox: Sandbox) -> None:
    """It was looked for in OptiPub and is not there: `retry` has it checked like any other, and the guard holds it."""
    scene.put("a.csv", b"email\n")
    (drop,) = scene.settle()
    assert drop.guard == "min_rows"
    for path in scene.config.state_dir.glob("ledger.db*"):
        path.unlink()
    assert [found.guard for found in scene.settle()] == ["no record"]
    assert run(scene, "retry", drop.id)[0] == 0
    assert [(found.state, found.guard) for found in scene.settle()] == [(State.HELD, "min_rows")]
    assert not sandbox.imports
    assert run(scene, "release", drop.id)[0] == 1  # it may be in OptiPub still
    assert run(scene, "retry", drop.id)[0] == 0
    scene.settle()
    assert len(sandbox.imports) == 1


@pytest.mark.parametrize("k", range(3))
def test_a_death_while_a_file_without_record_is_taken_up_sends_nothing(scene: Scene, sandbox: Sandbox, k: int) -> None:
    """Before each commit of the start that finds it: the next one finds it as it was, or held."""
    drop = held(scene, sandbox)
    with scene.turn() as turn:
        for table in ("drops", "events", "attempts"):
            column = "id" if table == "drops" else "drop_id"
            turn.ledger._db.execute(f"DELETE FROM {table} WHERE {column} = ?", (drop.id,))  # noqa: S608
    left = iter(range(k + 1))

    def die(step: str) -> None:
        if step.startswith("ledger: commit") and next(left, None) == k:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), scene.turn(die) as turn:
        turn.start()
    (found,) = scene.settle()
    assert (found.id, found.state, found.guard) == (drop.id, State.HELD, "no record")
    assert len(sandbox.imports) == 1


def test_a_file_that_somebody_took_from_work_blocks_nobody(scene: Scene, sandbox: Sandbox) -> None:
    """Before it is sent it is held, with the reason; after the verdict the verdict stands; later files go on."""
    with scene.turn() as turn:
        turn.start()
        scene.put("1.csv", GOOD)
        scene.put("2.csv", GOOD)
        first, _ = turn.take()
        (scene.config.root / "work" / first.id / "original").unlink()
        turn.send()
        assert [drop.state for drop in turn.ledger.find_drops()] == [State.HELD, State.DONE]
        assert turn.ledger.find_drops()[0].guard == "missing"
    assert run(scene, "discard", first.id)[0] == 0
    gone, _ = scene.settle()
    assert (gone.state, gone.path) == (State.FAILED, "")
    assert len(sandbox.imports) == 1
    code, output = run(scene, "retry", first.id)
    assert (code, "gone from failed/" in output) == (1, True)


def test_a_failed_drop_can_be_tried_with_the_settings_of_now(scene: Scene, sandbox: Sandbox) -> None:
    """What was wrong in the configuration is mended, and `--anew` goes by that; without it the old segment stays."""
    sandbox.fault("status", status=422)
    scene.put("a.csv", GOOD)
    (drop,) = scene.settle()
    assert drop.state is State.FAILED
    file = scene.at / "dropzone.yaml"
    file.write_text(file.read_text().replace("segment_id: 100789", "segment_id: 200"))
    code, output = run(scene, "retry", drop.id, "--anew")
    assert (code, output) == (0, f"{drop.id} acme: queued\n")
    (done,) = scene.settle()
    assert (done.state, done.segment_id, done.lane) == (State.DONE, 200, "main/200")
    assert [each.segment for each in sandbox.imports] == [100789, 200]
    assert "into segment 200, by" in (scene.config.root / str(done.path)).with_suffix(".log").read_text()


def test_settings_of_now_are_those_of_a_daemon_that_has_read_them(
    scene: Scene, sandbox: Sandbox, daemon: subprocess.Popen[bytes]
) -> None:
    """With a file that was changed and not read again, `--anew` would try the old settings once more: it is refused."""
    sandbox.fault("status", status=422)
    scene.put("a.csv", GOOD)
    id = str(wait_for(daemon, "filed as failed/")["drop"])
    file = scene.at / "dropzone.yaml"
    file.write_text(file.read_text().replace("segment_id: 100789", "segment_id: 200"))
    code, output = run(scene, "retry", id, "--anew")
    assert (code, "systemctl reload dropzone" in output) == (1, True)
    daemon.send_signal(signal.SIGHUP)
    wait_for(daemon, "the configuration was read again")
    assert run(scene, "retry", id, "--anew") == (0, f"{id} acme: queued\n")
    wait_for(daemon, "filed as done/")
    assert [each.segment for each in sandbox.imports] == [100789, 200]


def test_all_stands_alone_and_in_capitals(scene: Scene, sandbox: Sandbox) -> None:
    """Nothing is ordered by half: ALL beside IDs, small letters, and - beside others are refused with the way."""
    drop = held(scene, sandbox)
    for words in (("ALL", drop.id), ("all",), ("-", drop.id), ("All", "--yes")):
        code, output = run(scene, "discard", *words)
        assert (code, "ALL stand alone" in output) == (1, True), words
    assert history(scene, drop.id)[-1].event.__class__ is Withheld


def test_only_a_failed_drop_can_have_other_settings(scene: Scene, sandbox: Sandbox) -> None:
    """One that is held, waiting, or whose folder is gone is refused with the way that there is."""
    drop = held(scene, sandbox)
    code, output = run(scene, "retry", drop.id, "--anew")
    assert code == 1
    assert f"dropzone discard {drop.id}" in output
    assert run(scene, "discard", drop.id)[0] == 0
    scene.settle()
    file = scene.at / "dropzone.yaml"
    file.write_text(file.read_text().replace("  acme:", "  other:"))
    code, output = run(scene, "retry", drop.id, "--anew")
    assert code == 1
    assert "no folder is called acme any more" in output


def test_a_file_that_was_mended_in_place_is_read_anew(scene: Scene, sandbox: Sandbox) -> None:
    """Somebody edits it in failed/, and `retry` checks and sends what is there now."""
    scene.put("a.csv", b"email\nnobody\n")
    (drop,) = scene.settle()
    assert drop.state is State.FAILED
    filed = scene.config.root / str(drop.path)
    filed.write_bytes(GOOD)
    assert run(scene, "retry", drop.id)[0] == 0
    (done,) = scene.settle()
    assert (done.state, done.rows) == (State.DONE, 1)
    assert len(sandbox.imports) == 1
