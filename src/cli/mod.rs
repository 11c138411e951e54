//! What users type: one file a command. This one has the arguments, the runtime and the exit codes.

/// In place of the standard library's, which panic where nobody reads any more.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::write_out(&format!($($text)*)) };
}
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::write_out(&(format!($($text)*) + "\n")) };
}
macro_rules! eprintln {
    () => { $crate::cli::remark("") };
    ($($text:tt)*) => { $crate::cli::remark(&format!($($text)*)) };
}

mod accepted;
mod backfill;
mod check;
mod completions;
mod contact;
mod dead_letters;
mod demo;
mod explain;
mod feeder;
mod generate;
mod instances;
mod man;
mod progress;
mod records;
mod replay;
mod run;
mod set;
mod source;
mod stand_in;
mod status;
mod stop;
mod table;
mod time;
mod topics;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::resolve::is_secret;
use crate::config::{Config, Problem, Sources};
use crate::kafka;
pub use crate::logs::start_logs;
use crate::suppress::SuppressList;
use stop::{STOPPED, Stopped, told_to_stop};

/// Delivers Segment's identify calls from Kafka to Nat.app: each contact once a day, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "nat-destination", version, max_term_width = 110, arg_required_else_help = true)]
#[command(after_help = "First steps:\n  \
    nat-destination demo                       see it work, without Kafka or Nat.app\n  \
    nat-destination check --print-example      a configuration to begin with\n  \
    nat-destination check --config FILE        is it right, and is everything there?\n  \
    nat-destination run --config FILE          the service\n  \
    nat-destination status --config FILE       how is it?\n  \
    nat-destination man | man -l -             the manual\n\n\
    Exit codes: 0 done, 1 a problem (told on stderr), 2 wrong usage, 130 stopped by Ctrl-C before it was done.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Demo(demo::DemoArgs),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Status(status::StatusArgs),
    Set(set::SetArgs),
    Forget(contact::ForgetArgs),
    DeadLetters(dead_letters::DeadLettersArgs),
    Topics(topics::TopicsArgs),
    Replay(replay::ReplayArgs),
    Backfill(backfill::BackfillArgs),
    StandIn(stand_in::StandInArgs),
    Generate(generate::GenerateArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Where the settings come from.
#[derive(Debug, Clone, Args)]
pub struct SettingsArgs {
    /// The configuration file (TOML)
    #[arg(long, short, env = "NAT_DESTINATION_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A setting that goes before the file and the environment; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

impl SettingsArgs {
    pub fn sources(&self) -> Sources {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Sources { file: self.config.clone(), environment, set: self.set.clone() }
    }

    /// The same as arguments, each with a space before it. What may be a secret is left for whoever types it.
    fn typed(&self) -> String {
        let file = self.config.iter().map(|file| format!(" --config {}", typed(&file.to_string_lossy())));
        let set = self.set.iter().map(|set| match set.split_once('=') {
            Some((name, _)) if is_secret(name) => format!(" --set {name}=…"),
            _ => format!(" --set {}", typed(set)),
        });
        file.chain(set).collect()
    }
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("{}", list_of(.0))]
    Settings(Vec<Problem>),
    #[error("{0}")]
    Told(String),
    /// What clap cannot find out by looking at one argument.
    #[error("{0}\n\nFor more information, try '--help'.")]
    Usage(String),
    /// By Ctrl-C, before anything was done.
    #[error("stopped before everything was read; nothing was changed")]
    Stopped,
}

impl CommandError {
    pub fn told(error: impl std::fmt::Display) -> CommandError {
        CommandError::Told(error.to_string())
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            CommandError::Settings(_) | CommandError::Told(_) => ExitCode::FAILURE,
            CommandError::Usage(_) => ExitCode::from(2),
            CommandError::Stopped => ExitCode::from(STOPPED),
        }
    }
}

impl From<kafka::KafkaProblem> for CommandError {
    fn from(problem: kafka::KafkaProblem) -> CommandError {
        CommandError::told(problem)
    }
}

