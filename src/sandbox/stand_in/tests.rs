//! The stand-in's promises, asked over a plain socket: no client library decides for us what a request looks like.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::*;

const VALID: &str =
    r#"{"type":"identify","timestamp":"2020-05-31T17:55:47.263Z","traits":{"email":"ada@example.com"}}"#;

async fn stand_in(behaviour: Behaviour) -> StandIn {
    StandIn::start(([127, 0, 0, 1], 0).into(), behaviour, Log::Memory).await.unwrap()
}

/// The whole answer to one request, as text.
async fn send(to: &StandIn, head: &str, body: &str) -> String {
    let request = format!("{head}host: nat\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let addr = to.addr();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap()
}

/// A POST with a key and this Idempotency-Key; the status.
async fn post_as(to: &StandIn, key: &str, body: &str) -> u16 {
    let auth = STANDARD.encode("secret:");
    let head = format!(
        "POST /segment HTTP/1.1\r\nauthorization: Basic {auth}\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n"
    );
    status(&send(to, &head, body).await)
}

async fn post(to: &StandIn, body: &str) -> u16 {
    post_as(to, "k", body).await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_valid_request_is_accepted_and_logged() {
    let nat = stand_in(Behaviour::default()).await;
    assert_eq!(post(&nat, VALID).await, 200);
    let entries = nat.entries();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].email.as_deref(), Some("ada@example.com"));
    assert_eq!(entries[0].day.as_deref(), Some("2020-05-31"));
    assert_eq!(entries[0].idempotency_key.as_deref(), Some("k"));
    assert_eq!((entries[0].time.len(), nat.accepted(), nat.requests()), (24, 1, 1));
    nat.shutdown().await;
}

