//! Events come from files as they come from a topic, in every packing, and a bad line stops nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use super::support::World;
use super::support::world::{identify, interrupt};

/// With its topics made.
fn world() -> World {
    let world = World::new();
    assert!(world.command(&["topics", "create"], &[]).output().expect("it runs").status.success());
    world
}

fn lines(contacts: std::ops::Range<usize>) -> String {
    let line =
        |number| identify(&format!("p{number}@example.com"), "2026-11-20T08:00:00Z", &format!("m{number}")) + "\n";
    contacts.map(line).collect()
}

fn write(path: &Path, bytes: &[u8]) -> String {
    std::fs::write(path, bytes).expect("written");
    path.to_str().expect("text").to_owned()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("packed");
    encoder.finish().expect("packed")
}

fn backfill(world: &World, arguments: &[&str]) -> Output {
    world.command(&[&["backfill"], arguments].concat(), &[]).output().expect("it runs")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", told(output));
    told(output)
}

fn report(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("a report");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn an_address_in_a_files_name_comes_into_no_header() {
    let world = world();
    let path = world.path("ada@example.com.jsonl");
    done(&backfill(&world, &[&write(&path, lines(0..1).as_bytes())]));
    let queued = world.queued_by("backfill");
    let source = queued[0].header("nat.source").expect("an origin");
    assert!(source.starts_with("backfill:(redacted):") && !source.contains("ada"), "{source}");
}

#[test]
fn a_backfill_delivers_a_file_gzip_and_zstd_too() {
    let world = world();
    let batch = format!(r#"{{"batch":[{},{{"type":"page"}}]}}"#, lines(30..31).trim());
    let engage = r#"{"type":"identify","timestamp":"2026-11-20T09:00:00Z","traits":{"email":"p0@example.com","vip":true},"context":{"personas":{"computation_key":"vip","computation_class":"audience"}}}"#;
    let plain = write(&world.path("a.jsonl"), format!("{}\n{batch}\n{engage}", lines(0..10)).as_bytes());
    // Archives are often put together from parts.
    let parts = [gzip(&lines(10..15)), gzip(&lines(15..20))].concat();
    let packed = write(&world.path("b.gz"), &parts);
    let zstd = |text: &str| zstd::stream::encode_all(text.as_bytes(), 1).expect("packed");
    // As pzstd writes it: before each part a frame to be skipped, which tells its length.
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0], &[9; 4][..]].concat();
    let parts = [&skipped[..], &zstd(&lines(20..25)), &skipped, &zstd(&lines(25..30))].concat();
    let zstd = write(&world.path("c.zst"), &parts);
    let files = [plain.as_str(), &packed, &zstd];

    let dry = done(&backfill(&world, &[&["--dry-run"], &files[..]].concat()));
    assert!(dry.contains("would go into the queue      32"), "{dry}");
    assert!(world.read(&world.topic("queue")).is_empty());
    let summary = done(&backfill(&world, &files));
    assert!(summary.contains("put into the queue") && summary.contains("32"), "{summary}");
    world.run_until_caught_up(&[]);
    let days: BTreeSet<_> = world.accepted_days().into_iter().collect();
    assert_eq!((days.len(), world.accepted().len()), (31, 32), "every contact, and one Engage value");
    let origins =
        world.queued_by("backfill").iter().filter_map(|record| record.header("nat.source")).collect::<Vec<_>>();
    assert!(
        origins.iter().any(|origin| origin.starts_with("backfill:b.gz:") && origin.contains("/0/10/")),
        "{origins:?}"
    );

    // The same files once more, and one of them through a pipe.
    done(&backfill(&world, &files));
    let mut piped = world.command(&["backfill", "-"], &[]);
    let piped = piped.stdin(std::fs::File::open(&packed).expect("it is there")).output().expect("it runs");
    done(&piped);
    world.run_until_caught_up(&[]);
    assert_eq!((world.queued_by("backfill").len(), world.accepted().len()), (74, 32));
}

