//! Where an event came from: the source record's place and key and the road it took, carried through the queue in up to
//! three headers that are taken off again when the event becomes a dead letter.

use std::borrow::Cow;
use std::fmt;

use rdkafka::message::{Header, OwnedHeaders};

use super::road::{ROAD, Road};
use crate::kafka::Headers;

/// `topic/partition/offset/timestamp`, and `/item` for one of a batch. The timestamp is Unix milliseconds.
pub const SOURCE: &str = "nat.source";
/// The source record's key, where it had one.
pub const SOURCE_KEY: &str = "nat.source.key";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin<'a> {
    pub topic: Cow<'a, str>,
    pub partition: i32,
    pub offset: i64,
    /// Unix milliseconds.
    pub timestamp: i64,
    pub key: Option<Cow<'a, [u8]>>,
    /// Its place in a batch.
    pub item: Option<usize>,
    /// `None`: ingest put it into the queue.
    pub road: Option<Road>,
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Origin<'_> {
    /// Every identify call has one written, so without the detours of `fmt`.
    fn text(&self) -> String {
        let mut digits = itoa::Buffer::new();
        let mut text = String::with_capacity(self.topic.len() + 64);
        text.push_str(&self.topic);
        let item = self.item.map(|item| item as i64);
        for number in [Some(self.partition.into()), Some(self.offset), Some(self.timestamp), item].into_iter().flatten()
        {
            text.push('/');
            text.push_str(digits.format::<i64>(number));
        }
        text
    }

    /// Puts the where-from headers behind the original ones.
    pub fn append_to(&self, headers: OwnedHeaders) -> OwnedHeaders {
        let mut headers = headers.insert(Header { key: SOURCE, value: Some(&self.text()) });
        if let Some(key) = &self.key {
            headers = headers.insert(Header { key: SOURCE_KEY, value: Some(key.as_ref()) });
        }
        match self.road {
            Some(road) => headers.insert(Header { key: ROAD, value: Some(&road.to_string()) }),
            None => headers,
        }
    }

    /// Takes them off again; what is left is the source record's. A record that has none was put into the queue by
    /// something else: then its origin is its place in the queue.
    pub fn take_from(headers: &mut Headers) -> Option<Origin<'static>> {
        let origin = Origin::of(headers)?;
        if origin.road.is_some() {
            headers.pop();
        }
        let key = match headers.last() {
            Some((name, _)) if name == SOURCE_KEY => headers.pop().and_then(|(_, key)| key),
            _ => None,
        };
        headers.pop();
        Some(Origin { key: key.map(Cow::Owned), ..origin })
    }

    /// As `take_from`, but leaves them where they are.
    pub fn of(headers: &Headers) -> Option<Origin<'static>> {
        let road = Road::of(headers);
        let mut last = headers.iter().rev().skip(usize::from(road.is_some()));
        let source = match last.next()? {
            (name, source) if name == SOURCE => source,
            (name, _) if name == SOURCE_KEY => {
                last.next().filter(|(name, _)| name == SOURCE).map(|(_, source)| source)?
            }
            _ => return None,
        };
        let origin = Origin::parse(std::str::from_utf8(source.as_deref()?).ok()?)?;
        Some(Origin { road, ..origin })
    }

    /// As `Display` writes it; key and road stand elsewhere.
    pub fn parse(text: &str) -> Option<Origin<'static>> {
        let mut parts = text.split('/');
        let origin = Origin {
            topic: Cow::Owned(parts.next()?.to_owned()),
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            timestamp: parts.next()?.parse().ok()?,
            key: None,
            road: None,
            item: match parts.next() {
                Some(item) => Some(item.parse().ok()?),
                None => None,
            },
        };
        parts.next().is_none().then_some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::Headers as _;

    fn plain(headers: &OwnedHeaders) -> Headers {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    }

    #[test]
    fn what_is_put_behind_the_original_headers_is_taken_off_whole() {
        for (key, item, road) in [
            (None, None, None),
            (Some(Cow::Owned(vec![0, 255])), Some(3), Some(Road::Redrive(2))),
            (Some(Cow::Owned(Vec::new())), None, None),
            (None, None, Some(Road::Replay)),
        ] {
            let origin = Origin { topic: "a.b-c_d".into(), partition: 3, offset: 77, timestamp: -1, key, item, road };
            // Even an original header of our own name stays what it was.
            let original = OwnedHeaders::new()
                .insert(Header { key: SOURCE, value: Some("theirs") })
                .insert(Header { key: ROAD, value: Some("replay") })
                .insert(Header { key: "x", value: None::<&str> });
            let mut headers = plain(&origin.append_to(original.clone()));
            assert_eq!(Origin::of(&headers).map(|found| found.to_string()), Some(origin.to_string()));
            assert_eq!(Origin::take_from(&mut headers), Some(origin));
            assert_eq!(headers, plain(&original));
        }
    }

    #[test]
    fn foreign_headers_are_no_origin() {
        for foreign in ["", "t", "t/1", "t/1/2", "t/x/2/3", "t/1/2/3/4/5"] {
            let mut headers = vec![(SOURCE.to_owned(), Some(foreign.as_bytes().to_vec()))];
            assert_eq!(Origin::take_from(&mut headers), None, "{foreign:?}");
            assert_eq!(headers.len(), 1);
        }
    }
}
