//! Times on the command line: a date, a date and time, or how long ago.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// Takes `2026-11-01`, `2026-11-01T08:00Z`, `2026-11-01T08:00:00+01:00` (without a zone: UTC) and ages such as `2h` or `3d`,
/// counted back from now.
///
/// # Errors
/// When it is none of these.
pub fn instant(text: &str) -> Result<Timestamp, String> {
    /// One now for the whole command line: `--since 1h --until 1h` is one time given twice.
    static NOW: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    at(text, *NOW)
}

fn at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(age) = humantime::parse_duration(text) {
        return before(now, age).ok_or_else(|| format!("{text:?} is too long ago"));
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp);
    }
    let in_utc = |time: DateTime| time.to_zoned_datetime(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let date = || text.parse::<Date>().ok().filter(|_| !text.contains(':'));
    let time = date().map(|date| date.at(0, 0, 0, 0)).or_else(|| text.parse::<DateTime>().ok());
    time.and_then(in_utc)
        .ok_or_else(|| format!("{text:?} is no time: 2026-11-01, 2026-11-01T08:00Z, or how long ago, such as 2h or 3d"))
}

fn before(now: Timestamp, age: Duration) -> Option<Timestamp> {
    now.checked_sub(jiff::SignedDuration::try_from(age).ok()?).ok()
}

/// What Nat.app accepted before this may have been forgotten. Unix milliseconds.
pub fn horizon(retention: Duration, now: Timestamp) -> i64 {
    let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    now.as_millisecond().saturating_sub(retention)
}

/// Of a command that is to begin behind the horizon: ten minutes later, or the horizon had moved on before it was typed.
pub fn well_behind(horizon: i64) -> String {
    shown(horizon.saturating_add(600_000))
}

/// As tables and remarks show a time: UTC, to the second.
pub fn shown(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map_or_else(|_| "-".to_owned(), |time| format!("{time:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_the_same_time_wherever_it_stands_in_a_command_line() {
        assert_eq!(instant("1h"), instant("60m"));
    }

    #[test]
    fn dates_times_and_ages_are_times_and_nothing_else_is() {
        let now: Timestamp = "2026-11-26T12:00:00Z".parse().expect("a time");
        for (text, expected) in [
            ("2026-11-01", "2026-11-01T00:00:00Z"),
            ("2026-11-01T08:00Z", "2026-11-01T08:00:00Z"),
            ("2026-11-01T08:00:30+01:00", "2026-11-01T07:00:30Z"),
            ("2026-11-01T08:00", "2026-11-01T08:00:00Z"),
            ("2026-11-01 08:00:01", "2026-11-01T08:00:01Z"),
            ("2h", "2026-11-26T10:00:00Z"),
            ("3d", "2026-11-23T12:00:00Z"),
        ] {
            assert_eq!(at(text, now).map(|time| time.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "yesterday", "2026-13-01", "08:00", "2026-11", "999999999999y"] {
            assert!(at(text, now).is_err(), "{text}");
        }
    }
}
