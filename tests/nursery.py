"""Lives of the installed command, cheap enough to be ended by the thousand.

A start of Python with all imports takes half a second of a core. So one process imports the program once and forks a
child for each life; what runs in it is the command from its first line on, with its own signals, threads and sockets.
`Nursery` is the test's side. This file is also the script of that process: a request a line comes in, the child's pid
and later its exit code go out.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

from dropzone.cli import main

PATIENCE_S = 60.0
LONG_S = 1200.0  # for a command to its end: on a machine with much else to do, hundreds of files take minutes


class Life:
    """One run of the command."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.code: int | None = None  # the exit code, once it has ended; minus the signal that ended it

    def wait(self, timeout_s: float = PATIENCE_S) -> int | None:
        """The exit code, or None when it has not ended within `timeout_s`."""
        if self.code is None and self._nursery.is_told(timeout_s):
            self.code = self._nursery.read_number()
        return self.code

    def kill(self) -> int:
        """End it with a SIGKILL, unless it has ended; its exit code."""
        if self.wait(0) is None:
            os.kill(self.pid, signal.SIGKILL)
        code = self.wait()
        assert code is not None, "it outlived a SIGKILL"
        return code

    def freeze(self) -> None:
        """Stop it where it stands: on return no thread of it runs, and none that waits for the disk will ever go on."""
        os.kill(self.pid, signal.SIGSTOP)
        while any(self._state(task) not in "TtDZX" for task in Path(f"/proc/{self.pid}/task").iterdir()):
            pass

    def _state(self, task: Path) -> str:
        try:
            return (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            return "X"

    def watches(self) -> bool:
        """Wait until it tells its service manager that it watches; False where it ended before."""
        while self.code is None:
            notices, answers = self._nursery.notices, self._nursery.answers
            readable, _, _ = select.select([notices.fileno(), answers.fileno()], [], [], PATIENCE_S)
            assert readable, "it neither watched nor ended"
            if notices.fileno() in readable and notices.recv(4096).startswith(b"READY=1"):
                return True
            if answers.fileno() in readable:
                self.wait()
        return False


class Nursery:
    """The process that all lives are forked from; one life at a time."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="nursery-")
        address = f"{self._place.name}/notify"
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(address)
        # Not measured: what a SIGKILL ends writes nothing down, and measuring makes a life twice as long.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        self._parent = subprocess.Popen(
            [sys.executable, __file__],
            env=env | {"NOTIFY_SOCKET": address},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._parent.stdout
        self.answers = self._parent.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._parent.stdin
        self._parent.stdin.close()
        self._parent.wait(PATIENCE_S)
        self.answers.close()
        self.notices.close()
        self._place.cleanup()

    def start(self, *words: str | Path, journal: Path, before: str = "") -> Life:
        """Run ``dropzone WORDS…`` with all its output appended to `journal` (a file or a pipe).

        `before` is Python that runs first: it takes a safety away from the program, to show that a test misses it.
        """
        while select.select([self.notices], [], [], 0)[0]:
            self.notices.recv(4096)  # what earlier lives said
        request = {"words": [str(word) for word in words], "journal": str(journal), "before": before}
        assert self._parent.stdin
        self._parent.stdin.write(json.dumps(request).encode() + b"\n")
        return Life(self, self.read_number())

    def run(self, *words: str | Path, journal: Path) -> int:
        """Run ``dropzone WORDS…`` to its end; the exit code."""
        code = self.start(*words, journal=journal).wait(LONG_S)
        assert code is not None, f"dropzone {words} never ended"
        return code

    def is_told(self, timeout_s: float) -> bool:
        return bool(select.select([self.answers], [], [], timeout_s)[0])

    def read_number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            piece = self.answers.read(1)  # one at a time: what is behind it stays for select() to see
            assert piece, "the nursery has ended"
            line += piece
        return int(line)


class Ears:
    """A pipe to be the journal of many lives, one after the other, and what was said in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # For writing too: then it has no end between two lives.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._heard = b""
        self.told: Counter[tuple[str, str]] = Counter()  # (drop ID, kind of the event)

    def close(self) -> None:
        os.close(self._pipe)

    def listen(self, until: Callable[[dict[str, Any]], bool], timeout_s: float = PATIENCE_S) -> bool:
        """Read on to a line that is what `until` asks for; False where none came for `timeout_s`."""
        while True:
            line, end, rest = self._heard.partition(b"\n")
            if end:
                self._heard = rest
                if until(self._note(json.loads(line))):
                    return True
            elif select.select([self._pipe], [], [], timeout_s)[0]:
                self._heard += os.read(self._pipe, 65536)
            else:
                return False

    def hear_out(self) -> None:
        """Read what is there of a life that has ended; half a line at its end was cut off with it."""
        self.listen(lambda _: False, 0)
        self._heard = b""

    def _note(self, line: dict[str, Any]) -> dict[str, Any]:
        if "event_kind" in line:
            self.told[line["drop"], line["event_kind"]] += 1
        return line


# ------------------------------------------------------------------------------------------------- the script


# The command, and all that it imports when it runs.
_LATER = (
    *("cli.running", "control", "daemon", "intake", "ledger.sqlite"),
    *("optipub", "pipeline", "telemetry", "watch", "wiring"),
)


def _serve() -> None:
    for name in _LATER:
        importlib.import_module(f"dropzone.{name}")
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            _live(json.loads(line))
        _answer(pid)
        _answer(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _live(request: dict[str, Any]) -> NoReturn:
    code: Any = 1
    try:
        _redirect(os.open("/dev/null", os.O_RDONLY), [0])
        _redirect(os.open(request["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), [1, 2])
        exec(request["before"], {})  # noqa: S102
        code = _command(request["words"])
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(fd: int, targets: Sequence[int]) -> None:
    for target in targets:
        os.dup2(fd, target)
    os.close(fd)


def _command(words: list[str]) -> int:
    try:
        main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    _serve()
