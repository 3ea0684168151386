"""The control socket: one JSON line in, one JSON line out, and who asked.

Knows the wire and nothing of what is asked. Lies in the state folder, for its owner and group only; whoever may open it
may order, and each order carries the user that the kernel vouches for (SO_PEERCRED), not one that the asker names.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dropzone.errors import FolderError, OperatorError

NAME = "control.sock"
_LINE_LIMIT = 4 << 20  # bytes; ten thousand IDs fit many times
_REQUEST_S = 2.0  # one caller who says nothing must not keep the others waiting
_ANSWER_S = 30.0  # the loop answers between two steps, not in the middle of one

Obey = Callable[[dict[str, Any], str], dict[str, Any]]


@contextlib.contextmanager
def _address(state_dir: Path) -> Iterator[str]:
    # An address has room for 107 bytes only, a state folder's path may be longer: by its descriptor it never is.
    fd = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{NAME}"
    finally:
        os.close(fd)


class Control:
    """Listens in `state_dir` on a thread of its own; `obey` gets each request and the asker's name, and answers it."""

    def __init__(self, state_dir: Path, obey: Obey) -> None:
        self._obey = obey
        self._path = state_dir / NAME
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # Ours by the state lock, so what lies there was left by one that died.
            self._path.unlink(missing_ok=True)
            with _address(state_dir) as address:
                self._socket.bind(address)
            self._path.chmod(0o660)
            self._socket.listen(16)
        except OSError as error:
            self._socket.close()
            raise FolderError("listen on", str(self._path), error) from error
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; returns when no more is obeyed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with connection, contextlib.suppress(OSError):  # an asker who went away has nothing to be told
                connection.settimeout(_REQUEST_S)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            request = json.loads(_read_line(connection))
            answer = self._obey(request, _peer(connection))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            answer = {"error": "the request is not understood", "hint": "Is the command of the daemon's version?"}
        connection.sendall(json.dumps(answer).encode() + b"\n")


def ask(state_dir: Path, request: dict[str, Any], *, timeout_s: float = _ANSWER_S) -> dict[str, Any] | None:
    """The daemon's answer to `request`, or None where no daemon listens. Raises OperatorError where it gives none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            with _address(state_dir) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError as error:
            hint = "Order as root or as the daemon's own user"
            raise OperatorError(f"you may not use {state_dir / NAME}", hint) from error
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(connection))
        except (OSError, ValueError) as error:
            raise OperatorError(
                "the daemon did not answer", "See its journal; 'dropzone queue' shows what holds"
            ) from error
    if not isinstance(answer, dict):
        raise OperatorError("the daemon's answer is not understood", "Is the command of the daemon's version?")
    return answer


def _read_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < _LINE_LIMIT:
        piece = connection.recv(1 << 16)
        if not piece:
            break
        line += piece
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