#[tokio::test]
async fn a_request_without_an_email_is_answered_400() {
    let nat = stand_in(Behaviour::default()).await;
    assert_eq!(post(&nat, r#"{"type":"identify","timestamp":"2020-05-31T17:55:47.263Z"}"#).await, 400);
    assert_eq!((nat.accepted(), nat.requests()), (0, 1));
}

#[tokio::test]
async fn a_request_without_a_readable_timestamp_is_answered_400() {
    let nat = stand_in(Behaviour::default()).await;
    assert_eq!(post(&nat, r#"{"type":"identify","email":"a@x.io"}"#).await, 400);
    assert_eq!(post(&nat, r#"{"type":"identify","email":"a@x.io","timestamp":"NOW"}"#).await, 400);
}

#[tokio::test]
async fn only_identify_calls_are_supported() {
    let nat = stand_in(Behaviour::default()).await;
    assert_eq!(post(&nat, &VALID.replace("identify", "track")).await, 501);
}

#[tokio::test]
async fn what_is_no_json_object_is_answered_400() {
    let nat = stand_in(Behaviour::default()).await;
    for body in ["", "[]", "null", "{", "hello"] {
        assert_eq!(post(&nat, body).await, 400, "{body}");
    }
}

#[tokio::test]
async fn a_missing_or_wrong_key_is_answered_401() {
    let nat = stand_in(Behaviour { api_key: Some("right".to_owned()), ..Behaviour::default() }).await;
    assert_eq!(post(&nat, VALID).await, 401);
    let answer = send(&nat, "POST /segment HTTP/1.1\r\ncontent-type: application/json\r\n", VALID).await;
    assert_eq!(status(&answer), 401);
    assert!(answer.contains(r#"{"message": "#));
    nat.set(Behaviour { api_key: Some("secret".to_owned()), ..Behaviour::default() });
    assert_eq!(post(&nat, VALID).await, 200);
}

#[tokio::test]
async fn other_methods_and_paths_are_named_as_such() {
    let nat = stand_in(Behaviour::default()).await;
    assert_eq!(status(&send(&nat, "GET /segment HTTP/1.1\r\n", "").await), 405);
    assert_eq!(status(&send(&nat, "POST /other HTTP/1.1\r\n", "").await), 404);
    assert_eq!(status(&send(&nat, "GET /healthz HTTP/1.1\r\n", "").await), 200);
    assert_eq!(nat.requests(), 2);
}

#[tokio::test]
async fn a_rejected_event_is_rejected_at_every_attempt() {
    let nat = stand_in(Behaviour { reject: 0.5, ..Behaviour::default() }).await;
    let mut rejected = 0;
    for key in 0..40 {
        let first = post_as(&nat, &key.to_string(), VALID).await;
        assert_eq!(post_as(&nat, &key.to_string(), VALID).await, first);
        rejected += u32::from(first == 400);
    }
    assert!((8..32).contains(&rejected), "{rejected}");
}

#[tokio::test]
async fn an_unavailable_server_answers_a_later_attempt() {
    let nat = stand_in(Behaviour { unavailable: 0.5, ..Behaviour::default() }).await;
    for key in 0..10 {
        let mut attempts = 0;
        while post_as(&nat, &key.to_string(), VALID).await == 503 {
            attempts += 1;
            assert!(attempts < 30);
        }
    }
    assert_eq!(nat.accepted(), 10);
    assert!(nat.requests() > 10);
}

#[tokio::test]
async fn beyond_the_rate_limit_the_answer_is_429_with_retry_after() {
    let nat = stand_in(Behaviour { rate_limit: Some(2), ..Behaviour::default() }).await;
    assert_eq!([post(&nat, VALID).await, post(&nat, VALID).await, post(&nat, VALID).await], [200, 200, 429]);
    nat.set(Behaviour { throttle: 1.0, retry_after: Some(Duration::from_millis(1500)), ..Behaviour::default() });
    let auth = "POST /segment HTTP/1.1\r\nauthorization: Basic czo=\r\ncontent-type: application/json\r\n";
    assert!(send(&nat, auth, VALID).await.to_lowercase().contains("retry-after: 2\r\n"));
}

#[tokio::test]
async fn a_refused_contact_is_refused_in_any_writing() {
    let nat = stand_in(Behaviour { reject_emails: vec!["Ada@Example.com".to_owned()], ..Behaviour::default() }).await;
    assert_eq!(post(&nat, VALID).await, 400);
    assert_eq!(post(&nat, &VALID.replace("ada", "eve")).await, 200);
}

#[tokio::test]
async fn an_outage_is_switched_on_and_off_at_run_time() {
    let nat = stand_in(Behaviour::default()).await;
    for status in [503, 429, 401, 404, 302, 200, 204] {
        nat.set(Behaviour { status: Some(status), ..Behaviour::default() });
        assert_eq!(post(&nat, VALID).await, status);
    }
    assert_eq!(nat.accepted(), 2);
}

#[tokio::test]
async fn the_log_knows_of_an_answer_the_client_has_not_got_yet() {
    let nat = Arc::new(stand_in(Behaviour { latency: Duration::from_secs(60), ..Behaviour::default() }).await);
    let asking = Arc::clone(&nat);
    let asking = tokio::spawn(async move { post(&asking, VALID).await });
    while nat.accepted() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!asking.is_finished());
    nat.set(Behaviour::default());
    asking.abort();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_the_latency_and_frees_the_port() {
    let nat = stand_in(Behaviour { latency: Duration::from_secs(60), ..Behaviour::default() }).await;
    let addr = nat.addr();
    let mut waiting = TcpStream::connect(addr).unwrap();
    waiting
        .write_all(
            format!("POST /segment HTTP/1.1\r\nhost: nat\r\ncontent-length: {}\r\n\r\n{VALID}", VALID.len()).as_bytes(),
        )
        .unwrap();
    while nat.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let start = Instant::now();
    nat.shutdown().await;
    assert!(start.elapsed() < SHUTDOWN_GRACE, "{:?}", start.elapsed());
    let again = StandIn::start(addr, Behaviour::default(), Log::None).await.unwrap();
    assert_eq!(post(&again, VALID).await, 200);
}

#[tokio::test]
async fn a_taken_port_is_named_with_what_to_do() {
    let first = stand_in(Behaviour::default()).await;
    let Err(error) = StandIn::start(first.addr(), Behaviour::default(), Log::None).await else {
        panic!("two servers on one port");
    };
    let text = error.to_string();
    assert!(text.contains(&first.addr().to_string()) && text.contains("choose another port"), "{text}");
}

#[tokio::test]
async fn the_written_log_is_whole_after_shutdown() {
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let written = Shared::default();
    let log = Log::Writer(Box::new(written.clone()));
    let nat = StandIn::start(([127, 0, 0, 1], 0).into(), Behaviour::default(), log).await.unwrap();
    for _ in 0..20 {
        post(&nat, VALID).await;
    }
    nat.shutdown().await;
    let bytes = written.0.lock().unwrap().clone();
    let entries: Vec<Entry> =
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 20);
    assert!(entries.iter().all(|entry| entry.answer == 200));
}
