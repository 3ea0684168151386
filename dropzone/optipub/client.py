"""The connections: who is spoken to, how it is verified, what left, and in words what went wrong on the way."""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from dropzone import __version__
from dropzone.bare import without
from dropzone.config import Account, Folder, Timeouts
from dropzone.drop import Drop, delay
from dropzone.errors import ENVIRONMENT_ERRNOS, DropzoneError, FolderError, printable
from dropzone.optipub.answers import Answer, Break, Offer, Outcome, read_answer
from dropzone.optipub.form import Body, build_form
from dropzone.optipub.tls import tls_context

with without("pygments"):  # the first thing that its own command line asks for
    # The maintained successor has the same interface: to change over, this line becomes `import httpx2 as httpx`.
    import httpx

# A connection is used again only while it is provably fresh. A server that closes an idle one does so after 5 s or
# more; had we written a small file into it just then, the kernel would have taken it all, the request would count as
# sent, and the reset that follows would make a harmless race look like a lost answer.
KEEP_S = 2.0
ANSWER_LIMIT = 64 * 1024  # bytes; OptiPub's own answers have under a hundred

# What is handed to the socket at once; each was the fastest for its scheme (measured beside curl). On TLS the write
# timeout covers a whole piece, because OpenSSL hands it over as one: 4 MiB would call any line below 70 kB/s stalled.
# And progress is told after each: a line of 2 Mbit/s brings one of 256 KiB each second.
PIECE = {"http": 1 << 20, "https": 256 << 10}

# --------------------------------------------------------------------------------------------------- connections

# All that httpx lets out while it works: its own, and what slips through it from below (a host name that cannot be
# encoded is a UnicodeError, an assertion of the pool is one still). What they mean is decided by what had left.
FAULTS = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError, AssertionError)

# X509_V_ERR_… of OpenSSL, as SSLCertVerificationError.verify_code has them.
_CERTIFICATES = {
    9: "is not valid yet. Look at this machine's clock",
    10: "has expired. Whoever runs that server has to renew it",
    18: "is signed by itself. If that is meant, name its file in the account's ca_file",
    19: "comes from an authority that this machine does not know. Name its file in the account's ca_file",
    20: "comes from an authority that this machine does not know. Name its file in the account's ca_file",
    62: "is for another host name. Check the account's base_url",
    64: "is for another address. Check the account's base_url",
}


class _Line:
    """One connection at most, used by one upload at a time.

    A transport and not a `Client`: a client parses the Location of a redirect even where it does not follow it (and
    raises on odd ones, so that a plain refusal would look like a lost answer), keeps cookies and reads .netrc. One
    connection per transport, because only so it is known which socket an upload is on before its answer begins.
    """

    def __init__(self, account: Account, tls: ssl.SSLContext) -> None:
        self.socket: socket.socket | None = None
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_S)
        proxy = None
        if account.proxy:
            secure = account.proxy.startswith("https:")
            proxy = httpx.Proxy(account.proxy, ssl_context=tls if secure else None)
        self.transport = httpx.HTTPTransport(verify=tls, trust_env=False, limits=limits, proxy=proxy)

    def cut(self) -> None:
        """End the connection under whoever waits on it."""
        # The plain socket's method: that of SSLSocket takes the TLS layer away under the thread that is reading.
        if self.socket is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


class _Limit:
    """When one answer has to have ended; then its line is cut.

    httpx limits each read and not their sum: a byte a minute, or "100 Continue" for ever, would hold a lane for ever.
    """

    def __init__(self, line: _Line, limits: _Limits) -> None:
        self.overdue = False
        self._line = line
        self._limits = limits

    def start(self) -> None:
        self._limits.add(self)

    def stop(self) -> None:
        self._limits.remove(self)

    def cut(self) -> None:
        self.overdue = True
        self._line.cut()


