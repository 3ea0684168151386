"""What the system and we tell each other: the lock on the state folder, signals, the word to the service manager."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from dropzone.control import user_name
from dropzone.errors import FolderError, LockedError
from dropzone.folders.probing import mount_of

_LOCK_MENDS = {
    errno.ENOENT: "Make the state folder with 'dropzone init'",
    errno.EACCES: "Run it as the user that it belongs to",
    errno.EPERM: "Run it as the user that it belongs to",
    errno.EROFS: "Mount the file system of the state folder writable again: mount -o remount,rw",
    errno.ENOSPC: "Make room on the disk of the state folder",
    errno.EDQUOT: "Make room on the disk of the state folder",
}


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process alone. Raises LockedError; the kernel frees it however we end.

    Raises FolderError where it is on a network file system: locks and syncs may mean nothing there; and for root where
    it belongs to somebody else, whom root's files in it would keep out for good.
    """
    _refuse_root(state_dir)
    if os.path.isdir(state_dir) and not (mount := mount_of(state_dir)).local:
        why = f"it is on {mount.type}, and SQLite on a network file system can lose what was promised to the server"
        raise FolderError("use", str(state_dir), why, "Move it to a local disk and set state_dir to that place")
    try:
        fd = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        hint = _LOCK_MENDS.get(error.errno or 0, "See the disk of the state folder")
        raise FolderError("open", str(state_dir / "lock"), error, hint) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            hint = "Only one may run: see 'systemctl status dropzone' or 'ps'"
            raise LockedError(f"another dropzone runs on {state_dir}", hint) from error
        yield
    finally:
        os.close(fd)


def _refuse_root(state_dir: Path) -> None:
    owner = state_dir.stat().st_uid if state_dir.is_dir() else 0
    if os.geteuid() == 0 and owner != 0:
        name = user_name(owner)
        hint = f"Run it as that user: runuser -u {name} -- dropzone run"
        raise FolderError("use", str(state_dir), f"it belongs to {name}, and this is root", hint)


def notify(**facts: str) -> None:
    """Tell systemd (READY=1, STATUS=…, STOPPING=1; see sd_notify(3)). Nothing happens without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    text = "\n".join(f"{name}={value}" for name, value in facts.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
        out.sendto(text.encode(), address)


def reloading() -> None:
    """Tell systemd that a reload begins (Type=notify-reload needs the time of it)."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))


class Signalled(Protocol):
    """Who obeys: what is to be called is called by its own loop, and not in the middle of a step."""

    def call(self, what: Callable[[], None]) -> None: ...
    def stop(self) -> None: ...


def obey_signals(daemon: Signalled, reload: Callable[[], None], say: Callable[[str], None]) -> None:
    """SIGTERM and SIGINT drain, a second SIGINT ends at once (exit code 130), SIGHUP reloads; `say` tells people."""
    interrupts = 0

    def interrupt(*_: object) -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts > 1:
            # What is under way becomes unknown at the next start; that is what "at once" means.
            os._exit(130)
        daemon.call(lambda: say("stopping after what is under way; once more to stop at once"))
        daemon.stop()

    def terminate(*_: object) -> None:
        notify(STOPPING="1", STATUS="Stopping after what is under way")
        daemon.stop()

    def hang_up(*_: object) -> None:
        daemon.call(reload)

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, hang_up)
