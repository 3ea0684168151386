"""How many cores this program may use: those it is bound to, and no more than its control groups allow (cgroup v2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=1)
def cores() -> int:
    """The whole cores that there are for this program, as it was when this was first asked.

    Limits hardly ever change, and asking takes half a millisecond of each file (measured).
    """
    return count_cores()


def count_cores(*, proc: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The whole cores that there are for this program now, at least one.

    systemd's ``CPUQuota=`` and a container's limit are quotas of its control group or of one above: with more threads
    than that allows, all of them stand still at the end of each period.
    """
    quotas = [quota for group in _groups(proc, groups) if (quota := _quota(group)) is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def _groups(proc: Path, groups: Path) -> Iterator[Path]:
    """The control group of this program and those above it."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("0::/"):
            group = groups / line.removeprefix("0::/")
            yield from (group, *(each for each in group.parents if each.is_relative_to(groups)))


def _quota(group: Path) -> float | None:
    """The cores that a control group may use, None where it has no limit or cannot be asked."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max" stands there where there is no limit
        return None
