//! Admission: how much one object has in hand at once, and who is sent away first when that is too much.
//!
//! An object works through its requests one after the other. Without a bound a burst would wait inside it until every
//! caller has given up, and its bodies with it; with one, whoever cannot be served soon is told so before the body of the
//! request is read. What keeps agents and their work alive has places and bytes of its own, which a burst of slings cannot
//! take, however large they are.
//!
//! *Guarantees.* Whoever is refused has changed nothing. A place is free again whatever becomes of its request.

use super::route::Route;
use crate::town::policy::{BYTES_IN_HAND, BYTES_RESERVED, REQUESTS_IN_HAND, REQUESTS_RESERVED};
use std::cell::Cell;

/// Which requests keep their place longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// What agents and their container report, and what stops a town: lost heartbeats and lost work make more work.
    Vital,
    /// Everything else. A person or a mayor asks again.
    Ordinary,
}

impl Lane {
    /// The lane of a route.
    #[must_use]
    pub const fn of(route: Route) -> Self {
        match route {
            Route::Heartbeat
            | Route::Heartbeats
            | Route::Done
            | Route::Completed
            | Route::EvictionContext
            | Route::Waiting
            | Route::NudgeDelivered
            | Route::ContainerEviction
            | Route::ContainerReady
            | Route::CompleteReview
            | Route::OverrideBreaker => Self::Vital,
            _ => Self::Ordinary,
        }
    }
    /// The path under which an object takes commands of this lane.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Vital => "/command/vital",
            Self::Ordinary => "/command",
        }
    }
    /// The lane of a path; `None` if it takes no commands.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        [Self::Vital, Self::Ordinary].into_iter().find(|lane| lane.path() == path)
    }
}

/// What one object has in hand.
#[derive(Debug, Default)]
pub struct Hand {
    ordinary: Load,
    vital: Load,
    shedding: Cell<bool>,
}

/// What it has in hand of one lane.
#[derive(Debug, Default)]
struct Load {
    requests: Cell<usize>,
    bytes: Cell<usize>,
}

/// A place in an object's hand; free again when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    hand: &'a Hand,
    lane: Lane,
    bytes: usize,
}

/// Too much is in hand already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// This refusal is the first since the hand was last half empty: worth a line in the log, unlike the next thousand.
    pub first: bool,
}

impl Hand {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self { ordinary: Load::new(), vital: Load::new(), shedding: Cell::new(false) }
    }

    const fn load(&self, lane: Lane) -> &Load {
        match lane {
            Lane::Ordinary => &self.ordinary,
            Lane::Vital => &self.vital,
        }
    }

    /// Takes a request with a body of so many bytes, or refuses it.
    pub fn take(&self, lane: Lane, bytes: usize) -> Result<Place<'_>, Full> {
        let (most, most_bytes) = match lane {
            Lane::Ordinary => (REQUESTS_IN_HAND, BYTES_IN_HAND),
            Lane::Vital => (REQUESTS_RESERVED, BYTES_RESERVED),
        };
        let load = self.load(lane);
        let (requests, held) = (load.requests.get(), load.bytes.get().saturating_add(bytes));
        // A single large body is taken by an idle lane, however large the edge lets it be.
        let too_much = held > most_bytes && requests > 0;
        if requests >= most || too_much {
            return Err(Full { first: !self.shedding.replace(true) });
        }
        load.requests.set(requests + 1);
        load.bytes.set(held);
        Ok(Place { hand: self, lane, bytes })
    }
}

impl Load {
    const fn new() -> Self {
        Self { requests: Cell::new(0), bytes: Cell::new(0) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let load = self.hand.load(self.lane);
        load.requests.set(load.requests.get().saturating_sub(1));
        load.bytes.set(load.bytes.get().saturating_sub(self.bytes));
        if self.hand.ordinary.requests.get() < REQUESTS_IN_HAND / 2 {
            self.hand.shedding.set(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(hand: &Hand, lane: Lane) -> Vec<Place<'_>> {
        std::iter::from_fn(|| hand.take(lane, 1).ok()).collect()
    }

    #[test]
    fn a_burst_of_slings_leaves_room_for_heartbeats_and_work_that_is_done() {
        let hand = Hand::new();
        let slings = fill(&hand, Lane::of(Route::Sling));
        assert_eq!(slings.len(), REQUESTS_IN_HAND);
        assert!(hand.take(Lane::of(Route::GetDispatch), 0).is_err());
        for route in [Route::Heartbeat, Route::Heartbeats, Route::Done, Route::Completed, Route::ContainerReady] {
            assert!(hand.take(Lane::of(route), 1).is_ok(), "{route:?}");
        }
        assert_eq!(fill(&hand, Lane::Vital).len(), REQUESTS_RESERVED, "and these have their own limit");
    }

    #[test]
    fn a_place_is_free_again_when_its_request_has_ended() {
        let hand = Hand::new();
        let mut slings = fill(&hand, Lane::Ordinary);
        slings.pop();
        assert!(hand.take(Lane::Ordinary, 1).is_ok());
        drop(slings);
        assert_eq!((hand.ordinary.requests.get(), hand.ordinary.bytes.get()), (0, 0));
    }

    #[test]
    fn large_bodies_fill_a_hand_sooner_and_one_alone_always_fits() {
        let hand = Hand::new();
        let large = hand.take(Lane::Ordinary, BYTES_IN_HAND + 1).unwrap();
        assert_eq!(hand.take(Lane::Ordinary, 1).unwrap_err(), Full { first: true });
        drop(large);
        let large = hand.take(Lane::Vital, BYTES_RESERVED + 1).unwrap();
        assert!(hand.take(Lane::Vital, 1).is_err() && hand.take(Lane::Ordinary, 1).is_ok());
        drop(large);
        let quarter: Vec<_> = (0..4).map(|_| hand.take(Lane::Ordinary, BYTES_IN_HAND / 4).unwrap()).collect();
        assert!(hand.take(Lane::Ordinary, 1_000).is_err());
        assert_eq!(quarter.len(), 4);
    }

    #[test]
    fn a_burst_is_told_once_and_the_next_one_again() {
        let hand = Hand::new();
        let places = fill(&hand, Lane::Ordinary);
        assert_eq!(hand.take(Lane::Ordinary, 1).unwrap_err(), Full { first: false }, "filling it was the first");
        drop(places);
        let places = (0..REQUESTS_IN_HAND).map(|_| hand.take(Lane::Ordinary, 1).unwrap()).collect::<Vec<_>>();
        assert_eq!(hand.take(Lane::Ordinary, 1).unwrap_err(), Full { first: true });
        drop(places);
    }

    #[test]
    fn a_lane_is_read_back_from_its_path() {
        for lane in [Lane::Vital, Lane::Ordinary] {
            assert_eq!(Lane::of_path(lane.path()), Some(lane));
        }
        assert_eq!(Lane::of_path("/delete"), None);
    }
}
