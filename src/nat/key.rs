//! The API key: read at the start, and again when its file changes, so that a new one needs no restart.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::watch;

use super::client::ClientError;
use crate::address::REDACTED;
use crate::config::{Auth, KeySource, Nat};

/// How often the file is looked at. Files that are mounted are often exchanged in ways that no notice comes of.
const EVERY: Duration = Duration::from_secs(1);

/// What a request is sent with.
#[derive(Clone, PartialEq)]
pub struct Carried {
    pub headers: HeaderMap,
    pub secrets: Secrets,
}

/// The key and what stands for it in the headers: taken out of an answer that repeats it.
#[derive(Clone, PartialEq)]
pub struct Secrets(Arc<[String]>);

impl Secrets {
    /// The text, with `(redacted)` for the key.
    pub fn taken_out_of(&self, text: &str) -> String {
        // One of three letters would be found in every other word.
        let secrets = self.0.iter().filter(|secret| secret.len() > 3);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), REDACTED))
    }
}

/// The key, as the headers that carry it.
pub struct Key {
    settings: Nat,
    carried: watch::Sender<Carried>,
    /// What was wrong with the file when it was last read: said once, not every second.
    problem: Mutex<Option<String>>,
}

impl Key {
    /// # Errors
    /// When the key cannot be read or is not one, naming the setting.
    pub fn read(settings: Nat) -> Result<Key, ClientError> {
        let carried = watch::Sender::new(carried(&settings)?);
        Ok(Key { settings, carried, problem: Mutex::default() })
    }

    pub fn carried(&self) -> Carried {
        self.carried.borrow().clone()
    }

    /// Hears of each new key.
    pub fn news(&self) -> watch::Receiver<Carried> {
        self.carried.subscribe()
    }

    /// Whether the file was when it was last read; the next start would fail.
    pub fn is_wrong(&self) -> bool {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Takes what the file holds now. Where that is no key, the one that was is kept.
    pub fn read_again(&self) {
        let mut last_problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        match carried(&self.settings) {
            Ok(new) => {
                let was_wrong = last_problem.take().is_some();
                let changed = self.carried.send_if_modified(|held| {
                    let changed = *held != new;
                    *held = new;
                    changed
                });
                if let Some(told) = told(changed, was_wrong) {
                    tracing::info!("{told}");
                }
            }
            Err(error) => {
                let problem = error.to_string();
                if last_problem.as_ref() != Some(&problem) {
                    tracing::warn!(%problem, "the API key cannot be read again; the one that was is used");
                    *last_problem = Some(problem);
                }
            }
        }
    }
}

/// What is logged of a key that could be read. After one that could not it is said that all is well again, also where it is the
/// same one: the warning would be the last word.
fn told(changed: bool, was_wrong: bool) -> Option<&'static str> {
    match (changed, was_wrong) {
        (true, _) => Some("the API key has changed: every request from now on is sent with the new one"),
        (false, true) => Some("the API key can be read again; it is the one that was used meanwhile"),
        (false, false) => None,
    }
}

/// Reads the key again whenever its file has changed, for as long as the runtime lives, and tells each time whether the file
/// is wrong.
pub fn watch_key(key: Arc<Key>, is_wrong: impl Fn(bool) + Send + 'static) {
    if matches!(key.settings.key, KeySource::Value(_)) {
        return; // It cannot change.
    }
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(EVERY).await;
            let again = Arc::clone(&key);
            // A file system may be slow to answer; then the next look waits, and nothing else.
            let _ = tokio::task::spawn_blocking(move || again.read_again()).await;
            is_wrong(key.is_wrong());
        }
    });
}

fn carried(settings: &Nat) -> Result<Carried, ClientError> {
    let key = read_key(&settings.key)?;
    let secrets = Secrets([key.clone(), STANDARD.encode(format!("{key}:"))].into());
    let (name, value) = match &settings.auth {
        // What stands behind it would be taken for the password's beginning (RFC 7617, section 2).
        Auth::Basic if key.contains(':') => {
            let problem = "it has a colon, which cannot be sent with nat.auth = \"basic\"";
            return Err(key_error(&settings.key, problem.into()));
        }
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
    Ok(Carried { headers, secrets })
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
    carried(settings).err()
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
    if !key.is_ascii() {
        let problem = format!(
            "{place} holds a character that no API key has (a byte order mark, perhaps): save it as plain text, ASCII"
        );
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

    fn headers(settings: &Nat) -> Result<HeaderMap, ClientError> {
        carried(settings).map(|carried| carried.headers)
    }

    #[test]
    fn an_answer_that_repeats_the_key_is_kept_without_it() {
        let kept = |key: &str, text: &str| {
            carried(&nat(KeySource::Value(key.into()), Auth::Basic)).expect("right").secrets.taken_out_of(text)
        };
        let told =
            kept("nat_live_0123", r#"{"message":"key nat_live_0123 (Basic bmF0X2xpdmVfMDEyMzo=) has no permission"}"#);
        assert_eq!(told, r#"{"message":"key (redacted) (Basic (redacted)) has no permission"}"#);
        assert_eq!(kept("e", "the event"), "the event");
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
        let colon = KeySource::Value("a:b".into());
        let told = headers(&nat(colon.clone(), Auth::Basic)).expect_err("cut in two").to_string();
        assert!(told.contains("it has a colon, which cannot be sent with nat.auth = \"basic\""), "{told}");
        assert_eq!(headers(&nat(colon, Auth::Bearer)).expect("right")[AUTHORIZATION], "Bearer a:b");
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
        for (text, part) in [
            ("", "is empty"),
            ("\n", "is empty"),
            ("a\nb\n", "more than one line"),
            ("a b", "space"),
            ("\u{feff}abc", "byte order mark"),
        ] {
            let told = problem(text).expect_err("not a key");
            assert!(told.starts_with("nat.api_key_file: ") && told.contains(part), "{told}");
        }
        std::fs::remove_file(&path).expect("removed");
        assert!(read_key(&source).expect_err("missing").to_string().contains("cannot be read"));
    }

    #[test]
    fn a_new_key_is_taken_and_a_broken_file_keeps_the_old_one() {
        let path = std::env::temp_dir().join(format!("nat-destination-new-key-{}", std::process::id()));
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("old");
        let key = Key::read(nat(KeySource::File(path.clone()), Auth::Bearer)).expect("right");
        let sent = || key.carried().headers[AUTHORIZATION].to_str().expect("text").to_owned();
        for (text, expected) in [("new", "Bearer new"), ("", "Bearer new"), ("a b", "Bearer new"), ("x", "Bearer x")] {
            write(text);
            key.read_again();
            assert_eq!(sent(), expected, "after {text:?}");
            assert_eq!(key.is_wrong(), text.is_empty() || text.contains(' '), "after {text:?}");
        }
        std::fs::remove_file(&path).expect("removed");
        key.read_again();
        assert_eq!(sent(), "Bearer x");
    }

    #[test]
    fn a_file_that_is_right_again_is_told_with_the_same_key_too() {
        assert_eq!(told(false, false), None);
        assert!(told(false, true).is_some_and(|told| told.contains("can be read again")));
        for was_wrong in [false, true] {
            assert!(told(true, was_wrong).is_some_and(|told| told.contains("has changed")));
        }
    }
}
