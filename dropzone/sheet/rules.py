"""The one table of what is allowed in a CSV, what is said when it is not, and what is put right without asking.

Every other file of `sheet` finds things; what they are called, how they are mended and where the limits lie stands
only here, so a fast way of reading cannot drift from the exact one. Sentences never hold a full address: `mask`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import NamedTuple

from dropzone.errors import Problem, printable

ROW_LIMIT = 1 << 20  # characters of a row, its newlines in quotes counted, its line end not
KEPT_OF_LONG_LINE = 1 << 10  # characters of a line over the limit that the rejects carry
MAX_COLUMNS = 1_000
BLANKS = " \t"
# Unicode's control characters (C0, DEL, C1) but tab, which is a blank, and LF, which is the line end here.
CONTROLS = "\0-\x08\x0b-\x1f\x7f-\x9f"
DELIMITERS = (",", ";", "\t")
DIGEST_DIGITS = {"md5": 32, "sha256": 64, "sha512": 128}
SHOWN = 60  # characters of a partner's text that a sentence quotes


class Rule(Enum):
    """What can be wrong: what is said about it, and what would be right. Braces are filled in by `problem`."""

    # of the file: nothing more is read
    EMPTY = ("the file is empty", "hand over at least the header line")
    GZIP = ("the file is packed with gzip, but its name does not say so", "name it .csv.gz, or unpack it first")
    ZIP = ("the file is a ZIP archive or an Excel workbook", "save the sheet as CSV (UTF-8)")
    WIDE = (
        "the text is UTF-32, or UTF-16 without a byte order mark",
        "save it as UTF-8, or as UTF-16 with a byte order mark",
    )
    NUL = ("a NUL character: this is no text, or the file is damaged", "make the file again, as UTF-8")
    TOO_BIG = ("the file is larger than {limit:,} bytes{unpacked}", "split it, or raise `max_bytes` of the folder")
    BROKEN_GZIP = ("the gzip file cannot be unpacked: {why}", "hand it over again")
    # of the header: no row is read
    NO_HEADER = (
        "the header line is missing: the file has several columns and begins with an address or digest",
        "put a line with the names of the columns first, such as email,varr_firstname",
    )
    NO_EMAIL = (
        "no column is called email (found: {names})",
        "name the column of the addresses email, or map its name with `rename` of the folder",
    )
    DELIMITER = (
        "the columns are separated by {found}, but the folder expects {expected}",
        "set `delimiter: auto` for the folder, or separate them by {expected}",
    )
    MANY_COLUMNS = ("{count:,} columns; at most {most:,} are allowed", "leave out the columns that are not needed")
    NAMELESS = ("column number {number} has no name", "name it, or take the column out")
    UNKNOWN = (
        "OptiPub knows no column {name}",
        "call it varr_…, map it with `rename`, or set `unknown_columns` of the folder",
    )
    TWICE = ("the column {name} is there twice", "leave one of them out, or call it something else")
    # of a row: the row is bad
    UNDECODABLE = (
        "the byte 0x{byte:02X} is not valid {encoding}",
        "save the file as UTF-8, or set `encoding` of the folder to what it is in",
    )
    TOO_LONG = ("the line is longer than {limit:,} characters", "look for line ends that got lost")
    CONTROL = ("the control character U+{code:04X}", "take it out")
    STRAY_QUOTE = (
        "a quote inside a cell that does not begin with one",
        "put the whole cell in quotes and write each quote inside it twice",
    )
    AFTER_QUOTE = (
        "text after a closing quote",
        "put the whole cell in quotes and write each quote inside it twice",
    )
    OPEN_QUOTE = ("the quote that opens here is never closed", "close it, or take it out")
    FIELDS = (
        "the number of fields is {found:,}, but the header has {expected:,}",
        "put cells that hold the delimiter in quotes; keep a place for empty cells",
    )
    NO_ADDRESS = ("the address is missing", "leave rows without an address out")
    ADDRESS = ("{masked} is no address: {why}", "write one address, such as jane@example.com")
    DIGEST_FOR_ADDRESS = (
        "a digest of {found} digits where an address belongs",
        "hand over addresses, or use a suppress folder whose `hash` is that of the file",
    )
    DIGEST_LENGTH = ("the digest has {found} characters; {hash} has {expected}", "write {hash} digests in hexadecimal")
    DIGEST_ALPHABET = (
        "the digest holds a character that is no hexadecimal digit",
        "write {hash} digests with 0-9 and a-f only",
    )
    LEAK = (
        "{masked} is a plain address in a file of {hash} digests",
        "hand over digests only, or set `hash_plain: true` of the folder to have addresses hashed here",
    )

    # of two rows: not bad, but counted, and refused where the folder says so
    REPEATED = ("{masked} stands in line {before:,} already", "leave one of the two rows out")

    def __init__(self, what: str, hint: str) -> None:
        self.what = what
        self.hint = hint


class Repair(StrEnum):
    """What is put right, because only one reading is possible; in the order in which a report names them."""

    MARK = "byte order mark left out"
    ENCODING = "text in {encoding} written as UTF-8"
    CRLF = "line ends CRLF written as LF"
    CR = "line ends CR written as LF"
    LAST_LINE_END = "line end added to the last line"
    DELIMITER = "delimiter {delimiter} written as comma"
    HEADER = "header line added"
    NAME_QUOTES = "quotes around column names left out"
    NAME_CASE = "column names trimmed or written in lower case"
    RENAMED = "columns renamed as the folder says"
    PREFIXED = "unknown columns given names that begin with varr_"
    DROPPED = "unknown columns left out"
    MOVED = "column email moved to the front"
    BLANK_LINES = "blank lines left out"
    BLANKS = "cells with blanks around them trimmed"
    QUOTED = "cells with a comma put in quotes"
    LOWERED = "digests written in lower case"
    HASHED = "addresses replaced by their {hash} digest"
    SUPERSEDED = "earlier rows of a repeated address left out"


class Refusal(Exception):
    """The file cannot be read as a list. `problems` are all that were found, in the order of the file.

    `guard` names the guard of the folder that ended the reading, where it was one.
    """

    def __init__(self, why: str, *problems: Problem, guard: str = "") -> None:
        super().__init__(why)
        self.guard = guard
        self.why = why
        self.problems = problems


class Fault(NamedTuple):
    """A broken rule, found `at` so many characters after the start of a row. `facts` fill in its sentences."""

    rule: Rule
    at: int
    facts: Mapping[str, object] = MappingProxyType({})


def problem(rule: Rule, line: int, column: int, subject: str = "", **facts: object) -> Problem:
    """`rule` broken at a place, with its sentences filled in."""
    what, hint = rule.what.format(**facts), rule.hint.format(**facts)
    return Problem(line=line, column=column, what=what, hint=hint, subject=subject)


def refusal(rule: Rule, line: int = 0, column: int = 0, **facts: object) -> Refusal:
    """The refusal of a whole file for one broken rule."""
    found = problem(rule, line, column, "", **facts)
    why = f"line {line:,}: {found.what}" if line > 1 else found.what
    return Refusal(why, found, guard="max_bytes" if rule is Rule.TOO_BIG else "")


# ----------------------------------------------------------------------------------------------------- columns

TAG_COLUMNS = frozenset(f"{who}tag-{does}" for who in ("", "subscriber-") for does in ("add", "remove", "replace"))
_VARIABLE = re.compile(r"varr_[a-z0-9_]+")


def is_known(name: str) -> bool:
    """Whether OptiPub documents a column of this name."""
    return name == "email" or name in TAG_COLUMNS or bool(_VARIABLE.fullmatch(name))


# --------------------------------------------------------------------------------------------------- addresses

# Invisible in every editor, and pasted along from web pages and mail programs: a no-break space, a soft hyphen,
# zero-width and direction marks, a stray byte order mark. Ranges instead of `str.isprintable`, whose answer would
# change with the Unicode version of the Python that runs.
_UNSEEN = "\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufe00-\ufe0f\ufeff\ufff0-\ufffb"
_WIDE = rf"[^\x00-\x7f{_UNSEEN}\ud800-\udfff]"  # what non-ASCII local parts and IDN domains may consist of
ATOM = "A-Za-z0-9!#$%&'*+/=?^_`{|}~-"  # the ASCII characters that a local part may consist of, dots aside
# Nothing here is possessive: Python 3.11.2, which Debian 12 has, mismatches possessive groups in one another (seen).
# Nothing has to be: each text can be read in one way only, so a mismatch is found without trying others.
_ATOM = rf"(?:[{ATOM}]|{_WIDE})+"
_ALNUM = rf"(?:[A-Za-z0-9]|{_WIDE})"
_LABEL = rf"(?=[^.@]{{1,63}}(?:\.|\Z)){_ALNUM}+(?:-+{_ALNUM}+)*"
_ADDRESS = re.compile(
    # The shape of the HTML standard, plus: no leading, trailing or double dot in the local part, at least one dot in
    # the domain, the lengths of RFC 5321 (64 before the @, 254 in all, 63 in a label), no all-digit top level.
    rf"(?=.{{1,254}}\Z)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+(?![0-9]+\Z){_LABEL}\Z",
)

# Why an address is none, for people: the first that applies. Only asked once `_ADDRESS` has said no.
_REASONS = (
    (re.compile(r"[^@]*+\Z"), "it has no @"),
    (re.compile(r"[^@]*+@[^@]*+@"), "it has more than one @"),
    (re.compile(r".*?[ \t\n]", re.DOTALL), "it has a blank in it"),
    (re.compile(rf".*?[{_UNSEEN}]", re.DOTALL), "it has an invisible character in it"),
    (re.compile(r".*?[,;<>\"()\[\]:\\]"), "it has a character in it that no address has"),
    (re.compile(r"@"), "there is nothing before the @"),
    (re.compile(r".*@\Z"), "there is nothing after the @"),
    (re.compile(r"[^@]{65}"), "more than 64 characters stand before the @"),
    (re.compile(r"(\.|[^@]*(\.\.|\.@))"), "a dot before the @ stands first, last or doubled"),
    (re.compile(r"[^.@]*(\.[^.@]*)*@[^.]*\Z"), "the domain has no dot"),
    (re.compile(r".*@(.*\.)?(\.|\Z|-|[^.]*-(\.|\Z)|[^.]{64})"), "a part of the domain is empty, too long or ends in -"),
    (re.compile(r".*\.[0-9]+\Z"), "the domain ends in a number"),
)


def is_address(text: str) -> bool:
    """Whether `text` has the form of an address that mail can be sent to."""
    return _ADDRESS.match(text) is not None


def why_no_address(text: str) -> str:
    """What is wrong with `text`, which is no address, as the end of a sentence."""
    if len(text) > 254:  # first, so that the reasons above need not be fast on a million characters
        return "it is longer than 254 characters"
    return next((why for pattern, why in _REASONS if pattern.match(text)), "it has a character that no address has")


def mask(address: str) -> str:
    """`address` as logs may show it: ``j…@example.com``; one printable line, whatever it holds.

    Of a text with several @ only what follows the last one is shown: before it another address may stand.
    """
    local, at, domain = address.rpartition("@")
    return shown(f"{local[:1]}…@{domain}" if at else f"{domain[:1]}…")


def shown(text: str) -> str:
    """`text`, which a partner chose, as a short printable piece of a sentence."""
    return printable(text[: SHOWN - 1] + "…" if len(text) > SHOWN else text)
