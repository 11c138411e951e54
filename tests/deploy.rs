//! deploy/ and docker-compose.yml tell of this program what it is: metrics, settings, commands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use nat_destination::cli::Cli;
use nat_destination::deliver::OpenReason;
use nat_destination::metrics::{CATALOGUE, Metrics};

use super::support::world::binary;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const USING_METRICS: [&str; 3] = [
    "deploy/prometheus/rules.yml",
    "deploy/prometheus/rules_test.yml",
    "deploy/grafana/dashboards/nat-destination.json",
];

fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let starts = text.match_indices(prefix).map(|(at, _)| at);
    let word = |at: usize| text[at..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next();
    starts.filter_map(word).collect()
}

#[test]
fn every_metric_of_dashboard_and_rules_is_in_the_catalogue_and_every_one_of_the_catalogue_is_shown() {
    let known: BTreeSet<&str> = CATALOGUE.iter().map(|metric| metric.name).collect();
    let mut used = BTreeSet::new();
    let texts = USING_METRICS.map(read);
    for text in &texts {
        for name in words(text, "nat_destination_") {
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
            used.insert(if known.contains(name) { name } else { bare });
        }
    }
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "no such metric: {unknown:?}");
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "nobody sees: {unused:?}");
}

#[test]
fn every_outcome_and_reason_of_dashboard_and_rules_is_one() {
    // Every series that there can be is there from the start.
    let metrics = Metrics::new().expect("metrics").text();
    for text in USING_METRICS.map(read) {
        let text = text.replace("\\\"", "\"");
        for label in ["outcome", "reason"] {
            // `circuit_open` has reasons of its own, told when there are some.
            for (at, _) in text.match_indices("nat_destination_events_total{") {
                let selector = text[at..].split('}').next().expect("a selector");
                let Some((_, rest)) = selector.split_once(&format!("{label}=")) else { continue };
                let values = rest.trim_start_matches('~').trim_start_matches('"').split('"').next().expect("a value");
                for value in values.split('|').filter(|value| !value.starts_with('$')) {
                    assert!(metrics.contains(&format!("{label}=\"{value}\"")), "{label}={value} in {selector}");
                }
            }
        }
    }
}

#[test]
fn the_rules_fire_when_they_must_and_only_then() {
    let promtool = |arguments: &[&str]| {
        let output = Command::new("promtool").args(arguments).current_dir(root()).output();
        let output = output.expect("promtool is there: apt-get install -y prometheus");
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    };
    promtool(&["check", "rules", "deploy/prometheus/rules.yml"]);
    promtool(&["check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml"]);
    promtool(&["test", "rules", "deploy/prometheus/rules_test.yml"]);
}

#[test]
fn the_runbook_has_a_chapter_for_every_alert_and_every_reason_of_the_circuit() {
    let (rules, runbook) = (read("deploy/prometheus/rules.yml"), read("deploy/runbook.md"));
    let chapters: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 15, "{}", alerts.len());
    let names = alerts.iter().map(|alert| alert.lines().next().expect("a name"));
    let mut wanted: BTreeSet<&str> = names.clone().collect();
    wanted.extend(OpenReason::ALL.map(OpenReason::as_str));
    assert_eq!(chapters, wanted, "one chapter for each, and none for what is gone");
    for (name, alert) in names.zip(&alerts) {
        let link = format!("runbook: deploy/runbook.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&link), "{name} does not say where its chapter is: {link}");
    }
    // Every link within the page leads somewhere.
    let headings = runbook.lines().filter(|line| line.starts_with('#'));
    let anchors: BTreeSet<String> =
        headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")).collect();
    for link in runbook.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(anchors.contains(link), "there is no chapter #{link}");
    }
}

