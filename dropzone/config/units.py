"""How durations, sizes and shares are written, and what they mean. Knows no setting and no file.

Reading and writing are inverse: what `write_…` makes, `read_…` takes back to the same value. A text of another form
raises `ValueError`; whoever reads the setting says in its own words what would be right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

DURATION = r"[0-9]{1,12}(ms|s|m|h|d)"
SIZE = r"[0-9]{1,15}(B|KiB|MiB|GiB|TiB)"
SHARE = r"[0-9]{1,6}(\.[0-9]{1,4})?%"

_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_BYTES = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_DURATION = re.compile(f"([0-9]+)({'|'.join(_MILLISECONDS)})")
_SIZE = re.compile(f"([0-9]+)({'|'.join(_BYTES)})")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Share:
    """A part of a whole, kept exactly: 29 % of 100 rows is 29, which 0.29 * 100 is not."""

    millionths: int

    @classmethod
    def percent(cls, text: str) -> Share:
        """The share written as `text`, such as ``1%`` or ``0.5%``. Raises `ValueError` for any other form."""
        if not re.fullmatch(SHARE, text):
            raise ValueError(text)
        whole, _, part = text.removesuffix("%").partition(".")
        return cls(millionths=int(whole) * 10_000 + int(part.ljust(4, "0")))

    @property
    def fraction(self) -> float:
        """1 % is 0.01; for people and rough figures. Limits are compared with `of`."""
        return self.millionths / 1_000_000

    def of(self, count: int) -> int:
        """The largest whole number that is no more than this share of `count`."""
        return count * self.millionths // 1_000_000

    def __str__(self) -> str:
        whole, part = divmod(self.millionths, 10_000)
        return f"{whole}.{part:04}".rstrip("0") + "%" if part else f"{whole}%"


def read_duration(text: str) -> float:
    """Seconds of ``300ms``, ``2s``, ``15m``, ``24h`` or ``90d``. Raises `ValueError` for any other form."""
    if not re.fullmatch(DURATION, text) or not (match := _DURATION.fullmatch(text)):
        raise ValueError(text)
    return int(match[1]) * _MILLISECONDS[match[2]] / 1000


def write_duration(seconds: float) -> str:
    """`seconds` in the largest unit that holds it without a remainder; milliseconds are the finest."""
    count = round(seconds * 1000)
    if not count:
        return "0s"
    unit = next(unit for unit, size in _MILLISECONDS.items() if count % size == 0)
    return f"{count // _MILLISECONDS[unit]}{unit}"


def read_size(text: str) -> int:
    """Bytes of ``64KiB`` or ``2GiB``. Raises `ValueError` for any other form."""
    if not re.fullmatch(SIZE, text) or not (match := _SIZE.fullmatch(text)):
        raise ValueError(text)
    return int(match[1]) * _BYTES[match[2]]


def write_size(size: int) -> str | int:
    """`size` in the largest unit that holds it without a remainder, or the plain number of bytes."""
    for unit, step in _BYTES.items():
        if step > 1 and size >= step and size % step == 0:
            return f"{size // step}{unit}"
    return size
