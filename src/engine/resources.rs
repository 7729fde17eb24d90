//! What this machine has left for providers whose work is to start only while there is enough: looked
//! at in the background, and told where work waits for it.
//!
//! What must stay true: before the first look nothing of such a provider is claimed, and while the
//! machine is short nothing that is to wait is; each time it no longer is, the dispatcher hears of
//! it; nothing is looked at where no provider asks for it. A shortage is told only after work was
//! seen to wait at two looks in a row, so that what another worker is about to take is not
//! mistaken for it; what this worker told it takes back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{ConfiguredProvider, Engine, Inner, WorkerView};
use crate::domain::{
    GateState, Lack, MachineLoad, ProviderName, ResourceGate, Shortage, WhenShort,
};
use crate::store::{Result, ShortageAnswer, ShortageReport, WorkerStatus};

/// How often the machine is looked at, and so the time over which processor use is counted.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The same for the first look, which work waits for.
const FIRST_LOOK: Duration = Duration::from_millis(250);
/// How long work must have been ready before it is said to wait for a machine.
const PATIENCE: Duration = Duration::from_millis(500);
/// The least time between two entries of the log about one provider, twice as long each time that
/// others took up the work in between.
const FIRST_PAUSE: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The providers that ask for it, and what the machine lacks for them.
#[derive(Debug)]
pub(super) struct Resources {
    gates: BTreeMap<ProviderName, ResourceGate>,
    /// `None` before the first look.
    lacks: Mutex<Option<BTreeMap<ProviderName, Lack>>>,
    eased: Notify,
}

impl Resources {
    pub(super) fn of(providers: &[ConfiguredProvider]) -> Self {
        let gate = |known: &ConfiguredProvider| Some((known.name.clone(), known.provider.gate()?));
        Self {
            gates: providers.iter().filter_map(gate).collect(),
            lacks: Mutex::default(),
            eased: Notify::new(),
        }
    }

    /// Whether no provider asks for it.
    pub(super) fn is_unused(&self) -> bool {
        self.gates.is_empty()
    }

    /// Those that do.
    pub(super) fn providers(&self) -> impl Iterator<Item = &ProviderName> {
        self.gates.keys()
    }

    /// Whether nothing of this provider is to be claimed now.
    pub(super) fn holds_back(&self, provider: &ProviderName) -> bool {
        let Some(gate) = self.gates.get(provider) else { return false };
        match &*self.lacks() {
            None => true,
            Some(lacks) => gate.when_short == WhenShort::Wait && lacks.contains_key(provider),
        }
    }

    /// What fails an attempt that is about to begin.
    pub(super) fn refuses(&self, provider: &ProviderName) -> Option<Lack> {
        let gate = self.gates.get(provider)?;
        match gate.when_short {
            WhenShort::Wait => None,
            WhenShort::Fail => self.lack(provider),
        }
    }

    /// Waits until something that was held back no longer is.
    pub(super) async fn eased(&self) {
        self.eased.notified().await;
    }

    fn lack(&self, provider: &ProviderName) -> Option<Lack> {
        self.lacks().as_ref()?.get(provider).copied()
    }

    fn note(&self, load: &MachineLoad) {
        let mut lacks = self.lacks();
        let before = lacks.take();
        let lack = |(name, gate): (&ProviderName, &ResourceGate)| {
            let before = before.as_ref().and_then(|before| before.get(name));
            Some((name.clone(), gate.lack(load, before)?))
        };
        let now: BTreeMap<_, _> = self.gates.iter().filter_map(lack).collect();
        let first = before.is_none();
        let eased = before.into_iter().flatten().any(|(name, _)| !now.contains_key(&name));
        *lacks = Some(now);
        drop(lacks);
        if first || eased {
            self.eased.notify_one();
        }
    }

