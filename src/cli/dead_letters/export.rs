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

use super::row::Row;
use super::scan::{self, Found, Redriven};
use super::{FilterArgs, prepare};
use crate::cli::table::counted;
use crate::cli::time::rfc3339;
use crate::cli::{CommandError, STOPPED, SettingsArgs, Stopped};
use crate::config::Config;
use crate::dead_letter::{Filter, Kind, Letter};
use crate::kafka::{Headers, Range};

/// Write them to a file as JSON lines
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination dead-letters export letters.jsonl --config nat-destination.toml --since 7d\n  \
    nat-destination dead-letters export - --config nat-destination.toml --reason rejected | jq -r .value\n\n\
    Each line: the fields of `list`, then first_attempt, last_attempt, answer, message, truncated_from, bare, headers (the \
    source record's), key, value. Key, value and header values are text, or `…_base64` where they are not UTF-8. They hold personal \
    data: the file is readable by its owner only. Until it is whole it is called `FILE.NUMBER.partial`.")]
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
    let stopped = Stopped::listen();
    let ranges = stopped.asking(scan::ranges(&config, &filter)).await?;
    let mut target = Target::open(&args.file, args.force)?;
    let exported = stopped.working(move |stopped| {
        // Each line tells whether its letter was redriven: the notes of that stand behind the letters.
        let redriven = scan::notes(&config, &filter, ranges.clone(), stopped);
        let exported = redriven
            .and_then(|redriven| redriven.ok_or(CommandError::Stopped))
            .and_then(|redriven| export(&config, &filter, args.open, ranges, &redriven, &mut target, stopped));
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
            target.write(&line(config, &found, redriven))
        }
    })?;
    target.end(all.is_some() || target.reader_gone, count)
}

/// Standard output, or a file that gets its name when it is whole.
struct Target {
    out: Box<dyn Write + Send>,
    file: Option<Names>,
    /// Whoever read has read enough.
    reader_gone: bool,
}

struct Names {
    /// The file to be,
    file: PathBuf,
    /// what it is called until then,
    partial: PathBuf,
    /// and whether it may replace one.
    force: bool,
}

impl Target {
    fn check(path: &Path, force: bool) -> Result<(), CommandError> {
        if path.as_os_str() == "-" {
            return Ok(());
        }
        let told = |problem: &dyn std::fmt::Display| CommandError::Told(format!("{}: {problem}", path.display()));
        // Not what a link leads to: the link itself would be replaced.
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => Err(told(&"it is a directory; name a file in it")),
            Ok(found) if !found.is_file() => {
                Err(told(&"it is there and no regular file; name another one, or use - for standard output"))
            }
            Ok(_) if !force => Err(told(&"it is there already; name another file, or --force replaces it")),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(told(&error)),
            _ => Ok(()),
        }
    }

    fn open(path: &Path, force: bool) -> Result<Target, CommandError> {
        if path.as_os_str() == "-" {
            return Ok(Target { out: Box::new(BufWriter::new(io::stdout())), file: None, reader_gone: false });
        }
        let (file, partial) = create_partial(path)?;
        let names = Names { file: path.to_owned(), partial, force };
        Ok(Target { out: Box::new(BufWriter::new(file)), file: Some(names), reader_gone: false })
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
        if let Some(names) = &self.file {
            let _ = fs::remove_file(&names.partial); // The problem is told.
        }
    }

    fn end(&mut self, whole: bool, count: u64) -> Result<ExitCode, CommandError> {
        match self.out.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            flushed => flushed.map_err(|error| self.failed(&error))?,
        }
        let count = counted(count, "dead letter");
        match (&self.file, whole) {
            (Some(Names { file, partial, force }), true) => {
                // Another one may have come there meanwhile.
                Target::check(file, *force)?;
                fs::rename(partial, file).map_err(|error| self.failed(&error))?;
                eprintln!("{count} exported to {}", file.display());
            }
            (None, true) => {}
            (Some(Names { file, partial, .. }), false) => {
                let (file, partial) = (file.display(), partial.display());
                eprintln!("stopped: {partial} holds {count} so far; {file} was not touched. Run it again for all");
            }
            (None, false) => eprintln!("stopped after {count}"),
        }
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(STOPPED) })
    }

    fn failed(&self, error: &io::Error) -> CommandError {
        let name = self.file.as_ref().map(|names| names.partial.display().to_string());
        let name = name.unwrap_or_else(|| "standard output".into());
        CommandError::Told(format!("{name}: {error}"))
    }
}

/// A file of its own beside the target, which nobody else has and only the owner reads: what an earlier export has left stays.
fn create_partial(path: &Path) -> Result<(File, PathBuf), CommandError> {
    let mut number = std::process::id();
    loop {
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{number}.partial"));
        let partial = PathBuf::from(partial);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial) {
            Ok(file) => return Ok((file, partial)),
            // In a container all have the same process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number = number.wrapping_add(1),
            Err(error) => return Err(CommandError::Told(format!("{}: {error}", partial.display()))),
        }
    }
}

fn line(config: &Config, found: &Found, redriven: &Redriven) -> String {
    let mut line = Row::of(config, found).json(redriven);
    let (letter, all) = match &found.kind {
        Kind::Letter(letter) => (Some(letter.as_ref()), Some(&letter.original)),
        Kind::Foreign(all) => (None, Some(all)),
        Kind::Note(_) => (None, None),
    };
    verdict(&mut line, letter);
    line.insert("headers".into(), all.map_or(Value::Null, headers));
    bytes(&mut line, "key", found.key());
    bytes(&mut line, "value", found.value());
    format!("{}\n", Value::Object(line))
}

/// What `list` does not tell; null where it is not known.
fn verdict(line: &mut Map<String, Value>, letter: Option<&Letter>) {
    let time = |of: fn(&Letter) -> Option<i64>| json!(letter.and_then(of).and_then(rfc3339));
    for (name, value) in [
        ("answer", json!(letter.and_then(|letter| letter.answer.as_ref()))),
        ("first_attempt", time(|letter| letter.first_attempt)),
        ("last_attempt", time(|letter| letter.last_attempt)),
        ("message", json!(letter.and_then(|letter| letter.message.as_ref()))),
        ("truncated_from", json!(letter.and_then(|letter| letter.truncated))),
        ("bare", json!(letter.map(|letter| letter.bare))),
    ] {
        line.insert(name.into(), value);
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
