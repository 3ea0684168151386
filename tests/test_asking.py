"""What an operator sees when asking: everything at a glance, the queue by age, one path, and words half typed."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from console import ask, command, daemon_on, objects, on_terminal
from scene import KEY, Scene, make_scene
from unprivileged import as_nobody

from dropzone import config as configuration
from dropzone import control
from dropzone.cli import cli, render, text
from dropzone.cli.manual import commands, page
from dropzone.drop import Drop, State
from dropzone.ledger import Standing
from dropzone.ledger.sqlite import SQLiteReader
from dropzone.operate import Health, Inbox, ages, overview, queue
from dropzone.operate.finding import Looker
from dropzone.operate.trying import plan
from dropzone.progress import Step
from dropzone.sandbox import Sandbox

ROWS = b"email,varr_a\nann@example.com,Ann\nbob@example.com,Bob\n"
HOSTILE = b"\x1b[31mred\nforged\x07\xff.csv"
FOLDERS = "acme: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}"
HERE = Health(running=True, steps={})
FAST = "settle: 20ms, settle_unseen: 20ms, scan: 200ms"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture
def scene(tmp_path: Path, sandbox: Sandbox) -> Scene:
    scene = make_scene(tmp_path, sandbox.url, folders=FOLDERS, defaults=FAST)
    scene.clock.wall = time.time()  # commands have the real one
    return scene


@pytest.fixture
def lived(scene: Scene, sandbox: Sandbox) -> Scene:
    """In acme one file is done and one is held, under a hostile name; in globex one waits for the server."""
    with scene.turn() as turn:
        turn.start()
        scene.put("done.csv", ROWS)
        turn.take()
        turn.send()
        sandbox.fault("lost_answer")
        scene.put(HOSTILE, ROWS)
        turn.take()
        turn.send()
        sandbox.fault("status", status=503, headers={"Retry-After": "1800"})
        scene.put("queued.csv", ROWS, folder="globex")
        turn.take()
        turn.send(patience_s=0.0)
    return scene


def drops(scene: Scene) -> list[Drop]:
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        return reader.find_drops()


# ---------------------------------------------------------------------------------------------------------- status


def test_status_tells_everything_at_a_glance(lived: Scene) -> None:
    """No daemon (8), the account that waits and why, a line for each folder, and what a person has to do."""
    code, out, err = ask(lived, "status")
    assert (code, err) == (8, "")
    assert "no daemon runs here" in out
    assert "account main" in out
    assert "OptiPub answered 503" in out
    rows = {line.split()[1]: line.split() for line in out.splitlines() if line[3:].startswith(("acme", "globex"))}
    assert rows["acme"][0] == "!"
    assert rows["acme"][4] == "1"
    assert rows["globex"][:3] == ["·", "globex", "1"]
    assert "never" in rows["globex"]
    assert "1 drop waits for a person: dropzone queue --state held" in out
    assert all(line.isprintable() for line in out.splitlines())


def test_status_for_programs(lived: Scene) -> None:
    """One object for the daemon, one for each account and folder, told apart by `kind`."""
    found = objects(lived, "status")
    kinds = [each["kind"] for each in found]
    assert kinds == ["daemon", "account", "folder", "folder"]
    daemon, account, acme, globex = found
    assert daemon["running"] is False
    assert "503" in account["why"]
    assert (acme["held"], acme["waiting"], globex["waiting"]) == (1, 0, 1)
    assert acme["accepted"]["rows"] == 2
    assert globex["accepted"] is None


def test_status_names_folders_that_the_configuration_lost(lived: Scene) -> None:
    """Their open drops would be forgotten otherwise."""
    file = lived.at / "dropzone.yaml"
    file.write_text(file.read_text().replace("  globex: {segment_id: 2, mode: lead}\n", ""))
    assert "the configuration does not have this folder any more" in ask(lived, "status")[1]
    assert objects(lived, "status")[-1]["configured"] is False


def test_status_of_a_running_daemon_and_its_keys(scene: Scene) -> None:
    """It is said to run, with 0 where nobody has to do anything; a key's last days are told."""
    file = scene.at / "dropzone.yaml"
    made = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 355 * 86400))
    file.write_text(file.read_text().replace("    api_key:", f"    key_created: {made}\n    api_key:"))
    with subprocess.Popen(command(scene, "run"), stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr
        assert any('"watching"' in line for line in daemon.stderr)
        try:
            code, out, _ = ask(scene, "status")
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.stderr.read()
    assert code == 0
    assert "daemon runs" in out
    assert "its key ends in 10 days" in out


def test_a_wrong_setting_elsewhere_does_not_keep_from_asking(lived: Scene) -> None:
    """After a bad edit the daemon goes on with the old file, and the queue can be asked; without state_dir it is 4."""
    file = lived.at / "dropzone.yaml"
    good = file.read_text()
    file.write_text(good.replace("mode: lead", "mode: leed"))
    assert ask(lived, "queue")[0] == 0
    assert ask(lived, "config", "check")[0] == 4
    for wrong in (good.replace("state_dir: /", "state_dir: "), "[]", "\x00"):
        file.write_text(wrong)
        code, _, err = ask(lived, "queue")
        assert code == 4
        assert "config check" in err


def test_a_work_folder_that_the_daemon_cannot_use_is_told(scene: Scene) -> None:
    """Nothing goes through it, which no folder's line shows: `status` says so and where to look, until it is mended."""
    mark = scene.config.root / "work" / ".ledger"
    mark.mkdir()
    with daemon_on(scene) as daemon:
        (why,) = objects(scene, "status")[0]["away"]
        assert str(mark) in why
        code, out, _ = ask(scene, "status")
        shown = " ".join(out.split())
        assert code == 3
        assert "! the daemon runs" in shown
        assert f"nothing goes through a work folder: {why}. What to type: dropzone doctor" in shown
        mark.rmdir()
        daemon.reload()
        assert objects(scene, "status")[0]["away"] == []
        assert ask(scene, "status")[0] == 0


def test_an_older_configuration_than_the_files_is_told(scene: Scene) -> None:
    """The file was changed, and nobody has reloaded: `status` says so, `why` answers by what the daemon goes by."""
    file = scene.at / "dropzone.yaml"
    with daemon_on(scene) as daemon:
        assert [objects(scene, "status")[0][name] for name in ("running", "outdated")] == [True, False]
        change(scene, "  globex:", "  newcomer:")
        new = scene.config.root / "inbox" / "newcomer"
        new.mkdir()
        (new / "a.csv").write_bytes(b"")
        assert objects(scene, "status")[0]["outdated"] is True
        assert "older configuration than the file's" in ask(scene, "status")[1]
        code, out, err = ask(scene, "why", str(new / "a.csv"))
        assert (code, "in no watched folder" in out) == (0, True)
        assert "systemctl reload dropzone" in err
        daemon.reload()
        assert objects(scene, "status")[0]["outdated"] is False
        code, out, err = ask(scene, "why", str(new / "a.csv"))
        assert (code, err) == (0, "")
        assert "newcomer" in out
        assert finding(scene, new / "a.csv")["standing"] == "waiting"
        file.write_text("[]")
        assert ask(scene, "why", str(new / "a.csv"))[0] == 4  # where the daemon is, stands nowhere any more


def test_why_is_answered_by_the_daemon_without_the_models(lived: Scene) -> None:
    """The same findings with and without it, also of a hostile name; only without it are the settings loaded."""
    (lived.inbox / "x.csv.part").touch()
    (lived.inbox / "link.csv").symlink_to("/etc/passwd")
    gone = os.fsdecode(os.fsencode(lived.inbox) + b"/" + HOSTILE)
    paths = [gone, *(str(lived.inbox / name) for name in ("x.csv.part", "link.csv", "Done.csv", "")), "/etc/hosts"]
    alone = objects(lived, "why", *paths)
    code = (
        "import sys; from dropzone.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: assert not {'dropzone.config.model', 'dropzone.folders'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, "-c", str(lived.at / "dropzone.yaml"), "why", "--json", *paths]
    with daemon_on(lived):
        done = subprocess.run(words, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [json.loads(line) for line in done.stdout.splitlines()] == alone
    assert [found["standing"] for found in alone] == ["taken", "ignored", "unfit", "missing", "inbox", "outside"]


@pytest.mark.parametrize("words", [["status"], ["queue"], ["show", "{id}"]])
def test_an_answer_loads_only_what_it_needs(lived: Scene, words: list[str]) -> None:
    """Not the settings' models, nor what moves files, nor another command: loading is nearly all of the wait."""
    spared = {
        "dropzone.config.model",
        "dropzone.folders",
        "dropzone.readiness",
        "dropzone.cli.orders",
        "click.shell_completion",
    }
    code = (
        "import sys; from dropzone.cli import main\n"
        f"try: main(sys.argv[1:])\nfinally: assert not {spared} & set(sys.modules)"
    )
    typed = [word.format(id=drops(lived)[0].id) for word in words]
    words = [sys.executable, "-c", code, "-c", str(lived.at / "dropzone.yaml"), *typed]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode in (0, 8), done.stderr
    assert b"Traceback" not in done.stderr


def test_a_glance_at_the_configuration_judges_nothing(tmp_path: Path) -> None:
    """Names and the place of the ledger; of a date that is none nothing, and of a file that says too little None."""
    file = tmp_path / "dropzone.yaml"
    file.write_text("state_dir: /var/x\naccounts: {main: {key_created: 2026-13-01}, other: 5}\nfolders: [a]\n")
    seen = configuration.glance(file)
    assert seen is not None
    assert (seen.state_dir, seen.folders, seen.accounts) == (Path("/var/x"), (), {"main": None, "other": None})
    for wrong in ("state_dir: relative", "state_dir: [x]", "- a", ""):
        file.write_text(wrong)
        assert configuration.glance(file) is None
    assert configuration.glance(tmp_path / "missing.yaml") is None


def test_what_failed_within_a_day_is_counted(scene: Scene) -> None:
    """Not what failed before; and `queue --newest` shows the last ones."""
    for number in range(3):
        scene.put(f"{number}.csv", b"email\nnobody\n")
    scene.settle()
    assert "3 drops failed within a day: dropzone queue --state failed --newest 3" in ask(scene, "status")[1]
    names = [each["name"] for each in objects(scene, "queue", "--state", "failed", "--newest", "2")]
    assert names == ["1.csv", "2.csv"]
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        assert reader.failed_since(scene.clock.wall + 1, folders=["acme", "globex"]) == {}
        assert reader.failed_since(0.0, folders=["acme", "globex"]) == {"acme": 3}
        steps: list[str] = []
        reader._db.set_trace_callback(steps.append)
        reader.failed_since(0.0, folders=["acme"])
        reader._db.set_trace_callback(None)
        assert "USING INDEX drops_failed" in str(reader._db.execute(f"EXPLAIN QUERY PLAN {steps[0]}").fetchall())


def test_standings_are_those_of_the_open_drops(lived: Scene) -> None:
    """What is finished is not counted; bytes, the oldest and the next due time are of these drops."""
    _, held, queued = drops(lived)
    with closing(SQLiteReader(lived.config.state_dir)) as reader:
        assert sorted(reader.standings(), key=lambda each: each.folder) == [
            Standing(
                folder=drop.folder,
                account=drop.account,
                state=drop.state,
                count=1,
                size=drop.size,
                oldest_at=drop.claimed_at,
                due_at=drop.due_at,
            )
            for drop in (held, queued)
        ]
        assert set(reader.accepted_last()) == {"acme"}
        assert [drop.id for drop in reader.find_named("acme", HOSTILE, limit=5)] == [held.id]


def test_what_a_person_has_paused_is_told_with_the_way_back(lived: Scene) -> None:
    """A folder and an account, without a daemon: in status and queue with who and why, until they are resumed."""
    assert (
        ask(lived, "pause", "globex", "main", "--why", "wrong list")[1]
        == "folder globex: paused\naccount main: paused\n"
    )
    out = ask(lived, "status")[1]
    assert "account main is paused" in out
    assert "until: dropzone resume main" in out
    assert "it goes on with: dropzone resume globex" in out
    assert "wrong list" in out
    (queued,) = objects(lived, "queue", "--state", "queued")
    assert (queued["due_at"], "wrong list" in queued["reason"]) == (None, True)
    assert "a person" in ask(lived, "queue", "--state", "queued")[1]
    account, globex = (objects(lived, "status")[number] for number in (1, 3))
    assert (account["condition"], account["until"]) == ("paused", None)
    assert "wrong list" in globex["pause"]
    assert ask(lived, "resume", "main", "globex")[0] == 0
    account, globex = (objects(lived, "status")[number] for number in (1, 3))
    assert (account["condition"], globex["pause"]) == ("ready", None)


def test_the_next_try_is_that_of_the_account(lived: Scene) -> None:
    """A drop that is due now waits all the same while its account is told to come back later, or is paused."""
    lived.put("behind.csv", ROWS, folder="globex")
    with lived.turn() as turn:
        turn.start()
        turn.take()
    queued = [each for each in objects(lived, "queue", "--state", "queued") if each["name"] == "behind.csv"]
    account, globex = objects(lived, "status")[1], objects(lived, "status")[-1]
    assert globex["next_at"] == account["until"] == queued[0]["due_at"]
    row = next(line for line in ask(lived, "status")[1].splitlines() if "globex" in line)
    assert re.search(r"  in 3\dm  ", row), row
    ask(lived, "pause", "main")
    assert objects(lived, "status")[-1]["next_at"] is None
    assert "a person" in next(line for line in ask(lived, "status")[1].splitlines() if "globex" in line)


def test_an_account_whose_time_has_come_waits_for_its_next_drop(scene: Scene, sandbox: Sandbox) -> None:
    """A key that is dead and nothing to send: there is no time at which it is tried."""
    sandbox.fault("status", status=401)
    scene.put("a.csv", ROWS)
    with scene.turn() as turn:
        turn.start()
        turn.take()
        turn.send(patience_s=0.0)
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        until = reader.account_facts("main").until
        seen = overview(reader, folders=["acme"], accounts={"main": None}, health=HERE, now=until + 1)
    assert "is paused for 15m, tried again with its next drop; nothing accepted yet" in "\n".join(
        render.status(seen, until + 1)
    )


def test_a_folder_without_its_segment_says_so(scene: Scene) -> None:
    """In `status` by the daemon's word, in `why` as what is wrong, in `config check` as a note: what is to be typed."""
    change(scene, "segment_id: 2", "create: {publication_id: 7}")
    (scene.config.folders["globex"].path / "a.csv").touch()
    todo = "its segment is still to be created: dropzone segment create --folder globex"
    with daemon_on(scene):
        assert todo in ask(scene, "status")[1]
        assert [each["unmade"] for each in objects(scene, "status") if each["kind"] == "folder"] == [False, True]
        with_daemon = finding(scene, scene.config.folders["globex"].path / "a.csv")
    found = finding(scene, scene.config.folders["globex"].path / "a.csv")
    assert found == with_daemon
    assert (found["standing"], found["folder"]) == ("unfit", "globex")
    assert found["change"] == "type: dropzone segment create --folder globex"
    code, out, err = ask(scene, "config", "check")
    assert (code, todo in err, "2 folders" in out) == (0, True, True)


def test_what_is_held_says_what_can_be_done(scene: Scene, sandbox: Sandbox) -> None:
    """The queue names `show`, and that names the orders that fit: another two for what may be over there already."""
    scene.put("a.csv", b"email\n")
    scene.put("b.csv", ROWS)
    sandbox.fault("lost_answer")
    guarded, lost = scene.settle()
    assert "dropzone show ID" in ask(scene, "queue")[1]
    assert "dropzone show ID" not in ask(scene, "queue", "--state", "done")[1]
    for drop, orders in ((guarded, ("release", "discard")), (lost, ("accept", "retry"))):
        shown = ask(scene, "show", drop.id)[1]
        assert all(f"dropzone {order} {drop.id}" in shown for order in orders)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
@pytest.mark.parametrize(
    "words",
    [["status"], ["queue"], ["show", "2"], ["why", "{inbox}"], ["plan"], ["doctor"], ["hold", "ALL", "--yes"],
     ["pause", "main"], ["prune", "--dry-run"], ["config", "check"], ["segment", "create", "--all-missing"]],
)  # fmt: skip
def test_who_may_not_is_told_in_a_sentence(lived: Scene, words: list[str]) -> None:
    """An ordinary user, with a state folder that is the daemon's alone: no command breaks off with a traceback."""
    change(lived, "segment_id: 2", "create: {publication_id: 7}")
    (lived.at / "dropzone.yaml").chmod(0o644)
    typed = [word.format(inbox=lived.inbox) for word in words]
    ask(lived, *typed)  # what it imports may lie where only root may read
    with as_nobody(owns=[lived.at / "key"]):
        code, out, err = ask(lived, *typed)
    assert code in ((0,) if words == ["config", "check"] else (1, 3)), out + err
    assert "Permission denied" in out + err or "you may not" in err
    assert "as root or as the daemon's own user" in out + err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_a_ledger_that_only_its_owner_may_read_says_so(lived: Scene) -> None:
    """Also where the state folder may be passed: nobody is sent to look at the disk."""
    (lived.at / "dropzone.yaml").chmod(0o644)
    lived.config.state_dir.chmod(0o755)
    (lived.config.state_dir / "ledger.db").chmod(0o600)
    with as_nobody(owns=[lived.at / "key"]):
        code, _, err = ask(lived, "queue")
    assert code == 1
    assert "Permission denied" in err
    assert "as root or as the daemon's own user" in err


def test_a_name_that_means_two_things_must_say_which(lived: Scene) -> None:
    """And one that means nothing changes nothing, whatever else was named."""
    file = lived.at / "dropzone.yaml"
    file.write_text(file.read_text().replace("  globex:", "  main: {segment_id: 9, mode: lead}\n  globex:"))
    code, _, err = ask(lived, "pause", "acme", "main")
    assert code == 1
    assert "Write account:main or folder:main" in err
    assert ask(lived, "pause", "nobody")[0] == 1
    assert not [each for each in objects(lived, "status") if each.get("pause")]
    assert ask(lived, "pause", "folder:main")[1] == "folder main: paused\n"


# ------------------------------------------------------------------------------------------------------------ ages


def test_queue_ages_counts_by_folder_and_age(lived: Scene) -> None:
    """A line for all and one for each folder; the columns are the upper ends of the ages."""
    code, out, _ = ask(lived, "queue", "--ages")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["FOLDER", "ALL", "<1m", "<5m", "<15m", "<1h", "<6h", "<1d", "<7d", ">7d"]
    assert [line[:2] for line in lines[1:]] == [["TOTAL", "2"], ["acme", "1"], ["globex", "1"]]
    total = objects(lived, "queue", "--ages")[0]
    assert sum(column["drops"] for column in total["ages"]) == total["drops"] == 2
    assert ask(lived, "queue", "--ages", "--state", "failed")[1] == "The queue is empty.\n"


def test_ages_by_the_clock(lived: Scene) -> None:
    """Each drop falls into exactly one column, and the last one takes whatever is older."""
    with closing(SQLiteReader(lived.config.state_dir)) as reader:
        lines = queue(reader)
        oldest = min(line.drop.claimed_at for line in lines)
        for later, column in ((0, 0), (61, 1), (301, 2), (901, 3), (3601, 4), (6 * 3601, 5), (86401, 6), (9e5, 7)):
            first = ages(lines[:1], oldest + later)[0]
            assert first.counts[column] == 1
            assert sum(first.counts) == 1
    assert ages([], 0.0) == []


# -------------------------------------------------------------------------------------------------- terminals, live


def test_nothing_breaks_a_screen_of_80_columns(lived: Scene) -> None:
    """Names and reasons of any kind: every line fits, and of control characters only colours are printed."""
    (lived.inbox / "a-name-that-is-much-too-long-for-a-line-of-a-table-and-goes-on-and-on-and-on-and-on.csv").touch()
    (lived.inbox / ("漢字" * 30 + ".csv")).touch()
    for words in (["status"], ["queue"], ["queue", "--ages"], ["why", *map(str, sorted(lived.inbox.iterdir()))]):
        with on_terminal(command(lived, *words)) as terminal:
            terminal.end()
        plain = click.unstyle(terminal.shown)
        assert plain.strip()
        for line in plain.replace("\r\n", "\n").splitlines():
            assert line.isprintable(), line
            assert words[0] == "why" or text.width(line) <= 80, line


@pytest.mark.parametrize("words", [["status"], ["queue"], ["queue", "--state", "done"], ["queue", "--ages"]])
def test_half_a_screen_is_enough(lived: Scene, words: list[str]) -> None:
    """On 40 columns the columns that say least are left out, and no line is longer than the screen."""
    with on_terminal(command(lived, *words), columns=40, COLUMNS="40") as terminal:
        terminal.end()
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in terminal.shown.splitlines()]
    long = [line for line in lines if text.width(line) > 40]
    assert [line for line in long if ": dropzone " not in line] == []  # what is there to be copied stays in one piece
    assert any("FOLDER" in line for line in lines)


def test_watch_on_a_terminal_stays_in_its_place(lived: Scene, sandbox: Sandbox) -> None:
    """What changes in the ledger is shown without a new command; Ctrl-C ends it with 130."""
    held = drops(lived)[1]
    with on_terminal(command(lived, "queue", "--watch", "--every", "0.1")) as terminal:
        terminal.wait_for("2 drops")
        assert ask(lived, "discard", held.id)[0] == 0
        terminal.wait_for("refused")
        assert terminal.end(signal.SIGINT) == 130
    assert "\x1b[" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_watch_on_a_low_terminal_says_that_there_is_more(lived: Scene) -> None:
    """What does not fit is cut, and the last line tells so."""
    with on_terminal(command(lived, "queue", "--watch", "--every", "0.1"), rows=4, LINES="4") as terminal:
        assert "2 drops" not in terminal.wait_for("...")
        assert terminal.end(signal.SIGINT) == 130


def test_watch_on_a_terminal_that_cannot_go_back_prints_anew(lived: Scene) -> None:
    """Without a TERM that knows how, one answer comes below the other, and not nothing at all."""
    with on_terminal(command(lived, "queue", "--watch", "--every", "0.1"), TERM="dumb") as terminal:
        terminal.wait_for("2 drops")
        terminal.shown = ""
        terminal.wait_for("2 drops")
        assert terminal.end(signal.SIGINT) == 130


def test_watch_in_a_pipe_prints_anew(lived: Scene) -> None:
    """Plain tables, one below the other, and not one escape."""
    words = command(lived, "status", "--watch", "--every", "0.1")
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        seen = 0
        for line in process.stdout:
            assert "\x1b" not in line
            seen += "account main" in line
            if seen == 3:
                break
        process.send_signal(signal.SIGINT)
        assert process.stderr
        assert "Traceback" not in process.stderr.read()
        assert process.wait(30) == 130


def test_show_watch_ends_with_the_drop(lived: Scene) -> None:
    """One that is finished is shown once."""
    done = drops(lived)[0]
    code, out, _ = ask(lived, "show", done.id, "--watch")
    assert code == 0
    assert out.count("ACCEPTED: OptiPub took the file") == 1


def test_how_far_an_upload_is(lived: Scene) -> None:
    """A bar, the share, the rate and the time left; nothing can be said of the time before the first byte."""
    half = Step(what="upload", done=512 << 20, total=1 << 30, seconds=100.0)
    assert render.far(half) == "sending [##########----------]  50% of 1.0 GiB, 5.1 MiB/s, 2m left"
    none = Step(what="check", total=1 << 30)
    assert render.far(none) == "checking [--------------------]   0% of 1.0 GiB, 0 B/s"
    with closing(SQLiteReader(lived.config.state_dir)) as reader:
        lines = queue(reader, steps={drops(lived)[1].id: half})
    assert "sending [" in "\n".join(render.queue(lines, 200.0))
    assert render.queue_member(lines[0])["step"] == {
        "what": "upload",
        "done": 512 << 20,
        "total": 1 << 30,
        "seconds": 100.0,
        "rate": 5368709,
        "left_s": 100.0,
    }


# ------------------------------------------------------------------------------------------------------ why a path


def finding(scene: Scene, path: Path | str) -> dict[str, object]:
    (found,) = objects(scene, "why", str(path))
    return found


def test_why_of_a_file_that_waits(scene: Scene) -> None:
    """It must be quiet; its last line has no end; until when, and that nobody takes it while no daemon runs."""
    change(scene, "settle: 20ms", "settle: 1h, hold_tail: 2h")
    path = scene.put("a.csv", ROWS)
    found = finding(scene, path)
    assert (found["standing"], found["folder"]) == ("waiting", "acme")
    assert "quiet for 3600 s" in str(found["what"])
    assert str(found["until"]) > str(found["since"])
    code, out, err = ask(scene, "why", str(path))
    assert code == 0
    assert "in 60m" in out
    assert "no daemon runs here" in err
    change(scene, "settle: 1h", "settle: 0s")
    cut = scene.put("cut.csv", ROWS + b"half")
    assert "its last line has no end" in str(finding(scene, cut)["what"])
    assert finding(scene, path)["standing"] == "ready"


def test_why_of_a_file_that_is_open_for_writing(scene: Scene) -> None:
    """A client still has it."""
    change(scene, "settle: 20ms", "settle: 0s")
    path = scene.put("a.csv", ROWS)
    with path.open("ab"):
        assert "still has it open for writing" in str(finding(scene, path)["what"])


def change(scene: Scene, old: str, new: str) -> None:
    file = scene.at / "dropzone.yaml"
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x.csv.part", "unfinished files"),
        (".x.csv", "temporary or hidden"),
        ("x.txt", "`include` allows only *.csv, *.csv.gz"),
    ],
)
def test_why_of_a_file_that_is_ignored(scene: Scene, name: str, says: str) -> None:
    """Which rule says so, and what would change it."""
    found = finding(scene, scene.put(name, ROWS))
    assert found["standing"] == "ignored"
    assert says in str(found["what"])
    assert "rename it" in str(found["change"])


