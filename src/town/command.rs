//! What can be asked of a town: one variant per route, with the body as on the wire.
//!
//! `src/edge/request.rs` reads a request into a `Command`, once at the edge to refuse what is malformed and once in the
//! object, which hands it to [`super::Town::handle`]. Nothing else reaches the rows from outside.

use super::debug::Look;
use super::id::{AgentId, BeadId, RigId};
use serde_json::Value as Json;

/// Who asks. The edge authenticates; the town only reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A town's owner: `user:<sub>`.
    User {
        /// The token's subject.
        sub: String,
    },
    /// An operator: `operator:<sub>`.
    Operator {
        /// The token's subject.
        sub: String,
    },
    /// A container token; the agent is what `X-Gastown-Agent-Id` says, the attempt what `X-Gastown-Dispatch-Id` says.
    Container {
        /// The acting agent, if the call names one.
        agent_id: Option<AgentId>,
        /// The attempt that speaks, if the call names one.
        dispatch_id: Option<String>,
    },
    /// The town itself (its rules).
    System,
}

impl Actor {
    /// As stored in `audit`, `created_by` and events: `user:…`, `operator:…`, the agent's id, `container`, `system`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::User { sub } => format!("user:{sub}"),
            Self::Operator { sub } => format!("operator:{sub}"),
            Self::Container { agent_id: Some(a), .. } => a.0.clone(),
            Self::Container { agent_id: None, .. } => "container".to_owned(),
            Self::System => "system".to_owned(),
        }
    }
    /// True for a person: a user or an operator.
    #[must_use]
    pub const fn is_person(&self) -> bool {
        matches!(self, Self::User { .. } | Self::Operator { .. })
    }
    /// The agent that speaks, if one does.
    #[must_use]
    pub const fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Container { agent_id, .. } => agent_id.as_ref(),
            _ => None,
        }
    }
    /// The attempt that speaks, if the call names one.
    #[must_use]
    pub fn dispatch(&self) -> Option<&str> {
        match self {
            Self::Container { dispatch_id, .. } => dispatch_id.as_deref(),
            _ => None,
        }
    }
}

/// `POST …/beads` and both slings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewBead {
    /// `issue` (default), `escalation`, `molecule`; slings make issues only.
    pub kind: Option<String>,
    /// 1–500 bytes.
    pub title: String,
    /// At most 64 KB.
    pub body: Option<String>,
    /// `low`, `medium` (default), `high`, `critical`.
    pub priority: Option<String>,
    /// Labels; those with protocol meaning are in `protocol.md` 2.1.
    pub labels: Vec<String>,
    /// A JSON object, at most 64 KB.
    pub metadata: Option<Json>,
    /// Beads this one waits for.
    pub depends_on: Vec<String>,
    /// Honoured if the agent is idle and without a hook; the predecessor dropped it.
    pub assignee_agent_id: Option<String>,
}

/// `POST …/tools/sling-batch`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The convoy's.
    pub title: String,
    /// 1–50.
    pub tasks: Vec<Task>,
    /// `review-then-land` or `review-and-merge`; absent: the rig's, else the town's.
    pub merge_mode: Option<String>,
    /// Its tasks wait for its start; absent: as the town is set.
    pub staged: Option<bool>,
    /// The convoy's; a JSON object.
    pub metadata: Option<Json>,
}

/// One of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Task {
    /// The bead; what it waits for is said by `depends_on`.
    pub bead: NewBead,
    /// The places in the batch of those it waits for.
    pub depends_on: Vec<usize>,
}

/// `PATCH …/beads/:b`: absent keys stay, `null` clears.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(clippy::option_option, reason = "absent, null and a value are three different wishes")]
pub struct BeadPatch {
    /// New title.
    pub title: Option<String>,
    /// New body; `null` clears it.
    pub body: Option<Option<String>>,
    /// New priority.
    pub priority: Option<String>,
    /// Replaces the labels.
    pub labels: Option<Vec<String>>,
    /// By-hand transition (`api.md`).
    pub status: Option<String>,
    /// Replaces the metadata.
    pub metadata: Option<Json>,
    /// Moves the bead to another rig of the town.
    pub rig_id: Option<Option<String>>,
    /// New parent.
    pub parent_bead_id: Option<Option<String>>,
    /// Replaces the `blocks` edges of this bead.
    pub depends_on: Option<Vec<String>>,
}

/// Filters of bead lists (`protocol.md` 1.4); newest first.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "query parameters by name")]
pub struct BeadFilter {
    pub status: Option<String>,
    pub kind: Option<String>,
    pub assignee: Option<String>,
    pub limit: Option<u32>,
    pub offset: Option<u32>,
}

