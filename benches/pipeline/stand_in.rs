//! A Nat.app that costs as little as one can, in a process of its own: it reads a request to its end, waits for the
//! latency, says 200. The events' message ids tell when they were produced, so that it can tell how long they took.

use std::io::BufRead;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::child::say;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
/// What the message id of an event begins with that tells its time.
pub const STAMP: &str = "t";

#[derive(Default)]
struct Seen {
    requests: u64,
    /// Microseconds from the event's stamp to the request.
    delays: Vec<u64>,
}

pub fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

pub fn run(latency: Duration) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let clock = (!latency.is_zero()).then(|| Clock::start(latency));
    let of_parent = Arc::clone(&seen);
    // Ends with the parent's end of the pipe.
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let mut seen = std::mem::take(&mut *of_parent.lock().unwrap_or_else(PoisonError::into_inner));
            seen.delays.sort_unstable();
            let at = |share: f64| seen.delays.get((seen.delays.len() as f64 * share) as usize).copied().unwrap_or(0);
            say(&format!("seen {} {} {}", seen.requests, at(0.5), at(0.99)));
        }
        std::process::exit(0);
    });
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        say(&format!("listening {}", listener.local_addr().map_err(|error| error.to_string())?));
        loop {
            let (connection, _) = listener.accept().await.map_err(|error| error.to_string())?;
            let _ = connection.set_nodelay(true);
            tokio::spawn(serve(connection, clock.clone(), Arc::clone(&seen)));
        }
    })
}

/// Tells when the latency is over: tokio's own timers know milliseconds only, and a twentieth of it would be theirs.
#[derive(Clone)]
struct Clock(mpsc::Sender<(Instant, oneshot::Sender<()>)>);

impl Clock {
    fn start(latency: Duration) -> Clock {
        let (sender, waiting) = mpsc::channel::<(Instant, oneshot::Sender<()>)>();
        // All wait equally long: who came first is first.
        std::thread::spawn(move || {
            for (came, over) in waiting {
                std::thread::sleep((came + latency).saturating_duration_since(Instant::now()));
                let _ = over.send(());
            }
        });
        Clock(sender)
    }

    async fn wait(&self) {
        let (over, is_over) = oneshot::channel();
        let _ = self.0.send((Instant::now(), over));
        let _ = is_over.await;
    }
}

async fn serve(mut connection: TcpStream, clock: Option<Clock>, seen: Arc<Mutex<Seen>>) {
    let mut bytes: Vec<u8> = Vec::with_capacity(16 * 1024);
    loop {
        let length = loop {
            if let Some(length) = request_length(&bytes) {
                break length;
            }
            match connection.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        note(&bytes[..length], &seen);
        bytes.drain(..length);
        if let Some(clock) = &clock {
            clock.wait().await;
        }
        if connection.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

/// Of the first request in these bytes, if all of it is there.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let whole = head + length.unwrap_or(0);
    (bytes.len() >= whole).then_some(whole)
}

fn note(request: &[u8], seen: &Mutex<Seen>) {
    let now = micros();
    let stamp = memchr::memmem::find(request, format!("\"messageId\":\"{STAMP}").as_bytes()).and_then(|at| {
        let digits = request.get(at + 13 + STAMP.len()..)?;
        let end = digits.iter().position(|byte| *byte == b'"')?;
        std::str::from_utf8(&digits[..end]).ok()?.parse::<u64>().ok()
    });
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.requests += 1;
    seen.delays.extend(stamp.map(|stamp| now.saturating_sub(stamp)));
}
