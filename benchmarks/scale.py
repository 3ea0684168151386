"""Many files and many folders: what the daemon takes when there is much of either.

    waiting   so many files lie in ten inboxes when it starts: from the start to the first request and to the filing of
              the first thousands, and the peak of its memory meanwhile
    burst     so many files come at once into ten inboxes: until the last is filed, and the peak of memory
    idle      so many folders and nothing to do, scanned every 15 s as is the default: CPU and memory

The daemon is the installed command with its ledger, checks, logs and syncs. Quiet times are short (see `intake`): what
a file waits for on purpose is no cost. Figures are printed and not judged; the disk has its part in them (see `--at`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import _cost
import _sink
import intake
from intake import FOLDERS, SETTLE_S

QUIET = f"settle: {SETTLE_S * 1000:.0f}ms, settle_unseen: {SETTLE_S * 1000:.0f}ms"


def waiting(at: Path, files: int, until: int) -> Iterator[str]:
    """The lines about `files` that wait at the start; ends when `until` of them are filed."""
    with tempfile.TemporaryDirectory(prefix="dropzone-bench-", dir=at) as place, _sink.running() as sink:
        root = Path(place).resolve()
        file = intake.configured(root, sink.url, FOLDERS, QUIET)
        for number in range(files):
            inbox = root / "inbox" / FOLDERS[number % len(FOLDERS)]
            (inbox / f"waiting-{number:06}.csv").write_bytes(b"email\njane.doe.%d@example.com\n" % number)
        begun, peak, first = time.monotonic(), 0, 0.0
        with intake.daemon(root, file) as pid:

            def arrived() -> int:
                nonlocal peak, first
                count = len(sink.arrivals())
                peak = max(peak, _cost.memory(pid).pss)
                first = first or (sink.arrivals()[0].first_ns / 1e9 - begun if count else 0.0)
                return count

            intake.wait_until(lambda: arrived() >= until, arrived, pause_s=0.1)
            seconds = time.monotonic() - begun
        yield f"{files:,} files waiting at the start"
        yield f"    start to the first request      {first - SETTLE_S:8.1f} s, beyond the quiet time"
        yield f"    start to request {until:>8,}       {seconds:8.1f} s"
        yield f"    peak memory (PSS)               {peak / 1e6:8.1f} MB"


def burst(at: Path, files: int) -> Iterator[str]:
    """The lines about a burst of `files` files of 10 KB."""
    with tempfile.TemporaryDirectory(prefix="dropzone-bench-", dir=at) as place, _sink.running() as sink:
        root = Path(place).resolve()
        with intake.dropzone(root, sink.url) as pid:
            seconds, peak = intake.burst(root, sink, pid, intake.Load(files=files, single=0, idle_s=0.0))
        yield f"a burst of {files:,} files into {len(FOLDERS)} folders"
        yield f"    all filed after                 {seconds:8.1f} s, {files / seconds:.0f} files/s"
        yield f"    peak memory (PSS)               {peak / 1e6:8.1f} MB"


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
    parser.add_argument("--waiting", type=int, default=100_000, help="files that wait at the start (100000)")
    parser.add_argument("--until", type=int, default=2_000, help="how many of them to have sent (2000)")
    parser.add_argument("--burst", type=int, default=10_000, help="files that come at once (10000)")
    parser.add_argument("--folders", type=int, default=1_000, help="folders of the idle daemon (1000)")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds without anything to do (60)")
    parser.add_argument("--at", type=Path, default=Path("/var/tmp"), help="where to work (/var/tmp)")  # noqa: S108
    options = parser.parse_args()
    print(f"{options.at}: a sync takes {intake.sync_s(options.at) * 1e3:.2f} ms there", flush=True)
    for lines in (
        idle(options.at, options.folders, options.idle),
        waiting(options.at, options.waiting, min(options.until, options.waiting)),
        burst(options.at, options.burst),
    ):
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
