"""A kill at every system call of one drop's life, of the installed command, with four kinds of servers.

A file comes into the inbox of a daemon that watches, and `strace` ends the daemon with a SIGKILL on the way into the
k-th system call of the thread that takes files over, of the one that checks and sends them, or of the one that files
them: nothing that a program does to the world is between two of these. Then it runs again undisturbed, and the books
are compared.

`make test` takes a sample of the calls that change something outside of the program, spread over the whole life;
`make soak` takes every call.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
from books import assert_promise, come_to_rest, read_books
from nursery import Ears, Life, Nursery
from scene import KEY, Scene, assert_logs, make_scene
from server import Server
from soak import FACTOR, times

pytestmark = pytest.mark.usefixtures("untraced")

SAMPLE = times(5, soak=300)  # calls of each thread with each server
PER_SCENE = 25  # lives in the same folders: the books get longer with each
# Calls that change something outside of the program, or bring the answer; of opening, only what makes a file.
EFFECTS = (
    "fdatasync",
    "fsync",
    "mkdirat",
    "pwrite64",
    "recvfrom",
    "rename",
    "sendto",
    "symlinkat",
    "unlinkat",
    "write",
)
FOLDER = "acme: {segment_id: 1, mode: subscribe, source_campaign: 90, source_partner: 9}"
CALM = "settle: 20ms, settle_unseen: 20ms, scan: 60s, retry: {initial: 20ms, max: 50ms}"

SERVERS: dict[str, tuple[dict[str, object], ...]] = {
    "accepted": (),
    "302": ({"kind": "status", "status": 302, "headers": {"Location": "/segments/1/import"}},),
    "lost answer": ({"kind": "lost_answer"},),
    "503": ({"kind": "status", "status": 503},),
}
THREADS = ("intake", "lane", "filing")
IDLE = [("lost answer", "filing")]  # held, so nothing is filed
_ENDS = ("Filed", "Withheld")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(KEY) as server:
        yield server


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


class House:
    """A scene, its daemon, and what partners uploaded."""

    def __init__(self, at: Path, server: Server, nursery: Nursery, before: str = "") -> None:
        at.mkdir()
        self._before = before
        server.reset()
        self.scene: Scene = make_scene(at, server.url, folders=FOLDER, defaults=CALM)
        with (at / "dropzone.yaml").open("a") as config:
            config.write("concurrency: 1\n")  # one lane thread, so that it is known which one
        self.ears = Ears(at / "pipe")
        self.uploaded: dict[str, bytes] = {}
        self._server = server
        self._nursery = nursery

    def close(self) -> None:
        self.ears.close()

    def upload(self, address: str = "jane@example.com") -> None:
        name = f"file-{len(self.uploaded):05}.csv"
        self.uploaded[name] = f"email,varr_n\n{address},{name}\n".encode()
        self.scene.put(name, self.uploaded[name])

    def live(self, thread: str, faults: tuple[dict[str, object], ...], *options: str) -> tuple[bool, str]:
        """One drop's life with `thread` under strace: whether it was killed, and what strace wrote."""
        config = self.scene.at / "dropzone.yaml"
        life = self._nursery.start("-c", config, "run", journal=self.ears.path, before=self._before)
        try:
            assert life.watches()
            with traced(self._find(thread, life), self.scene.at / "calls", *options):
                for fault in faults:
                    self._server.ask("POST", "/sandbox/faults", fault)
                self.upload()
                self._await_end(life)
            return life.wait(0) == -signal.SIGKILL, (self.scene.at / "calls").read_text()
        finally:
            life.kill()
            self.ears.hear_out()

    def _find(self, thread: str, life: Life) -> int:
        """Its id. The others begin with the first drop: one that is never sent, so that nothing is connected."""
        if thread == "intake":
            return life.pid
        self.upload("no address")
        assert self.ears.listen(lambda line: line.get("event_kind") == "Filed")
        (found,) = (task for task in Path(f"/proc/{life.pid}/task").iterdir() if named(task) == thread)
        return int(found.name)

    def _await_end(self, life: Life) -> None:
        patience = time.monotonic() + 30
        while life.wait(0) is None and not self.ears.listen(lambda line: line.get("event_kind") in _ENDS, 0.05):
            assert time.monotonic() < patience, "the drop neither ended nor was killed"

    def recover(self) -> None:
        """What is left keeps the promise; so does what an undisturbed run makes of it."""
        assert_logs(self.scene)
        journal = self.scene.at / "journal"
        come_to_rest(self.scene, self._server, self._nursery, journal)
        self._server.ask("DELETE", "/sandbox/faults")
        assert_promise(self.scene, read_books(self.scene, self._server), self.uploaded)


