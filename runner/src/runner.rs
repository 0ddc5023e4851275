//! The runner: which agents there are, which dispatches were seen, and whether it still takes new ones.
//!
//! Guarantees: a dispatch id is run at most once, whatever is repeated and however often; an agent's record is the newest
//! dispatch's from the moment that one is accepted, and the older one has ended before the newer one begins.

use crate::{
    config::Config,
    dispatch::{Answer, Dispatch, Status},
    environment,
    heartbeat::Due,
    lifecycle,
    mailbox::Refused,
    process::Processes,
    push::Pushed,
    request::{Role, StartRequest},
    stop::StopCause,
    text,
    tickets::Tickets,
    transcript::Transcripts,
    voice::{self, SHORT_CALL, Tokens, Voice},
    workspace::Workspace,
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

/// What a start is answered during a drain; the worker recognises the text.
pub const DRAINING: &str = "Container is draining, cannot start new agents";

/// How many dispatch ids are remembered. A repeated start comes within minutes, this many starts take days.
const REMEMBERED: usize = 10_000;

/// How many agents are remembered after their end.
const KNOWN_AGENTS: usize = 1_000;

/// The runner of one container.
#[derive(Debug)]
pub struct Runner {
    /// Its configuration.
    pub config: Config,
    /// `containerInstanceId`: new per process.
    pub instance: String,
    /// Its directories.
    pub workspace: Workspace,
    /// Its child processes.
    pub processes: Arc<Processes>,
    /// Agents whose first heartbeat is due.
    pub due: Due,
    /// What agents did and said.
    pub transcripts: Arc<Transcripts>,
    /// The newest token of each town.
    pub tokens: Tokens,
    /// What the worker pushed.
    pub pushed: Pushed,
    /// Tickets for sockets.
    pub tickets: Tickets,
    /// Rings when an agent has started or ended.
    pub changed: Notify,
    /// The port of the control server, once it listens.
    pub port: AtomicU16,
    http: reqwest::Client,
    /// How many attempts' events are on their way.
    telling: watch::Sender<usize>,
    started_at: String,
    born: Instant,
    agents: Mutex<Agents>,
    draining: watch::Sender<bool>,
    /// The drain nonce that was acknowledged last.
    acknowledged: tokio::sync::Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Agents {
    /// The newest dispatch of each agent.
    current: HashMap<String, Arc<Dispatch>>,
    /// Every dispatch id seen, with its agent and the answer to its start. None = stopped before it ever started.
    seen: HashMap<String, Option<(String, Arc<Answer>)>>,
    /// The same ids, oldest first.
    order: VecDeque<String>,
    /// Where the container's own calls go: api and town of the last start.
    last: Option<(Option<String>, String)>,
}

impl Agents {
    fn remember(&mut self, id: &str, start: Option<(String, Arc<Answer>)>) {
        self.seen.insert(id.to_owned(), start);
        self.order.push_back(id.to_owned());
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
    }

    fn make_room(&mut self) {
        if self.current.len() >= KNOWN_AGENTS {
            self.current.retain(|_, dispatch| !dispatch.status().is_over());
        }
    }
}

/// What an operation on an agent is answered.
pub type Reply = (u16, Value);

impl Runner {
    /// A runner with no agents.
    pub fn new(config: Config) -> io::Result<Arc<Self>> {
        let workspace = Workspace::open(&config.workspace)?;
        let instance = uuid::Uuid::new_v4().to_string();
        let processes = Processes::new(workspace.root(), &instance, config.stop_grace)?;
        let tokens = Tokens::kept_in(workspace.tokens()?);
        if let (Some(town), Some(token)) = (&config.town_id, &config.token) {
            tokens.put(town, token.clone());
        }
        Ok(Arc::new(Self {
            http: voice::client().map_err(io::Error::other)?,
            config,
            instance,
            workspace,
            processes,
            due: Due::default(),
            transcripts: Arc::default(),
            tokens,
            pushed: Pushed::default(),
            tickets: Tickets::default(),
            changed: Notify::new(),
            port: AtomicU16::new(0),
            telling: watch::Sender::new(0),
            started_at: text::now(),
            born: Instant::now(),
            agents: Mutex::default(),
            draining: watch::Sender::new(false),
            acknowledged: tokio::sync::Mutex::default(),
        }))
    }

    /// Starts an agent, or answers as the same start was answered before. What the worker has pushed stands in for variables
    /// that the start does not bring.
    pub async fn start(self: &Arc<Self>, mut request: StartRequest) -> Reply {
        for (name, value) in &self.pushed.town().variables {
            request.env_vars.entry(name.clone()).or_insert_with(|| value.clone());
        }
        match self.accept(request, false) {
            Ok(answer) => answer.wait().await,
            Err(reply) => reply,
        }
    }

    /// One critical section decides: two starts with the same id cannot both be the first.
    fn accept(self: &Arc<Self>, request: StartRequest, again: bool) -> Result<Arc<Answer>, Reply> {
        let mut agents = text::lock(&self.agents);
        if again && agents.current.contains_key(&request.agent_id) {
            return Err((409, json!({ "error": "the worker has started this agent anew" })));
        }
        if let Some(id) = &request.dispatch_id
            && let Some(seen) = agents.seen.get(id)
        {
            return match seen {
                Some((agent, answer)) if *agent == request.agent_id => Ok(Arc::clone(answer)),
                Some(_) => Err((400, json!({ "error": "this dispatchId belongs to another agent", "issues": [] }))),
                None => Err((500, aborted(&request.agent_id))),
            };
        }
        if *self.draining.borrow() {
            return Err((503, json!({ "error": DRAINING })));
        }
        let shares_worktree = |other: &&Arc<Dispatch>| {
            other.agent != request.agent_id
                && other.rig == request.rig_id
                && other.branch == request.branch
                && other.in_repository
                && !other.status().is_over()
        };
        if request.needs_repository()
            && let Some(other) = agents.current.values().find(shares_worktree)
        {
            let error = format!("agent {} works on branch {} already", other.agent, request.branch);
            return Err((500, json!({ "error": error })));
        }
        let dispatch = Dispatch::new(&request, self.voice_of(&request), &self.transcripts);
        if let Some(id) = &request.dispatch_id {
            agents.remember(id, Some((request.agent_id.clone(), Arc::clone(&dispatch.answer))));
        }
        agents.make_room();
        agents.last = Some((dispatch.voice.api.clone(), dispatch.town.clone()));
        let previous = agents.current.insert(request.agent_id.clone(), Arc::clone(&dispatch));
        let answer = Arc::clone(&dispatch.answer);
        // A task of its own: the start goes on when the caller hangs up.
        tokio::spawn(lifecycle::live(Arc::clone(self), dispatch, request, previous));
        Ok(answer)
    }

    /// Restarts an agent that the last container had, unless the worker has started it anew meanwhile.
    pub fn restart(self: &Arc<Self>, request: StartRequest) {
        let (runner, agent) = (Arc::clone(self), request.agent_id.clone());
        tokio::spawn(async move {
            let (status, said) = match runner.accept(request, true) {
                Ok(answer) => answer.wait().await,
                Err(reply) => reply,
            };
            if status != 201 {
                crate::journal::note(&format!("{agent} could not be restarted: {said}"));
            }
        });
    }

    /// Begins to send a dispatch's events to the worker.
    pub fn deliver_events(&self, dispatch: &Arc<Dispatch>) -> JoinHandle<()> {
        self.telling.send_modify(|count| *count += 1);
        let (telling, dispatch) = (self.telling.clone(), Arc::clone(dispatch));
        tokio::spawn(async move {
            dispatch.feed.outbox.deliver(&dispatch.agent, &dispatch.rig, &dispatch.voice).await;
            telling.send_modify(|count| *count -= 1);
        })
    }

    /// Waits until no events are on their way.
    pub async fn events_delivered(&self) {
        let _ = self.telling.subscribe().wait_for(|count| *count == 0).await;
    }

    /// The voice of a request.
    #[must_use]
    pub fn voice_of(&self, request: &StartRequest) -> Voice {
        if let Some(token) = environment::token(&self.config, request) {
            // A start's token is the newest there is; the runner's own is only a beginning.
            let fresh = request.env_vars.contains_key("GASTOWN_CONTAINER_TOKEN");
            if fresh || self.tokens.get(&request.town_id).is_none() {
                self.tokens.put(&request.town_id, token);
            }
        }
        let mut headers =
            vec![("X-Gastown-Agent-Id", request.agent_id.clone()), ("X-Gastown-Rig-Id", request.rig_id.clone())];
        if let Some(id) = &request.dispatch_id {
            headers.push(("X-Gastown-Dispatch-Id", id.clone()));
        }
        Voice {
            http: self.http.clone(),
            api: environment::api_url(&self.config, request),
            town: request.town_id.clone(),
            tokens: self.tokens.clone(),
            headers,
        }
    }

    /// The container's own voice, if it is known who it would speak for.
    #[must_use]
    pub fn own_voice(&self, town: Option<&str>) -> Option<Voice> {
        let (api, last_town) = match text::lock(&self.agents).last.clone() {
            Some((api, town)) => (api, Some(town)),
            None => (None, None),
        };
        let own = self.config.api_url.as_deref().map(|url| url.trim_end_matches('/').to_owned());
        let pushed = self.pushed.town();
        let api = api.or_else(|| pushed.api_url.clone()).or(own)?;
        let town = town.map(str::to_owned).or(last_town).or_else(|| self.own_town())?;
        let tokens = self.tokens.clone();
        Some(Voice { http: self.http.clone(), api: Some(api), town, tokens, headers: Vec::new() })
    }

    /// Whether any agent was ever started.
    #[must_use]
    pub fn was_used(&self) -> bool {
        text::lock(&self.agents).last.is_some()
    }

    /// The newest dispatch of an agent, or the answer that there is none.
    pub fn find(&self, agent: &str) -> Result<Arc<Dispatch>, Reply> {
        let found = text::lock(&self.agents).current.get(agent).cloned();
        found.ok_or_else(|| (404, json!({ "error": format!("Agent {agent} not found") })))
    }

    /// The status of an agent.
    #[must_use]
    pub fn status(&self, agent: &str) -> Reply {
        match self.find(agent) {
            Ok(dispatch) => (200, dispatch.describe(self.port.load(Ordering::Relaxed))),
            Err(reply) => reply,
        }
    }

    /// Stops an agent, or only the named dispatch of it, and answers when its processes are gone.
    pub async fn stop(&self, agent: &str, id: Option<&str>) -> Reply {
        if let Some(id) = id {
            let mut agents = text::lock(&self.agents);
            if !agents.seen.contains_key(id) {
                // The stop overtook its start, which must not run any more when it arrives.
                agents.remember(id, None);
            }
        }
        match self.find(agent) {
            Ok(dispatch) => {
                if id.is_none() || dispatch.id.as_deref() == id {
                    dispatch.end(StopCause::Stopped).await;
                }
                (200, json!({ "stopped": true }))
            }
            Err(reply) => reply,
        }
    }

    /// Hands a message to a running agent.
    #[must_use]
    pub fn message(&self, agent: &str, prompt: &str) -> Reply {
        let dispatch = match self.find(agent) {
            Ok(dispatch) => dispatch,
            Err(reply) => return reply,
        };
        let not_running = |status: Status| {
            let error = format!("Agent {agent} is not running (status: {})", status.name());
            (500, json!({ "error": error }))
        };
        if dispatch.status() != Status::Running {
            return not_running(dispatch.status());
        }
        match dispatch.mailbox.put(prompt) {
            Ok(()) => {
                dispatch.count_message();
                (200, json!({ "sent": true }))
            }
            // Its last turn is over, and its result is being delivered.
            Err(Refused::Closed) => not_running(Status::Stopping),
            Err(error) => (500, json!({ "error": error.to_string() })),
        }
    }

    /// The voice of an agent that is known here, and its rig.
    #[must_use]
    pub fn voice_for(&self, agent: &str) -> Option<(Voice, String)> {
        self.find(agent).ok().map(|dispatch| (dispatch.voice.clone(), dispatch.rig.clone()))
    }

    /// The town of this container.
    #[must_use]
    pub fn own_town(&self) -> Option<String> {
        let last = text::lock(&self.agents).last.as_ref().map(|(_, town)| town.clone());
        last.or_else(|| self.pushed.town().town_id.clone()).or_else(|| self.config.town_id.clone())
    }

    /// The answer of `GET /health`.
    #[must_use]
    pub fn health(&self) -> Value {
        let live = self.live().len();
        let mut health = json!({
            "status": "ok",
            "agents": live,
            "servers": self.processes.count(),
            "uptime": u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX),
            "startedAt": self.started_at,
            "containerInstanceId": self.instance,
            "features": ["dispatch-id", "prompt-on-resume"],
        });
        if *self.draining.borrow()
            && let Some(fields) = health.as_object_mut()
        {
            fields.insert("draining".to_owned(), json!(true));
        }
        health
    }

    /// The dispatches that are not over.
    #[must_use]
    pub fn live(&self) -> Vec<Arc<Dispatch>> {
        text::lock(&self.agents).current.values().filter(|dispatch| !dispatch.status().is_over()).cloned().collect()
    }

    /// The newest dispatch of every agent, also of those that ended.
    #[must_use]
    pub fn known(&self) -> Vec<Arc<Dispatch>> {
        text::lock(&self.agents).current.values().cloned().collect()
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Takes no more starts. Under the lock of `accept`: every start is either refused or in `live` afterwards.
    pub fn begin_drain(&self) -> Vec<Arc<Dispatch>> {
        let agents = text::lock(&self.agents);
        self.draining.send_replace(true);
        drop(agents);
        self.live()
    }

    /// Waits until the drain has begun.
    pub async fn drained(&self) {
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    /// Tells the worker that this container is ready, once per nonce (protocol 4.8, step 7).
    pub async fn acknowledge(&self, voice: &Voice, nonce: String) {
        let mut acknowledged = self.acknowledged.lock().await;
        if *self.draining.borrow() || acknowledged.as_deref() == Some(nonce.as_str()) {
            return;
        }
        let body = json!({ "nonce": nonce });
        match voice.call(&voice.town_path("container-ready"), Some(&body), SHORT_CALL).await {
            Ok(_) => *acknowledged = Some(nonce),
            // The next heartbeat brings the nonce again.
            Err(error) => crate::journal::note(&format!("container-ready: {error}")),
        }
    }
}

/// The answer to a start that was stopped before its process ran.
#[must_use]
pub fn aborted(agent: &str) -> Value {
    json!({ "error": format!("Startup aborted for agent {agent}") })
}

/// Whether this dispatch is waited for by a drain: mayors have no work of their own to finish.
#[must_use]
pub fn has_work(dispatch: &Dispatch) -> bool {
    dispatch.role != Role::Mayor
}
