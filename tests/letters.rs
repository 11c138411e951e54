//! Dead letters are seen, told apart and kept: `dead-letters` stats, list, show and export.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Output;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nat_destination::sandbox::stand_in::Behaviour;
use serde_json::{Value, json};

use super::support::World;
use super::support::world::{SLOW_READER, identify};

pub fn rejecting(emails: &[&str]) -> Behaviour {
    Behaviour { reject_emails: emails.iter().map(|email| (*email).to_owned()).collect(), ..Behaviour::default() }
}

pub fn dead_letters(world: &World, arguments: &[&str], set: &[&str]) -> Output {
    world.command(&[&["dead-letters"], arguments].concat(), set).output().expect("it runs")
}

pub fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The JSON lines that a command prints.
pub fn lines(world: &World, arguments: &[&str]) -> Vec<Value> {
    let text = succeeded(dead_letters(world, arguments, &[]));
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

pub fn redrive(world: &World, arguments: &[&str], set: &[&str]) -> Value {
    let text = succeeded(dead_letters(world, &[&["redrive", "--json"], arguments].concat(), set));
    serde_json::from_str(&text).expect("JSON")
}

pub fn told(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn ada() -> String {
    identify("ada@example.com", "2026-11-20T08:00:00Z", "m-ada")
}

pub fn day(email: &str) -> (String, String) {
    (email.to_owned(), "2026-11-20".to_owned())
}

#[test]
fn what_was_redriven_is_told_wherever_a_dead_letter_is_and_what_is_open_too() {
    let world = of_four_kinds();
    let places = |letters: &[Value], redriven: bool| -> Vec<String> {
        let of = letters.iter().filter(|letter| letter["redriven"].is_string() == redriven);
        let mut places: Vec<_> = of.map(|letter| letter["place"].as_str().expect("a place").to_owned()).collect();
        places.sort();
        places
    };
    let before = lines(&world, &["list"]);
    assert_eq!((places(&before, true).len(), places(&before, false).len()), (0, 4));
    let began = jiff::Timestamp::now().as_millisecond();
    redrive(&world, &["--contact", "bob@example.com"], &[]);
    let listed = lines(&world, &["list"]);
    let taken = listed.iter().find(|letter| letter["redriven"].is_string()).expect("one was redriven");
    let at: jiff::Timestamp = taken["redriven"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    assert!(at.as_millisecond() >= began, "{taken}");
    assert_eq!((taken["status"].as_u64(), places(&listed, false).len()), (Some(422), 3));
    let exported = lines(&world, &["export", "-"]);
    assert_eq!((places(&exported, true), places(&exported, false)), (places(&listed, true), places(&listed, false)));
    for open in [lines(&world, &["list", "--open"]), lines(&world, &["export", "--open", "-"])] {
        assert_eq!((places(&open, true).len(), places(&open, false)), (0, places(&listed, false)));
    }
    for letter in &listed {
        let shown = &lines(&world, &["show", "--json", letter["place"].as_str().expect("a place")])[0];
        assert_eq!(shown["redriven"], letter["redriven"]);
        let words = succeeded(dead_letters(&world, &["show", letter["place"].as_str().expect("a place")], &[]));
        assert_eq!(words.contains("redriven       no\n"), letter["redriven"].is_null(), "{words}");
        // What was redriven is not to be redriven: it is passed over.
        assert_eq!(words.contains("dead-letters redrive"), letter["redriven"].is_null(), "{words}");
    }
    let explain = world.command(&["explain", "--json", "--contact", "bob@example.com"], &[]).output().expect("it runs");
    let explained: Value = serde_json::from_str(&succeeded(explain)).expect("JSON");
    let letters = explained["dead_letters"].as_array().expect("a list");
    assert!(!letters.is_empty() && letters.iter().all(|letter| letter["redriven"].is_string()), "{explained}");
    // Each of them tells a letter in the same words.
    for letter in letters {
        let listed = listed.iter().find(|other| other["place"] == letter["place"]).expect("it is listed");
        let members = listed.as_object().expect("an object").iter();
        members.for_each(|(name, value)| assert_eq!(&letter[name], value, "{name}"));
    }
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["redriven"], &stats["open"]), (&json!(4), &json!(1), &json!(3)));
    assert_eq!(stats["open_reasons"], json!({"rejected": 1, "missing_email": 1, "not_json": 1}));
    let words = succeeded(dead_letters(&world, &["stats"], &[]));
    assert!(words.starts_with("4 dead letters: 1 redriven, 3 open\n"), "{words}");
    assert!(words.contains("rejected             2     1\n"), "{words}");
}

#[test]
fn a_reason_of_a_newer_version_is_a_filter_and_a_misspelt_one_is_told() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let letter = &world.dead_letters()[0];
    let header = |(name, value): &(String, Option<Vec<u8>>)| match name.as_str() {
        "nat.reason" => (name.clone(), Some(b"quarantined".to_vec())),
        _ => (name.clone(), value.clone()),
    };
    let headers: Vec<_> = letter.headers.iter().map(header).collect();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    world.send(&world.topic("dead-letter"), Some(0), None, letter.value.as_deref(), &headers);
    world.flush();
    let newer = lines(&world, &["list", "--reason", "quarantined"]);
    assert_eq!((newer.len(), newer[0]["reason"].as_str()), (1, Some("quarantined")));
    let shown = &lines(&world, &["show", "--json", newer[0]["place"].as_str().expect("a place")])[0];
    let command = "nat-destination dead-letters redrive --reason quarantined --dry-run";
    assert_eq!(shown["command"], command);
    let report = redrive(&world, &["--reason", "quarantined"], &[]);
    assert_eq!(report["reasons"], json!({"quarantined": 1}), "as show says");
    // Nobody's: then it is most likely misspelt. One that is known may be absent.
    let file = world.path("letters.jsonl");
    let file = file.to_str().expect("text");
    for command in [&["list"][..], &["stats"], &["redrive"], &["export", file]] {
        let (code, said) = told(&dead_letters(&world, &[command, &["--reason", "rejcted"]].concat(), &[]));
        assert_eq!(code, Some(2), "{command:?} {said}");
        assert!(said.contains("--reason rejcted: no dead letter") && said.contains("did you mean rejected?"), "{said}");
    }
    assert!(!world.path("letters.jsonl").exists() && partial(&world).is_empty());
    assert_eq!(world.read(&world.topic("queue")).len(), 2);
    assert_eq!(lines(&world, &["list", "--reason", "poison"]).len(), 0);
}

