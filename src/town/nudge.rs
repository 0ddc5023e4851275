//! Nudges: words for an agent that runs. Each is delivered once, or expires.
//!
//! `immediate` ones are sent to the agent's process at once; `wait-idle` and `queue` ones are fetched by its container when
//! the session is idle. What an agent that has ended was to be told is of no use to its next session, so nudges expire.

use super::Ctx;
use super::error::TownError;
use super::id::AgentId;
use super::live;
use super::policy::{MESSAGE_BYTES, NUDGE_TTL, NUDGES_AT_ONCE, RULE_ROWS};
use super::sql::{Columns, Row, Sql, SqlError, any, first};
use super::state;
use super::time::Timestamp;
use serde::Serialize;

/// When a nudge reaches its agent (`protocol.md` 4.10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// When its session is idle.
    #[default]
    WaitIdle,
    /// At once.
    Immediate,
    /// As `WaitIdle`: over HTTP there is no difference.
    Queue,
}

impl Mode {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WaitIdle => "wait-idle",
            Self::Immediate => "immediate",
            Self::Queue => "queue",
        }
    }
    /// Reads a mode.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::WaitIdle, Self::Immediate, Self::Queue].into_iter().find(|m| m.as_str() == text)
    }
}

/// How much a nudge matters: urgent ones are told first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Urgency {
    /// Told first.
    Urgent,
    /// The rest.
    #[default]
    Normal,
}

/// Who nudges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another agent, or a person.
    Agent,
    /// A rule of the town.
    Reconciler,
    /// Triage.
    Triage,
    /// The town itself.
    System,
}

impl Source {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Reconciler => "reconciler",
            Self::Triage => "triage",
            Self::System => "system",
        }
    }
}

/// A nudge that waits, with exactly the fields that the container asks for (`protocol.md` 2.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the wire's own names")]
pub struct Nudge {
    pub nudge_id: String,
    pub message: String,
    pub mode: String,
    pub priority: &'static str,
    pub source: String,
}

fn read(r: &Row) -> Result<Nudge, SqlError> {
    let c = Columns::of(r);
    let read = Nudge {
        nudge_id: c.text(0),
        message: c.text(1),
        mode: c.text(2),
        priority: if c.int(3) == 0 { "urgent" } else { "normal" },
        source: c.text(4),
    };
    c.done(read)
}

/// Writes a nudge and returns its id. The caller has made sure that there is such an agent.
///
/// 422 if `message` is blank or longer than [`MESSAGE_BYTES`].
pub fn create(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    agent: &AgentId,
    message: &str,
    mode: Mode,
    urgency: Urgency,
    source: Source,
) -> Result<String, TownError> {
    if message.trim().is_empty() || message.len() > MESSAGE_BYTES {
        return Err(TownError::invalid("message", format!("message must have 1 to {MESSAGE_BYTES} bytes")));
    }
    let id = ctx.ids.uuid();
    sql.execute(
        "INSERT INTO nudges (nudge_id, seq, agent_id, message, mode, rank, source, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        &[
            (&id).into(),
            state::next_seq(sql)?.into(),
            agent.into(),
            message.into(),
            mode.as_str().into(),
            (urgency == Urgency::Normal).into(),
            source.as_str().into(),
            ctx.now.into(),
            ctx.now.plus(NUDGE_TTL).into(),
        ],
    )?;
    if mode == Mode::Immediate {
        live::wanted(sql, ctx, agent)?;
    }
    Ok(id)
}

/// What waits for an agent: urgent ones first, then oldest; expired ones are gone, and so is one in the air. Delivers nothing.
pub fn pending(sql: &dyn Sql, now: Timestamp, agent: &AgentId) -> Result<Vec<Nudge>, TownError> {
    let rows = sql.query(
        "SELECT nudge_id, message, mode, rank, source
         FROM nudges INDEXED BY nudges_pending
         WHERE agent_id = ?1 AND delivered_at IS NULL AND expires_at > ?2
           AND nudge_id NOT IN (SELECT j.value FROM lines l, json_each(l.items) j WHERE l.agent_id = ?1)
         ORDER BY rank, seq
         LIMIT ?3",
        &[agent.into(), now.into(), NUDGES_AT_ONCE.into()],
    )?;
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// The first nudge that is to be sent at once and is not in the air.
pub fn immediate(sql: &dyn Sql, now: Timestamp, agent: &AgentId) -> Result<Option<Nudge>, TownError> {
    let row = first(
        sql,
        "SELECT nudge_id, message, mode, rank, source
         FROM nudges INDEXED BY nudges_pending
         WHERE agent_id = ?1 AND delivered_at IS NULL AND expires_at > ?2 AND mode = 'immediate'
           AND nudge_id NOT IN (SELECT j.value FROM lines l, json_each(l.items) j WHERE l.agent_id = ?1)
         ORDER BY rank, seq
         LIMIT 1",
        &[agent.into(), now.into()],
    )?;
    Ok(row.as_ref().map(read).transpose()?)
}

/// Marks nudges delivered that were sent by message.
pub fn told(sql: &dyn Sql, ctx: &Ctx<'_>, ids: &[&str]) -> Result<(), TownError> {
    for id in ids {
        if any(sql, "SELECT 1 FROM nudges WHERE nudge_id = ?1 AND delivered_at IS NULL", &[(*id).into()])? {
            sql.execute("UPDATE nudges SET delivered_at = ?2 WHERE nudge_id = ?1", &[(*id).into(), ctx.now.into()])?;
        }
    }
    Ok(())
}

/// Marks one nudge of the agent delivered: true if this did it, false if it had been delivered or is not the agent's.
pub fn delivered(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, nudge_id: &str) -> Result<bool, TownError> {
    let changed = sql.execute(
        "UPDATE nudges SET delivered_at = ?3 WHERE nudge_id = ?1 AND agent_id = ?2 AND delivered_at IS NULL",
        &[nudge_id.into(), agent.into(), ctx.now.into()],
    )?;
    Ok(changed > 0)
}

/// Drops nudges that have expired, delivered or not, oldest first, at most [`RULE_ROWS`]. Arms nothing: it rides along.
pub fn prune(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let oldest = first(sql, "SELECT expires_at FROM nudges ORDER BY seq LIMIT 1", &[])?;
    if oldest.map_or(Ok(now.0), |r| r.int(0))? >= now.0 {
        return Ok(());
    }
    sql.execute(
        "DELETE FROM nudges
         WHERE nudge_id IN (SELECT nudge_id FROM nudges ORDER BY seq LIMIT ?2)
           AND expires_at < ?1",
        &[now.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}
