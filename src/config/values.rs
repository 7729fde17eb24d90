//! What single settings may hold. Each check says what is wrong as the end of a sentence that
//! begins with the key.

use std::time::Duration;

use crate::domain::WhenShort;
use crate::store::{Listen, StoreUrl};
use crate::telemetry::{LogFilter, LogFormat, TraceLevel};

/// The longest time any setting may name: 365 days, as for timeouts in the API.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[expect(clippy::needless_pass_by_value, reason = "checks take what was read")]
pub(super) fn store(text: String) -> Result<StoreUrl, String> {
    text.parse()
}

pub(super) fn listen(text: String) -> Result<Listen, String> {
    match text.split_once("://") {
        None if text == "off" => Ok(Listen::Never),
        Some(("postgres" | "postgresql", _)) => {
            text.parse::<StoreUrl>()?;
            Ok(Listen::At(text))
        }
        _ => Err("must have the form postgres://USER@HOST/DATABASE, or be off".to_owned()),
    }
}

pub(super) fn address(text: String) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(text),
        _ => Err(format!("must have the form HOST:PORT, not {text:?}")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "checks take what was read")]
pub(super) fn duration(text: String, least: Duration) -> Result<Duration, String> {
    let duration = humantime::parse_duration(&text)
        .map_err(|_| format!("must be a duration such as 30s or 500ms, not {text:?}"))?;
    if (least..=MAX_DURATION).contains(&duration) {
        Ok(duration)
    } else {
        let least = humantime::format_duration(least);
        Err(format!("must be between {least} and 365days, not {text}"))
    }
}

pub(super) fn within(number: i64, least: i64, most: i64) -> Result<i64, String> {
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("must be between {least} and {most}, not {number}"))
    }
}

/// How far ahead a point of priority puts an execution.
pub(super) fn head_start(text: String) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let head_start = duration(text, Duration::ZERO)?;
    if head_start <= LONGEST { Ok(head_start) } else { Err("must be at most 1day".to_owned()) }
}

/// A number that need not be whole; no bound holds what is none.
pub(super) fn factor(number: f64, least: f64, most: f64) -> Result<f64, String> {
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("must be between {least} and {most}, not {number}"))
    }
}

/// A number of attempts.
pub(super) fn count(number: i64) -> Result<u32, String> {
    let number = within(number, 1, 100_000)?;
    u32::try_from(number).map_err(|error| error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "checks take what was read")]
pub(super) fn when_short(text: String) -> Result<WhenShort, String> {
    match text.as_str() {
        "wait" => Ok(WhenShort::Wait),
        "fail" => Ok(WhenShort::Fail),
        _ => Err(format!("must be wait or fail, not {text:?}")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "checks take what was read")]
pub(super) fn log_format(text: String) -> Result<LogFormat, String> {
    match text.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("must be text or json, not {text:?}")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "checks take what was read")]
pub(super) fn trace_level(text: String) -> Result<TraceLevel, String> {
    match text.as_str() {
        "info" => Ok(TraceLevel::Info),
        "debug" => Ok(TraceLevel::Debug),
        _ => Err(format!("must be info or debug, not {text:?}")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "checks take what was read")]
pub(super) fn switch(text: String) -> Result<bool, String> {
    match text.as_str() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("must be on or off, not {text:?}")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "checks take what was read")]
pub(super) fn log_filter(text: String) -> Result<LogFilter, String> {
    text.parse()
}
