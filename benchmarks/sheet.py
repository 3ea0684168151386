"""Checking a CSV side by side: the engine with one core and with all, and what else reads or copies a file.

Makes its files, runs every program on each of them in a process of its own, in turns, and prints for each the time
against that of ``sha256sum`` of the same file in the same round, the CPU time likewise, and the peak of its memory:

    plain      four columns, every row canonical but 3 % with a cell in quotes
    repaired   30 % of the rows with blanks around a cell
    quoted     every cell of two columns in quotes that need not be there
    bad        1 % of the rows bad
    repeated   10 % of the addresses come again
    md5 …      addresses alone, each to be replaced by its digest

Figures are printed and not judged. polars and csvkit are installed into a place of their own for the time of the run
where they are missing (`--no-install` leaves them out, and so does whatever goes wrong then); the slow ones (csv,
csvkit) read a tenth of the rows, and their figures are told as ten times that. What they find is not compared: none of
them knows the rules, and csv is made to look at no more than the number of fields and a simple pattern for the address.
Where addresses are to be replaced, it stands there twice: as it is, and with ``hashlib`` for each of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROWS = 10_000_000
_TENTH = 10

CHECK = """
import json, sys
from dropzone.config import Folder
from dropzone.sheet import check
from dropzone.sheet.patterns import ENGINES
source, scratch, cores, engine, keys = sys.argv[1:]
place = {"name": "a", "base": "/", "path": "/", "account": "a", "segment_id": 1, "mode": "lead", "bad_rows": "100%"}
folder = Folder.from_settings(json.dumps({**place, **json.loads(keys)}))
with open(source, "rb") as file, open(scratch + "/out", "wb") as out, open(scratch + "/rejects", "wb") as rejects:
    check(file, out, rejects, folder, cores=int(cores), scratch=scratch, engine=ENGINES[engine])
"""
CSV = r"""
import csv, hashlib, re, sys
digest = getattr(hashlib, sys.argv[3]) if len(sys.argv) > 3 else None
address = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]+").fullmatch
with open(sys.argv[1], newline="") as file, open(sys.argv[2] + "/out", "w", newline="") as out:
    rows, write = csv.reader(file, strict=True), csv.writer(out, lineterminator="\n").writerow
    head = next(rows)
    write(head)
    for row in rows:
        if len(row) == len(head) and address(row[0].strip()):
            cells = [cell.strip() for cell in row]
            if digest:
                cells[0] = digest(cells[0].lower().encode()).hexdigest()
            write(cells)
"""
POLARS = r"""
import sys
import polars as pl
table = pl.scan_csv(sys.argv[1], infer_schema=False)
table.filter(pl.col("email").str.contains(r"^[^@\s]+@[^@\s]+\.[a-z]+$")).sink_csv(sys.argv[2] + "/out")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one run cost: seconds, CPU seconds of it and its children, bytes."""

    wall_s: float
    cpu_s: float
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Something that reads a file: `command(file, scratch)`; `share` is the part of the rows that it gets."""

    name: str
    command: Callable[[Path, Path], Sequence[str]]
    share: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """A sort of file: `row(chance, number)` gives one line; `keys` are the folder's."""

    name: str
    head: str
    row: Callable[[random.Random, int], str]
    keys: dict[str, object]


# ----------------------------------------------------------------------------------------------------- the files

_FIRST = ["Anna", "Ben", "Carla", "David", "Eva", "Felix", "Greta", "Hans", "Ida", "Jonas"]
_LAST = ["Meier", "Schulz", "Weber", "Wagner", "Becker", "Hoffmann", "Koch", "Richter", "Klein", "Wolf"]
_DOMAINS = ["example.com", "mail.example.org", "web.example", "post.example.net", "firma-gmbh.example"]
_TAGS = ["news", "vip", "2026", "winter"]
_HEAD = "email,varr_firstname,varr_lastname,tag-add"


def _address(chance: random.Random, number: int) -> str:
    return f"{chance.choice(_FIRST).lower()}.{chance.choice(_LAST).lower()}{number}@{chance.choice(_DOMAINS)}"


def _plain(chance: random.Random, number: int) -> str:
    tags = '"news,vip"' if chance.random() < 0.03 else chance.choice(_TAGS)
    return f"{_address(chance, number)},{chance.choice(_FIRST)},{chance.choice(_LAST)},{tags}"


def _repaired(chance: random.Random, number: int) -> str:
    row = _plain(chance, number)
    return row.replace(",", ", ", 1) if chance.random() < 0.3 else row


def _quoted(chance: random.Random, number: int) -> str:
    return f'{_address(chance, number)},"{chance.choice(_FIRST)}","{chance.choice(_LAST)}",{chance.choice(_TAGS)}'


def _bad(chance: random.Random, number: int) -> str:
    row = _plain(chance, number)
    return row.replace("@", " at ") if chance.random() < 0.01 else row


def _repeated(chance: random.Random, number: int) -> str:
    same = chance.random() < 0.1
    return f"twice{number // 10 if same else number}@example.com,{chance.choice(_FIRST)},{chance.choice(_LAST)},vip"


SORTS = [
    Sort(name="plain", head=_HEAD, row=_plain, keys={}),
    Sort(name="repaired", head=_HEAD, row=_repaired, keys={}),
    Sort(name="quoted", head=_HEAD, row=_quoted, keys={}),
    Sort(name="bad", head=_HEAD, row=_bad, keys={}),
    Sort(name="repeated", head=_HEAD, row=_repeated, keys={}),
    *(
        Sort(name=kind, head="email", row=_address, keys={"mode": "suppress", "hash": kind, "hash_plain": True})
        for kind in ("md5", "sha256", "sha512")
    ),
]


