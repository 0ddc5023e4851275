//! Rules 1 and 2: leases that ended, heartbeats that are overdue.

use super::super::Ctx;
use super::super::breakers;
use super::super::config::Config;
use super::super::dispatch::{look, stops};
use super::super::effect::Effect;
use super::super::error::TownError;
use super::super::review::pull_request;
use super::super::sql::Sql;
use super::super::state::State;
use super::super::{live, notify};

/// Looks at attempts whose lease has ended: pending ones (rule 1), accepted and proven ones (rule 2).
///
/// *Guarantees*: no attempt is ended by silence alone; the container is asked first, once per lease.
/// *Assumptions*: acceptance and every heartbeat move the lease, so a healthy town is never looked at.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, state: &State) -> Result<Vec<Effect>, TownError> {
    look::book(sql, ctx, state)
}

/// The object was made anew: calls that were in the air have lost their owner.
///
/// *Guarantees*: an attempt still `pending` is looked at at once; looks, stops, posts, messages, reports, calls to forges and health
/// checks that were
/// under way are due again. Nothing is repeated blindly: the look decides.
pub fn resume(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    if State::find(sql)?.is_none() {
        return Ok(());
    }
    sql.execute(
        "UPDATE attempts
         SET look_until = NULL, lease_until = CASE WHEN outcome = 'pending' THEN min(lease_until, ?1) ELSE lease_until END
         WHERE finished_at IS NULL AND (outcome = 'pending' OR look_until IS NOT NULL)",
        &[ctx.now.into()],
    )?;
    stops::resume(sql)?;
    notify::resume(sql, ctx.now)?;
    live::resume(sql, ctx.now)?;
    pull_request::resume(sql, ctx.now)?;
    super::fleet_forgets(sql)?;
    let config = Config::load(sql)?;
    let state = State::load(sql)?;
    for (scope, b) in breakers::all(sql)? {
        if b.health_until.is_some() {
            breakers::forget_health(sql, ctx, &state, &config, &scope)?;
        }
    }
    Ok(())
}
