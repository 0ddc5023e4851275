//! Reconcile: the rules that fire in a tick, in the order of `design.md` 8. Each reads only rows that are due.
//!
//! A tick runs in one savepoint: whatever it books is booked together with the rows that say why.

pub mod beads;
pub mod caps;
pub mod inactivity;
pub mod invariants;
pub mod leases;
pub mod mayor;
pub mod orphans;
pub mod probes;
pub mod retention;
pub mod reviews;
pub mod wake;

use super::Ctx;
use super::config::Config;
use super::dispatch::breaker::State as BreakerState;
use super::dispatch::gate::View;
use super::dispatch::stops;
use super::effect::{DataPoint, Effect, FleetReport};
use super::error::TownError;
use super::policy::OPEN_WORK_TOLD;
use super::review::pull_request;
use super::sql::{Sql, first};
use super::state::State;
use super::time::Timestamp;
use super::{breakers, container, convoy, departed, drain, escalation, live, notify, redrive, triage};

/// Fires every rule that is due; the effects it returns are booked.
pub fn tick(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Vec<Effect>, TownError> {
    let before = sql.usage();
    let Some(mut state) = State::find(sql)? else { return Ok(Vec::new()) };
    let config = Config::load(sql)?;
    drain::expire(sql, ctx, &mut state)?;
    let (mut effects, mut fired) = (Vec::new(), 0_u32);
    let mut fire = |new: Vec<Effect>| {
        fired += u32::from(!new.is_empty());
        effects.extend(new);
    };
    fire(leases::run(sql, ctx, &state)?); // rules 1 and 2
    fire(stops::send_due(sql, ctx)?);
    orphans::run(sql, ctx, &config, &mut state)?; // rule 3
    caps::run(sql, ctx, &config, &mut state)?;
    redrive::due(sql, ctx)?;
    convoy::run(sql, ctx)?; // rule 8, before the gate looks for merge requests
    beads::ripen(sql, ctx)?;
    let mut view = View::of(sql, ctx.now, state, config)?;
    probes::pass_time(sql, ctx, &mut view)?; // rule 4, before the gate looks at the breakers
    if view.state.draining(ctx.now) {
        let waits = view.state.drain_instance.is_some() && wake::work_waits(sql, &view)?;
        fire(drain::ask(sql, ctx, &mut view.state, waits)?.into_iter().collect());
    }
    triage::run(sql, ctx, &view)?; // before the gate looks: the batch goes with this tick
    let idle = view.load.live == 0;
    fire(probes::run(sql, ctx, &mut view)?);
    fire(mayor::run(sql, ctx, &mut view)?);
    fire(reviews::run(sql, ctx, &mut view)?); // rule 5
    fire(beads::run(sql, ctx, &mut view)?); // rule 6
    inactivity::run(sql, ctx)?; // rule 7
    escalation::raise_due(sql, ctx)?;
    fire(container::tell(sql, ctx, &view, idle)?);
    fire(pull_request::book(sql, ctx, &view.config)?);
    notify::flush_rollup(sql, ctx, &view.config, &view.state)?; // rule 9
    fire(live::book(sql, ctx, &view.state.mayor)?);
    fire(notify::book_posts(sql, ctx, &view.config)?);
    retention::run(sql, ctx)?; // rule 10
    fire(departed::erase_due(sql, ctx)?);
    fire(tell_fleet(sql, ctx)?.into_iter().collect());
    let after = sql.usage();
    #[allow(clippy::cast_precision_loss, reason = "counts of one tick are far below 2^53")]
    ctx.emit(DataPoint {
        event: TICK_EVENT,
        own: [
            f64::from(fired),
            effects.len() as f64,
            (after.rows_read - before.rows_read) as f64,
            (after.rows_written - before.rows_written) as f64,
            0.0,
            0.0,
            0.0,
            0.0,
        ],
        ..DataPoint::default()
    });
    Ok(effects)
}

/// The data point of a tick: doubles 3–6 are the rules that had effects, the effects, the rows read and written. The
/// object, which has a clock, adds the wall time.
pub const TICK_EVENT: &str = "reconciler_tick";

/// A report, if the town's breaker is in another state than the fleet was told last: it moves in every verb, and only
/// ticks and outcomes have effects.
pub fn tell_fleet(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Option<Effect>, TownError> {
    let state = fleet_state(breakers::load(sql, &breakers::Scope::Town)?.state);
    if fleet_knows(sql, state)? {
        return Ok(None);
    }
    sql.execute(
        "INSERT INTO counters (name, value) VALUES ('fleet_told', ?1)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        &[state.into()],
    )?;
    sql.execute(
        "INSERT INTO counters (name, value) VALUES ('fleet_unheard', 1)
         ON CONFLICT (name) DO UPDATE SET value = value + 1",
        &[],
    )?;
    Ok(Some(Effect::ReportToFleet(report(sql, ctx)?)))
}

/// A report arrived. One that did not stays counted as unheard, and is made again when the object is made anew
/// ([`fleet_forgets`]); a transition before that repairs it sooner.
pub fn fleet_heard(sql: &dyn Sql, delivered: bool) -> Result<(), TownError> {
    if delivered {
        sql.execute("UPDATE counters SET value = value - 1 WHERE name = 'fleet_unheard' AND value > 0", &[])?;
    }
    Ok(())
}

/// The object was made anew: a report that was in the air, or got lost, is due again.
///
/// *Guarantees*: the registry never goes on believing a state that has passed, and a town whose reports all arrived tells
/// it nothing anew.
pub fn fleet_forgets(sql: &dyn Sql) -> Result<(), TownError> {
    let forgot = sql.execute("UPDATE counters SET value = 0 WHERE name = 'fleet_unheard' AND value > 0", &[])?;
    if forgot > 0 {
        // No state of a breaker, so whatever it is by now is news.
        sql.execute("UPDATE counters SET value = -1 WHERE name = 'fleet_told'", &[])?;
    }
    Ok(())
}

const fn fleet_state(state: BreakerState) -> i64 {
    match state {
        BreakerState::Closed => 0,
        BreakerState::Open => 1,
        BreakerState::HalfOpen => 2,
    }
}

fn fleet_knows(sql: &dyn Sql, state: i64) -> Result<bool, TownError> {
    let told = first(sql, "SELECT value FROM counters WHERE name = 'fleet_told'", &[])?;
    Ok(told.map_or(Ok(0), |r| r.int(0))? == state)
}

/// Now, if a command moved the town's breaker and the fleet was not told yet.
fn fleet_deadline(sql: &dyn Sql, view: &View) -> Result<Option<Timestamp>, TownError> {
    let state = view.breakers.get(&breakers::Scope::Town).map_or(BreakerState::Closed, |b| b.state);
    Ok((!fleet_knows(sql, fleet_state(state))?).then_some(view.now))
}

/// How the town stands, for the fleet.
pub fn report(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<FleetReport, TownError> {
    let waiting = first(
        sql,
        "SELECT count(*)
         FROM (SELECT 1 FROM beads INDEXED BY beads_ready
               WHERE rig_id IS NOT NULL AND status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0
                 AND open_blockers = 0 AND not_before IS NULL AND type IN ('issue', 'merge_request')
               LIMIT ?1)",
        &[OPEN_WORK_TOLD.into()],
    )?;
    Ok(FleetReport {
        town_id: State::load(sql)?.town_id,
        breaker: breakers::load(sql, &breakers::Scope::Town)?.state.as_str().to_owned(),
        next_wake: wake::next_wake(sql, ctx)?,
        open_work: waiting.map_or(Ok(0), |r| r.count(0))?,
        at: ctx.now,
    })
}
