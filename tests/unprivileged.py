"""Acts done by a user who is not root: where rights matter, a test as root proves nothing."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def as_nobody(*, owns: Iterable[Path] = ()) -> Iterator[None]:
    """Without any right of root's inside, for the whole process; `owns` are given to that user first.

    Tests that run as somebody else do it as they are.
    """
    if os.geteuid() != 0:
        yield
        return
    for path in owns:
        os.chown(path, NOBODY, NOBODY)
        for above in path.parents:  # pytest keeps its folders to itself
            if above.stat().st_uid == 0 and Path(tempfile.gettempdir()) in above.parents:
                above.chmod(above.stat().st_mode | 0o011)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)  # with this the kernel takes the capabilities away, too
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


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
