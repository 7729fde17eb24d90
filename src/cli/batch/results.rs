//! The results: one JSON object a line, in order of completion, written whole or not at all.
//!
//! What must stay true: however often a run is killed and begun again with the same file of results,
//! that file holds every line at most once, and in the end exactly once. A run begins by reading it:
//! a torn last line goes, results of lines that were edited since and of lines that the server
//! refused make room for new ones, and anything that is not of this batch is left untouched and ends
//! the run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lines::Lines;
use super::name::{Digest, Name};
use super::plan::{LineState, Plan};
use super::report::Tally;
use crate::cli::names;
use crate::pb::ExecutionState;

/// More than any result takes.
const MAX_RESULT_BYTES: usize = 256 * 1024 * 1024;

/// What became of a line.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResultLine<'a> {
    pub(super) line: u64,
    /// None: the server refused the submission.
    pub(super) id: Option<&'a str>,
    pub(super) state: &'a str,
    pub(super) output: Option<Value>,
    pub(super) error: Option<Value>,
    /// How many attempts were made.
    pub(super) attempts: usize,
    /// Of all attempts together; none if no provider told any.
    pub(super) usage: Option<UsageSum>,
    /// Whether the execution was known before this submission.
    pub(super) replayed: bool,
    pub(super) request_id: &'a str,
    pub(super) batch: &'a str,
    pub(super) digest: String,
}

/// Tokens over all attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageSum {
    pub(super) input_tokens: i64,
    pub(super) output_tokens: i64,
}

/// As much of a result as tells whether it still holds.
#[derive(Debug, Deserialize)]
struct Found {
    line: u64,
    id: Option<String>,
    state: String,
    replayed: bool,
    batch: String,
    digest: String,
}

/// Where results go.
#[derive(Debug)]
pub(super) enum Results {
    /// Nothing is known of earlier runs.
    Stdout,
    /// Locked as long as this lives.
    File(File),
}

impl Results {
    /// Opens a file of results; what it holds already is marked as done, and counted.
    pub(super) fn open(
        path: &Path,
        input: &File,
        name: &Name,
        plan: &mut Plan,
        tally: &mut Tally,
    ) -> anyhow::Result<Self> {
        let shown = path.display();
        let cannot = || format!("cannot write results to {shown}");
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.with_context(cannot)?;
        let metadata = file.metadata().with_context(cannot)?;
        let read = input.metadata().with_context(cannot)?;
        if (metadata.dev(), metadata.ino()) == (read.dev(), read.ino()) {
            bail!("{}: the lines come from there", cannot());
        }
        if !metadata.is_file() {
            // A pipe or a terminal: as stdout.
            return Ok(Self::File(file));
        }
        lock(&file).with_context(cannot)?;
        if std::fs::metadata(path).with_context(cannot)?.ino() != metadata.ino() {
            bail!("{}: another run has just replaced it", cannot());
        }
        let kept = Kept::read(&file, &shown.to_string(), name, plan, tally)?;
        let file = match kept.stale.is_empty() {
            true => {
                // What a killed run wrote half of.
                file.set_len(kept.end).with_context(cannot)?;
                file
            }
            false => kept.without_stale(&file, path).with_context(cannot)?,
        };
        Ok(Self::File(file))
    }

    /// Writes one result.
    pub(super) fn write(&mut self, result: &ResultLine<'_>) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(result).context("cannot write a result as JSON")?;
        line.push(b'\n');
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&line)?;
                stdout.flush()?;
            }
            Self::File(file) => file.write_all(&line).context("cannot write a result")?,
        }
        Ok(())
    }

    /// Makes what was written safe from a crash of the machine.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(file) if file.metadata()?.is_file() => file.sync_data(),
            Self::File(_) | Self::Stdout => Ok(()),
        }
    }
}

fn lock(file: &File) -> io::Result<()> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::other("another run is writing to it"),
        TryLockError::Error(error) => error,
    })
}

/// What of an existing file of results stays.
struct Kept {
    /// Where its last whole line ends.
    end: u64,
    /// Lines within that make room for new ones.
    stale: Vec<Range<u64>>,
}

/// How every result begins.
const OPENING: &[u8] = b"{\"line\"";

impl Kept {
    fn read(
        file: &File,
        shown: &str,
        name: &Name,
        plan: &mut Plan,
        tally: &mut Tally,
    ) -> anyhow::Result<Self> {
        let mut kept = Self { end: 0, stale: Vec::new() };
        let mut lines = Lines::new(file, MAX_RESULT_BYTES);
        while let Some(line) = lines.next().with_context(|| format!("cannot read {shown}"))? {
            let elsewhere = "name another --output-file";
            if !line.complete {
                // The beginning of a result that a run was stopped in; whatever else it is stays.
                let torn = line
                    .text
                    .is_some_and(|text| text.starts_with(OPENING) || OPENING.starts_with(text));
                if torn {
                    break;
                }
                bail!("{shown} line {} is no result of a batch; {elsewhere}", line.number);
            }
            kept.end = line.end;
            let found = line.text.and_then(|text| serde_json::from_slice::<Found>(text).ok());
            let Some(found) = found else {
                bail!("{shown} line {} is no result of a batch; {elsewhere}", line.number);
            };
            if found.batch != name.as_str() {
                let batch = &found.batch;
                bail!("{shown} holds results of the batch {batch}, this is {name}; {elsewhere}");
            }
            match plan.state(found.line) {
                LineState::Open(digest) if found.holds(digest) => {
                    plan.done(found.line);
                    tally.count_earlier(found.state(), found.replayed);
                }
                LineState::Open(_) => kept.stale.push(line.start..line.end),
                LineState::Blank => {
                    bail!(
                        "{shown} holds a result of line {}, which is gone; {elsewhere}",
                        found.line
                    )
                }
                LineState::Done => {
                    bail!("{shown} holds two results of line {}; {elsewhere}", found.line)
                }
            }
        }
        Ok(kept)
    }

    /// A copy of the file without the stale lines, in its place and locked like it.
    fn without_stale(&self, file: &File, path: &Path) -> io::Result<File> {
        // The file itself, where the path is a link.
        let path = path.canonicalize()?;
        let folder: PathBuf = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let mut copy = tempfile::NamedTempFile::new_in(folder)?;
        copy.as_file().set_permissions(file.metadata()?.permissions())?;
        let mut from = 0;
        let ends = self.stale.iter().cloned().chain(std::iter::once(self.end..self.end));
        for stale in ends {
            let mut reader = file;
            reader.seek(SeekFrom::Start(from))?;
            io::copy(&mut reader.take(stale.start - from), copy.as_file_mut())?;
            from = stale.end;
        }
        copy.as_file().sync_all()?;
        lock(copy.as_file())?;
        copy.persist(&path).map_err(|error| error.error)
    }
}

impl Found {
    /// Whether it is the result of the line as it is now. What the server refused may be taken now.
    fn holds(&self, digest: Digest) -> bool {
        self.id.is_some() && self.digest == digest.to_string()
    }

    fn state(&self) -> ExecutionState {
        names::parse(&self.state).unwrap_or(ExecutionState::Unspecified)
    }
}
