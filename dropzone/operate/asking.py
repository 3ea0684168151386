"""What an operator can ask of the ledger: the state of everything, what waits, and all about one drop.

Works with or without a running daemon, and loads neither the settings' models nor the CSV engine, so that an answer is
there in a quarter of a second. A daemon is asked only for what it alone knows: how it is, and how far it is with what.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, TypedDict

from dropzone.account import AccountFacts, Condition
from dropzone.drop import FINISHED, Drop, Entry, State
from dropzone.errors import OperatorError, printable
from dropzone.ledger import Attempt, Pause, Reader, SegmentFacts, Standing
from dropzone.places import where_is
from dropzone.progress import Step
from dropzone.values import value

OPEN_STATES = tuple(state for state in State if state not in FINISHED)
_FOR_A_PERSON = (State.HELD, State.UNKNOWN)
_DAY_S = 86_400.0


# --------------------------------------------------------------------------------------------------- the daemon


@value
class Health:
    """The daemon by its own word. Where none runs, `running` is False and the rest is empty."""

    running: bool
    version: str = ""
    pid: int | None = None
    since: float | None = None  # when it started, in seconds since the epoch
    fault: str = ""  # of the machine, for which intake and sending pause
    away: tuple[str, ...] = ()  # why which work folders cannot be used
    unmade: tuple[str, ...] = ()  # folders that are not watched, because their segment is still to be created
    unasked: str = ""  # why a daemon that runs could not be asked
    outdated: bool = False  # the configuration file was changed since the daemon read it
    steps: dict[str, Step]  # what is under way, by drop ID

    @classmethod
    def read(cls, answer: dict[str, Any] | None, *, crc: int) -> Health:
        """What the control socket answered; None where nobody listens there. `crc`: of the configuration file now."""
        if answer is None:
            return cls(running=False, steps={})
        if "error" in answer:
            return cls(running=True, unasked=str(answer["error"]), steps={})
        names = {field.name for field in fields(Step)}  # a newer daemon may tell more
        steps = {
            id: Step(**{name: value for name, value in step.items() if name in names})
            for id, step in answer.get("steps", {}).items()
        }
        return cls(
            running=True,
            version=str(answer.get("version", "")),
            pid=answer.get("pid"),
            since=answer.get("since"),
            fault=str(answer.get("fault", "")),
            away=tuple(map(str, answer.get("away", ()))),
            unmade=tuple(map(str, answer.get("unmade", ()))),
            outdated=answer.get("crc", crc) != crc,
            steps=steps,
        )


# -------------------------------------------------------------------------------------------------------- a path

StandsAs = Literal["ignored", "unfit", "waiting", "ready", "taken", "missing", "inbox", "outside"]


@value
class Finding:
    """What is to be said about one path; `finding` finds it, here or in the daemon.

    `standing` in one word: ``ignored`` (never a candidate), ``unfit`` (somebody has to act), ``waiting``, ``ready``,
    ``taken`` (it is the drop `id` now), ``missing`` (not there, and never was as far as the ledger goes), ``inbox`` (a
    watched folder itself), ``outside`` (in no watched folder). `since` and `until` are seconds since the epoch: when
    the file last changed, when it is taken if nothing happens to it.
    """

    path: Path
    folder: str | None
    standing: StandsAs
    what: str
    change: str = ""  # what would change it
    since: float | None = None
    until: float | None = None
    size: int | None = None  # bytes
    id: str | None = None  # of the drop that it became
    state: str | None = None  # … and how that stands, and why
    reason: str = ""
    unread: bool = False  # it waits to be read to its end: only that tells whether it is complete

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> Finding:
        """The one that `members` tells of."""
        names = {field.name for field in fields(cls)}  # a newer daemon may tell more
        known = {name: value for name, value in members.items() if name in names}
        return cls(**known | {"path": Path(members["path"])})

    def members(self) -> dict[str, Any]:
        """As plain values; `read` makes the same of them."""
        return asdict(self) | {"path": str(self.path)}


@value
class Inbox:
    """What lies in the inbox of one folder; `finding` finds it, here or in the daemon. `fault`: why nobody can look.

    `fields` is what an import from there says beside the file, `settings` all of the folder's, as the ledger has them.
    """

    folder: str
    mode: str
    segment_id: int
    account: str
    fields: tuple[tuple[str, str], ...]
    settings: str
    findings: tuple[Finding, ...] = ()
    fault: str = ""
    mend: str = ""

    @classmethod
    def read(cls, members: Mapping[str, Any]) -> Inbox:
        """The one that `members` tells of."""
        names = {field.name for field in fields(cls)}  # a newer daemon may tell more
        known = {name: value for name, value in members.items() if name in names}
        findings = tuple(map(Finding.read, members["findings"]))
        return cls(**known | {"fields": tuple(map(tuple, members["fields"])), "findings": findings})

    def members(self) -> dict[str, Any]:
        """As plain values; `read` makes the same of them."""
        return asdict(self) | {"findings": [finding.members() for finding in self.findings]}


# ----------------------------------------------------------------------------------------------------- the queue


@value
class Queued:
    """One line of the queue: the drop, what its whole account waits for, if it does, and how far it is."""

    drop: Drop
    account: AccountFacts
    pause: Pause | None = None  # of its folder, by a person
    step: Step | None = None

    @property
    def due_at(self) -> float:
        """When it is looked at again, in seconds since the epoch; infinite where a person must say so."""
        if self.pause:
            return math.inf
        return self.drop.due_at if self.account.condition is Condition.READY else self.account.until

    @property
    def reason(self) -> str:
        """Why it waits, as one sentence, or an empty string."""
        if self.pause:
            return f"its folder is {self.pause.why}"
        return self.drop.reason if self.account.condition is Condition.READY else self.account.why


def queue(
    ledger: Reader,
    *,
    states: Sequence[State] = OPEN_STATES,
    folder: str | None = None,
    newest: int = -1,
    steps: Mapping[str, Step] | None = None,
) -> list[Queued]:
    """The drops in `states` (those that are not finished), oldest first; `steps` by ID, as the daemon told them.

    With `newest` only so many, those that were taken over last.
    """
    drops = ledger.find_drops(states=states, folder=folder, limit=newest, newest=newest >= 0)
    facts = {account: ledger.account_facts(account) for account in {drop.account for drop in drops}}
    pauses, under_way, ready = ledger.paused_folders(), steps or {}, AccountFacts()
    return [
        Queued(
            drop=drop,
            account=facts[drop.account] if drop.state is State.QUEUED else ready,
            pause=pauses.get(drop.folder) if drop.state is State.QUEUED else None,
            step=under_way.get(drop.id),
        )
        for drop in drops
    ]


AGES = (60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400)  # seconds; upper ends of the columns, the last is open


@value
class Ages:
    """How old the drops of one folder are: a count for each of `AGES`, and one more for whatever is older."""

    folder: str
    counts: tuple[int, ...]


def ages(lines: Iterable[Queued], now: float) -> list[Ages]:
    """The drops of `lines` counted by folder and age, by the folders' names; the sum of all under ``TOTAL`` first."""
    table: dict[str, list[int]] = {}
    for line in lines:
        age = now - line.drop.claimed_at
        column = next((index for index, end in enumerate(AGES) if age < end), len(AGES))
        table.setdefault(line.drop.folder, [0] * (len(AGES) + 1))[column] += 1
    total = Ages(folder="TOTAL", counts=tuple(map(sum, zip(*table.values(), strict=True))))
    return [total, *(Ages(folder=name, counts=tuple(table[name])) for name in sorted(table))] if table else []


