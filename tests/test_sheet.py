"""The CSV: every rule, repair, encoding and cut, bounded memory, and properties against Python's csv module.

The rules are walked by their table: a rule or a repair without a file of its own here fails the test.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import random
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropzone.config import Folder
from dropzone.drop import MAX_PROBLEMS, Report
from dropzone.errors import Cancelled, Problem
from dropzone.sheet import check, mask
from dropzone.sheet.held import HeldRows
from dropzone.sheet.repeats import FIRST, Repeats
from dropzone.sheet.rows import Cell, Dialect
from dropzone.sheet.rules import ROW_LIMIT, Repair, Rule, is_address, why_no_address

MD5 = hashlib.md5(b"jane@example.com", usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(b"jane@example.com").hexdigest()
SHA512 = hashlib.sha512(b"jane@example.com").hexdigest()
DIGESTS = {"md5": MD5, "sha256": SHA256, "sha512": SHA512}

HASHED: dict[str, Any] = {"mode": "suppress", "hash": "md5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    report: Report
    prepared: bytes
    rejects: bytes

    @property
    def repairs(self) -> dict[str, int]:
        return dict(self.report.repairs)


class Trickle(io.RawIOBase):
    """A source that gives one byte at a time, as a slow pipe may."""

    def __init__(self, content: bytes) -> None:
        self._inner = io.BytesIO(content)

    def read(self, size: int = -1, /) -> bytes:
        return self._inner.read(min(size, 1))


class Stream:
    """A source that is made while it is read, so that only what `check` keeps is in memory. Counts its reads."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


class Nowhere:
    """Takes what is written and remembers how much it was."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, piece: bytes, /) -> None:
        self.size += len(piece)


def folder(**keys: Any) -> Folder:
    place = {"name": "acme", "base": "/srv", "path": "/srv/inbox/acme", "account": "main", "segment_id": 1}
    return Folder.from_settings(json.dumps({**place, "mode": "lead", **keys}))


def run(content: bytes, *, compressed: bool = False, chunk: int = 1 << 16, slow: bool = False, **keys: Any) -> Outcome:
    source = Trickle(content) if slow else io.BytesIO(content)
    prepared, rejects = io.BytesIO(), io.BytesIO()
    report = check(source, prepared, rejects, folder(**keys), compressed=compressed, chunk=chunk)
    return Outcome(report=report, prepared=prepared.getvalue(), rejects=rejects.getvalue())


# ------------------------------------------------------------------------------------------------------ the rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A file that breaks one rule and no other."""

    content: bytes
    line: int
    column: int
    what: str
    hint: str
    subject: str = ""
    keys: dict[str, Any]
    compressed: bool = False


def breach(
    content: bytes, line: int, column: int, what: str, hint: str, subject: str = "", *, gz: bool = False, **keys: Any
) -> Breach:
    return Breach(
        content=content, line=line, column=column, what=what, hint=hint, subject=subject, keys=keys, compressed=gz
    )


_TWICE_QUOTED = "put the whole cell in quotes and write each quote inside it twice"

BREACHES = {
    Rule.EMPTY: breach(b" \n,\n", 0, 0, "the file is empty", "hand over at least the header line"),
    Rule.GZIP: breach(
        gzip.compress(b"email\n"),
        1,
        1,
        "the file is packed with gzip, but its name does not say so",
        "name it .csv.gz, or unpack it first",
    ),
    Rule.ZIP: breach(
        b"PK\x03\x04[Content_Types].xml",
        1,
        1,
        "the file is a ZIP archive or an Excel workbook",
        "save the sheet as CSV (UTF-8)",
    ),
    Rule.WIDE: breach(
        "email\n".encode("utf-16-le"),
        1,
        1,
        "the text is UTF-32, or UTF-16 without a byte order mark",
        "save it as UTF-8, or as UTF-16 with a byte order mark",
    ),
    Rule.NUL: breach(
        b"email\na@b.co\nc\0@d.org\n",
        3,
        2,
        "a NUL character: this is no text, or the file is damaged",
        "make the file again, as UTF-8",
    ),
    Rule.TOO_BIG: breach(
        gzip.compress(b"email\n" + b"a@b.co\n" * 1000),
        0,
        0,
        "the file is larger than 1,024 bytes when unpacked",
        "split it, or raise `max_bytes` of the folder",
        gz=True,
        guards={"max_bytes": "1KiB"},
    ),
    Rule.BROKEN_GZIP: breach(
        gzip.compress(b"email\na@b.co\n")[:-9],
        0,
        0,
        "the gzip file cannot be unpacked: it ends too early",
        "hand it over again",
        gz=True,
    ),
    Rule.NO_HEADER: breach(
        b"jane@example.com,Jane\nbob@example.com,Bob\n",
        1,
        1,
        "the header line is missing: the file has several columns and begins with an address or digest",
        "put a line with the names of the columns first, such as email,varr_firstname",
    ),
    Rule.NO_EMAIL: breach(
        b"\nvarr_mail,varr_name\n",
        2,
        1,
        "no column is called email (found: varr_mail, varr_name)",
        "name the column of the addresses email, or map its name with `rename` of the folder",
    ),
    Rule.DELIMITER: breach(
        b"email;varr_name\na@b.co;Ann\n",
        1,
        1,
        "the columns are separated by a semicolon, but the folder expects a comma",
        "set `delimiter: auto` for the folder, or separate them by a comma",
    ),
    Rule.MANY_COLUMNS: breach(
        b"email" + b"".join(b",varr_%d" % number for number in range(1000)) + b"\n",
        1,
        1,
        "1,001 columns; at most 1,000 are allowed",
        "leave out the columns that are not needed",
    ),
    Rule.NAMELESS: breach(b"email, ,varr_x\n", 1, 8, "column number 2 has no name", "name it, or take the column out"),
    Rule.UNKNOWN: breach(
        b"email, First Name\n",
        1,
        8,
        "OptiPub knows no column first name",
        "call it varr_…, map it with `rename`, or set `unknown_columns` of the folder",
    ),
    Rule.TWICE: breach(
        b"email,varr_a,VARR_A\n",
        1,
        14,
        "the column varr_a is there twice",
        "leave one of them out, or call it something else",
    ),
    Rule.UNDECODABLE: breach(
        b"email,varr_name\na@b.co,J\xfcrgen\n",
        2,
        9,
        "the byte 0xFC is not valid utf-8",
        "save the file as UTF-8, or set `encoding` of the folder to what it is in",
        "varr_name",
    ),
    Rule.TOO_LONG: breach(
        b"email,varr_name\na@b.co," + b"x" * ROW_LIMIT + b"\n",
        2,
        1,
        "the line is longer than 1,048,576 characters",
        "look for line ends that got lost",
    ),
    Rule.CONTROL: breach(
        b'email,varr_name\na@b.co,"Ann\nLo\x07u"\n',
        3,
        3,
        "the control character U+0007",
        "take it out",
        "varr_name",
    ),
    Rule.STRAY_QUOTE: breach(
        b'email,varr_name\na@b.co, Ann "Lou"\n',
        2,
        13,
        "a quote inside a cell that does not begin with one",
        _TWICE_QUOTED,
        "varr_name",
    ),
    Rule.AFTER_QUOTE: breach(
        b'email,varr_name\na@b.co,"Ann" Lou\n', 2, 14, "text after a closing quote", _TWICE_QUOTED, "varr_name"
    ),
    Rule.OPEN_QUOTE: breach(
        b'email,varr_name\na@b.co, "Ann\n',
        2,
        9,
        "the quote that opens here is never closed",
        "close it, or take it out",
        "varr_name",
    ),
    Rule.FIELDS: breach(
        b"email,varr_name\na@b.co,Lou, Ann\n",
        2,
        1,
        "the number of fields is 3, but the header has 2",
        "put cells that hold the delimiter in quotes; keep a place for empty cells",
    ),
    Rule.NO_ADDRESS: breach(
        b"varr_name,email\nAnn, \n", 2, 6, "the address is missing", "leave rows without an address out", "email"
    ),
    Rule.ADDRESS: breach(
        b"varr_name,email\nAnn,  ann@example\n",
        2,
        7,
        "a…@example is no address: the domain has no dot",
        "write one address, such as jane@example.com",
        "email",
    ),
    Rule.DIGEST_FOR_ADDRESS: breach(
        b"email\n" + SHA256.encode() + b"\n",
        2,
        1,
        "a digest of 64 digits where an address belongs",
        "hand over addresses, or use a suppress folder whose `hash` is that of the file",
        "email",
        mode="suppress",
        hash="none",
    ),
    Rule.DIGEST_LENGTH: breach(
        b"email\n" + SHA256.encode() + b"\n",
        2,
        1,
        "the digest has 64 characters; md5 has 32",
        "write md5 digests in hexadecimal",
        "email",
        **HASHED,
    ),
    Rule.DIGEST_ALPHABET: breach(
        b"email\n" + MD5[1:].encode() + b"g\n",
        2,
        1,
        "the digest holds a character that is no hexadecimal digit",
        "write md5 digests with 0-9 and a-f only",
        "email",
        **HASHED,
    ),
    Rule.LEAK: breach(
        b"email\n jane.doe@example.com\n",
        2,
        2,
        "j…@example.com is a plain address in a file of md5 digests",
        "hand over digests only, or set `hash_plain: true` of the folder to have addresses hashed here",
        "email",
        **HASHED,
    ),
}

