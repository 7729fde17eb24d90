//! A Flowgate with one provider that is reached over HTTP, and what a test wants to know of an
//! execution: how it ended, what it left behind, and what the provider saw of it.
//!
//! ```ignore
//! let replay = Replay::start().await;
//! replay.on("POST /api/chat", Reply::transcript("ollama_chat"));
//! let gate = Gate::of("ollama", &replay.url()).start().await;
//! let ended = gate.run(json!({ "model": "tiny", "messages": [] })).await;
//! assert_eq!(ended.text(), " after form did but no");
//! ```

use flowgate::pb::watch_execution_response::Event;
use flowgate::pb::{
    CancelExecutionRequest, ErrorCode, Execution, ExecutionState, OutputStream, RetryPolicy,
    WatchExecutionRequest, WatchExecutionResponse, output_chunk::Content,
};
use prost_types::value::Kind;
use serde_json::{Value, json};

use crate::support::providers::RealServer;
use crate::support::{Config, TestServer, submit};

/// The key that the provider is configured with. It is long enough to be taken out of everything.
pub(super) const KEY: &str = "key-of-the-matrix";
/// The provider's name.
pub(super) const NAME: &str = "remote";

/// A Flowgate to be started.
pub(super) struct Gate {
    config: Config,
    toml: String,
}

impl Gate {
    /// With a provider of this kind at this base URL that is asked with [`KEY`].
    pub(super) fn of(kind: &str, base_url: &str) -> Self {
        Self::at(kind, &format!("base_url = {base_url:?}")).with("api_key_env = 'MATRIX_KEY'")
    }

    /// With a provider of this kind and this setting.
    pub(super) fn at(kind: &str, setting: &str) -> Self {
        // Failures are on purpose here, and are to be tried again at once.
        let toml = format!("[providers.{NAME}]\nkind = {kind:?}\ngate_failures = 0\n{setting}\n");
        Self { config: Config::new().env("MATRIX_KEY", KEY), toml }
    }

    /// With a provider of this kind at a server of others; `path` follows its address.
    pub(super) fn real(kind: &str, server: &RealServer, path: &str) -> Self {
        Self::of(kind, &format!("{}{path}", server.url))
            .config(|config| config.env("MATRIX_KEY", server.key))
    }

    /// One more setting of the provider, or whatever else may follow in the file.
    pub(super) fn with(mut self, setting: &str) -> Self {
        self.toml += &format!("{setting}\n");
        self
    }

    /// Other settings of the server.
    pub(super) fn config(mut self, change: impl FnOnce(Config) -> Config) -> Self {
        self.config = change(self.config);
        self
    }

    pub(super) async fn start(self) -> Started {
        Started { server: TestServer::start(self.config.toml(&self.toml)).await }
    }
}

/// A Flowgate that runs.
pub(super) struct Started {
    pub(super) server: TestServer,
}

impl Started {
    /// Submits an input that is tried once.
    pub(super) async fn submit(&self, input: Value) -> String {
        self.submit_tried(input, 1).await
    }

    /// Submits an input that is tried up to `attempts` times, with hardly a pause.
    pub(super) async fn submit_tried(&self, input: Value, attempts: i32) -> String {
        let mut request = submit(NAME, input);
        request.retry_policy = Some(RetryPolicy {
            max_attempts: Some(attempts),
            initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 }),
            ..Default::default()
        });
        self.server.submit(request).await.id
    }

    /// The same, with a limit of its own to what one attempt may take.
    pub(super) async fn submit_within(&self, input: Value, milliseconds: i32) -> String {
        let mut request = submit(NAME, input);
        request.retry_policy = Some(RetryPolicy { max_attempts: Some(1), ..Default::default() });
        let (seconds, nanos) = (milliseconds / 1_000, milliseconds % 1_000 * 1_000_000);
        request.run_timeout = Some(prost_types::Duration { seconds: seconds.into(), nanos });
        self.server.submit(request).await.id
    }

    pub(super) async fn run(&self, input: Value) -> Ended {
        let id = self.submit(input).await;
        self.ended(&id).await
    }

    pub(super) async fn ended(&self, id: &str) -> Ended {
        Ended::of(self.server.watch_to_end(id).await)
    }

    /// Every message about an execution as it comes.
    pub(super) async fn watch(&self, id: &str) -> tonic::Streaming<WatchExecutionResponse> {
        let request = WatchExecutionRequest {
            id: id.to_owned(),
            after_revision: Some(0),
            include_output: true,
            ..Default::default()
        };
        self.server.execution().watch_execution(request).await.unwrap().into_inner()
    }

    pub(super) async fn cancel(&self, id: &str) {
        let request = CancelExecutionRequest { id: id.to_owned(), ..Default::default() };
        self.server.execution().cancel_execution(request).await.unwrap();
    }

    /// The fields that a submission is refused for.
    pub(super) async fn refused_fields(&self, input: Value) -> Vec<String> {
        use tonic_types::StatusExt as _;
        let refused = self.server.execution().submit_execution(submit(NAME, input)).await;
        let status = refused.expect_err("the input is bad");
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
        let details = status.get_details_bad_request().expect("it says which fields");
        details.field_violations.into_iter().map(|violation| violation.field).collect()
    }
}

