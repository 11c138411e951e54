//! The circuit breaker in the service: what it opens on, what it holds while it is open, what closes it.

use std::time::Duration;

use jiff::ToSpan;
use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::world::identify;

#[test]
fn when_most_events_are_rejected_the_topic_does_not_drain_into_the_dead_letters() {
    let world = World::with(3, Behaviour { reject: 1.0, ..Behaviour::default() });
    let instance = world.start(&["circuit.rejections=40"]);
    world.visits(0..1000);
    let is_open = || instance.metric("nat_destination_circuit_open", &["rejecting"]) == 1.0;
    world.wait("the circuit is open", is_open);
    std::thread::sleep(Duration::from_secs(2)); // Probes are rejected meanwhile.
    assert!(is_open());
    let dead = instance.metric("nat_destination_events_total", &["dead_lettered"]);
    assert!((20.0..=40.0).contains(&dead), "those that opened it, and no more: {dead}");
    world.behave(Behaviour::default());
    instance.wait_until_settled(1000);
    assert_eq!(world.dead_letters().len(), dead as usize);
    assert_eq!(world.accepted_days().len(), 1000 - dead as usize);
    assert!(instance.log().contains("look at the newest dead letters"), "what to do is told");
}

#[test]
fn some_rejections_do_not_open_it_and_the_guard_can_be_switched_off() {
    let world = World::with(3, Behaviour { reject: 0.15, ..Behaviour::default() });
    let instance = world.start(&["circuit.rejections=40"]);
    world.visits(0..500);
    instance.wait_until_settled(500);
    assert!(!instance.log().contains("circuit open"), "{}", instance.log());
    world.behave(Behaviour { reject: 1.0, ..Behaviour::default() });
    assert!(instance.stop().0.success());
    let unguarded = world.start(&["circuit.rejections=0"]);
    world.visits(500..700);
    unguarded.wait_until_settled(200);
    assert_eq!(unguarded.metric("nat_destination_events_total", &["dead_lettered", "rejected"]), 200.0);
}

#[test]
fn while_open_reading_is_paused_no_attempt_is_spent_and_it_is_told_since_when() {
    let world = World::with(1, Behaviour { status: Some(503), ..Behaviour::default() });
    let instance = world.start(&["circuit.failures=10", "retry.max_elapsed=1s"]);
    let before = jiff::Timestamp::now();
    world.visits(0..1000);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["unavailable"]) == 1.0);
    let seen = jiff::Timestamp::now();
    world.wait("reading is paused", || instance.metric("nat_destination_paused", &["deliver"]) == 1.0);
    world.visits(1000..3000);
    std::thread::sleep(Duration::from_secs(3));
    let opened = instance.metric("nat_destination_circuit_opened_timestamp_seconds", &[]);
    let (before, seen) = (before.as_second() as f64, seen.as_second() as f64);
    assert!((before - 1.0..seen + 2.0).contains(&opened), "{opened}");
    let (status, text) = instance.get("/readyz");
    assert_eq!(status, 200, "nothing but Nat.app can mend it");
    assert!(text.contains("circuit to Nat.app open: unavailable, since 20"), "{text}");
    let pending = instance.metric("nat_destination_pending_events", &[]);
    assert!(pending <= 1000.0, "what came since is left in Kafka: {pending}");
    assert_eq!(instance.metric("nat_destination_events_total", &["dead_lettered"]), 0.0);
    world.behave(Behaviour::default());
    instance.wait_until_settled(3000);
    assert_eq!(world.accepted_days().len(), 3000);
    let opened = || instance.metric("nat_destination_circuit_opened_timestamp_seconds", &[]);
    world.wait("it is told closed", || opened() == 0.0);
}

#[test]
fn another_reason_for_which_it_stays_open_is_told_with_what_to_do() {
    let world = World::with(1, Behaviour { status: Some(404), ..Behaviour::default() });
    let instance = world.start(&[]);
    world.visits(0..50);
    world.wait("the circuit is open", || {
        instance.metric("nat_destination_circuit_open", &["endpoint_not_found"]) == 1.0
    });
    assert!(!instance.log().contains("another reason"), "{}", instance.log());
    world.behave(Behaviour { status: Some(401), ..Behaviour::default() });
    world.wait("it is told", || {
        instance.log().contains("for another reason now: Nat.app refuses the API key: put the right one")
    });
    world.behave(Behaviour::default());
    instance.wait_until_settled(50);
    assert_eq!(world.accepted_days().len(), 50);
}

