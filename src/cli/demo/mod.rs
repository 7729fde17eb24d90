//! `flowgate demo`: a real server on a temporary store, worked over gRPC and watched while it
//! works. What it should do is in `plan`, who does what when is in `script`, and the exit code is
//! 0 only if all of it came out as planned.

mod board;
mod live;
mod modules;
mod plan;
mod script;
mod server;
mod stage;
mod summary;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::errors::is_broken_pipe;
use super::output::note;
use live::Live;
use server::Server;
use stage::Stage;
use summary::Check;

/// Everything together takes a fraction of this.
const DEADLINE: Duration = Duration::from_secs(45);

/// How to run the demo.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show the server's log while it is written
    #[arg(long, short)]
    verbose: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = tempfile::Builder::new()
        .prefix("flowgate-demo-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    let log = dir.path().join("server.log");
    let passed = perform(dir.path(), (!args.verbose).then_some(log.as_path())).await;
    let failed = match &passed {
        Ok(passed) => !passed,
        Err(error) => !is_broken_pipe(error),
    };
    if failed && !args.verbose {
        note(format_args!("\nthe end of the server's log:\n{}", server::log_tail(&log)));
    }
    Ok(if passed? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether all went as planned.
async fn perform(dir: &Path, log: Option<&Path>) -> anyhow::Result<bool> {
    let live = Live::new();
    let interpreters = modules::lay_out(dir).await?;
    let parts = plan::parts(&interpreters);
    plan::write_config(dir)?;

    let mut server = Server::start(dir, log).await?;
    live.remark(&format!(
        "server at {}, probes at {}/healthz and /readyz",
        server.grpc_url, server.http_url
    ))?;
    for missing in interpreters.missing() {
        live.remark(&format!("{missing} is not installed: its module is left out"))?;
    }
    let stage = Stage::new(&server.grpc_url, &parts, live).await?;
    let mut checks = play(&stage, &mut server).await?;
    checks.push(stopped(server).await);
    let board = stage.board();
    checks.extend(board.limit_checks());
    Ok(summary::print(&parts, &checks, &board, live)?)
}

/// Runs the script while the watch feeds the board and the screen.
async fn play(stage: &Stage<'_>, server: &mut Server) -> anyhow::Result<Vec<Check>> {
    tokio::select! {
        played = timeout(DEADLINE, script::play(stage)) => match played {
            Ok(result) => result?,
            Err(_) => stage.check(
                "everything ended",
                false,
                format!("not within {}", humantime::format_duration(DEADLINE)),
            ),
        },
        watched = stage.watch() => match watched? {},
        () = server.ended() => bail!("the server ended by itself"),
    }
    Ok(stage.checks())
}

async fn stopped(server: Server) -> Check {
    let what = "the server stopped in order on SIGTERM";
    match server.stop().await {
        Ok(took) => Check::new(what, true, format!("in {} ms", took.as_millis())),
        Err(error) => Check::new(what, false, format!("{error:#}")),
    }
}
