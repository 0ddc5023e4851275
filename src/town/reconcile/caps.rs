//! Caps that were lowered: open beads at or above them fail on the next tick.

use super::super::Ctx;
use super::super::bead::{self, Bead, Because};
use super::super::config::{Config, effective_max_attempts};
use super::super::dispatch::attempt;
use super::super::dispatch::failure::{Code, Failure};
use super::super::dispatch::finish;
use super::super::error::TownError;
use super::super::id::RigId;
use super::super::policy::RULE_ROWS;
use super::super::rig;
use super::super::sql::Sql;
use super::super::state::State;
use crate::bead_columns;

/// Fails open beads that stand at or above their cap.
///
/// *Guarantees*: runs only after a configuration change that may have lowered a cap; a hundred beads a tick, and the next
/// tick at once while there are more.
/// *Assumptions*: a bead comes to its cap by an attempt, which fails it; so only a change can leave one open there.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, state: &mut State) -> Result<(), TownError> {
    if !state.caps_lowered {
        return Ok(());
    }
    let mut failed = 0;
    for (rig, cap) in caps(sql, config)? {
        let rows = sql.query(
            bead_columns!(
                "INDEXED BY beads_charged
                 WHERE status = 'open' AND dispatch_attempts > 0 AND dispatch_attempts >= ?1 AND rig_id IS ?2
                 LIMIT ?3"
            ),
            &[cap.into(), rig.as_ref().into(), (RULE_ROWS - failed).into()],
        )?;
        for r in &rows {
            fail(sql, ctx, config, bead::read(r)?, cap)?;
            failed += 1;
        }
    }
    if failed < RULE_ROWS {
        state.caps_lowered = false;
        state.save(sql)?;
    }
    Ok(())
}

/// The cap of every rig, and that of beads without one.
fn caps(sql: &dyn Sql, config: &Config) -> Result<Vec<(Option<RigId>, u32)>, TownError> {
    let mut caps = vec![(None, finish::cap(sql, config, None)?)];
    for rig in rig::all(sql)? {
        caps.push((Some(rig.id), effective_max_attempts(config, &rig.config)));
    }
    Ok(caps)
}

fn fail(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, mut bead: Bead, cap: u32) -> Result<(), TownError> {
    // With the code of the attempt that brought it here, so that it can be found with its cause.
    let last = attempt::of_bead(sql, &bead.id, 1)?.into_iter().next();
    let code = last.as_ref().and_then(|a| a.code.as_deref()).and_then(Code::parse).unwrap_or(Code::DispatchOrphaned);
    let said = last.and_then(|a| a.reason).unwrap_or_default();
    let why = format!("the cap was lowered to {cap}, and it had failed {} times: {said}", bead.dispatch_attempts);
    let because = Because::of("system", "the cap was lowered");
    finish::fail(sql, ctx, config, &mut bead, &Failure::new(code, None, &why), &because)
}
