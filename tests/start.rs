//! What is wrong at the start is a clear error that names the setting and what to do, exit code 1, within seconds.

use std::net::TcpListener;
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::kafka::{Kafka, Options, tool};
use super::support::world::{binary, identify};

/// Ends by itself with exit code 1 and says all of this.
fn fails(command: std::process::Command, parts: &[&str]) {
    let (status, told) = output_within(command, Duration::from_secs(60));
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{parts:?} in:\n{told}");
    for part in parts {
        assert!(told.contains(part), "{part:?} in:\n{told}");
    }
}

/// `None`: it had to be killed.
fn output_within(mut command: std::process::Command, patience: Duration) -> (Option<ExitStatus>, String) {
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("output-{:016x}", fastrand::u64(..)));
    let file = std::fs::File::create(&path).expect("created");
    command.stdout(file.try_clone().expect("cloned")).stderr(file);
    let mut child = command.spawn().expect("it runs");
    let deadline = Instant::now() + patience;
    let status = loop {
        match child.try_wait().expect("its state") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                child.kill().expect("killed");
                child.wait().expect("gone");
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let told = std::fs::read_to_string(&path).expect("text");
    std::fs::remove_file(&path).expect("removed");
    (status, told)
}

#[test]
fn a_start_without_trouble_warns_of_nothing() {
    let world = World::new();
    let instance = world.start(&[]);
    world.visits(0..10);
    instance.wait_until_settled(10);
    instance.wait_until_ready();
    assert!(instance.get("/readyz").1.starts_with("ready"), "{}", instance.get("/readyz").1);
    let (status, log) = instance.stop();
    assert!(status.success());
    // The broker, which all tests share and which has just been started, may be slow to answer; librdkafka tells that.
    let ours = log.lines().filter(|line| !line.contains("librdkafka"));
    let warnings: Vec<_> = ours.filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}

#[test]
fn an_unreachable_broker_is_named() {
    let world = World::new();
    let set = ["kafka.brokers=127.0.0.1:1", "kafka.timeout=2s"];
    fails(
        world.command(&["run"], &set),
        &["kafka.brokers = \"127.0.0.1:1\"", "Connection refused", "Is the address right"],
    );
    fails(world.command(&["check"], &set), &["PROBLEM  brokers: kafka.brokers", "Connection refused"]);
}

#[test]
fn a_missing_source_topic_is_named() {
    let world = World::new();
    fails(
        world.command(&["run"], &["source.topics=no-such-topic"]),
        &["source.topics = \"no-such-topic\"", "there is no such topic"],
    );
    fails(
        world.command(&["run"], &["source.topics=^no-such-.*"]),
        &["source.topics = \"^no-such-.*\"", "no topic matches"],
    );
}

#[test]
fn own_topics_that_are_missing_are_an_error_where_they_may_not_be_created() {
    let world = World::new();
    fails(world.command(&["run"], &["topics.create=false"]), &[&world.topic("queue"), "nat-destination topics create"]);
}

#[test]
fn queue_and_delivered_have_to_have_as_many_partitions() {
    let world = World::new();
    world.create_topic(&world.topic("queue"), 4, &[]);
    world.create_topic(&world.topic("delivered"), 2, &[]);
    let parts = [world.topic("delivered"), "it has 2 partitions, but".into(), "has 4".into()];
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    fails(world.command(&["run"], &[]), &parts);
    fails(world.command(&["topics", "create"], &[]), &parts);
    fails(world.command(&["check"], &[]), &parts);
}

#[test]
fn a_changelog_that_forgets_too_soon_is_an_error() {
    let world = World::new();
    world.create_topic(&world.topic("queue"), 3, &[]);
    world.create_topic(
        &world.topic("delivered"),
        3,
        &[("cleanup.policy", "compact,delete"), ("retention.ms", "3600000")],
    );
    fails(world.command(&["run"], &[]), &["retention.ms = 3600000", "dedup.retention", "kafka-configs.sh"]);
}

