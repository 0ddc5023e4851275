//! Departed agents: those that were removed, and whose store (transcript and snapshot, an object of its own) is still to be
//! erased.
//!
//! *Guarantees*: whoever removes an agent owes this in the same savepoint ([`owe`]), so that no store outlives its agent
//! because an object died; erasing is repeated until it was answered, ever more slowly, and given up after
//! [`ERASE_GIVE_UP`].
//! *Assumptions*: erasing twice is erasing once; nobody makes a store for an agent that the town does not know
//! ([`knows`]).

use super::Ctx;
use super::agent;
use super::effect::Effect;
use super::error::TownError;
use super::id::AgentId;
use super::policy::{ERASE_GIVE_UP, ERASE_LEASE, ERASE_RETRY, ERASE_RETRY_MAX, ERASES_AT_ONCE, RULE_ROWS};
use super::sql::{Sql, first};
use super::time::Timestamp;

/// An agent goes, and its store with it, at the next tick.
pub fn owe(sql: &dyn Sql, now: Timestamp, agent: &AgentId) -> Result<(), TownError> {
    sql.execute(
        "INSERT INTO departed (agent_id, booked_at, due_at) VALUES (?1, ?2, ?2) ON CONFLICT (agent_id) DO NOTHING",
        &[agent.into(), now.into()],
    )?;
    Ok(())
}

/// 404 unless the agent is one of this town's: may it have a store?
pub fn knows(sql: &dyn Sql, agent: &AgentId) -> Result<(), TownError> {
    agent::get(sql, agent).map(|_| ())
}

/// Has due stores erased, a few at a time.
pub fn erase_due(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Vec<Effect>, TownError> {
    let rows = sql.query(
        "SELECT agent_id FROM departed WHERE due_at <= ?1 ORDER BY due_at LIMIT ?2",
        &[ctx.now.into(), ERASES_AT_ONCE.into()],
    )?;
    let mut effects = Vec::new();
    for row in &rows {
        let agent = AgentId(row.text(0)?);
        sql.execute(
            "UPDATE departed SET due_at = ?2, tries = tries + 1 WHERE agent_id = ?1",
            &[(&agent).into(), ctx.now.plus(ERASE_LEASE).into()],
        )?;
        effects.push(Effect::EraseAgent(agent));
    }
    Ok(effects)
}

/// Records how it ended: done, or to be tried again.
pub fn settle(sql: &dyn Sql, now: Timestamp, agent: &AgentId, erased: bool) -> Result<(), TownError> {
    let row = first(sql, "SELECT tries, booked_at FROM departed WHERE agent_id = ?1", &[agent.into()])?;
    let Some(row) = row else { return Ok(()) };
    if erased || now.since(Timestamp(row.int(1)?)) >= ERASE_GIVE_UP {
        sql.execute("DELETE FROM departed WHERE agent_id = ?1", &[agent.into()])?;
        return Ok(());
    }
    let pause = ERASE_RETRY.saturating_mul(1 << row.count(0)?.clamp(1, 10)) / 2;
    sql.execute(
        "UPDATE departed SET due_at = ?2 WHERE agent_id = ?1",
        &[agent.into(), now.plus(pause.min(ERASE_RETRY_MAX)).into()],
    )?;
    Ok(())
}

/// The next time at which a store is to be erased.
pub fn next_deadline(sql: &dyn Sql) -> Result<Option<Timestamp>, TownError> {
    let row = first(sql, "SELECT due_at FROM departed ORDER BY due_at LIMIT 1", &[])?;
    Ok(row.map(|r| r.int(0)).transpose()?.map(Timestamp))
}

/// Everybody who may have a store, at most [`RULE_ROWS`] of them after `after`, in the order of their ids: to be erased with the
/// town.
pub fn everybody(sql: &dyn Sql, after: &str) -> Result<Vec<AgentId>, TownError> {
    let rows = sql.query(
        "SELECT agent_id FROM agents WHERE agent_id > ?1
         UNION
         SELECT agent_id FROM departed WHERE agent_id > ?1
         ORDER BY agent_id
         LIMIT ?2",
        &[after.into(), RULE_ROWS.into()],
    )?;
    rows.iter().map(|r| Ok(AgentId(r.text(0)?))).collect()
}
