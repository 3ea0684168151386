"""A daemon on real parts, turned by hand: what the tests of lanes, accounts and orders stand on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scene import Scene, Step, make_scene, no_step

from dropzone.adoption import Adoption
from dropzone.alarms import Alarms
from dropzone.bases import Bases
from dropzone.config import Config
from dropzone.daemon import Daemon
from dropzone.drop import Drop, Event, State
from dropzone.folders import Folders
from dropzone.gates import Gates
from dropzone.intake import Intake
from dropzone.ledger.sqlite import SQLiteLedger
from dropzone.optipub import OptiPub
from dropzone.pipeline import Pipeline
from dropzone.progress import Board
from dropzone.telemetry import Journal

PATIENCE_S = 20.0
Keep = Callable[[Config], None]


def keep_all(config: Config) -> None:
    """Delete nothing."""


class Kit:
    """A daemon on real parts, on the clocks of the scene or, `in_real_time`, on those of the machine."""

    def __init__(
        self, scene: Scene, step: Step = no_step, *, in_real_time: bool = False, keep: Keep = keep_all
    ) -> None:
        clock = scene.clock
        wall = time.time if in_real_time else lambda: clock.wall
        monotonic = time.monotonic if in_real_time else lambda: clock.monotonic
        self.scene = scene
        self.events: list[tuple[Drop, Event]] = []
        self.most_at_once = 0
        self._out = io.StringIO()
        self._clients = {name: OptiPub(account, now=wall) for name, account in scene.config.accounts.items()}
        journal = Journal(self._out, plain=False)
        folders = Folders(step=step)
        self.ledger = SQLiteLedger(scene.config.state_dir, step=step)
        self.intake = Intake(
            folders=folders, ledger=self.ledger, now=wall, monotonic=monotonic, left_alone=journal.left_alone
        )
        adoption = Adoption(folders=folders, ledger=self.ledger, now=wall, left_alone=journal.left_alone)
        gates = Gates(scene.config.concurrency, now=wall, monotonic=monotonic)
        board = Board(monotonic=monotonic)
        pipeline = Pipeline(
            folders=folders,
            ledger=self.ledger,
            gates=gates,
            board=board,
            segments=self._clients.__getitem__,
            now=wall,
            wait=self._wait,
            stopping=lambda: self.daemon.stopping,
            sinks=[
                journal.event,
                self._note,
            ],
            fault=journal.fault,
        )
        self.daemon = Daemon(
            scene.config,
            folders=folders,
            ledger=self.ledger,
            bases=Bases(adoption, journal),
            intake=self.intake,
            pipeline=pipeline,
            gates=gates,
            alarms=Alarms(ledger=self.ledger, board=board, voice=journal, now=wall),
            voice=journal,
            now=wall,
            monotonic=monotonic,
            keep=keep,
        )

    def _wait(self, seconds: float) -> None:
        self.daemon.wait(seconds)

    def _note(self, drop: Drop, event: Event) -> None:
        self.daemon.note(drop, event)
        self.events.append((drop, event))

    def turn(self) -> float:
        """Tick, and let what that started end, until nothing is under way; the seconds until there may be more."""
        while True:
            wait_s = self.daemon.tick()
            under_way = len(self.daemon._running) - self.daemon._is_filing
            self.most_at_once = max(self.most_at_once, under_way)
            if not self.daemon._running:
                return wait_s
            self.daemon._answer_calls(PATIENCE_S)

    def after(self, seconds: float) -> float:
        self.scene.clock.move(seconds)
        return self.turn()

    def settle(self) -> None:
        """Let every file that is there become quiet, and take each as far as it goes now."""
        for _ in range(3):
            self.after(15.0)

    def states(self) -> dict[str, State]:
        return {os.fsdecode(drop.name): drop.state for drop in self.ledger.find_drops()}

    def said(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._out.getvalue().splitlines()]

    def told(self, text: str) -> list[dict[str, Any]]:
        """The lines of the journal whose sentence holds `text`."""
        return [entry for entry in self.said() if text in entry["event"]]

    def close(self) -> None:
        self.daemon._pool.shutdown()
        self.daemon._filer.shutdown()
        for client in self._clients.values():
            client.close()
        self.ledger.close()


@contextlib.contextmanager
def kit_on(scene: Scene, step: Step = no_step, *, in_real_time: bool = False, keep: Keep = keep_all) -> Iterator[Kit]:
    """A kit, not started."""
    kit = Kit(scene, step, in_real_time=in_real_time, keep=keep)
    try:
        yield kit
    finally:
        kit.close()


@contextlib.contextmanager
def starting(at: Path, url: str) -> Iterator[Callable[..., Kit]]:
    """What starts a daemon on folders, each a line of YAML; `defaults` as in the file, `step` before each effect."""
    with contextlib.ExitStack() as stack:

        def begin(*folders: str, defaults: str = "", usual: bool = True, step: Step = no_step) -> Kit:
            scene = make_scene(at, url, folders="\n".join(folders), defaults=defaults, usual=usual)
            kit = stack.enter_context(kit_on(scene, step))
            kit.daemon.start()
            return kit

        yield begin
