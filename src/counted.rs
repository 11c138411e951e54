//! Numbers as people read them. Pure.

/// 1234567 → 1,234,567.
pub fn number(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}

/// 1 entry; 2,345 entries.
pub fn counted(count: u64, one: &str) -> String {
    let many = match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        _ => format!("{one}s"),
    };
    format!("{} {}", number(count), if count == 1 { one } else { &many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_counted_as_one_and_more_as_many() {
        let told = [(1, "dead letter"), (0, "entry"), (2, "copy"), (1234, "contact-day"), (1, "contact-day")];
        let told = told.map(|(count, one)| counted(count, one)).join("; ");
        assert_eq!(told, "1 dead letter; 0 entries; 2 copies; 1,234 contact-days; 1 contact-day");
    }
}
