//! Nat destination: Segment events in Kafka → identify calls → once per contact and day → Nat.app.
//!
//! Read it along one event's way: [`ingest`] (source topics → queue topic) and [`deliver`] (queue topic → Nat.app). The
//! rules that they go by are pure and lie below: [`segment`], [`dedup`], [`nat`]. [`service`] starts both together, and
//! [`cli`] is what users type.

pub mod address;
pub mod admin;
pub mod cli;
pub mod config;
pub mod counted;
pub mod dead_letter;
pub mod dedup;
pub mod deliver;
pub mod enqueue;
pub mod ingest;
pub mod kafka;
pub mod lag;
pub mod logs;
pub mod metrics;
pub mod mutant;
pub mod nat;
pub mod poison;
pub mod resize;
pub mod sandbox;
pub mod segment;
pub mod service;
pub mod stage;
pub mod suppress;
pub mod watchdog;
