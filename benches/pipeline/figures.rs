//! The figures: what is measured against what, and the target of each.

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use nat_destination::dedup::{DedupKey, Delivered, DeliveredSet, Key, Kind, Place};
use rdkafka::producer::{BaseRecord, Producer};

use crate::child::{Child, Sample, cpu, memory};
use crate::kafka::{self, Kafka};
use crate::load;
use crate::program::Program;

/// What median is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// What a figure came to, round by round.
#[derive(Debug, Default)]
pub struct Row {
    pub ours: Vec<f64>,
    /// Of the bare client, where there is one.
    pub bare: Vec<f64>,
    /// What the target is about.
    pub value: Vec<f64>,
    /// What else is worth a look.
    pub note: String,
}

pub struct Figure {
    pub name: &'static str,
    pub what: &'static str,
    /// Of `ours` and `bare`.
    pub unit: &'static str,
    /// What `value` is.
    pub value: &'static str,
    pub target: Target,
    pub measure: fn(&Bench) -> Result<Row, String>,
}

/// On the machine of facts.md the bare pipe made 48,000 events a second, Redpanda Connect 14,000 and 36,000 of these two
/// workloads: what it makes on another machine is taken from what the bare pipe makes there.
const CONNECT_IDENTIFY: f64 = 14.0 / 48.0;
const CONNECT_MIXED: f64 = 36.0 / 48.0;

pub const FIGURES: &[Figure] = &[
    Figure {
        name: "ingest-mixed",
        what: "ingest alone, 1 KB events, 5 % identify, against a bare consumer",
        unit: "events/s",
        value: "ratio",
        target: Target::AtLeast(0.9),
        measure: ingest_mixed,
    },
    Figure {
        name: "ingest-identify",
        what: "ingest alone, 700 B, all identify, against consume and produce: CPU an event",
        unit: "µs",
        value: "ratio",
        target: Target::AtMost(1.5),
        measure: ingest_identify,
    },
    Figure {
        name: "deliver",
        what: "deliver alone, all different contacts, instant answers, 64 in flight, against consume, POST, 30 bytes",
        unit: "events/s",
        value: "ratio",
        target: Target::AtLeast(0.9),
        measure: deliver,
    },
    Figure {
        name: "deliver-20ms",
        what: "deliver, answers after 20 ms, 256 in flight, against 256 / 20 ms",
        unit: "events/s",
        value: "ratio",
        target: Target::AtLeast(0.95),
        measure: deliver_slow,
    },
    Figure {
        name: "pipeline-identify",
        what: "whole pipeline, 700 B, all identify, two a contact-day, against Redpanda Connect",
        unit: "events/s",
        value: "times",
        target: Target::AtLeast(3.0),
        measure: pipeline_identify,
    },
    Figure {
        name: "pipeline-mixed",
        what: "whole pipeline, 1 KB events, 5 % identify, against Redpanda Connect",
        unit: "events/s",
        value: "times",
        target: Target::AtLeast(10.0),
        measure: pipeline_mixed,
    },
    Figure {
        name: "latency",
        what: "from the source's producer to Nat.app's door at 1,000 events/s, p99, less that of bare consume, produce, consume, POST",
        unit: "ms",
        value: "ms more",
        target: Target::AtMost(20.0),
        measure: latency,
    },
    Figure {
        name: "memory",
        what: "resident memory a contact-day at 10 M entries, less that of a program without any",
        unit: "B",
        value: "B",
        target: Target::AtMost(32.0),
        measure: memory_of_entries,
    },
    Figure {
        name: "restore",
        what: "restore of 10 M entries against a bare consumer of the same topic",
        unit: "entries/s",
        value: "ratio",
        target: Target::AtLeast(0.7),
        measure: restore,
    },
    Figure {
        name: "outage-memory",
        what: "resident memory in an outage with 1 M events waiting, against 10 k waiting (bare)",
        unit: "MiB",
        value: "ratio",
        target: Target::AtMost(1.1),
        measure: outage_memory,
    },
    Figure {
        name: "set-growth",
        what: "deliver: CPU an event with 10 M contact-days remembered, against 1 M (bare)",
        unit: "µs",
        value: "ratio",
        target: Target::AtMost(1.15),
        measure: set_growth,
    },
    Figure {
        name: "start",
        what: "from the start of the process to the first request, one event waiting, empty state",
        unit: "s",
        value: "s",
        target: Target::AtMost(1.0),
        measure: start,
    },
    Figure {
        name: "idle",
        what: "CPU of one core without events",
        unit: "%",
        value: "%",
        target: Target::AtMost(1.0),
        measure: idle,
    },
];

