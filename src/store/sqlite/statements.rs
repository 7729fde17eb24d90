//! The writer's statements: each takes all of its rows as one JSON parameter.

use crate::store::codec::{provider_columns, record_columns, spec_columns};

pub(super) const RECORDS: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE id IN (SELECT value FROM json_each(?1))"
);

pub(super) const RUNNING_ELSEWHERE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND owner IS NOT ?1 ->> 0"
);

pub(super) const READY: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE ready = 1
      AND provider = ?1 ->> 0
      AND lane = ?1 ->> 1
    ORDER BY interrupted DESC, rank, id
    LIMIT ?1 ->> 2"
);

pub(super) const CANCELLING: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE ready = 1
      AND interrupted = 1
      AND cancel_requested_at IS NOT NULL
      AND provider = ?1 ->> 0
    ORDER BY id
    LIMIT ?1 ->> 1"
);

pub(super) const UNMARKED: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE ready = 1
      AND wait = 0
      AND provider = ?1 ->> 0
    ORDER BY id
    LIMIT ?1 ->> 1"
);

pub(super) const PROMOTABLE: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 0
      AND ready = 0
      AND due_at <= ?1 ->> 0
    ORDER BY due_at
    LIMIT ?1 ->> 1"
);

pub(super) const EXPIRED: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE queue_deadline <= ?1 ->> 0
    ORDER BY queue_deadline
    LIMIT ?1 ->> 1"
);

pub(super) const LOST: &str = concat!(
    "SELECT ",
    record_columns!(),
    " FROM records
    WHERE state = 1
      AND lease_expires_at <= ?1 ->> 0
    LIMIT ?1 ->> 1"
);

pub(super) const NEXT_DUE: &str = "
    SELECT min(at)
    FROM (
        SELECT min(due_at) AS at FROM records WHERE state = 0 AND ready = 0
        UNION ALL
        SELECT min(queue_deadline) FROM records WHERE queue_deadline IS NOT NULL
        UNION ALL
        SELECT min(CASE WHEN paused = 1 THEN pause_until ELSE closed_until END) FROM providers
        UNION ALL
        SELECT min(due_at) FROM providers
    )";

pub(super) const PROVIDERS: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE name IN (SELECT value FROM json_each(?1))
    ORDER BY name"
);

pub(super) const PROVIDERS_DUE: &str = concat!(
    "SELECT ",
    provider_columns!(),
    " FROM providers
    WHERE CASE WHEN paused = 1 THEN pause_until ELSE closed_until END <= ?1 ->> 0
       OR due_at <= ?1 ->> 0
    ORDER BY name"
);

pub(super) const LOADS: &str = "
    SELECT
        name,
        (SELECT count(*) FROM records WHERE state = 1 AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready = 1 AND provider = name),
        EXISTS (SELECT 1 FROM records WHERE ready = 1 AND wait = 0 AND provider = name),
        in_force,
        limits
    FROM providers
    WHERE name IN (SELECT value FROM json_each(?1))";

pub(super) const PENDING: &str = "
    SELECT count(*)
    FROM (
        SELECT 1 FROM records WHERE ready = 1 AND provider = ?1 ->> 0
        UNION ALL
        SELECT 1 FROM records WHERE state = 0 AND ready = 0 AND provider = ?1 ->> 0
        LIMIT ?1 ->> 1
    )";

pub(super) const REQUESTS: &str = "
    SELECT request_id, id, request_hash
    FROM executions
    WHERE request_id IN (SELECT value FROM json_each(?1))";

pub(super) const SPECS: &str = concat!(
    "SELECT ",
    spec_columns!(),
    " FROM executions
    WHERE id IN (SELECT value FROM json_each(?1))"
);

pub(super) const INSERT_EXECUTIONS: &str = "
    INSERT INTO executions
        (id, provider, request_id, request_hash, created_at, input, input_exact, labels, options,
         retry_of)
    SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9
    FROM json_each(?1)";

// `WHERE true` tells the parser that ON belongs to the conflict clause.
pub(super) const PUT_RECORDS: &str = concat!(
    "INSERT INTO records (",
    record_columns!(),
    ") SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
        value ->> 13, value ->> 14, value ->> '$[15][0]', value ->> '$[15][1]',
        value ->> '$[15][2]', value ->> '$[15][3]', value ->> '$[15][4]', value ->> '$[15][5]'
    FROM json_each(?1)
    WHERE true
    ON CONFLICT (id) DO UPDATE SET
        state = excluded.state,
        ready = excluded.ready,
        wait = excluded.wait,
        interrupted = excluded.interrupted,
        due_at = excluded.due_at,
        queue_deadline = excluded.queue_deadline,
        token = excluded.token,
        owner = excluded.owner,
        lease_expires_at = excluded.lease_expires_at,
        attempts = excluded.attempts,
        charged = excluded.charged,
        crashes = excluded.crashes,
        cancel_requested_at = excluded.cancel_requested_at,
        handle = excluded.handle,
        rank = excluded.rank,
        lane = excluded.lane"
);

pub(super) const PUT_OUTPUTS: &str = "
    INSERT INTO outputs (id, output)
    SELECT value ->> 0, value ->> 1
    FROM json_each(?1)
    WHERE true
    ON CONFLICT (id) DO UPDATE SET output = excluded.output";

pub(super) const CREATE_PROVIDERS: &str = concat!(
    "INSERT OR IGNORE INTO providers (",
    provider_columns!(),
    ") SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
        value ->> 13, value ->> 14
    FROM json_each(?1)"
);

pub(super) const PUT_PROVIDERS: &str = concat!(
    "INSERT OR REPLACE INTO providers (",
    provider_columns!(),
    ") SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12,
        value ->> 13, value ->> 14
    FROM json_each(?1)"
);

pub(super) const ADD_USAGE: &str = "
    INSERT INTO usage (provider, input_tokens, output_tokens)
    SELECT value ->> 0, value ->> 1, value ->> 2
    FROM json_each(?1)
    WHERE true
    ON CONFLICT (provider) DO UPDATE SET
        input_tokens = input_tokens + excluded.input_tokens,
        output_tokens = output_tokens + excluded.output_tokens";

pub(super) const PUT_WORKER: &str = "
    INSERT OR REPLACE INTO workers
        (id, host, version, status, started_at, heartbeat_at, figures)
    SELECT
        value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
    FROM json_each(?1)";

pub(super) const FORGET_WORKERS: &str = "
    DELETE FROM workers
    WHERE heartbeat_at < (SELECT value FROM json_each(?1))";

pub(super) const COUNT_UP: &str = "
    UPDATE meta SET
        revision = revision + (?1 ->> 0),
        submitted = submitted + (?1 ->> 1),
        succeeded = succeeded + (?1 ->> 2),
        failed = failed + (?1 ->> 3),
        cancelled = cancelled + (?1 ->> 4)
    RETURNING revision";

pub(super) const APPEND: &str = "
    INSERT INTO events (revision, at, execution_id, provider, kind, change)
    SELECT
        ?2 + key, ?3, value ->> 0, value ->> 1, value ->> 2, value ->> 3
    FROM json_each(?1)";
