"""Partners at work: their files, their clients, and what became of all uploads at once in the daemon's folders.

Which server they speak to stands in the test that uses this. The daemon is the installed command, as a user of its own
whose only capability is CAP_LEASE; partners' files are another user's. The sandbox says what arrived.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import pytest
from scene import Scene, make_scene
from server import Server
from unprivileged import NOBODY, unprivileged

from dropzone.ledger.sqlite import SQLiteReader

PARTNER, PARTNER_GID = "games", 60  # every Debian has this user, and nothing else uses it
FOLDERS = "acme: {segment_id: 1, mode: lead}\nmarked: {segment_id: 2, mode: lead, marker: .done}"
SIZE = 1_200_000  # bytes of each file: clients and servers write up to a quarter of a megabyte at a time
RATE = 250_000  # bytes a second, about
STALL_S = 4.0  # twice the settle time
PATIENCE_S = 45.0
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def missing(*programs: str) -> str:
    """Which of these are not installed; empty where all are."""
    return ", ".join(name for name in programs if shutil.which(name, path=PATH) is None)


def content(name: str) -> bytes:
    """A canonical CSV of `SIZE` bytes, another for each name; rows so long that hardly a cut falls between two."""
    rows, size, number = ["email,varr_text\n"], 0, 0
    while size < SIZE:
        number += 1
        rows.append(f"{name.partition('.')[0]}.{number}@example.com,{'text ' * 180}{number}\n")
        size += len(rows[-1])
    return "".join(rows).encode()


@dataclass(slots=True, kw_only=True)
class Bench(ABC):
    """The daemon's folders, and what partners do; a test adds the clients of its server."""

    at: Path
    scene: Scene
    sent: dict[str, bytes] = field(default_factory=dict)

    def inbox(self, folder: str = "acme") -> Path:
        return self.scene.config.folders[folder].path

    def local(self, name: str) -> Path:
        """The partner's own file, to be uploaded under the same name; years old, as exports are."""
        path = self.at / "local" / name
        path.write_bytes(self.sent.setdefault(name, content(name)))
        os.utime(path, (1_500_000_000, 1_500_000_000))
        return path

    @abstractmethod
    def lftp(self, *lines: str) -> list[str]:
        """The command that has lftp do this there, throttled; the last of `lines` is the upload."""

    @abstractmethod
    def curl(self, path: Path, target: str, *more: str) -> list[str]:
        """The command that has curl upload `path` as `target`, throttled."""

    def run(self, *command: str | Path) -> None:
        """A client that must be content with the server."""
        done = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, f"{command[0]}: {done.stderr.decode()}"

    def break_off(self, command: list[str], watched: Callable[[], Path | None]) -> None:
        """Start a client and kill it, and all that it started, in the middle of the file `watched`."""
        with self.halfway(command, watched) as process:
            os.killpg(process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def halfway(self, command: list[str], watched: Callable[[], Path | None]) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            until(lambda: is_half_there(watched()))
            yield process

    def stand_still(self, command: list[str], watched: Callable[[], Path | None]) -> None:
        """Start a client and have it stand still in the middle of the file `watched`, and then go on to its end."""
        with self.halfway(command, watched) as process:
            os.killpg(process.pid, signal.SIGSTOP)
            threading.Event().wait(STALL_S)
            os.killpg(process.pid, signal.SIGCONT)
            assert process.wait(timeout=PATIENCE_S) == 0


B = TypeVar("B", bound=Bench)


def is_half_there(path: Path | None) -> bool:
    """Whether the upload is in its middle."""
    with contextlib.suppress(FileNotFoundError):
        return path is not None and SIZE // 4 < path.stat().st_size < SIZE * 7 // 8
    return False


def until(condition: Callable[[], object]) -> None:
    """Wait for what another program does, and fail when it does not."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        threading.Event().wait(0.01)


# ---------------------------------------------------------------------- partners whose client speaks to any server


def curl_put(bench: Bench, name: str) -> None:
    bench.run(*bench.curl(bench.local(name), f"/acme/{name}"))


def lftp_put(bench: Bench, name: str) -> None:
    bench.run(*bench.lftp(f"put {bench.local(name)} -o /acme/{name}"))


def lftp_put_by_a_temporary_name(bench: Bench, name: str) -> None:
    bench.run(*bench.lftp("set xfer:use-temp-file yes", f"put {bench.local(name)} -o /acme/{name}"))


def lftp_killed_and_continued(bench: Bench, name: str) -> None:
    path = bench.local(name)
    bench.break_off(bench.lftp(f"put {path} -o /acme/{name}"), lambda: bench.inbox() / name)
    threading.Event().wait(STALL_S)
    bench.run(*bench.lftp(f"put -c {path} -o /acme/{name}"))


# ---------------------------------------------------------------------------------------------------- the daemon


@contextlib.contextmanager
def roots_own_place() -> Iterator[Path]:
    """A folder for a chroot: nobody but root may write in it or in any folder above, so it is not below /tmp."""
    above = next((path for path in map(Path, ("/run", "/srv", "/opt")) if _is_roots_alone(path)), None)
    if above is None:
        pytest.skip("there is no place for a chroot")
    at = Path(tempfile.mkdtemp(prefix="dropzone-clients-", dir=above))
    at.chmod(0o755)
    (at / "local").mkdir()
    try:
        yield at
    finally:
        shutil.rmtree(at)


def _is_roots_alone(path: Path) -> bool:
    if not path.is_dir():
        return False
    st = path.stat()
    return st.st_uid == 0 and not st.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def lay_out(at: Path, url: str) -> Scene:
    """The daemon's folders, its own user's; above the inboxes root's, as a chroot must be."""
    scene = make_scene(at, url, folders=FOLDERS)
    for path in (at / "root", at / "state", at / "key"):
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(path)], check=True)
    for above in (at / "root", at / "root/inbox"):
        os.chown(above, 0, 0)
        above.chmod(0o755)
    for folder in scene.config.folders.values():
        os.chown(folder.path, NOBODY, PARTNER_GID)
        folder.path.chmod(0o2770)
    return scene


