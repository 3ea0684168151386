"""Another interpreter that reads a part of a file, beside this one; and what it does when it is started.

A fresh interpreter and no fork: the daemon has threads, and a fork in the middle of their locks hangs now and then. It
gets the part on its standard input, the files by descriptor, and tells on its standard output how far it is, at last
what came of it. If the one that started it dies, the pipe breaks, and so it ends too.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

from dropzone.errors import Cancelled
from dropzone.sheet.parts import Files, Outcome, Part, read_part
from dropzone.sheet.rules import Refusal
from dropzone.sheet.trail import Traces


class Beside:
    """A part that another interpreter reads."""

    def __init__(self, part: Part, fd: int, files: Files) -> None:
        self.bytes_read = 0
        self._outcome: Outcome | None = None
        descriptors = [fd, *(file.fileno() for file in files.all())]
        self._child = subprocess.Popen(
            [sys.executable, "-c", "from dropzone.sheet import beside; beside.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._child.stdin is not None  # both are pipes
        with suppress(BrokenPipeError), self._child.stdin as orders:
            pickle.dump((part, descriptors), orders)
        self._listener = threading.Thread(target=self._listen, name="part", daemon=True)
        self._listener.start()

    def wait(self, seconds: float) -> bool:
        self._listener.join(seconds)
        return not self._listener.is_alive()

    def outcome(self) -> Outcome | None:
        self._child.wait()
        return self._outcome

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        self._listener.join()
        if self._child.stdout:
            self._child.stdout.close()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        with suppress(EOFError, pickle.UnpicklingError):  # it has ended before it had an outcome
            while self._outcome is None:
                told = pickle.load(self._child.stdout)  # noqa: S301 - our own words, from our own pipe
                if isinstance(told, Outcome):
                    self._outcome = told
                else:
                    self.bytes_read = told


def main() -> None:
    """Read the part that standard input holds and tell standard output of it."""
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    part, (fd, *others) = pickle.load(orders)  # noqa: S301 - what `Beside` has written
    prepared, rejects, frames, ordered = map(_open, others)
    files = Files(prepared=prepared, rejects=rejects, traces=Traces(frames=frames, ordered=ordered))

    def tell(bytes_read: int) -> None:
        try:
            pickle.dump(bytes_read, answers)
            answers.flush()
        except BrokenPipeError as error:  # nobody waits for it any more
            raise Cancelled from error

    with suppress(Refusal, Cancelled):  # of a refusal the whole file is told, by who reads on alone
        outcome = read_part(part, fd, files, tell)
        pickle.dump(outcome, answers)
        answers.flush()


def _open(fd: int) -> BinaryIO:
    return os.fdopen(fd, "w+b")
