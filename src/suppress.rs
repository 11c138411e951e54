//! The suppression list: contacts of whom Nat.app is told nothing any more. A file of email addresses or contact hashes, so
//! that nobody has to keep plain addresses; their events are filtered, `suppressed`. It is looked at again while the service
//! runs: a list that becomes wrong leaves the one that was in force.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::dedup::{Contact, digits};
use crate::metrics::Metrics;
use crate::segment::{Filtered, Outcome, normalise_email};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is wrong with the list. It never quotes a line: that may be an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuppressProblem {
    #[error("suppress.file = {path:?}: it cannot be read: {cause}")]
    Unreadable { path: PathBuf, cause: String },
    #[error(
        "suppress.file = {path:?}, line {line}: it is neither an email address nor a contact hash of 12 or 32 hexadecimal \
         digits (nat-destination explain --hash --contact EMAIL prints one). Comments begin with #"
    )]
    Line { path: PathBuf, line: usize },
}

/// Its contacts, whole or by the beginning of their hash.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SuppressList {
    whole: HashSet<[u8; 16]>,
    short: HashSet<[u8; 6]>,
}

impl SuppressList {
    /// # Errors
    /// When the file cannot be read, or a line of it.
    pub fn read(path: &Path) -> Result<SuppressList, SuppressProblem> {
        let path = path.to_owned();
        match fs::read(&path) {
            Ok(text) => SuppressList::parse(&text).map_err(|line| SuppressProblem::Line { path, line }),
            Err(error) => Err(SuppressProblem::Unreadable { path, cause: error.to_string() }),
        }
    }

    /// # Errors
    /// The number of the first line that is wrong.
    pub fn parse(text: &[u8]) -> Result<SuppressList, usize> {
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        let mut list = SuppressList::default();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = std::str::from_utf8(line).map_err(|_| number + 1)?;
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some(contact), rest) if !contact.starts_with('#') => {
                    let alone = rest.is_none_or(|rest| rest.starts_with('#'));
                    list.add(contact).filter(|()| alone).ok_or(number + 1)?;
                }
                _ => {}
            }
        }
        Ok(list)
    }

    fn add(&mut self, contact: &str) -> Option<()> {
        if contact.contains('@') {
            self.whole.insert(Contact::of(&address(contact)?).0);
        } else {
            match contact.len() {
                12 => self.short.insert(digits(contact)?),
                32 => self.whole.insert(digits(contact)?),
                _ => return None,
            };
        }
        Some(())
    }

    pub fn holds(&self, contact: &Contact) -> bool {
        let [a, b, c, d, e, f, ..] = contact.0;
        self.whole.contains(&contact.0) || self.short.contains(&[a, b, c, d, e, f])
    }

    pub fn len(&self) -> usize {
        self.whole.len() + self.short.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outcome of an event, with the list honoured. What would be a dead letter is filtered too where its contact is
    /// known: nothing of that person is to be kept.
    #[inline]
    pub fn honoured<'a>(&self, outcome: Outcome<'a>) -> Outcome<'a> {
        if self.is_empty() {
            return outcome;
        }
        let email = match &outcome {
            Outcome::Identify(identify) => Some(identify.email.as_str()),
            Outcome::Invalid { email, .. } => email.as_deref(),
            Outcome::Filtered(_) => None,
        };
        match email {
            Some(email) if self.holds(&Contact::of(email)) => Outcome::Filtered(Filtered::Suppressed),
            _ => outcome,
        }
    }
}

/// An address as events have it. What a spreadsheet or a mail program puts around one would make it another contact, of whom
/// no event ever comes: such a line is wrong. An address that has such characters is listed by its hash.
fn address(contact: &str) -> Option<String> {
    let email = normalise_email(contact).ok()?;
    let (local, domain) = email.split_once('@')?;
    let is_quoted = local.starts_with('\'') || local.contains(|c| "\"<>()[],;:\\/*".contains(c));
    let is_domain = domain.chars().all(|c| !c.is_ascii_punctuation() || "-._".contains(c));
    (is_domain && !is_quoted).then_some(email)
}

/// The list as a stage has it.
#[derive(Debug, Clone)]
pub struct Suppressed {
    list: Arc<SuppressList>,
    news: watch::Receiver<Arc<SuppressList>>,
}

