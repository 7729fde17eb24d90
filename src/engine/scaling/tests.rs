use super::*;
use crate::domain::{
    Hold, Lack, Limits, Pause, ProviderName, ProviderRecord, Rates, Shortage, WorkerId,
};
use crate::engine::{Figures, PoolReport, ServedProvider, WorkerConfiguration, WorkerReport};
use crate::store::{WorkerRow, WorkerStatus};

const NAMES: [&str; 3] = ["ollama", "openai", "process"];

fn name(text: &str) -> ProviderName {
    text.parse().expect("a name")
}

fn row(provider: &str, running: u64, ready: u64, max_concurrent: u32) -> ProviderRow {
    let record = ProviderRecord::new(name(provider), Limits::concurrent(max_concurrent));
    ProviderRow { running, ready, pending: ready, ..ProviderRow::idle(record) }
}

fn worker(active: u64, slots: u32, spare: u32) -> WorkerView {
    let served = |name: &&str| ServedProvider {
        name: self::name(name),
        kind: "test".to_owned(),
        max_concurrent: 1,
    };
    let report = WorkerReport {
        figures: Figures { active, ..Figures::default() },
        slots,
        pool: Some(PoolReport { min: 2, max: 20, spare, hindered: false }),
        configuration: Some(WorkerConfiguration {
            providers: NAMES.iter().map(served).collect(),
            ..WorkerConfiguration::default()
        }),
        ..WorkerReport::default()
    };
    let row = WorkerRow {
        id: WorkerId::new(),
        host: "here".to_owned(),
        version: "test".to_owned(),
        status: WorkerStatus::Serving,
        started_at: Timestamp::default(),
        heartbeat_at: Timestamp::default(),
        figures: serde_json::Value::Null,
    };
    WorkerView { row, report, lost: false }
}

fn told(rows: &[ProviderRow], workers: &[WorkerView]) -> Scaling {
    scaling(rows, workers, Timestamp::default())
}

#[test]
fn where_nothing_waits_more_replicas_are_not_needed() {
    let told = told(&[row("openai", 3, 0, 3)], &[worker(3, 6, 14)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::None, 0));
    assert_eq!(told.message, "more replicas are not needed: nothing waits for a slot");
    assert_eq!((told.utilisation, told.live_replicas, told.desired_replicas), (0.5, 1, 1));
}

#[test]
fn more_replicas_do_not_help_where_the_budget_of_the_minute_is_spent() {
    let mut spent = row("openai", 1, 57, 30);
    let rates = Rates { requests_per_minute: Some(1), ..Rates::default() };
    spent.record.declared.rates = rates;
    let limits = spent.record.effective();
    spent.record.flow.reserve(&limits, "", None, Timestamp::default());
    let told = told(&[spent], &[worker(1, 4, 0)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::Rate, 0));
    assert!(told.message.contains("the budget of this minute of provider openai is spent"));
}

#[test]
fn more_replicas_do_not_help_what_the_budget_or_gate_of_a_model_holds_back() {
    let mut held = row("openai", 0, 57, 30);
    held.ready_apart = 55;
    let until = Timestamp::from_micros(60_000_000);
    let hold = Hold::rate(Some("gpt".to_owned()), until);
    held.record.flow.found(&[], &[hold], Timestamp::default());
    let told = told(&[held], &[worker(0, 4, 20)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::Rate, 0));
    assert!(told.message.contains("budgets or gates of models of provider openai"), "{told:?}");
}

#[test]
fn no_more_is_counted_than_requests_are_left() {
    let mut row = row("openai", 0, 57, 30);
    row.record.declared.rates = Rates { requests_per_minute: Some(4), ..Rates::default() };
    let told = told(&[row], &[worker(0, 2, 0)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::Slots, 4));
}

#[test]
fn more_replicas_do_not_help_a_provider_at_its_limit() {
    let told = told(&[row("openai", 3, 57, 3)], &[worker(3, 4, 0)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::ProviderLimit, 0));
    assert_eq!(
        told.message,
        "more replicas will not help: provider openai is at its limit of 3, 57 executions wait for it"
    );
    assert_eq!(told.desired_replicas, 1);
}