/// What the figures share.
pub struct Bench {
    kafka: Kafka,
    tiny: bool,
    rounds: usize,
    /// Further settings of the program.
    set: Vec<String>,
    /// Source topics that are filled.
    filled: RefCell<HashSet<&'static str>>,
}

type Counted<'a> = &'a [(&'a str, &'a str)];
const RECEIVED: Counted<'static> = &[("nat_destination_events_received_total", "")];
const QUEUED: Counted<'static> = &[("nat_destination_events_queued_total", "")];
/// The first stage is done with everything.
const INGESTED: Counted<'static> = &[
    ("nat_destination_events_queued_total", ""),
    ("nat_destination_events_total", "filtered"),
    ("nat_destination_events_total", "dead_lettered"),
];
/// Everything has its outcome, of what came from the source.
const SETTLED: Counted<'static> = &[("nat_destination_events_total", "")];
const RESTORED: Counted<'static> = &[("nat_destination_restored_records_total", "")];

impl Bench {
    pub fn start(tiny: bool, rounds: usize, set: Vec<String>) -> Bench {
        // As much memory as a broker of two gigabytes of topics wants; all else as in the tests.
        let kafka =
            Kafka::start(kafka::Options { properties: &[("log.segment.bytes", "268435456")], ..Default::default() });
        Bench { kafka, tiny, rounds, set, filled: RefCell::default() }
    }

    fn brokers(&self) -> &str {
        self.kafka.brokers()
    }

    /// So many events, a hundredth of them where only whether it works is asked.
    fn events(&self, full: u64) -> u64 {
        if self.tiny { full / 100 } else { full }
    }

    fn rounds(&self, mut round: impl FnMut(&mut Row) -> Result<(), String>) -> Result<Row, String> {
        let mut row = Row::default();
        (0..self.rounds).try_for_each(|_| round(&mut row)).map(|()| row)
    }

    /// A prefix of topics and groups that nobody has used.
    fn prefix(&self) -> String {
        format!("b{:08x}", fastrand::u32(..))
    }

    /// 1 KB events, one in twenty an identify call.
    fn mixed(&self) -> Result<(&'static str, u64), String> {
        let events = self.events(1_000_000);
        self.filled("mixed", events, |number| load::mixed(number, 1024))
    }

    /// 700 B identify calls, two a contact, the second long after the first.
    fn identify(&self) -> Result<(&'static str, u64), String> {
        let events = self.events(200_000);
        self.filled("identify", events, |n| load::identify(n % (events / 2), &format!("m{n}"), 700))
    }

