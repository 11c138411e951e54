//! What a deployment knows of one contact: `explain --contact` tells it, `forget` takes back what was remembered. Its one
//! partition of the queue and of the delivered topic is read, and the dead letters, which are keyed otherwise.

mod forget;
mod known;
mod letter;
mod tell;

use std::process::ExitCode;

use jiff::civil::Date;

pub use forget::{ForgetArgs, run as forget};

use super::{CommandError, SettingsArgs, Stopped, load, start_logs};
use crate::config::Log;
use crate::dedup::Contact;
use crate::segment::normalise_email;
use known::Known;

/// Who is asked about, and how.
pub struct Asked<'a> {
    /// Normalised.
    pub email: &'a str,
    /// Engage keys that no event tells of any more.
    pub engage: &'a [String],
    pub day: Option<Date>,
    pub json: bool,
}

/// A clap value parser: an email as the rules normalise it.
///
/// # Errors
/// When it is none.
pub fn email(text: &str) -> Result<String, String> {
    normalise_email(text).map_err(|_| "it is no email address".to_owned())
}

/// `explain --contact`.
pub async fn explain(asked: &Asked<'_>, settings: &SettingsArgs) -> Result<ExitCode, CommandError> {
    start_logs(&Log { format: "human".into(), level: "error".into() });
    let config = load(settings)?;
    let known = Known::gather(&config, asked.email, asked.engage, Stopped::listen()).await?;
    let known = match asked.day {
        Some(day) => known.of_day(day),
        None => known,
    };
    let text = if asked.json { format!("{}\n", tell::json(&known)) } else { tell::words(&config, &known) };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// The hash that logs show and the suppression list takes: no Kafka is asked.
pub fn print_hash(email: &str) -> ExitCode {
    println!("{}", Contact::of(email).whole());
    ExitCode::SUCCESS
}
