//! When an event happened: the times that real events hold, and the end of what is believable.
//!
//! Understood are calendar ISO-8601 (`2020-05-31T17:55:47.263Z`; `t` or a space for `T`; seconds, fraction and
//! zone may be missing; a date alone is its midnight; no zone means UTC) and epoch times, in seconds below 1e11
//! in absolute value, else in milliseconds, as numbers or as text of 10 or 13 digits. Everything else is
//! invalid: a guess would put a visit on the wrong day. A leap second (`:60`) is taken as the second before it,
//! the same day.

use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::{Invalid, Rules, json};

/// The instant that a raw member says, or `None` when it is missing (null, blank) and the next field may decide.
pub(super) fn parse(raw: &str) -> Option<Result<Timestamp, Invalid>> {
    let parsed = match raw.as_bytes().first()? {
        b'"' => {
            let text = json::non_blank_text(Some(raw))?;
            parse_text(&text)
        }
        b'-' | b'0'..=b'9' => from_epoch(raw),
        b'n' => return None,
        _ => Err(Invalid::InvalidTimestamp),
    };
    Some(parsed)
}

/// Refuses an instant that no event of this time can have.
pub(super) fn within_range(rules: &Rules, instant: Timestamp, now: Timestamp) -> Result<Timestamp, Invalid> {
    let newest = now.checked_add(rules.max_ahead).unwrap_or(Timestamp::MAX);
    if instant < rules.oldest || instant > newest {
        return Err(Invalid::TimestampOutOfRange);
    }
    Ok(instant)
}

/// An epoch time in seconds or milliseconds. Microseconds are the finest that a JSON number can carry today.
fn from_epoch(number: &str) -> Result<Timestamp, Invalid> {
    const SMALLEST_MILLISECONDS: f64 = 1e11;
    let number: f64 = number.parse().map_err(|_| Invalid::InvalidTimestamp)?;
    let micros_per_unit = if number.abs() < SMALLEST_MILLISECONDS { 1e6 } else { 1e3 };
    // The cast saturates, and the ends of i64 are far outside of what a timestamp can be.
    Timestamp::from_microsecond((number * micros_per_unit).round() as i64).map_err(|_| Invalid::TimestampOutOfRange)
}

fn parse_text(text: &str) -> Result<Timestamp, Invalid> {
    let is_epoch = matches!(text.len(), 10 | 13) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_epoch {
        return from_epoch(text);
    }
    let mut parser = Parser { rest: text.as_bytes() };
    let calendar = parser.calendar().ok_or(Invalid::InvalidTimestamp)?;
    calendar.to_instant()
}

/// A date, a time of day and a distance from UTC, each valid by itself.
struct Calendar {
    date: Date,
    time: Time,
    offset_seconds: i64,
}

impl Calendar {
    fn to_instant(&self) -> Result<Timestamp, Invalid> {
        // By subtraction: an Offset of jiff is allowed to be wider than a day.
        Offset::UTC
            .to_timestamp(self.date.to_datetime(self.time))
            .and_then(|local| local.checked_sub(SignedDuration::from_secs(self.offset_seconds)))
            .map_err(|_| Invalid::TimestampOutOfRange)
    }
}

/// Reads from the front of `rest`; `None` anywhere means that the text is no timestamp.
struct Parser<'a> {
    rest: &'a [u8],
}

