"""How a drop's history reads: the log for the partner's people, one sentence per event, and the JSON form."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest

from dropzone import receipt, sheet
from dropzone.config import Folder
from dropzone.drop import (
    Accepted,
    Attempted,
    CheckFailed,
    Claimed,
    Deferred,
    Discarded,
    Drop,
    Entry,
    Event,
    Expired,
    Filed,
    Lost,
    Postponed,
    Refused,
    Released,
    Report,
    Resent,
    Retried,
    Skipped,
    State,
    Superseded,
    Withheld,
    apply,
)
from dropzone.errors import Problem

AT = 1_795_400_000.0  # 2026-11-23T02:13:20Z
ID = "2N1XRA4R5FAZ"
FOLDER = Folder(
    name="acme", path=Path("/in"), base=Path("/srv"), account="main", segment_id=7, mode="lead", delimiter="auto"
)
REPORT = Report(columns=("email", "varr_a"), rows=2, good_rows=2)
ATTEMPTED = Attempted(n=1, digest="ab" * 32, size=34, report=REPORT)
ACCEPTED = Accepted(status=201, body="Import created.")
LOST = Lost(cause="the connection broke, after the whole file had left", sent=34)
ADDRESS = "jane.doe+x@example.com"


def claimed(*, name: bytes = b"signups.csv", folder: Folder = FOLDER, adopted: bool = False) -> Claimed:
    return Claimed(
        folder=folder.name,
        name=name,
        account=folder.account,
        segment_id=folder.segment_id,
        lane=folder.lane,
        base=str(folder.base),
        settings=folder.settings_json(),
        size=1234,
        adopted=adopted,
    )


def live(*events: Event) -> tuple[Drop, list[Entry]]:
    """A drop to which all this happened, a second apart."""
    drop, history = None, []
    for number, event in enumerate(events):
        drop = apply(drop, event, id=ID, at=AT + number)
        history.append(Entry(at=AT + number, event=event))
    assert drop is not None
    return drop, history


def log_of(*events: Event) -> str:
    return receipt.render_log(*live(*events))


def checked(content: bytes, folder: Folder = FOLDER) -> Report:
    """What the check says of a real file."""
    return sheet.check(io.BytesIO(content), io.BytesIO(), io.BytesIO(), folder)


def section(log: str, title: str) -> list[str]:
    """The lines below a title, without their indent."""
    lines = log.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(title))
    end = next((number for number, line in enumerate(lines) if number > start and not line), len(lines))
    return [line.strip() for line in lines[start + 1 : end]]


# --------------------------------------------------------------------------------------------------- the whole log


def test_the_log_of_an_accepted_file() -> None:
    """The verdict first; then what came, what was sent, and all that happened, in UTC; nothing to do."""
    assert log_of(claimed(), ATTEMPTED, ACCEPTED) == (
        "signups.csv: ACCEPTED: OptiPub took the file and queued its import\n"
        "(what became of each row over there cannot be seen from outside)\n"
        "\n"
        f"  drop     {ID}\n"
        "  folder   acme\n"
        "  import   lead into segment 7, account main\n"
        "  file     signups.csv, 1,234 bytes, taken over 2026-11-23T02:13:20Z\n"
        "  rows     2 read, 2 good\n"
        "  columns  email, varr_a\n"
        f"  sent     sha256 {'ab' * 32}\n"
        "\n"
        "What happened (UTC)\n"
        "  2026-11-23 02:13:20  taken over from the inbox of acme: signups.csv, 1,234 bytes\n"
        "  2026-11-23 02:13:21  attempt 1: sending 2 rows, 34 bytes\n"
        "  2026-11-23 02:13:22  accepted: OptiPub answered 201 Import created.\n"
    )


def test_the_log_of_a_refused_file_says_where_what_and_what_to_do() -> None:
    """Line, column, name of the column, reason, what would be right; where all bad rows are; how to go on."""
    report = checked(b'email,varr_a\nann@example.com,Ann\nnobody,Bob\ncarol@example.com,"C" x\n')
    log = log_of(claimed(), CheckFailed(report=report))
    assert log.startswith("signups.csv: FAILED: the file was not imported\nReason: 2 of 3 rows are bad,")
    first, second, where = section(log, "Bad rows")
    assert first.startswith("line 3, column 1, email: n… is no address")
    assert "(write one address, such as jane@example.com)" in first
    assert second.startswith("line 4, column ")
    assert "varr_a: text after a closing quote" in second
    assert f"{ID}.rejects.csv beside this log" in where
    assert "3 read, 1 good, 2 bad" in log
    assert section(log, "What to do")[0].startswith("Mend the lines named above")


def test_the_log_of_a_file_that_is_no_list_names_the_reason() -> None:
    """A problem of the whole file has no line; there are no rejects to point to."""
    log = log_of(claimed(), CheckFailed(report=checked(b"")))
    assert "Reason: the file is empty" in log
    assert section(log, "Bad rows")[0].startswith("the file: the file is empty")
    assert "rejects.csv" not in log


def test_the_log_of_a_file_that_the_server_refused_says_whom_to_ask() -> None:
    """What OptiPub said, and not to upload the same again; the command for the operator names the drop."""
    refused = Refused(status=422, blame="OptiPub answered 422: it refused the import", evidence="No such campaign.")
    log = log_of(claimed(), ATTEMPTED, refused)
    assert "Reason: OptiPub answered 422: it refused the import" in log
    assert "refused: OptiPub answered 422: it refused the import [No such campaign.]" in log
    assert section(log, "What to do")[-1].endswith(ID)


def test_the_log_of_a_file_whose_outcome_nobody_knows() -> None:
    """Held, with the reason and how to find out."""
    log = log_of(claimed(), ATTEMPTED, LOST, Withheld(guard="unknown", why=LOST.cause))
    assert log.startswith("signups.csv: HELD: somebody has to look before it goes on\nReason: the connection broke")
    assert section(log, "What to do")[0] == f"Look in OptiPub for an import of a file whose name holds {ID}."


def test_a_file_that_may_have_arrived_twice_says_so() -> None:
    """Every doubt is written down, even when all ended well."""
    log = log_of(
        claimed(),
        ATTEMPTED,
        LOST,
        Resent(by="ann", why="not found"),
        replace(ATTEMPTED, n=2),
        ACCEPTED,
        Filed(path="x"),
    )
    assert section(log, "What to do") == ["The file may have reached OptiPub more than once: see the attempts above."]


def test_a_file_that_an_operator_found_over_there() -> None:
    """Accepted by a person's word, and the log says whose."""
    log = log_of(claimed(), ATTEMPTED, LOST, Accepted(status=None, body="", by="ann"))
    assert "accepted: ann has found it in OptiPub" in log


