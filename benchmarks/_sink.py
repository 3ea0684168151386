"""A server that takes every import and does nothing with it: how fast it was offered is all that it tells.

It answers at once and reads no CSV, so what is measured is who sends, not who receives: one thread per connection, and
all bodies into the same large buffer. A process of its own, so that it shares no interpreter lock with whoever
measures. Times are of CLOCK_MONOTONIC, which is one for the whole machine.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_BUFFER = 4 << 20
_HEAD = 64 << 10  # the longest head, and what of the body comes with it
_CREATED = b'{"error": false, "data": [], "message": "Import created."}'


class Arrival(NamedTuple):
    """One request: when its first byte was there (nanoseconds of CLOCK_MONOTONIC), and the bytes of its body."""

    first_ns: int
    size: int


# ---------------------------------------------------------------------------------------------- the side that asks


@dataclass(frozen=True, slots=True)
class Sink:
    """A running sink, at 127.0.0.1 and `port`; with `tls` it speaks TLS there, and tells what came on another port."""

    port: int
    telling: int
    tls: bool

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def arrivals(self) -> list[Arrival]:
        """All requests until now, in the order in which they were complete."""
        return [Arrival(*each) for each in self._ask("/arrivals")]

    def count(self) -> int:
        """How many there were until now."""
        return int(self._ask("/count"))

    def _ask(self, path: str) -> Any:
        with closing(http.client.HTTPConnection("127.0.0.1", self.telling, timeout=10)) as connection:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())


@contextmanager
def running(tls: Path | None = None) -> Iterator[Sink]:
    """A sink of one's own, gone at the end; `tls` is a PEM file with its key and certificate."""
    command = [sys.executable, __file__, *([str(tls)] if tls else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout
            port, telling = map(int, child.stdout.readline().split())
            yield Sink(port, telling, tls is not None)
        finally:
            child.kill()


# ------------------------------------------------------------------------------------------------- the sink itself


def _converse(connection: socket.socket, tls: ssl.SSLContext | None, arrivals: list[Arrival]) -> None:
    """Requests with a Content-Length, one after the other, until the client leaves."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError), connection:
        if tls is None:
            _answer_all(connection, arrivals)
            return
        with tls.wrap_socket(connection, server_side=True) as secured:
            _answer_all(secured, arrivals)


def _answer_all(connection: socket.socket, arrivals: list[Arrival]) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    filled = 0
    while count := connection.recv_into(buffer[:_HEAD]):
        first_ns = time.monotonic_ns()
        filled = count
        while (end := bytes(buffer[:filled]).find(b"\r\n\r\n")) < 0:
            filled += connection.recv_into(buffer[filled:_HEAD])
        head = bytes(buffer[:end])
        if head.startswith(b"GET"):
            told = len(arrivals) if head.startswith(b"GET /count ") else arrivals
            _say(connection, b"200 OK", json.dumps(told).encode())
            continue
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n"))}
        size = int(headers[b"content-length"])
        if b"expect" in headers:  # an older curl waits a second for it with every file above 1 KB
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        missing = size - (filled - end - 4)
        while missing > 0:
            if not (count := connection.recv_into(buffer[: min(missing, _BUFFER)])):
                return
            missing -= count
        arrivals.append(Arrival(first_ns, size))
        _say(connection, b"201 Created", _CREATED)


def _say(connection: socket.socket, status: bytes, body: bytes) -> None:
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    connection.sendall(head + body)


def _listen(tls: ssl.SSLContext | None, arrivals: list[Arrival]) -> int:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_converse, args=(connection, tls, arrivals), daemon=True).start()

    threading.Thread(target=accept).start()
    return int(listener.getsockname()[1])


def _serve(pem: str | None) -> None:
    arrivals: list[Arrival] = []
    tls = None
    if pem:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(pem)
    port = _listen(tls, arrivals)
    print(port, _listen(None, arrivals) if tls else port, flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1] if len(sys.argv) > 1 else None)
