"""Ways in which a drop, an account or the daemon once stood still for good; each is driven here until it goes on.

Real folders, a real ledger and a real server; the clock is moved by hand.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from kit import PATIENCE_S, Kit, starting
from scene import KEY

from dropzone import control, operate
from dropzone.account import AccountFacts, Condition
from dropzone.answering import Answering
from dropzone.control import Control
from dropzone.drop import POLICY, Accepted, Attempted, Drop, Event, Lost, Report, Resent, State, make_id
from dropzone.errors import OperatorError
from dropzone.pipeline import DISTURBED_S
from dropzone.progress import Board
from dropzone.sandbox import Sandbox

SUBSCRIBE = "mode: subscribe, source_campaign: 90, source_partner: 9"
ACME = f"acme: {{segment_id: 1, {SUBSCRIBE}}}"
Start = Callable[..., Kit]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY, segments={9: "none"}) as sandbox:
        yield sandbox


@pytest.fixture
def start(tmp_path: Path, sandbox: Sandbox) -> Iterator[Start]:
    with starting(tmp_path, sandbox.url) as begin:
        yield begin


def put(kit: Kit, *names: str, folder: str = "acme") -> None:
    for name in names:
        kit.scene.put(name, b"email\n%s@example.com\n" % name.partition(".")[0].encode(), folder=folder)
        kit.daemon.hear(kit.scene.config.folders[folder].path, os.fsencode(name))
        kit.turn()
        kit.after(2.0)


def drop(kit: Kit, name: str) -> Drop:
    (found,) = (each for each in kit.ledger.find_drops() if os.fsdecode(each.name) == name)
    return found


def carry_out(kit: Kit, what: str) -> Callable[[Drop], tuple[Drop, Event]]:
    return lambda found: operate.order(kit.ledger, what, found, by="ann", why="", at=kit.scene.clock.wall)


def order(kit: Kit, what: str, name: str) -> None:
    kit.daemon.order(drop(kit, name).id, carry_out(kit, what))
    kit.turn()


def switch(kit: Kit, what: str, kind: str, name: str) -> None:
    act = lambda: operate.switch(kit.ledger, what, kind, name, by="ann", why="", at=kit.scene.clock.wall)  # noqa: E731
    kit.daemon.switch(kind, name, act)
    kit.turn()


class FullDisk:
    """A step that refuses the ledger's commits of these events with ENOSPC while it is full."""

    def __init__(self, *events: str) -> None:
        self.events = events
        self.full = False

    def __call__(self, name: str) -> None:
        if self.full and name.startswith("ledger: commit") and any(event in name for event in self.events):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_drop_that_is_tried_again_and_then_given_up_is_filed(start: Start, sandbox: Sandbox) -> None:
    """`retry` while its folder is paused, then `discard`: its file is still in failed/, and goes there again."""
    kit = start(ACME)
    sandbox.fault("status", status=422)
    put(kit, "a.csv")
    assert drop(kit, "a.csv").state is State.FAILED
    switch(kit, "pause", "folder", "acme")
    kit.after(86_400.0)  # another date folder
    order(kit, "retry", "a.csv")
    order(kit, "discard", "a.csv")
    assert drop(kit, "a.csv").state is State.FAILED


def test_a_drop_tried_again_does_not_need_its_old_date_folder(start: Start, sandbox: Sandbox) -> None:
    """It was brought back and waits; meanwhile retention takes the empty date folder away: it is sent all the same."""
    kit = start(ACME)
    sandbox.fault("status", status=422)
    put(kit, "a.csv")
    filed = Path(drop(kit, "a.csv").base, str(drop(kit, "a.csv").path))
    sandbox.fault("status", status=408)
    order(kit, "retry", "a.csv")
    assert drop(kit, "a.csv").state is State.QUEUED
    filed.parent.rmdir()
    kit.after(3600.0)
    assert drop(kit, "a.csv").state is State.DONE


