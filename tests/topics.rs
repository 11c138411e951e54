//! Our own topics as others have changed them: whoever adds partitions by hand is told, and what is deleted is made anew; verify and
//! describe.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use super::resize::{add_by_hand, refused, resize, resized, text};
use super::support::World;

fn delete(world: &World, topics: &[&str]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &world.brokers).create().expect("an admin client");
    let deleted = world.runtime.block_on(admin.delete_topics(topics, &AdminOptions::new())).expect("an answer");
    deleted.into_iter().for_each(|deleted| drop(deleted.expect("deleted")));
    world.wait("it is gone", || {
        let told = text(&world.command(&["topics", "verify"], &[]).output().expect("it runs"));
        topics.iter().all(|topic| told.contains(&format!("topic {topic:?}: it is missing")))
    });
}

#[test]
fn partitions_added_by_hand_are_refused_with_the_way_out() {
    let world = World::new();
    world.visits(0..100);
    world.run_until_caught_up(&[]);
    let queue = world.topic("queue");
    add_by_hand(&world, &queue, 5);
    let way_out = "nat-destination topics resize --partitions 5";
    let parts = [queue.as_str(), "it has 5 partitions, but was made with 3", way_out];
    for command in [&["run"][..], &["check"], &["topics", "verify"], &["topics", "create"], &["status"]] {
        refused(&world.command(command, &[]).output().expect("it runs"), &parts);
    }
    refused(&resize(&world, "4", &[]), &["--partitions 4", "a topic has 5 already"]);
    resized(&world, "5");
    world.visits(0..150);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 150);
    assert_eq!(world.accepted_days().len(), 150);
    // `delivered` alone, too.
    add_by_hand(&world, &world.topic("delivered"), 6);
    refused(&world.command(&["run"], &[]).output().expect("it runs"), &["topics resize --partitions 6"]);
    resized(&world, "6");
    world.visits(100..160);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 160);
}

#[test]
fn a_queue_that_was_deleted_is_made_anew_as_its_history_is_keyed() {
    let world = World::new();
    world.visits(0..30);
    world.run_until_caught_up(&[]);
    let (queue, delivered) = (world.topic("queue"), world.topic("delivered"));
    let created = || text(&world.command(&["topics", "create"], &["topics.partitions=5"]).output().expect("it runs"));
    delete(&world, &[&queue]);
    let told = created();
    assert!(told.contains(&format!("created  {queue} (3 partitions)")), "{told}");
    world.visits(0..40);
    world.run_until_caught_up(&["topics.partitions=5"]);
    assert_eq!(world.stand_in.requests(), 40, "what was delivered before is known");
    // Both made anew have no history, and are as the setting says.
    delete(&world, &[&queue, &delivered]);
    let told = created();
    assert!(told.contains(&format!("created  {queue} (5 partitions)")), "{told}");
}

#[test]
fn without_a_layout_a_resize_goes_by_the_smaller_topic_and_nothing_is_sent_twice() {
    let world = World::new();
    world.visits(0..60);
    world.run_until_caught_up(&[]);
    add_by_hand(&world, &world.topic("queue"), 5);
    delete(&world, &[&world.topic("layout")]);
    assert!(resized(&world, "5").contains("from 3 to 5 partitions"));
    world.visits(0..80);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 80);
}

#[test]
fn a_delivered_topic_that_was_deleted_is_told_when_it_is_made_anew() {
    let world = World::new();
    world.visits(0..10);
    world.run_until_caught_up(&[]);
    let told = |world: &World| text(&world.command(&["run", "--until-caught-up"], &[]).output().expect("it runs"));
    let warning = "what had been delivered is not remembered";
    assert!(!told(&world).contains(warning), "it is there");
    delete(&world, &[&world.topic("delivered")]);
    assert!(told(&world).contains(warning));
}

