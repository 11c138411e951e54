//! The configuration: what the table's settings become once all of them are right. Everything that can be checked
//! without the network is checked here, and every problem is told at once.

pub mod resolve;
pub mod table;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tracing_subscriber::filter::{LevelFilter, Targets};

pub use resolve::{Origin, Problem, Resolved, Sources, Value};

use crate::segment::{EngageMode, Framing, Rules};

/// Everything a running service needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    pub kafka: Kafka,
    pub source: Source,
    pub topics: Topics,
    pub rules: Rules,
    pub nat: Nat,
    pub dedup_retention: Duration,
    pub suppress_file: Option<PathBuf>,
    pub deliver: Limits,
    pub ingest: Limits,
    pub concurrency: usize,
    /// Requests a second; 0: no limit.
    pub rate_limit: u32,
    pub retry: Retry,
    pub circuit: Circuit,
    pub admin_listen: SocketAddr,
    /// host:port of every instance's admin server; empty: not told.
    pub instances: Vec<String>,
    pub shutdown_timeout: Duration,
    pub watchdog_timeout: Duration,
    pub log: Log,
}

#[derive(Debug, Clone)]
pub struct Kafka {
    pub brokers: String,
    pub timeout: Duration,
    /// librdkafka's own properties.
    pub properties: BTreeMap<String, String>,
}

impl Kafka {
    /// After what silence a group puts a member out. By the new protocol the brokers say so
    /// (`group.consumer.session.timeout.ms`), not the client; the property tells this program what they say.
    pub fn session_timeout(&self) -> Duration {
        let millis = self.properties.get("session.timeout.ms").and_then(|millis| millis.parse().ok());
        Duration::from_millis(millis.unwrap_or(45_000))
    }

    /// Whether `group.protocol` is the new one (KIP-848).
    pub fn new_protocol(&self) -> bool {
        self.properties.get("group.protocol").is_some_and(|protocol| protocol == "consumer")
    }
}

#[derive(Debug, Clone)]
pub struct Source {
    /// Names, or regular expressions that begin with `^`.
    pub topics: Vec<String>,
    pub group: String,
    pub start: Start,
}

/// Where a partition begins that the group has never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
}

#[derive(Debug, Clone)]
pub struct Topics {
    pub queue: String,
    pub delivered: String,
    pub dead_letter: String,
    /// With how many partitions the queue was made.
    pub layout: String,
    /// The consumer group of the queue.
    pub deliver_group: String,
    pub create: bool,
    pub partitions: u32,
    /// 0: the broker's default.
    pub replication: u32,
    pub max_message_bytes: usize,
    /// No batch of several records that is written is larger. Not a setting: the start finds out what the topics take.
    pub batch_bytes: usize,
    pub queue_retention: Duration,
    pub dead_letter_retention: Duration,
    pub delivered_retention: Duration,
}

impl Topics {
    /// This program's own: never a source, whatever an expression matches.
    pub fn own(&self) -> [&str; 4] {
        [&self.queue, &self.delivered, &self.dead_letter, &self.layout]
    }
}

#[derive(Debug, Clone)]
pub struct Nat {
    pub url: String,
    pub key: KeySource,
    pub auth: Auth,
    pub timeout: Duration,
}

/// Where the API key comes from. `Debug` does not show it.
#[derive(Clone)]
pub enum KeySource {
    File(PathBuf),
    Value(String),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "File({})", path.display()),
            KeySource::Value(_) => write!(f, "Value(secret)"),
        }
    }
}

/// How the key is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    Basic,
    Bearer,
    Header(String),
}

/// What may be pending at once; reading pauses beyond.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_pending_events: usize,
    pub max_pending_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct Retry {
    pub initial_interval: Duration,
    pub max_interval: Duration,
    pub max_elapsed: Duration,
}

#[derive(Debug, Clone, Copy)]
pub struct Circuit {
    pub failures: u32,
    /// 0: no guard.
    pub rejections: usize,
    pub probe_interval: Duration,
    pub max_probe_interval: Duration,
}

#[derive(Debug, Clone)]
pub struct Log {
    pub format: String,
    pub level: String,
}

