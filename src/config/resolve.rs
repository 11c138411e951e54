//! From the file, the environment and the command line to one value a setting, with where each came from. Collects
//! every problem instead of stopping at the first.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::table::{self, Kind, Setting};

/// The prefix of the environment variables that are settings.
pub const ENVIRONMENT_PREFIX: &str = "NAT_DESTINATION_";
/// Variables with that prefix which are not settings: the configuration file itself, and what the tests use.
const NOT_SETTINGS: &[&str] = &[
    "NAT_DESTINATION_CONFIG",
    "NAT_DESTINATION_TEST_",
    #[cfg(debug_assertions)]
    crate::mutant::VARIABLE,
];

/// What is wrong with one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub setting: String,
    /// The value at fault, masked if it is a secret.
    pub value: Option<String>,
    /// What is wrong, what is allowed and what to do.
    pub message: String,
    /// Nothing is wrong but that it is not set.
    pub missing: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}: {}", self.setting, self.message),
            None => write!(f, "{}: {}", self.setting, self.message),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Environment(name) => write!(f, "${name}"),
            Origin::CommandLine => write!(f, "--set"),
        }
    }
}

/// A value of the kind that the table declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    List(Vec<String>),
    Bool(bool),
    Number(u64),
    Duration(Duration),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(items) => write!(f, "{items:?}"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Duration(duration) => {
                write!(f, "\"{}\"", humantime::format_duration(*duration))
            }
        }
    }
}

/// What was read before it was understood: a text, or a list of them.
#[derive(Debug, Clone)]
enum Raw {
    One(String),
    Many(Vec<String>),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::One(text) => write!(f, "{text:?}"),
            Raw::Many(items) => write!(f, "{items:?}"),
        }
    }
}

/// What is named where the file itself cannot be read.
pub const FILE: &str = "--config";

/// The three sources of settings, the strongest last.
#[derive(Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    pub environment: Vec<(String, String)>,
    /// `name=value` each.
    pub set: Vec<String>,
}

/// One value a setting, and the librdkafka properties.
#[derive(Debug, Default, Clone)]
pub struct Resolved {
    pub values: BTreeMap<&'static str, (Value, Origin)>,
    pub properties: BTreeMap<String, (String, Origin)>,
}

/// Reads all sources; the problems are all there are.
pub fn resolve(sources: &Sources) -> (Resolved, Vec<Problem>) {
    let mut resolver = Resolver::default();
    if let Some(path) = &sources.file {
        resolver.read_file(path);
    }
    resolver.read_environment(&sources.environment);
    resolver.read_flags(&sources.set);
    resolver.fill_defaults();
    (resolver.resolved, resolver.problems)
}

#[derive(Default)]
struct Resolver {
    resolved: Resolved,
    problems: Vec<Problem>,
}

impl Resolver {
    fn problem(&mut self, setting: impl Into<String>, value: Option<String>, message: impl Into<String>) {
        self.problems.push(Problem { setting: setting.into(), value, message: message.into(), missing: false });
    }

