//! Every setting, once: name, kind, default, meaning. The file, the environment, `--set`, `check`, `--print-config`
//! and the example file in deploy/ are all read off this table, so they cannot disagree.

use std::time::Duration;

/// What a setting's value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Text,
    /// One or more texts: a TOML array, or comma-separated in the environment and in `--set`.
    List,
    Bool,
    Count {
        min: u64,
        max: u64,
    },
    /// A number of bytes: `65536`, `64 KiB`, `16 MiB`.
    Bytes {
        min: u64,
        max: u64,
    },
    /// A length of time: `500ms`, `15m`, `7d`.
    Duration {
        min: Duration,
        max: Duration,
    },
    HttpUrl,
    /// An IANA time zone: `UTC`, `Europe/Zurich`.
    Zone,
    Choice(&'static [&'static str]),
    Path,
    /// An address to listen on: `127.0.0.1:9600`.
    Listen,
    /// A calendar date: `2000-01-01`.
    Date,
}

impl Kind {
    /// What is allowed, in words that finish the sentence "it must be …".
    pub fn allowed(&self) -> String {
        match self {
            Kind::Text => "a text that is not empty".into(),
            Kind::List => "a list of texts, at least one".into(),
            Kind::Bool => "true or false".into(),
            Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Bytes { min, max } => {
                format!("a number of bytes such as 65536 or \"16 MiB\", from {min} to {max}")
            }
            Kind::Duration { min, max } => format!(
                "a length of time such as \"500ms\", \"15m\" or \"7d\", from {} to {}",
                humantime::format_duration(*min),
                humantime::format_duration(*max)
            ),
            Kind::HttpUrl => "an address that begins with https:// or http://".into(),
            Kind::Zone => "an IANA time zone such as \"UTC\" or \"Europe/Zurich\"".into(),
            Kind::Choice(choices) => format!("one of {}", choices.join(", ")),
            Kind::Path => "a path".into(),
            Kind::Listen => "an IP address and a port such as \"127.0.0.1:9600\"".into(),
            Kind::Date => "a date such as \"2000-01-01\"".into(),
        }
    }
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    pub name: &'static str,
    pub kind: Kind,
    /// As it would stand in the file; `None`: there is no default.
    pub default: Option<&'static str>,
    /// What the example file shows where there is no default.
    pub example: &'static str,
    pub required: bool,
    pub secret: bool,
    pub help: &'static str,
}

const fn setting(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { name, kind, default: Some(default), example: default, required: false, secret: false, help }
}

const fn without_default(name: &'static str, kind: Kind, example: &'static str, help: &'static str) -> Setting {
    Setting { name, kind, default: None, example, required: false, secret: false, help }
}

const fn required(name: &'static str, kind: Kind, example: &'static str, help: &'static str) -> Setting {
    let mut setting = without_default(name, kind, example, help);
    setting.required = true;
    setting
}

const fn secret(mut setting: Setting) -> Setting {
    setting.secret = true;
    setting
}

const fn count(min: u64, max: u64) -> Kind {
    Kind::Count { min, max }
}
const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}
const fn millis(min: u64, max: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min), max: Duration::from_millis(max) }
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;

/// The prefix of `kafka.properties.*`, the one open-ended group: any librdkafka property.
pub const PROPERTIES: &str = "kafka.properties.";

/// librdkafka properties that this program sets itself because its promise rests on them.
pub const RESERVED_PROPERTIES: &[&str] = &[
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "topic.blacklist",
];

