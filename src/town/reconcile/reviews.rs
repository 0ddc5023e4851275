//! Rule 5: merge requests through the gate, before new work.

use super::super::Ctx;
use super::super::bead;
use super::super::breakers;
use super::super::dispatch::candidates;
use super::super::dispatch::gate::{self, Permit, Purpose, View};
use super::super::dispatch::{attempt, start};
use super::super::effect::Effect;
use super::super::error::TownError;
use super::super::id::BeadId;
use super::super::policy::ORPHAN_GRACE;
use super::super::sql::{Sql, atomically};

/// Books the oldest merge request of each rig whose refinery is free.
///
/// *Guarantees*: one MR at a time per rig; it turns `in_progress` in the booking's savepoint, never before.
/// *Assumptions*: the ready index holds only beads that the gate admits but for what it looks up itself.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View) -> Result<Vec<Effect>, TownError> {
    let next = candidates::reviews(sql, view)?;
    book_all(sql, ctx, view, next)
}

/// Takes beads through the gate in order; one that is refused is passed over.
pub fn book_all(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View, next: Vec<BeadId>) -> Result<Vec<Effect>, TownError> {
    let mut effects = Vec::new();
    for id in next {
        let Some(bead) = bead::find(sql, &id)? else { continue };
        if let Ok(permit) = gate::admit(sql, view, bead, &Purpose::Work)? {
            effects.extend(book(sql, ctx, view, permit, &id)?);
        }
    }
    Ok(effects)
}

/// Books one permit in a savepoint of its own: a booking that is refused must not undo the rest of the tick.
///
/// A refusal is a broken promise of the gate. It is counted as a broken invariant, and the bead is put aside for a
/// while, so that it stands in nobody's way.
pub fn book(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    view: &mut View,
    permit: Permit,
    bead: &BeadId,
) -> Result<Option<Effect>, TownError> {
    match atomically(sql, || start::book(sql, ctx, view, permit)) {
        Ok(effect) => Ok(Some(effect)),
        Err(e) if e.is_storage() => Err(e),
        Err(_) => {
            view.load = attempt::load(sql, ctx.now)?;
            view.breakers = breakers::all(sql)?;
            view.state.invariant_violations = view.state.invariant_violations.saturating_add(1);
            view.state.save(sql)?;
            sql.execute(
                "UPDATE beads SET next_dispatch_at = ?2, not_before = ?2 WHERE bead_id = ?1",
                &[bead.into(), ctx.now.plus(ORPHAN_GRACE).into()],
            )?;
            Ok(None)
        }
    }
}
