//! Instants as producers write them: every accepted form of the same instant, or of its UTC day.

use fastrand::Rng;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// Offsets with their three writings.
const OFFSETS: [(i32, &str, &str); 5] = [
    (330, "+05:30", "+0530"),
    (120, "+02:00", "+0200"),
    (-240, "-04:00", "-0400"),
    (-570, "-09:30", "-0930"),
    (0, "+00:00", "+0000"),
];
const WHOLE_HOURS: [(i32, &str); 3] = [(60, "+01"), (-480, "-08"), (540, "+09")];

/// As the SDKs write it: `2020-05-31T17:55:47.263Z`.
pub(super) fn iso(instant: Timestamp) -> String {
    let (at, ms) = civil(instant, 0);
    format!("{}.{ms:03}Z", seconds(at, 'T'))
}

/// A JSON token. Most producers write what the SDKs write; the rest is the museum.
pub(super) fn written(instant: Timestamp, rng: &mut Rng) -> String {
    if rng.u32(..100) < 60 {
        return format!("\"{}\"", iso(instant));
    }
    let (at, ms) = civil(instant, 0);
    let epoch = instant.as_millisecond();
    match rng.u32(..16) {
        0 => format!("\"{}.{ms:03}000+00:00\"", seconds(at, 'T')),
        1 => format!("\"{}Z\"", seconds(at, 'T')),
        2 => format!("\"{}.{ms:03}000123Z\"", seconds(at, 'T')),
        3 => format!("\"{}.{ms:03}0000Z\"", seconds(at, 'T')),
        4 => format!("\"{}.{ms:03}\"", seconds(at, 'T')),
        5 => format!("\"{}\"", seconds(at, ' ')),
        6 => format!("\"{}Z\"", seconds(at, ' ')),
        7 => format!("\"{},{ms:03}Z\"", seconds(at, 'T')),
        8 => format!("\"{}Z\"", &seconds(at, 'T')[..16]),
        9 => format!("\"{}\"", &seconds(at, 'T')[..10]),
        10 => format!("{}", epoch.div_euclid(1000)),
        11 => format!("{epoch}"),
        12 => format!("\"{}\"", epoch.div_euclid(1000)),
        13 => format!("\"{epoch}\""),
        _ => elsewhere(instant, rng),
    }
}

/// A JSON token of the same instant on a clock of another place: its date there may be another one.
pub(super) fn elsewhere(instant: Timestamp, rng: &mut Rng) -> String {
    let (minutes, text) = match rng.u32(..3) {
        0 => WHOLE_HOURS[rng.usize(..WHOLE_HOURS.len())],
        form => {
            let (minutes, colon, plain) = OFFSETS[rng.usize(..OFFSETS.len())];
            (minutes, if form == 1 { colon } else { plain })
        }
    };
    let (at, ms) = civil(instant, minutes);
    format!("\"{}.{ms:03}{text}\"", seconds(at, 'T'))
}

fn civil(instant: Timestamp, minutes: i32) -> (DateTime, u32) {
    let offset = Offset::from_seconds(minutes * 60).unwrap_or(Offset::UTC);
    (offset.to_datetime(instant), instant.as_millisecond().rem_euclid(1000) as u32)
}

fn seconds(at: DateTime, separator: char) -> String {
    let (year, month, day) = (at.year(), at.month(), at.day());
    format!("{year:04}-{month:02}-{day:02}{separator}{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_instant_on_another_clock_is_the_same_instant() {
        let mut rng = Rng::with_seed(2);
        for _ in 0..200 {
            let instant = Timestamp::from_millisecond(1_590_947_747_263 + rng.i64(0..864_000_000)).unwrap();
            let token = elsewhere(instant, &mut rng);
            let text = token.trim_matches('"');
            // jiff wants a colon or nothing between hours and minutes, as we write them.
            assert_eq!(text.parse::<Timestamp>().unwrap(), instant, "{text}");
        }
    }

    #[test]
    fn every_form_keeps_the_utc_day() {
        let mut rng = Rng::with_seed(4);
        let instant: Timestamp = "2020-05-31T12:34:56.789Z".parse().unwrap();
        for _ in 0..500 {
            let token = written(instant, &mut rng);
            assert!(
                token.contains("2020-05-31T") || token.contains("2020-05-31") || token.contains("1590928496"),
                "{token}"
            );
        }
    }
}
