//! The HTTP client: one event a request, the key as the configuration says, no redirects, a bounded answer.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};

use super::verdict::{self, Answer, Failure};
use crate::config::{Auth, KeySource, Nat};

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
    settings: Nat,
    http: reqwest::Client,
    url: reqwest::Url,
    headers: HeaderMap,
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
        let headers = headers(&settings)?;
        Ok(NatClient { settings, http, url, headers })
    }

    /// Reads the key again: a new one is picked up without a restart.
    ///
    /// # Errors
    /// As `new`; the key that was is kept then.
    pub fn read_key_again(&mut self) -> Result<(), ClientError> {
        self.headers = headers(&self.settings)?;
        Ok(())
    }

    /// Sends one event. The future owns all it needs, so that it can run outside of the caller's loop.
    pub fn send(
        &self,
        body: Bytes,
        idempotency_key: &str,
    ) -> impl Future<Output = (Answer, Duration)> + Send + 'static {
        let request = self.http.post(self.url.clone()).headers(self.headers.clone());
        let request = request.header(IDEMPOTENCY_KEY, idempotency_key).body(body).send();
        async move {
            let began = std::time::Instant::now();
            let answer = match request.await {
                Ok(response) => read_answer(response).await,
                Err(error) => failed(&error),
            };
            (answer, began.elapsed())
        }
    }
}

async fn read_answer(mut response: reqwest::Response) -> Answer {
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
    let body = if status.is_success() { String::new() } else { verdict::redacted(&String::from_utf8_lossy(&body)) };
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

fn headers(settings: &Nat) -> Result<HeaderMap, ClientError> {
    let key = read_key(&settings.key)?;
    let (name, value) = match &settings.auth {
        Auth::Basic => (AUTHORIZATION, format!("Basic {}", STANDARD.encode(format!("{key}:")))),
        Auth::Bearer => (AUTHORIZATION, format!("Bearer {key}")),
        Auth::Header(name) => {
            let header = HeaderName::try_from(name).map_err(|_| ClientError::HeaderName(name.clone()))?;
            (header, key)
        }
    };
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| key_error(&settings.key, "it has characters that an HTTP header cannot carry".into()))?;
    value.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(name, value);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(headers)
}

fn key_error(source: &KeySource, problem: String) -> ClientError {
    let setting = match source {
        KeySource::File(_) => "nat.api_key_file",
        KeySource::Value(_) => "nat.api_key",
    };
    ClientError::Key { setting, problem }
}

/// What is wrong with the key, if anything is: for `check`.
pub fn key_problem(settings: &Nat) -> Option<ClientError> {
    headers(settings).err()
}

/// The key without the one line end that editors and `echo` leave behind it.
fn read_key(source: &KeySource) -> Result<String, ClientError> {
    let (key, place) = match source {
        KeySource::Value(key) => (key.clone(), "it".to_owned()),
        KeySource::File(path) => {
            let place = path.display().to_string();
            let key = std::fs::read_to_string(path).map_err(|error| {
                key_error(
                    source,
                    format!("{place} cannot be read: {error}; write Nat.app's API key into it, and nothing else"),
                )
            })?;
            (key, place)
        }
    };
    let key = key.strip_suffix('\n').unwrap_or(&key);
    let key = key.strip_suffix('\r').unwrap_or(key);
    if key.trim().is_empty() {
        return Err(key_error(source, format!("{place} is empty; it has to hold Nat.app's API key")));
    }
    if key.contains(char::is_whitespace) {
        let problem =
            format!("{place} holds a space or more than one line; it has to hold the API key and nothing else");
        return Err(key_error(source, problem));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nat(key: KeySource, auth: Auth) -> Nat {
        Nat { url: "http://127.0.0.1:1/".into(), key, auth, timeout: Duration::from_secs(1) }
    }

    #[test]
    fn the_key_is_the_user_name_of_basic_auth() {
        let headers = headers(&nat(KeySource::Value("abc".into()), Auth::Basic)).expect("right");
        assert_eq!(headers[AUTHORIZATION], "Basic YWJjOg==");
        assert!(!format!("{headers:?}").contains("YWJj"), "the key would be shown in a log");
    }

    #[test]
    fn other_schemes_send_the_key_as_configured() {
        let key = KeySource::Value("abc".into());
        assert_eq!(headers(&nat(key.clone(), Auth::Bearer)).expect("right")[AUTHORIZATION], "Bearer abc");
        let custom = headers(&nat(key.clone(), Auth::Header("X-API-Key".into()))).expect("right");
        assert_eq!(custom["x-api-key"], "abc");
        assert!(headers(&nat(key, Auth::Header("not a header".into()))).is_err());
    }

    #[test]
    fn a_key_file_that_is_missing_empty_or_of_several_lines_is_a_clear_error() {
        let path = std::env::temp_dir().join(format!("nat-destination-key-{}", std::process::id()));
        let source = KeySource::File(path.clone());
        let problem = |text: &str| {
            std::fs::write(&path, text).expect("written");
            read_key(&source).map_err(|error| error.to_string())
        };
        assert_eq!(problem("abc\r\n").as_deref(), Ok("abc"));
        for (text, part) in [("", "is empty"), ("\n", "is empty"), ("a\nb\n", "more than one line"), ("a b", "space")] {
            let told = problem(text).expect_err("not a key");
            assert!(told.starts_with("nat.api_key_file: ") && told.contains(part), "{told}");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(read_key(&source).expect_err("missing").to_string().contains("cannot be read"));
    }
}
