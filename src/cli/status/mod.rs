//! `status`: how the whole deployment is, on one screen, and whether it is healthy. It asks every instance, and Kafka itself.

mod look;
mod report;
mod screen;
mod window;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::instances::{self, Asker};
use super::{CommandError, STOPPED, SettingsArgs, Stopped, start_logs};
use crate::config::{Config, Log};
use look::Look;
use report::Report;
use screen::Detail;
use window::Window;

/// Show how the deployment is: circuit, lag, rates, outcomes, instances; exit code 1 when it is unhealthy
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination status --config nat-destination.toml\n  \
    nat-destination status --config nat-destination.toml --watch\n  \
    nat-destination status --config nat-destination.toml --instance 10.0.0.7:9600 --instance 10.0.0.8:9600\n  \
    nat-destination status --config nat-destination.toml --json | jq .problems\n\n\
    It runs on any machine that reaches Kafka and the instances' admin ports. The instances are those that --instance or the \
    setting status.instances names; a name stands for every address that it has. The lag is read from Kafka as well, so that \
    it is told though no instance answers.\n\n\
    Exit codes: 0 healthy; 1 unhealthy: no instance, or one that does not answer, is stuck, restores or is told by Nat.app to \
    wait, an open circuit, a partition that nobody reads, an event that has waited for half of the queue's retention.ms, a wrong \
    nat.api_key_file or suppress.file, a resize under way, Kafka out of reach; 2 wrong usage; 130 stopped by Ctrl-C.")]
pub struct StatusArgs {
    /// An instance's admin server; may be repeated. Without it: status.instances, or admin.listen on this machine
    #[arg(long, value_name = "HOST:PORT", value_parser = instances::named)]
    instance: Vec<String>,
    /// Look again every two seconds, until stopped; on a terminal as much as its window holds
    #[arg(long)]
    watch: bool,
    /// One line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

pub async fn run(args: StatusArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "human".into(), level: "off".into() });
    let config = Config::load_offline(&args.settings.sources()).map_err(CommandError::Settings)?;
    if config.kafka.brokers.is_empty() {
        let told =
            "kafka.brokers is not set: name the configuration with --config, or set it with --set kafka.brokers=…";
        return Err(CommandError::Told(told.into()));
    }
    let look = Look { names: names(&args, &config), asker: Asker::new()?, config };
    let stopped = Stopped::listen();
    if !args.watch {
        let report = stopped.unless(look.twice()).await?;
        print!("{}", shown(&report, args.json)?);
        return Ok(if report.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let on_terminal = !args.json && std::io::stdout().is_terminal();
    stopped.unless(watch(&look, args.json, on_terminal)).await.unwrap_or(Ok(ExitCode::from(STOPPED)))
}

/// Where the instances are. Without any the lag is told all the same.
fn names(args: &StatusArgs, config: &Config) -> Vec<String> {
    match (args.instance.is_empty(), config.instances.is_empty()) {
        (false, _) => args.instance.clone(),
        (true, false) => config.instances.clone(),
        (true, true) => instances::of_this_machine(config).into_iter().collect(),
    }
}

async fn watch(look: &Look, json: bool, on_terminal: bool) -> Result<ExitCode, CommandError> {
    if on_terminal {
        print!("{}", Window::now().emptied());
    }
    let mut before = "";
    loop {
        let report = look.twice().await;
        match on_terminal {
            true => print!("{}", Window::now().drawn(&report)),
            false => print!("{before}{}", shown(&report, json)?),
        }
        // Between two blocks.
        before = if json { "" } else { "\n" };
        // Looking has taken the other second.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn shown(report: &Report, json: bool) -> Result<String, CommandError> {
    match json {
        true => Ok(serde_json::to_string(report).map_err(CommandError::told)? + "\n"),
        false => Ok(screen::text(report, Detail::default())),
    }
}
