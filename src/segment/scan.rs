//! Walks through JSON text once and cuts it into raw values; strict about the grammar (RFC 8259), decodes nothing.
//!
//! Ingest spends more on this than on anything else that it does with an identify call, so the loop that sees most of the bytes,
//! the inside of a text, takes them by the block and by the word. A nesting of any depth is walked through without recursion.
//! What counts as JSON is what serde_json calls so, which the property tests compare with.

/// The text is no JSON, or not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

type Scanned<T> = Result<T, Malformed>;

/// JSON's white space, which is less than Unicode's.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Walks through a text that is one object and nothing else. `each` is called behind the colon of every member, with the
/// key, and has to take the value. What it was called for before the text proved to be none is not taken back.
pub(super) fn walk<'a>(object: &'a str, each: impl FnMut(Key<'a>, &mut Scanner<'a>) -> Scanned<()>) -> Scanned<()> {
    let mut scanner = Scanner { text: object, at: 0 };
    scanner.members(each)?;
    scanner.end()
}

/// As `walk`, with the raw value of every member.
pub(super) fn each_member<'a>(object: &'a str, mut each: impl FnMut(&'a str, &'a str)) -> Scanned<()> {
    walk(object, |key, scanner| scanner.value().map(|value| each(key.raw, value)))
}

/// Calls `each` with the raw items of a text that is one array and nothing else.
pub(super) fn each_item<'a>(array: &'a str, mut each: impl FnMut(&'a str)) -> Scanned<()> {
    let mut scanner = Scanner { text: array, at: 0 };
    scanner.expect(b'[')?;
    if !scanner.takes(b']') {
        loop {
            each(scanner.value()?);
            if !scanner.takes(b',') {
                break;
            }
        }
        scanner.expect(b']')?;
    }
    scanner.end()
}

/// Whether the text is one JSON value and nothing else.
pub(super) fn is_json(text: &str) -> bool {
    let mut scanner = Scanner { text, at: 0 };
    scanner.value().and_then(|_| scanner.end()).is_ok()
}

/// The key of a member, quotes and all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) raw: &'a str,
    /// Whether there are escapes in it.
    pub(super) escaped: bool,
}

/// A place in a text.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// Whether the next thing is this character; then it is behind us.
    fn takes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_it = self.peek() == Some(byte);
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, byte: u8) -> Scanned<()> {
        if self.takes(byte) { Ok(()) } else { Err(Malformed) }
    }

    fn end(&mut self) -> Scanned<()> {
        self.skip_space();
        if self.at == self.text.len() { Ok(()) } else { Err(Malformed) }
    }

    fn since(&self, start: usize) -> Scanned<&'a str> {
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// The colon behind it is taken too.
    fn key(&mut self) -> Scanned<Key<'a>> {
        self.skip_space();
        let start = self.at;
        let escaped = self.text()?;
        let raw = self.since(start)?;
        self.expect(b':')?;
        Ok(Key { raw, escaped })
    }

    /// Whether an object begins here.
    pub(super) fn is_at_object(&mut self) -> bool {
        self.skip_space();
        self.peek() == Some(b'{')
    }

    /// As `walk`, of the object that begins here; its raw text.
    pub(super) fn members(&mut self, mut each: impl FnMut(Key<'a>, &mut Self) -> Scanned<()>) -> Scanned<&'a str> {
        self.skip_space();
        let start = self.at;
        self.expect(b'{')?;
        if !self.takes(b'}') {
            loop {
                let key = self.key()?;
                each(key, self)?;
                if !self.takes(b',') {
                    break;
                }
            }
            self.expect(b'}')?;
        }
        self.since(start)
    }

    /// A raw value of any kind, without the space around it.
    pub(super) fn value(&mut self) -> Scanned<&'a str> {
        self.skip_space();
        let start = self.at;
        if matches!(self.peek(), Some(b'{' | b'[')) {
            self.nested()?
        } else {
            self.scalar()?
        }
        self.since(start)
    }

    /// An object or array with all that is in it.
    fn nested(&mut self) -> Scanned<()> {
        let mut open = Nesting::default();
        loop {
            // A value begins here.
            self.skip_space();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.at += 1;
                    let is_object = bracket == b'{';
                    if !self.takes(closing(is_object)) {
                        open.push(is_object);
                        self.key_if(is_object)?;
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value has ended: so may what it is in, and what that is in.
            loop {
                let Some(is_object) = open.innermost() else { return Ok(()) };
                if self.takes(b',') {
                    self.key_if(is_object)?;
                    break;
                }
                self.expect(closing(is_object))?;
                open.pop();
            }
        }
    }

    fn key_if(&mut self, is_object: bool) -> Scanned<()> {
        if is_object { self.key().map(drop) } else { Ok(()) }
    }

    fn scalar(&mut self) -> Scanned<()> {
        match self.peek() {
            Some(b'"') => self.text().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => Err(Malformed),
        }
    }

    fn word(&mut self, word: &str) -> Scanned<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Scanned<()> {
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    /// One or more.
    fn digits(&mut self) -> Scanned<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Malformed) }
    }

    /// Whether it holds escapes.
    fn text(&mut self) -> Scanned<bool> {
        if self.peek() != Some(b'"') {
            return Err(Malformed);
        }
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += plain_length(&self.text.as_bytes()[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => self.escape()?,
                // The text does not end, or holds a control character.
                _ => return Err(Malformed),
            }
            escaped = true;
        }
    }

    fn escape(&mut self) -> Scanned<()> {
        let escape = &self.text.as_bytes()[self.at..];
        let length = match escape.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if escape.get(2..6).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) => 6,
            _ => return Err(Malformed),
        };
        self.at += length;
        Ok(())
    }
}

