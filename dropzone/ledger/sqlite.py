"""The ledger in one SQLite file, for one host.

WAL with ``synchronous=FULL``: over 50 commits and a power cut, WAL+NORMAL lost all 50, Python's default (DELETE+FULL)
the last one each time, WAL+FULL none, and it was the fastest safe one. One writer connection, in the daemon: SQLite
before 3.51.3 can corrupt a WAL when two connections write or checkpoint at once. Readers open ``mode=ro``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from dropzone.account import AccountFacts, Condition, after
from dropzone.drop import (
    FINISHED,
    Accepted,
    Attempted,
    Claimed,
    Deferred,
    Drop,
    Entry,
    Event,
    Expired,
    Lost,
    Refused,
    Retried,
    State,
    apply,
)
from dropzone.errors import IllegalEvent, LedgerError
from dropzone.ledger import Attempt, Pause, SegmentFacts, SegmentNote, Standing, codec
from dropzone.ledger.schema import MIGRATIONS

FILE_NAME = "ledger.db"
LIBRARY = sqlite3.sqlite_version  # for the diagnosis
_SEGMENT = "segment "  # before ACCOUNT/NAME in the facts: what is known of a segment that was to be created
_COLUMNS = tuple(field.name for field in fields(Drop))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM drops"
_INSERT = f"INSERT INTO drops ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
# What events change. The rest is left out, so that SQLite need not write its indexes again.
_CHANGING = tuple(
    name
    for name in _COLUMNS
    if name not in ("id", "folder", "name", "account", "segment_id", "lane", "base", "settings", "size", "claimed_at")
)
_UPDATE = f"UPDATE drops SET {', '.join(f'{name} = ?' for name in _CHANGING)} WHERE id = ?"
_FACTS = tuple(field.name for field in fields(AccountFacts))
_DAMAGED = (
    "Nothing is sent without it. Stop dropzone, move ledger.db, ledger.db-wal and ledger.db-shm aside and start again: "
    "what lies in work/ is then held until you have looked"
)


class SQLiteReader:
    """The questions, on a connection of its own. Opens a finished ledger read-only; see `Reader` for the methods."""

    def __init__(self, state_dir: Path) -> None:
        path = state_dir / FILE_NAME
        with _Translated(path):
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))  # SQLite does not tell why it cannot open a file
            except FileNotFoundError:
                hint = "It is made by the first 'dropzone run'; is `state_dir:` right?"
                raise LedgerError(f"there is no ledger at {path}", hint) from None
            self._path = path
            self._lock = threading.RLock()
            self._db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False, timeout=10)
            self._reading = _Reading(path, self._db, self._lock)
            self._check_version()

    def _check_version(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            hint = "Run the version of dropzone that made it, or a newer one"
            raise LedgerError(f"{self._path} was made by a newer dropzone (schema {version})", hint)

    @property
    def id(self) -> str:
        with self._reading as db:
            (value,) = db.execute("SELECT value FROM facts WHERE name = 'id'").fetchone()
            return str(value)

    @property
    def written(self) -> int:
        with self._reading as db:
            (n,) = db.execute("SELECT coalesce(max(n), 0) FROM events").fetchone()
        return int(n)

    def find_drop(self, id: str) -> Drop | None:
        with self._reading as db:
            row = db.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
        return _drop(row) if row else None

    def find_drops(
        self,
        *,
        states: Iterable[State] | None = None,
        folder: str | None = None,
        prefix: str = "",
        suffix: str = "",
        limit: int = -1,
        newest: bool = False,
    ) -> list[Drop]:
        where, values = ["TRUE"], list[str]()
        if prefix:  # only then: SQLite would go through all IDs and sort, rather than through the few that are open
            where.append("id >= ? AND id < ?")
            values += [prefix, prefix + "~"]
        if states is not None:
            where += _among(list(states))
        if folder is not None:
            where.append("folder = ?")
            values.append(folder)
        if suffix:
            where.append("substr(id, -length(?)) = ?")
            values += [suffix, suffix]
        with self._reading as db:
            order = "DESC" if newest else "ASC"
            rows = db.execute(f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY seq {order} LIMIT ?", (*values, limit))
            found = [_drop(row) for row in rows]
        return found[::-1] if newest else found

    def failed_since(self, at: float, *, folders: Sequence[str]) -> dict[str, int]:
        counts = {}
        with self._reading as db:
            for folder in folders:  # one by one: so each goes by the index, whatever the length of the ledger
                row = db.execute(
                    "SELECT count(*) FROM drops WHERE folder = ? AND state = 'failed' AND verdict_at >= ?", (folder, at)
                ).fetchone()
                if row[0]:
                    counts[folder] = int(row[0])
        return counts

    def find_named(self, folder: str, name: bytes, *, limit: int) -> list[Drop]:
        with self._reading as db:
            rows = db.execute(
                f"{_SELECT} WHERE folder = ? AND name = ? ORDER BY seq DESC LIMIT ?", (folder, name, limit)
            )
            return [_drop(row) for row in rows]

    def open_lanes(self) -> list[tuple[str, str]]:
        with self._reading as db:
            rows = db.execute(
                "SELECT lane, id FROM drops WHERE state NOT IN ('done', 'failed') AND (state != 'held' OR blocks) "
                "ORDER BY seq"
            )
            return [(str(lane), str(id)) for lane, id in rows]

    def open_segments(self) -> list[tuple[str, int, str]]:
        with self._reading as db:
            rows = db.execute(
                "SELECT DISTINCT account, segment_id, lane FROM drops WHERE state NOT IN ('done', 'failed')"
            )
            return [(str(account), int(segment_id), str(lane)) for account, segment_id, lane in rows]

    def open_bases(self) -> set[Path]:
        with self._reading as db:
            rows = db.execute("SELECT DISTINCT base FROM drops WHERE state NOT IN ('done', 'failed')")
            return {Path(base) for (base,) in rows}

    def history(self, id: str) -> list[Entry]:
        with self._reading as db:
            rows = db.execute("SELECT at, kind, body FROM events WHERE drop_id = ? ORDER BY n", (id,)).fetchall()
        return [Entry(at=at, event=codec.decode(kind, body)) for at, kind, body in rows]

    def attempts(self, id: str) -> list[Attempt]:
        with self._reading as db:
            rows = db.execute(
                "SELECT n, started_at, digest, size, outcome, status, why, ended_at FROM attempts "
                "WHERE drop_id = ? ORDER BY n",
                (id,),
            ).fetchall()
        names = ("n", "started_at", "digest", "size", "outcome", "status", "why", "ended_at")
        return [Attempt(**dict(zip(names, row, strict=True))) for row in rows]

    def segment_facts(self, account: str, segment_id: int, folder: str) -> SegmentFacts | None:
        with self._reading as db:
            row = db.execute(
                "SELECT drop_id, rows, at FROM segments WHERE account = ? AND segment_id = ? AND folder = ?",
                (account, segment_id, folder),
            ).fetchone()
        return SegmentFacts(drop_id=row[0], rows=row[1], at=row[2]) if row else None

    def accepted_last(self) -> dict[str, SegmentFacts]:
        with self._reading as db:
            rows = db.execute("SELECT folder, drop_id, rows, at FROM segments ORDER BY at").fetchall()
        return {folder: SegmentFacts(drop_id=drop_id, rows=count, at=at) for folder, drop_id, count, at in rows}

    def account_facts(self, account: str) -> AccountFacts:
        with self._reading as db:
            row = db.execute(f"SELECT {', '.join(_FACTS)} FROM accounts WHERE name = ?", (account,)).fetchone()
        if row is None:
            return AccountFacts()
        values = dict(zip(_FACTS, row, strict=True))
        return AccountFacts(**{**values, "condition": Condition(values["condition"])})

    def paused_folders(self) -> Mapping[str, Pause]:
        with self._reading as db:
            rows = db.execute("SELECT folder, by, why, at FROM pauses").fetchall()
        return {folder: Pause(by=by, why=why, at=at) for folder, by, why, at in rows}

    def find_accepted(self, account: str, segment_id: int, digest: str) -> list[Drop]:
        with self._reading as db:
            rows = db.execute(
                f"{_SELECT} WHERE state IN ('accepted', 'done') AND guard = '' "
                "AND account = ? AND segment_id = ? AND digest = ? ORDER BY seq DESC LIMIT 100",
                (account, segment_id, digest),
            )
            return [_drop(row) for row in rows]

    def last_accepted(self, account: str, segment_id: int) -> str | None:
        with self._reading as db:
            row = db.execute(
                "SELECT drop_id FROM segments WHERE account = ? AND segment_id = ? ORDER BY at DESC LIMIT 1",
                (account, segment_id),
            ).fetchone()
        return str(row[0]) if row else None

    def taken_since(self, drop: Drop) -> list[Drop]:
        # By the order in which events were written down, which no clock changes.
        with self._reading as db:
            rows = db.execute(
                f"{_SELECT} WHERE account = ? AND id != ? AND id IN (SELECT drop_id FROM events WHERE n > coalesce(("
                "SELECT max(n) FROM events WHERE drop_id = ? AND kind = 'Attempted' AND n < ("
                "SELECT min(n) FROM events WHERE drop_id = ? AND kind IN ('Accepted', 'Lost'))), 0)"
                " AND kind IN ('Accepted', 'Lost'))",
                (drop.account, drop.id, drop.id, drop.id),
            )
            return [_drop(row) for row in rows]

    def claimed_before(self, drop: Drop, *, since: float, limit: int) -> int:
        with self._reading as db:
            (count,) = db.execute(
                "SELECT count(*) FROM (SELECT 1 FROM drops WHERE folder = ? AND claimed_at >= ? AND claimed_at <= ? "
                "AND seq < (SELECT seq FROM drops WHERE id = ?) LIMIT ?)",
                (drop.folder, since, drop.claimed_at, drop.id, limit),
            ).fetchone()
        return int(count)

    def standings(self) -> list[Standing]:
        with self._reading as db:
            rows = db.execute(
                # By its name: grouping alone, SQLite reads all that was ever finished (5 ms for each thousand, seen).
                "SELECT folder, account, state, count(*), sum(size), min(claimed_at), min(due_at) FROM drops "
                "INDEXED BY drops_open WHERE state NOT IN ('done', 'failed') GROUP BY folder, account, state"
            ).fetchall()
        return [
            Standing(
                folder=folder, account=account, state=State(state), count=count, size=size, oldest_at=oldest, due_at=due
            )
            for folder, account, state, count, size, oldest, due in rows
        ]

    def segment_notes(self) -> dict[tuple[str, str], SegmentNote]:
        with self._reading as db:
            rows = db.execute(f"SELECT name, value FROM facts WHERE name GLOB '{_SEGMENT}*'").fetchall()
        notes = {}
        for name, value in rows:
            account, _, segment = name.removeprefix(_SEGMENT).partition("/")  # no account has a / in its name
            notes[account, segment] = SegmentNote(**json.loads(value))
        return notes

    def latest_at(self) -> float | None:
        with self._reading as db:
            row = db.execute("SELECT at FROM events ORDER BY n DESC LIMIT 1").fetchone()
        return row[0] if row else None

    def find_damage(self) -> str:
        with self._reading as db:
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
        return "" if found == "ok" else " ".join(str(found).split())  # SQLite tells it in lines

    def close(self) -> None:
        with self._lock:
            self._db.close()


class _Wanted:
    """What one caller wants committed, and what came of it."""

    def __init__(self, events: Sequence[tuple[str, Event]], at: float) -> None:
        self.events = events
        self.at = at
        self.drops: list[Drop] = []
        self.error: BaseException | None = None
        self.ended = False


class SQLiteLedger(SQLiteReader):
    """The one writer. Makes the ledger where there is none. Thread-safe: transactions come one after the other.

    What several threads commit at the same time goes into one transaction: what takes long is its sync, and one by one
    the lanes of a burst waited mostly for each other's (measured).

    `step` is called right before each commit; it does nothing, the crash tests die in it.
    """

    def __init__(self, state_dir: Path, *, step: Callable[[str], None] = lambda name: None) -> None:
        self._step = step
        self._path = state_dir / FILE_NAME
        self._lock = threading.RLock()
        self._waiting: deque[_Wanted] = deque()
        with _Translated(self._path):
            # autocommit: every BEGIN is written out below
            self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10)
            self._reading = _Reading(self._path, self._db, self._lock)
            os.chmod(self._path, 0o640)  # it names files and partners
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._check_version()
            self._migrate()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            # One script, one transaction: if we die here, the next start finds the old version and tries again.
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
        with self._writing("name the ledger") as db:
            db.execute("INSERT OR IGNORE INTO facts VALUES ('id', ?)", (os.urandom(16).hex(),))

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _Translated(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._step(f"ledger: commit {what}")
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def commit(self, id: str, event: Event, *, at: float) -> Drop:
        return self._commit(_Wanted([(id, event)], at))[0]

    def change_lane(self, account: str, segment_id: int, lane: str) -> None:
        with self._writing("a lane") as db:
            where = "account = ? AND segment_id = ? AND state NOT IN ('done', 'failed')"
            db.execute(f"UPDATE drops SET lane = ? WHERE {where}", (lane, account, segment_id))

    def note_segment(self, account: str, name: str, note: SegmentNote | None) -> None:
        key = f"{_SEGMENT}{account}/{name}"
        with self._writing("a segment's note") as db:
            if note is None:
                db.execute("DELETE FROM facts WHERE name = ?", (key,))
            else:
                db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(asdict(note))))

    def commit_all(self, events: Sequence[tuple[str, Event]], *, at: float) -> list[Drop]:
        return self._commit(_Wanted(events, at))

    def _commit(self, mine: _Wanted) -> list[Drop]:
        self._waiting.append(mine)
        with self._lock:
            if not mine.ended:  # else the thread that had the lock before us has taken it along
                self._commit_waiting()
        if mine.error is not None:
            raise mine.error
        return mine.drops

    def _commit_waiting(self) -> None:
        """One transaction for all who wait. An illegal event is its caller's error alone, any other is everybody's."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        kinds = dict.fromkeys(type(event).__name__ for each in taken for _, event in each.events)
        try:
            with self._writing(" and ".join(kinds)) as db:
                for each in taken:
                    self._write(db, each)
        except BaseException as error:
            for each in taken:
                each.error = error
            raise
        finally:
            for each in taken:
                each.ended = True

    def _write(self, db: sqlite3.Connection, wanted: _Wanted) -> None:
        drops: list[Drop] = []
        try:
            # All of them before the first is written, so that an illegal one changes nothing.
            latest: dict[str, Drop] = {}
            for id, event in wanted.events:
                latest[id] = apply(latest.get(id) or self.find_drop(id), event, id=id, at=wanted.at)
                drops.append(latest[id])
        except IllegalEvent as error:
            wanted.error = error
            return
        for drop, (id, event) in zip(drops, wanted.events, strict=True):
            if isinstance(event, Claimed):
                db.execute(_INSERT, tuple(getattr(drop, name) for name in _COLUMNS))
            else:
                db.execute(_UPDATE, (*(getattr(drop, name) for name in _CHANGING), id))
            entry = (id, wanted.at, type(event).__name__, codec.encode(event))
            db.execute("INSERT INTO events (drop_id, at, kind, body) VALUES (?, ?, ?, ?)", entry)
            self._follow(db, drop, event, wanted.at)
        wanted.drops = drops

    def _follow(self, db: sqlite3.Connection, drop: Drop, event: Event, at: float) -> None:
        """Write down the facts that follow from `event`, in the same transaction."""
        match event:
            case Attempted(n=n, digest=digest, size=size):
                db.execute(
                    "INSERT INTO attempts (drop_id, n, started_at, digest, size) VALUES (?, ?, ?, ?, ?)",
                    (drop.id, n, at, digest, size),
                )
            case Accepted(status=status, body=body) if not event.by:
                self._end_attempt(db, drop, "accepted", status, body, at)
            case Refused(status=status, blame=blame):
                self._end_attempt(db, drop, "refused", status, blame, at)
            case Deferred(status=status, cause=cause):
                self._end_attempt(db, drop, "deferred", status, cause, at)
            case Lost(status=status, cause=cause):
                self._end_attempt(db, drop, "lost", status, cause, at)
            case Retried(settings=settings) if settings:  # the one way in which these ever change, but for the lane
                db.execute(
                    "UPDATE drops SET settings = ?, account = ?, segment_id = ?, lane = ? WHERE id = ?",
                    (drop.settings, drop.account, drop.segment_id, drop.lane, drop.id),
                )
            case Expired():  # the row stays, with the digest by which a duplicate is known, and what `taken_since` asks
                kept = "kind IN ('Accepted', 'Lost', 'Expired')"
                db.execute(f"DELETE FROM events WHERE drop_id = ? AND NOT {kept}", (drop.id,))
                db.execute("DELETE FROM attempts WHERE drop_id = ?", (drop.id,))
            case _:
                pass
        if isinstance(event, Accepted):
            db.execute(
                "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?)",
                (drop.account, drop.segment_id, drop.folder, drop.id, drop.rows or 0, at),
            )
        if isinstance(event, Accepted | Refused | Deferred | Lost):
            before = self.account_facts(drop.account)
            self._write_account(db, drop.account, before, after(before, event, at=at))

    def _write_account(self, db: sqlite3.Connection, name: str, before: AccountFacts, facts: AccountFacts) -> None:
        if facts != before:
            columns, places = ", ".join(_FACTS), ", ".join("?" * len(_FACTS))
            values = (getattr(facts, fact) for fact in _FACTS)
            db.execute(f"INSERT OR REPLACE INTO accounts (name, {columns}) VALUES (?, {places})", (name, *values))

    def change_account(
        self, account: str, change: Callable[[AccountFacts], AccountFacts], *, order: str = "", by: str = "", at: float
    ) -> AccountFacts:
        with self._writing("account") as db:
            before = self.account_facts(account)
            facts = change(before)
            self._write_account(db, account, before, facts)
            if order:
                self._write_order(db, order, "account", account, by, facts.why, at)
        return facts

    def change_folder(self, folder: str, pause: Pause | None, *, by: str, at: float) -> None:
        with self._writing("folder") as db:
            db.execute("DELETE FROM pauses WHERE folder = ?", (folder,))
            if pause:
                db.execute("INSERT INTO pauses VALUES (?, ?, ?, ?)", (folder, pause.by, pause.why, pause.at))
            what, why = ("pause", pause.why) if pause else ("resume", "")
            self._write_order(db, what, "folder", folder, by, why, at)

    def _write_order(
        self, db: sqlite3.Connection, what: str, kind: str, name: str, by: str, why: str, at: float
    ) -> None:
        values = (at, what, kind, name, by, why)
        db.execute("INSERT INTO orders (at, what, kind, name, by, why) VALUES (?, ?, ?, ?, ?, ?)", values)

    def _end_attempt(
        self, db: sqlite3.Connection, drop: Drop, outcome: str, status: int | None, why: str, at: float
    ) -> None:
        db.execute(
            "UPDATE attempts SET outcome = ?, status = ?, why = ?, ended_at = ? WHERE drop_id = ? AND n = ?",
            (outcome, status, why, at, drop.id, drop.tries),
        )


