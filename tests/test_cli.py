"""The command line: words, exit codes, output for people and for programs; and the daemon as a process of its own."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import os
import pty
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from scene import KEY, Scene, assert_kept, make_scene
from unprivileged import as_nobody

from dropzone import __version__, opening, wiring
from dropzone import config as configuration
from dropzone.cli import cli, main, render
from dropzone.cli import text as plain_text
from dropzone.cli.demo import _tell_journal, _verdict
from dropzone.cli.exits import MEANINGS, Exit
from dropzone.drop import FINISHED, Drop, State
from dropzone.errors import ConfigError, DropzoneError, FolderError
from dropzone.folders import Folders
from dropzone.ledger.sqlite import SQLiteReader
from dropzone.sandbox import Sandbox

ROWS = b"email,varr_a\nann@example.com,Ann\nbob@example.com,Bob\n"
FAST = "settle: 20ms, settle_unseen: 20ms, scan: 200ms, retry: {initial: 50ms, max: 100ms}"
FOLDERS = "acme: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}"
HOSTILE = b"\x1b[31mred\nforged\x07\xff.csv"
PATIENCE_S = 30.0


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture
def scene(tmp_path: Path, sandbox: Sandbox) -> Scene:
    """Folders for the machine's own clocks."""
    return make_scene(tmp_path, sandbox.url, folders=FOLDERS, defaults=FAST)


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What lies about on the machine is none of a test's business."""
    monkeypatch.delenv("DROPZONE_CONFIG", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)


Said = tuple[int, str, str]
Ask = Callable[..., Said]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """One command in this process, as the console script runs it: exit code, standard output, standard error."""

    def ask(*words: object) -> Said:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return int(code), out, err

    return ask


def on(scene: Scene, *words: object) -> tuple[object, ...]:
    return ("-c", scene.at / "dropzone.yaml", *words)


def command(scene: Scene, *words: str) -> list[str]:
    """The same as a process."""
    return [sys.executable, "-m", "dropzone", *map(str, on(scene, *words))]


def run_process(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, capture_output=True, timeout=PATIENCE_S, check=False, **options)


def objects(lines: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.splitlines()]


def drops(scene: Scene) -> list[Drop]:
    with contextlib.closing(SQLiteReader(scene.config.state_dir)) as reader:
        return reader.find_drops()


# ------------------------------------------------------------------------------------------------- help and codes


