"""What a program costs: CPU time and memory of a process and all its children, as Linux tells them in /proc."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Memory(NamedTuple):
    """Resident memory in bytes; in `pss` what is shared counts in proportion, in `rss` each time."""

    rss: int
    pss: int


def cpu_s(pid: int) -> float:
    """CPU seconds of `pid`, the children that it has now, and those that ended and were waited for."""
    ticks = 0
    for each in _tree(pid):
        if stat := _read(each, "stat"):
            # The name in brackets may hold anything; behind it utime, stime, cutime and cstime are fields 14 to 17.
            ticks += sum(int(field) for field in stat.rpartition(")")[2].split()[11:15])
    return ticks * _TICK_S


def memory(pid: int) -> Memory:
    """Memory of `pid` and the children that it has now."""
    sums = {"Rss": 0, "Pss": 0}
    for each in _tree(pid):
        for line in _read(each, "smaps_rollup").splitlines():
            name, _, amount = line.partition(":")
            if name in sums:
                sums[name] += int(amount.split()[0]) * 1024
    return Memory(rss=sums["Rss"], pss=sums["Pss"])


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(FileNotFoundError):  # it, or a thread of it, has just ended
        for children in list(Path(f"/proc/{pid}/task").glob("*/children")):
            for child in _read(pid, str(children)).split():
                yield from _tree(int(child))


def _read(pid: int, name: str) -> str:
    """A file of /proc/PID; empty when the program has just ended."""
    try:
        return Path(f"/proc/{pid}", name).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
