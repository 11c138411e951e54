//! `explain` answers as `run` acts, in the fields of conformance/events.jsonl.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;

use super::support::world::binary;

fn explain(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = binary()
        .arg("explain")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("written");
    output
}

#[test]
fn every_conformance_case_is_explained_with_its_fields() {
    let cases: Vec<Value> = include_str!("conformance/events.jsonl")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    // One a line: cases with a line end inside are told elsewhere.
    let cases: Vec<&Value> =
        cases.iter().filter(|case| !case["input"].as_str().expect("text").contains('\n')).collect();
    let input: Vec<&str> = cases.iter().map(|case| case["input"].as_str().expect("text")).collect();
    let output = explain(&["--json", "-"], (input.join("\n") + "\n").as_bytes());
    assert!(output.status.success());
    let answers: Vec<Value> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), cases.len());
    for (case, answer) in cases.iter().zip(&answers) {
        assert_fields(&case["expect"], answer, &case["name"]);
    }
}

fn assert_fields(expected: &Value, answer: &Value, name: &Value) {
    for (field, value) in expected.as_object().expect("an object") {
        match (field.as_str(), value.as_array()) {
            ("items", Some(items)) => {
                let answers = answer["items"].as_array().expect("items");
                assert_eq!(items.len(), answers.len(), "{name}");
                items.iter().zip(answers).for_each(|(item, answer)| assert_fields(item, answer, name));
            }
            _ => assert_eq!(answer.get(field), Some(value), "{name}: {field} in {answer}"),
        }
    }
}

#[test]
fn it_tells_in_plain_words_and_shows_the_request() {
    let event = br#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z","traits":{"email":"Ada@example.com"},"page":{"url":"https://x"}}"#;
    let output = explain(&[], event);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("line 1: delivered for ada@example.com described as \"https://x\", unless"), "{text}");
    assert!(
        text.contains(
            r#"POST {"type":"identify","timestamp":"2026-11-20T08:00:00.000Z","traits":{"email":"ada@example.com"}"#
        ),
        "{text}"
    );
    let text = String::from_utf8(explain(&[], b"{}\n\xff\n").stdout).expect("text");
    assert!(
        text.contains("line 1: dead letter (missing_type)") && text.contains("line 2: dead letter (not_json)"),
        "{text}"
    );
}

#[test]
fn it_goes_by_the_settings() {
    let event = br#"{"type":"identify","timestamp":"2026-11-20T23:30:00Z","userId":"ada@example.com"}"#;
    let output =
        explain(&["--json", "--set", "identify.user_id_as_email=true", "--set", "dedup.zone=Europe/Zurich"], event);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((answer["email"].as_str(), answer["day"].as_str()), (Some("ada@example.com"), Some("2026-11-21")));
}

#[test]
fn a_file_that_is_not_there_or_a_directory_is_a_clear_error() {
    for (path, told) in [("no-such-file", "no-such-file: No such file"), ("/tmp", "/tmp: line 1: Is a directory")] {
        let output = binary().args(["explain", path]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(told), "{output:?}");
    }
}

#[test]
fn a_reader_that_has_read_enough_ends_it_quietly() {
    // What is told at once, and what is left for the end.
    for lines in [10_000, 1] {
        let mut command = binary();
        command.arg("explain").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        drop(child.stdout.take());
        let mut stdin = child.stdin.take().expect("piped");
        // It may end before it has read all.
        drop(stdin.write_all("{}\n".repeat(lines).as_bytes()));
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
