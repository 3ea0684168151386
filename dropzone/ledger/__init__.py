"""What was promised to the server: the store of drops, their events and attempts, and facts of segments and accounts.

`Ledger` is what every store has to keep; `SQLiteLedger` keeps it on one host. One contract suite runs against each.
Knows nothing of files and nothing of HTTP. Its promise: `commit` either commits the event, the drop's new row and the
facts that follow from it together, durably, or changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dropzone.account import AccountFacts
from dropzone.drop import Drop, Entry, Event, State
from dropzone.values import value


@value
class Attempt:
    """One announced attempt and what came of it; `outcome` is empty while nobody knows."""

    n: int
    started_at: float
    digest: str
    size: int  # bytes of the prepared copy
    outcome: str = ""  # accepted | refused | deferred | lost
    status: int | None = None  # of the HTTP answer
    why: str = ""
    ended_at: float | None = None


@value
class SegmentFacts:
    """What a folder's segment last took: the drop, its rows, and when."""

    drop_id: str
    rows: int
    at: float


@value
class Pause:
    """A folder that a person has paused: who, why, and when."""

    by: str
    why: str
    at: float


@value
class Standing:
    """The unfinished drops of one folder and account in one state, together."""

    folder: str
    account: str
    state: State
    count: int
    size: int  # bytes of all of them
    oldest_at: float  # when the oldest was claimed
    due_at: float  # when the next one is due


@value
class SegmentNote:
    """A segment that somebody had created: `id` is None while nobody knows whether OptiPub did so."""

    by: str
    at: float
    id: int | None = None


class Reader(Protocol):
    """The questions. Never blocks the writer and never changes anything."""

    @property
    def id(self) -> str:
        """The ledger's own identity: a new one for each ledger that was ever made."""

    @property
    def written(self) -> int:
        """The number of the newest event, 0 where there is none; it only ever grows."""

    def find_drop(self, id: str) -> Drop | None:
        """The drop `id`, or None."""

    def find_drops(
        self,
        *,
        states: Iterable[State] | None = None,
        folder: str | None = None,
        prefix: str = "",
        suffix: str = "",
        limit: int = -1,
        newest: bool = False,
    ) -> list[Drop]:
        """Drops in the order of their claims: of these `states`, this `folder`, IDs beginning and ending so.

        Of more than `limit` the first ones, or with `newest` the last.
        """

    def failed_since(self, at: float, *, folders: Sequence[str]) -> dict[str, int]:
        """How many drops of each of these folders failed from `at` on; those that have none are left out."""

    def find_named(self, folder: str, name: bytes, *, limit: int) -> list[Drop]:
        """The drops that came as `name` into `folder`, the last ones first."""

    def open_lanes(self) -> list[tuple[str, str]]:
        """(lane, drop ID) of everything that is not finished and keeps its lane, in the order of the claims.

        A held drop keeps its lane only where it `blocks`.
        """

    def open_segments(self) -> list[tuple[str, int, str]]:
        """(account, segment, lane) of everything that is not finished, each once."""

    def open_bases(self) -> set[Path]:
        """The bases of all drops that are not finished: their files lie in work/ there."""

    def history(self, id: str) -> list[Entry]:
        """All that ever happened to the drop, oldest first."""

    def attempts(self, id: str) -> list[Attempt]:
        """The drop's attempts, oldest first."""

    def segment_facts(self, account: str, segment_id: int, folder: str) -> SegmentFacts | None:
        """What `folder` last got accepted for this segment, or None."""

    def accepted_last(self) -> dict[str, SegmentFacts]:
        """What each folder last got accepted, by its name, whatever the segment was."""

    def account_facts(self, account: str) -> AccountFacts:
        """What is known of the account."""

    def standings(self) -> list[Standing]:
        """All that is not finished, by folder and state; the cost is that of the open drops, not of the ledger."""

    def paused_folders(self) -> Mapping[str, Pause]:
        """The folders that a person has paused, by name."""

    def find_accepted(self, account: str, segment_id: int, digest: str) -> list[Drop]:
        """The drops that OptiPub took for this segment with a prepared copy of this digest, the latest first."""

    def last_accepted(self, account: str, segment_id: int) -> str | None:
        """The ID of the drop that OptiPub took last for this segment, from whichever folder; or None."""

    def taken_since(self, drop: Drop) -> list[Drop]:
        """Other drops of the account that OptiPub took, or may have, since it took this one, or may have.

        That is since the first such attempt began; where its history is gone, all that the ledger knows of.
        """

    def claimed_before(self, drop: Drop, *, since: float, limit: int) -> int:
        """How many drops of the same folder were claimed from `since` on and before this one; at most `limit`."""

    def segment_notes(self) -> dict[tuple[str, str], SegmentNote]:
        """The segments that were asked for, by account and name."""

    def latest_at(self) -> float | None:
        """When the newest event was committed, in seconds since the epoch; None where there is none."""

    def find_damage(self) -> str:
        """What is wrong with the store in itself, or an empty string; reads all of it."""

    def close(self) -> None:
        """Let go of the store."""


class Ledger(Reader, Protocol):
    """The questions and the one order. There is one of these per state folder, in the daemon."""

    def commit(self, id: str, event: Event, *, at: float) -> Drop:
        """Commit `event` for the drop `id` and return its new row. Durable on return.

        Raises IllegalEvent (nothing is changed) and LedgerError (nothing is changed).
        """

    def commit_all(self, events: Sequence[tuple[str, Event]], *, at: float) -> list[Drop]:
        """Commit several events at once, in this order; all of them or none. Durable on return.

        Returns the drop's row after each. Raises as `commit` does.
        """

    def change_lane(self, account: str, segment_id: int, lane: str) -> None:
        """Commit that all that is not finished for this segment is in `lane` from now on."""

    def note_segment(self, account: str, name: str, note: SegmentNote | None) -> None:
        """Commit what is known of a segment that is to be created; None forgets it. Durable on return."""

    def change_account(
        self, account: str, change: Callable[[AccountFacts], AccountFacts], *, order: str = "", by: str = "", at: float
    ) -> AccountFacts:
        """Commit what `change` makes of the account; an `order` of a person, `by` name, is written down as well."""

    def change_folder(self, folder: str, pause: Pause | None, *, by: str, at: float) -> None:
        """Commit that the folder is paused, or (None) that it no longer is; written down as an order."""
