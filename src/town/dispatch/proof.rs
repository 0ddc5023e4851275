//! Proof: the first sign of life of an agent, or any change that it makes. It widens the slow start, breaks a row of
//! failures, and may ripen a trial.

use super::super::Ctx;
use super::super::breakers::{self, Scope};
use super::super::config::Config;
use super::super::error::TownError;
use super::super::live;
use super::super::redrive;
use super::super::rig;
use super::super::sql::Sql;
use super::super::state::State;
use super::super::time::Timestamp;
use super::attempt::Attempt;
use super::breaker::Event;

/// Marks a live attempt as proven, once; repeated proofs change nothing.
///
/// `state` is saved.
pub fn prove(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &mut State,
    config: &Config,
    attempt: &Attempt,
    lease_until: Timestamp,
    instance: Option<&str>,
) -> Result<(), TownError> {
    let changed = sql.execute(
        "UPDATE attempts
         SET outcome = 'proven', proven_at = ?2, accepted_at = coalesce(accepted_at, ?2), lease_until = ?3, looks = 0,
             look_until = NULL, last_heartbeat_at = ?2, instance_id = coalesce(?4, instance_id)
         WHERE attempt_id = ?1 AND finished_at IS NULL AND proven_at IS NULL",
        &[(&attempt.id).into(), ctx.now.into(), lease_until.into(), instance.into()],
    )?;
    if changed == 0 {
        return Ok(());
    }
    state.note_proof(attempt.bead.as_ref(), ctx.now);
    state.hold_streak = 0;
    let limit = config.dispatch.max_starts_in_flight;
    state.slow_start = state.slow_start.max(1).saturating_mul(2).min(limit.max(1));
    state.save(sql)?;
    if let Some(rig) = &attempt.rig {
        rig::note_proof(sql, rig, ctx.now)?;
    }
    if let Some(bead) = &attempt.bead {
        redrive::proven(sql, ctx, bead)?;
    }
    live::proven(sql, ctx, attempt)?;
    if attempt.probe {
        for scope in [Some(Scope::Town), attempt.rig.clone().map(Scope::Rig)].into_iter().flatten() {
            breakers::apply(sql, ctx, state, config, &scope, Event::Proven(attempt.id.clone()))?;
        }
    }
    up_to_speed(sql, ctx, state, config)
}

/// Ends the episodes that wait for the slow start, if it has reached its limit.
pub fn up_to_speed(sql: &dyn Sql, ctx: &Ctx<'_>, state: &State, config: &Config) -> Result<(), TownError> {
    if state.slow_start < config.dispatch.max_starts_in_flight {
        return Ok(());
    }
    for (scope, b) in breakers::all(sql)? {
        if !b.settled {
            breakers::apply(sql, ctx, state, config, &scope, Event::UpToSpeed)?;
        }
    }
    Ok(())
}
