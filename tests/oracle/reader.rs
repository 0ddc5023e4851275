//! How the rows are read: once whole, then only what differs.
//!
//! *Guarantees.* What a look says has changed is all that has: every row of every written table is compared
//! ([`gastown_host::mirror`]). So an oracle may judge only what differs, and judges as if it had read everything.

use super::{Agent, Attempt, Bead, Breaker, Convoy, Delivery, Notice, Request, Rows, Stop, Watch};
use gastown::town::id::AgentId;
use gastown::town::sql::Row;
use gastown_host::mirror::{Changes, Mirror};
use gastown_host::world::World;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};

/// What a look found to differ from the one before.
#[derive(Default)]
pub struct Changed {
    pub town: bool,
    pub config: bool,
    pub rigs: bool,
    /// The ids of those that differ.
    pub beads: Vec<String>,
    pub agents: bool,
    /// The places of those that differ.
    pub attempts: Vec<usize>,
    /// Some attempt differs in more than its lease.
    pub fates: bool,
    pub breakers: bool,
    pub blocks: bool,
    pub convoys: bool,
    pub requests: bool,
    pub stops: bool,
    pub notices: bool,
    pub deliveries: bool,
    /// Beads went away.
    pub gone: bool,
}

/// A small table, read whole when it has changed.
struct Whole {
    mirror: Mirror,
    rows: BTreeMap<String, Row>,
}

impl Whole {
    fn new(table: &'static str, sql: &'static str) -> Self {
        Self { mirror: Mirror::new(table, sql), rows: BTreeMap::new() }
    }
    fn differs(&mut self, w: &World) -> bool {
        let Changes { changed, gone } = self.mirror.changes(&w.sql);
        let differs = !changed.is_empty() || !gone.is_empty();
        for key in gone {
            self.rows.remove(&key);
        }
        self.rows.extend(changed.into_iter().map(|r| (text(&r, 0), r)));
        differs
    }
    fn all<T>(&self, read: impl Fn(&Row) -> T) -> Vec<T> {
        self.rows.values().map(read).collect()
    }
}

