"""How long an operator waits for an answer: the reading commands with much in the ledger, from typing to the last line.

Each is a process of its own, as it is typed, in turn with an interpreter that does nothing; the figures are minimum,
median and maximum of so many rounds, wall time and CPU time. Three times: without a daemon, with one under load, which
then has files of 10 KB and of 32 MB to check and send, always more than it gets done and at most a thousand at a time,
and with the same at the niceness that the unit in systemd/ gives it. Printed, and not judged.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import _sink
import intake

from dropzone import config as configuration
from dropzone.drop import Claimed, Discarded, Filed, Withheld, make_id
from dropzone.ledger.sqlite import SQLiteLedger

BATCH = 500
NICE = 5
BACKLOG = 1_000  # drops that wait for their turn
NAMES = [f"folder-{number}" for number in range(10)]


def fill(config: configuration.Config, drops: int, open_: int) -> str:
    """Put `drops` into the ledger, all but `open_` of them finished and these held; the ID of the last one."""
    ledger = SQLiteLedger(config.state_dir)
    now, folders = time.time(), list(config.folders.values())
    ids = [make_id(now - drops + number) for number in range(drops)]
    claims = [
        (
            id,
            Claimed(
                folder=folder.name,
                name=b"list-%d.csv" % number,
                account=folder.account,
                segment_id=folder.segment_id,
                lane=folder.lane,
                base=str(folder.base),
                settings=folder.settings_json(),
                size=4096,
            ),
        )
        for number, id in enumerate(ids)
        for folder in [folders[number % len(folders)]]
    ]
    for start in range(0, drops, BATCH):
        ledger.commit_all(claims[start : start + BATCH], at=now)
    ledger._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - a ledger to read from, not to rely on
    for number, id in enumerate(ids):
        if number >= drops - open_:
            ledger.commit(id, Withheld(guard="min_rows", why="the file has 2 good rows, the folder asks for 5"), at=now)
        else:
            ledger.commit(id, Discarded(by="bench", why="test"), at=now)
            ledger.commit(id, Filed(path=f"failed/{id}.csv"), at=now)
    ledger.close()
    return ids[-1]


class Cost(NamedTuple):
    """What one command took."""

    wall_s: float
    cpu_s: float


def cost_of(words: list[str]) -> Cost:
    """One command, as a process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@contextmanager
def busy(place: Path, file: Path, folders: list[configuration.Folder], *, nice: int) -> Iterator[None]:
    """A daemon that has more to do than it gets done, for as long as the block lasts."""
    ended, inboxes = threading.Event(), [folder.path for folder in folders]

    def waiting() -> int:
        return sum(1 for folder in folders for _ in (folder.base / "work").iterdir())

    def feed() -> None:
        number, large = 0, b"".join(intake.content(10**9 + number) for number in range(3200))
        while not ended.is_set():
            for inbox in inboxes:
                if sum(1 for _ in inbox.iterdir()) < 5 and waiting() < BACKLOG:
                    number += 1
                    (inbox / f"small-{number}.csv").write_bytes(intake.content(number))
            if number and not number % 50:
                (inboxes[0] / f"large-{number}.csv").write_bytes(large)
            ended.wait(0.05)

    with intake.daemon(place, file, nice=nice):
        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            time.sleep(3.0)
            yield
        finally:
            ended.set()
            feeding.join()


def measure(commands: dict[str, list[str]], rounds: int) -> Iterator[str]:
    """A line for each command."""
    took: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            took[name].append(cost_of(words))
    for name, costs in took.items():
        figures = "   ".join(
            f"{min(times) * 1000:6.0f} {median(times) * 1000:6.0f} {max(times) * 1000:6.0f}"
            for times in zip(*costs, strict=True)
        )
        yield f"    {name:<16} {figures} ms"


def typed(config: configuration.Config, file: Path, id: str) -> dict[str, list[str]]:
    """The words of each command, and of an interpreter that does nothing; `id` is that of a drop."""
    dropzone = [sys.executable, "-m", "dropzone", "-c", str(file)]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "status": [*dropzone, "status"],
        "queue": [*dropzone, "queue"],
        "queue --ages": [*dropzone, "queue", "--ages"],
        "show ID": [*dropzone, "show", id],
        "why PATH": [*dropzone, "why", str(config.folders[NAMES[0]].path / "x.csv")],
        "plan": [*dropzone, "plan", "--folder", NAMES[1]],
    }


def main(say: Callable[[str], None] = print) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drops", type=int, default=10_000)
    parser.add_argument("--open", type=int, default=200, dest="open_")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start would compile anew
    say(f"{given.drops:,} drops in the ledger, {given.open_:,} of them open; minimum, median, maximum of wall, CPU")
    for nice in (0, NICE):
        with ExitStack() as stack:  # anew for each, or the second would find the backlog of the first
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dropzone-bench-")))
            sink = stack.enter_context(_sink.running())
            file = intake.configured(place, sink.url, NAMES, "settle: 50ms, scan: 15s")
            config = configuration.load(file)
            commands = typed(config, file, fill(config, given.drops, given.open_))
            for words in commands.values():
                cost_of(words)  # the first time compiles
            if not nice:
                say(f"without a daemon, load {os.getloadavg()[0]:.1f}")
                for line in measure(commands, given.rounds):
                    say(line)
            stack.enter_context(busy(place, file, list(config.folders.values()), nice=nice))
            say(f"with a daemon under load, its niceness {nice}")
            for line in measure(commands, given.rounds):
                say(line)
            say(f"    load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