impl Suppressed {
    /// Reads the list, and watches its file from now on. Without a file nobody is on it.
    ///
    /// # Errors
    /// When it is wrong, naming the setting and the line.
    pub fn start(path: Option<&Path>, metrics: &Arc<Metrics>) -> Result<Suppressed, SuppressProblem> {
        let Some(path) = path else {
            let list = Arc::new(SuppressList::default());
            return Ok(Suppressed { list: Arc::clone(&list), news: watch::channel(list).1 });
        };
        // Before it is read: a change in between is then seen as one.
        let stamp = stamp(path);
        let list = Arc::new(SuppressList::read(path)?);
        tracing::info!(contacts = list.len(), "the suppression list is read");
        metrics.suppress_file_contacts.set(list.len() as i64);
        let (sender, news) = watch::channel(Arc::clone(&list));
        let metrics = Arc::clone(metrics);
        let mut file = File { path: path.to_owned(), taken: stamp, seen: stamp, problem: None, metrics };
        let unreadable = |error: std::io::Error| SuppressProblem::Unreadable {
            path: path.to_owned(),
            cause: format!("a thread cannot be started: {error}"),
        };
        // The file may lie on a disk that hangs, which must not hold up anything else.
        let watch = move || {
            while !sender.is_closed() {
                std::thread::sleep(LOOK_EVERY);
                if let Some(list) = file.look() {
                    sender.send_replace(Arc::new(list));
                }
            }
        };
        std::thread::Builder::new().name("suppress-list".into()).spawn(watch).map_err(unreadable)?;
        Ok(Suppressed { list, news })
    }

    /// Takes a new list, if there is one. Cheap: for each turn.
    pub fn look(&mut self) {
        if self.news.has_changed().unwrap_or(false) {
            self.list = Arc::clone(&self.news.borrow_and_update());
        }
    }

    pub fn list(&self) -> &SuppressList {
        &self.list
    }
}

