"""Uploads side by side: `optipub` as the daemon uses it, and curl.

One file of a gigabyte, and thousands of 10 KB one after the other, by http and by https, all into the same sink on this
machine (`_sink`). For the small ones curl is started once per file, as scripts do it. Rounds alternate, so that a busy
machine slows both sides.

    wall     seconds from the first file to the last answer. Of dropzone without the start of Python: a daemon runs
    CPU      user and system, of the sender alone
    memory   the peak of the sender's resident memory; of curl an upper bound (that of this program, when it forks)
    told     the longest time without word of progress, in the middle of an upload

Figures are printed and not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import _sink
import trustme

KEY = "benchmark-key"
ROW = b"jane.doe.%09d@mail.example.com,Jane,Doe\n"

# One process for one measurement, so that the peak of its memory is its own.
SENDER = """
import json, resource, sys, time
from pathlib import Path
from dropzone.config import load
from dropzone.drop import Accepted, Drop, State
from dropzone.optipub import OptiPub

config = load(Path(sys.argv[1]))
folder = config.folders["bench"]
drop = Drop(
    id="2N23520SJ9AH", folder="bench", name=b"a.csv", account="main", segment_id=1, lane="main/1", base="/",
    settings="", size=1, claimed_at=0, state=State.QUEUED, due_at=0, changed_at=0,
)
files = sys.argv[2:]
before, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
optipub, gap, last = OptiPub(config.accounts["main"], now=time.time), 0.0, begun

def progress(_):
    global gap, last
    now = time.monotonic()
    gap, last = max(gap, now - last), now

for file in files:
    path = Path(file)
    with path.open("rb") as payload:
        last = time.monotonic()
        upload = optipub.build(drop, folder, payload, path.stat().st_size)
        outcome = upload.send(progress=progress)
    assert isinstance(outcome, Accepted), outcome
wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
optipub.close()
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({"wall_s": wall, "cpu_s": cpu, "peak": after.ru_maxrss * 1024, "gap_s": gap}))
"""
SCRIPT = r"""
url=$1; ca=$2; shift 2
for file; do
    curl -sf -o /dev/null --cacert "$ca" -H "Authorization: Bearer $KEY" -H "Accept: application/json" \
        -F "file=@$file;type=text/csv" -F clear=0 -F activeStatus=null "$url/api/3.2/messages/segments/1/import" || exit
done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one side needed for one load: seconds, CPU seconds, bytes, seconds."""

    wall_s: float
    cpu_s: float
    peak: int
    gap_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Files to send, in one scheme."""

    name: str
    files: Sequence[Path]
    sink: _sink.Sink


# --------------------------------------------------------------------------------------------------- the two sides


def dropzone(load: Load, at: Path) -> Figures:
    """The upload as the daemon does it: one client, the files one after the other."""
    config = at / "dropzone.yaml"
    config.write_text(f"""\
root: {at}/root
state_dir: {at}/state
accounts:
  main: {{base_url: "{load.sink.url}", api_key: {{env: KEY}}, ca_file: "{at}/ca.pem"}}
folders:
  bench: {{segment_id: 1, mode: lead}}
""")
    command = [sys.executable, "-c", SENDER, str(config), *map(str, load.files)]
    done = subprocess.run(command, env=os.environ | {"KEY": KEY}, stdout=subprocess.PIPE, check=True)
    return Figures(**json.loads(done.stdout))


def curl(load: Load, at: Path) -> Figures:
    """One process per file. The shell's start is counted: it is a millisecond."""
    command = ["bash", "-c", SCRIPT, "script", load.sink.url, str(at / "ca.pem"), *map(str, load.files)]
    begun = time.monotonic()
    with subprocess.Popen(command, env=os.environ | {"KEY": KEY}) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - begun
    assert child.returncode == 0, "curl failed"
    return Figures(wall_s=wall_s, cpu_s=used.ru_utime + used.ru_stime, peak=used.ru_maxrss * 1024)


