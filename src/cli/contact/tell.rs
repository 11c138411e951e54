//! What is known of a contact, in words and as JSON. Hashes, places and times; no event's body, no address.

use serde_json::{Value, json};

use super::known::{Delivery, Known, Queued, State, What};
use super::letter::{Event, Letter};
use crate::cli::dead_letters::row::Row;
use crate::cli::source;
use crate::cli::table::{counted, table};
use crate::cli::time::{rfc3339, shown};
use crate::config::Config;

const ON_ITS_WAY: &[State] = &[State::Waiting, State::Duplicate];

/// For people.
pub fn words(config: &Config, known: &Known) -> String {
    let mut text = format!(
        "contact {} ({}), partition {} of {} and {}\n",
        known.contact,
        known.contact.whole(),
        known.partition,
        config.topics.queue,
        config.topics.delivered
    );
    text += match known.suppressed {
        Some(true) => "suppressed: its events are filtered (suppress.file)\n",
        Some(false) => "not suppressed: it is not on the list (suppress.file)\n",
        None => "not suppressed: there is no list (suppress.file)\n",
    };
    text += &section("delivered", &["day", "at", "queue offset", "source", ""], &[2], visits(known));
    text +=
        &section("Engage values delivered", &["key", "value", "at", "queue offset", "source", ""], &[3], engage(known));
    let head = ["queue offset", "since", "day", "Engage", "attempts", "last attempt", "source", ""];
    text += &section("waiting", &head, &[0, 4], known.in_state(ON_ITS_WAY).map(waiting).collect());
    let head = [&Row::HEAD[..Row::HEAD.len() - 1], &["day", "Engage"]].concat();
    let letters = known.letters.iter().flat_map(|one| letter(known, one)).collect();
    text += &section("dead letters", &head, &Row::RIGHT, letters);
    text + &remarks(known)
}

fn section(title: &str, head: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return format!("\n{title}: nothing\n");
    }
    let table = table(head, right, &rows);
    let lines: String = table.lines().map(|line| format!("  {line}\n")).collect();
    format!("\n{title}:\n{lines}")
}

fn remarks(known: &Known) -> String {
    let mut text = String::from("\n");
    let settled = known.in_state(&[State::Settled]).count();
    if settled > 0 {
        text += &format!(
            "The queue holds {} of it besides: duplicates, filtered, dead letters, or delivered and forgotten since.\n",
            counted(settled as u64, "settled record")
        );
    }
    if known.deliveries.is_empty() && known.queued.is_empty() && known.letters.is_empty() {
        text += "Nothing is known of this contact. What was filtered, and what the topics have deleted since, leaves no \
                 trace; what is in the source topics and not in the queue yet is not looked at.\n";
    }
    text + &untold(known)
}

/// What cannot be told, and how it could be.
pub fn untold(known: &Known) -> String {
    let unattributed = match known.unattributed {
        0 => String::new(),
        count => format!(
            "{} of this partition came from records that the queue holds no more: whose, cannot be told from a hash. Name the \
             audience or trait to look for it: --engage KEY.\n",
            counted(count, "Engage entry")
        ),
    };
    let unreadable = match known.unreadable {
        0 => String::new(),
        count => format!(
            "Passed over: {} of this partition of what was delivered, a newer version's or another tool's, which may be this \
             contact's. Ask with the newest version that has run here.\n",
            counted(count, "record")
        ),
    };
    let illegible = match known.illegible {
        0 => String::new(),
        count => format!(
            "{} cannot be read as an event: whose, if anybody's, cannot be told (dead-letters list --reason not_json and others).\n",
            counted(count, "dead letter")
        ),
    };
    unattributed + &unreadable + &illegible
}

fn visits(known: &Known) -> Vec<Vec<String>> {
    let row = |delivery: &Delivery| match &delivery.what {
        What::Visit(day) => Some([vec![day.to_string()], of_delivery(known, delivery)].concat()),
        What::Engage { .. } => None,
    };
    known.deliveries.iter().filter_map(row).collect()
}

fn engage(known: &Known) -> Vec<Vec<String>> {
    let row = |delivery: &Delivery| match &delivery.what {
        What::Engage { key, value } => {
            let value = match value {
                Some(value) => value.clone(),
                None if delivery.is_in_doubt() => "(in doubt: this one was given up)".into(),
                None => "(only its hash is known)".into(),
            };
            Some([vec![key.clone(), value], of_delivery(known, delivery)].concat())
        }
        What::Visit(_) => None,
    };
    known.deliveries.iter().filter_map(row).collect()
}

fn of_delivery(known: &Known, delivery: &Delivery) -> Vec<String> {
    let offset = queue_offset(delivery);
    let gone = if offset.is_none() { "(before a resize)" } else { "(the queue holds it no more)" };
    let source = record_of(known, delivery).map_or(gone.into(), source_of);
    let forgotten = if delivery.remembered { "" } else { "older than dedup.retention: counts no more" };
    let offset = offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
    vec![shown(delivery.delivered.at), offset, source, forgotten.into()]
}

