//! What there is to do: the file read once from end to end before anything is submitted.
//!
//! What must stay true: a file with a line that is no submission is refused whole, and of every line
//! no more is kept than what stands for its content (16 bytes), however long the file is.

use std::fs::File;
use std::io::{self, Seek as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::lines::Lines;
use super::name::{Digest, Name};
use super::request::{MAX_LINE_BYTES, Reading};
use crate::cli::output::note;

/// Lines at fault that are named; the others are counted.
const MAX_TOLD: usize = 20;

/// Where the lines come from.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    /// For people.
    pub(super) shown: String,
    /// The batch's name by where the file lies; none for what is read only once.
    pub(super) name: Option<Name>,
}

impl Source {
    /// Opens a file, or takes in stdin for `-`. A pipe ends up in a file without a name, because
    /// it has to be read twice.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            let file = spooled(&mut io::stdin().lock()).context("cannot take in stdin")?;
            return Ok(Self { file, shown: "stdin".to_owned(), name: None });
        }
        let shown = path.display().to_string();
        let cannot = || format!("cannot read {shown}");
        let mut file = File::open(path).with_context(cannot)?;
        let kind = file.metadata().with_context(cannot)?.file_type();
        if kind.is_dir() {
            bail!("{}: it is a directory", cannot());
        }
        let name = match kind.is_file() {
            true => Some(Name::of_file(path).with_context(cannot)?),
            false => {
                file = spooled(&mut file).with_context(cannot)?;
                None
            }
        };
        Ok(Self { file, shown, name })
    }

    /// The lines from the first on.
    pub(super) fn lines(&self) -> io::Result<Lines<&File>> {
        (&self.file).rewind()?;
        Ok(Lines::new(&self.file, MAX_LINE_BYTES))
    }

    /// The file itself, to tell it from another.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

fn spooled(from: &mut impl io::Read) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    io::copy(from, &mut file)?;
    Ok(file)
}

/// How a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineState {
    /// Nothing is to be done for it.
    Blank,
    /// It has no result yet.
    Open(Digest),
    /// It has its result.
    Done,
}

/// Every line, by its number.
#[derive(Debug)]
pub(super) struct Plan {
    lines: Vec<LineState>,
    /// Lines that are not blank.
    pub(super) total: u64,
}

impl Plan {
    /// Reads and checks every line.
    pub(super) fn read(source: &Source, reading: &Reading) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read {}", source.shown);
        let mut plan = Self { lines: Vec::new(), total: 0 };
        let mut faults = 0;
        let mut lines = source.lines().with_context(cannot)?;
        while let Some(line) = lines.next().with_context(cannot)? {
            let state = match line.text {
                None => Err(format!("is longer than {MAX_LINE_BYTES} bytes")),
                Some(text) => match reading.digest(text) {
                    None => Ok(LineState::Blank),
                    Some(digest) => reading
                        .request(line.number, text, digest)
                        .map(|_checked| LineState::Open(digest)),
                },
            };
            let state = state.unwrap_or_else(|problem| {
                faults += 1;
                if faults <= MAX_TOLD {
                    note(format_args!("{} line {}: {problem}", source.shown, line.number));
                }
                LineState::Blank
            });
            plan.total += u64::from(state != LineState::Blank);
            plan.lines.push(state);
        }
        match faults {
            0 => Ok(plan),
            1 => bail!("1 line of {} is no submission; nothing was submitted", source.shown),
            _ => {
                bail!(
                    "{faults} lines of {} are no submissions; nothing was submitted",
                    source.shown
                )
            }
        }
    }

    /// How a line stands; one that is not there is blank.
    pub(super) fn state(&self, line: u64) -> LineState {
        let index = usize::try_from(line).unwrap_or(usize::MAX).wrapping_sub(1);
        self.lines.get(index).copied().unwrap_or(LineState::Blank)
    }

    /// Marks a line as one that has its result.
    pub(super) fn done(&mut self, line: u64) {
        let index = usize::try_from(line).unwrap_or(usize::MAX).wrapping_sub(1);
        if let Some(state) = self.lines.get_mut(index) {
            *state = LineState::Done;
        }
    }
}
