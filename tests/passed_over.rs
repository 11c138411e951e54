//! What a redrive passes over, and says so: what would bring an old value back, be sent twice, or not be taken.

use nat_destination::sandbox::stand_in::Behaviour;
use rdkafka::admin::AdminOptions;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::letters::{ada, day, dead_letters, lines, redrive, rejecting, succeeded, told};
use super::redrive::{NO_GUARD, admin, engage, goes_on, halted_redrive, of_another_event, write_again};
use super::support::World;
use super::support::world::identify;

/// The Engage values that were accepted, in their order.
fn values(world: &World) -> Vec<Value> {
    world.accepted().into_iter().filter_map(|entry| Some(entry.engage?.value)).collect()
}

#[test]
fn a_redrive_brings_no_engage_value_back_over_a_younger_one() {
    let world = World::with(2, rejecting(&["ada@example.com"]));
    world.event(0, &engage(true));
    world.run_until_caught_up(&[]);
    world.behave(Behaviour::default());
    world.event(1, &engage(false));
    world.run_until_caught_up(&[]);
    for mode in [&["--dry-run"][..], &[]] {
        let report = redrive(&world, mode, &[]);
        assert_eq!((&report["letters"], &report["passed_over"]), (&json!(0), &json!({"told_since": 1})), "{mode:?}");
    }
    // Where Engage's events count as visits, there is nothing to be brought back.
    assert_eq!(redrive(&world, &["--dry-run"], &["engage=daily"])["letters"], json!(1));
    world.run_until_caught_up(&[]);
    assert_eq!(values(&world), [false]);
}

#[test]
fn a_younger_engage_value_is_redriven_though_an_older_one_was_accepted_after_it() {
    let world = World::with(2, rejecting(&["ada@example.com"]));
    world.event(1, &engage(true));
    world.run_until_caught_up(&[]);
    world.behave(Behaviour::default());
    // It came late.
    world.event_of_time(0, &engage(false), days_ago(1));
    world.run_until_caught_up(&[]);
    let report = redrive(&world, &[], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({})));
    world.run_until_caught_up(&[]);
    assert_eq!(values(&world), [false, true]);
}

#[test]
fn an_engage_value_is_not_brought_back_over_a_younger_one_that_waits_in_the_queue() {
    let world = World::with(2, rejecting(&["ada@example.com"]));
    world.event(0, &engage(true));
    world.run_until_caught_up(&[]);
    world.behave(Behaviour { status: Some(503), ..Behaviour::default() });
    let instance = world.start(&[]);
    world.event(1, &engage(false));
    world.wait("it waits", || world.read(&world.topic("queue")).len() == 2);
    for mode in [&["--dry-run"][..], &[]] {
        let report = redrive(&world, mode, &[]);
        assert_eq!((&report["letters"], &report["passed_over"]), (&json!(0), &json!({"told_since": 1})), "{mode:?}");
    }
    world.behave(Behaviour::default());
    instance.wait_until_settled(1);
    assert_eq!(values(&world), [false]);
}

#[test]
fn a_younger_value_that_was_settled_without_being_accepted_keeps_no_older_one_back() {
    let world = World::with(2, rejecting(&["ada@example.com"]));
    world.event(0, &engage(true));
    world.event(1, &engage(false));
    world.run_until_caught_up(&[NO_GUARD]);
    let younger = world.dead_letters().into_iter().find(|letter| {
        letter.header("nat.source").is_some_and(|source| source.starts_with(&format!("{}/1/", world.source)))
    });
    let younger = younger.expect("a letter");
    let note = format!("{}:{}", younger.partition, younger.offset);
    let header: [(&str, Option<&[u8]>); 1] = [("nat.redriven", Some(note.as_bytes()))];
    world.send(&world.topic("dead-letter"), Some(younger.partition), None, None, &header);
    world.flush();
    let report = redrive(&world, &["--dry-run"], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({"already_redriven": 1})));
}

