//! `flowgate submit`: one execution, and if asked its end.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use prost_types::{Duration, Timestamp};
use serde_json::{Map, Value};

use super::follow::Cursor;
use super::output::note;
use super::{Context, args, json, names, tables, time, watch};
use crate::pb::{ErrorCode, OnLost, RetryPolicy, SubmitExecutionRequest};

/// What to submit.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Provider that does the work
    #[arg(long, value_name = "NAME")]
    provider: String,
    /// The provider's request body: a JSON object, @FILE, or - for stdin
    #[arg(long, value_name = "JSON|@FILE|-", value_parser = parse_source)]
    input: Option<Source>,
    /// Send the input's text as it is, for numbers above 2^53
    #[arg(long, requires = "input")]
    input_exact: bool,
    /// Idempotency key: submitting the same again under it changes nothing
    #[arg(long, value_name = "KEY")]
    request_id: Option<String>,
    /// Rank among those waiting for the provider; higher goes first
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
    /// Label to find it by; repeat for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = args::parse_label)]
    labels: Vec<(String, String)>,
    /// Not before this time: RFC 3339, or from now such as +10s
    #[arg(long, value_name = "TIME", value_parser = time::parse_time)]
    schedule_time: Option<Timestamp>,
    /// Fail if no attempt has started by then, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration)]
    queue_timeout: Option<Duration>,
    /// Stop an attempt that takes longer, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration)]
    run_timeout: Option<Duration>,
    /// What follows an attempt that is lost with its worker: rerun, or fail
    #[arg(long, value_name = "WHAT", value_parser = names::parse::<OnLost>)]
    on_lost: Option<OnLost>,
    #[command(flatten)]
    retry: RetryArgs,
    /// Wait for the end and print it; exit code 0 only if it succeeded
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    /// Print every change and output until the end; exit code 0 only if it succeeded
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, clap::Args)]
struct RetryArgs {
    /// Attempts after which a failure is final
    #[arg(long, value_name = "N")]
    max_attempts: Option<i32>,
    /// Longest wait after the first failure, such as 1s
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration)]
    initial_backoff: Option<Duration>,
    /// Longest wait after any failure, such as 1m
    #[arg(long, value_name = "DURATION", value_parser = time::parse_duration)]
    max_backoff: Option<Duration>,
    /// Growth of the wait from failure to failure
    #[arg(long, value_name = "FACTOR")]
    backoff_multiplier: Option<f64>,
    /// Try again after this error too, such as module_failed; repeat for several
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = names::parse::<ErrorCode>)]
    retry_on: Vec<ErrorCode>,
}