    fn read_file(&mut self, path: &Path) {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                let hint = "write one with: nat-destination check --print-example";
                return self.problem(FILE, Some(shown.to_string()), format!("cannot be read: {error}; {hint}"));
            }
        };
        match text.parse::<toml::Table>() {
            Ok(parsed) => self.read_table("", &parsed, &Origin::File(path.to_owned())),
            Err(error) => self.problem(FILE, Some(shown.to_string()), format!("is not TOML: {error}")),
        }
    }

    fn read_table(&mut self, prefix: &str, parsed: &toml::Table, origin: &Origin) {
        for (key, value) in parsed {
            let name = format!("{prefix}{key}");
            match value {
                toml::Value::Table(inner) => self.read_table(&format!("{name}."), inner, origin),
                toml::Value::Array(items) => {
                    let items = items.iter().map(scalar).collect();
                    self.put(&name, Raw::Many(items), origin.clone());
                }
                other => self.put(&name, Raw::One(scalar(other)), origin.clone()),
            }
        }
    }

    fn read_environment(&mut self, environment: &[(String, String)]) {
        for (variable, value) in environment {
            let ours = variable.starts_with(ENVIRONMENT_PREFIX)
                && !NOT_SETTINGS.iter().any(|other| variable.starts_with(other));
            if !ours {
                continue;
            }
            let origin = Origin::Environment(variable.clone());
            let raw = Raw::One(value.clone());
            let properties = environment_name(table::PROPERTIES.trim_end_matches('.')) + "_";
            if let Some(setting) = table::SETTINGS.iter().find(|setting| environment_name(setting.name) == *variable) {
                self.put(setting.name, raw, origin);
            } else if let Some(property) = variable.strip_prefix(&properties) {
                let property = property.to_lowercase().replace('_', ".");
                self.put(&format!("{}{property}", table::PROPERTIES), raw, origin);
            } else {
                let names: Vec<String> = table::SETTINGS.iter().map(|setting| environment_name(setting.name)).collect();
                let message =
                    format!("there is no such setting{}", nearest(variable, names.iter().map(String::as_str)));
                self.problem(format!("${variable}"), None, message);
            }
        }
    }

    fn read_flags(&mut self, flags: &[String]) {
        for flag in flags {
            match flag.split_once('=') {
                Some((name, value)) => self.put(name.trim(), Raw::One(value.to_owned()), Origin::CommandLine),
                None => self.problem(
                    "--set",
                    Some(format!("{flag:?}")),
                    "it must be NAME=VALUE, such as --set nat.url=https://…",
                ),
            }
        }
    }

    fn put(&mut self, name: &str, raw: Raw, origin: Origin) {
        if let Some(property) = name.strip_prefix(table::PROPERTIES) {
            return self.put_property(property, raw, origin);
        }
        let Some(setting) = table::find(name) else {
            return self.problem(name, None, format!("{} ({origin})", no_such_setting(name)));
        };
        match understand(setting, &raw) {
            Ok(value) => {
                self.resolved.values.insert(setting.name, (value, origin));
            }
            Err(message) => {
                let value = shown(setting, &raw);
                self.problem(name, Some(value), format!("{message}; it was set by {origin}"));
            }
        }
    }

    fn put_property(&mut self, property: &str, raw: Raw, origin: Origin) {
        let name = format!("{}{property}", table::PROPERTIES);
        let Raw::One(value) = raw else {
            return self.problem(name, None, "it must be one value, not a list");
        };
        if table::RESERVED_PROPERTIES.contains(&property) {
            let message = "this program sets it itself, since its promise rests on it; remove it";
            return self.problem(name, Some(mask_property(property, &value)), message);
        }
        self.resolved.properties.insert(property.to_owned(), (value, origin));
    }

    fn fill_defaults(&mut self) {
        for setting in table::SETTINGS {
            if self.resolved.values.contains_key(setting.name) {
                continue;
            }
            if let Some(default) = setting.default {
                let raw = raw_of_literal(default);
                if let Ok(value) = parse(&setting.kind, &raw) {
                    self.resolved.values.insert(setting.name, (value, Origin::Default));
                }
            } else if setting.required && !self.problems.iter().any(|problem| problem.setting == setting.name) {
                self.missing(setting);
            }
        }
    }

    fn missing(&mut self, setting: &Setting) {
        let variable = environment_name(setting.name);
        let message = format!(
            "it has to be set: {} For example: {} = {} in the configuration file, or ${variable}, or --set {}=…",
            setting.help, setting.name, setting.example, setting.name
        );
        self.problems.push(Problem { setting: setting.name.into(), value: None, message, missing: true });
    }
}

/// `nat.url` → `NAT_DESTINATION_NAT_URL`.
pub fn environment_name(setting: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", setting.to_uppercase().replace('.', "_"))
}

/// A value at fault, without what is a secret in it.
fn shown(setting: &Setting, raw: &Raw) -> String {
    match (setting.kind, raw) {
        _ if setting.secret => "(secret)".into(),
        (Kind::HttpUrl, Raw::One(url)) if url.contains('@') => {
            let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{:?}", format!("{scheme}://(secret)@{host}"))
        }
        _ => raw.to_string(),
    }
}

/// A secret's value is never shown, nor is a property's that may be one.
pub fn mask_property(property: &str, value: &str) -> String {
    if is_secret(property) { "(secret)".into() } else { format!("{value:?}") }
}

/// Whether a setting or a property is a secret, or may be one.
pub fn is_secret(name: &str) -> bool {
    const SECRET: &[&str] = &["password", "secret", "key.pem", "oauthbearer.config", "token", "jaas"];
    let is_setting = table::SETTINGS.iter().any(|setting| setting.secret && setting.name == name);
    is_setting || SECRET.iter().any(|part| name.contains(part))
}

/// `; did you mean …?` if a name is near enough.
pub fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

