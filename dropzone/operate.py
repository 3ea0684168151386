"""What an operator can ask and order, as functions that return frozen results. Words are the command line's.

Reads the ledger and files, never the network; imports neither httpx nor watchdog nor structlog, and the CSV engine and
the folders only where they are used (together a third of the start), so that an answer is there in a quarter of a
second. Works with or without a running daemon.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dropzone.account import AccountFacts, Condition, paused_by, resumed
from dropzone.config import Config, Folder
from dropzone.drop import (
    FINISHED,
    Accepted,
    Discarded,
    Drop,
    Entry,
    Event,
    Lost,
    Postponed,
    Released,
    Report,
    Resent,
    Retried,
    State,
)
from dropzone.errors import OperatorError, printable
from dropzone.ledger import Attempt, Ledger, Pause, Reader
from dropzone.policy import UNSURE, held, settings_of

OPEN_STATES = tuple(state for state in State if state not in FINISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """One line of the queue: the drop, and what its whole account waits for, if it does."""

    drop: Drop
    account: AccountFacts

    @property
    def due_at(self) -> float:
        """When it is looked at again, in seconds since the epoch."""
        return self.drop.due_at if self.account.condition is Condition.READY else self.account.until

    @property
    def reason(self) -> str:
        """Why it waits, as one sentence, or an empty string."""
        return self.drop.reason if self.account.condition is Condition.READY else self.account.why


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """All that is known of one drop; `path` is where its file lies now, None when it is in none of its places."""

    drop: Drop
    history: Sequence[Entry]
    attempts: Sequence[Attempt]
    path: Path | None


def queue(ledger: Reader, *, states: Sequence[State] = OPEN_STATES, folder: str | None = None) -> list[Queued]:
    """The drops in `states` (those that are not finished), oldest first."""
    drops = ledger.find_drops(states=states, folder=folder)
    facts = {account: ledger.account_facts(account) for account in {drop.account for drop in drops}}
    nothing = AccountFacts()
    return [Queued(drop=drop, account=facts[drop.account] if drop.state is State.QUEUED else nothing) for drop in drops]


def get_drop(ledger: Reader, id: str) -> Drop:
    """The one drop whose ID is or begins with `id`, in either case. Raises OperatorError."""
    found = ledger.find_drops(prefix=id.upper(), limit=6) if id else []
    if not found:
        raise OperatorError(f"there is no drop {printable(id)}", "'dropzone queue' lists what is there")
    if len(found) > 1:
        ids = ", ".join(drop.id for drop in found[:5])
        raise OperatorError(
            f"{printable(id)} begins more than one ID: {ids}{' …' if len(found) > 5 else ''}", "Give more"
        )
    return found[0]


def show(ledger: Reader, id: str) -> Shown:
    """All that is known of the drop whose ID is or begins with `id`. Raises OperatorError."""
    drop = get_drop(ledger, id)
    return Shown(
        drop=drop,
        history=tuple(ledger.history(drop.id)),
        attempts=tuple(ledger.attempts(drop.id)),
        path=_where_is(drop),
    )


def _where_is(drop: Drop) -> Path | None:
    from dropzone.folders import Folders

    return Folders().where_is(drop)


ORDERS = ("hold", "release", "retry", "accept", "discard")


def order(ledger: Ledger, what: str, drop: Drop, *, by: str, why: str, at: float) -> tuple[Drop, Event]:
    """Carry out one order on a drop that nobody works on; the drop's new row and the event that was committed.

    Raises OperatorError where the drop's state does not allow it, with what would be possible.
    """
    lost = any(isinstance(entry.event, Lost) for entry in ledger.history(drop.id))
    event = _event_for(what, drop, lost=lost, by=by, why=why, at=at)
    return ledger.commit(drop.id, event, at=at), event


def find_drops_for(ledger: Reader, what: str) -> list[Drop]:
    """All drops that `what` could be ordered for, oldest first: what ``ALL`` means."""
    states = {
        "hold": (State.QUEUED,),
        "release": (State.HELD,),
        "retry": (State.FAILED,),
        "accept": (State.UNKNOWN, State.HELD),
        "discard": (State.HELD,),
    }[what]
    drops = ledger.find_drops(states=states)
    return [drop for drop in drops if what != "accept" or drop.guard in UNSURE]


def _event_for(what: str, drop: Drop, *, lost: bool, by: str, why: str, at: float) -> Event:
    unsure = drop.guard in UNSURE
    match what, drop.state:
        case "hold", State.QUEUED:
            return held(settings_of(drop), "operator", why or f"held by {by}")
        case "release", State.HELD if unsure:
            hint = f"Look there; then 'dropzone accept {drop.id}', or 'dropzone retry {drop.id}' to send it again"
            raise OperatorError(f"{drop.id} may be in OptiPub already", hint)
        case (("release" | "retry"), State.HELD):
            return Released(by=by, why=why, again=unsure)
        case "retry", State.QUEUED:
            return Postponed(due_at=at, why=f"to be tried now, by {by}{': ' if why else ''}{why}")
        case "retry", State.UNKNOWN:
            return Resent(by=by, why=why or "ordered")
        case "retry", State.FAILED:
            if _where_is(drop) is None:
                raise OperatorError(f"the file of {drop.id} is gone from failed/", "Let the partner upload it again")
            return Retried(by=by, why=why)
        case "accept", (State.HELD | State.UNKNOWN) if lost or unsure:
            return Accepted(status=None, body=why, by=by)
        case "accept", (State.HELD | State.QUEUED):
            raise OperatorError(
                f"{drop.id} was never sent, so OptiPub cannot have it", "'dropzone release' lets it go on"
            )
        case "discard", (State.QUEUED | State.HELD | State.UNKNOWN):
            return Discarded(by=by, why=why or "ordered")
        case _:
            if drop.state is State.SENDING:
                raise OperatorError(f"{drop.id} is sending, or was when dropzone stopped", "Start dropzone, then look")
            hint = f"'dropzone show {drop.id}' tells its history"
            raise OperatorError(f"{drop.id} is {drop.state}: {what} is not for that", hint)


def kind_of(config: Config, name: str) -> str:
    """Whether `name` is an ``account`` or a ``folder``. Raises OperatorError where it is neither, or both."""
    kinds = [kind for kind, known in (("account", config.accounts), ("folder", config.folders)) if name in known]
    if len(kinds) == 1:
        return kinds[0]
    if kinds:
        raise OperatorError(f"{name} is an account and a folder", "Rename one of them in the configuration")
    known = ", ".join([*config.accounts, *config.folders])
    raise OperatorError(f"no account or folder is called {printable(name)}", f"The configuration has: {known}")


def switch(ledger: Ledger, what: str, kind: str, name: str, *, by: str, why: str, at: float) -> None:
    """Pause or resume (`what`) an account or a folder (`kind`), and write down who ordered it."""
    reason = f"paused by {by}{': ' if why else ''}{why}"
    match what, kind:
        case "pause", "folder":
            ledger.change_folder(name, Pause(by=by, why=reason, at=at), by=by, at=at)
        case "resume", "folder":
            ledger.change_folder(name, None, by=by, at=at)
        case "pause", "account":
            ledger.change_account(name, lambda facts: paused_by(facts, reason, at=at), order=what, by=by, at=at)
        case "resume", "account":
            ledger.change_account(name, lambda facts: resumed(facts, at=at), order=what, by=by, at=at)
        case _:
            raise OperatorError(f"{what} is no order for a {kind}", "There are pause and resume")


def get_folder(config: Config, name: str) -> Folder:
    """The folder called `name`. Raises OperatorError that lists what there is."""
    folder = config.folders.get(name)
    if folder is None:
        known = ", ".join(config.folders)
        raise OperatorError(f"no folder is called {printable(name)}", f"The configuration has: {known}")
    return folder


def check(
    file: Path, folder: Folder, *, out: Path | None = None, progress: Callable[[int], None] | None = None
) -> Report:
    """Read `file` as `folder` would, sending nothing; `out` gets the prepared copy. Raises OperatorError."""
    from dropzone import sheet

    try:
        with file.open("rb") as source, _sink(out) as prepared, _sink(None) as rejects:
            compressed = os.fsencode(file.name).lower().endswith(b".gz")
            return sheet.check(source, prepared, rejects, folder, compressed=compressed, progress=progress)
    except OSError as error:
        where = error.filename or file
        raise OperatorError(f"cannot use {printable(str(where))}: {error.strerror}", "Is the path right?") from error


def _sink(out: Path | None) -> BinaryIO:
    return out.open("wb") if out else open(os.devnull, "wb")
