//! What both stages are made of: the ledger, the budget, and how a stage is told to stop and tells of itself. Pure but
//! for the watch channels.

mod budget;
mod ledger;
mod seldom;
mod status;

pub use budget::{Budget, Intake};
pub use ledger::Ledger;
pub use seldom::Seldom;
pub use status::{CircuitOpen, Position, StageStatus, Stop, Stopper, Whereabouts, stopper};
