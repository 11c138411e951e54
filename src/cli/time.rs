//! Times on the command line: a date, a date and time, or how long ago.

use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use regex_lite::Regex;

/// What jiff reads of a text is not always all of it: it drops a time that it cannot read, and a zone's name.
static WHOLE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let whole = r"^\d{4}-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)?)?$";
    Regex::new(whole).ok()
});

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
    let in_utc = |time: DateTime| time.to_zoned_datetime(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    // A date alone is its midnight.
    let time = || text.parse::<Timestamp>().ok().or_else(|| text.parse::<DateTime>().ok().and_then(in_utc));
    Some(text).filter(|text| is_whole(text)).and_then(|_| time()).ok_or_else(|| {
        format!(
            "{text:?} is no time: 2026-11-01, 2026-11-01T08:00Z, 2026-11-01T08:00+01:00, or how long ago, such as 2h or 3d"
        )
    })
}

/// Takes `2026-11-01` and nothing behind it.
///
/// # Errors
/// When it is no date.
pub fn day(text: &str) -> Result<Date, String> {
    let date = text.parse::<Date>().ok().filter(|date| date.to_string() == text);
    date.ok_or_else(|| format!("{text:?} is no day: 2026-11-01, without a time"))
}

fn is_whole(text: &str) -> bool {
    WHOLE.as_ref().is_some_and(|whole| whole.is_match(text))
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

/// As tables and remarks show a time: UTC, to the second. A record that has none tells -1.
pub fn shown(millis: i64) -> String {
    let time = Timestamp::from_millisecond(millis).ok().filter(|_| millis >= 0);
    time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"))
}

/// As JSON has a time: UTC, to the millisecond. `None`: there is none.
pub fn rfc3339(millis: i64) -> Option<String> {
    Timestamp::from_millisecond(millis).ok().filter(|_| millis >= 0).map(|time| format!("{time:.3}"))
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
            ("2026-11-01 08:00+0100", "2026-11-01T07:00:00Z"),
            ("2026-11-01t08:00:00.5z", "2026-11-01T08:00:00.5Z"),
            ("2026-11-01T23:00-05", "2026-11-02T04:00:00Z"),
            ("2h", "2026-11-26T10:00:00Z"),
            ("3d", "2026-11-23T12:00:00Z"),
        ] {
            assert_eq!(at(text, now).map(|time| time.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2026-13-01",
            "08:00",
            "2026-11",
            "999999999999y",
            "2026-11-01T08",
            "2026-11-01T0830",
            "2026-11-01 08",
            "20261101T083000",
            "2026-11-01T08:00[Europe/Zurich]",
            "2026-11-01T08:00Z[Europe/Zurich]",
            "2026-11-01T24:00",
            "2026-11-01T08:60",
            "2026-11-01T08:00+99:00",
            "2026-11-01Z",
            "2026-11-01T",
            "2026-11-01 ",
            "2026-11-01T08:00:00Z x",
            "2026-11-01T08:00 +01:00",
            "2026-02-30",
            "2026-11-01T08:00:00.0000000001Z",
        ] {
            assert!(at(text, now).is_err(), "{text}: {:?}", at(text, now));
        }
    }

    #[test]
    fn a_day_is_a_date_and_nothing_behind_it() {
        assert_eq!(day("2026-11-24").map(|day| day.to_string()), Ok("2026-11-24".to_owned()));
        for text in ["2026-11-24T23:00-05:00", "2026-11-24T", "2026-11-24 ", "20261124", "2026-11-31", "1d", ""] {
            assert!(day(text).is_err(), "{text}");
        }
    }
}
