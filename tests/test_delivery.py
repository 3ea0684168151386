"""Delivery through the daemon, against a real server: unknown outcomes, order, breaker, pauses, duplicates, guards.

The clock is moved by hand, everything else is real. Each test says what OptiPub saw, what the ledger says, and what a
person reads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kit import Kit, kit_on, starting
from scene import KEY, Scene, assert_kept, make_scene

from dropzone import config as configuration
from dropzone import operate
from dropzone.account import BREAKER, Condition
from dropzone.drop import Accepted, Attempted, Drop, State, Withheld
from dropzone.sandbox import Sandbox
from dropzone.wiring import lay_out

ROWS = b"email\nann@example.com\n"
SUBSCRIBE = "mode: subscribe, source_campaign: 90, source_partner: 9"
Start = Callable[..., Kit]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY, segments={9: "none"}) as sandbox:
        yield sandbox


@pytest.fixture
def start(tmp_path: Path, sandbox: Sandbox) -> Iterator[Start]:
    with starting(tmp_path, sandbox.url) as begin:
        yield begin


def put(kit: Kit, *names: str, folder: str = "acme", content: bytes = b"") -> None:
    """Files come one after the other and are taken over in this order; each has an address of its own."""
    for name in names:
        kit.scene.put(name, content or b"email\n%s@example.com\n" % name.partition(".")[0].encode(), folder=folder)
        kit.daemon.hear(kit.scene.config.folders[folder].path, os.fsencode(name))
        kit.turn()
        kit.after(2.0)


def drop(kit: Kit, name: str) -> Drop:
    (found,) = (each for each in kit.ledger.find_drops() if os.fsdecode(each.name) == name)
    return found


def kinds(kit: Kit, name: str) -> list[str]:
    """What happened to one file, from its first attempt on."""
    events = [type(entry.event).__name__ for entry in kit.ledger.history(drop(kit, name).id)]
    return events[events.index("Attempted") :] if "Attempted" in events else events[1:]


def log(kit: Kit, name: str) -> str:
    found = drop(kit, name)
    assert found.path
    path = Path(found.base, found.path)
    return path.with_name(path.name.removesuffix(".csv") + ".log").read_text()


def offered(sandbox: Sandbox) -> list[str]:
    """The first address of each import, in the order of arrival."""
    return [each.first[0].partition("@")[0] for each in sandbox.imports]


def order(kit: Kit, what: str, name: str) -> Drop:
    at = kit.scene.clock.wall
    act = lambda found: operate.order(kit.ledger, what, found, by="ann", why="", at=at)  # noqa: E731
    done = kit.daemon.order(drop(kit, name).id, act)
    kit.turn()
    return done


def switch(kit: Kit, what: str, kind: str, name: str) -> None:
    at = kit.scene.clock.wall
    act = lambda: operate.switch(kit.ledger, what, kind, name, by="ann", why="a look", at=at)  # noqa: E731
    kit.daemon.switch(kind, name, act)
    kit.turn()


# ----------------------------------------------------------------------------------------------- unknown outcomes


@pytest.mark.parametrize("mode", ["mode: unsubscribe", "mode: lead", SUBSCRIBE, "mode: suppress, hash: none"])
def test_a_lost_answer_is_repeated_within_its_window_and_owned_up_to(start: Start, sandbox: Sandbox, mode: str) -> None:
    """By default, in each mode: event, row, and log say which attempt is repeated."""
    kit = start(
        f"acme: {{segment_id: {9 if 'suppress' in mode else 1}, {mode}}}",
        defaults="retry: {initial: 5s, max: 5s}",
        usual=False,
    )
    sandbox.fault("lost_answer")
    put(kit, "a.csv")
    assert drop(kit, "a.csv").state is State.QUEUED
    assert "attempt 1 may have been taken" in drop(kit, "a.csv").reason
    kit.after(5.0)
    assert kinds(kit, "a.csv") == ["Attempted", "Lost", "Resent", "Attempted", "Accepted", "Filed"]
    assert drop(kit, "a.csv").repeats == 1
    assert "attempt 2: sending 1 rows, 20 bytes, though OptiPub may have them already from attempt 1" in log(
        kit, "a.csv"
    )
    assert "may have reached OptiPub more than once" in log(kit, "a.csv")
    assert [each.applied for each in sandbox.imports] == [True, True]
    assert_kept(kit.scene, kit.ledger.find_drops())


def test_files_behind_one_that_is_sent_again_wait_for_that(start: Start, sandbox: Sandbox) -> None:
    """They would overtake it; once it is held they go on, and other lanes did not wait at all."""
    kit = start(
        "acme: {segment_id: 1, mode: lead, on_unknown: {resend_within: 1h}, retry: {initial: 60s, max: 60s}}",
        "b: {segment_id: 2, mode: lead}",
    )
    sandbox.fault("lost_answer", segment=1, times=3)
    put(kit, "1.csv", "2.csv")
    put(kit, "b.csv", folder="b")
    assert offered(sandbox) == ["1", "b"]
    for _ in range(3):
        kit.after(60.0)
    assert offered(sandbox) == ["1", "b", "1", "1", "2"]
    assert {name: state.value for name, state in kit.states().items()} == {
        "1.csv": "held",
        "2.csv": "done",
        "b.csv": "done",
    }


def test_after_two_repeats_a_person_has_to_look(start: Start, sandbox: Sandbox) -> None:
    """Three times lost: held, and what was found over there can be said."""
    kit = start("acme: {segment_id: 1, mode: unsubscribe, on_unknown: resend}")
    sandbox.fault("drop_after", times=None)
    put(kit, "a.csv")
    for _ in range(5):
        kit.after(60.0)
    found = drop(kit, "a.csv")
    assert (found.state, found.guard, found.tries, found.repeats) == (State.HELD, "unknown", 3, 2)
    assert "sent again 2 times already" in found.reason
    assert order(kit, "accept", "a.csv").state is State.ACCEPTED
    assert drop(kit, "a.csv").state is State.DONE
    assert len(sandbox.imports) == 3


def test_nobody_is_signed_up_again_after_opt_outs_were_sent(start: Start, sandbox: Sandbox) -> None:
    """The answer to sign-ups is lost, opt-outs are accepted, and only then the repeat is due: held."""
    kit = start(
        f"acme: {{segment_id: 1, {SUBSCRIBE}, on_unknown: {{resend_within: 1h}}, retry: {{initial: 60s, max: 60s}}}}",
        "outs: {segment_id: 2, mode: unsubscribe}",
    )
    sandbox.fault("lost_answer", segment=1)
    put(kit, "a.csv")
    assert drop(kit, "a.csv").state is State.QUEUED
    put(kit, "o.csv", folder="outs")
    kit.after(60.0)
    found = drop(kit, "a.csv")
    assert (found.state, found.guard) == (State.HELD, "unknown")
    assert "people left in between" in found.reason
    assert offered(sandbox) == ["a", "o"]


def test_no_jumping_clock_hides_that_people_left(start: Start, sandbox: Sandbox) -> None:
    """The opt-outs come while the clock is a day behind; when it is right again, the repeat is due: held."""
    kit = start(
        f"acme: {{segment_id: 1, {SUBSCRIBE}, on_unknown: {{resend_within: 1h}}, retry: {{initial: 60s, max: 60s}}}}",
        "outs: {segment_id: 2, mode: unsubscribe}",
    )
    sandbox.fault("lost_answer", segment=1)
    put(kit, "a.csv")
    kit.scene.clock.wall -= 86_400.0
    put(kit, "o.csv", folder="outs")
    kit.scene.clock.wall += 86_400.0
    kit.after(60.0)
    assert (drop(kit, "a.csv").state, drop(kit, "a.csv").guard) == (State.HELD, "unknown")
    assert offered(sandbox) == ["a", "o"]


def test_a_repeat_whose_turn_comes_too_late_is_held(start: Start, sandbox: Sandbox) -> None:
    """The window is looked at again right before the attempt: the account was closed meanwhile."""
    kit = start("acme: {segment_id: 1, mode: lead, on_unknown: {resend_within: 5m}}", "b: {segment_id: 2, mode: lead}")
    sandbox.fault("lost_answer", segment=1)
    sandbox.fault("status", status=503, headers={"Retry-After": "1200"}, segment=2)
    put(kit, "a.csv")
    put(kit, "b.csv", folder="b")
    assert kit.ledger.account_facts("main").condition is Condition.WAITING
    kit.after(1200.0)
    found = drop(kit, "a.csv")
    assert (found.state, found.guard) == (State.HELD, "unknown")
    assert "more than 300 s have passed" in found.reason
    assert drop(kit, "b.csv").state is State.DONE


# ---------------------------------------------------------------------------------------------------------- lanes


def test_folders_of_one_group_keep_one_order(start: Start, sandbox: Sandbox) -> None:
    """Sign-ups wait behind opt-outs that must come again, though they are another segment's."""
    kit = start(
        f"acme: {{segment_id: 1, {SUBSCRIBE}, order_group: list}}",
        "outs: {segment_id: 2, mode: unsubscribe, order_group: list}",
    )
    sandbox.fault("status", status=408)
    put(kit, "o.csv", folder="outs")
    put(kit, "a.csv")
    kit.after(20.0)
    assert offered(sandbox) == ["o", "o", "a"]
    assert drop(kit, "a.csv").lane == drop(kit, "o.csv").lane == "main/group list"


