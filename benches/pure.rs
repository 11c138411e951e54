//! The pure parts by themselves: what an event costs on its way, without Kafka and Nat.app.
//!
//!     cargo bench --bench pure                 # all of it
//!     cargo bench --bench pure -- read/engage  # only these
//!     cargo bench --bench pure -- --test       # everything once: whether it works, not how fast

use std::cell::LazyCell;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BatchSize, Bencher, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use fastrand::Rng;
use jiff::Timestamp;
use nat_destination::dedup::{DedupKey, Delivered, DeliveredSet, Key, Kind, Place};
use nat_destination::nat;
use nat_destination::segment::{self, EngageMode, Identify, Outcome, Reading, Rules};
use nat_destination::stage::Ledger;

/// As analytics.js sends it: `type` before everything large.
const TRACK: &str = r#"{"timestamp":"2026-11-23T16:18:23.769Z","integrations":{"Segment.io":true},"type":"track","event":"Report Opened","userId":"u-4711","properties":{"plan":"pro","seats":12},"context":{"page":{"path":"/pricing","referrer":"https://search.example/","search":"?utm_source=mail","title":"Pricing","url":"https://app.acme.example/pricing?utm_source=mail"},"userAgent":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0","locale":"en-GB","ip":"203.0.113.7","library":{"name":"analytics.js","version":"npm:next-1.84.3"},"timezone":"Europe/Berlin"},"messageId":"ajs-next-1","anonymousId":"0f2c7a52-0f1f-4c9c-9d5e-0d7b1b0a6f11"}"#;
/// As Segment's servers pass it on: the members in the order of the alphabet, `type` behind the context.
const TRACK_SORTED: &str = r#"{"anonymousId":"0f2c7a52-0f1f-4c9c-9d5e-0d7b1b0a6f11","context":{"device":{"id":"d-1","manufacturer":"Google","model":"Pixel 8","type":"android"},"ip":"203.0.113.7","library":{"name":"analytics-kotlin","version":"1.16.3"},"locale":"en-GB","os":{"name":"Android","version":"17.1"},"screen":{"density":2.625,"height":2274,"width":1080},"timezone":"Europe/Berlin"},"event":"Report Opened","integrations":{},"messageId":"m-1","originalTimestamp":"2026-11-23T16:18:23.769Z","properties":{"plan":"pro","seats":12},"receivedAt":"2026-11-23T16:18:24.402Z","sentAt":"2026-11-23T16:18:24.189Z","timestamp":"2026-11-23T16:18:23.769Z","type":"track","userId":"u-4711"}"#;
const RECOMMENDED: &str = r#"{"type":"identify","timestamp":"2026-11-23T16:18:23.769Z","traits":{"email":"Ada@Example.com"},"page":{"url":"https://app.acme.example/pricing"}}"#;
/// No page, no context: every place for a url is looked at in vain.
const TRAITS: &str = r#"{"timestamp":"2026-11-23T16:18:23.769Z","integrations":{},"type":"identify","userId":"u-4711","traits":{"email":"ada@example.com","name":"Ada Lovelace","plan":"pro"},"messageId":"node-next-1"}"#;
const ENGAGE: &str = r#"{"channel":"server","context":{"personas":{"computation_class":"audience","computation_id":"aud_1","computation_key":"vip","namespace":"spa_1","space_id":"spa_1"}},"messageId":"personas_1","timestamp":"2026-11-23T16:18:23.769Z","traits":{"email":"ada@example.com","vip":true},"type":"identify","userId":"u-4711","originalTimestamp":"2026-11-23T16:18:23.769Z","projectId":"mAxcVYy9QhNk","integrations":{"All":false,"Nat":true}}"#;

const SIZES: [(&str, usize); 3] = [("700B", 700), ("4KB", 4 << 10), ("64KB", 64 << 10)];

fn now() -> Timestamp {
    Timestamp::constant(1_795_521_600, 0) // 2026-11-24T12:00:00Z
}

