//! What an audit found, for people and for programs.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use serde_json::json;

use super::{Checker, ProviderCheck, Rule, Violation};
use crate::domain::{Change, Event};

/// What an audit looked at and what it found.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which life of the store.
    pub epoch: String,
    /// The newest revision that is no longer held; checked is what comes after.
    pub compacted: i64,
    /// The revision up to which was checked.
    pub head: i64,
    /// Executions submitted in between.
    pub executions: u64,
    /// How often each rule was checked.
    pub checks: Vec<(Rule, u64)>,
    /// Every provider, by name.
    pub providers: Vec<ProviderCheck>,
    /// The first violations, in the order they were found.
    pub findings: Vec<Finding>,
    /// Violations in all.
    pub violations: u64,
}

/// A violation and what happened around it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What is wrong.
    pub violation: Violation,
    /// Entries of the execution's own log around it, or of the whole log if it is about none.
    pub around: Vec<Event>,
    /// What the provider ran at that moment, the claim in question included.
    pub running: Vec<String>,
}

impl Report {
    pub(super) fn new(
        epoch: String,
        compacted: i64,
        checker: &Checker,
        findings: Vec<Finding>,
        violations: u64,
    ) -> Self {
        Self {
            epoch,
            compacted,
            head: checker.revision(),
            executions: checker.executions(),
            checks: checker.checks().iter().map(|(rule, count)| (*rule, *count)).collect(),
            providers: checker.providers().cloned().collect(),
            findings,
            violations,
        }
    }

    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.violations == 0
    }

    /// The report as one JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let checks: serde_json::Map<_, _> =
            self.checks.iter().map(|(rule, count)| (name(*rule), json!(count))).collect();
        let providers: Vec<_> = self
            .providers
            .iter()
            .map(|provider| {
                json!({
                    "name": provider.name, "limit": provider.limit, "paused": provider.paused,
                    "claims": provider.claims, "max_running": provider.max_running,
                    "limit_at_max": provider.limit_at_max, "running": provider.running().len(),
                })
            })
            .collect();
        let findings: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let around: Vec<_> = finding.around.iter().map(event_json).collect();
                json!({
                    "violation": finding.violation, "message": finding.violation.to_string(),
                    "around": around, "running": finding.running,
                })
            })
            .collect();
        json!({
            "clean": self.is_clean(), "store_epoch": self.epoch,
            "compacted_revision": self.compacted, "head_revision": self.head,
            "executions": self.executions, "checks": checks, "providers": providers,
            "violations": self.violations, "findings": findings,
        })
    }

    /// The report as text for a terminal.
    pub fn to_text(&self) -> String {
        let first = self.compacted + 1;
        let mut text = format!(
            "revisions {first} to {} of store {}, {} executions\n\n",
            self.head, self.epoch, self.executions
        );
        let mut checks = Table::new();
        checks.load_preset(presets::NOTHING).set_header(["CHECK", "TIMES"]);
        for (rule, count) in &self.checks {
            checks.add_row([rule.as_str().to_owned(), count.to_string()]);
        }
        let mut providers = Table::new();
        let header = ["PROVIDER", "CLAIMS", "MAX RUNNING", "LIMIT THEN", "LIMIT NOW", "RUNNING"];
        providers.load_preset(presets::NOTHING).set_header(header);
        let limit = |limit: Option<u32>| limit.map_or_else(|| "-".to_owned(), |l| l.to_string());
        for provider in &self.providers {
            providers.add_row([
                provider.name.to_string(),
                provider.claims.to_string(),
                provider.max_running.to_string(),
                limit(provider.limit_at_max),
                limit(provider.limit),
                provider.running().len().to_string(),
            ]);
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{checks}\n\n{providers}\n\n");
        for finding in &self.findings {
            let _ = finding.describe(&mut text);
        }
        let _ = match self.violations {
            0 => writeln!(text, "clean: every promise was kept"),
            1 => writeln!(text, "1 violation"),
            n => writeln!(text, "{n} violations, the first {} shown", self.findings.len()),
        };
        text
    }
}

impl Finding {
    fn describe(&self, text: &mut String) -> std::fmt::Result {
        let Violation { rule, revision, .. } = &self.violation;
        writeln!(text, "VIOLATION of \"{}\": {}", rule.as_str(), self.violation)?;
        for event in &self.around {
            let mark = if event.revision == *revision { '>' } else { ' ' };
            let change = json!(event.change);
            write!(text, "  {mark} {:>8}  {}  ", event.revision, event.provider)?;
            if self.violation.execution.is_none()
                && let Some(id) = event.execution
            {
                write!(text, "{id}  ")?;
            }
            writeln!(text, "{change}")?;
        }
        if !self.running.is_empty() {
            writeln!(text, "    running then: {}", self.running.join(", "))?;
        }
        writeln!(text)
    }
}

/// An entry without what its pieces of output contain, which may be anything.
pub(super) fn without_content(mut event: Event) -> Event {
    if let Change::Output(chunk) = &mut event.change {
        chunk.content = crate::domain::ChunkContent::Text("…".to_owned());
    }
    event
}

fn event_json(event: &Event) -> serde_json::Value {
    json!({
        "revision": event.revision, "at_micros": event.at, "provider": event.provider,
        "execution": event.execution, "change": event.change,
    })
}

fn name(rule: Rule) -> String {
    let value = json!(rule);
    value.as_str().map(str::to_owned).unwrap_or_default()
}