def commands(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command, groups included."""
    yield words
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from commands(found, *words, name)
        else:
            yield (*words, name)


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_every_command_has_help_with_an_example(ask: Ask, words: tuple[str, ...]) -> None:
    """What it does, and a line that can be typed."""
    code, out, err = ask(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: dropzone {' '.join(words)}".rstrip())
    example = out.partition("Example:\n")[2].splitlines()[0].strip()
    assert example.startswith("dropzone ")
    assert ask(*words, "-h") == (0, out, "")


@pytest.mark.parametrize("words", [(), ("config",), ("segment",)], ids=" ".join)
def test_help_tells_whole_sentences_on_a_narrow_screen(
    ask: Ask, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each command does is told to the end, within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = ask(*words, "--help")
    told = out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert max(map(len, out.splitlines())) <= 80
    assert "..." not in told
    assert len(re.findall(r"^  \w", told, re.MULTILINE)) == len(re.findall(r"\.$(?!\n {3})", told, re.MULTILINE))


def test_help_prints_the_table_of_exit_codes(ask: Ask) -> None:
    """All of them, with their meaning."""
    _, out, _ = ask("--help")
    for code in Exit:
        assert f"{code.value:>3}  {MEANINGS[code]}" in out


def test_the_version(ask: Ask) -> None:
    """By either name."""
    assert ask("--version") == ask("-V") == (0, f"dropzone {__version__}\n", "")


@pytest.mark.parametrize(
    "words", [(), ("nothing",), ("queue", "--no"), ("check",), ("queue", "--state", "x"), ("show",)]
)
def test_wrong_usage_is_2_and_says_what_would_be_right(ask: Ask, words: tuple[str, ...]) -> None:
    """No command, unknown words, missing arguments: on standard error, nothing on standard output."""
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert "Usage: dropzone" in err
    assert not words or len(err.splitlines()) == 2


def test_the_installed_command_is_the_same(scene: Scene) -> None:
    """Where the package is installed, its script takes the same words and ends with the same codes."""
    script = Path(sys.executable).with_name("dropzone")
    words = [str(script)] if script.exists() else [sys.executable, "-m", "dropzone"]
    assert run_process(*words, "nothing").returncode == 2
    done = run_process(*words, "-c", str(scene.at / "dropzone.yaml"), "config", "check")
    assert (done.returncode, done.stderr) == (0, b"")


# ------------------------------------------------------------------------------------- which configuration, and check


def test_the_configuration_is_found_in_its_places(ask: Ask, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """-c before $DROPZONE_CONFIG before ./dropzone.yaml; none at all is an error that names the places."""
    (scene.at / "empty").mkdir()
    monkeypatch.chdir(scene.at)
    assert ask("config", "check")[0] == 0
    monkeypatch.chdir(scene.at / "empty")
    code, out, err = ask("config", "check")
    assert (code, out) == (4, "")
    assert "dropzone.yaml or /etc/dropzone/dropzone.yaml" in err
    assert "dropzone config example" in err
    monkeypatch.setenv("DROPZONE_CONFIG", str(scene.at / "dropzone.yaml"))
    assert ask("config", "check")[0] == 0
    code, _, err = ask("-c", "missing.yaml", "config", "check")
    assert code == 4
    assert "missing.yaml" in err


WRONG = "root: /srv\nstate_dir: /var\naccounts: {}\nfolders:\n  acme: {segment_id: x, mode: suscribe}\n"


def test_a_wrong_configuration_is_4_with_every_problem(ask: Ask, tmp_path: Path) -> None:
    """Each as file:line:column, then the number and what to do; the same for every command that needs one."""
    (tmp_path / "wrong.yaml").write_text(WRONG)
    for words in (
        ("config", "check"),
        ("run",),
        ("init",),
        ("config", "show"),
        ("check", "wrong.yaml", "--folder", "a"),
    ):
        code, out, err = ask("-c", "wrong.yaml", *words)
        assert (code, out) == (4, "")
        problems = [line for line in err.splitlines() if line.startswith("wrong.yaml:")]
        assert len(problems) >= 2
        assert any(line.startswith("wrong.yaml:5:") for line in problems)
        assert f"dropzone: wrong.yaml: {len(problems)} problems" in err


def test_problems_of_a_configuration_for_programs(ask: Ask, tmp_path: Path) -> None:
    """One object per problem on standard output; none for a configuration that is right."""
    (tmp_path / "wrong.yaml").write_text(WRONG)
    code, out, err = ask("-c", "wrong.yaml", "config", "check", "--json")
    assert (code, err) == (4, "")
    assert all(
        set(problem) == {"version", "file", "line", "column", "subject", "what", "hint"} for problem in objects(out)
    )
    assert {problem["line"] for problem in objects(out)} >= {5}


def test_a_right_configuration_is_said_so(ask: Ask, scene: Scene) -> None:
    """With the numbers of folders and accounts; --json has nothing to tell."""
    code, out, err = ask(*on(scene, "config", "check"))
    assert (code, err) == (0, "")
    assert "2 folders, 1 account, no problems" in out
    assert ask(*on(scene, "config", "check", "--json")) == (0, "", "")


def test_hostile_text_in_a_configuration_stays_harmless(ask: Ask, tmp_path: Path) -> None:
    """Problems quote what stands there; no escape reaches the terminal."""
    (tmp_path / "wrong.yaml").write_text('root: "\\e[31m\\a"\n"\\e]0;x": 1\n')
    _, _, err = ask("-c", "wrong.yaml", "config", "check")
    assert err
    assert all(line.isprintable() for line in err.splitlines())


def test_a_key_that_cannot_be_read_is_a_note_not_a_problem(ask: Ask, scene: Scene) -> None:
    """Perhaps only the daemon may read it: said with the mend, and the code is 0."""
    (scene.at / "key").chmod(0o644)
    code, out, err = ask(*on(scene, "config", "check"))
    assert code == 0
    assert "no problems" in out
    assert "note: account main:" in err
    assert "chmod 600" in err
    assert KEY not in out + err


@pytest.mark.parametrize(("age", "says"), [(100, ""), (336, "ends in 29 days"), (366, "has ended")])
def test_a_key_that_gets_old_is_a_warning(ask: Ask, scene: Scene, age: int, says: str) -> None:
    """Thirty days before the year is over, from `key_created`."""
    made = (datetime.now(UTC) - timedelta(days=age)).date()
    change(scene, "    api_key:", f"    key_created: {made}\n    api_key:")
    code, _, err = ask(*on(scene, "config", "check"))
    assert code == 0
    assert bool(err) == bool(says)
    assert says in err


def change(scene: Scene, old: str, new: str) -> None:
    file = scene.at / "dropzone.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_config_show_prints_all_settings_and_no_key(ask: Ask, scene: Scene) -> None:
    """As YAML that is a configuration itself, and as one object; the key only as where it comes from."""
    code, out, _ = ask(*on(scene, "config", "show"))
    assert code == 0
    (scene.at / "shown.yaml").write_text(out)
    assert configuration.load(scene.at / "shown.yaml").folders == scene.config.folders
    code, as_json, _ = ask(*on(scene, "config", "show", "--json"))
    (shown,) = objects(as_json)
    assert set(shown["folders"]) == {"acme", "globex"}
    assert KEY not in out + as_json
    assert f"{scene.at}/key" in out


def test_config_example_and_schema_need_no_configuration(ask: Ask) -> None:
    """The first steps of a new user."""
    code, out, err = ask("config", "example")
    assert (code, err, out) == (0, "", configuration.example())
    code, out, err = ask("config", "schema")
    assert (code, err) == (0, "")
    assert json.loads(out) == configuration.schema()


# ----------------------------------------------------------------------------------------------------------- init


def test_init_makes_the_folders_with_their_modes(ask: Ask, tmp_path: Path) -> None:
    """Each is named; partners may write into inboxes only; a second time there is nothing to do."""
    (tmp_path / "dropzone.yaml").write_text(
        f"root: {tmp_path}/root\nstate_dir: {tmp_path}/state\n"
        "accounts: {main: {base_url: https://optipub.example.com, api_key: {env: KEY}}}\n"
        "folders: {acme: {segment_id: 1, mode: lead}}\n"
    )
    code, out, err = ask("init")
    assert (code, err) == (0, "")
    made = [Path(line.removeprefix("made ")) for line in out.splitlines()[:-1]]
    assert out.splitlines()[-1] == f"{len(made)} folders made."
    modes = {str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in made}
    assert modes["root/inbox/acme"] == 0o2770
    assert modes["root/work"] == modes["state"] == 0o700
    assert modes["root/done/acme"] == modes["root/failed/acme"] == 0o750
    assert ask("init") == (0, "Everything was there.\n", "")


def test_init_goes_through_the_links_of_the_operator(ask: Ask, scene: Scene, tmp_path: Path) -> None:
    """With a root that is a link, as one to a larger disk, a second time there is nothing to do either."""
    file = tmp_path / "dropzone.yaml"
    (tmp_path / "link").symlink_to(tmp_path / "root")
    file.write_text(file.read_text().replace(f"root: {tmp_path}/root", f"root: {tmp_path}/link"))
    assert ask(*on(scene, "init")) == (0, "Everything was there.\n", "")


@pytest.mark.parametrize("word", ["init", "run", "plan", "doctor"])
def test_a_link_to_what_is_not_utf_8_is_refused_with_its_mend(ask: Ask, scene: Scene, word: str) -> None:
    """The ledger keeps texts: taken over, the first file would pause all intake as if the machine were at fault."""
    caf = os.fsdecode(os.fsencode(scene.at) + b"/caf\xe9")
    scene.config.root.rename(caf)
    scene.config.root.symlink_to(caf)
    scene.put("a.csv", ROWS)
    code, _, err = ask(*on(scene, word))
    assert code == 1
    assert f"cannot use {scene.config.root}: it leads to {scene.at}/caf\\xe9, which is not in UTF-8" in err
    assert "Rename the folder" in err
    assert scene.inbox.joinpath("a.csv").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="inside it is not root, and owns nothing")
def test_a_way_that_is_closed_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, spool or configuration behind a folder that we may not pass: no traceback, which would end a daemon."""
    closed = tmp_path / "closed"
    closed.mkdir()
    scene = make_scene(closed, "https://127.0.0.1:9", folders="acme: {segment_id: 1, mode: lead}")
    elsewhere = scene.config.having(root=tmp_path, state_dir=closed / "state")
    closed.chmod(0o700)
    monkeypatch.setattr(opening, "CONFIG_PLACES", (closed / "dropzone.yaml",))
    with as_nobody(owns=[tmp_path]):
        with pytest.raises(FolderError, match=f"cannot use {closed}/root: it is not there, or the way to it is closed"):
            wiring._check_root(scene.config.root)
        with pytest.raises(FolderError, match=f"cannot look at {closed}/root/work: Permission denied"):
            Folders().lay_out(elsewhere, inboxes=False)
        assert Folders().lay_out(elsewhere, inboxes=False, occupied={closed / "root"}) == []
        with pytest.raises(FolderError, match=f"cannot make {closed}/state: Permission denied"):
            opening.lay_out(elsewhere)
        with pytest.raises(ConfigError) as caught:
            configuration.load(opening.find_config(None))
    assert caught.value.problems[0].what == "cannot be read: Permission denied"


def test_init_that_cannot_make_a_folder_says_which_and_why(ask: Ask, scene: Scene) -> None:
    """A file is in the way: one sentence, code 1."""
    shutil.rmtree(scene.config.root)
    scene.config.root.touch()
    code, _, err = ask(*on(scene, "init"))
    assert code == 1
    assert f"cannot make {scene.config.root}" in err


# ---------------------------------------------------------------------------------------------------------- check


def test_check_of_a_good_file(ask: Ask, scene: Scene) -> None:
    """Repairs and counts, and that it would be sent; --out has what would be."""
    file = scene.at / "good.csv"
    file.write_bytes(b"Email,varr_a\r\nann@example.com, Ann \r\nann@example.com,Ann\r\n")
    code, out, err = ask(*on(scene, "check", file, "--folder", "acme", "--out", scene.at / "out.csv"))
    assert (code, err) == (0, "")
    assert f"{file}: repaired 1 x cells with blanks around them trimmed" in out
    assert f"{file}:3:1: email: a…@example.com stands in line 2 already" in out
    assert f"{file}: 1 rows repeat an address" in out
    assert out.endswith(f"{file}: would be sent\n")
    assert (scene.at / "out.csv").read_bytes() == b"email,varr_a\nann@example.com,Ann\nann@example.com,Ann\n"


def test_check_of_a_bad_file(ask: Ask, scene: Scene) -> None:
    """Each problem as a compiler would print it, with file, line and column; then code 1."""
    file = scene.at / "bad.csv"
    file.write_bytes(b"email,varr_a\nnobody,x\nann@example.com\n")
    code, out, _ = ask(*on(scene, "check", file, "--folder", "acme"))
    assert code == 1
    assert f"{file}:2:1: email: n… is no address" in out
    assert f"{file}:3" in out
    assert f"{file}: 2 rows read, 0 good, 2 bad" in out
    assert "would be refused: 2 of 2 rows are bad" in out


def test_check_of_a_very_bad_file_is_cut(ask: Ask, scene: Scene) -> None:
    """A hundred problems are enough for a screen; the number of the others is said."""
    file = scene.at / "bad.csv"
    file.write_bytes(b"email\n" + b"nobody\n" * 500)
    _, out, _ = ask(*on(scene, "check", file, "--folder", "acme"))
    assert f"{file}: … and 400 more problems" in out


def test_check_for_programs(ask: Ask, scene: Scene) -> None:
    """One object: the report, and the name of the file; the codes are the same."""
    file = scene.at / "bad.csv.gz"
    file.write_bytes(gzip.compress(b"email\nnobody\n"))
    code, out, _ = ask(*on(scene, "check", file, "--folder", "acme", "--json"))
    assert code == 1
    (report,) = objects(out)
    assert (report["version"], report["file"], report["bad_rows"]) == (1, str(file), 1)
    assert report["problems"][0]["line"] == 2


def test_check_sends_and_moves_nothing(ask: Ask, scene: Scene, sandbox: Sandbox) -> None:
    """It may be pointed at a file in an inbox."""
    file = scene.put("a.csv", ROWS)
    assert ask(*on(scene, "check", file, "--folder", "acme"))[0] == 0
    assert file.read_bytes() == ROWS
    assert not (scene.config.state_dir / "ledger.db").exists()
    assert len(sandbox.imports) == 0


def test_check_that_cannot_be_done(ask: Ask, scene: Scene) -> None:
    """An unknown folder lists those there are; no file and a folder are wrong usage; no place for --out is told."""
    file = scene.put("a.csv", ROWS)
    code, _, err = ask(*on(scene, "check", file, "--folder", "acmee"))
    assert code == 1
    assert "no folder is called acmee" in err
    assert "acme, globex" in err
    assert ask(*on(scene, "check", scene.at / "no.csv", "--folder", "acme"))[0] == 2
    assert ask(*on(scene, "check", scene.at, "--folder", "acme"))[0] == 2
    code, _, err = ask(*on(scene, "check", file, "--folder", "acme", "--out", scene.at / "no" / "out.csv"))
    assert code == 1
    assert f"cannot use {scene.at}/no/out.csv: No such file or directory" in err


@pytest.mark.parametrize("other", ["itself", "a hard link", "a symbolic link"])
def test_the_copy_of_a_check_never_takes_the_place_of_its_file(ask: Ask, scene: Scene, other: str) -> None:
    """By whatever name --out means the file that is read: refused, and nothing of it is lost."""
    file, out = scene.at / "a.csv", scene.at / "b.csv"
    file.write_bytes(ROWS)
    match other:
        case "itself":
            out = file
        case "a hard link":
            out.hardlink_to(file)
        case _:
            out.symlink_to(file)
    code, said, err = ask(*on(scene, "check", file, "--folder", "acme", "--out", out))
    assert (code, said) == (1, "")
    assert err == f"dropzone: {out} is the file that is to be read\n  Name another file for the prepared copy\n"
    assert file.read_bytes() == ROWS


@pytest.mark.parametrize("count", [1, 200_000])
def test_a_copy_that_cannot_be_written_is_no_fault_of_the_file(ask: Ask, scene: Scene, count: int) -> None:
    """A full disk is told of --out, whether it is noticed while the file is read or at the end."""
    file = scene.at / "a.csv"
    file.write_bytes(b"email\n" + b"ann@example.com\n" * count)
    code, out, err = ask(*on(scene, "check", file, "--folder", "acme", "--out", "/dev/full"))
    assert (code, out) == (1, "")
    assert err == "dropzone: cannot use /dev/full: No space left on device\n  Make room\n"


def test_a_hostile_name_on_the_command_line_is_escaped(ask: Ask, scene: Scene) -> None:
    """In every line of every form."""
    file = scene.put(HOSTILE, b"email\nnobody\n\x1b[2J\n")
    for words in ((), ("--json",)):
        _, out, err = ask(*on(scene, "check", file, "--folder", "acme", *words))
        assert "\\x1b[31mred\\x0aforged" in out or "\\\\x1b[31mred" in out
        assert all(line.isprintable() for line in (out + err).splitlines())


def test_the_progress_of_a_large_check_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a pipe, and not for what takes no time; five times a second at most, and the end once."""
    assert render.progress(1 << 40) is None
    master, slave = pty.openpty()
    with open(slave, "w") as terminal:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", terminal)
        assert render.progress(1 << 20) is None
        draw = render.progress(100 << 20)
        assert draw is not None
        for done in range(101):
            draw(done << 20)
        draw(100 << 20)  # all is read, and something else is done
        terminal.write("then")
        terminal.flush()
        shown = ""
        while not shown.endswith("then"):
            shown += os.read(master, 65536).decode()
    os.close(master)
    assert shown.startswith("\r  0% of 100.0 MiB read")
    assert shown.endswith("\r100% of 100.0 MiB read\r\nthen")
    assert shown.count("read") < 50


# --------------------------------------------------------------------------------------------------- queue and show


@pytest.fixture
def lived(tmp_path: Path, sandbox: Sandbox) -> Scene:
    """A scene with a drop in each state that lasts: done, failed, held and queued; one has a hostile name."""
    scene = make_scene(tmp_path, sandbox.url, folders=FOLDERS)
    scene.clock.wall = time.time()
    with scene.turn() as turn:
        turn.start()
        for name, content in ((b"done.csv", ROWS), (b"failed.csv", b"email\nnobody\n")):
            scene.put(name, content)
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
        found = {drop.state: drop for drop in turn.ledger.find_drops()}
        assert set(found) == {State.DONE, State.FAILED, State.HELD, State.QUEUED}
    return scene


def test_queue_lists_what_is_not_finished(ask: Ask, lived: Scene) -> None:
    """A line each with state, age and when it goes on; below it why it waits; names escaped; a sum at the end."""
    code, out, err = ask(*on(lived, "queue"))
    assert code == 0
    assert err.splitlines() == [
        "dropzone: no daemon runs here, so nothing is taken over and nothing is sent",
        "  Start it: systemctl start dropzone",
    ]
    lines = out.splitlines()
    assert lines[0].split() == ["ID", "STATE", "FOLDER", "NAME", "SIZE", "AGE", "TRIES", "NEXT"]
    assert lines[1].startswith("!  ")
    assert lines[1].endswith("a person")
    assert "OptiPub may have taken it" in lines[2]
    assert lines[3].startswith("·  ")
    assert re.search(r"in 3\dm$", lines[3])
    assert "OptiPub answered 503" in lines[4]
    assert lines[5] == "2 drops, 106 B"
    assert all(line.isprintable() for line in lines)


def test_queue_by_state_and_by_folder(ask: Ask, lived: Scene) -> None:
    """Finished ones too, if they are asked for."""
    assert "failed.csv" in ask(*on(lived, "queue", "--state", "failed"))[1]
    assert "1 drop, " in ask(*on(lived, "queue", "--state", "done"))[1]
    out = ask(*on(lived, "queue", "--folder", "globex"))[1]
    assert "queued.csv" in out
    assert "held" not in out
    assert ask(*on(lived, "queue", "--state", "unknown"))[1] == "The queue is empty.\n"
    code, _, err = ask(*on(lived, "queue", "--folder", "no"))
    assert code == 1
    assert "no folder is called no" in err


def test_queue_for_programs(ask: Ask, lived: Scene) -> None:
    """One object per drop; the due time is that of the account where it waits longer."""
    code, out, _ = ask(*on(lived, "queue", "--json"))
    assert code == 0
    held, queued = objects(out)
    assert (held["version"], held["state"], held["guard"]) == (1, "held", "unknown")
    assert held["name"] == "\\x1b[31mred\\x0aforged\\x07\\xff.csv"
    assert queued["state"] == "queued"
    assert queued["due_at"] > queued["claimed_at"]
    assert out.isascii()
    assert objects(ask(*on(lived, "queue", "--json", "--state", "unknown"))[1]) == []


def test_show_tells_everything_about_one_drop(ask: Ask, lived: Scene) -> None:
    """The log, the attempts, and where the file is; the ID may be cut short, in either case."""
    done, failed, held, queued = drops(lived)
    code, out, _ = ask(*on(lived, "show", done.id))
    assert code == 0
    assert out.startswith("done.csv: ACCEPTED")
    assert "1  " in out.partition("Attempts\n")[2]
    assert out.endswith(f"The file is {lived.config.root / str(done.path)}\n")
    assert ask(*on(lived, "show", done.id.lower()[:-1]))[1] == out
    assert "Attempts" not in ask(*on(lived, "show", failed.id))[1]
    assert "lost" in ask(*on(lived, "show", held.id))[1]
    out = ask(*on(lived, "show", queued.id))[1]
    assert "deferred" in out
    assert f"The file is {lived.config.root}/work/{queued.id}/original" in out
    assert all(line.isprintable() for line in ask(*on(lived, "show", held.id))[1].splitlines())


def test_show_of_a_file_that_is_gone(ask: Ask, lived: Scene) -> None:
    """Somebody took it out of work/: it says where to look."""
    queued = drops(lived)[-1]
    shutil.rmtree(lived.config.root / "work" / queued.id)
    assert "The file is in none of its places" in ask(*on(lived, "show", queued.id))[1]
    assert objects(ask(*on(lived, "show", queued.id, "--json"))[1])[0]["file"] is None


def test_show_for_programs(ask: Ask, lived: Scene) -> None:
    """The drop, its events and its attempts, with the file's place."""
    (done, *_) = drops(lived)
    (shown,) = objects(ask(*on(lived, "show", done.id, "--json"))[1])
    assert [event["event"] for event in shown["events"]] == ["Claimed", "Attempted", "Accepted", "Filed"]
    (attempt,) = shown["attempts_made"]
    assert (attempt["n"], attempt["outcome"], attempt["status"]) == (1, "accepted", 201)
    assert attempt["ended_at"] >= attempt["started_at"]
    assert shown["file"] == str(lived.config.root / str(done.path))


def test_show_of_what_is_not_there_or_not_clear(ask: Ask, lived: Scene) -> None:
    """No such drop; more than one; hostile text instead of an ID."""
    ids = [drop.id for drop in drops(lived)]
    code, _, err = ask(*on(lived, "show", "ZZZZ"))
    assert code == 1
    assert "there is no drop ZZZZ" in err
    code, _, err = ask(*on(lived, "show", ids[0][0]))
    assert code == 1
    assert all(id in err for id in ids)
    code, _, err = ask(*on(lived, "show", ""))
    assert code == 1
    assert "an ID is missing" in err
    _, _, err = ask(*on(lived, "show", "\x1b[31m\n"))
    assert all(line.isprintable() for line in err.splitlines())


def test_a_long_list_of_drops_that_an_id_may_mean_is_cut(ask: Ask, scene: Scene) -> None:
    """Five are named, and that there are more."""
    with scene.turn() as turn:
        turn.start()
        for number in range(7):
            scene.put(f"{number}.csv", ROWS)
        turn.take()
        assert len({drop.id[0] for drop in turn.ledger.find_drops()}) == 1
        first = turn.ledger.find_drops()[0].id[0]
    _, _, err = ask(*on(scene, "show", first))
    assert " …" in err


def test_without_a_ledger_the_reading_commands_say_what_makes_one(ask: Ask, scene: Scene) -> None:
    """Before the first run; and one that is damaged or too new is not taken for an empty one."""
    for words in (("queue",), ("show", "2")):
        code, out, err = ask(*on(scene, *words))
        assert (code, out) == (1, "")
        assert "It is made by the first 'dropzone run'" in err
    ledger = scene.config.state_dir / "ledger.db"
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        database.execute("PRAGMA user_version = 999")
    assert "was made by a newer dropzone" in ask(*on(scene, "queue"))[2]
    ledger.write_bytes(b"this is no database at all" * 100)
    code, _, err = ask(*on(scene, "queue"))
    assert code == 1
    assert "is damaged" in err


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (42, "42s"), (17 * 60, "17m"), (5 * 3600, "5h"), (3 * 86400, "3d")]
)
def test_ages_for_people(seconds: float, text: str) -> None:
    """The largest unit that fits."""
    assert plain_text.age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes_for_people(count: int, text: str) -> None:
    """Bytes as they are, larger ones with one decimal."""
    assert plain_text.size(count) == text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("status", "--watch", "--every", "nan"), 2),
        (("queue", "--newest", "9" * 20), 2),
        (("sandbox", "--port", "0", "--suppression", f"{'9' * 5000}:md5"), 1),
    ],
    ids=["nan", "newest", "suppression"],
)
def test_a_number_that_is_none_or_too_large_is_refused(
    ask: Ask, lived: Scene, words: tuple[str, ...], code: int
) -> None:
    """A sentence and its mend, where the machine could not work with it."""
    said = ask(*on(lived, *words))
    assert said[:2] == (code, "")
    assert said[2].startswith("dropzone: ")
    assert len(said[2].splitlines()) == 2


