//! More partitions for the queue: no contact loses its history, nothing is lost, nothing is sent twice.

use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Output, Stdio};

use nat_destination::resize::{self, Onlooker};
use nat_destination::sandbox::stand_in::Behaviour;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;

use super::support::World;

pub const SIX: &str = "topics.partitions=6";

pub fn resize(world: &World, to: &str, set: &[&str]) -> Output {
    world.command(&["topics", "resize", "--partitions", to], set).output().expect("it runs")
}

pub fn resized(world: &World, to: &str) -> String {
    let output = resize(world, to, &[]);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    told
}

pub fn refused(output: &Output, parts: &[&str]) {
    let told = text(output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    parts.iter().for_each(|part| assert!(told.contains(part), "{part:?} in:\n{told}"));
}

pub fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

/// What the layout topic says now.
pub fn layout(world: &World) -> String {
    let last = world.read(&world.topic("layout")).pop().and_then(|record| record.value).expect("a record");
    String::from_utf8(last).expect("text")
}

/// The visits of some contacts are delivered; those of the others wait in the queue, since Nat.app was away, and nothing runs.
pub fn left_waiting(world: &World, delivered: Range<usize>, waiting: Range<usize>) {
    world.visits(delivered);
    world.run_until_caught_up(&[]);
    world.behave(Behaviour { status: Some(503), ..Behaviour::default() });
    let count = waiting.len() as f64;
    world.visits(waiting);
    let instance = world.start(&[]);
    world.wait("all is queued", || instance.metric("nat_destination_events_queued_total", &[]) == count);
    assert!(instance.stop().0.success());
    world.behave(Behaviour::default());
}

/// As `kafka-topics.sh --alter --partitions` does.
pub fn add_by_hand(world: &World, topic: &str, partitions: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &world.brokers).create().expect("an admin client");
    let new = [NewPartitions::new(topic, partitions)];
    let added = world.runtime.block_on(admin.create_partitions(&new, &AdminOptions::new())).expect("an answer");
    added.into_iter().for_each(|added| drop(added.expect("added")));
}

/// An Engage value of each of these contacts, in one source partition each.
pub fn engage(world: &World, contacts: std::ops::Range<usize>, value: bool) {
    engage_beside(world, contacts, value, 0);
}

/// The same in the source partition that is so many further on.
fn engage_beside(world: &World, contacts: std::ops::Range<usize>, value: bool, further: usize) {
    for number in contacts {
        let event = format!(
            r#"{{"type":"identify","timestamp":"2026-11-20T08:00:00Z","traits":{{"email":"e{number}@example.com","vip":{value}}},"context":{{"personas":{{"computation_key":"vip"}}}},"messageId":"{:x}"}}"#,
            fastrand::u64(..)
        );
        let partition = (number + further) as i32 % world.partitions;
        world.send(&world.source, Some(partition), None, Some(event.as_bytes()), &[]);
    }
    world.flush();
}

