//! The plan of a run: which faults begin when, and for how long. Pure: the same seed gives the same plan. What the machine
//! makes of it (who is scheduled when, which request is under way) is not reproduced; that is why a plan has many.

use std::time::Duration;

use fastrand::Rng;

pub const SLOTS: usize = 4;
pub const BROKERS: usize = 3;

macro_rules! kinds {
    ($($kind:ident = $name:literal, $weight:literal, $shortest:literal, $longest:literal;)*) => {
        /// What can go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($kind),* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
            /// How often it is drawn, compared with the others.
            fn weight(self) -> u32 {
                match self { $(Kind::$kind => $weight),* }
            }
            /// Milliseconds, shortest and longest.
            fn length(self) -> (u64, u64) {
                match self { $(Kind::$kind => ($shortest, $longest)),* }
            }
        }
    };
}

kinds! {
    // An instance. For a kill and a SIGTERM the length is the time until it is started again.
    Kill = "kill", 5, 100, 2500;
    Terminate = "term", 3, 100, 3000;
    StopShort = "stop-short", 3, 200, 2500;
    StopLong = "stop-long", 3, 5000, 9000;
    Add = "add", 2, 4000, 12000;
    Remove = "remove", 2, 4000, 10000;
    // A broker; one at a time, so that two replicas are in sync.
    BrokerKill = "broker-kill", 2, 200, 3000;
    BrokerStop = "broker-stop", 2, 1000, 6000;
    // The road from an instance to one broker, to all of them, from all instances to one broker.
    CutBroker = "cut-broker", 2, 100, 4000;
    StallBroker = "stall-broker", 2, 500, 5000;
    SlowBroker = "slow-broker", 2, 1000, 5000;
    CutBrokers = "cut-brokers", 2, 200, 8000;
    StallBrokers = "stall-brokers", 2, 1000, 8000;
    CutBrokerForAll = "cut-broker-for-all", 1, 200, 3000;
    // The road from an instance to the stand-in.
    CutNat = "cut-nat", 3, 50, 3000;
    StallNat = "stall-nat", 3, 500, 4000;
    SlowNat = "slow-nat", 2, 1000, 5000;
    // What the stand-in does.
    Nat429 = "nat-429", 2, 500, 3000;
    Nat429Wait = "nat-429-wait", 2, 500, 3000;
    Nat500 = "nat-500", 2, 500, 4000;
    Nat503 = "nat-503", 2, 500, 3000;
    Nat401 = "nat-401", 2, 300, 2000;
    Nat404 = "nat-404", 1, 300, 2000;
    Nat400Most = "nat-400-most", 1, 200, 800;
    NatSlow = "nat-slow", 3, 1000, 5000;
    NatHang = "nat-hang", 2, 500, 3000;
    NatResetBefore = "nat-reset-before", 2, 500, 3000;
    NatResetDuring = "nat-reset-during", 2, 500, 3000;
    NatResetAfter = "nat-reset-after", 3, 500, 3000;
    NatGarbage = "nat-garbage", 2, 500, 3000;
    NatCutAnswer = "nat-cut-answer", 3, 500, 3000;
    // A tool that puts events into the queue again, killed when its time is over. Drawn apart: see `draw`.
    Redrive = "redrive", 1, 1000, 20000;
    Replay = "replay", 1, 1000, 20000;
    Backfill = "backfill", 1, 1000, 20000;
}

impl Kind {
    pub fn of(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    pub fn is_of_an_instance(self) -> bool {
        matches!(self, Kind::Kill | Kind::Terminate | Kind::StopShort | Kind::StopLong | Kind::Add | Kind::Remove)
    }

    pub fn is_of_a_broker(self) -> bool {
        matches!(self, Kind::BrokerKill | Kind::BrokerStop)
    }

    /// Between instances and brokers.
    pub fn is_of_the_road_to_kafka(self) -> bool {
        use Kind::{CutBroker, CutBrokerForAll, CutBrokers, SlowBroker, StallBroker, StallBrokers};
        matches!(self, CutBroker | StallBroker | SlowBroker | CutBrokers | StallBrokers | CutBrokerForAll)
    }

    pub fn is_a_tool(self) -> bool {
        matches!(self, Kind::Redrive | Kind::Replay | Kind::Backfill)
    }

    pub fn is_of_the_road_to_nat(self) -> bool {
        matches!(self, Kind::CutNat | Kind::StallNat | Kind::SlowNat)
    }
}

/// One fault: at `at` from the beginning, for `length`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    pub at: Duration,
    pub length: Duration,
    pub kind: Kind,
    /// Whom it concerns, where its kind concerns one.
    pub slot: usize,
    pub broker: usize,
    /// Of the requests, where it is the stand-in's.
    pub share: f64,
}

impl Fault {
    pub fn tell(&self) -> String {
        let (name, slot, broker) = (self.kind.name(), self.slot, self.broker + 1);
        match self.kind {
            Kind::CutBroker | Kind::StallBroker | Kind::SlowBroker => format!("{name} slot {slot} broker {broker}"),
            Kind::CutBrokerForAll => format!("{name} broker {broker}"),
            kind if kind.is_of_a_broker() => format!("{name} broker {broker}"),
            Kind::CutBrokers | Kind::StallBrokers => format!("{name} slot {slot}"),
            kind if kind.is_a_tool() => name.to_owned(),
            kind if kind.is_of_an_instance() || kind.is_of_the_road_to_nat() => format!("{name} slot {slot}"),
            _ => format!("{name} {:.0} %", self.share * 100.0),
        }
    }
}

