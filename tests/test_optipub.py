"""OptiPub over real sockets: the bytes that are sent, every row of the table of answers, and every way to break."""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import trustme
from answers import CASES, CREATED, IMPATIENT, LARGE, NOW, SMALL, Outcome, offered, tls_for, trusting
from hypothesis import given
from hypothesis import strategies as st
from wire import Peer, Server, answer, answering, dripping, reading_it_all, saying, tunnel

from dropzone import __version__, optipub
from dropzone.config import Account, Folder, load
from dropzone.drop import Accepted, Deferred, Drop, Lost, Refused, State, apply
from dropzone.errors import DropzoneError, FolderError
from dropzone.optipub import OptiPub, Upload
from dropzone.optipub.answers import Answer, Break, Offer, read_answer
from dropzone.optipub.client import PIECE

KEY = 'sk/Live+<K>&"42'  # each way of writing it down differs from the others
ID = "2N23520SJ9AH"
WAIT_S = (2.5, 5.0)  # the ordinary delay with `retry: {initial: 5s, max: 5s}`
CSV = SMALL

DROP = Drop(
    id=ID, folder="acme", name=b"a.csv", account="main", segment_id=7, lane="main/7", base="/srv", settings="{}",
    size=10, claimed_at=NOW, state=State.QUEUED, due_at=NOW, changed_at=NOW,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------- the client


class Client:
    """Makes real `Account` and `Folder` values, and sends."""

    def __init__(self, tmp_path: Path) -> None:
        self._at = tmp_path
        self._open: list[OptiPub] = []
        (tmp_path / "key").write_text(KEY)
        (tmp_path / "key").chmod(0o600)

    def settings(self, url: str, *, account: str = "", folder: str = "mode: lead") -> tuple[Account, Folder]:
        """What `load` makes of a configuration with these lines in it."""
        file = self._at / "dropzone.yaml"
        file.write_text(f"""
root: {self._at}/root
state_dir: {self._at}/state
accounts:
  main:
    base_url: {url}
    api_key: {{file: {self._at}/key}}
    {account}
folders:
  acme: {{segment_id: 100789, retry: {{initial: 5s, max: 5s}}, {folder}}}
""")
        config = load(file)
        return config.accounts["main"], config.folders["acme"]

    def optipub(self, account: Account) -> OptiPub:
        self._open.append(OptiPub(account, now=lambda: NOW))
        return self._open[-1]

    def build(self, url: str, payload: BinaryIO, size: int, *, account: str = "", folder: str = "mode: lead") -> Upload:
        whom, what = self.settings(url, account=account, folder=folder)
        return self.optipub(whom).build(DROP, what, payload, size)

    def send(self, url: str, content: bytes = CSV, *, account: str = "", folder: str = "mode: lead") -> Outcome:
        return self.build(url, io.BytesIO(content), len(content), account=account, folder=folder).send()

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def ordinary(event: Outcome) -> bool:
    """Whether it is tried again after the delay of `retry:`."""
    return isinstance(event, Deferred) and WAIT_S[0] <= event.due_at - NOW <= WAIT_S[1]


# ------------------------------------------------------------------------------------------- what is sent


def part(name: str, value: str) -> str:
    return f'\r\n--BOUNDARY\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}'


FORMS = {
    "mode: subscribe, clear: true, source_campaign: 90, source_partner: 9": [
        ("clear", "1"), ("activeStatus", "1"), ("sourceCampaign", "90"), ("sourcePartner", "9"),
    ],
    "mode: unsubscribe": [("clear", "0"), ("activeStatus", "0")],
    "mode: lead, clear: true": [("clear", "1"), ("activeStatus", "null")],
    "mode: suppress, hash: sha256": [("clear", "0")],
    "mode: unsubscribe, extra_fields: {subscriptionAction: update_only, 'tagsToAdd[]': 7}": [
        ("clear", "0"), ("activeStatus", "0"), ("subscriptionAction", "update_only"), ("tagsToAdd[]", "7"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("folder", FORMS)
def test_the_form_has_exactly_the_documented_parts(folder: str, client: Client) -> None:
    """Each mode sends its parts and no others, in the documented order, byte for byte."""
    with Server(answering(answer(201, CREATED))) as server:
        assert client.send(server.url, folder=folder) == Accepted(status=201, body="Import created.")
    found = re.search(rb"Content-Type: multipart/form-data; boundary=(dropzone-[0-9a-f]{32})\r\n", server.heads[0])
    assert found
    expected = f'--BOUNDARY\r\nContent-Disposition: form-data; name="file"; filename="acme.{ID}.csv"\r\n'
    expected += "Content-Type: text/csv\r\n\r\n" + CSV.decode()
    expected += "".join(part(*each) for each in FORMS[folder]) + "\r\n--BOUNDARY--\r\n"
    assert server.bodies == [expected.encode().replace(b"BOUNDARY", found[1])]


def test_names_and_values_are_escaped_as_by_a_browser(client: Client) -> None:
    """Quotes and line ends in a name are percent-escaped; in a value, line ends become CRLF and the rest stays."""
    with Server(answering(answer(201, CREATED))) as server:
        account, folder = client.settings(server.url)
        folder = folder.having(extra_fields={'a"b\nc\r\nd': 'é "x"\ny\rz\r\n'})
        client.optipub(account).build(DROP, folder, io.BytesIO(CSV), len(CSV)).send()
    assert 'name="a%22b%0D%0Ac%0D%0Ad"\r\n\r\né "x"\r\ny\r\nz\r\n\r\n--'.encode() in server.bodies[0]


def test_the_head_names_endpoint_key_and_length(client: Client) -> None:
    """One POST to the endpoint below the base address, with the key, a known length and no wish for compression."""
    with Server(answering(answer(201, CREATED))) as server:
        client.send(f"{server.url}/sub")
    request, *headers = server.heads[0].decode().split("\r\n")
    assert request == "POST /sub/api/3.2/messages/segments/100789/import HTTP/1.1"
    sent = dict(line.split(": ", 1) for line in headers)
    assert sent.pop("Content-Type").startswith("multipart/form-data; boundary=")
    assert sent == {
        "Host": f"127.0.0.1:{server.port}",
        "Authorization": f"Bearer {KEY}",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"dropzone/{__version__}",
        "Content-Length": str(len(server.bodies[0])),
    }


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize("buffering", [-1, 0])
def test_a_large_file_goes_out_in_pieces_and_tells_its_progress(
    secured: bool, buffering: int, client: Client, tmp_path: Path, authority: trustme.CA
) -> None:
    """Every byte arrives in order, from buffered and unbuffered files alike; progress grows piece by piece."""
    content = random.Random(1).randbytes((9 << 20) + 17)
    (tmp_path / "large.csv").write_bytes(content)
    told: list[int] = []
    tls, account = (tls_for(authority), trusting(authority, tmp_path)) if secured else (None, "")
    with (
        Server(answering(answer(201, CREATED)), tls) as server,
        (tmp_path / "large.csv").open("rb", buffering=buffering) as payload,
    ):
        upload = client.build(server.url, payload, len(content), account=account)
        assert isinstance(upload.send(progress=told.append), Accepted)
    assert content in server.bodies[0]
    piece = PIECE["https" if secured else "http"]
    assert told == [*range(piece, len(content), piece), len(content)]


def test_an_unbuffered_pipe_gives_less_than_was_asked_for(client: Client) -> None:
    """A payload whose reads come back short is still read to its announced size."""

    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 5))

    with Server(answering(answer(201, CREATED))) as server:
        assert isinstance(client.build(server.url, Dribble(CSV), len(CSV)).send(), Accepted)
    assert CSV in server.bodies[0]


def test_an_empty_file_is_sent_as_one(client: Client) -> None:
    """A payload without a byte makes a complete form."""
    with Server(answering(answer(201, CREATED))) as server:
        assert isinstance(client.send(server.url, b""), Accepted)
    assert b"text/csv\r\n\r\n\r\n--" in server.bodies[0]


# ------------------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("name", CASES)
def test_every_answer_has_its_event(name: str, client: Client, tmp_path: Path, authority: trustme.CA) -> None:
    """Each row of the table, over real sockets: event, status, due time, effect, whether it counts, its sentence."""
    case = CASES[name]
    with offered(case, authority, tmp_path) as (url, lines, server):
        event = client.send(url, case.content, account="\n    ".join(lines))
        heads = list(server.heads) if server else []
    assert type(event) is case.kind
    assert event.status == case.status
    match event:
        case Accepted(body=sentence) | Refused(blame=sentence) | Lost(cause=sentence) | Deferred(cause=sentence):
            assert case.words in sentence
            assert sentence.isprintable()
    after = apply(replace(DROP, state=State.SENDING), event, id=ID, at=NOW)
    assert after.attempts - DROP.attempts == case.counted
    if isinstance(event, Lost) and not case.large:
        assert event.sent == len(case.content)
    if isinstance(event, Deferred | Lost):
        assert event.effect == case.effect
    if isinstance(event, Deferred):
        assert ordinary(event) if case.due_s is None else event.due_at == NOW + case.due_s
    if "certificate" in name or case.proxy or "authority unknown" in name:
        assert not any(b"Authorization" in head for head in heads), "the key went to somebody who is not OptiPub"


def test_a_status_counts_though_its_body_breaks_off(client: Client) -> None:
    """A refusal is one even when its page is cut: the status was heard."""
    with Server(saying(b"HTTP/1.1 422 No\r\nContent-Length: 900\r\n\r\nNo such campaign")) as server:
        event = client.send(server.url)
    assert isinstance(event, Refused)
    assert event.evidence == "No such campaign"


def test_an_answer_of_http_1_0_without_a_length_is_read_to_its_end(client: Client) -> None:
    """Where the end of the connection ends the answer, a whole JSON object is a whole answer."""
    with Server(saying(b"HTTP/1.0 201 Created\r\n\r\n" + CREATED)) as server:
        assert client.send(server.url) == Accepted(status=201, body="Import created.")


def offer(**changed: Any) -> Offer:
    plain: dict[str, Any] = {
        "account": "main",
        "base_url": "https://publisher.example.com",
        "segment_id": 100789,
        "filename": f"acme.{ID}.csv",
        "size": 100,
        "sent": 100,
        "whole": True,
        "at": NOW,
        "wait_s": 5.0,
    }
    return Offer(**plain | changed)


@pytest.mark.parametrize(
    ("location", "dead_key"),
    [
        ("/login", True),
        ("/Account/Sign-In", True),
        ("/user_login.php", True),
        ("/auth", True),
        ("/#/login", True),
        ("https://login.example.com/?x", True),
        ("https://publisher.example.com/oauth/authorize", True),
        ("/authors/7", False),
        ("/segments/100789/import?from=login", False),
        ("https://publisher.example.com/segments/1", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_a_login_page_is_told_from_a_form(location: str, dead_key: bool) -> None:
    """Only path segments and foreign hosts that name a login make a 302 a matter of the key."""
    event = read_answer(Answer(status=302, location=location), offer())
    assert isinstance(event, Deferred if dead_key else Refused)


def test_our_own_host_is_no_login_page() -> None:
    """An installation on a host that is called auth refuses like any other."""
    event = read_answer(
        Answer(status=302, location="https://auth.example.com/x"), offer(base_url="https://auth.example.com")
    )
    assert isinstance(event, Refused)


@pytest.mark.parametrize(
    ("body", "evidence"),
    [
        (
            b'{"message": "The given data was invalid.", "errors": {"file": ["Too big.", "No CSV."], "clear": "Bad."}}',
            "The given data was invalid. file: Too big. No CSV. clear: Bad.",
        ),
        (b'{"message": 7, "errors": {"file": [{"a": 1}]}}', "file:"),
        (b'{"reason": "none"}', '{"reason": "none"}'),
        (b"\xff\xfe no text", "�� no text"),
        (b"one\r\n  two\x1b[31m", r"one two\x1b[31m"),
        (b"<title>419</title><style>p{}</style><!-- x --><p>Page&nbsp;Expired<script>alert(1)", "419 Page Expired"),
        (b"x" * 400, "x" * 299 + "…"),
        (b"", ""),
    ],
)
def test_the_evidence_is_what_a_person_can_read(body: bytes, evidence: str) -> None:
    """Laravel's reasons, the words of a page or the plain text: one printable line of limited length."""
    event = read_answer(Answer(status=422, body=body), offer())
    assert isinstance(event, Refused)
    assert event.evidence == evidence


@given(
    status=st.integers(100, 999),
    location=st.text(max_size=30),
    retry_after=st.text(max_size=40) | st.sampled_from([" ", ",", "1 Jan 0001 00:00 +2359", "Mon, 1 Jan 99999 0:0:0"]),
    body=st.binary(max_size=60) | st.text("<>!-scriptyle/&#;", max_size=60).map(str.encode),
    whole=st.booleans(),
    left=st.booleans(),
)
def test_no_answer_makes_the_table_fail(
    status: int, location: str, retry_after: str, body: bytes, *, whole: bool, left: bool
) -> None:
    """Whatever comes back has an event, in one printable line, and only a whole 201 to a whole request is accepted."""
    signal = Answer(status=status, location=location, retry_after=retry_after, body=body, whole=whole)
    event = read_answer(signal, offer(whole=left))
    assert not isinstance(event, Accepted)
    assert event.status == status
    sentence = event.blame if isinstance(event, Refused) else event.cause
    assert sentence.isprintable()
    assert len(sentence) <= 900
    if isinstance(event, Deferred):
        assert NOW + 1 <= event.due_at <= NOW + 3600


# ------------------------------------------------------------------------------------- broken on the way


@pytest.mark.parametrize(
    ("start", "drop", "status"),
    [
        (b"HTTP/1.1 201 Cre", b"a", None),
        (b"HTTP/1.1 201 Created\r\nX: ", b"a", None),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 9999\r\n\r\n" + CREATED, b" ", 201),
        (b"HTTP/1.0 201 Created\r\n\r\n" + CREATED, b" ", 201),
    ],
    ids=["reason", "header", "100 Continue", "body", "body without a length"],
)
@pytest.mark.parametrize("secured", [False, True])
def test_an_answer_that_drips_comes_to_an_end(
    start: bytes, drop: bytes, status: int | None, secured: bool, client: Client, tmp_path: Path, authority: trustme.CA
) -> None:
    """The read timeout limits the whole answer, not each read: a byte now and then does not hold the lane."""
    tls, account = (tls_for(authority), trusting(authority, tmp_path)) if secured else (None, "")
    with Server(dripping(start, drop), tls) as server:
        event = client.send(server.url, account=f"{IMPATIENT}\n    {account}")
    assert isinstance(event, Lost)
    assert event.status == status
    assert ("gave no whole answer within 0.5 s" if status is None else "but the answer broke off") in event.cause


def test_a_limit_that_comes_too_late_cuts_nobody(client: Client) -> None:
    """Once an upload is over its line may carry another one; and a line without a connection can be cut in peace."""
    later = time.monotonic() + 1e6
    with Server(answering(answer(201, CREATED))) as server:
        upload = client.build(server.url, io.BytesIO(CSV), len(CSV))
        assert isinstance(upload.send(), Accepted)
        upload._optipub.limits.cut_overdue(later)
        assert not upload._limit.overdue
        upload._limit.start()
        upload._optipub.limits.cut_overdue(later)
        assert upload._limit.overdue
        used = upload._optipub.take_line()
        upload._optipub.take_line().cut()
        upload._optipub.give_back(used)
        assert server.connections == 1


def test_an_upload_under_way_keeps_its_limit_when_the_account_is_closed(client: Client) -> None:
    """After a reload: the old account is closed, and a server that drips must not hold its last upload for ever."""
    with Server(dripping(b"HTTP/1.1 201 Created\r\nX: ", b"a")) as server:
        upload = client.build(server.url, io.BytesIO(CSV), len(CSV), account=IMPATIENT)
        upload._optipub.close()
        event = upload.send()
    assert isinstance(event, Lost)
    assert "gave no whole answer within 0.5 s" in event.cause


def test_the_package_has_these_names_and_no_others() -> None:
    """What is misspelled is an error, though the client is imported only when it is asked for."""
    assert optipub.OptiPub.__module__ == "dropzone.optipub.client"
    with pytest.raises(AttributeError, match="no attribute 'OptiPup'"):
        _ = optipub.OptiPup


def test_without_a_thread_to_spare_an_answer_is_still_read(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on the whole answer needs a thread; where there is none, each read keeps its own."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "limits":
            message = "can't start new thread"
            raise RuntimeError(message)
        start(thread)

    with Server(answering(answer(201, CREATED))) as server:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert isinstance(client.send(server.url), Accepted)


@pytest.mark.parametrize("secured", [False, True])
@pytest.mark.parametrize(
    ("text", "kind"),
    [(answer(401), Deferred), (answer(413), Refused), (answer(201, CREATED), Lost), (answer(500), Lost)],
)
def test_an_early_answer_is_read(
    text: bytes, kind: type[Outcome], secured: bool, client: Client, tmp_path: Path, authority: trustme.CA
) -> None:
    """A server that answers and closes while the file is still being sent is heard; its 201 is not believed."""
    tls, account = (tls_for(authority), trusting(authority, tmp_path)) if secured else (None, "")

    def script(peer: Peer) -> None:
        peer.head()
        peer.say(text)

    with Server(script, tls) as server:
        event = client.send(server.url, LARGE, account=account)
    assert type(event) is kind
    assert event.status is not None
    if isinstance(event, Lost):
        assert event.sent is not None
        assert event.sent < len(LARGE)
    if event.status == 201:
        assert "but had not had the whole file yet" in str(event)


UGLY = {
    "garbage": b"\x00\xff\x16\x03 garbage\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "odd status": b"HTTP/1.1 abc OK\r\n\r\n",
    "low status": b"HTTP/1.1 042 OK\r\n\r\n",
    "http/2": b"HTTP/2.0 201 Created\r\n\r\n",
    "http/0.9": CREATED,
    "upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "huge headers": b"HTTP/1.1 201 Created\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
    "folded": b"HTTP/1.1 201 Created\r\n folded: x\r\n\r\n",
    "negative length": b"HTTP/1.1 201 Created\r\nContent-Length: -5\r\n\r\n" + CREATED,
    "two lengths": b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n" + CREATED,
    "astronomic length": b"HTTP/1.1 201 Created\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n" + CREATED,
    "unknown coding": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: rot13\r\n\r\n" + CREATED,
    "endless chunk": b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nx",
    "gzip": answer(201, b"\x1f\x8b\x08" + bytes(200), "Content-Encoding: gzip"),
    "odd encodings": answer(201, b"x", "Content-Encoding: nonsense", "Content-Type: text/html; charset=\xff\xfe"),
    "odd cookie": answer(201, b"x", "Set-Cookie: \xff=;;;domain=;expires=never;max-age=x"),
    "trailing": answer(204) + b"HTTP/1.1 201 Created\r\n\r\n" + CREATED,
}


@pytest.mark.parametrize("name", UGLY)
def test_an_ugly_server_makes_an_unknown_outcome_and_no_exception(name: str, client: Client) -> None:
    """What is no HTTP, or not the answer that we know, is no yes and no no."""
    with Server(saying(UGLY[name])) as server:
        event = client.send(server.url)
    assert isinstance(event, Lost)
    assert event.cause.isprintable()


def test_no_mutilated_answer_raises(client: Client) -> None:
    """Answers with random bytes changed, cut or repeated end in an event each, and so does the upload after them."""
    chance = random.Random(7)
    plain = answer(201, CREATED, "Retry-After: 7", "Location: /login", "Transfer-Encoding: chunked", "X-A: b")
    texts: list[bytes] = []
    for _ in range(150):
        text = bytearray(plain)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(text))
            text[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
        texts.append(bytes(text[: chance.randrange(len(text))] if chance.random() < 0.3 else text))
    left = iter([*texts, answer(201, CREATED)])
    events: list[Outcome] = []
    with Server(reading_it_all(lambda peer: peer.say(next(left)))) as server:
        account, folder = client.settings(server.url)
        optipub = client.optipub(account)
        for _ in [*texts, b""]:
            events.append(optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV)).send())
            server.ended.get(timeout=10)  # the connection is closed: the next upload does not run into that
    assert all(isinstance(event, Accepted | Refused | Deferred | Lost) for event in events[:-1])
    assert isinstance(events[-1], Accepted)


# ------------------------------------------------------------------------------------------ never connected


def test_no_file_descriptors_left_here_is_our_own_fault(client: Client) -> None:
    """Too many open files judge no drop and blame no server: a FolderError of the environment."""
    with Server(answering(answer(201, CREATED))) as server:
        upload = client.build(server.url, io.BytesIO(CSV), len(CSV))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(FolderError, match="Too many open files") as raised:
                upload.send()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.environment
    assert server.bodies == []


# ------------------------------------------------------------------------------------------------------ TLS


def test_a_private_authority_is_trusted_where_the_account_names_it(
    client: Client, tmp_path: Path, authority: trustme.CA
) -> None:
    """With its `ca_file`, a certificate of a private authority is as good as any."""
    with Server(answering(answer(201, CREATED)), tls_for(authority)) as server:
        assert isinstance(client.send(server.url, account=trusting(authority, tmp_path)), Accepted)


def test_the_ca_file_adds_to_the_authorities_of_the_machine(
    client: Client, tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server with a public certificate is still trusted beside a private authority."""
    authority.cert_pem.write_to_path(str(tmp_path / "machine.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "machine.pem"))
    with Server(answering(answer(201, CREATED)), tls_for(authority)) as server:
        assert isinstance(client.send(server.url, account=trusting(trustme.CA(), tmp_path)), Accepted)


# ---------------------------------------------------------------------------------------------- where the key goes


def test_a_configured_proxy_is_used_and_does_not_see_the_key(
    client: Client, tmp_path: Path, authority: trustme.CA
) -> None:
    """The proxy hears the host that is meant; the request goes through it inside TLS."""
    account = trusting(authority, tmp_path)
    with Server(answering(answer(201, CREATED)), tls_for(authority)) as server, Server(tunnel) as proxy:
        upload = client.build(
            server.url, io.BytesIO(CSV), len(CSV), account=f"{account}\n    proxy: http://127.0.0.1:{proxy.port}"
        )
        assert isinstance(upload.send(), Accepted)
        client.close()  # the proxy ends with the connection
    assert server.connections == 1
    assert proxy.heads[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1" % server.port)
    assert KEY.encode() not in proxy.heads[0]


def test_the_environment_names_no_proxy(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies in the environment are not used."""
    with Server(answering(answer(502))) as proxy, Server(answering(answer(201, CREATED))) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        assert isinstance(client.send(server.url), Accepted)
    assert proxy.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int, client: Client) -> None:
    """Neither the request nor the key goes to the second origin."""
    with Server(answering(answer(201, CREATED))) as other:
        with Server(saying(answer(status, b"", f"Location: {other.url}/x"))) as server:
            event = client.send(server.url)
        assert other.connections == 0
    assert len(server.heads) == 1
    assert isinstance(event, Refused if status == 302 else Deferred)


SPELLINGS = [
    KEY,
    json.dumps({"message": KEY}),
    json.dumps({"message": "x", "errors": {"key": [KEY]}}).replace("/", "\\/"),
    "<pre>Bearer sk/Live+&lt;K&gt;&amp;&quot;42</pre>",
    "<pre>sk&#47;Live+&lt;K&gt;&amp;&#34;42</pre>",
    "sk%2FLive%2B%3CK%3E%26%2242",
    "x" * 290 + KEY,
    "<br>" * 2045 + KEY,
]


@pytest.mark.parametrize("body", SPELLINGS)
@pytest.mark.parametrize("status", [200, 201, 302, 401, 422, 503])
def test_a_server_that_echoes_the_key_does_not_get_it_into_an_event(status: int, body: str, client: Client) -> None:
    """Debug pages print the request's headers; neither the key nor a good part of it reaches log or ledger."""
    headers = [f"Location: /x/{KEY}", f"Retry-After: {KEY}"]
    with Server(saying(answer(status, body.encode(), *headers))) as server:
        event = client.send(server.url)
    assert "Live" not in str(event)


def test_the_key_is_in_no_other_text_either(client: Client) -> None:
    """Not in what a broken answer makes us say, nor in the `repr` of what holds it."""
    with Server(saying(f"HTTP/1.1 {KEY}\r\n\r\n".encode())) as server:
        account, folder = client.settings(server.url)
        optipub = client.optipub(account)
        upload = optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV))
        event = upload.send()
    assert isinstance(event, Lost)
    assert "[key]" in event.cause
    for held in (event, optipub, upload, vars(optipub), vars(upload)["_request"], upload._offer()):
        assert "Live" not in repr(held)


def test_what_is_concealed_does_not_change_the_verdict(client: Client, tmp_path: Path) -> None:
    """Even a key that is a word of the answer leaves its meaning alone."""
    with Server(answering(answer(201, CREATED))) as server:
        (tmp_path / "key").write_text("error")
        assert client.send(server.url) == Accepted(status=201, body="Import created.")


# ---------------------------------------------------------------------------------------------- connections


def test_a_fresh_connection_is_used_again(client: Client) -> None:
    """Small files one after the other need one connection."""
    with Server(answering(answer(201, CREATED))) as server:
        account, folder = client.settings(server.url)
        optipub = client.optipub(account)
        for _ in range(3):
            assert isinstance(optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV)).send(), Accepted)
        optipub.close()
    assert server.connections == 1


