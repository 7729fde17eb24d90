-- Times are microseconds since the Unix epoch. The tables and columns are those of the SQLite store.
--
-- Rows of the hot tables are rewritten several times in an execution's life: room in their pages keeps
-- an update close to its row, and autovacuum goes by the number of dead rows, not by a share of a table
-- that may hold millions of finished ones.

-- One row: where the log stands, and totals that would otherwise need a scan.
CREATE TABLE meta (
    id        smallint NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch     text     NOT NULL,
    revision  bigint   NOT NULL,
    compacted bigint   NOT NULL,
    submitted bigint   NOT NULL,
    succeeded bigint   NOT NULL,
    failed    bigint   NOT NULL,
    cancelled bigint   NOT NULL
) WITH (
    fillfactor = 10,
    autovacuum_vacuum_threshold = 200,
    autovacuum_vacuum_scale_factor = 0
);

INSERT INTO meta
VALUES (1, replace(gen_random_uuid()::text, '-', ''), 0, 0, 0, 0, 0, 0);

-- The row every claim of a provider's work is made under.
CREATE TABLE providers (
    name             text COLLATE "C" NOT NULL PRIMARY KEY,
    declared_max     integer          NOT NULL,
    overriding_max   integer,
    paused           boolean          NOT NULL,
    pause_reason     text,
    pause_until      bigint,
    limits_revision  bigint           NOT NULL,
    gate_revision    bigint           NOT NULL
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 200,
    autovacuum_vacuum_scale_factor = 0
);

-- What was submitted; written once.
CREATE TABLE executions (
    id           uuid             NOT NULL PRIMARY KEY,
    provider     text COLLATE "C" NOT NULL,
    request_id   text COLLATE "C",
    request_hash text             NOT NULL,
    created_at   bigint           NOT NULL,
    input        text             NOT NULL,
    input_exact  boolean          NOT NULL,
    labels       jsonb            NOT NULL,
    options      text             NOT NULL,
    retry_of     uuid
);

CREATE UNIQUE INDEX executions_by_request_id
    ON executions (request_id)
    WHERE request_id IS NOT NULL;

CREATE INDEX executions_by_retry_of
    ON executions (retry_of)
    WHERE retry_of IS NOT NULL;

-- What changes state: kept narrow, because every claim and settlement rewrites it.
CREATE TABLE records (
    id                  uuid             NOT NULL PRIMARY KEY,
    provider            text COLLATE "C" NOT NULL,
    state               smallint         NOT NULL,
    ready               boolean          NOT NULL,
    wait                smallint         NOT NULL,
    interrupted         boolean          NOT NULL,
    priority            integer          NOT NULL,
    due_at              bigint           NOT NULL,
    queue_deadline      bigint,
    token               bigint           NOT NULL,
    owner               uuid,
    lease_expires_at    bigint,
    attempts            integer          NOT NULL,
    charged             integer          NOT NULL,
    crashes             integer          NOT NULL,
    cancel_requested_at bigint
) WITH (
    fillfactor = 70,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_threshold = 50000,
    autovacuum_analyze_scale_factor = 0
);

-- Scheduled and finished rows are in none of these, so that a million of them cost a claim nothing.
CREATE INDEX records_ready
    ON records (provider, interrupted DESC, priority DESC, due_at, id)
    WHERE ready;
CREATE INDEX records_unmarked
    ON records (provider, id)
    WHERE ready AND wait = 0;
CREATE INDEX records_not_due
    ON records (due_at, provider)
    WHERE state = 0 AND NOT ready;
CREATE INDEX records_queue_deadline
    ON records (queue_deadline)
    WHERE queue_deadline IS NOT NULL;
CREATE INDEX records_running
    ON records (provider, lease_expires_at)
    WHERE state = 1;

-- The newest result of an execution.
CREATE TABLE outputs (
    id     uuid NOT NULL PRIMARY KEY,
    output text NOT NULL
);

-- The log. Revisions are dense; execution_id is NULL where the provider itself changed.
-- kind: 0 an execution changed, 1 a piece of its output, 2 limits, 3 a gate.
CREATE TABLE events (
    revision     bigint           NOT NULL PRIMARY KEY,
    execution_id uuid,
    provider     text COLLATE "C" NOT NULL,
    kind         smallint         NOT NULL,
    at           bigint           NOT NULL,
    change       text             NOT NULL
);

CREATE INDEX events_by_execution
    ON events (execution_id, revision)
    WHERE execution_id IS NOT NULL;
CREATE INDEX events_by_provider
    ON events (provider, kind, revision)
    WHERE execution_id IS NULL;

-- Who claims; a row per boot of a worker.
CREATE TABLE workers (
    id           uuid   NOT NULL PRIMARY KEY,
    host         text   NOT NULL,
    version      text   NOT NULL,
    status       text   NOT NULL,
    started_at   bigint NOT NULL,
    heartbeat_at bigint NOT NULL,
    figures      text   NOT NULL
) WITH (
    fillfactor = 50
);
