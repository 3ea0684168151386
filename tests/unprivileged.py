"""Acts done by a user who is not root: where rights matter, a test as root proves nothing."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

NOBODY = 65534


def as_nobody(act: Callable[[], None], *, owns: Iterable[Path] = (), groups: Iterable[int] = ()) -> None:
    """Do `act` in a child without any right of root's; what it raises is a failure here, with its traceback.

    The child owns `owns` and is in `groups` beside its own. Tests that run as somebody else do it as they are.
    """
    if os.geteuid() != 0:
        act()
        return
    for path in owns:
        os.chown(path, NOBODY, NOBODY)
        for above in path.parents:  # pytest keeps its folders to itself
            if above.stat().st_uid == 0 and above.is_relative_to("/tmp/pytest-of-root"):  # noqa: S108
                above.chmod(above.stat().st_mode | 0o011)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # newer Pythons warn of threads; the child uses none of them
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            os.setgroups(list(groups))
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
            status = 0
        except BaseException:  # noqa: BLE001 - it is told to the parent
            os.write(writing, traceback.format_exc().encode("utf-8", "replace")[:60_000])
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as report:
        text = report.read().decode()
    _, ended = os.waitpid(child, 0)
    if ended:
        pytest.fail(f"as a user who is not root (it ended with {ended}): {text}", pytrace=False)
