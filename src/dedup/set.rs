//! The delivered set of one partition: which contact-days were accepted, and each Engage value last accepted.
//!
//! An entry lives for the retention from the moment it was accepted. Visits lie in one bucket per day of acceptance,
//! so that forgetting is dropping a bucket; an entry may therefore outlive its retention by up to a day, never less. Engage
//! values go by the same days.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use super::{DedupKey, Delivered, Key, Kind, Place};

const BUCKET_MILLIS: i64 = 86_400_000;

/// The keys are hashes already: their first eight bytes will do.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        let mut eight = [0; 8];
        let length = bytes.len().min(8);
        eight[..length].copy_from_slice(&bytes[..length]);
        self.0 ^= u64::from_le_bytes(eight);
    }
    fn write_usize(&mut self, _length_prefix: usize) {}
}

type KeyBuild = BuildHasherDefault<KeyHasher>;

#[derive(Debug)]
pub struct DeliveredSet {
    retention_millis: i64,
    /// By day of acceptance.
    visits: BTreeMap<i64, HashSet<Key, KeyBuild>>,
    engage: HashMap<Key, LastValue, KeyBuild>,
    /// The first day of acceptance that was kept when last something was dropped.
    swept: i64,
}

/// The Engage value last accepted.
#[derive(Debug, Clone, Copy)]
struct LastValue {
    value: u64,
    /// Unix milliseconds.
    at: i64,
    queue_offset: i64,
    place: Place,
}

/// Whether what was accepted at this time counts still. Unix milliseconds.
pub fn is_remembered(at: i64, retention: Duration, now: i64) -> bool {
    bucket(at) >= first_kept(millis(retention), now)
}

fn millis(retention: Duration) -> i64 {
    i64::try_from(retention.as_millis()).unwrap_or(i64::MAX)
}

fn bucket(at: i64) -> i64 {
    at.div_euclid(BUCKET_MILLIS)
}

fn first_kept(retention_millis: i64, now: i64) -> i64 {
    bucket(now.saturating_sub(retention_millis))
}

impl DeliveredSet {
    pub fn new(retention: Duration) -> DeliveredSet {
        DeliveredSet {
            retention_millis: millis(retention),
            visits: BTreeMap::new(),
            engage: HashMap::default(),
            swept: i64::MIN,
        }
    }

    /// Whether sending an event with this key would say nothing new to Nat.app.
    ///
    /// A crash, a replay or a redrive brings events again from before the last one accepted. For an Engage key those are
    /// old news whatever their value: in their source partition they stood before what Nat.app has. `timestamp`, the
    /// source record's own in Unix milliseconds, tells them from those of a topic made anew, whose offsets begin again.
    pub fn contains(&self, key: &DedupKey, place: Place, timestamp: i64) -> bool {
        match key.kind {
            Kind::Visit => self.visits.values().rev().any(|bucket| bucket.contains(&key.key)),
            Kind::Engage { value } => self.engage.get(&key.key).is_some_and(|last| {
                // What was given up may be tried again.
                let is_given_up = last.value == Kind::IN_DOUBT && last.place == place;
                last.value == value || (place.is_not_after(&last.place) && timestamp <= last.at && !is_given_up)
            }),
        }
    }

    /// Remembers an accepted delivery.
    ///
    /// One contact's events are accepted in the order of the queue. An Engage value that stands before the one known there
    /// and was accepted before it, is a record that an instance wrote late, after its partition had gone to another one:
    /// it must not make an old value the last one again. (Of a queue made anew, whose offsets begin again, it is later.)
    pub fn insert(&mut self, delivered: &Delivered) {
        let Delivered { key, at, place, queue_offset } = *delivered;
        match key.kind {
            Kind::Visit => {
                self.visits.entry(bucket(at)).or_default().insert(key.key);
            }
            Kind::Engage { value } => {
                let late = |last: &LastValue| queue_offset < last.queue_offset && at <= last.at;
                if !self.engage.get(&key.key).is_some_and(late) {
                    self.engage.insert(key.key, LastValue { value, at, queue_offset, place });
                }
            }
        }
    }