#[test]
fn a_running_service_ends_when_partitions_are_added() {
    let world = World::new();
    let mut instance = world.start(&[]);
    world.visits(0..20);
    instance.wait_until_settled(20);
    add_by_hand(&world, &world.topic("queue"), 6);
    assert_eq!(instance.wait().code(), Some(1));
    let log = instance.log();
    assert!(log.contains("it has 6 partitions, but was made with 3"), "{log}");
    assert!(log.contains("topics resize --partitions 6"), "{log}");
    resized(&world, "6");
    world.visits(0..30);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 30);
}

#[test]
fn a_layout_of_a_newer_version_is_an_error() {
    let world = World::new();
    world.run_until_caught_up(&[]);
    world.send(&world.topic("layout"), Some(0), Some(b"layout"), Some(br#"{"version":9,"rings":2}"#), &[]);
    world.flush();
    refused(
        &world.command(&["run"], &[]).output().expect("it runs"),
        &[&world.topic("layout"), "not written by this version"],
    );
}

#[test]
fn verify_tells_every_problem_at_once() {
    let world = World::new();
    let missing = text(&world.command(&["topics", "verify"], &[]).output().expect("it runs"));
    assert_eq!(missing.matches("PROBLEM").count(), 4, "{missing}");
    world.create_topic(&world.topic("queue"), 4, &[("cleanup.policy", "compact,delete"), ("retention.ms", "7200000")]);
    world.create_topic(
        &world.topic("delivered"),
        2,
        &[("cleanup.policy", "compact,delete"), ("retention.ms", "3600000")],
    );
    world.create_topic(&world.topic("layout"), 1, &[("cleanup.policy", "delete")]);
    let verified = world.command(&["topics", "verify"], &[]).output().expect("it runs");
    refused(
        &verified,
        &[
            "it is missing; create it with",
            "it has 2 partitions, but",
            "retention.ms = 3600000",
            "cleanup.policy = delete",
            "cleanup.policy = compact,delete",
            "--add-config cleanup.policy=delete",
            "retention.ms = 7200000 is shorter than topics.queue_retention (604800000 ms)",
            "--add-config retention.ms=604800000",
        ],
    );
}

#[test]
fn describe_tells_what_each_topic_holds_and_who_reads_it() {
    let world = World::new();
    world.visits(0..30);
    let instance = world.start(&[]);
    instance.wait_until_settled(30);
    let committed = || {
        let output = world.command(&["topics", "describe", "--json"], &[]).output().expect("it runs");
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    world.wait("its offsets are committed", || committed()[1]["read_by"][0]["lag"] == 0);
    let described = committed();
    let of = |topic: &str| {
        let topics = described.as_array().expect("a list");
        topics.iter().find(|described| described["topic"] == topic).expect("described").clone()
    };
    let queue = of(&world.topic("queue"));
    assert_eq!((&queue["partitions"], &queue["records"]), (&3.into(), &30.into()), "{queue}");
    assert_eq!((&queue["cleanup_policy"], &queue["retention_ms"]), (&"delete".into(), &604_800_000.into()));
    assert_eq!(queue["read_by"][0]["group"], world.topic("deliver"));
    assert_eq!(queue["read_by"][0]["members"].as_array().map(Vec::len), Some(1), "{queue}");
    assert_eq!((&of(&world.topic("layout"))["records"], &of(&world.source)["records"]), (&1.into(), &30.into()));
    let table = text(&world.command(&["topics", "describe"], &[]).output().expect("it runs"));
    for part in ["topic", "read by", "7days", "compact,delete", "for ever", "(1 member, lag 0)", "personal data"] {
        assert!(table.contains(part), "{part:?} in:\n{table}");
    }

    instance.stop();
    assert_eq!(committed()[1]["read_by"][0]["members"].as_array().map(Vec::len), Some(0));
    world.visits(30..40);
    let of_the_new_protocol = world.start(&["kafka.properties.group.protocol=consumer"]);
    of_the_new_protocol.wait_until_settled(10);
    assert!(committed()[1]["read_by"][0]["members"].is_null());
}
