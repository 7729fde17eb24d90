//! The dispatcher: claims what is ready and starts it.
//!
//! What must stay true: it never claims more than it has free slots for, so that what it claimed
//! runs at once; it registers for wake-ups before it looks, so nothing that becomes ready
//! is missed; the poll is only the safety net. Trouble with the store is logged and retried, and
//! never ends the loop. A claim that was sent is always answered by starting what it got, also
//! when the server begins to shut down meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use opentelemetry::trace::SpanContext;
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;

use super::agenda::Agenda;
use super::pace::Pace;
use super::{Engine, Inner, spans};
use crate::domain::{Change, ClosedBy, ProviderName, Timestamp, Wait};
use crate::store::{Claim, ClaimReport, Commit, Notice, Result, with_sources};

/// How long to wait after the store failed, growing up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The earliest time at which something is due, set by whoever learns of one.
#[derive(Debug)]
pub(super) struct Alarm {
    at: AtomicI64,
    rung: Notify,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { at: AtomicI64::new(i64::MAX), rung: Notify::new() }
    }
}

impl Alarm {
    /// Makes sure that the dispatcher looks at the clock at `at`.
    pub(super) fn ring_at(&self, at: Timestamp) {
        if self.at.fetch_min(at.as_micros(), Ordering::AcqRel) > at.as_micros() {
            self.rung.notify_one();
        }
    }

    fn next(&self) -> Timestamp {
        Timestamp::from_micros(self.at.load(Ordering::Acquire))
    }

    fn clear(&self) {
        self.at.store(i64::MAX, Ordering::Release);
    }
}

impl Engine {
    /// The dispatcher's loop; returns when the server shuts down.
    pub(super) async fn dispatch(self) {
        let Inner { store, claiming, claims_over, alarm, active, beats, resources, .. } = &*self.0;
        let mut feed = store.commits();
        let mut agenda = Agenda::new(Instant::now(), FIRST_PAUSE);
        let mut pace = Pace::from(Instant::now(), self.0.instruments().tally());
        while !claiming.is_cancelled() {
            let looks = Instant::now() >= agenda.poll;
            if let Err(error) = self.work_off(&mut agenda, &mut pace).await {
                // Told once for as long as it lasts.
                if agenda.pause == FIRST_PAUSE {
                    let error = with_sources(&error);
                    tracing::warn!(error, "the dispatcher cannot use the store and tries again");
                }
                // What was not claimed is found by looking at everything.
                agenda.poll = Instant::now() + agenda.pause;
                agenda.pause = (agenda.pause * 2).min(LONGEST_PAUSE);
                beats.failed();
            } else {
                agenda.pause = FIRST_PAUSE;
                beats.turned(looks);
            }
            if !agenda.claim.is_empty() {
                // More of the same can be claimed; what others became ready meanwhile goes along.
                self.hear_all(&mut feed, &mut agenda);
                continue;
            }
            let next_step = self.pool().next_step();
            let due = tokio::time::sleep(alarm.next().since(self.now()));
            tokio::select! {
                () = claiming.cancelled() => {}
                () = beats.while_waiting() => {}
                heard = feed.recv() => self.hear(heard, &mut feed, &mut agenda),
                () = alarm.rung.notified() => {}
                () = due => {}
                () = tokio::time::sleep_until(agenda.poll) => {}
                () = reached(agenda.look_again()) => {}
                () = reached(next_step) => {}
                () = resources.eased() => agenda.claim.extend(resources.providers().cloned()),
                () = active.room_made(), if agenda.waits_for_room() => agenda.room_made(),
            }
        }
        claims_over.cancel();
    }

    /// Does what is due, claims what may be ready, and looks whether the slots are the right number.
    async fn work_off(&self, agenda: &mut Agenda, pace: &mut Pace) -> Result<()> {
        self.advance_and_claim(agenda).await?;
        self.size_pool(agenda, pace).await
    }

