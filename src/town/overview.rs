//! The town at a glance: `GET /dispatch` and the debug status.

use super::Ctx;
use super::agent;
use super::breakers::{self, Scope};
use super::dispatch::attempt;
use super::dispatch::breaker::State as BreakerState;
use super::dispatch::gate::View;
use super::error::TownError;
use super::event;
use super::id::RigId;
use super::json::json;
use super::mayor;
use super::policy::{FAILURES_SHOWN, LIST_MAX};
use super::pulse;
use super::reconcile::wake;
use super::sorted::Sorted;
use super::sql::{Sql, first};
use super::state::State;
use super::time::{HOUR, Timestamp};
use serde_json::{Map, Value as Json};

/// Events in the status snapshot (`protocol.md` 2.12).
const RECENT_EVENTS: u32 = 20;
/// Counts of one index are not walked further than this.
const COUNTED: u32 = 10_000;

/// `api.md`, *Dispatch*; the object adds `alarm` and `cost`.
pub fn dispatch(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Json, TownError> {
    let view = View::load(sql, ctx.now)?;
    let live = attempt::live(sql)?;
    let in_flight: Vec<_> = live.iter().filter(|a| a.in_flight(ctx.now)).collect();
    let hold = view.state.hold(ctx.now).map(|until| json!({"until": until, "cause": view.state.hold_cause}));
    let (ready, holds) = waiting(sql, &view)?;
    Ok(json!({
        "now": ctx.now,
        "next_wake": wake::next_wake(sql, ctx)?,
        "alarm": null,
        "breakers": show_breakers(sql, ctx.now, &view)?,
        "hold": hold,
        "slow_start": view.starts_limit(),
        "ready": ready,
        "running": live.len(),
        "in_flight": in_flight,
        "holds": holds,
        "failures": failures(sql, ctx.now)?,
        "limits": {
            "max_agents": view.config.dispatch.max_agents,
            "max_polecats_per_rig": view.config.dispatch.max_polecats_per_rig,
            "max_starts_in_flight": view.config.dispatch.max_starts_in_flight,
        },
        "mayor": mayor::overview(sql, &view)?,
        "draining": view.state.draining(ctx.now),
        "invariant_violations": view.state.invariant_violations,
        "cost": null,
    }))
}

/// Every breaker in `api.md`'s shape: the town first, a rig once it has a row.
pub fn show_breakers(sql: &dyn Sql, now: Timestamp, view: &View) -> Result<Vec<Json>, TownError> {
    let default = breakers::load(sql, &Scope::Town)?;
    let mut shown = vec![breakers::show(sql, &view.state, &view.config, &Scope::Town, &default, now)?];
    for (scope, b) in view.breakers.iter().filter(|(s, _)| **s != Scope::Town) {
        shown.push(breakers::show(sql, &view.state, &view.config, scope, b, now)?);
    }
    Ok(shown)
}

fn count(sql: &dyn Sql, text: &'static str) -> Result<u32, TownError> {
    Ok(first(sql, text, &[COUNTED.into()])?.map_or(Ok(0), |r| r.count(0))?)
}

/// Beads that could start but for the town, and how many each kind of hold keeps: by index, not the gate run per bead.
fn waiting(sql: &dyn Sql, view: &View) -> Result<(u32, Vec<Json>), TownError> {
    let ready = count(
        sql,
        "SELECT count(*)
         FROM (SELECT 1 FROM beads INDEXED BY beads_ready
               WHERE rig_id IS NOT NULL AND status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0
                 AND open_blockers = 0 AND not_before IS NULL AND type IN ('issue', 'merge_request')
               LIMIT ?1)",
    )?;
    let mut holds: Vec<(&str, u32)> = vec![
        (
            "held_label",
            count(
                sql,
                "SELECT count(*) FROM (SELECT 1 FROM beads INDEXED BY beads_held WHERE status = 'open' AND held = 1 LIMIT ?1)",
            )?,
        ),
        (
            "blocked",
            count(
                sql,
                "SELECT count(*) FROM (SELECT 1 FROM beads INDEXED BY beads_blocked WHERE status = 'open' AND open_blockers > 0 LIMIT ?1)",
            )?,
        ),
        (
            "convoy_staged",
            count(
                sql,
                "SELECT count(*) FROM (SELECT 1 FROM beads INDEXED BY beads_staged WHERE status = 'open' AND staged = 1 LIMIT ?1)",
            )?,
        ),
        (
            "backoff",
            count(
                sql,
                "SELECT count(*)
                 FROM (SELECT 1 FROM beads INDEXED BY beads_waiting
                       WHERE status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0 AND open_blockers = 0
                         AND not_before IS NOT NULL AND type IN ('issue', 'merge_request')
                       LIMIT ?1)",
            )?,
        ),
        (
            "no_rig_config",
            count(
                sql,
                "SELECT count(*)
                 FROM (SELECT 1 FROM beads INDEXED BY beads_ready
                       WHERE rig_id IS NULL AND status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0
                         AND open_blockers = 0 AND not_before IS NULL AND type IN ('issue', 'merge_request')
                       LIMIT ?1)",
            )?,
        ),
    ];
    let town = view.effective(&Scope::Town);
    match town {
        BreakerState::Open => holds.push(("breaker_open", ready)),
        BreakerState::HalfOpen => holds.push(("probe_running", ready)),
        BreakerState::Closed => {}
    }
    if view.state.hold(view.now).is_some() {
        holds.push(("town_hold", ready));
    }
    if view.state.draining(view.now) {
        holds.push(("draining", ready));
    }
    if view.starts_left() == 0 {
        holds.push(("starts_in_flight", ready));
    }
    if view.load.polecats_in_town >= view.config.dispatch.max_agents {
        holds.push(("town_agents", ready));
    }
    holds.extend(rig_holds(sql, view)?);
    let shown = holds.into_iter().filter(|(_, n)| *n > 0).map(|(code, beads)| json!({"code": code, "beads": beads}));
    Ok((ready, shown.collect()))
}

/// Beads that only their rig holds back: its breaker, its limit, its busy refinery. One count per affected rig.
fn rig_holds(sql: &dyn Sql, view: &View) -> Result<Vec<(&'static str, u32)>, TownError> {
    let queued = |rig: &RigId, kind: &'static str| -> Result<u32, TownError> {
        let row = first(
            sql,
            "SELECT count(*)
             FROM (SELECT 1 FROM beads INDEXED BY beads_ready
                   WHERE rig_id = ?1 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0
                     AND triage_request = 0 AND open_blockers = 0 AND not_before IS NULL
                     AND type IN ('issue', 'merge_request')
                   LIMIT ?3)",
            &[rig.into(), kind.into(), COUNTED.into()],
        )?;
        Ok(row.map_or(Ok(0), |r| r.count(0))?)
    };
    let (mut open, mut probing, mut full, mut busy) = (0, 0, 0, 0);
    for rig in view.rigs.values() {
        match view.effective(&Scope::Rig(rig.id.clone())) {
            BreakerState::Open => open += queued(&rig.id, "issue")? + queued(&rig.id, "merge_request")?,
            BreakerState::HalfOpen => probing += queued(&rig.id, "issue")? + queued(&rig.id, "merge_request")?,
            BreakerState::Closed => {}
        }
        if view.load.polecats.get(&rig.id).copied().unwrap_or(0) >= view.polecat_limit(rig) {
            full += queued(&rig.id, "issue")?;
        }
        if view.load.refineries.contains(&rig.id) {
            busy += queued(&rig.id, "merge_request")?;
        }
    }
    let mut holds = vec![("rig_polecats", full), ("rig_refinery_busy", busy)];
    // While the town's own breaker holds everything, a rig's adds nothing.
    if view.effective(&Scope::Town) == BreakerState::Closed {
        holds.extend([("breaker_open", open), ("probe_running", probing)]);
    }
    Ok(holds)
}

