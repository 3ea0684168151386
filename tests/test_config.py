"""The configuration: every mistake is told in plain words at its line and column, and what is written comes back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st
from unprivileged import as_nobody

from dropzone import config
from dropzone.config import Account, Config, Folder, Guards, Secret, Share, units
from dropzone.config import yaml as reader
from dropzone.config.forms import Form, form_of
from dropzone.config.model import FILE, FOLDER, Create, Retention, Retry, Timeouts
from dropzone.config.yaml import Odd
from dropzone.errors import ConfigError, DropzoneError

ROOT = Path(__file__).parents[1]

# Lines 8 to 10 are the folder; what a test adds to it begins in line 11.
BASE = """\
root: /srv/dropzone
state_dir: /var/lib/dropzone
accounts:
  main:
    base_url: https://publisher.example.com
    api_key: {credential: optipub}
folders:
  acme:
    segment_id: 7
    mode: lead
"""
SOURCES = "write {env: NAME}, {file: /PATH} or {credential: NAME}"


# With and without libyaml.
LOADERS = [reader.LOADER, pyyaml.SafeLoader]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dropzone.yaml"


def load(file: Path, text: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return config.load(file)


def told(file: Path, text: str | bytes) -> list[str]:
    """What `config check` prints for `text`, without the name of the file; nothing when it is right."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        config.load(file)
    except ConfigError as error:
        return [problem.at("") for problem in error.problems]
    return []


def changed(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new)


def cases(table: str) -> list[tuple[str, list[str]]]:
    """What is given and the problems that are expected: the lines of each block without and with ``>`` in front.

    A line of ``> (`` goes on with the hint of the line above it; ``n`` and ``t`` behind a backslash are meant.
    """
    blocks = []
    for block in table.strip("\n").split("\n\n"):
        lines = [line.strip().replace(r"\n", "\n").replace(r"\t", "\t") for line in block.splitlines()]
        given = "\n".join(line for line in lines if not line.startswith("> "))
        problems = "\n".join(line for line in lines if line.startswith("> ")).replace("\n> (", " (")
        blocks.append((given, [line.removeprefix("> ") for line in problems.splitlines()]))
    return blocks


# ------------------------------------------------------------------------------------------------- a right file


def test_all_of_a_configuration_is_read(file: Path) -> None:
    """Every kind of value arrives in the unit and the type that the program works with."""
    text = """\
root: /srv/dropzone/
state_dir: "/var/lib/dropzone"
concurrency: 8
accounts:
  main:
    base_url: https://publisher.example.com/app/
    api_key: {file: /etc/dropzone/key}
    key_created: 2026-03-01
    ca_file: /etc/ca.pem
    proxy: http://proxy:3128/
    timeouts: {connect: 500ms, read: 10m}
folders:
  acme:
    path: //srv/upload
    spool: /srv/spool
    account: main
    include: ["*.txt"]
    ignore: ["test*", 'old?.csv']
    settle: 90s
    final_newline: required
    scan: 1m
    segment_id: 7
    mode: suppress
    clear: true
    hash: md5
    hash_plain: true
    extra_fields: {subscriptionAction: create_only, tagsToAdd: 17}
    encoding: WINDOWS-1252
    delimiter: tab
    rename: {" E-Mail ": email, First Name: varr_firstname}
    unknown_columns: drop
    bad_rows: 0.5%
    repeats: last
    guards: {min_rows: 0, max_rows: 10, max_bytes: 64KiB, max_shrink: none, max_growth: 300%}
    retry: {initial: 1s, max: 1h}
"""
    loaded = load(file, text)
    account, folder = loaded.accounts["main"], loaded.folders["acme"]
    assert (loaded.file, loaded.root, loaded.concurrency) == (file, Path("/srv/dropzone"), 8)
    assert account.base_url == "https://publisher.example.com/app"
    assert account.api_key == Secret(source="file", name="/etc/dropzone/key")
    assert (account.name, account.key_created, account.proxy) == ("main", date(2026, 3, 1), "http://proxy:3128")
    assert account.timeouts == Timeouts(connect=0.5, write=60.0, read=600.0)
    assert (folder.name, folder.path, folder.base) == ("acme", Path("/srv/upload"), Path("/srv/spool"))
    assert (folder.include, folder.ignore) == (("*.txt",), ("test*", "old?.csv"))
    assert (folder.settle, folder.settle_unseen, folder.scan, folder.final_newline) == (90.0, 10.0, 60.0, "required")
    assert (folder.mode, folder.clear, folder.hash, folder.hash_plain) == ("suppress", True, "md5", True)
    assert folder.extra_fields == {"subscriptionAction": "create_only", "tagsToAdd": "17"}
    assert (folder.encoding, folder.delimiter) == ("cp1252", "tab")
    assert folder.rename == {"e-mail": "email", "first name": "varr_firstname"}
    assert folder.bad_rows == Share.percent("0.5%")
    assert folder.guards == Guards(
        min_rows=0, max_rows=10, max_bytes=65536, max_shrink=None, max_growth=Share.percent("300%")
    )
    assert folder.retry == Retry(initial=1.0, max=3600.0)
    assert folder.lane == "main/7"


def test_what_is_not_said_has_the_documented_defaults(file: Path) -> None:
    """A folder of two lines gets its inbox below root, the only account, and every default."""
    folder = load(file, BASE).folders["acme"]
    assert (folder.path, folder.base) == (Path("/srv/dropzone/inbox/acme"), Path("/srv/dropzone"))
    assert (folder.spool, folder.account, folder.hash, folder.clear) == (None, "main", None, False)
    assert (folder.include, folder.ignore) == (("*.csv", "*.csv.gz"), ())
    assert (folder.settle, folder.settle_unseen, folder.hold_tail, folder.scan) == (2.0, 10.0, 300.0, 15.0)
    assert (folder.encoding, folder.delimiter, folder.unknown_columns) == ("utf-8", ",", "reject")
    assert (folder.bad_rows, folder.repeats) == (0, "keep")
    assert folder.guards == Guards(
        min_rows=1, max_rows=None, max_bytes=2 << 30, max_shrink=Share.percent("50%"), max_growth=None
    )
    assert folder.retry == Retry(initial=5.0, max=900.0)


def test_settings_can_be_made_without_a_file() -> None:
    """Code that needs a folder or an account makes one from values, with the same defaults."""
    values: dict[str, Any] = {"path": Path("/in"), "base": Path("/srv"), "account": "main", "segment_id": 7}
    folder = Folder(name="acme", mode="lead", settle=0.05, include=("a*",), bad_rows=Share.percent("1%"), **values)
    assert (folder.settle, folder.include, str(folder.bad_rows), folder.scan) == (0.05, ("a*",), "1%", 15.0)
    account = Account(
        name="main",
        base_url="http://127.0.0.1:8080",
        api_key=Secret(source="env", name="KEY"),
        key_created=date(2026, 3, 1),
        ca_file=Path("/etc/ca.pem"),
    )
    assert (account.key_created, account.timeouts) == (date(2026, 3, 1), Timeouts())


def test_two_mistakes_in_one_place_hide_no_other(file: Path) -> None:
    """A wrong name around a wrong key, or two wrong values in one list, keep nothing else from being told."""
    text = BASE + "    include: [1, '']\n  a b: {nonsense: 1}\n  globex: {segment_id: 8, ignore: x}\n"
    assert [line.split(" (")[0] for line in told(file, text)] == [
        ":11:15: folders.acme.include[0]: must be a pattern of file names, not 1",
        ":11:18: folders.acme.include[1]: '' is not a pattern of file names",
        ":12:3: folders.a b: 'a b' is not a name",
        ":12:9: folders.a b.nonsense: is no key of a folder",
        ":13:3: folders.globex.mode: is missing",
        ":13:35: folders.globex.ignore: must be a list, not one text",
    ]


def test_a_loaded_configuration_cannot_be_changed(file: Path) -> None:
    """Nobody can turn a setting after it was checked."""
    loaded = load(file, BASE)
    with pytest.raises(FrozenInstanceError):
        loaded.folders["acme"].mode = "subscribe"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        loaded.accounts["main"].api_key.name = "OTHER"  # type: ignore[misc]


