//! Dead letters are sent again, by the command line alone, and what came of them is told.

use std::process::{Child, Command, Output, Stdio};

use nat_destination::sandbox::stand_in::Behaviour;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::faults::set_offset;
use super::letters::{ada, day, dead_letters, of_four_kinds, redrive, rejecting, succeeded, told};
use super::support::World;
use super::support::world::{Record, identify, interrupt};

pub const NO_GUARD: &str = "circuit.rejections=0";

pub fn outcomes(delivered: u64, rest: u64, dead_again: u64) -> Value {
    json!({"delivered": delivered, "duplicate_or_filtered": rest, "dead_again": dead_again, "gone": 0, "unreadable": 0})
}

pub fn engage(value: bool) -> String {
    format!(
        r#"{{"type":"identify","timestamp":"2026-11-20T09:00:00Z","traits":{{"email":"ada@example.com","vip":{value}}},"context":{{"personas":{{"computation_key":"vip"}}}}}}"#
    )
}

#[test]
fn a_rejected_contact_is_fixed_and_redriven() {
    let world = World::with(3, rejecting(&["ada@example.com"]));
    world.produce(1, Some(b"key"), Some(ada().as_bytes()), &[("trace", Some(b"t")), ("none", None)]);
    world.event(0, &identify("bob@example.com", "2026-11-20T08:00:00Z", "m-bob"));
    let instance = world.start(&[]);
    instance.wait_until_settled(2);
    world.behave(Behaviour::default());
    let report = redrive(&world, &["--wait"], &[]);
    assert_eq!((&report["letters"], &report["reasons"]), (&json!(1), &json!({"rejected": 1})));
    assert_eq!(report["outcomes"], outcomes(1, 0, 0));
    assert_eq!(world.accepted_days(), [day("ada@example.com"), day("bob@example.com")]);
    // What goes into the queue is the source record, as ingest put it there, and the road that it took.
    let mut queued: Vec<Record> = world.read(&world.topic("queue"));
    queued.retain(|record| record.key.as_deref() == Some(b"ada@example.com"));
    let [first, again] = queued.as_slice() else { panic!("{queued:?}") };
    assert_eq!((&first.value, first.partition), (&again.value, again.partition));
    let road = [("nat.road".to_owned(), Some(b"redrive/1".to_vec()))];
    assert_eq!(again.headers, [&first.headers[..], &road].concat());
    // Once more: it is known.
    let report = redrive(&world, &[], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(0), &json!({"already_redriven": 1})));
}

#[test]
fn what_the_queue_lost_of_a_redrive_is_redriven_again_and_what_was_delivered_is_a_duplicate() {
    let world = World::with(1, rejecting(&["ada@example.com", "bob@example.com"]));
    let visit = |name: &str| identify(&format!("{name}@example.com"), "2026-11-20T08:00:00Z", name);
    for name in ["ada", "bob"] {
        world.event(0, &visit(name));
    }
    let one = "topics.partitions=1";
    world.run_until_caught_up(&[NO_GUARD, one]);
    world.behave(Behaviour::default());
    let waits = redrive_at("100", &world, &["--wait", "--json"]);
    let queue = world.topic("queue");
    world.wait("both are in the queue", || world.read(&queue).len() == 4);
    // One of the two is deleted before it is delivered.
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&queue, 0, Offset::Offset(3)).expect("an offset");
    world.runtime.block_on(admin(&world).delete_records(&list, &AdminOptions::new())).expect("deleted");
    drop(list);
    world.run_until_caught_up(&[one]);
    assert_eq!(world.accepted().len(), 1);
    let report: Value = serde_json::from_str(&succeeded(waits.wait_with_output().expect("it ends"))).expect("JSON");
    assert_eq!(report["outcomes"]["gone"], json!(1), "and is not taken for a duplicate: {report}");
    assert_eq!(
        (&report["outcomes"]["delivered"], &report["outcomes"]["duplicate_or_filtered"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(redrive(&world, &[], &[])["passed_over"], json!({"already_redriven": 2}));
    for _ in 0..2 {
        let report = redrive(&world, &["--again"], &[]);
        assert_eq!((&report["letters"], &report["passed_over"]), (&json!(2), &json!({})));
        world.run_until_caught_up(&[one]);
        assert_eq!(world.accepted_days(), [day("ada@example.com"), day("bob@example.com")]);
        assert_eq!(world.accepted().len(), 2);
    }
}

/// Starts a redrive that takes seconds, and waits until so many events are in the queue.
fn slow_redrive(world: &World, until: usize) -> Child {
    let child = redrive_at("10", world, &[]);
    world.wait("some are in the queue", || world.read(&world.topic("queue")).len() >= until);
    child
}

/// The same, and stops it there, with most of thirty letters still to come.
pub fn halted_redrive(world: &World, arguments: &[&str]) -> Child {
    let child = redrive_at("2", world, arguments);
    world.wait("the first is noted", || notes(world) >= 1);
    signal(&child, "-STOP");
    child
}

fn redrive_at(rate: &str, world: &World, arguments: &[&str]) -> Child {
    let mut command = world.command(&[&["dead-letters", "redrive", "--rate", rate], arguments].concat(), &[]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

pub fn goes_on(child: Child) -> Output {
    signal(&child, "-CONT");
    child.wait_with_output().expect("it ends")
}

fn signal(child: &Child, signal: &str) {
    let kill = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(kill.expect("it runs").success());
}

pub fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &world.brokers).create().expect("an admin client")
}

/// The same dead letter once more in that partition, with other headers.
pub fn write_again(world: &World, letter: &Record, partition: i32, other: &[(&str, &str)]) {
    let value_of = |name: &str| other.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_bytes());
    let header = |(name, value): &'_ (String, Option<Vec<u8>>)| {
        (name.clone(), value_of(name).map(<[u8]>::to_vec).or_else(|| value.clone()))
    };
    let headers: Vec<_> = letter.headers.iter().map(header).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    world.send(&world.topic("dead-letter"), Some(partition), letter.key.as_deref(), letter.value.as_deref(), &headers);
    world.flush();
}

