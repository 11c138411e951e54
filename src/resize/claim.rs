//! Of two resizes the later one goes on. Nobody can tell one that was killed from one that is slow, so the first cannot keep
//! the second out: each writes a number of its own into the layout, and stops when another stands there. It looks twice a
//! second, and again before each step that the other must not see done behind its back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Onlooker, ResizeError, Unwilling};
use crate::config::Config;
use crate::kafka::{self, Layout, Resizing};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long one that goes on gives the other to find out, and to end what it has begun to write.
pub const YIELDING: Duration = Duration::from_secs(3);

pub struct Claim {
    by: u64,
    to: usize,
    lost: Arc<AtomicBool>,
}

/// Stops when the claim is lost; else as the one who looks on.
pub struct Watched<'a> {
    onlooker: &'a mut dyn Onlooker,
    lost: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Claim {
    pub fn new(to: usize) -> Claim {
        // 0 is an earlier version's, which had none.
        Claim { by: fastrand::u64(1..), to, lost: Arc::default() }
    }

    pub fn on(&self, resizing: Resizing) -> Resizing {
        Resizing { by: self.by, ..resizing }
    }

    /// Writes `during` in the place of `before`, and gives way to one who did so in between.
    ///
    /// # Errors
    /// When another one has ended meanwhile, or came later.
    pub async fn take(&self, config: &Config, before: &Layout, during: &Layout) -> Result<(), ResizeError> {
        kafka::write_layout(config, during).await?;
        let layouts = kafka::read_layouts(config).await?;
        let ours = layouts.iter().rposition(|layout| layout == during);
        let previous = ours.and_then(|ours| layouts.get(ours.checked_sub(1)?));
        match previous.filter(|previous| *previous != before && previous.resizing.is_none()) {
            Some(ended) => {
                kafka::write_layout(config, ended).await?;
                Err(Unwilling::TakenBack { to: self.to }.into())
            }
            None => self.verify(config).await,
        }
    }

    /// # Errors
    /// When another resize has come since.
    pub async fn verify(&self, config: &Config) -> Result<(), ResizeError> {
        let to = self.to;
        match kafka::read_layout(config).await?.and_then(|layout| layout.resizing) {
            Some(Resizing { by, .. }) if by == self.by => Ok(()),
            Some(other) if other.to != to => Err(Unwilling::UnderWay { under_way: other.to, to }.into()),
            Some(_) => Err(Unwilling::TakenOver { to }.into()),
            None => Err(Unwilling::TakenBack { to }.into()),
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Looks from now on.
    pub fn watched<'a>(&self, config: &Config, onlooker: &'a mut dyn Onlooker) -> Watched<'a> {
        let (config, claim) = (config.clone(), Claim { lost: Arc::clone(&self.lost), ..*self });
        let task = tokio::runtime::Handle::current().spawn(async move {
            while !matches!(claim.verify(&config).await, Err(ResizeError::Unwilling(_))) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            claim.lost.store(true, Ordering::Release);
        });
        Watched { onlooker, lost: Arc::clone(&self.lost), task }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Onlooker for Watched<'_> {
    fn begins(&mut self, step: &'static str, total: u64) {
        self.onlooker.begins(step, total);
    }
    fn at(&mut self, done: u64) {
        self.onlooker.at(done);
    }
    fn says(&mut self, line: &str) {
        self.onlooker.says(line);
    }
    fn stopped(&self) -> bool {
        self.onlooker.stopped() || self.lost.load(Ordering::Acquire)
    }
}
