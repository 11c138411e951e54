//! `--watch` on a terminal: each look is drawn over the one before, as much of it as the window holds. Nothing is switched or
//! hidden that would have to be put back: however it ends, the terminal is as it was, with the last look on it.

use terminal_size::{Height, Width, terminal_size_of};

use super::report::Report;
use super::screen::{self, Detail};

/// Columns and rows.
#[derive(Debug, Clone, Copy)]
pub struct Window(usize, usize);

/// Narrower or lower than this nothing is readable anyway.
const SMALLEST: Window = Window(20, 4);

impl Window {
    /// As it is now: people change it.
    pub fn now() -> Window {
        let size = terminal_size_of(std::io::stdout());
        let (columns, rows) = size.map_or((80, 24), |(Width(columns), Height(rows))| (columns.into(), rows.into()));
        Window(SMALLEST.0.max(columns), SMALLEST.1.max(rows))
    }

    /// Moves what is there up, out of the window, where it can be scrolled back to.
    pub fn emptied(self) -> String {
        "\n".repeat(self.1)
    }

    /// From the corner on, each row over the one that was there, and the rest cleared: it never is empty in between.
    pub fn drawn(self, report: &Report) -> String {
        let rows: String = self.rows(report).iter().map(|row| format!("{row}\x1b[K\n")).collect();
        format!("\x1b[H{rows}\x1b[J")
    }

    /// In full, or with fewer partitions, or without the reasons as well: the most that there is room for. The last two rows are
    /// Ctrl-C's and the prompt's behind it, the last column is the cursor's (what clears a row would clear it too).
    fn rows(self, report: &Report) -> Vec<String> {
        let (columns, rows) = (self.0 - 1, self.1);
        let (most, room) = (Detail::default().partitions, rows - 2);
        let with_reasons = (4..=most).rev().map(|partitions| Detail { partitions, reasons: true });
        let without = (1..=most).rev().map(|partitions| Detail { partitions, reasons: false });
        let fitted = |detail| -> Vec<String> {
            screen::text(report, detail).lines().flat_map(|line| wrapped(line, columns)).collect()
        };
        let mut last = Vec::new();
        for detail in with_reasons.chain(without) {
            last = fitted(detail);
            if last.len() <= room {
                return last;
            }
        }
        let hidden = last.len() - (room - 1);
        last.truncate(room - 1);
        last.push(format!("… {hidden} more rows").chars().take(columns).collect());
        last
    }
}

/// Broken at a space where there is one.
fn wrapped(line: &str, columns: usize) -> Vec<String> {
    let (mut rows, mut rest) = (Vec::new(), line.to_owned());
    while let Some((end, _)) = rest.char_indices().nth(columns) {
        let space = rest[..end].rfind(' ').filter(|at| *at > end / 2);
        let behind = rest.split_off(space.unwrap_or(end));
        rows.push(std::mem::replace(&mut rest, format!("    {}", behind.trim_start())));
    }
    rows.push(rest);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Settled, Status};
    use crate::cli::status::report::{Answer, Found, Held, Unread};

    /// Two instances that lack something, 60 partitions, 20 reasons.
    fn report() -> Report {
        let outcomes = (0..20).map(|n| Settled { outcome: "filtered".into(), reason: format!("r{n}"), events: n });
        let status = Status {
            queue_topic: "queue".into(),
            outcomes: outcomes.collect(),
            not_ready: vec!["waits for what it is told at length".into(); 3],
            ..Status::default()
        };
        let answer = |place: &str| Answer { place: place.into(), status: Ok(status.clone()) };
        let unread = Unread::Records { events: 7, oldest: None };
        let held: Held = (0..60).map(|partition| (("queue".to_owned(), partition), unread)).collect();
        Report::of(Found {
            at: jiff::Timestamp::UNIX_EPOCH,
            brokers: "localhost:9092".into(),
            queue_topic: "queue".into(),
            queue_retention: std::time::Duration::from_secs(7 * 86_400),
            keying: Ok(()),
            first: Vec::new(),
            seconds: 1.0,
            second: vec![answer("10.0.0.7:9600"), answer("10.0.0.8:9600")],
            source: Ok(Held::new()),
            queue: Ok(held),
        })
    }

    #[test]
    fn whatever_the_window_it_holds_all_that_is_drawn_and_the_worst_stays() {
        let report = report();
        let whole = screen::text(&report, Detail::default());
        for columns in [20, 40, 80, 300] {
            for rows in [4, 10, 24, 50, 100, 1000] {
                let drawn = Window(columns, rows).rows(&report);
                assert!(drawn.len() <= rows - 2, "{columns} × {rows}: {drawn:#?}");
                assert!(drawn.iter().all(|row| row.chars().count() < columns), "{columns} × {rows}: {drawn:#?}");
                assert!(drawn[0].starts_with("UNHEALTHY"), "{drawn:#?}");
            }
        }
        let told = |columns, rows| Window(columns, rows).rows(&report).join("\n") + "\n";
        assert_eq!(told(300, 1000), whole, "all of it where there is room");
        assert!(
            told(300, 24).contains("received 0 + requeued 0") && !told(300, 24).contains("r19"),
            "{}",
            told(300, 24)
        );
        assert!(told(80, 8).ends_with(" more rows\n"), "{}", told(80, 8));
    }

    #[test]
    fn a_line_is_broken_at_a_space_and_goes_on_indented() {
        assert_eq!(wrapped("one two three four", 10), ["one two", "    three", "    four"]);
        assert_eq!(wrapped("0123456789ab", 10), ["0123456789", "    ab"]);
        assert_eq!(wrapped("", 10), [""]);
    }
}
