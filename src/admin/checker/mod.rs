//! Checks the promises of the store on its log alone, entry by entry.
//!
//! What must stay true: the checker believes nothing but the log. It shares no rule with the code
//! that wrote the log, so that a fault there is not repeated here. It keeps little of a finished
//! execution, so that a log of millions fits in memory.

mod budget;
mod finding;
mod life;
mod provider;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use crate::domain::{Change, Event, ExecutionId, ProviderName, ProviderRecord, Record};
use finding::Findings;
pub use finding::{Rule, Violation};
use life::{Life, Tally};
pub use provider::ProviderCheck;

/// Follows a log from its first entry held to its head.
#[derive(Debug)]
pub struct Checker {
    /// Entries up to this one are no longer held: executions submitted there are not checked.
    compacted: i64,
    revision: i64,
    live: HashMap<ExecutionId, Life>,
    finished: HashMap<ExecutionId, Tally>,
    providers: BTreeMap<ProviderName, ProviderCheck>,
    checks: BTreeMap<Rule, u64>,
    executions: u64,
}

impl Checker {
    /// A checker for a log whose entries up to `compacted` are no longer held.
    pub fn new(compacted: i64) -> Self {
        Self {
            compacted,
            revision: compacted,
            live: HashMap::new(),
            finished: HashMap::new(),
            providers: BTreeMap::new(),
            checks: BTreeMap::new(),
            executions: 0,
        }
    }

    /// Takes the next entry. After a violation the checker goes on from what the entry says, so
    /// that one fault is reported once.
    pub fn feed(&mut self, event: &Event) -> Result<(), Violation> {
        let mut findings = Findings::new(&mut self.checks);
        let expected = self.revision + 1;
        findings.expect(Rule::Revisions, event.revision == expected, || {
            format!("revision {expected} should have come next")
        });
        self.revision = event.revision;
        let provider = self
            .providers
            .entry(event.provider.clone())
            .or_insert_with(|| ProviderCheck::new(event.provider.clone(), self.compacted == 0));
        if event.change.is_about_a_provider() {
            findings.expect(Rule::Transitions, event.execution.is_none(), || {
                "a change of a provider names an execution".to_owned()
            });
            provider.apply(&event.change, &mut findings);
            return findings.conclude(event);
        }
        let Some(id) = event.execution else {
            findings.expect(Rule::Transitions, false, || {
                "a change of an execution names none".to_owned()
            });
            return findings.conclude(event);
        };
        if let Change::Submitted { wait } = event.change {
            let known = self.live.contains_key(&id) || self.finished.contains_key(&id);
            findings.expect(Rule::Transitions, !known, || "submitted a second time".to_owned());
            if !known {
                self.executions += 1;
                self.live.insert(id, Life::submitted(provider.name.clone(), wait));
            }
            return findings.conclude(event);
        }
        if let Some(life) = self.live.get_mut(&id) {
            if let Change::Claimed { token, reserved, .. } = &event.change {
                let held = !life.is_to_be_stopped();
                provider.admit((id, *token), event.at, held, reserved.as_ref(), &mut findings);
            }
            if let Some(ended) = event.change.ended()
                && let Some(usage) = ended.usage
            {
                provider.consumed((id, ended.token), usage);
            }
            life.apply(event, &mut findings);
            if !life.is_running() {
                provider.leave(id);
            }
            if let Some(tally) = life.tally() {
                self.live.remove(&id);
                self.finished.insert(id, tally);
            }
        } else if self.finished.contains_key(&id) {
            findings.expect(Rule::Transitions, false, || "changed after it was over".to_owned());
        } else {
            // One that was submitted before the log begins is not followed.
            findings.expect(Rule::Transitions, self.compacted > 0, || {
                "changed before it was submitted".to_owned()
            });
        }
        findings.conclude(event)
    }

    /// What must hold where the log ends.
    pub fn end(&mut self) -> Result<(), Vec<Violation>> {
        let mut violations = Vec::new();
        for (id, life) in &self.live {
            let mut findings = Findings::new(&mut self.checks);
            findings.expect(Rule::Cancel, !life.is_cancelled_but_pending(), || {
                "cancelled while pending, and still pending".to_owned()
            });
            violations.extend(findings.conclude_at_end(self.revision, Some(*id)));
        }
        if violations.is_empty() { Ok(()) } else { Err(violations) }
    }

    /// Compares the row of an execution, as of the end of the log, with what the log says of it.
    /// Each row is given once; the execution is forgotten then.
    pub fn agree(&mut self, record: &Record) -> Result<(), Violation> {
        let id = record.id;
        let logged = match self.live.remove(&id) {
            Some(life) => Some(life.tally_so_far()),
            None => self.finished.remove(&id),
        };
        let mut findings = Findings::new(&mut self.checks);
        match logged {
            Some(logged) => {
                let row = Tally::of(record);
                findings.expect(Rule::Records, row == logged, || {
                    format!("its row says {row}, the log says {logged}")
                });
            }
            None => findings.expect(Rule::Records, self.compacted > 0, || {
                "it has a row and no entry in the log".to_owned()
            }),
        }
        findings.conclude_at_end(self.revision, Some(id)).map_or(Ok(()), Err)
    }

    /// Compares the row of a provider, as of the end of the log, with what the log says of it.
    pub fn agree_on_provider(&mut self, record: &ProviderRecord) -> Result<(), Violation> {
        let mut findings = Findings::new(&mut self.checks);
        match self.providers.get(&record.name) {
            Some(provider) => provider.agree(record, &mut findings),
            None => findings.expect(Rule::Records, self.compacted > 0, || {
                format!("provider {} has a row and no entry in the log", record.name)
            }),
        }
        findings.conclude_at_end(self.revision, None).map_or(Ok(()), Err)
    }

    /// Executions of the log that [`Checker::agree`] was given no row of.
    pub fn without_row(&self) -> impl Iterator<Item = Violation> {
        let ids = self.live.keys().chain(self.finished.keys());
        ids.map(|id| Violation {
            rule: Rule::Records,
            revision: self.revision,
            execution: Some(*id),
            provider: None,
            message: "it is in the log and has no row".to_owned(),
        })
    }

    /// The revision of the entry taken last.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Executions submitted so far.
    pub fn executions(&self) -> u64 {
        self.executions
    }

    /// How often each rule was checked.
    pub fn checks(&self) -> &BTreeMap<Rule, u64> {
        &self.checks
    }

    /// Every provider seen, by name.
    pub fn providers(&self) -> impl Iterator<Item = &ProviderCheck> {
        self.providers.values()
    }

    /// What the provider runs as of now.
    pub fn running(&self, provider: &ProviderName) -> Vec<ExecutionId> {
        self.providers.get(provider).map(ProviderCheck::running).unwrap_or_default()
    }
}