def named(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""


@contextmanager
def traced(thread: int, calls: Path, *options: str) -> Iterator[None]:
    """Have strace count the calls of one thread, from a moment on at which it waits for something to do."""
    command = ["strace", "-p", str(thread), "-o", str(calls), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        first = strace.stderr.readline()
        try:
            assert "attached" in first, first
            yield
        finally:
            strace.terminate()


@pytest.fixture
def place(untraceable: str) -> Iterator[Path]:
    """A folder near the root, and in memory where there is one: opening it is most of the calls."""
    if untraceable:
        pytest.skip(f"no system call can be hit here: {untraceable}")
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="calls-", dir=memory if os.access(memory, os.W_OK) else None) as at:
        yield Path(at)


@contextmanager
def house(at: Path, server: Server, nursery: Nursery, before: str = "") -> Iterator[House]:
    with closing(House(at, server, nursery, before)) as made:
        yield made
    shutil.rmtree(at)


@pytest.fixture(scope="session")
def untraceable() -> str:
    """Why no system call can be hit here, or an empty string."""
    if not shutil.which("strace"):
        return "strace is not installed"
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:
        command = ["strace", "-p", str(child.pid), "-e", "inject=read:signal=KILL:when=9"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr
            first = strace.stderr.readline()
            strace.terminate()
    return "" if "attached" in first else f"strace may not look at other programs ({first.strip()})"


@pytest.mark.soak
@pytest.mark.timeout(0 if FACTOR else 400)
@pytest.mark.parametrize(("script", "thread"), [each for each in product(SERVERS, THREADS) if each not in IDLE])
def test_a_kill_at_each_system_call(script: str, thread: str, place: Path, server: Server, nursery: Nursery) -> None:
    """Nothing lost, nothing stuck, no repeat that is not owned up to, no disorder, nothing done without a log."""
    faults = SERVERS[script]
    with house(place / "golden", server, nursery) as home:
        killed, text = home.live(thread, faults)
        assert not killed
        home.recover()
    calls = numbered(text)
    assert len(calls) > 30, text
    points = sample(calls, random.Random(f"{script} {thread}"))
    # A second refusal in a row would say more about the account than about its file.
    at_once = 1 if script == "302" else PER_SCENE
    hits = 0
    for first in range(0, len(points), at_once):
        with house(place / "home", server, nursery) as home:
            for call in points[first : first + at_once]:
                killed, _ = home.live(thread, faults, "-e", f"inject={call.name}:signal=KILL:when={call.n}")
                hits += killed
                home.recover()
    # Not all: one life has a call more or less than the next, where a wait was broken off or a page was read already.
    assert hits >= len(points) * 0.8, f"{hits} of {len(points)}"


class Call(NamedTuple):
    """One system call, in the words of strace: the `n`-th of its name."""

    name: str
    n: int
    changes: bool


def numbered(text: str) -> list[Call]:
    """The calls that strace wrote down as `text`."""
    counts: Counter[str] = Counter()
    calls = []
    for line in text.splitlines():
        name = line.partition("(")[0]
        # The one that was under way when strace came has begun before, and the last may be cut off.
        if name.isidentifier() and name != "restart_syscall":
            counts[name] += 1
            calls.append(Call(name, counts[name], name.startswith(EFFECTS) or "O_CREAT" in line))
    return calls


def sample(calls: Sequence[Call], chance: random.Random) -> Sequence[Call]:
    """All of them in a soak; else some, spread evenly over those that change something."""
    if FACTOR >= 1:
        return calls
    effects = [call for call in calls if call.changes]
    every = len(effects) / SAMPLE
    start = chance.random() * every
    return [effects[int(start + every * n)] for n in range(min(SAMPLE, len(effects)))]


# Takes away the order that all rests on: the attempt is written down with its outcome, and not before the first byte.
_TOO_LATE = """
from dropzone.drop import Attempted, apply
from dropzone.ledger.sqlite import SQLiteLedger
commit, late = SQLiteLedger.commit, {}
def commit_late(self, id, event, *, at):
    if isinstance(event, Attempted):
        late[id] = event, at
        return apply(self.find_drop(id), event, id=id, at=at)
    if id in late:
        announced, then = late.pop(id)
        commit(self, id, announced, at=then)
    return commit(self, id, event, at=at)
SQLiteLedger.commit = commit_late
"""


def test_an_attempt_that_is_announced_too_late_is_noticed(place: Path, server: Server, nursery: Nursery) -> None:
    """The control: the same kill, and the program without its most important safety doubles an import unseen."""
    with house(place / "golden", server, nursery, _TOO_LATE) as home:
        killed, text = home.live("lane", ())
        assert not killed
        home.recover()
    reading = max(call.n for call in numbered(text) if call.name == "recvfrom")
    with house(place / "home", server, nursery, _TOO_LATE) as home:
        killed, _ = home.live("lane", (), "-e", f"inject=recvfrom:signal=KILL:when={reading}")
        assert killed
        with pytest.raises(AssertionError, match="was taken 2 times"):
            home.recover()
