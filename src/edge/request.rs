//! A request becomes a command: path, query and body of every route that ends at the town.
//!
//! Guarantee: what comes out is well typed, and a body that names its actor names who is asking. What comes in wrong
//! is a 400 with everything that is wrong with it (`protocol.md` 1.2); whether it makes sense is the town's to say.

use super::{
    auth::speaks_for,
    envelope::Refusal,
    fields::{Body, Fields, Query},
    route::{Matched, Route},
};
use crate::town::{
    command::{Actor, AttemptFilter, Batch, BeadFilter, BeadPatch, Command, Heartbeat, NewBead, Page, Task},
    debug::Look,
    id::{AgentId, BeadId, RigId},
    policy::{CONTEXT_CHARS, CONVOY_TASKS, DELETED_AT_ONCE, HEARTBEATS_MAX, STATUS_MESSAGE_CHARS, STEP_SUMMARY_CHARS},
};
use serde_json::Value as Json;

const BEAD_TYPES: &[&str] = &["issue", "message", "escalation", "merge_request", "convoy", "molecule", "agent"];
const BEAD_STATUSES: &[&str] = &["open", "in_progress", "in_review", "closed", "failed"];
const PRIORITIES: &[&str] = &["low", "medium", "high", "critical"];
const MERGE_MODES: &[&str] = &["review-then-land", "review-and-merge"];
const ROLES: &[&str] = &["polecat", "refinery", "mayor"];
const AGENT_STATUSES: &[&str] = &["idle", "working", "waiting", "stalled", "dead"];

