//! Executions as clients read them: the log folded, and the provider's gate laid over it.

use std::collections::HashMap;

use super::{Engine, View};
use crate::domain::{Event, Execution, ExecutionId, GateState, HeldBy, ProviderName, State, Wait};
use crate::store::{ListQuery, Payload, Result};

/// How often a reader tries to see an execution and its provider's gate at one revision.
const TRIES: usize = 4;

impl Engine {
    /// One execution as it stands, with its place in the queue.
    pub async fn get(&self, id: ExecutionId, payload: Payload) -> Result<Option<View>> {
        let Some(mut view) = self.under_its_gate(id, payload).await? else { return Ok(None) };
        if matches!(view.execution.wait, Wait::None | Wait::Limit)
            && view.execution.state == State::Pending
        {
            view.ahead = self.0.store.ahead_of(id).await?;
        }
        Ok(Some(view))
    }

    async fn under_its_gate(&self, id: ExecutionId, payload: Payload) -> Result<Option<View>> {
        let store = &self.0.store;
        let Some(mut execution) = store.execution(id, payload).await? else { return Ok(None) };
        for _ in 0..TRIES {
            let gate = match execution.state {
                State::Pending => store.gate_at(&execution.spec.provider, i64::MAX).await?,
                _ => None,
            };
            let gate_revision = gate.as_ref().map_or(0, |gate| gate.revision);
            if gate_revision <= execution.revision {
                return Ok(Some(over(execution, gate.as_ref())));
            }
            // The gate changed after the execution did. If the execution has not changed since
            // it was read, both are seen as of the gate's revision.
            let Some(again) = store.execution(id, payload).await? else { return Ok(None) };
            if again.revision == execution.revision {
                return Ok(Some(over(execution, gate.as_ref())));
            }
            execution = again;
        }
        // Changing faster than it is read: the execution's own revision is a safe cursor.
        Ok(Some(plain(execution)))
    }

    /// Matching executions, newest first; `query.before` is the last id of the page before.
    pub async fn list(&self, query: &ListQuery, payload: Payload) -> Result<Vec<View>> {
        let store = &self.0.store;
        let ids = store.list(query).await?;
        let mut gates: HashMap<ProviderName, Option<Event>> = HashMap::new();
        let mut views = Vec::with_capacity(ids.len());
        for execution in store.executions(&ids, payload).await? {
            let mut view = plain(execution);
            if view.execution.state == State::Pending {
                let provider = view.execution.spec.provider.clone();
                if !gates.contains_key(&provider) {
                    let gate = store.gate_at(&provider, i64::MAX).await?;
                    gates.insert(provider.clone(), gate);
                }
                // The revision stays the execution's own: as a cursor it may repeat a change of
                // the gate, and never misses one.
                let gate = state_of(gates.get(&provider).and_then(Option::as_ref));
                view.gate = seen_by(&view.execution, gate);
            }
            views.push(view);
        }
        Ok(views)
    }
}

/// The execution under a gate that changed last by `gate`.
pub(super) fn over(execution: Execution, gate: Option<&Event>) -> View {
    let mut view = plain(execution);
    if view.execution.state == State::Pending {
        view.revision = view.revision.max(gate.map_or(0, |gate| gate.revision));
        view.gate = seen_by(&view.execution, state_of(gate));
    }
    view
}

/// The execution under an open gate.
pub(super) fn plain(execution: Execution) -> View {
    View { revision: execution.revision, gate: GateState::Open, ahead: None, execution }
}

/// What the newest change of a gate says of it.
pub(super) fn state_of(gate: Option<&Event>) -> GateState {
    gate.and_then(|event| GateState::after(&event.change)).unwrap_or_default()
}

/// What of a gate holds this execution back. A pause does whatever else a pending one waits for; one
/// that closed by itself, or a machine that is short, only what could start now.
pub(super) fn seen_by(execution: &Execution, gate: GateState) -> GateState {
    let demand = execution.spec.demand.as_ref();
    let model = demand.and_then(|demand| demand.model.as_deref());
    held_back(execution.state, execution.wait, model, gate)
}

fn held_back(state: State, wait: Wait, model: Option<&str>, gate: GateState) -> GateState {
    if let (State::Pending, Wait::None | Wait::Limit, GateState::Held(holds)) = (state, wait, &gate)
    {
        // The newest rate and a closed gate may both hold it: the gate says more.
        let mut holds: Vec<_> = holds.iter().filter(|hold| hold.concerns(model)).cloned().collect();
        holds.sort_by_key(|hold| matches!(hold.by, HeldBy::Rate { .. }));
        return if holds.is_empty() { GateState::Open } else { GateState::Held(holds) };
    }
    match (state, wait, &gate) {
        (State::Pending, _, GateState::Paused(_))
        | (
            State::Pending,
            Wait::None | Wait::Limit,
            GateState::Short(_) | GateState::Closed { .. } | GateState::Probing { .. },
        ) => gate,
        (
            State::Pending | State::Running | State::Succeeded | State::Failed | State::Cancelled,
            _,
            _,
        ) => GateState::Open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Lack, Pause, Shortage, Timestamp, WorkerId};

    #[test]
    fn a_pause_holds_back_all_that_is_pending_and_a_short_machine_what_could_start() {
        let paused = GateState::Paused(Pause { reason: String::new(), until: None });
        let lack = Lack::Cpu { percent: 93, max_percent: 80 };
        let short = GateState::Short(Shortage { worker: WorkerId::new(), lack });
        let until = Timestamp::from_micros(1);
        let seen = |state, wait, gate: &GateState| held_back(state, wait, None, gate.clone());
        for wait in [Wait::None, Wait::Limit] {
            assert_eq!(seen(State::Pending, wait, &paused), paused);
            assert_eq!(seen(State::Pending, wait, &short), short);
        }
        for wait in [Wait::Scheduled { until }, Wait::Backoff { until }] {
            assert_eq!(seen(State::Pending, wait, &paused), paused);
            assert_eq!(seen(State::Pending, wait, &short), GateState::Open);
        }
        assert_eq!(seen(State::Running, Wait::None, &paused), GateState::Open);
        assert_eq!(seen(State::Succeeded, Wait::None, &short), GateState::Open);
    }
}
