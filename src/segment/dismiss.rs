//! Dismissal: telling by a search through the bytes that a record is another call than identify.
//!
//! Most events are no identify calls, and ingest must pass them by at nearly the speed of a bare consumer. So
//! before any JSON is parsed this asks: does the record say at its top level that it is another call, and does it say
//! nothing else wherever it says `type`? Whoever is unsure says no and lets the parser decide.
//!
//! The promise, for every valid JSON text: what is dismissed is exactly what the parser would call
//! `not_identify`; it is never an identify call, a batch or anything invalid. A record that is broken JSON may
//! be dismissed too, as `not_identify` where the parser would say `not_json`: if what there is of it says at the
//! top level that it is another call and nowhere `"type":"identify"`.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr2, memrchr};

use super::scan::is_space;

const TYPE: &[u8] = b"\"type\"";
static TYPE_FINDER: LazyLock<Finder> = LazyLock::new(|| Finder::new(TYPE));
static ESCAPE_FINDER: LazyLock<Finder> = LazyLock::new(|| Finder::new(br"\u00"));

/// Whether the record is certainly an event of another type than identify. `false` says nothing.
pub fn dismiss(value: &[u8]) -> bool {
    skip_space(value).starts_with(b"{") && is_typed_otherwise(value) && !holds_escaped_letter(value)
}

/// Whether there is an escape that could spell an ASCII letter, of "identify" or of "type".
fn holds_escaped_letter(value: &[u8]) -> bool {
    ESCAPE_FINDER.find_iter(value).any(|at| matches!(value.get(at + br"\u00".len()), Some(b'4'..=b'7')))
}

/// Whether there is a `type` at the top level, and none anywhere that is no name of another call. That is more than
/// needed (deeper ones mean nothing), but saves asking for the depth of each; and the last of repeated ones counts.
fn is_typed_otherwise(value: &[u8]) -> bool {
    let mut first = None;
    let mut last = 0;
    for at in TYPE_FINDER.find_iter(value) {
        // After a backslash it is a part of a longer text; without a colon behind it, a value.
        if at.checked_sub(1).map(|before| value[before]) == Some(b'\\') {
            continue;
        }
        if let Some(said) = value_of_type(value, at) {
            if !names_another_call(said) {
                return false;
            }
            first = first.or(Some(at));
            last = at;
        }
    }
    let Some(first) = first else {
        return false;
    };
    if first <= value.len() - last { is_at_top_from_front(value, last) } else { is_at_top_from_back(value, first) }
}

/// What follows `"type"` and a colon; `None` when no colon follows.
fn value_of_type(value: &[u8], at: usize) -> Option<&[u8]> {
    let after_colon = skip_space(&value[at + TYPE.len()..]).strip_prefix(b":")?;
    Some(skip_space(after_colon))
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !is_space(*byte));
    &bytes[start.unwrap_or(bytes.len())..]
}

/// Whether it is a text, not empty, that neither begins like "identify" or "batch" nor is cut off while it may become that.
fn names_another_call(said: &[u8]) -> bool {
    let may_be = |call: &[u8]| {
        let common = said.len().min(call.len());
        said[..common].eq_ignore_ascii_case(&call[..common])
    };
    said.len() > 1 && said[0] == b'"' && said[1] != b'"' && !may_be(b"\"identify") && !may_be(b"\"batch")
}

/// Whether one of the keys `type` up to `last` is a member of the outermost object, read from the front.
fn is_at_top_from_front(value: &[u8], last: usize) -> bool {
    let mut depth = 0_usize;
    let mut at = 0;
    while at <= last {
        match value[at] {
            b'"' => {
                if depth == 1 && is_type_key(value, at) {
                    return true;
                }
                match closing_quote(value, at) {
                    Some(end) => at = end,
                    None => return false,
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return false,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    false
}

/// As from the front, but read from the back, down to `first`. Worth its lines: half of the producers write
/// `type` near the end, behind a context of several hundred bytes.
fn is_at_top_from_back(value: &[u8], first: usize) -> bool {
    let mut depth = 0_usize;
    let mut end = value.len();
    while end > first {
        let at = end - 1;
        end = at;
        match value[at] {
            b'"' => match opening_quote(value, at) {
                Some(start) if depth == 1 && is_type_key(value, start) => return true,
                Some(start) => end = start,
                None => return false,
            },
            b'}' | b']' => depth += 1,
            b'{' | b'[' if depth <= 1 => return false,
            b'{' | b'[' => depth -= 1,
            byte if depth == 0 && !is_space(byte) => return false,
            _ => {}
        }
    }
    false
}

fn is_type_key(value: &[u8], at: usize) -> bool {
    value[at..].starts_with(TYPE) && value_of_type(value, at).is_some()
}

/// The quote that ends the text opened at `open`.
fn closing_quote(value: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr2(b'"', b'\\', value.get(at..)?)?;
        if value[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// The quote that begins the text closed at `close`: the nearest one before it that is not escaped.
fn opening_quote(value: &[u8], close: usize) -> Option<usize> {
    let mut end = close;
    loop {
        end = memrchr(b'"', &value[..end])?;
        let backslashes = value[..end].iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes.is_multiple_of(2) {
            return Some(end);
        }
    }
}

#[cfg(test)]
#[path = "dismiss_tests.rs"]
mod tests;