def test_a_connection_that_the_server_closed_is_not_used_again(client: Client) -> None:
    """An idle connection that was closed meanwhile is noticed before anything is written to it."""
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(answer(201, CREATED))
        peer.socket.close()
        closed.set()

    with Server(script) as server:
        account, folder = client.settings(server.url)
        optipub = client.optipub(account)
        for _ in range(2):
            closed.clear()
            assert isinstance(optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV)).send(), Accepted)
            assert closed.wait(10)
    assert server.connections == 2


def test_uploads_run_side_by_side(client: Client) -> None:
    """Four at once, each on a connection of its own: the server answers none before all four are there."""
    together = threading.Barrier(4)

    def script(peer: Peer) -> None:
        while peer.request():
            together.wait(10)
            peer.say(answer(201, CREATED))

    with Server(script) as server, ThreadPoolExecutor(4) as pool:
        account, folder = client.settings(server.url)
        optipub = client.optipub(account)
        contents = [b"email\n%d@example.com\n" % n for n in range(8)]
        uploads = [optipub.build(DROP, folder, io.BytesIO(each), len(each)) for each in contents]
        events = list(pool.map(Upload.send, uploads))
        optipub.close()
    assert events == [Accepted(status=201, body="Import created.")] * 8
    assert all(any(each in body for body in server.bodies) for each in contents)