#[test]
fn a_foreign_dead_letter_is_counted_and_passed_over() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let topic = world.topic("dead-letter");
    let connect: [(&str, Option<&[u8]>); 2] =
        [("__connect.errors.topic", Some(b"orders")), ("__connect.errors.offset", Some(b"5"))];
    world.send(&topic, Some(0), None, Some(ada().as_bytes()), &connect);
    world.send(&topic, Some(0), Some(b"\xff"), Some(b"\xff"), &[]);
    world.send(&topic, Some(0), None, None, &[("nat.redriven", Some(b"not a place"))]);
    world.flush();
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["reasons"]), (&json!(4), &json!({"rejected": 1, "foreign": 3})));
    assert_eq!(lines(&world, &["list", "--reason", "foreign"]).len(), 3);
    let adas = lines(&world, &["list", "--contact", "ada@example.com", "--oldest-first"]);
    let reasons: Vec<_> = adas.iter().map(|letter| letter["reason"].as_str().expect("a reason")).collect();
    assert_eq!(reasons, ["rejected", "foreign"], "as explain --contact counts them");
    assert!(adas[0]["contact"].is_string() && adas[0]["contact"] == adas[1]["contact"], "{adas:?}");
    let shown = succeeded(dead_letters(&world, &["show", "0:0"], &[]))
        + &succeeded(dead_letters(&world, &["show", "0:1"], &[]));
    assert!(shown.contains("another tool wrote or changed it"), "{shown}");
    let theirs = &lines(&world, &["list", "--reason", "foreign"])[0]["place"];
    let json = &lines(&world, &["show", "--json", theirs.as_str().expect("a place")])[0];
    assert!(
        json["reason"] == "foreign" && json["what_to_do"].as_str().is_some_and(|text| text.contains("ask")),
        "{json}"
    );
    let report = redrive(&world, &[], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({"foreign": 3})));
    assert_eq!(world.read(&world.topic("queue")).len(), 2);
}

