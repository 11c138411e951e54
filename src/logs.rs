//! The log: where it goes, what it looks like, and its level, which can be changed while the program runs.

use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;

/// The level in force, as it was written. There is one log a process, as there is one subscriber.
static LEVEL: OnceLock<(Handle<Targets, Registry>, Mutex<String>)> = OnceLock::new();

/// Logs go to stderr: human on a terminal, JSON otherwise, or as configured.
pub fn start_logs(log: &Log) {
    let (filter, handle) = reload::Layer::new(log.level.parse::<Targets>().unwrap_or_default());
    let human = match log.format.as_str() {
        "human" => true,
        "json" => false,
        _ => std::io::stderr().is_terminal(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if human {
        registry.with(layer.with_ansi(std::io::stderr().is_terminal()).with_target(false)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true)).try_init()
    };
    // An error says that logs have been started already, which is as good.
    if started.is_ok() {
        let _ = LEVEL.set((handle, Mutex::new(log.level.clone())));
    }
}

/// The level in force; `None` where no log was started.
pub fn level() -> Option<String> {
    LEVEL.get().map(|(_, level)| level.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Another level from now on.
///
/// # Errors
/// When it is none, or no log was started.
pub fn set_level(new: &str) -> Result<(), String> {
    let filter = new.parse::<Targets>().map_err(|error| error.to_string())?;
    let (handle, level) = LEVEL.get().ok_or("there is no log in this process")?;
    handle.reload(filter).map_err(|error| error.to_string())?;
    new.clone_into(&mut level.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}