/// The command of a route that ends at the town; `None` for the routes that end elsewhere (registry, tokens, health).
#[allow(clippy::too_many_lines, reason = "one arm per route; splitting the table would hide what is missing")]
pub fn command(matched: &Matched, query: &Query, body: &Body, actor: &Actor) -> Result<Option<Command>, Refusal> {
    let rig_id = || RigId::from(matched.param("rig"));
    let bead_id = || BeadId::from(matched.param("bead"));
    let agent_id = || AgentId::from(matched.param("agent"));
    let scope = || matched.param("scope").to_owned();
    let convoy_id = || BeadId::from(matched.param("convoy"));
    let page = || Ok::<_, Refusal>(Page { before: query.text("before"), limit: query.limit()? });

    let mut f = Fields::default();
    let command = match matched.route {
        Route::Root
        | Route::Health
        | Route::CreateTown
        | Route::ListTowns
        | Route::GetTown
        | Route::DeleteTown
        | Route::ListUserRigs
        | Route::CreateRig
        | Route::GetRig
        | Route::DeleteRig
        | Route::RefreshContainerToken
        | Route::StatusTicket
        | Route::StatusSocket
        | Route::StreamTicket
        | Route::StreamSocket
        | Route::AppendEvents
        | Route::AgentEvents
        | Route::GetSnapshot
        | Route::PutSnapshot
        | Route::DeleteSnapshot
        | Route::ContainerEvents
        | Route::StartInContainer
        | Route::StopInContainer
        | Route::MessageInContainer
        | Route::StatusInContainer
        | Route::ContainerHealth
        | Route::OpenPty
        | Route::ListPtys
        | Route::GetPty
        | Route::ResizePty
        | Route::ClosePty
        | Route::ConnectPty => return Ok(None),

        Route::GetConfig | Route::DebugConfig => Command::GetConfig,
        Route::PatchConfig => Command::PatchConfig { patch: object(body)? },
        Route::GetRigConfig => Command::GetRigConfig { rig_id: rig_id() },
        Route::PatchRigConfig => Command::PatchRigConfig { rig_id: rig_id(), patch: object(body)? },
        Route::MayorRigs => Command::ListRigs,

        Route::CreateBead => {
            f.require(body);
            let kind = Some(f.word("type", BEAD_TYPES));
            let bead = NewBead { kind, ..new_bead(&mut f) };
            Command::CreateBead { rig_id: rig_id(), bead }
        }
        Route::Sling => {
            f.require(body);
            let bead = new_bead(&mut f);
            Command::Sling { rig_id: rig_id(), bead }
        }
        Route::MayorSling => {
            f.require(body);
            let rig_id = RigId(f.text("rig_id"));
            let bead = new_bead(&mut f);
            Command::Sling { rig_id, bead }
        }
        Route::GetBead => Command::GetBead { rig_id: Some(rig_id()), bead_id: bead_id() },
        Route::ListBeads | Route::MayorListBeads => {
            Command::ListBeads { rig_id: rig_id(), filter: bead_filter(query)? }
        }
        Route::UpdateBead => Command::UpdateBead { rig_id: rig_id(), bead_id: bead_id(), patch: bead_patch(body)? },
        Route::SetBeadStatus => {
            f.require(body);
            let status = f.word("status", BEAD_STATUSES);
            // Of a person's change the person is the actor, so no agent need be named.
            if !actor.is_person() || f.has("agent_id") {
                acting_agent(&mut f, actor)?;
            }
            Command::SetBeadStatus { rig_id: rig_id(), bead_id: bead_id(), status }
        }
        Route::CloseBead => {
            f.accept(body);
            let agent_id = acting_agent(&mut f, actor)?;
            Command::CloseBead { rig_id: rig_id(), bead_id: bead_id(), agent_id }
        }
        Route::CancelBead => {
            f.require(body);
            let reason = f.text("reason");
            Command::CancelBead { bead_id: bead_id(), reason }
        }
        Route::DeleteBead => Command::DeleteBead { rig_id: rig_id(), bead_id: bead_id() },
        Route::MayorDeleteBead => Command::MayorDeleteBead { rig_id: rig_id(), bead_id: bead_id() },
        Route::DeleteBeads => {
            let mut f = Fields::required(body);
            let bead_ids = f.opt_uuids("bead_ids").unwrap_or_default();
            // In one sentence and without a list of issues, as its client knows it.
            if f.done(()).is_err() || bead_ids.is_empty() || bead_ids.len() > DELETED_AT_ONCE {
                let text = format!("Invalid request body: bead_ids must be 1 to {DELETED_AT_ONCE} UUIDs of beads");
                return Err(Refusal::bad_query(text));
            }
            Command::DeleteBeads { rig_id: rig_id(), bead_ids }
        }
        Route::DeleteByStatus => {
            f.require(body);
            let (status, kind) = (f.word("status", BEAD_STATUSES), f.opt_word("type", BEAD_TYPES));
            Command::DeleteByStatus { rig_id: rig_id(), status, kind }
        }
        Route::Reassign => {
            f.require(body);
            let agent_id = AgentId(f.text("agent_id"));
            Command::Reassign { rig_id: rig_id(), bead_id: bead_id(), agent_id }
        }
        Route::RedriveBead => {
            // Of agents only the mayor may redrive; the town knows which one is the mayor, but somebody must speak.
            if !actor.is_person() && actor.agent().is_none() {
                return Err(Refusal::forbidden("Only the mayor, named by X-Gastown-Agent-Id, or a person may redrive"));
            }
            f.accept(body);
            let reason = f.opt_text("reason");
            Command::RedriveBead { bead_id: bead_id(), reason }
        }
        Route::Redrive => {
            f.require(body);
            let fingerprint = f.opt_text("fingerprint");
            let rig_id = f.opt_text("rig_id").map(RigId);
            let (limit, dry_run, reason) = (f.opt_count("limit"), f.flag("dry_run"), f.text("reason"));
            Command::Redrive { fingerprint, rig_id, limit, dry_run, reason }
        }
        Route::RigEvents | Route::TownEvents => Command::ListEvents {
            bead_id: query.text("bead_id").map(BeadId),
            since: query.text("since"),
            // An unreadable limit is ignored here, and only here (`protocol.md` 1.4).
            limit: query.count("limit").unwrap_or_default(),
        },

        Route::SlingBatch => sling_batch(body)?,
        Route::CreateConvoy => {
            let mut f = Fields::required(body);
            let title = f.text("title");
            let mut beads = Vec::new();
            let list = f.objects("beads");
            sized(&mut f, "beads", list.len());
            for (i, bead) in list.into_iter().take(CONVOY_TASKS).enumerate() {
                let mut part = Fields::of(bead);
                beads.push((BeadId(part.uuid("bead_id")), RigId(part.text("rig_id"))));
                f.took(&format!("beads.{i}"), part);
            }
            f.done(Command::CreateConvoy { title, beads })?
        }
        Route::ConvoyBeadClosed => {
            f.require(body);
            let (convoy_id, bead_id) = (BeadId(f.text("convoy_id")), BeadId(f.text("bead_id")));
            Command::ConvoyBeadClosed { convoy_id, bead_id }
        }
        Route::ListConvoys => Command::ListConvoys,
        Route::GetConvoy => Command::GetConvoy { convoy_id: convoy_id() },
        Route::StartConvoy => Command::StartConvoy { convoy_id: convoy_id() },
        Route::CloseConvoy => Command::CloseConvoy { convoy_id: convoy_id() },
        Route::PatchConvoy => {
            f.require(body);
            let (merge_mode, feature_branch) = (f.opt_word("merge_mode", MERGE_MODES), f.opt_filled("feature_branch"));
            if merge_mode.is_none() && feature_branch.is_none() {
                f.wrong("too_small", "", "expected merge_mode or feature_branch");
            }
            Command::PatchConvoy { convoy_id: convoy_id(), merge_mode, feature_branch }
        }
        Route::AddToConvoy => {
            f.require(body);
            let (bead_id, depends_on) = (BeadId(f.uuid("bead_id")), f.opt_uuids("depends_on").unwrap_or_default());
            Command::AddToConvoy { convoy_id: convoy_id(), bead_id, depends_on }
        }
        Route::RemoveFromConvoy => {
            f.require(body);
            let bead_id = BeadId(f.text("bead_id"));
            Command::RemoveFromConvoy { convoy_id: convoy_id(), bead_id }
        }

        Route::CreateAgent => {
            f.require(body);
            let (role, name, identity) = (f.word("role", ROLES), f.text("name"), f.text("identity"));
            Command::CreateAgent { rig_id: rig_id(), role, name, identity }
        }
        Route::GetOrCreateAgent => {
            f.require(body);
            let role = f.word("role", ROLES);
            Command::GetOrCreateAgent { rig_id: rig_id(), role }
        }
        Route::ListAgents | Route::MayorListAgents => {
            let wrong = || Refusal::bad_query("Invalid role or status filter");
            let role = filter(query, "role", ROLES).map_err(|()| wrong())?;
            let status = filter(query, "status", AGENT_STATUSES).map_err(|()| wrong())?;
            Command::ListAgents { rig_id: rig_id(), role, status }
        }
        Route::GetAgent => Command::GetAgent { rig_id: rig_id(), agent_id: agent_id() },
        Route::DeleteAgent => Command::DeleteAgent { rig_id: rig_id(), agent_id: agent_id() },
        Route::ResetAgent => Command::ResetAgent { rig_id: rig_id(), agent_id: agent_id() },
        Route::Hook => {
            f.require(body);
            let bead_id = BeadId(f.text("bead_id"));
            Command::Hook { rig_id: rig_id(), agent_id: agent_id(), bead_id }
        }
        Route::Unhook => Command::Unhook { rig_id: rig_id(), agent_id: agent_id() },
        Route::Prime => Command::Prime { agent_id: agent_id() },
        Route::Done => {
            // Every field may be missing (`api.md`), so the body may be, too.
            f.accept(body);
            let (branch, pr_url, summary) = (f.opt_filled("branch"), f.opt_text("pr_url"), f.opt_text("summary"));
            Command::Done { agent_id: agent_id(), branch, pr_url, summary }
        }
        Route::RequestChanges => {
            f.require(body);
            let (feedback, files) = (f.text("feedback"), f.texts("files"));
            Command::RequestChanges { agent_id: agent_id(), feedback, files }
        }
        Route::Completed => {
            f.require(body);
            let status = f.word("status", &["completed", "failed"]);
            let reason = f.opt_text("reason");
            let phase = f.opt_word("phase", &["repository", "initial_prompt", "run"]);
            let model_status = f.opt_count("model_status").and_then(|n| u16::try_from(n).ok());
            Command::Completed { agent_id: agent_id(), status, reason, phase, model_status }
        }
        // A heartbeat is never refused for its body: what cannot be read is as if it had not been said.
        Route::Heartbeat => Command::Heartbeat { agent_id: agent_id(), body: heartbeat(body.json()) },
        Route::Heartbeats => {
            let mut f = Fields::required(body);
            let container_instance_id = f.opt_text("containerInstanceId");
            let agents = f.objects("agents");
            let agents = f.done(agents)?;
            if agents.len() > HEARTBEATS_MAX {
                return Err(Refusal::invalid("agents", format!("at most {HEARTBEATS_MAX} agents in one report")));
            }
            Command::Heartbeats { container_instance_id, agents: agents.into_iter().map(heartbeat).collect() }
        }
        Route::Checkpoint => {
            f.require(body);
            let data = f.any("data");
            Command::Checkpoint { agent_id: agent_id(), data }
        }
        Route::StatusMessage => {
            f.require(body);
            let message = f.text("message").trim().to_owned();
            if message.is_empty() && body.json().get("message").and_then(Json::as_str).is_some_and(|m| !m.is_empty()) {
                f.wrong("too_small", "message", "must not be blank");
            }
            if message.chars().count() > STATUS_MESSAGE_CHARS {
                f.wrong("too_big", "message", &format!("at most {STATUS_MESSAGE_CHARS} characters"));
            }
            Command::StatusMessage { agent_id: agent_id(), message }
        }
        Route::EvictionContext => {
            f.require(body);
            let (branch, agent_name, saved_at) = (f.text("branch"), f.text("agent_name"), f.text("saved_at"));
            Command::EvictionContext { agent_id: agent_id(), branch, agent_name, saved_at }
        }
        Route::ReadMail => Command::ReadMail { agent_id: agent_id() },
        Route::SendMail => {
            let mut f = Fields::required(body);
            let from_agent_id = f.text("from_agent_id");
            let (to_agent_id, subject, body) = (f.text("to_agent_id"), f.text("subject"), f.text("body"));
            let command = Command::SendMail { from_agent_id: from_agent_id.clone(), to_agent_id, subject, body };
            let command = f.done(command)?;
            speaks_for(actor, "from_agent_id", &from_agent_id)?;
            command
        }
        Route::MayorMail => {
            let mut f = Fields::required(body);
            let (from_agent_id, to_agent_id) = (f.text("from_agent_id"), f.text("to_agent_id"));
            f.text("rig_id");
            let (subject, body) = (f.text("subject"), f.text("body"));
            let from = from_agent_id.clone();
            let command = f.done(Command::MayorMail { from_agent_id, to_agent_id, subject, body })?;
            speaks_for(actor, "from_agent_id", &from)?;
            command
        }
        Route::UiAction | Route::MayorUiAction => {
            f.require(body);
            let action = f.any("action");
            Command::UiAction { action }
        }
        Route::MessageMayor | Route::InternalMessage => {
            f.require(body);
            let message = f.text("message");
            let ui_context = f.opt_text("uiContext");
            if ui_context.as_ref().is_some_and(|c| c.chars().count() > CONTEXT_CHARS) {
                f.wrong("too_big", "uiContext", &format!("at most {CONTEXT_CHARS} characters"));
            }
            Command::MessageMayor { message, ui_context }
        }
        Route::EnsureMayor => Command::EnsureMayor,
        Route::MayorStatus => Command::MayorStatus,
        Route::ConfigureMayor => Command::ConfigureMayor,
        Route::MayorCompleted => {
            f.require(body);
            let (status, reason) = (f.word("status", &["completed", "failed"]), f.opt_text("reason"));
            Command::MayorCompleted { status, reason }
        }
        Route::DestroyMayor => Command::DestroyMayor,
        Route::DashboardContext => {
            f.require(body);
            let context = f.short_text("context", CONTEXT_CHARS);
            Command::DashboardContext { context }
        }
        Route::MayorId => Command::MayorId,
        Route::Waiting => {
            // As a heartbeat: what cannot be read is as if it had not been said.
            Command::Waiting { agent_id: agent_id(), fired_at: body.json().get("firedAt").and_then(Json::as_i64) }
        }
        Route::Nudge => {
            f.require(body);
            let (target, message) = (AgentId(f.text("target_agent_id")), f.text("message"));
            let mode = f.opt_word("mode", &["wait-idle", "immediate", "queue"]);
            Command::Nudge { target, message, mode }
        }
        Route::PendingNudges | Route::MayorNudges => Command::PendingNudges { agent_id: agent_id() },
        Route::NudgeDelivered => {
            f.require(body);
            let nudge_id = f.text("nudge_id");
            Command::NudgeDelivered { agent_id: agent_id(), nudge_id }
        }
        Route::ListMail => Command::ListMail { to: query.text("to"), page: page()? },
        Route::CompleteReview => {
            f.require(body);
            let status = f.word("status", &["merged", "failed", "conflict"]);
            let message = f.opt_text("message");
            if message.is_none() && !f.has("message") {
                f.wrong("invalid_type", "message", "required: a string");
            }
            let commit_sha = f.opt_text("commit_sha");
            let entry_id = BeadId::from(matched.param("entry"));
            Command::CompleteReview { entry_id, status, message: message.unwrap_or_default(), commit_sha }
        }
        Route::SubmitReview => {
            f.require(body);
            let agent_id = AgentId(acting_agent(&mut f, actor)?);
            let (bead_id, branch, summary) = (BeadId(f.text("bead_id")), f.text("branch"), f.opt_text("summary"));
            let pr_url = f.opt_text("pr_url");
            Command::SubmitReview { rig_id: rig_id(), agent_id, bead_id, branch, pr_url, summary }
        }

        Route::Escalate => {
            f.require(body);
            let (title, text) = (f.text("title"), f.opt_text("body"));
            let (priority, metadata) = (f.opt_word("priority", PRIORITIES), f.opt_object("metadata"));
            Command::Escalate { rig_id: rig_id(), title, body: text, priority, metadata }
        }
        Route::ResolveTriage => {
            f.require(body);
            let request_id = BeadId(f.text("triage_request_bead_id"));
            let (action, notes) = (f.text("action"), f.opt_text("resolution_notes").unwrap_or_default());
            Command::ResolveTriage { request_id, action, notes }
        }
        Route::AttachMolecule => {
            f.require(body);
            let (bead_id, formula) = (BeadId(f.text("bead_id")), f.opt_object("formula").unwrap_or_default());
            Command::AttachMolecule { rig_id: rig_id(), bead_id, formula }
        }
        Route::CurrentStep => Command::CurrentStep { agent_id: agent_id() },
        Route::AdvanceStep => {
            f.require(body);
            let summary = f.short_text("summary", STEP_SUMMARY_CHARS);
            Command::AdvanceStep { agent_id: agent_id(), summary }
        }
        Route::ListEscalations => {
            Command::ListEscalations { acknowledged: query.get("acknowledged").map(|v| v == "true") }
        }
        Route::AcknowledgeEscalation | Route::MayorAcknowledge => {
            Command::AcknowledgeEscalation { escalation_id: BeadId::from(matched.param("escalation")) }
        }
        Route::ListNotifications => Command::ListNotifications { page: page()? },
        Route::TestNotification => Command::TestNotification,

        Route::GetDispatch => Command::GetDispatch,
        Route::Explain => Command::Explain { bead_id: bead_id() },
        Route::BeadAttempts => {
            let bead_id = Some(matched.param("bead").to_owned());
            Command::ListAttempts { filter: AttemptFilter { bead_id, ..attempt_filter(query)? } }
        }
        Route::ListAttempts => Command::ListAttempts { filter: attempt_filter(query)? },
        Route::ListBreakers => Command::ListBreakers,
        Route::GetBreaker => Command::GetBreaker { scope: scope() },
        Route::OverrideBreaker => {
            f.require(body);
            let mode = f.text("mode");
            let (reason, expires_in_ms) = (f.opt_text("reason"), f.opt_int("expires_in_ms"));
            Command::OverrideBreaker { scope: scope(), mode, reason, expires_in_ms }
        }
        Route::ProbeBreaker => Command::ProbeBreaker { scope: scope() },
        Route::ListAudit => Command::ListAudit { page: page()? },
        Route::DebugStatus => Command::DebugStatus,
        Route::DebugNudges => Command::Debug { at: Look::Nudges },
        Route::DebugBead => Command::Debug { at: Look::Bead(bead_id()) },
        Route::DebugRigs => Command::Debug { at: Look::Rigs },
        Route::DebugConvoys => Command::Debug { at: Look::Convoys },

        Route::ContainerEviction => Command::ContainerEviction,
        Route::ContainerReady => match body.json().get("nonce").and_then(Json::as_str) {
            Some(nonce) if !nonce.is_empty() => Command::ContainerReady { nonce: nonce.to_owned() },
            _ => return Err(Refusal::bad_query("Missing required field: nonce")),
        },
        Route::DrainStatus | Route::DebugDrain => Command::DrainStatus,
        Route::ReadRegistry => Command::ReadRegistry { container_instance_id: query.text("containerInstanceId") },
        Route::WriteRegistry => match body.json() {
            Json::Array(entries) => Command::WriteRegistry { entries: entries.clone() },
            _ => return Err(Refusal::bad_query("The body must be a JSON array of {agentId, request, workdir, env}")),
        },
        Route::RefreshGitToken => Command::GitToken { rig_id: rig_id() },
    };
    f.done(Some(command))
}

