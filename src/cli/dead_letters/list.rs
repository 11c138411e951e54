//! `dead-letters list`: one line a letter, without personal data.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::scan::{self, Found, Place};
use super::{FilterArgs, prepare, print, rfc3339};
use crate::cli::table::{number, table};
use crate::cli::time::shown;
use crate::cli::{CommandError, SettingsArgs, interruptible};
use crate::config::Config;
use crate::dead_letter::Kind;
use crate::dead_letter::select::FOREIGN;

/// On a terminal, without --limit.
const A_SCREENFUL: usize = 50;

/// List them, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters list --config nat-destination.toml\n  \
    nat-destination dead-letters list --config nat-destination.toml --reason rejected --status 422 --since 2d\n  \
    nat-destination dead-letters list --config nat-destination.toml --contact ada@example.com | jq .place\n\n\
    A table on a terminal, one JSON object a line elsewhere. No personal data: `show PLACE --reveal` shows the event.")]
pub struct ListArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Oldest first
    #[arg(long)]
    oldest_first: bool,
    /// So many at most; 50 on a terminal, all elsewhere
    #[arg(long, value_name = "LETTERS")]
    limit: Option<usize>,
    /// JSON lines on a terminal too: place, time, reason, status, attempts, redrives, source, contact, redriven
    #[arg(long)]
    json: bool,
}

struct Row {
    at: i64,
    place: Place,
    reason: String,
    status: Option<u16>,
    attempts: Option<u32>,
    redrives: u32,
    source: Option<String>,
    contact: Option<String>,
}

struct Rows {
    rows: Vec<Row>,
    oldest_first: bool,
    limit: usize,
    /// How many there are, listed or not.
    count: u64,
}

pub async fn run(args: ListArgs) -> Result<ExitCode, CommandError> {
    let (config, filter) = match prepare(&args.settings, args.filter)? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    let as_json = args.json || !std::io::stdout().is_terminal();
    let limit = args.limit.unwrap_or(if as_json { usize::MAX } else { A_SCREENFUL });
    let ranges = scan::ranges(&config, &filter).await?;
    let read = interruptible(move |stopped| {
        let mut rows = Rows { rows: Vec::new(), oldest_first: args.oldest_first, limit, count: 0 };
        let mut redriven = BTreeSet::new();
        let all = scan::read(&config, ranges, "reading", stopped, |found| {
            if let Kind::Note(note) = found.kind {
                redriven.insert(Place::from(note));
            } else if found.is_meant(&config, &filter) {
                rows.add(row(&config, &found));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        rows.cut();
        Ok(all.then_some((rows, redriven)))
    });
    let Some((rows, redriven)) = read.await? else { return Ok(scan::cut_short()) };
    print(&if as_json { rows.json(&redriven) } else { rows.words(&redriven) })?;
    if (rows.rows.len() as u64) < rows.count {
        eprintln!("{} of {}; --limit shows more", number(rows.rows.len() as u64), number(rows.count));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(config: &Config, found: &Found) -> Row {
    let (at, place) = (found.at(), found.place());
    match &found.kind {
        Kind::Letter(letter) => Row {
            at,
            place,
            reason: letter.reason.clone(),
            status: letter.status,
            attempts: letter.attempts,
            redrives: letter.redrives,
            source: letter.origin.as_ref().map(|origin| {
                let item = origin.item.map(|item| format!(" item {item}")).unwrap_or_default();
                format!("{} {}:{}{item}", origin.topic, origin.partition, origin.offset)
            }),
            contact: found.contact(config, letter).map(|contact| contact.to_string()),
        },
        Kind::Foreign(_) | Kind::Note(_) => Row {
            at,
            place,
            reason: FOREIGN.to_owned(),
            status: None,
            attempts: None,
            redrives: 0,
            source: None,
            contact: None,
        },
    }
}

impl Rows {
    /// Keeps no more than twice of what will be listed, however many come.
    fn add(&mut self, row: Row) {
        self.count += 1;
        self.rows.push(row);
        if self.rows.len() > self.limit.saturating_mul(2).max(1000) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.rows.sort_unstable_by_key(|row| (row.at, row.place));
        if !self.oldest_first {
            self.rows.reverse();
        }
        self.rows.truncate(self.limit);
    }

    fn json(&self, redriven: &BTreeSet<Place>) -> String {
        let line = |row: &Row| {
            let line = json!({
                "place": row.place.to_string(), "time": rfc3339(row.at), "reason": row.reason, "status": row.status,
                "attempts": row.attempts, "redrives": row.redrives, "source": row.source, "contact": row.contact,
                "redriven": redriven.contains(&row.place),
            });
            format!("{line}\n")
        };
        self.rows.iter().map(line).collect()
    }

    fn words(&self, redriven: &BTreeSet<Place>) -> String {
        if self.rows.is_empty() {
            return "no dead letters\n".to_owned();
        }
        let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        let row = |row: &Row| {
            vec![
                row.place.to_string(),
                shown(row.at),
                row.reason.clone(),
                or_dash(row.status.map(|status| status.to_string())),
                or_dash(row.attempts.map(|attempts| attempts.to_string())),
                row.redrives.to_string(),
                if redriven.contains(&row.place) { "yes" } else { "-" }.to_owned(),
                or_dash(row.source.clone()),
                or_dash(row.contact.clone()),
            ]
        };
        let head = ["place", "time", "reason", "status", "attempts", "redrives", "redriven", "source", "contact"];
        table(&head, &[3, 4, 5], &self.rows.iter().map(row).collect::<Vec<_>>())
    }
}