def _among(states: Sequence[State]) -> Iterator[str]:
    """What SQLite must read to see that one of the small indexes, of open or of failed drops, has all that is asked."""
    if list(states) == [State.FAILED]:
        yield "state = 'failed'"
        return
    yield f"state IN ({', '.join(repr(state.value) for state in states)})"
    if FINISHED.isdisjoint(states):
        yield "state NOT IN ('done', 'failed')"


def _drop(row: Sequence[object]) -> Drop:
    values = dict(zip(_COLUMNS, row, strict=True))
    values["state"] = State(str(values["state"]))
    values["cleared"], values["blocks"] = bool(values["cleared"]), bool(values["blocks"])
    return Drop(**values)  # type: ignore[arg-type]


class _Translated:
    """Raises what SQLite raises inside as a LedgerError with its mend. No generator: each question enters it."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case sqlite3.OperationalError():
                hint = (
                    "Is the disk full, or the state folder not writable for this user? "
                    "It goes on by itself once that is mended"
                )
                raise LedgerError(f"cannot use the ledger {self._path}: {error}", hint) from error
            case sqlite3.DatabaseError():
                raise LedgerError(f"the ledger {self._path} is damaged: {error}", _DAMAGED) from error
            case UnicodeError():  # a half of a character, which no file of text can hold
                raise LedgerError("a text cannot be written down", "Use plain characters") from error
            case OSError():
                mine = "Ask as root or as the daemon's own user; 'dropzone doctor' tells what keeps that one out"
                hint = mine if isinstance(error, PermissionError) else ""
                raise LedgerError(f"cannot use the ledger {self._path}: {error.strerror}", hint) from error
            case _:
                pass


class _Reading(_Translated):
    """The connection, for one thread at a time; a thread that has it may enter again."""

    __slots__ = ("_db", "_lock")

    def __init__(self, path: Path, db: sqlite3.Connection, lock: threading.RLock) -> None:
        super().__init__(path)
        self._db = db
        self._lock = lock

    def __enter__(self) -> sqlite3.Connection:  # type: ignore[override]
        self._lock.acquire()
        return self._db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._lock.release()
        super().__exit__(kind, error, trace)
