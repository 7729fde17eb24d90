//! The level of the log, for as long as it was asked for.

use std::time::Duration;

use super::convert::{LogLevel, to_timestamp};
use crate::engine::Engine;
use crate::pb;
use crate::telemetry::{self, LevelChange, NotOurs};

/// Sets the level, and sees to it that it ends in time.
pub(super) fn set(wanted: LogLevel, engine: &Engine) -> Result<pb::SetLogLevelResponse, NotOurs> {
    let change = telemetry::set_log_filter(wanted.filter)?;
    let LevelChange { filter, previous, .. } = &change;
    let ends_at = wanted.duration.map(|duration| engine.now() + duration);
    if let Some(duration) = wanted.duration {
        end_after(duration, change.clone(), engine);
    }
    Ok(pb::SetLogLevelResponse {
        filter: filter.to_string(),
        previous_filter: previous.to_string(),
        expire_time: ends_at.map(to_timestamp),
        worker_id: engine.worker().to_string(),
    })
}

fn end_after(duration: Duration, change: LevelChange, engine: &Engine) {
    let watched = engine.clone();
    engine.spawn(async move {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = watched.stopping() => return,
        }
        telemetry::end_log_filter(&change);
    });
}
