//! One run: topics, instances, events and faults, healing, the end; then the evidence goes to the oracle.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::clock::{self, Micros, Window};
use crate::cluster::{Cluster, PARTITIONS, Record, behind};
use crate::events::{Generator, Mix, SOURCE_PARTITIONS};
use crate::instance::{Ended, Instances, Life, Setup};
use crate::nat::Nat;
use crate::oracle::{self, Evidence};
use crate::plan::{Fault, Growth, Kind, SLOTS};
use crate::produce::Production;
use crate::report::Report;
use crate::tools::{self, Tools};

/// How long the groups may take to catch up once all faults are off.
const HEALING: Duration = Duration::from_secs(120);
/// Records that may be behind in a trickle.
const CALM_LAG: i64 = 200;
const START: Duration = Duration::from_secs(90);
/// From a SIGTERM, without faults.
const ENDING: Duration = Duration::from_secs(25);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Classic,
    Consumer,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Classic => "classic",
            Protocol::Consumer => "consumer",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Settings {
    pub seed: u64,
    /// Of a fault phase.
    pub seconds: Duration,
    pub rate: u32,
    pub instances: usize,
    pub protocol: Protocol,
    pub faults: Vec<Fault>,
    /// A second fault phase, after the queue has grown.
    pub growth: Option<Growth>,
    pub mix: Mix,
    pub mutant: Option<String>,
    pub keep: bool,
    /// Reproduces the plan.
    pub command: String,
}

/// A fault as it came about.
#[derive(Debug, Clone)]
pub struct Happened {
    pub fault: Fault,
    pub window: Window,
}

/// What outlives a run.
pub struct World {
    pub cluster: Arc<Cluster>,
    pub nat: Arc<Nat>,
}

impl World {
    pub async fn start() -> Result<World, String> {
        let began = Instant::now();
        let passages = Arc::default();
        let cluster = Cluster::start(Arc::clone(&passages)).await.map_err(|error| error.to_string())?;
        let nat = Nat::start(passages).await.map_err(|error| error.to_string())?;
        cluster.lead_to_nat(nat.address);
        println!("three brokers after {:.0} s: {}", began.elapsed().as_secs_f64(), cluster.brokers);
        Ok(World { cluster, nat })
    }
}

/// Ends with the run.
struct Background(Vec<JoinHandle<()>>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Runs it and judges.
pub async fn run(world: &World, settings: &Settings) -> Result<Report, String> {
    let prefix = format!("c{:08x}", fastrand::u32(..));
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{prefix}"));
    let mut run = Run::begin(world, settings, &prefix, &directory).await?;
    let production = run.produce()?;
    let mut happened = run.fault_phase(&production, &settings.faults).await;
    let mut grown = None;
    if let Some(growth) = &settings.growth {
        let (came, faults) = run.grow(growth).await?;
        grown = Some(came);
        happened.extend(faults);
        happened.extend(run.fault_phase(&production, &growth.then).await);
    }
    let healing = Instant::now();
    run.calm(&production).await;
    let produced = tokio::task::spawn_blocking(move || production.end()).await.map_err(|error| error.to_string())?;
    let (produced, acknowledged) = produced?;
    let stuck = run.heal().await;
    let healed = healing.elapsed();
    let exits = run.end().await;
    let (lives, tools) = (run.instances.lives(), run.tools.ended());
    let requests = world.nat.log();
    write_requests(&directory, &requests);
    write_faults(&directory, &happened, &lives);
    let cluster = Arc::clone(&world.cluster);
    let partitions = run.partitions;
    let topics = tokio::task::spawn_blocking(move || oracle::Topics::read(&cluster, &prefix, partitions)).await;
    let topics = topics.map_err(|error| error.to_string())?.map_err(|error| format!("reading the topics: {error}"))?;
    oracle::write(&topics, &directory.join("changelog.txt")).map_err(|error| error.to_string())?;
    write_letters(&directory, &topics.letters);
    let tool_logs = tools::logs(&directory);
    let evidence =
        Evidence { produced, acknowledged, topics, requests, lives, happened, grown, tools, tool_logs, stuck, exits };
    let judgement = oracle::judge(&evidence);
    let report = Report::new(settings, &evidence, judgement, healed, &directory);
    if report.is_right() && !settings.keep {
        let _ = std::fs::remove_dir_all(&directory);
    }
    Ok(report)
}

pub struct Run<'a> {
    pub world: &'a World,
    pub settings: &'a Settings,
    pub prefix: &'a str,
    pub instances: Arc<Instances>,
    pub tools: Arc<Tools>,
    /// Of the queue.
    pub partitions: i32,
    /// Faults that are on, by number.
    on: Arc<Mutex<BTreeMap<usize, Fault>>>,
    began: Instant,
    _background: Background,
}

