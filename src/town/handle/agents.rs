//! Commands about agents: their rows, their hooks, and what they ask for by route.

use super::super::Ctx;
use super::super::Reply;
use super::super::agent::{self, Agent, AgentStatus, NewAgent, Role};
use super::super::audit;
use super::super::bead::{self, Kind, Priority, Status};
use super::super::command::Actor;
use super::super::dispatch::attempt;
use super::super::dispatch::finish::{End, Then, finish};
use super::super::dispatch::late;
use super::super::dispatch::stops::{self, When};
use super::super::error::TownError;
use super::super::escalation::{self, Raise};
use super::super::id::{AgentId, BeadId, RigId};
use super::super::policy::{MESSAGE_BYTES, NAME_CHARS};
use super::super::pulse;
use super::super::rig;
use super::super::sql::{Sql, first};
use super::super::state::State;
use super::{filled, known_rig};
use crate::town::json::json;
use serde_json::Value as Json;

fn role(text: &str) -> Result<Role, TownError> {
    Role::parse(text).ok_or_else(|| TownError::malformed("role must be polecat, refinery or mayor"))
}

/// Makes an agent of a rig under a name and identity of the caller's choice.
pub fn create(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    rig_id: &RigId,
    role_text: &str,
    name: &str,
    identity: &str,
) -> Result<Reply, TownError> {
    rig::get(sql, rig_id)?;
    let role = role(role_text)?;
    filled("name", name, NAME_CHARS * 4)?;
    filled("identity", identity, NAME_CHARS * 8)?;
    match role {
        Role::Mayor => return Err(TownError::invalid("role", "a town has one mayor, made with the town")),
        Role::Refinery => {
            let taken = first(
                sql,
                "SELECT agent_id FROM agents WHERE rig_id = ?1 AND role = 'refinery' LIMIT 1",
                &[rig_id.into()],
            )?;
            if taken.is_some() {
                return Err(TownError::conflict("taken", "This rig has a refinery already; a rig has one"));
            }
        }
        Role::Polecat => {}
    }
    let new = NewAgent { rig_id: Some(rig_id), role, name: name.to_owned(), identity: identity.to_owned() };
    Reply::created(agent::create(sql, ctx, &new)?)
}

/// An idle polecat, the refinery, or the mayor; made if there is none. 200 either way.
pub fn get_or_create(sql: &dyn Sql, ctx: &Ctx<'_>, rig_id: &RigId, role_text: &str) -> Result<Reply, TownError> {
    let state = State::load(sql)?;
    let agent = match role(role_text)? {
        Role::Mayor => agent::get(sql, &state.mayor)?,
        Role::Refinery => {
            rig::get(sql, rig_id)?;
            agent::refinery(sql, ctx, rig_id, &state.town_id)?
        }
        Role::Polecat => {
            rig::get(sql, rig_id)?;
            match agent::idle_polecat(sql, rig_id)? {
                Some(idle) => idle,
                None => agent::new_polecat(sql, ctx, rig_id, &state.town_id)?,
            }
        }
    };
    Reply::ok(agent)
}

/// Agents of a rig, oldest first.
pub fn list(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    rig_id: &RigId,
    role: Option<&str>,
    status: Option<&str>,
) -> Result<Reply, TownError> {
    known_rig(sql, rig_id)?;
    let wrong = || TownError::malformed("Invalid role or status filter");
    let role = role.map(|r| Role::parse(r).ok_or_else(wrong)).transpose()?;
    let status = status.map(|s| AgentStatus::parse(s).ok_or_else(wrong)).transpose()?;
    let mut all = if rig::is_mayors(rig_id) {
        vec![agent::get(sql, &State::load(sql)?.mayor)?]
    } else {
        agent::of_rig(sql, rig_id)?
    };
    for agent in &mut all {
        pulse::freshen_agent(ctx, agent);
    }
    let fits = |a: &Agent| role.is_none_or(|r| a.role == r) && status.is_none_or(|s| a.status == s);
    Reply::quiet(all.into_iter().filter(fits).collect::<Vec<_>>())
}

/// The agent, if it is this rig's; mayors and other rigs' agents are 404.
pub fn of_rig(sql: &dyn Sql, rig_id: &RigId, id: &AgentId) -> Result<Agent, TownError> {
    agent::find(sql, id)?
        .filter(|a| a.role != Role::Mayor && a.rig_id.as_ref() == Some(rig_id))
        .ok_or_else(|| TownError::missing("Agent"))
}

/// The same, as it is shown.
pub fn show(sql: &dyn Sql, ctx: &Ctx<'_>, rig_id: &RigId, id: &AgentId) -> Result<Reply, TownError> {
    let mut agent = of_rig(sql, rig_id, id)?;
    pulse::freshen_agent(ctx, &mut agent);
    Reply::quiet(agent)
}