fn object(body: &Body) -> Result<Json, Refusal> {
    Fields::required(body).done(body.json().clone())
}

fn new_bead(f: &mut Fields<'_>) -> NewBead {
    NewBead {
        kind: None,
        title: f.text("title"),
        body: f.opt_text("body"),
        priority: f.opt_word("priority", PRIORITIES),
        labels: f.texts("labels"),
        metadata: f.opt_object("metadata"),
        depends_on: f.opt_uuids("depends_on").unwrap_or_default(),
        assignee_agent_id: f.opt_text("assignee_agent_id"),
    }
}

fn sling_batch(body: &Body) -> Result<Command, Refusal> {
    let mut f = Fields::required(body);
    let (rig_id, title) = (RigId(f.text("rig_id")), f.text("convoy_title"));
    let (merge_mode, staged) = (f.opt_word("merge_mode", MERGE_MODES), f.opt_flag("staged"));
    let (parallel, metadata) = (f.flag("parallel"), f.opt_object("metadata"));
    let list = f.objects("tasks");
    sized(&mut f, "tasks", list.len());
    let mut tasks = Vec::new();
    for (i, task) in list.into_iter().take(CONVOY_TASKS).enumerate() {
        let mut part = Fields::of(task);
        let bead = NewBead {
            title: part.text("title"),
            body: part.opt_text("body"),
            priority: part.opt_word("priority", PRIORITIES),
            labels: part.texts("labels"),
            ..NewBead::default()
        };
        tasks.push(Task { bead, depends_on: part.places("depends_on") });
        f.took(&format!("tasks.{i}"), part);
    }
    let ordered = parallel || tasks.len() == 1 || tasks.iter().any(|t| !t.depends_on.is_empty());
    let batch = f.done(Batch { title, tasks, merge_mode, staged, metadata })?;
    if !ordered {
        return Err(Refusal::bad_query(
            "Say with depends_on which tasks wait for which, or with parallel: true that none does",
        ));
    }
    Ok(Command::SlingBatch { rig_id, batch })
}