def test_a_full_load_of_unknown_outcome_keeps_the_next_one_waiting(start: Start, sandbox: Sandbox) -> None:
    """Sent later, the older one would wipe the newer; also after a restart, until somebody has decided."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, on_unknown: hold}", "b: {segment_id: 2, mode: lead}")
    sandbox.fault("lost_answer", segment=1)
    put(kit, "a.csv", "b.csv")
    put(kit, "c.csv", folder="b")
    assert {name: drop(kit, name).state for name in ("a.csv", "b.csv", "c.csv")} == {
        "a.csv": State.HELD,
        "b.csv": State.QUEUED,
        "c.csv": State.DONE,
    }
    with kit_on(kit.scene) as later:
        later.daemon.start()
        later.settle()
        assert drop(later, "b.csv").state is State.QUEUED
        order(later, "accept", "a.csv")
        later.turn()
        assert drop(later, "b.csv").state is State.DONE
    assert offered(sandbox) == ["a", "c", "b"]


def test_what_a_person_gives_up_is_filed_at_once(start: Start, sandbox: Sandbox) -> None:
    """Though it stands behind a file that waits for its time; the others keep their order."""
    kit = start("acme: {segment_id: 1, mode: lead, retry: {initial: 60s, max: 60s}}")
    sandbox.fault("status", status=408)
    put(kit, "a.csv", "b.csv", "c.csv")
    order(kit, "discard", "b.csv")
    assert [state.value for state in kit.states().values()] == ["queued", "failed", "queued"]
    kit.after(60.0)
    assert offered(sandbox) == ["a", "a", "c"]


def test_with_strict_order_any_held_file_keeps_the_next_one_waiting(start: Start, sandbox: Sandbox) -> None:
    """Without it the next one goes on; a release lets both go, in their order."""
    kit = start("acme: {segment_id: 1, mode: lead, strict_order: true, guards: {max_rows: 1}}")
    put(kit, "a.csv", content=b"email\na@example.com\nb@example.com\n")
    put(kit, "c.csv")
    assert (drop(kit, "a.csv").state, drop(kit, "c.csv").state) == (State.HELD, State.QUEUED)
    order(kit, "release", "a.csv")
    kit.turn()
    assert offered(sandbox) == ["a", "c"]


def test_a_newer_full_load_takes_the_place_of_those_that_wait(start: Start, sandbox: Sandbox) -> None:
    """Only one that has passed its check; the older ones go to done/ unsent, and say so."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true}")
    sandbox.fault("status", status=503, headers={"Retry-After": "600"})
    put(kit, "a.csv", "b.csv", "c.csv")
    put(kit, "bad.csv", content=b"email\nnobody\n")
    kit.after(600.0)
    kit.after(1.0)
    states = {os.fsdecode(each.name): (each.state, each.spared) for each in kit.ledger.find_drops()}
    assert states == {
        "a.csv": (State.DONE, "superseded"),
        "b.csv": (State.DONE, "superseded"),
        "c.csv": (State.DONE, ""),
        "bad.csv": (State.FAILED, ""),
    }
    assert offered(sandbox) == ["a", "c"]
    for older in ("a.csv", "b.csv"):
        assert "NOT SENT" in log(kit, older)
        assert f"the newer file {drop(kit, 'c.csv').id} of the folder takes its place" in log(kit, older)
    assert_kept(kit.scene, kit.ledger.find_drops())


