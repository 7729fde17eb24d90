//! The pool: how many slots this worker has now, between a least and a most.
//!
//! It grows when work waits for a slot, or more than 80 % of the slots have been in use for 5 s, and
//! shrinks when fewer than 30 % were for 10 s: each time to the size at which 70 % would be. One growth
//! comes 5 s after another at the earliest, a shrinking 10 s after any change. So the growth after a
//! calm is not put off; but as it is the only one for 5 s it lets the burst that caused it arrive for
//! 100 ms, unless what waits takes the largest pool in any case.
//!
//! What must stay true: every decision is a function of what it is told and of the clock it is told,
//! so that tests make the time; the size stays within its bounds, and shrinking leaves a slot to
//! whatever runs; nothing is due again at once after it was looked at, or the dispatcher would spin.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::MachineLoad;

/// The share of slots that a change of size aims at having in use, in percent.
const TARGET_PERCENT: u64 = 70;
/// Above this share the pool is too small, below the other too large.
const HIGH_PERCENT: u64 = 80;
const LOW_PERCENT: u64 = 30;

/// How long after a growth there is no other.
const UP_COOLDOWN: Duration = Duration::from_secs(5);
/// How long after any change the pool does not shrink.
const DOWN_COOLDOWN: Duration = Duration::from_secs(10);

/// How long a burst is given to arrive before the pool grows to it.
const GATHER: Duration = Duration::from_millis(100);
/// How long work may wait for a slot that will be free in a moment, as the pace says.
const LINGER: Duration = Duration::from_secs(1);
/// When to look again at what could not be helped.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A machine busier than this gets no more work at a time.
const BUSY_CPU_PERCENT: f64 = 90.0;
/// Nor one with less memory left.
const SCARCE_MEMORY_BYTES: u64 = 128 << 20;

/// The bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// The fewest slots; at least 1.
    pub min: u32,
    /// The most slots; no fewer than `min`.
    pub max: u32,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self { min: 2, max: 20 }
    }
}

impl PoolSettings {
    /// A pool that neither grows nor shrinks.
    pub fn fixed(slots: u32) -> Self {
        Self { min: slots, max: slots }
    }

    /// Whether the pool neither grows nor shrinks. Then its size is a wall: no attempt runs beyond it.
    pub fn is_fixed(self) -> bool {
        self.min >= self.max
    }

    /// How many of so many slots are kept for `idle` providers of which nothing runs: one for each that
    /// growing has no room for.
    fn kept(self, slots: u32, idle: u32) -> u32 {
        let growth = self.max.saturating_sub(slots);
        idle.saturating_sub(growth).min(slots / 2)
    }

    /// The size at which this demand makes the use that is aimed at, with room beside the kept slots.
    fn size_for(self, demand: u32, idle: u32) -> u32 {
        let aimed_at = (u64::from(demand) * 100).div_ceil(TARGET_PERCENT);
        let aimed_at = u32::try_from(aimed_at).unwrap_or(u32::MAX);
        if aimed_at - self.kept(aimed_at, idle) >= demand {
            return aimed_at;
        }
        aimed_at.max(demand.saturating_add(idle.min(demand)))
    }
}

/// What a pool goes by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PoolInputs {
    /// Attempts at work.
    pub(super) in_use: u32,
    /// Ready executions that only lack a slot here.
    pub(super) waiting: u32,
    /// Providers that can do work and of which nothing runs here.
    pub(super) idle: u32,
    /// How long what was claimed lately had been due.
    pub(super) mean_wait: Duration,
    /// Attempts that ended lately, a second.
    pub(super) throughput: f64,
    /// How busy the machine is.
    pub(super) machine: MachineLoad,
}

/// A change of size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Resize {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) reason: Reason,
}

/// Why the size changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reason {
    /// Work waited for a slot.
    Waiting { waiting: u32, in_use: u32, mean_wait: Duration, throughput: f64 },
    /// Nearly all slots were in use for a time.
    High { in_use: u32 },
    /// No more than so many slots were in use for a time.
    Low { most: u32 },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { waiting, in_use, mean_wait, throughput } => write!(
                f,
                "{waiting} executions wait for a slot, {in_use} run, {throughput:.1} end a second, \
                 the mean wait is {} ms",
                mean_wait.as_millis()
            ),
            Self::High { in_use } => {
                write!(f, "{in_use} slots in use, over {HIGH_PERCENT} % for {UP_COOLDOWN:?}")
            }
            Self::Low { most } => {
                write!(
                    f,
                    "at most {most} slots in use, under {LOW_PERCENT} % for {DOWN_COOLDOWN:?}"
                )
            }
        }
    }
}

