//! Rule 10: what is past its time is dropped. Arms nothing: it rides along with ticks that something else caused.

use super::super::Ctx;
use super::super::dispatch::stops;
use super::super::error::TownError;
use super::super::id::AgentId;
use super::super::policy::{ATTEMPT_RETENTION, IDLE_AGENT_RETENTION, RULE_ROWS};
use super::super::sql::{Sql, first};
use super::super::time::Timestamp;
use super::super::{agent, audit, event, mail, notify, nudge, redrive};

/// Drops old attempts, events, notices, mail, nudges, audit entries, and agents that nobody needs.
///
/// *Guarantees*: at most a hundred rows of each kind a tick.
/// *Assumptions*: every append-only table has an index that yields its oldest rows first.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    attempts(sql, ctx)?;
    agents(sql, ctx.now)?;
    event::prune(sql, ctx.now)?;
    notify::prune(sql, ctx.now)?;
    mail::prune(sql, ctx.now)?;
    nudge::prune(sql, ctx.now)?;
    audit::prune(sql, ctx.now)?;
    stops::prune(sql, ctx.now)?;
    redrive::prune(sql, ctx.now.plus(-ATTEMPT_RETENTION))
}

/// Idle for a day and not hooked: the next bead gets a polecat of its own. Their stores go with them.
fn agents(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let idle_since = now.plus(-IDLE_AGENT_RETENTION);
    let old = sql.query(
        "SELECT agent_id
         FROM agents INDEXED BY agents_free_since
         WHERE status = 'idle' AND current_hook_bead_id IS NULL AND role <> 'mayor'
           AND coalesce(last_activity_at, created_at) < ?1
         LIMIT ?2",
        &[idle_since.into(), RULE_ROWS.into()],
    )?;
    for row in &old {
        agent::delete(sql, now, &AgentId(row.text(0)?))?;
    }
    Ok(())
}

/// By `seq`, the order in which attempts were booked. Usually the oldest is young enough, and one row says so.
fn attempts(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    let keep_from = ctx.now.plus(-ATTEMPT_RETENTION);
    let oldest = first(sql, "SELECT booked_at FROM attempts ORDER BY seq LIMIT 1", &[])?;
    if oldest.map_or(Ok(keep_from.0), |r| r.int(0))? >= keep_from.0 {
        return Ok(());
    }
    sql.execute(
        "DELETE FROM attempts
         WHERE attempt_id IN (SELECT attempt_id FROM attempts ORDER BY seq LIMIT ?2)
           AND finished_at IS NOT NULL AND finished_at < ?1",
        &[keep_from.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}
