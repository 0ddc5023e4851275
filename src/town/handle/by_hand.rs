//! Transitions by hand: status, close, cancel, delete (`api.md`, *By-hand status changes*).

use super::super::Reply;
use super::super::agent;
use super::super::bead::{self, Bead, Because, FailureReason, Kind, Status};
use super::super::command::Actor;
use super::super::dependency;
use super::super::dispatch::attempt;
use super::super::dispatch::finish::{End, Then, finish};
use super::super::dispatch::late::{self, Work};
use super::super::dispatch::stops::{self, When};
use super::super::error::TownError;
use super::super::id::{AgentId, BeadId, RigId};
use super::super::policy::MESSAGE_BYTES;
use super::super::review::pull_request::{self, FORGE};
use super::super::review::rework;
use super::super::sql::Sql;
use super::super::{Ctx, audit, convoy, escalation, molecule, review};
use super::beads::in_rig;
use super::filled;
use crate::town::json::json;

/// `PATCH …/status`: the table of `api.md`.
pub fn set_status(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: Option<&RigId>,
    id: &BeadId,
    status: &str,
) -> Result<Reply, TownError> {
    let bead = in_rig(sql, rig_id, id)?;
    let to = Status::parse(status)
        .ok_or_else(|| TownError::malformed("status must be open, in_progress, in_review, closed or failed"))?;
    if bead.status == to {
        return Reply::quiet(bead);
    }
    match (bead.status, to) {
        (Status::Closed, _) => {
            return Err(TownError::conflict("closed", format!("Bead {id} is closed, and a closed bead never changes")));
        }
        (Status::Failed, _) => {
            return Err(TownError::conflict("failed", format!("Bead {id} is failed; use redrive to bring it back")));
        }
        (_, Status::InProgress | Status::InReview) => {
            return Err(TownError::invalid(
                "status",
                format!("{status} is reached by dispatch and review only; set open, closed or failed"),
            ));
        }
        (Status::Open | Status::InProgress | Status::InReview, Status::Open) => reopen(sql, ctx, actor, &bead)?,
        (Status::Open | Status::InProgress | Status::InReview, Status::Closed) => {
            end(sql, ctx, actor, &bead, Status::Closed, "closed by hand")?;
        }
        (Status::Open | Status::InProgress | Status::InReview, Status::Failed) => {
            end(sql, ctx, actor, &bead, Status::Failed, "failed by hand")?;
        }
    }
    Reply::ok(bead::get(sql, id)?)
}

/// `in_progress` or `in_review` → `open`: the attempt ends, the review ends, and the bead is due again.
fn reopen(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, bead: &Bead) -> Result<(), TownError> {
    let label = actor.label();
    let reason = format!("re-opened by {label}");
    if let Some(attempt) = attempt::live_of_bead(sql, &bead.id)? {
        stops::owe(sql, ctx, &attempt, When::Now)?;
        finish(sql, ctx, &attempt, End::Cancelled(reason.clone(), Then::Requeue(None)))?;
    }
    review::end_of_source(sql, ctx, &bead.id, Status::Closed, &reason)?;
    let mut bead = bead::get(sql, &bead.id)?;
    if matches!(bead.status, Status::InProgress | Status::InReview) {
        bead::transition(sql, ctx, &mut bead, Status::Open, Because::of(&label, &reason))?;
        pull_request::resumed(sql, ctx, &mut bead, false)?;
    }
    // At its cap it has failed instead.
    audit_status(sql, ctx, actor, &bead.id, bead.status.as_str(), &reason)
}

/// Any live bead → `closed` or `failed`: attempt and merge requests end with it, its agent is freed, and the tasks of a
/// convoy that have not ended end in the same way.
pub fn end(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    bead: &Bead,
    to: Status,
    reason: &str,
) -> Result<(), TownError> {
    if bead.kind == Kind::Convoy {
        convoy::let_go(sql, &bead.id)?;
    }
    review::end_attempt(sql, ctx, &bead.id, reason)?;
    review::end_of_source(sql, ctx, &bead.id, to, reason)?;
    if let Some(agent) = agent::hooked_to(sql, &bead.id)? {
        agent::unhook(sql, ctx, &agent.id, &bead.id, reason)?;
    }
    let label = actor.label();
    let failure = (to == Status::Failed).then(|| FailureReason {
        code: "cancelled".to_owned(),
        message: reason.to_owned(),
        source: label.clone(),
    });
    let mut bead = bead::get(sql, &bead.id)?;
    sql.execute(
        "UPDATE beads SET next_dispatch_at = NULL, review_not_before = NULL, not_before = NULL WHERE bead_id = ?1",
        &[(&bead.id).into()],
    )?;
    bead::transition(sql, ctx, &mut bead, to, Because { failure, ..Because::of(&label, reason) })?;
    if bead.kind == Kind::MergeRequest {
        release_source(sql, ctx, &bead.id, &label, to)?;
        rework::call_off(sql, ctx, &bead.id)?;
    }
    if bead.kind == Kind::Escalation {
        escalation::silence(sql, ctx, &bead.id)?;
    }
    if bead.kind == Kind::Convoy {
        for id in convoy::tasks(sql, &bead.id)? {
            let task = bead::get(sql, &id)?;
            if !task.status.is_final() {
                end(sql, ctx, actor, &task, to, "its convoy was ended by hand")?;
            }
        }
    }
    audit_status(sql, ctx, actor, &bead.id, to.as_str(), reason)
}

