//! Every event produced is accounted for: what arrived, what died and what was counted, against the oracle, a program
//! in another language that shares no code with ours. `NAT_DESTINATION_TEST_EVENTS=100000` makes the runs larger.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nat_destination::sandbox::stand_in::Behaviour;
use serde_json::json;

use super::support::{Instance, World};

fn events() -> u64 {
    std::env::var("NAT_DESTINATION_TEST_EVENTS").ok().and_then(|events| events.parse().ok()).unwrap_or(5000)
}

/// A stand-in that rejects some, fails now and then, and takes a moment.
fn world() -> World {
    let behaviour = Behaviour {
        latency: Duration::from_millis(2),
        reject: 0.01,
        unavailable: 0.02,
        throttle: 0.01,
        retry_after: None,
        ..Behaviour::default()
    };
    World::with(6, behaviour)
}

/// Mixed events of all kinds into the source; returns how many records.
fn generate(world: &World, seed: u64) -> u64 {
    let contacts = (events() / 10).to_string();
    let mut command = world.command(&["generate"], &[]);
    command.args([
        "--count",
        &events().to_string(),
        "--seed",
        &seed.to_string(),
        "--contacts",
        &contacts,
        "--identify",
        "0.5",
        "--bad",
        "0.02",
    ]);
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    events()
}

fn lines(world: &World, name: &str, values: impl Iterator<Item = serde_json::Value>) -> PathBuf {
    let path = world.path(name);
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("created"));
    values.for_each(|value| writeln!(file, "{value}").expect("written"));
    file.into_inner().expect("flushed");
    path
}

/// The oracle's opinion; `more` are its allowances.
fn judge(world: &World, metrics: &[String], more: &[&str]) {
    use base64::Engine;
    let encode = |bytes: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(bytes);
    let source = world.read(&world.source).into_iter().map(|record| {
        json!({"topic": world.source, "partition": record.partition, "offset": record.offset, "value": record.value.as_ref().map(encode)})
    });
    let source = lines(world, "events.jsonl", source);
    let entries = world.stand_in.entries().into_iter().map(|entry| serde_json::to_value(entry).expect("JSON"));
    let accepted = lines(world, "accepted.jsonl", entries);
    let letters = world.dead_letters().into_iter().map(|letter| {
        let origin = letter.header("nat.source").expect("an origin");
        let parts: Vec<&str> = origin.split('/').collect();
        let number = |at: usize| parts.get(at).map(|part| part.parse::<i64>().expect("a number"));
        json!({"topic": parts[0], "partition": number(1), "offset": number(2), "item": number(4), "reason": letter.header("nat.reason")})
    });
    let letters = lines(world, "dead-letters.jsonl", letters);
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/oracle.py"));
    command.arg("--events").arg(source).arg("--accepted").arg(accepted).arg("--dead-letters").arg(letters);
    if !metrics.is_empty() {
        command.arg("--metrics");
        for (number, text) in metrics.iter().enumerate() {
            let path = world.path(&format!("metrics-{number}.txt"));
            std::fs::write(&path, text).expect("written");
            command.arg(path);
        }
    }
    let output =
        command.arg("--allow-rejected").args(more).output().expect("python3 is there: apt-get install -y python3");
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{told}");
    assert!(output.status.success(), "{told}");
}

/// Waits until these instances have nothing left to do.
fn wait_until_idle(world: &World, instances: &[&Instance], records: u64) {
    let mut last = ((0, 0), Instant::now());
    loop {
        let sum = |name: &str| instances.iter().map(|instance| instance.metric(name, &[])).sum::<f64>() as u64;
        let (received, settled) = (sum("nat_destination_events_received_total"), sum("nat_destination_events_total"));
        if (received, settled) != last.0 {
            last = ((received, settled), Instant::now());
        }
        // A record may be a batch of several events: as many events as records does not say that all are received.
        if received >= records && settled == received && last.1.elapsed() > Duration::from_secs(1) {
            return;
        }
        assert!(
            last.1.elapsed() < Duration::from_secs(60),
            "stuck at {settled} of {received} received, {records} produced"
        );
        std::thread::sleep(Duration::from_millis(100));
        let _ = world;
    }
}

#[test]
fn every_event_is_accounted_for() {
    let world = world();
    let records = generate(&world, 1);
    let instance = world.start(&["topics.partitions=6"]);
    let began = Instant::now();
    wait_until_idle(&world, &[&instance], records);
    println!("{records} records settled in {:.1} s", began.elapsed().as_secs_f64());
    judge(&world, &[instance.metrics()], &[]);
}

#[test]
fn every_event_is_accounted_for_with_two_instances() {
    let world = world();
    let (first, second) = (world.start(&["topics.partitions=6"]), world.start(&["topics.partitions=6"]));
    // Ready is who has been assigned none, too.
    let shares = |stage: &str| [&first, &second].map(|i| i.metric("nat_destination_assigned_partitions", &[stage]));
    let each_has_its_share = |stage: &str| {
        let shares = shares(stage);
        shares.iter().sum::<f64>() == 6.0 && shares.iter().all(|share| *share >= 1.0)
    };
    world.wait("each has its share", || each_has_its_share("ingest") && each_has_its_share("deliver"));
    let records = generate(&world, 2);
    wait_until_idle(&world, &[&first, &second], records);
    let share = second.metric("nat_destination_events_total", &["delivered"]);
    assert!(share > 0.0, "both deliver");
    judge(&world, &[first.metrics(), second.metrics()], &[]);
}

#[test]
fn every_event_is_accounted_for_after_kill_9_in_the_middle() {
    let world = world();
    generate(&world, 3);
    let first = world.start(&["topics.partitions=6"]);
    world.wait("it is in the middle", || world.stand_in.accepted() > events() / 10);
    let before = first.metrics();
    first.kill();
    let output = world.run_until_caught_up(&["topics.partitions=6", "kafka.properties.session.timeout.ms=6000"]);
    drop(output);
    // The counters of an instance that was killed are gone with it: only what arrived and what died can be judged.
    drop(before);
    judge(&world, &[], &["--allow-doubles"]);
}

#[test]
fn the_oracle_agrees_with_the_conformance_cases() {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new("python3")
        .arg(format!("{root}/tests/oracle/oracle.py"))
        .args(["--self-test", &format!("{root}/tests/conformance")])
        .output()
        .expect("python3 is there: apt-get install -y python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
