//! The `delivered` topic, read by its documented bytes: a record's key is 16 bytes, its value says version (1), kind (1
//! visit, 2 Engage, 3 tried in vain so far), when (8 bytes) and from which offset of the queue (8 bytes); more for the
//! latter two. A record without a value forgets its key.

use std::collections::HashMap;
use std::path::Path;
use std::{fs, io};

use serde_json::Value;

use super::{Court, Judgement, Topics};
use crate::clock::{self, MILLI, Micros};
use crate::cluster::Record;
use crate::events::Fate;

const TRIED: u8 = 3;
/// The offset of what a resize has copied into another partition.
const COPIED: i64 = -1;

/// One delivery.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// When the broker appended it.
    pub appended: Micros,
}

pub fn read(court: &mut Court<'_>, judgement: &mut Judgement) {
    let mut at_queue: HashMap<(i32, i64), usize> = HashMap::new();
    for (number, case) in court.cases.iter().enumerate() {
        at_queue.extend(case.queued.iter().map(|record| ((record.partition, record.offset), number)));
    }
    let mut meanings: HashMap<&[u8], String> = HashMap::new();
    let mut copies = Vec::new();
    for record in &court.evidence.topics.delivered {
        let at = format!("delivered record {}:{}", record.partition, record.offset);
        if record.value.is_none() && record.key.as_ref().is_some_and(|key| key.len() == 16) {
            continue;
        }
        let Some((kind, accepted, offset)) = parse(record) else {
            judgement.wrong(6, format!("{at} is not what is documented: {:?}", record.value));
            continue;
        };
        if offset == COPIED {
            copies.push(record);
            continue;
        }
        let Some(number) = at_queue.get(&(record.partition, offset)) else {
            judgement.wrong(4, format!("{at} names offset {offset} of its queue partition, where there is no record"));
            continue;
        };
        if kind == TRIED || is_doubt(record) {
            continue;
        }
        let event = court.cases[*number].event;
        let (right_kind, meaning) = match &event.fate {
            Fate::Engage { key, .. } => (2, format!("{} {key}", event.contact)),
            _ => (1, format!("{} {}", event.contact, event.day)),
        };
        let known = meanings.entry(record.key.as_deref().unwrap_or_default()).or_insert_with(|| meaning.clone());
        if kind != right_kind || *known != meaning {
            judgement.wrong(4, format!("{at} has the key of {known}, and comes from {meaning}"));
        }
        // It says itself when that was, to the millisecond.
        if (accepted - record.at / MILLI).abs() > 3_600_000 {
            judgement
                .wrong(4, format!("{at} says that it was accepted at {accepted}, and was appended at {}", record.at));
        }
        court.changelog.entry(*number).or_default().push(Entry { appended: record.at });
    }
    for copy in &copies {
        if !is_doubt(copy) && !meanings.contains_key(copy.key.as_deref().unwrap_or_default()) {
            judgement.wrong(4, format!("delivered record {}:{} is a copy of none", copy.partition, copy.offset));
        }
    }
    if !copies.is_empty() {
        judgement.count("changelog records copied by the resize", copies.len() as u64);
    }
    court.changelog.values_mut().for_each(|entries| entries.sort_by_key(|entry| entry.appended));
    judgement.count("changelog records", court.evidence.topics.delivered.len() as u64);
    for (number, entries) in &court.changelog {
        let case = &court.cases[*number];
        let mut accepted = case.requests.iter().map(|request| court.request(*request)).filter(|r| r.accepted());
        if !accepted.any(|request| request.decided <= entries[0].appended + 5 * MILLI) {
            judgement.wrong(4, format!("the changelog says that {} was accepted, and it was not", case.name()));
        }
    }
}

/// One line a record, in the order of their appending, for whoever follows up a violation.
pub fn write(topics: &Topics, path: &Path) -> io::Result<()> {
    let ids = topics.queue.iter().map(|record| {
        let value = serde_json::from_slice(record.value.as_deref().unwrap_or_default()).unwrap_or(Value::Null);
        let id = value["messageId"].as_str().or(value["MessageId"].as_str()).unwrap_or_default().to_owned();
        ((record.partition, record.offset), id)
    });
    let ids: HashMap<_, _> = ids.collect();
    let mut lines: Vec<_> = topics
        .delivered
        .iter()
        .map(|record| {
            let (kind, accepted, offset) = parse(record).unwrap_or_default();
            let id = ids.get(&(record.partition, offset)).map_or("", String::as_str);
            let (appended, accepted) = (clock::tell(record.at), clock::tell(accepted * MILLI));
            let at = format!("{}:{}", record.partition, record.offset);
            (
                record.at,
                format!("{appended}  {at}  kind {kind}, accepted {accepted}, from queue offset {offset}  {id}\n"),
            )
        })
        .collect();
    lines.sort();
    fs::write(path, lines.into_iter().map(|(_, line)| line).collect::<String>())
}

/// No delivery: that Engage value was given up, and which one Nat.app has is in doubt.
fn is_doubt(record: &Record) -> bool {
    record.value.as_deref().is_some_and(|value| value[1] == 2 && value[18..26] == [0; 8])
}

/// Kind, Unix milliseconds, offset.
fn parse(record: &Record) -> Option<(u8, i64, i64)> {
    let value = record.value.as_deref()?;
    let word = |at: usize| Some(i64::from_be_bytes(value.get(at..at + 8)?.try_into().ok()?));
    let of_its_kind = matches!((value.get(1)?, value.len()), (1, 18) | (2, 46) | (&TRIED, 38));
    let right = record.key.as_ref().is_some_and(|key| key.len() == 16) && value.first() == Some(&1) && of_its_kind;
    right.then_some((*value.get(1)?, word(2)?, word(10)?))
}
