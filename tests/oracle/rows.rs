//! The raw rows of a town, as the oracle knows them: every table whole, behind the town's back.

#[path = "reader.rs"]
mod reader;

pub use reader::{Changed, Reader};

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
    pub created_by: Option<String>,
    pub triage_request: i64,
}

pub struct Agent {
    pub id: String,
    pub role: String,
    pub status: String,
    pub hook: Option<String>,
    pub stalled_until: Option<i64>,
}

#[derive(Clone, PartialEq)]
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
    pub revived_at: Option<i64>,
    /// Handed to another container, and not heard of since.
    pub reviving: bool,
    /// Inactivity: the last thing done when the town last took a step, and the step.
    pub quiet: (Option<i64>, i64),
    pub last_event_at: Option<i64>,
}

impl Attempt {
    pub fn live(&self) -> bool {
        self.finished_at.is_none()
    }
    /// The same, but for what a heartbeat or a look renews.
    fn is_but_for_its_lease(&self, other: &Self) -> bool {
        let same = Self {
            lease_until: other.lease_until,
            look_until: other.look_until,
            instance: other.instance.clone(),
            heartbeat_at: other.heartbeat_at,
            looks: other.looks,
            last_event_at: other.last_event_at,
            quiet: other.quiet,
            ..self.clone()
        };
        same == *other
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
    pub verdict: Option<String>,
}

pub struct Convoy {
    pub id: String,
    /// As a whole, from a feature branch.
    pub lands: bool,
    pub staged: bool,
    /// (all, ended, failed)
    pub counted: (i64, i64, i64),
    pub has_work: bool,
    pub landing: Option<String>,
    pub failures: i64,
    pub land_at: Option<i64>,
}

/// A merge request that waits for its pull request.
pub struct Watch {
    pub mr: String,
    pub due_at: i64,
    pub sent_until: Option<i64>,
}

pub struct Notice {
    pub id: String,
    pub key: String,
    pub kind: String,
    pub scope: Option<String>,
    pub facts: Json,
    pub created_at: i64,
}

pub struct Delivery {
    /// The notification.
    pub notice: String,
    pub channel: String,
    pub state: String,
    pub next_attempt_at: Option<i64>,
    pub sent_until: Option<i64>,
    pub delivered_at: Option<i64>,
}

/// Everything, at one moment.
#[derive(Default)]
pub struct Rows {
    pub now: i64,
    /// How far the clock has ever stepped back: times so near each other have no order.
    pub slop: i64,
    pub slow_start: i64,
    pub hold_until: Option<i64>,
    pub hold_cause: Option<String>,
    pub instance: Option<String>,
    pub draining_since: Option<i64>,
    pub drain_instance: Option<String>,
    pub caps_lowered: bool,
    pub rollup: (Option<i64>, i64),
    pub violations: i64,
    pub mayor: String,
    /// Decision 007: while a drain holds work back, the container is asked who it is, every 15 s.
    pub drain_look: Option<i64>,
    /// When the container is to be told: a fresh token, changed settings.
    pub tellings: [Option<i64>; 2],
    pub config: Json,
    pub rigs: BTreeMap<String, Json>,
    pub beads: BTreeMap<String, Bead>,
    pub agents: BTreeMap<String, Agent>,
    /// By seq.
    pub attempts: Vec<Attempt>,
    /// The places of the live ones.
    live: Vec<usize>,
    pub breakers: BTreeMap<String, Breaker>,
    /// (bead, the bead it waits for)
    pub blocks: BTreeSet<(String, String)>,
    /// (task, convoy)
    pub tracks: Vec<(String, String)>,
    pub convoys: Vec<Convoy>,
    pub requests: Vec<Request>,
    pub watches: Vec<Watch>,
    pub stops: Vec<Stop>,
    pub notices: Vec<Notice>,
    pub deliveries: Vec<Delivery>,
    pub redrives: Vec<i64>,
    /// When escalations are raised next.
    pub escalations: Vec<i64>,
    /// When the store of each removed agent is to be erased.
    pub departed: Vec<i64>,
    /// (due, a message is in the air, what it or a start carries)
    pub lines: Vec<(Option<i64>, bool, String)>,
    /// Messages to the mayor that were not delivered.
    pub letters: Vec<String>,
    /// The end of the mayor's own backoff.
    pub mayor_backoff: Option<i64>,
    /// The state of the town's breaker that the fleet was told last: 0 closed, 1 open, 2 half-open.
    pub fleet_told: i64,
    /// `redriven` events: (seq, bead)
    pub redriven: Vec<(i64, String)>,
    /// What the object remembers: agent → (attempt, until when its next heartbeat is awaited).
    pub heard: BTreeMap<String, (String, i64)>,
    /// When the object was made.
    pub born: i64,
}

impl Rows {
    /// A forge decides about this bead.
    pub fn watched(&self, bead: &str) -> bool {
        self.watches.iter().any(|watch| watch.mr == bead)
    }

    pub fn read(w: &World) -> Self {
        let mut reader = Reader::default();
        reader.look(w);
        reader.rows
    }

    pub fn live(&self) -> impl Iterator<Item = &Attempt> {
        self.live.iter().map(|at| &self.attempts[*at])
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
