//! The records of the `delivered` topic. Value, big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | kind: 1 visit, 2 Engage, 3 tried |
//! | 8 | when Nat.app accepted it (3: when the last attempt failed), Unix milliseconds |
//! | 8 | offset of the queue record it came from (its partition is this record's own) |
//! | 8 | Engage only: hash of the value accepted; 0: this one was given up, and which one Nat.app has is in doubt |
//! | 8, 8, 4 | Engage only: where the event stood: hash of source topic and partition, offset, item of a batch |
//! | 4, 8, 8 | tried only: attempts so far; when the first was made, Unix milliseconds; patience spent, milliseconds |
//!
//! The key of a delivery is the 16 bytes of its dedup key; that of "tried" is a hash of the queue record's offset. They
//! are small because a restart reads all of them, and hold no personal data. A record without a value forgets its key.

use super::key::hash;
use super::{DedupKey, Key, Kind, Place};

const VERSION: u8 = 1;
const VISIT: u8 = 1;
const ENGAGE: u8 = 2;
const TRIED: u8 = 3;

/// What a record of the `delivered` topic says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Delivered(Delivered),
    Tried(Tried),
}

/// One accepted delivery; or an Engage event that was given up, with `Kind::IN_DOUBT` for its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub key: DedupKey,
    /// Unix milliseconds.
    pub at: i64,
    pub queue_offset: i64,
    /// Kept for Engage events only.
    pub place: Place,
}

/// What has been tried in vain at one event so far: a restart goes on from there, so that its patience ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    pub queue_offset: i64,
    pub attempts: u32,
    /// Unix milliseconds.
    pub first: i64,
    /// Unix milliseconds.
    pub last: i64,
    /// How much of `retry.max_elapsed` is used up, milliseconds.
    pub spent: u64,
}

/// A record that this version cannot read: another tool's, damaged, or of a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the delivered topic cannot be read: version {version}, {length} bytes")]
pub struct UnreadableDelivered {
    pub version: u8,
    pub length: usize,
}

impl Change {
    /// # Errors
    /// When the key or the value is not what this version writes.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Change, UnreadableDelivered> {
        let unreadable = UnreadableDelivered { version: value.first().copied().unwrap_or(0), length: value.len() };
        let key = Key(key.try_into().map_err(|_| unreadable)?);
        let mut fields = Fields(value);
        let decoded = match (fields.byte(), fields.byte(), value.len()) {
            (Some(VERSION), Some(kind @ (VISIT | ENGAGE)), 18 | 46) => Delivered::fields(key, kind, &mut fields),
            (Some(VERSION), Some(TRIED), 38) => Tried::fields(&mut fields),
            _ => None,
        };
        // What is left over was not written by this version.
        decoded.filter(|change| fields.0.is_empty() && change.key() == key).ok_or(unreadable)
    }

    fn key(&self) -> Key {
        match self {
            Change::Delivered(delivered) => delivered.key.key,
            Change::Tried(tried) => tried.key(),
        }
    }
}

/// Takes big-endian fields off the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
    fn byte(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }
    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
}

impl Delivered {
    /// The record's value; its key is `self.key.key`.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(46);
        value.extend([VERSION, if self.key.kind == Kind::Visit { VISIT } else { ENGAGE }]);
        value.extend(self.at.to_be_bytes());
        value.extend(self.queue_offset.to_be_bytes());
        if let Kind::Engage { value: hash } = self.key.kind {
            value.extend(hash.to_be_bytes());
            value.extend(self.place.source.to_be_bytes());
            value.extend(self.place.offset.to_be_bytes());
            value.extend(self.place.item.to_be_bytes());
        }
        value
    }

    fn fields(key: Key, kind: u8, fields: &mut Fields<'_>) -> Option<Change> {
        let (at, queue_offset) = (fields.i64()?, fields.i64()?);
        let (kind, place) = if kind == VISIT {
            (Kind::Visit, Place::default())
        } else {
            let kind = Kind::Engage { value: fields.u64()? };
            (kind, Place { source: fields.u64()?, offset: fields.i64()?, item: fields.u32()? })
        };
        Some(Change::Delivered(Delivered { key: DedupKey { key, kind }, at, queue_offset, place }))
    }
}

impl Tried {
    /// The record's key: one an event, so that compaction keeps the last.
    pub fn key(&self) -> Key {
        Key(hash(&[b"tried", &self.queue_offset.to_be_bytes()]))
    }

    /// The record's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(38);
        value.extend([VERSION, TRIED]);
        value.extend(self.last.to_be_bytes());
        value.extend(self.queue_offset.to_be_bytes());
        value.extend(self.attempts.to_be_bytes());
        value.extend(self.first.to_be_bytes());
        value.extend(self.spent.to_be_bytes());
        value
    }

    fn fields(fields: &mut Fields<'_>) -> Option<Change> {
        let (last, queue_offset) = (fields.i64()?, fields.i64()?);
        let (attempts, first, spent) = (fields.u32()?, fields.i64()?, fields.u64()?);
        Some(Change::Tried(Tried { queue_offset, attempts, first, last, spent }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            key: [u8; 16],
            engage: Option<(u64, u64, i64, u32)>,
            at: i64,
            queue_offset: i64,
        ) {
            let (kind, place) = match engage {
                Some((value, source, offset, item)) => (Kind::Engage { value }, Place { source, offset, item }),
                None => (Kind::Visit, Place::default()),
            };
            let delivered = Delivered { key: DedupKey { key: Key(key), kind }, at, queue_offset, place };
            prop_assert_eq!(Change::decode(&key, &delivered.encode()), Ok(Change::Delivered(delivered)));
        }

        #[test]
        fn what_was_tried_is_read_again(queue_offset: i64, attempts: u32, first: i64, last: i64, spent: u64) {
            let tried = Tried { queue_offset, attempts, first, last, spent };
            prop_assert_eq!(Change::decode(&tried.key().0, &tried.encode()), Ok(Change::Tried(tried)));
        }

        #[test]
        fn any_other_bytes_are_an_error_and_never_a_panic(key: Vec<u8>, value: Vec<u8>) {
            match Change::decode(&key, &value) {
                Ok(Change::Delivered(delivered)) => prop_assert_eq!(delivered.encode(), value),
                Ok(Change::Tried(tried)) => prop_assert_eq!(tried.encode(), value),
                Err(_) => {}
            }
        }
    }
}
