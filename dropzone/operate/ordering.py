"""What an operator can order on drops, and which orders a drop's state allows. Words are the command line's.

An order is one event on the ledger; what follows from it the pipeline does, whenever it comes to the drop again.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from dropzone.account import paused_by, resumed
from dropzone.drop import (
    Accepted,
    Discarded,
    Drop,
    Event,
    Postponed,
    Released,
    Resent,
    Retried,
    State,
)
from dropzone.errors import OperatorError, printable
from dropzone.ledger import Ledger, Pause, Reader
from dropzone.places import where_is
from dropzone.policy import UNSURE, held, may_be_taken, settings_of

if TYPE_CHECKING:  # the models are slow to load, and most orders need none
    from dropzone.config import Folder

ORDERS = ("hold", "release", "retry", "accept", "discard")


def order(
    ledger: Ledger,
    what: str,
    drop: Drop,
    *,
    by: str,
    why: str,
    at: float,
    folders: Mapping[str, Folder] | None = None,
) -> tuple[Drop, Event]:
    """Carry out one order on a drop that nobody works on; the drop's new row and the event that was committed.

    With `folders` a failed drop is tried with the settings that its folder has there, not with those of its claim.
    Raises OperatorError where the drop's state does not allow it, with what would be possible.
    """
    event = _event_for(what, drop, unsure=may_be_taken(ledger.history(drop.id)), by=by, why=why, at=at)
    if folders is not None:
        event = _anew(event, drop, folders)
    return ledger.commit(drop.id, event, at=at), event


def _anew(event: Event, drop: Drop, folders: Mapping[str, Folder]) -> Event:
    if not isinstance(event, Retried):
        hint = f"First 'dropzone discard {drop.id}', which sends nothing; then it can be tried with them"
        raise OperatorError(f"{drop.id} is {drop.state}: only a failed drop can have other settings", hint)
    folder = folders.get(drop.folder)
    if folder is None:
        raise OperatorError(
            f"no folder is called {drop.folder} any more", "Without --anew it keeps the settings it had"
        )
    return replace(
        event,
        settings=folder.settings_json(),
        account=folder.account,
        segment_id=folder.segment_id,
        lane=folder.lane,
    )


class Places(Protocol):
    """The names of accounts and folders, as a configuration or a glance at it has them."""

    @property
    def accounts(self) -> Container[str]: ...
    @property
    def folders(self) -> Container[str]: ...


def find_place(places: Places, text: str) -> tuple[str, str]:
    """``account`` or ``folder``, and the name that `text` means. Raises OperatorError where it is none, or two.

    A name that both have is written as ``account:NAME`` or ``folder:NAME``.
    """
    kind, colon, name = text.rpartition(":")
    known = {"account": places.accounts, "folder": places.folders}
    fits = [each for each, names in known.items() if name in names and (not colon or each == kind)]
    if len(fits) == 1:
        return fits[0], name
    shown = printable(text)
    if fits:
        raise OperatorError(f"{shown} is an account and a folder", f"Write account:{shown} or folder:{shown}")
    raise OperatorError(f"no account or folder is called {shown}", "'dropzone status' lists what there is")


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


def _event_for(what: str, drop: Drop, *, unsure: bool, by: str, why: str, at: float) -> Event:
    match what, drop.state:
        case "hold", State.QUEUED:
            return held(settings_of(drop), "unknown" if unsure else "operator", why or f"held by {by}")
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
            if where_is(drop) is None:
                raise OperatorError(f"the file of {drop.id} is gone from failed/", "Let the partner upload it again")
            return Retried(by=by, why=why)
        case "accept", (State.HELD | State.UNKNOWN) if unsure:
            return Accepted(status=None, body=why, by=by)
        case "accept", State.QUEUED if unsure:
            hint = f"First 'dropzone hold {drop.id}', then it can be accepted"
            raise OperatorError(f"{drop.id} is about to be offered again", hint)
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
