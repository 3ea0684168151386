"""Every row of the table of answers, as a server by script and what an upload to it has to come to.

`CASES` is for whoever wants to see them all: `offered` starts the servers of one and says how an account reaches them.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import trustme
from wire import Peer, Script, Server, answer, reading_it_all, reading_the_head, saying

from dropzone.drop import Accepted, Deferred, Lost, Refused
from dropzone.optipub.answers import PROBE_S

NOW = 1_795_400_000.0  # by whatever clock the upload has: dates in answers are meant against it
CREATED = b'{"error": false, "data": [], "message": "Import created."}'
SMALL = b"email\njane@example.com\n"
# More than both ends of a connection hold; in few rows, so that it is soon checked.
LARGE = b"email,varr_note\n" + (b"jane@example.com," + b"x" * 8000 + b"\n") * (40 << 20 >> 13)
# Only where a timeout is what it is about: on a machine under load, half a second is soon over.
IMPATIENT = "timeouts: {connect: 500ms, write: 500ms, read: 500ms}"

Outcome = Accepted | Refused | Deferred | Lost
Tls = Callable[[trustme.CA, Path], ssl.SSLContext]

# ------------------------------------------------------------------------------------------------- certificates


def tls_for(authority: trustme.CA, name: str = "127.0.0.1", **dates: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **dates).configure_cert(context)
    return context


def trusting(authority: trustme.CA, at: Path) -> str:
    """The line of an account that trusts `authority`."""
    authority.cert_pem.write_to_path(str(at / "ca.pem"))
    return f"ca_file: {at}/ca.pem"


def _certified(name: str = "127.0.0.1", **dates: datetime) -> Tls:
    return lambda authority, _: tls_for(authority, name, **dates)


def _self_signed(_: trustme.CA, at: Path) -> ssl.SSLContext:
    """A certificate that is its own authority, as appliances make them for themselves."""
    stranger = trustme.CA()
    stranger.cert_pem.write_to_path(str(at / "self.pem"))
    stranger.private_key_pem.write_to_path(str(at / "self.pem"), append=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(at / "self.pem")
    return context


# -------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row: the server, and the event that an upload to it has to be.

    Without a `script` nobody listens. `due_s` is when a Deferred is due again, None for the delay of the folder's
    `retry:`; `effect` what it does to the account.
    """

    kind: type[Outcome]
    words: str = ""  # in the sentence that a person reads
    script: Script | None = None
    status: int | None = None
    due_s: float | None = None
    effect: str = "none"
    large: bool = False  # the file is larger than what can be under way
    impatient: bool = False  # the account's timeouts are short
    tls: Tls | None = None
    trusted: bool = True  # the account names the authority in its `ca_file`
    url: str = "http{s}://127.0.0.1:{port}"
    proxy: bool = False  # the script is that of a proxy

    @property
    def content(self) -> bytes:
        return LARGE if self.large else SMALL

    @property
    def counted(self) -> bool:
        """Whether it is an attempt that counts."""
        return self.kind is not Deferred


@contextlib.contextmanager
def offered(case: Case, authority: trustme.CA, at: Path) -> Iterator[tuple[str, list[str], Server | None]]:
    """The base address, lines for the account, and the server, which runs meanwhile."""
    lines = [IMPATIENT] if case.impatient else []
    if case.trusted:
        lines.append(trusting(authority, at))
    if case.script is None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        yield case.url.format(s="", port=port), lines, None
        return
    with Server(case.script, case.tls(authority, at) if case.tls else None) as server:
        if case.proxy:
            yield "https://publisher.example.com", [*lines, f"proxy: {server.url}"], server
        else:
            yield case.url.format(s="s" if case.tls else "", port=server.port), lines, server


# -------------------------------------------------------------------------------------------- whole answers

_DATE = format_datetime(datetime.fromtimestamp(NOW + 120, UTC), usegmt=True)
_ZONELESS = _DATE.replace("GMT", "-0000")
_PAST = format_datetime(datetime.fromtimestamp(NOW - 120, UTC), usegmt=True)
_FAR = format_datetime(datetime.fromtimestamp(NOW + 90_000, UTC), usegmt=True)
_HERE = "Location: /segments/100789/import"

