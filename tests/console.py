"""Commands as tests type them: in this process, as a process of their own, or on a terminal of a given width."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any

from click.testing import CliRunner
from scene import Scene

from dropzone.cli import cli

PATIENCE_S = 30.0


def ask(scene: Scene, *words: str, given: str | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    result = CliRunner().invoke(cli, ["-c", str(scene.at / "dropzone.yaml"), *words], input=given)
    return result.exit_code, result.stdout, result.stderr


def objects(scene: Scene, *words: str) -> list[dict[str, Any]]:
    """What a command prints with ``--json``."""
    return [json.loads(line) for line in ask(scene, *words, "--json")[1].splitlines()]


def command(scene: Scene, *words: str) -> list[str]:
    """The words of a command as a process of its own."""
    return [sys.executable, "-m", "dropzone", "-c", str(scene.at / "dropzone.yaml"), *words]


class Daemon:
    """The daemon as a process of its own; its journal is read while somebody waits for a line of it."""

    def __init__(self, scene: Scene) -> None:
        self._process = subprocess.Popen(command(scene, "run"), stderr=subprocess.PIPE, text=True)
        self.journal: list[dict[str, Any]] = []

    def wait_for(self, text: str) -> dict[str, Any]:
        """The next line of the journal in which `text` stands."""
        assert self._process.stderr
        for line in self._process.stderr:
            self.journal.append(json.loads(line) if line.startswith("{") else {"event": line})
            if text in line:
                return self.journal[-1]
        raise AssertionError(f"it ended without saying {text!r}: {self.journal}")

    def reload(self) -> None:
        """Have it read the configuration again; returns when it has."""
        self._process.send_signal(signal.SIGHUP)
        self.wait_for("the configuration was read again")

    def end(self) -> int:
        """Stop it, and give its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=PATIENCE_S)
        return self._process.returncode


@contextlib.contextmanager
def daemon_on(scene: Scene) -> Iterator[Daemon]:
    """A daemon that watches; ended, whatever happens."""
    daemon = Daemon(scene)
    try:
        daemon.wait_for("watching")
        yield daemon
    finally:
        daemon.end()


class Terminal:
    """A terminal with one command on it, and everything that was written on it so far."""

    def __init__(self, words: list[str], *, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a piece may end within a character
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm", **environment}
        )
        os.close(slave)

    def wait_for(self, text: str) -> str:
        """All that was shown up to now, once `text` is in it."""
        while text not in self.shown:
            assert self._read(), f"it ended without showing {text!r}: {self.shown!r}"
        return self.shown

    def _read(self) -> bool:
        with contextlib.suppress(OSError):  # the last one closed it
            if piece := os.read(self._master, 65536):
                self.shown += self._decoder.decode(piece)
                return True
        return False

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def end(self, number: signal.Signals | None = None) -> int:
        """Send the signal, if one is given, read the rest, and give the exit code."""
        if number is not None:
            self.process.send_signal(number)
        while self._read():
            pass
        code = self.process.wait(PATIENCE_S)
        os.close(self._master)
        return code


@contextlib.contextmanager
def on_terminal(words: list[str], **how: Any) -> Iterator[Terminal]:
    """A command on a terminal; ended, whatever happens."""
    terminal = Terminal(words, **how)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.end()
