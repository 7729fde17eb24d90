//! The log: dense, complete, and told to whoever listens.

use flowgate::domain::{
    AttemptEnd, Change, Chunk, ChunkContent, Clock, EndCause, ErrorCode, Lease, Limits,
    OutputStream, State, Token, Wait,
};
use flowgate::store::{EventQuery, Notice};

use crate::store::fixture::{SECOND, TestStore, failure, name, retry};

fn chunk(attempt: u32, index: i64, content: ChunkContent) -> Chunk {
    Chunk { attempt, index, stream: OutputStream::Stdout, content }
}

async fn say(t: &TestStore, lease: &Lease, index: i64, text: &str) {
    let chunk = chunk(1, index, ChunkContent::Text(text.to_owned()));
    t.store.append_output(lease.clone(), vec![chunk]).await.unwrap().unwrap();
}

pub(crate) async fn the_log_says_exactly_what_happened(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    say(t, &lease, 0, "hello").await;
    t.settle(&lease, retry(SECOND)).await.unwrap();
    let advanced = t.pass(SECOND).await;
    assert_eq!(advanced.promoted, 1);
    let lease = t.claim_one("p").await;
    t.cancel(id).await;
    t.succeed(&lease).await;

    let limits = Limits::concurrent(1);
    let end = |token, cause, failure| AttemptEnd {
        token: Token(token),
        worker: t.worker,
        cause,
        failure,
        usage: None,
    };
    let claimed = |token, attempt| Change::Claimed {
        token: Token(token),
        worker: t.worker,
        attempt,
        charged: attempt,
        handle: None,
        reserved: None,
    };
    // The clock stands at the end of the backoff.
    let until = t.clock.now();
    let expected = [
        Change::LimitsChanged {
            declared: Box::new(limits.clone()),
            overriding: None,
            expires_at: None,
            actor: String::new(),
            step: None,
            effective: Box::new(limits),
            reason: "declared by the configuration".to_owned(),
        },
        Change::Submitted { wait: Wait::None },
        claimed(1, 1),
        Change::Output(chunk(1, 0, ChunkContent::Text("hello".to_owned()))),
        Change::Requeued {
            ended: end(1, EndCause::Failed, Some(failure(ErrorCode::Transient))),
            wait: Wait::Backoff { until },
            charged: 1,
            crashes: 0,
        },
        Change::WaitChanged { wait: Wait::None },
        claimed(2, 2),
        Change::CancelRequested { reason: "changed my mind".to_owned() },
        Change::Finished {
            state: State::Succeeded,
            ended: Some(end(2, EndCause::Succeeded, None)),
            failure: None,
            charged: 2,
            crashes: 0,
        },
    ];
    let log = t.log().await;
    let changes: Vec<_> = log.iter().map(|event| event.change.clone()).collect();
    assert_eq!(changes, expected);
    assert!(log.iter().all(|event| event.provider == name("p")));
    assert_eq!(log[0].execution, None);
    assert!(log[1..].iter().all(|event| event.execution == Some(id)));
}

pub(crate) async fn entries_are_given_from_a_revision_on_up_to_a_number(t: &TestStore) {
    t.submit_plain("p", 9).await;
    let query = EventQuery { after: 3, execution: None, output: true, limit: 4 };
    let page = t.store.events(&query).await.unwrap();
    let revisions: Vec<_> = page.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, [4, 5, 6, 7]);
    assert_eq!(t.store.events(&EventQuery { after: 9, ..query }).await.unwrap(), []);
}

pub(crate) async fn the_log_of_one_execution_has_its_providers_gate_and_nothing_of_others(
    t: &TestStore,
) {
    t.declare("p", 2).await;
    t.declare("q", 2).await;
    let ids = t.submit_plain("p", 2).await;
    t.pause("q", None).await;
    t.pause("p", None).await;
    t.limit("p", Some(5)).await;
    t.resume("p").await;
    let query = EventQuery { after: 0, execution: Some(ids[1]), output: true, limit: 100 };
    let revisions = |events: Vec<flowgate::domain::Event>| -> Vec<i64> {
        events.iter().map(|event| event.revision).collect()
    };
    assert_eq!(revisions(t.store.events(&query).await.unwrap()), [4, 6, 8]);
    let later = EventQuery { after: 4, limit: 1, ..query };
    assert_eq!(revisions(t.store.events(&later).await.unwrap()), [6]);
}

pub(crate) async fn output_is_left_out_unless_asked_for(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    say(t, &lease, 0, "a").await;
    say(t, &lease, 1, "b").await;
    t.succeed(&lease).await;
    for execution in [None, Some(id)] {
        let query = EventQuery { after: 1, execution, output: false, limit: 100 };
        let without = t.store.events(&query).await.unwrap();
        assert!(without.iter().all(|event| !event.change.is_output()));
        assert_eq!(without.len(), 3);
        let with = t.store.events(&EventQuery { output: true, ..query }).await.unwrap();
        assert_eq!(with.len(), 5);
    }
    let execution = t.get(id).await;
    assert_eq!(execution.revision, 6, "output is no change of the execution");
}

pub(crate) async fn the_gate_can_be_looked_up_at_any_revision(t: &TestStore) {
    t.declare("p", 1).await;
    t.pause("p", None).await;
    t.submit_plain("p", 1).await;
    t.resume("p").await;
    let at = async |revision| {
        let event = t.store.gate_at(&name("p"), revision).await.unwrap();
        event.map(|event| (event.revision, matches!(event.change, Change::Paused { .. })))
    };
    assert_eq!(at(1).await, None);
    assert_eq!(at(2).await, Some((2, true)));
    assert_eq!(at(3).await, Some((2, true)));
    assert_eq!(at(4).await, Some((4, false)));
    assert_eq!(at(i64::MAX).await, Some((4, false)));
    assert_eq!(t.store.gate_at(&name("q"), 9).await.unwrap(), None);
}

pub(crate) async fn commits_are_announced_in_order_and_without_gaps(t: &TestStore) {
    let mut commits = t.store.commits();
    t.declare("p", 1).await;
    t.submit_plain("p", 3).await;
    t.succeed(&t.claim("p", 1).await[0].lease).await;
    t.claim("p", 1).await;
    let log = t.log().await;
    let mut announced = Vec::new();
    while announced.len() < log.len() {
        let commit = commits.recv().await.unwrap();
        let Some(last) = commit.entries.last() else { continue };
        assert_eq!(commit.newest, last.revision);
        // Who follows a shared log may see a commit before its own writer has the answer to it, and
        // tells of it then as of another's: that is a hint too many, and no gap.
        if commit.own {
            announced.extend(commit.entries.clone());
        }
    }
    let log: Vec<_> = log.into_iter().map(Notice::from).collect();
    assert_eq!(announced, log);
}

pub(crate) async fn output_of_any_bytes_is_read_back_as_it_was(t: &TestStore) {
    t.declare("p", 1).await;
    let id = t.submit_with("p", |_| {}).await;
    let lease = t.claim_one("p").await;
    let text = ChunkContent::Text("\u{0}\"'\\\n\u{1F600}".to_owned());
    let data = ChunkContent::Data((0..=255).collect());
    let chunks = vec![chunk(1, 0, text), chunk(1, 1, data)];
    t.store.append_output(lease, chunks.clone()).await.unwrap().unwrap();
    let changes = t.changes(id).await;
    let said: Vec<_> = chunks.into_iter().map(Change::Output).collect();
    assert_eq!(changes[2..], said);
}
