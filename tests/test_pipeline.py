"""One drop, step by step, against a real server on a real socket: what arrives, what is held, put off and filed."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from scene import KEY, Scene, Turn, assert_kept, make_scene

from dropzone import config as configuration
from dropzone import receipt
from dropzone.account import Condition
from dropzone.drop import (
    Accepted,
    CheckFailed,
    Drop,
    Entry,
    Event,
    Filed,
    Postponed,
    Released,
    Retried,
    State,
)
from dropzone.errors import DropzoneError, FolderError, LedgerError
from dropzone.optipub import OptiPub
from dropzone.pipeline import DISTURBED_S, FAULTS, REFILE_S, Pipeline, Sink
from dropzone.policy import settings_of
from dropzone.receipt import tell
from dropzone.sandbox import Sandbox

ROWS = b"email,varr_a\nann@example.com,Ann\nbob@example.com,Bob\n"
LEAD = "acme: {segment_id: 1, mode: lead}"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(key=KEY, segments={9: "sha256"}) as sandbox:
        yield sandbox


MakeScene = Callable[..., Scene]


@pytest.fixture
def make(tmp_path: Path, sandbox: Sandbox) -> MakeScene:
    """Makes a scene whose account is the sandbox, by default with one folder of leads."""
    return lambda folders=LEAD, **options: make_scene(tmp_path, sandbox.url, folders=folders, **options)


@pytest.fixture
def scene(make: MakeScene) -> Scene:
    return make()


def claimed(turn: Turn, content: bytes = ROWS, *, name: str | bytes = "a.csv", folder: str = "acme") -> Drop:
    """A file that a partner uploaded, taken over."""
    if turn.intake.next_look() == float("inf"):
        turn.start()
    turn.scene.put(name, content, folder=folder)
    (drop,) = turn.take()
    return drop


def now(turn: Turn, drop: Drop) -> Drop:
    found = turn.ledger.find_drop(drop.id)
    assert found is not None
    return found


def run(turn: Turn, drop: Drop) -> Drop:
    """Take the drop as far as it goes now."""
    turn.pipeline.run(drop.id)
    return now(turn, drop)


def events(turn: Turn, drop: Drop) -> list[Event]:
    return [entry.event for entry in turn.ledger.history(drop.id)]


def kinds(turn: Turn, drop: Drop) -> list[str]:
    return [type(event).__name__ for event in events(turn, drop)]


def filed(turn: Turn, drop: Drop) -> Path:
    """Where the drop's file lies after the filing."""
    drop = now(turn, drop)
    assert drop.path is not None
    return turn.scene.config.root / drop.path


def log_of(turn: Turn, drop: Drop) -> str:
    return filed(turn, drop).with_suffix(".log").read_text()


def failing(at: str, error: BaseException, *, times: int = 1) -> Callable[[str], None]:
    """A step that raises `error` at the effect `at`, so many times."""
    left = times

    def step(name: str) -> None:
        nonlocal left
        if name == at and left:
            left -= 1
            raise error

    return step


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def pipeline_of(
    turn: Turn,
    *,
    sinks: Sequence[Sink] = (),
    stopping: Callable[[], bool] = lambda: False,
    wait: Callable[[float], None] | None = None,
    fault: Callable[[Drop, Exception], None] = lambda drop, error: None,
) -> Pipeline:
    """A pipeline on the parts of `turn`, with callables of the test's own."""
    clock = turn.scene.clock
    return Pipeline(
        folders=turn.folders,
        ledger=turn.ledger,
        segments=turn.optipub,
        gates=turn.gates,
        board=turn.board,
        fault=fault,
        now=lambda: clock.wall,
        wait=wait or clock.move,
        stopping=stopping,
        sinks=sinks,
    )


# --------------------------------------------------------------------------------------------------- what arrives

SUPPRESS = "acme: {segment_id: 9, mode: suppress, hash: sha256, hash_plain: true, clear: true}"
SUBSCRIBE = "acme: {segment_id: 1, mode: subscribe, source_campaign: 90, source_partner: 9}"
UNSUBSCRIBE = "acme: {segment_id: 1, mode: unsubscribe}"
CLEARED = "acme: {segment_id: 1, mode: lead, clear: true}"
EXTRA = "acme: {segment_id: 1, mode: lead, extra_fields: {subscriptionAction: create_only, tagsToAdd: 7}}"

ARRIVALS = {
    "subscribe": (SUBSCRIBE, {"clear": "0", "activeStatus": "1", "sourceCampaign": "90", "sourcePartner": "9"}),
    "unsubscribe": (UNSUBSCRIBE, {"clear": "0", "activeStatus": "0"}),
    "lead": (LEAD, {"clear": "0", "activeStatus": "null"}),
    "suppress": (SUPPRESS, {"clear": "1"}),
    "clear": (CLEARED, {"clear": "1", "activeStatus": "null"}),
    "extra fields": (
        EXTRA,
        {"clear": "0", "activeStatus": "null", "subscriptionAction": "create_only", "tagsToAdd": "7"},
    ),
}


@pytest.mark.parametrize("case", ARRIVALS)
def test_each_mode_arrives_with_its_documented_fields_and_no_others(
    make: MakeScene, sandbox: Sandbox, case: str
) -> None:
    """The file and these fields, each once; the file as text/csv under an ASCII name that holds the drop ID."""
    folders, fields = ARRIVALS[case]
    scene = make(folders)
    content = b"email\nann@example.com\n"
    with scene.turn() as turn:
        drop = run(turn, claimed(turn, content))
        assert drop.state is State.DONE
        (arrived,) = sandbox.imports
        assert arrived.applied
        assert arrived.segment == scene.config.folders["acme"].segment_id
        assert sorted(arrived.parts) == sorted(["file", *fields])
        assert sorted(arrived.fields) == sorted(fields.items())
        assert arrived.filename == f"acme.{drop.id}.csv"
        assert arrived.content_type == "text/csv"
        assert (arrived.sha256, arrived.rows) == (drop.digest, 1)
        assert filed(turn, drop).read_bytes() == content
        assert_kept(scene, [drop])