/// The letter that another event of the same contact would have become.
pub fn of_another_event(world: &World, letter: &Record) -> Record {
    let mut other = letter.clone();
    let source = format!("{}/0/1000/1", world.source).into_bytes();
    other
        .headers
        .iter_mut()
        .filter(|(name, _)| name == "nat.source")
        .for_each(|(_, value)| *value = Some(source.clone()));
    other
}

/// How many notes are in the dead-letter topic.
fn notes(world: &World) -> usize {
    world.read(&world.topic("dead-letter")).iter().filter(|record| record.header("nat.redriven").is_some()).count()
}

#[test]
fn a_redrive_stopped_halfway_goes_on() {
    // At ten a second they last longer than a busy machine takes to look how far it is.
    const LETTERS: usize = 240;
    let world = World::with(3, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..LETTERS);
    world.run_until_caught_up(&[NO_GUARD]);
    world.behave(Behaviour::default());
    let child = slow_redrive(&world, LETTERS + 15);
    interrupt(&child);
    let (code, said) = told(&child.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(130));
    assert!(said.contains("run the same command again to go on"), "{said}");
    let after_interrupt = world.read(&world.topic("queue")).len();
    assert!(after_interrupt < 2 * LETTERS - 10, "it was stopped halfway: {after_interrupt}");
    let mut child = slow_redrive(&world, after_interrupt + 15);
    child.kill().expect("killed");
    child.wait().expect("gone");
    let instance = world.start(&[]);
    let report = redrive(&world, &["--wait"], &[]);
    let taken = report["letters"].as_u64().expect("a number") as usize;
    assert!((1..=LETTERS - 20).contains(&taken), "it went on where it was stopped: {report}");
    // Between the queue's acknowledgement and the note of it, one killed at 10 a second has a few events at most.
    let queued = world.read(&world.topic("queue")).len();
    assert!((2 * LETTERS..=2 * LETTERS + 5).contains(&queued), "{queued}");
    instance.wait_until_settled((queued - LETTERS) as u64);
    assert_eq!(world.accepted_days(), {
        let mut all: Vec<_> = (0..LETTERS).map(|number| day(&format!("p{number}@example.com"))).collect();
        all.sort();
        all
    });
    assert_eq!(redrive(&world, &[], &[])["passed_over"], json!({"already_redriven": LETTERS}));
}

#[test]
fn a_redrive_whose_progress_nobody_reads_any_more_goes_on() {
    let world = World::with(1, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..70);
    world.run_until_caught_up(&[NO_GUARD]);
    // Longer than five seconds: then it says how far it is.
    let mut child = redrive_at("10", &world, &[]);
    drop(child.stderr.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), notes(&world)), (Some(0), 70));
    assert!(String::from_utf8_lossy(&output.stdout).contains("redriven: 70"));
}

