//! Modules that are stopped: for every reason, and whatever they do about it.

use flowgate::domain::{ErrorCode, FailureKind};
use flowgate::providers::StopReason;
use rustix::process::{Signal, kill_process};

use super::*;

const PATIENT: &str = "echo $$; while :; do sleep 1; done";

fn with_grace(modules: &Modules, grace: Duration) -> Process {
    modules.provider_with(|config| config.stop_grace = grace)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_timeout_ends_the_whole_tree_though_none_of_it_heeds_sigterm() {
    let modules = Modules::with("tree.sh", STUBBORN_TREE);
    let provider = with_grace(&modules, Duration::from_millis(200));
    let mut attempt = Attempt::start(provider, module("tree.sh"));
    let processes = attempt.numbers(3).await;
    attempt.reins.stopper.stop(StopReason::TimedOut);
    let failure = attempt.failure().await;
    for process in processes {
        assert!(!exists(process));
    }
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert_eq!(failure.failure.code, ErrorCode::Timeout);
    assert_eq!(failure.failure.message, "Module execution timed out after 300s");
    let output = failure.output.unwrap();
    assert_eq!((&output["exit_code"], &output["signal"]), (&json!(-1), &json!(9)));
    assert_eq!(text(&output, "stdout").lines().count(), 3);
    assert_eq!(text(&output, "error"), "Module execution timed out after 300s");
}

#[tokio::test]
async fn a_timeout_names_fractions_of_a_second() {
    let modules = Modules::with("wait.sh", PATIENT);
    for (timeout_ms, shown) in [(1_500, "1.5s"), (200, "0.2s")] {
        let (mut call, reins) = call(module("wait.sh"));
        call.run_timeout = Duration::from_millis(timeout_ms);
        reins.stopper.stop(StopReason::TimedOut);
        let failure = modules.provider().execute(call).await.unwrap_err().failure;
        assert_eq!(failure.message, format!("Module execution timed out after {shown}"));
    }
}

#[tokio::test]
async fn a_cancelled_module_that_heeds_sigterm_may_clean_up() {
    let modules = Modules::with(
        "clean.sh",
        "trap 'echo 7; exit 0' TERM; echo $$; while :; do sleep 0.05; done",
    );
    let mut attempt = Attempt::start(modules.provider(), module("clean.sh"));
    attempt.numbers(1).await;
    attempt.reins.stopper.stop(StopReason::Cancelled);
    let failure = attempt.failure().await;
    assert_eq!(failure.kind, FailureKind::Cancelled);
    assert_eq!(failure.failure.code, ErrorCode::Cancelled);
    assert_eq!(failure.failure.message, "cancelled: process group ended by SIGTERM");
    let output = failure.output.unwrap();
    assert!(text(&output, "stdout").ends_with("7\n"));
    assert_eq!((&output["exit_code"], &output["success"]), (&json!(-1), &json!(false)));
}

#[tokio::test]
async fn a_cancelled_module_that_ignores_sigterm_is_killed_after_the_grace() {
    let modules = Modules::with("deaf.sh", &format!("trap '' TERM; {PATIENT}"));
    let provider = with_grace(&modules, Duration::from_millis(200));
    let mut attempt = Attempt::start(provider, module("deaf.sh"));
    attempt.numbers(1).await;
    attempt.reins.stopper.stop(StopReason::Cancelled);
    let failure = attempt.failure().await;
    assert_eq!(failure.failure.message, "cancelled: process group killed after 0.2s grace");
}

#[tokio::test]
async fn a_stopped_module_takes_a_cancel_all_the_same() {
    let modules = Modules::with("asleep.sh", PATIENT);
    let mut attempt = Attempt::start(modules.provider(), module("asleep.sh"));
    let process = attempt.numbers(1).await[0];
    kill_process(pid(process), Signal::STOP).unwrap();
    attempt.reins.stopper.stop(StopReason::Cancelled);
    let failure = attempt.failure().await;
    assert_eq!(failure.failure.message, "cancelled: process group ended by SIGTERM");
}

#[tokio::test]
async fn a_shutdown_stops_as_a_cancel_does() {
    let modules = Modules::with("wait.sh", PATIENT);
    let mut attempt = Attempt::start(modules.provider(), module("wait.sh"));
    attempt.numbers(1).await;
    attempt.reins.stopper.stop(StopReason::ShuttingDown);
    let failure = attempt.failure().await;
    assert_eq!(failure.kind, FailureKind::Cancelled);
    let expected = "the worker is shutting down: process group ended by SIGTERM";
    assert_eq!(failure.failure.message, expected);
}

#[tokio::test]
async fn a_lost_lease_kills_at_once_even_during_the_grace() {
    let modules = Modules::with("deaf.sh", &format!("trap '' TERM; {PATIENT}"));
    let provider = with_grace(&modules, Duration::from_secs(3_600));
    let mut attempt = Attempt::start(provider, module("deaf.sh"));
    let processes = attempt.numbers(1).await;
    attempt.reins.stopper.stop(StopReason::Cancelled);
    attempt.reins.stopper.stop(StopReason::LeaseLost);
    let failure = attempt.failure().await;
    assert_eq!(failure.kind, FailureKind::Transient);
    assert_eq!(failure.failure.message, "the lease was lost: process group killed");
    all_end(&processes).await;
}

#[tokio::test]
async fn an_attempt_stopped_before_it_began_starts_nothing() {
    let modules = Modules::with("touch.sh", "touch here");
    let (call, reins) = call(module("touch.sh"));
    reins.stopper.stop(StopReason::Cancelled);
    let failure = modules.provider().execute(call).await.unwrap_err();
    assert_eq!(failure.failure.message, "cancelled: the module had not started");
    assert!(!modules.dir().join("here").exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn dropping_an_attempt_ends_its_tree_and_leaves_no_guard() {
    let modules = Modules::with("tree.sh", &format!("echo $PPID\n{STUBBORN_TREE}"));
    let mut attempt = Attempt::start(modules.provider(), module("tree.sh"));
    let processes = attempt.numbers(4).await;
    attempt.outcome.abort();
    assert!(attempt.outcome.await.unwrap_err().is_cancelled());
    eventually("all is reaped", || !processes.iter().copied().any(exists)).await;
}

/// Runs two seconds of work under a lease of one.
async fn outlast_the_lease(renew: bool) -> Outcome {
    let modules = Modules::with("work.sh", "echo 1; sleep 2; echo 2");
    let (mut call, mut reins) = call(module("work.sh"));
    let (lease, deadline) = watch::channel(Instant::now() + Duration::from_secs(1));
    call.lease_deadline = deadline;
    let provider = modules.provider();
    let work = provider.execute(call);
    let renewal = async {
        reins.said.recv().await;
        if renew {
            lease.send_replace(Instant::now() + Duration::from_secs(600));
        }
        while reins.said.recv().await.is_some() {}
    };
    tokio::join!(work, renewal).0
}

#[tokio::test]
async fn a_module_ends_with_its_lease() {
    let failure = outlast_the_lease(false).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Transient);
    assert_eq!(failure.failure.code, ErrorCode::Crashed);
    assert!(failure.failure.message.contains("lease ran out"), "{}", failure.failure.message);
}

#[tokio::test]
async fn a_module_whose_lease_is_renewed_goes_on() {
    assert!(outlast_the_lease(true).await.is_ok());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_module_does_not_outlive_a_killed_guard() {
    let modules = Modules::with("tree.sh", &format!("echo $PPID\n{STUBBORN_TREE}"));
    let mut attempt = Attempt::start(modules.provider(), module("tree.sh"));
    let processes = attempt.numbers(4).await;
    kill_process(pid(processes[0]), Signal::KILL).unwrap();
    let failure = attempt.failure().await;
    assert_eq!(failure.kind, FailureKind::Transient);
    assert_eq!(failure.failure.code, ErrorCode::Crashed);
    all_end(&processes).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_module_that_kills_its_guard_right_away_ends_too() {
    let modules = Modules::with("suicide.sh", &format!("echo $$; kill -KILL $PPID; {PATIENT}"));
    let mut attempt = Attempt::start(modules.provider(), module("suicide.sh"));
    let processes = attempt.numbers(1).await;
    assert_eq!(attempt.failure().await.failure.code, ErrorCode::Crashed);
    all_end(&processes).await;
}

#[tokio::test]
async fn output_that_nobody_takes_does_not_keep_a_stopped_attempt_from_ending() {
    let modules = Modules::with("yes.sh", "yes");
    let provider = modules.provider();
    let (call, mut reins) = call(module("yes.sh"));
    let work = provider.execute(call);
    let stop = async {
        // One piece shows that the module runs; the others fill the way.
        reins.said.recv().await;
        reins.stopper.stop(StopReason::Cancelled);
    };
    let (outcome, ()) = tokio::join!(work, stop);
    assert_eq!(outcome.unwrap_err().kind, FailureKind::Cancelled);
}

#[tokio::test]
async fn a_guard_that_is_asked_to_end_does_not() {
    let modules =
        Modules::with("wait.sh", "kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; echo 1");
    assert!(modules.run(module("wait.sh")).await.is_ok());
}

#[tokio::test]
async fn a_module_does_not_inherit_the_guards_deafness() {
    let modules = Modules::with("mortal.sh", "kill -TERM $$; echo still here");
    let output = modules.run(module("mortal.sh")).await.unwrap_err().output.unwrap();
    assert_eq!(output["signal"], json!(15));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_frozen_guard_does_not_keep_a_dropped_module_alive() {
    let modules = Modules::with("frozen.sh", &format!("echo $PPID\n{PATIENT}"));
    let mut attempt = Attempt::start(modules.provider(), module("frozen.sh"));
    let processes = attempt.numbers(2).await;
    kill_process(pid(processes[0]), Signal::STOP).unwrap();
    attempt.outcome.abort();
    all_end(&processes).await;
}
