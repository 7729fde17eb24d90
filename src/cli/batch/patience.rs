//! Waiting for a server that takes nothing at the moment.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::cli::output::note;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What an rpc's error means for the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Trying the same again helps.
    Wait,
    /// What was sent is at fault.
    Refused,
    /// Nothing that is sent will be taken.
    Fatal,
}

impl Meaning {
    pub(super) fn of(status: &Status) -> Self {
        // A broken connection is the only status with a source, whatever its code.
        if status.source().is_some() {
            return Self::Wait;
        }
        match status.code() {
            // Of half as many each may pass.
            Code::ResourceExhausted if is_too_large(status) || is_too_many(status) => Self::Refused,
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Cancelled => Self::Wait,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange => Self::Refused,
            Code::Ok
            | Code::Unknown
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::Internal
            | Code::DataLoss
            | Code::Unauthenticated => Self::Fatal,
        }
    }
}

/// Whether so many at once are never taken.
fn is_too_many(status: &Status) -> bool {
    let details = status.get_error_details();
    let too_many = |reason: &str| reason == "TOO_MANY_PENDING";
    details.error_info().is_some_and(|info| too_many(&info.reason))
        && details.retry_info().is_none()
}

fn is_too_large(status: &Status) -> bool {
    let details = status.get_error_details();
    details.error_info().is_some_and(|info| info.reason == "MESSAGE_TOO_LARGE")
}

/// One spell of trouble.
#[derive(Debug)]
pub(super) struct Patience {
    /// Said once, such as "takes no submissions".
    trouble: &'static str,
    longest: Duration,
    since: Option<Instant>,
    pause: Duration,
}

/// It went on for too long.
#[derive(Debug)]
pub(super) struct GaveUp {
    longest: Duration,
    last: String,
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let longest = humantime::format_duration(self.longest);
        write!(f, "gave up after {longest}: {}", self.last)
    }
}

impl std::error::Error for GaveUp {}

impl Patience {
    pub(super) fn new(trouble: &'static str, longest: Duration) -> Self {
        Self { trouble, longest, since: None, pause: FIRST_PAUSE }
    }

    /// Waits before the next try, as long as the server says or a little longer each time.
    pub(super) async fn wait(&mut self, status: &Status) -> Result<(), GaveUp> {
        let since = *self.since.get_or_insert_with(|| {
            note(format_args!("the server {} ({}); trying again", self.trouble, status.message()));
            Instant::now()
        });
        sleep(self.next_pause(status, since.elapsed())?).await;
        Ok(())
    }

    fn next_pause(&mut self, status: &Status, passed: Duration) -> Result<Duration, GaveUp> {
        let left = self.longest.saturating_sub(passed);
        if left.is_zero() {
            return Err(GaveUp { longest: self.longest, last: status.message().to_owned() });
        }
        let asked = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
        // Spread out, as all clients of a server lose it at the same moment.
        let own = self.pause.mul_f64(rand::random_range(0.5..1.0));
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(asked.map_or(own, |asked| asked.max(own)).min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let exhausted = |reason: &str| {
            let mut details = ErrorDetails::new();
            details.set_error_info(reason, "flowgate", []);
            Status::with_error_details(Code::ResourceExhausted, "no", details)
        };
        assert_eq!(Meaning::of(&exhausted("MESSAGE_TOO_LARGE")), Meaning::Refused);
        assert_eq!(Meaning::of(&exhausted("TOO_BUSY")), Meaning::Wait);
        assert_eq!(Meaning::of(&exhausted("TOO_MANY_PENDING")), Meaning::Refused, "at any time");
        assert_eq!(Meaning::of(&Status::unavailable("restarting")), Meaning::Wait);
        assert_eq!(Meaning::of(&Status::invalid_argument("no")), Meaning::Refused);
        assert_eq!(Meaning::of(&Status::unimplemented("an older server")), Meaning::Fatal);
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(Meaning::of(&Status::from_error(Box::new(broken))), Meaning::Wait);
    }

    #[test]
    fn a_wait_is_as_long_as_the_server_asks_and_ends_in_time() {
        let mut details = ErrorDetails::new();
        details.set_retry_info(Some(Duration::from_secs(40)));
        let busy = Status::with_error_details(Code::ResourceExhausted, "busy", details);
        let mut patience = Patience::new("is busy", Duration::from_secs(60));
        let mut pause = |passed| patience.next_pause(&busy, Duration::from_secs(passed));
        assert_eq!(pause(0).unwrap().as_secs(), 40);
        assert_eq!(pause(40).unwrap().as_secs(), 20, "no longer than allowed");
        assert_eq!(pause(60).unwrap_err().to_string(), "gave up after 1m: busy");
    }
}
