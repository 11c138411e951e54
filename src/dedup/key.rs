//! The keys of dedup: 16-byte hashes, so that neither memory nor a topic holds an email address.

use std::fmt;

use jiff::civil::Date;

use crate::segment::{EngageMode, Identify};

/// 128 bits of BLAKE3. Two keys that differ collide once in 2^64 entries or so: never.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 16]);

/// The hash of a normalised email address. What logs show of a contact.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Contact(pub [u8; 16]);

/// What a key stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// (contact, day): sent once.
    Visit,
    /// (contact, computation key): sent when the value differs from the last one accepted.
    Engage { value: u64 },
}

/// What an event is compared by with those delivered before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupKey {
    pub key: Key,
    pub kind: Kind,
}

/// Where an event stands in the source topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Hash of topic and partition.
    pub source: u64,
    pub offset: i64,
    /// In a batch.
    pub item: u32,
}

impl Place {
    pub fn of(topic: &str, partition: i32, offset: i64, item: u32) -> Place {
        let source = hash(&[b"source", topic.as_bytes(), &partition.to_be_bytes()]);
        Place { source: u64::from_be_bytes(first_eight(&source)), offset, item }
    }

    /// Whether it is known to stand at the other's place or before it: in one partition only.
    pub fn is_not_after(&self, other: &Place) -> bool {
        self.source == other.source && (self.offset, self.item) <= (other.offset, other.item)
    }
}

impl Key {
    pub fn of_visit(email: &str, day: Date) -> Key {
        let day = [day.year().to_be_bytes(), i16::from(day.month()).to_be_bytes(), i16::from(day.day()).to_be_bytes()];
        Key(hash(&[b"visit", email.as_bytes(), day.as_flattened()]))
    }

    pub fn of_engage(email: &str, computation_key: &str) -> Key {
        Key(hash(&[b"engage", email.as_bytes(), computation_key.as_bytes()]))
    }
}

impl Kind {
    /// Stands for the Engage value where nobody knows which one Nat.app has. The hash of none, but for one in 2^64.
    pub const IN_DOUBT: u64 = 0;

    /// Of an Engage value, given as raw JSON.
    pub fn of_value(value: &str) -> Kind {
        let value = hash(&[b"value", value.trim().as_bytes()]);
        Kind::Engage { value: u64::from_be_bytes(first_eight(&value)) }
    }

    /// The word in metrics: `visit` or `engage`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Kind::Visit => "visit",
            Kind::Engage { .. } => "engage",
        }
    }
}

impl Contact {
    pub fn of(email: &str) -> Contact {
        Contact(hash(&[b"contact", email.as_bytes()]))
    }

    /// Of all 32 hexadecimal digits, as `whole` writes them.
    pub fn of_hash(text: &str) -> Option<Contact> {
        if text.len() == 32 { digits(text).map(Contact) } else { None }
    }

    /// All 32 hexadecimal digits: exact, where the short hash is nearly so.
    pub fn whole(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// So many bytes, of twice as many hexadecimal digits.
pub fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (number, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * number..2 * number + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl DedupKey {
    pub fn of(identify: &Identify<'_>, mode: EngageMode) -> DedupKey {
        match &identify.engage {
            Some(engage) if mode == EngageMode::Changes => {
                DedupKey { key: Key::of_engage(&identify.email, &engage.key), kind: Kind::of_value(engage.value) }
            }
            _ => DedupKey { key: Key::of_visit(&identify.email, identify.day), kind: Kind::Visit },
        }
    }
}

/// Each part goes in with its length, so that no two lists of parts read alike.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut out = [0; 16];
    hasher.finalize_xof().fill(&mut out);
    out
}

fn first_eight(bytes: &[u8; 16]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[..8]);
    out
}

impl fmt::Display for Contact {
    /// The short hash: twelve hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Contact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contact({self})")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