def test_a_relative_path_of_the_file_is_kept_in_full(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload finds the file even when the daemon has gone to another folder since."""
    load(file, BASE)
    monkeypatch.chdir(file.parent)
    assert config.load(Path(file.name)).file == file


def test_line_ends_and_a_mark_do_not_matter(file: Path) -> None:
    """A file that was saved on Windows, with CRLF and a byte order mark, is read like any other."""
    assert told(file, b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode()) == []


# ------------------------------------------------------------------------------------------------- the text


TEXTS = r"""
    a: 1\nb: 2\na: 3\n
    > 3:1: a: is given twice, in lines 1 and 3 (keep one of the two)

    a: {b: 1, b: 2}
    > 1:11: a.b: is given twice, in lines 1 and 1 (keep one of the two)

    a: &x 1
    > 1:4: a: an anchor (&) is not supported (remove it; a value that begins with & needs quotes)

    a: [b, *x]
    > 1:8: a[1]: a value that refers to another place with * is not supported
    > (write the value out; a value that begins with * needs quotes)

    a:\n  <<: {b: 1}
    > 2:3: a.<<: merge keys are not supported (write the keys out, or put them under 'defaults:')

    a: !!str 010
    > 1:4: a: a tag (!) is not supported (remove it; a value that begins with ! needs quotes)

    a: !!python/object:os.system x
    > 1:4: a: a tag (!) is not supported (remove it; a value that begins with ! needs quotes)

    a: 1\n---\nb: 1
    > 2:1: a second document begins here (one file holds one configuration: remove '---')

    no: 1
    > 1:1: no: without quotes, the key no is true or false to YAML (write "no":)

    010: 1
    > 1:1: 010: without quotes, the key 010 is a number to YAML (write "010":)

    5: 1
    > 1:1: 5: without quotes, the key 5 is a number to YAML (write "5":)

    1:30: 1
    > 1:1: 1:30: without quotes, the key 1:30 is a number in base 60 to YAML (write "1:30":)

    2026-01-01: 1
    > 1:1: 2026-01-01: without quotes, the key 2026-01-01 is a date to YAML (write "2026-01-01":)

    ~: 1
    > 1:1: ~: a key is empty (write its name before the colon)

    ? [a]\n: 1
    > 1:3: a key must be one word (as in 'settle: 2s')

    a: |\n  b\n
    > 1:4: a: holds a line break (write it in one line)

    a: "b\0"
    > 1:4: a: holds a character that cannot be shown: U+0000 (take it out)

    "\e": 1
    > 1:1: \x1b: holds a character that cannot be shown: U+001B (take it out)

    a:\n\tb: 1
    > 2:1: a tab stands where only blanks can indent (replace it by blanks)

    a: 1\n\tb: 1
    > 2:1: a tab stands where only blanks can indent (replace it by blanks)

    %\na: 1
    > 1:1: a line cannot begin with % (remove the line, or write it in quotes)

    a: !<x
    > 1:4: a value cannot begin with ! (write it in quotes)

    a: @x
    > 1:4: a value cannot begin with @ (write it in quotes)

    a: %x
    > 1:4: a value cannot begin with % (write it in quotes)

    a: [*.csv]
    > 1:5: a value cannot begin with * (write it in quotes, as in "*.csv")

    a: b: c
    > 1:5: a colon is not expected here
    > (one key in a line, keys of one mapping indented alike; a text that holds ': ' needs quotes)

    a: 1\nb: "x\nc: 1
    > 2:4: this quote is never closed (close it in the same line)

    a: 'x\n---\n
    > 1:4: this quote is never closed (close it in the same line)

    a: [1, 2
    > 1:4: this list is not closed, or a comma is missing in it (as in [one, two])

    a: {b: 1\nc: 2
    > 1:4: this mapping is not closed, or a comma is missing in it (as in {one: 1, two: 2})

    a: 1\nb\nc: 1
    > 2:1: a colon is missing after this key (as in 'settle: 2s')

    a: ,
    > 1:4: a value is expected here (a value such as "," needs quotes)

    a: - b
    > 1:4: a list cannot begin here (write it in the next line, or as in [one, two])

    a: 'b' c
    > 1:8: this does not fit the lines above (indent it like its neighbours; a closing quote ends a value)

    - a\nb: 1
    > 2:1: this does not fit the list above (indent it like its neighbours)

    a: "\q"
    > 1:4: this text holds an unknown escape ('single quotes' take a text as it stands)

    a: "\xzz"
    > 1:4: this text holds an unknown escape ('single quotes' take a text as it stands)

    a: |x\n b
    > 1:4: a text over several lines is not expected here (write it in one line, in quotes)

    %YAML 9.1\n---\na: 1
    > 1:1: this version of YAML is not supported (remove the line)

    a: 1\n...\nb: 1
    > 3:1: nothing can follow here (remove '...' or what comes after it)
"""


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("text", "expected"), [*cases(TEXTS), ("[" * 3000, ["1:22: is nested more than 20 levels deep (no setting is)"])]
)
def test_the_text_is_refused_in_plain_words(text: str, expected: list[str], loader: Any) -> None:
    """What YAML forbids and what we forbid in YAML is told at its place, alike by both of PyYAML's readers."""
    problems = reader.parse(text.encode(), loader=loader).problems
    assert [problem.at("").lstrip(":") for problem in problems][:1] == expected


@pytest.mark.parametrize("loader", LOADERS)
def test_half_a_character_in_an_escape_is_told_in_our_words(loader: Any) -> None:
    """One reader refuses it itself, the other hands it on."""
    (problem,) = reader.parse(b'a: "\\ud800"', loader=loader).problems
    assert (problem.line, problem.column) == (1, 4)
    assert "escape" in problem.what or "cannot be shown" in problem.what
    assert "cannot be read as YAML" not in problem.what


@pytest.mark.parametrize("loader", LOADERS)
def test_an_escape_beyond_unicode_is_no_crash(loader: Any) -> None:
    """PyYAML's own scanner raises OverflowError for it; here it is a problem like any other."""
    document = reader.parse(b'a: "\\UFFFFFFFF"', loader=loader)
    assert document.root is reader.REFUSED
    assert len(document.problems) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: caf\xe9", ":1:7: is not UTF-8: byte 0xe9 (save the file as UTF-8)"),
        ("a: 1\nä: ".encode() + b"\xff", ":2:4: is not UTF-8: byte 0xff (save the file as UTF-8)"),
        (b"a: 1\nb: \0", ":2:4: a character that cannot be shown stands here: U+0000 (take it out)"),
        ("a: \u2028b".encode(), ":1:4: a character that cannot be shown stands here: U+2028 (take it out)"),
        ("a: \x85b".encode(), ":1:4: a character that cannot be shown stands here: U+0085 (take it out)"),
        ("a: b\ufeff".encode(), ":1:5: a character that cannot be shown stands here: U+FEFF (take it out)"),
        (b"#" * (reader.MAX_BYTES + 1), ": is larger than 4 MiB (this is no configuration of dropzone)"),
        (b"", ": is empty ('dropzone config example' prints one to begin with)"),
        (b"# nothing\n---\n", ": is empty ('dropzone config example' prints one to begin with)"),
        (b"- a", ": must be a mapping: lines of the form 'key: value' (as in 'root: /srv/dropzone')"),
        (b"root", ": must be a mapping: lines of the form 'key: value' (as in 'root: /srv/dropzone')"),
    ],
)
def test_what_is_no_configuration_at_all_says_so(file: Path, content: bytes, expected: str) -> None:
    """Bytes that are no text, texts that are no mapping, and files of another kind end in one clear problem."""
    assert told(file, content) == [expected]


@pytest.mark.parametrize("name", ["missing.yaml", ".", "nul\0.yaml", "x" * 300])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, name: str) -> None:
    """No file, a folder, or a name that no file can have: one problem about the whole file."""
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / name)
    (problem,) = caught.value.problems
    assert problem.what.startswith("cannot be read: ")
    assert (problem.line, problem.column) == (0, 0)


MANY = 30_000
A_LINE_EACH = {
    "tags": (BASE + "  f{0}: {{segment_id: !x 5, mode: led}}\n", "a tag (!) is not supported"),
    "values": (BASE + "  f{0}: {{create: {{publication_id: x}}, mode: lead}}\n", "must be a whole number"),
    "keys": (BASE + "    segment_{0}: 1\n", "is no key of a folder"),
    "accounts": (BASE + "  f{0}: {{segment_id: {0}, mode: lead, account: m{0}}}\n", "no account is called"),
}


@pytest.mark.parametrize("kind", A_LINE_EACH)
def test_a_file_that_is_wrong_in_each_line_is_told_as_far_as_anybody_mends_at_once(file: Path, kind: str) -> None:
    """A thousand problems in the order of the file, then that there are more; what is wrong is looked for no longer."""
    text, what = A_LINE_EACH[kind]
    line = text.removeprefix(BASE)
    problems = told(file, BASE + "".join(line.format(number) for number in range(10, MANY)))
    assert len(problems) == reader.MAX_PROBLEMS + 1
    assert all(what in problem for problem in problems[:-1])
    assert "there are more problems than these 1,000 (mend these, and the others are told)" in problems[-1]
    assert sum(map(len, problems)) < 300_000


def test_a_long_word_is_not_repeated_with_each_problem(file: Path) -> None:
    """Two megabytes of a key around a thousand mistakes would be two gigabytes of messages."""
    problems = told(file, f'{BASE}  ? "{"a" * 2_000_000}"\n  : [{"!x 1, " * 900}]\n    settle: {"9" * 100_000}s\n')
    assert len(problems) > 1
    assert max(map(len, problems)) < 500


def test_an_account_among_very_many_is_told_by_some_of_them(file: Path) -> None:
    """Which names there are is a hint, not a list of thousands."""
    accounts = "".join(f"  a{n}: {{base_url: https://h{n}, api_key: {{env: KEY}}}}\n" for n in range(3000))
    (problem,) = told(file, changed("  main:", accounts + "  main:"))
    assert problem.endswith("a18, a19 and 2,981 more)")


def test_laughter_is_cut_short(file: Path) -> None:
    """The file whose aliases would grow to a billion words costs one problem for each, and no memory."""
    lines = [
        "a: &a [x, x]",
        *(f"{here}: &{here} [*{there}, *{there}]" for there, here in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    problems = told(file, "\n".join(lines))
    assert sum("refers to another place" in problem for problem in problems) == 16


@pytest.mark.parametrize("word", ["true", "false", "0", "-5", "7", "x", "1.2.3", "a: b"[:1], "/x", "10s", "5%", "0x"])
def test_words_that_all_readers_take_alike_need_no_quotes(word: str) -> None:
    """Texts, whole numbers, true and false are what they look like."""
    assert not isinstance(reader.plain(word), Odd)


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        *((word, "blank") for word in ("", "~", "null", "Null", "NULL")),
        *((word, "flag") for word in ("yes", "No", "ON", "off", "y", "N", "True", "FALSE")),
        *(
            (word, "number")
            for word in ("010", "0o17", "0x1F", "0b1", "1_000", "+5", "1.5", ".5", "1e3", ".inf", "-.NaN")
        ),
        ("12345678901234567890", "number"),
        *((word, "clock") for word in ("1:30", "10:20:30", "-1:00.5")),
        *((word, "date") for word in ("2026-03-01", "2026-3-1", "2026-03-01T10:00:00Z", "2026-03-01 10:00")),
    ],
)
def test_words_that_readers_take_differently_are_odd(word: str, kind: str) -> None:
    """Whatever some version of YAML turns into something else is never taken for a text or a number by accident."""
    assert reader.plain(word) == Odd(text=word, kind=kind)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- one value