    /// The Engage event that stands at this place was given up. One of its attempts may have been taken all the same, perhaps
    /// an earlier owner's: so the next value is sent, whichever it is. `given_up` tells when and from where, and what comes back
    /// is to be written down; `None` where nothing is known of the key anyway.
    pub fn doubt(&mut self, given_up: &Delivered) -> Option<Delivered> {
        let last = self.engage.get_mut(&given_up.key.key)?;
        // One that was redriven is older than what was accepted since.
        let place = if given_up.place.is_not_after(&last.place) { last.place } else { given_up.place };
        let Delivered { key, at, queue_offset, .. } = *given_up;
        *last = LastValue { value: Kind::IN_DOUBT, at, queue_offset, place };
        let key = DedupKey { kind: Kind::Engage { value: Kind::IN_DOUBT }, ..key };
        Some(Delivered { key, at, queue_offset, place })
    }

    /// Forgets a key of either kind.
    pub fn remove(&mut self, key: &Key) {
        self.engage.remove(key);
        for bucket in self.visits.values_mut() {
            bucket.remove(key);
        }
    }

    /// Drops what is older than the retention. `now` in Unix milliseconds. Cheap when nothing is.
    pub fn expire(&mut self, now: i64) {
        let first_kept = first_kept(self.retention_millis, now);
        if first_kept > self.swept {
            self.swept = first_kept;
            self.visits = self.visits.split_off(&first_kept);
            self.engage.retain(|_, last| bucket(last.at) >= first_kept);
        }
    }

    pub fn visits(&self) -> usize {
        self.visits.values().map(HashSet::len).sum()
    }

