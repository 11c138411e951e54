//! A stand-in for Nat.app, for demo, tests and benchmarks.
//!
//! Nobody outside Nat.app can run Nat.app, so this is an HTTP server that keeps to what is known of its contract: one
//! identify call a POST, Basic auth, errors as `{"message": …}`. What a real server does on a bad day (latency, 503,
//! 429, a contact it refuses) is drawn from a seed, so that a test that failed fails again. It writes down every answer
//! it decides on: that log is what an oracle compares with the events that went in.
//!
//! An answer is decided and logged *before* the latency passes. A server has taken an event when it has stored it, not
//! when the client hears of it; a client that hangs up in between and sends the event again is seen doing so.

mod event;
mod faults;
mod log;
#[cfg(test)]
mod tests;

pub use log::{Engage, Entry, Log};

use std::future::IntoFuture;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Router, serve};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use event::Event;
use faults::{Attempts, Bucket};
use log::Journal;

const PATH: &str = "/segment";
const BODY_LIMIT: usize = 1024 * 1024;
/// How long `shutdown` waits for requests half sent; everything else ends at once.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// How the stand-in answers; can be exchanged while it runs.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// From the decision to the answer.
    pub latency: Duration,
    /// Share of events (not of attempts) answered 400: the same Idempotency-Key is always rejected.
    pub reject: f64,
    /// Share of attempts answered 503.
    pub unavailable: f64,
    /// Share of attempts answered 429.
    pub throttle: f64,
    /// What a 429 says in `Retry-After`, rounded up to seconds; none: no such header.
    pub retry_after: Option<Duration>,
    /// Requests a second; what is beyond is answered 429. A second's worth may come at once.
    pub rate_limit: Option<u32>,
    /// The one right key; none: any that is not empty.
    pub api_key: Option<String>,
    /// Contacts that are always answered `reject_status`.
    pub reject_emails: Vec<String>,
    /// 400, or something that is not a rejection at all.
    pub reject_status: u16,
    /// Every valid request gets this status, before anything else is drawn: an outage at the turn of a switch.
    pub status: Option<u16>,
    pub seed: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            latency: Duration::ZERO,
            reject: 0.0,
            unavailable: 0.0,
            throttle: 0.0,
            retry_after: Some(Duration::from_secs(1)),
            rate_limit: None,
            api_key: None,
            reject_emails: Vec::new(),
            reject_status: 400,
            status: None,
            seed: 0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    #[error(
        "the Nat.app stand-in cannot listen on {addr}: another program has that port. \
         Stop it, or choose another port (port 0 takes any free one)"
    )]
    PortTaken { addr: SocketAddr },
    #[error(
        "the Nat.app stand-in cannot listen on {addr}: {source}. Choose an address of this machine and a port above 1023"
    )]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("the Nat.app stand-in cannot start the thread that writes its log: {0}")]
    Log(io::Error),
}