/// Deletes an agent: its attempt ends, its bead goes back to the queue.
pub fn delete(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, rig_id: &RigId, id: &AgentId) -> Result<Reply, TownError> {
    let agent = of_rig(sql, rig_id, id)?;
    let reason = format!("its agent was deleted by {}", actor.label());
    release(sql, ctx, id, &reason)?;
    agent::delete(sql, ctx.now, id)?;
    let before = json!({"name": agent.name, "role": agent.role.as_str(), "bead_id": agent.hook});
    audit::record(sql, ctx, actor, "agent.delete", id.as_str(), "deleted by hand", Some(&before), None)?;
    Reply::ok(json!({"deleted": true}))
}

/// Frees an agent: a live attempt is cancelled and its bead re-queued, a hook without an attempt is undone.
pub fn release(sql: &dyn Sql, ctx: &Ctx<'_>, id: &AgentId, reason: &str) -> Result<(), TownError> {
    if let Some(live) = attempt::live_of_agent(sql, id)? {
        stops::owe(sql, ctx, &live, When::Now)?;
        finish(sql, ctx, &live, End::Cancelled(reason.to_owned(), Then::Requeue(None)))?;
    }
    if let Some(hook) = agent::get(sql, id)?.hook {
        agent::unhook(sql, ctx, id, &hook, reason)?;
    }
    Ok(())
}

/// Hooks an agent to an open bead that nobody else holds; both stay as they are until dispatch.
pub fn hook(sql: &dyn Sql, ctx: &Ctx<'_>, id: &AgentId, bead_id: &BeadId) -> Result<Reply, TownError> {
    let agent = agent::get(sql, id)?;
    let bead = bead::get(sql, bead_id)?;
    if agent.hook.as_ref() == Some(bead_id) {
        return Reply::quiet(json!({"hooked": true}));
    }
    if let Some(other) = &agent.hook {
        return Err(TownError::conflict(
            "hooked",
            format!("Agent {id} is already hooked to bead {other}; unhook it first"),
        ));
    }
    let fits = matches!((agent.role, bead.kind), (Role::Polecat, Kind::Issue) | (Role::Refinery, Kind::MergeRequest));
    if !fits || bead.triage_request {
        return Err(TownError::conflict(
            bead.status.as_str(),
            format!("A {} cannot be hooked to a bead of type {}", agent.role.as_str(), bead.kind.as_str()),
        ));
    }
    if bead.status != Status::Open {
        return Err(TownError::conflict(
            bead.status.as_str(),
            format!("Bead {bead_id} is {}; only an open bead can be hooked", bead.status.as_str()),
        ));
    }
    if agent.rig_id != bead.rig_id {
        return Err(TownError::conflict("open", format!("Agent {id} and bead {bead_id} belong to different rigs")));
    }
    if let Some(holder) = agent::hooked_to(sql, bead_id)? {
        return Err(TownError::conflict("hooked", format!("Bead {bead_id} is already hooked to agent {}", holder.id)));
    }
    agent::hook(sql, ctx, id, bead_id)?;
    Reply::ok(json!({"hooked": true}))
}

/// Unhooks an agent; a live attempt is cancelled with it.
pub fn unhook(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &AgentId) -> Result<Reply, TownError> {
    let agent = agent::get(sql, id)?;
    release(sql, ctx, id, &format!("unhooked by {}", actor.label()))?;
    if actor.is_person() {
        let before = json!({"name": agent.name, "bead_id": agent.hook});
        audit::record(sql, ctx, actor, "agent.unhook", id.as_str(), "unhooked by hand", Some(&before), None)?;
    }
    Reply::ok(json!({"unhooked": true}))
}

/// `POST escalations`.
#[allow(clippy::too_many_arguments, reason = "the body's fields")]
pub fn escalate(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    rig_id: &RigId,
    title: &str,
    body: Option<&str>,
    priority: Option<&str>,
    metadata: Option<Json>,
) -> Result<Reply, TownError> {
    known_rig(sql, rig_id)?;
    filled("title", title, MESSAGE_BYTES)?;
    let severity = match priority {
        None => Priority::Medium,
        Some(p) => Priority::parse(p)
            .ok_or_else(|| TownError::invalid("priority", "priority must be low, medium, high or critical"))?,
    };
    let raised = escalation::raise(
        sql,
        ctx,
        Raise {
            rig_id: Some(rig_id),
            agent: actor.agent(),
            severity,
            category: None,
            message: title,
            body,
            metadata,
            by_notification: false,
        },
    )?;
    if let Some(agent) = actor.agent() {
        late::acted(sql, ctx, agent, actor)?;
    }
    Reply::created(raised)
}
