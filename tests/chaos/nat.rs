//! Nat.app's stand-in for this harness: HTTP/1.1 on bare TCP, since a real HTTP server will not reset a connection in the
//! middle of a body or answer with garbage. Each request is written down with what was decided, when, and how the answer
//! ended: whether the sender can know the outcome is what a second acceptance is judged by.
//!
//! An event is accepted when that is decided, whether or not the answer arrives.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use jiff::Timestamp;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::{self, MILLI, Micros};
use crate::events::{FAILING_CONTACT, REJECTED_CONTACT, REJECTED_MESSAGE};
use crate::plan::{Fault, Kind};
use crate::proxy::{Passage, Passages};

pub const API_KEY: &str = "chaos-key-92c1f7";
/// The instances' `nat.timeout`.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// An answer that took longer than this may have come too late.
const SURELY_IN_TIME: Micros = 1_500 * MILLI;

/// How the answer to a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Not ended yet; at the end of a run: the connection went away meanwhile.
    Pending,
    /// It was handed to the instance's socket in time.
    Answered,
    Late,
    Hung,
    ResetBeforeBody,
    ResetDuringBody,
    ResetAfterBody,
    Garbage,
    /// The connection died after the decision, with no byte or half of the answer.
    Cut,
    /// Sent, and lost between here and the instance.
    LostOnTheWay,
}

impl End {
    pub fn name(self) -> &'static str {
        match self {
            End::Pending => "the connection went away",
            End::Answered => "answered",
            End::Late => "answered too late",
            End::Hung => "hung",
            End::ResetBeforeBody => "reset before the body",
            End::ResetDuringBody => "reset in the body",
            End::ResetAfterBody => "reset after the body",
            End::Garbage => "garbage",
            End::Cut => "cut in the answer",
            End::LostOnTheWay => "lost between stand-in and instance",
        }
    }
}

/// What a request says.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub email: String,
    pub day: String,
    pub id: String,
    /// (computation key, value)
    pub engage: Option<(String, Value)>,
}

#[derive(Debug, Clone)]
pub struct Request {
    /// Which life of an instance sent it.
    pub life: usize,
    /// When its first byte came through the proxy.
    pub began: Micros,
    pub arrived: Micros,
    pub key: String,
    /// Unknown where the body was not read.
    pub said: Option<Said>,
    pub status: u16,
    pub decided: Micros,
    pub end: End,
    /// When the answer was handed to the instance.
    pub answered: Option<Micros>,
    /// What no instance may ever send.
    pub problem: Option<String>,
}