/// A running stand-in. Dropped, it stops too, but nobody waits for its log to be written.
pub struct StandIn {
    addr: SocketAddr,
    nat: Arc<Nat>,
    /// Its end, sent or dropped, stops the server.
    stop: watch::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

impl StandIn {
    pub async fn start(listen: SocketAddr, behaviour: Behaviour, log: Log) -> Result<StandIn, StandInError> {
        let error = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => StandInError::PortTaken { addr: listen },
            _ => StandInError::Listen { addr: listen, source },
        };
        let listener = TcpListener::bind(listen).await.map_err(error)?;
        let addr = listener.local_addr().map_err(error)?;
        let (stop, stopped) = watch::channel(());
        let nat = Arc::new(Nat {
            behaviour: RwLock::new(Arc::new(behaviour)),
            journal: Journal::start(log).map_err(StandInError::Log)?,
            attempts: Attempts::default(),
            bucket: Bucket::default(),
            stopped: stopped.clone(),
        });
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .fallback(answer_request)
            .with_state(Arc::clone(&nat));
        // An answer is one small write: without TCP_NODELAY it could wait for the client's delayed acknowledgement.
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
        });
        let server = serve(listener, router).with_graceful_shutdown(until(stopped));
        let server = tokio::spawn(server.into_future());
        Ok(StandIn { addr, nat, stop, server })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the events go.
    pub fn url(&self) -> String {
        format!("http://{}{PATH}", self.addr)
    }

    /// From the next request on, behave like this.
    pub fn set(&self, behaviour: Behaviour) {
        *self.nat.behaviour.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(behaviour);
    }

    /// Every answer in the order in which they were decided; empty unless the log is `Log::Memory`.
    pub fn entries(&self) -> Vec<Entry> {
        self.nat.journal.entries()
    }

    /// Answers 2xx.
    pub fn accepted(&self) -> u64 {
        self.nat.journal.accepted()
    }

    /// All answers but those of `/healthz`.
    pub fn requests(&self) -> u64 {
        self.nat.journal.requests()
    }

    /// Answers what is under way, closes the connections and the port, and writes the log to its end.
    pub async fn shutdown(self) {
        drop(self.stop);
        let abort = self.server.abort_handle();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.server).await.is_err() {
            abort.abort();
        }
        self.nat.journal.finish().await;
    }
}

async fn until(mut stopped: watch::Receiver<()>) {
    // Ok: told to stop; Err: the `StandIn` was dropped. Both are the end.
    let _ = stopped.changed().await;
}

/// What all connections share.
struct Nat {
    behaviour: RwLock<Arc<Behaviour>>,
    journal: Journal,
    attempts: Attempts,
    bucket: Bucket,
    stopped: watch::Receiver<()>,
}

async fn answer_request(State(nat): State<Arc<Nat>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, BODY_LIMIT).await.ok();
    // Read before the checks and not by them: the log says whom a 401 was about, too.
    let event = body.as_deref().map(Event::read);
    let event = event.as_ref().and_then(|read| read.as_ref().ok());
    // No await between the decision and the log, or a client that hangs up there would leave a hole in the log.
    let room = nat.journal.room().await;
    let behaviour = Arc::clone(&nat.behaviour.read().unwrap_or_else(PoisonError::into_inner));
    let answer = match check(&behaviour, &head, body.is_some(), event) {
        Err(refused) => refused,
        Ok(event) => nat.decide(&behaviour, idempotency_key(&head.headers, body.as_deref()), event),
    };
    nat.journal.record(room, answer.status, || Entry::of(&head.headers, event, answer.status));
    if !behaviour.latency.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(behaviour.latency) => {}
            () = until(nat.stopped.clone()) => {}
        }
    }
    answer.into_response()
}

/// The checks of a healthy server in their order: is this a request Nat.app takes at all?
fn check<'e>(
    behaviour: &Behaviour,
    head: &Parts,
    readable: bool,
    event: Option<&'e Event>,
) -> Result<&'e Event, Answer> {
    if head.uri.path() != PATH {
        return Err(Answer::error(404, "Not found: events go to /segment"));
    }
    if head.method != Method::POST {
        return Err(Answer::error(405, "Only POST is allowed"));
    }
    if !authorized(&head.headers, behaviour.api_key.as_deref()) {
        return Err(Answer::error(401, "Missing or wrong API key"));
    }
    if !is_json(&head.headers) {
        return Err(Answer::error(400, "Content-Type must be application/json"));
    }
    if !readable {
        return Err(Answer::error(413, "The body was cut or is larger than 1 MiB"));
    }
    let Some(event) = event else {
        return Err(Answer::error(400, "The body is not a JSON object"));
    };
    if event.kind.as_deref() != Some("identify") {
        return Err(Answer::error(501, "Only identify calls are supported"));
    }
    if event.email.is_none() {
        return Err(Answer::error(400, "Missing email address"));
    }
    match (event.has_timestamp, &event.day) {
        (true, Some(_)) => Ok(event),
        (true, None) => Err(Answer::error(400, "Invalid timestamp")),
        (false, _) => Err(Answer::error(400, "Missing timestamp")),
    }
}

