"""The pretend OptiPub against sockets of the standard library alone: no code of the client takes part."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import http.client
import io
import itertools
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from dropzone.errors import DropzoneError
from dropzone.sandbox import Import, Other, Sandbox
from dropzone.sandbox import rules as sandbox_rules
from dropzone.sandbox.rules import KEPT_MEMBERS, ROW_LIMIT, Rows, split_row

BOUNDARY = "b0undary"
KEY = {"Authorization": "Bearer sandbox-key"}
CSV = b"email,varr_name\njane@example.com,Jane\njohn@example.com,John\n"
IMPORTED = {"error": False, "data": [], "message": "Import created."}
SUBSCRIBE = [("clear", "0"), ("activeStatus", "1"), ("sourceCampaign", "90"), ("sourcePartner", "9")]
UNSUBSCRIBE = [("clear", "0"), ("activeStatus", "0")]
LEAD = [("clear", "0"), ("activeStatus", "null")]
PLAIN = [("clear", "0")]
DIGESTS = {kind: hashlib.new(kind, b"jane@example.com").hexdigest() for kind in ("md5", "sha256", "sha512")}

Fields = Sequence[tuple[str, str]]


def file_part(content: bytes, *, disposition: str = 'filename="list.csv"', kind: str = "text/csv") -> bytes:
    """The part called file, as it stands between two boundaries."""
    head = f'Content-Disposition: form-data; name="file"; {disposition}\r\nContent-Type: {kind}\r\n\r\n'
    return head.encode() + content


def field_part(name: str, value: str) -> bytes:
    """A part that is no file."""
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()


def joined(*parts: bytes) -> bytes:
    """A multipart body of these parts."""
    return b"".join(f"--{BOUNDARY}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--\r\n".encode()


def form(content: bytes = CSV, fields: Fields = SUBSCRIBE) -> bytes:
    """The body of an import."""
    return joined(file_part(content), *(field_part(*field) for field in fields))


class Reply:
    """Status, headers and body of an answer that was read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.location = response.headers.get("Location")
        self.headers = response.headers
        self.body = response.read()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def connect(sandbox: Sandbox) -> http.client.HTTPConnection:
    """A keep-alive connection."""
    return http.client.HTTPConnection(sandbox.host, sandbox.port, timeout=20)


def ask(
    sandbox: Sandbox, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    with contextlib.closing(connect(sandbox)) as connection:
        connection.request(method, path, body, headers or {})
        return Reply(connection.getresponse())


def upload(sandbox: Sandbox, body: bytes, segment: int = 100789, key: dict[str, str] | None = None) -> Reply:
    """One import on a connection of its own."""
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **(KEY if key is None else key)}
    return ask(sandbox, "POST", f"/api/3.2/messages/segments/{segment}/import", body, headers)


def head(length: int, segment: int = 100789) -> bytes:
    """The head of an import for a raw socket."""
    return (
        f"POST /api/3.2/messages/segments/{segment}/import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sandbox-key\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def raw(sandbox: Sandbox) -> socket.socket:
    """A raw connection."""
    return socket.create_connection((sandbox.host, sandbox.port), timeout=20)


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes; a reset raises."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A fresh sandbox with one suppression segment of each kind."""
    with Sandbox(segments={1: "none", 2: "md5", 3: "sha256", 4: "sha512"}) as running:
        yield running


def refusal(sandbox: Sandbox, reply: Reply) -> str:
    """The reason that the state gives for a documented refusal."""
    last = sandbox.imports[-1]
    assert (reply.status, reply.body, last.verdict, last.applied) == (302, b"", "refused", False)
    return last.reason


# ------------------------------------------------------------------------------------------------ importing: fields


@pytest.mark.parametrize(
    ("fields", "mode"),
    [(SUBSCRIBE, "subscribe"), (UNSUBSCRIBE, "unsubscribe"), (LEAD, "lead"), (PLAIN, "lead")],
)
def test_each_mode_is_accepted_with_its_documented_fields(sandbox: Sandbox, fields: Fields, mode: str) -> None:
    """The examples of the vendor's page get the answer of the vendor's page, and the state shows all of it."""
    reply = upload(sandbox, form(fields=fields))
    assert (reply.status, reply.json(), reply.headers["Content-Type"]) == (201, IMPORTED, "application/json")
    (seen,) = sandbox.state()["imports"]
    assert seen["fields"] == tuple(fields)
    assert seen["parts"] == ("file", *(name for name, _ in fields))
    assert {name: seen[name] for name in ("number", "segment", "kind", "mode", "verdict", "reason", "applied")} == {
        "number": 1,
        "segment": 100789,
        "kind": "static",
        "mode": mode,
        "verdict": "accepted",
        "reason": "",
        "applied": True,
    }
    assert (seen["filename"], seen["content_type"], seen["rows"]) == ("list.csv", "text/csv", 2)
    assert seen["columns"] == ("email", "varr_name")
    assert seen["first_rows"] == [["jane@example.com", "Jane"], ["john@example.com", "John"]]
    assert seen["sha256"] == hashlib.sha256(CSV).hexdigest()
    assert (seen["file_bytes"], seen["bytes"]) == (len(CSV), len(form(fields=fields)))


@pytest.mark.parametrize(
    ("segment", "cell"),
    [(1, "jane@example.com"), (2, DIGESTS["md5"]), (3, DIGESTS["sha256"]), (4, DIGESTS["sha512"])],
)
def test_suppress_takes_what_its_segment_hashes(sandbox: Sandbox, segment: int, cell: str) -> None:
    """Each kind of suppression segment takes its own digests, or addresses, and nothing else."""
    assert upload(sandbox, form(f"email\n{cell}\n".encode(), PLAIN), segment).status == 201
    assert sandbox.imports[-1].mode == "suppress"
    for wrong in {"jane@example.com", *DIGESTS.values()} - {cell}:
        reply = upload(sandbox, form(f"email\n{wrong}\n".encode(), PLAIN), segment)
        assert refusal(sandbox, reply).startswith("line 2: the first field is no")


@pytest.mark.parametrize("field", SUBSCRIBE[1:])
def test_suppress_refuses_the_fields_of_subscriptions(sandbox: Sandbox, field: tuple[str, str]) -> None:
    """A suppression segment has no subscriptions to change."""
    reply = upload(sandbox, form(b"email\njane@example.com\n", [*PLAIN, field]), 1)
    assert refusal(sandbox, reply) == f"{field[0]} is not for a suppression segment"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([], "clear must be 0 or 1"),
        ([("clear", "true")], "clear must be 0 or 1"),
        ([*PLAIN, *PLAIN], "clear is given twice"),
        ([*PLAIN, ("activeStatus", "2")], "activeStatus must be 1, 0, null or absent"),
        ([*PLAIN, ("activeStatus", "")], "activeStatus must be 1, 0, null or absent"),
        (SUBSCRIBE[:3], "activeStatus=1 needs sourcePartner"),
        ([*SUBSCRIBE[:2], SUBSCRIBE[3]], "activeStatus=1 needs sourceCampaign"),
        ([*SUBSCRIBE[:3], ("sourcePartner", "nine")], "sourcePartner must be an integer"),
        ([*PLAIN, ("file", "x")], "two parts are called 'file'"),
    ],
)
def test_wrong_fields_are_refused(sandbox: Sandbox, fields: Fields, reason: str) -> None:
    """A field that is missing or has no documented value turns the import into a bare redirect to the form."""
    reply = upload(sandbox, form(fields=fields))
    assert reply.location == "/segments/100789/import"
    assert refusal(sandbox, reply) == reason