def test_what_is_sent_is_the_prepared_copy_and_what_is_filed_the_original(make: MakeScene, sandbox: Sandbox) -> None:
    """BOM, semicolons, blanks and CRLF are put right in what leaves, never in what was handed over."""
    scene = make("acme: {segment_id: 1, mode: lead, delimiter: auto}")
    original = b"\xef\xbb\xbfvarr_a;Email\r\n Ann ;ann@example.com\r\n"
    with scene.turn() as turn:
        drop = run(turn, claimed(turn, original))
        assert filed(turn, drop).read_bytes() == original
        assert "Repaired in what was sent" in log_of(turn, drop)
    (arrived,) = sandbox.imports
    assert arrived.sha256 == hashlib.sha256(b"email,varr_a\nann@example.com,Ann\n").hexdigest()
    assert arrived.first == ("ann@example.com,Ann",)


@pytest.mark.parametrize("name", ["a.csv.gz", "A.CSV.GZ"])
def test_a_compressed_file_arrives_unpacked_and_is_filed_packed(scene: Scene, sandbox: Sandbox, name: str) -> None:
    """The ending says that it is compressed, in either case."""
    packed = gzip.compress(ROWS)
    with scene.turn() as turn:
        drop = run(turn, claimed(turn, packed, name=name))
        assert drop.state is State.DONE
        assert filed(turn, drop).name.endswith(f"{drop.id}.csv.gz")
        assert filed(turn, drop).read_bytes() == packed
    assert sandbox.imports[0].sha256 == hashlib.sha256(ROWS).hexdigest()


def test_a_hostile_name_reaches_neither_the_server_nor_the_folders(scene: Scene, sandbox: Sandbox) -> None:
    """It is filed under a harmless stem with the drop's ID; the log shows the name escaped, on one line."""
    with scene.turn() as turn:
        drop = run(turn, claimed(turn, name=b'x\n"\x1b[31m../\xff;rm -rf.csv'.replace(b"/", b"|")))
        assert drop.state is State.DONE
        path = filed(turn, drop)
        assert path.name.isascii()
        assert path.name.isprintable()
        first = log_of(turn, drop).splitlines()[0]
        assert first.startswith('x\\x0a"\\x1b[31m..|\\xff;rm -rf.csv: ACCEPTED')
    assert sandbox.imports[0].filename == f"acme.{drop.id}.csv"


def test_a_drop_keeps_the_settings_that_it_was_claimed_under(make: MakeScene, sandbox: Sandbox) -> None:
    """The configuration changes while it waits: other segment, other mode, clear. It goes where it was meant to go."""
    scene = make(UNSUBSCRIBE)
    with scene.turn() as turn:
        drop = claimed(turn)
    file = scene.at / "dropzone.yaml"
    file.write_text(file.read_text().replace(UNSUBSCRIBE, CLEARED.replace("segment_id: 1", "segment_id: 2")))
    with replace(scene, config=configuration.load(file)).turn() as turn:
        turn.start()
        assert run(turn, drop).state is State.DONE
        assert run(turn, claimed(turn, name="b.csv")).state is State.DONE
    assert [(each.segment, dict(each.fields)) for each in sandbox.imports] == [
        (1, {"clear": "0", "activeStatus": "0"}),
        (2, {"clear": "1", "activeStatus": "null"}),
    ]


# --------------------------------------------------------------------------------------------------------- guards

TWO = b"email\na@example.com\nb@example.com\n"
TEN = b"email\n" + b"".join(b"%d@example.com\n" % number for number in range(10))

GUARDS = {
    "min_rows": ("guards: {min_rows: 3}", "", TWO, "the file has 2 good rows, the folder asks for at least 3"),
    "max_rows": ("guards: {max_rows: 9}", "", TEN, "the file has 10 good rows, the folder allows 9"),
    "max_bytes": ("guards: {max_bytes: 33}", "", TWO, "the file has 34 bytes, the folder allows 33"),
    "max_shrink": ("clear: true", "TEN", TWO, "2 rows would replace the 10 rows of the file accepted last"),
    "max_growth": ("guards: {max_growth: 100%}", "TWO", TEN, "the file has 10 rows, the last accepted one had 2"),
}


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_holds_with_its_reason_until_a_person_lets_it_go(
    make: MakeScene, sandbox: Sandbox, guard: str
) -> None:
    """Held, not failed, and not sent; the file stays in work/. Released, it passes every guard."""
    settings, before, content, why = GUARDS[guard]
    scene = make(f"acme: {{segment_id: 1, mode: lead, {settings}}}")
    with scene.turn() as turn:
        if before:
            assert run(turn, claimed(turn, {"TWO": TWO, "TEN": TEN}[before])).state is State.DONE
        earlier = len(sandbox.imports)
        drop = run(turn, claimed(turn, content, name="b.csv"))
        assert (drop.state, drop.guard, drop.reason) == (State.HELD, guard, why)
        assert turn.pipeline.run(drop.id) is None
        assert len(sandbox.imports) == earlier
        assert_kept(scene, [drop])
        turn.ledger.commit(drop.id, Released(by="ann"), at=scene.clock.wall)
        assert run(turn, drop).state is State.DONE
        assert len(sandbox.imports) == earlier + 1
        assert f"held ({guard}): {why}" in log_of(turn, drop)
        assert "released, by ann" in log_of(turn, drop)


