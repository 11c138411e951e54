//! How fast Nat.app is asked, as the stand-in sees it: the ceiling, the rate limit, Retry-After, and after an outage.

use std::time::Duration;

use jiff::Timestamp;
use nat_destination::sandbox::stand_in::{Behaviour, Entry};

use super::support::World;
use super::support::world::identify;

const DAY: &str = "2026-11-20T08:00:00Z";

/// When each request came, in milliseconds, in order.
fn times(entries: &[Entry]) -> Vec<i64> {
    let time = |entry: &Entry| entry.time.parse::<Timestamp>().expect("a time").as_millisecond();
    entries.iter().map(time).collect()
}

/// No more requests than the rate allows, by the stand-in's own clock. A machine that is slow only makes it easier: it
/// lengthens every span but the one between requests that were in flight together, and those are left out. For that none may
/// be given up meanwhile (`nat.timeout`): it would make room for another.
pub fn assert_spaced(requests: &[Entry], in_flight: usize, a_second: usize) {
    let mut times = times(requests);
    times.sort_unstable();
    for (number, time) in times.iter().enumerate().skip(in_flight) {
        // A loop that was held up catches up with 10 ms, and the clock tells whole milliseconds.
        let least = ((number - in_flight) * 1000 / a_second) as i64 - 10 - 2;
        let after = time - times[0];
        assert!(
            after >= least,
            "request {number} came {after} ms after the first: not before {least}, at {a_second}/s"
        );
    }
}

#[test]
fn the_rate_limit_holds_exactly() {
    let world = World::with(3, Behaviour::default());
    let instance = world.start(&["deliver.rate_limit=100", "deliver.concurrency=4", "nat.timeout=5m"]);
    instance.wait_until_ready();
    world.visits(0..500);
    instance.wait_until_settled(500);
    assert_spaced(&world.stand_in.entries(), 4, 100);
}

#[test]
fn retry_after_of_one_answer_holds_all() {
    let world = World::with(1, Behaviour { retry_after: Some(Duration::from_secs(3)), ..Behaviour::default() });
    let instance = world.start(&[]);
    instance.wait_until_ready();
    world.behave(Behaviour { status: Some(429), retry_after: Some(Duration::from_secs(3)), ..Behaviour::default() });
    world.event(0, &identify("first@example.com", DAY, "m"));
    world.wait("it says until when", || instance.get("/readyz").1.contains("Nat.app said not to come back before 20"));
    world.behave(Behaviour::default());
    world.visits(0..50);
    instance.wait_until_settled(51);
    let times = times(&world.stand_in.entries());
    assert!(times[1] - times[0] >= 3000, "the second request came after {} ms", times[1] - times[0]);
}

#[test]
fn requests_in_flight_become_fewer_when_nat_app_has_too_much_to_do() {
    let behaviour = Behaviour { latency: Duration::from_millis(100), ..Behaviour::default() };
    let world = World::with(3, behaviour.clone());
    let instance = world.start(&["deliver.concurrency=64", "retry.initial_interval=200ms"]);
    world.visits(0..1500);
    let limit = || instance.metric("nat_destination_concurrency_limit", &[]);
    world.wait("it has found out that Nat.app takes all of them", || limit() == 64.0);
    // 64 in flight at 100 ms each are 640 a second.
    world.behave(Behaviour { rate_limit: Some(100), retry_after: None, ..behaviour });
    world.visits(1500..1800); // However few of the others are left by now, it is too much.
    world.wait("it asks for less", || limit() <= 20.0);
    instance.wait_until_settled(1800);
    assert_eq!(world.accepted_days().len(), 1800);
}

#[test]
fn after_an_outage_nat_app_is_not_stampeded() {
    let latency = Duration::from_millis(200);
    let world = World::with(3, Behaviour { status: Some(503), latency, ..Behaviour::default() });
    let settings = ["deliver.concurrency=64", "circuit.failures=20", "circuit.max_probe_interval=500ms"];
    let instance = world.start(&settings);
    world.visits(0..2000);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["unavailable"]) == 1.0);
    std::thread::sleep(Duration::from_secs(1)); // All that was in flight has come back.
    world.behave(Behaviour { latency, ..Behaviour::default() });
    world.wait("it goes on", || world.accepted().len() > 200);
    let times = times(&world.accepted());
    // The probe; then nobody before its answer; then no more than 4, until one of those is answered.
    assert!(times[1] - times[0] >= 200, "{} ms after the probe was taken", times[1] - times[0]);
    assert!(times[5] - times[1] >= 200, "the sixth came {} ms after the second", times[5] - times[1]);
    // Rounds of 200 ms: 4, 8, 16, 32 at most, all of them together less than what could be in flight at once.
    let first_rounds = times.iter().filter(|time| **time < times[1] + 3 * 200).count();
    assert!(first_rounds <= 1 + 4 + 8 + 16, "{first_rounds} in the first three rounds");
    world.behave(Behaviour::default());
    instance.wait_until_settled(2000);
}

#[test]
fn no_more_is_read_than_there_is_a_need_for() {
    let world = World::with(1, Behaviour { latency: Duration::from_secs(1), ..Behaviour::default() });
    world.visits(0..3000);
    let instance = world.start(&["topics.partitions=1"]);
    world.wait("all are in the queue", || instance.metric("nat_destination_events_queued_total", &[]) == 3000.0);
    world.wait("some are delivered", || world.accepted().len() > 4);
    let pending = || instance.metric("nat_destination_pending_events", &[]);
    world.wait("there are enough to choose from", || pending() >= 256.0);
    let pending = pending();
    assert!(pending < 1500.0, "{pending} are in memory, and 3000 could be");
    world.behave(Behaviour::default());
    instance.wait_until_settled(3000);
    assert_eq!(world.accepted_days().len(), 3000);
}

#[test]
fn many_events_of_one_contact_do_not_hold_back_the_others() {
    let world = World::with(1, Behaviour { latency: Duration::from_millis(200), ..Behaviour::default() });
    let first: jiff::civil::Date = "2022-01-01".parse().expect("a day");
    for number in 0..600 {
        let day = first.checked_add(jiff::Span::new().days(number)).expect("a day");
        world.event(0, &identify("busy@example.com", &format!("{day}T08:00:00Z"), &format!("b{number}")));
    }
    world.visits(0..20);
    // One after the other they take two minutes; that is longer than anybody waits here.
    let instance = world.start(&["topics.partitions=1"]);
    let others = || world.accepted().iter().filter(|entry| entry.email.as_deref() != Some("busy@example.com")).count();
    world.wait("the others are delivered", || others() == 20);
    assert!(world.accepted().len() < 600, "the busy one was still at it");
    world.behave(Behaviour::default());
    instance.wait_until_settled(620);
    assert_eq!(world.accepted_days().len(), 620);
}
