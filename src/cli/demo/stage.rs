//! What every scene of the script uses: the clients, the board, and the list of what was checked.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;

use super::board::{Board, NAME_LABEL};
use super::live::Live;
use super::plan::{self, Part};
use super::summary::Check;
use crate::cli::connect::{self, Server};
use crate::cli::follow::{Cursor, Follow, Subject};
use crate::cli::json;
use crate::pb::execution_service_client::ExecutionServiceClient;
use crate::pb::provider_service_client::ProviderServiceClient;
use crate::pb::watch_execution_response::Event;
use crate::pb::{
    ExecutionFilter, ExecutionView, RetryPolicy, SubmitExecutionRequest, SubmitExecutionResponse,
};

/// How long a scene waits for something to be seen before it goes on without.
const PATIENCE: Duration = Duration::from_secs(15);
const INITIAL_BACKOFF: Duration = Duration::from_millis(300);

/// Where the scenes play.
pub(super) struct Stage<'a> {
    pub(super) executions: ExecutionServiceClient<Channel>,
    pub(super) providers: ProviderServiceClient<Channel>,
    pub(super) parts: &'a [Part],
    pub(super) live: Live,
    board: watch::Sender<Board>,
    checks: Mutex<Vec<Check>>,
}

impl<'a> Stage<'a> {
    pub(super) async fn new(url: &str, parts: &'a [Part], live: Live) -> anyhow::Result<Self> {
        let channel = Server::new(url.to_owned()).connect().await?;
        Ok(Self {
            executions: connect::executions(channel.clone()),
            providers: ProviderServiceClient::new(channel),
            parts,
            live,
            board: watch::Sender::new(Board::new(plan::limits())),
            checks: Mutex::default(),
        })
    }

    /// Feeds the board and the screen from the first change of the store on.
    pub(super) async fn watch(&self) -> anyhow::Result<Infallible> {
        let filter = ExecutionFilter::default();
        let subject = Subject::Many { filter, view: ExecutionView::Full };
        let beginning = Cursor { revision: 0, store_epoch: String::new() };
        let mut follow = Follow::new(self.executions.clone(), subject, Some(beginning));
        while let Some(message) = follow.next().await? {
            if let Some(Event::Execution(execution)) = message.event {
                self.live.change(&execution)?;
                self.board.send_modify(|board| board.apply(execution));
            }
        }
        bail!("the watch of all executions ended by itself")
    }

    /// The request for one execution of a part.
    pub(super) fn request(&self, name: &str) -> SubmitExecutionRequest {
        let part = self.part(name);
        let Value::Object(input) = part.input.clone() else {
            unreachable!("the plan's inputs are objects")
        };
        let input = json::to_struct(input).expect("the plan has no numbers above 2^53");
        let initial_backoff = prost_types::Duration::try_from(INITIAL_BACKOFF);
        let run_timeout = part.run_timeout.map(prost_types::Duration::try_from);
        SubmitExecutionRequest {
            provider: part.provider.to_owned(),
            input: Some(input),
            labels: [(NAME_LABEL.to_owned(), name.to_owned())].into(),
            priority: part.priority,
            run_timeout: run_timeout.transpose().expect("the plan's times are short"),
            retry_policy: Some(RetryPolicy {
                max_attempts: part.max_attempts,
                initial_backoff: Some(initial_backoff.expect("a constant below a second")),
                ..RetryPolicy::default()
            }),
            ..SubmitExecutionRequest::default()
        }
    }

    /// Submits every execution of a part.
    pub(super) async fn submit(&self, name: &str) -> anyhow::Result<()> {
        for _ in 0..self.part(name).count {
            self.send(self.request(name)).await?;
        }
        Ok(())
    }

    /// Submits one execution.
    pub(super) async fn send(
        &self,
        request: SubmitExecutionRequest,
    ) -> anyhow::Result<SubmitExecutionResponse> {
        let reply = self.executions.clone().submit_execution(request).await;
        Ok(reply.context("submitting failed")?.into_inner())
    }

    /// Waits until the board shows it, and counts it as checked.
    pub(super) async fn expect(&self, what: &str, seen: impl FnMut(&Board) -> bool) {
        if self.seen(seen).await {
            self.check(what, true, String::new());
        } else {
            self.check(what, false, missed());
        }
    }

    /// Waits until the board shows it; a check only if it never does.
    pub(super) async fn until(&self, what: &str, seen: impl FnMut(&Board) -> bool) {
        if !self.seen(seen).await {
            self.check(what, false, missed());
        }
    }

    /// Waits for as long as it takes.
    pub(super) async fn at_last(&self, seen: impl FnMut(&Board) -> bool) {
        // The sender cannot be gone: it is a field of self.
        let _ = self.board.subscribe().wait_for(seen).await;
    }

    async fn seen(&self, seen: impl FnMut(&Board) -> bool) -> bool {
        let mut board = self.board.subscribe();
        timeout(PATIENCE, board.wait_for(seen)).await.is_ok()
    }

    /// Notes how a check came out.
    pub(super) fn check(&self, what: &str, ok: bool, detail: String) {
        self.locked_checks().push(Check::new(what, ok, detail));
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        self.locked_checks().clone()
    }

    fn locked_checks(&self) -> MutexGuard<'_, Vec<Check>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The board as it stands.
    pub(super) fn board(&self) -> Board {
        self.board.borrow().clone()
    }

    /// From now on the provider may run that many.
    pub(super) fn raise_limit(&self, provider: &str, limit: usize) {
        self.board.send_modify(|board| board.raise_limit(provider, limit));
    }

    fn part(&self, name: &str) -> &Part {
        let found = self.parts.iter().find(|part| part.name == name);
        found.expect("the script names parts of the plan only")
    }
}

fn missed() -> String {
    format!("not seen within {}", humantime::format_duration(PATIENCE))
}
