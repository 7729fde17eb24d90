//! What the dispatcher knows to do, and when to look again.
//!
//! A claim may leave work that the limit has room for: this worker has its share of it, or no slot.
//! Then it looks again when an attempt of its own ends or it has more slots. Work beyond its share it leaves to the
//! others for a moment only, and looks again without regard to shares; if it then finds the work
//! still there the others do not take it, and for a time it claims all it can get: for longer each
//! time, and for a short time again once the others did take theirs. So a replica that is dead,
//! paused or full soon costs a moment a second and not one per execution, and one that was only
//! slow for once does not lose its share for long.
//!
//! What must stay true: work that was left is always looked at again by one of these ways, the
//! poll apart; and nothing here is due again at once after it was looked at, or the dispatcher
//! would spin.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ProviderName;
use crate::store::{ClaimReport, Wanted};

/// How long others are given to take their share, on average: longer than the way from a commit to
/// the claims that it wakes, and shorter than anybody notices. Spread, that replicas take turns.
const OTHERS_FIRST: Duration = Duration::from_millis(30);

/// How long the replica that made a change is left to claim by itself what it let in. It was there
/// first; the others would only queue for the provider behind it.
const OWN_FIRST: Duration = Duration::from_millis(5);

/// When to look whether what waits for room waits rightly. Mostly it does, so seldom.
const WAITING_PAUSE: Duration = Duration::from_millis(20);

/// The longest that a provider which somebody holds is left alone.
const LONGEST_PATIENCE: Duration = Duration::from_millis(128);

/// How long shares are not regarded once the others left work untouched: twice as long each time.
const FIRST_UNSHARED: Duration = OTHERS_FIRST;
const LONGEST_UNSHARED: Duration = Duration::from_secs(1);

/// What the dispatcher knows to do.
#[derive(Debug)]
pub(super) struct Agenda {
    /// Providers at which a claim may get something.
    pub(super) claim: BTreeSet<ProviderName>,
    /// Providers at which other replicas left something, as was heard since the last look.
    heard: BTreeSet<ProviderName>,
    /// When to look at those.
    look_around: Option<Instant>,
    /// How long to leave a provider alone that somebody holds: longer each time in a row.
    patience: Duration,
    /// When to look at everything, told or not.
    pub(super) poll: Instant,
    /// How long to wait if the store fails once more.
    pub(super) pause: Duration,
    /// Providers at which work was left because this worker has its share.
    held_back: BTreeSet<ProviderName>,
    /// Providers at which work was left for want of a slot.
    crowded_out: BTreeSet<ProviderName>,
    /// Providers to be looked at without regard to shares, and when.
    again: BTreeMap<ProviderName, Instant>,
    /// Providers at which something waits for a time, and until when.
    timed: BTreeMap<ProviderName, Instant>,
    /// Providers at which the others left work untouched.
    unshared: BTreeMap<ProviderName, Unshared>,
    /// When a provider last got something, counted in claims.
    turns: BTreeMap<ProviderName, u64>,
    turn: u64,
}

/// That shares are not regarded.
#[derive(Debug, Clone, Copy)]
struct Unshared {
    until: Instant,
    /// How long that was this time.
    span: Duration,
}

/// A claim to be made, and why.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) wanted: Vec<Wanted>,
    /// Providers that are looked at again, after the others had their chance.
    again: BTreeSet<ProviderName>,
}

impl Agenda {
    pub(super) fn new(poll: Instant, pause: Duration) -> Self {
        Self {
            claim: BTreeSet::new(),
            heard: BTreeSet::new(),
            look_around: None,
            patience: OWN_FIRST,
            poll,
            pause,
            held_back: BTreeSet::new(),
            crowded_out: BTreeSet::new(),
            again: BTreeMap::new(),
            timed: BTreeMap::new(),
            unshared: BTreeMap::new(),
            turns: BTreeMap::new(),
            turn: 0,
        }
    }

    /// When to look next at what was left to others, or by others.
    pub(super) fn look_again(&self) -> Option<Instant> {
        let timed = self.timed.values().copied();
        self.again.values().copied().chain(timed).chain(self.look_around).min()
    }

