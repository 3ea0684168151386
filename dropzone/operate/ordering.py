"""What an operator can order on drops, and which orders a drop's state allows. Words are the command line's.

An order is one event on the ledger; what follows from it the pipeline does, whenever it comes to the drop again.
"""

from __future__ import annotations

from dropzone.account import paused_by, resumed
from dropzone.drop import (
    Accepted,
    Discarded,
    Drop,
    Event,
    Lost,
    Postponed,
    Released,
    Resent,
    Retried,
    State,
)
from dropzone.errors import OperatorError
from dropzone.ledger import Ledger, Pause, Reader
from dropzone.operate.asking import where_is
from dropzone.policy import UNSURE, held, settings_of

ORDERS = ("hold", "release", "retry", "accept", "discard")


def order(ledger: Ledger, what: str, drop: Drop, *, by: str, why: str, at: float) -> tuple[Drop, Event]:
    """Carry out one order on a drop that nobody works on; the drop's new row and the event that was committed.

    Raises OperatorError where the drop's state does not allow it, with what would be possible.
    """
    lost = any(isinstance(entry.event, Lost) for entry in ledger.history(drop.id))
    event = _event_for(what, drop, lost=lost, by=by, why=why, at=at)
    return ledger.commit(drop.id, event, at=at), event


def pause(ledger: Ledger, kind: str, name: str, *, by: str, why: str, at: float) -> None:
    """Offer nothing more of an account (or, with `kind` ``folder``, of a folder) until a person resumes it."""
    why = f"paused by {by}{': ' if why else ''}{why}"
    if kind == "folder":
        ledger.change_folder(name, Pause(by=by, why=why, at=at), by=by, at=at)
    else:
        ledger.change_account(name, lambda facts: paused_by(facts, why, at=at), order="pause", by=by, at=at)


def resume(ledger: Ledger, kind: str, name: str, *, by: str, at: float) -> None:
    """Go on with an account or a folder, whatever it waited for."""
    if kind == "folder":
        ledger.change_folder(name, None, by=by, at=at)
    else:
        ledger.change_account(name, lambda facts: resumed(facts, at=at), order="resume", by=by, at=at)


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
            if where_is(drop) is None:
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