fn closing(is_object: bool) -> u8 {
    if is_object { b'}' } else { b']' }
}

const BLOCK: usize = 32;
const WORD: usize = size_of::<u64>();

/// How many bytes come before the first quote, backslash or control character.
fn plain_length(bytes: &[u8]) -> usize {
    // Long texts by the block, as far as there is nothing but plain bytes in it.
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let plain = BLOCK * blocks.iter().take_while(|block| is_all_plain(block)).count();
    let (words, rest) = bytes[plain..].as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        let found = not_plain(u64::from_le_bytes(*word));
        if found != 0 {
            return plain + index * WORD + (found.trailing_zeros() / 8) as usize;
        }
    }
    plain + words.len() * WORD + rest.iter().position(|byte| !is_plain(*byte)).unwrap_or(rest.len())
}

/// With single bars, so that many at once are vectorised.
fn is_plain(byte: u8) -> bool {
    (byte >= b' ') & (byte != b'"') & (byte != b'\\')
}

/// Without an early end, for the same reason.
fn is_all_plain(block: &[u8; BLOCK]) -> bool {
    block.iter().fold(true, |all, byte| all & is_plain(*byte))
}

/// Sets the highest bit of each byte that is a quote, a backslash or a control character. Bytes above the lowest one that it
/// finds may be set wrongly (a subtraction borrows), that one never is.
fn not_plain(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = 0x80 * ONES;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equals = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, b' ') | equals(b'"') | equals(b'\\')) & HIGHEST
}

/// What is open around a place, outermost first: one bit each, an object or an array.
#[derive(Default)]
struct Nesting {
    depth: u32,
    /// The innermost ones; the lowest bit is the last.
    bits: u64,
    /// Those further out, where there are more.
    outer: Vec<u64>,
}

