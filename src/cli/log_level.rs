//! `flowgate log-level`: what a running server logs.

use std::process::ExitCode;

use super::time::{parse_duration, show_time};
use super::{Context, json};
use crate::pb::{SetLogLevelRequest, SetLogLevelResponse};

/// What is to be logged, and how long.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A level (error, warn, info, debug, trace), off, or a filter as in RUST_LOG
    #[arg(value_name = "FILTER", required_unless_present = "reset")]
    filter: Option<String>,
    /// Go back to what is configured
    #[arg(long, conflicts_with = "filter")]
    reset: bool,
    /// How long, such as 10m; then it is the configured one again [default: until the server ends]
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, requires = "filter")]
    duration: Option<prost_types::Duration>,
    /// The server that is meant, by its worker id; an error if another answers
    #[arg(long, value_name = "ID")]
    worker: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let request = SetLogLevelRequest {
        filter: args.filter.unwrap_or_default(),
        duration: args.duration,
        worker_id: args.worker.unwrap_or_default(),
    };
    let mut client = context.server.system().await?;
    let set = client.set_log_level(request).await?.into_inner();
    context.out.result(|| json::log_level(&set), || sentence(&set))?;
    Ok(ExitCode::SUCCESS)
}

fn sentence(set: &SetLogLevelResponse) -> String {
    let SetLogLevelResponse { filter, previous_filter, expire_time, worker_id } = set;
    let until = expire_time.as_ref().map(|at| format!(" until {}", show_time(at)));
    let until = until.unwrap_or_default();
    format!("worker {worker_id} logs {filter}{until}; it was {previous_filter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_what_holds_until_when_and_what_was_before() {
        let set = SetLogLevelResponse {
            filter: "debug".to_owned(),
            previous_filter: "info".to_owned(),
            expire_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            worker_id: "w".to_owned(),
        };
        let told = "worker w logs debug until 1970-01-01T00:00:00Z; it was info";
        assert_eq!(sentence(&set), told);
    }
}
