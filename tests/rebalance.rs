//! Partitions that move: rolling restarts, and an instance that was stopped for so long that its partitions have gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::world::Instance;

const CLASSIC: &str = "kafka.properties.group.protocol=classic";
const CONSUMER: &str = "kafka.properties.group.protocol=consumer";

fn rolling_restart(protocol: &str) {
    let world = World::with(6, Behaviour { latency: Duration::from_millis(5), ..Behaviour::default() });
    let settings = ["topics.partitions=6", protocol];
    let mut instances: Vec<Instance> = (0..3).map(|_| world.start(&settings)).collect();
    let have_shares = |instances: &[Instance]| {
        let shares = instances.iter().map(|i| i.metric("nat_destination_assigned_partitions", &["deliver"]));
        shares.clone().sum::<f64>() == 6.0 && shares.into_iter().all(|share| share >= 1.0)
    };
    world.wait("each has its share", || have_shares(&instances));
    let mut produced = 0_usize;
    for _ in 0..3 {
        // Contact-days of before come again, for whoever has the partition by then.
        world.visits(produced.saturating_sub(200)..produced + 400);
        produced += 400;
        let (status, log) = instances.remove(0).stop();
        assert!(status.success(), "{log}");
        instances.push(world.start(&settings));
        world.wait("each has its share", || have_shares(&instances));
    }
    world.wait("all are delivered", || world.accepted().len() >= produced);
    for instance in instances {
        let (status, log) = instance.stop();
        assert!(status.success(), "{log}");
    }
    world.run_until_caught_up(&settings);
    assert_eq!(world.accepted_days().len(), produced);
    assert_eq!(world.stand_in.requests(), produced as u64, "each was sent once");
}

#[test]
fn a_rolling_restart_of_three_instances_sends_nothing_twice() {
    rolling_restart(CLASSIC);
}

#[test]
fn a_rolling_restart_by_the_new_protocol_sends_nothing_twice() {
    rolling_restart(CONSUMER);
}

/// Figures for deploy/large.md: run it in release, with --nocapture.
#[test]
fn two_hundred_partitions_are_work_for_one_instance_and_divide_between_two() {
    const PARTITIONS: i32 = 200;
    let world = World::with(PARTITIONS, Behaviour::default());
    let settings = ["topics.partitions=200"];
    let all_are_there = |instances: &[&Instance]| {
        let shares = instances.iter().map(|i| i.metric("nat_destination_assigned_partitions", &["deliver"]));
        shares.clone().sum::<f64>() == f64::from(PARTITIONS) && shares.into_iter().all(|share| share >= 1.0)
    };
    let told = |what: &str, began: Instant, instance: &Instance| {
        let resident = instance.metric("process_resident_memory_bytes", &[]) / 1e6;
        eprintln!("200 partitions: {what} after {:.1} s, {resident:.0} MB resident", began.elapsed().as_secs_f64());
    };
    let began = Instant::now();
    let first = world.start(&settings);
    world.wait("it has all of them", || all_are_there(&[&first]));
    told("all assigned, topics made", began, &first);
    world.visits(0..2000);
    world.wait("all are delivered", || world.accepted().len() == 2000);
    let (status, log) = first.stop();
    assert!(status.success(), "{log}");

    let began = Instant::now();
    let first = world.start(&settings);
    first.wait_until_ready();
    told("started again, the changelog read", began, &first);
    assert!(first.metric("nat_destination_dedup_entries", &["visit"]) >= 2000.0);
    let resident = first.metric("process_resident_memory_bytes", &[]);
    assert!(resident < 300e6, "partitions that hold little cost little: {resident}");

    let began = Instant::now();
    let second = world.start(&settings);
    world.wait("each has its share", || all_are_there(&[&first, &second]));
    told("divided between two", began, &second);
    // What was before comes again, for whoever has the partition by now.
    world.visits(0..4000);
    world.wait("all are delivered", || world.accepted().len() >= 4000);
    for instance in [first, second] {
        let (status, log) = instance.stop();
        assert!(status.success(), "{log}");
    }
    world.run_until_caught_up(&settings);
    assert_eq!(world.accepted_days().len(), 4000);
    assert_eq!(world.stand_in.requests(), 4000, "each was sent once");
}

/// How many records of the changelog each queue record has.
fn remembered(world: &World) -> BTreeMap<(i32, i64), usize> {
    let mut records = BTreeMap::new();
    for record in world.read(&world.topic("delivered")) {
        let value = record.value.expect("a value");
        let offset = i64::from_be_bytes(value[10..18].try_into().expect("eight bytes"));
        *records.entry((record.partition, offset)).or_insert(0) += 1;
    }
    records
}

#[test]
fn an_instance_stopped_past_its_session_neither_commits_nor_writes_for_what_is_not_its_own() {
    let latency = Duration::from_secs(5);
    let world = World::with(3, Behaviour { latency, ..Behaviour::default() });
    let settings = ["kafka.properties.session.timeout.ms=10000", "kafka.properties.heartbeat.interval.ms=500"];
    let zombie = world.start(&settings);
    world.visits(0..100);
    // All that it may send at first, and the stand-in has them whole: what is half written at the stop would go out after it.
    world.wait("the first requests are in flight", || world.stand_in.requests() == 4);
    zombie.signal("-STOP");
    std::thread::sleep(latency); // The answers are there, and nobody reads them.
    assert_eq!(world.accepted().len(), 4, "stopped before the first answer");
    let heir = world.start(&settings);
    world.behave(Behaviour::default());
    world.wait("the other one has all of them", || {
        heir.metric("nat_destination_assigned_partitions", &["deliver"]) == 3.0
    });
    world.wait("and delivers them", || {
        let mut days = world.accepted_days();
        days.dedup();
        days.len() == 100 && heir.metric("nat_destination_pending_events", &[]) == 0.0
    });
    let requests = world.stand_in.requests();
    zombie.signal("-CONT");
    world.wait("it makes sure", || zombie.log().contains("Nothing is sent until it does"));
    world.wait("it hears that they are lost", || zombie.log().contains("lost: this instance was away for too long"));
    std::thread::sleep(Duration::from_secs(2));
    // It took part again since; what it had begun before is forgotten.
    assert_eq!(world.stand_in.requests(), requests, "it sent nothing more");
    let remembered = remembered(&world);
    assert!(remembered.values().all(|records| *records == 1), "{remembered:?}");
    assert_eq!(requests, 104, "those in flight at the stop are sent again: nobody could know");
    let mut keys = BTreeMap::new();
    for entry in world.accepted() {
        keys.entry(entry.email).or_insert_with(std::collections::BTreeSet::new).insert(entry.idempotency_key);
    }
    assert!(keys.values().all(|keys| keys.len() == 1), "again with the same Idempotency-Key");
    assert!(zombie.stop().0.success());
    assert!(heir.stop().0.success());
}
