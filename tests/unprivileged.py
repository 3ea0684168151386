"""Acts done by a user who is not root: where rights matter, a test as root proves nothing."""

from __future__ import annotations

import os
import sys
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


def unprivileged(command: list[str], *, groups: Iterable[int] = ()) -> list[str]:
    """`command` as the service runs it: a user of its own, and no capability but CAP_LEASE. Takes root.

    Where Python lies below a folder that nobody but root may enter, only that Python is brought to the same place in a
    view of the file system of the command's own.
    """
    ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={','.join(map(str, [NOBODY, *groups]))}"]
    lease = [f"--{kind}-caps=-all,+lease" for kind in ("inh", "ambient")]
    plain = ["setpriv", *ids, *lease, "--bounding-set=-all,+lease", *command]
    closed = next((path for path in reversed(Path(sys.base_prefix).parents) if not path.stat().st_mode & 0o001), None)
    if closed is None:
        return plain
    script = """
closed=$1 python=$2; shift 2
aside=$(mktemp -d) && mount --bind "$python" "$aside" && mount -t tmpfs -o mode=755 tmpfs "$closed" &&
mkdir -p "$python" && mount --bind "$aside" "$python" && umount "$aside" && rmdir "$aside" && exec "$@"
"""
    return ["unshare", "--mount", "sh", "-c", script, "sh", str(closed), sys.base_prefix, *plain]
