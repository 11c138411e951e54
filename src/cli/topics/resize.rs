//! `topics resize`: more partitions for the queue.

use std::process::ExitCode;

use clap::Args;

use super::super::progress::Progress;
use super::super::table::counted;
use super::super::{CommandError, STOPPED, SettingsArgs, Stopped, load};
use crate::kafka;
use crate::resize::{Onlooker, ResizeError, Resized, resize};

/// Give the queue more partitions without losing what was delivered: no instance may run meanwhile
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nat-destination topics resize --config nat-destination.toml --partitions 12\n\n\
    Twice or three times as many as before costs least: with 6 → 12 each entry of the dedup state is kept twice until it \
    expires, with 6 → 7 seven times. It can be stopped, and goes on when it is run again. Until it is done no instance starts.\n\n\
    Exit codes: 0 done, 1 a problem, 2 wrong usage, 130 stopped by Ctrl-C.")]
pub struct ResizeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// How many partitions the queue is to have
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    partitions: u16,
}

pub async fn run(args: ResizeArgs) -> Result<ExitCode, CommandError> {
    let config = load(&args.settings)?;
    let to = usize::from(args.partitions);
    let stopped = Stopped::listen();
    // Brokers that are away are waited for here, where Ctrl-C is heard at once.
    stopped.asking(kafka::partitions(&config, &config.topics.queue)).await?;
    let done = stopped.working(move |stopped| {
        let mut shown = Shown { stopped, progress: None };
        match resize(&config, to, &mut shown) {
            Ok(resized) => Ok(Ok(resized)),
            Err(ResizeError::Stopped { begun }) => Ok(Err(begun)),
            // While the brokers do not answer it hears of Ctrl-C late.
            Err(ResizeError::Kafka(_)) if stopped.is_so() => Ok(Err(true)),
            Err(ResizeError::Unbegun(_)) if stopped.is_so() => Ok(Err(false)),
            Err(ResizeError::Kafka(problem)) => {
                let told = format!(
                    "{problem}\nNothing is lost. When that is put right, run the same command again: it goes on"
                );
                Err(CommandError::Told(told))
            }
            Err(error) => Err(CommandError::told(error)),
        }
    });
    match done.await? {
        Ok(resized) => {
            tell(&resized);
            Ok(ExitCode::SUCCESS)
        }
        Err(begun) => {
            let until = if begun { " Until it is done no instance starts." } else { "" };
            eprintln!("stopped. Nothing is lost; run the same command again to finish it.{until}");
            Ok(ExitCode::from(STOPPED))
        }
    }
}

fn tell(resized: &Resized) {
    let Resized { from, to, entries, copies, unreadable, moved } = resized;
    println!("resized  from {from} to {to} partitions");
    println!("carried  {} of the dedup state, {}", counted(*entries, "entry"), counted(*copies, "copy"));
    println!("moved    {} that waited in the queue", counted(*moved, "event"));
    if *unreadable > 0 {
        let unreadable = counted(*unreadable, "record");
        eprintln!("left     {unreadable} of the delivered topic where they were: another version's, or another tool's");
    }
    println!("Instances may start again.");
}

struct Shown<'a> {
    stopped: &'a Stopped,
    progress: Option<Progress>,
}

impl Onlooker for Shown<'_> {
    fn begins(&mut self, step: &'static str, total: u64) {
        // The bar before is cleared first.
        self.progress = None;
        self.progress = Some(Progress::new(step, "records", total));
    }
    fn at(&mut self, done: u64) {
        if let Some(progress) = &mut self.progress {
            progress.at(done);
        }
    }
    fn says(&mut self, line: &str) {
        match &self.progress {
            Some(progress) => progress.say(line),
            None => eprintln!("{line}"),
        }
    }
    fn stopped(&self) -> bool {
        self.stopped.is_so()
    }
}