def test_other_fields_pass_and_are_kept_in_their_order(sandbox: Sandbox) -> None:
    """What a newer API may know is let through, since `extra_fields` exists for it."""
    fields = [("subscriptionAction", "create_only"), *SUBSCRIBE, ("tagsToAdd", "1,2"), ("tagsToAdd", "3")]
    assert upload(sandbox, form(fields=fields)).status == 201
    assert sandbox.imports[0].fields == tuple(fields)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (joined(field_part("clear", "0")), "there is no file part"),
        (joined(file_part(CSV, disposition="x=y"), field_part("clear", "0")), "the file part has no file name"),
        (joined(file_part(CSV, disposition="filename*=UTF-8''a.csv")), "the file part has no file name"),
        (joined(file_part(CSV, disposition='filename=""')), "the file name is not plain ASCII"),
        (joined(file_part(CSV, disposition='filename="ä.csv"')), "the file name is not plain ASCII"),
        (joined(file_part(CSV, kind="text/plain")), "the file part is not declared text/csv"),
        (joined(file_part(CSV, kind="application/octet-stream")), "the file part is not declared text/csv"),
        (joined(file_part(CSV).replace(b'"file"', b'"csv"')), "'csv' is a file"),
        (joined(b"Content-Disposition: form-data\r\n\r\nx"), "a part without a name"),
        (joined(b"Content-Disposition form-data\r\n\r\nx"), "the multipart body is malformed: "),
        (joined(*[field_part("a", "b")] * 101), "more parts than the sandbox reads"),
        (joined(field_part("a", "b" * (64 << 10) + "c")), "a field is longer than the sandbox reads"),
        (form()[:-6], "the multipart body does not end with its boundary"),
        (b"", "the multipart body does not end with its boundary"),
    ],
)
def test_malformed_bodies_are_refused(sandbox: Sandbox, body: bytes, reason: str) -> None:
    """The multipart body is read as PHP reads it, and nothing in it is guessed at."""
    assert refusal(sandbox, upload(sandbox, body)).startswith(reason)


def test_only_multipart_with_a_boundary_is_read(sandbox: Sandbox) -> None:
    """A declared type without a boundary, or another one, is refused."""
    for kind in ("multipart/form-data", "application/json", "multipart/form-data; boundary=" + "b" * 71):
        headers = {**KEY, "Content-Type": kind}
        reply = ask(sandbox, "POST", "/api/3.2/messages/segments/5/import", form(), headers)
        assert refusal(sandbox, reply) == "the request is no multipart/form-data with a boundary"


def test_the_key_decides_between_login_and_form(sandbox: Sandbox) -> None:
    """Without a valid key the redirect goes to the login page, and the state never holds what was given."""
    for key in ({}, {"Authorization": "Bearer wrong-key"}, {"Authorization": "sandbox-key"}, {"Authorization": "Ä"}):
        reply = upload(sandbox, form(), key=key)
        assert reply.location == "/login"
        assert refusal(sandbox, reply) == "no key, or one that does not exist"
    upload(sandbox, form())
    text = ask(sandbox, "GET", "/sandbox/state").body
    assert b"sandbox-key" not in text
    assert b"wrong-key" not in text
    assert ["Authorization", "(hidden)"] in json.loads(text)["imports"][-1]["headers"]


def test_several_keys_are_valid() -> None:
    """`keys` are accepted beside `key`."""
    with Sandbox(key="one", keys=["two"]) as sandbox:
        for key in ("one", "two"):
            assert upload(sandbox, form(), key={"Authorization": f"Bearer {key}"}).status == 201


# --------------------------------------------------------------------------------------------------- importing: CSV


def read(content: bytes, kind: str = "static", size: int | None = None, *, plain_columns: bool = False) -> Rows:
    """The rows of `content`, fed in pieces of `size` bytes."""
    rows = Rows(kind, plain_columns=plain_columns)
    for start in range(0, len(content), size or len(content) or 1):
        rows.feed(content[start : start + (size or len(content))])
    rows.finish()
    return rows


