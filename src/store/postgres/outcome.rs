//! What became of a transaction whose COMMIT got no answer.
//!
//! What must stay true: what was committed is never run a second time, and nobody is told that it
//! failed; what was not committed is never taken for done. The database remembers the outcome of every
//! recent transaction by its number. But after a crash it gives out again the numbers of those that left
//! nothing on disk: so the number alone proves nothing, and the log is looked at for what was written.

use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};
use tokio::time::Instant;

use super::connect::Address;
use super::statement;
use crate::store::BackendError;

const DOING: &str = "ask for the outcome of a commit";
/// `invalid_parameter_value`: said of a number that was not given out yet.
const IN_THE_FUTURE: &str = "22023";

/// How long to go on asking: long enough for a database to recover from a crash.
const ASK_FOR: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// What tells a transaction that wrote to the log from all others.
#[derive(Debug)]
pub(super) struct Mark {
    /// Its number.
    pub(super) number: String,
    /// Where its first entry is in the log.
    pub(super) revision: i64,
    /// The time of its entries, in microseconds. After a crash others may have the number and the
    /// revision, but later.
    pub(super) at: i64,
}

/// What is known of a transaction.
enum Outcome {
    Committed,
    Undone,
    /// Still under way, or forgotten: only the first can change.
    Open,
}

/// Finds out whether the transaction was committed. If it was not, that is what `error` said.
pub(super) async fn settle(
    address: &Address,
    mark: &Mark,
    error: BackendError,
) -> Result<(), BackendError> {
    let until = Instant::now() + ASK_FOR;
    loop {
        match ask(address, mark).await {
            Ok(Outcome::Committed) => return Ok(()),
            Ok(Outcome::Undone) => return Err(error),
            Ok(Outcome::Open) => {}
            Err(trouble) => tracing::debug!(%trouble, "cannot ask for the outcome of a commit yet"),
        }
        if Instant::now() >= until {
            return Err(BackendError::CommitUnknown(Box::new(error)));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(address: &Address, mark: &Mark) -> Result<Outcome, BackendError> {
    let Mark { number, revision, at } = mark;
    let mut connection = address.connect().await?;
    // A standby that is not promoted yet may still learn of the commit.
    let standby = one(address, &mut connection, "SELECT pg_is_in_recovery()".to_owned()).await?;
    if standby.try_get::<bool, _>(0).map_err(statement(DOING))? {
        return Ok(Outcome::Open);
    }
    let status = format!("SELECT pg_xact_status('{number}'::xid8)");
    let status = match one(address, &mut connection, status).await {
        Ok(row) => row.try_get::<Option<String>, _>(0).map_err(statement(DOING))?,
        // It was given out once, so a crash has made the database forget it.
        Err(error) if error.has_code(IN_THE_FUTURE) => return Ok(Outcome::Undone),
        Err(error) => return Err(error),
    };
    match status.as_deref() {
        Some("aborted") => return Ok(Outcome::Undone),
        Some("committed") => {}
        _ => return Ok(Outcome::Open),
    }
    // In a statement that begins after that answer: it sees whatever was committed by then.
    let entry =
        format!("SELECT EXISTS (SELECT 1 FROM events WHERE revision = {revision} AND at = {at})");
    let row = one(address, &mut connection, entry).await?;
    let is_there = row.try_get::<bool, _>(0).map_err(statement(DOING))?;
    Ok(if is_there { Outcome::Committed } else { Outcome::Undone })
}

/// Asks in a text of its own, not a prepared statement: behind a pooler those need a transaction.
async fn one(
    address: &Address,
    connection: &mut PgConnection,
    sql: String,
) -> Result<PgRow, BackendError> {
    let ask = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(connection);
    address.answer(DOING, ask).await
}
