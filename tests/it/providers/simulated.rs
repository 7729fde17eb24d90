//! A simulated provider that is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use flowgate::domain::{ErrorCode, FailureKind};
use flowgate::providers::{Provider as _, Simulated};
use serde_json::json;

use super::door::attempt;
use crate::support::call;

#[tokio::test]
async fn what_begins_beyond_the_capacity_is_turned_away_at_once_with_a_wait() {
    let capacity = Arc::new(AtomicU32::new(1));
    let wait = Duration::from_millis(70);
    let provider = Simulated::with_capacity(Arc::clone(&capacity)).asking_to_wait(wait);
    let (long, mut reins) = call(json!({ "duration_ms": 600_000, "chunks": 10_000 }));
    let mut long = provider.execute(long);
    tokio::select! {
        ended = &mut long => panic!("it takes ten minutes: {ended:?}"),
        said = reins.said.recv() => assert!(said.is_some(), "it is under way"),
    }

    // Whatever it was to do.
    for input in [json!({}), json!({ "fail": "permanent" })] {
        let refused = attempt(&provider, input).await.unwrap_err();
        assert_eq!((refused.kind, refused.retry_after), (FailureKind::RateLimited, Some(wait)));
        assert_eq!(refused.failure.code, ErrorCode::RateLimited);
        let message = "1 attempts are under way, the capacity is 1";
        assert_eq!(refused.failure.message, message);
    }

    capacity.store(2, Ordering::SeqCst);
    assert!(attempt(&provider, json!({})).await.is_ok());
    capacity.store(1, Ordering::SeqCst);
    assert!(attempt(&provider, json!({})).await.is_err());

    drop(long);
    assert!(attempt(&provider, json!({})).await.is_ok(), "one that was dropped takes no room");
    let failed = attempt(&provider, json!({ "fail": "permanent" })).await.unwrap_err();
    assert_eq!(failed.kind, FailureKind::Permanent);
    assert!(attempt(&provider, json!({})).await.is_ok(), "nor does one that failed");
}

#[tokio::test]
async fn without_a_capacity_it_takes_whatever_comes() {
    let provider = Simulated::default();
    let attempts = (0..100).map(|_| attempt(&provider, json!({ "duration_ms": 20 })));
    let ended = futures_util::future::join_all(attempts).await;
    assert!(ended.iter().all(Result::is_ok));
}