@pytest.mark.parametrize(
    ("events", "verdict"),
    [
        ([], "WAITING: it is checked and sent when it is due"),
        ([ATTEMPTED], "SENDING: it is under way"),
        ([ATTEMPTED, LOST], "UNKNOWN: it was sent, but no answer tells whether OptiPub took it"),
        ([ATTEMPTED, ACCEPTED], "ACCEPTED: OptiPub took the file and queued its import"),
        ([ATTEMPTED, ACCEPTED, Filed(path="x")], "ACCEPTED: OptiPub took the file and queued its import"),
        ([CheckFailed(report=REPORT)], "FAILED: the file was not imported"),
        ([CheckFailed(report=REPORT), Filed(path="x")], "FAILED: the file was not imported"),
        ([Withheld(guard="min_rows", why="too few")], "HELD: somebody has to look before it goes on"),
    ],
)
def test_every_state_has_its_verdict_in_the_first_line(events: list[Event], verdict: str) -> None:
    """Whoever reads only one line knows what became of the file."""
    assert log_of(claimed(), *events).splitlines()[0] == f"signups.csv: {verdict}"


def test_the_states_of_the_verdicts_are_all_states() -> None:
    """A state that is added later needs its words."""
    assert set(receipt._VERDICTS) == set(State)


def test_the_first_line_that_says_clear() -> None:
    """An import that emptied the segment is not told like any other."""
    assert "lead into segment 7, which was emptied first (clear), account main" in log_of(
        claimed(folder=FOLDER.having(clear=True))
    )


def test_what_was_repaired_is_counted_by_kind() -> None:
    """Each repair with its number, and that the original beside the log is as it came."""
    report = checked(b"\xef\xbb\xbfEmail;varr_a\r\nann@example.com; Ann \r\nbob@example.com; Bob\r\n")
    log = log_of(claimed(), replace(ATTEMPTED, report=report))
    assert "(the original beside this log is as it came)" in log
    repairs = section(log, "Repaired in what was sent")
    assert "1 x byte order mark left out" in repairs
    assert any(line.startswith("2 x cells with blanks") for line in repairs)


