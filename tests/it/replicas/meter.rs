//! Providers that keep a record of their own: how many of their modules ran at the same time, on all
//! replicas together. What the store says of it is not asked.

use std::path::PathBuf;

use flowgate::pb::SubmitExecutionRequest;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Config, submit};

const MODULE: &str = include_str!("meter.py");

/// One such provider. All replicas run its modules from the same folder, where the record is.
pub(super) struct Meter {
    name: String,
    limit: u32,
    dir: TempDir,
}

/// What a meter's record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    /// How many modules ran.
    pub(super) runs: usize,
    /// The most that ran at the same time.
    pub(super) most: u32,
}

impl Meter {
    pub(super) fn new(name: &str, limit: u32) -> Self {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("present")).unwrap();
        std::fs::write(dir.path().join("meter.py"), MODULE).unwrap();
        Self { name: name.to_owned(), limit, dir }
    }

    pub(super) fn configure(&self, config: Config) -> Config {
        let Self { name, limit, dir } = self;
        config.toml(&format!(
            "[providers.{name}]\nkind = \"process\"\nmax_concurrent = {limit}\nmodules_dir = {:?}\n",
            dir.path()
        ))
    }

    /// An execution that takes this long, beside the time that a process takes to start.
    pub(super) fn execution(&self, millis: u32) -> SubmitExecutionRequest {
        let input =
            json!({ "module": "meter.py", "args": [millis.to_string(), self.limit.to_string()] });
        submit(&self.name, input)
    }

    pub(super) fn read(&self) -> Reading {
        let record = std::fs::read_to_string(self.dir.path().join("record")).unwrap_or_default();
        let counts = record.lines().map(|line| line.parse().expect("a count"));
        let counts: Vec<u32> = counts.collect();
        Reading { runs: counts.len(), most: counts.into_iter().max().unwrap_or(0) }
    }

    /// Where its modules work.
    pub(super) fn dir(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    /// The limit that its record must keep to.
    pub(super) fn limit(&self) -> u32 {
        self.limit
    }
}
