//! The judgement of a run. It knows what was produced and what each event was made for, and reads what came about: the
//! stand-in's log, the topics, the instances' logs and metrics. It asks no code of the product.

mod changelog;
mod engage;
mod leaks;
mod ledger;
mod settled;
mod twice;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use rdkafka::error::KafkaError;

use crate::clock::{self, MILLI, Micros, SECOND, Window};
use crate::cluster::{Cluster, PARTITIONS, Record};
use crate::events::{Event, NUMBER, Produced, SOURCE_PARTITIONS};
use crate::growth::Grown;
use crate::instance::Life;
use crate::nat::Request;
use crate::plan::Kind;
use crate::run::Happened;
use crate::tools;

pub use changelog::{Entry, write};

/// The header of a queue record that a tool has put there.
const ROAD: &str = "nat.road";

/// Everything in the four topics.
pub struct Topics {
    pub source: Vec<Record>,
    pub queue: Vec<Record>,
    pub delivered: Vec<Record>,
    pub letters: Vec<Record>,
}

impl Topics {
    /// The queue has so many partitions, and the changelog.
    pub fn read(cluster: &Cluster, prefix: &str, partitions: i32) -> Result<Topics, KafkaError> {
        Ok(Topics {
            source: cluster.read(&format!("{prefix}-source"), SOURCE_PARTITIONS)?,
            queue: cluster.read(&format!("{prefix}.queue"), partitions)?,
            delivered: cluster.read(&format!("{prefix}.delivered"), partitions)?,
            letters: letters(cluster.read(&format!("{prefix}.dead-letter"), PARTITIONS)?),
        })
    }
}

/// Without the notes of what has been redriven.
fn letters(records: Vec<Record>) -> Vec<Record> {
    records.into_iter().filter(|record| record.header("nat.redriven").is_none()).collect()
}

pub struct Evidence {
    pub produced: Vec<Produced>,
    pub acknowledged: usize,
    pub topics: Topics,
    /// In the order of the decisions.
    pub requests: Vec<Request>,
    pub lives: Vec<Life>,
    pub happened: Vec<Happened>,
    pub grown: Option<Grown>,
    /// Tools that came to their end in time, with their exit codes.
    pub tools: Vec<(Kind, Option<i32>)>,
    pub tool_logs: Vec<(PathBuf, String)>,
    /// What was behind when patience was over.
    pub stuck: Option<String>,
    /// What was not in order at the end.
    pub exits: Vec<String>,
}

/// What is not as promised.
pub struct Violation {
    /// Of the statements in README.md.
    pub statement: u8,
    pub what: String,
}

#[derive(Default)]
pub struct Judgement {
    pub violations: Vec<Violation>,
    /// Second acceptances by reason.
    pub doubled: BTreeMap<&'static str, usize>,
    pub figures: BTreeMap<&'static str, u64>,
    pub letters: BTreeMap<String, u64>,
    pub lost: u64,
    /// Facts that bound or explain the figures.
    pub notes: Vec<String>,
}

impl Judgement {
    pub fn wrong(&mut self, statement: u8, what: String) {
        self.violations.push(Violation { statement, what });
    }

    pub fn count(&mut self, figure: &'static str, by: u64) {
        *self.figures.entry(figure).or_default() += by;
    }
}

/// Where an event stands in the source topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub partition: i32,
    pub offset: i64,
    /// In a batch.
    pub item: Option<usize>,
}

/// One event that is in the source topic, and all that concerns it.
pub struct Case<'a> {
    pub place: Place,
    pub record: &'a Produced,
    pub event: &'a Event,
    pub queued: Vec<&'a Record>,
    pub letters: Vec<&'a Record>,
    /// Numbers in the log, in its order.
    pub requests: Vec<usize>,
}

impl Case<'_> {
    pub fn name(&self) -> String {
        let Place { partition, offset, item } = self.place;
        let item = item.map(|item| format!(" item {item}")).unwrap_or_default();
        format!("event {} (source {partition}:{offset}{item}, {})", self.event.id, self.event.contact)
    }
}