    /// Something waits for a time at this provider: its budget has room again, or a model's gate is to
    /// be tried again, then.
    pub(super) fn resumes(&mut self, provider: &ProviderName, at: Instant) {
        self.timed.insert(provider.clone(), at);
    }

    /// Another replica may have left something at this provider.
    pub(super) fn heard_of_others(&mut self, provider: &ProviderName, now: Instant) {
        self.look_around_at(provider, now + OWN_FIRST);
    }

    /// Something waits for room at this provider, and room may have been made before it was stored.
    pub(super) fn heard_of_waiting(&mut self, provider: &ProviderName, now: Instant) {
        if self.timed.get(provider).is_some_and(|at| *at > now) {
            return;
        }
        self.look_around_at(provider, now + WAITING_PAUSE);
    }

    fn look_around_at(&mut self, provider: &ProviderName, at: Instant) {
        if !self.heard.contains(provider) {
            self.heard.insert(provider.clone());
        }
        self.look_around = Some(self.look_around.map_or(at, |before| before.min(at)));
    }

    /// A claim could not look at these, because somebody held them, and they have something to give.
    pub(super) fn passed_over(&mut self, providers: &[ProviderName], now: Instant) {
        if providers.is_empty() {
            self.patience = OWN_FIRST;
            return;
        }
        self.heard.extend(providers.iter().cloned());
        self.look_around.get_or_insert(now + self.patience);
        self.patience = (self.patience * 2).min(LONGEST_PATIENCE);
    }

    /// Providers at which others may have left something, when it is time to look.
    pub(super) fn left_by_others(&mut self, now: Instant) -> Vec<ProviderName> {
        if self.look_around.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.look_around = None;
        std::mem::take(&mut self.heard).into_iter().collect()
    }

    /// Whether work was left that the end of an attempt here may let in.
    pub(super) fn waits_for_room(&self) -> bool {
        !self.held_back.is_empty() || !self.crowded_out.is_empty()
    }

    /// Providers at which work was left for want of a slot.
    pub(super) fn crowded_out(&self) -> &BTreeSet<ProviderName> {
        &self.crowded_out
    }

    /// There are more slots than before.
    pub(super) fn slots_made(&mut self) {
        self.claim.extend(self.crowded_out.iter().cloned());
    }

    /// An attempt has ended here.
    pub(super) fn room_made(&mut self) {
        self.claim.extend(self.held_back.iter().chain(&self.crowded_out).cloned());
    }

    /// The claim to be made now, if any, of what is not held back: those who got something longest
    /// ago come first.
    pub(super) fn next_look(
        &mut self,
        now: Instant,
        held: impl Fn(&ProviderName) -> bool,
        sharers: impl Fn(&ProviderName) -> u32,
        running: &BTreeMap<ProviderName, u32>,
    ) -> Option<Look> {
        let due: BTreeSet<_> =
            self.again.extract_if(.., |_, at| *at <= now).map(|(p, _)| p).collect();
        self.claim.extend(due.iter().cloned());
        self.claim.extend(self.timed.extract_if(.., |_, at| *at <= now).map(|(p, _)| p));
        if !self.claim.is_empty() {
            // Or a free slot would go to whoever is heard of first.
            self.claim.extend(self.crowded_out.iter().cloned());
        }
        // Whoever holds it back tells when it no longer does.
        self.claim.retain(|provider| !held(provider));
        let mut providers: Vec<_> = std::mem::take(&mut self.claim).into_iter().collect();
        providers.sort_by_key(|provider| self.turns.get(provider).copied());
        let wanted: Vec<_> = providers
            .into_iter()
            .map(|provider| {
                let unshared = self.unshared.get(&provider).is_some_and(|it| it.until > now);
                let alone = unshared || due.contains(&provider);
                Wanted {
                    most: u32::MAX,
                    sharers: if alone { 1 } else { sharers(&provider) },
                    running_here: running.get(&provider).copied().unwrap_or(0),
                    provider,
                }
            })
            .collect();
        (!wanted.is_empty()).then_some(Look { wanted, again: due })
    }