/// What tells one content of a file from another. Length and time of writing alone do not: hashes are all of one length, and
/// rsync, cp -p and image layers set the time. Which file it is, and when that was last touched in any way, nobody sets.
/// `None`: it is not there.
type Stamp = Option<Touched>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Touched {
    length: u64,
    file: (u64, u64),
    written: (i64, i64),
    changed: (i64, i64),
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some(Touched {
        length: found.len(),
        file: (found.dev(), found.ino()),
        written: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

struct File {
    path: PathBuf,
    /// Of what was taken, or found to be wrong.
    taken: Stamp,
    /// At the last look.
    seen: Stamp,
    /// What is wrong with it now.
    problem: Option<SuppressProblem>,
    metrics: Arc<Metrics>,
}

impl File {
    /// The list, if there is a new one that is right.
    fn look(&mut self) -> Option<SuppressList> {
        let now = stamp(&self.path);
        // One that is just being written is not whole yet: it is taken when it has stayed as it is for one look.
        let still = std::mem::replace(&mut self.seen, now) == now;
        // One that is wrong is read until it is right: mended permissions of its directory change nothing that the stamp tells.
        if !still || (now == self.taken && self.problem.is_none()) {
            return None;
        }
        self.taken = now;
        let (list, problem) = match SuppressList::read(&self.path) {
            Ok(list) => (Some(list), None),
            Err(problem) => (None, Some(problem)),
        };
        self.metrics.suppress_file_wrong.set(problem.is_some().into());
        if let Some(list) = &list {
            let had = self.metrics.suppress_file_contacts.get();
            self.metrics.suppress_file_contacts.set(list.len() as i64);
            match list.is_empty() {
                true if had > 0 => tracing::warn!(
                    had,
                    "the suppression list has become empty: from now on everybody who was on it is delivered again"
                ),
                _ => tracing::info!(contacts = list.len(), "the suppression list has changed and is read again"),
            }
        }
        if let Some(problem) = problem.as_ref().filter(|problem| self.problem.as_ref() != Some(problem)) {
            tracing::warn!(%problem, "the suppression list is wrong now; the one that was stays in force");
        }
        self.problem = problem;
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADA: &str = "ada@example.com";

    #[test]
    fn an_address_and_both_hashes_name_the_same_contact_and_nobody_else() {
        let ada = Contact::of(ADA);
        let whole = ada.whole();
        for line in [" Ada@Example.com ", &ada.to_string(), &whole, &whole.to_uppercase()] {
            let list = SuppressList::parse(line.as_bytes()).expect(line);
            assert!(list.holds(&ada), "{line}");
            assert!(!list.holds(&Contact::of("bob@example.com")), "{line}");
        }
    }

    #[test]
    fn comments_blank_lines_and_line_ends_of_any_kind_are_no_contacts() {
        let text =
            "\u{feff}# people who asked\r\n\r\n  \nada@example.com # ticket 17\r\n0123456789ab\n#bob@example.com";
        assert_eq!(SuppressList::parse(text.as_bytes()).map(|list| list.len()), Ok(2));
        assert_eq!(SuppressList::parse(b"").map(|list| list.is_empty()), Ok(true));
    }

    #[test]
    fn the_first_wrong_line_is_told_by_its_number() {
        for wrong in
            ["ada", "ada@example", "0123456789", "0123456789ag", "+123456789ab", "a@b.c d@e.f", "\u{e9}123456789ab"]
        {
            assert_eq!(SuppressList::parse(format!("# who\n{wrong}\nx").as_bytes()), Err(2), "{wrong}");
        }
        assert_eq!(SuppressList::parse(b"ada@example.com\n\xff"), Err(2));
    }

    #[test]
    fn an_address_with_something_around_it_is_a_wrong_line_and_not_somebody_else() {
        for wrong in [
            "ada@example.com,",
            "ada@example.com;",
            "\"ada@example.com\"",
            "'ada@example.com'",
            "mailto:ada@example.com",
            "<ada@example.com>",
            "*@example.com",
            "//ada@example.com",
            "ada@example.com#left",
        ] {
            assert_eq!(SuppressList::parse(wrong.as_bytes()), Err(1), "{wrong}");
        }
        for right in ["o'brien+list@mail.example.com", "ad\u{e9}le@b\u{fc}cher.example", "a_b-c.d@x-y.example"] {
            let list = SuppressList::parse(right.as_bytes()).expect(right);
            assert!(list.holds(&Contact::of(right)), "{right}");
        }
    }

    #[test]
    fn a_suppressed_contacts_events_are_filtered_even_those_that_would_be_dead_letters() {
        let list = SuppressList::parse(ADA.as_bytes()).expect("a list");
        let reason = |event: &str| {
            let outcome = crate::segment::classify(&Default::default(), event.as_bytes(), jiff::Timestamp::now());
            matches!(list.honoured(outcome), Outcome::Filtered(Filtered::Suppressed))
        };
        assert!(reason(r#"{"type":"identify","timestamp":"2026-11-20T08:00:00Z","email":"Ada@example.com"}"#));
        assert!(reason(r#"{"type":"identify","email":"ada@example.com"}"#));
        assert!(!reason(r#"{"type":"identify","email":"bob@example.com"}"#));
        assert!(!reason(r#"{"type":"track","email":"ada@example.com"}"#));
    }

    #[test]
    fn a_change_is_taken_once_it_stays_and_a_wrong_one_is_not() {
        let path = std::env::temp_dir().join(format!("nat-destination-suppress-{}", std::process::id()));
        fs::write(&path, ADA).expect("written");
        let first = stamp(&path);
        let metrics = Metrics::new().expect("a sound catalogue");
        let told = Arc::clone(&metrics);
        let mut file = File { path: path.clone(), taken: first, seen: first, problem: None, metrics };
        let mut looks = |expected: [Option<usize>; 3], wrong: i64| {
            for expected in expected {
                assert_eq!(file.look().map(|list| list.len()), expected);
            }
            assert_eq!(told.suppress_file_wrong.get(), wrong);
        };
        looks([None, None, None], 0);
        fs::write(&path, format!("{ADA}\nbob@example.com")).expect("written");
        looks([None, Some(2), None], 0);
        fs::write(&path, "who?").expect("written");
        looks([None, None, None], 1);
        // It is away, and comes back mended.
        let away = path.with_extension("away");
        fs::rename(&path, &away).expect("renamed");
        looks([None, None, None], 1);
        fs::write(&away, ADA).expect("written");
        fs::rename(&away, &path).expect("renamed");
        looks([None, Some(1), None], 0);
        fs::remove_file(&path).expect("removed");
        looks([None, None, None], 1);
    }

    #[test]
    fn a_list_of_the_same_length_and_time_is_taken_in_place_or_renamed_over_the_old_one() {
        let directory = std::env::temp_dir();
        let named = |name| directory.join(format!("nat-destination-{name}-{}", std::process::id()));
        let (path, new) = (named("suppress-same"), named("suppress-same-new"));
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let write = |path: &Path, email: &str| {
            fs::write(path, Contact::of(email).whole()).expect("written");
            fs::File::options()
                .write(true)
                .open(path)
                .and_then(|file| file.set_modified(time))
                .expect("its time is set");
        };
        write(&path, ADA);
        let first = stamp(&path);
        let metrics = Metrics::new().expect("a sound catalogue");
        let mut file = File { path: path.clone(), taken: first, seen: first, problem: None, metrics };
        let mut taken = |email: &str| {
            let found: Vec<_> = (0..3).filter_map(|_| file.look()).collect();
            assert!(matches!(&found[..], [list] if list.holds(&Contact::of(email))), "{email}: {found:?}");
        };
        write(&new, "bob@example.com");
        fs::rename(&new, &path).expect("renamed");
        taken("bob@example.com");
        let before = stamp(&path);
        // A file system's clock ticks every few milliseconds only.
        while stamp(&path) == before {
            write(&path, "eve@example.com");
        }
        taken("eve@example.com");
        fs::remove_file(&path).expect("removed");
    }
}
