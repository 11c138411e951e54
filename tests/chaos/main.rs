//! The chaos harness: real Kafka with three brokers, instances of the real binary, faults drawn from a seed, and an oracle
//! that knows what must have become of each event because it knows how each was made. See README.md.
//!
//! Exit codes: 0 everything is as promised (with a mutant: the oracle found it out), 1 it is not, 2 usage or surroundings.

mod clock;
mod cluster;
mod events;
mod growth;
mod instance;
mod mutant;
mod nat;
mod oracle;
mod plan;
mod produce;
mod proxy;
mod report;
mod run;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use plan::{Fault, Growth, Kind, SLOTS, Wish};
use run::{Protocol, Settings, World};

#[derive(Parser)]
#[command(name = "chaos", about = "Breaks everything around Nat destination and judges what became of each event")]
struct Arguments {
    /// What the plan is drawn from; a fresh one if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Length of the fault phase
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Records produced a second
    #[arg(long, default_value_t = 150)]
    rate: u32,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=SLOTS as i64))]
    instances: u8,
    /// Of the consumer groups; drawn from the seed if not given
    #[arg(long)]
    protocol: Option<Protocol>,
    /// Only these kinds of faults, or "none"; --faults list tells them
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Let the queue grow in the middle: half of the faults, `topics resize` while brokers die, the other half
    #[arg(long, conflicts_with_all = ["mutant", "mutants", "control"])]
    grow: bool,
    /// Break the product in this way (debug builds only); 0 if the oracle finds that out
    #[arg(long)]
    mutant: Option<String>,
    /// The same with each of them
    #[arg(long, conflicts_with = "mutant")]
    mutants: bool,
    /// Run the mutants' plans with the product as it is: it must be right
    #[arg(long)]
    control: bool,
    /// Keep the directory of logs even if everything is right
    #[arg(long)]
    keep: bool,
    /// Print the plan and end
    #[arg(long)]
    plan: bool,
    /// Where to write the figures
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.faults == ["list"] {
        Kind::ALL.iter().for_each(|kind| println!("{}", kind.name()));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = all(&arguments) => outcome,
                () = interrupted() => Err("interrupted; brokers and instances are stopped".to_owned()),
            }
        });
        // Readers of Kafka that still wait are not waited for.
        runtime.shutdown_timeout(Duration::from_secs(1));
        outcome
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(problem) => {
            eprintln!("chaos: {problem}");
            ExitCode::from(2)
        }
    }
}

/// SIGTERM or Ctrl-C. What was started ends with the run, not with this process.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

/// True if everything is as it should be.
async fn all(arguments: &Arguments) -> Result<bool, String> {
    let settings = settings(arguments)?;
    let mutants = match (&arguments.mutant, arguments.mutants) {
        (_, true) => mutant::ALL.to_vec(),
        (Some(name), false) => vec![mutant::of(name)?],
        (None, false) if arguments.control => mutant::ALL.to_vec(),
        (None, false) => Vec::new(),
    };
    if arguments.plan {
        print_plan(&settings);
        return Ok(true);
    }
    let world = World::start().await?;
    if mutants.is_empty() {
        let report = run::run(&world, &settings).await?;
        println!("{}", report.text());
        if let Some(path) = &arguments.json {
            std::fs::write(path, report.json()).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        return Ok(report.is_right());
    }
    let mut as_wanted = true;
    for mutant in mutants {
        let mut settings = mutant.settings(&settings);
        if arguments.control {
            settings.mutant = None;
        }
        let report = run::run(&world, &settings).await?;
        println!("{}", report.text());
        let verdict = match (arguments.control, report.is_right()) {
            (true, true) => "RIGHT without it",
            (true, false) => "WRONG WITHOUT IT",
            (false, true) => "NOT FOUND OUT",
            (false, false) => "FOUND OUT",
        };
        println!("mutant {}: {verdict}", mutant.name());
        as_wanted &= report.is_right() == arguments.control;
        if !arguments.control && !arguments.keep {
            report.forget();
        }
    }
    Ok(as_wanted)
}

fn print_plan(settings: &Settings) {
    let print = |faults: &[Fault]| {
        let told =
            |f: &Fault| println!("{:7.3} s for {:6.3} s  {}", f.at.as_secs_f64(), f.length.as_secs_f64(), f.tell());
        faults.iter().for_each(told);
    };
    print(&settings.faults);
    if let Some(Growth { killed, kills, faults, then }) = &settings.growth {
        println!(
            "the queue grows: instances are killed (else told to end) {killed:?}; topics resize is killed after {kills:?}"
        );
        print(faults);
        println!("the instances go on");
        print(then);
    }
}

fn settings(arguments: &Arguments) -> Result<Settings, String> {
    let kinds: Vec<Kind> = match arguments.faults.as_slice() {
        [] => Kind::ALL.to_vec(),
        [none] if none == "none" => Vec::new(),
        names => {
            let kind = |name: &String| Kind::of(name).ok_or(format!("no fault {name:?}; --faults list tells them"));
            names.iter().map(kind).collect::<Result<_, _>>()?
        }
    };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    let seconds = Duration::from_secs(arguments.seconds);
    let instances = usize::from(arguments.instances);
    let protocol = arguments.protocol.unwrap_or(match seed % 2 {
        0 => Protocol::Classic,
        _ => Protocol::Consumer,
    });
    let seconds = if arguments.grow { seconds / 2 } else { seconds };
    let wish = Wish { length: seconds, instances, kinds: &kinds };
    let faults = plan::draw(seed, &wish);
    let growth = arguments.grow.then(|| Growth::draw(seed, &wish));
    let mut command = format!(
        "cargo chaos --seed {seed} --seconds {} --rate {} --instances {instances} --protocol {}",
        arguments.seconds,
        arguments.rate,
        protocol.name()
    );
    if !arguments.faults.is_empty() {
        command.push_str(&format!(" --faults {}", arguments.faults.join(",")));
    }
    if arguments.grow {
        command.push_str(" --grow");
    }
    println!("seed {seed}; this plan again: {command}");
    let mix = events::Mix::default();
    Ok(Settings {
        seed,
        seconds,
        rate: arguments.rate,
        instances,
        protocol,
        faults,
        growth,
        mix,
        mutant: None,
        keep: arguments.keep,
        command,
    })
}
