//! A real Apache Kafka for the tests.
//!
//! - [`brokers`]: the broker that all tests of a run share, each on topics and groups of its own names. It is started
//!   once, or is the one that `NAT_DESTINATION_TEST_BROKERS` names.
//! - [`Kafka::start`]: a broker or a cluster of a test's own, to be set up otherwise, killed and started again.
//! - [`tool`]: Kafka's own command line, an opinion that is not ours.
//!
//! The jars come from Maven, once, into `target/kafka-libs/`. The broker listens on free ports of 127.0.0.1 and keeps its
//! data under `target/tmp/`. Both the process and its data go away however the tests end, `kill -9` included: java is
//! the child of a small shell that holds one end of a pipe, and cleans up when the tests no longer hold the other.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, process, thread};

/// Names a running cluster to test against, in place of a broker of our own: `host:port,…`.
pub const BROKERS_VARIABLE: &str = "NAT_DESTINATION_TEST_BROKERS";

/// Main classes for [`tool`].
pub const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
pub const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/kafka");
const POM: &str = include_str!("kafka/pom.xml");
const START_TIMEOUT: Duration = Duration::from_secs(180);
const STARTED: &str = "Kafka Server started";
const ERRORS: &[&str] = &[" ERROR ", " FATAL ", "Caused by:", "Exception in thread"];
const PORT_TAKEN: &str = "Address already in use";
const JAVA_FLAGS: &[&str] = &["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];
const INSTALL: &str = "On Debian: apt-get install -y openjdk-17-jdk-headless maven. \
    Or name a running broker: NAT_DESTINATION_TEST_BROKERS=localhost:9092";

/// The bootstrap servers of the shared broker.
pub fn brokers() -> &'static str {
    static GIVEN: OnceLock<Option<String>> = OnceLock::new();
    static SHARED: OnceLock<Result<Kafka, String>> = OnceLock::new();
    let given = GIVEN.get_or_init(|| env::var(BROKERS_VARIABLE).ok().filter(|brokers| !brokers.trim().is_empty()));
    // It is never killed: to miss it soon would only take it for dead on a busy machine, and no topic could be created.
    let options = Options { properties: &[("broker.session.timeout.ms", "60000")], ..Options::default() };
    match given {
        Some(brokers) => brokers,
        // One attempt for all tests: where Kafka cannot start, each of them says so at once.
        None => match SHARED.get_or_init(|| Kafka::try_start(&options)) {
            Ok(kafka) => kafka.brokers(),
            Err(error) => panic!("no Kafka to test on: {error}"),
        },
    }
}

/// What a cluster is like.
pub struct Options {
    /// Nodes, each broker and controller at once; internal topics have as many replicas.
    pub nodes: u16,
    /// Lines for every node's server.properties; they override ours.
    pub properties: &'static [(&'static str, &'static str)],
    /// For each node, the ports of proxies that clients come through: the node listens once more for each of them, and
    /// sends a client that came by that listener to that port. None: no proxies.
    pub proxies: Vec<Vec<u16>>,
}

impl Default for Options {
    fn default() -> Options {
        Options { nodes: 1, properties: &[], proxies: Vec::new() }
    }
}

/// A cluster that runs until it is dropped.
pub struct Kafka {
    nodes: Vec<Node>,
    brokers: String,
    #[allow(dead_code, reason = "the chaos harness's alone")]
    behind_proxies: Vec<Vec<String>>,
}

#[allow(dead_code, reason = "the tests and the chaos harness each need a part of it")]
impl Kafka {
    /// Starts a cluster and waits until each node answers. Panics with the end of the log where one does not.
    pub fn start(options: Options) -> Kafka {
        Kafka::try_start(&options).unwrap_or_else(|error| panic!("Kafka did not start: {error}"))
    }

    fn try_start(options: &Options) -> Result<Kafka, String> {
        let libs = libs()?;
        // Between the choice of a port and its use another process may take it.
        let mut attempts = 3;
        loop {
            attempts -= 1;
            match Kafka::try_start_once(options, libs) {
                Err(error) if attempts > 0 && error.contains(PORT_TAKEN) => {}
                result => return result,
            }
        }
    }

