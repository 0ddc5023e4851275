//! One bead behind any set of holds, and what lifts each of them: the second half of invariant 13.

use gastown::town::command::{Actor, BeadPatch, Command, Heartbeat, NewBead};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE, Millis, SECOND, Timestamp};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::operator;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// A way to hold a bead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    Label,
    Blocked,
    BlockerFailed,
    Backoff,
    ReviewBackoff,
    NoRig,
    TownForced,
    RigForced,
    TownOpened,
    TownHold,
    Draining,
    TownAgents,
    RigPolecats,
    StartsInFlight,
}

impl Hold {
    pub const ALL: [Self; 14] = [
        Self::Label,
        Self::Blocked,
        Self::BlockerFailed,
        Self::Backoff,
        Self::ReviewBackoff,
        Self::NoRig,
        Self::TownForced,
        Self::RigForced,
        Self::TownOpened,
        Self::TownHold,
        Self::Draining,
        Self::TownAgents,
        Self::RigPolecats,
        Self::StartsInFlight,
    ];
    /// The code by which `explain` names it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Label => "held_label",
            Self::Blocked => "blocked",
            Self::BlockerFailed => "blocker_failed",
            Self::Backoff => "backoff",
            Self::ReviewBackoff => "review_backoff",
            Self::NoRig => "no_rig_config",
            Self::TownForced | Self::RigForced | Self::TownOpened => "breaker_open",
            Self::TownHold => "town_hold",
            Self::Draining => "draining",
            Self::TownAgents => "town_agents",
            Self::RigPolecats => "rig_polecats",
            Self::StartsInFlight => "starts_in_flight",
        }
    }
    /// It ends by itself.
    pub const fn passes(self) -> bool {
        matches!(self, Self::Backoff | Self::ReviewBackoff | Self::TownHold | Self::Draining)
    }
}

/// Drops what cannot be there together with something else.
pub fn possible(mut set: BTreeSet<Hold>) -> BTreeSet<Hold> {
    // A verdict takes the backoff away; a bead without a rig has no breaker, no limit and no review of one.
    let rules = [
        (Hold::ReviewBackoff, Hold::Backoff),
        (Hold::NoRig, Hold::RigForced),
        (Hold::NoRig, Hold::RigPolecats),
        (Hold::TownForced, Hold::TownOpened),
        // Behind a town hold nothing starts that could open the town.
        (Hold::TownHold, Hold::TownOpened),
    ];
    for (there, gone) in rules {
        if set.contains(&there) {
            set.remove(&gone);
        }
    }
    set
}

/// A town in which one bead is held by exactly these.
pub struct Held {
    pub world: World,
    pub bead: BeadId,
    rig: RigId,
    agent_in_flight: Option<AgentId>,
    lenient: bool,
}

impl Held {
    pub fn by(seed: u64, set: &BTreeSet<Hold>) -> Self {
        let (mut w, rig) = World::founded(seed);
        let other = w.add_rig("other");
        let has = |h: Hold| set.contains(&h);
        w.patch_config(json!({"dispatch": {"backoff_ms": [3 * HOUR], "jitter": 0, "heartbeat_timeout_ms": 23 * HOUR}}));
        for _ in 0..3 {
            w.sling(&other, "Warm up");
            w.run_for(5 * MINUTE);
        }
        let bead = Self::the_bead(&mut w, &rig, set);
        if has(Hold::RigPolecats) {
            w.container.behave_all(Behaviour::hangs());
            w.sling(&rig, "Stays");
            w.run_for(SECOND);
        }
        if has(Hold::TownAgents) {
            w.container.behave_all(Behaviour::hangs());
            w.sling(&other, "Stays");
            w.run_for(SECOND);
        }
        let mut agent_in_flight = None;
        if has(Hold::StartsInFlight) {
            w.container.behave_all(Behaviour::hangs().mute());
            w.sling(&other, "Starts");
            w.run_for(SECOND);
            agent_in_flight = w.starts().last().map(|s| AgentId(s.agent_id.clone()));
        }
        if has(Hold::TownHold) {
            w.container.faults.once(Endpoint::Start, Fault::retry_after(429, "", 20 * MINUTE));
            w.sling(&other, "Throttled");
            w.run_for(SECOND);
        }
        if has(Hold::TownOpened) {
            // A refused key opens the town at once; a deaf container lets no probe through.
            let refused = r#"{"error":"no credit","phase":"initial_prompt","status":402}"#;
            w.container.faults.set(Endpoint::Health, Fault::Refuse);
            w.container.faults.once(Endpoint::Start, Fault::answer(500, refused));
            w.sling(&other, "Refused");
            w.run_for(SECOND);
        }
        w.container.behave(|start| Behaviour::good(&start.request.role));
        Self::limit(&mut w, &rig, set);
        for (hold, scope) in [(Hold::TownForced, "town".to_owned()), (Hold::RigForced, format!("rig:{rig}"))] {
            if has(hold) {
                order(&mut w, &scope, "forced_open", 24 * HOUR);
            }
        }
        if has(Hold::Draining) {
            let container = Actor::Container { agent_id: None, dispatch_id: None };
            w.command(&container, Command::ContainerEviction).unwrap();
        }
        let bead = bead.unwrap_or_else(|| sling(&mut w, &rig));
        let mut held = Self { world: w, bead, rig: rig.clone(), agent_in_flight, lenient: seed % 2 == 0 };
        held.tie(set);
        held
    }

