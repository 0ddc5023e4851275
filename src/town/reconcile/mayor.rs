//! The mayor through the gate, when somebody has written to it.

use super::super::Ctx;
use super::super::agent::Agent;
use super::super::dispatch::gate::{self, Purpose, View};
use super::super::dispatch::mayor;
use super::super::effect::Effect;
use super::super::error::TownError;
use super::super::sql::Sql;

/// Starts a mayor that sleeps while a message waits for it, before all other work: a person waits.
///
/// *Guarantees*: one start at a time; none for mail that nobody waits for.
/// *Assumptions*: [`mayor::due`] and the gate agree.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View) -> Result<Vec<Effect>, TownError> {
    let Some(agent) = mayor::due(sql, view)? else { return Ok(Vec::new()) };
    Ok(book(sql, ctx, view, agent, &Purpose::Work)?.into_iter().collect())
}

/// Takes the mayor through the gate.
pub fn book(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    view: &mut View,
    agent: Agent,
    purpose: &Purpose,
) -> Result<Option<Effect>, TownError> {
    match gate::admit_mayor(view, agent, purpose) {
        Ok(permit) => Ok(Some(mayor::book(sql, ctx, view, permit)?)),
        Err(_) => Ok(None),
    }
}