/// Where the input is.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    Inline(String),
    File(PathBuf),
    Stdin,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (wait, watch) = (args.wait, args.watch);
    let request = request(args)?;
    let mut client = context.server.executions().await?;
    let reply = client.submit_execution(request).await?.into_inner();
    let execution = reply.execution.context("the server's reply holds no execution")?;
    if reply.replayed {
        note("this request id is known: nothing new was submitted");
    }
    if !wait && !watch {
        context.out.result(
            || json::execution_reply(&execution, reply.replayed),
            || tables::executions(std::slice::from_ref(&execution)),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    note(format_args!("submitted {}", execution.id));
    // From its very first change, so that no output is missed. What was known before may be too
    // old for that, and is shown as it stands.
    let first = Cursor { revision: execution.revision - 1, store_epoch: String::new() };
    let cursor = (!reply.replayed).then_some(first);
    watch::to_the_end(client, execution.id, cursor, watch, context.out).await
}

fn request(args: Args) -> anyhow::Result<SubmitExecutionRequest> {
    let text = args.input.map(Source::read).transpose()?;
    let (input, input_json) = match text {
        Some(text) if args.input_exact => (None, text),
        Some(text) => (Some(read_struct(&text)?), String::new()),
        None => (None, String::new()),
    };
    Ok(SubmitExecutionRequest {
        provider: args.provider,
        input,
        input_json,
        request_id: args.request_id.unwrap_or_default(),
        priority: args.priority,
        labels: args.labels.into_iter().collect(),
        schedule_time: args.schedule_time,
        queue_timeout: args.queue_timeout,
        run_timeout: args.run_timeout,
        retry_policy: args.retry.into_policy(),
        on_lost: args.on_lost.unwrap_or_default().into(),
    })
}

fn read_struct(text: &str) -> anyhow::Result<prost_types::Struct> {
    let value: Value = serde_json::from_str(text).context("the input is not JSON")?;
    let Value::Object(object): Value = value else {
        bail!("the input is JSON, but not an object");
    };
    to_struct(object)
}

fn to_struct(object: Map<String, Value>) -> anyhow::Result<prost_types::Struct> {
    json::to_struct(object).map_err(|number| {
        anyhow::anyhow!(
            "the number {number} in the input would be rounded; send it with --input-exact"
        )
    })
}

fn parse_source(text: &str) -> Result<Source, String> {
    Ok(match text {
        "-" => Source::Stdin,
        "@" => return Err("a file name must follow the @".to_owned()),
        _ => match text.strip_prefix('@') {
            Some(path) => Source::File(path.into()),
            None => Source::Inline(text.to_owned()),
        },
    })
}

impl Source {
    fn read(self) -> anyhow::Result<String> {
        match self {
            Self::Inline(text) => Ok(text),
            Self::File(path) => std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the input from {}", path.display())),
            Self::Stdin => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .context("cannot read the input from stdin")?;
                Ok(text)
            }
        }
    }
}

impl RetryArgs {
    /// Absent if nothing was said, so that the server's defaults hold.
    fn into_policy(self) -> Option<RetryPolicy> {
        let policy = RetryPolicy {
            max_attempts: self.max_attempts,
            initial_backoff: self.initial_backoff,
            max_backoff: self.max_backoff,
            backoff_multiplier: self.backoff_multiplier,
            retry_on: self.retry_on.into_iter().map(i32::from).collect(),
        };
        (policy != RetryPolicy::default()).then_some(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn submitted(line: &[&str]) -> anyhow::Result<SubmitExecutionRequest> {
        request(Line::try_parse_from([&["submit"], line].concat())?.args)
    }

    #[test]
    fn options_become_the_request() {
        let request = submitted(&[
            "--provider=claude",
            "--input={\"max_tokens\": 5}",
            "--priority=-3",
            "--label=team=a",
            "--run-timeout=1m 30s",
            "--max-attempts=2",
            "--retry-on=module_failed,timeout",
        ])
        .unwrap();
        assert_eq!(request.provider, "claude");
        assert_eq!(request.priority, -3);
        assert_eq!(request.labels["team"], "a");
        assert_eq!(request.run_timeout.unwrap().seconds, 90);
        let policy = request.retry_policy.unwrap();
        assert_eq!(policy.max_attempts, Some(2));
        let codes = [ErrorCode::ModuleFailed, ErrorCode::Timeout].map(i32::from);
        assert_eq!(policy.retry_on, codes);
        assert!(request.input.unwrap().fields.contains_key("max_tokens"));
    }

    #[test]
    fn without_retry_options_the_servers_defaults_hold() {
        assert_eq!(submitted(&["--provider=a"]).unwrap().retry_policy, None);
    }

    #[test]
    fn an_exact_input_is_sent_as_it_was_written() {
        let text = "{\"id\": 9007199254740993}";
        let request = submitted(&["--provider=a", "--input", text, "--input-exact"]).unwrap();
        assert_eq!((request.input, request.input_json.as_str()), (None, text));
        let refused = submitted(&["--provider=a", "--input", text]).unwrap_err();
        assert!(refused.to_string().contains("--input-exact"), "{refused}");
    }

    #[test]
    fn an_input_must_be_a_json_object() {
        for input in ["{", "[1]", "5", ""] {
            assert!(submitted(&["--provider=a", "--input", input]).is_err(), "{input:?}");
        }
        assert!(submitted(&["--provider=a", "--input=@/no/such/file"]).is_err());
    }
}
