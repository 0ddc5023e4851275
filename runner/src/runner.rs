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
    process::Processes,
    request::{Role, StartRequest},
    stop::StopCause,
    text,
    voice::{self, SHORT_CALL, Tokens, Voice},
    workspace::Workspace,
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    fs::OpenOptions,
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};
use tokio::{sync::watch, time::Instant};

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
    /// The port of the control server, once it listens.
    pub port: AtomicU16,
    http: reqwest::Client,
    tokens: Tokens,
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
        let tokens = Tokens::default();
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
            port: AtomicU16::new(0),
            tokens,
            started_at: text::now(),
            born: Instant::now(),
            agents: Mutex::default(),
            draining: watch::Sender::new(false),
            acknowledged: tokio::sync::Mutex::default(),
        }))
    }

    /// Starts an agent, or answers as the same start was answered before.
    pub async fn start(self: &Arc<Self>, request: StartRequest) -> Reply {
        match self.accept(request) {
            Ok(answer) => answer.wait().await,
            Err(reply) => reply,
        }
    }

    /// One critical section decides: two starts with the same id cannot both be the first.
    fn accept(self: &Arc<Self>, request: StartRequest) -> Result<Arc<Answer>, Reply> {
        let mut agents = text::lock(&self.agents);
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
        let dispatch = Dispatch::new(&request, self.voice_of(&request));
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

    fn voice_of(&self, request: &StartRequest) -> Voice {
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
        let api = api.or(own)?;
        let town = town.map(str::to_owned).or(last_town).or_else(|| self.config.town_id.clone())?;
        let tokens = self.tokens.clone();
        Some(Voice { http: self.http.clone(), api: Some(api), town, tokens, headers: Vec::new() })
    }

    /// Whether any agent was ever started.
    #[must_use]
    pub fn was_used(&self) -> bool {
        text::lock(&self.agents).last.is_some()
    }

    fn find(&self, agent: &str) -> Result<Arc<Dispatch>, Reply> {
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

    /// Puts a message into a running agent's inbox.
    #[must_use]
    pub fn message(&self, agent: &str, prompt: &str) -> Reply {
        let dispatch = match self.find(agent) {
            Ok(dispatch) => dispatch,
            Err(reply) => return reply,
        };
        let (Status::Running, Some(inbox)) = (dispatch.status(), dispatch.inbox()) else {
            let error = format!("Agent {agent} is not running (status: {})", dispatch.status().name());
            return (500, json!({ "error": error }));
        };
        let line = format!("{}\n", json!({ "at": text::now(), "prompt": prompt }));
        // One write per line: a reader never sees half of one.
        let written = OpenOptions::new().append(true).open(inbox).and_then(|mut file| file.write_all(line.as_bytes()));
        match written {
            Ok(()) => {
                dispatch.count_message();
                (200, json!({ "sent": true }))
            }
            Err(error) => (500, json!({ "error": format!("the message could not be written: {error}") })),
        }
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
            "features": ["dispatch-id"],
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