# Rules that end the reading, so that there are no counts; the others make one row bad.
_OF_FILE = list(BREACHES)[: list(BREACHES).index(Rule.UNDECODABLE)]


def test_every_rule_has_a_file_that_breaks_it() -> None:
    """The table of rules and the table of breaches name the same rules (a repeat is no breach and has its own test)."""
    assert list(BREACHES) == [rule for rule in Rule if rule is not Rule.REPEATED]


@pytest.mark.parametrize("rule", BREACHES, ids=lambda rule: rule.name)
def test_each_rule_is_told_with_place_reason_and_hint(rule: Rule) -> None:
    """A file that breaks just one rule gives just that problem, and the sentences of the table filled in."""
    case = BREACHES[rule]
    report = run(case.content, compressed=case.compressed, **case.keys).report
    assert report.problems == (
        Problem(line=case.line, column=case.column, what=case.what, hint=case.hint, subject=case.subject),
    )
    assert report.problem_count == 1
    assert report.refused


@pytest.mark.parametrize("rule", _OF_FILE, ids=lambda rule: rule.name)
def test_a_file_that_is_no_list_is_refused_in_the_words_of_its_problem(rule: Rule) -> None:
    """What ends the reading is what the file is refused for, and nothing is counted."""
    case = BREACHES[rule]
    outcome = run(case.content, compressed=case.compressed, bad_rows=100, **case.keys)
    assert outcome.report.refused.endswith(case.what)
    assert (outcome.report.rows, outcome.report.repairs, outcome.rejects) == (0, (), b"")


@pytest.mark.parametrize("rule", [rule for rule in BREACHES if rule not in _OF_FILE], ids=lambda rule: rule.name)
def test_a_bad_row_leaves_the_others_alone(rule: Rule) -> None:
    """With a tolerance the same file passes, its bad row goes to the rejects and a good one before it goes out."""
    case = BREACHES[rule]
    head, rest = case.content.split(b"\n", 1)
    entry = MD5.encode() if case.keys.get("hash") == "md5" else b"ok@example.com"
    good = b",".join(entry if name == b"email" else b"x" for name in head.split(b","))
    outcome = run(head + b"\n" + good + b"\n" + rest, bad_rows=1, **case.keys)
    assert outcome.report.problems[0].line == case.line + 1
    assert (outcome.report.rows, outcome.report.good_rows, outcome.report.bad_rows) == (2, 1, 1)
    assert outcome.rejects.startswith(b"line,reason," + head + b"\n3,")
    assert outcome.prepared.count(b"\n") == 2
    assert bool(outcome.report.refused) == (rule is Rule.LEAK)


def test_no_sentence_holds_a_full_address() -> None:
    """Whatever is wrong with an address, only its first letter and its domain are told; the rejects have it whole."""
    rows = [b"jane.doe@example", b"jane.doe@@example.com", b"jane.doe example.com", b"x@y.z;jane.doe@example.com",
            b"Jane <jane.doe@example.com>", b"jane.doe@example.com\xc2\xa0"]  # fmt: skip
    outcome = run(b"email\n" + b"\n".join(rows) + b"\n")
    assert outcome.report.bad_rows == len(rows)
    told = " ".join(f"{found.what} {found.hint}" for found in outcome.report.problems)
    assert "jane.doe" not in told
    assert outcome.rejects.count(b"jane.doe") == len(rows)


def test_several_problems_of_a_header_are_told_at_once() -> None:
    """A partner should not have to hand a file over four times to learn of four columns."""
    report = run(b"mail,first name,,varr_a,varr_a\n").report
    assert [(found.column, found.what) for found in report.problems] == [
        (1, "no column is called email (found: mail, first name, , varr_a, varr_a)"),
        (1, "OptiPub knows no column mail"),
        (6, "OptiPub knows no column first name"),
        (17, "column number 3 has no name"),
        (25, "the column varr_a is there twice"),
    ]
    assert report.refused.endswith("(the first of 5 problems in the header line)")


@pytest.mark.parametrize(
    ("content", "place", "what"),
    [
        (b'email,"varr_a\n', (1, 7), "the quote that opens here is never closed"),
        (b"email,varr_\x01a\n", (1, 12), "the control character U+0001"),
        (b"email,varr_\xe4\n", (1, 12), "the byte 0xE4 is not valid utf-8"),
        (b"email" + b"," * ROW_LIMIT + b"\n", (1, 1), "the line is longer than 1,048,576 characters"),
        (b"jane@example.com " * 70_000, (1, 1), "the line is longer than 1,048,576 characters"),
    ],
)
def test_a_header_that_cannot_be_read_refuses_the_file(content: bytes, place: tuple[int, int], what: str) -> None:
    """What would make a row bad leaves no header to read the rows by."""
    report = run(content, bad_rows=100).report
    assert [(found.line, found.column, found.what) for found in report.problems] == [(*place, what)]
    assert report.refused == f"the header line cannot be read: {what}"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (b'a@b.co,"x\nb@b.co,"y"\n', [(2, 8, Rule.OPEN_QUOTE)]),  # the row of line 3 is not lost
        (b'a@b.co,"x\nb@b.co,y\nc@b.co,z\n', [(2, 8, Rule.OPEN_QUOTE)]),
        (b'a@b.co,"x\ny" z\n', [(2, 8, Rule.OPEN_QUOTE), (3, 2, Rule.STRAY_QUOTE)]),
        (b'a@b.co,"x"y"\nb@b.co,y\n', [(2, 11, Rule.AFTER_QUOTE)]),
        (b'a@b.co,"x\ny",z\nb@b.co,y\n', [(2, 1, Rule.FIELDS)]),  # well quoted: both lines are one bad row
        (b'a@b.co,x\x01"y\n', [(2, 9, Rule.CONTROL)]),
        (b'a@b.co,"x"y\x01\n', [(2, 11, Rule.AFTER_QUOTE)]),
        (b"a@b.co,\xc2\x85,x\n", [(2, 8, Rule.CONTROL)]),  # a control character counts before the fields
        (b'a@b.co,"x\xff\n', [(2, 10, Rule.UNDECODABLE)]),  # and what does not decode before all
        (b"x,x,x\n", [(2, 1, Rule.FIELDS)]),  # the fields before the address
        (b"a@b.co,\x7f\nb@b.co,\xc2\x9f\n", [(2, 8, Rule.CONTROL), (3, 8, Rule.CONTROL)]),
    ],
)
def test_one_problem_for_each_bad_row(rows: bytes, expected: list[tuple[int, int, Rule]]) -> None:
    """The first that is wrong is told, at its place; after wrong quotes reading goes on at the next physical line."""
    report = run(b"email,varr_x\n" + rows).report
    found = [(each.line, each.column, each.what) for each in report.problems]
    assert [place for *place, _ in found] == [list(place) for *place, _ in expected]
    for (_, _, what), (_, _, rule) in zip(found, expected, strict=True):
        assert re.fullmatch(re.sub(r"\\\{.*?\\\}", ".*", re.escape(rule.what)), what)


