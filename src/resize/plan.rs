//! Whether the queue can be resized to that, from what is there. Pure.

use crate::kafka::{Layout, Resizing};

/// Why not, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwilling {
    #[error("--partitions {to}: the queue has as many already, and nothing is to be done")]
    Same { to: usize },
    #[error(
        "--partitions {to}: the queue has {has}, and Kafka cannot take partitions away. Choose more than {has}, or, with a new \
         topics.prefix, begin anew"
    )]
    Fewer { has: usize, to: usize },
    #[error(
        "--partitions {to}: a topic has {has} already, some of them added by hand. Kafka cannot take partitions away: choose \
         {has} or more"
    )]
    AddedMore { has: usize, to: usize },
    #[error(
        "--partitions {to}: a resize to {under_way} is under way. Finish that first, with --partitions {under_way}"
    )]
    UnderWay { under_way: usize, to: usize },
    #[error(
        "--partitions {to}: another one has ended meanwhile, or was taken back. Run this again to see what is left to do"
    )]
    TakenBack { to: usize },
    #[error("--partitions {to}: this was begun once more, and is done there. Nothing is lost; here it has stopped")]
    TakenOver { to: usize },
    #[error(
        "instances run: the group {group:?} has {}. Stop every instance (of one that was killed the group hears after \
         session.timeout.ms, 45 s) and run this again",
        list(.members)
    )]
    Running { group: String, members: Vec<String> },
    #[error(
        "something writes into the topic {queue:?}: wait for dead-letters redrive, replay and backfill, or stop them (they go \
         on later), and run this again"
    )]
    Written { queue: String },
}

fn list(members: &[String]) -> String {
    match members {
        [one] => format!("one member ({one})"),
        many => format!("{} members ({})", many.len(), many.join(", ")),
    }
}

/// The resize to do; the one under way, if there is one.
pub fn plan(layout: &Layout, queue: usize, delivered: usize, to: usize) -> Result<Resizing, Unwilling> {
    let made_with = layout.partitions;
    if let Some(resizing) = &layout.resizing {
        return match resizing.to {
            under_way if under_way != to => Err(Unwilling::UnderWay { under_way, to }),
            _ => Ok(resizing.clone()),
        };
    }
    let has = queue.max(delivered);
    match () {
        () if to < made_with => Err(Unwilling::Fewer { has: made_with, to }),
        () if to < has => Err(Unwilling::AddedMore { has, to }),
        () if to == made_with && queue == to && delivered == to => Err(Unwilling::Same { to }),
        () => Ok(Resizing { found: queue, to, ends: None, by: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_grows_and_goes_on_with_what_was_begun() {
        let six = Layout::of(6);
        let to = |to| Resizing { found: 6, to, ends: None, by: 0 };
        assert_eq!(plan(&six, 6, 6, 12), Ok(to(12)));
        assert_eq!(plan(&six, 6, 6, 6), Err(Unwilling::Same { to: 6 }));
        assert_eq!(plan(&six, 6, 6, 3), Err(Unwilling::Fewer { has: 6, to: 3 }));
        // Grown by hand: at least that far, and whatever it was keyed by in between is known.
        assert_eq!(plan(&six, 8, 6, 7), Err(Unwilling::AddedMore { has: 8, to: 7 }));
        assert_eq!(plan(&six, 8, 6, 8), Ok(Resizing { found: 8, to: 8, ends: None, by: 0 }));
        assert_eq!(plan(&six, 6, 9, 12), Ok(to(12)));
        // Stopped when the topics had grown.
        let busy = six.with(Resizing { found: 6, to: 12, ends: Some(vec![4; 12]), by: 0 });
        assert_eq!(plan(&busy, 12, 12, 12), Ok(Resizing { ends: Some(vec![4; 12]), ..to(12) }));
        assert_eq!(plan(&busy, 12, 12, 18), Err(Unwilling::UnderWay { under_way: 12, to: 18 }));
    }
}