#[test]
fn a_queue_that_keeps_too_short_is_told_and_what_is_compacted_is_an_error() {
    let world = World::new();
    world.create_topic(&world.topic("queue"), 3, &[("retention.ms", "3600000")]);
    world.create_topic(&world.topic("dead-letter"), 3, &[("retention.ms", "-1")]);
    let told = "retention.ms = 3600000 is shorter than topics.queue_retention";
    let instance = world.start(&[]);
    instance.wait_until_ready();
    assert!(instance.log().contains(told) && !instance.log().contains("dead_letter_retention"), "{}", instance.log());
    assert!(instance.stop().0.success());
    fails(world.command(&["topics", "verify"], &[]), &[told, "kafka-configs.sh"]);
    fails(world.command(&["check"], &[]), &[told]);
    let as_it_is = world.command(&["topics", "verify"], &["topics.queue_retention=1h"]).status().expect("it runs");
    assert!(as_it_is.success());
    let world = World::new();
    world.create_topic(&world.topic("dead-letter"), 3, &[("cleanup.policy", "compact")]);
    let parts = [&*world.topic("dead-letter"), "cleanup.policy = compact would", "cleanup.policy=delete"];
    fails(world.command(&["run"], &[]), &parts);
}

#[test]
fn a_key_file_that_is_not_right_is_named() {
    let world = World::new();
    std::fs::remove_file(world.key_file()).expect("removed");
    fails(world.command(&["run"], &[]), &["nat.api_key_file: ", "cannot be read", "write Nat.app's API key into it"]);
    std::fs::write(world.key_file(), "\n").expect("written");
    fails(world.command(&["run"], &[]), &["nat.api_key_file: ", "is empty"]);
    std::fs::write(world.key_file(), "key\nanother\n").expect("written");
    fails(world.command(&["run"], &[]), &["nat.api_key_file: ", "more than one line"]);
    fails(world.command(&["check", "--offline"], &[]), &["PROBLEM  API key: nat.api_key_file: ", "more than one line"]);
}

#[test]
fn every_problem_of_the_settings_is_told_at_once() {
    let world = World::new();
    let set = ["nat.url=nat.example/x", "retry.max_elapsed=soon", "deliver.concurency=3"];
    let parts = [
        "3 problems",
        "nat.url = \"nat.example/x\"",
        "retry.max_elapsed = \"soon\"",
        "did you mean deliver.concurrency?",
    ];
    fails(world.command(&["run"], &set), &parts);
    fails(world.command(&["check", "--offline"], &set), &parts);
}

#[test]
fn a_taken_admin_port_is_named() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    fails(
        world.command(&["run"], &[&format!("admin.listen={address}")]),
        &["admin.listen", &address, "choose a free port"],
    );
}

#[test]
fn a_property_that_is_none_or_not_to_be_set_is_named() {
    let world = World::new();
    fails(world.command(&["run"], &["kafka.properties.no.such=1"]), &["kafka.properties", "no.such"]);
    fails(world.command(&["run"], &["kafka.properties.acks=0"]), &["kafka.properties.acks", "remove it"]);
}

#[test]
fn the_command_line_the_environment_and_the_file_go_in_that_order() {
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("order-{}.toml", std::process::id()));
    std::fs::write(&path, "engage = \"skip\"\n[nat]\ntimeout = \"1s\"\nurl = \"http://file\"\napi_key = \"s3cret\"\n[kafka]\nbrokers = [\"a:1\", \"b:2\"]\n").expect("written");
    let mut command = binary();
    command.args(["run", "--print-config", "--set", "nat.timeout=3s", "--config"]).arg(&path);
    let output = command
        .env("NAT_DESTINATION_NAT_TIMEOUT", "2s")
        .env("NAT_DESTINATION_NAT_URL", "http://environment")
        .output()
        .expect("it runs");
    std::fs::remove_file(&path).expect("removed");
    let told = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "nat.timeout = \"3s\"  # --set",
        "nat.url = \"http://environment\"  # $NAT_DESTINATION_NAT_URL",
        "nat.api_key = (secret)",
        "source.start = \"earliest\"  # default",
    ] {
        assert!(told.contains(line), "{line} in:\n{told}");
    }
    assert!(told.contains(&format!("engage = \"skip\"  # {}", path.display())) && !told.contains("s3cret"), "{told}");
}