impl<'a> Run<'a> {
    async fn begin(
        world: &'a World,
        settings: &'a Settings,
        prefix: &'a str,
        directory: &Path,
    ) -> Result<Run<'a>, String> {
        world.cluster.create_topics(prefix).await?;
        world.nat.begin(settings.seed);
        let setup = Setup {
            prefix: prefix.to_owned(),
            directory: PathBuf::from(directory),
            consumer_protocol: settings.protocol == Protocol::Consumer,
            mutant: settings.mutant.clone(),
        };
        let instances = Instances::new(Arc::clone(&world.cluster), setup).map_err(|error| error.to_string())?;
        let supervise = tokio::spawn(Arc::clone(&instances).supervise());
        let scrape = tokio::spawn(Arc::clone(&instances).scrape());
        let background = Background(vec![supervise, scrape]);
        (0..settings.instances).for_each(|slot| instances.want(slot));
        let on = Arc::default();
        let tools = Arc::new(Tools::new(Arc::clone(&world.cluster), prefix, PathBuf::from(directory)));
        let (partitions, began) = (PARTITIONS, Instant::now());
        let run = Run { world, settings, prefix, instances, tools, partitions, on, began, _background: background };
        run.wait_until_assigned().await?;
        println!(
            "{} instances, {} protocol, {} faults in {:.0} s; logs in {}",
            settings.instances,
            settings.protocol.name(),
            settings.faults.len(),
            settings.seconds.as_secs_f64(),
            directory.display()
        );
        Ok(run)
    }

    async fn wait_until_assigned(&self) -> Result<(), String> {
        let wanted = (SOURCE_PARTITIONS as u64, PARTITIONS as u64);
        let began = Instant::now();
        loop {
            let assigned = self.instances.assigned();
            if (assigned["ingest"], assigned["deliver"]) == wanted {
                return Ok(());
            }
            if began.elapsed() > START {
                return Err(format!("after {START:?} the instances still have {assigned:?} of their partitions"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn produce(&self) -> Result<Production, String> {
        let Settings { seed, mix, rate, .. } = *self.settings;
        let generator = Generator::new(seed, mix, Timestamp::now());
        let topic = format!("{}-source", self.prefix);
        Production::start(self.world.cluster.client(), topic, rate, generator).map_err(|error| error.to_string())
    }

    // ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────

    async fn fault_phase(&self, production: &Production, faults: &[Fault]) -> Vec<Happened> {
        let began = Instant::now();
        let faults = self.begin_faults(faults);
        while began.elapsed() < self.settings.seconds {
            let left = self.settings.seconds.saturating_sub(began.elapsed());
            tokio::time::sleep(left.min(Duration::from_secs(5))).await;
            self.tell(Some(production)).await;
        }
        ended(faults).await
    }

    /// Each begins when it is its time, and tells when it has ended.
    pub fn begin_faults(&self, faults: &[Fault]) -> Vec<JoinHandle<Happened>> {
        let began = Instant::now();
        let begin = |(id, fault): (usize, &Fault)| {
            let (cluster, nat) = (Arc::clone(&self.world.cluster), Arc::clone(&self.world.nat));
            let (instances, on, fault) = (Arc::clone(&self.instances), Arc::clone(&self.on), *fault);
            let tools = Arc::clone(&self.tools);
            tokio::spawn(async move {
                tokio::time::sleep_until((began + fault.at).into()).await;
                on.lock().expect("unpoisoned").insert(id, fault);
                let from = clock::now();
                match fault.kind.is_a_tool() {
                    true => tools.run(fault).await,
                    false => carry_out(id, fault, cluster, nat, instances).await,
                }
                on.lock().expect("unpoisoned").remove(&id);
                Happened { fault, window: Window { from, to: clock::now() } }
            })
        };
        faults.iter().enumerate().map(begin).collect()
    }

    /// One line of progress.
    async fn tell(&self, production: Option<&Production>) {
        let (requests, accepted) = self.world.nat.counts();
        let produced = production.map(|production| {
            let (sent, acknowledged) = production.counts();
            format!("produced {sent} ({acknowledged} acknowledged)  ")
        });
        let lag = match self.lag().await {
            Ok((source, queue)) => format!("lag {source} + {queue}"),
            Err(_) => "lag unknown".into(),
        };
        let on: Vec<String> = self.on.lock().expect("unpoisoned").values().map(Fault::tell).collect();
        println!(
            "{:4.0} s  {}requests {requests}  accepted {accepted}  {lag}  {} running  {}",
            self.began.elapsed().as_secs_f64(),
            produced.unwrap_or_default(),
            self.instances.running(),
            if on.is_empty() { String::new() } else { format!("on: {}", on.join(", ")) }
        );
    }

    /// Records of the source and of the queue that are not committed.
    async fn lag(&self) -> Result<(i64, i64), String> {
        let (cluster, prefix, partitions) = (Arc::clone(&self.world.cluster), self.prefix.to_owned(), self.partitions);
        let ask = tokio::task::spawn_blocking(move || {
            let source =
                cluster.progress(&format!("{prefix}.ingest"), &format!("{prefix}-source"), SOURCE_PARTITIONS)?;
            let queue = cluster.progress(&format!("{prefix}.deliver"), &format!("{prefix}.queue"), partitions)?;
            Ok::<_, rdkafka::error::KafkaError>((behind(&source), behind(&queue)))
        });
        ask.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    // ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// All faults are off. Until the backlog is worked off and the contacts that always fail are given up, a trickle of
    /// good events goes on.
    async fn calm(&self, production: &Production) {
        (self.settings.instances..SLOTS).for_each(|slot| self.instances.terminate(slot));
        (0..self.settings.instances).for_each(|slot| self.instances.want(slot));
        production.calm_down();
        let mut told = Instant::now();
        let began = Instant::now();
        while began.elapsed() < HEALING {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let lag = self.lag().await;
            let quiet = !self.world.nat.failing_since(clock::now() - 4 * clock::SECOND);
            if quiet && lag.is_ok_and(|(source, queue)| source + queue < CALM_LAG) {
                return;
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                self.tell(Some(production)).await;
            }
        }
    }

    /// Now everything has to be settled. Returns what is behind if that does not come about.
    async fn heal(&self) -> Option<String> {
        let began = Instant::now();
        let mut told = Instant::now();
        loop {
            let lag = self.lag().await;
            if lag == Ok((0, 0)) && self.instances.running() == self.settings.instances {
                return None;
            }
            if began.elapsed() > HEALING {
                let assigned = self.instances.assigned();
                let running = self.instances.running();
                return Some(format!(
                    "{} s after the last fault not everything is settled: lag of source and queue {lag:?}, {running} \
                     instances run, partitions assigned {assigned:?}",
                    HEALING.as_secs()
                ));
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                self.tell(None).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// SIGTERM to all. What of that was not in order.
    async fn end(&self) -> Vec<String> {
        // What was counted when everything was settled.
        self.instances.scrape_once().await;
        (0..SLOTS).for_each(|slot| self.instances.terminate(slot));
        let began = Instant::now();
        while self.instances.running() > 0 && began.elapsed() < ENDING {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let since = clock::now() - began.elapsed().as_micros() as Micros;
        let wrong = |life: &Life| match life.ended {
            Some((at, _)) if at < since => None,
            Some((_, Ended::Told(Some(0)))) => None,
            how => {
                Some(format!("life {} did not end with 0 on SIGTERM: {how:?}, see {}", life.number, life.log.display()))
            }
        };
        self.instances.lives().iter().filter_map(wrong).collect()
    }
}

pub async fn ended(faults: Vec<JoinHandle<Happened>>) -> Vec<Happened> {
    let mut happened = Vec::new();
    for fault in faults {
        happened.extend(fault.await);
    }
    happened
}

/// From its beginning to its end.
async fn carry_out(id: usize, fault: Fault, cluster: Arc<Cluster>, nat: Arc<Nat>, instances: Arc<Instances>) {
    let wait = || tokio::time::sleep(fault.length);
    match fault.kind {
        Kind::Kill => {
            instances.kill(fault.slot);
            wait().await;
            instances.want(fault.slot);
        }
        Kind::Terminate | Kind::Remove => {
            instances.terminate(fault.slot);
            wait().await;
            instances.want(fault.slot);
        }
        Kind::StopShort | Kind::StopLong => {
            instances.stop(fault.slot);
            wait().await;
            instances.go_on(fault.slot);
        }
        Kind::Add => {
            instances.want(fault.slot);
            wait().await;
            instances.terminate(fault.slot);
        }
        kind if kind.is_of_a_broker() => {
            let (begin, end) = (Arc::clone(&cluster), cluster);
            let (broker, killed) = (fault.broker, kind == Kind::BrokerKill);
            let _ = tokio::task::spawn_blocking(move || match killed {
                true => begin.kill(broker),
                false => begin.signal(broker, "-STOP"),
            })
            .await;
            wait().await;
            let _ = tokio::task::spawn_blocking(move || match killed {
                true => end.restart(broker),
                false => end.signal(broker, "-CONT"),
            })
            .await;
        }
        kind if kind.is_of_the_road_to_kafka() || kind.is_of_the_road_to_nat() => {
            cluster.apply(id, &fault);
            wait().await;
            cluster.lift(id, &fault);
        }
        _ => {
            nat.apply(id, fault);
            wait().await;
            nat.lift(id);
        }
    }
}

/// Where each dead letter stands, and what it is of: an instance's log says where the broker put it.
fn write_letters(directory: &Path, letters: &[Record]) {
    let mut lines: Vec<_> = letters
        .iter()
        .map(|letter| {
            let (source, reason) = (letter.header("nat.source"), letter.header("nat.reason"));
            let at = (letter.partition, letter.offset);
            (at, format!("{}:{}  {}  {}\n", at.0, at.1, reason.unwrap_or_default(), source.unwrap_or_default()))
        })
        .collect();
    lines.sort();
    let _ = std::fs::write(directory.join("letters.txt"), lines.into_iter().map(|(_, line)| line).collect::<String>());
}

/// When each fault and each life began and ended, in the order of the beginnings.
fn write_faults(directory: &Path, happened: &[Happened], lives: &[Life]) {
    let told = |window: Window, what: String| {
        let to = if window.to == Micros::MAX { "…".to_owned() } else { clock::tell(window.to) };
        (window.from, format!("{}  {to}  {what}\n", clock::tell(window.from)))
    };
    let mut lines: Vec<_> = happened.iter().map(|happened| told(happened.window, happened.fault.tell())).collect();
    for life in lives {
        let window = Window { from: life.began, to: life.ended.map_or(Micros::MAX, |(at, _)| at) };
        lines.push(told(window, format!("life {} slot {} {:?}", life.number, life.slot, life.ended)));
        lines.extend(life.stops.iter().map(|stop| told(*stop, format!("life {} stopped", life.number))));
    }
    lines.sort();
    let text: String = lines.into_iter().map(|(_, line)| line).collect();
    let _ = std::fs::write(directory.join("faults.txt"), text);
}

/// One line a request, for whoever follows up a violation.
fn write_requests(directory: &Path, requests: &[crate::nat::Request]) {
    let mut text = String::new();
    for request in requests {
        let said = request.said.clone().unwrap_or_default();
        let line = serde_json::json!({
            "life": request.life, "began": clock::tell(request.began), "decided": clock::tell(request.decided),
            "status": request.status, "end": request.end.name(), "answered": request.answered.map(clock::tell),
            "key": request.key, "id": said.id, "email": said.email, "day": said.day, "engage": said.engage,
        });
        text.push_str(&format!("{line}\n"));
    }
    let _ = std::fs::write(directory.join("requests.jsonl"), text);
}
