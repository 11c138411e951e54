//! Poison: events whose handling panics or hangs. The program that panics on them is a debug build's mutant.
#![cfg(debug_assertions)]

use std::process::Command;

use super::support::world::identify;
use super::support::{Instance, World};

const DAY: &str = "2026-11-20T08:00:00Z";

fn poisonous(mut command: Command) -> Command {
    command.env("NAT_DESTINATION_MUTANT", "poison");
    command
}

fn poison(email: &str, what: &str) -> String {
    identify(email, DAY, "m").replacen('{', &format!(r#"{{"poison":"{what}","#), 1)
}

#[test]
fn an_event_that_makes_ingest_panic_is_a_dead_letter_and_stops_nothing() {
    let world = World::with(1, Default::default());
    for number in 0..3 {
        world.event(0, &identify(&format!("p{number}@example.com"), DAY, "m"));
        world.event(0, &poison(&format!("secret{number}@example.com"), "panic"));
    }
    let instance = Instance::start(poisonous(world.command(&["run"], &[])));
    instance.wait_until_settled(6);
    assert_eq!(world.accepted().len(), 3);
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| letter.header("nat.reason").as_deref() == Some("poison")));
    let whole = poison("secret0@example.com", "panic");
    assert!(letters.iter().any(|letter| letter.value.as_deref() == Some(whole.as_bytes())));
    let told = || instance.log().matches("handling this record panicked").count();
    world.wait("each is told", || told() == 3);
    let log = instance.log();
    assert!(log.contains("src/mutant.rs:"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn an_event_that_makes_deliver_panic_is_a_dead_letter_and_stops_nothing() {
    let world = World::with(1, Default::default());
    let instance = Instance::start(poisonous(world.command(&["run"], &["topics.partitions=1"])));
    instance.wait_until_ready();
    // Straight into the queue, where ingest does not see it.
    let event = poison("ada@example.com", "panic");
    world.send(&world.topic("queue"), Some(0), Some(b"ada@example.com"), Some(event.as_bytes()), &[]);
    world.flush();
    world.event(0, &identify("ada@example.com", DAY, "m"));
    instance.wait_until_settled(2);
    assert_eq!(world.accepted().len(), 1);
    assert_eq!(world.dead_letters()[0].header("nat.reason").as_deref(), Some("poison"));
}

#[test]
fn where_handling_hangs_the_program_says_at_which_record_and_ends() {
    let world = World::with(1, Default::default());
    world.event(0, &identify("ada@example.com", DAY, "m"));
    world.event(0, &poison("ada@example.com", "hang"));
    let mut instance = Instance::start(poisonous(world.command(&["run"], &["watchdog.timeout=10s"])));
    let status = instance.wait();
    assert_eq!(status.code(), Some(1));
    let told = instance.log();
    let where_it_was = "ingest has done nothing for 10s (watchdog.timeout). The last record that it took up is offset 1 of partition 0";
    assert!(told.contains(where_it_was), "{told}");
    // It is not committed: a program that can handle it does.
    world.run_until_caught_up(&["kafka.properties.session.timeout.ms=6000"]);
    assert_eq!(world.accepted_days(), [("ada@example.com".into(), "2026-11-20".into())]);
}
