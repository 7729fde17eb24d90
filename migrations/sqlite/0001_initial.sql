-- Times are microseconds since the Unix epoch. Ids are UUIDs as text.

-- One row: where the log stands, and totals that would otherwise need a scan.
CREATE TABLE meta (
    id        INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch     TEXT    NOT NULL,
    revision  INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    submitted INTEGER NOT NULL,
    succeeded INTEGER NOT NULL,
    failed    INTEGER NOT NULL,
    cancelled INTEGER NOT NULL
) STRICT;

INSERT INTO meta
VALUES (1, lower(hex(randomblob(16))), 0, 0, 0, 0, 0, 0);

-- The row every claim of a provider's work is made under.
CREATE TABLE providers (
    name             TEXT    NOT NULL PRIMARY KEY,
    declared_max     INTEGER NOT NULL,
    overriding_max   INTEGER,
    paused           INTEGER NOT NULL,
    pause_reason     TEXT,
    pause_until      INTEGER,
    limits_revision  INTEGER NOT NULL,
    gate_revision    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What was submitted; written once.
CREATE TABLE executions (
    id           TEXT    NOT NULL PRIMARY KEY,
    provider     TEXT    NOT NULL,
    request_id   TEXT,
    request_hash TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    input        TEXT    NOT NULL,
    input_exact  INTEGER NOT NULL,
    labels       TEXT    NOT NULL,
    options      TEXT    NOT NULL,
    retry_of     TEXT
) STRICT;

CREATE UNIQUE INDEX executions_by_request_id
    ON executions (request_id)
    WHERE request_id IS NOT NULL;

CREATE INDEX executions_by_retry_of
    ON executions (retry_of)
    WHERE retry_of IS NOT NULL;

-- What changes state: kept narrow, because every claim and settlement rewrites it.
CREATE TABLE records (
    id                  TEXT    NOT NULL PRIMARY KEY,
    provider            TEXT    NOT NULL,
    state               INTEGER NOT NULL,
    ready               INTEGER NOT NULL,
    wait                INTEGER NOT NULL,
    interrupted         INTEGER NOT NULL,
    priority            INTEGER NOT NULL,
    due_at              INTEGER NOT NULL,
    queue_deadline      INTEGER,
    token               INTEGER NOT NULL,
    owner               TEXT,
    lease_expires_at    INTEGER,
    attempts            INTEGER NOT NULL,
    charged             INTEGER NOT NULL,
    crashes             INTEGER NOT NULL,
    cancel_requested_at INTEGER
) STRICT, WITHOUT ROWID;

-- Scheduled and finished rows are in none of these, so that a million of them cost a claim nothing.
CREATE INDEX records_ready
    ON records (provider, interrupted DESC, priority DESC, due_at, id)
    WHERE ready = 1;
CREATE INDEX records_unmarked
    ON records (provider, id)
    WHERE ready = 1 AND wait = 0;
CREATE INDEX records_not_due
    ON records (due_at, provider)
    WHERE state = 0 AND ready = 0;
CREATE INDEX records_queue_deadline
    ON records (queue_deadline)
    WHERE queue_deadline IS NOT NULL;
CREATE INDEX records_running
    ON records (provider, lease_expires_at)
    WHERE state = 1;

-- The newest result of an execution.
CREATE TABLE outputs (
    id     TEXT NOT NULL PRIMARY KEY,
    output TEXT NOT NULL
) STRICT;

-- The log. Revisions are dense; execution_id is NULL where the provider itself changed.
-- kind: 0 an execution changed, 1 a piece of its output, 2 limits, 3 a gate.
CREATE TABLE events (
    revision     INTEGER NOT NULL PRIMARY KEY,
    execution_id TEXT,
    provider     TEXT    NOT NULL,
    kind         INTEGER NOT NULL,
    at           INTEGER NOT NULL,
    change       TEXT    NOT NULL
) STRICT;

CREATE INDEX events_by_execution
    ON events (execution_id, revision)
    WHERE execution_id IS NOT NULL;
CREATE INDEX events_by_provider
    ON events (provider, kind, revision)
    WHERE execution_id IS NULL;

-- Who claims; a row per boot of a worker.
CREATE TABLE workers (
    id           TEXT    NOT NULL PRIMARY KEY,
    host         TEXT    NOT NULL,
    version      TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    started_at   INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    figures      TEXT    NOT NULL
) STRICT;
