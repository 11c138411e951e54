//! Faults of Kafka: brokers that go, leaders that change, offsets that are not there, a disk that is full.

use std::time::{Duration, Instant};

use nat_destination::config::Start;
use nat_destination::kafka::{GroupConsumer, Notice, PollError, consumer_config};
use nat_destination::sandbox::stand_in::Behaviour;
use rdkafka::ClientConfig;
use rdkafka::Message;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::support::World;
use super::support::kafka::{Kafka, Options};
use super::support::world::{Instance, identify};

const DAY: &str = "2026-11-20T08:00:00Z";
const SOON: &str = "kafka.properties.session.timeout.ms=6000";

pub fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", &world.brokers).create().expect("an admin client")
}

/// As an operator does with kafka-consumer-groups.sh --reset-offsets, once nobody is in the group: of a member that was
/// killed it hears after its session.
pub fn set_offset(world: &World, group: &str, topic: &str, partition: i32, offset: i64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &world.brokers)
        .set("group.id", group)
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
    world.wait("the group takes the offset", || consumer.commit(&list, CommitMode::Sync).is_ok());
}

#[test]
fn an_offset_behind_the_end_stops_that_partition_and_tells_and_the_others_go_on() {
    let world = World::new();
    world.visits(0..30);
    world.run_until_caught_up(&[]);
    set_offset(&world, &world.topic("ingest"), &world.source, 1, 5000);
    let status = || {
        let output = world.command(&["status", "--json"], &[]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(status().contains(&format!("the offset of partition 1 of {} is not in the topic", world.source)));
    let instance = world.start(&[]);
    world.visits(30..60);
    world.wait("the others are delivered", || world.accepted().len() == 50);
    world.wait("it is told", || instance.metric("nat_destination_stopped_partitions", &["ingest"]) == 1.0);
    let told = format!("partition 1 of {} is not read on", world.source);
    world.wait("health tells it", || instance.get("/readyz").1.contains(&told));
    world.wait("what to do is told", || instance.log().contains("--reset-offsets"));
    world.visits(60..90);
    world.wait("and go on", || world.accepted().len() == 70);
    assert!(instance.stop().0.success());
    assert!(status().contains("is not in the topic"));
    // For a script it is an error: it would wait for ever.
    let output = world.command(&["run", "--until-caught-up"], &[]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    set_offset(&world, &world.topic("ingest"), &world.source, 1, 0);
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 90, "once the offset is set nothing is missing");
}

#[test]
fn records_that_retention_deleted_before_they_were_read_are_counted_and_told() {
    for (stage, topic) in [("ingest", "source"), ("deliver", "queue")] {
        let world = World::with(1, Behaviour::default());
        let topic = if topic == "source" { world.source.clone() } else { world.topic(topic) };
        if stage == "deliver" {
            world.create_topic(&topic, 1, &[]);
        }
        for number in 0..100 {
            let event = identify(&format!("p{number}@example.com"), DAY, "m");
            world.send(&topic, Some(0), Some(b"k"), Some(event.as_bytes()), &[]);
        }
        world.flush();
        set_offset(&world, &world.topic(stage), &topic, 0, 10);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Offset(70)).expect("an offset");
        let deleted = world.runtime.block_on(admin(&world).delete_records(&list, &AdminOptions::new()));
        deleted.expect("deleted");
        drop(list);
        let instance = world.start(&["topics.partitions=1"]);
        world.wait("what is left is delivered", || world.accepted().len() == 30);
        let gone = |labels: &[&str]| instance.metric("nat_destination_records_gone_total", labels);
        assert_eq!(gone(&[&format!("topic=\"{topic}\"")]), 60.0);
        assert_eq!(gone(&[]), 60.0);
        world.wait("it is told", || instance.log().contains("records were deleted before they were read"));
        assert!(instance.stop().0.success());
        world.run_until_caught_up(&["topics.partitions=1"]);
    }
}

#[test]
fn records_of_several_partitions_that_are_gone_are_told_once_over_restarts() {
    for (stage, topic) in [("ingest", "source"), ("deliver", "queue")] {
        let world = World::with(3, Behaviour::default());
        let topic = if topic == "source" { world.source.clone() } else { world.topic(topic) };
        world.run_until_caught_up(&[]);
        let mut list = TopicPartitionList::new();
        for partition in 0..3 {
            for number in 0..20 {
                let event = identify(&format!("p{number}@example.com"), DAY, "m");
                world.send(&topic, Some(partition), Some(b"k"), Some(event.as_bytes()), &[]);
            }
            set_offset(&world, &world.topic(stage), &topic, partition, 5);
            list.add_partition_offset(&topic, partition, Offset::Offset(20)).expect("an offset");
        }
        world.flush();
        let deleted = world.runtime.block_on(admin(&world).delete_records(&list, &AdminOptions::new()));
        deleted.expect("deleted");
        drop(list);
        for expected in [45.0, 0.0] {
            let instance = world.start(&[]);
            let gone = || instance.metric("nat_destination_records_gone_total", &[]);
            world.wait("it is told", || gone() >= expected && instance.get("/readyz").0 == 200);
            // Each partition's refusal comes by itself.
            std::thread::sleep(Duration::from_secs(2));
            assert_eq!(gone(), expected, "{stage}");
            let lag = if stage == "ingest" { "source" } else { "queue" };
            let waiting = || instance.metric(&format!("nat_destination_{lag}_lag_events"), &[]);
            world.wait("what is gone does not wait any more", || waiting() == 0.0);
            assert!(instance.stop().0.success());
        }
        world.run_until_caught_up(&[]);
    }
}

#[test]
fn a_topic_deleted_and_made_again_is_not_passed_over_in_silence() {
    let world = World::with(1, Behaviour::default());
    world.visits(0..50);
    let instance = world.start(&[]);
    instance.wait_until_settled(50);
    std::thread::sleep(Duration::from_secs(5)); // The lag watch has seen its end twice.
    let is_watched = || instance.metrics().contains("nat_destination_source_lag_events{");
    world.wait("or once at least", is_watched);
    let (admin, options) = (admin(&world), AdminOptions::new());
    world.runtime.block_on(admin.delete_topics(&[&world.source], &options)).expect("deleted");
    world.wait("it is made again", || {
        let new = rdkafka::admin::NewTopic::new(&world.source, 1, rdkafka::admin::TopicReplication::Fixed(-1));
        let made = world.runtime.block_on(admin.create_topics(&[new], &options)).expect("an answer");
        made[0].is_ok()
    });
    // Fewer than before, so that its end went back; then more, so that the old position would lie within.
    world.visits(50..60);
    // Either the group notices that the topic was gone, and begins it anew; or the program says so and stops.
    let deadline = Instant::now() + Duration::from_secs(120);
    while world.accepted().len() < 60 && instance.is_running() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    if instance.is_running() && world.accepted().len() < 60 {
        let stopped = instance.metric("nat_destination_stopped_partitions", &["ingest"]);
        assert_eq!(stopped, 1.0, "neither read nor told: {}", instance.log());
    } else if !instance.is_running() {
        world.wait("it says why", || instance.log().contains("the topic was deleted and made again, or cut"));
    }
    // It leaves its groups, if it has not: of others' offsets a group with members takes none.
    instance.stop();
    // A service manager starts it again, when the topic has grown past the old offset.
    world.visits(60..130);
    let instance = world.start(&[]);
    world.wait("all is read, or it says that it is not", || {
        world.accepted().len() == 130 || instance.metric("nat_destination_stopped_partitions", &["ingest"]) == 1.0
    });
    instance.stop();
    set_offset(&world, &world.topic("ingest"), &world.source, 0, 0);
    world.run_until_caught_up(&[SOON]);
    assert_eq!(world.accepted_days().len(), 130);
    assert_eq!(world.stand_in.requests(), 130, "and nothing twice");
}

#[test]
fn an_offset_that_is_not_in_its_topic_stays_so_over_restarts_until_it_is_set() {
    for (stage, protocol) in
        [("ingest", "classic"), ("deliver", "classic"), ("ingest", "consumer"), ("deliver", "consumer")]
    {
        let protocol = format!("kafka.properties.group.protocol={protocol}");
        let world = World::with(1, Behaviour::default());
        let set: [&str; 2] = ["topics.partitions=1", &protocol];
        let topic = if stage == "ingest" { world.source.clone() } else { world.topic("queue") };
        world.run_until_caught_up(&set);
        set_offset(&world, &world.topic(stage), &topic, 0, 50);
        let is_stopped = |instance: &Instance| {
            world.wait("it is not read on", || instance.metric("nat_destination_stopped_partitions", &[stage]) == 1.0);
            assert_eq!(instance.metric("nat_destination_events_total", &[]), 0.0);
        };
        let instance = world.start(&set);
        world.visits(0..10);
        is_stopped(&instance);
        assert!(instance.stop().0.success());
        // Past the offset, so that nothing would tell any more.
        let instance = world.start(&set);
        world.visits(10..80);
        is_stopped(&instance);
        if stage == "deliver" {
            world.wait("they are queued", || instance.metric("nat_destination_events_queued_total", &[]) >= 70.0);
        }
        assert!(instance.stop().0.success());
        for _ in 0..2 {
            let instance = world.start(&set);
            is_stopped(&instance);
            assert!(instance.log().contains("found by an earlier run"), "{}", instance.log());
            assert!(instance.stop().0.success());
        }
        let output = world.command(&["run", "--until-caught-up"], &set).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && told.contains("the topic was made anew, or cut"), "{told}");
        set_offset(&world, &world.topic(stage), &topic, 0, 0);
        world.run_until_caught_up(&set);
        assert_eq!((world.accepted_days().len(), world.stand_in.requests()), (80, 80), "{stage} {protocol}");
    }
}