/// The evidence, put in order.
pub struct Court<'a> {
    pub evidence: &'a Evidence,
    pub cases: Vec<Case<'a>>,
    pub by_id: HashMap<&'a str, usize>,
    /// Changelog records by the case that they say was accepted, in the order of their appending.
    pub changelog: HashMap<usize, Vec<Entry>>,
    /// When a life was given queue partitions.
    pub tenures: Vec<Vec<(Micros, Vec<i32>)>>,
}

pub fn judge(evidence: &Evidence) -> Judgement {
    let mut judgement = Judgement::default();
    let mut court = Court::open(evidence, &mut judgement);
    changelog::read(&mut court, &mut judgement);
    settled::judge(&court, &mut judgement);
    twice::judge(&court, &mut judgement);
    engage::judge(&court, &mut judgement);
    ledger::judge(&court, &mut judgement);
    leaks::judge(&court, &mut judgement);
    if let Some(stuck) = &evidence.stuck {
        judgement.wrong(1, format!("STUCK: {stuck}"));
    }
    evidence.exits.iter().for_each(|exit| judgement.wrong(1, exit.clone()));
    tools_work(evidence, &mut judgement);
    if let Some(grown) = &evidence.grown {
        has_grown(evidence, grown, &mut judgement);
    }
    judgement.count("accepted", evidence.requests.iter().filter(|request| request.accepted()).count() as u64);
    judgement.count("requests", evidence.requests.len() as u64);
    judgement
}

/// The tools do what they are there for, and do not crash.
fn tools_work(evidence: &Evidence, judgement: &mut Judgement) {
    for (kind, code) in &evidence.tools {
        judgement.count("tools that came to their end", (*code == Some(0)).into());
        // Brokers die while they work: an error of theirs is none of ours. A panic is, and so is a wrong command line.
        if matches!(code, None | Some(2 | 101)) {
            judgement.wrong(1, format!("{} crashed, or was not understood: {code:?}", kind.name()));
        }
    }
    for (kind, road, figure) in [
        (Kind::Replay, "replay", "queued by replay"),
        (Kind::Backfill, "backfill", "queued by backfill"),
        (Kind::Redrive, "redrive", "queued by redrive"),
    ] {
        let has_come = |record: &&Record| record.header(ROAD).is_some_and(|told| told.split('/').next() == Some(road));
        let queued = evidence.topics.queue.iter().filter(has_come).count() as u64;
        judgement.count(figure, queued);
        let done = evidence.tools.iter().filter(|tool| **tool == (kind, Some(0))).count();
        // There are source events at all times but for the first moments; dead letters need not be there.
        if kind != Kind::Redrive && done > 1 && queued == 0 {
            judgement
                .wrong(1, format!("{} came to its end {done} times, and has put nothing into the queue", kind.name()));
        }
    }
}

/// The resize came to its end, did not crash on the way, and had something to do.
fn has_grown(evidence: &Evidence, grown: &Grown, judgement: &mut Judgement) {
    judgement.notes.push(format!("topics resize ended with {:?} (none: killed)", grown.exits));
    if grown.exits.last() != Some(&Some(0)) {
        judgement.wrong(1, "topics resize did not come to its end".into());
    }
    if grown.exits.iter().any(|exit| matches!(exit, Some(2 | 101))) {
        judgement.wrong(1, "topics resize crashed, or was not understood".into());
    }
    let moved = evidence.topics.queue.iter().filter(|record| grown.has_moved(record)).count() as u64;
    judgement.count("queue records passed over by the resize", grown.passed_over);
    judgement.count("queue records moved by the resize", moved);
    if moved < grown.passed_over {
        judgement.wrong(1, format!("{} records waited, and the resize has moved {moved}", grown.passed_over));
    }
    if grown.passed_over == 0 {
        judgement.wrong(0, "nothing waited in the queue when it grew: this proves little".into());
    }
}

