//! The level of the log, for as long as it was asked for.
//!
//! What must stay true: however often it is changed, one timer runs at most, and it belongs to no call.

use tokio::sync::watch;
use tokio::time::Instant;

use super::convert::{LogLevel, to_timestamp};
use crate::engine::Engine;
use crate::pb;
use crate::telemetry::{self, LevelChange, NotOurs};

/// What sets the level, and sees to it that it ends in time.
#[derive(Debug)]
pub(super) struct LevelSetter {
    /// The change that ends by itself, and when: the newest, if it does.
    ends: watch::Sender<Option<Ending>>,
}

#[derive(Debug, Clone)]
struct Ending {
    at: Instant,
    change: LevelChange,
}

impl LevelSetter {
    /// One for a server; its timer ends with it.
    pub(super) fn start(engine: &Engine) -> Self {
        let (ends, due) = watch::channel(None);
        let watched = engine.clone();
        engine.spawn(async move {
            tokio::select! {
                () = end_each(due) => {}
                () = watched.stopping() => {}
            }
        });
        Self { ends }
    }

    /// Sets the level. Whatever was to end it before does so no more.
    pub(super) fn set(
        &self,
        wanted: LogLevel,
        engine: &Engine,
    ) -> Result<pb::SetLogLevelResponse, NotOurs> {
        let LogLevel { filter, duration, worker: _ } = wanted;
        let mut made = Err(NotOurs);
        // One after the other: the last change is also the one that is noted last.
        self.ends.send_if_modified(|ends| {
            made = telemetry::set_log_filter(filter);
            let Ok(change) = &made else { return false };
            *ends =
                duration.map(|after| Ending { at: Instant::now() + after, change: change.clone() });
            true
        });
        let LevelChange { filter, previous, .. } = made?;
        let ends_at = duration.map(|duration| engine.now() + duration);
        Ok(pb::SetLogLevelResponse {
            filter: filter.to_string(),
            previous_filter: previous.to_string(),
            expire_time: ends_at.map(to_timestamp),
            worker_id: engine.worker().to_string(),
        })
    }
}

/// Ends each change that is noted when its time has come, unless another was made before.
async fn end_each(mut due: watch::Receiver<Option<Ending>>) {
    loop {
        let next = due.borrow_and_update().clone();
        let over = async {
            if let Some(Ending { at, change }) = next {
                tokio::time::sleep_until(at).await;
                telemetry::end_log_filter(&change);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            changed = due.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = over => {}
        }
    }
}
