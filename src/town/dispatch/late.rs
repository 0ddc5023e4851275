//! Voices: what agents and their container say of themselves. Facts are applied when they arrive.
//!
//! Our runner names the attempt on every call; without that name the agent's live attempt is meant, else its last. A
//! voice of an attempt that has ended is a *late voice*: it must neither revive nor repeat anything.

use super::super::Ctx;
use super::super::agent::Role;
use super::super::bead::{self, Bead, Because, Status};
use super::super::command::{Actor, Heartbeat};
use super::super::config::Config;
use super::super::error::TownError;
use super::super::id::{AgentId, AttemptId};
use super::super::policy::{INSTANCE_BYTES, LATE_STOP_EVERY};
use super::super::pulse;
use super::super::reconcile::inactivity;
use super::super::review::{self, pull_request};
use super::super::sql::Sql;
use super::super::state::State;
use super::super::{agent, text};
use super::attempt::{self, Attempt, Outcome};
use super::failure::classify_completed;
use super::finish::{End, finish};
use super::settle::accept;
use super::stops::{self, When};
use super::{instance, proof};

/// The attempt that a call speaks for.
pub fn speaker(sql: &dyn Sql, agent: &AgentId, dispatch: Option<&str>) -> Result<Option<Attempt>, TownError> {
    if let Some(id) = dispatch.filter(|id| !id.is_empty()) {
        let named = attempt::find(sql, &AttemptId::from(id))?;
        return match named {
            Some(a) if a.agent != *agent => {
                Err(TownError::forbidden(format!("Dispatch {id} belongs to another agent than {agent}")))
            }
            found => Ok(found),
        };
    }
    match attempt::live_of_agent(sql, agent)? {
        Some(live) => Ok(Some(live)),
        None => attempt::last_of_agent(sql, agent),
    }
}

/// What a heartbeat did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Only a lease moved later: no deadline moved earlier.
    pub quiet: bool,
    /// The nonce of the drain that this heartbeat of another instance ended: its container acknowledges with it.
    pub drain_nonce: Option<String>,
}

impl Beat {
    const fn new(quiet: bool) -> Self {
        Self { quiet, drain_nonce: None }
    }
}

/// A heartbeat: renews the lease, proves a running agent, or is a late voice.
///
/// An unknown agent gets 200 and no effect (`protocol.md` 4.7).
pub fn heartbeat(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, body: &Heartbeat) -> Result<Beat, TownError> {
    if ctx.pulses.is_some_and(|pulses| pulses.takes(sql, ctx.now, agent, body)) {
        return Ok(Beat::new(true));
    }
    let Some(attempt) = speaker(sql, agent, body.dispatch_id.as_deref())? else { return Ok(Beat::new(true)) };
    let mut state = State::load(sql)?;
    let config = Config::load(sql)?;
    let instance = body.container_instance_id.as_deref().filter(|i| (1..=INSTANCE_BYTES).contains(&i.len()));
    if !attempt.is_live() {
        return late_heartbeat(sql, ctx, &attempt);
    }
    // A look under way stands for every lease; this voice answers it, so they count again by themselves.
    let mut beat = Beat::new(attempt.look_until.is_none());
    if let Some(id) = instance
        && (state.instance_id.as_deref() != Some(id) || state.drained_instance.as_deref() == Some(id))
    {
        let nonce = state.drain_nonce.clone();
        instance::note(sql, ctx, &mut state, &config, id, Some(&attempt))?;
        beat = Beat { quiet: false, drain_nonce: nonce.filter(|_| state.draining_since.is_none()) };
    }
    let starting = body.status.as_deref() == Some("starting");
    let latest = attempt.boots_until();
    let lease = ctx.now.plus(config.dispatch.heartbeat_timeout_ms);
    let lease = if starting { lease.min(latest).max(ctx.now.plus(1)) } else { lease };
    // It may have moved earlier: the booking's is longer than a heartbeat's, a setting may have been lowered, and the
    // clock may have stepped back since this deadline was set or the object was made.
    let was = pulse::deadline(ctx, &attempt, config.dispatch.heartbeat_timeout_ms);
    beat.quiet &= was.is_some_and(|was| was <= lease);
    if starting {
        attempt::renew(sql, &attempt.id, lease, Some(ctx.now), instance)?;
        if let Some(pulses) = ctx.pulses {
            pulses.forget(agent);
        }
        return Ok(beat);
    }
    if attempt.proven_at.is_none() {
        accept(sql, ctx, &attempt.id)?;
        proof::prove(sql, ctx, &mut state, &config, &attempt, lease, instance)?;
        return Ok(Beat { quiet: false, ..beat });
    }
    let event_at = pulse::beat(sql, ctx, &attempt, lease, instance, body)?;
    beat.quiet &= !inactivity::heard(sql, ctx, &state, &attempt, event_at, body)?;
    Ok(beat)
}

