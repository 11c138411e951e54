//! `topics resize`: the queue gets more partitions, and no contact loses its history.
//!
//! More partitions move contacts to other ones. So nothing may run meanwhile; the layout topic says that a resize is under
//! way, and what starts refuses. Then the topics grow ([`kafka::grow`]), what was delivered is copied to wherever its contact
//! can be now (`carry`), and what waits in the queue is put into its contact's new partition (`rekey`). The last write
//! says that it is done. Each step can be done twice: a resize that was stopped anywhere goes on when it is run again.
//! Blocking: for a thread.

mod carry;
mod claim;
mod plan;
mod rekey;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::kafka::{self, KafkaProblem, Layout, Resizing, TopicPartition};

use claim::{Claim, YIELDING};
pub use plan::Unwilling;

#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    #[error(transparent)]
    Kafka(#[from] KafkaProblem),
    /// The same, before anything was changed.
    #[error("{0}")]
    Unbegun(KafkaProblem),
    #[error(transparent)]
    Unwilling(#[from] Unwilling),
    /// `begun`: until it is finished no instance starts.
    #[error("told to stop")]
    Stopped { begun: bool },
}

impl ResizeError {
    fn of(self, begun: bool) -> ResizeError {
        match self {
            ResizeError::Kafka(problem) if !begun => ResizeError::Unbegun(problem),
            error => error,
        }
    }
}

/// Who looks on: is told how far it is, and tells when to stop.
pub trait Onlooker {
    /// A step of so many records begins.
    fn begins(&mut self, step: &'static str, total: u64);
    /// So many of them are done.
    fn at(&mut self, done: u64);
    fn says(&mut self, line: &str);
    fn stopped(&self) -> bool;
}

/// What a resize has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resized {
    pub from: usize,
    pub to: usize,
    /// Contact-days and Engage values that are remembered.
    pub entries: u64,
    /// Copies of them that were written.
    pub copies: u64,
    /// Records of `delivered` that this version cannot read. They stay where they are.
    pub unreadable: u64,
    /// Events that waited in the queue and are keyed anew.
    pub moved: u64,
}

/// How long an instance may take from reading the layout to joining its groups.
const JOINING: Duration = Duration::from_secs(5);

/// Grows the queue and `delivered` to so many partitions, or goes on where an earlier resize was stopped.
///
/// # Errors
/// When it is not possible, when instances run, when Kafka refuses something, and when it is told to stop.
pub fn resize(config: &Config, to: usize, onlooker: &mut dyn Onlooker) -> Result<Resized, ResizeError> {
    let (claim, runtime) = (Claim::new(to), tokio::runtime::Handle::current());
    let begun = runtime.block_on(begin(config, to, &claim, onlooker))?;
    match finish(config, begun, &claim, &mut claim.watched(config, onlooker)) {
        // Not by whom looks on: it is told who has come.
        Err(ResizeError::Stopped { .. }) if claim.is_lost() => {
            runtime.block_on(claim.verify(config))?;
            Err(Unwilling::TakenOver { to }.into())
        }
        done => done,
    }
}

/// The steps. Before each that another one must not see done behind its back it looks whether it is to be done here.
fn finish(
    config: &Config,
    (layout, resizing): (Layout, Resizing),
    claim: &Claim,
    onlooker: &mut dyn Onlooker,
) -> Result<Resized, ResizeError> {
    let (runtime, to) = (tokio::runtime::Handle::current(), resizing.to);
    onlooker.says(&format!("growing {:?} and {:?} to {to} partitions", config.topics.delivered, config.topics.queue));
    // First `delivered`: where the queue has a partition, its history has one.
    runtime.block_on(kafka::grow(config, &config.topics.delivered, to))?;
    runtime.block_on(kafka::grow(config, &config.topics.queue, to))?;
    go_on(onlooker)?;
    let mut resized = Resized { from: layout.partitions, to, ..Resized::default() };
    carry::carry(config, layout.partitions, &resizing, onlooker, &mut resized)?;
    runtime.block_on(claim.verify(config))?;
    let resizing = runtime.block_on(fix_ends(config, &layout, resizing))?;
    let frontier = rekey::rekey(config, &resizing, onlooker, &mut resized)?;
    runtime.block_on(claim.verify(config))?;
    frontier.pass()?;
    runtime.block_on(claim.verify(config))?;
    runtime.block_on(kafka::write_layout(config, &Layout::of(to)))?;
    Ok(resized)
}

fn go_on(onlooker: &dyn Onlooker) -> Result<(), ResizeError> {
    if onlooker.stopped() { Err(ResizeError::Stopped { begun: true }) } else { Ok(()) }
}

/// Says in the layout that a resize is under way, when nothing runs. One that was stopped before the ends were fixed may have
/// been so in the middle of looking: it looks again. One that goes on does not know whether the other was killed.
async fn begin(
    config: &Config,
    to: usize,
    claim: &Claim,
    onlooker: &mut dyn Onlooker,
) -> Result<(Layout, Resizing), ResizeError> {
    let queue = kafka::partitions(config, &config.topics.queue).await.map_err(ResizeError::Unbegun)?.len();
    let delivered = kafka::partitions(config, &config.topics.delivered).await.map_err(ResizeError::Unbegun)?.len();
    // Without a layout the smaller one tells how contacts were keyed: partitions that are added by hand only make more.
    let made_with = queue.min(delivered);
    let before = kafka::ensure_layout(config, made_with).await.map_err(ResizeError::Unbegun)?;
    let resizing = claim.on(plan::plan(&before, queue, delivered, to)?);
    let goes_on = before.resizing.is_some();
    refuse_while_running(config).await.map_err(|refused| refused.of(goes_on))?;
    let during = before.with(resizing.clone());
    if goes_on {
        onlooker.says(&format!("going on with the resize from {} to {to} partitions", before.partitions));
    } else {
        // Once the layout says so there is no way back.
        kafka::may_grow(config, &config.topics.delivered, to).await.map_err(ResizeError::Unbegun)?;
        kafka::may_grow(config, &config.topics.queue, to).await.map_err(ResizeError::Unbegun)?;
    }
    claim.take(config, &before, &during).await?;
    if resizing.ends.is_some() {
        onlooker
            .says(&format!("waiting {} s for an earlier run of this, should it be at it still", YIELDING.as_secs()));
        tokio::time::sleep(YIELDING).await;
        return claim.verify(config).await.map(|()| (during, resizing));
    }
    // `delivered` grows first.
    let is_untouched = !goes_on || delivered < to;
    let refused = match look(config, onlooker).await {
        Ok(()) if onlooker.stopped() => ResizeError::Stopped { begun: !is_untouched },
        Ok(()) => return claim.verify(config).await.map(|()| (during, resizing)),
        Err(refused) => refused,
    };
    if is_untouched {
        claim.verify(config).await?;
        kafka::write_layout(config, &Layout::of(before.partitions)).await?;
    }
    Err(refused)
}

/// Whether anything runs or writes: who has read the layout before it was written may join only now.
async fn look(config: &Config, onlooker: &mut dyn Onlooker) -> Result<(), ResizeError> {
    let queue = kafka::partitions(config, &config.topics.queue).await?;
    let ends = kafka::patient_ends(config, queue).await?;
    onlooker.says(&format!("waiting {} s for instances that may have been starting", JOINING.as_secs()));
    tokio::time::sleep(JOINING).await;
    refuse_while_running(config).await?;
    refuse_while_written(config, &ends).await
}

async fn refuse_while_running(config: &Config) -> Result<(), ResizeError> {
    for group in [&config.source.group, &config.topics.deliver_group] {
        let members = kafka::members(config, group).await?;
        if !members.is_empty() {
            return Err(Unwilling::Running { group: group.clone(), members }.into());
        }
    }
    Ok(())
}

/// Tools that write into the queue are in no group.
async fn refuse_while_written(
    config: &Config,
    before: &BTreeMap<TopicPartition, (i64, i64)>,
) -> Result<(), ResizeError> {
    let ends = kafka::patient_ends(config, before.keys().cloned().collect()).await?;
    let grown = ends.iter().any(|(place, (_, end))| before.get(place).is_some_and(|(_, before)| before < end));
    if grown { Err(Unwilling::Written { queue: config.topics.queue.clone() }.into()) } else { Ok(()) }
}

/// Keeps in mind up to where the queue has to be keyed anew: what is moved comes to lie behind that.
async fn fix_ends(config: &Config, layout: &Layout, resizing: Resizing) -> Result<Resizing, ResizeError> {
    if resizing.ends.is_some() {
        return Ok(resizing);
    }
    let places = kafka::partitions(config, &config.topics.queue).await?;
    // In the order of the partitions.
    let ends = kafka::patient_ends(config, places).await?.into_values().map(|(_, end)| end).collect();
    let resizing = Resizing { ends: Some(ends), ..resizing };
    kafka::write_layout(config, &layout.with(resizing.clone())).await?;
    Ok(resizing)
}
