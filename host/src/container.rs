//! The container, simulated: what `protocol.md` 4 says it answers, and the agent processes in it.
//!
//! *Guarantees.* Pure and synchronous in simulated time: [`Container::call`] is a call arriving now,
//! [`Container::run_until`] lets time pass and returns what was said meanwhile. The same calls at the same times give
//! the same answers and voices. Every process that really started stands in [`Container::starts`], whatever the caller
//! was told: that ledger, not the town's rows, decides whether anything was done twice.

use crate::behaviour::{Behaviour, BehaviourScript, Ending, HEARTBEAT, Says, Started, Voice, exit_in};
use crate::fault::{Endpoint, Faults, SimAnswer, through};
use crate::ids::SeededIds;
use crate::ledger::{self, RealStart, SignOfLife, Told};
use gastown::town::effect::StartRequest;
use gastown::town::id::{AgentId, Ids};
use gastown::town::time::{MINUTE, Millis, Timestamp};
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How long a draining container waits for its agents (`protocol.md` 4.8).
pub const DRAIN_GRACE: Millis = 5 * MINUTE;

/// Is there a container process, and does it listen?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Up,
    /// Refuses every call.
    Dead,
    /// The next call starts it; it listens after so long.
    Asleep(Millis),
    /// Listens from then on; until then the platform answers for it.
    Booting(Timestamp),
}

#[derive(Clone, Debug)]
struct Process {
    request: StartRequest,
    /// `running`, `exited`, `failed`; `starting` is derived from `running_from`.
    status: &'static str,
    started_at: Timestamp,
    running_from: Timestamp,
    last_activity_at: Timestamp,
    next_heartbeat: Option<Timestamp>,
    ends: Option<(Timestamp, Ending)>,
    quiet_from: Option<Timestamp>,
    busy: bool,
    exit_reason: Option<String>,
    messages: u32,
    /// Its place in the ledger.
    start: usize,
}

impl Process {
    fn due(&self) -> Option<Timestamp> {
        [self.next_heartbeat, self.ends.as_ref().map(|e| e.0)].into_iter().flatten().min()
    }
    fn status_at(&self, now: Timestamp) -> &'static str {
        if self.status == "running" && now < self.running_from { "starting" } else { self.status }
    }
}

/// One town's container.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch that a test turns by itself")]
pub struct Container {
    /// What goes wrong with calls.
    pub faults: Faults,
    /// How long a start takes when all is well.
    pub start_latency: Millis,
    /// How long any other call takes.
    pub latency: Millis,
    /// What `/health` lists as `features`; empty = the predecessor, which kills the live agent on a repeated start,
    /// tells `/health` no instance id and names no dispatch in its calls.
    pub features: Vec<String>,
    /// A start for a live agent answers the 500 `already running` of old containers instead of replacing it.
    pub refuses_live_agents: bool,
    /// Its processes stand in the town's registry, and a process that takes over goes on with them.
    pub resurrects: bool,
    /// A line `exit` or `exit after <ms>` in a message ends the agent.
    pub obeys_messages: bool,
    /// The calls that arrived, by endpoint.
    pub calls: BTreeMap<Endpoint, u64>,
    /// What it was told beside its agents: when, and by which route.
    pub posted: Vec<(Timestamp, String)>,
    behaviour: BehaviourScript,
    ids: SeededIds,
    /// How often it was the predecessor's.
    nameless: u32,
    power: Power,
    instance_id: String,
    started_at: Timestamp,
    drain_ends: Option<Timestamp>,
    ready_told: bool,
    outbox: VecDeque<Voice>,
    live: BTreeMap<String, Process>,
    ended: BTreeMap<String, Process>,
    starts: Vec<RealStart>,
    told: Vec<Told>,
    /// Mayors whose session the predecessor's container would resume.
    sessions: BTreeSet<String>,
    signs: BTreeMap<String, SignOfLife>,
}

