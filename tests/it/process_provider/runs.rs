//! Modules that run to their end, and modules that cannot run.

use fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use flowgate::domain::{ErrorCode, FailureKind, TraceContext};

use super::*;

#[tokio::test]
async fn a_module_gets_its_arguments_its_input_and_its_variables() {
    let modules = Modules::with("sub/run.sh", r#"echo "$1|$2|$(cat)|$FOO|$FLOWGATE_ATTEMPT"; pwd"#);
    let input = json!({
        "module": "sub/run.sh", "module_id": "mine", "args": ["a b", "$(id)"],
        "stdin": "päper\n", "env": { "FOO": "bar" },
    });
    let output = modules.run(input).await.unwrap().output;
    let expected = format!("a b|$(id)|päper|bar|1\n{}\n", modules.dir().join("sub").display());
    assert_eq!(text(&output, "stdout"), expected);
    let duration_ms = output["duration_ms"].as_u64().unwrap();
    let rest = json!({
        "module_id": "mine", "module": "sub/run.sh", "exit_code": 0, "success": true,
        "error": null, "stdout": expected, "stderr": "", "stdout_truncated": false,
        "stderr_truncated": false, "stdout_bytes": expected.len(), "stderr_bytes": 0,
        "duration_ms": duration_ms, "cpu_seconds": output["cpu_seconds"],
        "peak_memory_bytes": output["peak_memory_bytes"],
    });
    assert_eq!(output, rest);
}

#[tokio::test]
async fn a_result_tells_what_all_of_the_modules_processes_used() {
    // A child that works, and another that holds 64 MiB.
    let modules = Modules::with(
        "works.sh",
        "sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'
         head -c 67108864 /dev/zero | tail -c 67108864 > /dev/null",
    );
    let output = modules.run(module("works.sh")).await.unwrap().output;
    let cpu_seconds = output["cpu_seconds"].as_f64().unwrap();
    assert!((0.01..60.0).contains(&cpu_seconds), "{output}");
    let peak = output["peak_memory_bytes"].as_u64().unwrap();
    assert!((64 << 20..1 << 30).contains(&peak), "{output}");
}

#[tokio::test]
async fn what_fails_tells_what_it_used_and_what_did_not_run_does_not() {
    let modules = Modules::with("fails.sh", "exit 3");
    let failed = Attempt::start(modules.provider(), module("fails.sh")).failure().await;
    let output = failed.output.unwrap();
    assert!(output["cpu_seconds"].as_f64().unwrap() > 0.0, "{output}");
    assert!(output["peak_memory_bytes"].as_u64().unwrap() > 0, "{output}");
    let missing = Attempt::start(modules.provider(), module("none.sh")).failure().await;
    let output = missing.output.unwrap();
    assert_eq!((output.get("cpu_seconds"), output.get("peak_memory_bytes")), (None, None));
}

#[tokio::test]
async fn of_the_servers_environment_only_what_is_allowed_reaches_a_module() {
    let modules = Modules::with("env.sh", "env; cat /proc/$PPID/environ 2>/dev/null");
    let provider = modules.provider_with(|config| config.env_allow = vec!["PATH".to_owned()]);
    let (mut call, _reins) = call(module("env.sh"));
    call.trace = Some(TraceContext {
        traceparent: "00-1-2-01".to_owned(),
        tracestate: Some("a=1".to_owned()),
    });
    let execution = call.execution;
    let output = provider.execute(call).await.unwrap().output;
    let mut names: Vec<_> = text(&output, "stdout")
        .lines()
        .filter_map(|line| line.split_once('='))
        // Those that a shell sets by itself.
        .filter(|(name, _)| !matches!(*name, "PWD" | "OLDPWD" | "SHLVL" | "_"))
        .map(|(name, _)| name)
        .collect();
    names.sort_unstable();
    let own = ["FLOWGATE_ATTEMPT", "FLOWGATE_EXECUTION_ID", "PATH", "TRACEPARENT", "TRACESTATE"];
    assert_eq!(names, own);
    assert!(text(&output, "stdout").contains(&format!("FLOWGATE_EXECUTION_ID={execution}\n")));
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "there was something to hide");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_module_does_not_inherit_its_guards_socket() {
    let modules = Modules::with("fds.sh", "readlink /proc/$PPID/fd/0; readlink /proc/$$/fd/*; :");
    let output = modules.run(module("fds.sh")).await.unwrap().output;
    let mut open = text(&output, "stdout").lines();
    let socket = open.next().unwrap();
    assert!(socket.starts_with("socket:"), "{socket}");
    assert!(!open.any(|file| file == socket));
}

#[tokio::test]
async fn an_executable_file_runs_by_itself() {
    let modules = Modules::new();
    let path = modules.add("tool", "#!/bin/sh\necho by itself");
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    let output = modules.run(module("tool")).await.unwrap().output;
    assert_eq!(text(&output, "stdout"), "by itself\n");
}

#[tokio::test]
async fn a_known_script_that_does_not_say_what_runs_it_is_run_by_its_extension() {
    let modules = Modules::new();
    modules.add("a.py", "import sys; print('py', sys.argv[1:])");
    modules.add("a.js", "console.log('js', process.argv.slice(2))");
    let path = modules.add("a.sh", "echo sh $*");
    fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    for (name, expected) in
        [("a.py", "py ['-c']\n"), ("a.js", "js [ '-c' ]\n"), ("a.sh", "sh -c\n")]
    {
        let output = modules.run(json!({ "module": name, "args": ["-c"] })).await.unwrap().output;
        assert_eq!(text(&output, "stdout"), expected);
    }
}

#[tokio::test]
async fn a_status_other_than_zero_fails_for_good_and_keeps_what_was_printed() {
    let modules = Modules::with("fail.sh", "echo out; echo err >&2; exit 3");
    let failure = modules.run(module("fail.sh")).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert_eq!(failure.failure.code, ErrorCode::ModuleFailed);
    assert_eq!(failure.failure.message, "Module exited with status 3");
    let output = failure.output.unwrap();
    assert_eq!((&output["exit_code"], &output["success"]), (&json!(3), &json!(false)));
    assert_eq!(text(&output, "error"), "Module exited with status 3");
    assert_eq!((text(&output, "stdout"), text(&output, "stderr")), ("out\n", "err\n"));
}

#[tokio::test]
async fn a_module_that_a_signal_ended_says_which() {
    let modules = Modules::with("crash.sh", "kill -SEGV $$");
    let failure = modules.run(module("crash.sh")).await.unwrap_err();
    assert_eq!(failure.failure.code, ErrorCode::ModuleFailed);
    let output = failure.output.unwrap();
    assert_eq!((&output["exit_code"], &output["signal"]), (&json!(-1), &json!(11)));
}

#[tokio::test]
async fn a_missing_module_fails_when_run() {
    let failure = Modules::new().run(module("gone/x.py")).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert_eq!(failure.failure.code, ErrorCode::ModuleNotFound);
    assert_eq!(failure.failure.message, "Script not found: gone/x.py");
    assert_eq!(failure.output.unwrap()["exit_code"], json!(-1));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let modules = Modules::with("notes.txt", "text");
    modules.add("dir/x", "");
    let path = modules.add("broken", "#!/no/such/interpreter\n");
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    for (name, why) in [
        ("notes.txt", "neither executable"),
        ("dir", "not a regular file"),
        ("broken", "No such file"),
    ] {
        let failure = modules.run(module(name)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Permanent);
        assert_eq!(failure.failure.code, ErrorCode::ModuleStartFailed);
        assert!(failure.failure.message.contains(why), "{}", failure.failure.message);
        assert_eq!(failure.output.unwrap()["exit_code"], json!(-1));
    }
}

#[tokio::test]
async fn what_a_module_prints_is_passed_on_while_it_runs() {
    let modules = Modules::with("live.sh", "echo 1; read line; echo 2");
    let input = json!({ "module": "live.sh", "stdin": "x\n" });
    let mut attempt = Attempt::start(modules.provider(), input);
    assert_eq!(attempt.numbers(2).await, [1, 2]);
    assert!(attempt.end().await.is_ok());
}

#[tokio::test]
async fn much_output_is_cut_but_counted() {
    let modules = Modules::with(
        "flood.sh",
        "head -c 209715200 /dev/zero | tr '\\0' x; head -c 2000000 /dev/zero >&2",
    );
    let output = modules.run(module("flood.sh")).await.unwrap().output;
    assert_eq!(output["stdout_bytes"], json!(209_715_200));
    assert_eq!(output["stderr_bytes"], json!(2_000_000));
    assert_eq!(
        (&output["stdout_truncated"], &output["stderr_truncated"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(text(&output, "stdout").len(), 1_048_576);
}

#[tokio::test]
async fn a_module_need_not_read_its_input() {
    let modules = Modules::with("deaf.sh", "echo done");
    modules.add("closed.sh", "exec <&-; echo done");
    let stdin = "x".repeat(16 * 1_024 * 1_024);
    for name in ["deaf.sh", "closed.sh"] {
        let output = modules.run(json!({ "module": name, "stdin": stdin })).await.unwrap().output;
        assert_eq!(text(&output, "stdout"), "done\n");
    }
}

#[tokio::test]
async fn large_input_and_large_output_do_not_wait_for_each_other() {
    let modules = Modules::with("cat.sh", "cat");
    let stdin = "x".repeat(16 * 1_024 * 1_024);
    let output = modules.run(json!({ "module": "cat.sh", "stdin": stdin })).await.unwrap().output;
    assert_eq!(output["stdout_bytes"], json!(stdin.len()));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_module_leaves_behind_is_ended_and_reaped() {
    let modules = Modules::with(
        "daemon.sh",
        "echo $PPID; mkfifo ready
         setsid sh -c 'trap \"\" TERM; echo $$; echo > ready; while :; do sleep 1; done' &
         (trap '' TERM; while :; do sleep 1; done) & echo $!; read _ < ready",
    );
    let mut attempt = Attempt::start(modules.provider(), module("daemon.sh"));
    let processes = attempt.numbers(3).await;
    assert!(attempt.end().await.is_ok());
    for process in processes {
        assert!(!exists(process), "neither the guard nor what it guarded is left, not even dead");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn fifty_modules_at_once_each_get_their_own_result() {
    let modules = Modules::new();
    modules.add("ok.sh", "echo $1; cat");
    modules.add("fail.sh", "exit $1");
    modules.add("flood.sh", "head -c 67108864 /dev/zero");
    modules.add("daemon.sh", "setsid sleep 1000 & echo $1");
    let names = ["ok.sh", "fail.sh", "flood.sh", "daemon.sh", "none.sh"];
    let attempts: Vec<_> = (0..50)
        .map(|index| {
            let arg = index.to_string();
            let input = json!({ "module": names[index % 5], "args": [arg], "stdin": arg });
            (index, Attempt::start(modules.provider(), input))
        })
        .collect();
    for (index, attempt) in attempts {
        let outcome = attempt.end().await;
        let code = outcome.as_ref().err().map(|failure| failure.failure.code);
        let output = outcome.map_or_else(|failure| failure.output.unwrap(), |done| done.output);
        match names[index % 5] {
            "ok.sh" => assert_eq!(text(&output, "stdout"), format!("{index}\n{index}")),
            "fail.sh" => assert_eq!(output["exit_code"], json!(index)),
            "flood.sh" => assert_eq!(output["stdout_bytes"], json!(67_108_864)),
            "daemon.sh" => assert_eq!(text(&output, "stdout"), format!("{index}\n")),
            _ => assert_eq!(code, Some(ErrorCode::ModuleNotFound)),
        }
    }
}
