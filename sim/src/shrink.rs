//! The shortest history that still fails in the same way, as far as it is found in the time given.
//!
//! Delta debugging: parts of the history are left out, halves first, single deeds last; then the time between the deeds
//! is taken out. A deed names things by their place among those that exist, so every part of a history is a history.

use crate::deed::History;
use crate::play::{Failure, Report, play};
use gastown::town::time::SECOND;
use std::time::{Duration, Instant};

/// Shrinks `history`, which fails as `failure`, for so long at most.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "a host program that may take so long and no longer")]
pub fn shrink(history: &History, failure: &Failure, patience: Duration) -> (History, Failure) {
    let until = Instant::now() + patience;
    let mut best = (history.clone(), failure.clone());
    let still = |candidate: History, best: &mut (History, Failure)| match play(&candidate, &mut Report::default()) {
        Err(again) if again.class == best.1.class => {
            *best = (candidate, again);
            true
        }
        _ => false,
    };
    // What came after it did not cause it, and neither did the time that nobody waited for.
    let mut early = best.0.clone();
    early.deeds.retain(|d| d.at <= failure.at);
    early.lasts = early.lasts.min(failure.at + SECOND);
    still(early, &mut best);
    loop {
        let before = best.0.deeds.len();
        let mut part = before.div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < best.0.deeds.len() && Instant::now() < until {
                let mut candidate = best.0.clone();
                let to = (from + part).min(candidate.deeds.len());
                candidate.deeds.drain(from..to);
                if !still(candidate, &mut best) {
                    from += part;
                }
            }
            part /= 2;
        }
        if best.0.deeds.len() == before || Instant::now() >= until {
            break;
        }
    }
    // Time between two deeds.
    let mut at = 0;
    while at < best.0.deeds.len() && Instant::now() < until {
        let from = at.checked_sub(1).map_or(0, |p| best.0.deeds[p].at);
        let gap = best.0.deeds[at].at - from;
        let shorter = [0, SECOND, 60 * SECOND].into_iter().filter(|ms| *ms < gap).chain([gap / 2]).any(|ms| {
            let mut candidate = best.0.clone();
            for deed in &mut candidate.deeds[at..] {
                deed.at -= gap - ms;
            }
            candidate.lasts -= gap - ms;
            gap > ms && still(candidate, &mut best)
        });
        at += usize::from(!shorter || gap <= 60 * SECOND);
    }
    best
}
