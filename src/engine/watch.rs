//! Watching one execution.
//!
//! What must stay true (promise P5): subscribe to wake-ups first, then read the log from the
//! cursor; send what was read in revision order; never move the cursor past what was not read. So
//! attaching, catching up and going on after a reconnect are one function.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::hub::Wake;
use super::outlet::{Closed, Outlet};
use super::view::{over, plain, seen_by, state_of};
use super::{Cursor, Engine, View, Watch, WatchError, WatchEvent, WatchItem};
use crate::domain::{Change, Event, Execution, ExecutionId, GateState, Spec, State, TraceContext};
use crate::store::{EventQuery, History, Payload, Result, StoreError};

/// Entries of the log read at a time.
const PAGE: u32 = 256;
/// The largest input that a watch holds on to.
const LIGHT_BYTES: usize = 16 * 1_024;
/// How often an idle watch looks at the log though nothing woke it.
pub(super) const RECHECK: Duration = Duration::from_secs(2);

impl Engine {
    /// Follows one execution: from now, or from a cursor. Tells its trace too, where it has one.
    pub async fn watch(
        &self,
        id: ExecutionId,
        cursor: Option<Cursor>,
        include_output: bool,
    ) -> Result<(Watch, Option<TraceContext>), WatchError> {
        if !self.is_accepting() {
            return Err(WatchError::ShuttingDown);
        }
        let after = match &cursor {
            Some(cursor) => Some(self.check_cursor(cursor).await?),
            None => None,
        };
        let store = &self.0.store;
        let Some(history) = store.histories(&[id], Payload::Without).await?.pop() else {
            return Err(WatchError::NotFound(id));
        };
        let wake = self.subscribe(id, &history.spec.provider);
        let trace = history.spec.trace.clone();
        let (outlet, stream) = Outlet::new(self, after.unwrap_or(0));
        let engine = self.clone();
        self.spawn(async move {
            let attached = match after {
                Some(after) => One::attach(engine, outlet, &history, after).await,
                None => One::snapshot(engine, outlet, id, include_output).await,
            };
            if let Ok(Some(one)) = attached {
                // How it ended was said on the stream.
                let _: Result<(), Closed> = one.follow(wake, include_output).await;
            }
        });
        Ok((stream, trace))
    }

    /// Checks that the log can be followed from the cursor; returns its revision.
    pub(super) async fn check_cursor(&self, cursor: &Cursor) -> Result<i64, WatchError> {
        let head = self.0.store.head().await?;
        if !cursor.epoch.is_empty() && cursor.epoch != head.epoch {
            let (asked, current) = (cursor.epoch.clone(), head.epoch);
            return Err(WatchError::OtherEpoch { asked, current });
        }
        if cursor.after > head.revision {
            return Err(WatchError::Ahead { asked: cursor.after, head: head.revision });
        }
        if cursor.after < head.compacted {
            return Err(WatchError::Compacted { asked: cursor.after, oldest: head.compacted });
        }
        Ok(cursor.after)
    }
}

impl Engine {
    /// Measures how late a watch was that was up to date: by the first of the changes it then found.
    pub(super) fn measure_lag(&self, first: Option<&Event>) {
        if let Some(first) = first {
            self.0.instruments().watch_delivered(self.now().since(first.at));
        }
    }

    /// A running execution as it stood when its attempt began.
    async fn at_its_start(&self, view: View) -> Result<View> {
        let id = view.execution.spec.id;
        let history = self.0.store.histories(&[id], Payload::With).await?.pop();
        let Some(history) = history else { return Ok(view) };
        let mut attempts = history.log.iter().rev().skip_while(|e| e.revision > view.revision);
        let began = attempts.find(|event| matches!(event.change, Change::Claimed { .. }));
        Ok(began.and_then(|event| history.at(event.revision)).map_or(view, plain))
    }
}

/// One watch on its way through the log.
struct One {
    engine: Engine,
    outlet: Outlet,
    /// As of the cursor. Without its result, and without its input unless that is small: a watch
    /// that waits holds no large value.
    execution: Execution,
    gate: GateState,
    /// Whether the input is held.
    light: bool,
}

impl One {
    /// Sends the execution as it stands; `None` if there is nothing more to tell. Whoever wants the
    /// output of one that runs gets it as it stood when its attempt began: all that the attempt has
    /// put out by now comes after that.
    async fn snapshot(
        engine: Engine,
        outlet: Outlet,
        id: ExecutionId,
        include_output: bool,
    ) -> Result<Option<Self>, Closed> {
        let view = match engine.get(id, Payload::With).await {
            Ok(Some(view)) if include_output && view.execution.state == State::Running => {
                match engine.at_its_start(view).await {
                    Ok(view) => view,
                    Err(error) => return Err(outlet.fail(error)),
                }
            }
            Ok(Some(view)) => view,
            Ok(None) => return Err(outlet.fail(StoreError::Closed)),
            Err(error) => return Err(outlet.fail(error)),
        };
        let mut execution = view.execution.clone();
        execution.output = None;
        let (gate, over) = (view.gate.clone(), execution.state.is_terminal());
        let outlet = outlet.send(item(view.revision, view)).await?;
        let light = is_light(&execution.spec);
        if !light {
            execution.spec = without_input(&execution.spec);
        }
        Ok((!over).then_some(Self { engine, outlet, execution, gate, light }))
    }