def test_a_packed_file_is_measured_unpacked(make: MakeScene, sandbox: Sandbox) -> None:
    """A small .gz that unpacks to more than `max_bytes` is held like any other that is too large."""
    scene = make("acme: {segment_id: 1, mode: lead, guards: {max_bytes: 1000}}")
    with scene.turn() as turn:
        drop = run(turn, claimed(turn, gzip.compress(TEN * 20), name="a.csv.gz"))
        assert drop.size < 1000
        assert (drop.state, drop.guard) == (State.HELD, "max_bytes")
        assert "larger than 1,000 bytes" in drop.reason
        turn.ledger.commit(drop.id, Released(by="ann"), at=scene.clock.wall)
        assert run(turn, drop).state is not State.HELD


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ("clear: false", 1),  # nothing is replaced
        ("clear: true", 5),  # half of ten is allowed
        ("clear: true, guards: {max_shrink: none}", 1),
        ("clear: true, guards: {max_growth: none}", 10),
    ],
)
def test_no_guard_stands_in_the_way_of_what_is_allowed(make: MakeScene, settings: str, rows: int) -> None:
    """At the limit, switched off, or without `clear`: it goes."""
    scene = make(f"acme: {{segment_id: 1, mode: lead, {settings}}}")
    with scene.turn() as turn:
        assert run(turn, claimed(turn, TEN)).state is State.DONE
        content = b"".join(TEN.splitlines(keepends=True)[: rows + 1])
        assert run(turn, claimed(turn, content, name="b.csv")).state is State.DONE


def test_a_held_drop_does_not_keep_its_lane_waiting(make: MakeScene, sandbox: Sandbox) -> None:
    """The next file of the segment is sent."""
    scene = make("acme: {segment_id: 1, mode: lead, guards: {min_rows: 3}}")
    scene.put("1.csv", TWO)
    scene.put("2.csv", TEN)
    assert [drop.state for drop in scene.settle()] == [State.HELD, State.DONE]
    assert [each.rows for each in sandbox.imports] == [10]


# ------------------------------------------------------------------------------------------------------ the check


def test_a_refused_file_is_failed_with_line_column_and_reason(scene: Scene, sandbox: Sandbox) -> None:
    """Nothing is sent; original, log and the bad rows as they came lie in failed/, and nothing stays in work/."""
    content = b"email,varr_a\nann@example.com,Ann\nnobody,Bob\n"
    with scene.turn() as turn:
        drop = run(turn, claimed(turn, content))
        assert drop.state is State.FAILED
        assert [type(event) for event in events(turn, drop)][1] is CheckFailed
        path = filed(turn, drop)
        assert path.parent == scene.config.root / "failed" / "acme" / "2026-11-23"
        assert path.read_bytes() == content
        assert "line 3, column 1, email: n… is no address" in log_of(turn, drop)
        rejects = path.with_suffix(".rejects.csv").read_text()
        assert "nobody,Bob" in rejects
        assert sorted(each.suffixes[-1] for each in path.parent.iterdir()) == [".csv", ".csv", ".log"]
        assert list((scene.config.root / "work").glob("[0-9A-Z]*")) == []
        assert_kept(scene, [drop])
    assert len(sandbox.imports) == 0


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\x01\x02", b"\xff\xfe\xff", b"PK\x03\x04", b"a" * 3_000_000])
def test_what_is_no_csv_ends_in_failed_or_held_with_a_log(scene: Scene, sandbox: Sandbox, content: bytes) -> None:
    """Empty files, binaries, one endless line: a verdict, never an error of ours, and nothing is sent."""
    with scene.turn() as turn:
        turn.start()
        scene.put("a.csv", content)
        turn.take()
        scene.clock.move(300.0)
        turn.take()
        (drop,) = turn.ledger.find_drops()
        drop = run(turn, drop)
        assert drop.state in (State.FAILED, State.HELD)
        assert turn.faults == []
        assert_kept(scene, [drop])
    assert len(sandbox.imports) == 0


def test_a_few_bad_rows_that_the_folder_allows_stay_behind(make: MakeScene, sandbox: Sandbox) -> None:
    """The good rows go, the bad ones lie beside the log in done/."""
    scene = make("acme: {segment_id: 1, mode: lead, bad_rows: 1}")
    with scene.turn() as turn:
        drop = run(turn, claimed(turn, b"email\nann@example.com\nnobody\n"))
        assert drop.state is State.DONE
        assert "nobody" in filed(turn, drop).with_suffix(".rejects.csv").read_text()
        assert "2 read, 1 good, 1 bad" in log_of(turn, drop)
    assert sandbox.imports[0].rows == 1


# ---------------------------------------------------------------------------------------------------- the answers


def test_a_deferred_drop_waits_for_its_stored_time_through_a_restart(scene: Scene, sandbox: Sandbox) -> None:
    """503 with Retry-After: 120 s; the due time is in the ledger, and not a second sooner is anything sent."""
    sandbox.fault("status", status=503, headers={"Retry-After": "120"})
    with scene.turn() as turn:
        drop = claimed(turn)
        turn.pipeline.run(drop.id)
        facts = turn.ledger.account_facts("main")
        assert (facts.condition, facts.until) == (Condition.WAITING, scene.clock.wall + 120)
        assert now(turn, drop).state is State.QUEUED
    scene.clock.move(119.0)
    with scene.turn() as turn:
        turn.start()
        drop = run(turn, drop)
        assert (drop.state, len(sandbox.imports)) == (State.QUEUED, 1)
        scene.clock.move(1.0)
        drop = run(turn, drop)
        assert (drop.state, drop.tries, drop.attempts, drop.deferrals) == (State.DONE, 2, 1, 0)
        assert "not taken, next try 2026-11-23T" in log_of(turn, drop)
    assert [each.applied for each in sandbox.imports] == [False, True]


