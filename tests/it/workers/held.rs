//! A provider whose attempts run until they are let go.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use flowgate::providers::{AttemptFailure, Call, Provider, Success, Violation};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, watch};

pub(super) struct Held {
    go: Semaphore,
    counts: watch::Sender<Counts>,
    /// What starts is noted here under this name.
    starts: Option<(&'static str, Starts)>,
}

/// The names of what started, in order.
pub(super) type Starts = Arc<Mutex<Vec<&'static str>>>;

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    running: usize,
    most: usize,
}

impl Held {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { go: Semaphore::new(0), counts: watch::Sender::default(), starts: None })
    }

    pub(super) fn noted(name: &'static str, starts: &Starts) -> Arc<Self> {
        let starts = Some((name, Arc::clone(starts)));
        Arc::new(Self { go: Semaphore::new(0), counts: watch::Sender::default(), starts })
    }

    /// How many attempts run.
    pub(super) fn running(&self) -> usize {
        self.counts.borrow().running
    }

    /// How many ran at the same time when there were most.
    pub(super) fn most(&self) -> usize {
        self.counts.borrow().most
    }

    /// Waits until so many run.
    pub(super) async fn runs(&self, count: usize) {
        let mut counts = self.counts.subscribe();
        let reached = counts.wait_for(|counts| counts.running == count);
        let reached = tokio::time::timeout(std::time::Duration::from_secs(15), reached).await;
        assert!(reached.is_ok(), "{} run, not {count}", self.running());
    }

    /// Lets so many attempts end, those that begin later too.
    pub(super) fn let_go(&self, count: usize) {
        self.go.add_permits(count);
    }
}

/// Counts an attempt as running until it is dropped, however it ends.
struct Running<'a>(&'a Held);

impl<'a> Running<'a> {
    fn begin(held: &'a Held) -> Self {
        held.counts.send_modify(|counts| {
            counts.running += 1;
            counts.most = counts.most.max(counts.running);
        });
        if let Some((name, starts)) = &held.starts {
            starts.lock().unwrap().push(name);
        }
        Self(held)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.running -= 1);
    }
}

#[async_trait]
impl Provider for Held {
    fn check(&self, _: &Map<String, Value>) -> Result<(), Vec<Violation>> {
        Ok(())
    }

    async fn execute(&self, _: Call) -> Result<Success, AttemptFailure> {
        let _running = Running::begin(self);
        self.go.acquire().await.unwrap().forget();
        Ok(Success::new(Value::Null, None))
    }
}
