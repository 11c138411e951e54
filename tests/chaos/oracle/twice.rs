//! Statements 2 and 4: a contact-day is accepted once. A second request after an acceptance must have an excuse: whoever
//! sent it could not know the first one's outcome. It carries the same Idempotency-Key then.

use std::collections::BTreeMap;

use super::{Court, Judgement};
use crate::clock::{self, MILLI, Micros, SECOND};
use crate::cluster::SESSION;
use crate::events::Fate;
use crate::instance::Ended;
use crate::nat::{End, Request};

/// Between the brokers' clock and ours, and for what an instance has begun already.
const TOLERANCE: Micros = 100 * MILLI;

/// What may be accepted once: a contact's day, or one Engage event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject<'a> {
    Day(&'a str, &'a str),
    Engage(&'a str),
}

pub fn judge(court: &Court<'_>, judgement: &mut Judgement) {
    let mut subjects: BTreeMap<Subject<'_>, Vec<usize>> = BTreeMap::new();
    for (number, case) in court.cases.iter().enumerate() {
        let subject = match &case.event.fate {
            Fate::Visit { .. } => Subject::Day(&case.event.contact, &case.event.day),
            Fate::Engage { .. } => Subject::Engage(&case.event.id),
            _ => continue,
        };
        subjects.entry(subject).or_default().push(number);
    }
    for (subject, cases) in subjects {
        let mut requests: Vec<(usize, usize)> =
            cases.iter().flat_map(|case| court.cases[*case].requests.iter().map(|request| (*request, *case))).collect();
        requests.sort_unstable();
        Trial { court, subject, cases, requests }.judge(judgement);
    }
}

/// All that was sent about one subject, in order: the request's number and the case's.
struct Trial<'a, 'c> {
    court: &'c Court<'a>,
    subject: Subject<'a>,
    cases: Vec<usize>,
    requests: Vec<(usize, usize)>,
}

impl Trial<'_, '_> {
    fn judge(&self, judgement: &mut Judgement) {
        let mut accepted: Vec<(usize, usize)> = Vec::new();
        for (number, case) in &self.requests {
            let request = self.court.request(*number);
            let mut reason = None;
            for (earlier, earlier_case) in &accepted {
                match self.excuse((self.court.request(*earlier), *earlier_case), (request, *case)) {
                    Ok(excuse) => reason = Some(excuse),
                    Err((statement, why)) => {
                        let (first, second) = (self.court.request(*earlier), request);
                        let (first, second) = (self.court.tell(first), self.court.tell(second));
                        let event = self.court.cases[*case].name();
                        judgement.wrong(
                            statement,
                            format!("{:?}, {event}: {why}. First: {first}. Then: {second}", self.subject),
                        );
                        reason = Some("NOT EXCUSED");
                    }
                }
            }
            if request.accepted() {
                if let (Some(reason), false) = (reason, accepted.is_empty()) {
                    *judgement.doubled.entry(reason).or_default() += 1;
                }
                accepted.push((*number, *case));
            }
        }
    }

