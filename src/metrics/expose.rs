//! The instruments as text, in the two formats that Prometheus reads.
//!
//! The library writes OpenMetrics. The older text format differs in how counters are declared, and has
//! neither units, exemplars nor an end.

use std::fmt::Write;

use prometheus_client::encoding::text;

use super::Instruments;

/// How the instruments are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, with exemplars.
    OpenMetrics,
    /// Prometheus' text format, 0.0.4.
    Text,
}

impl Format {
    /// The one that an `Accept` header asks for; the older where it asks for neither.
    pub fn accepted(accept: &str) -> Self {
        let wanted = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next()? {
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" | "text/*" | "*/*" => Self::Text,
                _ => return None,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")).unwrap_or("1");
            Some((weight.parse::<f32>().ok().filter(|weight| *weight > 0.0)?, format))
        });
        // Of equals the first.
        let best = wanted.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or(Self::Text, |(_, format)| format)
    }

    /// Its content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Instruments {
    /// All of them, as they stand.
    pub fn expose(&self, format: Format) -> String {
        let mut text = String::with_capacity(64 * 1_024);
        // A string takes all that is written.
        let _ = text::encode(&mut text, &self.registry);
        match format {
            Format::OpenMetrics => text,
            Format::Text => older(&text),
        }
    }
}

/// OpenMetrics in the older format.
fn older(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Help comes before the type, by which the name is known.
    let mut help = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), said) => {
                help = Some((name, said.unwrap_or_default()));
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let total = if kind == "counter" { "_total" } else { "" };
                if let Some((_, said)) = help.take().filter(|(of, _)| *of == name) {
                    let _ = writeln!(out, "# HELP {name}{total} {said}");
                }
                let kind = if kind == "unknown" { "untyped" } else { kind };
                let _ = writeln!(out, "# TYPE {name}{total} {kind}");
            }
            (Some("#"), _, _, _) => {}
            _ => {
                let value = line.split_once(" # {").map_or(line, |(value, _)| value);
                let _ = writeln!(out, "{value}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(
            Format::accepted("application/openmetrics-text; version=0.0.1,text/plain;q=0.5"),
            Format::OpenMetrics
        );
        for older in [
            "",
            "*/*",
            "text/plain",
            "text/html",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.3,text/plain;q=0.4",
        ] {
            assert_eq!(Format::accepted(older), Format::Text, "{older}");
        }
    }

    #[test]
    fn the_older_format_names_counters_in_full_and_has_no_exemplars() {
        let new = "# HELP a_b Said so.\n# TYPE a_b counter\n# UNIT a_b seconds\n\
                   a_b_total{x=\"1\"} 3 # {trace_id=\"7\"} 1.0\n# EOF\n";
        let old = "# HELP a_b_total Said so.\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 3\n";
        assert_eq!(older(new), old);
    }
}
