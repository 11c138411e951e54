//! Queue → Nat.app: dedup by acceptance, retries, order, and faults that are not the event's.

use std::time::Duration;

use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::world::identify;

const DAY: &str = "2026-11-20T08:00:00Z";

#[test]
fn a_contact_is_delivered_once_a_day_whatever_way_it_is_written() {
    let world = World::new();
    for (partition, email) in
        ["Ada@Example.com", " ada@example.com", "ada@example.com", "ADA@EXAMPLE.COM "].iter().enumerate()
    {
        world.event(partition as i32 % 3, &identify(email, DAY, &partition.to_string()));
    }
    world.event(0, &identify("ada@example.com", "2026-11-21T08:00:00Z", "next day"));
    world.run_until_caught_up(&[]);
    let expected = ["2026-11-20", "2026-11-21"].map(|day| ("ada@example.com".to_owned(), day.to_owned()));
    assert_eq!(world.accepted_days(), expected);
}

#[test]
fn a_rejected_event_does_not_use_up_the_day() {
    let world = World::with(1, Behaviour { reject_emails: vec!["ada@example.com".into()], ..Behaviour::default() });
    let instance = world.start(&[]);
    world.event(0, &identify("ada@example.com", DAY, "first"));
    instance.wait_until_settled(1);
    world.behave(Behaviour::default());
    world.event(0, &identify("ada@example.com", DAY, "second"));
    instance.wait_until_settled(2);
    let accepted = world.accepted();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].message_id.as_deref(), Some("second"));
    let keys: std::collections::BTreeSet<_> =
        world.stand_in.entries().into_iter().map(|entry| entry.idempotency_key).collect();
    assert_eq!(keys.len(), 2, "the second event has a key of its own");
    assert_eq!(world.dead_letters()[0].header("nat.reason").as_deref(), Some("rejected"));
}

#[test]
fn a_second_event_waits_for_the_first_ones_outcome() {
    // Both are in flight's reach at once: were they sent side by side, both would be accepted.
    let world = World::with(1, Behaviour { latency: Duration::from_millis(300), ..Behaviour::default() });
    let instance = world.start(&[]);
    instance.wait_until_ready();
    for number in 0..5 {
        world.event(0, &identify("ada@example.com", DAY, &number.to_string()));
    }
    instance.wait_until_settled(5);
    assert_eq!(world.accepted().len(), 1);
    assert_eq!(instance.metric("nat_destination_events_total", &["duplicate", "visit"]), 4.0);
}

#[test]
fn every_attempt_at_an_event_carries_the_same_key_and_the_same_bytes() {
    let world = World::with(1, Behaviour { status: Some(503), ..Behaviour::default() });
    let instance = world.start(&[]);
    world.event(0, &identify("ada@example.com", DAY, "m"));
    world.wait("three attempts were made", || world.stand_in.requests() >= 3);
    world.behave(Behaviour::default());
    instance.wait_until_settled(1);
    let entries = world.stand_in.entries();
    assert!(
        entries
            .iter()
            .all(|entry| entry.idempotency_key.is_some() && entry.idempotency_key == entries[0].idempotency_key)
    );
    assert_eq!(world.accepted().len(), 1);
    assert!(instance.metric("nat_destination_retries_total", &[]) >= 3.0);
}

#[test]
fn an_event_that_waits_for_its_retry_does_not_hold_other_contacts() {
    let slow = vec!["slow@example.com".into()];
    let world = World::with(1, Behaviour { reject_emails: slow, reject_status: 500, ..Behaviour::default() });
    let instance = world.start(&[]);
    world.event(0, &identify("slow@example.com", DAY, "slow"));
    world.wait("it failed", || instance.metric("nat_destination_retries_total", &[]) >= 1.0);
    world.event(0, &identify("quick@example.com", DAY, "quick"));
    world.wait("the other contact is delivered", || !world.accepted().is_empty());
    assert_eq!(world.accepted()[0].message_id.as_deref(), Some("quick"));
    world.behave(Behaviour::default());
    instance.wait_until_settled(2);
    assert_eq!(world.accepted().len(), 2);
}

#[test]
fn an_event_that_fails_for_too_long_is_a_dead_letter_retries_exhausted() {
    let world = World::with(1, Behaviour { status: Some(500), ..Behaviour::default() });
    world.event(0, &identify("ada@example.com", DAY, "m"));
    world.run_until_caught_up(&["retry.max_elapsed=1s"]);
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].header("nat.reason").as_deref(), Some("retries_exhausted"));
    assert_eq!(letters[0].header("nat.status").as_deref(), Some("500"));
    let attempts: u64 = letters[0].header("nat.attempts").expect("counted").parse().expect("a number");
    assert_eq!(attempts, world.stand_in.requests());
    let time = |name: &str| letters[0].header(name).expect("told").parse::<i64>().expect("milliseconds");
    assert!((900..30_000).contains(&(time("nat.last_attempt") - time("nat.first_attempt"))));
}

/// While Nat.app refuses the key or is not there, everything waits: nothing is lost, dead or given up.
fn waits_out(status: u16, reason: &str) {
    let world = World::with(3, Behaviour { status: Some(status), ..Behaviour::default() });
    for number in 0..200 {
        world.send(
            &world.source,
            Some(number % 3),
            None,
            Some(identify(&format!("p{number}@example.com"), DAY, "m").as_bytes()),
            &[],
        );
    }
    world.flush();
    // After the events: were they to trickle in, the first could be out of patience before enough have failed.
    let instance = world.start(&["retry.max_elapsed=1s"]);
    let open = format!("reason=\"{reason}\"");
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &[&open]) == 1.0);
    std::thread::sleep(Duration::from_secs(2)); // Longer than any event's patience.
    assert_eq!(instance.metric("nat_destination_events_total", &[]), 0.0);
    assert!(instance.get("/readyz").1.contains(reason));
    let requests = world.stand_in.requests();
    assert!(requests < 150, "one probe at a time, not all of them again and again: {requests}");
    world.behave(Behaviour::default());
    instance.wait_until_settled(200);
    assert_eq!(world.accepted_days().len(), 200);
    assert!(world.dead_letters().is_empty());
    world.wait("it is told closed", || instance.metric("nat_destination_circuit_open", &[]) == 0.0);
}

