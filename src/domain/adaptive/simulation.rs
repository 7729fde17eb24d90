//! The controller against a provider with a hidden capacity, on virtual time, with the gate that a
//! rate limit closes. The constants of the controller were chosen with this.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Adaptive, AdaptiveBounds, Observation};
use crate::domain::{Admission, ExecutionId, Health, Signal, Timestamp};

const CAPACITIES: [u32; 3] = [8, 3, 12];
const BOUNDS: AdaptiveBounds = AdaptiveBounds { min: 1, max: 64, target_latency: None };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Moved(u32),
    Answered { id: ExecutionId, began: Timestamp },
    Refused { id: ExecutionId, began: Timestamp },
    GateDue,
    Told,
}

/// What sets the limit.
#[derive(Debug, Clone)]
enum Governor {
    /// It is always what the provider takes.
    Oracle,
    Adaptive(Adaptive),
}

#[derive(Debug, Clone, Copy)]
struct Setting {
    /// How long a piece of work takes, give or take a half.
    job: Duration,
    /// How long workers keep what they saw before they tell it; refusals they tell at once.
    telling: Duration,
    /// How long the provider's capacity stays what it is.
    phase: Duration,
    seed: u64,
}

struct World {
    setting: Setting,
    governor: Governor,
    rng: StdRng,
    now: Timestamp,
    due: BinaryHeap<Reverse<(Timestamp, u64, Happens)>>,
    scheduled: u64,
    capacity: u32,
    /// Under way at the provider.
    served: u32,
    /// Claimed and not settled.
    running: u32,
    health: Health,
    unsaid: Observation,
    answered: u32,
    refused: u32,
    /// The limit from each moment on.
    limits: Vec<(Timestamp, u32)>,
}

impl World {
    fn new(setting: Setting, governor: Governor) -> Self {
        Self {
            setting,
            governor,
            rng: StdRng::seed_from_u64(setting.seed),
            now: Timestamp::from_micros(0),
            due: BinaryHeap::new(),
            scheduled: 0,
            capacity: 0,
            served: 0,
            running: 0,
            health: Health::default(),
            unsaid: Observation::default(),
            answered: 0,
            refused: 0,
            limits: Vec::new(),
        }
    }

    fn run(mut self) -> Self {
        for (phase, capacity) in (0..).zip(CAPACITIES) {
            self.schedule(self.setting.phase * phase, Happens::Moved(capacity));
        }
        if self.setting.telling > Duration::ZERO {
            self.schedule(self.setting.telling, Happens::Told);
        }
        let end = self.end_of(CAPACITIES.len());
        while let Some(Reverse((at, _, happens))) = self.due.pop().filter(|it| it.0.0 < end) {
            self.now = at;
            self.happens(happens);
            self.claim();
            let limit = self.limit();
            if self.limits.last().is_none_or(|(_, last)| *last != limit) {
                self.limits.push((at, limit));
            }
        }
        self
    }

    fn schedule(&mut self, after: Duration, happens: Happens) {
        self.scheduled += 1;
        self.due.push(Reverse((self.now + after, self.scheduled, happens)));
    }

    fn limit(&self) -> u32 {
        match &self.governor {
            Governor::Oracle => self.capacity,
            Governor::Adaptive(adaptive) => adaptive.limit(),
        }
    }

    fn happens(&mut self, happens: Happens) {
        match happens {
            Happens::Moved(capacity) => self.capacity = capacity,
            Happens::Answered { id, began } => {
                (self.served, self.running) = (self.served - 1, self.running - 1);
                self.answered += 1;
                self.health.hear(id, &Signal::Answered, self.now);
                let unsaid = &mut self.unsaid;
                let spent = unsaid.mean_latency.unwrap_or_default() * unsaid.completed;
                unsaid.completed += 1;
                unsaid.mean_latency = Some((spent + self.now.since(began)) / unsaid.completed);
                if self.setting.telling.is_zero() {
                    self.tell();
                }
            }
            Happens::Refused { id, began } => {
                self.running -= 1;
                self.refused += 1;
                let wait = Duration::from_millis(self.rng.random_range(100..=200));
                let message = "slow down".to_owned();
                let signal = Signal::RateLimited { retry_after: Some(wait), message };
                self.health.hear(id, &signal, self.now);
                if let Some(until) = self.health.closed_until() {
                    self.schedule(until.since(self.now), Happens::GateDue);
                }
                self.unsaid.rate_limited = Some(began);
                self.tell();
            }
            Happens::GateDue => {
                if self.health.closed_until().is_some_and(|until| until <= self.now) {
                    self.health.try_again();
                }
            }
            Happens::Told => {
                self.tell();
                self.schedule(self.setting.telling, Happens::Told);
            }
        }
    }

