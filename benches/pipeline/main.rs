//! End to end on a real Kafka: how close the program comes to bare clients that do the same I/O and nothing else. Every
//! figure is measured in rounds, bare client and program in turn, in the same run: the ratio is what counts.
//!
//!     cargo bench --bench pipeline                         # all of it: about ten minutes
//!     cargo bench --bench pipeline -- ingest-mixed idle    # only these
//!     cargo bench --bench pipeline -- --tiny               # a hundredth of the events: whether it works, not how fast
//!     cargo bench --bench pipeline -- --write              # all of it, into benches/README.md

mod bare;
mod bench;
mod child;
mod figures;
mod life;
mod load;
mod program;
mod report;
mod stages;
mod stand_in;
mod state;
mod whole;

/// The tests' own way to start a broker; not all of it is needed here.
#[allow(dead_code, unused_imports)]
#[path = "../../tests/support/kafka.rs"]
mod kafka;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use bench::Bench;
use figures::FIGURES;

#[derive(Debug, Parser)]
#[command(about = "Nat destination against bare clients, on a real Kafka")]
struct Arguments {
    /// Only these figures; --list names them
    figures: Vec<String>,
    /// Name the figures and end
    #[arg(long)]
    list: bool,
    /// A hundredth of the events, one round: whether everything works
    #[arg(long)]
    tiny: bool,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// A setting of the program, to see what it changes; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Where to write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write what was measured into the table of benches/README.md
    #[arg(long)]
    write: bool,
    /// What cargo bench says; nothing here
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    // The bare clients and the stand-in are this program too, in processes of their own.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.split_first() {
        Some((word, rest)) if word == child::WORD => child::run(rest),
        _ => measure(&Arguments::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("pipeline: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), String> {
    if arguments.list {
        FIGURES.iter().for_each(|figure| println!("{:18} {}", figure.name, figure.what));
        return Ok(());
    }
    if let Some(unknown) = arguments.figures.iter().find(|name| FIGURES.iter().all(|figure| figure.name != **name)) {
        return Err(format!("no figure {unknown:?}; --list names them"));
    }
    let rounds = if arguments.tiny { 1 } else { arguments.rounds.max(1) };
    let bench = Bench::start(arguments.tiny, rounds, arguments.set.clone());
    let mut rows = Vec::new();
    let wanted = |name: &str| arguments.figures.is_empty() || arguments.figures.iter().any(|wanted| wanted == name);
    for figure in FIGURES.iter().filter(|figure| wanted(figure.name)) {
        eprintln!("{}: {}", figure.name, figure.what);
        let row = (figure.measure)(&bench).map_err(|problem| format!("{}: {problem}", figure.name))?;
        eprintln!("{}", report::line(figure, &row));
        rows.push((figure, row));
    }
    println!("{}", report::table(&rows));
    if let Some(path) = &arguments.json {
        std::fs::write(path, report::json(&rows)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    if arguments.write {
        report::write_into_page(&rows)?;
    }
    Ok(())
}
