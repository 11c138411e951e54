//! The contacts that Nat.app rejects while it accepts others: it will reject them at each event, which says nothing about
//! Nat.app. They count once until they are accepted, as those that are accepted do: of these dedup lets one event a day pass.
//! Otherwise the few would be most of what is sent in the evening, or when a day is backfilled that went through before. Pure.

use std::collections::HashSet;

use crate::dedup::Contact;

#[derive(Debug, Default)]
pub struct Regulars {
    /// Rejected since the last event was accepted: this may be the beginning of a mass rejection, where each one counts.
    suspects: HashSet<Contact>,
    /// Others have been accepted since.
    recent: HashSet<Contact>,
    /// Those of before `recent` was full.
    older: HashSet<Contact>,
}

impl Regulars {
    /// Of 16 bytes each: a MiB for either set.
    const MOST: usize = 50_000;

    pub fn holds(&self, contact: &Contact) -> bool {
        self.recent.contains(contact) || self.older.contains(contact)
    }

    pub fn suspect(&mut self, contact: Contact) {
        self.suspects.insert(contact);
    }

    /// They were rejected with all others.
    pub fn clear_suspects(&mut self) {
        self.suspects.clear();
    }

    pub fn accepted(&mut self, contact: &Contact) {
        for contacts in [&mut self.suspects, &mut self.recent, &mut self.older] {
            contacts.remove(contact);
        }
    }

    /// It was another contact's event that was accepted, while those were not.
    pub fn confirm_suspects(&mut self) {
        for contact in self.suspects.drain() {
            if self.recent.len() >= Self::MOST {
                self.older = std::mem::take(&mut self.recent);
            }
            self.recent.insert(contact);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Regulars {
        pub fn has_suspects(&self) -> bool {
            !self.suspects.is_empty()
        }
    }

    #[test]
    fn the_contacts_known_to_be_rejected_are_bounded_and_the_latest_are_kept() {
        let mut regulars = Regulars::default();
        let contact = |n: usize| Contact((n as u128).to_be_bytes());
        for n in 0..3 * Regulars::MOST {
            regulars.suspect(contact(n));
            regulars.confirm_suspects();
        }
        assert_eq!(regulars.recent.len() + regulars.older.len(), 2 * Regulars::MOST);
        assert!((Regulars::MOST..3 * Regulars::MOST).all(|n| regulars.holds(&contact(n))));
    }
}
