//! More partitions for the queue: no contact loses its history, nothing is lost, nothing is sent twice; and whoever adds
//! them by hand is told.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use nat_destination::kafka::partition_of;
use nat_destination::resize::{self, Onlooker};
use nat_destination::sandbox::stand_in::Behaviour;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;

use super::faults::set_offset;
use super::support::World;
use super::support::world::{identify, interrupt};

const SIX: &str = "topics.partitions=6";

fn resize(world: &World, to: &str, set: &[&str]) -> Output {
    world.command(&["topics", "resize", "--partitions", to], set).output().expect("it runs")
}

fn resized(world: &World, to: &str) -> String {
    let output = resize(world, to, &[]);
    let told = text(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    told
}

fn refused(output: &Output, parts: &[&str]) {
    let told = text(output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    parts.iter().for_each(|part| assert!(told.contains(part), "{part:?} in:\n{told}"));
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

/// What the layout topic says now.
fn layout(world: &World) -> String {
    let last = world.read(&world.topic("layout")).pop().and_then(|record| record.value).expect("a record");
    String::from_utf8(last).expect("text")
}

/// As `kafka-topics.sh --alter --partitions` does.
fn add_by_hand(world: &World, topic: &str, partitions: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &world.brokers).create().expect("an admin client");
    let new = [NewPartitions::new(topic, partitions)];
    let added = world.runtime.block_on(admin.create_partitions(&new, &AdminOptions::new())).expect("an answer");
    added.into_iter().for_each(|added| drop(added.expect("added")));
}

/// An Engage value of each of these contacts, in one source partition each.
fn engage(world: &World, contacts: std::ops::Range<usize>, value: bool) {
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
fn partitions_added_by_hand_are_refused_with_the_way_out() {
    let world = World::new();
    world.visits(0..100);
    world.run_until_caught_up(&[]);
    let queue = world.topic("queue");
    add_by_hand(&world, &queue, 5);
    let way_out = "nat-destination topics resize --partitions 5";
    let parts = [queue.as_str(), "it has 5 partitions, but was made with 3", way_out];
    for command in [&["run"][..], &["check"], &["topics", "verify"], &["topics", "create"], &["status"]] {
        refused(&world.command(command, &[]).output().expect("it runs"), &parts);
    }
    refused(&resize(&world, "4", &[]), &["--partitions 4", "a topic has 5 already"]);
    resized(&world, "5");
    world.visits(0..150);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 150);
    assert_eq!(world.accepted_days().len(), 150);
    // `delivered` alone, too.
    add_by_hand(&world, &world.topic("delivered"), 6);
    refused(&world.command(&["run"], &[]).output().expect("it runs"), &["topics resize --partitions 6"]);
    resized(&world, "6");
    world.visits(100..160);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 160);
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
fn a_resize_that_was_killed_goes_on() {
    let world = World::new();
    world.visits(0..200);
    world.run_until_caught_up(&[SIX]);
    world.behave(Behaviour { status: Some(503), ..Behaviour::default() });
    world.visits(100..300);
    engage(&world, 0..50, true);
    let instance = world.start(&[SIX]);
    world.wait("all is queued", || instance.metric("nat_destination_events_queued_total", &[]) == 250.0);
    assert!(instance.stop().0.success());
    world.behave(Behaviour::default());
    // The first waits for those that may be starting; those that go on do not, and are killed later each time.
    let mut lives = 0;
    loop {
        let mut command = world.command(&["topics", "resize", "--partitions", "9"], &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        if lives == 0 {
            world.wait("it has begun", || layout(&world).contains("resizing"));
        }
        let deadline = Instant::now() + Duration::from_millis(100 + 150 * lives);
        while Instant::now() < deadline && child.try_wait().expect("its state").is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        lives += 1;
        if let Some(status) = child.try_wait().expect("its state") {
            // Once it is done, there is nothing to do.
            assert!(status.success() || !layout(&world).contains("resizing"), "{status}");
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert!(lives < 100, "it never comes to an end");
    }
    assert!(lives > 2, "it was killed");
    assert_eq!(layout(&world), r#"{"version":1,"partitions":9}"#);
    world.visits(0..350);
    engage(&world, 0..50, true);
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 350 + 50);
    let days = world.accepted_days();
    assert_eq!(days.iter().filter(|(email, _)| email.starts_with('p')).count(), 350);
    assert_eq!(days.iter().filter(|(email, _)| email.starts_with('e')).count(), 50);
}

/// What a resize from 3 to 6 partitions has done when it is stopped: each step, and all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stopped {
    Begun,
    Grown,
    SomeCarried,
    EndsFixed,
    SomeMoved,
    OffsetsSaved,
}

/// Leaves the topics as such a resize does.
fn leave_resize(world: &World, stopped: Stopped) {
    let (queue, delivered) = (world.topic("queue"), world.topic("delivered"));
    let layout = |ends: &str| {
        let record = format!(r#"{{"version":1,"partitions":3,"resizing":{{"found":3,"to":6{ends}}}}}"#);
        world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(record.as_bytes()), &[]);
        world.flush();
    };
    layout("");
    if stopped >= Stopped::Grown {
        add_by_hand(world, &delivered, 6);
        add_by_hand(world, &queue, 6);
    }
    if stopped >= Stopped::SomeCarried {
        let records = world.read(&delivered);
        let count = if stopped == Stopped::SomeCarried { records.len() / 2 } else { records.len() };
        for record in &records[..count] {
            world.send(&delivered, Some(record.partition + 3), record.key.as_deref(), record.value.as_deref(), &[]);
        }
        world.flush();
    }
    let waiting = world.read(&queue);
    let end = |partition| waiting.iter().filter(|record| record.partition == partition).map(|r| r.offset + 1).max();
    let ends = [0, 1, 2, 3, 4, 5].map(|partition| end(partition).unwrap_or(0));
    if stopped >= Stopped::EndsFixed {
        layout(&format!(r#","ends":{ends:?}"#));
    }
    if stopped >= Stopped::SomeMoved {
        let count = if stopped == Stopped::SomeMoved { waiting.len() / 2 } else { waiting.len() };
        for record in &waiting[..count] {
            let key = record.key.as_deref().expect("a contact");
            world.send(&queue, Some(partition_of(key, 6)), Some(key), record.value.as_deref(), &[]);
        }
        world.flush();
    }
    if stopped == Stopped::OffsetsSaved {
        for (partition, end) in (0..).zip(ends) {
            set_offset(world, &world.topic("deliver"), &queue, partition, end);
        }
    }
}

#[test]
fn a_resize_goes_on_from_each_of_its_steps() {
    for stopped in [
        Stopped::Begun,
        Stopped::Grown,
        Stopped::SomeCarried,
        Stopped::EndsFixed,
        Stopped::SomeMoved,
        Stopped::OffsetsSaved,
    ] {
        let world = World::new();
        world.visits(0..60);
        world.run_until_caught_up(&[]);
        world.behave(Behaviour { status: Some(503), ..Behaviour::default() });
        world.visits(30..90);
        let instance = world.start(&[]);
        world.wait("all is queued", || instance.metric("nat_destination_events_queued_total", &[]) == 60.0);
        assert!(instance.stop().0.success());
        leave_resize(&world, stopped);
        world.behave(Behaviour::default());
        assert!(resized(&world, "6").contains("going on with the resize"), "{stopped:?}");
        assert_eq!(layout(&world), r#"{"version":1,"partitions":6}"#, "{stopped:?}");
        world.visits(0..100);
        world.run_until_caught_up(&[]);
        let mut days = world.accepted_days();
        assert_eq!(days.len(), 100, "{stopped:?}: each once");
        days.dedup();
        assert_eq!(days.len(), 100, "{stopped:?}: and nobody is left out");
    }
}

#[test]
fn a_resize_that_is_interrupted_when_it_has_begun_says_that_no_instance_starts() {
    let world = World::new();
    world.visits(0..10);
    world.run_until_caught_up(&[]);
    leave_resize(&world, Stopped::Grown);
    let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    // Before the topics grow, after which it looks whether it is to stop.
    assert!(told.any(|line| line.contains("going on with the resize")));
    interrupt(&child);
    assert!(told.any(|line| line.contains("Until it is done no instance starts")));
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    refused(
        &world.command(&["run"], &[]).output().expect("it runs"),
        &["a resize from 3 to 6 partitions is under way"],
    );
    resized(&world, "6");
    world.visits(0..20);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 20);
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

#[test]
fn a_resize_that_was_stopped_while_it_looked_looks_again() {
    for stopped in [Stopped::Begun, Stopped::Grown] {
        let world = World::new();
        world.visits(0..30);
        world.run_until_caught_up(&[]);
        leave_resize(&world, stopped);
        let during = layout(&world);
        // A backfill that began before the first of them.
        let done = std::sync::atomic::AtomicBool::new(false);
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    if done.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let (contact, day) = (format!("b{number}@example.com"), "2026-11-20T08:00:00Z");
                    let event = identify(&contact, day, "m");
                    let place = Some(partition_of(contact.as_bytes(), 3));
                    world.send(&world.topic("queue"), place, Some(contact.as_bytes()), Some(event.as_bytes()), &[]);
                    world.flush();
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let output = resize(&world, "6", &[]);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            output
        });
        refused(&output, &["something writes into the topic"]);
        let untouched = r#"{"version":1,"partitions":3}"#.to_owned();
        assert_eq!(layout(&world), if stopped == Stopped::Begun { untouched } else { during }, "{stopped:?}");
        resized(&world, "6");
        let waiting = world
            .read(&world.topic("queue"))
            .iter()
            .map(|record| record.key.clone())
            .collect::<std::collections::BTreeSet<_>>();
        world.run_until_caught_up(&[]);
        assert_eq!(world.stand_in.requests() as usize, waiting.len(), "{stopped:?}: each once");
    }
}

#[test]
fn a_queue_that_was_deleted_is_made_anew_as_its_history_is_keyed() {
    let world = World::new();
    world.visits(0..30);
    world.run_until_caught_up(&[]);
    let (queue, delivered) = (world.topic("queue"), world.topic("delivered"));
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &world.brokers).create().expect("an admin client");
    let delete = |topics: &[&str]| {
        let deleted = world.runtime.block_on(admin.delete_topics(topics, &AdminOptions::new())).expect("an answer");
        deleted.into_iter().for_each(|deleted| drop(deleted.expect("deleted")));
        world.wait("it is gone", || {
            let told = text(&world.command(&["topics", "verify"], &[]).output().expect("it runs"));
            topics.iter().all(|topic| told.contains(&format!("topic {topic:?}: it is missing")))
        });
    };
    let created = || text(&world.command(&["topics", "create"], &["topics.partitions=5"]).output().expect("it runs"));
    delete(&[&queue]);
    let told = created();
    assert!(told.contains(&format!("created  {queue} (3 partitions)")), "{told}");
    world.visits(0..40);
    world.run_until_caught_up(&["topics.partitions=5"]);
    assert_eq!(world.stand_in.requests(), 40, "what was delivered before is known");
    // Both made anew have no history, and are as the setting says.
    delete(&[&queue, &delivered]);
    let told = created();
    assert!(told.contains(&format!("created  {queue} (5 partitions)")), "{told}");
}

#[test]
fn a_resize_that_is_interrupted_says_how_to_go_on() {
    let world = World::new();
    world.visits(0..10);
    world.run_until_caught_up(&[]);
    let mut command = world.command(&["topics", "resize", "--partitions", "6"], &[]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(told.any(|line| line.contains("waiting 5 s")));
    interrupt(&child);
    assert!(told.any(|line| line.contains("run the same command again")));
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    // Nothing had been changed.
    world.visits(0..20);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 20);
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
    world.visits(0..200);
    world.run_until_caught_up(&[]);
    world.behave(Behaviour { status: Some(401), ..Behaviour::default() });
    let instance = world.start(&[]);
    world.visits(200..300);
    world.wait("they wait", || instance.metric("nat_destination_events_queued_total", &[]) == 100.0);
    assert!(instance.stop().0.success());
    let config = world.config();
    let resized = world.runtime.spawn_blocking(move || {
        let mut told = Told::default();
        (resize::resize(&config, 6, &mut told).expect("resized"), told)
    });
    let (resized, told) = world.runtime.block_on(resized).expect("it ends");
    assert_eq!((resized.entries, resized.copies, resized.moved), (200, 200, 100));
    let [carrying, keying] = told.steps.as_slice() else { panic!("two steps") };
    assert_eq!((carrying.0, carrying.1), ("carrying what was delivered", 200));
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
fn a_running_service_ends_when_partitions_are_added() {
    let world = World::new();
    let mut instance = world.start(&[]);
    world.visits(0..20);
    instance.wait_until_settled(20);
    add_by_hand(&world, &world.topic("queue"), 6);
    assert_eq!(instance.wait().code(), Some(1));
    let log = instance.log();
    assert!(log.contains("it has 6 partitions, but was made with 3"), "{log}");
    assert!(log.contains("topics resize --partitions 6"), "{log}");
    resized(&world, "6");
    world.visits(0..30);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 30);
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
fn a_layout_of_a_newer_version_is_an_error() {
    let world = World::new();
    world.run_until_caught_up(&[]);
    world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(br#"{"version":9,"rings":2}"#), &[]);
    world.flush();
    refused(
        &world.command(&["run"], &[]).output().expect("it runs"),
        &[&world.topic("layout"), "not written by this version"],
    );
}

#[test]
fn verify_tells_every_problem_at_once() {
    let world = World::new();
    let missing = text(&world.command(&["topics", "verify"], &[]).output().expect("it runs"));
    assert_eq!(missing.matches("PROBLEM").count(), 4, "{missing}");
    world.create_topic(&world.topic("queue"), 4, &[("cleanup.policy", "compact,delete"), ("retention.ms", "7200000")]);
    world.create_topic(
        &world.topic("delivered"),
        2,
        &[("cleanup.policy", "compact,delete"), ("retention.ms", "3600000")],
    );
    world.create_topic(&world.topic("layout"), 1, &[("cleanup.policy", "delete")]);
    let verified = world.command(&["topics", "verify"], &[]).output().expect("it runs");
    refused(
        &verified,
        &[
            "it is missing; create it with",
            "it has 2 partitions, but",
            "retention.ms = 3600000",
            "cleanup.policy = delete",
            "cleanup.policy = compact,delete",
            "--add-config cleanup.policy=delete",
            "retention.ms = 7200000 is shorter than topics.queue_retention (604800000 ms)",
            "--add-config retention.ms=604800000",
        ],
    );
}

#[test]
fn describe_tells_what_each_topic_holds_and_who_reads_it() {
    let world = World::new();
    world.visits(0..30);
    let instance = world.start(&[]);
    instance.wait_until_settled(30);
    let committed = || {
        let output = world.command(&["topics", "describe", "--json"], &[]).output().expect("it runs");
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    world.wait("its offsets are committed", || committed()[1]["read_by"][0]["lag"] == 0);
    let described = committed();
    let of = |topic: &str| {
        let topics = described.as_array().expect("a list");
        topics.iter().find(|described| described["topic"] == topic).expect("described").clone()
    };
    let queue = of(&world.topic("queue"));
    assert_eq!((&queue["partitions"], &queue["records"]), (&3.into(), &30.into()), "{queue}");
    assert_eq!((&queue["cleanup_policy"], &queue["retention_ms"]), (&"delete".into(), &604_800_000.into()));
    assert_eq!(queue["read_by"][0]["group"], world.topic("deliver"));
    assert_eq!(queue["read_by"][0]["members"].as_array().map(Vec::len), Some(1), "{queue}");
    assert_eq!((&of(&world.topic("layout"))["records"], &of(&world.source)["records"]), (&1.into(), &30.into()));
    let table = text(&world.command(&["topics", "describe"], &[]).output().expect("it runs"));
    for part in ["topic", "read by", "7days", "compact,delete", "for ever", "(1 member, lag 0)", "personal data"] {
        assert!(table.contains(part), "{part:?} in:\n{table}");
    }
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
