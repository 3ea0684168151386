"""Waking up early: inotify, by way of watchdog. Deletable: the periodic scan is the truth.

One recursive watch covers the inboxes below the root; a folder elsewhere gets one of its own. Nothing is decided here:
every event only says "look at this name again". What watchdog hides (overflows, unmounts, unreadable folders, a dead
emitter: all silent, seen) the scan makes good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from watchdog.events import (
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver
from watchdog.observers.inotify_c import InotifyConstants, Mask

Hear = Callable[[Path, bytes], None]

# A name can become complete without a close: a plain SFTP rename on OpenSSH is link() and unlink(), seen as CREATE
# alone; ATTRIB is what a late chmod or utime looks like. Writes are not listened to: the close comes anyway, and looks
# are compared.
_WAKING = [FileCreatedEvent, FileClosedEvent, FileAttribEvent]


class _ArrivalEmitter(InotifyEmitter):
    """Asks for the attributes, which watchdog forgets (7.1: nothing comes), and not for the leaving half of a move.

    Our own claims are renames out of the watched tree. watchdog would hold the unpaired half back for 0.5 s, and with
    it every event behind it: the next file's close came 500 ms late (seen, 20 of 20).
    """

    def get_event_mask_from_filter(self) -> Mask:
        mask = super().get_event_mask_from_filter() | InotifyConstants.IN_ATTRIB
        return Mask(mask & ~InotifyConstants.IN_MOVED_FROM)


class _ArrivalObserver(InotifyObserver):
    def __init__(self) -> None:
        super().__init__()
        self._emitter_class = _ArrivalEmitter


class _Listener(FileSystemEventHandler):
    def __init__(self, hear: Hear) -> None:
        self._hear = hear

    def on_any_event(self, event: FileSystemEvent) -> None:
        # An exception in here would end watchdog's thread without a word, so nothing is done but passing it on.
        path = event.dest_path if isinstance(event, FileMovedEvent) else event.src_path
        directory, name = os.path.split(os.fsencode(path))
        self._hear(Path(os.fsdecode(directory)), name)


class Watch:
    """Tells `hear` (inbox directory, name) of whatever moves in the inboxes; from other threads."""

    def __init__(self, hear: Hear) -> None:
        self._listener = _Listener(hear)
        self._observer: BaseObserver | None = None

    def start(self, root_inbox: Path, inboxes: Iterable[Path]) -> list[str]:
        """Watch `inboxes`, those below `root_inbox` by one watch; returns what could not be watched, and why."""
        self.stop()
        wanted = {(root_inbox, True) if path.is_relative_to(root_inbox) else (path, False) for path in inboxes}
        faults: list[str] = []
        try:
            observer = _ArrivalObserver()
        except OSError as error:  # fs.inotify.max_user_instances
            return [f"inotify cannot be used: {error.strerror}"]
        self._observer = observer
        observer.start()
        for path, recursive in sorted(wanted):
            try:
                observer.schedule(self._listener, str(path), recursive=recursive, event_filter=_WAKING)
            except OSError as error:  # missing, or fs.inotify.max_user_watches
                faults.append(f"{path} cannot be watched: {error.strerror}")
        return faults

    def stop(self) -> None:
        """Stop watching; returns when no more `hear` comes."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
