//! What a claim is asked for, and what it got.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use super::share::Offer;
use crate::domain::{Handle, Lease, ProviderName, Reserved, Spec, Timestamp, WorkerId};

/// Takes ready executions under a lease.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Who will run them.
    pub worker: WorkerId,
    /// Of which providers. Where all have the same right to a slot, the earlier comes first.
    pub wanted: Vec<Wanted>,
    /// The most it takes in all, `beyond` apart: how many more attempts the worker has slots for.
    pub slots: u32,
    /// Of the slots, how many are only for providers of which the worker runs nothing yet.
    pub kept: u32,
    /// Of how many providers of which the worker runs nothing yet it takes one where no slot is left.
    pub beyond: u32,
    /// How long the leases last.
    pub lease: Duration,
}

/// What is wanted of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub provider: ProviderName,
    /// The most to take.
    pub most: u32,
    /// How many workers share its limit: with the claim the worker runs no more than its share,
    /// rounded up. 1 where there are no others, or they have had their chance.
    pub sharers: u32,
    /// How many of its executions the worker runs already.
    pub running_here: u32,
}

/// One execution to be run now.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The right to run it.
    pub lease: Lease,
    /// What to run.
    pub spec: Arc<Spec>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many attempts are charged, this one included.
    pub charged: u32,
    /// How long it had been due.
    pub waited: Duration,
    /// Whether its last attempt was lost or handed back.
    pub interrupted: bool,
    /// How the provider knows the work of that attempt, which is to be taken up again.
    pub handle: Option<Handle>,
    /// Whether it is claimed only to be stopped at its provider.
    pub cancel_requested: bool,
    /// Whether it was let through a gate that is not open, to see whether it may be.
    pub probe: bool,
    /// The queue it waited in: that of its model, or the common one.
    pub lane: String,
    /// What it took of token budgets, to be set right by what it really consumes.
    pub reserved: Option<Reserved>,
    /// Whether the provider's limit moves by itself, so that what is seen of it is of interest.
    pub adaptive: bool,
    /// When it was claimed, on the store's clock.
    pub at: Timestamp,
}

/// What a claim got.
#[derive(Debug, Default)]
pub struct ClaimReport {
    /// The executions, by provider in the order they were to be claimed.
    pub claimed: Vec<Claimed>,
    /// For each provider that was looked at and had room, or has more to be looked at.
    pub providers: Vec<ProviderClaims>,
    /// Whether another claim would get more at once.
    pub more: bool,
    /// Providers at which it left something that is ready and may run, because the worker has its
    /// share.
    pub held_back: Vec<ProviderName>,
    /// Providers at which it left something that is ready and may run, for want of a slot.
    pub crowded_out: Vec<ProviderName>,
    /// Providers that it did not look at: they had nothing to give, or somebody held them.
    pub passed_over: Vec<ProviderName>,
    /// Providers at which something waits for a time, and until when.
    pub resumes: BTreeMap<ProviderName, Timestamp>,
}

/// What a claim found at one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderClaims {
    /// Which.
    pub provider: ProviderName,
    /// Running before the claim.
    pub running: u32,
    /// The limit in force.
    pub limit: u32,
    /// Taken by the claim.
    pub claimed: u32,
}

impl ClaimReport {
    pub(super) fn add(&mut self, more: bool, provider: ProviderName, offer: &Offer) {
        let more = more || offer.is_cut();
        self.more |= more;
        if offer.lacks_slots() {
            self.crowded_out.push(provider.clone());
        } else if offer.is_left() {
            self.held_back.push(provider.clone());
        }
        if offer.claimed() > 0 || more {
            let (running, limit, claimed) = (offer.running, offer.limit, offer.claimed());
            self.providers.push(ProviderClaims { provider, running, limit, claimed });
        }
    }
}

impl Claim {
    /// What is wanted, by provider, with its place: one named twice is looked at once, with what
    /// was wanted of it in all.
    pub(super) fn wanted_once(&self) -> BTreeMap<ProviderName, (usize, Wanted)> {
        let mut once: BTreeMap<_, (usize, Wanted)> = BTreeMap::new();
        for (place, wanted) in self.wanted.iter().enumerate() {
            match once.entry(wanted.provider.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert((place, wanted.clone()));
                }
                Entry::Occupied(mut entry) => {
                    let (_, first) = entry.get_mut();
                    first.most = first.most.saturating_add(wanted.most);
                }
            }
        }
        once
    }
}
