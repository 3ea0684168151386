"""A server that takes every import and does nothing with it: how fast it was offered is all that it tells.

It answers at once and reads no CSV, so what is measured is who sends, not who receives. A process of its own, so that
it shares no interpreter lock with whoever measures. Times are of CLOCK_MONOTONIC, which is one for the whole machine.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

_CREATED = b'{"error": false, "data": [], "message": "Import created."}'


class Arrival(NamedTuple):
    """One request: when its first byte was there (nanoseconds of CLOCK_MONOTONIC), and the bytes of its body."""

    first_ns: int
    size: int


class _Line(asyncio.Protocol):
    """One connection: requests with a Content-Length, one after the other."""

    def __init__(self, arrivals: list[Arrival]) -> None:
        self._arrivals = arrivals
        self._head = bytearray()
        self._first_ns = 0
        self._size = 0
        self._missing = 0  # bytes of the body that have not come yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._first_ns = self._first_ns or time.monotonic_ns()
            self._head += data
            head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
            if not end:
                return
            self._head.clear()
            if head.startswith(b"GET"):
                self._first_ns = 0
                self._answer(b"200 OK", json.dumps(self._arrivals).encode())
                return
            headers = {
                name.lower(): value for name, _, value in (line.partition(b": ") for line in head.split(b"\r\n"))
            }
            self._size = int(headers[b"content-length"])
            self._missing = self._size - len(rest)
            if b"expect" in headers:  # an older curl waits a second for it with every file above 1 KB
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._missing <= 0:
            self._arrivals.append(Arrival(self._first_ns, self._size))
            self._first_ns = self._missing = 0
            self._answer(b"201 Created", _CREATED)

    def _answer(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        self._transport.write(head + body)


@dataclass(frozen=True, slots=True)
class Sink:
    """A running sink, at 127.0.0.1 and `port`."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arrivals(self) -> list[Arrival]:
        """All requests until now, in the order in which they were complete."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", "/")
            return [Arrival(*each) for each in json.loads(connection.getresponse().read())]


@contextmanager
def running() -> Iterator[Sink]:
    """A sink of one's own, gone at the end."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout
            yield Sink(int(child.stdout.readline()))
        finally:
            child.kill()


async def _serve() -> None:
    arrivals: list[Arrival] = []
    server = await asyncio.get_running_loop().create_server(lambda: _Line(arrivals), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve())
