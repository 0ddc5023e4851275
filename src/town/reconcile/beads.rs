//! Rule 6: ready beads through the gate.

use super::super::Ctx;
use super::super::dispatch::candidates;
use super::super::dispatch::gate::View;
use super::super::effect::Effect;
use super::super::error::TownError;
use super::super::policy::RULE_ROWS;
use super::super::sql::{Sql, any};
use super::reviews;

/// Books issue beads while the limits allow: priority, then age, fairly over the rigs with room.
///
/// *Guarantees*: books at most what the limits and the slow start allow; reads no more than that.
/// *Assumptions*: as for reviews.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View) -> Result<Vec<Effect>, TownError> {
    let next = candidates::work(sql, view)?;
    reviews::book_all(sql, ctx, view, next)
}

/// Backoffs that have passed: their beads join the ready queue, where priority and age rule.
///
/// *Guarantees*: at most a hundred a tick, oldest first; the wake-up for the rest is at once. What has passed is over: a
/// clock that steps back does not bring it again, or the gate would refuse what the ready queue offers.
pub fn ripen(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    let passed = any(
        sql,
        "SELECT 1 FROM beads INDEXED BY beads_not_before WHERE not_before IS NOT NULL AND not_before <= ?1 LIMIT 1",
        &[ctx.now.into()],
    )?;
    if !passed {
        return Ok(());
    }
    sql.execute(
        "UPDATE beads
         SET not_before = NULL,
             next_dispatch_at = CASE WHEN next_dispatch_at > ?1 THEN next_dispatch_at END,
             review_not_before = CASE WHEN review_not_before > ?1 THEN review_not_before END
         WHERE bead_id IN (SELECT bead_id FROM beads INDEXED BY beads_not_before
                           WHERE not_before IS NOT NULL AND not_before <= ?1
                           ORDER BY not_before
                           LIMIT ?2)",
        &[ctx.now.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}
