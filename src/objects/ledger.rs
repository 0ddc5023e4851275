//! What a town has cost since its object was made: calls, rows read and rows written, verb by verb. In memory only:
//! a ledger that wrote rows would be its own largest entry.

use crate::town::json::json;
use crate::town::{
    sorted::Sorted,
    sql::{Sql, Usage},
    time::Timestamp,
};
use serde::Serialize;
use serde_json::Value as Json;
use std::cell::RefCell;

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Line {
    calls: u64,
    rows_read: u64,
    rows_written: u64,
}

/// The ledger of one object.
#[derive(Debug)]
pub struct Ledger {
    since: Timestamp,
    lines: RefCell<Sorted<String, Line>>,
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub const fn new(since: Timestamp) -> Self {
        Self { since, lines: RefCell::new(Sorted::new()) }
    }

    /// Runs `body` and books what it read and wrote. `body` is synchronous, so nothing else is booked with it, and the
    /// ledger is borrowed only after it.
    pub fn measure<T>(&self, sql: &dyn Sql, verb: &str, body: impl FnOnce() -> T) -> T {
        let before = sql.usage();
        let out = body();
        let after = sql.usage();
        let mut lines = self.lines.borrow_mut();
        let verb = verb.to_owned();
        if !lines.contains_key(&verb) {
            lines.insert(verb.clone(), Line::default());
        }
        if let Some(line) = lines.get_mut(&verb) {
            line.calls = line.calls.saturating_add(1);
            line.rows_read = line.rows_read.saturating_add(after.rows_read.saturating_sub(before.rows_read));
            line.rows_written =
                line.rows_written.saturating_add(after.rows_written.saturating_sub(before.rows_written));
        }
        out
    }

    /// `cost` of `api.md`.
    #[must_use]
    pub fn cost(&self, total: Usage, container_calls: u64) -> Json {
        let lines = self.lines.borrow();
        json!({
            "since": self.since,
            "ticks": lines.get(&TICK.to_owned()).map_or(0, |l| l.calls),
            "container_calls": container_calls,
            "rows_read": total.rows_read,
            "rows_written": total.rows_written,
            "verbs": lines.iter().map(|(verb, line)| (verb.clone(), json!(line))).collect::<Json>(),
        })
    }
}

/// The verb of a tick in the ledger.
pub const TICK: &str = "tick";
