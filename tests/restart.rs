//! Shutdown, crash, second instance: nothing lost, nothing sent twice but what was in flight.

use std::time::{Duration, Instant};

use nat_destination::kafka::partition_of;
use nat_destination::sandbox::stand_in::Behaviour;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use super::faults::set_offset;
use super::support::World;
use super::support::kafka::{Kafka, Options};
use super::support::world::{Instance, binary, identify};

const DAY: &str = "2026-11-20T08:00:00Z";

#[test]
fn sigterm_finishes_what_is_in_flight_and_nothing_is_sent_again() {
    let world = World::with(3, Behaviour { latency: Duration::from_millis(300), ..Behaviour::default() });
    world.visits(0..1000);
    let first = world.start(&["deliver.concurrency=32"]);
    world.wait("some are delivered", || world.accepted().len() > 50);
    let began = Instant::now();
    let (status, log) = first.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    let delivered = world.accepted().len();
    assert!(delivered < 1000, "it was stopped in the middle");
    assert_eq!(world.stand_in.requests() as usize, delivered);
    world.behave(Behaviour::default());
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 1000);
    assert_eq!(world.stand_in.requests(), 1000, "each was sent once");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::with(1, Behaviour { latency: Duration::from_secs(8), ..Behaviour::default() });
    world.visits(0..1);
    let mut instance = world.start(&[]);
    world.wait("it is in flight", || instance.metric("nat_destination_http_requests_in_flight", &[]) == 1.0);
    instance.signal("-TERM");
    // Two that come before the first is heard are one.
    world.wait("it has heard the first one", || instance.log().contains("told to stop"));
    let began = Instant::now();
    instance.signal("-TERM");
    assert_eq!(instance.wait().code(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_shutdown_deadline_holds_when_nat_app_hangs() {
    let world = World::with(1, Behaviour { latency: Duration::from_secs(30), ..Behaviour::default() });
    world.visits(0..1);
    let instance = world.start(&["shutdown.timeout=1s", "nat.timeout=60s"]);
    world.wait("it is in flight", || instance.metric("nat_destination_http_requests_in_flight", &[]) == 1.0);
    let began = Instant::now();
    let (status, log) = instance.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    let told = log.lines().find(|line| line.contains("shutdown.timeout is over before these were done"));
    assert!(told.is_some_and(|line| line.contains("\"requests\":1,\"writes\":0")), "{log}");
    world.behave(Behaviour::default());
    world.run_until_caught_up(&[]);
    let keys: std::collections::BTreeSet<_> =
        world.stand_in.entries().into_iter().map(|entry| entry.idempotency_key).collect();
    assert_eq!(keys.len(), 1, "what was cut off is sent again with the same key");
}

#[test]
fn what_kafka_has_not_taken_by_the_shutdown_deadline_is_told_and_read_again() {
    let world = World::with(1, Behaviour::default());
    world.run_until_caught_up(&[]);
    // Its clients keep what they write to themselves for a minute.
    let instance = world.start(&["shutdown.timeout=1s", "kafka.properties.linger.ms=60000"]);
    world.visits(0..3);
    world.wait("they are read", || instance.metric("nat_destination_events_received_total", &[]) == 3.0);
    let (status, log) = instance.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    let told = log.lines().find(|line| line.contains("shutdown.timeout is over before Kafka has taken these"));
    assert!(told.is_some_and(|line| line.contains("\"unsettled\":3")), "{log}");
    assert_eq!(world.accepted_days().len(), 0);
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 3);
}

#[test]
fn after_kill_9_nothing_is_lost_and_only_what_was_in_flight_is_sent_again() {
    let world = World::with(3, Behaviour { latency: Duration::from_millis(100), ..Behaviour::default() });
    world.visits(0..2000);
    let concurrency = 16;
    let first = world.start(&[&format!("deliver.concurrency={concurrency}")]);
    world.wait("some are delivered", || world.accepted().len() > 300);
    first.kill();
    std::thread::sleep(Duration::from_millis(200)); // The stand-in answers what it was asked.
    let before = world.accepted().len();
    assert!(before < 2000, "it was killed in the middle");
    world.behave(Behaviour::default());
    world.run_until_caught_up(&[]);
    let accepted = world.accepted();
    let mut days = world.accepted_days();
    days.dedup();
    assert_eq!(days.len(), 2000, "nothing is lost");
    // In flight at the kill: requests, and acceptances whose changelog record was not acknowledged yet.
    let doubled = accepted.len() - 2000;
    assert!(doubled <= 10 * concurrency, "{doubled} were sent twice");
    let mut by_email = std::collections::BTreeMap::new();
    for entry in accepted {
        by_email.entry(entry.email).or_insert_with(std::collections::BTreeSet::new).insert(entry.idempotency_key);
    }
    assert!(by_email.values().all(|keys| keys.len() == 1), "again with the same Idempotency-Key");
}

#[test]
fn a_restart_restores_the_delivered_set_before_the_first_request() {
    let world = World::new();
    world.visits(0..500);
    world.run_until_caught_up(&[]);
    assert_eq!(world.stand_in.requests(), 500);
    // The same contact-days again: only the changelog knows that they were delivered.
    world.visits(0..500);
    let instance = world.start(&[]);
    instance.wait_until_settled(500);
    assert_eq!(instance.metric("nat_destination_events_total", &["duplicate"]), 500.0);
    assert_eq!(instance.metric("nat_destination_restored_records_total", &[]), 500.0);
    // Told ten times a second.
    world.wait("500 are remembered", || instance.metric("nat_destination_dedup_entries", &["visit"]) == 500.0);
    assert_eq!(instance.metric("nat_destination_restore_remaining_records", &[]), 0.0);
    assert_eq!(world.stand_in.requests(), 500);
    world.wait("it says so", || instance.log().contains("the delivered set is restored"));
}

#[test]
fn engage_values_read_again_after_a_crash_are_not_sent_again() {
    let world = World::with(1, Behaviour::default());
    for (id, value) in ["true", "true", "false", "true", "false"].iter().enumerate() {
        world.event(
            0,
            &format!(
                r#"{{"type":"identify","timestamp":"2026-11-20T08:00:0{id}Z","traits":{{"email":"a@example.com","vip":{value}}},"context":{{"personas":{{"computation_key":"vip"}}}},"messageId":"{id}"}}"#
            ),
        );
    }
    // As if nothing had been committed, everything is read again: also the second `true`, which was a duplicate once.
    let first = world.start(&["kafka.properties.session.timeout.ms=10000"]);
    first.wait_until_settled(5);
    first.kill();
    set_offset(&world, &world.topic("ingest"), &world.source, 0, 0);
    (0..3).for_each(|partition| set_offset(&world, &world.topic("deliver"), &world.topic("queue"), partition, 0));
    let second = world.start(&[]);
    second.wait_until_settled(10); // Read again from the source and from the queue: five events each way.
    let ids: Vec<String> = world.accepted().into_iter().filter_map(|entry| entry.message_id).collect();
    assert_eq!(ids, ["0", "2", "3", "4"]);
}

#[test]
fn a_second_instance_joins_and_leaves_and_nothing_is_sent_twice() {
    let world = World::with(3, Behaviour { latency: Duration::from_millis(10), ..Behaviour::default() });
    let first = world.start(&["deliver.concurrency=8"]);
    first.wait_until_ready();
    world.visits(0..1000);
    let second = world.start(&["deliver.concurrency=8"]);
    world.wait("the second one has its share", || {
        second.metric("nat_destination_assigned_partitions", &["deliver"]) >= 1.0
    });
    world.visits(500..1500);
    world.wait("it delivers too", || second.metric("nat_destination_events_total", &["delivered"]) > 20.0);
    world.visits(1000..2000);
    let (status, log) = second.stop();
    assert!(status.success(), "{log}");
    world.visits(1500..2500);
    world.wait("all are delivered", || world.accepted().len() >= 2500);
    let (status, log) = first.stop();
    assert!(status.success(), "{log}");
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 2500);
    assert_eq!(world.stand_in.requests(), 2500, "each was sent once");
}

