//! The mayor's tools for beads and agents that nobody else has (`protocol.md` 3.4).

use super::super::Ctx;
use super::super::Reply;
use super::super::agent;
use super::super::bead::{self, Bead, Kind, Status};
use super::super::command::Actor;
use super::super::dispatch::attempt;
use super::super::dispatch::finish::{End, Then, finish};
use super::super::dispatch::stops::{self, When};
use super::super::error::TownError;
use super::super::id::{AgentId, BeadId, RigId};
use super::super::policy::DELETED_AT_ONCE;
use super::super::rig;
use super::super::sorted::Sorted;
use super::super::sql::Sql;
use super::super::{audit, text};
use super::{agents, by_hand, known_rig};
use crate::town::json::json;

/// The bead, if the rig of the route may be asked about it.
fn of_rig(sql: &dyn Sql, rig_id: &RigId, id: &BeadId) -> Result<Bead, TownError> {
    known_rig(sql, rig_id)?;
    let bead = bead::get(sql, id)?;
    if !rig::is_mayors(rig_id) && bead.rig_id.as_ref().is_some_and(|r| r != rig_id) {
        return Err(TownError::forbidden("Bead does not belong to this rig"));
    }
    Ok(bead)
}

/// Gives a bead to another agent. Who works on it is stopped first; a bead at its cap fails then, as after any stop.
pub fn reassign(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: &RigId,
    id: &BeadId,
    to: &AgentId,
) -> Result<Reply, TownError> {
    let bead = of_rig(sql, rig_id, id)?;
    let target = agent::find(sql, to)?.ok_or_else(|| TownError::missing("Target agent"))?;
    if target.hook.as_ref() == Some(id) {
        return Reply::quiet(bead);
    }
    if target.rig_id != bead.rig_id {
        return Err(TownError::forbidden("Target agent does not belong to this rig"));
    }
    if let Some(other) = &target.hook {
        let text = format!("Agent {to} is busy with bead {other}; wait for it, or reset the agent");
        return Err(TownError::conflict("hooked", text));
    }
    let reason = format!("reassigned to {} by {}", target.name, actor.label());
    if let Some(live) = attempt::live_of_bead(sql, id)? {
        stops::owe(sql, ctx, &live, When::Now)?;
        finish(sql, ctx, &live, End::Cancelled(reason.clone(), Then::Requeue(None)))?;
    }
    if let Some(holder) = agent::hooked_to(sql, id)? {
        agent::unhook(sql, ctx, &holder.id, id, &reason)?;
    }
    // At its cap it has failed instead, which is an answer, too.
    let at_cap = bead.status == Status::InProgress && bead::get(sql, id)?.status == Status::Failed;
    if !at_cap {
        agents::hook(sql, ctx, to, id)?;
    }
    let before = json!({"agent_id": bead.assignee});
    audit::record(
        sql,
        ctx,
        actor,
        "bead.reassign",
        id.as_str(),
        &reason,
        Some(&before),
        Some(&json!({"agent_id": to})),
    )?;
    Reply::ok(bead::get(sql, id)?)
}

/// Deletes one bead of the rig.
pub fn delete(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, rig_id: &RigId, id: &BeadId) -> Result<Reply, TownError> {
    of_rig(sql, rig_id, id)?;
    by_hand::delete(sql, ctx, actor, rig_id, id)
}

/// Deletes beads of the rig and what hangs on them: children of any depth, and merge requests. Ids that name nothing, or
/// another rig's bead, are passed over, and so are convoys under way.
pub fn delete_many(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: &RigId,
    ids: &[String],
) -> Result<Reply, TownError> {
    known_rig(sql, rig_id)?;
    let mut all: Sorted<String, ()> = Sorted::new();
    let mut wave: Vec<String> = ids.to_vec();
    while !wave.is_empty() {
        let asked = json!(wave).to_string();
        let rows = sql.query(
            "SELECT b.bead_id
             FROM json_each(?1) j
             JOIN beads b ON b.bead_id = j.value
             WHERE (b.rig_id IS NULL OR b.rig_id = ?2 OR ?3 = 1)
               AND (b.type <> 'convoy' OR b.status IN ('closed', 'failed'))",
            &[(&asked).into(), rig_id.into(), rig::is_mayors(rig_id).into()],
        )?;
        let found = rows.iter().map(|r| r.text(0)).collect::<Result<Vec<_>, _>>()?;
        let fresh: Vec<String> = found.into_iter().filter(|id| all.add(id.clone())).collect();
        let asked = json!(fresh).to_string();
        let rows = sql.query(
            "SELECT c.bead_id
             FROM json_each(?1) j
             JOIN beads c ON c.parent_bead_id = j.value
             UNION
             SELECT m.bead_id
             FROM json_each(?1) j
             JOIN merge_requests m ON m.source_bead_id = j.value",
            &[(&asked).into()],
        )?;
        wave = rows.iter().map(|r| r.text(0)).collect::<Result<_, _>>()?;
    }
    let deleted = all.len();
    for (id, ()) in all {
        by_hand::erase(sql, ctx, &BeadId(id), "the bead was deleted")?;
    }
    let before = json!({"deleted": deleted, "asked": ids.len()});
    audit::record(sql, ctx, actor, "bead.delete_many", rig_id.as_str(), "deleted by hand", Some(&before), None)?;
    Reply::ok(json!({"deleted": deleted}))
}

/// Deletes the rig's beads in a status, oldest first, at most [`DELETED_AT_ONCE`] at once; `remaining` says whether to
/// ask again.
pub fn delete_by_status(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: &RigId,
    status: &str,
    kind: Option<&str>,
) -> Result<Reply, TownError> {
    rig::get(sql, rig_id)?;
    let wrong = || TownError::malformed("Invalid status or type filter");
    Status::parse(status).ok_or_else(wrong)?;
    if let Some(kind) = kind {
        Kind::parse(kind).ok_or_else(wrong)?;
    }
    let limit = u32::try_from(DELETED_AT_ONCE).unwrap_or(u32::MAX);
    let rows = sql.query(
        "SELECT bead_id
         FROM beads
         WHERE rig_id = ?1 AND status = ?2 AND (?3 IS NULL OR type = ?3)
         ORDER BY seq
         LIMIT ?4",
        &[rig_id.into(), status.into(), kind.into(), limit.into()],
    )?;
    let ids = rows.iter().map(|r| r.text(0)).collect::<Result<Vec<_>, _>>()?;
    let mut reply = delete_many(sql, ctx, actor, rig_id, &ids)?;
    if let Some(data) = reply.data.as_object_mut() {
        data.insert("remaining".to_owned(), json!(ids.len() == DELETED_AT_ONCE));
    }
    Ok(reply)
}

/// Frees an agent whatever it is doing, as if it had just been made.
pub fn reset(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, rig_id: &RigId, id: &AgentId) -> Result<Reply, TownError> {
    known_rig(sql, rig_id)?;
    let agent = agent::get(sql, id)?;
    if agent.rig_id.as_ref() != Some(rig_id) {
        return Err(TownError::forbidden("Agent does not belong to this rig"));
    }
    let reason = format!("reset by {}", actor.label());
    agents::release(sql, ctx, id, &reason)?;
    agent::set_status(sql, ctx, id, agent::AgentStatus::Idle)?;
    let before = json!({"name": agent.name, "status": agent.status.as_str(), "bead_id": agent.hook});
    audit::record(sql, ctx, actor, "agent.reset", id.as_str(), text::cut(&reason, 500), Some(&before), None)?;
    Reply::ok(json!({"reset": true}))
}
