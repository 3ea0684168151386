"""The text of the configuration as plain values, each with its line and column. Knows YAML, and no setting.

The file is read from YAML's events, never through a constructor: nothing is made of a tag, an alias is refused before
anybody follows it, and the depth is bounded, so a hostile file costs no more than its length. What YAML 1.1 and 1.2
read differently (`no`, `010`, `1:30`, a date) becomes an `Odd`, which no setting takes by accident: the setting that
meets one says what would have been right.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from dropzone.errors import Problem, printable
from dropzone.values import value

MAX_BYTES = 4 << 20  # a thousand folders with every key written out are about a quarter of this
MAX_DEPTH = 20
MAX_PROBLEMS = 1000  # told at once: nobody mends more in one go

# libyaml reads a long file in a tenth of the time. A PyYAML built without it gives the same values, only later.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Place = tuple[str | int, ...]  # the keys and list positions that lead to a value: ("folders", "acme", "mode")


class Mark(NamedTuple):
    """Where something stands in the file, both counted from 1; 0 is unknown."""

    line: int
    column: int


@value
class Odd:
    """A word without quotes that YAML itself gives a meaning which nobody here can have meant for certain.

    `kind` is ``blank`` (no value at all), ``flag`` (``no``, ``On``), ``number`` (``010``, ``1_000``, ``1.5``),
    ``clock`` (``1:30``, which YAML 1.1 reads as 90), ``date``, or ``refused``: a problem was reported here already.
    """

    text: str
    kind: Literal["blank", "flag", "number", "clock", "date", "refused"]

    @property
    def meaning(self) -> str:
        """What some reader of YAML takes the word for."""
        match self.kind:
            case "flag":
                return "true or false"
            case "clock":
                return "a number in base 60"
            case "date":
                return "a date"
            case "number":
                return "a number"
            case "blank" | "refused":
                return "nothing"


REFUSED = Odd(text="", kind="refused")
TOO_MANY = (f"there are more problems than these {MAX_PROBLEMS:,}", "mend these, and the others are told")


class Places:
    """A set of places that is asked from both sides: for what lies in a place, and for what it lies in.

    Costs the depth of a place, never how many there are: a file may be wrong in each of its lines.
    """

    def __init__(self) -> None:
        self._places: set[Place] = set()
        self._around: set[Place] = set()  # these, and all that they lie in

    def add(self, place: Place) -> None:
        """Note `place`."""
        self._places.add(place)
        self._around.update(place[:length] for length in range(len(place) + 1))

    def any_around(self, place: Place) -> bool:
        """Whether `place`, or something that it lies in, was noted."""
        return bool(self._places) and any(place[:length] in self._places for length in range(1, len(place) + 1))

    def any_in(self, place: Place) -> bool:
        """Whether `place`, or something in it, was noted."""
        return place in self._around


class Document:
    """The values of one file. `root` stays `REFUSED` when the file cannot be read as YAML at all."""

    def __init__(self, *, crc: int = 0) -> None:
        self.root: object = REFUSED
        self.crc = crc  # of the whole content: two that differ are two texts
        self.keys: dict[Place, Mark] = {}  # where each key stands
        self.values: dict[Place, Mark] = {}  # where each value begins, if there is one to see
        self.refused = Places()  # where a problem was reported in place of a value
        self.problems: list[Problem] = []


def read(path: Path) -> bytes:
    """The content of the file `path`, as much as `parse` looks at. Raises OSError, and ValueError for a NUL in `path`.

    What is no plain file is refused: a pipe would have us wait for whoever writes to it, and can be read only once.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.ESPIPE, "it is a pipe or a device, not a file that can be read again")
        return file.read(MAX_BYTES + 1)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def parse(content: bytes, *, loader: Any = LOADER) -> Document:  # PyYAML's loaders share no base class
    """Read `content`, one YAML document in UTF-8. Never raises: what is wrong is in `problems`."""
    document = Document(crc=zlib.crc32(content))
    try:
        document.root = _Composer(_events(_decode(content), loader), document).compose()
    except _BrokenError as broken:
        document.problems.append(broken.problem)
    return document


