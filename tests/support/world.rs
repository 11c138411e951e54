//! A world of its own for each test: random topics and groups on the shared broker, a stand-in on a free port, and the
//! real binary run against both.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nat_destination::config::{Config, Sources};
use nat_destination::sandbox::stand_in::{Behaviour, Entry, Log, StandIn};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::kafka;

pub const KEY: &str = "test-api-key-5f3a";
/// With these a tool hears nothing of a record for 12 seconds: the brokers wait for more than there is.
pub const SLOW_READER: [&str; 2] =
    ["kafka.properties.fetch.min.bytes=1000000", "kafka.properties.fetch.wait.max.ms=12000"];
const PATIENCE: Duration = Duration::from_secs(100);

pub struct World {
    /// Before the runtime that it runs on.
    pub stand_in: StandIn,
    pub runtime: tokio::runtime::Runtime,
    pub brokers: String,
    pub prefix: String,
    pub source: String,
    pub partitions: i32,
    directory: PathBuf,
    producer: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
}

/// One record as a plain consumer reads it.
#[derive(Debug, Clone)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A dead letter.
pub type DeadLetter = Record;

impl Record {
    /// The last header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.iter().rev().find(|(header, _)| header == name)?.1.clone()?;
        Some(String::from_utf8(value).expect("our headers are text"))
    }
}

impl World {
    /// With a source topic of 3 partitions and a stand-in that accepts everything.
    pub fn new() -> World {
        World::with(3, Behaviour::default())
    }

    pub fn with(partitions: i32, behaviour: Behaviour) -> World {
        World::on(kafka::brokers(), partitions, behaviour)
    }

