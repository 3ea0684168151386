"""One suite for every store of the ledger; each has to keep all of it."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dropzone.account import AccountFacts, Condition
from dropzone.drop import (
    Accepted,
    Attempted,
    CheckFailed,
    Claimed,
    Deferred,
    Drop,
    Event,
    Expired,
    Filed,
    Lost,
    Refused,
    Report,
    State,
    Withheld,
)
from dropzone.errors import IllegalEvent, LedgerError, Problem
from dropzone.ledger import Ledger, SegmentNote
from dropzone.ledger.schema import MIGRATIONS
from dropzone.ledger.sqlite import SQLiteLedger, SQLiteReader

REPORT = Report(
    columns=("email", "varr_a"),
    rows=3,
    good_rows=2,
    bad_rows=1,
    repeated_rows=1,
    repeats=(Problem(line=3, column=1, what="stands in line 2 already", subject="email"),),
    repairs=(("blanks removed", 2),),
    problems=(Problem(line=4, column=2, what="no @", hint="write an address", subject="email"),),
    problem_count=1,
    bytes_read=99,
    refused="1 of 3 rows is bad",
)
CLAIMED = Claimed(
    folder="acme",
    name=b"caf\xe9\n.csv",
    account="main",
    segment_id=7,
    lane="main/7",
    base="/srv",
    settings='{"a": 1}',
    size=10,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    store = SQLiteLedger(tmp_path)
    yield store
    store.close()


def live(ledger: Ledger, id: str, *events: Event) -> None:
    for moment, event in enumerate((CLAIMED, *events), 1):
        ledger.commit(id, event, at=float(moment))


def ids(drops: list[Drop]) -> list[str]:
    return [drop.id for drop in drops]


def attempted(n: int) -> Attempted:
    return Attempted(n=n, digest=f"{n:064}", size=50, report=REPORT)


def test_a_drop_comes_back_as_it_was_recorded(ledger: Ledger) -> None:
    """The row holds everything, hostile names byte for byte."""
    live(ledger, "A1", attempted(1))
    drop = ledger.find_drop("A1")
    assert drop is not None
    assert (drop.name, drop.state, drop.tries, drop.rows) == (b"caf\xe9\n.csv", State.SENDING, 1, 2)
    assert drop == replace(drop, digest="0" * 63 + "1", claimed_at=1.0, changed_at=2.0)
    assert ledger.find_drop("A2") is None


def test_history_comes_back_event_by_event(ledger: Ledger) -> None:
    """Events are read as the very values that were written, reports and problems included."""
    events: list[Event] = [CheckFailed(report=REPORT), Filed(path="failed/acme/x.csv")]
    live(ledger, "A1", *events)
    history = ledger.history("A1")
    assert [entry.event for entry in history] == [CLAIMED, *events]
    assert [entry.at for entry in history] == [1.0, 2.0, 3.0]


def test_an_illegal_event_changes_nothing(ledger: Ledger) -> None:
    """The table decides before anything is written."""
    live(ledger, "A1")
    before = ledger.find_drop("A1")
    with pytest.raises(IllegalEvent):
        ledger.commit("A1", Filed(path="x"), at=9.0)
    with pytest.raises(IllegalEvent):
        ledger.commit("B2", Filed(path="x"), at=9.0)
    with pytest.raises(IllegalEvent):
        ledger.commit("A1", CLAIMED, at=9.0)
    assert ledger.find_drop("A1") == before
    assert len(ledger.history("A1")) == 1


def test_a_text_that_cannot_be_stored_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    """Half of a character, as JSON can carry it."""
    note = SegmentNote(by="ann", at=1.0)
    with pytest.raises(LedgerError, match="cannot be written down"):
        ledger.note_segment("main", "Leads \ud800", note)
    assert ledger.segment_notes() == {}
    ledger.note_segment("main", "Leads", note)
    assert ledger.segment_notes() == {("main", "Leads"): note}


def test_several_claims_are_one_commit(ledger: Ledger) -> None:
    """All or none: one that exists already undoes the others."""
    ledger.commit_all([("A1", CLAIMED), ("A2", CLAIMED)], at=1.0)
    with pytest.raises(IllegalEvent):
        ledger.commit_all([("A3", CLAIMED), ("A1", CLAIMED)], at=2.0)
    assert [drop.id for drop in ledger.find_drops()] == ["A1", "A2"]


def test_events_of_one_drop_follow_from_each_other_in_one_commit(ledger: Ledger) -> None:
    """Each finds what the one before it left; one that does not fit undoes them all."""
    held = Withheld(guard="no record", why="it is gone")
    rows = ledger.commit_all([("A1", CLAIMED), ("A1", held), ("A2", CLAIMED)], at=1.0)
    assert [(drop.id, drop.state) for drop in rows] == [
        ("A1", State.QUEUED), ("A1", State.HELD), ("A2", State.QUEUED),
    ]  # fmt: skip
    assert [drop.state for drop in ledger.find_drops()] == [State.HELD, State.QUEUED]
    assert [entry.event for entry in ledger.history("A1")] == [CLAIMED, held]
    with pytest.raises(IllegalEvent):
        ledger.commit_all([("A3", CLAIMED), ("A3", held), ("A3", CLAIMED)], at=2.0)
    assert ledger.find_drop("A3") is None


def test_drops_come_in_the_order_of_their_claims_not_of_their_ids(ledger: Ledger) -> None:
    """A clock that went back gives smaller IDs to later files; the order of sending stays that of the claims."""
    ledger.commit_all([("Z9", CLAIMED), ("A1", CLAIMED)], at=1.0)
    assert [drop.id for drop in ledger.find_drops()] == ["Z9", "A1"]
    assert ledger.open_lanes() == [("main/7", "Z9"), ("main/7", "A1")]


def test_what_is_open_of_a_segment_can_change_its_lane(ledger: Ledger) -> None:
    """All of it, held or not, and nothing of another segment or account; what is finished keeps its own."""
    live(ledger, "A1")
    live(ledger, "A2", Withheld(guard="min_rows", why="few"))
    live(ledger, "A3", CheckFailed(report=REPORT), Filed(path="x"))
    ledger.commit("B1", replace(CLAIMED, segment_id=8, lane="main/8"), at=1.0)
    ledger.commit("C1", replace(CLAIMED, account="other", lane="other/7"), at=1.0)
    assert sorted(ledger.open_segments()) == [("main", 7, "main/7"), ("main", 8, "main/8"), ("other", 7, "other/7")]
    ledger.change_lane("main", 7, "main/group g")
    assert [drop.lane for drop in ledger.find_drops()] == [
        "main/group g", "main/group g", "main/7", "main/8", "other/7",
    ]  # fmt: skip
    assert ("main", 7, "main/group g") in ledger.open_segments()


def test_finding_by_state_folder_and_prefix(ledger: Ledger) -> None:
    """The questions of the command line."""
    live(ledger, "AB1")
    live(ledger, "AB2", Withheld(guard="min_rows", why="few"))
    live(ledger, "AC3", CheckFailed(report=REPORT), Filed(path="x"))
    ledger.commit("AD4", replace(CLAIMED, folder="other"), at=1.0)
    assert ids(ledger.find_drops(states=[State.HELD])) == ["AB2"]
    assert ids(ledger.find_drops(states=[State.FAILED])) == ["AC3"]
    assert ids(ledger.find_drops(folder="other")) == ["AD4"]
    assert ids(ledger.find_drops(prefix="AB")) == ["AB1", "AB2"]
    assert ids(ledger.find_drops(limit=2)) == ["AB1", "AB2"]
    assert [id for _, id in ledger.open_lanes()] == ["AB1", "AD4"]


def test_attempts_tell_what_came_of_each(ledger: Ledger) -> None:
    """Every announced attempt has a row; one without outcome is still under way, or was when we died."""
    live(
        ledger,
        "A1",
        attempted(1),
        Deferred(due_at=60.0, cause="503", status=503),
        attempted(2),
        Lost(cause="answer lost", sent=50),
    )
    live(ledger, "A2", attempted(1), Refused(status=302, blame="no", evidence=""))
    live(ledger, "A3", attempted(1))
    assert [(a.n, a.outcome, a.status, a.why) for a in ledger.attempts("A1")] == [
        (1, "deferred", 503, "503"),
        (2, "lost", None, "answer lost"),
    ]
    assert [(a.outcome, a.status) for a in ledger.attempts("A2")] == [("refused", 302)]
    assert [(a.outcome, a.ended_at) for a in ledger.attempts("A3")] == [("", None)]


def test_facts_follow_from_events(ledger: Ledger) -> None:
    """An acceptance tells the segment's last file and frees the account; an account's deferral makes it wait."""
    assert ledger.account_facts("main") == AccountFacts()
    assert ledger.segment_facts("main", 7, "acme") is None
    live(ledger, "A1", attempted(1), Deferred(due_at=60.0, cause="429", status=429, effect="wait"))
    waiting = ledger.account_facts("main")
    assert (waiting.condition, waiting.until, waiting.why) == (Condition.WAITING, 60.0, "429")
    ledger.commit("A1", attempted(2), at=61.0)
    ledger.commit("A1", Accepted(status=201, body="Import created."), at=62.0)
    assert ledger.account_facts("main") == AccountFacts(accepted_at=62.0, since=62.0, noted_at=waiting.noted_at)
    facts = ledger.segment_facts("main", 7, "acme")
    assert facts is not None
    assert (facts.drop_id, facts.rows, facts.at) == ("A1", 2, 62.0)


def test_what_was_taken_since_an_attempt_is_known_by_order_and_not_by_time(ledger: Ledger) -> None:
    """Accepted or lost after the attempt that OptiPub has or may have, of the same account; whatever the clock said."""
    taken = Accepted(status=201, body="Import created.")
    live(ledger, "A1", attempted(1), taken)
    live(ledger, "A2", attempted(1), Deferred(due_at=60.0, cause="503"), attempted(2))
    ledger.commit_all([("A3", CLAIMED), ("A4", CLAIMED), ("A5", replace(CLAIMED, account="other"))], at=1.0)
    for id, outcome in (("A3", taken), ("A4", Lost(cause="lost", sent=1)), ("A5", taken)):
        ledger.commit(id, attempted(1), at=-1e9)
        ledger.commit(id, outcome, at=-1e9)
    (unknown,) = [ledger.commit("A2", Lost(cause="lost", sent=1), at=3.0)]
    assert [drop.id for drop in ledger.taken_since(unknown)] == ["A3", "A4"]
    (first,) = ledger.find_drops(prefix="A1")  # taken, at its first attempt
    assert [drop.id for drop in ledger.taken_since(first)] == ["A2", "A3", "A4"]
    (last,) = ledger.find_drops(prefix="A4")
    assert ledger.taken_since(last) == [unknown]
    for event in (Filed(path="done/a"), Expired(days=1)):  # whose files are gone has been taken all the same
        ledger.commit("A3", event, at=4.0)
    assert [drop.id for drop in ledger.taken_since(unknown)] == ["A3", "A4"]


def test_how_much_was_written_only_grows(ledger: Ledger) -> None:
    """Also when histories are deleted: an older copy of the ledger is known by it."""
    assert ledger.written == 0
    seen = [0]
    for event in (attempted(1), Accepted(status=201, body="ok"), Filed(path="done/a"), Expired(days=1)):
        if len(seen) == 1:
            ledger.commit_all([("A1", CLAIMED)], at=1.0)
        ledger.commit("A1", event, at=1.0)
        seen.append(ledger.written)
    assert seen == sorted(set(seen))


def test_threads_take_turns(ledger: Ledger) -> None:
    """Several threads record at once; nothing is lost and nothing is mixed up."""

    def record(number: int) -> None:
        for n in range(20):
            live(ledger, f"{number}{n:02}", attempted(1), Accepted(status=201, body="ok"))

    threads = [threading.Thread(target=record, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drops = ledger.find_drops(states=[State.ACCEPTED])
    assert len(drops) == 80
    assert all(len(ledger.history(drop.id)) == 3 for drop in drops)


# --------------------------------------------------------------------------------------------- SQLite in particular


def test_a_commit_outlives_the_process(tmp_path: Path) -> None:
    """What `commit` returned is there after a SIGKILL, with the pragmas that make it outlive a power cut."""
    script = (
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from test_ledger_contract import CLAIMED\n"
        "from dropzone.ledger.sqlite import SQLiteLedger\n"
        f"ledger = SQLiteLedger(Path({str(tmp_path)!r}))\n"
        "ledger.commit('A1', CLAIMED, at=1.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent.parent, check=False)
    ledger = SQLiteLedger(tmp_path)
    try:
        assert [drop.id for drop in ledger.find_drops()] == ["A1"]
        assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    finally:
        ledger.close()


class Gathering:
    """A ledger whose first commit is held up until others wait behind it, in threads of their own."""

    def __init__(self, tmp_path: Path, *, failing: int = 0) -> None:
        self.steps: list[str] = []
        self._failing = failing
        self._begun = threading.Event()
        self._go_on = threading.Event()
        self.ledger = SQLiteLedger(tmp_path, step=self._step)

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if len(self.steps) == 2:
            self._begun.set()
            assert self._go_on.wait(10)
        if len(self.steps) == self._failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def commit(self, first: tuple[str, Event], *others: tuple[str, Event]) -> list[Future[Drop]]:
        with ThreadPoolExecutor(1 + len(others)) as pool:
            futures = [pool.submit(self.ledger.commit, *first, at=1.0)]
            assert self._begun.wait(10)
            futures += [pool.submit(self.ledger.commit, *other, at=2.0) for other in others]
            while len(self.ledger._waiting) < len(others):
                threading.Event().wait(0.001)
            self._go_on.set()
        return futures


def test_what_waits_at_the_same_time_is_one_transaction(tmp_path: Path) -> None:
    """Three commits gather behind a slow one and share the next; the illegal one among them is nobody else's error."""
    gathering = Gathering(tmp_path)
    try:
        _, a2, b9, a1 = gathering.commit(
            ("A1", CLAIMED), ("A2", CLAIMED), ("B9", Filed(path="x")), ("A1", attempted(1))
        )
        assert (a2.result().state, a1.result().state) == (State.QUEUED, State.SENDING)
        with pytest.raises(IllegalEvent):
            b9.result()
        assert len(gathering.steps) == 3
        assert ids(gathering.ledger.find_drops()) == ["A1", "A2"]
        assert [entry.event for entry in gathering.ledger.history("A1")] == [CLAIMED, attempted(1)]
    finally:
        gathering.ledger.close()