def test_why_of_what_is_no_acceptable_file(scene: Scene) -> None:
    """A link, a folder, a pipe: somebody has to remove it."""
    (scene.inbox / "link.csv").symlink_to("/etc/passwd")
    (scene.inbox / "folder.csv").mkdir()
    os.mkfifo(scene.inbox / "pipe.csv")
    for name, kind in (("link", "symbolic link"), ("folder", "folder"), ("pipe", "named pipe")):
        found = finding(scene, scene.inbox / f"{name}.csv")
        assert found["standing"] == "unfit"
        assert kind in str(found["what"])


def test_why_of_a_file_that_has_left(lived: Scene) -> None:
    """By its old path, and by where it lies now: the drop that it became."""
    done, held, _ = drops(lived)
    old = os.fsdecode(os.fsencode(lived.inbox) + b"/" + HOSTILE)
    for path, drop in (
        (lived.inbox / "done.csv", done),
        (old, held),
        (lived.config.root / str(done.path), done),
        ((lived.config.root / str(done.path)).with_suffix(".log"), done),
        (lived.config.root / "work" / held.id / "original", held),
    ):
        found = finding(lived, path)
        assert (found["standing"], found["id"], found["state"]) == ("taken", drop.id, drop.state.value)
        assert f"dropzone show {drop.id}" in str(found["change"])