#[test]
fn the_queue_grows_from_6_to_12_partitions_and_nothing_is_sent_twice() {
    let world = World::new();
    world.visits(0..300);
    engage(&world, 0..100, true);
    engage(&world, 0..100, false);
    world.run_until_caught_up(&[SIX]);
    assert_eq!(world.stand_in.requests(), 500);
    let told = resized(&world, "12");
    assert!(told.contains("resized  from 6 to 12 partitions"), "{told}");
    assert!(told.contains("400 entries of the dedup state, 400 copies"), "{told}");
    assert!(told.contains("moved    0 events"), "{told}");
    assert_eq!(layout(&world), r#"{"version":1,"partitions":12}"#);
    // The same again, and then some that are new.
    world.visits(0..400);
    engage(&world, 0..100, false);
    engage(&world, 0..50, true);
    let instance = world.start(&[SIX]);
    instance.wait_until_settled(550);
    assert_eq!(instance.metric("nat_destination_events_total", &["duplicate"]), 400.0);
    assert_eq!(world.stand_in.requests(), 500 + 100 + 50);
    let mut days = world.accepted_days();
    days.dedup();
    assert_eq!(days.len(), 400 + 100, "nothing is lost");
    assert_eq!(instance.metric("nat_destination_assigned_partitions", &["deliver"]), 12.0);
    let spread: std::collections::BTreeSet<i32> =
        world.read(&world.topic("queue")).iter().map(|record| record.partition).collect();
    assert_eq!(spread.len(), 12, "the new ones are used");
    assert!(instance.stop().0.success());
    let verified = world.command(&["topics", "verify"], &[]).output().expect("it runs");
    assert!(verified.status.success(), "{}", text(&verified));
    // Where the copies came from the offsets say nothing.
    let explain = |email: &str| text(&world.command(&["explain", "--contact", email], &[]).output().expect("it runs"));
    let told: String = (0..30).map(|number| explain(&format!("p{number}@example.com"))).collect();
    assert!(told.contains("  -  ") && told.contains("(before a resize)") && !told.contains(" -1 "), "{told}");
    // The audience's name is told by the contact's events, wherever they stand now: these had nothing since the resize.
    let told: String = (50..60).map(|number| explain(&format!("e{number}@example.com"))).collect();
    assert_eq!(told.matches("  vip  ").count(), 10, "{told}");
    assert!(!told.contains("Engage values delivered: nothing"), "{told}");
}

#[test]
fn what_waits_in_the_queue_during_an_outage_is_moved_and_sent_once() {
    let world = World::new();
    world.visits(0..100);
    engage(&world, 0..40, true);
    world.run_until_caught_up(&[SIX]);
    world.behave(Behaviour { status: Some(503), ..Behaviour::default() });
    engage(&world, 0..40, false);
    engage(&world, 0..40, true);
    world.visits(50..200);
    let instance = world.start(&[SIX]);
    world.wait("all is queued", || instance.metric("nat_destination_events_queued_total", &[]) == 230.0);
    assert!(instance.stop().0.success());
    // Nothing in common with 6: a contact may be anywhere.
    let told = resized(&world, "7");
    let before = world.accepted().len();
    world.behave(Behaviour::default());
    // Ingest's next events come behind what waited.
    engage(&world, 0..40, false);
    world.visits(0..250);
    world.run_until_caught_up(&[SIX]);
    assert_eq!(world.accepted().len() - before, 100 + 50 + 3 * 40, "{told}");
    let of_one = world.accepted().into_iter().filter(|entry| entry.email.as_deref() == Some("e7@example.com"));
    let times = of_one.filter_map(|entry| entry.idempotency_key).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(times.len(), 4, "true, false, true, false: none is lost, and none is another's repetition");
    let mut days = world.accepted_days();
    days.retain(|(email, _)| email.starts_with('p'));
    assert_eq!(days.len(), 250, "each visit once");
}

#[test]
fn a_queue_that_grows_again_and_again_keeps_the_last_value_of_each_contact() {
    let world = World::with(1, Behaviour::default());
    engage(&world, 0..60, true);
    world.run_until_caught_up(&["topics.partitions=2"]);
    let mut expected = 60;
    for (round, to) in ["3", "4", "6"].into_iter().enumerate() {
        resized(&world, to);
        let (last, next) = (round % 2 == 0, round % 2 == 1);
        // What each has is no news; what is new goes out, and changes what an older copy elsewhere says.
        engage(&world, 0..60, last);
        world.run_until_caught_up(&[]);
        assert_eq!(world.accepted().len(), expected, "after {to}");
        engage(&world, 0..60, next);
        world.run_until_caught_up(&[]);
        expected += 60;
        assert_eq!(world.accepted().len(), expected, "after {to}");
    }
}

#[test]
fn fewer_partitions_and_as_many_are_refused() {
    let world = World::new();
    world.run_until_caught_up(&[]);
    refused(&resize(&world, "3", &[]), &["--partitions 3: the queue has as many already"]);
    refused(&resize(&world, "2", &[]), &["--partitions 2: the queue has 3", "cannot take partitions away"]);
    assert_eq!(resize(&world, "0", &[]).status.code(), Some(2));
    assert_eq!(layout(&world), r#"{"version":1,"partitions":3}"#);
}

#[test]
fn a_refused_resize_touches_no_offset_of_those_that_run() {
    for protocol in ["classic", "consumer"] {
        let world = World::new();
        let instance = world.start(&[&format!("kafka.properties.group.protocol={protocol}")]);
        world.visits(0..20);
        instance.wait_until_settled(20);
        let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
        let resize = command.stderr(Stdio::piped()).spawn().expect("it runs");
        // Events come in meanwhile, and then the instance leaves.
        for number in 20..60 {
            world.visits(number..number + 1);
        }
        instance.wait_until_settled(60);
        assert!(instance.stop().0.success());
        refused(&resize.wait_with_output().expect("it ends"), &["instances run"]);
        let described = world.command(&["topics", "describe", "--json"], &[]).output().expect("it runs");
        let described: serde_json::Value = serde_json::from_slice(&described.stdout).expect("JSON");
        let lags: Vec<u64> = described
            .as_array()
            .expect("topics")
            .iter()
            .filter_map(|topic| topic["read_by"][0]["lag"].as_u64())
            .collect();
        assert_eq!(lags, [0, 0], "{protocol}: {described}");
    }
}

/// Keeps what it is told.
#[derive(Default)]
struct Told {
    /// Name, total, and how far it was, one after the other.
    steps: Vec<(&'static str, u64, Vec<u64>)>,
}

impl Onlooker for Told {
    fn begins(&mut self, step: &'static str, total: u64) {
        self.steps.push((step, total, Vec::new()));
    }
    fn at(&mut self, done: u64) {
        self.steps.last_mut().expect("a step").2.push(done);
    }
    fn says(&mut self, _: &str) {}
    fn stopped(&self) -> bool {
        false
    }
}

#[test]
fn a_resize_tells_how_far_it_is_while_it_reads_and_while_it_writes() {
    let world = World::new();
    left_waiting(&world, 0..200, 200..300);
    // With the attempts at what waits, as many as it came to.
    let remembered = world.read(&world.topic("delivered")).len() as u64;
    let config = world.config();
    let resized = world.runtime.spawn_blocking(move || {
        let mut told = Told::default();
        (resize::resize(&config, 6, &mut told).expect("resized"), told)
    });
    let (resized, told) = world.runtime.block_on(resized).expect("it ends");
    assert_eq!((resized.entries, resized.copies, resized.moved), (200, 200, 100));
    let [carrying, keying] = told.steps.as_slice() else { panic!("two steps") };
    assert_eq!((carrying.0, carrying.1), ("carrying what was delivered", remembered));
    assert_eq!((keying.0, keying.1), ("keying anew what waits in the queue", 100));
    for (step, total, at) in &told.steps {
        assert!(at.is_sorted() && at.last().is_some_and(|last| last <= total), "{step}: {at:?}");
        let mut places = at.clone();
        places.dedup();
        // With each record; half of it when it is read, which alone would be a hundred places.
        assert!(places.len() as u64 > total * 9 / 10, "{step}: {places:?}");
        assert!(at.last().is_some_and(|last| *last > total * 9 / 10), "{step}: {places:?}");
    }
}

#[test]
fn a_resize_while_instances_run_is_refused() {
    for protocol in ["classic", "consumer"] {
        let world = World::new();
        let set = [&*format!("kafka.properties.group.protocol={protocol}")];
        let instance = world.start(&set);
        world.visits(0..20);
        instance.wait_until_settled(20);
        refused(&resize(&world, "6", &set), &["instances run: the group", "Stop every instance", "one member"]);
        assert_eq!(layout(&world), r#"{"version":1,"partitions":3}"#, "{protocol}");
        world.visits(0..40);
        instance.wait_until_settled(60);
        assert!(instance.stop().0.success());
        resized(&world, "6");
        world.visits(0..60);
        world.run_until_caught_up(&set);
        assert_eq!(world.stand_in.requests(), 60, "{protocol}");
    }
}

#[test]
fn a_service_does_not_start_while_a_resize_is_under_way() {
    let world = World::new();
    world.visits(0..50);
    world.run_until_caught_up(&[]);
    let begun = r#"{"version":1,"partitions":3,"resizing":{"found":3,"to":6}}"#;
    world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(begun.as_bytes()), &[]);
    world.flush();
    let parts = ["a resize from 3 to 6 partitions is under way", "finish it", "topics resize --partitions 6"];
    refused(&world.command(&["run"], &[]).output().expect("it runs"), &parts);
    refused(&world.command(&["check"], &[]).output().expect("it runs"), &parts);
    refused(&world.command(&["status"], &[]).output().expect("it runs"), &parts);
    refused(&resize(&world, "9", &[]), &["a resize to 6 is under way", "--partitions 6"]);
    resized(&world, "6");
    world.visits(0..60);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 60);
}

#[test]
fn a_resize_while_a_tool_writes_into_the_queue_is_refused() {
    let world = World::new();
    world.run_until_caught_up(&[]);
    let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("waiting 5 s")));
    world.send(&world.topic("queue"), Some(0), Some(b"ada@example.com"), Some(b"{}"), &[]);
    world.flush();
    assert!(told.any(|line| line.contains("something writes into the topic")));
    assert_eq!(child.wait().expect("ended").code(), Some(1));
    assert_eq!(layout(&world), r#"{"version":1,"partitions":3}"#);
}

#[test]
fn a_redrive_after_a_resize_goes_by_the_latest_engage_value_and_by_no_copy_of_an_earlier_one() {
    let world = World::with(2, Behaviour::default());
    engage(&world, 0..10, true);
    world.run_until_caught_up(&[]);
    resized(&world, "6");
    world.behave(Behaviour { reject: 1.0, ..Behaviour::default() });
    engage_beside(&world, 0..10, false, 1);
    world.run_until_caught_up(&[]);
    world.behave(Behaviour::default());
    // What stood before them is in doubt, so that this is sent; half of them have a copy of the first in a later partition.
    engage(&world, 0..10, true);
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 20);
    let redrive = world.command(&["dead-letters", "redrive", "--json"], &[]).output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&redrive.stdout).expect("JSON");
    assert_eq!(
        (&report["letters"], &report["passed_over"]),
        (&0.into(), &serde_json::json!({"told_since": 10})),
        "{report}"
    );
}
