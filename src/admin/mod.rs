//! The admin server: `/metrics`, `/livez` (is it stuck?) and `/readyz` (does it deliver?), each of which says why; `/status`,
//! all of it at once for `nat-destination status`; `/settings`, what can be changed while it runs.

pub mod settings;
pub mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::stage::{CircuitOpen, StageStatus};

#[derive(Debug, thiserror::Error)]
#[error(
    "admin.listen = \"{address}\": {error}; another program may be listening there: choose a free port, or port 0 for any"
)]
pub struct AdminError {
    address: SocketAddr,
    error: std::io::Error,
}

/// What the server tells of, and what can be changed through it.
#[derive(Clone)]
pub struct Served {
    metrics: Arc<Metrics>,
    ingest: watch::Receiver<StageStatus>,
    deliver: watch::Receiver<StageStatus>,
    /// A stage that has said nothing for so long is stuck.
    longest_silence: Duration,
    rate_limit: watch::Sender<u32>,
    /// Tells this deployment from another one.
    queue: String,
    /// Tells this process from every other one, whichever of its addresses answers.
    instance: String,
    started_at: Timestamp,
}

impl Served {
    pub fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        ingest: watch::Receiver<StageStatus>,
        deliver: watch::Receiver<StageStatus>,
        rate_limit: watch::Sender<u32>,
    ) -> Served {
        Served {
            metrics,
            ingest,
            deliver,
            longest_silence: config.watchdog_timeout,
            rate_limit,
            queue: config.topics.queue.clone(),
            instance: format!("{:016x}", fastrand::u64(..)),
            started_at: Timestamp::now(),
        }
    }
}

/// Serves in the background for as long as the runtime lives; returns the address.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn serve(address: SocketAddr, served: Served) -> Result<SocketAddr, AdminError> {
    let failed = |error| AdminError { address, error };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let router = Router::new()
        .route("/", get(index))
        .route("/metrics", get(serve_metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/status", get(tell_status))
        .route("/settings", get(settings::tell).put(settings::change))
        .with_state(served)
        .into_make_service_with_connect_info::<settings::Ends>();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin server has ended");
        }
    });
    tracing::info!(address = %bound, "admin server: /metrics /livez /readyz /status /settings");
    Ok(bound)
}

async fn index() -> &'static str {
    "Nat destination\n\n/metrics   for Prometheus\n/livez     is it stuck?\n/readyz    does it deliver?\n\
     /status    everything at once, for `nat-destination status`\n\
     /settings  what can be changed while it runs, by `nat-destination set` on this machine\n"
}

async fn tell_status(State(served): State<Served>) -> Response {
    json(&status::Status::of(&served))
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn serve_metrics(State(served): State<Served>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], served.metrics.text())
}

async fn livez(State(served): State<Served>) -> (StatusCode, String) {
    answer(stuck(&served), "alive")
}

/// The stages that are, and for how long.
fn stuck(served: &Served) -> Vec<String> {
    [("ingest", &served.ingest), ("deliver", &served.deliver)]
        .iter()
        .map(|(name, status)| (name, status.borrow().beat.elapsed()))
        .filter(|(_, silence)| *silence > served.longest_silence)
        .map(|(name, silence)| format!("{name} has said nothing for {} s", silence.as_secs()))
        .collect()
}

async fn readyz(State(served): State<Served>) -> (StatusCode, String) {
    let (ingest, deliver) = (served.ingest.borrow().clone(), served.deliver.borrow().clone());
    let (status, mut text) = answer(why_not_ready(&ingest, &deliver), "ready");
    // It is ready all the same: a restart mends none of these, and events wait in Kafka.
    for line in troubles(&ingest, &deliver, &served.metrics) {
        text.push_str(&line);
        text.push('\n');
    }
    (status, text)
}

/// What a person should know of a service that is ready.
fn troubles(ingest: &StageStatus, deliver: &StageStatus, metrics: &Metrics) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(CircuitOpen { reason, since }) = deliver.circuit {
        lines.push(format!("circuit to Nat.app open: {reason}, since {since:.0}"));
    }
    if deliver.cut_off {
        lines.push("the group does not confirm that this instance is a member: nothing is sent until it does".into());
    }
    if let Some(until) = deliver.held_until {
        lines.push(format!("Nat.app said not to come back before {until:.0}"));
    }
    for (topic, partition) in ingest.stopped.iter().chain(&deliver.stopped) {
        lines.push(format!("partition {partition} of {topic} is not read on: its offset is not in it; see the log"));
    }
    if metrics.api_key_file_wrong.get() > 0 {
        lines.push(
            "nat.api_key_file holds no usable key, and the one that was is used until the next start; see the log"
                .into(),
        );
    }
    if metrics.suppress_file_wrong.get() > 0 {
        lines.push("suppress.file is wrong, and the list that was stays in force; see the log".into());
    }
    lines
}

fn why_not_ready(ingest: &StageStatus, deliver: &StageStatus) -> Vec<String> {
    let mut reasons = Vec::new();
    if !ingest.assigned {
        reasons.push("ingest waits for its group to assign source partitions".to_owned());
    }
    if !deliver.assigned {
        reasons.push("deliver waits for its group to assign queue partitions".to_owned());
    }
    if deliver.restoring > 0 {
        reasons.push(format!("deliver restores the delivered set of {} partition(s)", deliver.restoring));
    }
    reasons
}

fn answer(reasons: Vec<String>, fine: &str) -> (StatusCode, String) {
    if reasons.is_empty() {
        (StatusCode::OK, format!("{fine}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_why_nothing_is_delivered_and_since_when() {
        let since = "2026-11-24T08:00:00.5Z".parse().expect("a time");
        let circuit = Some(CircuitOpen { reason: "unauthorized", since });
        let fine = StageStatus::starting();
        let deliver = StageStatus { circuit, cut_off: true, held_until: Some(since), ..fine.clone() };
        let ingest = StageStatus { stopped: vec![("events".into(), 3)], ..fine.clone() };
        let metrics = Metrics::new().expect("a sound catalogue");
        metrics.api_key_file_wrong.set(1);
        metrics.suppress_file_wrong.set(1);
        assert_eq!(
            troubles(&ingest, &deliver, &metrics),
            [
                "circuit to Nat.app open: unauthorized, since 2026-11-24T08:00:00Z",
                "the group does not confirm that this instance is a member: nothing is sent until it does",
                "Nat.app said not to come back before 2026-11-24T08:00:00Z",
                "partition 3 of events is not read on: its offset is not in it; see the log",
                "nat.api_key_file holds no usable key, and the one that was is used until the next start; see the log",
                "suppress.file is wrong, and the list that was stays in force; see the log"
            ]
        );
        metrics.api_key_file_wrong.set(0);
        metrics.suppress_file_wrong.set(0);
        assert!(troubles(&fine, &fine, &metrics).is_empty());
    }

    #[test]
    fn it_is_not_ready_until_assigned_and_restored_and_says_why() {
        let waiting = StageStatus::starting();
        assert_eq!(why_not_ready(&waiting, &waiting).len(), 2);
        let assigned = StageStatus { assigned: true, ..waiting.clone() };
        let restoring = StageStatus { restoring: 3, ..assigned.clone() };
        assert_eq!(why_not_ready(&assigned, &restoring), ["deliver restores the delivered set of 3 partition(s)"]);
        assert!(why_not_ready(&assigned, &assigned).is_empty());
    }
}
