//! Which bead is next: read from partial indexes, per rig with free capacity, never more than the limits allow.

use super::super::agent::Role;
use super::super::bead::{self, Bead, Kind};
use super::super::breakers::Scope;
use super::super::error::TownError;
use super::super::id::{BeadId, RigId};
use super::super::rig::Rig;
use super::super::sql::{Arg, Row, Sql, SqlError, each, first};
use super::super::time::Timestamp;
use super::breaker::{Breaker, Mode, State as BreakerState};
use super::gate::{View, refinery_being_stopped};

/// A bead in the order of its queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Queued {
    rank: i64,
    seq: i64,
    bead: BeadId,
}

fn queued(r: &Row) -> Result<Queued, SqlError> {
    Ok(Queued { rank: r.int(1)?, seq: r.int(2)?, bead: BeadId(r.text(0)?) })
}

fn ready(sql: &dyn Sql, rig: &RigId, kind: Kind, limit: u32) -> Result<Vec<Queued>, TownError> {
    let rows = sql.query(
        "SELECT bead_id, rank, seq
         FROM beads INDEXED BY beads_ready
         WHERE rig_id = ?1 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0
           AND open_blockers = 0 AND not_before IS NULL AND type IN ('issue', 'merge_request')
         ORDER BY rank, seq
         LIMIT ?3",
        &[rig.into(), kind.as_str().into(), limit.into()],
    )?;
    Ok(each(&rows, queued)?)
}

/// Rigs in which a refinery could start now.
fn rigs_for_review<'v>(sql: &dyn Sql, view: &'v View) -> Result<Vec<&'v Rig>, TownError> {
    let mut free = Vec::new();
    for rig in view.rigs.values() {
        let closed = view.effective(&Scope::Rig(rig.id.clone())) == BreakerState::Closed;
        if closed && !view.load.refineries.contains(&rig.id) && !refinery_being_stopped(sql, &rig.id)? {
            free.push(rig);
        }
    }
    Ok(free)
}

/// Rigs in which a polecat could start now.
fn rigs_for_work(view: &View) -> Vec<&Rig> {
    view.rigs
        .values()
        .filter(|rig| view.effective(&Scope::Rig(rig.id.clone())) == BreakerState::Closed)
        .filter(|rig| view.polecats_left(rig) > 0)
        .collect()
}

/// True if the town as a whole could start something now.
pub(super) fn town_open_for_work(view: &View) -> bool {
    view.town_admits() && view.effective(&Scope::Town) == BreakerState::Closed && view.starts_left() > 0
}

/// Merge requests to review next, oldest first, one per rig.
pub fn reviews(sql: &dyn Sql, view: &View) -> Result<Vec<BeadId>, TownError> {
    if !town_open_for_work(view) {
        return Ok(Vec::new());
    }
    let mut next = Vec::new();
    for rig in rigs_for_review(sql, view)? {
        next.extend(ready(sql, &rig.id, Kind::MergeRequest, 1)?);
    }
    next.sort_by_key(|q| q.seq);
    Ok(next.into_iter().take(view.starts_left() as usize).map(|q| q.bead).collect())
}

/// Issue beads to start next: priority, then age; per rig no more than it has room for.
pub fn work(sql: &dyn Sql, view: &View) -> Result<Vec<BeadId>, TownError> {
    if !town_open_for_work(view) {
        return Ok(Vec::new());
    }
    let mut next = Vec::new();
    for rig in rigs_for_work(view) {
        let room = view.polecats_left(rig).min(view.starts_left());
        next.extend(ready(sql, &rig.id, Kind::Issue, room)?);
    }
    next.sort();
    Ok(next.into_iter().take(view.starts_left() as usize).map(|q| q.bead).collect())
}

