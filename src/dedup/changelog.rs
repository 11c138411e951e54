//! The record of the `delivered` topic. Key: the 16 bytes of the dedup key. Value, big-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | kind: 1 visit, 2 Engage |
//! | 8 | when Nat.app accepted it, Unix milliseconds |
//! | 8 | offset of the queue record it came from (its partition is this record's own) |
//! | 8 | Engage only: hash of the value accepted |
//! | 8, 8, 4 | Engage only: where the event stood: hash of source topic and partition, offset, item of a batch |
//!
//! It is small because a restart reads all of it, and holds no personal data. A record without a value forgets its key.

use super::{DedupKey, Key, Kind, Place};

const VERSION: u8 = 1;

/// One accepted delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub key: DedupKey,
    /// Unix milliseconds.
    pub at: i64,
    pub queue_offset: i64,
    /// Kept for Engage events only.
    pub place: Place,
}

/// A record that this version cannot read: another tool's, damaged, or of a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of the delivered topic cannot be read: version {version}, {length} bytes")]
pub struct UnreadableDelivered {
    pub version: u8,
    pub length: usize,
}

impl Delivered {
    /// The record's value; its key is `self.key.key`.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(46);
        value.push(VERSION);
        value.push(if self.key.kind == Kind::Visit { 1 } else { 2 });
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

    /// # Errors
    /// When the key or the value is not what this version writes.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Delivered, UnreadableDelivered> {
        let unreadable = UnreadableDelivered { version: value.first().copied().unwrap_or(0), length: value.len() };
        let key = Key(key.try_into().map_err(|_| unreadable)?);
        let word = |at: usize| -> Option<[u8; 8]> { value.get(at..at + 8)?.try_into().ok() };
        let (Some(at), Some(queue_offset)) = (word(2), word(10)) else {
            return Err(unreadable);
        };
        let (kind, place) = match (value[0], value[1], value.len()) {
            (VERSION, 1, 18) => (Kind::Visit, Place::default()),
            (VERSION, 2, 46) => {
                let (hash, source, offset) = (word(18), word(26), word(34));
                let item = value.get(42..46).and_then(|bytes| bytes.try_into().ok());
                let (Some(hash), Some(source), Some(offset), Some(item)) = (hash, source, offset, item) else {
                    return Err(unreadable);
                };
                let source = u64::from_be_bytes(source);
                let place = Place { source, offset: i64::from_be_bytes(offset), item: u32::from_be_bytes(item) };
                (Kind::Engage { value: u64::from_be_bytes(hash) }, place)
            }
            _ => return Err(unreadable),
        };
        let (at, queue_offset) = (i64::from_be_bytes(at), i64::from_be_bytes(queue_offset));
        Ok(Delivered { key: DedupKey { key, kind }, at, queue_offset, place })
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
            prop_assert_eq!(Delivered::decode(&key, &delivered.encode()), Ok(delivered));
        }

        #[test]
        fn any_other_bytes_are_an_error_and_never_a_panic(key: Vec<u8>, value: Vec<u8>) {
            if let Ok(delivered) = Delivered::decode(&key, &value) {
                prop_assert_eq!(delivered.encode(), value);
            }
        }
    }
}