#[test]
fn an_instance_that_gets_its_first_partitions_while_nat_app_is_away_finds_out_when_it_is_back() {
    // What it had pending goes to another instance; with reading paused and nothing to send, there would be no probe.
    let world = World::with(4, Behaviour { status: Some(401), ..Behaviour::default() });
    let settings = ["topics.partitions=4"];
    let first = world.start(&settings);
    world.visits(0..100);
    let open = |instance: &super::support::Instance| instance.metric("nat_destination_circuit_open", &["unauthorized"]);
    world.wait("the circuit is open", || open(&first) == 1.0);
    let second = world.start(&settings);
    world.wait("the second one has its share, and its circuit is open", || open(&second) == 1.0);
    let (status, log) = first.stop();
    assert!(status.success(), "{log}");
    world.behave(Behaviour::default());
    world.wait("all are delivered", || world.accepted().len() == 100);
}

/// Nat.app fails for these contacts, and for nobody else.
fn fails_for(contacts: std::ops::Range<usize>) -> Behaviour {
    let reject_emails = contacts.map(|number| format!("p{number}@example.com")).collect();
    Behaviour { reject_emails, reject_status: 500, ..Behaviour::default() }
}

#[test]
fn an_event_that_has_not_failed_yet_is_the_next_probe() {
    // Those that failed may be why the circuit is open: were they all tried again before it, it would wait for minutes.
    let world = World::with(1, fails_for(0..40));
    let instance = world.start(&["circuit.failures=10", "circuit.probe_interval=500ms"]);
    world.visits(0..40);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["unavailable"]) == 1.0);
    world.wait("all are pending", || instance.metric("nat_destination_pending_events", &[]) == 40.0);
    let before = world.stand_in.requests();
    world.visits(40..41);
    world.wait("it is accepted", || world.accepted().len() == 1);
    let entries = world.stand_in.entries();
    let probes = entries.iter().skip(before as usize).take_while(|entry| entry.answer >= 300).count();
    assert!(probes <= 3, "while it was on its way, and no more: {probes}");
}

#[test]
fn contacts_that_always_fail_are_given_up_when_others_get_through() {
    // With nobody else they cannot be told from an outage, and their patience stands still.
    let world = World::with(1, fails_for(0..2));
    let instance = world.start(&["circuit.failures=4", "retry.max_elapsed=2s"]);
    world.visits(0..2);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["unavailable"]) == 1.0);
    std::thread::sleep(Duration::from_secs(3)); // Longer than their patience.
    let dead = || instance.metric("nat_destination_events_total", &["dead_lettered", "retries_exhausted"]);
    assert_eq!(dead(), 0.0);
    let mut others = 2;
    world.wait("both are given up", || {
        world.visits(others..others + 1);
        others += 1;
        std::thread::sleep(Duration::from_millis(100));
        dead() == 2.0
    });
    world.wait("the others are delivered", || world.accepted().len() == others - 2);
}

#[test]
fn events_that_are_rejected_for_good_neither_keep_it_open_nor_open_it_again() {
    // More of them in a row than are read for probes; then none.
    let rejected = (0..600).map(|number| format!("p{number}@example.com")).collect();
    let world = World::with(1, Behaviour { reject_emails: rejected, ..Behaviour::default() });
    world.visits(0..1600);
    let often = ["circuit.rejections=40", "circuit.probe_interval=10ms", "circuit.max_probe_interval=10ms"];
    let instance = world.start(&[&often[..], &["topics.partitions=1"]].concat());
    instance.wait_until_settled(1600);
    assert_eq!(world.accepted_days().len(), 1000);
    assert_eq!(instance.metric("nat_destination_events_total", &["dead_lettered", "rejected"]), 600.0);
    let opened = instance.log().matches("circuit open").count();
    assert!(opened * 21 <= 600, "each is counted once, and 21 of them open it: {opened}");
}

#[test]
fn many_events_of_a_few_rejected_contacts_do_not_hide_the_others_from_the_probes() {
    let rejected = (1..=4).map(|number| format!("p{number}@example.com")).collect();
    let world = World::with(1, Behaviour { reject_emails: rejected, ..Behaviour::default() });
    // As a backfill writes them. They stand one behind the other: the first of each contact is all there is to choose from.
    let first: jiff::civil::Date = "2022-01-01".parse().expect("a day");
    for day in first.series(1.day()).take(700) {
        for number in 1..=4 {
            let visit =
                identify(&format!("p{number}@example.com"), &format!("{day}T08:00:00Z"), &format!("{day}-{number}"));
            world.send(&world.source, Some(0), None, Some(visit.as_bytes()), &[]);
        }
    }
    world.flush();
    let settings = ["topics.partitions=1", "circuit.rejections=10", "circuit.probe_interval=200ms"];
    let instance = world.start(&[&settings[..], &["circuit.max_probe_interval=200ms"]].concat());
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["rejecting"]) == 1.0);
    world.visits(9..10);
    world.wait("the only event that closes it is found", || world.accepted().len() == 1);
    let probes = world.stand_in.requests() - 1;
    assert!(probes <= 500, "not one for each of the 2,800 before it: {probes}");
}

