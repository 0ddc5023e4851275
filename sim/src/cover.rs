//! What a simulation has covered: (state, next state) pairs of beads, attempts and breakers.

use gastown::town::sql::Sql as _;
use gastown_host::world::World;
use std::collections::BTreeMap;

/// What is looked at, and where its states stand.
const WATCHED: [(&str, &str); 3] = [
    ("bead", "SELECT bead_id, type || ' ' || status FROM beads WHERE type IN ('issue', 'merge_request', 'convoy')"),
    ("attempt", "SELECT attempt_id, outcome FROM attempts"),
    ("breaker", "SELECT scope, CASE scope WHEN 'town' THEN 'town ' ELSE 'rig ' END || state FROM breakers"),
];

/// Pairs that a town can go through (`domain.md` 2, `design.md` 4 and 5.5): what was never seen of these is told.
const POSSIBLE: [(&str, &str, &str); 54] = [
    ("bead", "-", "issue open"),
    ("bead", "issue open", "issue in_progress"),
    ("bead", "issue open", "issue in_review"),
    ("bead", "issue open", "issue closed"),
    ("bead", "issue open", "issue failed"),
    ("bead", "issue in_progress", "issue open"),
    ("bead", "issue in_progress", "issue in_review"),
    ("bead", "issue in_progress", "issue closed"),
    ("bead", "issue in_progress", "issue failed"),
    ("bead", "issue in_review", "issue open"),
    ("bead", "issue in_review", "issue closed"),
    ("bead", "issue in_review", "issue failed"),
    ("bead", "issue failed", "issue open"),
    ("bead", "-", "merge_request open"),
    ("bead", "merge_request open", "merge_request in_progress"),
    ("bead", "merge_request open", "merge_request closed"),
    ("bead", "merge_request open", "merge_request failed"),
    ("bead", "merge_request in_progress", "merge_request open"),
    ("bead", "merge_request in_progress", "merge_request closed"),
    ("bead", "merge_request in_progress", "merge_request failed"),
    ("bead", "merge_request failed", "merge_request open"),
    ("bead", "-", "convoy open"),
    ("bead", "convoy open", "convoy closed"),
    ("bead", "convoy open", "convoy failed"),
    ("bead", "convoy failed", "convoy open"),
    ("attempt", "-", "pending"),
    ("attempt", "pending", "accepted"),
    ("attempt", "pending", "proven"),
    ("attempt", "pending", "succeeded"),
    ("attempt", "pending", "failed"),
    ("attempt", "pending", "interrupted"),
    ("attempt", "pending", "cancelled"),
    ("attempt", "accepted", "proven"),
    ("attempt", "accepted", "succeeded"),
    ("attempt", "accepted", "failed"),
    ("attempt", "accepted", "interrupted"),
    ("attempt", "accepted", "cancelled"),
    ("attempt", "proven", "succeeded"),
    ("attempt", "proven", "failed"),
    ("attempt", "proven", "interrupted"),
    ("attempt", "proven", "cancelled"),
    ("attempt", "failed", "succeeded"),
    ("attempt", "interrupted", "succeeded"),
    ("attempt", "cancelled", "succeeded"),
    ("breaker", "-", "town open"),
    ("breaker", "town closed", "town open"),
    ("breaker", "town open", "town half_open"),
    ("breaker", "town half_open", "town open"),
    ("breaker", "town half_open", "town closed"),
    ("breaker", "-", "rig open"),
    ("breaker", "rig closed", "rig open"),
    ("breaker", "rig open", "rig half_open"),
    ("breaker", "rig half_open", "rig open"),
    ("breaker", "rig half_open", "rig closed"),
];

/// The possible pairs that are not among those seen, in words.
#[must_use]
pub fn missing(pairs: &Pairs) -> Vec<String> {
    let seen = |(what, from, to): &&(&'static str, &str, &str)| {
        pairs.contains_key(&(*what, (*from).to_owned(), (*to).to_owned()))
    };
    POSSIBLE.iter().filter(|p| !seen(p)).map(|(what, from, to)| format!("{what}: {from} -> {to}")).collect()
}

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
