//! One clock for all evidence: microseconds since the Unix epoch, so that it compares with the brokers' times and the
//! instances' logs, but taken from the monotonic clock, so that it never goes back.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub type Micros = i64;

pub const MILLI: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

pub fn now() -> Micros {
    static ORIGIN: OnceLock<(Instant, Micros)> = OnceLock::new();
    let (began, origin) = ORIGIN.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Instant::now(), wall.as_micros() as Micros)
    });
    origin + began.elapsed().as_micros() as Micros
}

/// How a time is told to a reader, who will look for it in the instances' logs.
pub fn tell(at: Micros) -> String {
    match jiff::Timestamp::from_microsecond(at) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => at.to_string(),
    }
}

/// A stretch of time in which something held.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub from: Micros,
    pub to: Micros,
}

impl Window {
    pub fn overlaps(&self, from: Micros, to: Micros) -> bool {
        self.from <= to && from <= self.to
    }
}