    /// What a claim got, and when; `jitter` is drawn from 0 to 1.
    pub(super) fn note(&mut self, look: &Look, report: &ClaimReport, now: Instant, jitter: f64) {
        if report.more {
            self.claim.extend(report.providers.iter().map(|found| found.provider.clone()));
        }
        self.turn += 1;
        let turn = self.turn;
        for found in report.providers.iter().filter(|found| found.claimed > 0) {
            self.turns.insert(found.provider.clone(), turn);
        }
        for Wanted { provider, sharers, .. } in &look.wanted {
            let held_back = put(&mut self.held_back, provider, &report.held_back);
            let crowded_out = put(&mut self.crowded_out, provider, &report.crowded_out);
            let left = held_back || crowded_out;
            if look.again.contains(provider) {
                let untouched = left || self.turns.get(provider) == Some(&turn);
                self.trust_others(provider, !untouched, now);
            }
            if !left {
                self.again.remove(provider);
            } else if held_back && *sharers > 1 {
                // The first time counts: later looks do not put it off.
                let at = now + OTHERS_FIRST.mul_f64(0.5 + jitter);
                self.again.entry(provider.clone()).or_insert(at);
            }
        }
    }

    /// Notes whether the others took their share when they had the chance.
    fn trust_others(&mut self, provider: &ProviderName, took: bool, now: Instant) {
        if took {
            self.unshared.remove(provider);
            return;
        }
        let before = self.unshared.get(provider).map(|before| before.span * 2);
        let span = before.unwrap_or(FIRST_UNSHARED).min(LONGEST_UNSHARED);
        self.unshared.insert(provider.clone(), Unshared { until: now + span, span });
    }
}

