//! How replicas wake each other: LISTEN and NOTIFY, and the poll that finds what they lose.
//!
//! What must stay true: a ring is a transaction of its own and carries no data, because NOTIFY inside
//! the hot transactions would make them wait for each other; and whoever waits for one is never left
//! waiting for long after the poll, whatever is broken.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::connect::{Address, Listen, PostgresOptions, parse, within};
use super::statement;
use crate::store::{BackendError, Bell, with_sources};

type Result<T> = std::result::Result<T, BackendError>;

const CHANNEL: &str = "flowgate";
/// How long to wait before another try to LISTEN.
const RETRY: Duration = Duration::from_secs(1);
/// What a try takes at the longest, if the poll is shorter.
const SHORTEST_TRY: Duration = Duration::from_millis(250);

/// This replica's bell.
pub(super) struct PgBell {
    address: Arc<Address>,
    /// `None`: only by polling.
    listen_at: Option<PgConnectOptions>,
    poll: Duration,
    ears: Mutex<Ears>,
    /// Rings are sent over a connection of their own, so that they wait for no transaction.
    hand: Mutex<Option<PgConnection>>,
}

struct Ears {
    listener: Option<PgListener>,
    retry_at: Instant,
    /// When it was last said that LISTEN does not work.
    complained: Option<Instant>,
}

impl PgBell {
    pub(super) fn new(address: Arc<Address>, options: &PostgresOptions) -> Result<Self> {
        let listen_at = match &options.listen {
            Listen::Direct => Some(address.options().clone()),
            Listen::At(url) => Some(parse(url)?),
            Listen::Never => None,
        };
        let ears = Ears { listener: None, retry_at: Instant::now(), complained: None };
        Ok(Self {
            address,
            listen_at,
            poll: options.poll_interval,
            ears: Mutex::new(ears),
            hand: Mutex::default(),
        })
    }

    async fn listen(&self, at: &PgConnectOptions) -> Result<PgListener> {
        const DOING: &str = "listen for other replicas";
        // The listener wants a pool to make its connection.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.address.patience.connect)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(at.clone());
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        // Whoever waits to hear does not look meanwhile.
        within(self.poll.clamp(SHORTEST_TRY, RETRY), DOING, listening).await
    }

    /// Makes it possible to hear if it is not and it is time to try; `true` if it was not before.
    async fn open_ears(&self, ears: &mut Ears) -> Result<bool> {
        let Some(at) = &self.listen_at else { return Ok(false) };
        if ears.listener.is_some() || Instant::now() < ears.retry_at {
            return Ok(false);
        }
        ears.retry_at = Instant::now() + RETRY;
        ears.listener = Some(self.listen(at).await?);
        if ears.complained.take().is_some() {
            tracing::info!("Hears of other replicas at once again");
        }
        Ok(true)
    }

    /// Waits for a ring; `Err` if the connection broke.
    async fn hear(ears: &mut Ears) -> Result<()> {
        let Some(listener) = &mut ears.listener else { return std::future::pending().await };
        match listener.try_recv().await {
            Ok(Some(_)) => {
                // Whatever else was rung meanwhile is one and the same.
                while listener.next_buffered().is_some() {}
                Ok(())
            }
            Ok(None) => {
                ears.listener = None;
                Ok(())
            }
            Err(error) => {
                ears.listener = None;
                Err(statement("hear of other replicas")(error))
            }
        }
    }

    /// Says once in a while that rings are not heard.
    fn complain(&self, ears: &mut Ears, error: &BackendError) {
        let long_ago = |then: Instant| then.elapsed() > Duration::from_secs(60);
        if ears.complained.is_none_or(long_ago) {
            ears.complained = Some(Instant::now());
            tracing::warn!(
                error = %with_sources(error),
                "cannot hear of other replicas at once, looks every {:?} instead", self.poll
            );
        }
    }

    async fn ring_over(&self, connection: &mut PgConnection) -> Result<()> {
        let ring = sqlx::raw_sql("NOTIFY flowgate").execute(connection);
        self.address.short_answer("tell other replicas", ring).await.map(drop)
    }

    /// A network can lose a connection without a word: one that was silent is asked.
    async fn still_listening(&self, ears: &mut Ears) -> Result<()> {
        const DOING: &str = "ask whether the connection that listens is alive";
        let Some(listener) = &mut ears.listener else { return Ok(()) };
        let patience = self.poll.min(RETRY);
        let alive = within(patience, DOING, sqlx::raw_sql("SELECT 1").execute(&mut *listener));
        let alive = alive.await.map(drop);
        if alive.is_err() {
            ears.listener = None;
        }
        alive
    }
}

#[async_trait]
impl Bell for PgBell {
    async fn ring(&self) -> Result<()> {
        let mut hand = self.hand.lock().await;
        if let Some(mut connection) = hand.take()
            && self.ring_over(&mut connection).await.is_ok()
        {
            *hand = Some(connection);
            return Ok(());
        }
        // It was lost while it was idle: the next one may be sound.
        let mut connection = self.address.connect().await?;
        self.ring_over(&mut connection).await?;
        *hand = Some(connection);
        Ok(())
    }

    async fn heard(&self) {
        let mut ears = self.ears.lock().await;
        let began = Instant::now();
        match self.open_ears(&mut ears).await {
            // What was rung before is found by looking.
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => self.complain(&mut ears, &error),
        }
        let heard = match timeout_at(began + self.poll, Self::hear(&mut ears)).await {
            Ok(heard) => heard,
            Err(_) => self.still_listening(&mut ears).await,
        };
        if let Err(error) = heard {
            self.complain(&mut ears, &error);
        }
    }
}
