//! Watching every execution that matches a filter: the whole log read in order, and what concerns
//! others left out. The rules are those of `watch`, but for one: a change of a provider's gate makes
//! no messages by itself, because it would be as many as executions wait. What does make one shows
//! the gate as it was then.

use std::collections::HashMap;

use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::outlet::{Closed, Outlet};
use super::view::{plain, seen_by, state_of};
use super::watch::RECHECK;
use super::{Cursor, Engine, Filter, Watch, WatchError, WatchEvent, WatchItem};
use crate::domain::{Event, Execution, ExecutionId, ProviderName, State};
use crate::store::{EventQuery, History, Payload, Result};

/// Entries of the log, and executions of a snapshot, read at a time.
const PAGE: u32 = 500;
/// The same where inputs and outputs come with them, each of which may be large.
const PAGE_WITH_PAYLOAD: u32 = 16;

impl Engine {
    /// Follows every matching execution: from now, beginning with those there are, or from a
    /// cursor.
    pub async fn watch_matching(
        &self,
        filter: Filter,
        cursor: Option<Cursor>,
        payload: Payload,
    ) -> Result<Watch, WatchError> {
        if !self.is_accepting() {
            return Err(WatchError::ShuttingDown);
        }
        let changes = self.changes();
        let after = match &cursor {
            Some(cursor) => Some(self.check_cursor(cursor).await?),
            None => None,
        };
        let (outlet, stream) = Outlet::new(self, after.unwrap_or(0));
        let gates = HashMap::new();
        let mut many = Many { engine: self.clone(), filter, payload, gates };
        self.spawn(async move {
            let _open = Open::count(&many.engine);
            let outlet = match after {
                Some(_) => Ok(outlet),
                None => many.snapshot(outlet).await,
            };
            if let Ok(outlet) = outlet {
                // How it ended was said on the stream.
                let _: Closed = many.follow(outlet, changes).await;
            }
        });
        Ok(stream)
    }
}

/// A watch that is counted, however it ends.
struct Open(Engine);

impl Open {
    fn count(engine: &Engine) -> Self {
        engine.0.instruments().watch_opened();
        Self(engine.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.instruments().watch_closed();
    }
}

struct Many {
    engine: Engine,
    filter: Filter,
    payload: Payload,
    /// The newest change of each provider's gate up to the entry of the log that is looked at.
    gates: HashMap<ProviderName, Option<Event>>,
}

impl Many {
    /// Sends the matching executions as they stand at one revision, in the order of their own, so
    /// that a client cut off in the middle can go on from the last one it got.
    async fn snapshot(&mut self, mut outlet: Outlet) -> Result<Outlet, Closed> {
        let (head, order) = match self.matching_now().await {
            Ok(found) => found,
            Err(error) => return Err(outlet.fail(error)),
        };
        for chunk in order.chunks(usize::try_from(self.page()).unwrap_or(usize::MAX)) {
            let ids: Vec<_> = chunk.iter().map(|(_, id)| *id).collect();
            let histories = match self.engine.0.store.histories(&ids, self.payload).await {
                Ok(histories) => histories,
                Err(error) => return Err(outlet.fail(error)),
            };
            let mut found: HashMap<_, _> = histories
                .into_iter()
                .filter_map(|history| Some((history.spec.id, history.at(head)?)))
                .collect();
            for execution in ids.iter().filter_map(|id| found.remove(id)) {
                let item = match self.item(execution, head).await {
                    Ok(item) => item,
                    Err(error) => return Err(outlet.fail(error)),
                };
                outlet = outlet.send(item).await?;
            }
        }
        outlet.cursor = outlet.cursor.max(head);
        Ok(outlet)
    }

