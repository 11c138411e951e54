//! Looks members up in JSON text, strictly about what JSON is and leniently about what it says.
//!
//! The whole document is checked, and the members asked for are cut out as raw text (see `scan`); nothing else of it is
//! decoded. That tolerates what real events hold and `serde_json::Value` refuses: lone surrogates, `1e400`, a
//! nesting of any depth and repeated keys (the last one wins).
//! A member is found under its exact key, or else under one that differs in ASCII case.

use std::borrow::Cow;

use super::Invalid;
use super::scan::{Key, Malformed, Scanner, each_item, each_member, is_json, is_space, walk};

/// The text of the JSON object in `bytes`, not yet checked beyond its first character: `members` does that.
pub(super) fn object(bytes: &[u8]) -> Result<&str, Invalid> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let Some(start) = bytes.iter().position(|byte| !is_space(*byte)) else {
        return Err(Invalid::Empty);
    };
    let text = str::from_utf8(&bytes[start..]).map_err(|_| Invalid::NotJson)?;
    if text.starts_with('{') {
        return Ok(text);
    }
    Err(if is_json(text) { Invalid::NotObject } else { Invalid::NotJson })
}

/// Checks that `object` is one JSON object and nothing else, and gives the raw text of the named members.
pub(super) fn members<'a, const N: usize>(object: &'a str, names: [&str; N]) -> Result<[Option<&'a str>; N], Invalid> {
    tree(object, names, []).map(|(found, [])| found)
}

/// How many members of an object can be asked for together with it, at most.
const WITHIN: usize = 3;

/// A member, and if it is an object, members of its own: raw text.
#[derive(Clone, Copy, Default)]
pub(super) struct Object<'a> {
    pub(super) raw: Option<&'a str>,
    /// In the order in which they were asked for.
    pub(super) within: [Option<&'a str>; WITHIN],
}

/// As `members`, and of some of them members of their own: all in one pass, since a pass is what costs.
pub(super) fn tree<'a, const N: usize, const M: usize>(
    object: &'a str,
    names: [&str; N],
    objects: [(&str, &[&str]); M],
) -> Result<([Option<&'a str>; N], [Object<'a>; M]), Invalid> {
    let mut found = [Slot::default(); N];
    let mut found_objects = [Slot::default(); M];
    const { assert!(N + M <= Marks::MOST) };
    let marks = Marks::of(names.into_iter().chain(objects.map(|(name, _)| name)));
    let walked = walk(object, |key, scanner| {
        let key = said(key);
        if !marks.hold(&key) {
            return scanner.value().map(drop);
        }
        let value = match objects.iter().position(|(name, _)| is_same(&key, name)) {
            None => scanner.value()?,
            Some(at) => {
                let (name, names_within) = objects[at];
                let (raw, within) = object_here(scanner, names_within)?;
                found_objects[at].offer(key == name, Object { raw: Some(raw), within });
                raw
            }
        };
        offer_all(&mut found, &names, &key, value);
        Ok(())
    });
    walked.map_err(|Malformed| Invalid::NotJson)?;
    Ok((found.map(|slot| slot.value), found_objects.map(|slot| slot.value.unwrap_or_default())))
}

/// The value that begins here, and the named ones of its members if it has any.
fn object_here<'a>(
    scanner: &mut Scanner<'a>,
    names: &[&str],
) -> Result<(&'a str, [Option<&'a str>; WITHIN]), Malformed> {
    let mut within = [Slot::default(); WITHIN];
    let raw = if scanner.is_at_object() {
        scanner.members(|key, scanner| {
            offer_all(&mut within, names, &said(key), scanner.value()?);
            Ok(())
        })?
    } else {
        scanner.value()?
    };
    Ok((raw, within.map(|slot| slot.value)))
}

/// What has been found under a name so far.
#[derive(Clone, Copy)]
struct Slot<T> {
    value: Option<T>,
    is_exact: bool,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot { value: None, is_exact: false }
    }
}

impl<T> Slot<T> {
    fn offer(&mut self, is_exact: bool, value: T) {
        if is_exact || !self.is_exact {
            *self = Slot { value: Some(value), is_exact };
        }
    }
}

/// What a key says, its escapes resolved.
fn said(key: Key<'_>) -> Cow<'_, str> {
    if key.escaped { text_within(key.raw) } else { Cow::Borrowed(within_quotes(key.raw)) }
}

fn within_quotes(raw: &str) -> &str {
    raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw)
}