def test_delays_grow_while_nobody_answers(scene: Scene, sandbox: Sandbox) -> None:
    """The server is away: tries further and further apart, up to the folder's `retry.max`; then it is back."""
    sandbox.close()
    with scene.turn() as turn:
        drop = claimed(turn)
        waits = []
        for _ in range(14):
            due_at = turn.pipeline.run(drop.id, probe=True)
            assert due_at is not None
            waits.append(due_at - scene.clock.wall)
            scene.clock.move(waits[-1])
        assert 2.5 <= waits[0] <= 5.0
        assert max(waits) <= 900.0
        assert sum(waits[7:]) > 10 * sum(waits[:4])
        assert now(turn, drop).attempts == 0
        sandbox.start()
        turn.pipeline.run(drop.id, probe=True)
        assert now(turn, drop).state is State.DONE


def test_a_redirect_is_a_refusal_and_is_not_repeated(scene: Scene, sandbox: Sandbox) -> None:
    """302 back to a form: failed/, with what can be said about it; one request, no second."""
    sandbox.fault("status", status=302, headers={"Location": "/segments/1/import"}, times=None)
    with scene.turn() as turn:
        drop = run(turn, claimed(turn))
        assert (drop.state, drop.attempts) == (State.FAILED, 1)
        log = log_of(turn, drop)
        assert "OptiPub answered 302" in log
        assert "Do not upload the same file again before" in log
        assert filed(turn, drop).read_bytes() == ROWS
        turn.send()
    assert len(sandbox.imports) == 1


def test_a_lost_answer_is_unknown_and_held(scene: Scene, sandbox: Sandbox) -> None:
    """The server may have it: nothing is sent again, the file stays, and the reason says where to look."""
    sandbox.fault("lost_answer")
    with scene.turn() as turn:
        drop = run(turn, claimed(turn))
        assert (drop.state, drop.guard, drop.attempts) == (State.HELD, "unknown", 1)
        assert f"acme.{drop.id}.csv" in drop.reason
        assert kinds(turn, drop)[-3:] == ["Attempted", "Lost", "Withheld"]
        turn.send()
        assert_kept(scene, [now(turn, drop)])
    assert [each.applied for each in sandbox.imports] == [True]


def test_a_dead_key_makes_the_whole_account_wait(make: MakeScene, sandbox: Sandbox) -> None:
    """401 on one lane: no drop of the account is tried, no attempt counts, until the quarter of an hour is over."""
    scene = make("acme: {segment_id: 1, mode: lead}\nglobex: {segment_id: 2, mode: lead}")
    sandbox.fault("status", status=401)
    scene.put("a.csv", ROWS, folder="acme")
    scene.put("g.csv", ROWS, folder="globex")
    with scene.turn() as turn:
        turn.start()
        turn.take()
        turn.send(patience_s=0.0)
        assert len(sandbox.imports) == 1
        facts = turn.ledger.account_facts("main")
        assert facts.condition is Condition.PAUSED
        assert facts.until == pytest.approx(scene.clock.wall + 900, abs=0.1)
        assert "does not know the API key of account main" in facts.why
        assert [(drop.state, drop.attempts) for drop in turn.ledger.find_drops()] == [(State.QUEUED, 0)] * 2
        turn.send()
        assert [drop.state for drop in turn.ledger.find_drops()] == [State.DONE] * 2
        assert turn.ledger.account_facts("main").condition is Condition.READY
    assert len(sandbox.imports) == 3


# ------------------------------------------------------------------------------------------ after the restart


class Died(BaseException):
    """Stands for a SIGKILL: nothing catches it."""


@pytest.mark.parametrize(("at", "sent"), [("send: first byte", 0), ("send: answer read", 1)])
def test_a_drop_found_sending_at_the_start_is_unknown(scene: Scene, sandbox: Sandbox, at: str, sent: int) -> None:
    """Nobody knows whether the request went: held, whichever it was, and not sent again."""
    with scene.turn(failing(at, Died())) as turn:
        drop = claimed(turn)
        with pytest.raises(Died):
            turn.pipeline.run(drop.id)
        assert now(turn, drop).state is State.SENDING
    with scene.turn() as turn:
        turn.start()
        drop = run(turn, drop)
        assert (drop.state, drop.guard) == (State.HELD, "unknown")
        assert drop.reason.startswith("dropzone was stopped before the answer was known")
        assert f"acme.{drop.id}.csv" in drop.reason
        assert [attempt.outcome for attempt in turn.ledger.attempts(drop.id)] == ["lost"]
    assert len(sandbox.imports) == sent


def test_a_failed_drop_that_is_tried_again_comes_back_whole(scene: Scene, sandbox: Sandbox) -> None:
    """The file returns to work/, is sent, and lands in done/; failed/ is empty again, and the log has it all."""
    sandbox.fault("status", status=422, body='{"message": "No such campaign."}')
    with scene.turn() as turn:
        drop = run(turn, claimed(turn))
        assert drop.state is State.FAILED
        before = filed(turn, drop).parent
        turn.ledger.commit(drop.id, Retried(by="ann"), at=scene.clock.wall)
        drop = run(turn, drop)
        assert drop.state is State.DONE
        assert list(before.iterdir()) == []
        log = log_of(turn, drop)
        assert "No such campaign." in log
        assert log.index("attempt 1:") < log.index("to be tried again, by ann") < log.index("attempt 2:")
        assert_kept(scene, [drop])


