//! A member of a consumer group whose rebalances become notices, answered by the owner of the loop in its own time: the
//! callback never blocks, and a revoke waits (with every partition held by librdkafka) until what is in flight is done.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::KafkaProblem;
use super::clients::log_line;
use crate::config::Start;

pub type TopicPartition = (String, i32);

/// What the group did, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Ours now, once `assign` is called.
    Assign(Vec<TopicPartition>),
    /// Ours until `unassign` is called.
    Revoke(Vec<TopicPartition>),
    /// Not ours any more: drop everything, commit nothing.
    Lost(Vec<TopicPartition>),
}

/// What a poll may fail with.
#[derive(Debug)]
pub enum PollError {
    /// The client goes on by itself.
    Passing(String),
    /// The next record of a partition is not there any more; which one's, `find_places_again` finds out.
    OffsetGone,
    /// The stage has to stop.
    Fatal(KafkaProblem),
}

/// What `find_places_again` found.
#[derive(Debug, Default)]
pub struct Lacking {
    /// Partitions of which records were deleted before they were read.
    pub gone: Vec<Gone>,
    /// Partitions that are not read on.
    pub stopped: Vec<TopicPartition>,
}

#[derive(Debug)]
pub struct Gone {
    pub place: TopicPartition,
    pub records: u64,
    /// The first offset that is left, or the end.
    pub first: i64,
}

pub struct GroupContext {
    notices: Mutex<VecDeque<Notice>>,
    /// The rebalance that `assign` or `unassign` still has to answer: librdkafka waits for it, at the close too.
    owed: Mutex<Option<Notice>>,
    /// While closing, partitions are handed back at once.
    closing: AtomicBool,
    /// A commit that will never be taken, told by the next poll.
    refused: Mutex<Option<RDKafkaErrorCode>>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason, "client error");
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        // Plain tuples: a list that lives on makes the consumer's drop hang.
        let partitions: Vec<TopicPartition> =
            list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        let closing = self.closing.load(Ordering::Acquire);
        let notice = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if closing => {
                log_failure("assign", consumer.incremental_assign(list));
                return;
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Notice::Assign(partitions),
            _ if closing || consumer.assignment_lost() => {
                log_failure("unassign", consumer.incremental_unassign(list));
                Notice::Lost(partitions)
            }
            _ => Notice::Revoke(partitions),
        };
        self.owe((!matches!(notice, Notice::Lost(_))).then(|| notice.clone()));
        if let Ok(mut notices) = self.notices.lock() {
            notices.push_back(notice);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        match result {
            Ok(()) => {}
            // Nothing stored since the last commit.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(KafkaError::ConsumerCommit(
                code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed),
            )) => {
                if let Ok(mut refused) = self.refused.lock() {
                    *refused = Some(code);
                }
            }
            // What was settled will be read again by whoever reads next, and be a duplicate: nothing is lost.
            Err(error) => tracing::warn!(%error, "offsets were not committed; the next commit will"),
        }
    }
}

impl GroupContext {
    fn owe(&self, notice: Option<Notice>) {
        if let Ok(mut owed) = self.owed.lock() {
            *owed = notice;
        }
    }
}

fn log_failure(what: &str, result: KafkaResult<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "{what} failed");
    }
}

/// The metadata of a committed offset that is not in its topic. It stays with the group: by the next start the topic may have
/// grown past that offset, and reading on from there would pass over what lies before. Whoever sets the offset with Kafka's tools
/// takes it away.
pub(super) const NOT_IN_TOPIC: &str = "not in the topic";

/// How long it is waited before a partition is asked whether it is read, and again. One that was just taken over is not, for a
/// moment.
const DOUBT: Duration = Duration::from_secs(2);

/// A partition's offset was not in its topic, and is by now: it grew meanwhile. Which one's, the client does not tell.
struct Doubt {
    look_at: Instant,
    /// Those that were not read at the last look.
    unread: Vec<TopicPartition>,
}

pub struct GroupConsumer {
    consumer: BaseConsumer<GroupContext>,
    doubt: Mutex<Option<Doubt>>,
    /// Partitions that are not read on, with the offset that is not in them.
    stopped: Mutex<HashMap<TopicPartition, i64>>,
    /// Where each partition began: its position until something of it is read.
    begins: Mutex<HashMap<TopicPartition, i64>>,
    timeout: Duration,
}

