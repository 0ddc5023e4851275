//! What the town wants done in the world, and how it ended. Plain data: the shell performs effects after the rows that
//! booked them are committed, and feeds every outcome to `settle`.
//!
//! Effects that name the same agent are performed in the order in which they were emitted.

use super::id::{AgentId, AttemptId, BeadId};
use super::review::forge::Step;
use super::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// Something to do outside the town.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// `POST /agents/start`. Booked by the attempt's row.
    StartAgent(Box<StartAgent>),
    /// `POST /agents/:id/stop`. Booked by a row of `stops`, which carries a lease.
    StopAgent(StopAgent),
    /// `GET /health`, then `GET /agents/:id/status` of each agent (10 s each). Booked by a lease on each attempt.
    ObserveAgents(Vec<Observe>),
    /// `GET /health`, starting the container if need be and polling up to `boot_timeout`. Booked on the breaker's row.
    ProbeContainer {
        /// The breaker's scope (`town` or `rig:<id>`), handed back with the outcome.
        scope: String,
        /// The breaker's generation when the probe was booked.
        generation: u32,
        /// How long to keep asking.
        boot_timeout: Millis,
    },
    /// `POST /refresh-token` or `POST /sync-config` (10 s). Booked by the moved due time on the town's row.
    TellContainer {
        /// What it is told.
        what: Tell,
        /// When it is told again if this telling comes to nothing; handed back with the outcome.
        until: Timestamp,
    },
    /// `POST /agents/:id/message` (10 s). Booked by the agent's row of `lines`, which carries a lease.
    MessageAgent(MessageAgent),
    /// `POST` to the town's webhook (10 s). Booked by a row of `deliveries`.
    PostWebhook(PostWebhook),
    /// One call to GitHub or GitLab (10 s). Booked by a row of `pull_requests`, which carries a lease.
    CallForge(Box<CallForge>),
    /// Tells the fleet how this town stands. Lost reports are repaired by the next one.
    ReportToFleet(FleetReport),
    /// Erases the store of an agent that was removed. Booked by a row of `departed`, whose due time was moved on.
    EraseAgent(AgentId),
    /// One Analytics Engine data point. Never fails anything.
    Emit(DataPoint),
    /// One frame for whoever watches the town ([`super::frame`]). Neither booked nor answered.
    Broadcast(Json),
}

/// The start of an agent process.
#[derive(Clone, Debug, PartialEq)]
pub struct StartAgent {
    /// The attempt; also the idempotency key at the container.
    pub attempt_id: AttemptId,
    /// The agent.
    pub agent_id: AgentId,
    /// How long to wait for the answer.
    pub timeout: Millis,
    /// The body of `POST /agents/start`. `envVars` holds what the town knows; the shell adds the container token.
    pub request: StartRequest,
    /// Stops owed for the same bead or agent: sent, and answered or given up after 10 s each, before the start.
    pub stop_first: Vec<StopAgent>,
    /// True if this start repeats one whose fate is unknown, on a container that has the feature `dispatch-id`.
    pub repeat: bool,
}

/// `StartAgentRequest` of `protocol.md` 4.4, with `dispatchId` and `review` (`api.md`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are the wire's own names, documented in protocol.md 4.4")]
pub struct StartRequest {
    pub agent_id: String,
    pub rig_id: String,
    pub town_id: String,
    pub role: String,
    pub name: String,
    pub identity: String,
    pub prompt: String,
    pub model: String,
    pub small_model: String,
    pub system_prompt: String,
    pub git_url: String,
    pub branch: String,
    pub default_branch: String,
    #[serde(default)]
    pub env_vars: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_point: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lightweight: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rigs: Vec<BrowsedRig>,
    #[serde(default)]
    pub dispatch_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewRequest>,
}

/// A rig whose checkout the mayor may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are the wire's own names, documented in protocol.md 4.4")]
pub struct BrowsedRig {
    pub rig_id: String,
    pub git_url: String,
    pub default_branch: String,
}

/// Words for an agent that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageAgent {
    /// Which message: handed back with the outcome.
    pub message_id: String,
    /// For whom.
    pub agent_id: AgentId,
    /// What: `{prompt}`.
    pub prompt: String,
}

/// What a refinery is asked to review.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReviewRequest {
    /// The MR bead.
    pub entry_id: String,
    /// The branch that wants in.
    pub branch: String,
    /// Where it wants to go.
    pub target_branch: String,
    /// The bead whose work it is.
    pub source_bead_id: String,
    /// Commands that must exit 0 on the merged tree.
    pub gates: Vec<String>,
    /// False: the change is merged without being read.
    pub code_review: bool,
    /// The pull request that stands for the branch: judge it, and leave the merging to the forge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pr_url: Option<String>,
}

/// The stop of an agent process that should not (or no longer) run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopAgent {
    /// The row of `stops` that owes it.
    pub stop_id: String,
    /// The agent to stop.
    pub agent_id: AgentId,
    /// The attempt whose process is meant; our runner leaves any other attempt of the agent alone.
    pub attempt_id: AttemptId,
}

