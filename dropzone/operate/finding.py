"""Why a path was or was not taken over, and what lies in the inboxes: looks, and touches nothing.

The rules are `readiness`'s own, asked with a fresh look. What the daemon remembers of a file is how long it has been
quiet; here that is told from the time at which the kernel last changed the file (its ctime, which no client can set).
That would be no ground for taking a file, because a clock may be set; to explain one it is.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path

from dropzone.config import Config, Folder
from dropzone.drop import Drop, is_id
from dropzone.errors import FolderError, printable
from dropzone.folders import Folders
from dropzone.ledger import Reader
from dropzone.operate.asking import Finding, Inbox, StandsAs
from dropzone.places import VERDICTS, id_in
from dropzone.readiness import Candidate, Look, Ready, Unfit, Unread, Verdict, Waiting, why_ignored


class Looker:
    """Looks into inboxes. `ledger` is None where there is none yet; `now` is the time, in seconds since the epoch.

    `thorough` reads a file to its end where only that tells whether it is complete.
    """

    def __init__(self, ledger: Reader | None, *, now: float, thorough: bool = True) -> None:
        self._ledger = ledger
        self._now = now
        self._thorough = thorough
        self._folders = Folders()

    def look(self, folder: Folder, name: bytes) -> Finding:
        """What stands about `name` in the inbox of `folder`."""
        path = folder.path / os.fsdecode(name)
        try:
            look = self._folders.look(folder, name)
        except FolderError as fault:
            return Finding(path=path, folder=folder.name, standing="unfit", what=fault.message, change=fault.hint)
        if look is None:
            return self._left(folder, name, path)
        if ignored := why_ignored(os.fsdecode(name), folder):
            change = "rename it (clients do that at the end), or see `include:` and `ignore:` of the folder"
            return Finding(
                path=path,
                folder=folder.name,
                standing="ignored",
                what=ignored,
                change=change,
                since=look.ctime_ns / 1e9,
                size=look.size,
            )
        return self._judged(folder, name, path, look)

    def count(self, folder: Folder) -> int:
        """How many names are in the inbox of `folder`; none where nobody can look."""
        try:
            return len(self._folders.names(folder))
        except FolderError:
            return 0

    def look_through(self, folder: Folder) -> Inbox:
        """What stands about everything in the inbox of `folder`, by name."""
        from dropzone.optipub.form import fields_of

        found: list[Finding] = []
        fault = mend = ""
        try:
            found = [self.look(folder, name) for name in sorted(self._folders.names(folder))]
        except FolderError as error:
            fault, mend = error.message, error.hint
        return Inbox(
            folder=folder.name,
            mode=folder.mode,
            segment_id=folder.segment_id,
            account=folder.account,
            fields=tuple(fields_of(folder)),
            settings=folder.settings_json(),
            findings=tuple(found),
            fault=fault,
            mend=mend,
        )

    def _judged(self, folder: Folder, name: bytes, path: Path, look: Look) -> Finding:
        changed_at = look.ctime_ns / 1e9
        quiet_since = min(changed_at, self._now)
        candidate = Candidate.found(quiet_since)
        candidate.hear(quiet_since)
        try:
            with self._folders.inbox(folder) as inbox:
                verdict = inbox.verdict(name, candidate, now=self._now, thorough=self._thorough)
            if verdict is None:
                return self._left(folder, name, path)
            if isinstance(verdict, Ready) and (fault := self._folders.find_fault(folder)):
                raise fault
        except FolderError as fault:
            verdict = Unfit(self._now, str(fault.message))
            change = fault.hint
        else:
            change = _change(verdict, folder)
        standing: StandsAs
        until: float | None = None
        match verdict:
            case Waiting():
                standing, what, until = "waiting", verdict.why, verdict.until
            case Unfit():
                standing, what = "unfit", verdict.why
            case Unread():
                standing, what = "waiting", "it has to be read to its end first"
            case Ready():
                standing, what = "ready", "it is complete, and taken at the next look"
        return Finding(
            path=path,
            folder=folder.name,
            standing=standing,
            what=what,
            change=change,
            since=changed_at,
            until=until,
            size=look.size,
            unread=isinstance(verdict, Unread),
        )

    def _left(self, folder: Folder, name: bytes, path: Path) -> Finding:
        """It is not there (any more): the drop that it became, or what it may have been called."""
        drops = self._ledger.find_named(folder.name, name, limit=1) if self._ledger else []
        if drops:
            return _taken(drops[0], path)
        try:
            names = [os.fsdecode(each) for each in self._folders.names(folder)]
        except FolderError as fault:
            return Finding(path=path, folder=folder.name, standing="unfit", what=fault.message, change=fault.hint)
        close = get_close_matches(os.fsdecode(name), names, n=1, cutoff=0.7)
        what = f"nothing of that name is in the inbox of {folder.name}, and no drop came from it"
        change = f"is it {printable(close[0])}?" if close else "let the partner look at the upload's own log"
        return Finding(path=path, folder=folder.name, standing="missing", what=what, change=change)

    def inbox(self, folder: Folder, path: Path) -> Finding:
        """What stands about the inbox of `folder` itself."""
        fault = self._folders.find_fault(folder)
        if fault is not None:
            return Finding(path=path, folder=folder.name, standing="unfit", what=fault.message, change=fault.hint)
        count = len(self._folders.names(folder))
        what = f"it is the inbox of folder {folder.name}; {count} name{'s' if count != 1 else ''} in it"
        change = "'dropzone plan' tells what would become of each"
        return Finding(path=path, folder=folder.name, standing="inbox", what=what, change=change)


class Finder:
    """Answers about paths, by a configuration; `looker` looks into the inboxes."""

    def __init__(self, config: Config, ledger: Reader | None, looker: Looker) -> None:
        self._config = config
        self._ledger = ledger
        self._looker = looker

    def why(self, path: Path) -> Finding:
        """Why `path` was or was not picked up, and what would change it."""
        # The last part may be a link, which is a finding then; a `..` is where it leads to.
        leads = path.name == ".."
        place = Path(os.path.realpath(path)) if leads else Path(os.path.realpath(path.parent)) / path.name
        for folder in self._config.folders.values():
            inbox = Path(os.path.realpath(folder.path))
            if Path(os.path.realpath(place)) == inbox:
                return self._looker.inbox(folder, place)
            if place.parent == inbox:
                return self._looker.look(folder, os.fsencode(place.name))
            if place.is_relative_to(inbox):
                what = f"the inbox of folder {folder.name} is {_shown(inbox)}, and nothing below it is looked at"
                change = f"move the file into {_shown(inbox)} itself"
                return Finding(path=place, folder=folder.name, standing="ignored", what=what, change=change)
        return self._ours(place) or self._unmade(place) or self._outside(place)

    def _ours(self, place: Path) -> Finding | None:
        """A file in work/, done/ or failed/ names its drop."""
        for base in {folder.base for folder in self._config.folders.values()}:
            root = Path(os.path.realpath(base))
            if not place.is_relative_to(root):
                continue
            kind, *rest = [*place.relative_to(root).parts, ""]
            id = rest[0] if kind == "work" and rest else id_in(place.name) if kind in VERDICTS else ""
            drop = self._ledger.find_drop(id) if self._ledger and is_id(id) else None
            if drop is not None:
                return _taken(drop, place)
        return None

    def _unmade(self, place: Path) -> Finding | None:
        """A folder whose segment does not exist yet is not watched."""
        for name, unmade in self._config.unmade.items():
            if place.is_relative_to(Path(os.path.realpath(unmade.draft.path))):
                what = "its folder's segment is still to be created, so the folder is not watched"
                change = f"type: dropzone segment create --folder {name}"
                return Finding(path=place, folder=name, standing="unfit", what=what, change=change)
        return None

    def _outside(self, place: Path) -> Finding:
        inboxes = {str(Path(os.path.realpath(folder.path))): name for name, folder in self._config.folders.items()}
        close = get_close_matches(str(place.parent), inboxes, n=1, cutoff=0.8)
        what = "it is in no watched folder"
        if close:
            change = f"the inbox of folder {inboxes[close[0]]} is {printable(close[0])}: move the file there"
        else:
            change = "the inboxes are: " + ", ".join(printable(inbox) for inbox in inboxes)
        return Finding(path=place, folder=None, standing="outside", what=what, change=change)


def _taken(drop: Drop, path: Path) -> Finding:
    return Finding(
        path=path,
        folder=drop.folder,
        standing="taken",
        what=f"taken over as drop {drop.id}, which is {drop.state} now",
        change=f"'dropzone show {drop.id}' tells its history",
        since=drop.claimed_at,
        size=drop.size,
        id=drop.id,
        state=drop.state.value,
        reason=drop.reason,
    )


def _change(verdict: Verdict, folder: Folder) -> str:
    match verdict:
        case Waiting(settling=True):
            return "nothing has to be done; each change of the file starts its quiet time again"
        case Waiting() if folder.marker != "none":
            return f"once it is whole the partner uploads its {folder.marker} marker, or both of them again"
        case Waiting():
            return "nothing has to be done while the upload goes on; broken off, the partner uploads the file again"
        case Unfit():
            return "remove it, and let the partner upload a plain file"
        case Ready() | Unread():
            return ""


def _shown(path: Path) -> str:
    return printable(str(path))