# ------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "address",
    [
        "jane@example.com",
        "a@b.co",
        "jane.doe+tag@mail.example.co.uk",
        "o'hara!#$%&*/=?^_`{|}~-@example.com",
        "jürgen@example.com",
        "jane@müller.example",
        "用户@例子.公司",
        "jane@xn--mller-kva.example",
        "1@2.x3",
        "a" * 64 + "@example.com",
        "a@" + "b" * 63 + ".com",
        "a@" + ".".join(["b" * 61] * 4) + ".comx",  # 254 characters
        "a@b--c.com",
    ],
)
def test_addresses(address: str) -> None:
    """What mail can be sent to passes, in any script."""
    assert is_address(address)
    assert run(f"email\n{address}\n".encode()).prepared.decode() == f"email\n{address}\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("jane", "it has no @"),
        ("jane@doe@example.com", "it has more than one @"),
        ("jane doe@example.com", "it has a blank in it"),
        ("jane@example.com\u200b", "it has an invisible character in it"),
        ("jane@example.com\u00a0", "it has an invisible character in it"),
        ("\ufeffjane@example.com", "it has an invisible character in it"),
        ("<jane@example.com>", "it has a character in it that no address has"),
        ("jane@example.com;", "it has a character in it that no address has"),
        ("@example.com", "there is nothing before the @"),
        ("jane@", "there is nothing after the @"),
        ("a" * 65 + "@example.com", "more than 64 characters stand before the @"),
        ("a@" + "b." * 130 + "com", "it is longer than 254 characters"),
        (".jane@example.com", "a dot before the @ stands first, last or doubled"),
        ("jane.@example.com", "a dot before the @ stands first, last or doubled"),
        ("jane..doe@example.com", "a dot before the @ stands first, last or doubled"),
        ("jane@localhost", "the domain has no dot"),
        ("jane@.com", "a part of the domain is empty, too long or ends in -"),
        ("jane@example.com.", "a part of the domain is empty, too long or ends in -"),
        ("jane@exa..mple.com", "a part of the domain is empty, too long or ends in -"),
        ("jane@-example.com", "a part of the domain is empty, too long or ends in -"),
        ("jane@example-.com", "a part of the domain is empty, too long or ends in -"),
        ("jane@example.com-", "a part of the domain is empty, too long or ends in -"),
        ("jane@" + "b" * 64 + ".com", "a part of the domain is empty, too long or ends in -"),
        ("jane@127.0.0.1", "the domain ends in a number"),
        ("jane@exam_ple.com", "it has a character that no address has"),
    ],
)
def test_no_addresses(text: str, why: str) -> None:
    """What mail cannot be sent to is told with the first reason that a person would find."""
    assert not is_address(text)
    assert why_no_address(text) == why


def test_a_long_cell_is_no_address_and_costs_nothing() -> None:
    """A megabyte in the address column is turned down by its length, and quoted in short."""
    report = run(b"email\n" + b"a." * 400_000 + b"@\n").report
    assert report.problems[0].what == "a…@ is no address: it is longer than 254 characters"
    report = run(b"email\na@" + b"b." * 400_000 + b"\n").report
    assert report.problems[0].what.startswith("a…@b.b.b.")
    assert len(report.problems[0].what) < 120


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("jane@example.com", "j…@example.com"),
        ("j@example.com", "j…@example.com"),
        ("a@b.co;jane@example.com", "a…@example.com"),
        ("jane", "j…"),
        ("", "…"),
        ("@example.com", "…@example.com"),
        ("jane@", "j…@"),
        ("jane@ex\x1bample\n.com", "j…@ex\\x1bample\\x0a.com"),
    ],
)
def test_mask(address: str, masked: str) -> None:
    """A masked address is one harmless line with the first letter and the domain, whatever came in."""
    assert mask(address) == masked


# -------------------------------------------------------------------------------------------------------- repairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A file that needs one repair, and what comes of it."""

    content: bytes
    prepared: bytes
    count: int = 1
    keys: dict[str, Any]
    sentence: str = ""


def mended(content: bytes, prepared: bytes, count: int = 1, *, says: str = "", **keys: Any) -> Mended:
    return Mended(content=content, prepared=prepared, count=count, keys=keys, sentence=says)


_ANN = b"email,varr_name\na@b.co,Ann\n"

REPAIRS = {
    Repair.MARK: mended(codecs.BOM_UTF8 + _ANN, _ANN),
    Repair.ENCODING: mended(
        "email,varr_name\na@b.co,Jürgen €\n".encode("cp1252"),
        "email,varr_name\na@b.co,Jürgen €\n".encode(),
        encoding="cp1252",
        says="text in cp1252 written as UTF-8",
    ),
    Repair.CRLF: mended(b'email,varr_name\r\na@b.co,"Ann\r\nLou"\r\n', b'email,varr_name\na@b.co,"Ann\nLou"\n', 3),
    Repair.CR: mended(_ANN.replace(b"\n", b"\r"), _ANN, 2),
    Repair.LAST_LINE_END: mended(_ANN.removesuffix(b"\n"), _ANN),
    Repair.DELIMITER: mended(
        _ANN.replace(b",", b";"), _ANN, delimiter="auto", says="delimiter semicolon written as comma"
    ),
    Repair.HEADER: mended(b"a@b.co\nc@d.org\n", b"email\na@b.co\nc@d.org\n"),
    Repair.NAME_QUOTES: mended(b'"email","varr_name"\na@b.co,"Ann"\n', b'email,varr_name\na@b.co,"Ann"\n', 2),
    Repair.NAME_CASE: mended(b"Email,varr_name , varr_x\na@b.co,Ann,\n", b"email,varr_name,varr_x\na@b.co,Ann,\n", 3),
    Repair.RENAMED: mended(
        b"mail,first name\na@b.co,Ann\n", _ANN, 2, rename={" Mail": "email", "First Name": "varr_name"}
    ),
    Repair.PREFIXED: mended(
        b"email,first name,varr_v-1\na@b.co,Ann,\n",
        b"email,varr_first_name,varr_v_1\na@b.co,Ann,\n",
        2,
        unknown_columns="prefix",
    ),
    Repair.DROPPED: mended(b"id,email,varr_name,,id\n1,a@b.co,Ann,,\n", _ANN, 3, unknown_columns="drop"),
    Repair.MOVED: mended(b"varr_name,email,varr_x\nAnn,a@b.co,1\n", b"email,varr_name,varr_x\na@b.co,Ann,1\n"),
    Repair.BLANK_LINES: mended(b"\n , \n" + _ANN + b",\n\t\n\n", _ANN, 5),
    Repair.BLANKS: mended(
        b'email,varr_name\n " a@b.co " , Ann\t\nb@b.co, " Lou " \n',
        b'email,varr_name\n"a@b.co",Ann\nb@b.co," Lou "\n',
        3,
    ),
    Repair.QUOTED: mended(
        b'email\tvarr_name\na@b.co\tLou, Ann\nb@b.co\t"1,2"\n',
        b'email,varr_name\na@b.co,"Lou, Ann"\nb@b.co,"1,2"\n',
        delimiter="tab",
    ),
    Repair.LOWERED: mended(
        f'email\n{MD5.upper()}\n"{MD5.upper()}"\n'.encode(), f'email\n{MD5}\n"{MD5}"\n'.encode(), 2, **HASHED
    ),
    Repair.HASHED: mended(
        b'email\njane@example.com\n"Jane@Example.COM"\n',
        f'email\n{SHA512}\n"{SHA512}"\n'.encode(),
        2,
        mode="suppress",
        hash="sha512",
        hash_plain=True,
        says="addresses replaced by their sha512 digest",
    ),
    Repair.SUPERSEDED: mended(
        b'email,varr_name\na@b.co,1\nb@b.co,"2\n2"\nA@b.co,3\na@b.co,4\nc@b.co,5\n',
        b'email,varr_name\nb@b.co,"2\n2"\na@b.co,4\nc@b.co,5\n',
        2,
        repeats="last",
    ),
}