def test_what_is_finished_held_or_unknown_to_the_ledger_is_left_alone(scene: Scene, sandbox: Sandbox) -> None:
    """Asked again, the pipeline has nothing to do."""
    with scene.turn() as turn:
        drop = run(turn, claimed(turn))
        assert turn.pipeline.run(drop.id) is None
        assert turn.pipeline.run("000000000000") is None
        history = turn.ledger.history(drop.id)
        assert turn.pipeline._advance(drop, probe=False) is drop
        assert turn.ledger.history(drop.id) == history
    assert len(sandbox.imports) == 1


# ------------------------------------------------------------------------------------------------ unexpected errors


def test_unexpected_errors_put_a_drop_off_five_times_and_then_hold_it(scene: Scene, sandbox: Sandbox) -> None:
    """Each comes with its traceback, waits longer than the one before could, and judges nothing."""
    error = RuntimeError("boom\nforged: line")
    with scene.turn(failing("prepare: sync prepared copy", error, times=99)) as turn:
        drop = claimed(turn)
        for count in range(1, 5):
            due_at = turn.pipeline.run(drop.id)
            assert due_at is not None
            assert REFILE_S / 2 <= due_at - scene.clock.wall <= 900.0
            drop = now(turn, drop)
            assert (drop.state, drop.faults) == (State.QUEUED, count)
            scene.clock.move(due_at - scene.clock.wall)
        assert turn.pipeline.run(drop.id) is None
        drop = now(turn, drop)
        assert (drop.state, drop.guard) == (State.HELD, "faults")
        assert drop.reason == "unexpected error, see the journal: RuntimeError: boom\\x0aforged: line"
        assert turn.faults == [error] * 5
        assert error.__traceback__ is not None
        assert_kept(scene, [drop])
    assert len(sandbox.imports) == 0
    with scene.turn() as turn:
        turn.start()
        turn.ledger.commit(drop.id, Released(by="ann"), at=scene.clock.wall)
        assert run(turn, drop).state is State.DONE


def test_a_fault_that_passes_is_forgotten(scene: Scene) -> None:
    """The faults count in a row: an attempt in between starts again from none."""
    with scene.turn(failing("prepare: sync prepared copy", RuntimeError(), times=3)) as turn:
        drop = claimed(turn)
        turn.send()
        drop = now(turn, drop)
        assert (drop.state, drop.faults, len(turn.faults)) == (State.DONE, 0, 3)


def test_errors_that_we_know_are_told_in_our_own_words(scene: Scene) -> None:
    """Somebody put a folder where the prepared copy should be: held at last, like the unexpected ones."""
    with scene.turn() as turn:
        drop = claimed(turn)
        (scene.config.root / "work" / drop.id / "prepared.csv").mkdir()
        turn.send(patience_s=1e6)
        drop = now(turn, drop)
        assert (drop.state, drop.guard, len(turn.faults)) == (State.HELD, "faults", FAULTS)
        assert "Is a directory" in drop.reason
        assert "unexpected" not in drop.reason


def test_a_file_that_somebody_took_out_of_work_is_held_at_once(scene: Scene) -> None:
    """The original is gone, and waiting brings it back to nobody."""
    with scene.turn() as turn:
        drop = claimed(turn)
        (scene.config.root / "work" / drop.id / "original").unlink()
        drop = run(turn, drop)
        assert (drop.state, drop.guard, turn.faults) == (State.HELD, "missing", [])
        assert "its file is gone" in drop.reason


def test_a_file_that_cannot_be_looked_for_is_not_called_missing(scene: Scene, sandbox: Sandbox) -> None:
    """No descriptors are left to open work/ with: the machine is at fault, and nothing is held."""
    with scene.turn() as turn:
        drop = claimed(turn)
        original = scene.config.root / "work" / drop.id / "original"
        original.rename(scene.at / "aside")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(FolderError, match="Too many open files"):
                turn.pipeline.run(drop.id)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert now(turn, drop).state is State.QUEUED
        (scene.at / "aside").rename(original)
        assert run(turn, drop).state is State.DONE


def test_an_unexpected_error_while_sending_leaves_the_outcome_unknown(scene: Scene, sandbox: Sandbox) -> None:
    """The attempt was announced and something of ours broke: held, with the traceback, and the daemon goes on."""
    error = RuntimeError("boom")
    with scene.turn(failing("send: answer read", error)) as turn:
        drop = claimed(turn)
        turn.send()
        drop = now(turn, drop)
        assert (drop.state, drop.guard) == (State.HELD, "unknown")
        assert drop.reason == "unexpected error, see the journal: RuntimeError: boom"
        assert turn.faults == [error]
        assert [attempt.outcome for attempt in turn.ledger.attempts(drop.id)] == ["lost"]
    assert [each.applied for each in sandbox.imports] == [True]


@pytest.mark.parametrize("verdict", ["done", "failed"])
def test_a_verdict_that_cannot_be_filed_is_filed_later(scene: Scene, sandbox: Sandbox, verdict: str) -> None:
    """Somebody put a file where the folder should be: the verdict stands, and is filed once that is mended."""
    target = scene.config.root / verdict / "acme"
    target.rmdir()
    target.touch()
    with scene.turn() as turn:
        drop = claimed(turn, ROWS if verdict == "done" else b"email\nnobody\n")
        assert turn.pipeline.run(drop.id) == scene.clock.wall + REFILE_S
        assert now(turn, drop).state in (State.ACCEPTED, State.REFUSED)
        assert len(turn.faults) == 1
        target.unlink()
        assert run(turn, drop).state.value == verdict
        assert_kept(scene, [now(turn, drop)])
    assert len(sandbox.imports) == (verdict == "done")