def test_a_full_load_that_is_held_is_superseded_too(start: Start, sandbox: Sandbox) -> None:
    """Released later, it would put older rows in the place of newer ones."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true, guards: {max_rows: 1}}")
    put(kit, "a.csv", content=b"email\na@example.com\nb@example.com\n")
    assert drop(kit, "a.csv").state is State.HELD
    put(kit, "c.csv")
    assert (drop(kit, "a.csv").state, drop(kit, "a.csv").spared) == (State.DONE, "superseded")
    assert offered(sandbox) == ["c"]
    assert_kept(kit.scene, kit.ledger.find_drops())


def test_a_full_load_that_is_given_up_leaves_nothing_in_memory(start: Start, sandbox: Sandbox) -> None:
    """What was found of one that does not fit is forgotten with it, or years of them would add up."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true, guards: {max_rows: 1}}")
    sandbox.fault("status", times=2, status=503, headers={"Retry-After": "600"})
    put(kit, "a.csv")
    put(kit, "long.csv", content=b"email\na@example.com\nb@example.com\n")
    kit.after(600.0)  # what waits behind is looked at, and does not fit
    assert list(kit.daemon._pipeline._withheld) == [drop(kit, "long.csv").id]
    order(kit, "discard", "long.csv")
    assert drop(kit, "long.csv").state is State.FAILED
    assert kit.daemon._pipeline._withheld == {}


