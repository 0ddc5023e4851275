//! `next_wake`: the earliest moment at which some rule has something to do.
//!
//! It is the minimum of every time that a rule compares with *now*, read from indexes. A bead behind a breaker, a hold or
//! a full limit adds nothing: the probe, the hold's end, or the command that frees a slot stands for all of them.

use super::super::Ctx;
use super::super::config::Config;
use super::super::dispatch::gate::View;
use super::super::dispatch::{candidates, look, mayor, stops};
use super::super::error::TownError;
use super::super::review::pull_request;
use super::super::sql::{Sql, first};
use super::super::state::State;
use super::super::time::Timestamp;
use super::super::{container, convoy, departed, drain, escalation, live, notify, redrive, triage};
use super::{inactivity, orphans, probes};

/// The one deadline; `None` = nothing can become due by itself.
pub fn next_wake(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Option<Timestamp>, TownError> {
    let Some(state) = State::find(sql)? else { return Ok(None) };
    let view = View::of(sql, ctx.now, state, Config::load(sql)?)?;
    let times = [
        look::next_deadline(sql, ctx, &view.state)?,
        stops::next_deadline(sql)?,
        orphans::next_deadline(sql, ctx.now)?,
        view.state.caps_lowered.then_some(ctx.now),
        redrive::next_deadline(sql)?,
        inactivity::next_deadline(sql, ctx.now)?,
        triage::next_deadline(sql, &view)?,
        escalation::next_deadline(sql)?,
        convoy::next_deadline(sql)?,
        departed::next_deadline(sql)?,
        probes::next_deadline(sql, &view)?,
        super::fleet_deadline(sql, &view)?,
        due_now(sql, &view)?,
        candidates::earliest_backoff(sql, &view)?,
        mayor::backoff_ends(sql, &view)?,
        end_of_holds(sql, &view)?,
        container::next_deadline(&view),
        live::next_deadline(sql, ctx.now)?,
        pull_request::next_deadline(sql, ctx.now)?,
        notify::next_deadline(sql, &view.config, &view.state, ctx.now)?,
    ];
    Ok(times.into_iter().flatten().min())
}

/// Now, if the gate would let something through.
fn due_now(sql: &dyn Sql, view: &View) -> Result<Option<Timestamp>, TownError> {
    let due = !candidates::reviews(sql, view)?.is_empty()
        || !candidates::work(sql, view)?.is_empty()
        || mayor::due(sql, view)?.is_some();
    Ok(due.then_some(view.now))
}

/// Ends of the drain and the town hold, while something waits behind them.
fn end_of_holds(sql: &dyn Sql, view: &View) -> Result<Option<Timestamp>, TownError> {
    let drain = drain::next_deadline(&view.state);
    let hold = view.state.hold(view.now);
    if drain.is_none() && hold.is_none() {
        return Ok(None);
    }
    let live = view.load.live > 0;
    let waits = work_waits(sql, view)?;
    let look = drain::next_look(&view.state).filter(|_| waits && view.state.draining(view.now));
    let drain = drain.filter(|_| live || waits);
    let hold = hold.filter(|_| waits);
    Ok([drain, look, hold].into_iter().flatten().min())
}

/// True if some bead of a rig, or the mayor, could be dispatched but for time and the town.
pub fn work_waits(sql: &dyn Sql, view: &View) -> Result<bool, TownError> {
    if mayor::waits(sql, view)? {
        return Ok(true);
    }
    for rig in view.rigs.keys() {
        for kind in ["issue", "merge_request"] {
            let ready = first(
                sql,
                "SELECT 1
                 FROM beads INDEXED BY beads_ready
                 WHERE rig_id = ?1 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0
                   AND triage_request = 0 AND open_blockers = 0 AND not_before IS NULL
                   AND type IN ('issue', 'merge_request')
                 LIMIT 1",
                &[rig.into(), kind.into()],
            )?;
            let waiting = first(
                sql,
                "SELECT 1
                 FROM beads INDEXED BY beads_waiting
                 WHERE rig_id = ?1 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0
                   AND triage_request = 0 AND open_blockers = 0 AND not_before IS NOT NULL
                   AND type IN ('issue', 'merge_request')
                 LIMIT 1",
                &[rig.into(), kind.into()],
            )?;
            if ready.is_some() || waiting.is_some() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
