//! What the stages tell of themselves, and how they are told to stop: plain values over watch channels, so that nothing
//! outside reaches into a loop's state.

use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::watch;

/// How far a partition is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub topic: String,
    pub partition: i32,
    /// The first offset that is not settled.
    pub next: i64,
    /// Of the oldest record not settled, or of the last one that came; Unix milliseconds.
    pub oldest_timestamp: i64,
}

/// That the circuit to Nat.app is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitOpen {
    pub reason: &'static str,
    pub since: Timestamp,
}

/// The record that a stage handles: written by the stage before each, read when it hangs.
#[derive(Debug)]
pub struct Whereabouts {
    partition: AtomicI32,
    /// Below 0: it has not had any.
    offset: AtomicI64,
}

impl Default for Whereabouts {
    fn default() -> Whereabouts {
        Whereabouts { partition: AtomicI32::new(0), offset: AtomicI64::new(-1) }
    }
}

impl Whereabouts {
    pub fn at(&self, partition: i32, offset: i64) {
        self.partition.store(partition, Ordering::Relaxed);
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// Partition and offset, once there was one.
    pub fn last(&self) -> Option<(i32, i64)> {
        let place = (self.partition.load(Ordering::Relaxed), self.offset.load(Ordering::Relaxed));
        (place.1 >= 0).then_some(place)
    }
}

/// What a stage says of itself, several times a second.
#[derive(Debug, Clone)]
pub struct StageStatus {
    /// The group has given it its partitions, be they none.
    pub assigned: bool,
    /// Partitions that wait for their delivered set.
    pub restoring: usize,
    pub circuit: Option<CircuitOpen>,
    /// The group has not confirmed for too long that this instance is a member: nothing is sent.
    pub cut_off: bool,
    /// Nat.app said not to come back before.
    pub held_until: Option<Timestamp>,
    pub positions: Vec<Position>,
    /// Partitions that cannot be read on, since what comes next in them cannot be known. A person has to decide.
    pub stopped: Vec<(String, i32)>,
    /// When it said so: a stage that does not is stuck.
    pub beat: Instant,
}

impl StageStatus {
    pub fn starting() -> StageStatus {
        StageStatus {
            assigned: false,
            restoring: 0,
            circuit: None,
            cut_off: false,
            held_until: None,
            positions: Vec::new(),
            stopped: Vec::new(),
            beat: Instant::now(),
        }
    }
}

/// Tells the stages to stop, and by when.
#[derive(Debug)]
pub struct Stopper(watch::Sender<Option<Ending>>);

/// Hears it.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Option<Ending>>);

#[derive(Debug, Clone)]
struct Ending {
    deadline: Instant,
    not_in_topic: Vec<(String, i32)>,
}

pub fn stopper() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(None);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// The first call counts.
    pub fn stop(&self, deadline: Instant) {
        self.stop_since(deadline, Vec::new());
    }

    /// Since these partitions are not what they were: no offset of theirs means anything any more.
    pub fn stop_since(&self, deadline: Instant, not_in_topic: Vec<(String, i32)>) {
        self.0.send_if_modified(|current| {
            let first = current.is_none();
            current.get_or_insert(Ending { deadline, not_in_topic });
            first
        });
    }
}

impl Stop {
    /// Set once the stage has to end; what is in flight has until then.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.borrow().as_ref().map(|ending| ending.deadline)
    }

    /// Partitions that it has to end for, as `stop_since` says.
    pub fn not_in_topic(&self) -> Vec<(String, i32)> {
        self.0.borrow().as_ref().map(|ending| ending.not_in_topic.clone()).unwrap_or_default()
    }

    /// Returns when the stage has to end.
    pub async fn told(&mut self) -> Option<Instant> {
        loop {
            if let Some(deadline) = self.deadline() {
                return Some(deadline);
            }
            if self.0.changed().await.is_err() {
                // Nobody is left who could tell.
                return std::future::pending().await;
            }
        }
    }
}
