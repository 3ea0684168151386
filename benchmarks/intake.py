"""Intake side by side: dropzone, and the shell script that an admin would write instead of it.

Both watch ten folders and import what comes into the same sink (`_sink`). In each round either side is started afresh
in folders of its own, gets files one after the other, is left alone for some seconds, and then gets a burst:

    one after the other   from right before the writer's close() to the first byte of the request at the sink
    burst                 from the first file's first byte to the last file lying in done/
    idle, burst           CPU of the program and all its children, and their memory

dropzone runs as it is shipped, with its ledger, checks, logs and syncs, all of which the script lacks; only `settle` is
short, because the script waits for nothing and would otherwise win every row by two seconds. "Beyond settle" is the
time less that. Rounds alternate, so that a busy machine slows both; the last column has the ratio of each round.
Figures are printed and not judged: much of them is what a sync costs on the disk (see `--at`), ten for each file.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import _cost
import _sink
from _sink import Sink

FOLDERS = tuple(f"folder-{number}" for number in range(10))  # the number is the segment, so that the script can know it
FILE_SIZE = 10_000  # bytes, at least
KEY = "benchmark-key"
SETTLE_S = 0.05
GAP_S = 0.02  # between two files that come one after the other
PATIENCE_S = 30.0  # without any progress

SCRIPT = r"""
cd "$1" || exit
inotifywait -m -r -e close_write -e moved_to --format '%w%f' inbox |
while IFS= read -r file; do
    case $file in *.csv) ;; *) continue ;; esac
    folder=${file%/*}
    folder=${folder##*/}
    if curl -sf -o /dev/null -H "Authorization: Bearer $KEY" -H "Accept: application/json" \
        -F "file=@$file;type=text/csv" -F clear=0 -F activeStatus=null \
        "$URL/api/3.2/messages/segments/${folder##*-}/import"
    then mv -- "$file" "done/$folder/"
    else mv -- "$file" "failed/$folder/"
    fi
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: `running(root, url)` yields its process id, once it watches, and ends it."""

    name: str
    settle_s: float
    running: Callable[[Path, str], AbstractContextManager[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What each side gets in each round."""

    files: int  # of the burst
    single: int  # files one after the other
    idle_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one side in one round."""

    delays_s: Sequence[float]
    settle_s: float
    idle_cpu_s: float  # CPU seconds per second
    idle: _cost.Memory
    burst_s: float
    burst_cpu_s: float
    burst_peak: int  # bytes, PSS
    files: int


# ------------------------------------------------------------------------------------------------- the two sides


@contextmanager
def dropzone(root: Path, url: str) -> Iterator[int]:
    """The installed daemon, its journal in a file, as a service manager has it."""
    file = configured(root, url, FOLDERS, f"settle: {SETTLE_S * 1000:.0f}ms")
    with daemon(root, file) as pid:
        yield pid


def configured(root: Path, url: str, folders: Sequence[str], defaults: str) -> Path:
    """A configuration with these folders, and its directories made; returns the file."""
    file = root / "dropzone.yaml"
    lines = "\n".join(f"  {name}: {{segment_id: {100 + n}, mode: lead}}" for n, name in enumerate(folders))
    file.write_text(f"""\
root: {root}
state_dir: {root}/state
accounts:
  main: {{base_url: "{url}", api_key: {{env: KEY}}}}
defaults: {{{defaults}}}
folders:
{lines}
""")
    subprocess.run([*command(file), "init"], check=True, stdout=subprocess.DEVNULL)
    return file


def command(file: Path) -> list[str]:
    """The installed command with the configuration `file`."""
    return [sys.executable, "-m", "dropzone", "-c", str(file)]


@contextmanager
def daemon(root: Path, file: Path, *, nice: int = 0) -> Iterator[int]:
    """Runs it with this niceness; its process id once it has told that it watches."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        (root / "notify").unlink(missing_ok=True)  # of one that was there before
        ready.bind(str(root / "notify"))
        ready.settimeout(PATIENCE_S)
        words = ["nice", "-n", str(nice), *command(file), "run"]
        with started(words, root, NOTIFY_SOCKET=str(root / "notify")) as pid:
            while not ready.recv(4096).startswith(b"READY=1"):
                pass
            yield pid


@contextmanager
def script(root: Path, url: str) -> Iterator[int]:
    """The shell script."""
    for above in ("inbox", "done", "failed"):
        for name in FOLDERS:
            (root / above / name).mkdir(parents=True)
    with started(["bash", "-c", SCRIPT, "script", str(root)], root, URL=url) as pid:
        wait_until(lambda: (root / "journal").read_text().count("Watches established"), lambda: 0)
        yield pid


