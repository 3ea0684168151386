"""What a drop is: one file that we took over, its eight states, its events, and the one table that joins them.

A state exists only because a restart must act differently for it. The life of a drop is the literal table
`TRANSITIONS`; `apply()` is the only code that changes a state, and an event that the table lacks raises
`IllegalEvent` and changes nothing. README's diagram is drawn from this table.

    state      durably true                                      the bytes are in    after a restart
    queued     ours; nothing under way; due at `due_at`          work/               checked, prepared, sent when due
    sending    attempt n was announced; it may have gone out     work/               becomes unknown
    held       a person must look before it goes on              work/               nothing, reported
    unknown    sent, and nobody can say whether it was taken     work/               the policy for unknown outcomes
    accepted   the server took it, or need not; not filed yet    work/ or done/      filed in done/
    refused    a final no, with its reason; not filed yet        work/ or failed/    filed in failed/
    done       finished                                          done/ + log         nothing
    failed     finished                                          failed/ + log       nothing

The folders alone say where the bytes are; the ledger alone says what was promised to the server. This module
knows neither: it has no clock, no disk and no network.
"""

from __future__ import annotations

import os
from dataclasses import replace
from enum import StrEnum
from typing import Literal, assert_never

from dropzone.errors import IllegalEvent, Problem
from dropzone.values import value

# ---------------------------------------------------------------------------------------------------- identity

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_EPOCH = 1_704_067_200  # 2024-01-01; 40 bits of milliseconds reach to 2058
ID_LENGTH = 12


def make_id(at: float) -> str:
    """A new drop ID: 8 characters of time (milliseconds), then 4 of chance, in Crockford's base 32.

    Short enough to read out on the telephone, sortable by time, safe in every file name. Never a counter:
    after a lost ledger a counter starts again and collides with the files already in done/.
    """
    number = (round((at - _ID_EPOCH) * 1000) & (1 << 40) - 1) << 20 | int.from_bytes(os.urandom(3)) >> 4
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(5 * (ID_LENGTH - 1), -1, -5))


def time_of(id: str) -> float:
    """When a drop ID was made, in seconds since the epoch, by the clock of then."""
    number = 0
    for char in id:
        number = number << 5 | _CROCKFORD.index(char)
    return _ID_EPOCH + (number >> 20) / 1000


def is_id(text: str) -> bool:
    """Whether `text` has the form of a drop ID."""
    return len(text) == ID_LENGTH and all(char in _CROCKFORD for char in text)


# ------------------------------------------------------------------------------------------------------ values


class State(StrEnum):
    """Where a drop stands, durably. The module's head says what each means and what a restart does."""

    QUEUED = "queued"
    SENDING = "sending"
    HELD = "held"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    DONE = "done"
    FAILED = "failed"


FINISHED = frozenset({State.DONE, State.FAILED})
DECIDED = frozenset({State.ACCEPTED, State.REFUSED})  # nothing is left but to file it


@value
class Report:
    """What checking a CSV found.

    Rows are data rows, without the header and blank lines. `problems` holds the first ones (at most
    `MAX_PROBLEMS`), `problem_count` all of them; `refused` says why the file cannot be sent, empty when it can.
    `repairs` counts each kind of repair by its sentence, in the order of `sheet`'s table.
    """

    columns: tuple[str, ...] = ()
    rows: int = 0
    good_rows: int = 0
    bad_rows: int = 0
    repeated_rows: int = 0  # rows whose address stood in an earlier row already
    repeats: tuple[Problem, ...] = ()  # the first of these, addresses masked
    repairs: tuple[tuple[str, int], ...] = ()
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0
    bytes_read: int = 0
    refused: str = ""
    cut_off: int = 0  # the line of a last row that is bad and has no line end, as a broken upload leaves it; 0: none
    guard: str = ""  # the guard of the folder that ended the reading, where one did: then it is held, not refused


MAX_PROBLEMS = 100


