//! `run`: the service.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;

use super::{CommandError, STOPPED, SettingsArgs, load, start_logs, told_to_stop};
use crate::config::{self, Config};
use crate::metrics::Outcome;
use crate::service::Service;
use crate::stage::StageStatus;

/// Run the service: source topics → queue → Nat.app
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination run --config nat-destination.toml\n  \
    nat-destination run --config nat-destination.toml --until-caught-up    (for scripts and cron)\n  \
    NAT_DESTINATION_NAT_URL=https://… nat-destination run --set kafka.brokers=k1:9092,k2:9092 --set nat.api_key_file=key\n  \
    nat-destination run --config nat-destination.toml --print-config")]
pub struct RunArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// End with exit code 0 once every event that was in the source topics at the start is settled; 130 if stopped before
    #[arg(long)]
    until_caught_up: bool,
    /// Print every setting, its value and where that came from (secrets masked), and end
    #[arg(long)]
    print_config: bool,
}

pub async fn run(args: RunArgs) -> Result<ExitCode, CommandError> {
    if args.print_config {
        let (resolved, problems) = config::resolve::resolve(&args.settings.sources());
        print!("{}", config::print(&resolved));
        return if problems.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(CommandError::Settings(problems)) };
    }
    let config = load(&args.settings)?;
    start_logs(&config.log);
    let told = told_to_stop();
    tokio::pin!(told);
    let mut service = tokio::select! {
        service = Service::start(config.clone(), true) => service.map_err(CommandError::told)?,
        stopped = &mut told => {
            stopped?;
            return Ok(stopped_early(args.until_caught_up)); // Nothing has begun.
        }
    };
    let stopped = stopped_partition(service.ingest.clone(), service.deliver.clone(), args.until_caught_up);
    let why = tokio::select! {
        ended = service.ended() => return ended.map(|()| ExitCode::SUCCESS).map_err(CommandError::told),
        stopped = &mut told => {
            let code = stopped_early(args.until_caught_up);
            stopped.map(|()| ("told to stop: finishing what is in flight", code))
        }
        caught_up = caught_up(&config, args.until_caught_up) => caught_up.map(|()| ("caught up", ExitCode::SUCCESS)),
        () = stopped => {
            let told = "a partition cannot be read on, so that this will never catch up; the log says which and why";
            Err(CommandError::Told(told.into()))
        }
    };
    if let Ok((why, _)) = &why {
        tracing::info!("{why}");
    }
    service.stop();
    // Leaving the group takes a moment more; without brokers it would take for ever.
    let patience = config.shutdown_timeout + Duration::from_secs(5);
    match tokio::time::timeout(patience, service.ended()).await {
        Ok(ended) => ended.map_err(CommandError::told)?,
        Err(_) => {
            let told = "Kafka did not take the last offsets in time. Nothing is lost: what was settled since the last \
                        commit will be read again, and be a duplicate";
            return Err(CommandError::Told(told.into()));
        }
    }
    let (_, code) = why?;
    let settled = |outcome| service.metrics.settled_in_all(outcome);
    tracing::info!(
        received = service.metrics.events_received.get(),
        queued = service.metrics.events_queued.get(),
        delivered = settled(Outcome::Delivered),
        duplicate = settled(Outcome::Duplicate),
        filtered = settled(Outcome::Filtered),
        dead_lettered = settled(Outcome::DeadLettered),
        "ended in order: what is not settled, or not committed, will be read again"
    );
    Ok(code)
}

/// A service is there to be stopped; who waits for it to have caught up must not take it for that.
fn stopped_early(until_caught_up: bool) -> ExitCode {
    if until_caught_up { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS }
}

/// Returns when there is one, where it is waited for the end.
async fn stopped_partition(
    mut ingest: watch::Receiver<StageStatus>,
    mut deliver: watch::Receiver<StageStatus>,
    wanted: bool,
) {
    let is_so = |status: &StageStatus| !status.stopped.is_empty();
    if wanted {
        // An error says that the stage has ended, which is told elsewhere.
        let first = tokio::select! { stopped = ingest.wait_for(is_so) => stopped, stopped = deliver.wait_for(is_so) => stopped };
        if first.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

async fn caught_up(config: &Config, wanted: bool) -> Result<(), CommandError> {
    match wanted {
        true => Service::caught_up(config).await.map_err(CommandError::told),
        false => std::future::pending().await,
    }
}