    fn lacks(&self) -> MutexGuard<'_, Option<BTreeMap<ProviderName, Lack>>> {
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to tell of one provider's shortage.
#[derive(Debug)]
struct Telling {
    /// Whether work was seen to wait at the look before.
    waits: bool,
    not_before: Option<Instant>,
    pause: Duration,
}

impl Default for Telling {
    fn default() -> Self {
        Self { waits: false, not_before: None, pause: FIRST_PAUSE }
    }
}

impl Telling {
    fn is_due(&self, now: Instant) -> bool {
        self.waits && self.not_before.is_none_or(|at| at <= now)
    }

    fn note(&mut self, answer: ShortageAnswer, own: bool, now: Instant) {
        self.waits = matches!(answer, ShortageAnswer::Told | ShortageAnswer::Waits);
        match answer {
            // The same shortage in other figures.
            ShortageAnswer::Told if own => self.not_before = Some(now + FIRST_PAUSE),
            ShortageAnswer::Told => {
                self.not_before = Some(now + self.pause);
                // If others take up the work between two shortages they soon do so again.
                self.pause = LONGEST_PAUSE.min(self.pause * 2);
            }
            ShortageAnswer::Waits | ShortageAnswer::NothingWaits | ShortageAnswer::NotLookedAt => {}
        }
    }
}

impl Engine {
    /// The loop that looks at the machine.
    pub(super) async fn look_at_machine(self) {
        let Inner { resources, settings, claiming, .. } = &*self.0;
        let mut tellings: BTreeMap<ProviderName, Telling> = BTreeMap::new();
        // Processor use is counted from here.
        settings.machine.load();
        let mut wait = FIRST_LOOK;
        while claiming.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = LOOK_EVERY;
            resources.note(&settings.machine.load());
            for (provider, gate) in &resources.gates {
                if gate.when_short == WhenShort::Fail || !self.0.able.contains(provider) {
                    continue;
                }
                let telling = tellings.entry(provider.clone()).or_default();
                if let Err(error) = self.tell(provider, telling).await {
                    tracing::warn!(%error, %provider, "cannot tell what work waits for");
                }
            }
        }
        for provider in resources.gates.keys() {
            if let Err(error) = self.take_back(provider).await {
                tracing::warn!(%error, %provider, "cannot take back what work waits for");
            }
        }
    }

    /// Tells what work of this provider waits for if it waits for this machine, and takes it back if
    /// not.
    async fn tell(&self, provider: &ProviderName, telling: &mut Telling) -> Result<()> {
        let Inner { store, resources, worker, .. } = &*self.0;
        let Some(lack) = resources.lack(provider) else {
            *telling = Telling::default();
            return self.take_back(provider).await;
        };
        let own = self.tells_of(provider);
        let now = Instant::now();
        let has_slot = self.has_slot_for(provider);
        let answer = if has_slot {
            let shortage = Shortage { worker: *worker, lack };
            let tell = telling.is_due(now);
            let report = ShortageReport { shortage, patience: PATIENCE, tell };
            store.tell_shortage(provider.clone(), report).await?
        } else {
            // With room it would not start either.
            ShortageAnswer::NothingWaits
        };
        telling.note(answer, own, now);
        match answer {
            ShortageAnswer::Told => {
                tracing::info!(%provider, "Work of provider {provider} waits for resources: {lack}");
            }
            ShortageAnswer::NothingWaits => self.take_back(provider).await?,
            // Passed over either because somebody held it or because nothing is to be claimed there.
            ShortageAnswer::NotLookedAt if own => {
                if store.claimable(vec![provider.clone()]).await?.is_empty() {
                    self.take_back(provider).await?;
                }
            }
            ShortageAnswer::Waits | ShortageAnswer::NotLookedAt => {}
        }
        Ok(())
    }

    /// Whether the provider's shortage is one that this worker told of.
    fn tells_of(&self, provider: &ProviderName) -> bool {
        let gate = self.0.hub.gate(provider).state;
        matches!(gate, GateState::Short(shortage) if shortage.worker == self.0.worker)
    }

