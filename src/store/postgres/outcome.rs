//! What became of a transaction whose COMMIT got no answer.
//!
//! What must stay true: what was committed is never run a second time, and nobody is told that it
//! failed. The database remembers the outcome of every recent transaction, over a crash too.

use std::time::Duration;

use sqlx::Row as _;
use tokio::time::Instant;

use super::connect::Address;
use super::statement;
use crate::store::BackendError;

/// How long to go on asking: long enough for a database to recover from a crash.
const ASK_FOR: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// Finds out whether the transaction of this number was committed. If it was not, that is what
/// `error` said.
pub(super) async fn settle(
    address: &Address,
    number: &str,
    error: BackendError,
) -> Result<(), BackendError> {
    let until = Instant::now() + ASK_FOR;
    loop {
        match ask(address, number).await {
            Ok(Some(status)) if status == "committed" => return Ok(()),
            Ok(Some(status)) if status == "aborted" => return Err(error),
            // Still under way, or forgotten: only the first can change.
            Ok(_) => {}
            Err(trouble) => tracing::debug!(%trouble, "cannot ask for the outcome of a commit yet"),
        }
        if Instant::now() >= until {
            return Err(BackendError::CommitUnknown(Box::new(error)));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(address: &Address, number: &str) -> Result<Option<String>, BackendError> {
    const DOING: &str = "ask for the outcome of a commit";
    let mut connection = address.connect().await?;
    // In a text of its own, not a prepared statement: behind a pooler those need a transaction.
    let ask = format!("SELECT pg_xact_status('{number}'::xid8)");
    let ask = sqlx::raw_sql(sqlx::AssertSqlSafe(ask));
    let row = address.answer(DOING, ask.fetch_one(&mut connection)).await?;
    row.try_get(0).map_err(statement(DOING))
}
