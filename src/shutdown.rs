//! How a server ends: once, in phases, and always in time.
//!
//! What must stay true: every deadline is counted from the first request to stop; the process is
//! gone within the drain timeout, whatever hangs; a second signal ends it at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// The most of the drain timeout that is kept back from the work, for handing it back and closing.
const MAX_RESERVE: Duration = Duration::from_secs(2);

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Taking work.
    Serving,
    /// Finishing what it has, until the deadlines.
    Draining(Deadlines),
}

/// When each step of a shutdown is over at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Running work may finish until here; then it is stopped and handed back.
    pub finish_by: Instant,
    /// All work is settled or handed back.
    pub hand_back_by: Instant,
    /// Connections and tasks are closed.
    pub close_by: Instant,
    /// The last traces are sent.
    pub flush_by: Instant,
    /// The process is gone.
    pub exit_by: Instant,
}

impl Deadlines {
    fn counted_from(begun: Instant, drain_timeout: Duration) -> Self {
        let reserve = MAX_RESERVE.min(drain_timeout / 5);
        let end = begun + drain_timeout;
        Self {
            finish_by: end - reserve,
            hand_back_by: end - reserve / 2,
            close_by: end - reserve / 4,
            flush_by: end - reserve / 6,
            exit_by: end - reserve / 10,
        }
    }
}

/// The one switch that ends a server; clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
    drain_timeout: Duration,
}

impl Shutdown {
    /// A switch for a server that starts now.
    pub fn new(drain_timeout: Duration) -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Starting)), drain_timeout }
    }

    /// Begins the shutdown. Later calls change nothing.
    pub fn begin(&self) {
        self.phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::Draining(_));
            if first {
                let deadlines = Deadlines::counted_from(Instant::now(), self.drain_timeout);
                *phase = Phase::Draining(deadlines);
            }
            first
        });
    }

    /// Says that the server is ready; `false` if it was told to end meanwhile.
    pub fn serving(&self) -> bool {
        self.phase.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Serving;
            }
            starting
        })
    }

    /// Waits for the shutdown to begin.
    pub async fn begun(&self) -> Deadlines {
        let mut phases = self.phase.subscribe();
        loop {
            if let Phase::Draining(deadlines) = *phases.borrow_and_update() {
                return deadlines;
            }
            phases.changed().await.expect("self holds the sender");
        }
    }

    /// Where the server is, from now on.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Begins the shutdown at the first SIGTERM or SIGINT. However it begins, sees to it from then
    /// on that the process ends in time, or at once at another signal. For a process that is all
    /// server.
    pub fn begin_on_signals(&self) -> std::io::Result<()> {
        let mut signals = Signals::install()?;
        let shutdown = self.clone();
        #[expect(clippy::disallowed_methods, reason = "a second signal counts to the very end")]
        tokio::spawn(async move {
            let first = tokio::select! {
                first = signals.next() => Some(first),
                _ = shutdown.begun() => None,
            };
            shutdown.begin();
            end_process_at(shutdown.begun().await.exit_by);
            if let Some(first) = first {
                tracing::info!(signal = first.name(), "Shutting down");
            }
            std::process::exit(signals.next().await.exit_code());
        });
        Ok(())
    }
}

/// Ends the process from a thread of its own, which no stuck task can hold up. Says nothing, for it would not wait
/// until that is written.
fn end_process_at(deadline: Instant) {
    let watchdog = std::thread::Builder::new().name("shutdown-watchdog".to_owned());
    let watch = move || {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                std::process::exit(1);
            }
            std::thread::park_timeout(left);
        }
    };
    if let Err(error) = watchdog.spawn(watch) {
        tracing::error!(error = %error, "Nothing enforces the drain deadline");
    }
}

/// The two requests to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

#[derive(Debug, Clone, Copy)]
enum Received {
    Terminate,
    Interrupt,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Received {
        tokio::select! {
            _ = self.terminate.recv() => Received::Terminate,
            _ = self.interrupt.recv() => Received::Interrupt,
        }
    }
}

impl Received {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    /// What a shell reports of a process that the signal killed.
    const fn exit_code(self) -> i32 {
        match self {
            Self::Terminate => 128 + 15,
            Self::Interrupt => 128 + 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_ends_before_the_next_and_the_last_before_the_drain_timeout() {
        for seconds in [0.1, 1.0, 5.0, 30.0, 3_600.0] {
            let (begun, timeout) = (Instant::now(), Duration::from_secs_f64(seconds));
            let steps = Deadlines::counted_from(begun, timeout);
            assert!(begun < steps.finish_by);
            assert!(steps.finish_by < steps.hand_back_by);
            assert!(steps.hand_back_by < steps.close_by);
            assert!(steps.close_by < steps.flush_by);
            assert!(steps.flush_by < steps.exit_by);
            assert!(steps.exit_by < begun + timeout);
            assert!(begun + timeout - steps.finish_by <= MAX_RESERVE);
        }
    }

    #[tokio::test]
    async fn the_deadlines_are_those_of_the_first_request() {
        let shutdown = Shutdown::new(Duration::from_secs(30));
        shutdown.begin();
        let first = shutdown.begun().await;
        shutdown.begin();
        assert_eq!(shutdown.begun().await, first);
    }

    #[tokio::test]
    async fn a_server_told_to_end_while_it_starts_never_serves() {
        let shutdown = Shutdown::new(Duration::from_secs(30));
        shutdown.begin();
        assert!(!shutdown.serving());
        assert!(matches!(*shutdown.phases().borrow(), Phase::Draining(_)));
    }
}
