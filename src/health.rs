//! Whether the server can do its work: the one judgement that `/readyz`, `grpc.health.v1` and metrics tell.
//!
//! What must stay true: whoever asks is answered from what was found last and waits for nothing; what is found
//! to be wrong is told within 5 s of its beginning, and that it is well again by itself; a process is stuck only if its own
//! clockwork stands still, whatever becomes of the store.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::engine::{DispatcherState, Engine};
use crate::shutdown::Phase;
use crate::store::{Store, StoreError, with_sources};

/// How often the dispatcher is looked at, which costs nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the store is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long the store may take to answer.
const STORE_WAIT: Duration = Duration::from_millis(800);
/// How many times in a row the store may fail to answer: one is a connection that broke, two are an outage.
const MISSES: u32 = 2;
/// How long the dispatcher may be silent. With the longest that it looks at the store by itself, 2 s by default,
/// this is within the 5 s.
const SILENCE: Duration = Duration::from_secs(2);
/// How long it may be silent while it waits its turn at a writer that gets much done: that is load, and no trouble.
const LOADED_SILENCE: Duration = Duration::from_secs(30);
/// How often the clockwork of the process beats, and how long it may stand still.
const BEAT: Duration = Duration::from_secs(1);
const STUCK: Duration = Duration::from_secs(30);

/// What is looked at, with what is wrong with it. Tells no secrets and no addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The store answers.
    pub store: Option<String>,
    /// The store's schema has what this build needs.
    pub migrations: Option<String>,
    /// The dispatcher claims.
    pub dispatcher: Option<String>,
}

impl Readiness {
    /// Whether nothing is wrong.
    pub fn is_ready(&self) -> bool {
        self.checks().iter().all(|(_, wrong)| wrong.is_none())
    }

    /// Every check by name, with what is wrong.
    pub fn checks(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("store", self.store.as_deref()),
            ("migrations", self.migrations.as_deref()),
            ("dispatcher", self.dispatcher.as_deref()),
        ]
    }
}

/// What is wrong, in one line.
impl Display for Readiness {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let wrong = self.checks().into_iter().filter_map(|(name, wrong)| Some((name, wrong?)));
        for (at, (name, wrong)) in wrong.enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{name}: {wrong}")?;
        }
        Ok(())
    }
}

/// The condition that a server is in; clones share it.
#[derive(Debug, Clone)]
pub struct Condition {
    phases: watch::Receiver<Phase>,
    readiness: Arc<watch::Sender<Readiness>>,
    heart: Arc<Heart>,
}

impl Condition {
    /// That of a server that has just come up: nothing is wrong until something is found.
    pub fn new(phases: watch::Receiver<Phase>) -> Self {
        Self { phases, readiness: Arc::default(), heart: Arc::default() }
    }

    /// Where the server is in its life.
    pub fn phase(&self) -> Phase {
        *self.phases.borrow()
    }

