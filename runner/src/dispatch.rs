//! One dispatch: the record that the control server answers from, the signal that stops it, and the answer to its start.

use crate::{
    mailbox::Mailbox,
    redact::Redactor,
    request::{Role, StartRequest},
    stop::{Stop, StopCause},
    text,
    town_config::TownConfig,
    transcript::{Feed, Transcripts},
    voice::Voice,
};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::sync::watch;

/// An agent's status on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Accepted; the workspace is being made.
    Starting,
    /// The process runs, or its result is being delivered.
    Running,
    /// Told to end.
    Stopping,
    /// Ended.
    Exited,
    /// Ended badly, or never began.
    Failed,
}

impl Status {
    /// The status on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Exited | Self::Failed)
    }

    /// Whether heartbeats are sent.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Starting | Self::Running)
    }
}

/// What changes while a dispatch lives.
#[derive(Clone, Debug)]
struct State {
    status: Status,
    exit_reason: Option<String>,
    workdir: Option<PathBuf>,
    last_activity_at: String,
    messages: u64,
}

/// The answer to a start, given once and read by everyone who sent that start.
#[derive(Debug)]
pub struct Answer(watch::Sender<Option<(u16, Value)>>);

impl Answer {
    /// Not given yet.
    #[must_use]
    pub fn open() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(None)))
    }

    /// Gives the answer. False if it had been given before, or if nobody waits for it any more: then a failure must be
    /// reported in another way.
    pub fn give(&self, status: u16, body: Value) -> bool {
        let heard = self.0.receiver_count() > 0;
        let first = self.0.send_if_modified(|answer| {
            let first = answer.is_none();
            if first {
                *answer = Some((status, body));
            }
            first
        });
        first && heard
    }

    /// The answer, once it is given.
    pub async fn wait(&self) -> (u16, Value) {
        let mut receiver = self.0.subscribe();
        let given = receiver.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        given.unwrap_or_else(|| (500, json!({ "error": "the start was abandoned" })))
    }
}

/// A dispatch that was accepted.
#[derive(Debug)]
pub struct Dispatch {
    /// The agent.
    pub agent: String,
    /// Its rig.
    pub rig: String,
    /// Its town.
    pub town: String,
    /// What it does.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its branch.
    pub branch: String,
    /// Whether it works in the rig's clone.
    pub in_repository: bool,
    /// The attempt as the worker names it.
    pub id: Option<String>,
    /// The attempt as this runner names it.
    pub attempt: String,
    /// How it speaks to the worker.
    pub voice: Voice,
    /// The answer to its start.
    pub answer: Arc<Answer>,
    /// What was asked for.
    pub request: StartRequest,
    /// How messages reach it.
    pub mailbox: Mailbox,
    /// What it does and says.
    pub feed: Arc<Feed>,
    /// Cleans what leaves it.
    pub redactor: Arc<Redactor>,
    settings: Mutex<Settings>,
    started_at: String,
    state: watch::Sender<State>,
    stop: watch::Sender<Option<StopCause>>,
}

/// What may be changed while an agent lives, from its next turn on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `provider/model`.
    pub model: String,
    /// The role's instructions.
    pub system_prompt: Option<String>,
    /// The town's settings that were pushed since the start.
    pub town: Option<Arc<TownConfig>>,
}

impl Dispatch {
    /// A dispatch that is starting.
    #[must_use]
    pub fn new(request: &StartRequest, voice: Voice, transcripts: &Arc<Transcripts>) -> Arc<Self> {
        let now = text::now();
        let state = State {
            status: Status::Starting,
            exit_reason: None,
            workdir: None,
            last_activity_at: now.clone(),
            messages: 0,
        };
        Arc::new(Self {
            agent: request.agent_id.clone(),
            rig: request.rig_id.clone(),
            town: request.town_id.clone(),
            role: request.role,
            name: request.name.clone(),
            branch: request.branch.clone(),
            in_repository: request.needs_repository(),
            id: request.dispatch_id.clone(),
            attempt: request.dispatch_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            voice,
            answer: Answer::open(),
            request: request.clone(),
            mailbox: Mailbox::default(),
            feed: Arc::new(Feed::new(&request.agent_id, Arc::clone(transcripts))),
            redactor: Arc::default(),
            settings: Mutex::new(Settings {
                model: request.model.clone(),
                system_prompt: request.system_prompt.clone(),
                town: None,
            }),
            started_at: now,
            state: watch::Sender::new(state),
            stop: watch::Sender::new(None),
        })
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.state.borrow().status
    }