    async fn advance_and_claim(&self, agenda: &mut Agenda) -> Result<()> {
        let Inner { store, settings, alarm, active, register, resources, beats, .. } = &*self.0;
        let polling = Instant::now() >= agenda.poll;
        if polling || alarm.next() <= self.now() {
            self.advance().await?;
        }
        if polling {
            agenda.claim.extend(self.0.able.iter().cloned());
            agenda.poll = Instant::now() + settings.poll_interval;
        }
        let left = agenda.left_by_others(Instant::now());
        if !left.is_empty() {
            agenda.claim.extend(store.claimable(left).await?);
        }
        let running = active.working();
        let sharers = |provider: &ProviderName| register.sharers(provider);
        let held = |provider: &ProviderName| resources.holds_back(provider);
        let Some(look) = agenda.next_look(Instant::now(), held, sharers, &running) else {
            return Ok(());
        };
        let sent = Instant::now();
        let room = self.pool().room(running.values().sum(), self.idle(&running));
        let claim = Claim {
            worker: self.0.worker,
            wanted: look.wanted.clone(),
            // Also asked with no slot free: what waits for one is to say so.
            slots: room.slots,
            kept: room.kept,
            beyond: room.beyond,
            lease: settings.lease,
        };
        let began = opentelemetry::time::now();
        let report = beats.while_writing(store.claim(claim)).await?;
        agenda.note(&look, &report, Instant::now(), rand::random());
        for (provider, at) in &report.resumes {
            agenda.resumes(provider, Instant::now() + at.since(self.now()));
        }
        let passed_over = report.passed_over.clone();
        let span = spans::claim(&report, self.0.worker, began);
        self.start_claimed(report, sent, span.as_ref());
        if !passed_over.is_empty() && !store.kind().is_exclusive() {
            // What somebody held and still has something to give is worth another look.
            agenda.passed_over(&store.claimable(passed_over).await?, Instant::now());
        }
        Ok(())
    }

    fn start_claimed(&self, report: ClaimReport, sent: Instant, claim: Option<&SpanContext>) {
        for found in report.providers.iter().filter(|found| found.claimed > 0) {
            let (provider, claimed) = (&found.provider, found.claimed);
            let (running, limit) = (found.running, found.limit);
            let beyond = (running + claimed).saturating_sub(limit).min(claimed);
            if beyond > 0 {
                self.0.instruments().of(provider).over_admitted(beyond.into());
                tracing::error!(%provider, "Claimed {beyond} executions beyond the limit of {limit}");
            }
            tracing::info!(
                %provider,
                "Processing {claimed} pending executions for provider {provider} \
                 ({running} currently running, limit: {limit})"
            );
        }
        for claimed in report.claimed {
            self.start_attempt(claimed, sent, claim);
        }
    }

    /// Makes the changes that time alone brings about.
    async fn advance(&self) -> Result<()> {
        let Inner { store, settings, alarm, beats, .. } = &*self.0;
        // Cleared first: what others set meanwhile stands.
        alarm.clear();
        let advanced = beats.while_writing(store.advance(settings.reclaim_grace())).await?;
        for (id, provider) in &advanced.reclaimed {
            tracing::warn!(
                execution.id = %id, %provider,
                "Took back execution {id} (provider: {provider}), its worker fell silent"
            );
        }
        for provider in &advanced.resumed {
            tracing::info!(%provider, "The pause of provider {provider} is over");
        }
        for (provider, limits) in &advanced.returned {
            tracing::info!(
                %provider,
                "Limit of provider {provider} is {limits} again: it was set for a time that is over"
            );
        }
        if advanced.more {
            alarm.ring_at(self.now());
        }
        if let Some(next) = advanced.next_due {
            alarm.ring_at(next);
        }
        Ok(())
    }

    fn hear(
        &self,
        heard: Result<Arc<Commit>, RecvError>,
        feed: &mut Receiver<Arc<Commit>>,
        agenda: &mut Agenda,
    ) {
        match heard {
            Ok(commit) => self.note(&commit, agenda),
            Err(RecvError::Lagged(_)) => agenda.poll = Instant::now(),
            // Only a store that is gone closes its feed.
            Err(RecvError::Closed) => self.0.claiming.cancel(),
        }
        self.hear_all(feed, agenda);
    }

