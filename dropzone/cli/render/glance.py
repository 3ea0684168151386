"""Everything at a glance: the daemon, the accounts, the folders."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dropzone import receipt
from dropzone.account import Condition
from dropzone.cli.render.printing import RELOAD, START, marked, one_line, stamp
from dropzone.cli.render.waiting import COLOURS, step_member, when
from dropzone.cli.text import Column, Row, age, below, many, table
from dropzone.errors import printable
from dropzone.ledger import SegmentFacts
from dropzone.operate import AccountStatus, FolderStatus, Health, Overview

_STATUS = (
    Column(heading=""),
    Column(heading="FOLDER", least=8),
    Column(heading="WAITING", right=True),
    Column(heading="OLDEST", right=True, spare=True),
    Column(heading="HELD", right=True),
    Column(heading="FAILED", right=True),
    Column(heading="NEXT", spare=True),
    Column(heading="ACCEPTED", spare=True),
    Column(heading="ROWS", right=True, spare=True),
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


def _health(health: Health, now: float) -> Iterator[str]:
    if not health.running:
        yield from marked("!", "red", "no daemon runs here: nothing is taken over and nothing is sent", gap=1)
        yield from below(START)
        return
    if health.unasked:
        yield from marked("!", "yellow", f"a daemon runs, but tells nothing: {one_line(health.unasked)}", gap=1)
        return
    since = f" for {age(now - health.since)}" if health.since is not None else ""
    version = f", version {one_line(health.version)}" if health.version else ""
    pid = f", pid {health.pid}" if health.pid else ""
    mark, colour = ("!", "red") if health.fault or health.away else ("+", "green")
    yield from marked(mark, colour, f"the daemon runs{since}{version}{pid}", gap=1)
    if health.outdated:
        yield from below(f"it goes by an older configuration than the file's. {RELOAD}")
    if health.fault:
        yield from below(f"intake and sending pause: {one_line(health.fault)}")
    for why in health.away:
        yield from below(f"nothing goes through a work folder: {one_line(why)}. What to type: dropzone doctor")


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
    yield from marked(mark, colour, told, gap=1)
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
        "since": stamp(health.since),
        "fault": one_line(health.fault),
        "away": [one_line(why) for why in health.away],
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
            "condition_since": None if facts.condition is Condition.READY else stamp(facts.since),
            "until": None if facts.condition is Condition.READY else stamp(facts.until),
            "why": receipt.harmless(facts.why),
            "accepted_at": stamp(facts.accepted_at),
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
            "oldest_at": stamp(folder.oldest_at),
            "next_at": stamp(folder.next_at),
            "accepted": _accepted_member(folder.accepted),
            "pause": receipt.harmless(folder.pause.why) if folder.pause else None,
        }


def _accepted_member(facts: SegmentFacts | None) -> dict[str, Any] | None:
    return {"id": facts.drop_id, "rows": facts.rows, "at": receipt.stamp(facts.at)} if facts else None
