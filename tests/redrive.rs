//! Dead letters are seen, told apart, kept and sent again, by the command line alone.

use std::process::{Child, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nat_destination::sandbox::stand_in::Behaviour;
use serde_json::{Value, json};

use super::support::World;
use super::support::world::{Record, identify};

const NO_GUARD: &str = "circuit.rejections=0";

fn rejecting(emails: &[&str]) -> Behaviour {
    Behaviour { reject_emails: emails.iter().map(|email| (*email).to_owned()).collect(), ..Behaviour::default() }
}

fn dead_letters(world: &World, arguments: &[&str], set: &[&str]) -> Output {
    world.command(&[&["dead-letters"], arguments].concat(), set).output().expect("it runs")
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The JSON lines that a command prints.
fn lines(world: &World, arguments: &[&str]) -> Vec<Value> {
    let text = succeeded(dead_letters(world, arguments, &[]));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn redrive(world: &World, arguments: &[&str], set: &[&str]) -> Value {
    let text = succeeded(dead_letters(world, &[&["redrive", "--json"], arguments].concat(), set));
    serde_json::from_str(&text).expect("JSON")
}

fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn outcomes(delivered: u64, rest: u64, dead_again: u64) -> Value {
    json!({"delivered": delivered, "duplicate_or_filtered": rest, "dead_again": dead_again, "unreadable": 0})
}

fn engage(value: bool) -> String {
    format!(
        r#"{{"type":"identify","timestamp":"2026-11-20T09:00:00Z","traits":{{"email":"ada@example.com","vip":{value}}},"context":{{"personas":{{"computation_key":"vip"}}}}}}"#
    )
}

/// The Engage values that were accepted, in their order.
fn values(world: &World) -> Vec<Value> {
    world.accepted().into_iter().filter_map(|entry| Some(entry.engage?.value)).collect()
}

fn ada() -> String {
    identify("ada@example.com", "2026-11-20T08:00:00Z", "m-ada")
}

fn day(email: &str) -> (String, String) {
    (email.to_owned(), "2026-11-20".to_owned())
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
fn what_was_redriven_is_told_wherever_a_dead_letter_is_and_what_is_open_too() {
    let world = of_four_kinds();
    let places = |letters: &[Value], redriven: bool| -> Vec<String> {
        let of = letters.iter().filter(|letter| letter["redriven"].is_string() == redriven);
        let mut places: Vec<_> = of.map(|letter| letter["place"].as_str().expect("a place").to_owned()).collect();
        places.sort();
        places
    };
    let before = lines(&world, &["list"]);
    assert_eq!((places(&before, true).len(), places(&before, false).len()), (0, 4));
    let began = jiff::Timestamp::now().as_millisecond();
    redrive(&world, &["--contact", "bob@example.com"], &[]);
    let listed = lines(&world, &["list"]);
    let taken = listed.iter().find(|letter| letter["redriven"].is_string()).expect("one was redriven");
    let at: jiff::Timestamp = taken["redriven"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    assert!(at.as_millisecond() >= began, "{taken}");
    assert_eq!((taken["status"].as_u64(), places(&listed, false).len()), (Some(422), 3));
    let exported = lines(&world, &["export", "-"]);
    assert_eq!((places(&exported, true), places(&exported, false)), (places(&listed, true), places(&listed, false)));
    for open in [lines(&world, &["list", "--open"]), lines(&world, &["export", "--open", "-"])] {
        assert_eq!((places(&open, true).len(), places(&open, false)), (0, places(&listed, false)));
    }
    for letter in &listed {
        let shown = &lines(&world, &["show", "--json", letter["place"].as_str().expect("a place")])[0];
        assert_eq!(shown["redriven"], letter["redriven"]);
        let words = succeeded(dead_letters(&world, &["show", letter["place"].as_str().expect("a place")], &[]));
        assert_eq!(words.contains("redriven       no\n"), letter["redriven"].is_null(), "{words}");
        // What was redriven is not to be redriven: it is passed over.
        assert_eq!(words.contains("dead-letters redrive"), letter["redriven"].is_null(), "{words}");
    }
    let explain = world.command(&["explain", "--json", "--contact", "bob@example.com"], &[]).output().expect("it runs");
    let explained: Value = serde_json::from_str(&succeeded(explain)).expect("JSON");
    let letters = explained["dead_letters"].as_array().expect("a list");
    assert!(!letters.is_empty() && letters.iter().all(|letter| letter["redriven"].is_string()), "{explained}");
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["redriven"], &stats["open"]), (&json!(4), &json!(1), &json!(3)));
    assert_eq!(stats["open_reasons"], json!({"rejected": 1, "missing_email": 1, "not_json": 1}));
    let words = succeeded(dead_letters(&world, &["stats"], &[]));
    assert!(words.starts_with("4 dead letters: 1 redriven, 3 open\n"), "{words}");
    assert!(words.contains("rejected             2     1\n"), "{words}");
}

#[test]
fn a_reason_of_a_newer_version_is_a_filter_and_a_misspelt_one_is_told() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let letter = &world.dead_letters()[0];
    let header = |(name, value): &(String, Option<Vec<u8>>)| match name.as_str() {
        "nat.reason" => (name.clone(), Some(b"quarantined".to_vec())),
        _ => (name.clone(), value.clone()),
    };
    let headers: Vec<_> = letter.headers.iter().map(header).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    world.send(&world.topic("dead-letter"), Some(0), None, letter.value.as_deref(), &headers);
    world.flush();
    let newer = lines(&world, &["list", "--reason", "quarantined"]);
    assert_eq!((newer.len(), newer[0]["reason"].as_str()), (1, Some("quarantined")));
    let shown = &lines(&world, &["show", "--json", newer[0]["place"].as_str().expect("a place")])[0];
    let command = "nat-destination dead-letters redrive --reason quarantined --dry-run";
    assert_eq!(shown["command"], command);
    let report = redrive(&world, &["--reason", "quarantined"], &[]);
    assert_eq!(report["reasons"], json!({"quarantined": 1}), "as show says");
    // Nobody's: then it is most likely misspelt. One that is known may be absent.
    let file = world.path("letters.jsonl");
    let file = file.to_str().expect("text");
    for command in [&["list"][..], &["stats"], &["redrive"], &["export", file]] {
        let (code, said) = told(&dead_letters(&world, &[command, &["--reason", "rejcted"]].concat(), &[]));
        assert_eq!(code, Some(2), "{command:?} {said}");
        assert!(said.contains("--reason rejcted: no dead letter") && said.contains("did you mean rejected?"), "{said}");
    }
    assert!(!world.path("letters.jsonl").exists() && !world.path("letters.jsonl.partial").exists());
    assert_eq!(world.read(&world.topic("queue")).len(), 2);
    assert_eq!(lines(&world, &["list", "--reason", "poison"]).len(), 0);
}

/// Starts a redrive that takes seconds, and waits until so many events are in the queue.
fn slow_redrive(world: &World, until: usize) -> Child {
    let mut command = world.command(&["dead-letters", "redrive", "--rate", "10"], &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    world.wait("some are in the queue", || world.read(&world.topic("queue")).len() >= until);
    child
}

/// As Ctrl-C does.
fn interrupt(child: &Child) {
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("it runs").success());
}

#[test]
fn a_redrive_stopped_halfway_goes_on() {
    let world = World::with(3, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..80);
    world.run_until_caught_up(&[NO_GUARD]);
    world.behave(Behaviour::default());
    let child = slow_redrive(&world, 80 + 15);
    interrupt(&child);
    let (code, said) = told(&child.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(130));
    assert!(said.contains("run the same command again to go on"), "{said}");
    let after_interrupt = world.read(&world.topic("queue")).len();
    assert!(after_interrupt < 80 + 70, "it was stopped halfway: {after_interrupt}");
    let mut child = slow_redrive(&world, after_interrupt + 15);
    child.kill().expect("killed");
    child.wait().expect("gone");
    let instance = world.start(&[]);
    let report = redrive(&world, &["--wait"], &[]);
    let taken = report["letters"].as_u64().expect("a number") as usize;
    assert!((1..=80 - 20).contains(&taken), "it went on where it was stopped: {report}");
    // Between the queue's acknowledgement and the note of it, one killed at 10 a second has a few events at most.
    let queued = world.read(&world.topic("queue")).len();
    assert!((160..=165).contains(&queued), "{queued}");
    instance.wait_until_settled(queued as u64 - 80);
    assert_eq!(world.accepted_days(), {
        let mut all: Vec<_> = (0..80).map(|number| day(&format!("p{number}@example.com"))).collect();
        all.sort();
        all
    });
    assert_eq!(redrive(&world, &[], &[])["passed_over"], json!({"already_redriven": 80}));
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
    let expected = json!({"delivered": 1, "duplicate_or_filtered": 1, "dead_again": 0, "unreadable": 1});
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
    world.dead_letter_of_time(&world.dead_letters()[0], days_ago(3));
    let set = ["dedup.retention=2d"];
    let report = redrive(&world, &["--dry-run"], &set);
    assert_eq!((&report["letters"], &report["forgettable_contact_days"]), (&json!(2), &json!(1)));
    let words = succeeded(dead_letters(&world, &["redrive", "--dry-run"], &set));
    assert!(words.contains("contact-days older than dedup.retention, which could be sent again: 1\n"), "{words}");
    let (code, said) = told(&dead_letters(&world, &["redrive"], &set));
    assert_eq!(code, Some(1), "{said}");
    for part in ["1 contact-days", "2days", "Nothing was sent", "--allow-redelivery", "--since "] {
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
    world.dead_letter_of_time(&world.dead_letters()[0], soon);
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
    let replay = world.command(&["replay", "--from", "1h", "--json"], &mended).output().expect("it runs");
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
fn a_foreign_dead_letter_is_counted_and_passed_over() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let topic = world.topic("dead-letter");
    let connect: [(&str, Option<&[u8]>); 2] =
        [("__connect.errors.topic", Some(b"orders")), ("__connect.errors.offset", Some(b"5"))];
    world.send(&topic, Some(0), None, Some(ada().as_bytes()), &connect);
    world.send(&topic, Some(0), Some(b"\xff"), Some(b"\xff"), &[]);
    world.send(&topic, Some(0), None, None, &[("nat.redriven", Some(b"not a place"))]);
    world.flush();
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["reasons"]), (&json!(4), &json!({"rejected": 1, "foreign": 3})));
    assert_eq!(lines(&world, &["list", "--reason", "foreign"]).len(), 3);
    let shown = succeeded(dead_letters(&world, &["show", "0:0"], &[]))
        + &succeeded(dead_letters(&world, &["show", "0:1"], &[]));
    assert!(shown.contains("another tool wrote it"), "{shown}");
    let theirs = &lines(&world, &["list", "--reason", "foreign"])[0]["place"];
    let json = &lines(&world, &["show", "--json", theirs.as_str().expect("a place")])[0];
    assert!(
        json["reason"] == "foreign" && json["what_to_do"].as_str().is_some_and(|text| text.contains("ask")),
        "{json}"
    );
    let report = redrive(&world, &[], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({"foreign": 3})));
    assert_eq!(world.read(&world.topic("queue")).len(), 2);
}