def make(sort: Sort, rows: int, path: Path) -> None:
    """Write a file of this sort, the same for the same number of rows."""
    chance = random.Random(1)
    with path.open("w") as file:
        file.write(f"{sort.head}\n")
        for start in range(0, rows, 10_000):
            numbers = range(start, min(rows, start + 10_000))
            file.write("".join(f"{sort.row(chance, number)}\n" for number in numbers))


# ------------------------------------------------------------------------------------------------- the programs


def programs(sort: Sort, others: str) -> Iterator[Program]:
    """All that is to be compared; `sha256sum`, the measure, first. `others` is a Python that has polars and csvkit."""
    yield Program(name="sha256sum", command=lambda file, _: ["sha256sum", str(file)])
    yield Program(name="cp", command=lambda file, scratch: ["cp", str(file), str(scratch / "out")])
    engines = ["RE2", "re"] if importlib.util.find_spec("re2") else ["re"]
    for engine in engines:
        for cores in dict.fromkeys((1, len(os.sched_getaffinity(0)))):
            yield Program(name=f"dropzone {engine} {cores}", command=_checker(sort, engine, cores))
    yield Program(name="csv module", command=_script(CSV), share=_TENTH)
    if kind := sort.keys.get("hash"):
        yield Program(name="csv, hashlib", command=_script(CSV, more=[str(kind)]), share=_TENTH)
    if others:
        yield Program(name="polars", command=_script(POLARS, others))
        clean = str(Path(others).with_name("csvclean"))
        yield Program(name="csvkit", command=lambda file, _: [clean, "-a", str(file)], share=_TENTH)


def install(place: Path) -> str:
    """A Python with polars and csvkit in a place of its own; empty, with a word why, where it cannot be made."""
    python = place / "bin" / "python"
    try:
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, capture_output=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "polars", "csvkit"]
        subprocess.run(pip, check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"without polars and csvkit, which could not be installed: {error}")
        return ""
    return str(python)


def _checker(sort: Sort, engine: str, cores: int) -> Callable[[Path, Path], Sequence[str]]:
    keys = json.dumps(sort.keys)
    return lambda file, scratch: [sys.executable, "-c", CHECK, str(file), str(scratch), str(cores), engine, keys]


def _script(
    text: str, python: str = sys.executable, *, more: Sequence[str] = ()
) -> Callable[[Path, Path], Sequence[str]]:
    return lambda file, scratch: [python, "-c", text, str(file), str(scratch), *more]


def run(program: Program, files: dict[int, Path], scratch: Path) -> Cost:
    """Run it once, in a process of its own."""
    command = [*program.command(files[program.share], scratch)]
    for left in ("out", "rejects"):  # to give back what an earlier one wrote is not this one's work
        (scratch / left).unlink(missing_ok=True)
    started = time.perf_counter()
    nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(shutil.which(command[0]) or command[0], command, os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(pid, 0)
    if status and program.name != "csvkit":  # which ends with 1 where it finds something
        raise SystemExit(f"{program.name} ended with {os.waitstatus_to_exitcode(status)}")
    wall_s, cpu_s = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    # For a program with children this is the largest of them, which is what the limit of memory is about.
    return Cost(wall_s=wall_s * program.share, cpu_s=cpu_s * program.share, peak=usage.ru_maxrss * 1024)


# ---------------------------------------------------------------------------------------------------- the table


def compare(sort: Sort, rows: int, rounds: int, scratch: Path, names: Sequence[str], others: str) -> None:
    """Make the file, run all in turns, print the table."""
    files = {share: scratch / f"{share}.csv" for share in (1, _TENTH)}
    for share, path in files.items():
        make(sort, rows // share, path)
    chosen = [each for each in programs(sort, others) if not names or each.name in {"sha256sum", *names}]
    costs: dict[str, list[Cost]] = {each.name: [] for each in chosen}
    for _ in range(rounds):
        for each in chosen:
            costs[each.name].append(run(each, files, scratch))
    print(f"\n{sort.name}: {rows:,} rows, {files[1].stat().st_size / 1e6:.0f} MB")
    print(f"{'':16}{'wall s':>8}{'ratio':>7}{'CPU':>7}{'MiB':>6}")
    for name, found in costs.items():
        rounds_ = list(zip(found, costs["sha256sum"], strict=True))
        wall = median(cost.wall_s / base.wall_s for cost, base in rounds_)
        cpu = median(cost.cpu_s / base.cpu_s for cost, base in rounds_)
        wall_s, peak = median(cost.wall_s for cost in found), max(cost.peak for cost in found)
        print(f"{name:16}{wall_s:8.2f}{wall:7.2f}{cpu:7.2f}{peak / (1 << 20):6.0f}", flush=True)


def main() -> None:
    """Read the options, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of each file (default {ROWS:,})")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs (default 3)")
    parser.add_argument("--only", nargs="*", default=[], choices=[sort.name for sort in SORTS], help="sorts of files")
    parser.add_argument("--programs", nargs="*", default=[], help="names as the table has them (default: all)")
    parser.add_argument("--at", type=Path, help="where the files lie meanwhile (default: the system's place)")
    parser.add_argument("--no-install", action="store_true", help="leave polars and csvkit out")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load:.1f} at the start")
    print("ratios: against sha256sum of the same file in the same round")
    with tempfile.TemporaryDirectory(dir=options.at) as place:
        others = "" if options.no_install else install(Path(place, "others"))
        for sort in SORTS:
            if not options.only or sort.name in options.only:
                with tempfile.TemporaryDirectory(dir=place) as scratch:
                    compare(sort, options.rows, options.rounds, Path(scratch), options.programs, others)


if __name__ == "__main__":
    main()