# Repairs that their example needs beside its own: the delimiter of the cells that a comma is quoted in.
_BESIDE = {Repair.QUOTED: {"delimiter tab written as comma": 1}}


def test_every_repair_has_a_file_that_needs_it() -> None:
    """The table of repairs and the table of files name the same repairs."""
    assert set(REPAIRS) == set(Repair)


@pytest.mark.parametrize("repair", REPAIRS, ids=lambda repair: repair.name)
def test_each_repair_is_made_and_counted(repair: Repair) -> None:
    """A file with one flaw is put right, the flaw is named and counted, and nothing else is."""
    case = REPAIRS[repair]
    outcome = run(case.content, **case.keys)
    assert outcome.prepared == case.prepared
    assert outcome.repairs == {case.sentence or str(repair): case.count} | _BESIDE.get(repair, {})
    assert outcome.report.refused == ""
    assert outcome.rejects == b""


def test_repairs_are_plain_words_and_numbers_in_the_order_of_the_table() -> None:
    """The report is stored and sent as JSON: no enum and no truth value may hide in it."""
    outcome = run(codecs.BOM_UTF8 + b" a@b.co\r\n;\r\nb@b.co", delimiter="auto")
    assert json.dumps(outcome.report.repairs) == json.dumps(
        [
            ["byte order mark left out", 1],
            ["line ends CRLF written as LF", 2],
            ["line end added to the last line", 1],
            ["header line added", 1],
            ["cells with blanks around them trimmed", 1],
        ]
    )


def test_repairs_of_bad_rows_do_not_count() -> None:
    """What is not sent was not repaired; its line ends were read all the same."""
    outcome = run(b"email,varr_x\r\n a , b\r\n", bad_rows=1)
    assert outcome.repairs == {"line ends CRLF written as LF": 2}
    assert outcome.rejects.splitlines()[1].endswith(b", a , b")


# ---------------------------------------------------------------------------------------- encodings and line ends

_TEXT = 'email,varr_name\nj@b.co,Jürgen €\nk@b.co,"Zoë\n2"\n'


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("encoding", "mark", "configured"),
    [
        ("utf-8", b"", "utf-8"),
        ("utf-8", codecs.BOM_UTF8, "utf-8"),
        ("utf-8", codecs.BOM_UTF8, "cp1252"),  # the mark says more than the folder
        ("utf-16-le", codecs.BOM_UTF16_LE, "utf-8"),
        ("utf-16-be", codecs.BOM_UTF16_BE, "utf-8"),
        ("cp1252", b"", "cp1252"),
        ("iso8859-15", b"", "iso8859-15"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 16])
def test_every_encoding_with_every_line_end(end: str, encoding: str, mark: bytes, configured: str, chunk: int) -> None:
    """The same text comes out in UTF-8 with LF, wherever the bytes are cut."""
    content = mark + _TEXT.replace("\n", end).encode(encoding)
    outcome = run(content, encoding=configured, chunk=chunk, slow=True)
    assert outcome.prepared.decode() == _TEXT
    assert (outcome.report.rows, outcome.report.good_rows, outcome.report.refused) == (2, 2, "")
    assert outcome.report.bytes_read == len(content)


def test_undecodable_bytes_stay_as_they_were_in_the_rejects() -> None:
    """A byte is told by line and column in characters, never replaced, and the partner gets it back."""
    outcome = run("email,varr_x\na@b.co,Zoë\n".encode() + b"b@b.co,\xc3\xabx\xe4\x80y\xff\n", bad_rows=1)
    assert outcome.report.problems[0].at("f.csv") == (
        "f.csv:3:10: varr_x: the byte 0xE4 is not valid utf-8 "
        "(save the file as UTF-8, or set `encoding` of the folder to what it is in)"
    )
    assert outcome.rejects.splitlines()[1] == (
        b'3,"varr_x: the byte 0xE4 is not valid utf-8",b@b.co,\xc3\xabx\xe4\x80y\xff'
    )
    assert outcome.prepared.decode() == "email,varr_x\na@b.co,Zoë\n"


@pytest.mark.parametrize(
    ("content", "line", "column", "byte"),
    [
        (
            codecs.BOM_UTF16_LE + "email\na@b.co".encode("utf-16-le") + b"\x41\xd8" + "\n".encode("utf-16-le"),
            2,
            7,
            0x41,
        ),
        (codecs.BOM_UTF16_LE + "email\na@b.co\nx".encode("utf-16-le") + b"\x41", 3, 2, 0x41),  # half a character
        (b"email\na@b.co\xc3", 2, 7, 0xC3),
        (b"email\na@b.co\xed\xa0\x80\n", 2, 7, 0xED),  # a surrogate in UTF-8's clothes
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 16])
def test_broken_characters(content: bytes, line: int, column: int, byte: int, chunk: int) -> None:
    """Half characters and lone surrogates are found where they are, in UTF-16 as in UTF-8."""
    (found,) = run(content, chunk=chunk).report.problems
    assert (found.line, found.column) == (line, column)
    assert f"0x{byte:02X}" in found.what


def test_bytes_that_a_single_byte_encoding_lacks_are_bad() -> None:
    """cp1252 leaves five bytes undefined: they are no text, not something that looks like it."""
    report = run(b"email,varr_x\na@b.co,\x81\n", encoding="cp1252").report
    assert report.problems[0].what == "the byte 0x81 is not valid cp1252"


# --------------------------------------------------------------------------------------------- headers, delimiters


@pytest.mark.parametrize(
    ("header", "setting", "separated_by"),
    [
        ("email,varr_a", "auto", ","),
        ("email;varr_a", "auto", ";"),
        ("email\tvarr_a", "auto", "\t"),
        ('"email";"varr_a"', "auto", ";"),
        ("varr_a;E-Mail", "auto", ";"),
        ("email;varr_a", ";", ";"),
        ("email\tvarr_a", "tab", "\t"),
    ],
)
def test_delimiters(header: str, setting: str, separated_by: str) -> None:
    """A comma is taken unless the folder says otherwise or, with `auto`, the header proves another."""
    cells = ["1,5", "a@b.co"] if header.startswith("varr") else ["a@b.co", "1,5"]
    if separated_by == ",":
        cells[1] = '"1,5"'
    content = f"{header}\n{separated_by.join(cells)}\n"
    outcome = run(content.encode(), delimiter=setting, rename={"e-mail": "email"})
    assert outcome.prepared == b'email,varr_a\na@b.co,"1,5"\n'


