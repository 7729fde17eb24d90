//! Reading, limiting, pausing and watching providers.

use flowgate::pb::{
    AdaptiveLimits, GetProviderRequest, ListLimitChangesRequest, PauseProviderRequest,
    ProviderLimits, RateLimits, ResumeProviderRequest, SetLimitsRequest, WatchProvidersRequest,
};
use prost_types::{Duration, Timestamp};
use tonic::Code;

use super::{Expected, FAR_AWAY, Row, invalid, no_provider, row};

const GET: &str = "ProviderService/GetProvider";
const HISTORY: &str = "ProviderService/ListLimitChanges";
const PAUSE: &str = "ProviderService/PauseProvider";
const RESUME: &str = "ProviderService/ResumeProvider";
const WATCH: &str = "ProviderService/WatchProviders";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = names();
    rows.extend(limits());
    rows.extend(more_limits());
    rows.extend(history());
    rows.extend(pauses());
    for (seconds, nanos) in [(0, 0), (0, 99_999_000), (3_601, 0), (-1, 0), (i64::MAX, 0), (1, -1)] {
        let min_interval = Some(Duration { seconds, nanos });
        let watch = WatchProvidersRequest { providers: vec![], min_interval };
        let what = format!("min_interval {seconds} s {nanos} ns");
        rows.push(row(WATCH, what, watch, invalid("min_interval")));
    }
    rows
}

/// Every rpc that takes a name, with one that is malformed or unknown.
fn names() -> Vec<Row> {
    let mut rows = Vec::new();
    for name in ["", "Sim", "sim sim", "sim\0", &"s".repeat(64)] {
        let what = format!("provider {name:?}");
        let provider = || name.to_owned();
        let watch = WatchProvidersRequest { providers: vec![provider()], min_interval: None };
        let resume = ResumeProviderRequest { provider: provider(), ..Default::default() };
        let pause = PauseProviderRequest { provider: provider(), ..Default::default() };
        rows.push(row(
            GET,
            &what,
            GetProviderRequest { provider: provider() },
            invalid("provider"),
        ));
        let history = ListLimitChangesRequest { provider: provider(), ..Default::default() };
        rows.push(row(HISTORY, &what, history, invalid("provider")));
        rows.push(row(PAUSE, &what, pause, invalid("provider")));
        rows.push(row(RESUME, &what, resume, invalid("provider")));
        rows.push(row(WATCH, &what, watch, invalid("providers[0]")));
    }
    let what = "an unknown provider";
    let provider = || "nobody".to_owned();
    let known = || no_provider().mentions("sim");
    let watch = WatchProvidersRequest { providers: vec![provider()], min_interval: None };
    let pause = PauseProviderRequest { provider: provider(), ..Default::default() };
    let resume = ResumeProviderRequest { provider: provider(), ..Default::default() };
    rows.push(row(GET, what, GetProviderRequest { provider: provider() }, known()));
    let history = ListLimitChangesRequest { provider: provider(), ..Default::default() };
    rows.push(row(HISTORY, what, history, known()));
    rows.push(row(PAUSE, what, pause, known()));
    rows.push(row(RESUME, what, resume, known()));
    rows.push(row(WATCH, what, watch, known()));
    rows
}

fn limits() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |what: &str, request: SetLimitsRequest, expected: Expected| {
        rows.push(row("ProviderService/SetLimits", what, request, expected));
    };
    let limit = |provider: &str, max_concurrent: Option<i32>, reset: bool| ProviderLimits {
        provider: provider.to_owned(),
        max_concurrent,
        reset,
        ..Default::default()
    };
    let set = |limits: Vec<ProviderLimits>| SetLimitsRequest { limits, ..Default::default() };

    add("nothing", set(vec![]), invalid("limits"));
    let zero = invalid("limits[0].max_concurrent").mentions("PauseProvider");
    add("a limit of 0", set(vec![limit("sim", Some(0), false)]), zero);
    for max in [-1, i32::MIN, 100_001, i32::MAX] {
        let request = set(vec![limit("sim", Some(max), false)]);
        add(&format!("a limit of {max}"), request, invalid("limits[0].max_concurrent"));
    }
    let twice = set(vec![limit("sim", Some(1), false), limit("sim", Some(2), false)]);
    add("a provider twice", twice, invalid("limits[1].provider"));
    let both = set(vec![limit("sim", Some(1), true)]);
    add("a limit and a reset", both, invalid("limits[0].reset"));
    let nameless = set(vec![limit("sim", Some(1), false), limit("", Some(1), false)]);
    add("no name", nameless, invalid("limits[1].provider"));
    let unknown = set(vec![limit("sim", Some(1), false), limit("nobody", Some(1), false)]);
    let named = no_provider().mentions("limits[1].provider");
    add("an unknown provider after a known", unknown, named);

    let good = || set(vec![limit("sim", Some(1), false)]);
    let long = SetLimitsRequest { reason: "x".repeat(257), ..good() };
    add("a reason of 257 characters", long, invalid("reason"));
    let negative = SetLimitsRequest { expected_revision: Some(-1), ..good() };
    add("an expected_revision below zero", negative, invalid("expected_revision"));
    let changed = || Expected::new(Code::Aborted, "LIMITS_CHANGED");
    let stale = SetLimitsRequest { expected_revision: Some(0), ..good() };
    add("an expected_revision out of date", stale.clone(), changed());
    let stale = SetLimitsRequest { validate_only: true, ..stale };
    add("the same, only checked", stale, changed());
    let long = SetLimitsRequest { actor: "x".repeat(257), ..good() };
    add("an actor of 257 characters", long, invalid("actor"));
    for (seconds, nanos) in [(0, 0), (FAR_AWAY.seconds, 0), (i64::MIN, 0), (i64::MAX, 0), (0, -1)] {
        let expire_time = Some(Timestamp { seconds, nanos });
        let what = format!("expire_time {seconds} s {nanos} ns");
        add(&what, SetLimitsRequest { expire_time, ..good() }, invalid("expire_time"));
    }
    rows
}

