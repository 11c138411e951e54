//! The words of `--reason`. Those that this version writes are completed by the shell; one that it does not know may be a newer
//! version's, and is taken for misspelt only when no dead letter carries it.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};

use crate::cli::CommandError;
use crate::config::resolve::nearest;
use crate::dead_letter::Reason;
use crate::dead_letter::select::FOREIGN;

/// A clap value parser that takes every word that looks like a reason.
#[derive(Debug, Clone)]
pub struct ReasonParser;

impl TypedValueParser for ReasonParser {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        reason.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(words().into_iter().map(PossibleValue::new)))
    }
}

/// Whether `--reason` takes it.
pub fn is_word(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase())
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn reason(word: &str) -> Result<String, String> {
    let problem = || format!("reasons have small letters, digits and _ only{}", meant(&word.to_lowercase()));
    is_word(word).then(|| word.to_owned()).ok_or_else(problem)
}

fn words() -> Vec<&'static str> {
    [Reason::words(), vec![FOREIGN]].concat()
}

fn meant(word: &str) -> String {
    nearest(word, words().into_iter())
}

pub fn is_known(word: &str) -> bool {
    words().contains(&word)
}

/// What is said of a word that is not known, once all has been read.
pub fn misspelt(word: &str) -> CommandError {
    let (meant, known) = (meant(word), words().join(", "));
    CommandError::Usage(format!(
        "--reason {word}: no dead letter that was read has this reason, and this version does not know it{meant}\n\n\
         The reasons that it knows: {known}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_versions_word_is_taken_and_what_cannot_be_one_is_not() {
        for word in ["rejected", FOREIGN, "quarantined", "http_3_failed"] {
            assert_eq!(reason(word), Ok(word.to_owned()));
        }
        for wrong in ["", "Rejected", "not-json", "_x", "3d", "rejected "] {
            assert!(reason(wrong).is_err(), "{wrong:?}");
        }
        assert!(reason("Rejected").is_err_and(|told| told.ends_with("did you mean rejected?")));
    }

    #[test]
    fn a_misspelt_one_is_told_with_the_nearest_and_all_that_are_known() {
        let told = misspelt("rejcted").to_string();
        assert!(told.contains("did you mean rejected?") && told.contains("missing_email, "), "{told}");
        assert!(!misspelt("xyz").to_string().contains("did you mean"));
    }
}
