//! Realistic Segment events, endless and the same for the same seed: what the demo shows and the tests count.
//!
//! Every record's fate under default settings is beyond doubt, so that an oracle that has never seen this code can say
//! what must become of it. What is left to chance is what real topics leave to chance: who, when, which SDK, how an
//! address or a timestamp is written, what comes twice. Nothing here looks at the clock.

mod broken;
mod calls;
mod engage;
mod json;
mod people;
mod sdk;
#[cfg(test)]
mod tests;
mod time;

use fastrand::Rng;
use jiff::Timestamp;

use json::add_member;
use people::Person;
use sdk::Call;

const DAY_MS: i64 = 86_400_000;
/// 2000-01-01: what is earlier is out of range.
const EARLIEST_MS: i64 = 946_684_800_000;
const BIG: usize = 40 * 1024;
const FILLER: usize = 64 * 1024;

/// The usual spellings of "not to Nat.app".
const OPT_OUTS: [&str; 4] =
    [r#"{"All":false}"#, r#"{"all":false,"Kafka":true}"#, r#"{"Nat":false}"#, r#"{"All":false,"Salesforce":true}"#];
/// Those of "to Nat.app", or of nothing said about it.
const OPT_INS: [&str; 5] =
    ["{}", r#"{"Segment.io":true}"#, r#"{"All":true}"#, r#"{"Salesforce":false}"#, r#"{"All":false,"Nat":true}"#];
const ENGAGE_OPT_INS: [&str; 3] = [
    r#"{"All":false,"Nat":true}"#,
    r#"{"All":false,"Nat":{"space":"s"}}"#,
    r#"{"All":false,"Mixpanel":true,"Nat":true}"#,
];
/// Fields nobody asks for, in shapes that parsers stumble over.
const ODDITIES: [&str; 5] = [
    r#""note":"\ud83d cut by substr""#,
    r#""id64":123456789012345678901234567890"#,
    r#""été":"ünïcode 😀 \u00e9\ud83d\ude00""#,
    r#""matrix":[[[[[[[[[[1]]]]]]]]]]"#,
    r#""nothing":[null,{},[],"",0,-0.0,1e-7]"#,
];

#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    /// How many people; few of them cause most of the events.
    pub contacts: u32,
    /// Share of identify calls among the sound events.
    pub identify: f64,
    /// Share of records with a fault.
    pub bad: f64,
    /// Share of Engage's among the identify calls.
    pub engage: f64,
    /// The events lie in the last so many days before `now`.
    pub days: u32,
    pub now: Timestamp,
    /// Fill events up to about this many bytes.
    pub size: Option<usize>,
}

impl Options {
    /// A small team's topic at this instant.
    pub fn at(now: Timestamp) -> Options {
        Options { seed: 1, contacts: 1_000, identify: 0.05, bad: 0.01, engage: 0.1, days: 7, now, size: None }
    }
}

/// A Kafka record to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

pub struct Generator {
    options: Options,
    rng: Rng,
    engage: engage::Values,
    /// For what comes twice: the last visit's contact and instant, and the last records of both kinds.
    last_call: Option<(u32, Timestamp)>,
    last_visit: Option<Generated>,
    last_engage: Option<Generated>,
    filler: String,
}

impl Generator {
    pub fn new(options: Options) -> Generator {
        let mut rng = Rng::with_seed(options.seed);
        let mut filler = String::with_capacity(FILLER + 16);
        while filler.len() < FILLER {
            let letters = 3 + rng.usize(..8);
            filler.extend((0..letters).map(|_| rng.lowercase()));
            filler.push(' ');
        }
        filler.truncate(FILLER);
        Generator {
            options,
            rng,
            engage: engage::Values::default(),
            last_call: None,
            last_visit: None,
            last_engage: None,
            filler,
        }
    }

    fn hit(&mut self, share: f64) -> bool {
        self.rng.f64() < share
    }

    /// Someone, the first numbers far more often than the last: regulars come several times a day.
    fn someone(&mut self) -> Person {
        let draw = self.rng.f64();
        let number = (draw * draw * f64::from(self.options.contacts)) as u32;
        Person::new(self.options.seed, number)
    }

    fn some_time(&mut self) -> Timestamp {
        let now = self.options.now.as_millisecond();
        let days = i64::from(self.options.days.max(1));
        let first = (now - days * DAY_MS).max(EARLIEST_MS).min(now - 1);
        Timestamp::from_millisecond(self.rng.i64(first..now)).unwrap_or(self.options.now)
    }

    fn broken(&mut self) -> Generated {
        let person = self.someone();
        let call = Call::new(&person, self.some_time(), &mut self.rng);
        let value = broken::value(&call, &mut self.rng);
        // A tombstone without a key would mean nothing.
        let key = value.is_none() || self.rng.u32(..4) == 0;
        Generated { key: key.then(|| person.user_id.into_bytes()), value, headers: Vec::new() }
    }

    /// Engage's records have a key, the user id. Without one, a contact's changes would lie on several partitions, and
    /// which of them is the latest nobody could say.
    fn engage(&mut self) -> Generated {
        if self.rng.u32(..100) < 3
            && let Some(last) = &self.last_engage
        {
            return last.clone();
        }
        let person = self.someone();
        let call = Call::new(&person, self.some_time(), &mut self.rng);
        let mut text = self.engage.next(&call, &mut self.rng);
        let integrations = match self.rng.u32(..50) {
            0 => r#"{"All":false,"Mixpanel":true}"#,
            _ => ENGAGE_OPT_INS[self.rng.usize(..ENGAGE_OPT_INS.len())],
        };
        add_member(&mut text, &format!("\"integrations\":{integrations}"));
        self.fill(&mut text);
        let engage =
            Generated { key: Some(person.user_id.into_bytes()), value: Some(text.into()), headers: Vec::new() };
        self.last_engage = Some(engage.clone());
        engage
    }

    fn visit(&mut self) -> Generated {
        if self.rng.u32(..100) < 3
            && let Some(last) = &self.last_visit
        {
            return last.clone();
        }
        let again = self.last_call.filter(|_| self.rng.u32(..100) < 3);
        let (person, at) = match again {
            Some((number, at)) => (Person::new(self.options.seed, number), at),
            None => (self.someone(), self.some_time()),
        };
        let mut call = Call::new(&person, at, &mut self.rng);
        if again.is_some() {
            call.time = time::elsewhere(at, &mut self.rng);
        }
        let mut text = sdk::identify(&call, &mut self.rng);
        let integrations = match self.rng.u32(..50) {
            0 => OPT_OUTS[self.rng.usize(..OPT_OUTS.len())],
            _ => OPT_INS[self.rng.usize(..OPT_INS.len())],
        };
        add_member(&mut text, &format!("\"integrations\":{integrations}"));
        if self.rng.u32(..30) == 0 {
            let odd = ODDITIES[self.rng.usize(..ODDITIES.len())];
            add_member(&mut text, odd);
        }
        self.last_call = Some((person.number, at));
        let visit = self.sound(person, text);
        self.last_visit = Some(visit.clone());
        visit
    }

    fn other(&mut self) -> Generated {
        let person = self.someone();
        let call = Call::new(&person, self.some_time(), &mut self.rng);
        let mut text = calls::other(&call, &mut self.rng);
        add_member(&mut text, "\"integrations\":{}");
        self.sound(person, text)
    }

    /// A whole request to Segment's batch API, as some tools put it on a topic. The items name no integrations of
    /// their own, so that the envelope's opt-out is theirs however the two are merged. No Engage here: without a key its
    /// order would be undefined.
    fn batch(&mut self) -> Generated {
        let person = self.someone();
        let items = 2 + self.rng.usize(..4);
        let mut written = Vec::with_capacity(items);
        // With a fault in an envelope that opts out, which of the two counts would be a matter of taste.
        let opt_out = self.rng.u32(..10) == 0;
        for _ in 0..items {
            let someone = self.someone();
            let call = Call::new(&someone, self.some_time(), &mut self.rng);
            written.push(if !self.hit(self.options.identify) {
                calls::other(&call, &mut self.rng)
            } else if !opt_out && self.hit(self.options.bad * 4.0) {
                broken::anonymous(&call)
            } else {
                sdk::plain(&call, &mut self.rng)
            });
        }
        let sent = time::iso(self.options.now);
        let mut text =
            format!(r#"{{"batch":[{}],"sentAt":"{sent}","writeKey":"k3yThatIsNoSecret"}}"#, written.join(","));
        if opt_out {
            add_member(&mut text, r#""integrations":{"All":false}"#);
        }
        self.sound(person, text)
    }

    /// Filled up, mostly without a key, as Segment's Kafka destination writes by default.
    fn sound(&mut self, person: Person, mut text: String) -> Generated {
        self.fill(&mut text);
        let key = (self.rng.u32(..7) == 0).then(|| person.user_id.into_bytes());
        let headers = match self.rng.u32(..20) {
            0 => vec![("content-type".to_owned(), b"application/json".to_vec())],
            1 => vec![("traceparent".to_owned(), b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_vec())],
            _ => Vec::new(),
        };
        Generated { key, value: Some(text.into_bytes()), headers }
    }

    fn fill(&mut self, text: &mut String) {
        let size = match self.rng.u32(..2_000) {
            0 => BIG,
            _ => self.options.size.unwrap_or(0),
        };
        let missing = size.saturating_sub(text.len() + r#","attachment":"""#.len()).min(FILLER);
        if missing > 0 {
            let start = self.rng.usize(..=FILLER - missing);
            add_member(text, &format!("\"attachment\":\"{}\"", &self.filler[start..start + missing]));
        }
    }
}

impl Iterator for Generator {
    type Item = Generated;

    /// There is always a next one.
    fn next(&mut self) -> Option<Generated> {
        Some(if self.hit(self.options.bad) {
            self.broken()
        } else if self.rng.u32(..300) == 0 {
            self.batch()
        } else if !self.hit(self.options.identify) {
            self.other()
        } else if self.hit(self.options.engage) {
            self.engage()
        } else {
            self.visit()
        })
    }
}