impl Request {
    pub fn accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

pub struct Nat {
    pub address: std::net::SocketAddr,
    passages: Passages,
    state: Mutex<State>,
}

struct State {
    log: Vec<Request>,
    faults: BTreeMap<usize, Fault>,
    random: Rng,
}

impl Nat {
    pub async fn start(passages: Passages) -> io::Result<Arc<Nat>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = State { log: Vec::new(), faults: BTreeMap::new(), random: Rng::new() };
        let nat = Arc::new(Nat { address, passages, state: Mutex::new(state) });
        let serving = Arc::clone(&nat);
        tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&serving).serve(stream));
                }
            }
        });
        Ok(nat)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("unpoisoned")
    }

    /// A new run: the log so far goes.
    pub fn begin(&self, seed: u64) {
        *self.state() = State { log: Vec::new(), faults: BTreeMap::new(), random: Rng::with_seed(seed) };
    }

    pub fn log(&self) -> Vec<Request> {
        self.state().log.clone()
    }

    /// Requests and acceptances so far.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.log.len(), state.log.iter().filter(|request| request.accepted()).count())
    }

    /// Whether a contact that always fails was tried since then.
    pub fn failing_since(&self, since: Micros) -> bool {
        let state = self.state();
        let late = state.log.iter().rev().take_while(|request| request.decided >= since);
        late.filter_map(|request| request.said.as_ref()).any(|said| said.email.starts_with(FAILING_CONTACT))
    }

    pub fn apply(&self, id: usize, fault: Fault) {
        self.state().faults.insert(id, fault);
    }

    pub fn lift(&self, id: usize) {
        self.state().faults.remove(&id);
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut connection = Connection { stream, read: Vec::new(), written: 0 };
        // An error is the end of a connection: what was decided on it is in the log.
        while let Ok(true) = self.exchange(&mut connection).await {}
    }

    /// One request and its answer. False: the connection is done.
    async fn exchange(&self, connection: &mut Connection) -> io::Result<bool> {
        let Some(head) = connection.head().await? else { return Ok(false) };
        let passage = self.passage(connection);
        let course = self.draw();
        let arrived = clock::now();
        let mut request = Request {
            life: head.life(),
            began: passage.as_ref().map_or(arrived, |passage| passage.request_began.load(Ordering::Acquire)),
            arrived,
            key: head.header("idempotency-key").unwrap_or_default().to_owned(),
            said: None,
            status: 0,
            decided: arrived,
            end: End::Pending,
            answered: None,
            problem: head.problem(),
        };
        let length = head.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if matches!(course.end, End::ResetBeforeBody | End::ResetDuringBody) {
            if course.end == End::ResetDuringBody {
                connection.body(length / 2).await?;
            }
            request.end = course.end;
            self.state().log.push(request);
            return connection.reset();
        }
        let body = connection.body(length).await?;
        let (number, status, email) = self.decide(request, &body, &course);
        tokio::time::sleep(course.delay).await;
        let (end, answered) = connection.answer(&course, &answer(status, course.wait, &email), passage).await;
        let mut state = self.state();
        // Another run may have begun meanwhile.
        if let Some(request) = state.log.get_mut(number) {
            let in_time = answered.is_none_or(|answered| answered - request.began < SURELY_IN_TIME);
            request.end = if end == End::Answered && !in_time { End::Late } else { end };
            request.answered = answered;
        }
        Ok(end == End::Answered)
    }

    fn passage(&self, connection: &Connection) -> Option<Arc<Passage>> {
        let port = connection.stream.peer_addr().ok()?.port();
        self.passages.lock().expect("unpoisoned").get(&port).cloned()
    }

    /// What the faults that are on do to this request.
    fn draw(&self) -> Course {
        let usual = Course { end: End::Answered, status: None, wait: false, delay: Duration::ZERO };
        let mut state = self.state();
        let faults: Vec<Fault> = state.faults.values().copied().collect();
        let Some(fault) = faults.into_iter().find(|fault| state.random.f64() < fault.share) else { return usual };
        // Whether Nat.app had taken it when it failed.
        let either = if state.random.bool() { None } else { Some(503) };
        let status = |status| Course { status: Some(status), ..usual };
        let ends = |end, status| Course { end, status, ..usual };
        match fault.kind {
            Kind::Nat429 => status(429),
            Kind::Nat429Wait => Course { wait: true, ..status(429) },
            Kind::Nat500 => status(500),
            Kind::Nat503 => status(503),
            Kind::Nat401 => status(401),
            Kind::Nat404 => status(404),
            Kind::Nat400Most => status(400),
            Kind::NatSlow => Course { delay: Duration::from_millis(state.random.u64(100..1100)), ..usual },
            Kind::NatHang => ends(End::Hung, either),
            Kind::NatResetBefore => ends(End::ResetBeforeBody, None),
            Kind::NatResetDuring => ends(End::ResetDuringBody, None),
            Kind::NatResetAfter => ends(End::ResetAfterBody, either),
            Kind::NatGarbage => ends(End::Garbage, either),
            Kind::NatCutAnswer => ends(End::Cut, None),
            _ => usual,
        }
    }

    /// Writes the decision down: its number in the log, the status, and whom it is about.
    fn decide(&self, mut request: Request, body: &[u8], course: &Course) -> (usize, u16, String) {
        match read(body) {
            Ok(said) => request.said = Some(said),
            Err(problem) => request.problem = request.problem.or(Some(problem)),
        }
        let usual = request.said.as_ref().map_or(400, usual_status);
        request.status = course.status.unwrap_or(usual);
        let (status, email) = (request.status, request.said.as_ref().map(|said| said.email.clone()));
        let mut state = self.state();
        request.decided = clock::now();
        state.log.push(request);
        (state.log.len() - 1, status, email.unwrap_or_default())
    }
}

/// What is done with one request.
struct Course {
    end: End,
    /// None: what Nat.app always says to this event.
    status: Option<u16>,
    /// With Retry-After.
    wait: bool,
    delay: Duration,
}

fn usual_status(said: &Said) -> u16 {
    match said {
        said if said.email.starts_with(FAILING_CONTACT) => 500,
        said if said.email.starts_with(REJECTED_CONTACT) || said.id.starts_with(REJECTED_MESSAGE) => 400,
        _ => 200,
    }
}