#[test]
fn check_says_that_all_is_right() {
    let world = World::new();
    let check = |world: &World| -> Output { world.command(&["check"], &[]).output().expect("it runs") };
    let before = String::from_utf8(check(&world).stdout).expect("text");
    assert!(before.contains("is missing and will be created at the first start"), "{before}");
    let created = world.command(&["topics", "create"], &[]).output().expect("it runs");
    assert!(created.status.success());
    assert_eq!(String::from_utf8(created.stdout).expect("text").matches("created").count(), 4);
    let again = world.command(&["topics", "create"], &[]).output().expect("it runs");
    assert_eq!(String::from_utf8(again.stdout).expect("text").matches("verified").count(), 4);
    let after = check(&world);
    assert_eq!(after.status.code(), Some(0));
    assert_eq!(String::from_utf8(after.stdout).expect("text").matches("\nok ").count(), 4);
}

#[test]
fn the_topics_are_created_as_the_design_says() {
    let world = World::new();
    world.run_until_caught_up(&["topics.partitions=5", "dedup.retention=3d"]);
    let described = |name: &str| {
        let output =
            tool(&world.brokers, super::support::kafka::TOPICS, &["--describe", "--topic", &world.topic(name)]);
        String::from_utf8(output.stdout).expect("text")
    };
    let (queue, delivered, dead_letter) = (described("queue"), described("delivered"), described("dead-letter"));
    let layout = described("layout");
    for (topic, parts) in [
        (&queue, ["PartitionCount: 5", "cleanup.policy=delete", "retention.ms=604800000"]),
        (&delivered, ["PartitionCount: 5", "cleanup.policy=compact,delete", "retention.ms=259200000"]),
        (&dead_letter, ["PartitionCount: 5", "cleanup.policy=delete", "retention.ms=2592000000"]),
        (&layout, ["PartitionCount: 1", "cleanup.policy=compact", "Replicas: "]),
    ] {
        assert!(parts.iter().all(|part| topic.contains(part)), "{parts:?} in {topic}");
    }
}

