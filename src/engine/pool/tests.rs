use proptest::prelude::*;

use super::*;

const ELASTIC: PoolSettings = PoolSettings { min: 2, max: 20 };

fn busy(in_use: u32, waiting: u32) -> PoolInputs {
    PoolInputs { in_use, waiting, ..PoolInputs::default() }
}

/// How many attempts one provider may run, with so many others idle.
fn usable(pool: &Pool, idle: u32) -> u32 {
    let Room { slots, kept, .. } = pool.room(0, idle);
    slots - kept
}

/// A pool, and the time it is there.
struct Day {
    pool: Pool,
    begun: Instant,
    now: Instant,
}

impl Day {
    fn begin(bounds: PoolSettings) -> Self {
        let now = Instant::now();
        Self { pool: Pool::new(bounds), begun: now, now }
    }

    fn pass(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn step(&mut self, inputs: PoolInputs) -> Option<(u32, u32)> {
        let resize = self.pool.step(self.now, &inputs)?;
        Some((resize.from, resize.to))
    }

    /// Work that takes what slots there are of a constant demand, until nothing is due for good.
    /// Returns when the size last changed, and how often it did.
    fn settle(&mut self, demand: u32, idle: u32) -> (Duration, u32) {
        let (mut last, mut changes) = (Duration::ZERO, 0);
        let begun = self.now;
        while self.now < begun + Duration::from_secs(120) {
            let in_use = demand.min(usable(&self.pool, idle));
            let inputs = PoolInputs { idle, ..busy(in_use, demand - in_use) };
            if self.step(inputs).is_some() {
                last = self.now - begun;
                changes += 1;
                continue;
            }
            match self.pool.next_step() {
                Some(at) => self.now = at,
                None => break,
            }
        }
        (last, changes)
    }
}

#[test]
fn a_pool_begins_small() {
    assert_eq!(Pool::new(ELASTIC).slots(), 2);
}

#[test]
fn a_flood_after_a_calm_takes_the_largest_pool_at_once() {
    assert_eq!(Day::begin(ELASTIC).step(busy(2, 58)), Some((2, 20)));
}

#[test]
fn the_growth_after_a_calm_waits_a_moment_for_the_rest_of_the_burst() {
    let mut day = Day::begin(ELASTIC);
    assert_eq!(day.step(busy(2, 1)), None);
    assert_eq!(day.pool.next_step(), Some(day.begun + GATHER));
    assert_eq!(day.pass(GATHER / 2).step(busy(2, 3)), None, "and does not begin anew");
    assert_eq!(day.pass(GATHER / 2).step(busy(2, 5)), Some((2, 10)), "7 of 10 are 70 %");
}

#[test]
fn one_growth_is_five_seconds_after_another() {
    let mut day = Day::begin(PoolSettings { min: 2, max: 1_000 });
    day.step(busy(2, 8));
    assert_eq!(day.pass(GATHER).step(busy(2, 8)), Some((2, 15)));
    assert_eq!(day.step(busy(15, 100)), None);
    let moment = Duration::from_micros(1);
    assert_eq!(day.pass(UP_COOLDOWN - moment).step(busy(15, 100)), None);
    assert_eq!(day.pool.next_step(), Some(day.begun + GATHER + UP_COOLDOWN));
    assert_eq!(day.pass(moment).step(busy(15, 100)), Some((15, 165)));
}

#[test]
fn high_use_grows_the_pool_though_nothing_waits_once_it_lasts() {
    let mut day = Day::begin(PoolSettings { min: 10, max: 20 });
    assert_eq!(day.step(busy(8, 0)), None);
    assert_eq!(day.pool.next_step(), None, "80 % are not over 80 %");
    assert_eq!(day.step(busy(9, 0)), None);
    assert_eq!(day.pass(UP_COOLDOWN).step(busy(9, 0)), Some((10, 13)));
    assert_eq!(day.pass(UP_COOLDOWN).step(busy(9, 0)), None);
}

#[test]
fn low_use_shrinks_the_pool_to_what_was_used_most_once_it_lasts() {
    let mut day = Day::begin(ELASTIC);
    day.step(busy(2, 58));
    day.pass(DOWN_COOLDOWN).step(busy(5, 0));
    assert_eq!(day.pool.next_step(), Some(day.now + DOWN_COOLDOWN));
    day.pass(DOWN_COOLDOWN / 2).step(busy(0, 0));
    assert_eq!(day.pass(DOWN_COOLDOWN / 2).step(busy(1, 0)), Some((20, 8)), "5 of 8 once");
    day.step(busy(0, 0));
    assert_eq!(day.pass(DOWN_COOLDOWN).step(busy(0, 0)), Some((8, 2)));
    day.step(busy(0, 0));
    assert_eq!(day.pool.next_step(), None, "it is as small as it gets");
}

#[test]
fn a_moment_of_high_use_puts_shrinking_off() {
    let mut day = Day::begin(ELASTIC);
    day.step(busy(2, 58));
    day.pass(DOWN_COOLDOWN).step(busy(1, 0));
    day.pass(DOWN_COOLDOWN / 2).step(busy(6, 0));
    day.step(busy(1, 0));
    assert_eq!(day.pass(DOWN_COOLDOWN / 2).step(busy(1, 0)), None);
    assert_eq!(day.pass(DOWN_COOLDOWN / 2).step(busy(1, 0)), Some((20, 2)));
}

#[test]
fn what_will_have_a_slot_in_a_moment_is_given_that_moment() {
    let mut day = Day::begin(ELASTIC);
    let quick = PoolInputs { throughput: 100.0, ..busy(2, 10) };
    day.step(quick);
    assert_eq!(day.pass(GATHER).step(quick), None);
    assert!(day.pool.next_step().is_some_and(|at| at <= day.now + LINGER));
    assert_eq!(day.pass(LINGER).step(quick), Some((2, 18)), "but it goes on waiting");
    let mut day = Day::begin(ELASTIC);
    let slow = PoolInputs { mean_wait: LINGER, ..quick };
    day.step(slow);
    assert_eq!(day.pass(GATHER).step(slow), Some((2, 18)), "others waited long lately");
}

#[test]
fn a_machine_without_room_keeps_the_pool_from_growing_and_it_says_so() {
    let busy_cpu = MachineLoad { cpu_percent: Some(95.0), ..MachineLoad::default() };
    let full = MachineLoad { memory_available_bytes: Some(64 << 20), ..MachineLoad::default() };
    let said = [
        (busy_cpu, "the machine's CPU is at 95 %"),
        (full, "the machine has 64 MiB of memory left"),
    ];
    for (machine, why) in said {
        let mut day = Day::begin(ELASTIC);
        assert_eq!(day.step(PoolInputs { machine, ..busy(2, 58) }), None);
        assert_eq!(day.pool.hindrance().expect("it hinders").to_string(), why);
        assert_eq!(day.pool.spare(1, 0, &machine), 1);
        let again = day.pool.next_step().expect("it looks again");
        assert!(again > day.now && again <= day.now + LOOK_AGAIN);
        day.now = again;
        day.step(PoolInputs { machine, ..busy(1, 0) });
        assert!(day.pool.hindrance().is_some(), "the machine is as it was");
        assert_eq!(day.step(busy(2, 58)), Some((2, 20)));
        assert_eq!(day.pool.hindrance(), None);
    }
    let at_ease = MachineLoad { cpu_percent: Some(90.0), memory_available_bytes: Some(1 << 30) };
    assert_eq!(Hindrance::of(&at_ease), None);
    assert_eq!(Hindrance::of(&MachineLoad::default()), None);
}

#[test]
fn a_change_of_size_says_why() {
    let mut day = Day::begin(ELASTIC);
    let inputs =
        PoolInputs { mean_wait: Duration::from_millis(250), throughput: 1.5, ..busy(2, 58) };
    let reason = day.pool.step(day.now, &inputs).expect("it grows").reason.to_string();
    assert_eq!(
        reason,
        "58 executions wait for a slot, 2 run, 1.5 end a second, the mean wait is 250 ms"
    );
    let high = Reason::High { in_use: 9 }.to_string();
    assert_eq!(high, "9 slots in use, over 80 % for 5s");
    let low = Reason::Low { most: 1 }.to_string();
    assert_eq!(low, "at most 1 slots in use, under 30 % for 10s");
}

#[test]
fn how_much_waits_is_asked_only_when_the_answer_counts() {
    let mut day = Day::begin(ELASTIC);
    let at_ease = MachineLoad::default();
    let short = MachineLoad { cpu_percent: Some(99.0), ..at_ease };
    assert!(!day.pool.wants_count(day.now, &short));
    assert!(day.pool.wants_count(day.now, &at_ease));
    assert!(!day.pool.wants_count(day.now, &at_ease), "once a moment");
    day.pass(GATHER);
    assert!(day.pool.wants_count(day.now, &at_ease));
    day.step(busy(2, 5));
    day.pass(GATHER).step(busy(2, 5));
    assert!(!day.pool.wants_count(day.now, &at_ease), "it has just grown");
    day.pass(UP_COOLDOWN);
    assert!(day.pool.wants_count(day.now, &at_ease));
    day.step(busy(20, 500));
    day.pass(UP_COOLDOWN);
    assert!(!day.pool.wants_count(day.now, &at_ease), "it cannot grow");
}

#[test]
fn a_provider_of_which_nothing_runs_gets_a_slot_beyond_a_small_pool() {
    let pool = Pool::new(ELASTIC);
    assert_eq!(pool.room(0, 4), Room { slots: 2, kept: 0, beyond: 4 });
    assert_eq!(pool.room(2, 3), Room { slots: 0, kept: 0, beyond: 3 });
    assert_eq!(pool.room(5, 1), Room { slots: 0, kept: 0, beyond: 1 });
    assert_eq!(pool.room(5, 0), Room { slots: 0, kept: 0, beyond: 0 });
}

#[test]
fn the_largest_pool_keeps_slots_so_that_it_need_not_be_exceeded() {
    let mut day = Day::begin(ELASTIC);
    day.step(busy(2, 58));
    assert_eq!(day.pool.room(0, 4), Room { slots: 20, kept: 4, beyond: 4 });
    assert_eq!(day.pool.room(20, 15), Room { slots: 0, kept: 10, beyond: 15 });
    let at_ease = MachineLoad::default();
    assert_eq!(day.pool.spare(16, 4, &at_ease), 0, "what is kept is not for everybody");
    assert_eq!(Pool::new(ELASTIC).spare(1, 3, &at_ease), 16);
}

#[test]
fn a_pool_of_fixed_size_is_a_wall() {
    let pool = Pool::new(PoolSettings::fixed(4));
    assert_eq!(pool.room(0, 1), Room { slots: 4, kept: 1, beyond: 0 });
    assert_eq!(pool.room(3, 9), Room { slots: 1, kept: 2, beyond: 0 });
    assert_eq!(pool.room(4, 9), Room { slots: 0, kept: 2, beyond: 0 });
    let mut day = Day { pool, begun: Instant::now(), now: Instant::now() };
    assert_eq!(day.step(busy(4, 100)), None);
    assert_eq!(day.pass(UP_COOLDOWN).step(busy(0, 0)), None);
    assert_eq!(day.pool.next_step(), None);
}

/// What happens to a pool: how much time passes, and what it then sees.
fn happenings() -> impl Strategy<Value = Vec<(u64, PoolInputs)>> {
    let inputs = (0u32..60, 0u32..60, 0u32..8, 0u64..500, 0u32..300, 0u8..12).prop_map(
        |(in_use, waiting, idle, wait, throughput, machine)| PoolInputs {
            in_use,
            waiting: waiting.saturating_sub(20),
            idle,
            mean_wait: Duration::from_millis(wait),
            throughput: f64::from(throughput),
            machine: MachineLoad {
                cpu_percent: (machine > 0).then(|| f64::from(machine) * 8.3),
                memory_available_bytes: Some(if machine == 5 { 1 << 20 } else { 1 << 30 }),
            },
        },
    );
    let passes = prop_oneof![0u64..200, 0u64..6_000, 9_000u64..30_000];
    proptest::collection::vec((passes, inputs), 1..40)
}

fn bounds() -> impl Strategy<Value = PoolSettings> {
    (1u32..10, 0u32..40).prop_map(|(min, more)| PoolSettings { min, max: min + more })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn bounds_and_cooldowns_are_kept_whatever_happens(
        bounds in bounds(), happenings in happenings(),
    ) {
        let mut day = Day::begin(bounds);
        let (mut grown_at, mut changed_at) = (None::<Instant>, None::<Instant>);
        for (millis, inputs) in happenings {
            day.pass(Duration::from_millis(millis));
            // What runs is within the pool, but for the first of each provider.
            let in_use = inputs.in_use.min(day.pool.slots() + inputs.idle);
            let inputs = PoolInputs { in_use, ..inputs };
            let before = day.pool.slots();
            let resize = day.pool.step(day.now, &inputs);
            let after = day.pool.slots();
            prop_assert!((bounds.min..=bounds.max).contains(&after));
            prop_assert!(day.pool.next_step().is_none_or(|at| at > day.now), "it would spin");
            let Some(Resize { from, to, .. }) = resize else {
                prop_assert_eq!(before, after);
                continue;
            };
            prop_assert_eq!((from, to), (before, after));
            prop_assert_ne!(from, to);
            if to > from {
                prop_assert!(grown_at.is_none_or(|at| day.now >= at + UP_COOLDOWN));
                prop_assert!(Hindrance::of(&inputs.machine).is_none());
                grown_at = Some(day.now);
            } else {
                prop_assert!(to >= inputs.in_use, "something would run without a slot");
                prop_assert!(changed_at.is_none_or(|at| day.now >= at + DOWN_COOLDOWN));
            }
            changed_at = Some(day.now);
        }
    }

    #[test]
    fn a_constant_demand_comes_to_rest_soon_and_for_good(
        bounds in bounds(), happenings in happenings(), demand in 0u32..80, idle in 0u32..8,
    ) {
        let mut day = Day::begin(bounds);
        for (millis, inputs) in happenings {
            day.pass(Duration::from_millis(millis)).step(inputs);
        }
        day.pass(UP_COOLDOWN);
        let (last, changes) = day.settle(demand, idle);
        prop_assert!(last <= Duration::from_secs(26), "it took {last:?}");
        prop_assert!(changes <= 3, "{changes} changes");
        let slots = day.pool.slots();
        prop_assert!(
            slots == bounds.max || usable(&day.pool, idle) >= demand,
            "{demand} do not fit beside what is kept in {slots}"
        );
        prop_assert!(
            slots == bounds.min || !day.pool.is_below(demand, LOW_PERCENT),
            "{slots} are too many for {demand}"
        );
    }

    #[test]
    fn a_claim_always_has_a_slot_for_a_provider_of_which_nothing_runs(
        slots in 2u32..50, more in 1u32..50, in_use in 0u32..100, idle in 0u32..20,
    ) {
        let mut pool = Pool::new(PoolSettings { min: 2, max: slots + more });
        pool.slots = slots;
        let room = pool.room(in_use, idle);
        prop_assert!(room.slots + room.beyond >= idle);
        prop_assert_eq!(room.slots, slots.saturating_sub(in_use));
        // Where every one of them comes at once, the largest pool is exceeded only by those that half
        // of it cannot hold.
        let (most, taken) = (slots + more, in_use.min(usable(&pool, idle)));
        prop_assert!(idle > most / 2 || taken + idle <= most);
    }
}