/// Reads a town again and again.
pub struct Reader {
    pub rows: Rows,
    pub changed: Changed,
    places: HashMap<String, usize>,
    beads: Mirror,
    attempts: Mirror,
    town: Whole,
    config: Whole,
    rigs: Whole,
    agents: Whole,
    breakers: Whole,
    blocks: Whole,
    tracks: Whole,
    convoys: Whole,
    requests: Whole,
    watches: Whole,
    stops: Whole,
    notices: Whole,
    deliveries: Whole,
    redrives: Whole,
    escalations: Whole,
    departed: Whole,
    lines: Whole,
    letters: Whole,
    mayor: Whole,
    counters: Whole,
    events: Whole,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            rows: Rows::default(),
            changed: Changed::default(),
            places: HashMap::new(),
            beads: Mirror::new(
                "beads",
                "SELECT bead_id, seq, type, status, rig_id, assignee_agent_bead_id, labels, metadata, held, staged,
                        open_blockers, dispatch_attempts, failure_streak, next_dispatch_at, review_rounds,
                        review_not_before, failure_reason, orphaned_at, created_by, triage_request
                 FROM beads",
            ),
            attempts: Mirror::new(
                "attempts",
                "SELECT attempt_id, seq, bead_id, agent_id, rig_id, role, booked_at, lease_until, proven_at, finished_at,
                        outcome, class, code, reason, charged, probe, counts_in, look_until, instance_id, fingerprint,
                        last_heartbeat_at, looks, revived_at, reviving, quiet_since, quiet_step, last_event_at
                 FROM attempts",
            ),
            town: Whole::new(
                "town",
                "SELECT mayor_agent_id, slow_start, hold_until, hold_cause, instance_id, draining_since, drain_instance,
                        caps_lowered, rollup_last_at, rollup_count, invariant_violations, drain_asked_at, push_at, sync_at
                 FROM town",
            ),
            config: Whole::new("config", "SELECT json FROM config"),
            rigs: Whole::new("rigs", "SELECT rig_id, config FROM rigs"),
            agents: Whole::new("agents", "SELECT agent_id, role, status, current_hook_bead_id, stalled_until FROM agents"),
            breakers: Whole::new(
                "breakers",
                "SELECT scope, state, generation, opened_at, cause_code, told, still_open_told, next_probe_at,
                        health_until, probe_attempt_id, probe_booked_at, probe_proven, trial_ms, closed_at, settled,
                        override_mode, override_until
                 FROM breakers",
            ),
            blocks: Whole::new(
                "bead_dependencies",
                "SELECT bead_id || ' ' || depends_on_bead_id, bead_id, depends_on_bead_id
                 FROM bead_dependencies
                 WHERE kind = 'blocks'",
            ),
            tracks: Whole::new(
                "bead_dependencies",
                "SELECT d.bead_id || ' ' || d.depends_on_bead_id, d.bead_id, d.depends_on_bead_id
                 FROM bead_dependencies d
                 JOIN convoys c ON c.bead_id = d.depends_on_bead_id
                 WHERE d.kind = 'tracks'",
            ),
            convoys: Whole::new(
                "convoys",
                "SELECT bead_id, merge_mode, feature_branch, staged, total_beads, closed_beads, failed_beads, has_work,
                        landing_mr, landing_failures, land_at
                 FROM convoys",
            ),
            requests: Whole::new("merge_requests", "SELECT bead_id, source_bead_id, verdict FROM merge_requests"),
            watches: Whole::new("pull_requests", "SELECT bead_id, due_at, sent_until FROM pull_requests"),
            stops: Whole::new("stops", "SELECT stop_id, agent_id, due_at, sent_until FROM stops"),
            notices: Whole::new("notifications", "SELECT id, dedupe_key, kind, scope, facts, created_at FROM notifications"),
            deliveries: Whole::new(
                "deliveries",
                "SELECT delivery_id, notification_id, channel, state, next_attempt_at, delivered_at, sent_until FROM deliveries",
            ),
            departed: Whole::new("departed", "SELECT agent_id, due_at FROM departed"),
            redrives: Whole::new("redrives", "SELECT redrive_id, next_at FROM redrives WHERE state = 'running'"),
            escalations: Whole::new("escalations", "SELECT bead_id, next_escalation_at FROM escalations"),
            lines: Whole::new(
                "lines",
                "SELECT agent_id, due_at, message_id IS NOT NULL, items || carried FROM lines",
            ),
            letters: Whole::new("mail", "SELECT id FROM mail WHERE wakes = 1 AND delivered_at IS NULL"),
            mayor: Whole::new("agents", "SELECT agent_id, next_dispatch_at FROM agents WHERE role = 'mayor'"),
            counters: Whole::new("counters", "SELECT name, value FROM counters WHERE name = 'fleet_told'"),
            events: Whole::new(
                "bead_events",
                "SELECT CAST(seq AS TEXT), seq, bead_id FROM bead_events WHERE event_type = 'redriven'",
            ),
        }
    }
}

