//! Lives of the real binary. A slot is a place where an instance runs, with roads of its own to the brokers and to the
//! stand-in; each start in it is a life with a number, which its requests carry in their address.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clock::{self, MILLI, Micros, SECOND, Window};
use crate::cluster::Cluster;
use crate::nat::{API_KEY, TIMEOUT};
use crate::plan::SLOTS;

/// The instances' `retry.max_elapsed`.
pub const MAX_ELAPSED: Duration = Duration::from_secs(15);
/// How soon one that ended by itself is started again, as a service manager would.
const RESTART: Micros = 300 * MILLI;
/// `shutdown.timeout`, and how long the program may take in all after a SIGTERM.
const SHUTDOWN: Duration = Duration::from_secs(5);
const LONGEST_SHUTDOWN: Micros = 20 * SECOND;
const SCRAPE: Duration = Duration::from_millis(250);

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// `kill -9`.
    Killed,
    /// After a SIGTERM, with this exit code; none: it did not end and was killed.
    Told(Option<i32>),
    /// Nobody told it to.
    ByItself(Option<i32>),
}

/// One life of an instance, as evidence.
#[derive(Debug, Clone)]
pub struct Life {
    pub number: usize,
    pub slot: usize,
    pub began: Micros,
    pub told: Option<Micros>,
    pub ended: Option<(Micros, Ended)>,
    /// SIGSTOP to SIGCONT.
    pub stops: Vec<Window>,
    pub log: PathBuf,
    /// The last answer of `/metrics`, and when it came.
    pub scraped: Option<(Micros, String)>,
    admin: Option<SocketAddr>,
}

impl Life {
    /// Whether it ended in good order: nothing was left that it had not counted.
    pub fn ended_well(&self) -> bool {
        matches!(self.ended, Some((_, Ended::Told(Some(0)))))
    }

    pub fn end(&self) -> Micros {
        self.ended.map_or(Micros::MAX, |(at, _)| at)
    }

    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// The sum of a metric's series that hold all of these labels, when last scraped.
    pub fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.scraped.as_ref().map_or("", |(_, text)| text.as_str());
        sum(text, name, labels)
    }
}

