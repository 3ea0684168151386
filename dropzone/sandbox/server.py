"""The sandbox's side of the wire: sockets, threads, answers, and how each fault is done to a connection.

It alone knows HTTP. The rules of the API are in `rules`, what happened before is in `memory`. One thread per
connection; reading is bounded by `PIECE` whatever the body. An import is settled in `memory`, and the hooks are
told, before the first byte of its answer leaves: whoever has an answer finds all that led to it.
"""

from __future__ import annotations

import hmac
import http.client
import json
import re
import selectors
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias, assert_never

from dropzone.sandbox.faults import Fault
from dropzone.sandbox.memory import Import, Memory, Other, Verdict
from dropzone.sandbox.rules import STATIC, Form, Rows, import_problem, mode_of, segment_problem

PIECE = 256 << 10
SMALL_BODY = 1 << 20  # of anything that is no import

_Request: TypeAlias = Any  # a socket here; socketserver serves packets, too

_CREATE_PATH = "/api/3.2/messages/segments"
_IMPORT_PATH = re.compile(rf"{_CREATE_PATH}/([0-9]{{1,15}})/import")
_SEGMENT_PATH = re.compile(r"/sandbox/segments/([0-9]{1,15})")
_NO_KEY = "no key, or one that does not exist"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What is sent. `length` is declared in place of the body's own where they are to differ."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    length: int | None = None
    close: bool = False

    def encoded(self, *, close: bool) -> bytes:
        """The bytes on the wire, in one piece: a second small packet would wait for the first one's receipt."""
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not any(name.lower() == "content-length" for name, _ in self.headers):
            lines.append(f"Content-Length: {len(self.body) if self.length is None else self.length}")
        if close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


def _json(status: int, document: object) -> _Answer:
    return _Answer(
        status=status, headers=(("Content-Type", "application/json"),), body=json.dumps(document).encode("ascii")
    )


def _redirect(location: str) -> _Answer:
    """How OptiPub says no: a bare redirect, no JSON."""
    return _Answer(status=302, headers=(("Location", location), ("Content-Type", "text/html; charset=UTF-8")))


_LOGIN = _redirect("/login")
_IMPORT_CREATED = _json(201, {"error": False, "data": [], "message": "Import created."})


def _faulty(fault: Fault, normal: _Answer) -> _Answer | None:
    """What `fault` makes of the answer to a request that was read whole; None where there is none."""
    match fault.kind:
        case "status" | "early":
            return _Answer(
                status=fault.status, headers=fault.headers, body=fault.body.encode(), close=fault.kind == "early"
            )
        case "login_redirect":
            return _LOGIN
        case "bad_json":
            body = fault.body.encode() or b"<!doctype html><title>Welcome</title>"
            return _Answer(status=201, headers=_IMPORT_CREATED.headers, body=body)
        case "cut_body":
            return _resized(normal, 100)
        case "wrong_length":
            return _resized(normal, -5)
        case "slow":
            return normal
        case "drop_before" | "drop_during" | "drop_after" | "lost_answer":
            return None
        case _:
            assert_never(fault.kind)


