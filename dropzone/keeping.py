"""How long finished files are kept: what is too old goes from the disk, and from the ledger all but what is needed.

A drop's row stays, with its digest, so that a duplicate is known for one after its files have gone. The decision is
recorded first, then the disk is made to agree: whatever cuts this off, the next look finds the same files again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dropzone.config import Config, Folder
from dropzone.drop import FINISHED, Expired
from dropzone.errors import FolderError, IllegalEvent
from dropzone.folders.expiring import Old, Verdict, find_old, remove_old
from dropzone.ledger import Ledger

_VERDICTS: tuple[Verdict, ...] = ("done", "failed")


def find_expired(config: Config, *, now: float) -> Iterator[Old]:
    """What is kept no longer by the retention of its folder; nothing where a folder has none.

    A folder that cannot be listed keeps no other waiting: it is passed over.
    """
    for folder in config.folders.values():
        for verdict in _VERDICTS:
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