#[test]
fn a_topic_that_grows_past_the_offset_before_it_is_looked_at_is_not_passed_over() {
    let world = World::with(2, Behaviour::default());
    let group = world.topic("ingest");
    let fill = |partition, count| {
        (0..count).for_each(|_| world.send(&world.source, Some(partition), None, Some(b"{}"), &[]));
        world.flush();
    };
    fill(0, 10);
    fill(1, 10);
    set_offset(&world, &group, &world.source, 1, 50);
    let config = world.config();
    let client = consumer_config(&config, &group);
    let consumer = GroupConsumer::subscribe(&client, std::slice::from_ref(&world.source), config.kafka.timeout)
        .expect("subscribed");
    let (mut read, mut looks, mut stopped) = (Vec::new(), 0, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline && (stopped.is_empty() || read.len() < 20) {
        match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(record)) => read.push((record.partition(), record.offset())),
            Some(Err(PollError::OffsetGone)) => {
                looks += 1;
                if looks == 1 {
                    fill(1, 90);
                    fill(0, 10);
                }
                stopped.extend(consumer.find_places_again(|_| false).expect("the brokers tell").stopped);
            }
            Some(Err(error)) => panic!("{error:?}"),
            None => {}
        }
        while let Some(notice) = consumer.next_notice() {
            let Notice::Assign(partitions) = notice else { panic!("{notice:?}") };
            consumer.assign(&partitions, Start::Earliest, false).expect("assigned");
        }
    }
    assert_eq!(stopped, [(world.source.clone(), 1)]);
    assert!(looks <= 3, "{looks} looks");
    read.sort_unstable();
    assert_eq!(read, (0..20).map(|offset| (0, offset)).collect::<Vec<_>>(), "the other one is read on, nothing twice");
}