impl Reader {
    /// Brings the rows up to date and says what differs.
    pub fn look(&mut self, w: &World) {
        let rows = &mut self.rows;
        let mut changed = Changed::default();
        (rows.now, rows.slop) = (w.town_now().0, w.stepped_back);

        changed.town = self.town.differs(w);
        if changed.town {
            let (_, r) = self.town.rows.first_key_value().expect("the town is founded");
            rows.mayor = text(r, 0);
            rows.slow_start = int(r, 1);
            rows.hold_until = time(r, 2);
            rows.hold_cause = maybe(r, 3);
            rows.instance = maybe(r, 4);
            rows.draining_since = time(r, 5);
            rows.drain_instance = maybe(r, 6);
            rows.caps_lowered = int(r, 7) == 1;
            rows.rollup = (time(r, 8), int(r, 9));
            rows.violations = int(r, 10);
            rows.tellings = [time(r, 12), time(r, 13)];
            rows.drain_look = rows.drain_instance.as_ref().and(time(r, 11).or(rows.draining_since)).map(|t| t + 15_000);
        }
        changed.config = self.config.differs(w);
        if changed.config {
            rows.config = self.config.rows.values().next().map_or(Json::Null, |r| json(&text(r, 0)));
        }
        changed.rigs = self.rigs.differs(w);
        if changed.rigs {
            rows.rigs = self.rigs.all(|r| (text(r, 0), json(&text(r, 1)))).into_iter().collect();
        }

        let Changes { changed: differ, gone } = self.beads.changes(&w.sql);
        for id in gone {
            changed.gone = true;
            rows.beads.remove(&id);
        }
        for r in &differ {
            let bead = bead(r);
            changed.beads.push(bead.id.clone());
            rows.beads.insert(bead.id.clone(), bead);
        }
        changed.agents = self.agents.differs(w);
        if changed.agents {
            let agent = |r: &Row| Agent {
                id: text(r, 0),
                role: text(r, 1),
                status: text(r, 2),
                hook: maybe(r, 3),
                stalled_until: time(r, 4),
            };
            rows.agents = self.agents.all(agent).into_iter().map(|a| (a.id.clone(), a)).collect();
        }

        let Changes { changed: differ, gone } = self.attempts.changes(&w.sql);
        let mut differ: Vec<Attempt> = differ.iter().map(attempt).collect();
        differ.sort_by_key(|a| a.seq);
        if !gone.is_empty() {
            changed.fates = true;
            rows.attempts.retain(|a| !gone.contains(&a.id));
            self.places = rows.attempts.iter().enumerate().map(|(at, a)| (a.id.clone(), at)).collect();
        }
        for a in differ {
            let place = self.places.get(&a.id).copied();
            let at = place.unwrap_or(rows.attempts.len());
            match place {
                Some(at) => {
                    changed.fates |= !a.is_but_for_its_lease(&rows.attempts[at]);
                    rows.attempts[at] = a;
                }
                None => {
                    changed.fates = true;
                    self.places.insert(a.id.clone(), at);
                    rows.attempts.push(a);
                }
            }
            changed.attempts.push(at);
        }
        if changed.fates {
            rows.live = (0..rows.attempts.len()).filter(|at| rows.attempts[*at].live()).collect();
        }
        rows.born = w.pulses.born().0;
        let heard = |a: &Attempt| Some((a.agent.clone(), w.pulses.last(&AgentId(a.agent.clone()))?));
        let heard = rows.live.iter().filter_map(|at| heard(&rows.attempts[*at]));
        rows.heard = heard.map(|(agent, heard)| (agent, (heard.attempt.0, heard.lease_until.0))).collect();

        changed.breakers = self.breakers.differs(w);
        if changed.breakers {
            rows.breakers = self.breakers.all(breaker).into_iter().map(|b| (b.scope.clone(), b)).collect();
        }
        changed.blocks = self.blocks.differs(w);
        if changed.blocks {
            rows.blocks = self.blocks.all(|r| (text(r, 1), text(r, 2))).into_iter().collect();
        }
        // Both, always: each must be up to date.
        let (tracks, convoys) = (self.tracks.differs(w), self.convoys.differs(w));
        changed.convoys = tracks || convoys;
        if changed.convoys {
            rows.tracks = self.tracks.all(|r| (text(r, 1), text(r, 2)));
            rows.convoys = self.convoys.all(|r| Convoy {
                id: text(r, 0),
                lands: text(r, 1) == "review-then-land" && maybe(r, 2).is_some(),
                staged: int(r, 3) == 1,
                counted: (int(r, 4), int(r, 5), int(r, 6)),
                has_work: int(r, 7) == 1,
                landing: maybe(r, 8),
                failures: int(r, 9),
                land_at: time(r, 10),
            });
        }
        changed.requests = self.requests.differs(w);
        if changed.requests {
            rows.requests = self.requests.all(|r| Request { mr: text(r, 0), source: text(r, 1), verdict: maybe(r, 2) });
        }
        if self.watches.differs(w) {
            changed.requests = true;
            rows.watches = self.watches.all(|r| Watch { mr: text(r, 0), due_at: int(r, 1), sent_until: time(r, 2) });
        }
        changed.stops = self.stops.differs(w);
        if changed.stops {
            rows.stops = self.stops.all(|r| Stop { agent: text(r, 1), due_at: time(r, 2), sent_until: time(r, 3) });
        }
        changed.notices = self.notices.differs(w);
        if changed.notices {
            rows.notices = self.notices.all(|r| Notice {
                id: text(r, 0),
                key: text(r, 1),
                kind: text(r, 2),
                scope: maybe(r, 3),
                facts: json(&text(r, 4)),
                created_at: int(r, 5),
            });
        }
        changed.deliveries = self.deliveries.differs(w);
        if changed.deliveries {
            rows.deliveries = self.deliveries.all(|r| Delivery {
                notice: text(r, 1),
                channel: text(r, 2),
                state: text(r, 3),
                next_attempt_at: time(r, 4),
                delivered_at: time(r, 5),
                sent_until: time(r, 6),
            });
        }
        if self.departed.differs(w) {
            rows.departed = self.departed.all(|r| int(r, 1));
        }
        if self.lines.differs(w) {
            rows.lines = self.lines.all(|r| (time(r, 1), r.flag(2).unwrap(), text(r, 3)));
        }
        if self.letters.differs(w) {
            rows.letters = self.letters.all(|r| text(r, 0));
        }
        if self.mayor.differs(w) {
            rows.mayor_backoff = self.mayor.all(|r| time(r, 1)).into_iter().flatten().next();
        }
        if self.redrives.differs(w) {
            rows.redrives = self.redrives.all(|r| time(r, 1)).into_iter().flatten().collect();
        }
        if self.escalations.differs(w) {
            rows.escalations = self.escalations.all(|r| time(r, 1)).into_iter().flatten().collect();
        }
        if self.counters.differs(w) {
            rows.fleet_told = self.counters.rows.values().next().map_or(0, |r| int(r, 1));
        }
        if self.events.differs(w) {
            rows.redriven = self.events.all(|r| (int(r, 1), text(r, 2)));
            rows.redriven.sort_unstable();
        }
        self.changed = changed;
    }
}