@pytest.mark.parametrize(
    ("content", "addresses"),
    [
        (b"jane@example.com\njohn@example.com\n", ["jane@example.com", "john@example.com"]),
        (b"jane@example.com", ["jane@example.com"]),
        (b"email\n", []),
        (b"email\njane@example.com", ["jane@example.com"]),
        (b'"email","varr_a_1"\n"jane@example.com","x"\n', ["jane@example.com"]),
        (b'email,tag-add,varr_a\na@b,"New Tag 1,New Tag 2",Jane\n', ["a@b"]),
        (b'email,varr_a\na@b,"two\nlines"\nc@d,\n', ["a@b", "c@d"]),
        (b'email,varr_a\na@b,"say ""hi"""\n', ["a@b"]),
        ("email,varr_a\nj\u00e4ne@example.com,J\u00e4ne\tX\n".encode(), ["j\u00e4ne@example.com"]),
        (b"email,tag-add,tag-remove,tag-replace\na@b,,,\n", ["a@b"]),
        (b"email,subscriber-tag-add,subscriber-tag-remove,subscriber-tag-replace\na@b,,,\n", ["a@b"]),
    ],
)
def test_good_csvs_are_taken(content: bytes, addresses: list[str]) -> None:
    """What the vendor's page shows or allows is taken, however it is cut on the way."""
    for size in (None, 1, 3, 7):
        rows = read(content, size=size)
        assert (rows.reason, rows.addresses, rows.count, rows.size) == ("", addresses, len(addresses), len(content))
        assert rows.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\n", "line 1: the first field is no address"),
        (b"Email\na@b\n", "line 1: the first field is no address"),
        (b"\xef\xbb\xbfemail\na@b\n", "line 1: a byte order mark before the first column"),
        (b"a@b,Jane\n", "line 1: several columns, and no header that starts with email"),
        (b"varr_a,email\nx,a@b\n", "line 1: several columns, and no header that starts with email"),
        (b"email,first_name\na@b,x\n", "line 1: unknown column 'first_name'"),
        (b"email,varr_Name\na@b,x\n", "line 1: unknown column 'varr_Name'"),
        (b"email, varr_a\na@b,x\n", "line 1: unknown column ' varr_a'"),
        (b"email,tag-add,tag-add\na@b,x,y\n", "line 1: the column 'tag-add' stands there twice"),
        (b"email;varr_a\na@b;x\n", "line 1: the first field is no address"),
        (b"email\r\na@b\r\n", r"a control character, '\r', 5 characters later"),
        (b"email\na@b\x00\n", r"a control character, '\x00', 9 characters later"),
        (b"email\n\xff@b\n", "not UTF-8 6 bytes later"),
        (b"email\na@b\n\nc@d\n", "line 3: the first field is no address"),
        (b"email\na@b\n c@d\n", "line 3: the first field is no address"),
        (b"email\nab\n", "line 2: the first field is no address"),
        (b"email,varr_a\na@b\n", "line 2: 1 fields where there are 2 columns"),
        (b"email,varr_a\na@b,x\nc@d,x,y\n", "line 3: 3 fields where there are 2 columns"),
        (b'email,varr_a\na@b, "x"\n', "line 2: characters outside the quotes of a quoted field"),
        (b'email,varr_a\na@b,"x" \n', "line 2: characters outside the quotes of a quoted field"),
        (b'email,varr_a\na@b,x"y"\n', "line 2: characters outside the quotes of a quoted field"),
        (b'email,varr_a\na@b,"x\nc@d,y\n', "line 3: a quote never closes"),
        (b'"email\na@b\n', "line 2: a quote never closes"),
    ],
)
def test_bad_csvs_are_refused(content: bytes, reason: str) -> None:
    """Each rule of the vendor's page that a CSV can break has its reason."""
    assert read(content).reason == reason
    assert read(content, size=1).reason != ""


def test_a_bad_csv_is_a_redirect_to_the_form(sandbox: Sandbox) -> None:
    """The client learns nothing, the state all of it."""
    reply = upload(sandbox, form(b"email,first_name\na@b,x\n"))
    assert reply.location == "/segments/100789/import"
    assert refusal(sandbox, reply) == "line 1: unknown column 'first_name'"
    assert sandbox.state()["refused"] == 1
    assert sandbox.segment(100789) is None


def test_digests_must_be_lower_case() -> None:
    """Upper-case hex would match nothing over there."""
    digest = DIGESTS["sha256"]
    assert read(digest.encode(), "sha256").reason == ""
    assert read(digest.upper().encode(), "sha256").reason.endswith("no sha256 digest in lower-case hex")
    assert read(f"{digest}\n{digest}0\n".encode(), "sha256").reason.startswith("line 2")


def test_plain_columns_are_taken_on_request() -> None:
    """The vendor's newer page shows plain headers; a sandbox can be told to take them."""
    assert read(b"email,first_name\na@b,x\n", plain_columns=True).reason == ""
    assert read(b"email,First Name\na@b,x\n", plain_columns=True).reason != ""


def test_rows_without_an_end_are_given_up() -> None:
    """Memory stays bounded by one row, whether it is one line or many inside a quote."""
    for content in (b"email\n" + b"a" * (ROW_LIMIT + 1), b'email,varr_a\na@b,"' + b"a\n" * (ROW_LIMIT // 2 + 1)):
        assert read(content, size=256 << 10).reason.endswith("a row is longer than the sandbox reads")
    huge = read(b'email,varr_a\na@b,"' + b"a" * (ROW_LIMIT // 2) + b'"\n', size=256 << 10)
    assert (huge.reason, huge.count, huge.first) == ("", 1, [])


def test_first_rows_are_bounded() -> None:
    """Fifty rows are kept to look at."""
    rows = read(b"email\n" + b"".join(b"a%d@b\n" % n for n in range(80)))
    assert rows.count == 80
    assert rows.first == [f"a{n}@b" for n in range(50)]


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.sampled_from('\n",\t'), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.integers(1, 40))
def test_what_the_csv_module_writes_is_read_back(cells: list[tuple[str, str]], size: int) -> None:
    """Any text in canonical quotes comes back cell by cell, however the bytes are cut."""
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(
        [("email", "varr_a", "varr_b"), *(("a@b", *row) for row in cells)]
    )
    rows = read(written.getvalue().encode(), size=size)
    assert (rows.reason, rows.count) == ("", len(cells))
    assert [split_row(row) for row in rows.first] == [["a@b", *row] for row in cells]


@given(
    st.lists(st.sampled_from([b"a@b", b'"', b",", b"\n", b" ", b"x", b'""', b"a@b,x\n"]), max_size=30),
    st.integers(1, 9),
)
def test_many_rows_at_once_and_row_by_row_agree(pieces: list[bytes], size: int) -> None:
    """The pattern over many rows takes exactly what the reader of single rows takes."""
    content = b"email,varr_a\n" + b"".join(pieces)
    at_once, in_pieces, single = read(content), read(content, size=size), one_by_one(content)
    assert bool(at_once.reason) == bool(in_pieces.reason) == bool(single.reason)
    if not at_once.reason:
        assert at_once.count == in_pieces.count == single.count
        assert at_once.addresses == in_pieces.addresses == single.addresses
        assert at_once.first == in_pieces.first == single.first


class OneByOne(Rows):
    """A reader that never takes many rows at once."""

    def _take_plain(self, text: str) -> bool:
        return False


def one_by_one(content: bytes) -> Rows:
    """`content`, read without the pattern over many rows."""
    rows = OneByOne("static")
    rows.feed(content)
    rows.finish()
    return rows


# --------------------------------------------------------------------------------------------------------- segments


def create(sandbox: Sandbox, changes: dict[str, object] | None = None, **headers: str) -> Reply:
    """Ask for a segment: a static one but for `changes`, where a value of Ellipsis leaves the field out."""
    asked = {
        "name": "Test",
        "description": "A Static Segment",
        "publication_id": 7,
        "type": "static",
        "is_suppression": False,
        "suppression_type": None,
        **(changes or {}),
    }
    body = json.dumps({name: value for name, value in asked.items() if value is not ...}).encode()
    return ask(
        sandbox, "POST", "/api/3.2/messages/segments", body, {**KEY, "Content-Type": "application/json", **headers}
    )


def test_a_created_segment_has_the_documented_answer_and_takes_imports(sandbox: Sandbox) -> None:
    """The id of the answer is the one to import into."""
    reply = create(sandbox, {"auto_responder_id": 22, "redirect_url": ""})
    assert reply.status == 201
    answer = reply.json()
    number = answer["data"].pop("id")
    assert answer == {
        "error": False,
        "data": {"name": "Test", "description": "A Static Segment"},
        "message": "Created segment.",
    }
    assert upload(sandbox, form(), number).status == 201
    described = sandbox.segment(number)
    assert described is not None
    assert (described["publication_id"], described["name"]) == (7, "Test")


def test_a_created_suppression_segment_wants_its_digests(sandbox: Sandbox) -> None:
    """Its kind is remembered, and two segments get two ids."""
    asked = {"is_suppression": True, "suppression_type": "md5"}
    number, other = (create(sandbox, asked).json()["data"]["id"] for _ in range(2))
    assert number != other
    assert upload(sandbox, form(f"email\n{DIGESTS['md5']}\n".encode(), PLAIN), number).status == 201
    assert upload(sandbox, form(b"email\na@b\n", PLAIN), number).status == 302


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ...}, "name is missing"),
        ({"name": ""}, "name is empty"),
        ({"name": 5}, "name must be a string"),
        ({"description": None}, "description must be a string"),
        ({"publication_id": "7"}, "publication_id must be an integer"),
        ({"publication_id": True}, "publication_id must be an integer"),
        ({"type": "dynamic"}, "type must be static"),
        ({"is_suppression": 1}, "is_suppression must be true or false"),
        ({"suppression_type": "md5"}, "is_suppression must be true where suppression_type is given"),
        ({"is_suppression": True}, "a suppression segment needs a suppression_type"),
        (
            {"is_suppression": True, "suppression_type": "crc32"},
            "suppression_type must be null or one of none, md5, sha256, sha512",
        ),
        ({"colour": "red"}, "unknown field 'colour'"),
    ],
)
def test_wrong_segments_are_refused(sandbox: Sandbox, changes: dict[str, object], reason: str) -> None:
    """Each rule for a segment has its reason, and the client gets the bare redirect."""
    reply = create(sandbox, changes)
    assert (reply.status, reply.body, reply.location) == (302, b"", "/segments/create")
    assert sandbox.state()["others"][-1]["reason"] == reason