impl Container {
    /// A healthy container of ours, up since `now`, full of good agents.
    #[must_use]
    pub fn new(seed: u64, now: Timestamp) -> Self {
        let ids = SeededIds::new(seed);
        Self {
            faults: Faults::default(),
            start_latency: 50,
            latency: 5,
            features: vec!["dispatch-id".to_owned()],
            refuses_live_agents: false,
            resurrects: false,
            obeys_messages: false,
            calls: BTreeMap::new(),
            posted: Vec::new(),
            behaviour: Box::new(|start| Behaviour::good(&start.request.role)),
            nameless: 0,
            instance_id: ids.uuid(),
            ids,
            power: Power::Up,
            started_at: now,
            drain_ends: None,
            ready_told: false,
            outbox: VecDeque::new(),
            live: BTreeMap::new(),
            ended: BTreeMap::new(),
            starts: Vec::new(),
            told: Vec::new(),
            sessions: BTreeSet::new(),
            signs: BTreeMap::new(),
        }
    }

    // ── the script ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Decides what every process started from now on does.
    pub fn behave(&mut self, script: impl FnMut(Started<'_>) -> Behaviour + 'static) {
        self.behaviour = Box::new(script);
    }
    /// Every polecat and refinery started from now on does this; mayors stay.
    pub fn behave_all(&mut self, behaviour: Behaviour) {
        self.behave(move |start| match start.request.role.as_str() {
            "mayor" => Behaviour::hangs(),
            _ => behaviour.clone(),
        });
    }
    /// The process dies with every agent in it, says nothing, and refuses every call until [`Self::restart`].
    pub fn kill(&mut self, now: Timestamp) {
        self.power = Power::Dead;
        self.drain_ends = None;
        self.outbox.clear();
        for (agent_id, process) in std::mem::take(&mut self.live) {
            self.bury(agent_id, process, now, "failed", "container shutdown");
        }
        self.ended.clear();
    }
    /// The process dies, and the next call starts another, which listens after `boot`.
    pub fn kill_until_called(&mut self, now: Timestamp, boot: Millis) {
        self.kill(now);
        self.power = Power::Asleep(boot);
    }
    /// The process of this agent, if it lives, ends now and like this.
    pub fn end_now(&mut self, now: Timestamp, agent_id: &str, ending: Ending) {
        if let Some(process) = self.live.get_mut(agent_id) {
            process.ends = Some((now, ending));
        }
    }
    /// Another process takes over; whatever still ran is gone.
    pub fn restart(&mut self, now: Timestamp) {
        self.kill(now);
        self.power = Power::Up;
        self.instance_id = self.ids.uuid();
        self.started_at = now;
        self.ready_told = false;
        if self.resurrects {
            let names_itself = self.knows_dispatches();
            self.outbox.push_back(self.own_voice(now, Says::ReadRegistry { names_itself }));
        }
    }
    /// The processes as they stand in the registry, `request` and all, with what the town must not keep.
    fn write_registry(&mut self, now: Timestamp) {
        if self.resurrects {
            let entry = |(id, p): (&String, &Process)| json!({"agentId": id, "request": p.request, "workdir": "/work", "env": {"GIT_TOKEN": "ghp_simulated"}});
            let entries = self.live.iter().map(entry).collect();
            self.outbox.push_back(self.own_voice(now, Says::WriteRegistry { entries }));
        }
    }
    /// Another process takes over, and it is the predecessor's: see [`Self::features`]. `refuses`: of the old kind that
    /// refuses to start a live agent.
    pub fn replace_by_predecessor(&mut self, now: Timestamp, refuses: bool) {
        self.features.clear();
        self.refuses_live_agents = refuses;
        self.nameless += 1;
        self.restart(now);
    }
    /// Another process takes over, and it is one of ours.
    pub fn replace_by_ours(&mut self, now: Timestamp) {
        self.features = vec!["dispatch-id".to_owned()];
        self.refuses_live_agents = false;
        self.restart(now);
    }
    /// SIGTERM: heartbeats stop, starts are refused, the town is told; the process ends when its agents (mayors aside)
    /// have, at the latest after `grace`, when it saves the work of those that still run.
    pub fn drain(&mut self, now: Timestamp, grace: Millis) {
        if self.power != Power::Up || self.drain_ends.is_some() {
            return;
        }
        self.drain_ends = Some(now.plus(grace));
        if !self.live.is_empty() || !self.ended.is_empty() {
            self.outbox.push_back(self.own_voice(now, Says::Evicting));
        }
        for process in self.live.values_mut() {
            process.next_heartbeat = None;
        }
        self.end_drain_if_idle(now);
    }

    // ── what a test asks ─────────────────────────────────────────────────────────────────────────────────────────

    /// Every process that really started, oldest first.
    #[must_use]
    pub fn starts(&self) -> &[RealStart] {
        &self.starts
    }
    /// When the process of an attempt was last heard or seen, whatever the town made of it; `None` = never.
    #[must_use]
    pub fn sign_of_life(&self, attempt_id: &str) -> Option<SignOfLife> {
        self.signs.get(attempt_id).copied()
    }
    /// The container process that listens, or listened last.
    #[must_use]
    pub fn instance_id(&self) -> &str {
        &self.instance_id
    }
    /// True if every voice so far has named its dispatch: it never was the predecessor's.
    #[must_use]
    pub const fn always_named_dispatches(&self) -> bool {
        self.nameless == 0
    }
    /// True if it says that it is going away.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.drain_ends.is_some()
    }
    /// The live processes: (agent, attempt).
    #[must_use]
    pub fn running(&self) -> Vec<(&str, &str)> {
        self.live.iter().map(|(agent, p)| (agent.as_str(), p.request.dispatch_id.as_str())).collect()
    }
    /// Whatever was really done twice, in words ([`ledger::twice`]).
    #[must_use]
    pub fn twice(&self) -> Vec<String> {
        ledger::twice(&self.starts)
    }