/// As many entries as a convoy may have tasks.
fn sized(f: &mut Fields<'_>, key: &str, len: usize) {
    if len == 0 {
        f.wrong("too_small", key, "must not be empty");
    }
    if len > CONVOY_TASKS {
        f.wrong("too_big", key, &format!("at most {CONVOY_TASKS} tasks"));
    }
}

fn bead_patch(body: &Body) -> Result<BeadPatch, Refusal> {
    const KEYS: [&str; 9] =
        ["title", "body", "priority", "labels", "status", "metadata", "rig_id", "parent_bead_id", "depends_on"];
    let mut f = Fields::required(body);
    if body.json().is_object() && !KEYS.iter().any(|k| f.has(k)) {
        f.wrong("too_small", "", &format!("expected at least one of {}", KEYS.join(", ")));
    }
    let patch = BeadPatch {
        title: f.opt_filled("title"),
        body: f.clearable("body"),
        priority: f.opt_word("priority", PRIORITIES),
        labels: f.opt_texts("labels"),
        status: f.opt_word("status", BEAD_STATUSES),
        metadata: f.opt_object("metadata"),
        rig_id: f.clearable("rig_id"),
        parent_bead_id: f.clearable("parent_bead_id"),
        depends_on: f.opt_uuids("depends_on"),
    };
    f.done(patch)
}

