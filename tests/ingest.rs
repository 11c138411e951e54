//! Source topics → queue: what travels along, which topics are read, and what strange records become.

use serde_json::json;

use super::support::World;
use super::support::world::identify;

#[test]
fn an_events_bytes_headers_and_origin_travel_through_the_queue() {
    let world = World::new();
    let event = identify("Ada@Example.com", "2026-11-20T08:00:00Z", "m1");
    world.produce(2, Some(b"\xff original"), Some(event.as_bytes()), &[("trace", Some(b"t1")), ("empty", None)]);
    world.event(1, &identify("bob@example.com", "2026-11-20T08:00:00Z", "m2"));
    world.run_until_caught_up(&[]);
    let queue = world.read(&world.topic("queue"));
    let ada = queue.iter().find(|record| record.key.as_deref() == Some(b"ada@example.com")).expect("keyed by contact");
    assert_eq!(ada.value.as_deref(), Some(event.as_bytes()));
    let names: Vec<&str> = ada.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["trace", "empty", "nat.source", "nat.source.key"]);
    assert_eq!(ada.headers[0].1.as_deref(), Some(&b"t1"[..]));
    assert!(ada.header("nat.source").expect("an origin").starts_with(&format!("{}/2/0/", world.source)));
    assert_eq!(ada.headers[3].1.as_deref(), Some(&b"\xff original"[..]));
    let bob = queue.iter().find(|record| record.key.as_deref() == Some(b"bob@example.com")).expect("keyed by contact");
    assert_eq!(bob.headers.len(), 1, "no key, no header for it: {:?}", bob.headers);
}

#[test]
fn source_topics_can_be_named_by_an_expression_which_never_means_our_own() {
    let world = World::new();
    for (number, name) in ["a", "b"].iter().enumerate() {
        let topic = format!("{}-{name}", world.source);
        world.create_topic(&topic, 1, &[]);
        world.send(
            &topic,
            Some(0),
            None,
            Some(identify(&format!("{name}@example.com"), "2026-11-20T08:00:00Z", &number.to_string()).as_bytes()),
            &[],
        );
    }
    world.flush();
    // It matches our own topics as well: reading the queue would feed it to itself, and the others hold no events.
    let pattern = format!("source.topics=^{}.*", world.prefix);
    world.run_until_caught_up(&[&pattern]);
    world.run_until_caught_up(&[&pattern]);
    assert_eq!(world.accepted().len(), 2);
    assert!(!world.read(&world.topic("layout")).is_empty(), "each of our own holds something");
    assert_eq!(world.dead_letters().len(), 0, "what is no event would be one");
    assert_eq!(world.read(&world.topic("queue")).len(), 2);
}

#[test]
fn latest_starts_at_the_end_once_and_skips_nothing_after_that() {
    let world = World::new();
    world.event(0, &identify("before@example.com", "2026-11-20T08:00:00Z", "0"));
    let first = world.start(&["source.start=latest"]);
    first.wait_until_ready();
    std::thread::sleep(std::time::Duration::from_millis(1500)); // The start offsets are committed within a second.
    let (status, log) = first.stop();
    assert!(status.success(), "{log}");
    world.event(0, &identify("after@example.com", "2026-11-20T08:00:00Z", "1"));
    world.run_until_caught_up(&["source.start=latest"]);
    assert_eq!(world.accepted_days(), [("after@example.com".into(), "2026-11-20".into())]);
}

#[test]
fn a_batch_is_taken_apart_and_each_item_has_its_own_fate() {
    let world = World::new();
    let items: Vec<_> = (0..500)
        .map(|number| match number % 5 {
            0 => json!({"type": "track", "event": "x"}),
            1 => json!({"type": "identify", "timestamp": "2026-11-20T08:00:00Z"}),
            _ => json!({"type": "identify", "timestamp": "2026-11-20T08:00:00Z", "traits": {"email": format!("p{number}@example.com")}}),
        })
        .collect();
    let batch = json!({"batch": items, "sentAt": "2026-11-20T08:00:01Z", "integrations": {"All": true}});
    world.event(0, &batch.to_string());
    let instance = world.start(&[]);
    instance.wait_until_settled(500);
    assert_eq!(instance.metric("nat_destination_events_received_total", &[]), 500.0);
    assert_eq!(instance.metric("nat_destination_events_total", &["delivered"]), 300.0);
    assert_eq!(instance.metric("nat_destination_events_total", &["not_identify"]), 100.0);
    assert_eq!(instance.metric("nat_destination_events_total", &["missing_email"]), 100.0);
    let letters = world.dead_letters();
    assert_eq!(letters.len(), 100);
    let origin = letters[0].header("nat.source").expect("an origin");
    assert!(origin.ends_with("/1") || origin.ends_with("1") || origin.ends_with("6"), "it names the item: {origin}");
}