def test_why_of_a_path_that_is_near(scene: Scene) -> None:
    """A wrong folder, one too deep, another case, nothing of that name: where it should have gone."""
    inbox = scene.inbox
    scene.put("signups.csv", ROWS)
    assert f"the inbox of folder acme is {inbox}" in str(finding(scene, inbox.parent / "acmee" / "a.csv")["change"])
    deep = finding(scene, inbox / "2026" / "a.csv")
    assert (deep["standing"], deep["change"]) == ("ignored", f"move the file into {inbox} itself")
    missing = finding(scene, inbox / "Signups.csv")
    assert (missing["standing"], missing["change"]) == ("missing", "is it signups.csv?")
    assert "the upload's own log" in str(finding(scene, inbox / "xyz")["change"])
    elsewhere = finding(scene, "/etc/hosts")
    assert (elsewhere["standing"], elsewhere["folder"]) == ("outside", None)
    assert str(inbox) in str(elsewhere["change"])


def test_why_follows_links_before_it_goes_up(scene: Scene) -> None:
    """As the kernel does: `LINK/../x` is beside what the link means, not beside the link."""
    change(scene, "settle: 20ms", "settle: 1h")  # or it is quiet long enough between the two questions
    scene.put("a.csv", ROWS, folder="globex")
    (scene.at / "link").symlink_to(scene.inbox)
    by_link, itself = scene.at / "link" / ".." / "globex" / "a.csv", scene.config.folders["globex"].path / "a.csv"
    assert finding(scene, by_link) == finding(scene, itself)
    assert finding(scene, f"{scene.at}/link/..")["standing"] == "outside"
    assert finding(scene, f"{scene.at}/link/../acme")["standing"] == "inbox"