/// Filters of attempt lists (`api.md`); newest first. `before` is the id of an attempt.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "query parameters by name")]
pub struct AttemptFilter {
    pub bead_id: Option<String>,
    pub outcome: Option<String>,
    pub class: Option<String>,
    pub code: Option<String>,
    pub fingerprint: Option<String>,
    pub rig_id: Option<String>,
    pub since: Option<String>,
    pub before: Option<String>,
    pub limit: Option<u32>,
}

/// `before` and `limit` of the other lists.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "query parameters by name")]
pub struct Page {
    pub before: Option<String>,
    pub limit: Option<u32>,
}

/// `POST agents/:a/heartbeat` (`protocol.md` 4.7); every field tolerated missing.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the wire's own names, documented in protocol.md 4.7")]
pub struct Heartbeat {
    pub agent_id: Option<String>,
    pub status: Option<String>,
    pub last_event_type: Option<String>,
    pub last_event_at: Option<String>,
    pub active_tools: Option<Vec<String>>,
    pub container_instance_id: Option<String>,
    pub dispatch_id: Option<String>,
}

/// Everything that can be asked of a town.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "fields are path parameters and bodies by the wire's own names")]
pub enum Command {
    // ── the town and its rigs ────────────────────────────────────────────────────────────────────────────────
    /// Made by `POST /api/users/:u/towns`: names the town and its owner, makes its mayor's row. Repeating it is harmless.
    Found { town_id: String, name: String, owner_user_id: String },
    /// `GET /api/towns/:t/config`.
    GetConfig,
    /// `PATCH /api/towns/:t/config`.
    PatchConfig { patch: Json },
    /// Made by `POST /api/users/:u/rigs`; the edge has made the id.
    AddRig { rig_id: RigId, name: String, git_url: String, default_branch: Option<String> },
    /// `DELETE /api/users/:u/rigs/:r`: beads of the rig are deleted, live agents stopped.
    RemoveRig { rig_id: RigId },
    /// `GET …/rigs`: the town's own rigs, newest first.
    ListRigs,
    /// `GET …/rigs/:r/config`.
    GetRigConfig { rig_id: RigId },
    /// `PATCH …/rigs/:r/config`.
    PatchRigConfig { rig_id: RigId, patch: Json },

    // ── beads ────────────────────────────────────────────────────────────────────────────────────────────────
    /// `POST …/beads`.
    CreateBead { rig_id: RigId, bead: NewBead },
    /// Both slings: a bead and the polecat that will do it.
    Sling { rig_id: RigId, bead: NewBead },
    /// `GET …/beads/:b`. With a rig, another rig's bead is 404.
    GetBead { rig_id: Option<RigId>, bead_id: BeadId },
    /// `GET …/beads`.
    ListBeads { rig_id: RigId, filter: BeadFilter },
    /// `PATCH …/beads/:b` of the mayor base.
    UpdateBead { rig_id: RigId, bead_id: BeadId, patch: BeadPatch },
    /// `PATCH …/beads/:b/status`: by hand.
    SetBeadStatus { rig_id: RigId, bead_id: BeadId, status: String },
    /// `POST …/beads/:b/close`: by the agent that holds it this is `done` without a branch.
    CloseBead { rig_id: RigId, bead_id: BeadId, agent_id: String },
    /// `POST /api/towns/:t/beads/:b/cancel`.
    CancelBead { bead_id: BeadId, reason: String },
    /// `DELETE …/beads/:b`.
    DeleteBead { rig_id: RigId, bead_id: BeadId },
    /// `DELETE …/beads/:b` of the mayor base: another rig's bead is 403.
    MayorDeleteBead { rig_id: RigId, bead_id: BeadId },
    /// `POST …/beads/bulk-delete`: with what hangs on them.
    DeleteBeads { rig_id: RigId, bead_ids: Vec<String> },
    /// `POST …/beads/delete-by-status`.
    DeleteByStatus { rig_id: RigId, status: String, kind: Option<String> },
    /// `POST …/beads/:b/reassign`.
    Reassign { rig_id: RigId, bead_id: BeadId, agent_id: AgentId },
    /// `POST /api/towns/:t/beads/:b/redrive`.
    RedriveBead { bead_id: BeadId, reason: Option<String> },
    /// `POST /api/towns/:t/redrive`: many, paced.
    Redrive { fingerprint: Option<String>, rig_id: Option<RigId>, limit: Option<u32>, dry_run: bool, reason: String },
    /// `GET …/events`: bead events of the town.
    ListEvents { bead_id: Option<BeadId>, since: Option<String>, limit: Option<u32> },