/// 200, and once a minute its process is told to stop.
fn late_heartbeat(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt) -> Result<Beat, TownError> {
    let told = attempt.late_stop_at.is_some_and(|t| ctx.now.since(t) < LATE_STOP_EVERY);
    // A stop names the agent: it would end the process that is wanted.
    if told || attempt::live_of_agent(sql, &attempt.agent)?.is_some() {
        return Ok(Beat::new(true));
    }
    sql.execute(
        "UPDATE attempts SET late_stop_at = ?2 WHERE attempt_id = ?1",
        &[(&attempt.id).into(), ctx.now.into()],
    )?;
    stops::owe(sql, ctx, attempt, When::Now)?;
    Ok(Beat::new(false))
}

/// An agent changed something: that is proof, if it still may.
pub fn acted(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, actor: &Actor) -> Result<(), TownError> {
    // A person, or another agent, that speaks of this one is no sign of its life.
    if !matches!(actor, Actor::Container { agent_id, .. } if agent_id.as_ref().is_none_or(|a| a == agent)) {
        return Ok(());
    }
    let Some(attempt) = speaker(sql, agent, actor.dispatch())?.filter(Attempt::is_live) else { return Ok(()) };
    let mut state = State::load(sql)?;
    let config = Config::load(sql)?;
    let lease = ctx.now.plus(config.dispatch.heartbeat_timeout_ms);
    proof::prove(sql, ctx, &mut state, &config, &attempt, lease, None)
}

/// True if a process speaks whose dispatch is over: it is told to stop, so what it is told is lost.
pub fn is_late(sql: &dyn Sql, agent: &AgentId, actor: &Actor) -> Result<bool, TownError> {
    let speaks = matches!(actor, Actor::Container { .. });
    Ok(speaks && speaker(sql, agent, actor.dispatch())?.is_some_and(|a| !a.is_live()))
}

/// What an agent hands in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work<'a> {
    /// The pushed branch; none = nothing to review.
    pub branch: Option<&'a str>,
    /// A pull request, with merge strategy `pr`.
    pub pr_url: Option<&'a str>,
    /// What was done.
    pub summary: Option<&'a str>,
}

/// `done`: the work is finished. Applied at once, once per attempt.
pub fn done(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, agent: &AgentId, work: &Work<'_>) -> Result<(), TownError> {
    let rig = agent::get(sql, agent)?.rig_id;
    let Some(attempt) = speaker(sql, agent, actor.dispatch())? else {
        return Err(TownError::conflict("idle", format!("Agent {agent} has no dispatch that could be done")));
    };
    if attempt.outcome == Outcome::Succeeded {
        return Ok(());
    }
    let Some(bead_id) = attempt.bead.clone() else {
        finish(sql, ctx, &attempt, End::Succeeded)?;
        return Ok(());
    };
    let bead = bead::get(sql, &bead_id)?;
    if let Some(url) = work.pr_url {
        let known = review::find(sql, &bead_id)?.is_some_and(|mr| mr.pr_url.is_some());
        pull_request::check(sql, rig.as_ref(), known, url)?;
    }
    if !attempt.is_live() {
        return late_done(sql, ctx, &attempt, bead, agent, work);
    }
    finish(sql, ctx, &attempt, End::Succeeded)?;
    hand_in(sql, ctx, &attempt, bead::get(sql, &bead_id)?, agent, work)
}

