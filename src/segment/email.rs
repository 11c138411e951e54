//! The email of a contact: where it is looked for, and what it looks like once it is normal.
//!
//! The check is deliberately small. It keeps out what cannot be an address (numbers, hashes, names, two addresses in
//! one field, line breaks) and leaves the rest to Nat.app, whose answer is final anyway.

use super::{Invalid, json};

/// Lengths past which nothing is an address: RFC 5321's 64 + 1 + 255, and a bound on the work.
const MAX_CHARS: usize = 320;
const MAX_BYTES: usize = 1000;

/// The first usable one of the raw candidates. A candidate that is there but unusable only matters when no other one
/// is usable: then the email is invalid rather than missing.
pub(super) fn first_usable<'a>(candidates: impl Iterator<Item = Option<&'a str>>) -> Result<String, Invalid> {
    let mut verdict = Invalid::MissingEmail;
    for candidate in candidates.flatten() {
        match usable(candidate) {
            Ok(email) => return Ok(email),
            Err(Invalid::MissingEmail) => {}
            Err(_) => verdict = Invalid::InvalidEmail,
        }
    }
    Err(verdict)
}

fn usable(raw: &str) -> Result<String, Invalid> {
    match json::text(raw) {
        Some(text) => normalise_email(&text),
        None if raw == "null" => Err(Invalid::MissingEmail),
        None => Err(Invalid::InvalidEmail),
    }
}

/// Trims and lower-cases an email; plus tags stay. Blank text is a missing email, anything but an address an
/// invalid one.
pub fn normalise_email(text: &str) -> Result<String, Invalid> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Invalid::MissingEmail);
    }
    if trimmed.len() > MAX_BYTES {
        return Err(Invalid::InvalidEmail);
    }
    let email = if trimmed.is_ascii() { trimmed.to_ascii_lowercase() } else { trimmed.to_lowercase() };
    if looks_like_an_address(&email) { Ok(email) } else { Err(Invalid::InvalidEmail) }
}

fn looks_like_an_address(email: &str) -> bool {
    let Some((local, domain)) = email.split_once('@') else {
        return false;
    };
    !local.is_empty()
        && domain.contains('.')
        && !domain.contains('@')
        && domain.split('.').all(|label| !label.is_empty())
        && is_allowed(email)
}

/// Whether it is short enough and every character could be one of an address.
fn is_allowed(email: &str) -> bool {
    // Nearly all are.
    if email.is_ascii() {
        return email.len() <= MAX_CHARS && email.bytes().all(|byte| byte.is_ascii_graphic());
    }
    // U+FFFD is what is left of a lone surrogate or of broken UTF-8: the real address is not known any more.
    let is_allowed = |c: char| !c.is_whitespace() && !c.is_control() && c != char::REPLACEMENT_CHARACTER;
    email.len() <= MAX_BYTES && email.chars().all(is_allowed) && email.chars().count() <= MAX_CHARS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_and_surrounding_space_do_not_make_another_contact() {
        for text in ["ada+x@example.com", " Ada+X@Example.COM ", "\u{a0}ADA+x@example.com\n"] {
            assert_eq!(normalise_email(text).as_deref(), Ok("ada+x@example.com"), "{text:?}");
        }
        assert_eq!(normalise_email("JANÉ@EXÄMPLE.com").as_deref(), Ok("jané@exämple.com"));
    }

    #[test]
    fn what_cannot_be_an_address_is_invalid() {
        let long_local = format!("{}@example.com", "x".repeat(309));
        for text in [
            "ada",
            "@example.com",
            "ada@",
            "ada@localhost",
            "ada@.com",
            "ada@example.",
            "ada@example..com",
            "a@b@example.com",
            "a@example.com,b@example.com",
            "a b@example.com",
            "a@exam\tple.com",
            "a@example.com\nBcc: x@example.com",
            "a\u{0}@example.com",
            "a\u{fffd}@example.com",
            "973dfe463ec85785f5f95af5ba3906eedb2d931c24e69824a89ea65dba4e813b",
            &long_local,
        ] {
            assert_eq!(normalise_email(text), Err(Invalid::InvalidEmail), "{text:?}");
        }
        assert!(normalise_email(&long_local[1..]).is_ok());
    }

    #[test]
    fn blank_text_and_null_are_missing_and_other_types_invalid() {
        assert_eq!(normalise_email(" \u{2003}"), Err(Invalid::MissingEmail));
        assert_eq!(usable("null"), Err(Invalid::MissingEmail));
        for raw in ["5", "true", "{}", "[\"a@example.com\"]"] {
            assert_eq!(usable(raw), Err(Invalid::InvalidEmail), "{raw}");
        }
    }

    #[test]
    fn one_usable_candidate_is_enough() {
        let all = [None, Some("\"x\""), Some("null"), Some("\"A@b.c\""), Some("\"d@e.f\"")];
        let found = |count: usize| first_usable(all.into_iter().take(count));
        assert_eq!(found(5).as_deref(), Ok("a@b.c"));
        assert_eq!(found(3), Err(Invalid::InvalidEmail));
        assert_eq!(found(1), Err(Invalid::MissingEmail));
    }

    proptest! {
        #[test]
        fn a_normal_email_stays_as_it_is(text in "[ A-Za-zÀ-ɏΑ-Ωİ@.+]{0,24}") {
            if let Ok(email) = normalise_email(&text) {
                prop_assert_eq!(normalise_email(&email), Ok(email));
            }
        }
    }
}
