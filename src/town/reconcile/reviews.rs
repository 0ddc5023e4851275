//! Rule 5: merge requests through the gate, before new work.

use super::super::Ctx;
use super::super::bead;
use super::super::dispatch::candidates;
use super::super::dispatch::gate::{self, Purpose, View};
use super::super::dispatch::start;
use super::super::effect::Effect;
use super::super::error::TownError;
use super::super::id::BeadId;
use super::super::sql::Sql;

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
            effects.push(start::book(sql, ctx, view, permit)?);
        }
    }
    Ok(effects)
}
