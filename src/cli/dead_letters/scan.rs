//! Reading the dead-letter topic to an end that is fixed before: what all of these commands share.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use jiff::Timestamp;
use rdkafka::message::{Message, OwnedMessage};

use super::reason::{is_known, misspelt};
use crate::cli::progress::Progress;
use crate::cli::table::counted;
use crate::cli::{CommandError, Stopped};
use crate::config::Config;
use crate::dead_letter::record::{concerns, contact, is_illegible};
use crate::dead_letter::{Filter, Kind, Note};
use crate::dedup::Contact;
use crate::kafka::{self, Next, Range, RangeReader};

/// Where a record of the dead-letter topic stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl From<Note> for Place {
    fn from(Note { partition, offset }: Note) -> Place {
        Place { partition, offset }
    }
}

/// One record of the topic.
pub struct Found {
    message: Box<OwnedMessage>,
    pub kind: Kind,
}

impl Found {
    pub fn new(message: Box<OwnedMessage>) -> Found {
        let kind = Kind::read(&*message);
        Found { message, kind }
    }

    pub fn place(&self) -> Place {
        Place { partition: self.message.partition(), offset: self.message.offset() }
    }

    /// When it was written: Unix milliseconds.
    pub fn at(&self) -> i64 {
        self.message.timestamp().to_millis().unwrap_or(-1)
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.message.key()
    }

    pub fn value(&self) -> Option<&[u8]> {
        self.message.payload()
    }

    /// Whose event it is, where that can be told; a batch is nobody's alone.
    pub fn contact(&self, config: &Config) -> Option<Contact> {
        let is_event = match &self.kind {
            Kind::Letter(letter) => letter.is_event,
            Kind::Foreign(_) => true,
            Kind::Note(_) => return None,
        };
        let of_header = || if let Kind::Letter(letter) = &self.kind { letter.contact } else { None };
        contact(&config.rules, self.value(), is_event, Timestamp::now()).or_else(of_header)
    }

    /// Whether it may be anybody's event, and nobody can tell whose.
    pub fn is_illegible(&self, config: &Config) -> bool {
        let illegible = |is_event| is_illegible(&config.rules, self.value(), is_event, Timestamp::now());
        match &self.kind {
            Kind::Letter(letter) => letter.contact.is_none() && illegible(letter.is_event),
            Kind::Foreign(_) => self.value().is_some() && illegible(true) && illegible(false),
            Kind::Note(_) => false,
        }
    }

    /// Whether the filter takes it; never a note.
    fn is_meant(&self, config: &Config, filter: &Filter) -> bool {
        let concerns = |wanted, is_event| concerns(wanted, &config.rules, self.value(), is_event, Timestamp::now());
        match &self.kind {
            Kind::Letter(letter) => filter
                .takes(letter, self.at(), |wanted| letter.contact == Some(wanted) || concerns(wanted, letter.is_event)),
            // It may be either.
            Kind::Foreign(_) => {
                filter.takes_foreign(self.at(), |wanted| concerns(wanted, true) || concerns(wanted, false))
            }
            Kind::Note(_) => false,
        }
    }
}

/// Which letters a redrive has taken, and when first: Unix milliseconds. A note may stand anywhere behind its letter, so that
/// nobody knows before all is read; earlier versions wrote it into any partition.
#[derive(Debug, Default)]
pub struct Redriven(BTreeMap<Place, i64>);

impl Redriven {
    /// Remembers a note; false if it is none.
    pub fn note(&mut self, found: &Found) -> bool {
        let Kind::Note(note) = found.kind else { return false };
        let at = self.0.entry(note.into()).or_insert(i64::MAX);
        *at = found.at().min(*at);
        true
    }

    pub fn at(&self, place: Place) -> Option<i64> {
        self.0.get(&place).copied()
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.0.keys().copied()
    }
}

/// Where the letters may stand that the filter takes, and the notes of them, which are younger.
pub async fn ranges(config: &Config, filter: &Filter) -> Result<Vec<Range>, CommandError> {
    kafka::between(config, &config.topics.dead_letter, filter.since, None).await.map_err(CommandError::told)
}

