//! `dead-letters show`: one letter whole, what happened, and what to do.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::reason::is_word;
use super::row::Row;
use super::scan::{self, Found, Place, Redriven};
use super::{MAX_REDRIVES, export};
use crate::address::without_addresses;
use crate::cli::table::{counted, printable};
use crate::cli::time::{rfc3339, shown};
use crate::cli::{CommandError, SettingsArgs, Stopped, load, suppress_list};
use crate::config::Config;
use crate::dead_letter::masked::{self, masked};
use crate::dead_letter::{CUT, Kind, Letter, Reason};
use crate::kafka::{self, Headers, Range};
use crate::suppress::SuppressList;

/// Show one: the event, its headers, the answer, what happened and what to do
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters show 0:17 --config nat-destination.toml\n  \
    nat-destination dead-letters show 0:17 --config nat-destination.toml --reveal\n  \
    nat-destination dead-letters show 0:17 --config nat-destination.toml --json | jq .what_to_do\n\n\
    `list` tells the places. Without --reveal the event's field names and shape are shown, and no personal data.")]
pub struct ShowArgs {
    /// Where it stands in the dead-letter topic
    #[arg(value_name = "PARTITION:OFFSET", value_parser = place)]
    place: Place,
    /// Show the event, its key and its headers as they are: they hold personal data
    #[arg(long)]
    reveal: bool,
    /// One JSON object: the fields of `list`, then first_attempt, last_attempt, answer, what_happened, what_to_do, command,
    /// suppressed, truncated_from, bare, newer, key, headers, value
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn place(text: &str) -> Result<Place, String> {
    let parse = |(partition, offset): (&str, &str)| {
        let place = Place { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
        (place.partition >= 0 && place.offset >= 0).then_some(place)
    };
    text.split_once(':').and_then(parse).ok_or_else(|| "it is no place: PARTITION:OFFSET, such as 0:17".to_owned())
}

pub async fn run(args: ShowArgs) -> Result<ExitCode, CommandError> {
    let config = load(&args.settings)?;
    let list = suppress_list(&config)?;
    let topic = config.topics.dead_letter.clone();
    let stopped = Stopped::listen();
    let there = stopped.asking(kafka::whole(&config, &topic)).await?;
    let range = range_of(&topic, args.place, &there).map_err(CommandError::Told)?;
    let shown = stopped.working(move |stopped| {
        let mut found = None;
        scan::read(&config, vec![range], "reading", stopped, |record| {
            found = Some(record);
            Ok(ControlFlow::Break(()))
        })?;
        if stopped.is_so() {
            return Ok(None);
        }
        // A transaction's marker takes up an offset, and so does what compaction has removed.
        let nothing = || CommandError::Told(format!("topic {topic:?} holds no record at {}", args.place));
        let found = found.ok_or_else(nothing)?;
        let Some(redriven) = scan::redriven(&config, &found, stopped)? else { return Ok(None) };
        let about = About { config: &config, list: list.as_ref(), redriven: &redriven, reveal: args.reveal };
        Ok(Some(match args.json {
            true => format!("{}\n", serde_json::to_string(&about.json(&found)).map_err(CommandError::told)?),
            false => about.words(&found),
        }))
    });
    print!("{}", shown.await?.ok_or(CommandError::Stopped)?);
    Ok(ExitCode::SUCCESS)
}

/// The one record; or what there is instead.
fn range_of(topic: &str, place: Place, there: &[Range]) -> Result<Range, String> {
    let Some(range) = there.iter().find(|range| range.place.1 == place.partition) else {
        let last = there.len().saturating_sub(1);
        return Err(format!("topic {topic:?} has no partition {}: it has 0 to {last}", place.partition));
    };
    if range.begin == range.end {
        return Err(format!("partition {} of topic {topic:?} holds nothing", place.partition));
    }
    if !(range.begin..range.end).contains(&place.offset) {
        let gone = if place.offset < range.begin { ": what is older than its retention is gone" } else { "" };
        return Err(format!(
            "partition {} of topic {topic:?} holds the offsets {} to {}, and not {}{gone}",
            place.partition,
            range.begin,
            range.end - 1,
            place.offset
        ));
    }
    Ok(Range { begin: place.offset, end: place.offset + 1, ..range.clone() })
}

/// What happened and what to do, in plain words.
struct Meaning {
    because: &'static str,
    happened: String,
    to_do: &'static str,
    command: Option<String>,
}

impl Meaning {
    fn of_foreign() -> Meaning {
        let because = "another tool wrote or changed it: this program's headers are missing, not whole, or others stand behind \
                       them";
        let to_do = "ask whoever writes to this topic. It is never redriven";
        Meaning { because, happened: because.to_owned(), to_do, command: None }
    }

    fn of(letter: &Letter, redriven: bool, suppressed: bool) -> Meaning {
        let reason = Reason::of(&letter.reason);
        let because = reason.map_or("a reason of a newer version of this program", Reason::because);
        let to_do = match (reason, letter.truncated) {
            _ if redriven => {
                "nothing here: it was put into the queue again. Had it failed there, there would be a newer letter; had \
                 the queue lost it (nat_destination_records_gone_total), redrive --again would send it"
            }
            _ if suppressed => {
                "nothing: its contact is on the suppression list, so that redrive and replay pass it over"
            }
            (Some(reason), Some(_)) => reason.what_to_do_of_cut(),
            (None, Some(_)) => CUT,
            (Some(reason), None) => reason.what_to_do(),
            (None, None) => "look at it with the version of this program that wrote it",
        };
        // One that another tool wrote may be no word that the command takes.
        let can_be = !redriven && !suppressed && letter.truncated.is_none() && is_word(&letter.reason);
        // By itself redrive would pass it over.
        let often = match letter.redrives {
            redrives if redrives >= MAX_REDRIVES => format!(" --max-redrives {}", u64::from(redrives) + 1),
            _ => String::new(),
        };
        let command = format!("nat-destination dead-letters redrive --reason {}{often} --dry-run", letter.reason);
        Meaning {
            because,
            happened: letter.message.as_deref().map_or_else(|| because.to_owned(), without_addresses),
            to_do,
            command: can_be.then_some(command),
        }
    }
}

/// What there is to be known beside a record.
struct About<'a> {
    config: &'a Config,
    list: Option<&'a SuppressList>,
    redriven: &'a Redriven,
    reveal: bool,
}

impl About<'_> {
    /// `None`: there is no list, or its contact is not known.
    fn suppressed(&self, found: &Found) -> Option<bool> {
        Some(self.list?.holds(&found.contact(self.config)?))
    }