def test_a_segment_needs_a_key_and_json(sandbox: Sandbox) -> None:
    """The same key as for imports, and a body that is declared as JSON and is some."""
    assert create(sandbox, Authorization="Bearer wrong").location == "/login"
    path, declared = "/api/3.2/messages/segments", {**KEY, "Content-Type": "application/json"}
    replies = [ask(sandbox, "POST", path, b"{}", KEY)]
    replies += [ask(sandbox, "POST", path, body, declared) for body in (b"{", b"\xff", b"[]")]
    assert [reply.location for reply in replies] == ["/segments/create"] * 4
    assert [other["reason"] for other in sandbox.state()["others"]][1:] == [
        "the body is not declared application/json",
        "the body is no JSON",
        "the body is no JSON",
        "the body is no JSON object",
    ]


def test_unknown_segments_can_be_refused() -> None:
    """With `known_segments` only declared and created ones exist."""
    with Sandbox(segments={7: "static"}, known_segments=True) as sandbox:
        assert upload(sandbox, form(), 7).status == 201
        assert refusal(sandbox, upload(sandbox, form(), 8)) == "there is no such segment"
        assert sandbox.segment(8) is None


def test_clear_empties_the_segment_and_leaves_subscriptions(sandbox: Sandbox) -> None:
    """The digest: clear takes members out; subscriptions and subscribers are not touched."""
    upload(sandbox, form(b"a@b\nc@d\n", SUBSCRIBE))
    upload(sandbox, form(b"c@d\ne@f\n", UNSUBSCRIBE))
    described = ask(sandbox, "GET", "/sandbox/segments/100789").json()
    assert described["members"] == ["a@b", "c@d", "e@f"]
    assert described["subscriptions"] == {"a@b": "active", "c@d": "inactive", "e@f": "inactive"}
    upload(sandbox, form(b"g@h\n", [("clear", "1")]))
    described = ask(sandbox, "GET", "/sandbox/segments/100789").json()
    assert described["members"] == ["g@h"]
    assert described["last_imports"] == [1, 2, 3]
    assert described["subscriptions"] == {"a@b": "active", "c@d": "inactive", "e@f": "inactive", "g@h": "lead"}


def test_a_suppression_changes_no_subscription(sandbox: Sandbox) -> None:
    """Members are added to the suppression segment, and that is all."""
    upload(sandbox, form(b"a@b\n", PLAIN), 1)
    described = sandbox.segment(1)
    assert described is not None
    assert (described["members"], described["subscriptions"]) == (["a@b"], {})


def test_members_are_kept_only_while_they_are_few(sandbox: Sandbox) -> None:
    """Too many members are null instead of wrong, until the segment is cleared."""
    many = b"".join(b"%d@b\n" % n for n in range(KEPT_MEMBERS + 1))
    upload(sandbox, form(many, UNSUBSCRIBE))
    upload(sandbox, form(b"x@y\n", UNSUBSCRIBE))
    described = sandbox.segment(100789)
    assert described is not None
    assert (described["members"], described["subscriptions"], sandbox.imports[0].rows) == (None, None, KEPT_MEMBERS + 1)
    upload(sandbox, form(b"a@b\n", [("clear", "1"), ("activeStatus", "0")]))
    described = sandbox.segment(100789)
    assert described is not None
    assert described["members"] == ["a@b"]


def test_members_of_many_small_imports_are_bounded(sandbox: Sandbox) -> None:
    """The bound holds for what comes in several files as well."""
    for offset in (0, KEPT_MEMBERS):
        upload(sandbox, form(b"".join(b"%d@b\n" % n for n in range(offset, offset + KEPT_MEMBERS)), LEAD))
    described = sandbox.segment(100789)
    assert described is not None
    assert (described["members"], described["subscriptions"]) == (None, None)


# ----------------------------------------------------------------------------------------------------------- faults


def ask_for(sandbox: Sandbox, faults: object) -> Reply:
    """Ask for faults over the wire."""
    return ask(sandbox, "POST", "/sandbox/faults", json.dumps(faults).encode())