def test_an_upload_under_way_ends_on_a_closed_client(client: Client) -> None:
    """After `close` what is under way goes on to its end, and its connection is then closed."""
    begun, go = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        begun.set()
        go.wait(10)
        peer.say(answer(201, CREATED))
        assert not peer.request()  # ends only when the client closes

    with Server(script) as server, ThreadPoolExecutor(1) as pool:
        account, folder = client.settings(server.url)
        optipub = client.optipub(account)
        sending = pool.submit(optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV)).send)
        assert begun.wait(10)
        optipub.close()
        go.set()
        assert isinstance(sending.result(10), Accepted)
        server.ended.get(timeout=10)  # the client has closed its end


# ------------------------------------------------------------------------------------------ faults of our own


@pytest.mark.parametrize("size", [len(CSV) - 1, len(CSV) + 1])
def test_a_payload_of_another_size_is_never_sent_whole(size: int, client: Client) -> None:
    """A file that shrank or grew since it was prepared breaks the request off instead of being imported in part."""
    with Server(answering(answer(201, CREATED))) as server:
        upload = client.build(server.url, io.BytesIO(CSV), size)
        with pytest.raises(FolderError, match=f"cannot read the prepared copy of {ID}: it is (short|long)er"):
            upload.send()
        server.ended.get(timeout=10)
    assert server.bodies == [b""]


