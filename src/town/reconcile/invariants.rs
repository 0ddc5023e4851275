//! The invariants of `domain.md` 10 that the live attempts alone can show: for tests and for whoever looks into a town.

use super::super::error::TownError;
use super::super::sql::Sql;

/// One broken invariant, in words.
pub type Violation = String;

/// Checks what can be read from the live attempts alone; as many rows as agents are at work.
///
/// Hook, assignee and attempt agree (1); a live attempt's bead is `in_progress` (2).
pub fn check(sql: &dyn Sql) -> Result<Vec<Violation>, TownError> {
    let rows = sql.query(
        "SELECT t.attempt_id, t.bead_id, t.agent_id, b.status, b.assignee_agent_bead_id, a.current_hook_bead_id
         FROM attempts t
         LEFT JOIN beads b ON b.bead_id = t.bead_id
         LEFT JOIN agents a ON a.agent_id = t.agent_id
         WHERE t.finished_at IS NULL AND t.bead_id IS NOT NULL",
        &[],
    )?;
    let mut broken = Vec::new();
    for r in &rows {
        let (attempt, bead, agent) = (r.text(0)?, r.text(1)?, r.text(2)?);
        if r.opt_text(3)?.as_deref() != Some("in_progress") {
            broken.push(format!("attempt {attempt} is live, but bead {bead} is not in progress"));
        }
        if r.opt_text(4)?.as_deref() != Some(agent.as_str()) {
            broken.push(format!("attempt {attempt} is live, but bead {bead} is not assigned to agent {agent}"));
        }
        if r.opt_text(5)?.as_deref() != Some(bead.as_str()) {
            broken.push(format!("attempt {attempt} is live, but agent {agent} is not hooked to bead {bead}"));
        }
    }
    Ok(broken)
}
