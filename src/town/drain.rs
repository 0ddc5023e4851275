//! Drain and eviction: the container is going away, and says so.

use super::Ctx;
use super::agent;
use super::bead::{self, Status};
use super::breakers;
use super::config::Config;
use super::dispatch::attempt::Attempt;
use super::dispatch::{instance, late};
use super::effect::Effect;
use super::error::TownError;
use super::id::AgentId;
use super::json::json;
use super::policy::{BODY_BYTES, DRAIN_LIMIT, DRAIN_LOOK_EVERY};
use super::sql::Sql;
use super::state::State;
use super::text;
use super::time::Timestamp;
use serde_json::Value as Json;

/// `POST container-eviction`: the gate holds, heartbeat deadlines are suspended. Repeating it keeps the nonce.
pub fn begin(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Json, TownError> {
    let mut state = State::load(sql)?;
    if !state.draining(ctx.now) {
        state.draining_since = Some(ctx.now);
        state.drain_nonce = Some(ctx.ids.uuid());
        state.drain_instance.clone_from(&state.instance_id);
        state.drained_instance.clone_from(&state.instance_id);
        state.save(sql)?;
    }
    Ok(json!({"acknowledged": true, "drainNonce": state.drain_nonce}))
}

/// `POST container-ready`: the current nonce ends the drain. Without a drain there is nothing to clear, which is fine.
pub fn ready(sql: &dyn Sql, ctx: &Ctx<'_>, nonce: &str) -> Result<Json, TownError> {
    if nonce.is_empty() {
        return Err(TownError::malformed("Missing required field: nonce"));
    }
    let mut state = State::load(sql)?;
    if !state.draining(ctx.now) {
        return Ok(json!({"cleared": true}));
    }
    let cleared = state.drain_nonce.as_deref() == Some(nonce);
    if cleared {
        succeed(sql, ctx, &mut state, &Config::load(sql)?)?;
    }
    Ok(json!({"cleared": cleared}))
}

/// Another process has taken over, unproven until it shows a sign of life; by name it is not known yet.
fn succeed(sql: &dyn Sql, ctx: &Ctx<'_>, state: &mut State, config: &Config) -> Result<(), TownError> {
    instance::end_drain(state);
    state.slow_start = 1;
    state.instance_id = None;
    state.save(sql)?;
    for (scope, b) in breakers::all(sql)? {
        if b.state == super::dispatch::breaker::State::Open {
            let event = super::dispatch::breaker::Event::NewInstance;
            breakers::apply(sql, ctx, state, config, &scope, event)?;
        }
    }
    Ok(())
}

/// `GET container-registry`: only a container that boots asks. The first one after an eviction is another instance, even if
/// it does not say its name; and whoever says one is known by it.
pub fn registry_read(sql: &dyn Sql, ctx: &Ctx<'_>, instance: Option<&str>) -> Result<(), TownError> {
    let mut state = State::load(sql)?;
    let config = Config::load(sql)?;
    let drained = state.drained_instance.clone();
    let evicted = state.draining_since.is_some() || (drained.is_some() && state.instance_id == drained);
    if evicted && (instance.is_none() || instance != drained.as_deref()) {
        succeed(sql, ctx, &mut state, &config)?;
    }
    match instance {
        Some(id) => instance::note(sql, ctx, &mut state, &config, id, None),
        None => Ok(()),
    }
}

/// `GET drain-status`.
pub fn status(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Json, TownError> {
    let state = State::load(sql)?;
    let draining = state.draining(ctx.now);
    Ok(json!({
        "draining": draining,
        "drainNonce": state.drain_nonce.filter(|_| draining),
        "drainStartedAt": state.draining_since.filter(|_| draining),
    }))
}

/// A drain that outlasts its limit is over: the container is taken for dead, and looks go on.
pub fn expire(sql: &dyn Sql, ctx: &Ctx<'_>, state: &mut State) -> Result<(), TownError> {
    if state.draining_since.is_some() && !state.draining(ctx.now) {
        instance::end_drain(state);
        state.save(sql)?;
    }
    Ok(())
}

/// Part of rule 2: while a drain holds something back, the container is asked who it is. An answer of another instance
/// ends the drain (`dispatch::look`).
///
/// *Guarantees*: one question every [`DRAIN_LOOK_EVERY`], only while something waits, none after the drain.
/// *Assumptions*: a draining container says so in its `/health`.
pub fn ask(sql: &dyn Sql, ctx: &Ctx<'_>, state: &mut State, waits: bool) -> Result<Option<Effect>, TownError> {
    if !waits || next_look(state).is_none_or(|at| at > ctx.now) {
        return Ok(None);
    }
    state.drain_asked_at = Some(ctx.now);
    state.save(sql)?;
    Ok(Some(Effect::ObserveAgents(Vec::new())))
}

/// When the container is to be asked next; none without a drain.
#[must_use]
pub fn next_look(state: &State) -> Option<Timestamp> {
    let since = state.draining_since.filter(|_| state.drain_instance.is_some())?;
    Some(state.drain_asked_at.unwrap_or(since).plus(DRAIN_LOOK_EVERY))
}

/// When a drain that nobody ends is over.
#[must_use]
pub fn next_deadline(state: &State) -> Option<Timestamp> {
    state.draining_since.map(|since| since.plus(DRAIN_LIMIT))
}

/// `POST eviction-context`: an agent saved its work on a branch; its bead goes on from there. That is the bead of the dispatch
/// that speaks: the agent may have another one by now, which must not go on with this work.
pub fn saved(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    dispatch: Option<&str>,
    id: &AgentId,
    branch: &str,
    name: &str,
    saved_at: &str,
) -> Result<(), TownError> {
    let agent = agent::get(sql, id)?;
    let attempt = late::speaker(sql, id, dispatch)?;
    let live = attempt.as_ref().is_none_or(Attempt::is_live);
    let Some(hook) = &attempt.map_or(agent.hook, |a| a.bead) else { return Ok(()) };
    // Of a dispatch that is over only what nobody has begun anew.
    let Some(bead) = bead::find(sql, hook)?.filter(|b| live || b.status == Status::Open) else { return Ok(()) };
    let note = format!(
        "\n\n---\nThe container was evicted at {saved_at}. {name} had saved its work on branch {branch}; go on from there."
    );
    let body = bead.body.unwrap_or_default();
    // The note matters more than the tail of a body that fills its cap.
    let kept = text::cut(&body, BODY_BYTES.saturating_sub(note.len()));
    let mut metadata = bead.metadata;
    if let Some(map) = metadata.as_object_mut() {
        map.insert("resume_branch".to_owned(), json!(branch));
    }
    sql.execute(
        "UPDATE beads SET body = ?2, metadata = ?3, updated_at = ?4 WHERE bead_id = ?1",
        &[hook.into(), (&format!("{kept}{note}")).into(), (&metadata.to_string()).into(), ctx.now.into()],
    )?;
    Ok(())
}
