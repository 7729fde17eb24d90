//! Ctrl-C and SIGTERM end a command without a trace.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// Exit codes as the shell reports death by signal: 128 and its number.
const SIGINT_EXIT: u8 = 130;
const SIGTERM_EXIT: u8 = 143;

/// Waits for a signal to end, and returns the exit code that tells which.
pub(super) async fn interrupted() -> ExitCode {
    tokio::select! {
        () = received(SignalKind::interrupt()) => ExitCode::from(SIGINT_EXIT),
        () = received(SignalKind::terminate()) => ExitCode::from(SIGTERM_EXIT),
    }
}

async fn received(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        // Without a handler, the signal ends the process by itself.
        Err(_) => std::future::pending().await,
    }
}