/// What happens while the queue grows, between two phases of faults.
#[derive(Debug, Clone)]
pub struct Growth {
    /// Slots whose instance is killed; the others' are told to end.
    pub killed: [bool; SLOTS],
    /// After so long a run of `topics resize` is killed, one after the other; the next one may come to its end.
    pub kills: Vec<Duration>,
    /// Of the brokers, from then on when nothing runs.
    pub faults: Vec<Fault>,
    /// Of everything, when the instances go on.
    pub then: Vec<Fault>,
}

impl Growth {
    pub fn draw(seed: u64, wish: &Wish<'_>) -> Growth {
        let seed = seed ^ 0x6e0;
        let mut random = Rng::with_seed(seed);
        // It looks for five seconds whether anything runs before it begins; and there is no more for it to do than a few seconds.
        let kills = (0..random.usize(1..4)).map(|_| Duration::from_millis(random.u64(500..9000))).collect();
        let of_brokers: Vec<Kind> = wish.kinds.iter().copied().filter(|kind| kind.is_of_a_broker()).collect();
        let length = Duration::from_secs(25);
        Growth {
            killed: std::array::from_fn(|_| random.bool()),
            kills,
            faults: draw_from(seed, (1000, 4000), &Wish { length, kinds: &of_brokers, ..*wish }),
            then: draw(seed, wish),
        }
    }
}

/// How dense a plan is, and what may be in it.
pub struct Wish<'a> {
    pub length: Duration,
    pub instances: usize,
    pub kinds: &'a [Kind],
}

/// The faults: those of the surroundings in the order of their beginnings, then the tools. All have ended by `length`, but
/// for what comes back slowly. The tools are drawn from a generator of their own, so that a seed's other faults stay as
/// they were before there were tools.
pub fn draw(seed: u64, wish: &Wish<'_>) -> Vec<Fault> {
    let (tools, others): (Vec<Kind>, Vec<Kind>) = wish.kinds.iter().partition(|kind| kind.is_a_tool());
    let mut faults = draw_from(seed, (500, 1500), &Wish { kinds: &others, ..*wish });
    faults.extend(draw_from(seed ^ 0x7001, (4000, 12000), &Wish { kinds: &tools, ..*wish }));
    faults
}

/// One begins that many milliseconds after the other.
fn draw_from(seed: u64, between: (u64, u64), wish: &Wish<'_>) -> Vec<Fault> {
    let mut drawing = Drawing { random: Rng::with_seed(seed), busy: Busy::default(), faults: Vec::new() };
    let mut at = Duration::from_millis(between.0);
    while !wish.kinds.is_empty() && at + Duration::from_secs(1) < wish.length {
        drawing.one(at, wish);
        at += Duration::from_millis(drawing.random.u64(between.0..between.1));
    }
    drawing.faults
}

struct Drawing {
    random: Rng,
    busy: Busy,
    faults: Vec<Fault>,
}

/// Until when something has a fault that does not go with another.
#[derive(Default)]
struct Busy {
    slots: [Duration; SLOTS],
    broker: Duration,
}

impl Drawing {
    /// A few tries: a kind may have nobody free whom it could concern.
    fn one(&mut self, at: Duration, wish: &Wish<'_>) {
        for _ in 0..20 {
            let kind = self.kind(wish.kinds);
            let (shortest, longest) = kind.length();
            let length = Duration::from_millis(self.random.u64(shortest..=longest)).min(wish.length.saturating_sub(at));
            let Some((slot, broker)) = self.whom(kind, at, length, wish.instances) else { continue };
            let share = match kind {
                Kind::Nat401 | Kind::Nat404 => 1.0,
                Kind::Nat400Most => 0.9,
                _ => *self.random.choice(&[0.05, 0.2, 0.5, 1.0]).unwrap_or(&0.5),
            };
            self.faults.push(Fault { at, length, kind, slot, broker, share });
            return;
        }
    }

    fn kind(&mut self, kinds: &[Kind]) -> Kind {
        let total: u32 = kinds.iter().map(|kind| kind.weight()).sum();
        let mut drawn = self.random.u32(0..total);
        for kind in kinds {
            match drawn.checked_sub(kind.weight()) {
                Some(rest) => drawn = rest,
                None => return *kind,
            }
        }
        kinds[0]
    }

    fn whom(&mut self, kind: Kind, at: Duration, length: Duration, instances: usize) -> Option<(usize, usize)> {
        let broker = self.random.usize(0..BROKERS);
        if kind.is_of_a_broker() || kind == Kind::CutBrokerForAll {
            if at < self.busy.broker {
                return None;
            }
            // It has to catch up before the next one goes.
            self.busy.broker = at + length + Duration::from_secs(6);
            return Some((0, broker));
        }
        if !kind.is_of_an_instance() {
            return Some((self.random.usize(0..instances), broker));
        }
        if kind == Kind::Add && instances == SLOTS {
            return None;
        }
        let slot = if kind == Kind::Add { instances } else { self.random.usize(0..instances) };
        let free = |slot: usize| at >= self.busy.slots[slot];
        let others = (0..instances).filter(|other| *other != slot && free(*other)).count();
        if !free(slot) || (others == 0 && instances > 1) {
            return None;
        }
        self.busy.slots[slot] = at + length + Duration::from_secs(2);
        Some((slot, broker))
    }
}