/// What names show at a glance, their lengths and first letters: told of all at once that a key is none of them.
struct Marks([u16; Marks::MOST]);

impl Marks {
    const MOST: usize = 16;

    fn of<'n>(names: impl Iterator<Item = &'n str>) -> Marks {
        let mut marks = [u16::MAX; Marks::MOST];
        marks.iter_mut().zip(names).for_each(|(mark, name)| *mark = Marks::mark(name));
        Marks(marks)
    }

    fn mark(name: &str) -> u16 {
        // The same for both cases of a letter.
        let first = name.as_bytes().first().map_or(0, |first| first | 0x20);
        u16::from_be_bytes([name.len() as u8, first])
    }

    /// Whether the key may be one of the names.
    fn hold(&self, key: &str) -> bool {
        let mark = Marks::mark(key);
        self.0.iter().fold(false, |found, known| found | (*known == mark))
    }
}

#[inline(always)] // Nearly always the lengths differ, and that is a call saved seventy times an event.
fn is_same(key: &str, name: &str) -> bool {
    key.len() == name.len() && key.eq_ignore_ascii_case(name)
}

fn offer_all<'a>(slots: &mut [Slot<&'a str>], names: &[&str], key: &str, value: &'a str) {
    for (slot, name) in slots.iter_mut().zip(names) {
        if is_same(key, name) {
            slot.offer(key == *name, value);
        }
    }
}

/// The named members of a value cut out before; of a missing value or one that is no object, none.
pub(super) fn look<'a, const N: usize>(value: Option<&'a str>, names: [&str; N]) -> [Option<&'a str>; N] {
    value.filter(|value| is_object(value)).and_then(|object| members(object, names).ok()).unwrap_or([None; N])
}

/// As `look`, but a key of another case is another key.
pub(super) fn look_exactly<'a, const N: usize>(value: Option<&'a str>, names: [&str; N]) -> [Option<&'a str>; N] {
    let mut found = [None; N];
    let Some(object) = value.filter(|value| is_object(value)) else {
        return found;
    };
    let checked = each_member(object, |key, value| {
        let key = text_within(key);
        for (slot, name) in found.iter_mut().zip(names) {
            if key == name {
                *slot = Some(value);
            }
        }
    });
    debug_assert!(checked.is_ok(), "a value cut out of checked JSON is JSON");
    found
}

/// A raw value's kind shows in its first character, once it is known to be JSON.
pub(super) fn is_object(raw: &str) -> bool {
    raw.starts_with('{')
}

pub(super) fn is_array(raw: &str) -> bool {
    raw.starts_with('[')
}

/// The raw items of a raw array.
pub(super) fn items(array: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let checked = each_item(array, |item| items.push(item));
    debug_assert!(checked.is_ok(), "a value cut out of checked JSON is JSON");
    items
}

/// What a raw string says; `None` for a value of another type.
pub(super) fn text(raw: &str) -> Option<Cow<'_, str>> {
    raw.starts_with('"').then(|| text_within(raw))
}

/// What a raw string says, if it says anything.
pub(super) fn non_blank_text(raw: Option<&str>) -> Option<Cow<'_, str>> {
    raw.and_then(text).filter(|text| !text.trim().is_empty())
}

/// What stands between the quotes of a raw string, its escapes resolved. A lone surrogate, which JavaScript and
/// Python emit and which no Rust string can hold, becomes U+FFFD.
pub(super) fn text_within(raw: &str) -> Cow<'_, str> {
    let inner = within_quotes(raw);
    let Some(mut escape) = memchr::memchr(b'\\', inner.as_bytes()) else {
        return Cow::Borrowed(inner);
    };
    let mut decoded = String::with_capacity(inner.len());
    let mut rest = inner;
    loop {
        decoded.push_str(&rest[..escape]);
        let (character, length) = unescape(&rest.as_bytes()[escape..]);
        decoded.push(character);
        rest = rest.get(escape + length..).unwrap_or_default();
        match memchr::memchr(b'\\', rest.as_bytes()) {
            Some(next) => escape = next,
            None => break,
        }
    }
    decoded.push_str(rest);
    Cow::Owned(decoded)
}

/// The character that the escape at the beginning of `bytes` stands for, and the length of the escape.
fn unescape(bytes: &[u8]) -> (char, usize) {
    let Some(&kind) = bytes.get(1) else {
        return (char::REPLACEMENT_CHARACTER, 1);
    };
    let character = match kind {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unicode(bytes),
        // A quote, a slash or a backslash: checked JSON holds nothing else here.
        itself => char::from(itself),
    };
    (character, 2)
}

