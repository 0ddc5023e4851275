//! The look: what the container says about agents whose lease has ended, or whose start was never answered.

use super::super::Ctx;
use super::super::config::Config;
use super::super::effect::{Answer, Effect, Health, Observe};
use super::super::error::TownError;
use super::super::id::AttemptId;
use super::super::policy::{LOOK_LEASE, LOOKS_AT_ONCE};
use super::super::pulse::{self, Due};
use super::super::sql::Sql;
use super::super::state::State;
use super::super::time::Timestamp;
use super::attempt::{self, Attempt, Outcome as Stage};
use super::failure::{Code, Failure, StatusVerdict, classify_completed, classify_status, status_dispatch_id};
use super::finish::{End, finish};
use super::settle::accept;
use super::stops::{self, When};
use super::{instance, proof, start};

/// Rules 1 and 2: books one look at the attempts whose lease has ended, oldest lease first, a few at a time.
///
/// *Guarantees*: one look of this rule is in the air at a time; each attempt in it carries the look's lease, so that an
/// object that dies meanwhile looks again.
/// *Assumptions*: while a container drains its agents may be silent; deadlines are suspended.
pub fn book(sql: &dyn Sql, ctx: &Ctx<'_>, state: &State) -> Result<Vec<Effect>, TownError> {
    if state.draining(ctx.now) {
        return Ok(Vec::new());
    }
    let dues = pulse::dues(sql, ctx)?;
    if looking(&dues, ctx.now).is_some() {
        return Ok(Vec::new());
    }
    let mut overdue: Vec<Due> = dues.into_iter().filter(|due| due.at.is_some_and(|at| at <= ctx.now)).collect();
    overdue.sort_by_key(|due| due.at);
    overdue.truncate(LOOKS_AT_ONCE);
    for due in &overdue {
        sql.execute(
            "UPDATE attempts SET look_until = ?2 WHERE attempt_id = ?1",
            &[(&due.attempt).into(), ctx.now.plus(LOOK_LEASE).into()],
        )?;
        if let Some(pulses) = ctx.pulses {
            pulses.forget(&due.agent);
        }
    }
    if overdue.is_empty() {
        return Ok(Vec::new());
    }
    let asked = overdue.into_iter().map(|due| Observe { attempt_id: due.attempt, agent_id: due.agent }).collect();
    Ok(vec![Effect::ObserveAgents(asked)])
}

/// Until when a look is in the air, if one is.
fn looking(dues: &[Due], now: Timestamp) -> Option<Timestamp> {
    dues.iter().filter_map(|due| due.look_until).filter(|until| *until > now).max()
}

/// When the next lease, or the look under way, ends.
pub fn next_deadline(sql: &dyn Sql, ctx: &Ctx<'_>, state: &State) -> Result<Option<Timestamp>, TownError> {
    if state.draining(ctx.now) {
        return Ok(None);
    }
    let dues = pulse::dues(sql, ctx)?;
    Ok(looking(&dues, ctx.now).or_else(|| dues.iter().filter_map(|due| due.at).min()))
}

/// Records what a look found.
pub fn observed(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    health: Option<&Health>,
    agents: &[(AttemptId, Answer)],
) -> Result<Vec<Effect>, TownError> {
    let mut state = State::load(sql)?;
    let config = Config::load(sql)?;
    if let Some(h) = health {
        stops::container_answers(sql, ctx.now)?;
        // Who goes away may not be known by name (it never spoke); then nobody can be told from it.
        let could_be_the_old_one = state.draining(ctx.now) && (h.draining || state.drain_instance.is_none());
        if let Some(id) = &h.instance_id
            && !could_be_the_old_one
        {
            instance::note(sql, ctx, &mut state, &config, id, None)?;
        }
    }
    let mut effects = Vec::new();
    for (id, answer) in agents {
        let Some(attempt) = attempt::find(sql, id)?.filter(Attempt::is_live) else { continue };
        // Heartbeats that came in meanwhile have moved the lease and cleared the look: they know better.
        if attempt.look_until.is_none() {
            continue;
        }
        sql.execute("UPDATE attempts SET look_until = NULL WHERE attempt_id = ?1", &[id.into()])?;
        effects.extend(judge(sql, ctx, &config, &attempt, health, answer)?);
    }
    Ok(effects)
}

