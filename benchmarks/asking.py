"""How long an operator waits for an answer: the reading commands with much in the ledger, from typing to the last line.

Each is a process of its own, as it is typed, in turn with an interpreter that does nothing; the figures are minimum,
median and maximum of so many rounds. Printed, and not judged.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import _sink
import intake

from dropzone import config as configuration
from dropzone.drop import Claimed, Discarded, Filed, Withheld, make_id
from dropzone.ledger.sqlite import SQLiteLedger

BATCH = 500
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


def seconds_of(words: list[str]) -> float:
    """How long one command takes, as a process."""
    began = time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def measure(place: Path, url: str, drops: int, open_: int, rounds: int) -> Iterator[str]:
    """A line for each command."""
    file = intake.configured(place, url, NAMES, "scan: 15s")
    config = configuration.load(file)
    id = fill(config, drops, open_)
    dropzone = [sys.executable, "-m", "dropzone", "-c", str(file)]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "status": [*dropzone, "status"],
        "queue": [*dropzone, "queue"],
        "queue --ages": [*dropzone, "queue", "--ages"],
        "show ID": [*dropzone, "show", id],
        "why PATH": [*dropzone, "why", str(config.folders[NAMES[0]].path / "x.csv")],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for words in commands.values():
        seconds_of(words)  # the first time compiles
    for _ in range(rounds):
        for name, words in commands.items():
            took[name].append(seconds_of(words))
    yield f"{drops:,} drops in the ledger, {open_:,} of them open; load {os.getloadavg()[0]:.1f}"
    for name, times in took.items():
        low, middle, high = min(times), statistics.median(times), max(times)
        yield f"    {name:<16} {low * 1000:6.0f} {middle * 1000:6.0f} {high * 1000:6.0f} ms"


def main(say: Callable[[str], None] = print) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drops", type=int, default=10_000)
    parser.add_argument("--open", type=int, default=200, dest="open_")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start would compile anew
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="dropzone-bench-"))
        sink = stack.enter_context(_sink.running())
        for line in measure(Path(place), sink.url, given.drops, given.open_, given.rounds):
            say(line)


if __name__ == "__main__":
    main()
