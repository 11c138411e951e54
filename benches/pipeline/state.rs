//! What is remembered: its memory, its restore, its way to more partitions, and what it costs an event when there is more
//! of it.

use std::time::{Duration, Instant};

use nat_destination::dedup::{DedupKey, Delivered, DeliveredSet, Key, Kind, Place};

use crate::bench::{Bench, RESTORED, Row, SETTLED, ratio, stand_in};
use crate::child::{Sample, cpu, memory};
use crate::load;
use crate::program::{self, Program};
use crate::stages::queue_record;

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

pub fn memory_of_entries(bench: &Bench) -> Result<Row, String> {
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

pub fn restore(bench: &Bench) -> Result<Row, String> {
    let entries = bench.events(10_000_000);
    let prefix = changelog(bench, entries)?;
    let (topic, source) = (format!("{prefix}.delivered"), format!("{prefix}-source"));
    bench.rounds(|row| {
        let bare = bench.bare(&["consume", bench.brokers(), &topic, &entries.to_string()])?;
        let settings = bench.settings(&prefix, &source, "http://127.0.0.1:9/");
        let ours = Program::start(&settings)?.sample(RESTORED, RESTORED, entries)?;
        row.compare(ours, bare, Sample::rate, ratio);
        Ok(())
    })
}

pub fn resize(bench: &Bench) -> Result<Row, String> {
    let entries = bench.events(10_000_000);
    bench.rounds(|row| {
        // Its own for each round: a topic grows once.
        let prefix = changelog(bench, entries)?;
        let (topic, source) = (format!("{prefix}.delivered"), format!("{prefix}-source"));
        load::create_topic(bench.brokers(), &format!("{prefix}-copy"), &[])?;
        let bare = bench.bare(&["copy", bench.brokers(), &topic, &format!("{prefix}-copy"), &entries.to_string()])?;
        let settings = bench.settings(&prefix, &source, "http://127.0.0.1:9/");
        program::command(&["topics", "create"], &settings, 1)?;
        let ours = program::command(&["topics", "resize", "--partitions", "12"], &settings, entries)?;
        row.note = format!("{:.0} s in all", ours.wall.as_secs_f64());
        row.compare(ours, bare, Sample::rate, ratio);
        Ok(())
    })
}

/// A program that remembers, and what goes through it.
struct Remembering<'a> {
    bench: &'a Bench,
    program: Program,
    queue: String,
    /// So many contacts have been delivered.
    events: u64,
    cpu: Duration,
}

impl Remembering<'_> {
    fn start<'a>(bench: &'a Bench, url: &str, entries: u64) -> Result<Remembering<'a>, String> {
        let prefix = changelog(bench, entries)?;
        let mut program = Program::start(&bench.settings(&prefix, &format!("{prefix}-source"), url))?;
        program.wait_for(RESTORED, entries as f64)?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(Remembering { bench, program, queue: format!("{prefix}.queue"), events: 0, cpu: Duration::ZERO })
    }

    fn deliver(&mut self, events: u64) -> Result<(), String> {
        let (before, known) = (cpu(self.program.pid()), self.events);
        load::produce(self.bench.brokers(), &self.queue, events, |number| queue_record(known + number))?;
        self.events += events;
        self.program.wait_for(SETTLED, self.events as f64)?;
        self.cpu += cpu(self.program.pid()) - before;
        Ok(())
    }

    /// Microseconds of CPU an event, since the last call.
    fn take_cost(&mut self, events: u64) -> f64 {
        std::mem::take(&mut self.cpu).as_secs_f64() * 1e6 / events as f64
    }
}

/// Both run all the time and are asked in turn, a little each: the machine's good and bad moments are the same for both.
pub fn set_growth(bench: &Bench) -> Result<Row, String> {
    const TURNS: u64 = 6;
    let sizes = [bench.events(1_000_000), bench.events(10_000_000)];
    let (_stand_in, url) = stand_in(Duration::ZERO)?;
    let mut small = Remembering::start(bench, &url, sizes[0])?;
    let mut large = Remembering::start(bench, &url, sizes[1])?;
    let each = bench.events(20_000);
    for program in [&mut small, &mut large] {
        program.deliver(each)?; // Warms up.
        program.take_cost(each);
    }
    let mut row = bench.rounds(|row| {
        for _ in 0..TURNS {
            small.deliver(each)?;
            large.deliver(each)?;
        }
        let (small, large) = (small.take_cost(TURNS * each), large.take_cost(TURNS * each));
        row.ours.push(large);
        row.bare.push(small);
        row.value.push(large / small);
        Ok(())
    })?;
    let [small, large, largest] = [sizes[0], sizes[1], bench.events(100_000_000)].map(cost_of_set);
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