def test_a_status_fault_gives_any_answer_so_many_times(sandbox: Sandbox) -> None:
    """Status, headers and body are the given ones; nothing is applied; afterwards all is well."""
    retry = {"kind": "status", "times": 2, "status": 503, "headers": {"Retry-After": "3"}, "body": "later"}
    assert ask_for(sandbox, retry).json() == {"error": False, "added": 1}
    for left in (1, 0):
        reply = upload(sandbox, form())
        assert (reply.status, reply.headers["Retry-After"], reply.body) == (503, "3", b"later")
        assert sum(fault["times"] for fault in sandbox.state()["faults"]) == left
    assert upload(sandbox, form()).status == 201
    assert [(seen.verdict, seen.fault, seen.applied) for seen in sandbox.imports] == [
        ("fault", "status", False),
        ("fault", "status", False),
        ("accepted", "", True),
    ]


def test_a_fault_can_be_for_one_segment_and_last(sandbox: Sandbox) -> None:
    """Other segments are served; `times: null` lasts until faults are cleared."""
    ask_for(sandbox, [{"kind": "status", "status": 500, "segment": 5, "times": None}])
    assert [upload(sandbox, form(), segment).status for segment in (6, 5, 5, 6)] == [201, 500, 500, 201]
    assert ask(sandbox, "DELETE", "/sandbox/faults").status == 200
    assert upload(sandbox, form(), 5).status == 201


def test_a_fault_with_applied_takes_place_behind_its_answer(sandbox: Sandbox) -> None:
    """A gateway's 502 may come after the application has worked."""
    sandbox.fault("status", status=502, applied=True)
    sandbox.fault("lost_answer", applied=False)
    assert upload(sandbox, form()).status == 502
    with pytest.raises(http.client.RemoteDisconnected):
        upload(sandbox, form())
    assert [seen.applied for seen in sandbox.imports] == [True, False]


def test_what_the_rules_refuse_is_not_applied_by_any_fault(sandbox: Sandbox) -> None:
    """A fault changes the answer, never the rules."""
    for kind in ("lost_answer", "bad_json", "cut_body", "wrong_length", "slow"):
        sandbox.fault(kind)
        with contextlib.suppress(http.client.HTTPException):
            upload(sandbox, form(b"no address\n"))
    assert [seen.applied for seen in sandbox.imports] == [False] * 5


def test_bad_json(sandbox: Sandbox) -> None:
    """201 with a page in it, as a login page might come."""
    sandbox.fault("bad_json")
    reply = upload(sandbox, form())
    assert reply.status == 201
    with pytest.raises(ValueError, match="Expecting value"):
        reply.json()
    assert sandbox.imports[0].applied


def test_cut_body(sandbox: Sandbox) -> None:
    """The connection ends before the declared length."""
    sandbox.fault("cut_body")
    with pytest.raises(http.client.IncompleteRead) as caught:
        upload(sandbox, form())
    assert json.loads(caught.value.partial) == IMPORTED
    assert (caught.value.expected, sandbox.imports[0].status) == (100, 201)


def test_wrong_length(sandbox: Sandbox) -> None:
    """The declared length cuts the JSON short, and the connection cannot be used again."""
    sandbox.fault("wrong_length")
    reply = upload(sandbox, form())
    assert (reply.status, reply.headers["Connection"]) == (201, "close")
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        reply.json()


def test_login_redirect(sandbox: Sandbox) -> None:
    """The answer to a dead key, whatever the key."""
    sandbox.fault("login_redirect")
    reply = upload(sandbox, form())
    assert (reply.status, reply.location, sandbox.imports[0].verdict) == (302, "/login", "fault")


def test_drop_before_resets_without_reading(sandbox: Sandbox) -> None:
    """The connection is reset when only the head of the request is there."""
    sandbox.fault("drop_before")
    with raw(sandbox) as connection:
        connection.sendall(head(10_000_000))
        with pytest.raises(ConnectionResetError):
            everything(connection)
    sandbox.wait_for(imports=1)
    assert (sandbox.imports[0].bytes, sandbox.imports[0].verdict, sandbox.imports[0].status) == (0, "fault", None)


def test_drop_during_resets_after_so_many_bytes(sandbox: Sandbox) -> None:
    """Exactly `after_bytes` of the body are read, then the connection is reset."""
    sandbox.fault("drop_during", after_bytes=100)
    body = form()
    with raw(sandbox) as connection:
        connection.sendall(head(len(body)) + body[:100])
        with pytest.raises(ConnectionResetError):
            everything(connection)
    sandbox.wait_for(imports=1)
    assert (sandbox.imports[0].bytes, sandbox.imports[0].applied, sandbox.imports[0].reason) == (100, False, "")


@pytest.mark.parametrize(("kind", "applied"), [("drop_after", False), ("lost_answer", True)])
@pytest.mark.parametrize("reset", [False, True])
def test_no_answer_to_a_whole_request(sandbox: Sandbox, kind: str, *, applied: bool, reset: bool) -> None:
    """The body is read whole and nothing comes back; only the state tells whether the import took place."""
    sandbox.fault(kind, reset=reset)
    with raw(sandbox) as connection:
        connection.sendall(head(len(form())) + form())
        if reset:
            with pytest.raises(ConnectionResetError):
                everything(connection)
        else:
            assert everything(connection) == b""
    (seen,) = sandbox.imports
    assert (seen.applied, seen.verdict, seen.status, seen.rows) == (applied, "fault", None, 2)
    described = sandbox.segment(100789)
    assert (described is not None and described["members"] == ["jane@example.com", "john@example.com"]) is applied


def test_early_answers_before_the_body_is_there(sandbox: Sandbox) -> None:
    """The answer comes while the client still sends, and the connection closes."""
    sandbox.fault("early", status=401, body="no")
    with raw(sandbox) as connection:
        connection.sendall(head(10_000_000))
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert answer.endswith(b"\r\n\r\nno")
    assert b"Connection: close" in answer
    assert sandbox.imports[0].bytes == 0


def test_slow_answers_late_but_applies_at_once(sandbox: Sandbox) -> None:
    """The import is in the state while its answer is still waited for."""
    sandbox.fault("slow", seconds=0.2)
    with raw(sandbox) as connection:
        connection.sendall(head(len(form())) + form())
        sandbox.wait_for(applied=1)
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.settimeout(20)
        assert connection.recv(12) == b"HTTP/1.1 201"
    assert (sandbox.imports[0].verdict, sandbox.imports[0].fault) == ("accepted", "slow")


def test_a_stall_is_felt_by_the_client_and_ended_by_close() -> None:
    """Reading stops after so many bytes: a client that goes on sending runs into its own timeout."""
    with Sandbox() as sandbox:
        sandbox.fault("slow", seconds=3600, stall_after=1000)
        with raw(sandbox) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
            connection.sendall(head(64 << 20))
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.sendall(b"x" * (64 << 20))
            sandbox.close()
    assert (sandbox.imports[0].verdict, sandbox.imports[0].bytes) == ("incomplete", 1000)


