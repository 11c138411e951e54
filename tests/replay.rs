//! A past range of the source goes through the queue once more: what was delivered is told to nobody twice, and whoever is
//! on call is told before anything could be.

use std::collections::BTreeSet;
use std::process::{Child, Command, Output, Stdio};

use jiff::{Timestamp, ToSpan};
use nat_destination::sandbox::stand_in::Behaviour;

use rdkafka::admin::AdminOptions;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::faults::admin;
use super::support::World;
use super::support::world::{Record, binary, identify, interrupt};

fn replay(world: &World, arguments: &[&str], set: &[&str]) -> Output {
    world.command(&[&["replay"], arguments].concat(), set).output().expect("it runs")
}

fn done(output: &Output) -> (String, String) {
    let told = (stdout(output), stderr(output));
    assert!(output.status.success(), "{told:?}");
    told
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The count in that line of a table.
fn count(table: &str, what: &str) -> u64 {
    let line = table.lines().find(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {table}"));
    line.rsplit(' ').next().and_then(|count| count.replace(',', "").parse().ok()).expect("a count")
}

fn days_ago(days: i64) -> i64 {
    Timestamp::now().as_millisecond() - days * 86_400_000
}

/// Of a visit whose day has not begun before any of the retentions here.
fn today() -> String {
    Timestamp::now().to_string()
}

/// As the world's, of today.
fn visits(world: &World, contacts: std::ops::Range<usize>) {
    for number in contacts {
        let event = identify(&format!("p{number}@example.com"), &today(), &format!("m{number}"));
        world.send(&world.source, Some(number as i32 % world.partitions), None, Some(event.as_bytes()), &[]);
    }
    world.flush();
}

/// Nobody reads what it prints.
fn unread(mut command: Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    child
}

/// Where these records came from.
fn origins(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.header("nat.source").expect("an origin")).collect()
}

fn engage(value: bool) -> String {
    format!(
        r#"{{"type":"identify","timestamp":"2026-11-20T09:00:00Z","traits":{{"email":"ada@example.com","vip":{value}}},"context":{{"personas":{{"computation_key":"vip","computation_class":"audience"}}}}}}"#
    )
}

#[test]
fn a_day_is_replayed_without_one_request() {
    let world = World::new();
    visits(&world, 0..30);
    let items = [identify("b1@example.com", &today(), "b1"), r#"{"type":"track"}"#.into()];
    world.produce(
        1,
        Some(b"key"),
        Some(format!(r#"{{"batch":[{}]}}"#, items.join(",")).as_bytes()),
        &[("x", Some(b"y"))],
    );
    world.event(0, "not JSON");
    world.run_until_caught_up(&[]);
    let requests = world.stand_in.entries().len();
    assert_eq!(requests, 31);
    let before = world.read(&world.topic("queue"));

    let (told, _) = done(&replay(&world, &["--from", "1h"], &[]));
    assert_eq!((count(&told, "put into the queue"), count(&told, "filtered")), (31, 1), "{told}");
    assert_eq!(count(&told, "dead letters"), 1, "{told}");
    let again = world.queued_by("replay");
    let plain = |record: &Record| {
        let headers: Vec<_> = record.headers.iter().filter(|(name, _)| name != "nat.road").cloned().collect();
        (record.partition, record.key.clone(), record.value.clone(), headers)
    };
    let (as_before, as_again): (BTreeSet<_>, BTreeSet<_>) =
        (before.iter().map(plain).collect(), again.iter().map(plain).collect());
    assert_eq!((again.len(), as_again), (31, as_before), "the very records that ingest wrote, in the same partitions");

    let output = world.run_until_caught_up(&[]);
    assert!(stderr(&output).contains("\"duplicate\":31"), "{}", stderr(&output));
    assert_eq!(world.stand_in.entries().len(), requests);
}

#[test]
fn a_replay_brings_no_engage_value_back_and_loses_none() {
    let world = World::new();
    world.event(2, &engage(true));
    world.run_until_caught_up(&[]);
    // The next value comes in another partition, as without a key they do, and Nat.app does not take it yet.
    world.behave(Behaviour { status: Some(401), ..Behaviour::default() });
    let instance = world.start(&[]);
    world.event(0, &engage(false));
    world.wait("it is in the queue", || instance.metric("nat_destination_events_queued_total", &[]) == 1.0);
    assert!(instance.stop().0.success());
    let (told, _) = done(&replay(&world, &["--from", "1h"], &[]));
    assert_eq!((count(&told, "put into the queue"), count(&told, "Engage's, older")), (1, 1), "{told}");
    world.behave(Behaviour::default());
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 2);
    let (told, _) = done(&replay(&world, &["--from", "1h"], &[]));
    assert_eq!((count(&told, "put into the queue"), count(&told, "Engage's, older")), (0, 2), "{told}");
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 2);
}

/// An Engage event of this contact, recorded so many seconds ago.
fn engage_of(world: &World, contact: &str, partition: i32, value: bool, seconds_ago: i64) {
    let event = engage(value).replace("ada@example.com", contact);
    world.event_of_time(partition, &event, Timestamp::now().as_millisecond() - 1000 * seconds_ago);
}

#[test]
fn a_replay_brings_no_engage_value_back_over_one_that_waits_or_comes_while_it_runs() {
    let world = World::new();
    let list = world.path("suppressed");
    let set = [&*format!("suppress.file={}", list.display())];
    // Old values that were never sent, in a partition that is read last, behind what takes the replay some time.
    std::fs::write(&list, "waits@example.com\ncomes@example.com\n").expect("written");
    for number in 0..40 {
        world.event(0, &identify(&format!("p{number}@example.com"), &today(), "m"));
    }
    engage_of(&world, "waits@example.com", 2, true, 600);
    engage_of(&world, "comes@example.com", 2, true, 600);
    world.run_until_caught_up(&set);
    std::fs::write(&list, "").expect("written");
    // The younger one comes in another partition.
    world.behave(Behaviour { status: Some(401), ..Behaviour::default() });
    let instance = world.start(&set);
    engage_of(&world, "waits@example.com", 1, false, 300);
    world.wait("it waits", || instance.metric("nat_destination_events_queued_total", &[]) == 1.0);
    let (told, _) = done(&replay(&world, &["--from", "1h", "--to", "400s", "--dry-run"], &set));
    assert_eq!((count(&told, "identify events"), count(&told, "Engage's, older")), (1, 1), "{told}");

    let from = ["replay", "--from", "1h", "--rate", "10"];
    let running = world.command(&from, &set).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    world.wait("it runs", || !world.queued_by("replay").is_empty());
    world.behave(Behaviour::default());
    engage_of(&world, "comes@example.com", 1, false, 300);
    let output = running.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(count(&stdout(&output), "Engage's, older"), 2, "{}", stdout(&output));
    assert!(instance.stop().0.success());
    world.run_until_caught_up(&set);
    let brought: Vec<_> = world.queued_by("replay").iter().filter_map(|record| record.value.clone()).collect();
    assert!(!brought.iter().any(|value| String::from_utf8_lossy(value).contains(r#""vip":true"#)));
}

#[test]
fn a_replay_outside_of_the_retention_says_how_many_could_be_sent_again_and_needs_leave() {
    let world = World::with(1, Behaviour::default());
    let yesterday = Timestamp::now().checked_sub(24.hours()).expect("a time").to_string();
    for (contact, time) in [("a", &yesterday), ("a", &today()), ("b", &today()), ("b", &today())] {
        world.event_of_time(0, &identify(&format!("{contact}@example.com"), time, "m"), days_ago(5));
    }
    world.event(0, &identify("new@example.com", &today(), "m"));
    // A clock that goes wrong: behind a newer one.
    world.event_of_time(0, &identify("c@example.com", &today(), "m"), days_ago(5));
    let set = ["dedup.retention=3d"];
    world.run_until_caught_up(&set);

    let refused = replay(&world, &["--from", "6d"], &set);
    assert_eq!(refused.status.code(), Some(1));
    let told = stderr(&refused);
    for part in ["4 contact-days", "3days", "--allow-redelivery", "--leave-out-old"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // The one behind the begin is asked for, too.
    let refused = replay(&world, &["--from", "1h"], &set);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("1 contact-day "), "{}", stderr(&refused));
    assert!(world.queued_by("replay").is_empty());

    let (told, _) = done(&replay(&world, &["--from", "6d", "--leave-out-old", "--dry-run"], &set));
    assert_eq!((count(&told, "identify events"), count(&told, "older than")), (1, 5), "{told}");
    let (told, _) = done(&replay(&world, &["--from", "6d", "--leave-out-old"], &set));
    assert_eq!((count(&told, "put into the queue"), count(&told, "older than")), (1, 5), "{told}");
    let (told, remarks) = done(&replay(&world, &["--from", "1h", "--allow-redelivery"], &set));
    assert_eq!(count(&told, "put into the queue"), 2, "{told}");
    assert!(remarks.contains("1 contact-day "), "{remarks}");
    let (told, _) = done(&replay(&world, &["--from", "6d", "--allow-redelivery"], &set));
    assert_eq!(count(&told, "put into the queue"), 6, "{told}");
    assert_eq!(world.queued_by("replay").len(), 9);
}

#[test]
fn a_late_event_of_a_day_that_may_have_been_forgotten_needs_leave() {
    let world = World::with(1, Behaviour::default());
    let days_ago = |days: i64| Timestamp::from_millisecond(days_ago(days)).expect("a time").to_string();
    world.event(0, &identify("late@example.com", &days_ago(3), "m"));
    world.event(0, &identify("new@example.com", &today(), "m"));
    let set = ["dedup.retention=2d"];
    world.run_until_caught_up(&set);
    let refused = replay(&world, &["--from", "1h"], &set);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("1 contact-day "), "{}", stderr(&refused));
    let (told, _) = done(&replay(&world, &["--from", "1h", "--dry-run"], &set));
    assert_eq!((count(&told, "identify events"), count(&told, "contact-days")), (2, 1), "{told}");
    let (told, _) = done(&replay(&world, &["--from", "1h", "--leave-out-old"], &set));
    assert_eq!((count(&told, "put into the queue"), count(&told, "older than")), (1, 1), "{told}");
    let (told, _) = done(&replay(&world, &["--from", "1h", "--allow-redelivery"], &set));
    assert_eq!(count(&told, "put into the queue"), 2, "{told}");
}

#[test]
fn a_refused_replay_leaves_no_bookmark() {
    let world = World::with(1, Behaviour::default());
    let set = ["dedup.retention=2d"];
    world.event_of_time(0, &identify("a@example.com", &today(), "m"), days_ago(3));
    world.run_until_caught_up(&set);
    let from = Timestamp::from_millisecond(days_ago(4)).expect("a time").to_string();
    assert_eq!(replay(&world, &["--from", &from], &set).status.code(), Some(1));
    visits(&world, 0..1);
    world.run_until_caught_up(&set);
    let (told, remarks) = done(&replay(&world, &["--from", &from, "--allow-redelivery"], &set));
    assert!(!remarks.contains("goes on"), "{remarks}");
    assert_eq!(count(&told, "put into the queue"), 2, "{told}");
}

#[test]
fn what_becomes_older_than_the_retention_while_a_replay_runs_is_left_out() {
    let world = World::with(1, Behaviour::default());
    let set = ["dedup.retention=2d"];
    visits(&world, 0..60);
    // Behind newer ones, by a clock that goes wrong; within the retention for twenty seconds more.
    let soon = days_ago(2) + 20_000;
    world.event_of_time(0, &identify("late@example.com", &today(), "m"), soon);
    world.run_until_caught_up(&set);
    // It comes to that one after thirty.
    let (told, _) = done(&replay(&world, &["--from", "30m", "--rate", "2"], &set));
    assert_eq!((count(&told, "put into the queue"), count(&told, "older than")), (60, 1), "{told}");
}

#[test]
fn a_suppressed_contact_is_not_replayed() {
    let world = World::new();
    visits(&world, 0..3);
    world.event(0, r#"{"type":"identify","email":"p1@example.com"}"#);
    world.run_until_caught_up(&[]);
    std::fs::write(world.path("suppressed"), "p1@example.com\n").expect("written");
    let setting = format!("suppress.file={}", world.path("suppressed").display());
    let (told, _) = done(&replay(&world, &["--from", "1h"], &[&setting]));
    assert_eq!((count(&told, "put into the queue"), count(&told, "filtered")), (2, 2), "{told}");
    assert!(world.queued_by("replay").iter().all(|record| record.key.as_deref() != Some(b"p1@example.com")));
}

#[test]
fn a_range_that_begins_before_1970_is_all_there_is_before_its_end() {
    let world = World::new();
    visits(&world, 0..4);
    world.run_until_caught_up(&[]);
    for (range, records) in [(&["--from", "60y"][..], 4), (&["--from", "1960-01-01", "--to", "1969-01-01"], 0)] {
        let (told, _) = done(&replay(&world, &[range, &["--dry-run"]].concat(), &[]));
        assert_eq!(count(&told, "records read"), records, "{told}");
    }
}

/// Starts a slow replay and waits until some of it is in the queue.
fn begun(world: &World, from: &str, more: usize) -> Child {
    let before = world.queued_by("replay").len();
    let mut command = world.command(&["replay", "--from", from, "--rate", "25"], &[]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    world.wait("some of it is in the queue", || world.queued_by("replay").len() >= before + more);
    child
}

#[test]
fn a_replay_killed_halfway_goes_on() {
    let world = World::new();
    let from = Timestamp::now().to_string();
    visits(&world, 0..400);
    world.run_until_caught_up(&[]);

    let stopped = begun(&world, &from, 60);
    interrupt(&stopped);
    let output = stopped.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let told = stderr(&output);
    assert!(
        told.contains("stopped before it was done") && told.contains(&format!(" --from {from} --rate 25\n")),
        "{told}"
    );
    assert!(
        told.contains(&format!("go on with: nat-destination replay --set kafka.brokers={}", world.brokers)),
        "{told}"
    );
    let queued = world.queued_by("replay").len();
    assert_eq!(count(&stdout(&output), "put into the queue") as usize, queued);

    let mut killed = begun(&world, &from, 100);
    killed.kill().expect("killed");
    killed.wait().expect("gone");
    let (_, told) = done(&replay(&world, &["--from", &from], &[]));
    assert!(told.contains("goes on where an earlier run of this replay was stopped"), "{told}");
    let records = origins(&world.queued_by("replay"));
    let sources: BTreeSet<&String> = records.iter().collect();
    assert_eq!(sources.len(), 400, "all of them");
    assert!(records.len() < 400 + 150, "what was in the queue at the kill and not in the bookmark: {}", records.len());
    // What came in after its start is not its business, and it is forgotten when it is done.
    visits(&world, 400..410);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.entries().len(), 410);
    let (told, remarks) = done(&replay(&world, &["--from", &from], &[]));
    assert!(!remarks.contains("goes on"), "{remarks}");
    assert_eq!(count(&told, "put into the queue"), 410);
}

#[test]
fn a_replay_whose_reader_has_gone_leaves_no_bookmark_and_tells_how_to_go_on() {
    let world = World::new();
    let from = Timestamp::now().to_string();
    visits(&world, 0..100);
    world.run_until_caught_up(&[]);
    let ended = unread(world.command(&["replay", "--from", &from], &[])).wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", stderr(&ended));
    let (told, remarks) = done(&replay(&world, &["--from", &from], &[]));
    assert!(!remarks.contains("goes on"), "{remarks}");
    assert_eq!(count(&told, "put into the queue"), 100);

    let stopped = unread(world.command(&["replay", "--from", &from, "--rate", "10"], &[]));
    world.wait("some of it is in the queue", || world.queued_by("replay").len() > 200);
    interrupt(&stopped);
    let ended = stopped.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(130));
    assert!(stderr(&ended).contains("go on with: nat-destination replay"), "{}", stderr(&ended));
}

#[test]
fn what_retention_deletes_before_a_replay_comes_to_it_is_told() {
    let world = World::with(1, Behaviour::default());
    let from = Timestamp::now().to_string();
    visits(&world, 0..400);
    world.run_until_caught_up(&[]);
    let mut killed = begun(&world, &from, 20);
    killed.kill().expect("killed");
    killed.wait().expect("gone");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&world.source, 0, Offset::Offset(300)).expect("an offset");
    world.runtime.block_on(admin(&world).delete_records(&list, &AdminOptions::new())).expect("deleted");
    let (told, _) = done(&replay(&world, &["--from", &from, "--json"], &[]));
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((&told["records"], &told["queued"]), (&100.into(), &100.into()), "{told}");
    let gone = told["gone"].as_u64().expect("a count");
    assert!((100..=300).contains(&gone), "{told}");
}

#[test]
fn a_replay_that_goes_on_ends_where_it_was_to_end_at_its_start() {
    let world = World::new();
    let from = Timestamp::now().to_string();
    visits(&world, 0..200);
    world.run_until_caught_up(&[]);
    let mut killed = begun(&world, &from, 20);
    killed.kill().expect("killed");
    killed.wait().expect("gone");
    visits(&world, 200..210);
    world.run_until_caught_up(&[]);
    done(&replay(&world, &["--from", &from], &[]));
    let sources: BTreeSet<String> = origins(&world.queued_by("replay")).into_iter().collect();
    assert_eq!(sources.len(), 200);
    let mut killed = begun(&world, &from, 20);
    killed.kill().expect("killed");
    killed.wait().expect("gone");
    let (told, remarks) = done(&replay(&world, &["--from", &from, "--restart"], &[]));
    assert!(!remarks.contains("goes on"), "{remarks}");
    assert_eq!(count(&told, "put into the queue"), 210, "it began again");
}

#[test]
fn a_replay_leaves_dead_letters_to_redrive() {
    let behaviour =
        Behaviour { reject_emails: vec!["p3@example.com".into(), "b1@example.com".into()], ..Behaviour::default() };
    let world = World::with(3, behaviour);
    visits(&world, 0..6);
    let items = ["b0", "b1"].map(|name| identify(&format!("{name}@example.com"), &today(), name));
    world.event(1, &format!(r#"{{"batch":[{}]}}"#, items.join(",")));
    world.event(1, r#"{"type":"identify","userId":"ada@example.com","timestamp":"2026-11-20T08:00:00Z"}"#);
    world.run_until_caught_up(&[]);
    // Some other tool's: no headers at all, and foreign ones.
    world.send(&world.topic("dead-letter"), Some(0), None, Some(b"theirs"), &[]);
    world.send(&world.topic("dead-letter"), Some(0), None, Some(b"theirs"), &[("nat.source", Some(b"by sea"))]);
    // And one of ours that is no letter: the note that one has been redriven.
    world.send(&world.topic("dead-letter"), Some(0), None, None, &[("nat.redriven", Some(b"7:7"))]);
    world.flush();
    world.behave(Behaviour::default());
    // Even where the settings now find an email in it.
    let set = ["identify.user_id_as_email=true"];
    let (told, remarks) = done(&replay(&world, &["--from", "1h"], &set));
    assert_eq!((count(&told, "put into the queue"), count(&told, "dead letters")), (6, 3), "{told}");
    assert!(remarks.contains("2 records of") && remarks.contains("another tool's"), "{remarks}");
    world.run_until_caught_up(&set);
    let accepted = world.accepted_days();
    assert_eq!(accepted.len(), 6);
    assert!(accepted.iter().all(|(email, _)| email != "p3@example.com" && email != "b1@example.com"), "{accepted:?}");
}

#[test]
fn an_engage_value_younger_than_the_one_that_nat_app_has_is_replayed() {
    // Filtered when it came: behind the accepted one in its partition, or younger than that in another.
    for partition in [0, 1] {
        let world = World::new();
        world.event(0, &engage(true));
        let later = engage(false).replacen('{', r#"{"integrations":{"Nat":false},"#, 1);
        world.event(partition, &later);
        world.run_until_caught_up(&[]);
        assert_eq!(world.accepted().len(), 1);
        let set = ["identify.honour_integrations=false"];
        let (told, _) = done(&replay(&world, &["--from", "1h"], &set));
        assert_eq!((count(&told, "put into the queue"), count(&told, "Engage's, older")), (1, 1), "{told}");
        world.run_until_caught_up(&set);
        assert_eq!(world.accepted().len(), 2);
    }
}

#[test]
fn an_event_where_a_dead_letter_stood_in_a_topic_made_anew_is_replayed() {
    let behaviour = Behaviour { reject_emails: vec!["p0@example.com".into()], ..Behaviour::default() };
    let world = World::with(1, behaviour);
    visits(&world, 0..2);
    world.run_until_caught_up(&[]);
    // The same dead letter, of a topic that had another record at the other's offset.
    let letter = world.dead_letters().remove(0);
    let elsewhere = format!("{}/0/1/{}", world.source, days_ago(1));
    let headers: Vec<(&str, Option<&[u8]>)> = letter
        .headers
        .iter()
        .map(|(name, value)| match name.as_str() {
            "nat.source" => (name.as_str(), Some(elsewhere.as_bytes())),
            _ => (name.as_str(), value.as_deref()),
        })
        .collect();
    world.send(&world.topic("dead-letter"), Some(0), letter.key.as_deref(), letter.value.as_deref(), &headers);
    world.flush();
    let (told, _) = done(&replay(&world, &["--from", "1h"], &[]));
    assert_eq!((count(&told, "put into the queue"), count(&told, "dead letters")), (1, 1), "{told}");
}

#[test]
fn what_a_group_that_begins_at_the_end_never_comes_to_is_replayed() {
    let world = World::new();
    assert!(world.command(&["topics", "create"], &[]).output().expect("it runs").status.success());
    visits(&world, 0..3);
    let (told, remarks) = done(&replay(&world, &["--from", "1h"], &["source.start=latest"]));
    assert_eq!((count(&told, "put into the queue"), remarks.as_str()), (3, ""), "{told}");
    world.run_until_caught_up(&["source.start=latest"]);
    assert_eq!(world.accepted().len(), 3);
}

#[test]
fn a_topic_that_appears_while_a_replay_is_stopped_does_not_begin_it_anew() {
    let world = World::new();
    let pattern = format!("source.topics=^{}.*", world.prefix);
    let from = Timestamp::now().to_string();
    visits(&world, 0..200);
    world.run_until_caught_up(&[&pattern]);
    let mut command = world.command(&["replay", "--from", &from, "--rate", "25"], &[&pattern]);
    let begun = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    world.wait("some of it is in the queue", || world.queued_by("replay").len() >= 50);
    interrupt(&begun);
    let stopped = begun.wait_with_output().expect("it ends");
    let before = count(&stdout(&stopped), "put into the queue");

    let event = identify("later@example.com", "2026-11-20T08:00:00Z", "later");
    let later = format!("{}-later", world.prefix);
    world.create_topic(&later, 1, &[]);
    world.send(&later, Some(0), None, Some(event.as_bytes()), &[]);
    world.flush();
    let (told, remarks) = done(&replay(&world, &["--from", &from], &[&pattern]));
    assert!(remarks.contains("goes on where an earlier run of this replay was stopped"), "{remarks}");
    assert_eq!(before + count(&told, "put into the queue"), 200, "{told}");
}

#[test]
fn a_replay_goes_no_further_than_ingest() {
    let world = World::new();
    visits(&world, 0..9);
    world.run_until_caught_up(&[]);
    visits(&world, 9..21);
    let (told, remarks) = done(&replay(&world, &["--from", "1h"], &[]));
    assert!(remarks.contains("by that way: 12 offsets in 3 partitions"), "{remarks}");
    assert_eq!(count(&told, "put into the queue"), 9, "{told}");
}

#[test]
fn a_range_upside_down_is_wrong_usage() {
    let output = binary().args(["replay", "--from", "2026-11-02", "--to", "2026-11-01"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("the range is upside down: --from 2026-11-02T00:00:00Z"), "{}", stderr(&output));
    let output = binary().args(["replay", "--from", "2999-01-01"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("is not before now"), "{}", stderr(&output));
    let output = binary().args(["replay", "--from", "yesterday"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("\"yesterday\" is no time"), "{}", stderr(&output));
}

#[test]
fn a_topic_that_is_none_of_the_sources_is_a_clear_error() {
    let world = World::new();
    world.run_until_caught_up(&[]);
    let output = replay(&world, &["--from", "1h", "--topic", "other"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("--topic other: it is none of the source topics") && told.contains(&world.source), "{told}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let world = World::new();
    visits(&world, 0..12);
    world.event(0, r#"{"type":"page"}"#);
    world.event(0, "{}");
    let set = ["dedup.retention=2d"];
    world.event_of_time(1, &identify("old@example.com", &today(), "m"), days_ago(3));
    world.run_until_caught_up(&set);
    let (from, before) = (
        Timestamp::from_millisecond(days_ago(4)).expect("a time").to_string(),
        world.read(&world.topic("queue")).len(),
    );
    let (told, _) = done(&replay(&world, &["--from", &from, "--dry-run"], &set));
    let counts = ["records read", "identify events", "filtered", "invalid", "dead letters", "contact-days"];
    assert_eq!(counts.map(|what| count(&told, what)), [15, 13, 1, 0, 1, 1], "{told}");
    let (told, _) = done(&replay(&world, &["--from", &from, "--dry-run", "--json"], &set));
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(
        (&told["records"], &told["identify"], &told["forgettable_contact_days"]),
        (&15.into(), &13.into(), &1.into())
    );
    assert_eq!(world.read(&world.topic("queue")).len(), before);
    // No bookmark is left that a real run would go on from.
    let (_, remarks) = done(&replay(&world, &["--from", &from, "--allow-redelivery"], &set));
    assert!(!remarks.contains("goes on"), "{remarks}");
}
