"""The kinds of value that settings take: how each is written in the file, what it means, how it is written back.

A `Written` is all that a file, the JSON Schema and `config show` need to know about one kind. Every message says in
plain words what would be right; none repeats a value that could be a secret. Knows no setting by name.
"""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Callable, Iterable
from datetime import date
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast

from dropzone.config import units
from dropzone.config.secret import Secret
from dropzone.config.units import Share
from dropzone.config.yaml import Odd, Place, cut, is_blank
from dropzone.values import value

_Value = TypeVar("_Value")


MAX_NUMBER = 10**18 - 1  # what the reader of YAML takes for a whole number
SPOILED = object()  # in place of a value that is wrong


class WrongValueError(Exception):
    """A value is not of its kind: what is wrong, and what would be right."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class Notes(Protocol):
    """Who is told what is wrong while settings are read."""

    def wrong(self, place: Place, error: WrongValueError, *, at_key: bool = False) -> None:
        """The value at `place` cannot be, or its key cannot."""

    def unknown(self, place: Place) -> None:
        """There is no such key."""

    def spoil(self, place: Place) -> None:
        """What stands at `place` is left out of what was read."""


@value
class Written:
    """One kind of value. `read` takes what the file has or the value itself and raises `wrong`; `write` undoes it."""

    read: Callable[[object], object]
    write: Callable[[Any], object]
    schema: dict[str, Any]
    takes_none: bool = False  # whether None is one of its values, and written as a word

    def take(self, written: object, place: Place, notes: Notes, *, at_key: bool = False) -> Any:
        """What is `written` at `place` means; SPOILED where it is wrong, which `notes` are told."""
        try:
            return self.read(written)
        except WrongValueError as error:
            notes.wrong(place, error, at_key=at_key)
            return SPOILED


def wrong(what: str, hint: str = "") -> WrongValueError:
    """The problem of one value, to be raised in a `Written.read`."""
    return WrongValueError(what, hint)


def shown(value: object) -> str:
    """`value` in a message: short, in one line."""
    match value:
        case str():
            return f"'{cut(value)}'"
        case Odd():
            return cut(value.text) or "nothing"
        case bool() | int():
            return str(value).lower()
        case _:
            return "a list" if isinstance(value, list | tuple) else "a mapping"


def text_of(value: object, wanted: str) -> str:
    """`value`, which must be a text. `wanted` names the kind, as in ``an absolute path``."""
    match value:
        case str():
            return value
        case Odd(kind="blank"):
            raise wrong("has no value", f"{wanted} is expected")
        case Odd(text=text):
            word = cut(text)
            raise wrong(f"without quotes, {word} is {value.meaning} to YAML", f'write "{word}" if that was meant')
        case bool() | int():
            word = str(value).lower()
            raise wrong(f"must be {wanted}, not {word}", f'write "{word}" if that was meant')
        case _:
            raise wrong(f"must be {wanted}, not {shown(value)}")


def find_close(word: str, words: Iterable[str]) -> str | None:
    """Which of `words` was probably meant by `word`, in whatever case it was written."""
    folded = {each.lower(): each for each in islice(words, _COMPARED)}
    close = get_close_matches(word[:_LONGEST].lower(), folded, n=1)
    return folded[close[0]] if close else None


_COMPARED = 200  # comparing is slow, and a thousand wrong names may each be compared
_LONGEST = 100  # characters; no name of ours is as long

# ------------------------------------------------------------------------------------------------- amounts


def durations(at_least: str, at_most: str = "366d") -> Written:
    """Seconds, written with their unit, within two limits."""
    low, high = units.read_duration(at_least), units.read_duration(at_most)

    def read(value: object) -> float:
        hint = "a whole number and its unit: 300ms 2s 15m 24h 90d"
        seconds = value if isinstance(value, float) else _unit(value, units.read_duration, "a duration", hint)
        if not low <= seconds <= high:
            raise wrong(f"must be between {at_least} and {at_most}, not {value}")
        return seconds

    return Written(read=read, write=units.write_duration, schema={"type": "string", "pattern": f"^{units.DURATION}$"})


def sizes(at_least: int) -> Written:
    """Bytes, written plainly or with their unit."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            value = _unit(value, units.read_size, "a size", "bytes, or a whole number and its unit: 64KiB 20MiB 2GiB")
        if value < at_least:
            raise wrong(f"must be at least {at_least}, not {value}")
        return value

    number = {"type": "integer", "minimum": at_least, "maximum": MAX_NUMBER}
    return Written(
        read=read,
        write=units.write_size,
        schema={"anyOf": [number, {"type": "string", "pattern": f"^{units.SIZE}$"}]},
    )


