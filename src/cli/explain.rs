//! `explain`: the event tester. For each line, what would happen to it and why, by the very code that `run` uses.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{CommandError, SettingsArgs};
use crate::config::Config;
use crate::dedup::{Contact, DedupKey, Kind};
use crate::nat;
use crate::segment::{self, EngageMode, Identify, Outcome, Reading, Rules};

/// Tell what would happen to events, and why
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    echo '{\"type\":\"identify\",\"timestamp\":\"2026-11-24T08:00:00Z\",\"traits\":{\"email\":\"ada@example.com\"}}' | nat-destination explain\n  \
    kcat -b localhost:9092 -t segment-events -C -e | nat-destination explain --json - | jq .outcome\n  \
    nat-destination explain --config nat-destination.toml events.jsonl")]
pub struct ExplainArgs {
    /// Events, one a line; - or nothing: standard input
    file: Option<PathBuf>,
    /// One JSON object a line: outcome, reason, email, day, url, description, items
    #[arg(long)]
    json: bool,
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

pub fn run(args: &ExplainArgs) -> Result<ExitCode, CommandError> {
    let config = Config::load_offline(&args.settings.sources()).map_err(CommandError::Settings)?;
    let input: Box<dyn Read> = match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(path)
                .map_err(|error| CommandError::Told(format!("{}: {error}", path.display())))?;
            Box::new(file)
        }
        _ => Box::new(std::io::stdin()),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for (number, line) in BufReader::new(input).split(b'\n').enumerate() {
        let line = line.map_err(|error| CommandError::Told(format!("line {}: {error}", number + 1)))?;
        let fate = fate_of(&config.rules, &line, Timestamp::now());
        let written = if args.json {
            serde_json::to_writer(&mut out, &fate).map_err(std::io::Error::from).and_then(|()| writeln!(out))
        } else {
            write_words(&mut out, number + 1, &fate)
        };
        match written {
            Ok(()) => {}
            // Whoever read has read enough: `explain | head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(error) => return Err(CommandError::told(error)),
        }
    }
    out.flush().map_err(CommandError::told)?;
    Ok(ExitCode::SUCCESS)
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

fn fate_of(rules: &Rules, record: &[u8], now: Timestamp) -> Fate {
    match segment::read(rules, Some(record), now) {
        Reading::One { outcome, .. } => fate(rules, outcome),
        Reading::Batch(items) => {
            let items: Vec<Fate> = items.iter().map(|item| fate(rules, segment::classify(rules, item, now))).collect();
            let outcome = ["deliver", "malformed", "invalid"]
                .into_iter()
                .find(|outcome| items.iter().any(|item| item.outcome == *outcome));
            let words = format!("a batch of {} events, each on its own:", items.len());
            Fate { outcome: outcome.unwrap_or("filtered"), items: Some(items), words, ..Fate::default() }
        }
    }
}

fn fate(rules: &Rules, outcome: Outcome<'_>) -> Fate {
    match outcome {
        Outcome::Identify(identify) => delivered(rules, &identify),
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
