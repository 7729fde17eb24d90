//! The map in ARCHITECTURE.md, enforced: which part of the crate may use which.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each part with the parts it may use; what is not listed here is a new part without a place.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("tasks", &[]),
    ("pb", &[]),
    ("providers", &["domain", "telemetry"]),
    ("metrics", &["domain"]),
    ("store", &["domain", "metrics", "tasks", "telemetry"]),
    ("engine", &["domain", "metrics", "providers", "store", "tasks", "telemetry"]),
    ("api", &["domain", "engine", "metrics", "pb", "providers", "store", "telemetry"]),
    ("http", &["domain", "engine", "health", "metrics", "shutdown", "store"]),
    ("health", &["engine", "metrics", "shutdown", "store"]),
    ("config", &["domain", "engine", "providers", "store", "telemetry"]),
    ("telemetry", &["domain", "metrics"]),
    ("shutdown", &[]),
    ("admin", &["domain", "store", "tasks"]),
    ("cli", &["pb"]),
];

/// The parts that put the others together.
const ASSEMBLY: &[&str] = &["main", "lib", "server"];

#[test]
fn no_part_uses_one_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for file in sources(&src) {
        let part = part_of(&src, &file);
        if ASSEMBLY.contains(&part.as_str()) {
            continue;
        }
        let Some((_, may_use)) = MAY_USE.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!("{} belongs to no part of the map", file.display()));
            continue;
        };
        for used in used_by(&std::fs::read_to_string(&file).unwrap()) {
            if used != part && !may_use.contains(&used.as_str()) {
                wrong.push(format!("{} uses crate::{used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "the map of ARCHITECTURE.md is broken:\n{}", wrong.join("\n"));
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

fn part_of(src: &Path, file: &Path) -> String {
    let below = file.strip_prefix(src).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Every `crate::part` that is named, also inside a grouped `use crate::{…}`.
fn used_by(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for after in text.split("crate::").skip(1) {
        let name = |text: &str| -> String {
            text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect()
        };
        match after.strip_prefix('{') {
            Some(group) => {
                let group = group.split_once("};").map_or(group, |(inside, _)| inside);
                used.extend(group.split(',').map(|item| name(item.trim())));
            }
            None => {
                used.insert(name(after));
            }
        }
    }
    used.remove("");
    used
}