#[test]
fn sigterm_in_the_middle_of_a_rebalance_is_obeyed_in_time() {
    let world = World::with(4, Behaviour { latency: Duration::from_secs(30), ..Behaviour::default() });
    let settings = ["shutdown.timeout=1s", "nat.timeout=60s", "topics.partitions=4"];
    let first = world.start(&settings);
    world.visits(0..50);
    let in_flight = || first.metric("nat_destination_http_requests_in_flight", &[]) >= 4.0;
    world.wait("requests are in flight", in_flight);
    let _second = world.start(&settings);
    world.wait("the first one has to give some back", || first.log().contains("finishing what is in flight"));
    let began = Instant::now();
    let (status, log) = first.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}: {log}", began.elapsed());
}

#[test]
fn the_new_consumer_protocol_serves_as_well() {
    let world = World::with(3, Behaviour { latency: Duration::from_millis(10), ..Behaviour::default() });
    let protocol = "kafka.properties.group.protocol=consumer";
    let first = world.start(&[protocol]);
    first.wait_until_ready();
    world.visits(0..300);
    let second = world.start(&[protocol]);
    let has_share = || second.metric("nat_destination_assigned_partitions", &["deliver"]) >= 1.0;
    world.wait("the second one has its share", has_share);
    world.visits(200..600);
    let (status, log) = first.stop();
    assert!(status.success(), "{log}");
    let (status, log) = second.stop();
    assert!(status.success(), "{log}");
    world.run_until_caught_up(&[protocol]);
    assert_eq!(world.accepted_days().len(), 600);
    assert_eq!(world.stand_in.requests(), 600, "each was sent once");
}

