//! Stand-ins for what is outside, for demo, tests and local stacks: a broker inside the process, Nat.app over real HTTP,
//! and a source of realistic Segment events.

pub mod embedded;
pub mod generator;
pub mod stand_in;