#[test]
fn an_engage_value_is_not_brought_back_over_a_younger_one_that_comes_while_a_redrive_runs() {
    let world = World::with(2, Behaviour { reject: 1.0, ..Behaviour::default() });
    let set = ["topics.partitions=1", NO_GUARD];
    world.visits(0..30);
    world.run_until_caught_up(&set);
    world.event(0, &engage(true));
    world.run_until_caught_up(&set);
    world.behave(Behaviour::default());
    let instance = world.start(&set);
    let child = halted_redrive(&world, &["--json"]);
    world.event(1, &engage(false));
    world.wait("the younger is accepted", || values(&world) == [false]);
    let report: Value = serde_json::from_str(&succeeded(goes_on(child))).expect("JSON");
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(30), &json!({"told_since": 1})));
    instance.wait_until_settled(31);
    assert_eq!(values(&world), [false]);
}

#[test]
fn of_two_letters_of_an_engage_key_the_older_value_is_not_sent_after_the_younger() {
    let world = World::with(2, rejecting(&["ada@example.com"]));
    let one = ["topics.partitions=1"];
    world.event(1, &engage(false));
    world.run_until_caught_up(&one);
    world.event_of_time(0, &engage(true), days_ago(1));
    world.run_until_caught_up(&one);
    world.behave(Behaviour::default());
    for mode in [&["--dry-run"][..], &[]] {
        let report = redrive(&world, mode, &one);
        assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({"told_since": 1})), "{mode:?}");
    }
    world.run_until_caught_up(&one);
    assert_eq!(values(&world), [false]);
}

#[test]
fn an_engage_value_that_was_given_up_is_redriven_over_the_one_before_it() {
    let world = World::with(2, Behaviour::default());
    world.event(1, &engage(false));
    world.run_until_caught_up(&[]);
    world.behave(rejecting(&["ada@example.com"]));
    world.event(0, &engage(true));
    world.run_until_caught_up(&[]);
    world.behave(Behaviour::default());
    assert_eq!(redrive(&world, &[], &[])["letters"], json!(1));
    world.run_until_caught_up(&[]);
    assert_eq!(values(&world), [false, true]);
}

fn days_ago(days: i64) -> i64 {
    jiff::Timestamp::now().as_millisecond() - days * 86_400_000
}

#[test]
fn what_dedup_may_have_forgotten_is_told_before_anything_is_sent_and_needs_leave() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    world.dead_letter_of_time(&of_another_event(&world, &world.dead_letters()[0]), days_ago(3));
    let set = ["dedup.retention=2d"];
    let report = redrive(&world, &["--dry-run"], &set);
    assert_eq!((&report["letters"], &report["forgettable_contact_days"]), (&json!(2), &json!(1)));
    let words = succeeded(dead_letters(&world, &["redrive", "--dry-run"], &set));
    assert!(words.contains("contact-days older than dedup.retention, which could be sent again: 1\n"), "{words}");
    let (code, said) = told(&dead_letters(&world, &["redrive"], &set));
    assert_eq!(code, Some(1), "{said}");
    for part in ["1 contact-day ", "2days", "Nothing was sent", "--allow-redelivery", "--since "] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(world.queued_by("redrive/1").is_empty());
    assert_eq!(redrive(&world, &["--since", "1d"], &set)["letters"], json!(1), "the young one needs no leave");
    let report = redrive(&world, &["--allow-redelivery"], &set);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({"already_redriven": 1})));
    let (code, said) = told(&dead_letters(&world, &["redrive"], &set));
    assert_eq!(code, Some(0), "of what was redriven nobody asks: {said}");
}

#[test]
fn what_becomes_older_than_the_retention_while_a_redrive_runs_is_passed_over() {
    let world = World::with(1, Behaviour { reject: 1.0, ..Behaviour::default() });
    let set = ["dedup.retention=1h", "topics.partitions=1", "circuit.rejections=0"];
    world.visits(0..60);
    world.run_until_caught_up(&set);
    // Within the retention for twenty seconds more, so that it is chosen on a busy machine too; it comes to that one after thirty.
    let soon = jiff::Timestamp::now().as_millisecond() - 3_600_000 + 20_000;
    world.dead_letter_of_time(&of_another_event(&world, &world.dead_letters()[0]), soon);
    let report = redrive(&world, &["--rate", "2"], &set);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(60), &json!({"forgettable": 1})), "{report}");
}