impl Nat {
    /// A valid request: what does a server with this behaviour make of it? An outage hits all, a refused contact is
    /// refused whenever the server is up, and overload comes before the server looks closer at an event.
    fn decide(&self, behaviour: &Behaviour, key: &[u8], event: &Event) -> Answer {
        if let Some(status) = behaviour.status {
            return Answer::of(status, behaviour);
        }
        if let Some(email) = &event.email
            && behaviour.reject_emails.iter().any(|refused| same_contact(refused, email))
        {
            return Answer::error(behaviour.reject_status, "This contact is refused");
        }
        if let Some(limit) = behaviour.rate_limit
            && !self.bucket.take(limit)
        {
            return Answer::of(429, behaviour);
        }
        if behaviour.unavailable > 0.0 || behaviour.throttle > 0.0 {
            let attempt = self.attempts.next(key);
            let draw = faults::draw(behaviour.seed, "attempt", key, attempt);
            if draw < behaviour.unavailable {
                return Answer::of(503, behaviour);
            }
            if draw < behaviour.unavailable + behaviour.throttle {
                return Answer::of(429, behaviour);
            }
        }
        if behaviour.reject > 0.0 && faults::draw(behaviour.seed, "reject", key, 0) < behaviour.reject {
            return Answer::error(400, "This event is refused");
        }
        Answer::of(200, behaviour)
    }
}

fn same_contact(left: &str, right: &str) -> bool {
    left.trim().to_lowercase() == right.trim().to_lowercase()
}

/// What an event is known by over its attempts: its Idempotency-Key, or its bytes where there is none.
fn idempotency_key<'r>(headers: &'r HeaderMap, body: Option<&'r [u8]>) -> &'r [u8] {
    headers.get("idempotency-key").map(HeaderValue::as_bytes).or(body).unwrap_or_default()
}

/// The API key is the user name of Basic auth; Segment leaves the password empty, and it is not looked at.
fn authorized(headers: &HeaderMap, api_key: Option<&str>) -> bool {
    let user = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, credentials)| STANDARD.decode(credentials.trim()).ok())
        .and_then(|credentials| String::from_utf8(credentials).ok())
        .map(|credentials| credentials.split(':').next().unwrap_or_default().to_owned())
        .unwrap_or_default();
    match api_key {
        Some(right) => user == right,
        None => !user.is_empty(),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// Status, text and the headers that go with the status.
struct Answer {
    status: u16,
    message: &'static str,
    retry_after: Option<u64>,
}

impl Answer {
    fn error(status: u16, message: &'static str) -> Answer {
        Answer { status, message, retry_after: None }
    }

    /// The answer of a server in this state, not about this event.
    fn of(status: u16, behaviour: &Behaviour) -> Answer {
        let message = match status {
            200..=299 => "",
            401 => "Missing or wrong API key",
            403 => "The API key may not do this",
            404 => "Not found",
            429 => "Too many requests",
            503 => "Temporarily unavailable",
            _ => "The stand-in was told to answer this",
        };
        // Whole seconds are all the header can say; rounding up keeps the promise not to be asked earlier.
        let seconds = behaviour.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        Answer { status, message, retry_after: seconds.filter(|_| status == 429) }
    }

    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = match (status.as_u16(), self.message) {
            (204 | 304, _) => Body::empty(),
            (_, "") => Body::from("{}"),
            (_, message) => Body::from(format!(r#"{{"message": "{message}"}}"#)),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match status.as_u16() {
            // A client that follows this is seen in the log as a 404.
            300..=399 => headers.insert(header::LOCATION, HeaderValue::from_static("/moved")),
            401 => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"nat\"")),
            405 => headers.insert(header::ALLOW, HeaderValue::from_static("POST")),
            _ => None,
        };
        response
    }
}