/// All notes there are, for who has to know them before the letters; `None` if told to stop.
pub fn notes(
    config: &Config,
    filter: &Filter,
    ranges: Vec<Range>,
    stopped: &Stopped,
) -> Result<Option<Redriven>, CommandError> {
    let mut redriven = Redriven::default();
    let all = select(config, filter, ranges, "reading", stopped, |found| {
        redriven.note(&found);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(all.is_some().then_some(redriven))
}

/// What is said where the filter takes none of so many that were read. What is older than `--since` is not read.
pub fn none_of(read: u64, filter: &Filter) -> String {
    let since = filter.since.map(|since| format!(" since {since:.0}")).unwrap_or_default();
    match read {
        0 => format!("no dead letters{since}\n"),
        read => format!("{}{since} read, none of them meant by these filters\n", counted(read, "dead letter")),
    }
}

/// As `read`, but only what the filter takes, and all notes. How many letters were read; `None` if it did not come to the end.
pub fn select(
    config: &Config,
    filter: &Filter,
    ranges: Vec<Range>,
    what: &'static str,
    stopped: &Stopped,
    mut each: impl FnMut(Found) -> Result<ControlFlow<()>, CommandError>,
) -> Result<Option<u64>, CommandError> {
    let mut letters = 0;
    let mut unheard: Vec<&String> = filter.reasons.iter().filter(|word| !is_known(word)).collect();
    let all = read(config, ranges, what, stopped, |found| {
        if let Kind::Letter(letter) = &found.kind {
            unheard.retain(|word| **word != letter.reason);
        }
        let is_note = matches!(found.kind, Kind::Note(_));
        letters += u64::from(!is_note);
        match is_note || found.is_meant(config, filter) {
            true => each(found),
            false => Ok(ControlFlow::Continue(())),
        }
    })?;
    match unheard.first() {
        Some(word) if all => Err(misspelt(word)),
        _ => Ok(all.then_some(letters)),
    }
}

/// Whether a redrive has taken this one; `None` if told to stop. Reads what is younger than it, until there is a note of it.
/// Blocking.
pub fn redriven(config: &Config, letter: &Found, stopped: &Stopped) -> Result<Option<Redriven>, CommandError> {
    if !matches!(letter.kind, Kind::Letter(_)) {
        return Ok(Some(Redriven::default()));
    }
    let younger = Filter { since: Timestamp::from_millisecond(letter.at()).ok(), ..Filter::default() };
    let ranges = stopped.ask(ranges(config, &younger))?;
    let mut redriven = Redriven::default();
    read(config, ranges, "looking for its redrive", stopped, |found| {
        redriven.note(&found);
        let known = redriven.at(letter.place()).is_some();
        Ok(if known { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok((!stopped.is_so()).then_some(redriven))
}

/// Reads it all, unless it is told otherwise; true if it has come to the end.
pub fn read(
    config: &Config,
    ranges: Vec<Range>,
    what: &'static str,
    stopped: &Stopped,
    mut each: impl FnMut(Found) -> Result<ControlFlow<()>, CommandError>,
) -> Result<bool, CommandError> {
    let mut reader = RangeReader::new(config, ranges).map_err(CommandError::told)?;
    let mut progress = Progress::new(what, "records", reader.total());
    while !stopped.is_so() {
        match reader.next().map_err(CommandError::told)? {
            Next::Record(message) => {
                if each(Found::new(message))?.is_break() {
                    return Ok(false);
                }
            }
            Next::Idle => {}
            Next::End => return Ok(true),
        }
        progress.at(reader.done());
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_none_it_is_said_since_when() {
        let since = Filter { since: "2026-11-29T00:00:00Z".parse().ok(), ..Filter::default() };
        assert_eq!(none_of(0, &Filter::default()), "no dead letters\n");
        assert_eq!(none_of(0, &since), "no dead letters since 2026-11-29T00:00:00Z\n");
        assert_eq!(none_of(2, &Filter::default()), "2 dead letters read, none of them meant by these filters\n");
        let told = "1 dead letter since 2026-11-29T00:00:00Z read, none of them meant by these filters\n";
        assert_eq!(none_of(1, &since), told);
    }
}
