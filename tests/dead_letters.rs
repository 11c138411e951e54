//! A dead letter is the source record as it was, with what became of it in headers that existing tools read.

use std::process::Command;

use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::world::identify;

const CONNECT: [&str; 9] = [
    "__connect.errors.topic",
    "__connect.errors.partition",
    "__connect.errors.offset",
    "__connect.errors.connector.name",
    "__connect.errors.task.id",
    "__connect.errors.stage",
    "__connect.errors.class.name",
    "__connect.errors.exception.class.name",
    "__connect.errors.exception.message",
];

#[test]
fn a_rejected_event_is_kept_whole_with_the_answer_and_its_origin() {
    let world = World::with(3, Behaviour { reject_emails: vec!["ada@example.com".into()], ..Behaviour::default() });
    let event = identify(" Ada@example.com", "2026-11-20T08:00:00Z", "m");
    world.produce(1, Some(b"user \xff"), Some(event.as_bytes()), &[("trace", Some(b"t")), ("none", None)]);
    world.run_until_caught_up(&[]);
    let letters = world.dead_letters();
    let [letter] = letters.as_slice() else { panic!("one dead letter: {letters:?}") };
    assert_eq!(letter.key.as_deref(), Some(&b"user \xff"[..]));
    assert_eq!(letter.value.as_deref(), Some(event.as_bytes()));
    assert_eq!(letter.headers[..2], [("trace".to_owned(), Some(b"t".to_vec())), ("none".to_owned(), None)]);
    assert!(CONNECT.iter().all(|name| letter.header(name).is_some()), "{letter:?}");
    let told = |name: &str| letter.header(name).expect(name);
    assert_eq!(told("__connect.errors.topic"), world.source);
    assert_eq!((told("__connect.errors.partition"), told("__connect.errors.offset")), ("1".into(), "0".into()));
    assert_eq!(
        (told("nat.reason"), told("nat.status"), told("nat.attempts")),
        ("rejected".into(), "400".into(), "1".into())
    );
    assert_eq!(told("nat.redrive_count"), "0");
    let headers: Vec<String> =
        letter.headers.iter().filter_map(|(_, value)| String::from_utf8(value.clone()?).ok()).collect();
    assert!(
        !headers.iter().any(|value| value.to_lowercase().contains("ada@")),
        "no personal data in a header: {headers:?}"
    );
}

#[test]
fn an_invalid_event_is_kept_whole_and_kcat_reads_it() {
    let world = World::new();
    let event = r#"{"type":"identify","userId":"u","timestamp":"2026-11-20T08:00:00Z"}"#;
    world.produce(2, Some(b"u"), Some(event.as_bytes()), &[]);
    world.run_until_caught_up(&[]);
    let kcat = Command::new("kcat")
        .args(["-b", &world.brokers, "-t", &world.topic("dead-letter"), "-C", "-e", "-q"])
        .args(["-f", "%k|%s|%h\n"])
        .output()
        .expect("kcat is there: apt-get install -y kcat");
    let line = String::from_utf8(kcat.stdout).expect("text");
    let parts: Vec<&str> = line.trim_end().split('|').collect();
    assert_eq!(parts[..2], ["u", event]);
    for part in ["nat.reason=missing_email", "__connect.errors.partition=2", "__connect.errors.stage=VALUE_CONVERTER"] {
        assert!(parts[2].contains(part), "{part} in {}", parts[2]);
    }
}
