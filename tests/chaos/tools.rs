//! The tools that put events into the queue again, let loose among the faults: `dead-letters redrive`, `replay` and
//! `backfill`, by the real binary. Each is killed when its time is over, wherever it is. And `topics resize`: see growth.rs.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::events::SOURCE_PARTITIONS;
use crate::plan::{Fault, Kind};

pub struct Tools {
    cluster: Arc<Cluster>,
    prefix: String,
    directory: PathBuf,
    number: AtomicUsize,
    /// How each that came to its end within its time has ended.
    ended: Mutex<Vec<(Kind, Option<i32>)>>,
}

impl Tools {
    pub fn new(cluster: Arc<Cluster>, prefix: &str, directory: PathBuf) -> Tools {
        Tools { cluster, prefix: prefix.to_owned(), directory, number: AtomicUsize::new(0), ended: Mutex::default() }
    }

    pub fn ended(&self) -> Vec<(Kind, Option<i32>)> {
        self.ended.lock().expect("unpoisoned").clone()
    }

    /// Runs one for as long as the fault lasts.
    pub async fn run(self: Arc<Self>, fault: Fault) {
        let run = tokio::task::spawn_blocking(move || self.run_here(fault));
        match run.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => eprintln!("{} cannot be run: {error}", fault.kind.name()),
            Err(error) => eprintln!("{} was cut short: {error}", fault.kind.name()),
        }
    }

    fn run_here(&self, fault: Fault) -> io::Result<()> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (name, file);
        let arguments = match fault.kind {
            Kind::Redrive => ["dead-letters", "redrive"].as_slice(),
            Kind::Replay => &["replay", "--from", "1h"],
            _ => {
                file = self.file(number)?;
                name = file.to_string_lossy();
                &["backfill", &name]
            }
        };
        if let Some(code) = self.ended_within(fault.length, number, fault.kind.name(), arguments)? {
            self.ended.lock().expect("unpoisoned").push((fault.kind, code));
        }
        Ok(())
    }

    /// Blocks. The exit code of `topics resize`; none: it was killed after so long.
    pub fn resize(&self, partitions: i32, limit: Duration) -> io::Result<Option<i32>> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let arguments = ["topics", "resize", "--partitions", &partitions.to_string()];
        // A signal's end, which has no code, is a crash.
        Ok(self.ended_within(limit, number, "resize", &arguments)?.map(|code| code.unwrap_or(101)))
    }

    /// Its exit code, if it ended by itself.
    fn ended_within(
        &self,
        limit: Duration,
        number: usize,
        name: &str,
        arguments: &[&str],
    ) -> io::Result<Option<Option<i32>>> {
        let began = Instant::now();
        let log = self.directory.join(format!("tool-{number:03}-{name}.log"));
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
        let mut child = command.spawn()?;
        while began.elapsed() < limit {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status.code()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill()?;
        child.wait().map(|_| None)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nat-destination"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NAT_DESTINATION_")) {
            command.env_remove(name);
        }
        command.args(arguments);
        let key = self.directory.join("api-key");
        for setting in [
            format!("kafka.brokers={}", self.cluster.brokers),
            format!("source.topics={}-source", self.prefix),
            format!("topics.prefix={}", self.prefix),
            "nat.url=http://127.0.0.1:9/".into(),
            format!("nat.api_key_file={}", key.display()),
        ] {
            command.args(["--set", &setting]);
        }
        command
    }

    /// What a warehouse would export of the source so far. Without Engage: whoever backfills a value says that it holds now.
    fn file(&self, number: usize) -> io::Result<PathBuf> {
        let path = self.directory.join(format!("backfill-{number:03}.jsonl"));
        let records = self.cluster.read(&format!("{}-source", self.prefix), SOURCE_PARTITIONS);
        let mut file = File::create(&path)?;
        for value in records.map_err(io::Error::other)?.into_iter().filter_map(|record| record.value) {
            let is_visit = serde_json::from_slice(&value).is_ok_and(|event: Value| {
                event.get("batch").is_none() && event["context"].get("personas").is_none() && id(&event).is_some()
            });
            if is_visit && !value.contains(&b'\n') {
                file.write_all(&[&value[..], b"\n"].concat())?;
            }
        }
        Ok(path)
    }
}

/// What tells an event from all others.
pub fn id(event: &Value) -> Option<&str> {
    event["messageId"].as_str().or(event["MessageId"].as_str())
}

/// All that the tools have said.
pub fn logs(directory: &std::path::Path) -> Vec<(PathBuf, String)> {
    let paths = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_log = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tool-"));
    paths.filter(is_log).map(|path| (path.clone(), fs::read_to_string(path).unwrap_or_default())).collect()
}