VALUES = r"""
    settle: 2
    > 13: folders.acme.settle: must be a duration, not 2 (a whole number and its unit: 300ms 2s 15m 24h 90d)

    settle: 1:30
    > 13: folders.acme.settle: must be a duration, not 1:30 (a whole number and its unit: 300ms 2s 15m 24h 90d)

    settle: 2 s
    > 13: folders.acme.settle: must be a duration, not '2 s' (a whole number and its unit: 300ms 2s 15m 24h 90d)

    settle:
    > 5: folders.acme.settle: has no value (a whole number and its unit: 300ms 2s 15m 24h 90d)

    settle: 999999999999d
    > 13: folders.acme.settle: must be between 0s and 1d, not 999999999999d

    settle: 2d
    > 13: folders.acme.settle: must be between 0s and 1d, not 2d

    scan: 1ms
    > 11: folders.acme.scan: must be between 100ms and 1h, not 1ms

    guards: {max_bytes: 2GB}
    > 25: folders.acme.guards.max_bytes: must be a size, not '2GB'
    > (bytes, or a whole number and its unit: 64KiB 20MiB 2GiB)

    guards: {max_bytes: 0}
    > 25: folders.acme.guards.max_bytes: must be at least 1, not 0

    guards: {max_shrink: 5}
    > 26: folders.acme.guards.max_shrink: must be a share, not 5
    > (a number and its sign: 50% 0.5%; none switches it off)

    guards: {max_shrink: 101%}
    > 26: folders.acme.guards.max_shrink: must be at most 100%, not 101% (none switches it off)

    guards: {max_rows: ~}
    > 14: folders.acme.guards.max_rows: has no value (at most 18 digits, without quotes or unit; none switches it off)

    guards: 5
    > 13: folders.acme.guards: must be a mapping, not 5 (its keys go below it, indented: 'key: value')

    bad_rows: '5'
    > 15: folders.acme.bad_rows: must be a number or a share, not '5' (as in 10 or 1%)

    bad_rows: true
    > 15: folders.acme.bad_rows: must be a number or a share, not true (as in 10 or 1%)

    bad_rows: -1
    > 15: folders.acme.bad_rows: must be at least 0, not -1

    bad_rows: 101%
    > 15: folders.acme.bad_rows: must be at most 100%, not 101%

    bad_rows: 5 %
    > 15: folders.acme.bad_rows: must be a share, not '5 %' (a number and its sign: 50% 0.5%)

    clear: yes
    > 12: folders.acme.clear: must be true or false, not yes (write true, without quotes)

    clear: 'false'
    > 12: folders.acme.clear: must be true or false, not 'false' (write false, without quotes)

    clear: 1
    > 12: folders.acme.clear: must be true or false, not 1 (write true, without quotes)

    clear: maybe
    > 12: folders.acme.clear: must be true or false, not 'maybe'

    clear:
    > 5: folders.acme.clear: has no value (it must be true or false)

    repeats: kep
    > 14: folders.acme.repeats: must be 'keep', 'last' or 'refuse', not 'kep' (did you mean keep?)

    repeats: no
    > 14: folders.acme.repeats: must be 'keep', 'last' or 'refuse', not no

    repeats:
    > 5: folders.acme.repeats: has no value (it must be 'keep', 'last' or 'refuse')

    delimiter: '|'
    > 16: folders.acme.delimiter: must be ',', ';', 'tab' or 'auto', not '|'

    delimiter: "\t"
    > 16: folders.acme.delimiter: must be ',', ';', 'tab' or 'auto', not '\x09'

    include: '*.csv'
    > 14: folders.acme.include: must be a list, not one text (write ["*.csv"])

    include: []
    > 14: folders.acme.include: is empty (at least one is needed)

    include: {a: b}
    > 14: folders.acme.include: must be a list, not a mapping (as in ["*.csv"])

    include:
    > 5: folders.acme.include: has no value (as in ["*.csv"])

    ignore: [in/*.csv]
    > 14: folders.acme.ignore[0]: 'in/*.csv' is not a pattern of file names (as in "*.csv"; it has no /)

    ignore: [ok, no]
    > 18: folders.acme.ignore[1]: without quotes, no is true or false to YAML (write "no" if that was meant)

    ignore: [5]
    > 14: folders.acme.ignore[0]: must be a pattern of file names, not 5 (write "5" if that was meant)

    path: in
    > 11: folders.acme.path: 'in' is not an absolute path (write it in full, from the first / on)

    path: ~/in
    > 11: folders.acme.path: '~/in' is not an absolute path (write it in full, from the first / on)

    path: ~
    > 5: folders.acme.path: has no value (an absolute path is expected)

    path: [/in]
    > 11: folders.acme.path: must be an absolute path, not a list

    rename: {x: First Name}
    > 17: folders.acme.rename.x: 'First Name' is not a name of a column (as in varr_firstname: a-z, 0-9, '_' and '-')

    rename: {Mail: email, ' mail ': email}
    > 13: folders.acme.rename: 'Mail' and ' mail ' are one column
    > (names are compared without case and blanks around them)

    rename: {' ': email}
    > 14: folders.acme.rename. : is empty (write the partner's name of the column)

    rename: {n: varr_n}
    > 14: folders.acme.rename.n: without quotes, the key n is true or false to YAML (write "n":)

    extra_fields: {file: x}
    > 20: folders.acme.extra_fields.file: dropzone sends the field 'file' itself (remove it here; its own key sets it)

    extra_fields: {'CLEAR[0]': 1}
    > 20: folders.acme.extra_fields.CLEAR[0]: dropzone sends the field 'CLEAR[0]' itself
    > (remove it here; its own key sets it)

    extra_fields: {activestatus: 1}
    > 20: folders.acme.extra_fields.activestatus: dropzone sends the field 'activestatus' itself
    > (remove it here; its own key sets it)

    extra_fields: {_method: PUT}
    > 20: folders.acme.extra_fields._method: '_method' is not the name of a form field
    > (letters, digits and '_', a letter first, as in subscriptionAction)

    extra_fields: {a: true}
    > 23: folders.acme.extra_fields.a: must be a text or a whole number, not true (write 1 or 0, or use quotes)

    extra_fields: {a: 010}
    > 23: folders.acme.extra_fields.a: without quotes, 010 is a number to YAML (write "010" if that was meant)

    extra_fields: {a: 2026-01-01}
    > 23: folders.acme.extra_fields.a: without quotes, 2026-01-01 is a date to YAML
    > (write "2026-01-01" if that was meant)

    account: no
    > 14: folders.acme.account: without quotes, no is true or false to YAML (write "no" if that was meant)

    account: mian
    > 14: folders.acme.account: no account is called mian (did you mean main?)

    account: x
    > 14: folders.acme.account: no account is called x (there is main)

    account: MIAN
    > 14: folders.acme.account: no account is called MIAN (did you mean main?)

    SETTLE: 2s
    > 5: folders.acme.SETTLE: is no key of a folder (did you mean settle?)

    repeats: LAST
    > 14: folders.acme.repeats: must be 'keep', 'last' or 'refuse', not 'LAST' (did you mean last?)

    settel: 2s
    > 5: folders.acme.settel: is no key of a folder (did you mean settle?)

    concurrency: 2
    > 5: folders.acme.concurrency: is no key of a folder (it belongs to the top level)

    min_rows: 2
    > 5: folders.acme.min_rows: is no key of a folder (it belongs to guards)

    guards: {mni_rows: 2}
    > 14: folders.acme.guards.mni_rows: is no key of guards (did you mean min_rows?)

    on_unknown: 5
    > 17: folders.acme.on_unknown: must be resend, hold or a time, not 5 (write resend, hold, or {resend_within: 10m})

    on_unknown: {resend_within: soon}
    > 17: folders.acme.on_unknown: must be a duration, not 'soon' (a whole number and its unit: 300ms 2s 15m 24h 90d)

    ignore: ["*.CSV", "*.csv.gz", "x*"]
    > 13: folders.acme.ignore: has all that include has: no file would ever be taken (remove it from one of the two)

    supersede: true
    > 16: folders.acme.supersede: would lose rows: without clear, files add up (remove it, or set clear: true)

    '[key]': 1
    > 5: folders.acme.[key]: is no key of a folder ('dropzone config example' shows all keys)

    retry: {initial: 20m}
    > 5: folders.acme.retry.max: is shorter than the first delay, retry.initial

    guards: {min_rows: 5, max_rows: 4}
    > 37: folders.acme.guards.max_rows: is less than min_rows, 5: every file would be held
"""


@pytest.mark.parametrize(("line", "expected"), cases(VALUES))
def test_a_wrong_value_is_told_at_its_column(file: Path, line: str, expected: list[str]) -> None:
    """One wrong line in a folder is one problem, at the value or at the key, with what would be right."""
    assert told(file, f"{BASE}    {line}\n") == [f":11:{problem}" for problem in expected]


def test_a_path_has_an_end(file: Path) -> None:
    """A path that no system call would take is told before it is tried."""
    assert told(file, f"{BASE}    spool: /{'x' * 4095}\n") == [
        ":11:12: folders.acme.spool: is longer than any path can be (at most 4095 bytes)"
    ]
    assert told(file, f"{BASE}    spool: /a/{'ä' * 128}\n") == [
        ":11:12: folders.acme.spool: has a part that is longer than any name can be (at most 255 bytes from / to /)"
    ]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-7", "hex", "idna", "punycode", "raw_unicode_escape", "hz", "cp037"]
)
def test_an_encoding_must_write_ascii_as_ascii(file: Path, encoding: str) -> None:
    """Codecs that Python knows but that no CSV with commas can be read by are refused."""
    (problem,) = told(file, f"{BASE}    encoding: {encoding}\n")
    assert problem.startswith(f":11:15: folders.acme.encoding: '{encoding}' does not write ASCII as ASCII")


@pytest.mark.parametrize("encoding", ["utf9", "../os", "a b", "x" * 50, "aliases"])
def test_an_encoding_must_exist(file: Path, encoding: str) -> None:
    """A name that is no codec is told, and nothing outside of the codecs is looked up for it."""
    (problem,) = told(file, f"{BASE}    encoding: {encoding}\n")
    assert problem.startswith(":11:15: folders.acme.encoding: no encoding is called ")


