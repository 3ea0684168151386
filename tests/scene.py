"""A scene for tests: real folders, a real ledger, a real server, and a clock that is moved by hand.

`Scene` is what survives a crash (the disk, the clock, the server); `Turn` is one life of the program, turned by hand
in one thread, so that a test decides what happens between any two steps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dropzone import config as configuration
from dropzone.adoption import Adoption
from dropzone.config import Config, Folder
from dropzone.drop import FINISHED, Accepted, Deferred, Drop, Event, Lost, Refused, State
from dropzone.folders import Folders
from dropzone.gates import Gates
from dropzone.intake import Intake
from dropzone.ledger.sqlite import SQLiteLedger
from dropzone.opening import lay_out
from dropzone.optipub import OptiPub, Upload
from dropzone.pipeline import Pipeline
from dropzone.places import where_is
from dropzone.progress import Board

KEY = "test-key-0123456789"
Step = Callable[[str], None]


def no_step(name: str) -> None:
    """Do nothing before an effect."""


@dataclass(slots=True)
class Clock:
    """Both clocks of the program; only `move` makes time pass."""

    wall: float = 1_795_400_000.0
    monotonic: float = 1000.0

    def move(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@dataclass(slots=True)
class Scene:
    """Folders, configuration, clock and the address of a server."""

    at: Path
    config: Config
    clock: Clock = field(default_factory=Clock)
    clients: dict[str, OptiPub] = field(default_factory=dict)  # ready-made ones, for tests that live a thousand times

    @property
    def inbox(self) -> Path:
        return next(iter(self.config.folders.values())).path

    def put(self, name: str | bytes, content: bytes, *, folder: str | None = None) -> Path:
        """A partner writes a whole file into an inbox."""
        inbox = self.config.folders[folder].path if folder else self.inbox
        path = inbox / (name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name)
        path.write_bytes(content)
        return path

    @contextlib.contextmanager
    def turn(self, step: Step = no_step) -> Iterator[Turn]:
        """One life of the program."""
        turn = Turn(self, step)
        try:
            yield turn
        finally:
            turn.close()

    def settle(self, *, step: Step = no_step) -> list[Drop]:
        """A whole life: start, take over what is there, take every drop as far as it goes. All drops, in order."""
        with self.turn(step) as turn:
            turn.go()
            return turn.ledger.find_drops()

    def files(self) -> list[Path]:
        """All files below the root, without what belongs to the program alone."""
        ours = {".ledger", ".ledger.new"}
        return sorted(path for path in self.config.root.rglob("*") if path.is_file() and path.name not in ours)


class Turn:
    """The parts, joined as `wiring` joins them, but with one thread and a clock that is moved by hand."""

    def __init__(self, scene: Scene, step: Step = no_step) -> None:
        self.scene = scene
        self.events: list[tuple[Drop, Event]] = []
        self.left_alone: list[tuple[str, bytes, str]] = []
        self.faults: list[Exception] = []
        self.stopping = False
        self.folders = Folders(step=step)
        self.ledger = SQLiteLedger(scene.config.state_dir, step=step)
        self._step = step
        self._open: dict[str, OptiPub] = {}
        clock = scene.clock
        self.intake = Intake(
            folders=self.folders,
            ledger=self.ledger,
            now=lambda: clock.wall,
            monotonic=lambda: clock.monotonic,
            left_alone=lambda *what: self.left_alone.append(what),
        )
        self.adoption = Adoption(
            folders=self.folders,
            ledger=self.ledger,
            now=lambda: clock.wall,
            left_alone=lambda *what: self.left_alone.append(what),
        )
        self.gates = Gates(4, now=lambda: clock.wall, monotonic=lambda: clock.monotonic)
        self.board = Board(monotonic=lambda: clock.monotonic)
        self.pipeline = Pipeline(
            folders=self.folders,
            ledger=self.ledger,
            gates=self.gates,
            board=self.board,
            segments=lambda name: _Stepped(self.optipub(name), step),
            now=lambda: clock.wall,
            wait=clock.move,
            stopping=lambda: self.stopping,
            sinks=[self._note],
            fault=lambda _, error: self.faults.append(error),
        )

    def _note(self, drop: Drop, event: Event) -> None:
        self.events.append((drop, event))
        self.gates.note(drop.account, self.ledger.account_facts(drop.account))

    def optipub(self, name: str) -> OptiPub:
        if name in self.scene.clients:
            return self.scene.clients[name]
        if name not in self._open:
            self._open[name] = OptiPub(self.scene.config.accounts[name], now=lambda: self.scene.clock.wall)
        return self._open[name]

    def start(self) -> None:
        """What the daemon does at its start."""
        self.intake.configure(self.scene.config)
        for name in self.scene.config.accounts:
            self.gates.note(name, self.ledger.account_facts(name))
        for base in sorted({folder.base for folder in self.scene.config.folders.values()}):
            self.adoption.take_up(base, self.scene.config)

    def take(self) -> list[Drop]:
        """Let every file that is there become quiet, and take over what is ready."""
        self.intake.scan_soon()
        drops = self.intake.tick()
        for _ in range(3):
            self.scene.clock.move(15.0)
            drops += self.intake.tick()
        return drops

    def send(self, *, patience_s: float = 7200.0) -> None:
        """Take every drop as far as it goes, lane by lane, moving the clock to whatever is due within `patience_s`."""
        end = self.scene.clock.wall + patience_s
        while True:
            due: list[float] = []
            blocked: set[str] = set()
            for lane, id in self.ledger.open_lanes():
                if lane in blocked:
                    continue
                again = self._look(id)
                if again is not None:
                    blocked.add(lane)
                    due.append(again)
            due = [at for at in due if at != math.inf]
            if not due or min(due) > end or self.stopping:
                return
            self.scene.clock.move(max(0.001, min(due) - self.scene.clock.wall))

    def _look(self, id: str) -> float | None:
        """One look at the head of a lane, if it is due and its account is open; when to look again."""
        drop = self.ledger.find_drop(id)
        assert drop
        if drop.state is State.QUEUED:
            now, facts = self.scene.clock.wall, self.ledger.account_facts(drop.account)
            if facts.probing:
                return self.pipeline.run(id, probe=True) if facts.wait_s(now) <= 0 else facts.until
            if wait_s := max(drop.wait_s(now), facts.wait_s(now)):
                return now + wait_s
        return self.pipeline.run(id)

    def go(self) -> None:
        """Start, take over, send."""
        self.start()
        self.take()
        self.send()

    def close(self) -> None:
        for optipub in self._open.values():
            optipub.close()
        self.ledger.close()


class _Stepped:
    """An account's segments whose sending is a step too: tests die right before and right after the request."""

    def __init__(self, optipub: OptiPub, step: Step) -> None:
        self._optipub = optipub
        self._step = step

    def build(self, drop: Drop, folder: Folder, payload: BinaryIO, size: int) -> _SteppedUpload:
        return _SteppedUpload(self._optipub.build(drop, folder, payload, size), self._step)


