//! What people see of a batch while it runs: a progress bar on a terminal, a line for its start and
//! for each failure, and the summary.

use std::fmt::Display;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::output::{fields, note};
use crate::pb::ExecutionState;

const TEMPLATE: &str = "{wide_bar} {human_pos}/{human_len}  {msg}  {elapsed}, {eta} to go";

/// How many lines ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) succeeded: u64,
    /// Those that the server refused among them.
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    /// Of all these, those whose execution was known before.
    pub(super) replayed: u64,
    /// Of all these, those whose result was there before this run.
    pub(super) earlier: u64,
}

impl Tally {
    pub(super) fn count(&mut self, state: ExecutionState, replayed: bool) {
        match state {
            ExecutionState::Succeeded => self.succeeded += 1,
            ExecutionState::Cancelled => self.cancelled += 1,
            ExecutionState::Failed
            | ExecutionState::Unspecified
            | ExecutionState::Pending
            | ExecutionState::Running => self.failed += 1,
        }
        self.replayed += u64::from(replayed);
    }

    pub(super) fn count_earlier(&mut self, state: ExecutionState, replayed: bool) {
        self.count(state, replayed);
        self.earlier += 1;
    }

    /// Lines that have their result.
    pub(super) fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled
    }
}

/// The part of all lines that has to succeed, in hundredths of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(u64);

impl Share {
    /// Reads `50%`, `99.5%` or the same without the sign.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refused = || "must be a percentage from 0% to 100%, such as 99.5%".to_owned();
        let number = text.strip_suffix('%').unwrap_or(text);
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 2 || whole.len() > 3 {
            return Err(refused());
        }
        let hundredths = format!("{whole}{part:0<2}").parse().map_err(|_| refused())?;
        (hundredths <= 10_000).then_some(Self(hundredths)).ok_or_else(refused)
    }

    /// Whether enough of `total` lines succeeded.
    pub(super) fn is_reached(self, succeeded: u64, total: u64) -> bool {
        u128::from(succeeded) * 10_000 >= u128::from(total) * u128::from(self.0)
    }
}

/// Speaks of one batch.
#[derive(Debug)]
pub(super) struct Report {
    bar: Option<ProgressBar>,
    start: Instant,
}

impl Report {
    /// A bar only where somebody sees it.
    pub(super) fn new(total: u64, tally: &Tally) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(TEMPLATE);
            bar.set_style(style.expect("the template names fields there are"));
            // So that what earlier runs did does not count as this one's speed.
            bar.with_position(tally.ended())
        });
        let report = Self { bar, start: Instant::now() };
        report.progress(tally);
        report
    }

    /// A line of its own, above the bar.
    pub(super) fn say(&self, line: impl Display) {
        self.aside(|| note(line));
    }

    /// Does something that writes to the terminal while the bar is out of the way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub(super) fn progress(&self, tally: &Tally) {
        if let Some(bar) = &self.bar {
            bar.set_position(tally.ended());
            bar.set_message(format!("{} failed", tally.failed));
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.start.elapsed()
    }
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Summary {
    pub(super) batch: String,
    pub(super) total: u64,
    pub(super) tally: Tally,
    pub(super) time: Duration,
}

impl Summary {
    fn seconds(&self) -> f64 {
        (self.time.as_secs_f64() * 10.0).round() / 10.0
    }

    /// In one line.
    pub(super) fn line(&self) -> String {
        let Tally { succeeded, failed, cancelled, replayed, earlier } = self.tally;
        let missing = match self.total - self.tally.ended() {
            0 => String::new(),
            missing => format!(", {missing} without a result"),
        };
        format!(
            "batch {}: {} lines in {} s: {succeeded} succeeded, {failed} failed, {cancelled} \
             cancelled{missing}; {replayed} replayed, {earlier} had their result before",
            self.batch,
            self.total,
            self.seconds(),
        )
    }

    pub(super) fn json(&self) -> Value {
        let Tally { succeeded, failed, cancelled, replayed, earlier } = self.tally;
        json!({
            "batch": self.batch, "total": self.total, "succeeded": succeeded, "failed": failed,
            "cancelled": cancelled, "replayed": replayed, "earlier": earlier,
            "seconds": self.seconds(),
        })
    }

    pub(super) fn table(&self) -> String {
        let Tally { succeeded, failed, cancelled, replayed, earlier } = self.tally;
        let number = |number: u64| Some(number.to_string());
        fields([
            ("batch", Some(self.batch.clone())),
            ("total", number(self.total)),
            ("succeeded", number(succeeded)),
            ("failed", number(failed)),
            ("cancelled", number(cancelled)),
            ("replayed", number(replayed)),
            ("earlier", number(earlier)),
            ("seconds", Some(self.seconds().to_string())),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage() {
        for (text, hundredths) in [("50%", 5_000), ("100", 10_000), ("0%", 0), ("99.95%", 9_995)] {
            assert_eq!(Share::parse(text), Ok(Share(hundredths)), "{text}");
        }
        for text in ["", "%", "101%", "-1%", "half", "1.234", "1.", "99999999999999999999"] {
            assert!(Share::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_reached_exactly_at_its_bound() {
        let third = Share::parse("33.33%").unwrap();
        assert!(third.is_reached(3_333, 10_000) && !third.is_reached(3_332, 10_000));
        assert!(Share::parse("100%").unwrap().is_reached(0, 0), "of nothing, nothing is missing");
    }

    #[test]
    fn the_summary_tells_of_lines_without_a_result() {
        let tally = Tally { succeeded: 2, failed: 1, ..Tally::default() };
        let time = Duration::from_millis(1_234);
        let summary = Summary { batch: "b".to_owned(), total: 4, tally, time };
        let line = summary.line();
        assert!(line.starts_with("batch b: 4 lines in 1.2 s: 2 succeeded, 1 failed"), "{line}");
        assert!(line.contains("1 without a result"), "{line}");
    }
}