def test_a_shared_transaction_that_fails_has_changed_nothing_for_anybody(tmp_path: Path) -> None:
    """Each of its callers gets the error, and each may commit again."""
    gathering = Gathering(tmp_path, failing=3)
    try:
        a1, a2, a3 = gathering.commit(("A1", CLAIMED), ("A2", CLAIMED), ("A3", CLAIMED))
        assert a1.result().state is State.QUEUED
        for future in (a2, a3):
            with pytest.raises(LedgerError, match="No space left"):
                future.result()
        assert ids(gathering.ledger.find_drops()) == ["A1"]
        live(gathering.ledger, "A2")
        assert ids(gathering.ledger.find_drops()) == ["A1", "A2"]
    finally:
        gathering.ledger.close()


def test_a_reader_sees_commits_and_cannot_write(tmp_path: Path) -> None:
    """Commands read beside the running daemon."""
    ledger = SQLiteLedger(tmp_path)
    reader = SQLiteReader(tmp_path)
    try:
        ledger.commit("A1", CLAIMED, at=1.0)
        assert reader.find_drop("A1") == ledger.find_drop("A1")
        assert reader.id == ledger.id
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._db.execute("DELETE FROM drops")
    finally:
        reader.close()
        ledger.close()


OPEN = [state for state in State if state not in (State.DONE, State.FAILED)]
QUESTIONS: dict[str, Callable[[SQLiteReader, Drop], object]] = {
    "written": lambda ledger, _: ledger.written,
    "find_drop": lambda ledger, drop: ledger.find_drop(drop.id),
    "open drops": lambda ledger, _: ledger.find_drops(states=OPEN),
    "queued drops": lambda ledger, _: ledger.find_drops(states=[State.QUEUED], limit=5),
    "open drops of a folder": lambda ledger, drop: ledger.find_drops(states=OPEN, folder=drop.folder),
    "open drops, the newest": lambda ledger, _: ledger.find_drops(states=OPEN, limit=2, newest=True),
    "failed drops": lambda ledger, _: ledger.find_drops(states=[State.FAILED]),
    "failed drops, the newest": lambda ledger, _: ledger.find_drops(states=[State.FAILED], limit=2, newest=True),
    "done drops, the newest": lambda ledger, _: ledger.find_drops(states=[State.DONE], limit=2, newest=True),
    "drops by the beginning of the ID": lambda ledger, drop: ledger.find_drops(prefix=drop.id, limit=6),
    "find_named": lambda ledger, drop: ledger.find_named(drop.folder, b"another", limit=3),
    "failed_since": lambda ledger, drop: ledger.failed_since(0.0, folders=[drop.folder]),
    "open_lanes": lambda ledger, _: ledger.open_lanes(),
    "open_segments": lambda ledger, _: ledger.open_segments(),
    "standings": lambda ledger, _: ledger.standings(),
    "history": lambda ledger, drop: ledger.history(drop.id),
    "attempts": lambda ledger, drop: ledger.attempts(drop.id),
    "accepted_last": lambda ledger, _: ledger.accepted_last(),
    "find_accepted": lambda ledger, drop: ledger.find_accepted(drop.account, drop.segment_id, "0" * 64),
    "last_accepted": lambda ledger, drop: ledger.last_accepted(drop.account, drop.segment_id),
    "claimed_before": lambda ledger, drop: ledger.claimed_before(drop, since=0.0, limit=5),
    "latest_at": lambda ledger, _: ledger.latest_at(),
}


