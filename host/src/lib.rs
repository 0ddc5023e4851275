//! The town's platform on the host: what a Durable Object, its container and the rest of the world are to a town,
//! rebuilt so that a test can own time.
//!
//! * [`sqlite`]: the town's `Sql` over rusqlite, refusing what workerd refuses;
//! * [`mirror`]: what changed in a table, for an oracle that looks after every step;
//! * [`clock`] and [`ids`]: a clock that only moves when told, ids that repeat with their seed;
//! * [`container`]: the container as `protocol.md` 4 describes it, with [`behaviour`] for the agents in it and
//!   [`fault`] for everything that goes wrong on the way;
//! * [`forge`]: GitHub and GitLab, for pull requests;
//! * [`ledger`]: what that container really did, which is what decides whether anything was done twice;
//! * [`world`]: one town in all of that, and an event-skipping driver that performs effects as the object would.
//!
//! Everything is deterministic: the same seed and the same calls give the same history, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test infrastructure: a broken promise must stop the test"
)]

mod alarm;
mod ask;
pub mod behaviour;
mod calls;
pub mod clock;
pub mod container;
pub mod fault;
pub mod forge;
pub mod ids;
pub mod ledger;
pub mod mirror;
mod plan;
pub mod sqlite;
pub mod watchdog;
pub mod webhook;
mod workerd;
pub mod world;

pub use ask::{operator, owner};
