//! Swarm simulation: a town lives for days in a world that is seeded to go wrong, and keeps its promises.
//!
//! * [`deed`]: what happens and when, as plain data;
//! * [`draw`]: a history from a seed, with its own subset of the faults and people and its own rates;
//! * [`play`]: a history happens to a town; the oracle of `tests/oracle` checks `domain.md` 10 after every step, the
//!   container's own ledger decides whether anything was done twice, and at the end all faults stop and progress is
//!   demanded (invariant 14);
//! * [`shrink`]: the shortest history found that still fails in the same way;
//! * [`cover`]: what was covered;
//! * [`flood`]: ten thousand beads due at once.
//!
//! *Guarantees.* The same seed, days and commit give the same history and the same failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test infrastructure: a broken promise must stop the run"
)]

pub mod cover;
pub mod deed;
pub mod draw;
pub mod flood;
pub mod letters;
pub mod play;
pub mod shrink;

/// The oracle of the core's own tests, shared.
#[allow(clippy::pedantic, clippy::manual_is_multiple_of, reason = "tests/oracle is test code")]
#[path = "../../tests/oracle/mod.rs"]
mod oracle;

/// What may happen to a town, as the property tests have it.
#[allow(missing_docs, dead_code, clippy::pedantic, clippy::missing_panics_doc, reason = "tests/oracle is test code")]
#[path = "../../tests/oracle/history.rs"]
pub mod history;

pub use deed::{Deed, History, Timed};
pub use play::{Failure, Report};