def free_port() -> int:
    """A port of loopback that nobody has just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def serving(command: Sequence[str | Path], log: Path, is_up: Callable[[], bool]) -> Iterator[None]:
    """A partner's server; skips the test where it does not start here."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            until(lambda: is_up() or process.poll() is not None)
            if process.poll() is not None:
                pytest.skip(f"{command[0]} does not start here: {log.read_text()}")
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def daemon(scene: Scene) -> Iterator[None]:
    """The installed command, as a user of its own in the partners' group; ends well or fails the test."""
    command = [sys.executable, "-m", "dropzone", "-c", str(scene.at / "dropzone.yaml"), "run"]
    with (scene.at / "journal").open("wb") as journal:
        process = subprocess.Popen(unprivileged(command, groups=[PARTNER_GID]), stderr=journal, cwd="/")
    try:
        until(lambda: b'"watching"' in (scene.at / "journal").read_bytes() or process.poll() is not None)
        assert process.poll() is None, (scene.at / "journal").read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_S)


# --------------------------------------------------------------------------------------------- all partners at once


def name_of(partner: Callable[..., None]) -> str:
    """The file that a partner uploads."""
    return f"{partner.__name__.replace('_', '-')}.csv"


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of all uploads."""

    bench: Bench
    clients: dict[str, Future[None]]
    arrived: list[str]  # SHA-256 of each import
    drops: dict[str, list[int]]  # name -> the size of each drop
    left: set[str]  # names in the inboxes at the end
    journal: str

    def assert_taken_once_and_whole(self, name: str) -> None:
        """The client is content, one drop was made of the file, and exactly its bytes arrived, once."""
        self.clients[name].result()
        source = self.bench.sent[name]
        assert self.drops.get(name) == [len(source)], self.journal
        assert self.arrived.count(sha256(source).hexdigest()) == 1
        assert name not in self.left

    def assert_left_alone(self, name: str) -> None:
        """The client did what it should, and what it left there was not taken."""
        self.clients[name].result()
        assert name not in self.drops
        assert name in self.left

    def assert_nothing_else(self, left: set[str]) -> None:
        """No part of a file was taken for one, and only what is `left` lies in the inboxes."""
        sources = {sha256(source).hexdigest() for source in self.bench.sent.values()}
        assert set(self.arrived) <= sources
        assert self.left == left
        assert '"level": "error"' not in self.journal


def see_through(bench: B, sandbox: Server, partners: Collection[Callable[[B, str], None]], *, whole: int) -> Outcome:
    """Have all partners upload at the same time, `whole` of them a whole file, and look at what became of it."""
    with daemon(bench.scene), ThreadPoolExecutor(len(partners)) as pool:
        clients = {name_of(partner): pool.submit(partner, bench, name_of(partner)) for partner in partners}
        for client in clients.values():
            client.exception(timeout=PATIENCE_S * 2)
        failed = sum(client.exception() is not None for client in clients.values())
        end = time.monotonic() + 15.0
        until(lambda: len(sandbox.imports()) >= whole - failed or time.monotonic() > end)
    reader = SQLiteReader(bench.scene.config.state_dir)
    drops: dict[str, list[int]] = {}
    for drop in reader.find_drops():
        drops.setdefault(os.fsdecode(drop.name), []).append(drop.size)
    reader.close()
    return Outcome(
        bench=bench,
        clients=clients,
        arrived=[str(each["sha256"]) for each in sandbox.imports()],
        drops=drops,
        left={path.name for folder in bench.scene.config.folders.values() for path in folder.path.iterdir()},
        journal=(bench.at / "journal").read_text(),
    )
