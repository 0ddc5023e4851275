//! What a simulation has covered: (state, next state) pairs of everything in a town that has states.

use gastown::town::sql::Row;
use gastown_host::mirror::{Changes, Mirror};
use gastown_host::world::World;
use std::collections::BTreeMap;

/// What is looked at, in which table, and where its states stand: a name of the row, and its state.
const WATCHED: [(&str, &str, &str); 22] = [
    (
        "bead",
        "beads",
        "SELECT bead_id, type || ' ' || status FROM beads WHERE type IN ('issue', 'merge_request', 'convoy')",
    ),
    ("attempt", "attempts", "SELECT attempt_id, outcome FROM attempts"),
    (
        "breaker",
        "breakers",
        "SELECT scope, CASE scope WHEN 'town' THEN 'town ' ELSE 'rig ' END || state FROM breakers",
    ),
    ("attempt of", "attempts", "SELECT attempt_id, role || ': ' || outcome FROM attempts WHERE role <> 'polecat'"),
    ("agent", "agents", "SELECT agent_id, role || ' ' || status FROM agents"),
    (
        "convoy",
        "convoys",
        "SELECT bead_id, CASE WHEN landed = 1 THEN 'landed' WHEN staged = 1 THEN 'staged'
                              WHEN landing_mr IS NOT NULL THEN 'lands' WHEN land_at IS NULL THEN 'waits'
                              WHEN landing_failures = 0 THEN 'due' ELSE 'due again' END
         FROM convoys",
    ),
    (
        "pull request",
        "pull_requests",
        "SELECT bead_id, CASE WHEN sent_until IS NOT NULL THEN step || ' in the air'
                              WHEN transient + malformed > 0 THEN step || ' failed'
                              WHEN refused_head = head THEN 'refused'
                              WHEN green_since IS NOT NULL THEN 'green' ELSE step END
         FROM pull_requests",
    ),
    ("rework", "beads", "SELECT bead_id, status FROM beads WHERE labels LIKE '%\"gt:rework\"%'"),
    ("repair", "beads", "SELECT bead_id, status FROM beads WHERE labels LIKE '%\"gt:pr-%'"),
    (
        "triage request",
        "beads",
        "SELECT bead_id, CASE WHEN status <> 'open' THEN status WHEN triage_request = 2 THEN 'given' ELSE 'asked' END
         FROM beads
         WHERE labels LIKE '%\"gt:triage-request\"%'",
    ),
    ("triage batch", "beads", "SELECT bead_id, status FROM beads WHERE created_by = 'patrol'"),
    (
        "inactive",
        "attempts",
        "SELECT attempt_id, CASE WHEN code = 'agent.no_progress' THEN 'stopped' WHEN quiet_step = 1 THEN 'nudged'
                                 WHEN quiet_step = 2 THEN 'asked about' END
         FROM attempts
         WHERE quiet_step > 0",
    ),
    (
        "handed out by the registry",
        "attempts",
        "SELECT attempt_id, CASE WHEN finished_at IS NOT NULL THEN outcome WHEN reviving = 1 THEN 'awaited'
                                 ELSE 'heard' END
         FROM attempts
         WHERE revived_at IS NOT NULL",
    ),
    ("molecule", "molecules", "SELECT bead_id, status || ', step ' || current_step FROM molecules"),
    (
        "nudge",
        "nudges",
        "SELECT nudge_id, source || ' ' || mode || CASE WHEN delivered_at IS NULL THEN ' waits' ELSE ' delivered' END
         FROM nudges",
    ),
    (
        "line",
        "lines",
        "SELECT agent_id, CASE WHEN message_id IS NOT NULL THEN 'in the air' WHEN carried_by IS NOT NULL THEN 'with a start'
                               WHEN due_at IS NULL THEN 'quiet' WHEN tries > 0 THEN 'due again' ELSE 'due' END
         FROM lines",
    ),
    (
        "mail",
        "mail",
        "SELECT id, CASE wakes WHEN 1 THEN 'message' ELSE 'mail' END
                    || CASE WHEN delivered_at IS NULL THEN ' waits' ELSE ' delivered' END
         FROM mail",
    ),
    (
        "escalation",
        "escalations",
        "SELECT bead_id, CASE WHEN acknowledged_at IS NOT NULL THEN 'acknowledged' ELSE 'raised ' || re_escalation_count END
         FROM escalations",
    ),
    ("redrive", "redrives", "SELECT redrive_id, state FROM redrives"),
    ("departed", "departed", "SELECT agent_id, CASE tries WHEN 0 THEN 'due' ELSE 'due again' END FROM departed"),
    (
        "telling",
        "town",
        "SELECT 'tokens', CASE WHEN push_at IS NULL THEN 'nothing' ELSE 'due' END FROM town
         UNION ALL
         SELECT 'settings', CASE WHEN sync_at IS NULL THEN 'nothing' ELSE 'due' END FROM town",
    ),
    ("drain", "town", "SELECT 'drain', CASE WHEN draining_since IS NULL THEN 'none' ELSE 'drains' END FROM town"),
];

