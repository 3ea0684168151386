"""How results look: lines of text for people, JSON members for programs.

Each function gives lines and prints nothing, so that the same lines can be printed once or kept on a screen. Whatever
a partner or a server chose (names, reasons, cells) goes through `printable` or `harmless` before it is in a line.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dropzone import receipt
from dropzone.account import Condition
from dropzone.cli.text import Column, Row, age, bar, below, many, pad, screen_width, size, table
from dropzone.drop import Report, State
from dropzone.errors import printable
from dropzone.ledger import Attempt, SegmentFacts
from dropzone.operate import AGES, AccountStatus, Ages, Finding, FolderStatus, Health, Overview, Queued, Shown
from dropzone.progress import Step

if TYPE_CHECKING:  # loads the folders and the settings, which most commands do without
    from dropzone.operate.trying import FolderPlan, Planned

MARKS = {
    State.QUEUED: "·",
    State.SENDING: ">",
    State.HELD: "!",
    State.UNKNOWN: "?",
    State.ACCEPTED: "+",
    State.REFUSED: "x",
    State.DONE: "+",
    State.FAILED: "x",
}
COLOURS = {"!": "yellow", "?": "magenta", "x": "red", "+": "green", ">": "cyan"}


# ------------------------------------------------------------------------------------------------------ printing


def say(lines: Iterable[str]) -> None:
    """Print `lines` in one piece."""
    text = "\n".join(lines)
    if text:
        click.echo(text)


def json_lines(members: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, ASCII only."""
    for member in members:
        click.echo(json.dumps(member, ensure_ascii=True, default=str))


def error(message: str, hint: str) -> None:
    """One sentence, and what to do about it, on stderr."""
    for line in below(one_line(message), "dropzone: ", "  ", stream=sys.stderr):
        click.secho(line, fg="red", err=True)
    for line in below(one_line(hint), "  ", stream=sys.stderr) if hint else ():
        click.echo(line, err=True)


def no_daemon(so: str) -> None:
    """That none runs, what follows from it, and what starts it; on stderr."""
    error(f"no daemon runs here, so {so}", "Start it: systemctl start dropzone")


def one_line(text: str) -> str:
    """`text` without anything that could disturb a terminal; escapes that it has already stay as they are."""
    return "".join(char if char.isprintable() else printable(char) for char in text)


# ----------------------------------------------------------------------------------------------------- the queue

_QUEUE = (
    Column(heading=""),
    Column(heading="ID"),
    Column(heading="STATE", optional=True),
    Column(heading="FOLDER", least=8),
    Column(heading="NAME", least=8),
    Column(heading="SIZE", right=True),
    Column(heading="AGE", right=True),
    Column(heading="TRIES", right=True),
    Column(heading="NEXT"),
)


def queue(lines: Sequence[Queued], now: float) -> Iterator[str]:
    """One line per drop, below it why it waits or how far it is; a sum at the end."""
    if not lines:
        yield "The queue is empty."
        return
    yield from table(_QUEUE, [_queue_row(line, now) for line in lines])
    yield f"{many(len(lines), 'drop')}, {size(sum(line.drop.size for line in lines))}{_legend(lines)}"
    if any(line.drop.state is State.HELD for line in lines):
        yield "What can be done about one that is held: dropzone show ID"


def _legend(lines: Sequence[Queued]) -> str:
    """What the marks mean: where it is tight, the column that says so is left out."""
    if screen_width() is None:
        return ""
    states = dict.fromkeys(line.drop.state for line in lines)
    return f"  ({', '.join(f'{MARKS[state]} {state}' for state in states)})"


def _queue_row(line: Queued, now: float) -> Row:
    drop = line.drop
    mark = MARKS[drop.state]
    sentences = []
    if line.step:
        sentences.append(far(line.step))
    elif line.reason:
        sentences.append(receipt.harmless(line.reason))
    return Row(
        cells=(
            mark,
            drop.id,
            drop.state.value,
            drop.folder,
            printable(drop.name),
            size(drop.size),
            age(now - drop.claimed_at),
            str(drop.tries),
            _next(line, now),
        ),
        colour=COLOURS.get(mark),
        below=sentences,
    )


def _next(line: Queued, now: float) -> str:
    if line.drop.state in (State.DONE, State.FAILED):
        return "-"
    if line.drop.state is State.HELD:
        return "a person"
    if line.drop.state is not State.QUEUED:
        return "now"
    return when(line.due_at, now)


