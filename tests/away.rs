//! Brokers that are away: a tool waits for those that it needs, does not notice the others, and can be stopped meanwhile.

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::Duration;

use nat_destination::kafka::partition_of;
use nat_destination::sandbox::stand_in::Behaviour;
use serde_json::Value;

use super::letters::{lines, succeeded, told};
use super::support::World;
use super::support::kafka::{Kafka, Options};
use super::support::world::{binary, identify, interrupt};

const SETTINGS: [&str; 2] = ["topics.partitions=2", "circuit.rejections=0"];

/// The second partition of each topic that a tool reads or writes is on the third broker alone, but that of the dead letters
/// where they are said to be elsewhere. Forty contacts have come by, all delivered but those that Nat.app rejects.
fn cluster(letters: &[i32], reject: f64) -> (Kafka, World) {
    let kafka = Kafka::start(Options { nodes: 3, ..Options::default() });
    let mut world = World::on(kafka.brokers(), 1, Behaviour { reject, ..Behaviour::default() });
    (world.source, world.partitions) = (format!("{}-halves", world.prefix), 2);
    let compacted = [("cleanup.policy", "compact,delete"), ("retention.ms", "-1")];
    world.create_topic_on(&world.source, &[1, 3], &[]);
    world.create_topic_on(&world.topic("queue"), &[1, 3], &[]);
    world.create_topic_on(&world.topic("delivered"), &[1, 3], &compacted);
    world.create_topic_on(&world.topic("dead-letter"), letters, &[]);
    world.visits(0..40);
    world.run_until_caught_up(&SETTINGS);
    (kafka, world)
}

fn email_of(partition: i32) -> String {
    let mut emails = (0..40).map(|number| format!("p{number}@example.com"));
    emails.find(|email| partition_of(email.as_bytes(), 2) == partition).expect("some of forty")
}

#[test]
fn a_contact_is_explained_while_the_brokers_of_all_other_partitions_are_away() {
    let (mut kafka, world) = cluster(&[1], 0.0);
    kafka.kill(3);
    let explain = |email: &str, set: &[&str]| {
        let set = [&SETTINGS[..], set].concat();
        world.command(&["explain", "--json", "--contact", email], &set).output().expect("it runs")
    };
    let known: Value = serde_json::from_str(&succeeded(explain(&email_of(0), &[]))).expect("JSON");
    assert_eq!((&known["partition"], known["delivered"].as_array().map(Vec::len)), (&0.into(), Some(1)), "{known}");
    // The others have to notice first that it is gone; before that it is the broker that does not answer.
    let mut answer = (None, String::new());
    world.wait("the partition is named", || {
        answer = told(&explain(&email_of(1), &["kafka.timeout=1s"]));
        answer.1.contains("partition 1") && answer.1.contains("no leader")
    });
    assert_eq!(answer.0, Some(1), "{}", answer.1);
    kafka.restart(3);
    let known: Value = serde_json::from_str(&succeeded(explain(&email_of(1), &[]))).expect("JSON");
    assert_eq!((&known["partition"], known["delivered"].as_array().map(Vec::len)), (&1.into(), Some(1)), "{known}");
}