/// An identify call without an email, so large.
fn large(size: usize) -> String {
    let noise: String = (0..size).map(|_| fastrand::alphanumeric()).collect();
    format!(r#"{{"type":"identify","timestamp":"2026-11-20T08:00:00Z","userId":"ada@example.com","x":"{noise}"}}"#)
}

#[test]
fn a_dead_letter_that_is_cut_is_left_to_replay_which_sends_it_whole() {
    let world = World::with(1, Behaviour::default());
    world.create_topic(&world.topic("dead-letter"), 1, &[("max.message.bytes", "100000")]);
    world.event(0, &large(200_000));
    let set = ["topics.partitions=1"];
    world.run_until_caught_up(&set);
    assert!(world.dead_letters()[0].header("nat.value.truncated").is_some());
    let mended = ["topics.partitions=1", "identify.user_id_as_email=true"];
    let report = redrive(&world, &[], &mended);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(0), &json!({"truncated": 1})));
    let replay =
        world.command(&["replay", "--from", "1h", "--allow-redelivery", "--json"], &mended).output().expect("it runs");
    let replayed: Value = serde_json::from_str(&succeeded(replay)).expect("JSON");
    assert_eq!((&replayed["queued"], &replayed["dead_letters"]), (&json!(1), &json!(0)));
    world.run_until_caught_up(&mended);
    assert_eq!(world.accepted_days(), [day("ada@example.com")]);
}

#[test]
fn what_the_queue_does_not_take_is_passed_over_and_stays_open() {
    let world = World::with(1, Behaviour::default());
    world.create_topic(&world.topic("queue"), 1, &[("max.message.bytes", "100000")]);
    world.event(0, &large(200_000));
    world.run_until_caught_up(&["topics.partitions=1"]);
    let mended = ["topics.partitions=1", "identify.user_id_as_email=true"];
    let report = redrive(&world, &[], &mended);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(0), &json!({"too_large": 1})));
    assert_eq!(lines(&world, &["list", "--open"]).len(), 1);
}

#[test]
fn what_the_queue_does_not_take_holds_back_no_other_letter_and_is_no_event_of_those_sent() {
    let world = World::with(1, Behaviour::default());
    world.create_topic(&world.topic("queue"), 1, &[("max.message.bytes", "3000")]);
    (0..300).for_each(|_| world.send(&world.source, Some(0), None, Some(large(400).as_bytes()), &[]));
    let batch = format!(r#"{{"wrapped":{{"batch":[{},{},{}]}}}}"#, large(8000), large(400), large(8000));
    world.event(0, &batch);
    world.run_until_caught_up(&["topics.partitions=1"]);
    let mended = ["topics.partitions=1", "identify.user_id_as_email=true", "source.envelope=wrapped"];
    let report = redrive(&world, &[], &mended);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(300), &json!({"too_large": 1})));
    assert_eq!(report["events"], json!(301));
    assert_eq!(world.queued_by("redrive/1").len(), 301);
}

#[test]
fn letters_that_kafka_deletes_before_a_redrive_comes_to_them_are_told() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let letter = world.dead_letters().remove(0);
    for number in 0..40 {
        let source = format!("{}/0/{}/1", world.source, 1000 + number);
        write_again(&world, &letter, if number < 30 { 1 } else { 2 }, &[("nat.source", &source)]);
    }
    let child = halted_redrive(&world, &["--json"]);
    let last: Vec<i64> = world.dead_letters().iter().filter(|it| it.partition == 2).map(|it| it.offset).collect();
    let mut list = TopicPartitionList::new();
    let end = Offset::Offset(last.iter().max().expect("some") + 1);
    list.add_partition_offset(&world.topic("dead-letter"), 2, end).expect("an offset");
    world.runtime.block_on(admin(&world).delete_records(&list, &AdminOptions::new())).expect("deleted");
    drop(list);
    let report: Value = serde_json::from_str(&succeeded(goes_on(child))).expect("JSON");
    let gone = last.len() as u64;
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(41 - gone), &json!({"gone": gone})));
}

