//! What may happen several times a second, as a log has it: with brokers away one line says it all. The first is told, then one
//! every ten seconds, with how many there were.

use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Seldom {
    told: Option<Instant>,
    /// Since then.
    times: u64,
}

impl Seldom {
    /// It has happened once more: how often since it was told, where it is to be told now.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        let is_soon = self.told.is_some_and(|told| now < told + EVERY);
        (!is_soon).then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.times)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_and_of_the_others_how_many_there_were() {
        let (mut seldom, began) = (Seldom::default(), Instant::now());
        let told = [0, 1, 9, 10, 11, 60].map(|second| seldom.count(began + Duration::from_secs(second)));
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
