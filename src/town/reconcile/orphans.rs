//! Rule 3: the safety net.

use super::super::Ctx;
use super::super::agent;
use super::super::bead::{self, Because, Status};
use super::super::config::Config;
use super::super::dispatch::failure::{Code, Failure};
use super::super::dispatch::finish;
use super::super::error::TownError;
use super::super::id::BeadId;
use super::super::policy::{ORPHAN_GRACE, RULE_ROWS};
use super::super::sql::{Sql, first};
use super::super::state::State;
use super::super::time::Timestamp;

/// Beads `in_progress` without a live attempt for five minutes go back to `open`, or fail at their cap.
///
/// *Guarantees*: no bead stays `in_progress` for ever, whatever bug left it there; each one found is counted as a broken
/// invariant and reported, never repaired in silence.
/// *Assumptions*: live attempts are as many as the limits allow, so the index over `in_progress` beads is short; MRs that
/// wait for their pull request are excepted, since their row has a deadline of its own.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, state: &mut State) -> Result<(), TownError> {
    let rows = sql.query(
        "SELECT bead_id, orphaned_at
         FROM beads INDEXED BY beads_in_progress
         WHERE status = 'in_progress'
           AND NOT EXISTS (SELECT 1 FROM attempts t
                           WHERE t.bead_id = beads.bead_id AND t.finished_at IS NULL AND t.bead_id IS NOT NULL)
           AND NOT EXISTS (SELECT 1 FROM pull_requests p WHERE p.bead_id = beads.bead_id)
         ORDER BY orphaned_at
         LIMIT ?1",
        &[RULE_ROWS.into()],
    )?;
    for r in &rows {
        let id = BeadId(r.text(0)?);
        match r.opt_int(1)?.map(Timestamp) {
            None => {
                sql.execute("UPDATE beads SET orphaned_at = ?2 WHERE bead_id = ?1", &[(&id).into(), ctx.now.into()])?;
            }
            Some(since) if ctx.now.since(since) >= ORPHAN_GRACE => rescue(sql, ctx, config, state, &id)?,
            Some(_) => {}
        }
    }
    Ok(())
}

fn rescue(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, state: &mut State, id: &BeadId) -> Result<(), TownError> {
    let mut bead = bead::get(sql, id)?;
    let f = Failure::new(Code::DispatchOrphaned, None, "it was in progress, and no attempt was");
    if let Some(agent) = agent::hooked_to(sql, id)? {
        agent::unhook(sql, ctx, &agent.id, id, "orphaned")?;
        agent::set_status(sql, ctx, &agent.id, agent::AgentStatus::Idle)?;
    }
    state.invariant_violations = state.invariant_violations.saturating_add(1);
    state.save(sql)?;
    let because = Because::of("system", &f.reason);
    if bead.dispatch_attempts >= finish::cap(sql, config, bead.rig_id.as_ref())? {
        return finish::fail(sql, ctx, config, &mut bead, &f, &because);
    }
    bead::transition(sql, ctx, &mut bead, Status::Open, because)
}

/// When the next orphan's grace ends; now for one that was just found.
pub fn next_deadline(sql: &dyn Sql, now: Timestamp) -> Result<Option<Timestamp>, TownError> {
    let row = first(
        sql,
        "SELECT min(coalesce(orphaned_at, ?1 - ?2))
         FROM beads INDEXED BY beads_in_progress
         WHERE status = 'in_progress'
           AND NOT EXISTS (SELECT 1 FROM attempts t
                           WHERE t.bead_id = beads.bead_id AND t.finished_at IS NULL AND t.bead_id IS NOT NULL)
           AND NOT EXISTS (SELECT 1 FROM pull_requests p WHERE p.bead_id = beads.bead_id)",
        &[now.into(), ORPHAN_GRACE.into()],
    )?;
    Ok(row.map_or(Ok(None), |r| r.opt_int(0))?.map(|t| Timestamp(t).plus(ORPHAN_GRACE)))
}
