//! `SetLimits` as a transaction over several providers, for a time, only checked, and told of later.

use flowgate::pb::{
    AdaptiveLimits, Limits, LimitsChange, ListLimitChangesRequest, Provider, ProviderLimits,
    RateLimits, SetLimitsRequest, SetLimitsResponse, WatchProvidersRequest,
};
use prost_types::Timestamp;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{Config, Db, TestServer, audit_is_clean, eventually, on_both, submit};

on_both! {
    #[tokio::test]
    every_limit_is_set_and_shown_and_all_of_a_call_or_none;
    #[tokio::test]
    limits_set_for_a_time_return_by_themselves;
    #[tokio::test]
    limits_set_for_a_time_outlive_the_server_and_no_longer;
    #[tokio::test]
    a_call_that_only_checks_says_what_it_would_do_and_does_nothing;
    #[tokio::test]
    every_change_of_limits_can_be_read_later_with_who_and_why;
}

pub(super) fn of(provider: &str) -> ProviderLimits {
    ProviderLimits { provider: provider.to_owned(), ..Default::default() }
}

fn concurrent(provider: &str, max: i32) -> ProviderLimits {
    ProviderLimits { max_concurrent: Some(max), ..of(provider) }
}

pub(super) async fn set(
    server: &TestServer,
    request: SetLimitsRequest,
) -> Result<SetLimitsResponse, Status> {
    server.provider().set_limits(request).await.map(tonic::Response::into_inner)
}

/// So many milliseconds from now on.
fn ahead(millis: u64) -> Option<Timestamp> {
    Some((std::time::SystemTime::now() + std::time::Duration::from_millis(millis)).into())
}

fn max(limits: &Option<Limits>) -> Option<i32> {
    limits.as_ref().and_then(|limits| limits.max_concurrent)
}

/// The provider, as soon as a watch shows it so.
async fn watched(server: &TestServer, name: &str, wanted: impl Fn(&Provider) -> bool) -> Provider {
    let request = WatchProvidersRequest {
        providers: vec![name.to_owned()],
        min_interval: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
    };
    let mut pictures = server.provider().watch_providers(request).await.unwrap().into_inner();
    let found = async {
        while let Some(picture) = pictures.message().await.unwrap() {
            let mut providers = picture.providers.into_iter();
            if let Some(provider) = providers.find(&wanted) {
                return provider;
            }
        }
        panic!("a watch of providers never ends")
    };
    let deadline = std::time::Duration::from_secs(20);
    tokio::time::timeout(deadline, found).await.expect("the provider never became so")
}

async fn history(server: &TestServer, provider: &str, page_size: i32) -> Vec<LimitsChange> {
    let mut changes = Vec::new();
    let mut request =
        ListLimitChangesRequest { provider: provider.to_owned(), page_size, ..Default::default() };
    loop {
        let page = server.provider().list_limit_changes(request.clone()).await.unwrap();
        let page = page.into_inner();
        changes.extend(page.changes);
        if page.next_page_token.is_empty() {
            return changes;
        }
        request.page_token = page.next_page_token;
    }
}

