//! Stops owed: processes that must not go on running, because their attempt was ended without them.
//!
//! *Guarantees*: a stop is sent before the next start of its bead or agent, never while its agent has another live
//! attempt (a stop names the agent, and the predecessor's container would kill the new process), and at a container that
//! does not answer not at all until it answers again.
//! *Assumptions*: effects that name the same agent are performed in the order in which they were emitted.

use super::super::Ctx;
use super::super::effect::{Answer, Effect, StopAgent};
use super::super::error::TownError;
use super::super::id::{AgentId, AttemptId, BeadId};
use super::super::policy::{
    RETRY_AFTER_MAX, RULE_ROWS, STOP_LEASE, STOP_RETENTION, STOP_RETRY, STOP_TIMEOUT, STOPS_AT_ONCE,
};
use super::super::sql::{Row, Sql, SqlError, any, each, first};
use super::super::time::Timestamp;
use super::attempt::Attempt;

/// When an owed stop is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At the next tick.
    Now,
    /// As soon as the container answers anything.
    ItAnswers,
}

/// Books a stop for the process of `attempt`; a second one for the same attempt only moves its time.
pub fn owe(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt, when: When) -> Result<(), TownError> {
    let due = (when == When::Now).then_some(ctx.now);
    sql.execute(
        "INSERT INTO stops (stop_id, attempt_id, agent_id, bead_id, instance_id, booked_at, due_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (attempt_id) DO UPDATE SET due_at = coalesce(excluded.due_at, due_at)",
        &[
            (&ctx.ids.uuid()).into(),
            (&attempt.id).into(),
            (&attempt.agent).into(),
            attempt.bead.as_ref().into(),
            attempt.instance_id.as_ref().into(),
            ctx.now.into(),
            due.into(),
        ],
    )?;
    Ok(())
}

fn read(r: &Row) -> Result<StopAgent, SqlError> {
    Ok(StopAgent { stop_id: r.text(0)?, agent_id: AgentId(r.text(1)?), attempt_id: AttemptId(r.text(2)?) })
}

/// The stops that must go before a start of `bead` by `agent`; leased until that start has been answered. One for an agent
/// that works on another bead by now waits on: the start of that one has replaced the process which it means.
pub fn before_start(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    bead: Option<&BeadId>,
    agent: &AgentId,
) -> Result<Vec<StopAgent>, TownError> {
    let rows = sql.query(
        "SELECT stop_id, agent_id, attempt_id
         FROM stops
         WHERE bead_id = ?1 AND bead_id IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM attempts t
                           WHERE t.agent_id = stops.agent_id AND t.agent_id <> ?2 AND t.finished_at IS NULL)
         UNION
         SELECT stop_id, agent_id, attempt_id FROM stops WHERE agent_id = ?2",
        &[bead.into(), agent.into()],
    )?;
    let stops: Vec<_> = each(&rows, read)?;
    for stop in &stops {
        lease(sql, ctx.now.plus(STOP_TIMEOUT * i64::from(STOPS_AT_ONCE)), stop)?;
    }
    Ok(stops)
}

fn lease(sql: &dyn Sql, until: Timestamp, stop: &StopAgent) -> Result<(), TownError> {
    sql.execute(
        "UPDATE stops SET sent_until = ?2, tries = tries + 1 WHERE stop_id = ?1",
        &[(&stop.stop_id).into(), until.into()],
    )?;
    Ok(())
}

/// Sends what is due, a few at a time. Part of rule 2.
pub fn send_due(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Vec<Effect>, TownError> {
    if !any(sql, "SELECT 1 FROM stops LIMIT 1", &[])? {
        return Ok(Vec::new());
    }
    sql.execute(
        "UPDATE stops SET sent_until = NULL WHERE sent_until IS NOT NULL AND sent_until <= ?1",
        &[ctx.now.into()],
    )?;
    let rows = sql.query(
        "SELECT stop_id, agent_id, attempt_id
         FROM stops
         WHERE due_at IS NOT NULL AND due_at <= ?1 AND sent_until IS NULL
           AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.agent_id = stops.agent_id AND t.finished_at IS NULL)
         ORDER BY due_at
         LIMIT ?2",
        &[ctx.now.into(), STOPS_AT_ONCE.into()],
    )?;
    let stops: Vec<_> = each(&rows, read)?;
    for stop in &stops {
        lease(sql, ctx.now.plus(STOP_LEASE), stop)?;
    }
    Ok(stops.into_iter().map(Effect::StopAgent).collect())
}