@value
class Drop:
    """One file that we took over, as the ledger's row has it. Times are seconds since the epoch, UTC."""

    id: str
    folder: str
    name: bytes  # as the partner called it; hostile until printed through `printable`
    account: str
    segment_id: int
    lane: str  # drops of one lane go out one after the other, oldest first
    base: str  # the directory that holds this drop's work/, done/ and failed/
    settings: str  # the folder's settings at the claim, as JSON: a reload changes nothing for this drop
    size: int  # bytes, at the claim
    claimed_at: float
    state: State
    due_at: float
    changed_at: float
    tries: int = 0  # attempts announced; the number of the last one
    attempts: int = 0  # attempts that count: those with an outcome on the server's side
    deferrals: int = 0  # in a row; they make the next delay longer
    faults: int = 0  # unexpected errors in a row
    rows: int | None = None  # good rows of the prepared copy
    digest: str | None = None  # SHA-256 of the prepared copy, hexadecimal
    reason: str = ""  # why it stands where it stands
    guard: str = ""  # which guard holds it, or why it went to done/ unsent: `spared`
    cleared: bool = False  # a person released it: guards do not hold it again
    blocks: bool = False  # held, and its lane waits for it
    repeats: int = 0  # attempts announced although an earlier one may have been taken
    verdict_at: float | None = None  # when it was accepted or refused: names its date folder
    path: str | None = None  # where it was filed, relative to `base`

    @property
    def spared(self) -> str:
        """Why it was accepted without being sent (``duplicate``, ``superseded``), or an empty string."""
        return self.guard if self.state in (State.ACCEPTED, State.DONE) else ""

    def wait_s(self, now: float) -> float:
        """Seconds until a queued drop is due, at the wall clock's `now`.

        Never longer than was meant when `due_at` was set, which every event that sets it does together with
        `changed_at`: a clock that was put back by a year would make a delay of seconds a year long.
        """
        return max(0.0, min(self.due_at - now, self.due_at - self.changed_at))


# ------------------------------------------------------------------------------------------------------ events

# What an attempt says of the whole account, beyond its drop (see `account`): nothing; that the server may be down or
# out of reach; that all of it is to wait until `due_at`; that no drop fares better until somebody has mended something.
Effect = Literal["none", "breaker", "wait", "pause"]
FORGOTTEN = "no record"  # the guard of what a ledger that is gone, or a newer one, knew
POLICY = "policy"  # who sends again what nobody ordered


@value
class Claimed:
    """The file was renamed into work/ID; from here on it is ours."""

    folder: str
    name: bytes
    account: str
    segment_id: int
    lane: str
    base: str
    settings: str
    size: int
    adopted: bool = False  # found in work/ without a row: we died between the rename and the row


@value
class Postponed:
    """Put off without an attempt: an unexpected error, a disk that is full, a file that still changes."""

    due_at: float
    why: str
    fault: bool = False  # an unexpected error of ours: five in a row and the drop is held


@value
class CheckFailed:
    """The CSV breaks rules that cannot be repaired; nothing was sent."""

    report: Report


@value
class Withheld:
    """A guard, a policy or a person keeps it back until somebody has looked. `guard` names which.

    `blocks`: the later files of its lane wait with it, because their order matters.
    """

    guard: str
    why: str
    report: Report | None = None
    blocks: bool = False


@value
class Released:
    """Somebody looked at a held drop and lets it go on. `again`: OptiPub may have it already."""

    by: str
    why: str = ""
    again: bool = False


@value
class Attempted:
    """Attempt `n` is about to start: committed before its first byte leaves."""

    n: int
    digest: str  # SHA-256 of the prepared copy
    size: int  # bytes of the prepared copy
    report: Report
    repeats: int = 0  # the latest attempt that may have been taken already; 0: there is none
    mtime_ns: int = 0  # of the original when it was read, to tell whether somebody wrote to it since; 0: not known


@value
class Accepted:
    """OptiPub answered "Import created", or an operator (`by`) looked there and says that it has it."""

    status: int | None
    body: str
    by: str = ""


@value
class Refused:
    """OptiPub's final no. `blame` says in words what it refused, `evidence` is what it said."""

    status: int
    blame: str
    evidence: str


@value
class Deferred:
    """Surely not taken; to be tried again at `due_at`."""

    due_at: float
    cause: str
    status: int | None = None
    effect: Effect = "none"


@value
class Lost:
    """The outcome is unknown: the request may have been taken. `sent` is the bytes that left, None if nobody knows."""

    cause: str
    sent: int | None
    status: int | None = None
    effect: Effect = "none"