@pytest.mark.parametrize("size", [(9 << 20) - 1, (9 << 20) + 1])
def test_a_large_payload_of_another_size_is_never_sent_whole(size: int, client: Client) -> None:
    """The same where the first pieces have left already: the last one does not."""
    with Server(answering(answer(201, CREATED))) as server:
        upload = client.build(server.url, io.BytesIO(bytes(9 << 20)), size)
        with pytest.raises(FolderError):
            upload.send()
        server.ended.get(timeout=10)
    assert 8 << 20 <= len(server.bodies[0]) < upload._body.length
    assert b'name="clear"' not in server.bodies[0]


def test_a_payload_that_cannot_be_read(client: Client, tmp_path: Path) -> None:
    """An error of the disk is a FolderError, and the request stays incomplete."""

    class Rotten(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with Server(answering(answer(201, CREATED))) as server:
        upload = client.build(server.url, Rotten(), len(CSV))
        with pytest.raises(FolderError, match="Input/output error") as raised:
            upload.send()
        server.ended.get(timeout=10)
    assert raised.value.environment
    assert server.bodies == [b""]


def test_a_report_that_fails_after_the_last_byte_is_not_taken_for_an_incomplete_file(client: Client) -> None:
    """Whatever breaks once everything has left, the outcome is unknown: it is never simply offered again."""

    def report(_: int) -> None:
        raise OSError(32, "Broken pipe")

    with Server(answering(answer(201, CREATED))) as server:
        event = client.build(server.url, io.BytesIO(CSV), len(CSV)).send(progress=report)
    assert isinstance(event, Lost)


# ------------------------------------------------------------------------------------------------- build

BASE = "https://publisher.example.com"


def test_build_needs_the_key(client: Client, tmp_path: Path) -> None:
    """A key that cannot be read is told before anything is announced."""
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(DropzoneError, match="chmod 600"):
        client.build(BASE, io.BytesIO(CSV), len(CSV))


def test_build_reads_the_key_each_time(client: Client, tmp_path: Path) -> None:
    """A new key in the file counts from the next upload on, without a reload."""
    with Server(answering(answer(201, CREATED))) as server:
        account, folder = client.settings(server.url)
        optipub = client.optipub(account)
        optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV)).send()
        (tmp_path / "key").write_text("another-key\n")
        optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV)).send()
        optipub.close()
    assert b"Bearer another-key" in server.heads[1]


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"nothing", "it holds no certificate")])
def test_build_needs_a_ca_file_that_is_one(
    content: bytes | None, why: str, client: Client, tmp_path: Path, authority: trustme.CA
) -> None:
    """A missing or empty `ca_file` is told with its name, and heals without a restart."""
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    account, folder = client.settings(BASE, account=f"ca_file: {tmp_path}/ca.pem")
    optipub = client.optipub(account)
    with pytest.raises(DropzoneError, match=f"ca.pem of account main cannot be used: {why}"):
        optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV))
    trusting(authority, tmp_path)
    optipub.build(DROP, folder, io.BytesIO(CSV), len(CSV))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"proxy": "ftp://ann:secret@proxy"}, "the proxy of account main cannot be used"),
        ({"base_url": "https://publisher:x"}, "the base_url of account main is no address"),
        ({"base_url": "http://127.0.0.1", "proxy": "http://proxy:1"}, "the proxy would see the key"),
    ],
)
def test_build_refuses_an_account_that_cannot_be(changed: dict[str, str], message: str, client: Client) -> None:
    """What the configuration would have refused is refused here too, without a password in the message."""
    account, folder = client.settings(BASE)
    with pytest.raises(DropzoneError, match=message) as raised:
        client.optipub(account.having(**changed)).build(DROP, folder, io.BytesIO(CSV), len(CSV))
    assert "secret" not in f"{raised.value}{raised.value.__cause__}"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mode": "subscribe"}, "subscribes without a campaign or a partner"),
        ({"extra_fields": {"a": "\ud800"}}, "has a field that cannot be sent"),
    ],
)
def test_build_refuses_a_folder_that_cannot_be(changed: dict[str, object], message: str, client: Client) -> None:
    """A form that would be read differently from what is meant is never made."""
    account, folder = client.settings(BASE)
    with pytest.raises(DropzoneError, match=message):
        client.optipub(account).build(DROP, folder.having(**changed), io.BytesIO(CSV), len(CSV))


def test_a_break_says_how_far_it_came() -> None:
    """The sentence names the bytes that left, and what to do where a person can do something."""
    event = read_answer(Break(what="x broke", cure="Mend it"), offer(sent=1234, size=56789, whole=False))
    assert event == Deferred(
        due_at=NOW + 5.0,
        cause="x broke after 1,234 of 56,789 bytes: the file was not taken. Mend it",
        effect="breaker",
    )