#[test]
fn until_caught_up_that_is_stopped_before_it_has_does_not_end_as_if_it_had() {
    let world = World::with(1, Behaviour { status: Some(503), ..Behaviour::default() });
    world.visits(0..10);
    for signal in ["-INT", "-TERM"] {
        let mut instance = Instance::start(world.command(&["run", "--until-caught-up"], &[]));
        world.wait("they wait", || instance.metric("nat_destination_pending_events", &[]) == 10.0);
        instance.signal(signal);
        assert_eq!(instance.wait().code(), Some(130), "{}", instance.log());
    }
    world.behave(Behaviour::default());
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 10);
}

#[test]
fn until_caught_up_ends_with_what_was_there_at_its_start() {
    let world = World::new();
    world.run_until_caught_up(&[]); // Nothing at all is caught up with at once.
    world.visits(0..10);
    let output = world.run_until_caught_up(&[]);
    assert!(output.stdout.is_empty());
    assert_eq!(world.accepted().len(), 10);
    let usage = binary().args(["run", "--until-cought-up"]).output().expect("it runs");
    assert_eq!(usage.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&usage.stderr).contains("--until-caught-up"),
        "a wrong flag suggests the right one"
    );
}

#[test]
fn until_caught_up_is_not_held_by_the_markers_of_transactions() {
    let world = World::with(2, Behaviour::default());
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &world.brokers)
        .set("transactional.id", &world.prefix)
        .create()
        .expect("a producer");
    let timeout = Duration::from_secs(30);
    producer.init_transactions(timeout).expect("transactions");
    for commit in [true, false] {
        producer.begin_transaction().expect("begun");
        for partition in 0..2 {
            let event = identify(&format!("p{partition}-{commit}@example.com"), DAY, "m");
            let record: BaseRecord<'_, str, str> = BaseRecord::to(&world.source).partition(partition).payload(&event);
            producer.send(record).map_err(|(error, _)| error).expect("sent");
        }
        if commit { producer.commit_transaction(timeout) } else { producer.abort_transaction(timeout) }.expect("ended");
    }
    world.run_until_caught_up(&[]);
    let contacts: Vec<String> = world.accepted_days().into_iter().map(|(email, _)| email).collect();
    assert_eq!(contacts, ["p0-true@example.com", "p1-true@example.com"], "what was taken back is not sent");
}

