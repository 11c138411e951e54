//! What "already delivered" is: the keys, the set in memory, and the changelog record that the set is restored from.
//! Pure: knows neither Kafka nor the clock.

mod changelog;
mod key;
mod set;

pub use changelog::{Change, Delivered, Tried, UnreadableDelivered};
pub use key::{Contact, DedupKey, Key, Kind, Place, digits};
pub use set::{DeliveredSet, is_remembered};