# What is said once the request was read whole, in the order of the table; the name begins with the status. Then the
# type of the event, words of its sentence, and for Deferred: seconds until due (None: as in `retry:`), effect
_Row = tuple[bytes, type[Outcome], str, float | None, str]
_WHOLE: dict[str, _Row] = {
    "201": (answer(201, CREATED), Accepted, "Import created.", None, ""),
    "201 error": (answer(201, b'{"error": true, "message": "No."}'), Refused, "answered 201 with an error", None, ""),
    "201 empty": (answer(201), Lost, "not in the way that it announces an import", None, "none"),
    "201 page": (answer(201, b"<html>Welcome</html>"), Lost, "It said: Welcome", None, "none"),
    "201 list": (answer(201, b"[false]"), Lost, "not in the way", None, "none"),
    "201 zero": (answer(201, b'{"error": 0}'), Lost, "not in the way", None, "none"),
    "201 nested": (answer(201, b"[" * 60_000), Lost, "not in the way", None, "none"),
    "200": (answer(200, CREATED), Lost, "which is not its 'Import created' (201)", None, "none"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", Lost, "OptiPub answered 204", None, "none"),
    "302": (answer(302, b"", _HERE), Refused, "answered 302 to /segments/100789/import: it refused", None, ""),
    "302 bare": (answer(302), Refused, "Its answers give no reason", None, ""),
    "302 odd": (answer(302, b"", "Location: http://[x/\x7f?token=1"), Refused, "it refused the import", None, ""),
    "302 login": (answer(302, b"", "Location: /login?next=%2F"), Deferred, "to /login, its", PROBE_S, "pause"),
    "302 other": (answer(302, b"", "Location: https://sso.example.com/"), Deferred, "login page", PROBE_S, "pause"),
    "301": (answer(301, b"", "Location: https://new.example.com/"), Deferred, "base_url", PROBE_S, "pause"),
    "303": (answer(303, b"", _HERE), Deferred, "base_url of account main is not", PROBE_S, "pause"),
    "307": (answer(307, b"", _HERE), Deferred, "base_url of account main is not", PROBE_S, "pause"),
    "308": (answer(308, b"", _HERE), Deferred, "base_url of account main is not", PROBE_S, "pause"),
    "401": (answer(401, b'{"message": "Unauthenticated."}'), Deferred, "dropzone). It said: Unauth", PROBE_S, "pause"),
    "403": (answer(403), Deferred, "Give its user the right", PROBE_S, "pause"),
    "407": (answer(407), Deferred, "a proxy wants a name", PROBE_S, "pause"),
    "400": (answer(400), Refused, "answered 400: it refused the import into segment 100789", None, ""),
    "404": (answer(404), Refused, "There is no such segment", None, ""),
    "405": (answer(405), Refused, "hardly OptiPub's address", None, ""),
    "409": (answer(409), Refused, "it refused", None, ""),
    "410": (answer(410), Refused, "The segment is gone", None, ""),
    "413": (answer(413), Refused, "too large", None, ""),
    "415": (answer(415), Refused, "it refused", None, ""),
    "418": (answer(418), Refused, "it refused", None, ""),
    "422": (answer(422), Refused, "it refused", None, ""),
    "408": (answer(408), Deferred, "waited for the file", None, "none"),
    "425": (answer(425), Deferred, "waited for the file", None, "none"),
    "429": (answer(429), Deferred, "answered 429: it is busy", None, "wait"),
    "429 seconds": (answer(429, b"", "Retry-After: 120"), Deferred, "(Retry-After: 120)", 120.0, "wait"),
    "503": (answer(503, b"<h1>Back soon</h1>"), Deferred, "It said: Back soon", None, "wait"),
    "503 date": (answer(503, b"", f"Retry-After: {_DATE}"), Deferred, "busy", 120.0, "wait"),
    "503 no zone": (answer(503, b"", f"Retry-After: {_ZONELESS}"), Deferred, "busy", 120.0, "wait"),
    "503 past": (answer(503, b"", f"Retry-After: {_PAST}"), Deferred, "busy", 1.0, "wait"),
    "503 far": (answer(503, b"", f"Retry-After: {_FAR}"), Deferred, "busy", 3600.0, "wait"),
    "503 zero": (answer(503, b"", "Retry-After: 0"), Deferred, "busy", 1.0, "wait"),
    "503 ages": (answer(503, b"", "Retry-After: " + "9" * 5000), Deferred, "busy", 3600.0, "wait"),
    "503 minus": (answer(503, b"", "Retry-After: -5"), Deferred, "busy", None, "wait"),
    "503 nonsense": (answer(503, b"", "Retry-After: soon"), Deferred, "busy", None, "wait"),
    "503 no digit": (answer(503, b"", "Retry-After: \xb2"), Deferred, "busy", None, "wait"),
    "500": (answer(500), Lost, "answered 500, which tells of a fault", None, "breaker"),
    "502": (answer(502), Lost, "Look in OptiPub for an import of acme.", None, "breaker"),
    "504": (answer(504), Lost, "it may have taken the file", None, "breaker"),
    "501": (answer(501), Lost, "which tells of a fault", None, "breaker"),
    "300": (answer(300), Lost, "which tells of a fault", None, "none"),
    "999": (answer(999), Lost, "which tells of a fault", None, "breaker"),
}  # fmt: skip


def _whole(name: str, text: bytes, kind: type[Outcome], words: str, due_s: float | None, effect: str) -> Case:
    status = int(name.split(maxsplit=1)[0])
    return Case(kind=kind, script=saying(text), words=words, status=status, due_s=due_s, effect=effect or "none")


# ---------------------------------------------------------------------------------------- broken on the way


def _broken(text: bytes) -> Case:
    return Case(kind=Lost, script=saying(text), words="but the answer broke off", status=201)


_CREATED = b"HTTP/1.1 201 Created\r\n"
_CHUNKED = _CREATED + b"Transfer-Encoding: chunked\r\n\r\n"
_BROKEN = {
    "201 that is short": _broken(_CREATED + b"Content-Length: 900\r\n\r\n" + CREATED),
    "201 with a cut chunk": _broken(_CHUNKED + b"5\r\n" + CREATED),
    "201 with a chunk that is none": _broken(_CHUNKED + b"zz\r\n" + CREATED),
    "201 that is too long": _broken(answer(201, CREATED + b" " * (64 << 10))),
    "201 cut without a length": Case(
        kind=Lost, script=saying(_CREATED + b"\r\n" + CREATED[:-1]), words="not in the way", status=201
    ),
    "201 before the file was there": Case(
        kind=Lost,
        script=reading_the_head(lambda peer: peer.say(answer(201, CREATED))),
        words="but had not had the whole file yet",
        status=201,
        large=True,
    ),
    "422 with a cut page": Case(
        kind=Refused, script=saying(b"HTTP/1.1 422 No\r\nContent-Length: 900\r\n\r\nNo such campaign"), status=422
    ),
    "reset in the body": Case(
        kind=Deferred,
        script=reading_the_head(Peer.reset),
        words="the file was not taken. It is offered again by itself",
        large=True,
        effect="breaker",
    ),
    "stalled in the body": Case(
        kind=Deferred,
        script=reading_the_head(Peer.hold),
        words="took nothing more for 0.5 s",
        large=True,
        impatient=True,
        effect="breaker",
    ),
    "reset after the body": Case(
        kind=Lost, script=reading_it_all(Peer.reset), words="after the whole file had left", effect="breaker"
    ),
    "closed after the body": Case(
        kind=Lost, script=saying(b""), words="closed the connection without an answer, after the", effect="breaker"
    ),
    "silent after the body": Case(
        kind=Lost,
        script=reading_it_all(Peer.hold),
        words="gave no whole answer within 0.5 s, after the whole file had left",
        impatient=True,
        effect="breaker",
    ),
}

# ------------------------------------------------------------------------------------------ never connected


def _unreached(words: str, **more: Any) -> Case:
    return Case(kind=Deferred, words=words, effect="breaker", **more)


# Both fail in this machine's resolver, without a question to any network: more than 255 characters, more than 63.
_UNKNOWN, _ODD = ".".join(["a" * 60] * 5), "a" * 64 + ".example"
_UNREACHED = {
    "nobody listens": _unreached("refuses connections: the file was not taken"),
    "no such name": _unreached(f"no address is known for {_UNKNOWN}", url=f"https://{_UNKNOWN}"),
    "no name at all": _unreached("was not taken", url=f"https://{_ODD}"),
    "no handshake": _unreached(
        "no connection to 127.0.0.1", url="https://127.0.0.1:{port}", script=Peer.hold, impatient=True
    ),
    "no TLS": _unreached(
        "TLS with 127.0.0.1", url="https://127.0.0.1:{port}", script=lambda peer: peer.say(answer(400))
    ),
    "proxy closes": _unreached(
        "was not taken", script=reading_the_head(lambda peer: peer.say(b"HTTP/1.1 200 Yes\r\n\r\n")), proxy=True
    ),
    "proxy cannot either": _unreached(
        "the proxy on the way to publisher.example.com (through its proxy) refuses (502",
        script=reading_the_head(lambda peer: peer.say(answer(502))),
        proxy=True,
    ),
}


def _paused(words: str, **more: Any) -> Case:
    return Case(kind=Deferred, words=words, due_s=PROBE_S, effect="pause", **more)


def _proxy_says(status: int, tls: Tls | None = None) -> Case:
    script = reading_the_head(lambda peer: peer.say(answer(status)))
    return _paused(f"(through its proxy) refuses ({status}", script=script, proxy=True, tls=tls)


def _certificate(words: str, tls: Tls, **more: Any) -> Case:
    return _paused(words, script=saying(answer(201, CREATED)), tls=tls, **more)


_YESTERDAY = datetime.now(UTC) - timedelta(days=1)
_UNVERIFIED = {
    "certificate expired": _certificate(
        "It has expired", _certified(not_after=_YESTERDAY, not_before=_YESTERDAY - timedelta(days=9))
    ),
    "certificate too early": _certificate(
        "It is not valid yet", _certified(not_before=datetime.now(UTC) + timedelta(days=9))
    ),
    "certificate of another address": _certificate("It is for another address", _certified("publisher.example.com")),
    "certificate of another name": _certificate(
        "It is for another host name", _certified("publisher.example.com"), url="https://localhost:{port}"
    ),
    "certificate of its own": _certificate("It is signed by itself", _self_signed, trusted=False),
    "authority unknown": _certificate("Name its file in the account's ca_file", _certified(), trusted=False),
    "authority in ca_file": Case(
        kind=Accepted, words="Import created.", status=201, script=saying(answer(201, CREATED)), tls=_certified()
    ),
    "proxy wants a password": _proxy_says(407),
    "proxy forbids": _proxy_says(403),
    "proxy with TLS forbids": _proxy_says(403, _certified()),
}

CASES: dict[str, Case] = {name: _whole(name, *row) for name, row in _WHOLE.items()} | _BROKEN | _UNREACHED | _UNVERIFIED