/// Dead letters of four kinds: ada's rejected with 400, bob's with 422, one without an email, and one that is no JSON.
pub fn of_four_kinds() -> World {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    world.behave(Behaviour { reject_status: 422, ..rejecting(&["bob@example.com"]) });
    world.event(0, &identify("Bob@example.com", "2026-11-20T08:00:00Z", "m-bob"));
    world.event(0, r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z","userId":"u-815"}"#);
    world.event(0, r#"{"type":"identify","timestamp":"#);
    world.run_until_caught_up(&[]);
    world
}

#[test]
fn filters_choose_what_is_listed_and_redriven() {
    let world = of_four_kinds();
    let all = lines(&world, &["list"]);
    let times: Vec<&str> = all.iter().map(|row| row["time"].as_str().expect("a time")).collect();
    assert!(all.len() == 4 && times.is_sorted_by(|a, b| a >= b), "newest first: {times:?}");
    assert_eq!(
        lines(&world, &["list", "--oldest-first"])[0]["contact"],
        lines(&world, &["list", "--status", "400"])[0]["contact"]
    );
    let oldest = &all[3];
    let source = ["topic", "partition", "offset"].map(|member| oldest["source"][member].clone());
    assert_eq!((&oldest["reason"], source), (&json!("rejected"), [json!(world.source), json!(0), json!(0)]));
    assert_eq!((&oldest["status"], &oldest["attempts"], &oldest["redrives"]), (&json!(400), &json!(1), &json!(0)));
    let until = times[3];
    for (filter, count) in [
        (&["--reason", "rejected"][..], 2),
        (&["--reason", "rejected", "--reason", "not_json"], 3),
        (&["--status", "422"], 1),
        (&["--reason", "missing_email", "--status", "422"], 0),
        (&["--contact", " BOB@example.com"], 1),
        (&["--contact", "carol@example.com"], 0),
        (&["--topic", &world.source], 4),
        (&["--topic", "another"], 0),
        (&["--since", "1h"], 4),
        (&["--since", "1h", "--until", until], 0),
        (&["--since", until], 4),
        (&["--limit", "3"], 3),
    ] {
        assert_eq!(lines(&world, &[&["list"], filter].concat()).len(), count, "{filter:?}");
    }
    let none = succeeded(dead_letters(&world, &["stats", "--status", "500"], &[]));
    assert_eq!(none, "4 dead letters read, none of them meant by these filters\n");
    let text = succeeded(dead_letters(&world, &["list"], &[]));
    assert!(!text.contains('@') && !text.contains("u-815"), "no personal data: {text}");
    for (wrong, said) in [
        (&["--since", "1h", "--until", "2h"][..], "is not before --until"),
        (&["--reason", "rejcted"], "rejected"),
        (&["--contact", "ada"], "it is no email address"),
        (&["--since", "yesterday"], "is no time"),
    ] {
        let (code, error) = told(&dead_letters(&world, &[&["list"], wrong].concat(), &[]));
        assert_eq!(code, Some(2), "{wrong:?}");
        assert!(error.contains(said), "{error}");
    }
    world.behave(Behaviour::default());
    let report = redrive(&world, &["--contact", "bob@example.com", "--reason", "rejected"], &[]);
    assert_eq!((&report["letters"], &report["passed_over"]), (&json!(1), &json!({})));
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days(), [day("bob@example.com")]);
}

fn error_of(world: &World, place: &str) -> String {
    told(&dead_letters(world, &["show", place], &[])).1
}

#[test]
fn personal_data_is_shown_only_with_reveal_wherever_it_stands() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    let event = r#"{"type":"identify","messageId":"ada%40example.com-17","timestamp":"2026-11-20T08:00:00Z",
        "integrations":{"Intercom":{"user_hash":"7c1d","name":"Ada Lovelace","phone":"+41791234567"}},
        "channel":"+41 79 123 45 67","version":"Ada Lovelace","traits":{"email":"ada@example.com","ada%40example.com":"x"}}"#;
    world.produce(0, None, Some(event.as_bytes()), &[("ada%40example.com", Some(b"x")), ("x-trace", None)]);
    world.run_until_caught_up(&[]);
    let place = lines(&world, &["list"])[0]["place"].as_str().expect("a place").to_owned();
    for format in [&["show", &place][..], &["show", &place, "--json"]] {
        let shown = succeeded(dead_letters(&world, format, &[]));
        for gone in ["ada", "Ada", "+41", "7c1d", "@", "%40"] {
            assert!(!shown.contains(gone), "{gone} in {shown}");
        }
        assert!(shown.contains("Intercom") && shown.contains("x-trace"), "{shown}");
    }
}