fn bead(r: &Row) -> Bead {
    Bead {
        id: text(r, 0),
        seq: int(r, 1),
        kind: text(r, 2),
        status: text(r, 3),
        rig: maybe(r, 4),
        assignee: maybe(r, 5),
        labels: serde_json::from_str(&text(r, 6)).expect("labels are a list of texts"),
        metadata: json(&text(r, 7)),
        held: int(r, 8) == 1,
        staged: int(r, 9) == 1,
        open_blockers: int(r, 10),
        dispatch_attempts: int(r, 11),
        failure_streak: int(r, 12),
        next_dispatch_at: time(r, 13),
        review_rounds: int(r, 14),
        review_not_before: time(r, 15),
        failure_reason: maybe(r, 16).map(|t| json(&t)),
        orphaned_at: time(r, 17),
        created_by: maybe(r, 18),
        triage_request: int(r, 19),
    }
}

fn attempt(r: &Row) -> Attempt {
    Attempt {
        id: text(r, 0),
        seq: int(r, 1),
        bead: maybe(r, 2),
        agent: text(r, 3),
        rig: maybe(r, 4),
        role: text(r, 5),
        booked_at: int(r, 6),
        lease_until: time(r, 7),
        proven_at: time(r, 8),
        finished_at: time(r, 9),
        outcome: text(r, 10),
        class: maybe(r, 11),
        code: maybe(r, 12),
        reason: maybe(r, 13),
        charged: int(r, 14) == 1,
        probe: int(r, 15) == 1,
        counts_in: maybe(r, 16),
        look_until: time(r, 17),
        instance: maybe(r, 18),
        fingerprint: maybe(r, 19),
        heartbeat_at: time(r, 20),
        looks: int(r, 21),
        revived_at: time(r, 22),
        reviving: int(r, 23) == 1,
        quiet: (time(r, 24), int(r, 25)),
        last_event_at: time(r, 26),
    }
}

fn breaker(r: &Row) -> Breaker {
    Breaker {
        scope: text(r, 0),
        state: text(r, 1),
        generation: int(r, 2),
        opened_at: time(r, 3),
        cause: maybe(r, 4),
        told: int(r, 5) == 1,
        still_open_told: int(r, 6) == 1,
        next_probe_at: time(r, 7),
        health_until: time(r, 8),
        trial: maybe(r, 9),
        trial_booked_at: time(r, 10),
        trial_proven: int(r, 11) == 1,
        trial_ms: int(r, 12),
        closed_at: time(r, 13),
        settled: int(r, 14) == 1,
        order: maybe(r, 15).map(|mode| (mode, time(r, 16))),
    }
}

fn text(r: &Row, i: usize) -> String {
    r.text(i).unwrap_or_else(|e| panic!("{e:?}"))
}
fn maybe(r: &Row, i: usize) -> Option<String> {
    r.opt_text(i).unwrap_or_else(|e| panic!("{e:?}"))
}
fn int(r: &Row, i: usize) -> i64 {
    r.int(i).unwrap_or_else(|e| panic!("{e:?}"))
}
fn time(r: &Row, i: usize) -> Option<i64> {
    r.opt_int(i).unwrap_or_else(|e| panic!("{e:?}"))
}
fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}