/// Makes `set` hold the provider just if `found` does; returns whether it does.
fn put(set: &mut BTreeSet<ProviderName>, provider: &ProviderName, found: &[ProviderName]) -> bool {
    let holds = found.contains(provider);
    if holds {
        set.insert(provider.clone());
    } else {
        set.remove(provider);
    }
    holds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ProviderClaims;

    fn name(text: &str) -> ProviderName {
        text.parse().expect("a name")
    }

    /// An agenda, and the time it is there.
    struct Day {
        agenda: Agenda,
        now: Instant,
        sharers: u32,
    }

    impl Day {
        fn begin(sharers: u32) -> Self {
            let now = Instant::now();
            Self { agenda: Agenda::new(now, Duration::ZERO), now, sharers }
        }

        fn ready(&mut self, provider: &str) {
            self.agenda.claim.insert(name(provider));
        }

        fn look(&mut self) -> Option<Look> {
            self.agenda.next_look(self.now, |_| false, |_| self.sharers, &BTreeMap::new())
        }

        /// By how many workers each provider of the next look is shared.
        fn shared(&mut self) -> Vec<(String, u32)> {
            let look = self.look().into_iter().flat_map(|look| look.wanted);
            look.map(|wanted| (wanted.provider.to_string(), wanted.sharers)).collect()
        }

        fn found(&mut self, look: &Look, claimed: &[&str], held_back: &[&str], crowded: &[&str]) {
            let claims = |provider: &&str| ProviderClaims {
                provider: name(provider),
                running: 0,
                limit: 9,
                claimed: 1,
            };
            let names = |of: &[&str]| of.iter().map(|provider| name(provider)).collect();
            let report = ClaimReport {
                providers: claimed.iter().map(claims).collect(),
                held_back: names(held_back),
                crowded_out: names(crowded),
                ..ClaimReport::default()
            };
            self.agenda.note(look, &report, self.now, 0.5);
        }

        /// Looks at `p`, at which some is left to the others.
        fn leave(&mut self) {
            self.ready("p");
            let look = self.look().expect("p is ready");
            self.found(&look, &[], &["p"], &[]);
        }

        /// Waits for the second look.
        fn wait(&mut self) -> Look {
            self.now = self.agenda.look_again().expect("p was held back");
            self.look().expect("it is due")
        }
    }

    #[test]
    fn what_is_left_to_others_is_looked_at_again_without_regard_to_shares() {
        let mut day = Day::begin(3);
        let begun = day.now;
        day.leave();
        assert_eq!(day.shared(), []);
        assert_eq!(day.agenda.look_again(), Some(begun + OTHERS_FIRST));
        let look = day.wait();
        assert_eq!(look.wanted[0].sharers, 1);
        assert_eq!(day.agenda.look_again(), None, "once, also if the claim fails");
    }

    #[test]
    fn what_only_lacks_a_slot_here_is_not_looked_at_without_regard_to_shares() {
        let mut day = Day::begin(3);
        day.ready("p");
        let look = day.look().expect("p is ready");
        day.found(&look, &["p"], &[], &["p"]);
        assert_eq!(day.agenda.look_again(), None);
        day.agenda.slots_made();
        assert_eq!(day.shared(), [("p".to_owned(), 3)], "its share is as before");
    }

    #[test]
    fn looking_meanwhile_does_not_put_the_second_look_off() {
        let mut day = Day::begin(3);
        day.leave();
        let at = day.agenda.look_again();
        day.now += OTHERS_FIRST / 2;
        day.leave();
        assert_eq!(day.agenda.look_again(), at);
    }

    #[test]
    fn work_that_others_have_taken_is_not_looked_at_again() {
        let mut day = Day::begin(3);
        day.leave();
        day.ready("p");
        let look = day.look().expect("p is ready");
        day.found(&look, &[], &[], &[]);
        assert_eq!(day.agenda.look_again(), None);
        assert!(!day.agenda.waits_for_room());
    }

    #[test]
    fn shares_are_not_regarded_for_a_time_once_others_left_work_untouched() {
        let mut day = Day::begin(3);
        day.leave();
        let look = day.wait();
        day.found(&look, &["p"], &[], &[]);
        day.ready("p");
        assert_eq!(day.shared(), [("p".to_owned(), 1)]);
        day.ready("q");
        assert_eq!(day.shared(), [("q".to_owned(), 3)], "of that provider only");
        day.now += FIRST_UNSHARED;
        day.ready("p");
        assert_eq!(day.shared(), [("p".to_owned(), 3)]);
    }

    #[test]
    fn others_that_take_nothing_soon_cost_a_moment_a_second() {
        let mut day = Day::begin(3);
        let mut spans = Vec::new();
        for _ in 0..8 {
            day.leave();
            let look = day.wait();
            day.found(&look, &["p"], &[], &[]);
            spans.push(day.agenda.unshared[&name("p")].span.as_millis());
            day.now += LONGEST_UNSHARED;
        }
        assert_eq!(spans, [30, 60, 120, 240, 480, 960, 1_000, 1_000]);
        day.leave();
        let look = day.wait();
        day.found(&look, &[], &[], &[]);
        day.leave();
        let look = day.wait();
        day.found(&look, &["p"], &[], &[]);
        assert_eq!(day.agenda.unshared[&name("p")].span, FIRST_UNSHARED, "they took it once");
    }

    #[test]
    fn shares_stay_in_force_if_the_second_look_finds_nothing() {
        let mut day = Day::begin(3);
        day.leave();
        let look = day.wait();
        day.found(&look, &[], &[], &[]);
        day.ready("p");
        assert_eq!(day.shared(), [("p".to_owned(), 3)]);
    }

    #[test]
    fn the_end_of_an_attempt_lets_in_what_was_left() {
        let mut day = Day::begin(1);
        day.ready("p");
        day.ready("q");
        let look = day.look().expect("both are ready");
        day.found(&look, &["q"], &[], &["p"]);
        assert!(day.agenda.waits_for_room());
        assert_eq!(day.agenda.look_again(), None, "alone it waits for no others");
        assert_eq!(day.shared(), []);
        day.agenda.room_made();
        assert_eq!(day.shared(), [("p".to_owned(), 1)]);
    }

    #[test]
    fn who_waits_for_a_slot_goes_along_and_before_who_just_got_one() {
        let mut day = Day::begin(1);
        day.ready("p");
        day.ready("q");
        let look = day.look().expect("both are ready");
        day.found(&look, &["p"], &[], &["p", "q"]);
        day.ready("p");
        assert_eq!(day.shared(), [("q".to_owned(), 1), ("p".to_owned(), 1)]);
    }
}
