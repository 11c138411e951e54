//! The queue grows in the middle of a run. Nat.app goes away, so that events wait in the queue; every instance is killed or
//! told to end; `topics resize` is killed and begun again while brokers die; then the instances go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::{self, Window};
use crate::cluster::{PARTITIONS, Record, behind};
use crate::plan::{Fault, Growth, Kind, SLOTS};
use crate::run::{Happened, Run, ended};

/// Partitions of the queue from then on.
pub const GROWN: i32 = 2 * PARTITIONS;
/// Nat.app is away for so long before the instances end.
const OUTAGE: Duration = Duration::from_secs(4);
/// How long it may take in all once nothing runs, with brokers that die.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of it, as evidence.
#[derive(Debug, Clone)]
pub struct Grown {
    /// While no instance ran.
    pub window: Window,
    /// Records that waited in the old partitions, which nobody settles there any more.
    pub passed_over: u64,
    /// How each run of `topics resize` has ended; none: it was killed.
    pub exits: Vec<Option<i32>>,
}

impl Grown {
    /// Whether the resize has put that record into the queue: nothing else was there to do it.
    pub fn has_moved(&self, record: &Record) -> bool {
        (self.window.from..=self.window.to).contains(&record.at)
    }
}

impl Run<'_> {
    pub async fn grow(&mut self, growth: &Growth) -> Result<(Grown, Vec<Happened>), String> {
        let outage = Fault { at: Duration::ZERO, length: OUTAGE, kind: Kind::Nat503, slot: 0, broker: 0, share: 1.0 };
        let mut happened = vec![self.end_in_an_outage(growth, outage).await];
        let waiting = self.waiting().await?;
        println!("nothing runs, {waiting} events wait in the queue; topics resize --partitions {GROWN}");
        let from = clock::now();
        let faults = self.begin_faults(&growth.faults);
        let exits = self.resize(growth).await;
        happened.extend(ended(faults).await);
        let window = Window { from, to: clock::now() };
        self.partitions = GROWN;
        (0..self.settings.instances).for_each(|slot| self.instances.want(slot));
        Ok((Grown { window, passed_over: waiting, exits }, happened))
    }

    async fn end_in_an_outage(&self, growth: &Growth, outage: Fault) -> Happened {
        let from = clock::now();
        // A number that none of the plan's has.
        self.world.nat.apply(usize::MAX, outage);
        tokio::time::sleep(outage.length).await;
        // The last phase's faults may have left the groups without anybody who queues.
        let began = Instant::now();
        while began.elapsed() < PATIENCE && !self.waiting().await.is_ok_and(|waiting| waiting > 0) {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        for slot in 0..SLOTS {
            if growth.killed[slot] { self.instances.kill(slot) } else { self.instances.terminate(slot) }
        }
        while self.instances.running() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.world.nat.lift(usize::MAX);
        Happened { fault: outage, window: Window { from, to: clock::now() } }
    }

    /// Records of the queue that are not committed.
    async fn waiting(&self) -> Result<u64, String> {
        let (cluster, prefix) = (Arc::clone(&self.world.cluster), self.prefix.to_owned());
        let ask = move || cluster.progress(&format!("{prefix}.deliver"), &format!("{prefix}.queue"), PARTITIONS);
        let progress = tokio::task::spawn_blocking(ask).await.map_err(|error| error.to_string())?;
        progress.map(|progress| behind(&progress) as u64).map_err(|error| format!("reading what waits: {error}"))
    }

    /// Again and again until it ends with 0: killed a few times, and refused while the group waits for those that were killed.
    async fn resize(&self, growth: &Growth) -> Vec<Option<i32>> {
        let (began, mut exits, mut kills) = (Instant::now(), Vec::new(), growth.kills.iter());
        let mut kill = kills.next();
        while began.elapsed() < PATIENCE {
            let tools = Arc::clone(&self.tools);
            let limit = *kill.unwrap_or(&PATIENCE);
            let exit = tokio::task::spawn_blocking(move || tools.resize(GROWN, limit)).await;
            let exit = exit.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            match exit {
                Ok(exit) => exits.push(exit),
                Err(error) => eprintln!("topics resize cannot be run: {error}"),
            }
            match exits.last() {
                Some(Some(0)) => break,
                // That one was killed.
                Some(None) => kill = kills.next(),
                _ => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        exits
    }
}
