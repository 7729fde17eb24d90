//! Moves a store from the embedded database to PostgreSQL: everything that is in it, as it is.
//!
//! What must stay true: the source is not in use and is not changed; what arrives arrives in one
//! transaction, which is committed only after the target was counted and found to hold the same;
//! epoch and revisions are those of the source, so that every cursor that a client holds stays good;
//! and a target that holds anything else is left as it is.

mod tables;

use std::path::Path;

use futures_util::TryStreamExt as _;

use super::postgres::{self, Import};
use super::sqlite::Export;
use super::{BackendError, StoreUrl};

pub use tables::Census;
pub(super) use tables::{CENSUS, ENTRY, Entry, TABLES, Table};

/// A value on its way, as the embedded database keeps it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    /// A number, a time or a truth value.
    Int(i64),
    /// A text, an id or JSON.
    Text(&'a str),
}

/// What became of a transfer that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transferred {
    /// Where to.
    pub target: StoreUrl,
    /// What the source holds.
    pub source: Census,
    /// What was done.
    pub outcome: Outcome,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is in the target now.
    Moved {
        /// Characters U+0000, which PostgreSQL cannot hold, that became U+FFFD.
        replaced: u64,
    },
    /// Nothing: everything was there already.
    AlreadyThere,
    /// Nothing: everything was there already, and the target has gone on since.
    TargetWentOn {
        /// To this revision.
        revision: i64,
    },
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The source is in use, is no store, or could not be read.
    #[error("cannot take the source")]
    Source(#[source] BackendError),
    /// The source lacks entries of its log.
    #[error(
        "the log of the source is not whole: of the {expected} entries from {first} to {last} it \
         holds {found}; `flowgate audit` says which are missing"
    )]
    LogBroken {
        /// The first it should have.
        first: i64,
        /// The last it should have.
        last: i64,
        /// How many it should have.
        expected: i64,
        /// How many it has.
        found: i64,
    },
    /// The target could not be written.
    #[error("cannot use {target}")]
    Target {
        /// Which one.
        target: StoreUrl,
        /// Why.
        #[source]
        source: BackendError,
    },
    /// The target holds something else.
    #[error(
        "{target} holds another store, at revision {} with {} executions; a store moves into an empty \
         database only, on which no server was started before",
        .found.revision, .found.executions
    )]
    NotEmpty {
        /// Which one.
        target: StoreUrl,
        /// What it holds.
        found: Box<Census>,
    },
    /// The source was served again after it was moved.
    #[error(
        "the source went on after it was migrated: it is at revision {source_revision}, {target} is \
         at {target_revision}"
    )]
    SourceWentOn {
        /// Where.
        target: StoreUrl,
        /// Where the source's log stands.
        source_revision: i64,
        /// Where the target's log stands.
        target_revision: i64,
    },
    /// Both were served after the source was moved.
    #[error(
        "the source and {target} both went on after the migration: their logs differ at revision \
         {revision}"
    )]
    Diverged {
        /// Where.
        target: StoreUrl,
        /// The source's newest revision.
        revision: i64,
    },
    /// One of them no longer holds the entries that both should have.
    #[error(
        "the source was migrated to {target} before, and one of them no longer holds revision \
         {revision}: whether the source went on since cannot be told"
    )]
    Incomparable {
        /// Where.
        target: StoreUrl,
        /// The source's newest revision.
        revision: i64,
    },
    /// What arrived is not what was sent.
    #[error("what arrived in {target} is not what was sent, and was undone: {difference}")]
    Mismatch {
        /// Where.
        target: StoreUrl,
        /// In which numbers it differs: those of the source, then those of the target.
        difference: String,
    },
}

type Result<T> = std::result::Result<T, TransferError>;

