//! The container's registry: which agents it runs, so that the next container process can go on with them
//! (`domain.md` 9).
//!
//! *What is kept.* The list as the container sends it, without secrets: variables whose names or values are credentials are
//! dropped, and so is what looks like one in any other text. *What is handed out* is not that list. It is a start request
//! for each live attempt that may go on, made afresh from the town's rows, with the attempt's `dispatchId`, so that the
//! process speaks for the same attempt: nothing is booked or charged again. Of secrets it holds one: the container token
//! that the object makes for this very answer. (Git credentials are fetched by `refresh-git-token`.)
//!
//! *Guarantees.* The answer passes the gate: nothing while a breaker is open, in a drain or a hold; no more than the slow
//! start and the limits allow; an attempt goes on in another container once, or a bead that kills containers would go on
//! for ever. What is not handed out is found by its lease, and re-queued.

use super::Ctx;
use super::agent::{self, Role};
use super::bead;
use super::breakers::Scope;
use super::config::is_secret_name;
use super::dispatch::attempt::{self, Attempt, Outcome};
use super::dispatch::breaker::State as BreakerState;
use super::dispatch::gate::View;
use super::dispatch::start;
use super::drain;
use super::error::TownError;
use super::id::RigId;
use super::json::{self, json};
use super::policy::REGISTRY_BYTES;
use super::sorted::Sorted;
use super::sql::{Sql, SqlError, first};
use super::{live, prompts, text};
use serde_json::{Map, Value as Json};

/// Keeps the list; what is no entry is left out. 413 over [`REGISTRY_BYTES`].
pub fn store(sql: &dyn Sql, ctx: &Ctx<'_>, mut entries: Vec<Json>) -> Result<Json, TownError> {
    entries.retain(|e| e.get("agentId").is_some_and(Json::is_string));
    entries.iter_mut().for_each(strip);
    let (kept, text) = (entries.len(), Json::Array(entries).to_string());
    if text.len() > REGISTRY_BYTES {
        let text = format!("the registry has {} bytes; at most {REGISTRY_BYTES} are kept", text.len());
        return Err(TownError::too_large(text));
    }
    sql.execute(
        "INSERT INTO container_registry (id, entries, stored_at)
         VALUES (1, ?1, ?2)
         ON CONFLICT (id) DO UPDATE SET entries = excluded.entries, stored_at = excluded.stored_at",
        &[(&text).into(), ctx.now.into()],
    )?;
    Ok(json!({"stored": kept}))
}

