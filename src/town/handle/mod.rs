//! `handle`: one arm per command. Each arm checks everything before it writes anything; the savepoint around it undoes
//! what a refusal had written all the same.

mod agents;
mod attempts;
mod beads;
mod by_hand;
mod convoys;
mod mayor;
mod overrides;
mod reviews;
mod tools;
mod towns;
mod triage;

pub(super) use towns::check_branch;

use super::Ctx;
use super::Reply;
use super::command::{Actor, Command};
use super::config::Config;
use super::dispatch::late::{self, Completion, Work};
use super::error::{Cause, TownError};
use super::id::{AgentId, RigId};
use super::policy::{HEARTBEATS_MAX, INSTANCE_BYTES, MESSAGE_BYTES, NAME_CHARS, SETTING_BYTES, STATUS_MESSAGE_CHARS};
use super::rig;
use super::sql::Sql;
use super::time::Timestamp;
use super::{
    agent, audit, container, convoy, debug, departed, drain, escalation, event, explain, frame, mail, molecule, notify,
    nudge, overview, prime, redrive, registry, review, ui_action,
};
use crate::town::json::json;
use serde_json::Value as Json;

/// Applies one command.
#[allow(clippy::too_many_lines, reason = "one arm per command: the table of what a town can be asked")]
pub fn handle(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, command: Command) -> Result<Reply, TownError> {
    match command {
        Command::Found { town_id, name, owner_user_id } => towns::found(sql, ctx, &town_id, &name, &owner_user_id),
        Command::GetConfig => Reply::quiet(Config::load(sql)?.masked()),
        Command::PatchConfig { patch } => towns::patch_config(sql, ctx, actor, &patch),
        Command::AddRig { rig_id, name, git_url, default_branch } => {
            towns::add_rig(sql, ctx, &rig_id, &name, &git_url, default_branch.as_deref())
        }
        Command::RemoveRig { rig_id } => towns::remove_rig(sql, ctx, actor, &rig_id),
        Command::ListRigs => towns::list_rigs(sql),
        Command::GetRigConfig { rig_id } => Reply::quiet(rig::get(sql, &rig_id)?.config.shown()),
        Command::PatchRigConfig { rig_id, patch } => towns::patch_rig_config(sql, ctx, actor, &rig_id, &patch),

        Command::CreateBead { rig_id, bead } => beads::create(sql, ctx, actor, &rig_id, bead),
        Command::Sling { rig_id, bead } => beads::sling(sql, ctx, actor, &rig_id, bead),
        Command::GetBead { rig_id, bead_id } => beads::get(sql, rig_id.as_ref(), &bead_id),
        Command::ListBeads { rig_id, filter } => beads::list(sql, &rig_id, &filter),
        Command::UpdateBead { rig_id, bead_id, patch } => beads::update(sql, ctx, actor, &rig_id, &bead_id, &patch),
        Command::SetBeadStatus { rig_id, bead_id, status } => {
            by_hand::set_status(sql, ctx, actor, Some(&rig_id), &bead_id, &status)
        }
        Command::CloseBead { rig_id: _, bead_id, agent_id } => {
            capped("agent_id", &agent_id, SETTING_BYTES)?;
            by_hand::close(sql, ctx, actor, &bead_id, &AgentId(agent_id))
        }
        Command::CancelBead { bead_id, reason } => by_hand::cancel(sql, ctx, actor, &bead_id, &reason),
        Command::DeleteBead { rig_id, bead_id } => by_hand::delete(sql, ctx, actor, &rig_id, &bead_id),
        Command::MayorDeleteBead { rig_id, bead_id } => tools::delete(sql, ctx, actor, &rig_id, &bead_id),
        Command::DeleteBeads { rig_id, bead_ids } => tools::delete_many(sql, ctx, actor, &rig_id, &bead_ids),
        Command::DeleteByStatus { rig_id, status, kind } => {
            tools::delete_by_status(sql, ctx, actor, &rig_id, &status, kind.as_deref())
        }
        Command::Reassign { rig_id, bead_id, agent_id } => {
            tools::reassign(sql, ctx, actor, &rig_id, &bead_id, &agent_id)
        }
        Command::RedriveBead { bead_id, reason } => {
            let reason = reason.unwrap_or_else(|| "redriven by hand".to_owned());
            capped("reason", &reason, MESSAGE_BYTES)?;
            Reply::ok(redrive::one(sql, ctx, actor, &bead_id, &reason)?)
        }
        Command::Redrive { fingerprint, rig_id, limit, dry_run, reason } => {
            capped("reason", &reason, MESSAGE_BYTES)?;
            let ask = redrive::Many {
                fingerprint: fingerprint.as_deref(),
                rig_id: rig_id.as_ref(),
                limit,
                dry_run,
                reason: &reason,
            };
            Reply::ok(redrive::many(sql, ctx, actor, &ask)?)
        }
        Command::ListEvents { bead_id, since, limit } => {
            let since = since.as_deref().map(|s| moment("since", s)).transpose()?;
            Reply::quiet(event::list(sql, bead_id.as_ref(), since, limit)?)
        }

        Command::SlingBatch { rig_id, batch } => convoys::sling_batch(sql, ctx, actor, &rig_id, batch),
        Command::CreateConvoy { title, beads } => convoys::create(sql, ctx, actor, &title, &beads),
        Command::ConvoyBeadClosed { convoy_id, bead_id } => convoys::bead_closed(sql, ctx, &convoy_id, &bead_id),
        Command::ListConvoys => Reply::quiet(convoy::list(sql)?),
        Command::GetConvoy { convoy_id } => convoys::get(sql, &convoy_id),
        Command::StartConvoy { convoy_id } => convoys::start(sql, ctx, actor, &convoy_id),
        Command::CloseConvoy { convoy_id } => convoys::close(sql, ctx, actor, &convoy_id),
        Command::PatchConvoy { convoy_id, merge_mode, feature_branch } => {
            convoys::patch(sql, ctx, actor, &convoy_id, merge_mode.as_deref(), feature_branch.as_deref())
        }
        Command::AddToConvoy { convoy_id, bead_id, depends_on } => {
            convoys::add(sql, ctx, &convoy_id, &bead_id, &depends_on)
        }
        Command::RemoveFromConvoy { convoy_id, bead_id } => convoys::remove(sql, ctx, &convoy_id, &bead_id),

        Command::CreateAgent { rig_id, role, name, identity } => {
            agents::create(sql, ctx, &rig_id, &role, &name, &identity)
        }
        Command::GetOrCreateAgent { rig_id, role } => agents::get_or_create(sql, ctx, &rig_id, &role),
        Command::ListAgents { rig_id, role, status } => {
            agents::list(sql, ctx, &rig_id, role.as_deref(), status.as_deref())
        }
        Command::GetAgent { rig_id, agent_id } => agents::show(sql, ctx, &rig_id, &agent_id),
        Command::DeleteAgent { rig_id, agent_id } => agents::delete(sql, ctx, actor, &rig_id, &agent_id),
        Command::ResetAgent { rig_id, agent_id } => tools::reset(sql, ctx, actor, &rig_id, &agent_id),
        Command::Hook { rig_id: _, agent_id, bead_id } => agents::hook(sql, ctx, &agent_id, &bead_id),
        Command::Unhook { rig_id: _, agent_id } => agents::unhook(sql, ctx, actor, &agent_id),
        Command::Prime { agent_id } => {
            let late = late::is_late(sql, &agent_id, actor)?;
            Reply::quiet(prime::prime(sql, ctx, &agent_id, late)?)
        }
        Command::Done { agent_id, branch, pr_url, summary } => {
            if let Some(branch) = &branch {
                towns::check_branch("branch", branch)?;
            }
            capped("summary", summary.as_deref().unwrap_or_default(), MESSAGE_BYTES)?;
            let work = Work { branch: branch.as_deref(), pr_url: pr_url.as_deref(), summary: summary.as_deref() };
            late::done(sql, ctx, actor, &agent_id, &work)?;
            Reply::ok(json!({"done": true}))
        }
        Command::RequestChanges { agent_id, feedback, files } => {
            reviews::request_changes(sql, ctx, actor, &agent_id, &feedback, &files)
        }
        Command::Completed { agent_id, status, reason, phase, model_status } => {
            let said = Completion { status: &status, reason: reason.as_deref(), phase: phase.as_deref(), model_status };
            late::completed(sql, ctx, actor, &agent_id, &said)?;
            Reply::ok(json!({"completed": true}))
        }
        Command::Heartbeat { agent_id, mut body } => {
            if body.dispatch_id.is_none() {
                body.dispatch_id = actor.dispatch().map(str::to_owned);
            }
            heard(late::heartbeat(sql, ctx, &agent_id, &body)?)
        }
        Command::Heartbeats { container_instance_id, agents } => {
            heartbeats(sql, ctx, container_instance_id.as_deref(), agents)
        }
        Command::Checkpoint { agent_id, data } => {
            agent::get(sql, &agent_id)?;
            capped("data", &data.to_string(), super::policy::BODY_BYTES)?;
            late::acted(sql, ctx, &agent_id, actor)?;
            agent::checkpoint(sql, ctx, &agent_id, &data)?;
            Reply::ok(json!({"written": true}))
        }
        Command::StatusMessage { agent_id, message } => {
            let agent = agent::get(sql, &agent_id)?;
            let message = message.trim();
            if message.is_empty() || message.chars().count() > STATUS_MESSAGE_CHARS {
                return Err(TownError::invalid(
                    "message",
                    format!("message must have 1 … {STATUS_MESSAGE_CHARS} characters after trimming"),
                ));
            }
            late::acted(sql, ctx, &agent_id, actor)?;
            agent::say(sql, ctx, &agent_id, message)?;
            frame::agent_status(ctx, &agent_id, message);
            if let Some(bead) = &agent.hook {
                let rig = agent.rig_id.as_ref().map(|id| rig::find(sql, id)).transpose()?.flatten();
                let what = event::Happening {
                    kind: "agent_status",
                    agent: Some(&agent_id),
                    new: Some(message),
                    metadata: Some(json!({"agentId": agent_id, "message": message, "agent_name": agent.name,
                                          "rig_id": agent.rig_id, "rig_name": rig.map(|r| r.name)})),
                    ..event::Happening::default()
                };
                event::record(sql, ctx, bead, what)?;
            }
            Reply::ok(json!({"ok": true}))
        }
        Command::EvictionContext { agent_id, branch, agent_name, saved_at } => {
            towns::check_branch("branch", &branch)?;
            capped("agent_name", &agent_name, NAME_CHARS * 4)?;
            capped("saved_at", &saved_at, NAME_CHARS)?;
            drain::saved(sql, ctx, actor.dispatch(), &agent_id, &branch, &agent_name, &saved_at)?;
            Reply::ok(json!({"written": true}))
        }
        Command::ReadMail { agent_id } => {
            agent::get(sql, &agent_id)?;
            let late = late::is_late(sql, &agent_id, actor)?;
            Reply::quiet(if late { Vec::new() } else { mail::take(sql, ctx, &agent_id)? })
        }
        Command::SendMail { from_agent_id, to_agent_id, subject, body } => {
            mayor::send(sql, ctx, actor, from_agent_id, &to_agent_id, &subject, &body)?;
            Reply::created(json!({"sent": true}))
        }
        Command::MayorMail { from_agent_id, to_agent_id, subject, body } => {
            mayor::send(sql, ctx, actor, from_agent_id, &to_agent_id, &subject, &body)?;
            Reply::ok(json!({"sent": true}))
        }
        Command::ListMail { to, page } => {
            let to = to.as_deref().map(|t| mail::address(sql, t)).transpose()?;
            Reply::quiet(mail::list(sql, to.as_ref(), &page)?)
        }
        Command::MessageMayor { message, ui_context } => {
            mayor::message(sql, ctx, actor, &message, ui_context.as_deref())
        }
        Command::EnsureMayor => Reply::ok(super::mayor::ensure(sql, ctx, actor)?),
        Command::MayorStatus => Reply::quiet(super::mayor::status(sql, ctx)?),
        Command::ConfigureMayor => Reply::quiet(json!({"configured": true})),
        Command::MayorCompleted { status, reason } => mayor::completed(sql, ctx, actor, &status, reason.as_deref()),
        Command::DestroyMayor => {
            super::mayor::destroy(sql, ctx, actor)?;
            Reply::ok(json!({"destroyed": true}))
        }
        Command::DashboardContext { context } => {
            super::mayor::show(sql, ctx, &context)?;
            Reply::quiet(json!({"stored": true}))
        }
        Command::UiAction { action } => Reply::quiet(ui_action::show(sql, ctx, &action)?),
        Command::MayorId => Reply::quiet(super::mayor::id(sql)?),
        Command::Waiting { agent_id, fired_at } => {
            super::mayor::waiting(sql, ctx, actor, &agent_id, fired_at)?;
            Reply::ok(json!({"acknowledged": true}))
        }
        Command::Nudge { target, message, mode } => mayor::nudge(sql, ctx, actor, &target, &message, mode.as_deref()),
        Command::PendingNudges { agent_id } => Reply::quiet(nudge::pending(sql, ctx.now, &agent_id)?),
        Command::NudgeDelivered { agent_id, nudge_id } => {
            nudge::delivered(sql, ctx, &agent_id, &nudge_id)?;
            Reply::quiet(json!({"marked": true}))
        }
        Command::CompleteReview { entry_id, status, message, commit_sha } => {
            let verdict = review::Verdict::parse(&status)
                .ok_or_else(|| TownError::invalid("status", "status must be merged, failed or conflict"))?;
            capped("commit_sha", commit_sha.as_deref().unwrap_or_default(), NAME_CHARS)?;
            review::complete(sql, ctx, &entry_id, verdict, &message, commit_sha.as_deref())?;
            Reply::ok(json!({"completed": true}))
        }
        Command::SubmitReview { rig_id, agent_id, bead_id, branch, pr_url, summary } => {
            let work = Work { branch: Some(&branch), pr_url: pr_url.as_deref(), summary: summary.as_deref() };
            reviews::submit(sql, ctx, actor, &rig_id, &agent_id, &bead_id, &branch, &work)
        }

        Command::KnowsAgent { agent_id } => {
            departed::knows(sql, &agent_id)?;
            Reply::quiet(json!({"known": true}))
        }

        Command::Escalate { rig_id, title, body, priority, metadata } => {
            agents::escalate(sql, ctx, actor, &rig_id, &title, body.as_deref(), priority.as_deref(), metadata)
        }
        Command::ResolveTriage { request_id, action, notes } => {
            triage::resolve(sql, ctx, actor, &request_id, &action, &notes)
        }
        Command::AttachMolecule { rig_id, bead_id, formula } => {
            let bead = beads::in_rig(sql, Some(&rig_id), &bead_id)?;
            Reply::created(molecule::attach(sql, ctx, &actor.label(), &bead, &formula)?)
        }
        Command::CurrentStep { agent_id } => Reply::quiet(molecule::current(sql, &agent_id)?),
        Command::AdvanceStep { agent_id, summary } => {
            filled("summary", &summary, MESSAGE_BYTES * 2)?;
            let molecule = molecule::advance(sql, ctx, &agent_id, &summary)?;
            late::acted(sql, ctx, &agent_id, actor)?;
            Reply::ok(molecule)
        }
        Command::ListEscalations { acknowledged } => Reply::quiet(escalation::list(sql, acknowledged)?),
        Command::AcknowledgeEscalation { escalation_id } => {
            Reply::ok(escalation::acknowledge(sql, ctx, actor, &escalation_id)?)
        }
        Command::ListNotifications { page } => Reply::quiet(notify::list(sql, &page)?),
        Command::TestNotification => Reply::created(notify::test(sql, ctx, &Config::load(sql)?)?),

        Command::GetDispatch => Reply::quiet(overview::dispatch(sql, ctx)?),
        Command::Explain { bead_id } => Reply::quiet(explain::explain(sql, ctx, &bead_id)?),
        Command::ListAttempts { filter } => attempts::list(sql, ctx, &filter),
        Command::ListBreakers => overrides::list(sql, ctx),
        Command::GetBreaker { scope } => overrides::get(sql, ctx, &scope),
        Command::OverrideBreaker { scope, mode, reason, expires_in_ms } => {
            overrides::set(sql, ctx, actor, &scope, &mode, reason.as_deref(), expires_in_ms)
        }
        Command::ProbeBreaker { scope } => overrides::probe(sql, ctx, actor, &scope),
        Command::ListAudit { page } => Reply::quiet(audit::list(sql, &page)?),
        Command::Snapshot => Reply::quiet(overview::snapshot(sql, ctx)?),
        Command::Debug { at } => Reply::quiet(debug::look(sql, &at)?),
        Command::DebugStatus => Reply::quiet(overview::debug(sql, ctx)?),

        Command::ContainerEviction => Reply::ok(drain::begin(sql, ctx)?),
        Command::ContainerReady { nonce } => Reply::ok(drain::ready(sql, ctx, &nonce)?),
        Command::DrainStatus => Reply::quiet(drain::status(sql, ctx)?),
        Command::ReadRegistry { container_instance_id: id } => {
            let id = id.as_deref().filter(|id| (1..=INSTANCE_BYTES).contains(&id.len()));
            Reply::ok(registry::read(sql, ctx, id)?)
        }
        Command::WriteRegistry { entries } => Reply::quiet(registry::store(sql, ctx, entries)?),
        Command::GitToken { rig_id } => Reply::quiet(container::git_token(sql, &rig_id)?),
        Command::ContainerExited { instance, exit_code, reason } => {
            container::exited(sql, ctx, instance.as_deref(), exit_code, &reason)?;
            Reply::ok(json!({"noted": true}))
        }
        Command::ContainerNeeded => Reply::quiet(container::needed(sql)?),
    }
}

