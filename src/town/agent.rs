//! Agents: named workers with a role, a status and at most one hook.
//!
//! Hook and assignee are one truth told in two rows: [`hook`] and [`unhook`] are the only places that set either.

use super::Ctx;
use super::bead;
use super::departed;
use super::error::TownError;
use super::event::{self, Happening};
use super::id::{AgentId, BeadId, RigId};
use super::json::{self, json};
use super::policy::POLECAT_NAMES;
use super::sql::{Columns, Row, Sql, SqlError, each, first};
use super::state;
use super::time::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value as Json;

/// What an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Does one issue bead at a time.
    Polecat,
    /// Reviews and merges, one MR at a time; one per rig.
    Refinery,
    /// Converses and creates work; one per town.
    Mayor,
}

impl Role {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Polecat => "polecat",
            Self::Refinery => "refinery",
            Self::Mayor => "mayor",
        }
    }
    /// Reads a role.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Polecat, Self::Refinery, Self::Mayor].into_iter().find(|r| r.as_str() == text)
    }
}

/// What an agent is doing (`domain.md` 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words are the domain's")]
pub enum AgentStatus {
    Idle,
    Working,
    Waiting,
    Stalled,
    Dead,
}

impl AgentStatus {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Working => "working",
            Self::Waiting => "waiting",
            Self::Stalled => "stalled",
            Self::Dead => "dead",
        }
    }
    /// Reads a status.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Idle, Self::Working, Self::Waiting, Self::Stalled, Self::Dead].into_iter().find(|s| s.as_str() == text)
    }
}

/// One agent.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "columns, documented in migrations/town/0001_town.sql")]
pub struct Agent {
    pub id: AgentId,
    pub rig_id: Option<RigId>,
    pub role: Role,
    pub name: String,
    pub identity: String,
    pub status: AgentStatus,
    pub hook: Option<BeadId>,
    pub dispatch_attempts: u32,
    pub failure_streak: u32,
    pub next_dispatch_at: Option<Timestamp>,
    pub last_activity_at: Option<Timestamp>,
    pub checkpoint: Option<Json>,
    pub status_message: Option<String>,
    pub status_updated_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

impl Serialize for Agent {
    /// `protocol.md` 2.2.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("id", &self.id)?;
        m.serialize_entry("rig_id", &self.rig_id)?;
        m.serialize_entry("role", self.role.as_str())?;
        m.serialize_entry("name", &self.name)?;
        m.serialize_entry("identity", &self.identity)?;
        m.serialize_entry("status", self.status.as_str())?;
        m.serialize_entry("current_hook_bead_id", &self.hook)?;
        m.serialize_entry("dispatch_attempts", &self.dispatch_attempts)?;
        m.serialize_entry("last_activity_at", &self.last_activity_at)?;
        m.serialize_entry("checkpoint", &self.checkpoint)?;
        m.serialize_entry("created_at", &self.created_at)?;
        m.serialize_entry("agent_status_message", &self.status_message)?;
        m.serialize_entry("agent_status_updated_at", &self.status_updated_at)?;
        m.end()
    }
}

/// Column list of every `SELECT` that [`read`] decodes. A macro, because statement text is constant.
///
/// An agent's last sign of life is its own row's or its last attempt's heartbeat, whichever is later: a heartbeat
/// writes one row only.
#[macro_export]
#[doc(hidden)]
macro_rules! agent_columns {
    ($($rest:literal)*) => {
        concat!(
            "SELECT agent_id, rig_id, role, name, identity, status, current_hook_bead_id, dispatch_attempts,
                    failure_streak, next_dispatch_at,
                    max(coalesce(last_activity_at, 0),
                        coalesce((SELECT t.last_heartbeat_at FROM attempts t
                                  WHERE t.agent_id = agents.agent_id ORDER BY t.seq DESC LIMIT 1), 0)),
                    checkpoint, status_message, status_updated_at, created_at
             FROM agents ",
            $($rest)*
        )
    };
}

fn read(r: &Row) -> Result<Agent, SqlError> {
    let c = Columns::of(r);
    let read = Agent {
        id: AgentId(c.text(0)),
        rig_id: c.opt_text(1).map(RigId),
        role: c.word(2, Role::parse, Role::Polecat),
        name: c.text(3),
        identity: c.text(4),
        status: c.word(5, AgentStatus::parse, AgentStatus::Idle),
        hook: c.opt_text(6).map(BeadId),
        dispatch_attempts: c.count(7),
        failure_streak: c.count(8),
        next_dispatch_at: c.opt_at(9),
        last_activity_at: Some(c.int(10)).filter(|t| *t > 0).map(Timestamp),
        checkpoint: c.opt_text(11).and_then(|t| json::read(&t)),
        status_message: c.opt_text(12),
        status_updated_at: c.opt_at(13),
        created_at: c.at(14),
    };
    c.done(read)
}

/// The agent, if there is one.
pub fn find(sql: &dyn Sql, id: &AgentId) -> Result<Option<Agent>, TownError> {
    Ok(first(sql, agent_columns!("WHERE agent_id = ?1"), &[id.into()])?.as_ref().map(read).transpose()?)
}

