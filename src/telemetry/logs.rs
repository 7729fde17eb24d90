//! Logs on stderr: which events, and how they look.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

/// What is logged, and how.
#[derive(Debug, Clone, Default)]
pub struct LogSettings {
    /// Where not set, text for a terminal and JSON for everything else.
    pub format: Option<LogFormat>,
    /// What is logged.
    pub filter: LogFilter,
}

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Which events are logged; well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl Default for LogFilter {
    fn default() -> Self {
        Self::of_level(Level::INFO)
    }
}

impl LogFilter {
    /// Of the crates below Flowgate only trouble is logged.
    fn of_level(level: Level) -> Self {
        let below = level.min(Level::WARN);
        Self(format!("{below},flowgate={level},tower_http={level}"))
    }
}

impl FromStr for LogFilter {
    type Err = String;

    /// Takes a level, or directives as in `RUST_LOG`.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "must be error, warn, info, debug, trace or a filter as in RUST_LOG, not {text:?}"
            )
        };
        if let Ok(level) = text.parse() {
            return Ok(Self::of_level(level));
        }
        // A single word that is no level would pass as the name of a crate and log nothing.
        let directives = text.contains(['=', ',']) || text.parse::<LevelFilter>().is_ok();
        match EnvFilter::builder().parse(text) {
            Ok(_) if directives => Ok(Self(text.to_owned())),
            Ok(_) | Err(_) => Err(invalid()),
        }
    }
}

/// The layer that writes them.
pub(super) fn layer<S>(settings: &LogSettings) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let terminal = std::io::stderr().is_terminal();
    let default = if terminal { LogFormat::Text } else { LogFormat::Json };
    let filter = EnvFilter::builder().parse_lossy(&settings.filter.0);
    // Complaining about a closed stderr on that same stderr would panic.
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    match settings.format.unwrap_or(default) {
        LogFormat::Text => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            layer.with_ansi(terminal && !no_color).with_filter(filter).boxed()
        }
        LogFormat::Json => {
            layer.json().flatten_event(true).with_span_list(false).with_filter(filter).boxed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_as_a_log_filter() {
        assert!("verbose".parse::<LogFilter>().is_err());
        assert!("a=b=c".parse::<LogFilter>().is_err());
        assert!("debug".parse::<LogFilter>().is_ok());
        assert!("off".parse::<LogFilter>().is_ok());
        assert!("warn,flowgate=trace".parse::<LogFilter>().is_ok());
    }
}