def test_a_width_that_no_terminal_has_is_not_believed(lived: Scene) -> None:
    """What COLUMNS says is asked of the terminal then."""
    assert "globex" in on_a_terminal(*command(lived, "queue"), COLUMNS="9" * 5000)


def test_an_error_without_a_mend_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made up where nobody knows what to do."""
    render.error("it broke\x1b", "")
    assert capsys.readouterr().err == "dropzone: it broke\\x1b\n"


def test_long_names_keep_their_end() -> None:
    """It is what names differ in."""
    assert plain_text.short("a" * 30, 30) == "a" * 30
    assert plain_text.short("x" * 40 + "-2026.csv", 12) == "…xx-2026.csv"


# ------------------------------------------------------------------------------------------------ pipes and terminals


def on_a_terminal(*words: str, **environment: str) -> str:
    """What the command shows on a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(words, stdout=slave, stderr=slave, env={**os.environ, **environment})
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the last one closed it
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    assert process.wait(PATIENCE_S) == 0
    return shown.decode()


def test_colours_are_for_terminals_that_want_them(lived: Scene) -> None:
    """On a terminal the states are coloured; with NO_COLOR and in a pipe there is no escape at all."""
    words = command(lived, "queue")
    coloured = on_a_terminal(*words, TERM="xterm")
    assert "\x1b[33m!\x1b[0m" in coloured
    plain = on_a_terminal(*words, TERM="xterm", NO_COLOR="1")
    assert "\x1b" not in plain
    piped = run_process(*words).stdout.decode()
    assert "\x1b" not in piped
    assert plain.split()[:2] == ["ID", "FOLDER"]  # in 80 columns the marks stand for the states
    assert "(! held, · queued)" in plain
    assert piped.split()[:3] == ["ID", "STATE", "FOLDER"]
    assert "(! held" not in piped