/// The `agent_id` of a body. An agent that names itself in the header need not repeat it.
fn acting_agent(f: &mut Fields<'_>, actor: &Actor) -> Result<String, Refusal> {
    if f.has("agent_id") {
        let named = f.text("agent_id");
        if !named.is_empty() {
            speaks_for(actor, "agent_id", &named)?;
        }
        return Ok(named);
    }
    match actor.agent() {
        Some(agent) => Ok(agent.0.clone()),
        None => Ok(f.text("agent_id")),
    }
}

fn heartbeat(body: &Json) -> Heartbeat {
    let text = |key: &str| body.get(key).and_then(Json::as_str).map(str::to_owned);
    let tools = |list: &Vec<Json>| list.iter().filter_map(Json::as_str).map(str::to_owned).collect();
    Heartbeat {
        agent_id: text("agentId"),
        status: text("status"),
        last_event_type: text("lastEventType"),
        last_event_at: text("lastEventAt"),
        active_tools: body.get("activeTools").and_then(Json::as_array).map(tools),
        container_instance_id: text("containerInstanceId"),
        dispatch_id: text("dispatchId"),
    }
}

fn filter(query: &Query, key: &str, words: &[&str]) -> Result<Option<String>, ()> {
    match query.get(key) {
        Some(word) if !words.contains(&word) => Err(()),
        word => Ok(word.map(str::to_owned)),
    }
}

fn bead_filter(query: &Query) -> Result<BeadFilter, Refusal> {
    let wrong = || Refusal::bad_query("Invalid status or type filter");
    let count =
        |key: &str| query.count(key).map_err(|_| Refusal::bad_query("limit and offset must be non-negative integers"));
    Ok(BeadFilter {
        status: filter(query, "status", BEAD_STATUSES).map_err(|()| wrong())?,
        kind: filter(query, "type", BEAD_TYPES).map_err(|()| wrong())?,
        assignee: query.text("assignee_agent_bead_id").or_else(|| query.text("assignee_agent_id")),
        limit: count("limit")?,
        offset: count("offset")?,
    })
}

fn attempt_filter(query: &Query) -> Result<AttemptFilter, Refusal> {
    Ok(AttemptFilter {
        bead_id: None,
        outcome: query.text("outcome"),
        class: query.text("class"),
        code: query.text("code"),
        fingerprint: query.text("fingerprint"),
        rig_id: query.text("rig_id"),
        since: query.text("since"),
        before: query.text("before"),
        limit: query.limit()?,
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
