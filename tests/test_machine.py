"""Partners, a server that fails in every way, clocks that jump, restarts, kills and orders, in any sequence.

Hypothesis makes the sequences up; after each the same must hold. `make test` plays 200 lives, `make soak` 5,000.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kit import Kit
from scene import KEY, assert_logs, make_scene
from soak import times

from dropzone import operate
from dropzone.account import Condition
from dropzone.drop import FINISHED, POLICY, Released, Resent, Retried, State
from dropzone.errors import OperatorError
from dropzone.places import where_is
from dropzone.sandbox import Sandbox

LIVES = times(200, soak=5000)
SHARES = 4  # so that several cores can play

FOLDERS = """\
subs: {segment_id: 1, mode: subscribe, source_campaign: 90, source_partner: 9}
outs: {segment_id: 2, mode: unsubscribe}
full: {segment_id: 3, mode: lead, clear: true, supersede: true, guards: {max_shrink: 50%}}
strict: {segment_id: 4, mode: lead, strict_order: true, on_unknown: {resend_within: 1h}}
"""
NAMES = ("subs", "outs", "full", "strict")
KINDS = ("new", "new", "new", "same", "bad", "short")
LOST: list[dict[str, Any]] = [
    {"kind": "lost_answer"},
    {"kind": "status", "status": 502, "applied": True},
]
FAULTS: list[dict[str, Any]] = [
    {"kind": "status", "status": 503, "headers": {"Retry-After": "30"}},
    {"kind": "status", "status": 408},
    {"kind": "status", "status": 422},
    {"kind": "status", "status": 302},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 200},
    {"kind": "status", "status": 401},
    {"kind": "login_redirect"},
    {"kind": "drop_after"},
    {"kind": "drop_before"},
    {"kind": "bad_json"},
]


class Died(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


class Life(RuleBasedStateMachine):
    """One installation, from its first file on."""

    def __init__(self) -> None:
        super().__init__()
        self.at = Path(tempfile.mkdtemp(prefix="dropzone-life-"))
        self.sandbox = Sandbox(key=KEY)
        self.sandbox.start()
        self.put = 0
        self.fuse = 0  # effects until it dies; 0: it lives
        self.ordered: set[str] = set()  # drops that a person has given orders for

    @initialize()
    def begin(self) -> None:
        defaults = "retry: {initial: 20s, max: 60s}, duplicates: skip"
        self.scene = make_scene(self.at, self.sandbox.url, folders=FOLDERS, defaults=defaults, usual=False)
        self.kit = self.start()

    def start(self) -> Kit:
        kit = Kit(self.scene, self.step)
        kit.daemon.start()
        return kit

    def step(self, name: str) -> None:
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                self.fuse = -1  # whatever else it tries, it is dead
        if self.fuse < 0:
            raise Died

    def turn(self) -> None:
        """Let the daemon do what it can; if it dies of it, start it again."""
        try:
            self.kit.turn()
        except Died:
            self.again()

    @rule()
    def again(self) -> None:
        """The program ends, or has died, and starts again."""
        self.kit.close()
        self.fuse = 0
        self.kit = self.start()
        self.kit.turn()

    # ---------------------------------------------------------------------------------------------------- partners

    @rule(
        files=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS)), min_size=1, max_size=4),
        apart=st.booleans(),
    )
    def drop_files(self, files: list[tuple[str, str]], apart: bool) -> None:
        """Several, complete at the same moment or one after the other."""
        for folder, kind in files:
            self.drop_a_file(folder, kind)
            if apart:
                self.pass_time(3.0)
        self.pass_time(3.0)

    def drop_a_file(self, folder: str, kind: str) -> None:
        self.put += 1
        who = "same" if kind == "same" else f"p{self.put}"
        rows = 1 if kind == "short" else 4
        content = b"email\n" + b"".join(f"{who}-{n}@example.com\n".encode() for n in range(rows))
        name = f"{self.put:03}.csv"
        path = self.scene.put(name, content + b"nobody\n" * (kind == "bad"), folder=folder)
        self.kit.daemon.hear(path.parent, name.encode())
        self.turn()

    # -------------------------------------------------------------------------------------------- server and time

    @rule(fault=st.sampled_from(FAULTS), times=st.integers(1, 3), segment=st.sampled_from([None, 1, 2, 3, 4]))
    def fail(self, fault: dict[str, Any], times: int, segment: int | None) -> None:
        self.sandbox.fault(**fault, times=times, segment=segment)

    @rule(fault=st.sampled_from(LOST), times=st.sampled_from([1, 2, 9]), segment=st.sampled_from([1, 2, 3, 4]))
    def lose(self, fault: dict[str, Any], times: int, segment: int) -> None:
        """OptiPub takes it, and nobody hears of it: what the policies are for."""
        self.sandbox.fault(**fault, times=times, segment=segment)

    @rule()
    def mend(self) -> None:
        self.sandbox.clear_faults()

    @rule(seconds=st.sampled_from([2.0, 16.0, 35.0, 61.0, 700.0, 4000.0]))
    def pass_time(self, seconds: float) -> None:
        self.scene.clock.move(seconds)
        self.turn()

    @rule(seconds=st.sampled_from([-3e7, -90_000.0, -100.0, 90_000.0, 3e7]))
    def jump(self, seconds: float) -> None:
        self.scene.clock.wall += seconds
        self.turn()

    @rule(effects=st.integers(1, 40))
    def die_soon(self, effects: int) -> None:
        """It is killed before one of its next effects on disk."""
        self.fuse = effects
        self.scene.clock.move(3.0)
        self.turn()
        self.scene.clock.move(16.0)
        self.turn()
        if self.fuse < 0:
            self.again()
        self.fuse = 0

    # ------------------------------------------------------------------------------------------------------ people

    @rule(what=st.sampled_from(operate.ORDERS), pick=st.integers(0, 50))
    def order(self, what: str, pick: int) -> None:
        drops = self.kit.ledger.find_drops()
        if drops:
            drop, at = drops[pick % len(drops)], self.scene.clock.wall
            try:
                act = self.carry_out(what, at)
                self.kit.daemon.order(drop.id, act)
                self.ordered.add(drop.id)
            except OperatorError:
                pass  # not for that state, and said so
            self.turn()

    def carry_out(self, what: str, at: float) -> Any:
        return lambda drop: operate.order(self.kit.ledger, what, drop, by="ann", why="", at=at)

    @rule(what=st.sampled_from(["pause", "resume"]), name=st.sampled_from(["main", *NAMES]))
    def switch(self, what: str, name: str) -> None:
        kind, at = "account" if name == "main" else "folder", self.scene.clock.wall
        act = lambda: operate.switch(self.kit.ledger, what, kind, name, by="ann", why="", at=at)  # noqa: E731
        self.kit.daemon.switch(kind, name, act)
        self.turn()

    # ------------------------------------------------------------------------------------------------ what must hold

    @invariant()
    @precondition(lambda self: hasattr(self, "kit"))
    def nothing_is_lost(self) -> None:
        """Each file is in an inbox, or has a row and lies where its state says; what is filed has its log."""
        drops = self.kit.ledger.find_drops()
        waiting = sum(1 for folder in self.scene.config.folders.values() for _ in folder.path.iterdir())
        assert waiting + len(drops) == self.put
        for drop in drops:
            where = where_is(drop)
            assert where is not None, f"the file of {drop.id} is lost"
            expected = {"done": "done", "failed": "failed"}.get(drop.state.value, "work")
            here = where.relative_to(self.scene.config.root).parts[0]
            # What is to be tried again comes back with its next step, which may wait for its account.
            coming_back = isinstance(self.kit.ledger.history(drop.id)[-1].event, Retried)
            assert here == expected or (coming_back and here == "failed")
        assert_logs(self.scene)

    @invariant()
    @precondition(lambda self: hasattr(self, "kit"))
    def every_repeat_is_owned_up_to(self) -> None:
        """OptiPub took no drop twice unless a policy or a person said so before, at most twice without a person."""
        applied = Counter(id for id, _, taken in self.seen() if taken)
        for drop in self.kit.ledger.find_drops():
            events = [entry.event for entry in self.kit.ledger.history(drop.id)]
            said = sum(
                isinstance(event, Resent | Retried) or (isinstance(event, Released) and event.again) for event in events
            )
            assert applied[drop.id] <= 1 + said, f"{drop.id} was taken {applied[drop.id]} times"
            assert sum(isinstance(event, Resent) and event.by == POLICY for event in events) <= 2
            if drop.spared:
                assert applied[drop.id] == 0
            elif drop.state is State.DONE and drop.id not in self.ordered:
                assert applied[drop.id] >= 1

    @invariant()
    @precondition(lambda self: hasattr(self, "kit"))
    def files_of_one_segment_keep_their_order(self) -> None:
        """Of those that no person has touched, the later one is not tried before the earlier one is through or held."""
        begun: dict[str, list[float]] = {}
        for drop in self.kit.ledger.find_drops():
            if drop.id in self.ordered:
                continue
            starts = [n for n, (id, _, _) in enumerate(self.seen()) if id == drop.id]
            if starts:
                assert begun.get(drop.lane, [-1])[-1] < starts[0], f"{drop.id} overtook an earlier one"
                begun.setdefault(drop.lane, []).append(starts[0])

    def seen(self) -> list[tuple[str, int, bool]]:
        """(drop ID, segment, whether it was taken) of each import whose file was seen, in the order of arrival."""
        named = [(each.filename, each.segment, each.applied) for each in self.sandbox.imports]
        return [(name.split(".")[-2], segment, taken) for name, segment, taken in named if name]

    @invariant()
    @precondition(lambda self: hasattr(self, "kit"))
    def nobody_is_signed_up_again(self) -> None:
        """No repeated sign-up that nobody ordered, once opt-outs were taken after its first attempt."""
        outs = [n for n, (_, segment, taken) in enumerate(self.seen()) if segment == 2 and taken]
        tries: dict[str, list[int]] = {}
        for n, (id, segment, taken) in enumerate(self.seen()):
            if segment == 1 and taken:
                tries.setdefault(id, []).append(n)
        for id, numbers in tries.items():
            if id not in self.ordered:
                first, last = numbers[0], numbers[-1]
                assert not any(first < out < last for out in outs), f"{id} was repeated after opt-outs"

    def teardown(self) -> None:
        """Once everything is mended and each hold was looked at, every file comes to its end."""
        try:
            if hasattr(self, "kit"):
                self.come_to_an_end()
        finally:
            if hasattr(self, "kit"):
                self.kit.close()
            self.sandbox.close()
            shutil.rmtree(self.at)

    def come_to_an_end(self) -> None:
        self.fuse = 0
        self.again()
        self.sandbox.clear_faults()
        for name in ("main", *NAMES):
            self.switch("resume", name)
        for _ in range(12):
            for drop in self.kit.ledger.find_drops(states=[State.HELD]):
                self.kit.daemon.order(drop.id, self.carry_out("retry", self.scene.clock.wall))
                self.ordered.add(drop.id)
                self.turn()
            self.pass_time(1000.0)
        assert {drop.state for drop in self.kit.ledger.find_drops()} <= FINISHED
        assert self.kit.ledger.account_facts("main").condition in (Condition.READY, Condition.PAUSED)
        self.nothing_is_lost()
        self.every_repeat_is_owned_up_to()


@pytest.mark.soak
@pytest.mark.usefixtures("untraced")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("share", range(SHARES))
def test_whatever_happens_the_promise_holds(share: int) -> None:
    """Nothing lost, nothing stuck, no repeat that is not owned up to, no disorder, nothing filed without its log."""
    run_state_machine_as_test(
        seed(share)(type(f"Life{share}", (Life,), {})),  # or all shares would play the same lives
        settings=settings(
            max_examples=LIVES // SHARES,
            phases=[Phase.generate],  # a life has few steps as it is; to shorten one takes minutes
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