class _Limits:
    """Watches over the limits of one account, all of `seconds`.

    In one thread that nobody has to wake: what is added later ends later, and it looks again no later than that. A
    timer for each upload took a fifth of a small file's time (measured).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changed = threading.Condition()
        self._ends: dict[_Limit, float] = {}  # monotonic, in the order of the starts and so of the ends
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, limit: _Limit) -> None:
        with self._changed:
            self._ends.pop(limit, None)
            self._ends[limit] = time.monotonic() + self._seconds
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="limits", daemon=True)
                # Too many threads: each single read is limited still, and the file has left already.
                with contextlib.suppress(RuntimeError):
                    thread.start()
                    self._thread = thread

    def remove(self, limit: _Limit) -> None:
        with self._changed:
            self._ends.pop(limit, None)
            if self._closed:
                self._changed.notify()

    def cut_overdue(self, now: float) -> float:
        """Cut the lines whose time is over at `now`; returns the seconds until another one's may be."""
        # Under the lock, and only while it counts: a line given back may carry another upload by now.
        with self._changed:
            for limit in [limit for limit, end in self._ends.items() if end <= now]:
                del self._ends[limit]
                limit.cut()
            return next(iter(self._ends.values()), now + self._seconds) - now

    def close(self) -> None:
        """Watch no longer than the uploads under way need it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = None if self._ends else self._thread
        if thread is not None:
            thread.join(1.0)

    def _watch(self) -> None:
        with self._changed:
            while self._ends or not self._closed:
                self._changed.wait(self.cut_overdue(time.monotonic()))
            self._thread = None


class OptiPub:
    """An account's way to OptiPub. Thread-safe: several uploads may run at once, each on a line of its own.

    `now` tells the time in seconds since the epoch; due times are reckoned from it.
    """

    def __init__(self, account: Account, *, now: Callable[[], float]) -> None:
        self.account = account
        self.now = now
        self.limits = _Limits(account.timeouts.read)
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None
        self._idle: list[_Line] = []
        self._urls: dict[int, httpx.URL] = {}
        self._closed = False

    def build(self, drop: Drop, folder: Folder, payload: BinaryIO, size: int) -> Upload:
        """Get ready to import `size` bytes, from where `payload` stands to its end, into the folder's segment.

        Reads the key, makes TLS context, connection pool and request; connects to nothing. Raises `DropzoneError`
        where one of them cannot be made.
        """
        key = self.account.api_key.read()
        self.give_back(self.take_line())
        return Upload(self, drop, folder, payload, size, key)

    def url_of(self, segment_id: int) -> httpx.URL:
        """Where a segment takes imports; read once, for to take an address apart is a tenth of a request's making."""
        if segment_id not in self._urls:
            self._urls[segment_id] = httpx.URL(f"{self.account.base_url}/api/3.2/messages/segments/{segment_id}/import")
        return self._urls[segment_id]

    def take_line(self) -> _Line:
        """The line used last, whose connection is the freshest, or a new one."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
            if self._tls is None:
                self._tls = tls_context(self.account)
        try:
            return _Line(self.account, self._tls)
        except (ImportError, ValueError, httpx.InvalidURL):
            # Not a word of it: the address may hold a password.
            message = f"the proxy of account {self.account.name} cannot be used"
            raise DropzoneError(message, "Write it as http://HOST:PORT") from None

    def give_back(self, line: _Line) -> None:
        """Keep `line` for the next upload."""
        with self._lock:
            if not self._closed:
                self._idle.append(line)
                return
        line.transport.close()

    def close(self) -> None:
        """Close what is idle now, and each line under way when it is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.transport.close()
        self.limits.close()


# ------------------------------------------------------------------------------------------------------ upload