fn unescape_unicode(bytes: &[u8]) -> (char, usize) {
    const LENGTH: usize = "\\uXXXX".len();
    let Some(first) = code_unit(bytes) else {
        return (char::REPLACEMENT_CHARACTER, 2);
    };
    if let Some(character) = char::from_u32(first.into()) {
        return (character, LENGTH);
    }
    let pair = code_unit(&bytes[LENGTH..]).and_then(|second| char::decode_utf16([first, second]).next()?.ok());
    match pair {
        Some(character) => (character, 2 * LENGTH),
        None => (char::REPLACEMENT_CHARACTER, LENGTH),
    }
}

/// The UTF-16 code unit that `\uXXXX` at the beginning of `bytes` names.
fn code_unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_byte_order_mark_and_white_space_are_skipped() {
        assert_eq!(object(b"\xEF\xBB\xBF \r\n\t{}"), Ok("{}"));
        assert_eq!(object(b"\xEF\xBB\xBF"), Err(Invalid::Empty));
        assert_eq!(object(b" \n"), Err(Invalid::Empty));
        // Not white space to JSON.
        assert_eq!(object("\u{a0}{}".as_bytes()), Err(Invalid::NotJson));
    }

    #[test]
    fn valid_json_of_another_kind_is_not_an_object() {
        for text in ["null", "5", "-1e400", "\"{}\"", "[{}]", " true "] {
            assert_eq!(object(text.as_bytes()), Err(Invalid::NotObject), "{text}");
        }
        for text in ["nul", "5 5", "\"", "[{}", "truex", "NaN", "'a'"] {
            assert_eq!(object(text.as_bytes()), Err(Invalid::NotJson), "{text}");
        }
    }

    #[test]
    fn broken_json_is_refused_wherever_it_breaks() {
        for text in [
            "{",
            "{\"a\":1,}",
            "{\"a\":NaN}",
            "{\"a\":1}x",
            "{\"a\":1}{}",
            "{\"a\":\"\t\"}",
            "{\"\t\":1}",
            "{\"\\x\":1}",
            "{\"a\":01}",
            "{a:1}",
            "{\"a\" 1}",
            "{\"a\":[}",
        ] {
            assert_eq!(members(text, ["a"]), Err(Invalid::NotJson), "{text}");
        }
    }

    #[test]
    fn the_exact_key_wins_and_the_last_of_repeated_keys() {
        let object = r#"{"Email":1,"email":2,"EMAIL":3,"email":4,"eMail":5}"#;
        assert_eq!(members(object, ["email"]), Ok([Some("4")]));
        assert_eq!(members(object, ["e-mail"]), Ok([None]));
        assert_eq!(members(object, ["emaiL"]), Ok([Some("5")]));
        assert_eq!(look_exactly(Some(object), ["emaiL", "Email"]), [None, Some("1")]);
        // The key of "type" with escapes is "type".
        assert_eq!(members(r#"{"t\u0079pe":1}"#, ["type"]), Ok([Some("1")]));
    }

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        assert_eq!(text(r#""\ud83d""#).as_deref(), Some("\u{fffd}"));
        assert_eq!(text(r#""\ud83dx\ude00y""#).as_deref(), Some("\u{fffd}x\u{fffd}y"));
        assert_eq!(text(r#""\ud83d\ud83d\ude00""#).as_deref(), Some("\u{fffd}\u{1f600}"));
        assert_eq!(text(r#""\ud83d\n""#).as_deref(), Some("\u{fffd}\n"));
        assert_eq!(members(r#"{"\ud83d":1,"a":"\ude00"}"#, ["a"]), Ok([Some(r#""\ude00""#)]));
    }

    proptest! {
        #[test]
        fn escapes_are_resolved_as_serde_json_does(text_in in any::<String>(), ascii in any::<bool>()) {
            let mut raw = serde_json::to_string(&text_in).unwrap();
            if ascii {
                raw = raw.encode_utf16().map(|unit| match u8::try_from(unit) {
                    Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                    _ => format!("\\u{unit:04X}"),
                }).collect();
            }
            prop_assert_eq!(text(&raw).unwrap(), text_in);
        }

        #[test]
        fn resolving_escapes_never_panics(raw in r#""[\\uU0-9a-fdDé"😀]{0,24}"?"#) {
            text(&raw);
        }
    }
}
