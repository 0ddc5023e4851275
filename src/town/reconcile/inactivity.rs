//! Rule 7: agents that do nothing (`domain.md` 6).
//!
//! That an agent does nothing is told by its heartbeats, which name the last thing that it did; so the town acts when it
//! hears one, and needs no deadline for it. An agent that is not heard of is rule 2's business.
//!
//! *Guarantees*: each step is taken once for one silence, whatever becomes of the object's memory: the row is written with
//! the step. A heartbeat that calls for none costs no statement (`pulse`).
//! *Assumptions*: while an agent is at work its heartbeats come, at least one within a step's time.

use super::super::Ctx;
use super::super::agent::{self, Role};
use super::super::bead;
use super::super::command::Heartbeat;
use super::super::dispatch::attempt::{Attempt, Quiet};
use super::super::dispatch::failure::{Code, Failure};
use super::super::dispatch::finish::{End, finish};
use super::super::dispatch::stops::{self, When};
use super::super::error::TownError;
use super::super::nudge::{self, Mode, Source, Urgency};
use super::super::policy::{QUIET_ASK, QUIET_NUDGE, QUIET_NUDGE_EVERY, QUIET_STOP, RULE_ROWS, STALLED_LIMIT};
use super::super::sql::{Sql, first};
use super::super::state::State;
use super::super::time::{Millis, Timestamp, in_words};
use super::super::triage;

/// What is done about an agent that does nothing, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It is nudged.
    Nudge = 1,
    /// It is nudged again, and somebody is asked what to do.
    Ask = 2,
    /// Its process is stopped.
    Stop = 3,
}

/// What decides about an agent's inactivity, beside the last thing that it did.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// Mayors wait for people, and are never watched.
    pub watched: bool,
    /// When its process was last started.
    pub began: Timestamp,
    /// What was done about it so far.
    pub quiet: Quiet,
}

impl Activity {
    /// That of an attempt.
    #[must_use]
    pub fn of(attempt: &Attempt) -> Self {
        let began = attempt.revived_at.map_or(attempt.booked_at, |t| t.max(attempt.booked_at));
        Self { watched: attempt.role != Role::Mayor, began, quiet: attempt.quiet }
    }

    /// The last thing that the agent did, as this heartbeat tells. Its container has a clock of its own, so what it says is
    /// taken for no earlier than the start and no later than now.
    #[must_use]
    pub fn event_of(&self, said: &Heartbeat, now: Timestamp) -> Option<Timestamp> {
        let at = said.last_event_at.as_deref().and_then(Timestamp::parse)?;
        Some(at.max(self.began).min(now))
    }

    /// What is due now, for an agent that did its last thing at `event_at`.
    ///
    /// One that never told of anything is active as long as it is heard: `last_activity_at` is its heartbeat.
    #[must_use]
    pub fn due(&self, event_at: Option<Timestamp>, busy: bool, now: Timestamp) -> Option<Step> {
        let since = event_at.filter(|_| self.watched)?;
        let idle = now.since(since);
        let taken = if self.quiet.since == Some(since) { self.quiet.step } else { 0 };
        let nudged = self.quiet.nudged_at.is_some_and(|at| (0..QUIET_NUDGE_EVERY).contains(&now.since(at)));
        match idle {
            QUIET_STOP.. => Some(Step::Stop),
            QUIET_ASK.. if taken < Step::Ask as u32 => Some(Step::Ask),
            QUIET_NUDGE.. if taken < Step::Nudge as u32 && !busy && !nudged => Some(Step::Nudge),
            _ => None,
        }
    }
}

/// True if the agent has a tool running: it waits for that, and so do we.
#[must_use]
pub fn is_busy(said: &Heartbeat) -> bool {
    said.active_tools.as_ref().is_some_and(|tools| !tools.is_empty())
}

/// A heartbeat of a live attempt was heard: takes the step that is due. True if it took one.
pub fn heard(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &State,
    attempt: &Attempt,
    event_at: Option<Timestamp>,
    said: &Heartbeat,
) -> Result<bool, TownError> {
    let Some(since) = event_at.filter(|_| !state.draining(ctx.now)) else { return Ok(false) };
    let Some(step) = Activity::of(attempt).due(event_at, is_busy(said), ctx.now) else { return Ok(false) };
    let idle = ctx.now.since(since);
    if step == Step::Stop {
        stop(sql, ctx, attempt, idle)?;
        return Ok(true);
    }
    let words = format!(
        "Nothing has happened in your session for {}. Go on with your bead; if you are stuck, say so with an escalation, \
         and if you are done, report it.",
        in_words(idle)
    );
    nudge::create(sql, ctx, &attempt.agent, &words, Mode::Immediate, Urgency::Urgent, Source::Reconciler)?;
    sql.execute(
        "UPDATE attempts SET quiet_since = ?2, quiet_step = ?3, nudged_at = ?4 WHERE attempt_id = ?1",
        &[(&attempt.id).into(), since.into(), (step as u32).into(), ctx.now.into()],
    )?;
    if step == Step::Ask {
        let bead = attempt.bead.as_ref().map(|id| bead::find(sql, id)).transpose()?.flatten();
        let context = format!("{} has done nothing for {} and was nudged.", attempt.agent_name, in_words(idle));
        triage::ask(sql, ctx, &attempt.agent, bead.as_ref(), triage::STUCK_AGENT, &context)?;
    }
    Ok(true)
}

/// Stops a process that does nothing: its attempt has failed, its bead is re-queued, its agent is stalled until the
/// process is gone.
fn stop(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt, idle: Millis) -> Result<(), TownError> {
    stops::owe(sql, ctx, attempt, When::Now)?;
    let why = format!("it was stopped, because nothing had happened in its session for {}", in_words(idle));
    finish(sql, ctx, attempt, End::Failed(Failure::new(Code::AgentNoProgress, None, &why)))?;
    agent::stall(sql, &attempt.agent, ctx.now.plus(STALLED_LIMIT))
}

/// Stalled agents are idle again when nobody owes them a stop any more, or after half an hour.
///
/// *Guarantees*: at most a hundred a tick. A stop is owed no more when the container said that it is done, that it knows no
/// such process, or that it is another instance.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    if next_deadline(sql, ctx.now)?.is_none_or(|at| at > ctx.now) {
        return Ok(());
    }
    sql.execute(
        "UPDATE agents
         SET status = 'idle', stalled_until = NULL
         WHERE agent_id IN (SELECT agent_id
                            FROM agents INDEXED BY agents_stalled
                            WHERE stalled_until IS NOT NULL
                              AND (stalled_until <= ?1
                                   OR NOT EXISTS (SELECT 1 FROM stops s WHERE s.agent_id = agents.agent_id))
                            LIMIT ?2)",
        &[ctx.now.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}

/// When the first stalled agent is idle again: now, if nobody owes it a stop.
pub fn next_deadline(sql: &dyn Sql, now: Timestamp) -> Result<Option<Timestamp>, TownError> {
    let row = first(
        sql,
        "SELECT min(CASE WHEN EXISTS (SELECT 1 FROM stops s WHERE s.agent_id = agents.agent_id)
                         THEN stalled_until ELSE min(stalled_until, ?1) END)
         FROM agents INDEXED BY agents_stalled
         WHERE stalled_until IS NOT NULL",
        &[now.into()],
    )?;
    Ok(row.map_or(Ok(None), |r| r.opt_int(0))?.map(Timestamp))
}