/// `None`: a resize carried it over from another partition, whose offsets mean nothing here.
fn queue_offset(delivery: &Delivery) -> Option<i64> {
    Some(delivery.delivered.queue_offset).filter(|offset| *offset >= 0)
}

/// The queue record that was delivered or given up, if it is there still.
fn record_of<'a>(known: &'a Known, delivery: &Delivery) -> Option<&'a Queued> {
    known
        .queued
        .get(&delivery.delivered.queue_offset)
        .filter(|queued| queued.state == State::Delivered || delivery.is_in_doubt())
}

fn waiting((offset, queued): (i64, &Queued)) -> Vec<String> {
    let tried = queued.tried.as_ref();
    vec![
        offset.to_string(),
        shown(queued.at),
        day(&queued.event),
        engage_of(&queued.event),
        tried.map_or_else(|| "0".into(), |tried| tried.attempts.to_string()),
        tried.map_or_else(|| "-".into(), |tried| shown(tried.last)),
        source_of(queued),
        if queued.state == State::Duplicate { "a duplicate: it is not sent".into() } else { String::new() },
    ]
}

/// As `dead-letters list` has it, without the contact, which is the same, but with what the event tells: a line for each of
/// the contact's events in it.
fn letter(known: &Known, letter: &Letter) -> impl Iterator<Item = Vec<String>> {
    let mut cells = letter.row.cells(&known.redriven);
    cells.pop();
    letter.events.iter().map(move |event| [&cells[..], &[day(event), engage_of(event)]].concat())
}

fn day(event: &Event) -> String {
    event.day.map_or_else(|| "-".into(), |day| day.to_string())
}

fn engage_of(event: &Event) -> String {
    event.engage.as_ref().map_or_else(|| "-".into(), |(key, value)| format!("{key}={value}"))
}

fn source_of(queued: &Queued) -> String {
    queued.origin.as_ref().map_or_else(|| "another program".into(), source::words)
}

/// For programs.
pub fn json(known: &Known) -> Value {
    let events =
        |states| known.in_state(states).map(|(offset, queued)| queued_json(offset, queued)).collect::<Vec<_>>();
    json!({
        "contact": known.contact.to_string(),
        "hash": known.contact.whole(),
        "partition": known.partition,
        "suppressed": known.suppressed,
        "delivered": known.deliveries.iter().map(|delivery| delivery_json(known, delivery)).collect::<Vec<_>>(),
        "waiting": events(ON_ITS_WAY),
        "dead_letters": known.letters.iter().flat_map(|letter| letter_json(known, letter)).collect::<Vec<_>>(),
        "settled_otherwise": known.in_state(&[State::Settled]).count(),
        "engage_entries_of_nobody_known": known.unattributed,
        "unreadable": known.unreadable,
        "illegible_dead_letters": known.illegible,
    })
}

fn delivery_json(known: &Known, delivery: &Delivery) -> Value {
    let (day, key, value) = match &delivery.what {
        What::Visit(day) => (Some(day.to_string()), None, None),
        What::Engage { key, value } => (None, Some(key), value.as_ref()),
    };
    json!({
        "day": day,
        "engage_key": key,
        "engage_value": value,
        "in_doubt": delivery.is_in_doubt(),
        "at": rfc3339(delivery.delivered.at),
        "queue_offset": queue_offset(delivery),
        "remembered": delivery.remembered,
        "source": record_of(known, delivery).and_then(|queued| queued.origin.as_ref()).map(source::json),
    })
}

fn queued_json(offset: i64, queued: &Queued) -> Value {
    json!({
        "queue_offset": offset,
        "since": rfc3339(queued.at),
        "day": queued.event.day.map(|day| day.to_string()),
        "engage_key": queued.event.engage.as_ref().map(|(key, _)| key),
        "engage_value": queued.event.engage.as_ref().map(|(_, value)| value),
        "duplicate": queued.state == State::Duplicate,
        "attempts": queued.tried.as_ref().map_or(0, |tried| tried.attempts),
        "last_attempt": queued.tried.as_ref().and_then(|tried| rfc3339(tried.last)),
        "source": queued.origin.as_ref().map(source::json),
    })
}

/// One object for each of the contact's events in it, as in words.
fn letter_json(known: &Known, letter: &Letter) -> impl Iterator<Item = Value> {
    let row = letter.row.json(&known.redriven);
    letter.events.iter().map(move |event| {
        let mut json = row.clone();
        for (name, value) in [
            ("day", json!(event.day.map(|day| day.to_string()))),
            ("engage_key", json!(event.engage.as_ref().map(|(key, _)| key))),
            ("engage_value", json!(event.engage.as_ref().map(|(_, value)| value))),
        ] {
            json.insert(name.to_owned(), value);
        }
        Value::Object(json)
    })
}