def test_auto_takes_a_comma_where_the_header_proves_nothing() -> None:
    """A semicolon in a name proves nothing: the header must have an `email` by it."""
    report = run(b"varr_a;x,varr_b\n", delimiter="auto").report
    assert report.problems[0].what == "no column is called email (found: varr_a;x, varr_b)"


def test_a_tab_is_no_blank_where_it_separates() -> None:
    """Only spaces go around the cells of a file with tabs; an empty cell stays a cell."""
    outcome = run(b"email\tvarr_a\tvarr_b\n a@b.co \t\t x \n", delimiter="tab")
    assert outcome.prepared == b"email,varr_a,varr_b\na@b.co,,x\n"


@pytest.mark.parametrize("kind", ["none", "md5", "sha256", "sha512"])
def test_a_list_without_a_header(kind: str) -> None:
    """A file of one column may begin at once, with an address or a digest; the copy always has its header."""
    first = DIGESTS.get(kind, "jane@example.com")
    outcome = run(f'"{first}"\n'.encode(), mode="suppress", hash=kind)
    assert outcome.prepared == f'email\n"{first}"\n'.encode()
    assert outcome.report.columns == ("email",)
    assert outcome.repairs == {"header line added": 1}


def test_a_list_without_a_header_may_begin_with_a_bad_row() -> None:
    """A first line with an @ is an address gone wrong, not the name of a column, and never printed in full."""
    outcome = run(b"jane@localhost\nbob@example.com\n", bad_rows=1)
    assert outcome.prepared == b"email\nbob@example.com\n"
    assert outcome.rejects == (
        'line,reason,email\n1,"email: j…@localhost is no address: the domain has no dot",jane@localhost\n'.encode()
    )


@pytest.mark.parametrize("content", [b"a@b.co;Ann\n", b"a@b.co\tAnn\n", b'Ann,"a@b.co"\n', MD5.encode() + b",Ann\n"])
def test_several_columns_need_a_header(content: bytes) -> None:
    """Nobody can say which column is which, whatever separates them."""
    assert run(content).report.refused == BREACHES[Rule.NO_HEADER].what


def test_unknown_columns_are_kept_if_the_folder_says_so() -> None:
    """`keep` changes only their case; a name that holds a comma or a quote keeps its quotes."""
    outcome = run(b'email,First Name,"last, ""or"" only"\na@b.co,Ann,Lou\n', unknown_columns="keep")
    assert outcome.prepared == b'email,first name,"last, ""or"" only"\na@b.co,Ann,Lou\n'
    assert outcome.report.columns == ("email", "first name", 'last, "or" only')


def test_prefixed_names_that_meet_are_told() -> None:
    """Two names that become one would put two cells into one variable."""
    report = run(b"email,first name,First-Name\n", unknown_columns="prefix").report
    assert [(found.column, found.what) for found in report.problems] == [(18, "the column first-name is there twice")]


@pytest.mark.parametrize("policy", ["reject", "prefix", "keep"])
def test_a_column_without_a_name_can_only_be_dropped(policy: str) -> None:
    """There is nothing that it could be called."""
    assert run(b"email,\n", unknown_columns=policy).report.refused == "column number 2 has no name"
    assert run(b"email,\na@b.co,x\n", unknown_columns="drop").prepared == b"email\na@b.co\n"


def test_all_documented_columns_pass() -> None:
    """The tag columns of the vendor's guide go through in any case and order."""
    names = (
        "email,varr_x_1,tag-add,tag-remove,tag-replace,subscriber-tag-add,subscriber-tag-remove,subscriber-tag-replace"
    )
    report = run(f"{names}\n".encode()).report
    assert report.columns == tuple(names.split(","))
    assert (report.refused, report.rows) == ("", 0)  # no rows: a guard's business


def test_rename_decides_before_anything_else() -> None:
    """A name that the folder maps may be one that is unknown, and one that is `email` may become another."""
    outcome = run(b"email,Kontakt\nx,a@b.co\n", rename={"KONTAKT": "email", "email": "varr_old"})
    assert outcome.prepared == b"email,varr_old\na@b.co,x\n"


def test_a_thousand_columns_are_allowed() -> None:
    """The limit is a limit against nonsense, and a thousand is not yet."""
    header = b",".join([b"email", *(b"varr_%d" % number for number in range(999))])
    outcome = run(header + b"\na@b.co" + b"," * 999 + b"\n")
    assert (outcome.report.refused, len(outcome.report.columns), outcome.report.good_rows) == ("", 1000, 1)


# -------------------------------------------------------------------------------------------- modes, hashes, limits


@pytest.mark.parametrize("mode", ["subscribe", "unsubscribe", "lead"])
def test_addresses_go_out_as_they_came(mode: str) -> None:
    """Only the blanks around an address go; its case is the partner's."""
    sources: dict[str, Any] = {"source_campaign": 1, "source_partner": 2} if mode == "subscribe" else {}
    assert run(b"email\n Jane@Example.COM\n", mode=mode, **sources).prepared == b"email\nJane@Example.COM\n"


def test_a_suppression_list_without_hash_takes_addresses_only() -> None:
    """With `hash: none` an address goes out as it came, and a digest is told apart."""
    outcome = run(f"email\nJane@Example.COM\n{MD5}\n".encode(), mode="suppress", hash="none", bad_rows=1)
    assert outcome.prepared == b"email\nJane@Example.COM\n"
    assert "a digest of 32 digits" in outcome.report.problems[0].what


@pytest.mark.parametrize("kind", DIGESTS)
def test_addresses_are_hashed_trimmed_and_in_lower_case(kind: str) -> None:
    """The digest is that of the trimmed, lower-case address in UTF-8, and only in the column of the addresses."""
    content = 'varr_x,email\nJane@Example.com, " JANE@example.com "\n1,Jürgen@Müller.example\n'
    outcome = run(content.encode(), mode="suppress", hash=kind, hash_plain=True)
    other = hashlib.new(kind, "jürgen@müller.example".encode()).hexdigest()
    assert outcome.prepared.decode() == f'email,varr_x\n"{DIGESTS[kind]}",Jane@Example.com\n{other},1\n'


def test_what_is_no_address_is_not_hashed() -> None:
    """The digest of a mistyped address would suppress nobody, and nobody would ever see it again."""
    outcome = run(b"email\njane@localhost\nbob@example.com\n", hash_plain=True, bad_rows=1, **HASHED)
    assert outcome.report.problems[0].what == "j…@localhost is no address: the domain has no dot"
    assert outcome.report.good_rows == 1


def test_a_leak_refuses_whatever_the_tolerance() -> None:
    """A plain address in a hashed folder is no mere bad row, valid or not."""
    outcome = run(f"email\n{MD5}\njane@example.com\nbob@\n".encode(), bad_rows="100%", **HASHED)
    assert outcome.report.bad_rows == 2
    assert outcome.report.refused == (
        "2 rows hold a plain address, and the segment takes md5 digests: sending would leak it"
    )


def test_a_file_that_mixes_digests_and_addresses_is_refused() -> None:
    """Even where addresses may be hashed: one of the two is not what the partner thinks it is."""
    report = run(f"email\n\n{MD5}\nbob@example.com\n{MD5}\n".encode(), hash_plain=True, **HASHED).report
    assert report.refused == "the file mixes digests (first in line 3) and plain addresses (first in line 4)"
    assert report.bad_rows == 0