/// The agent, or 404 `Agent not found`.
pub fn get(sql: &dyn Sql, id: &AgentId) -> Result<Agent, TownError> {
    find(sql, id)?.ok_or_else(|| TownError::missing("Agent"))
}

/// The agent whose hook is `bead`.
pub fn hooked_to(sql: &dyn Sql, bead: &BeadId) -> Result<Option<Agent>, TownError> {
    Ok(first(sql, agent_columns!("WHERE current_hook_bead_id = ?1"), &[bead.into()])?.as_ref().map(read).transpose()?)
}

/// Agents of a rig, oldest first.
pub fn of_rig(sql: &dyn Sql, rig: &RigId) -> Result<Vec<Agent>, TownError> {
    let rows = sql.query(agent_columns!("WHERE rig_id = ?1 ORDER BY seq"), &[rig.into()])?;
    Ok(each(&rows, read)?)
}

/// All agents of the town, oldest first, at most `limit`.
pub fn all(sql: &dyn Sql, limit: u32) -> Result<Vec<Agent>, TownError> {
    let rows = sql.query(agent_columns!("ORDER BY seq LIMIT ?1"), &[limit.into()])?;
    Ok(each(&rows, read)?)
}

/// What a new agent is made of.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Agent")]
pub struct NewAgent<'a> {
    pub rig_id: Option<&'a RigId>,
    pub role: Role,
    pub name: String,
    pub identity: String,
}

/// Inserts an idle agent. The identity must be free.
pub fn create(sql: &dyn Sql, ctx: &Ctx<'_>, new: &NewAgent<'_>) -> Result<Agent, TownError> {
    let taken = first(sql, "SELECT agent_id FROM agents WHERE identity = ?1", &[(&new.identity).into()])?;
    if taken.is_some() {
        return Err(TownError::conflict(
            "taken",
            format!("An agent with the identity {} exists already", new.identity),
        ));
    }
    let id = AgentId(ctx.ids.uuid());
    sql.execute(
        "INSERT INTO agents (agent_id, seq, rig_id, role, name, identity, status, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'idle', ?7)",
        &[
            (&id).into(),
            state::next_seq(sql)?.into(),
            new.rig_id.into(),
            new.role.as_str().into(),
            (&new.name).into(),
            (&new.identity).into(),
            ctx.now.into(),
        ],
    )?;
    ctx.emit(super::effect::DataPoint {
        event: "agent.spawned",
        agent_id: id.0.clone(),
        rig_id: new.rig_id.map(|r| r.0.clone()).unwrap_or_default(),
        role: new.role.as_str().to_owned(),
        ..super::effect::DataPoint::default()
    });
    get(sql, &id)
}

/// `<name>-<role>-<rig8>@<town8>`; the mayor is `mayor-<town8>`.
#[must_use]
pub fn identity(name: &str, role: Role, rig: Option<&RigId>, town_id: &str) -> String {
    let town = town_id.get(..8).unwrap_or(town_id);
    match (role, rig) {
        (Role::Mayor, _) | (_, None) => format!("mayor-{town}"),
        (_, Some(rig)) => format!("{name}-{}-{}@{town}", role.as_str(), rig.short()),
    }
}

/// An identity that nobody has: callers of the API choose theirs freely, and a taken one must not stop a tick.
fn free_identity(sql: &dyn Sql, name: &str, role: Role, rig: &RigId, town_id: &str) -> Result<String, TownError> {
    let mut wanted = identity(name, role, Some(rig), town_id);
    while first(sql, "SELECT 1 FROM agents WHERE identity = ?1", &[(&wanted).into()])?.is_some() {
        wanted = identity(&format!("{name}-{}", state::next_seq(sql)?), role, Some(rig), town_id);
    }
    Ok(wanted)
}

/// A polecat of the rig that could take a bead now: idle, unhooked, and not about to be stopped.
pub fn idle_polecat(sql: &dyn Sql, rig: &RigId) -> Result<Option<Agent>, TownError> {
    let row = first(
        sql,
        agent_columns!(
            "WHERE rig_id = ?1 AND role = 'polecat' AND status = 'idle' AND current_hook_bead_id IS NULL
               AND NOT EXISTS (SELECT 1 FROM stops s WHERE s.agent_id = agents.agent_id AND s.sent_until IS NOT NULL)
             ORDER BY seq
             LIMIT 1"
        ),
        &[rig.into()],
    )?;
    Ok(row.as_ref().map(read).transpose()?)
}