def test_a_sink_that_breaks_unexpectedly_cannot_undo_what_was_committed(scene: Scene, sandbox: Sandbox) -> None:
    """An error in whoever listens is a fault of ours: the accepted file is filed all the same, and sent once."""

    def sink(_: Drop, event: Event) -> None:
        if isinstance(event, Accepted):
            raise KeyError("bug")

    faults: list[Exception] = []
    with scene.turn() as turn:
        drop = claimed(turn)
        pipeline = pipeline_of(turn, sinks=[sink], fault=lambda drop, error: faults.append(error))
        assert pipeline.run(drop.id) is None
        assert now(turn, drop).state is State.DONE
    assert [type(each) for each in faults] == [KeyError]
    assert len(sandbox.imports) == 1


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.ENOSPC, "full"), ValueError("closed file")])
def test_a_sink_that_fails_is_counted(scene: Scene, error: Exception) -> None:
    """The journal is full or closed: the drop goes its way, and the other sinks hear of it."""
    heard: list[str] = []

    def fail(_: Drop, __: Event) -> None:
        raise error

    with scene.turn() as turn:
        drop = claimed(turn)
        pipeline = pipeline_of(turn, sinks=[fail, lambda drop, event: heard.append(type(event).__name__)])
        assert pipeline.run(drop.id) is None
        assert now(turn, drop).state is State.DONE
        assert heard == ["Attempted", "Accepted", "Filed"]
        assert pipeline.sink_failures == 3


# ------------------------------------------------------------------------------------------ the machine is at fault


@pytest.mark.parametrize("at", ["prepare: sync prepared copy", "file: write log", "file: move original"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE, errno.EDQUOT])
def test_a_fault_of_the_machine_judges_nothing(scene: Scene, sandbox: Sandbox, at: str, number: int) -> None:
    """It is raised, no event is committed for it, no fault counted; once it is over all goes on, sent once."""
    with scene.turn(failing(at, OSError(number, os.strerror(number)))) as turn:
        drop = claimed(turn)
        with pytest.raises(FolderError) as raised:
            turn.pipeline.run(drop.id)
        assert raised.value.environment
        drop = now(turn, drop)
        assert drop.state is (State.QUEUED if at.startswith("prepare") else State.ACCEPTED)
        assert not [event for event in events(turn, drop) if isinstance(event, Postponed)]
        assert (drop.faults, turn.faults) == (0, [])
        assert run(turn, drop).state is State.DONE
    assert len(sandbox.imports) == 1


@pytest.mark.parametrize("at", ["ledger: commit Attempted", "ledger: commit Filed"])
def test_a_ledger_that_refuses_is_a_fault_of_the_machine(scene: Scene, sandbox: Sandbox, at: str) -> None:
    """Before the attempt nothing is sent; before the filing nothing is lost."""
    with scene.turn(failing(at, disk_full())) as turn:
        drop = claimed(turn)
        with pytest.raises(LedgerError):
            turn.pipeline.run(drop.id)
        assert len(sandbox.imports) == (at == "ledger: commit Filed")
        assert run(turn, drop).state is State.DONE
        assert_kept(scene, [now(turn, drop)])
    assert len(sandbox.imports) == 1


def test_an_outcome_is_committed_however_long_the_disk_refuses(scene: Scene, sandbox: Sandbox) -> None:
    """The answer is kept in hand and the commit tried each second: forgetting it would make the outcome unknown."""
    with scene.turn(failing("ledger: commit Accepted", disk_full(), times=40)) as turn:
        drop = claimed(turn)
        start = scene.clock.wall
        assert run(turn, drop).state is State.DONE
        assert scene.clock.wall - start == 40.0
    assert len(sandbox.imports) == 1


def test_an_outcome_that_cannot_be_committed_before_the_stop_is_unknown(scene: Scene, sandbox: Sandbox) -> None:
    """The disk stays full and the daemon is stopped: the next start finds it sending, and holds it."""
    with scene.turn(failing("ledger: commit Accepted", disk_full(), times=99)) as turn:
        drop = claimed(turn)
        waits: list[float] = []
        pipeline = pipeline_of(turn, wait=waits.append, stopping=lambda: len(waits) > 2)
        with pytest.raises(LedgerError):
            pipeline.run(drop.id)
        assert now(turn, drop).state is State.SENDING
    with scene.turn() as turn:
        turn.start()
        assert (run(turn, drop).state, run(turn, drop).guard) == (State.HELD, "unknown")
    assert len(sandbox.imports) == 1


def test_a_payload_that_cannot_be_read_to_its_end_is_prepared_again(scene: Scene, sandbox: Sandbox) -> None:
    """The copy is cut behind our back: the request was never whole, so the drop is put off, not unknown."""
    prepared = scene.config.root / "work"

    def cut(name: str) -> None:
        if name == "send: first byte" and not sandbox.imports:
            for copy in prepared.glob("*/prepared.csv"):
                os.truncate(copy, 10)

    with scene.turn(cut) as turn:
        drop = claimed(turn)
        assert turn.pipeline.run(drop.id) == scene.clock.wall + REFILE_S
        drop = now(turn, drop)
        assert drop.state is State.QUEUED
        assert "shorter than" in drop.reason
        sandbox.wait_for(imports=1)
        scene.clock.move(REFILE_S)
        assert run(turn, drop).state is State.DONE
    assert [each.applied for each in sandbox.imports] == [False, True]


# ---------------------------------------------------------------------------------------- what must not be sent yet


