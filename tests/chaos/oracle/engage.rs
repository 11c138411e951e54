//! Statement 3: the values of one contact and computation key arrive in order, every change of them is sent, and the last
//! one accepted is the last one produced. Repeats of an Idempotency-Key are taken out first: they are statement 2's.

use std::collections::BTreeMap;

use super::twice::unknown;
use super::{Case, Court, Judgement};
use crate::events::Fate;

pub fn judge(court: &Court<'_>, judgement: &mut Judgement) {
    let mut sequences: BTreeMap<(&str, &str), Vec<&Case<'_>>> = BTreeMap::new();
    for case in &court.cases {
        if let Fate::Engage { key, .. } = &case.event.fate {
            sequences.entry((case.event.contact.as_str(), key.as_str())).or_default().push(case);
        }
    }
    judgement.count("Engage sequences", sequences.len() as u64);
    for mut sequence in sequences.into_values() {
        sequence.sort_by_key(|case| case.place);
        in_order(court, &sequence, judgement);
        every_change(court, &sequence, judgement);
    }
}

fn value<'a>(case: &Case<'a>) -> Option<&'a serde_json::Value> {
    match &case.event.fate {
        Fate::Engage { value, .. } => Some(value),
        _ => None,
    }
}

/// The number of its first acceptance in the log.
fn first_accepted(court: &Court<'_>, case: &Case<'_>) -> Option<usize> {
    case.requests.iter().copied().find(|request| court.request(*request).accepted())
}

fn in_order(court: &Court<'_>, sequence: &[&Case<'_>], judgement: &mut Judgement) {
    let mut latest: Option<(usize, &Case<'_>)> = None;
    for case in sequence {
        let Some(accepted) = first_accepted(court, case) else { continue };
        if let Some((before, earlier)) = latest
            && accepted < before
        {
            if let Some(again) = forgotten_until(court, case, before) {
                latest = Some((again, case));
                continue;
            }
            let (first, second) = (court.tell(court.request(accepted)), court.tell(court.request(before)));
            let (overtaken, name) = (earlier.name(), case.name());
            judgement.wrong(3, format!("{name} overtook {overtaken}: {first}, then {second}"));
        }
        latest = Some((accepted, case));
    }
}

/// Its first acceptance after that request, where nobody could know of those before: all was read again then, an event too
/// that had been rejected the first time, and in its order.
fn forgotten_until(court: &Court<'_>, case: &Case<'_>, until: usize) -> Option<usize> {
    let began = court.request(until).began;
    let mut accepted = case.requests.iter().copied().filter(|number| court.request(*number).accepted());
    let known = |number: &usize| *number < until && unknown(court, court.request(*number), began).is_none();
    let forgotten = !accepted.clone().any(|number| known(&number));
    accepted.find(|number| *number > until).filter(|_| forgotten)
}

fn every_change(court: &Court<'_>, sequence: &[&Case<'_>], judgement: &mut Judgement) {
    let mut last: Option<&Case<'_>> = None;
    // Since one was given up nobody knows which value Nat.app has.
    let mut in_doubt = false;
    for case in sequence {
        let repeats = last.is_some_and(|last| value(last) == value(case));
        let accepted = first_accepted(court, case);
        in_doubt |= !case.letters.is_empty();
        match accepted {
            Some(request) => {
                if let Some(last) = last.filter(|_| repeats && !in_doubt) {
                    let told = court.tell(court.request(request));
                    judgement.wrong(3, format!("{} repeats the value of {}: {told}", case.name(), last.name()));
                }
                judgement.count("Engage values accepted", 1);
                last = Some(case);
                in_doubt = !case.letters.is_empty();
            }
            None if repeats => judgement.count("Engage repeats not sent", 1),
            None if !case.letters.is_empty() || case.queued.is_empty() => {}
            None => {
                judgement.lost += 1;
                let (name, value) = (case.name(), value(case));
                let before = last.map(|last| format!("{} with {:?}", last.name(), self::value(last)));
                let unknown = last.is_some_and(|last| given_up_unknown(court, last));
                let after = if unknown { "; that one is a dead letter though it was accepted" } else { "" };
                judgement.wrong(3, format!("LOST: {name} changes the value to {value:?} and was not sent; the last one accepted: {before:?}{after}"));
            }
        }
    }
}

/// Accepted, and given up all the same: its sender did not hear of it, or could tell nobody before its partition had gone.
fn given_up_unknown(court: &Court<'_>, case: &Case<'_>) -> bool {
    let number = court.by_id.get(case.event.id.as_str());
    let remembered = number.is_some_and(|number| court.first_entry(*number).is_some());
    let requests = || case.requests.iter().map(|number| court.request(*number));
    let Some(given_up) = requests().next_back().map(|last| last.decided) else { return false };
    let untold = requests().any(|request| request.accepted() && unknown(court, request, given_up).is_some());
    !case.letters.is_empty() && !remembered && untold
}