#[test]
fn status_tells_which_partitions_have_no_leader_and_the_lag_of_the_others() {
    let (mut kafka, world) = cluster(&[1], 0.0);
    kafka.kill(3);
    world.send(&world.source, Some(0), None, Some(b"{}"), &[]);
    world.flush();
    let status = || {
        let output = world.command(&["status", "--json"], &SETTINGS).output().expect("it runs");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let mut told = Value::Null;
    let topics = [world.source.clone(), world.topic("queue")];
    // The others have to notice first, of one topic after the other.
    world.wait("both are told", || {
        told = status();
        let problems = told["problems"].to_string();
        topics.iter().all(|topic| problems.contains(&format!("partition 1 of {topic} has no leader")))
    });
    let events = |of: &str| [0, 1].map(|partition| told[of][partition]["events"].as_u64());
    assert_eq!((events("source"), events("queue")), ([Some(1), None], [Some(0), None]), "{told}");
    kafka.restart(3);
    world.wait("it has one again", || !status()["problems"].to_string().contains("has no leader"));
}

#[test]
fn the_tools_wait_for_a_partition_whose_broker_comes_back() {
    let (mut kafka, world) = cluster(&[1, 3], 1.0);
    world.behave(Behaviour::default());
    kafka.kill(3);
    let start = |tool: &[&str]| -> Child {
        let mut command = world.command(tool, &[&SETTINGS[..], &["kafka.timeout=20s"]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let file = world.path("letters.jsonl");
    let tools = [
        &["dead-letters", "list"][..],
        &["dead-letters", "stats", "--json"],
        &["dead-letters", "export", file.to_str().expect("text")],
        &["explain", "--json", "--contact", &email_of(1)],
        &["replay", "--from", "1h", "--dry-run", "--json"],
        &["dead-letters", "redrive", "--json"],
    ];
    let children: Vec<Child> = tools.iter().map(|tool| start(tool)).collect();
    std::thread::sleep(Duration::from_secs(22)); // More than kafka.timeout, and far less than three times that.
    kafka.restart(3);
    let results = children.into_iter().map(|child| succeeded(child.wait_with_output().expect("it ends")));
    let [list, stats, _, explain, replay, redrive] = results.collect::<Vec<_>>().try_into().expect("six");
    let json = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
    assert_eq!(list.lines().count(), 40);
    assert_eq!(json(&stats)["letters"], 40);
    assert_eq!(std::fs::read_to_string(&file).expect("written").lines().count(), 40);
    assert_eq!(json(&explain)["dead_letters"].as_array().map(Vec::len), Some(1));
    assert_eq!(json(&replay)["records"], 40, "{replay}");
    assert_eq!(json(&redrive)["letters"], 40);
    world.run_until_caught_up(&SETTINGS);
    assert_eq!(world.accepted_days().len(), 40);
}

#[test]
fn a_reader_whose_broker_goes_in_the_middle_goes_on_when_it_is_back() {
    let (mut kafka, world) = cluster(&[3], 0.0);
    let event = identify("ada@example.com", "2026-11-20T08:00:00Z", "m");
    for _ in 0..30 {
        world.send(&world.topic("dead-letter"), Some(0), None, Some(event.as_bytes()), &[]);
        world.flush();
    }
    // One batch a fetch, for which the broker takes a fifth of a second.
    let slow = [
        "kafka.properties.fetch.min.bytes=1000000",
        "kafka.properties.fetch.message.max.bytes=1",
        "kafka.properties.fetch.wait.max.ms=200",
        "kafka.timeout=30s", // A broker takes its time to come back on a busy machine.
    ];
    let mut command = world.command(&["dead-letters", "export", "-"], &[&SETTINGS[..], &slow].concat());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    std::thread::sleep(Duration::from_secs(4));
    kafka.kill(3);
    std::thread::sleep(Duration::from_secs(6)); // The others know by then that it is gone.
    kafka.restart(3);
    let exported = succeeded(child.wait_with_output().expect("it ends"));
    let places: Vec<Value> =
        exported.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["place"].clone()).collect();
    assert_eq!(places, (0..30).map(|offset| Value::from(format!("0:{offset}"))).collect::<Vec<_>>());
    assert_eq!(lines(&world, &["list"]).len(), 30);
}

#[test]
fn every_tool_that_waits_for_the_brokers_ends_cleanly_on_ctrl_c() {
    // It takes connections, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let brokers = format!("kafka.brokers={}", mute.local_addr().expect("its address"));
    let file =
        std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("mute-{:016x}.jsonl", fastrand::u64(..)));
    std::fs::write(&file, "{}\n").expect("written");
    let path = file.to_str().expect("text");
    let export = format!("{path}.letters");
    let untouched = "stopped before everything was read; nothing was changed";
    let tools: [(&[&str], &str); 18] = [
        (&["dead-letters", "stats"], untouched),
        (&["dead-letters", "list"], untouched),
        (&["dead-letters", "show", "0:0"], untouched),
        (&["dead-letters", "export", &export], untouched),
        (&["dead-letters", "redrive"], untouched),
        (&["dead-letters", "redrive", "--dry-run"], untouched),
        (&["replay", "--from", "1d"], untouched),
        (&["replay", "--from", "1d", "--dry-run"], untouched),
        (&["backfill", path], untouched),
        (&["explain", "--contact", "ada@example.com"], untouched),
        (&["forget", "--contact", "ada@example.com"], untouched),
        (&["topics", "verify"], untouched),
        (&["topics", "describe"], untouched),
        (&["topics", "create"], "topics may have been created or not; run the same command again"),
        (&["topics", "resize", "--partitions", "12"], untouched),
        (&["check"], untouched),
        (&["status"], untouched),
        (&["generate"], untouched),
    ];
    let settings =
        [&brokers, "kafka.timeout=2m", "nat.url=http://127.0.0.1:9/s", "nat.api_key=k", "source.topics=events"];
    let start = |tool: &[&str]| {
        let mut command = binary();
        command.args(tool);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let started: Vec<Child> = tools.iter().map(|(tool, _)| start(tool)).collect();
    started.iter().for_each(interrupt);
    for ((tool, says), child) in tools.iter().zip(started) {
        let (code, said) = told(&child.wait_with_output().expect("it ends"));
        assert!(code == Some(130) && said.contains(says), "{tool:?} ended with {code:?}: {said}");
    }
    std::fs::remove_file(&file).expect("removed");
    assert!(!std::path::Path::new(&export).exists());
}

#[test]
fn a_set_that_no_instance_answers_ends_cleanly_on_ctrl_c() {
    // It waits three seconds for each of them.
    let mute = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let mut command = binary();
    command.args(["set", "log.level=debug"]);
    for listener in &mute {
        command.args(["--instance", &listener.local_addr().expect("its address").to_string()]);
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    interrupt(&child);
    let (code, said) = told(&child.wait_with_output().expect("it ends"));
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("may have changed, and those behind it have not"), "{said}");
}