/// Pairs that a town can go through (`domain.md` 2–9, `design.md` 4 and 5.5; `-` is not being there): what was never seen of these is told.
const POSSIBLE: [(&str, &str, &str); 141] = [
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
    ("attempt of", "-", "mayor: pending"),
    ("attempt of", "mayor: pending", "mayor: accepted"),
    ("attempt of", "mayor: pending", "mayor: failed"),
    ("attempt of", "mayor: accepted", "mayor: proven"),
    ("attempt of", "mayor: accepted", "mayor: failed"),
    ("attempt of", "mayor: proven", "mayor: succeeded"),
    ("attempt of", "mayor: proven", "mayor: failed"),
    ("attempt of", "mayor: proven", "mayor: interrupted"),
    ("attempt of", "mayor: proven", "mayor: cancelled"),
    ("attempt of", "refinery: pending", "refinery: accepted"),
    ("attempt of", "refinery: proven", "refinery: succeeded"),
    ("attempt of", "refinery: proven", "refinery: failed"),
    ("attempt of", "refinery: proven", "refinery: cancelled"),
    ("agent", "polecat idle", "polecat working"),
    ("agent", "polecat working", "polecat idle"),
    ("agent", "polecat working", "polecat stalled"),
    ("agent", "polecat stalled", "polecat idle"),
    ("agent", "polecat idle", "-"),
    ("agent", "refinery idle", "refinery working"),
    ("agent", "refinery working", "refinery stalled"),
    ("agent", "refinery stalled", "refinery idle"),
    ("agent", "mayor idle", "mayor working"),
    ("agent", "mayor working", "mayor waiting"),
    ("agent", "mayor waiting", "mayor working"),
    ("agent", "mayor working", "mayor idle"),
    ("agent", "mayor waiting", "mayor idle"),
    ("convoy", "-", "staged"),
    ("convoy", "staged", "waits"),
    ("convoy", "waits", "due"),
    ("convoy", "due", "lands"),
    ("convoy", "lands", "landed"),
    ("convoy", "lands", "due again"),
    ("convoy", "due again", "lands"),
    ("convoy", "waits", "landed"),
    ("pull request", "-", "open"),
    ("pull request", "open in the air", "open failed"),
    ("pull request", "open in the air", "-"),
    ("pull request", "-", "poll"),
    ("pull request", "poll in the air", "poll"),
    ("pull request", "poll in the air", "poll failed"),
    ("pull request", "poll in the air", "green"),
    ("pull request", "poll in the air", "refused"),
    ("pull request", "poll in the air", "-"),
    ("rework", "-", "open"),
    ("rework", "in_progress", "closed"),
    ("rework", "open", "failed"),
    ("repair", "-", "open"),
    ("repair", "in_progress", "closed"),
    ("triage request", "-", "asked"),
    ("triage request", "asked", "given"),
    ("triage request", "asked", "closed"),
    ("triage request", "given", "closed"),
    ("triage batch", "-", "open"),
    ("triage batch", "open", "in_progress"),
    ("triage batch", "in_progress", "closed"),
    ("triage batch", "in_progress", "open"),
    ("triage batch", "open", "closed"),
    ("inactive", "-", "nudged"),
    ("inactive", "nudged", "asked about"),
    ("inactive", "asked about", "stopped"),
    ("handed out by the registry", "-", "awaited"),
    ("handed out by the registry", "awaited", "heard"),
    ("handed out by the registry", "awaited", "failed"),
    ("handed out by the registry", "heard", "succeeded"),
    ("molecule", "-", "active, step 0"),
    ("molecule", "active, step 0", "active, step 1"),
    ("molecule", "active, step 0", "completed, step 0"),
    ("nudge", "agent immediate waits", "agent immediate delivered"),
    ("nudge", "agent wait-idle waits", "agent wait-idle delivered"),
    ("nudge", "reconciler immediate waits", "reconciler immediate delivered"),
    ("nudge", "triage immediate waits", "triage immediate delivered"),
    ("line", "due", "in the air"),
    ("line", "in the air", "quiet"),
    ("line", "in the air", "due again"),
    ("line", "due again", "in the air"),
    ("line", "quiet", "with a start"),
    ("line", "with a start", "quiet"),
    ("mail", "message waits", "message delivered"),
    ("mail", "mail waits", "mail delivered"),
    ("escalation", "raised 0", "raised 1"),
    ("escalation", "raised 2", "raised 3"),
    ("escalation", "raised 0", "acknowledged"),
    ("departed", "due", "-"),
    ("departed", "due", "due again"),
    ("telling", "due", "nothing"),
    ("drain", "none", "drains"),
    ("drain", "drains", "none"),
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
pub struct Cover {
    /// What was seen.
    pub pairs: Pairs,
    mirrors: [Mirror; WATCHED.len()],
    last: [BTreeMap<String, String>; WATCHED.len()],
}

impl Default for Cover {
    fn default() -> Self {
        Self {
            pairs: Pairs::new(),
            mirrors: WATCHED.map(|(_, table, sql)| Mirror::new(table, sql)),
            last: std::array::from_fn(|_| BTreeMap::new()),
        }
    }
}

impl Cover {
    /// Notes what has changed since the last time.
    pub fn see(&mut self, world: &World) {
        for (((what, ..), mirror), last) in WATCHED.iter().zip(&mut self.mirrors).zip(&mut self.last) {
            let Changes { changed, gone } = mirror.changes(&world.sql);
            let state = |row: &Row| Some((row.text(0).ok()?, row.text(1).ok()?));
            let gone = gone.into_iter().map(|id| (id, "-".to_owned()));
            for (id, state) in changed.iter().filter_map(state).chain(gone) {
                let before = last.get(&id).map_or("-", String::as_str);
                if before != state {
                    *self.pairs.entry((what, before.to_owned(), state.clone())).or_default() += 1;
                    last.insert(id, state);
                }
            }
        }
    }
}
