"""Having a segment created, once: what was asked for is written down before it is asked, like an attempt of a drop.

Whoever finds a note without an id knows that OptiPub may have the segment already, and says so instead of asking again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from dropzone.config import Account, Unmade
from dropzone.errors import LaterError, OperatorError, printable
from dropzone.ledger import SegmentNote
from dropzone.optipub.segments import Created, NotCreated, Unclear, Wanted, create_segment
from dropzone.receipt import stamp


def wanted_for(unmade: Unmade) -> Wanted:
    """The segment that a folder's ``create:`` asks for."""
    create, folder = unmade.create, unmade.draft
    assert create.publication_id is not None  # the configuration's own rule
    return Wanted(
        name=unmade.segment_name,
        publication_id=create.publication_id,
        description=create.description,
        suppression=folder.hash if folder.mode == "suppress" else None,
        auto_responder_id=create.auto_responder_id,
        redirect_url=create.redirect_url or "",
    )


def create(
    account: Account,
    wanted: Wanted,
    *,
    known: SegmentNote | None,
    note: Callable[[SegmentNote | None], None],
    by: str,
    now: float,
) -> int:
    """Ask OptiPub for the segment `wanted`; its id. `known` is what was noted of it before, `note` writes it down.

    Raises OperatorError where it was asked for before, where it was refused, and where nobody can tell; LaterError
    where the same may work later; DropzoneError where nothing could be asked at all.
    """
    wanted.check()
    if known is not None:
        raise _asked_before(wanted, known)
    account.api_key.read()  # what can fail without a request fails before anything is noted
    note(SegmentNote(by=by, at=now))
    # If we die from here on, the note says that it was asked for, and nobody asks again without looking.
    outcome = create_segment(account, wanted, now=now)
    match outcome:
        case Created(id=id):
            note(SegmentNote(by=by, at=now, id=id))
            return id
        case NotCreated(why=why, hint=hint, later=later):
            note(None)
            kind = LaterError if later else OperatorError
            raise kind(f"the segment {printable(wanted.name)!r} was not created: {why}", hint)
        case Unclear(why=why):
            what = f"nobody can tell whether the segment {printable(wanted.name)!r} was created: {why}"
            raise OperatorError(what, _LOOK)
        case _:
            assert_never(outcome)


_LOOK = "It is there: write its id as segment_id into the configuration. It is not: the same command with --again"


def _asked_before(wanted: Wanted, known: SegmentNote) -> OperatorError:
    name, when = printable(wanted.name), f"on {stamp(known.at)} by {known.by}"
    if known.id is None:
        return OperatorError(f"the segment {name!r} was asked for {when}, and the answer is not known", _LOOK)
    return OperatorError(
        f"the segment {name!r} was created {when}: it is {known.id}", "Another one of the same name: --again"
    )
