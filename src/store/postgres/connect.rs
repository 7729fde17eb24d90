//! How connections are made and bounded.
//!
//! What must stay true: no wait on the database is without an end, on its side or on this one; nothing
//! relies on the state of a session, because a pooler may hand out another with every transaction; and
//! no error repeats the URL, which may hold a password.

use std::future::Future;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Postgres};
use tracing::Instrument;

use super::statement;
use crate::store::{BackendError, StoreKind, span};

/// How a replica uses the database.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Where it is: `postgres://…`, with libpq's parameters.
    pub url: String,
    /// Where to hear of other replicas.
    pub listen: Listen,
    /// The lease of a claim, on which every time limit here depends.
    pub lease: Duration,
    /// How often to look for what other replicas did, though nobody told.
    pub poll_interval: Duration,
    /// Whose clock counts.
    pub clock: ClockSource,
}

/// Where to hear of other replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Where the store is: the URL leads to the database itself.
    Direct,
    /// At this URL: the store's leads to a pooler.
    At(String),
    /// Nowhere, only by polling: the store's URL leads to a pooler.
    Never,
}

/// Whose clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// The database's, the same for all replicas.
    Database,
    /// The one handed to the store: for tests that drive it.
    Injected,
}

impl PostgresOptions {
    /// The defaults for a database.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            listen: Listen::Direct,
            lease: Duration::from_secs(30),
            poll_interval: Duration::from_secs(2),
            clock: ClockSource::Database,
        }
    }
}

/// How long anything may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// A statement waits for a row that another transaction holds.
    lock: Duration,
    /// A statement runs.
    statement: Duration,
    /// A transaction holds its locks while its client is silent: a frozen replica must not keep the
    /// others from renewing what they hold.
    idle: Duration,
    /// This side waits for an answer: beyond it the connection is given up.
    pub(super) answer: Duration,
    /// The same where work is lost if it takes longer, and for what takes no time if the connection
    /// is sound: beyond it another connection is tried.
    pub(super) short_answer: Duration,
    /// A connection is made.
    pub(super) connect: Duration,
}

impl Patience {
    fn with(lease: Duration) -> Self {
        let sixth = (lease / 6).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let statement = lease.clamp(Duration::from_secs(5), Duration::from_secs(30));
        Self {
            lock: sixth,
            statement,
            idle: sixth,
            answer: statement + Duration::from_secs(2),
            short_answer: sixth + Duration::from_millis(500),
            connect: Duration::from_secs(5),
        }
    }
}

/// The way to one database.
#[derive(Clone)]
pub(super) struct Address {
    options: PgConnectOptions,
    /// Begins a transaction that writes, and tells the time.
    begin: Arc<str>,
    /// Begins a transaction that only reads.
    begin_reading: Arc<str>,
    /// Whether a pooler may stand between, so that even a read needs a transaction.
    pub(super) pooled: bool,
    /// Whether statements may be prepared under a name, to be planned once for many uses. A pooler that
    /// hands out connections by the transaction loses them, unless it is made to keep them.
    named_statements: bool,
    pub(super) patience: Patience,
}

impl Address {
    pub(super) fn new(options: &PostgresOptions) -> Result<Self, BackendError> {
        let mut connect = parse(&options.url)?;
        let pooled = options.listen != Listen::Direct;
        let named_statements = !pooled || options.url.contains("statement-cache-capacity=");
        let patience = Patience::with(options.lease);
        let Patience { lock, statement, idle, .. } = patience;
        let [lock, statement, idle] = [lock, statement, idle].map(|time| time.as_millis());
        if !pooled {
            // For what is read outside a transaction. A pooler would refuse them here.
            connect = connect.options([
                ("statement_timeout", statement.to_string()),
                ("lock_timeout", lock.to_string()),
                ("idle_in_transaction_session_timeout", idle.to_string()),
            ]);
        }
        // Plans must not depend on what the planner believes of tables whose few hot rows lie among
        // millions of cold ones: everything hot has an index made for it.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED;
            SET LOCAL lock_timeout = {lock};
            SET LOCAL statement_timeout = {statement};
            SET LOCAL idle_in_transaction_session_timeout = {idle};
            SET LOCAL tcp_user_timeout = {idle};
            SET LOCAL plan_cache_mode = force_generic_plan;
            SET LOCAL jit = off;
            SET LOCAL enable_seqscan = off;
            SET LOCAL enable_hashjoin = off;
            SET LOCAL enable_mergejoin = off;
            SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        );
        let begin_reading = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
            SET LOCAL statement_timeout = {statement};
            SET LOCAL idle_in_transaction_session_timeout = 60000;
            SET LOCAL jit = off"
        );
        let (begin, begin_reading) = (begin.into(), begin_reading.into());
        Ok(Self { options: connect, begin, begin_reading, pooled, named_statements, patience })
    }

    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn begin(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.begin))
    }

    pub(super) fn begin_reading(&self) -> AssertSqlSafe<Arc<str>> {
        AssertSqlSafe(Arc::clone(&self.begin_reading))
    }

    /// A statement as it can be sent here.
    pub(super) fn prepared<'q>(
        &self,
        query: Query<'q, Postgres, PgArguments>,
    ) -> Query<'q, Postgres, PgArguments> {
        query.persistent(self.named_statements)
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, BackendError> {
        connect(&self.options, self.patience.connect).await
    }

    /// An answer of the database, if it comes in time. Whoever gives up gives up the connection too.
    pub(super) async fn answer<T>(
        &self,
        doing: &'static str,
        answer: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, BackendError> {
        within(self.patience.answer, doing, answer).await
    }

    /// The same for what must not take long.
    pub(super) async fn short_answer<T>(
        &self,
        doing: &'static str,
        answer: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T, BackendError> {
        within(self.patience.short_answer, doing, answer).await
    }
}

/// An answer of the database, if it comes in time.
pub(super) async fn within<T>(
    patience: Duration,
    doing: &'static str,
    answer: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, BackendError> {
    let answer = answer.instrument(span::statement(StoreKind::Postgres, doing));
    match tokio::time::timeout(patience, answer).await {
        Ok(answer) => answer.map_err(statement(doing)),
        Err(_) => Err(BackendError::NoAnswer(doing)),
    }
}

/// Reads a URL. The error does not repeat it.
pub(super) fn parse(url: &str) -> Result<PgConnectOptions, BackendError> {
    let options = PgConnectOptions::from_str(url).map_err(statement("read the store's URL"))?;
    Ok(options
        .application_name("flowgate")
        // A start-up parameter that poolers refuse, and that no value here needs.
        .extra_float_digits(None)
        .disable_statement_logging())
}

pub(super) async fn connect(
    options: &PgConnectOptions,
    patience: Duration,
) -> Result<PgConnection, BackendError> {
    const DOING: &str = "connect to the store";
    match tokio::time::timeout(patience, options.connect()).await {
        Ok(connection) => connection.map_err(statement(DOING)),
        Err(_) => Err(BackendError::NoAnswer(DOING)),
    }
}