#[test]
fn strange_records_each_get_an_outcome_and_stop_nothing() {
    let world = World::new();
    let head = r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z","traits":{"email":"#;
    let ten_megabytes = format!(r#"{head}"big@example.com"}},"x":"{}"}}"#, "x".repeat(10 << 20));
    let deep = format!(r#"{head}"deep@example.com"}},"x":{}1{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    let repeated = format!(r#"{head}"no","email":"repeated@example.com"}}}}"#);
    let surrogate = format!(r#"{head}"surrogate@example.com"}},"event":"\ud83d"}}"#);
    let strange: [(Option<&[u8]>, &str); 10] = [
        (None, "tombstone"),
        (Some(b""), "empty"),
        (Some(b"\x00\xff\xfe\x01"), "not_json"),
        (Some(b"{\"type\":\"identify\",\"n\":\"\xff\"}"), "not_json"),
        (Some(b"[{\"type\":\"identify\"}]"), "not_object"),
        (Some(b"{\"batch\":[]}"), "not_identify"),
        (Some(ten_megabytes.as_bytes()), "visit"),
        (Some(deep.as_bytes()), "visit"),
        (Some(repeated.as_bytes()), "visit"),
        (Some(surrogate.as_bytes()), "visit"),
    ];
    for (value, _) in &strange {
        world.produce(0, Some(b"k"), *value, &[]);
    }
    let instance = world.start(&[]);
    instance.wait_until_settled(strange.len() as u64);
    for reason in ["tombstone", "empty", "not_json", "not_object", "not_identify", "visit"] {
        let expected = strange.iter().filter(|(_, expected)| *expected == reason).count() as f64;
        let label = format!("reason=\"{reason}\"");
        assert_eq!(instance.metric("nat_destination_events_total", &[&label]), expected, "{reason}");
    }
    assert_eq!(world.accepted().len(), 4);
    let resident = instance.metric("process_resident_memory_bytes", &[]);
    assert!(resident < 600e6, "memory stays bounded: {resident}");
}

#[test]
fn a_header_whose_name_is_no_text_stops_nothing() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::new();
    for (number, event) in
        [identify("ada@example.com", "2026-11-20T08:00:00Z", "m"), "not json".into()].iter().enumerate()
    {
        let file = world.path(&format!("event-{number}"));
        std::fs::write(&file, event).expect("written");
        let mut kcat = std::process::Command::new("kcat");
        kcat.args(["-P", "-b", &world.brokers, "-t", &world.source, "-p", "0", "-H"]);
        kcat.arg(std::ffi::OsStr::from_bytes(b"\xff\xfe=value")).arg(&file);
        assert!(kcat.status().expect("kcat is there: apt-get install -y kcat").success());
    }
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 1);
    let instance = world.start(&[]);
    instance.wait_until_ready();
    assert_eq!(world.accepted().len(), 1);
}

/// An identify call of about that size; random, so that compression does not make it small.
fn padded(email: &str, size: usize) -> String {
    let noise: String = (0..size).map(|_| fastrand::alphanumeric()).collect();
    format!(r#"{{"type":"identify","timestamp":"2026-11-20T08:00:00Z","traits":{{"email":"{email}"}},"x":"{noise}"}}"#)
}

#[test]
fn an_event_larger_than_the_queue_takes_is_a_dead_letter_too_large() {
    let world = World::new();
    // An operator's queue, smaller than what the producer would send; and a dead-letter topic that takes little more.
    world.create_topic(&world.topic("queue"), 1, &[("max.message.bytes", "100000")]);
    world.create_topic(&world.topic("dead-letter"), 1, &[("max.message.bytes", "300000")]);
    let (fits_dead_letter, fits_nowhere) = (padded("large@example.com", 200_000), padded("huge@example.com", 900_000));
    world.event(0, &fits_dead_letter);
    world.event(0, &fits_nowhere);
    world.event(0, &identify("small@example.com", "2026-11-20T08:00:00Z", "s"));
    // Long enough for all three to be one batch, if they may be.
    world.run_until_caught_up(&["kafka.properties.linger.ms=500", "topics.partitions=1"]);
    assert_eq!(world.accepted_days(), [("small@example.com".into(), "2026-11-20".into())]);
    let mut letters = world.dead_letters();
    letters.sort_by_key(|letter| letter.header("__connect.errors.offset"));
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| letter.header("nat.reason").as_deref() == Some("too_large")));
    assert_eq!(letters[0].value.as_deref(), Some(fits_dead_letter.as_bytes()));
    assert_eq!(letters[0].header("nat.value.truncated"), None);
    assert_eq!(letters[1].header("nat.value.truncated"), Some(fits_nowhere.len().to_string()));
    assert!(fits_nowhere.as_bytes().starts_with(letters[1].value.as_deref().expect("a beginning")));
    assert_eq!(letters[1].header("__connect.errors.offset").as_deref(), Some("1"));
}

