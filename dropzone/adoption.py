"""What lies in work/ without a row, and whether the ledger is the one that knew what lies there.

A claim is the one step where the disk comes first: the file is renamed into work/, then it gets its row. So what has
none is adopted. Whether that may be sent is told by the mark in work/, which names a ledger and how far it was: where
it is another one, or ours is an older copy of it, nobody can say what was sent meanwhile, and it is held.

Knows one base at a time; which there are, and which are away just now, is known by `bases`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dropzone import policy
from dropzone.config import Config
from dropzone.drop import FORGOTTEN, Drop, Event, Lost, State
from dropzone.folders import Folders, Mark
from dropzone.ledger import Ledger

_GONE = "the ledger that knew this file is gone, so nobody can say whether it was sent"
_OLDER = "an older copy of the ledger was put in its place, so nobody can say whether this file was sent since"
_NEVER = 1 << 62  # more events than any ledger will have


class Adoption:
    """Gives rows to what lies in work/ without. All may raise FolderError and LedgerError.

    `now` is the wall clock. `left_alone` hears of what cannot be adopted and why, `announce` of every committed event.
    """

    def __init__(
        self,
        *,
        folders: Folders,
        ledger: Ledger,
        now: Callable[[], float],
        left_alone: Callable[[str, bytes, str], None] = lambda folder, name, why: None,
        announce: Callable[[Drop, Event], None] = lambda drop, event: None,
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._now = now
        self._left_alone = left_alone
        self._announce = announce

    def take_up(self, base: Path, config: Config) -> tuple[list[Drop], str]:
        """Adopt what lies in work/ without a row, and mark work/ as this ledger's; the adopted drops.

        Also why the ledger is not to be believed on what lies there, or an empty string. An older copy of the ledger
        does not know what was sent since it was made: then all that it has as unfinished is held as well.
        """
        mark, ledger = self._folders.read_mark(base), self._ledger
        another, older = mark.is_of_another(ledger.id), mark.is_ahead_of(ledger.id, ledger.written)
        if older:
            # What is written down now must not let the next start take it for the right one, should we die before
            # the last of them is held.
            self._folders.write_mark(base, Mark(ledger=mark.ledger, written=_NEVER))
        drops = self.adopt(base, config, trusted=mark.ledger == ledger.id and not older)
        if older:
            self._hold_unfinished(base)
        # Only now: if we died before, the next start must still see that the ledger is another one.
        self.mark(base)
        if another:
            return drops, "the ledger is not the one that knew this work folder"
        return drops, "the ledger is an older copy of the one that knew this work folder" if older else ""

    def mark(self, base: Path) -> None:
        """Write down in work/ how far the ledger is, where that is not written there already."""
        wanted = Mark(ledger=self._ledger.id, written=self._ledger.written)
        if self._folders.read_mark(base) != wanted:
            self._folders.write_mark(base, wanted)

    def adopt(self, base: Path, config: Config, *, trusted: bool) -> list[Drop]:
        """Give rows to files in work/ that have none: we died between the rename and the row.

        Where the ledger is not the one that knew this work/ (`trusted` is False: lost, or restored from elsewhere),
        what was promised about them is not known either: they are held. So is a file that was checked already: its row
        came before that, so it was lost, as by an older copy of the ledger put in its place.
        """
        rows: list[tuple[str, Event]] = []
        known = lambda id: self._ledger.find_drop(id) is not None  # noqa: E731
        for claim in self._folders.orphans(base, known, config.folders.get):
            folder = config.folders.get(claim.folder)
            if folder is None:
                why = f"it lies in {base / 'work' / claim.id}, but no folder {claim.folder!r} is configured any more"
                self._left_alone(claim.folder, claim.name, why)
                continue
            rows.append((claim.id, policy.claimed(folder, claim.name, claim.size, base=claim.base, adopted=True)))
            if not trusted or claim.touched:
                rows.append((claim.id, policy.held(folder, FORGOTTEN, _GONE)))
        # All in one commit: had we died between the two, the next start would take the file for one that is new.
        return list({drop.id: drop for drop in self._commit(rows)}.values()) if rows else []

    def _hold_unfinished(self, base: Path) -> None:
        for drop in self._ledger.find_drops(states=[State.QUEUED, State.SENDING, State.UNKNOWN, State.HELD]):
            # What a guard holds may have been released since; what it holds as unsure says so already.
            if Path(drop.base) == base and not (drop.state is State.HELD and drop.guard in policy.UNSURE):
                if drop.state is State.SENDING:
                    self._commit([(drop.id, Lost(cause=_OLDER, sent=None))])
                self._commit([(drop.id, policy.held(policy.settings_of(drop), FORGOTTEN, _OLDER))])

    def _commit(self, events: Sequence[tuple[str, Event]]) -> list[Drop]:
        drops = self._ledger.commit_all(events, at=self._now())
        for drop, (_, event) in zip(drops, events, strict=True):
            self._announce(drop, event)
        return drops