# --------------------------------------------------------------------------------------------------- everything


@value
class FolderStatus:
    """How one folder stands. Times are seconds since the epoch; None where there is nothing to tell."""

    name: str
    configured: bool  # False: drops of it are left from a configuration that had it
    unmade: bool  # by the daemon's word: its segment is still to be created
    waiting: int  # drops that go on by themselves
    waiting_bytes: int
    oldest_at: float | None  # when the oldest of all that is open was taken over
    held: int  # drops that wait for a person
    failed: int  # drops that failed within a day
    next_at: float | None  # when the next of the waiting ones is due; infinite once a person must say so
    accepted: SegmentFacts | None  # what was accepted last
    pause: Pause | None  # by a person


@value
class AccountStatus:
    """How one account stands. `key_days` are left until its key ends, by the configuration; None where it is silent."""

    name: str
    facts: AccountFacts
    key_days: int | None


@value
class Overview:
    """Everything at a glance."""

    health: Health
    folders: tuple[FolderStatus, ...]
    accounts: tuple[AccountStatus, ...]

    @property
    def needs_somebody(self) -> bool:
        """Whether anything waits for a person: held drops, a key, the machine. What a person has paused does not."""
        paused = [each.facts.until for each in self.accounts if each.facts.condition is Condition.PAUSED]
        shut = bool(self.health.fault or self.health.away)
        return shut or any(folder.held for folder in self.folders) or any(map(math.isfinite, paused))


