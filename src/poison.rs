//! Poison: an event whose handling panics. That is a defect of this program, and must not stop the event's partition: the
//! panic is contained, and the event becomes a dead letter, `poison`. A handling that hangs cannot be contained; the
//! watchdog sees to that one.
//!
//! A panic's text may quote the event. So the hook here tells the place in the code only, never the text.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Where in the code a handling panicked: `src/segment/json.rs:12:5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(pub String);

/// Runs `handle`, and returns where it panicked if it does. It must leave nothing half changed behind.
///
/// # Errors
/// When it panics.
pub fn contained<T>(handle: impl FnOnce() -> T) -> Result<T, Panicked> {
    CONTAINED.set(true);
    let result = catch_unwind(AssertUnwindSafe(handle));
    CONTAINED.set(false);
    result.map_err(|_| Panicked(PLACE.take()))
}

/// From here on panics are logged without their text.
pub fn hush_panics() {
    set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let place = panic.location().map_or_else(|| "?".to_owned(), ToString::to_string);
        if CONTAINED.get() {
            PLACE.set(place);
        } else {
            tracing::error!(place, "a defect of this program: it panicked; please report it with this place");
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_contained_and_what_comes_after_it_runs() {
        assert!(contained(|| [1, 2, 3].iter().position(|n| *n == 4).expect("none")).is_err());
        assert_eq!(contained(|| 7), Ok(7));
    }
}
