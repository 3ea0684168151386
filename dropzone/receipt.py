"""How a drop's history reads: the log beside the file, one sentence per event, and the JSON form.

Everything is rendered from the ledger's history, so a log can be made again at any time and a crash cannot lose it.
It is written for the partner's people: what came, what was repaired, what was sent, what was wrong in which line, and
what to do. Knows no files and no terminal; addresses reach it masked, and it prints no name unescaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, assert_never

from dropzone.drop import (
    FORGOTTEN,
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
)
from dropzone.errors import printable

_VERDICTS = {
    State.ACCEPTED: "ACCEPTED: OptiPub took the file and queued its import",
    State.DONE: "ACCEPTED: OptiPub took the file and queued its import",
    State.REFUSED: "FAILED: the file was not imported",
    State.FAILED: "FAILED: the file was not imported",
    State.HELD: "HELD: somebody has to look before it goes on",
    State.UNKNOWN: "UNKNOWN: it was sent, but no answer tells whether OptiPub took it",
    State.QUEUED: "WAITING: it is checked and sent when it is due",
    State.SENDING: "SENDING: it is under way",
}


HAPPENED = "What happened (UTC)"


def render_log(drop: Drop, history: Sequence[Entry], *, changed: str = "") -> str:
    """The log of `drop` as text with a final newline. `changed`: see `Filed`, which comes after the log."""
    parts = [head(drop)]
    if changed:
        parts.append([f"ATTENTION: {changed}.", "If the rest is wanted, upload the whole file again."])
    for title, lines in sections(drop, history):
        parts.append([*([title] if title else []), *(f"  {line}" for line in lines)])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def head(drop: Drop) -> list[str]:
    """What became of the drop, and why."""
    return [f"{printable(drop.name)}: {_verdict(drop)}", *_verdict_lines(drop)]


def sections(drop: Drop, history: Sequence[Entry]) -> list[tuple[str, list[str]]]:
    """Everything else, as (title, lines); the facts come first, without a title, and what is empty is left out."""
    report = last_report(history)
    parts = [
        ("", _facts(drop, report)),
        ("Repaired in what was sent (the original beside this log is as it came)", _repairs(report)),
        ("Bad rows", _bad_rows(drop, report)),
        ("Repeated addresses", _repeats(report)),
        (HAPPENED, [f"{clock(entry.at)}  {tell(entry.event)}" for entry in history]),
        ("What to do", _advice(drop, history)),
    ]
    return [(title, lines) for title, lines in parts if lines]


def last_report(history: Sequence[Entry]) -> Report | None:
    """What the latest check found, or None when the file was never checked to its end."""
    for entry in reversed(history):
        match entry.event:
            case Attempted(report=report) | CheckFailed(report=report):
                return report
            case Withheld(report=report) if report is not None:
                return report
            case _:
                pass
    return None


def _verdict(drop: Drop) -> str:
    return "NOT SENT: there was no need to" if drop.spared else _VERDICTS[drop.state]


def _verdict_lines(drop: Drop) -> list[str]:
    if drop.state in (State.ACCEPTED, State.DONE) and not drop.spared:
        return ["(what became of each row over there cannot be seen from outside)"]
    return [f"Reason: {harmless(drop.reason)}"] if drop.reason else []


def _facts(drop: Drop, report: Report | None) -> list[str]:
    settings = json.loads(drop.settings)
    clear = ", which was emptied first (clear)" if settings.get("clear") else ""
    lines = [
        f"drop     {drop.id}",
        f"folder   {drop.folder}",
        f"import   {settings.get('mode', '?')} into segment {drop.segment_id}{clear}, account {drop.account}",
        f"file     {printable(drop.name)}, {drop.size:,} bytes, taken over {stamp(drop.claimed_at)}",
    ]
    if report:
        left_out = f", {report.bad_rows:,} bad" if report.bad_rows else ""
        lines.append(f"rows     {report.rows:,} read, {report.good_rows:,} good{left_out}")
        lines.append(f"columns  {', '.join(printable(column) for column in report.columns)}")
    if drop.digest:
        lines.append(f"sent     sha256 {drop.digest}")
    return lines


def _repairs(report: Report | None) -> list[str]:
    return [f"{count:,} x {printable(what)}" for what, count in report.repairs] if report else []


def _repeats(report: Report | None) -> list[str]:
    if report is None or not report.repeated_rows:
        return []
    lines = [problem.at("line").replace("line:", "line ", 1) for problem in report.repeats]
    return [f"{report.repeated_rows:,} rows repeat an address of an earlier row; the first:", *lines]


def _bad_rows(drop: Drop, report: Report | None) -> list[str]:
    if report is None or not report.problems:
        return []
    lines = []
    for problem in report.problems:
        place = [f"line {problem.line}" if problem.line else "the file"]
        place += [f"column {problem.column}"] if problem.column else []
        place += [printable(problem.subject)] if problem.subject else []
        hint = f" ({problem.hint})" if problem.hint else ""
        lines.append(f"{', '.join(place)}: {problem.what}{hint}")
    more = report.problem_count - len(report.problems)
    if more:
        lines.append(f"… and {more:,} more")
    if report.bad_rows:
        lines.append(f"All bad rows, as they came, are in the file ending in {drop.id}.rejects.csv beside this log.")
    return lines


def _advice(drop: Drop, history: Sequence[Entry]) -> list[str]:
    last = next((e.event for e in reversed(history) if not isinstance(e.event, Filed)), None)
    match last:
        case CheckFailed():
            return [
                "Mend the lines named above in your own copy and upload the whole file again, under any name.",
                "Nothing of this file was sent; the folder accepts no file with more bad rows than it allows.",
            ]
        case Refused():
            return [
                "Do not upload the same file again before somebody has found out why OptiPub refused it:",
                "the operator looks at segment, key and columns, and then types: dropzone retry " + drop.id,
            ]
        case Accepted() if _was_repeated(history):
            return ["The file may have reached OptiPub more than once: see the attempts above."]
        case Withheld(guard="unknown"):
            return [
                f"Look in OptiPub for an import of a file whose name holds {drop.id}.",
                f"It is there: dropzone accept {drop.id}. It is not: dropzone retry {drop.id}, which sends it again.",
            ]
        case Withheld(guard=guard) if guard == FORGOTTEN:
            return [
                f"Nobody knows whether it was sent. Look in OptiPub for a file whose name holds {drop.id}.",
                f"It is there: dropzone accept {drop.id}. It is not: dropzone retry {drop.id}.",
            ]
        case Withheld():
            return [
                f"It is meant so: dropzone release {drop.id} lets it go on.",
                f"It is not: dropzone discard {drop.id} gives it up, unsent.",
            ]
        case _:
            return []


def _was_repeated(history: Sequence[Entry]) -> bool:
    """Whether the file was offered again after an attempt whose outcome nobody knows."""
    kinds = [type(entry.event) for entry in history]
    return Lost in kinds and Attempted in kinds[kinds.index(Lost) :]


def tell(event: Event) -> str:
    """What happened, as one sentence for people, on one line. Names in it are escaped, addresses masked."""
    text = _tell(event)
    return text if isinstance(event, Claimed) else harmless(text)  # a file's name is shown whole, even with an @ in it


def _tell(event: Event) -> str:
    match event:
        case Claimed(folder=folder, name=name, size=size, adopted=adopted):
            found = " (found in work/ after a crash)" if adopted else ""
            return f"taken over from the inbox of {folder}: {printable(name)}, {size:,} bytes{found}"
        case Postponed(due_at=due_at, why=why):
            return f"put off until {stamp(due_at)}: {why}"
        case CheckFailed(report=report):
            return f"refused by the check, nothing was sent: {report.refused}"
        case Withheld(guard=guard, why=why):
            return f"held ({guard}): {why}"
        case Released(by=by, why=why, again=again):
            what = "to be offered again, though OptiPub may have it already" if again else "released"
            return f"{what}, by {by}{_reason(why)}"
        case Attempted(n=n, size=size, report=report, repeats=repeats):
            known = f", though OptiPub may have them already from attempt {repeats}" if repeats else ""
            return f"attempt {n}: sending {report.good_rows:,} rows, {size:,} bytes{known}"
        case Accepted(status=status, body=body, by=by):
            if by:
                return f"accepted: {by} has found it in OptiPub{_reason(body)}"
            return f"accepted: OptiPub answered {status} {body}"
        case Refused(blame=blame, evidence=evidence):
            return f"refused: {blame}" + (f" [{evidence}]" if evidence else "")
        case Deferred(due_at=due_at, cause=cause):
            return f"not taken, next try {stamp(due_at)}: {cause}"
        case Lost(cause=cause, sent=sent):
            return f"outcome unknown{'' if sent is None else f' after {sent:,} bytes'}: {cause}"
        case Resent(by=by, why=why, due_at=due_at):
            when = f", {stamp(due_at)}" if due_at else ""
            return f"to be offered again{when}, though OptiPub may have it already ({by}): {why}"
        case Superseded(newer=newer):
            return f"not sent: the newer file {newer} of the folder takes its place"
        case Skipped(first_at=first_at):
            return f"not sent: {event.why}, {stamp(first_at)}"
        case Discarded(by=by, why=why):
            return f"given up by {by}: {why}"
        case Filed(path=path, changed=changed):
            if not path:
                return "its file is gone from work/, so there was nothing to file"
            return f"filed as {printable(path)}" + (f"; {changed}" if changed else "")
        case Expired(days=days):
            kept = f"{days} day{'' if days == 1 else 's'}"
            return f"its files were deleted, as the folder keeps them for {kept}; of its history this is left"
        case Retried(by=by, why=why, settings=settings, segment_id=segment_id):
            anew = f" with the folder's settings of now, into segment {segment_id}" if settings else ""
            return f"to be tried again{anew}, by {by}{_reason(why)}"
        case _:
            assert_never(event)


def _reason(why: str) -> str:
    return f": {why}" if why else ""


# The local part of an address. What the server says may quote rows. Each run of its characters is read once.
# As text, which `re` compiles when it first meets an @: few answers to a question have one.
_LOCAL_PART = r"(?<![\w.+!#$%&'*/=?^`{|}~-])([\w.+!#$%&'*/=?^`{|}~-])[\w.+!#$%&'*/=?^`{|}~-]*+@(?=[\w-]+\.)"


def harmless(line: str) -> str:
    """`line` without a full address and without anything that could forge a line; its own escapes stay as they are."""
    if "@" in line:
        line = re.sub(_LOCAL_PART, r"\1…@", line)
    return line if line.isprintable() else "".join(char if char.isprintable() else printable(char) for char in line)


def as_dict(drop: Drop) -> dict[str, Any]:
    """The JSON form of a drop, version 1: members may be added, never changed."""
    plain = asdict(drop) | {"version": 1, "name": printable(drop.name), "state": drop.state.value}
    plain["settings"] = json.loads(drop.settings)
    plain["reason"] = harmless(drop.reason)
    for name in ("claimed_at", "due_at", "changed_at", "verdict_at"):
        if plain[name] is not None:
            plain[name] = stamp(plain[name])
    return plain


def event_as_dict(entry: Entry) -> dict[str, Any]:
    """The JSON form of one line of history, version 1."""
    plain: dict[str, Any] = {"at": stamp(entry.at), "event": type(entry.event).__name__, "text": tell(entry.event)}
    for name, value in asdict(entry.event).items():
        match name:
            case "name":
                plain[name] = printable(value)
            case "due_at":
                plain[name] = stamp(value)
            case _:
                plain[name] = harmless(value) if isinstance(value, str) else value
    return plain


def report_as_dict(report: Report) -> dict[str, Any]:
    """The JSON form of what a check found, version 1."""
    return {"version": 1, **asdict(report), "repairs": dict(report.repairs)}


def stamp(at: float) -> str:
    """`at` as ``2026-11-22T17:03:09Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def clock(at: float) -> str:
    """`at` as ``2026-11-22 17:03:09``, for columns of times."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