class Upload:
    """One import request, ready to be sent, once."""

    _line: _Line
    _limit: _Limit

    def __init__(self, optipub: OptiPub, drop: Drop, folder: Folder, payload: BinaryIO, size: int, key: str) -> None:
        self._optipub = optipub
        self._account = optipub.account
        self._drop = drop
        self._folder = folder
        self._key = key
        self._filename = f"{folder.name}.{drop.id}.csv"
        boundary = f"dropzone-{secrets.token_hex(16)}"  # 128 bits of chance: no file holds it
        piece = PIECE["https" if self._account.base_url.startswith("https:") else "http"]
        name = f"the prepared copy of {drop.id}"
        self._body = Body(build_form(folder, self._filename, boundary), payload, size, name, piece)
        self._request = self._build_request(boundary)

    def _build_request(self, boundary: str) -> httpx.Request:
        content_type = f"multipart/form-data; boundary={boundary}"
        try:
            url = self._optipub.url_of(self._folder.segment_id)
            request = build_request(self._account, self._key, url, self._body, self._body.length, content_type)
        except (httpx.InvalidURL, ValueError) as error:
            message = f"the base_url of account {self._account.name} is no address: {printable(str(error))}"
            raise DropzoneError(message, "Write it as https://HOST") from error
        request.extensions["trace"] = self._trace
        return request

    def send(self, *, progress: Callable[[int], None] | None = None) -> Outcome:
        """Offer it once and say what came of it; nothing that network or server do raises.

        `progress` is told how many bytes of the file have left so far, after each piece; it must not raise. Raises
        `FolderError` when this machine is at fault, and then the request was not completed: the payload cannot be
        read, has not the announced size, or there are no file descriptors left for a connection.
        """
        self._body.progress = progress
        line = self._optipub.take_line()
        self._line, self._limit = line, _Limit(line, self._optipub.limits)
        fresh = False
        try:
            signal = self._exchange()
            fresh = isinstance(signal, Answer) and signal.whole
        finally:
            self._limit.stop()
            if fresh:
                self._optipub.give_back(line)
            else:
                line.transport.close()
        return read_answer(signal, self._offer())

    def _offer(self) -> Offer:
        retry = self._folder.retry
        return Offer(
            account=self._account.name,
            base_url=self._account.base_url,
            segment_id=self._folder.segment_id,
            filename=self._filename,
            size=self._body.size,
            sent=self._body.sent,
            whole=self._body.whole,
            at=self._optipub.now(),
            wait_s=delay(self._drop.deferrals + 1, initial_s=retry.initial, max_s=retry.max),
            key=self._key,
        )

    def _exchange(self) -> Answer | Break:
        try:
            response = self._line.transport.handle_request(self._request)
        except FAULTS as fault:
            return self._broken(fault)
        found = read_response(response)
        # An answer without a length ends by the cut, as if it were whole.
        return replace(found, whole=False) if self._limit.overdue else found

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        # For the time limit only. Its `send_request_body.complete` would tell as well that everything left, but it
        # comes for a proxy's CONNECT too, and under another name nothing would ever count as sent: `Body` knows.
        match event.partition(".")[2]:
            case "connect_tcp.complete" | "start_tls.complete":
                self._line.socket = info["return_value"].get_extra_info("socket")
            case "send_request_headers.started":
                self._limit.stop()
            case "receive_response_headers.started":
                self._limit.start()

    def _broken(self, fault: Exception) -> Break:
        timeouts, where = self._account.timeouts, urlsplit(self._account.base_url).netloc
        where += " (through its proxy)" if self._account.proxy else ""
        if self._limit.overdue:
            return _silence(where, timeouts.read)
        for cause in _chain(fault):
            if isinstance(cause, OSError) and cause.errno in ENVIRONMENT_ERRNOS and not self._body.whole:
                raise FolderError(
                    "connect to", where, cause, "Free some, or raise the limits of the service"
                ) from fault
        return in_words(fault, where, timeouts)


