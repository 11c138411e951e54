//! What is produced, and the fate that each event must have. The fate is known because the event was made for it: nothing
//! here reads an event.

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// All addresses end in this, so that a leak is found by one search.
pub const MARKER: &str = "chaos.example";
pub const SOURCE_PARTITIONS: i32 = 6;
/// The stand-in knows by these beginnings what it always does.
pub const REJECTED_CONTACT: &str = "refused-";
pub const FAILING_CONTACT: &str = "failing-";
pub const REJECTED_MESSAGE: &str = "rej-";

/// What Nat.app always says to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nature {
    Fine,
    /// 400.
    Rejected,
    /// 500.
    Failing,
}

/// What must become of an event.
#[derive(Debug, Clone)]
pub enum Fate {
    Filtered,
    Invalid(&'static str),
    Visit {
        nature: Nature,
    },
    /// Sent if the value differs from the last one accepted of this contact and key.
    Engage {
        key: String,
        value: Value,
    },
}

#[derive(Debug, Clone)]
pub struct Event {
    /// Its messageId, unique; an event that is no JSON has one too, which only its bytes do not hold.
    pub id: String,
    pub text: Vec<u8>,
    pub fate: Fate,
    /// As Nat.app has to see it; empty where it must not.
    pub contact: String,
    /// Its date in UTC.
    pub day: String,
}

pub type Header = (String, Option<Vec<u8>>);

/// One record of the source topic.
#[derive(Debug, Clone)]
pub struct Produced {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    /// More than one, or one with `batch`: a batch.
    pub events: Vec<Event>,
    pub batch: bool,
}

/// The header that tells which record it is, when the source is read back.
pub const NUMBER: &str = "chaos-number";

/// What the events are like.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Of 100 records: Engage, pairs of a rejected event and a good one, filtered, invalid, batches, refused contacts.
    pub engage: u32,
    pub pairs: u32,
    pub filtered: u32,
    pub invalid: u32,
    pub batches: u32,
    pub refused: u32,
    /// Of 100 visits: to a contact-day that there has been.
    pub repeated: u32,
    /// Records from one event of a contact that always fails to the next; 0: none.
    pub failing_every: usize,
}

impl Default for Mix {
    fn default() -> Mix {
        let (engage, pairs, filtered, invalid) = (15, 5, 10, 8);
        Mix { engage, pairs, filtered, invalid, batches: 5, refused: 3, repeated: 55, failing_every: 1500 }
    }
}

pub struct Generator {
    random: Rng,
    mix: Mix,
    /// Midnight of the present day.
    today: Timestamp,
    made: usize,
    contacts: usize,
    /// (contact, days ago) of visits so far.
    visited: Vec<(String, i64)>,
    sequences: Vec<Sequence>,
    /// What was thought of and not given out yet.
    waiting: Vec<Produced>,
}

/// The values of one contact and computation key.
struct Sequence {
    contact: String,
    key: String,
    value: Value,
}

const SEQUENCES: usize = 60;

impl Generator {
    pub fn new(seed: u64, mix: Mix, now: Timestamp) -> Generator {
        let midnight = now.as_second().div_euclid(86_400) * 86_400;
        let sequence = |number: usize| Sequence {
            // Some belong to contacts that also visit, so that both share a lane.
            contact: format!("person{}@{MARKER}", number / 2),
            key: format!("computed_{}", number % 2),
            value: if number.is_multiple_of(2) { Value::Bool(false) } else { json!(0) },
        };
        Generator {
            random: Rng::with_seed(seed),
            mix,
            today: Timestamp::from_second(midnight).unwrap_or(now),
            made: 0,
            contacts: 0,
            visited: Vec::new(),
            sequences: (0..SEQUENCES).map(sequence).collect(),
            waiting: Vec::new(),
        }
    }