def test_an_account_that_stalls_takes_no_turns_from_another(tmp_path: Path, sandbox: Sandbox) -> None:
    """Eight lanes of one account hang on a slow server; the file of the other account is through before them."""
    folders = "\n".join(f"f{n}: {{segment_id: {n}, mode: lead, account: main}}" for n in range(1, 9))
    scene = make_scene(tmp_path, sandbox.url, folders=folders)
    with Sandbox(key=KEY) as quick:
        file = tmp_path / "dropzone.yaml"
        other = f"accounts:\n  other: {{base_url: {quick.url}, api_key: {{file: {tmp_path}/key}}}}"
        text = file.read_text().replace("accounts:", other)
        file.write_text(text + "  g: {segment_id: 1, mode: lead, account: other}\n")
        scene = Scene(at=tmp_path, config=configuration.load(file), clock=scene.clock)
        lay_out(scene.config)
        sandbox.fault("slow", seconds=1.0, times=None)
        with kit_on(scene) as kit:
            kit.daemon.start()
            for n in range(1, 9):
                scene.put("a.csv", ROWS, folder=f"f{n}")
            scene.put("g.csv", ROWS, folder="g")
            kit.settle()
            filed = [found.folder for found, event in kit.events if isinstance(event, Accepted)]
            assert filed[0] == "g"
            assert len(filed) == 9


def test_a_full_load_that_optipub_may_have_is_never_superseded(start: Start, sandbox: Sandbox) -> None:
    """It goes before the newer one or not at all, as somebody says: held, and offered again by an order."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true, on_unknown: hold}")
    sandbox.fault("lost_answer", times=2)
    put(kit, "a.csv", "b.csv")
    assert [state.value for state in kit.states().values()] == ["held", "queued"]
    order(kit, "retry", "a.csv")
    kit.after(1.0)
    assert [state.value for state in kit.states().values()] == ["held", "queued"]
    assert offered(sandbox) == ["a", "a"]
    order(kit, "hold", "b.csv")
    order(kit, "release", "b.csv")
    kit.after(1.0)
    assert drop(kit, "b.csv").state is State.QUEUED
    order(kit, "accept", "a.csv")
    kit.after(1.0)
    assert {each.spared for each in kit.ledger.find_drops()} == {""}
    assert offered(sandbox) == ["a", "a", "b"]


def test_one_that_optipub_may_have_stays_between_two_that_are_superseded(start: Start, sandbox: Sandbox) -> None:
    """The oldest gives way to the newest; the one between them was offered already, and is offered again as ordered."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true, on_unknown: hold}")
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv")
    order(kit, "discard", "a.csv")
    sandbox.fault("lost_answer")
    switch(kit, "resume", "folder", "acme")
    put(kit, "b.csv")
    switch(kit, "pause", "folder", "acme")
    put(kit, "c.csv")
    order(kit, "retry", "a.csv")
    order(kit, "retry", "b.csv")
    switch(kit, "resume", "folder", "acme")
    kit.after(1.0)
    assert {os.fsdecode(each.name): each.spared for each in kit.ledger.find_drops()} == {
        "a.csv": "superseded",
        "b.csv": "",
        "c.csv": "",
    }
    assert offered(sandbox) == ["b", "b", "c"]


