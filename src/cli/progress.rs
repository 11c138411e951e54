//! How far a long command has got: a bar with rate and time left on a terminal, a plain line now and then in a pipe. On
//! stderr, so that results stay alone on stdout.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};

use super::table::number;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// There is one bar at a time.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// Whether the cursor stands behind a bar. The terminal's ^C goes to the next row then, and is cleared with the bar when that
/// is drawn there the next time; the bar above stays as it was when it was stopped.
pub fn is_shown() -> bool {
    SHOWN.load(Ordering::Acquire)
}

pub struct Progress {
    what: &'static str,
    unit: &'static str,
    total: u64,
    bar: Option<ProgressBar>,
    began: Instant,
    next_line: Instant,
}

impl Progress {
    /// `what` is done (`redrive`) with `total` of `unit` (`records`); 0: nobody knows how many.
    pub fn new(what: &'static str, unit: &'static str, total: u64) -> Progress {
        let bar = || ProgressBar::new(total).with_style(style(what, unit, total));
        let bar = std::io::stderr().is_terminal().then(bar);
        if let Some(bar) = &bar {
            SHOWN.store(true, Ordering::Release);
            bar.tick(); // Before there is anything: whoever waits for it sees that.
        }
        let now = Instant::now();
        Progress { what, unit, total, bar, began: now, next_line: now + LINE_EVERY }
    }

    /// So much of the total is done.
    pub fn at(&mut self, done: u64) {
        match &self.bar {
            Some(bar) => bar.set_position(done),
            None if Instant::now() >= self.next_line => {
                self.next_line = Instant::now() + LINE_EVERY;
                eprintln!("{}", plain(self.what, self.unit, done, self.total, self.began.elapsed()));
            }
            None => {}
        }
    }

    /// Says something without tearing the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            SHOWN.store(false, Ordering::Release);
        }
    }
}

/// One line, as wide as the terminal.
fn style(what: &str, unit: &str, total: u64) -> ProgressStyle {
    let template = match total {
        0 => format!("{what} {{spinner}} {{human_pos}} {unit}  {{rate}}"),
        _ => format!("{what} {{wide_bar}} {{human_pos}}/{{human_len}} {unit}  {{rate}}  {{left}}"),
    };
    bar_style(&template)
}

/// As indicatif's templates; `{rate}` is a whole number a second, `{left}` the time left.
pub fn bar_style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    // Into a text: writing does not fail.
    let rate = |state: &ProgressState, text: &mut dyn Write| {
        let _ = write!(text, "{}/s", number(state.per_sec() as u64));
    };
    let left = |state: &ProgressState, text: &mut dyn Write| {
        let _ = match state.pos() {
            0 => write!(text, "time left: unknown"),
            _ => write!(text, "{:#} left", HumanDuration(state.eta())),
        };
    };
    style.with_key("rate", rate).with_key("left", left)
}

fn plain(what: &str, unit: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(0.001);
    if total == 0 {
        return format!("{what}: {} {unit}, {}/s", number(done), number(rate as u64));
    }
    let left = match total.saturating_sub(done) as f64 / rate {
        seconds if seconds.is_finite() => HumanDuration(Duration::from_secs_f64(seconds.min(1e9))).to_string(),
        _ => "unknown".to_owned(),
    };
    format!("{what}: {} of {} {unit}, {}/s, time left: {left}", number(done), number(total), number(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_tells_how_much_how_fast_and_how_long() {
        let line = |done| plain("replay", "records", done, 3000, Duration::from_secs(5));
        assert_eq!(line(1000), "replay: 1,000 of 3,000 records, 200/s, time left: 10 seconds");
        assert_eq!(line(0), "replay: 0 of 3,000 records, 0/s, time left: unknown");
        assert_eq!(plain("backfill", "bytes", 5000, 0, Duration::from_secs(5)), "backfill: 5,000 bytes, 1,000/s");
    }
}
