//! What operators see: metrics, health, logs without personal data, completions, the example file.

use std::collections::BTreeSet;
use std::process::Stdio;

use clap::CommandFactory;
use nat_destination::cli::Cli;
use nat_destination::config::table;
use nat_destination::metrics::CATALOGUE;
use nat_destination::sandbox::stand_in::Behaviour;

use super::support::World;
use super::support::world::{KEY, binary, identify};

#[test]
fn the_counters_add_up_and_every_metric_served_is_in_the_catalogue() {
    let world = World::with(3, Behaviour { reject_emails: vec!["p1@example.com".into()], ..Behaviour::default() });
    for number in 0..50 {
        world.send(
            &world.source,
            Some(number % 3),
            None,
            Some(identify(&format!("p{}@example.com", number % 20), "2026-11-20T08:00:00Z", "m").as_bytes()),
            &[],
        );
    }
    for odd in [r#"{"type":"track"}"#, r#"{"type":"identify"}"#, "x"] {
        world.send(&world.source, Some(0), None, Some(odd.as_bytes()), &[]);
    }
    world.flush();
    let instance = world.start(&[]);
    instance.wait_until_settled(53);
    let count = |labels: &[&str]| instance.metric("nat_destination_events_total", labels);
    assert_eq!(instance.metric("nat_destination_events_received_total", &[]), 53.0);
    assert_eq!(count(&["delivered"]), 19.0);
    assert_eq!(count(&["filtered"]), 1.0);
    assert_eq!((count(&["missing_email"]), count(&["not_json"])), (1.0, 1.0));
    assert_eq!(count(&["delivered"]) + count(&["duplicate"]) + count(&["filtered"]) + count(&["dead_lettered"]), 53.0);
    // Ingest may hear of the queue's acknowledgements after the events are delivered.
    world.wait("50 are queued", || instance.metric("nat_destination_events_queued_total", &[]) == 50.0);
    assert_eq!(instance.metric("nat_destination_http_requests_total", &["200"]), 19.0);
    assert_eq!(instance.metric("nat_destination_http_requests_total", &["400"]), count(&["rejected"]));
    let observed = instance.metric("nat_destination_http_request_duration_seconds_count", &[]);
    assert_eq!(observed, instance.metric("nat_destination_http_requests_total", &[]));
    world.wait("the lag is told and nothing is left", || {
        let metrics = instance.metrics();
        metrics.contains("nat_destination_queue_lag_events{")
            && super::support::world::sum(&metrics, "nat_destination_queue_lag_events", &[]) == 0.0
    });
    let known: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    let metrics = instance.metrics();
    let served = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| !name.starts_with("process_"));
    assert!(served.clone().count() > 15, "{metrics}");
    served.for_each(|name| assert!(known.contains(name), "{name}"));
}

#[test]
fn the_lag_is_told_in_events_and_seconds_while_nat_app_is_away() {
    let world = World::with(1, Behaviour { status: Some(401), ..Behaviour::default() });
    let instance = world.start(&["deliver.max_pending_events=10"]);
    instance.wait_until_ready();
    for number in 0..300 {
        world.send(
            &world.source,
            Some(0),
            None,
            Some(identify(&format!("p{number}@example.com"), "2026-11-20T08:00:00Z", "m").as_bytes()),
            &[],
        );
    }
    world.flush();
    world.wait("the queue's whole lag is told", || instance.metric("nat_destination_queue_lag_events", &[]) == 300.0);
    world.wait("and its age", || instance.metric("nat_destination_queue_lag_seconds", &[]) > 1.0);
    world.wait("reading is paused", || instance.metric("nat_destination_paused", &["deliver"]) == 1.0);
    let pending = instance.metric("nat_destination_pending_events", &[]);
    assert!(pending < 300.0, "no more is taken than the budget allows: {pending}");
    world.behave(Behaviour::default());
    instance.wait_until_settled(300);
    world.wait("the lag is gone", || {
        instance.metric("nat_destination_queue_lag_events", &[]) == 0.0
            && instance.metric("nat_destination_queue_lag_seconds", &[]) == 0.0
    });
    world.wait("reading goes on", || instance.metric("nat_destination_paused", &["deliver"]) == 0.0);
}

