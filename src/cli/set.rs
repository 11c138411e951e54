//! `set`: changes what can be changed while an instance runs.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::instances::{self, Asker, Place};
use super::{CommandError, STOPPED, SettingsArgs, Stopped};
use crate::config::Config;

/// Change the log level or the rate limit of a running instance, until it ends
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination set log.level=debug --config nat-destination.toml\n  \
    nat-destination set log.level=info,nat_destination::deliver=debug deliver.rate_limit=50 --instance localhost:9600\n  \
    nat-destination set deliver.rate_limit=0 --config nat-destination.toml    (no limit)\n\n\
    It has to be run on the instance's own machine. The configuration file is not changed: put there what is to stay. \
    Every other setting needs a restart, but for the API key: its file is read again when it changes.\n\n\
    Exit codes: 0 changed, 1 a problem, told on stderr: an instance that it names is not changed (or \
    may be, where it gave no answer in time), the others are; 2 wrong usage, 130 stopped before all were asked.")]
pub struct SetArgs {
    /// What is to hold: log.level, deliver.rate_limit
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
    changes: Vec<(String, String)>,
    /// The instance's admin server; may be repeated. Without it: admin.listen
    #[arg(long, value_name = "HOST:PORT", value_parser = instances::named)]
    instance: Vec<String>,
    #[command(flatten)]
    settings: SettingsArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE, such as log.level=debug")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub async fn run(args: SetArgs) -> Result<ExitCode, CommandError> {
    let names = match args.instance.is_empty() {
        false => args.instance,
        true => {
            let config = Config::load_offline(&args.settings.sources()).map_err(CommandError::Settings)?;
            vec![instances::of_this_machine(&config)?]
        }
    };
    let changes: Map<String, Value> =
        args.changes.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    let body = Value::Object(changes).to_string();
    let (asker, stopped) = (Asker::new()?, Stopped::listen());
    let mut problems = Vec::new();
    for place in stopped.unless(instances::places(&names)).await? {
        let Ok(changed) = stopped.unless(change(&asker, &place, body.clone())).await else {
            problems.push(format!(
                "stopped: {place} may have changed, and those behind it have not; the same command again does no harm"
            ));
            eprintln!("{}", problems.join("\n"));
            return Ok(ExitCode::from(STOPPED));
        };
        match changed {
            Ok(holds) => println!("{place}: {}", holds.trim_end()),
            Err(problem) => problems.push(format!("{place}: {}", problem.trim_end())),
        }
    }
    if problems.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(CommandError::Told(problems.join("\n"))) }
}

/// What holds from now on.
async fn change(asker: &Asker, place: &Place, body: String) -> Result<String, String> {
    match asker.put(place.address.clone()?, "/settings", body).await? {
        (200, holds) => Ok(holds),
        (400 | 403 | 500, refused) if !refused.trim_start().starts_with('<') => Err(refused),
        _ => Err("what answers there knows of no settings: is it an instance, and of this version?".into()),
    }
}
