"""How long finished files are kept: what is too old goes from the disk, and from the ledger all but what is needed.

A drop's row stays, with its digest, so that a duplicate is known for one after its files have gone. The decision is
recorded first, then the disk is made to agree: whatever cuts this off, the next look finds the same files again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from dropzone.config import Config, Folder
from dropzone.drop import FINISHED, Expired
from dropzone.errors import FolderError, IllegalEvent
from dropzone.folders.expiring import Old, find_old, remove_old
from dropzone.ledger import Ledger
from dropzone.places import VERDICTS, Verdict

KEEP_S = 86_400.0  # how often it is looked for what is kept no longer
LEAP_S = 86_400.0  # of the wall clock alone: after such a leap, files are not believed to be as old as they seem


def find_expired(config: Config, *, now: float) -> Iterator[Old]:
    """What is kept no longer by the retention of its folder; nothing where a folder has none.

    A folder that cannot be listed keeps no other waiting: it is passed over.
    """
    for folder in config.folders.values():
        for verdict in VERDICTS:
            keep_s = _keep_s(folder, verdict)
            if keep_s is None:
                continue
            try:
                yield from find_old(folder.base, verdict, folder.name, keep_s=keep_s, now=now)
            except FolderError:
                continue


def prune(config: Config, ledger: Ledger, *, now: float, stopping: Callable[[], bool] = lambda: False) -> Iterator[Old]:
    """Delete what is kept no longer, drop by drop, until `stopping`; yields each that is gone.

    Raises LedgerError, and FolderError where a file cannot be deleted.
    """
    for old in find_expired(config, now=now):
        if stopping():
            return
        drop = ledger.find_drop(old.id)
        if drop is not None and drop.state not in FINISHED:
            continue  # it is tried again, and its file is on its way back
        if drop is not None and drop.path:
            keep_s = _keep_s(config.folders[old.folder], old.verdict) or 0.0
            try:
                ledger.commit(old.id, Expired(days=int(keep_s // 86400)), at=now)
            except IllegalEvent:  # somebody has ordered a retry since our look: that counts
                continue
        # If we die here: the row says that they are gone, and the next look takes them away.
        remove_old(old)
        yield old


def _keep_s(folder: Folder, verdict: Verdict) -> float | None:
    return folder.retention.done if verdict == "done" else folder.retention.failed


class Warn(Protocol):
    """How somebody is told of what he should look at."""

    def __call__(self, what: str, /, **facts: object) -> None: ...


class Keeper:
    """When it is deleted: once a day where a folder has a retention, and when somebody says so.

    `delete` is called in a thread of its own: nobody must wait for a disk that deletes a million files. How old files
    are is told by `now`, the wall clock. Where that has run ahead of `monotonic` by a day since the last look, it may
    be wrong, and what it calls old would be gone for good: so nothing is deleted for a day, in which somebody can set
    it right.
    """

    def __init__(
        self,
        delete: Callable[[Config], None],
        *,
        warn: Warn,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._delete = delete
        self._warn = warn
        self._now = now
        self._monotonic = monotonic
        self._clocks = now(), monotonic()  # at the last look
        self._due_at = 0.0  # monotonic
        self._thread: threading.Thread | None = None

    def look(self, config: Config) -> None:
        """Delete what is kept no longer, if it is time for that."""
        if self._due_at <= self._monotonic() and not (_retains(config) and self._has_leapt()):
            self.keep(config)

    def keep(self, config: Config) -> None:
        """Delete it now, unless that goes on still; by itself again in a day."""
        self._due_at = self._monotonic() + KEEP_S
        if not _retains(config) or (self._thread and self._thread.is_alive()):
            return
        self._thread = threading.Thread(target=self._delete, args=(config,), name="keeping")
        try:
            self._thread.start()
        except RuntimeError:  # the machine has no thread for it: at the next look, then
            self._thread, self._due_at = None, self._monotonic()

    def join(self) -> None:
        """Return when nothing is being deleted."""
        if self._thread:
            self._thread.join()

    def _has_leapt(self) -> bool:
        wall, monotonic = self._clocks
        self._clocks = self._now(), self._monotonic()
        ahead_s = (self._clocks[0] - wall) - (self._clocks[1] - monotonic)
        if ahead_s < LEAP_S:
            return False
        self._due_at = self._monotonic() + KEEP_S
        why = "what it calls old is deleted in a day; if it is wrong, set it right before: timedatectl set-ntp true"
        self._warn("the clock has leapt ahead", days=round(ahead_s / 86_400, 1), why=why)
        return True


def _retains(config: Config) -> bool:
    """Whether anything is ever deleted."""
    retentions = [folder.retention for folder in config.folders.values()]
    return any(each.done is not None or each.failed is not None for each in retentions)