impl GroupConsumer {
    /// # Errors
    /// When a property is not one, or the subscription is malformed.
    pub fn subscribe(
        client: &ClientConfig,
        topics: &[String],
        timeout: Duration,
    ) -> Result<GroupConsumer, KafkaProblem> {
        let context = GroupContext {
            notices: Mutex::default(),
            owed: Mutex::default(),
            closing: AtomicBool::new(false),
            refused: Mutex::default(),
        };
        let consumer = BaseConsumer::from_config_and_context(client, context)
            .map_err(|error| KafkaProblem::Properties(error.to_string()))?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        consumer
            .subscribe(&names)
            .map_err(|error| KafkaProblem::Failed { what: format!("subscribing to {names:?}"), error })?;
        let (stopped, begins, doubt) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(GroupConsumer { consumer, doubt, stopped, begins, timeout })
    }

    /// The next record, if one comes within `timeout`. Serves rebalances too: read the notices after each call.
    pub fn poll(&self, timeout: Duration) -> Option<Result<BorrowedMessage<'_>, PollError>> {
        if let Some(code) = self.consumer.context().refused.lock().ok().and_then(|mut refused| refused.take()) {
            return Some(Err(poll_error(KafkaError::ConsumerCommit(code))));
        }
        if self.doubt.lock().is_ok_and(|doubt| doubt.as_ref().is_some_and(|doubt| Instant::now() >= doubt.look_at)) {
            return Some(Err(PollError::OffsetGone));
        }
        Some(self.consumer.poll(timeout)?.map_err(poll_error))
    }

    pub fn next_notice(&self) -> Option<Notice> {
        self.consumer.context().notices.lock().ok()?.pop_front()
    }

    /// Takes over partitions, each from its committed offset, or from `start` where there is none. Returns the offset
    /// that each begins at. Store those: a start that was chosen must not be chosen anew after a restart.
    ///
    /// # Errors
    /// When the committed offsets cannot be had.
    pub fn assign(
        &self,
        partitions: &[TopicPartition],
        start: Start,
        paused: bool,
    ) -> Result<Vec<(TopicPartition, i64)>, KafkaProblem> {
        let mut begins = Vec::new();
        if !partitions.is_empty() {
            let mut list = self.committed(partitions)?;
            let fresh: Vec<TopicPartition> = list
                .elements()
                .iter()
                .filter(|element| !matches!(element.offset(), Offset::Offset(_)))
                .map(|element| (element.topic().to_owned(), element.partition()))
                .collect();
            for (topic, partition) in fresh {
                let offset = self.first_offset(&topic, partition, start)?;
                list.set_partition_offset(&topic, partition, Offset::Offset(offset))
                    .map_err(failed("choosing an offset"))?;
            }
            for element in list.elements() {
                if let Offset::Offset(offset) = element.offset() {
                    begins.push(((element.topic().to_owned(), element.partition()), offset));
                }
            }
            self.remember_stopped(partitions, &list);
            self.consumer.incremental_assign(&list).map_err(failed("taking over partitions"))?;
            if let Ok(mut known) = self.begins.lock() {
                known.extend(begins.iter().cloned());
            }
        } else {
            // An empty assignment has to be acknowledged too.
            self.consumer
                .incremental_assign(&TopicPartitionList::new())
                .map_err(failed("taking over no partitions"))?;
        }
        self.consumer.context().owe(None);
        // The flag can outlive an assignment: set it either way.
        if paused {
            self.pause(partitions)
        } else {
            self.pause(&self.stopped_of(partitions));
            self.resume(partitions)
        }
        Ok(begins)
    }

    /// Those that an earlier run has found not to be in their topic, whatever the topic holds by now.
    fn remember_stopped(&self, partitions: &[TopicPartition], committed: &TopicPartitionList) {
        let Ok(mut stopped) = self.stopped.lock() else { return };
        stopped.retain(|place, _| !partitions.contains(place));
        for element in committed.elements().iter().filter(|element| element.metadata() == NOT_IN_TOPIC) {
            if let Offset::Offset(offset) = element.offset() {
                tell_stopped(element.topic(), element.partition(), offset, "found by an earlier run".into());
                stopped.insert((element.topic().to_owned(), element.partition()), offset);
            }
        }
    }

    /// Those of these partitions that are not read on.
    pub fn stopped_of(&self, partitions: &[TopicPartition]) -> Vec<TopicPartition> {
        let Ok(stopped) = self.stopped.lock() else { return Vec::new() };
        partitions.iter().filter(|place| stopped.contains_key(*place)).cloned().collect()
    }

    /// Reads these no more, those of them that are ours: what they hold now is not what the offsets mean.
    ///
    /// # Errors
    /// When the positions cannot be had.
    pub fn stop_reading(&self, places: &[TopicPartition]) -> Result<(), KafkaProblem> {
        let positions = if places.is_empty() { Vec::new() } else { self.positions()? };
        positions.iter().filter(|(place, _)| places.contains(place)).for_each(|(place, next)| self.stop(place, *next));
        Ok(())
    }

    /// Reads a partition no more, and keeps that in mind beyond this process.
    fn stop(&self, place: &TopicPartition, offset: i64) {
        if let Ok(mut stopped) = self.stopped.lock() {
            stopped.insert(place.clone(), offset);
        }
        self.pause(std::slice::from_ref(place));
        // Stored too: what was stored before would be committed later, and say nothing.
        let list = self.to_commit(&[(place.clone(), offset)]);
        let stored = self.consumer.store_offsets(&list);
        if let Err(error) = stored.and_then(|()| self.consumer.commit(&list, CommitMode::Sync)) {
            tracing::warn!(%error, "the group could not be told that the offset is not in the topic");
        }
    }

    /// These offsets; of a partition that is not read on, the one that says so.
    fn to_commit(&self, offsets: &[(TopicPartition, i64)]) -> TopicPartitionList {
        let stopped = self.stopped.lock().map(|stopped| stopped.clone()).unwrap_or_default();
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (place, offset) in offsets {
            let mut element = list.add_partition(&place.0, place.1);
            let at = stopped.get(place).copied();
            if let Err(error) = element.set_offset(Offset::Offset(at.unwrap_or(*offset))) {
                tracing::warn!(%error, topic = place.0, partition = place.1, offset, "no offset");
            }
            if at.is_some() {
                element.set_metadata(NOT_IN_TOPIC);
            }
        }
        list
    }

    /// Looks at every partition of ours whose next record is not there. Where Kafka has deleted records before they were
    /// read, that is told, and reading goes on at the first one left. Where the position lies behind the end, the topic was
    /// made anew or cut, and what comes next cannot be known: it is not read on. `is_paused` says which of them are not to be
    /// read at the moment.
    ///
    /// # Errors
    /// When the brokers do not tell.
    pub fn find_places_again(&self, is_paused: impl Fn(&TopicPartition) -> bool) -> Result<Lacking, KafkaProblem> {
        let mut lacking = Lacking::default();
        let positions = self.positions()?;
        let places: Vec<TopicPartition> = positions.iter().map(|(place, _)| place.clone()).collect();
        lacking.stopped = self.stopped_of(&places);
        let (known, mut in_range) = (lacking.stopped.len(), Vec::new());
        for (place, next) in positions {
            if lacking.stopped.contains(&place) {
                continue;
            }
            let (topic, partition) = (place.0.as_str(), place.1);
            let (low, high) = patiently("reading a partition's ends", || {
                self.consumer.fetch_watermarks(topic, partition, self.timeout)
            })?;
            if next < low {
                let records = low - next;
                tracing::error!(
                    topic,
                    partition,
                    next,
                    first = low,
                    records,
                    "records were deleted before they were read: the topic's retention has overtaken this program. \
                     It goes on at the first one left"
                );
                self.begin_at(&place, low).map_err(failed("going on at the first record left"))?;
                if is_paused(&place) {
                    self.pause(std::slice::from_ref(&place));
                }
                lacking.gone.push(Gone { place, records: records.unsigned_abs(), first: low });
            } else if next > high {
                tell_stopped(topic, partition, next, format!("end {high}"));
                self.stop(&place, next);
                lacking.stopped.push(place);
            } else {
                in_range.push((place, next));
            }
        }
        let is_found = !lacking.gone.is_empty() || lacking.stopped.len() > known;
        lacking.stopped.extend(self.resolve_doubt(is_found, &in_range));
        Ok(lacking)
    }

    /// Of partitions whose offset is in their topic, those that the client has given up all the same: their topic has grown past
    /// the offset since, and what lies before it would be passed over. Looked for when nothing else explains an error.
    fn resolve_doubt(&self, is_found: bool, in_range: &[(TopicPartition, i64)]) -> Vec<TopicPartition> {
        let Ok(mut doubt) = self.doubt.lock() else { return Vec::new() };
        let now = Instant::now();
        let Some(due) = doubt.take_if(|doubt| now >= doubt.look_at) else {
            if !is_found {
                doubt.get_or_insert(Doubt { look_at: now + DOUBT, unread: Vec::new() });
            }
            return Vec::new();
        };
        let unread = match self.not_fetched(in_range) {
            Ok(unread) => unread,
            Err(error) => {
                tracing::debug!(%error, "whether all partitions are read is not known; it is asked again");
                *doubt = Some(Doubt { look_at: now + DOUBT, ..due });
                return Vec::new();
            }
        };
        let (sure, not_yet): (Vec<_>, Vec<_>) = unread.into_iter().partition(|(place, _)| due.unread.contains(place));
        if !not_yet.is_empty() {
            let unread = not_yet.into_iter().map(|(place, _)| place).collect();
            *doubt = Some(Doubt { look_at: now + DOUBT, unread });
        }
        for (place, next) in &sure {
            tell_stopped(&place.0, place.1, *next, "passed it since".into());
            self.stop(place, *next);
        }
        sure.into_iter().map(|(place, _)| place).collect()
    }

    /// Those that the client fetches nothing of: it seeks in no such partition. The others are sought in where they stand.
    fn not_fetched(&self, positions: &[(TopicPartition, i64)]) -> KafkaResult<Vec<(TopicPartition, i64)>> {
        if positions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for ((topic, partition), next) in positions {
            list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        let sought = self.consumer.seek_partitions(list, self.timeout)?;
        // A position is not known again before something is read.
        if let Ok(mut begins) = self.begins.lock() {
            begins.extend(positions.iter().cloned());
        }
        let is_refused = |((topic, partition), _): &&(TopicPartition, i64)| {
            let error = sought.find_partition(topic, *partition).and_then(|element| element.error().err());
            error.is_some_and(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::State))
        };
        Ok(positions.iter().filter(is_refused).cloned().collect())
    }

    /// A partition whose offset was refused cannot be sought in: it is given up and taken over again. Nothing is left before that
    /// offset, so the group goes on there too: what is gone is told once.
    fn begin_at(&self, place: &TopicPartition, offset: i64) -> KafkaResult<()> {
        let mut list = list_of(std::slice::from_ref(place));
        self.consumer.incremental_unassign(&list)?;
        list.set_partition_offset(&place.0, place.1, Offset::Offset(offset))?;
        self.consumer.incremental_assign(&list)?;
        if let Ok(mut begins) = self.begins.lock() {
            begins.insert(place.clone(), offset);
        }
        self.store(&[(place.clone(), offset)]);
        Ok(())
    }

    /// The next offset of each partition of ours.
    fn positions(&self) -> Result<Vec<(TopicPartition, i64)>, KafkaProblem> {
        // Plain tuples: lists that live on make the consumer's drop hang.
        let list = self.consumer.position().map_err(failed("reading the positions"))?;
        let begins = self.begins.lock().map(|begins| begins.clone()).unwrap_or_default();
        let position = |topic: &str, partition: i32, offset: Offset| {
            let place = (topic.to_owned(), partition);
            let next = if let Offset::Offset(next) = offset { Some(next) } else { begins.get(&place).copied() };
            Some((place, next?))
        };
        Ok(list.elements().iter().filter_map(|e| position(e.topic(), e.partition(), e.offset())).collect())
    }

    fn committed(&self, partitions: &[TopicPartition]) -> Result<TopicPartitionList, KafkaProblem> {
        patiently("reading the group's committed offsets", || {
            let list = self.consumer.committed_offsets(list_of(partitions), self.timeout)?;
            // An error here is not "never read": the partition would begin somewhere else.
            list.elements().iter().try_for_each(|element| element.error())?;
            Ok(list)
        })
    }

    fn first_offset(&self, topic: &str, partition: i32, start: Start) -> Result<i64, KafkaProblem> {
        let (low, high) =
            patiently("reading a partition's ends", || self.consumer.fetch_watermarks(topic, partition, self.timeout))?;
        Ok(if start == Start::Earliest { low } else { high })
    }

    /// Hands partitions back, after `store`.
    pub fn unassign(&self, partitions: &[TopicPartition]) {
        self.consumer.context().owe(None);
        log_failure("handing partitions back", self.consumer.incremental_unassign(&list_of(partitions)));
    }

    /// Stores the offsets to be committed: the next ones to read. A partition that is not ours any more is passed over.
    pub fn store(&self, offsets: &[(TopicPartition, i64)]) {
        if offsets.is_empty() {
            return;
        }
        match self.consumer.store_offsets(&self.to_commit(offsets)) {
            Ok(()) | Err(KafkaError::StoreOffset(RDKafkaErrorCode::State)) => {}
            Err(error) => tracing::warn!(%error, "offsets were not stored; the next ones will be"),
        }
    }

    /// Whether the coordinator takes a commit of this member's, which it does of a member only. Waits for it, or for librdkafka
    /// to give up: about a minute while no coordinator answers. The offsets are the ones that were stored last, so that it
    /// changes nothing.
    pub fn is_member(&self, offsets: &[(TopicPartition, i64)]) -> bool {
        match self.consumer.commit(&self.to_commit(offsets), CommitMode::Sync) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "the group does not confirm that this instance is a member");
                false
            }
        }
    }

    pub fn pause(&self, partitions: &[TopicPartition]) {
        log_failure("pausing", self.consumer.pause(&list_of(partitions)));
    }

    /// librdkafka does not wake the threads that fetch: they find out up to a second later. A question to a partition's
    /// leader wakes its thread; the answer is not waited for.
    pub fn resume(&self, partitions: &[TopicPartition]) {
        let stopped = self.stopped_of(partitions);
        let read: Vec<_> = partitions.iter().filter(|place| !stopped.contains(place)).cloned().collect();
        log_failure("resuming", self.consumer.resume(&list_of(&read)));
        for (topic, partition) in &read {
            let _not_waited_for = self.consumer.fetch_watermarks(topic, *partition, Duration::ZERO);
        }
    }
}

