//! One contact: what is known of it, that it can be forgotten, and that the suppression list is honoured.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use nat_destination::dedup::Contact;
use nat_destination::sandbox::stand_in::Behaviour;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use serde_json::Value;

use super::support::World;
use super::support::world::{SLOW_READER, binary, identify};

const ADA: &str = "ada@example.com";
const BOB: &str = "bob@example.com";

fn visit(email: &str, day: u32) -> String {
    identify(email, &format!("2026-11-{day:02}T08:00:00Z"), "m")
}

fn audience(email: &str, value: bool) -> String {
    format!(
        r#"{{"type":"identify","timestamp":"2026-11-20T09:00:00Z","traits":{{"email":"{email}","vip":{value}}},"context":{{"personas":{{"computation_key":"vip"}}}}}}"#
    )
}

fn tool(world: &World, subcommand: &str, arguments: &[&str]) -> Output {
    let output = world.command(&[subcommand], &[]).args(arguments).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn words(world: &World, subcommand: &str, arguments: &[&str]) -> String {
    String::from_utf8(tool(world, subcommand, arguments).stdout).expect("text")
}

fn known(world: &World, email: &str) -> Value {
    let output = tool(world, "explain", &["--json", "--contact", email]);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

#[test]
fn explain_tells_when_a_contact_was_delivered_and_from_which_record() {
    let world = World::new();
    world.visits(0..20);
    world.event(1, &visit(ADA, 20));
    world.event(2, &audience(ADA, true));
    world.event(2, &visit(ADA, 20));
    world.run_until_caught_up(&[]);
    let offset = |partition: i32, holds: &str| {
        let is_it = |value: &[u8]| String::from_utf8_lossy(value).contains(holds);
        let records = world.read(&world.source);
        let mut found = records.iter().filter(|record| record.partition == partition);
        found.find(|record| record.value.as_deref().is_some_and(is_it)).map(|record| record.offset)
    };
    let told = known(&world, " Ada@Example.com ");
    assert_eq!(told["contact"], Contact::of(ADA).to_string());
    let [first, second] = list(&told["delivered"]) else { panic!("a visit and a value: {told}") };
    let (visit, engage) = if first["day"].is_null() { (second, first) } else { (first, second) };
    assert_eq!((visit["day"].as_str(), visit["remembered"].as_bool()), (Some("2026-11-20"), Some(true)));
    assert_eq!((engage["engage_key"].as_str(), engage["engage_value"].as_str()), (Some("vip"), Some("true")));
    assert_eq!(
        (engage["source"]["partition"].as_i64(), engage["source"]["offset"].as_i64()),
        (Some(2), offset(2, "vip"))
    );
    assert_eq!(visit["source"]["topic"], world.source);
    // One of the two visits was delivered, and the other one is a duplicate.
    assert_eq!(told["settled_otherwise"], 1);
    assert!(list(&told["waiting"]).is_empty() && list(&told["dead_letters"]).is_empty(), "{told}");
    let from = visit["source"]["partition"].as_i64().expect("a partition") as i32;
    assert_eq!(visit["source"]["offset"].as_i64(), offset(from, r#""email":"ada@example.com"},"messageId""#));
    let queued = world.read(&world.topic("queue"));
    let of_ada = |record: &&super::support::world::Record| record.key.as_deref() == Some(ADA.as_bytes());
    let place = queued.iter().filter(of_ada).map(|record| record.partition).next().expect("it went through the queue");
    assert_eq!(told["partition"], place);
    let text = words(&world, "explain", &["--contact", ADA]);
    for part in ["  2026-11-20  ", "  vip  true  ", "waiting: nothing", "dead letters: nothing", "not suppressed"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let other = words(&world, "explain", &["--contact", ADA, "--day", "2026-11-19"]);
    assert!(other.contains("\ndelivered: nothing") && other.contains("  vip  true  "), "{other}");
    let nobody = words(&world, "explain", &["--contact", "nobody@example.com"]);
    assert!(nobody.contains("Nothing is known of this contact"), "{nobody}");
}

/// The committed offsets of this world's groups, and the groups that there are.
fn groups(world: &World) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let patience = Duration::from_secs(30);
    let client = |group: &str| -> BaseConsumer {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &world.brokers).set("group.id", group).create().expect("a client")
    };
    let mut offsets = BTreeMap::new();
    for (group, topic) in [("ingest", world.source.clone()), ("deliver", world.topic("queue"))] {
        let mut places = TopicPartitionList::new();
        places.add_partition_range(&topic, 0, 2);
        let committed = client(&world.topic(group)).committed_offsets(places, patience).expect("offsets");
        let told = committed.elements().iter().map(|place| format!("{:?}", place.offset())).collect();
        offsets.insert(group.to_owned(), told);
    }
    let found = client("any").fetch_group_list(None, patience).expect("groups");
    let names = found.groups().iter().map(|group| group.name().to_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(&world.prefix)).collect();
    names.sort();
    (offsets, names)
}

#[test]
fn all_of_a_contacts_events_in_a_batch_that_is_a_dead_letter_are_told() {
    let world = World::new();
    // In an envelope that no setting tells of.
    let batch = [visit(ADA, 20), visit(BOB, 21), visit(ADA, 22), audience(ADA, true)].join(",");
    world.event(0, &format!(r#"{{"payload":{{"batch":[{batch}]}}}}"#));
    world.run_until_caught_up(&[]);
    let mended = ["--set", "source.envelope=payload", "--contact", ADA];
    let told = |more: &[&str]| {
        let output = tool(&world, "explain", &[&["--json"], &mended[..], more].concat());
        let known: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let word = |letter: &Value, name: &str| letter[name].as_str().unwrap_or("-").to_owned();
        let of = |letter: &Value| format!("{} {}", word(letter, "day"), word(letter, "engage_key"));
        list(&known["dead_letters"]).iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(told(&[]), ["2026-11-20 -", "2026-11-22 -", "2026-11-20 vip"]);
    assert_eq!(told(&["--day", "2026-11-22"]), ["2026-11-22 -"]);
    let text = words(&world, "forget", &[&mended[..], &["--dry-run"]].concat());
    assert!(text.contains("dead letters: 1;"), "it counts records: {text}");
}

#[test]
fn explain_tells_what_waits_and_what_is_a_dead_letter_and_changes_nothing() {
    let world = World::with(3, Behaviour { reject_emails: vec![ADA.into()], ..Behaviour::default() });
    world.event(0, &visit(ADA, 20));
    world.event(1, r#"{"type":"identify","email":"Ada@example.com"}"#);
    world.event(1, &visit(BOB, 20));
    world.run_until_caught_up(&[]);
    world.behave(Behaviour { status: Some(503), ..Behaviour::default() });
    let instance = world.start(&["retry.max_interval=50ms"]);
    world.event(2, &visit(ADA, 21));
    world.event(2, &visit(ADA, 22));
    world.wait("both wait, and the attempts are written", || {
        let told = known(&world, ADA);
        list(&told["waiting"]).len() == 2 && told["waiting"][0]["attempts"].as_u64() >= Some(2)
    });
    instance.kill();
    let topics = || ["queue", "delivered", "dead-letter"].map(|topic| world.read(&world.topic(topic)).len());
    let before = (topics(), groups(&world));
    let told = known(&world, ADA);
    let [first, second] = list(&told["waiting"]) else { panic!("two wait: {told}") };
    assert!(first["attempts"].as_u64() >= Some(2) && first["last_attempt"].is_string(), "{told}");
    assert_eq!((first["day"].as_str(), first["source"]["partition"].as_i64()), (Some("2026-11-21"), Some(2)));
    assert_eq!((second["day"].as_str(), second["attempts"].as_u64()), (Some("2026-11-22"), Some(0)));
    let mut letters: Vec<_> = list(&told["dead_letters"]).iter().map(|letter| &letter["reason"]).collect();
    letters.sort_by_key(|reason| reason.to_string());
    assert_eq!(letters, ["missing_timestamp", "rejected"]);
    let rejected = list(&told["dead_letters"]).iter().find(|letter| letter["reason"] == "rejected").expect("one");
    assert_eq!((rejected["status"].as_u64(), rejected["day"].as_str()), (Some(400), Some("2026-11-20")));
    assert!(list(&known(&world, BOB)["dead_letters"]).is_empty());
    let day = words(&world, "explain", &["--contact", ADA, "--day", "2026-11-22"]);
    assert!(day.contains("2026-11-22") && !day.contains("2026-11-21"), "{day}");
    assert_eq!((topics(), groups(&world)), before, "it only reads");
}

#[test]
fn a_forgotten_contact_is_delivered_again_after_a_restart() {
    let world = World::new();
    let again = || {
        for (partition, event) in [(0, visit(ADA, 20)), (1, audience(ADA, true)), (2, visit(BOB, 20))] {
            world.event(partition, &event);
        }
        world.run_until_caught_up(&[]);
        let of = |email: &str| world.accepted().iter().filter(|entry| entry.email.as_deref() == Some(email)).count();
        (of(ADA), of(BOB))
    };
    assert_eq!(again(), (2, 1));
    let text = words(&world, "forget", &["--contact", ADA, "--dry-run", "--engage", "vip", "--engage", "vipp"]);
    assert!(text.contains("2 entries") && text.contains("would be forgotten"), "{text}");
    assert!(text.contains("  no value of vipp (Engage) is there") && !text.contains("no value of vip "), "{text}");
    assert_eq!(again(), (2, 1), "a dry run forgets nothing");
    let text = words(&world, "forget", &["--contact", "ADA@example.com"]);
    for part in ["2 entries", "the visit of 2026-11-20", "the value of vip", "restarted", "not on the suppression list"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(list(&known(&world, ADA)["delivered"]).is_empty());
    let tombstones = world.read(&world.topic("delivered")).into_iter().filter(|record| record.value.is_none());
    let mut partitions: Vec<i32> = tombstones.map(|record| record.partition).collect();
    partitions.sort_unstable();
    assert_eq!(partitions, [0, 0, 1, 1, 2, 2], "wherever a resize may have left a copy");
    assert_eq!(list(&known(&world, BOB)["delivered"]).len(), 1);
    assert_eq!(again(), (4, 1));
    let output = tool(&world, "forget", &["--contact", "nobody@example.com", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["forgotten"], false, "there was nothing");
    assert!(list(&told["known"]["delivered"]).is_empty());
}

#[test]
fn the_record_of_what_was_delivered_is_told_though_todays_rules_filter_it() {
    let world = World::new();
    world.event(0, &visit(ADA, 20));
    world.run_until_caught_up(&[]);
    let stricter = ["--set", "identify.oldest=2026-11-21"];
    for day in [&[][..], &["--day", "2026-11-20"]] {
        let told = words(&world, "explain", &[&["--contact", ADA], day, &stricter].concat());
        assert!(told.contains("  2026-11-20  ") && told.contains(&world.source), "{told}");
        assert!(!told.contains("the queue holds it no more") && !told.contains("settled"), "{told}");
    }
    let text = words(&world, "forget", &[&["--contact", ADA][..], &stricter].concat());
    assert!(text.contains("1 entry") && text.contains("the visit of 2026-11-20"), "{text}");
}

#[test]
fn nothing_is_told_of_a_contact_while_a_resize_is_under_way() {
    let world = World::new();
    world.event(0, &visit(ADA, 20));
    world.run_until_caught_up(&[]);
    let begun = r#"{"version":1,"partitions":3,"resizing":{"found":3,"to":6}}"#;
    world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(begun.as_bytes()), &[]);
    world.flush();
    for command in ["forget", "explain"] {
        let output = world.command(&[command, "--contact", ADA], &[]).output().expect("it runs");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("finish it: nat-destination topics resize --partitions 6"), "{told}");
        assert!(!told.contains("forgotten"), "{told}");
    }
    let resize = ["topics", "resize", "--partitions", "6"];
    assert!(world.command(&resize, &[]).output().expect("it runs").status.success());
    assert!(words(&world, "forget", &["--contact", ADA]).contains("1 entry"));
    assert!(list(&known(&world, ADA)["delivered"]).is_empty());
}

#[test]
fn more_entries_than_the_client_holds_are_forgotten() {
    let world = World::new();
    (1..21).for_each(|day| world.event(0, &visit(ADA, day)));
    world.run_until_caught_up(&[]);
    let few = ["--set", "kafka.properties.queue.buffering.max.messages=5"];
    let told = words(&world, "forget", &[&["--contact", ADA][..], &few].concat());
    assert!(told.contains("20 entries"), "{told}");
    assert!(list(&known(&world, ADA)["delivered"]).is_empty());
}

#[test]
fn what_a_newer_version_wrote_is_told_as_passed_over() {
    let world = World::with(1, Behaviour::default());
    world.event(0, &visit(ADA, 20));
    world.run_until_caught_up(&["topics.partitions=1"]);
    let tell = |subcommand| words(&world, subcommand, &["--contact", ADA]);
    assert!(!tell("explain").contains("newer version's"));
    world.send(&world.topic("delivered"), Some(0), Some(&[7; 16]), Some(b"\xff of a newer version"), &[]);
    world.flush();
    assert_eq!(known(&world, ADA)["unreadable"], 1);
    for subcommand in ["explain", "forget"] {
        let told = tell(subcommand);
        assert!(told.contains("Passed over: 1 record of this partition") && told.contains("newer version's"), "{told}");
    }
}

#[test]
fn a_contacts_dead_letters_are_told_in_the_order_of_time() {
    let world = World::new();
    world.run_until_caught_up(&[]);
    let letters = [2, 0, 1];
    for partition in letters {
        world.send(&world.topic("dead-letter"), Some(partition), None, Some(visit(ADA, 20).as_bytes()), &[]);
        world.flush();
        let written = jiff::Timestamp::now().as_millisecond();
        world.wait("the next one is later", || jiff::Timestamp::now().as_millisecond() > written);
    }
    let told = known(&world, ADA);
    let places: Vec<_> = list(&told["dead_letters"]).iter().map(|letter| letter["place"].clone()).collect();
    assert_eq!(places, letters.map(|partition| Value::from(format!("{partition}:0"))));
}

/// The setting for a list of this world's own.
fn suppress(world: &World, text: &str) -> String {
    let path = world.path("suppressed");
    std::fs::write(&path, text).expect("written");
    format!("suppress.file={}", path.display())
}

#[test]
fn a_suppressed_contact_is_filtered_and_never_sent() {
    let world = World::new();
    let hash = binary().args(["explain", "--hash", "--contact", " ADA@example.com"]).output().expect("it runs").stdout;
    let hash = String::from_utf8(hash).expect("text");
    assert_eq!(hash.trim().len(), 32);
    let setting = suppress(&world, &format!("# asked on 2026-11-20\n{hash}\nBob@example.com\n"));
    for (partition, event) in [(0, visit(ADA, 20)), (1, visit(BOB, 20)), (2, visit("carol@example.com", 20))] {
        world.event(partition, &event);
    }
    world.event(0, r#"{"type":"identify","email":"ada@example.com"}"#);
    let instance = world.start(&[&setting]);
    instance.wait_until_settled(4);
    assert_eq!(instance.metric("nat_destination_events_total", &["filtered", "suppressed"]), 3.0);
    let keys: Vec<_> = world.read(&world.topic("queue")).into_iter().filter_map(|record| record.key).collect();
    assert_eq!(keys, [b"carol@example.com"], "nothing of them comes into the queue");
    assert!(world.dead_letters().is_empty());
    // What was in the queue already, or is put there by a redrive.
    world.send(&world.topic("queue"), Some(0), Some(ADA.as_bytes()), Some(visit(ADA, 21).as_bytes()), &[]);
    world.flush();
    instance.wait_until_settled(5);
    assert_eq!(instance.metric("nat_destination_events_total", &["filtered", "suppressed"]), 4.0);
    let sent: Vec<_> = world.stand_in.entries().into_iter().filter_map(|entry| entry.email).collect();
    assert_eq!(sent, ["carol@example.com"]);
    let path = world.path("event.json");
    std::fs::write(&path, visit(ADA, 20)).expect("written");
    let tested = binary().args(["explain", "--set", &setting]).arg(path).output().expect("it runs");
    assert!(String::from_utf8_lossy(&tested.stdout).contains("filtered (suppressed)"), "{tested:?}");
    let told = words(&world, "explain", &["--contact", ADA, "--set", &setting]);
    assert!(told.contains("\nsuppressed: its events are filtered"), "{told}");
}

#[test]
fn a_contact_added_to_the_list_while_it_waits_is_not_sent() {
    let world = World::with(1, Behaviour { status: Some(401), ..Behaviour::default() });
    let setting = suppress(&world, "# nobody yet\n");
    let instance = world.start(&[&setting, "circuit.max_probe_interval=200ms"]);
    for day in [20, 21] {
        world.event(0, &visit(ADA, day));
        world.event(0, &visit(BOB, day));
    }
    world.wait("they wait", || instance.metric("nat_destination_pending_events", &[]) == 4.0);
    suppress(&world, "# nobody yet\nada@example.com\n");
    world.wait("it is read again", || instance.log().contains("the suppression list has changed"));
    // Deliver takes it with its next tick, which comes before the third probe from now.
    let heard = || world.stand_in.entries().len();
    let before = heard();
    world.wait("probes go on", || heard() > before + 2);
    let from = heard();
    world.behave(Behaviour::default());
    instance.wait_until_settled(4);
    assert_eq!(instance.metric("nat_destination_events_total", &["filtered", "suppressed"]), 2.0);
    assert_eq!(world.accepted_days(), ["2026-11-20", "2026-11-21"].map(|day| (BOB.to_owned(), day.to_owned())));
    assert!(world.stand_in.entries()[from..].iter().all(|entry| entry.email.as_deref() == Some(BOB)), "not even tried");
    suppress(&world, "");
    world.wait("that nobody is on it is a warning", || {
        let log = instance.log();
        log.lines().any(|line| line.contains("WARN") && line.contains("the suppression list has become empty"))
    });
}

#[test]
fn a_wrong_list_at_the_start_names_the_line_and_a_later_one_keeps_the_old_list() {
    let world = World::new();
    let setting = suppress(&world, "ada@example.com\n\nbob.example.com\n");
    for command in [&["run", "--until-caught-up"][..], &["check", "--offline"]] {
        let output = world.command(command, &[&setting]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(told.contains("suppress.file") && told.contains("line 3"), "{told}");
        assert!(!told.contains("bob.example.com"), "the line may be an address: {told}");
    }
    let output = world.command(&["run"], &["suppress.file=/no/such/list"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && told.contains("suppress.file") && told.contains("No such file"),
        "{told}"
    );
    suppress(&world, "ada@example.com\n");
    let instance = world.start(&[&setting]);
    suppress(&world, "bob.example.com\n");
    world.wait("it warns", || instance.log().contains("the one that was stays in force"));
    assert!(instance.log().contains("line 1") && !instance.log().contains("bob.example.com"), "{}", instance.log());
    world.event(0, &visit(ADA, 20));
    world.event(1, &visit(BOB, 20));
    instance.wait_until_settled(2);
    assert_eq!(world.accepted_days(), [(BOB.to_owned(), "2026-11-20".to_owned())]);
}

#[test]
fn a_list_that_becomes_wrong_is_told_until_it_is_mended() {
    let world = World::new();
    let setting = suppress(&world, "ada@example.com\n");
    let instance = world.start(&[&setting]);
    instance.wait_until_ready();
    let told =
        || ["wrong", "contacts"].map(|what| instance.metric(&format!("nat_destination_suppress_file_{what}"), &[]));
    assert_eq!(told(), [0.0, 1.0]);
    suppress(&world, "ada@example.com\nbob.example.com\n");
    world.wait("the gauge tells", || told() == [1.0, 1.0]);
    assert_eq!(instance.get("/readyz").0, 200, "a restart would mend nothing");
    assert!(instance.get("/readyz").1.contains("suppress.file is wrong"), "{:?}", instance.get("/readyz"));
    let place = instance.admin();
    let status = || {
        let output = world.command(&["status", "--json", "--instance", &place], &[]).output().expect("it runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.code(), report["problems"].to_string())
    };
    let (code, problems) = status();
    assert!(code == Some(1) && problems.contains("suppress.file is wrong"), "{problems}");
    // The old list is in force.
    world.event(0, &visit(ADA, 20));
    world.event(1, &visit(BOB, 20));
    instance.wait_until_settled(2);
    assert_eq!(world.accepted_days(), [(BOB.to_owned(), "2026-11-20".to_owned())]);
    assert_eq!(instance.log().matches("the one that was stays in force").count(), 1, "it is said once");
    std::fs::remove_file(world.path("suppressed")).expect("removed");
    world.wait("that is another problem", || instance.log().contains("No such file"));
    assert_eq!(told(), [1.0, 1.0]);
    suppress(&world, "ada@example.com\nbob@example.com\n");
    world.wait("it is mended", || told() == [0.0, 2.0]);
    assert!(!status().1.contains("suppress.file") && !instance.get("/readyz").1.contains("suppress.file"));
}

#[test]
fn explain_and_forget_end_cleanly_on_ctrl_c_and_say_how_to_go_on() {
    let world = World::new();
    world.event(0, &visit(ADA, 20));
    world.run_until_caught_up(&[]);
    let (code, result, said) = world.interrupted(&["explain", "--contact", ADA], &SLOW_READER, "reading");
    assert_eq!((code, result.as_str()), (Some(130), ""));
    assert_eq!(said, "stopped before everything was read; nothing was changed");
    let (code, result, said) = world.interrupted(&["forget", "--contact", ADA], &SLOW_READER, "reading");
    assert_eq!((code, result.as_str()), (Some(130), ""));
    assert_eq!(said, "stopped before everything was read; nothing was changed");
    // All is read, and the tombstones wait to be written.
    let (code, result, said) =
        world.interrupted(&["forget", "--contact", ADA], &["kafka.properties.linger.ms=25000"], "forgetting");
    assert_eq!((code, result.as_str()), (Some(130), ""));
    assert!(said.contains("run it again to forget all"), "{said}");
    assert!(world.read(&world.topic("delivered")).iter().all(|record| record.value.is_some()), "none was written");
    assert!(words(&world, "forget", &["--contact", ADA]).contains("1 entry"), "run again, it is done");
    assert!(list(&known(&world, ADA)["delivered"]).is_empty());
}

#[test]
fn nothing_that_explain_prints_holds_an_event_body() {
    let world = World::with(3, Behaviour { reject_emails: vec!["eve@example.com".into()], ..Behaviour::default() });
    let event = |email: &str, day: u32| {
        format!(
            r#"{{"type":"identify","timestamp":"2026-11-{day}T08:00:00Z","userId":"zebra","messageId":"zebra","event":"zebra","traits":{{"email":"{email}","name":"zebra"}},"page":{{"url":"https://zebra.example"}}}}"#
        )
    };
    world.produce(0, Some(b"zebra"), Some(event(ADA, 20).as_bytes()), &[("zebra", Some(b"zebra"))]);
    world.produce(1, Some(b"zebra"), Some(event("eve@example.com", 20).as_bytes()), &[]);
    world.run_until_caught_up(&[]);
    // They wait: nobody runs.
    for email in [ADA, "eve@example.com"] {
        world.send(&world.topic("queue"), None, Some(email.as_bytes()), Some(event(email, 21).as_bytes()), &[]);
    }
    world.flush();
    for (email, known) in [(ADA, "2026-11-20"), ("eve@example.com", "rejected")] {
        for format in [&["--contact", email][..], &["--contact", email, "--json"]] {
            let output = tool(&world, "explain", format);
            let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(told.contains(known), "{told}");
            assert!(!told.contains("zebra") && !told.contains("@example"), "{told}");
        }
    }
}