pub const SETTINGS: &[Setting] = &[
    required("kafka.brokers", Kind::List, r#"["localhost:9092"]"#, "Kafka's bootstrap servers, host:port."),
    setting(
        "kafka.timeout",
        millis(100, 10 * MINUTE),
        r#""10s""#,
        "How long a question to the brokers may take at the start before it is an error.",
    ),
    setting(
        "source.topics",
        Kind::List,
        r#"["segment-events"]"#,
        "The topics to read Segment events from: names, or regular expressions that begin with ^.",
    ),
    without_default(
        "source.group",
        Kind::Text,
        r#""nat-destination.ingest""#,
        "The consumer group that reads them. Without it: <topics.prefix>.ingest.",
    ),
    setting(
        "source.start",
        Kind::Choice(&["earliest", "latest"]),
        r#""earliest""#,
        "Where a partition begins that the group has never read.",
    ),
    without_default(
        "source.envelope",
        Kind::Text,
        r#""httpPayload""#,
        "Where the event stands inside of a wrapper, member names separated by dots. Without it: events come bare.",
    ),
    setting(
        "source.framing",
        Kind::Choice(&["none", "schema-registry"]),
        r#""none""#,
        "\"schema-registry\": five bytes of Confluent framing stand before the JSON.",
    ),
    setting(
        "topics.prefix",
        Kind::Text,
        r#""nat-destination""#,
        "The topics are <prefix>.queue, <prefix>.delivered, <prefix>.dead-letter and the small <prefix>.layout; the queue's group is <prefix>.deliver.",
    ),
    setting(
        "topics.create",
        Kind::Bool,
        "true",
        "Create those of these topics that are missing at the start. false: a missing one is an error.",
    ),
    setting(
        "topics.partitions",
        count(1, 10_000),
        "6",
        "Partitions of each topic that is created: the most instances that can share the work.",
    ),
    setting(
        "topics.replication",
        count(0, 10),
        "0",
        "Replicas of each topic that is created. 0: the broker's default.",
    ),
    setting(
        "topics.max_message_bytes",
        bytes(64 * KIB, GIB),
        r#""16 MiB""#,
        "The largest record that the topics created take. A larger event becomes a dead letter, too_large.",
    ),
    setting(
        "topics.queue_retention",
        millis(HOUR, 3650 * DAY),
        r#""7d""#,
        "How long a queue topic that is created keeps its records: the longest outage that costs nothing but lag.",
    ),
    setting(
        "topics.dead_letter_retention",
        millis(HOUR, 3650 * DAY),
        r#""30d""#,
        "How long a dead-letter topic that is created keeps its records.",
    ),
    required(
        "nat.url",
        Kind::HttpUrl,
        r#""https://nat.example/segment""#,
        "Where Nat.app takes Segment events. Ask Nat.app: the address is not published.",
    ),
    without_default(
        "nat.api_key_file",
        Kind::Path,
        r#""/run/secrets/nat_api_key""#,
        "A file that holds Nat.app's API key (contacts.nat.app/settings) and nothing else. Read again when it changes.",
    ),
    secret(without_default(
        "nat.api_key",
        Kind::Text,
        r#""…""#,
        "The API key itself, where a file will not do. Set one of the two.",
    )),
    setting(
        "nat.auth",
        Kind::Choice(&["basic", "bearer", "header"]),
        r#""basic""#,
        "How the key is sent: basic (as user name, as Segment does), bearer, or in the header nat.auth_header.",
    ),
    setting("nat.auth_header", Kind::Text, r#""X-API-Key""#, "The header for nat.auth = \"header\"."),
    setting(
        "nat.timeout",
        millis(50, 10 * MINUTE),
        r#""10s""#,
        "How long one request may take, from the connection to the end of the answer.",
    ),
    setting(
        "identify.honour_integrations",
        Kind::Bool,
        "true",
        "Filter events whose `integrations` switch Nat off. false where Segment's Kafka destination has judged already.",
    ),
    setting(
        "identify.user_id_as_email",
        Kind::Bool,
        "false",
        "Take userId for the email where no other place holds one.",
    ),
    setting(
        "identify.timestamp_fields",
        Kind::List,
        r#"["timestamp"]"#,
        "Where the event's time is looked for, in order: for example [\"timestamp\", \"originalTimestamp\", \"sentAt\", \"receivedAt\"].",
    ),
    setting(
        "identify.oldest",
        Kind::Date,
        r#""2000-01-01""#,
        "Events from before this day are dead letters, timestamp_out_of_range.",
    ),
    setting(
        "identify.max_ahead",
        millis(0, 3650 * DAY),
        r#""24h""#,
        "Events further ahead of the clock than this are dead letters, timestamp_out_of_range.",
    ),
    setting(
        "engage",
        Kind::Choice(&["changes", "daily", "skip"]),
        r#""changes""#,
        "Engage events: \"changes\" sends a value when it differs from the last one accepted, \"daily\" treats them as visits, \"skip\" filters them.",
    ),
    setting("dedup.zone", Kind::Zone, r#""UTC""#, "The time zone whose calendar day counts."),
    setting(
        "dedup.retention",
        millis(HOUR, 366 * DAY),
        r#""7d""#,
        "How long a delivered contact-day is remembered, counted from its delivery. At least the source topics' retention, so that a replay sends nothing twice.",
    ),
    without_default(
        "suppress.file",
        Kind::Path,
        r#""/etc/nat-destination/suppressed""#,
        "The suppression list: contacts whose events are filtered, suppressed. One a line: an email address, or a contact hash of 12 or 32 digits, as `nat-destination explain --hash --contact EMAIL` prints it. Lines that begin with # are comments. Read again when it changes; a list that becomes wrong leaves the one that was in force.",
    ),
    setting(
        "deliver.concurrency",
        count(1, 10_000),
        "64",
        "The most requests to Nat.app in flight from one instance. Below that, their number adapts to its answers: fewer after 429, 503 and timeouts.",
    ),
    setting(
        "deliver.rate_limit",
        count(0, 1_000_000),
        "0",
        "The most requests a second to Nat.app from one instance, evenly spaced. 0: no limit but Nat.app's own answers.",
    ),
    setting(
        "deliver.max_pending_events",
        count(1, 10_000_000),
        "20000",
        "Events taken from the queue and not settled; beyond, reading pauses until half of them are.",
    ),
    setting("deliver.max_pending_bytes", bytes(64 * KIB, 64 * GIB), r#""64 MiB""#, "The same in bytes of events."),
    setting(
        "ingest.max_pending_events",
        count(1, 10_000_000),
        "4000",
        "Events handed to the queue topic and not acknowledged; beyond, reading pauses until half of them are.",
    ),
    setting("ingest.max_pending_bytes", bytes(64 * KIB, 64 * GIB), r#""64 MiB""#, "The same in bytes of events."),
    setting(
        "retry.initial_interval",
        millis(1, HOUR),
        r#""500ms""#,
        "The longest wait before the second attempt; it doubles for each further one. The wait is drawn between nothing and that (full jitter).",
    ),
    setting(
        "retry.max_interval",
        millis(1, DAY),
        r#""1m""#,
        "What the doubling ends at. A longer Retry-After of Nat.app is honoured all the same.",
    ),
    setting(
        "retry.max_elapsed",
        millis(0, 7 * DAY),
        r#""15m""#,
        "How long after its first attempt an event is given up: dead letter, retries_exhausted. Time with an open circuit does not count.",
    ),
    setting(
        "circuit.failures",
        count(1, 1_000_000),
        "50",
        "Failures in a row, across at least two contacts, that open the circuit: Nat.app is unavailable.",
    ),
    setting(
        "circuit.rejections",
        count(0, 1_000_000),
        "100",
        "Rejections of more than half of the last so many events, across at least two contacts, open the circuit, rejecting: the topic must not drain into the dead letters. A contact that is rejected while others are accepted counts once. 0: never.",
    ),
    setting(
        "circuit.probe_interval",
        millis(10, HOUR),
        r#""1s""#,
        "The wait before the first probe of an open circuit; it doubles for each that fails.",
    ),
    setting("circuit.max_probe_interval", millis(10, DAY), r#""30s""#, "What that doubling ends at."),
    setting(
        "admin.listen",
        Kind::Listen,
        r#""0.0.0.0:9600""#,
        "Where /metrics, /livez, /readyz, /status and /settings are served. Port 0 takes a free one and logs it.",
    ),
    without_default(
        "status.instances",
        Kind::List,
        r#"["nat-destination:9600"]"#,
        "Where `nat-destination status` finds the instances: host:port of their admin servers; a name stands for every address that it has. Without it: admin.listen on this machine.",
    ),
    setting(
        "shutdown.timeout",
        millis(100, HOUR),
        r#""20s""#,
        "On SIGTERM: how long requests in flight may take to end before the program does.",
    ),
    setting(
        "watchdog.timeout",
        millis(100, HOUR),
        r#""90s""#,
        "A stage that has done nothing for so long hangs: /livez fails, and the program says which record it was at and ends.",
    ),
    setting(
        "log.format",
        Kind::Choice(&["auto", "human", "json"]),
        r#""auto""#,
        "\"auto\": human on a terminal, JSON otherwise.",
    ),
    setting(
        "log.level",
        Kind::Text,
        r#""info""#,
        "error, warn, info, debug or trace; or by module, such as \"info,nat_destination::deliver=debug\".",
    ),
];

/// The setting of that name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The commented example file: every setting with its default and meaning.
pub fn example() -> String {
    let mut text = String::from(
        "# Every setting of Nat destination with its default. Printed by `nat-destination check --print-example`.\n\
         # Three have to be set: kafka.brokers, nat.url, and nat.api_key_file or nat.api_key.\n\
         #\n\
         # The environment goes before this file: NAT_DESTINATION_NAT_URL for nat.url.\n\
         # The command line goes before both: --set nat.url=https://…\n",
    );
    let mut table = "";
    // Settings without a table of their own have to stand before the first table.
    let (bare, grouped): (Vec<_>, Vec<_>) = SETTINGS.iter().partition(|setting| !setting.name.contains('.'));
    for setting in bare.into_iter().chain(grouped) {
        let (group, key) = setting.name.split_once('.').unwrap_or(("", setting.name));
        if group != table {
            text.push_str(&format!("\n[{group}]\n"));
            table = group;
        }
        let off = if setting.required { "" } else { "# " };
        text.push_str(&format!("\n# {}\n", wrap(setting.help)));
        text.push_str(&format!("# It must be {}.\n", setting.kind.allowed()));
        text.push_str(&format!("{off}{key} = {}\n", setting.example));
    }
    text.push_str(
        "\n# Any librdkafka property, for both consumers, the producers and the admin client: SASL, TLS, mTLS, tuning.\n\
         # [kafka.properties]\n\
         # \"security.protocol\" = \"SASL_SSL\"\n\
         # \"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\
         # \"sasl.username\" = \"nat-destination\"\n\
         # \"sasl.password\" = \"…\"\n\
         # \"ssl.ca.location\" = \"/etc/ssl/kafka-ca.pem\"\n",
    );
    text
}

/// Help in comment lines of at most 100 columns.
fn wrap(help: &str) -> String {
    let mut lines = vec![String::new()];
    for word in help.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 98 => {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n# ")
}