    fn try_start_once(options: &Options, libs: &Path) -> Result<Kafka, String> {
        let proxies = |node: u16| options.proxies.get(usize::from(node)).map_or(0, Vec::len);
        let addresses: Vec<_> =
            (0..options.nodes).map(|node| Addresses::free(proxies(node))).collect::<Result<_, _>>()?;
        let brokers = addresses.iter().map(|node| node.broker.clone()).collect::<Vec<_>>().join(",");
        let mut nodes = Vec::new();
        for (id, own) in (1..).zip(&addresses) {
            let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kafka-{}-{}", process::id(), next()));
            let properties = server_properties(id, own, &addresses, &directory, options);
            nodes.push(Node::create(directory, own.broker.clone(), &properties, libs)?);
        }
        // All of them before the first is waited for: alone, one of three elects no controller.
        for node in &mut nodes {
            node.launch()?;
        }
        for node in &nodes {
            node.wait_until_started()?;
        }
        let behind_proxies = addresses.into_iter().map(|node| node.behind_proxies).collect();
        Ok(Kafka { nodes, brokers, behind_proxies })
    }

    /// Where each node, 1 to `nodes`, listens for what comes through its proxies.
    pub fn behind_proxies(&self) -> &[Vec<String>] {
        &self.behind_proxies
    }

    /// The process of a node that runs.
    pub fn process(&mut self, node: u16) -> Option<u32> {
        self.node(node).java
    }

    /// The bootstrap servers of all nodes, those that are down included.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// `kill -9` of a node, 1 to `nodes`; its data stay.
    pub fn kill(&mut self, node: u16) {
        self.node(node).kill().unwrap_or_else(|error| panic!("node {node} was not killed: {error}"));
    }

    /// Starts a node again on its own ports and data, after a `kill -9` if it runs, and waits until it answers.
    pub fn restart(&mut self, node: u16) {
        let node_of_that_id = self.node(node);
        let result = node_of_that_id
            .kill()
            .and_then(|()| node_of_that_id.launch())
            .and_then(|()| node_of_that_id.wait_until_started());
        result.unwrap_or_else(|error| panic!("node {node} did not start again: {error}"));
    }

    /// Ends all nodes and removes their data, as dropping does.
    pub fn stop(self) {}

    fn node(&mut self, node: u16) -> &mut Node {
        let nodes = self.nodes.len();
        let index = usize::from(node).wrapping_sub(1);
        self.nodes.get_mut(index).unwrap_or_else(|| panic!("no node {node}: they are numbered from 1 to {nodes}"))
    }
}

/// Runs one of Kafka's own tools against `brokers`: `tool(brokers(), TOPICS, &["--list"])`.
pub fn tool(brokers: &str, class: &str, args: &[&str]) -> Output {
    let libs = libs().unwrap_or_else(|error| panic!("no Kafka tools: {error}"));
    let mut command = Command::new(java());
    command.args(JAVA_FLAGS).arg("-Xmx128m").arg("-cp").arg(class_path(libs)).arg(class);
    command.args(["--bootstrap-server", brokers]).args(args).stdin(Stdio::null());
    command.output().unwrap_or_else(|error| panic!("{}: {error}. {INSTALL}", java().display()))
}

/// One node: a supervisor, and the java process it was last told to start.
struct Node {
    address: String,
    directory: PathBuf,
    supervisor: Child,
    /// Open as long as we live; its end is the supervisor's sign to clean up. `None` only while dropping.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    java: Option<u32>,
    /// Where the log of the present start begins.
    log_start: usize,
}

/// Does what it is told line by line, answers each with a line, and cleans up at the end of its input.
const SUPERVISOR: &str = r#"
    dir=$1; shift
    java=
    trap : HUP INT TERM PIPE
    while read -r command argument; do
        case $command in
            format)
                "$@" kafka.tools.StorageTool format -t "$argument" -c "$dir/server.properties" </dev/null >>"$dir/log" 2>&1
                echo "$?" ;;
            start)
                "$@" kafka.Kafka "$dir/server.properties" </dev/null >>"$dir/log" 2>&1 &
                java=$!
                echo "$java" ;;
            kill)
                kill -s KILL "$java"
                wait "$java"
                java=
                echo 0 ;;
        esac
    done
    [ -z "$java" ] || kill -s KILL "$java"
    wait
    rm -rf "$dir"
"#;

