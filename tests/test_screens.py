"""Every command on a terminal of 80 columns, in a pipe and with ``--json``, over names that want to harm a screen.

One table of commands, one of names, one of places where the words go; what must hold is the same for all: no control
character but colours on a terminal, none at all elsewhere, no line of a table past the edge, JSON that is ASCII.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from console import ask, command, on_terminal
from scene import KEY, Scene, make_scene

from dropzone.cli import cli, text
from dropzone.cli.manual import commands
from dropzone.drop import State
from dropzone.ledger.sqlite import SQLiteReader
from dropzone.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("untraced")

COLUMNS = 80
ROWS = b"email,varr_a\nann@example.com,Ann\n"
# A row's own words come back in problems: a terminal's title, a bell, a right-to-left override, half a character.
BAD = b'email,varr_a\n"\x1b]0;mine\x07",x\nann@example.com,"\xe2\x80\xaeesrever"\nno\xc2\x9b31mbody,y\n'

NAMES = {
    "a newline and colours": b"\x1b[31mred\nforged line\x1b[0m.csv",
    "a title and a bell": b"\x1b]0;mine\x07.csv",
    "C1 controls": b"\xc2\x9b31m.csv",
    "right to left": "\u202egnp.exe\u202c\u2066x.csv".encode(),
    "no UTF-8": b"\xff\xfe\xc3.csv",
    "255 bytes": b"n" * 251 + b".csv",
    "a leading dash": b"--json.csv",
    "wide": ("漢字" * 20 + ".csv").encode(),
    "combining": ("e\u0301a\u0e31" * 30 + ".csv").encode(),
    "an emoji of many parts": "👩‍👩‍👧‍👦".encode() * 8 + b".csv",
    "blanks and quotes": b" a  b'\"`$(x)\\.csv",
    "a carriage return and a tab": b"safe\rforged\t\x0b\x0c.csv",
}

FOLDERS = """\
acme: {segment_id: 1, mode: lead}
a-folder-with-the-longest-name-that-anybody-would-ever-give-it: {segment_id: 2, mode: lead, retention: {done: 1d}}
waits: {segment_id: 3, mode: lead, settle: 1h}
"""
LONG = "a-folder-with-the-longest-name-that-anybody-would-ever-give-it"

# What is typed after `dropzone`, by the name of the command. {held}, {failed} … are drops, {inbox} paths.
TYPED: dict[str, list[list[str]]] = {
    "status": [[]],
    "queue": [[], ["--ages"], ["--state", "failed"], ["--state", "done"], ["--folder", LONG]],
    "show": [["{held}"], ["{failed}"], ["{done}"], ["{queued}"]],
    "why": [["{paths}"], ["{ignored}"], ["{left}"], ["/dev/\x1b[31mnull\n"]],
    "plan": [[], ["--folder", "waits"]],
    "check": [["{bad}", "--folder", "acme"], ["{good}", "--folder", "acme"]],
    "init": [[]],
    "doctor": [[]],
    "prune": [["--dry-run"]],
    "hold": [["{queued}", "--why", "\x1b[31m\u202ewhy\n"]],
    "release": [["{queued}"], ["\x1b[31mX\n"]],
    "retry": [["{failed}", "--why", "\x9b1m"]],
    "accept": [["{held}"]],
    "discard": [["{guarded}", "--why", "e\u0301\r\x08"]],
    "pause": [["waits", "--why", "\x1b[31m\n\u202e"], ["\x1b[2Jnobody"]],
    "resume": [["waits"]],
    "segment create": [["--name", "\x1b[31m\n", "--publication-id", "7"], ["--folder", "\x1b[31m"]],
    "config check": [[], ["{hostile}"]],
    "config show": [[]],
    "config schema": [[]],
    "config example": [[]],
    "completion": [["bash"], ["zsh"], ["fish"]],
}
LIVE = {"run", "sandbox", "demo"}  # they end when they are told to; what they print is tested with what they do
RAW = {"man"}  # the source of a page, for `man`
WITH_JSON = {" ".join(words) for words, each in commands(cli) if any("--json" in it.opts for it in each.params)}
# Lines that an editor or a shell reads, not a person: they may be long.
FOR_TOOLS = {"check", "config check", "config show", "config schema", "config example", "completion"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Scene:
    """All hostile names in each of: an inbox, done/, failed/, held, held by a guard, and waiting for the server."""
    scene = make_scene(
        tmp_path_factory.mktemp("screens"),
        sandbox.url,
        folders=FOLDERS,
        defaults="settle: 20ms, settle_unseen: 20ms, scan: 1s",
    )
    scene.clock.wall = time.time() - 90 * 86_400
    names = list(NAMES.values())
    with scene.turn() as turn:
        turn.start()
        for number, name in enumerate(names):
            scene.put(name, (ROWS, BAD, b"email,varr_a\n")[number % 3], folder=LONG)
        turn.take()
        turn.send()
        sandbox.fault("lost_answer", times=len(names))
        for name in names:
            scene.put(name, ROWS)
        turn.take()
        turn.send()
        sandbox.reset()
        scene.clock.wall = time.time()
        why = {"Retry-After": "1800", "X-Evil": "x"}
        sandbox.fault("status", status=503, headers=why, body="\x1b[31m\u202eevil\r\n\x07" * 20)
        for name in names:
            scene.put(name, ROWS)
        turn.take()
        turn.send(patience_s=0.0)
    for name in names:
        scene.put(name, ROWS, folder="waits")
        scene.put(name[:240] + b".part", ROWS, folder="waits")
    (scene.inbox / "link.csv").symlink_to("/etc/passwd")
    return scene


def filled(scene: Scene, words: list[str]) -> list[str]:
    """The words, with IDs and paths in the place of their names."""
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        found = reader.find_drops()
    held = [drop for drop in found if drop.state is State.HELD]
    ids = {
        "{held}": next(drop.id for drop in held if drop.guard == "unknown"),
        "{guarded}": next(drop.id for drop in held if drop.guard == "min_rows"),
        **{f"{{{state}}}": next(drop.id for drop in found if drop.state is state) for state in State if any(
            drop.state is state for drop in found) and state is not State.HELD},
    }  # fmt: skip
    inbox = scene.config.folders["waits"].path
    inside = sorted(map(os.fsencode, inbox.iterdir()))
    bad, good = (scene.at / os.fsdecode(b"\x1b[31m\n" + kind) for kind in (b"bad.csv", b"good.csv"))
    bad.write_bytes(BAD)
    good.write_bytes(ROWS)
    hostile = scene.at / "\x1b[31m\n.yaml"
    hostile.write_text('root: "\\e[31m\\u202e"\n"\\e[1mkey": 5\n')
    left = [os.fsencode(scene.inbox) + b"/" + name for name in NAMES.values()]
    many = {
        "{paths}": [path for path in inside if path.endswith(b".csv")],
        "{ignored}": [path for path in inside if path.endswith(b".part")],
        "{left}": [*left, os.fsencode(scene.inbox / "link.csv"), os.fsencode(scene.inbox)],
        "{bad}": [os.fsencode(bad)],
        "{good}": [os.fsencode(good)],
        "{hostile}": [os.fsencode(hostile)],
    }
    typed: list[str] = []
    for word in words:
        typed += map(os.fsdecode, many[word]) if word in many else [ids.get(word, word)]
    return typed


def test_every_command_is_in_the_table() -> None:
    """A new one has to be added, or to be said to be none of these."""
    assert {" ".join(words) for words, _ in commands(cli)} == TYPED.keys() | LIVE | RAW


@pytest.mark.parametrize("name", TYPED)
def test_nothing_breaks_a_terminal(lived: Scene, name: str) -> None:
    """Of control characters only colours, and the table stays within the edge."""
    for words in TYPED[name]:
        typed = command(lived, *name.split(), *filled(lived, words))
        with on_terminal(typed, columns=COLUMNS, LC_ALL="C.UTF-8") as terminal:
            terminal.end()
        shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown)
        assert shown.strip(), words
        for line in shown.replace("\r\n", "\n").splitlines():
            assert line.isprintable(), (words, line)
            assert name in FOR_TOOLS or text.width(line) <= COLUMNS, (words, line)
        assert "Traceback" not in shown


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_nothing_raw_goes_into_a_pipe(lived: Scene, name: str, as_json: bool) -> None:
    """Not one control character and no colour, on neither stream; with --json ASCII lines, each an object."""
    if as_json and name not in WITH_JSON:
        pytest.skip("it has no --json")
    for words in TYPED[name]:
        code, out, err = ask(lived, *name.split(), *filled(lived, words), *(["--json"] if as_json else []))
        assert out or err or name == "config check", words
        for line in (out + err).split("\n"):
            assert line.isprintable(), (words, line)
        if as_json:
            assert out.isascii()
            assert all(isinstance(json.loads(line), dict) for line in out.splitlines())
            assert out or code or name == "config check", words
