//! How much of what is ready one claim takes: what the limit leaves, of that this worker's share,
//! and of that what its free slots hold.
//!
//! What must stay true: the limit is a wall, the rest is manners. Nothing here ever makes a claim
//! take more than the limit leaves (promise P1); a share or a lack of slots only makes it take
//! less, and says so, that the caller may look again. Free slots go one by one to whichever
//! provider this worker runs least of (promise P7), so that no flood starves another provider.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::claimed::Wanted;
use crate::store::Load;

/// The most executions one claim takes of one provider; the rest follows in the next.
pub(super) const AT_ONCE: u32 = 200;

/// What one provider can give to a claim, and what it gave.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) running: u32,
    pub(super) limit: u32,
    /// How many more may run.
    pub(super) free: u32,
    pub(super) has_unmarked: bool,
    /// How many of the free are wanted; none if nothing is ready.
    wanted: u32,
    /// How many of those this worker's share leaves.
    share: u32,
    /// How many of those it has slots for: taken if so many are ready.
    take: u32,
    /// How many were there when it was looked.
    seen: u32,
    running_here: u32,
    /// Whether others are expected to take what is left.
    shared: bool,
    place: usize,
}

impl Offer {
    /// `place` says whose turn it is among equals.
    pub(super) fn new(load: &Load, limit: u32, wanted: &Wanted, place: usize) -> Self {
        let &Load { running, has_ready, has_unmarked, .. } = load;
        let &Wanted { most, sharers, running_here, .. } = wanted;
        let free = limit.saturating_sub(running);
        let wanted = if has_ready { free.min(most) } else { 0 };
        let shared = sharers > 1;
        let share = match shared {
            true => limit.div_ceil(sharers).saturating_sub(running_here),
            false => u32::MAX,
        };
        let share = share.min(wanted);
        Self {
            running,
            limit,
            free,
            has_unmarked,
            wanted,
            share,
            take: 0,
            seen: 0,
            running_here,
            shared,
            place,
        }
    }

    /// How many to look at: one more than is taken shows whether anything is left.
    pub(super) fn look_at(&self) -> u32 {
        if self.take == 0 { 0 } else { self.wanted.min(self.take + 1) }
    }

    /// Whether the next one looked at is to be claimed.
    pub(super) fn claims_next(&mut self) -> bool {
        self.seen += 1;
        self.seen <= self.take
    }

    /// The same where nothing of it may be taken now.
    pub(super) fn declined(self) -> Self {
        Self { wanted: 0, share: 0, ..self }
    }

    /// How many more may run after what was taken.
    pub(super) fn left(&self) -> u32 {
        self.free.saturating_sub(self.claimed())
    }

    /// Whether as many were looked at as were asked for.
    pub(super) fn has_seen_all(&self) -> bool {
        self.seen >= self.look_at()
    }

    /// Whether as much is taken as the limit leaves room for.
    pub(super) fn is_full(&self) -> bool {
        self.claimed() >= self.free
    }

    pub(super) fn claimed(&self) -> u32 {
        self.seen.min(self.take)
    }

    /// Whether there was more to take than one claim takes.
    pub(super) fn is_cut(&self) -> bool {
        self.seen > AT_ONCE && self.share > AT_ONCE
    }

    /// Whether something was left that is ready and may run, for want of a share or a slot.
    pub(super) fn is_left(&self) -> bool {
        let remains = if self.take == 0 { self.wanted > 0 } else { self.seen > self.take };
        remains && !self.is_cut()
    }

    /// Whether what was left only lacks a slot.
    pub(super) fn lacks_slots(&self) -> bool {
        self.is_left() && self.take < self.share
    }

    /// Whether nobody else is expected to take what was left.
    pub(super) fn is_crowded(&self) -> bool {
        self.is_left() && !self.shared
    }

    fn wish(&self) -> u32 {
        self.share.min(AT_ONCE)
    }
}