    /// The newest revision, and every execution that matches at it with its own revision, sorted.
    async fn matching_now(&self) -> Result<(i64, Vec<(i64, ExecutionId)>)> {
        let store = &self.engine.0.store;
        let head = store.head().await?.revision;
        let mut order = Vec::new();
        // By what cannot change; the state is looked at as of the revision.
        let mut query = Filter { states: Vec::new(), ..self.filter.clone() }.query(PAGE);
        loop {
            let ids = store.list(&query).await?;
            let Some(last) = ids.last() else { break };
            query.before = Some(*last);
            let histories = store.histories(&ids, Payload::Without).await?;
            let then = histories.iter().filter_map(|history| history.at(head));
            let matching = then.filter(|execution| self.filter.matches(execution));
            order.extend(matching.map(|execution| (execution.revision, execution.spec.id)));
        }
        order.sort_unstable();
        Ok((head, order))
    }

    /// Sends every change of a matching execution after the cursor.
    async fn follow(&mut self, mut outlet: Outlet, mut changes: Receiver<i64>) -> Closed {
        let mut up_to_date = false;
        loop {
            let passed = *changes.borrow_and_update();
            let limit = self.page();
            let query = EventQuery { after: outlet.cursor, execution: None, output: false, limit };
            let read = async {
                let events = self.engine.0.store.events(&query).await?;
                let histories = self.histories(&events).await?;
                Ok((events, histories))
            };
            let (events, histories) = match read.await {
                Ok(read) => read,
                Err(error) => return outlet.fail(error),
            };
            if events.is_empty() {
                outlet.cursor = outlet.cursor.max(passed);
                let wake = async { drop(changes.changed().await) };
                outlet = match outlet.idle(wake, Instant::now() + RECHECK).await {
                    Ok(outlet) => outlet,
                    Err(closed) => return closed,
                };
                up_to_date = true;
            }
            outlet = match outlet.breathe().await {
                Ok(outlet) => outlet,
                Err(closed) => return closed,
            };
            for event in &events {
                if event.change.is_gate() {
                    self.gates.insert(event.provider.clone(), Some(event.clone()));
                }
                let history = event.execution.and_then(|id| histories.get(&id));
                let then = history.and_then(|history| history.at(event.revision));
                match then.filter(|execution| self.filter.matches(execution)) {
                    Some(execution) => {
                        // The first that is sent, before it is: a client may take its time.
                        self.engine.measure_lag(std::mem::take(&mut up_to_date).then_some(event));
                        let item = match self.item(execution, event.revision).await {
                            Ok(item) => item,
                            Err(error) => return outlet.fail(error),
                        };
                        outlet = match outlet.send(item).await {
                            Ok(outlet) => outlet,
                            Err(closed) => return closed,
                        };
                    }
                    None => outlet.cursor = event.revision,
                }
            }
        }
    }

    /// What is needed to tell how the executions of these entries stood at each.
    async fn histories(&self, events: &[Event]) -> Result<HashMap<ExecutionId, History>> {
        let concerned = |event: &&Event| {
            self.filter.providers.is_empty() || self.filter.providers.contains(&event.provider)
        };
        let mut ids: Vec<_> =
            events.iter().filter(concerned).filter_map(|event| event.execution).collect();
        ids.sort_unstable();
        ids.dedup();
        let histories = self.engine.0.store.histories(&ids, self.payload).await?;
        Ok(histories.into_iter().map(|history| (history.spec.id, history)).collect())
    }

    fn page(&self) -> u32 {
        match self.payload {
            Payload::With => PAGE_WITH_PAYLOAD,
            Payload::Without => PAGE,
        }
    }

    /// The message that shows the execution under its provider's gate as of `revision`.
    async fn item(&mut self, mut execution: Execution, revision: i64) -> Result<WatchItem> {
        if self.payload == Payload::Without {
            execution.output = None;
        }
        let mut view = plain(execution);
        if view.execution.state == State::Pending {
            let provider = view.execution.spec.provider.clone();
            if !self.gates.contains_key(&provider) {
                let gate = self.engine.0.store.gate_at(&provider, revision).await?;
                self.gates.insert(provider.clone(), gate);
            }
            let gate = state_of(self.gates.get(&provider).and_then(Option::as_ref));
            view.gate = seen_by(&view.execution, gate);
        }
        let revision = view.revision;
        Ok(WatchItem { revision, event: WatchEvent::Execution(Box::new(view)) })
    }
}
