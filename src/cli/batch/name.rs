//! Names: of the batch, of a line's content, and of the submission that both make.
//!
//! What must stay true: the same line of the same batch has the same `request_id` in every run and
//! with every version of this program, because that is what keeps it from being executed twice.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// So long that a `request_id` made with it stays within 128 characters.
const MAX_NAME: usize = 64;
/// Characters of a file's own name that go into the batch's.
const MAX_STEM: usize = 40;

/// The name of a batch: also the value of the label its executions carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

/// Stands for the content of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Name {
    /// The name of a file's batch: the same as long as the file is found in the same place.
    pub(super) fn of_file(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let stem: String = stem.chars().filter(|char| is_allowed(*char)).take(MAX_STEM).collect();
        let place = Digest::of(&[path.as_os_str().as_bytes()]);
        Ok(Self(format!("{stem}-{place}").trim_start_matches('-').to_owned()))
    }

    /// A name that no other batch has.
    pub(super) fn fresh() -> Self {
        Self(format!("stdin-{:016x}", rand::random::<u64>()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The idempotency key of a line that brings none.
    pub(super) fn request_id(&self, line: u64, digest: Digest) -> String {
        format!("batch:{self}:{line}:{digest}")
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(is_allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("must be 1 to {MAX_NAME} of the characters a-z A-Z 0-9 . _ -"))
    }
}

fn is_allowed(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-')
}

impl Digest {
    /// Of several parts, told apart from the same bytes parted otherwise.
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let hash = hasher.finalize();
        let first = hash.first_chunk().expect("a SHA-256 hash has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_request_id_is_one_that_the_server_takes() {
        let name: Name = "n".repeat(MAX_NAME).parse().unwrap();
        let id = name.request_id(u64::MAX, Digest::of(&[b"line"]));
        assert!(id.len() <= 128, "{id}");
    }

    #[test]
    fn a_request_id_never_changes_between_versions() {
        let name: Name = "nightly".parse().unwrap();
        let id = name.request_id(7, Digest::of(&[b"{}", b"claude"]));
        assert_eq!(id, "batch:nightly:7:2f020bd2117d88f8");
    }

    #[test]
    fn a_file_has_the_same_name_by_whatever_way_it_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("Grüße 2026.jsonl");
        std::fs::write(&file, "").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let name = Name::of_file(&file).unwrap();
        assert_eq!(Name::of_file(&link).unwrap(), name);
        assert!(name.as_str().starts_with("Gre2026-"), "{name}");
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
    }

    #[test]
    fn a_name_fits_a_label_and_a_request_id() {
        for text in ["", "a b", "ü", "a:b", &"n".repeat(65)] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert_ne!(Name::fresh(), Name::fresh());
    }
}
