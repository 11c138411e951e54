//! `status`, `set` and the settings that change while an instance runs.

use std::net::{SocketAddr, TcpListener};
use std::process::Output;
use std::time::Duration;

use nat_destination::sandbox::stand_in::Behaviour;
use serde_json::Value;

use super::pace::assert_spaced;
use super::support::world::{binary, identify};
use super::support::{Instance, World};

const NEW_KEY: &str = "another-api-key-77";

/// `status` of these instances, or of none.
fn status(world: &World, instances: &[String], more: &[&str]) -> Output {
    let mut command = world.command(&["status"], &[]);
    for instance in instances {
        command.args(["--instance", instance]);
    }
    command.args(more).output().expect("it runs")
}

/// The same as JSON, with whether it is healthy by its exit code.
fn report(world: &World, instances: &[String]) -> (bool, Value) {
    let output = status(world, instances, &["--json"]);
    let told = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    assert_eq!(report["healthy"] == true, output.status.success(), "{report}");
    (output.status.success(), report)
}

fn problems(report: &Value) -> String {
    report["problems"].to_string()
}

fn lag(report: &Value, of: &str) -> u64 {
    report[of].as_array().expect("partitions").iter().map(|lag| lag["events"].as_u64().expect("known")).sum()
}

#[test]
fn status_tells_the_circuit_the_lag_and_that_the_sum_is_right() {
    let world = World::with(3, Behaviour { reject_emails: vec!["p1@example.com".into()], ..Behaviour::default() });
    world.visits(0..50);
    world.visits(0..10);
    world.event(0, r#"{"type":"track"}"#);
    world.event(1, "x");
    let instance = world.start(&["deliver.max_pending_events=40"]);
    instance.wait_until_settled(62);
    world.wait("nothing is behind", || lag(&report(&world, &[instance.admin()]).1, "queue") == 0);
    let (healthy, told) = report(&world, &[instance.admin()]);
    assert!(healthy, "{told}");
    let count = |name: &str| told["sum"][name].as_i64().expect("a number");
    assert_eq!((count("received"), count("requeued"), count("on_its_way")), (62, 0, 0));
    // p1's second visit is tried, and rejected too.
    assert_eq!([count("delivered"), count("duplicate"), count("filtered"), count("dead_lettered")], [49, 9, 1, 3]);
    assert_eq!(world.accepted().len(), 49);
    assert_eq!(told["dedup_entries"]["visit"], 49);
    assert_eq!(told["circuit"], Value::Null);
    assert!(told["rates"]["received"].is_number());

    world.behave(Behaviour { status: Some(401), ..Behaviour::default() });
    world.visits(50..350);
    let (mut healthy, mut told) = (true, Value::Null);
    world.wait("the whole lag is told", || {
        (healthy, told) = report(&world, &[instance.admin()]);
        lag(&told, "queue") == 300 && told["circuit"]["reason"] == "unauthorized" && told["sum"]["received"] == 362
    });
    assert!(!healthy);
    assert_eq!(told["sum"]["on_its_way"], 300);
    let mut screen = String::new();
    // How old the oldest is, the lag watch has to look up first.
    world.wait("the age of the oldest is told", || {
        screen = String::from_utf8(status(&world, &[instance.admin()], &[]).stdout).expect("text");
        screen.contains("source 0 events, queue 300 events; the oldest for")
    });
    for part in [
        "UNHEALTHY",
        "open: unauthorized, since 20",
        "received 362 + requeued 0 = delivered 49 + duplicate 9 + filtered 1 + dead-lettered 3 + on its way 300",
        "entries: engage 0, visit 49",
    ] {
        assert!(screen.contains(part), "{part:?} in:\n{screen}");
    }
    assert!(!screen.contains('\x1b'), "no colours in a pipe");
}

#[test]
fn status_tells_what_is_in_flight_and_how_much_a_second() {
    let latency = Duration::from_millis(400);
    let world = World::with(1, Behaviour { latency, ..Behaviour::default() });
    let instance = world.start(&["deliver.concurrency=4", "topics.partitions=1"]);
    instance.wait_until_ready();
    let rates = |told: &Value| ["received", "delivered", "requests"].map(|name| told["rates"][name].as_f64());
    world.visits(0..60);
    let mut produced = 60;
    let mut told = Value::Null;
    world.wait("all is on its way", || {
        // Something comes in while it is looked at, for a second.
        let more = std::thread::scope(|scope| {
            scope.spawn(|| told = report(&world, &[instance.admin()]).1);
            (0..15).for_each(|number| {
                world.visits(produced + number..produced + number + 1);
                std::thread::sleep(Duration::from_millis(60));
            });
            15
        });
        produced += more;
        told["in_flight"] == 4 && rates(&told).iter().all(|rate| rate.is_some_and(|rate| rate > 0.0))
    });
    assert_eq!(told["concurrency_limit"], 4);
    // Four at a time and 0.4 s each: ten a second, and what a slow look may add.
    assert!(rates(&told)[1..].iter().all(|rate| rate.is_some_and(|rate| rate < 40.0)), "{told}");
    world.behave(Behaviour::default());
    instance.wait_until_settled(produced as u64);
    world.wait("nothing is in flight", || {
        told = report(&world, &[instance.admin()]).1;
        told["in_flight"] == 0
    });
    assert_eq!(rates(&told), [Some(0.0); 3], "{told}");
}

#[test]
fn status_is_unhealthy_with_exit_code_1_while_the_circuit_is_open() {
    let world = World::with(1, Behaviour { status: Some(404), ..Behaviour::default() });
    let instance = world.start(&[]);
    world.visits(0..5);
    world.wait("it is told", || !report(&world, &[instance.admin()]).0);
    world.wait("the circuit is open", || {
        problems(&report(&world, &[instance.admin()]).1).contains("open: endpoint_not_found")
    });
    world.behave(Behaviour::default());
    world.wait("it is healthy again", || report(&world, &[instance.admin()]).0);
    // It is so from the first that is accepted.
    world.wait("all are delivered", || world.accepted().len() == 5);
}

#[test]
fn status_is_unhealthy_while_nat_app_has_everything_wait_for_a_day() {
    let day = Some(Duration::from_secs(86_400));
    let world = World::with(1, Behaviour { status: Some(429), retry_after: day, ..Behaviour::default() });
    let instance = world.start(&["topics.partitions=1"]);
    instance.wait_until_ready();
    assert!(report(&world, &[instance.admin()]).0);
    world.visits(0..1);
    world.wait("it is told", || {
        let (healthy, told) = report(&world, &[instance.admin()]);
        !healthy && problems(&told).contains("sends nothing: Nat.app said not to come back before 20")
    });
    assert!(instance.get("/readyz").0 == 200 && report(&world, &[instance.admin()]).1["circuit"] == Value::Null);
}

#[test]
fn lag_is_told_though_no_instance_answers() {
    let world = World::with(3, Behaviour { status: Some(401), ..Behaviour::default() });
    world.visits(0..30);
    let instance = world.start(&[]);
    world.wait("all are queued", || instance.metric("nat_destination_events_queued_total", &[]) == 30.0);
    assert!(instance.stop().0.success());
    world.event_of_time(2, "{}", jiff::Timestamp::now().as_millisecond() - 86_400_000);
    world.visits(30..50);
    // A port that was free may be another test's by now; nobody listens at this one.
    let (healthy, told) = report(&world, &["127.0.0.1:1".into()]);
    assert!(!healthy);
    let told_problems = problems(&told);
    assert!(told_problems.contains("no instance answers") && told_problems.contains("refused"), "{told_problems}");
    assert_eq!((lag(&told, "source"), lag(&told, "queue")), (21, 30));
    let screen = String::from_utf8(status(&world, &[], &[]).stdout).expect("text");
    assert!(screen.contains("source 21 events, queue 30 events") && screen.contains("nobody's"), "{screen}");
    // How long they have waited Kafka knows, too: it was written a day ago.
    let waits = |at: usize| told["source"][at]["seconds"].as_f64().expect("a number");
    assert!(waits(2) > 86_000.0 && waits(0) < 3_600.0 && waits(1) < 3_600.0, "{told}");
    assert_eq!(told["oldest_waiting_seconds"], told["source"][2]["seconds"]);
}

#[test]
fn what_nears_the_end_of_the_queues_own_retention_is_told() {
    let world = World::with(1, Behaviour { status: Some(401), ..Behaviour::default() });
    // By the setting it would be a week.
    world.create_topic(&world.topic("queue"), 1, &[("retention.ms", "86400000")]);
    let instance = world.start(&["topics.partitions=1"]);
    let retention = || instance.metric("nat_destination_queue_retention_seconds", &[]);
    world.wait("the metric tells it", || retention() == 86_400.0);
    let half_a_day_ago = jiff::Timestamp::now().as_millisecond() - 43_300_000;
    let event = identify("ada@example.com", "2026-11-20T08:00:00Z", "m");
    world.record_of_time(&world.topic("queue"), 0, Some("ada@example.com"), &event, half_a_day_ago);
    let mut told = String::new();
    world.wait("status tells it", || {
        told = problems(&report(&world, &[instance.admin()]).1);
        told.contains("the oldest event of the queue has waited for 12h")
    });
    assert!(told.contains("Kafka deletes it after 1day (retention.ms of the topic)"), "{told}");
}

#[test]
fn two_instances_are_told_with_their_partitions() {
    let world = World::with(4, Behaviour::default());
    let settings = ["topics.partitions=4"];
    let both = [world.start(&settings), world.start(&settings)];
    let places = both.each_ref().map(Instance::admin);
    let share = |told: &Value, place: &str, of: &str| {
        let partitions = told[of].as_array().expect("partitions").iter();
        partitions.filter(|lag| lag["instance"] == *place).count()
    };
    world.wait("each has its half", || {
        let (healthy, told) = report(&world, &places);
        healthy && places.iter().all(|place| share(&told, place, "source") == 2 && share(&told, place, "queue") == 2)
    });
    world.visits(0..40);
    world.wait("their counts are added up", || report(&world, &places).1["sum"]["delivered"] == 40);
    // One that is asked twice is one.
    let (_, told) = report(&world, &[&places[..], &places[..1]].concat());
    assert_eq!(told["instances"].as_array().map(Vec::len), Some(2));
    // With one of the two out of sight, nobody is known to have its partitions.
    let (healthy, told) = report(&world, &places[..1]);
    assert!(!healthy && problems(&told).contains("no instance that answers has partitions "), "{told}");
    // And another deployment's instance is none of this one.
    let other = World::new();
    let (healthy, told) = report(&other, &places[..1]);
    assert!(!healthy && problems(&told).contains("another deployment"), "{told}");
}

#[test]
fn watch_tells_a_new_block_each_time_until_nobody_reads() {
    let world = World::new();
    let instance = world.start(&[]);
    instance.wait_until_ready();
    let mut command = world.command(&["status", "--watch", "--instance", &instance.admin()], &[]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("it runs");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
    let heads = lines.by_ref().map(|line| line.expect("text")).filter(|line| line.starts_with("healthy  "));
    let heads: Vec<String> = heads.take(2).collect();
    assert!(heads.len() == 2 && heads[0] != heads[1], "each with its time: {heads:?}");
    drop(lines);
    let mut ended = None;
    world.wait("it ends by itself", || {
        ended = child.try_wait().expect("its state");
        ended.is_some()
    });
    assert_eq!(ended.expect("ended").code(), Some(0));
}

#[test]
fn a_new_api_key_is_used_without_a_restart_and_without_a_probe() {
    let world = World::new();
    let instance = world.start(&[]);
    world.visits(0..10);
    instance.wait_until_settled(10);
    std::fs::write(world.key_file(), NEW_KEY).expect("written");
    world.wait("it is told", || instance.log().contains("the API key has changed"));
    world.behave(Behaviour { api_key: Some(NEW_KEY.into()), ..Behaviour::default() });
    world.visits(10..30);
    instance.wait_until_settled(30);
    assert_eq!(world.accepted().len(), 30);
    assert_eq!(world.stand_in.requests(), 30, "not one was refused");
    assert!(!instance.log().contains("circuit open") && !instance.log().contains(NEW_KEY));
}

#[test]
fn the_right_key_closes_the_circuit_at_once() {
    let world = World::with(1, Behaviour::default());
    world.behave(Behaviour { api_key: Some(NEW_KEY.into()), ..Behaviour::default() });
    let instance = world.start(&["circuit.probe_interval=10m", "circuit.max_probe_interval=10m"]);
    world.visits(0..10);
    world.wait("the circuit is open", || instance.metric("nat_destination_circuit_open", &["unauthorized"]) == 1.0);
    std::fs::write(world.key_file(), NEW_KEY).expect("written");
    instance.wait_until_settled(10); // Not after the ten minutes until the next probe.
    assert_eq!(world.accepted().len(), 10);
}

#[test]
fn a_broken_key_file_keeps_the_old_key() {
    let world = World::new();
    let instance = world.start(&[]);
    instance.wait_until_ready();
    std::fs::write(world.key_file(), "").expect("written");
    let warnings = || instance.log().matches("the API key cannot be read again").count();
    world.wait("it is told", || warnings() == 1);
    let is_told = || problems(&report(&world, &[instance.admin()]).1).contains("nat.api_key_file holds no usable key");
    world.wait("status tells it", is_told);
    assert!(instance.get("/readyz").1.contains("nat.api_key_file holds no usable key"));
    world.visits(0..10);
    instance.wait_until_settled(10);
    std::thread::sleep(Duration::from_millis(2500)); // Two more looks.
    assert_eq!(warnings(), 1, "{}", instance.log());
    assert_eq!((world.accepted().len(), world.stand_in.requests()), (10, 10));
    std::fs::write(world.key_file(), super::support::world::KEY).expect("written");
    world.wait("and that it is mended", || report(&world, &[instance.admin()]).0);
    let log = instance.log();
    assert!(log.contains("the API key can be read again; it is the one that was used meanwhile"), "{log}");
}

/// `set` for one instance, and what it says.
fn set(instance: &Instance, changes: &[&str]) -> (i32, String) {
    let mut command = binary();
    let output = command.arg("set").args(changes).args(["--instance", &instance.admin()]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("a code"), text)
}

#[test]
fn log_level_and_rate_limit_change_at_run_time_and_all_else_says_restart() {
    let world = World::with(1, Behaviour::default());
    let instance = world.start(&["deliver.concurrency=4", "nat.timeout=5m"]);
    world.visits(0..5);
    instance.wait_until_settled(5);
    assert!(!instance.log().contains("\"DEBUG\""));
    let (code, told) = set(&instance, &["log.level=debug", "deliver.rate_limit=20"]);
    assert_eq!(code, 0, "{told}");
    let live: Value = serde_json::from_str(&instance.get("/settings").1).expect("JSON");
    assert_eq!(live, serde_json::json!({ "log.level": "debug", "deliver.rate_limit": 20 }));
    world.visits(5..65);
    instance.wait_until_settled(65);
    assert_spaced(&world.accepted()[5..], 4, 20);
    assert!(instance.log().contains("\"DEBUG\""));
    for (change, part) in [
        ("nat.url=https://nat.example", "nat.url: a change of it needs a restart"),
        ("deliver.ratelimit=5", "did you mean deliver.rate_limit?"),
        ("deliver.rate_limit=fast", "it must be a whole number from 0 to 1000000"),
        ("log.level=loud", "it must be error, warn, info, debug or trace"),
    ] {
        let (code, told) = set(&instance, &["deliver.rate_limit=7", change]);
        assert!(code == 1 && told.contains(part), "{part:?} in {told}");
    }
    assert_eq!(report(&world, &[instance.admin()]).1["rate_limit"], 20, "all of it, or nothing");
    assert_eq!(set(&instance, &["deliver.rate_limit"]).0, 2, "wrong usage");
    // One that stands still takes it when it goes on.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let place = silent.local_addr().expect("an address").to_string();
    let output = binary().args(["set", "deliver.rate_limit=7", "--instance", &place]).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && told.contains("it may be changed, or be it yet"), "{told}");
    assert_eq!(set(&instance, &["deliver.rate_limit=1"]).0, 0);
    world.visits(65..265);
    assert_eq!(set(&instance, &["deliver.rate_limit=0", "log.level=info"]).0, 0);
    instance.wait_until_settled(265); // At one a second it would take longer than is waited for.
    assert_eq!(report(&world, &[instance.admin()]).1["rate_limit"], Value::Null);
}

/// Answers one GET after the other with this body.
fn serve(body: String) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let _ = std::io::Read::read(&mut &stream, &mut request);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = std::io::Write::write_all(&mut &stream, (head + &body).as_bytes());
        }
    });
    address
}