def test_a_file_that_a_client_still_writes_to_is_put_off(scene: Scene, sandbox: Sandbox) -> None:
    """A descriptor survives our rename: while a writer has it, nothing is sent; then all of it is."""
    with scene.turn() as turn:
        drop = claimed(turn)
        with (scene.config.root / "work" / drop.id / "original").open("ab") as late:
            assert turn.pipeline.run(drop.id) == scene.clock.wall + DISTURBED_S
            drop = now(turn, drop)
            assert (drop.state, drop.faults) == (State.QUEUED, 0)
            assert drop.reason == "a client still has the file open for writing"
            late.write(b"late@example.com,Late\n")
        assert kinds(turn, drop) == ["Claimed", "Postponed"]
        scene.clock.move(DISTURBED_S)
        assert run(turn, drop).state is State.DONE
    assert [each.rows for each in sandbox.imports] == [3]


def test_a_file_that_changes_while_it_is_read_is_put_off(scene: Scene, sandbox: Sandbox) -> None:
    """What was read is thrown away, and the file is read again."""
    with scene.turn() as turn:
        drop = claimed(turn)
        original = scene.config.root / "work" / drop.id / "original"
        appended: list[int] = []

        def append_once() -> bool:
            # The check asks whether to stop; by then it has the file open.
            if len(appended) == 1:
                with original.open("ab") as late:
                    late.write(b"late@example.com,Late\n")
            appended.append(1)
            return False

        assert pipeline_of(turn, stopping=append_once).run(drop.id) == scene.clock.wall + DISTURBED_S
        assert now(turn, drop).reason == "the file changed while it was read"
        scene.clock.move(DISTURBED_S)
        assert run(turn, drop).state is State.DONE
    assert sandbox.imports[0].rows == 3


def test_a_file_that_ended_the_program_twice_is_held_until_somebody_looked(scene: Scene, sandbox: Sandbox) -> None:
    """Two checks that never ended: poison. Released, it is read again."""
    with scene.turn() as turn:
        drop = claimed(turn)
        turn.folders.begin_check(drop)
        turn.folders.begin_check(drop)
        drop = run(turn, drop)
        assert (drop.state, drop.guard) == (State.HELD, "poison")
        assert len(sandbox.imports) == 0
        turn.ledger.commit(drop.id, Released(by="ann"), at=scene.clock.wall)
        assert run(turn, drop).state is State.DONE


@pytest.mark.parametrize("error", [RuntimeError(), disk_full()])
def test_a_check_that_fails_is_no_check_that_ended_the_program(scene: Scene, error: Exception) -> None:
    """Errors that we live through do not poison a file."""
    with scene.turn(failing("prepare: sync prepared copy", error, times=3)) as turn:
        drop = claimed(turn)
        for _ in range(3):
            with pytest.raises(FolderError) if isinstance(error, OSError) else contextlib.nullcontext():
                turn.pipeline.run(drop.id)
            scene.clock.move(3600.0)
        turn.send()
        assert now(turn, drop).state is State.DONE


def test_an_account_that_cannot_be_made_ready_puts_the_drop_off(scene: Scene, sandbox: Sandbox) -> None:
    """The key's file is open to all: no attempt is announced, the reason says what to do, and it heals by itself."""
    (scene.at / "key").chmod(0o644)
    with scene.turn() as turn:
        drop = claimed(turn)
        turn.pipeline.run(drop.id)
        drop = now(turn, drop)
        assert (drop.state, drop.tries) == (State.QUEUED, 0)
        assert f"chmod 600 {scene.at}/key" in drop.reason
        (scene.at / "key").chmod(0o600)
        turn.send()
        assert now(turn, drop).state is State.DONE
    assert len(sandbox.imports) == 1


def test_an_account_that_is_gone_puts_the_drop_off(scene: Scene) -> None:
    """A reload removed it while its drop waited: put off until it is back, never failed."""

    def no_account(name: str) -> OptiPub:
        raise DropzoneError(f"no account is called {name} any more", "Put it back into the configuration")

    with scene.turn() as turn:
        drop = claimed(turn)
        turn.pipeline._segments = no_account
        turn.pipeline.run(drop.id)
        drop = now(turn, drop)
        assert (drop.state, drop.tries) == (State.QUEUED, 0)
        assert "no account is called main any more" in drop.reason


# ------------------------------------------------------------------------------------------------------- stopping


def stop_at(call: int) -> Callable[[], bool]:
    """Says that it stops from its nth question on (from 1)."""
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked >= call

    return stopping


def test_nothing_is_started_after_the_stop(scene: Scene, sandbox: Sandbox) -> None:
    """Asked to stop before the check, in the check, and before the attempt: no event, no request, and no poison."""
    with scene.turn() as turn:
        drop = claimed(turn)
        asked = 0

        def count() -> bool:
            nonlocal asked
            asked += 1
            return bool(sandbox.imports)

        for call in (1, 2, 3, 4):
            pipeline_of(turn, stopping=stop_at(call)).run(drop.id)
            assert kinds(turn, drop) == ["Claimed"]
            assert now(turn, drop) == drop
        assert len(sandbox.imports) == 0
        pipeline_of(turn, stopping=count).run(drop.id)
        assert now(turn, drop).state is State.DONE
        assert asked == 4


def test_what_is_under_way_at_the_stop_ends_and_is_filed(scene: Scene, sandbox: Sandbox) -> None:
    """The stop comes while the answer is awaited: it is committed, and the file is where its partner looks for it."""
    with scene.turn() as turn:
        drop = claimed(turn)
        pipeline = pipeline_of(turn, stopping=lambda: len(sandbox.imports) > 0)
        assert pipeline.run(drop.id) is None
        assert now(turn, drop).state is State.DONE
        assert_kept(scene, [now(turn, drop)])


def test_the_history_of_a_drop_is_what_the_sinks_heard(scene: Scene) -> None:
    """Every committed event is announced once, in order, with the row that it led to."""
    with scene.turn() as turn:
        drop = run(turn, claimed(turn))
        history: list[Entry] = turn.ledger.history(drop.id)
        assert [entry.event for entry in history[1:]] == [event for _, event in turn.events]
        assert [row.state for row, _ in turn.events] == [State.SENDING, State.ACCEPTED, State.DONE]
        assert turn.events[-1][0] == drop
        assert settings_of(drop) == scene.config.folders["acme"]


