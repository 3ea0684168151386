"""Where a drop's files lie and how they are called: a function of its row, so that it is the same after any crash.

Whoever asks where a file is needs this alone, and not all that `folders` has for moving it there.
Paths are plain strings in here: each drop asks for a dozen, and making a `Path` costs more than many a system call.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from dropzone.drop import Drop, is_id

Verdict = Literal["done", "failed"]  # what became of a drop, and so where it is filed
VERDICTS: tuple[Verdict, ...] = ("done", "failed")

ORIGINAL, ORIGIN, MARKER, PREPARED, REJECTS, LOG, CHECKS = (
    "original", "origin", "marker", "prepared.csv", "rejects.csv", "log", "checks",
)  # fmt: skip
OURS = frozenset({ORIGIN, MARKER, PREPARED, REJECTS, LOG, CHECKS})  # what we made in work/ID, and may remove


def work_of(drop: Drop) -> str:
    """The directory of the drop's own in work/."""
    return f"{drop.base}/work/{drop.id}"


def path_in(drop: Drop, verdict: Verdict) -> str:
    """Where the drop is filed, relative to its base; also when a filing was cut off at midnight and goes on."""
    assert drop.verdict_at is not None
    date = datetime.fromtimestamp(drop.verdict_at, UTC).date().isoformat()
    return f"{verdict}/{drop.folder}/{date}/{_stem(drop.name)}.{drop.id}{extension(drop.name)}"


def where_is(drop: Drop) -> Path | None:
    """Where the original of `drop` lies now, or None when it is in none of its places."""
    place = f"{work_of(drop)}/{ORIGINAL}"
    if os.path.lexists(place):  # so it is while anything is done with it, which asks again and again
        return Path(place)
    places = [drop.path] if drop.path else []
    if drop.verdict_at is not None:
        places += [path_in(drop, verdict) for verdict in VERDICTS]
    return next((Path(drop.base, path) for path in places if os.path.lexists(f"{drop.base}/{path}")), None)


def id_in(name: str) -> str:
    """The ID in the name of a filed CSV, of its log or of its rejects; empty where the name is none of ours."""
    # As text, which `re` compiles when it is first asked: few questions are about a file that was filed.
    found = re.search(r"\.([0-9A-Z]{12})\.(?:csv|csv\.gz|rejects\.csv|log)\Z", name)
    return found[1] if found and is_id(found[1]) else ""


def without_extension(name: str) -> str:
    """The name of a filed CSV as its log and its rejects have it in front."""
    return name.removesuffix(".gz").removesuffix(".csv")


def extension(name: bytes) -> str:
    """``.csv.gz`` for compressed files, else ``.csv``."""
    return ".csv.gz" if name.lower().endswith(b".gz") else ".csv"


def _stem(name: bytes) -> str:
    """A harmless stem from the partner's name: letters, digits, ``._-`` and at most 100 bytes of them."""
    text = os.fsdecode(name)
    text = re.sub(r"\.gz$", "", text, flags=re.IGNORECASE)
    text = re.sub(r"\.[^.]{1,4}$", "", text)
    text = "".join(char if char.isalnum() or char in "._-" else "_" for char in text).lstrip(".-")
    return text.encode()[:100].decode(errors="ignore") or "file"
