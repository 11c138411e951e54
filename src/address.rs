//! Email addresses are taken out of what is kept or shown: of Nat.app's answers, of names of files. An at sign can be written in
//! many ways, and each of them gives an address away. What stands around an address stays, so that the cause can be read. Pure.

use std::sync::LazyLock;

use regex_lite::Regex;

pub const REDACTED: &str = "(redacted)";

/// As it is, full width and small; percent-encoded, once or more often; escaped as in JSON and JavaScript; of HTML.
static AT_SIGN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let at_sign = r"(?i)[@\u{ff20}\u{fe6b}]|%(25)*(40|ef%(25)*bc%(25)*a0|ef%(25)*b9%(25)*ab)|\\u(0040|ff20|fe6b|\{0*40\})|\\x40|&(#0*64|#x0*40|#65312|#xff20|commat);?";
    Regex::new(at_sign).ok()
});

/// The text, with `(redacted)` for each address: what reaches from its at sign, and over white space beside that, to the next
/// white space, quote, comma or bracket.
pub fn without_addresses(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut done = 0;
    for at in AT_SIGN.iter().flat_map(|at_sign| at_sign.find_iter(text)).map(|found| found.range()) {
        // One that lies in what the last one took.
        if at.end <= done {
            continue;
        }
        let begin = begin_of(&text[..at.start]);
        if begin > done || kept.is_empty() {
            kept.push_str(&text[done..begin.max(done)]);
            kept.push_str(REDACTED);
        }
        done = at.end + length_of_domain(&text[at.end..]);
    }
    kept + &text[done..]
}

/// Where the address begins whose at sign comes next.
fn begin_of(before: &str) -> usize {
    let before = before.trim_end();
    match before.strip_suffix('"') {
        // "ada lovelace"@example.com
        Some(quoted) => quoted.rfind('"').unwrap_or(quoted.len()),
        None => before.char_indices().rev().find(|(_, c)| is_bound(*c)).map_or(0, |(at, c)| at + c.len_utf8()),
    }
}

fn length_of_domain(behind: &str) -> usize {
    let domain = behind.trim_start();
    let space = behind.len() - domain.len();
    space + domain.find(is_bound).unwrap_or(domain.len())
}

fn is_bound(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | ',' | '[' | ']' | '{' | '}' | '<' | '>')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_out_however_its_at_sign_is_written() {
        for at in [
            "@",
            "\u{ff20}",
            "\u{fe6b}",
            "%40",
            "%2540",
            "%25%32%35@",
            "%EF%BC%A0",
            r"\u0040",
            r"\uFF20",
            r"\u{40}",
            r"\x40",
            "&#64;",
            "&#064;",
            "&#x40;",
            "&#X0040;",
            "&commat;",
            " @ ",
            "@ ",
            " @",
            " &#64; ",
        ] {
            let text = format!("no contact ada.b{at}example.com here");
            assert_eq!(without_addresses(&text), "no contact (redacted) here", "{at}");
        }
    }

    #[test]
    fn what_stands_around_an_address_stays() {
        for (text, expected) in [
            ("nothing to see", "nothing to see"),
            (
                r#"{"code":17,"error":"no contact ada@b.com there","x":1}"#,
                r#"{"code":17,"error":"no contact (redacted) there","x":1}"#,
            ),
            (r#"{"email":"ada@b.com","code":"gone"}"#, r#"{"email":"(redacted)","code":"gone"}"#),
            (r#"["ada@b.com","bob@b.com"]"#, r#"["(redacted)","(redacted)"]"#),
            ("<a href=\"mailto:ada@b.com\">ada@b.com</a>", "<a href=\"(redacted)\">(redacted)</a>"),
            (r#""ada lovelace"@b.com is gone"#, "(redacted) is gone"),
            ("ada@b.com", "(redacted)"),
            ("ada@b.com@c @ d", "(redacted)"),
            ("@", "(redacted)"),
            ("", ""),
        ] {
            assert_eq!(without_addresses(text), expected);
        }
    }
}
