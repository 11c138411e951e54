//! One dead letter in a line, without personal data: what `list` and `explain --contact` list, and what `export` begins with.

use serde_json::{Map, Value, json};

use super::scan::{Found, Place, Redriven};
use crate::cli::source;
use crate::cli::time::{rfc3339, shown};
use crate::config::Config;
use crate::dead_letter::select::FOREIGN;
use crate::dead_letter::{Kind, Origin};

#[derive(Debug)]
pub struct Row {
    pub at: i64,
    pub place: Place,
    reason: String,
    status: Option<u16>,
    attempts: Option<u32>,
    redrives: u32,
    /// Without its key, which may be an address.
    source: Option<Origin<'static>>,
    contact: Option<String>,
}

impl Row {
    pub const HEAD: [&str; 9] =
        ["place", "time", "reason", "status", "attempts", "redrives", "redriven", "source", "contact"];
    /// Its columns of numbers.
    pub const RIGHT: [usize; 3] = [3, 4, 5];

    pub fn of(config: &Config, found: &Found) -> Row {
        let (at, place) = (found.at(), found.place());
        let contact = found.contact(config).map(|contact| contact.to_string());
        match &found.kind {
            Kind::Letter(letter) => Row {
                at,
                place,
                reason: letter.reason.clone(),
                status: letter.status,
                attempts: letter.attempts,
                redrives: letter.redrives,
                source: letter.origin.as_ref().map(|origin| Origin {
                    topic: origin.topic.clone(),
                    key: None,
                    ..*origin
                }),
                contact,
            },
            Kind::Foreign(_) | Kind::Note(_) => Row {
                at,
                place,
                reason: FOREIGN.to_owned(),
                status: None,
                attempts: None,
                redrives: 0,
                source: None,
                contact,
            },
        }
    }

    pub fn json(&self, redriven: &Redriven) -> Map<String, Value> {
        let members = [
            ("place", json!(self.place.to_string())),
            ("time", json!(rfc3339(self.at))),
            ("reason", json!(self.reason)),
            ("status", json!(self.status)),
            ("attempts", json!(self.attempts)),
            ("redrives", json!(self.redrives)),
            ("source", json!(self.source.as_ref().map(source::json))),
            ("contact", json!(self.contact)),
            ("redriven", json!(redriven.at(self.place).and_then(rfc3339))),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub fn cells(&self, redriven: &Redriven) -> Vec<String> {
        let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        vec![
            self.place.to_string(),
            shown(self.at),
            self.reason.clone(),
            or_dash(self.status.map(|status| status.to_string())),
            or_dash(self.attempts.map(|attempts| attempts.to_string())),
            self.redrives.to_string(),
            or_dash(redriven.at(self.place).map(shown)),
            or_dash(self.source.as_ref().map(source::words)),
            or_dash(self.contact.clone()),
        ]
    }
}