    /// Everything that a process was really told, oldest first, whatever became of the answers. The predecessor's mayor
    /// does not read the prompt of a start that resumes its session (`protocol.md` 7, point 19).
    #[must_use]
    pub fn told(&self) -> &[Told] {
        &self.told
    }

    // ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// A call arrives. `body` is the raw request body, empty for a GET.
    pub fn call(&mut self, now: Timestamp, method: &str, path: &str, body: &str) -> SimAnswer {
        let Some((endpoint, agent_id)) = route(method, path) else {
            return SimAnswer::http(self.latency, 404, r#"{"error":"Not found"}"#);
        };
        *self.calls.entry(endpoint).or_default() += 1;
        if let Some(answer) = self.platform(now) {
            return answer;
        }
        let fault = self.faults.next(now, endpoint, path, body);
        let latency = self.latency;
        through(fault, latency, || match endpoint {
            Endpoint::Start => self.start(now, body),
            Endpoint::Status => self.status(now, agent_id),
            Endpoint::Stop => self.stop(now, agent_id, body),
            Endpoint::Message => self.message(now, agent_id, body),
            Endpoint::Health => self.health(now),
            Endpoint::Tell => {
                self.posted.push((now, path.to_owned()));
                SimAnswer::http(self.latency, 200, "{}")
            }
        })
    }

    /// What the platform answers in place of a container that does not listen.
    fn platform(&mut self, now: Timestamp) -> Option<SimAnswer> {
        if let Power::Asleep(boot) = self.power {
            self.power = Power::Booting(now.plus(boot));
        }
        match self.power {
            Power::Up => None,
            Power::Dead => Some(SimAnswer::lost(0)),
            Power::Booting(until) if now >= until => {
                self.restart(until);
                None
            }
            Power::Asleep(_) | Power::Booting(_) => Some(SimAnswer::http(
                self.latency,
                503,
                "There is no Container instance available at this time.\nThe container is not listening in the TCP \
                 address 10.0.0.1:8080",
            )),
        }
    }

    fn start(&mut self, now: Timestamp, body: &str) -> SimAnswer {
        if self.is_draining() {
            return self.error(503, "Container is draining, cannot start new agents");
        }
        let request = match parse_start(body) {
            Ok(request) => request,
            Err(why) => {
                let body = json!({"error": "Invalid request body", "issues": [why]});
                return SimAnswer::http(self.latency, 400, body.to_string());
            }
        };
        let agent_id = request.agent_id.clone();
        let same = self.knows_dispatches() && !request.dispatch_id.is_empty();
        if let Some(known) = self.live.get(&agent_id).or_else(|| self.ended.get(&agent_id))
            && same
            && known.request.dispatch_id == request.dispatch_id
        {
            return SimAnswer::http(self.start_latency, 201, self.record(now, known).to_string());
        }
        if self.refuses_live_agents && self.live.contains_key(&agent_id) {
            return self.error(500, &format!("Agent {agent_id} is already running"));
        }
        if let Some(process) = self.live.remove(&agent_id) {
            self.starts[process.start].replaced = true;
            self.bury(agent_id.clone(), process, now, "exited", "stopped");
        }
        let resumes = request.role == "mayor" && !self.knows_dispatches() && !self.sessions.insert(agent_id.clone());
        if request.role == "mayor" && !resumes {
            self.told.push(Told { at: now, agent_id: agent_id.clone(), prompt: request.prompt.clone() });
        }
        let behaviour = (self.behaviour)(Started { now, request: &request, nth: self.starts.len() });
        self.starts.push(RealStart {
            at: now,
            attempt_id: request.dispatch_id.clone(),
            agent_id: agent_id.clone(),
            role: request.role.clone(),
            rig_id: request.rig_id.clone(),
            bead8: ledger::bead8(&request.branch),
            instance_id: self.instance_id.clone(),
            ended_at: None,
            replaced: false,
            resurrected: false,
        });
        let process = Process {
            request,
            status: "running",
            started_at: now,
            running_from: now.plus(behaviour.starting_for),
            last_activity_at: now,
            next_heartbeat: behaviour.first_heartbeat.map(|ms| now.plus(ms)),
            ends: behaviour.ends.map(|(ms, ending)| (now.plus(ms), ending)),
            quiet_from: behaviour.active_for.map(|ms| now.plus(ms)),
            busy: behaviour.busy,
            exit_reason: None,
            messages: 1,
            start: self.starts.len() - 1,
        };
        let record = self.record(now, &process).to_string();
        self.ended.remove(&agent_id);
        self.live.insert(agent_id, process);
        self.write_registry(now);
        SimAnswer::http(self.start_latency, 201, record)
    }

    fn status(&mut self, now: Timestamp, agent_id: &str) -> SimAnswer {
        if let Some(process) = self.live.get(agent_id) {
            self.signs.entry(process.request.dispatch_id.clone()).or_default().seen = Some(now);
        }
        match self.live.get(agent_id).or_else(|| self.ended.get(agent_id)) {
            Some(process) => SimAnswer::http(self.latency, 200, self.record(now, process).to_string()),
            None => self.unknown(agent_id),
        }
    }

    /// A stop that names another dispatch than the live one leaves the live one alone.
    fn stop(&mut self, now: Timestamp, agent_id: &str, body: &str) -> SimAnswer {
        let named = serde_json::from_str::<Json>(body).ok().and_then(|b| b["dispatchId"].as_str().map(str::to_owned));
        match self.live.remove(agent_id) {
            Some(other) if self.knows_dispatches() && named.is_some_and(|n| n != other.request.dispatch_id) => {
                self.live.insert(agent_id.to_owned(), other);
                SimAnswer::http(self.latency, 200, r#"{"stopped":false}"#)
            }
            Some(process) => {
                self.bury(agent_id.to_owned(), process, now, "exited", "stopped");
                self.end_drain_if_idle(now);
                SimAnswer::http(self.latency, 200, r#"{"stopped":true}"#)
            }
            None if self.ended.contains_key(agent_id) => SimAnswer::http(self.latency, 200, r#"{"stopped":true}"#),
            None => self.unknown(agent_id),
        }
    }

    fn message(&mut self, now: Timestamp, agent_id: &str, body: &str) -> SimAnswer {
        let Some(prompt) =
            serde_json::from_str::<Json>(body).ok().and_then(|b| b["prompt"].as_str().map(str::to_owned))
        else {
            let body = json!({"error": "Invalid request body", "issues": ["prompt: a string is required"]});
            return SimAnswer::http(self.latency, 400, body.to_string());
        };
        let obeys = self.obeys_messages;
        let Some(process) = self.live.get_mut(agent_id) else {
            return match self.ended.get(agent_id) {
                Some(p) => self.error(500, &format!("Agent {agent_id} is not running (status: {})", p.status)),
                None => self.unknown(agent_id),
            };
        };
        process.messages += 1;
        process.last_activity_at = now;
        self.told.push(Told { at: now, agent_id: agent_id.to_owned(), prompt: prompt.clone() });
        if let Some(ms) = prompt.lines().find_map(exit_in).filter(|_| obeys) {
            process.ends = Some((now.plus(ms), Ending::Exited { reason: "completed".to_owned() }));
        }
        SimAnswer::http(self.latency, 200, r#"{"sent":true}"#)
    }

    fn health(&self, now: Timestamp) -> SimAnswer {
        let mut body = json!({
            "status": "ok",
            "agents": self.live.len(),
            "servers": self.live.len(),
            "uptime": now.since(self.started_at),
            "startedAt": self.started_at,
        });
        if self.is_draining() {
            body["draining"] = true.into();
        }
        if !self.features.is_empty() {
            body["features"] = json!(self.features);
            body["containerInstanceId"] = json!(self.instance_id);
        }
        SimAnswer::http(self.latency, 200, body.to_string())
    }

    fn record(&self, now: Timestamp, process: &Process) -> Json {
        let request = &process.request;
        let mut record = json!({
            "agentId": request.agent_id,
            "rigId": request.rig_id,
            "townId": request.town_id,
            "role": request.role,
            "name": request.name,
            "status": process.status_at(now),
            "serverPort": 4096,
            "sessionId": format!("ses_{}", process.start),
            "startedAt": process.started_at,
            "lastActivityAt": process.last_activity_at,
            "activeTools": [],
            "messageCount": process.messages,
            "exitReason": process.exit_reason,
        });
        if self.knows_dispatches() {
            record["dispatchId"] = json!(request.dispatch_id);
        }
        record
    }

    fn error(&self, status: u16, text: &str) -> SimAnswer {
        SimAnswer::http(self.latency, status, json!({ "error": text }).to_string())
    }
    fn unknown(&self, agent_id: &str) -> SimAnswer {
        self.error(404, &format!("Agent {agent_id} not found"))
    }
    fn knows_dispatches(&self) -> bool {
        self.features.iter().any(|f| f == "dispatch-id")
    }

    // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// When something is said or happens next, if nobody calls.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        self.live
            .values()
            .filter_map(Process::due)
            .chain(self.outbox.front().map(|v| v.at))
            .chain(self.drain_ends)
            .min()
    }

    /// Lets time pass, and returns what was said until `now`, `now` included, in order.
    pub fn run_until(&mut self, now: Timestamp) -> Vec<Voice> {
        let mut said = Vec::new();
        loop {
            said.extend(self.outbox.drain(..));
            let next = self.live.iter().filter_map(|(id, p)| Some((p.due()?, id))).min();
            match next {
                Some((at, _)) if self.drain_ends.is_some_and(|end| end < at) && self.drain_ends <= Some(now) => {
                    self.save_and_exit(at);
                }
                Some((at, agent_id)) if at <= now => {
                    let agent_id = agent_id.clone();
                    self.live_on(&agent_id, at, &mut said);
                }
                _ if self.drain_ends.is_some_and(|end| end <= now) => self.save_and_exit(now),
                _ => return said,
            }
        }
    }

    /// The worker answered what was said: for whom it was goes into the ledger, and a heartbeat's `drainNonce` is passed
    /// back once per process.
    pub fn heard(&mut self, now: Timestamp, voice: &Voice, data: &Json) {
        if let Some(attempt_id) = &voice.dispatch_id {
            self.signs.entry(attempt_id.clone()).or_default().heard = Some(now);
        }
        if matches!(voice.says, Says::ReadRegistry { .. }) && voice.instance_id == self.instance_id {
            return self.resurrect(now, data);
        }
        let Some(nonce) = data.get("drainNonce").and_then(Json::as_str) else { return };
        if self.power == Power::Up && voice.instance_id == self.instance_id && !self.is_draining() && !self.ready_told {
            self.ready_told = true;
            self.outbox.push_back(self.own_voice(now, Says::Ready { nonce: nonce.to_owned() }));
        }
    }

    /// Starts what the registry handed out: nobody called for it.
    fn resurrect(&mut self, now: Timestamp, entries: &Json) {
        if self.power != Power::Up {
            return;
        }
        for entry in entries.as_array().into_iter().flatten() {
            let before = self.starts.len();
            let _ = self.start(now, &entry["request"].to_string());
            for start in &mut self.starts[before..] {
                start.resurrected = true;
            }
        }
    }

    /// The next thing in the life of one process.
    fn live_on(&mut self, agent_id: &str, at: Timestamp, said: &mut Vec<Voice>) {
        let Some(process) = self.live.get_mut(agent_id) else { return };
        if process.next_heartbeat == Some(at) {
            process.next_heartbeat = Some(at.plus(HEARTBEAT));
            process.last_activity_at = at;
            let says = Says::Heartbeat {
                status: process.status_at(at).to_owned(),
                last_event_at: process.quiet_from.map(|quiet| quiet.min(at)),
                active_tools: if process.busy { vec!["bash".to_owned()] } else { Vec::new() },
            };
            said.push(self.agent_voice(agent_id, at, says));
            return;
        }
        let Some((_, ending)) = process.ends.clone() else { return };
        for says in last_words(&process.request, &ending) {
            said.push(self.agent_voice(agent_id, at, says));
        }
        let Some(process) = self.live.remove(agent_id) else { return };
        match ending {
            Ending::Done
            | Ending::OpensPullRequest { .. }
            | Ending::RequestsChanges { .. }
            | Ending::DoneWithoutBranch
            | Ending::Verdict { .. }
            | Ending::Triaged { .. } => {
                self.bury(agent_id.to_owned(), process, at, "exited", "completed");
            }
            Ending::Completed { reason } => {
                self.bury(agent_id.to_owned(), process, at, "exited", reason.as_deref().unwrap_or("completed"));
            }
            Ending::Failed { reason, .. } => {
                self.bury(agent_id.to_owned(), process, at, "failed", reason.as_deref().unwrap_or("failed"));
            }
            Ending::Exited { reason } => self.bury(agent_id.to_owned(), process, at, "exited", &reason),
            Ending::Vanished => self.starts[process.start].ended_at = Some(at),
        }
        self.end_drain_if_idle(at);
    }

    fn bury(&mut self, agent_id: String, mut process: Process, at: Timestamp, status: &'static str, reason: &str) {
        process.status = status;
        process.exit_reason = Some(reason.to_owned());
        process.last_activity_at = at;
        process.next_heartbeat = None;
        process.ends = None;
        self.starts[process.start].ended_at = Some(at);
        self.ended.insert(agent_id, process);
    }

    fn end_drain_if_idle(&mut self, now: Timestamp) {
        if let Some(end) = self.drain_ends
            && self.live.values().all(|p| p.request.role == "mayor")
        {
            self.drain_ends = Some(end.min(now));
        }
    }

    /// Step 4 of the drain: stragglers' work is saved and the process ends. What it said last is still delivered.
    fn save_and_exit(&mut self, now: Timestamp) {
        let at = self.drain_ends.unwrap_or(now).min(now);
        let mut last = std::mem::take(&mut self.outbox);
        for (agent_id, process) in &self.live {
            let request = &process.request;
            if request.role == "polecat" {
                let (branch, agent_name) = (request.branch.clone(), request.name.clone());
                last.push_back(self.agent_voice(agent_id, at, Says::EvictionContext { branch, agent_name }));
            }
            if request.role != "mayor" {
                let reason = Some("container eviction".to_owned());
                let says = Says::Completed { status: "completed".to_owned(), reason, phase: None, model_status: None };
                last.push_back(self.agent_voice(agent_id, at, says));
            }
        }
        self.kill(at);
        self.outbox = last;
    }

    fn own_voice(&self, at: Timestamp, says: Says) -> Voice {
        Voice { at, agent_id: None, dispatch_id: None, instance_id: self.instance_id.clone(), says }
    }

    fn agent_voice(&self, agent_id: &str, at: Timestamp, says: Says) -> Voice {
        let dispatch_id = self
            .live
            .get(agent_id)
            .filter(|p| self.knows_dispatches() && !p.request.dispatch_id.is_empty())
            .map(|p| p.request.dispatch_id.clone());
        Voice { at, agent_id: Some(AgentId::from(agent_id)), dispatch_id, instance_id: self.instance_id.clone(), says }
    }
}

/// What a process says when it ends.
fn last_words(request: &StartRequest, ending: &Ending) -> Vec<Says> {
    let done = |branch| Says::Done { branch, pr_url: None, summary: Some("simulated".to_owned()) };
    let with = |pr_url: &str| Says::Done {
        branch: Some(request.branch.clone()),
        pr_url: Some(pr_url.to_owned()),
        summary: Some("simulated".to_owned()),
    };
    let verdict = |status: &str, message: &str| {
        request.review.as_ref().map(|review| Says::Verdict {
            entry_id: review.entry_id.clone(),
            status: status.to_owned(),
            message: message.to_owned(),
            commit_sha: (status == "merged").then(|| "0123456789abcdef0123456789abcdef01234567".to_owned()),
        })
    };
    match ending {
        Ending::Done => {
            match (request.review.as_ref().and_then(|r| r.pr_url.as_deref()), verdict("merged", "merged")) {
                (Some(url), _) => vec![with(url)],
                (None, Some(merged)) => vec![merged, done(None)],
                (None, None) => vec![done(Some(request.branch.clone()))],
            }
        }
        Ending::OpensPullRequest { url } => vec![with(url)],
        Ending::RequestsChanges { feedback } => {
            vec![Says::RequestChanges { feedback: feedback.clone() }, done(None)]
        }
        Ending::DoneWithoutBranch => vec![done(None)],
        Ending::Verdict { status, message } => verdict(status, message).into_iter().chain([done(None)]).collect(),
        Ending::Triaged { action } => {
            let named = request.prompt.lines().filter_map(|line| line.strip_prefix("triage_request_bead_id: "));
            let resolve = |id: &str| Says::Resolve { request_id: id.to_owned(), action: action.clone() };
            named.map(resolve).chain([done(None)]).collect()
        }
        Ending::Completed { reason } => vec![Says::Completed {
            status: "completed".to_owned(),
            reason: reason.clone(),
            phase: None,
            model_status: None,
        }],
        Ending::Failed { reason, phase, model_status } => vec![Says::Completed {
            status: "failed".to_owned(),
            reason: reason.clone(),
            phase: phase.clone(),
            model_status: *model_status,
        }],
        Ending::Exited { .. } | Ending::Vanished => Vec::new(),
    }
}

fn route<'a>(method: &str, path: &'a str) -> Option<(Endpoint, &'a str)> {
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.trim_start_matches('/').split('/');
    let route = match (method, parts.next()?, parts.next(), parts.next()) {
        ("GET", "health", None, None) => (Endpoint::Health, ""),
        ("POST", "refresh-token" | "sync-config", None, None) => (Endpoint::Tell, ""),
        ("POST", "agents", Some("start"), None) => (Endpoint::Start, ""),
        ("GET", "agents", Some(agent), Some("status")) => (Endpoint::Status, agent),
        ("POST", "agents", Some(agent), Some("stop")) => (Endpoint::Stop, agent),
        ("POST", "agents", Some(agent), Some("message")) => (Endpoint::Message, agent),
        _ => return None,
    };
    parts.next().is_none().then_some(route)
}

/// Reads a start as the control server does: what it does not need may be missing.
fn parse_start(body: &str) -> Result<StartRequest, String> {
    let mut json: Json = serde_json::from_str(body).map_err(|e| e.to_string())?;
    let fields = json.as_object_mut().ok_or("an object is required")?;
    for optional in ["smallModel", "systemPrompt"] {
        fields.entry(optional).or_insert_with(|| "".into());
    }
    let request: StartRequest = serde_json::from_value(json).map_err(|e| e.to_string())?;
    if !["mayor", "polecat", "refinery", "triage"].contains(&request.role.as_str()) {
        return Err(format!("role: {} is none of mayor, polecat, refinery, triage", request.role));
    }
    if request.agent_id.is_empty() {
        return Err("agentId: must not be empty".to_owned());
    }
    Ok(request)
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