    async fn take_back(&self, provider: &ProviderName) -> Result<()> {
        let Inner { store, worker, .. } = &*self.0;
        if self.tells_of(provider) {
            store.end_shortage(provider.clone(), *worker, Some(*worker)).await?;
        }
        Ok(())
    }

    /// What a worker told that is gone now nobody else would take back, if nobody takes the work.
    pub(super) fn end_shortages_of_the_gone(&self, workers: &[WorkerView]) {
        for (provider, shortage) in self.0.hub.shortages() {
            let teller = workers.iter().find(|worker| worker.row.id == shortage.worker);
            if teller.is_some_and(|it| !it.lost && it.row.status == WorkerStatus::Serving) {
                continue;
            }
            let engine = self.clone();
            self.spawn(async move {
                let Inner { store, worker, .. } = &*engine.0;
                let ended = store.end_shortage(provider, *worker, Some(shortage.worker)).await;
                if let Err(error) = ended {
                    tracing::warn!(%error, "cannot take back what a lost worker's work waited for");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ProviderName {
        "p".parse().expect("a name")
    }

    fn resources(when_short: WhenShort) -> Resources {
        let gate = ResourceGate { cpu_max_percent: Some(80), memory_min_bytes: None, when_short };
        Resources { gates: [(name(), gate)].into(), lacks: Mutex::default(), eased: Notify::new() }
    }

    fn cpu(percent: f64) -> MachineLoad {
        MachineLoad { cpu_percent: Some(percent), memory_available_bytes: None }
    }

    #[test]
    fn nothing_is_claimed_before_the_first_look_nor_while_the_machine_is_short() {
        let resources = resources(WhenShort::Wait);
        assert!(resources.holds_back(&name()));
        resources.note(&cpu(10.0));
        assert!(!resources.holds_back(&name()));
        resources.note(&cpu(93.0));
        assert!(resources.holds_back(&name()));
        assert_eq!(resources.refuses(&name()), None);
        assert!(!resources.holds_back(&"other".parse().expect("a name")));
    }

    #[test]
    fn what_is_to_fail_is_claimed_and_refused() {
        let resources = resources(WhenShort::Fail);
        assert!(resources.holds_back(&name()), "until the machine was looked at");
        resources.note(&cpu(93.0));
        assert!(!resources.holds_back(&name()));
        assert_eq!(resources.refuses(&name()), Some(Lack::Cpu { percent: 93, max_percent: 80 }));
    }

    #[tokio::test]
    async fn the_first_look_and_the_end_of_a_shortage_are_heard_of() {
        let resources = resources(WhenShort::Wait);
        resources.note(&cpu(93.0));
        resources.eased().await;
        resources.note(&cpu(95.0));
        resources.note(&cpu(10.0));
        resources.eased().await;
        resources.note(&cpu(10.0));
        let heard = tokio::time::timeout(Duration::ZERO, resources.eased()).await;
        assert!(heard.is_err(), "nothing was held back");
    }

    #[test]
    fn a_shortage_is_told_at_the_second_look_and_then_seldom() {
        let mut telling = Telling::default();
        let now = Instant::now();
        assert!(!telling.is_due(now));
        telling.note(ShortageAnswer::Waits, false, now);
        assert!(telling.is_due(now));
        telling.note(ShortageAnswer::Told, false, now);
        assert!(!telling.is_due(now + FIRST_PAUSE / 2));
        let now = now + FIRST_PAUSE;
        assert!(telling.is_due(now));
        telling.note(ShortageAnswer::Told, true, now);
        assert!(telling.is_due(now + FIRST_PAUSE), "other figures, no oftener and no seldomer");
        telling.note(ShortageAnswer::Told, false, now);
        assert!(!telling.is_due(now + FIRST_PAUSE), "others took it up: twice as seldom");
        assert!(telling.is_due(now + FIRST_PAUSE * 2));
        telling.note(ShortageAnswer::NothingWaits, true, now);
        assert!(!telling.is_due(now + LONGEST_PAUSE));
    }
}