#[test]
fn bad_lines_are_reported_with_number_and_reason_and_do_not_stop_it() {
    let world = world();
    let missing = r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z"}"#;
    let text = format!(
        "{}nonsense\n\n[1]\n{{\"type\":\"page\"}}\n{{\"batch\":[{missing},{}]}}\n{}",
        lines(0..2),
        lines(2..3).trim(),
        lines(3..4)
    );
    let file = write(&world.path("events.jsonl"), text.as_bytes());
    let summary = done(&backfill(&world, &[&file]));
    let path = PathBuf::from(format!("{file}.rejected.jsonl"));
    assert!(summary.contains(&format!("3 bad, reported in {}", path.display())), "{summary}");
    let bad: Vec<_> =
        report(&path).iter().map(|bad| (bad["line"].as_i64(), bad["item"].as_i64(), bad["reason"].clone())).collect();
    let expected = [
        (Some(3), None, "not_json".into()),
        (Some(5), None, "not_object".into()),
        (Some(7), Some(0), "missing_email".into()),
    ];
    assert_eq!(bad, expected);
    assert!(!std::fs::read_to_string(&path).expect("a report").contains("@"), "no personal data");
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted_days().len(), 4);
    // It holds the last run's, not every run's.
    let other = world.path("bad.jsonl");
    (0..2).for_each(|_| drop(done(&backfill(&world, &["--report", other.to_str().expect("text"), &file]))));
    assert_eq!(report(&other).len(), 3);
}

#[test]
fn a_report_takes_the_place_of_nothing_but_an_earlier_report() {
    let world = world();
    let october = write(&world.path("october.jsonl"), format!("bad\n{}", lines(0..3)).as_bytes());
    let november = write(&world.path("november.jsonl"), lines(3..6).as_bytes());
    let output = backfill(&world, &["--report", &november, &october]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("november.jsonl: it is there already and is no report"), "{}", told(&output));
    assert_eq!(std::fs::read_to_string(&november).expect("it is there"), lines(3..6));
    assert!(world.read(&world.topic("queue")).is_empty(), "nothing was sent");
    // Nor is what is no file taken away.
    done(&backfill(&world, &["--report", "/dev/null", &october]));
    assert!(Path::new("/dev/null").exists());
    // One that a crash has cut short is a report.
    let report_file = PathBuf::from(format!("{october}.rejected.jsonl"));
    let of_another = r#"{"file":"september.jsonl","line":7,"reason":"not_json","because":"it is none"}"#;
    write(&report_file, format!("{of_another}\n{}", &of_another[..30]).as_bytes());
    done(&backfill(&world, &[&october]));
    let files: Vec<_> = report(&report_file).iter().map(|bad| bad["file"].as_str().map(str::to_owned)).collect();
    assert_eq!(files, [Some("september.jsonl".to_owned()), Some(october)]);
}

#[test]
fn a_file_that_is_named_twice_is_read_once_and_leaves_no_bookmark() {
    let world = world();
    let file = write(&world.path("events.jsonl"), lines(0..5).as_bytes());
    let link = world.path("link.jsonl").display().to_string();
    std::os::unix::fs::symlink(&file, &link).expect("linked");
    for _ in 0..2 {
        let output = backfill(&world, &[&file, &link, &file]);
        assert!(output.status.success(), "{}", told(&output));
        let passed_over = format!("{link}: passed over: it is one of these files already");
        assert!(told(&output).contains(&passed_over), "{}", told(&output));
    }
    assert_eq!(world.queued_by("backfill").len(), 2 * 5, "the second run began anew");
}

