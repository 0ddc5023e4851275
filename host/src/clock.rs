//! A clock that stands still until it is told to move.

use gastown::town::time::{Millis, Timestamp};
use std::cell::Cell;

/// Where simulated time begins: 2026-11-20T10:00:00.000Z, a Friday.
pub const START: Timestamp = Timestamp(1_795_168_800_000);

/// The simulated time.
#[derive(Debug)]
pub struct Clock {
    now: Cell<Timestamp>,
}

impl Default for Clock {
    fn default() -> Self {
        Self::at(START)
    }
}

impl Clock {
    /// A clock that shows `now`.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Self { now: Cell::new(now) }
    }
    /// What it shows.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.now.get()
    }
    /// Sets it, backwards too: clocks do step.
    pub fn set(&self, now: Timestamp) {
        self.now.set(now);
    }
    /// Moves it on by `ms` and tells what it shows then.
    pub fn advance(&self, ms: Millis) -> Timestamp {
        self.set(self.now().plus(ms));
        self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_only_when_told_and_in_both_directions() {
        let clock = Clock::default();
        assert_eq!(clock.now().to_string(), "2026-11-20T10:00:00.000Z");
        assert_eq!(clock.advance(1_500), START.plus(1_500));
        clock.set(START.plus(-1));
        assert_eq!(clock.now(), START.plus(-1));
    }
}