def test_a_root_behind_a_link_is_looked_into_as_the_daemon_does(scene: Scene, sandbox: Sandbox) -> None:
    """It follows the links in the operator's own paths; so whoever asks without it is told of no fault."""
    scene.config.root.rename(scene.at / "elsewhere")
    scene.config.root.symlink_to("elsewhere")
    scene.put("a.csv", ROWS)
    for root in (scene.config.root, scene.at / "elsewhere"):
        assert finding(scene, root / "inbox" / "acme" / "a.csv")["standing"] in ("waiting", "ready")
        assert finding(scene, root / "inbox" / "acme")["standing"] == "inbox"
    assert [each["outcome"] for each in objects(scene, "plan")] in (["waits"], ["sent"])
    assert [each["what"] for each in objects(scene, "doctor") if each["severity"] == "fault"] == []
    with daemon_on(scene):
        sandbox.wait_for(applied=1, timeout_s=30)


def test_why_asked_in_a_directory_that_is_gone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what a name means there: a sentence and its mend; a path from the root on is answered."""
    gone = scene.at / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, out, err = ask(scene, "why", "a.csv")
    assert (code, out) == (1, "")
    assert err.startswith("dropzone: the directory that this is asked in is gone\n  ")
    assert finding(scene, scene.inbox)["standing"] == "inbox"


def test_why_of_a_name_that_no_file_can_have(scene: Scene) -> None:
    """It is longer than any: that is a finding too, and ends nobody's thread."""
    assert "File name too long" in str(finding(scene, scene.inbox / f"{'x' * 300}.csv")["what"])


