"""Many files and many folders: what the daemon takes when there is much of either.

    waiting   so many files lie in ten inboxes when it starts: from the start to the first request, until the last is
              filed, and the peak of its memory meanwhile
    burst     so many files come at once into ten inboxes: the same, from the first file's first byte
    idle      so many folders and nothing to do, scanned every 15 s as is the default: CPU and memory

The first takes its time, half an hour perhaps; each can be left out by asking for 0 of its files or folders.

The daemon is the installed command with its ledger, checks, logs and syncs. Quiet times are short (see `intake`): what
a file waits for on purpose is no cost. Figures are printed and not judged; the disk has its part in them (see `--at`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import _cost
import _sink
import intake
from _sink import Sink
from intake import FOLDERS, SETTLE_S

TELL_S = 10.0  # how often a long measurement says how far it is
QUIET = f"settle: {SETTLE_S * 1000:.0f}ms, settle_unseen: {SETTLE_S * 1000:.0f}ms"


@dataclass(slots=True)
class Course:
    """How a daemon got on with many files, until all were filed. Times are seconds from `begun`."""

    begun: float  # monotonic
    first_s: float = 0.0  # the first request; what it waited for on purpose is in it
    sent_s: float = 0.0  # the last
    filed_s: float = 0.0
    pss: int = 0  # bytes, the peak
    rss: int = 0

    def follow(self, root: Path, sink: Sink, pid: int, files: int) -> None:
        """Look on until `files` are filed, telling now and then on standard error how far it is."""
        tell_at = self.begun + TELL_S

        def sent() -> int:
            nonlocal tell_at
            memory, now = _cost.memory(pid), time.monotonic()
            self.pss, self.rss = max(self.pss, memory.pss), max(self.rss, memory.rss)
            count = sink.count()
            if now >= tell_at:
                tell_at = now + TELL_S
                here = f"{memory.pss / 1e6:.0f} MB PSS, {memory.rss / 1e6:.0f} MB RSS"
                print(f"    {now - self.begun:6.0f} s: {count:,} sent, {here}", file=sys.stderr, flush=True)
            return count

        intake.wait_until(lambda: sent() >= files, sent, pause_s=0.25)
        intake.wait_until(lambda: intake.filed(root) >= files, lambda: intake.filed(root), pause_s=0.1)
        self.filed_s = time.monotonic() - self.begun
        arrivals = sink.arrivals()
        assert len(arrivals) == files, "a file was sent twice"
        times = [arrival.first_ns / 1e9 - self.begun for arrival in arrivals]
        self.first_s, self.sent_s = min(times), max(times)

    def lines(self, files: int) -> Iterator[str]:
        """What came of it."""
        yield f"    first request, beyond settle    {self.first_s - SETTLE_S:8.2f} s"
        yield f"    last request                    {self.sent_s:8.1f} s"
        yield f"    all filed                       {self.filed_s:8.1f} s, {files / self.filed_s:.0f} files/s"
        yield f"    peak memory                     {self.pss / 1e6:8.1f} MB (PSS), {self.rss / 1e6:.1f} MB (RSS)"


def waiting(at: Path, files: int) -> Iterator[str]:
    """The lines about `files` small files that wait at the start."""
    with tempfile.TemporaryDirectory(prefix="dropzone-bench-", dir=at) as place, _sink.running() as sink:
        root = Path(place).resolve()
        file = intake.configured(root, sink.url, FOLDERS, QUIET)
        for number in range(files):
            inbox = root / "inbox" / FOLDERS[number % len(FOLDERS)]
            (inbox / f"waiting-{number:06}.csv").write_bytes(b"email\njane.doe.%d@example.com\n" % number)
        course = Course(begun=time.monotonic())
        with intake.daemon(root, file) as pid:
            course.follow(root, sink, pid, files)
        yield f"{files:,} files waiting at the start"
        yield from course.lines(files)


def burst(at: Path, files: int) -> Iterator[str]:
    """The lines about a burst of `files` files of 10 KB."""
    with tempfile.TemporaryDirectory(prefix="dropzone-bench-", dir=at) as place, _sink.running() as sink:
        root = Path(place).resolve()
        with intake.dropzone(root, sink.url) as pid:
            course = Course(begun=intake.pour(root, range(files)))
            course.follow(root, sink, pid, files)
        yield f"a burst of {files:,} files into {len(FOLDERS)} folders"
        yield from course.lines(files)


def idle(at: Path, folders: int, idle_s: float) -> Iterator[str]:
    """The lines about a daemon that has `folders` and nothing to do."""
    with tempfile.TemporaryDirectory(prefix="dropzone-bench-", dir=at) as place, _sink.running() as sink:
        root = Path(place).resolve()
        file = intake.configured(root, sink.url, [f"folder-{number}" for number in range(folders)], "")
        with intake.daemon(root, file) as pid:
            time.sleep(5.0)  # the first scan
            cpu_s = _cost.cpu_s(pid)
            time.sleep(idle_s)
            used, memory = (_cost.cpu_s(pid) - cpu_s) / idle_s, _cost.memory(pid)
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        yield f"idle with {folders:,} folders, {idle_s:g} s"
        yield f"    CPU                             {used * 100:8.2f} % of a core"
        yield f"    memory                          {memory.pss / 1e6:8.1f} MB (PSS), {memory.rss / 1e6:.1f} MB (RSS)"
        yield f"    threads                         {threads:8}"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--waiting", type=int, default=100_000, help="files that wait at the start (100000), or 0")
    parser.add_argument("--burst", type=int, default=10_000, help="files that come at once (10000), or 0")
    parser.add_argument("--folders", type=int, default=1_000, help="folders of the idle daemon (1000), or 0")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds without anything to do (60)")
    parser.add_argument("--at", type=Path, default=Path("/var/tmp"), help="where to work (/var/tmp)")  # noqa: S108
    options = parser.parse_args()
    print(f"{options.at}: a sync takes {intake.sync_s(options.at) * 1e3:.2f} ms there", flush=True)
    parts = (
        options.folders and idle(options.at, options.folders, options.idle),
        options.waiting and waiting(options.at, options.waiting),
        options.burst and burst(options.at, options.burst),
    )
    for lines in filter(None, parts):
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