def shares(at_most: str) -> Written:
    """A `Share`, written as ``1%``."""
    high = Share.percent(at_most)

    def read(value: object) -> Share:
        if not isinstance(value, Share):
            value = _unit(value, Share.percent, "a share", "a number and its sign: 50% 0.5%")
        if value > high:
            raise wrong(f"must be at most {at_most}, not {value}")
        return value

    return Written(read=read, write=str, schema={"type": "string", "pattern": f"^{units.SHARE}$"})


def counts(at_least: int, at_most: int | None = None) -> Written:
    """A whole number within its limits."""
    schema = {"type": "integer", "minimum": at_least, "maximum": MAX_NUMBER if at_most is None else at_most}

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _not_whole(value)
        if value < at_least:
            raise wrong(f"must be at least {at_least}, not {value}")
        if at_most is not None and value > at_most:
            raise wrong(f"must be at most {at_most}, not {value}")
        return value

    return Written(read=read, write=int, schema=schema)


def count_or_share(count: Written, share: Written) -> Written:
    """A whole number or a `Share`, told apart by the sign."""

    def read(value: object) -> object:
        if isinstance(value, Share) or (isinstance(value, str) and "%" in value):
            return share.read(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return count.read(value)
        raise _not(value, "a number or a share", "as in 10 or 1%")

    def write(value: object) -> object:
        return str(value) if isinstance(value, Share) else value

    return Written(read=read, write=write, schema={"anyOf": [count.schema, share.schema]})


def or_none(written: Written) -> Written:
    """The same kind, or the word ``none``, which switches it off."""

    def read(value: object) -> object:
        if value is None or value == "none":
            return None
        try:
            return written.read(value)
        except WrongValueError as error:
            raise wrong(error.what, f"{error.hint}; none switches it off".removeprefix("; ")) from None

    def write(value: object) -> object:
        return "none" if value is None else written.write(value)

    return Written(read=read, write=write, schema={"anyOf": [written.schema, {"const": "none"}]}, takes_none=True)


_RESEND_HINT = "write resend, hold, or {resend_within: 10m}"


def _read_resending(value: object) -> float:
    """Seconds during which an unknown outcome may be offered again: none for ``hold``, no end for ``resend``."""
    match value:
        case "resend":
            return math.inf
        case "hold":
            return 0.0
        case {"resend_within": within, **others} if not others:
            return cast(float, _WITHIN.read(within))
        case _:
            raise _not(value, "resend, hold or a time", _RESEND_HINT)


def _write_resending(seconds: float) -> object:
    if math.isinf(seconds):
        return "resend"
    return {"resend_within": units.write_duration(seconds)} if seconds else "hold"


_WITHIN = durations("1s", "366d")
RESENDING = Written(
    read=_read_resending,
    write=_write_resending,
    schema={
        "anyOf": [
            {"enum": ["resend", "hold"]},
            {
                "type": "object",
                "properties": {"resend_within": _WITHIN.schema},
                "required": ["resend_within"],
                "additionalProperties": False,
            },
        ]
    },
)


def _not(value: object, wanted: str, hint: str) -> WrongValueError:
    if is_blank(value):
        return wrong("has no value", hint)
    return wrong(f"must be {wanted}, not {shown(value)}", hint)


def _not_whole(value: object) -> WrongValueError:
    """What is wrong with `value` where a whole number must stand, and what would be right."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return wrong("must be a number, not a text", f"write {value} without quotes")
    if isinstance(value, Odd) and re.fullmatch(r"0[0-9]{1,18}", value.text):
        return wrong(f"some read {value.text} as a number in base 8, others do not", f"write {int(value.text)}")
    if isinstance(value, Odd) and re.fullmatch(r"[0-9]{1,9}(_[0-9]{1,9})+", value.text):
        return wrong(f"must be a whole number, not {value.text}", f"write {value.text.replace('_', '')}")
    return _not(value, "a whole number", "at most 18 digits, without quotes or unit")


def _unit(value: object, read: Callable[[str], _Value], kind: str, hint: str) -> _Value:
    try:
        return read(value if isinstance(value, str) else "")
    except ValueError:
        raise _not(value, kind, hint) from None


# ------------------------------------------------------------------------------------------------- words


def choice(*words: str) -> Written:
    """One of these words."""
    quoted = [f"'{word}'" for word in words]
    expected = " or ".join([", ".join(quoted[:-1]), quoted[-1]])

    def read(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        if is_blank(value):
            raise wrong("has no value", f"it must be {expected}")
        close = find_close(value, words) if isinstance(value, str) else None
        raise wrong(f"must be {expected}, not {shown(value)}", f"did you mean {close}?" if close else "")

    return Written(read=read, write=str, schema={"type": "string", "enum": list(words)})


def _read_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if is_blank(value):
        raise wrong("has no value", "it must be true or false")
    word = value.text if isinstance(value, Odd) else str(value)
    meant = _FLAGS.get(word.lower())
    raise wrong(f"must be true or false, not {shown(value)}", f"write {meant}, without quotes" if meant else "")


_FLAGS = dict.fromkeys(("true", "yes", "on", "y", "1"), "true") | dict.fromkeys(
    ("false", "no", "off", "n", "0"), "false"
)
FLAG = Written(read=_read_flag, write=bool, schema={"type": "boolean"})

# ------------------------------------------------------------------------------------------------- texts

IN_ONE_LINE = "[^\\r\\n]*"  # as the reader of YAML leaves every text


def texts(pattern: str, wanted: str, hint: str) -> Written:
    """A text of one shape. `wanted` names the kind, `hint` says what it may consist of."""

    def read(value: object) -> str:
        text = text_of(value, wanted)
        if not re.fullmatch(pattern, text):
            raise wrong(f"{shown(text)} is not {wanted}", hint)
        return text

    return Written(read=read, write=str, schema={"type": "string", "pattern": f"^({pattern})$"})


NAME = texts(
    "[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    "a name",
    "letters, digits, '.', '_' and '-', a letter or digit first, at most 64",
)
# No '/': the daemon looks at names in one folder, never at paths below it.
PATTERN = texts("[^/\\r\\n]{1,255}", "a pattern of file names", 'as in "*.csv"; it has no /')


def _read_path(value: object) -> Path:
    if isinstance(value, Path):
        return value
    text = text_of(value, "an absolute path")
    if not text.startswith("/"):
        raise wrong(f"{shown(text)} is not an absolute path", "write it in full, from the first / on")
    if not text.isprintable() and re.search("[\0\ud800-\udfff]", text):  # in damaged rows: no file can say that
        raise wrong(f"{shown(text)} is no path", "a path has no such characters")
    if len(text.encode()) >= _PATH_MAX:
        raise wrong("is longer than any path can be", f"at most {_PATH_MAX - 1} bytes")
    if any(len(part.encode()) > _NAME_MAX for part in text.split("/")):
        raise wrong("has a part that is longer than any name can be", f"at most {_NAME_MAX} bytes from / to /")
    path = Path("/" + text.lstrip("/"))  # pathlib keeps two slashes in front, Linux knows no such thing
    # Where `..` leads is settled here, once: below, paths are compared and walked part by part.
    return Path(os.path.realpath(path)) if ".." in path.parts else path


_PATH_MAX, _NAME_MAX = 4096, 255  # Linux's limits, the first with the byte that ends it
PATH = Written(read=_read_path, write=str, schema={"type": "string", "pattern": f"^/{IN_ONE_LINE}$"})


_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"


def _read_date(value: object) -> date:
    match value:
        case date():
            return value
        case Odd(kind="date", text=text) | str(text):
            try:  # alone it would take 2026-W10-1 and 20260301 too
                return date.fromisoformat(text if re.fullmatch(_DAY, text) else "")
            except ValueError:
                raise wrong(f"{shown(text)} is no day of the calendar", "year-month-day, as in 2026-03-01") from None
        case _:
            raise _not(value, "a date", "year-month-day, as in 2026-03-01")


DATE = Written(
    read=_read_date, write=date.isoformat, schema={"type": "string", "format": "date", "pattern": f"^{_DAY}$"}
)


_CODEC = "[A-Za-z0-9][A-Za-z0-9._-]{0,39}"


def _read_encoding(value: object) -> str:
    text = text_of(value, "the name of an encoding")
    hint = "as in utf-8, cp1252 or iso-8859-15; UTF-16 with its mark is recognised without a word here"
    try:
        # `codecs` would import a module of that name, so it must look like one.
        codec = codecs.lookup(text) if re.fullmatch(_CODEC, text) else None
    except LookupError:
        codec = None
    if codec is None:
        raise wrong(f"no encoding is called {shown(text)}", hint)
    if not _keeps_ascii(codec.name):
        raise wrong(f"{shown(text)} does not write ASCII as ASCII", hint)
    return codec.name


# Each ASCII character alone, and what some of Python's codecs take for an escape: utf-7, raw_unicode_escape, punycode
# and idna in this order.
_ASCII_SAMPLES = (*map(chr, range(128)), "a+b-c", "\\u0041", "a-b", "xn--4ca")


def _keeps_ascii(encoding: str) -> bool:
    try:
        return all(sample.encode().decode(encoding) == sample for sample in _ASCII_SAMPLES)
    except (UnicodeError, LookupError):  # a codec that is no encoding of text raises the latter
        return False


ENCODING = Written(read=_read_encoding, write=str, schema={"type": "string", "pattern": f"^{_CODEC}$"})

# ------------------------------------------------------------------------------------------------- addresses

_SCHEME, _PORT, _STEPS = "[Hh][Tt][Tt][Pp][Ss]?", "[0-9]{1,5}", "(/[A-Za-z0-9._~-]+)*"
_HOST = r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]+((\.|-+)[A-Za-z0-9]+)*"
_ADDRESS = re.compile(f"(?P<scheme>{_SCHEME})://(?P<host>{_HOST})(:(?P<port>{_PORT}))?(?P<path>/.*)?")
_MAX_PORT = 65535
_LONGEST_ADDRESS = 2000  # characters


def _read_base_url(value: object) -> str:
    address, match = _address(value, "as in https://publisher.example.com")
    path = (match["path"] or "").rstrip("/")
    if not re.fullmatch(_STEPS, path) or ".." in path:
        raise wrong("has a path that cannot be", "as in https://publisher.example.com")
    if path.endswith("/api/3.2"):
        raise wrong("ends in /api/3.2, which dropzone adds itself", f"write {address.removesuffix('/api/3.2')}")
    if match["scheme"].lower() == "http" and not _is_loopback(match["host"]):
        raise wrong("is not https: the API key would travel in the clear", f"write https{address.removeprefix('http')}")
    return address


def _read_proxy(value: object) -> str:
    address, match = _address(value, "as in http://proxy.example.com:3128")
    if (match["path"] or "").rstrip("/"):
        raise wrong("has a path", "a proxy is a scheme, a host and a port")
    return address


def _address(value: object, hint: str) -> tuple[str, re.Match[str]]:
    """An address without its final slashes, and its parts. No message repeats it: a password may stand in it."""
    if not isinstance(value, str):
        text_of(value, "an address")  # raises
    address = str(value).rstrip("/")
    for char, part in (("?", "a query (?…)"), ("#", "a fragment (#…)"), ("@", "a user or password (…@)")):
        if char in address:
            raise wrong(f"has {part}, which it cannot have", hint)
    match = _ADDRESS.fullmatch(address) if len(address) <= _LONGEST_ADDRESS else None
    if not match or not _is_host(match["host"]) or not 0 < int(match["port"] or 443) <= _MAX_PORT:
        raise wrong("is not an address of the form https://host", hint)
    scheme, _, rest = address.partition("://")
    return f"{scheme.lower()}://{rest}", match


def _is_host(host: str) -> bool:
    return not host.startswith("[") or _ip(host) is not None


def _is_loopback(host: str) -> bool:
    address = _ip(host)
    return address.is_loopback if address else host.lower() == "localhost"


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


_PAGE = f"https?://[!-~]{{1,{_LONGEST_ADDRESS}}}"


def _read_web_address(value: object) -> str:
    text = text_of(value, "an address")
    if not re.fullmatch(_PAGE, text):
        raise wrong(f"{shown(text)} is no address of a page", "as in https://www.example.com/thanks")
    return text


_ORIGIN = f"^{_SCHEME}://({_HOST})(:{_PORT})?"
BASE_URL = Written(read=_read_base_url, write=str, schema={"type": "string", "pattern": f"{_ORIGIN}{_STEPS}/*$"})
PROXY = Written(read=_read_proxy, write=str, schema={"type": "string", "pattern": f"{_ORIGIN}/*$"})
WEB_ADDRESS = Written(read=_read_web_address, write=str, schema={"type": "string", "pattern": f"^{_PAGE}$"})

# ------------------------------------------------------------------------------------------------- secrets

_SOURCES = {"env": "[A-Za-z_][A-Za-z0-9_]*", "file": "/.*", "credential": "[A-Za-z0-9][A-Za-z0-9._-]*"}
_SECRET_HINT = "write {env: NAME}, {file: /PATH} or {credential: NAME}"  # noqa: S105 -- the forms, no secret


def _read_secret(value: object) -> Secret:
    """No message repeats what stands there: it may be the key itself, written into the file by mistake."""
    match value:
        case Secret():
            return value
        case Odd(kind="blank"):
            raise wrong("has no value", _SECRET_HINT)
        case {"env": str(name), **others} if not others:
            return _source("env", name)
        case {"file": str(name), **others} if not others:
            return _source("file", name)
        case {"credential": str(name), **others} if not others:
            return _source("credential", name)
        case dict():
            raise wrong("must name one of env, file and credential", _SECRET_HINT)
        case _:
            raise wrong("must name where the key is found, never the key itself", _SECRET_HINT)


def _source(source: Literal["env", "file", "credential"], name: str) -> Secret:
    if not re.fullmatch(_SOURCES[source], name):
        wanted = {"env": "the name of a variable", "file": "an absolute path", "credential": "the name of a credential"}
        raise wrong(f"{source} must be {wanted[source]}", _SECRET_HINT)
    return Secret(source=source, name=name)


SECRET = Written(
    read=_read_secret,
    write=lambda secret: {secret.source: secret.name},
    schema={
        "oneOf": [
            {
                "type": "object",
                "properties": {source: {"type": "string", "pattern": f"^{pattern}$"}},
                "required": [source],
                "additionalProperties": False,
            }
            for source, pattern in _SOURCES.items()
        ]
    },
)
