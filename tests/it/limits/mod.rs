//! Limits under fire (promise P1): executions, limits, cancellations and retries all at random,
//! and an audit of the log afterwards.
//!
//! `FLOWGATE_TEST_ROUNDS` sets how many seeded rounds are played (2 unless set),
//! `FLOWGATE_TEST_SEED` the first seed.

mod pending;
mod rates;
mod set;

use std::time::Duration;

use flowgate::pb::{
    BatchSubmitExecutionsRequest, CancelExecutionRequest, Limits, Provider, ProviderLimits,
    RetryExecutionRequest, SetLimitsRequest, SubmitExecutionRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Config, Db, TestServer, audit_is_clean, eventually, from_env, on_both, submit,
};

on_both! {
    #[tokio::test(flavor = "multi_thread")]
    limits_changed_at_random_are_never_exceeded;
    #[tokio::test]
    a_lowered_limit_kills_nothing_and_holds_from_then_on;
    #[tokio::test]
    limits_are_not_set_if_any_provider_named_changed_since;
}

const PROVIDERS: usize = 8;
const EXECUTIONS: usize = 1_000;

async fn limits_changed_at_random_are_never_exceeded(db: Db) {
    let first: u64 = from_env("FLOWGATE_TEST_SEED", 1);
    for seed in first..first + from_env::<u64>("FLOWGATE_TEST_ROUNDS", 2) {
        println!("round with seed {seed}");
        play(db, seed).await;
    }
}

async fn play(db: Db, seed: u64) {
    let config = (0..PROVIDERS).fold(Config::on(db), |config, n| config.simulated(&name(n), 3));
    let server = TestServer::start(config).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let requests: Vec<_> = (0..EXECUTIONS).map(|_| execution(&mut rng)).collect();

    let mut ids = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let mut left = requests.chunks(100);
    loop {
        tick.tick().await;
        if let Some(requests) = left.next() {
            let batch = BatchSubmitExecutionsRequest { requests: requests.to_vec() };
            let stored = server.execution().batch_submit_executions(batch).await.unwrap();
            ids.extend(stored.into_inner().executions.into_iter().map(|execution| execution.id));
        }
        change_all_limits(&server, &mut rng).await;
        for _ in 0..5 {
            let id = ids[rng.random_range(0..ids.len())].clone();
            cancel_or_retry(&server, &mut rng, id).await;
        }
        let status = server.status().await;
        if status.pending_count + status.running_count == 0 && ids.len() == EXECUTIONS {
            break;
        }
    }
    let status = server.status().await;
    let ended = status.succeeded_count + status.failed_count + status.cancelled_count;
    assert!(usize::try_from(ended).unwrap() >= EXECUTIONS, "not all ended: {status:?}");
    audit_is_clean(&server.store_url());
}

async fn change_all_limits(server: &TestServer, rng: &mut StdRng) {
    let limits = (0..PROVIDERS).map(|n| ProviderLimits {
        provider: name(n),
        max_concurrent: Some(rng.random_range(1..=6)),
        ..Default::default()
    });
    let request = SetLimitsRequest { limits: limits.collect(), ..Default::default() };
    server.provider().set_limits(request).await.unwrap();
}

async fn cancel_or_retry(server: &TestServer, rng: &mut StdRng, id: String) {
    if rng.random_bool(0.5) {
        let request = CancelExecutionRequest { id, reason: "at random".to_owned() };
        server.execution().cancel_execution(request).await.unwrap();
    } else {
        let request = RetryExecutionRequest { id, ..Default::default() };
        if let Err(status) = server.execution().retry_execution(request).await {
            // It is live or has succeeded.
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        }
    }
}

fn execution(rng: &mut StdRng) -> SubmitExecutionRequest {
    let mut input = json!({ "duration_ms": rng.random_range(0..20) });
    if rng.random_bool(0.2) {
        input["fail"] = json!(["transient", "permanent", "rate_limited"][rng.random_range(0..3)]);
        input["fail_attempts"] = json!(rng.random_range(1..3));
        input["retry_after_ms"] = json!(10);
    }
    let mut request = submit(&name(rng.random_range(0..PROVIDERS)), input);
    request.priority = rng.random_range(-2..3);
    let backoff = |millis| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    request.retry_policy = Some(flowgate::pb::RetryPolicy {
        initial_backoff: backoff(5),
        max_backoff: backoff(20),
        ..Default::default()
    });
    request
}

fn name(n: usize) -> String {
    format!("provider-{n}")
}

async fn a_lowered_limit_kills_nothing_and_holds_from_then_on(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 4)).await;
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(server.submit(submit("sim", json!({ "duration_ms": 400 }))).await.id);
    }
    eventually("four run", async || (server.status().await.running_count == 4).then_some(())).await;
    let limits = vec![ProviderLimits {
        provider: "sim".to_owned(),
        max_concurrent: Some(1),
        ..Default::default()
    }];
    let request = SetLimitsRequest { limits, reason: "less".to_owned(), ..Default::default() };
    let reply = server.provider().set_limits(request).await.unwrap().into_inner();
    let provider = &reply.providers[0];
    let of = |limits: &Option<Limits>| limits.as_ref().and_then(|limits| limits.max_concurrent);
    assert_eq!((of(&provider.declared_limits), of(&provider.effective_limits)), (Some(4), Some(1)));
    assert_eq!(provider.running_count, 4, "a lowered limit kills nothing");
    for id in ids {
        let ended = server.ended(&id).await;
        assert_eq!(ended.attempts.len(), 1, "{ended:?}");
    }
    audit_is_clean(&server.store_url());
}

async fn limits_are_not_set_if_any_provider_named_changed_since(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("a", 1).simulated("b", 1)).await;
    let limit = |provider: &str, max_concurrent| ProviderLimits {
        provider: provider.to_owned(),
        max_concurrent,
        ..Default::default()
    };
    let set = async |limits, expected_revision| {
        let request = SetLimitsRequest { limits, expected_revision, ..Default::default() };
        let reply = server.provider().set_limits(request).await;
        reply.map(|reply| reply.into_inner().providers)
    };
    let newest = |providers: &[Provider]| providers.iter().map(|it| it.limits_revision).max();

    let kept = || vec![limit("b", None), limit("a", None)];
    let raised = || vec![limit("b", None), limit("a", Some(7))];
    let seen = newest(&set(kept(), None).await.unwrap());
    set(vec![limit("b", Some(5))], None).await.unwrap();
    for limits in [raised(), kept()] {
        let refused = set(limits, seen).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
    }
    let seen = newest(&set(kept(), None).await.unwrap());
    let providers = set(raised(), seen).await.unwrap();
    let of = |limits: &Option<Limits>| limits.as_ref().and_then(|limits| limits.max_concurrent);
    let shown: Vec<_> =
        providers.iter().map(|it| (it.name.as_str(), of(&it.effective_limits))).collect();
    assert_eq!(shown, [("b", Some(5)), ("a", Some(7))]);
}