/// Every limit beside `max_concurrent`.
fn more_limits() -> Vec<Row> {
    let mut rows = Vec::new();
    let sim = || ProviderLimits { provider: "sim".to_owned(), ..Default::default() };
    let mut add = |what: String, limits: ProviderLimits, field: &str| {
        let request = SetLimitsRequest { limits: vec![limits], ..Default::default() };
        let expected = invalid(format!("limits[0].{field}"));
        rows.push(row("ProviderService/SetLimits", what, request, expected));
    };
    for rate in [-1, i64::MIN, 1_000_000_001, i64::MAX] {
        let limits = ProviderLimits { requests_per_minute: Some(rate), ..sim() };
        add(format!("{rate} requests"), limits, "requests_per_minute");
        let limits = ProviderLimits { input_tokens_per_minute: Some(rate), ..sim() };
        add(format!("{rate} input tokens"), limits, "input_tokens_per_minute");
        let rates = RateLimits { output_tokens_per_minute: Some(rate), ..Default::default() };
        let limits = ProviderLimits { models: [("m".to_owned(), rates)].into(), ..sim() };
        add(format!("{rate} of a model"), limits, "models[m].output_tokens_per_minute");
    }
    for max in [-1, i32::MIN, 10_000_001, i32::MAX] {
        let limits = ProviderLimits { max_pending: Some(max), ..sim() };
        add(format!("max_pending {max}"), limits, "max_pending");
    }
    let bounds = [(5, 0, "max"), (1, 100_001, "max"), (1, -1, "max"), (0, 5, "min"), (6, 5, "min")];
    for (min, max, field) in bounds {
        let adaptive = Some(AdaptiveLimits { min, max, target_latency: None });
        let limits = ProviderLimits { adaptive, ..sim() };
        add(format!("adaptive {min} to {max}"), limits, &format!("adaptive.{field}"));
    }
    for (seconds, nanos) in [(0, 0), (-1, 0), (31_536_001, 0), (i64::MAX, 0), (0, -1)] {
        let target_latency = Some(Duration { seconds, nanos });
        let adaptive = Some(AdaptiveLimits { min: 1, max: 5, target_latency });
        let what = format!("target_latency {seconds} s {nanos} ns");
        add(what, ProviderLimits { adaptive, ..sim() }, "adaptive.target_latency");
    }
    let rates = RateLimits::default;
    for name in ["", "a\nb", "a\0b", "\u{2028}"] {
        let limits = ProviderLimits { models: [(name.to_owned(), rates())].into(), ..sim() };
        add(format!("a model named {name:?}"), limits, &format!("models[{name}]"));
    }
    let long = ProviderLimits { models: [("x".repeat(129), rates())].into(), ..sim() };
    add("a model of 129 characters".to_owned(), long, "models[xxx*");
    let models = (0..33).map(|n| (n.to_string(), rates())).collect();
    add("33 models".to_owned(), ProviderLimits { models, ..sim() }, "models");
    let beside = ProviderLimits { max_pending: Some(0), reset: true, ..sim() };
    add("a bound taken away beside a reset".to_owned(), beside, "reset");
    let request = SetLimitsRequest {
        limits: vec![ProviderLimits { reset: true, ..sim() }],
        expire_time: Some(Timestamp::from(
            std::time::SystemTime::now() + std::time::Duration::from_secs(3_600),
        )),
        ..Default::default()
    };
    let expected = invalid("limits[0].reset");
    rows.push(row("ProviderService/SetLimits", "a reset for a time", request, expected));
    rows
}

/// What was changed of limits.
fn history() -> Vec<Row> {
    let mut rows = Vec::new();
    let sim = |page_size, token: &str| ListLimitChangesRequest {
        provider: "sim".to_owned(),
        page_size,
        page_token: token.to_owned(),
    };
    rows.push(row(HISTORY, "a page below zero", sim(-1, ""), invalid("page_size")));
    for token in ["x", "01", "AAAA", "日本", &"0".repeat(34), &"A".repeat(100_000)] {
        let what = format!("page_token {token:.50?}");
        rows.push(row(HISTORY, what, sim(0, token), invalid("page_token")));
    }
    rows
}

fn pauses() -> Vec<Row> {
    let mut rows = Vec::new();
    let pause = |reason: &str, resume_time| PauseProviderRequest {
        provider: "sim".to_owned(),
        reason: reason.to_owned(),
        resume_time,
    };
    let at = |seconds, nanos| Some(Timestamp { seconds, nanos });
    for resume_time in
        [at(0, 0), at(1_600_000_000, 0), at(i64::MIN, 0), at(i64::MAX, 0), at(4_070_908_800, -1)]
    {
        let what = format!("resume_time {resume_time:?}");
        rows.push(row(PAUSE, what, pause("", resume_time), invalid("resume_time")));
    }
    let long = "x".repeat(257);
    let what = "a reason of 257 characters";
    rows.push(row(PAUSE, what, pause(&long, Some(FAR_AWAY)), invalid("reason")));
    let resume = ResumeProviderRequest { provider: "sim".to_owned(), reason: long };
    rows.push(row(RESUME, what, resume, invalid("reason")));
    rows
}