#[test]
fn a_revealed_event_is_told_as_it_came() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    let event = ada().replacen('{', "{\"long\": 12345678901234567890123, \"price\":1.10,\n\"a\":1, \"a\":2,", 1);
    world.event(0, &event);
    world.run_until_caught_up(&[]);
    let place = lines(&world, &["list"])[0]["place"].as_str().expect("a place").to_owned();
    let words = succeeded(dead_letters(&world, &["show", &place, "--reveal"], &[]));
    for line in event.lines() {
        assert!(words.contains(line), "{line} in {words}");
    }
    let json = succeeded(dead_letters(&world, &["show", &place, "--reveal", "--json"], &[]));
    assert!(json.contains(&event.replace('\n', " ")) && json.lines().count() == 1, "{json}");
}

#[test]
fn a_batch_is_found_by_each_of_its_contacts() {
    let world = World::with(1, Behaviour::default());
    // In an envelope that no setting tells of: a dead letter as a whole.
    let batch = format!(r#"{{"batch":[{},{}]}}"#, ada(), identify("bob@example.com", "2026-11-20T08:00:00Z", "m-bob"));
    world.event(0, &format!(r#"{{"payload":{batch}}}"#));
    world.run_until_caught_up(&[]);
    assert_eq!(world.dead_letters().len(), 1);
    let mended = ["source.envelope=payload"];
    let count = |command: &[&str], email: &str| {
        let arguments = [command, &["--contact", email]].concat();
        succeeded(dead_letters(&world, &arguments, &mended)).lines().count()
    };
    let second = identify("ada@example.com", "2026-11-21T08:00:00Z", "m-second");
    world.event(0, &format!(r#"{{"payload":{{"batch":[{},{second}]}}}}"#, ada()));
    world.run_until_caught_up(&[]);
    for (email, letters) in [("ada@example.com", 2), ("bob@example.com", 1)] {
        assert_eq!((count(&["list", "--json"], email), count(&["export", "-"], email)), (letters, letters), "{email}");
    }
    assert_eq!(count(&["list", "--json"], "eve@example.com"), 0);
    let report = dead_letters(&world, &["redrive", "--json", "--dry-run", "--contact", "bob@example.com"], &mended);
    let report: Value = serde_json::from_str(&succeeded(report)).expect("JSON");
    assert_eq!((&report["letters"], &report["events"]), (&json!(1), &json!(2)), "it is taken whole");
}

#[test]
fn an_export_is_its_owners_alone_and_touches_no_file_but_its_own() {
    let world = of_four_kinds();
    let (file, theirs, secret) =
        (world.path("letters.jsonl"), world.path("letters.jsonl.partial"), world.path("secret"));
    let name = file.to_str().expect("text");
    let export = |name: &str, options: &[&str]| dead_letters(&world, &[&["export", name], options].concat(), &[]);
    let mode = |path: &PathBuf| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    std::fs::write(&secret, "keep").expect("written");
    symlink(&secret, &theirs).expect("linked");
    succeeded(export(name, &[]));
    assert_eq!(mode(&file), 0o600);
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("set");
    succeeded(export(name, &["--force"]));
    assert_eq!((mode(&file), std::fs::read_to_string(&secret).expect("there")), (0o600, "keep".to_owned()));
    let (code, error) = told(&export(world.path("new").to_str().expect("text"), &["--reason", "rejcted"]));
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(partial(&world), [theirs], "theirs stays, and none of its own");
    // A link that leads nowhere, one that leads somewhere, and a device.
    let (dangling, link) = (world.path("dangling"), world.path("link"));
    symlink(world.path("nowhere"), &dangling).expect("linked");
    symlink(&secret, &link).expect("linked");
    for special in [dangling.to_str().expect("text"), link.to_str().expect("text"), "/dev/null"] {
        for options in [&[][..], &["--force"]] {
            let (code, error) = told(&export(special, options));
            assert_eq!(code, Some(1), "{special} {error}");
            assert!(error.contains("use - for standard output"), "{error}");
        }
    }
    assert!(!world.path("nowhere").exists() && link.is_symlink());
}

#[test]
fn list_and_export_tell_of_a_letter_alike() {
    let world = of_four_kinds();
    world.send(&world.topic("dead-letter"), Some(0), None, Some(b"theirs"), &[]);
    world.flush();
    let listed = lines(&world, &["list", "--oldest-first"]);
    let mut exported = lines(&world, &["export", "-"]);
    exported.sort_by_key(|letter| (letter["time"].to_string(), letter["place"].to_string()));
    assert_eq!((listed.len(), exported.len()), (5, 5));
    for row in &listed {
        let letter = exported.iter().find(|letter| letter["place"] == row["place"]).expect("it is exported");
        for (name, value) in row.as_object().expect("an object") {
            assert_eq!(&letter[name], value, "{name}");
        }
        for name in ["answer", "attempts", "first_attempt", "last_attempt", "message", "headers", "key", "value"] {
            assert!(letter.get(name).is_some(), "{name} in {letter}");
        }
    }
}

#[test]
fn topics_that_were_never_made_are_told_with_what_makes_them() {
    let world = World::new();
    let contact = ["--contact", "ada@example.com"];
    for command in [
        &["dead-letters", "stats"][..],
        &["dead-letters", "redrive"],
        &["dead-letters", "show", "0:0"],
        &["explain", contact[0], contact[1]],
        &["forget", contact[0], contact[1]],
    ] {
        let (code, error) = told(&world.command(command, &[]).output().expect("it runs"));
        assert_eq!(code, Some(1), "{command:?} {error}");
        assert!(error.contains("it is missing; create it with: nat-destination topics create"), "{command:?} {error}");
    }
}

#[test]
fn show_masks_personal_data_unless_revealed_and_says_what_to_do() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    let event = identify("ada@example.com", "2026-11-20T08:00:00Z", "m1");
    world.produce(0, Some(b"ada-key"), Some(event.as_bytes()), &[("trace", Some(b"ada-trace"))]);
    world.run_until_caught_up(&[]);
    let place = lines(&world, &["list"])[0]["place"].as_str().expect("a place").to_owned();
    let shown = succeeded(dead_letters(&world, &["show", &place], &[]));
    for part in [
        "Nat.app rejects it",
        "status         400",
        "\"email\": \"(text of 15 characters)\"",
        "what to do",
        "trace: (9 bytes)",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("ada"), "{shown}");
    let revealed = succeeded(dead_letters(&world, &["show", &place, "--reveal"], &[]));
    for part in [event.as_str(), "ada-key", "trace: ada-trace"] {
        assert!(revealed.contains(part), "{part} in {revealed}");
    }
    let (partition, _) = place.split_once(':').expect("two numbers");
    let listed = &lines(&world, &["list"])[0];
    let json = &lines(&world, &["show", &place, "--json"])[0];
    for (name, value) in listed.as_object().expect("an object") {
        assert_eq!(&json[name], value, "{name}, as list tells it");
    }
    assert!(json["answer"].as_str().is_some_and(|answer| answer.contains("refused")), "{json}");
    assert!(json["what_happened"].as_str().is_some_and(|words| words.contains("Nat.app rejects it")), "{json}");
    assert!(json["what_to_do"].as_str().is_some_and(|words| words.contains("redrive it")), "{json}");
    assert_eq!(json["headers"], json!([{"name": "trace", "value": "(9 bytes)"}]));
    assert_eq!(json["value"]["traits"]["email"], "(text of 15 characters)");
    assert!(!json.to_string().contains("ada"), "{json}");
    let json = &lines(&world, &["show", &place, "--json", "--reveal"])[0];
    assert_eq!(
        (json["key"].as_str(), json["value"]["traits"]["email"].as_str()),
        (Some("ada-key"), Some("ada@example.com"))
    );
    assert_eq!(json["headers"], json!([{"name": "trace", "value": "ada-trace"}]));
    assert_eq!(json["suppressed"], Value::Null);
    std::fs::write(world.path("suppressed"), "ada@example.com\n").expect("written");
    let list = format!("suppress.file={}", world.path("suppressed").display());
    let shown = succeeded(dead_letters(&world, &["show", &place], &[&list]));
    assert!(shown.contains(", suppressed\n") && shown.contains("on the suppression list"), "{shown}");
    assert!(!shown.contains("nat-destination dead-letters redrive"), "{shown}");
    let output = dead_letters(&world, &["show", &place, "--json"], &[&list]);
    let json: Value = serde_json::from_str(&succeeded(output)).expect("JSON");
    assert_eq!((&json["suppressed"], &json["command"]), (&json!(true), &Value::Null));
    assert!(!error_of(&world, &format!("{partition}:9")).contains("gone"), "it never was there");
    let behind = format!("{partition}:9");
    for (wrong, code, said) in
        [(behind.as_str(), 1, "holds the offsets 0 to 0"), ("17:0", 1, "it has 0 to 2"), ("17", 2, "PARTITION:OFFSET")]
    {
        let (exit, error) = told(&dead_letters(&world, &["show", wrong], &[]));
        assert_eq!(exit, Some(code), "{error}");
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn stats_count_by_reason_status_topic_and_day() {
    let today = || jiff::Timestamp::now().strftime("%F").to_string();
    let began = today();
    let world = of_four_kinds();
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["redriven"]), (&json!(4), &json!(0)));
    assert_eq!(stats["reasons"], json!({"rejected": 2, "missing_email": 1, "not_json": 1}));
    assert_eq!(stats["statuses"], json!({"400": 1, "422": 1}));
    assert_eq!(stats["topics"], json!({&world.source: 4}));
    assert_eq!(stats["days"].as_object().expect("days").values().filter_map(Value::as_u64).sum::<u64>(), 4);
    let is_told = [began, today()].iter().any(|day| stats["days"].get(day).is_some()); // It may be midnight.
    assert!(is_told && stats["first"].as_str() < stats["last"].as_str(), "{stats}");
    redrive(&world, &["--reason", "rejected"], &[]);
    let stats = &lines(&world, &["stats", "--json"])[0];
    assert_eq!((&stats["letters"], &stats["redriven"]), (&json!(4), &json!(2)), "the notes are no letters");
    let words = succeeded(dead_letters(&world, &["stats"], &[]));
    assert!(words.starts_with("4 dead letters: 2 redriven, 2 open\n"), "{words}");
}

/// What exports have begun and not ended.
fn partial(world: &World) -> Vec<PathBuf> {
    let found = std::fs::read_dir(world.path("")).expect("a directory").map(|entry| entry.expect("an entry").path());
    found.filter(|path| path.extension().is_some_and(|extension| extension == "partial")).collect()
}

/// The bytes that an exported field stands for.
fn exported(object: &Value, name: &str) -> Option<Vec<u8>> {
    match object.get(format!("{name}_base64")) {
        Some(encoded) => Some(STANDARD.decode(encoded.as_str().expect("text")).expect("base64")),
        None => object[name].as_str().map(|text| text.as_bytes().to_vec()),
    }
}

#[test]
fn an_export_holds_every_letter_byte_for_byte() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.produce(0, Some(b"key \xff"), Some(b"{\"a\": \xff}\n"), &[("h", Some(b"\x00\xff")), ("none", None)]);
    world.event(0, "{\"type\":\"identify\",\n  \"x\": 1, \"x\": 1.0}");
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    redrive(&world, &["--reason", "rejected"], &[]);
    let file = world.path("letters.jsonl");
    let name = file.to_str().expect("text");
    succeeded(dead_letters(&world, &["export", name], &[]));
    let text = std::fs::read_to_string(&file).expect("written");
    let mut found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    found.sort_by_key(|line| line["place"].to_string());
    let mut letters = world.dead_letters();
    letters.sort_by_key(|letter| format!("\"{}:{}\"", letter.partition, letter.offset));
    assert_eq!((found.len(), letters.len()), (3, 3));
    for (line, letter) in found.iter().zip(&letters) {
        assert_eq!(line["place"], json!(format!("{}:{}", letter.partition, letter.offset)));
        assert_eq!((exported(line, "key"), exported(line, "value")), (letter.key.clone(), letter.value.clone()));
        assert_eq!(line["reason"].as_str(), letter.header("nat.reason").as_deref());
        let headers = line["headers"].as_array().expect("headers");
        let header = |header: &Value| (header["name"].as_str().expect("a name").to_owned(), exported(header, "value"));
        let original: Vec<_> = headers.iter().map(header).collect();
        assert_eq!(original, letter.headers[..original.len()]);
        assert_eq!(letter.headers[original.len()].0, "__connect.errors.topic");
    }
    assert_eq!(succeeded(dead_letters(&world, &["export", "-"], &[])), text);
    let directory = file.parent().and_then(|path| path.to_str()).expect("text");
    for (arguments, said) in [(vec!["export", name], "--force"), (vec!["export", directory], "it is a directory")] {
        let (code, error) = told(&dead_letters(&world, &arguments, &[]));
        assert!(code == Some(1) && error.contains(said), "{error}");
    }
    succeeded(dead_letters(&world, &["export", name, "--force", "--reason", "rejected"], &[]));
    assert_eq!(std::fs::read_to_string(&file).expect("written").lines().count(), 1);
    assert!(partial(&world).is_empty());
    let other = world.path("other.jsonl");
    let away = ["kafka.brokers=127.0.0.1:9", "kafka.timeout=1s"];
    let (code, error) = told(&dead_letters(&world, &["export", other.to_str().expect("text")], &away));
    assert_eq!(code, Some(1), "{error}");
    assert!(!other.exists() && partial(&world).is_empty());
}

#[test]
fn what_only_looks_ends_cleanly_on_ctrl_c_and_says_that_nothing_was_changed() {
    let world = World::with(1, rejecting(&["ada@example.com"]));
    world.event(0, &ada());
    world.run_until_caught_up(&[]);
    let place = lines(&world, &["list"])[0]["place"].as_str().expect("a place").to_owned();
    let file = world.path("letters.jsonl");
    let name = file.to_str().expect("text");
    for command in
        [&["list"][..], &["list", "--open"], &["stats"], &["show", &place], &["export", name], &["export", "-"]]
    {
        let (code, result, said) = world.interrupted(&[&["dead-letters"], command].concat(), &SLOW_READER, "reading");
        assert_eq!((code, result.as_str()), (Some(130), ""), "{command:?}");
        assert_eq!(said, "stopped before everything was read; nothing was changed", "{command:?}");
    }
    assert!(!file.exists() && partial(&world).is_empty(), "nothing is left behind");
}

#[test]
fn an_export_that_is_stopped_keeps_what_it_has_and_says_so() {
    let world = World::new();
    assert!(world.command(&["topics", "create"], &[]).output().expect("it runs").status.success());
    // One batch each, and one batch a fetch, for which the broker takes a quarter of a second.
    for _ in 0..40 {
        world.send(&world.topic("dead-letter"), Some(0), None, Some(b"theirs"), &[]);
        world.flush();
    }
    let slow = [
        "kafka.properties.fetch.min.bytes=1000000",
        "kafka.properties.fetch.message.max.bytes=1",
        "kafka.properties.fetch.wait.max.ms=250",
    ];
    let file = world.path("letters.jsonl");
    let name = file.to_str().expect("text");
    let (code, result, said) = world.interrupted(&["dead-letters", "export", name], &slow, "export");
    assert_eq!((code, result.as_str()), (Some(130), ""), "{said}");
    let [left] = &partial(&world)[..] else { panic!("one file is left: {said}") };
    let kept = std::fs::read_to_string(left).expect("written").lines().count();
    assert!((1..40).contains(&kept), "{kept}");
    let told = format!(
        "stopped: {} holds {kept} dead letters so far; {name} was not touched. Run it again for all",
        left.display()
    );
    assert_eq!(said, told);
    assert!(!file.exists());
    assert!(dead_letters(&world, &["export", name], &[]).status.success());
    assert_eq!(std::fs::read_to_string(&file).expect("written").lines().count(), 40);
    assert_eq!(partial(&world), std::slice::from_ref(left), "what the first one has kept stays");
}
