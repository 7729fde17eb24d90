//! Reading, limiting, pausing and watching providers.

use flowgate::pb::{
    GetProviderRequest, PauseProviderRequest, ProviderLimits, ResumeProviderRequest,
    SetLimitsRequest, WatchProvidersRequest,
};
use prost_types::{Duration, Timestamp};
use tonic::Code;

use super::{Expected, FAR_AWAY, Row, invalid, no_provider, row};

const GET: &str = "ProviderService/GetProvider";
const PAUSE: &str = "ProviderService/PauseProvider";
const RESUME: &str = "ProviderService/ResumeProvider";
const WATCH: &str = "ProviderService/WatchProviders";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = names();
    rows.extend(limits());
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
