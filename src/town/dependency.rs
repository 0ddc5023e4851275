//! Edges between beads. `blocks` edges decide dispatch: `open_blockers` is kept on write and never recounted per tick.

use super::bead;
use super::error::TownError;
use super::id::BeadId;
use super::policy::CYCLE_SHOWN;
use super::sorted::Sorted;
use super::sql::{Sql, each, first};

/// What an edge means. The same two beads may hold more than one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The row's bead waits for the other.
    Blocks,
    /// MR → source, task → convoy.
    Tracks,
}

impl Kind {
    /// As stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Tracks => "tracks",
        }
    }
}

/// How far a cycle check walks before it gives up and refuses: a graph that is larger is no plan.
const WALK_LIMIT: usize = 5_000;

/// Adds an edge; adding it again changes nothing.
pub fn add(sql: &dyn Sql, from: &BeadId, to: &BeadId, kind: Kind) -> Result<(), TownError> {
    sql.execute(
        "INSERT INTO bead_dependencies (bead_id, depends_on_bead_id, kind)
         VALUES (?1, ?2, ?3)
         ON CONFLICT DO NOTHING",
        &[from.into(), to.into(), kind.as_str().into()],
    )?;
    Ok(())
}

/// The beads that `bead` waits for.
pub fn blockers(sql: &dyn Sql, bead: &BeadId) -> Result<Vec<BeadId>, TownError> {
    let rows = sql.query(
        "SELECT depends_on_bead_id FROM bead_dependencies WHERE bead_id = ?1 AND kind = 'blocks'",
        &[bead.into()],
    )?;
    Ok(each(&rows, |r| r.text(0).map(BeadId))?)
}

/// The beads that wait for `bead`.
pub fn dependants(sql: &dyn Sql, bead: &BeadId) -> Result<Vec<BeadId>, TownError> {
    let rows = sql.query(
        "SELECT bead_id FROM bead_dependencies WHERE depends_on_bead_id = ?1 AND kind = 'blocks'",
        &[bead.into()],
    )?;
    Ok(each(&rows, |r| r.text(0).map(BeadId))?)
}

/// Replaces the `blocks` edges of `bead`; a cycle is a 422 with its path. The blockers exist.
pub fn replace(sql: &dyn Sql, bead: &BeadId, blockers: &[BeadId]) -> Result<(), TownError> {
    if let Some(path) = cycle(sql, bead, blockers)? {
        let path = path.into_iter().map(|b| b.0).collect();
        return Err(TownError::invalid(
            "depends_on",
            format!("these edges would make a cycle: {} waits for itself", told(path)),
        ));
    }
    sql.execute("DELETE FROM bead_dependencies WHERE bead_id = ?1 AND kind = 'blocks'", &[bead.into()])?;
    for blocker in blockers {
        add(sql, bead, blocker, Kind::Blocks)?;
    }
    recount(sql, bead)
}

/// A path in words: of a long one the beginning, the end, and how many are left out.
#[must_use]
pub fn told(mut path: Vec<String>) -> String {
    let left_out = path.len().saturating_sub(CYCLE_SHOWN);
    if left_out > 0 {
        path.splice(CYCLE_SHOWN / 2..CYCLE_SHOWN / 2 + left_out, [format!("({left_out} more)")]);
    }
    path.join(" → ")
}

/// The path of a cycle that `bead` waiting for `blockers` would close, if there is one.
fn cycle(sql: &dyn Sql, bead: &BeadId, blockers: &[BeadId]) -> Result<Option<Vec<BeadId>>, TownError> {
    let mut seen = Sorted::new();
    let mut queue: Vec<Vec<BeadId>> = blockers.iter().map(|b| vec![bead.clone(), b.clone()]).collect();
    let mut at = 0;
    while let Some(path) = queue.get_mut(at).map(std::mem::take) {
        at += 1;
        let Some(last) = path.last() else { continue };
        if last == bead {
            return Ok(Some(path));
        }
        if !seen.add(last.clone()) {
            continue;
        }
        if seen.len() > WALK_LIMIT {
            return Err(TownError::invalid(
                "depends_on",
                format!("more than {WALK_LIMIT} beads stand before this one; split the plan"),
            ));
        }
        for next in self::blockers(sql, last)? {
            let mut longer = path.clone();
            longer.push(next);
            queue.push(longer);
        }
    }
    Ok(None)
}

/// Writes `open_blockers` of one bead from its edges. A failed blocker counts as resolved only if the bead says so; a
/// deleted one does not count.
pub fn recount(sql: &dyn Sql, id: &BeadId) -> Result<(), TownError> {
    let Some(bead) = bead::find(sql, id)? else { return Ok(()) };
    let row = first(
        sql,
        "SELECT count(*)
         FROM bead_dependencies d
         JOIN beads b ON b.bead_id = d.depends_on_bead_id
         WHERE d.bead_id = ?1
           AND d.kind = 'blocks'
           AND b.status <> 'closed'
           AND NOT (b.status = 'failed' AND ?2 = 1)",
        &[id.into(), bead.allows_failed_blockers().into()],
    )?;
    let count = row.map_or(Ok(0), |r| r.count(0))?;
    if count != bead.open_blockers {
        sql.execute("UPDATE beads SET open_blockers = ?2 WHERE bead_id = ?1", &[id.into(), count.into()])?;
    }
    Ok(())
}

/// A bead's status changed in a way that may free or hold those that wait for it.
pub fn blocker_changed(sql: &dyn Sql, blocker: &BeadId) -> Result<(), TownError> {
    for dependant in dependants(sql, blocker)? {
        recount(sql, &dependant)?;
    }
    Ok(())
}

/// Drops every edge of a bead that is being deleted, and frees those that waited for it.
pub fn forget(sql: &dyn Sql, id: &BeadId) -> Result<(), TownError> {
    let waiting = dependants(sql, id)?;
    sql.execute("DELETE FROM bead_dependencies WHERE bead_id = ?1 OR depends_on_bead_id = ?1", &[id.into()])?;
    for dependant in waiting {
        recount(sql, &dependant)?;
    }
    Ok(())
}
