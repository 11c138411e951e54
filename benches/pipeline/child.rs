//! Processes that are measured from outside. One says `first` when its work begins and `done` when it is through, and ends
//! when its input does; time, CPU and memory are read here, from /proc, for all of them alike.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{bare, stand_in};

/// The first argument of a process that is one of these.
pub const WORD: &str = "child";

/// What the work of a process came to.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub events: u64,
    pub wall: Duration,
    pub cpu: Duration,
    /// The most memory that was resident, bytes.
    pub peak: u64,
}

impl Sample {
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.wall.as_secs_f64()
    }

    /// Microseconds of CPU an event.
    pub fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }
}

/// Runs as the child that the arguments name.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["stand-in", latency] => stand_in::run(Duration::from_millis(number(latency)?)),
        ["consume", brokers, topic, events] => bare::consume(brokers, topic, number(events)?),
        ["copy", brokers, from, to, events] => bare::copy(brokers, from, to, number(events)?),
        ["label", brokers, from, to, events, every] => bare::label(brokers, from, to, number(events)?, number(every)?),
        ["pipe", brokers, from, to, url, in_flight, events] => {
            bare::pipe(brokers, from, to, url, number(in_flight)? as usize, number(events)?)
        }
        _ => Err(format!("no such child: {words:?}")),
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|error| format!("{word:?}: {error}"))
}

/// Tells the parent, at once.
pub fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

/// Says that the work is done, and ends when the parent has looked.
pub fn done(events: u64) -> Result<(), String> {
    say(&format!("done {events}"));
    std::io::stdin().read_to_end(&mut Vec::new()).map(drop).map_err(|error| error.to_string())
}

/// A child that runs; killed when dropped.
pub struct Child {
    process: Process,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    pub fn start(arguments: &[&str]) -> Result<Child, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut process = Command::new(program)
            .arg(WORD)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let output = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Child { input: process.stdin.take(), process, output })
    }

    /// The next line that it says, which must begin with this word; the rest of it.
    pub fn hear(&mut self, word: &str) -> Result<String, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| error.to_string())?;
        let rest = line.trim().strip_prefix(word).map(|rest| rest.trim().to_owned());
        rest.ok_or_else(|| format!("the child said {line:?}, not {word:?}"))
    }

    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        let input = self.input.as_mut().ok_or("no input")?;
        writeln!(input, "{line}").map_err(|error| error.to_string())
    }

    /// From its `first` to its `done`.
    pub fn sample(mut self) -> Result<Sample, String> {
        self.hear("first")?;
        let pid = self.process.id();
        let (began, cpu) = (Instant::now(), cpu(pid));
        let events = number(&self.hear("done")?)?;
        Ok(Sample { events, wall: began.elapsed(), cpu: crate::child::cpu(pid) - cpu, peak: memory(pid, "VmHWM") })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// User and system time of a process so far; Linux counts it in hundredths of a second.
pub fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Of `/proc/PID/status`, bytes: `VmRSS`, `VmHWM`.
pub fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
