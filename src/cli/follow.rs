//! A watch that outlives its connection.
//!
//! Follows one execution or many. When the stream breaks it is opened again from the cursor of the
//! last message received, so whoever calls [`Follow::next`] sees every change once and in order,
//! and does not notice but for a remark on stderr.

use std::error::Error as _;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::output::note;
use crate::pb::execution_service_client::ExecutionServiceClient;
use crate::pb::watch_executions_response::Event as ManyEvent;
use crate::pb::{
    ExecutionFilter, ExecutionView, WatchExecutionRequest, WatchExecutionResponse,
    WatchExecutionsRequest, WatchExecutionsResponse, watch_execution_response::Event,
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A live watch has a heartbeat every 10 s.
const LONGEST_SILENCE: Duration = Duration::from_secs(35);

/// What is followed.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// One execution, until it is terminal.
    One { id: String, include_output: bool },
    /// Every execution that matches, for ever.
    Many { filter: ExecutionFilter, view: ExecutionView },
}

/// A place in the store's log.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    pub(super) revision: i64,
    pub(super) store_epoch: String,
}

type Messages = BoxStream<'static, Result<WatchExecutionResponse, Status>>;

/// The watch.
pub(super) struct Follow {
    client: ExecutionServiceClient<Channel>,
    subject: Subject,
    cursor: Option<Cursor>,
    /// Whether the cursor comes from a message, and not from the caller.
    moved: bool,
    messages: Option<Messages>,
    pause: Duration,
}

impl Follow {
    /// Follows from `cursor`; without one, from how things stand.
    pub(super) fn new(
        client: ExecutionServiceClient<Channel>,
        subject: Subject,
        cursor: Option<Cursor>,
    ) -> Self {
        Self { client, subject, cursor, moved: false, messages: None, pause: FIRST_PAUSE }
    }

    /// The next message. `None` once the one execution followed is terminal.
    pub(super) async fn next(&mut self) -> Result<Option<WatchExecutionResponse>, Status> {
        loop {
            match self.receive().await {
                Ok(Some(message)) => {
                    self.pass(&message);
                    return Ok(Some(message));
                }
                Ok(None) if matches!(self.subject, Subject::One { .. }) => return Ok(None),
                Ok(None) => self.wait_after("the server ended it").await,
                Err(status) if is_connection_lost(&status) => {
                    self.wait_after(status.message()).await;
                }
                Err(status) if status.code() == Code::OutOfRange && self.moved => {
                    note(format_args!(
                        "some changes cannot be shown any more ({}); going on from how things stand",
                        status.message()
                    ));
                    (self.cursor, self.moved, self.messages) = (None, false, None);
                }
                Err(status) => return Err(status),
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<WatchExecutionResponse>, Status> {
        let messages = match &mut self.messages {
            Some(messages) => messages,
            None => {
                let opened = open(&mut self.client, &self.subject, self.cursor.as_ref()).await?;
                self.messages.insert(opened)
            }
        };
        match timeout(LONGEST_SILENCE, messages.next()).await {
            Ok(message) => message.transpose(),
            Err(_) => Err(Status::unavailable("not even a heartbeat for a while")),
        }
    }

    fn pass(&mut self, message: &WatchExecutionResponse) {
        let store_epoch = message.store_epoch.clone();
        self.cursor = Some(Cursor { revision: message.revision, store_epoch });
        self.moved = true;
        if self.pause != FIRST_PAUSE {
            note("watching again");
            self.pause = FIRST_PAUSE;
        }
    }

    async fn wait_after(&mut self, reason: &str) {
        if self.pause == FIRST_PAUSE {
            note(format_args!("the watch broke off ({reason}); trying again"));
        }
        self.messages = None;
        // Spread out, as all watchers of a server lose it at the same moment.
        sleep(self.pause.mul_f64(rand::random_range(0.5..1.0))).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

async fn open(
    client: &mut ExecutionServiceClient<Channel>,
    subject: &Subject,
    cursor: Option<&Cursor>,
) -> Result<Messages, Status> {
    let after_revision = cursor.map(|cursor| cursor.revision);
    let store_epoch = cursor.map(|cursor| cursor.store_epoch.clone()).unwrap_or_default();
    match subject.clone() {
        Subject::One { id, include_output } => {
            let request = WatchExecutionRequest { id, after_revision, store_epoch, include_output };
            Ok(client.watch_execution(request).await?.into_inner().boxed())
        }
        Subject::Many { filter, view } => {
            let request = WatchExecutionsRequest {
                filter: Some(filter),
                after_revision,
                store_epoch,
                view: view.into(),
            };
            let messages = client.watch_executions(request).await?.into_inner();
            Ok(messages.map(|message| message.map(one_of_many)).boxed())
        }
    }
}

/// The two messages differ in nothing but that one can carry output.
fn one_of_many(message: WatchExecutionsResponse) -> WatchExecutionResponse {
    let event = message.event.map(|event| match event {
        ManyEvent::Execution(execution) => Event::Execution(execution),
        ManyEvent::Heartbeat(heartbeat) => Event::Heartbeat(heartbeat),
    });
    WatchExecutionResponse { revision: message.revision, store_epoch: message.store_epoch, event }
}

/// Whether trying again helps: the server says so, or the connection failed, which is the only
/// status with a source, whatever its code.
fn is_connection_lost(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_broken_connection_is_told_from_an_answer() {
        let broken = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(is_connection_lost(&Status::from_error(Box::new(broken))));
        assert!(is_connection_lost(&Status::unavailable("shutting down")));
        assert!(!is_connection_lost(&Status::not_found("no such execution")));
        assert!(!is_connection_lost(&Status::internal("a fault")));
    }
}
