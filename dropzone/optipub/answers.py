"""What each answer means: the whole table, and the sentence that a person reads. Pure, without a socket or a clock."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urlsplit

from dropzone.drop import Accepted, Deferred, Effect, Lost, Refused
from dropzone.errors import printable

PROBE_S = 900.0  # a dead key or a wrong address heals by a person's hand, not within seconds
RETRY_AFTER_S = (1.0, 3600.0)

_SAID_LIMIT = 300  # characters of what the server said
_LINE_LIMIT = 900  # characters of a whole sentence with that in it
_PAGE_LIMIT = 8 * 1024  # characters of a page that are searched for its words

Outcome = Accepted | Refused | Deferred | Lost

# ---------------------------------------------------------------------------------------------- what is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, as far as it was read. Not `whole`: it broke off, dripped for too long, or was too large."""

    status: int
    location: str = ""
    retry_after: str = ""
    body: bytes = b""
    whole: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """No answer came. `account` where no drop of the account can fare better until a person has mended something."""

    what: str
    cure: str = ""
    account: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What an answer is read against: what was offered, and how much of it had left."""

    account: str
    base_url: str
    segment_id: int
    filename: str  # under which the import can be found in OptiPub
    size: int  # bytes of the file
    sent: int  # bytes of the file that surely left
    whole: bool  # the request left completely
    at: float  # now, in seconds since the epoch
    wait_s: float  # the ordinary delay until the next try
    key: str = field(default="", repr=False)

    def line(self, text: str, limit: int = _LINE_LIMIT) -> str:
        """`text` as one harmless line of at most `limit` characters, without the key."""
        text = printable(self.conceal(" ".join(text.split())))
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def conceal(self, text: str) -> str:
        """`text` without the key: debug pages print the request's headers, in whichever spelling suits the page."""
        if not self.key:
            return text
        quoted = json.dumps(self.key)[1:-1]
        spellings = {self.key, quoted, quoted.replace("/", "\\/"), html.escape(self.key), quote(self.key, safe="")}
        for spelling in sorted(spellings, key=len, reverse=True):
            text = text.replace(spelling, "[key]")
        return text


# ------------------------------------------------------------------------------------------------- the table

_CHECK = (
    "Check that the segment exists and is of the right kind (static, or suppression with this hash), that campaign and"
    " partner exist, and that the columns are those of its import guide"
)
_MENDS = {
    302: f"Its answers give no reason. {_CHECK}",
    404: "There is no such segment, or the account's base_url is not OptiPub's address",
    405: "The account's base_url is hardly OptiPub's address",
    410: "The segment is gone: name another one in the folder's segment_id",
    413: "The file is too large for it: hand it over in parts, or ask OptiPub for its limit",
}
NEW_KEY = (
    "Keys end after one year: make a new one in OptiPub and put it where the account's api_key points "
    "(a credential is read at a start only: systemctl restart dropzone)"
)


def read_answer(signal: Answer | Break, offer: Offer) -> Outcome:
    """The event that `signal` means. The one place that decides it; pure."""
    if isinstance(signal, Break):
        return _read_break(signal, offer)
    status = signal.status
    match status:
        case 201:
            return _read_created(signal, offer)
        case 302 if names_login(signal.location, offer):
            what = f"it does not know the API key of account {offer.account}. {NEW_KEY}"
            return _pause(signal, offer, f", its login page: {what}")
        case 301 | 303 | 307 | 308:
            what = f"the base_url of account {offer.account} is not the right address. Set it to the one meant there"
            return _pause(signal, offer, f": {what}")
        case 401:
            what = f"it does not know the API key of account {offer.account}. {NEW_KEY}"
            return _pause(signal, offer, f": {what}")
        case 403:
            what = f"the API key of account {offer.account} may not do this. Give its user the right to import segments"
            return _pause(signal, offer, f": {what}, and see that no firewall in between refuses this machine")
        case 407:
            what = "a proxy wants a name and a password, and dropzone has none for it. Let this machine through without"
            return _pause(signal, offer, f": {what}")
        case 408 | 425:
            return _defer(signal, offer, offer.wait_s, "it waited for the file too long, or not long enough", "none")
        case 429 | 503:
            wait_s = _retry_after_s(signal.retry_after, offer.at)
            return _defer(signal, offer, offer.wait_s if wait_s is None else wait_s, "it is busy", "wait")
        case _ if status == 302 or 400 <= status < 500:
            mend = _MENDS.get(status, _CHECK)
            blame = f"{_answered(signal, offer)}: it refused the import into segment {offer.segment_id}. {mend}"
            return Refused(status=status, blame=offer.line(blame), evidence=said(signal, offer))
        case _ if 200 <= status < 300:
            return _lose(signal, offer, "which is not its 'Import created' (201); a login page or a proxy answers so")
        case _:
            # 500, 502 and 504 by name, and what has no row of its own: a gateway may give up on an import that was
            # taken, so nothing of this kind is a no.
            what = "which tells of a fault and not whether the import was taken before it"
            return _lose(signal, offer, what, "breaker" if status >= 500 else "none")


