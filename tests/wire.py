"""Servers by script, over real sockets: each connection is answered, broken or held as a test wants it."""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Peer:
    """The server's end of one connection."""

    socket: socket.socket
    server: Server
    rest: bytes = b""

    def head(self) -> bytes:
        """The head of the next request, empty when there is none."""
        while b"\r\n\r\n" not in self.rest:
            if not (more := self.socket.recv(65536)):
                return b""
            self.rest += more
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        self.server.heads.append(head)
        return head

    def body(self, head: bytes) -> bytes:
        """The whole body that `head` announces."""
        found = re.search(rb"(?i)content-length: (\d+)", head)
        assert found
        body = bytearray(self.rest)
        try:
            while len(body) < int(found[1]) and (more := self.socket.recv(1 << 20)):
                body += more
        finally:
            self.rest = b""
            self.server.bodies.append(bytes(body))
        return bytes(body)

    def request(self) -> bool:
        """Read one request whole; False when there is none."""
        if head := self.head():
            self.body(head)
        return bool(head)

    def say(self, answer: bytes) -> None:
        self.socket.sendall(answer)

    def hold(self) -> None:
        """Stay silent until the test is over."""
        self.server.over.wait()

    def reset(self) -> None:
        """Break the connection off: what is under way is lost."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script = Callable[[Peer], None]


@dataclass(slots=True)
class Server:
    """Listens on loopback and runs `script` for each connection, in a thread of its own."""

    script: Script
    tls: ssl.SSLContext | None = None
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    ended: queue.Queue[None] = field(default_factory=queue.Queue)
    port: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)
    _peers: list[Peer] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for peer in list(self._peers):  # those that wait for another request on a connection that is kept
            with contextlib.suppress(OSError):
                socket.socket.shutdown(peer.socket, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # Or Nagle holds a short answer back behind TLS's session tickets, and an early close throws it away.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            # The client goes away in many tests, in the middle of a handshake too.
            with contextlib.suppress(OSError), connection:
                if not self.tls:
                    self._run(connection)
                    return
                with self.tls.wrap_socket(connection, server_side=True) as secured:
                    self._run(secured)
        finally:
            self.ended.put(None)

    def _run(self, connection: socket.socket) -> None:
        peer = Peer(connection, self)
        self._peers.append(peer)
        self.script(peer)


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    """One answer with a length."""
    lines = [f"HTTP/1.1 {status} Whatever", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answering(text: bytes) -> Script:
    """Read each request whole and answer it."""

    def script(peer: Peer) -> None:
        while peer.request():
            peer.say(text)

    return script


def reading_it_all(then: Script) -> Script:
    """Read one request whole, do `then`, close."""

    def script(peer: Peer) -> None:
        if peer.request():
            then(peer)

    return script


def reading_the_head(then: Script) -> Script:
    """Read the head of a request, do `then`, close."""

    def script(peer: Peer) -> None:
        if peer.head():
            then(peer)

    return script


def saying(text: bytes) -> Script:
    """Read one request whole, say `text` as it is, close."""
    return reading_it_all(lambda peer: peer.say(text))


def dripping(start: bytes, drop: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        peer.say(start)
        while not peer.server.over.wait(0.02):
            peer.say(drop)

    return script


def tunnel(peer: Peer) -> None:
    """A proxy: connects as asked, then passes everything on both ways."""
    host, _, port = peer.head().split()[1].decode().partition(":")
    with socket.create_connection((host, int(port))) as there:
        peer.say(b"HTTP/1.1 200 Connected\r\n\r\n")
        back = threading.Thread(target=pump, args=(there, peer.socket))
        back.start()
        pump(peer.socket, there)
        back.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