    /// From now on nothing but good visits, each to a contact-day of its own.
    pub fn calm_down(&mut self) {
        let (engage, pairs, filtered, invalid, batches, refused) = (0, 0, 0, 0, 0, 0);
        self.mix = Mix { engage, pairs, filtered, invalid, batches, refused, repeated: 0, failing_every: 0 };
    }

    /// The next record.
    pub fn record(&mut self) -> Produced {
        let mut record = self.waiting.pop().unwrap_or_else(|| self.think());
        record.headers.insert(0, (NUMBER.into(), Some(self.made.to_string().into_bytes())));
        self.made += 1;
        record
    }

    fn think(&mut self) -> Produced {
        let mix = self.mix;
        if mix.failing_every > 0 && self.made % mix.failing_every == mix.failing_every - 1 {
            let contact = format!("{FAILING_CONTACT}{}@{MARKER}", self.made);
            let event = self.visit("v", &contact, 1, Nature::Failing);
            return self.one(event);
        }
        let drawn = self.random.u32(0..100);
        let mut limit = 0;
        let mut is = |share: u32| {
            limit += share;
            drawn < limit
        };
        if is(mix.engage) {
            return self.engage();
        }
        if is(mix.pairs) {
            return self.pair();
        }
        if is(mix.batches) {
            return self.batch();
        }
        if is(mix.filtered) {
            return self.filtered();
        }
        if is(mix.invalid) {
            let event = self.invalid();
            return self.one(event);
        }
        if is(mix.refused) {
            let contact = format!("{REJECTED_CONTACT}{}@{MARKER}", self.random.usize(0..50));
            let days = self.random.i64(1..4);
            let event = self.visit("v", &contact, days, Nature::Rejected);
            return self.one(event);
        }
        let event = self.some_visit();
        self.one(event)
    }

    /// A record of one event, without a key as Segment writes it, or now and then with one.
    fn one(&mut self, event: Event) -> Produced {
        let key = match self.random.u32(0..20) {
            0 => Some(vec![0xff, 0, self.random.u8(..)]),
            1..=3 => Some(format!("user-{}", self.random.u32(0..1000)).into_bytes()),
            _ => None,
        };
        let mut headers = vec![("trace".to_owned(), Some(vec![self.random.u8(..), 0xfe]))];
        if self.random.bool() {
            headers.push(("empty".into(), None));
        }
        let (value, partition) = (Some(event.text.clone()), self.random.i32(0..SOURCE_PARTITIONS));
        Produced { partition, key, value, headers, events: vec![event], batch: false }
    }

    fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}{:016x}", self.random.u64(..))
    }

    // ── visits ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn some_visit(&mut self) -> Event {
        let known = self.visited.len();
        let (contact, days) = if known > 0 && self.random.u32(0..100) < self.mix.repeated {
            // Mostly one of late, as real repeats are, but any may come again.
            let back = if self.random.u32(0..4) > 0 { known.min(40) } else { known };
            self.visited[known - 1 - self.random.usize(0..back)].clone()
        } else {
            self.fresh()
        };
        self.visit("v", &contact, days, Nature::Fine)
    }

    /// A contact-day that there has not been.
    fn fresh(&mut self) -> (String, i64) {
        self.contacts += 1;
        let tag = if self.contacts.is_multiple_of(5) { "+tag" } else { "" };
        let fresh = (format!("person{}{tag}@{MARKER}", self.contacts / 3), 1 + (self.contacts % 3) as i64);
        self.visited.push(fresh.clone());
        fresh
    }

    /// In one of four spellings.
    fn visit(&mut self, prefix: &str, contact: &str, days: i64, nature: Nature) -> Event {
        let id = self.id(prefix);
        let (timestamp, day) = self.timestamp(days);
        let url = format!("https://www.example.com/page/{}", self.random.u32(0..100));
        let event = match self.random.u32(0..4) {
            0 => json!({"type": "identify", "messageId": id, "timestamp": timestamp,
                        "traits": {"email": contact, "plan": "gold"}, "page": {"url": url}}),
            1 => json!({"type": "identify", "email": contact, "event": "Viewed pricing", "timestamp": timestamp,
                        "messageId": id, "userId": 4711}),
            2 => json!({"messageId": id, "timestamp": timestamp, "type": "identify", "anonymousId": "a-1",
                        "context": {"traits": {"email": contact}, "page": {"url": url, "title": "Page"}}}),
            _ => {
                let spelt = format!("  {} ", mixed_case(contact));
                json!({"Type": "Identify", "MessageId": id, "Timestamp": timestamp, "Traits": {"Email": spelt},
                       "integrations": {"All": true}})
            }
        };
        let text = event.to_string().into_bytes();
        Event { id, text, fate: Fate::Visit { nature }, contact: contact.to_owned(), day }
    }

    /// An instant so many days ago in one of several formats, and its date in UTC.
    fn timestamp(&mut self, days: i64) -> (Value, String) {
        let of_day = SignedDuration::from_millis(self.random.i64(0..86_400_000));
        let instant = self.today - SignedDuration::from_hours(24 * days) + of_day;
        let day = instant.to_string()[..10].to_owned();
        let told = match self.random.u32(0..5) {
            0 => json!(instant.as_second()),
            1 => json!(instant.as_millisecond()),
            2 => {
                let ahead = instant + SignedDuration::from_mins(330);
                json!(format!("{:.3}", ahead).replace('Z', "+05:30"))
            }
            3 => json!(format!("{instant:.0}")),
            _ => json!(format!("{instant:.3}")),
        };
        (told, day)
    }

    /// An event that is always rejected, and later a good one of the same contact-day, which must not find it used up.
    fn pair(&mut self) -> Produced {
        let (contact, days) = self.fresh();
        let rejected = self.visit(REJECTED_MESSAGE, &contact, days, Nature::Rejected);
        let good = self.visit("v", &contact, days, Nature::Fine);
        let (first, mut second) = (self.one(rejected), self.one(good));
        if self.random.u32(0..4) > 0 {
            second.partition = first.partition;
        }
        self.waiting.push(second);
        first
    }

    // ── Engage ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// All of one contact and key come on one partition: that is the order that is promised.
    fn engage(&mut self) -> Produced {
        let number = self.random.usize(0..SEQUENCES);
        let (id, repeat) = (self.id("e"), self.random.u32(0..3) == 0);
        let (timestamp, day) = self.timestamp(1);
        let sequence = &mut self.sequences[number];
        if !repeat {
            sequence.value = match &sequence.value {
                Value::Bool(value) => Value::Bool(!value),
                value => json!(value.as_i64().unwrap_or_default() + 1),
            };
        }
        let Sequence { contact, key, value } = sequence;
        let personas = json!({"computation_class": "audience", "computation_id": "aud_1", "computation_key": key,
                              "namespace": "spa_1", "space_id": "spa_1"});
        let text = json!({"type": "identify", "messageId": id, "timestamp": timestamp, "userId": "u",
                          "traits": {"email": contact, key.as_str(): value},
                          "context": {"personas": personas}, "integrations": {"All": false, "Nat": true}});
        let event = Event {
            id,
            text: text.to_string().into_bytes(),
            fate: Fate::Engage { key: key.clone(), value: value.clone() },
            contact: contact.clone(),
            day,
        };
        let partition = number as i32 / 2 % SOURCE_PARTITIONS;
        let key = Some(contact.clone().into_bytes());
        Produced {
            partition,
            key,
            value: Some(event.text.clone()),
            headers: Vec::new(),
            events: vec![event],
            batch: false,
        }
    }

    // ── what Nat.app must not see ────────────────────────────────────────────────────────────────────────────────

    fn filtered(&mut self) -> Produced {
        let (id, (timestamp, day)) = (self.id("f"), self.timestamp(1));
        let contact = format!("nobody@{MARKER}");
        let event = match self.random.u32(0..5) {
            0 => json!({"type": "track", "event": "Signed up", "messageId": id, "timestamp": timestamp,
                        "context": {"traits": {"email": contact}}}),
            1 => json!({"type": "page", "messageId": id, "properties": {"email": contact, "note": "type: identify"}}),
            2 => json!({"type": "identify", "messageId": id, "timestamp": timestamp, "traits": {"email": contact},
                        "integrations": {"All": false}}),
            3 => json!({"type": "identify", "messageId": id, "timestamp": timestamp, "traits": {"email": contact},
                        "integrations": {"Nat": false}}),
            _ => Value::Null,
        };
        let is_tombstone = event.is_null();
        let text = if is_tombstone { Vec::new() } else { event.to_string().into_bytes() };
        let mut record = self.one(Event { id, text, fate: Fate::Filtered, contact: String::new(), day });
        if is_tombstone {
            record.value = None;
        }
        record
    }

    fn invalid(&mut self) -> Event {
        let (id, (timestamp, day)) = (self.id("i"), self.timestamp(1));
        let email = format!("invalid@{MARKER}");
        let (reason, text) = match self.random.u32(0..9) {
            0 => ("empty", String::new()),
            1 => ("not_json", format!(r#"{{"type":"identify","traits":{{"email":"{email}"#)),
            2 => ("not_object", format!(r#"["identify","{email}"]"#)),
            3 => ("missing_type", json!({"messageId": id, "traits": {"email": email}}).to_string()),
            4 => ("missing_email", json!({"type": "identify", "messageId": id, "timestamp": timestamp}).to_string()),
            5 => {
                let traits = json!({"email": format!("not an address of {MARKER}")});
                let event = json!({"type": "identify", "messageId": id, "timestamp": timestamp, "traits": traits});
                ("invalid_email", event.to_string())
            }
            6 => {
                let event = json!({"type": "identify", "messageId": id, "traits": {"email": email}});
                ("missing_timestamp", event.to_string())
            }
            other => {
                let (reason, timestamp) = match other {
                    7 => ("invalid_timestamp", "NOW"),
                    _ => ("timestamp_out_of_range", "1999-12-31T23:59:59Z"),
                };
                let traits = json!({"email": email});
                let event = json!({"type": "identify", "messageId": id, "timestamp": timestamp, "traits": traits});
                (reason, event.to_string())
            }
        };
        Event { id, text: text.into_bytes(), fate: Fate::Invalid(reason), contact: String::new(), day }
    }

    fn batch(&mut self) -> Produced {
        let mut events = Vec::new();
        for _ in 0..self.random.usize(1..5) {
            let event = match self.random.u32(0..6) {
                0 => self.batched_invalid(),
                1 => self.batched_track(),
                _ => self.some_visit(),
            };
            events.push(event);
        }
        let mut value = br#"{"batch":["#.to_vec();
        value.extend(events.iter().map(|event| event.text.as_slice()).collect::<Vec<_>>().join(&b','));
        value.extend(br#"],"sentAt":"2026-01-01T00:00:00Z"}"#);
        let mut record = self.one(events[0].clone());
        (record.value, record.events, record.batch) = (Some(value), events, true);
        record
    }

    fn batched_invalid(&mut self) -> Event {
        let (id, (timestamp, day)) = (self.id("i"), self.timestamp(1));
        let text = json!({"type": "identify", "messageId": id, "timestamp": timestamp}).to_string().into_bytes();
        Event { id, text, fate: Fate::Invalid("missing_email"), contact: String::new(), day }
    }

    fn batched_track(&mut self) -> Event {
        let (id, (_, day)) = (self.id("f"), self.timestamp(1));
        let text = json!({"type": "track", "messageId": id, "event": "Clicked"}).to_string().into_bytes();
        Event { id, text, fate: Fate::Filtered, contact: String::new(), day }
    }
}

fn mixed_case(text: &str) -> String {
    let spelt = |(at, letter): (usize, char)| if at % 2 == 0 { letter.to_ascii_uppercase() } else { letter };
    text.chars().enumerate().map(spelt).collect()
}