def _resized(normal: _Answer, more: int) -> _Answer:
    success = normal if normal.status == 201 else _IMPORT_CREATED  # a redirect has no body to cut
    return replace(success, length=len(success.body) + more, close=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What became of an import, and what its client is told; None: nothing."""

    verdict: Verdict
    reason: str
    applied: bool
    answer: _Answer | None


class Server(ThreadingHTTPServer):
    """Accepts connections on its own thread and can end all of them at once."""

    daemon_threads = True
    request_queue_size = 1024  # a burst of clients must not meet a full backlog: its retries take seconds

    def __init__(
        self,
        address: tuple[str, int],
        memory: Memory,
        keys: Iterable[str],
        *,
        tls: ssl.SSLContext | None,
        plain_columns: bool,
        on_import: Callable[[Import], None] | None,
        on_other: Callable[[Other], None] | None,
    ) -> None:
        super().__init__(address, Conversation)
        self.memory = memory
        self.plain_columns = plain_columns
        self.on_import = on_import
        self.on_other = on_other
        self.closing = threading.Event()
        self._bearers = [f"Bearer {key}".encode() for key in keys]
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._bell, self._rope = socket.socketpair()
        self._accepting = threading.Thread(target=self._accept, name="sandbox", daemon=True)
        self._accepting.start()

    def server_bind(self) -> None:
        """Bind without asking who we are: `HTTPServer` looks its own name up, which can take seconds offline."""
        socketserver.TCPServer.server_bind(self)

    def knows(self, authorization: str | None) -> bool:
        """Whether the header holds one of the keys."""
        given = (authorization or "").encode("latin-1")
        return any(hmac.compare_digest(given, bearer) for bearer in self._bearers)

    def _accept(self) -> None:
        # Not serve_forever: it looks for its end every half second, and each test would pay for that.
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while not any(key.fileobj is self._bell for key, _ in selector.select()):
                self.handle_request()

    def close(self) -> None:
        """End every connection where it stands, and return when all threads have ended."""
        self.closing.set()
        self._rope.sendall(b"!")
        self._accepting.join()
        self.server_close()
        self._bell.close()
        self._rope.close()
        with self._lock:  # nothing is added any more: only the thread that has just ended did
            threads = list(self._open)
            for connection in self._open.values():
                _hang_up(connection)
        for thread in threads:
            thread.join()

    # ------------------------------------------------------------------- overridden, as socketserver asks for it

    def process_request(self, request: _Request, client_address: object) -> None:
        """Serve a new connection on a thread of its own that `close` can find."""
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        with self._lock:
            self._open[thread] = request
        thread.start()

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._open[threading.current_thread()]

    def finish_request(self, request: _Request, client_address: object) -> None:
        """Speak TLS first where it is wanted: on the connection's own thread, as a client may never answer."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            with self._lock:
                self._open[threading.current_thread()] = secured
            # If `close` came between the wrapping and the line above, it hung up on a socket that is none any more.
            if not self.closing.is_set():
                secured.do_handshake()
                super().finish_request(secured, client_address)

    def shutdown_request(self, request: _Request) -> None:
        """Close, without the orderly end that would go before a reset and hide it."""
        self.close_request(request)

    def handle_error(self, request: _Request, client_address: object) -> None:
        """Count a client that broke off; keep and print everything else, which is a fault of the sandbox."""
        error = sys.exception()
        if isinstance(error, OSError):  # resets, broken pipes, failed handshakes
            self.memory.note_disconnect()
        elif error is not None:
            self.memory.note_error(error)
            traceback.print_exception(error)


def _hang_up(connection: socket.socket) -> None:
    try:
        # Not the SSL socket's own method: it drops its state under the feet of the thread that reads from it.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        return  # the other side was faster


class Conversation(BaseHTTPRequestHandler):
    """One connection: its requests, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 64 << 10  # the head and a small body come in one read; large bodies pass the buffer by
    server: Server

    def do_GET(self) -> None:
        """Look at the sandbox."""
        self._route()

    def do_POST(self) -> None:
        """Use the API, or ask for faults."""
        self._route()

    def do_DELETE(self) -> None:
        """Clear faults or state."""
        self._route()

    def log_error(self, format: str, *args: Any) -> None:  # noqa: A002 -- http.server's name for it
        """Remember what `http.server` could make no sense of and has answered by itself."""
        status = args[0] if args and isinstance(args[0], int) else None
        self._note(status, format % args)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Print nothing: whoever wants lines has the hooks."""

    def _route(self) -> None:
        at = time.time()
        path = self.path.partition("?")[0]
        if path.startswith("/sandbox/"):
            self._control(path)
        elif self.command == "POST" and path == _CREATE_PATH:
            self._create()
        elif self.command == "POST" and (found := _IMPORT_PATH.fullmatch(path)):
            self._import(int(found[1]), at)
        else:
            self._reject(404, "the API has no such call")

    # --------------------------------------------------------------------------------------------- importing a CSV

    def _import(self, segment: int, at: float) -> None:
        length = self._length()
        if length is None:
            return
        fault = self.server.memory.arrive("import", segment)
        kind = self.server.memory.kind_of(segment)
        form = Form(self.headers.get("Content-Type", ""), Rows(kind or STATIC, plain_columns=self.server.plain_columns))
        end = fault.reads(length) if fault else length
        received = self._receive(end, form.feed, fault)
        form.finish()
        if received < end:
            reason = f"the body ended after {received} of {length} bytes"
            outcome = _Outcome(verdict="incomplete", reason=reason, applied=False, answer=None)
        else:
            outcome = self._outcome(segment, kind, form, fault)
        arrived = Import(
            number=0,  # `settle` gives it one
            at=at,
            read_at=time.time(),
            segment=segment,
            kind=kind or STATIC,
            mode=mode_of(form.fields, kind or STATIC),
            headers=self._headers_but_key(),
            parts=tuple(form.parts),
            fields=tuple(form.fields),
            filename=form.filename,
            content_type=form.content_type,
            columns=form.rows.columns,
            rows=form.rows.count,
            first=tuple(form.rows.first),
            sha256=form.rows.sha256,
            file_bytes=form.rows.size,
            bytes=received,
            verdict=outcome.verdict,
            reason=outcome.reason,
            applied=outcome.applied,
            status=outcome.answer.status if outcome.answer else None,
            fault=fault.kind if fault else "",
        )
        arrived = self.server.memory.settle(arrived, form.rows.addresses)
        if self.server.on_import:
            self.server.on_import(arrived)
        self._finish(outcome.answer, fault)

    def _outcome(self, segment: int, kind: str | None, form: Form, fault: Fault | None) -> _Outcome:
        """The outcome of an import that was read as far as `fault` lets it be."""
        location = f"/segments/{segment}/import"
        if not self._has_key():
            location, reason = "/login", _NO_KEY
        elif kind is None:
            location, reason = "/segments", "there is no such segment"
        else:
            reason = import_problem(form, kind)
        normal = _redirect(location) if reason else _IMPORT_CREATED
        if fault is None or fault.kind == "slow":
            applied = not reason and (fault is None or fault.applies)
            return _Outcome(verdict="refused" if reason else "accepted", reason=reason, applied=applied, answer=normal)
        return _Outcome(
            verdict="fault",
            reason="" if fault.cuts_short else reason,
            applied=not reason and fault.applies,
            answer=_faulty(fault, normal),
        )

    def _headers_but_key(self) -> tuple[tuple[str, str], ...]:
        return tuple(
            (name, "(hidden)" if name.lower() in ("authorization", "proxy-authorization") else str(value))
            for name, value in self.headers.items()
        )

    # ----------------------------------------------------------------------------------------------------- segments

    def _create(self) -> None:
        length = self._length(most=SMALL_BODY)
        if length is None:
            return
        fault = self.server.memory.arrive("create")
        body = bytearray()
        end = fault.reads(length) if fault else length
        if self._receive(end, body.extend, fault) < end:
            self._note(None, f"the body ended after {len(body)} of {length} bytes")
            self._finish(None, None)
            return
        reason, answer = self._created(bytes(body), applied=fault is None or fault.applies)
        given = _faulty(fault, answer) if fault else answer
        self._note(given.status if given else None, reason, fault=fault.kind if fault else "")
        self._finish(given, fault)

    def _created(self, body: bytes, *, applied: bool) -> tuple[str, _Answer]:
        """Why there is no new segment, or an empty reason, and the answer."""
        if not self._has_key():
            return _NO_KEY, _LOGIN
        document, reason = self._document(body)
        reason = reason or segment_problem(document)
        if reason:
            return reason, _redirect("/segments/create")
        number = self.server.memory.create(document) if applied else 0
        described = {"id": number, "name": document["name"], "description": document["description"]}
        return "", _json(201, {"error": False, "data": described, "message": "Created segment."})

    def _document(self, body: bytes) -> tuple[Any, str]:
        if self.headers.get_content_type() != "application/json":
            return None, "the body is not declared application/json"
        try:
            return json.loads(body), ""
        except ValueError:
            return None, "the body is no JSON"

    # ------------------------------------------------------------------------------------------------- the controls

    def _control(self, path: str) -> None:
        memory = self.server.memory
        match self.command, path:
            case "GET", "/sandbox/state":
                self._send(_json(200, memory.state()))
            case "DELETE", "/sandbox/state":
                memory.reset()
                self._send(_json(200, {"error": False}))
            case "DELETE", "/sandbox/faults":
                memory.clear_faults()
                self._send(_json(200, {"error": False}))
            case "POST", "/sandbox/faults":
                self._add_faults()
            case "GET", _ if found := _SEGMENT_PATH.fullmatch(path):
                segment = memory.segment(int(found[1]))
                self._send(_json(200, segment) if segment else _complaint(404, "there is no such segment"))
            case _:
                self._send(_complaint(404, "the sandbox has no such control"))

    def _add_faults(self) -> None:
        length = self._length(most=SMALL_BODY)
        if length is None:
            return
        body = bytearray()
        self._receive(length, body.extend, None)
        try:
            asked = json.loads(body)
            faults = [Fault.read(each) for each in (asked if isinstance(asked, list) else [asked])]
        except ValueError as error:
            self._send(_complaint(400, str(error)))
        else:
            self.server.memory.add_faults(faults)
            self._send(_json(201, {"error": False, "added": len(faults)}))

    # ----------------------------------------------------------------------------------------------------- the wire

    def _has_key(self) -> bool:
        return self.server.knows(self.headers.get("Authorization"))

    def _length(self, most: int | None = None) -> int | None:
        """The declared length of the body; None where there is none to go by, and that has been answered."""
        given = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or not given:
            self._reject(411, "the body has no declared length")
        elif len(given) > 1 or not re.fullmatch("[0-9]{1,15}", given[0], re.ASCII):
            self._reject(400, "the declared length is no number")
        elif most is not None and int(given[0]) > most:
            self._reject(413, f"the body is longer than {most} bytes")
        else:
            return int(given[0])
        return None

    def _receive(self, end: int, take: Callable[[bytes], object], fault: Fault | None) -> int:
        """Hand `end` bytes of the body to `take`; how many came: fewer where the client left."""
        pause = fault.stall_after if fault else None
        if pause is not None:
            # Left alone, the kernel takes megabytes for us during the pause, and no client notices it.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        received = 0
        while received < end:
            if fault and pause is not None and received >= pause:
                pause = None
                if self.server.closing.wait(fault.seconds):
                    break
            stop = end if pause is None else min(end, pause)
            piece = self._piece(min(stop - received, PIECE))
            if not piece:
                break
            received += len(piece)
            take(piece)
        return received

    def _piece(self, most: int) -> bytes:
        try:
            return self.rfile.read1(most)
        except OSError:  # a reset is an end like any other: what came so far is what came
            self.server.memory.note_disconnect()
            return b""

    def _finish(self, answer: _Answer | None, fault: Fault | None) -> None:
        """Give the answer, late if `fault` says so; without one, end the connection as `fault` says."""
        late = fault is not None and fault.stall_after is None and fault.seconds > 0
        if fault and late and self.server.closing.wait(fault.seconds):
            answer = None
        if answer:
            self._send(answer)
            return
        self.close_connection = True
        if fault and fault.resets:
            # With a linger time of zero, closing discards what is under way and sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _send(self, answer: _Answer) -> None:
        self.close_connection = self.close_connection or answer.close
        try:
            self.connection.sendall(answer.encoded(close=self.close_connection))
        except OSError:
            self.server.memory.note_disconnect()
            self.close_connection = True

    def _reject(self, status: int, reason: str) -> None:
        """Answer a request that is none of the API's, and close: its body stays unread."""
        self.server.memory.arrive(None)
        self._note(status, reason)
        self._send(_Answer(status=status, close=True))

    def _note(self, status: int | None, reason: str, *, fault: str = "") -> None:
        other = Other(
            at=time.time(),
            method=self.command or "",
            path=getattr(self, "path", ""),  # http.server sets neither before it has read a line that makes sense
            status=status,
            reason=reason,
            fault=fault,
        )
        self.server.memory.note(other)
        if self.server.on_other:
            self.server.on_other(other)


def _complaint(status: int, message: str) -> _Answer:
    # Closing, because the body of a request that was not understood is still in the way of the next one.
    return replace(_json(status, {"error": True, "message": message}), close=True)