def build_request(
    account: Account, key: str, url: httpx.URL | str, body: Iterable[bytes], length: int, content_type: str
) -> httpx.Request:
    """A request to OptiPub with `body`, of `length` bytes, within the account's time limits.

    Raises httpx.InvalidURL and ValueError where `url` is no address.
    """
    headers = {
        "Authorization": f"Bearer {key}",
        "Accept": "application/json",  # the likely framework then gives reasons instead of a bare redirect
        "Accept-Encoding": "identity",  # nothing to unpack, so nothing that can unpack to a gigabyte
        "User-Agent": f"dropzone/{__version__}",
        "Content-Type": content_type,
        "Content-Length": str(length),
    }
    limits = account.timeouts
    seconds = {"connect": limits.connect, "write": limits.write, "read": limits.read, "pool": limits.connect}
    return httpx.Request("POST", url, headers=headers, content=body, extensions={"timeout": seconds})


def read_response(response: httpx.Response) -> Answer:
    """What comes back, as far as it can be read."""
    body, whole = bytearray(), False
    # Whatever breaks from here on, the status has been heard.
    with contextlib.suppress(*FAULTS), contextlib.closing(response):
        for piece in response.iter_raw():
            body += piece
            if len(body) > ANSWER_LIMIT:
                break
        else:
            whole = True
    return Answer(
        status=response.status_code,
        location=response.headers.get("location", ""),
        retry_after=response.headers.get("retry-after", ""),
        body=bytes(body[:ANSWER_LIMIT]),
        whole=whole,
    )


def _chain(fault: BaseException | None) -> Iterator[BaseException]:
    while fault is not None:
        yield fault
        # The pool re-raises `from None`, which hides the cause but leaves the context.
        fault = fault.__cause__ or fault.__context__


def in_words(fault: Exception, where: str, limits: Timeouts) -> Break:
    """What `fault`, met on the way to `where`, means, and what mends it; `limits` are those of the account."""
    for cause in _chain(fault):
        match cause:
            case ssl.SSLCertVerificationError(verify_code=code, verify_message=message):
                what = f"the certificate of {where} is not valid ({message})"
                cure = (
                    f"It {_CERTIFICATES[code]}" if code in _CERTIFICATES else "Whoever runs that server has to mend it"
                )
                return Break(what=what, cure=cure, account=True)
            case httpx.ProxyError():
                return _refused_by_proxy(str(cause), where)
            case httpx.ConnectTimeout():
                return Break(what=f"no connection to {where} within {limits.connect:g} s")
            case httpx.WriteTimeout():
                return Break(what=f"{where} took nothing more for {limits.write:g} s")
            case httpx.ReadTimeout():
                return _silence(where, limits.read)
            case httpx.RemoteProtocolError() if "disconnected" in str(cause):
                return Break(what=f"{where} closed the connection without an answer")
            case httpx.RemoteProtocolError():
                return Break(what=f"{where} did not answer in HTTP ({cause})")
            case socket.gaierror(strerror=why):
                cure = "Check the account's base_url and this machine's DNS; it is offered again by itself"
                return Break(what=f"no address is known for {where} ({why})", cure=cure)
            case ConnectionRefusedError():
                return Break(what=f"{where} refuses connections")
            case ssl.SSLError(reason=why):
                return Break(what=f"TLS with {where} failed ({why or cause})")
            case OSError(strerror=why):
                return Break(what=f"the connection to {where} broke ({why or cause})")
            case _:
                pass
    return Break(what=f"the connection to {where} failed ({type(fault).__name__}: {fault})")


def _refused_by_proxy(answer: str, where: str) -> Break:
    what = f"the proxy on the way to {where} refuses ({answer})"
    if answer[:3] in ("401", "403", "407"):
        return Break(what=what, cure="It has to let this machine through without a password", account=True)
    return Break(what=what)


def _silence(where: str, read_s: float) -> Break:
    # One sentence for both: a server that says nothing at all runs into the limit of a read and that of the answer.
    return Break(what=f"{where} gave no whole answer within {read_s:g} s")