#[test]
fn leaders_change_and_a_broker_dies_and_nothing_is_lost_or_sent_twice() {
    let mut kafka =
        Kafka::start(Options { nodes: 3, properties: &[("min.insync.replicas", "2")], ..Options::default() });
    let world = World::on(kafka.brokers(), 3, Behaviour { latency: Duration::from_millis(5), ..Behaviour::default() });
    let instance = world.start(&["topics.replication=3"]);
    instance.wait_until_ready();
    for node in 1..=3_u16 {
        let begin = usize::from(node - 1) * 400;
        world.visits(begin..begin + 200);
        kafka.kill(node);
        world.visits(begin + 200..begin + 400);
        world.wait("all are delivered without it", || world.accepted().len() >= begin + 400);
        kafka.restart(node);
    }
    instance.wait_until_settled(1200);
    assert_eq!(world.accepted_days().len(), 1200);
    assert_eq!(world.stand_in.requests(), 1200);
    let (status, log) = instance.stop();
    assert!(status.success(), "{log}");
    // Killed in the middle, with another broker away, it goes on where it was.
    world.behave(Behaviour { latency: Duration::from_millis(20), ..Behaviour::default() });
    let victim = world.start(&["topics.replication=3", SOON]);
    world.visits(1200..4000);
    world.wait("it is in the middle", || world.accepted().len() > 1400);
    kafka.kill(2);
    victim.kill();
    world.run_until_caught_up(&["topics.replication=3", SOON]);
    let mut days = world.accepted_days();
    let accepted = days.len();
    days.dedup();
    assert_eq!(days.len(), 4000, "nothing is lost");
    // Those in flight, and those accepted that the changelog had not acknowledged: its leader may have been the dead one.
    let again = accepted - 4000;
    assert!(again <= 64 + 1024, "{again} were sent again");
}

