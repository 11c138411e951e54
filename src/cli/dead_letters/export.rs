//! `dead-letters export`: every letter byte for byte, as JSON lines, for other tools and for keeping.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};

use super::scan::{self, Found, Redriven};
use super::{FilterArgs, prepare, rfc3339};
use crate::cli::table::number;
use crate::cli::{CommandError, STOPPED, SettingsArgs, Stopped, interruptible};
use crate::config::Config;
use crate::dead_letter::select::FOREIGN;
use crate::dead_letter::{Filter, Kind, Letter};
use crate::kafka::{Headers, Range};

/// Write them to a file as JSON lines
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters export letters.jsonl --config nat-destination.toml --since 7d\n  \
    nat-destination dead-letters export - --config nat-destination.toml --reason rejected | jq -r .value\n\n\
    Each line: place, time, redriven, reason, status, answer, attempts, first_attempt, last_attempt, redrives, source, message, headers\n\
    (the source record's), key, value. Key, value and header values are text, or `…_base64` where they are not UTF-8. They\n\
    hold personal data: the file is readable by its owner only.")]
pub struct ExportArgs {
    /// The file to write; - is standard output
    file: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Only those that no redrive has taken
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

pub async fn run(args: ExportArgs) -> Result<ExitCode, CommandError> {
    let (config, filter) = match prepare(&args.settings, args.filter)? {
        Ok(prepared) => prepared,
        Err(code) => return Ok(code),
    };
    // Of a file that cannot be, one hears before Kafka is asked; and nothing is begun when that does not answer.
    Target::check(&args.file, args.force)?;
    let ranges = scan::ranges(&config, &filter).await?;
    let mut target = Target::open(&args.file)?;
    let exported = interruptible(move |stopped| {
        // Each line tells whether its letter was redriven: the notes of that stand behind the letters.
        let exported = match scan::notes(&config, &filter, ranges.clone(), stopped) {
            Ok(Some(redriven)) => export(&config, &filter, args.open, ranges, &redriven, &mut target, stopped),
            Ok(None) => {
                target.discard();
                return Ok(scan::cut_short());
            }
            Err(problem) => Err(problem),
        };
        if exported.is_err() {
            target.discard();
        }
        exported
    });
    exported.await
}

fn export(
    config: &Config,
    filter: &Filter,
    only_open: bool,
    ranges: Vec<Range>,
    redriven: &Redriven,
    target: &mut Target,
    stopped: &Stopped,
) -> Result<ExitCode, CommandError> {
    let mut count = 0_u64;
    let all = scan::select(config, filter, ranges, "export", stopped, |found| match found.kind {
        Kind::Note(_) => Ok(ControlFlow::Continue(())),
        _ if only_open && redriven.at(found.place()).is_some() => Ok(ControlFlow::Continue(())),
        _ => {
            count += 1;
            target.write(&line(&found, redriven))
        }
    })?;
    target.end(all.is_some() || target.reader_gone, count)
}

/// Standard output, or a file that gets its name when it is whole.
struct Target {
    out: Box<dyn Write + Send>,
    /// The file to be, and what it is called until then.
    file: Option<(PathBuf, PathBuf)>,
    /// Whoever read has read enough.
    reader_gone: bool,
}

impl Target {
    fn check(path: &Path, force: bool) -> Result<(), CommandError> {
        if path.as_os_str() == "-" {
            return Ok(());
        }
        let told = |problem: &dyn std::fmt::Display| CommandError::Told(format!("{}: {problem}", path.display()));
        if path.is_dir() {
            return Err(told(&"it is a directory; name a file in it"));
        }
        if path.exists() && !force {
            return Err(told(&"it is there already; name another file, or --force replaces it"));
        }
        Ok(())
    }

    fn open(path: &Path) -> Result<Target, CommandError> {
        if path.as_os_str() == "-" {
            return Ok(Target { out: Box::new(BufWriter::new(io::stdout())), file: None, reader_gone: false });
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut options = OpenOptions::new();
        let file: File = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .map_err(|error| CommandError::Told(format!("{}: {error}", partial.display())))?;
        let file_names = Some((path.to_owned(), partial));
        Ok(Target { out: Box::new(BufWriter::new(file)), file: file_names, reader_gone: false })
    }

    fn write(&mut self, line: &str) -> Result<ControlFlow<()>, CommandError> {
        match self.out.write_all(line.as_bytes()) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_gone = true;
                Ok(ControlFlow::Break(()))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// A problem cut it short: personal data is not left behind.
    fn discard(&self) {
        if let Some((_, partial)) = &self.file {
            let _ = fs::remove_file(partial); // The problem is told.
        }
    }

    fn end(&mut self, whole: bool, count: u64) -> Result<ExitCode, CommandError> {
        match self.out.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            flushed => flushed.map_err(|error| self.failed(&error))?,
        }
        let count = number(count);
        match (&self.file, whole) {
            (Some((file, partial)), true) => {
                fs::rename(partial, file).map_err(|error| self.failed(&error))?;
                eprintln!("{count} dead letters exported to {}", file.display());
            }
            (None, true) => {}
            (Some((file, partial)), false) => {
                let (file, partial) = (file.display(), partial.display());
                eprintln!(
                    "stopped: {partial} holds the first {count} dead letters; {file} was not touched. Run it again for all"
                );
            }
            (None, false) => eprintln!("stopped after {count} dead letters"),
        }
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(STOPPED) })
    }

    fn failed(&self, error: &io::Error) -> CommandError {
        let name =
            self.file.as_ref().map_or_else(|| "standard output".into(), |(_, partial)| partial.display().to_string());
        CommandError::Told(format!("{name}: {error}"))
    }
}

fn line(found: &Found, redriven: &Redriven) -> String {
    let mut line = Map::new();
    line.insert("place".into(), found.place().to_string().into());
    line.insert("time".into(), json!(rfc3339(found.at())));
    line.insert("redriven".into(), json!(redriven.at(found.place()).and_then(rfc3339)));
    match &found.kind {
        Kind::Letter(letter) => {
            verdict(&mut line, letter);
            line.insert("headers".into(), headers(&letter.original));
        }
        Kind::Foreign(all) => {
            line.insert("reason".into(), FOREIGN.into());
            line.insert("headers".into(), headers(all));
        }
        Kind::Note(_) => {}
    }
    bytes(&mut line, "key", found.key());
    bytes(&mut line, "value", found.value());
    format!("{}\n", Value::Object(line))
}

fn verdict(line: &mut Map<String, Value>, letter: &Letter) {
    let time = |millis: Option<i64>| json!(millis.and_then(rfc3339));
    for (name, value) in [
        ("reason", json!(letter.reason)),
        ("status", json!(letter.status)),
        ("answer", json!(letter.answer)),
        ("attempts", json!(letter.attempts)),
        ("first_attempt", time(letter.first_attempt)),
        ("last_attempt", time(letter.last_attempt)),
        ("redrives", json!(letter.redrives)),
        ("source", json!(letter.origin.as_ref().map(ToString::to_string))),
        ("message", json!(letter.message)),
    ] {
        line.insert(name.into(), value);
    }
    if let Some(length) = letter.truncated {
        line.insert("truncated_from".into(), length.into());
    }
}

pub fn headers(headers: &Headers) -> Value {
    let header = |(name, value): &(String, Option<Vec<u8>>)| {
        let mut header = Map::new();
        header.insert("name".into(), name.as_str().into());
        bytes(&mut header, "value", value.as_deref());
        Value::Object(header)
    };
    headers.iter().map(header).collect()
}

/// Text where it is text, so that `jq` reads it; base64 otherwise, so that nothing is lost.
pub fn bytes(object: &mut Map<String, Value>, name: &str, value: Option<&[u8]>) {
    match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => object.insert(name.into(), Value::Null),
        Some((_, Ok(text))) => object.insert(name.into(), text.into()),
        Some((bytes, Err(_))) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}
