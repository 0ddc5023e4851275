//! Commands about breakers: show them, override them, ask for a probe.

use super::super::Reply;
use super::super::breakers::{self, Scope};
use super::super::command::Actor;
use super::super::dispatch::breaker::{Event, Mode, Override, State as BreakerState};
use super::super::dispatch::gate::View;
use super::super::error::{Cause, TownError};
use super::super::policy::{FORCED_CLOSED_MAX, FORCED_OPEN_MAX, MANUAL_PROBE_EVERY, SHADOW_MAX};
use super::super::rig;
use super::super::sql::Sql;
use super::super::time::in_words;
use super::super::{Ctx, audit, overview};
use crate::town::json::json;
use serde_json::Value as Json;

/// A reason is 1 … 500 bytes (`api.md`).
const REASON_MAX: usize = 500;

fn scope(sql: &dyn Sql, text: &str) -> Result<Scope, TownError> {
    let scope = Scope::parse(text)
        .ok_or_else(|| TownError::not_found(format!("There is no breaker {text}; use town or rig:<id>")))?;
    if let Scope::Rig(id) = &scope {
        rig::get(sql, id)?;
    }
    Ok(scope)
}

fn shown(sql: &dyn Sql, ctx: &Ctx<'_>, scope: &Scope) -> Result<Json, TownError> {
    let view = View::load(sql, ctx.now)?;
    let b = breakers::load(sql, scope)?;
    breakers::show(sql, &view.state, &view.config, scope, &b, ctx.now)
}

/// Every breaker: the town first, a rig once it has a row.
pub fn list(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Reply, TownError> {
    let view = View::load(sql, ctx.now)?;
    Reply::quiet(json!({"breakers": overview::show_breakers(sql, ctx.now, &view)?}))
}

/// One breaker.
pub fn get(sql: &dyn Sql, ctx: &Ctx<'_>, text: &str) -> Result<Reply, TownError> {
    Reply::quiet(shown(sql, ctx, &scope(sql, text)?)?)
}

/// Orders a mode, with actor, reason and a mandatory expiry; `auto` ends an order.
pub fn set(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    text: &str,
    mode: &str,
    reason: Option<&str>,
    expires_in: Option<i64>,
) -> Result<Reply, TownError> {
    if !actor.is_person() {
        return Err(TownError::forbidden("Only the town's owner or an operator may override a breaker"));
    }
    let scope = scope(sql, text)?;
    let reason = reason.unwrap_or_default().trim();
    if reason.is_empty() || reason.len() > REASON_MAX {
        return Err(TownError::invalid(
            "reason",
            format!("say why, in 1 … {REASON_MAX} bytes; it goes into the audit"),
        ));
    }
    let order = if mode == "auto" {
        None
    } else {
        let mode = Mode::parse(mode)
            .ok_or_else(|| TownError::invalid("mode", "mode must be auto, forced_open, forced_closed or shadow"))?;
        let max = match mode {
            Mode::ForcedOpen => FORCED_OPEN_MAX,
            Mode::ForcedClosed => FORCED_CLOSED_MAX,
            Mode::Shadow => SHADOW_MAX,
        };
        let within = expires_in.filter(|ms| (1..=max).contains(ms)).ok_or_else(|| {
            TownError::invalid("expires_in_ms", format!("expires_in_ms must be 1 … {max} ({})", in_words(max)))
        })?;
        Some(Override { mode, actor: actor.label(), reason: reason.to_owned(), until: ctx.now.plus(within) })
    };
    let view = View::load(sql, ctx.now)?;
    let before = shown(sql, ctx, &scope)?;
    // An order that has run out is put away first, so that what it left behind (a half-open breaker) is not lost.
    breakers::apply(sql, ctx, &view.state, &view.config, &scope, Event::Tick)?;
    breakers::apply(sql, ctx, &view.state, &view.config, &scope, Event::Ordered(order))?;
    let after = shown(sql, ctx, &scope)?;
    let (was, is) = (before.get("override"), after.get("override"));
    audit::record(sql, ctx, actor, "breaker.override", &scope.text(), reason, was, is)?;
    Reply::ok(after)
}

/// Asks for a probe now; it closes nothing by itself.
pub fn probe(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, text: &str) -> Result<Reply, TownError> {
    if !actor.is_person() {
        return Err(TownError::forbidden("Only the town's owner or an operator may ask for a probe"));
    }
    let scope = scope(sql, text)?;
    let b = breakers::load(sql, &scope)?;
    if b.state == BreakerState::Closed {
        return Err(TownError::conflict(
            "closed",
            format!("The breaker of {} is closed; there is nothing to probe", scope.text()),
        ));
    }
    if let Some(asked) = b.asked_at {
        let wait = MANUAL_PROBE_EVERY - ctx.now.since(asked);
        if wait > 0 {
            return Err(TownError::from(Cause::TooOften {
                message: format!(
                    "A probe was asked for {} ago; ask at most once a minute",
                    in_words(ctx.now.since(asked))
                ),
                retry_after: wait,
            }));
        }
    }
    let view = View::load(sql, ctx.now)?;
    breakers::apply(sql, ctx, &view.state, &view.config, &scope, Event::Asked)?;
    audit::record(sql, ctx, actor, "breaker.probe", &scope.text(), "asked for a probe", None, None)?;
    Ok(Reply { status: 202, ..Reply::ok(shown(sql, ctx, &scope)?)? })
}
