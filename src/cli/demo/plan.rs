//! What the demo submits, to which providers, and what is expected of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::modules::{self, Interpreters};
use crate::pb::{ErrorCode, ExecutionState};

/// The simulated providers and their limits. `process` stands beside them.
pub(super) const SIMULATED: [(&str, usize); 8] = [
    ("claude", 3),
    ("openai", 3),
    ("ollama", 2),
    ("flaky", 2),
    ("busy", 2),
    ("single", 1),
    ("nightly", 2),
    ("embeddings", 1),
];
pub(super) const PROCESS: (&str, usize) = ("process", 4);

/// More than all limits together, raised ones included: what waits here is to wait for its limit.
const SLOTS: usize = 100;

/// One execution, or several alike.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// What the board, the script and the summary know it by.
    pub(super) name: &'static str,
    pub(super) provider: &'static str,
    pub(super) count: usize,
    pub(super) input: Value,
    pub(super) priority: i32,
    pub(super) run_timeout: Option<Duration>,
    pub(super) max_attempts: Option<i32>,
    /// Whether a scene of the script submits it.
    pub(super) in_a_scene: bool,
    pub(super) expected: Expected,
}

/// How an execution should end.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    pub(super) state: ExecutionState,
    /// The error's code, where it should fail.
    pub(super) code: Option<ErrorCode>,
    /// Attempts made, and attempts charged.
    pub(super) attempts: (usize, i32),
    /// Fields of the output: a text must be part of what is there, anything else be equal.
    pub(super) output: Vec<(&'static str, Value)>,
}

/// The parts, in the order of the summary.
pub(super) fn parts(interpreters: &Interpreters) -> Vec<Part> {
    let mut parts = module_parts(interpreters);
    let work = |milliseconds| json!({ "duration_ms": milliseconds, "chunks": 2 });
    parts.extend([
        part("claude calls", "claude", work(1_200)).times(8),
        part("openai calls", "openai", work(900)).times(8),
        part("ollama calls", "ollama", work(800)).times(6),
        part("fails once", "flaky", json!({ "fail": "transient", "fail_attempts": 1 }))
            .attempts(2, 2),
        part("fails for good", "flaky", json!({ "fail": "permanent" })).fails(ErrorCode::Permanent),
        part(
            "rate limited",
            "busy",
            json!({ "fail": "rate_limited", "fail_attempts": 1, "retry_after_ms": 1_500 }),
        )
        // The one that was turned away costs nothing.
        .attempts(2, 1),
        part("stopped", "flaky", work(60_000)).cancelled(1).staged(),
        part("blocker", "single", work(2_500)).staged(),
        part("withdrawn", "single", work(100)).cancelled(0).staged(),
        part("ordinary", "single", work(400)).staged(),
        part("urgent", "single", work(400)).priority(10).staged(),
        part("later", "flaky", work(100)).staged(),
        part("overnight", "nightly", work(600)).times(3).staged(),
        part("vectors", "embeddings", work(1_500)).times(8).staged(),
        part("submitted twice", "openai", work(100)).staged(),
    ]);
    parts
}

fn module_parts(interpreters: &Interpreters) -> Vec<Part> {
    let text =
        "To be or not to be.\nThat is the question.\n\nWhether it is nobler to wait! Or to run.";
    let words = json!({ "text": text }).to_string();
    let orders = r#"[{"customer":"ada","cents":500},{"customer":"alan","cents":900},{"customer":"ada","cents":700}]"#;
    let mut parts = Vec::new();
    if interpreters.python {
        let input = json!({ "module": "word_count.py", "stdin": words });
        parts.push(part("word count", PROCESS.0, input).prints("\"words\": 19"));
    }
    let input = json!({ "module": "summarize.sh", "stdin": text, "args": ["2"] });
    parts.push(part("summary", PROCESS.0, input).prints("2 paragraphs, 19 words"));
    if interpreters.node {
        let input = json!({ "module": "transform.mjs", "stdin": orders });
        let ada = r#"{"customer":"ada","cents":1200}"#;
        parts.push(part("order totals", PROCESS.0, input).prints(ada));
    }
    let mut exits = part("exits with 3", PROCESS.0, json!({ "module": "fails.sh" }))
        .fails(ErrorCode::ModuleFailed);
    exits.expected.output =
        vec![("exit_code", json!(3)), ("stderr", json!("the report has no total"))];
    let mut hangs =
        part("hangs", PROCESS.0, json!({ "module": "hangs.sh" })).fails(ErrorCode::Timeout);
    hangs.run_timeout = Some(Duration::from_secs(1));
    hangs.max_attempts = Some(1);
    let missing = part("no such module", PROCESS.0, json!({ "module": "not_there.py" }))
        .fails(ErrorCode::ModuleNotFound);
    parts.extend([exits, hangs, missing]);
    parts
}

/// One that succeeds at its first attempt.
fn part(name: &'static str, provider: &'static str, input: Value) -> Part {
    let expected =
        Expected { state: ExecutionState::Succeeded, attempts: (1, 1), ..Expected::default() };
    Part {
        name,
        provider,
        count: 1,
        input,
        priority: 0,
        run_timeout: None,
        max_attempts: None,
        in_a_scene: false,
        expected,
    }
}

impl Part {
    fn times(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// What the script does with it beyond submitting it is in `script`.
    fn staged(mut self) -> Self {
        self.in_a_scene = true;
        self
    }

    fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    fn attempts(mut self, made: usize, charged: i32) -> Self {
        self.expected.attempts = (made, charged);
        self
    }

    fn prints(mut self, text: &'static str) -> Self {
        self.expected.output = vec![("stdout", json!(text))];
        self
    }

    fn fails(mut self, code: ErrorCode) -> Self {
        self.expected.state = ExecutionState::Failed;
        self.expected.code = Some(code);
        self
    }

    /// Cancelled while on its first attempt, or before it.
    fn cancelled(mut self, attempts: i32) -> Self {
        self.expected.state = ExecutionState::Cancelled;
        self.expected.attempts = (usize::from(attempts > 0), attempts);
        self
    }
}

/// The limit each provider starts with.
pub(super) fn limits() -> BTreeMap<&'static str, usize> {
    SIMULATED.into_iter().chain([PROCESS]).collect()
}

/// Writes the server's configuration.
pub(super) fn write_config(dir: &Path) -> anyhow::Result<()> {
    let modules_dir = modules::dir(dir);
    let (process, limit) = PROCESS;
    let mut config = format!(
        "slots = {SLOTS}\n[providers.{process}]\nmax_concurrent = {limit}\nmodules_dir = '{}'\n",
        modules_dir.display()
    );
    for (name, limit) in SIMULATED {
        let section =
            format_args!("\n[providers.{name}]\nkind = \"simulated\"\nmax_concurrent = {limit}\n");
        write!(config, "{section}").expect("writing to a string does not fail");
    }
    let path = dir.join("flowgate.toml");
    std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_name_of_its_own_and_a_provider_that_exists() {
        let parts = parts(&Interpreters { python: true, node: true });
        for (index, part) in parts.iter().enumerate() {
            assert!(limits().contains_key(part.provider), "{}", part.provider);
            assert!(parts[..index].iter().all(|other| other.name != part.name), "{}", part.name);
        }
    }
}