@pytest.mark.parametrize(
    ("limit", "bad", "refused"),
    [
        (0, 0, ""),
        (0, 1, "1 of 100 rows is bad, and the folder allows none"),
        (0, 3, "3 of 100 rows are bad, and the folder allows none"),
        (3, 3, ""),
        (3, 4, "4 of 100 rows are bad, and the folder allows 3"),
        ("29%", 29, ""),
        ("29%", 30, "30 of 100 rows are bad, and the folder allows 29%"),
        ("0.5%", 1, "1 of 100 rows is bad, and the folder allows 0.5%"),
        ("100%", 100, ""),
    ],
)
def test_tolerance(limit: int | str, bad: int, refused: str) -> None:
    """A number or a share of all rows may be bad; more refuses the file, with the figures."""
    content = b"email\n" + b"x\n" * bad + b"".join(b"a%d@b.co\n" % number for number in range(100 - bad))
    outcome = run(content, bad_rows=limit)
    assert outcome.report.refused == refused
    assert (outcome.report.rows, outcome.report.good_rows, outcome.report.bad_rows) == (100, 100 - bad, bad)
    assert outcome.rejects.count(b"\n") == (bad + 1 if bad else 0)


def test_the_report_names_the_first_problems_and_counts_all() -> None:
    """A file with a million bad rows makes a report that can be read, and rejects that have them all."""
    outcome = run(b"email\n" + b"x\n" * 250)
    assert len(outcome.report.problems) == MAX_PROBLEMS
    assert [found.line for found in outcome.report.problems] == list(range(2, 2 + MAX_PROBLEMS))
    assert (outcome.report.problem_count, outcome.rejects.count(b"\n")) == (250, 251)


def test_rejects_are_the_header_and_the_rows_as_they_came() -> None:
    """Line and reason stand in front of what the partner wrote, in the partner's own order and quotes."""
    content = b'Name ;"E-Mail"\r\nAnn; a@b.co\r\n"A""nn\r\nLou";bob\r\nx;"y\r\n'
    outcome = run(content, delimiter="auto", unknown_columns="prefix", rename={"e-mail": "email"}, bad_rows=2)
    assert outcome.report.columns == ("email", "varr_name")
    assert outcome.prepared == b"email,varr_name\na@b.co,Ann\n"
    assert outcome.rejects.decode() == (
        'line,reason,Name ;"E-Mail"\n'
        '3,"email: b… is no address: it has no @","A""nn\nLou";bob\n'
        '5,"email: the quote that opens here is never closed",x;"y\n'
    )


def test_a_file_without_rows_is_not_refused_here() -> None:
    """An empty list may be meant: the guard `min_rows` holds it, where a person can let it go."""
    report = run(b"email\n").report
    assert (report.refused, report.rows, report.columns) == ("", 0, ("email",))


# -------------------------------------------------------------------------------------------------------- repeats


def test_repeated_addresses_are_counted_and_named_without_case() -> None:
    """Each repeat names the line before it; the rows all stay."""
    outcome = run(b"varr_x,email\n1,a@b.co\n2,b@b.co\n3,A@b.co\n4,a@B.co\n")
    assert outcome.report.repeats == (
        Problem(line=4, column=3, what="A…@b.co stands in line 2 already".replace("A…", "a…"), hint=Rule.REPEATED.hint,
                subject="email"),
        Problem(line=5, column=3, what="a…@b.co stands in line 4 already", hint=Rule.REPEATED.hint, subject="email"),
    )  # fmt: skip
    assert (outcome.report.repeated_rows, outcome.report.good_rows, outcome.report.refused) == (2, 4, "")


def test_only_the_first_repeats_are_named() -> None:
    """Ten are enough to see what is the matter; all are counted."""
    report = run(b"email\n" + b"a@b.co\n" * 50).report
    assert [found.line for found in report.repeats] == list(range(3, 3 + FIRST))
    assert report.repeated_rows == 49


def test_repeats_can_refuse_a_file() -> None:
    """`repeats: refuse` says how many rows it is about; bad rows are the reason first."""
    assert run(b"email\na@b.co\na@b.co\n", repeats="refuse").report.refused == (
        "1 row repeats an address of an earlier row, and the folder refuses that"
    )
    assert run(b"email\na@b.co\na@b.co\nA@b.co\n", repeats="refuse").report.refused.startswith("2 rows repeat ")
    assert run(b"email\na@b.co\na@b.co\nx\n", repeats="refuse").report.refused.startswith("1 of 3 rows is bad")


def test_the_last_row_of_an_address_wins() -> None:
    """What goes out is good, what was superseded is neither good nor bad, and bad rows repeat nothing."""
    content = b'varr_x,email\n1,a@b.co\n"2\n",b@b.co\n3,a@b.co,\n4,A@b.co\n5,"b@b.co"\n'
    outcome = run(content, repeats="last", bad_rows=1)
    assert outcome.prepared == b'email,varr_x\nA@b.co,4\n"b@b.co",5\n'
    report = outcome.report
    assert (report.rows, report.good_rows, report.bad_rows, report.repeated_rows) == (5, 2, 1, 2)
    assert [(found.line, found.column) for found in report.repeats] == [(6, 3), (7, 3)]


def test_digests_repeat_addresses_that_have_them() -> None:
    """Two spellings of one address are one digest, and so are two cases of one digest."""
    assert run(b"email\nA@b.co\na@b.co\n", hash_plain=True, **HASHED).report.repeated_rows == 1
    assert run(f"email\n{MD5}\n{MD5.upper()}\n".encode(), **HASHED).report.repeated_rows == 1


@pytest.mark.parametrize("held", [10_000, 100_000, 1 << 24])
def test_repeats_are_exact_however_little_fits_into_memory(held: int) -> None:
    """Counts, the first ones, and which rows are superseded are those of a dictionary of all keys."""
    chance = random.Random(held)
    keys = [f"{chance.choice('ab') * chance.randrange(1, 40)}{chance.randrange(900)}@b.co" for _ in range(3_000)]
    superseded: set[int] = set()
    with Repeats(superseded=superseded.add, held=held) as repeats:
        for start in range(0, len(keys), 70):
            repeats.add((keys[number].encode(), number, 1) for number in range(start, min(start + 70, len(keys))))
        repeats.finish()
        found = [(each.line, each.what) for each in repeats.first("email")]
    seen: dict[str, int] = {}
    expected = []
    for number, key in enumerate(keys):
        if key in seen:
            expected.append((number, f"{mask(key)} stands in line {seen[key]:,} already"))
        seen[key] = number
    assert (repeats.count, found) == (len(expected), expected[:FIRST])
    assert superseded == set(range(len(keys))) - set(seen.values())


def test_temporary_files_are_made_where_they_are_wanted(tmp_path: Path) -> None:
    """A folder that is not there is seen at once, and as what it is."""
    with pytest.raises(FileNotFoundError):
        check(io.BytesIO(), Nowhere(), Nowhere(), folder(repeats="last"), scratch=str(tmp_path / "missing"))


def test_rows_held_back_come_out_in_order() -> None:
    """What was superseded in any order is left out; the rest is as it was put in."""
    out = io.BytesIO()
    with HeldRows() as held:
        for line in range(2, 1000, 3):
            held.add(line, b"%d\n" % line)
        for line in range(989, 1, -9):
            held.supersede(line)
        held.release(out)
    kept = sorted(set(range(2, 1000, 3)) - set(range(989, 1, -9)))
    assert out.getvalue() == b"".join(b"%d\n" % line for line in kept)


# ---------------------------------------------------------------------------------------------------- gzip, limits


