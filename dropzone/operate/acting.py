"""The user that the daemon runs as, and acting as that user for as long as a question takes."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who the daemon is. `groups` are all of them, the first one too."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def daemon_user(state_dir: Path, unit_user: str = "") -> User:
    """The unit's user if it has one, else the owner of the state folder, else whoever asks."""
    uid, gid = _owner(state_dir)
    try:
        entry = pwd.getpwnam(unit_user) if unit_user else pwd.getpwuid(uid)
    except KeyError:  # a number without a name, as containers have them
        groups = tuple(os.getgroups()) if uid == os.geteuid() else (gid,)
        return User(name=f"uid {uid}", uid=uid, gid=gid, groups=groups)
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid, groups=groups)


def _owner(state_dir: Path) -> tuple[int, int]:
    try:
        found = state_dir.stat()
    except OSError:
        return os.geteuid(), os.getegid()
    return found.st_uid, found.st_gid


@contextmanager
def acting_as(user: User) -> Iterator[bool]:
    """Be `user` to the file system, if we may: True where what is tried now is what the daemon would meet."""
    if os.geteuid() == user.uid:
        yield True
        return
    if os.geteuid() != 0:
        yield False
        return
    groups, gid = os.getgroups(), os.getegid()
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)  # takes root's rights over files along, which is the point
    try:
        yield True
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