/// One call to the forge of a pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallForge {
    /// The merge request.
    pub bead_id: BeadId,
    /// Which of its calls this is, handed back.
    pub call: u32,
    /// What is asked, handed back.
    pub step: Step,
    /// GitHub, else GitLab.
    pub github: bool,
    /// Where the forge's API is, without a slash at its end.
    pub base: String,
    /// The method.
    pub method: &'static str,
    /// The path and the query.
    pub path: String,
    /// A JSON body.
    pub body: Option<String>,
    /// Who asks.
    pub token: Token,
}

/// A secret on its way: it prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(super::text::REDACTED)
    }
}

/// One agent to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observe {
    /// The attempt the look is about.
    pub attempt_id: AttemptId,
    /// Its agent.
    pub agent_id: AgentId,
}

/// What a running container is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tell {
    /// A fresh container token: that of the agents in it ends.
    Token,
    /// The settings, which have changed.
    Settings,
}

/// One delivery of a notification to the town's webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostWebhook {
    /// The row of `deliveries`.
    pub delivery_id: String,
    /// Where to.
    pub url: String,
    /// The raw body.
    pub body: String,
    /// `sha256=<hmac>` over the raw body; none if the town has no secret.
    pub signature: Option<String>,
}

/// How a town stands, for the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetReport {
    /// The town.
    pub town_id: String,
    /// `closed`, `open` or `half_open`: the town breaker.
    pub breaker: String,
    /// When the town intends to wake, if it does.
    pub next_wake: Option<Timestamp>,
    /// Beads that could be dispatched as far as they are concerned; so many are counted, and no more:
    /// [`OPEN_WORK_TOLD`](super::policy::OPEN_WORK_TOLD).
    pub open_work: u32,
    /// When this was so.
    pub at: Timestamp,
}

/// One Analytics Engine data point; positions are fixed by `domain.md` 11.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the fields are the predecessor's column names, listed in domain.md 11")]
pub struct DataPoint {
    pub event: &'static str,
    pub error: String,
    pub rig_id: String,
    pub agent_id: String,
    pub bead_id: String,
    pub label: String,
    pub role: String,
    pub bead_type: String,
    pub reason: String,
    pub duration_ms: f64,
    pub value: f64,
    /// Doubles 3–10: the event's own.
    pub own: [f64; 8],
    pub status_code: f64,
}

/// What the container said, or that it said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP answer.
    Http {
        /// Its status.
        status: u16,
        /// Its body, at most [`super::policy::ANSWER_BYTES`] of it.
        body: String,
        /// The `Retry-After` header in milliseconds, if there was one.
        retry_after: Option<Millis>,
    },
    /// Refused, lost, DNS: the platform does not tell refused from lost-after-sending.
    Unreachable {
        /// The platform's words.
        detail: String,
    },
    /// No answer within the time limit.
    TimedOut {
        /// The limit.
        after: Millis,
    },
}

/// `GET /health` of the container, as far as the town reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// `containerInstanceId` if it tells one (ours does), else `startedAt`: which process this is.
    pub instance_id: Option<String>,
    /// It says that it is going away.
    pub draining: bool,
    /// It treats a repeated `dispatchId` as the same start (feature `dispatch-id`).
    pub dispatch_id: bool,
}

/// How an effect ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A start was answered, or not.
    Started {
        /// The attempt.
        attempt_id: AttemptId,
        /// What the container said.
        answer: Answer,
        /// How each stop that went first ended.
        stops: Vec<(String, Answer)>,
    },
    /// A stop was answered, or not.
    Stopped {
        /// The row of `stops`.
        stop_id: String,
        /// What the container said.
        answer: Answer,
    },
    /// A look at agents ended.
    Observed {
        /// The health answer; `None` if the container did not answer.
        health: Option<Health>,
        /// Status of each agent, in the order asked.
        agents: Vec<(AttemptId, Answer)>,
    },
    /// A health probe ended.
    Probed {
        /// Scope and generation, handed back.
        scope: String,
        /// The generation when the probe was booked.
        generation: u32,
        /// The health answer, or why there is none.
        result: Result<Health, String>,
    },
    /// The container was told something, or not.
    Told {
        /// What.
        what: Tell,
        /// The due time that was booked for it.
        until: Timestamp,
        /// What the container said.
        answer: Answer,
    },
    /// A message was answered, or not.
    Messaged {
        /// Its agent.
        agent_id: AgentId,
        /// Which message.
        message_id: String,
        /// What the container said.
        answer: Answer,
    },
    /// A webhook was answered, or not.
    Posted {
        /// The row of `deliveries`.
        delivery_id: String,
        /// What the receiver said.
        answer: Answer,
    },
    /// A forge answered, or not.
    ForgeAnswered {
        /// The merge request.
        bead_id: BeadId,
        /// Which of its calls this was.
        call: u32,
        /// What was asked.
        step: Step,
        /// What the forge said.
        answer: Answer,
    },
    /// The store of an agent was erased, or not.
    Erased {
        /// The agent.
        agent_id: AgentId,
        /// True if it was.
        erased: bool,
    },
    /// The registry took a report, or not.
    Reported {
        /// True if it did.
        delivered: bool,
    },
}
