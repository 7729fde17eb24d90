//! The writers' statements: each takes all of its rows as one array a column.
//!
//! What must stay true: rows are locked in the order providers by name, executions by id, the counter
//! last; whoever looks for rows by anything but their names takes only those that nobody holds, so that
//! no two transactions can wait for each other. What a claim counts it counts in a statement of its
//! own, after the lock: in READ COMMITTED each statement sees what was committed before it began.

use super::rows::is_claimable;
use crate::store::codec::{provider_columns, record_columns};

pub(super) const RECORDS: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE id = ANY ($1)
    ORDER BY id
    FOR UPDATE"
);

pub(super) const RUNNING_ELSEWHERE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND owner IS DISTINCT FROM $1
    FOR UPDATE SKIP LOCKED"
);

// One pick a provider, each straight from the index in the order of the claim. Ids are picked by a
// statement of their own: an UPDATE over a subquery leaves the planner to guess how many it picks.
pub(super) const READY: &str = concat!(
    "SELECT picked.*
    FROM unnest($1::text[], $2::text[], $3::bigint[]) AS wanted (name, lane, most)
    CROSS JOIN LATERAL (
        SELECT ",
    record_columns!(),
    "
        FROM records
        WHERE ready
          AND provider = wanted.name
          AND lane = wanted.lane
        ORDER BY interrupted DESC, rank, id
        LIMIT wanted.most
        FOR UPDATE SKIP LOCKED
    ) AS picked"
);

pub(super) const CANCELLING: &str = concat!(
    "SELECT picked.*
    FROM unnest($1::text[], $2::bigint[]) AS wanted (name, most)
    CROSS JOIN LATERAL (
        SELECT ",
    record_columns!(),
    "
        FROM records
        WHERE ready
          AND interrupted
          AND cancel_requested_at IS NOT NULL
          AND provider = wanted.name
        ORDER BY id
        LIMIT wanted.most
        FOR UPDATE SKIP LOCKED
    ) AS picked"
);

pub(super) const UNMARKED: &str = concat!(
    "SELECT picked.*
    FROM unnest($1::text[]) AS wanted (name)
    CROSS JOIN LATERAL (
        SELECT ",
    record_columns!(),
    "
        FROM records
        WHERE ready
          AND wait = 0
          AND provider = wanted.name
        ORDER BY id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) AS picked"
);

pub(super) const PROMOTABLE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 0
      AND NOT ready
      AND due_at <= $1
    ORDER BY due_at
    LIMIT $2
    FOR UPDATE SKIP LOCKED"
);

pub(super) const EXPIRED: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE queue_deadline <= $1
    ORDER BY queue_deadline
    LIMIT $2
    FOR UPDATE SKIP LOCKED"
);

pub(super) const LOST: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND lease_expires_at <= $1
    LIMIT $2
    FOR UPDATE SKIP LOCKED"
);

// min() of an indexed column where the index is partial is not always answered from the index; the
// first row in its order is.
pub(super) const NEXT_DUE: &str = "
    SELECT min(at)
    FROM (
        (SELECT due_at AS at
         FROM records
         WHERE state = 0 AND NOT ready
         ORDER BY due_at
         LIMIT 1)
        UNION ALL
        (SELECT queue_deadline
         FROM records
         WHERE queue_deadline IS NOT NULL
         ORDER BY queue_deadline
         LIMIT 1)
        UNION ALL
        SELECT min(least(CASE WHEN paused THEN pause_until ELSE closed_until END, due_at))
        FROM providers
    ) AS next";

pub(super) const PROVIDERS: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE name = ANY ($1)
    ORDER BY name
    FOR UPDATE"
);

// What is looked at before the lock only keeps replicas from a provider that has nothing for any of
// them; what a claim goes by is counted after it. A provider that another transaction holds is passed
// over, so that no provider waits for another's lock; whoever claims looks at it again a moment later.
pub(super) const CLAIMABLE: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers WHERE ",
    is_claimable!(),
    " ORDER BY name FOR UPDATE SKIP LOCKED"
);

pub(super) const PROVIDERS_DUE: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE least(CASE WHEN paused THEN pause_until ELSE closed_until END, due_at) <= $1
    ORDER BY name
    FOR UPDATE SKIP LOCKED"
);

pub(super) const LOADS: &str = "
    SELECT
        name,
        (SELECT count(*) FROM records WHERE state = 1 AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready AND wait = 0 AND provider = name),
        in_force,
        limits
    FROM providers
    WHERE name = ANY ($1)";

pub(super) const PENDING: &str = "
    SELECT count(*)
    FROM (
        SELECT 1 FROM records WHERE ready AND provider = $1
        UNION ALL
        SELECT 1 FROM records WHERE state = 0 AND NOT ready AND provider = $1
        LIMIT $2
    ) AS counted";

pub(super) const REQUESTS: &str = "
    SELECT request_id, id, request_hash
    FROM executions
    WHERE request_id = ANY ($1)";

pub(super) const SPECS: &str = "
    SELECT id, provider, request_id, created_at, input, input_exact, labels::text, options
    FROM executions
    WHERE id = ANY ($1)";

