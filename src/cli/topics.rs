//! `topics`: makes or verifies the three topics.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{CommandError, SettingsArgs, load, start_logs};
use crate::config::Log;
use crate::kafka;

/// Create or verify the queue, delivered and dead-letter topics
#[derive(Debug, Args)]
pub struct TopicsArgs {
    #[command(subcommand)]
    command: TopicsCommand,
}

#[derive(Debug, Subcommand)]
enum TopicsCommand {
    /// Create those that are missing, verify the others
    #[command(
        after_help = "Example:\n  nat-destination topics create --config nat-destination.toml --set topics.partitions=12"
    )]
    Create {
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

pub async fn run(args: TopicsArgs) -> Result<ExitCode, CommandError> {
    let TopicsCommand::Create { settings } = args.command;
    start_logs(&Log { format: "human".into(), level: "warn".into() });
    let config = load(&settings)?;
    for report in kafka::verify_or_create(&config, true).await.map_err(CommandError::told)?.topics {
        let done = if report.created { "created" } else { "verified" };
        println!("{done}  {} ({} partitions)", report.topic, report.partitions);
    }
    Ok(ExitCode::SUCCESS)
}
