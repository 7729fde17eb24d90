//! The verdict: what was expected of each part, and what came.

use std::collections::BTreeSet;
use std::io;

use serde_json::Value;

use super::board::Board;
use super::live::{Colour, Live};
use super::plan::{Expected, Part};
use crate::cli::names::short;
use crate::cli::output::table;
use crate::cli::{json, tables};
use crate::pb::{ErrorCode, Execution};

/// Something beyond single executions that had to hold.
#[derive(Debug, Clone)]
pub(super) struct Check {
    what: String,
    pub(super) ok: bool,
    detail: String,
}

impl Check {
    pub(super) fn new(what: impl Into<String>, ok: bool, detail: String) -> Self {
        Self { what: what.into(), ok, detail }
    }
}

/// Prints both tables, and says whether all is well.
pub(super) fn print(
    parts: &[Part],
    checks: &[Check],
    board: &Board,
    live: Live,
) -> io::Result<bool> {
    let headings = ["WHAT", "PROVIDER", "EXPECTED", "GOT", "ATTEMPTS", "OK"];
    let results: Vec<_> = parts.iter().map(|part| judged(part, board)).collect();
    let rows = results.iter().map(|(row, _)| row.clone());
    live.line(format_args!("\n{}\n", table(headings, rows)))?;
    let rows =
        checks.iter().map(|check| [check.what.clone(), check.detail.clone(), mark(check.ok)]);
    live.line(format_args!("{}\n", table(["CHECK", "", "OK"], rows)))?;

    let wrong = results.iter().filter(|(_, ok)| !ok).count()
        + checks.iter().filter(|check| !check.ok).count();
    let seconds = live.seconds();
    if wrong == 0 {
        let verdict = format!("all as expected, in {seconds:.1} s");
        live.line(live.paint(Colour::Green, &verdict))?;
    } else {
        let verdict = format!("{wrong} not as expected, after {seconds:.1} s");
        live.line(live.paint(Colour::Red, &verdict))?;
    }
    Ok(wrong == 0)
}

fn judged(part: &Part, board: &Board) -> ([String; 6], bool) {
    let executions: Vec<&Execution> = board.named(part.name).collect();
    let ok = executions.len() == part.count
        && executions.iter().all(|execution| is_as_expected(execution, &part.expected));
    let what = match part.count {
        1 => part.name.to_owned(),
        count => format!("{count} {}", part.name),
    };
    let got: BTreeSet<String> = executions.iter().map(|execution| ending(execution)).collect();
    let attempts: BTreeSet<String> =
        executions.iter().map(|execution| attempts(execution)).collect();
    let row = [
        what,
        part.provider.to_owned(),
        expectation(&part.expected),
        listed(got),
        listed(attempts),
        mark(ok),
    ];
    (row, ok)
}

fn is_as_expected(execution: &Execution, expected: &Expected) -> bool {
    let Expected { state, code, attempts, output } = expected;
    let made_and_charged = (execution.attempts.len(), execution.attempt_count);
    let result = execution.output.as_ref().map(json::from_value).unwrap_or_default();
    execution.state() == *state
        && code.is_none_or(|code| execution.error.as_ref().is_some_and(|e| e.code() == code))
        && *attempts == made_and_charged
        && output.iter().all(|(field, wanted)| match (&result[*field], wanted) {
            (Value::String(text), Value::String(part)) => text.contains(part),
            (value, wanted) => value == wanted,
        })
}

fn expectation(expected: &Expected) -> String {
    let state = short::<crate::pb::ExecutionState>(expected.state.into());
    let code = expected.code.map(|code| short::<ErrorCode>(code.into()));
    code.map_or(state.clone(), |code| format!("{state} {code}"))
}

/// The state, and of a failure its code.
fn ending(execution: &Execution) -> String {
    let state = tables::state(execution);
    match &execution.error {
        Some(error) if error.code() != ErrorCode::Cancelled => {
            format!("{state} {}", short::<ErrorCode>(error.code))
        }
        _ => state,
    }
}

/// How many were made, and how many of them cost nothing.
fn attempts(execution: &Execution) -> String {
    let made = execution.attempts.len();
    let charged = usize::try_from(execution.attempt_count).unwrap_or(0);
    match made.saturating_sub(charged) {
        0 => made.to_string(),
        free => format!("{made} ({free} uncharged)"),
    }
}

fn listed(all: BTreeSet<String>) -> String {
    match all.is_empty() {
        true => "nothing".to_owned(),
        false => all.into_iter().collect::<Vec<_>>().join(", "),
    }
}

fn mark(ok: bool) -> String {
    if ok { "yes" } else { "NO" }.to_owned()
}