def when(due_at: float, now: float) -> str:
    """When something is due: ``now``, ``in 5m``, or once a person says so."""
    if math.isinf(due_at):
        return "a person"
    return "now" if due_at <= now else f"in {age(due_at - now)}"


def far(step: Step) -> str:
    """How far a step is: a bar, the share, the rate and the time left."""
    what = {"check": "checking", "upload": "sending"}.get(step.what, step.what)
    share = step.done / step.total if step.total else 0.0
    left = f", {age(step.left_s)} left" if step.left_s is not None else ""
    return f"{what} [{bar(share)}] {share:4.0%} of {size(step.total)}, {size(step.rate)}/s{left}"


def ages(counted: Sequence[Ages]) -> Iterator[str]:
    """Folders by rows, ages by columns."""
    if not counted:
        yield "The queue is empty."
        return
    headings = [f"<{age(end)}" for end in AGES] + [f">{age(AGES[-1])}"]
    columns = [Column(heading="FOLDER", least=8), Column(heading="ALL", right=True)]
    columns += [Column(heading=heading, right=True) for heading in headings]
    rows = [
        Row(cells=(line.folder, str(sum(line.counts)), *(str(count or "-") for count in line.counts)))
        for line in counted
    ]
    yield from table(columns, rows)


def ages_member(line: Ages) -> dict[str, Any]:
    """The JSON form of one line of ages; the upper end of each column in seconds, none for the last."""
    ends = (*AGES, None)
    counts = [{"below_s": end, "drops": count} for end, count in zip(ends, line.counts, strict=True)]
    return {"version": 1, "folder": line.folder, "drops": sum(line.counts), "ages": counts}


def queue_member(line: Queued) -> dict[str, Any]:
    """The JSON form of one line of the queue."""
    plain = receipt.as_dict(line.drop)
    return plain | {
        "due_at": _stamp(line.due_at),
        "reason": receipt.harmless(line.reason),
        "step": step_member(line.step),
    }


def step_member(step: Step | None) -> dict[str, Any] | None:
    """The JSON form of what is under way; null where nothing is."""
    if step is None:
        return None
    members = {"what": step.what, "done": step.done, "total": step.total}
    return members | {"seconds": round(step.seconds, 3), "rate": round(step.rate), "left_s": step.left_s}


# ---------------------------------------------------------------------------------------------------- everything

_STATUS = (
    Column(heading=""),
    Column(heading="FOLDER", least=8),
    Column(heading="WAITING", right=True),
    Column(heading="OLDEST", right=True),
    Column(heading="HELD", right=True),
    Column(heading="FAILED", right=True),
    Column(heading="NEXT"),
    Column(heading="ACCEPTED"),
    Column(heading="ROWS", right=True),
)


def status(seen: Overview, now: float) -> Iterator[str]:
    """The daemon, the accounts, and a line for each folder."""
    yield from _health(seen.health, now)
    for account in seen.accounts:
        yield from _account(account, now)
    yield ""
    yield from table(_STATUS, [_folder_row(folder, now) for folder in seen.folders])
    held = sum(folder.held for folder in seen.folders)
    if held:
        yield f"{many(held, 'drop')} {'waits' if held == 1 else 'wait'} for a person: dropzone queue --state held"
    failed = sum(folder.failed for folder in seen.folders)
    if failed:
        yield f"{many(failed, 'drop')} failed within a day: dropzone queue --state failed --newest {failed}"


RELOAD = "Type: dropzone config check && systemctl reload dropzone"


def _health(health: Health, now: float) -> Iterator[str]:
    if not health.running:
        yield click.style("!", fg="red") + " no daemon runs here: nothing is taken over and nothing is sent"
        return
    if health.unasked:
        yield click.style("!", fg="yellow") + f" a daemon runs, but tells nothing: {one_line(health.unasked)}"
        return
    since = f" for {age(now - health.since)}" if health.since is not None else ""
    version = f", version {one_line(health.version)}" if health.version else ""
    pid = f", pid {health.pid}" if health.pid else ""
    mark = click.style("!", fg="red") if health.fault else click.style("+", fg="green")
    yield f"{mark} the daemon runs{since}{version}{pid}"
    if health.outdated:
        yield from below(f"it goes by an older configuration than the file's. {RELOAD}")
    if health.fault:
        yield from below(f"intake and sending pause: {one_line(health.fault)}")


