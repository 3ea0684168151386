"""What is old in done/ and failed/, by the dates of its folders, and taking it away: the one place that deletes.

Only what has a date's name, and in it only what has our form of names (`places`), is ever touched. A date folder is as
old as its end: what was filed in its last second is kept as long as was promised.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from dropzone.folders.system import look_at, opened_path, sync_path, translated
from dropzone.places import Verdict, id_in

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Old:
    """The files of one drop that are kept no longer. `names` in the order in which they go, the log last."""

    id: str
    folder: str
    verdict: Verdict
    place: Path  # the date folder
    names: tuple[bytes, ...]
    size: int  # bytes of all of them


def find_old(base: Path, verdict: Verdict, folder: str, *, keep_s: float, now: float) -> Iterator[Old]:
    """What `folder` has in `verdict` for longer than `keep_s`, oldest date first. Raises FolderError."""
    place = base / verdict / folder
    with translated("list", place):
        if not place.is_dir():
            return
        dates = sorted(name for name in os.listdir(place) if _DATE.fullmatch(name))
    kept_from = datetime.fromtimestamp(now - keep_s, UTC)
    for name in dates:
        if (ends := _end_of(name)) is not None and ends <= kept_from:
            yield from _in(place / name, verdict, folder)


def _end_of(name: str) -> datetime | None:
    try:
        day = date.fromisoformat(name)
        return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError):  # no date, or the last one that there is
        return None


def _in(place: Path, verdict: Verdict, folder: str) -> Iterator[Old]:
    found: dict[str, list[bytes]] = {}
    sizes: dict[str, int] = {}
    with translated("list", place), opened_path(place) as directory:
        for name in sorted(map(os.fsencode, os.listdir(directory))):
            id, look = id_in(os.fsdecode(name)), look_at(directory, name)
            if id and look is not None and stat.S_ISREG(look.mode):
                found.setdefault(id, []).append(name)
                sizes[id] = sizes.get(id, 0) + look.size
    for id, names in sorted(found.items()):
        # A file in done/ always has its log: so the log goes last.
        ordered = tuple(sorted(names, key=lambda name: (name.endswith(b".log"), name)))
        yield Old(id=id, folder=folder, verdict=verdict, place=place, names=ordered, size=sizes[id])


def remove_old(old: Old) -> None:
    """Delete these files, and the date folder with the last of them. May be cut off anywhere and run again."""
    gone = contextlib.suppress(FileNotFoundError)  # the date folder too, the last time
    with translated("delete from", old.place), gone, opened_path(old.place) as directory:
        for name in old.names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
    with contextlib.suppress(OSError):  # not empty yet, or something that is not ours to remove lies in it
        old.place.rmdir()
        sync_path(old.place.parent)
