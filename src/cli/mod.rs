//! The command line: a client that speaks gRPC like any other and knows nothing but the contract.
//!
//! Results go to stdout, everything else to stderr, and the exit code is 0 only if the thing asked
//! for happened. Every command ends through [`run`], which alone decides what an error, a closed
//! pipe and a signal look like from outside.

mod args;
mod batch;
mod cancel;
mod connect;
mod demo;
mod errors;
mod follow;
mod get;
mod healthcheck;
mod json;
mod limits;
mod list;
mod log_level;
mod names;
mod output;
mod providers;
mod retry;
mod signals;
mod status;
mod submit;
mod tables;
mod time;
mod watch;

use std::process::ExitCode;

use connect::Server;
use output::{Format, Out};

/// Options of every client command.
#[derive(Debug, clap::Args)]
pub struct ClientOptions {
    /// Address of the server
    #[arg(
        long,
        global = true,
        help_heading = "Client options",
        env = "FLOWGATE_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    server: String,
    /// How results are printed
    #[arg(
        long,
        global = true,
        help_heading = "Client options",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    output: Format,
}

impl ClientOptions {
    /// Whether results are wanted as JSON.
    pub fn json(&self) -> bool {
        self.output == Format::Json
    }
}

/// The client commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Submit an execution
    Submit(Box<submit::Args>),
    /// Submit every line of a file of JSON Lines, and collect every result
    ///
    /// Each line is a JSON object with the fields of SubmitExecutionRequest: provider, input, and if
    /// wanted input_json, request_id, priority, labels, schedule_time, queue_timeout, run_timeout and
    /// retry_policy. A file with a line that is no such object is refused before anything is submitted.
    ///
    /// Results are JSON Lines too, in order of completion. Run the same command again to go on after
    /// it was stopped: no line is executed again but one that was edited. Lines are known by their
    /// numbers, so new ones belong at the end.
    Batch(Box<batch::Args>),
    /// Show one execution
    Get(get::Args),
    /// List executions, newest first
    List(list::Args),
    /// Follow one execution to its end, or every execution that matches
    Watch(watch::Args),
    /// Cancel an execution, or every execution that matches
    Cancel(cancel::Args),
    /// Run a failed or cancelled execution again, as a new one
    Retry(retry::Args),
    /// Read and change how much providers admit
    Limits(limits::Args),
    /// Show the providers: limits, load and whether they admit work
    Providers(providers::ShowArgs),
    /// Stop a provider from starting executions
    Pause(providers::PauseArgs),
    /// Let a paused provider start executions again
    Resume(providers::ResumeArgs),
    /// Show how the service is doing
    Status(status::StatusArgs),
    /// Show the workers that share the store
    Workers,
    /// Change what a running server logs, for a time if wanted
    LogLevel(log_level::Args),
    /// Ask for the server's health; exit code 0 only if it is serving
    Healthcheck(healthcheck::Args),
    /// Run a server on a temporary store through a mixed workload, and check what comes out
    Demo(demo::Args),
}

/// What a command works with.
struct Context {
    server: Server,
    out: Out,
}

/// Runs one command. An error is ready to be printed.
pub async fn run(command: Command, options: ClientOptions) -> anyhow::Result<ExitCode> {
    let context = Context { server: Server::new(options.server), out: Out::new(options.output) };
    // It has to say how to go on, and perhaps to cancel first.
    let answers_signals_itself = matches!(command, Command::Batch(_));
    tokio::select! {
        // The command goes first, so that reading a terminal's stdin, which blocks, happens while
        // Ctrl-C still ends the process.
        biased;
        result = Box::pin(dispatch(command, &context)) => errors::finish(result),
        code = signals::interrupted(), if !answers_signals_itself => Ok(code),
    }
}

async fn dispatch(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Submit(args) => submit::run(*args, context).await,
        Command::Batch(args) => batch::run(*args, context).await,
        Command::Get(args) => get::run(args, context).await,
        Command::List(args) => list::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
        Command::Cancel(args) => cancel::run(args, context).await,
        Command::Retry(args) => retry::run(args, context).await,
        Command::Limits(args) => limits::run(args, context).await,
        Command::Providers(args) => providers::show(args, context).await,
        Command::Pause(args) => providers::pause(args, context).await,
        Command::Resume(args) => providers::resume(args, context).await,
        Command::Status(args) => status::status(context, args).await,
        Command::Workers => status::workers(context).await,
        Command::LogLevel(args) => log_level::run(args, context).await,
        Command::Healthcheck(args) => healthcheck::run(args, context).await,
        Command::Demo(args) => demo::run(args).await,
    }
}