def _account(account: AccountStatus, now: float) -> Iterator[str]:
    facts = account.facts
    ready = facts.condition is Condition.READY
    accepted = f"last accepted {age(now - facts.accepted_at)} ago" if facts.accepted_at else "nothing accepted yet"
    mark, colour = ("+", "green") if ready else ("!", "red" if facts.probing else "yellow")
    again = (
        f", tried again {when(now + facts.wait_s(now), now)}"
        if facts.wait_s(now)
        else ", tried again with its next drop"
    )
    if math.isinf(facts.until):
        again = f", until: dropzone resume {account.name}"
    since = "" if ready else f" for {age(now - facts.since)}{again}"
    told = f"account {account.name} is {facts.condition}{since}; {accepted}{_key(account.key_days)}"
    yield from _marked(mark, colour, told, gap=1)
    if not ready:
        yield from below(receipt.harmless(facts.why))


def _key(days: int | None) -> str:
    if days is None:
        return ""
    return f", its key ends in {many(days, 'day')}" if days > 0 else ", its key has ended"


def _folder_row(folder: FolderStatus, now: float) -> Row:
    mark = (
        "!"
        if folder.held or folder.pause
        else "x"
        if folder.failed
        else "·"
        if folder.waiting
        else "+"
        if folder.accepted
        else ""
    )
    accepted = folder.accepted
    return Row(
        cells=(
            mark,
            printable(folder.name),
            str(folder.waiting or "-"),
            age(now - folder.oldest_at) if folder.oldest_at is not None else "-",
            str(folder.held or "-"),
            str(folder.failed or "-"),
            "-" if folder.next_at is None else "a person" if folder.pause else when(folder.next_at, now),
            f"{age(now - accepted.at)} ago" if accepted else "never",
            f"{accepted.rows:,}" if accepted else "-",
        ),
        colour=COLOURS.get(mark),
        below=[*_folder_notes(folder)],
    )


def _folder_notes(folder: FolderStatus) -> Iterator[str]:
    if folder.pause:
        yield f"{receipt.harmless(folder.pause.why)}; it goes on with: dropzone resume {printable(folder.name)}"
    if folder.unmade:
        yield f"its segment is still to be created: dropzone segment create --folder {folder.name}"
    if not folder.configured:
        yield "the configuration does not have this folder any more"


def status_members(seen: Overview) -> Iterator[dict[str, Any]]:
    """The JSON form: an object for the daemon, one for each account and one for each folder, told apart by `kind`."""
    health = seen.health
    yield {
        "version": 1,
        "kind": "daemon",
        "running": health.running,
        "unasked": one_line(health.unasked),
        "release": health.version,
        "pid": health.pid,
        "since": _stamp(health.since),
        "fault": one_line(health.fault),
        "outdated": health.outdated,
        "steps": {id: step_member(step) for id, step in health.steps.items()},
    }
    for account in seen.accounts:
        facts = account.facts
        yield {
            "version": 1,
            "kind": "account",
            "account": account.name,
            "condition": facts.condition.value,
            "condition_since": None if facts.condition is Condition.READY else _stamp(facts.since),
            "until": None if facts.condition is Condition.READY else _stamp(facts.until),
            "why": receipt.harmless(facts.why),
            "accepted_at": _stamp(facts.accepted_at),
            "key_days": account.key_days,
        }
    for folder in seen.folders:
        yield {
            "version": 1,
            "kind": "folder",
            "folder": folder.name,
            "configured": folder.configured,
            "unmade": folder.unmade,
            "waiting": folder.waiting,
            "waiting_bytes": folder.waiting_bytes,
            "held": folder.held,
            "failed": folder.failed,
            "oldest_at": _stamp(folder.oldest_at),
            "next_at": _stamp(folder.next_at),
            "accepted": _accepted_member(folder.accepted),
            "pause": receipt.harmless(folder.pause.why) if folder.pause else None,
        }


def _accepted_member(facts: SegmentFacts | None) -> dict[str, Any] | None:
    return {"id": facts.drop_id, "rows": facts.rows, "at": receipt.stamp(facts.at)} if facts else None


def _stamp(at: float | None) -> str | None:
    return receipt.stamp(at) if at is not None and math.isfinite(at) else None  # never is no time


# ------------------------------------------------------------------------------------------------------ one drop


