//! What a client may ask of the `process` provider.
//!
//! What must stay true: an input chooses a module, and what that reads; never which other code is
//! loaded with it. Environment variables that do are therefore refused.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::module;
use crate::providers::Violation;

/// The longest `module_id`.
const MAX_ID_CHARS: usize = 128;
/// The most arguments, and the most environment variables.
const MAX_ENTRIES: usize = 1_024;
/// The longest argument or `NAME=value`: with its end, what Linux takes.
const MAX_ENTRY_BYTES: usize = 128 * 1_024 - 1;
/// The longest arguments and environment taken together: what every system takes.
const MAX_ENTRIES_BYTES: usize = 768 * 1_024;
/// The longest standard input.
const MAX_STDIN_BYTES: usize = 16 * 1_024 * 1_024;

/// Environment variables that choose what code runs, besides those that start with one of
/// [`REFUSED_PREFIXES`].
const REFUSED: [&str; 30] = [
    "BASHOPTS",
    "BASH_ENV",
    "CLASSPATH",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PYTHONBREAKPOINT",
    "PYTHONEXECUTABLE",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONPLATLIBDIR",
    "PYTHONPYCACHEPREFIX",
    "PYTHONSTARTUP",
    "PYTHONUSERBASE",
    "PYTHONWARNINGS",
    "SHELLOPTS",
];
/// How the names of more such variables start, and of those that Flowgate sets itself.
const REFUSED_PREFIXES: [&str; 5] = ["LD_", "DYLD_", "FLOWGATE_", "RUBY", "_JAVA_"];

/// A checked input.
#[derive(Debug, Deserialize)]
pub(super) struct Input {
    /// Path of the module below the modules' directory.
    pub(super) module: String,
    /// What the client calls it.
    #[serde(default = "default_id")]
    pub(super) module_id: String,
    /// Its arguments.
    #[serde(default)]
    pub(super) args: Vec<String>,
    /// What it reads.
    pub(super) stdin: Option<String>,
    /// Added to its environment.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
}

fn default_id() -> String {
    "module".to_owned()
}

impl Input {
    /// Reads an input, or tells all that is wrong with it.
    pub(super) fn read(input: Map<String, Value>) -> Result<Self, Vec<Violation>> {
        check(&input)?;
        serde_json::from_value(Value::Object(input))
            .map_err(|error| vec![Violation::new("", error.to_string())])
    }
}

/// Tells all that is wrong with an input, if anything is.
pub(super) fn check(input: &Map<String, Value>) -> Result<(), Vec<Violation>> {
    let mut found = Findings::default();
    if !input.contains_key("module") {
        found.add("module", "is required");
    }
    for (key, value) in input {
        match key.as_str() {
            "module" => found.module(value),
            "module_id" => found.module_id(value),
            "args" => found.args(value),
            "stdin" => found.stdin(value),
            "env" => found.env(value),
            _ => found.add(shown(key), "is not a field of a process input"),
        }
    }
    if found.entries_bytes > MAX_ENTRIES_BYTES {
        found.add("args", "together with env must not be longer than 768 KiB");
    }
    if found.violations.is_empty() { Ok(()) } else { Err(found.violations) }
}

#[derive(Default)]
struct Findings {
    violations: Vec<Violation>,
    /// Size of arguments and environment so far.
    entries_bytes: usize,
}

impl Findings {
    fn add(&mut self, field: impl Into<String>, description: &str) {
        self.violations.push(Violation::new(field, description));
    }

    fn module(&mut self, value: &Value) {
        match value.as_str().map(module::misnamed) {
            Some(None) => {}
            Some(Some(wrong)) => self.add("module", wrong),
            None => self.add("module", "must be a string"),
        }
    }

    fn module_id(&mut self, value: &Value) {
        let valid = |id: &str| {
            (1..=MAX_ID_CHARS).contains(&id.chars().count()) && !id.contains(char::is_control)
        };
        if !value.as_str().is_some_and(valid) {
            self.add("module_id", "must be a string of 1 to 128 printable characters");
        }
    }

    fn args(&mut self, value: &Value) {
        let Some(args) = value.as_array().filter(|args| args.len() <= MAX_ENTRIES) else {
            return self.add("args", "must be a list of at most 1024 strings");
        };
        for (index, arg) in args.iter().enumerate() {
            self.entry(&format!("args[{index}]"), 0, arg);
        }
    }

    fn stdin(&mut self, value: &Value) {
        if value.as_str().is_none_or(|stdin| stdin.len() > MAX_STDIN_BYTES) {
            self.add("stdin", "must be a string of at most 16 MiB");
        }
    }

    fn env(&mut self, value: &Value) {
        let Some(env) = value.as_object().filter(|env| env.len() <= MAX_ENTRIES) else {
            return self.add("env", "must be an object of at most 1024 strings");
        };
        for (name, value) in env {
            let field = format!("env.{}", shown(name));
            if !is_name(name) {
                self.add(&field, "must have a name of letters, digits and underscores");
            } else if is_refused(name) {
                self.add(&field, "is not for an input to set: the operator decides what code runs");
            }
            self.entry(&field, name.len() + 1, value);
        }
    }

    /// An argument, or the value of a variable whose name takes `more_bytes`.
    fn entry(&mut self, field: &str, more_bytes: usize, value: &Value) {
        match value.as_str() {
            None => self.add(field, "must be a string"),
            Some(text) if text.contains('\0') => self.add(field, "must not contain NUL"),
            Some(text) if text.len() + more_bytes > MAX_ENTRY_BYTES => {
                self.add(field, "must be shorter than 128 KiB");
            }
            // With the NUL at its end and the pointer to it.
            Some(text) => self.entries_bytes += text.len() + more_bytes + 9,
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_refused(name: &str) -> bool {
    REFUSED.contains(&name) || REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The start of a key that may be any text, of any length.
fn shown(key: &str) -> String {
    key.chars().take(64).collect()
}
