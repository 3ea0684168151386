"""Creating a segment: what is asked for, checked before it is sent, and what each answer means.

Unlike an import this is done by a person, once; but it has the same trouble: when the answer is lost, nobody can know
whether the segment is there. So that is an outcome of its own here, and nothing is ever asked for twice by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dropzone.config import Account
from dropzone.errors import OperatorError
from dropzone.optipub.answers import NEW_KEY, Answer, Break, Offer, names_login, said
from dropzone.optipub.client import FAULTS, OptiPub, build_request, in_words, read_response

if TYPE_CHECKING:
    import httpx  # `client` knows how it is loaded

_NAME_LIMIT = 255  # characters; a column of that length is the usual one
_KINDS = ("none", "md5", "sha256", "sha512")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A segment to be: static, or with `suppression` (how its addresses are hashed) a suppression segment."""

    name: str
    publication_id: int
    description: str = ""
    suppression: str | None = None
    auto_responder_id: int | None = None
    redirect_url: str = ""

    def check(self) -> None:
        """Raise OperatorError where OptiPub's guide rules it out, before anything is sent."""
        if not self.name.strip():
            raise OperatorError("a segment needs a name", "Give --name, or create: {name: …}")
        texts = (self.name, self.description, self.redirect_url)
        if len(self.name) > _NAME_LIMIT or not all(map(str.isprintable, texts)):
            hint = f"A name of at most {_NAME_LIMIT} characters, each of them in one line"
            raise OperatorError("the name is too long, or it or another text has control characters", hint)
        if self.publication_id < 1 or (self.auto_responder_id is not None and self.auto_responder_id < 1):
            raise OperatorError("a publication and an auto responder are numbers from 1 on", "Look them up in OptiPub")
        if self.suppression is not None and self.suppression not in _KINDS:
            raise OperatorError(f"{self.suppression!r} is no hash type", f"One of {', '.join(_KINDS)}")
        if self.suppression is not None and self.auto_responder_id is not None:
            what = "a suppression segment adds nobody to a list, so it has no auto responder"
            raise OperatorError(what, "Leave auto_responder_id out")
        if self.redirect_url and urlsplit(self.redirect_url).scheme not in ("http", "https"):
            raise OperatorError("the redirect address is no http address", "Write it as https://…")

    def body(self) -> bytes:
        """The documented request; a segment's type is always static, for a dynamic one loses what is imported."""
        members: dict[str, object] = {
            "name": self.name,
            "description": self.description,
            "publication_id": self.publication_id,
            "type": "static",
            "is_suppression": self.suppression is not None,
            "suppression_type": self.suppression,
        }
        if self.auto_responder_id is not None:
            members["auto_responder_id"] = self.auto_responder_id
        if self.redirect_url:
            members["redirect_url"] = self.redirect_url
        return json.dumps(members).encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """It is there; `id` is what imports name."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCreated:
    """It is surely not there: why, and what to do; `later`: nothing but to try again."""

    why: str
    hint: str
    later: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """It may be there: somebody has to look."""

    why: str


Outcome = Created | NotCreated | Unclear


class _Sent:
    """The body, and whether the kernel has all of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.whole = False

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        self.whole = True  # asked for more: this much has left


def create_segment(account: Account, wanted: Wanted, *, now: float) -> Outcome:
    """Ask OptiPub once for the segment `wanted`. Raises DropzoneError where the request cannot even be made."""
    wanted.check()
    key = account.api_key.read()
    optipub = OptiPub(account, now=lambda: now)
    sent = _Sent(wanted.body())
    url = f"{account.base_url}/api/3.2/messages/segments"
    request = build_request(account, key, url, sent, len(sent.content), "application/json")
    line = optipub.take_line()
    try:
        signal = _exchange(line.transport, request, account)
    finally:
        line.transport.close()
        optipub.close()
    offer = Offer(
        account=account.name,
        base_url=account.base_url,
        segment_id=0,
        filename="",
        size=len(sent.content),
        sent=len(sent.content) if sent.whole else 0,
        whole=sent.whole,
        at=now,
        wait_s=0.0,
        key=key,
    )
    return read_created(signal, offer)


def _exchange(transport: httpx.HTTPTransport, request: httpx.Request, account: Account) -> Answer | Break:
    try:
        response = transport.handle_request(request)
    except FAULTS as fault:
        timeouts = account.timeouts
        where = urlsplit(account.base_url).netloc
        return in_words(fault, where, timeouts.connect, timeouts.write, timeouts.read)
    return read_response(response)


_LOOK = "look in OptiPub for a segment of that name before it is asked for again"


def read_created(signal: Answer | Break, offer: Offer) -> Outcome:
    """What `signal` means for the segment. Pure."""
    if isinstance(signal, Break):
        if offer.whole:
            return Unclear(why=offer.line(f"{signal.what}, after the whole request had left: {_LOOK}"))
        return NotCreated(why=offer.line(signal.what), hint=signal.cure or _LATER, later=not signal.cure)
    answered = f"OptiPub answered {signal.status}"
    words = said(signal, offer)
    quoted = f". It said: {words}" if words else ""
    match signal.status:
        case 201:
            return _read_201(signal, offer, quoted)
        case 401:
            return NotCreated(why=offer.line(f"{answered}: it does not know the key{quoted}"), hint=NEW_KEY)
        case 302 if names_login(signal.location, offer):
            return NotCreated(why=f"{answered}, its login page: it does not know the key", hint=NEW_KEY)
        case 301 | 303 | 307 | 308:
            hint = "Set the account's base_url to the address that is meant"
            return NotCreated(why=f"{answered}: base_url is not the right address", hint=hint)
        case 429 | 503:
            return NotCreated(why=offer.line(f"{answered}: it is busy{quoted}"), hint=_LATER, later=True)
        case status if status == 302 or 400 <= status < 500:
            hint = "Check the publication's id, the fields, and that the key's user may create segments"
            return NotCreated(why=offer.line(f"{answered}: it refused{quoted}"), hint=hint)
        case _:
            return Unclear(why=offer.line(f"{answered}, which tells nothing of the segment: {_LOOK}{quoted}"))


_LATER = "Try again later"


def _read_201(answer: Answer, offer: Offer, quoted: str) -> Outcome:
    try:
        members = json.loads(answer.body) if answer.whole else None
    except (ValueError, RecursionError):
        members = None
    match members:
        case {"error": False, "data": {"id": int(id)}} if id > 0 and not isinstance(id, bool):
            return Created(id=id)
        case {"error": True}:
            return NotCreated(why=offer.line(f"OptiPub answered 201 with an error{quoted}"), hint="Check the fields")
        case _:
            return Unclear(why=offer.line(f"OptiPub answered 201, but not with an id: {_LOOK}{quoted}"))
