//! `dead-letters`: what could not be delivered, and why; and how it is sent again once that is mended.

mod choice;
mod export;
mod list;
mod notes;
mod outcomes;
mod reason;
mod redrive;
pub mod row;
pub mod scan;
mod show;
mod stats;
pub mod told_since;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::time::instant;
use super::{CommandError, SettingsArgs, load, start_logs};
use crate::config::{Config, Log};
use crate::dead_letter::Filter;
use crate::dedup::Contact;
use crate::segment::normalise_email;
use reason::ReasonParser;

/// See what could not be delivered and why, and send it again
#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    Stats(stats::StatsArgs),
    List(list::ListArgs),
    Show(show::ShowArgs),
    Export(export::ExportArgs),
    Redrive(redrive::RedriveArgs),
}

pub async fn run(args: DeadLettersArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "human".into(), level: "error".into() });
    match args.command {
        DeadLettersCommand::Stats(args) => stats::run(args).await,
        DeadLettersCommand::List(args) => list::run(args).await,
        DeadLettersCommand::Show(args) => show::run(args).await,
        DeadLettersCommand::Export(args) => export::run(args).await,
        DeadLettersCommand::Redrive(args) => redrive::run(args).await,
    }
}

/// So often a redrive takes what becomes a dead letter again each time, unless the user says.
const MAX_REDRIVES: u32 = 3;

/// Which dead letters are meant: all that are given have to hold. Without any, all are.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Only those of this reason; may be repeated
    #[arg(long, value_name = "REASON", value_parser = ReasonParser, hide_possible_values = true)]
    reason: Vec<String>,
    /// Only those that Nat.app answered with this status; may be repeated
    #[arg(long, value_name = "STATUS")]
    status: Vec<u16>,
    /// Only those written at this time or after it: 2026-11-01, 2026-11-01T08:00Z, or how long ago, such as 2h or 3d
    #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
    since: Option<Timestamp>,
    /// Only those written before this time
    #[arg(long, value_name = "TIME", value_parser = instant, allow_hyphen_values = true)]
    until: Option<Timestamp>,
    /// Only this contact's; the address does not leave this machine. A batch that holds an event of theirs is taken whole
    #[arg(long, value_name = "EMAIL", value_parser = contact)]
    contact: Option<Contact>,
    /// Only those that came from this source topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
}

fn contact(email: &str) -> Result<Contact, String> {
    normalise_email(email).map(|email| Contact::of(&email)).map_err(|_| "it is no email address".to_owned())
}

impl FilterArgs {
    fn filter(self) -> Filter {
        let FilterArgs { reason, status, since, until, contact, topic } = self;
        Filter { reasons: reason, statuses: status, since, until, contact, topic }
    }
}

/// The settings and the filter; or the exit code of a wrong usage, which has been told.
fn prepare(settings: &SettingsArgs, filter: FilterArgs) -> Result<Result<(Config, Filter), ExitCode>, CommandError> {
    let filter = filter.filter();
    if let Err(upside_down) = filter.check() {
        eprintln!("error: {upside_down}");
        return Ok(Err(ExitCode::from(2)));
    }
    Ok(Ok((load(settings)?, filter)))
}