@value
class Resent:
    """An unknown outcome is to be offered again, from `due_at` on; the server may see the same file twice."""

    by: str  # `POLICY`, or who ordered it
    why: str
    due_at: float = 0.0  # 0: at once


@value
class Superseded:
    """A newer full load of the folder makes this one needless; it goes to done/ unsent."""

    newer: str  # the ID of that drop


@value
class Skipped:
    """The same content was accepted for the same segment, with the same parameters; it goes to done/ unsent."""

    first: str  # the ID of the drop that was accepted
    first_at: float  # when

    @property
    def why(self) -> str:
        """Why it need not be sent, as a phrase."""
        return f"the same content was accepted for this segment as {self.first}"


@value
class Discarded:
    """A person gave the drop up; it goes to failed/ unsent."""

    by: str
    why: str


@value
class Filed:
    """The log and the file lie in done/ or failed/, at `path` relative to the drop's base.

    `changed` says that the file is not what was sent any more, because a client wrote to it after it was read.
    """

    path: str
    changed: str = ""


@value
class Retried:
    """A person wants a failed drop tried again; the next step brings the file back.

    Where `settings` is not empty it is tried with these, which say where it goes, instead of those of its claim.
    """

    by: str
    why: str = ""
    settings: str = ""
    account: str = ""
    segment_id: int = 0
    lane: str = ""


@value
class Expired:
    """The files of a finished drop are kept no longer; they are deleted, and all of its history but this and outcomes.

    That OptiPub took it or may have, and after which others, is asked for longer when those are judged.
    """

    days: int  # how long they were kept


Event = (
    Claimed
    | Postponed
    | CheckFailed
    | Withheld
    | Released
    | Attempted
    | Accepted
    | Refused
    | Deferred
    | Lost
    | Resent
    | Superseded
    | Skipped
    | Discarded
    | Filed
    | Retried
    | Expired
)


@value
class Entry:
    """One line of a drop's history: what happened, and when (seconds since the epoch, UTC)."""

    at: float
    event: Event


# --------------------------------------------------------------------------------------------------- the table

TRANSITIONS: dict[tuple[State | None, type[Event]], State] = {
    (None, Claimed): State.QUEUED,
    (State.QUEUED, Postponed): State.QUEUED,
    (State.QUEUED, CheckFailed): State.REFUSED,
    (State.QUEUED, Withheld): State.HELD,
    (State.QUEUED, Attempted): State.SENDING,
    (State.QUEUED, Superseded): State.ACCEPTED,
    (State.QUEUED, Skipped): State.ACCEPTED,
    (State.QUEUED, Discarded): State.REFUSED,
    (State.SENDING, Accepted): State.ACCEPTED,
    (State.SENDING, Refused): State.REFUSED,
    (State.SENDING, Deferred): State.QUEUED,
    (State.SENDING, Lost): State.UNKNOWN,
    (State.UNKNOWN, Accepted): State.ACCEPTED,
    (State.UNKNOWN, Resent): State.QUEUED,
    (State.UNKNOWN, Withheld): State.HELD,
    (State.UNKNOWN, Discarded): State.REFUSED,
    (State.HELD, Released): State.QUEUED,
    # A drop may be held *because* its outcome is unknown; whoever then finds it in OptiPub must be able to say so.
    (State.HELD, Accepted): State.ACCEPTED,
    # Released later, an old full load would replace the newer one. Never one that OptiPub may have: see `policy`.
    (State.HELD, Superseded): State.ACCEPTED,
    (State.HELD, Discarded): State.REFUSED,
    # The ledger turns out to be an older copy: what a guard held may have been released and sent since.
    (State.HELD, Withheld): State.HELD,
    (State.ACCEPTED, Filed): State.DONE,
    (State.REFUSED, Filed): State.FAILED,
    (State.FAILED, Retried): State.QUEUED,
    (State.DONE, Expired): State.DONE,
    (State.FAILED, Expired): State.FAILED,
}