#[test]
fn whoever_is_suppressed_by_now_is_not_redriven() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    let bob = identify("bob@example.com", "2026-11-20T08:00:00Z", "m-bob");
    world.event(0, &format!(r#"{{"wrapped":{{"batch":[{},{bob}]}}}}"#, ada()));
    world.run_until_caught_up(&[]);
    let list = world.path("suppressed");
    std::fs::write(&list, "ada@example.com\n").expect("written");
    let list = format!("suppress.file={}", list.display());
    for mode in [&["--dry-run"][..], &[]] {
        let report = redrive(&world, mode, &[&list, "source.envelope=wrapped"]);
        assert_eq!((&report["letters"], &report["events"]), (&json!(1), &json!(1)), "{mode:?}");
        assert_eq!(report["passed_over"], json!({"nothing_for_nat": 1}), "{mode:?}");
    }
    assert_eq!(world.queued_by("redrive/1")[0].key.as_deref(), Some(&b"bob@example.com"[..]));
    // By a list that cannot be read nobody knows who is on it.
    let (code, said) = told(&dead_letters(&world, &["redrive"], &["suppress.file=/nowhere"]));
    assert!(code == Some(1) && said.contains("suppress.file"), "{code:?} {said}");
}

#[test]
fn of_a_batch_what_is_right_is_sent_and_what_is_left_is_told() {
    let world = World::with(1, Behaviour::default());
    let good = |email| identify(email, "2026-11-20T08:00:00Z", email);
    let (bad, track) = (r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z"}"#, r#"{"type":"track"}"#);
    let batch = |items: &[&str]| format!(r#"{{"wrapped":{{"batch":[{}]}}}}"#, items.join(","));
    world.event(0, &batch(&[&good("ada@example.com"), bad, track, &good("bob@example.com")]));
    world.event(0, &batch(&[bad, track]));
    world.event(0, &batch(&[track]));
    world.run_until_caught_up(&[]);
    let mended = ["source.envelope=wrapped"];
    for mode in [&["--dry-run"][..], &[]] {
        let report = redrive(&world, mode, &mended);
        assert_eq!((&report["letters"], &report["events"]), (&json!(1), &json!(2)), "{mode:?}");
        assert_eq!(report["items_left"], json!({"still_invalid": 1}), "{mode:?}");
        assert_eq!(report["passed_over"], json!({"still_invalid": 1, "nothing_for_nat": 1}), "{mode:?}");
    }
    world.run_until_caught_up(&mended);
    assert_eq!(world.accepted_days(), [day("ada@example.com"), day("bob@example.com")]);
}

#[test]
fn what_is_still_invalid_is_passed_over() {
    let world = World::with(1, Behaviour::default());
    world.event(0, r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z","userId":"Ada@example.com"}"#);
    world.event(0, r#"{"wrapped":{"batch":[{"type":"identify","timestamp":"2026-11-20T08:00:00Z","email":"bob@example.com"},{"type":"identify","timestamp":"2026-11-20T08:00:00Z","email":"carol@example.com"}]}}"#);
    world.run_until_caught_up(&[]);
    let report = redrive(&world, &[], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(0), &json!({"still_invalid": 2})));
    // Today's rules are other ones: both are right by them.
    let mended = ["identify.user_id_as_email=true", "source.envelope=wrapped"];
    let instance = world.start(&mended);
    let report = redrive(&world, &["--wait"], &mended);
    assert_eq!((&report["letters"], &report["events"]), (&json!(2), &json!(3)));
    assert_eq!(report["outcomes"]["delivered"], json!(3), "{report} {}", instance.log());
    let days = ["ada@example.com", "bob@example.com", "carol@example.com"].map(day);
    assert_eq!(world.accepted_days(), days);
}