#[test]
fn the_compose_file_is_valid() {
    let output = Command::new("docker-compose").args(["config", "--quiet"]).current_dir(root()).output();
    let output = output.expect("docker-compose is there: apt-get install -y docker-compose");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Settings of an installation whose key file lies elsewhere here.
fn check_offline(configuration: &Path, key: &Path) {
    let mut command = binary();
    command.args(["check", "--offline", "--config"]).arg(configuration);
    let output = command.args(["--set", &format!("nat.api_key_file={}", key.display())]).output().expect("it runs");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_configurations_of_compose_and_kubernetes_are_right() {
    let key = root().join("deploy/compose/api-key");
    check_offline(&root().join("deploy/compose/nat-destination.toml"), &key);
    // The config map's text is the indented block behind its name.
    let manifest = read("deploy/kubernetes/nat-destination.yaml");
    let (_, block) = manifest.split_once("nat-destination.toml: |").expect("the config map");
    let lines = block.lines().skip(1).take_while(|line| line.is_empty() || line.starts_with("    "));
    let settings: Vec<&str> = lines.map(str::trim_start).collect();
    assert!(settings.len() > 3, "{settings:?}");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("kubernetes-{}.toml", std::process::id()));
    std::fs::write(&path, settings.join("\n")).expect("written");
    check_offline(&path, &key);
    std::fs::remove_file(&path).expect("removed");
}

#[test]
fn every_command_line_of_the_compose_file_is_understood() {
    let compose = read("docker-compose.yml");
    let commands: Vec<&str> = compose.lines().filter_map(|line| line.trim().strip_prefix("command: ")).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in commands {
        assert_eq!(misunderstood(command.split(' ')), None, "{command}");
    }
}

#[test]
fn every_command_line_of_the_documents_and_of_the_help_is_understood() {
    let documents =
        std::fs::read_dir(root().join("deploy")).expect("a folder").map(|entry| entry.expect("a file").path());
    let documents = documents.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let documents: Vec<PathBuf> = documents.chain([root().join("README.md")]).collect();
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("it is there");
    let mut pieces: Vec<String> = documents.iter().flat_map(|path| code_of(&read(path))).collect();
    // What stands behind a command's example in the help is told apart by more than one space.
    let examples =
        help(&Cli::command()).into_iter().filter_map(|line| Some(line.trim().split("  ").next()?.to_owned()));
    pieces.extend(examples);
    let (mut seen, mut wrong) = (0, Vec::new());
    for piece in pieces {
        for arguments in command_lines(&piece) {
            seen += 1;
            wrong.extend(misunderstood(arguments.iter().map(String::as_str)).map(|why| format!("{piece}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 150, "{seen} only: are they found?");
}

/// What the command line says against these arguments; `None`: it takes them. One that lacks something is only spoken of.
fn misunderstood<'a>(arguments: impl Iterator<Item = &'a str>) -> Option<String> {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion, MissingRequiredArgument,
        MissingSubcommand,
    };
    let real = |word: &'a str| match word {
        "PARTITION:OFFSET" => "0:0",
        "EMAIL" => "ada@example.com",
        word => word,
    };
    let words = ["nat-destination"].into_iter().chain(arguments.filter(|word| *word != "…").map(real));
    let error = Cli::command().try_get_matches_from(words).err()?;
    let harmless = [
        DisplayHelp,
        DisplayHelpOnMissingArgumentOrSubcommand,
        DisplayVersion,
        MissingRequiredArgument,
        MissingSubcommand,
    ];
    (!harmless.contains(&error.kind())).then(|| error.to_string())
}

/// The help of a command and of all below it, line by line.
fn help(command: &clap::Command) -> Vec<String> {
    let own = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let own = own.lines().map(str::to_owned).collect();
    [vec![own], command.get_subcommands().map(help).collect()].concat().concat()
}

/// What is typed or printed: the lines of code blocks, and what stands in backticks elsewhere, where the program's name may be
/// left out: `replay --dry-run`.
fn code_of(markdown: &str) -> Vec<String> {
    let top = Cli::command();
    let named = |span: &str| match span.split(' ').next().and_then(|word| top.find_subcommand(word)) {
        Some(_) => format!("nat-destination {span}"),
        None => span.to_owned(),
    };
    let (mut code, mut fenced) = (Vec::new(), false);
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            code.push(line.trim().trim_start_matches("$ ").to_owned());
        } else {
            code.extend(line.split('`').skip(1).step_by(2).map(named));
        }
    }
    code
}

/// The arguments of each call of this program in a piece of shell.
fn command_lines(code: &str) -> Vec<Vec<String>> {
    let arguments_from = |words: &[String]| match words {
        [program, ..] if program == "nat-destination" || program.ends_with("/nat-destination") => Some(1),
        [docker, exec, name, program, ..] if docker == "docker-compose" && exec == "exec" && name == program => Some(4),
        [cargo, run, ..] if cargo == "cargo" && run == "run" => {
            words.iter().position(|word| word == "--").map(|dashes| dashes + 1)
        }
        _ => None,
    };
    shell_words(code).iter().filter_map(|words| Some(words[arguments_from(words)?..].to_vec())).collect()
}

/// The words of each call, up to a comment; without quotes, and without what a redirection names.
fn shell_words(code: &str) -> Vec<Vec<String>> {
    let (mut calls, mut word, mut quote) = (vec![Vec::new()], String::new(), None);
    for letter in code.chars().chain([' ']) {
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (_, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => word.push(letter),
            ('#', None) if word.is_empty() => break,
            (' ' | '|' | ';' | '&' | '>', None) => {
                let call = calls.last_mut().expect("one at least");
                call.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                if letter != ' ' {
                    calls.push(Vec::new());
                }
            }
            _ => word.push(letter),
        }
    }
    calls
}