LINES = r"""
    segment_id: 7 -> segment_id: 0100789
    > 9:17: folders.acme.segment_id: some read 0100789 as a number in base 8, others do not (write 100789)

    segment_id: 7 -> segment_id: '7'
    > 9:17: folders.acme.segment_id: must be a number, not a text (write 7 without quotes)

    segment_id: 7 -> segment_id: 1_000
    > 9:17: folders.acme.segment_id: must be a whole number, not 1_000 (write 1000)

    segment_id: 7 -> segment_id: 7.0
    > 9:17: folders.acme.segment_id: must be a whole number, not 7.0 (at most 18 digits, without quotes or unit)

    segment_id: 7 -> segment_id: true
    > 9:17: folders.acme.segment_id: must be a whole number, not true (at most 18 digits, without quotes or unit)

    segment_id: 7 -> segment_id: 0
    > 9:17: folders.acme.segment_id: must be at least 1, not 0

        segment_id: 7 -> #
    > 8:3: folders.acme.segment_id: is missing (as in 'segment_id: 100789')

        mode: lead -> #
    > 8:3: folders.acme.mode: is missing (subscribe, unsubscribe, lead or suppress)

    mode: lead -> mode: subscribed
    > 10:11: folders.acme.mode: must be 'subscribe', 'unsubscribe', 'lead' or 'suppress', not 'subscribed'
    > (did you mean subscribe?)

    mode: lead -> mode:
    > 10:5: folders.acme.mode: has no value (it must be 'subscribe', 'unsubscribe', 'lead' or 'suppress')

    acme: -> bad name:
    > 8:3: folders.bad name: 'bad name' is not a name
    > (letters, digits, '.', '_' and '-', a letter or digit first, at most 64)

    acme: -> -x:
    > 8:3: folders.-x: '-x' is not a name (letters, digits, '.', '_' and '-', a letter or digit first, at most 64)

    acme: -> on:
    > 8:3: folders.on: without quotes, the key on is true or false to YAML (write "on":)

    /srv/dropzone -> srv
    > 1:7: root: 'srv' is not an absolute path (write it in full, from the first / on)

    root: /srv/dropzone\n -> concurrency: 99\nroot: /srv/dropzone\n
    > 1:14: concurrency: must be at most 64, not 99

    root: /srv/dropzone -> #
    > : root: is missing (as in 'root: /srv/dropzone')

        api_key: {credential: optipub} -> #
    > 4:3: accounts.main.api_key: is missing (as in 'api_key: {credential: optipub}')

        base_url: https://publisher.example.com -> #
    > 4:3: accounts.main.base_url: is missing (as in 'base_url: https://publisher.example.com')

    api_key: { -> key_created: 2026-02-30\n    api_key: {
    > 6:18: accounts.main.key_created: '2026-02-30' is no day of the calendar (year-month-day, as in 2026-03-01)

    api_key: { -> key_created: "20260301"\n    api_key: {
    > 6:18: accounts.main.key_created: '20260301' is no day of the calendar (year-month-day, as in 2026-03-01)

    api_key: { -> key_created: 2026-W10-1\n    api_key: {
    > 6:18: accounts.main.key_created: '2026-W10-1' is no day of the calendar (year-month-day, as in 2026-03-01)

    api_key: { -> key_created: 2026\n    api_key: {
    > 6:18: accounts.main.key_created: must be a date, not 2026 (year-month-day, as in 2026-03-01)

    api_key: { -> proxy: http://u:p@h\n    api_key: {
    > 6:12: accounts.main.proxy: has a user or password
    > (…@), which it cannot have (as in http://proxy.example.com:3128)

    api_key: { -> proxy: socks5://h\n    api_key: {
    > 6:12: accounts.main.proxy: is not an address of the form https://host (as in http://proxy.example.com:3128)

    api_key: { -> proxy: http://h/x\n    api_key: {
    > 6:12: accounts.main.proxy: has a path (a proxy is a scheme, a host and a port)

    api_key: { -> timeouts: {raed: 5s}\n    api_key: {
    > 6:16: accounts.main.timeouts.raed: is no key of timeouts (did you mean read?)

    folders: -> defaults: {path: /x}\nfolders:
    > 7:12: defaults.path: cannot be a default (write it in each folder)

    folders: -> defaults: 5\nfolders:
    > 7:11: defaults: must be a mapping, not 5 (its keys go below it, indented: 'key: value')

    https://publisher.example.com -> 5
    > 5:15: accounts.main.base_url: must be an address, not 5 (write "5" if that was meant)

    https://publisher.example.com -> ~
    > 5:5: accounts.main.base_url: has no value (an address is expected)

    {credential: optipub} -> null
    > 6:5: accounts.main.api_key: has no value (write {env: NAME}, {file: /PATH} or {credential: NAME})

    mode: lead -> mode: *lead
    > 10:11: folders.acme.mode: a value that refers to another place with * is not supported
    > (write the value out; a value that begins with * needs quotes)

    mode: lead -> mode: lead\n    include: [*csv]
    > 11:15: folders.acme.include[0]: a value that refers to another place with * is not supported
    > (write the value out; a value that begins with * needs quotes)

    mode: lead -> mode: lead\n    include: [a/b, c]
    > 11:15: folders.acme.include[0]: 'a/b' is not a pattern of file names (as in "*.csv"; it has no /)
"""


@pytest.mark.parametrize(("change", "expected"), cases(LINES))
def test_a_wrong_line_is_told_at_its_place(file: Path, change: str, expected: list[str]) -> None:
    """Anywhere in the file, what is wrong is told where it stands, and what is missing where it should stand."""
    old, _, new = change.partition(" -> ")
    assert told(file, changed(old, new)) == [f":{problem}".replace(":: ", ": ") for problem in expected]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ("", ": folders: is missing ('dropzone config example' shows how)"),
        ("folders:", ":7:1: folders: has no value (its keys go below it, indented)"),
        ("folders: {}", ":7:10: folders: is empty (at least one is needed; 'dropzone config example' shows how)"),
        ("folders: {a: }", ":7:11: folders.a: has no value (its keys go below it, indented)"),
        (
            "folders: [a]",
            ":7:10: folders: must be a mapping, not a list (its keys go below it, indented: 'key: value')",
        ),
    ],
)
def test_there_must_be_folders(file: Path, folders: str, expected: str) -> None:
    """A file that watches nothing is a mistake, however it is written."""
    assert told(file, BASE.partition("folders:")[0] + folders) == [expected]


def test_everything_is_told_at_once_in_the_order_of_the_file(file: Path) -> None:
    """Mistakes of YAML, of values, of keys and of consent come together, each once, from top to bottom."""
    text = """\
root: dropzone
state_dir: /var/lib/dropzone
accounts:
  main: {base_url: http://example.com, api_key: sk-12}
defaults:
  settle: 5
  guards: {min_rows: x}
folders:
  one: {segment_id: 1, mode: suppress}
  two: {segment_id: 2, mode: subscribe, source_campaign: 1, segment_id: 3}
  three: {segment_id: 3, mode: &a lead, hash: md5, settel: 1s}
"""
    assert [re.sub(r" \(.*", "", problem) for problem in told(file, text)] == [
        ":1:7: root: 'dropzone' is not an absolute path",
        ":4:20: accounts.main.base_url: is not https: the API key would travel in the clear",
        ":4:49: accounts.main.api_key: must name where the key is found, never the key itself",
        ":6:11: defaults.settle: must be a duration, not 5",
        ":7:22: defaults.guards.min_rows: must be a whole number, not 'x'",
        ":9:3: folders.one.hash: is missing, and mode suppress needs it",
        ":10:3: folders.two.source_partner: is missing, and mode subscribe needs it",
        ":10:61: folders.two.segment_id: is given twice, in lines 10 and 10",
        ":11:32: folders.three.mode: an anchor",
        ":11:41: folders.three.hash: means nothing with mode lead, only with suppress",
        ":11:52: folders.three.settel: is no key of a folder",
    ]


def test_a_wrong_value_hides_no_rule_and_makes_none_up(file: Path) -> None:
    """What depends on a value that is wrong in itself is not judged; what does not depend on it is."""
    text = changed("mode: lead", "mode: suppress\n    hash: sha1\n    source_partner: 5\n    settle: x")
    assert [problem.split(": ")[1] for problem in told(file, text)] == [
        "folders.acme.hash",
        "folders.acme.source_partner",
        "folders.acme.settle",
    ]
    text = BASE.replace("folders:", "defaults: {mode: subscribe}\nfolders:").replace("mode: lead", "mode: laed")
    assert [problem.split(": ")[1] for problem in told(file, text)] == ["folders.acme.mode"]
    text = changed("  main:", "  wrong name:").replace("folders:\n", "folders:\n") + "    account: wrong name\n"
    assert [problem.split(": ")[1] for problem in told(file, text)] == ["accounts.wrong name", "folders.acme.account"]


# ------------------------------------------------------------------------------------------------- consent


CONSENT = r"""
    mode: subscribe
    > 8:3: folders.acme.source_campaign: is missing, and mode subscribe needs it
    > (a subscribe import names its campaign)
    > 8:3: folders.acme.source_partner: is missing, and mode subscribe needs it (a subscribe import names its partner)

    mode: subscribe\n    source_campaign: 1\n    source_partner: 2

    mode: subscribe\n    source_campaign: 1
    > 8:3: folders.acme.source_partner: is missing, and mode subscribe needs it (a subscribe import names its partner)

    mode: suppress
    > 8:3: folders.acme.hash: is missing, and mode suppress needs it
    > (none, md5, sha256 or sha512, as the suppression segment was made)

    mode: suppress\n    hash: none

    mode: suppress\n    hash: none\n    hash_plain: false

    mode: suppress\n    hash: sha512\n    hash_plain: true

    mode: suppress\n    hash: none\n    hash_plain: true
    > 12:17: folders.acme.hash_plain: cannot be with hash: none, which takes plain addresses as they are
    > (remove it, or name the segment's hash)

    mode: unsubscribe\n    source_campaign: 5
    > 11:5: folders.acme.source_campaign: means nothing with mode unsubscribe, only with subscribe
    > (remove it, or correct the mode)

    mode: lead\n    source_campaign: 5
    > 11:5: folders.acme.source_campaign: means nothing with mode lead, only with subscribe
    > (remove it, or correct the mode)

    mode: unsubscribe\n    source_partner: 5
    > 11:5: folders.acme.source_partner: means nothing with mode unsubscribe, only with subscribe
    > (remove it, or correct the mode)

    mode: lead\n    source_partner: 5
    > 11:5: folders.acme.source_partner: means nothing with mode lead, only with subscribe
    > (remove it, or correct the mode)

    mode: unsubscribe\n    hash: none
    > 11:5: folders.acme.hash: means nothing with mode unsubscribe, only with suppress
    > (remove it, or correct the mode)

    mode: lead\n    hash: none
    > 11:5: folders.acme.hash: means nothing with mode lead, only with suppress (remove it, or correct the mode)

    mode: unsubscribe\n    hash_plain: false
    > 11:5: folders.acme.hash_plain: means nothing with mode unsubscribe, only with suppress
    > (remove it, or correct the mode)

    mode: lead\n    hash_plain: false
    > 11:5: folders.acme.hash_plain: means nothing with mode lead, only with suppress (remove it, or correct the mode)

    mode: suppress\n    hash: md5\n    source_campaign: 5
    > 12:5: folders.acme.source_campaign: means nothing with mode suppress, only with subscribe
    > (remove it, or correct the mode)
"""