#[test]
fn health_tells_the_truth_and_why() {
    let world = World::new();
    let instance = world.start(&[]);
    world.wait("it says why it is not ready, or is", || {
        let (status, text) = instance.get("/readyz");
        match status {
            200 => text == "ready\n",
            _ => {
                assert_eq!(status, 503);
                assert!(text.contains("waits for its group") || text.contains("restores"), "{text}");
                false
            }
        }
    });
    assert_eq!(instance.get("/livez"), (200, "alive\n".into()));
    assert_eq!(instance.get("/no-such-page").0, 404);
}

#[test]
fn no_log_line_holds_an_email_or_the_key() {
    let world = World::with(
        1,
        Behaviour { reject_emails: vec!["ada.lovelace@example.com".into()], unavailable: 0.2, ..Behaviour::default() },
    );
    let instance = world.start(&["log.level=trace,hyper_util=info,reqwest=info,h2=info,mio=info"]);
    for number in 0..20 {
        world
            .event(0, &identify("ada.lovelace@example.com", &format!("2026-11-{:02}T08:00:00Z", number % 20 + 1), "m"));
    }
    world.event(0, r#"{"type":"identify","traits":{"email":"ada.lovelace@example.com"}}"#);
    instance.wait_until_settled(21);
    let (_, log) = instance.stop();
    assert!(log.contains("\"contact\":\""), "a short hash instead: {log}");
    assert!(!log.contains("lovelace") && !log.contains(KEY), "{log}");
    let changelog = format!("{:?}", world.read(&world.topic("delivered")));
    assert!(!changelog.contains("lovelace"));
}

#[test]
fn the_example_file_is_the_tables_own() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/nat-destination.toml");
    let kept = std::fs::read_to_string(path).expect("it is there");
    assert_eq!(kept, table::example(), "run: nat-destination check --print-example > deploy/nat-destination.toml");
    let printed = binary().args(["check", "--print-example"]).output().expect("it runs");
    assert_eq!(String::from_utf8(printed.stdout).expect("text"), kept);
}

/// Every command there is, as it is typed, and the options of each.
fn commands() -> Vec<(Vec<String>, Vec<String>)> {
    fn below(command: &clap::Command, path: &[String]) -> Vec<(Vec<String>, Vec<String>)> {
        let each = command.get_subcommands().flat_map(|command| {
            let path = [path, &[command.get_name().to_owned()]].concat();
            let options = command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned));
            let own = (path.clone(), options.collect());
            [vec![own], below(command, &path)].concat()
        });
        each.collect()
    }
    let commands = below(&Cli::command(), &[]);
    assert!(commands.len() > 10, "{commands:?}");
    commands
}

