//! Which events are logged, changed while the server runs.
//!
//! What must stay true: the filter decides on events alone; the spans that say whose events they are, are seen at
//! every level; what is traced does not depend on what is logged.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, reload};

use super::logs::LogFilter;

/// What the process logs, once its log is ours.
static DIAL: OnceLock<Dial> = OnceLock::new();

/// Turns a log up and down.
pub(super) struct Dial {
    turn: Box<dyn Fn(&LogFilter) + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Debug, Clone)]
struct State {
    configured: LogFilter,
    current: LogFilter,
    /// How many times it was changed.
    changes: u64,
}

/// The log belongs to whoever embeds the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process has a log of its own, whose level is not Flowgate's to change")]
pub struct NotOurs;

/// A change of the level that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelChange {
    /// What is logged now.
    pub filter: LogFilter,
    /// What was logged before.
    pub previous: LogFilter,
    /// Tells this change from those before and after it.
    number: u64,
}

/// Sets what the process logs; what was configured if no filter is given.
pub fn set_log_filter(filter: Option<LogFilter>) -> Result<LevelChange, NotOurs> {
    DIAL.get().map(|dial| dial.set(filter)).ok_or(NotOurs)
}

/// Goes back to what was configured, unless the level was changed again since.
pub fn end_log_filter(change: &LevelChange) {
    if let Some(dial) = DIAL.get() {
        dial.end(change);
    }
}

impl Dial {
    /// Makes this the dial of the process.
    pub(super) fn install(self) {
        // There is one already only if there is a subscriber already, and then this is not called.
        let _ = DIAL.set(self);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, filter: Option<LogFilter>) -> LevelChange {
        let mut state = self.state();
        let filter = filter.unwrap_or_else(|| state.configured.clone());
        let previous = self.change(&mut state, &filter);
        LevelChange { filter, previous, number: state.changes }
    }

    fn end(&self, change: &LevelChange) {
        let mut state = self.state();
        if state.changes == change.number {
            let configured = state.configured.clone();
            self.change(&mut state, &configured);
        }
    }

    /// Changes it, and logs so at whichever of the two levels lets that through.
    fn change(&self, state: &mut State, to: &LogFilter) -> LogFilter {
        let from = std::mem::replace(&mut state.current, to.clone());
        state.changes += 1;
        let tell = || tracing::warn!("The log level changes from {from} to {to}");
        let told = from.parsed().max_level_hint().is_none_or(|level| level >= LevelFilter::WARN);
        if told {
            tell();
        }
        (self.turn)(to);
        if !told {
            tell();
        }
        from
    }
}

/// The filter, and what changes it.
pub(super) fn filter<S>(configured: &LogFilter) -> (reload::Layer<EventsOnly, S>, Dial)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (filter, handle) = reload::Layer::new(EventsOnly(configured.parsed()));
    let turn = move |filter: &LogFilter| {
        // Fails only if the subscriber is gone: then nothing is logged.
        let _ = handle.reload(EventsOnly(filter.parsed()));
    };
    let (configured, current) = (configured.clone(), configured.clone());
    let state = Mutex::new(State { configured, current, changes: 0 });
    (filter, Dial { turn: Box::new(turn), state })
}

/// Decides on events, and lets all spans through that say whose events they are.
pub(super) struct EventsOnly(EnvFilter);

fn tells_whose(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target() == "flowgate" || metadata.target().starts_with("flowgate::");
    metadata.is_span() && ours && *metadata.level() <= Level::INFO
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for EventsOnly {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        tells_whose(metadata) || Filter::enabled(&self.0, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        let interest = Filter::<S>::callsite_enabled(&self.0, metadata);
        if tells_whose(metadata) { Interest::always() } else { interest }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let events = Filter::<S>::max_level_hint(&self.0)?;
        Some(events.max(LevelFilter::INFO))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::on_new_span(&self.0, attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Filter::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::on_close(&self.0, id, context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> LogFilter {
        text.parse().expect("a filter")
    }

    #[test]
    fn a_level_set_for_a_time_ends_unless_another_was_set_since() {
        let (_filter, dial) = filter::<tracing_subscriber::Registry>(&of("info"));
        let first = dial.set(Some(of("debug")));
        assert_eq!((&first.previous, &first.filter), (&of("info"), &of("debug")));
        let second = dial.set(Some(of("warn")));
        assert_eq!(second.previous, of("debug"));
        dial.end(&first);
        assert_eq!(dial.state().current, of("warn"), "another was set since");
        dial.end(&second);
        assert_eq!(dial.state().current, of("info"));
        dial.set(Some(of("trace")));
        assert_eq!(dial.set(None).filter, of("info"), "without one it is that configured");
    }

    /// Notes of each event the span that it is in.
    #[derive(Clone, Default)]
    struct Noting(std::sync::Arc<Mutex<Vec<Option<&'static str>>>>);

    impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Noting {
        fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
            let span = context.event_span(event).map(|span| span.name());
            self.0.lock().expect("nothing panics with it").push(span);
        }
    }

    #[test]
    fn a_span_is_seen_where_only_warnings_are_logged() {
        use tracing_subscriber::Layer as _;
        use tracing_subscriber::layer::SubscriberExt as _;

        let noting = Noting::default();
        let (filter, _dial) = filter(&of("warn"));
        let logs = noting.clone().with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(logs), || {
            let _entered = tracing::info_span!("attempt").entered();
            tracing::info!("not logged");
            tracing::warn!("logged");
        });
        assert_eq!(*noting.0.lock().expect("nothing panics with it"), [Some("attempt")]);
    }
}