    /// On a broker that is not the shared one.
    pub fn on(brokers: &str, partitions: i32, behaviour: Behaviour) -> World {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let behaviour = Behaviour { api_key: Some(KEY.into()), ..behaviour };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let stand_in = runtime.block_on(StandIn::start(any, behaviour, Log::Memory)).expect("a stand-in");
        let brokers = brokers.to_owned();
        let prefix = format!("t{:08x}", fastrand::u32(..));
        let source = format!("{prefix}-source");
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&prefix);
        std::fs::create_dir_all(&directory).expect("a directory");
        std::fs::write(directory.join("api-key"), format!("{KEY}\n")).expect("a key file");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("message.max.bytes", "100000000")
            .set("linger.ms", "1")
            .create()
            .expect("a producer");
        let world = World { stand_in, runtime, brokers, prefix, source, partitions, directory, producer };
        world.create_topic(&world.source, partitions, &[("max.message.bytes", "100000000")]);
        world
    }

    pub fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        self.create(NewTopic::new(topic, partitions, TopicReplication::Fixed(-1)), settings);
    }

    /// Each partition on one broker alone.
    pub fn create_topic_on(&self, topic: &str, brokers: &[i32], settings: &[(&str, &str)]) {
        let replicas: Vec<&[i32]> = brokers.iter().map(std::slice::from_ref).collect();
        self.create(NewTopic::new(topic, replicas.len() as i32, TopicReplication::Variable(&replicas)), settings);
    }

    fn create(&self, new: NewTopic<'_>, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("an admin client");
        let (topic, partitions) = (new.name, new.num_partitions);
        let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let results = self.runtime.block_on(admin.create_topics(&[new], &options)).expect("an answer");
        results.into_iter().for_each(|result| drop(result.expect("created")));
        // Every client that asks from now on is to find it, whichever broker it asks: they hear of it one by one.
        for broker in self.brokers.split(',') {
            self.wait("the topic is there", || partitions_at(broker, topic) == partitions as usize);
        }
    }

    fn partitions_of(&self, topic: &str) -> usize {
        let metadata = self.producer.client().fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        metadata.topics().first().map_or(0, |topic| topic.partitions().len())
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub fn key_file(&self) -> PathBuf {
        self.directory.join("api-key")
    }

    /// A path in a directory of this world's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// How the stand-in answers from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.stand_in.set(Behaviour { api_key: behaviour.api_key.or(Some(KEY.into())), ..behaviour });
    }

    // ── records ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Writes one record to the source and waits until the broker has it.
    pub fn produce(&self, partition: i32, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&str, Option<&[u8]>)]) {
        self.send(&self.source, Some(partition), key, value, headers);
        self.flush();
    }

    /// An event without a key, as Segment's Kafka destination writes it.
    pub fn event(&self, partition: i32, event: &str) {
        self.produce(partition, None, Some(event.as_bytes()), &[]);
    }

    /// The same, written at that time: Unix milliseconds.
    pub fn event_of_time(&self, partition: i32, event: &str, millis: i64) {
        self.record_of_time(&self.source, partition, None, event, millis);
    }

    /// A record that was written at that time: Unix milliseconds.
    pub fn record_of_time(&self, topic: &str, partition: i32, key: Option<&str>, event: &str, millis: i64) {
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(topic).partition(partition).payload(event.as_bytes()).timestamp(millis);
        record.key = key.map(str::as_bytes);
        self.producer.send(record).map_err(|(error, _)| error).expect("sent");
        self.flush();
    }

    /// The same dead letter once more, as if it had been written at that time: Unix milliseconds.
    pub fn dead_letter_of_time(&self, letter: &DeadLetter, millis: i64) {
        let headers = letter
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        let topic = self.topic("dead-letter");
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&topic).headers(headers).timestamp(millis);
        (record.key, record.payload) = (letter.key.as_deref(), letter.value.as_deref());
        self.producer.send(record).map_err(|(error, _)| error).expect("sent");
        self.flush();
    }

    /// What came into the queue by that road.
    pub fn queued_by(&self, road: &str) -> Vec<Record> {
        let mut records = self.read(&self.topic("queue"));
        records.retain(|record| record.header("nat.road").as_deref() == Some(road));
        records
    }

    /// One visit of each of these contacts, on one day, over all partitions.
    pub fn visits(&self, contacts: std::ops::Range<usize>) {
        for number in contacts {
            let event = identify(&format!("p{number}@example.com"), "2026-11-20T08:00:00Z", &format!("m{number}"));
            self.send(&self.source, Some(number as i32 % self.partitions), None, Some(event.as_bytes()), &[]);
        }
        self.flush();
    }

    pub fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        let owned =
            headers.iter().fold(OwnedHeaders::new(), |owned, (key, value)| owned.insert(Header { key, value: *value }));
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).headers(owned);
        record.partition = partition;
        record.key = key;
        record.payload = value;
        self.producer.send(record).map_err(|(error, _)| error).expect("sent");
    }

    pub fn flush(&self) {
        self.producer.flush(PATIENCE).expect("written");
    }

    /// Everything in a topic, by a plain consumer.
    pub fn read(&self, topic: &str) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", format!("{}-reader", self.prefix))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.message.max.bytes", "100000000")
            // The end is told when nothing has come for so long: with half a second, of a topic that gets two records a second
            // never.
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("a consumer");
        let partitions = self.partitions_of(topic);
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition as i32, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&list).expect("assigned");
        drop(list);
        let (mut records, mut ended) = (Vec::new(), 0);
        while ended < partitions {
            match consumer.poll(PATIENCE).expect("a record or the end") {
                Ok(message) => records.push(copy(&message)),
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{topic}: {error}"),
            }
        }
        records
    }

    /// Without the notes of what was redriven.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        let records = self.read(&self.topic("dead-letter"));
        records.into_iter().filter(|record| record.header("nat.redriven").is_none()).collect()
    }

    // ── the stand-in ─────────────────────────────────────────────────────────────────────────────────────────────

    /// The requests that were answered 2xx.
    pub fn accepted(&self) -> Vec<Entry> {
        self.stand_in.entries().into_iter().filter(|entry| entry.answer < 300).collect()
    }

    /// (email, day) of those, sorted.
    pub fn accepted_days(&self) -> Vec<(String, String)> {
        let pair = |entry: Entry| (entry.email.expect("an email"), entry.day.expect("a day"));
        let mut days: Vec<_> = self.accepted().into_iter().map(pair).collect();
        days.sort();
        days
    }

    // ── the binary ───────────────────────────────────────────────────────────────────────────────────────────────

    /// The binary with this world's settings; more go behind and before them.
    pub fn command(&self, subcommand: &[&str], set: &[&str]) -> Command {
        let mut command = binary();
        command.args(subcommand);
        for setting in self.settings().iter().map(String::as_str).chain(set.iter().copied()) {
            command.args(["--set", setting]);
        }
        command
    }

    /// The same, for what is called within the tests.
    pub fn config(&self) -> Config {
        Config::load(&Sources { set: self.settings(), ..Sources::default() }).expect("right")
    }

    fn settings(&self) -> Vec<String> {
        vec![
            format!("kafka.brokers={}", self.brokers),
            format!("source.topics={}", self.source),
            format!("topics.prefix={}", self.prefix),
            "topics.partitions=3".into(),
            format!("nat.url={}", self.stand_in.url()),
            format!("nat.api_key_file={}", self.key_file().display()),
            "admin.listen=127.0.0.1:0".into(),
            "retry.initial_interval=50ms".into(),
            "circuit.probe_interval=100ms".into(),
            "log.format=json".into(),
        ]
    }

    /// A tool that gets a Ctrl-C once it has said how far it is with what: its exit code, its result, and the rest of what it
    /// says.
    pub fn interrupted(&self, tool: &[&str], set: &[&str], what: &str) -> (Option<i32>, String, String) {
        let mut command = self.command(tool, set);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let is_progress = |line: &String| line.starts_with(&format!("{what}: ")) && line.contains("time left");
        assert!(said.any(|line| is_progress(&line)), "{tool:?} does not say how far it is with {what}");
        interrupt(&child);
        let rest: Vec<String> = said.collect();
        let output = child.wait_with_output().expect("it ends");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"), rest.join("\n"))
    }

    /// `run --until-caught-up`, to its successful end.
    pub fn run_until_caught_up(&self, set: &[&str]) -> Output {
        let output = self.command(&["run", "--until-caught-up"], set).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// `run`, until told otherwise.
    pub fn start(&self, set: &[&str]) -> Instance {
        Instance::start(self.command(&["run"], set))
    }

    /// Polls until it is so.
    pub fn wait(&self, what: &str, is_so: impl FnMut() -> bool) {
        wait(what, is_so);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Left for a look if the test failed.
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// What this one broker knows: a new client has nobody else to ask.
fn partitions_at(broker: &str, topic: &str) -> usize {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", broker).create().expect("a client");
    let metadata = client.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
    metadata.topics().first().map_or(0, |topic| topic.partitions().len())
}

pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat-destination"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NAT_DESTINATION_")) {
        command.env_remove(name);
    }
    command
}