def apply(drop: Drop | None, event: Event, *, id: str, at: float) -> Drop:
    """The drop after `event`. Pure; raises `IllegalEvent` where the table has no such transition."""
    state = TRANSITIONS.get((drop.state if drop else None, type(event)))
    if state is None:
        here = f"{drop.state} drop {drop.id}" if drop else f"drop {id}, which does not exist"
        raise IllegalEvent(f"{type(event).__name__} for a {here}")
    if isinstance(event, Claimed):
        return Drop(
            id=id,
            folder=event.folder,
            name=event.name,
            account=event.account,
            segment_id=event.segment_id,
            lane=event.lane,
            base=event.base,
            settings=event.settings,
            size=event.size,
            claimed_at=at,
            state=state,
            due_at=at,
            changed_at=at,
        )
    assert drop is not None  # the table has (None, …) for Claimed only
    drop = replace(drop, state=state, changed_at=at, blocks=False)
    match event:
        case Postponed(due_at=due_at, why=why, fault=fault):
            return replace(drop, due_at=due_at, reason=why, faults=drop.faults + 1 if fault else drop.faults)
        case CheckFailed(report=report):
            return replace(drop, reason=report.refused, verdict_at=at)
        case Withheld(guard=guard, why=why, blocks=blocks):
            return replace(drop, guard=guard, reason=why, blocks=blocks)
        case Resent(by=by, why=why, due_at=due_at) if by == POLICY:
            return replace(drop, due_at=max(at, due_at), reason=why)
        case Released() | Resent() | Retried():
            # Who sends one again of which there was no record has looked for it over there, not at its figures: the
            # guards were never asked, or by a ledger that is gone.
            unguarded = isinstance(event, Resent) or drop.guard == FORGOTTEN
            if isinstance(event, Retried) and event.settings:
                drop = replace(
                    drop,
                    settings=event.settings,
                    account=event.account,
                    segment_id=event.segment_id,
                    lane=event.lane,
                )
            return replace(
                drop,
                due_at=at,
                reason="",
                guard="",
                deferrals=0,
                faults=0,
                cleared=drop.cleared or not unguarded,
                verdict_at=None,
            )
        case Attempted(n=n, digest=digest, report=report):
            repeats = drop.repeats + (event.repeats > 0)
            return replace(drop, tries=n, digest=digest, rows=report.good_rows, reason="", faults=0, repeats=repeats)
        case Accepted(by=by):
            counted = drop.attempts if by else drop.attempts + 1
            return replace(drop, attempts=counted, deferrals=0, guard="", reason="", verdict_at=at)
        case Refused(blame=blame):
            return replace(drop, attempts=drop.attempts + 1, deferrals=0, reason=blame, verdict_at=at)
        case Deferred(cause=cause, effect="wait" | "pause"):  # the account waits, and may be open again sooner
            return replace(drop, due_at=at, deferrals=drop.deferrals + 1, reason=cause)
        case Deferred(due_at=due_at, cause=cause):
            return replace(drop, due_at=due_at, deferrals=drop.deferrals + 1, reason=cause)
        case Lost(cause=cause):
            return replace(drop, attempts=drop.attempts + 1, deferrals=0, reason=cause)
        case Superseded(newer=newer):
            return replace(drop, guard="superseded", reason=f"the newer file {newer} takes its place", verdict_at=at)
        case Skipped():
            return replace(drop, guard="duplicate", reason=event.why, verdict_at=at)
        case Discarded(by=by, why=why):
            return replace(drop, guard="", reason=f"discarded by {by}: {why}", verdict_at=at)
        case Filed(path=path):
            return replace(drop, path=path)
        case Expired():
            return replace(drop, path="")
        case _:
            assert_never(event)


def diagram() -> str:
    """The table as a Mermaid state diagram, for README; a test compares the two."""
    lines = ["stateDiagram-v2"]
    for (state, event), target in TRANSITIONS.items():
        lines.append(f"    {state.value if state else '[*]'} --> {target.value}: {event.__name__}")
    lines += [f"    {state.value} --> [*]" for state in State if state in FINISHED]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------ delays


def delay(n: int, *, initial_s: float, max_s: float) -> float:
    """Seconds until the try after the `n`-th failed one: random, in a window that doubles up to `max_s`.

    Random over the whole window, so that a hundred drops that failed together do not come back together;
    never below half of `initial_s`, so that none comes back at once.
    """
    import tenacity  # here, because a command that only reads waits for no delay

    state = tenacity.RetryCallState(retry_object=tenacity.Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = max(1, n)
    wait = tenacity.wait_random_exponential(multiplier=initial_s, max=max_s, min=min(initial_s, max_s) / 2)
    return wait(state)