/// The next text that a watch tells, and the newest state it has told.
pub(super) async fn next_text(
    watch: &mut tonic::Streaming<WatchExecutionResponse>,
) -> (String, ExecutionState) {
    let mut state = ExecutionState::Unspecified;
    loop {
        match watch.message().await.unwrap().expect("the watch goes on").event {
            Some(Event::Output(chunk)) => match chunk.content {
                Some(Content::Text(text)) => return (text, state),
                other => panic!("text was expected, not {other:?}"),
            },
            Some(Event::Execution(execution)) => state = execution.state(),
            Some(Event::Heartbeat(_)) | None => {}
        }
    }
}

/// An execution that has ended, with all that was told on the way.
pub(super) struct Ended {
    pub(super) execution: Execution,
    messages: Vec<WatchExecutionResponse>,
}

impl Ended {
    fn of(messages: Vec<WatchExecutionResponse>) -> Self {
        let last = messages.iter().rev().find_map(|message| match &message.event {
            Some(Event::Execution(execution)) => Some(execution.clone()),
            _ => None,
        });
        Self { execution: last.expect("a watch tells of the execution"), messages }
    }

    pub(super) fn state(&self) -> ExecutionState {
        self.execution.state()
    }

    pub(super) fn output(&self) -> Value {
        self.execution.output.clone().map_or(Value::Null, json_of)
    }

    /// The output, of an execution that must have succeeded.
    pub(super) fn success(&self) -> Value {
        assert_eq!(self.state(), ExecutionState::Succeeded, "{:?}", self.execution.error);
        self.output()
    }

    /// The code and message of an execution that must have failed.
    pub(super) fn failure(&self) -> (ErrorCode, String) {
        assert_eq!(self.state(), ExecutionState::Failed, "{:?}", self.output());
        let error = self.execution.error.as_ref().expect("a failure has an error");
        (error.code(), error.message.clone())
    }

    /// Asserts that it failed with this code and a message that holds this.
    pub(super) fn failed(&self, code: ErrorCode, says: &str) -> &Self {
        let (found, message) = self.failure();
        assert_eq!(found, code, "{message}");
        assert!(message.contains(says), "{message:?} says nothing of {says:?}");
        self
    }

    pub(super) fn details(&self) -> Value {
        let details = self.execution.error.as_ref().and_then(|error| error.details.clone());
        details.map_or(Value::Null, |details| json_of(struct_value(details)))
    }

    /// All texts of the result that were told while it grew, of all attempts.
    pub(super) fn chunks(&self) -> Vec<String> {
        let output = self.messages.iter().filter_map(|message| match &message.event {
            Some(Event::Output(chunk)) if chunk.stream() == OutputStream::Result => {
                chunk.content.as_ref()
            }
            _ => None,
        });
        output
            .map(|content| match content {
                Content::Text(text) => text.clone(),
                Content::Data(data) => panic!("the result of a provider is text, not {data:?}"),
            })
            .collect()
    }

    /// The chunks, put together.
    pub(super) fn text(&self) -> String {
        self.chunks().concat()
    }

    /// Tokens that the last attempt read and wrote.
    pub(super) fn usage(&self) -> Option<(i64, i64)> {
        let usage = self.execution.attempts.last()?.usage.as_ref()?;
        Some((usage.input_tokens, usage.output_tokens))
    }

    /// Asserts that it tells how it was stopped, and that what there was is kept and marked.
    pub(super) fn was_dropped(&self) {
        let stopped = json!({ "by": "connection_dropped", "confirmed": false });
        assert_eq!(self.details()["stopped"], stopped, "{:?}", self.details());
    }

    /// Asserts that what there was of a result is kept and marked as such.
    pub(super) fn kept_part(&self) {
        assert_eq!(self.details()["partial_output"], json!(true), "{:?}", self.details());
        assert_ne!(self.output(), Value::Null);
    }
}

pub(super) fn struct_value(object: prost_types::Struct) -> prost_types::Value {
    prost_types::Value { kind: Some(Kind::StructValue(object)) }
}

/// What a protobuf value stands for; whole numbers as such.
pub(super) fn json_of(value: prost_types::Value) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(bool)) => bool.into(),
        Some(Kind::StringValue(text)) => text.into(),
        #[allow(clippy::cast_possible_truncation, reason = "only if nothing is lost")]
        Some(Kind::NumberValue(number)) => match number as i64 {
            whole if whole as f64 == number => whole.into(),
            _ => number.into(),
        },
        Some(Kind::ListValue(list)) => list.values.into_iter().map(json_of).collect(),
        Some(Kind::StructValue(object)) => {
            let fields = object.fields.into_iter();
            Value::Object(fields.map(|(name, value)| (name, json_of(value))).collect())
        }
    }
}