fn output_of(arguments: &[impl AsRef<str>]) -> String {
    let output = binary().args(arguments.iter().map(AsRef::as_ref)).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_command_has_help_with_an_example_completions_and_a_manual_page() {
    let completions = ["bash", "zsh", "fish"].map(|shell| output_of(&["completions", shell]));
    let world = World::new();
    let pages = world.path("pages");
    std::fs::create_dir(&pages).expect("made");
    assert!(output_of(&["man", "--dir", pages.to_str().expect("text")]).is_empty());
    for (command, options) in commands() {
        let help = output_of(&[&command[..], &["--help".to_owned()]].concat());
        let words = command.join(" ");
        // One that only has commands below it is told by those.
        assert!(help.contains("\nCommands:") || help.contains("Example"), "{words}: {help}");
        let page = output_of(&[&["man".to_owned()], &command[..]].concat());
        // Its own, where it says some.
        let plain = |text: &str| text.replace("\\*(Aq", "'").replace('\\', "").split_whitespace().collect::<String>();
        let own = help.split("\n\n").find_map(|paragraph| paragraph.strip_prefix("Exit codes: "));
        let (_, codes) = page.split_once(".SH \"EXIT STATUS\"\n").expect(&words);
        assert!(plain(codes).starts_with(&plain(own.unwrap_or("0 done, 1 a problem"))), "{words}: {own:?} in {codes}");
        let file = pages.join(format!("nat-destination-{}.1", command.join("-")));
        assert_eq!(std::fs::read_to_string(&file).expect("it is there"), page, "{}", file.display());
        for name in command.last().into_iter().chain(&options) {
            assert!(completions.iter().all(|shell| shell.contains(name.as_str())), "{words} {name}");
        }
        for option in options {
            assert!(page.contains(&format!("\\-\\-{}", option.replace('-', "\\-"))), "{words} --{option}: {page}");
        }
    }
    assert!(completions[2].contains(r#"_using_subcommand completions" -f -a "bash elvish fish powershell zsh""#));
    assert!(output_of(&["man", "status"]).contains("1 unhealthy: "));
    assert!(output_of(&["man"]).contains("nat\\-destination\\-replay(1)"));
}

#[test]
fn bash_completes_commands_flags_and_their_values() {
    let completed = |words: &str, last: &str| {
        let complete = format!(
            "source <({} completions bash); COMP_WORDS=({words} '{last}'); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); \
             _nat__destination nat-destination '{last}' \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[*]}}\"",
            env!("CARGO_BIN_EXE_nat-destination")
        );
        let output = std::process::Command::new("bash").args(["-c", &complete]).output().expect("bash is there");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    for (words, last, expected) in [
        ("nat-destination", "repl", "replay"),
        ("nat-destination topics", "", "create verify describe resize"),
        ("nat-destination topics resize", "--part", "--partitions"),
        ("nat-destination status", "--wat", "--watch"),
        ("nat-destination dead-letters", "re", "redrive"),
        ("nat-destination dead-letters redrive", "--max", "--max-redrives"),
        ("nat-destination completions", "z", "zsh"),
    ] {
        let told = completed(words, last);
        for word in expected.split(' ') {
            assert!(told.split_whitespace().any(|completed| completed == word), "{words} {last}: {told}");
        }
    }
}

#[test]
fn what_is_typed_wrong_is_told_with_what_is_right() {
    for (wrong, right) in [
        (&["replay", "--from", "1h", "--dry-rum"][..], "--dry-run"),
        (&["repaly"], "replay"),
        (&["topics", "craete"], "create"),
        (&["completions", "bsah"], "bash"),
    ] {
        let output = binary().args(wrong).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("tip: ") && told.contains(right), "{told}");
    }
    let man = |words: &[&str]| binary().arg("man").args(words).output().expect("it runs");
    assert_eq!(man(&["no-such-command"]).status.code(), Some(2));
    let output = man(&["dead-letters", "redirve"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && told.contains("did you mean dead-letters-redrive?"), "{told}");
    for page in ["dead-letters-redrive", "nat-destination-dead-letters-redrive"] {
        assert_eq!(man(&[page]).stdout, man(&["dead-letters", "redrive"]).stdout, "as a page is called");
    }
}

#[test]
fn a_reader_that_has_read_enough_ends_a_command_quietly() {
    for arguments in [&["man", "replay"][..], &["completions", "bash"], &["check", "--print-example"], &["--help"]] {
        let mut child =
            binary().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.is_empty(), "{arguments:?}: {told}");
    }
}

#[test]
fn a_check_that_nobody_reads_to_its_end_tells_by_its_code_that_there_is_a_problem() {
    let settings = ["kafka.brokers=localhost:1", "nat.url=http://localhost:1", "nat.api_key_file=/no/such/key"];
    let mut command = binary();
    command.args(["check", "--offline"]).args(settings.iter().flat_map(|set| ["--set", *set]));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.code() == Some(1) && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn what_cannot_be_written_is_a_problem_and_told() {
    let commands = [&["man", "replay"][..], &["completions", "bash"], &["check", "--print-example"]];
    for arguments in
        commands.into_iter().chain([&["--help"][..], &["dead-letters", "redrive", "--help"], &["--version"]])
    {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("there");
        let output = binary().args(arguments).stdout(full).stderr(Stdio::piped()).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.contains("standard output: No space left"), "{arguments:?}: {told}");
    }
}