@contextmanager
def started(command: Sequence[str], root: Path, **environment: str) -> Iterator[int]:
    """The program, in a session of its own, so that its children end with it."""
    with (root / "journal").open("wb") as journal:
        child = subprocess.Popen(
            command,
            env=os.environ | environment | {"KEY": KEY},
            stdin=subprocess.DEVNULL,
            stdout=journal,
            stderr=journal,
            start_new_session=True,
        )
    try:
        yield child.pid
    except TimeoutError:
        print(*(root / "journal").read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
        raise
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait()


# --------------------------------------------------------------------------------------------------- one round


def measure(side: Side, load: Load, at: Path) -> Figures:
    """One side in one round, from its start to its end, in a new folder below `at`."""
    with tempfile.TemporaryDirectory(prefix="dropzone-bench-", dir=at) as place, _sink.running() as sink:
        root = Path(place).resolve()
        with side.running(root, sink.url) as pid:
            delays = [single(root, sink, number) for number in range(load.single)]
            cpu_s = _cost.cpu_s(pid)
            time.sleep(load.idle_s)
            idle_cpu_s, idle = (_cost.cpu_s(pid) - cpu_s) / load.idle_s, _cost.memory(pid)
            cpu_s = _cost.cpu_s(pid)
            seconds, peak = burst(root, sink, pid, load)
            return Figures(
                delays_s=delays,
                settle_s=side.settle_s,
                idle_cpu_s=idle_cpu_s,
                idle=idle,
                burst_s=seconds,
                burst_cpu_s=_cost.cpu_s(pid) - cpu_s,
                burst_peak=peak,
                files=load.files,
            )


def single(root: Path, sink: Sink, number: int) -> float:
    """Hand over one file and wait until it is filed; the seconds from its close to the request."""
    before = len(sink.arrivals())
    file = (root / "inbox" / FOLDERS[number % len(FOLDERS)] / f"single-{number}.csv").open("wb", buffering=0)
    file.write(content(number))
    closed_ns = time.monotonic_ns()
    file.close()
    wait_until(lambda: filed(root) > number, lambda: 0)
    (arrival,) = sink.arrivals()[before:]
    assert arrival.size > FILE_SIZE
    time.sleep(GAP_S)
    return (arrival.first_ns - closed_ns) / 1e9


def burst(root: Path, sink: Sink, pid: int, load: Load) -> tuple[float, int]:
    """Hand over many files at once: seconds until the last is filed, and the peak of memory."""
    begun, peak = pour(root, range(load.single, load.single + load.files)), 0  # none that was sent before

    def arrived() -> int:
        nonlocal peak
        peak = max(peak, _cost.memory(pid).pss)
        return sink.count()

    total = load.single + load.files
    wait_until(lambda: arrived() >= total, arrived, pause_s=0.05)
    wait_until(lambda: filed(root) >= total, lambda: filed(root), pause_s=0.01)
    seconds = time.monotonic() - begun
    assert sink.count() == total, "a file was sent twice"
    return seconds, peak


def pour(root: Path, numbers: range) -> float:
    """Write these files into the inboxes as fast as it goes; returns when the first began, on the monotonic clock."""
    contents = [content(number) for number in numbers]
    begun = time.monotonic()
    for number, text in zip(numbers, contents, strict=True):
        (root / "inbox" / FOLDERS[number % len(FOLDERS)] / f"burst-{number}.csv").write_bytes(text)
    return begun


def content(number: int) -> bytes:
    """A CSV of `FILE_SIZE` bytes or a little more, another one for each `number`."""
    lines = ["email,varr_firstname,varr_lastname\n"]
    size = 0
    while size < FILE_SIZE:
        lines.append(f"jane.doe.{number}.{len(lines)}@mail.example.com,Jane,Doe\n")
        size += len(lines[-1])
    return "".join(lines).encode()


def filed(root: Path) -> int:
    """How many CSVs lie in done/."""
    return sum(name.endswith(".csv") for _, _, names in os.walk(root / "done") for name in names)


def wait_until(condition: Callable[[], object], progress: Callable[[], int], *, pause_s: float = 0.002) -> None:
    """Look until `condition` holds. Raises TimeoutError when `progress` gave nothing new for too long."""
    last, since = progress(), time.monotonic()
    while not condition():
        time.sleep(pause_s)
        if time.monotonic() - since > PATIENCE_S:
            if progress() == last:
                raise TimeoutError("nothing went on any more; above is what the program said last")
            last, since = progress(), time.monotonic()


# --------------------------------------------------------------------------------------------------- the figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    unit: str
    of: Callable[[Figures], float]
    digits: int = 1


def share(values: Sequence[float], part: float) -> float:
    """The value that `part` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


ROWS = (
    Row(name="last byte to arrival, median", unit="ms", of=lambda one: median(one.delays_s) * 1e3),
    Row(name="last byte to arrival, p99", unit="ms", of=lambda one: share(one.delays_s, 0.99) * 1e3),
    Row(name="  beyond settle, median", unit="ms", of=lambda one: (median(one.delays_s) - one.settle_s) * 1e3),
    Row(name="  beyond settle, p99", unit="ms", of=lambda one: (share(one.delays_s, 0.99) - one.settle_s) * 1e3),
    Row(name="burst", unit="files/s", of=lambda one: one.files / one.burst_s, digits=0),
    Row(name="burst, CPU for 1,000 files", unit="s", of=lambda one: one.burst_cpu_s / one.files * 1e3, digits=2),
    Row(name="burst, peak memory (PSS)", unit="MB", of=lambda one: one.burst_peak / 1e6),
    Row(name="idle, CPU", unit="ms/s", of=lambda one: one.idle_cpu_s * 1e3, digits=2),
    Row(name="idle, memory (PSS)", unit="MB", of=lambda one: one.idle.pss / 1e6),
    Row(name="idle, memory (RSS)", unit="MB", of=lambda one: one.idle.rss / 1e6),
)


def table(sides: Sequence[Side], rounds: Sequence[Sequence[Figures]]) -> Iterator[str]:
    """The medians of each side; with two sides the ratio of each round, first to second."""
    heads = "".join(f"{side.name:>12}" for side in sides)
    yield f"{'':32}{'':>8}{heads}" + (f"   {sides[0].name} / {sides[1].name}, each round" if len(sides) > 1 else "")
    for row in ROWS:
        values = [[row.of(figures) for figures in each] for each in rounds]
        medians = "".join(f"{median(column):12,.{row.digits}f}" for column in zip(*values, strict=True))
        yield f"{row.name:32}{row.unit:>8}{medians}" + (f"   {ratios(values)}" if len(sides) > 1 else "")


def ratios(values: Sequence[Sequence[float]]) -> str:
    """First to second of each round; none where the second cost nothing that could be measured."""
    return " ".join(f"{first / second:.2f}" if second > 0 else "-" for first, second in values)


# ------------------------------------------------------------------------------------------------ the command line


def main() -> None:
    """Measure, and print."""
    options = parse()
    missing = [name for name in ("inotifywait", "curl", "bash") if shutil.which(name) is None]
    sides = [Side(name="dropzone", settle_s=SETTLE_S, running=dropzone)]
    if missing:
        print(f"The script's side is left out, because {' and '.join(missing)} cannot be found.")
        print("To have both, on Debian or Ubuntu: apt install inotify-tools curl bash\n")
    else:
        sides.append(Side(name="script", settle_s=0.0, running=script))
    load = Load(files=options.files, single=max(5, options.files // 10), idle_s=3.0 if options.quick else 15.0)
    rounds = []
    print(heading(options, load), flush=True)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds} …", file=sys.stderr, flush=True)
        rounds.append([measure(side, load, options.at) for side in sides])
    print("\n".join(table(sides, rounds)))


def parse() -> argparse.Namespace:
    """The options; `--quick` gives way to what is said beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, help="files in the burst (2000); a tenth of it comes one by one before")
    parser.add_argument("--rounds", type=int, help="rounds of both sides in turn (3)")
    parser.add_argument("--quick", action="store_true", help="one round, 200 files, 3 s idle: a look, no measurement")
    # /tmp is often in memory, where a sync costs nothing; /var/tmp outlives a reboot, so it is on a disk.
    parser.add_argument("--at", type=Path, default=Path("/var/tmp"), help="where to work (/var/tmp)")  # noqa: S108
    options = parser.parse_args()
    options.files = options.files or (200 if options.quick else 2000)
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def heading(options: argparse.Namespace, load: Load) -> str:
    """What was measured where."""
    today = datetime.now(UTC).date()
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    command = ["df", "--output=fstype", str(options.at)]
    system = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    return (
        f"{today}, {machine}, SQLite {sqlite3.sqlite_version}\n"
        f"{options.at} is {system}; a sync takes {sync_s(options.at) * 1e3:.2f} ms there\n"
        f"{load.single} files of 10 KB one after the other, {load.idle_s:g} s idle, {load.files:,} files of 10 KB over "
        f"{len(FOLDERS)} folders in one burst; settle {SETTLE_S * 1e3:g} ms instead of 2 s\n"
        f"medians of {options.rounds} round{'s' if options.rounds > 1 else ''}"
    )


def sync_s(at: Path) -> float:
    """How long a small file below `at` takes to be written and synced; the median of some, in seconds."""
    took = []
    with tempfile.TemporaryFile(dir=at, buffering=0) as file:
        for _ in range(50):
            begun = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            took.append(time.perf_counter() - begun)
    return median(took)


if __name__ == "__main__":
    main()