fn heartbeats(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    instance: Option<&str>,
    agents: Vec<super::command::Heartbeat>,
) -> Result<Reply, TownError> {
    if agents.len() > HEARTBEATS_MAX {
        return Err(TownError::invalid("agents", format!("at most {HEARTBEATS_MAX} heartbeats at once")));
    }
    if let Some(pulses) = ctx.pulses.filter(|_| agents.len() > 1) {
        // All rows in one statement, or none if nothing was written since they were read.
        pulses.refresh(sql)?;
    }
    let mut all = late::Beat { quiet: true, drain_nonce: None };
    for mut body in agents {
        let Some(agent) = body.agent_id.clone().filter(|a| !a.is_empty()) else {
            return Err(TownError::invalid("agents", "every heartbeat needs an agentId"));
        };
        if body.container_instance_id.is_none() {
            body.container_instance_id = instance.map(str::to_owned);
        }
        match late::heartbeat(sql, ctx, &AgentId(agent), &body) {
            Ok(beat) => {
                all.quiet &= beat.quiet;
                all.drain_nonce = all.drain_nonce.or(beat.drain_nonce);
            }
            // It names another agent's dispatch: of no effect, and none of the others' business.
            Err(e) if matches!(e.cause(), Cause::Forbidden(_)) => {}
            Err(e) => return Err(e),
        }
    }
    heard(all)
}