    /// Everything that was committed meanwhile.
    fn hear_all(&self, feed: &mut Receiver<Arc<Commit>>, agenda: &mut Agenda) {
        loop {
            match feed.try_recv() {
                Ok(commit) => self.note(&commit, agenda),
                Err(TryRecvError::Lagged(_)) => agenda.poll = Instant::now(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn note(&self, commit: &Commit, agenda: &mut Agenda) {
        if commit.entries.is_empty() {
            agenda.poll = Instant::now();
        }
        for entry in &commit.entries {
            if commit.own {
                tell_of_gate(entry, self.now());
            }
            let tells = self.frees_or_fills(entry);
            let provider = &entry.provider;
            if agenda.claim.contains(provider) || !self.0.able.contains(provider) {
                continue;
            }
            if tells && commit.own {
                agenda.claim.insert(provider.clone());
            } else if tells {
                agenda.heard_of_others(provider, Instant::now());
            } else if self.may_be_outdated(entry) {
                agenda.heard_of_waiting(provider, Instant::now());
            }
        }
    }

    /// Whether the entry says that something waits for room, and room may have been made since it was
    /// looked for: what others commit is not seen by a transaction that is under way.
    fn may_be_outdated(&self, entry: &Notice) -> bool {
        let waits = matches!(
            entry.change,
            Some(
                Change::Submitted { wait: Wait::Limit } | Change::WaitChanged { wait: Wait::Limit }
            )
        );
        waits && !self.0.store.kind().is_exclusive()
    }

    /// Whether a claim at the entry's provider may get more than before; sets the alarm for what
    /// will be due later.
    fn frees_or_fills(&self, entry: &Notice) -> bool {
        let Some(change) = &entry.change else { return false };
        match change {
            Change::Submitted { wait } | Change::WaitChanged { wait } => match wait {
                Wait::None => true,
                // Those wait for room, and whoever makes it from then on is heard of.
                Wait::Limit => false,
                Wait::Scheduled { until } | Wait::Backoff { until } => {
                    self.0.alarm.ring_at(*until);
                    false
                }
            },
            Change::Requeued { wait, .. } => {
                if let Wait::Scheduled { until } | Wait::Backoff { until } = wait {
                    self.0.alarm.ring_at(*until);
                }
                true
            }
            Change::Paused { until, .. } => {
                if let Some(until) = until {
                    self.0.alarm.ring_at(*until);
                }
                false
            }
            Change::GateClosed { until, .. } => {
                self.0.alarm.ring_at(*until);
                false
            }
            Change::Finished { .. }
            | Change::LimitsChanged { .. }
            | Change::Resumed { .. }
            | Change::GateProbing { .. }
            | Change::GateOpened {} => true,
            Change::Claimed { .. }
            | Change::Attached { .. }
            | Change::CancelRequested { .. }
            | Change::Output(_)
            | Change::Held { .. }
            | Change::ShortOf(_)
            | Change::ShortageOver { .. } => false,
        }
    }
}

/// Logs that a gate moved by itself: by the replica that found out, and not in the provider's words.
fn tell_of_gate(entry: &Notice, now: Timestamp) {
    let provider = &entry.provider;
    match &entry.change {
        Some(Change::GateClosed { cause, until, .. }) => {
            let why = match cause {
                ClosedBy::RateLimit => "it is called too often",
                ClosedBy::Failures => "it fails",
            };
            let pause = until.since(now);
            tracing::warn!(%provider, "The gate of provider {provider} closes for {pause:.1?}: {why}");
        }
        Some(Change::GateProbing { .. }) => {
            tracing::info!(%provider, "The gate of provider {provider} lets one through to see");
        }
        Some(Change::GateOpened {}) => {
            tracing::info!(%provider, "The gate of provider {provider} is open again");
        }
        _ => {}
    }
}

/// Waits until the time has come, for ever if there is none.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
