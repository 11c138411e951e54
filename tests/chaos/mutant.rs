//! The test of the test: the product broken on purpose in five ways, each with a plan that brings it to light quickly.

use std::time::Duration;

use crate::events::Mix;
use crate::plan::{Fault, Kind};
use crate::run::{Protocol, Settings};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    CommitHighest,
    MarkOnReceipt,
    SkipRestoreTail,
    DropOn401,
    ForgetLaneOrder,
}

pub const ALL: [Mutant; 5] =
    [Mutant::CommitHighest, Mutant::MarkOnReceipt, Mutant::SkipRestoreTail, Mutant::DropOn401, Mutant::ForgetLaneOrder];

pub fn of(name: &str) -> Result<Mutant, String> {
    let names: Vec<_> = ALL.iter().map(|mutant| mutant.name()).collect();
    let mutant = ALL.into_iter().find(|mutant| mutant.name() == name);
    mutant.ok_or_else(|| format!("no mutant {name:?}; there are {}", names.join(", ")))
}

impl Mutant {
    /// What `NAT_DESTINATION_MUTANT` says.
    pub fn name(self) -> &'static str {
        match self {
            Mutant::CommitHighest => "commit_highest",
            Mutant::MarkOnReceipt => "mark_on_receipt",
            Mutant::SkipRestoreTail => "skip_restore_tail",
            Mutant::DropOn401 => "drop_on_401",
            Mutant::ForgetLaneOrder => "forget_lane_order",
        }
    }

    pub fn settings(self, base: &Settings) -> Settings {
        let seconds = Duration::from_secs(match self {
            Mutant::CommitHighest => 30,
            Mutant::SkipRestoreTail => 20,
            Mutant::MarkOnReceipt | Mutant::DropOn401 => 8,
            Mutant::ForgetLaneOrder => 15,
        });
        let (mix, faults) = (self.mix(), self.faults(seconds));
        let command = format!("cargo test --test chaos -- --mutant {}", self.name());
        Settings {
            seconds,
            faults,
            mix,
            command,
            protocol: Protocol::Classic,
            mutant: Some(self.name().to_owned()),
            ..base.clone()
        }
    }

    fn mix(self) -> Mix {
        // A contact that always fails takes half a minute to be given up: not here.
        let usual = Mix { failing_every: 0, ..Mix::default() };
        match self {
            Mutant::CommitHighest | Mutant::DropOn401 => Mix { repeated: 5, ..usual },
            Mutant::MarkOnReceipt => Mix { pairs: 20, ..usual },
            Mutant::SkipRestoreTail => Mix { repeated: 70, engage: 5, ..usual },
            Mutant::ForgetLaneOrder => Mix { engage: 60, ..usual },
        }
    }

    fn faults(self, seconds: Duration) -> Vec<Fault> {
        let all_along = |kind, share| fault(kind, 0, Duration::ZERO, seconds, share);
        let again_and_again = |kind, every: u64| {
            let times = (1..).map(move |n| Duration::from_millis(n * every)).take_while(move |at| *at < seconds);
            times.enumerate().map(move |(n, at)| fault(kind, n % 3, at, Duration::from_millis(200), 1.0))
        };
        match self {
            // Events that wait for another attempt while later ones are settled, and then a crash; not before the groups have
            // come to rest after the last one.
            Mutant::CommitHighest => {
                let mut faults = vec![all_along(Kind::Nat500, 0.6)];
                faults.extend(again_and_again(Kind::Kill, 8000));
                faults
            }
            Mutant::MarkOnReceipt => Vec::new(),
            // Contact-days come again soon after a restart.
            Mutant::SkipRestoreTail => again_and_again(Kind::Terminate, 2000).collect(),
            Mutant::DropOn401 => vec![fault(Kind::Nat401, 0, seconds / 4, seconds / 4, 1.0)],
            Mutant::ForgetLaneOrder => vec![all_along(Kind::Nat500, 0.4)],
        }
    }
}

fn fault(kind: Kind, slot: usize, at: Duration, length: Duration, share: f64) -> Fault {
    Fault { at, length, kind, slot, broker: 0, share }
}