impl Node {
    /// A node with its storage formatted, not started.
    fn create(directory: PathBuf, address: String, properties: &str, libs: &Path) -> Result<Node, String> {
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISOR, "kafka-supervisor"]).arg(&directory);
        command.arg(java()).args(JAVA_FLAGS).arg("-Xmx512m").arg("-cp").arg(class_path(libs));
        command.arg(format!("-Dlog4j2.configurationFile={HERE}/log4j2.properties"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Out of reach of the terminal's Ctrl-C: that ends the tests, and their end ends Kafka.
        command.process_group(0);
        let mut supervisor = command.spawn().map_err(|error| format!("sh: {error}"))?;
        let (commands, answers) = (supervisor.stdin.take(), supervisor.stdout.take().map(BufReader::new));
        let answers = answers.ok_or("the supervisor has no output")?;
        let mut node = Node { address, directory, supervisor, commands, answers, java: None, log_start: 0 };

        let file = node.directory.join("server.properties");
        fs::write(&file, properties).map_err(|error| format!("{}: {error}", file.display()))?;
        match node.tell(&format!("format {CLUSTER_ID}"))?.as_str() {
            "0" => Ok(node),
            _ => Err(node.explain("its storage could not be formatted")),
        }
    }

    fn launch(&mut self) -> Result<(), String> {
        self.log_start = self.log().len();
        let answer = self.tell("start")?;
        self.java = Some(answer.parse().map_err(|_| format!("the supervisor answered {answer:?}"))?);
        Ok(())
    }

    fn kill(&mut self) -> Result<(), String> {
        match self.java.take() {
            Some(_) => self.tell("kill").map(drop),
            None => Ok(()),
        }
    }

    fn wait_until_started(&self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if self.log().get(self.log_start..).is_some_and(|log| log.contains(STARTED))
                && TcpStream::connect(&self.address).is_ok()
            {
                return Ok(());
            }
            if !self.java.is_some_and(is_alive) {
                return Err(self.explain("it ended while starting"));
            }
            if Instant::now() > deadline {
                return Err(self.explain(&format!("no answer within {} s", START_TIMEOUT.as_secs())));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn tell(&mut self, command: &str) -> Result<String, String> {
        let mut exchange = || {
            let commands = self.commands.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
            writeln!(commands, "{command}")?;
            let mut answer = String::new();
            self.answers.read_line(&mut answer)?;
            Ok::<_, io::Error>(answer.trim().to_owned())
        };
        exchange().map_err(|error| format!("the supervisor of {} is gone: {error}", self.address))
    }

    fn log(&self) -> String {
        fs::read(self.directory.join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    fn explain(&self, what: &str) -> String {
        let log = self.log();
        let hint = match log.as_str() {
            log if log.contains("UnsupportedClassVersionError") => format!("\nKafka needs Java 17 or later. {INSTALL}"),
            log if log.contains("not found") => format!("\n{INSTALL}"),
            _ => String::new(),
        };
        let lines: Vec<_> = log.lines().collect();
        let (before, end) = lines.split_at(lines.len().saturating_sub(20));
        // The cause comes first, a shutdown of many lines after it.
        let is_error = |line: &&&str| ERRORS.iter().any(|sign| line.contains(sign));
        let errors: String = before.iter().filter(is_error).take(10).map(|line| format!("{line}\n")).collect();
        format!("node {}: {what}. Errors and the end of its log:\n{errors}…\n{}{hint}", self.address, end.join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.commands.take());
        let _ = self.supervisor.wait();
    }
}

const CLUSTER_ID: &str = "bmF0LWRlc3RpbmF0aW9uLQ";

/// Where a node listens.
struct Addresses {
    broker: String,
    controller: String,
    behind_proxies: Vec<String>,
}

impl Addresses {
    fn free(proxies: usize) -> Result<Addresses, String> {
        let behind_proxies = (0..proxies).map(|_| free_address()).collect::<Result<_, _>>()?;
        Ok(Addresses { broker: free_address()?, controller: free_address()?, behind_proxies })
    }
}

/// A free port below those that the system hands out to clients: none of theirs can take it while a node is down.
fn free_address() -> Result<String, String> {
    const PORTS: std::ops::Range<u32> = 20_000..32_000;
    let count = PORTS.end - PORTS.start;
    for _ in 0..count {
        let port = PORTS.start + process::id().wrapping_mul(101).wrapping_add(next()) % count;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    Err(format!("no free port between {} and {}", PORTS.start, PORTS.end))
}

fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn server_properties(id: u16, own: &Addresses, all: &[Addresses], directory: &Path, options: &Options) -> String {
    let voters = (1..).zip(all).map(|(id, node): (u16, _)| format!("{id}@{}", node.controller)).collect::<Vec<_>>();
    let nodes = all.len();
    let (mut listeners, mut advertised, mut protocols) = (String::new(), String::new(), String::new());
    let ports = options.proxies.get(usize::from(id) - 1).into_iter().flatten();
    for (number, (address, port)) in own.behind_proxies.iter().zip(ports).enumerate() {
        listeners.push_str(&format!(",PROXY{number}://{address}"));
        advertised.push_str(&format!(",PROXY{number}://127.0.0.1:{port}"));
        protocols.push_str(&format!(",PROXY{number}:PLAINTEXT"));
    }
    let mut text = format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}{listeners}
advertised.listeners=PLAINTEXT://{broker}{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
# Nobody gets a topic by a misspelt name.
auto.create.topics.enable=false
default.replication.factor={nodes}
offsets.topic.replication.factor={nodes}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={nodes}
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={nodes}
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
# Groups form at once, and a member that died is missed soon where the client asks for that.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
group.consumer.min.session.timeout.ms=500
group.consumer.min.heartbeat.interval.ms=100
# So is a node.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Small: it shares the machine with the tests.
num.network.threads=2
num.io.threads=4
log.cleaner.enable=true
log.cleaner.dedupe.buffer.size=33554432
",
        voters = voters.join(","),
        broker = own.broker,
        controller = own.controller,
        data = directory.join("data").display(),
    );
    for (name, value) in options.properties {
        text.push_str(&format!("{name}={value}\n"));
    }
    text
}

/// The folder of Kafka's jars, resolved with Maven where it is not there yet.
fn libs() -> Result<&'static Path, String> {
    static LIBS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    LIBS.get_or_init(resolve).as_deref().map_err(Clone::clone)
}

fn resolve() -> Result<PathBuf, String> {
    let version =
        POM.split_once("<kafka.version>").and_then(|(_, rest)| rest.split_once('<')).map(|(version, _)| version);
    let version = version.ok_or("tests/support/kafka/pom.xml names no kafka.version")?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("CARGO_TARGET_TMPDIR has no parent")?;
    let cache = target.join("kafka-libs");
    let (libs, complete) = (cache.join(version), cache.join(format!("{version}.complete")));
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());

    fs::create_dir_all(&cache).map_err(|error| failed(&cache, error))?;
    // Two test processes may come here at once; the lock goes with the file.
    let lock = cache.join("lock");
    let lock = File::create(&lock).and_then(|file| file.lock().map(|()| file)).map_err(|error| failed(&lock, error))?;
    // The marker is the pom.xml that the jars came from, written last.
    if fs::read_to_string(&complete).is_ok_and(|pom| pom == POM) {
        return Ok(libs);
    }
    if libs.exists() {
        fs::remove_dir_all(&libs).map_err(|error| failed(&libs, error))?;
    }
    eprintln!("Fetching Apache Kafka {version} with Maven, once, into {}", libs.display());
    let output = Command::new("mvn")
        .args(["-q", "-B", "-f", &format!("{HERE}/pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("mvn: {error}. {INSTALL}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        return Err(format!("Maven could not fetch Kafka's jars ({}):\n{}\n{INSTALL}", output.status, said.trim()));
    }
    fs::write(&complete, POM).map_err(|error| failed(&complete, error))?;
    drop(lock);
    Ok(libs)
}

fn class_path(libs: &Path) -> String {
    format!("{}/*", libs.display())
}

fn java() -> PathBuf {
    match env::var_os("JAVA_HOME").filter(|home| !home.is_empty()) {
        Some(home) => Path::new(&home).join("bin/java"),
        None => PathBuf::from("java"),
    }
}

/// Whether a process runs, as far as the system tells (`/proc`); a zombie does not.
fn is_alive(pid: u32) -> bool {
    if !Path::new("/proc/self/stat").exists() {
        return true;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

// A program that borrows this file finds its tests beside it too.
#[cfg(test)]
#[path = "kafka/tests.rs"]
mod tests;