@pytest.mark.parametrize("words", [("config", "schema"), ("queue", "--state", "done"), ("queue", "--json")])
def test_a_reader_that_has_seen_enough_is_no_error(lived: Scene, words: tuple[str, ...]) -> None:
    """`dropzone … | head`: code 0, and not a word on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:  # noqa: PTH123
        done = subprocess.run(command(lived, *words), stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_orders_on_places_reach_all_of_them_whoever_reads_the_answers(lived: Scene) -> None:
    """`dropzone pause A B | head -1`, and on a full disk: the second is paused as well as the first."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe, open("/dev/full", "wb") as full:  # noqa: PTH123
        for what, out in (("pause", pipe), ("resume", full)):
            done = subprocess.run(
                command(lived, what, "acme", "globex"), stdout=out, stderr=subprocess.PIPE, check=False
            )
            assert (done.returncode, done.stderr) == (0, b"")
            with contextlib.closing(SQLiteReader(lived.config.state_dir)) as reader:
                assert set(reader.paused_folders()) == ({"acme", "globex"} if what == "pause" else set())


@pytest.mark.parametrize("words", [["--help"], ["status"], ["queue", "--json"], ["config", "example"]])
def test_an_answer_that_cannot_be_written_is_an_error(lived: Scene, words: list[str]) -> None:
    """`dropzone … >FILE` on a full disk: code 1 and a sentence, also where that cannot be written either."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(command(lived, *words), stdout=full, stderr=subprocess.PIPE, check=False)
        mute = subprocess.run(command(lived, *words), stdout=full, stderr=full, check=False)
    told = b"dropzone: the answer cannot be written: No space left on device\n  Is the disk full?\n"
    assert (done.returncode, done.stderr) == (1, told)
    assert mute.returncode == 1


def test_what_an_old_terminal_cannot_show_is_escaped(lived: Scene) -> None:
    """In a locale that has no wide characters the answer is there all the same."""
    lived.put("漢字.csv", b"email\n")
    lived.settle()
    environment = {**os.environ, "PYTHONIOENCODING": "iso8859-15:strict"}
    done = subprocess.run(command(lived, "queue"), capture_output=True, env=environment, check=False)
    assert done.returncode == 0
    assert b"\\u6f22\\u5b57.csv" in done.stdout


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_no_obstacle(scene: Scene, closed: str) -> None:
    """Whoever starts it may have closed them; the ledger must not get their numbers, nor the journal be an error."""
    scene.put("a.csv", ROWS)
    assert run_process("sh", "-c", f'exec "$@" {closed}', "sh", *command(scene, "run", "--once")).returncode == 0
    assert [drop.state for drop in drops(scene)] == [State.DONE]


def test_control_c_is_130(scene: Scene) -> None:
    """A check that waits for a pipe nobody writes to is interrupted, without a traceback."""
    fifo = scene.at / "fifo.csv"
    os.mkfifo(fifo)
    with subprocess.Popen(command(scene, "check", str(fifo), "--folder", "acme"), stderr=subprocess.PIPE) as process:
        with fifo.open("wb"):  # returns when the check has opened the other end
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 130
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()


# ------------------------------------------------------------------------------------------------------ run --once


def test_once_ends_with_0_when_all_is_done(ask: Ask, scene: Scene, sandbox: Sandbox) -> None:
    """Everything there was is in done/ with its log; the journal is JSON lines on standard error, and no key in it."""
    scene.put("a.csv", ROWS)
    scene.put(HOSTILE, ROWS, folder="globex")
    change(scene, "    api_key:", "    key_created: 2020-01-01\n    api_key:")
    done = run_process(*command(scene, "run", "--once"))
    assert (done.returncode, done.stdout) == (0, b"")
    assert any("the API key of account main has ended" in entry["event"] for entry in objects(done.stderr))
    kinds = [entry.get("event_kind") for entry in objects(done.stderr)]
    assert kinds.count("Claimed") == kinds.count("Filed") == 2
    assert KEY.encode() not in done.stderr
    assert [drop.state for drop in drops(scene)] == [State.DONE] * 2
    assert_kept(scene, drops(scene))
    assert len(sandbox.imports) == 2
    assert ask(*on(scene, "queue"))[1] == "The queue is empty.\n"


@pytest.mark.parametrize("trouble", ["bad rows", "lost answer", "refused"])
def test_once_ends_with_3_when_somebody_has_to_look(scene: Scene, sandbox: Sandbox, trouble: str) -> None:
    """A file failed, or is held."""
    if trouble == "lost answer":
        sandbox.fault("lost_answer")
    if trouble == "refused":
        sandbox.fault("status", status=302)
    scene.put("a.csv", b"email\nnobody\n" if trouble == "bad rows" else ROWS)
    assert run_process(*command(scene, "run", "--once")).returncode == 3


def test_once_ends_with_5_while_the_server_is_away(scene: Scene, sandbox: Sandbox) -> None:
    """Nothing failed: the file waits for a later run, which delivers it."""
    sandbox.close()
    scene.put("a.csv", ROWS)
    assert run_process(*command(scene, "run", "--once")).returncode == 5
    (drop,) = drops(scene)
    assert drop.state is State.QUEUED
    sandbox.start()
    ended = Poll()
    while ended.goes_on and run_process(*command(scene, "run", "--once")).returncode != 0:
        pass
    (drop,) = drops(scene)
    assert drop.state is State.DONE


def test_run_that_cannot_start(scene: Scene) -> None:
    """A wrong configuration is 4; a root that is not there may be a mount that is missing: 1, and nothing is made."""
    root = scene.config.root
    root.rename(scene.at / "unmounted")
    done = run_process(*command(scene, "run"))
    assert done.returncode == 1
    assert f"cannot use {root}: it is not there" in done.stderr.decode()
    assert not root.exists()
    (scene.at / "dropzone.yaml").write_text(WRONG)
    assert run_process(*command(scene, "run")).returncode == 4


# --------------------------------------------------------------------------------------------------- the daemon


class Poll:
    """Whether to go on waiting for a condition of another process."""

    def __init__(self) -> None:
        self._end = time.monotonic() + PATIENCE_S

    @property
    def goes_on(self) -> bool:
        assert time.monotonic() < self._end, "waited too long"
        threading.Event().wait(0.01)
        return True


class Running:
    """The daemon as a process, and its journal as it comes."""

    def __init__(self, scene: Scene, **environment: str) -> None:
        self.scene = scene
        self.process = subprocess.Popen(
            command(scene, "run"), stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self.journal: list[dict[str, Any]] = []

    def wait_for(self, text: str) -> dict[str, Any]:
        """The next line of the journal whose sentence holds `text`."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.journal.append(json.loads(line))
            if text in self.journal[-1]["event"]:
                return self.journal[-1]
        pytest.fail(f"it ended without saying {text!r}: {self.journal}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, read what it still says, and give its exit code."""
        self.process.send_signal(number)
        assert self.process.stderr
        self.journal += objects(self.process.stderr.read())
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def running(scene: Scene, **environment: str) -> Iterator[Running]:
    """A daemon that watches."""
    daemon = Running(scene, **environment)
    try:
        daemon.wait_for("watching")
        yield daemon
    finally:
        daemon.close()


def test_sigterm_during_an_upload_drains_and_exits_0(scene: Scene, sandbox: Sandbox) -> None:
    """The answer is awaited, committed and filed; the file behind it is not started."""
    sandbox.fault("slow", seconds=0.5)
    scene.put("1.csv", ROWS)
    scene.put("2.csv", ROWS)
    with running(scene) as daemon:
        sandbox.wait_for(requests=1, timeout_s=PATIENCE_S)
        assert daemon.end() == 0
    assert [drop.state for drop in drops(scene)] == [State.DONE, State.QUEUED]
    assert_kept(scene, drops(scene))
    assert len(sandbox.imports) == 1


def test_sigint_once_drains_and_twice_exits_130_at_once(scene: Scene, sandbox: Sandbox) -> None:
    """The first says how to stop at once; after the second the outcome is unknown, and the next start holds it."""
    sandbox.fault("slow", seconds=PATIENCE_S)
    scene.put("a.csv", ROWS)
    with running(scene) as daemon:
        sandbox.wait_for(requests=1, timeout_s=PATIENCE_S)
        daemon.process.send_signal(signal.SIGINT)
        daemon.wait_for("once more to stop at once")
        assert daemon.end(signal.SIGINT) == 130
    (drop,) = drops(scene)
    assert drop.state is State.SENDING
    assert run_process(*command(scene, "run", "--once")).returncode == 3
    (drop,) = drops(scene)
    assert (drop.state, drop.guard) == (State.HELD, "unknown")
    sandbox.close()


def test_sigint_with_nothing_under_way_exits_0(scene: Scene) -> None:
    """Ctrl-C on a terminal."""
    with running(scene) as daemon:
        assert daemon.end(signal.SIGINT) == 0
        assert not [line for line in daemon.journal if line["level"] == "error"]


def test_a_second_instance_exits_7_and_disturbs_nobody(scene: Scene) -> None:
    """It says why; the first goes on."""
    with running(scene) as daemon:
        done = run_process(*command(scene, "run", "--once"))
        assert done.returncode == 7
        assert "another dropzone runs" in done.stderr.decode()
        scene.put("a.csv", ROWS)
        daemon.wait_for("filed as done/")
        assert daemon.end() == 0


def test_events_wake_the_daemon_long_before_its_scan(tmp_path: Path, sandbox: Sandbox) -> None:
    """With a scan once an hour: a write, a rename and a link are each heard of and delivered."""
    scene = make_scene(tmp_path, sandbox.url, defaults="settle: 20ms, settle_unseen: 1s, scan: 1h")
    with running(scene) as daemon:
        scene.put("written.csv", ROWS)
        part = scene.put("x.part", ROWS)
        part.rename(scene.inbox / "renamed.csv")
        daemon.wait_for("filed as done/")
        daemon.wait_for("filed as done/")
        part = scene.put("y.part", ROWS)
        os.link(part, scene.inbox / "linked.csv")
        part.unlink()
        daemon.wait_for("filed as done/")
        assert daemon.end() == 0
    assert sorted(drop.name for drop in drops(scene)) == [b"linked.csv", b"renamed.csv", b"written.csv"]


def test_a_journal_that_nobody_reads_any_more_does_not_end_the_daemon(scene: Scene, sandbox: Sandbox) -> None:
    """`dropzone run 2>&1 | head`: files are delivered all the same, and it stops cleanly."""
    with running(scene) as daemon:
        assert daemon.process.stderr
        daemon.process.stderr.close()
        daemon.process.stderr = None
        scene.put("a.csv", ROWS)
        scene.put("b.csv", b"email\nnobody\n", folder="globex")
        sandbox.wait_for(applied=1, timeout_s=PATIENCE_S)
        ended = Poll()
        while len(drops(scene)) < 2 or any(drop.state not in FINISHED for drop in drops(scene)):
            assert ended.goes_on
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_S) == 0


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(str(tmp_path / "notify"))
        here.settimeout(PATIENCE_S)
        yield here


