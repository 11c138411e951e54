//! Writes JSON as the SDKs' languages write it.
//!
//! Python puts a space after each colon and comma and escapes all that is not ASCII; PHP escapes slashes as well; the
//! rest is compact UTF-8. A reader that looks for `"type":"identify"` byte for byte finds out here.

use std::fmt::Write;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Dialect {
    Compact,
    Python,
    Php,
}

/// One object being written; its members appear in the order of the calls.
pub(super) struct Json {
    out: String,
    dialect: Dialect,
    first: bool,
}

impl Json {
    pub fn object(dialect: Dialect, write: impl FnOnce(&mut Json)) -> String {
        let mut json = Json { out: String::with_capacity(1024), dialect, first: true };
        json.out.push('{');
        write(&mut json);
        json.out.push('}');
        json.out
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.quoted(value);
        self
    }

    /// A value that is JSON already.
    pub fn raw(&mut self, key: &str, token: &str) -> &mut Self {
        self.key(key);
        self.out.push_str(token);
        self
    }

    pub fn nested(&mut self, key: &str, write: impl FnOnce(&mut Json)) -> &mut Self {
        self.key(key);
        self.out.push('{');
        self.first = true;
        write(self);
        self.out.push('}');
        self.first = false;
        self
    }

    fn key(&mut self, key: &str) {
        let spaced = self.dialect == Dialect::Python;
        if !self.first {
            self.out.push_str(if spaced { ", " } else { "," });
        }
        self.first = false;
        self.quoted(key);
        self.out.push_str(if spaced { ": " } else { ":" });
    }

    fn quoted(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\t' => self.out.push_str("\\t"),
                '/' if self.dialect == Dialect::Php => self.out.push_str("\\/"),
                letter if !letter.is_ascii() && self.dialect != Dialect::Compact => self.escaped(letter),
                letter => self.out.push(letter),
            }
        }
        self.out.push('"');
    }

    fn escaped(&mut self, letter: char) {
        for unit in letter.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }
}

/// Puts one more member at the end of a finished object; `member` is `"key":value`.
pub(super) fn add_member(object: &mut String, member: &str) {
    if object.ends_with('}') {
        object.pop();
        if !object.ends_with('{') {
            object.push(',');
        }
        object.push_str(member);
        object.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_says_the_same() {
        let written = |dialect| {
            Json::object(dialect, |json| {
                json.text("a", "Zoë 😀 \"x\" /y").nested("b", |b| {
                    b.raw("c", "1");
                });
                json.raw("d", "null");
            })
        };
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let compact = written(Dialect::Compact);
        let [python, php] = [written(Dialect::Python), written(Dialect::Php)];
        assert!(python.is_ascii() && python.contains(r#"", "b": {"c": 1}"#), "{python}");
        assert!(php.contains(r"\/y"), "{php}");
        assert_eq!(value(&compact), value(&python));
        assert_eq!(value(&compact), value(&php));
    }

    #[test]
    fn a_member_can_be_added_to_any_object() {
        for (before, after) in [("{}", r#"{"x":1}"#), (r#"{"a":2}"#, r#"{"a":2,"x":1}"#)] {
            let mut object = before.to_owned();
            add_member(&mut object, r#""x":1"#);
            assert_eq!(object, after);
        }
    }
}
