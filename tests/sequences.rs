//! conformance/sequences.jsonl through real Kafka: which of several events of a contact arrive, in whatever partitions
//! of the source they came, with one instance or three.

use std::collections::BTreeSet;

use nat_destination::sandbox::stand_in::Behaviour;
use serde_json::Value;

use super::support::{Instance, World};

struct Sequence {
    name: String,
    inputs: Vec<Value>,
    deliver: BTreeSet<usize>,
}

/// Each with contacts of its own, so that all of them can run at once.
fn sequences() -> Vec<Sequence> {
    let lines = include_str!("conformance/sequences.jsonl").lines().filter(|line| !line.is_empty());
    lines.enumerate().map(|(number, line)| sequence(number, &serde_json::from_str(line).expect("JSON"))).collect()
}

fn sequence(number: usize, case: &Value) -> Sequence {
    let inputs = case["inputs"].as_array().expect("inputs").iter().enumerate().map(|(index, input)| {
        let own = input
            .as_str()
            .expect("text")
            .replace("xample.", &format!("xample{number}."))
            .replace("XAMPLE.", &format!("XAMPLE{number}."));
        let mut input: Value = serde_json::from_str(&own).expect("JSON");
        input["messageId"] = format!("{number}/{index}").into();
        input
    });
    let inputs = inputs.collect();
    // The one whose first event the server rejects.
    let expected = match case["name"].as_str() {
        Some("first_delivery_fails_permanently_400") => &case["alternatives"]["when_server_rejects_0"],
        _ => &case["expect"]["deliver_indices"],
    };
    let deliver = expected.as_array().expect("indices").iter().map(|index| index.as_u64().expect("an index") as usize);
    Sequence { name: case["name"].as_str().expect("a name").to_owned(), inputs, deliver: deliver.collect() }
}

/// Input by input of all sequences at once: the next ones when the last ones are settled.
fn play(instances: usize) {
    let world = World::with(4, Behaviour::default());
    let running: Vec<Instance> = (0..instances).map(|_| world.start(&["topics.partitions=4"])).collect();
    running.iter().for_each(Instance::wait_until_ready);
    let sequences = sequences();
    let rejected = sequences
        .iter()
        .position(|sequence| sequence.name == "first_delivery_fails_permanently_400")
        .expect("it is there");
    let mut produced = 0.0;
    for step in 0..sequences.iter().map(|sequence| sequence.inputs.len()).max().expect("some") {
        let reject_emails = if step == 0 { vec![format!("a@example{rejected}.com")] } else { Vec::new() };
        world.behave(Behaviour { reject_emails, ..Behaviour::default() });
        for (number, sequence) in sequences.iter().enumerate() {
            if let Some(input) = sequence.inputs.get(step) {
                world.event((number + step) as i32 % 4, &input.to_string());
                produced += 1.0;
            }
        }
        let settled =
            || running.iter().map(|instance| instance.metric("nat_destination_events_total", &[])).sum::<f64>();
        world.wait("the step is settled", || settled() >= produced);
    }
    let accepted: BTreeSet<String> = world.accepted().into_iter().filter_map(|entry| entry.message_id).collect();
    for (number, sequence) in sequences.iter().enumerate() {
        let arrived = (0..sequence.inputs.len()).filter(|index| accepted.contains(&format!("{number}/{index}")));
        assert_eq!(arrived.collect::<BTreeSet<_>>(), sequence.deliver, "{}", sequence.name);
    }
}

#[test]
fn the_conformance_sequences_hold_whatever_partitions_they_come_in() {
    play(1);
}

#[test]
fn the_conformance_sequences_hold_with_three_instances() {
    play(3);
}