/// A broker that wants credentials and ACLs: not the shared one.
const SECURED: &[(&str, &str)] = &[
    ("listener.security.protocol.map", "PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("sasl.enabled.mechanisms", "PLAIN"),
    ("sasl.mechanism.inter.broker.protocol", "PLAIN"),
    (
        "listener.name.plaintext.plain.sasl.jaas.config",
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"admin\" \
         user_admin=\"admin\" user_nat=\"right\";",
    ),
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("super.users", "User:admin;User:ANONYMOUS"),
];

#[test]
fn refused_credentials_and_refused_topics_are_named() {
    let kafka = Kafka::start(Options { properties: SECURED, ..Options::default() });
    let run = |subcommand: &str, user: &str, password: &str| {
        let mut command = binary();
        command.arg(subcommand);
        for setting in [
            format!("kafka.brokers={}", kafka.brokers()),
            "kafka.timeout=10s".into(),
            "kafka.properties.security.protocol=SASL_PLAINTEXT".into(),
            "kafka.properties.sasl.mechanism=PLAIN".into(),
            format!("kafka.properties.sasl.username={user}"),
            format!("kafka.properties.sasl.password={password}"),
            "nat.url=http://127.0.0.1:1/".into(),
            "nat.api_key=k".into(),
            "admin.listen=127.0.0.1:0".into(),
        ] {
            command.args(["--set", &setting]);
        }
        command
    };
    fails(run("run", "nat", "wrong"), &["kafka.properties.sasl.*", "refused the credentials"]);
    fails(run("check", "nat", "wrong"), &["PROBLEM  brokers: kafka.properties.sasl.*"]);
    // Without an ACL a topic that is not there and one that may not be seen look alike.
    fails(run("run", "nat", "right"), &["segment-events", "ACL"]);
    let created = run("generate", "admin", "admin").args(["--count", "10"]).output().expect("it runs");
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    fails(run("run", "nat", "right"), &["segment-events", "ask for an ACL"]);
}

fn acl(kafka: &Kafka, arguments: &[&str]) {
    let output = tool(kafka.brokers(), "org.apache.kafka.tools.AclCommand", &[arguments, &["--force"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whoever is denied something finds out at the start or with the first record, and is told what to ask for.
#[test]
fn an_acl_that_is_missing_ends_the_service_and_is_named() {
    const AUTHORIZER: &str = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
    let properties = &[("authorizer.class.name", AUTHORIZER), ("allow.everyone.if.no.acl.found", "true")];
    let kafka = Kafka::start(Options { properties, ..Options::default() });
    let world = World::on(kafka.brokers(), 1, Behaviour::default());
    for number in 0..20 {
        world.event(0, &identify(&format!("before{number}@example.com"), "2026-11-20T08:00:00Z", "m"));
    }
    world.run_until_caught_up(&[]);
    let (queue, delivered, dead_letter) = (world.topic("queue"), world.topic("delivered"), world.topic("dead-letter"));
    let layout = world.topic("layout");
    let (ingest, deliver) = (world.topic("ingest"), world.topic("deliver"));
    let cases = [
        ("--topic", &world.source, "Describe", [world.source.as_str(), "ask for an ACL"]),
        ("--topic", &world.source, "Read", ["read the topic", "ACL READ"]),
        ("--topic", &queue, "Write", [queue.as_str(), "cannot be written"]),
        ("--topic", &queue, "Read", ["read the topic", "ACL READ"]),
        ("--topic", &delivered, "Read", ["restoring the delivered set", "Topic authorization failed"]),
        ("--topic", &delivered, "Write", [delivered.as_str(), "cannot be written"]),
        ("--topic", &dead_letter, "Write", [dead_letter.as_str(), "cannot be written"]),
        ("--topic", &layout, "Describe", [layout.as_str(), "ask for an ACL: DESCRIBE on topic"]),
        ("--topic", &layout, "Read", [layout.as_str(), "ask for an ACL: READ on topic"]),
        ("--group", &ingest, "Read", ["join its group", "ACL READ"]),
        ("--group", &deliver, "Read", ["join its group", "ACL READ"]),
    ];
    for (number, (kind, name, operation, parts)) in cases.into_iter().enumerate() {
        world.event(0, &identify(&format!("p{number}@example.com"), "2026-11-20T08:00:00Z", "m"));
        world.event(0, "not json");
        let acl = |change: &str, principal: &str, operation: &str| {
            acl(&kafka, &[change, principal, "User:ANONYMOUS", "--operation", operation, kind, name]);
        };
        // Whatever has one ACL is closed to all that it does not name.
        acl("--add", "--allow-principal", "All");
        acl("--add", "--deny-principal", operation);
        fails(world.command(&["run"], &[]), &parts);
        acl("--remove", "--deny-principal", operation);
    }
    // What a resize needs more, it finds out before it changes anything.
    for (topic, operation, told) in [(&delivered, "Alter", "ALTER on topic"), (&layout, "Write", "WRITE on topic")] {
        let denied = ["--deny-principal", "User:ANONYMOUS", "--operation", operation, "--topic", topic.as_str()];
        acl(&kafka, &[&["--add"][..], &denied].concat());
        fails(world.command(&["topics", "resize", "--partitions", "9"], &[]), &[topic, "ask for an ACL", told]);
        acl(&kafka, &[&["--remove"][..], &denied].concat());
    }
    // Of a bookmark that cannot be deleted a replay tells when it is done.
    let replay = || world.command(&["replay", "--from", "2026-01-01", "--allow-redelivery"], &[]);
    let bookmarks = format!("{}.replay.", world.prefix);
    let allow = |operation: &str| {
        let on = ["--operation", operation, "--group", &bookmarks, "--resource-pattern-type", "prefixed"];
        acl(&kafka, &[&["--add", "--allow-principal", "User:ANONYMOUS"][..], &on].concat());
    };
    allow("Read");
    fails(replay(), &["put into the queue", &bookmarks, "ask for the ACL DELETE on that group"]);
    allow("Delete");
    assert!(replay().output().expect("it runs").status.success());
    // Nothing was lost by any of it.
    world.run_until_caught_up(&[]);
    let mut contacts = world.accepted_days();
    contacts.dedup();
    assert_eq!(contacts.len(), 20 + 11);
}