fn judge(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    attempt: &Attempt,
    health: Option<&Health>,
    answer: &Answer,
) -> Result<Vec<Effect>, TownError> {
    let Some(health) = health else { return no_answer(sql, ctx, attempt) };
    if let (Some(now), Some(then)) = (&health.instance_id, &attempt.instance_id)
        && now != then
    {
        let f = Failure::new(Code::ContainerLost, None, "another container instance answers");
        finish(sql, ctx, attempt, End::Failed(f))?;
        return Ok(Vec::new());
    }
    let verdict = match status_dispatch_id(answer) {
        // The agent runs, but for another dispatch: this one's process is gone.
        Some(other) if other != attempt.id.0 => StatusVerdict::Gone,
        _ => classify_status(answer),
    };
    let lease = ctx.now.plus(config.dispatch.heartbeat_timeout_ms);
    let instance = health.instance_id.as_deref();
    match verdict {
        StatusVerdict::Running => {
            accept(sql, ctx, &attempt.id)?;
            let mut state = State::load(sql)?;
            proof::prove(sql, ctx, &mut state, config, attempt, lease, instance)?;
            attempt::renew(sql, &attempt.id, lease, Some(ctx.now), instance)?;
        }
        StatusVerdict::Starting => still_starting(sql, ctx, attempt, lease, instance)?,
        StatusVerdict::Exited(why) => {
            let said = why.unwrap_or_else(|| "its process has exited".to_owned());
            let f = classify_completed("completed", Some(&said), None, None, said.contains("container eviction"));
            finish(sql, ctx, attempt, End::Failed(f))?;
        }
        StatusVerdict::Failed(why) => {
            let said = why.unwrap_or_else(|| "its process has failed".to_owned());
            // Our runner says in which phase a start failed; an exit reason of its own is output, not git's word.
            let phase = status_dispatch_id(answer).map(|_| "run");
            finish(sql, ctx, attempt, End::Failed(classify_completed("failed", Some(&said), phase, None, false)))?;
        }
        StatusVerdict::Gone => return gone(sql, ctx, attempt),
        StatusVerdict::NoAnswer => return no_answer_to_status(sql, ctx, config, attempt, answer),
        StatusVerdict::Unclear => unclear(sql, ctx, config, attempt, answer)?,
    }
    Ok(Vec::new())
}

/// `starting` renews the lease, until the boot grace after booking.
fn still_starting(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    attempt: &Attempt,
    lease: Timestamp,
    instance: Option<&str>,
) -> Result<(), TownError> {
    let latest = attempt.boots_until();
    if latest <= ctx.now {
        stops::owe(sql, ctx, attempt, When::Now)?;
        let f = Failure::new(Code::ContainerError, None, "the agent is still starting 15 min after it was booked");
        finish(sql, ctx, attempt, End::Failed(f))?;
        return Ok(());
    }
    accept(sql, ctx, &attempt.id)?;
    attempt::renew(sql, &attempt.id, lease.min(latest), None, instance)
}

/// The start whose answer is missing did not happen, or cannot be asked after.
fn lost_start(attempt: &Attempt) -> Failure {
    let code = attempt.lost_code.as_deref().and_then(Code::parse).unwrap_or(Code::ContainerUnreachable);
    let reason = attempt.lost_reason.clone().unwrap_or_else(|| {
        Failure::new(code, None, "the start was never answered, and the container does not know it").reason
    });
    Failure { code, reason, status_code: None, retry_after: None }
}

fn no_answer(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt) -> Result<Vec<Effect>, TownError> {
    let f = if attempt.outcome == Stage::Pending {
        lost_start(attempt)
    } else {
        Failure::new(Code::ContainerLost, None, "its heartbeat is overdue and the container does not answer")
    };
    stops::owe(sql, ctx, attempt, When::ItAnswers)?;
    finish(sql, ctx, attempt, End::Failed(f))?;
    Ok(Vec::new())
}

/// The container is well and does not know the agent.
fn gone(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt) -> Result<Vec<Effect>, TownError> {
    if attempt.outcome != Stage::Pending {
        // Booked although nothing seems to run: a process that lost its record must not push a branch later.
        stops::owe(sql, ctx, attempt, When::Now)?;
        let f = if attempt.reviving {
            Failure::new(Code::ContainerLost, None, "its container went away, and the next one did not go on with it")
        } else {
            Failure::new(Code::AgentLost, None, "its heartbeat is overdue and the container no longer knows it")
        };
        finish(sql, ctx, attempt, End::Failed(f))?;
        return Ok(Vec::new());
    }
    if attempt.lost_code.is_none() && !attempt.repeated {
        // The object died between booking and call: nobody failed, and the look says that nothing runs.
        return start::again(sql, ctx, attempt);
    }
    stops::owe(sql, ctx, attempt, When::Now)?;
    finish(sql, ctx, attempt, End::Failed(lost_start(attempt)))?;
    Ok(Vec::new())
}

/// `/health` answered, the status call did not.
fn no_answer_to_status(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    attempt: &Attempt,
    answer: &Answer,
) -> Result<Vec<Effect>, TownError> {
    match answer {
        Answer::Unreachable { .. } => no_answer(sql, ctx, attempt),
        Answer::TimedOut { .. } | Answer::Http { .. } => {
            unclear(sql, ctx, config, attempt, answer)?;
            Ok(Vec::new())
        }
    }
}

/// Nothing to go by. A start that was never answered stays pending until its lease ends; after the lease the look is
/// repeated once, one heartbeat timeout later, and then it is the container's error.
fn unclear(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, attempt: &Attempt, answer: &Answer) -> Result<(), TownError> {
    let in_lease = attempt.lease_until.is_some_and(|t| t > ctx.now);
    if in_lease {
        return Ok(());
    }
    if attempt.looks == 0 {
        sql.execute(
            "UPDATE attempts SET looks = 1, lease_until = ?2 WHERE attempt_id = ?1",
            &[(&attempt.id).into(), ctx.now.plus(config.dispatch.heartbeat_timeout_ms).into()],
        )?;
        return Ok(());
    }
    let said = match answer {
        Answer::Http { status, body, .. } => format!("asked twice after the agent, it answered {status}: {body}"),
        Answer::Unreachable { detail } => detail.clone(),
        Answer::TimedOut { .. } => "asked twice after the agent, it did not answer".to_owned(),
    };
    stops::owe(sql, ctx, attempt, When::Now)?;
    finish(sql, ctx, attempt, End::Failed(Failure::new(Code::ContainerError, None, &said)))?;
    Ok(())
}