    fn tell(&mut self) {
        let seen = std::mem::take(&mut self.unsaid);
        if let Governor::Adaptive(adaptive) = &mut self.governor {
            adaptive.hear(&BOUNDS, &seen, self.now);
        }
    }

    /// Takes as much of a backlog that never ends as limit and gate let through.
    fn claim(&mut self) {
        loop {
            let room = self.limit().saturating_sub(self.running);
            let admission = self.health.admits(self.now);
            let taken = match admission {
                Admission::All => room,
                Admission::Probe => room.min(1),
                Admission::Nothing => 0,
            };
            for _ in 0..taken {
                self.attempt();
            }
            let Governor::Adaptive(adaptive) = &mut self.governor else { return };
            let open = admission == Admission::All;
            if !open || adaptive.look(&BOUNDS, self.running, true, self.now).is_none() {
                return;
            }
        }
    }

    fn attempt(&mut self) {
        let (id, began) = (ExecutionId::new(), self.now);
        self.running += 1;
        if self.health.closure().is_some() {
            self.health.probed_by(id, self.now);
        }
        if self.served < self.capacity {
            self.served += 1;
            let takes = self.setting.job.mul_f64(self.rng.random_range(0.5..1.5));
            self.schedule(takes, Happens::Answered { id, began });
        } else {
            let takes = Duration::from_millis(self.rng.random_range(2..20));
            self.schedule(takes, Happens::Refused { id, began });
        }
    }

    /// How long after the provider's capacity moved the limit was what it takes.
    fn followed_after(&self, phase: usize) -> Option<Duration> {
        let (start, end) = (self.end_of(phase), self.end_of(phase + 1));
        let capacity = CAPACITIES[phase];
        let before = self.limits.iter().rev().find(|(at, _)| *at <= start);
        if before.is_some_and(|(_, limit)| *limit == capacity) {
            return Some(Duration::ZERO);
        }
        let mut within = self.limits.iter().filter(|(at, _)| (start..end).contains(at));
        within.find(|(_, limit)| *limit == capacity).map(|(at, _)| at.since(start))
    }

    /// The least, the most and the mean of the limit in what is left of a phase `after` its start.
    fn held(&self, phase: usize, after: Duration) -> (u32, u32, f64) {
        let (start, end) = (self.end_of(phase) + after, self.end_of(phase + 1));
        let (mut least, mut most, mut sum) = (u32::MAX, 0, 0.0);
        let ends = self.limits.iter().skip(1).map(|(at, _)| *at).chain([end]);
        for ((from, limit), until) in self.limits.iter().zip(ends) {
            let (from, until) = ((*from).max(start), until.min(end));
            if from < until {
                (least, most) = (least.min(*limit), most.max(*limit));
                sum += f64::from(*limit) * until.since(from).as_secs_f64();
            }
        }
        (least, most, sum / end.since(start).as_secs_f64())
    }

    /// When this many phases are over.
    fn end_of(&self, phases: usize) -> Timestamp {
        let phases = u32::try_from(phases).expect("there are three");
        Timestamp::from_micros(0) + self.setting.phase * phases
    }

    fn refused_share(&self) -> f64 {
        f64::from(self.refused) / f64::from(self.answered + self.refused)
    }
}

/// Runs the controller and the oracle in the same world, for several seeds.
fn compare(job_ms: u64, telling_ms: u64) {
    let (job, telling) = (Duration::from_millis(job_ms), Duration::from_millis(telling_ms));
    for seed in 0..20 {
        let phase = Duration::from_secs(40);
        let setting = Setting { job, telling, phase, seed };
        let oracle = World::new(setting, Governor::Oracle).run();
        let world = World::new(setting, Governor::Adaptive(Adaptive::new(1))).run();
        for (phase, capacity) in CAPACITIES.into_iter().enumerate() {
            let after = world.followed_after(phase);
            let soon = after.is_some_and(|after| after < Duration::from_secs(30));
            assert!(soon, "{setting:?}: {capacity} was followed after {after:?}");
            let (least, most, mean) = world.held(phase, Duration::from_secs(30));
            let near = least * 2 >= capacity && most <= capacity + 3;
            let on_the_whole = mean > 0.85 * f64::from(capacity);
            assert!(near && on_the_whole, "{setting:?}: {capacity}: {least} to {most}, {mean}");
        }
        let refused = world.refused_share();
        assert!(refused < 0.02, "{setting:?}: {refused} of the answers were refusals");
        let share = f64::from(world.answered) / f64::from(oracle.answered);
        assert!(share > 0.85, "{setting:?}: {share} of what the oracle got");
    }
}

#[test]
fn the_limit_follows_a_hidden_capacity_that_moves_from_8_to_3_to_12() {
    compare(100, 0);
    compare(500, 0);
}

#[test]
fn it_follows_where_workers_tell_what_they_saw_four_times_a_second() {
    compare(100, 250);
    compare(500, 250);
}
