//! The screen: one line a change, while it happens.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use tokio::time::Instant;

use super::board::name_of;
use crate::cli::output::{one_line, shortened};
use crate::cli::tables;
use crate::pb::{Execution, ExecutionState};

/// Room for what a change says beyond its state.
const REASON_WIDTH: usize = 70;
/// The end of an id tells executions apart; its beginning is the time.
const SHORT_ID: usize = 8;

/// Colours as terminals number them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Blue = 34,
    Magenta = 35,
    Grey = 90,
}

/// Where the demo is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    start: Instant,
    colours: bool,
}

impl Live {
    pub(super) fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { start: Instant::now(), colours: io::stdout().is_terminal() && !refused }
    }

    /// A change.
    pub(super) fn change(self, execution: &Execution) -> io::Result<()> {
        let id = execution.id.get(execution.id.len().saturating_sub(SHORT_ID)..).unwrap_or("");
        let state = execution.state();
        let padded = format!("{:<9}", tables::state(execution));
        let line = format!(
            "{}  {id}  {:<15}  {:<10}  {}  {}",
            self.elapsed(),
            name_of(execution),
            execution.provider,
            self.paint(colour(state), &padded),
            detail(execution),
        );
        self.line(line.trim_end())
    }

    /// Something the demo did.
    pub(super) fn remark(self, remark: &str) -> io::Result<()> {
        let elapsed = self.elapsed();
        self.line(format_args!(
            "{elapsed}  {}",
            self.paint(Colour::Magenta, &format!("> {remark}"))
        ))
    }

    /// A line of anything.
    pub(super) fn line(self, line: impl Display) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{line}")
    }

    /// Text in a colour, if the screen has any.
    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        match self.colours {
            true => format!("\u{1b}[{}m{text}\u{1b}[0m", colour as u8),
            false => text.to_owned(),
        }
    }

    /// Seconds since the demo began.
    pub(super) fn seconds(self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn elapsed(self) -> String {
        self.paint(Colour::Grey, &format!("{:>7.3}s", self.seconds()))
    }
}

fn colour(state: ExecutionState) -> Colour {
    match state {
        ExecutionState::Unspecified => Colour::Grey,
        ExecutionState::Pending => Colour::Yellow,
        ExecutionState::Running => Colour::Blue,
        ExecutionState::Succeeded => Colour::Green,
        ExecutionState::Failed => Colour::Red,
        ExecutionState::Cancelled => Colour::Magenta,
    }
}

fn detail(execution: &Execution) -> String {
    let reason = shortened(&one_line(&tables::reason(execution)), REASON_WIDTH);
    match execution.attempts.len() {
        number @ 2.. if reason.is_empty() => format!("attempt {number}"),
        _ => reason,
    }
}
