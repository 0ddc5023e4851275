//! Container instances: one container process each, known by the id in its heartbeats and its `/health`.

use super::super::Ctx;
use super::super::breakers;
use super::super::config::Config;
use super::super::error::TownError;
use super::super::sql::Sql;
use super::super::state::State;
use super::attempt::Attempt;
use super::breaker::{Event, State as BreakerState};
use super::failure::Code;
use super::stops;

/// Notes which process speaks. Another one than before is a new instance: it ends a drain, is unproven (slow start 1),
/// brings a probe forward, and took the processes of the old one with it.
///
/// `speaker` is the attempt whose heartbeat says so; one that is known to belong to another instance than the town's is
/// a late voice of the old one, and news to nobody. `state` is saved if it changed.
pub fn note(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    state: &mut State,
    config: &Config,
    instance: &str,
    speaker: Option<&Attempt>,
) -> Result<(), TownError> {
    if instance.is_empty() {
        return Ok(());
    }
    if state.drained_instance.as_deref() == Some(instance) {
        // It speaks although its drain is over and nobody took its place: it did not go away. What ends on it from now
        // on is no eviction, or its beads would be started again and again without charge, wait or count.
        if !state.draining(ctx.now) && state.instance_id.as_deref().is_none_or(|known| known == instance) {
            state.drained_instance = None;
            state.instance_id = Some(instance.to_owned());
            return state.save(sql);
        }
        return Ok(());
    }
    if state.instance_id.as_deref() == Some(instance) {
        return Ok(());
    }
    let old_voice = speaker.is_some_and(|a| a.instance_id.as_deref() == Some(instance));
    if old_voice && state.instance_id.is_some() {
        return Ok(());
    }
    if state.draining_since.is_some() {
        if state.drain_instance.is_none() {
            // Who is going away was not known when the drain began: whoever speaks first is taken for it, and a drain
            // that outlasts its limit ends by itself.
            state.drain_instance = Some(instance.to_owned());
            state.drained_instance = Some(instance.to_owned());
            return state.save(sql);
        }
        end_drain(state);
    }
    if state.hold_cause.as_deref() == Some(Code::ContainerDraining.as_str()) {
        state.hold_until = None;
        state.hold_cause = None;
    }
    state.instance_id = Some(instance.to_owned());
    state.slow_start = 1;
    state.save(sql)?;
    stops::forget_other_instances(sql, instance)?;
    for (scope, b) in breakers::all(sql)? {
        if b.state == BreakerState::Open {
            breakers::apply(sql, ctx, state, config, &scope, Event::NewInstance)?;
        }
    }
    Ok(())
}

/// The drain is over: another instance reported, or it took too long.
pub fn end_drain(state: &mut State) {
    state.draining_since = None;
    state.drain_nonce = None;
    state.drain_instance = None;
    state.drain_asked_at = None;
}

/// True if the container instance of this attempt drained: whatever ends it is an eviction.
#[must_use]
pub fn drained(state: &State, attempt: &Attempt) -> bool {
    match (&attempt.instance_id, &state.drained_instance) {
        (Some(its), Some(drained)) => its == drained,
        // Never heard of: it was booked at the instance that was going away.
        (None, _) => state.draining_since.is_some_and(|since| attempt.booked_at <= since),
        (Some(_), None) => false,
    }
}