impl<'a> Court<'a> {
    fn open(evidence: &'a Evidence, judgement: &mut Judgement) -> Court<'a> {
        let mut court = Court {
            evidence,
            cases: Vec::new(),
            by_id: HashMap::new(),
            changelog: HashMap::new(),
            tenures: evidence.lives.iter().map(tenures).collect(),
        };
        let by_place = court.take_source(judgement);
        for (records, topic) in [(&evidence.topics.queue, "queue"), (&evidence.topics.letters, "dead-letter")] {
            for record in records {
                match court.case_of(record, &by_place) {
                    Some(number) if topic == "queue" => court.cases[number].queued.push(record),
                    Some(number) => court.cases[number].letters.push(record),
                    None => {
                        let at = format!("{}:{}", record.partition, record.offset);
                        judgement.wrong(1, format!("record {at} of {topic} comes from no event that was produced"));
                    }
                }
            }
        }
        court.take_requests(judgement);
        court
    }

    fn case_of(&self, record: &Record, by_place: &HashMap<Place, usize>) -> Option<usize> {
        if is_backfilled(record) {
            let event = serde_json::from_slice(record.value.as_deref()?).ok()?;
            return self.by_id.get(tools::id(&event)?).copied();
        }
        let place = record.header("nat.source").as_deref().and_then(place)?;
        by_place.get(&place).copied()
    }

    /// The source topic is read back: what is in it was produced. Returns which case stands where.
    fn take_source(&mut self, judgement: &mut Judgement) -> HashMap<Place, usize> {
        let mut seen = vec![false; self.evidence.produced.len()];
        let mut by_place = HashMap::new();
        for found in &self.evidence.topics.source {
            let number = found.header(NUMBER).and_then(|number| number.parse::<usize>().ok());
            let Some((number, record)) = number.and_then(|n| Some((n, self.evidence.produced.get(n)?))) else {
                judgement.wrong(0, format!("source record {}:{} is not ours", found.partition, found.offset));
                continue;
            };
            if found.partition != record.partition {
                judgement.wrong(0, format!("source record {number} is in another partition than it was produced to"));
                continue;
            }
            // Even an idempotent producer's client may write one again when brokers die (it takes a new epoch, and sends again
            // what it has no answer to). Segment's may, too: it is one event, and stands in two places.
            let again = std::mem::replace(&mut seen[number], true);
            judgement.count("records in the source twice", again.into());
            for (item, event) in record.events.iter().enumerate() {
                let item = record.batch.then_some(item);
                let place = Place { partition: found.partition, offset: found.offset, item };
                let known = self.by_id.get(event.id.as_str()).copied().filter(|_| again);
                let case = known.unwrap_or(self.cases.len());
                by_place.insert(place, case);
                if known.is_none() {
                    self.by_id.insert(&event.id, case);
                    let (queued, letters, requests) = (Vec::new(), Vec::new(), Vec::new());
                    self.cases.push(Case { place, record, event, queued, letters, requests });
                }
            }
        }
        let found = seen.iter().filter(|seen| **seen).count();
        if found < self.evidence.acknowledged {
            let told = format!("{} records acknowledged, {found} in the source topic", self.evidence.acknowledged);
            judgement.wrong(0, format!("{told}: Kafka or the harness has lost some"));
        }
        judgement.count("records produced", found as u64);
        judgement.count("events produced", self.cases.len() as u64);
        by_place
    }

    fn take_requests(&mut self, judgement: &mut Judgement) {
        for (number, request) in self.evidence.requests.iter().enumerate() {
            let at = clock::tell(request.arrived);
            if let Some(problem) = &request.problem {
                judgement.wrong(1, format!("a request of life {} at {at} is malformed: {problem}", request.life));
            }
            let Some(said) = &request.said else { continue };
            match self.by_id.get(said.id.as_str()) {
                Some(case) => self.cases[*case].requests.push(number),
                None => {
                    let told =
                        format!("life {} sent event {:?} at {at}, which was not produced", request.life, said.id);
                    judgement.wrong(1, told);
                }
            }
        }
    }

    pub fn request(&self, number: usize) -> &'a Request {
        &self.evidence.requests[number]
    }

