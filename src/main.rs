//! The `flowgate` program: reads the command line and runs the command.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use flowgate::admin::{self, AuditArgs, MigrateArgs, ReportFormat};
use flowgate::cli;
use flowgate::config::{self, ServeFlags};
use flowgate::providers::process;
use flowgate::server;
use tokio::runtime::Runtime;

/// An execution control plane: durable submits over gRPC, exact limits, gap-free watches
#[derive(Debug, Parser)]
#[command(name = "flowgate", version)]
struct Cli {
    #[command(flatten)]
    client: cli::ClientOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Serve gRPC and HTTP until SIGTERM or SIGINT
    Serve(Box<ServeFlags>),
    /// Check on the log of a store that every promise was kept; beside a live server if there is one
    Audit(AuditArgs),
    /// Move a store from SQLite to PostgreSQL, with everything in it
    Migrate(MigrateArgs),
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    // A guard is this same program, started for one module: before any thread is, and without a
    // command line of ours.
    if std::env::args_os().nth(1).is_some_and(|first| first == "__guard") {
        return process::guard_main();
    }
    let Cli { client, command } = Cli::parse();
    let result = match command {
        Command::Serve(flags) => serve(&flags),
        Command::Audit(args) => audit(args, &client),
        Command::Migrate(args) => migrate(args, &client),
        Command::Client(command) => run_client(command, client),
    };
    result.unwrap_or_else(|error| {
        // There is nobody to tell if stderr is gone.
        let _ = writeln!(std::io::stderr(), "error: {}", one_line(&error));
        ExitCode::FAILURE
    })
}

/// The error and its causes, without those that the text before them repeats.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line.replace('\n', " ")
}

fn serve(flags: &ServeFlags) -> anyhow::Result<ExitCode> {
    let directory = std::env::current_dir().context("cannot find the working directory")?;
    // A variable that is not text is none of ours.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let settings = config::load(flags, variables, &directory)?;
    let runtime = runtime()?;
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flowgate-control")
        .enable_all()
        .build()
        .context("cannot start the runtime of the control loops")?;
    let result = runtime.block_on(Box::pin(server::serve(settings, control.handle().clone())));
    // Waits for nothing: whatever had to end has had its time.
    runtime.shutdown_background();
    control.shutdown_background();
    result?;
    Ok(ExitCode::SUCCESS)
}

fn audit(args: AuditArgs, options: &cli::ClientOptions) -> anyhow::Result<ExitCode> {
    Ok(runtime()?.block_on(Box::pin(admin::run(args, report_format(options)))))
}

fn migrate(args: MigrateArgs, options: &cli::ClientOptions) -> anyhow::Result<ExitCode> {
    Ok(runtime()?.block_on(Box::pin(admin::run_migrate(args, report_format(options)))))
}

fn report_format(options: &cli::ClientOptions) -> ReportFormat {
    if options.json() { ReportFormat::Json } else { ReportFormat::Table }
}

fn run_client(command: cli::Command, options: cli::ClientOptions) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let result = runtime.block_on(Box::pin(cli::run(command, options)));
    runtime.shutdown_background();
    result
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