def test_what_is_held_as_unknown_stays_though_its_folder_got_another_segment(start: Start, sandbox: Sandbox) -> None:
    """Then it keeps no lane waiting any more, but its outcome is as unknown as before; so with one of a lost ledger."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true, supersede: true, on_unknown: hold}")
    sandbox.fault("lost_answer")
    put(kit, "a.csv", "lost.csv")
    kit.ledger.commit(drop(kit, "lost.csv").id, Withheld(guard="no record", why="lost"), at=kit.scene.clock.wall)
    file = kit.scene.at / "dropzone.yaml"
    file.write_text(file.read_text().replace("segment_id: 1", "segment_id: 2"))
    kit.daemon.configure(configuration.load(file))
    put(kit, "b.csv")
    assert [(each.state.value, each.guard) for each in kit.ledger.find_drops()] == [
        ("held", "unknown"),
        ("held", "no record"),
        ("done", ""),
    ]
    assert offered_to(sandbox) == [1, 2]


# ------------------------------------------------------------------------------------- the breaker and the pauses


def test_five_failures_open_the_breaker_and_one_drop_tries(start: Start, sandbox: Sandbox) -> None:
    """The server is away: after five signals nobody tries but one, later and later; the safest first; then all go."""
    kit = start(
        "acme: {segment_id: 1, mode: lead, clear: true}",
        "leads: {segment_id: 2, mode: lead}",
        "outs: {segment_id: 3, mode: unsubscribe}",
        defaults="retry: {initial: 1s, max: 1s}",
    )
    sandbox.close()
    put(kit, "a.csv")
    for _ in range(BREAKER):
        kit.after(1.0)
    facts = kit.ledger.account_facts("main")
    assert (facts.condition, facts.failures) == (Condition.BROKEN, BREAKER)
    put(kit, "l.csv", folder="leads")
    put(kit, "o.csv", folder="outs")
    sandbox.start()
    kit.after(30.0)
    assert offered_to(sandbox)[0] == 3
    assert sorted(offered_to(sandbox)) == [1, 2, 3]
    assert set(kit.states().values()) == {State.DONE}
    assert kit.ledger.account_facts("main").condition is Condition.READY
    assert all(each.attempts == 1 for each in kit.ledger.find_drops())


def broken_by_opt_outs(start: Start, sandbox: Sandbox) -> Kit:
    """Opt-outs opened the breaker; then lists that replace and add came, and the server is there again."""
    kit = start(
        "acme: {segment_id: 1, mode: lead, clear: true}",
        "leads: {segment_id: 2, mode: lead}",
        "outs: {segment_id: 3, mode: unsubscribe}",
        defaults="retry: {initial: 1s, max: 1s}",
    )
    sandbox.close()
    put(kit, "o.csv", folder="outs")
    for _ in range(BREAKER):
        kit.after(1.0)
    assert kit.ledger.account_facts("main").condition is Condition.BROKEN
    put(kit, "a.csv")
    put(kit, "l.csv", folder="leads")
    sandbox.start()
    return kit


def test_what_does_least_harm_tries_however_often_it_failed(start: Start, sandbox: Sandbox) -> None:
    """Opt-outs opened the breaker; lists that replace and add, which nobody has tried yet, come after them."""
    kit = broken_by_opt_outs(start, sandbox)
    sandbox.fault("status", status=408)
    for _ in range(3):
        kit.after(60.0)
    assert offered_to(sandbox)[:2] == [3, 3]
    assert set(kit.states().values()) == {State.DONE}


def test_a_file_that_nobody_takes_does_not_keep_its_account_closed(start: Start, sandbox: Sandbox) -> None:
    """Where what does least harm fails by itself again and again, the others have their turn after all, in order."""
    kit = broken_by_opt_outs(start, sandbox)
    sandbox.fault("status", status=408, segment=3, times=None)
    sandbox.fault("status", status=408, segment=2, times=1)
    for _ in range(30):
        kit.after(900.0)
    tried = offered_to(sandbox)
    assert tried.index(2) < tried.index(1)
    assert {name: state for name, state in kit.states().items() if name != "o.csv"} == {
        "a.csv": State.DONE,
        "l.csv": State.DONE,
    }


def offered_to(sandbox: Sandbox) -> list[int]:
    return [each.segment for each in sandbox.imports]


def test_the_breaker_survives_a_restart(start: Start, sandbox: Sandbox) -> None:
    """At the start one drop tries at once, and no more than one."""
    kit = start(
        "acme: {segment_id: 1, mode: lead}", "b: {segment_id: 2, mode: lead}", defaults="retry: {initial: 1s, max: 1s}"
    )
    sandbox.close()
    put(kit, "a.csv")
    put(kit, "b.csv", folder="b")
    for _ in range(BREAKER):
        kit.after(1.0)
    assert kit.ledger.account_facts("main").condition is Condition.BROKEN
    with kit_on(kit.scene) as later:
        later.daemon.start()
        later.turn()
        assert sum(isinstance(event, Attempted) for _, event in later.events) == 1
        assert later.ledger.account_facts("main").condition is Condition.BROKEN


def test_two_refusals_pause_the_account_before_a_hundred_files_fail(start: Start, sandbox: Sandbox) -> None:
    """A wrong base address answers 404 to all: two files fail, the others wait, and go once it is mended."""
    kit = start(*(f"f{n}: {{segment_id: {n + 10}, mode: lead}}" for n in range(1, 11)))
    sandbox.fault("status", status=404, times=None)
    for n in range(1, 11):
        put(kit, f"a{n}.csv", folder=f"f{n}")
    for _ in range(20):
        kit.after(900.0)
    states = list(kit.states().values())
    assert (states.count(State.FAILED), states.count(State.QUEUED)) == (2, 8)
    facts = kit.ledger.account_facts("main")
    assert facts.suspected
    assert "files in a row were refused" in facts.why
    assert "There is no such segment" in facts.why
    # They take turns in trying: nobody's file is the one that is refused for ever.
    assert len({each.first[0] for each in sandbox.imports}) == 10
    sandbox.clear_faults()
    for _ in range(3):
        kit.after(900.0)
    assert list(kit.states().values()).count(State.DONE) == 8, [each.reason for each in kit.ledger.find_drops()]


def test_a_new_key_file_lets_a_paused_account_try_at_once(start: Start, sandbox: Sandbox) -> None:
    """Not a quarter of an hour later; everything else goes as soon as one was accepted."""
    kit = start("acme: {segment_id: 1, mode: lead}", "b: {segment_id: 2, mode: lead}")
    key = kit.scene.at / "key"
    key.write_text("a-dead-key")
    put(kit, "a.csv")
    put(kit, "b.csv", folder="b")
    facts = kit.ledger.account_facts("main")
    assert (facts.condition, len(sandbox.imports)) == (Condition.PAUSED, 1)
    assert "does not know the API key of account main" in facts.why
    kit.after(6.0)
    key.write_text(KEY)
    kit.after(6.0)
    assert set(kit.states().values()) == {State.DONE}
    assert drop(kit, "a.csv").attempts == 1


def test_a_resume_tries_a_paused_account_at_once(start: Start, sandbox: Sandbox) -> None:
    """Whoever has given the key its rights over there need not wait a quarter of an hour; nobody resumes: it tries."""
    kit = start("acme: {segment_id: 1, mode: lead}")
    sandbox.fault("status", status=403, times=2)
    put(kit, "a.csv")
    kit.after(800.0)
    assert len(sandbox.imports) == 1
    kit.after(101.0)
    assert len(sandbox.imports) == 2
    assert kit.ledger.account_facts("main").condition is Condition.PAUSED
    switch(kit, "resume", "account", "main")
    assert kit.states() == {"a.csv": State.DONE}
    assert drop(kit, "a.csv").attempts == 1


def test_a_paused_account_is_said_by_the_run_that_ends(start: Start, sandbox: Sandbox) -> None:
    """`run --once` ends with a code of its own for it."""
    kit = start("acme: {segment_id: 1, mode: lead}")
    sandbox.fault("login_redirect")
    put(kit, "a.csv")
    left = kit.daemon.left_over()
    assert (left.failed, left.waiting, left.paused) == (False, True, True)


def test_a_paused_folder_is_said_by_the_run_that_ends(start: Start) -> None:
    """A person has to resume it, too: OptiPub is not to blame for what waits there."""
    kit = start("acme: {segment_id: 1, mode: lead}", "b: {segment_id: 2, mode: lead}")
    switch(kit, "pause", "folder", "acme")
    assert not kit.daemon.left_over().paused  # nothing waits for it
    put(kit, "a.csv")
    left = kit.daemon.left_over()
    assert (left.failed, left.waiting, left.paused) == (False, True, True)


def test_a_person_pauses_and_resumes_an_account(start: Start, sandbox: Sandbox) -> None:
    """Files are still taken over; nothing is sent, not even after a reload; then everything goes at once."""
    kit = start("acme: {segment_id: 1, mode: lead}")
    switch(kit, "pause", "account", "main")
    put(kit, "a.csv", "b.csv")
    kit.after(86_400.0)
    kit.daemon.configure(kit.scene.config)
    kit.turn()
    assert set(kit.states().values()) == {State.QUEUED}
    assert kit.ledger.account_facts("main").why == "paused by ann: a look"
    assert not sandbox.imports
    switch(kit, "resume", "account", "main")
    assert offered(sandbox) == ["a", "b"]


def test_a_person_pauses_and_resumes_a_folder(start: Start, sandbox: Sandbox) -> None:
    """The others go on; a restart keeps it."""
    kit = start("acme: {segment_id: 1, mode: lead}", "b: {segment_id: 2, mode: lead}")
    switch(kit, "pause", "folder", "acme")
    put(kit, "a.csv")
    put(kit, "b.csv", folder="b")
    assert offered(sandbox) == ["b"]
    with kit_on(kit.scene) as later:
        later.daemon.start()
        later.settle()
        assert offered(sandbox) == ["b"]
        assert later.ledger.paused_folders()["acme"].by == "ann"
        switch(later, "resume", "folder", "acme")
        assert offered(sandbox) == ["b", "a"]


def test_a_paused_folder_does_not_try_for_its_account(start: Start, sandbox: Sandbox) -> None:
    """With nobody else there, nobody tries; with a drop of another folder, that one does."""
    kit = start("acme: {segment_id: 1, mode: lead}", "b: {segment_id: 2, mode: lead}")
    sandbox.fault("login_redirect")
    put(kit, "a.csv")
    switch(kit, "pause", "folder", "acme")
    kit.after(900.0)
    kit.after(10.0)
    assert offered(sandbox) == ["a"]
    put(kit, "b.csv", folder="b")
    kit.after(10.0)
    assert offered(sandbox) == ["a", "b"]


# --------------------------------------------------------------------------------------------- duplicates, guards


def test_the_same_file_again_goes_to_done_unsent(start: Start, sandbox: Sandbox) -> None:
    """Under another name too; its log names the first; for another segment, or later than a day, it is sent."""
    kit = start("acme: {segment_id: 1, mode: lead}", "b: {segment_id: 2, mode: lead}", defaults="duplicates: skip")
    put(kit, "a.csv", "a2.csv", content=ROWS)
    put(kit, "b.csv", folder="b", content=ROWS)
    assert (drop(kit, "a2.csv").state, drop(kit, "a2.csv").spared) == (State.DONE, "duplicate")
    assert f"accepted for this segment as {drop(kit, 'a.csv').id}" in log(kit, "a2.csv")
    assert kinds(kit, "a2.csv") == ["Skipped", "Filed"]
    assert offered_to(sandbox) == [1, 2]
    kit.after(86_400.0)
    put(kit, "a3.csv", content=ROWS)
    assert offered_to(sandbox) == [1, 2, 1]
    assert_kept(kit.scene, kit.ledger.find_drops())


def test_who_leaves_again_after_coming_back_is_not_mailed(start: Start, sandbox: Sandbox) -> None:
    """An opt-out that comes again goes to done/ unsent, but not where sign-ups of the account came in between."""
    kit = start("out: {segment_id: 2, mode: unsubscribe}", f"in: {{segment_id: 1, {SUBSCRIBE}}}", usual=False)
    put(kit, "left.csv", "left twice.csv", folder="out", content=ROWS)
    put(kit, "back.csv", folder="in", content=ROWS)
    put(kit, "left again.csv", folder="out", content=ROWS)
    put(kit, "back again.csv", folder="in", content=ROWS)
    assert offered_to(sandbox) == [2, 1, 2]
    assert "NOT SENT" in log(kit, "left twice.csv")
    assert "NOT SENT" in log(kit, "back again.csv")
    assert_kept(kit.scene, kit.ledger.find_drops())


def test_a_flood_is_held(start: Start, sandbox: Sandbox) -> None:
    """The first three of an hour go; the others wait for a person, with the figure."""
    kit = start("acme: {segment_id: 1, mode: lead, guards: {max_files_per_hour: 3}}")
    put(kit, *(f"a{n}.csv" for n in range(5)))
    assert list(kit.states().values()) == [State.DONE] * 3 + [State.HELD] * 2
    assert "3 files or more came within the hour" in drop(kit, "a4.csv").reason
    kit.after(3600.0)
    put(kit, "later.csv")
    assert drop(kit, "later.csv").state is State.DONE


def test_a_short_full_load_wipes_nothing(start: Start, sandbox: Sandbox) -> None:
    """Half of the rows or fewer are held with both figures; released after a look, they go."""
    kit = start("acme: {segment_id: 1, mode: lead, clear: true}")
    put(kit, "full.csv", content=b"email\n" + b"".join(b"p%d@example.com\n" % n for n in range(10)))
    put(kit, "short.csv", content=b"email\n" + b"".join(b"q%d@example.com\n" % n for n in range(4)))
    found = drop(kit, "short.csv")
    assert (found.state, found.guard, found.reason) == (
        State.HELD,
        "max_shrink",
        "4 rows would replace the 10 rows of the file accepted last",
    )
    assert len(sandbox.imports) == 1
    order(kit, "release", "short.csv")
    assert drop(kit, "short.csv").state is State.DONE


def test_a_file_cut_off_between_two_rows_looks_whole(start: Start, sandbox: Sandbox) -> None:
    """At the end of a line, or of an address that is one: it is sent, unless a guard knows how long it has to be."""
    kit = start(
        "acme: {segment_id: 1, mode: lead, hold_tail: 10s}",
        "b: {segment_id: 2, mode: lead, guards: {min_rows: 3}, hold_tail: 10s}",
    )
    for name, content in (
        ("line.csv", b"email\nann@example.com\nbob@example.com\n"),
        ("address.csv", b"email\nann@example.com\nbob@example.co"),
    ):
        for folder in ("acme", "b"):
            kit.scene.put(f"{folder}-{name}", content, folder=folder)
    for _ in range(3):
        kit.after(15.0)
    assert {name: state.value for name, state in kit.states().items()} == {
        "acme-line.csv": "done",
        "acme-address.csv": "done",
        "b-line.csv": "held",
        "b-address.csv": "held",
    }
    assert {each.guard for each in kit.ledger.find_drops(folder="b")} == {"min_rows"}
    assert [each.rows for each in sandbox.imports] == [2, 2]


def test_a_file_cut_off_in_a_row_is_held_as_incomplete(start: Start, sandbox: Sandbox) -> None:
    """After `hold_tail` it is taken; where one bad row is allowed, it is not sent with what is left of its last."""
    kit = start("acme: {segment_id: 1, mode: lead, bad_rows: 1, hold_tail: 10s}")
    put(kit, "cut.csv", content=b"email,varr_a\nann@example.com,Ann\nbob@exam")
    for _ in range(3):
        kit.after(15.0)
    found = drop(kit, "cut.csv")
    assert (found.state, found.guard) == (State.HELD, "incomplete")
    assert "in line 3" in found.reason
    assert not sandbox.imports


# ---------------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("jump", [-365 * 86_400.0, 365 * 86_400.0])
def test_a_clock_that_jumps_keeps_nothing_waiting(start: Start, sandbox: Sandbox, jump: float) -> None:
    """Back a year and ahead a year, while drop and account wait, with and without a restart."""
    kit = start("acme: {segment_id: 1, mode: lead}", "b: {segment_id: 2, mode: lead}")
    sandbox.fault("status", status=408, segment=1)
    sandbox.fault("status", status=503, headers={"Retry-After": "120"}, segment=2)
    put(kit, "a.csv")
    put(kit, "b.csv", folder="b")
    kit.scene.clock.wall += jump
    with kit_on(kit.scene) as later:
        later.daemon.start()
        for _ in range(9):
            later.after(15.0)
        assert set(later.states().values()) == {State.DONE}
    for _ in range(9):
        kit.after(15.0)
    assert_kept(kit.scene, kit.ledger.find_drops())


@pytest.mark.parametrize("jump", [-60.0, -86_400.0, 86_400.0])
def test_a_clock_that_jumps_ends_the_window_of_a_repeat(start: Start, sandbox: Sandbox, jump: float) -> None:
    """Nobody can say how much time has passed: held, whichever way it went; where no time counts it is sent again."""
    kit = start(
        "acme: {segment_id: 1, mode: lead, on_unknown: {resend_within: 1h}}",
        "outs: {segment_id: 2, mode: unsubscribe, on_unknown: resend}",
        defaults="retry: {initial: 30s, max: 30s}",
    )
    sandbox.fault("lost_answer", segment=1)
    sandbox.fault("lost_answer", segment=2)
    put(kit, "a.csv")
    put(kit, "o.csv", folder="outs")
    assert set(kit.states().values()) == {State.QUEUED}
    kit.scene.clock.wall += jump
    kit.after(30.0)
    assert kit.states() == {"a.csv": State.HELD, "o.csv": State.DONE}
    assert offered(sandbox) == ["a", "o", "o"]


def test_a_clock_that_goes_back_during_a_wait_changes_nothing(start: Start, sandbox: Sandbox) -> None:
    """Waits run on the monotonic clock: due when it was meant."""
    kit = start("acme: {segment_id: 1, mode: lead, retry: {initial: 10s, max: 10s}}")
    sandbox.fault("status", status=408, times=2)
    put(kit, "a.csv")
    for _ in range(2):
        kit.scene.clock.wall -= 86_400.0
        kit.after(10.0)
    assert kit.states() == {"a.csv": State.DONE}
    assert len(sandbox.imports) == 3


# --------------------------------------------------------------------------------------------------------- alarms


def test_what_waits_too_long_raises_an_alarm_each_day(start: Start, sandbox: Sandbox) -> None:
    """With the reason of its account; no sooner than `alarm_after`, and again a day later."""
    kit = start("acme: {segment_id: 1, mode: lead, alarm_after: 2h}")
    sandbox.fault("login_redirect", times=None)
    put(kit, "a.csv")
    kit.after(3600.0)
    assert kit.told("waits to be sent") == []
    for _ in range(3):
        kit.after(3600.0)
    (line,) = kit.told("waits to be sent")
    assert (line["folder"], line["alarm"], line["level"]) == ("acme", "late", "warning")
    assert "does not know the API key" in line["event"]
    kit.after(86_400.0)
    assert len(kit.told("waits to be sent")) == 2


def test_an_order_cuts_a_check_short(start: Start, sandbox: Sandbox) -> None:
    """A person discards a drop that is about to be checked: the check ends, and the order is carried out."""
    kit = start("acme: {segment_id: 1, mode: lead}")
    kit.scene.put("big.csv", b"email\n" + b"ann@example.com\n" * 200_000, folder="acme")
    kit.daemon.hear(kit.scene.config.folders["acme"].path, b"big.csv")
    kit.turn()
    ordered: list[Drop] = []

    def discard() -> None:
        ordered.append(order(kit, "discard", "big.csv"))

    with contextlib.ExitStack() as busy:
        for _ in range(kit.scene.config.concurrency):  # others are being checked, so this one waits for its turn
            busy.enter_context(kit.daemon._pipeline._large)
        kit.scene.clock.move(2.0)
        while not kit.daemon._running:  # its sync may be done aside
            kit.daemon.tick()
        assert not kit.daemon.order_later("release", drop(kit, "big.csv").id, discard)
        assert kit.daemon.order_later("discard", drop(kit, "big.csv").id, discard)
        assert not ordered
    kit.turn()
    assert [each.state for each in ordered] == [State.REFUSED]
    assert drop(kit, "big.csv").state is State.FAILED
    assert not sandbox.imports
    assert_kept(kit.scene, kit.ledger.find_drops())