/// An error names the contact, as Nat.app's may: it must not find its way into a log or a header.
fn answer(status: u16, wait: bool, email: &str) -> Vec<u8> {
    let body = match status {
        200 => "{}".to_owned(),
        _ => format!(r#"{{"message": "The contact <{email}> or {} cannot be taken"}}"#, email.replace('@', "%40")),
    };
    let wait = if wait { "Retry-After: 1\r\n" } else { "" };
    let length = body.len();
    format!("HTTP/1.1 {status} Chaos\r\nContent-Type: application/json\r\n{wait}Content-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// What a body says, read as Nat.app would.
fn read(body: &[u8]) -> Result<Said, String> {
    let body: Value = serde_json::from_slice(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    if body["type"] != "identify" {
        return Err(format!("its type is {}", body["type"]));
    }
    let email = text(&body["traits"]["email"]).ok_or("it has no traits.email")?;
    let timestamp: Timestamp =
        body["timestamp"].as_str().and_then(|text| text.parse().ok()).ok_or("it has no timestamp")?;
    let key = text(&body["context"]["personas"]["computation_key"]);
    let engage = key.map(|key| (key.clone(), body["traits"][&key].clone()));
    let id = text(&body["messageId"]).unwrap_or_default();
    Ok(Said { email, day: timestamp.to_string()[..10].to_owned(), id, engage })
}

struct Head {
    first_line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The url of each life ends in its number.
    fn life(&self) -> usize {
        let path = self.first_line.split(' ').nth(1).unwrap_or_default();
        path.rsplit('/').next().and_then(|life| life.parse().ok()).unwrap_or(0)
    }

    fn problem(&self) -> Option<String> {
        let right = format!("Basic {}", STANDARD.encode(format!("{API_KEY}:")));
        if !self.first_line.starts_with("POST /segment/") {
            return Some(format!("it is {:?}", self.first_line));
        }
        if self.header("authorization") != Some(right.as_str()) {
            return Some("it does not carry the API key".into());
        }
        if self.header("content-type") != Some("application/json") {
            return Some("it does not say that it is JSON".into());
        }
        self.header("idempotency-key").is_none().then(|| "it has no Idempotency-Key".into())
    }
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    /// Bytes of answers so far.
    written: u64,
}

impl Connection {
    /// The next request's head; `None` at the end of the connection.
    async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                let head = String::from_utf8_lossy(&head).into_owned();
                let mut lines = head.lines();
                let first_line = lines.next().unwrap_or_default().to_owned();
                let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.into(), value.trim().into()));
                return Ok(Some(Head { first_line, headers: lines.filter_map(pair).collect() }));
            }
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.read.drain(..length).collect())
    }

    fn reset(&self) -> io::Result<bool> {
        self.stream.set_zero_linger()?;
        Ok(false)
    }

    /// Answers as the course says; how that ended, and when the instance's socket had it.
    async fn answer(&mut self, course: &Course, answer: &[u8], passage: Option<Arc<Passage>>) -> (End, Option<Micros>) {
        match course.end {
            End::Hung => {
                // Longer than the instance waits; it may well go before.
                let mut byte = [0];
                let _ = tokio::time::timeout(2 * TIMEOUT, self.stream.read(&mut byte)).await;
            }
            End::ResetAfterBody => {
                let _ = self.stream.set_zero_linger();
            }
            End::Garbage => {
                let _ = self.stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await;
            }
            End::Cut => {
                // No byte, or half of the status line.
                let half = if answer.len().is_multiple_of(2) { 0 } else { 7 };
                let _ = self.stream.write_all(&answer[..half]).await;
            }
            _ => return self.hand_over(answer, passage).await,
        }
        (course.end, None)
    }

    async fn hand_over(&mut self, answer: &[u8], passage: Option<Arc<Passage>>) -> (End, Option<Micros>) {
        if self.stream.write_all(answer).await.is_err() {
            return (End::LostOnTheWay, None);
        }
        self.written += answer.len() as u64;
        let Some(passage) = passage else { return (End::Answered, Some(clock::now())) };
        loop {
            let changed = passage.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if passage.forwarded.load(Ordering::Acquire) >= self.written {
                return (End::Answered, Some(passage.forwarded_at.load(Ordering::Acquire)));
            }
            if passage.closed.load(Ordering::Acquire) {
                return (End::LostOnTheWay, None);
            }
            changed.await;
        }
    }
}
