//! Caps that were lowered: open beads at or above them fail on the next tick.

use super::super::Ctx;
use super::super::bead::{self, Because, Status};
use super::super::config::Config;
use super::super::dispatch::attempt;
use super::super::dispatch::failure::{Code, Failure};
use super::super::dispatch::finish;
use super::super::error::TownError;
use super::super::policy::RULE_ROWS;
use super::super::sql::Sql;
use super::super::state::State;
use crate::bead_columns;

/// Fails open beads that stand at or above their cap.
///
/// *Guarantees*: runs only after a configuration change that may have lowered a cap; a hundred beads a tick, and the next
/// tick at once while there are more.
/// *Assumptions*: a bead comes to its cap by an attempt, which fails it; so only a change can leave one open there.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config) -> Result<(), TownError> {
    let mut state = State::load(sql)?;
    if !state.caps_lowered {
        return Ok(());
    }
    let rows = sql.query(
        bead_columns!(
            "INDEXED BY beads_charged
             WHERE status = 'open' AND dispatch_attempts > 0
             ORDER BY dispatch_attempts DESC
             LIMIT ?1"
        ),
        &[RULE_ROWS.into()],
    )?;
    let mut failed = 0;
    for r in &rows {
        let mut bead = bead::read(r)?;
        let cap = finish::cap(sql, config, bead.rig_id.as_ref())?;
        if bead.dispatch_attempts < cap || bead.status != Status::Open {
            continue;
        }
        // With the code of the attempt that brought it here, so that it can be found with its cause.
        let last = attempt::of_bead(sql, &bead.id, 1)?.into_iter().next();
        let code =
            last.as_ref().and_then(|a| a.code.as_deref()).and_then(Code::parse).unwrap_or(Code::DispatchOrphaned);
        let said = last.and_then(|a| a.reason).unwrap_or_default();
        let why = format!("the cap was lowered to {cap}, and it had failed {} times: {said}", bead.dispatch_attempts);
        let because = Because::of("system", "the cap was lowered");
        finish::fail(sql, ctx, config, &mut bead, &Failure::new(code, None, &why), &because)?;
        failed += 1;
    }
    if failed == 0 || rows.len() < RULE_ROWS as usize {
        state = State::load(sql)?;
        state.caps_lowered = false;
        state.save(sql)?;
    }
    Ok(())
}
