//! Statement 6: no email and no API key in a log line, in a header that is ours, or in a changelog record. All addresses
//! of a run share one domain, so a leak of any is found by that.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Court, Judgement};
use crate::events::MARKER;
use crate::nat::API_KEY;

pub fn judge(court: &Court<'_>, judgement: &mut Judgement) {
    for life in &court.evidence.lives {
        let log = life.log_text();
        for (number, line) in log.lines().enumerate() {
            if let Some(secret) = holds_secret(line) {
                judgement.wrong(6, format!("{}:{} holds {secret}: {line}", life.log.display(), number + 1));
            }
            if line.contains("panicked at") {
                judgement.wrong(1, format!("{}:{}: {line}", life.log.display(), number + 1));
            }
            judgement.count("log lines searched", 1);
        }
        if let Some(secret) = life.scraped.as_ref().and_then(|(_, text)| holds_secret(text)) {
            judgement.wrong(6, format!("the metrics of life {} hold {secret}", life.number));
        }
    }
    for (path, log) in &court.evidence.tool_logs {
        if let Some(secret) = holds_secret(log) {
            judgement.wrong(6, format!("{} holds {secret}", path.display()));
        }
        if log.contains("panicked at") {
            judgement.wrong(1, format!("{} tells of a panic", path.display()));
        }
    }
    let topics = &court.evidence.topics;
    for record in topics.queue.iter().chain(&topics.letters) {
        let ours = record.headers.iter().filter(|(name, _)| name.starts_with("nat.") || name.starts_with("__connect."));
        for (name, value) in ours.filter(|(name, _)| name != "nat.source.key") {
            let value = String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned();
            if let Some(secret) = holds_secret(&value) {
                let at = format!("{}:{}", record.partition, record.offset);
                judgement.wrong(6, format!("header {name} of record {at} holds {secret}: {value}"));
            }
        }
    }
    for record in &topics.delivered {
        let bytes = [record.key.as_deref().unwrap_or_default(), record.value.as_deref().unwrap_or_default()].concat();
        let leak = holds_secret(&String::from_utf8_lossy(&bytes));
        if leak.is_some() || !record.headers.is_empty() {
            judgement.wrong(6, format!("delivered record {}:{} holds personal data", record.partition, record.offset));
        }
    }
}

fn holds_secret(text: &str) -> Option<&'static str> {
    let lower = text.to_ascii_lowercase();
    if lower.contains(MARKER) {
        return Some("an email");
    }
    let encoded = STANDARD.encode(format!("{API_KEY}:"));
    (text.contains(API_KEY) || text.contains(&encoded)).then_some("the API key")
}