/// What of the machine keeps a pool from growing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Hindrance {
    Cpu { percent: f64 },
    Memory { bytes: u64 },
}

impl Hindrance {
    /// What hinders growth on a machine under this load; what is not known hinders nothing.
    pub(super) fn of(machine: &MachineLoad) -> Option<Self> {
        let cpu = machine.cpu_percent.filter(|percent| *percent > BUSY_CPU_PERCENT);
        let memory = machine.memory_available_bytes.filter(|bytes| *bytes < SCARCE_MEMORY_BYTES);
        let cpu = cpu.map(|percent| Self::Cpu { percent });
        cpu.or(memory.map(|bytes| Self::Memory { bytes }))
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { percent } => write!(f, "the machine's CPU is at {percent:.0} %"),
            Self::Memory { bytes } => {
                write!(f, "the machine has {} MiB of memory left", bytes / (1 << 20))
            }
        }
    }
}

/// What one claim may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// How many slots are free.
    pub(super) slots: u32,
    /// Of these, how many only for providers of which nothing runs here.
    pub(super) kept: u32,
    /// Of how many such providers the first may run without a free slot.
    pub(super) beyond: u32,
}

/// The pool of one worker.
#[derive(Debug)]
pub(super) struct Pool {
    bounds: PoolSettings,
    slots: u32,
    grown_at: Option<Instant>,
    changed_at: Option<Instant>,
    /// Since when work waits for a slot.
    pressed: Option<Instant>,
    /// Since when nearly all slots are in use.
    high: Option<Instant>,
    /// Since when few are, and how many at most since then: never fewer than now.
    low: Option<(Instant, u32)>,
    hindrance: Option<Hindrance>,
    looked_at: Option<Instant>,
    /// When it was last asked to be told how much waits.
    counted_at: Option<Instant>,
}

impl Pool {
    pub(super) fn new(bounds: PoolSettings) -> Self {
        Self {
            bounds,
            slots: bounds.min,
            grown_at: None,
            changed_at: None,
            pressed: None,
            high: None,
            low: None,
            hindrance: None,
            looked_at: None,
            counted_at: None,
        }
    }