/// A merge request ended by hand, or deleted even after its dispatch had failed, leaves nothing that reviews its source:
/// that is open again, unless another merge request of it still waits for a verdict or a redrive.
fn release_source(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &BeadId, actor: &str, to: Status) -> Result<(), TownError> {
    let Some(request) = review::find(sql, mr)? else { return Ok(()) };
    let Some(mut source) = bead::find(sql, &request.source_bead_id)? else { return Ok(()) };
    if source.status != Status::InReview {
        return Ok(());
    }
    for other in review::of_source(sql, &source.id)?.iter().filter(|m| m.bead_id != *mr) {
        let stands = bead::find(sql, &other.bead_id)?.is_some_and(|b| match b.status {
            Status::Open | Status::InProgress => true,
            Status::Failed => b.failure_reason.is_some_and(|f| f.source == "dispatch" || f.source == FORGE),
            Status::InReview | Status::Closed => false,
        });
        if stands {
            return Ok(());
        }
    }
    let reason = format!("its merge request was {} by hand", to.as_str());
    bead::transition(sql, ctx, &mut source, Status::Open, Because::of(actor, &reason))
}

fn audit_status(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    id: &BeadId,
    to: &str,
    reason: &str,
) -> Result<(), TownError> {
    if !actor.is_person() {
        return Ok(());
    }
    audit::record(sql, ctx, actor, "bead.status", id.as_str(), reason, None, Some(&json!({"status": to})))
}

/// `POST …/beads/:b/close`. By the agent that works on it this is `done` without a branch; repeated it is 200.
pub fn close(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &BeadId, agent: &AgentId) -> Result<Reply, TownError> {
    let bead = bead::get(sql, id)?;
    match bead.status {
        Status::Closed => {}
        Status::Failed => {
            return Err(TownError::conflict("failed", format!("Bead {id} is failed; use redrive to bring it back")));
        }
        Status::Open | Status::InProgress | Status::InReview => {
            let live = attempt::live_of_bead(sql, id)?;
            if live.is_some_and(|a| a.agent == *agent) {
                late::done(sql, ctx, actor, agent, &Work::default())?;
            } else {
                end(sql, ctx, actor, &bead, Status::Closed, &format!("closed by {agent}"))?;
            }
        }
    }
    Reply::ok(bead::get(sql, id)?)
}

/// Cancels a bead: its attempt ends (`dispatch.cancelled`), its merge request fails, it is `failed` with code `cancelled`.
pub fn cancel(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &BeadId, reason: &str) -> Result<Reply, TownError> {
    filled("reason", reason, MESSAGE_BYTES)?;
    let bead = bead::get(sql, id)?;
    if bead.status.is_final() {
        let cancelled = bead.failure_reason.as_ref().is_some_and(|f| f.code == "cancelled");
        if cancelled {
            return Reply::quiet(bead);
        }
        return Err(TownError::conflict(
            bead.status.as_str(),
            format!("Bead {id} is {} already", bead.status.as_str()),
        ));
    }
    end(sql, ctx, actor, &bead, Status::Failed, reason)?;
    Reply::ok(bead::get(sql, id)?)
}

/// `DELETE …/beads/:b`: the bead and its merge requests are gone; its attempts stay on record.
pub fn delete(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, rig_id: &RigId, id: &BeadId) -> Result<Reply, TownError> {
    let bead = in_rig(sql, Some(rig_id), id)?;
    if bead.kind == Kind::Convoy && !bead.status.is_final() {
        let text = format!("Convoy {id} is under way; close it before it is deleted");
        return Err(TownError::conflict(bead.status.as_str(), text));
    }
    let before = json!({"title": bead.title, "status": bead.status.as_str(), "type": bead.kind.as_str()});
    erase(sql, ctx, id, "the bead was deleted")?;
    audit::record(sql, ctx, actor, "bead.delete", id.as_str(), "deleted by hand", Some(&before), None)?;
    Reply::ok(json!({"deleted": true}))
}

/// Removes a bead's rows, its merge requests with it; its live attempt ends as cancelled, dependants are freed.
pub fn erase(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId, reason: &str) -> Result<(), TownError> {
    let Some(bead) = bead::find(sql, id)? else { return Ok(()) };
    convoy::forget(sql, ctx, &bead)?;
    if matches!(bead.kind, Kind::Issue | Kind::Convoy) {
        for mr in review::of_source(sql, id)? {
            erase(sql, ctx, &mr.bead_id, reason)?;
        }
    }
    review::end_attempt(sql, ctx, id, reason)?;
    if let Some(agent) = agent::hooked_to(sql, id)? {
        agent::unhook(sql, ctx, &agent.id, id, reason)?;
    }
    if bead.kind == Kind::MergeRequest {
        release_source(sql, ctx, id, "system", Status::Closed)?;
        rework::call_off(sql, ctx, id)?;
    }
    review::forget(sql, id)?;
    molecule::forget(sql, id)?;
    sql.execute("DELETE FROM beads WHERE bead_id = ?1", &[id.into()])?;
    sql.execute("DELETE FROM escalations WHERE bead_id = ?1", &[id.into()])?;
    dependency::forget(sql, id)
}