impl Config {
    /// Reads and checks everything that needs no network.
    ///
    /// # Errors
    /// Every problem there is, each naming its setting.
    pub fn load(sources: &Sources) -> Result<Config, Vec<Problem>> {
        let (resolved, mut problems) = resolve::resolve(sources);
        problems.extend(check_together(&resolved));
        // What a file sets that cannot be read is not known to be missing.
        if problems.iter().any(|problem| problem.setting == resolve::FILE) {
            problems.retain(|problem| !problem.missing);
        }
        if problems.is_empty() { Ok(Config::from_resolved(&resolved)) } else { Err(problems) }
    }

    /// For commands that talk to nobody: what is only not set does not matter to them.
    ///
    /// # Errors
    /// Every other problem there is.
    pub fn load_offline(sources: &Sources) -> Result<Config, Vec<Problem>> {
        let (resolved, mut problems) = resolve::resolve(sources);
        problems.extend(check_together(&resolved));
        problems.retain(|problem| !problem.missing);
        if problems.is_empty() { Ok(Config::from_resolved(&resolved)) } else { Err(problems) }
    }

    fn from_resolved(resolved: &Resolved) -> Config {
        let prefix = resolved.text("topics.prefix");
        let limits = |stage: &str| Limits {
            max_pending_events: resolved.number(&format!("{stage}.max_pending_events")) as usize,
            max_pending_bytes: resolved.number(&format!("{stage}.max_pending_bytes")) as usize,
        };
        Config {
            kafka: Kafka {
                brokers: resolved.list("kafka.brokers").join(","),
                timeout: resolved.duration("kafka.timeout"),
                properties: resolved.properties.iter().map(|(k, (v, _))| (k.clone(), v.clone())).collect(),
            },
            source: Source {
                topics: resolved.list("source.topics"),
                group: resolved.optional_text("source.group").unwrap_or_else(|| format!("{prefix}.ingest")),
                start: match resolved.text("source.start").as_str() {
                    "latest" => Start::Latest,
                    _ => Start::Earliest,
                },
            },
            topics: topics_of(resolved, &prefix),
            rules: rules_of(resolved),
            nat: nat_of(resolved),
            dedup_retention: resolved.duration("dedup.retention"),
            suppress_file: resolved.optional_text("suppress.file").map(PathBuf::from),
            deliver: limits("deliver"),
            ingest: limits("ingest"),
            concurrency: resolved.number("deliver.concurrency") as usize,
            rate_limit: resolved.number("deliver.rate_limit") as u32,
            retry: Retry {
                initial_interval: resolved.duration("retry.initial_interval"),
                max_interval: resolved.duration("retry.max_interval"),
                max_elapsed: resolved.duration("retry.max_elapsed"),
            },
            circuit: Circuit {
                failures: resolved.number("circuit.failures") as u32,
                rejections: resolved.number("circuit.rejections") as usize,
                probe_interval: resolved.duration("circuit.probe_interval"),
                max_probe_interval: resolved.duration("circuit.max_probe_interval"),
            },
            admin_listen: resolved
                .text("admin.listen")
                .parse()
                .unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 9600))),
            instances: resolved.list("status.instances"),
            shutdown_timeout: resolved.duration("shutdown.timeout"),
            watchdog_timeout: resolved.duration("watchdog.timeout"),
            log: Log { format: resolved.text("log.format"), level: resolved.text("log.level") },
        }
    }
}

fn topics_of(resolved: &Resolved, prefix: &str) -> Topics {
    Topics {
        queue: format!("{prefix}.queue"),
        delivered: format!("{prefix}.delivered"),
        dead_letter: format!("{prefix}.dead-letter"),
        layout: format!("{prefix}.layout"),
        deliver_group: format!("{prefix}.deliver"),
        create: resolved.bool("topics.create"),
        partitions: resolved.number("topics.partitions") as u32,
        replication: resolved.number("topics.replication") as u32,
        max_message_bytes: resolved.number("topics.max_message_bytes") as usize,
        batch_bytes: 64 * 1024,
        queue_retention: resolved.duration("topics.queue_retention"),
        dead_letter_retention: resolved.duration("topics.dead_letter_retention"),
        delivered_retention: resolved.duration("dedup.retention"),
    }
}

