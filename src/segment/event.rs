//! One event, from its bytes to its outcome: the order of the checks is the order of the functions.

use std::iter::{once, once_with};

use jiff::Timestamp;

use super::engage::{self, Engage};
use super::json::Object;
use super::{Also, EngageMode, Filtered, Identify, Invalid, Outcome, Rules};
use super::{email, integrations, json, timestamp};

/// Classifies exactly one event. Envelopes and batches are not opened: see `read`.
pub fn classify<'a>(rules: &Rules, event: &'a [u8], now: Timestamp) -> Outcome<'a> {
    match Event::parse(rules, event) {
        Ok(event) => event.outcome(rules, now),
        Err(reason) => Outcome::invalid(reason),
    }
}

/// The raw top-level members that the rules speak of.
pub(super) struct Event<'a> {
    text: &'a str,
    kind: Option<&'a str>,
    /// The first of the configured timestamp fields.
    timestamp: Option<&'a str>,
    email: Option<&'a str>,
    url: Option<&'a str>,
    event: Option<&'a str>,
    message_id: Option<&'a str>,
    user_id: Option<&'a str>,
    pub(super) integrations: Option<&'a str>,
    batch: Option<&'a str>,
    /// With `traits`, `page` and `personas`.
    pub(super) context: Object<'a>,
    /// With `email`.
    traits: Object<'a>,
    /// With `email` and `url`.
    properties: Object<'a>,
    /// With `url`.
    page: Object<'a>,
}

/// What `type` says about an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Identify,
    Batch,
    Other,
    Missing,
}

impl<'a> Event<'a> {
    /// One pass over the bytes: checks that they are one JSON object and finds its members.
    pub(super) fn parse(rules: &Rules, bytes: &'a [u8]) -> Result<Self, Invalid> {
        let text = json::object(bytes)?;
        let timestamp_field = rules.timestamp_fields.first().map_or("timestamp", String::as_str);
        let names = ["type", timestamp_field, "email", "url", "event", "messageId", "userId", "integrations", "batch"];
        let objects: [(_, &[_]); _] = [
            ("context", &["traits", "page", "personas"]),
            ("traits", &["email"]),
            ("properties", &["email", "url"]),
            ("page", &["url"]),
        ];
        let (found, objects) = json::tree(text, names, objects)?;
        let [kind, timestamp, email, url, event, message_id, user_id, integrations, batch] = found;
        let [context, traits, properties, page] = objects;
        Ok(Event {
            text,
            kind,
            timestamp,
            email,
            url,
            event,
            message_id,
            user_id,
            integrations,
            batch,
            context,
            traits,
            properties,
            page,
        })
    }

    pub(super) fn is_identify(&self) -> bool {
        self.kind() == Kind::Identify
    }

    /// The raw array of events, if this is a batch of them and no event itself.
    pub(super) fn batch(&self) -> Option<&'a str> {
        let batch = self.batch.filter(|raw| json::is_array(raw))?;
        matches!(self.kind(), Kind::Missing | Kind::Batch).then_some(batch)
    }

    fn kind(&self) -> Kind {
        let Some(text) = self.kind.and_then(json::text) else {
            return Kind::Missing;
        };
        match text.as_ref() {
            "" => Kind::Missing,
            text if text.eq_ignore_ascii_case("identify") => Kind::Identify,
            text if text.eq_ignore_ascii_case("batch") => Kind::Batch,
            _ => Kind::Other,
        }
    }

    pub(super) fn outcome(&self, rules: &Rules, now: Timestamp) -> Outcome<'a> {
        if let Some(batch) = self.batch() {
            return batch_where_an_event_should_be(batch);
        }
        match self.kind() {
            Kind::Identify => self.identify(rules, now),
            Kind::Missing => Outcome::invalid(Invalid::MissingType),
            Kind::Batch | Kind::Other => Outcome::Filtered(Filtered::NotIdentify),
        }
    }

    fn identify(&self, rules: &Rules, now: Timestamp) -> Outcome<'a> {
        if rules.honour_integrations && integrations::switched_off(self.integrations) {
            return Outcome::Filtered(Filtered::IntegrationsOptOut);
        }
        let [_, _, personas] = self.context.within;
        let engage = engage::recognise(personas, self.traits.raw);
        if engage.is_some() && rules.engage == EngageMode::Skip {
            return Outcome::Filtered(Filtered::EngageSkipped);
        }
        let email = match self.email(rules) {
            Ok(email) => email,
            Err(reason) => return Outcome::invalid(reason),
        };
        match self.instant(rules, now) {
            Ok(instant) => Outcome::Identify(self.contact(rules, email, instant, engage)),
            Err(reason) => Outcome::Invalid { reason, email: Some(email) },
        }
    }

    fn email(&self, rules: &Rules) -> Result<String, Invalid> {
        let [context_traits, _, _] = self.context.within;
        // An ordinary id is no attempt at an address: it must not turn a missing email into an invalid one.
        let is_email = |id: &&str| email::first_usable(once(Some(*id))).is_ok();
        let user_id = self.user_id.filter(|_| rules.user_id_as_email).filter(is_email);
        email::first_usable(
            [self.traits.within[0], self.email]
                .into_iter()
                .chain(once_with(|| json::look(context_traits, ["email"])[0]))
                .chain([self.properties.within[0], user_id]),
        )
    }

    fn instant(&self, rules: &Rules, now: Timestamp) -> Result<Timestamp, Invalid> {
        for (index, field) in rules.timestamp_fields.iter().enumerate() {
            let raw = match index {
                0 => self.timestamp,
                // Rarely needed, so not worth a place in the first pass.
                _ => json::look(Some(self.text), [field.as_str()])[0],
            };
            if let Some(parsed) = raw.and_then(timestamp::parse) {
                return timestamp::within_range(rules, parsed?, now);
            }
        }
        Err(Invalid::MissingTimestamp)
    }

    fn contact(&self, rules: &Rules, email: String, instant: Timestamp, engage: Option<Engage<'a>>) -> Identify<'a> {
        let [_, context_page, _] = self.context.within;
        let also = Also {
            urls: [self.page.within[0], self.url, self.properties.within[1]],
            context_page,
            event: self.event,
            message_id: self.message_id,
            user_id: self.user_id,
        };
        Identify { email, instant, day: rules.zone.to_datetime(instant).date(), engage, also }
    }
}

/// A batch inside a batch: Segment sends none, so it is not opened, but its events must not be lost in silence.
fn batch_where_an_event_should_be(batch: &str) -> Outcome<'static> {
    if json::items(batch).is_empty() {
        Outcome::Filtered(Filtered::NotIdentify)
    } else {
        Outcome::invalid(Invalid::MissingType)
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
