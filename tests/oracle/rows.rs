//! The raw rows of a town, as the oracle reads them: every table whole, behind the town's back.

use gastown::town::id::AgentId;
use gastown::town::sql::{Row, Value};
use gastown_host::world::World;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

pub struct Bead {
    pub id: String,
    pub seq: i64,
    pub kind: String,
    pub status: String,
    pub rig: Option<String>,
    pub assignee: Option<String>,
    pub labels: Vec<String>,
    pub metadata: Json,
    pub held: bool,
    pub staged: bool,
    pub open_blockers: i64,
    pub dispatch_attempts: i64,
    pub failure_streak: i64,
    pub next_dispatch_at: Option<i64>,
    pub review_rounds: i64,
    pub review_not_before: Option<i64>,
    pub failure_reason: Option<Json>,
    pub orphaned_at: Option<i64>,
}

pub struct Agent {
    pub id: String,
    pub role: String,
    pub status: String,
    pub hook: Option<String>,
}

pub struct Attempt {
    pub id: String,
    pub seq: i64,
    pub bead: Option<String>,
    pub agent: String,
    pub rig: Option<String>,
    pub role: String,
    pub booked_at: i64,
    pub lease_until: Option<i64>,
    pub proven_at: Option<i64>,
    pub finished_at: Option<i64>,
    pub outcome: String,
    pub class: Option<String>,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub charged: bool,
    pub probe: bool,
    pub counts_in: Option<String>,
    pub look_until: Option<i64>,
    pub instance: Option<String>,
    pub fingerprint: Option<String>,
    pub heartbeat_at: Option<i64>,
    pub looks: i64,
}

impl Attempt {
    pub fn live(&self) -> bool {
        self.finished_at.is_none()
    }
    pub fn who(&self) -> &str {
        self.bead.as_deref().unwrap_or(&self.agent)
    }
}

pub struct Breaker {
    pub scope: String,
    pub state: String,
    pub generation: i64,
    pub opened_at: Option<i64>,
    pub cause: Option<String>,
    pub told: bool,
    pub still_open_told: bool,
    pub next_probe_at: Option<i64>,
    pub health_until: Option<i64>,
    pub trial: Option<String>,
    pub trial_booked_at: Option<i64>,
    pub trial_proven: bool,
    pub trial_ms: i64,
    pub closed_at: Option<i64>,
    pub settled: bool,
    pub order: Option<(String, Option<i64>)>,
}

impl Breaker {
    /// The order of a person that is in force.
    pub fn ordered(&self, now: i64) -> Option<&str> {
        self.order.as_ref().filter(|(_, until)| until.is_some_and(|t| t > now)).map(|(mode, _)| mode.as_str())
    }
    /// What the gate has to obey (`design.md` 5.5, *Override*).
    pub fn effective(&self, now: i64) -> &str {
        match self.ordered(now) {
            Some("forced_open") => "open",
            Some(_) => "closed",
            None => &self.state,
        }
    }
}

pub struct Stop {
    pub agent: String,
    pub due_at: Option<i64>,
    pub sent_until: Option<i64>,
}

pub struct Request {
    pub mr: String,
    pub source: String,
    pub pr: Option<String>,
}

pub struct Notice {
    pub key: String,
    pub kind: String,
    pub created_at: i64,
}

pub struct Delivery {
    pub channel: String,
    pub state: String,
    pub next_attempt_at: Option<i64>,
}

