//! `flowgate audit`: reads the log beside a live server and checks on it that every promise was
//! kept.
//!
//! What must stay true: it only reads, and it keeps no snapshot open while it reads the bulk of the
//! log. The log is followed to a head taken first; only the rest since then and the rows are read
//! from one snapshot, in which they must agree exactly.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::report::without_content;
use super::{Checker, Finding, Report, Rule, Violation};
use crate::domain::Event;
use crate::store::{
    Backend, BackendError, EventQuery, Head, PostgresBackend, PostgresOptions, Snapshot, Snapshots,
    SqliteBackend, StoreUrl, with_sources,
};

/// How much is read at once.
const PAGE: u32 = 2_000;
/// How many violations are shown with what happened around them.
const SHOWN: usize = 5;
/// How many entries are shown before and after a violation.
const AROUND: usize = 8;

/// The options of `flowgate audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// The store to check: sqlite://PATH or postgres://…
    #[arg(
        long,
        env = "FLOWGATE_STORE",
        default_value = "sqlite://flowgate.db",
        value_name = "URL"
    )]
    pub store: String,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFormat {
    /// For people.
    Table,
    /// For programs: one object.
    Json,
}

/// Why a store could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Its URL names no kind of store that can be read.
    #[error("the store {0}")]
    UnknownStore(String),
    /// It could not be read.
    #[error("cannot read the store")]
    Unreadable(#[from] BackendError),
    /// It was replaced by another while it was read.
    #[error("the store was replaced while it was read")]
    Replaced,
}

/// Checks a store and prints what was found. Exits with 0 if all is well, 1 if a promise was
/// broken, 2 if the store could not be read.
pub async fn run(args: AuditArgs, format: ReportFormat) -> ExitCode {
    let (text, code) = match audit(&args.store).await {
        Ok(report) => {
            let text = match format {
                ReportFormat::Table => report.to_text(),
                ReportFormat::Json => format!("{:#}\n", report.to_json()),
            };
            (text, if report.is_clean() { 0 } else { 1 })
        }
        Err(error) => {
            // There is nobody to tell if stderr is gone.
            let _ = writeln!(std::io::stderr(), "error: {}", with_sources(&error));
            (String::new(), 2)
        }
    };
    // Whoever closed the pipe still gets the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// Checks the store at this URL.
pub async fn audit(store: &str) -> Result<Report, AuditError> {
    match store.parse().map_err(AuditError::UnknownStore)? {
        StoreUrl::Sqlite(path) => check(&SqliteBackend::open_beside(&path).await?).await,
        StoreUrl::Postgres(url) => {
            let options = PostgresOptions::new(url);
            check(&PostgresBackend::open_beside(&options).await?).await
        }
    }
}

/// Checks a store that is open for reading.
async fn check(store: &dyn Snapshots) -> Result<Report, AuditError> {
    let head = store.head().await?;
    let mut audit =
        Audit { checker: Checker::new(head.compacted), findings: Vec::new(), violations: 0 };
    while audit.checker.revision() < head.revision {
        let page = store.events(&audit.next_page()).await?;
        if audit.feed(page, head.revision) == 0 {
            break;
        }
    }
    audit.finish(&head, store.snapshot().await?).await?;
    for finding in &mut audit.findings {
        finding.around = around(store, &finding.violation).await?;
    }
    let Audit { checker, findings, violations } = audit;
    Ok(Report::new(head.epoch, head.compacted, &checker, findings, violations))
}

/// An audit in the making.
struct Audit {
    checker: Checker,
    findings: Vec<Finding>,
    violations: u64,
}

impl Audit {
    fn next_page(&self) -> EventQuery {
        let after = self.checker.revision();
        EventQuery { after, execution: None, output: true, limit: PAGE }
    }

    /// Checks the entries up to `head`; returns how many there were.
    fn feed(&mut self, page: Vec<Event>, head: i64) -> usize {
        let mut fed = 0;
        for event in page.into_iter().filter(|event| event.revision <= head) {
            fed += 1;
            if let Err(violation) = self.checker.feed(&event) {
                let running = self.checker.running(&event.provider);
                let running = running.iter().map(ToString::to_string).collect();
                self.note(violation, running);
            }
        }
        fed
    }

    /// Follows the log to where the snapshot has it, and compares the rows there.
    async fn finish(
        &mut self,
        head: &Head,
        mut snapshot: Box<dyn Snapshot>,
    ) -> Result<(), AuditError> {
        let end = snapshot.head().await?;
        if end.epoch != head.epoch {
            return Err(AuditError::Replaced);
        }
        while self.checker.revision() < end.revision {
            let page = snapshot.events(&self.next_page()).await?;
            if self.feed(page, end.revision) == 0 {
                break;
            }
        }
        let missing = end.revision - self.checker.revision();
        if missing > 0 {
            self.note(missing_entries(end.revision, missing), Vec::new());
        }
        if let Err(violations) = self.checker.end() {
            violations.into_iter().for_each(|violation| self.note(violation, Vec::new()));
        }
        for provider in snapshot.providers().await? {
            if let Err(violation) = self.checker.agree_on_provider(&provider) {
                self.note(violation, Vec::new());
            }
        }
        let mut after = None;
        loop {
            let page = snapshot.records_page(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for record in &page {
                if let Err(violation) = self.checker.agree(record) {
                    self.note(violation, Vec::new());
                }
            }
        }
        let without_row: Vec<_> = self.checker.without_row().collect();
        without_row.into_iter().for_each(|violation| self.note(violation, Vec::new()));
        Ok(())
    }

    fn note(&mut self, violation: Violation, running: Vec<String>) {
        self.violations += 1;
        if self.findings.len() < SHOWN {
            self.findings.push(Finding { violation, around: Vec::new(), running });
        }
    }
}

fn missing_entries(revision: i64, missing: i64) -> Violation {
    Violation {
        rule: Rule::Revisions,
        revision,
        execution: None,
        provider: None,
        message: format!("the last {missing} entries before the head of the log are missing"),
    }
}

/// The entries before and after a violation: of its execution, or of everything.
async fn around(store: &dyn Backend, violation: &Violation) -> Result<Vec<Event>, BackendError> {
    let mut query =
        EventQuery { after: 0, execution: violation.execution, output: true, limit: PAGE };
    if violation.execution.is_none() {
        query.after = violation.revision - i64::try_from(AROUND).unwrap_or(i64::MAX);
    }
    let mut window: Vec<Event> = Vec::new();
    loop {
        let page = store.events(&query).await?;
        let Some(last) = page.last() else { return Ok(window) };
        query.after = last.revision;
        for event in page {
            let past = event.revision > violation.revision;
            if past
                && window.iter().filter(|e| e.revision > violation.revision).count() >= AROUND / 2
            {
                return Ok(window);
            }
            if !past && window.len() >= AROUND {
                window.remove(0);
            }
            window.push(without_content(event));
        }
    }
}