/// As Ctrl-C does, once it is listened to.
pub fn interrupt(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    wait("it listens to Ctrl-C", || {
        let status = std::fs::read_to_string(&status).expect("it runs");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask").trim();
        u64::from_str_radix(mask, 16).expect("bits") & 1 << (2 - 1) != 0
    });
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.expect("it runs").success());
}

pub fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {PATIENCE:?} and still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn copy(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
    }
}

/// One running instance of the service; killed when dropped.
pub struct Instance {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    admin: SocketAddr,
}

impl Instance {
    pub fn start(mut command: Command) -> Instance {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let to = Arc::clone(&log);
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| to.lock().expect("unpoisoned").push(line))
        });
        let mut admin = None;
        wait("the admin server tells its address", || {
            let exited = child.try_wait().expect("its state");
            assert!(exited.is_none(), "it ended: {:?}", log.lock().expect("unpoisoned"));
            admin = log.lock().expect("unpoisoned").iter().find_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                line["message"].as_str()?.starts_with("admin server").then(|| line["address"].as_str()?.parse().ok())?
            });
            admin.is_some()
        });
        Instance { child, log, admin: admin.expect("an address") }
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("unpoisoned").join("\n")
    }

    /// Where its admin server is.
    pub fn admin(&self) -> String {
        self.admin.to_string()
    }

    /// Status and body of a GET from the admin server.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path)
    }

    pub fn wait_until_ready(&self) {
        wait("it is ready", || self.get("/readyz").0 == 200);
    }

    pub fn metrics(&self) -> String {
        self.get("/metrics").1
    }

    /// The sum of a metric's values over the series that hold all of these label texts.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        sum(&self.metrics(), name, labels)
    }

    /// Waits until so many events are settled, and no more come.
    pub fn wait_until_settled(&self, events: u64) {
        wait(&format!("{events} events are settled"), || {
            self.metric("nat_destination_events_total", &[]) as u64 >= events
        });
        assert_eq!(self.metric("nat_destination_events_total", &[]) as u64, events);
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    pub fn is_running(&self) -> bool {
        // Not a zombie: it has been waited for only where it was told to end.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.signal("-TERM");
        let status = self.wait();
        (status, self.log())
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait("it ends", || {
            status = self.child.try_wait().expect("its state");
            status.is_some()
        });
        // What it said last, and why it ended, is in the log once the thread that reads has let go of it.
        wait("its last lines are read", || Arc::strong_count(&self.log) == 1);
        status.expect("ended")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    let series = metrics.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && labels.iter().all(|label| line.contains(label))
    });
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").expect("a body").1.to_owned())
}

/// An identify call in the recommended format, with an id to know it by.
pub fn identify(email: &str, timestamp: &str, id: &str) -> String {
    format!(r#"{{"type":"identify","timestamp":"{timestamp}","traits":{{"email":"{email}"}},"messageId":"{id}"}}"#)
}
