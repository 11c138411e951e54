//! The lanes of one partition: one FIFO per contact, whose head alone is worked on. Contacts run side by side; one
//! contact's events keep their order, and wait for the outcome of the one before.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

#[derive(Debug)]
pub struct Lanes<K, E> {
    lanes: HashMap<K, VecDeque<E>>,
}

impl<K: Hash + Eq + Copy, E> Default for Lanes<K, E> {
    fn default() -> Self {
        Lanes { lanes: HashMap::new() }
    }
}

impl<K: Hash + Eq + Copy, E> Lanes<K, E> {
    /// Appends to the contact's lane; true if the event is its head, so that work on it may begin.
    pub fn push(&mut self, key: K, event: E) -> bool {
        let lane = self.lanes.entry(key).or_default();
        lane.push_back(event);
        lane.len() == 1
    }

    pub fn holds(&self, key: &K) -> bool {
        self.lanes.contains_key(key)
    }

    pub fn first(&self, key: &K) -> Option<&E> {
        self.lanes.get(key)?.front()
    }

    pub fn head(&mut self, key: &K) -> Option<&mut E> {
        self.lanes.get_mut(key)?.front_mut()
    }

    /// Takes the head out once its outcome is known; the next event, if any, is the head then.
    pub fn pop(&mut self, key: &K) -> Option<E> {
        let lane = self.lanes.get_mut(key)?;
        let event = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(key);
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_contacts_events_leave_in_the_order_they_came(steps in prop::collection::vec((0u8..5, any::<bool>()), 0..300)) {
            let mut lanes: Lanes<u8, usize> = Lanes::default();
            let mut model: HashMap<u8, VecDeque<usize>> = HashMap::new();
            for (number, (contact, push)) in steps.into_iter().enumerate() {
                let lane = model.entry(contact).or_default();
                if push {
                    prop_assert_eq!(lanes.push(contact, number), lane.is_empty());
                    lane.push_back(number);
                } else {
                    prop_assert_eq!(lanes.pop(&contact), lane.pop_front());
                }
                prop_assert_eq!(lanes.head(&contact).copied(), lane.front().copied());
                prop_assert_eq!(lanes.holds(&contact), !lane.is_empty());
            }
            prop_assert_eq!(lanes.lanes.len(), model.values().filter(|lane| !lane.is_empty()).count());
        }
    }
}
