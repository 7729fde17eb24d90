//! A line of the log: an event, with what the spans around it say of whose it is.
//!
//! What must stay true: a line is one line, whatever is in it; the innermost says what holds; whoever logs neither
//! waits for stderr nor fails with it.

use std::borrow::Cow;
use std::fmt::{Debug, Write as _};
use std::sync::OnceLock;
use std::time::Instant;

use opentelemetry::trace::TraceContextExt;
use serde_json::Value;
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::quiet::{Kind, Quiet};
use super::stderr::Stderr;

/// The worker that this process is, once that is known.
static WORKER: OnceLock<String> = OnceLock::new();

/// The fields that come last, where people rarely look.
const IDS: [&str; 3] = ["trace_id", "span_id", "worker.id"];

/// Says which worker this process is, for every line from now on.
pub fn name_worker(id: &impl ToString) {
    // A process that serves two stores is named after the first.
    let _ = WORKER.set(id.to_string());
}

/// What lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Json,
    Plain,
    Colored,
}

/// Writes a line for each event.
pub(super) struct Lines {
    style: Style,
    stderr: Stderr,
    quiet: Quiet,
    dispatch: OnceLock<WeakDispatch>,
}

impl Lines {
    pub(super) fn new(style: Style, stderr: Stderr) -> Self {
        Self { style, stderr, quiet: Quiet::default(), dispatch: OnceLock::new() }
    }

    /// Where the event is in a trace, if it is in one: also if its innermost span is not logged.
    fn place(&self, event: &Event<'_>) -> Option<[(&'static str, Value); 2]> {
        let dispatch = self.dispatch.get()?.upgrade()?;
        let current = dispatch.current_span();
        let span = if event.is_contextual() { current.id() } else { event.parent() };
        let context = tracing_opentelemetry::get_otel_context(span?, &dispatch)?;
        let span = context.span();
        let place = span.span_context();
        let ids = [
            ("trace_id", Value::from(place.trace_id().to_string())),
            ("span_id", Value::from(place.span_id().to_string())),
        ];
        place.is_valid().then_some(ids)
    }

    fn write(&self, line: &Line) {
        let dropped = self.stderr.dropped();
        if dropped > 0 {
            let message =
                format!("{dropped} lines of the log were dropped: nobody read them in time");
            let mut fields = Fields::default();
            fields.put("dropped", dropped.into());
            self.stderr.write(self.text(&Line::new(
                Level::WARN,
                "flowgate::telemetry",
                message,
                fields,
            )));
        }
        self.stderr.write(self.text(line));
    }

    fn text(&self, line: &Line) -> String {
        let mut text = match self.style {
            Style::Json => line.json(),
            Style::Plain => line.text(false),
            Style::Colored => line.text(true),
        };
        text.push('\n');
        text
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // Of a layer that is in two subscribers, only the first can tell of traces.
        let _ = self.dispatch.set(dispatch.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        match Quiet::kind(metadata) {
            None => {}
            Some(Kind::Said) => return,
            Some(Kind::Trouble) => {
                let due = self.quiet.note(Instant::now(), metadata.name(), &fields);
                if let Some((message, fields)) = due {
                    self.write(&Line::new(Level::WARN, "flowgate::telemetry", message, fields));
                }
                return;
            }
        }
        let message = fields.take("message").map(|message| shown(&message).into_owned());
        // What comes from the older crate `log` says here where it comes from.
        let target = fields.take("log.target");
        let target = target.as_ref().and_then(Value::as_str).unwrap_or(metadata.target());
        let mut line = Line::new(*metadata.level(), target, message.unwrap_or_default(), fields);
        if let Some(ids) = self.place(event) {
            ids.into_iter().for_each(|(name, value)| line.fields.put(name, value));
        }
        // From the innermost outwards.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                line.fields.add(fields);
            }
        }
        if let Some(worker) = WORKER.get() {
            line.fields.add(&Fields(vec![("worker.id", worker.as_str().into())]));
        }
        self.write(&line);
    }
}

/// The fields of an event or a span, each once.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    /// Sets a field, whatever it was.
    pub(super) fn put(&mut self, name: &'static str, value: Value) {
        // How a span looks in a trace is nothing to a log, but for what it is called there.
        let name = if name == "otel.name" { "span.name" } else { name };
        if name.starts_with("otel.") {
            return;
        }
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    /// Adds those that are not there yet.
    fn add(&mut self, others: &Self) {
        for (name, value) in &others.0 {
            if self.get(name).is_none() {
                self.0.push((name, value.clone()));
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(at).1)
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }

    /// With all that caused it.
    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a text never fails.
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.put(field.name(), text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field.name(), format!("{value:?}").into());
    }
}

/// A line before it is written.
pub(super) struct Line {
    timestamp: String,
    level: Level,
    target: String,
    message: String,
    fields: Fields,
}