def test_a_full_load_tried_again_gives_way_to_a_newer_one(start: Start, sandbox: Sandbox) -> None:
    """Its file is in failed/ still when the newer one takes its place; it goes to done/."""
    kit = start(f"acme: {{segment_id: 1, {SUBSCRIBE}, clear: true, supersede: true}}")
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv")
    order(kit, "discard", "a.csv")
    put(kit, "b.csv")
    order(kit, "retry", "a.csv")
    switch(kit, "resume", "folder", "acme")
    kit.after(60.0)
    assert {name: state.value for name, state in kit.states().items()} == {"a.csv": "done", "b.csv": "done"}


def test_a_drop_ordered_again_the_moment_it_is_filed_is_tried(start: Start, sandbox: Sandbox) -> None:
    """Between its row and the loop's knowing it, in a lane of its own for filing."""
    seen: list[str] = []
    kit = start(ACME)
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv")
    found = drop(kit, "a.csv")
    kit.daemon.order(found.id, carry_out(kit, "discard"))
    kit.daemon.tick()  # it is being filed
    next(iter(kit.daemon._running)).result()  # it is, and the loop does not know it yet

    def again() -> None:
        seen.append(kit.daemon.order(found.id, carry_out(kit, "retry")).state)

    if not kit.daemon.order_later("retry", found.id, again):
        again()
    kit.turn()
    assert seen == [State.QUEUED]
    switch(kit, "resume", "folder", "acme")
    assert drop(kit, "a.csv").state is State.DONE


def test_an_unknown_outcome_is_judged_though_its_account_is_closed(start: Start, sandbox: Sandbox) -> None:
    """The disk is full right after an answer was lost and the breaker opened: judged when there is room again."""
    disk = FullDisk("Withheld", "Resent")
    kit = start(ACME, step=disk)
    kit.ledger.change_account("main", lambda facts: AccountFacts(failures=4), at=kit.scene.clock.wall)
    sandbox.fault("lost_answer")
    disk.full = True
    put(kit, "a.csv")
    assert drop(kit, "a.csv").state is State.UNKNOWN
    disk.full = False
    for _ in range(10):
        kit.after(600.0)
    assert drop(kit, "a.csv").state is State.HELD
    put(kit, "b.csv")
    kit.after(10.0)
    assert drop(kit, "b.csv").state is State.DONE


def test_a_wait_is_not_stretched_by_a_clock_put_back_before_the_check(start: Start, sandbox: Sandbox) -> None:
    """Claimed by a clock that was a year ahead, and its account closes while it is checked: it waits for that only."""
    kit = start(ACME)
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv")
    kit.scene.clock.wall -= 86_400.0 * 365
    now = kit.scene.clock.wall
    kit.daemon._gates.note("main", AccountFacts(condition=Condition.WAITING, until=now + 60, noted_at=now))
    again = kit.daemon._pipeline.run(drop(kit, "a.csv").id)
    assert again is not None
    assert again <= kit.scene.clock.wall


def test_a_full_disk_and_a_control_socket(start: Start, sandbox: Sandbox) -> None:
    """What cannot be written down is said to who asked; the next one is answered."""
    disk = FullDisk("a segment's note")
    kit = start(ACME, step=disk)
    disk.full = True
    listening = Control(kit.scene.config.state_dir, Answering(kit.daemon, kit.ledger, Board()))
    try:
        request = {"order": "note segment", "account": "main", "name": "x", "note": None}
        answer = control.ask(kit.scene.config.state_dir, request, timeout_s=5.0)
        assert answer is not None
        assert "error" in answer
        health = control.ask(kit.scene.config.state_dir, {"ask": "health"}, timeout_s=5.0)
        assert health is not None
        assert "pid" in health
    finally:
        listening.close()