def test_repeated_addresses_are_named_masked() -> None:
    """With the line of each, and the line where it stood first."""
    report = checked(b"email\nann@example.com\nbob@example.com\nann@example.com\n")
    lines = section(log_of(claimed(), replace(ATTEMPTED, report=report)), "Repeated addresses")
    assert lines[0] == "1 rows repeat an address of an earlier row; the first:"
    assert lines[1].startswith("line 4:1: email: a…@example.com stands in line 2 already")


def test_a_long_list_of_bad_rows_is_cut_and_counted() -> None:
    """A hundred problems are shown; how many more there are is said."""
    report = checked(b"email\n" + b"nobody\n" * 1234)
    lines = section(log_of(claimed(), CheckFailed(report=report)), "Bad rows")
    assert len(lines) == 102
    assert lines[-2] == "… and 1,134 more"


def test_the_latest_report_counts() -> None:
    """A drop that was checked twice (released, tried again) is described by the second check."""
    first, second = replace(REPORT, rows=1), replace(REPORT, rows=9)
    held = Withheld(guard="min_rows", why="too few", report=first)
    _, history = live(claimed(), held, Released(by="ann"), replace(ATTEMPTED, report=second), LOST)
    assert receipt.last_report(history) == second
    assert receipt.last_report(history[:3]) == first
    assert receipt.last_report(history[:1]) is None
    _, history = live(claimed(), Withheld(guard="poison", why="it ended the program"))
    assert receipt.last_report(history) is None


# ------------------------------------------------------------------------------------------------------ every event

DUE = AT + 60
EVENTS: list[tuple[Event, str]] = [
    (claimed(), "taken over from the inbox of acme: signups.csv, 1,234 bytes"),
    (
        claimed(adopted=True),
        "taken over from the inbox of acme: signups.csv, 1,234 bytes (found in work/ after a crash)",
    ),
    (Postponed(due_at=DUE, why="no key"), "put off until 2026-11-23T02:14:20Z: no key"),
    (
        CheckFailed(report=replace(REPORT, refused="1 row is bad")),
        "refused by the check, nothing was sent: 1 row is bad",
    ),
    (Withheld(guard="max_rows", why="too many"), "held (max_rows): too many"),
    (Released(by="ann"), "released, by ann"),
    (
        Released(by="ann", why="not found there", again=True),
        "to be offered again, though OptiPub may have it already, by ann: not found there",
    ),
    (ATTEMPTED, "attempt 1: sending 2 rows, 34 bytes"),
    (ACCEPTED, "accepted: OptiPub answered 201 Import created."),
    (Accepted(status=None, body="", by="ann"), "accepted: ann has found it in OptiPub"),
    (Refused(status=404, blame="no segment", evidence=""), "refused: no segment"),
    (Refused(status=404, blame="no segment", evidence="Not Found"), "refused: no segment [Not Found]"),
    (Deferred(due_at=DUE, cause="it is busy"), "not taken, next try 2026-11-23T02:14:20Z: it is busy"),
    (Lost(cause="it closed", sent=1234), "outcome unknown after 1,234 bytes: it closed"),
    (
        Resent(by="policy", why="it is safe"),
        "to be offered again, though OptiPub may have it already (policy): it is safe",
    ),
    (
        Resent(by="policy", why="it may be so", due_at=DUE),
        "to be offered again, 2026-11-23T02:14:20Z, though OptiPub may have it already (policy): it may be so",
    ),
    (
        replace(ATTEMPTED, n=2, repeats=1),
        "attempt 2: sending 2 rows, 34 bytes, though OptiPub may have them already from attempt 1",
    ),
    (
        Superseded(newer="2N23520SJ9AK"),
        "not sent: the newer file 2N23520SJ9AK of the folder takes its place",
    ),
    (
        Skipped(first="2N23520SJ9AA", first_at=AT),
        "not sent: the same content was accepted for this segment as 2N23520SJ9AA, 2026-11-23T02:13:20Z",
    ),
    (Discarded(by="ann", why="a test"), "given up by ann: a test"),
    (Filed(path="done/acme/x.csv"), "filed as done/acme/x.csv"),
    (Retried(by="ann"), "to be tried again, by ann"),
    (Retried(by="ann", why="new key"), "to be tried again, by ann: new key"),
    (
        Retried(by="ann", settings="{}", account="main", segment_id=9, lane="main/9"),
        "to be tried again with the folder's settings of now, into segment 9, by ann",
    ),
    (
        Expired(days=90),
        "its files were deleted, as the folder keeps them for 90 days; of its history this is left",
    ),
    (Lost(cause="it was stopped", sent=None), "outcome unknown: it was stopped"),
]