/// Hands `slots` out to offers, one by one to whichever this worker runs least of; among equals the
/// earlier is first. The last `kept` go only to those it runs nothing of, and when all are gone
/// `beyond` of those get one all the same. Returns how many are still kept.
pub(super) fn hand_out<'a>(
    offers: impl Iterator<Item = &'a mut Offer>,
    mut slots: u32,
    mut kept: u32,
    mut beyond: u32,
) -> u32 {
    let mut offers: Vec<_> = offers.collect();
    offers.sort_by_key(|offer| offer.place);
    let mut next: BinaryHeap<_> = offers
        .iter()
        .enumerate()
        .filter(|(_, offer)| offer.wish() > 0)
        .map(|(index, offer)| Reverse((offer.running_here, index)))
        .collect();
    while let Some(Reverse((running, index))) = next.pop() {
        let is_first = running == 0;
        if slots > 0 && (slots > kept || is_first) {
            slots -= 1;
        } else if is_first && beyond > 0 {
            beyond -= 1;
        } else {
            break;
        }
        if is_first {
            kept = kept.saturating_sub(1);
        }
        let offer = &mut offers[index];
        offer.take += 1;
        if offer.take < offer.wish() {
            next.push(Reverse((running + 1, index)));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(running_here: u32, ready: u32) -> Offer {
        let load = Load { has_ready: ready > 0, ..Load::default() };
        let provider = "p".parse().expect("a name");
        let wanted = Wanted { provider, most: ready, sharers: 1, running_here };
        Offer::new(&load, 1_000, &wanted, 0)
    }

    fn handed<const N: usize>(mut offers: [Offer; N], slots: u32, kept: u32) -> [u32; N] {
        hand_out(offers.iter_mut(), slots, kept, 0);
        offers.map(|offer| offer.take)
    }

    #[test]
    fn with_slots_enough_everybody_gets_what_there_is() {
        assert_eq!(handed([offer(0, 3), offer(7, 5), offer(0, 0)], 100, 0), [3, 5, 0]);
    }

    #[test]
    fn few_slots_go_to_whoever_runs_least() {
        assert_eq!(handed([offer(3, 9), offer(0, 9)], 1, 0), [0, 1]);
        assert_eq!(handed([offer(3, 9), offer(0, 9)], 5, 0), [1, 4]);
        assert_eq!(handed([offer(3, 9), offer(0, 1)], 5, 0), [4, 1]);
    }

    #[test]
    fn among_equals_the_earlier_gets_the_odd_slot() {
        assert_eq!(handed([offer(2, 9), offer(2, 9), offer(2, 9)], 4, 0), [2, 1, 1]);
    }

    #[test]
    fn kept_slots_go_only_to_those_of_whom_nothing_runs() {
        assert_eq!(handed([offer(3, 9)], 5, 2), [3]);
        assert_eq!(handed([offer(3, 9), offer(0, 9)], 2, 2), [0, 1]);
        assert_eq!(handed([offer(3, 9), offer(0, 9)], 5, 1), [1, 4]);
    }

    #[test]
    fn without_a_slot_only_those_of_whom_nothing_runs_get_one_and_no_more_than_may() {
        let mut offers = [offer(3, 9), offer(0, 9), offer(0, 9), offer(0, 9)];
        hand_out(offers.iter_mut(), 1, 0, 1);
        assert_eq!(offers.map(|offer| offer.take), [0, 1, 1, 0]);
        let mut offers = [offer(0, 9), offer(0, 1)];
        hand_out(offers.iter_mut(), 3, 0, 2);
        assert_eq!(offers.map(|offer| offer.take), [2, 1], "not while there are slots");
        let mut offers = [offer(0, 9), offer(4, 9)];
        hand_out(offers.iter_mut(), 0, 0, 2);
        assert_eq!(offers.map(|offer| offer.take), [1, 0]);
    }

    #[test]
    fn one_claim_takes_no_more_than_it_can_carry() {
        assert_eq!(handed([offer(0, 900)], 500, 0), [AT_ONCE]);
    }
}
