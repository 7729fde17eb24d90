//! Trouble with the collector, told in one line a minute instead of one for each thing that was not sent.
//!
//! What must stay true: at most one line a minute over all signals, however many there are; no secret of the
//! collector's address is in it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::{Level, Metadata};

use super::collector::{self, Signal};
use super::line::Fields;

/// How long after a line the next one comes at the earliest.
const PAUSE: Duration = Duration::from_secs(60);
/// Longest part of what was said that is told.
const MAX_WHY_CHARS: usize = 300;

/// When trouble was told of, and how much has come since.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    since: u64,
}

/// What an event of OpenTelemetry's own is to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Trouble with the collector.
    Trouble,
    /// Another event tells of the same, and says more, or it is the end of the server and no trouble.
    Said,
}

impl Quiet {
    /// What an event tells, if it is of trouble inside what sends to the collector.
    pub(super) fn kind(metadata: &Metadata<'_>) -> Option<Kind> {
        let inside =
            metadata.target().starts_with("opentelemetry") && *metadata.level() <= Level::WARN;
        inside.then(|| kind_of(metadata.name())).flatten()
    }

    /// The line to write, if it is time for one.
    pub(super) fn note(
        &self,
        now: Instant,
        name: &str,
        event: &Fields,
    ) -> Option<(String, Fields)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.told.is_some_and(|told| now.saturating_duration_since(told) < PAUSE) {
            state.since += 1;
            return None;
        }
        let since = std::mem::take(&mut state.since);
        state.told = Some(now);
        drop(state);
        Some(line(name, event, since))
    }
}

/// By the names that OpenTelemetry gives its events.
fn kind_of(name: &str) -> Option<Kind> {
    // How it is set up is told in words of its own, and once.
    let set_up = ["Config", "Creation", "View", "NotRegistered", "Baggage", "Jaeger"];
    if set_up.iter().any(|part| name.contains(part)) {
        return None;
    }
    let said = name.starts_with("Export.Failed") || name.ends_with("AfterShutdown");
    Some(if said { Kind::Said } else { Kind::Trouble })
}

fn line(name: &str, event: &Fields, since: u64) -> (String, Fields) {
    let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default();
    let dropped =
        if name.contains("Drop") { "more come than it takes, some are dropped" } else { "" };
    let why = [dropped, text("error"), text("error_message"), text("message"), name];
    let why = why.into_iter().find(|said| !said.is_empty()).unwrap_or_default();
    let why: String = why.chars().take(MAX_WHY_CHARS).collect();
    let signal = signal(name);
    let what = match signal {
        Some(Signal::Traces) => "traces",
        Some(Signal::Metrics) => "metrics",
        None => "telemetry",
    };
    let more = match since {
        0 => String::new(),
        more => format!("; {more} more like this since the last line"),
    };
    let url = signal.and_then(collector::endpoint).map(|url| without_secrets(&url));
    let place = url.map(|url| format!(" at {url}")).unwrap_or_default();
    let message = format!("The collector{place} does not take {what}: {why}{more}");
    let mut fields = Fields::default();
    fields.put("signal", what.into());
    fields.put("suppressed", since.into());
    (message, fields)
}

/// What is not taken, by the names that OpenTelemetry gives its own parts, if they say so.
fn signal(name: &str) -> Option<Signal> {
    let named = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if named(&["Span", "Trace"]) {
        Some(Signal::Traces)
    } else if named(&["Period", "Metric"]) {
        Some(Signal::Metrics)
    } else {
        None
    }
}

/// Neither a user and password nor parameters.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "BatchSpanProcessor.ExportError";

    fn refused() -> Fields {
        let mut event = Fields::default();
        event.put("error", "export failed: Unavailable".into());
        event
    }

    #[test]
    fn trouble_is_told_once_a_minute_with_how_much_there_was() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        let told = |after| quiet.note(start + Duration::from_secs(after), NAME, &refused());
        let (first, _) = told(0).expect("the first is told at once");
        assert!(first.ends_with(" does not take traces: export failed: Unavailable"), "{first}");
        for second in 1..60 {
            assert!(told(second).is_none());
        }
        let (second, fields) = told(60).expect("the minute is over");
        assert!(second.ends_with("; 59 more like this since the last line"), "{second}");
        assert_eq!(fields.get("suppressed"), Some(&59.into()));
        assert!(told(61).is_none());
    }

    #[test]
    fn an_endpoint_is_told_without_its_secrets() {
        let told = without_secrets("https://me:pass@collector:4317/v1?token=abc");
        assert_eq!(told, "https://collector:4317/v1");
        assert_eq!(without_secrets("collector:4317"), "collector:4317");
        assert_eq!(without_secrets("http://[::1]:4317"), "http://[::1]:4317");
    }

    #[test]
    fn what_is_said_twice_or_is_of_the_end_is_told_once_and_mistakes_in_the_setup_as_they_are() {
        assert_eq!(kind_of(NAME), Some(Kind::Trouble));
        assert_eq!(kind_of("BatchSpanProcessor.SpanDroppingStarted"), Some(Kind::Trouble));
        assert_eq!(kind_of("Export.Failed.NonRetryable"), Some(Kind::Said));
        assert_eq!(kind_of("BatchSpanProcessor.OnEnd.AfterShutdown"), Some(Kind::Said));
        assert_eq!(kind_of("TracerProvider.Config.UnsupportedSampler"), None);
    }

    #[test]
    fn metrics_are_told_from_traces() {
        assert_eq!(signal("PeriodicReader.ExportError"), Some(Signal::Metrics));
        assert_eq!(signal("BatchSpanProcessor.SpansDropped"), Some(Signal::Traces));
        assert_eq!(signal("TonicMetricsClient.PartialSuccess"), Some(Signal::Metrics));
        assert_eq!(signal("Else.ExportError"), None);
    }
}
