"""Whether OptiPub can be reached at all: name, connection, certificate. Not one byte of a request is sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from dropzone.config import Account
from dropzone.errors import DropzoneError, printable
from dropzone.optipub.client import in_words
from dropzone.optipub.tls import tls_context

_PORTS = {"http": 80, "https": 443}
_HEAD_LIMIT = 16 << 10  # bytes of a proxy's answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How it was reached: the address that answered, and by TLS its version and the days its certificate has left."""

    address: str
    seconds: float
    tls: str = ""
    certificate_days: int | None = None


def reach(account: Account, *, now: float) -> Reached:
    """Connect to the account's address, through its proxy if it has one, shake hands and hang up.

    Raises `DropzoneError`, in the words that a failed upload would have.
    """
    target = urlsplit(account.base_url)
    assert target.hostname is not None  # the configuration's own rule
    port = target.port or _PORTS[target.scheme]
    began = time.monotonic()
    try:
        with _connected(account, target.hostname, port) as line:
            address = str(line.getpeername()[0])
            if target.scheme != "https":
                return Reached(address=address, seconds=time.monotonic() - began)
            secured = _shake_hands(line, tls_context(account), target.hostname)
            certificate = secured.getpeercert() or {}
            ends_at = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            return Reached(
                address=address,
                seconds=time.monotonic() - began,
                tls=secured.version() or "",
                certificate_days=int((ends_at - now) // 86400),
            )
    except OSError as error:
        if isinstance(error, TimeoutError):
            within = f"{account.timeouts.connect:g} s"
            raise DropzoneError(f"no connection to {target.netloc} within {within}", _LOOK) from error
        broken = in_words(error, target.netloc, account.timeouts)
        raise DropzoneError(broken.what, broken.cure or _LOOK) from error


_LOOK = "Look at this machine's DNS, its routes and its firewall, and at the account's base_url"


def _shake_hands(line: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """The TLS of `host` at the other end of `line`, which may be TLS itself: no socket can be laid around that one."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            line.sendall(outgoing.read())
            if piece := line.recv(1 << 16):
                incoming.write(piece)
            else:
                incoming.write_eof()
        else:
            line.sendall(outgoing.read())
            return secured


@contextlib.contextmanager
def _connected(account: Account, host: str, port: int) -> Iterator[socket.socket]:
    if not account.proxy:
        with socket.create_connection((host, port), account.timeouts.connect) as line:
            yield line
        return
    proxy = urlsplit(account.proxy)
    assert proxy.hostname is not None
    place = (proxy.hostname, proxy.port or _PORTS[proxy.scheme])
    with socket.create_connection(place, account.timeouts.connect) as line:
        if proxy.scheme == "https":
            with tls_context(account).wrap_socket(line, server_hostname=proxy.hostname) as secured:
                _tunnel(secured, host, port, proxy.netloc)
                yield secured
        else:
            _tunnel(line, host, port, proxy.netloc)
            yield line


def _tunnel(line: socket.socket, host: str, port: int, proxy: str) -> None:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    line.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode("ascii"))
    head = bytearray()
    while b"\r\n\r\n" not in head and len(head) < _HEAD_LIMIT:
        piece = line.recv(4096)
        if not piece:
            break
        head += piece
    status, _, _ = head.partition(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        said = printable(bytes(status[:100])) or "nothing"
        raise DropzoneError(f"the proxy {proxy} does not connect to {where}: {said}", "Let it, or mend proxy:")