/// Dead letters of four kinds: ada's rejected with 400, bob's with 422, one without an email, and one that is no JSON.
fn of_four_kinds() -> World {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    world.behave(Behaviour { reject_status: 422, ..rejecting(&["bob@example.com"]) });
    world.event(0, &identify("Bob@example.com", "2026-11-20T08:00:00Z", "m-bob"));
    world.event(0, r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z","userId":"u-815"}"#);
    world.event(0, r#"{"type":"identify","timestamp":"#);
    world.run_until_caught_up(&[]);
    world
}

#[test]
fn filters_choose_what_is_listed_and_redriven() {
    let world = of_four_kinds();
    let all = lines(&world, &["list"]);
    let times: Vec<&str> = all.iter().map(|row| row["time"].as_str().expect("a time")).collect();
    assert!(all.len() == 4 && times.is_sorted_by(|a, b| a >= b), "newest first: {times:?}");
    assert_eq!(
        lines(&world, &["list", "--oldest-first"])[0]["contact"],
        lines(&world, &["list", "--status", "400"])[0]["contact"]
    );
    let source = format!("{} 0:0", world.source);
    let oldest = &all[3];
    assert_eq!((oldest["reason"].as_str(), oldest["source"].as_str()), (Some("rejected"), Some(source.as_str())));
    assert_eq!((&oldest["status"], &oldest["attempts"], &oldest["redrives"]), (&json!(400), &json!(1), &json!(0)));
    let until = times[3];
    for (filter, count) in [
        (&["--reason", "rejected"][..], 2),
        (&["--reason", "rejected", "--reason", "not_json"], 3),
        (&["--status", "422"], 1),
        (&["--reason", "missing_email", "--status", "422"], 0),
        (&["--contact", " BOB@example.com"], 1),
        (&["--contact", "carol@example.com"], 0),
        (&["--topic", &world.source], 4),
        (&["--topic", "another"], 0),
        (&["--since", "1h"], 4),
        (&["--since", "1h", "--until", until], 0),
        (&["--since", until], 4),
        (&["--limit", "3"], 3),
    ] {
        assert_eq!(lines(&world, &[&["list"], filter].concat()).len(), count, "{filter:?}");
    }
    let none = succeeded(dead_letters(&world, &["stats", "--status", "500"], &[]));
    assert_eq!(none, "none of the 4 dead letters that were read is meant by these filters\n");
    let text = succeeded(dead_letters(&world, &["list"], &[]));
    assert!(!text.contains('@') && !text.contains("u-815"), "no personal data: {text}");
    for (wrong, said) in [
        (&["--since", "1h", "--until", "2h"][..], "is not before --until"),
        (&["--reason", "rejcted"], "rejected"),
        (&["--contact", "ada"], "it is no email address"),
        (&["--since", "yesterday"], "is no time"),
    ] {
        let (code, error) = told(&dead_letters(&world, &[&["list"], wrong].concat(), &[]));
        assert_eq!(code, Some(2), "{wrong:?}");
        assert!(error.contains(said), "{error}");
    }
    world.behave(Behaviour::default());
    let report = redrive(&world, &["--contact", "bob@example.com", "--reason", "rejected"], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({})));
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days(), [day("bob@example.com")]);
}

