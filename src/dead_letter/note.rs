//! The note that a dead letter has been redriven: a record without key and value in the dead-letter topic itself, written
//! once the queue has the event, in the letter's own partition. Kafka is the only store, and the letters and the notes of them
//! go together.

use rdkafka::message::{Header, OwnedHeaders};

use crate::kafka::Headers;

/// `partition:offset` of the letter that was taken.
pub const REDRIVEN: &str = "nat.redriven";

/// Where the letter stands that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    pub partition: i32,
    pub offset: i64,
}

impl Note {
    pub fn headers(self) -> OwnedHeaders {
        let place = format!("{}:{}", self.partition, self.offset);
        OwnedHeaders::new_with_capacity(1).insert(Header { key: REDRIVEN, value: Some(&place) })
    }

    /// The note that a record is, if it is one.
    pub fn of(key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) -> Option<Note> {
        match (key, value, headers.as_slice()) {
            (None, None, [(name, Some(place))]) if name == REDRIVEN => {
                let (partition, offset) = std::str::from_utf8(place).ok()?.split_once(':')?;
                Some(Note { partition: partition.parse().ok()?, offset: offset.parse().ok()? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::headers_of;

    #[test]
    fn what_is_written_is_read_again_and_no_letter_is_a_note() {
        let note = Note { partition: 3, offset: 1 << 40 };
        let headers = headers_of(&note.headers());
        assert_eq!(Note::of(None, None, &headers), Some(note));
        assert_eq!(Note::of(Some(b"key"), None, &headers), None);
        assert_eq!(Note::of(None, Some(b"{}"), &headers), None);
        let more = [headers, vec![("nat.reason".to_owned(), Some(b"empty".to_vec()))]].concat();
        assert_eq!(Note::of(None, None, &more), None, "a source record's own header, with ours behind it");
    }
}