def test_a_stall_that_ends_is_only_late(sandbox: Sandbox) -> None:
    """After the pause the rest is read and the usual answer comes."""
    sandbox.fault("slow", seconds=0.05, stall_after=10)
    assert upload(sandbox, form()).status == 201
    assert sandbox.imports[0].rows == 2


def test_a_stall_at_the_start_waits_for_nothing_more(sandbox: Sandbox) -> None:
    """`stall_after: 0` pauses before the first byte; one beyond the body never pauses."""
    sandbox.fault("slow", seconds=0.05, stall_after=0)
    sandbox.fault("slow", seconds=3600, stall_after=len(form()))
    assert [upload(sandbox, form()).status for _ in range(2)] == [201, 201]


def test_faults_of_creating_leave_imports_alone(sandbox: Sandbox) -> None:
    """`call: create` is for the other endpoint, whose answers go wrong in the same ways."""
    kinds = ["status", "lost_answer", "cut_body", "bad_json", "drop_before"]
    ask_for(sandbox, [{"kind": kind, "call": "create", "status": 500} for kind in kinds])
    assert upload(sandbox, form()).status == 201
    before = len(sandbox.state()["segments"])
    assert create(sandbox).status == 500
    with pytest.raises(http.client.RemoteDisconnected):
        create(sandbox)
    with pytest.raises(http.client.IncompleteRead):
        create(sandbox)
    assert b"<title>" in create(sandbox).body
    with pytest.raises(ConnectionResetError):
        create(sandbox)
    state = sandbox.state()
    assert len(state["segments"]) == before + 3  # the lost, the cut and the unreadable answer
    assert [other["fault"] for other in state["others"]] == kinds
    assert create(sandbox).status == 201


def test_a_client_that_leaves_while_creating_makes_nothing(sandbox: Sandbox) -> None:
    """Half of a segment's body is no segment."""
    with raw(sandbox) as connection:
        connection.sendall(b"POST /api/3.2/messages/segments HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        assert everything(connection) == b""
    assert sandbox.state()["others"][-1]["reason"] == "the body ended after 1 of 9 bytes"


def test_a_client_that_does_not_wait_for_its_answer_is_counted(sandbox: Sandbox) -> None:
    """The import took place; that its answer reached nobody is no error of the sandbox."""
    sandbox.fault("slow", seconds=0.1)
    with raw(sandbox) as connection:
        connection.sendall(head(len(form())) + form())
        sandbox.wait_for(applied=1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sandbox.wait_for(disconnects=1)
    assert sandbox.state()["errors"] == []


def test_a_status_fault_may_lie_about_its_length(sandbox: Sandbox) -> None:
    """Headers of a fault are sent as they were asked for, the declared length too."""
    sandbox.fault("status", status=502, headers={"Content-Length": "2"}, body="bad gateway")
    assert upload(sandbox, form()).body == b"ba"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("slow", "a fault is a JSON object"),
        ({}, "kind must be one of status, "),
        ({"kind": "explode"}, "kind must be one of status, "),
        ({"kind": "slow", "colour": 1}, "a fault has no 'colour'; it has kind, "),
        ({"kind": "slow", "times": True}, "times must be int or NoneType"),
        ({"kind": "slow", "times": 0}, "times must be 1 or more"),
        ({"kind": "slow", "seconds": -1}, "seconds must be 0 or more"),
        ({"kind": "slow", "call": "delete"}, "call must be one of import, create"),
        ({"kind": "status", "status": 100}, "status must lie between 200 and 599"),
        ({"kind": "status", "headers": {"X": "a\r\nY: b"}}, "headers must be printable ASCII strings"),
        ({"kind": "status", "headers": {"X": 1}}, "headers must be printable ASCII strings"),
    ],
)
def test_wrong_faults_are_explained(sandbox: Sandbox, fault: object, message: str) -> None:
    """A fault that does not exist is answered in words, and none of its list is taken."""
    reply = ask_for(sandbox, [{"kind": "slow"}, fault])
    assert reply.status == 400
    assert reply.json()["message"].startswith(message)
    assert sandbox.state()["faults"] == []
    assert ask(sandbox, "POST", "/sandbox/faults", b"{").status == 400


def test_a_wrong_fault_raises_here(sandbox: Sandbox) -> None:
    """The Python side checks the same things."""
    with pytest.raises(ValueError, match=r"kind must be one of"):
        sandbox.fault("explode")
    sandbox.fault("slow")
    sandbox.clear_faults()
    assert sandbox.state()["faults"] == []


# --------------------------------------------------------------------------------------------------------- the wire


def test_one_connection_serves_many_requests(sandbox: Sandbox) -> None:
    """Answers of all kinds keep the connection, and each is for its own request."""
    with contextlib.closing(connect(sandbox)) as connection:
        for content, status in ((CSV, 201), (b"bad\n", 302), (CSV, 201)):
            headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **KEY}
            connection.request("POST", "/api/3.2/messages/segments/5/import", form(content), headers)
            assert Reply(connection.getresponse()).status == status
            port = connection.sock.getsockname()[1]
            connection.request("GET", "/sandbox/state")
            assert Reply(connection.getresponse()).status == 200
            assert connection.sock.getsockname()[1] == port
    assert [seen.number for seen in sandbox.imports] == [1, 2, 3]


def test_a_client_that_leaves_is_remembered_as_incomplete(sandbox: Sandbox) -> None:
    """Half a body, then a close or a reset: not applied, and the state tells how far it came."""
    body = form()
    for linger in (None, struct.pack("ii", 1, 0)):
        before = len(sandbox.imports)
        with raw(sandbox) as connection:
            connection.sendall(head(len(body)) + body[:200])
            sandbox.wait_for(requests=before + 1)
            if linger:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sandbox.wait_for(imports=before + 1)
        seen = sandbox.imports[-1]
        assert (seen.verdict, seen.applied, seen.status) == ("incomplete", False, None)
        assert seen.reason == f"the body ended after {seen.bytes} of {len(body)} bytes"
        assert seen.bytes <= 200
    assert sandbox.state()["errors"] == []