def test_why_of_an_inbox(scene: Scene) -> None:
    """How many names are in it; and what is wrong with it, if something is."""
    scene.put("a.csv", ROWS)
    assert "1 name in it" in str(finding(scene, scene.inbox)["what"])
    shutil.rmtree(scene.config.root / "work")
    found = finding(scene, scene.inbox)
    assert (found["standing"], found["change"]) == ("unfit", "Mount it, or make it with 'dropzone init'")
    shutil.rmtree(scene.inbox)
    found = finding(scene, scene.inbox / "a.csv")
    assert found["standing"] == "unfit"
    assert "dropzone init" in str(found["change"])


def test_a_drop_can_be_called_by_its_last_four_characters(lived: Scene) -> None:
    """As the journal and people do; less is too little."""
    done = drops(lived)[0]
    assert ask(lived, "show", done.id[-4:].lower())[1] == ask(lived, "show", done.id)[1]
    assert ask(lived, "show", done.id[-3:])[0] == 1


# ----------------------------------------------------------------------------------------------------------- a plan

PLANNED = """\
acme: {segment_id: 1, mode: subscribe, source_campaign: 90, source_partner: 9, bad_rows: 1, guards: {min_rows: 2,
  max_bytes: 1KiB}}
globex: {segment_id: 2, mode: lead}
"""