/// The earliest end of a backoff at which the gate, as it stands, could admit the bead.
pub fn earliest_backoff(sql: &dyn Sql, view: &View) -> Result<Option<Timestamp>, TownError> {
    if !town_open_for_work(view) {
        return Ok(None);
    }
    let mut earliest: Option<i64> = None;
    let mut look = |rig: &RigId, kind: Kind| -> Result<(), TownError> {
        let row = first(
            sql,
            "SELECT min(not_before)
             FROM beads INDEXED BY beads_waiting
             WHERE rig_id = ?1 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0
               AND open_blockers = 0 AND not_before IS NOT NULL AND type IN ('issue', 'merge_request')",
            &[rig.into(), kind.as_str().into()],
        )?;
        if let Some(at) = row.map_or(Ok(None), |r| r.opt_int(0))? {
            earliest = Some(earliest.map_or(at, |e| e.min(at)));
        }
        Ok(())
    };
    for rig in rigs_for_review(sql, view)? {
        look(&rig.id, Kind::MergeRequest)?;
    }
    for rig in rigs_for_work(view) {
        look(&rig.id, Kind::Issue)?;
    }
    Ok(earliest.map(Timestamp))
}

/// A bead that could be the trial of an open breaker, and the scopes whose trial it would be.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialCandidate {
    /// The bead.
    pub bead: Bead,
    /// The scopes it tries.
    pub scopes: Vec<Scope>,
}

/// The best *probe-ready* bead of a scope: admissible but for the scope's breaker and its own backoff.
///
/// A bead of an open rig is one for the town only if there is no other, and then it tries both scopes. First come beads
/// of the role that most opening failures had, and of their rig; among these the fewest probes in this episode, then
/// priority, then age.
pub fn trial(sql: &dyn Sql, view: &View, scope: &Scope, b: &Breaker) -> Result<Option<TrialCandidate>, TownError> {
    if !view.town_admits() || view.starts_left() == 0 {
        return Ok(None);
    }
    match scope {
        Scope::Rig(id) => {
            if view.effective(&Scope::Town) != BreakerState::Closed {
                return Ok(None);
            }
            let Some(rig) = view.rigs.get(id) else { return Ok(None) };
            let best = best_of(sql, view, &[rig], b)?;
            Ok(best.map(|bead| TrialCandidate { bead, scopes: vec![scope.clone()] }))
        }
        Scope::Town => {
            let (closed, open): (Vec<_>, Vec<_>) =
                view.rigs.values().partition(|rig| view.effective(&Scope::Rig(rig.id.clone())) == BreakerState::Closed);
            if let Some(bead) = best_of(sql, view, &closed, b)? {
                return Ok(Some(TrialCandidate { bead, scopes: vec![Scope::Town] }));
            }
            let open: Vec<_> = open.into_iter().filter(|rig| may_be_tried(view, rig)).collect();
            let Some(bead) = best_of(sql, view, &open, b)? else { return Ok(None) };
            let rig = bead.rig_id.clone().map(Scope::Rig);
            Ok(Some(TrialCandidate { bead, scopes: [Some(Scope::Town), rig].into_iter().flatten().collect() }))
        }
    }
}

/// When the next bead becomes probe-ready by time alone: the end of a review's backoff, which a trial does not pass.
///
/// Only an issue has one. Beads in the ordinary backoff are probe-ready already, and whatever else stands against a
/// trial (a hold, a full limit) ends with a deadline of its own.
pub fn trial_ripens(sql: &dyn Sql, view: &View, scope: &Scope) -> Result<Option<Timestamp>, TownError> {
    let closed = |scope: &Scope| view.effective(scope) == BreakerState::Closed;
    if !view.town_admits() || view.starts_left() == 0 || (*scope != Scope::Town && !closed(&Scope::Town)) {
        return Ok(None);
    }
    let mut earliest: Option<i64> = None;
    for rig in view.rigs.values() {
        let own = Scope::Rig(rig.id.clone());
        let tried = match scope {
            Scope::Town => closed(&own) || may_be_tried(view, rig),
            Scope::Rig(id) => *id == rig.id,
        };
        if !tried || view.polecats_left(rig) == 0 {
            continue;
        }
        // While a review's backoff lasts it is the bead's `not_before`: the first in the order of the index is the answer.
        let row = first(
            sql,
            "SELECT not_before
             FROM beads INDEXED BY beads_waiting
             WHERE rig_id = ?1 AND type = 'issue' AND status = 'open' AND held = 0 AND staged = 0
               AND triage_request = 0 AND open_blockers = 0 AND not_before IS NOT NULL
               AND type IN ('issue', 'merge_request') AND review_not_before > ?2
             ORDER BY not_before
             LIMIT 1",
            &[(&rig.id).into(), view.now.into()],
        )?;
        if let Some(at) = row.map_or(Ok(None), |r| r.opt_int(0))? {
            earliest = Some(earliest.map_or(at, |e| e.min(at)));
        }
    }
    Ok(earliest.map(Timestamp))
}

