//! The alarm, the clock that it goes by, and what goes wrong with both.
//!
//! *Guarantees.* As the platform: an alarm that is due rings at least once, perhaps late or twice; after six retries it is
//! lost. As the object: every request repairs an alarm that is missing or stuck in the past (`design.md` 7).

use crate::world::World;
use gastown::town::time::{Millis, SECOND, Timestamp};

/// What becomes of an alarm that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// It rings.
    Once,
    /// It rings, and rings again: the runtime guarantees at least one.
    Twice,
    /// It rings so much later.
    Late(Millis),
    /// It never rings: its six retries are used up. Only a request, or a new object, repairs it.
    Dropped,
}

/// An alarm that should have rung this long ago is repaired by the next request (the object's `ALARM_GRACE`).
const ALARM_GRACE: Millis = 5 * SECOND;

/// Decides about every alarm that is due while nothing is in the air.
pub type RingFilter = Box<dyn FnMut() -> Ring>;

/// What goes wrong with the alarm.
#[derive(Default)]
pub(crate) struct Bell {
    /// Decides, if anything does.
    pub rings: Option<RingFilter>,
    /// The alarm that is due rings only then.
    pub late_until: Option<Timestamp>,
    /// It rings once more.
    pub again: bool,
    /// It was dropped, or set by guess after an error.
    pub astray: bool,
}

impl World {
    /// Asks `filter` what becomes of every alarm that is due while nothing is in the air.
    pub fn filter_alarms(&mut self, filter: impl FnMut() -> Ring + 'static) {
        self.bell.rings = Some(Box::new(filter));
    }
    /// Alarms ring again as they should; one that was dropped stays so until a request comes.
    pub fn unfilter_alarms(&mut self) {
        self.bell.rings = None;
    }
    /// The alarm rings though nobody armed it for now.
    pub fn ring(&mut self) {
        self.bell.again = true;
    }
    /// Nothing runs for so long; then everything that was due is late.
    pub fn freeze(&mut self, ms: Millis) {
        self.jolted_at = Some(self.clock.advance(ms));
    }
    /// The object's clock steps by so much, backwards too. Everybody else's goes on.
    pub fn step_clock(&mut self, ms: Millis) {
        self.skew += ms;
        self.jolted_at = Some(self.now());
        self.stepped_back += (-ms).max(0);
        let now = self.now();
        self.watchdog.note(now, || format!("the object's clock steps by {ms} ms"));
    }
    /// What the object's clock shows.
    #[must_use]
    pub const fn town_now(&self) -> Timestamp {
        self.clock.now().plus(self.skew)
    }
    /// When the alarm rings, by our clock.
    pub(crate) fn rings_at(&self) -> Option<Timestamp> {
        if self.bell.again {
            return Some(self.now());
        }
        let wake = self.wake.map(|at| at.plus(-self.skew))?;
        Some(self.bell.late_until.map_or(wake, |late| late.max(wake)))
    }
    /// True if the alarm is as `next_wake` wants it: it was not dropped, nor set by guess after an error.
    #[must_use]
    pub const fn alarm_is_sound(&self) -> bool {
        !self.bell.astray
    }
    /// An alarm is due.
    pub(crate) fn rung(&mut self) {
        let (idle, first) = (self.air.is_empty() && self.waiting.is_empty(), self.bell.late_until.is_none());
        if std::mem::take(&mut self.bell.again) || !idle || !first {
            self.bell.late_until = None;
            return self.tick();
        }
        match self.bell.rings.as_mut().map_or(Ring::Once, |filter| filter()) {
            Ring::Once => self.tick(),
            Ring::Twice => {
                self.tick();
                self.bell.again = true;
            }
            Ring::Late(ms) => self.bell.late_until = Some(self.now().plus(ms)),
            Ring::Dropped => {
                (self.wake, self.bell.astray) = (None, true);
                let now = self.now();
                self.watchdog.note(now, || "the alarm is dropped".to_owned());
            }
        }
    }

    /// After a command, or its refusal: the alarm is asked for anew if a deadline may have moved earlier, or if it is
    /// missing or stuck in the past. `quiet`: no deadline has moved.
    pub(crate) fn see_to_alarm(&mut self, quiet: bool) {
        let now = self.town_now();
        let stuck = self.bell.late_until.is_some() && self.wake.is_some_and(|at| now.since(at) > ALARM_GRACE);
        if stuck {
            self.bell.late_until = None;
        }
        if !quiet || stuck || self.wake.is_none() {
            self.rearm(now);
        }
    }
}