fn failures(sql: &dyn Sql, now: Timestamp) -> Result<Vec<Json>, TownError> {
    let recent = sql.query(
        "SELECT fingerprint, count(*)
         FROM (SELECT fingerprint FROM attempts INDEXED BY attempts_failed
               WHERE outcome = 'failed' AND finished_at > ?1
               ORDER BY finished_at DESC
               LIMIT ?2)
         GROUP BY fingerprint",
        &[now.plus(-HOUR).into(), COUNTED.into()],
    )?;
    let mut last_hour = Sorted::new();
    for r in &recent {
        last_hour.insert(r.opt_text(0)?.unwrap_or_default(), r.count(1)?);
    }
    let rows = sql.query(
        "SELECT fingerprint, code, class, failures, beads, first_seen, last_seen, sample
         FROM causes
         ORDER BY last_seen DESC
         LIMIT ?1",
        &[FAILURES_SHOWN.into()],
    )?;
    let mut shown = Vec::new();
    for r in &rows {
        let fingerprint = r.text(0)?;
        shown.push(json!({
            "fingerprint": fingerprint,
            "code": r.text(1)?,
            "class": r.text(2)?,
            "count": r.count(3)?,
            "last_hour": last_hour.get(&fingerprint).copied().unwrap_or(0),
            "beads": r.count(4)?,
            "first_seen": Timestamp(r.int(5)?),
            "last_seen": Timestamp(r.int(6)?),
            "sample": r.text(7)?,
        }));
    }
    Ok(shown)
}

