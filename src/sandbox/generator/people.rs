//! The contacts: who they are follows from the seed and their number alone, so that nothing need be remembered.

use fastrand::Rng;

const FIRST: [&str; 16] = [
    "Ada", "Grace", "Zoë", "José", "Peter", "Mina", "Björn", "Aïcha", "Wei", "Olu", "Ines", "Łukasz", "Priya", "Tom",
    "Sören", "Yuki",
];
/// The same names as they stand in addresses.
const LOCAL: [&str; 16] = [
    "ada", "grace", "zoe", "jose", "peter", "mina", "bjoern", "aicha", "wei", "olu", "ines", "lukasz", "priya", "tom",
    "soeren", "yuki",
];
const LAST: [&str; 12] =
    ["lovelace", "hopper", "okafor", "garcia", "muller", "tanaka", "singh", "novak", "silva", "dubois", "khan", "berg"];
const DOMAINS: [&str; 8] = [
    "example.com",
    "example.org",
    "mail.example.net",
    "acme.example",
    "corp.example.co.uk",
    "gmail.example",
    "xn--exmple-cua.example",
    "startup.example.io",
];
const PLUS: [&str; 4] = ["+news", "+work", "+test.1", "+a-b_c"];

pub(super) struct Person {
    pub number: u32,
    pub user_id: String,
    pub anonymous_id: String,
    pub name: String,
    /// Trimmed and in lower case: the contact.
    pub email: String,
}

impl Person {
    pub fn new(seed: u64, number: u32) -> Person {
        let mut rng = Rng::with_seed(seed.rotate_left(17) ^ (u64::from(number) << 20) ^ 0x5eed);
        let first = rng.usize(..FIRST.len());
        let last = LAST[rng.usize(..LAST.len())];
        let domain = DOMAINS[rng.usize(..DOMAINS.len())];
        // The number makes the address unique; a tag belongs to it, since Nat destination keeps tags apart.
        let email = match rng.u32(..20) {
            0 => format!("jané.{last}{number}@exämple.example"),
            1 | 2 => format!("{}.{last}{number}{}@{domain}", LOCAL[first], PLUS[rng.usize(..PLUS.len())]),
            _ => format!("{}.{last}{number}@{domain}", LOCAL[first]),
        };
        Person {
            number,
            user_id: format!("usr_{:08x}{number}", rng.u32(..)),
            anonymous_id: uuid(&mut rng),
            name: format!("{} {}", FIRST[first], last),
            email,
        }
    }

    /// The address as one of the team's programs writes it.
    pub fn written_email(&self, rng: &mut Rng) -> String {
        match rng.u32(..20) {
            0 | 1 => self.email.to_ascii_uppercase(),
            2..=4 => {
                let mut upper = true;
                let capital = |letter: char| {
                    let now = upper;
                    upper = !letter.is_ascii_alphanumeric();
                    if now { letter.to_ascii_uppercase() } else { letter }
                };
                self.email.chars().map(capital).collect()
            }
            5 => format!(" {}", self.email),
            6 => format!("{}  ", self.email),
            _ => self.email.clone(),
        }
    }
}

pub(super) fn uuid(rng: &mut Rng) -> String {
    let (high, low) = (rng.u64(..), rng.u64(..));
    let (a, b, c) = (high >> 32, (high >> 16) & 0xffff, high & 0x0fff);
    let (d, e) = ((low >> 48) & 0x3fff | 0x8000, low & 0xffff_ffff_ffff);
    format!("{a:08x}-{b:04x}-4{c:03x}-{d:04x}-{e:012x}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn however_it_is_written_the_address_normalises_to_the_contact() {
        let mut rng = Rng::with_seed(1);
        for number in 0..500 {
            let person = Person::new(9, number);
            assert_eq!(person.email, person.email.trim().to_lowercase());
            for _ in 0..20 {
                assert_eq!(person.written_email(&mut rng).trim().to_lowercase(), person.email);
            }
        }
    }

    #[test]
    fn no_two_contacts_share_an_address() {
        let people: HashSet<String> = (0..5_000).map(|number| Person::new(3, number).email).collect();
        assert_eq!(people.len(), 5_000);
    }
}
