"""A crash before and after every effect of a drop's life, singly and in pairs, and what must hold after each.

Every effect (a rename, a sync, a commit, the request itself) is announced by a step right before it. A golden run
counts the steps; then the life is lived again in a child process that dies at step k (`os._exit`: nothing is cleaned
up, as with a SIGKILL), for every k; and again with a second death in every step of the recovery. After each death
the disk is looked at, and after the last recovery everything must be at rest and kept.

The server is the sandbox in a process of its own; files lie on a memory file system where there is one, because
what a sync does to a power cut is not the matter here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scene import KEY, Scene, Turn, assert_kept, assert_logs, make_scene
from server import Server
from soak import FACTOR

from dropzone.drop import Accepted, Drop, Lost, Released, Retried, State
from dropzone.opening import lay_out
from dropzone.optipub import OptiPub

GOOD = b"email,varr_a\nann@example.com,Ann\nbob@example.com,Bob\n"
BAD = b"email,varr_a\nann.example.com,Ann\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One sandbox for all lives; each begins with a reset."""
    with Server(KEY) as server:
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: tens of thousands of syncs would only wear a disk out."""
    memory = Path("/dev/shm")  # noqa: S108
    at = Path(tempfile.mkdtemp(prefix="dropzone-crash-", dir=memory if os.access(memory, os.W_OK) else None))
    yield at.resolve()
    if scene := scenes.pop(at.resolve(), None):
        for client in scene.clients.values():
            client.close()
    shutil.rmtree(at)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What is put in, what the server does, what an operator does in between, and how it has to end."""

    content: bytes
    ends: State
    faults: tuple[dict[str, object], ...] = ()
    order: Callable[[Turn, Drop, Server], None] | None = None


def looks_in_optipub(turn: Turn, drop: Drop, server: Server) -> None:
    """An operator looks for a held drop in OptiPub, and says that it is there or lets it go."""
    if drop.state is State.HELD:
        found = any(drop.id in name for name in server.applied())
        event = Accepted(status=None, body="", by="ann") if found else Released(by="ann")
        turn.ledger.commit(drop.id, event, at=turn.scene.clock.wall)


def tries_again_once(turn: Turn, drop: Drop, _: Server) -> None:
    """An operator has a failed drop tried again, once."""
    if drop.state is State.FAILED and not any(isinstance(e.event, Retried) for e in turn.ledger.history(drop.id)):
        turn.ledger.commit(drop.id, Retried(by="ann"), at=turn.scene.clock.wall)


LIVES = {
    "accepted": Life(content=GOOD, ends=State.DONE),
    "refused by the check": Life(content=BAD, ends=State.FAILED),
    "refused by the server": Life(
        content=GOOD, ends=State.FAILED, faults=({"kind": "status", "status": 302, "times": None},)
    ),
    "deferred, then accepted": Life(
        content=GOOD, ends=State.DONE, faults=({"kind": "status", "status": 503, "headers": {"Retry-After": "2"}},)
    ),
    "answer lost": Life(content=GOOD, ends=State.HELD, faults=({"kind": "lost_answer"},)),
    "answer lost, found by an operator": Life(
        content=GOOD, ends=State.DONE, faults=({"kind": "lost_answer"},), order=looks_in_optipub
    ),
    "refused, tried again, accepted": Life(
        content=GOOD, ends=State.DONE, faults=({"kind": "status", "status": 422},), order=tries_again_once
    ),
}


def live(scene: Scene, life: Life, server: Server, step: Callable[[str], None]) -> None:
    """One life of the program, from its start to rest."""
    with scene.turn(step) as turn:
        turn.go()
        if life.order:
            for drop in turn.ledger.find_drops():
                life.order(turn, drop, server)
            turn.send()


def die_at(scene: Scene, life: Life, server: Server, k: int) -> bool:
    """Live in a child that dies at its `k`-th step; False when it ended before that."""
    count = 0

    def step(_: str) -> None:
        nonlocal count
        count += 1
        if count == k:
            os._exit(99)

    return die_in(scene, life, server, step)


def die_in(scene: Scene, life: Life, server: Server, step: Callable[[str], None]) -> bool:
    """Live in a child that `step` may end with 99; False when it ended by itself."""
    child = os.fork()
    if child == 0:
        try:
            live(scene, life, server, step)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 99), f"a life ended with {code}"
    scene.clock.move(60.0)  # nobody restarts at the same moment
    return code == 99


def begin(place: Path, server: Server, life: Life) -> Scene:
    """Everything new but the configuration and the client, whose making would cost more than a whole life."""
    server.reset(*life.faults)
    scene = scenes.get(place)
    if scene is None:
        scene = scenes[place] = make_scene(place, server.url)
        clock = scene.clock
        scene.clients = {name: OptiPub(each, now=lambda: clock.wall) for name, each in scene.config.accounts.items()}
    else:
        shutil.rmtree(scene.config.root)
        shutil.rmtree(scene.config.state_dir)
        lay_out(scene.config)
    scene.put("Sign ups.csv", life.content)
    return scene