@pytest.mark.parametrize(("lines", "expected"), cases(CONSENT))
def test_a_mode_has_its_keys_and_no_others(file: Path, lines: str, expected: list[str]) -> None:
    """What a mode needs must be there, and what it would not send must not: a mistake there changes consent."""
    assert told(file, changed("mode: lead", lines)) == [f":{problem}" for problem in expected]


SEGMENTS = """
    {segment_id: 7, mode: lead}
    {segment_id: 7, mode: unsubscribe}

    {segment_id: 7, mode: lead, clear: true}
    {segment_id: 7, mode: lead}

    {segment_id: 7, mode: suppress, hash: md5}
    {segment_id: 7, mode: suppress, hash: md5}

    {segment_id: 7, mode: suppress, hash: md5}
    {segment_id: 7, mode: lead}
    > 9:21: folders.two.segment_id: folder one imports into segment 7 with mode suppress, this one with lead
    > (one of the two is wrong: folders.one.segment_id or this)

    {segment_id: 7, mode: lead}
    {segment_id: 7, mode: suppress, hash: md5}
    > 9:21: folders.two.segment_id: folder one imports into segment 7 with mode lead, this one with suppress
    > (one of the two is wrong: folders.one.segment_id or this)

    {segment_id: 7, mode: suppress, hash: md5}
    {segment_id: 7, mode: suppress, hash: sha256}
    > 9:46: folders.two.hash: folder one has segment 7 with hash md5, this one with sha256
    > (one of the two is wrong: folders.one.segment_id or this)

    {segment_id: 7, mode: lead, clear: true}
    {segment_id: 7, mode: lead, clear: true}
    > 9:43: folders.two.clear: folder one clears this segment too: each would wipe the other's rows
    > (keep it in one of them, or give each a segment of its own)
"""


@pytest.mark.parametrize(("both", "expected"), cases(SEGMENTS))
def test_folders_of_one_segment_must_agree(file: Path, both: str, expected: list[str]) -> None:
    """One segment is for suppression or it is not, has one hash, and is cleared by one folder only."""
    first, _, second = both.partition("\n")
    text = BASE.partition("  acme:")[0] + f"  one: {first}\n  two: {second}\n"
    assert told(file, text) == [f":{problem}" for problem in expected]


def test_segments_of_different_accounts_have_nothing_in_common(file: Path) -> None:
    """The same number in two installations is two segments."""
    text = changed("  main:", "  other: {base_url: https://other.example.com, api_key: {env: KEY}}\n  main:")
    text += "    account: main\n  two: {segment_id: 7, mode: suppress, hash: md5, account: other}\n"
    assert told(file, text) == []


def test_a_folder_must_choose_among_several_accounts(file: Path) -> None:
    """With two accounts none is the obvious one; the message names both."""
    text = changed("  main:", "  other: {base_url: https://other.example.com, api_key: {env: KEY}}\n  main:")
    assert told(file, text) == [
        ":9:3: folders.acme.account: is missing, and there are several accounts (one of other, main)"
    ]
    assert told(file, text.replace("folders:", "defaults: {account: other}\nfolders:")) == []


ADDRESSES = """
    http://publisher.example.com
    > is not https: the API key would travel in the clear (write https://publisher.example.com)

    http://localhost.example.com
    > is not https: the API key would travel in the clear (write https://localhost.example.com)

    http://127.0.0.1.example.com
    > is not https: the API key would travel in the clear (write https://127.0.0.1.example.com)

    http://[::2]:80
    > is not https: the API key would travel in the clear (write https://[::2]:80)

    https://user:secret@example.com
    > has a user or password (…@), which it cannot have (as in https://publisher.example.com)

    https://example.com?key=1
    > has a query (?…), which it cannot have (as in https://publisher.example.com)

    https://example.com#x
    > has a fragment (#…), which it cannot have (as in https://publisher.example.com)

    https://example.com/api/3.2/
    > ends in /api/3.2, which dropzone adds itself (write https://example.com)

    https://example.com/a/../b
    > has a path that cannot be (as in https://publisher.example.com)

    example.com
    > is not an address of the form https://host (as in https://publisher.example.com)

    ftp://example.com
    > is not an address of the form https://host (as in https://publisher.example.com)

    https://
    > is not an address of the form https://host (as in https://publisher.example.com)

    https://h:0
    > is not an address of the form https://host (as in https://publisher.example.com)

    https://h:65536
    > is not an address of the form https://host (as in https://publisher.example.com)

    https://a b
    > is not an address of the form https://host (as in https://publisher.example.com)

    https://[zz]
    > is not an address of the form https://host (as in https://publisher.example.com)

    https://-a
    > is not an address of the form https://host (as in https://publisher.example.com)

    https://a..b
    > is not an address of the form https://host (as in https://publisher.example.com)
"""


@pytest.mark.parametrize(("address", "expected"), cases(ADDRESSES))
def test_an_address_that_could_leak_the_key_is_refused(file: Path, address: str, expected: list[str]) -> None:
    """Only https, without password, query or fragment, and without the part that dropzone adds itself."""
    text = changed("https://publisher.example.com", f'"{address}"')
    assert told(file, text) == [f":5:15: accounts.main.base_url: {problem}" for problem in expected]


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("http://localhost:8080/", "http://localhost:8080"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:80//", "http://[::1]:80"),
        ("HTTPS://Example.com/opti/pub/", "https://Example.com/opti/pub"),
    ],
)
def test_an_address_is_kept_without_its_last_slash(file: Path, address: str, kept: str) -> None:
    """Plain http is for loopback, a path in front of the API is allowed."""
    loaded = load(file, changed("https://publisher.example.com", f'"{address}"'))
    assert loaded.accounts["main"].base_url == kept


# ------------------------------------------------------------------------------------------------- places on disk


PLACES = """
    one: {path: /in/a}
    two: {path: /in/b}

    one: {path: /in/a}
    two: {path: /in/ab}

    one: {path: /in}
    two: {path: /in}
    > 9:15: folders.two.path: is also the path of folder one, /in

    one: {path: /in}
    two: {path: /x/../in/.}
    > 9:15: folders.two.path: is also the path of folder one, /in

    one: {path: /in}
    two: {path: /in/a/b}
    > 9:15: folders.two.path: lies inside the path of folder one, /in

    one: {path: /in/a/b}
    two: {path: /in}
    > 8:15: folders.one.path: lies inside the path of folder two, /in

    one: {path: ROOT/done/one}
    > 8:15: folders.one.path: lies inside ROOT/done, which is dropzone's own

    one: {path: ROOT/work}
    > 8:15: folders.one.path: is also ROOT/work, which is dropzone's own

    one: {path: ROOT}
    > 8:15: folders.one.path: has ROOT/work, which is dropzone's own, inside it
    > 8:15: folders.one.path: has ROOT/done, which is dropzone's own, inside it
    > 8:15: folders.one.path: has ROOT/failed, which is dropzone's own, inside it

    one: {path: ROOT/inbox}
    two: {}
    > 9:3: folders.two.path: lies inside the path of folder one, ROOT/inbox

    one: {path: STATE/in}
    > 8:15: folders.one.path: lies inside state_dir

    one: {path: STATE}
    > 8:15: folders.one.path: is also state_dir

    one: {path: STATE/..}
    > 2:12: state_dir: lies inside the path of folder one, VAR

    one: {path: /in, spool: /spool}
    two: {path: /spool/failed/x}
    > 9:15: folders.two.path: lies inside /spool/failed, which is dropzone's own

    one: {path: /in, spool: /spool}
    two: {path: /in2, spool: /spool}

    one: {path: /in, spool: ROOT}

    one: {path: /in, spool: ROOT/done}
    > 8:27: folders.one.spool: lies inside ROOT/done, which is dropzone's own

    one: {path: /in, spool: STATE}
"""


@pytest.mark.parametrize(("lines", "expected"), cases(PLACES))
def test_no_place_serves_two_purposes(tmp_path: Path, lines: str, expected: list[str]) -> None:
    """Inboxes, our own folders and the ledger never overlap, by whatever spelling: a partner could forge results."""
    state = tmp_path / "var" / "state"
    names = {"ROOT": str(tmp_path / "root"), "STATE": str(state), "VAR": str(state.parent)}
    text = (
        "root: ROOT\nstate_dir: STATE\n" + BASE.partition("state_dir: /var/lib/dropzone\n")[2].partition("  acme:")[0]
    )
    for number, line in enumerate(lines.split("\n"), 1):
        text += f"  {line[:-1]}{'' if line.endswith('{}') else ', '}segment_id: {number}, mode: lead}}\n"
    for name, path in names.items():
        text = text.replace(name, path)
        expected = [problem.replace(name, path) for problem in expected]
    hint = " (choose another place)"
    assert told(tmp_path / "dropzone.yaml", text) == [f":{problem}{hint}" for problem in expected]


def test_symbolic_links_are_seen_through(tmp_path: Path) -> None:
    """Two spellings of one folder are one folder, whether the last part exists yet or not."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = (
        BASE
        + f"    path: {tmp_path}/real/in\n  two:\n    segment_id: 8\n    mode: lead\n    path: {tmp_path}/link/in\n"
    )
    assert told(tmp_path / "dropzone.yaml", text) == [
        f":15:11: folders.two.path: is also the path of folder acme, {tmp_path}/real/in (choose another place)"
    ]


def test_dots_in_a_path_are_resolved_once(tmp_path: Path) -> None:
    """Below, paths are compared part by part, so what `..` leads to is settled when the file is read."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    loaded = load(tmp_path / "dropzone.yaml", BASE + f"    path: {tmp_path}/link/../in\n")
    assert loaded.folders["acme"].path == tmp_path / "a" / "in"


# ------------------------------------------------------------------------------------------------- defaults