    // ── convoys ──────────────────────────────────────────────────────────────────────────────────────────────
    /// `POST …/tools/sling-batch`.
    SlingBatch { rig_id: RigId, batch: Batch },
    /// `POST /api/towns/:t/convoys`: of beads that are there.
    CreateConvoy { title: String, beads: Vec<(BeadId, RigId)> },
    /// `POST /api/towns/:t/convoys/bead-closed`.
    ConvoyBeadClosed { convoy_id: BeadId, bead_id: BeadId },
    /// `GET …/convoys`.
    ListConvoys,
    /// `GET …/convoys/:c`.
    GetConvoy { convoy_id: BeadId },
    /// `POST …/convoys/:c/start`.
    StartConvoy { convoy_id: BeadId },
    /// `POST …/convoys/:c/close`.
    CloseConvoy { convoy_id: BeadId },
    /// `PATCH …/convoys/:c`.
    PatchConvoy { convoy_id: BeadId, merge_mode: Option<String>, feature_branch: Option<String> },
    /// `POST …/convoys/:c/add-bead`.
    AddToConvoy { convoy_id: BeadId, bead_id: BeadId, depends_on: Vec<String> },
    /// `POST …/convoys/:c/remove-bead`.
    RemoveFromConvoy { convoy_id: BeadId, bead_id: BeadId },

    // ── agents ───────────────────────────────────────────────────────────────────────────────────────────────
    /// `POST …/agents`.
    CreateAgent { rig_id: RigId, role: String, name: String, identity: String },
    /// `POST …/agents/get-or-create`.
    GetOrCreateAgent { rig_id: RigId, role: String },
    /// `GET …/agents`.
    ListAgents { rig_id: RigId, role: Option<String>, status: Option<String> },
    /// `GET …/agents/:a`.
    GetAgent { rig_id: RigId, agent_id: AgentId },
    /// `DELETE …/agents/:a`.
    DeleteAgent { rig_id: RigId, agent_id: AgentId },
    /// `POST …/agents/:a/reset` of the mayor base.
    ResetAgent { rig_id: RigId, agent_id: AgentId },
    /// `POST …/agents/:a/hook`.
    Hook { rig_id: RigId, agent_id: AgentId, bead_id: BeadId },
    /// `DELETE …/agents/:a/hook`.
    Unhook { rig_id: RigId, agent_id: AgentId },
    /// `GET …/agents/:a/prime`: reading delivers the mail.
    Prime { agent_id: AgentId },
    /// `POST …/agents/:a/done`.
    Done { agent_id: AgentId, branch: Option<String>, pr_url: Option<String>, summary: Option<String> },
    /// `POST …/agents/:a/request-changes`: a refinery's verdict that sends the branch back to a polecat.
    RequestChanges { agent_id: AgentId, feedback: String, files: Vec<String> },
    /// `POST …/agents/:a/completed`.
    Completed {
        agent_id: AgentId,
        status: String,
        reason: Option<String>,
        phase: Option<String>,
        model_status: Option<u16>,
    },
    /// `POST …/agents/:a/heartbeat`.
    Heartbeat { agent_id: AgentId, body: Heartbeat },
    /// `POST /api/towns/:t/heartbeats`: all agents of a container at once.
    Heartbeats { container_instance_id: Option<String>, agents: Vec<Heartbeat> },
    /// `POST …/agents/:a/checkpoint`.
    Checkpoint { agent_id: AgentId, data: Json },
    /// `POST …/agents/:a/status`.
    StatusMessage { agent_id: AgentId, message: String },
    /// `POST …/agents/:a/eviction-context`.
    EvictionContext { agent_id: AgentId, branch: String, agent_name: String, saved_at: String },
    /// `GET …/agents/:a/mail`: delivers.
    ReadMail { agent_id: AgentId },
    /// `POST …/mail`.
    SendMail { from_agent_id: String, to_agent_id: String, subject: String, body: String },
    /// `GET /api/towns/:t/mail`: delivers nothing.
    ListMail { to: Option<String>, page: Page },
    /// `POST …/review-queue/:id/complete`.
    CompleteReview { entry_id: BeadId, status: String, message: String, commit_sha: Option<String> },
    /// `POST …/review-queue`: submits a branch for review as `done` does.
    SubmitReview {
        rig_id: RigId,
        agent_id: AgentId,
        bead_id: BeadId,
        branch: String,
        pr_url: Option<String>,
        summary: Option<String>,
    },