def test_what_was_finished_makes_no_question_longer(tmp_path: Path) -> None:
    """With a thousand finished drops and four others each question takes as many steps as its answer is long."""
    ledger = SQLiteLedger(tmp_path)
    names = [f"A{number:04}" for number in range(1000)]
    ledger.commit_all([(id, CLAIMED) for id in [*names, "B1", "B2", "B3", "B4"]], at=1.0)
    ledger._db.execute("PRAGMA synchronous = OFF")
    for id in names:
        ledger.commit(id, attempted(1), at=2.0)
        ledger.commit(id, Accepted(status=201, body=""), at=3.0)
        ledger.commit(id, Filed(path=f"done/{id}.csv"), at=4.0)
    live(ledger, "F1", attempted(1), Refused(status=400, blame="no", evidence="no"), Filed(path="failed/F1.csv"))
    ledger.close()

    reader = SQLiteReader(tmp_path)
    drop = reader.find_drop("B4")
    assert drop is not None
    costs = {}
    for name, question in QUESTIONS.items():
        steps: list[None] = []
        reader._db.set_progress_handler(lambda steps=steps: steps.append(None), 1)  # type: ignore[misc]
        question(reader, drop)
        costs[name] = len(steps)
    reader.close()
    assert {name: steps for name, steps in costs.items() if steps > 800} == {}