/// Leaves the group; what was stored is committed. Takes up to a few seconds, so not for a runtime's thread.
impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.consumer.context().closing.store(true, Ordering::Release);
        let owed = self.consumer.context().owed.lock().ok().and_then(|mut owed| owed.take());
        match owed {
            Some(Notice::Revoke(partitions)) => self.unassign(&partitions),
            Some(Notice::Assign(_)) => {
                log_failure("closing", self.consumer.incremental_assign(&TopicPartitionList::new()))
            }
            Some(Notice::Lost(_)) | None => {}
        }
    }
}

fn tell_stopped(topic: &str, partition: i32, next: i64, end: String) {
    tracing::error!(
        topic,
        partition,
        next,
        end,
        "this partition is not read on: the next record would stand behind its end, so the topic was made anew, or cut. \
         Nobody but you can know where to go on: stop this program, set the group's offset with kafka-consumer-groups.sh \
         --reset-offsets (--to-earliest reads all of it; dedup makes that safe), and start it again"
    );
}

/// A coordinator may be moving just now. Well within max.poll.interval.ms, since nobody polls meanwhile.
fn patiently<T>(what: &'static str, ask: impl Fn() -> KafkaResult<T>) -> Result<T, KafkaProblem> {
    use RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
    const PATIENCE: Duration = Duration::from_secs(30);
    let began = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => {
                let code = error.rdkafka_error_code();
                let is_final = matches!(code, Some(GroupAuthorizationFailed | TopicAuthorizationFailed));
                if is_final || began.elapsed() > PATIENCE {
                    return Err(failed(what)(error));
                }
                tracing::warn!(%error, "{what} failed; trying again");
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

fn failed(what: &'static str) -> impl Fn(KafkaError) -> KafkaProblem {
    move |error| KafkaProblem::Failed { what: what.into(), error }
}

fn list_of(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

fn poll_error(error: KafkaError) -> PollError {
    let fatal = |problem: &str| PollError::Fatal(KafkaProblem::Stopped(problem.to_owned()));
    match error.rdkafka_error_code() {
        _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
            PollError::Fatal(KafkaProblem::Failed { what: "the consumer has failed for good".into(), error })
        }
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => PollError::OffsetGone,
        Some(RDKafkaErrorCode::PollExceeded) => fatal(
            "this process did not poll Kafka within max.poll.interval.ms and has been put out of its group; \
             it was stopped or starved for that long. Start it again",
        ),
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => fatal(
            "the broker does not let this program read the topic (any more); ask for the ACL READ and DESCRIBE on it",
        ),
        Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
            fatal("the broker does not let this program join its group (any more); ask for the ACL READ on the group")
        }
        Some(RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::Authentication) => {
            fatal("kafka.properties.sasl.*: the broker refuses the credentials")
        }
        _ => PollError::Passing(error.to_string()),
    }
}
