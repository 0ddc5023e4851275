//! What a simulation has covered: (state, next state) pairs of beads, attempts and breakers.

use gastown::town::sql::Sql as _;
use gastown_host::world::World;
use std::collections::BTreeMap;

/// What is looked at, and where its states stand.
const WATCHED: [(&str, &str); 3] = [
    ("bead", "SELECT bead_id, type || ' ' || status FROM beads WHERE type IN ('issue', 'merge_request')"),
    ("attempt", "SELECT attempt_id, outcome FROM attempts"),
    ("breaker", "SELECT scope, substr(scope, 1, 3) || ' ' || state FROM breakers"),
];

/// Pairs seen: (what, state, next state) → how often.
pub type Pairs = BTreeMap<(&'static str, String, String), u64>;

/// Follows the states of one town.
#[derive(Default)]
pub struct Cover {
    /// What was seen.
    pub pairs: Pairs,
    last: [BTreeMap<String, String>; 3],
    written: u64,
}

impl Cover {
    /// Notes what has changed since the last time.
    pub fn see(&mut self, world: &World) {
        let written = world.sql.usage().rows_written;
        if std::mem::replace(&mut self.written, written) == written {
            return;
        }
        for ((what, sql), last) in WATCHED.iter().zip(&mut self.last) {
            for row in world.sql.peek(sql, &[]) {
                let (Ok(id), Ok(state)) = (row.text(0), row.text(1)) else { continue };
                let before = last.get(&id).map_or("-", String::as_str);
                if before != state {
                    *self.pairs.entry((what, before.to_owned(), state.clone())).or_default() += 1;
                    last.insert(id, state);
                }
            }
        }
    }
}
