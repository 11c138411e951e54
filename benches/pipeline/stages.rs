//! Each stage alone: ingest against a bare consumer and a copying one, deliver against a bare pipe.

use std::time::Duration;

use crate::bench::{Bench, INGESTED, RECEIVED, Row, SETTLED, ratio, stand_in};
use crate::child::Sample;
use crate::load;
use crate::program::Program;
use crate::report::told;

/// The program, whose second stage waits for a Nat.app that is not there, and reads nothing meanwhile.
fn ingest_alone(bench: &Bench, source: &str, events: u64) -> Result<Sample, String> {
    let prefix = bench.prefix();
    let mut settings = bench.settings(&prefix, source, "http://127.0.0.1:9/");
    settings.push("deliver.max_pending_events=1".into());
    Program::start(&settings)?.sample(RECEIVED, INGESTED, events)
}

/// A bare client that writes what it reads to a topic of its own: `copy` all of it, `label` one in so many as the queue's
/// records are, with a key and a header.
fn writing(bench: &Bench, how: &str, topic: &str, events: u64, every: &[&str]) -> Result<Sample, String> {
    let (to, count) = (bench.prefix(), events.to_string());
    load::create_topic(bench.brokers(), &to, &[])?;
    bench.bare(&[&[how, bench.brokers(), topic, &to, &count], every].concat())
}

pub fn ingest_mixed(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.mixed()?;
    let mut of_writing = Vec::new();
    let mut row = bench.rounds(|row| {
        let bare = bench.bare(&["consume", bench.brokers(), topic, &events.to_string()])?;
        let ours = ingest_alone(bench, topic, events)?;
        // What no rule costs, but what one event in twenty must have.
        let labelled = writing(bench, "label", topic, events, &["20"])?;
        of_writing.push(ours.rate() / labelled.rate());
        row.compare(ours, bare, Sample::rate, ratio);
        Ok(())
    })?;
    row.note = format!("{} of a bare client that writes one in twenty too", told(&of_writing));
    Ok(row)
}

pub fn ingest_identify(bench: &Bench) -> Result<Row, String> {
    let events = bench.events(1_000_000);
    let event = |number| load::identify(number, &format!("m{number}"), 700);
    let (topic, events) = bench.filled("all-identify", events, event)?;
    let mut of_labelling = Vec::new();
    let mut row = bench.rounds(|row| {
        let bare = writing(bench, "copy", topic, events, &[])?;
        let ours = ingest_alone(bench, topic, events)?;
        let labelled = writing(bench, "label", topic, events, &["1"])?;
        of_labelling.push(ours.cpu_each() / labelled.cpu_each());
        row.compare(ours, bare, Sample::cpu_each, ratio);
        Ok(())
    })?;
    row.note = format!("{} of a bare client that writes a key and a header too", told(&of_labelling));
    Ok(row)
}

/// A queue of so many contacts, worked off by the program while there is nothing in the source.
fn deliver_alone(bench: &Bench, prefix: &str, url: &str, in_flight: usize, events: u64) -> Result<Sample, String> {
    let source = format!("{prefix}-source");
    load::create_topic(bench.brokers(), &source, &[])?;
    let mut settings = bench.settings(prefix, &source, url);
    settings.push(format!("deliver.concurrency={in_flight}"));
    Program::start(&settings)?.sample(SETTLED, SETTLED, events)
}

/// Each of another contact.
pub fn queue_record(number: u64) -> (Option<Vec<u8>>, Vec<u8>) {
    (Some(format!("p{number}@example.com").into_bytes()), load::identify(number, &format!("m{number}"), 700))
}

/// The bare pipe, and the program, each with a stand-in that answers after so long.
fn deliver_beside_pipe(
    bench: &Bench,
    latency: Duration,
    in_flight: usize,
    value: impl Fn(f64, f64) -> f64,
) -> Result<Row, String> {
    let events = bench.events(200_000);
    let (_stand_in, url) = stand_in(latency)?;
    bench.rounds(|row| {
        let (prefix, to) = (bench.prefix(), bench.prefix());
        let queue = format!("{prefix}.queue");
        load::fill(bench.brokers(), &queue, events, &[], queue_record)?;
        load::create_topic(bench.brokers(), &to, &[])?;
        let (most, count) = (in_flight.to_string(), events.to_string());
        let bare = bench.bare(&["pipe", bench.brokers(), &queue, &to, &url, &most, &count])?;
        let ours = deliver_alone(bench, &prefix, &url, in_flight, events)?;
        row.compare(ours, bare, Sample::rate, &value);
        Ok(())
    })
}

pub fn deliver(bench: &Bench) -> Result<Row, String> {
    deliver_beside_pipe(bench, Duration::ZERO, 64, ratio)
}

pub fn deliver_slow(bench: &Bench) -> Result<Row, String> {
    const MOST: f64 = 256.0 / 0.020;
    // Timers and the way there make more of the 20 ms for everybody, the bare pipe too.
    let row = deliver_beside_pipe(bench, Duration::from_millis(20), 256, |ours, _| ours / MOST)?;
    Ok(row.beside_the_bare_pipe())
}
