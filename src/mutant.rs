//! Mutants: ways to break this program on purpose, to show that the tests notice. In debug builds alone; a release build
//! has none of them, and takes the variable for a misspelt setting.
//!
//! `NAT_DESTINATION_MUTANT=commit_highest cargo run -- run …`

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Commits the highest offset seen instead of the frontier.
    CommitHighest,
    /// The day is used up when an event comes, not when it is accepted.
    MarkOnReceipt,
    /// The restore leaves out the last records of the changelog.
    SkipRestoreTail,
    /// An event that is answered 401 is dropped, and its offset completed.
    DropOn401,
    /// A contact's events do not wait for each other.
    ForgetLaneOrder,
    /// An event that holds `"poison":"panic"` panics, and one that holds `"poison":"hang"` hangs its handling.
    Poison,
}

pub const VARIABLE: &str = "NAT_DESTINATION_MUTANT";

/// Whether this process is that mutant.
#[cfg(debug_assertions)]
pub fn is(mutant: Mutant) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<Mutant>> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        Some(match std::env::var(VARIABLE).ok()?.as_str() {
            "commit_highest" => Mutant::CommitHighest,
            "mark_on_receipt" => Mutant::MarkOnReceipt,
            "skip_restore_tail" => Mutant::SkipRestoreTail,
            "drop_on_401" => Mutant::DropOn401,
            "forget_lane_order" => Mutant::ForgetLaneOrder,
            "poison" => Mutant::Poison,
            other => {
                eprintln!("{VARIABLE}={other}: there is no such mutant");
                std::process::exit(2)
            }
        })
    }) == Some(mutant)
}

#[cfg(not(debug_assertions))]
pub const fn is(_: Mutant) -> bool {
    false
}

/// What the mutant `poison` does with an event.
pub fn poison(event: &[u8]) {
    if !is(Mutant::Poison) {
        return;
    }
    let holds = |poison: &str| memchr::memmem::find(event, poison.as_bytes()).is_some();
    assert!(!holds(r#""poison":"panic""#), "poison");
    while holds(r#""poison":"hang""#) {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}
