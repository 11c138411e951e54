//! What Nat.app is to us: the request it takes, the verdict of its answers, the key, and the HTTP client.

mod client;
mod key;
mod request;
mod verdict;

pub use client::{ClientError, NatClient};
pub use key::{Carried, key_problem, watch_key};
pub use request::{body, idempotency_key};
pub use verdict::{Answer, Failure, Verdict, redacted};