    /// The bead, if it must have a past.
    fn the_bead(w: &mut World, rig: &RigId, set: &BTreeSet<Hold>) -> Option<BeadId> {
        if set.contains(&Hold::Backoff) {
            let bead = sling(w, rig);
            w.container.faults.once(Endpoint::Start, Fault::answer(500, r#"{"error":"it broke"}"#));
            w.run_for(SECOND);
            return Some(bead);
        }
        if set.contains(&Hold::ReviewBackoff) {
            let bead = sling(w, rig);
            w.container.behave(|start| match start.request.role.as_str() {
                "refinery" => {
                    let verdict = Ending::Verdict { status: "failed".to_owned(), message: "a gate said no".to_owned() };
                    Behaviour::ends(SECOND, verdict)
                }
                _ => Behaviour::done(SECOND),
            });
            w.run_for(5 * SECOND);
            return Some(bead);
        }
        None
    }

    fn limit(w: &mut World, rig: &RigId, set: &BTreeSet<Hold>) {
        if set.contains(&Hold::StartsInFlight) {
            w.patch_config(json!({"dispatch": {"max_starts_in_flight": 1}}));
        }
        if set.contains(&Hold::RigPolecats) {
            let patch = json!({"max_concurrent_polecats": 1});
            w.must(Command::PatchRigConfig { rig_id: rig.clone(), patch });
        }
        if set.contains(&Hold::TownAgents) {
            let live = w.sql.peek("SELECT count(*) FROM attempts WHERE finished_at IS NULL AND role = 'polecat'", &[]);
            w.patch_config(json!({"dispatch": {"max_agents": live[0].int(0).unwrap()}}));
        }
    }

    /// Holds of the bead's own.
    fn tie(&mut self, set: &BTreeSet<Hold>) {
        let mut on = Vec::new();
        for hold in [Hold::Blocked, Hold::BlockerFailed] {
            if set.contains(&hold) {
                let bead =
                    NewBead { title: "First".to_owned(), labels: vec!["gt:held".to_owned()], ..NewBead::default() };
                let made = self.world.must(Command::CreateBead { rig_id: self.rig.clone(), bead });
                let id = BeadId::from(made["bead_id"].as_str().unwrap());
                if hold == Hold::BlockerFailed {
                    self.world.must(Command::CancelBead { bead_id: id.clone(), reason: "not wanted".to_owned() });
                }
                on.push(id.0);
            }
        }
        if !on.is_empty() {
            self.patch(BeadPatch { depends_on: Some(on), ..BeadPatch::default() });
        }
        if set.contains(&Hold::Label) {
            self.patch(BeadPatch { labels: Some(vec!["gt:held".to_owned()]), ..BeadPatch::default() });
        }
        if set.contains(&Hold::NoRig) {
            self.patch(BeadPatch { rig_id: Some(None), ..BeadPatch::default() });
        }
    }

    fn patch(&mut self, patch: BeadPatch) {
        let rig_id = RigId(format!("mayor-{}", self.world.town_id));
        self.world.must(Command::UpdateBead { rig_id, bead_id: self.bead.clone(), patch });
    }

    /// What `explain` names.
    pub fn named(&self) -> Vec<Json> {
        self.world.explain(&self.bead)["holds"].as_array().unwrap().clone()
    }

    /// Real starts of the bead so far.
    pub fn starts(&self) -> usize {
        self.world.starts_of(&self.bead).len()
    }

    /// Does what `lifts` says. What says *wait* is waited for by the caller, `until`.
    pub fn lift(&mut self, hold: &Json) {
        let (code, lifts) = (hold["code"].as_str().unwrap(), hold["lifts"].as_str().unwrap());
        let says = |words: &str| assert!(lifts.contains(words), "{code}: «{lifts}» does not say «{words}»");
        match code {
            "held_label" => {
                says("remove the label gt:held");
                self.patch(BeadPatch { labels: Some(Vec::new()), ..BeadPatch::default() });
            }
            "blocked" => {
                says("close the blocker");
                let (bead_id, rig_id) = (BeadId::from(hold["ref"]["bead_id"].as_str().unwrap()), self.rig.clone());
                self.world.must(Command::SetBeadStatus { rig_id, bead_id, status: "closed".to_owned() });
            }
            "blocker_failed" if self.lenient => {
                says("set metadata.allow_failed_blockers");
                let metadata = Some(json!({"allow_failed_blockers": true}));
                self.patch(BeadPatch { metadata, ..BeadPatch::default() });
            }
            "blocker_failed" => {
                says("drop the dependency");
                let failed = hold["ref"]["bead_id"].as_str().unwrap();
                let sql = format!("SELECT depends_on_bead_id FROM bead_dependencies WHERE bead_id = '{}'", self.bead);
                let rows = self.world.sql.peek(&sql, &[]);
                let depends_on = Some(rows.iter().map(|r| r.text(0).unwrap()).filter(|on| on != failed).collect());
                self.patch(BeadPatch { depends_on, ..BeadPatch::default() });
            }
            "no_rig_config" => {
                says("move the bead to a rig");
                self.patch(BeadPatch { rig_id: Some(Some(self.rig.0.clone())), ..BeadPatch::default() });
            }
            "breaker_open" if lifts.contains("mode to auto") => {
                let scope = hold["ref"]["scope"].as_str().unwrap().to_owned();
                order(&mut self.world, &scope, "auto", 0);
            }
            "breaker_open" => {
                says("force the breaker closed");
                self.world.container.faults.clear_all();
                let scope = hold["ref"]["scope"].as_str().unwrap().to_owned();
                order(&mut self.world, &scope, "forced_closed", HOUR);
            }
            "town_agents" => {
                says("raise dispatch.max_agents");
                self.world.patch_config(json!({"dispatch": {"max_agents": 20}}));
            }
            "rig_polecats" => {
                says("raise the rig's max_concurrent_polecats");
                let patch = json!({"max_concurrent_polecats": 5});
                self.world.must(Command::PatchRigConfig { rig_id: self.rig.clone(), patch });
            }
            "starts_in_flight" => {
                says("wait for one to prove itself");
                let agent_id = self.agent_in_flight.clone().unwrap();
                let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: None };
                let body = Heartbeat { status: Some("running".to_owned()), ..Heartbeat::default() };
                self.world.command(&actor, Command::Heartbeat { agent_id, body }).unwrap();
            }
            "backoff" | "review_backoff" | "town_hold" => says("wait"),
            "draining" => says("drain limit passes"),
            other => panic!("nobody knows how to lift {other}: {lifts}"),
        }
    }

    /// Until when a hold lasts by itself.
    pub fn until(hold: &Json) -> Option<Timestamp> {
        hold["until"].as_str().and_then(Timestamp::parse)
    }
}

fn sling(w: &mut World, rig: &RigId) -> BeadId {
    // Older and more urgent than whatever else there is: nothing else can be in its way.
    let bead = NewBead { title: "The bead".to_owned(), priority: Some("critical".to_owned()), ..NewBead::default() };
    let data = w.must(Command::Sling { rig_id: rig.clone(), bead });
    data["bead"]["bead_id"].as_str().unwrap().into()
}

fn order(w: &mut World, scope: &str, mode: &str, ms: Millis) {
    let command = Command::OverrideBreaker {
        scope: scope.to_owned(),
        mode: mode.to_owned(),
        reason: Some("a test".to_owned()),
        expires_in_ms: (mode != "auto").then_some(ms),
    };
    w.command(&operator(), command).unwrap();
}
