//! Commands about reviews: submitting a branch, and asking for changes.

use super::super::Ctx;
use super::super::Reply;
use super::super::agent;
use super::super::bead::{self, Kind};
use super::super::command::Actor;
use super::super::dispatch::attempt;
use super::super::dispatch::late::{self, Work};
use super::super::error::TownError;
use super::super::id::{AgentId, BeadId, RigId};
use super::super::policy::{BODY_BYTES, MESSAGE_BYTES, METADATA_BYTES, REWORK_FILES_MAX};
use super::super::review::{self, pull_request, rework};
use super::super::sql::Sql;
use super::{capped, filled, towns};
use crate::town::json::json;

/// `POST review-queue`: as `done` with a branch, without ending the attempt of another agent.
#[allow(clippy::too_many_arguments, reason = "the body's fields")]
pub fn submit(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: &RigId,
    agent_id: &AgentId,
    bead_id: &BeadId,
    branch: &str,
    work: &Work<'_>,
) -> Result<Reply, TownError> {
    let mut source = super::beads::in_rig(sql, Some(rig_id), bead_id)?;
    towns::check_branch("branch", branch)?;
    capped("summary", work.summary.unwrap_or_default(), MESSAGE_BYTES)?;
    if let Some(url) = work.pr_url {
        pull_request::check(sql, Some(rig_id), false, url)?;
    }
    let live = attempt::live_of_bead(sql, bead_id)?;
    if live.as_ref().is_some_and(|a| a.agent == *agent_id) {
        late::done(sql, ctx, actor, agent_id, work)?;
    } else if let Some(live) = live {
        return Err(TownError::conflict(
            "in_progress",
            format!("Agent {} is working on bead {bead_id}; only it can submit it", live.agent),
        ));
    } else {
        let state = source.status.as_str();
        if source.kind != Kind::Issue {
            let kind = source.kind.as_str();
            return Err(TownError::conflict(state, format!("A bead of type {kind} is not submitted for review")));
        }
        if source.status.is_final() {
            return Err(TownError::conflict(
                state,
                format!("Bead {bead_id} is {state}; nothing can be submitted for it"),
            ));
        }
        if let Some(holder) = agent::hooked_to(sql, bead_id)? {
            agent::unhook(sql, ctx, &holder.id, bead_id, "submitted for review")?;
            source = bead::get(sql, bead_id)?;
        }
        review::submit(sql, ctx, &mut source, Some(agent_id), branch, work)?;
    }
    Reply::created(json!({"submitted": true}))
}

/// `POST agents/:a/request-changes`: 201 with the rework bead; 200 without one if the rounds are used up, and source and
/// merge request have failed.
pub fn request_changes(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    agent: &AgentId,
    feedback: &str,
    files: &[String],
) -> Result<Reply, TownError> {
    filled("feedback", feedback, BODY_BYTES)?;
    if files.len() > REWORK_FILES_MAX {
        return Err(TownError::invalid("files", format!("at most {REWORK_FILES_MAX} files can be named")));
    }
    capped("files", &json!(files).to_string(), METADATA_BYTES / 2)?;
    match rework::request_changes(sql, ctx, actor, agent, feedback, files)? {
        Some(bead) => Reply::created(json!({"rework_bead_id": bead})),
        None => Reply::ok(json!({"rework_bead_id": null, "exhausted": true})),
    }
}
