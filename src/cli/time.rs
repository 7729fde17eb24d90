//! Times and durations as people write and read them.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

/// Reads an RFC 3339 time, or a duration from now such as `+10s` or `-1h`.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    parse_time_from(text, now())
}

fn parse_time_from(text: &str, now: SystemTime) -> Result<Timestamp, String> {
    let time = if let Some(ahead) = text.strip_prefix('+') {
        now.checked_add(humantime::parse_duration(ahead).map_err(|error| error.to_string())?)
    } else if let Some(back) = text.strip_prefix('-') {
        now.checked_sub(humantime::parse_duration(back).map_err(|error| error.to_string())?)
    } else {
        let time = humantime::parse_rfc3339_weak(text);
        Some(time.map_err(|_| {
            "must be a UTC time such as 2026-01-31T08:00:00Z, or from now such as +10s".to_owned()
        })?)
    };
    time.map(Timestamp::from).ok_or_else(|| "is out of range".to_owned())
}

/// Reads a duration such as `30s` or `1h 5m`.
pub(super) fn parse_duration(text: &str) -> Result<prost_types::Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    prost_types::Duration::try_from(duration).map_err(|_| "is out of range".to_owned())
}

/// The machine's time.
#[expect(clippy::disallowed_methods, reason = "a client has no Clock to share with the server")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// A time for people, to the second.
pub(super) fn show_time(time: &Timestamp) -> String {
    Timestamp { seconds: time.seconds, nanos: 0 }.to_string()
}

/// A duration for people, as exactly as they care.
pub(super) fn show_duration(duration: &prost_types::Duration) -> String {
    match Duration::try_from(*duration) {
        Ok(duration) => show_std_duration(duration),
        Err(_) => duration.to_string(),
    }
}

/// Between two times for people; absent if one is.
pub(super) fn show_between(start: Option<&Timestamp>, end: Option<&Timestamp>) -> Option<String> {
    let start = SystemTime::try_from(*start?).ok()?;
    let end = SystemTime::try_from(*end?).ok()?;
    Some(show_std_duration(end.duration_since(start).unwrap_or_default()))
}

fn show_std_duration(duration: Duration) -> String {
    // What is small beside the whole is noise.
    let unit = match duration.as_millis() {
        0..10 => Duration::from_micros(1),
        10..10_000 => Duration::from_millis(1),
        _ => Duration::from_secs(1),
    };
    let noise = duration.as_nanos() % unit.as_nanos();
    let shown = duration - Duration::from_nanos(u64::try_from(noise).unwrap_or(0));
    humantime::format_duration(shown).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_time_is_absolute_or_counted_from_now() {
        let read = |text| parse_time_from(text, NOW + Duration::from_secs(100)).unwrap().seconds;
        assert_eq!(read("1970-01-01T00:00:07Z"), 7);
        assert_eq!(read("1970-01-01 00:00:07"), 7);
        assert_eq!(read("+10s"), 110);
        assert_eq!(read("+1m 30s"), 190);
        assert_eq!(read("-1m"), 40);
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        for text in ["tomorrow", "+", "+soon", "10s", "+99999999999999999999s"] {
            assert!(parse_time_from(text, NOW).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(parse_duration("1h 5m").unwrap().seconds, 3_900);
        assert_eq!(parse_duration("250ms").unwrap().nanos, 250_000_000);
        assert!(parse_duration("30").is_err());
    }

    #[test]
    fn long_durations_are_shown_without_their_fraction() {
        assert_eq!(show_std_duration(Duration::from_millis(1_234)), "1s 234ms");
        assert_eq!(show_std_duration(Duration::from_millis(61_234)), "1m 1s");
        assert_eq!(show_std_duration(Duration::from_nanos(1_234_567)), "1ms 234us");
    }
}
