//! `dead-letters show`: one letter whole, what happened, and what to do.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Args;

use super::print;
use super::scan::{self, Found, Place};
use crate::cli::time::shown;
use crate::cli::{CommandError, SettingsArgs, interruptible, load};
use crate::config::Config;
use crate::dead_letter::masked::masked;
use crate::dead_letter::{Kind, Letter, Reason};
use crate::kafka::{self, Headers, Range};

/// Show one: the event, its headers, the answer, what happened and what to do
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters show 0:17 --config nat-destination.toml\n  \
    nat-destination dead-letters show 0:17 --config nat-destination.toml --reveal\n\n\
    `list` tells the places. Without --reveal the event's field names and shape are shown, and no personal data.")]
pub struct ShowArgs {
    /// Where it stands in the dead-letter topic
    #[arg(value_name = "PARTITION:OFFSET", value_parser = place)]
    place: Place,
    /// Show the event, its key and its headers as they are: they hold personal data
    #[arg(long)]
    reveal: bool,
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
    let topic = config.topics.dead_letter.clone();
    let there = kafka::whole(&config, &topic).await.map_err(CommandError::told)?;
    let range = range_of(&topic, args.place, &there).map_err(CommandError::Told)?;
    let shown = interruptible(move |stopped| {
        let mut shown = None;
        scan::read(&config, vec![range], "reading", stopped, |found| {
            shown = Some(words(&config, &found, args.reveal));
            Ok(ControlFlow::Break(()))
        })?;
        if stopped.is_so() {
            return Ok(None);
        }
        // A transaction's marker takes up an offset, and so does what compaction has removed.
        let nothing = || CommandError::Told(format!("topic {topic:?} holds no record at {}", args.place));
        shown.map(Some).ok_or_else(nothing)
    });
    let Some(text) = shown.await? else { return Ok(scan::cut_short()) };
    print(&text)?;
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
        return Err(format!(
            "partition {} of topic {topic:?} holds the offsets {} to {}, and not {}: what is older than its retention is gone",
            place.partition,
            range.begin,
            range.end - 1,
            place.offset
        ));
    }
    Ok(Range { begin: place.offset, end: place.offset + 1, ..range.clone() })
}

fn words(config: &Config, found: &Found, reveal: bool) -> String {
    let (place, at) = (found.place(), shown(found.at()));
    let topic = &config.topics.dead_letter;
    match &found.kind {
        Kind::Note(note) => {
            let taken = Place::from(*note);
            format!("{place} is no dead letter but the note, written {at}, that {taken} has been redriven\n")
        }
        Kind::Foreign(headers) => {
            let mut text = Text::new(&format!("record {place} of {topic}, written {at}"));
            text.line("what happened", "another tool wrote it: it has none of this program's headers");
            text.line("what to do", "ask whoever writes to this topic. It is never redriven");
            text.record(found, headers, reveal);
            text.0
        }
        Kind::Letter(letter) => {
            let mut text = Text::new(&format!("dead letter {place} of {topic}, written {at}"));
            text.letter(letter);
            let contact = found.contact(config, letter);
            text.line("contact", &contact.map_or_else(|| "not known".to_owned(), |contact| contact.to_string()));
            text.record(found, &letter.original, reveal);
            text.0
        }
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

    fn letter(&mut self, letter: &Letter) {
        let reason = Reason::of(&letter.reason);
        let because = reason.map_or("a reason of a newer version of this program", Reason::because);
        self.line("what happened", letter.message.as_deref().unwrap_or(because));
        self.line("reason", &format!("{}: {because}", letter.reason));
        if let Some(status) = letter.status {
            self.line("status", &status.to_string());
        }
        if let Some(answer) = &letter.answer {
            self.line("answer", answer);
        }
        if let (Some(attempts), Some(first), Some(last)) = (letter.attempts, letter.first_attempt, letter.last_attempt)
        {
            self.line("attempts", &format!("{attempts}: the first {}, the last {}", shown(first), shown(last)));
        }
        self.line("redriven", &format!("{} times before it became this letter", letter.redrives));
        if let Some(origin) = &letter.origin {
            let item = origin.item.map(|item| format!(", item {item} of a batch")).unwrap_or_default();
            let at = format!("partition {}, offset {}{item}", origin.partition, origin.offset);
            self.line("came from", &format!("topic {}, {at}, written {}", origin.topic, shown(origin.timestamp)));
        }
        if let Some(length) = letter.truncated {
            self.line("cut", &format!("its beginning only; the whole, {length} bytes, stands where it came from"));
        }
        if !letter.newer.is_empty() {
            self.line("newer", &format!("headers that this version does not know: {}", letter.newer.join(", ")));
        }
        let todo = match (reason, letter.truncated) {
            (_, Some(_)) => "replay it from its source topic: what is cut here cannot be redriven",
            (Some(reason), None) => reason.what_to_do(),
            (None, None) => "look at it with the version of this program that wrote it",
        };
        self.line("what to do", todo);
        self.line("", &format!("nat-destination dead-letters redrive --reason {} --dry-run", letter.reason));
    }

    /// The source record: key, headers, value.
    fn record(&mut self, found: &Found, headers: &Headers, reveal: bool) {
        let shown = |bytes: Option<&[u8]>| match bytes {
            None => "(none)".to_owned(),
            Some(bytes) if reveal => String::from_utf8_lossy(bytes).into_owned(),
            Some(bytes) => format!("({} bytes)", bytes.len()),
        };
        self.line("key", &shown(found.key()));
        for (name, value) in headers {
            self.line("header", &format!("{name}: {}", shown(value.as_deref())));
        }
        let value = if reveal { revealed(found.value()) } else { masked(found.value()) };
        self.line("value", &value);
        if !reveal && std::io::stdout().is_terminal() {
            self.0.push_str("\nPersonal data is hidden; --reveal shows the event as it is.\n");
        }
    }
}

/// As it is; for the eye, where it is JSON.
fn revealed(value: Option<&[u8]>) -> String {
    let Some(bytes) = value else { return "(none)".to_owned() };
    match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(json) => format!("{json:#}"),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Nothing in it can move the cursor or change the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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
            (0, 9, "the offsets 5 to 8"),
            (0, 4, "the offsets 5 to 8"),
            (1, 3, "holds nothing"),
            (2, 0, "it has 0 to 1"),
        ] {
            assert!(of(partition, offset).is_err_and(|error| error.contains(told)), "{partition}:{offset}");
        }
    }
}
