//! `flowgate migrate`: moves a store from the embedded database to PostgreSQL.
//!
//! What must stay true: it exits with 0 only if the target holds everything that the source holds;
//! run again it changes nothing; and nothing it prints repeats a URL, which may hold a password.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::ReportFormat;
use crate::store::{Census, Outcome, StoreUrl, TransferError, Transferred, transfer, with_sources};

/// The options of `flowgate migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The store to move: sqlite://PATH; no server may be using it
    #[arg(long, env = "FLOWGATE_MIGRATE_FROM", value_name = "URL")]
    pub from: String,
    /// Where to: postgres://USER@HOST/DATABASE, an empty database. PGPASSWORD and PGPASSFILE count
    #[arg(long, env = "FLOWGATE_MIGRATE_TO", hide_env_values = true, value_name = "URL")]
    pub to: String,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A URL names no kind of store.
    #[error("{option} {why}")]
    Url {
        /// Which URL.
        option: &'static str,
        /// What is wrong with it, as the end of a sentence.
        why: String,
    },
    /// A way that there is none.
    #[error(
        "a store moves from sqlite://PATH to postgres://USER@HOST/DATABASE, and no other way: {0}"
    )]
    Unsupported(&'static str),
    /// It was tried, or refused.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// Moves a store and prints what was done. Exits with 0 if the target holds everything now, also if
/// it did before; with 1 if it does not, and then nothing was changed.
pub async fn run(args: MigrateArgs, format: ReportFormat) -> ExitCode {
    let told = std::io::stderr().is_terminal();
    let progress = move |table: &'static str, rows: u64| {
        if told {
            // There is nobody to tell if stderr is gone.
            let _ = writeln!(std::io::stderr(), "{table}: {rows} rows");
        }
    };
    let (text, code) = match migrate(&args.from, &args.to, &progress).await {
        Ok(transferred) => {
            let text = match format {
                ReportFormat::Table => to_text(&transferred),
                ReportFormat::Json => format!("{:#}\n", to_json(&transferred)),
            };
            (text, ExitCode::SUCCESS)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", with_sources(&error));
            (String::new(), ExitCode::FAILURE)
        }
    };
    // Whoever closed the pipe still gets the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    code
}

/// Moves the store at the URL `from` to the one at the URL `to`. `progress` is told the number of
/// rows of each table that arrived.
pub async fn migrate(
    from: &str,
    to: &str,
    progress: &(dyn Fn(&'static str, u64) + Sync),
) -> Result<Transferred, MigrateError> {
    let parse = |option, url: &str| url.parse().map_err(|why| MigrateError::Url { option, why });
    match (parse("--from", from)?, parse("--to", to)?) {
        (StoreUrl::Sqlite(path), StoreUrl::Postgres(url)) => {
            Ok(transfer(&path, &url, progress).await?)
        }
        (StoreUrl::Postgres(_), _) => {
            Err(MigrateError::Unsupported("--from is a PostgreSQL database"))
        }
        (StoreUrl::Sqlite(_), StoreUrl::Sqlite(_)) => {
            Err(MigrateError::Unsupported("--to is a SQLite file"))
        }
    }
}

/// For people.
fn to_text(transferred: &Transferred) -> String {
    let Transferred { target, source, outcome } = transferred;
    let Census { epoch, revision, .. } = source;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match outcome {
        Outcome::AlreadyThere => writeln!(
            text,
            "nothing to do: store {epoch} is in {target} already, at revision {revision}"
        ),
        Outcome::TargetWentOn { revision: target_revision } => writeln!(
            text,
            "nothing to do: store {epoch} was moved to {target} before, which has gone on since: it \
             is at revision {target_revision}, the source at {revision}"
        ),
        Outcome::Moved { replaced } => {
            let _ = writeln!(text, "{}\n", rows(source));
            if *replaced > 0 {
                let _ = writeln!(
                    text,
                    "{replaced} characters U+0000, which PostgreSQL cannot hold, became U+FFFD"
                );
            }
            writeln!(
                text,
                "moved store {epoch} to {target}: ids, revisions and cursors are what they were, the \
                 newest revision is {revision}\nserve it from there; the file is as it was, and is \
                 not to be served again"
            )
        }
    };
    text
}

fn rows(source: &Census) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["MOVED", "ROWS"]);
    for (name, rows) in [
        ("executions", source.executions),
        ("  pending", source.records_pending),
        ("  running", source.records_running),
        ("  succeeded", source.records_succeeded),
        ("  failed", source.records_failed),
        ("  cancelled", source.records_cancelled),
        ("outputs", source.outputs),
        ("events", source.events),
        ("providers", source.providers),
        ("workers", source.workers),
    ] {
        table.add_row([name.to_owned(), rows.to_string()]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// For programs: one object.
fn to_json(transferred: &Transferred) -> serde_json::Value {
    let Transferred { target, source, outcome } = transferred;
    let (outcome, replaced, target_revision) = match *outcome {
        Outcome::Moved { replaced } => ("moved", replaced, source.revision),
        Outcome::AlreadyThere => ("already_there", 0, source.revision),
        Outcome::TargetWentOn { revision } => ("target_went_on", 0, revision),
    };
    json!({
        "outcome": outcome, "target": target.to_string(), "source": source,
        "target_revision": target_revision, "nul_characters_replaced": replaced,
    })
}
