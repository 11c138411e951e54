//! The watchdog: a stage that says nothing for `watchdog.timeout` hangs, and takes its partitions with it. Then the program
//! says which record it was at, and ends, so that whatever runs it sees that and starts it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::stage::{StageStatus, Whereabouts};

/// What it watches of one stage.
pub struct Watched {
    pub stage: &'static str,
    pub status: watch::Receiver<StageStatus>,
    pub whereabouts: Arc<Whereabouts>,
}

#[derive(Debug, thiserror::Error)]
#[error("{stage} has done nothing for {} (watchdog.timeout). {}", humantime::format_duration(*.silent), at(*.last))]
pub struct Hangs {
    stage: &'static str,
    silent: Duration,
    /// Partition and offset of the last record that it took up.
    last: Option<(i32, i64)>,
}

fn at(last: Option<(i32, i64)>) -> String {
    match last {
        Some((partition, offset)) => format!(
            "The last record that it took up is offset {offset} of partition {partition}: if it hangs there again after a \
             restart, that record is poison; please report it. Its offset is not committed, so nothing is lost"
        ),
        None => "It had taken up no record yet. Is the machine overloaded, or watchdog.timeout too short?".to_owned(),
    }
}

/// Returns when a stage hangs.
pub async fn watch(mut stages: Vec<Watched>, timeout: Duration) -> Hangs {
    let step = timeout / 10;
    let mut silent = vec![(Instant::now(), Duration::ZERO); stages.len()];
    loop {
        tokio::time::sleep(step).await;
        for (watched, (beat, silent)) in stages.iter_mut().zip(&mut silent) {
            let last = watched.status.borrow_and_update().beat;
            // Counted in steps of its own: a process that was stopped as a whole does not hang.
            *silent = if last == *beat { *silent + step } else { Duration::ZERO };
            *beat = last;
            if *silent >= timeout {
                return Hangs { stage: watched.stage, silent: *silent, last: watched.whereabouts.last() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_beats_is_left_alone_and_one_that_stops_is_named_with_its_record() {
        let (sender, status) = watch::channel(StageStatus::starting());
        let whereabouts = Arc::new(Whereabouts::default());
        whereabouts.at(3, 77);
        let watched = Watched { stage: "ingest", status, whereabouts };
        let began = tokio::time::Instant::now();
        let beats = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                sender.send_modify(|status| status.beat += Duration::from_millis(1));
            }
            std::future::pending::<()>().await;
        };
        let hangs = tokio::select! {
            hangs = watch(vec![watched], Duration::from_secs(30)) => hangs,
            () = beats => unreachable!("it beats, then waits for ever"),
        };
        assert!((129..=133).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        let told = hangs.to_string();
        assert!(
            told.starts_with("ingest has done nothing for 30s (") && told.contains("offset 77 of partition 3"),
            "{told}"
        );
    }

    #[test]
    fn a_stage_that_has_had_no_record_blames_none() {
        let hangs = Hangs { stage: "ingest", silent: Duration::from_millis(100), last: Whereabouts::default().last() };
        let told = hangs.to_string();
        assert!(told.contains("nothing for 100ms") && told.contains("no record yet"), "{told}");
    }
}