def test_events_cannot_be_changed_even_by_hand(tmp_path: Path) -> None:
    """The history is append-only in the database itself."""
    ledger = SQLiteLedger(tmp_path)
    try:
        ledger.commit("A1", CLAIMED, at=1.0)
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            ledger._db.execute("UPDATE events SET at = 0")
    finally:
        ledger.close()


def test_no_ledger_damaged_ledger_newer_ledger(tmp_path: Path) -> None:
    """Each is one error with its mend, and none is overwritten."""
    with pytest.raises(LedgerError, match="there is no ledger"):
        SQLiteReader(tmp_path)
    (tmp_path / "ledger.db").write_bytes(os.urandom(8192))
    with pytest.raises(LedgerError, match=r"damaged.*move ledger\.db"):
        SQLiteLedger(tmp_path)
    assert (tmp_path / "ledger.db").stat().st_size == 8192
    newer = tmp_path / "newer"
    newer.mkdir()
    with sqlite3.connect(newer / "ledger.db") as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(LedgerError, match="newer dropzone"):
        SQLiteLedger(newer)


def test_each_schema_version_migrates_to_the_newest(tmp_path: Path) -> None:
    """A ledger of any earlier version is brought up when it is opened, one transaction for each step."""
    for version in range(len(MIGRATIONS)):
        where = tmp_path / str(version)
        where.mkdir()
        db = sqlite3.connect(where / "ledger.db")
        db.executescript("".join(MIGRATIONS[:version]) + f"PRAGMA user_version = {version};")
        db.close()
        ledger = SQLiteLedger(where)
        try:
            ledger.commit("A1", CLAIMED, at=1.0)
            assert ledger._db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        finally:
            ledger.close()


def test_a_full_disk_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    """SQLite's own limit stands in for a full disk: the event is not recorded, and later it can be."""
    ledger = SQLiteLedger(tmp_path)
    try:
        ledger.commit("A1", CLAIMED, at=1.0)
        (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        big = replace(CLAIMED, settings="x" * 100_000)
        with pytest.raises(LedgerError, match="disk is full"):
            ledger.commit("A2", big, at=2.0)
        ledger._db.execute("PRAGMA max_page_count = 100000")
        assert [drop.id for drop in ledger.find_drops()] == ["A1"]
        ledger.commit("A2", big, at=3.0)
    finally:
        ledger.close()
