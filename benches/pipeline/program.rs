//! The program itself: the release binary, watched through /metrics.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::{self, Sample};

const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at the metrics.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The same while it is measured: each costs the program a tenth of a millisecond.
const LOOK_SELDOM: Duration = Duration::from_millis(20);

/// The service, as a process.
pub struct Program {
    process: Child,
    port: u16,
    started: Instant,
}

impl Program {
    pub fn start(settings: &[String]) -> Result<Program, String> {
        // Taken and given back: another process could get it in between, which the start would tell.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| error.to_string())?.port();
        let mut command = binary();
        command.arg("run").args(["--set", &format!("admin.listen=127.0.0.1:{port}"), "--set", "log.level=warn"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let started = Instant::now();
        let process = command.stdin(Stdio::null()).spawn().map_err(|error| error.to_string())?;
        Ok(Program { process, port, started })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    fn metrics(&self) -> Option<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        connection.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The sum over all series of these metrics, each with the labels that are asked for.
    fn sum(&self, wanted: &[(&str, &str)]) -> f64 {
        let text = self.metrics().unwrap_or_default();
        let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        let is_wanted = |line: &str| {
            wanted.iter().any(|(name, label)| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
            })
        };
        text.lines().filter(|line| is_wanted(line)).filter_map(value).sum()
    }

    /// Waits until that sum is as large. What it says before it listens is nothing.
    pub fn wait_for(&mut self, wanted: &[(&str, &str)], at_least: f64) -> Result<(), String> {
        self.look_for(wanted, at_least, LOOK_EVERY)
    }

    fn look_for(&mut self, wanted: &[(&str, &str)], at_least: f64, every: Duration) -> Result<(), String> {
        let began = Instant::now();
        while self.sum(wanted) < at_least {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("the program ended: {status}"));
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("after {PATIENCE:?} {wanted:?} is {}, not {at_least}", self.sum(wanted)));
            }
            std::thread::sleep(every);
        }
        Ok(())
    }

    /// SIGTERM: it leaves its groups, so that nobody waits for it.
    pub fn stop(mut self) -> Result<(), String> {
        let pid = self.pid().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().map_err(|error| error.to_string())?;
        let ended = self.process.wait().map_err(|error| error.to_string())?;
        if told.success() && ended.success() { Ok(()) } else { Err(format!("it did not end in order: {ended}")) }
    }

    /// From the first event counted by `first` until `done` says all of them.
    pub fn sample(&mut self, first: &[(&str, &str)], done: &[(&str, &str)], events: u64) -> Result<Sample, String> {
        self.wait_for(first, 1.0)?;
        let (began, cpu) = (Instant::now(), child::cpu(self.pid()));
        self.look_for(done, events as f64, LOOK_SELDOM)?;
        let (wall, cpu) = (began.elapsed(), child::cpu(self.pid()) - cpu);
        Ok(Sample { events, wall, cpu, peak: child::memory(self.pid(), "VmHWM") })
    }
}

/// Without the settings of the shell that it is run from, as the tests do it.
fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat-destination"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NAT_DESTINATION_")) {
        command.env_remove(name);
    }
    command
}

/// A command that ends by itself, from its start to its end.
pub fn command(words: &[&str], settings: &[String], events: u64) -> Result<Sample, String> {
    let mut command = binary();
    command.args(words).args(settings.iter().flat_map(|setting| ["--set", setting]));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let began = Instant::now();
    let mut process = command.spawn().map_err(|error| error.to_string())?;
    let mut sample = Sample { events, wall: Duration::ZERO, cpu: Duration::ZERO, peak: 0 };
    loop {
        // Looked at before: of a process that has ended there is no memory to read.
        let (cpu, peak) = (child::cpu(process.id()), child::memory(process.id(), "VmHWM"));
        sample.cpu = sample.cpu.max(cpu);
        sample.peak = sample.peak.max(peak);
        sample.wall = began.elapsed();
        match process.try_wait().map_err(|error| error.to_string())? {
            None => std::thread::sleep(LOOK_EVERY),
            Some(status) if status.success() => return Ok(sample),
            Some(status) => {
                let mut said = String::new();
                process.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
                return Err(format!("{words:?}: {status}: {said}"));
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