async fn every_limit_is_set_and_shown_and_all_of_a_call_or_none(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("a", 1).simulated("b", 2)).await;
    let rates = RateLimits { output_tokens_per_minute: Some(9), ..Default::default() };
    let adaptive = AdaptiveLimits {
        min: 2,
        max: 50,
        target_latency: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
    };
    let all = ProviderLimits {
        requests_per_minute: Some(60),
        input_tokens_per_minute: Some(1_000_000_000),
        output_tokens_per_minute: Some(5),
        max_pending: Some(7),
        adaptive: Some(adaptive),
        models: [("gpt-4.1 mini".to_owned(), rates)].into(),
        ..concurrent("a", 3)
    };
    let limits = vec![all, concurrent("b", 9)];
    let reply = set(&server, SetLimitsRequest { limits, ..Default::default() }).await.unwrap();
    let expected = Limits {
        max_concurrent: Some(3),
        requests_per_minute: Some(60),
        input_tokens_per_minute: Some(1_000_000_000),
        output_tokens_per_minute: Some(5),
        max_pending: Some(7),
        adaptive: Some(adaptive),
        models: [("gpt-4.1 mini".to_owned(), rates)].into(),
    };
    assert_eq!(reply.providers[0].effective_limits.as_ref(), Some(&expected));
    assert_eq!(max(&reply.providers[1].effective_limits), Some(9));

    // 0 takes one away, what is not named stays, models are merged.
    let more = RateLimits { requests_per_minute: Some(4), ..Default::default() };
    let less = ProviderLimits {
        requests_per_minute: Some(0),
        max_pending: Some(0),
        adaptive: Some(AdaptiveLimits::default()),
        models: [("gpt-4.1 mini".to_owned(), more), ("gpt-5".to_owned(), rates)].into(),
        ..of("a")
    };
    let reply = set(&server, SetLimitsRequest { limits: vec![less], ..Default::default() });
    let both = RateLimits { requests_per_minute: Some(4), ..rates };
    let left = Limits {
        requests_per_minute: None,
        max_pending: None,
        adaptive: None,
        models: [("gpt-4.1 mini".to_owned(), both), ("gpt-5".to_owned(), rates)].into(),
        ..expected
    };
    assert_eq!(reply.await.unwrap().providers[0].effective_limits.as_ref(), Some(&left));

    let many = |n: usize| (0..n).map(|n| (format!("m{n}"), rates)).collect();
    let limits = vec![concurrent("b", 5), ProviderLimits { models: many(31), ..of("a") }];
    let refused = set(&server, SetLimitsRequest { limits, ..Default::default() }).await;
    let refused = refused.unwrap_err();
    let details = refused.get_error_details();
    let fields = details.bad_request().expect("a field is at fault").field_violations.clone();
    assert_eq!((refused.code(), &*fields[0].field), (Code::InvalidArgument, "limits[1].models"));
    let limits = vec![of("a"), of("b")];
    let kept = set(&server, SetLimitsRequest { limits, ..Default::default() }).await.unwrap();
    assert_eq!(kept.providers[0].effective_limits.as_ref(), Some(&left));
    assert_eq!(max(&kept.providers[1].effective_limits), Some(9), "all or none");
    audit_is_clean(&server.store_url());
}

async fn limits_set_for_a_time_return_by_themselves(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 2)).await;
    let limits = vec![concurrent("sim", 5)];
    set(&server, SetLimitsRequest { limits, ..Default::default() }).await.unwrap();
    let limits = vec![ProviderLimits { requests_per_minute: Some(60), ..concurrent("sim", 9) }];
    let request = SetLimitsRequest { limits, expire_time: ahead(1_500), ..Default::default() };
    let reply = set(&server, request.clone()).await.unwrap();
    let shown = &reply.providers[0];
    assert_eq!(max(&shown.effective_limits), Some(9));
    let micros = |time: &Option<Timestamp>| time.map(|it| (it.seconds, it.nanos / 1_000));
    assert_eq!(micros(&shown.limits_expire_time), micros(&request.expire_time));
    // The watch tells it; nobody asks.
    let returned = watched(&server, "sim", |it| it.limits_expire_time.is_none()).await;
    let limits = returned.effective_limits.clone().unwrap();
    assert_eq!((limits.max_concurrent, limits.requests_per_minute), (Some(5), None));
    assert!(returned.limits_overridden && returned.limits_revision > shown.limits_revision);
    audit_is_clean(&server.store_url());
}

