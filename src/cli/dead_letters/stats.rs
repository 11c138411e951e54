//! `dead-letters stats`: how many there are, of what kind, since when.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::scan::{self, Found, Place, Redriven};
use super::{FilterArgs, prepare};
use crate::address::without_addresses;
use crate::cli::table::{counted, number, table};
use crate::cli::time::{rfc3339, shown};
use crate::cli::{CommandError, SettingsArgs, Stopped};
use crate::dead_letter::select::FOREIGN;
use crate::dead_letter::{Filter, Kind};

/// Count them by reason, status, source topic and day
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters stats --config nat-destination.toml\n  \
    nat-destination dead-letters stats --config nat-destination.toml --since 2d --json | jq .reasons\n\n\
    Open are those that no redrive has taken. Days are UTC, of the dead letters themselves.")]
pub struct StatsArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// One JSON object: letters, redriven, open, first, last, reasons, open_reasons, statuses, topics, days
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Stats {
    /// By reason.
    places: BTreeMap<String, BTreeSet<Place>>,
    redriven: Redriven,
    /// Letters, whether the filters mean them or not.
    read: u64,
    first: Option<i64>,
    last: Option<i64>,
    statuses: BTreeMap<String, u64>,
    topics: BTreeMap<String, u64>,
    days: BTreeMap<String, u64>,
}

pub async fn run(args: StatsArgs) -> Result<ExitCode, CommandError> {
    let (config, filter) = match prepare(&args.settings, args.filter)? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    let stopped = Stopped::listen();
    let ranges = stopped.asking(scan::ranges(&config, &filter)).await?;
    let meant = filter.clone();
    let stats = stopped.working(move |stopped| {
        let mut stats = Stats::default();
        let read = scan::select(&config, &meant, ranges, "reading", stopped, |found| {
            if !stats.redriven.note(&found) {
                stats.count(&found);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        stats.read = read.unwrap_or(0);
        Ok(read.map(|_| stats))
    });
    let stats = stats.await?.ok_or(CommandError::Stopped)?;
    print!("{}", if args.json { format!("{}\n", stats.json()) } else { stats.words(&filter) });
    Ok(ExitCode::SUCCESS)
}

impl Stats {
    fn count(&mut self, found: &Found) {
        let at = found.at();
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
                add(&mut self.topics, &without_addresses(&origin.topic));
            }
        }
        match self.places.get_mut(reason) {
            Some(places) => drop(places.insert(found.place())),
            None => drop(self.places.insert(reason.to_owned(), BTreeSet::from([found.place()]))),
        }
        add(&mut self.days, &day);
    }

    /// By reason: the letters, and those of them that no redrive has taken.
    fn reasons(&self) -> Vec<(&String, u64, u64)> {
        let is_open = |place: &&Place| self.redriven.at(**place).is_none();
        let of = |places: &BTreeSet<Place>| (places.len() as u64, places.iter().filter(is_open).count() as u64);
        let counted = self.places.iter().map(|(reason, places)| (reason, of(places)));
        counted.map(|(reason, (letters, open))| (reason, letters, open)).collect()
    }

    fn json(&self) -> serde_json::Value {
        let reasons = self.reasons();
        let letters: BTreeMap<_, _> = reasons.iter().map(|(reason, letters, _)| (*reason, *letters)).collect();
        let open: BTreeMap<_, _> = reasons.iter().map(|(reason, _, open)| (*reason, *open)).collect();
        let (all, left) = (letters.values().sum::<u64>(), open.values().sum::<u64>());
        json!({
            "letters": all, "redriven": all - left, "open": left,
            "first": self.first.and_then(rfc3339), "last": self.last.and_then(rfc3339),
            "reasons": letters, "open_reasons": open,
            "statuses": self.statuses, "topics": self.topics, "days": self.days,
        })
    }

    fn words(&self, filter: &Filter) -> String {
        let (Some(first), Some(last)) = (self.first, self.last) else { return scan::none_of(self.read, filter) };
        let mut reasons = self.reasons();
        reasons.sort_by_key(|(_, letters, _)| std::cmp::Reverse(*letters));
        let (all, left) = reasons.iter().fold((0, 0), |sum, (_, letters, open)| (sum.0 + letters, sum.1 + open));
        let (letters, redriven, open) = (counted(all, "dead letter"), number(all - left), number(left));
        let mut text = format!("{letters}: {redriven} redriven, {open} open\n");
        text.push_str(&format!("first {}, last {}\n", shown(first), shown(last)));
        let row =
            |(reason, letters, open): &(&String, u64, u64)| vec![(*reason).clone(), number(*letters), number(*open)];
        let rows: Vec<_> = reasons.iter().map(row).collect();
        text.push_str(&format!("\n{}", table(&["reason", "letters", "open"], &[1, 2], &rows)));
        for (what, counts) in [("status", &self.statuses), ("source topic", &self.topics), ("day", &self.days)] {
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