#[test]
fn a_refused_key_costs_nothing_but_lag() {
    waits_out(401, "unauthorized");
}

#[test]
fn a_forbidden_key_costs_nothing_but_lag() {
    waits_out(403, "unauthorized");
}

#[test]
fn a_wrong_address_costs_nothing_but_lag() {
    waits_out(404, "endpoint_not_found");
}

#[test]
fn a_redirect_is_not_followed_and_costs_nothing_but_lag() {
    waits_out(308, "endpoint_not_found");
}

#[test]
fn an_outage_for_everybody_costs_nothing_but_lag() {
    waits_out(503, "unavailable");
}

#[test]
fn one_contact_that_is_always_refused_does_not_keep_the_circuit_open() {
    // As a firewall does that dislikes one event: 403 for it alone.
    let world = World::with(
        1,
        Behaviour { reject_emails: vec!["odd@example.com".into()], reject_status: 403, ..Behaviour::default() },
    );
    let instance = world.start(&[]);
    instance.wait_until_ready();
    world.event(0, &identify("odd@example.com", DAY, "odd"));
    for number in 0..20 {
        world.event(0, &identify(&format!("p{number}@example.com"), DAY, "m"));
    }
    world.wait("everybody else is delivered", || world.accepted().len() == 20);
    world.behave(Behaviour::default());
    instance.wait_until_settled(21);
    assert!(world.dead_letters().is_empty());
}

#[test]
fn a_new_key_is_picked_up_without_a_restart() {
    let world = World::new();
    world.behave(Behaviour { api_key: Some("rotated".into()), ..Behaviour::default() });
    let instance = world.start(&[]);
    world.event(0, &identify("ada@example.com", DAY, "m"));
    world.wait("the old key is refused", || instance.metric("nat_destination_circuit_open", &["unauthorized"]) == 1.0);
    std::fs::write(world.key_file(), "rotated\n").expect("written");
    instance.wait_until_settled(1);
    assert_eq!(world.accepted().len(), 1);
}

/// An audience's value for a@example.com.
fn vip(value: bool, id: usize) -> String {
    format!(
        r#"{{"type":"identify","timestamp":"2026-11-20T08:00:0{id}Z","traits":{{"email":"a@example.com","vip":{value}}},"context":{{"personas":{{"computation_key":"vip"}}}},"messageId":"{id}"}}"#
    )
}

#[test]
fn after_an_engage_value_was_given_up_the_next_is_sent_whichever_it_is() {
    let world = World::with(1, Behaviour::default());
    let instance = world.start(&["nat.timeout=1s"]);
    world.event(0, &vip(true, 0));
    instance.wait_until_settled(1);
    // It is taken, nobody hears of that, and at the next attempt it is refused.
    world.behave(Behaviour { latency: Duration::from_secs(5), ..Behaviour::default() });
    world.event(0, &vip(false, 1));
    world.wait("there is no answer", || instance.metric("nat_destination_retries_total", &[]) >= 1.0);
    world.behave(Behaviour { reject_emails: vec!["a@example.com".into()], ..Behaviour::default() });
    instance.wait_until_settled(2);
    assert_eq!(world.dead_letters().len(), 1);
    let explain = |part: &str| {
        let told = world.command(&["explain", "--contact", "a@example.com"], &[]).output().expect("it runs");
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains(part), "{part} in {told}");
    };
    explain("vip  (in doubt: this one was given up)");
    assert!(instance.stop().0.success());
    // What the last accepted one said, and Nat.app has another by now. It is in doubt over a restart too.
    world.behave(Behaviour::default());
    world.event(0, &vip(true, 2));
    world.event(0, &vip(true, 3));
    world.run_until_caught_up(&[]);
    let mut ids: Vec<String> = world.accepted().into_iter().filter_map(|entry| entry.message_id).collect();
    ids.dedup();
    assert_eq!(ids, ["0", "1", "2"], "and the repeat is a duplicate");
    explain("vip  true");
}

#[test]
fn engage_values_arrive_in_order_and_a_repeat_is_a_duplicate() {
    let world = World::with(1, Behaviour::default());
    for (id, on) in [true, true, false, false, true].into_iter().enumerate() {
        world.event(0, &vip(on, id));
    }
    let instance = world.start(&[]);
    instance.wait_until_settled(5);
    let ids: Vec<String> = world.accepted().into_iter().filter_map(|entry| entry.message_id).collect();
    assert_eq!(ids, ["0", "2", "4"]);
    assert_eq!(instance.metric("nat_destination_events_total", &["duplicate", "engage"]), 2.0);
}

#[test]
fn engage_can_be_daily_or_skipped() {
    let event = r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z","traits":{"email":"a@example.com","vip":true},"context":{"personas":{"computation_key":"vip"}}}"#;
    for (mode, accepted) in [("daily", 1), ("skip", 0)] {
        let world = World::with(1, Behaviour::default());
        world.event(0, event);
        world.event(0, &event.replace("true", "false"));
        world.run_until_caught_up(&[&format!("engage={mode}")]);
        assert_eq!(world.accepted().len(), accepted, "{mode}");
        assert!(world.dead_letters().is_empty());
    }
}
