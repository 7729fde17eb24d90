//! Whether more replicas would help: the signal for whoever adds and removes them.
//!
//! What must stay true: it is a function of what the store holds and of what workers last told, so any
//! replica gives the same answer; work that no replica may start counts for none, however much of it
//! waits.

use super::{Bottleneck, Scaling, WorkerReport, WorkerView};
use crate::domain::{Admission, COMMON_LANE, Timestamp};
use crate::store::ProviderRow;

/// How many executions of this provider could start now, if there were slots for them.
pub(super) fn startable(row: &ProviderRow, now: Timestamp) -> u64 {
    let free = match row.record.admits(now) {
        Admission::All if is_spent(row, now) => 0,
        Admission::All => free(row),
        // One, or none, whoever asks.
        Admission::Probe | Admission::Nothing => 0,
    };
    let budget = row.record.flow.requests_left(&row.record.effective(), now);
    row.ready_in_common().min(free).min(budget.unwrap_or(u64::MAX))
}

/// How many more may run at the same time.
fn free(row: &ProviderRow) -> u64 {
    u64::from(row.record.effective().max_concurrent).saturating_sub(row.running)
}

/// Whether the provider's budget of the minute holds all of its work back.
fn is_spent(row: &ProviderRow, now: Timestamp) -> bool {
    let record = &row.record;
    record.flow.admits(&record.effective(), COMMON_LANE, None, now).is_err()
}

/// Whether more replicas would help.
pub(super) fn scaling(rows: &[ProviderRow], workers: &[WorkerView], now: Timestamp) -> Scaling {
    let live: Vec<_> = workers.iter().filter(|worker| worker.is_live()).collect();
    // What no live replica is configured for, another like them would not run either.
    let served = |row: &&ProviderRow| {
        live.iter().any(|worker| worker.report.serves(&row.record.name)) && row.ready > 0
    };
    let waits: Vec<_> = rows.iter().filter(served).map(|row| Waits::of(row, now)).collect();
    let fleet = Fleet::of(&live);
    let on_short_machines: u64 =
        waits.iter().filter(|it| it.is_short()).map(|it| it.startable).sum();
    let startable: u64 = waits.iter().map(|it| it.startable).sum();
    // What waits for a machine with more left finds no room in the slots of these.
    let for_slots = (startable - on_short_machines).saturating_sub(fleet.spare);
    let pending_for_replicas = on_short_machines + for_slots;
    let by_machine = on_short_machines > for_slots || fleet.is_hindered;
    let (bottleneck, message) = if pending_for_replicas > 0 && by_machine {
        (
            Bottleneck::Machine,
            format!(
                "more replicas will help on other machines: {pending_for_replicas} executions could \
                 start, and the machines of the replicas there are have too little left"
            ),
        )
    } else if pending_for_replicas > 0 {
        (
            Bottleneck::Slots,
            format!(
                "more replicas will help: {pending_for_replicas} executions could start, and the \
                 replicas there are have no slots for them"
            ),
        )
    } else {
        held_up(&waits)
    };
    Scaling {
        bottleneck,
        pending_for_replicas,
        message,
        utilisation: fleet.utilisation(),
        spare_slots: fleet.spare,
        live_replicas: fleet.replicas,
        desired_replicas: fleet.desired(startable),
    }
}

/// What holds up most of the work that more replicas could not start.
fn held_up(waits: &[Waits<'_>]) -> (Bottleneck, String) {
    let held_up = waits.iter().filter(|it| it.held_up() > 0);
    // Among equals the first by name.
    let Some(most) = held_up.rev().max_by_key(|it| it.held_up()) else {
        let why = match waits.iter().any(|it| it.startable > 0) {
            true => "those there are have slots for what waits, or will grow",
            false => "nothing waits for a slot",
        };
        return (Bottleneck::None, format!("more replicas are not needed: {why}"));
    };
    let (name, count) = (&most.row.record.name, most.held_up());
    let (bottleneck, why) = match most.gate {
        Gate::Open => {
            let limit = most.row.record.effective().max_concurrent;
            (Bottleneck::ProviderLimit, format!("provider {name} is at its limit of {limit}"))
        }
        Gate::Spent => {
            let why = format!("the budget of this minute of provider {name} is spent");
            (Bottleneck::Rate, why)
        }
        Gate::Models => {
            let why = format!("budgets or gates of models of provider {name} hold its work back");
            (Bottleneck::Rate, why)
        }
        Gate::Paused => (Bottleneck::ProviderGate, format!("provider {name} is paused")),
        Gate::Closed => {
            (Bottleneck::ProviderGate, format!("the gate of provider {name} is closed"))
        }
    };
    let waits = if count == 1 {
        "1 execution waits".to_owned()
    } else {
        format!("{count} executions wait")
    };
    (bottleneck, format!("more replicas will not help: {why}, {waits} for it"))
}

/// A provider with ready work.
struct Waits<'a> {
    row: &'a ProviderRow,
    gate: Gate,
    startable: u64,
}

/// What a provider's gate does with ready work.
enum Gate {
    Open,
    Spent,
    Models,
    Paused,
    Closed,
}

impl<'a> Waits<'a> {
    fn of(row: &'a ProviderRow, now: Timestamp) -> Self {
        let gate = match row.record.admits(now) {
            Admission::All if is_spent(row, now) => Gate::Spent,
            Admission::All if startable(row, now) == free(row) => Gate::Open,
            Admission::All if row.ready_in_common() < row.ready => Gate::Models,
            Admission::All => Gate::Spent,
            Admission::Nothing if row.record.pause.is_some() => Gate::Paused,
            Admission::Probe | Admission::Nothing => Gate::Closed,
        };
        Self { row, gate, startable: startable(row, now) }
    }

    /// Whether a replica told that its machine has too little left for this provider's work.
    fn is_short(&self) -> bool {
        self.row.record.shortage.is_some()
    }

    /// How many executions could not start with any number of slots.
    fn held_up(&self) -> u64 {
        self.row.ready - self.startable
    }
}

/// All live replicas together.
struct Fleet {
    replicas: u32,
    active: u64,
    slots: u64,
    /// How many more attempts they could take.
    spare: u64,
    /// Whether the machine of each has too little left for more slots.
    is_hindered: bool,
}

impl Fleet {
    fn of(live: &[&WorkerView]) -> Self {
        let reports = || live.iter().map(|worker| &worker.report);
        let hindered = reports().filter(|it| it.pool.is_some_and(|pool| pool.hindered)).count();
        Self {
            replicas: u32::try_from(live.len()).unwrap_or(u32::MAX),
            active: reports().map(|report| report.figures.active).sum(),
            slots: reports().map(|report| u64::from(report.slots)).sum(),
            spare: reports().filter_map(WorkerReport::spare).map(u64::from).sum(),
            is_hindered: !live.is_empty() && hindered == live.len(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    fn utilisation(&self) -> f64 {
        if self.slots == 0 { 0.0 } else { self.active as f64 / self.slots as f64 }
    }

    /// How many replicas that hold as much as these do on average could run what runs and this besides;
    /// at least one.
    fn desired(&self, startable: u64) -> u32 {
        let holds = self.active + self.spare;
        if holds == 0 {
            return self.replicas.saturating_add(u32::from(startable > 0)).max(1);
        }
        let needed = u128::from(self.active + startable) * u128::from(self.replicas);
        u32::try_from(needed.div_ceil(u128::from(holds))).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests;
