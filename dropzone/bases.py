"""The work/ folders of a configuration: each is taken up once, marked each round, and may be away with its mount.

Knows that one which is away keeps no other waiting, and that a fault of the machine concerns all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dropzone.adoption import Adoption
from dropzone.alarms import Voice
from dropzone.config import Config
from dropzone.drop import Drop
from dropzone.errors import FolderError


class Bases:
    """The bases that were taken up: the folders with a work/ in them. All may raise the machine's FolderError."""

    def __init__(self, adoption: Adoption, voice: Voice) -> None:
        self._adoption = adoption
        self._voice = voice
        self._taken: set[Path] = set()
        # Which cannot be used, and why. Exchanged, never changed: whoever asks for the status reads it meanwhile.
        self._away: dict[Path, str] = {}

    @property
    def away(self) -> tuple[str, ...]:
        """Why which work folders cannot be used, a sentence each."""
        return tuple(self._away.values())

    def take_up(self, config: Config) -> Iterator[tuple[list[Drop], bool]]:
        """Take up those of `config` that were not yet: the drops that were adopted, and whether others were held.

        One that is away is left out, and told once; whoever asks again takes it up when it is back.
        """
        wanted = {folder.base for folder in config.folders.values()}
        # What no folder names any more is missed by nobody, unless drops from before may lie there.
        self._away = {base: why for base, why in self._away.items() if base in wanted | self._taken}
        for base in sorted(wanted - self._taken):
            try:
                drops, doubt = self._adoption.take_up(base, config)
            except FolderError as fault:
                self._leave(base, fault, told=base in self._away)
                continue
            if doubt:
                mend = "look in OptiPub for what is held as no record"
                self._voice.warn(doubt, path=str(base / "work"), mend=mend)
            # Only behind the caller's part: if that fails, the next round does all of it again.
            yield drops, bool(doubt)
            self._taken.add(base)
            self._welcome(base)

    def adopt(self, config: Config) -> None:
        """Give rows to files in any work/ that a fault of the machine left without."""
        for base in sorted(self._taken):
            try:
                self._adoption.adopt(base, config, trusted=True)
            except FolderError as fault:
                self._leave(base, fault, told=False)

    def mark(self) -> None:
        """Write down in each how far the ledger is, so that a copy that is older than that will be noticed."""
        for base in sorted(self._taken):
            try:
                self._adoption.mark(base)
            except FolderError as fault:
                self._leave(base, fault, told=True)
            else:
                self._welcome(base)

    def _leave(self, base: Path, fault: FolderError, *, told: bool) -> None:
        """Go on without a base, as when its mount is gone. A fault of the machine is raised instead."""
        if fault.environment:
            raise fault
        if not told:
            self._voice.warn("a work folder cannot be used", path=str(base / "work"), why=str(fault))
        self._away = self._away | {base: str(fault)}

    def _welcome(self, base: Path) -> None:
        if base in self._away:
            self._away = {other: why for other, why in self._away.items() if other != base}
