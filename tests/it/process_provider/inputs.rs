//! What is refused at submission, and what is not.

use std::os::unix::fs::symlink;

use super::*;

fn fields(provider: &Process, input: Value) -> Vec<String> {
    let Value::Object(input) = input else { panic!("an input is an object") };
    let violations = provider.check(&input).err().unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

#[test]
fn a_plain_input_passes_whether_or_not_its_module_exists_yet() {
    let provider = Modules::with("a/b.sh", "").provider();
    let input = json!({
        "module": "a/b.sh", "module_id": "x", "args": ["", "-c"], "stdin": "", "env": { "_A1": "" },
    });
    assert_eq!(fields(&provider, input), Vec::<String>::new());
    assert_eq!(fields(&provider, module("missing.sh")), Vec::<String>::new());
}

#[test]
fn a_path_that_is_not_plain_is_refused() {
    let provider = Modules::with("x", "").provider();
    for path in [
        "",
        "/etc/passwd",
        "../x",
        "a/../x",
        "a/..",
        "..",
        ".",
        "./x",
        "a//x",
        "a/",
        "..\\x",
        "C:\\x",
        "a\0b",
        "a\nb",
    ] {
        assert_eq!(fields(&provider, module(path)), ["module"], "{path:?}");
    }
    assert_eq!(fields(&provider, module(&"x".repeat(1_025))), ["module"]);
}

#[tokio::test]
async fn a_link_that_leads_out_is_refused_at_submission_and_again_when_run() {
    let outside = Modules::with("secret.sh", "echo secret");
    let modules = Modules::with("x.sh", "");
    symlink(outside.dir(), modules.dir().join("away")).unwrap();
    symlink(outside.dir().join("secret.sh"), modules.dir().join("direct.sh")).unwrap();
    for path in ["away/secret.sh", "direct.sh"] {
        assert_eq!(fields(&modules.provider(), module(path)), ["module"]);
        let failure = modules.run(module(path)).await.unwrap_err().failure;
        assert!(failure.message.contains("leads out"), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_link_within_the_directory_is_followed() {
    let modules = Modules::with("v2/run.sh", "echo here");
    symlink("v2", modules.dir().join("current")).unwrap();
    assert!(fields(&modules.provider(), module("current/run.sh")).is_empty());
    let output = modules.run(module("current/run.sh")).await.unwrap().output;
    assert_eq!(text(&output, "stdout"), "here\n");
}

#[test]
fn every_violation_names_its_field() {
    let provider = Modules::new().provider();
    let input = json!({
        "module_id": "", "args": ["ok", 7, "a\0b"], "stdin": 1, "extra": true,
        "env": { "1A": "x", "A-B": "x", "FOO": 3, "BAR": "a\0b", "OK": "" },
    });
    let mut fields = fields(&provider, input);
    fields.sort();
    let expected = [
        "args[1]",
        "args[2]",
        "env.1A",
        "env.A-B",
        "env.BAR",
        "env.FOO",
        "extra",
        "module",
        "module_id",
        "stdin",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_variable_that_chooses_what_code_runs_is_refused() {
    let provider = Modules::new().provider();
    for name in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "DYLD_INSERT_LIBRARIES",
        "PATH",
        "PYTHONPATH",
        "NODE_OPTIONS",
        "BASH_ENV",
        "ENV",
        "PERL5OPT",
        "RUBYOPT",
        "FLOWGATE_EXECUTION_ID",
    ] {
        let input = json!({ "module": "x", "env": { name: "x" } });
        assert_eq!(fields(&provider, input), [format!("env.{name}")]);
    }
}

#[test]
fn sizes_are_bounded() {
    let provider = Modules::new().provider();
    let long = "x".repeat(128 * 1_024);
    let check = |input| fields(&provider, input);
    assert_eq!(check(json!({ "module": "x", "args": [&long] })), ["args[0]"]);
    assert_eq!(check(json!({ "module": "x", "env": { "A": &long } })), ["env.A"]);
    assert_eq!(check(json!({ "module": "x", "args": vec![""; 1_025] })), ["args"]);
    assert_eq!(check(json!({ "module": "x", "args": vec![&long[1..]; 7] })), ["args"]);
    let huge = "x".repeat(16 * 1_024 * 1_024 + 1);
    assert_eq!(check(json!({ "module": "x", "stdin": huge })), ["stdin"]);
    assert_eq!(check(json!({ "module": "x", "module_id": "x".repeat(129) })), ["module_id"]);
}

#[tokio::test]
async fn the_largest_arguments_allowed_reach_the_module() {
    let modules = Modules::with("count.sh", "echo $# ${#1}");
    let args = vec!["x".repeat(128 * 1_024 - 1); 5];
    let output = modules.run(json!({ "module": "count.sh", "args": args })).await.unwrap().output;
    assert_eq!(text(&output, "stdout"), "5 131071\n");
}

#[test]
fn without_a_directory_submissions_are_refused() {
    assert!(Process::new(ProcessConfig::default()).unavailable().is_some());
    let modules = Modules::with("file", "");
    assert!(provider_of(modules.dir().join("file"), |_| {}).unavailable().is_some());
    assert_eq!(modules.provider().unavailable(), None);
}
