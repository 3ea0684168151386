"""Waking up early: inotify, by way of watchdog. Deletable: the periodic scan is the truth.

Nothing is decided here: every event only says "look at this name again". One watch for each inbox, on the very
directory that the scan has opened, and looked after (`attend`) each time before that scan lists it. So whatever made a
watch mute is mended one scan later, and what came meanwhile is in the list: the folder was deleted, renamed, made
again, mounted over or unmounted, was not there or not readable at first, the limit of watches was reached, events
overflowed, the thread that reads them died. What the kernel tells of at once (`lost`) is scanned for at once.

Of watchdog only its reading of inotify is used. Its emitters would hide most of the above (seen: an unreadable folder,
an unmount, a symbolic link, a folder that was made again are all silent), watch sub-folders of partners that nobody
looks into, and hold events back for 0.5 s after each of our own claims, because a claim is half of a move to them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

Hear = Callable[[Path, bytes, bool], None]

# The writer has let go of the file, or it came by a rename.
_CLOSED = InotifyConstants.IN_CLOSE_WRITE | InotifyConstants.IN_MOVED_TO
# A name can become complete without a close: a plain SFTP rename on OpenSSH is link() and unlink(), seen as CREATE
# alone; ATTRIB is what a late chmod or utime looks like. Writes are not listened to: the close comes anyway, and looks
# are compared. Nor is the leaving half of a move, which is what our own claims are.
_ARRIVED = _CLOSED | InotifyConstants.IN_CREATE | InotifyConstants.IN_ATTRIB
# The directory itself is not what or where it was.
_GONE = InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_UNMOUNT
_ASKED = Mask(_ARRIVED | InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_ONLYDIR)


@dataclass(frozen=True, slots=True)
class _Watched:
    """One directory that is watched: which one it is, and how inotify calls it."""

    dev: int
    ino: int
    wd: WatchDescriptor
    listener: _Listener


class _Listener:
    """Passes on what watchdog's thread reads about one inbox. An exception in here would end that thread."""

    def __init__(self, path: Path, hear: Hear, lost: Callable[[Path | None], None]) -> None:
        self._path = path
        self._hear = hear
        self._lost = lost
        self.is_deaf = False  # we have stopped watching it ourselves

    def on_event(self, event: InotifyEvent) -> None:
        if self.is_deaf:
            return
        if event.mask & _GONE:
            self._lost(self._path)
        elif event.name:
            self._hear(self._path, event.name, bool(event.mask & _CLOSED))

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """The kernel has dropped the watch: the directory is gone, or its file system is."""
        if not self.is_deaf:
            self.is_deaf = True  # `attend` sees that it hears nothing any more
            self._lost(self._path)

    def on_queue_overflow(self) -> None:
        """Events of whatever inbox were lost. Each listener is told; to say it once for all of them is enough."""


class _Reader(InotifyFD):
    """The thread that reads the events."""

    def __init__(self, overflowed: Callable[[], None]) -> None:
        super().__init__()
        self._overflowed = overflowed

    def handle_event(self, event: InotifyEvent) -> None:
        if event.is_queue_overflow:
            self._overflowed()
        else:
            super().handle_event(event)


class Watch:
    """Tells `hear` (inbox, name, whether its writer closed it) of whatever moves in the inboxes; from another thread.

    `lost` hears, from there too, that events of an inbox (None: of any) may be missing; `warn` of what keeps an inbox
    from being watched, once for each reason. `attend`, `keep` and `stop` belong to one thread.
    """

    def __init__(
        self, *, hear: Hear, lost: Callable[[Path | None], None], warn: Callable[[str], None] = lambda why: None
    ) -> None:
        self._hear = hear
        self._lost = lost
        self._warn = warn
        self._reader: _Reader | None = None
        self._watched: dict[Path, _Watched] = {}
        self._told: dict[Path, str] = {}

    def attend(self, path: Path, fd: int) -> None:
        """See to it that the inbox `path`, open as the directory `fd`, is watched: that one and no other."""
        st = os.fstat(fd)
        known = self._watched.get(path)
        alive = self._reader is not None and self._reader.is_alive()
        if alive and known and not known.listener.is_deaf and (known.dev, known.ino) == (st.st_dev, st.st_ino):
            return
        if self._reader is not None and not alive:
            self.stop()
            self._lost(None)  # nobody was listening for any inbox
        self._drop(path)
        try:
            self._watched[path] = self._add(path, fd, st)
            self._told.pop(path, None)
        except OSError as error:
            why = f"{path} cannot be watched: {error.strerror}"
            if self._told.get(path) != why:
                self._told[path] = why
                self._warn(why)

    def keep(self, paths: Iterable[Path]) -> None:
        """Watch no other inboxes than `paths` any more."""
        for path in self._watched.keys() - set(paths):
            self._drop(path)

    def stop(self) -> None:
        """Stop watching; returns when no more `hear` comes."""
        for watched in self._watched.values():
            watched.listener.is_deaf = True
        self._watched.clear()
        if self._reader is not None:
            self._reader.stop()
            self._reader.join()
            self._reader = None

    def _add(self, path: Path, fd: int, st: os.stat_result) -> _Watched:
        if self._reader is None:
            self._reader = _Reader(lambda: self._lost(None))  # fs.inotify.max_user_instances
            self._reader.start()
        listener = _Listener(path, self._hear, self._lost)
        # By descriptor, so that it is the directory that was opened, whatever its path leads to by now.
        there = os.fsencode(f"/proc/self/fd/{fd}")
        wd = self._reader.add_callback(there, _ASKED, listener, CallbackId(id(listener)))
        watched = _Watched(st.st_dev, st.st_ino, wd, listener)
        if wd < 0:  # the one error that watchdog keeps to itself
            self._remove(watched)
            raise PermissionError(13, "Permission denied")
        return watched

    def _drop(self, path: Path) -> None:
        if (watched := self._watched.pop(path, None)) is not None:
            self._remove(watched)

    def _remove(self, watched: _Watched) -> None:
        watched.listener.is_deaf = True
        if self._reader is not None:
            with contextlib.suppress(OSError):
                self._reader.remove_callbacks([(watched.wd, CallbackId(id(watched.listener)))])