/// `{heartbeat: true, drainNonce?}`.
fn heard(beat: late::Beat) -> Result<Reply, TownError> {
    let mut data = json!({"heartbeat": true});
    if let (Some(nonce), Some(map)) = (beat.drain_nonce, data.as_object_mut()) {
        map.insert("drainNonce".to_owned(), json!(nonce));
    }
    let reply = Reply::ok(data)?;
    Ok(if beat.quiet { reply.quietly() } else { reply })
}

/// 422 if `text` is longer than `cap` bytes.
fn capped(field: &str, text: &str, cap: usize) -> Result<(), TownError> {
    if text.len() > cap {
        return Err(TownError::invalid(field, format!("{field} has {} bytes; at most {cap} are kept", text.len())));
    }
    Ok(())
}

/// 422 unless `text` has 1 … `cap` bytes beside white space.
fn filled(field: &str, text: &str, cap: usize) -> Result<(), TownError> {
    if text.trim().is_empty() {
        return Err(TownError::invalid(field, format!("{field} must not be empty")));
    }
    capped(field, text, cap)
}

/// 422 unless `text` is an RFC 3339 time.
fn moment(field: &str, text: &str) -> Result<Timestamp, TownError> {
    Timestamp::parse(text).ok_or_else(|| TownError::invalid(field, format!("{field} must be an RFC 3339 time")))
}

/// The rig of a route, which must exist unless it is the mayor's pseudo rig.
fn known_rig(sql: &dyn Sql, id: &RigId) -> Result<(), TownError> {
    if rig::is_mayors(id) {
        return Ok(());
    }
    rig::get(sql, id).map(|_| ())
}

/// A JSON object or nothing; 422 otherwise.
fn object(field: &str, value: Option<Json>, cap: usize) -> Result<Json, TownError> {
    match value {
        None | Some(Json::Null) => Ok(json!({})),
        Some(v @ Json::Object(_)) => {
            capped(field, &v.to_string(), cap)?;
            Ok(v)
        }
        Some(_) => Err(TownError::invalid(field, format!("{field} must be a JSON object"))),
    }
}
