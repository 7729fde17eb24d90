//! What a provider tells of work while that goes on, as server-sent events: heard for as long as they
//! come, and taken up where they broke off.
//!
//! What must stay true: that the events end says nothing of the work, and neither does it that there
//! are none.

use std::pin::pin;
use std::sync::Mutex;

use futures_util::StreamExt;
use serde_json::Value;

use super::{Progress, Request, Route};
use crate::domain::ErrorCode;
use crate::providers::AttemptFailure;

/// What is made of the events.
pub(in crate::providers) trait Told: Default + Send {
    /// Takes an event by its name and its data; returns the text that it adds to the output.
    fn take(&mut self, name: &str, data: Value) -> Option<String>;
}

/// What an attempt has heard of its work.
#[derive(Debug, Default)]
pub(in crate::providers) struct Heard<T>(Mutex<State<T>>);

#[derive(Debug, Default)]
struct State<T> {
    told: T,
    /// The id of the last event.
    last: Option<String>,
    /// The server has no events of this work, or more than are read.
    deaf: bool,
}

impl<T: Told> Heard<T> {
    /// Looks at what was told so far.
    pub(in crate::providers) fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock().told)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }

    /// Reads the events that `request` asks for, for as long as they come and passes their text on. What this
    /// attempt heard before is not told again; the first time it begins behind the event `from`.
    pub(in crate::providers) async fn listen(
        &self,
        route: &Route<'_>,
        request: Request,
        from: Option<&str>,
        progress: &Progress,
    ) {
        if let Err(failed) = self.try_listen(route, request, from, progress).await {
            let error = failed.for_log();
            tracing::debug!(error, "the events of the provider's work broke off");
        }
    }

    async fn try_listen(
        &self,
        route: &Route<'_>,
        request: Request,
        from: Option<&str>,
        progress: &Progress,
    ) -> Result<(), AttemptFailure> {
        let last = {
            let state = self.lock();
            if state.deaf {
                return Ok(());
            }
            state.last.clone().or_else(|| from.map(str::to_owned))
        };
        let mut request = request.header("accept", EVENTS);
        if let Some(last) = last {
            request = request.header("last-event-id", &last);
        }
        let answer = route.send(&request).await?;
        if !answer.status().is_success() || !answer.is(EVENTS) {
            // A server in trouble may have them again.
            self.lock().deaf = !answer.status().is_server_error();
            return Ok(());
        }
        let mut events = pin!(answer.events());
        while let Some(event) = events.next().await {
            let event = event.inspect_err(|failed| {
                self.lock().deaf |= failed.failure.code == ErrorCode::OutputTooLarge;
            })?;
            let text = {
                let mut state = self.lock();
                if event.id.is_some() {
                    state.last = event.id;
                }
                let data = serde_json::from_str(&event.data).ok();
                data.and_then(|data| state.told.take(&event.name, data))
            };
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                progress.text(&text).await;
            }
        }
        Ok(())
    }
}

const EVENTS: &str = "text/event-stream";