def test_defaults_fill_in_what_a_folder_leaves_open(file: Path) -> None:
    """A folder's own value wins; of guards and retry each key by itself; lists and maps as a whole."""
    text = BASE.replace(
        "folders:",
        "defaults:\n"
        "  settle: 5s\n"
        "  scan: 1m\n"
        "  mode: unsubscribe\n"
        "  rename: {a: b}\n"
        "  guards: {min_rows: 10, max_shrink: none}\n"
        "folders:\n"
        "  other: {segment_id: 8}",
    )
    loaded = load(file, text + "    scan: 30s\n    rename: {c: d}\n    guards: {min_rows: 20, max_rows: 99}\n")
    acme, other = loaded.folders["acme"], loaded.folders["other"]
    assert (acme.settle, acme.scan, acme.mode, acme.rename) == (5.0, 30.0, "lead", {"c": "d"})
    assert acme.guards == Guards(min_rows=20, max_rows=99, max_shrink=None)
    assert (other.settle, other.scan, other.mode, other.rename) == (5.0, 60.0, "unsubscribe", {"a": "b"})
    assert other.guards == Guards(min_rows=10, max_shrink=None)


def test_defaults_of_one_mode_count_for_that_mode(file: Path) -> None:
    """Campaign, partner and hash may be defaults in a file that also has folders which do not send them."""
    text = BASE.replace(
        "folders:",
        "defaults: {source_campaign: 1, source_partner: 2, hash: md5, hash_plain: true}\n"
        "folders:\n"
        "  signups: {segment_id: 8, mode: subscribe}\n"
        "  digests: {segment_id: 9, mode: suppress}\n"
        "  plain: {segment_id: 10, mode: suppress, hash: none}",
    )
    folders = load(file, text).folders
    keys = ("source_campaign", "source_partner", "hash", "hash_plain")
    assert {name: tuple(getattr(folder, key) for key in keys) for name, folder in folders.items()} == {
        "signups": (1, 2, None, False),
        "digests": (None, None, "md5", True),
        "plain": (None, None, "none", False),
        "acme": (None, None, None, False),
    }


def test_a_mistake_in_the_defaults_is_told_once(file: Path) -> None:
    """However many folders take a default, what is wrong with it is told at its own line."""
    text = BASE.replace(
        "folders:",
        "defaults: {account: nil, guards: {min_rows: 5, max_rows: 4}, retry: {max: 1s}, hash: none, hash_plain: true}\n"
        "folders:\n  other: {segment_id: 8, mode: lead}\n  no-mail: {segment_id: 9, mode: suppress}",
    )
    assert [re.sub(r" \(.*", "", problem) for problem in told(file, text)] == [
        ":7:21: defaults.account: no account is called nil",
        ":7:58: defaults.guards.max_rows: is less than min_rows, 5: every file would be held",
        ":7:75: defaults.retry.max: is shorter than the first delay, retry.initial",
        ":7:104: defaults.hash_plain: cannot be with hash: none, which takes plain addresses as they are",
    ]


def test_empty_sections_are_no_mistake(file: Path) -> None:
    """A section whose lines are all commented out stands for its defaults."""
    text = BASE.replace("folders:", "defaults:\n  # settle: 2s\nfolders:")
    folder = load(file, text + "    guards:\n    retry:\n    rename:\n    extra_fields:\n").folders["acme"]
    assert (folder.guards, folder.retry, folder.rename, folder.extra_fields) == (Guards(), Retry(), {}, {})


# ------------------------------------------------------------------------------------------------- secrets

KEY = "op_live-0123456789"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (KEY, "must name where the key is found, never the key itself"),
        ("12345", "must name where the key is found, never the key itself"),
        (f"[{KEY}]", "must name where the key is found, never the key itself"),
        (f"{{env: {KEY}}}", "env must be the name of a variable"),
        (f"{{file: {KEY}}}", "file must be an absolute path"),
        (f"{{credential: ../{KEY}}}", "credential must be the name of a credential"),
        (f"{{key: {KEY}}}", "must name one of env, file and credential"),
        (f"{{{KEY}}}", "must name one of env, file and credential"),
        (f"{{env: A, file: /{KEY}}}", "must name one of env, file and credential"),
        ("{}", "must name one of env, file and credential"),
        ("{env: 5}", "must name one of env, file and credential"),
    ],
)
def test_a_key_in_the_file_is_refused_and_not_repeated(file: Path, value: str, what: str) -> None:
    """Whoever pastes the key into the file learns where it belongs, and it shows up in no message."""
    problems = told(file, changed("{credential: optipub}", value))
    assert problems == [f":6:14: accounts.main.api_key: {what} ({SOURCES})"]
    assert KEY not in str(problems)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_key_is_read_from_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Variable, file and credential give the same key, without one final line end."""
    monkeypatch.setenv("DROPZONE_KEY", KEY + end)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = tmp_path / "optipub"
    path.write_bytes(f"{KEY}{end}".encode())
    path.chmod(0o600)
    assert Secret(source="env", name="DROPZONE_KEY").read() == KEY
    assert Secret(source="file", name=str(path)).read() == KEY
    assert Secret(source="credential", name="optipub").read() == KEY


def test_a_shell_finds_the_credential_of_the_running_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever types `segment create` has no CREDENTIALS_DIRECTORY; what the service was given is the service's own."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr("dropzone.config.secret.SERVICE", tmp_path / "of the service")
    with pytest.raises(DropzoneError):
        Secret(source="credential", name="optipub").read()
    (tmp_path / "of the service").mkdir()
    (tmp_path / "of the service" / "optipub").write_text(KEY)
    assert Secret(source="credential", name="optipub").read() == KEY
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "optipub").write_text("its-own")
    assert Secret(source="credential", name="optipub").read() == "its-own"


@pytest.mark.skipif(os.geteuid() != 0, reason="inside it is not root, and owns nothing")
def test_a_shell_that_may_not_look_for_the_credential_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where credentials are the manager's alone, nobody else sees whether there is one: a sentence all the same."""
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr("dropzone.config.secret.SERVICE", closed / "dropzone.service")
    secret = Secret(source="credential", name="optipub")
    with as_nobody(owns=[tmp_path]):
        assert secret.stamp() is None
        with pytest.raises(DropzoneError, match="CREDENTIALS_DIRECTORY is not set"):
            secret.read()


def test_a_credential_may_show_the_rights_of_its_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service manager guards the folder; the file shows a group right where an access list lets our user in."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "optipub").write_text(KEY)
    (tmp_path / "optipub").chmod(0o440)
    assert Secret(source="credential", name="optipub").read() == KEY


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o602])
def test_a_key_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    """The mend is the command to type, and the key is not in the message."""
    path = tmp_path / "key"
    path.write_text(KEY)
    path.chmod(mode)
    with pytest.raises(DropzoneError) as caught:
        Secret(source="file", name=str(path)).read()
    assert caught.value.message == f"the file {path} can be read by others than its owner (mode {mode:04o})"
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"two words", "holds blanks, line breaks or characters outside of ASCII"),
        (b"two\nlines", "holds blanks, line breaks or characters outside of ASCII"),
        (b"key\n\n", "holds blanks, line breaks or characters outside of ASCII"),
        ("schlüssel".encode(), "holds blanks, line breaks or characters outside of ASCII"),
        (b"key\x00", "holds blanks, line breaks or characters outside of ASCII"),
        (b"\xef\xbb\xbfkey", "holds blanks, line breaks or characters outside of ASCII"),
        (b"x" * 5000, "holds more than 4096 characters"),
    ],
)
def test_what_is_no_key_is_not_sent(tmp_path: Path, content: bytes, message: str) -> None:
    """An empty file, a second line or an editor's mark in front would end up in a header of the request."""
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(DropzoneError) as caught:
        Secret(source="file", name=str(path)).read()
    assert caught.value.message == f"the file {path} {message}"


def test_a_pipe_is_no_configuration_and_nobody_waits_for_it(tmp_path: Path) -> None:
    """A pipe that nobody writes to, and a device: refused at once, by the questions too."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        assert config.glance(path) is None
        with pytest.raises(ConfigError) as caught:
            config.load(path)
        (problem,) = caught.value.problems
        assert problem.what == "cannot be read: it is a pipe or a device, not a file that can be read again"


def test_a_key_that_is_not_there_says_where_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, no file, no credentials at all, a folder or a pipe in its place: one sentence and a mend."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("DROPZONE_KEY", raising=False)
    os.mkfifo(tmp_path / "pipe", 0o600)
    expected = {
        Secret(source="env", name="DROPZONE_KEY"): "the environment variable DROPZONE_KEY is not set",
        Secret(
            source="file", name=f"{tmp_path}/none"
        ): f"the file {tmp_path}/none cannot be read: No such file or directory",
        Secret(source="file", name=str(tmp_path)): f"the file {tmp_path} cannot be read: Is a directory",
        Secret(source="file", name=f"{tmp_path}/pipe"): f"the file {tmp_path}/pipe is no file",
        Secret(source="credential", name="x"): "the credential x is not there: CREDENTIALS_DIRECTORY is not set",
    }
    for secret, message in expected.items():
        with pytest.raises(DropzoneError) as caught:
            secret.read()
        assert caught.value.message == message
        assert caught.value.hint


def test_a_replaced_key_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamp of a file changes with its content or its inode; where there is no file there is no stamp."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    secret = Secret(source="file", name=str(tmp_path / "key"))
    assert secret.stamp() is None
    (tmp_path / "key").write_text("first")
    first = secret.stamp()
    assert first is not None
    assert first == secret.stamp() == Secret(source="credential", name="key").stamp()
    (tmp_path / "new").write_text("other")
    os.utime(tmp_path / "new", ns=(first[0], first[0]))
    (tmp_path / "new").replace(tmp_path / "key")
    assert secret.stamp() not in {None, first}
    assert Secret(source="env", name="KEY").stamp() is None
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert Secret(source="credential", name="key").stamp() is None


def test_a_secret_shows_only_its_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever prints the account, the configuration or what is in force sees where the key is, never the key."""
    monkeypatch.setenv("DROPZONE_KEY", KEY)
    loaded = load(file, changed("credential: optipub", "env: DROPZONE_KEY"))
    assert loaded.accounts["main"].api_key.read() == KEY
    for shown in (repr(loaded), str(loaded.accounts), config.dump(loaded), json.dumps(config.effective(loaded))):
        assert "DROPZONE_KEY" in shown
        assert KEY not in shown


