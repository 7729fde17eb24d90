//! The schema: brought up to date by whichever replica comes first, while the others wait.
//!
//! What must stay true: migrations run in one transaction under a lock of that transaction, so that
//! they hold behind a pooler that hands out connections by the transaction; and they only expand what
//! is there, so that a replica of the version before goes on working beside this one. What nobody
//! reads any more is dropped one version later.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::readers::Readers;
use super::statement;
use crate::store::codec::Columns as _;
use crate::store::{BackendError, Schema};

/// SQLSTATE of a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// Says who may migrate: the bytes of "flowgate".
const LOCK: i64 = 0x666c_6f77_6761_7465;

/// The oldest version of PostgreSQL that has all that is used.
const OLDEST: u32 = 140_000;

/// Brings the schema up to date, or says that it is newer than this program.
pub(crate) async fn migrate(connection: &mut PgConnection) -> Result<(), BackendError> {
    if let Some(found) = connection.server_version_num().filter(|found| *found < OLDEST) {
        let (found, needed) = (found / 10_000, OLDEST / 10_000);
        return Err(BackendError::ServerTooOld { found, needed });
    }
    let mut migrations = migrations();
    // Its own lock belongs to the session, which a pooler may share out.
    migrations.set_locking(false);
    let mut transaction = connection.begin().await.map_err(statement("begin to migrate"))?;
    // To build an index takes as long as it takes, and whoever waits for another to be done with it
    // waits that long too. The statements that the migrator prepares under names of its own must not
    // meet those of another client of the same pooler, nor be left for one.
    let prepare = format!(
        "DEALLOCATE ALL;
        SET LOCAL statement_timeout = 0;
        SET LOCAL idle_in_transaction_session_timeout = '1min';
        SET LOCAL lock_timeout = '10min';
        SELECT pg_advisory_xact_lock({LOCK})"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare))
        .execute(&mut *transaction)
        .await
        .map_err(statement("wait for another replica to migrate the store"))?;
    run(&migrations, &mut transaction).await?;
    sqlx::raw_sql("DEALLOCATE ALL")
        .execute(&mut *transaction)
        .await
        .map_err(statement("clean up after migrations"))?;
    transaction.commit().await.map_err(statement("commit the migrations"))
}

async fn run(migrations: &Migrator, connection: &mut PgConnection) -> Result<(), BackendError> {
    let known = known(migrations);
    match migrations.run(connection).await {
        Ok(()) => Ok(()),
        Err(MigrateError::VersionMissing(found)) if found > known => {
            Err(BackendError::SchemaTooNew { found, known })
        }
        Err(error) => Err(BackendError::Migrate(error)),
    }
}

fn migrations() -> Migrator {
    sqlx::migrate!("migrations/postgres")
}

fn known(migrations: &Migrator) -> i64 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Which version the schema has now.
pub(super) async fn version(readers: &Readers) -> Result<Schema, BackendError> {
    let query = || sqlx::query("SELECT max(version) FROM _sqlx_migrations WHERE success");
    let found = match readers.rows("read which version the schema has", &query).await {
        Ok(rows) => rows.first().map(|row| row.int(0)).transpose()?.flatten(),
        Err(error) if error.has_code(UNDEFINED_TABLE) => None,
        Err(error) => return Err(error),
    };
    Ok(Schema { found, known: known(&migrations()) })
}
