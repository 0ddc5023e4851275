//! What is kept of one agent beside its row in the town: the events of its runtime, and its session as it was saved last.
//!
//! Pure like the town: it sees a [`Sql`] connection, the time and texts. An agent's store is a database of its own, so that
//! megabytes of transcripts never stand in a town's way. It is made for an agent that the town knows, and erased with it.
//!
//! * [`read`]: the body of `agent-events`, taken apart without being built.
//! * [`cut`]: what of an event is stored.
//! * [`events`]: appending, listing, replaying; the oldest go in steps.
//! * [`snapshot`]: bytes in parts, replaced as a whole.

pub mod cut;
pub mod events;
mod parts;
pub mod read;
pub mod snapshot;

use crate::town::{
    migrate::{MigrateError, Migration, RECORDED, migrate_with, plain},
    sql::{Sql, SqlError, any},
    time::Timestamp,
};

/// The migrations of an agent's store, oldest first.
pub const MIGRATIONS: &[Migration] =
    &[Migration { id: 1, name: "0001_transcript", sql: plain!("../../migrations/agent/0001_transcript.sql") }];

/// Brings a store up to date, or refuses and touches nothing.
pub fn migrate(sql: &dyn Sql, now: Timestamp) -> Result<(), MigrateError> {
    migrate_with(sql, now, MIGRATIONS, &RECORDED)
}

/// True if there is a store at all. Asking makes none.
pub fn exists(sql: &dyn Sql) -> Result<bool, SqlError> {
    any(sql, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations' LIMIT 1", &[])
}
