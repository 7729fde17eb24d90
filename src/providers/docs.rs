//! `docs/providers.md` shows the tables of failures that the adapters go by: this holds both to each
//! other.

use super::remote::{COMMON, Class, Rule};
use super::{Process, ProcessConfig, Provider as _, Simulated, claude, ollama, openai};
use crate::domain::ErrorCode;

const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/providers.md"));

/// The rows of the tables of one section, in cells.
fn rows(section: &str) -> Vec<Vec<&'static str>> {
    let start = format!("## {section}\n");
    let section = DOCS.split_once(&start).unwrap_or_else(|| panic!("no section {section}")).1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

fn word(class: Class) -> &'static str {
    match class {
        Class::Transient => "`TRANSIENT`",
        Class::RateLimited => "`RATE_LIMITED`",
        Class::Permanent => "`PERMANENT`",
    }
}

/// Asserts that a row that begins with each rule says its class.
fn shows(section: &str, rules: &[Rule]) {
    let rows = rows(section);
    for rule in rules {
        let (first, last) = (rule.status.start(), rule.status.end());
        let is_about = |cell: &str| match rule.named {
            Some(name) => cell.contains(&format!("`{name}`")),
            None if first == last => cell.split(", ").any(|it| it == first.to_string()),
            None => cell.ends_with(&format!("any other {}xx", first / 100)),
        };
        let row = rows.iter().find(|row| is_about(row[0]));
        let row = row.unwrap_or_else(|| panic!("{section} says nothing of {rule:?}"));
        assert!(row[1].starts_with(word(rule.class)), "{section} says otherwise of {rule:?}");
    }
}

#[test]
fn the_documentation_shows_what_each_error_means() {
    shows("What all kinds over HTTP share", COMMON);
    shows("openai", openai::RULES);
    shows("claude", claude::RULES);
    shows("ollama", ollama::RULES);
}

#[test]
fn the_documentation_shows_which_codes_are_retried_and_which_may_be_named() {
    let rows: Vec<_> = rows("Retries").into_iter().filter(|row| row[0].starts_with('`')).collect();
    let process = Process::new(ProcessConfig::default());
    let transient = [Simulated::default().transient_codes(), process.transient_codes()].concat();
    for code in ErrorCode::ALL {
        let name = format!("`{}`", code.name());
        let row = rows.iter().find(|row| row[0].split(", ").any(|cell| cell == name));
        let row = row.unwrap_or_else(|| panic!("it says nothing of {name}"));
        let refused = code.rule_of_its_own().is_some();
        assert_eq!(row[2], if refused { "refused" } else { "yes" }, "{name}");
        assert!(refused || row[1].starts_with("no") != transient.contains(&code), "{name}");
    }
}

#[test]
fn the_documentation_shows_no_rule_that_there_is_not() {
    for (section, rules) in [("openai", openai::RULES), ("claude", claude::RULES)] {
        let classes = ["`PERMANENT`", "`TRANSIENT`", "`RATE_LIMITED`"];
        let is_rule = |row: &Vec<&str>| classes.iter().any(|class| row[1].starts_with(class));
        let documented = rows(section).into_iter().filter(is_rule).count();
        assert_eq!(documented, rules.len(), "{section}");
    }
}