/// A line on standard error. Where nobody reads that any more the work goes on.
fn remark(line: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Writes a result to standard output, and at once. Whoever reads there may have read enough (`| head`): then the command
/// ends here, quietly and with 0.
fn write_out(text: &str) {
    if !is_read(text) {
        std::process::exit(0)
    }
}

/// A line of a result whose exit code says more: where nobody reads any more the work goes on.
fn write_line(line: &str) {
    is_read(&format!("{line}\n"));
}

/// Writes it; false where nobody reads any more. What cannot be written otherwise ends the command.
fn is_read(text: &str) -> bool {
    match try_write_out(text) {
        Ok(()) => true,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => false,
        Err(error) => {
            eprintln!("error: standard output: {error}");
            std::process::exit(1)
        }
    }
}

/// The result of a command that has changed something: it ends with `code`, though nobody may read any more.
fn write_result(text: &str, code: ExitCode) -> ExitCode {
    match try_write_out(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: standard output: {error}");
            ExitCode::FAILURE
        }
        _ => code,
    }
}

fn try_write_out(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// An argument as it has to be typed in a shell.
fn typed(argument: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,:/=@+%".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

fn list_of(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(|problem| format!("  {problem}")).collect();
    let noun = if problems.len() == 1 { "problem" } else { "problems" };
    format!(
        "{} {noun} in the configuration:\n{}\n\nAll settings with their meaning: nat-destination check --print-example",
        problems.len(),
        lines.join("\n")
    )
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => return tell(&told),
    };
    crate::poison::hush_panics();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Set(args) => set::run(args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::Forget(args) => contact::forget(args).await,
            Command::DeadLetters(args) => dead_letters::run(args).await,
            Command::Topics(args) => topics::run(args).await,
            Command::Replay(args) => replay::run(args).await,
            Command::Backfill(args) => backfill::run(args).await,
            Command::StandIn(args) => stand_in::run(args).await,
            Command::Generate(args) => generate::run(args).await,
            Command::Completions(args) => completions::run(&args),
            Command::Man(args) => man::run(&args),
        }
    });
    // Threads that wait for a broker must not hold the end back.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            let label = if matches!(error, CommandError::Stopped) { "" } else { "error: " };
            eprintln!("{label}{error}");
            error.exit_code()
        }
    }
}

/// Help, the version, or what is wrong with the command line.
fn tell(told: &clap::Error) -> ExitCode {
    match told.print() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe && !told.use_stderr() => {
            eprintln!("error: standard output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(told.exit_code() as u8),
    }
}

/// The settings, or all that is wrong with them.
fn load(settings: &SettingsArgs) -> Result<Config, CommandError> {
    Config::load(&settings.sources()).map_err(CommandError::Settings)
}

/// The same for a tool that writes into the queue: its topics are as they have to be, and tell how large a batch may be.
async fn verified(mut config: Config) -> Result<Config, CommandError> {
    let verified = kafka::verify_or_create(&config, false).await.map_err(CommandError::told)?;
    config.topics.batch_bytes = verified.batch_bytes.unwrap_or(config.topics.batch_bytes);
    Ok(config)
}

/// A share on the command line.
fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("it must be a share from 0 to 1, such as 0.05".into()),
    }
}

/// `None`: there is none.
fn suppress_list(config: &Config) -> Result<Option<SuppressList>, CommandError> {
    config.suppress_file.as_deref().map(SuppressList::read).transpose().map_err(CommandError::told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_as_a_shell_takes_them_and_without_secrets() {
        let set = ["nat.url=http://a/b", "dedup.zone=it's", "nat.api_key=k", "kafka.properties.sasl.password=p"];
        let settings = SettingsArgs { config: Some("my nat.toml".into()), set: set.map(str::to_owned).to_vec() };
        let told = r"--config 'my nat.toml' --set nat.url=http://a/b --set 'dedup.zone=it'\''s' --set nat.api_key=… --set kafka.properties.sasl.password=…";
        assert_eq!(settings.typed().trim(), told);
    }
}