#[test]
fn show_masks_personal_data_unless_revealed_and_says_what_to_do() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    let event = identify("ada@example.com", "2026-11-20T08:00:00Z", "m1");
    world.produce(0, Some(b"ada-key"), Some(event.as_bytes()), &[("trace", Some(b"ada-trace"))]);
    world.run_until_caught_up(&[]);
    let place = lines(&world, &["list"])[0]["place"].as_str().expect("a place").to_owned();
    let shown = succeeded(dead_letters(&world, &["show", &place], &[]));
    for part in [
        "Nat.app rejects it",
        "status         400",
        "\"email\": \"(text of 15 characters)\"",
        "what to do",
        "trace: (9 bytes)",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("ada"), "{shown}");
    let revealed = succeeded(dead_letters(&world, &["show", &place, "--reveal"], &[]));
    for part in ["\"email\": \"ada@example.com\"", "ada-key", "trace: ada-trace"] {
        assert!(revealed.contains(part), "{part} in {revealed}");
    }
    let (partition, _) = place.split_once(':').expect("two numbers");
    let listed = &lines(&world, &["list"])[0];
    let json = &lines(&world, &["show", &place, "--json"])[0];
    for (name, value) in listed.as_object().expect("an object") {
        assert_eq!(&json[name], value, "{name}, as list tells it");
    }
    assert!(json["answer"].as_str().is_some_and(|answer| answer.contains("refused")), "{json}");
    assert!(json["what_happened"].as_str().is_some_and(|words| words.contains("Nat.app rejects it")), "{json}");
    assert!(json["what_to_do"].as_str().is_some_and(|words| words.contains("redrive it")), "{json}");
    assert_eq!(json["headers"], json!([{"name": "trace", "value": "(9 bytes)"}]));
    assert_eq!(json["value"]["traits"]["email"], "(text of 15 characters)");
    assert!(!json.to_string().contains("ada"), "{json}");
    let json = &lines(&world, &["show", &place, "--json", "--reveal"])[0];
    assert_eq!(
        (json["key"].as_str(), json["value"]["traits"]["email"].as_str()),
        (Some("ada-key"), Some("ada@example.com"))
    );
    assert_eq!(json["headers"], json!([{"name": "trace", "value": "ada-trace"}]));
    let behind = format!("{partition}:9");
    for (wrong, code, said) in
        [(behind.as_str(), 1, "holds the offsets 0 to 0"), ("17:0", 1, "it has 0 to 2"), ("17", 2, "PARTITION:OFFSET")]
    {
        let (exit, error) = told(&dead_letters(&world, &["show", wrong], &[]));
        assert_eq!(exit, Some(code), "{error}");
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn stats_count_by_reason_status_topic_and_day() {
    let today = || jiff::Timestamp::now().strftime("%F").to_string();
    let began = today();
    let world = of_four_kinds();
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["redriven"]), (&json!(4), &json!(0)));
    assert_eq!(stats["reasons"], json!({"rejected": 2, "missing_email": 1, "not_json": 1}));
    assert_eq!(stats["statuses"], json!({"400": 1, "422": 1}));
    assert_eq!(stats["topics"], json!({&world.source: 4}));
    assert_eq!(stats["days"].as_object().expect("days").values().filter_map(Value::as_u64).sum::<u64>(), 4);
    let is_told = [began, today()].iter().any(|day| stats["days"].get(day).is_some()); // It may be midnight.
    assert!(is_told && stats["first"].as_str() < stats["last"].as_str(), "{stats}");
    redrive(&world, &["--reason", "rejected"], &[]);
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["redriven"]), (&json!(4), &json!(2)), "the notes are no letters");
    let words = succeeded(dead_letters(&world, &["stats"], &[]));
    assert!(words.starts_with("4 dead letters: 2 redriven, 2 open\n"), "{words}");
}