# ------------------------------------------------------------------------------------------------- units


@given(st.integers(0, 10**12))
def test_durations_come_back_as_they_were(milliseconds: int) -> None:
    """Each whole number of milliseconds is written in a form that is read as the same."""
    written = units.write_duration(milliseconds / 1000)
    assert units.read_duration(written) == milliseconds / 1000


@given(st.integers(1, 2**60))
def test_sizes_come_back_as_they_were(size: int) -> None:
    """Each number of bytes is written in a form that is read as the same."""
    written = units.write_size(size)
    assert (written if isinstance(written, int) else units.read_size(written)) == size


@given(st.integers(0, 10**9))
def test_shares_come_back_as_they_were(millionths: int) -> None:
    """Each share is written in a form that is read as the same."""
    share = Share(millionths=millionths)
    assert Share.percent(str(share)) == share


@pytest.mark.parametrize(
    ("text", "seconds"), [("300ms", 0.3), ("2s", 2.0), ("15m", 900.0), ("24h", 86400.0), ("90d", 7776000.0)]
)
def test_durations_mean_seconds(text: str, seconds: float) -> None:
    """The five units of the documentation."""
    assert units.read_duration(text) == seconds


def test_units_are_written_as_people_would() -> None:
    """The largest unit that leaves no remainder; none where it would be odd."""
    assert [units.write_duration(seconds) for seconds in (0.0, 0.05, 90.0, 300.0, 172800.0)] == [
        "0s",
        "50ms",
        "90s",
        "5m",
        "2d",
    ]
    assert [units.write_size(size) for size in (0, 1000, 65536, 2 << 30)] == [0, 1000, "64KiB", "2GiB"]
    assert [str(Share(millionths=number)) for number in (0, 10_000, 5_000, 1_234_567)] == [
        "0%",
        "1%",
        "0.5%",
        "123.4567%",
    ]


def test_a_share_is_exact() -> None:
    """29 % of 100 rows are 29 rows, although 0.29 * 100 is less."""
    assert int(0.29 * 100) == 28
    assert Share.percent("29%").of(100) == 29
    assert Share.percent("1%").of(199) == 1
    assert Share.percent("300%").of(7) == 21
    assert Share.percent("0.5%").fraction == 0.005


@pytest.mark.parametrize(
    "text", ["", "5", "s", "5 s", "-5s", "1.5h", "5S", "5s ", "5s\n", "٣s", "1e3s", "9999999999999s"]
)
def test_other_forms_are_no_durations(text: str) -> None:
    """Anything but digits and a unit is refused, other scripts' digits too."""
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        units.read_duration(text)


@pytest.mark.parametrize("text", ["", "5", "2GB", "2gib", "-1KiB", "1.5GiB", "1 KiB"])
def test_other_forms_are_no_sizes(text: str) -> None:
    """Only the binary units: nobody has to guess what a kB is."""
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        units.read_size(text)


@pytest.mark.parametrize("text", ["", "5", "%", "5 %", "-1%", ".5%", "1.%", "1.00001%", "1,5%"])
def test_other_forms_are_no_shares(text: str) -> None:
    """A number, at most four digits after the point, and the sign."""
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Share.percent(text)


# ------------------------------------------------------------------------------------------------- written back


def meant(loaded: Config) -> Config:
    """The configuration without what tells its text from another of the same meaning."""
    return loaded.having(crc=0)


def test_what_is_in_force_loads_as_the_same(file: Path) -> None:
    """`config show` is itself a configuration, and it means what the file meant."""
    loaded = load(file, (ROOT / "config.example.yaml").read_text(encoding="utf-8"))
    again = load(file, config.dump(loaded))
    assert meant(again) == meant(loaded)
    shown = config.effective(loaded)
    assert shown["accounts"]["main"]["api_key"] == {"credential": "optipub"}
    assert shown["folders"]["acme-leads"]["settle"] == "2s"
    assert shown["folders"]["do-not-mail"]["guards"] == {
        "min_rows": 1000,
        "max_rows": "none",
        "max_bytes": "2GiB",
        "max_shrink": "20%",
        "max_growth": "none",
        "max_files_per_hour": "none",
    }


# Words in which YAML sees something else, and whatever a person can type.
WORDS = st.sampled_from(
    ["no", "y", "010", "1:30", "2026-01-01", "~", "null", "1e3", "*x", "&x", "a: b", "# x", "'", '"', "{a", "- "]
)
WRITABLE = st.one_of(
    WORDS,
    st.text(
        st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"),
        min_size=1,
        max_size=20,
    ),
)


def quoted(value: object) -> str:
    """JSON is YAML, but for the surrogates that it writes for what lies beyond U+FFFF."""
    return json.dumps(value, ensure_ascii=False)


@given(
    ignore=st.lists(WRITABLE.filter(lambda text: "/" not in text)),
    fields=st.dictionaries(st.from_regex(r"x[a-z]{0,5}", fullmatch=True), WRITABLE),
)
def test_every_text_survives_being_written_back(
    tmp_path_factory: pytest.TempPathFactory, ignore: list[str], fields: dict[str, str]
) -> None:
    """Whatever a text looks like, it is quoted so that our own reader takes it for the same text."""
    file = tmp_path_factory.mktemp("written") / "dropzone.yaml"
    loaded = load(file, f"{BASE}    ignore: {quoted(ignore)}\n    extra_fields: {quoted(fields)}\n")
    assert loaded.folders["acme"].ignore == tuple(ignore)
    assert loaded.folders["acme"].extra_fields == fields
    assert meant(load(file, config.dump(loaded))) == meant(loaded)


def test_the_settings_of_a_folder_survive_the_ledger(file: Path) -> None:
    """What is stored with a drop gives the same folder back, switched-off guards and spools included."""
    lines = ["spool: /spool", "guards: {max_shrink: none, max_growth: 300%}", "bad_rows: 1%", "ignore: [a]", "scan: 5s"]
    for name, folder in load(file, BASE + "".join(f"    {line}\n" for line in lines)).folders.items():
        stored = folder.settings_json()
        assert "\n" not in stored
        assert Folder.from_settings(stored) == folder
        assert json.loads(stored)["name"] == name


def test_settings_of_an_older_version_get_the_new_defaults(file: Path) -> None:
    """A key that did not exist when the drop was claimed has its default."""
    stored = json.loads(load(file, BASE).folders["acme"].settings_json())
    del stored["repeats"], stored["retry"]
    folder = Folder.from_settings(json.dumps(stored))
    assert (folder.repeats, folder.retry) == ("keep", Retry())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no JSON"),
        ("[]", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"mode": "x", "later": 1}', "account, base, later, mode"),
        (r'{"path": "/\ud800", "create": {"name": "x"}}', "account, base, create.publication_id, mode, name, path"),
        (r'{"mode": "lead", "path": "/../\u0000", "scan": NaN}', "account, base, name, path, scan"),
    ],
)
def test_stored_settings_that_are_none_say_so(text: str, what: str) -> None:
    """A damaged row is an error with a mend, not a traceback of a library."""
    with pytest.raises(DropzoneError) as caught:
        Folder.from_settings(text)
    assert caught.value.message.startswith(f"the stored settings of a folder cannot be read: {what}")


# ------------------------------------------------------------------------------------------------- the example


def test_the_example_in_the_repository_is_the_generated_one() -> None:
    """config.example.yaml never falls behind the fields."""
    assert (ROOT / "config.example.yaml").read_text(encoding="utf-8") == config.example()


def test_the_example_works_as_it_is() -> None:
    """Copied and run, it is right, and it says what the documentation says."""
    loaded = config.load(ROOT / "config.example.yaml")
    modes = {name: (folder.segment_id, folder.mode) for name, folder in loaded.folders.items()}
    assert modes == {
        "acme-signups": (100789, "subscribe"),
        "acme-optouts": (100790, "unsubscribe"),
        "acme-leads": (100791, "lead"),
        "do-not-mail": (100792, "suppress"),
    }
    assert config.example().startswith("# yaml-language-server: $schema=dropzone.schema.json\n")
    assert "dropzone config schema > dropzone.schema.json" in config.example()


FORMS: tuple[Form, ...] = (FILE, FOLDER, *map(form_of, (Account, Timeouts, Create, Guards, Retry, Retention)))


def test_every_key_is_documented_once() -> None:
    """Each key has its description in its field, and the example gives each of them exactly once."""
    text = " ".join(line.strip(" #") for line in config.example().splitlines())
    for form in FORMS:
        for name, key in form.keys.items():
            assert key.description, name
            assert text.count(key.description) == 1, name
            assert re.search(rf"^#? *{name}:", config.example(), re.MULTILINE), name


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.title)
def test_a_choice_offers_what_its_type_allows(form: Form) -> None:
    """The words that the file may hold are the words that the program was written for."""
    types = get_type_hints(form.model) if form.model else {}
    for name, field in form.fields.items():
        words = [word for part in (types.get(name), *get_args(types.get(name))) for word in get_args(part)]
        texts = [word for word in words if isinstance(word, str)]
        assert texts == field.kind.schema.get("enum", []), name


def test_the_defaults_in_the_example_are_the_defaults(file: Path) -> None:
    """With all its commented lines taken in, the example changes nothing but where it only shows an example."""
    short, _, rest = config.example().partition("# ---- Every other key")
    lines = [line[1:] for line in rest.partition("\n\n")[2].splitlines()]
    shown = [line for line in lines if not line.endswith("# an example")]
    text = "\n".join(shown).replace(
        "NAME:\n", "main:\n    base_url: https://a.example.com\n    api_key: {env: KEY}\n", 1
    )
    text = text.replace("NAME:\n", "acme:\n    segment_id: 7\n    mode: suppress\n    hash: md5\n", 1)
    every = load(file, f"root: /srv/dropzone\nstate_dir: /var/lib/dropzone\n{text}\n")
    plain = load(file, BASE.replace("mode: lead", "mode: suppress\n    hash: md5"))
    assert every.folders == plain.folders
    assert (every.unmade, plain.unmade) == ({}, {})
    assert every.accounts["main"].timeouts == plain.accounts["main"].timeouts
    assert every.concurrency == plain.concurrency
    wanted = "\n".join(lines)
    for number, name in enumerate(
        (
            "main:\n    base_url: https://a.example.com\n    api_key: {env: KEY}",
            "acme:\n    segment_id: 7\n    mode: lead",
        )
    ):
        assert "  NAME:" in wanted, number
        wanted = wanted.replace("  NAME:", f"  {name}", 1)
    wanted = re.sub(r"^    hash_plain:.*\n", "", wanted, flags=re.MULTILINE)
    wanted = re.sub(r"^    create:.*\n(      .*\n)*", "", wanted, flags=re.MULTILINE)  # instead of segment_id
    assert told(file, f"root: /srv/dropzone\nstate_dir: /var/lib/dropzone\n{wanted}\n") == []
    assert short.count("\n") > 20


