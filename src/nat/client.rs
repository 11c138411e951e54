//! The HTTP client: one event a request, with the key that holds at that moment, no redirects, a bounded answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::{HeaderName, RETRY_AFTER};

use super::key::{Carried, Key, Secrets};
use super::verdict::{self, Answer, Failure};
use crate::config::Nat;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Of an answer's body no more than this is read.
const LONGEST_ANSWER: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{setting}: {problem}")]
    Key { setting: &'static str, problem: String },
    #[error("nat.auth_header = {0:?}: it must be the name of an HTTP header, such as X-API-Key")]
    HeaderName(String),
    #[error(
        "the HTTP client cannot be made: {0}; the system's TLS certificates may be missing: apt-get install ca-certificates"
    )]
    Http(#[from] reqwest::Error),
}

pub struct NatClient {
    http: reqwest::Client,
    url: reqwest::Url,
    key: Arc<Key>,
}

impl NatClient {
    /// # Errors
    /// When the key cannot be read or is not one, naming the setting.
    pub fn new(settings: Nat, concurrency: usize) -> Result<NatClient, ClientError> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(settings.timeout)
            .pool_max_idle_per_host(concurrency)
            .tcp_nodelay(true)
            .user_agent(concat!("nat-destination/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let url = http.post(&settings.url).build()?.url().clone();
        let key = Arc::new(Key::read(settings)?);
        Ok(NatClient { http, url, key })
    }

    /// The key that the requests carry, to be read again.
    pub fn key(&self) -> &Arc<Key> {
        &self.key
    }

    /// Sends one event. The future owns all it needs, so that it can run outside of the caller's loop.
    pub fn send(
        &self,
        body: Bytes,
        idempotency_key: &str,
    ) -> impl Future<Output = (Answer, Duration)> + Send + 'static {
        let Carried { headers, secrets } = self.key.carried();
        let request = self.http.post(self.url.clone()).headers(headers);
        let request = request.header(IDEMPOTENCY_KEY, idempotency_key).body(body).send();
        async move {
            let began = std::time::Instant::now();
            let answer = match request.await {
                Ok(response) => read_answer(response, &secrets).await,
                Err(error) => failed(&error),
            };
            (answer, began.elapsed())
        }
    }
}

async fn read_answer(mut response: reqwest::Response, secrets: &Secrets) -> Answer {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| verdict::retry_after(value, Timestamp::now()));
    // Read to its end, so that the connection can be used again, unless it has none.
    let mut body = Vec::new();
    while body.len() < LONGEST_ANSWER {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            // The status has been read: that is the answer, whatever becomes of the rest.
            Ok(None) | Err(_) => break,
        }
    }
    let body = match status.is_success() {
        true => String::new(),
        false => verdict::redacted(&secrets.taken_out_of(&String::from_utf8_lossy(&body))),
    };
    Answer::Status { status: status.as_u16(), retry_after, body }
}

fn failed(error: &reqwest::Error) -> Answer {
    let failure = if error.is_timeout() { Failure::Timeout } else { Failure::Connection };
    // The innermost cause says most ("connection refused"); the outer ones repeat the address.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Answer::Failed { failure, message: verdict::redacted(&cause.to_string()) }
}