    /// The queue partition of an event then: that of its contact.
    pub fn partition(&self, case: &Case<'_>, then: Micros) -> Option<i32> {
        let before = case.queued.iter().filter(|record| record.at <= then);
        before.max_by_key(|record| record.at).or(case.queued.first()).map(|record| record.partition)
    }

    /// When that life was last given that partition before then.
    pub fn given(&self, life: usize, partition: i32, before: Micros) -> Option<Micros> {
        let tenures = self.tenures.get(life)?.iter().rev();
        tenures.filter(|(at, partitions)| *at <= before && partitions.contains(&partition)).map(|(at, _)| *at).next()
    }

    /// The first changelog record that says this was accepted.
    pub fn first_entry(&self, case: usize) -> Option<&Entry> {
        self.changelog.get(&case)?.first()
    }

    pub fn life(&self, number: usize) -> Option<&'a Life> {
        self.evidence.lives.get(number)
    }

    /// Whether the life could not reach a broker, or a broker had trouble of its own, between these times. What a fault
    /// leaves behind (a leader that moves, a client that waits before it connects again) goes on for a few seconds.
    pub fn kafka_trouble(&self, life: usize, from: Micros, to: Micros) -> bool {
        self.kafka_troubles(life).iter().any(|window| window.overlaps(from - 5 * SECOND, to))
    }

    /// Faults of brokers, and of this life's roads to them.
    pub fn kafka_troubles(&self, life: usize) -> Vec<Window> {
        let slot = self.life(life).map(|life| life.slot);
        let concerns = |happened: &&Happened| {
            let (kind, of) = (happened.fault.kind, happened.fault.slot);
            let all = kind.is_of_a_broker() || kind == Kind::CutBrokerForAll;
            all || (kind.is_of_the_road_to_kafka() && Some(of) == slot)
        };
        self.evidence.happened.iter().filter(concerns).map(|happened| happened.window).collect()
    }

    pub fn stopped(&self, life: usize, from: Micros, to: Micros) -> bool {
        self.life(life).is_some_and(|life| life.stops.iter().any(|stop| stop.overlaps(from, to + 500 * MILLI)))
    }

    /// What a reader needs to follow up a request.
    pub fn tell(&self, request: &Request) -> String {
        let log = self.life(request.life).map(|life| life.log.display().to_string()).unwrap_or_default();
        let (at, key) = (clock::tell(request.decided), request.key.get(..8).unwrap_or_default());
        format!("{} at {at} life {} key {key}… {} ({log})", request.status, request.life, request.end.name())
    }
}

/// Whether it comes from a file: it has none of its source record's headers then, nor its key.
pub fn is_backfilled(record: &Record) -> bool {
    record.header("nat.source").is_some_and(|source| source.starts_with("backfill"))
}

/// `topic/partition/offset/timestamp`, and `/item` for one of a batch.
fn place(source: &str) -> Option<Place> {
    let parts: Vec<&str> = source.split('/').collect();
    let item = match parts.get(4) {
        Some(item) => Some(item.parse().ok()?),
        None => None,
    };
    Some(Place { partition: parts.get(1)?.parse().ok()?, offset: parts.get(2)?.parse().ok()?, item })
}

/// From a life's log: when it was given queue partitions.
fn tenures(life: &Life) -> Vec<(Micros, Vec<i32>)> {
    let text = life.log_text();
    let lines = text.lines().filter(|line| line.contains("\"assigned\"") && line.contains("\"deliver\""));
    let tenure = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let at: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
        let partitions = line["partitions"].to_string();
        let numbers = partitions.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
        Some((at.as_microsecond(), numbers.collect()))
    };
    lines.filter_map(tenure).collect()
}