impl Nesting {
    fn push(&mut self, is_object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(u64::BITS) {
            self.outer.push(self.bits);
        }
        self.bits = self.bits << 1 | u64::from(is_object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.bits >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(u64::BITS) {
            self.bits = self.outer.pop().unwrap_or_default();
        }
    }

    fn innermost(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.bits & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::super::members;
    use super::*;

    fn serde_says(text: &str) -> bool {
        serde_json::from_str::<&RawValue>(text).is_ok()
    }

    #[test]
    fn json_is_what_serde_json_calls_so() {
        for text in [
            "null",
            "true",
            "false",
            "nul",
            "truex",
            "True",
            "0",
            "-0",
            "-",
            "01",
            "1.",
            ".5",
            "1.5e+10",
            "1e",
            "1e+",
            "1E5",
            "-1e400",
            "+1",
            "1.5.",
            "NaN",
            "0x1",
            "\"\"",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12G4\"",
            "\"\\ud83d\"",
            "\"\t\"",
            "\"\u{7f}é😀\u{2028}\"",
            "\"\u{1f}\"",
            "[]",
            "[ ]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[",
            "]",
            "{}",
            "{ }",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{1:2}",
            "{\"a\" : 1 , \"b\" : [ { } ] }",
            "{\"a\":1]",
            "[1}",
            "[[]",
            "[]]",
            "{}{}",
            "",
            " ",
            "'a'",
            "[\"a\\\\\"]",
            "[\"a\\\\\\\"]",
            "\u{a0}1",
            "{\"a\":[1,{\"b\":2}],\"c\":3}",
        ] {
            assert_eq!(is_json(text), serde_says(text), "{text}");
            assert_eq!(is_json(&format!(" {text}\n")), serde_says(text), "{text}");
        }
    }

    #[test]
    fn a_nesting_of_any_depth_is_walked_through() {
        for depth in [63, 64, 65, 127, 128, 129, 1_000_000] {
            let mixed = |open: &str, close: &str| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(is_json(&mixed("[", "]")), "{depth}");
            assert!(is_json(&mixed("[{\"a\":", "}]")), "{depth}");
            assert!(!is_json(&mixed("[{\"a\":", "]}")), "{depth}");
            assert!(!is_json(&mixed("[", "]")[1..]), "{depth}");
        }
    }

    #[test]
    fn the_end_of_a_text_is_found_wherever_it_stands() {
        for length in 0..40 {
            for end in ["\"", "\\", "\u{0}", "\n", "\u{1f}"] {
                // Bytes that a careless trick with words takes for one of those: their neighbours, and not ASCII.
                let before: String = "!#[]\u{7f}\u{a2}é\u{dc}~ ".chars().cycle().skip(length).take(length).collect();
                let text = format!("{before}{end}\"\\\"xyzxyzxyz");
                assert_eq!(plain_length(text.as_bytes()), before.len(), "{text:?}");
                assert_eq!(plain_length(before.as_bytes()), before.len(), "{before:?}");
            }
        }
    }

    #[test]
    fn members_and_items_are_cut_out_byte_for_byte() {
        let object = " { \"a\" : [ 1 , {} ] ,\"b\":\"x\\\"\",\n\"a\":null } ";
        assert_eq!(members(object), [("\"a\"", "[ 1 , {} ]"), ("\"b\"", "\"x\\\"\""), ("\"a\"", "null")]);
        let mut items = Vec::new();
        assert_eq!(each_item(" [ 1e400 , \"]\",[ ]\t,{\"a\":5} ] ", |item| items.push(item)), Ok(()));
        assert_eq!(items, ["1e400", "\"]\"", "[ ]", "{\"a\":5}"]);
    }

    /// Pieces of JSON, some of them not quite.
    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(
            &[
                "{",
                "}",
                "[",
                "]",
                ",",
                ":",
                "\"a\"",
                "\"\"",
                "\"\\u00e9\"",
                "\"\\",
                "\"",
                "é",
                "1",
                "-",
                "0",
                ".5",
                "e9",
                "true",
                "null",
                "fals",
                " ",
                "\n",
                "\u{0}",
                "\\",
                "{\"k\":",
                "[1,",
                "\"k\":",
                "longer text without an end",
            ][..],
        )
    }

    /// JSON of every kind.
    fn json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap_or_default()),
            any::<f64>().prop_map(|number| serde_json::to_string(&number).unwrap_or_default()),
            prop::sample::select(&["null", "true", "-1e400", "\"\\ud83d\"", "0", "\"\""][..]).prop_map(str::to_owned),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            let member = (any::<String>(), inner.clone());
            let member =
                member.prop_map(|(key, value)| format!("{} :{value}", serde_json::to_string(&key).unwrap_or_default()));
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
                prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(","))),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_is_json(text in json()) {
            prop_assert!(serde_says(&text) && is_json(&text), "{}", text);
        }

        #[test]
        fn any_change_of_it_is_judged_as_serde_json_does(
            text in json(), at: prop::sample::Index, insert in piece(), cut in 0..3_usize,
        ) {
            let mut changed: Vec<char> = text.chars().collect();
            let at = at.index(changed.len() + 1);
            changed.splice(at..(at + cut).min(changed.len()), insert.chars());
            let changed: String = changed.into_iter().collect();
            prop_assert_eq!(is_json(&changed), serde_says(&changed), "{}", changed);
        }

        #[test]
        fn any_sequence_of_pieces_is_judged_as_serde_json_does(pieces in prop::collection::vec(piece(), 0..12)) {
            let text = pieces.concat();
            prop_assert_eq!(is_json(&text), serde_says(&text), "{}", text);
        }

        #[test]
        fn the_members_are_those_that_serde_json_finds(members_in in prop::collection::vec((any::<String>(), json()), 0..6)) {
            let object = members_in.iter().map(|(key, value)| format!("{}:\t{value} ", serde_json::to_string(key).unwrap_or_default()));
            let object = format!("{{{}}}", object.collect::<Vec<_>>().join(","));
            let found: Vec<(String, String)> = members(&object)
                .into_iter()
                .map(|(key, value)| (serde_json::from_str(key).unwrap_or_default(), value.to_owned()))
                .collect();
            prop_assert_eq!(found, members_in);
        }
    }
}
