//! `dead-letters list`: one line a letter, without personal data.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::row::Row;
use super::scan::{self, Redriven};
use super::{FilterArgs, prepare};
use crate::cli::table::{number, table};
use crate::cli::{CommandError, SettingsArgs, Stopped};
use crate::dead_letter::Filter;

/// On a terminal, without --limit.
const A_SCREENFUL: usize = 50;

/// List them, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters list --config nat-destination.toml\n  \
    nat-destination dead-letters list --config nat-destination.toml --reason rejected --status 422 --since 2d\n  \
    nat-destination dead-letters list --config nat-destination.toml --contact ada@example.com | jq .place\n  \
    nat-destination dead-letters list --config nat-destination.toml --open --until 1h\n\n\
    A table on a terminal, one JSON object a line elsewhere. No personal data: `show PLACE --reveal` shows the event.")]
pub struct ListArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only those that no redrive has taken
    #[arg(long)]
    open: bool,
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

struct Rows {
    rows: Vec<Row>,
    oldest_first: bool,
    limit: usize,
    /// How many there are, listed or not.
    count: u64,
    /// Whether the filters mean them or not.
    read: u64,
}

pub async fn run(args: ListArgs) -> Result<ExitCode, CommandError> {
    let (config, filter) = match prepare(&args.settings, args.filter)? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    let as_json = args.json || !std::io::stdout().is_terminal();
    let limit = args.limit.unwrap_or(if as_json { usize::MAX } else { A_SCREENFUL });
    let stopped = Stopped::listen();
    let ranges = stopped.asking(scan::ranges(&config, &filter)).await?;
    let meant = filter.clone();
    let read = stopped.working(move |stopped| {
        let mut rows = Rows { rows: Vec::new(), oldest_first: args.oldest_first, limit, count: 0, read: 0 };
        let mut redriven = Redriven::default();
        if args.open {
            // The notes stand behind the letters, and there is no knowing how far.
            let Some(notes) = scan::notes(&config, &meant, ranges.clone(), stopped)? else { return Ok(None) };
            redriven = notes;
        }
        let read = scan::select(&config, &meant, ranges, "reading", stopped, |found| {
            let is_listed = !args.open || redriven.at(found.place()).is_none();
            if !redriven.note(&found) && is_listed {
                rows.add(Row::of(&config, &found));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        rows.cut();
        rows.read = read.unwrap_or(0);
        Ok(read.map(|_| (rows, redriven)))
    });
    let (rows, redriven) = read.await?.ok_or(CommandError::Stopped)?;
    print!("{}", if as_json { rows.json(&redriven) } else { rows.words(&redriven, &filter) });
    if as_json && rows.count == 0 {
        eprint!("{}", scan::none_of(rows.read, &filter));
    }
    if (rows.rows.len() as u64) < rows.count {
        eprintln!("{} of {}; --limit shows more", number(rows.rows.len() as u64), number(rows.count));
    }
    Ok(ExitCode::SUCCESS)
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

    fn json(&self, redriven: &Redriven) -> String {
        self.rows.iter().map(|row| format!("{}\n", Value::Object(row.json(redriven)))).collect()
    }

    fn words(&self, redriven: &Redriven, filter: &Filter) -> String {
        if self.count == 0 {
            return scan::none_of(self.read, filter);
        }
        let rows: Vec<_> = self.rows.iter().map(|row| row.cells(redriven)).collect();
        table(&Row::HEAD, &Row::RIGHT, &rows)
    }
}
