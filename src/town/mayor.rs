//! The mayor: what people write to it, how it stands, and what they look at meanwhile.
//!
//! A message to the mayor is mail that wakes: kept until it was handed over, and reason enough to start a mayor that
//! sleeps. That start is a dispatch like any other and passes the gate (`dispatch::mayor`); all other mail waits until the
//! mayor lives for another reason.

use super::Ctx;
use super::agent::{self, Agent, AgentStatus};
use super::command::Actor;
use super::config::{Config, RigConfig, resolve_model, small_model};
use super::dispatch::attempt::{self, Attempt, Outcome};
use super::dispatch::finish::{End, Then, finish};
use super::dispatch::gate::{self, Purpose, View};
use super::dispatch::late;
use super::dispatch::stops::{self, When};
use super::error::TownError;
use super::id::AgentId;
use super::json::json;
use super::policy::CONTEXTS_KEPT;
use super::sql::{Sql, any, first};
use super::state::State;
use super::time::Timestamp;
use super::{mail, prompts, pulse};
use serde_json::Value as Json;

/// `POST mayor/message`: kept until it was handed over; `{agentId, sessionStatus}`.
pub fn message(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    message: &str,
    shown: Option<&str>,
) -> Result<Json, TownError> {
    let mayor = State::load(sql)?.mayor;
    if let Some(context) = shown.filter(|c| !c.is_empty()) {
        show(sql, ctx, context)?;
    }
    mail::wake(sql, ctx, &actor.label(), &mayor, message)?;
    session(sql, ctx)
}

/// `POST mayor/ensure`: a mayor that sleeps is woken, with nothing in particular to say.
pub fn ensure(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor) -> Result<Json, TownError> {
    let mayor = State::load(sql)?.mayor;
    if attempt::live_of_agent(sql, &mayor)?.is_none() && !mail::wakes(sql)? {
        mail::wake(sql, ctx, &actor.label(), &mayor, prompts::REPORT)?;
    }
    session(sql, ctx)
}

