//! That the broker the other tests stand on is what they take it for.

use super::{GROUPS, Kafka, Options, TOPICS, brokers, tool};

/// What a tool said, with its errors where it failed.
fn say(brokers: &str, class: &str, args: &[&str]) -> String {
    let output = tool(brokers, class, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{class} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_shared_broker_answers_kafkas_own_tools() {
    let topic = format!("support-{}", std::process::id());
    say(brokers(), TOPICS, &["--create", "--topic", &topic, "--partitions", "3"]);
    let described = say(brokers(), TOPICS, &["--describe", "--topic", &topic]);
    assert!(described.contains("PartitionCount: 3"), "{described}");
    say(brokers(), GROUPS, &["--list"]);
    say(brokers(), TOPICS, &["--delete", "--topic", &topic]);
}

#[test]
fn a_killed_broker_comes_back_with_its_topics_and_leaves_nothing_when_stopped() {
    let mut kafka = Kafka::start(Options { properties: &[("num.partitions", "7")], ..Options::default() });
    let brokers = kafka.brokers().to_owned();
    let directory = kafka.nodes[0].directory.clone();
    say(&brokers, TOPICS, &["--create", "--topic", "kept"]);

    kafka.kill(1);
    assert!(std::net::TcpStream::connect(&brokers).is_err(), "it still listens");
    kafka.restart(1);
    assert!(say(&brokers, TOPICS, &["--describe", "--topic", "kept"]).contains("PartitionCount: 7"));

    kafka.stop();
    assert!(std::net::TcpStream::connect(&brokers).is_err(), "it still listens");
    assert!(!directory.exists(), "its data are still there");
}

#[test]
fn a_cluster_of_three_lives_on_without_one() {
    let mut kafka = Kafka::start(Options { nodes: 3, ..Options::default() });
    say(kafka.brokers(), TOPICS, &["--create", "--topic", "kept", "--partitions", "6"]);
    let described = say(kafka.brokers(), TOPICS, &["--describe", "--topic", "kept"]);
    assert!(described.contains("ReplicationFactor: 3"), "{described}");

    kafka.kill(2);
    say(kafka.brokers(), TOPICS, &["--create", "--topic", "made-by-two", "--replication-factor", "2"]);
    kafka.restart(2);
    assert!(say(kafka.brokers(), TOPICS, &["--list"]).contains("made-by-two"));
}