/// The bytes that an exported field stands for.
fn exported(object: &Value, name: &str) -> Option<Vec<u8>> {
    match object.get(format!("{name}_base64")) {
        Some(encoded) => Some(STANDARD.decode(encoded.as_str().expect("text")).expect("base64")),
        None => object[name].as_str().map(|text| text.as_bytes().to_vec()),
    }
}

#[test]
fn an_export_holds_every_letter_byte_for_byte() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.produce(0, Some(b"key \xff"), Some(b"{\"a\": \xff}\n"), &[("h", Some(b"\x00\xff")), ("none", None)]);
    world.event(0, "{\"type\":\"identify\",\n  \"x\": 1, \"x\": 1.0}");
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    redrive(&world, &["--reason", "rejected"], &[]);
    let file = world.path("letters.jsonl");
    let name = file.to_str().expect("text");
    succeeded(dead_letters(&world, &["export", name], &[]));
    let text = std::fs::read_to_string(&file).expect("written");
    let mut found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    found.sort_by_key(|line| line["place"].to_string());
    let mut letters = world.dead_letters();
    letters.sort_by_key(|letter| format!("\"{}:{}\"", letter.partition, letter.offset));
    assert_eq!((found.len(), letters.len()), (3, 3));
    for (line, letter) in found.iter().zip(&letters) {
        assert_eq!(line["place"], json!(format!("{}:{}", letter.partition, letter.offset)));
        assert_eq!((exported(line, "key"), exported(line, "value")), (letter.key.clone(), letter.value.clone()));
        assert_eq!(line["reason"].as_str(), letter.header("nat.reason").as_deref());
        let headers = line["headers"].as_array().expect("headers");
        let header = |header: &Value| (header["name"].as_str().expect("a name").to_owned(), exported(header, "value"));
        let original: Vec<_> = headers.iter().map(header).collect();
        assert_eq!(original, letter.headers[..original.len()]);
        assert_eq!(letter.headers[original.len()].0, "__connect.errors.topic");
    }
    assert_eq!(succeeded(dead_letters(&world, &["export", "-"], &[])), text);
    let directory = file.parent().and_then(|path| path.to_str()).expect("text");
    for (arguments, said) in [(vec!["export", name], "--force"), (vec!["export", directory], "it is a directory")] {
        let (code, error) = told(&dead_letters(&world, &arguments, &[]));
        assert!(code == Some(1) && error.contains(said), "{error}");
    }
    succeeded(dead_letters(&world, &["export", name, "--force", "--reason", "rejected"], &[]));
    assert_eq!(std::fs::read_to_string(&file).expect("written").lines().count(), 1);
    assert!(!world.path("letters.jsonl.partial").exists());
    let other = world.path("other.jsonl");
    let away = ["kafka.brokers=127.0.0.1:9", "kafka.timeout=1s"];
    let (code, error) = told(&dead_letters(&world, &["export", other.to_str().expect("text")], &away));
    assert_eq!(code, Some(1), "{error}");
    assert!(!other.exists() && !world.path("other.jsonl.partial").exists());
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