    /// What was found last, and whatever is found later.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Whether work is taken.
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Serving && self.readiness.borrow().is_ready()
    }

    /// Waits until the phase or what is found has changed. To be called with the answer of the call before.
    pub async fn changed(&self, mut seen: Seen) -> Seen {
        tokio::select! {
            // Whoever holds the other end is gone only with the server.
            Ok(()) = seen.phases.changed() => {}
            Ok(()) = seen.readiness.changed() => {}
            else => std::future::pending().await,
        }
        seen
    }

    /// What [`Condition::changed`] starts from: everything up to now is seen.
    pub fn seen(&self) -> Seen {
        Seen { phases: self.phases.clone(), readiness: self.readiness() }
    }

    /// Whether the process does nothing any more.
    pub fn is_stuck(&self) -> bool {
        self.heart.is_stuck(Instant::now())
    }

    /// Looks after the server until it shuts down.
    pub async fn monitor(self, store: Store, engine: Engine) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ill_since: Option<Instant> = None;
        let asked = self.readiness();
        let asking = self.ask_for_ever(&store, engine.epoch());
        let looking = async {
            loop {
                looks.tick().await;
                if matches!(self.phase(), Phase::Draining(_)) {
                    return;
                }
                self.readiness.send_if_modified(|found| {
                    let was_wrong = found.dispatcher.is_some();
                    let wrong = dispatcher_trouble(engine.dispatcher(), store.stall(), was_wrong);
                    let changed = found.dispatcher != wrong;
                    found.dispatcher.clone_from(&wrong);
                    changed
                });
                tell(&asked.borrow(), &mut ill_since);
            }
        };
        tokio::select! {
            () = looking => {}
            () = asking => {}
        }
    }

    async fn ask_for_ever(&self, store: &Store, epoch: &str) {
        let mut asks = tokio::time::interval(ASK_EVERY);
        asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut misses = 0;
        loop {
            asks.tick().await;
            let answer = tokio::time::timeout(STORE_WAIT, ask(store, epoch)).await;
            let found = answer.unwrap_or_else(|_| Answer::Missed("does not answer".to_owned()));
            misses = if matches!(found, Answer::Missed(_)) { misses + 1 } else { 0 };
            self.readiness.send_if_modified(|readiness| {
                let (store, migrations) = match found {
                    Answer::Missed(_) if misses < MISSES => return false,
                    // Of its schema nothing is known.
                    Answer::Missed(why) => (Some(why), None),
                    Answer::Of(other) => (Some(other), None),
                    Answer::Schema(wrong) => (None, wrong),
                };
                let changed = (&readiness.store, &readiness.migrations) != (&store, &migrations);
                (readiness.store, readiness.migrations) = (store, migrations);
                changed
            });
        }
    }

    /// Keeps the clockwork going that tells a stuck process from others.
    pub async fn beat(self) {
        loop {
            self.heart.beat(Instant::now());
            tokio::time::sleep(BEAT).await;
        }
    }
}

/// What somebody has seen of a condition.
#[derive(Debug)]
pub struct Seen {
    phases: watch::Receiver<Phase>,
    readiness: watch::Receiver<Readiness>,
}

/// What came of asking the store.
enum Answer {
    /// None, or an error.
    Missed(String),
    /// It is not the store that was opened.
    Of(String),
    /// It answers, and this is wrong with its schema.
    Schema(Option<String>),
}

async fn ask(store: &Store, epoch: &str) -> Answer {
    let schema = match store.schema().await {
        Ok(schema) => schema,
        Err(error) => return missed(&error),
    };
    if !schema.is_current() {
        let found = schema.found.map_or("no schema".to_owned(), |found| format!("version {found}"));
        return Answer::Schema(Some(format!("the store has {found}, needed is {}", schema.known)));
    }
    match store.head().await {
        Ok(head) if head.epoch == epoch => Answer::Schema(None),
        Ok(_) => Answer::Of("is another store than at the start".to_owned()),
        Err(error) => missed(&error),
    }
}

fn missed(error: &StoreError) -> Answer {
    tracing::debug!(error = with_sources(error), "The store did not answer the monitor");
    Answer::Missed("is unavailable".to_owned())
}

/// What is wrong with the dispatcher. What once was is over only when it turns again: a moment in which its silence
/// could be load ends no trouble.
fn dispatcher_trouble(
    dispatcher: DispatcherState,
    stall: Option<Duration>,
    was_wrong: bool,
) -> Option<String> {
    let DispatcherState { silence, waits_for_writer } = dispatcher;
    // While it waits for them all writers rest at most for the moment between two batches.
    let moves = stall.is_none_or(|stall| stall <= SILENCE);
    let is_load = waits_for_writer && moves && !was_wrong;
    let patience = if is_load { LOADED_SILENCE } else { SILENCE };
    // The same words as long as it lasts: they are told when they change.
    (silence > patience).then(|| "is stuck, or cannot use the store".to_owned())
}