#[test]
fn without_enough_replicas_everything_waits_and_then_goes_on() {
    let mut kafka =
        Kafka::start(Options { nodes: 3, properties: &[("min.insync.replicas", "2")], ..Options::default() });
    let world = World::on(kafka.brokers(), 3, Behaviour::default());
    let instance = world.start(&["topics.replication=3", "retry.max_elapsed=5s"]);
    world.visits(0..100);
    instance.wait_until_settled(100);
    // Accepted, and cannot be remembered: the offset must not move, and the process must not end.
    kafka.kill(2);
    kafka.kill(3);
    std::thread::sleep(Duration::from_secs(8));
    assert!(instance.is_running(), "{}", instance.log());
    kafka.restart(2);
    kafka.restart(3);
    world.visits(100..200);
    instance.wait_until_settled(200);
    assert_eq!(world.accepted_days().len(), 200);
    assert_eq!(world.stand_in.requests(), 200);
    assert!(instance.stop().0.success());
}

#[test]
fn while_kafka_takes_no_writes_nat_app_is_not_told_more_than_a_crash_may_repeat() {
    let mut service =
        embedded::Embedded::start(Behaviour { latency: Duration::from_millis(500), ..Behaviour::default() });
    service.produce(0..4000);
    let world = &service.world;
    // What is not in memory yet can be read all the same.
    world.wait("all of them are in the queue", || service.metrics().events_queued.get() == 4000);
    service.refuse_writes(rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, 12);
    let before = world.accepted().len();
    world.behave(Behaviour::default());
    std::thread::sleep(Duration::from_secs(2)); // An instant Nat.app takes thousands meanwhile.
    let told = world.accepted().len() - before;
    let remembered = service.delivered();
    assert!(told <= 1024 + 64, "{told} were sent, and {remembered} are remembered");
    world.wait("all are delivered", || service.delivered() == 4000);
    assert_eq!(world.stand_in.requests(), 4000);
    service.stop();
}

#[test]
fn a_disk_that_is_full_loses_nothing() {
    is_waited_out(rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR);
}

#[test]
fn requests_to_a_broker_that_time_out_lose_nothing() {
    is_waited_out(rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT);
}