def _read_created(answer: Answer, offer: Offer) -> Outcome:
    if not offer.whole:
        return _lose(answer, offer, "but had not had the whole file yet")
    if not answer.whole:
        return _lose(answer, offer, "but the answer broke off")
    match _parse(answer.body):
        case {"error": False}:
            return Accepted(status=answer.status, body=said(answer, offer))
        case {"error": True}:
            blame = f"OptiPub answered 201 with an error: it refused the import into segment {offer.segment_id}. "
            return Refused(status=answer.status, blame=offer.line(blame + _CHECK), evidence=said(answer, offer))
        case _:
            return _lose(answer, offer, "but not in the way that it announces an import")


def _read_break(broken: Break, offer: Offer) -> Deferred | Lost:
    if offer.whole:
        cause = f"{broken.what}, after the whole file had left: OptiPub may have taken it. {_look(offer)}"
        return Lost(cause=offer.line(cause), sent=offer.sent, effect="breaker")
    cause = f"{broken.what}{_progress(offer)}: the file was not taken. {broken.cure or 'It is offered again by itself'}"
    if broken.account:
        return Deferred(due_at=offer.at + PROBE_S, cause=offer.line(cause), effect="pause")
    return Deferred(due_at=offer.at + offer.wait_s, cause=offer.line(cause), effect="breaker")


def _pause(answer: Answer, offer: Offer, what: str) -> Deferred:
    cause = f"{_answered(answer, offer)}{what}{_quoted(answer, offer)}"
    return Deferred(due_at=offer.at + PROBE_S, cause=offer.line(cause), status=answer.status, effect="pause")


def _defer(answer: Answer, offer: Offer, wait_s: float, what: str, effect: Effect) -> Deferred:
    again = f" (Retry-After: {offer.line(answer.retry_after, 40)})" if answer.retry_after else ""
    cause = f"{_answered(answer, offer)}{again}: {what}. The file is offered again by itself"
    cause += _quoted(answer, offer)
    return Deferred(due_at=offer.at + wait_s, cause=offer.line(cause), status=answer.status, effect=effect)


def _lose(answer: Answer, offer: Offer, what: str, effect: Effect = "none") -> Lost:
    cause = f"{_answered(answer, offer)}, {what}{_progress(offer)}: it may have taken the file. {_look(offer)}"
    said = offer.line(cause + _quoted(answer, offer))
    return Lost(cause=said, sent=offer.sent, status=answer.status, effect=effect)


def _answered(answer: Answer, offer: Offer) -> str:
    # Without the query: it may carry a token, and never says anything to a person.
    target = re.split(r"[?]", answer.location, maxsplit=1)[0]
    return f"OptiPub answered {answer.status}" + (f" to {offer.line(target, 200)}" if target else "")


def _progress(offer: Offer) -> str:
    return "" if offer.whole or not offer.sent else f" after {offer.sent:,} of {offer.size:,} bytes"


def _look(offer: Offer) -> str:
    return f"Look in OptiPub for an import of {offer.filename} before it is sent again"


def names_login(location: str, offer: Offer) -> bool:
    """Whether `location` is a page where people sign in. Only whole path segments and foreign host names count."""
    try:
        target, ours = urlsplit(location), urlsplit(offer.base_url)
    except ValueError:
        return False
    host = "" if target.hostname == ours.hostname else target.hostname or ""
    words = re.split(r"[/.;:#]", re.sub(r"[-_]", "", f"{host}/{target.path}/{target.fragment}".lower()))
    return any(word in _LOGIN_WORDS or word.endswith(("login", "logon", "signin")) for word in words)


_LOGIN_WORDS = {"auth", "authenticate", "authentication", "oauth", "oauth2", "sso", "saml", "saml2", "session"}


def _retry_after_s(text: str, at: float) -> float | None:
    """Seconds to wait from a Retry-After header (RFC 9110, 10.2.3: seconds or a date); None when it says neither."""
    low, high = RETRY_AFTER_S
    if text.isascii() and text.isdigit():
        return min(max(float(text), low), high)  # as a float, a thousand digits are just infinite
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):  # its parser has raised each of them
        return None
    # A date without a zone is read as UTC: HTTP knows no other, and our own zone would be a guess.
    return min(max((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - at, low), high)


# ------------------------------------------------------------------------------------------ what a server said


def _quoted(answer: Answer, offer: Offer) -> str:
    words = said(answer, offer)
    return f". It said: {words}" if words else ""


def said(answer: Answer, offer: Offer) -> str:
    """The reasons in JSON of Laravel's kind, the words of a page, or the text as it came; one short line."""
    reasons = _reasons(_parse(answer.body))
    text = reasons or _words(offer.conceal(answer.body.decode("utf-8", "replace"))[:_PAGE_LIMIT])
    return offer.line(text, _SAID_LIMIT)


def _parse(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # not JSON, no text at all, or a hundred thousand brackets
        return None


def _reasons(parsed: object) -> str:
    if not isinstance(parsed, dict):
        return ""
    message, errors = parsed.get("message"), parsed.get("errors")
    reasons = [message] if isinstance(message, str) else []
    for name, found in errors.items() if isinstance(errors, dict) else ():
        texts = found if isinstance(found, list) else [found]
        reasons.append(f"{name}: {' '.join(text for text in texts if isinstance(text, str))}")
    return " ".join(reasons)


def _words(page: str) -> str:
    if "<" not in page:
        return page
    page = re.sub(r"(?is)<(script|style)\b.*?(?:</\1\s*>|\Z)", " ", page)
    return html.unescape(re.sub(r"(?s)<!--.*?(?:-->|\Z)|<[^>]*>?", " ", page))