    pub fn engage_values(&self) -> usize {
        self.engage.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400_000;

    fn visit(n: u8) -> DedupKey {
        DedupKey { key: Key([n; 16]), kind: Kind::Visit }
    }
    fn engage(n: u8, value: u64) -> DedupKey {
        DedupKey { key: Key([n; 16]), kind: Kind::Engage { value } }
    }

    fn insert(set: &mut DeliveredSet, key: DedupKey, at: i64, offset: i64) {
        set.insert(&Delivered { key, at, queue_offset: offset, place: place(offset) });
    }
    fn place(offset: i64) -> Place {
        Place { source: 1, offset, item: 0 }
    }

    #[test]
    fn an_engage_value_is_a_duplicate_only_while_it_is_the_last_one() {
        let mut set = DeliveredSet::new(Duration::from_secs(7 * 86_400));
        insert(&mut set, engage(1, 10), 0, 0);
        assert!(set.contains(&engage(1, 10), place(1), 0));
        insert(&mut set, engage(1, 20), 1, 1);
        assert!(!set.contains(&engage(1, 10), place(2), 0));
        assert!(!set.contains(&visit(1), place(2), 0));
    }

    #[test]
    fn an_engage_event_read_again_after_a_crash_is_old_news_whatever_its_value() {
        let mut set = DeliveredSet::new(Duration::from_secs(7 * 86_400));
        insert(&mut set, engage(1, 20), 1000, 7);
        assert!(set.contains(&engage(1, 10), place(6), 900));
        assert!(!set.contains(&engage(1, 10), place(8), 900));
        assert!(!set.contains(&engage(1, 10), place(6), 1001), "of a topic made anew");
        assert!(!set.contains(&engage(1, 10), Place { source: 2, ..place(6) }, 900), "of another partition");
        assert!(!set.contains(&engage(1, 10), Place { item: 1, ..place(7) }, 900), "further on in the same batch");
    }

    #[test]
    fn after_a_value_was_given_up_the_next_is_sent_whichever_it_is_and_old_news_stay_old() {
        let given_up = |offset| Delivered { key: engage(1, 20), at: 1500, queue_offset: offset, place: place(offset) };
        let mut set = DeliveredSet::new(Duration::from_secs(7 * 86_400));
        assert_eq!(set.doubt(&given_up(9)), None, "nothing is known");
        insert(&mut set, engage(1, 10), 1000, 7);
        let doubted = set.doubt(&given_up(9)).expect("it was known");
        // A restart reads what was written.
        let mut restored = DeliveredSet::new(Duration::from_secs(7 * 86_400));
        insert(&mut restored, engage(1, 10), 1000, 7);
        restored.insert(&doubted);
        for set in [&mut set, &mut restored] {
            assert!(!set.contains(&engage(1, 10), place(10), 1600) && !set.contains(&engage(1, 20), place(10), 1600));
            assert!(!set.contains(&engage(1, 20), place(9), 1400), "it is tried again itself");
            assert!(set.contains(&engage(1, 10), place(8), 1300), "a repeat from before it, read again after a crash");
            insert(set, engage(1, 30), 2000, 12);
            assert!(set.contains(&engage(1, 20), place(9), 1400), "redriven it would bring an old value back");
            set.doubt(&given_up(9));
            assert!(set.contains(&engage(1, 20), place(11), 1450) && !set.contains(&engage(1, 30), place(13), 2500));
        }
    }

    #[test]
    fn a_record_written_late_does_not_make_an_old_engage_value_the_last_one_again() {
        let mut set = DeliveredSet::new(Duration::from_secs(7 * 86_400));
        insert(&mut set, engage(1, 10), 1000, 7);
        insert(&mut set, engage(1, 20), 2000, 8);
        insert(&mut set, engage(1, 10), 1500, 7);
        assert!(set.contains(&engage(1, 20), place(9), 2500));
        assert!(!set.contains(&engage(1, 10), place(9), 2500));
        insert(&mut set, engage(1, 10), 3000, 0);
        assert!(set.contains(&engage(1, 10), place(9), 3500), "of a queue made anew");
    }

    #[test]
    fn an_entry_lives_at_least_for_the_retention_and_at_most_a_day_longer() {
        let mut set = DeliveredSet::new(Duration::from_secs(7 * 86_400));
        insert(&mut set, visit(1), 3 * DAY + 5, 0);
        set.expire(10 * DAY + 5);
        assert!(set.contains(&visit(1), place(1), 0));
        set.expire(11 * DAY + 5);
        assert!(!set.contains(&visit(1), place(1), 0));
    }

    #[test]
    fn what_counts_still_goes_by_whole_days_and_is_what_the_set_holds() {
        let week = Duration::from_secs(7 * 86_400);
        for (at, now, remembered) in [
            (DAY + 5, 8 * DAY + 5, true),
            (DAY + 5, 8 * DAY + 6, true),
            (DAY, 9 * DAY - 1, true),
            (DAY - 1, 8 * DAY, false),
            (2 * DAY - 1, 9 * DAY, false),
        ] {
            let mut set = DeliveredSet::new(week);
            insert(&mut set, visit(1), at, 0);
            insert(&mut set, engage(2, 10), at, 1);
            set.expire(now);
            let held = (set.visits() == 1, set.engage_values() == 1);
            assert_eq!((held, is_remembered(at, week, now)), ((remembered, remembered), remembered), "{at} {now}");
        }
    }

    proptest! {
        #[test]
        fn the_set_answers_as_a_plain_map_does(steps in prop::collection::vec((0u8..20, 0u64..3, 0i64..20), 1..200)) {
            let mut set = DeliveredSet::new(Duration::from_secs(365 * 86_400));
            let mut model: std::collections::BTreeMap<(u8, bool), u64> = Default::default();
            for (offset, (n, value, day)) in steps.into_iter().enumerate() {
                let offset = offset as i64;
                let key = if value == 0 { visit(n) } else { engage(n, value) };
                let known = match model.get(&(n, value == 0)) { Some(last) => value == 0 || *last == value, None => false };
                prop_assert_eq!(set.contains(&key, place(offset), 0), known);
                // As the loop does: what is contained is a duplicate and never delivered.
                if !known {
                    insert(&mut set, key, day * DAY, offset);
                    model.insert((n, value == 0), value);
                }
                set.expire(day * DAY);
            }
            let visits = model.keys().filter(|(_, visit)| *visit).count();
            prop_assert_eq!(set.visits(), visits);
            prop_assert_eq!(set.engage_values(), model.len() - visits);
        }
    }
}
