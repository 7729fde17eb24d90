//! Logs on stderr: which events, and what they look like.

use std::fmt::{self, Display, Formatter};
use std::io::IsTerminal;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::level::{self, Dial};
use super::line::{Lines, Style};
use super::stderr::Stderr;

/// The longest filter: more than anyone writes.
const MAX_FILTER_BYTES: usize = 1_024;

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
pub struct LogFilter {
    given: String,
    directives: String,
}

impl Default for LogFilter {
    fn default() -> Self {
        Self::of_level(Level::INFO)
    }
}

impl LogFilter {
    /// Of the crates below Flowgate only trouble is logged.
    fn of_level(level: Level) -> Self {
        let below = level.min(Level::WARN);
        let directives = format!("{below},flowgate={level},tower_http={level}");
        Self { given: level.as_str().to_ascii_lowercase(), directives }
    }

    pub(super) fn parsed(&self) -> EnvFilter {
        EnvFilter::builder().parse_lossy(&self.directives)
    }
}

/// As it was given.
impl Display for LogFilter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.given)
    }
}

impl FromStr for LogFilter {
    type Err = String;

    /// Takes a level, or directives as in `RUST_LOG`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_FILTER_BYTES {
            return Err(format!("must be at most {MAX_FILTER_BYTES} bytes long"));
        }
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
            Ok(_) if directives => Ok(Self { given: text.to_owned(), directives: text.to_owned() }),
            Ok(_) | Err(_) => Err(invalid()),
        }
    }
}

/// The layer that writes them, and what turns it up and down.
pub(super) fn layer<S>(
    settings: &LogSettings,
    stderr: Stderr,
) -> (Box<dyn Layer<S> + Send + Sync>, Dial)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let terminal = std::io::stderr().is_terminal();
    let default = if terminal { LogFormat::Text } else { LogFormat::Json };
    let style = match settings.format.unwrap_or(default) {
        LogFormat::Json => Style::Json,
        LogFormat::Text => {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            if terminal && !no_color { Style::Colored } else { Style::Plain }
        }
    };
    let (filter, dial) = level::filter(&settings.filter);
    (Lines::new(style, stderr).with_filter(filter).boxed(), dial)
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
        assert!("flowgate=info,".repeat(100).parse::<LogFilter>().is_err());
    }

    #[test]
    fn a_filter_is_told_as_it_was_given() {
        for given in ["debug", "warn,flowgate=trace", "off"] {
            assert_eq!(given.parse::<LogFilter>().map(|it| it.to_string()), Ok(given.to_owned()));
        }
        assert_eq!(LogFilter::default().to_string(), "info");
    }
}