def test_plan_tells_what_would_become_of_each_file(tmp_path: Path, sandbox: Sandbox) -> None:
    """Sent, held by a guard, refused, left; with the fields of the import; and nothing is moved or sent."""
    scene = make_scene(tmp_path, sandbox.url, folders=PLANNED, defaults="settle: 0s")
    scene.put("1-good.csv", ROWS)
    scene.put("2-with-a-bad-row.csv", ROWS + b"nobody,x\n")
    scene.put("3-short.csv", b"email,varr_a\nann@example.com,Ann\n")
    scene.put("4-bad.csv", ROWS + b"nobody,x\nnobody,x\n")
    scene.put("5-large.csv", ROWS + b"ann@example.com,x\n" * 100)
    scene.put("6-ignored.part", ROWS)
    (scene.inbox / "7-link.csv").symlink_to("/etc/passwd")

    def there() -> dict[Path, tuple[int, int, int]]:
        return {
            path: (path.lstat().st_ino, path.lstat().st_size, path.lstat().st_mtime_ns)
            for path in scene.inbox.iterdir()
        }

    before = there()
    code, out, err = ask(scene, "plan")
    assert (code, err) == (3, "")
    assert "acme: subscribe into segment 1 of main" in out
    assert "with clear=0, activeStatus=1, sourceCampaign=90, sourcePartner=9" in out
    assert "4-bad.csv:4:1: email: n… is no address" in out
    found = objects(scene, "plan")
    assert {Path(each["path"]).name: (each["outcome"], each["why"]) for each in found} == {
        "1-good.csv": ("sent", "2 rows"),
        "2-with-a-bad-row.csv": ("sent", "2 rows, without 1 bad ones"),
        "3-short.csv": ("held", "min_rows: the file has 1 good rows, the folder asks for at least 2"),
        "4-bad.csv": ("refused", "2 of 4 rows are bad, and the folder allows 1"),
        "5-large.csv": ("held", "the file has 1,853 bytes, the folder allows 1,024"),
        "6-ignored.part": ("left", "the name is one that transfer clients give to unfinished files"),
        "7-link.csv": ("left", "not a regular file but a symbolic link"),
    }
    assert there() == before
    assert not (scene.config.state_dir / "ledger.db").exists()
    assert sandbox.state()["requests"] == 0


