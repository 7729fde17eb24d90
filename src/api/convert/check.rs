//! Collects everything that is wrong with a request, each with the path of its field.

use std::fmt::Display;

use crate::providers::Violation;

/// More than anyone reads; a hostile batch could bring millions.
const MAX_KEPT: usize = 100;

/// What is wrong with a request; at least one thing.
#[derive(Debug)]
pub(crate) struct Violations {
    /// In the order they were found.
    pub(crate) kept: Vec<Violation>,
    /// How many were found beyond those.
    pub(crate) left_out: usize,
}

/// A request being checked.
#[derive(Debug, Default)]
pub(crate) struct Check {
    prefix: String,
    kept: Vec<Violation>,
    left_out: usize,
}

impl Check {
    /// Notes a violation of `field`, a path below the present prefix; empty for the prefix itself.
    pub(crate) fn add(&mut self, field: impl AsRef<str>, description: impl Into<String>) {
        if self.kept.len() < MAX_KEPT {
            self.kept.push(Violation::new(join(&self.prefix, field.as_ref()), description));
        } else {
            self.left_out += 1;
        }
    }

    /// The value of a field, or a note of why it has none.
    pub(crate) fn field<T, E: Display>(
        &mut self,
        field: impl AsRef<str>,
        checked: Result<T, E>,
    ) -> Option<T> {
        checked.map_err(|error| self.add(field, error.to_string())).ok()
    }

    /// The same for a field that may be absent.
    pub(crate) fn optional<T, U, E: Display>(
        &mut self,
        field: impl AsRef<str>,
        given: Option<T>,
        checked: impl FnOnce(T) -> Result<U, E>,
    ) -> Option<U> {
        given.and_then(|given| self.field(field, checked(given)))
    }

    /// Checks what lies below `segment`.
    pub(crate) fn within<T>(&mut self, segment: &str, below: impl FnOnce(&mut Self) -> T) -> T {
        let longer = join(&self.prefix, segment);
        let shorter = std::mem::replace(&mut self.prefix, longer);
        let value = below(self);
        self.prefix = shorter;
        value
    }

    /// The checked request, if nothing is wrong with it. `None` where a violation left no value.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, Violations> {
        let Self { kept, left_out, .. } = self;
        match value {
            Some(value) if kept.is_empty() => Ok(value),
            Some(_) | None => Err(Violations { kept, left_out }),
        }
    }
}

/// The path of `field` below `prefix`: `a.b`, `a[0]`, or one of both if the other is empty.
pub(crate) fn join(prefix: &str, field: &str) -> String {
    let dot =
        if prefix.is_empty() || field.is_empty() || field.starts_with('[') { "" } else { "." };
    format!("{prefix}{dot}{field}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_kept_with_its_whole_path() {
        let mut check = Check::default();
        check.within("requests[7]", |check| {
            check.add("provider", "is required");
            check.within("input", |check| {
                check.add("[bad key]", "is odd");
                check.add("", "is large");
            });
        });
        let violations = check.finish(Some(())).expect_err("three things are wrong");
        let fields: Vec<_> = violations.kept.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(
            fields,
            ["requests[7].provider", "requests[7].input[bad key]", "requests[7].input"]
        );
    }

    #[test]
    fn a_flood_of_violations_is_counted_but_not_kept() {
        let mut check = Check::default();
        for index in 0..1_000 {
            check.add(format!("requests[{index}]"), "is wrong");
        }
        let violations = check.finish(Some(())).expect_err("all are wrong");
        assert_eq!((violations.kept.len(), violations.left_out), (MAX_KEPT, 900));
    }
}