/// Moves the store in the file `from` to the PostgreSQL database at the URL `to`, unless that was
/// done before. `progress` is told the number of rows of each table that arrived.
pub async fn transfer(
    from: &Path,
    to: &str,
    progress: &(dyn Fn(&'static str, u64) + Sync),
) -> Result<Transferred> {
    let mut export = Export::open(from).await.map_err(TransferError::Source)?;
    let result = into(to, &mut export, progress).await;
    // What is moved is moved, and the file is as it was, whether or not it can be closed in order.
    let _ = export.close().await;
    result
}

async fn into(
    url: &str,
    export: &mut Export,
    progress: &(dyn Fn(&'static str, u64) + Sync),
) -> Result<Transferred> {
    let target = &StoreUrl::Postgres(url.to_owned());
    let source = export.census().await.map_err(TransferError::Source)?;
    source.check_log()?;
    let mut connection = postgres::connect_to_import(url).await.map_err(failed(target))?;
    let mut import = Import::begin(&mut connection).await.map_err(failed(target))?;
    let outcome = match import.census().await.map_err(failed(target))? {
        found if found.epoch == source.epoch => {
            compare(target, export, &mut import, &source, &found).await?
        }
        found => {
            refuse_unless_empty(target, found)?;
            let replaced = copy(target, export, &mut import, &source, progress).await?;
            import.commit().await.map_err(failed(target))?;
            postgres::analyze(&mut connection).await;
            Outcome::Moved { replaced }
        }
    };
    Ok(Transferred { target: target.clone(), source, outcome })
}

/// What to say of a target that has this source's epoch already.
async fn compare(
    target: &StoreUrl,
    export: &mut Export,
    import: &mut Import<'_>,
    source: &Census,
    found: &Census,
) -> Result<Outcome> {
    let (name, revision) = (target.clone(), source.revision);
    if found.revision < revision {
        let target_revision = found.revision;
        return Err(TransferError::SourceWentOn {
            target: name,
            source_revision: revision,
            target_revision,
        });
    }
    // No two entries are alike, so that the newest of the source stands for all before it.
    let here = export.entry(revision).await.map_err(TransferError::Source)?;
    let there = import.entry(revision).await.map_err(failed(target))?;
    match (here, there) {
        (here, there) if here == there => {}
        (Some(_), Some(_)) => return Err(TransferError::Diverged { target: name, revision }),
        _ => return Err(TransferError::Incomparable { target: name, revision }),
    }
    if found.revision == revision {
        Ok(Outcome::AlreadyThere)
    } else {
        Ok(Outcome::TargetWentOn { revision: found.revision })
    }
}

/// Brings over every table and checks what arrived; returns how many U+0000 were replaced.
async fn copy(
    target: &StoreUrl,
    export: &mut Export,
    import: &mut Import<'_>,
    source: &Census,
    progress: &(dyn Fn(&'static str, u64) + Sync),
) -> Result<u64> {
    import.lock().await.map_err(failed(target))?;
    // It was empty before the lock was waited for; what counts is that it is empty now.
    refuse_unless_empty(target, import.census().await.map_err(failed(target))?)?;
    import.clear().await.map_err(failed(target))?;
    let mut replaced = 0;
    for table in TABLES {
        let mut rows = export.rows(table);
        let mut copy = import.copy(table).await.map_err(failed(target))?;
        while let Some(row) = rows.try_next().await.map_err(TransferError::Source)? {
            let cells = Export::cells(&row).map_err(TransferError::Source)?;
            copy.row(&cells).await.map_err(failed(target))?;
        }
        let arrived = copy.finish().await.map_err(failed(target))?;
        replaced += arrived.replaced;
        progress(table.name, arrived.rows);
    }
    let arrived = import.census().await.map_err(failed(target))?;
    match source.difference(&arrived) {
        None => Ok(replaced),
        Some(difference) => Err(TransferError::Mismatch { target: target.clone(), difference }),
    }
}

fn refuse_unless_empty(target: &StoreUrl, found: Census) -> Result<()> {
    if found.is_empty() {
        Ok(())
    } else {
        Err(TransferError::NotEmpty { target: target.clone(), found: Box::new(found) })
    }
}

fn failed(target: &StoreUrl) -> impl FnOnce(BackendError) -> TransferError {
    let target = target.clone();
    |source| TransferError::Target { target, source }
}