def writing_at(scene: Scene, step: str, *, times: int = 1) -> Callable[[str], None]:
    """A client that kept its descriptor through the claim writes one more row right before the step."""
    left = times

    def write(name: str) -> None:
        nonlocal left
        if name == step and left:
            left -= 1
            (original,) = (scene.config.root / "work").glob("*/original")
            with original.open("ab") as late:
                late.write(b"cy@example.com,Cy\n")

    return write


def test_a_file_that_changes_between_its_check_and_its_attempt_is_read_again(scene: Scene, sandbox: Sandbox) -> None:
    """No lease tells of the writer here: what is sent is what lies there when the attempt is announced."""
    with scene.turn(writing_at(scene, "prepare: sync prepared copy")) as turn:
        drop = claimed(turn)
        assert turn.pipeline.run(drop.id) == scene.clock.wall + DISTURBED_S
        assert kinds(turn, drop) == ["Claimed", "Postponed"]
        assert now(turn, drop).reason == "the file changed after it was read"
        turn.send()
        assert now(turn, drop).state is State.DONE
        assert "ATTENTION" not in log_of(turn, drop)
    assert [each.rows for each in sandbox.imports] == [3]


def test_a_file_that_changes_after_it_was_sent_says_so(scene: Scene, sandbox: Sandbox) -> None:
    """It is filed as it is, and its log, its history and the journal say that what came later was not sent."""
    with scene.turn(writing_at(scene, "send: answer read")) as turn:
        drop = run(turn, claimed(turn))
        assert drop.state is State.DONE
        event = events(turn, drop)[-1]
        assert isinstance(event, Filed)
        assert "it had 53 bytes and has 71 now" in event.changed
        assert f"ATTENTION: {event.changed}." in log_of(turn, drop)
        assert event.changed in tell(event)
        assert filed(turn, drop).read_bytes().endswith(b"cy@example.com,Cy\n")
    assert [each.rows for each in sandbox.imports] == [2]


def test_a_file_that_was_only_touched_after_it_was_sent_says_that(scene: Scene) -> None:
    """The same size and another time may be other content."""
    with scene.turn() as turn:
        drop = claimed(turn)
        turn.pipeline.deliver(drop.id)
        os.utime(Path(drop.base) / "work" / drop.id / "original", (1, 1))
        assert turn.pipeline.file([drop.id]) == {drop.id: None}
        assert "another time of change" in log_of(turn, drop)


def test_several_verdicts_are_filed_together_and_one_at_fault_keeps_none(scene: Scene) -> None:
    """One commit for those that could be filed; the other is filed later, and what is no verdict is left alone."""
    with scene.turn() as turn:
        drops = [claimed(turn, b"email\nx%d@example.com\n" % n, name=f"{n}.csv") for n in range(4)]
        waiting = drops.pop()
        for drop in drops:
            assert turn.pipeline.deliver(drop.id)[0] is State.ACCEPTED
        blocked = scene.config.root / f"done/acme/{date_of(turn, drops[1])}/1.{drops[1].id}.csv"
        blocked.parent.mkdir()
        blocked.write_text("somebody else's")
        later = scene.clock.wall + REFILE_S
        ids = [drop.id for drop in (*drops, waiting)]
        assert turn.pipeline.file(ids) == dict(zip(ids, [None, later, None, None], strict=True))
        assert [now(turn, drop).state.value for drop in (*drops, waiting)] == ["done", "accepted", "done", "queued"]
        assert len(turn.faults) == 1
        blocked.unlink()
        assert turn.pipeline.file(ids) == dict.fromkeys(ids)
        assert now(turn, drops[1]).state is State.DONE


def test_a_bug_met_in_filing_several_is_the_fault_of_one(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expects to fail in one drop's log keeps that drop alone."""
    render = receipt.render_log

    def broken(drop: Drop, history: Sequence[Entry], *, changed: str = "") -> str:
        if drop.name == b"1.csv":
            raise RuntimeError("boom")
        return render(drop, history, changed=changed)

    monkeypatch.setattr(receipt, "render_log", broken)
    with scene.turn() as turn:
        drops = [claimed(turn, b"email\nx%d@example.com\n" % n, name=f"{n}.csv") for n in range(3)]
        for drop in drops:
            turn.pipeline.deliver(drop.id)
        turn.pipeline.file([drop.id for drop in drops])
        assert [now(turn, drop).state.value for drop in drops] == ["done", "accepted", "done"]
        assert [str(fault) for fault in turn.faults] == ["boom"]


def test_a_full_disk_met_in_filing_several_stops_nobody_before_it(scene: Scene) -> None:
    """What was filed is committed, then the fault of the machine is raised."""
    with scene.turn(failing("file: move original", OSError(errno.ENOSPC, "full"))) as turn:
        drops = [claimed(turn, b"email\nx%d@example.com\n" % n, name=f"{n}.csv") for n in range(2)]
        for drop in drops:
            turn.pipeline.deliver(drop.id)
        with pytest.raises(FolderError, match="full"):
            turn.pipeline.file([drop.id for drop in drops])
        assert sorted(now(turn, drop).state.value for drop in drops) == ["accepted", "done"]
        turn.pipeline.file([drop.id for drop in drops])
        assert [now(turn, drop).state.value for drop in drops] == ["done", "done"]


def date_of(turn: Turn, drop: Drop) -> str:
    at = now(turn, drop).verdict_at
    assert at is not None
    return datetime.fromtimestamp(at, UTC).date().isoformat()
