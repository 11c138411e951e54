//! Records of ranges that are fixed before, one after the other, with the progress told: what replay and redrive share.

use rdkafka::message::{Message, OwnedMessage};

use super::progress::Progress;
use super::table::counted;
use super::{CommandError, Stopped};
use crate::config::Config;
use crate::kafka::{self, Next, Range, RangeReader};

/// All that a topic holds now. Blocking.
pub fn whole(config: &Config, topic: &str, stopped: &Stopped) -> Result<Vec<Range>, CommandError> {
    stopped.ask(kafka::whole(config, topic))
}

/// Reads the ranges to their ends, or until told to stop; each record with the number of its range. Says how many offsets
/// retention had deleted before they were read. Blocking.
pub fn each_record(
    config: &Config,
    ranges: &[Range],
    what: &'static str,
    stopped: &Stopped,
    mut take: impl FnMut(usize, &OwnedMessage) -> Result<(), CommandError>,
) -> Result<u64, CommandError> {
    let mut reader = RangeReader::new(config, ranges.to_vec()).map_err(CommandError::told)?;
    let mut progress = Progress::new(what, "offsets", reader.total());
    let mut at = 0;
    while !stopped.is_so() {
        match reader.next().map_err(CommandError::told)? {
            Next::End => break,
            Next::Idle => {}
            Next::Record(record) => {
                // They are read one after the other.
                let is_its =
                    |(topic, partition): &(String, i32)| *partition == record.partition() && topic == record.topic();
                while ranges.get(at).is_some_and(|range| !is_its(&range.place)) {
                    at += 1;
                }
                take(at, &record)?;
            }
        }
        progress.at(reader.done());
    }
    Ok(reader.gone())
}

/// When a record was written: Unix milliseconds.
pub fn time_of(record: &OwnedMessage) -> i64 {
    record.timestamp().to_millis().unwrap_or_default()
}

pub fn tell_foreign(topic: &str, records: u64) {
    if records > 0 {
        let records = counted(records, "record");
        eprintln!("passed over: {records} of {topic}, another tool's or a newer version's");
    }
}