#[test]
fn a_redrive_that_is_stopped_with_nobody_reading_says_so_all_the_same() {
    let world = World::with(1, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..60);
    world.run_until_caught_up(&[NO_GUARD]);
    let mut child = slow_redrive(&world, 60 + 5);
    drop(child.stdout.take());
    interrupt(&child);
    let (code, said) = told(&child.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("run the same command again to go on"), "{said}");
}

#[test]
fn what_becomes_a_dead_letter_during_a_redrive_is_left_to_the_next() {
    let world = World::with(1, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..20);
    world.run_until_caught_up(&[NO_GUARD]);
    let letter = world.dead_letters().remove(0);
    let child = slow_redrive(&world, 20 + 3);
    world.dead_letter_of_time(&letter, jiff::Timestamp::now().as_millisecond());
    let told = succeeded(child.wait_with_output().expect("it ends"));
    assert!(told.starts_with("redriven: 20\n"), "{told}");
    let report = redrive(&world, &[], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({"already_redriven": 20})));
}

#[test]
fn a_batch_stopped_halfway_is_taken_again_and_nobody_is_told_twice() {
    let world = World::with(1, Behaviour::default());
    let item = |number| identify(&format!("p{number}@example.com"), "2026-11-20T08:00:00Z", &format!("m{number}"));
    let items: Vec<String> = (0..60).map(item).collect();
    world.event(0, &format!(r#"{{"wrapped":{{"batch":[{}]}}}}"#, items.join(",")));
    world.run_until_caught_up(&[]);
    let mended = ["source.envelope=wrapped"];
    let mut command = world.command(&["dead-letters", "redrive", "--rate", "5"], &mended);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    world.wait("some are in the queue", || world.queued_by("redrive/1").len() >= 5);
    interrupt(&child);
    let (code, said) = told(&child.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(130), "{said}");
    let before = world.queued_by("redrive/1").len();
    assert!(before < 50, "it was stopped within the batch: {before}");
    let _instance = world.start(&mended);
    let report = redrive(&world, &["--wait"], &mended);
    assert_eq!((&report["letters"], &report["events"]), (&json!(1), &json!(60)), "it was not noted");
    assert_eq!(world.accepted_days().len(), 60);
    assert_eq!(world.accepted().len(), 60);
}

#[test]
fn a_note_stands_in_its_letters_partition_so_that_retention_deletes_the_letter_first() {
    let world = World::with(3, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..20);
    world.run_until_caught_up(&[NO_GUARD]);
    redrive(&world, &[], &[]);
    let records = world.read(&world.topic("dead-letter"));
    let notes: Vec<_> = records.iter().filter_map(|record| Some((record, record.header("nat.redriven")?))).collect();
    assert_eq!(notes.len(), 20);
    for (record, letter) in notes {
        let (partition, offset) = letter.split_once(':').expect("a place");
        assert_eq!(partition, record.partition.to_string());
        assert!(offset.parse::<i64>().expect("a number") < record.offset);
    }
}

#[test]
fn a_redrive_that_is_rejected_again_counts_and_is_refused_in_the_end() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    let instance = world.start(&[]);
    instance.wait_until_settled(1);
    for round in 1..=2 {
        let report = redrive(&world, &["--wait", "--max-redrives", "2"], &[]);
        assert_eq!(report["outcomes"], outcomes(0, 0, 1), "round {round}");
    }
    let report = redrive(&world, &["--wait", "--max-redrives", "2"], &[]);
    assert_eq!(report["passed_over"], json!({"already_redriven": 2, "redriven_too_often": 1}));
    assert_eq!((&report["letters"], &report["outcomes"]), (&json!(0), &Value::Null));
    let mut counts: Vec<_> =
        world.dead_letters().iter().filter_map(|letter| letter.header("nat.redrive_count")).collect();
    counts.sort();
    assert_eq!(counts, ["0", "1", "2"]);
    // Whoever knows better may.
    assert_eq!(redrive(&world, &["--max-redrives", "3"], &[])["letters"], json!(1));
}

#[test]
fn two_redrives_at_a_time_double_nothing() {
    let world = World::with(1, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..20);
    world.run_until_caught_up(&[NO_GUARD]);
    let first = halted_redrive(&world, &[]);
    assert_ne!(redrive(&world, &[], &[])["letters"], json!(0), "the second takes what is not noted");
    assert!(succeeded(goes_on(first)).starts_with("redriven: 20\n"));
    let instance = world.start(&[NO_GUARD]);
    let doubled = world.queued_by("redrive/1").len() as u64;
    assert!(doubled > 20, "{doubled}");
    instance.wait_until_settled(doubled);
    let report = redrive(&world, &["--wait"], &[]);
    assert_eq!((&report["letters"], &report["events"]), (&json!(20), &json!(20)));
    assert_eq!(report["passed_over"], json!({"already_redriven": 20, "copy": doubled - 20}));
    assert_eq!(report["outcomes"], outcomes(0, 0, 20));
    let report = redrive(&world, &["--wait"], &[]);
    assert_eq!((&report["letters"], &report["outcomes"]), (&json!(20), &outcomes(0, 0, 20)));
    assert_eq!(report["passed_over"], json!({"already_redriven": 20 + doubled}), "the copies were noted");
}

#[test]
fn of_copies_the_one_that_was_redriven_most_often_counts() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let letter = world.dead_letters().remove(0);
    write_again(&world, &letter, letter.partition, &[("nat.redrive_count", "3")]);
    assert_eq!(redrive(&world, &[], &[])["passed_over"], json!({"redriven_too_often": 2}));
    let report = redrive(&world, &["--max-redrives", "4"], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({"copy": 1})));
    assert_eq!(world.queued_by("redrive/4").len(), 1);
    assert_eq!(redrive(&world, &["--max-redrives", "9"], &[])["passed_over"], json!({"already_redriven": 2}));
    // A file of a backfill may have been changed in its middle: then a place says little.
    let other = Record { value: Some(identify("ada@example.com", "2026-11-21T08:00:00Z", "m").into_bytes()), ..letter };
    write_again(&world, &other, other.partition, &[]);
    write_again(&world, &other, other.partition, &[]);
    let report = redrive(&world, &[], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]["copy"]), (&json!(1), &json!(1)));
}