/// A rig that a person forced open is nobody's trial, nor one whose own trial is running.
fn may_be_tried(view: &View, rig: &Rig) -> bool {
    view.breakers
        .get(&Scope::Rig(rig.id.clone()))
        .is_none_or(|b| b.order(view.now).is_none_or(|o| o.mode != Mode::ForcedOpen) && b.trial.is_none())
}

/// What a trial is chosen by: another role, another rig, probes so far, rank, age; the smallest wins.
type Preference = (bool, bool, i64, i64, i64);

fn best_of(sql: &dyn Sql, view: &View, rigs: &[&Rig], b: &Breaker) -> Result<Option<Bead>, TownError> {
    let mut best: Option<(Preference, BeadId)> = None;
    for rig in rigs {
        for kind in [Kind::MergeRequest, Kind::Issue] {
            let role = match kind {
                Kind::Issue => Role::Polecat,
                _ => Role::Refinery,
            };
            let room = match role {
                Role::Polecat => view.polecats_left(rig) > 0,
                _ => !view.load.refineries.contains(&rig.id) && !refinery_being_stopped(sql, &rig.id)?,
            };
            if !room {
                continue;
            }
            let other_role = b.blamed_role.as_deref().is_some_and(|r| r != role.as_str());
            let other_rig = b.blamed_rig.as_ref().is_some_and(|r| *r != rig.id);
            if let Some((probes, q)) = ready_for_trial(sql, view.now, &rig.id, kind)? {
                let key = (other_role, other_rig, probes, q.rank, q.seq);
                if best.as_ref().is_none_or(|(k, _)| key < *k) {
                    best = Some((key, q.bead));
                }
            }
        }
    }
    match best {
        Some((_, id)) => Ok(Some(bead::get(sql, &id)?)),
        None => Ok(None),
    }
}

/// The probe-ready bead of one rig and kind with the fewest probes, then priority, then age.
///
/// Three short reads: beads not yet probed in this episode that are due, the same that are in backoff, and the few that
/// were probed before.
fn ready_for_trial(sql: &dyn Sql, now: Timestamp, rig: &RigId, kind: Kind) -> Result<Option<(i64, Queued)>, TownError> {
    let due = first(
        sql,
        "SELECT bead_id, rank, seq
         FROM beads INDEXED BY beads_ready
         WHERE rig_id = ?1 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0
           AND open_blockers = 0 AND not_before IS NULL AND type IN ('issue', 'merge_request') AND probes = 0
         ORDER BY rank, seq
         LIMIT 1",
        &[rig.into(), kind.as_str().into()],
    )?;
    let args: [Arg<'_>; 3] = [rig.into(), kind.as_str().into(), now.into()];
    let waiting = first(
        sql,
        "SELECT bead_id, rank, seq
         FROM beads INDEXED BY beads_waiting
         WHERE rig_id = ?1 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0 AND triage_request = 0
           AND open_blockers = 0 AND not_before IS NOT NULL AND type IN ('issue', 'merge_request') AND probes = 0
           AND (review_not_before IS NULL OR review_not_before <= ?3)
         ORDER BY rank, seq
         LIMIT 1",
        &args,
    )?;
    let fresh = [due, waiting].into_iter().flatten().map(|r| queued(&r)).collect::<Result<Vec<_>, _>>()?;
    if let Some(q) = fresh.into_iter().min() {
        return Ok(Some((0, q)));
    }
    let probed = first(
        sql,
        "SELECT bead_id, rank, seq, probes
         FROM beads INDEXED BY beads_probed
         WHERE rig_id = ?1 AND probes > 0 AND type = ?2 AND status = 'open' AND held = 0 AND staged = 0
           AND triage_request = 0 AND open_blockers = 0 AND (review_not_before IS NULL OR review_not_before <= ?3)
         ORDER BY probes, rank, seq
         LIMIT 1",
        &args,
    )?;
    probed.map(|r| Ok((r.int(3)?, queued(&r)?))).transpose()
}