    // ── the mayor, and nudges ────────────────────────────────────────────────────────────────────────────────
    /// `POST /api/towns/:t/mayor/message`.
    MessageMayor { message: String, ui_context: Option<String> },
    /// `POST …/mayor/ensure`.
    EnsureMayor,
    /// `GET …/mayor/status`.
    MayorStatus,
    /// `POST …/mayor/configure`: nothing is configured there.
    ConfigureMayor,
    /// `POST …/mayor/completed`.
    MayorCompleted { status: String, reason: Option<String> },
    /// `POST …/mayor/destroy`.
    DestroyMayor,
    /// `POST …/mayor/dashboard-context`.
    DashboardContext { context: String },
    /// `POST …/ui-action` of both bases.
    UiAction { action: Json },
    /// `POST …/mail` of the mayor base: as `SendMail`, answered 200.
    MayorMail { from_agent_id: String, to_agent_id: String, subject: String, body: String },
    /// `GET /api/towns/:t/mayor-id`.
    MayorId,
    /// `POST …/agents/:a/waiting`; milliseconds since 1970.
    Waiting { agent_id: AgentId, fired_at: Option<i64> },
    /// `POST …/nudge`.
    Nudge { target: AgentId, message: String, mode: Option<String> },
    /// `GET …/agents/:a/pending-nudges`: delivers nothing.
    PendingNudges { agent_id: AgentId },
    /// `POST …/agents/:a/nudge-delivered`.
    NudgeDelivered { agent_id: AgentId, nudge_id: String },

    /// Asked by an agent's store before it is made: 404 unless the town has such an agent.
    KnowsAgent { agent_id: AgentId },

    // ── escalations and notifications ────────────────────────────────────────────────────────────────────────
    /// `POST …/escalations`.
    Escalate { rig_id: RigId, title: String, body: Option<String>, priority: Option<String>, metadata: Option<Json> },
    /// `POST …/triage/resolve`.
    ResolveTriage { request_id: BeadId, action: String, notes: String },
    /// `POST …/molecules`.
    AttachMolecule { rig_id: RigId, bead_id: BeadId, formula: Json },
    /// `GET …/agents/:a/molecule/current`.
    CurrentStep { agent_id: AgentId },
    /// `POST …/agents/:a/molecule/advance`.
    AdvanceStep { agent_id: AgentId, summary: String },
    /// `GET /api/towns/:t/escalations`; `Some(true)` = acknowledged ones only, `Some(false)` = open ones only.
    ListEscalations { acknowledged: Option<bool> },
    /// `POST /api/towns/:t/escalations/:e/acknowledge`.
    AcknowledgeEscalation { escalation_id: BeadId },
    /// `GET /api/towns/:t/notifications`.
    ListNotifications { page: Page },
    /// `POST /api/towns/:t/notifications/test`.
    TestNotification,

    // ── dispatch ─────────────────────────────────────────────────────────────────────────────────────────────
    /// `GET /api/towns/:t/dispatch` (without alarm and cost, which the object adds).
    GetDispatch,
    /// `GET /api/towns/:t/beads/:b/explain`.
    Explain { bead_id: BeadId },
    /// `GET /api/towns/:t/attempts` and `…/beads/:b/attempts`.
    ListAttempts { filter: AttemptFilter },
    /// `GET /api/towns/:t/breakers`.
    ListBreakers,
    /// `GET /api/towns/:t/breakers/:scope`.
    GetBreaker { scope: String },
    /// `PUT /api/towns/:t/breakers/:scope`.
    OverrideBreaker { scope: String, mode: String, reason: Option<String>, expires_in_ms: Option<i64> },
    /// `POST /api/towns/:t/breakers/:scope/probe`.
    ProbeBreaker { scope: String },
    /// `GET /api/towns/:t/audit`.
    ListAudit { page: Page },
    /// The status snapshot (`protocol.md` 2.12) for whoever watches, without alarm, which the object adds.
    Snapshot,
    /// `GET /debug/towns/:t/status` (without alarm and cost, which the object adds).
    DebugStatus,
    /// The other readings under `/debug/towns/:t`.
    Debug { at: Look },

    // ── the container ────────────────────────────────────────────────────────────────────────────────────────
    /// `POST /api/towns/:t/container-eviction`.
    ContainerEviction,
    /// `POST /api/towns/:t/container-ready`.
    ContainerReady { nonce: String },
    /// `GET /api/towns/:t/drain-status`.
    DrainStatus,
    /// `GET /api/towns/:t/container-registry` (without the token, which the object adds).
    ReadRegistry { container_instance_id: Option<String> },
    /// `POST /api/towns/:t/container-registry`.
    WriteRegistry { entries: Vec<Json> },
    /// `POST …/refresh-git-token`.
    GitToken { rig_id: RigId },
    /// Told by the container's object: an instance has ended (`None`: it never said who it was).
    ContainerExited { instance: Option<String>, exit_code: Option<i32>, reason: String },
    /// Asked by the container's object: may it stop?
    ContainerNeeded,
}