#[test]
fn a_suppressed_contact_is_not_backfilled() {
    let world = world();
    std::fs::write(world.path("suppressed"), "p1@example.com\n").expect("written");
    let setting = format!("suppress.file={}", world.path("suppressed").display());
    let without_a_time = r#"{"type":"identify","email":"p1@example.com"}"#;
    let file = write(&world.path("a.jsonl"), format!("{}{without_a_time}\n", lines(0..3)).as_bytes());
    let summary = done(&backfill(&world, &["--set", &setting, "--json", &file]));
    assert!(summary.contains(r#"{"bad":0,"filtered":2,"lines":4,"queued":2}"#), "{summary}");
    assert!(world.queued_by("backfill").iter().all(|record| record.key.as_deref() != Some(b"p1@example.com")));
}

#[test]
fn the_report_of_an_earlier_run_is_not_read_as_events() {
    let world = world();
    let file = write(&world.path("a.jsonl"), format!("bad\n{}", lines(0..2)).as_bytes());
    done(&backfill(&world, &[&file]));
    let report_file = format!("{file}.rejected.jsonl");
    let summary = done(&backfill(&world, &["--json", &file, &report_file]));
    assert!(summary.contains(r#""bad":1,"filtered":0,"lines":3,"queued":2"#), "{summary}");
    assert!(summary.contains("a.jsonl.rejected.jsonl: passed over: it is a report of bad lines"), "{summary}");
    // Nor where its file is not among them.
    let summary = done(&backfill(&world, &["--json", &report_file]));
    assert!(summary.contains(r#""bad":0,"filtered":0,"lines":0,"queued":0"#), "{summary}");
    assert_eq!(report(Path::new(&report_file)).len(), 1);
}

#[test]
fn an_event_larger_than_the_queue_takes_is_reported_with_its_line() {
    let world = world();
    let large = identify("large@example.com", "2026-11-20T08:00:00Z", &"m".repeat(30 << 20));
    let file = write(&world.path("large.jsonl"), format!("{}{large}\n{}", lines(0..1), lines(1..2)).as_bytes());
    let summary = done(&backfill(&world, &["--json", &file]));
    assert!(summary.contains(r#"{"bad":1,"filtered":0,"lines":3,"queued":2}"#), "{summary}");
    let bad = report(Path::new(&format!("{file}.rejected.jsonl")));
    assert_eq!((&bad[0]["line"], &bad[0]["reason"]), (&2.into(), &"too_large".into()), "{bad:?}");
}

#[test]
fn a_backfill_stopped_halfway_goes_on() {
    let world = world();
    let text: String = (0..300).map(|n| lines(n..n + 1) + if n % 10 == 0 { "bad\n" } else { "" }).collect();
    let file = write(&world.path("events.gz"), &gzip(&text));
    let slowly = |more: usize| {
        let before = world.queued_by("backfill").len();
        let mut command = world.command(&["backfill", "--rate", "25", &file], &[]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        world.wait("some of it is in the queue", || world.queued_by("backfill").len() >= before + more);
        child
    };
    let stopped = slowly(40);
    interrupt(&stopped);
    let output = stopped.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    assert!(told(&output).contains("run the same command again to go on"), "{}", told(&output));
    let mut killed = slowly(80);
    killed.kill().expect("killed");
    killed.wait().expect("gone");
    let summary = done(&backfill(&world, &[&file]));
    assert!(summary.contains("goes on behind line"), "{summary}");
    let queued = world.queued_by("backfill");
    let keys: BTreeSet<_> = queued.iter().map(|record| record.key.clone()).collect();
    assert_eq!(keys.len(), 300);
    assert!(queued.len() < 300 + 150, "what was in the queue at the kill and not in the bookmark: {}", queued.len());
    let bad: Vec<_> =
        report(Path::new(&format!("{file}.rejected.jsonl"))).iter().map(|bad| bad["line"].as_i64()).collect();
    let expected: Vec<_> = (0..30).map(|n| Some(n * 11 + 2)).collect();
    assert_eq!(bad, expected, "each bad line once");
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 300);
}

fn has_thread(child: &Child, name: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).expect("it runs").flatten();
    let mut names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names.any(|found| found.trim_end() == name)
}

#[test]
fn one_ctrl_c_ends_a_backfill_whose_input_is_silent() {
    let world = world();
    let pipe = world.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    // Standard input that says something and goes silent; a pipe into which nobody writes.
    for (file, said, read) in [("-", 5, 5), (pipe.to_str().expect("text"), 0, 0)] {
        let mut command = world.command(&["backfill", file], &[]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(format!("{}half a line", lines(0..said)).as_bytes()).expect("written");
        world.wait("all that was said is in the queue", || world.queued_by("backfill").len() >= said);
        // Before that it is Kafka that is waited for.
        world.wait("the input is waited for", || has_thread(&child, "stream"));
        interrupt(&child);
        world.wait("it ends", || child.try_wait().expect("its state").is_some());
        let output = child.wait_with_output().expect("it ended");
        assert_eq!(output.status.code(), Some(130));
        let told = told(&output);
        assert!(told.contains(&format!("lines read          {read:>6}\n")), "{told}");
        assert!(told.contains("stays there. A stream cannot be gone on with: give all of it again"), "{told}");
        drop(input);
    }
    assert_eq!(world.queued_by("backfill").len(), 5, "half a line is none");
}

#[test]
fn a_directory_or_a_missing_file_is_a_clear_error() {
    let world = world();
    let good = write(&world.path("good.jsonl"), lines(0..3).as_bytes());
    let directory = world.path("archive");
    std::fs::create_dir(&directory).expect("made");
    for (bad, because) in
        [(directory, "it is a directory; name the files in it"), (world.path("none.jsonl"), "No such file")]
    {
        let bad = bad.to_str().expect("text").to_owned();
        let output = backfill(&world, &[&good, &bad]);
        assert_eq!(output.status.code(), Some(1));
        assert!(told(&output).contains(&format!("{bad}: {because}")), "{}", told(&output));
    }
    let output = backfill(&world, &["--report", &good, &good]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(world.read(&world.topic("queue")).is_empty(), "nothing was sent");
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_is_sent() {
    let world = world();
    let file = write(&world.path("a.jsonl"), format!("{}bad\n", lines(0..3)).as_bytes());
    let (nowhere, directory) = (world.path("none/r.jsonl"), world.path("archive"));
    std::fs::create_dir(&directory).expect("made");
    for report in [&nowhere, &directory] {
        let report = report.to_str().expect("text");
        for arguments in [&["--report", report, &file][..], &["--dry-run", "--report", report, &file]] {
            let output = backfill(&world, arguments);
            assert_eq!(output.status.code(), Some(1), "{}", told(&output));
            assert!(told(&output).contains(&format!("{report}: ")), "{}", told(&output));
            assert!(told(&output).contains("name another file with --report FILE"), "{}", told(&output));
        }
    }
    assert!(world.read(&world.topic("queue")).is_empty(), "nothing was sent");
    done(&backfill(&world, &["--dry-run", &file]));
    assert!(!Path::new(&format!("{file}.rejected.jsonl")).exists(), "a dry run leaves none");
}

#[test]
fn the_bad_lines_of_a_pipe_of_the_shell_are_reported_as_those_of_standard_input() {
    let world = world();
    let file = write(&world.path("a.jsonl"), format!("{}bad\n", lines(0..3)).as_bytes());
    let mut cat = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut command = world.command(&["backfill", "/dev/stdin"], &[]);
    command.current_dir(world.path("")).stdin(cat.stdout.take().expect("piped"));
    done(&command.output().expect("it runs"));
    cat.wait().expect("it ends");
    assert_eq!(report(&world.path("stdin.rejected.jsonl")).len(), 1);
}

#[test]
fn one_report_takes_the_bad_lines_of_two_files_of_one_name_and_of_two_streams() {
    let world = world();
    let bad = world.path("bad.jsonl");
    let from = |directory: &str| {
        let directory = world.path(directory);
        std::fs::create_dir_all(&directory).expect("made");
        write(&directory.join("events.jsonl"), b"bad\n");
        let report = bad.to_str().expect("text");
        let mut command = world.command(&["backfill", "--report", report, "events.jsonl"], &[]);
        done(&command.current_dir(&directory).output().expect("it runs"));
    };
    ["september", "october", "october"].into_iter().for_each(from);
    assert_eq!(report(&bad).len(), 2);
    for _ in 0..2 {
        let mut command = world.command(&["backfill", "--report", bad.to_str().expect("text"), "-"], &[]);
        let file = std::fs::File::open(world.path("october/events.jsonl")).expect("it is there");
        done(&command.stdin(file).output().expect("it runs"));
    }
    assert_eq!(report(&bad).len(), 4);
}

#[test]
fn a_backfill_whose_reader_has_gone_leaves_no_bookmark() {
    let world = world();
    let file = write(&world.path("a.jsonl"), lines(0..3).as_bytes());
    let mut command = world.command(&["backfill", &file], &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    done(&child.wait_with_output().expect("it ends"));
    let summary = done(&backfill(&world, &["--json", &file]));
    assert!(summary.contains(r#""queued":3"#) && !summary.contains("goes on"), "{summary}");
}

#[test]
fn a_line_longer_than_can_be_held_is_reported_in_its_own_words() {
    let world = world();
    let file = write(&world.path("a.jsonl"), format!("{}\n{}", "x".repeat(65 << 20), lines(0..1)).as_bytes());
    let summary = done(&backfill(&world, &["--json", &file]));
    assert!(summary.contains(r#"{"bad":1,"filtered":0,"lines":2,"queued":1}"#), "{summary}");
    let bad = report(Path::new(&format!("{file}.rejected.jsonl")));
    assert_eq!(
        (&bad[0]["reason"], &bad[0]["because"]),
        (&"too_large".into(), &"its line is longer than 64 MiB".into())
    );
}

#[test]
fn a_file_cut_short_is_told_with_its_line_and_what_came_before_is_kept() {
    let world = world();
    let whole = gzip(&lines(0..2000));
    let file = write(&world.path("cut.gz"), &whole[..whole.len() / 2]);
    let output = backfill(&world, &[&file]);
    assert_eq!(output.status.code(), Some(1));
    let queued = world.queued_by("backfill").len();
    assert!(
        queued > 100 && told(&output).contains(&format!("cut.gz: line {}: ", queued + 1)),
        "{queued}: {}",
        told(&output)
    );
    let told = told(&output);
    assert!(
        told.contains("put into the queue") && told.contains("ended before it was done. What is in the queue"),
        "{told}"
    );
    // Fetched again, it goes on as another file; what is there is a duplicate.
    write(&world.path("cut.gz"), &whole);
    done(&backfill(&world, &[&file]));
    world.run_until_caught_up(&[]);
    assert_eq!(world.accepted().len(), 2000);
}