#[test]
fn what_is_wrong_with_a_letter_is_told_before_how_often_it_was_redriven() {
    let world = World::with(1, Behaviour::default());
    world.event(0, r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z"}"#);
    world.run_until_caught_up(&[]);
    let letter = world.dead_letters().remove(0);
    write_again(&world, &letter, letter.partition, &[("nat.redrive_count", "3")]);
    assert_eq!(redrive(&world, &[], &[])["passed_over"], json!({"still_invalid": 2}));
    let (code, said) = told(&dead_letters(&world, &["redrive", "--max-redrives", "0"], &[]));
    assert!(code == Some(2) && said.contains("--max-redrives"), "{code:?} {said}");
    // And where the filters mean none, that.
    for (filter, expected) in [
        (["--topic", "nope"], "2 dead letters read, none of them meant by these filters"),
        (["--since", "2099-01-01T00:00:00Z"], "no dead letters since 2099-01-01T00:00:00Z"),
    ] {
        let (code, said) = told(&dead_letters(&world, &[&["redrive"], &filter[..]].concat(), &[]));
        assert!(code == Some(0) && said.contains(expected), "{code:?} {said}");
    }
    let said = succeeded(dead_letters(&world, &["stats", "--since", "2099-01-01T00:00:00Z"], &[]));
    assert_eq!(said, "no dead letters since 2099-01-01T00:00:00Z\n");
}

#[test]
fn an_engage_value_rejected_again_is_dead_again_and_not_delivered() {
    let world = World::with(1, Behaviour::default());
    world.event(0, &engage(true));
    world.run_until_caught_up(&[]);
    world.behave(rejecting(&["ada@example.com"]));
    world.event(0, &engage(false));
    let instance = world.start(&[]);
    instance.wait_until_settled(1);
    assert_eq!(redrive(&world, &["--wait"], &[])["outcomes"], outcomes(0, 0, 1));
}

#[test]
fn an_outcome_that_leaves_no_record_is_called_so_and_one_that_nobody_can_read_is_told() {
    let world = World::with(1, rejecting(&["ada@example.com", "bob@example.com"]));
    world.event(0, &ada());
    world.event(0, &identify("bob@example.com", "2026-11-20T08:00:00Z", "m-bob"));
    world.run_until_caught_up(&[NO_GUARD]);
    world.behave(Behaviour::default());
    let mut command = world.command(&["dead-letters", "redrive", "--wait", "--json"], &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    world.wait("both are in the queue", || world.queued_by("redrive/1").len() == 2);
    world.send(&world.topic("delivered"), Some(0), Some(b"0123456789abcdef"), Some(b"\x09newer"), &[]);
    world.flush();
    let list = world.path("suppressed");
    std::fs::write(&list, "bob@example.com\n").expect("written");
    let _instance = world.start(&[&format!("suppress.file={}", list.display())]);
    let report: Value = serde_json::from_str(&succeeded(child.wait_with_output().expect("it ends"))).expect("JSON");
    let expected = json!({"delivered": 1, "duplicate_or_filtered": 1, "dead_again": 0, "gone": 0, "unreadable": 1});
    assert_eq!(report["outcomes"], expected);
    assert_eq!(world.accepted_days(), [day("ada@example.com")]);
}

#[test]
fn stopped_while_it_waits_a_redrive_says_that_all_are_on_their_way() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let mut command = world.command(&["dead-letters", "redrive", "--wait", "--json"], &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // No service is running. The note is written last.
    world.wait("it is noted", || world.read(&world.topic("dead-letter")).len() == 2);
    interrupt(&child);
    let output = child.wait_with_output().expect("it ends");
    let (code, said) = told(&output);
    assert!(code == Some(130) && said.contains("all were redriven"), "{code:?} {said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["letters"], &report["outcomes"], &report["stopped"]), (&json!(1), &Value::Null, &json!(true)));
}

#[test]
fn what_was_done_before_an_error_is_told_all_the_same() {
    let world = World::with(1, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..30);
    world.run_until_caught_up(&[NO_GUARD]);
    let child = halted_redrive(&world, &["--json"]);
    // It takes not even a small record any more.
    let queue = world.topic("queue");
    let less = AlterConfig::new(ResourceSpecifier::Topic(&queue)).set("max.message.bytes", "100");
    world.runtime.block_on(admin(&world).alter_configs(&[less], &AdminOptions::new())).expect("altered");
    let output = goes_on(child);
    let (code, said) = told(&output);
    assert!(code == Some(1) && said.contains(&queue), "{code:?} {said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["letters"], json!(notes(&world)), "{report} {said}");
    assert_eq!(report["events"], report["letters"]);
}

#[test]
fn what_was_redriven_is_told_though_the_waiting_fails() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let mut command = world.command(&["dead-letters", "redrive", "--wait", "--json"], &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    world.wait("it is noted", || notes(&world) == 1);
    let delivered = world.topic("delivered");
    let deleted = world.runtime.block_on(admin(&world).delete_topics(&[&delivered], &AdminOptions::new()));
    deleted.expect("an answer").into_iter().for_each(|deleted| drop(deleted.expect("deleted")));
    let place = world.queued_by("redrive/1").remove(0);
    set_offset(&world, &world.topic("deliver"), &world.topic("queue"), place.partition, place.offset + 1);
    let output = child.wait_with_output().expect("it ends");
    let (code, said) = told(&output);
    assert!(code == Some(1) && said.contains(&delivered), "{code:?} {said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["letters"], &report["outcomes"]), (&json!(1), &Value::Null));
}

#[test]
fn a_time_range_of_one_moment_is_told_as_upside_down_in_ages_too() {
    let world = World::with(1, Behaviour::default());
    let (code, said) = told(&dead_letters(&world, &["redrive", "--since", "1h", "--until", "1h"], &[]));
    assert!(code == Some(2) && said.contains("--since"), "{code:?} {said}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let world = of_four_kinds();
    let records = || (world.read(&world.topic("queue")).len(), world.read(&world.topic("dead-letter")).len());
    let before = records();
    let report = redrive(&world, &["--dry-run"], &[]);
    assert_eq!((&report["letters"], &report["reasons"]), (&json!(2), &json!({"rejected": 2})));
    assert_eq!((&report["events"], &report["passed_over"]), (&json!(2), &json!({"still_invalid": 2})));
    assert_eq!(records(), before);
    let words = succeeded(dead_letters(&world, &["redrive", "--dry-run"], &[]));
    assert!(words.starts_with("to be redriven: 2\n"), "{words}");
    assert_eq!(redrive(&world, &[], &[])["letters"], json!(2), "nothing is remembered of it either");
}
