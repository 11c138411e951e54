//! The settings that can be changed while the program runs: the log's level and the rate limit. They hold until it ends; the
//! configuration file is not touched. Only who is on the machine may change them.

use std::net::IpAddr;

use axum::body::Bytes;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use serde_json::{Map, Value as JsonValue};
use tokio::net::TcpListener;

use super::{Served, json};
use crate::config::resolve::{no_such_setting, value_of};
use crate::config::{Value, level_problem, table};
use crate::logs;

/// Those that can be changed.
pub const LIVE: [&str; 2] = [LOG_LEVEL, RATE_LIMIT];
const LOG_LEVEL: &str = "log.level";
const RATE_LIMIT: &str = "deliver.rate_limit";

/// One change that may be made.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    LogLevel(String),
    RateLimit(u32),
}

/// The addresses of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    peer: IpAddr,
    /// `None`: the system does not tell.
    here: Option<IpAddr>,
}

impl Connected<IncomingStream<'_, TcpListener>> for Ends {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Ends {
        Ends { peer: stream.remote_addr().ip(), here: stream.io().local_addr().ok().map(|address| address.ip()) }
    }
}

impl Ends {
    /// Where `admin.listen` is not loopback, who comes from the very address that he came to is on this machine too.
    fn are_of_one_machine(&self) -> bool {
        self.peer.to_canonical().is_loopback() || self.here == Some(self.peer)
    }
}

/// Why nothing is changed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(
        "settings are changed from the instance's own machine only, and {0} is another one: run `nat-destination set` there \
         (in its container, for example)"
    )]
    NotHere(IpAddr),
    #[error(
        "the body has to be a JSON object of names and values, such as {{\"log.level\": \"debug\", \"deliver.rate_limit\": 50}}: {0}"
    )]
    NotUnderstood(serde_json::Error),
    #[error("{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Refused::NotHere(_) => StatusCode::FORBIDDEN,
            Refused::NotUnderstood(_) | Refused::Wrong(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status(), format!("{self}\n")).into_response()
    }
}

/// `GET /settings`: what holds.
pub(super) async fn tell(State(served): State<Served>) -> Response {
    json(&serde_json::json!({ LOG_LEVEL: logs::level(), RATE_LIMIT: *served.rate_limit.borrow() }))
}

/// `PUT /settings`: all of the changes, or none.
pub(super) async fn change(
    State(served): State<Served>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    body: Bytes,
) -> Response {
    let changes = match decide(&ends, &body) {
        Ok(changes) => changes,
        Err(refused) => return refused.into_response(),
    };
    for change in changes {
        if let Err(error) = apply(&served, change) {
            return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
        }
    }
    tell(State(served)).await
}

fn apply(served: &Served, change: Change) -> Result<(), String> {
    match change {
        Change::LogLevel(level) => {
            logs::set_level(&level).map_err(|error| format!("{LOG_LEVEL}: {error}"))?;
            tracing::info!(level, "{LOG_LEVEL} changed while running");
        }
        Change::RateLimit(limit) => {
            served.rate_limit.send_replace(limit);
            tracing::info!(limit, "{RATE_LIMIT} changed while running");
        }
    }
    Ok(())
}

/// What is to be changed, if whoever asks may and all of it is right.
fn decide(ends: &Ends, body: &[u8]) -> Result<Vec<Change>, Refused> {
    if !ends.are_of_one_machine() {
        return Err(Refused::NotHere(ends.peer));
    }
    let wanted: Map<String, JsonValue> = serde_json::from_slice(body).map_err(Refused::NotUnderstood)?;
    let (mut changes, mut wrong) = (Vec::new(), Vec::new());
    for (name, value) in &wanted {
        match one_change(name, value) {
            Ok(change) => changes.push(change),
            Err(problem) => wrong.push(format!("{name}: {problem}")),
        }
    }
    if wrong.is_empty() { Ok(changes) } else { Err(Refused::Wrong(wrong)) }
}

fn one_change(name: &str, value: &JsonValue) -> Result<Change, String> {
    let Some(setting) = table::find(name) else {
        return Err(match name.starts_with(table::PROPERTIES) {
            true => needs_a_restart(),
            false => no_such_setting(name),
        });
    };
    if !LIVE.contains(&name) {
        return Err(needs_a_restart());
    }
    let text = match value {
        JsonValue::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value_of(setting, &text)? {
        Value::Number(limit) => u32::try_from(limit).map(Change::RateLimit).map_err(|error| error.to_string()),
        Value::Text(level) => level_problem(&level).map_or(Ok(Change::LogLevel(level)), Err),
        other => Err(format!("{other} cannot be changed")),
    }
}

fn needs_a_restart() -> String {
    format!("a change of it needs a restart; without one: {}", LIVE.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(peer: &str) -> Ends {
        Ends { peer: peer.parse().expect("an address"), here: "192.0.2.2".parse().ok() }
    }

    fn refused(peer: &str, body: &str) -> (u16, String) {
        let refused = decide(&from(peer), body.as_bytes()).expect_err("refused");
        (refused.status().as_u16(), refused.to_string())
    }

    #[test]
    fn only_who_is_on_the_machine_may_change_settings() {
        let body = br#"{"deliver.rate_limit": 50, "log.level": "debug"}"#;
        // The last is the address that the connection came to.
        for here in ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1", "192.0.2.2"] {
            assert_eq!(decide(&from(here), body).expect("allowed").len(), 2, "{here}");
        }
        for elsewhere in ["10.0.0.7", "192.168.1.1", "::ffff:10.0.0.7", "fe80::1", "0.0.0.0"] {
            let (status, told) = refused(elsewhere, r#"{"log.level": "debug"}"#);
            assert_eq!(status, 403);
            assert!(told.contains("from the instance's own machine only") && told.contains(elsewhere), "{told}");
        }
    }

    #[test]
    fn numbers_and_texts_are_understood() {
        for body in [r#"{"deliver.rate_limit": 50}"#, r#"{"deliver.rate_limit": "50"}"#] {
            assert_eq!(decide(&from("127.0.0.1"), body.as_bytes()).expect("right"), [Change::RateLimit(50)]);
        }
        let level = "info,nat_destination::deliver=debug";
        let body = serde_json::json!({ LOG_LEVEL: level }).to_string();
        assert_eq!(decide(&from("127.0.0.1"), body.as_bytes()).expect("right"), [Change::LogLevel(level.into())]);
    }

    #[test]
    fn what_cannot_be_changed_is_told_with_what_to_do_and_nothing_is_changed() {
        for (body, part) in [
            (r#"{"nat.url": "https://x", "log.level": "debug"}"#, "nat.url: a change of it needs a restart"),
            (r#"{"kafka.properties.sasl.password": "x"}"#, "needs a restart"),
            (r#"{"deliver.ratelimit": 5}"#, "did you mean deliver.rate_limit?"),
            (r#"{"deliver.rate_limit": -1}"#, "it must be a whole number from 0 to 1000000"),
            (r#"{"deliver.rate_limit": null}"#, "it must be a whole number"),
            (r#"{"log.level": "loud"}"#, "it must be error, warn, info, debug or trace"),
            (r#"{"log.level": ""}"#, "a text that is not empty"),
            ("[]", "has to be a JSON object"),
            ("", "has to be a JSON object"),
        ] {
            let (status, told) = refused("127.0.0.1", body);
            assert!(status == 400 && told.contains(part), "{body}: {told}");
        }
    }
}