/// `GET /debug/towns/:town/status`: bare JSON, a superset of `protocol.md` 3.6.
pub fn debug(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Json, TownError> {
    let mut agents = Vec::new();
    let mut meta = Vec::new();
    for mut a in agent::all(sql, LIST_MAX)? {
        pulse::freshen_agent(ctx, &mut a);
        let mut last = attempt::last_of_agent(sql, &a.id)?;
        if let Some(last) = &mut last {
            pulse::freshen(ctx, last);
        }
        meta.push(json!({
            "bead_id": a.id, "role": a.role.as_str(), "status": a.status.as_str(),
            "current_hook_bead_id": a.hook, "dispatch_attempts": a.dispatch_attempts,
            "last_activity_at": a.last_activity_at,
        }));
        agents.push(json!({
            "agent_id": a.id, "name": a.name, "role": a.role.as_str(), "status": a.status.as_str(),
            "bead_id": a.hook,
            "last_heartbeat_at": last.as_ref().and_then(|t| t.last_heartbeat_at),
            "last_attempt": last,
        }));
    }
    let rows = sql.query(
        "SELECT bead_id, type, status, title, rig_id, assignee_agent_bead_id, priority, labels, metadata,
                dispatch_attempts
         FROM beads INDEXED BY beads_unfinished
         WHERE status IN ('open', 'in_progress', 'in_review')
         ORDER BY seq DESC
         LIMIT ?1",
        &[LIST_MAX.into()],
    )?;
    let mut beads = Vec::new();
    for r in &rows {
        let mut m = Map::new();
        let names = [
            "bead_id",
            "type",
            "status",
            "title",
            "rig_id",
            "assignee_agent_bead_id",
            "priority",
            "labels",
            "metadata",
        ];
        for (i, name) in names.iter().enumerate() {
            m.insert((*name).to_owned(), json!(r.opt_text(i)?));
        }
        m.insert("dispatch_attempts".to_owned(), json!(r.count(9)?));
        beads.push(Json::Object(m));
    }
    Ok(json!({
        "alarmStatus": snapshot(sql, ctx)?,
        "agentMeta": meta,
        "beadSummary": beads,
        "dispatch": dispatch(sql, ctx)?,
        "agents": agents,
    }))
}

/// The status snapshot of `protocol.md` 2.12; the object adds `alarm`.
pub fn snapshot(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Json, TownError> {
    let state = State::load(sql)?;
    let mut agents: Sorted<String, u32> =
        ["working", "waiting", "idle", "stalled", "dead", "total"].map(|k| (k.to_owned(), 0)).into_iter().collect();
    let mut total = 0_u32;
    for r in sql.query("SELECT status, count(*) FROM agents GROUP BY status", &[])? {
        let n = r.count(1)?;
        agents.insert(r.text(0)?, n);
        total += n;
    }
    agents.insert("total".to_owned(), total);
    let mut beads = Sorted::new();
    let mut triage_requests = 0;
    for r in sql.query(
        "SELECT status, count(*), sum(triage_request)
         FROM (SELECT status, triage_request FROM beads INDEXED BY beads_unfinished
               WHERE status IN ('open', 'in_progress', 'in_review')
               LIMIT ?1)
         GROUP BY status",
        &[COUNTED.into()],
    )? {
        beads.insert(r.text(0)?, r.count(1)?);
        triage_requests += r.count(2)?;
    }
    let of = |status: &str| beads.get(&status.to_owned()).copied().unwrap_or(0);
    let failed = count(
        sql,
        "SELECT count(*) FROM (SELECT 1 FROM beads INDEXED BY beads_failed WHERE status = 'failed' LIMIT ?1)",
    )?;
    let recent: Vec<_> =
        event::list(sql, None, None, Some(RECENT_EVENTS))?.iter().map(event::BeadEvent::line).collect();
    Ok(json!({
        "alarm": null,
        "agents": agents.iter().map(|(k, n)| (k.clone(), *n)).collect::<Json>(),
        "beads": {"open": of("open"), "inProgress": of("in_progress"), "inReview": of("in_review"), "failed": failed,
                  "triageRequests": triage_requests},
        "patrol": {"guppWarnings": 0, "guppEscalations": 0, "stalledAgents": agents.get(&"stalled".to_owned()), "orphanedHooks": 0},
        "reconciler": null,
        "recentEvents": recent,
        "draining": state.draining(ctx.now),
        "drainStartedAt": state.draining_since.filter(|_| state.draining(ctx.now)),
    }))
}
