//! Single values: names, texts, times and durations, in and out.
//!
//! Times keep microseconds, as the store does. A duration that is finer is rounded up, so that one
//! above zero stays above zero.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use crate::domain::Timestamp;

/// The longest timeout or backoff.
const MAX_SPAN: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The years 1 to 9999, which is what `google.protobuf.Timestamp` allows, in seconds.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
const MAX_NANOS: i32 = 999_999_999;
const MAX_REASON_CHARS: usize = 256;
const MAX_REQUEST_ID_CHARS: usize = 128;

/// A name or id that must be given.
pub(crate) fn required<T>(text: &str) -> Result<T, String>
where
    T: FromStr<Err: Display>,
{
    if text.is_empty() {
        return Err("is required".to_owned());
    }
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// An idempotency key; `None` if it is empty.
pub(crate) fn request_id(text: String) -> Result<Option<String>, &'static str> {
    if text.chars().nth(MAX_REQUEST_ID_CHARS).is_some() {
        return Err("must have at most 128 characters");
    }
    if !text.chars().all(|char| char == ' ' || !(char.is_control() || char.is_whitespace())) {
        return Err("must consist of printable characters");
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The reason an operator or client gives.
pub(crate) fn reason(text: String) -> Result<String, &'static str> {
    if text.chars().nth(MAX_REASON_CHARS).is_some() {
        return Err("must have at most 256 characters");
    }
    // PostgreSQL cannot store it.
    if text.contains('\0') {
        return Err("must not hold a NUL character");
    }
    Ok(text)
}

/// A point in time.
pub(crate) fn timestamp(given: prost_types::Timestamp) -> Result<Timestamp, &'static str> {
    if !(0..=MAX_NANOS).contains(&given.nanos) {
        return Err("must have nanos between 0 and 999,999,999");
    }
    if !TIMESTAMP_SECONDS.contains(&given.seconds) {
        return Err("must lie in the years 1 to 9999");
    }
    Ok(Timestamp::from_micros(given.seconds * 1_000_000 + i64::from(given.nanos / 1_000)))
}

/// A duration of at least zero.
pub(crate) fn duration(given: prost_types::Duration) -> Result<Duration, &'static str> {
    const NEGATIVE: &str = "must not be negative";
    let seconds = u64::try_from(given.seconds).map_err(|_| NEGATIVE)?;
    let nanos = u32::try_from(given.nanos).map_err(|_| NEGATIVE)?;
    if given.nanos > MAX_NANOS {
        return Err("must have nanos below 1,000,000,000");
    }
    Duration::from_secs(seconds)
        .checked_add(Duration::from_micros(u64::from(nanos).div_ceil(1_000)))
        .ok_or("must be at most 365 days")
}

/// How long something may take: more than nothing, at most 365 days.
pub(crate) fn timeout(given: prost_types::Duration) -> Result<Duration, &'static str> {
    match backoff(given)? {
        Duration::ZERO => Err("must be more than 0"),
        timeout => Ok(timeout),
    }
}

/// How long to wait: at least nothing, at most 365 days.
pub(crate) fn backoff(given: prost_types::Duration) -> Result<Duration, &'static str> {
    let backoff = duration(given)?;
    if backoff > MAX_SPAN { Err("must be at most 365 days") } else { Ok(backoff) }
}

/// A point in time, as clients read it.
pub(crate) fn to_timestamp(time: Timestamp) -> prost_types::Timestamp {
    let micros = time.as_micros();
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1_000);
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: nanos.expect("less than a second in nanoseconds fits 32 bits"),
    }
}

/// A duration, as clients read it.
pub(crate) fn to_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: to_i64(duration.as_secs()),
        nanos: i32::try_from(duration.subsec_nanos())
            .expect("less than a second in nanoseconds fits 32 bits"),
    }
}

/// A count, as clients read it.
pub(crate) fn to_i64(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// A small count, as clients read it.
pub(crate) fn to_i32(count: impl TryInto<i32>) -> i32 {
    count.try_into().unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ProviderName;

    fn span(seconds: i64, nanos: i32) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos }
    }

    fn at(seconds: i64, nanos: i32) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos }
    }

    #[test]
    fn a_time_survives_the_way_in_and_out_to_the_microsecond() {
        for given in [at(0, 0), at(1_700_000_000, 123_456_000), at(-1, 999_999_000)] {
            assert_eq!(timestamp(given).map(to_timestamp), Ok(given));
        }
        assert_eq!(timestamp(at(1, 1_999)).map(Timestamp::as_micros), Ok(1_000_001));
    }

    #[test]
    fn a_time_outside_the_calendar_is_refused() {
        for given in [at(0, -1), at(0, 1_000_000_000), at(i64::MAX, 0), at(i64::MIN, 0)] {
            assert!(timestamp(given).is_err(), "{given:?}");
        }
        assert!(timestamp(at(253_402_300_799, 999_999_999)).is_ok());
        assert!(timestamp(at(253_402_300_800, 0)).is_err());
    }

    #[test]
    fn a_timeout_is_above_zero_and_at_most_a_year() {
        assert_eq!(timeout(span(0, 1)), Ok(Duration::from_micros(1)));
        assert_eq!(timeout(span(365 * 86_400, 0)), Ok(MAX_SPAN));
        for given in [
            span(0, 0),
            span(-1, 0),
            span(1, -1),
            span(0, i32::MAX),
            span(365 * 86_400, 1),
            span(i64::MAX, 999_999_999),
        ] {
            assert!(timeout(given).is_err(), "{given:?}");
        }
        assert_eq!(backoff(span(0, 0)), Ok(Duration::ZERO));
    }

    #[test]
    fn a_request_id_is_printable_and_at_most_128_characters() {
        assert_eq!(request_id(String::new()), Ok(None));
        assert_eq!(request_id("ä b".to_owned()), Ok(Some("ä b".to_owned())));
        assert!(request_id("ü".repeat(128)).is_ok());
        assert!(request_id("ü".repeat(129)).is_err());
        for odd in ["a\0", "a\nb", "a\u{2028}b", "\u{7f}"] {
            assert!(request_id(odd.to_owned()).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_reason_may_have_lines_but_not_more_than_256_characters() {
        assert!(reason("a\nb".to_owned()).is_ok());
        assert!(reason("ü".repeat(256)).is_ok());
        assert!(reason("ü".repeat(257)).is_err());
        assert!(reason("\0".to_owned()).is_err());
    }

    #[test]
    fn an_absent_name_is_told_from_a_malformed_one() {
        assert_eq!(required::<ProviderName>("").map_err(|error| error.len()), Err(11));
        assert!(required::<ProviderName>("Bad").is_err_and(|error| error.contains("[a-z]")));
        assert!(required::<ProviderName>("good-1").is_ok());
    }
}
