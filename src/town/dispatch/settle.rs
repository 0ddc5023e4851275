//! `settle`: how an effect ended becomes rows. Compare-and-set throughout: a late or repeated outcome changes nothing.

use super::super::Ctx;
use super::super::agent::Role;
use super::super::breakers::{self, Scope};
use super::super::config::Config;
use super::super::effect::{Answer, Effect, Observe, Outcome};
use super::super::error::TownError;
use super::super::id::AttemptId;
use super::super::policy::LOOK_LEASE;
use super::super::reconcile;
use super::super::review;
use super::super::sql::Sql;
use super::super::state::State;
use super::super::{container, departed};
use super::super::{live, notify};
use super::attempt::{self, Outcome as Stage};
use super::breaker::Event;
use super::failure::{Code, Failure, StartVerdict, classify_start, status_dispatch_id};
use super::finish::{End, finish};
use super::stops::{self, When};
use super::{instance, look};

/// Records one outcome; the effects it returns are booked.
pub fn settle(sql: &dyn Sql, ctx: &Ctx<'_>, outcome: Outcome) -> Result<Vec<Effect>, TownError> {
    // A town that was deleted while the effect was in the air has nothing left to record.
    if State::find(sql)?.is_none() {
        return Ok(Vec::new());
    }
    let mut effects = record(sql, ctx, outcome)?;
    effects.extend(reconcile::tell_fleet(sql, ctx)?);
    Ok(effects)
}

fn record(sql: &dyn Sql, ctx: &Ctx<'_>, outcome: Outcome) -> Result<Vec<Effect>, TownError> {
    match outcome {
        Outcome::Started { attempt_id, answer, stops } => {
            for (stop_id, said) in &stops {
                stops::settle(sql, ctx, stop_id, said)?;
            }
            started(sql, ctx, &attempt_id, &answer)
        }
        Outcome::Stopped { stop_id, answer } => {
            stops::settle(sql, ctx, &stop_id, &answer)?;
            if matches!(answer, Answer::Http { .. }) {
                stops::container_answers(sql, ctx.now)?;
            }
            Ok(Vec::new())
        }
        Outcome::Observed { health, agents } => look::observed(sql, ctx, health.as_ref(), &agents),
        Outcome::Probed { scope, generation, result } => {
            probed(sql, ctx, &scope, generation, result)?;
            Ok(Vec::new())
        }
        Outcome::Told { what, until, answer } => {
            if matches!(answer, Answer::Http { .. }) {
                stops::container_answers(sql, ctx.now)?;
            }
            container::told(sql, ctx, what, until, &answer)?;
            Ok(Vec::new())
        }
        Outcome::Messaged { agent_id, message_id, answer } => {
            live::settle(sql, ctx, &agent_id, &message_id, &answer)?;
            Ok(Vec::new())
        }
        Outcome::Posted { delivery_id, answer } => {
            notify::settle_post(sql, ctx, &Config::load(sql)?, &delivery_id, &answer)?;
            Ok(Vec::new())
        }
        Outcome::ForgeAnswered { bead_id, call, step, answer } => {
            review::answer::settle(sql, ctx, &bead_id, call, &step, &answer)
        }
        Outcome::Erased { agent_id, erased } => {
            departed::settle(sql, ctx.now, &agent_id, erased)?;
            Ok(Vec::new())
        }
        Outcome::Reported { delivered } => {
            reconcile::fleet_heard(sql, delivered)?;
            Ok(Vec::new())
        }
    }
}