#[test]
fn more_replicas_help_where_ready_work_only_lacks_slots() {
    let rows = [row("ollama", 20, 100, 50), row("openai", 3, 500, 3)];
    let told = told(&rows, &[worker(20, 20, 0), worker(3, 2, 4)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::Slots, 30 - 4));
    assert_eq!(
        told.message,
        "more replicas will help: 26 executions could start, and the replicas there are have no slots \
         for them"
    );
    // 23 run and 30 could start; these two hold 27.
    assert_eq!((told.live_replicas, told.desired_replicas, told.spare_slots), (2, 4, 4));
}

#[test]
fn what_the_live_replicas_have_room_for_is_no_bottleneck() {
    let told = told(&[row("ollama", 0, 10, 50)], &[worker(0, 2, 20)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::None, 0));
    let why =
        "more replicas are not needed: those there are have slots for what waits, or will grow";
    assert_eq!(told.message, why);
}

#[test]
fn more_replicas_do_not_help_where_a_gate_holds_the_work() {
    let mut paused = row("ollama", 0, 9, 50);
    paused.record.pause = Some(Pause { reason: String::new(), until: None });
    let told = told(&[paused, row("openai", 3, 8, 3)], &[worker(3, 3, 0)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::ProviderGate, 0));
    assert_eq!(
        told.message,
        "more replicas will not help: provider ollama is paused, 9 executions wait for it"
    );
}

#[test]
fn a_machine_that_is_short_is_told_from_a_lack_of_slots() {
    let mut hindered = worker(2, 2, 0);
    hindered.report.pool = Some(PoolReport { min: 2, max: 20, spare: 0, hindered: true });
    let rows = [row("ollama", 2, 10, 50)];
    let none_can_grow = told(&rows, std::slice::from_ref(&hindered));
    let machine = (Bottleneck::Machine, 10);
    assert_eq!((none_can_grow.bottleneck, none_can_grow.pending_for_replicas), machine);
    let one_is_full = told(&rows, &[hindered, worker(20, 20, 0)]);
    assert_eq!((one_is_full.bottleneck, one_is_full.pending_for_replicas), (Bottleneck::Slots, 10));

    let mut short = row("process", 0, 6, 4);
    let lack = Lack::Cpu { percent: 95, max_percent: 80 };
    short.record.shortage = Some(Shortage { worker: WorkerId::new(), lack });
    let told = told(&[short], &[worker(0, 2, 20)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::Machine, 4));
    assert!(told.message.starts_with("more replicas will help on other machines: 4 executions"));
}

#[test]
fn work_that_no_live_replica_is_configured_for_counts_for_none() {
    let told = told(&[row("elsewhere", 0, 100, 50)], &[worker(2, 2, 0)]);
    assert_eq!((told.bottleneck, told.pending_for_replicas), (Bottleneck::None, 0));
}

#[test]
fn only_live_replicas_count() {
    let (mut lost, mut leaving) = (worker(9, 20, 11), worker(9, 20, 11));
    lost.lost = true;
    leaving.row.status = WorkerStatus::Stopping;
    let told = told(&[row("ollama", 28, 5, 50)], &[lost, leaving, worker(10, 10, 0)]);
    assert_eq!((told.pending_for_replicas, told.live_replicas, told.utilisation), (5, 1, 1.0));
}

#[test]
fn fewer_replicas_are_wanted_where_fewer_would_do() {
    let told =
        told(&[row("ollama", 4, 0, 50)], &[worker(2, 4, 18), worker(2, 4, 18), worker(0, 2, 20)]);
    assert_eq!((told.live_replicas, told.desired_replicas), (3, 1));
}

#[test]
fn a_worker_of_a_version_without_a_pool_has_room_in_its_free_slots() {
    let mut old = worker(3, 8, 0);
    old.report.pool = None;
    let told = told(&[row("ollama", 3, 9, 50)], &[old]);
    assert_eq!((told.spare_slots, told.pending_for_replicas), (5, 4));
}