fn session(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Json, TownError> {
    let view = View::load(sql, ctx.now)?;
    let stands = Stands::of(sql, &view)?;
    Ok(json!({"agentId": view.state.mayor, "sessionStatus": stands.word}))
}

/// How the mayor stands.
struct Stands {
    mayor: Agent,
    live: Option<Attempt>,
    /// `active`: its session takes messages; `starting`: it is being started, or the next tick does; else `idle`.
    word: &'static str,
    /// Why a mayor for whom something waits is not started.
    holds: Vec<gate::Hold>,
    waits: bool,
}

impl Stands {
    fn of(sql: &dyn Sql, view: &View) -> Result<Self, TownError> {
        let mayor = agent::get(sql, &view.state.mayor)?;
        let live = attempt::live_of_agent(sql, &mayor.id)?;
        let waits = mail::wakes(sql)?;
        let holds = match &live {
            None if waits => gate::mayor_holds(view, &mayor, &Purpose::Work),
            _ => Vec::new(),
        };
        let word = match &live {
            Some(a) if a.outcome != Outcome::Pending => "active",
            Some(_) => "starting",
            None if waits && holds.is_empty() => "starting",
            None => "idle",
        };
        Ok(Self { mayor, live, word, holds, waits })
    }
}

/// `GET mayor/status` (`protocol.md` 2.12), and beyond it what holds a mayor that is wanted.
pub fn status(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Json, TownError> {
    let view = View::load(sql, ctx.now)?;
    let mut s = Stands::of(sql, &view)?;
    pulse::freshen_agent(ctx, &mut s.mayor);
    let last = attempt::last_of_agent(sql, &s.mayor.id)?;
    let had_one = last.as_ref().is_some_and(|a| a.is_live() || a.outcome != Outcome::Cancelled);
    let session = (had_one || s.waits).then(|| {
        json!({
            "agentId": s.mayor.id, "sessionId": s.mayor.id, "status": s.word,
            "lastActivityAt": s.mayor.last_activity_at.unwrap_or(s.mayor.created_at),
        })
    });
    Ok(json!({
        "configured": true, "townId": view.state.town_id, "session": session, "message_waits": s.waits,
        "holds": s.holds, "last_attempt": last,
    }))
}

/// The mayor's line of `GET /dispatch`.
pub fn overview(sql: &dyn Sql, view: &View) -> Result<Json, TownError> {
    let s = Stands::of(sql, view)?;
    Ok(json!({
        "agent_id": s.mayor.id, "status": s.mayor.status.as_str(), "session": s.word, "message_waits": s.waits,
        "holds": s.holds, "live_attempt": s.live.map(|a| a.id),
    }))
}

/// `GET mayor-id`: what a container that boots needs to prepare the mayor; no secret is among it. Flat, beside `success`.
pub fn id(sql: &dyn Sql) -> Result<Json, TownError> {
    let config = Config::load(sql)?;
    Ok(json!({
        "success": true, "agentId": State::load(sql)?.mayor,
        "model": resolve_model("mayor", &config, &RigConfig::defaults()), "smallModel": small_model(&config),
    }))
}

/// `POST agents/:a/waiting`: the mayor's turn has ended. A report from before the last message was sent is ignored, and so
/// is one of any other agent.
pub fn waiting(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    id: &AgentId,
    fired_at: Option<i64>,
) -> Result<(), TownError> {
    if *id != State::load(sql)?.mayor || late::speaker(sql, id, actor.dispatch())?.is_none_or(|a| !a.is_live()) {
        return Ok(());
    }
    late::acted(sql, ctx, id, actor)?;
    let spoken = first(sql, "SELECT spoken_at FROM lines WHERE agent_id = ?1", &[id.into()])?;
    let spoken = spoken.map_or(Ok(None), |r| r.opt_int(0))?;
    if agent::get(sql, id)?.status == AgentStatus::Working && fired_at.unwrap_or(ctx.now.0) >= spoken.unwrap_or(0) {
        agent::set_status(sql, ctx, id, AgentStatus::Waiting)?;
    }
    Ok(())
}

/// `POST mayor/destroy`: its process is stopped and it forgets; what waits for it waits until somebody wakes it again.
pub fn destroy(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor) -> Result<(), TownError> {
    let mayor = State::load(sql)?.mayor;
    if let Some(live) = attempt::live_of_agent(sql, &mayor)? {
        stops::owe(sql, ctx, &live, When::Now)?;
        let reason = format!("the mayor was destroyed by {}", actor.label());
        finish(sql, ctx, &live, End::Cancelled(reason, Then::Leave))?;
    }
    agent::set_streak(sql, &mayor, 0, 0, None)?;
    agent::checkpoint(sql, ctx, &mayor, &Json::Null)?;
    sql.execute("UPDATE mail SET wakes = 0 WHERE wakes = 1 AND delivered_at IS NULL", &[])?;
    sql.execute("DELETE FROM dashboard_contexts", &[])?;
    let about = "destroyed by hand";
    super::audit::record(sql, ctx, actor, "mayor.destroy", mayor.as_str(), about, None, None)
}

// ── what people look at ──────────────────────────────────────────────────────────────────────────────────────────

/// `POST mayor/dashboard-context`: the last [`CONTEXTS_KEPT`] are told with the next message.
pub fn show(sql: &dyn Sql, ctx: &Ctx<'_>, context: &str) -> Result<(), TownError> {
    sql.execute(
        "INSERT INTO dashboard_contexts (seq, context, received_at)
         VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM dashboard_contexts), ?1, ?2)",
        &[context.into(), ctx.now.into()],
    )?;
    sql.execute(
        "DELETE FROM dashboard_contexts WHERE seq <= (SELECT max(seq) FROM dashboard_contexts) - ?1",
        &[CONTEXTS_KEPT.into()],
    )?;
    Ok(())
}

/// What people look at, oldest first, as the block that goes before what they wrote; none if they showed nothing.
pub fn context(sql: &dyn Sql) -> Result<Option<String>, TownError> {
    let rows = sql.query("SELECT context FROM dashboard_contexts ORDER BY seq", &[])?;
    if rows.is_empty() {
        return Ok(None);
    }
    let all = rows.iter().map(|r| r.text(0)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(format!("<system-reminder>\nDashboard context:\n{}\n</system-reminder>", all.join("\n\n"))))
}

/// What was shown until then has been told.
pub fn context_told(sql: &dyn Sql, until: Timestamp) -> Result<(), TownError> {
    if any(sql, "SELECT 1 FROM dashboard_contexts LIMIT 1", &[])? {
        sql.execute("DELETE FROM dashboard_contexts WHERE received_at <= ?1", &[until.into()])?;
    }
    Ok(())
}