def test_a_reload_on_a_full_disk_does_not_end_the_daemon(start: Start, sandbox: Sandbox) -> None:
    """With an account that waits for a key: the fault is told, and the account has its next try when it is due."""
    disk = FullDisk("account")
    kit = start(ACME, step=disk)
    sandbox.fault("status", status=401)
    put(kit, "a.csv")
    disk.full = True
    kit.daemon.configure(kit.scene.config)
    assert "No space left" in kit.daemon.fault
    disk.full = False
    kit.after(900.0)
    assert drop(kit, "a.csv").state is State.DONE


def test_what_may_have_been_taken_stays_so_when_a_person_holds_it(start: Start, sandbox: Sandbox) -> None:
    """Held while it waits to be repeated: later files wait, and nobody releases it as if unsent."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, on_unknown: resend, retry: {initial: 60s, max: 60s}}")
    sandbox.fault("lost_answer")
    put(kit, "a.csv")
    assert drop(kit, "a.csv").state is State.QUEUED
    with pytest.raises(OperatorError, match="about to be offered again"):
        order(kit, "accept", "a.csv")
    order(kit, "hold", "a.csv")
    put(kit, "b.csv")
    assert drop(kit, "b.csv").state is State.QUEUED
    with pytest.raises(OperatorError, match="may be in OptiPub already"):
        order(kit, "release", "a.csv")
    order(kit, "accept", "a.csv")
    assert kit.states() == {"a.csv": State.DONE, "b.csv": State.DONE}
    assert len(sandbox.imports) == 2


def test_an_order_on_a_ledger_that_cannot_be_read_is_answered(start: Start, sandbox: Sandbox) -> None:
    """The loop goes on, and who ordered is told why nothing was done."""
    kit = start(ACME)
    put(kit, "a.csv")
    found = drop(kit, "a.csv")
    answers: list[dict[str, object]] = []
    answering = Answering(kit.daemon, kit.ledger, Board())
    asking = threading.Thread(target=lambda: answers.append(answering({"order": "hold", "id": found.id}, "ann")))
    asking.start()
    call = kit.daemon._calls.get(timeout=PATIENCE_S)
    kit.ledger._db.execute("ALTER TABLE drops RENAME TO gone")
    call()
    asking.join()
    kit.ledger._db.execute("ALTER TABLE gone RENAME TO drops")
    assert "cannot use the ledger" in str(answers[0]["error"])


def test_a_fault_while_a_folder_is_paused_keeps_no_lane_for_good(start: Start, sandbox: Sandbox) -> None:
    """The ledger cannot be read right when a drop is taken from its lane to see whether its folder is paused."""
    kit = start(ACME, "beta: {segment_id: 2, mode: lead}")
    switch(kit, "pause", "folder", "beta")
    switch(kit, "pause", "account", "main")
    put(kit, "a.csv")
    kit.daemon._gates.note("main", AccountFacts())
    kit.ledger._db.execute("ALTER TABLE drops RENAME TO gone")
    kit.turn()
    assert kit.daemon.fault
    kit.ledger._db.execute("ALTER TABLE gone RENAME TO drops")
    kit.after(60.0)
    assert drop(kit, "a.csv").state is State.DONE


def test_a_full_load_gives_way_to_no_list_that_was_given_up_meanwhile(start: Start, sandbox: Sandbox) -> None:
    """The newer one is discarded while it is checked in the older one's turn: the older one is sent."""
    ordered = threading.Event()
    armed: list[str] = []

    def discard_newer() -> None:
        kit.daemon.order(armed.pop(), carry_out(kit, "discard"))
        ordered.set()

    def step(name: str) -> None:
        if armed and name == "prepare: sync prepared copy":
            kit.daemon.call(discard_newer)
            ordered.wait(PATIENCE_S)

    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true}", step=step)
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv", "b.csv")
    armed.append(drop(kit, "b.csv").id)
    switch(kit, "resume", "folder", "acme")
    kit.after(3600.0)
    assert kit.states() == {"a.csv": State.DONE, "b.csv": State.FAILED}
    assert not drop(kit, "a.csv").spared