def test_gzip_is_read_like_the_file_in_it() -> None:
    """Packed files give the same bytes, in one member or several; the bytes read are those of the packed file."""
    plain = b"email\n" + b"".join(b"a%d@b.co\n" % number for number in range(5_000))
    packed = gzip.compress(plain[:20_000]) + gzip.compress(plain[20_000:])
    for chunk in (100, 1 << 16):
        outcome = run(packed, compressed=True, chunk=chunk)
        assert outcome.prepared == plain
        assert outcome.report.bytes_read == len(packed)
    assert run(packed, compressed=True, slow=True).prepared == plain


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-9],
        lambda packed: packed[:12],
        lambda packed: packed[:-8] + b"\0" * 8,
        lambda packed: packed[:200] + b"\xff" * 8 + packed[208:],
        lambda packed: packed + b"garbage",
        lambda packed: b"email\na@b.co\n",
    ],
)
def test_damaged_gzip_is_refused(damage: object) -> None:
    """Cut off, changed, followed by something else or no gzip at all: refused, not read as far as it goes."""
    packed = gzip.compress(b"email\n" + b"".join(b"a%d@b.co\n" % (number * 7919) for number in range(500)))
    assert callable(damage)
    report = run(damage(packed), compressed=True).report
    assert report.refused.startswith("the gzip file cannot be unpacked: it ")
    assert report.rows == 0


def test_an_empty_gzip_is_an_empty_file() -> None:
    """Nothing packed is as empty as nothing."""
    assert run(gzip.compress(b""), compressed=True).report.refused == "the file is empty"
    assert run(b"").report.refused == "the file is empty"
    assert run(codecs.BOM_UTF8).report.refused == "the file is empty"


def test_a_plain_file_stops_at_its_limit_too() -> None:
    """`max_bytes` bounds what is read, should a file grow after it was claimed; at the limit it still passes."""
    content = b"email\n" + b"a@b.co\n" * 10
    assert run(content, guards={"max_bytes": len(content)}).report.refused == ""
    report = run(content, guards={"max_bytes": len(content) - 1}, chunk=10).report
    assert report.refused == "the file is larger than 75 bytes"


def test_rows_up_to_the_limit_pass() -> None:
    """The limit counts characters of the row, newlines in quotes included, the line end not; one more is too many."""
    fits = 'email,varr_x\na@b.co,"ä\n' + "x" * (ROW_LIMIT - 11) + '"\nc@b.co,\n'
    outcome = run(fits.encode())
    assert (outcome.report.refused, outcome.prepared.decode()) == ("", fits)
    report = run(fits.replace("ä", "ää").encode()).report
    assert [(found.line, found.what) for found in report.problems] == [
        (2, "the quote that opens here is never closed"),
        (3, "a quote inside a cell that does not begin with one"),
    ]
    line = "email,varr_x\na@b.co," + "x" * (ROW_LIMIT - 7)
    assert run(line.encode()).report.refused == ""
    assert run((line + "x").encode()).report.problems[0].what == "the line is longer than 1,048,576 characters"


def test_an_overlong_line_is_shortened_in_the_rejects_and_its_neighbours_are_read() -> None:
    """A line that lost its line ends costs itself, and is told by its beginning."""
    content = b"email,varr_x\na@b.co,1\n" + b"y" * (3 * ROW_LIMIT) + b"\nb@b.co,2\n"
    outcome = run(content, bad_rows=1)
    assert outcome.prepared == b"email,varr_x\na@b.co,1\nb@b.co,2\n"
    assert outcome.rejects.splitlines()[1] == (
        b'3,"the line is longer than 1,048,576 characters",' + b"y" * 1024 + "…".encode()
    )


@pytest.mark.parametrize(
    ("byte", "place", "what"),
    [(b"\xff", (3, 2 * ROW_LIMIT + 1), "the byte 0xFF"), (b"\0", (3, 2 * ROW_LIMIT + 1), "a NUL character")],
)
def test_an_overlong_line_is_read_for_what_counts_more(byte: bytes, place: tuple[int, int], what: str) -> None:
    """A byte that does not decode is told before the length, and a NUL refuses the file wherever it stands."""
    content = b"email\na@b.co\n" + b"y" * (2 * ROW_LIMIT) + byte + b"y\n"
    (found,) = run(content).report.problems
    assert (found.line, found.column) == place
    assert found.what.startswith(what)
    assert found.subject == ""


# ------------------------------------------------------------------------------------------------ progress, cancel


def test_progress_is_told_at_least_every_megabyte_and_can_cancel() -> None:
    """Whoever watches learns how far it is, to the last byte, and may stop it."""
    content = b"email\n" + b"a@b.co\n" * 500_000
    seen: list[int] = []

    def watch(count: int) -> None:
        seen.append(count)
        if count > 2_000_000:
            raise Cancelled

    with pytest.raises(Cancelled):
        check(io.BytesIO(content), Nowhere(), Nowhere(), folder(), progress=watch)
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert max(steps) <= 1 << 20
    seen.clear()
    check(io.BytesIO(b"email\n"), Nowhere(), Nowhere(), folder(), progress=seen.append)
    assert seen[-1] == 6


def test_a_packed_file_can_be_cancelled_while_it_unpacks() -> None:
    """A megabyte of gzip may be a gigabyte of rows: progress is told by what comes out, too."""
    packed = gzip.compress(b"email\n" + b"," * (40 << 20))
    seen: list[int] = []
    check(io.BytesIO(packed), Nowhere(), Nowhere(), folder(), compressed=True, progress=seen.append)
    assert len(seen) > 40
    assert max(seen) == len(packed)


# --------------------------------------------------------------------------------------------------------- memory

MIB = 1 << 20


def _peak_mib(pieces: Iterator[bytes], **keys: Any) -> tuple[float, Report]:
    source = Stream(pieces)
    tracemalloc.start()
    try:
        report = check(source, Nowhere(), Nowhere(), folder(**keys))
        return tracemalloc.get_traced_memory()[1] / MIB, report
    finally:
        tracemalloc.stop()


def _pieces(head: bytes, piece: bytes, count: int) -> Iterator[bytes]:
    yield head
    for _ in range(count):
        yield piece


def test_memory_64_mib_without_a_newline() -> None:
    """A line without end passes through a window and leaves nothing behind."""
    peak, report = _peak_mib(_pieces(b"email\n", b"x" * MIB, 64))
    assert (report.rows, report.bad_rows, report.bytes_read) == (1, 1, 64 * MIB + 6)
    assert peak < 24


def test_memory_64_mib_behind_a_quote() -> None:
    """A quote that is never closed costs its own line; all that follow are read as if it were not there."""
    line = b"a@b.co," + b"x" * (128 << 10) + b"\n"
    peak, report = _peak_mib(_pieces(b'email,varr_x\nz@b.co,"\n', line, 512))
    assert (report.rows, report.bad_rows, report.good_rows) == (513, 1, 512)
    assert peak < 24


@pytest.mark.usefixtures("untraced")
def test_memory_a_quote_before_many_lines() -> None:
    """The lines that an open quote looks ahead over are not kept one by one, and not looked over again by each."""
    peak, report = _peak_mib(_pieces(b'email,varr_x\nz@b.co,"\n', b",,,,,,,\n" * 128, 500))
    assert (report.rows, report.bad_rows) == (1, 1)
    assert report.repairs == (("blank lines left out", 128 * 500),)
    assert peak < 4  # one by one they would take that much