fn scalar(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(value) => value.to_string(),
        toml::Value::Datetime(date) => date.to_string(),
        // Nothing that a setting could be; shown as it is.
        toml::Value::Array(_) | toml::Value::Table(_) => format!("{value:?}"),
    }
}

/// A value as it would stand in the file, read as TOML.
fn raw_of_literal(literal: &str) -> Raw {
    let parsed = format!("v = {literal}").parse::<toml::Table>().unwrap_or_default();
    match parsed.get("v") {
        Some(toml::Value::Array(items)) => Raw::Many(items.iter().map(scalar).collect()),
        Some(value) => Raw::One(scalar(value)),
        None => Raw::One(literal.to_owned()),
    }
}

/// What a text means as the value of one setting.
///
/// # Errors
/// What it must be.
pub fn value_of(setting: &Setting, text: &str) -> Result<Value, String> {
    understand(setting, &Raw::One(text.to_owned()))
}

fn understand(setting: &Setting, raw: &Raw) -> Result<Value, String> {
    parse(&setting.kind, raw).map_err(|why| {
        let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
        format!("it must be {}{why}", setting.kind.allowed())
    })
}

/// With the nearest name that is one.
pub fn no_such_setting(name: &str) -> String {
    format!("there is no such setting{}", nearest(name, table::SETTINGS.iter().map(|setting| setting.name)))
}

/// Understands a value; the error adds a reason where "it must be …" does not say it all.
fn parse(kind: &Kind, raw: &Raw) -> Result<Value, Option<String>> {
    if let Kind::List = kind {
        let items: Vec<String> = match raw {
            Raw::Many(items) => items.clone(),
            // As the file has it.
            Raw::One(text) if text.trim_start().starts_with('[') => match raw_of_literal(text) {
                Raw::Many(items) => items,
                Raw::One(_) => return Err(Some("in brackets it is TOML: [\"a\", \"b\"]; or without them: a,b".into())),
            },
            Raw::One(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
        };
        let usable = !items.is_empty() && items.iter().all(|item| !item.trim().is_empty());
        return usable.then_some(Value::List(items)).ok_or(None);
    }
    let Raw::One(text) = raw else {
        return Err(Some("a list was given".into()));
    };
    let text = text.trim();
    match kind {
        Kind::Text | Kind::Path => (!text.is_empty()).then(|| Value::Text(text.to_owned())).ok_or(None),
        Kind::Bool => text.parse().map(Value::Bool).map_err(|_| None),
        Kind::Count { min, max } => number(text.parse().ok(), *min, *max),
        Kind::Bytes { min, max } => number(parse_bytes(text), *min, *max),
        Kind::Duration { min, max } => {
            let duration = parse_duration(text).map_err(Some)?;
            let fits = (*min..=*max).contains(&duration);
            fits.then_some(Value::Duration(duration)).ok_or(None)
        }
        Kind::HttpUrl => http_url(text).map(|()| Value::Text(text.to_owned())),
        Kind::Zone => match jiff::tz::TimeZone::get(text) {
            Ok(_) => Ok(Value::Text(text.to_owned())),
            Err(error) => Err(Some(error.to_string())),
        },
        Kind::Choice(choices) => match choices.contains(&text) {
            true => Ok(Value::Text(text.to_owned())),
            false => Err(None),
        },
        Kind::Listen => match text.parse::<SocketAddr>() {
            Ok(_) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(None),
        },
        Kind::Date => match text.parse::<jiff::civil::Date>() {
            // A time behind it would be dropped.
            Ok(date) if date.to_string() != text => Err(None),
            Ok(_) => Ok(Value::Text(text.to_owned())),
            Err(error) => Err(Some(error.to_string())),
        },
        Kind::List => Err(None),
    }
}

/// A length of time as people write it; a bare 0 is one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn number(parsed: Option<u64>, min: u64, max: u64) -> Result<Value, Option<String>> {
    match parsed {
        Some(number) if (min..=max).contains(&number) => Ok(Value::Number(number)),
        _ => Err(None),
    }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn http_url(text: &str) -> Result<(), Option<String>> {
    match text.parse::<reqwest::Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
            let bare = url.username().is_empty() && url.password().is_none();
            bare.then_some(()).ok_or_else(|| Some("without a user name or password in it: use nat.api_key_file".into()))
        }
        Ok(_) => Err(None),
        Err(error) => Err(Some(error.to_string())),
    }
}
