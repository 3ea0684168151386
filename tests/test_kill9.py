"""The installed command under load, killed again and again: nothing is lost, and every repeat is owned up to.

Partners keep uploading into four folders while the daemon gets a SIGKILL at a random moment, 100 times in `make test`,
1,000 times in `make soak`. The sandbox refuses some uploads, wants to wait with some, and loses some answers.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from books import assert_promise, come_to_rest, read_books
from nursery import Nursery
from scene import KEY, Scene, assert_logs, make_scene
from server import Server
from soak import FACTOR, times

from dropzone.drop import State

pytestmark = pytest.mark.usefixtures("untraced")

KILLS = times(100, soak=1000)
ROUND = 100  # kills from one comparison of the books to the next
PACE_S = 0.1  # from one upload to the next: the sandbox remembers 20,000, and all of them are to be compared
REFUSALS = 10  # lives from one to the next: a file that is taken in between shows that the account is all right
FOLDERS = """\
acme-signups: {segment_id: 1, mode: subscribe, source_campaign: 90, source_partner: 9}
acme-optouts: {segment_id: 2, mode: unsubscribe}
acme-leads: {segment_id: 3, mode: lead}
globex-leads: {segment_id: 4, mode: lead, clear: true, guards: {max_shrink: none}}
"""
FAST = "settle: 20ms, settle_unseen: 20ms, scan: 200ms, retry: {initial: 20ms, max: 100ms}"


class Partners(threading.Thread):
    """Upload small files into all folders, now under a temporary name and now in place, until told to stop."""

    def __init__(self, scene: Scene, seed: int, uploaded: dict[str, bytes]) -> None:
        super().__init__()
        self._scene = scene
        self._random = random.Random(seed)
        self._stop_now = threading.Event()
        self.uploaded = uploaded

    def run(self) -> None:
        while not self._stop_now.wait(PACE_S):
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


def faults(chance: random.Random, life: int) -> list[dict[str, object]]:
    """What may go wrong with the next uploads; mostly nothing."""
    kinds: list[dict[str, object]] = [
        {"kind": "status", "status": 503},
        {"kind": "drop_during", "after_bytes": 100},
        {"kind": "lost_answer"},
        {"kind": "slow", "seconds": 0.05},
    ]
    if life % REFUSALS == 0:
        kinds = [{"kind": "status", "status": 302, "headers": {"Location": "/segments/1/import"}}]
    elif chance.random() > 0.3:
        return []
    return [{**chance.choice(kinds), "segment": chance.randint(1, 4)}]


@pytest.mark.soak
@pytest.mark.timeout(0 if FACTOR else 400)
def test_random_kills_under_load(tmp_path: Path) -> None:
    """Many SIGKILLs, then undisturbed runs, and the books of partners, ledger, folders and server are compared."""
    chance = random.Random(20261123)
    uploaded: dict[str, bytes] = {}
    with Server(KEY) as server, Nursery() as nursery:
        scene = make_scene(tmp_path, server.url, folders=FOLDERS, defaults=FAST)
        for first in range(0, KILLS, ROUND):
            partners = Partners(scene, first, uploaded)
            partners.start()
            try:
                for life in range(first, min(first + ROUND, KILLS)):
                    for fault in faults(chance, life):
                        server.ask("POST", "/sandbox/faults", fault)
                    kill_somewhere(scene, nursery, chance)
                    assert_logs(scene)
            finally:
                partners.stop()
            server.ask("DELETE", "/sandbox/faults")
            come_to_rest(scene, server, nursery, scene.at / "journal")
            books = read_books(scene, server)
            assert_promise(scene, books, uploaded)
        assert sum(drop.state is State.DONE for drop in books.drops) > KILLS


def kill_somewhere(scene: Scene, nursery: Nursery, chance: random.Random) -> None:
    """Start the daemon and kill it: mostly while it works, now and then while it starts."""
    journal = scene.at / "journal"
    life = nursery.start("-c", scene.at / "dropzone.yaml", "run", journal=journal)
    if chance.random() < 0.9:
        assert life.watches(), journal.read_text()[-4000:]
    code = life.wait(chance.random() * 0.2)
    assert code is None, f"it ended by itself with {code}: {journal.read_text()[-4000:]}"
    life.kill()


def command(scene: Scene, *words: str) -> list[str]:
    return [sys.executable, "-m", "dropzone", "-c", str(scene.at / "dropzone.yaml"), *words]


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
