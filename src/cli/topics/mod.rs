//! `topics`: our own topics, made, verified, described and grown.

mod describe;
mod resize;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::check::Report;
use super::table::counted;
use super::{CommandError, STOPPED, SettingsArgs, Stopped, load, start_logs};
use crate::config::{Config, Log};
use crate::kafka;

/// Create, verify, describe or grow this program's own topics: queue, delivered, dead-letter and layout
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination topics create --config nat-destination.toml --set topics.partitions=12\n  \
    nat-destination topics verify --config nat-destination.toml\n  \
    nat-destination topics describe --config nat-destination.toml\n  \
    nat-destination topics resize --config nat-destination.toml --partitions 12")]
pub struct TopicsArgs {
    #[command(subcommand)]
    command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    Verify(VerifyArgs),
    Create(CreateArgs),
    Describe(describe::DescribeArgs),
    Resize(resize::ResizeArgs),
}

/// Say everything that is wrong with the topics; change nothing
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nat-destination topics verify --config nat-destination.toml\n\n\
    Exit codes: 0 all is right, 1 a problem, 2 wrong usage, 130 stopped by Ctrl-C.")]
struct VerifyArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

/// Create those that are missing, verify the others
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  nat-destination topics create --config nat-destination.toml --set topics.partitions=12"
)]
struct CreateArgs {
    #[command(flatten)]
    settings: SettingsArgs,
}

pub async fn run(args: TopicsArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "human".into(), level: "warn".into() });
    match args.command {
        TopicsCommand::Verify(args) => verify(&load(&args.settings)?).await,
        TopicsCommand::Create(args) => create(&load(&args.settings)?).await,
        TopicsCommand::Describe(args) => describe::run(args).await,
        TopicsCommand::Resize(args) => resize::run(args).await,
    }
}

async fn verify(config: &Config) -> Result<ExitCode, CommandError> {
    let found = Stopped::listen().asking(kafka::inspect(config)).await?;
    let mut report = Report::default();
    for topic in found.topics {
        report.take(&topic.topic, Ok(counted(topic.partitions as u64, "partition")));
    }
    found.problems.iter().for_each(|problem| report.take("topics", Err(problem.to_string())));
    Ok(report.end())
}

async fn create(config: &Config) -> Result<ExitCode, CommandError> {
    let Ok(verified) = Stopped::listen().unless(kafka::verify_or_create(config, true)).await else {
        eprintln!("stopped before all was done: topics may have been created or not; run the same command again");
        return Ok(ExitCode::from(STOPPED));
    };
    for report in verified.map_err(CommandError::told)?.topics {
        let done = if report.created { "created" } else { "verified" };
        println!("{done}  {} ({})", report.topic, counted(report.partitions as u64, "partition"));
    }
    Ok(ExitCode::SUCCESS)
}