#[test]
fn a_status_of_a_newer_version_is_read() {
    let world = World::with(1, Behaviour::default());
    let instance = world.start(&["topics.partitions=1"]);
    world.event(0, &identify("ada@example.com", "2026-11-20T08:00:00Z", "m"));
    instance.wait_until_settled(1);
    world.wait("it is healthy", || report(&world, &[instance.admin()]).0);
    let mut newer: Value = serde_json::from_str(&instance.get("/status").1).expect("JSON");
    newer["version"] = "99.0.0".into();
    newer["phase_of_the_moon"] = serde_json::json!({ "full": [true] });
    newer["outcomes"].as_array_mut().expect("rows").push(serde_json::json!({
        "outcome": "forwarded", "reason": "by_pigeon", "events": 3, "feathers": 12
    }));
    newer["received"] = 4.into();
    let (healthy, told) = report(&world, &[serve(newer.to_string()).to_string()]);
    assert!(healthy, "{told}");
    assert_eq!(told["instances"][0]["status"]["version"], "99.0.0");
    assert_eq!((told["sum"]["delivered"].as_u64(), told["sum"]["on_its_way"].as_i64()), (Some(1), Some(0)));
    // And what is no status at all is told as that.
    for (body, part) in [("<html>", "its answer is not understood"), ("{}", "another deployment")] {
        let (healthy, told) = report(&world, &[serve(body.into()).to_string()]);
        assert!(!healthy && problems(&told).contains(part), "{told}");
    }
}