fn rules_of(resolved: &Resolved) -> Rules {
    let path = |text: String| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    Rules {
        zone: TimeZone::get(&resolved.text("dedup.zone")).unwrap_or(TimeZone::UTC),
        user_id_as_email: resolved.bool("identify.user_id_as_email"),
        timestamp_fields: resolved.list("identify.timestamp_fields"),
        honour_integrations: resolved.bool("identify.honour_integrations"),
        engage: match resolved.text("engage").as_str() {
            "daily" => EngageMode::Daily,
            "skip" => EngageMode::Skip,
            _ => EngageMode::Changes,
        },
        oldest: resolved
            .text("identify.oldest")
            .parse::<Date>()
            .ok()
            .and_then(|date| date.to_zoned_datetime(TimeZone::UTC).ok())
            .map(|zoned| zoned.timestamp())
            .unwrap_or(Timestamp::UNIX_EPOCH),
        max_ahead: resolved.duration("identify.max_ahead"),
        envelope: resolved.optional_text("source.envelope").map(path).unwrap_or_default(),
        framing: match resolved.text("source.framing").as_str() {
            "schema-registry" => Framing::SchemaRegistry,
            _ => Framing::None,
        },
    }
}

fn nat_of(resolved: &Resolved) -> Nat {
    Nat {
        url: resolved.text("nat.url"),
        key: match resolved.optional_text("nat.api_key_file") {
            Some(path) => KeySource::File(path.into()),
            None => KeySource::Value(resolved.text("nat.api_key")),
        },
        auth: match resolved.text("nat.auth").as_str() {
            "bearer" => Auth::Bearer,
            "header" => Auth::Header(resolved.text("nat.auth_header")),
            _ => Auth::Basic,
        },
        timeout: resolved.duration("nat.timeout"),
    }
}

/// What one setting alone cannot tell.
fn check_together(resolved: &Resolved) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |setting: &str, value: Option<String>, message: String| {
        let missing = value.is_none();
        problems.push(Problem { setting: setting.into(), value, message, missing });
    };
    match (resolved.values.get("nat.api_key_file"), resolved.values.get("nat.api_key")) {
        (None, None) => problem(
            "nat.api_key_file",
            None,
            "it has to be set, or nat.api_key: put the key from Nat.app's settings page into a file and name the file here".into(),
        ),
        (Some(_), Some(_)) => problem("nat.api_key", Some("(secret)".into()), "nat.api_key_file is set too; keep one of the two".into()),
        _ => {}
    }
    for (smaller, larger) in
        [("retry.initial_interval", "retry.max_interval"), ("circuit.probe_interval", "circuit.max_probe_interval")]
    {
        if let (Some((a, _)), Some((b, _))) = (resolved.values.get(smaller), resolved.values.get(larger))
            && resolved.duration(smaller) > resolved.duration(larger)
        {
            problem(smaller, Some(a.to_string()), format!("it must not be more than {larger} = {b}"));
        }
    }
    if let Some((prefix, _)) = resolved.values.get("topics.prefix") {
        let text = resolved.text("topics.prefix");
        let legal = text.len() <= 200 && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !legal {
            problem(
                "topics.prefix",
                Some(prefix.to_string()),
                "Kafka's topic names have letters, digits, '.', '_' and '-' only; at most 200 of them here".into(),
            );
        }
        for topic in resolved.list("source.topics") {
            if topic.starts_with(&format!("{text}.")) {
                problem(
                    "source.topics",
                    Some(format!("{topic:?}")),
                    "that is one of this program's own topics; name the topics that Segment events come in".into(),
                );
            }
        }
    }
    for (setting, wrong) in [
        ("log.level", level_problem(&resolved.text("log.level"))),
        ("status.instances", resolved.list("status.instances").iter().find_map(|instance| instance_problem(instance))),
    ] {
        if let (Some((value, origin)), Some(message)) = (resolved.values.get(setting), wrong) {
            problem(setting, Some(value.to_string()), format!("{message}; it was set by {origin}"));
        }
    }
    problems
}