    fn meaning(&self, found: &Found, letter: &Letter) -> Meaning {
        Meaning::of(letter, self.redriven.at(found.place()).is_some(), self.suppressed(found) == Some(true))
    }

    fn words(&self, found: &Found) -> String {
        let About { config, redriven, reveal, .. } = *self;
        let (place, at) = (found.place(), known(found.at()));
        let topic = &config.topics.dead_letter;
        match &found.kind {
            Kind::Note(note) => {
                let taken = Place::from(*note);
                format!("{place} is no dead letter but the note, written {at}, that {taken} has been redriven\n")
            }
            Kind::Foreign(headers) => {
                let mut text = Text::new(&format!("record {place} of {topic}, written {at}"));
                let Meaning { happened, to_do, .. } = Meaning::of_foreign();
                text.line("what happened", &happened);
                text.line("what to do", to_do);
                text.record(found, headers, reveal);
                text.0
            }
            Kind::Letter(letter) => {
                let mut text = Text::new(&format!("dead letter {place} of {topic}, written {at}"));
                text.letter(letter, self.meaning(found, letter), redriven.at(found.place()));
                let contact = found.contact(config);
                let listed = if self.suppressed(found) == Some(true) { ", suppressed" } else { "" };
                text.line(
                    "contact",
                    &contact.map_or_else(|| "not known".to_owned(), |contact| format!("{contact}{listed}")),
                );
                text.record(found, &letter.original, reveal);
                text.0
            }
        }
    }

