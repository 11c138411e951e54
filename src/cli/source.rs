//! Where an event came from, as tables and JSON have it. A backfilled file may be called by an address.

use serde_json::{Value, json};

use super::time::rfc3339;
use crate::address::without_addresses;
use crate::dead_letter::Origin;

/// `topic 1:77`, its item of a batch, and the road where it was not ingest's.
pub fn words(source: &Origin<'_>) -> String {
    let item = source.item.map(|item| format!(" item {item}")).unwrap_or_default();
    let road = source.road.map(|road| format!(" ({})", road.as_str())).unwrap_or_default();
    format!("{} {}:{}{item}{road}", without_addresses(&source.topic), source.partition, source.offset)
}

pub fn json(source: &Origin<'_>) -> Value {
    json!({
        "topic": without_addresses(&source.topic),
        "partition": source.partition,
        "offset": source.offset,
        "time": rfc3339(source.timestamp),
        "item": source.item,
        "road": source.road.map(|road| road.as_str()),
    })
}
