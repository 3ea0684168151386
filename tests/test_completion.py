"""Completion in the shells themselves: each is started on a terminal, and the Tab key is pressed.

What `completing` offers is tested in `test_asking`; here it is that the scripts work: words with blanks, with colons,
in quotes, and a configuration whose path has both. A shell that is not installed is said so and left out.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from console import ask, on_terminal
from scene import KEY, Scene, make_scene

from dropzone.cli.shells import SHELLS
from dropzone.drop import State
from dropzone.ledger.sqlite import SQLiteReader
from dropzone.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("untraced")

ROWS = b"email\nann@example.com\n"
FOLDERS = (
    "acme-signups: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}\nmain: {segment_id: 3, mode: lead}"
)

# What each shell is started with, and what it is told at its prompt: nothing of the user's, one line as installed.
START = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
READY = {
    "bash": "bind 'set enable-bracketed-paste off'; source {script}\n",
    "zsh": "autoload -U compinit && compinit -u -D; source {script}\n",
}
SHOW = "\x01printf '<%s>' \n"  # to the beginning of the line, and what the words of it are

# What is typed before Tab is pressed, and the words that are there after it.
PRESSED = [
    ("dropzone que", ["dropzone", "queue"]),
    ("dropzone queue --fol", ["dropzone", "queue", "--folder"]),
    ("dropzone show 2", ["dropzone", "show", "{id}"]),
    ("dropzone discard {low}", ["dropzone", "discard", "{id}"]),
    ("dropzone pause acc", ["dropzone", "pause", "account:main"]),
    ("dropzone pause globex folder:ma", ["dropzone", "pause", "globex", "folder:main"]),
    ("dropzone -c {typed}/dropzone.yaml show 2", ["dropzone", "-c", "{at}/dropzone.yaml", "show", "{id}"]),
    ("dropzone -c '{at}/dropzone.yaml' show 2", ["dropzone", "-c", "{at}/dropzone.yaml", "show", "{id}"]),
    ("dropzone why {inbox}/un", ["dropzone", "why", "{inbox}/{name}"]),
]
NAME = "un: seen, 1.csv"
PLACE = "a home: b"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Below a folder whose name has blanks and a colon: a drop that is held, and a file of such a name."""
    at = tmp_path_factory.mktemp("completion")
    with Sandbox(key=KEY) as sandbox:
        scene = make_scene(at, sandbox.url, folders=FOLDERS, defaults="settle: 20ms, settle_unseen: 20ms, scan: 1s")
        (at / PLACE).mkdir()
        shutil.copy(at / "dropzone.yaml", at / PLACE)
        scene.put("a, b: c.csv", b"email\n")
        scene.settle()
        scene.put(NAME, ROWS)
        # The command as an installation has it: a name that the shell finds in its path.
        (at / "bin").mkdir()
        program = at / "bin" / "dropzone"
        program.write_text(f"#!{sys.executable}\nfrom dropzone.cli import main\nmain()\n", encoding="utf-8")
        program.chmod(0o755)
        for shell in SHELLS:
            (at / f"script.{shell}").write_text(ask(scene, "completion", shell)[1], encoding="utf-8")
        yield scene


def environment(scene: Scene) -> dict[str, str]:
    return {
        "PATH": f"{scene.at / 'bin'}:{os.environ['PATH']}",
        "HOME": str(scene.at),
        "DROPZONE_CONFIG": str(scene.at / "dropzone.yaml"),
        "LC_ALL": "C.UTF-8",
    }


def filled(scene: Scene, text: str) -> str:
    """The text with the ID of the drop that is held, and the place, as it is and as it is typed."""
    with closing(SQLiteReader(scene.config.state_dir)) as reader:
        (drop,) = reader.find_drops(states=[State.HELD])
    at = str(scene.at / PLACE)
    typed = at.replace(" ", "\\ ").replace(":", "\\:")
    return text.format(id=drop.id, low=drop.id[:11].lower(), at=at, typed=typed, inbox=scene.inbox, name=NAME)


def present(shell: str) -> str:
    """The shell, where there is one."""
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    return shell


@pytest.mark.parametrize("shell", START)
def test_the_tab_key(scene: Scene, shell: str) -> None:
    """Pressed behind each of these, it makes the word whole, blanks, colons and quotes included."""
    with on_terminal(START[present(shell)], columns=500, **environment(scene)) as terminal:
        terminal.type(READY[shell].format(script=scene.at / f"script.{shell}"))
        for number, (typed, _) in enumerate(PRESSED):
            terminal.type(f"{filled(scene, typed)}\t{SHOW}echo th''at-was-{number}\n")
            terminal.wait_for(f"that-was-{number}")
        shown = terminal.shown
    for typed, words in PRESSED:
        assert "".join(f"<{filled(scene, word)}>" for word in words) in shown, (typed, shown)


def test_what_fish_completes(scene: Scene) -> None:
    """The same by fish's own question for what it would complete; and descriptions whole, commas included."""
    fish = present("fish")
    lines = [f"source {scene.at / 'script.fish'}"]
    lines += [f"complete -C {shlex.quote(filled(scene, typed))}; echo" for typed, _ in PRESSED]
    env = {**os.environ, **environment(scene)}
    done = subprocess.run([fish, "--no-config", "-c", "\n".join(lines)], env=env, capture_output=True, check=False)
    assert done.stderr == b""
    found = done.stdout.decode().split("\n\n")
    for (typed, words), offered in zip(PRESSED, found, strict=False):
        values = [line.partition("\t")[0] for line in offered.split("\n")]
        assert values == [filled(scene, words[-1])], (typed, offered)
    assert "held acme-signups: a, b: c.csv" in found[2]
