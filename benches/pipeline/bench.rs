//! What the figures share: the broker, topics that are filled once, the program's settings, and the rows that come of them.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Duration;

use crate::child::{Child, Sample};
use crate::kafka::{self, Kafka};
use crate::load;
use crate::report::spread;

/// What a figure came to, round by round.
#[derive(Debug, Default)]
pub struct Row {
    pub ours: Vec<f64>,
    /// Of the bare client, where there is one.
    pub bare: Vec<f64>,
    /// What the target is about.
    pub value: Vec<f64>,
    /// The program and the bare client as processes, where both work off the same events.
    pub samples: Vec<(Sample, Sample)>,
    /// What else is worth a look.
    pub note: String,
}

impl Row {
    /// Takes a round in: what `figure` says of the program and of the bare client, and `value` of both.
    pub fn compare(&mut self, ours: Sample, bare: Sample, figure: fn(&Sample) -> f64, value: impl Fn(f64, f64) -> f64) {
        let figures = (figure(&ours), figure(&bare));
        self.ours.push(figures.0);
        self.bare.push(figures.1);
        self.value.push(value(figures.0, figures.1));
        self.samples.push((ours, bare));
    }

    /// For a value that is no ratio to the bare pipe: that ratio as well, of the medians.
    pub fn beside_the_bare_pipe(mut self) -> Row {
        if let (Some([_, ours, _]), Some([_, bare, _])) = (spread(&self.ours), spread(&self.bare)) {
            self.note = format!("{:.2} of the bare pipe", ours / bare);
        }
        self
    }
}

pub fn ratio(ours: f64, bare: f64) -> f64 {
    ours / bare
}

/// What the figures share.
pub struct Bench {
    kafka: Kafka,
    pub tiny: bool,
    rounds: usize,
    /// Further settings of the program.
    set: Vec<String>,
    /// Source topics that are filled.
    filled: RefCell<HashSet<&'static str>>,
}

pub type Counted<'a> = &'a [(&'a str, &'a str)];
pub const RECEIVED: Counted<'static> = &[("nat_destination_events_received_total", "")];
pub const QUEUED: Counted<'static> = &[("nat_destination_events_queued_total", "")];
/// The first stage is done with everything.
pub const INGESTED: Counted<'static> = &[
    ("nat_destination_events_queued_total", ""),
    ("nat_destination_events_total", "filtered"),
    ("nat_destination_events_total", "dead_lettered"),
];
/// Everything has its outcome, of what came from the source.
pub const SETTLED: Counted<'static> = &[("nat_destination_events_total", "")];
pub const RESTORED: Counted<'static> = &[("nat_destination_restored_records_total", "")];

impl Bench {
    pub fn start(tiny: bool, rounds: usize, set: Vec<String>) -> Bench {
        // As much memory as a broker of two gigabytes of topics wants; all else as in the tests.
        let kafka =
            Kafka::start(kafka::Options { properties: &[("log.segment.bytes", "268435456")], ..Default::default() });
        Bench { kafka, tiny, rounds, set, filled: RefCell::default() }
    }

    pub fn brokers(&self) -> &str {
        self.kafka.brokers()
    }

    /// So many events, a hundredth of them where only whether it works is asked.
    pub fn events(&self, full: u64) -> u64 {
        if self.tiny { full / 100 } else { full }
    }

    pub fn rounds(&self, mut round: impl FnMut(&mut Row) -> Result<(), String>) -> Result<Row, String> {
        let mut row = Row::default();
        (0..self.rounds).try_for_each(|_| round(&mut row)).map(|()| row)
    }

    /// A prefix of topics and groups that nobody has used.
    pub fn prefix(&self) -> String {
        format!("b{:08x}", fastrand::u32(..))
    }

    /// 1 KB events, one in twenty an identify call.
    pub fn mixed(&self) -> Result<(&'static str, u64), String> {
        let events = self.events(1_000_000);
        self.filled("mixed", events, |number| load::mixed(number, 1024))
    }

    /// 700 B identify calls, two a contact, the second long after the first.
    pub fn identify(&self) -> Result<(&'static str, u64), String> {
        let events = self.events(200_000);
        self.filled("identify", events, |n| load::identify(n % (events / 2), &format!("m{n}"), 700))
    }

    pub fn filled(
        &self,
        topic: &'static str,
        events: u64,
        event: impl Fn(u64) -> Vec<u8>,
    ) -> Result<(&'static str, u64), String> {
        if self.filled.borrow_mut().insert(topic) {
            load::fill(self.brokers(), topic, events, &[], |number| (None, event(number)))?;
        }
        Ok((topic, events))
    }

    /// Of a program that has topics and groups of its own.
    pub fn settings(&self, prefix: &str, source: &str, url: &str) -> Vec<String> {
        [
            ("kafka.brokers", self.brokers()),
            ("source.topics", source),
            ("topics.prefix", prefix),
            ("topics.replication", "1"),
            ("topics.partitions", "6"),
            ("nat.url", url),
            ("nat.api_key", "bench"),
        ]
        .map(|(name, value)| format!("{name}={value}"))
        .into_iter()
        .chain(self.set.iter().cloned())
        .collect()
    }

    pub fn bare(&self, words: &[&str]) -> Result<Sample, String> {
        Child::start(words)?.sample()
    }
}

/// A stand-in in a process of its own, and where it listens.
pub fn stand_in(latency: Duration) -> Result<(Child, String), String> {
    let mut child = Child::start(&["stand-in", &latency.as_millis().to_string()])?;
    let address = child.hear("listening")?;
    Ok((child, format!("http://{address}/segment")))
}

/// A prefix whose source topic is there, and a stand-in with its address.
pub fn prepared(bench: &Bench) -> Result<(String, String, Child), String> {
    let prefix = bench.prefix();
    load::create_topic(bench.brokers(), &format!("{prefix}-source"), &[])?;
    let (door, url) = stand_in(Duration::ZERO)?;
    Ok((prefix, url, door))
}
