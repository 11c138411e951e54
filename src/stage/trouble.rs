//! The Kafka client's passing errors, as a log has them: with brokers away there are several a second, and one says it all.

use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// Of one stage.
#[derive(Debug)]
pub struct Trouble {
    stage: &'static str,
    told: Option<Instant>,
    /// Since then.
    errors: u64,
}

impl Trouble {
    pub fn of(stage: &'static str) -> Trouble {
        Trouble { stage, told: None, errors: 0 }
    }

    /// Tells an error, unless another was told just before.
    pub fn tell(&mut self, error: &str, now: Instant) {
        if let Some(errors) = self.count(now) {
            tracing::warn!(stage = self.stage, error, errors, "the Kafka client has trouble and goes on by itself");
        }
    }

    /// How many there were since the last time.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.errors += 1;
        let is_soon = self.told.is_some_and(|told| now < told + EVERY);
        (!is_soon).then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.errors)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_errors_the_first_is_told_and_the_others_are_counted() {
        let (mut trouble, began) = (Trouble::of("ingest"), Instant::now());
        let told = [0, 1, 9, 10, 11, 60].map(|second| trouble.count(began + Duration::from_secs(second)));
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
