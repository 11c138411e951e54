//! Which dead letters are meant: the filters of the command line. All that are given have to hold. Pure.

use jiff::Timestamp;

use super::Letter;
use crate::dedup::Contact;

/// The word that stands for a reason where another tool wrote the record.
pub const FOREIGN: &str = "foreign";

#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these; none: all.
    pub reasons: Vec<String>,
    /// Any of these; none: all.
    pub statuses: Vec<u16>,
    /// Of the dead letter itself: from this time on,
    pub since: Option<Timestamp>,
    /// and before that one.
    pub until: Option<Timestamp>,
    pub contact: Option<Contact>,
    /// The source topic.
    pub topic: Option<String>,
}

/// A filter that nothing can pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--since {since} is not before --until {until}: no dead letter can lie between; exchange them")]
pub struct UpsideDown {
    pub since: Timestamp,
    pub until: Timestamp,
}

impl Filter {
    /// # Errors
    /// When its time range is upside down.
    pub fn check(&self) -> Result<(), UpsideDown> {
        match (self.since, self.until) {
            (Some(since), Some(until)) if since >= until => Err(UpsideDown { since, until }),
            _ => Ok(()),
        }
    }

    /// Whether a letter is meant. `at`: Unix milliseconds. Whether it concerns a contact is asked only where that matters.
    pub fn takes(&self, letter: &Letter, at: i64, concerns: impl FnOnce(Contact) -> bool) -> bool {
        let topic = letter.origin.as_ref().map(|origin| origin.topic.as_ref());
        self.takes_time(at)
            && (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && (self.statuses.is_empty() || letter.status.is_some_and(|status| self.statuses.contains(&status)))
            && self.topic.as_deref().is_none_or(|wanted| topic == Some(wanted))
            && self.contact.is_none_or(concerns)
    }

    /// Whether a record that another tool wrote is meant: nothing but its time is known, and whose event its value is, where it
    /// can be read as one.
    pub fn takes_foreign(&self, at: i64, concerns: impl FnOnce(Contact) -> bool) -> bool {
        let unknown = self.statuses.is_empty() && self.topic.is_none();
        unknown
            && self.takes_time(at)
            && (self.reasons.is_empty() || self.reasons.iter().any(|word| word == FOREIGN))
            && self.contact.is_none_or(concerns)
    }

    fn takes_time(&self, at: i64) -> bool {
        self.since.is_none_or(|since| at >= since.as_millisecond())
            && self.until.is_none_or(|until| at < until.as_millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::{Kind, Origin, Reason, Undeliverable, Verdict};
    use crate::kafka::headers_of;

    fn letter() -> Letter {
        let origin =
            Origin { topic: "a".into(), partition: 0, offset: 1, timestamp: 2, key: None, item: None, road: None };
        let reason = Reason::Undeliverable(Undeliverable::Rejected);
        let verdict = Verdict { origin: &origin, stage: "deliver", reason, attempts: None };
        match Kind::of(None, Some(b"{}"), headers_of(&verdict.headers(&Vec::new()))) {
            Kind::Letter(letter) => Letter { status: Some(400), ..*letter },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_filters_that_are_given_have_to_hold() {
        let letter = letter();
        let time = |millis| Timestamp::from_millisecond(millis).ok();
        let ada = Contact::of("ada@example.com");
        let none = Filter::default();
        let reasons = vec!["rejected".to_owned(), "empty".to_owned()];
        let right = Filter {
            reasons: reasons.clone(),
            statuses: vec![400],
            since: time(50),
            until: time(51),
            contact: Some(ada),
            topic: Some("a".into()),
        };
        assert!(none.takes(&letter, 50, |_| false) && none.takes_foreign(50, |_| false));
        assert!(right.takes(&letter, 50, |contact| contact == ada));
        for wrong in [
            Filter { reasons: vec!["empty".into()], ..right.clone() },
            Filter { statuses: vec![422], ..right.clone() },
            Filter { since: time(51), ..right.clone() },
            Filter { until: time(50), ..right.clone() },
            Filter { contact: Some(Contact::of("bob@example.com")), ..right.clone() },
            Filter { topic: Some("b".into()), ..right.clone() },
        ] {
            assert!(!wrong.takes(&letter, 50, |contact| contact == ada), "{wrong:?}");
        }
        assert!(!right.takes_foreign(50, |_| true));
        assert!(!Filter { reasons, ..Filter::default() }.takes_foreign(50, |_| true));
        assert!(Filter { reasons: vec![FOREIGN.into()], ..Filter::default() }.takes_foreign(50, |_| false));
        let adas = Filter { contact: Some(ada), ..Filter::default() };
        assert!(adas.takes_foreign(50, |contact| contact == ada) && !adas.takes_foreign(50, |_| false));
    }

    #[test]
    fn a_time_range_upside_down_is_an_error() {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        let (early, late) = (time("2026-11-01T00:00:00Z"), time("2026-11-02T00:00:00Z"));
        assert!(Filter { since: early, until: late, ..Filter::default() }.check().is_ok());
        for (since, until) in [(late, early), (early, early)] {
            assert!(Filter { since, until, ..Filter::default() }.check().is_err());
        }
    }
}
