"""The installed command under load, killed again and again: nothing is lost, and every repeat is owned up to.

Partners keep uploading into four folders while the daemon gets a SIGKILL at a random moment, 200 times (more with
DROPZONE_KILLS). The sandbox answers some uploads with a redirect, some with 503, and loses some answers.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from scene import KEY, Scene, assert_kept, assert_logs, make_scene
from server import Server

from dropzone.drop import FINISHED, Accepted, Attempted, Drop, Entry, Event, Lost, State
from dropzone.ledger.sqlite import SQLiteReader

KILLS = int(os.environ.get("DROPZONE_KILLS", "200"))
FOLDERS = """\
acme-signups: {segment_id: 1, mode: subscribe, source_campaign: 90, source_partner: 9}
acme-optouts: {segment_id: 2, mode: unsubscribe}
acme-leads: {segment_id: 3, mode: lead}
globex-leads: {segment_id: 4, mode: lead, clear: true, guards: {max_shrink: none}}
"""
FAST = "settle: 20ms, settle_unseen: 20ms, scan: 200ms, retry: {initial: 20ms, max: 100ms}"


class Partners(threading.Thread):
    """Upload small files into all folders, now under a temporary name and now in place, until told to stop."""

    def __init__(self, scene: Scene, seed: int) -> None:
        super().__init__()
        self._scene = scene
        self._random = random.Random(seed)
        self._stop_now = threading.Event()
        self.uploaded: dict[str, bytes] = {}

    def run(self) -> None:
        while not self._stop_now.wait(0.05):
            name = f"file-{len(self.uploaded):05}.csv"
            folder = self._random.choice(list(self._scene.config.folders))
            content = f"email,varr_n\n{name}@example.com,{len(self.uploaded)}\n".encode()
            self.uploaded[name] = content
            inbox = self._scene.config.folders[folder].path
            if self._random.random() < 0.5:
                (inbox / f"{name}.part").write_bytes(content)
                (inbox / f"{name}.part").rename(inbox / name)
            else:
                (inbox / name).write_bytes(content)

    def stop(self) -> None:
        self._stop_now.set()
        self.join()


def faults(chance: random.Random) -> list[dict[str, object]]:
    """What may go wrong with the next uploads; mostly nothing."""
    kinds: list[dict[str, object]] = [
        {"kind": "status", "status": 302, "headers": {"Location": "/segments/1/import"}},
        {"kind": "drop_during", "after_bytes": 100},
        {"kind": "lost_answer"},
        {"kind": "slow", "seconds": 0.05},
    ]
    return [{**chance.choice(kinds), "segment": chance.randint(1, 4)}] if chance.random() < 0.3 else []


@pytest.mark.timeout(500)
def test_random_kills_under_load(tmp_path: Path) -> None:
    """200 SIGKILLs; then one undisturbed run, and the books of partners, ledger, folders and server are compared."""
    chance = random.Random(20261123)
    with Server(KEY) as server:
        scene = make_scene(tmp_path, server.url, folders=FOLDERS, defaults=FAST)
        partners = Partners(scene, 7)
        partners.start()
        try:
            for _ in range(KILLS):
                for fault in faults(chance):
                    server.ask("POST", "/sandbox/faults", fault)
                kill_somewhere(scene, chance)
                assert_logs(scene)
        finally:
            partners.stop()
        server.ask("DELETE", "/sandbox/faults")
        run_to_rest(scene)
        compare_books(scene, server, partners.uploaded)


def command(scene: Scene, *words: str) -> list[str]:
    return [sys.executable, "-m", "dropzone", "-c", str(scene.at / "dropzone.yaml"), *words]


def kill_somewhere(scene: Scene, chance: random.Random) -> None:
    """Start the daemon and kill it: mostly while it works, now and then while it starts."""
    with subprocess.Popen(command(scene, "run"), stderr=subprocess.PIPE) as daemon:
        assert daemon.stderr
        try:
            if chance.random() < 0.9:
                assert any(b'"watching"' in line for line in daemon.stderr), "it ended before it watched"
            # From here on nobody reads; the pipe is large enough for the moments that it has to live.
            code = daemon.wait(chance.random() * 0.4)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            daemon.kill()
        assert code is None, f"the daemon ended by itself with {code}: {daemon.stderr.read()!r}"


def run_to_rest(scene: Scene) -> None:
    """Let it run undisturbed until nothing is open but what waits for a person."""
    for _ in range(100):
        done = subprocess.run(command(scene, "run", "--once"), capture_output=True, check=False, timeout=300)
        assert done.returncode in (0, 3, 5), done.stderr.decode()
        if done.returncode != 5 and not open_drops(scene):
            return
    pytest.fail("it never came to rest")


def open_drops(scene: Scene) -> list[Drop]:
    reader = SQLiteReader(scene.config.state_dir)
    try:
        return reader.find_drops(states=set(State) - FINISHED - {State.HELD})
    finally:
        reader.close()


def compare_books(scene: Scene, server: Server, uploaded: dict[str, bytes]) -> None:
    reader = SQLiteReader(scene.config.state_dir)
    drops = reader.find_drops()
    histories = {drop.id: reader.history(drop.id) for drop in drops}
    reader.close()
    assert_kept(scene, drops)
    # Nothing lost: each upload is one drop, and its bytes lie unaltered in one place.
    assert Counter(os.fsdecode(drop.name) for drop in drops) == Counter(list(uploaded))
    contents = Counter(path.read_bytes() for path in scene.files() if path.name not in ("prepared.csv", "rejects.csv"))
    assert all(contents[content] == 1 for content in uploaded.values())
    assert not [path for path in (scene.config.root / "inbox").rglob("*") if path.is_file()]
    # Nothing taken twice, and whatever was taken is done or owned up to as lost.
    taken = Counter(name.rsplit(".", 2)[-2] for name in server.applied())
    for drop in drops:
        events = [entry.event for entry in histories[drop.id]]
        lost = any(isinstance(event, Lost) for event in events)
        assert taken[drop.id] <= 1, f"{drop.id} was taken {taken[drop.id]} times"
        assert drop.state is not State.DONE or taken[drop.id] == 1
        assert not taken[drop.id] or drop.state is State.DONE or (drop.state is State.HELD and lost)
        assert drop.state is not State.HELD or lost or drop.guard == "poison", drop
    assert_order(drops, histories)
    journal = Counter(drop.state for drop in drops)
    assert journal[State.DONE] > len(drops) / 2, journal


def assert_order(drops: list[Drop], histories: dict[str, list[Entry]]) -> None:
    """Within a lane, attempts on a later drop begin only when every earlier one is decided or held."""
    lanes: dict[str, list[tuple[float, int, Event]]] = {}
    for number, drop in enumerate(drops):
        for entry in histories[drop.id]:
            if isinstance(entry.event, Attempted | Accepted):
                lanes.setdefault(drop.lane, []).append((entry.at, number, entry.event))
    for lane, events in lanes.items():
        accepted = [number for _, number, event in sorted(events, key=lambda e: e[0]) if isinstance(event, Accepted)]
        assert accepted == sorted(accepted), f"out of order in {lane}"


@pytest.mark.parametrize("secret", [KEY])
def test_the_key_is_in_no_log_and_no_ledger(tmp_path: Path, secret: str) -> None:
    """After a whole run, neither folders nor ledger nor output hold the API key."""
    with Server(KEY) as server:
        scene = make_scene(tmp_path, server.url, folders=FOLDERS, defaults=FAST)
        server.reset({"kind": "status", "status": 401, "body": secret, "segment": 3})
        for folder in scene.config.folders:
            scene.put("a.csv", b"email\na@example.com\n", folder=folder)
        done = subprocess.run(command(scene, "run", "--once"), capture_output=True, check=False, timeout=60)
        assert len(done.stderr.splitlines()) > 8
        assert secret.encode() not in done.stderr + done.stdout
        for line in done.stderr.decode().splitlines():
            json.loads(line)
        found = [path for path in (*scene.files(), *scene.config.state_dir.iterdir()) if path.is_file()]
        assert len(found) > 8
        assert not [path for path in found if secret.encode() in path.read_bytes()]
