//! Nat.app is away, for a long time and with many events waiting: it costs lag, and nothing else.

use std::time::Duration;

use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::world::identify;

const DAY: &str = "2026-11-20T08:00:00Z";

/// `NAT_DESTINATION_TEST_WAITING=1000000` makes it as long as it can be.
fn waiting() -> usize {
    std::env::var("NAT_DESTINATION_TEST_WAITING").ok().and_then(|events| events.parse().ok()).unwrap_or(30_000)
}

#[test]
fn an_outage_with_many_events_waiting_costs_lag_and_neither_memory_nor_partitions() {
    let world = World::with(3, Behaviour { status: Some(503), ..Behaviour::default() });
    let instance = world.start(&["retry.max_elapsed=5s", "circuit.max_probe_interval=1s"]);
    instance.wait_until_ready();
    let produce = |contacts: std::ops::Range<usize>| {
        for number in contacts {
            let event = identify(&format!("p{number}@example.com"), DAY, "m");
            world.send(&world.source, Some(number as i32 % 3), None, Some(event.as_bytes()), &[]);
            if number % 10_000 == 0 {
                world.flush();
            }
        }
        world.flush();
    };
    let lag = || instance.metric("nat_destination_queue_lag_events", &[]) as usize;
    let memory = || instance.metric("process_resident_memory_bytes", &[]) / 1e6;
    let tenth = waiting() / 10;
    produce(0..tenth);
    world.wait("a tenth waits in the queue, and is told", || lag() == tenth);
    std::thread::sleep(Duration::from_secs(3));
    let before = memory();
    produce(tenth..waiting());
    let mut last = 0;
    while last < waiting() {
        world.wait(&format!("the lag grows beyond {last} of {}", waiting()), || lag() > last);
        last = lag();
    }
    std::thread::sleep(Duration::from_secs(5));
    let after = memory();
    println!("{} waiting: {before:.0} MB with a tenth of them, {after:.0} MB with all", waiting());
    assert!(after < before * 1.25 + 20.0, "{before} MB with a tenth of the events waiting, {after} MB with all");
    assert_eq!(instance.metric("nat_destination_events_total", &[]), 0.0, "nothing is given up");
    let log = instance.log();
    assert_eq!(log.matches("\"assigned\"").count(), 2, "once a stage, and never again: {log}");
    assert!(!log.contains("revoked") && !log.contains("lost to"), "{log}");
    assert_eq!(instance.get("/livez").0, 200);
    let began = std::time::Instant::now();
    world.behave(Behaviour::default());
    let settled = || instance.metric("nat_destination_events_total", &["delivered"]) as usize;
    let mut last = 0;
    while last < waiting() {
        world.wait(&format!("more than {last} are delivered"), || settled() > last);
        last = settled();
    }
    println!("{} delivered in {:.1} s after it", waiting(), began.elapsed().as_secs_f64());
    assert_eq!(world.accepted_days().len(), waiting());
}