async fn limits_set_for_a_time_outlive_the_server_and_no_longer(db: Db) {
    let mut server = TestServer::start(Config::on(db).simulated("a", 2).simulated("b", 2)).await;
    let long = SetLimitsRequest {
        limits: vec![concurrent("a", 9)],
        expire_time: ahead(3_600_000),
        ..Default::default()
    };
    set(&server, long).await.unwrap();
    let short = SetLimitsRequest {
        limits: vec![concurrent("b", 9)],
        expire_time: ahead(500),
        ..Default::default()
    };
    set(&server, short).await.unwrap();
    server.kill9();
    server.restart().await;
    let returned = watched(&server, "b", |it| it.limits_expire_time.is_none()).await;
    assert_eq!(max(&returned.effective_limits), Some(2));
    let kept = watched(&server, "a", |_| true).await;
    assert_eq!(max(&kept.effective_limits), Some(9));
    assert!(kept.limits_expire_time.is_some());
    audit_is_clean(&server.store_url());
}

async fn a_call_that_only_checks_says_what_it_would_do_and_does_nothing(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("full", 3).simulated("idle", 1)).await;
    for _ in 0..8 {
        server.submit(submit("full", json!({ "duration_ms": 60_000 }))).await;
    }
    eventually("three run", async || (server.status().await.running_count == 3).then_some(()))
        .await;
    let before = history(&server, "full", 0).await;
    let check = async |max| {
        let limits = vec![concurrent("idle", 2), concurrent("full", max)];
        let request = SetLimitsRequest { limits, validate_only: true, ..Default::default() };
        let reply = set(&server, request).await.unwrap();
        assert_eq!(max, reply.providers[1].effective_limits.as_ref().unwrap().max_concurrent());
        assert_eq!((reply.effects[0].starts, &*reply.effects[0].provider), (0, "idle"));
        let effect = reply.effects[1].clone();
        (effect.starts, effect.drains, effect.message)
    };
    let (starts, drains, message) = check(7).await;
    assert_eq!((starts, drains, &*message), (4, 0, "4 would start now, none over the limit"));
    let (starts, drains, message) = check(1).await;
    assert_eq!((starts, drains), (0, 2));
    assert_eq!(message, "none would start now, 2 over the limit would drain, none killed");
    assert_eq!(history(&server, "full", 0).await, before, "nothing was set");
    assert_eq!(server.status().await.running_count, 3);

    let limits = vec![concurrent("full", 7)];
    let done = set(&server, SetLimitsRequest { limits, ..Default::default() }).await.unwrap();
    assert_eq!(done.effects[0].message, "4 start now, none over the limit");
    eventually("they do", async || (server.status().await.running_count == 7).then_some(())).await;
}

async fn every_change_of_limits_can_be_read_later_with_who_and_why(db: Db) {
    let server = TestServer::start(Config::on(db).simulated("sim", 2)).await;
    let limits = vec![ProviderLimits { max_pending: Some(0), ..concurrent("sim", 9) }];
    let request = SetLimitsRequest {
        limits: limits.clone(),
        reason: "quiet hours".to_owned(),
        actor: "ops@night".to_owned(),
        expire_time: ahead(3_600_000),
        ..Default::default()
    };
    set(&server, request).await.unwrap();
    let limits_reset = vec![ProviderLimits { reset: true, ..of("sim") }];
    set(&server, SetLimitsRequest { limits: limits_reset, ..Default::default() }).await.unwrap();

    let changes = history(&server, "sim", 0).await;
    let told: Vec<_> = changes
        .iter()
        .map(|it| (max(&it.effective), &*it.reason, &*it.actor, it.expire_time.is_some()))
        .collect();
    let declared = "declared by the configuration";
    let expected = [
        (Some(2), "", "", false),
        (Some(9), "quiet hours", "ops@night", true),
        (Some(2), declared, "", false),
    ];
    assert_eq!(told, expected);
    assert_eq!(changes[1].overridden.as_ref(), Some(&limits[0]));
    assert_eq!((&changes[0].overridden, max(&changes[0].declared)), (&None, Some(2)));
    assert!(changes.windows(2).all(|pair| pair[0].revision > pair[1].revision));
    assert_eq!(history(&server, "sim", 1).await, changes, "page by page it is the same");
}
