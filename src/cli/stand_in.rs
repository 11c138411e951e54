//! `stand-in`: the Nat.app stand-in as a server of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::{CommandError, share, start_logs, told_to_stop};
use crate::config::{Log as LogSettings, resolve::parse_duration};
use crate::sandbox::stand_in::{Behaviour, Log, StandIn};

/// Run a stand-in for Nat.app: checks what Nat.app checks, answers as it does, and misbehaves on demand
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination stand-in --listen 127.0.0.1:8080 --log accepted.jsonl\n  \
    nat-destination stand-in --latency 50ms --reject 0.01 --unavailable 0.05 --rate-limit 100 --api-key secret\n\n\
    Its log has one JSON line an answer: time, idempotency_key, email, day, answer. It holds personal data if the events do.")]
pub struct StandInArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// How long each answer takes
    #[arg(long, default_value = "0", value_parser = parse_duration, value_name = "DURATION")]
    latency: Duration,
    /// Share of the events answered 400, always the same ones
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "SHARE")]
    reject: f64,
    /// Contact whose events are always answered 400; may be repeated
    #[arg(long, value_name = "EMAIL")]
    reject_email: Vec<String>,
    /// Share of the requests answered 503
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "SHARE")]
    unavailable: f64,
    /// Share of the requests answered 429
    #[arg(long, default_value_t = 0.0, value_parser = share, value_name = "SHARE")]
    throttle: f64,
    /// Requests a second; beyond, 429 with Retry-After
    #[arg(long, value_name = "REQUESTS")]
    rate_limit: Option<u32>,
    /// The only key that is let in; without it any is
    #[arg(long, env = "STAND_IN_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// Answer every right request with this status
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(200..=599))]
    status: Option<u16>,
    /// The log of answers; - or nothing: standard output
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub async fn run(args: StandInArgs) -> Result<ExitCode, CommandError> {
    start_logs(&LogSettings { format: "auto".into(), level: "info".into() });
    let log: Box<dyn std::io::Write + Send> = match &args.log {
        Some(path) if path.as_os_str() != "-" => {
            let file = std::fs::File::options().create(true).append(true).open(path);
            Box::new(file.map_err(|error| CommandError::Told(format!("--log {}: {error}", path.display())))?)
        }
        _ => Box::new(std::io::stdout()),
    };
    let behaviour = Behaviour {
        latency: args.latency,
        reject: args.reject,
        reject_emails: args.reject_email,
        unavailable: args.unavailable,
        throttle: args.throttle,
        rate_limit: args.rate_limit,
        api_key: args.api_key,
        status: args.status,
        seed: args.seed,
        ..Behaviour::default()
    };
    let stand_in = StandIn::start(args.listen, behaviour, Log::Writer(log)).await.map_err(CommandError::told)?;
    tracing::info!(url = stand_in.url(), "the Nat.app stand-in answers");
    told_to_stop().await?;
    tracing::info!(requests = stand_in.requests(), accepted = stand_in.accepted(), "the stand-in ends");
    stand_in.shutdown().await;
    Ok(ExitCode::SUCCESS)
}
