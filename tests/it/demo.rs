//! `flowgate demo` as a user runs it: it says that all went as expected if it did, and only then.
//! It brings a store of its own, so there is no database to choose.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the demo, with what is in `first` found before everything else on the `PATH`.
fn demo(first: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOWGATE_") {
            command.env_remove(name);
        }
    }
    if let Some(first) = first {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(first.to_owned()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).unwrap());
    }
    command.arg("demo").output().expect("cargo built the binary")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn run(first: Option<std::path::PathBuf>) -> Output {
    tokio::task::spawn_blocking(move || demo(first.as_deref())).await.unwrap()
}

#[tokio::test]
async fn the_demo_goes_as_expected() {
    let output = run(None).await;
    let said = said(&output);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}{complaint}", output.status);
    let last = said.lines().last().expect("it says something");
    assert!(last.starts_with("all as expected, in "), "{last}");
}

/// A Python that runs nothing, but ends well: only the result of its module is not as expected.
#[tokio::test]
async fn the_demo_does_not_hide_what_is_not_as_expected() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let python = folder.path().join("python3");
    std::fs::write(&python, "#!/bin/sh\necho none\n").unwrap();
    std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();

    let output = run(Some(folder.path().to_owned())).await;
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().expect("it says something");
    assert!(last.starts_with("1 not as expected, after "), "{last}");
    let row = said.lines().rfind(|line| line.trim_start().starts_with("word count"));
    assert!(row.is_some_and(|row| row.trim_end().ends_with("NO")), "{said}");
}
