//! Shares and slots: what one claim leaves to other workers and to other providers.

use flowgate::domain::{ProviderName, Wait};
use flowgate::store::{Claim, ClaimReport, Wanted};

use crate::store::fixture::{TestStore, claim, name, unshared};

/// A claim of one of so many workers that share the provider, which runs so many already.
async fn share(t: &TestStore, sharers: u32, running_here: u32) -> ClaimReport {
    let wanted = Wanted { sharers, running_here, ..unshared(name("p"), u32::MAX) };
    t.store.claim(claim(t.worker, vec![wanted])).await.unwrap()
}

fn held_back(report: &ClaimReport) -> (usize, &[ProviderName]) {
    assert!(!report.more && report.crowded_out.is_empty(), "{report:?}");
    (report.claimed.len(), &report.held_back)
}

pub(crate) async fn a_worker_that_shares_takes_its_share_and_tells_what_it_left(t: &TestStore) {
    t.declare("p", 7).await;
    t.submit_plain("p", 20).await;
    let p = [name("p")];
    assert_eq!(held_back(&share(t, 3, 0).await), (3, &p[..]), "a third, rounded up");
    assert_eq!(held_back(&share(t, 3, 3).await), (0, &p[..]));
    assert_eq!(held_back(&share(t, 3, 2).await), (1, &p[..]));
    assert_eq!(held_back(&share(t, 1, 4).await), (3, &[][..]), "alone it takes all there is");
    assert_eq!(held_back(&share(t, 3, 0).await), (0, &[][..]), "of a full one nothing is left");
}

pub(crate) async fn a_share_is_of_the_limit_in_force(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_plain("p", 20).await;
    t.limit("p", Some(10)).await;
    assert_eq!(share(t, 2, 0).await.claimed.len(), 5);
    t.limit("p", Some(6)).await;
    assert_eq!(share(t, 2, 5).await.claimed.len(), 0, "more than the new share run already");
}

pub(crate) async fn more_workers_than_room_have_a_share_of_one(t: &TestStore) {
    t.declare("p", 2).await;
    t.submit_plain("p", 3).await;
    assert_eq!(share(t, 9, 0).await.claimed.len(), 1);
    assert_eq!(share(t, 9, 0).await.claimed.len(), 1);
    assert_eq!(share(t, 9, 0).await.claimed.len(), 0);
}

pub(crate) async fn what_a_share_takes_up_is_not_left(t: &TestStore) {
    t.declare("p", 10).await;
    t.submit_plain("p", 5).await;
    assert_eq!(held_back(&share(t, 2, 0).await), (5, &[][..]));
    assert_eq!(held_back(&share(t, 2, 5).await), (0, &[][..]), "nothing is ready");
}

pub(crate) async fn what_is_left_to_others_does_not_say_that_it_waits(t: &TestStore) {
    t.declare("p", 4).await;
    let ids = t.submit_plain("p", 3).await;
    share(t, 2, 0).await;
    assert_eq!(t.wait(ids[2]).await, Wait::None);
}

/// A claim of both `p` and `q`, of which so many run here already.
async fn claim_both(t: &TestStore, p: u32, q: u32, slots: u32, kept: u32) -> ClaimReport {
    let wanted = |provider, running_here| {
        let wanted = unshared(name(provider), u32::MAX);
        Wanted { running_here, ..wanted }
    };
    let wanted = vec![wanted("p", p), wanted("q", q)];
    let claim = Claim { slots, kept, ..claim(t.worker, wanted) };
    t.store.claim(claim).await.unwrap()
}

fn counts(report: &ClaimReport) -> (usize, usize) {
    let of = |provider| report.claimed.iter().filter(|c| c.spec.provider == name(provider)).count();
    (of("p"), of("q"))
}

pub(crate) async fn a_claim_takes_no_more_than_there_are_slots_for(t: &TestStore) {
    t.declare("p", 10).await;
    t.declare("q", 10).await;
    t.submit_plain("p", 5).await;
    t.submit_plain("q", 1).await;
    let report = claim_both(t, 0, 0, 3, 0).await;
    assert_eq!(counts(&report), (2, 1));
    assert_eq!((&report.crowded_out[..], report.more), (&[name("p")][..], false));
    assert!(report.held_back.is_empty());
    let report = claim_both(t, 2, 1, 3, 0).await;
    assert_eq!((counts(&report), report.crowded_out.len()), ((3, 0), 0), "none is left");
}

pub(crate) async fn few_slots_go_to_the_provider_that_runs_least(t: &TestStore) {
    t.declare("p", 10).await;
    t.declare("q", 10).await;
    t.submit_plain("p", 9).await;
    t.submit_plain("q", 9).await;
    assert_eq!(counts(&claim_both(t, 3, 0, 1, 0).await), (0, 1));
    assert_eq!(counts(&claim_both(t, 3, 1, 4, 0).await), (1, 3));
    assert_eq!(counts(&claim_both(t, 4, 4, 1, 0).await), (1, 0), "the first named among equals");
}

pub(crate) async fn kept_slots_are_for_providers_that_run_nothing(t: &TestStore) {
    t.declare("p", 10).await;
    t.declare("q", 10).await;
    t.submit_plain("p", 9).await;
    let report = claim_both(t, 1, 0, 3, 1).await;
    assert_eq!((counts(&report), &report.crowded_out[..]), ((2, 0), &[name("p")][..]));
    assert!(!report.more, "the one left is kept");
    t.submit_plain("q", 9).await;
    assert_eq!(counts(&claim_both(t, 3, 0, 1, 1).await), (0, 1));
}

pub(crate) async fn slots_that_one_provider_does_not_use_are_offered_again(t: &TestStore) {
    t.declare("p", 10).await;
    t.declare("q", 10).await;
    t.submit_plain("p", 9).await;
    t.submit_plain("q", 1).await;
    let report = claim_both(t, 0, 0, 6, 0).await;
    assert_eq!((counts(&report), report.more), ((3, 1), true));
    assert_eq!(counts(&claim_both(t, 3, 1, 2, 0).await), (2, 0));
}

pub(crate) async fn what_no_slot_is_free_for_says_that_it_waits(t: &TestStore) {
    t.declare("p", 10).await;
    t.declare("q", 10).await;
    let ids = t.submit_plain("p", 3).await;
    let report = claim_both(t, 0, 0, 1, 0).await;
    assert_eq!(counts(&report), (1, 0));
    assert_eq!((t.wait(ids[1]).await, t.wait(ids[2]).await), (Wait::Limit, Wait::Limit));
    let later = t.submit_plain("q", 1).await;
    assert_eq!(counts(&claim_both(t, 1, 0, 0, 0).await), (0, 0));
    assert_eq!(t.wait(later[0]).await, Wait::Limit);
    assert_eq!(
        counts(&claim_both(t, 1, 0, 4, 0).await),
        (2, 1),
        "and is claimed when there is one"
    );
}
