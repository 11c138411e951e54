//! What the tests share: a real Apache Kafka, the Nat.app stand-in, the real binary, and a world that ties them together
//! on topics of its own.

pub mod kafka;
pub mod world;

pub use world::{Instance, World};