# ------------------------------------------------------------------------------------------------- segments to be

TO_CREATE = BASE.replace("segment_id: 7", "create: {publication_id: 7}")


def test_a_segment_that_is_still_to_be_created(file: Path) -> None:
    """Its folder is not among those that are watched until the id is known; then it is like any other."""
    loaded = load(file, TO_CREATE)
    assert (set(loaded.folders), set(loaded.unmade)) == (set(), {"acme"})
    unmade = loaded.unmade["acme"]
    assert (unmade.segment_name, unmade.create.publication_id) == ("acme", 7)
    made = loaded.with_segments({"acme": 200001, "other": 5})
    assert (made.folders["acme"].segment_id, made.unmade) == (200001, {})
    assert made.folders["acme"].lane == "main/200001"
    assert config.Folder.from_settings(made.folders["acme"].settings_json()) == made.folders["acme"]
    assert made.folders["acme"].having(segment_id=200001) is made.folders["acme"]
    assert load(file, config.dump(loaded)).unmade == loaded.unmade
    named = load(file, TO_CREATE.replace("{publication_id: 7}", '{publication_id: 7, name: "Leads of Acme"}'))
    assert named.unmade["acme"].segment_name == "Leads of Acme"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TO_CREATE.replace("publication_id: 7", ""), "folders.acme.create.publication_id: is missing"),
        (BASE + "    create: {publication_id: 7}\n", "means nothing beside segment_id"),
        (
            TO_CREATE.replace("mode: lead", "mode: suppress\n    hash: md5").replace(
                ": 7}", ": 7, auto_responder_id: 2}"
            ),
            "means nothing with mode suppress",
        ),
        (TO_CREATE.replace(": 7}", ": 7, redirect_url: ftp://x}"), "is no address of a page"),
        (TO_CREATE.replace(": 7}", ": 7, nmae: x}"), "did you mean name?"),
    ],
)
def test_what_cannot_be_created_is_refused_at_load(file: Path, text: str, says: str) -> None:
    """Before anybody asks OptiPub for it."""
    assert any(says in line for line in told(file, text)), told(file, text)


def test_retention_is_off_by_default_and_merged_key_by_key(file: Path) -> None:
    """Nothing is ever deleted unless somebody has said so."""
    assert load(file, BASE).folders["acme"].retention == Retention(done=None, failed=None)
    text = BASE + "    retention: {failed: 365d}\ndefaults: {retention: {done: 90d, failed: 1d}}\n"
    assert load(file, text).folders["acme"].retention == Retention(done=90 * 86400.0, failed=365 * 86400.0)
    off = BASE + "    retention: {done: none}\ndefaults: {retention: {done: 90d}}\n"
    assert load(file, off).folders["acme"].retention == Retention()
    assert told(file, BASE + "    retention: {done: 1h}\n")


# ------------------------------------------------------------------------------------------------- the schema


def as_editor_sees(value: object) -> object:
    """The values of our reader as JSON has them."""
    match value:
        case Odd(kind="number", text=text) if text.isdigit():
            return int(text)
        case Odd():
            return value.text or None
        case dict():
            return {key: as_editor_sees(part) for key, part in value.items()}
        case list():
            return [as_editor_sees(part) for part in value]
        case _:
            return value


def is_valid(text: str) -> bool:
    jsonschema = import_module("jsonschema")  # has no types
    schema = config.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(as_editor_sees(reader.parse(text.encode()).root)))


def test_the_schema_takes_the_example() -> None:
    """What works in dropzone is right in the editor."""
    assert is_valid(config.example())
    assert is_valid(
        BASE + "    guards: {max_rows: none, max_bytes: 100, max_shrink: 5%}\n    bad_rows: 3\n    rename: {A b: c}\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "settle: 2",
        "settle: 2 s",
        "settel: 2s",
        "mode: subscribed",
        "clear: 'true'",
        "bad_rows: x",
        "include: '*.csv'",
        "include: []",
        "path: relative",
        "guards: {max_rows: nix}",
        "guards: {min_row: 1}",
        "extra_fields: {a b: c}",
        "rename: {a: B}",
        "hash: sha1",
        "repeats:",
        "segment_id: 1000000000000000000",
        "guards: {max_bytes: 1000000000000000000}",
        "extra_fields: {a: 1000000000000000000}",
        "encoding: a b",
        "rename: {' ': email}",
        "create: {publication_id: 7, redirect_url: https://exämple.com}",
    ],
)
def test_the_schema_finds_what_the_loader_finds(file: Path, line: str) -> None:
    """A mistake in one value is marked while the file is being written."""
    key = line.partition(":")[0]
    text = re.sub(rf"    {key}:.*\n", "", BASE) + f"    {line}\n"
    assert told(file, text)
    assert not is_valid(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://publisher.example.com", "https://exämple.com"),
        ("https://publisher.example.com", "https://example.com/a b"),
        ("{credential: optipub}", "{env: K}\n    key_created: '20260301'"),
        ("{credential: optipub}", "{env: K}\n    proxy: http://p/x"),
        ("  acme:\n    segment_id: 7\n    mode: lead\n", "  {}\n"),
    ],
)
def test_the_schema_finds_what_is_wrong_around_folders(file: Path, old: str, new: str) -> None:
    """Addresses, days, and a file without folders."""
    assert told(file, changed(old, new))
    assert not is_valid(changed(old, new))


def test_the_schema_takes_sections_whose_keys_are_commented_out(file: Path) -> None:
    """An editor is content with what the program is content with."""
    text = BASE + "    guards:\n    retry:\n    rename:\n    extra_fields:\ndefaults:\n"
    text = text.replace("    api_key", "    timeouts:\n    api_key")
    assert told(file, text) == []
    assert is_valid(text)


def test_the_schema_says_what_the_fields_say() -> None:
    """Each key has its description, its default as one writes it, and no null that the file could not hold."""
    schema = config.schema()
    folder = schema["$defs"]["Folder"]["properties"]
    assert folder["settle"]["default"] == "2s"
    assert folder["settle"]["pattern"] == f"^{units.DURATION}$"
    assert schema["$defs"]["Guards"]["properties"]["max_shrink"]["default"] == "50%"
    assert {"path", "spool", "segment_id", "create"}.isdisjoint(schema["$defs"]["Defaults"]["properties"])
    assert set(folder) - set(schema["$defs"]["Defaults"]["properties"]) == {"path", "spool", "segment_id", "create"}
    assert schema["required"] == ["root", "state_dir", "accounts", "folders"]
    assert all("description" in part for part in folder.values())
    assert len(schema["$defs"]["Account"]["properties"]["api_key"]["oneOf"]) == 3
    blank = {name for name, part in folder.items() if '"null"' in json.dumps(part)}
    assert blank == {"extra_fields", "rename", "guards", "retry", "retention"}  # their keys may be commented out


# ------------------------------------------------------------------------------------------------- whatever comes

FRAGMENTS = st.sampled_from(
    [
        *BASE.splitlines(),
        *(line[1:] for line in config.example().splitlines() if line.startswith(("#  ", "#c"))),
        "    guards: {min_rows: x, max_bytes: []}",
        "defaults: {settle: , path: /x, guards: {a: {b: c}}}",
        "  acme: &a *a",
        "  ? {a: b}",
        "  <<: *a",
        "---",
        "accounts: {x: {api_key: {env: {}}}}",
        "folders: [[], {}]",
        '    extra_fields: {"[key]": {}, 5: [], no: ~}',
        "    rename: {a: [], A: {}}",
    ]
)
SOUP = st.lists(
    st.one_of(FRAGMENTS, st.text(st.sampled_from(" \t:-?{}[],&*!|>'\"%@`#~0aé\\\n\r"), max_size=12)), max_size=25
)


@given(
    content=st.one_of(st.binary(max_size=60), SOUP.map("\n".join).map(str.encode), st.text(max_size=60).map(str.encode))
)
def test_nothing_but_a_config_error_comes_out(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever stands in the file, loading ends in a configuration or in problems that can be printed in one line."""
    file = tmp_path_factory.mktemp("soup") / "dropzone.yaml"
    problems = told(file, content)
    assert problems or config.load(file).folders
    assert all(problem.isprintable() for problem in problems)


@given(
    place=st.integers(0, len(BASE)),
    cut=st.integers(0, 12),
    put=st.text(st.sampled_from(" \n:-{}[]'\"*&#~0ax\t"), max_size=4),
)
def test_a_right_file_with_one_slip_is_right_or_told(
    tmp_path_factory: pytest.TempPathFactory, place: int, cut: int, put: str
) -> None:
    """One slip of the finger anywhere never ends in a traceback, and every problem has a place inside the file."""
    file = tmp_path_factory.mktemp("slip") / "dropzone.yaml"
    text = BASE[:place] + put + BASE[place + cut :]
    lines = [re.match(":([0-9]+):", problem) for problem in told(file, text)]
    assert all(int(line[1]) <= text.count("\n") + 2 for line in lines if line)


@given(SOUP.map("\n".join))
def test_both_readers_of_yaml_see_the_same(text: str) -> None:
    """A configuration that is right here is right where PyYAML came without libyaml, with the same values."""
    fast, slow = (reader.parse(text.encode(), loader=loader) for loader in (reader.LOADER, pyyaml.SafeLoader))
    if not fast.problems and not slow.problems:
        assert fast.root == slow.root
        assert (fast.keys, fast.values) == (slow.keys, slow.values)


def test_reading_the_configuration_is_light() -> None:
    """A command that only reads has a quarter of a second: nothing is imported that a configuration does not need."""
    code = "import sys, dropzone.config\nprint(*{'httpx', 'structlog', 'watchdog', 'rich', 'click'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