SIDES: dict[str, Callable[[Load, Path], Figures]] = {"dropzone": dropzone, "curl": curl}


# --------------------------------------------------------------------------------------------------------- loads


def write_csv(path: Path, size: int) -> Path:
    """A CSV of `size` bytes or a row more."""
    with path.open("wb") as out:
        out.write(b"email,varr_firstname,varr_lastname\n")
        for first in range(0, size // len(ROW % 0) + 1, 20_000):
            count = min(20_000, size // len(ROW % 0) + 1 - first)
            out.write(b"".join(ROW % (first + n) for n in range(count)))
    return path


def measure(loads: Sequence[Load], rounds: int, at: Path) -> Iterator[str]:
    """The lines of the table, one load after the other; each round has both sides."""
    yield f"{'':24}{'wall s':>20}{'CPU s':>20}{'memory MB':>20}   told   dropzone / curl, each round"
    yield f"{'':24}" + f"{'dropzone':>12}{'curl':>8}" * 3
    for load in loads:
        found = []
        for number in range(rounds):
            order = list(SIDES.items())[:: 1 if number % 2 else -1]
            found.append({name: side(load, at) for name, side in order})
        yield line(load, found)


def line(load: Load, found: Sequence[dict[str, Figures]]) -> str:
    """One load: the medians of each side, then the ratio of each round."""

    def both(of: Callable[[Figures], float], digits: int) -> str:
        columns = [median(of(each[name]) for each in found) for name in SIDES]
        return f"{columns[0]:12.{digits}f}{columns[1]:8.{digits}f}"

    def ratios(of: Callable[[Figures], float]) -> str:
        return " ".join(f"{of(each['dropzone']) / of(each['curl']):.2f}" for each in found)

    figures = both(lambda one: one.wall_s, 2) + both(lambda one: one.cpu_s, 2) + both(lambda one: one.peak / 1e6, 0)
    gap = max(each["dropzone"].gap_s for each in found)
    walls, cpus = ratios(lambda one: one.wall_s), ratios(lambda one: one.cpu_s)
    return f"{load.name:24}{figures}{gap:7.2f}   wall {walls}; CPU {cpus}"


# ------------------------------------------------------------------------------------------------- the command line


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of the large file (1 GiB)")
    parser.add_argument("--files", type=int, default=2000, help="small ones (2000)")
    parser.add_argument("--rounds", type=int, default=3, help="of both sides in turn (3)")
    # In memory, or the disk is still busy with the file just made while it is sent.
    memory = Path("/dev/shm")  # noqa: S108
    default = memory if os.access(memory, os.W_OK) else None
    parser.add_argument("--at", type=Path, default=default, help="where the files are made (/dev/shm, else /tmp)")
    options = parser.parse_args()
    if not shutil.which("curl"):
        sys.exit("There is no curl to compare with. On Debian or Ubuntu: apt install curl")
    today, load = datetime.now(UTC).date(), os.getloadavg()[0]
    print(f"{today}, {os.cpu_count()} cores (load {load:.1f} before), Linux {platform.release()}", end=", ")
    print(f"Python {platform.python_version()}, medians of {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="dropzone-bench-", dir=options.at) as place, ExitStack() as stack:
        at = Path(place).resolve()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(at / "ca.pem"))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(at / "server.pem"))
        sinks = {
            "http": stack.enter_context(_sink.running()),
            "https": stack.enter_context(_sink.running(at / "server.pem")),
        }
        (at / "small").mkdir()
        small = [write_csv(at / "small" / f"{number}.csv", 10_000) for number in range(options.files)]
        large = [write_csv(at / "large.csv", options.bytes)]
        sizes = {f"{options.bytes / (1 << 20):,.0f} MiB": large, f"{options.files:,} x 10 KB": small}
        loads = [
            Load(name=f"{size}, {scheme}", files=files, sink=sink)
            for size, files in sizes.items()
            for scheme, sink in sinks.items()
        ]
        for text in measure(loads, options.rounds, at):
            print(text, flush=True)


if __name__ == "__main__":
    main()
