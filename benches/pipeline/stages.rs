//! Each stage alone: ingest against a bare consumer and a copying one, deliver against a bare pipe.

use std::time::Duration;

use crate::bench::{Bench, INGESTED, RECEIVED, Row, SETTLED, stand_in};
use crate::child::Sample;
use crate::load;
use crate::program::Program;

/// The program, whose second stage waits for a Nat.app that is not there, and reads nothing meanwhile.
fn ingest_alone(bench: &Bench, source: &str, events: u64) -> Result<Sample, String> {
    let prefix = bench.prefix();
    let mut settings = bench.settings(&prefix, source, "http://127.0.0.1:9/");
    settings.push("deliver.max_pending_events=1".into());
    Program::start(&settings)?.sample(RECEIVED, INGESTED, events)
}

pub fn ingest_mixed(bench: &Bench) -> Result<Row, String> {
    let (topic, events) = bench.mixed()?;
    bench.rounds(|row| {
        let bare = bench.bare(&["consume", bench.brokers(), topic, &events.to_string()])?;
        let ours = ingest_alone(bench, topic, events)?;
        row.ours.push(ours.rate());
        row.bare.push(bare.rate());
        row.value.push(ours.rate() / bare.rate());
        row.samples.push((ours, bare));
        Ok(())
    })
}

pub fn ingest_identify(bench: &Bench) -> Result<Row, String> {
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
        row.samples.push((ours, bare));
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
pub fn queue_record(number: u64) -> (Option<Vec<u8>>, Vec<u8>) {
    (Some(format!("p{number}@example.com").into_bytes()), load::identify(number, &format!("m{number}"), 700))
}

pub fn deliver(bench: &Bench) -> Result<Row, String> {
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
        row.samples.push((ours, bare));
        Ok(())
    })
}

pub fn deliver_slow(bench: &Bench) -> Result<Row, String> {
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
        row.note = format!("{:.2} of the bare pipe", ours.rate() / bare.rate());
        row.samples.push((ours, bare));
        Ok(())
    })
}