/// Everything, at one moment.
pub struct Rows {
    pub now: i64,
    pub slow_start: i64,
    pub hold_until: Option<i64>,
    pub draining_since: Option<i64>,
    pub caps_lowered: bool,
    pub rollup: (Option<i64>, i64),
    pub violations: i64,
    pub mayor: String,
    /// Decision 007: while a drain holds work back, the container is asked who it is, every 15 s.
    pub drain_look: Option<i64>,
    pub config: Json,
    pub rigs: BTreeMap<String, Json>,
    pub beads: BTreeMap<String, Bead>,
    pub agents: BTreeMap<String, Agent>,
    pub attempts: Vec<Attempt>,
    pub breakers: BTreeMap<String, Breaker>,
    /// (bead, the bead it waits for)
    pub blocks: BTreeSet<(String, String)>,
    pub requests: Vec<Request>,
    pub stops: Vec<Stop>,
    pub notices: Vec<Notice>,
    pub deliveries: Vec<Delivery>,
    pub redrives: Vec<i64>,
    /// The state of the town's breaker that the fleet was told last: 0 closed, 1 open, 2 half-open.
    pub fleet_told: i64,
    /// `redriven` events: (seq, bead)
    pub redriven: Vec<(i64, String)>,
    /// What the object remembers: agent → (attempt, until when its next heartbeat is awaited).
    pub heard: BTreeMap<String, (String, i64)>,
    /// When the object was made.
    pub born: i64,
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

impl Rows {
    pub fn read(w: &World) -> Self {
        let all = |sql: &str| w.sql.peek(sql, &[] as &[Value]);
        let town = all("SELECT slow_start, hold_until, draining_since, caps_lowered, rollup_last_at, rollup_count,
                               invariant_violations, mayor_agent_id, drain_instance, drain_asked_at
                        FROM town");
        let town = town.first().expect("the town is founded");
        let beads =
            all("SELECT bead_id, seq, type, status, rig_id, assignee_agent_bead_id, labels, metadata, held, staged,
                                open_blockers, dispatch_attempts, failure_streak, next_dispatch_at, review_rounds,
                                review_not_before, failure_reason, orphaned_at
                         FROM beads")
            .iter()
            .map(|r| Bead {
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
            })
            .map(|b| (b.id.clone(), b))
            .collect();
        let agents = all("SELECT agent_id, role, status, current_hook_bead_id FROM agents")
            .iter()
            .map(|r| Agent { id: text(r, 0), role: text(r, 1), status: text(r, 2), hook: maybe(r, 3) })
            .map(|a| (a.id.clone(), a))
            .collect();
        let attempts =
            all("SELECT attempt_id, seq, bead_id, agent_id, rig_id, role, booked_at, lease_until, proven_at,
                                   finished_at, outcome, class, code, reason, charged, probe, counts_in, look_until,
                                   instance_id, fingerprint, last_heartbeat_at, looks
                            FROM attempts ORDER BY seq")
            .iter()
            .map(|r| Attempt {
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
            })
            .collect();
        let breakers =
            all("SELECT scope, state, generation, opened_at, cause_code, told, still_open_told, next_probe_at,
                                   health_until, probe_attempt_id, probe_booked_at, probe_proven, trial_ms, closed_at,
                                   settled, override_mode, override_until
                            FROM breakers")
            .iter()
            .map(|r| Breaker {
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
            })
            .map(|b| (b.scope.clone(), b))
            .collect();
        Self {
            now: w.now().0,
            slow_start: int(town, 0),
            hold_until: time(town, 1),
            draining_since: time(town, 2),
            caps_lowered: int(town, 3) == 1,
            rollup: (time(town, 4), int(town, 5)),
            violations: int(town, 6),
            mayor: text(town, 7),
            drain_look: maybe(town, 8).and(time(town, 9).or(time(town, 2))).map(|t| t + 15_000),
            config: all("SELECT json FROM config").first().map_or(Json::Null, |r| json(&text(r, 0))),
            rigs: all("SELECT rig_id, config FROM rigs").iter().map(|r| (text(r, 0), json(&text(r, 1)))).collect(),
            beads,
            agents,
            attempts,
            breakers,
            blocks: all("SELECT bead_id, depends_on_bead_id FROM bead_dependencies WHERE kind = 'blocks'")
                .iter()
                .map(|r| (text(r, 0), text(r, 1)))
                .collect(),
            requests: all("SELECT bead_id, source_bead_id, pr_url FROM merge_requests")
                .iter()
                .map(|r| Request { mr: text(r, 0), source: text(r, 1), pr: maybe(r, 2) })
                .collect(),
            stops: all("SELECT agent_id, due_at, sent_until FROM stops")
                .iter()
                .map(|r| Stop { agent: text(r, 0), due_at: time(r, 1), sent_until: time(r, 2) })
                .collect(),
            notices: all("SELECT dedupe_key, kind, created_at FROM notifications")
                .iter()
                .map(|r| Notice { key: text(r, 0), kind: text(r, 1), created_at: int(r, 2) })
                .collect(),
            deliveries: all("SELECT channel, state, next_attempt_at FROM deliveries")
                .iter()
                .map(|r| Delivery { channel: text(r, 0), state: text(r, 1), next_attempt_at: time(r, 2) })
                .collect(),
            redrives: all("SELECT next_at FROM redrives WHERE state = 'running'")
                .iter()
                .filter_map(|r| time(r, 0))
                .collect(),
            fleet_told: all("SELECT value FROM counters WHERE name = 'fleet_told'").first().map_or(0, |r| int(r, 0)),
            redriven: all("SELECT seq, bead_id FROM bead_events WHERE event_type = 'redriven' ORDER BY seq")
                .iter()
                .map(|r| (int(r, 0), text(r, 1)))
                .collect(),
            heard: all("SELECT agent_id FROM attempts WHERE finished_at IS NULL")
                .iter()
                .filter_map(|r| Some((text(r, 0), w.pulses.last(&AgentId(text(r, 0)))?)))
                .map(|(agent, heard)| (agent, (heard.attempt.0, heard.lease_until.0)))
                .collect(),
            born: w.pulses.born().0,
        }
    }

    pub fn live(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|a| a.live())
    }

    /// A number of the town's settings: what is stored, else the default of `design.md` 9.
    pub fn setting(&self, path: &str) -> i64 {
        if let Some(set) = self.config.pointer(path).and_then(Json::as_i64) {
            return set;
        }
        match path {
            "/dispatch/max_attempts" | "/breaker/consecutive" | "/dispatch/max_review_rounds" => 5,
            "/dispatch/max_agents" | "/breaker/failures" => 20,
            "/dispatch/max_polecats_per_rig" => 10,
            "/dispatch/max_starts_in_flight" => 6,
            "/dispatch/heartbeat_timeout_ms" => 90_000,
            "/breaker/window_ms" => 1_800_000,
            "/breaker/rig_consecutive" => 3,
            "/notify/still_open_ms" => 3_600_000,
            "/notify/rollup_ms" => 600_000,
            other => panic!("design.md 9 names no default of {other}"),
        }
    }

    pub fn cap(&self, bead: &Bead) -> i64 {
        let rig = bead.rig.as_ref().and_then(|r| self.rigs.get(r));
        rig.and_then(|r| r["max_dispatch_attempts"].as_i64()).unwrap_or_else(|| self.setting("/dispatch/max_attempts"))
    }

    pub fn polecats_per_rig(&self, rig: &str) -> i64 {
        let own = self.rigs.get(rig).and_then(|r| r["max_concurrent_polecats"].as_i64());
        own.unwrap_or_else(|| self.setting("/dispatch/max_polecats_per_rig"))
    }

    pub fn effective(&self, scope: &str) -> &str {
        self.breakers.get(scope).map_or("closed", |b| b.effective(self.now))
    }
}