    /// What the attempt listens to.
    #[must_use]
    pub fn listen(&self) -> Stop {
        Stop::listen(&self.stop)
    }

    /// The process runs in `workdir`.
    pub fn run_in(&self, workdir: PathBuf) {
        self.state.send_modify(|state| {
            state.workdir = Some(workdir);
            state.last_activity_at = text::now();
            // A stop that came meanwhile stays visible.
            if state.status == Status::Starting {
                state.status = Status::Running;
            }
        });
    }

    /// Where it works, once it does.
    #[must_use]
    pub fn workdir(&self) -> Option<PathBuf> {
        self.state.borrow().workdir.clone()
    }

    /// The settings of the next turn.
    #[must_use]
    pub fn settings(&self) -> Settings {
        text::lock(&self.settings).clone()
    }

    /// Changes the settings of the next turn.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut text::lock(&self.settings));
    }

    /// A message was delivered.
    pub fn count_message(&self) {
        self.state.send_modify(|state| {
            state.messages += 1;
            state.last_activity_at = text::now();
        });
    }

    /// The end. The first one counts.
    pub fn finish(&self, status: Status, reason: &str) {
        self.state.send_if_modified(|state| {
            let first = !state.status.is_over();
            if first {
                state.status = status;
                state.exit_reason = Some(reason.to_owned());
                state.last_activity_at = text::now();
            }
            first
        });
    }

    /// Tells it to end and waits until it has, with every process of it.
    pub async fn end(&self, cause: StopCause) {
        self.tell(cause);
        self.over().await;
    }

    /// Tells it to end. The first cause counts.
    pub fn tell(&self, cause: StopCause) {
        self.state.send_if_modified(|state| {
            let alive = state.status.is_alive();
            if alive {
                state.status = Status::Stopping;
            }
            alive
        });
        self.stop.send_if_modified(|given| {
            let first = given.is_none();
            if first {
                *given = Some(cause);
            }
            first
        });
    }

    /// Waits until it is over.
    pub async fn over(&self) {
        let _ = self.state.subscribe().wait_for(|state| state.status.is_over()).await;
    }

    /// The last sign of life, as type and time.
    fn last_event(&self) -> (String, String) {
        self.feed.last().unwrap_or_else(|| ("agent.started".to_owned(), self.started_at.clone()))
    }

    /// The answer of `GET /agents/:a/status`.
    #[must_use]
    pub fn describe(&self, port: u16) -> Value {
        let (_, at) = self.last_event();
        let state = self.state.borrow();
        // Messages are taken where starts are, as long as the agent lives.
        let (port, session) = if state.status == Status::Running { (port, self.attempt.as_str()) } else { (0, "") };
        json!({
            "agentId": self.agent,
            "dispatchId": self.id,
            "status": state.status.name(),
            "serverPort": port,
            "sessionId": session,
            "startedAt": self.started_at,
            // Both are RFC 3339 in UTC with milliseconds: the later one is the greater text.
            "lastActivityAt": state.last_activity_at.as_str().max(at.as_str()),
            "activeTools": self.feed.tools(),
            "messageCount": state.messages,
            "exitReason": state.exit_reason,
        })
    }

    /// The answer to a start that succeeded: the record, without anything secret.
    #[must_use]
    pub fn record(&self, port: u16) -> Value {
        let (event, at) = self.last_event();
        let mut record = self.describe(port);
        if let Some(fields) = record.as_object_mut() {
            let workdir = self.state.borrow().workdir.as_ref().map(|path| path.display().to_string());
            for (name, value) in [
                ("rigId", json!(self.rig)),
                ("townId", json!(self.town)),
                ("role", json!(self.role.name())),
                ("name", json!(self.name)),
                ("workdir", json!(workdir)),
                ("model", json!(self.settings().model)),
                ("lastEventType", json!(event)),
                ("lastEventAt", json!(at)),
            ] {
                fields.insert(name.to_owned(), value);
            }
        }
        record
    }

    /// The body of a heartbeat.
    #[must_use]
    pub fn heartbeat(&self, instance: &str) -> Value {
        let (event, at) = self.last_event();
        let state = self.state.borrow();
        json!({
            "agentId": self.agent,
            "rigId": self.rig,
            "townId": self.town,
            "dispatchId": self.id,
            "status": state.status.name(),
            "timestamp": text::now(),
            "lastEventType": event,
            "lastEventAt": at,
            "activeTools": self.feed.tools(),
            "messageCount": state.messages,
            "containerInstanceId": instance,
        })
    }
}