def test_plan_agrees_with_what_then_happens(lived: Scene) -> None:
    """The same content was accepted before: it would not be sent again, and it is not."""
    change(lived, "settle: 20ms", "settle: 0s")
    change(lived, "duplicates: send", "duplicates: skip")
    lived.config = configuration.load(lived.at / "dropzone.yaml")
    done = drops(lived)[0]
    lived.put("again.csv", ROWS)
    (planned,) = objects(lived, "plan", "--folder", "acme")
    assert planned["outcome"] == "spared"
    assert done.id in planned["why"]
    with lived.turn() as turn:
        turn.start()
        (again,) = turn.take()
        turn.send()
        after = turn.ledger.find_drop(again.id)
    assert after is not None
    assert (after.state, after.spared) == (State.DONE, "duplicate")


def test_plan_of_folders_that_cannot_be_looked_into(scene: Scene) -> None:
    """Told with the mend, and the others all the same; an unknown folder is refused."""
    shutil.rmtree(scene.inbox)
    code, out, _ = ask(scene, "plan")
    assert code == 3
    assert "Make it with 'dropzone init'" in out
    assert "nothing there" in out
    assert objects(scene, "plan", "--folder", "acme")[0]["path"] is None
    assert ask(scene, "plan", "--folder", "globex")[0] == 0
    assert ask(scene, "plan", "--folder", "nobody")[0] == 1


