//! `backfill`: events from files into the queue, as exported from a warehouse or from Segment's own archive. What cannot be
//! taken is reported with its line, and stops nothing.

mod lines;
mod report;
mod stream;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use jiff::Timestamp;
use rdkafka::message::OwnedHeaders;

use super::feeder::{Count, Feeder, Judge, Judged, Token, summary};
use super::progress::Progress;
use super::table::number;
use super::{CommandError, STOPPED, SettingsArgs, Stopped, load, start_logs, verified, write_result};
use crate::address::without_addresses;
use crate::config::{Config, Log};
use crate::dead_letter::{Origin, Reason, Road, Undeliverable};
use crate::dedup::{DedupKey, Key};
use crate::enqueue::{Enqueue, Entry};
use crate::kafka::{Bookmark, TopicPartition};
use crate::segment::Outcome;
use lines::{Line, Lines, Source};
use report::{Bad, Report};

/// Put events from files of JSON lines into the queue
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination backfill --config nat-destination.toml --dry-run events.jsonl\n  \
    nat-destination backfill --config nat-destination.toml --rate 500 archive/*.gz\n  \
    zcat events.gz | nat-destination backfill --config nat-destination.toml --report bad.jsonl -\n\n\
    One Segment event a line, or a batch of them ({\"batch\":[…]}), judged by the rules of run; gzip and zstd are recognised by \
    their first bytes. Bad lines go to the report with number and reason, and stop nothing. A file that is there and is no report \
    of an earlier run is not overwritten.\n\n\
    Dedup holds here too: a contact-day that was delivered within dedup.retention is a duplicate; one that was delivered \
    before that is sent again. An Engage value is sent wherever it differs from the last one that Nat.app accepted, also if \
    the one in the file is older: --set engage=skip leaves Engage's events out.\n\n\
    Stopped by Ctrl-C or killed, the same command goes on where it was (but for standard input and pipes).")]
pub struct BackfillArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Files of JSON lines, plain, gzip or zstd; -: standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where bad lines are reported; without it FILE.rejected.jsonl beside each file, and stdin.rejected.jsonl here
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Count what would be done, and change nothing. Kafka is not asked: what is larger than the queue takes is counted with
    /// the others
    #[arg(long)]
    dry_run: bool,
    /// Events a second at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Begin again, though an earlier run with these files was stopped
    #[arg(long)]
    restart: bool,
    /// The counts as one JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(args: BackfillArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "human".into(), level: "warn".into() });
    let sources = find(&args)?;
    let stopped = Stopped::listen();
    let config = stopped.asking(settings(&args)).await?;
    let again = match sources.iter().any(Source::is_stream) {
        false => "is kept in mind: run the same command again to go on",
        // Its bookmark would mean nothing.
        true => {
            "stays there. A stream cannot be gone on with: give all of it again, and what was there already is a duplicate"
        }
    };
    let groups: Vec<String> = sources.iter().filter_map(|source| group(&config, source)).collect();
    if args.restart && !args.dry_run {
        Bookmark::remove(&config, groups.clone()).await?;
    }
    let (dry_run, json) = (args.dry_run, args.json);
    let config = Arc::new(config);
    let (judge, now) = (Arc::new(Judge::new(&config)?), Timestamp::now());
    let backfill = Backfill { config: Arc::clone(&config), args, judge, now, counts: Counts::default(), enqueue: None };
    let (counts, ended) = stopped.working(move |stopped| Ok(backfill.run(&sources, stopped))).await?;
    // All of it before the result, which nobody may read any more.
    let forgotten = match ended {
        Ok(true) if !dry_run => Bookmark::remove(&config, groups).await.map_err(CommandError::told),
        _ => Ok(()),
    };
    let kept = if dry_run { "Nothing was changed".to_owned() } else { format!("What is in the queue {again}") };
    let code = match &ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("stopped before it was done. {kept}");
            ExitCode::from(STOPPED)
        }
        Err(_) => {
            eprintln!("ended before it was done. {kept}");
            ExitCode::FAILURE
        }
    };
    let code = write_result(&counts.shown(dry_run, json), code);
    ended.and(forgotten).map(|()| code)
}

/// All files, before anything is sent; and whether their reports can be written.
fn find(args: &BackfillArgs) -> Result<Vec<Source>, CommandError> {
    let of =
        |path: &PathBuf| Source::find(path).map_err(|error| CommandError::Told(format!("{}: {error}", path.display())));
    let sources: Vec<Source> = args.files.iter().map(of).collect::<Result<_, _>>()?;
    if sources.iter().filter(|source| source.is_stdin()).count() > 1 {
        return Err(CommandError::Usage("standard input (-) can be read once only".into()));
    }
    if let Some(report) = args.report.as_ref().filter(|report| sources.iter().any(|source| source.is(report))) {
        let told = format!("--report {}: that is one of the files to read, and would be overwritten", report.display());
        return Err(CommandError::Usage(told));
    }
    let sources = without_reports(once(sources));
    let reports = match &args.report {
        Some(report) => vec![report.clone()],
        None => sources.iter().map(Source::report).collect(),
    };
    reports.iter().try_for_each(|path| report::verify(path).map_err(|error| unfit(path, &error)))?;
    Ok(sources)
}

fn unfit(report: &Path, error: &std::io::Error) -> CommandError {
    let report = report.display();
    match error.kind() {
        std::io::ErrorKind::InvalidData => CommandError::Usage(format!("{report}: {error}")),
        _ => CommandError::Told(format!(
            "{report}: {error}: bad lines cannot be reported there; name another file with --report FILE"
        )),
    }
}

/// A file that is named twice, by whatever names, is read once: a bookmark has one owner.
fn once(sources: Vec<Source>) -> Vec<Source> {
    let mut seen = HashSet::new();
    let is_new = |source: &Source| {
        let is_new = source.canonical.as_ref().is_none_or(|path| seen.insert(path.clone()));
        if !is_new {
            eprintln!("{}: passed over: it is one of these files already", source.shown());
        }
        is_new
    };
    sources.into_iter().filter(is_new).collect()
}

/// A pattern such as `*.jsonl` matches what an earlier run has reported, too.
fn without_reports(sources: Vec<Source>) -> Vec<Source> {
    let reports: HashSet<PathBuf> = sources.iter().filter_map(|source| source.report().canonicalize().ok()).collect();
    let is_named_so = |path: &Path| path.to_string_lossy().ends_with(lines::REPORT);
    let is_report = |path: &PathBuf| (reports.contains(path) || is_named_so(path)) && report::is_one(path);
    let is_report = |source: &Source| source.canonical.as_ref().is_some_and(is_report);
    let (reports, sources): (Vec<_>, Vec<_>) = sources.into_iter().partition(is_report);
    for report in reports {
        eprintln!("{}: passed over: it is a report of bad lines", report.shown());
    }
    sources
}

/// A dry run needs the rules only; anything else, a queue.
async fn settings(args: &BackfillArgs) -> Result<Config, CommandError> {
    if args.dry_run {
        return Config::load_offline(&args.settings.sources()).map_err(CommandError::Settings);
    }
    verified(load(&args.settings)?).await
}

/// Of the bookmark; `None`: there is none.
fn group(config: &Config, source: &Source) -> Option<String> {
    let prefix = config.topics.queue.trim_end_matches("queue");
    source.identity.as_ref().map(|identity| format!("{prefix}backfill.{identity}"))
}

#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    identify: u64,
    queued: u64,
    filtered: u64,
    bad: u64,
    contact_days: HashSet<Key>,
}

impl Counts {
    fn shown(&self, dry_run: bool, json: bool) -> String {
        let count = |name, words, count| Count { name, words, count, seldom: false };
        let mut counts = vec![count("lines", "lines read", self.lines)];
        match dry_run {
            true => counts.extend([
                count("identify", "identify events that would go into the queue", self.identify),
                count("contact_days", "of them, contact-days and Engage values", self.contact_days.len() as u64),
            ]),
            false => counts.push(count("queued", "put into the queue", self.queued)),
        }
        counts.extend([count("filtered", "filtered", self.filtered), count("bad", "bad", self.bad)]);
        summary("backfill", &counts, json)
    }
}

struct Backfill {
    config: Arc<Config>,
    args: BackfillArgs,
    judge: Arc<Judge>,
    now: Timestamp,
    counts: Counts,
    /// Between two files.
    enqueue: Option<Enqueue<Token>>,
}

/// A file that is being read.
struct Reading<'a> {
    source: &'a Source,
    /// Its part of the origin of each event.
    topic: String,
    /// From 1 on.
    line: i64,
    /// The first line that has not been done.
    begin: i64,
    /// `None`: a dry run.
    target: Option<(Feeder, Report)>,
}

impl Backfill {
    /// What was counted, and whether all of it is done.
    fn run(mut self, sources: &[Source], stopped: &Stopped) -> (Counts, Result<bool, CommandError>) {
        let ended = self.read_all(sources, stopped).map(|()| !stopped.is_so());
        (self.counts, ended)
    }

    fn read_all(&mut self, sources: &[Source], stopped: &Stopped) -> Result<(), CommandError> {
        // Of a stream nobody knows the length.
        let known = sources.iter().all(|source| source.length > 0);
        let total = if known { sources.iter().map(|source| source.length).sum() } else { 0 };
        let mut progress = Progress::new("backfill", "bytes", total);
        let passed = Arc::new(AtomicU64::new(0));
        for source in sources {
            if stopped.is_so() {
                break;
            }
            let mut reading = self.begin(source, &progress)?;
            let lines = source.open(Arc::clone(&passed), stopped);
            let tell = || progress.at(passed.load(Ordering::Relaxed));
            let read = lines.map_or_else(|error| Ok(Err(error)), |lines| self.read(&mut reading, lines, stopped, tell));
            self.end(&mut reading)?;
            match read? {
                // A stream's way to say that it was left in the middle.
                Err(_) if stopped.is_so() => break,
                Err(error) => {
                    let line = reading.line + 1;
                    return Err(CommandError::Told(format!("{}: line {line}: {error}", source.shown())));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Where an earlier run was stopped, or at the first line.
    fn begin<'a>(&mut self, source: &'a Source, progress: &Progress) -> Result<Reading<'a>, CommandError> {
        let unique = source.identity.clone().unwrap_or_else(|| self.now.as_millisecond().to_string());
        // It goes into headers, which hold no address.
        let topic = format!("backfill:{}:{unique}", without_addresses(&source.name()));
        if self.args.dry_run {
            return Ok(Reading { source, topic, line: 0, begin: 1, target: None });
        }
        let place: TopicPartition = (self.config.topics.queue.clone(), 0);
        let bookmark = group(&self.config, source).map(|group| Bookmark::new(&self.config, &group)).transpose();
        let bookmark = bookmark.map_err(CommandError::told)?;
        let saved = bookmark.as_ref().map(|bookmark| bookmark.load(std::slice::from_ref(&place))).transpose();
        let begin = saved.map_err(CommandError::told)?.and_then(|saved| saved.get(&place).copied()).unwrap_or(1);
        if begin > 1 {
            let done = number(begin as u64 - 1);
            progress.say(&format!(
                "{}: goes on behind line {done}, where an earlier run was stopped (--restart begins again)",
                source.shown()
            ));
        }
        let enqueue = self.enqueue.take().map_or_else(|| Enqueue::new(&self.config, self.args.rate), Ok);
        let feeder = Feeder::new(enqueue.map_err(CommandError::told)?, bookmark, [(place, begin)]);
        let path = self.args.report.clone().unwrap_or_else(|| source.report());
        // Of a stream nobody knows whether it is the same one.
        let file = source.canonical.as_ref().map(|_| source.file());
        let report = Report::of(path.clone(), file.as_deref(), begin)
            .map_err(|error| CommandError::Told(format!("{}: {error}", path.display())))?;
        let target = Some((feeder, report));
        Ok(Reading { source, topic, line: 0, begin, target })
    }

    /// To the end or until told to stop. The inner error is the file's own.
    fn read(
        &mut self,
        reading: &mut Reading<'_>,
        mut lines: Lines,
        stopped: &Stopped,
        mut progress: impl FnMut(),
    ) -> Result<std::io::Result<()>, CommandError> {
        let mut line = Vec::new();
        while !stopped.is_so() {
            let read = match lines.next(&mut line) {
                Ok(read) => read,
                Err(error) => return Ok(Err(error)),
            };
            reading.line += 1;
            match read {
                Line::End => break,
                _ if reading.line < reading.begin => {
                    progress();
                    continue;
                }
                Line::TooLong => {
                    let why = (Undeliverable::TooLarge.as_str(), lines::TOO_LONG);
                    self.bad(reading, reading.line, None, why)?;
                }
                Line::Whole => self.take(reading, &line)?,
            }
            self.counts.lines += 1;
            self.passed(reading)?;
            progress();
        }
        Ok(Ok(()))
    }

    fn take(&mut self, reading: &mut Reading<'_>, line: &[u8]) -> Result<(), CommandError> {
        let line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let judge = Arc::clone(&self.judge);
        judge.each(Some(line), |judged| match &judged.outcome {
            Outcome::Identify(_) => self.identify(reading, &judged),
            Outcome::Filtered(_) => {
                self.counts.filtered += 1;
                Ok(())
            }
            Outcome::Invalid { reason, .. } => {
                self.bad(reading, reading.line, judged.item, (reason.as_str(), reason.because()))
            }
        })
    }

    fn identify(&mut self, reading: &mut Reading<'_>, judged: &Judged<'_>) -> Result<(), CommandError> {
        let Outcome::Identify(identify) = &judged.outcome else { return Ok(()) };
        self.counts.identify += 1;
        let Some((feeder, _)) = &mut reading.target else {
            self.counts.contact_days.insert(DedupKey::of(identify, self.config.rules.engage).key);
            return Ok(());
        };
        let origin = Origin {
            topic: reading.topic.as_str().into(),
            partition: 0,
            offset: reading.line,
            // As if the source had received it when it happened: so a file that is read again tells nothing new.
            timestamp: identify.instant.min(self.now).as_millisecond(),
            key: None,
            item: judged.item,
            road: Some(Road::Backfill),
        };
        let headers = OwnedHeaders::new();
        let entry = Entry { email: &identify.email, event: &judged.event, headers, origin: &origin };
        feeder.send(0, reading.line, entry).map_err(CommandError::told)
    }

    fn bad(
        &mut self,
        reading: &mut Reading<'_>,
        line: i64,
        item: Option<usize>,
        (reason, because): (&str, &str),
    ) -> Result<(), CommandError> {
        self.counts.bad += 1;
        let Some((_, report)) = &mut reading.target else { return Ok(()) };
        let file = reading.source.file();
        let bad = Bad { file, line, item, reason: reason.to_owned(), because: because.to_owned() };
        report.add(&bad).map_err(|error| unwritten(report, &error))
    }

    /// The line is done, but for what is under way.
    fn passed(&mut self, reading: &mut Reading<'_>) -> Result<(), CommandError> {
        let line = reading.line;
        let Some((feeder, _)) = &mut reading.target else { return Ok(()) };
        feeder.passed(0, line).map_err(CommandError::told)?;
        if feeder.is_about_to_save() { self.save(reading) } else { Ok(()) }
    }

    /// The report before the bookmark: what is behind it is never read again.
    fn save(&mut self, reading: &mut Reading<'_>) -> Result<(), CommandError> {
        let too_large = reading.target.as_mut().map(|(feeder, _)| feeder.take_too_large()).unwrap_or_default();
        for line in too_large {
            let reason = Reason::Undeliverable(Undeliverable::TooLarge);
            self.bad(reading, line, None, (reason.as_str(), reason.because()))?;
        }
        let Some((feeder, report)) = &mut reading.target else { return Ok(()) };
        report.flush().map_err(|error| unwritten(report, &error))?;
        feeder.save().map_err(CommandError::told)
    }

    fn end(&mut self, reading: &mut Reading<'_>) -> Result<(), CommandError> {
        if let Some((feeder, _)) = &mut reading.target {
            feeder.wait().map_err(CommandError::told)?;
        }
        self.save(reading)?;
        let Some((feeder, report)) = reading.target.take() else { return Ok(()) };
        self.counts.queued += feeder.queued;
        if report.written > 0 {
            eprintln!(
                "{}: {} bad, reported in {}",
                reading.source.shown(),
                number(report.written),
                report.path.display()
            );
        }
        self.enqueue = Some(feeder.into_enqueue());
        Ok(())
    }
}

fn unwritten(report: &Report, error: &std::io::Error) -> CommandError {
    CommandError::Told(format!("{}: {error}", report.path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Sources;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BackfillArgs,
    }

    #[test]
    fn what_an_earlier_run_has_done_is_passed_over_and_the_bar_moves_meanwhile() {
        let path = std::env::temp_dir().join(format!("nat-destination-passed-{}", std::process::id()));
        let line = format!("{{\"type\":\"track\",\"x\":\"{}\"}}\n", "x".repeat(10_000));
        std::fs::write(&path, line.repeat(100)).expect("written");
        let source = Source::find(&path).expect("it is there");
        let args = Line::parse_from(["backfill", "--dry-run", path.to_str().expect("text")]).args;
        let config = Arc::new(Config::load_offline(&Sources::default()).expect("right"));
        let (judge, now) = (Arc::new(Judge::new(&config).expect("no list")), Timestamp::now());
        let mut backfill = Backfill { config, args, judge, now, counts: Counts::default(), enqueue: None };
        let (passed, stopped) = (Arc::new(AtomicU64::new(0)), Stopped::default());
        let lines = source.open(Arc::clone(&passed), &stopped).expect("opened");
        let mut reading = Reading { source: &source, topic: String::new(), line: 0, begin: 91, target: None };
        let mut told = Vec::new();
        let read = backfill.read(&mut reading, lines, &stopped, || told.push(passed.load(Ordering::Relaxed)));
        read.expect("read").expect("read");
        assert_eq!((backfill.counts.lines, backfill.counts.filtered), (10, 10));
        assert_eq!((told.len(), told.last()), (100, Some(&source.length)));
        for (lines, bytes) in (1..).zip(&told) {
            // It is read 128 KiB at a time.
            let at_least = lines * line.len() as u64;
            assert!((at_least..at_least + 200_000).contains(bytes), "{bytes} after {lines} lines");
        }
        std::fs::remove_file(path).expect("removed");
    }
}
