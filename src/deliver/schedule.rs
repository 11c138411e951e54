//! Which lane is worked on next: those whose head may be sent stand in a queue, those whose head waits for its next attempt
//! in a heap. A lane is in one of the two at most. Pure; the clock is passed in.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

#[derive(Debug)]
pub struct Schedule<L> {
    ready: VecDeque<L>,
    waiting: BinaryHeap<Reverse<(Instant, L)>>,
}

impl<L: Copy + Ord> Schedule<L> {
    pub fn new() -> Schedule<L> {
        Schedule { ready: VecDeque::new(), waiting: BinaryHeap::new() }
    }

    /// Its head may be sent, after those of the lanes that came before.
    pub fn make_ready(&mut self, lane: L) {
        self.ready.push_back(lane);
    }

    /// Its head may be sent at that time.
    pub fn wait(&mut self, lane: L, until: Instant) {
        self.waiting.push(Reverse((until, lane)));
    }

    /// Those whose time has come are ready.
    pub fn wake(&mut self, now: Instant) {
        while self.next_due().is_some_and(|at| at <= now) {
            if let Some(Reverse((_, lane))) = self.waiting.pop() {
                self.ready.push_back(lane);
            }
        }
    }

    pub fn next_ready(&mut self) -> Option<L> {
        self.ready.pop_front()
    }

    /// For a probe: the latest good one that is ready, which has least to do with those that opened the circuit; or else any,
    /// or else the one that waits for the shortest time. Were they all waiting for long, nothing would find out that Nat.app
    /// is back.
    pub fn next_probe(&mut self, is_good: impl Fn(&L) -> bool) -> Option<L> {
        let ready = match self.ready.iter().rposition(is_good) {
            Some(index) => self.ready.remove(index),
            None => self.ready.pop_front(),
        };
        ready.or_else(|| self.waiting.pop().map(|Reverse((_, lane))| lane))
    }

    /// Of those that are ready, these come first now; each in the order it had.
    pub fn bring_forward(&mut self, is_first: impl Fn(&L) -> bool) {
        let (first, rest): (VecDeque<L>, VecDeque<L>) = self.ready.drain(..).partition(is_first);
        self.ready = first;
        self.ready.extend(rest);
    }

    /// When the first of those that wait becomes ready.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|Reverse((at, _))| *at)
    }

    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    pub fn all_ready(&self) -> impl Iterator<Item = &L> {
        self.ready.iter()
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::lanes::Lanes;
    use super::*;

    /// What becomes of a head that was sent.
    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Done,
        /// Tried again after so many milliseconds.
        Again(u64),
        /// Put back behind the others, as while the circuit is open.
        Back,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![6 => Just(Fate::Done), 2 => (1u64..50).prop_map(Fate::Again), 1 => Just(Fate::Back)]
    }

    proptest! {
        /// Lanes and schedule together, as the loop uses them, with answers in any order.
        #[test]
        fn each_contacts_order_is_kept_and_no_contact_starves(
            contacts in prop::collection::vec(0u8..12, 1..100),
            fates in prop::collection::vec(fate(), 0..30),
            concurrency in 1usize..6,
            seed: u64,
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut lanes, mut schedule) = (Lanes::<u8, usize>::default(), Schedule::new());
            // Each comes to an end some time.
            let mut fates = fates.into_iter().chain([Fate::Done]).cycle();
            let mut now = Instant::now();
            let mut in_flight: Vec<u8> = Vec::new();
            let mut done: HashMap<u8, Vec<usize>> = HashMap::new();
            // For each lane that is ready: how many others have been sent since.
            let mut passed_over: HashMap<u8, usize> = HashMap::new();
            for (number, contact) in contacts.iter().enumerate() {
                if lanes.push(*contact, number) {
                    schedule.make_ready(*contact);
                    passed_over.insert(*contact, 0);
                }
            }
            let mut left = contacts.len();
            let mut turns = 0;
            while left > 0 {
                turns += 1;
                prop_assert!(turns < 20_000, "{left} are never settled");
                while in_flight.len() < concurrency && schedule.has_ready() {
                    let contact = schedule.next_ready().expect("there is one");
                    prop_assert!(!in_flight.contains(&contact), "one in flight of a contact");
                    passed_over.remove(&contact);
                    passed_over.values_mut().for_each(|others| *others += 1);
                    let worst = passed_over.values().max().copied().unwrap_or(0);
                    prop_assert!(worst <= 12, "passed over {worst} times, by 11 other contacts");
                    in_flight.push(contact);
                }
                now += Duration::from_millis(rng.u64(0..20));
                if !in_flight.is_empty() {
                    let contact = in_flight.swap_remove(rng.usize(..in_flight.len()));
                    match fates.next().expect("endless") {
                        Fate::Done => {
                            done.entry(contact).or_default().push(lanes.pop(&contact).expect("a head"));
                            left -= 1;
                            if lanes.head(&contact).is_some() {
                                schedule.make_ready(contact);
                                passed_over.insert(contact, 0);
                            }
                        }
                        Fate::Again(millis) => schedule.wait(contact, now + Duration::from_millis(millis)),
                        Fate::Back => {
                            schedule.make_ready(contact);
                            passed_over.insert(contact, 0);
                        }
                    }
                }
                let due: Vec<u8> = schedule.waiting.iter().filter(|Reverse((at, _))| *at <= now).map(|w| w.0.1).collect();
                schedule.wake(now);
                passed_over.extend(due.into_iter().map(|contact| (contact, 0)));
                prop_assert!(schedule.next_due().is_none_or(|at| at > now));
            }
            for (contact, order) in done {
                let came: Vec<usize> = (0..contacts.len()).filter(|number| contacts[*number] == contact).collect();
                prop_assert_eq!(order, came, "the order of contact {}", contact);
            }
            prop_assert!(schedule.is_empty() && in_flight.is_empty());
        }
    }

    #[test]
    fn good_ones_are_probed_and_go_first_and_one_that_waits_only_where_none_is_ready() {
        let now = Instant::now();
        let mut schedule = Schedule::new();
        schedule.wait(1, now + Duration::from_secs(3600));
        schedule.wait(2, now + Duration::from_secs(60));
        (3..=7).for_each(|lane| schedule.make_ready(lane));
        let is_good = |lane: &i32| [4, 6].contains(lane);
        let probes: Vec<i32> = std::iter::from_fn(|| schedule.next_probe(is_good)).collect();
        assert_eq!(probes, [6, 4, 3, 5, 7, 2, 1], "the latest good one first");
        (3..=7).for_each(|lane| schedule.make_ready(lane));
        schedule.bring_forward(is_good);
        let order: Vec<i32> = std::iter::from_fn(|| schedule.next_ready()).collect();
        assert_eq!(order, [4, 6, 3, 5, 7]);
    }
}