/// What is wrong with a log level, if anything is. A lone word that is no level would be taken for a module's name, and
/// a misspelt level for one that nothing comes from.
pub fn level_problem(level: &str) -> Option<String> {
    let allowed = "it must be error, warn, info, debug or trace, or such by module";
    // Nothing at all would be taken for a level too.
    let is_level = |part: &&str| {
        let level = part.rsplit('=').next().unwrap_or_default().trim();
        !level.is_empty() && level.parse::<LevelFilter>().is_ok()
    };
    let wrong = level.split(',').find(|part| !is_level(part));
    match (level.parse::<Targets>(), wrong) {
        (Err(error), _) => Some(format!("{error}; {allowed}")),
        (Ok(_), Some(part)) => Some(format!("{part:?} is no level; {allowed}")),
        (Ok(_), None) => None,
    }
}

/// What is wrong with the place of an instance, if anything is.
pub fn instance_problem(instance: &str) -> Option<String> {
    let is_host = |host: &str| !host.is_empty() && !host.contains('/');
    let right = instance.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
    let bare = instance.split_once("://").map(|(scheme, _)| format!(", without {scheme}://")).unwrap_or_default();
    (!right)
        .then(|| format!("{instance:?} must be a host and a port{bare}, such as nat-destination:9600 or 10.0.0.7:9600"))
}

/// The table's kinds were checked on the way in; these only take the value out again. A name or kind that the table
/// does not have would be a mistake in this file, and the test below reads every setting once.
impl Resolved {
    fn optional_text(&self, name: &str) -> Option<String> {
        match self.values.get(name) {
            Some((Value::Text(text), _)) => Some(text.clone()),
            _ => None,
        }
    }
    fn text(&self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }
    fn list(&self, name: &str) -> Vec<String> {
        match self.values.get(name) {
            Some((Value::List(items), _)) => items.clone(),
            _ => Vec::new(),
        }
    }
    fn bool(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some((Value::Bool(true), _)))
    }
    fn number(&self, name: &str) -> u64 {
        match self.values.get(name) {
            Some((Value::Number(number), _)) => *number,
            _ => 0,
        }
    }
    fn duration(&self, name: &str) -> Duration {
        match self.values.get(name) {
            Some((Value::Duration(duration), _)) => *duration,
            _ => Duration::ZERO,
        }
    }
}