    /// The line of `list`, and all that `words` tells.
    fn json(&self, found: &Found) -> Shown {
        let About { config, redriven, reveal, .. } = *self;
        let (headers, meaning) = match &found.kind {
            Kind::Note(note) => {
                let (place, time) = (found.place().to_string(), rfc3339(found.at()));
                let note_of = Place::from(*note).to_string();
                let members = [("place", json!(place)), ("time", json!(time)), ("note_of", json!(note_of))];
                let members = members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                return Shown { members, value: None };
            }
            Kind::Letter(letter) => (&letter.original, self.meaning(found, letter)),
            Kind::Foreign(headers) => (headers, Meaning::of_foreign()),
        };
        let mut all = Row::of(config, found).json(redriven);
        if let Kind::Letter(letter) = &found.kind {
            details(&mut all, letter);
            all.insert("suppressed".into(), json!(self.suppressed(found)));
        }
        all.insert("what_happened".into(), meaning.happened.into());
        all.insert("what_to_do".into(), meaning.to_do.into());
        all.insert("command".into(), json!(meaning.command));
        if reveal {
            export::bytes(&mut all, "key", found.key());
            all.insert("headers".into(), export::headers(headers));
        } else {
            let header = |(name, value): &(String, Option<Vec<u8>>)| json!({"name": masked::name(name), "value": value.as_deref().map(masked::length)});
            all.insert("key".into(), json!(found.key().map(masked::length)));
            all.insert("headers".into(), headers.iter().map(header).collect());
        }
        let event = found.value().filter(|_| reveal).and_then(raw);
        match found.value() {
            _ if event.is_some() => {}
            Some(value) if !reveal => drop(all.insert("value".into(), masked(value))),
            value => export::bytes(&mut all, "value", value),
        }
        Shown { members: all, value: event }
    }
}

/// Lines with a name before each.
struct Text(String);

impl Text {
    fn new(title: &str) -> Text {
        Text(format!("{title}\n\n"))
    }

    fn line(&mut self, name: &str, what: &str) {
        let lines: Vec<String> = what.lines().map(printable).collect();
        self.0.push_str(&format!("{name:<15}{}\n", lines.join(&format!("\n{:15}", ""))));
    }

    fn letter(&mut self, letter: &Letter, meaning: Meaning, redriven: Option<i64>) {
        let Meaning { because, happened, to_do, command } = meaning;
        self.line("what happened", &happened);
        self.line("reason", &format!("{}: {because}", letter.reason));
        if let Some(status) = letter.status {
            self.line("status", &status.to_string());
        }
        if let Some(answer) = &letter.answer {
            self.line("answer", &without_addresses(answer));
        }
        if let (Some(attempts), Some(first), Some(last)) = (letter.attempts, letter.first_attempt, letter.last_attempt)
        {
            self.line("attempts", &format!("{attempts}: the first {}, the last {}", shown(first), shown(last)));
        }
        self.line("redrives", &format!("{} before it became this letter", letter.redrives));
        self.line("redriven", &redriven.map_or_else(|| "no".to_owned(), shown));
        if let Some(origin) = &letter.origin {
            let item = origin.item.map(|item| format!(", item {item} of a batch")).unwrap_or_default();
            let at = format!("partition {}, offset {}{item}", origin.partition, origin.offset);
            let topic = without_addresses(&origin.topic);
            self.line("came from", &format!("topic {topic}, {at}, written {}", known(origin.timestamp)));
        }
        if let Some(length) = letter.truncated {
            let length = counted(length, "byte");
            self.line("cut", &format!("its beginning only; the whole, {length}, stands where it came from"));
        }
        if letter.bare {
            self.line("", "key and headers of the source record are left out");
        }
        if !letter.newer.is_empty() {
            self.line("newer", &format!("headers that this version does not know: {}", newer(letter).join(", ")));
        }
        self.line("what to do", to_do);
        if let Some(command) = command {
            self.line("", &command);
        }
    }

    /// The source record: key, headers, value.
    fn record(&mut self, found: &Found, headers: &Headers, reveal: bool) {
        let shown = |bytes: Option<&[u8]>| match bytes {
            None => "(none)".to_owned(),
            Some(bytes) if reveal => String::from_utf8_lossy(bytes).into_owned(),
            Some(bytes) => masked::length(bytes),
        };
        self.line("key", &shown(found.key()));
        for (name, value) in headers {
            let name = if reveal { name.clone() } else { masked::name(name) };
            self.line("header", &format!("{name}: {}", shown(value.as_deref())));
        }
        self.line("value", &found.value().map_or_else(|| "(none)".to_owned(), |value| value_of(value, reveal)));
        if !reveal && std::io::stdout().is_terminal() {
            self.0.push_str("\nPersonal data is hidden; --reveal shows the event as it is.\n");
        }
    }
}

fn value_of(bytes: &[u8], reveal: bool) -> String {
    match masked(bytes) {
        _ if reveal => String::from_utf8_lossy(bytes).into_owned(),
        Value::String(text) => text,
        json => format!("{json:#}"),
    }
}

fn newer(letter: &Letter) -> Vec<String> {
    letter.newer.iter().map(|name| masked::name(name)).collect()
}