scenes: dict[Path, Scene] = {}


def assert_right(scene: Scene, server: Server, life: Life, *, crashed: bool) -> None:
    """The invariants of the promise, after the last recovery."""
    with scene.turn() as turn:
        drops = turn.ledger.find_drops()
        histories = {drop.id: [entry.event for entry in turn.ledger.history(drop.id)] for drop in drops}
    assert_kept(scene, drops)
    assert len(drops) == 1, "one file is one drop"
    (drop,) = drops
    applied = server.applied()
    lost = any(isinstance(event, Lost) for event in histories[drop.id])
    # Exactly one place holds the bytes, unaltered.
    holders = [path for path in scene.files() if path.read_bytes() == life.content and "prepared" not in path.name]
    assert len(holders) == 1, holders
    # Under `hold` nothing is ever offered again after it may have been taken.
    assert len(applied) <= 1, f"taken {len(applied)} times: {histories[drop.id]}"
    assert all(drop.id in name for name in applied)
    if drop.state is State.DONE:
        assert len(applied) == 1
    elif applied:
        assert lost, "taken by the server, and neither done nor owned up to"
    if not crashed:
        assert drop.state is life.ends, histories[drop.id]
    elif drop.state is not life.ends:
        # A crash may cost certainty (held, and said so), never more than that.
        assert drop.state is State.HELD, f"{drop.state}: {histories[drop.id]}"
        assert lost or drop.guard == "poison", histories[drop.id]
    if drop.state in (State.DONE, State.FAILED):
        assert not list((scene.config.root / "work").glob("[0-9A-Z]*")), "remains in work/"


def count_steps(scene: Scene, life: Life, server: Server) -> int:
    names: list[str] = []
    live(scene, life, server, names.append)
    return len(names)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", LIVES)
def test_a_crash_at_every_step(place: Path, server: Server, name: str) -> None:
    """For each k: die right before effect k (which is right after effect k-1), start again, and nothing is lost."""
    life = LIVES[name]
    golden = begin(place, server, life)
    steps = count_steps(golden, life, server)
    assert_right(golden, server, life, crashed=False)
    assert steps >= 15
    for k in range(1, steps + 1):
        scene = begin(place, server, life)
        assert die_at(scene, life, server, k)
        assert_logs(scene)
        assert not die_at(scene, life, server, -1)
        assert_right(scene, server, life, crashed=True)


PAIRED = ["accepted", "refused by the server", "answer lost, found by an operator"]


@pytest.mark.soak
@pytest.mark.usefixtures("untraced")
@pytest.mark.timeout(0 if FACTOR else 550)
@pytest.mark.parametrize("name", PAIRED)
def test_a_crash_at_every_step_of_every_recovery(place: Path, server: Server, name: str) -> None:
    """In pairs: a second death in each step of the recovery from each first one; of a third of these in `make test`."""
    life = LIVES[name]
    steps = count_steps(begin(place, server, life), life, server)
    # Each life has another third, and in a soak all of them.
    first, every = (1, 1) if FACTOR else (1 + PAIRED.index(name), len(PAIRED))
    for k in range(first, steps + 1, every):
        j = 0
        dying = True
        while dying:
            j += 1
            scene = begin(place, server, life)
            assert die_at(scene, life, server, k)
            dying = die_at(scene, life, server, j)
            assert_logs(scene)
            if dying:
                assert not die_at(scene, life, server, -1)
            assert_right(scene, server, life, crashed=True)


def test_a_file_that_ends_the_program_twice_is_not_read_a_third_time(place: Path, server: Server) -> None:
    """Poison: two deaths in the check, then it is held with the reason, and the rest goes on."""
    life = LIVES["accepted"]
    scene = begin(place, server, life)

    def step(name: str) -> None:
        if name == "prepare: sync prepared copy":  # inside the check
            os._exit(99)

    for _ in range(2):
        assert die_in(scene, life, server, step)
    scene.put("Other.csv", BAD)
    steps: list[str] = []
    with scene.turn(steps.append) as turn:
        turn.go()
        poison, other = turn.ledger.find_drops()
    assert steps.count("prepare: sync prepared copy") == 1, "it was read again"
    assert (poison.state, poison.guard) == (State.HELD, "poison")
    assert "ended the program twice" in poison.reason
    assert other.state is State.FAILED
    assert server.applied() == []
    assert_logs(scene)


def test_a_lost_ledger_sends_nothing(place: Path, server: Server) -> None:
    """Files in work/ whose ledger is gone are held: nobody knows whether they were sent."""
    scene = begin(place, server, LIVES["accepted"])
    with scene.turn() as turn:
        turn.start()
        turn.take()
    for path in scene.config.state_dir.glob("ledger.db*"):
        path.unlink()
    drops = scene.settle()
    assert [(drop.state, drop.guard) for drop in drops] == [(State.HELD, "no record")]
    assert server.applied() == []
    assert_kept(scene, drops)
