"""What the program says while it runs: JSON lines that no name can forge, and plain lines with everything escaped."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest

from dropzone.drop import (
    Accepted,
    CheckFailed,
    Claimed,
    Deferred,
    Drop,
    Event,
    Filed,
    Lost,
    Postponed,
    Refused,
    Report,
    Retried,
    State,
    Withheld,
    apply,
)
from dropzone.telemetry import Journal

HOSTILE = 'a"}\n{"level": "error", "event": "forged\x1b[31m\r\u2028\x00'.encode() + b"\xff"
CLAIMED = Claimed(
    folder="acme", name=HOSTILE, account="main", segment_id=7, lane="main/7", base="/srv", settings="{}", size=12
)
DROP: Drop = apply(None, CLAIMED, id="2N1XRA4R5FAZ", at=0.0)


def said(what: str, *arguments: object, plain: bool = False, **facts: object) -> str:
    """What a journal writes when it is told this."""
    stream = io.StringIO()
    getattr(Journal(stream, plain=plain), what)(*arguments, **facts)
    return stream.getvalue()


def line_of(text: str) -> dict[str, Any]:
    """The JSON object of the one line."""
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.isascii()
    entry = json.loads(text)
    assert isinstance(entry, dict)
    return entry


def fault() -> Exception:
    with pytest.raises(RuntimeError) as raised:
        raise RuntimeError(os.fsdecode(HOSTILE))
    return raised.value


def test_an_event_is_one_object_with_its_facts() -> None:
    """The sentence, the kind, the drop's ID, folder and state, the level and the time in UTC."""
    entry = line_of(said("event", DROP, Filed(path="done/acme/x.csv")))
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "filed as done/acme/x.csv",
        "event_kind": "Filed",
        "drop": "2N1XRA4R5FAZ",
        "folder": "acme",
        "state": "queued",
        "level": "info",
    }


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (CLAIMED, "info"),
        (Accepted(status=201, body=""), "info"),
        (Filed(path="x"), "info"),
        (Filed(path="x", changed="a client wrote to the file"), "warning"),
        (Retried(by="ann"), "info"),
        (Postponed(due_at=0.0, why="x"), "warning"),
        (CheckFailed(report=Report()), "warning"),
        (Withheld(guard="x", why="x"), "warning"),
        (Refused(status=302, blame="x", evidence=""), "warning"),
        (Deferred(due_at=0.0, cause="x"), "warning"),
        (Lost(cause="x", sent=0), "warning"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_somebody_should_look_at_is_a_warning(event: Event, level: str) -> None:
    """Everything that is not the way to done/ stands out."""
    assert line_of(said("event", DROP, event))["level"] == level


@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("event", (DROP, CLAIMED)),
        ("left_alone", ("acme", HOSTILE, os.fsdecode(HOSTILE))),
        ("fault", (DROP, fault())),
        ("say", (os.fsdecode(HOSTILE),)),
        ("warn", (os.fsdecode(HOSTILE),)),
    ],
)
def test_no_name_forges_a_line(what: str, arguments: tuple[object, ...]) -> None:
    """Quotes, newlines, escapes, bytes that are no UTF-8: one line of JSON, one of text, nothing raw."""
    entry = line_of(said(what, *arguments))
    assert entry["level"] in ("info", "warning", "error")
    lines = said(what, *arguments, plain=True).splitlines()
    assert all(line.isprintable() for line in lines)
    # A traceback has lines of its own, set in by four blanks, so that none can pass for another message.
    assert all(line.startswith("    ") for line in lines[1:])
    assert len(lines) == 1 or what == "fault"


def test_facts_are_members_of_the_object() -> None:
    """Whatever a caller says beside the sentence; values that JSON lacks come out as text."""
    entry = line_of(said("warn", "a folder cannot be used", folder="acme", why="gone", count=3, state=State.HELD))
    assert (entry["folder"], entry["why"], entry["count"], entry["state"]) == ("acme", "gone", 3, "held")


def test_a_traceback_comes_with_an_unexpected_error() -> None:
    """Whole, in a member of the one line, with the place where it happened."""
    entry = line_of(said("fault", DROP, fault()))
    assert entry["level"] == "error"
    assert "in fault\n" in entry["exception"]
    assert "RuntimeError" in entry["exception"]


def test_plain_lines_are_short_and_marked() -> None:
    """Time of day, a mark where somebody should look, the sentence, the facts in brackets."""
    assert said("event", DROP, Filed(path="x"), plain=True)[9:] == "filed as x  [drop=2N1XRA4R5FAZ  folder=acme]\n"
    assert said("warn", "look", plain=True)[9:] == "! look\n"
    assert said("say", "fine", plain=True)[9:] == "fine\n"


def test_a_pipe_gets_json_and_a_terminal_gets_text() -> None:
    """Nobody has to choose."""
    reading, writing = os.pipe()
    with open(reading) as reader, open(writing, "w") as writer:  # noqa: PTH123
        Journal(writer).say("in the pipe")
        writer.flush()
        assert json.loads(reader.readline())["event"] == "in the pipe"
    master, slave = os.openpty()
    with open(master, "rb") as reader_end, open(slave, "w") as terminal:  # noqa: PTH123
        Journal(terminal).say("on the terminal")
        terminal.flush()
        assert reader_end.readline()[9:].strip() == b"on the terminal"


@pytest.mark.parametrize("what", ["say", "warn"])
def test_a_journal_that_nobody_reads_stops_nothing(what: str) -> None:
    """The reader has gone, the stream is closed, the disk is full: the line is lost and counted, no error is raised."""
    reading, writing = os.pipe()
    os.close(reading)
    broken = os.fdopen(writing, "w")
    closed = io.StringIO()
    closed.close()
    with open("/dev/full", "w") as full:  # noqa: PTH123
        for stream in (broken, closed, full):
            journal = Journal(stream, plain=False)
            getattr(journal, what)("nobody hears this")
            journal.event(DROP, Filed(path="x"))
            journal.left_alone("acme", b"x", "x")
            journal.fault(DROP, fault())
            assert journal.lines_lost == 4
        with pytest.raises(OSError, match="No space left"):
            full.close()
    with pytest.raises(BrokenPipeError):
        broken.close()