def test_many_full_loads_are_checked_as_often_as_there_are_files(start: Start, sandbox: Sandbox) -> None:
    """The newest is checked once for all that give way to it, not once for each."""
    checks: list[str] = []
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true}", step=checks.append)
    switch(kit, "pause", "folder", "acme")
    names = [f"{n:02}.csv" for n in range(20)]
    put(kit, *names)
    switch(kit, "resume", "folder", "acme")
    assert set(kit.states().values()) == {State.DONE}
    assert [each.first[0] for each in sandbox.imports] == ["19@example.com"]
    assert {drop(kit, name).spared for name in names[:-1]} == {"superseded"}
    assert checks.count("prepare: sync prepared copy") == 2


@pytest.mark.parametrize(
    ("rows", "verdict", "most"),
    [(b"email\nnobody\n", State.FAILED, 12), (b"email\n", State.HELD, 33)],
    ids=["refused", "held"],
)
def test_full_loads_that_fail_are_not_read_by_each_that_is_older(
    start: Start, sandbox: Sandbox, rows: bytes, verdict: State, most: int
) -> None:
    """What is no list is read once for all; what a guard holds, once more after an import and in its own turn."""
    checks: list[str] = []
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true}", step=checks.append)
    switch(kit, "pause", "folder", "acme")
    put(kit, "good.csv")
    for n in range(11):
        kit.scene.put(f"bad{n:02}.csv", rows)
    kit.settle()
    switch(kit, "resume", "folder", "acme")
    kit.settle()
    states = kit.states()
    assert states.pop("good.csv") is State.DONE
    assert set(states.values()) == {verdict}
    assert len(sandbox.imports) == 1
    assert 12 <= checks.count("prepare: sync prepared copy") <= most


def test_a_resumed_account_is_open_whatever_was_read_before(start: Start, sandbox: Sandbox) -> None:
    """A worker has read that the account is paused, and goes by it only after a person has resumed the account."""
    kit = start(ACME)
    put(kit, "a.csv")
    done = drop(kit, "a.csv")
    switch(kit, "pause", "account", "main")
    read, resumed = threading.Event(), threading.Event()
    account_facts = kit.ledger.account_facts

    class Slow:
        """The ledger as a worker sees it that the machine lets sleep after each reading."""

        def __getattr__(self, name: str) -> object:
            return getattr(kit.ledger, name)

        def account_facts(self, name: str) -> AccountFacts:
            facts = account_facts(name)
            if threading.current_thread() is worker:
                read.set()
                resumed.wait(0.5)
            return facts

    kit.daemon._ledger = Slow()  # type: ignore[assignment]
    event = Accepted(status=201, body="")
    worker = threading.Thread(target=lambda: kit.daemon.note(done, event))
    worker.start()
    read.wait(PATIENCE_S)
    switch(kit, "resume", "account", "main")
    resumed.set()
    worker.join()
    put(kit, "b.csv")
    assert drop(kit, "b.csv").state is State.DONE


def test_a_drop_held_for_faults_keeps_its_order_where_that_is_strict(start: Start, sandbox: Sandbox) -> None:
    """Five unexpected errors in a row: with `strict_order` the later files wait for a person as well."""
    broken: list[str] = []

    def step(name: str) -> None:
        if broken and name == "prepare: sync prepared copy":
            raise ValueError

    kit = start(ACME, defaults="strict_order: true", step=step)
    broken.append("a.csv")
    put(kit, "a.csv", "b.csv")
    while drop(kit, "a.csv").state is State.QUEUED:
        kit.after(900.0)
    broken.clear()
    kit.after(900.0)
    assert drop(kit, "a.csv").guard == "faults"
    assert drop(kit, "b.csv").state is State.QUEUED
    order(kit, "release", "a.csv")
    assert kit.states() == {"a.csv": State.DONE, "b.csv": State.DONE}


