//! Rule 4: breaker probes.

use super::super::Ctx;
use super::super::breakers::{self, Scope};
use super::super::config::Config;
use super::super::dispatch::breaker::{Breaker, Event, Mode, State as BreakerState};
use super::super::dispatch::gate::{self, Purpose, View};
use super::super::dispatch::{candidates, mayor};
use super::super::effect::Effect;
use super::super::error::TownError;
use super::super::policy::HEALTH_SLACK;
use super::super::sql::Sql;
use super::super::time::Timestamp;
use super::reviews;

/// Lets time pass over every breaker: overrides and leases end, trials ripen, people are told.
pub fn pass_time(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View) -> Result<(), TownError> {
    let due = |b: &Breaker| deadline(b, &view.config).is_some_and(|t| t <= ctx.now);
    let scopes: Vec<Scope> = view.breakers.iter().filter(|(_, b)| due(b)).map(|(scope, _)| scope.clone()).collect();
    for scope in scopes {
        breakers::apply(sql, ctx, &view.state, &view.config, &scope, Event::Tick)?;
        let b = breakers::load(sql, &scope)?;
        view.breakers.insert(scope, b);
    }
    Ok(())
}

/// The next moment at which time alone changes this breaker.
fn deadline(b: &Breaker, config: &Config) -> Option<Timestamp> {
    [
        b.override_.as_ref().map(|o| o.until),
        b.health_until,
        b.trial_deadline().filter(|_| b.state == BreakerState::HalfOpen),
        b.still_open_deadline(config.notify.still_open_ms),
        b.announce_deadline(),
    ]
    .into_iter()
    .flatten()
    .min()
}

/// Books health checks that are due, and gives free permits to the best candidate.
///
/// *Guarantees*: while a scope is open nothing starts in it but its trial, one at a time; a probe without a bead that
/// could use it costs nothing.
/// *Assumptions*: [`candidates::trial`], [`mayor::trial`] and the gate agree on what is admissible.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View) -> Result<Vec<Effect>, TownError> {
    let mut effects = Vec::new();
    let scopes: Vec<Scope> = view.breakers.keys().cloned().collect();
    for scope in scopes {
        let Some(b) = view.breakers.get(&scope).cloned() else { continue };
        if b.order(ctx.now).is_some() {
            continue;
        }
        match b.state {
            BreakerState::Closed => {}
            BreakerState::Open => effects.extend(check_health(sql, ctx, view, &scope, &b)?),
            BreakerState::HalfOpen if b.trial.is_some() => {}
            BreakerState::HalfOpen => effects.extend(give_permit(sql, ctx, view, &scope, &b)?),
        }
    }
    Ok(effects)
}

fn check_health(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    view: &mut View,
    scope: &Scope,
    b: &Breaker,
) -> Result<Option<Effect>, TownError> {
    let due = b.next_probe_at.is_none_or(|t| t <= ctx.now);
    if !due || b.health_until.is_some() || !could_be_tried(sql, view, scope, b)? {
        return Ok(None);
    }
    let boot_timeout = view.config.dispatch.boot_timeout_ms;
    let until = ctx.now.plus(boot_timeout).plus(HEALTH_SLACK);
    breakers::apply(sql, ctx, &view.state, &view.config, scope, Event::HealthBooked(until))?;
    view.breakers.insert(scope.clone(), breakers::load(sql, scope)?);
    Ok(Some(Effect::ProbeContainer { scope: scope.text(), generation: b.generation, boot_timeout }))
}

/// True if somebody could be the trial: a bead, or else the mayor.
fn could_be_tried(sql: &dyn Sql, view: &View, scope: &Scope, b: &Breaker) -> Result<bool, TownError> {
    Ok(candidates::trial(sql, view, scope, b)?.is_some() || mayor::trial(sql, view, scope)?.is_some())
}

fn give_permit(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    view: &mut View,
    scope: &Scope,
    b: &Breaker,
) -> Result<Option<Effect>, TownError> {
    if let Some(candidate) = candidates::trial(sql, view, scope, b)? {
        let id = candidate.bead.id.clone();
        if let Ok(permit) = gate::admit(sql, view, candidate.bead, &Purpose::Trial(candidate.scopes))?
            && let Some(effect) = reviews::book(sql, ctx, view, permit, &id)?
        {
            return Ok(Some(effect));
        }
    } else if let Some(agent) = mayor::trial(sql, view, scope)?
        && let Some(effect) = super::mayor::book(sql, ctx, view, agent, &Purpose::Trial(vec![scope.clone()]))?
    {
        return Ok(Some(effect));
    }
    breakers::apply(sql, ctx, &view.state, &view.config, scope, Event::NoCandidate)?;
    view.breakers.insert(scope.clone(), breakers::load(sql, scope)?);
    Ok(None)
}

/// The next moment at which a breaker needs a tick: time alone, or a probe that some bead could use.
pub fn next_deadline(sql: &dyn Sql, view: &View) -> Result<Option<Timestamp>, TownError> {
    let mut next = None;
    let mut note = |t: Option<Timestamp>| {
        if let Some(t) = t {
            next = Some(next.map_or(t, |n: Timestamp| n.min(t)));
        }
    };
    for (scope, b) in &view.breakers {
        note(deadline(b, &view.config));
        let ordered = b.order(view.now).map(|o| o.mode);
        if matches!(ordered, Some(Mode::ForcedOpen | Mode::ForcedClosed | Mode::Shadow)) {
            continue;
        }
        match b.state {
            BreakerState::Open if b.health_until.is_none() => {
                let ready = if could_be_tried(sql, view, scope, b)? {
                    Some(view.now)
                } else {
                    // Nobody else would wake the town for the first bead that could be one.
                    candidates::trial_ripens(sql, view, scope)?
                };
                note(ready.map(|t| t.max(b.next_probe_at.unwrap_or(t))));
            }
            BreakerState::HalfOpen if b.trial.is_none() => note(Some(view.now)),
            BreakerState::Open | BreakerState::HalfOpen | BreakerState::Closed => {}
        }
    }
    Ok(next)
}