impl Parser<'_> {
    fn calendar(&mut self) -> Option<Calendar> {
        let date = self.date()?;
        let (time, offset_seconds) = match self.one_of(b"Tt ") {
            Some(_) => (self.time()?, self.offset()?),
            None => (Time::midnight(), 0),
        };
        self.rest.is_empty().then_some(Calendar { date, time, offset_seconds })
    }

    fn date(&mut self) -> Option<Date> {
        let year = self.digits(4)?;
        self.one_of(b"-")?;
        let month = self.digits(2)?;
        self.one_of(b"-")?;
        let day = self.digits(2)?;
        Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
    }

    fn time(&mut self) -> Option<Time> {
        let hour = self.digits(2)?;
        self.one_of(b":")?;
        let minute = self.digits(2)?;
        let (mut second, mut nanosecond) = (0, 0);
        if self.one_of(b":").is_some() {
            second = self.digits(2)?;
            if self.one_of(b".,").is_some() {
                nanosecond = self.fraction()?;
            }
        }
        if second == 60 {
            second = 59;
        }
        Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, i8::try_from(second).ok()?, nanosecond).ok()
    }

    /// One digit or more, of which nine count.
    fn fraction(&mut self) -> Option<i32> {
        let mut nanosecond = 0;
        let mut place = 100_000_000;
        let mut digit = self.digit()?;
        loop {
            nanosecond += place * i32::from(digit);
            place /= 10;
            match self.digit() {
                Some(next) => digit = next,
                None => return Some(nanosecond),
            }
        }
    }

    /// Z, ±hh, ±hhmm or ±hh:mm in seconds east of UTC; zero when nothing follows.
    fn offset(&mut self) -> Option<i64> {
        if self.rest.is_empty() || self.one_of(b"Zz").is_some() {
            return Some(0);
        }
        let sign = if self.one_of(b"+-")? == b'-' { -1 } else { 1 };
        let hours = self.digits(2)?;
        let has_minutes = self.one_of(b":").is_some() || !self.rest.is_empty();
        let minutes = if has_minutes { self.digits(2)? } else { 0 };
        let is_valid = hours <= 23 && minutes <= 59;
        is_valid.then(|| sign * i64::from(hours * 3600 + minutes * 60))
    }

    fn digits(&mut self, count: usize) -> Option<u32> {
        (0..count).try_fold(0, |number, _| Some(number * 10 + u32::from(self.digit()?)))
    }

    fn digit(&mut self) -> Option<u8> {
        Some(self.one_of(b"0123456789")? - b'0')
    }

    fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        if !allowed.contains(&first) {
            return None;
        }
        self.rest = rest;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn shown(raw: &str) -> String {
        match parse(raw) {
            None => "missing".to_owned(),
            Some(Ok(instant)) => instant.to_string(),
            Some(Err(reason)) => reason.as_str().to_owned(),
        }
    }

    #[test]
    fn the_calendar_forms_seen_in_real_events_are_understood() {
        for (text, instant) in [
            ("2020-05-31T17:55:47.263Z", "2020-05-31T17:55:47.263Z"),
            ("2020-05-31t17:55:47.263z", "2020-05-31T17:55:47.263Z"),
            ("2020-05-31T17:55:47,263Z", "2020-05-31T17:55:47.263Z"),
            ("2020-05-31 17:55:47", "2020-05-31T17:55:47Z"),
            ("2020-05-31T17:55", "2020-05-31T17:55:00Z"),
            ("2020-05-31T17:55+05:30", "2020-05-31T12:25:00Z"),
            ("2020-05-31", "2020-05-31T00:00:00Z"),
            ("2020-05-31T23:30:00-0400", "2020-06-01T03:30:00Z"),
            ("2020-05-31T23:30:00-04", "2020-06-01T03:30:00Z"),
            ("2020-05-31T00:00:00+23:59", "2020-05-30T00:01:00Z"),
            ("2020-05-31T17:55:47.1234567Z", "2020-05-31T17:55:47.1234567Z"),
            ("2020-05-31T17:55:47.1234567899Z", "2020-05-31T17:55:47.123456789Z"),
            ("2016-12-31T23:59:60.5Z", "2016-12-31T23:59:59.5Z"),
            ("2020-05-31T17:55:47-00:00", "2020-05-31T17:55:47Z"),
        ] {
            assert_eq!(shown(&format!("\"{text}\"")), instant, "{text}");
        }
        assert_eq!(shown(r#""2020\u002d05-31""#), "2020-05-31T00:00:00Z");
    }

    #[test]
    fn epoch_times_are_seconds_or_milliseconds() {
        for (raw, instant) in [
            ("1590947747", "2020-05-31T17:55:47Z"),
            ("1590947747.264", "2020-05-31T17:55:47.264Z"),
            ("1.590947747E9", "2020-05-31T17:55:47Z"),
            ("1590947747263", "2020-05-31T17:55:47.263Z"),
            ("1590947747263.5", "2020-05-31T17:55:47.2635Z"),
            ("\"1590947747\"", "2020-05-31T17:55:47Z"),
            ("\"1590947747263\"", "2020-05-31T17:55:47.263Z"),
            ("-1", "1969-12-31T23:59:59Z"),
            ("99999999999", "5138-11-16T09:46:39Z"),
            ("100000000000", "1973-03-03T09:46:40Z"),
            ("0", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(shown(raw), instant, "{raw}");
        }
    }

    #[test]
    fn numbers_too_big_for_a_time_are_out_of_range() {
        for raw in ["1590947747263000", "-1e300", "1e400", "123456789012345678901234567890"] {
            assert_eq!(shown(raw), "timestamp_out_of_range", "{raw}");
        }
        assert_eq!(shown("\"9999-12-31T23:59:59-12:00\""), "timestamp_out_of_range");
    }

    #[test]
    fn null_and_blank_are_missing() {
        for raw in ["null", "\"\"", "\" \\t\""] {
            assert_eq!(shown(raw), "missing", "{raw}");
        }
    }

    #[test]
    fn everything_else_is_invalid() {
        for text in [
            "NOW",
            "2020-05",
            "2020-05-31T",
            "2020-05-31T17",
            "2020-05-31T17:5",
            "2020-05-31T17:55:",
            "2020-05-31T17:55:47.",
            "2020-05-31T17:55.5Z",
            "2020-05-31T17:55:47ZZ",
            "2020-05-31T17:55:47+",
            "2020-05-31T17:55:47+5",
            "2020-05-31T17:55:47+05:3",
            "2020-05-31T17:55:47+05:",
            "2020-05-31T17:55:47+24:00",
            "2020-05-31T17:55:47+05:60",
            "2020-05-31T17:55:47 +0000",
            "2020-05-31T24:00:00Z",
            "2020-05-31T17:60:00Z",
            "2020-05-31T17:55:61Z",
            "2020-05-31Z",
            "2020-02-30T00:00:00Z",
            "2019-02-29",
            "2020-13-01",
            "2015-2-02T00:30:08.276Z",
            "2023-11-22T10:12:44.75705:30",
            "5/31/2020",
            "Sun May 31 2020 17:55:47 GMT+0000",
            "20200531T175547Z",
            "+002020-05-31",
            "159094774",
            "15909477470",
            "1590947747.2",
            " 2020-05-31",
            "２０２０-05-31",
        ] {
            assert_eq!(shown(&format!("\"{text}\"")), "invalid_timestamp", "{text}");
        }
        for raw in ["true", "false", "{}", "[1590947747]"] {
            assert_eq!(shown(raw), "invalid_timestamp", "{raw}");
        }
    }

    #[test]
    fn both_ends_of_the_range_are_inside() {
        let rules = Rules::default();
        let now: Timestamp = "2020-05-31T12:00:00Z".parse().unwrap();
        let newest: Timestamp = "2020-06-01T12:00:00Z".parse().unwrap();
        let tick = SignedDuration::from_nanos(1);
        for (instant, is_inside) in
            [(rules.oldest, true), (rules.oldest - tick, false), (newest, true), (newest + tick, false)]
        {
            assert_eq!(within_range(&rules, instant, now).is_ok(), is_inside, "{instant}");
        }
        // A clock at the end of time overflows nothing.
        assert!(within_range(&rules, Timestamp::MAX, Timestamp::MAX).is_ok());
    }

    proptest! {
        #[test]
        fn what_jiff_writes_is_read_back(
            nanos in -62_000_000_000_000_000_000_i128..250_000_000_000_000_000_000,
            minutes in -1439_i32..=1439,
            form in 0..4_usize,
        ) {
            let instant = Timestamp::from_nanosecond(nanos).unwrap();
            let zone = TimeZone::fixed(Offset::from_seconds(minutes * 60).unwrap());
            let local = instant.to_zoned_datetime(zone);
            prop_assume!(local.year() >= 0);
            let (format, unit) = [
                ("%Y-%m-%dT%H:%M:%S%.9f%:z", 1),
                ("%Y-%m-%d %H:%M:%S,%6f%z", 1_000),
                ("%Y-%m-%dt%H:%M:%S%:z", 1_000_000_000),
                ("%Y-%m-%dT%H:%M%z", 60_000_000_000),
            ][form];
            let expected = nanos.div_euclid(unit) * unit;
            let text = local.strftime(format).to_string();
            let parsed = parse(&format!("\"{text}\"")).unwrap();
            prop_assert_eq!(parsed.map(Timestamp::as_nanosecond), Ok(expected), "{}", text);
        }

        #[test]
        fn no_text_panics(text in "[-+0-9T:. Zz,]{0,40}") {
            parse(&format!("\"{text}\""));
        }
    }
}