#[test]
fn new_events_get_past_a_backfill_that_is_rejected() {
    let email = |number| format!("p{number}@example.com");
    let world = World::with(1, Behaviour { reject_emails: (0..2000).map(email).collect(), ..Behaviour::default() });
    world.run_until_caught_up(&["topics.partitions=1"]); // It creates the topics.
    let settings = ["topics.partitions=1", "circuit.rejections=40", "circuit.probe_interval=500ms"];
    let instance = world.start(&[&settings[..], &["circuit.max_probe_interval=500ms"]].concat());
    let line = |number| identify(&email(number), "2026-11-20T08:00:00Z", &format!("b{number}")) + "\n";
    let file = world.path("rejected.jsonl");
    std::fs::write(&file, (0..2000).map(line).collect::<String>()).expect("written");
    let file = file.to_str().expect("UTF-8");
    let backfill = world.command(&["backfill", file], &["topics.partitions=1"]).output().expect("it runs");
    assert!(backfill.status.success(), "{}", String::from_utf8_lossy(&backfill.stderr));
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["rejecting"]) == 1.0);
    let before = world.stand_in.requests();
    world.visits(5000..5100);
    world.wait("all new events are accepted", || world.accepted().len() == 100);
    let rejected = world.stand_in.requests() - before - 100;
    assert!(rejected < 1000, "not behind the whole file: {rejected}");
}

#[test]
fn contacts_that_are_rejected_at_each_visit_do_not_open_it_when_the_others_have_had_their_day() {
    // A tenth of all contacts, but all of what is sent once the others are duplicates.
    let rejected = (0..30).map(|number| format!("p{}@example.com", number * 10)).collect();
    let reject = Behaviour { reject_emails: rejected, ..Behaviour::default() };
    let world = World::with(1, reject.clone());
    let instance = world.start(&["circuit.rejections=40"]);
    for round in 1..=4 {
        world.visits(0..300);
        instance.wait_until_settled(round * 300);
    }
    assert_eq!(world.accepted_days().len(), 270);
    assert_eq!(instance.metric("nat_destination_events_total", &["dead_lettered", "rejected"]), 120.0);
    assert!(!instance.log().contains("circuit open"), "{}", instance.log());
    // A mass rejection is found out as ever.
    world.behave(Behaviour { reject: 1.0, ..reject });
    world.visits(1000..2000);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["rejecting"]) == 1.0);
    let dead = || instance.metric("nat_destination_events_total", &["dead_lettered", "rejected"]) - 120.0;
    // Counted when Kafka has them, and the circuit may be told open before.
    world.wait("those that opened it are dead letters", || dead() >= 10.0);
    std::thread::sleep(Duration::from_secs(1));
    assert!(dead() <= 40.0, "and no more: {}", dead());
}

#[test]
fn a_redrive_of_what_is_rejected_again_does_not_open_the_circuit() {
    let world = World::with(1, Behaviour { reject: 1.0, ..Behaviour::default() });
    world.visits(0..200);
    world.run_until_caught_up(&["circuit.rejections=0"]);
    let instance = world.start(&["circuit.rejections=20", "circuit.max_probe_interval=100ms"]);
    let redrive = world.command(&["dead-letters", "redrive", "--wait", "--json"], &[]).output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&redrive.stdout).expect("JSON");
    assert_eq!((&report["letters"], &report["outcomes"]["dead_again"]), (&200.into(), &200.into()), "{report}");
    assert!(!instance.log().contains("circuit open"), "{}", instance.log());
    assert_eq!(instance.metric("nat_destination_events_total", &["dead_lettered", "rejected"]), 200.0);
    assert_eq!(instance.metric("nat_destination_events_requeued_total", &["redrive"]), 200.0);
    // And where it is open already they are not held: they were dead letters, and are so again.
    world.visits(1000..1040);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["rejecting"]) == 1.0);
    let redrive = world.command(&["dead-letters", "redrive"], &[]).output().expect("it runs");
    assert!(redrive.status.success(), "{}", String::from_utf8_lossy(&redrive.stderr));
    let dead = || instance.metric("nat_destination_events_total", &["dead_lettered", "rejected"]);
    world.wait("they are dead letters again while it is open", || dead() >= 400.0);
    assert_eq!(instance.metric("nat_destination_circuit_open", &["rejecting"]), 1.0);
}