    /// How many slots there are now.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    pub(super) fn bounds(&self) -> PoolSettings {
        self.bounds
    }

    /// What keeps the pool from growing since it should have.
    pub(super) fn hindrance(&self) -> Option<Hindrance> {
        self.hindrance
    }

    /// What a claim may take, with `idle` providers of which nothing runs here. So that slow providers
    /// cannot keep out another (promise P7) the first attempt of each of these needs no free slot, and
    /// the pool grows to hold it. Slots are kept for those that the largest pool has no room for
    /// besides, up to half of all, so that it is exceeded only where there are more such providers than
    /// that; a pool of fixed size never is.
    pub(super) fn room(&self, in_use: u32, idle: u32) -> Room {
        Room {
            slots: self.slots.saturating_sub(in_use),
            kept: self.bounds.kept(self.slots, idle),
            beyond: if self.bounds.is_fixed() { 0 } else { idle },
        }
    }

    /// How many more attempts of whichever provider this worker could run, now or once it has grown.
    pub(super) fn spare(&self, in_use: u32, idle: u32, machine: &MachineLoad) -> u32 {
        let size = match Hindrance::of(machine) {
            None => self.bounds.max,
            Some(_) => self.slots,
        };
        size.saturating_sub(in_use).saturating_sub(self.bounds.kept(size, idle))
    }

    /// Whether growing may be decided now, so that it is worth counting how much waits. Until it is
    /// asked again a moment later, a guess will do.
    pub(super) fn wants_count(&mut self, now: Instant, machine: &MachineLoad) -> bool {
        let wants = self.slots < self.bounds.max
            && self.grown_at.is_none_or(|at| now >= at + UP_COOLDOWN)
            && self.counted_at.is_none_or(|at| now >= at + GATHER)
            && Hindrance::of(machine).is_none();
        if wants {
            self.counted_at = Some(now);
        }
        wants
    }

    /// When to take the next step, whatever else happens.
    pub(super) fn next_step(&self) -> Option<Instant> {
        let looked_at = self.looked_at?;
        let growth = self.pressed.map(|since| since + GATHER);
        let growth = growth.into_iter().chain(self.high.map(|since| since + UP_COOLDOWN)).min();
        let growth = growth.filter(|_| self.slots < self.bounds.max);
        let growth = growth.map(|at| at.max(after(self.grown_at, UP_COOLDOWN, at)));
        let shrinking = self.low.filter(|_| self.slots > self.bounds.min);
        let shrinking = shrinking.map(|(since, _)| self.shrinks_at(since));
        let due = growth.into_iter().chain(shrinking);
        due.map(|at| if at > looked_at { at } else { looked_at + LOOK_AGAIN }).min()
    }

    /// Changes the size if it is time to.
    pub(super) fn step(&mut self, now: Instant, inputs: &PoolInputs) -> Option<Resize> {
        self.looked_at = Some(now);
        if self.bounds.is_fixed() {
            return None;
        }
        self.note(now, inputs);
        let (to, reason) = self.grown(now, inputs).or_else(|| self.shrunk(now, inputs))?;
        let from = std::mem::replace(&mut self.slots, to);
        if to > from {
            self.grown_at = Some(now);
        }
        self.changed_at = Some(now);
        // Whether the new size is too small or too large is yet to be seen.
        (self.high, self.low) = (None, None);
        Some(Resize { from, to, reason })
    }

    fn note(&mut self, now: Instant, inputs: &PoolInputs) {
        let &PoolInputs { in_use, waiting, .. } = inputs;
        let since = |known: Option<Instant>, holds: bool| holds.then(|| known.unwrap_or(now));
        self.pressed = since(self.pressed, waiting > 0);
        self.high = since(self.high, self.is_above(in_use, HIGH_PERCENT));
        let is_low = waiting == 0 && self.is_below(in_use, LOW_PERCENT);
        self.low = is_low.then(|| match self.low {
            Some((since, most)) => (since, most.max(in_use)),
            None => (now, in_use),
        });
    }

    fn grown(&mut self, now: Instant, inputs: &PoolInputs) -> Option<(u32, Reason)> {
        let &PoolInputs { in_use, waiting, idle, mean_wait, throughput, machine } = inputs;
        // It lasts as long as the machine is so, or it would be told with every attempt that ends.
        self.hindrance = self.hindrance.and(Hindrance::of(&machine));
        let wanted = self.bounds.size_for(in_use.saturating_add(waiting), idle);
        let to = self.within_bounds(wanted);
        if to <= self.slots {
            return None;
        }
        let patience = if inputs.is_fleeting() {
            LINGER
        } else if wanted >= self.bounds.max {
            Duration::ZERO
        } else {
            GATHER
        };
        let reason = if self.pressed.is_some_and(|since| now >= since + patience) {
            Reason::Waiting { waiting, in_use, mean_wait, throughput }
        } else if self.high.is_some_and(|since| now >= since + UP_COOLDOWN) {
            Reason::High { in_use }
        } else {
            return None;
        };
        if self.grown_at.is_some_and(|at| now < at + UP_COOLDOWN) {
            return None;
        }
        self.hindrance = Hindrance::of(&machine);
        self.hindrance.is_none().then_some((to, reason))
    }

    fn shrunk(&self, now: Instant, inputs: &PoolInputs) -> Option<(u32, Reason)> {
        let (since, most) = self.low?;
        if now < self.shrinks_at(since) {
            return None;
        }
        let to = self.within_bounds(self.bounds.size_for(most, inputs.idle));
        (to < self.slots).then_some((to, Reason::Low { most }))
    }

    fn shrinks_at(&self, low_since: Instant) -> Instant {
        let at = low_since + DOWN_COOLDOWN;
        at.max(after(self.changed_at, DOWN_COOLDOWN, at))
    }

    fn within_bounds(&self, slots: u32) -> u32 {
        slots.clamp(self.bounds.min, self.bounds.max)
    }

    fn is_above(&self, in_use: u32, percent: u64) -> bool {
        u64::from(in_use) * 100 > u64::from(self.slots) * percent
    }

    fn is_below(&self, in_use: u32, percent: u64) -> bool {
        u64::from(in_use) * 100 < u64::from(self.slots) * percent
    }
}

impl PoolInputs {
    /// Whether what waits will have a slot in a moment: it is little for the pace at which attempts
    /// end here, and work has not waited long lately.
    fn is_fleeting(&self) -> bool {
        let ends_meanwhile = self.throughput * GATHER.as_secs_f64();
        f64::from(self.waiting) <= ends_meanwhile && self.mean_wait <= GATHER
    }
}

fn after(last: Option<Instant>, cooldown: Duration, otherwise: Instant) -> Instant {
    last.map_or(otherwise, |at| at + cooldown)
}

#[cfg(test)]
mod tests;
