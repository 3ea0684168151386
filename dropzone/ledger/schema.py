"""The tables of the SQLite ledger and their indexes, version by version. Knows no question that is asked of them."""

from __future__ import annotations

# Each entry brings the schema one version further; PRAGMA user_version says how far a file is. Never edit an old one.
MIGRATIONS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

    -- The current row of each drop; `seq` is the order of the claims, which is the order of sending.
    CREATE TABLE drops (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        folder TEXT NOT NULL, name BLOB NOT NULL, account TEXT NOT NULL, segment_id INTEGER NOT NULL,
        lane TEXT NOT NULL, base TEXT NOT NULL, settings TEXT NOT NULL, size INTEGER NOT NULL,
        claimed_at REAL NOT NULL, state TEXT NOT NULL, due_at REAL NOT NULL, changed_at REAL NOT NULL,
        tries INTEGER NOT NULL, attempts INTEGER NOT NULL, deferrals INTEGER NOT NULL, faults INTEGER NOT NULL,
        rows INTEGER, digest TEXT, reason TEXT NOT NULL, guard TEXT NOT NULL, cleared INTEGER NOT NULL,
        verdict_at REAL, path TEXT
    );
    CREATE INDEX drops_open ON drops (seq) WHERE state NOT IN ('done', 'failed');
    CREATE INDEX drops_state ON drops (folder, state);

    -- What happened, never changed.
    CREATE TABLE events (
        n INTEGER PRIMARY KEY, drop_id TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL
    );
    CREATE INDEX events_drop ON events (drop_id, n);
    CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;

    CREATE TABLE attempts (
        drop_id TEXT NOT NULL, n INTEGER NOT NULL, started_at REAL NOT NULL, digest TEXT NOT NULL,
        size INTEGER NOT NULL, outcome TEXT NOT NULL DEFAULT '', status INTEGER, why TEXT NOT NULL DEFAULT '',
        ended_at REAL, PRIMARY KEY (drop_id, n)
    ) WITHOUT ROWID;

    CREATE TABLE segments (
        account TEXT NOT NULL, segment_id INTEGER NOT NULL, folder TEXT NOT NULL,
        drop_id TEXT NOT NULL, rows INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (account, segment_id, folder)
    ) WITHOUT ROWID;

    CREATE TABLE accounts (
        name TEXT PRIMARY KEY, wait_until REAL NOT NULL DEFAULT 0, why TEXT NOT NULL DEFAULT '', accepted_at REAL
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE drops ADD COLUMN blocks INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE drops ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX drops_accepted ON drops (account, segment_id, digest)
        WHERE state IN ('accepted', 'done') AND guard = '';
    CREATE INDEX drops_claimed ON drops (folder, claimed_at);
    CREATE INDEX drops_name ON drops (folder, name);

    CREATE TABLE conditions (
        name TEXT PRIMARY KEY, condition TEXT NOT NULL, why TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
        noted_at REAL NOT NULL, failures INTEGER NOT NULL, refusals INTEGER NOT NULL, probes INTEGER NOT NULL,
        accepted_at REAL
    ) WITHOUT ROWID;
    INSERT INTO conditions SELECT name, iif(wait_until > 0, 'waiting', 'ready'), why, 0, wait_until, 0, 0, 0, 0,
        accepted_at FROM accounts;
    DROP TABLE accounts;
    ALTER TABLE conditions RENAME TO accounts;

    CREATE TABLE pauses (
        folder TEXT PRIMARY KEY, by TEXT NOT NULL, why TEXT NOT NULL, at REAL NOT NULL
    ) WITHOUT ROWID;
    -- What people ordered for accounts and folders; orders for drops are events of the drop.
    CREATE TABLE orders (
        n INTEGER PRIMARY KEY, at REAL NOT NULL, what TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
        by TEXT NOT NULL, why TEXT NOT NULL
    );
    """,
    """
    -- What failed within a day is counted at every `status`: 25 ms for 10,000 that failed (seen), a second after years.
    CREATE INDEX drops_failed ON drops (folder, verdict_at) WHERE state = 'failed';
    """,
    """
    -- What could be tried again, in the order of the claims: a few drops, among all that were ever finished.
    CREATE INDEX drops_to_retry ON drops (seq) WHERE state = 'failed';
    """,
)