/// A newer version's letter may tell no time.
fn known(millis: i64) -> String {
    rfc3339(millis).map_or_else(|| "at a time that is not known".to_owned(), |_| shown(millis))
}

/// For programs. The event is the text that came: read and written again, long numbers and members of one name are lost.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    members: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Box<RawValue>>,
}

/// In one line: where JSON may hold a line's end, a space says the same. `None`: it is no JSON.
fn raw(bytes: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(bytes).ok()?.replace(['\n', '\r'], " ");
    RawValue::from_string(text).ok()
}

fn details(all: &mut Map<String, Value>, letter: &Letter) {
    for (name, value) in [
        ("first_attempt", json!(letter.first_attempt.and_then(rfc3339))),
        ("last_attempt", json!(letter.last_attempt.and_then(rfc3339))),
        ("answer", json!(letter.answer.as_deref().map(without_addresses))),
        ("truncated_from", json!(letter.truncated)),
        ("bare", json!(letter.bare)),
        ("newer", json!(newer(letter))),
    ] {
        all.insert(name.into(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_partition_and_an_offset_and_what_is_not_there_is_told_with_what_is() {
        assert_eq!(place("2:17"), Ok(Place { partition: 2, offset: 17 }));
        for wrong in ["", "17", "2:", ":17", "-1:3", "2:-3", "2:17:1", "a:b"] {
            assert!(place(wrong).is_err(), "{wrong:?}");
        }
        let range = |partition, begin, end| Range { place: ("t".into(), partition), begin, end };
        let there = [range(0, 5, 9), range(1, 3, 3)];
        let of = |partition, offset| range_of("t", Place { partition, offset }, &there);
        assert_eq!(of(0, 8), Ok(range(0, 8, 9)));
        for (partition, offset, told) in [
            (0, 9, "the offsets 5 to 8, and not 9"),
            (0, 4, "the offsets 5 to 8, and not 4: what is older than its retention is gone"),
            (1, 3, "holds nothing"),
            (2, 0, "it has 0 to 1"),
        ] {
            assert!(of(partition, offset).is_err_and(|error| error.ends_with(told)), "{partition}:{offset}");
        }
    }

    fn letter(redrives: u32) -> Letter {
        let origin = crate::dead_letter::Origin {
            topic: "backfill:ada%40example.com.jsonl".into(),
            partition: 0,
            offset: 1,
            timestamp: -1,
            key: None,
            item: None,
            road: None,
        };
        let reason = Reason::of("rejected").expect("a reason");
        let verdict = crate::dead_letter::Verdict { origin: &origin, stage: "deliver", reason, attempts: None };
        match Kind::of(None, Some(b"{}"), crate::kafka::headers_of(&verdict.headers(&Vec::new()))) {
            Kind::Letter(letter) => Letter { redrives, newer: vec!["nat.ada@example.com".into()], ..*letter },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_takes_a_letter_that_was_redriven_as_often_as_redrive_allows_by_itself() {
        let command = |redrives| Meaning::of(&letter(redrives), false, false).command.expect("a command");
        assert!(!command(2).contains("--max-redrives"), "{}", command(2));
        assert!(command(3).contains(" --max-redrives 4 "), "{}", command(3));
    }

    #[test]
    fn no_command_is_offered_where_the_reason_is_no_word_that_it_takes() {
        let letter = Letter { reason: "Bad Reason x".into(), ..letter(0) };
        assert_eq!(Meaning::of(&letter, false, false).command, None);
    }

    #[test]
    fn what_earlier_versions_wrote_is_shown_without_an_address_and_without_a_time_that_is_none() {
        let mut text = Text::new("");
        let letter = Letter { answer: Some("no ada&#64;example.com".into()), ..letter(0) };
        text.letter(&letter, Meaning::of(&letter, false, false), None);
        assert!(!text.0.contains("ada") && !text.0.contains("1969"), "{}", text.0);
        assert!(
            text.0.contains("written at a time that is not known") && text.0.contains("no (redacted)"),
            "{}",
            text.0
        );
    }

    #[test]
    fn a_revealed_event_is_the_text_that_came() {
        let event = "{\"b\": 12345678901234567890123,\n \"a\": 1.10, \"a\": 2}";
        assert_eq!(value_of(event.as_bytes(), true), event);
        let raw = |text: &str| raw(text.as_bytes()).map(|raw| raw.get().to_owned());
        assert_eq!(raw(event), Some(event.replace('\n', " ")));
        assert_eq!(raw("{\"a\":"), None);
    }
}