def test_a_client_that_asks_for_permission_gets_it(sandbox: Sandbox) -> None:
    """A large body of curl's comes with Expect: 100-continue, and waits."""
    with raw(sandbox) as connection:
        connection.sendall(head(len(form())).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(form())
        assert connection.recv(100).startswith(b"HTTP/1.1 201 Created\r\n")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /api/3.2/messages/segments HTTP/1.1\r\n\r\n", 404),
        (b"POST /api/3.1/messages/segments HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"PUT /api/3.2/messages/segments HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 501),
        (b"POST /api/3.2/messages/segments/x/import HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /api/3.2/messages/segments/5/import HTTP/1.1\r\n\r\n", 411),
        (b"POST /api/3.2/messages/segments/5/import HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /api/3.2/messages/segments/5/import HTTP/1.1\r\nContent-Length: +5\r\n\r\n", 400),
        (b"POST /api/3.2/messages/segments/5/import HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST /api/3.2/messages/segments HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"POST /sandbox/faults HTTP/1.1\r\n\r\n", 411),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_what_is_no_call_of_the_api_is_answered_and_remembered(
    sandbox: Sandbox, request_head: bytes, status: int
) -> None:
    """Nothing is ignored silently: unknown calls, bodies without a length, and what is no HTTP."""
    with raw(sandbox) as connection:
        connection.sendall(request_head)
        assert f"{status}".encode() in everything(connection).partition(b"\r\n")[0]
    other = sandbox.state()["others"][-1]
    assert other["status"] == status
    assert other["reason"]


def test_unknown_controls_are_answered(sandbox: Sandbox) -> None:
    """A mistyped control says so."""
    for method, path in (("GET", "/sandbox/stat"), ("DELETE", "/sandbox/segments/5"), ("GET", "/sandbox/segments/5")):
        assert ask(sandbox, method, path).status == 404


def test_many_clients_at_once_get_numbers_of_their_own(sandbox: Sandbox) -> None:
    """Twelve uploads at the same time are twelve imports, in one order."""
    threads = [threading.Thread(target=upload, args=(sandbox, form(), segment)) for segment in range(10, 22)]
    for thread in threads:
        thread.start()
    sandbox.wait_for(imports=12, applied=12, requests=12)
    for thread in threads:
        thread.join()
    assert [seen.number for seen in sandbox.imports] == list(range(1, 13))
    assert {seen.segment for seen in sandbox.imports} == set(range(10, 22))


def test_tls(tmp_path: Path) -> None:
    """It speaks https with one's own certificate; who does not, or hangs in the handshake, disturbs nobody."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "chain.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Sandbox(tls=(tmp_path / "chain.pem", tmp_path / "key.pem")) as sandbox, raw(sandbox) as silent:
        assert sandbox.url.startswith("https://")
        with raw(sandbox) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                everything(plain)
        for _ in range(2):
            connection = http.client.HTTPSConnection(sandbox.host, sandbox.port, context=context, timeout=20)
            with contextlib.closing(connection):
                headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", **KEY}
                connection.request("POST", "/api/3.2/messages/segments/5/import", form(), headers)
                assert Reply(connection.getresponse()).status == 201
        sandbox.fault("drop_after")
        with context.wrap_socket(raw(sandbox), server_hostname="127.0.0.1") as secured:
            secured.sendall(head(len(form())) + form())
            assert everything(secured) == b""
        waiting = context.wrap_socket(raw(sandbox), server_hostname="127.0.0.1")
        sandbox.close()
        with waiting:
            assert waiting.recv(1) == b""
        assert silent.recv(1) == b""
    assert sandbox.state()["errors"] == []


# ------------------------------------------------------------------------------------------------- the Python object


def test_close_ends_everything(sandbox: Sandbox) -> None:
    """An idle connection, half a request and a slow answer end at once, with their threads."""
    before = set(threading.enumerate())
    with Sandbox() as mine:
        mine.fault("slow", seconds=3600)
        with raw(mine) as idle, raw(mine) as half, raw(mine) as slow:
            slow.sendall(head(len(form())) + form())
            mine.wait_for(applied=1)
            half.sendall(head(1000) + b"--")
            mine.wait_for(requests=2)
            mine.close()
            assert [everything(connection) for connection in (idle, half, slow)] == [b""] * 3
            assert set(threading.enumerate()) == before
            mine.close()
    assert [seen.verdict for seen in mine.imports] == ["accepted", "incomplete"]
    with pytest.raises(ConnectionRefusedError):
        raw(mine)


def test_it_comes_back_at_the_same_address(sandbox: Sandbox) -> None:
    """After an outage the port and the memory are the same."""
    upload(sandbox, form())
    url = sandbox.url
    sandbox.close()
    sandbox.start()
    upload(sandbox, form())
    assert (sandbox.url, [seen.number for seen in sandbox.imports]) == (url, [1, 2])


def test_reset_forgets_all_but_faults_and_declared_segments(sandbox: Sandbox) -> None:
    """DELETE /sandbox/state starts afresh."""
    sandbox.fault("status", segment=9)
    upload(sandbox, form())
    assert ask(sandbox, "DELETE", "/sandbox/state").status == 200
    state = sandbox.state()
    assert (state["requests"], state["imports"], [each["id"] for each in state["segments"]]) == (0, [], [1, 2, 3, 4])
    assert len(state["faults"]) == 1
    upload(sandbox, form())
    assert sandbox.imports[0].number == 1
    sandbox.reset()
    assert sandbox.imports == ()


def test_wait_for_says_what_there_was_instead(sandbox: Sandbox) -> None:
    """A wait in vain names both sides."""
    upload(sandbox, form(b"bad\n"))
    with pytest.raises(TimeoutError) as caught:
        sandbox.wait_for(imports=1, applied=1, timeout_s=0.01)
    assert str(caught.value) == (
        "waited 0.01 s for 1 imports, 1 applied, 0 requests, 0 disconnects;"
        " there were 1 imports, 0 applied, 1 requests, 0 disconnects"
    )


def test_hooks_are_told_of_each_request() -> None:
    """`on_import` gets what arrived and the verdict, `on_other` the rest."""
    told: list[Import | Other] = []
    with Sandbox(on_import=told.append, on_other=told.append) as sandbox:
        upload(sandbox, form())
        upload(sandbox, form(b"bad\n"))
        ask(sandbox, "GET", "/nothing")
    assert told[:2] == list(sandbox.imports)
    assert isinstance(told[2], Other)
    assert told[2].path == "/nothing"


def test_an_error_of_a_hook_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """It stands in the state and on the standard error, the connection ends, and the sandbox goes on."""

    def stumble(_: Import) -> None:
        raise ZeroDivisionError("hook")

    with Sandbox(on_import=stumble) as sandbox:
        for _ in range(2):
            with pytest.raises(http.client.RemoteDisconnected):
                upload(sandbox, form())
    assert sandbox.state()["errors"] == ["ZeroDivisionError('hook')"] * 2
    assert "ZeroDivisionError: hook" in capsys.readouterr().err


def test_what_cannot_be_started_says_why(sandbox: Sandbox, tmp_path: Path) -> None:
    """A port in use, a host that is not loopback, an impossible key, certificate or segment."""
    attempts: list[tuple[Callable[[], object], str]] = [
        (lambda: Sandbox(sandbox.port).start(), f"cannot listen on 127.0.0.1:{sandbox.port}"),
        (lambda: Sandbox(70_000).start(), "cannot listen on 127.0.0.1:70000"),
        (lambda: Sandbox(host="192.0.2.1"), "loopback only"),
        (lambda: Sandbox(host="example.com"), "loopback only"),
        (lambda: Sandbox(key=""), "empty or not printable"),
        (lambda: Sandbox(keys=["a\nb"]), "empty or not printable"),
        (lambda: Sandbox(tls=(tmp_path / "none.pem", tmp_path / "none.pem")).start(), "none.pem"),
    ]
    for attempt, message in attempts:
        with pytest.raises(DropzoneError, match=re.escape(message)):
            attempt()
    with pytest.raises(ValueError, match="'dynamic' is none of static"):
        Sandbox(segments={5: "dynamic"})


def test_it_imports_nothing_of_the_client() -> None:
    """The sandbox and the client must be able to disagree."""
    allowed = {"dropzone", "dropzone.errors", "dropzone.values"}
    script = "import sys, dropzone.sandbox; print(*(name for name in sys.modules if name.startswith('dropzone')))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if not name.startswith("dropzone.sandbox")} == allowed


def test_reading_uses_the_pattern_for_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain rows never reach the slow reader: the benchmarks go through here."""
    monkeypatch.setattr(sandbox_rules.Rows, "_take_lines", lambda *_: pytest.fail("row by row"))
    assert read(CSV * 1 + b"x@y,\n" * 1000).count == 1002


# ----------------------------------------------------------------------------------------------- in the foreground


@contextlib.contextmanager
def foreground(arguments: str = "") -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """`serve` in a process of its own: the process, its first line, and the port."""
    script = f"import sys; from dropzone.sandbox import serve; sys.exit(serve({arguments}))"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    ) as running:
        assert running.stdout is not None
        try:
            first = running.stdout.readline()
            yield running, first, int(first.partition("127.0.0.1:")[2].partition(",")[0])
        finally:
            running.kill()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_tells_all_and_stops_cleanly(ending: signal.Signals) -> None:
    """Address, key and YAML first, then a harmless line for each request, then exit code 0."""
    with foreground("key='k e y', segments={5: 'md5'}") as (running, first, port):
        at = Sandbox(port)
        body = joined(file_part(CSV, disposition='filename="a b.csv"'), *(field_part(*field) for field in SUBSCRIBE))
        assert upload(at, body, key={"Authorization": "Bearer k e y"}).status == 201
        ask_for(at, {"kind": "drop_after"})
        with pytest.raises(http.client.RemoteDisconnected):
            upload(at, form(fields=LEAD), 9)
        assert upload(at, form(), 5, key={}).status == 302
        ask(at, "GET", "/nothing%1b")
        with raw(at) as connection:
            connection.sendall(b"GET /\x1b[31m HTTP/1.1\r\n\r\n")
            everything(connection)
        running.send_signal(ending)
        assert running.stdout is not None  # not communicate(): it knows nothing of what readline has read ahead
        assert running.stderr is not None
        out, err = running.stdout.read(), running.stderr.read()
        assert running.wait(20) == 0
    assert first == (
        f"pretend OptiPub at http://127.0.0.1:{port}, key k e y; Ctrl-C ends it,"
        f" http://127.0.0.1:{port}/sandbox/state looks in\n"
    )
    lines = out.splitlines()
    no_key = "no key, or one that does not exist"
    why = f"drop_after: {no_key}"
    assert lines[:5] == [
        "# in the shell: export OPTIPUB_SANDBOX_KEY='k e y'",
        "accounts:",
        "  sandbox:",
        f"    base_url: http://127.0.0.1:{port}",
        "    api_key: {env: OPTIPUB_SANDBOX_KEY}",
    ]
    assert [re.sub(r"^\d\d:\d\d:\d\dZ ", "", line) for line in lines[5:]] == [
        f"import 1 into 100789 (subscribe), a b.csv, 2 rows, {len(CSV)} bytes: applied, answered 201",
        f"import 2 into 9 (lead), list.csv, 2 rows, {len(CSV)} bytes: not applied, not answered by the fault {why}",
        f"import 3 into 5 (suppress), list.csv, 0 rows, {len(CSV)} bytes: not applied, answered 302: {no_key}",
        "GET /nothing%1b: answered 404: the API has no such call",
        "GET /\\x1b[31m: answered 404: the API has no such call",
        "stopped",
    ]
    assert err == ""


