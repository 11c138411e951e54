//! The log of answers: what an oracle, a test or a curious person reads afterwards.
//!
//! Requests never wait for a disk: lines go to a thread of their own through a bounded channel, and only a writer that
//! cannot keep up slows the answers down, since a log with holes would prove nothing.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use axum::http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::event::Event;

const CHANNEL: usize = 16 * 1024;

/// Where the log goes.
pub enum Log {
    /// Kept, for `entries()`.
    Memory,
    /// One JSON line an answer, flushed whenever there is nothing more to write.
    Writer(Box<dyn Write + Send>),
    None,
}

/// One answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// When it was decided: RFC 3339, UTC, milliseconds.
    pub time: String,
    pub idempotency_key: Option<String>,
    /// As it was sent.
    pub email: Option<String>,
    /// UTC date of the timestamp.
    pub day: Option<String>,
    pub answer: u16,
    pub engage: Option<Engage>,
    pub message_id: Option<String>,
}

/// The property an Engage event carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Engage {
    pub key: String,
    pub value: serde_json::Value,
}

impl Entry {
    pub(super) fn of(headers: &HeaderMap, event: Option<&Event>, answer: u16) -> Entry {
        let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
        Entry {
            time: format!("{:.3}", Timestamp::now()),
            idempotency_key: key.map(str::to_owned),
            email: event.and_then(|event| event.email.clone()),
            day: event.and_then(|event| event.day.clone()),
            answer,
            engage: event.and_then(|event| event.engage.clone()),
            message_id: event.and_then(|event| event.message_id.clone()),
        }
    }
}

enum Line {
    Entry(Box<Entry>),
    End,
}

enum Sink {
    Memory(Mutex<Vec<Entry>>),
    Thread { lines: mpsc::Sender<Line>, thread: Mutex<Option<thread::JoinHandle<()>>> },
    None,
}

/// A place in the log, held before the answer is decided, so that recording it cannot wait or fail.
pub(super) struct Room<'j>(Option<mpsc::Permit<'j, Line>>);

/// Counts and keeps the answers.
pub(super) struct Journal {
    sink: Sink,
    requests: AtomicU64,
    accepted: AtomicU64,
}

impl Journal {
    pub fn start(log: Log) -> io::Result<Journal> {
        let sink = match log {
            Log::Memory => Sink::Memory(Mutex::new(Vec::new())),
            Log::None => Sink::None,
            Log::Writer(writer) => {
                let (lines, rest) = mpsc::channel(CHANNEL);
                let thread = thread::Builder::new()
                    .name("stand-in-log".to_owned())
                    .spawn(move || write_lines(rest, BufWriter::new(writer)))?;
                Sink::Thread { lines, thread: Mutex::new(Some(thread)) }
            }
        };
        Ok(Journal { sink, requests: AtomicU64::new(0), accepted: AtomicU64::new(0) })
    }

    pub async fn room(&self) -> Room<'_> {
        match &self.sink {
            Sink::Thread { lines, .. } => Room(lines.reserve().await.ok()),
            Sink::Memory(_) | Sink::None => Room(None),
        }
    }

    pub fn record(&self, room: Room<'_>, status: u16, entry: impl FnOnce() -> Entry) {
        match &self.sink {
            Sink::Memory(entries) => {
                let entry = entry();
                entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
            }
            Sink::Thread { .. } => {
                if let Room(Some(permit)) = room {
                    permit.send(Line::Entry(Box::new(entry())));
                }
            }
            Sink::None => {}
        }
        // Counted last: who waits for a count finds at least as many entries.
        if (200..300).contains(&status) {
            self.accepted.fetch_add(1, Ordering::Release);
        }
        self.requests.fetch_add(1, Ordering::Release);
    }

    pub fn entries(&self) -> Vec<Entry> {
        match &self.sink {
            Sink::Memory(entries) => entries.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Sink::Thread { .. } | Sink::None => Vec::new(),
        }
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Acquire)
    }

    /// Returns when the last line is written.
    pub async fn finish(&self) {
        let Sink::Thread { lines, thread } = &self.sink else { return };
        // An error means that the thread is gone already; joining it is then immediate.
        let _ = lines.send(Line::End).await;
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the stand-in's log ended early");
            }
        }
    }
}

fn write_lines(mut lines: mpsc::Receiver<Line>, mut out: impl Write) {
    let mut failed = false;
    let mut next = lines.blocking_recv();
    while let Some(Line::Entry(entry)) = next {
        let written = write_line(&mut out, &entry);
        next = lines.try_recv().ok();
        let written = written.and_then(|()| if next.is_none() { out.flush() } else { Ok(()) });
        if let Err(error) = written
            && !failed
        {
            failed = true;
            tracing::error!(%error, "the stand-in's log cannot be written: it will lack answers");
        }
        if next.is_none() {
            next = lines.blocking_recv();
        }
    }
    if let Err(error) = out.flush() {
        tracing::error!(%error, "the stand-in's log cannot be written to its end");
    }
}

fn write_line(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    serde_json::to_writer(&mut *out, entry)?;
    out.write_all(b"\n")
}