/// What holds and where each value came from, secrets masked: for `run --print-config`.
pub fn print(resolved: &Resolved) -> String {
    let mut text = String::new();
    for setting in table::SETTINGS {
        let line = match resolved.values.get(setting.name) {
            Some((_, origin)) if setting.secret => format!("{} = (secret)  # {origin}\n", setting.name),
            Some((value, origin)) => format!("{} = {value}  # {origin}\n", setting.name),
            None => format!("# {} is not set\n", setting.name),
        };
        text.push_str(&line);
    }
    for (property, (value, origin)) in &resolved.properties {
        let value = resolve::mask_property(property, value);
        text.push_str(&format!("{}{property} = {value}  # {origin}\n", table::PROPERTIES));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(set: &[&str]) -> Sources {
        let mut all = vec!["kafka.brokers=k:9092", "nat.url=https://nat.example/x", "nat.api_key=s3cret"];
        all.extend(set);
        Sources { set: all.into_iter().map(str::to_owned).collect(), ..Sources::default() }
    }

    fn problems(set: &[&str]) -> Vec<String> {
        match Config::load(&sources(set)) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn three_settings_are_enough() {
        let config = Config::load(&sources(&[])).map_err(|p| format!("{p:?}"));
        let config = config.expect("the three are enough");
        assert_eq!(config.source.group, "nat-destination.ingest");
        assert_eq!(config.dedup_retention, Duration::from_secs(7 * 86400));
        assert_eq!(config.rules.oldest.to_string(), "2000-01-01T00:00:00Z");
    }

    #[test]
    fn every_default_is_of_its_kind() {
        let (resolved, _) = resolve::resolve(&sources(&[]));
        for setting in table::SETTINGS.iter().filter(|setting| setting.default.is_some()) {
            assert!(resolved.values.contains_key(setting.name), "{}", setting.name);
        }
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let found = Config::load(&Sources {
            set: vec!["nat.timeout=soon".into(), "engage=never".into()],
            ..Sources::default()
        });
        let names: Vec<String> = found.expect_err("bad").into_iter().map(|p| p.setting).collect();
        for name in ["nat.timeout", "engage", "kafka.brokers", "nat.url", "nat.api_key_file"] {
            assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
        }
    }

    #[test]
    fn of_a_file_that_cannot_be_read_nothing_is_told_to_be_missing() {
        let sources = |set: &[&str]| Sources {
            file: Some("/no/such.toml".into()),
            set: set.iter().map(|set| (*set).to_owned()).collect(),
            ..Sources::default()
        };
        let names = |sources| -> Vec<String> {
            Config::load(&sources).expect_err("bad").into_iter().map(|problem| problem.setting).collect()
        };
        assert_eq!(names(sources(&[])), ["--config"]);
        assert_eq!(names(sources(&["nat.timeout=soon"])), ["--config", "nat.timeout"]);
    }

    #[test]
    fn a_misspelt_setting_is_an_error_with_the_nearest_name() {
        let found = problems(&["deliver.concurency=3"]);
        assert!(found[0].contains("did you mean deliver.concurrency?"), "{found:?}");
    }

    #[test]
    fn a_list_on_the_command_line_may_be_written_as_in_the_file() {
        let topics = |text: &str| Config::load(&sources(&[&format!("source.topics={text}")])).map(|c| c.source.topics);
        for text in ["a,b", "[\"a\", 'b']", " [ \"a\",\"b\" ]"] {
            assert_eq!(topics(text).expect("right"), ["a", "b"], "{text}");
        }
        for wrong in ["[a,b]", "[\"a\"", "[]", "[\"\"]"] {
            assert!(topics(wrong).is_err(), "{wrong}");
        }
        let told = problems(&["source.topics=[a,b]"]);
        assert!(told[0].contains("in brackets it is TOML"), "{told:?}");
    }

    #[test]
    fn the_command_line_goes_before_the_environment() {
        let mut sources = sources(&["nat.timeout=3s"]);
        sources.environment = vec![
            ("NAT_DESTINATION_NAT_TIMEOUT".into(), "2s".into()),
            ("NAT_DESTINATION_KAFKA_PROPERTIES_SASL_USERNAME".into(), "u".into()),
        ];
        let config = Config::load(&sources).expect("right");
        assert_eq!(config.nat.timeout, Duration::from_secs(3));
        assert_eq!(config.kafka.properties["sasl.username"], "u");
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let all = sources(&["kafka.properties.sasl.password=hunter2"]);
        let (resolved, _) = resolve::resolve(&all);
        let shown = print(&resolved) + &format!("{:?}", Config::load(&all).expect("right").nat);
        assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
        let shown = problems(&["nat.api_key_file=x", "kafka.properties.acks=1"]).join("\n");
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_shown() {
        for url in ["https://me:hunter2@nat.example/x", "me:hunter2@nat.example", "https://me:hun@ter2@nat.example"] {
            let found = problems(&[&format!("nat.url={url}")]).join("\n");
            assert!(found.contains("(secret)@nat.example") && !found.contains("hun"), "{found}");
        }
    }

    #[test]
    fn a_url_without_a_scheme_names_the_setting_and_what_to_do() {
        let found = problems(&["nat.url=nat.example/segment"]);
        assert!(found[0].starts_with("nat.url = \"nat.example/segment\": it must be an address"), "{found:?}");
    }

    #[test]
    fn the_example_with_the_required_settings_is_a_right_configuration() {
        let text = table::example().replace("# api_key_file", "api_key_file");
        let path = std::env::temp_dir().join(format!("nat-destination-example-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("written");
        let loaded = Config::load(&Sources { file: Some(path.clone()), ..Sources::default() });
        std::fs::remove_file(path).expect("removed");
        assert!(loaded.is_ok(), "{loaded:?}");
    }

    #[test]
    fn a_misspelt_level_or_place_is_no_other_one() {
        for level in ["loud", "info,hyper", "debgu", "x=loud", "nat_destination=", "info,", "="] {
            let found = problems(&[&format!("log.level={level}")]);
            assert!(found.len() == 1 && found[0].contains("it must be error, warn, info"), "{level}: {found:?}");
        }
        for level in ["off", "info", "WARN", "info,nat_destination::deliver=debug", "hyper=off"] {
            assert!(problems(&[&format!("log.level={level}")]).is_empty(), "{level}");
        }
        let found = problems(&["status.instances=a:9600,b"]);
        assert!(found[0].contains("\"b\" must be a host and a port"), "{found:?}");
    }
}
