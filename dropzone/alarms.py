"""What nobody would hear of otherwise: drops that wait too long, steps that take long, keys that end soon.

Everything here is said in the journal and changes nothing. What was said is remembered, so that each is said once a
day at most; after a restart it is said again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from dropzone.config import Config
from dropzone.drop import Drop, State
from dropzone.errors import DropzoneError
from dropzone.ledger import Reader
from dropzone.policy import settings_of
from dropzone.progress import Board

LONG_S = 30.0  # a check or an upload that takes longer is told of, at each look
DAY_S = 86_400.0
LATE = 1000  # drops that are looked at, of those that wait
KEY_DAYS = (30, 7, 1)  # days before the end of a key


class Voice(Protocol):
    """How the daemon says things; see `telemetry.Journal`."""

    def say(self, what: str, /, **facts: object) -> None: ...
    def warn(self, what: str, /, **facts: object) -> None: ...


class Alarms:
    """Looks around when asked to, each minute or so. `now` is the wall clock."""

    def __init__(self, *, ledger: Reader, board: Board, voice: Voice, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._board = board
        self._voice = voice
        self._now = now
        self._late: dict[str, float] = {}  # drops that wait too long, and when that was last said
        self._days: dict[str, int] = {}  # how many days an account's key had when that was last looked at

    def look(self, config: Config) -> None:
        """Say what is to be said now."""
        self._tell_long_steps()
        self._tell_late_drops()
        self._tell_old_keys(config)

    def _tell_long_steps(self) -> None:
        for id, step in self._board.steps().items():
            if step.seconds >= LONG_S and step.total:
                share = f"{100 * step.done // step.total} %"
                how_far = f"{share}, {step.done:,} of {step.total:,} bytes, {step.rate:,.0f} bytes/s"
                self._voice.say(f"{step.what} goes on: {how_far}", drop=id)

    def _tell_late_drops(self) -> None:
        """Once a day for each drop that waits longer than its folder allows."""
        now = self._now()
        # The oldest claims come first, and they are who waits longest.
        waiting = {drop.id: drop for drop in self._ledger.find_drops(states=[State.QUEUED], limit=LATE)}
        self._late = {id: at for id, at in self._late.items() if id in waiting}
        for id, drop in waiting.items():
            waits_s = now - drop.claimed_at
            if waits_s > _patience_s(drop) and not 0 <= now - self._late.get(id, -math.inf) < DAY_S:
                self._late[id] = now
                why = self._ledger.account_facts(drop.account).why or drop.reason or "its turn has not come"
                what = f"waits to be sent for {waits_s / 3600:,.1f} hours: {why}"
                self._voice.warn(what, drop=id, folder=drop.folder, alarm="late")

    def _tell_old_keys(self, config: Config) -> None:
        """When a key comes to 30, 7 and 1 days before its end, each day once it has ended, and at the start."""
        for account in config.accounts.values():
            days = account.key_days_left(self._now())
            before = self._days.get(account.name)
            if days is None or days == before:
                continue
            self._days[account.name] = days
            if days <= 0 or days in KEY_DAYS or (before is None and days < KEY_DAYS[0]):
                self._voice.warn(account.key_warning(days), account=account.name, alarm="key")


def _patience_s(drop: Drop) -> float:
    try:
        return settings_of(drop).alarm_after
    except DropzoneError:  # they are of another version: it is held for that in its turn
        return DAY_S
