//! Columns that stand below each other, for people.

pub use crate::counted::{counted, number};

/// The rows below the head, each column as wide as it needs; those in `right` (numbers) end at its right edge.
pub fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let lengths = |column: usize| rows.iter().map(move |row| row.get(column).map_or(0, |cell| cell.chars().count()));
    let widths: Vec<usize> =
        head.iter().enumerate().map(|(n, name)| lengths(n).chain([name.chars().count()]).max().unwrap_or(0)).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, behind) =
                if right.contains(&column) { (padding, String::new()) } else { (String::new(), padding) };
            line.push_str(&format!("{before}{cell}{behind}  "));
        }
        format!("{}\n", line.trim_end())
    };
    let head = line(&mut head.iter().copied());
    rows.iter().fold(head, |text, row| text + &line(&mut row.iter().map(String::as_str)))
}

/// Nothing in it can move the cursor, change the terminal, or turn the line round so that it reads as another: reasons, topics
/// and keys are other people's words.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || turns_the_line(c) { '\u{fffd}' } else { c }).collect()
}

/// Unicode's bidirectional controls.
fn turns_the_line(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_and_numbers_end_at_the_right() {
        let rows = [vec!["rejected".into(), number(1234)], vec!["é".into(), number(5)]];
        assert_eq!(table(&["reason", "n"], &[1], &rows), "reason        n\nrejected  1,234\né             5\n");
    }
    #[test]
    fn nobodys_words_change_the_terminal() {
        let rows = [vec!["\u{1b}[2Jre\rjected\u{9b}".into(), "1\n".into()]];
        let text = table(&["reason", "n"], &[1], &rows);
        assert_eq!(text, "reason           n\n\u{fffd}[2Jre\u{fffd}jected\u{fffd}  1\u{fffd}\n");
        for turned in ["\u{200e}", "\u{200f}", "\u{202a}", "\u{202e}", "\u{2066}", "\u{2069}"] {
            assert_eq!(printable(&format!("a{turned}b")), "a\u{fffd}b", "{turned:?}");
        }
        assert_eq!(printable("عربي"), "عربي", "words that go from right to left are words");
    }
}