def told(systemd: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in systemd.recv(4096).decode().splitlines())


def test_systemd_is_told_all_along(scene: Scene, systemd: socket.socket, tmp_path: Path) -> None:
    """READY with a STATUS, a reload from RELOADING to READY, STOPPING at the signal."""
    with running(scene, NOTIFY_SOCKET=str(tmp_path / "notify")) as daemon:
        assert told(systemd) == {"READY": "1", "STATUS": "Watching 2 folders"}
        daemon.process.send_signal(signal.SIGHUP)
        reloading = told(systemd)
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert told(systemd)["READY"] == "1"
        assert daemon.end() == 0
        assert told(systemd)["STOPPING"] == "1"


def test_a_reload_takes_the_new_configuration_or_keeps_the_old(scene: Scene, sandbox: Sandbox) -> None:
    """A wrong file changes nothing and is told with its lines; a right one adds a folder and changes the segment."""
    good = (scene.at / "dropzone.yaml").read_text()
    with running(scene) as daemon:
        (scene.at / "dropzone.yaml").write_text(WRONG)
        daemon.process.send_signal(signal.SIGHUP)
        kept = daemon.wait_for("the old configuration stays")
        assert kept["level"] == "warning"
        assert any(":5:" in problem for problem in kept["problems"])
        scene.put("1.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        (scene.at / "dropzone.yaml").write_text(
            good.replace("segment_id: 1,", "segment_id: 11,") + "  initech: {segment_id: 3, mode: lead}\n"
        )
        assert run_process(*command(scene, "init")).returncode == 0
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("the configuration was read again")
        scene.put("2.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        (scene.config.root / "inbox" / "initech" / "3.csv").write_bytes(ROWS)
        daemon.wait_for("filed as done/initech/")
        assert daemon.end() == 0
    assert [each.segment for each in sandbox.imports] == [1, 11, 3]


def test_the_files_of_a_segment_keep_their_order_whatever_groups_it_comes_into(scene: Scene, sandbox: Sandbox) -> None:
    """While one waits, a reload refuses another order_group; a restart takes it, and the file that waits along."""
    good = (scene.at / "dropzone.yaml").read_text()
    sandbox.fault("status", status=503, headers={"Retry-After": "3600"})
    with running(scene) as daemon:
        scene.put("1.csv", b"email\nann@example.com\n")
        sandbox.wait_for(requests=1, timeout_s=PATIENCE_S)
        (scene.at / "dropzone.yaml").write_text(good.replace("segment_id: 1,", "segment_id: 1, order_group: g,"))
        daemon.process.send_signal(signal.SIGHUP)
        why = daemon.wait_for("the old configuration stays")["why"]
        assert "files of segment 1 are open" in why
        assert "Restart dropzone" in why
        assert daemon.end() == 0
    scene.put("2.csv", b"email\nbob@example.com\n")
    with running(scene) as daemon:
        assert run_process(*command(scene, "resume", "main")).returncode == 0
        daemon.wait_for("filed as done/acme/")
        daemon.wait_for("filed as done/acme/")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("the configuration was read again")
        assert daemon.end() == 0
    assert [each.first[0] for each in sandbox.imports if each.applied] == ["ann@example.com", "bob@example.com"]
    assert {drop.lane for drop in drops(scene)} == {"main/group g"}


def test_a_reload_during_an_upload_does_not_disturb_it(scene: Scene, sandbox: Sandbox) -> None:
    """The clients are made anew; the one that is in use ends its work."""
    sandbox.fault("slow", seconds=0.5)
    scene.put("1.csv", ROWS)
    with running(scene) as daemon:
        sandbox.wait_for(requests=1, timeout_s=PATIENCE_S)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("the configuration was read again")
        daemon.wait_for("filed as done/acme/")
        scene.put("2.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        assert daemon.end() == 0
    assert [drop.state for drop in drops(scene)] == [State.DONE] * 2


def test_a_reload_cannot_move_the_ledger_or_the_root(scene: Scene) -> None:
    """What takes a restart is refused with that word, and a root that is not there is not made."""
    good = (scene.at / "dropzone.yaml").read_text()
    with running(scene) as daemon:
        for old, new, why in (
            (f"state_dir: {scene.at}/state", f"state_dir: {scene.at}/other", "state_dir has changed"),
            ("accounts:", "concurrency: 9\naccounts:", "concurrency has changed"),
            (f"root: {scene.at}/root", f"root: {scene.at}/gone", f"cannot use {scene.at}/gone: it is not there"),
        ):
            (scene.at / "dropzone.yaml").write_text(good.replace(old, new))
            daemon.process.send_signal(signal.SIGHUP)
            assert why in daemon.wait_for("the old configuration stays")["why"]
        scene.put("1.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        assert daemon.end() == 0
    assert not (scene.at / "gone").exists()


def test_a_reload_while_the_ledger_cannot_be_read_keeps_the_old(scene: Scene) -> None:
    """Which segments were created stands there: it is told, and the old configuration goes on; later the new one."""
    with running(scene) as daemon:
        with (scene.at / "dropzone.yaml").open("a") as file:
            file.write("  leads: {create: {publication_id: 7}, mode: lead}\n")
        ledger, aside = (scene.config.state_dir / name for name in ("ledger.db", "aside.db"))
        ledger.rename(aside)
        ledger.symlink_to("ledger.db")  # not even root can open that
        daemon.process.send_signal(signal.SIGHUP)
        assert f"cannot use the ledger {ledger}" in daemon.wait_for("the old configuration stays")["why"]
        aside.replace(ledger)
        scene.put("1.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("the configuration was read again")
        assert daemon.end() == 0


def test_a_reload_that_asks_for_a_folder_that_cannot_be_made_keeps_the_old(scene: Scene) -> None:
    """A file lies where its done/ should be: told with the path, and the old configuration goes on."""
    with running(scene) as daemon:
        (scene.config.root / "done" / "initech").touch()
        with (scene.at / "dropzone.yaml").open("a") as file:
            file.write("  initech: {segment_id: 3, mode: lead}\n")
        daemon.process.send_signal(signal.SIGHUP)
        assert "done/initech" in daemon.wait_for("the old configuration stays")["why"]
        scene.put("1.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        assert daemon.end() == 0


def test_a_work_folder_that_is_away_is_not_made_anew(tmp_path: Path, sandbox: Sandbox) -> None:
    """Neither by a start nor by a reload: in an empty one its drops would seem to be gone."""
    spool = tmp_path / "spool"
    scene = make_scene(
        tmp_path,
        sandbox.url,
        folders=f"acme: {{segment_id: 1, mode: lead}}\nglobex: {{segment_id: 2, mode: lead, spool: {spool}}}",
        defaults=FAST,
    )
    sandbox.fault("status", status=408, segment=2, times=None)  # however soon it is tried again
    scene.put("g.csv", ROWS, folder="globex")
    assert run_process(*command(scene, "run", "--once")).returncode == 5
    spool.rename(tmp_path / "away")
    spool.mkdir()  # as the folder below a mount
    with running(scene) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("the configuration was read again")
        scene.put("a.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        assert daemon.end() == 0
    assert list(spool.iterdir()) == []
    assert any("Mount it" in line.get("why", "") for line in daemon.journal)
    spool.rmdir()
    (tmp_path / "away").rename(spool)
    assert [drop.state for drop in drops(scene)] == [State.QUEUED, State.DONE]
    assert_kept(scene, drops(scene)[1:])


def test_an_account_that_a_reload_takes_away_makes_its_drops_wait(scene: Scene, sandbox: Sandbox) -> None:
    """They were claimed for it: put off with the reason, and delivered once it is back."""
    good = (scene.at / "dropzone.yaml").read_text()
    sandbox.fault("status", status=408)
    with running(scene) as daemon:
        (scene.at / "dropzone.yaml").write_text(good.replace("\n  main:", "\n  other:"))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for("the configuration was read again")
        scene.put("1.csv", ROWS)
        daemon.wait_for("filed as done/acme/")
        assert daemon.end() == 0
    accounts = wiring._Accounts(replace(scene).config, time.time)
    with pytest.raises(DropzoneError, match="no account is called nobody any more"):
        accounts("nobody")
    accounts.close()


def test_a_folder_that_is_missing_at_the_start_is_told_and_watched_later(tmp_path: Path, sandbox: Sandbox) -> None:
    """A folder outside the root that is not there yet: reported with its mend, its files taken once it is there."""
    place = tmp_path / "upload"
    folders = f"acme: {{segment_id: 1, mode: lead, path: {place}, spool: {tmp_path}/spool}}"
    scene = make_scene(tmp_path, sandbox.url, folders=folders, defaults=FAST)
    daemon = Running(scene)
    try:
        assert str(place) in daemon.wait_for("a folder cannot be used")["why"]
        daemon.wait_for("watching")
        place.mkdir()
        (place / "a.csv").write_bytes(ROWS)
        daemon.wait_for("filed as done/")
        assert daemon.end() == 0
    finally:
        daemon.close()


def test_links_in_the_operators_own_paths_are_followed(tmp_path: Path, sandbox: Sandbox) -> None:
    """/srv may be a link to a large disk; what partners may exchange is not followed all the same."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "srv").symlink_to(tmp_path / "disk")
    scene = make_scene(tmp_path / "srv", sandbox.url, folders=FOLDERS, defaults=FAST)
    scene.put("a.csv", ROWS)
    elsewhere = tmp_path / "elsewhere"
    scene.config.folders["globex"].path.rename(elsewhere)
    scene.config.folders["globex"].path.symlink_to(elsewhere)
    (elsewhere / "b.csv").write_bytes(ROWS)
    done = run_process(*command(scene, "run", "--once"))
    assert done.returncode == 0, done.stderr.decode()
    assert [(drop.folder, drop.state) for drop in drops(scene)] == [("acme", State.DONE)]
    assert (elsewhere / "b.csv").exists()


# ------------------------------------------------------------------------------------------------ sandbox and demo


def test_the_sandbox_command_serves_until_it_is_stopped() -> None:
    """It says where it listens and with which key, keeps what it was told of segments, and ends with 0."""
    words = [sys.executable, "-m", "dropzone", "sandbox", "--port", "0", "--key", "k", "--suppression", "5:md5"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = process.stdout.readline()
        found = re.search(r"http://(127\.0\.0\.1:\d+), key k;", first)
        assert found, first
        connection = http.client.HTTPConnection(found[1], timeout=PATIENCE_S)
        connection.request("GET", "/sandbox/state")
        assert json.load(connection.getresponse())["imports"] == []
        connection.close()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--suppression", "x:md5"), "'x:md5' is no segment"),
        (("--suppression", "5:crc"), "'5:crc' is no segment"),
        (("--host", "0.0.0.0"), "listens on loopback only"),  # noqa: S104
        (("--port", "99999"), "cannot listen"),
    ],
)
def test_a_sandbox_that_cannot_be_is_refused(ask: Ask, words: tuple[str, ...], says: str) -> None:
    """One sentence, code 1."""
    code, _, err = ask("sandbox", *words)
    assert code == 1
    assert says in err


def test_the_demonstration_ends_by_itself_with_0(tmp_path: Path) -> None:
    """Uploads, answers, queue, folders and a log are shown, and what to read there; --keep leaves the folders."""
    (tmp_path / "tmp").mkdir()
    words = [sys.executable, "-m", "dropzone"]
    done = run_process(*words, "demo", "--keep", env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})
    out = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b""), out + done.stderr.decode()
    assert "Every file ended where it should: 5 done, 1 failed, 1 held" in out
    for mode in ("activeStatus=1", "activeStatus=0", "activeStatus=null", "clear=1)"):
        assert mode in out
    assert "What to read there" in out
    assert "line 3, column 1, email: i… is no address" in out
    assert "\x1b" not in out
    last = out.splitlines()[-1].partition("dropzone ")[2].split()
    looked = run_process(*words, *last)
    assert looked.returncode == 0
    assert b"globex.csv" in looked.stdout


def test_a_demonstration_that_goes_wrong_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Code 1, and which file is not where it should be; a line that is no journal's is shown as it is."""
    assert _verdict([], 0) == 1
    _tell_journal(io.StringIO("Traceback\n"), threading.Event())
    lines = capsys.readouterr().out.splitlines()
    assert "acme-signups/signups.csv should be done, but is not taken over" in lines[0]
    assert lines[-1] == "   Traceback"


def test_an_interrupted_demonstration_leaves_no_daemon_and_no_folders(tmp_path: Path) -> None:
    """Ctrl-C goes to both, as on a terminal; the folders are removed, and the code is 130."""
    (tmp_path / "tmp").mkdir()
    words = [sys.executable, "-m", "dropzone", "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, process_group=0) as process:
        assert process.stdout
        for line in process.stdout:
            if "Partners upload" in line:
                break
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()  # ends when the last one of the group has closed it
        assert process.wait(PATIENCE_S) == 130
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
