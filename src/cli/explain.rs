//! `explain`: the event tester. For each line, what would happen to it and why, by the very code that `run` uses. With
//! `--contact`, what a deployment knows of one contact.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use serde_json::value::RawValue;

use super::table::counted;
use super::{CommandError, SettingsArgs, contact, remark, suppress_list, time};
use crate::config::Config;
use crate::dedup::{Contact, DedupKey, Kind};
use crate::nat;
use crate::segment::{self, EngageMode, Identify, Outcome, Reading, Rules};
use crate::suppress::SuppressList;

/// Tell what would happen to events, and why; or what is known of a contact
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    echo '{\"type\":\"identify\",\"timestamp\":\"2026-11-24T08:00:00Z\",\"traits\":{\"email\":\"ada@example.com\"}}' | nat-destination explain\n  \
    kcat -b localhost:9092 -t segment-events -C -e | nat-destination explain --json - | jq .outcome\n  \
    nat-destination explain --config nat-destination.toml events.jsonl\n  \
    nat-destination explain --config nat-destination.toml --contact ada@example.com --day 2026-11-24\n  \
    nat-destination explain --hash --contact ada@example.com >> suppressed")]
pub struct ExplainArgs {
    /// Events, one a line; - or nothing: standard input
    file: Option<PathBuf>,
    /// One JSON object a line: outcome, reason, email, day, url, description, items; of a contact, one in all
    #[arg(long)]
    json: bool,
    /// What is known of this contact: delivered, waiting, dead letters. Kafka is read, and nothing is changed
    #[arg(long, value_name = "EMAIL", value_parser = contact::email, conflicts_with = "file")]
    contact: Option<String>,
    /// Only what concerns this day (Engage values have none, and are told)
    #[arg(long, requires = "contact", value_parser = time::day)]
    day: Option<Date>,
    /// An audience or trait of Engage to look for, where no event tells of it any more; may be repeated
    #[arg(long, value_name = "KEY", requires = "contact")]
    engage: Vec<String>,
    /// Only print the contact's hash, for logs and suppress.file; Kafka is not asked
    #[arg(long, requires = "contact", conflicts_with_all = ["json", "day", "engage"])]
    hash: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

/// One event's fate. An absent field is null in an event that is delivered, and left out elsewhere.
#[derive(Debug, Default, Serialize)]
struct Fate {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Fate>>,
    #[serde(skip)]
    words: String,
}

pub async fn run(args: ExplainArgs) -> Result<ExitCode, CommandError> {
    match &args.contact {
        None => explain_events(&args),
        Some(email) if args.hash => Ok(contact::print_hash(email)),
        Some(email) => {
            let asked = contact::Asked { email, engage: &args.engage, day: args.day, json: args.json };
            contact::explain(&asked, &args.settings).await
        }
    }
}

fn explain_events(args: &ExplainArgs) -> Result<ExitCode, CommandError> {
    let config = Config::load_offline(&args.settings.sources()).map_err(CommandError::Settings)?;
    let list = suppress_list(&config)?;
    let tester = Tester { rules: config.rules, list: list.unwrap_or_default() };
    let file = args.file.as_deref().filter(|path| path.as_os_str() != "-");
    let name = file.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
    let input: Box<dyn Read> = match file {
        Some(path) => {
            let file = std::fs::File::open(path).map_err(|error| CommandError::Told(format!("{name}: {error}")))?;
            Box::new(file)
        }
        None => Box::new(std::io::stdin()),
    };
    let is_typed = file.is_none() && std::io::stdin().is_terminal();
    if is_typed {
        remark("events are read from the terminal, one a line; Ctrl-D ends");
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (number, line) in BufReader::new(input).split(b'\n').enumerate() {
        let line = line.map_err(|error| CommandError::Told(format!("{name}: line {}: {error}", number + 1)))?;
        let fate = tester.fate_of(&line, Timestamp::now());
        let written = if args.json {
            serde_json::to_writer(&mut out, &fate).map_err(std::io::Error::from).and_then(|()| writeln!(out))
        } else {
            write_words(&mut out, number + 1, &fate)
        };
        let written = if is_typed { written.and_then(|()| out.flush()) } else { written };
        if written.is_err() {
            return ended(written);
        }
    }
    ended(out.flush())
}

/// Whoever reads may have read enough: `explain | head`.
fn ended(written: std::io::Result<()>) -> Result<ExitCode, CommandError> {
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CommandError::told(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn write_words(out: &mut impl Write, number: usize, fate: &Fate) -> std::io::Result<()> {
    writeln!(out, "line {number}: {}", fate.words)?;
    if let Some(request) = &fate.request {
        writeln!(out, "    POST {request}")?;
    }
    for (number, item) in fate.items.iter().flatten().enumerate() {
        writeln!(out, "    item {number}: {}", item.words)?;
        if let Some(request) = &item.request {
            writeln!(out, "        POST {request}")?;
        }
    }
    Ok(())
}

/// What `run` goes by.
struct Tester {
    rules: Rules,
    list: SuppressList,
}

impl Tester {
    fn fate_of(&self, record: &[u8], now: Timestamp) -> Fate {
        match segment::read(&self.rules, Some(record), now) {
            Reading::One { outcome, .. } => self.fate(outcome),
            Reading::Batch(items) => {
                let items: Vec<Fate> =
                    items.iter().map(|item| self.fate(segment::classify(&self.rules, item, now))).collect();
                let outcome = ["deliver", "malformed", "invalid"]
                    .into_iter()
                    .find(|outcome| items.iter().any(|item| item.outcome == *outcome));
                let words = format!("a batch of {}, each on its own:", counted(items.len() as u64, "event"));
                Fate { outcome: outcome.unwrap_or("filtered"), items: Some(items), words, ..Fate::default() }
            }
        }
    }

    fn fate(&self, outcome: Outcome<'_>) -> Fate {
        match self.list.honoured(outcome) {
            Outcome::Identify(identify) => delivered(&self.rules, &identify),
            Outcome::Filtered(reason) => {
                let words = format!("filtered ({}): {}", reason.as_str(), reason.because());
                Fate { outcome: "filtered", reason: Some(reason.as_str()), words, ..Fate::default() }
            }
            Outcome::Invalid { reason, email } => {
                let outcome = if reason.is_malformed() { "malformed" } else { "invalid" };
                let words = format!("dead letter ({}): {}", reason.as_str(), reason.because());
                Fate { outcome, reason: Some(reason.as_str()), email, words, ..Fate::default() }
            }
        }
    }
}

fn delivered(rules: &Rules, identify: &Identify<'_>) -> Fate {
    let description = identify.description().map(Cow::into_owned);
    let key = DedupKey::of(identify, rules.engage);
    let once = match (&identify.engage, key.kind) {
        (Some(engage), Kind::Engage { .. }) => {
            format!(
                "unless the last value of {:?} that Nat.app accepted for this contact is {} already",
                engage.key, engage.value
            )
        }
        (Some(_), Kind::Visit) => {
            debug_assert_eq!(rules.engage, EngageMode::Daily);
            format!("unless this contact has been delivered on {} already (engage = \"daily\")", identify.day)
        }
        _ => format!("unless this contact has been delivered on {} already", identify.day),
    };
    let shown = match &description {
        Some(text) => format!("described as {text:?}"),
        None => "with Nat.app's standard message".to_owned(),
    };
    Fate {
        outcome: "deliver",
        email: Some(identify.email.clone()),
        day: Some(identify.day.to_string()),
        url: Some(identify.url().map(Cow::into_owned)),
        contact: Some(Contact::of(&identify.email).to_string()),
        words: format!("delivered for {} {shown}, {once}", identify.email),
        description: Some(description),
        request: String::from_utf8(nat::body(identify)).ok().and_then(|body| RawValue::from_string(body).ok()),
        ..Fate::default()
    }
}