#[test]
fn a_write_is_taken_for_acknowledged_only_by_its_own_acknowledgement() {
    // A leader that has just lost the partition refuses the first write of a producer, and is asked for the next ones already.
    // The leader that takes those does not know the producer yet, and misses nothing.
    let mut service = embedded::Embedded::start_with(Behaviour::default(), &["kafka.properties.batch.num.messages=1"]);
    service.slow_down(Duration::from_millis(50));
    // The source's one batch, then the queue's first.
    use rdkafka::types::RDKafkaRespErr::{RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION};
    service.answer_writes(&[RD_KAFKA_RESP_ERR_NO_ERROR, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
    service.produce(0..20);
    let world = &service.world;
    world.wait("all are delivered", || world.accepted().len() == 20);
    service.stop();
}

fn is_waited_out(error: rdkafka::types::RDKafkaRespErr) {
    let mut service = embedded::Embedded::start(Behaviour::default());
    service.produce(0..20);
    let world = &service.world;
    world.wait("all are delivered", || world.accepted().len() == 20);
    service.produce(20..40);
    // From now on each write of ours is refused, many times over.
    service.refuse_writes(error, 8);
    world.wait("all are delivered and remembered", || service.delivered() == 40);
    assert_eq!(world.stand_in.requests(), 40);
    service.stop();
}

/// The service on the embedded broker, which can be told to answer errors of our choice; a real one cannot.
mod embedded {
    use std::mem::ManuallyDrop;
    use std::ops::Range;
    use std::sync::Arc;
    use std::time::Duration;

    use nat_destination::config::{Config, Sources};
    use nat_destination::metrics::{Metrics, Outcome};
    use nat_destination::sandbox::stand_in::Behaviour;
    use nat_destination::service::Service;
    use rdkafka::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::support::world::{KEY, identify};
    use super::World;

    pub struct Embedded {
        service: Service,
        /// Its stand-in is what is wanted of it.
        pub world: World,
        /// Taking it down while clients are connected hangs.
        cluster: ManuallyDrop<MockCluster<'static, DefaultProducerContext>>,
        producer: BaseProducer,
    }

    impl Embedded {
        pub fn start(behaviour: Behaviour) -> Embedded {
            Embedded::start_with(behaviour, &[])
        }

        pub fn start_with(behaviour: Behaviour, settings: &[&str]) -> Embedded {
            let world = World::with(1, behaviour);
            let cluster = ManuallyDrop::new(MockCluster::new(1).expect("a cluster"));
            let brokers = cluster.bootstrap_servers();
            let mut set = vec![
                format!("kafka.brokers={brokers}"),
                format!("nat.url={}", world.stand_in.url()),
                format!("nat.api_key={KEY}"),
                "admin.listen=127.0.0.1:0".into(),
                "topics.partitions=1".into(),
            ];
            set.extend(settings.iter().map(|setting| (*setting).to_owned()));
            let config = Config::load(&Sources { set, ..Sources::default() }).expect("right");
            let topics = &config.topics;
            for topic in ["segment-events", &topics.queue, &topics.delivered, &topics.dead_letter] {
                cluster.create_topic(topic, 1, 1).expect("created");
            }
            let producer = ClientConfig::new().set("bootstrap.servers", &brokers).set("linger.ms", "200").create();
            let producer = producer.expect("a producer");
            let service = world.runtime.block_on(Service::start(config, false)).expect("started");
            Embedded { service, world, cluster, producer }
        }

        pub fn produce(&self, contacts: Range<usize>) {
            for number in contacts {
                let event = identify(&format!("p{number}@example.com"), super::DAY, "m");
                let record: BaseRecord<'_, str, str> = BaseRecord::to("segment-events").payload(&event);
                self.producer.send(record).map_err(|(error, _)| error).expect("sent");
            }
            self.producer.flush(Duration::from_secs(30)).expect("written");
        }

        /// The broker answers so late.
        pub fn slow_down(&self, by: Duration) {
            self.cluster.broker_round_trip_time(1, by).expect("slow");
        }

        pub fn refuse_writes(&self, error: RDKafkaRespErr, times: usize) {
            self.answer_writes(&vec![error; times]);
        }

        /// The next writes, whoever asks.
        pub fn answer_writes(&self, answers: &[RDKafkaRespErr]) {
            self.cluster.request_errors(RDKafkaApiKey::Produce, answers);
        }

        pub fn metrics(&self) -> &Arc<Metrics> {
            &self.service.metrics
        }

        pub fn delivered(&self) -> u64 {
            self.metrics().settled_in_all(Outcome::Delivered)
        }

        pub fn stop(&mut self) {
            self.service.stop();
            self.world.runtime.block_on(self.service.ended()).expect("no stage failed");
        }
    }
    impl Drop for Embedded {
        fn drop(&mut self) {
            // A runtime waits for its threads when it is dropped, and a stage that was not told goes on for ever.
            self.service.stop();
        }
    }
}