def test_a_million_columns() -> None:
    """A row of a million cells is one bad row; a header of them cannot be meant."""
    report = run(b"email\n" + b"," * 1_000_000 + b"x\n").report
    assert report.problems[0].what == "the number of fields is 1,000,001, but the header has 1"
    assert run(b"email" + b",a" * 500_000).report.refused == "500,001 columns; at most 1,000 are allowed"
    assert run(b"email" + b",a" * 1_000_000).report.refused.endswith("longer than 1,048,576 characters")


def test_memory_many_columns() -> None:
    """Cells that nobody asked for are counted, not kept."""
    peak, report = _peak_mib(_pieces(b"email\n", b"," * 1000 + b"x", 100))
    assert report.problems[0].what == "the number of fields is 100,001, but the header has 1"
    assert peak < 4
    peak, report = _peak_mib(_pieces(b"email", b",a" * 1000, 100))
    assert report.refused == "100,001 columns; at most 1,000 are allowed"
    assert peak < 4


def test_memory_a_gzip_bomb() -> None:
    """A small file that unpacks to a large one ends at the folder's limit, having cost next to nothing."""
    bomb = gzip.compress(b"email\n" + b" " * (64 * MIB))
    tracemalloc.start()
    keys = {"guards": {"max_bytes": 16 * MIB}}
    report = check(io.BytesIO(bomb), Nowhere(), Nowhere(), folder(**keys), compressed=True)
    peak = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    assert (report.guard, report.problem_count) == ("max_bytes", 1)
    assert report.bytes_read < len(bomb) // 2
    assert peak < 24


def test_memory_wide_characters() -> None:
    """Four bytes for each character are the most that a row of the limit can take."""
    peak, report = _peak_mib(
        _pieces(codecs.BOM_UTF16_LE + "email,varr_x\n".encode("utf-16-le"), "😀".encode("utf-16-le") * 1000, 8000)
    )
    assert report.bad_rows == 1
    assert peak < 64


def test_memory_many_keys() -> None:
    """What does not fit lies on disk, and comes back a part at a time."""
    tracemalloc.start()
    with Repeats(held=100_000) as repeats:
        repeats.add((b"%d@example.com" % number, number, 1) for number in range(30_000))
        repeats.finish()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert repeats.count == 0
    assert peak < 2 * MIB


# ------------------------------------------------------------------------------------------------------ properties

_CHARS = st.characters(exclude_categories=("Cs", "Cc"), include_characters="\t")
_WORD = st.text(_CHARS | st.sampled_from(',;"\t '), max_size=12)
_BLANKS = st.sampled_from(["", " ", "  "])


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A valid file as somebody's program may write it, and the cells that it says."""

    content: bytes
    cells: list[list[str]]


@st.composite
def written_files(draw: st.DrawFn) -> Written:
    delimiter = draw(st.sampled_from([",", ";", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    width = draw(st.integers(2, 4))
    names = ["email", *(f"varr_{number}" for number in range(1, width))]
    lines, cells = [delimiter.join(names)], [names]
    for number in range(draw(st.integers(0, 5))):
        address = draw(st.sampled_from(["a{}@b.co", "A{}.x@Müller.example", "ü{}@b.co"])).format(number)
        texts = [address, *(draw(_WORD | _WORD.map(lambda word: f"{word}\n{word}")) for _ in names[1:])]
        row, said = [], []
        for text in texts:
            quoted = draw(st.booleans()) or any(char in text for char in ('"', "\n", delimiter, "\t"))
            blanks = draw(_BLANKS), draw(_BLANKS)
            cell = '"' + text.replace('"', '""') + '"' if quoted else text
            row.append(blanks[0] + cell + blanks[1])
            said.append(text if quoted else text.strip(" "))
        lines.append(delimiter.join(row))
        cells.append(said)
    text = "".join(line.replace("\n", end) + end for line in lines)
    return Written(content=text.encode(encoding), cells=cells)


@given(written=written_files())
@settings(max_examples=200, deadline=None)
def test_valid_files_say_the_same_to_pythons_csv(written: Written) -> None:
    """What comes out, read by Python's csv module, is cell for cell what went in, without the blanks around it."""
    outcome = run(written.content, delimiter="auto")
    assert outcome.report.refused == ""
    assert outcome.report.problems == ()
    assert list(csv.reader(io.StringIO(outcome.prepared.decode(), newline=""), strict=True)) == written.cells


_ODD = st.lists(
    st.sampled_from(
        [b"a@b.co", b"B@b.co", b"x", b",", b",", b";", b"\t", b'"', b'"', b'""', b" ", b"\n", b"\n", b"\r", b"\r\n",
         b"\0", b"\x07", b"\xff", "é".encode(), "\x85".encode(), MD5.encode(), MD5.upper().encode(), b"email,varr_x\n"]
    ),
    max_size=30,
).map(b"".join)  # fmt: skip
_STARTS = st.sampled_from(
    [b"", codecs.BOM_UTF8, b"email,varr_x\n", b"email;varr_x\n", b"varr_x\temail\r\n", b"email\n", b"email,x,\r\n"]
)
_KEYS = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from([",", "auto"]),
        "unknown_columns": st.sampled_from(["reject", "prefix", "keep", "drop"]),
        "repeats": st.sampled_from(["keep", "last", "refuse"]),
        "bad_rows": st.sampled_from([0, 1, "100%"]),
    }
)
_HASHES = st.sampled_from([{}, {**HASHED}, {**HASHED, "hash_plain": True}, {"mode": "suppress", "hash": "none"}])


@given(start=_STARTS, rest=_ODD, keys=_KEYS, hashes=_HASHES, chunk=st.integers(1, 9))
@settings(max_examples=400, deadline=None)
def test_odd_files(start: bytes, rest: bytes, keys: dict[str, Any], hashes: dict[str, Any], chunk: int) -> None:
    """However odd a file: where it is cut changes nothing, the figures add up, and what goes out needs no repair."""
    outcome = run(start + rest, **keys, **hashes)
    report = outcome.report
    cut = run(start + rest, chunk=chunk, slow=True, **keys, **hashes)
    read = report.bytes_read if report.columns else cut.report.bytes_read
    assert replace(cut, report=replace(cut.report, bytes_read=read)) == replace(
        outcome, report=replace(report, bytes_read=read)
    )
    superseded = report.repeated_rows if keys["repeats"] == "last" else 0
    assert report.rows == report.good_rows + report.bad_rows + superseded
    assert bool(outcome.rejects) == bool(report.bad_rows) or not report.columns
    if report.refused:
        return
    kind = hashes.get("hash", "none")
    assert isinstance(kind, str)
    again = run(outcome.prepared, unknown_columns="keep", **hashes)
    assert again.prepared == outcome.prepared
    assert (again.report.repairs, again.report.problems) == ((), ())
    assert again.report.rows == report.good_rows
    table = list(csv.reader(io.StringIO(outcome.prepared.decode(), newline=""), strict=True))
    assert [len(row) for row in table] == [len(report.columns)] * (report.good_rows + 1)


_ROW = re.compile(r'[ \t]*("([^"]|"")*"[ \t]*|[^",]*)(,[ \t]*("([^"]|"")*"[ \t]*|[^",]*))*')


@given(text=st.text(st.sampled_from('",\n ab\t'), max_size=16))
@settings(max_examples=500, deadline=None)
def test_a_row_is_what_its_grammar_says(text: str) -> None:
    """The parser takes exactly what one line of grammar describes, and its cells lie where they say they do."""
    cells = list(Dialect(",").cells(text))
    assert isinstance(cells[-1], Cell) == (_ROW.fullmatch(text) is not None)
    start = 0
    for cell in cells:
        if isinstance(cell, Cell):
            assert text[start : cell.end].strip(" \t") == cell.written
            assert text.startswith(cell.written, cell.start)
            start = cell.end + 1
