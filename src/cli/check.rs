//! `check`: is the configuration right, and is everything there that it names?

use std::process::ExitCode;

use clap::Args;

use super::table::counted;
use super::{CommandError, SettingsArgs, Stopped, load, start_logs, write_line};
use crate::config::{Log, table};
use crate::suppress::SuppressList;
use crate::{kafka, nat};

/// Check the configuration, the brokers, the credentials and the topics; change nothing
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination check --config nat-destination.toml\n  \
    nat-destination check --config nat-destination.toml --offline    (in a pipeline, without a network)\n  \
    nat-destination check --print-example > nat-destination.toml")]
pub struct CheckArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Check what can be checked without a network
    #[arg(long)]
    offline: bool,
    /// Print a commented configuration with every setting, and end
    #[arg(long)]
    print_example: bool,
}

pub async fn run(args: CheckArgs) -> Result<ExitCode, CommandError> {
    if args.print_example {
        print!("{}", table::example());
        return Ok(ExitCode::SUCCESS);
    }
    start_logs(&Log { format: "human".into(), level: "error".into() });
    let config = load(&args.settings)?;
    let mut report = Report::default();
    report.take("settings", Ok("every setting is right".into()));
    report.take(
        "API key",
        match nat::key_problem(&config.nat) {
            None => Ok("there".into()),
            Some(problem) => Err(problem.to_string()),
        },
    );
    if let Some(path) = &config.suppress_file {
        let list = SuppressList::read(path);
        let found = list.map(|list| format!("read; contacts on it: {}", list.len()));
        report.take("suppression list", found.map_err(|problem| problem.to_string()));
    }
    if args.offline {
        return Ok(report.end());
    }
    let stopped = Stopped::listen();
    let source = stopped.unless(kafka::source_partitions(&config)).await?;
    if let Err(
        problem @ (kafka::KafkaProblem::Unreachable { .. }
        | kafka::KafkaProblem::Credentials(_)
        | kafka::KafkaProblem::Properties(_)),
    ) = &source
    {
        // Without a broker there is nothing more to find out.
        report.take("brokers", Err(problem.to_string()));
        return Ok(report.end());
    }
    report.take("brokers", Ok(format!("{} answered", config.kafka.brokers)));
    report.take(
        "source topics",
        match source {
            Ok(topics) => Ok(topics
                .iter()
                .map(|(topic, count)| format!("{topic} ({})", counted(*count as u64, "partition")))
                .collect::<Vec<_>>()
                .join(", ")),
            Err(problem) => Err(problem.to_string()),
        },
    );
    match stopped.unless(kafka::inspect(&config)).await? {
        Ok(found) => own_topics(&mut report, found, config.topics.create),
        Err(problem) => report.take("own topics", Err(problem.to_string())),
    }
    Ok(report.end())
}

fn own_topics(report: &mut Report, found: kafka::Inspected, create: bool) {
    let there =
        |topic: &kafka::TopicReport| format!("{} ({})", topic.topic, counted(topic.partitions as u64, "partition"));
    let mut there: Vec<String> = found.topics.iter().map(there).collect();
    let mut problems = Vec::new();
    for problem in found.problems {
        match problem {
            kafka::KafkaProblem::Missing { topic } if create => {
                there.push(format!("{topic} is missing and will be created at the first start (topics.create = true)"));
            }
            problem => problems.push(problem),
        }
    }
    if problems.is_empty() {
        report.take("own topics", Ok(there.join(", ")));
    }
    problems.into_iter().for_each(|problem| report.take("own topics", Err(problem.to_string())));
}

/// One line a check, all of them, whatever comes first.
#[derive(Default)]
pub struct Report {
    problems: usize,
}

impl Report {
    pub fn take(&mut self, what: &str, result: Result<String, String>) {
        match result {
            Ok(found) => write_line(&format!("ok       {what}: {found}")),
            Err(problem) => {
                self.problems += 1;
                write_line(&format!("PROBLEM  {what}: {problem}"));
            }
        }
    }

    pub fn end(&self) -> ExitCode {
        if self.problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