def show(shown: Shown) -> Iterator[str]:
    """All about one drop: what the log would say, with the time between events, the attempts, and where the file is."""
    first, *why = receipt.head(shown.drop)
    yield from (click.style(line, bold=True) for line in below(first, ""))
    for line in why:
        yield from below(line, "")
    if shown.step:
        yield "now " + far(shown.step)
    for title, lines in receipt.sections(shown.drop, shown.history):
        yield ""
        if title:
            yield click.style(title, bold=True)
        if title == receipt.HAPPENED:
            yield from _timeline(shown)
        else:
            for line in lines:
                yield from below(line, "  ", " " * (4 if title else _FACTS))
    if shown.attempts:
        yield "\n" + click.style("Attempts", bold=True)
        yield from table(_ATTEMPTS, [_attempt_row(attempt) for attempt in shown.attempts])
    place = printable(str(shown.path)) if shown.path else "in none of its places: look at work/, done/ and failed/"
    yield ""
    yield from below(f"The file is {place}", "")


_FACTS = 11  # columns before the value of a fact
_ATTEMPTS = (
    Column(heading="N"),
    Column(heading="STARTED (UTC)"),
    Column(heading="SECONDS", right=True),
    Column(heading="OUTCOME"),
    Column(heading="STATUS"),
)


def _attempt_row(attempt: Attempt) -> Row:
    return Row(
        cells=(
            str(attempt.n),
            receipt.clock(attempt.started_at),
            f"{attempt.ended_at - attempt.started_at:.1f}" if attempt.ended_at else "-",
            attempt.outcome or "under way",
            str(attempt.status or "-"),
        ),
        below=[receipt.harmless(attempt.why)] if attempt.why else (),
    )


def _timeline(shown: Shown) -> Iterator[str]:
    before = None
    for entry in shown.history:
        gap = "" if before is None else f"+{age(entry.at - before)}"
        before = entry.at
        yield from below(receipt.tell(entry.event), f"  {receipt.clock(entry.at)} {pad(gap, 5, right=True)}  ")


def show_member(shown: Shown) -> dict[str, Any]:
    """The JSON form of all about one drop."""
    return receipt.as_dict(shown.drop) | {
        "events": [receipt.event_as_dict(entry) for entry in shown.history],
        "attempts_made": [attempt_member(attempt) for attempt in shown.attempts],
        "file": one_line(str(shown.path)) if shown.path else None,
        "step": step_member(shown.step),
    }


def attempt_member(attempt: Attempt) -> dict[str, Any]:
    """The JSON form of an attempt."""
    plain = asdict(attempt) | {"why": receipt.harmless(attempt.why)}
    for name in ("started_at", "ended_at"):
        plain[name] = _stamp(plain[name])
    return plain


def _marked(mark: str, colour: str | None, sentence: str, indent: str = "", *, gap: int = 2) -> Iterator[str]:
    """A sentence behind its mark, with so many blanks between, wrapped below itself."""
    first, *rest = below(sentence, f"{indent}{mark}{' ' * gap}")
    yield indent + click.style(mark, fg=colour) + first[len(indent) + len(mark) :]
    yield from rest


# --------------------------------------------------------------------------------------------------------- a path

_STANDINGS = {
    "ignored": ("-", None),
    "unfit": ("!", "red"),
    "waiting": ("·", None),
    "ready": ("+", "green"),
    "taken": (">", "cyan"),
    "missing": ("?", "magenta"),
    "inbox": ("+", "green"),
    "outside": ("?", "magenta"),
}


def finding(found: Finding, now: float) -> Iterator[str]:
    """What stands about one path, and what would change it."""
    mark, colour = _STANDINGS[found.standing]
    size_of = f", {size(found.size)}" if found.size is not None else ""
    yield from _marked(mark, colour, f"{printable(str(found.path))}{size_of}: {found.standing}")
    if found.folder:
        yield from below(printable(found.folder), "     folder   ")
    if found.since is not None:
        changed = "taken" if found.standing == "taken" else "changed"
        yield f"     {changed:<8} {receipt.stamp(found.since)}, {age(now - found.since)} ago"
    yield from below(receipt.harmless(found.what), "     why      ")
    if found.until is not None:
        yield f"     until    {receipt.stamp(found.until)}, in {age(found.until - now)}, if nothing changes"
    if found.reason:
        yield from below(receipt.harmless(found.reason), "     reason   ")
    if found.change:
        yield from below(one_line(found.change), "     mend     ")


