"""From the inbox to the ledger: which files are there, when to look at each again, and taking over what is ready.

The scan is the truth, events are only a reason to look early. All of it is memory that any scan can rebuild; the first
durable thing is the claim. The same rule holds at the start as at any other time. Knows no drop after its first row.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dropzone.config import Config, Folder
from dropzone.drop import Claimed, Drop, Event, State, Withheld, make_id
from dropzone.errors import FolderError
from dropzone.folders import Claim, Folders
from dropzone.ledger import Ledger
from dropzone.readiness import UNFIT_S, Candidate, Look, Probe, Ready, Unfit, Waiting, judge, why_ignored

SYNC_ASIDE = 4 << 20  # bytes; claiming syncs a file, and 200 MB of it kept all other files waiting for seconds (seen)
BATCH = 100  # files claimed with one round of directory syncs; more would make the first of them wait
_Key = tuple[str, bytes]
_File = tuple[str, bytes, Look]  # the ID of the drop that it is to be, its name, its look when it was ready


class Intake:
    """What waits in the inboxes. Used by one thread.

    `now` is the wall clock (for drop IDs and rows), `monotonic` the one for quiet times. `left_alone` hears, once for
    each file and reason, of what is not taken over and why; `announce` of every committed event.
    `aside` has slow work done by another thread; by itself it is done at once.
    """

    def __init__(
        self,
        *,
        folders: Folders,
        ledger: Ledger,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        left_alone: Callable[[str, bytes, str], None] = lambda folder, name, why: None,
        announce: Callable[[Drop, Event], None] = lambda drop, event: None,
        aside: Callable[[Callable[[], None]], object] = lambda work: work(),
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._now = now
        self._monotonic = monotonic
        self._left_alone = left_alone
        self._announce = announce
        self._aside = aside
        self._config: dict[str, Folder] = {}
        self._candidates: dict[_Key, Candidate] = {}
        self._waiting: dict[_Key, Waiting | Unfit] = {}
        self._due: list[tuple[float, str, bytes]] = []  # a heap; entries that `_waiting` contradicts are stale
        self._next_scan: dict[str, float] = {}
        self._told: dict[_Key, str] = {}
        self._id_ms = 0

    def configure(self, config: Config) -> None:
        """Watch the folders of `config` from now on; candidates of folders that are still there stay."""
        self._config = dict(config.folders)
        self._next_scan = {name: self._next_scan.get(name, 0.0) for name in self._config}
        for key in list(self._candidates):
            folder = self._config.get(key[0])
            if folder is None or why_ignored(os.fsdecode(key[1]), folder):
                self._forget(key)

    # ------------------------------------------------------------------------------------------------- questions

    def next_look(self) -> float:
        """When there is something to do next, on the monotonic clock."""
        next_due = [self._due[0][0]] if self._due else []
        return min([*self._next_scan.values(), *next_due], default=float("inf"))

    def settling(self) -> bool:
        """Whether a file is there that lacks nothing but quiet time."""
        return any(isinstance(verdict, Waiting) and verdict.settling for verdict in self._waiting.values())

    # ---------------------------------------------------------------------------------------------------- orders

    def hear(self, folder: str, name: bytes) -> None:
        """An event told of `name`: its quiet time starts again, and it is looked at now."""
        if folder not in self._config or why_ignored(os.fsdecode(name), self._config[folder]):
            return
        now = self._monotonic()
        candidate = self._candidates.setdefault((folder, name), Candidate(first_seen=now, quiet_since=now))
        candidate.hear(now)
        self._look_again((folder, name), Waiting(now, "it has just changed", settling=True))

    def scan_soon(self) -> None:
        """Scan every folder at the next tick: events may have been lost, or the folders are new."""
        self._next_scan = dict.fromkeys(self._next_scan, 0.0)

    def tick(self, *, limit: int = BATCH) -> list[Drop]:
        """Scan what is due to be scanned, look at what is due, and claim what is ready (at most `limit` files).

        Returns the new drops, in the order in which the files became ready. Raises FolderError or LedgerError
        only where the machine is at fault; then some may have been taken over already: with a row (ask the ledger) or
        still without one (`adopt`).
        """
        now = self._monotonic()
        for scanned, at in list(self._next_scan.items()):
            if at <= now:
                self._scan(self._config[scanned], now)
        ready: list[tuple[str, _File]] = []
        while len(ready) < limit and self._due and self._due[0][0] <= now:
            at, folder_name, name = heapq.heappop(self._due)
            key = (folder_name, name)
            verdict = self._waiting.get(key)
            if verdict is None or verdict.until != at:
                continue  # stale: heard of or forgotten since
            if (look := self._judge(self._config[folder_name], key, now)) is not None:
                # Whatever happens next, here or to another file, it is looked at again unless it is gone.
                self._look_again(key, Waiting(now + 1.0, "it changed while it was taken over"))
                ready.append((folder_name, (self._make_id(), name, look)))
        return self._claim(ready)

    def adopt(self, base: Path, *, trusted: bool) -> list[Drop]:
        """Give rows to files in work/ that have none: we died between the rename and the row.

        Where the ledger is not the one that knew this work/ (`trusted` is False: lost, or restored from elsewhere),
        what was promised about them is not known either: they are held. So is a file that was checked already: its row
        came before that, so it was lost, as by an older copy of the ledger put in its place.
        """
        drops = []
        touched = set()
        for claim in self._folders.orphans(base, lambda id: self._ledger.find_drop(id) is not None):
            folder = self._config.get(claim.folder)
            if folder is None:
                why = f"it lies in {base / 'work' / claim.id}, but no folder {claim.folder!r} is configured any more"
                self._left_alone(claim.folder, claim.name, why)
                continue
            drops += self._enter([_row(folder, claim, adopted=True)])
            if claim.touched:
                touched.add(claim.id)
        # If we die here: the mark in work/ is still the other ledger's, and the next start holds these.
        if not trusted:
            return self._hold_adopted(base)
        return [self._hold(drop) if drop.id in touched else drop for drop in drops]

    # ------------------------------------------------------------------------------------------------- internals

    def _hold_adopted(self, base: Path) -> list[Drop]:
        held = []
        for drop in self._ledger.find_drops(states=[State.QUEUED]):
            latest = self._ledger.history(drop.id)[-1].event
            if Path(drop.base) == base and isinstance(latest, Claimed) and latest.adopted:
                held.append(self._hold(drop))
        return held

    def _hold(self, drop: Drop) -> Drop:
        why = "the ledger that knew this file is gone, so nobody can say whether it was sent"
        event = Withheld(guard="no record", why=why)
        drop = self._ledger.commit(drop.id, event, at=self._now())
        self._announce(drop, event)
        return drop

    def _scan(self, folder: Folder, now: float) -> None:
        self._next_scan[folder.name] = now + folder.scan
        try:
            names = set(self._folders.names(folder))
        except FolderError as fault:
            if fault.environment:
                raise
            self._tell_once((folder.name, b""), str(fault))
            return
        self._told.pop((folder.name, b""), None)
        for key in [key for key in self._candidates if key[0] == folder.name and key[1] not in names]:
            self._forget(key)
        for name in sorted(names):
            key = (folder.name, name)
            if key not in self._candidates and not why_ignored(os.fsdecode(name), folder):
                self._candidates[key] = Candidate(first_seen=now, quiet_since=now)
                self._look_again(key, Waiting(now, "it was just found", settling=True))

    def _judge(self, folder: Folder, key: _Key, now: float) -> Look | None:
        """The look by which the file is ready, or None; then it is known when to look again."""
        name = key[1]
        try:
            look = self._folders.look(folder, name)
            if look is None:
                self._forget(key)
                return None

            def ask() -> Probe:
                return self._folders.probe(folder, name, look)

            verdict = judge(self._candidates[key], look, folder, now=now, ask=ask)
        except FolderError as fault:
            if fault.environment:
                self._look_again(key, Waiting(now + 1.0, str(fault)))
                raise
            verdict = Unfit(now + UNFIT_S, str(fault))
        if isinstance(verdict, Ready):
            if self._is_on_disk(folder, key, verdict.look):
                return verdict.look
            verdict = Waiting(now + 0.1, "it is being written out to disk", settling=True)
        self._look_again(key, verdict)
        if isinstance(verdict, Unfit):
            self._tell_once(key, verdict.why)
        return None

    def _is_on_disk(self, folder: Folder, key: _Key, look: Look) -> bool:
        """Whether a claim will not have to wait for the disk; if it would, the file is written out aside first."""
        candidate = self._candidates[key]
        if look.size <= SYNC_ASIDE or candidate.synced == look:
            return True
        if candidate.syncing != look:
            candidate.syncing = look

            def sync() -> None:
                with contextlib.suppress(FolderError):  # the claim meets the same, and says so
                    self._folders.sync(folder, key[1])
                candidate.synced = look

            self._aside(sync)
        return candidate.synced == look

    def _claim(self, ready: Sequence[tuple[str, _File]]) -> list[Drop]:
        """Rename folder by folder, then write all rows, in the order in which the files became ready."""
        claims: dict[str, Claim] = {}
        faults: list[FolderError] = []
        for folder in dict.fromkeys(folder for folder, _ in ready):
            mine = [file for name, file in ready if name == folder]
            claims |= {claim.id: claim for claim in self._rename(self._config[folder], mine, faults)}
        # If we die here: the files are in work/ without rows; the next start adopts them.
        rows = [_row(self._config[folder], claims[id]) for folder, (id, _, _) in ready if id in claims]
        drops = self._enter(rows) if rows else []
        for claim in claims.values():
            self._forget((claim.folder, claim.name))
        if faults:
            raise faults[0]
        return drops

    def _rename(self, folder: Folder, files: Sequence[_File], faults: list[FolderError]) -> list[Claim]:
        """Take `files` over, all but the row; what the machine is at fault for is added to `faults`."""
        try:
            claims, failed = self._folders.claim(folder, files)
        except FolderError as error:  # the inbox or work/ is gone: no reason for the files of other folders to wait
            claims, failed = [], [(name, error) for _, name, _ in files]
        for name, fault in failed:
            if fault.environment:
                faults.append(fault)
            else:
                self._look_again((folder.name, name), Unfit(self._monotonic() + UNFIT_S, str(fault)))
                self._tell_once((folder.name, name), str(fault))
        return claims

    def _enter(self, rows: Sequence[tuple[str, Claimed]]) -> list[Drop]:
        drops = self._ledger.claim(rows, at=self._now())
        for drop, (_, event) in zip(drops, rows, strict=True):
            self._announce(drop, event)
        return drops

    def _make_id(self) -> str:
        # A millisecond apart at least, so that by their IDs orphans are adopted in the order in which they were ready.
        self._id_ms = max(round(self._now() * 1000), self._id_ms + 1)
        return make_id(self._id_ms / 1000)

    def _look_again(self, key: _Key, verdict: Waiting | Unfit) -> None:
        self._waiting[key] = verdict
        heapq.heappush(self._due, (verdict.until, *key))

    def _forget(self, key: _Key) -> None:
        for memory in (self._candidates, self._waiting, self._told):
            memory.pop(key, None)

    def _tell_once(self, key: _Key, why: str) -> None:
        if self._told.get(key) != why:
            self._told[key] = why
            self._left_alone(key[0], key[1], why)


def _row(folder: Folder, claim: Claim, *, adopted: bool = False) -> tuple[str, Claimed]:
    return claim.id, Claimed(
        folder=folder.name,
        name=claim.name,
        account=folder.account,
        segment_id=folder.segment_id,
        lane=folder.lane,
        base=str(claim.base),
        settings=folder.settings_json(),
        size=claim.size,
        adopted=adopted,
    )