fn hand_in(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    attempt: &Attempt,
    mut bead: Bead,
    agent: &AgentId,
    work: &Work<'_>,
) -> Result<(), TownError> {
    // A summary goes into events, mail and merge requests: what agents print there must not carry keys.
    let summary = work.summary.map(text::redact);
    let work = &Work { summary: summary.as_deref(), ..*work };
    match (attempt.role, work.branch) {
        // What a forge decides is asked of the forge, also if the refinery merged there by itself.
        (Role::Refinery, _) if work.pr_url.is_some() || review::request(sql, &bead.id)?.pr_url.is_some() => {
            pull_request::watch(sql, ctx, &mut bead, work.pr_url)
        }
        (Role::Refinery, _) => {
            let message = work.summary.unwrap_or("merged by the refinery");
            review::settle(sql, ctx, &mut bead, review::Verdict::Merged, message, None)
        }
        (_, Some(branch)) if !bead.closes_on_done() => review::submit(sql, ctx, &mut bead, Some(agent), branch, work),
        _ => {
            let reason = work.summary.unwrap_or("done");
            let because = Because { agent: Some(agent), ..Because::of(agent.as_str(), text::cut(reason, 500)) };
            bead::transition(sql, ctx, &mut bead, Status::Closed, because)
        }
    }
}

/// Finished work is not thrown away: while the bead is still open, the re-queue is undone.
fn late_done(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    attempt: &Attempt,
    bead: Bead,
    agent: &AgentId,
    work: &Work<'_>,
) -> Result<(), TownError> {
    if bead.status != Status::Open {
        return Err(TownError::conflict(
            bead.status.as_str(),
            format!(
                "Dispatch {} ended as {}, and bead {} is {} now; this work came too late",
                attempt.id,
                attempt.outcome.as_str(),
                bead.id,
                bead.status.as_str()
            ),
        ));
    }
    if let Some(hooked) = agent::hooked_to(sql, &bead.id)? {
        agent::unhook(sql, ctx, &hooked.id, &bead.id, "its work came in late")?;
    }
    sql.execute(
        "UPDATE attempts
         SET outcome = 'succeeded', class = NULL, code = NULL, reason = NULL, fingerprint = NULL, counts_in = NULL
         WHERE attempt_id = ?1",
        &[(&attempt.id).into()],
    )?;
    sql.execute(
        "UPDATE beads
         SET dispatch_attempts = 0, failure_streak = 0, next_dispatch_at = NULL, not_before = NULL,
             review_not_before = NULL,
             -- the failure that is undone is no evidence against the bead any more; those before it are
             last_failed_at = CASE WHEN last_failed_at IS NULL THEN NULL
                                   ELSE (SELECT max(t.finished_at) FROM attempts t
                                         WHERE t.bead_id = ?1 AND t.outcome = 'failed') END
         WHERE bead_id = ?1",
        &[(&bead.id).into()],
    )?;
    stops::forget(sql, &attempt.id)?;
    hand_in(sql, ctx, attempt, bead, agent, work)
}

/// `completed`: the process has ended. After `done` it is the expected epilogue and changes nothing.
pub fn completed(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    agent: &AgentId,
    said: &Completion<'_>,
) -> Result<(), TownError> {
    if !matches!(said.status, "completed" | "failed") {
        return Err(TownError::malformed("status must be completed or failed"));
    }
    let Some(attempt) = speaker(sql, agent, actor.dispatch())?.filter(Attempt::is_live) else { return Ok(()) };
    let state = State::load(sql)?;
    let evicted = state.draining_since.is_some() && said.reason.is_some_and(|r| r.contains("container eviction"));
    let drained = evicted || instance::drained(&state, &attempt);
    let f = classify_completed(said.status, said.reason, said.phase, said.model_status, drained);
    finish(sql, ctx, &attempt, End::Failed(f))?;
    Ok(())
}

/// The body of `completed`.
#[derive(Clone, Copy, Debug)]
pub struct Completion<'a> {
    /// `completed` or `failed`.
    pub status: &'a str,
    /// Why it ended.
    pub reason: Option<&'a str>,
    /// `repository`, `initial_prompt` or `run`.
    pub phase: Option<&'a str>,
    /// The model provider's last status.
    pub model_status: Option<u16>,
}