/// Words, the same in every run.
fn words(size: usize) -> String {
    let mut rng = Rng::with_seed(1);
    (0..size).map(|_| if rng.u32(..6) == 0 { ' ' } else { rng.lowercase() }).collect()
}

/// The event with a long text behind everything else, so that it has so many bytes.
fn padded(event: &str, size: usize) -> String {
    let members = event.strip_suffix('}').expect("an object");
    let missing = size.saturating_sub(members.len() + r#","attachment":""}"#.len());
    format!(r#"{members},"attachment":"{}"}}"#, words(missing))
}

/// As padding this is the other extreme: not one text but as many traits as fit.
fn wide_traits(size: usize) -> String {
    let mut event = r#"{"type":"identify","timestamp":"2026-11-23T16:18:23.769Z","traits":{"#.to_owned();
    let end = r#""email":"ada@example.com"}}"#;
    for number in 0.. {
        let member = format!(r#""trait_{number}":"value {number}","count_{number}":{number}.5,"#);
        if event.len() + member.len() + end.len() > size {
            break;
        }
        event.push_str(&member);
    }
    event + end
}

/// Ten of them; `shared` is what the batch says for all of its items.
fn batch(shared: &str, item: &str) -> String {
    let mut batch = format!("{{{shared}\"batch\":[{item}");
    (1..10).for_each(|_| write!(batch, ",{item}").expect("memory"));
    batch + r#"],"sentAt":"2026-11-23T16:18:24.189Z","writeKey":"k3yThatIsNoSecret"}"#
}

fn identify(event: &str) -> Identify<'_> {
    match segment::classify(&Rules::default(), event.as_bytes(), now()) {
        Outcome::Identify(identify) => identify,
        other => panic!("{event} is {other:?}"),
    }
}

fn dismiss(c: &mut Criterion) {
    let mut group = c.benchmark_group("dismiss");
    let track = padded(TRACK, 1 << 10);
    let text = format!(r#"{{"address":"{}","#, words((1 << 10) - TRACK_SORTED.len()));
    for (name, value, dismissed) in [
        ("track", &track, true),
        ("track_type_last", &TRACK_SORTED.replacen('{', &text, 1), true),
        ("identify", &padded(RECOMMENDED, 1 << 10), false),
    ] {
        assert_eq!(segment::dismiss(value.as_bytes()), dismissed, "{value}");
        group.throughput(Throughput::Bytes(value.len() as u64));
        group.bench_function(name, |b| b.iter(|| segment::dismiss(black_box(value.as_bytes()))));
    }
}

/// What ingest asks of a record: what it is, and what each item of it is if it is a batch. How many identify calls.
fn identify_calls(rules: &Rules, value: &[u8], now: Timestamp) -> usize {
    let count = |outcome: Outcome| usize::from(matches!(black_box(outcome), Outcome::Identify(_)));
    match segment::read(rules, Some(value), now) {
        Reading::One { outcome, .. } => count(outcome),
        Reading::Batch(items) => items.iter().map(|item| count(segment::classify(rules, item, now))).sum(),
    }
}

/// The whole of it, with the dismissal that fails. A batch has ten items of the size.
fn read(c: &mut Criterion) {
    let (rules, now) = (Rules::default(), now());
    let mut group = c.benchmark_group("read");
    for (size_name, size) in SIZES {
        let item = padded(RECOMMENDED, size);
        let shared = r#""context":{"ip":"203.0.113.7","locale":"en-GB"},"integrations":{"All":true},"#;
        for (name, value, calls) in [
            ("recommended", item.clone(), 1),
            ("traits", padded(TRAITS, size), 1),
            ("engage", padded(ENGAGE, size), 1),
            ("wide_traits", wide_traits(size), 1),
            ("batch_of_10", batch("", &item), 10),
            ("batch_of_10_sharing", batch(shared, &item), 10),
        ] {
            assert_eq!(identify_calls(&rules, value.as_bytes(), now), calls, "{name}");
            group.throughput(Throughput::Bytes(value.len() as u64));
            group.bench_function(BenchmarkId::new(name, size_name), |b| {
                b.iter(|| identify_calls(&rules, black_box(value.as_bytes()), now));
            });
        }
    }
}

fn email(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalise_email");
    for (name, text) in [
        ("plain", "ada.lovelace@example.com"),
        ("upper_case_and_spaces", " Ada.Lovelace@EXAMPLE.com "),
        ("unicode_domain", "ada.lovelace@exämple.com"),
    ] {
        assert!(segment::normalise_email(text).is_ok(), "{text}");
        group.bench_function(name, |b| b.iter(|| segment::normalise_email(black_box(text))));
    }
}

/// The parser is the segment's own affair, so this is the smallest event around each spelling: what differs is it.
fn timestamp(c: &mut Criterion) {
    let (rules, now) = (Rules::default(), now());
    let mut group = c.benchmark_group("timestamp");
    for (name, token) in [
        ("date", r#""2026-11-23""#),
        ("utc", r#""2026-11-23T16:18:23.769Z""#),
        ("offset_and_nanoseconds", r#""2026-11-23T17:18:23.769000123+01:00""#),
        ("epoch_number", "1795450703769"),
        ("epoch_text", r#""1795450703769""#),
    ] {
        let event = format!(r#"{{"type":"identify","email":"ada@example.com","timestamp":{token}}}"#);
        identify(&event);
        group.bench_function(name, |b| b.iter(|| segment::classify(&rules, black_box(event.as_bytes()), now)));
    }
}

fn request(c: &mut Criterion) {
    let rich = wide_traits(4 << 10).replacen('{', r#"{"context":{"personas":{"computation_key":"trait_1"}},"#, 1);
    for (name, event) in [("recommended", RECOMMENDED), ("engage", ENGAGE), ("engage_wide_traits", &rich)] {
        let identify = identify(event);
        let key = |identify| DedupKey::of(identify, EngageMode::Changes);
        c.benchmark_group("dedup_key").bench_function(name, |b| b.iter(|| key(black_box(&identify))));
        let mut group = c.benchmark_group("body");
        group.throughput(Throughput::Bytes(nat::body(&identify).len() as u64));
        group.bench_function(name, |b| b.iter(|| nat::body(black_box(&identify))));
    }
    let mut group = c.benchmark_group("idempotency_key");
    for (name, size) in SIZES {
        let event = padded(RECOMMENDED, size);
        let key = DedupKey::of(&identify(&event), EngageMode::Changes);
        group.throughput(Throughput::Bytes(event.len() as u64));
        group.bench_function(name, |b| b.iter(|| nat::idempotency_key(&key, black_box(event.as_bytes()))));
    }
}

const DAY: Duration = Duration::from_secs(86_400);
/// The default retention, and how many days of acceptance it lets lie side by side.
const RETENTION: Duration = Duration::from_secs(7 * 86_400);
const DAYS: usize = 8;
/// How many keys are asked for in turn: where they lie in the set is more than a core's own caches hold.
const PROBES: usize = 1 << 18;

/// The first question about a filled set takes seconds, so criterion's test mode, which is `--test` or a call by
/// `cargo test`, gets 100 k entries in place of 10 M.
fn set_sizes() -> [(&'static str, usize); 2] {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let is_test = has("--test") || !has("--bench");
    [("1M", 1_000_000), ("10M", if is_test { 100_000 } else { 10_000_000 })]
}

/// So many visits, accepted evenly over the days; others for another seed.
fn visits(seed: u64, size: usize) -> impl Iterator<Item = Delivered> {
    let mut rng = Rng::with_seed(seed);
    (0..size).map(move |number| Delivered {
        key: DedupKey { key: Key(rng.u128(..).to_le_bytes()), kind: Kind::Visit },
        at: (number * DAYS / size) as i64 * DAY.as_millis() as i64,
        queue_offset: number as i64,
        place: Place::default(),
    })
}

fn fill(size: usize) -> DeliveredSet {
    let mut set = DeliveredSet::new(RETENTION);
    visits(1, size).for_each(|visit| set.insert(&visit));
    set
}

/// A set and keys to ask it for.
struct Filled {
    set: DeliveredSet,
    /// Of the last day: what most duplicates are.
    last_day: Vec<DedupKey>,
    /// Of all days: what a replay is.
    any_day: Vec<DedupKey>,
    unknown: Vec<DedupKey>,
}

impl Filled {
    fn new(size: usize) -> Filled {
        let some = |visits: &mut dyn Iterator<Item = Delivered>, count: usize| {
            let mut keys: Vec<_> = visits.step_by((count / PROBES).max(1)).map(|visit| visit.key).collect();
            Rng::with_seed(3).shuffle(&mut keys);
            keys
        };
        let filled = Filled {
            set: fill(size),
            last_day: some(&mut visits(1, size).skip(size - size / DAYS), size / DAYS),
            any_day: some(&mut visits(1, size), size),
            unknown: some(&mut visits(2, size).take(PROBES), PROBES),
        };
        assert!(filled.last_day.iter().chain(&filled.any_day).all(|key| filled.holds(key)));
        assert!(!filled.unknown.iter().any(|key| filled.holds(key)));
        filled
    }

    fn holds(&self, key: &DedupKey) -> bool {
        self.set.contains(key, Place::default(), 0)
    }

    fn ask(&self, b: &mut Bencher, keys: &[DedupKey]) {
        let mut keys = keys.iter().cycle();
        b.iter(|| keys.next().map(|key| self.holds(key)));
    }
}

/// A set from empty to full, as at a restart: what an insert costs, its share of the growing included (and the
/// nanosecond that it takes to draw a key).
fn set_insert(c: &mut Criterion) {
    let mut group = c.benchmark_group("delivered_set");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    for (name, size) in set_sizes() {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("insert", name), |b| {
            b.iter_batched(|| (), |()| fill(size), BatchSize::PerIteration);
        });
    }
}

fn set_contains(c: &mut Criterion) {
    let mut group = c.benchmark_group("delivered_set");
    group.throughput(Throughput::Elements(1));
    for (name, size) in set_sizes() {
        // Made when the first benchmark that is not filtered out asks for it.
        let filled = LazyCell::new(|| Filled::new(size));
        group.bench_function(BenchmarkId::new("hit_last_day", name), |b| filled.ask(b, &filled.last_day));
        group.bench_function(BenchmarkId::new("hit_any_day", name), |b| filled.ask(b, &filled.any_day));
        group.bench_function(BenchmarkId::new("miss", name), |b| filled.ask(b, &filled.unknown));
    }
}

/// All offsets are open before the first is completed, as when Nat.app is slow.
fn ledger(c: &mut Criterion) {
    const OFFSETS: i64 = 10_000;
    let in_order: Vec<i64> = (0..OFFSETS).collect();
    let mut shuffled = in_order.clone();
    Rng::with_seed(1).shuffle(&mut shuffled);
    let mut group = c.benchmark_group("ledger");
    group.throughput(Throughput::Elements(OFFSETS as u64));
    for (name, order) in [("in_order", in_order), ("shuffled", shuffled)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut ledger = Ledger::new(0, 0);
                (0..OFFSETS).for_each(|offset| ledger.charge(offset, 1, 0));
                order.iter().for_each(|offset| ledger.complete(*offset));
                assert_eq!(ledger.frontier(), OFFSETS);
            });
        });
    }
}

criterion_group!(pure, dismiss, read, email, timestamp, request, set_insert, set_contains, ledger);
criterion_main!(pure);
