//! The example modules, carried in the binary so that the demo works from anywhere.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

/// File name and text.
const MODULES: [(&str, &str); 5] = [
    ("word_count.py", include_str!("../../../examples/modules/word_count.py")),
    ("summarize.sh", include_str!("../../../examples/modules/summarize.sh")),
    ("transform.mjs", include_str!("../../../examples/modules/transform.mjs")),
    ("fails.sh", include_str!("../../../examples/modules/fails.sh")),
    ("hangs.sh", include_str!("../../../examples/modules/hangs.sh")),
];

/// Which interpreters this machine has. A shell is taken for granted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interpreters {
    pub(super) python: bool,
    pub(super) node: bool,
}

impl Interpreters {
    pub(super) fn missing(self) -> impl Iterator<Item = &'static str> {
        let all = [("python3", self.python), ("node", self.node)];
        all.into_iter().filter(|(_, present)| !present).map(|(name, _)| name)
    }
}

/// Where the modules of a demo in `dir` are.
pub(super) fn dir(dir: &Path) -> PathBuf {
    dir.join("modules")
}

/// Writes the modules, executable, and says which of them can run.
pub(super) async fn lay_out(demo_dir: &Path) -> anyhow::Result<Interpreters> {
    let dir = dir(demo_dir);
    std::fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, text) in MODULES {
        let path = dir.join(name);
        std::fs::write(&path, text)
            .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Interpreters { python: runs("python3").await, node: runs("node").await })
}

async fn runs(interpreter: &str) -> bool {
    let status = Command::new(interpreter)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    status.is_ok_and(|status| status.success())
}