#[test]
fn a_broker_that_goes_and_comes_back_costs_nothing_and_one_that_does_not_holds_no_shutdown_back() {
    let mut kafka = Kafka::start(Options::default());
    let world = World::on(kafka.brokers(), 2, Behaviour::default());
    let instance = world.start(&["shutdown.timeout=1s"]);
    world.visits(0..100);
    instance.wait_until_settled(100);
    kafka.kill(1);
    std::thread::sleep(Duration::from_secs(3));
    kafka.restart(1);
    world.visits(100..200);
    instance.wait_until_settled(200);
    assert_eq!(world.accepted_days().len(), 200);
    assert_eq!(world.stand_in.requests(), 200);
    kafka.kill(1);
    let began = Instant::now();
    let (status, log) = instance.stop();
    assert!(status.code().is_some(), "it ended by itself: {log}");
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}: {log}", began.elapsed());
}

#[test]
fn what_was_tried_before_a_crash_counts_so_that_patience_ends() {
    let world = World::with(
        1,
        Behaviour { reject_emails: vec!["ada@example.com".into()], reject_status: 500, ..Behaviour::default() },
    );
    // Straight into the queue: an ingest that is killed could write it there twice.
    world.create_topic(&world.topic("queue"), 1, &[]);
    let event = identify("ada@example.com", DAY, "m");
    world.send(&world.topic("queue"), Some(0), Some(b"ada@example.com"), Some(event.as_bytes()), &[]);
    world.flush();
    let settings = [
        "topics.partitions=1",
        "retry.max_elapsed=8s",
        "retry.max_interval=500ms",
        "kafka.properties.session.timeout.ms=5000",
        "kafka.properties.heartbeat.interval.ms=500",
    ];
    // No life is as long as its patience.
    let mut lives = 0;
    while world.dead_letters().is_empty() {
        lives += 1;
        assert!(lives < 12, "it would go on for ever");
        let before = world.stand_in.requests();
        let instance = world.start(&settings);
        // Where the life before ended just before its patience did, there is one more attempt and no second one.
        let is_tried_again = || world.stand_in.requests() > before + 1 || !world.dead_letters().is_empty();
        world.wait("it is tried again, or given up", is_tried_again);
        std::thread::sleep(Duration::from_millis(2500));
        instance.kill();
    }
    assert!(lives > 1, "one life is shorter than the patience");
    let letter = &world.dead_letters()[0];
    let number = |name: &str| letter.header(name).expect("told").parse::<i64>().expect("a number");
    assert_eq!(letter.header("nat.reason").as_deref(), Some("retries_exhausted"));
    // Each crash can forget an attempt that was in flight, and the one before, whose record was not acknowledged.
    let requests = world.stand_in.requests() as i64;
    assert!(
        (requests - 2 * lives..=requests).contains(&number("nat.attempts")),
        "{} of {requests}",
        number("nat.attempts")
    );
    assert!(number("nat.last_attempt") - number("nat.first_attempt") > 5000, "since the first life's first attempt");
}

/// SIGTERM, and it has to end with 0 in time.
fn stops_in_time(instance: super::support::Instance) -> String {
    let began = Instant::now();
    let (status, log) = instance.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}: {log}", began.elapsed());
    log
}

#[test]
fn sigterm_while_the_circuit_is_open_is_obeyed_in_time() {
    let world = World::with(3, Behaviour { status: Some(401), ..Behaviour::default() });
    world.visits(0..200);
    let instance = world.start(&["shutdown.timeout=2s"]);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["unauthorized"]) == 1.0);
    stops_in_time(instance);
    world.behave(Behaviour::default());
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 200);
}