    fn filled(
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
    fn settings(&self, prefix: &str, source: &str, url: &str) -> Vec<String> {
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

    fn bare(&self, words: &[&str]) -> Result<Sample, String> {
        Child::start(words)?.sample()
    }
}

/// A stand-in in a process of its own, and where it listens.
fn stand_in(latency: Duration) -> Result<(Child, String), String> {
    let mut child = Child::start(&["stand-in", &latency.as_millis().to_string()])?;
    let address = child.hear("listening")?;
    Ok((child, format!("http://{address}/segment")))
}

fn cpu_note(ours: &Sample, bare: &Sample) -> String {
    format!(
        "CPU an event {:.1} µs, bare {:.1} µs; peak {} MiB, bare {} MiB",
        ours.cpu_each(),
        bare.cpu_each(),
        ours.peak >> 20,
        bare.peak >> 20
    )
}

/// The program, whose second stage waits for a Nat.app that is not there, and reads nothing meanwhile.
fn ingest_alone(bench: &Bench, source: &str, events: u64) -> Result<Sample, String> {
    let prefix = bench.prefix();
    let mut settings = bench.settings(&prefix, source, "http://127.0.0.1:9/");
    settings.push("deliver.max_pending_events=1".into());
    Program::start(&settings)?.sample(RECEIVED, INGESTED, events)
}

fn ingest_mixed(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.mixed()?;
    bench.rounds(|row| {
        let bare = bench.bare(&["consume", bench.brokers(), topic, &events.to_string()])?;
        let ours = ingest_alone(bench, topic, events)?;
        row.ours.push(ours.rate());
        row.bare.push(bare.rate());
        row.value.push(ours.rate() / bare.rate());
        row.note = cpu_note(&ours, &bare);
        Ok(())
    })
}

fn ingest_identify(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.identify()?;
    bench.rounds(|row| {
        let to = bench.prefix();
        load::create_topic(bench.brokers(), &to, &[])?;
        let bare = bench.bare(&["copy", bench.brokers(), topic, &to, &events.to_string()])?;
        let ours = ingest_alone(bench, topic, events)?;
        row.ours.push(ours.cpu_each());
        row.bare.push(bare.cpu_each());
        row.value.push(ours.cpu_each() / bare.cpu_each());
        row.note = format!("{:.0} events/s, bare {:.0}", ours.rate(), bare.rate());
        Ok(())
    })
}

/// A queue of so many contacts, worked off by the program while there is nothing in the source.
fn deliver_alone(bench: &Bench, prefix: &str, url: &str, in_flight: usize, events: u64) -> Result<Sample, String> {
    let source = format!("{prefix}-source");
    load::create_topic(bench.brokers(), &source, &[])?;
    let mut settings = bench.settings(prefix, &source, url);
    settings.push(format!("deliver.concurrency={in_flight}"));
    Program::start(&settings)?.sample(SETTLED, SETTLED, events)
}

fn fill_queue(bench: &Bench, prefix: &str, events: u64) -> Result<String, String> {
    let queue = format!("{prefix}.queue");
    load::fill(bench.brokers(), &queue, events, &[], queue_record)?;
    Ok(queue)
}

/// Each of another contact.
fn queue_record(number: u64) -> (Option<Vec<u8>>, Vec<u8>) {
    (Some(format!("p{number}@example.com").into_bytes()), load::identify(number, &format!("m{number}"), 700))
}

fn deliver(bench: &Bench) -> Result<Row, String> {
    let events = bench.events(200_000);
    let (_stand_in, url) = stand_in(Duration::ZERO)?;
    bench.rounds(|row| {
        let (prefix, to) = (bench.prefix(), bench.prefix());
        let queue = fill_queue(bench, &prefix, events)?;
        load::create_topic(bench.brokers(), &to, &[])?;
        let bare = bench.bare(&["pipe", bench.brokers(), &queue, &to, &url, "64", &events.to_string()])?;
        let ours = deliver_alone(bench, &prefix, &url, 64, events)?;
        row.ours.push(ours.rate());
        row.bare.push(bare.rate());
        row.value.push(ours.rate() / bare.rate());
        row.note = cpu_note(&ours, &bare);
        Ok(())
    })
}

fn deliver_slow(bench: &Bench) -> Result<Row, String> {
    let events = bench.events(200_000);
    let (_stand_in, url) = stand_in(Duration::from_millis(20))?;
    let most = 256.0 / 0.020;
    bench.rounds(|row| {
        let (prefix, to) = (bench.prefix(), bench.prefix());
        let queue = fill_queue(bench, &prefix, events)?;
        load::create_topic(bench.brokers(), &to, &[])?;
        // Timers and the way there make more of the 20 ms for everybody.
        let bare = bench.bare(&["pipe", bench.brokers(), &queue, &to, &url, "256", &events.to_string()])?;
        let ours = deliver_alone(bench, &prefix, &url, 256, events)?;
        row.ours.push(ours.rate());
        row.bare.push(bare.rate());
        row.value.push(ours.rate() / most);
        row.note = format!("{:.2} of the bare pipe; {}", ours.rate() / bare.rate(), cpu_note(&ours, &bare));
        Ok(())
    })
}

/// The whole pipeline, and the bare pipe on the identify calls: what Redpanda Connect would make follows from that.
fn pipeline(bench: &Bench, topic: &str, events: u64, connect: f64) -> Result<Row, String> {
    let (calls, count) = bench.identify()?;
    let (_stand_in, url) = stand_in(Duration::ZERO)?;
    bench.rounds(|row| {
        let (prefix, to) = (bench.prefix(), bench.prefix());
        load::create_topic(bench.brokers(), &to, &[])?;
        let bare = bench.bare(&["pipe", bench.brokers(), calls, &to, &url, "64", &count.to_string()])?;
        let ours = Program::start(&bench.settings(&prefix, topic, &url))?.sample(RECEIVED, SETTLED, events)?;
        row.ours.push(ours.rate());
        row.bare.push(bare.rate());
        row.value.push(ours.rate() / (bare.rate() * connect));
        row.note = format!("{:.2} of the bare pipe; {}", ours.rate() / bare.rate(), cpu_note(&ours, &bare));
        Ok(())
    })
}

fn pipeline_identify(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.identify()?;
    pipeline(bench, topic, events, CONNECT_IDENTIFY)
}

fn pipeline_mixed(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.mixed()?;
    pipeline(bench, topic, events, CONNECT_MIXED)
}

const LATENCY_RATE: u64 = 1000;

fn latency(bench: &Bench) -> Result<Row, String> {
    let events = bench.events(20_000);
    bench.rounds(|row| {
        let (prefix, url, mut door) = prepared(bench)?;
        let queue = format!("{prefix}-copy");
        load::create_topic(bench.brokers(), &queue, &[])?;
        load::create_topic(bench.brokers(), &format!("{prefix}-out"), &[])?;
        let (source, count, out) = (format!("{prefix}-source"), u64::MAX.to_string(), format!("{prefix}-out"));
        let chain = [
            Child::start(&["copy", bench.brokers(), &source, &queue, &count])?,
            Child::start(&["pipe", bench.brokers(), &queue, &out, &url, "64", &count])?,
        ];
        let bare = delays(bench, &source, &mut door, events)?;
        drop(chain);
        let (prefix, url, mut door) = prepared(bench)?;
        let source = format!("{prefix}-source");
        let mut program = Program::start(&bench.settings(&prefix, &source, &url))?;
        program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
        let ours = delays(bench, &source, &mut door, events)?;
        row.ours.push(ours.1);
        row.bare.push(bare.1);
        row.value.push(ours.1 - bare.1);
        row.note = format!("p50 {:.1} ms, bare {:.1} ms", ours.0, bare.0);
        Ok(())
    })
}

fn prepared(bench: &Bench) -> Result<(String, String, Child), String> {
    let prefix = bench.prefix();
    load::create_topic(bench.brokers(), &format!("{prefix}-source"), &[])?;
    let (door, url) = stand_in(Duration::ZERO)?;
    Ok((prefix, url, door))
}

/// Produces at an even rate; p50 and p99 in milliseconds, of what the stand-in has seen. What comes first warms up.
fn delays(bench: &Bench, source: &str, door: &mut Child, events: u64) -> Result<(f64, f64), String> {
    let producer = load::producer(bench.brokers(), "0")?;
    let warm_up = LATENCY_RATE * 3;
    let began = Instant::now();
    for number in 0..warm_up + events {
        let due = began + Duration::from_micros(number * 1_000_000 / LATENCY_RATE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if number == warm_up {
            seen(door)?;
        }
        let event = load::stamped(number, 700);
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(source).payload(&event);
        load::send(&producer, record.partition((number % load::PARTITIONS as u64) as i32))?;
    }
    producer.flush(Duration::from_secs(30)).map_err(|error| error.to_string())?;
    std::thread::sleep(Duration::from_secs(1));
    let (requests, p50, p99) = seen(door)?;
    if requests < events * 9 / 10 {
        return Err(format!("{requests} of {events} events arrived"));
    }
    Ok((p50 / 1000.0, p99 / 1000.0))
}

/// Requests since the last call; p50 and p99 of their delays, microseconds.
fn seen(door: &mut Child) -> Result<(u64, f64, f64), String> {
    door.tell("seen")?;
    let line = door.hear("seen")?;
    let numbers: Vec<f64> = line.split(' ').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [requests, p50, p99] => Ok((requests as u64, p50, p99)),
        _ => Err(format!("the stand-in said {line:?}")),
    }
}

/// A changelog of so many visits; the prefix of its topics.
fn changelog(bench: &Bench, entries: u64) -> Result<String, String> {
    let prefix = bench.prefix();
    let at = jiff::Timestamp::now().as_millisecond();
    let topic = format!("{prefix}.delivered");
    load::create_topic(bench.brokers(), &format!("{prefix}-source"), &[])?;
    let settings = [("cleanup.policy", "compact,delete"), ("message.timestamp.type", "LogAppendTime")];
    load::fill(bench.brokers(), &topic, entries, &settings, |number| {
        let (key, value) = load::visit(number, at);
        (Some(key), value)
    })?;
    Ok(prefix)
}

fn memory_of_entries(bench: &Bench) -> Result<Row, String> {
    let entries = bench.events(10_000_000);
    let settings = |prefix: &str| bench.settings(prefix, &format!("{prefix}-source"), "http://127.0.0.1:9/");
    let resident = |prefix: &str, entries: u64| {
        let mut program = Program::start(&settings(prefix))?;
        program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
        program.wait_for(RESTORED, entries as f64)?;
        // What the reading needed is given back meanwhile, as far as it is.
        std::thread::sleep(Duration::from_secs(5));
        Ok::<_, String>(memory(program.pid(), "VmRSS"))
    };
    let (full, empty) = (changelog(bench, entries)?, changelog(bench, 1)?);
    bench.rounds(|row| {
        let (with, without) = (resident(&full, entries)?, resident(&empty, 1)?);
        let each = with.saturating_sub(without) as f64 / entries as f64;
        row.ours.push(each);
        row.value.push(each);
        row.note = format!("{} MiB, empty {} MiB", with >> 20, without >> 20);
        Ok(())
    })
}

fn restore(bench: &Bench) -> Result<Row, String> {
    let entries = bench.events(10_000_000);
    let prefix = changelog(bench, entries)?;
    let (topic, source) = (format!("{prefix}.delivered"), format!("{prefix}-source"));
    bench.rounds(|row| {
        let bare = bench.bare(&["consume", bench.brokers(), &topic, &entries.to_string()])?;
        let settings = bench.settings(&prefix, &source, "http://127.0.0.1:9/");
        let ours = Program::start(&settings)?.sample(RESTORED, RESTORED, entries)?;
        row.ours.push(ours.rate());
        row.bare.push(bare.rate());
        row.value.push(ours.rate() / bare.rate());
        row.note = cpu_note(&ours, &bare);
        Ok(())
    })
}

fn outage_memory(bench: &Bench) -> Result<Row, String> {
    let waiting = |events: u64| {
        let prefix = bench.prefix();
        let source = format!("{prefix}-source");
        load::fill(bench.brokers(), &source, events, &[], |number| {
            (None, load::identify(number, &format!("m{number}"), 700))
        })?;
        // Nobody listens there.
        let mut program = Program::start(&bench.settings(&prefix, &source, "http://127.0.0.1:9/"))?;
        program.wait_for(QUEUED, events as f64)?;
        std::thread::sleep(Duration::from_secs(5));
        Ok::<_, String>(["VmRSS", "VmHWM"].map(|field| memory(program.pid(), field) as f64 / f64::from(1 << 20)))
    };
    bench.rounds(|row| {
        let ([few, _], [many, peak]) = (waiting(bench.events(1_000_000) / 100)?, waiting(bench.events(1_000_000))?);
        row.ours.push(many);
        row.bare.push(few);
        row.value.push(many / few);
        row.note = format!("at most {peak:.0} MiB, while the events came");
        Ok(())
    })
}

fn set_growth(bench: &Bench) -> Result<Row, String> {
    let sizes = [bench.events(1_000_000), bench.events(10_000_000)];
    let events = bench.events(200_000);
    let (_stand_in, url) = stand_in(Duration::ZERO)?;
    let mut row = bench.rounds(|row| {
        let cost = |entries: u64| {
            let prefix = changelog(bench, entries)?;
            let settings = bench.settings(&prefix, &format!("{prefix}-source"), &url);
            let mut program = Program::start(&settings)?;
            program.wait_for(RESTORED, entries as f64)?;
            std::thread::sleep(Duration::from_secs(1));
            let before = cpu(program.pid());
            load::produce(bench.brokers(), &format!("{prefix}.queue"), events, queue_record)?;
            program.wait_for(SETTLED, events as f64)?;
            Ok::<_, String>((cpu(program.pid()) - before).as_secs_f64() * 1e6 / events as f64)
        };
        let (small, large) = (cost(sizes[0])?, cost(sizes[1])?);
        row.ours.push(large);
        row.bare.push(small);
        row.value.push(large / small);
        Ok(())
    })?;
    let largest = bench.events(100_000_000);
    let [small, large, largest] = [sizes[0], sizes[1], largest].map(cost_of_set);
    row.note = format!(
        "a look-up and an insert in the set alone: {small:.0} ns, {large:.0} ns, of 100 M entries {largest:.0} ns"
    );
    Ok(row)
}

/// Nanoseconds for a look-up that misses, one that hits, and an insert, in sets of six partitions with so many entries.
fn cost_of_set(entries: u64) -> f64 {
    let mut sets: Vec<_> = (0..6).map(|_| DeliveredSet::new(Duration::from_secs(7 * 86_400))).collect();
    let mut random = fastrand::Rng::with_seed(entries);
    let mut visit = || {
        let key = DedupKey { key: Key(random.u128(..).to_le_bytes()), kind: Kind::Visit };
        Delivered { key, at: 0, queue_offset: 0, place: Place::default() }
    };
    let mut known = Vec::new();
    for number in 0..entries {
        let delivered = visit();
        if number % (entries / 10_000).max(1) == 0 {
            known.push((number, delivered.key));
        }
        sets[(number % 6) as usize].insert(&delivered);
    }
    let fresh: Vec<_> = (0..100_000).map(|_| visit()).collect();
    let began = Instant::now();
    let mut hits = 0_usize;
    for (number, delivered) in fresh.iter().enumerate() {
        let (at, key) = &known[(number * 7919) % known.len()];
        hits += usize::from(sets[(*at % 6) as usize].contains(key, Place::default(), 0));
        let set = &mut sets[number % 6];
        hits += usize::from(set.contains(&delivered.key, Place::default(), 0));
        set.insert(delivered);
    }
    assert_eq!(hits, fresh.len(), "each known key is there, and no fresh one");
    began.elapsed().as_nanos() as f64 / fresh.len() as f64
}

fn start(bench: &Bench) -> Result<Row, String> {
    bench.rounds(|row| {
        let (prefix, url, _door) = prepared(bench)?;
        let source = format!("{prefix}-source");
        // Topics and groups are there, as at every start but the first.
        let settings = bench.settings(&prefix, &source, &url);
        let mut program = Program::start(&settings)?;
        program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
        program.stop()?;
        let producer = load::producer(bench.brokers(), "0")?;
        let event = load::stamped(1, 700);
        load::send(&producer, BaseRecord::to(&source).payload(&event))?;
        producer.flush(Duration::from_secs(30)).map_err(|error| error.to_string())?;
        let mut program = Program::start(&settings)?;
        program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
        let joined = program.started().elapsed().as_secs_f64();
        program.wait_for(SETTLED, 1.0)?;
        let first = program.started().elapsed().as_secs_f64();
        row.ours.push(first);
        row.value.push(first - joined);
        row.note = format!("joined after {joined:.2} s");
        Ok(())
    })
}

fn idle(bench: &Bench) -> Result<Row, String> {
    let (prefix, url, _door) = prepared(bench)?;
    let mut program = Program::start(&bench.settings(&prefix, &format!("{prefix}-source"), &url))?;
    program.wait_for(&[("nat_destination_assigned_partitions", "")], 12.0)?;
    std::thread::sleep(Duration::from_secs(2));
    let length = Duration::from_secs(if bench.tiny { 2 } else { 20 });
    bench.rounds(|row| {
        let before = cpu(program.pid());
        std::thread::sleep(length);
        let share = (cpu(program.pid()) - before).as_secs_f64() / length.as_secs_f64() * 100.0;
        row.ours.push(share);
        row.value.push(share);
        row.note = format!("{} MiB resident", memory(program.pid(), "VmRSS") >> 20);
        Ok(())
    })
}