def test_a_held_full_load_that_cannot_be_filed_is_filed_later(start: Start, sandbox: Sandbox) -> None:
    """Something is in the way in done/ when the newer one supersedes it; later it is not."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true, guards: {max_rows: 1}}")
    kit.scene.put("a.csv", b"email\na@example.com\nb@example.com\n")
    kit.settle()
    place = kit.scene.config.root / "done" / "acme"
    place.rmdir()
    place.write_text("in the way")
    put(kit, "b.csv")
    assert drop(kit, "a.csv").state is State.ACCEPTED
    place.unlink()
    kit.after(900.0)
    assert kit.states() == {"a.csv": State.DONE, "b.csv": State.DONE}


def test_what_waits_for_a_filing_under_way_keeps_no_processor_busy(start: Start) -> None:
    """Another, to be tried again, is due while one is filed: the loop sleeps until that filing ends."""
    waits_s: list[float] = []

    def step(name: str) -> None:  # in the thread that files
        if name == "file: write log":
            kit.daemon._filing.add("another", "", "another", due=kit.scene.clock.monotonic)
            waits_s.append(kit.daemon._next_turn() - kit.scene.clock.monotonic)

    kit = start("acme: {segment_id: 1, mode: lead}", step=step)
    put(kit, "a.csv")
    assert [wait_s > 0 for wait_s in waits_s] == [True]
    assert [drop.state for drop in kit.ledger.find_drops()] == [State.DONE]


def test_a_newer_full_load_that_cannot_be_read_is_no_fault_of_the_older(start: Start, sandbox: Sandbox) -> None:
    """Its partner shut it after the claim, say: it meets that in its own turn, and the older one is sent in its."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true}")
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv", "b.csv")
    original = kit.scene.config.root / "work" / drop(kit, "b.csv").id / "original"
    original.unlink()
    original.mkdir()
    switch(kit, "resume", "folder", "acme")
    assert drop(kit, "a.csv").state is State.DONE
    assert not drop(kit, "a.csv").spared
    for _ in range(6):
        kit.after(900.0)
    assert drop(kit, "b.csv").guard == "faults"


def test_a_folder_that_is_paused_during_a_check_sends_nothing(start: Start, sandbox: Sandbox) -> None:
    """As an account is: whoever was told that it is paused may rely on it."""
    paused = threading.Event()
    armed = [True]

    def pause() -> None:
        act = partial(operate.switch, kit.ledger, "pause", "folder", "acme", by="ann", why="", at=kit.scene.clock.wall)
        kit.daemon.switch("folder", "acme", act)
        paused.set()

    def step(name: str) -> None:
        if armed and name == "prepare: sync prepared copy":
            armed.clear()
            kit.daemon.call(pause)
            paused.wait(PATIENCE_S)

    kit = start(ACME, step=step)
    put(kit, "a.csv")
    assert drop(kit, "a.csv").state is State.QUEUED
    assert not sandbox.imports
    kit.after(3600.0)
    assert not sandbox.imports
    switch(kit, "resume", "folder", "acme")
    assert drop(kit, "a.csv").state is State.DONE


def test_settings_that_cannot_be_read_end_nobody(start: Start, sandbox: Sandbox) -> None:
    """They are of another version, say: the drop is held in its turn, also where it is to try for its account."""
    kit = start(ACME, "beta: {segment_id: 2, mode: lead}")
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv")
    kit.ledger._db.execute("UPDATE drops SET settings = '{}'")
    kit.ledger.change_account("main", lambda facts: AccountFacts(condition=Condition.BROKEN), at=1.0)
    kit.daemon._note_account("main")
    switch(kit, "resume", "folder", "acme")
    for _ in range(8):
        kit.after(900.0)
    assert drop(kit, "a.csv").guard == "faults"
    assert "stored settings" in drop(kit, "a.csv").reason
    put(kit, "b.csv", folder="beta")
    kit.after(900.0)
    assert drop(kit, "b.csv").state is State.DONE


