//! The whole pipeline: its rate, and how long an event is on its way.

use std::time::{Duration, Instant};

use rdkafka::producer::{BaseRecord, Producer};

use crate::bench::{Bench, RECEIVED, Row, SETTLED, prepared, stand_in};
use crate::child::{Child, Sample, cpu};
use crate::load;
use crate::program::Program;

/// On the machine of facts.md the bare pipe made 48,000 events a second, Redpanda Connect 14,000 and 36,000 of these two
/// workloads: what it makes on another machine is taken from what the bare pipe makes there.
const CONNECT_IDENTIFY: f64 = 14.0 / 48.0;
const CONNECT_MIXED: f64 = 36.0 / 48.0;

/// The whole pipeline, and the bare pipe on the identify calls: what Redpanda Connect would make follows from that.
fn pipeline(bench: &Bench, topic: &str, events: u64, connect: f64) -> Result<Row, String> {
    let (calls, count) = bench.identify()?;
    let (_stand_in, url) = stand_in(Duration::ZERO)?;
    let row = bench.rounds(|row| {
        let (prefix, to) = (bench.prefix(), bench.prefix());
        load::create_topic(bench.brokers(), &to, &[])?;
        let bare = bench.bare(&["pipe", bench.brokers(), calls, &to, &url, "64", &count.to_string()])?;
        let ours = Program::start(&bench.settings(&prefix, topic, &url))?.sample(RECEIVED, SETTLED, events)?;
        row.compare(ours, bare, Sample::rate, |ours, bare| ours / (bare * connect));
        Ok(())
    })?;
    Ok(row.beside_the_bare_pipe())
}

pub fn pipeline_identify(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.identify()?;
    pipeline(bench, topic, events, CONNECT_IDENTIFY)
}

pub fn pipeline_mixed(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.mixed()?;
    pipeline(bench, topic, events, CONNECT_MIXED)
}

const LATENCY_RATE: u64 = 1000;

pub fn latency(bench: &Bench) -> Result<Row, String> {
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
        let (began, before) = (Instant::now(), cpu(program.pid()));
        let ours = delays(bench, &source, &mut door, events)?;
        let busy = (cpu(program.pid()) - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
        row.ours.push(ours.1);
        row.bare.push(bare.1);
        row.value.push(ours.1 - bare.1);
        row.note = format!("p50 {:.1} ms, bare {:.1} ms; {busy:.0} % of a core", ours.0, bare.0);
        Ok(())
    })
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