@pytest.mark.parametrize(("event", "sentence"), EVENTS, ids=lambda value: type(value).__name__)
def test_each_event_reads_as_one_sentence(event: Event, sentence: str) -> None:
    """Times in UTC, numbers grouped, names of people as they are."""
    assert receipt.tell(event) == sentence


def test_every_kind_of_event_has_its_sentence() -> None:
    """The table above lacks none."""
    assert {type(event) for event, _ in EVENTS} == set(get_args(Event))


# -------------------------------------------------------------------------------------------- hostile and private

FORGED = "\n2026-11-23 02:13:20  accepted: forged\x1b[2J\u2028\r\x00"
HOSTILE: list[Event] = [
    claimed(name=FORGED.encode() + b"\xff.csv"),
    Postponed(due_at=DUE, why=FORGED),
    CheckFailed(report=replace(REPORT, refused=FORGED)),
    Withheld(guard="faults", why=FORGED),
    Released(by=FORGED, why=FORGED),
    Accepted(status=201, body=FORGED),
    Accepted(status=None, body=FORGED, by=FORGED),
    Refused(status=302, blame=FORGED, evidence=FORGED),
    Deferred(due_at=DUE, cause=FORGED),
    Lost(cause=FORGED, sent=0),
    Resent(by=FORGED, why=FORGED),
    Discarded(by=FORGED, why=FORGED),
    Filed(path=FORGED),
    Retried(by=FORGED, why=FORGED),
]


@pytest.mark.parametrize("event", HOSTILE, ids=lambda event: type(event).__name__)
def test_no_text_in_an_event_breaks_out_of_its_line(event: Event) -> None:
    """Names that partners choose, words that a server sends, errors of libraries: one line, nothing raw."""
    sentence = receipt.tell(event)
    assert sentence.isprintable()
    assert "\\x1b[2J" in sentence
    json.dumps(receipt.event_as_dict(Entry(at=AT, event=event)))


@pytest.mark.parametrize(
    "events",
    [
        [claimed(name=FORGED.encode() + b"\xff.csv"), ATTEMPTED, Lost(cause=FORGED, sent=0)],
        [claimed(), Postponed(due_at=DUE, why=FORGED)],
        [claimed(), ATTEMPTED, Refused(status=302, blame=FORGED, evidence=FORGED)],
        [claimed(), ATTEMPTED, Accepted(status=201, body=FORGED)],
        [claimed(), Withheld(guard="faults", why=FORGED)],
    ],
)
def test_no_text_forges_a_line_of_the_log(events: Sequence[Event]) -> None:
    """As many lines as with harmless texts, all of them printable."""
    log = log_of(*events)
    assert all(line.isprintable() for line in log.splitlines())
    assert not [line for line in log.splitlines() if line.strip().startswith("2026-11-23 02:13:20  accepted")]
    assert log.endswith("\n")


def test_no_cell_or_column_of_a_partner_forges_a_line() -> None:
    """Control characters in headers, cells and addresses come out escaped."""
    for content in (
        b"email,varr_a\x1b[2J\nann@example.com,x\n",
        b"email,varr_a\nann@example.com,\x1b[2J\n",
        b"em\x07ail\nx\n",
        "email\n\u2028\u202eb@\x9b31m\n".encode(),
        b'email,varr_a\nann@example.com,"never closed\n2026-11-23 02:13:20  accepted: forged\n',
    ):
        log = log_of(claimed(), CheckFailed(report=checked(content)))
        assert all(line.isprintable() for line in log.splitlines()), log
        assert "\n2026-11-23 02:13:20  accepted" not in log