impl Line {
    fn new(level: Level, target: &str, message: String, mut fields: Fields) -> Self {
        // Where in a crate `log` was called is in no other line either.
        fields.0.retain(|(name, _)| !name.starts_with("log."));
        let mut timestamp = String::new();
        // Writing to a text never fails.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        Self { timestamp, level, target: target.to_owned(), message, fields }
    }

    fn json(&self) -> String {
        let Self { timestamp, level, target, message, .. } = self;
        let head = [
            ("timestamp", timestamp.as_str()),
            ("level", level.as_str()),
            ("target", target.as_str()),
            ("message", message.as_str()),
        ];
        let members = head.iter().map(|(name, text)| format!("\"{name}\":{}", Value::from(*text)));
        let fields = self.ordered().map(|(name, value)| {
            let is_taken = head.iter().any(|(known, _)| known == name);
            // The name of a field is that of a variable in this program, and needs no escape.
            format!("\"{}{name}\":{value}", if is_taken { "field." } else { "" })
        });
        let members: Vec<_> = members.chain(fields).collect();
        format!("{{{}}}", members.join(","))
    }

    fn text(&self, colored: bool) -> String {
        let Self { timestamp, level, target, message, .. } = self;
        let paint = |code: &str, text: &str| match colored {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        };
        let color = match *level {
            Level::ERROR => "31",
            Level::WARN => "33",
            Level::INFO => "32",
            Level::DEBUG => "34",
            Level::TRACE => "35",
        };
        let level = paint(color, &format!("{:>5}", level.as_str()));
        let (timestamp, target) = (paint("2", timestamp), paint("2", target));
        let mut text = format!("{timestamp} {level} {target}: {}", one_line(message));
        for (name, value) in self.ordered() {
            let field = format!("{name}={}", quoted(&shown(value)));
            let field = if IDS.contains(name) { paint("2", &field) } else { field };
            text.push(' ');
            text.push_str(&field);
        }
        text
    }

    /// The fields, ids last.
    fn ordered(&self) -> impl Iterator<Item = &(&'static str, Value)> {
        let fields = self.fields.0.iter().filter(|(name, _)| !IDS.contains(name));
        let of = |id| self.fields.0.iter().find(move |(name, _)| *name == id);
        fields.chain(IDS.into_iter().filter_map(of))
    }
}

/// A value for people: texts without quotes.
fn shown(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

/// A text that ends where it seems to end.
fn quoted(text: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// A text that neither begins another line nor paints the terminal.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str, fields: &[(&'static str, Value)]) -> Line {
        let fields = Fields(fields.to_vec());
        let line = Line::new(Level::INFO, "flowgate::test", message.to_owned(), fields);
        Line { timestamp: "2026-01-02T03:04:05.000006Z".to_owned(), ..line }
    }

    #[test]
    fn a_line_of_json_is_one_flat_object_with_its_ids_last() {
        let fields = [("worker.id", "w".into()), ("trace_id", "ab".into()), ("attempt", 3.into())];
        assert_eq!(
            line("it \"ended\"\nso", &fields).json(),
            r#"{"timestamp":"2026-01-02T03:04:05.000006Z","level":"INFO","target":"flowgate::test","message":"it \"ended\"\nso","attempt":3,"trace_id":"ab","worker.id":"w"}"#
        );
    }

    #[test]
    fn a_field_does_not_pass_for_what_the_line_says_itself() {
        let json = line("true", &[("level", "ERROR".into())]).json();
        let read: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!((&read["level"], &read["field.level"]), (&"INFO".into(), &"ERROR".into()));
    }

    #[test]
    fn a_line_of_text_stays_one_line_whatever_is_in_it() {
        let fields = [("trace_id", "ab".into()), ("reason", "a b\n\u{1b}[2J".into())];
        assert_eq!(
            line("first\nsecond", &fields).text(false),
            "2026-01-02T03:04:05.000006Z  INFO flowgate::test: first\\nsecond \
             reason=\"a b\\n\\u{1b}[2J\" trace_id=ab"
        );
    }

    #[test]
    fn the_innermost_says_what_holds() {
        let mut fields = Fields(vec![("provider", "inner".into())]);
        fields.add(&Fields(vec![("provider", "outer".into()), ("attempt", 1.into())]));
        assert_eq!(fields.get("provider"), Some(&"inner".into()));
        assert_eq!(fields.get("attempt"), Some(&1.into()));
    }

    #[test]
    fn of_how_a_span_looks_in_a_trace_a_line_tells_the_name() {
        let mut fields = Fields::default();
        fields.put("otel.name", "flowgate.v1.SystemService/GetStatus".into());
        fields.put("otel.kind", "server".into());
        assert_eq!(
            line("", &fields.0).json().rsplit_once(',').map(|(_, last)| last),
            Some(r#""span.name":"flowgate.v1.SystemService/GetStatus"}"#)
        );
    }
}