// In the order of the request ids, because two replicas may insert the same ones: who comes second
// waits for the first, and neither for the other.
pub(super) const INSERT: &str = concat!(
    "WITH added AS (
        INSERT INTO executions
            (id, provider, request_id, request_hash, created_at, input, input_exact, labels, options,
             retry_of)
        SELECT
            id, provider, request_id, request_hash, created_at, input, input_exact, labels::jsonb,
            options, retry_of
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
                    $7::boolean[], $8::text[], $9::text[], $10::uuid[])
            AS new (id, provider, request_id, request_hash, created_at, input, input_exact, labels,
                    options, retry_of)
        ORDER BY request_id
    )
    INSERT INTO records (",
    record_columns!(),
    ") SELECT *
    FROM unnest($1::uuid[], $2::text[], $11::smallint[], $12::boolean[], $13::smallint[],
                $14::boolean[], $15::integer[], $16::bigint[], $17::bigint[], $18::bigint[],
                $19::uuid[], $20::bigint[], $21::integer[], $22::integer[], $23::integer[],
                $24::bigint[], $25::text[], $26::smallint[], $27::bigint[], $28::text[],
                $29::text[])"
);

pub(super) const PUT_RECORDS: &str = "
    UPDATE records SET
        state = new.state,
        ready = new.ready,
        wait = new.wait,
        interrupted = new.interrupted,
        due_at = new.due_at,
        queue_deadline = new.queue_deadline,
        token = new.token,
        owner = new.owner,
        lease_expires_at = new.lease_expires_at,
        attempts = new.attempts,
        charged = new.charged,
        crashes = new.crashes,
        cancel_requested_at = new.cancel_requested_at,
        handle = new.handle,
        rank = new.rank,
        lane = new.lane
    FROM unnest($1::uuid[], $2::smallint[], $3::boolean[], $4::smallint[], $5::boolean[],
                $6::bigint[], $7::bigint[], $8::bigint[], $9::uuid[], $10::bigint[],
                $11::integer[], $12::integer[], $13::integer[], $14::bigint[],
                $15::text[], $16::bigint[], $17::text[])
        AS new (id, state, ready, wait, interrupted, due_at, queue_deadline, token, owner,
                lease_expires_at, attempts, charged, crashes, cancel_requested_at, handle,
                rank, lane)
    WHERE records.id = new.id";

pub(super) const PUT_OUTPUTS: &str = "
    INSERT INTO outputs (id, output)
    SELECT * FROM unnest($1::uuid[], $2::text[])
    ON CONFLICT (id) DO UPDATE SET output = excluded.output";

pub(super) const CREATE_PROVIDERS: &str = concat!(
    "INSERT INTO providers (",
    provider_columns!(),
    ") SELECT *
    FROM unnest($1::text[], $2::integer[], $3::integer[], $4::boolean[], $5::text[], $6::bigint[],
                $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::bigint[],
                $12::integer[], $13::text[], $14::bigint[], $15::text[]) AS new (name)
    ORDER BY name
    ON CONFLICT (name) DO NOTHING"
);

pub(super) const PUT_PROVIDERS: &str = "
    UPDATE providers SET
        declared_max = new.declared_max,
        overriding_max = new.overriding_max,
        paused = new.paused,
        pause_reason = new.pause_reason,
        pause_until = new.pause_until,
        limits_revision = new.limits_revision,
        gate_revision = new.gate_revision,
        shortage = new.shortage,
        health = new.health,
        closed_until = new.closed_until,
        in_force = new.in_force,
        limits = new.limits,
        due_at = new.due_at,
        flow = new.flow
    FROM unnest($1::text[], $2::integer[], $3::integer[], $4::boolean[], $5::text[], $6::bigint[],
                $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::bigint[],
                $12::integer[], $13::text[], $14::bigint[], $15::text[])
        AS new (name, declared_max, overriding_max, paused, pause_reason, pause_until,
                limits_revision, gate_revision, shortage, health, closed_until, in_force, limits,
                due_at, flow)
    WHERE providers.name = new.name";

pub(super) const ADD_USAGE: &str = "
    INSERT INTO usage (provider, input_tokens, output_tokens)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
    ON CONFLICT (provider) DO UPDATE SET
        input_tokens = usage.input_tokens + excluded.input_tokens,
        output_tokens = usage.output_tokens + excluded.output_tokens";

pub(super) const PUT_WORKER: &str = "
    INSERT INTO workers (id, host, version, status, started_at, heartbeat_at, figures)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE SET
        status = excluded.status,
        heartbeat_at = excluded.heartbeat_at,
        figures = excluded.figures";

pub(super) const FORGET_WORKERS: &str = "
    DELETE FROM workers
    WHERE id IN (SELECT id FROM workers WHERE heartbeat_at < $1 FOR UPDATE SKIP LOCKED)";

// The counter is locked from here to the commit, so that revisions are dense and in the order of the
// commits. The time is taken under that lock: it never runs backwards along the log.
pub(super) const APPEND: &str = "
    WITH counted AS (
        UPDATE meta SET
            revision = revision + $1,
            submitted = submitted + $2,
            succeeded = succeeded + $3,
            failed = failed + $4,
            cancelled = cancelled + $5
        RETURNING
            revision - $1 AS before,
            coalesce($6, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) AS at
    ), added AS (
        INSERT INTO events (revision, at, execution_id, provider, kind, change)
        SELECT before + place, at, execution_id, provider, kind, change
        FROM counted
        CROSS JOIN unnest($7::uuid[], $8::text[], $9::smallint[], $10::text[])
            WITH ORDINALITY AS entry (execution_id, provider, kind, change, place)
    )
    SELECT before + 1, at, pg_current_xact_id()::text
    FROM counted";
