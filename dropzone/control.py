"""The control socket: one JSON line in, one JSON line out, and who asked.

Knows the wire and nothing of what is asked. Lies in the state folder, for its owner and group only; whoever may open it
may order, and each order carries the user that the kernel vouches for (SO_PEERCRED), not one that the asker names.

Each asker has a thread, so that nobody waits for another's order, or for somebody who says nothing. What one may cost
is bounded: so many askers, so many bytes of a request, so long until it has come. Where all places are taken, the one
that has been about to ask for the longest loses its place; who asks in earnest is through in a moment.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dropzone.errors import FolderError, OperatorError

NAME = "control.sock"
ASKERS = 16  # at once; each is a thread, beside those of the lanes (see TasksMax= in the unit)
REQUEST_BYTES = 256 << 10  # a command line of many paths, or a long reason
_ANSWER_BYTES = 4 << 20
_REQUEST_S = 2.0  # until the whole request has come, and again until the whole answer was taken
_ANSWER_S = 30.0  # the loop answers between two steps, not in the middle of one
_AGAIN_S = 0.05  # until one tries again where the kernel or the process has no room

Obey = Callable[[dict[str, Any], str], dict[str, Any]]
_BUSY = {"error": "the daemon is asked too much at once", "hint": "Try again in a moment"}


@contextlib.contextmanager
def _address(state_dir: Path) -> Iterator[str]:
    # An address has room for 107 bytes only, a state folder's path may be longer: by its descriptor it never is.
    fd = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)


class Control:
    """Listens in `state_dir` on a thread of its own; `obey` gets each request and the asker's name, and answers it.

    `obey` is called by many threads at once, and tells its refusals as answers.
    """

    def __init__(self, state_dir: Path, obey: Obey) -> None:
        self._obey = obey
        self._path = state_dir / NAME
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._asking: dict[socket.socket, None] = {}  # those whose request is not here yet, the longest first
        self._closed = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Ours by the state lock, so what lies there was left by one that died.
            self._path.unlink(missing_ok=True)
            with _address(state_dir) as address:
                self._socket.bind(address)
            self._path.chmod(0o660)
            self._socket.listen(ASKERS)
        except OSError as error:
            self._socket.close()
            raise FolderError("listen on", str(self._path), error) from error
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; returns when no more is obeyed."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)
        with self._lock:
            askers = list(self._threads)
            for connection in self._asking:
                _hang_up(connection)
        for asker in askers:
            asker.join()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed; or the process has too many files open, and then the asker waits in the kernel
                self._closed.wait(_AGAIN_S)
                continue
            asker = threading.Thread(target=self._attend, args=(connection,), name="asker", daemon=True)
            if not self._admit(connection, asker):
                with connection:
                    _tell(connection, _BUSY)

    def _admit(self, connection: socket.socket, asker: threading.Thread) -> bool:
        """Give an asker a place and start its thread; False where there is no place for it."""
        with self._lock:
            if len(self._threads) >= ASKERS:
                if not self._asking:
                    return False
                longest = next(iter(self._asking))
                del self._asking[longest]
                _hang_up(longest)
            try:
                asker.start()
            except RuntimeError:  # the machine gives us no more threads
                return False
            self._threads.add(asker)
            self._asking[connection] = None
            return True

    def _attend(self, connection: socket.socket) -> None:
        try:
            with connection:
                request = _read_line(connection, REQUEST_BYTES, time.monotonic() + _REQUEST_S)
                with self._lock:
                    self._asking.pop(connection, None)
                _tell(connection, self._answer(request, connection))
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _answer(self, request: bytes, connection: socket.socket) -> dict[str, Any]:
        try:
            return self._obey(json.loads(request), _peer(connection))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {"error": "the request is not understood", "hint": "Is the command of the daemon's version?"}


def _hang_up(connection: socket.socket) -> None:
    """Wake whoever reads from it. It is closed by the thread that has it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)


def _tell(connection: socket.socket, answer: dict[str, Any]) -> None:
    """Send an answer; an asker who went away, or who does not take it, has nothing to be told."""
    with contextlib.suppress(OSError):
        connection.settimeout(_REQUEST_S)  # for all of it: sendall's is one for the whole
        connection.sendall(json.dumps(answer).encode() + b"\n")


def ask(state_dir: Path, request: dict[str, Any], *, timeout_s: float = _ANSWER_S) -> dict[str, Any] | None:
    """The daemon's answer to `request`, or None where no daemon listens. Raises OperatorError where it gives none.

    It is waited for until `timeout_s` are over, all in all.
    """
    until = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            _connect(connection, state_dir, until)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError as error:
            hint = "Order as root or as the daemon's own user"
            raise OperatorError(f"you may not use {state_dir / NAME}", hint) from error
        except OSError as error:
            raise _unanswered() from error
        try:
            with contextlib.suppress(BrokenPipeError):  # it had no place for us, and its answer says so
                connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(connection, _ANSWER_BYTES, until))
        except (OSError, ValueError) as error:
            raise _unanswered() from error
    if not isinstance(answer, dict):
        raise OperatorError("the daemon's answer is not understood", "Is the command of the daemon's version?")
    return answer


def _connect(connection: socket.socket, state_dir: Path, until: float) -> None:
    while True:
        try:
            with _address(state_dir) as address:
                return connection.connect(address)
        except BlockingIOError:  # so many ask at once that the kernel has no room for one more
            if time.monotonic() >= until:
                raise
            time.sleep(_AGAIN_S)


def _unanswered() -> OperatorError:
    return OperatorError("the daemon did not answer", "See its journal; 'dropzone queue' shows what holds")


def _read_line(connection: socket.socket, most: int, until: float) -> bytes:
    """What came up to the end of a line, or up to whatever ended it: `most` bytes, the time, an asker who hung up."""
    line = bytearray()
    with contextlib.suppress(OSError):
        while not line.endswith(b"\n") and len(line) < most:
            connection.settimeout(max(0.001, until - time.monotonic()))
            if not (piece := connection.recv(1 << 16)):
                break
            line += piece
            if time.monotonic() >= until:
                break
    return bytes(line)


def _peer(connection: socket.socket) -> str:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return user_name(uid)


def user_name(uid: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