fn started(sql: &dyn Sql, ctx: &Ctx<'_>, id: &AttemptId, answer: &Answer) -> Result<Vec<Effect>, TownError> {
    if matches!(answer, Answer::Http { .. }) {
        stops::container_answers(sql, ctx.now)?;
    }
    let Some(attempt) = attempt::find(sql, id)? else { return Ok(Vec::new()) };
    let verdict = classify_start(answer);
    if !attempt.is_live() {
        // It was ended while the start was in the air. Whatever may run now must not.
        if attempt.outcome != Stage::Succeeded && !matches!(answer, Answer::Http { status: 300.., .. }) {
            stops::owe(sql, ctx, &attempt, When::Now)?;
        }
        return Ok(Vec::new());
    }
    match (verdict, answer) {
        (StartVerdict::Accepted, _) => {
            accept(sql, ctx, id)?;
            if attempt.role == Role::Mayor {
                live::started(sql, ctx, &attempt, status_dispatch_id(answer).is_some())?;
            }
            Ok(Vec::new())
        }
        // No answer: it may have happened. A heartbeat has said so already, or a look will tell.
        (StartVerdict::Failed(_), Answer::Unreachable { .. } | Answer::TimedOut { .. })
            if attempt.outcome != Stage::Pending =>
        {
            Ok(Vec::new())
        }
        (StartVerdict::Failed(f), Answer::Unreachable { .. } | Answer::TimedOut { .. }) => {
            note_lost(sql, ctx, id, &f)?;
            Ok(vec![Effect::ObserveAgents(vec![Observe { attempt_id: id.clone(), agent_id: attempt.agent }])])
        }
        // Not the control server's word, and a heartbeat knows better: the answer was lost on its way through the
        // platform. If the agent has died all the same, its lease ends.
        (StartVerdict::Failed(f), Answer::Http { .. })
            if f.code == Code::ContainerUnavailable && attempt.proven_at.is_some() =>
        {
            Ok(Vec::new())
        }
        (StartVerdict::Failed(f), Answer::Http { .. }) => {
            if f.code == Code::ContainerUnavailable {
                // The platform's own word: whether the request had reached the container, nobody knows.
                stops::owe(sql, ctx, &attempt, When::ItAnswers)?;
            }
            finish(sql, ctx, &attempt, End::Failed(f))?;
            Ok(Vec::new())
        }
    }
}

/// The container took the start: from now on heartbeats are awaited.
pub fn accept(sql: &dyn Sql, ctx: &Ctx<'_>, id: &AttemptId) -> Result<(), TownError> {
    let lease = ctx.now.plus(Config::load(sql)?.dispatch.heartbeat_timeout_ms);
    sql.execute(
        "UPDATE attempts
         SET outcome = 'accepted', accepted_at = ?2, lease_until = ?3, look_until = NULL, lost_code = NULL,
             lost_reason = NULL
         WHERE attempt_id = ?1 AND outcome = 'pending'",
        &[id.into(), ctx.now.into(), lease.into()],
    )?;
    sql.execute(
        "UPDATE attempts SET accepted_at = ?2 WHERE attempt_id = ?1 AND accepted_at IS NULL",
        &[id.into(), ctx.now.into()],
    )?;
    Ok(())
}

/// Remembers why the start's answer is missing, and that somebody looks.
fn note_lost(sql: &dyn Sql, ctx: &Ctx<'_>, id: &AttemptId, f: &Failure) -> Result<(), TownError> {
    sql.execute(
        "UPDATE attempts SET lost_code = ?2, lost_reason = ?3, look_until = ?4 WHERE attempt_id = ?1",
        &[id.into(), f.code.as_str().into(), (&f.reason).into(), ctx.now.plus(LOOK_LEASE).into()],
    )?;
    Ok(())
}

fn probed(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    scope: &str,
    generation: u32,
    result: Result<super::super::effect::Health, String>,
) -> Result<(), TownError> {
    let Some(scope) = Scope::parse(scope) else { return Ok(()) };
    let mut state = State::load(sql)?;
    let config = Config::load(sql)?;
    if breakers::load(sql, &scope)?.generation != generation {
        return Ok(());
    }
    match result {
        Ok(health) => {
            stops::container_answers(sql, ctx.now)?;
            // Before the verdict: a new instance is unproven, whatever the old one had earned.
            if let Some(id) = &health.instance_id {
                instance::note(sql, ctx, &mut state, &config, id, None)?;
            }
            breakers::apply(sql, ctx, &state, &config, &scope, Event::HealthOk)?;
        }
        Err(_) => {
            breakers::apply(sql, ctx, &state, &config, &scope, Event::HealthFailed)?;
        }
    }
    Ok(())
}