def test_plan_asks_the_daemon_that_runs(tmp_path: Path, sandbox: Sandbox) -> None:
    """It looks, and says what one would find alone; where nothing has to be read, no settings are loaded."""
    scene = make_scene(tmp_path, sandbox.url, folders=FOLDERS, defaults="settle: 1h, settle_unseen: 1h, scan: 1h")
    scene.put("a.csv", ROWS)
    scene.put("b.csv.part", ROWS)
    scene.put(HOSTILE, ROWS, folder="globex")
    (scene.inbox / "link.csv").symlink_to("/etc/passwd")
    alone = objects(scene, "plan")
    code = (
        "import sys; from dropzone.cli import main\n"
        "try: main(sys.argv[1:])\nfinally: assert not {'dropzone.config.model', 'dropzone.folders'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, "-c", str(scene.at / "dropzone.yaml"), "plan", "--json"]
    with daemon_on(scene):
        done = subprocess.run(words, capture_output=True, check=False)
        assert [each["folder"] for each in objects(scene, "plan", "--folder", "globex")] == ["globex"]
        assert ask(scene, "plan", "--folder", "nobody")[0] == 1
        change(scene, "  globex:", "  newcomer:")  # what the daemon goes by is no answer any more
        assert {each["folder"] for each in objects(scene, "plan")} == {"acme", "newcomer"}
    assert (done.returncode, done.stderr) == (3, b"")
    assert [json.loads(line) for line in done.stdout.splitlines()] == alone
    assert [each["outcome"] for each in alone] == ["waits", "left", "left", "waits"]


def test_plan_looks_itself_where_much_lies_in_an_inbox(scene: Scene) -> None:
    """The daemon is not kept from its work by a question."""
    for number in range(501):
        scene.put(f"{number:03}.csv.part", b"")
    with daemon_on(scene):
        found = objects(scene, "plan", "--folder", "acme")
        told = {
            name: control.ask(scene.config.state_dir, {"ask": "inbox", "folder": name}) for name in ("acme", "globex")
        }
    assert {name: bool(answer and answer["inbox"]) for name, answer in told.items()} == {"acme": False, "globex": True}
    assert [Path(each["path"]).name for each in found] == [f"{number:03}.csv.part" for number in range(501)]


def test_what_the_daemon_saw_is_read_by_whoever_asked(tmp_path: Path, sandbox: Sandbox) -> None:
    """A file that is complete is read for a plan; a packed one first to its end, because only that tells whether it is.

    The daemon does neither for a question, and hands its settings over with what it saw.
    """
    scene = make_scene(tmp_path, sandbox.url, folders=PLANNED, defaults="settle: 0s")
    scene.put("1-good.csv", ROWS)
    scene.put("2-packed.csv.gz", gzip.compress(ROWS))
    scene.put("3-cut.csv.gz", gzip.compress(ROWS)[:-9])
    folder = scene.config.folders["acme"]
    inbox = Looker(None, now=time.time(), thorough=False).look_through(folder)
    assert [(each.standing, each.unread) for each in inbox.findings] == [
        ("ready", False),
        ("waiting", True),
        ("waiting", True),
    ]
    told = Inbox.read(json.loads(json.dumps(inbox.members())))
    assert told == inbox
    (planned,) = plan([told], None, now=time.time())
    assert [(each.outcome, each.why) for each in planned.files[:2]] == [("sent", "2 rows"), ("sent", "2 rows")]
    assert planned.files[2].outcome == "waits"


# ------------------------------------------------------------------------------------------------------ completion


def complete(scene: Scene, *words: str) -> list[str]:
    """What bash would be offered for the last word."""
    typed = ["dropzone", "-c", str(scene.at / "dropzone.yaml"), *words]
    env = {
        **os.environ,
        "_DROPZONE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(typed),
        "COMP_CWORD": str(len(typed) - 1),
    }
    program = [sys.executable, "-c", "from dropzone.cli import main; main()"]
    done = subprocess.run(program, env=env, capture_output=True, check=False)
    assert done.stderr == b""
    return [line.partition(",")[2] for line in done.stdout.decode().splitlines() if line]


def test_shells_complete_commands_options_ids_and_names(lived: Scene) -> None:
    """IDs that fit the order, in either case; folders of the configuration; states and subcommands."""
    done, held, queued = drops(lived)
    assert set(complete(lived, "show", "")) == {held.id, queued.id}
    assert complete(lived, "show", done.id[:11].lower()) == [done.id]
    assert complete(lived, "accept", "") == [held.id]
    assert complete(lived, "hold", "") == [queued.id]
    assert complete(lived, "queue", "--folder", "") == ["acme", "globex"]
    change(lived, "segment_id: 2", "create: {publication_id: 7}")
    assert complete(lived, "segment", "create", "--folder", "") == ["globex"]
    assert "failed" in complete(lived, "queue", "--state", "")
    assert {"queue", "doctor", "why"} <= set(complete(lived, ""))
    assert "--ages" in complete(lived, "queue", "--")


def test_completion_never_complains(scene: Scene) -> None:
    """Without a ledger, and without a configuration: nothing is offered, nothing is said."""
    assert complete(scene, "show", "2") == []
    (scene.at / "dropzone.yaml").unlink()
    assert complete(scene, "show", "2") == complete(scene, "queue", "--folder", "a") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell(scene: Scene, shell: str) -> None:
    """It names the command and the variable by which it asks."""
    code, out, _ = ask(scene, "completion", shell)
    assert code == 0
    assert "_DROPZONE_COMPLETE" in out
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=out, text=True, check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------- man page


def test_the_man_page_has_every_command_and_option() -> None:
    """Made from the commands, so nothing can be missing; no line of it is taken for a request of roff by accident."""
    source = page(cli)
    requests = {line.split()[0] for line in source.splitlines() if line.startswith(".")}
    assert requests == {".TH", ".SH", ".SS", ".B", ".PP", ".TP", ".nf", ".fi"}
    plain = source.replace(r"\-", "-")
    for words, each in commands(cli):
        part = plain.partition(f".SS dropzone {' '.join(words)}")[2].partition("\n.S")[0]
        for parameter in each.params:
            assert all(name in part for name in parameter.opts if name.startswith("-")), (words, parameter.opts)


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_the_man_page_is_good_roff(scene: Scene) -> None:
    """No warning, and it reads as it should."""
    _, out, _ = ask(scene, "man")
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8"], input=out.encode(), capture_output=True, check=False)
    assert done.stderr == b""
    assert "dropzone queue" in done.stdout.decode()


# ------------------------------------------------------------------------------------------------------------ text


def test_wide_and_combining_characters_have_their_width() -> None:
    """Two columns, none; and what is cut keeps its end and fits."""
    assert text.width("a漢é") == 4
    assert text.short("漢字漢字.csv", 7) == "…字.csv"
    assert text.pad("漢", 4, right=True) == "  漢"
    assert text.bar(2.0, 4) == "####"
    assert text.many(1200, "drop") == "1,200 drops"
    assert State.HELD.value == "held"