def overview(
    ledger: Reader, *, folders: Sequence[str], accounts: dict[str, int | None], health: Health, now: float
) -> Overview:
    """How the configured `folders` and `accounts` (name to days left of the key) stand, and others with open drops."""
    standings: dict[str, list[Standing]] = {}
    named = set(accounts)
    for standing in ledger.standings():
        standings.setdefault(standing.folder, []).append(standing)
        named.add(standing.account)
    facts = {name: ledger.account_facts(name) for name in named}
    accepted, pauses = ledger.accepted_last(), ledger.paused_folders()
    names = [*folders, *sorted(standings.keys() - set(folders))]
    failed = ledger.failed_since(now - _DAY_S, folders=names)
    return Overview(
        health=health,
        folders=tuple(
            FolderStatus(
                name=name,
                configured=name in folders,
                unmade=name in health.unmade,
                failed=failed.get(name, 0),
                accepted=accepted.get(name),
                pause=pauses.get(name),
                **_counted(standings.get(name, []), facts),
            )
            for name in names
        ),
        accounts=tuple(AccountStatus(name=name, facts=facts[name], key_days=days) for name, days in accounts.items()),
    )


class _Counts(TypedDict):
    waiting: int
    waiting_bytes: int
    oldest_at: float | None
    held: int
    next_at: float | None


def _counted(standings: Sequence[Standing], facts: Mapping[str, AccountFacts]) -> _Counts:
    held = [standing for standing in standings if standing.state in _FOR_A_PERSON]
    waiting = [standing for standing in standings if standing.state not in _FOR_A_PERSON]
    return {
        "waiting": sum(standing.count for standing in waiting),
        "waiting_bytes": sum(standing.size for standing in waiting),
        "oldest_at": min((standing.oldest_at for standing in standings), default=None),
        "held": sum(standing.count for standing in held),
        "next_at": min((_next_at(standing, facts[standing.account]) for standing in waiting), default=None),
    }


def _next_at(standing: Standing, account: AccountFacts) -> float:
    closed = standing.state is State.QUEUED and account.condition is not Condition.READY
    return max(standing.due_at, account.until) if closed else standing.due_at


# ------------------------------------------------------------------------------------------------------ one drop


@value
class Shown:
    """All that is known of one drop; `path` is where its file lies now, None when it is in none of its places."""

    drop: Drop
    history: Sequence[Entry]
    attempts: Sequence[Attempt]
    path: Path | None
    step: Step | None = None


def get_drop(ledger: Reader, id: str) -> Drop:
    """The one drop whose ID is, begins with or else ends in `id`, in either case. Raises OperatorError."""
    if not id.strip():  # a variable of a script that is empty
        raise OperatorError("an ID is missing", "'dropzone queue' lists what is there")
    wanted, like_one = id.upper(), id.isascii() and id.isalnum()
    found = ledger.find_drops(prefix=wanted, limit=6) if like_one else []
    if not found and like_one and len(id) >= 4:  # the last four are how people name a drop aloud
        found = ledger.find_drops(suffix=wanted, limit=6)
    if not found:
        raise OperatorError(f"there is no drop {printable(id)}", "'dropzone queue' lists what is there")
    if len(found) > 1:
        ids = ", ".join(drop.id for drop in found[:5])
        raise OperatorError(
            f"{printable(id)} means more than one drop: {ids}{' …' if len(found) > 5 else ''}", "Give more of its ID"
        )
    return found[0]


def show(ledger: Reader, id: str, *, health: Health | None = None) -> Shown:
    """All that is known of the drop that `id` means (see `get_drop`). Raises OperatorError."""
    drop = get_drop(ledger, id)
    return Shown(
        drop=drop,
        history=tuple(ledger.history(drop.id)),
        attempts=tuple(ledger.attempts(drop.id)),
        path=where_is(drop),
        step=health.steps.get(drop.id) if health else None,
    )


def check_folder(name: str, known: Sequence[str]) -> None:
    """Raise OperatorError, which lists what there is, where no folder is called `name`."""
    if name not in known:
        raise OperatorError(
            f"no folder is called {printable(name)}", f"The configuration has: {', '.join(map(printable, known))}"
        )