def peak_kib(running: subprocess.Popen[str]) -> int:
    """The highest resident memory of a process so far."""
    status = Path(f"/proc/{running.pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


def test_a_large_upload_stays_out_of_memory() -> None:
    """64 MiB pass through, counted and checked, while memory grows by a fraction of that."""
    rows = [f"{base64.b32encode(os.urandom(10)).decode()}@example.com,Jane\n".encode() for _ in range(20_000)]
    chunk = b"".join(rows)
    times = (64 << 20) // len(chunk) + 1
    start, _, end = form(b"email,varr_name\n\x00").partition(b"\x00")
    with foreground() as (running, _, port):
        at = Sandbox(port)
        assert upload(at, form()).status == 201
        before = peak_kib(running)
        with raw(at) as connection:
            connection.sendall(head(len(start) + times * len(chunk) + len(end)) + start)
            for piece in itertools.repeat(chunk, times):
                connection.sendall(piece)
            connection.sendall(end)
            assert connection.recv(100).startswith(b"HTTP/1.1 201")
        grown = peak_kib(running) - before
        seen = ask(at, "GET", "/sandbox/state").json()["imports"][-1]
        running.terminate()
        assert running.wait(20) == 0
    assert seen["rows"] == times * len(rows)
    assert seen["file_bytes"] == len(b"email,varr_name\n") + times * len(chunk)
    assert grown < 40 << 10


def test_the_foreground_says_which_authority_is_needed(tmp_path: Path) -> None:
    """With TLS the account needs a `ca_file`, and the lines to paste say so."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    with foreground(f"tls=({str(tmp_path / 'both.pem')!r},) * 2") as (running, first, port):
        running.terminate()
        assert running.stdout is not None
        lines = running.stdout.read().splitlines()
        assert running.wait(20) == 0
    assert first.startswith(f"pretend OptiPub at https://127.0.0.1:{port}, key sandbox-key;")
    assert lines[-2:] == [f"    # ca_file: the authority that signed {tmp_path / 'both.pem'}", "stopped"]