/// Takes secrets out. JSON that was parsed is at most 128 deep.
fn strip(value: &mut Json) {
    match value {
        Json::Object(map) => {
            map.retain(|key, v| !v.is_string() || !is_secret_name(key));
            map.values_mut().for_each(strip);
        }
        Json::Array(list) => list.iter_mut().for_each(strip),
        Json::String(said) => {
            let clean = text::redact(said);
            if clean != *said {
                *said = clean;
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// A container process boots and asks what it shall run. It is a new instance if it says so, or if one was evicted.
pub fn read(sql: &dyn Sql, ctx: &Ctx<'_>, instance: Option<&str>) -> Result<Json, TownError> {
    drain::registry_read(sql, ctx, instance)?;
    let view = View::load(sql, ctx.now)?;
    let closed = |scope: &Scope| view.effective(scope) == BreakerState::Closed;
    if !view.town_admits() || !closed(&Scope::Town) {
        return Ok(json!([]));
    }
    let stored = stored(sql)?;
    let (mut room, mut town) = (view.starts_left(), view.config.dispatch.max_agents);
    let mut rigs: Sorted<RigId, u32> = Sorted::new();
    let mut handed = Vec::new();
    for attempt in attempt::live(sql)? {
        let Some(entry) = stored.get(&attempt.agent.0) else { continue };
        // It was handed to this very process, which has not spoken for it: the answer was lost, and is given again.
        let again = attempt.reviving && attempt.instance_id.is_some() && attempt.instance_id.as_deref() == instance;
        if !again && (room == 0 || !may_go_on(&attempt, instance)) {
            continue;
        }
        if let Some(rig) = attempt.rig.as_ref().and_then(|id| view.rigs.get(id)) {
            let in_rig = rigs.get(&rig.id).copied().unwrap_or_else(|| view.polecat_limit(rig));
            let polecat = attempt.role == Role::Polecat;
            if !closed(&Scope::Rig(rig.id.clone())) || (polecat && (town == 0 || in_rig == 0)) {
                continue;
            }
            town -= u32::from(polecat);
            rigs.insert(rig.id.clone(), in_rig.saturating_sub(u32::from(polecat)));
        }
        let Some(request) = request(sql, &view, &attempt, entry)? else { continue };
        revive(sql, ctx, &view, &attempt, instance)?;
        room -= u32::from(!again);
        handed.push(json!({
            "agentId": attempt.agent,
            "request": request,
            "workdir": entry.get("workdir").and_then(Json::as_str).unwrap_or_default(),
            "env": entry.get("env").filter(|e| e.is_object()).cloned().unwrap_or_else(|| json!({})),
        }));
    }
    Ok(Json::Array(handed))
}

/// What was stored, by agent.
fn stored(sql: &dyn Sql) -> Result<Sorted<String, Json>, TownError> {
    let row = first(sql, "SELECT entries FROM container_registry WHERE id = 1", &[])?;
    let text = row.map_or_else(|| Ok("[]".to_owned()), |r| r.text(0))?;
    let entries = match json::read(&text) {
        Some(Json::Array(entries)) => entries,
        _ => Vec::new(),
    };
    let named = |e: Json| e.get("agentId").and_then(Json::as_str).map(str::to_owned).map(|id| (id, e));
    Ok(entries.into_iter().filter_map(named).collect())
}

/// Its process has run, not in this very instance, and it did not go on once already. A start still in the air is on its
/// way to whoever answers.
fn may_go_on(attempt: &Attempt, instance: Option<&str>) -> bool {
    let here = instance.is_some() && attempt.instance_id.as_deref() == instance;
    attempt.outcome != Outcome::Pending && attempt.revived_at.is_none() && !here
}

/// The start request of an attempt as it would be made now, without secrets. A mayor has no bead to make it from: what its
/// container said is handed back, for this attempt, but not the prompt once that was read: it would be acted on twice.
fn request(sql: &dyn Sql, view: &View, attempt: &Attempt, entry: &Json) -> Result<Option<Json>, TownError> {
    let bead = attempt.bead.as_ref().map(|id| bead::find(sql, id)).transpose()?.flatten();
    let rig = attempt.rig.as_ref().and_then(|id| view.rigs.get(id));
    let mut request = match (bead, agent::find(sql, &attempt.agent)?, rig) {
        (Some(bead), Some(agent), Some(rig)) => {
            let made = start::request(sql, view, &bead, &agent, rig, &attempt.id)?;
            // As text, as every start is written: a second way to write it would be 5 KB of the worker.
            let text = serde_json::to_string(&made).map_err(|e| SqlError::new(e.to_string()))?;
            json::read(&text).unwrap_or_default()
        }
        (None, Some(_), _) => entry.get("request").filter(|r| r.is_object()).cloned().unwrap_or(Json::Null),
        _ => Json::Null,
    };
    let Some(map) = request.as_object_mut() else { return Ok(None) };
    map.insert("dispatchId".to_owned(), json!(attempt.id));
    if attempt.bead.is_none() {
        // Once a mayor was heard of, it has read what its start carried. Before, that goes along as it is now: what its
        // container keeps may be of an earlier start.
        let unread = attempt.proven_at.is_none();
        let said = if unread { live::carry(sql, &attempt.agent, attempt.id.as_str())? } else { None };
        map.insert("prompt".to_owned(), json!(said.as_deref().unwrap_or(prompts::RESUMED)));
    }
    if let Some(env) = map.get_mut("envVars") {
        strip(env);
    } else {
        map.insert("envVars".to_owned(), Json::Object(Map::new()));
    }
    Ok(Some(request))
}

/// From now on the attempt is a start in flight, in the instance that reads.
fn revive(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    view: &View,
    attempt: &Attempt,
    instance: Option<&str>,
) -> Result<(), TownError> {
    let dispatch = &view.config.dispatch;
    let lease = ctx.now.plus(dispatch.start_timeout_ms).plus(dispatch.heartbeat_timeout_ms);
    sql.execute(
        "UPDATE attempts
         SET revived_at = coalesce(revived_at, ?2), reviving = 1, lease_until = ?3, instance_id = ?4, looks = 0, look_until = NULL,
             last_event_at = NULL
         WHERE attempt_id = ?1 AND finished_at IS NULL",
        &[(&attempt.id).into(), ctx.now.into(), lease.into(), instance.into()],
    )?;
    if let Some(pulses) = ctx.pulses {
        pulses.forget(&attempt.agent);
    }
    Ok(())
}