/// Logs once when the server stops being ready, and once when it is again.
fn tell(found: &Readiness, ill_since: &mut Option<Instant>) {
    match (found.is_ready(), *ill_since) {
        (false, None) => {
            *ill_since = Some(Instant::now());
            tracing::warn!("Not ready: {found}");
        }
        (true, Some(since)) => {
            *ill_since = None;
            tracing::info!(seconds = since.elapsed().as_secs_f64(), "Ready again");
        }
        (true, None) | (false, Some(_)) => {}
    }
}

/// When the process was last known to do anything.
#[derive(Debug)]
struct Heart {
    born: Instant,
    /// Milliseconds after that.
    last: AtomicU64,
}

impl Default for Heart {
    fn default() -> Self {
        Self { born: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Heart {
    fn beat(&self, now: Instant) {
        let age = now.saturating_duration_since(self.born).as_millis();
        self.last.store(u64::try_from(age).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn is_stuck(&self, now: Instant) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        now.saturating_duration_since(self.born).saturating_sub(last) > STUCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> (watch::Sender<Phase>, Condition) {
        let phase = watch::Sender::new(Phase::Serving);
        let condition = Condition::new(phase.subscribe());
        (phase, condition)
    }

    #[test]
    fn what_is_wrong_is_told_in_one_line() {
        let mut found = Readiness::default();
        assert!(found.is_ready() && found.to_string().is_empty());
        found.store = Some("does not answer".to_owned());
        found.dispatcher = Some("is stuck".to_owned());
        assert!(!found.is_ready());
        assert_eq!(found.to_string(), "store: does not answer, dispatcher: is stuck");
    }

    fn is_wrong(silence: u64, waits_for_writer: bool, stall: Option<u64>, was_wrong: bool) -> bool {
        let silence = Duration::from_secs(silence);
        let dispatcher = DispatcherState { silence, waits_for_writer };
        dispatcher_trouble(dispatcher, stall.map(Duration::from_secs), was_wrong).is_some()
    }

    #[test]
    fn a_dispatcher_that_waits_its_turn_at_a_busy_store_is_not_stuck() {
        let stuck = |silence, waits, stall| is_wrong(silence, waits, stall, false);
        assert!(!stuck(1, false, None) && !stuck(1, true, Some(9)));
        assert!(stuck(3, false, None), "nobody runs it");
        assert!(stuck(3, true, Some(3)), "the store hangs");
        assert!(!stuck(9, true, Some(1)), "it waits behind others");
        assert!(!stuck(9, true, None), "it waits behind others, between two batches of theirs");
        assert!(stuck(31, true, Some(1)), "too long for anybody");
    }

    #[test]
    fn a_dispatcher_that_hangs_in_a_read_is_stuck_however_much_is_written_meanwhile() {
        for stall in [None, Some(0), Some(1)] {
            assert!(is_wrong(3, false, stall, false), "{stall:?}");
        }
    }

    #[test]
    fn a_dispatcher_that_was_stuck_is_so_until_it_turns() {
        for stall in [None, Some(0), Some(3), Some(1)] {
            assert!(is_wrong(9, true, stall, true), "{stall:?}");
            assert!(!is_wrong(1, true, stall, true), "{stall:?}");
        }
    }

    #[test]
    fn a_process_is_stuck_when_its_clockwork_stands_still_and_not_before() {
        let heart = Heart::default();
        assert!(!heart.is_stuck(heart.born + STUCK));
        let late = heart.born + STUCK * 2;
        assert!(heart.is_stuck(late));
        heart.beat(late);
        assert!(!heart.is_stuck(late + STUCK), "it is not for good");
    }

    #[tokio::test]
    async fn a_server_is_ready_only_while_it_serves_and_nothing_is_wrong() {
        let (phase, condition) = serving();
        assert!(condition.is_ready());
        let seen = condition.seen();
        condition.readiness.send_modify(|found| found.store = Some("is unavailable".to_owned()));
        let seen = condition.changed(seen).await;
        assert!(!condition.is_ready());
        condition.readiness.send_modify(|found| found.store = None);
        let seen = condition.changed(seen).await;
        assert!(condition.is_ready());
        phase.send_replace(Phase::Starting);
        condition.changed(seen).await;
        assert!(!condition.is_ready());
    }
}
