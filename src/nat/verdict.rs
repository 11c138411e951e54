//! The verdict of an answer (design.md, rule 5), and what of an answer may be kept.

use std::time::Duration;

use jiff::Timestamp;

use crate::address::without_addresses;

/// What came back of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP answer; the body is cut and redacted, and empty where Nat.app accepted.
    Status { status: u16, retry_after: Option<Duration>, body: String },
    /// No answer: whether Nat.app took the event is not known.
    Failed { failure: Failure, message: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Timeout,
    /// The connection, TLS, or something that is not HTTP.
    Connection,
}

/// What an answer means for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Try again, not before this long if Nat.app said so.
    Retry(Option<Duration>),
    /// Not this event's fault: the key is refused.
    Unauthorized,
    /// Not this event's fault: Nat.app is not at this address.
    EndpointNotFound,
    /// Nat.app will never take this event.
    Rejected,
}

impl Answer {
    pub fn verdict(&self) -> Verdict {
        match self {
            Answer::Failed { .. } => Verdict::Retry(None),
            Answer::Status { status, retry_after, .. } => match status {
                200..=299 => Verdict::Accepted,
                401 | 403 | 407 => Verdict::Unauthorized,
                404 | 300..=399 => Verdict::EndpointNotFound,
                501 => Verdict::Rejected,
                408 | 425 | 429 | 500..=599 => Verdict::Retry(*retry_after),
                400..=499 => Verdict::Rejected,
                // Informational answers never end a request, and nothing else is HTTP: as a broken connection.
                _ => Verdict::Retry(*retry_after),
            },
        }
    }

    /// Whether it is a sign that Nat.app has too much to do.
    pub fn is_overload(&self) -> bool {
        matches!(self, Answer::Status { status: 429 | 503, .. } | Answer::Failed { failure: Failure::Timeout, .. })
    }

    /// The label in metrics: the status, `timeout` or `connection`.
    pub fn label(&self) -> String {
        match self {
            Answer::Status { status, .. } => status.to_string(),
            Answer::Failed { failure: Failure::Timeout, .. } => "timeout".into(),
            Answer::Failed { failure: Failure::Connection, .. } => "connection".into(),
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Answer::Status { status, .. } => Some(*status),
            Answer::Failed { .. } => None,
        }
    }

    /// What is kept of it in a dead letter.
    pub fn text(&self) -> &str {
        match self {
            Answer::Status { body, .. } => body,
            Answer::Failed { message, .. } => message,
        }
    }
}

/// `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3). At most a day; nonsense counts as absent.
pub fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_secs(86_400);
    let header = header.trim();
    if !header.is_empty() && header.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(header.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let date = jiff::fmt::rfc2822::parse(header).ok()?.timestamp();
    let wait = Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO);
    Some(wait.min(LONGEST))
}

/// The longest text kept of an answer, in bytes.
pub const KEPT: usize = 1024;

/// An answer's text as it may be kept: cut, one line, and without anything that looks like an email address.
pub fn redacted(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut kept = without_addresses(&words.collect::<Vec<_>>().join(" "));
    if kept.len() > KEPT {
        let end = (0..=KEPT).rev().find(|at| kept.is_char_boundary(*at)).unwrap_or(0);
        kept.truncate(end);
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16) -> Verdict {
        Answer::Status { status, retry_after: None, body: String::new() }.verdict()
    }

    #[test]
    fn the_verdict_table_holds_for_every_status() {
        for status in 100..=999 {
            let expected = match status {
                200..=299 => Verdict::Accepted,
                408 | 425 | 429 => Verdict::Retry(None),
                501 => Verdict::Rejected,
                500..=599 => Verdict::Retry(None),
                401 | 403 | 407 => Verdict::Unauthorized,
                404 => Verdict::EndpointNotFound,
                300..=399 => Verdict::EndpointNotFound,
                400..=499 => Verdict::Rejected,
                _ => Verdict::Retry(None),
            };
            assert_eq!(verdict(status), expected, "{status}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().expect("a time");
        assert_eq!(retry_after(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(37)));
        assert_eq!(retry_after("Sat, 05 Nov 1994 08:49:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999999999999", now), Some(Duration::from_secs(86_400)));
        for nonsense in ["", "soon", "-1", "1.5"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense:?}");
        }
    }

    #[test]
    fn no_email_of_an_answer_is_kept() {
        let kept = redacted("{\"message\": \"contact ada@example.com\n unknown\", ada%40example.com}");
        assert_eq!(kept, "{\"message\": \"contact (redacted) unknown\", (redacted)}");
        assert!(redacted(&"é".repeat(5000)).len() <= KEPT + 4);
    }
}