#[test]
fn a_record_of_which_no_letter_can_hold_half_is_a_dead_letter_all_the_same() {
    let world = World::new();
    // Nothing that is smaller when it is compressed.
    let huge: Vec<u8> = (0..700_000).map(|_| fastrand::u8(128..)).collect();
    world.produce(0, Some(b"k"), Some(&huge), &[]);
    world.produce(0, Some(&huge), Some(b"{"), &[]);
    world.produce(0, None, None, &[("huge", Some(&huge)), ("nat.reason", Some(b"theirs"))]);
    world.produce(0, None, Some(b"{"), &[("huge", Some(&huge))]);
    world.event(0, &padded("large@example.com", 200_000));
    world.event(0, &identify("small@example.com", "2026-11-20T08:00:00Z", "s"));
    // The least that may be set.
    world.run_until_caught_up(&["topics.max_message_bytes=64 KiB"]);
    assert_eq!(world.accepted_days(), [("small@example.com".into(), "2026-11-20".into())]);
    let mut letters = world.dead_letters();
    letters.sort_by_key(|letter| letter.header("__connect.errors.offset"));
    let told = |name| letters.iter().map(|letter| letter.header(name).unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(told("nat.reason"), ["not_json", "not_json", "not_json", "too_large"]);
    let large = padded("large@example.com", 200_000).len().to_string();
    assert_eq!(told("nat.value.truncated"), ["700000", "", "", &large]);
    assert_eq!(told("nat.bare"), ["true"; 4]);
    assert_eq!(letters[1].value.as_deref(), Some(&b"{"[..]), "a small value stays whole");
    let output =
        world.command(&["dead-letters", "list", "--contact", "Large@example.com"], &[]).output().expect("runs");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(listed.lines().count() == 1 && listed.contains("too_large"), "its contact is known still: {listed}");
    let output = world.command(&["explain", "--contact", "large@example.com"], &[]).output().expect("runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("too_large") && told.contains("3 dead letters cannot be read as an event"), "{told}");
}

#[test]
fn small_records_whose_batch_is_too_large_are_no_dead_letters() {
    let world = World::new();
    world.create_topic(&world.topic("queue"), 1, &[("max.message.bytes", "20000")]);
    (0..100).for_each(|number| world.event(0, &padded(&format!("p{number}@example.com"), 1000)));
    world.flush();
    // As if the topic had taken more when the program started; and long enough for them to be one batch.
    let settings = ["topics.partitions=1", "kafka.properties.batch.size=500000", "kafka.properties.linger.ms=500"];
    let mut instance = world.start(&settings);
    assert!(!instance.wait().success(), "it cannot write them, and must not drop them");
    let log = instance.log();
    assert!(log.contains("takes smaller batches (max.message.bytes) than at the start"), "{log}");
    world.run_until_caught_up(&["topics.partitions=1"]);
    assert_eq!(world.accepted_days().len(), 100);
    assert!(world.dead_letters().is_empty());
}