def adopted_unsure(kit: Kit) -> str:
    """A file that lies in work/ and was checked before, but whose row is gone; its ID."""
    at = kit.scene.config.root / "work" / (id := make_id(kit.scene.clock.wall))
    at.mkdir(mode=0o700)
    (at / "origin").symlink_to("acme/a.csv")
    (at / "original").write_bytes(b"email\na@example.com\n")
    (at / "prepared.csv").touch()
    kit.daemon._cut_off = True  # the next turn takes up what lies there
    kit.turn()
    assert drop(kit, "a.csv").guard == "no record"
    return id


def test_what_has_no_record_stays_unsure_when_a_person_holds_it(start: Start, sandbox: Sandbox) -> None:
    """Tried again, and held before its turn came: still nobody knows whether it was sent before."""
    kit = start(ACME)
    adopted_unsure(kit)
    switch(kit, "pause", "folder", "acme")
    order(kit, "retry", "a.csv")
    order(kit, "hold", "a.csv")
    with pytest.raises(OperatorError, match="may be in OptiPub already"):
        order(kit, "release", "a.csv")
    order(kit, "accept", "a.csv")
    assert drop(kit, "a.csv").state is State.DONE


def test_a_full_load_that_may_be_in_optipub_is_not_called_superseded(start: Start, sandbox: Sandbox) -> None:
    """It has no record, and a person has it sent again: no log may say that it was not sent."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true}")
    adopted_unsure(kit)
    switch(kit, "pause", "folder", "acme")
    order(kit, "retry", "a.csv")
    put(kit, "b.csv")
    switch(kit, "resume", "folder", "acme")
    kit.after(60.0)
    assert kit.states() == {"a.csv": State.DONE, "b.csv": State.DONE}
    assert not drop(kit, "a.csv").spared
    assert [each.first[0] for each in sandbox.imports] == ["a@example.com", "b@example.com"]


def test_a_full_load_of_no_record_is_held_whatever_comes_after_it(start: Start, sandbox: Sandbox) -> None:
    """It may be in OptiPub, so nobody may say that it was not sent, also where it waits for nothing but a look."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true}")
    adopted_unsure(kit)
    switch(kit, "pause", "folder", "acme")
    put(kit, "b.csv")
    switch(kit, "resume", "folder", "acme")
    newer = drop(kit, "b.csv").id
    kit.daemon._pipeline.run(newer)  # as by a daemon whose lanes did not keep it waiting
    assert {name: state.value for name, state in kit.states().items()} == {"a.csv": "held", "b.csv": "done"}
    order(kit, "accept", "a.csv")
    assert not drop(kit, "a.csv").spared


def test_opt_outs_come_after_sign_ups_that_are_sent_again(start: Start, sandbox: Sandbox) -> None:
    """A repeat is under way: had the opt-outs arrived first, it would sign those people up again."""
    kit = start(ACME, "out: {segment_id: 2, mode: unsubscribe}")
    switch(kit, "pause", "account", "main")
    put(kit, "in.csv")
    put(kit, "out.csv", folder="out")
    signing, leaving = drop(kit, "in.csv"), drop(kit, "out.csv")
    first = Attempted(n=1, digest="0" * 64, size=1, report=Report())
    for event in (first, Lost(cause="x", sent=1), Resent(by=POLICY, why="x"), replace(first, n=2, repeats=1)):
        kit.ledger.commit(signing.id, event, at=kit.scene.clock.wall)
    kit.daemon._gates.note("main", AccountFacts())
    due_at = kit.daemon._pipeline.run(leaving.id)
    assert due_at == kit.scene.clock.wall + DISTURBED_S
    assert "people who leave must come after them" in drop(kit, "out.csv").reason
    assert not sandbox.imports
    kit.ledger.commit(signing.id, Accepted(status=201, body=""), at=kit.scene.clock.wall)
    kit.daemon._pipeline.run(leaving.id)
    assert [each.segment for each in sandbox.imports] == [2]