    /// Why the sender of `second` could not know that `first` was accepted; or why it must have known.
    fn excuse(&self, first: (&Request, usize), second: (&Request, usize)) -> Result<&'static str, (u8, String)> {
        let ((first, first_case), (second, second_case)) = (first, second);
        let reason = match self.acknowledged_before(second) {
            Some(appended) => self.although_acknowledged(appended, first, second, second_case)?,
            None => unknown(self.court, first, second.began).ok_or_else(|| {
                (2, "sent again although the first answer had arrived and nothing had befallen its sender".to_owned())
            })?,
        };
        if first.key == second.key {
            return Ok(reason);
        }
        // Another event of that day: the first one must have been given up, its outcome not being known.
        let given_up = |case: usize| !self.court.cases[case].letters.is_empty();
        match given_up(first_case) || given_up(second_case) {
            true => Ok("another event of that day, after a dead letter"),
            false => Err((2, format!("sent again with another Idempotency-Key ({reason})"))),
        }
    }

    /// When the first changelog record about this was appended, if the request was begun after that.
    fn acknowledged_before(&self, second: &Request) -> Option<Micros> {
        let entries = |case: &usize| self.court.changelog.get(case).into_iter().flatten().map(|entry| entry.appended);
        let appended = self.cases.iter().flat_map(|case| entries(case).map(move |appended| (*case, appended)));
        let standing = appended.filter(|(case, appended)| !self.superseded(*case, *appended, second.began));
        let appended = standing.map(|(_, appended)| appended).min()?;
        (second.began > appended + TOLERANCE).then_some(appended)
    }

    /// Whether another value of that Engage key came into the changelog after this one: it is the last one then, and this
    /// one a change again.
    fn superseded(&self, case: usize, appended: Micros, until: Micros) -> bool {
        let court = self.court;
        let Fate::Engage { key, .. } = &court.cases[case].event.fate else { return false };
        let is_of_that_key = |other: usize| {
            let event = &court.cases[other].event;
            event.contact == court.cases[case].event.contact
                && matches!(&event.fate, Fate::Engage { key: other, .. } if other == key)
        };
        court.changelog.iter().any(|(other, entries)| {
            *other != case
                && entries.iter().any(|entry| (appended + 1..until).contains(&entry.appended))
                && is_of_that_key(*other)
        })
    }

    fn although_acknowledged(
        &self,
        appended: Micros,
        first: &Request,
        second: &Request,
        second_case: usize,
    ) -> Result<&'static str, (u8, String)> {
        let court = self.court;
        if is_zombie(court, second) {
            return Ok("zombie: woken after its session had ended");
        }
        let partition = court.partition(&court.cases[second_case], second.began);
        let given = partition.and_then(|partition| court.given(second.life, partition, second.began));
        let (since, told) = match given {
            Some(given) => (given, clock::tell(given)),
            None => (0, "never, as far as its log tells".into()),
        };
        // Somebody else's record, who had accepted it too, and who wrote it when this sender had restored already: it was
        // never told of that. Of the first acceptance nobody knew anything.
        if since > 0
            && appended > since - TOLERANCE
            && let Some(why) = unknown(court, first, second.began)
        {
            return Ok(why);
        }
        let changed_hands = first.life != second.life || first.decided < since;
        let first_in_trouble = court.stopped(first.life, first.decided, appended)
            || court.kafka_trouble(first.life, first.decided, appended)
            || died(court, first.life, first.decided, second.began).is_some();
        if changed_hands && first_in_trouble && appended > since - TOLERANCE {
            return Ok("the predecessor's changelog record came after the partition had changed hands");
        }
        // A record that the leader had appended and the followers had not: whoever wrote it did not hear of it.
        let unheard = died(court, first.life, first.decided, second.began).is_some()
            || court.stopped(first.life, first.decided, second.began)
            || court.kafka_trouble(first.life, first.decided, appended);
        if changed_hands
            && unheard
            && court.kafka_trouble(second.life, appended, since)
            && since - appended < 10 * SECOND
        {
            return Ok("appended to the changelog, not acknowledged in a broker's trouble");
        }
        let told = format!(
            "sent again although its changelog record had been appended at {}; the sender was given partition {partition:?} at {told}",
            clock::tell(appended)
        );
        Err((4, told))
    }
}

/// Why the sender of an accepted request could not know that, or could tell nobody, until then.
pub fn unknown(court: &Court<'_>, accepted: &Request, until: Micros) -> Option<&'static str> {
    let (life, from) = (accepted.life, accepted.decided);
    if accepted.end != End::Answered {
        return Some(accepted.end.name());
    }
    if let Some(how) = died(court, life, from, until) {
        return Some(how);
    }
    if court.stopped(life, from, until) {
        return Some("stopped before the changelog had it");
    }
    court.kafka_trouble(life, from, until).then_some("cut from Kafka before the changelog had it")
}

/// How that life ended between these times, if it did so before it could write down what it knew.
fn died(court: &Court<'_>, life: usize, from: Micros, to: Micros) -> Option<&'static str> {
    let (at, how) = court.life(life)?.ended?;
    // Its end is noticed a moment later.
    if at < from || at > to + 100 * MILLI {
        return None;
    }
    match how {
        Ended::Killed => Some("killed before the changelog had it"),
        Ended::Told(Some(0)) => None,
        Ended::Told(_) | Ended::ByItself(_) => Some("ended with an error before the changelog had it"),
    }
}

/// One that was stopped, wakes after its session has ended, and sends on before it hears that it was put out. It may have
/// been cut from Kafka already when it was stopped: its session has run since then.
fn is_zombie(court: &Court<'_>, request: &Request) -> bool {
    const AWAKE: Micros = SECOND;
    /// From a road that is whole again to the next heartbeat.
    const RECONNECTING: Micros = 1_500 * MILLI;
    let Some(life) = court.life(request.life) else { return false };
    let Some(stop) = life.stops.iter().find(|stop| (stop.to..stop.to + AWAKE).contains(&request.arrived)) else {
        return false;
    };
    let mut silent_since = stop.from;
    let troubles = court.kafka_troubles(request.life);
    while let Some(earlier) =
        troubles.iter().find(|window| window.from < silent_since && silent_since <= window.to + RECONNECTING)
    {
        silent_since = earlier.from;
    }
    stop.to - silent_since >= SESSION.as_micros() as Micros
}