def finding_member(found: Finding) -> dict[str, Any]:
    """The JSON form of what stands about one path."""
    return {
        "version": 1,
        "path": printable(str(found.path)),
        "folder": found.folder,
        "standing": found.standing,
        "what": receipt.harmless(found.what),
        "change": one_line(found.change),
        "since": _stamp(found.since),
        "until": _stamp(found.until),
        "size": found.size,
        "id": found.id,
        "state": found.state,
    }


# --------------------------------------------------------------------------------------------------------- a plan

_OUTCOMES = {
    "sent": ("+", "green"),
    "spared": ("+", None),
    "held": ("!", "yellow"),
    "refused": ("x", "red"),
    "waits": ("·", None),
    "left": ("-", None),
}


def is_trouble(planned: Planned) -> bool:
    """Whether somebody would have to do something about the file."""
    return planned.outcome in ("held", "refused") or planned.finding.standing == "unfit"


def plan(of: FolderPlan) -> Iterator[str]:
    """One folder: where its files go and with which fields, then each file and what would become of it."""
    folder = of.folder
    fields = ", ".join(f"{one_line(name)}={one_line(value)}" for name, value in of.fields)
    for line in below(f"{folder.name}: {folder.mode} into segment {folder.segment_id} of {folder.account}", "", "  "):
        yield click.style(line, bold=True)
    yield from below(f"with {fields}", "  ")
    if of.fault:
        yield from below(f"{one_line(of.fault)}. {one_line(of.mend)}", "  ! ")
        return
    for file in of.files:
        mark, colour = _OUTCOMES[file.outcome]
        if file.finding.standing == "unfit":
            mark, colour = "!", "red"
        name = printable(file.finding.path.name)
        yield from _marked(mark, colour, f"{name}, {size(file.finding.size or 0)}: {file.outcome}", "  ")
        yield from below(receipt.harmless(file.why), "       ")
        for problem in file.report.problems[:_PLANNED_PROBLEMS] if file.report and file.outcome != "sent" else ():
            yield from below(one_line(problem.at(name)), "       ")
    if not of.files:
        yield "  nothing there"


_PLANNED_PROBLEMS = 3


def plan_members(of: FolderPlan) -> Iterator[dict[str, Any]]:
    """The JSON form: one object for each file, and one without a file for a folder that cannot be looked into."""
    common = {
        "version": 1,
        "folder": of.folder.name,
        "account": of.folder.account,
        "segment_id": of.folder.segment_id,
        "mode": of.folder.mode,
        "fields": dict(of.fields),
    }
    if of.fault:
        yield common | {"path": None, "size": None, "outcome": "left", "why": one_line(of.fault), "report": None}
    for file in of.files:
        yield common | {
            "path": printable(str(file.finding.path)),
            "size": file.finding.size,
            "outcome": file.outcome,
            "why": receipt.harmless(file.why),
            "report": receipt.report_as_dict(file.report) if file.report else None,
        }


# -------------------------------------------------------------------------------------------------------- a check


def check(file: str, report: Report) -> Iterator[str]:
    """Problems like a compiler's, then what was repaired and counted."""
    name = printable(file)
    for problem in report.problems:
        yield one_line(problem.at(name))
    more = report.problem_count - len(report.problems)
    if more:
        yield f"{name}: … and {more:,} more problems"
    for what, count in report.repairs:
        yield f"{name}: repaired {count:,} x {printable(what)}"
    for repeat in report.repeats:
        yield one_line(repeat.at(name))
    if report.repeated_rows:
        yield f"{name}: {report.repeated_rows:,} rows repeat an address"
    yield f"{name}: {report.rows:,} rows read, {report.good_rows:,} good, {report.bad_rows:,} bad"
    verdict = f"would be refused: {report.refused}" if report.refused else "would be sent"
    yield click.style(f"{name}: {verdict}", fg="red" if report.refused else "green")


def progress(total: int) -> Any:
    """A callable that draws how far a check is, on a terminal; None elsewhere."""
    if not sys.stderr.isatty() or total < 32 * 1024 * 1024:
        return None
    last, whole = 0.0, False

    def draw(done: int) -> None:
        nonlocal last, whole
        now = time.monotonic()
        if whole or (now - last < 0.2 and done < total):
            return
        last, whole = now, done >= total  # all may be read and not all done: then it is told again and again
        click.echo(f"\r{done / total:4.0%} of {size(total)} read", nl=done >= total, err=True)

    return draw
