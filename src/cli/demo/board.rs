//! How things stand, as told by the watch and by nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::summary::Check;
use crate::pb::{Execution, ExecutionState, WaitReason};

/// The label that carries a part's name.
pub(super) const NAME_LABEL: &str = "name";

/// Everything seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    executions: HashMap<String, Execution>,
    /// Which executions have ever waited for what.
    waited: HashSet<(String, WaitReason)>,
    providers: BTreeMap<String, Load>,
}

/// One provider's load.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    limit: usize,
    running: usize,
    most_running: usize,
    over_limit: bool,
}

impl Board {
    pub(super) fn new(limits: BTreeMap<&'static str, usize>) -> Self {
        let load = |limit| Load { limit, ..Load::default() };
        let providers = limits.into_iter().map(|(name, limit)| (name.to_owned(), load(limit)));
        Self { providers: providers.collect(), ..Self::default() }
    }

    /// Takes note of a change.
    pub(super) fn apply(&mut self, execution: Execution) {
        if let Some(wait) = &execution.wait_reason {
            self.waited.insert((execution.id.clone(), wait.code()));
        }
        let runs = execution.state() == ExecutionState::Running;
        let load = self.providers.entry(execution.provider.clone()).or_default();
        let before = self.executions.insert(execution.id.clone(), execution);
        let ran = before.is_some_and(|before| before.state() == ExecutionState::Running);
        load.running = load.running + usize::from(runs) - usize::from(ran);
        load.most_running = load.most_running.max(load.running);
        load.over_limit |= load.running > load.limit;
    }

    /// From now on the provider may run that many. To be told before the server is.
    pub(super) fn raise_limit(&mut self, provider: &str, limit: usize) {
        self.providers.entry(provider.to_owned()).or_default().limit = limit;
    }

    /// The executions of a part.
    pub(super) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Execution> {
        let is_named = move |execution: &&Execution| name_of(execution) == name;
        self.executions.values().filter(is_named)
    }

    /// How many executions of a part are in a state.
    pub(super) fn count(&self, name: &str, state: ExecutionState) -> usize {
        self.named(name).filter(|execution| execution.state() == state).count()
    }

    /// How many executions of a part have ended.
    pub(super) fn ended(&self, name: &str) -> usize {
        self.named(name).filter(|execution| execution.end_time.is_some()).count()
    }

    /// How many executions of a part have ever waited for this.
    pub(super) fn waited(&self, name: &str, reason: WaitReason) -> usize {
        let waited = |id: &str| self.waited.contains(&(id.to_owned(), reason));
        self.named(name).filter(|execution| waited(&execution.id)).count()
    }

    /// The most executions of a provider seen running at once.
    pub(super) fn most_running(&self, provider: &str) -> usize {
        self.providers.get(provider).map_or(0, |load| load.most_running)
    }

    /// For each provider, that it never ran more than its limit.
    pub(super) fn limit_checks(&self) -> impl Iterator<Item = Check> {
        self.providers.iter().map(|(name, load)| {
            Check::new(
                format!("{name} never ran more than its limit"),
                !load.over_limit,
                format!("limit {}, most at once {}", load.limit, load.most_running),
            )
        })
    }
}

/// The name of the part an execution belongs to.
pub(super) fn name_of(execution: &Execution) -> &str {
    execution.labels.get(NAME_LABEL).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: &str, state: ExecutionState) -> Execution {
        Execution {
            id: id.into(),
            provider: "claude".into(),
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_limit_is_broken_by_one_too_many_and_by_nothing_else() {
        let mut board = Board::new([("claude", 1)].into());
        board.apply(change("a", ExecutionState::Running));
        board.apply(change("a", ExecutionState::Running));
        board.apply(change("a", ExecutionState::Succeeded));
        board.apply(change("b", ExecutionState::Running));
        assert!(board.limit_checks().all(|check| check.ok));
        board.apply(change("c", ExecutionState::Running));
        board.apply(change("c", ExecutionState::Succeeded));
        assert!(!board.limit_checks().all(|check| check.ok));
        assert_eq!(board.most_running("claude"), 2);
    }
}