def plain(text: str) -> str | int | bool | Odd:
    """What a word without quotes is: a text, a decimal number, true or false; anything debatable is `Odd`."""
    if text in {"true", "false"}:
        return text == "true"
    if text in _BLANKS:
        return Odd(text=text, kind="blank")
    if text.lower() in _FLAGS:
        return Odd(text=text, kind="flag")
    if not text.startswith(_SIGNS) or (text.strip(_NUMERIC) and text[4:5] != "-"):
        return text  # nearly all texts are, and need no pattern
    if re.fullmatch(_INTEGER, text):
        return int(text)
    return next((Odd(text=text, kind=kind) for kind, pattern in _NUMBERS if re.fullmatch(pattern, text)), text)


def is_blank(value: object) -> bool:
    """Whether a key stands there without a value."""
    return isinstance(value, Odd) and value.kind == "blank"


def cut(text: str) -> str:
    """`text` in a message: short, in one line. The file may hold a word of megabytes, and each message it anew."""
    return f"{printable(text[:_SHOWN])}{'…' if len(text) > _SHOWN else ''}"


_SHOWN = 64  # characters: a whole name


def subject(place: Place) -> str:
    """`place` as people write it: ``folders.acme.include[0]``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{cut(step)}"
    return text.removeprefix(".")


# Patterns as text, which `re` compiles when it first meets a word for them: a glance at a file meets few.
_INTEGER = r"-?(0|[1-9][0-9]{0,17})"
_BLANKS = frozenset({"", "~", "null", "Null", "NULL"})
_FLAGS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false"})  # in either case
_SIGNS = tuple("+-.0123456789")  # what numbers, times and dates begin with
_NUMERIC = "0123456789+-._:abcdefxoABCDEFXOINintyITY"  # all that may stand in any but a date
_NUMBERS: tuple[tuple[Literal["number", "clock", "date"], str], ...] = (
    (
        "number",
        r"""(?x) [-+]? ( 0[xX][0-9a-fA-F_]+ | 0[oO][0-7_]+ | 0[bB][01_]+
                       | [0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?
                       | \.[0-9][0-9_]*([eE][-+]?[0-9]+)? | \.(inf|Inf|INF|nan|NaN|NAN) )""",
    ),
    ("clock", r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
    ("date", r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?"),
)

# YAML 1.1 ends lines at NEL, LS and PS, where no editor does: the lines that we name would be others than those shown.
# (Alternatives, not one class: a class that reaches past U+00FF takes milliseconds to compile.)
_UNREADABLE = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\u2028|\u2029|\ufeff|\ufffe|\uffff"
# What escapes in double quotes can still bring in. A tab passes, for the delimiter's own message.
_UNPRINTABLE = "[\x00-\x08\n-\x1f\x7f-\x9f]|\u2028|\u2029|[\ud800-\udfff]"


def _search(pattern: str, text: str) -> re.Match[str] | None:
    """Where one of these characters stands. Most texts are spared the search: none of the characters is printable."""
    return None if text.isprintable() else re.search(pattern, text)


class _BrokenError(Exception):
    """The file cannot be read any further. Stays in this module."""

    def __init__(self, mark: Mark, what: str, hint: str) -> None:
        super().__init__(what)
        self.problem = Problem(line=mark.line, column=mark.column, what=what, hint=hint)


def _decode(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise _BrokenError(Mark(0, 0), f"is larger than {MAX_BYTES >> 20} MiB", "this is no configuration of dropzone")
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        mark = _after(content[: error.start].decode())
        what = f"is not UTF-8: byte 0x{content[error.start]:02x}"
        raise _BrokenError(mark, what, "save the file as UTF-8") from None
    if not text.replace("\n", "").isprintable() and (found := re.search(_UNREADABLE, text)):
        mark = _after(text[: found.start()])
        what = f"a character that cannot be shown stands here: U+{ord(found[0]):04X}"
        raise _BrokenError(mark, what, "take it out")
    return text


def _after(before: str) -> Mark:
    return Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))


def _events(text: str, loader: Any) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        raise _translated(error, text) from None
    except (yaml.YAMLError, ValueError, OverflowError):  # PyYAML's own scanner trips over "\UFFFFFFFF"
        raise _BrokenError(Mark(0, 0), "cannot be read as YAML", "look for an escape such as \\U in quotes") from None


class _Composer:
    """Builds the values from events, and notes what is refused on the way without stopping for it."""

    def __init__(self, events: Iterator[yaml.Event], document: Document) -> None:
        self._events = events
        self._document = document

    def compose(self) -> object:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Odd(text="", kind="blank")
        root = self._node(next(self._events), ())
        next(self._events)  # the document's end
        another = next(self._events)
        if isinstance(another, yaml.DocumentStartEvent):
            self._refuse(another, (), "a second document begins here", "one file holds one configuration: remove '---'")
        return root

    def _node(self, event: yaml.Event, place: Place) -> object:
        if len(place) > MAX_DEPTH:
            raise _BrokenError(_mark(event), f"is nested more than {MAX_DEPTH} levels deep", "no setting is")
        self._check_properties(event, place)
        match event:
            case yaml.SequenceStartEvent():
                value: object = self._sequence(place)
            case yaml.MappingStartEvent():
                value = self._mapping(place)
            case yaml.ScalarEvent():
                value = self._scalar(event, place)
            case _:  # an alias
                value = REFUSED
        if value is REFUSED:
            self._document.refused.add(place)
        if not is_blank(value):
            self._document.values[place] = _mark(event)
        return value

    def _check_properties(self, event: yaml.Event, place: Place) -> None:
        if isinstance(event, yaml.AliasEvent):
            what = "a value that refers to another place with * is not supported"
            self._refuse(event, place, what, "write the value out; a value that begins with * needs quotes")
        elif isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            hint = "remove it; a value that begins with & needs quotes"
            self._refuse(event, place, "an anchor (&) is not supported", hint)
        if getattr(event, "tag", None) is not None:
            hint = "remove it; a value that begins with ! needs quotes"
            self._refuse(event, place, "a tag (!) is not supported", hint)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> object:
        if found := _search(_UNPRINTABLE, event.value):
            self._refuse(event, place, *_unprintable(found[0]))
            return REFUSED
        if event.tag is not None:
            return REFUSED
        return plain(event.value) if event.implicit[0] else event.value

    def _sequence(self, place: Place) -> list[object]:
        values: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._node(event, (*place, len(values))))
        return values

    def _mapping(self, place: Place) -> dict[str, object]:
        values: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, place, values)
            # A key that was refused still has a value to be read past; no value has the place -1.
            value = self._node(next(self._events), (*place, -1) if key is None else (*place, key))
            if key is not None:
                values[key] = value
        return values

    def _key(self, event: yaml.Event, mapping: Place, values: dict[str, object]) -> str | None:
        """The key that `event` names, or None when it was refused together with its value."""
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, mapping, "a key must be one word", "as in 'settle: 2s'")
            self._node(event, (*mapping, -1))
            return None
        place = (*mapping, event.value)
        self._check_properties(event, place)
        if found := _search(_UNPRINTABLE, event.value):
            self._refuse(event, place, *_unprintable(found[0]))
            return None
        if event.value in values:
            what = f"is given twice, in lines {self._document.keys[place].line} and {_mark(event).line}"
            self._refuse(event, place, what, "keep one of the two")
            return None
        if event.implicit[0] and not self._check_plain_key(event, place):
            return None
        self._document.keys[place] = _mark(event)
        return event.value

    def _check_plain_key(self, event: yaml.ScalarEvent, place: Place) -> bool:
        if event.value == "<<":
            hint = "write the keys out, or put them under 'defaults:'"
            self._refuse(event, place, "merge keys are not supported", hint)
            return False
        match plain(event.value):
            case Odd(kind="blank"):
                self._refuse(event, place, "a key is empty", "write its name before the colon")
                return False
            case Odd() | bool() | int() as value:
                meaning = value.meaning if isinstance(value, Odd) else _meaning(value)
                what = f"without quotes, the key {cut(event.value)} is {meaning} to YAML"
                self._refuse(event, place, what, f'write "{cut(event.value)}":')
            case str():
                pass
        return True

    def _refuse(self, event: yaml.Event, place: Place, what: str, hint: str) -> None:
        mark = _mark(event)
        if len(self._document.problems) == MAX_PROBLEMS:
            raise _BrokenError(mark, *TOO_MANY)
        problem = Problem(line=mark.line, column=mark.column, what=what, hint=hint, subject=subject(place))
        self._document.problems.append(problem)


def _mark(event: yaml.Event) -> Mark:
    assert event.start_mark is not None  # only events that a program makes itself lack it
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _meaning(value: bool | int) -> str:  # noqa: FBT001 -- the two kinds of plain word that are no text
    return "true or false" if isinstance(value, bool) else "a number"


def _unprintable(char: str) -> tuple[str, str]:
    if char in "\n\r":
        return "holds a line break", "write it in one line"
    return f"holds a character that cannot be shown: U+{ord(char):04X}", "take it out"


class _Syntax(NamedTuple):
    """What both PyYAML and libyaml say, by the part that they share, in words that do not ask for YAML's grammar."""

    said: str
    place: Literal["start", "end"]  # where the thing began, or where the reader gave up
    what: str
    hint: str


_TAB = ("a tab stands where only blanks can indent", "replace it by blanks")
_TAG = ("a value cannot begin with !", "write it in quotes")
_ESCAPE = ("this text holds an unknown escape", "'single quotes' take a text as it stands")
# The first that is said counts: what is about a special case stands before what is about all.
_SYNTAX = (
    _Syntax("document start", "end", "nothing can follow here", "remove '...' or what comes after it"),
    _Syntax("while scanning an alias", "start", "a value cannot begin with *", 'write it in quotes, as in "*.csv"'),
    _Syntax("while scanning an anchor", "start", "a value cannot begin with &", "write it in quotes"),
    _Syntax(
        "mapping values are not allowed",
        "end",
        "a colon is not expected here",
        "one key in a line, keys of one mapping indented alike; a text that holds ': ' needs quotes",
    ),
    _Syntax("found unexpected end of stream", "start", "this quote is never closed", "close it in the same line"),
    _Syntax("unexpected document", "start", "this quote is never closed", "close it in the same line"),
    _Syntax("flow sequence", "start", "this list is not closed, or a comma is missing in it", "as in [one, two]"),
    _Syntax(
        "flow mapping", "start", "this mapping is not closed, or a comma is missing in it", "as in {one: 1, two: 2}"
    ),
    _Syntax("escape char", "start", *_ESCAPE),
    _Syntax("decimal num", "start", *_ESCAPE),
    _Syntax(
        "block scalar", "start", "a text over several lines is not expected here", "write it in one line, in quotes"
    ),
    _Syntax("could not find expected ':'", "start", "a colon is missing after this key", "as in 'settle: 2s'"),
    _Syntax("node content", "end", "a value is expected here", 'a value such as "," needs quotes'),
    _Syntax("sequence entries", "end", "a list cannot begin here", "write it in the next line, or as in [one, two]"),
    _Syntax(
        "block mapping",
        "end",
        "this does not fit the lines above",
        "indent it like its neighbours; a closing quote ends a value",
    ),
    _Syntax("block collection", "end", "this does not fit the list above", "indent it like its neighbours"),
    _Syntax("incompatible YAML", "end", "this version of YAML is not supported", "remove the line"),
    _Syntax("directive", "start", "a line cannot begin with %", "remove the line, or write it in quotes"),
    _Syntax("scanning a tag", "start", *_TAG),
    _Syntax("parsing a tag", "start", *_TAG),
    _Syntax("tab character", "end", *_TAB),
    _Syntax("character escape code", "start", *_ESCAPE),
    _Syntax("found unexpected ':'", "end", "a colon is not expected here", "a text that holds ':' needs quotes"),
    _Syntax("mapping keys are not allowed", "end", "a value cannot begin with ?", "write it in quotes"),
)


def _translated(error: yaml.MarkedYAMLError, text: str) -> _BrokenError:
    said = f"{error.context}: {error.problem}"
    mark = error.problem_mark or error.context_mark
    if mark and "cannot start any token" in said:
        return _BrokenError(_place_of(mark), *_bad_start(text[mark.index : mark.index + 1]))
    for rule in _SYNTAX:
        if rule.said in said:
            return _BrokenError(
                _place_of(error.context_mark if rule.place == "start" else mark, mark), rule.what, rule.hint
            )
    hint = "'dropzone config example' prints a right one"
    return _BrokenError(_place_of(mark), f"cannot be read as YAML: {error.problem}", hint)


def _place_of(*marks: Any) -> Mark:  # the two readers have a class of mark each
    """The first of `marks` that there is."""
    return next((Mark(mark.line + 1, mark.column + 1) for mark in marks if mark), Mark(0, 0))


def _bad_start(char: str) -> tuple[str, str]:
    if char == "\t":
        return _TAB
    return f"a value cannot begin with {char}", "write it in quotes"
