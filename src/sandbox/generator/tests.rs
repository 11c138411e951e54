//! What users of the generator count on.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::*;

fn options() -> Options {
    Options { seed: 42, contacts: 300, identify: 0.5, ..Options::at("2024-03-01T12:00:00Z".parse().unwrap()) }
}

fn events(options: Options, count: usize) -> Vec<Generated> {
    Generator::new(options).take(count).collect()
}

/// The events that serde_json's `Value` can hold, which is all but those with a lone surrogate.
fn objects(events: &[Generated]) -> Vec<(&Generated, Value)> {
    let object = |event| Some((event, serde_json::from_slice(Generated::value(event)?).ok()?));
    events.iter().filter_map(object).filter(|(_, value): &(_, Value)| value.is_object()).collect()
}

impl Generated {
    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }
}

#[test]
fn the_same_seed_gives_the_same_events() {
    assert_eq!(events(options(), 5_000), events(options(), 5_000));
}

#[test]
fn another_seed_gives_other_events() {
    assert_ne!(events(options(), 50), events(Options { seed: 43, ..options() }, 50));
}

#[test]
fn without_faults_every_record_is_a_json_object() {
    let events = events(Options { bad: 0.0, ..options() }, 8_000);
    for event in &events {
        let text = std::str::from_utf8(event.value().unwrap()).unwrap();
        let sound = text.replace(r"\ud83d cut", "cut");
        let value: Value = serde_json::from_str(&sound).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value["type"].is_string() || value["batch"].is_array(), "{text}");
    }
}

#[test]
fn the_shares_are_met() {
    let events = events(Options { identify: 0.2, engage: 0.25, bad: 0.02, ..options() }, 40_000);
    let objects = objects(&events);
    let engage = objects.iter().filter(|(_, value)| value["channel"] == "server").count();
    let identify = objects.iter().filter(|(_, value)| value["type"] == "identify").count();
    assert!((7_400..8_800).contains(&identify), "{identify}");
    assert!((1_800..2_200).contains(&engage), "{engage}");
}

#[test]
fn every_kind_of_call_occurs() {
    let events = events(Options { identify: 0.1, ..options() }, 8_000);
    let kinds: HashSet<String> =
        objects(&events).iter().filter_map(|(_, value)| Some(value["type"].as_str()?.to_owned())).collect();
    for kind in ["identify", "Identify", "track", "page", "screen", "group", "alias"] {
        assert!(kinds.contains(kind), "{kind}");
    }
    assert!(objects(&events).iter().any(|(_, value)| value["batch"].is_array()));
}

#[test]
fn one_contacts_engage_events_have_one_key() {
    let events = events(Options { engage: 1.0, ..options() }, 8_000);
    let mut keys: HashMap<String, Vec<u8>> = HashMap::new();
    for (event, value) in objects(&events) {
        if value["context"]["personas"].is_object()
            && let Some(email) = value["traits"]["email"].as_str()
        {
            let key = event.key.clone().unwrap();
            assert_eq!(*keys.entry(email.trim().to_lowercase()).or_insert_with(|| key.clone()), key);
        }
    }
    assert!(keys.len() > 100);
}

#[test]
fn engage_values_change_and_sometimes_repeat() {
    let events = events(Options { engage: 1.0, bad: 0.0, ..options() }, 8_000);
    let mut last: HashMap<(String, String), Value> = HashMap::new();
    let (mut changed, mut repeated) = (0, 0);
    for (_, value) in objects(&events) {
        let Some(key) = value["context"]["personas"]["computation_key"].as_str() else { continue };
        let contact = value["traits"]["email"].as_str().unwrap().trim().to_lowercase();
        let now = value["traits"][key].clone();
        match last.insert((contact, key.to_owned()), now.clone()) {
            Some(before) if before == now => repeated += 1,
            Some(_) => changed += 1,
            None => {}
        }
    }
    assert!(repeated > 400 && changed > 2 * repeated, "{changed} changes, {repeated} repeats");
}

#[test]
fn contacts_come_back_on_the_same_day() {
    let events = events(Options { engage: 0.0, bad: 0.0, identify: 1.0, ..options() }, 2_000);
    let distinct: HashSet<_> = events.iter().map(|event| &event.value).collect();
    assert!(distinct.len() < events.len(), "no record came twice");
}

#[test]
fn events_are_padded_to_the_size_asked_for() {
    let events = events(Options { size: Some(2_048), bad: 0.0, ..options() }, 10_000);
    let near = events.iter().filter(|event| event.value().is_some_and(|value| (2_000..2_100).contains(&value.len())));
    assert!(near.count() > 9_900);
    assert!(events.iter().any(|event| event.value().is_some_and(|value| value.len() > 40_000)));
}

#[test]
fn faults_of_every_sort_occur() {
    let events = events(Options { bad: 1.0, ..options() }, 3_000);
    assert!(events.iter().any(|event| event.value.is_none() && event.key.is_some()));
    assert!(events.iter().any(|event| event.value() == Some(b"")));
    assert!(events.iter().any(|event| event.value().is_some_and(|value| value.starts_with(b"["))));
    assert!(events.iter().any(|event| event.value().is_some_and(|value| value.starts_with(&[0xff, 0xfe]))));
}