#[test]
fn sigterm_while_an_event_waits_an_hour_for_its_retry_is_obeyed_in_time() {
    let retry_after = Some(Duration::from_secs(3600));
    let world = World::with(1, Behaviour::default());
    world.behave(Behaviour { status: Some(429), retry_after, ..Behaviour::default() });
    world.visits(0..20);
    let instance = world.start(&["shutdown.timeout=2s"]);
    world.wait("it waits", || instance.metric("nat_destination_retrying_events", &[]) >= 1.0);
    stops_in_time(instance);
    // Nobody remembers the hour: it is asked again, and says so again if it must.
    world.behave(Behaviour::default());
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 20);
}

#[test]
fn a_partition_that_cannot_be_restored_holds_up_neither_the_others_nor_a_sigterm() {
    let mut kafka = Kafka::start(Options { nodes: 3, ..Options::default() });
    let world = World::on(kafka.brokers(), 1, Behaviour::default());
    // Half of the changelog on a broker that is away: the first half that is asked for.
    let topic = world.topic("delivered");
    world.create_topic_on(&topic, &[3, 1], &[("cleanup.policy", "compact,delete"), ("retention.ms", "-1")]);
    for partition in [0, 1] {
        world.send(&topic, Some(partition), Some(&[7; 16]), Some(b"of a newer version"), &[]);
    }
    world.flush();
    kafka.kill(3);
    world.visits(0..20);
    let of_second =
        (0..20).filter(|number: &usize| partition_of(format!("p{number}@example.com").as_bytes(), 2) == 1).count();
    assert!((1..20).contains(&of_second), "{of_second}");
    let instance = world.start(&["shutdown.timeout=2s", "topics.partitions=2", "topics.replication=3"]);
    let restores = "restores the delivered set of 1 partition";
    world.wait("it restores", || {
        assert!(instance.is_running(), "{}", instance.log());
        instance.get("/readyz").1.contains(restores)
    });
    world.wait("the half that is there is delivered", || world.accepted().len() == of_second);
    assert_eq!(instance.metric("nat_destination_restoring_partitions", &[]), 1.0);
    let status = world.command(&["status", "--instance", &instance.admin()], &[]).output().expect("it runs");
    let told = String::from_utf8_lossy(&status.stdout);
    assert_eq!(status.status.code(), Some(1), "{told}\n{}", instance.log());
    assert!(
        told.contains("restores 1 partition of the queue; nothing of that is delivered yet"),
        "{told}\n{}",
        instance.log()
    );
    let log = stops_in_time(instance);
    assert!(!log.contains("the delivered set is restored"), "{log}");
    assert_eq!(world.stand_in.requests(), of_second as u64, "nothing of the other half is sent before it is restored");
    kafka.restart(3);
    world.run_until_caught_up(&[]);
    assert_eq!((world.accepted_days().len(), world.stand_in.requests()), (20, 20));
}

#[test]
fn a_changelog_whose_last_offset_holds_no_record_is_restored_all_the_same() {
    let world = World::with(1, Behaviour::default());
    world.visits(0..10);
    world.run_until_caught_up(&["topics.partitions=1"]);
    // A transaction's marker takes up an offset that nobody reads, as a record that was cleaned away does.
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &world.brokers)
        .set("transactional.id", &world.prefix)
        .create()
        .expect("a producer");
    let timeout = Duration::from_secs(30);
    producer.init_transactions(timeout).expect("transactions");
    producer.begin_transaction().expect("begun");
    let topic = world.topic("delivered");
    let (key, value) = (vec![7; 16], b"of another tool".to_vec());
    let record: BaseRecord<'_, Vec<u8>, Vec<u8>> = BaseRecord::to(&topic).partition(0).key(&key).payload(&value);
    producer.send(record).map_err(|(error, _)| error).expect("sent");
    producer.commit_transaction(timeout).expect("ended");
    world.visits(0..20);
    let instance = world.start(&["topics.partitions=1"]);
    instance.wait_until_settled(20);
    world.wait("the early end is told", || instance.log().contains("ends early; asking again"));
    world.wait("and what it held", || instance.log().contains("not this version's and were passed over"));
    assert_eq!(world.stand_in.requests(), 20, "what was delivered before is known");
}