    /// Takes the execution as it stood at the cursor; `None` if it was over by then.
    async fn attach(
        engine: Engine,
        outlet: Outlet,
        history: &History,
        after: i64,
    ) -> Result<Option<Self>, Closed> {
        let gate = match engine.0.store.gate_at(&history.spec.provider, after).await {
            Ok(gate) => gate,
            Err(error) => return Err(outlet.fail(error)),
        };
        let unlogged = || Execution::unlogged(history.spec.clone());
        let execution = history.at(after).unwrap_or_else(unlogged);
        let gate = state_of(gate.as_ref());
        let over = execution.state.is_terminal();
        // The history came without the input; it is looked at when there is something to send.
        Ok((!over).then_some(Self { engine, outlet, execution, gate, light: false }))
    }

    /// Sends every change after the cursor until the execution is over.
    async fn follow(mut self, mut wake: Wake, include_output: bool) -> Result<(), Closed> {
        let mut up_to_date = false;
        loop {
            let passed = *self.engine.0.hub.head().borrow();
            let query = EventQuery {
                after: self.outlet.cursor,
                execution: Some(self.execution.spec.id),
                output: include_output,
                limit: PAGE,
            };
            let events = match self.engine.0.store.events(&query).await {
                Ok(events) => events,
                Err(error) => return Err(self.outlet.fail(error)),
            };
            if events.is_empty() {
                // Nothing up to `passed` concerns this watch, and all of that was read.
                self.outlet.cursor = self.outlet.cursor.max(passed);
                let recheck = Instant::now() + RECHECK;
                self.outlet = self.outlet.idle(wake.changed(), recheck).await?;
                up_to_date = true;
            }
            if let Some(first) = events.first() {
                // Before they are sent: a client may take its time. What comes while it does waits for it.
                self.engine.measure_lag(Some(first).filter(|_| std::mem::take(&mut up_to_date)));
            }
            for event in &events {
                match self.take(event).await {
                    Ok(Some(item)) => self.outlet = self.outlet.send(item).await?,
                    Ok(None) => self.outlet.cursor = event.revision,
                    Err(error) => return Err(self.outlet.fail(error)),
                }
            }
            if self.execution.state.is_terminal() {
                return Ok(());
            }
        }
    }

    /// Folds one entry in; returns the message it makes, if it makes one.
    async fn take(&mut self, event: &Event) -> Result<Option<WatchItem>> {
        let revision = event.revision;
        if event.execution.is_none() {
            let before = seen_by(&self.execution, std::mem::take(&mut self.gate));
            self.gate = state_of(Some(event));
            let seen = self.execution.revision > 0
                && seen_by(&self.execution, self.gate.clone()) != before;
            if !seen {
                return Ok(None);
            }
            let whole = self.whole().await?;
            return Ok(Some(item(revision, over(whole, Some(event)))));
        }
        if let Change::Output(chunk) = &event.change {
            let event = WatchEvent::Output(self.execution.spec.id, chunk.clone());
            return Ok(Some(WatchItem { revision, event }));
        }
        self.execution.apply(event);
        let mut view = plain(self.whole().await?);
        view.gate = seen_by(&self.execution, self.gate.clone());
        Ok(Some(item(revision, view)))
    }

    /// The execution with its input, and with its result if it is over.
    async fn whole(&mut self) -> Result<Execution> {
        let mut execution = self.execution.clone();
        if self.light && !execution.state.is_terminal() {
            return Ok(execution);
        }
        let id = execution.spec.id;
        let found = self.engine.0.store.histories(&[id], Payload::With).await?.pop();
        let found = found.ok_or(StoreError::Closed)?;
        if execution.state.is_terminal() {
            execution.output = found.output;
        }
        if is_light(&found.spec) {
            self.light = true;
            self.execution.spec = Arc::clone(&found.spec);
        }
        execution.spec = found.spec;
        Ok(execution)
    }
}

fn is_light(spec: &Spec) -> bool {
    spec.input.json.len() <= LIGHT_BYTES
}

fn without_input(spec: &Spec) -> Arc<Spec> {
    let mut bare = spec.clone();
    "{}".clone_into(&mut bare.input.json);
    Arc::new(bare)
}

fn item(revision: i64, view: View) -> WatchItem {
    WatchItem { revision, event: WatchEvent::Execution(Box::new(view)) }
}