class _SteppedUpload:
    def __init__(self, upload: Upload, step: Step) -> None:
        self._upload = upload
        self._step = step

    def send(self, *, progress: Callable[[int], None] | None = None) -> Accepted | Refused | Deferred | Lost:
        self._step("send: first byte")
        outcome = self._upload.send(progress=progress)
        self._step("send: answer read")
        return outcome


def make_scene(
    at: Path,
    url: str,
    *,
    folders: str = "",
    defaults: str = "",
    key: str = KEY,
    account: Sequence[str] = (),
    usual: bool = True,
) -> Scene:
    """A scene below `at`; `folders` is YAML for `folders:`, by default one that subscribes; `account` more lines.

    Most tests drop the same rows again and again and hold what is unknown, so that is what its defaults say, unless
    `defaults` says otherwise, or this is not `usual`.
    """
    if not any(line.startswith("timeouts") for line in account):
        account = [*account, "timeouts: {connect: 2s, write: 5s, read: 5s}"]
    for setting in ("duplicates: send", "on_unknown: hold") if usual else ():
        if setting.partition(":")[0] not in defaults:
            defaults = f"{defaults}, {setting}".removeprefix(", ")
    folders = folders or "acme: {segment_id: 100789, mode: subscribe, source_campaign: 90, source_partner: 9}"
    (at / "key").write_text(key)
    (at / "key").chmod(0o600)
    text = f"""
root: {at}/root
state_dir: {at}/state
accounts:
  main:
    base_url: {url}
    api_key: {{file: {at}/key}}
{"".join(f"    {line}" + chr(10) for line in account)}defaults: {{{defaults}}}
folders:
"""
    text += "".join(f"  {line}\n" for line in folders.strip().splitlines())
    (at / "dropzone.yaml").write_text(text)
    config = configuration.load(at / "dropzone.yaml")
    lay_out(config)
    return Scene(at=at, config=config)


def assert_kept(scene: Scene, drops: list[Drop]) -> None:
    """What must hold for every drop once the program is at rest, whatever happened before."""
    for drop in drops:
        assert drop.state in FINISHED | {State.HELD, State.QUEUED}, f"{drop.id} is stuck: {drop.state}"
        where = where_is(drop)
        assert where is not None, f"the file of {drop.id} is lost"
        expected = {"done": "done", "failed": "failed"}.get(drop.state.value, "work")
        assert where.relative_to(scene.config.root).parts[0] == expected, f"{drop.state} drop lies in {where}"
    assert_logs(scene)


def assert_logs(scene: Scene) -> None:
    """Every file in done/ and failed/ has its log beside it, and nothing but CSVs and logs is there."""
    for path in scene.files():
        part = path.relative_to(scene.config.root).parts[0]
        if part in ("done", "failed") and path.name.endswith((".csv", ".csv.gz")):
            stem = path.name.removesuffix(".gz").removesuffix(".csv").removesuffix(".rejects")
            assert (path.parent / f"{stem}.log").is_file(), f"{path} has no log"
        elif part in ("done", "failed"):
            assert path.suffix == ".log", f"{path} does not belong there"