@pytest.mark.parametrize(
    "event",
    [
        Refused(status=422, blame=f"it refused {ADDRESS}", evidence=f"The address <{ADDRESS}> is invalid."),
        Deferred(due_at=DUE, cause=f"busy with {ADDRESS}"),
        Lost(cause=f"It said: {ADDRESS},bob@example.org", sent=0),
        Accepted(status=201, body=f"took {ADDRESS}"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_addresses_that_a_server_quotes_are_masked(event: Event) -> None:
    """A debug page may quote rows; a log for the eyes of others holds no full address."""
    log = log_of(claimed(), ATTEMPTED, event)
    assert ADDRESS not in log
    assert "doe" not in log
    assert "bob@" not in log
    assert "j…@example.com" in log


@pytest.mark.parametrize(
    "content",
    [
        f"{ADDRESS},Jane\n".encode(),  # no header
        f"email\n{ADDRESS}\n{ADDRESS}\n".encode(),  # repeated
        f"email\n{ADDRESS} x\n".encode(),  # bad
        f"email,{ADDRESS}\nx,y\n".encode(),  # as a column
        f'email\n"{ADDRESS}" {ADDRESS}\n'.encode(),
        f"email,varr_a\n{ADDRESS}\n".encode(),  # too few fields
        f"email\n{ADDRESS};{ADDRESS}\n".encode(),
    ],
)
def test_addresses_in_a_file_are_masked_wherever_they_stand(content: bytes) -> None:
    """As a header, as a repeat, in a bad row, in the wrong column."""
    report = checked(content)
    log = log_of(claimed(), CheckFailed(report=report))
    assert ADDRESS not in log
    assert ADDRESS not in json.dumps(receipt.report_as_dict(report))


def test_a_name_with_an_at_sign_stays_readable() -> None:
    """The partner must find the file again by its name; it is no address to us."""
    assert log_of(claimed(name=b"x@example.com.csv")).startswith("x@example.com.csv: WAITING")


def test_masking_leaves_other_texts_alone() -> None:
    """What is masked already, file names, and at-signs that belong to nobody."""
    text = "j…@example.com, 10 @ 5 each, acme.2N1X.csv, https://example.com/@me, a @b"
    assert receipt.tell(Withheld(guard="x", why=text)) == f"held (x): {text}"
    long = "x" * 50_000
    assert receipt.tell(Withheld(guard="x", why=long)) == f"held (x): {long}"


# ----------------------------------------------------------------------------------------------------------- JSON


def test_the_json_form_of_a_drop() -> None:
    """Version, names escaped, times as text, settings as an object; unknown times are null."""
    drop, _ = live(claimed(name=b"\xff\n.csv"), ATTEMPTED, ACCEPTED, Filed(path="done/acme/x.csv"))
    plain = json.loads(json.dumps(receipt.as_dict(drop)))
    assert plain["version"] == 1
    assert (plain["id"], plain["state"], plain["name"]) == (ID, "done", "\\xff\\x0a.csv")
    assert plain["claimed_at"] == "2026-11-23T02:13:20Z"
    assert plain["verdict_at"] == "2026-11-23T02:13:22Z"
    assert plain["settings"]["mode"] == "lead"
    assert plain["path"] == "done/acme/x.csv"
    assert json.loads(json.dumps(receipt.as_dict(live(claimed())[0])))["verdict_at"] is None


@pytest.mark.parametrize("event", [event for event, _ in EVENTS], ids=lambda event: type(event).__name__)
def test_the_json_form_of_an_event(event: Event) -> None:
    """Time, kind, sentence, and the event's own members, as plain JSON."""
    plain = json.loads(json.dumps(receipt.event_as_dict(Entry(at=AT, event=event))))
    assert plain["at"] == "2026-11-23T02:13:20Z"
    assert plain["event"] == type(event).__name__
    assert plain["text"] == receipt.tell(event)
    assert plain.keys() - {"at", "event", "text"} == {field.name for field in fields(event)}
    if isinstance(event, Postponed | Deferred):
        assert plain["due_at"] == "2026-11-23T02:14:20Z"


def test_the_json_form_of_a_report() -> None:
    """Repairs as an object, problems as objects, the verdict as a sentence."""
    plain = json.loads(json.dumps(receipt.report_as_dict(checked(b"Email;varr_a\nnobody;x\n"))))
    assert plain["version"] == 1
    assert plain["repairs"] == {
        "delimiter semicolon written as comma": 1,
        "column names trimmed or written in lower case": 1,
    }
    assert plain["problems"][0]["line"] == 2
    assert set(plain["problems"][0]) == {field.name for field in fields(Problem)}
    assert plain["refused"]