/// Records how a stop ended: done, gone already, or to be tried again.
pub fn settle(sql: &dyn Sql, ctx: &Ctx<'_>, stop_id: &str, answer: &Answer) -> Result<(), TownError> {
    let Some(row) = first(sql, "SELECT tries, booked_at FROM stops WHERE stop_id = ?1", &[stop_id.into()])? else {
        return Ok(());
    };
    match answer {
        // 2xx: stopped; 4xx: nothing there that could be stopped.
        // An error for a whole day: whatever answers, the process has gone with its container.
        Answer::Http { status, .. } if *status < 500 || ctx.now.since(Timestamp(row.int(1)?)) >= STOP_RETENTION => {
            sql.execute("DELETE FROM stops WHERE stop_id = ?1", &[stop_id.into()])?;
        }
        Answer::Http { .. } => {
            let doubled = STOP_RETRY.saturating_mul(1 << row.count(0)?.min(10));
            sql.execute(
                "UPDATE stops SET sent_until = NULL, due_at = ?2 WHERE stop_id = ?1",
                &[stop_id.into(), ctx.now.plus(doubled.min(RETRY_AFTER_MAX)).into()],
            )?;
        }
        Answer::Unreachable { .. } | Answer::TimedOut { .. } => {
            sql.execute("UPDATE stops SET sent_until = NULL, due_at = NULL WHERE stop_id = ?1", &[stop_id.into()])?;
        }
    }
    Ok(())
}

/// The container answered something: stops that waited for that are due.
pub fn container_answers(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    sql.execute("UPDATE stops SET due_at = ?1 WHERE due_at IS NULL AND sent_until IS NULL", &[now.into()])?;
    Ok(())
}

/// Another instance reported: the processes of every other instance are gone with it.
pub fn forget_other_instances(sql: &dyn Sql, instance: &str) -> Result<(), TownError> {
    sql.execute(
        "DELETE FROM stops WHERE due_at IS NULL AND instance_id IS NOT NULL AND instance_id <> ?1",
        &[instance.into()],
    )?;
    sql.execute(
        "DELETE FROM stops WHERE due_at IS NOT NULL AND instance_id IS NOT NULL AND instance_id <> ?1",
        &[instance.into()],
    )?;
    Ok(())
}

/// The process of this attempt need not be stopped after all.
pub fn forget(sql: &dyn Sql, attempt: &AttemptId) -> Result<(), TownError> {
    sql.execute("DELETE FROM stops WHERE attempt_id = ?1", &[attempt.into()])?;
    Ok(())
}

/// The object was made anew: stops in the air have lost their owner.
pub fn resume(sql: &dyn Sql) -> Result<(), TownError> {
    if any(sql, "SELECT 1 FROM stops WHERE sent_until IS NOT NULL LIMIT 1", &[])? {
        sql.execute("UPDATE stops SET sent_until = NULL WHERE sent_until IS NOT NULL", &[])?;
    }
    Ok(())
}

/// Stops that were never answered. Arms nothing: it rides along.
pub fn prune(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    if !any(sql, "SELECT 1 FROM stops WHERE due_at IS NULL LIMIT 1", &[])? {
        return Ok(());
    }
    sql.execute(
        "DELETE FROM stops
         WHERE stop_id IN (SELECT stop_id FROM stops WHERE due_at IS NULL AND booked_at < ?1 LIMIT ?2)",
        &[now.plus(-STOP_RETENTION).into(), RULE_ROWS.into()],
    )?;
    Ok(())
}

/// The next time at which a stop is due or its lease ends.
pub fn next_deadline(sql: &dyn Sql) -> Result<Option<Timestamp>, TownError> {
    let due = first(
        sql,
        "SELECT min(due_at)
         FROM stops
         WHERE due_at IS NOT NULL AND sent_until IS NULL
           AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.agent_id = stops.agent_id AND t.finished_at IS NULL)",
        &[],
    )?;
    let sent = first(sql, "SELECT min(sent_until) FROM stops WHERE sent_until IS NOT NULL", &[])?;
    let mut times = Vec::new();
    for row in [due, sent].into_iter().flatten() {
        times.extend(row.opt_int(0)?);
    }
    Ok(times.into_iter().min().map(Timestamp))
}
