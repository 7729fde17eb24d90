//! What a log is to hold.

use std::time::Duration;

use super::check::{Check, Violations};
use super::scalar::timeout;
use crate::domain::WorkerId;
use crate::pb;
use crate::telemetry::LogFilter;

/// What `SetLogLevel` is to do.
#[derive(Debug)]
pub(crate) struct LogLevel {
    /// What is to be logged; what is configured if there is none.
    pub(crate) filter: Option<LogFilter>,
    /// How long, if not for good.
    pub(crate) duration: Option<Duration>,
    /// On which replica, if that matters.
    pub(crate) worker: Option<WorkerId>,
}

/// Checks `SetLogLevel`.
pub(crate) fn log_level(given: &pb::SetLogLevelRequest) -> Result<LogLevel, Violations> {
    let mut check = Check::default();
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let filter = check.optional("filter", text(&given.filter), |text| text.parse());
    let duration = check.optional("duration", given.duration, |duration| match &*given.filter {
        "" => Err("needs a filter"),
        _ => timeout(duration),
    });
    let worker = check.optional("worker_id", text(&given.worker_id), |text| text.parse());
    check.finish(Some(LogLevel { filter, duration, worker }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(given: &pb::SetLogLevelRequest) -> Vec<String> {
        let violations = log_level(given).err().into_iter().flat_map(|wrong| wrong.kept);
        violations.map(|one| one.field).collect()
    }

    #[test]
    fn a_change_of_the_level_is_checked_field_by_field() {
        let given = |filter: &str, seconds: Option<i64>, worker: &str| pb::SetLogLevelRequest {
            filter: filter.to_owned(),
            duration: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            worker_id: worker.to_owned(),
        };
        assert!(faults(&given("debug", Some(600), "")).is_empty());
        assert!(faults(&given("", None, "")).is_empty());
        assert_eq!(faults(&given("loud", Some(0), "me")), ["filter", "duration", "worker_id"]);
        assert_eq!(faults(&given("", Some(600), "")), ["duration"]);
    }
}
