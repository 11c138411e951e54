//! `dead-letters stats`: how many there are, of what kind, since when.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::scan::{self, Found, Place};
use super::{FilterArgs, prepare, print, rfc3339};
use crate::cli::table::{number, table};
use crate::cli::time::shown;
use crate::cli::{CommandError, SettingsArgs, interruptible};
use crate::dead_letter::Kind;
use crate::dead_letter::select::FOREIGN;

/// Count them by reason, status, source topic and day
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters stats --config nat-destination.toml\n  \
    nat-destination dead-letters stats --config nat-destination.toml --since 2d --json | jq .reasons\n\n\
    Days are UTC, of the dead letters themselves.")]
pub struct StatsArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// One JSON object: letters, redriven, first, last, reasons, statuses, topics, days
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Stats {
    places: BTreeSet<Place>,
    /// Letters that were sent again.
    redriven: BTreeSet<Place>,
    first: Option<i64>,
    last: Option<i64>,
    reasons: BTreeMap<String, u64>,
    statuses: BTreeMap<String, u64>,
    topics: BTreeMap<String, u64>,
    days: BTreeMap<String, u64>,
}

pub async fn run(args: StatsArgs) -> Result<ExitCode, CommandError> {
    let (config, filter) = match prepare(&args.settings, args.filter)? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    let ranges = scan::ranges(&config, &filter).await?;
    let stats = interruptible(move |stopped| {
        let mut stats = Stats::default();
        let all = scan::read(&config, ranges, "reading", stopped, |found| {
            if let Kind::Note(note) = found.kind {
                stats.redriven.insert(note.into());
            } else if found.is_meant(&config, &filter) {
                stats.count(&found);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(all.then_some(stats))
    });
    let Some(stats) = stats.await? else { return Ok(scan::cut_short()) };
    print(&if args.json { format!("{}\n", stats.json()) } else { stats.words() })?;
    Ok(ExitCode::SUCCESS)
}

impl Stats {
    fn count(&mut self, found: &Found) {
        let at = found.at();
        self.places.insert(found.place());
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        let day =
            Timestamp::from_millisecond(at).map_or_else(|_| "-".to_owned(), |time| time.strftime("%F").to_string());
        let mut reason = FOREIGN;
        if let Kind::Letter(letter) = &found.kind {
            reason = &letter.reason;
            if let Some(status) = letter.status {
                add(&mut self.statuses, &status.to_string());
            }
            if let Some(origin) = &letter.origin {
                add(&mut self.topics, &origin.topic);
            }
        }
        add(&mut self.reasons, reason);
        add(&mut self.days, &day);
    }

    fn redriven(&self) -> u64 {
        self.places.intersection(&self.redriven).count() as u64
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "letters": self.places.len(), "redriven": self.redriven(),
            "first": self.first.and_then(rfc3339), "last": self.last.and_then(rfc3339),
            "reasons": self.reasons, "statuses": self.statuses, "topics": self.topics, "days": self.days,
        })
    }

    fn words(&self) -> String {
        let (Some(first), Some(last)) = (self.first, self.last) else { return "no dead letters\n".to_owned() };
        let counts = (number(self.places.len() as u64), number(self.redriven()));
        let mut text = format!("{} dead letters, {} of them redriven\n", counts.0, counts.1);
        text.push_str(&format!("first {}, last {}\n", shown(first), shown(last)));
        for (what, counts) in
            [("reason", &self.reasons), ("status", &self.statuses), ("source topic", &self.topics), ("day", &self.days)]
        {
            let mut rows: Vec<_> = counts.iter().collect();
            if what != "day" {
                rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            }
            let rows: Vec<_> = rows.into_iter().map(|(name, count)| vec![name.clone(), number(*count)]).collect();
            if !rows.is_empty() {
                text.push_str(&format!("\n{}", table(&[what, "letters"], &[1], &rows)));
            }
        }
        text
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.to_owned(), 1)),
    }
}