/// Makes a polecat with the first free name of the pool, then `Polecat-<n>`; names are unique in the town.
pub fn new_polecat(sql: &dyn Sql, ctx: &Ctx<'_>, rig: &RigId, town_id: &str) -> Result<Agent, TownError> {
    let free = |name: &str| -> Result<bool, TownError> {
        let row = first(sql, "SELECT 1 FROM agents WHERE name = ?1 AND role = 'polecat' LIMIT 1", &[name.into()])?;
        Ok(row.is_none())
    };
    let mut name = None;
    for candidate in POLECAT_NAMES {
        if free(candidate)? {
            name = Some((*candidate).to_owned());
            break;
        }
    }
    let name = match name {
        Some(name) => name,
        // The counter that orders everything also numbers them: unique without a search.
        None => format!("Polecat-{}", state::next_seq(sql)?),
    };
    let identity = free_identity(sql, &name, Role::Polecat, rig, town_id)?;
    create(sql, ctx, &NewAgent { rig_id: Some(rig), role: Role::Polecat, name, identity })
}

/// The rig's refinery, made if there is none.
pub fn refinery(sql: &dyn Sql, ctx: &Ctx<'_>, rig: &RigId, town_id: &str) -> Result<Agent, TownError> {
    let row =
        first(sql, agent_columns!("WHERE rig_id = ?1 AND role = 'refinery' ORDER BY seq LIMIT 1"), &[rig.into()])?;
    if let Some(row) = row {
        return Ok(read(&row)?);
    }
    let identity = free_identity(sql, "refinery", Role::Refinery, rig, town_id)?;
    create(sql, ctx, &NewAgent { rig_id: Some(rig), role: Role::Refinery, name: "refinery".to_owned(), identity })
}

/// Binds an agent to a bead: hook and assignee together. Hooking resets no counter.
pub fn hook(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, bead: &BeadId) -> Result<(), TownError> {
    sql.execute("UPDATE agents SET current_hook_bead_id = ?2 WHERE agent_id = ?1", &[agent.into(), bead.into()])?;
    bead::assign(sql, ctx, bead, Some(agent))?;
    event::record(
        sql,
        ctx,
        bead,
        Happening { kind: "hooked", agent: Some(agent), new: Some(agent.as_str()), ..Happening::default() },
    )
}

/// Frees an agent from its bead: hook and assignee together.
pub fn unhook(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, bead: &BeadId, reason: &str) -> Result<(), TownError> {
    sql.execute("UPDATE agents SET current_hook_bead_id = NULL WHERE agent_id = ?1", &[agent.into()])?;
    bead::assign(sql, ctx, bead, None)?;
    event::record(
        sql,
        ctx,
        bead,
        Happening {
            kind: "unhooked",
            agent: Some(agent),
            old: Some(agent.as_str()),
            metadata: Some(json!({"reason": reason})),
            ..Happening::default()
        },
    )
}

/// Sets what an agent is doing.
pub fn set_status(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, status: AgentStatus) -> Result<(), TownError> {
    sql.execute(
        "UPDATE agents SET status = ?2, stalled_until = NULL, last_activity_at = ?3 WHERE agent_id = ?1",
        &[agent.into(), status.as_str().into(), ctx.now.into()],
    )?;
    Ok(())
}

/// Its process was stopped for doing nothing: it gets no other bead until that is gone, or until then.
pub fn stall(sql: &dyn Sql, agent: &AgentId, until: Timestamp) -> Result<(), TownError> {
    sql.execute(
        "UPDATE agents SET status = 'stalled', stalled_until = ?2 WHERE agent_id = ?1",
        &[agent.into(), until.into()],
    )?;
    Ok(())
}

/// Streak and backoff of an agent whose attempts have no bead: the mayor.
pub fn set_streak(
    sql: &dyn Sql,
    agent: &AgentId,
    attempts: u32,
    streak: u32,
    next: Option<Timestamp>,
) -> Result<(), TownError> {
    sql.execute(
        "UPDATE agents SET dispatch_attempts = ?2, failure_streak = ?3, next_dispatch_at = ?4 WHERE agent_id = ?1",
        &[agent.into(), attempts.into(), streak.into(), next.into()],
    )?;
    Ok(())
}

/// Stores a checkpoint; JSON `null` clears it.
pub fn checkpoint(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, data: &Json) -> Result<(), TownError> {
    let stored = (!data.is_null()).then(|| data.to_string());
    sql.execute(
        "UPDATE agents SET checkpoint = ?2, last_activity_at = ?3 WHERE agent_id = ?1",
        &[agent.into(), stored.as_ref().into(), ctx.now.into()],
    )?;
    Ok(())
}

/// Stores what the agent says it is doing.
pub fn say(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, message: &str) -> Result<(), TownError> {
    sql.execute(
        "UPDATE agents
         SET status_message = ?2, status_updated_at = ?3, last_activity_at = ?3
         WHERE agent_id = ?1",
        &[agent.into(), message.into(), ctx.now.into()],
    )?;
    Ok(())
}

/// Deletes an agent's row and its line, and owes the end of its store; the caller has ended its attempt and freed its hook.
pub fn delete(sql: &dyn Sql, now: Timestamp, agent: &AgentId) -> Result<(), TownError> {
    sql.execute("DELETE FROM agents WHERE agent_id = ?1", &[agent.into()])?;
    sql.execute("DELETE FROM lines WHERE agent_id = ?1", &[agent.into()])?;
    departed::owe(sql, now, agent)
}