pub fn sum(text: &str, name: &str, labels: &[&str]) -> u64 {
    let of_that_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let series = text.lines().filter(of_that_name).filter(|line| labels.iter().all(|label| line.contains(label)));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// What all lives of a run share.
pub struct Setup {
    pub prefix: String,
    pub directory: PathBuf,
    pub consumer_protocol: bool,
    pub mutant: Option<String>,
}

pub struct Instances {
    cluster: Arc<Cluster>,
    setup: Setup,
    state: Mutex<State>,
}

struct State {
    slots: [Slot; SLOTS],
    lives: Vec<Life>,
}

#[derive(Default)]
struct Slot {
    child: Option<Child>,
    life: usize,
    /// Whether an instance is to run here.
    wanted: bool,
    start_at: Micros,
    killed: bool,
}

impl Instances {
    pub fn new(cluster: Arc<Cluster>, setup: Setup) -> io::Result<Arc<Instances>> {
        fs::create_dir_all(&setup.directory)?;
        fs::write(setup.directory.join("api-key"), format!("{API_KEY}\n"))?;
        let state = Mutex::new(State { slots: Default::default(), lives: Vec::new() });
        Ok(Arc::new(Instances { cluster, setup, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("unpoisoned")
    }

    pub fn lives(&self) -> Vec<Life> {
        self.state().lives.clone()
    }

    pub fn running(&self) -> usize {
        self.state().slots.iter().filter(|slot| slot.child.is_some()).count()
    }

    /// Starts what is wanted and notes what has ended, until the end of the harness.
    pub async fn supervise(self: Arc<Self>) {
        loop {
            let failed = (0..SLOTS).find_map(|slot| self.look_at(slot).err());
            if let Some(error) = failed {
                eprintln!("an instance cannot be started: {error}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn look_at(&self, number: usize) -> io::Result<()> {
        let (mut state, now) = (self.state(), clock::now());
        let State { slots, lives } = &mut *state;
        let slot = &mut slots[number];
        if let Some(child) = &mut slot.child {
            let life = &mut lives[slot.life];
            if let Some(status) = child.try_wait()? {
                life.ended = Some((now, how(status, slot.killed, life.told.is_some())));
                slot.child = None;
                slot.start_at = now + RESTART;
            } else if life.told.is_some_and(|told| now - told > LONGEST_SHUTDOWN) {
                child.kill()?;
            }
        } else if slot.wanted && now >= slot.start_at {
            let life = self.start(number, lives.len())?;
            *slot = Slot { child: Some(life.0), life: lives.len(), wanted: true, start_at: 0, killed: false };
            lives.push(life.1);
        }
        Ok(())
    }

    fn start(&self, slot: usize, number: usize) -> io::Result<(Child, Life)> {
        let log = self.setup.directory.join(format!("life-{number:03}-slot-{slot}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_nat-destination"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NAT_DESTINATION_")) {
            command.env_remove(name);
        }
        if let Some(mutant) = &self.setup.mutant {
            command.env("NAT_DESTINATION_MUTANT", mutant);
        }
        command.arg("run");
        for setting in self.settings(slot, number) {
            command.args(["--set", &setting]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?).spawn()?;
        let began = clock::now();
        let life =
            Life { number, slot, began, told: None, ended: None, stops: Vec::new(), log, scraped: None, admin: None };
        Ok((child, life))
    }

    fn settings(&self, slot: usize, life: usize) -> Vec<String> {
        let Setup { prefix, directory, consumer_protocol, .. } = &self.setup;
        let nat = self.cluster.roads[slot].to_nat.port;
        let mut settings = vec![
            format!("kafka.brokers={}", self.cluster.brokers_of(slot)),
            format!("source.topics={prefix}-source"),
            format!("topics.prefix={prefix}"),
            format!("nat.url=http://127.0.0.1:{nat}/segment/{life}"),
            format!("nat.api_key_file={}", directory.join("api-key").display()),
            format!("nat.timeout={}s", TIMEOUT.as_secs()),
            format!("retry.max_elapsed={}s", MAX_ELAPSED.as_secs()),
            format!("shutdown.timeout={}s", SHUTDOWN.as_secs()),
        ];
        let fixed = [
            "deliver.concurrency=32",
            "retry.initial_interval=50ms",
            "retry.max_interval=1s",
            "circuit.failures=20",
            "circuit.rejections=40",
            "circuit.probe_interval=100ms",
            "circuit.max_probe_interval=1s",
            "kafka.properties.reconnect.backoff.max.ms=1000",
            "admin.listen=127.0.0.1:0",
            "log.format=json",
            "log.level=info,nat_destination=debug",
        ];
        let group: &[&str] = match consumer_protocol {
            true => &["kafka.properties.group.protocol=consumer", "kafka.properties.session.timeout.ms=4000"],
            false => &["kafka.properties.session.timeout.ms=4000", "kafka.properties.heartbeat.interval.ms=500"],
        };
        settings.extend(fixed.iter().chain(group).map(|setting| (*setting).to_owned()));
        settings
    }

    // ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn want(&self, slot: usize) {
        self.state().slots[slot].wanted = true;
    }

    /// `kill -9`; it is not started again before it is wanted.
    pub fn kill(&self, slot: usize) {
        let mut state = self.state();
        let slot = &mut state.slots[slot];
        slot.wanted = false;
        if let Some(child) = &mut slot.child {
            slot.killed = true;
            let _ = child.kill();
        }
    }

    /// SIGTERM; it is not started again before it is wanted.
    pub fn terminate(&self, slot: usize) {
        let mut state = self.state();
        state.slots[slot].wanted = false;
        let life = state.slots[slot].life;
        if let Some(process) = process(&state, slot) {
            state.lives[life].told.get_or_insert(clock::now());
            signal(process, "-TERM");
        }
    }

    pub fn stop(&self, slot: usize) {
        let mut state = self.state();
        let life = state.slots[slot].life;
        if let Some(process) = process(&state, slot) {
            state.lives[life].stops.push(Window { from: clock::now(), to: Micros::MAX });
            signal(process, "-STOP");
        }
    }

    pub fn go_on(&self, slot: usize) {
        let mut state = self.state();
        let life = state.slots[slot].life;
        if let Some(process) = process(&state, slot)
            && let Some(stop) = state.lives[life].stops.last_mut()
        {
            // Before the signal: what it sends from then on is later than this.
            stop.to = clock::now();
            signal(process, "-CONT");
        }
    }

    // ── metrics ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Asks every life for its metrics, again and again.
    pub async fn scrape(self: Arc<Self>) {
        loop {
            self.scrape_once().await;
            tokio::time::sleep(SCRAPE).await;
        }
    }

    pub async fn scrape_once(&self) {
        let alive: Vec<Life> = self.lives().into_iter().filter(|life| life.ended.is_none()).collect();
        for life in alive {
            let Some(admin) = life.admin.or_else(|| admin_address(&life.log_text())) else { continue };
            let answer = tokio::time::timeout(Duration::from_millis(500), get(admin, "/metrics")).await;
            let (mut state, now) = (self.state(), clock::now());
            let life = &mut state.lives[life.number];
            life.admin = Some(admin);
            if let Ok(Ok(text)) = answer
                && life.ended.is_none()
            {
                life.scraped = Some((now, text));
            }
        }
    }

    /// Partitions that the running lives say they have, by stage.
    pub fn assigned(&self) -> HashMap<&'static str, u64> {
        let alive: Vec<Life> = self.lives().into_iter().filter(|life| life.ended.is_none()).collect();
        let of = |stage: &str| {
            let label = format!("stage=\"{stage}\"");
            alive.iter().map(|life| life.metric("nat_destination_assigned_partitions", &[&label])).sum()
        };
        HashMap::from([("ingest", of("ingest")), ("deliver", of("deliver"))])
    }
}

impl Drop for Instances {
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.lock() {
            for child in state.slots.iter_mut().filter_map(|slot| slot.child.as_mut()) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn process(state: &State, slot: usize) -> Option<u32> {
    state.slots[slot].child.as_ref().map(Child::id)
}

fn signal(process: u32, signal: &str) {
    let _ = Command::new("kill").args([signal, &process.to_string()]).status();
}

fn how(status: ExitStatus, killed: bool, told: bool) -> Ended {
    match (killed, told) {
        (true, _) => Ended::Killed,
        (false, true) => Ended::Told(status.code()),
        (false, false) => Ended::ByItself(status.code()),
    }
}

fn admin_address(log: &str) -> Option<SocketAddr> {
    log.lines().take(50).find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["message"].as_str()?.starts_with("admin server").then(|| line["address"].as_str()?.parse().ok())?
    })
}

async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.filter(|_| answer.starts_with("HTTP/1.1 200")).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
