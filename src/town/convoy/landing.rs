//! Landing: the merge request that brings a whole convoy into the default branch, and the next one if it fails.

use super::super::Ctx;
use super::super::bead::{self, Bead, Because, Draft, FailureReason, Kind, Status, label};
use super::super::config::Config;
use super::super::error::TownError;
use super::super::event::{self, Happening};
use super::super::id::BeadId;
use super::super::policy::{LANDING_BACKOFF_MAX, LANDING_BACKOFF_MIN, LANDING_RETRIES, RULE_ROWS, TITLE_BYTES};
use super::super::review::pull_request;
use super::super::sql::{Sql, first};
use super::super::time::{Millis, Timestamp};
use super::super::{notify, review, rig, text};
use super::{Convoy, close, emit, get};
use crate::town::json::json;

/// Closes a convoy that is whole and has nothing to land, makes the landing of any other whole one due, and takes that
/// back from one that is not whole any more.
pub fn decide(sql: &dyn Sql, ctx: &Ctx<'_>, c: Convoy) -> Result<(), TownError> {
    if c.bead.status != Status::Open || c.landing_mr.is_some() {
        return Ok(());
    }
    match (c.is_whole(), c.feature().is_some() && c.has_work) {
        (true, false) => close(sql, ctx, c, "all its tasks are closed"),
        (true, true) if c.land_at.is_none() => set_due(sql, &c.bead.id, Some(ctx.now)),
        (false, _) if c.land_at.is_some() => set_due(sql, &c.bead.id, None),
        _ => Ok(()),
    }
}

fn set_due(sql: &dyn Sql, id: &BeadId, at: Option<Timestamp>) -> Result<(), TownError> {
    sql.execute("UPDATE convoys SET land_at = ?2 WHERE bead_id = ?1", &[id.into(), at.into()])?;
    Ok(())
}

/// Rule 8: landings that are due become merge requests.
///
/// *Guarantees*: one at a time per convoy, from its feature branch to its rig's default branch; from there on it is a
/// review like any other, with gate, cap, backoff and breaker, and with a pull request where the rig wants one.
/// *Assumptions*: `land_at` is set only while every task is closed ([`decide`]).
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    let rows = sql.query(
        "SELECT bead_id FROM convoys WHERE land_at IS NOT NULL AND land_at <= ?1 ORDER BY land_at LIMIT ?2",
        &[ctx.now.into(), RULE_ROWS.into()],
    )?;
    for r in &rows {
        land(sql, ctx, &get(sql, &BeadId(r.text(0)?))?)?;
    }
    Ok(())
}

/// When the next landing is due.
pub fn next_deadline(sql: &dyn Sql) -> Result<Option<Timestamp>, TownError> {
    let row = first(sql, "SELECT land_at FROM convoys WHERE land_at IS NOT NULL ORDER BY land_at LIMIT 1", &[])?;
    Ok(row.map_or(Ok(None), |r| r.opt_int(0))?.map(Timestamp))
}

fn land(sql: &dyn Sql, ctx: &Ctx<'_>, c: &Convoy) -> Result<(), TownError> {
    let rig = c.rig_id.as_ref().map(|id| rig::find(sql, id)).transpose()?.flatten();
    let (Some(branch), Some(rig)) = (c.feature(), rig) else { return set_due(sql, &c.bead.id, None) };
    let target = rig.default_branch;
    let mut mr = bead::create(
        sql,
        ctx,
        Draft {
            kind: Kind::MergeRequest,
            title: text::cut(&format!("Review: {branch}"), TITLE_BYTES).to_owned(),
            body: Some(format!("Lands the convoy «{}»: all its {} tasks are closed.", c.bead.title, c.total)),
            rig_id: Some(rig.id),
            parent: None,
            priority: c.bead.priority,
            labels: vec![label::MERGE_REQUEST.to_owned()],
            metadata: json!({"source_bead_id": c.bead.id, "source_agent_id": null, "convoy_id": c.bead.id,
                             "convoy_feature_branch": branch}),
            created_by: Some("system".to_owned()),
            depends_on: Vec::new(),
        },
    )?;
    sql.execute(
        "INSERT INTO merge_requests (bead_id, source_bead_id, branch, target_branch, summary)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        &[(&mr.id).into(), (&c.bead.id).into(), branch.into(), (&target).into(), mr.body.as_ref().into()],
    )?;
    // No edge: those that track a convoy are its tasks. The satellite rows know each other.
    sql.execute(
        "UPDATE convoys SET landing_mr = ?2, land_at = NULL WHERE bead_id = ?1",
        &[(&c.bead.id).into(), (&mr.id).into()],
    )?;
    let metadata = json!({"branch": branch, "target_branch": target, "mr_bead_id": mr.id});
    let what =
        Happening { kind: "review_submitted", new: Some(branch), metadata: Some(metadata), ..Happening::default() };
    event::record(sql, ctx, &c.bead.id, what)?;
    emit(ctx, "convoy.landing", c);
    pull_request::begin(sql, ctx, &mut mr, None)
}

/// A merge request has ended, or is being deleted. If it was to land a convoy and did not, the next one is due after a
/// while; after the last one the convoy has failed, and the mayor is told.
pub fn landing_ended(sql: &dyn Sql, ctx: &Ctx<'_>, mr: &Bead) -> Result<(), TownError> {
    let landed = first(sql, "SELECT bead_id FROM convoys WHERE landing_mr = ?1", &[(&mr.id).into()])?;
    let Some(r) = landed else { return Ok(()) };
    let verdict = review::find(sql, &mr.id)?.and_then(|m| m.verdict);
    if mr.status == Status::Closed && verdict.as_deref() == Some(review::Verdict::Merged.as_str()) {
        // Whoever closes the merge request closes the convoy, its source, with it.
        return Ok(());
    }
    let mut c = get(sql, &BeadId(r.text(0)?))?;
    let failures = c.landing_failures.saturating_add(1);
    let next = (failures <= LANDING_RETRIES).then(|| ctx.now.plus(wait(failures)));
    sql.execute(
        "UPDATE convoys SET landing_mr = NULL, landing_failures = ?2, land_at = ?3 WHERE bead_id = ?1",
        &[(&c.bead.id).into(), failures.into(), next.into()],
    )?;
    if next.is_some() || c.bead.status != Status::Open {
        return Ok(());
    }
    let last = mr.failure_reason.as_ref().map_or("its merge request was closed by hand", |f| f.message.as_str());
    let failure = FailureReason {
        code: "convoy.exhausted".to_owned(),
        message: format!("it could not be landed {failures} times; the last time: {last}"),
        source: "convoy".to_owned(),
    };
    let words = format!("The convoy «{}» failed and waits for a redrive: {}", c.bead.title, failure.message);
    let facts = json!({"bead_id": c.bead.id, "title": c.bead.title, "code": failure.code, "reason": failure.message});
    let because = Because { failure: Some(failure), ..Because::of("system", "it could not be landed") };
    bead::transition(sql, ctx, &mut c.bead, Status::Failed, because)?;
    notify::bead_failed(sql, ctx, &Config::load(sql)?, &c.bead.id, &words, facts)
}

/// How long after the n-th failed landing the next one is due: min(2ⁿ × 30 s, 30 min).
fn wait(failures: u32) -> Millis {
    2_i64.saturating_pow(failures).saturating_mul(LANDING_BACKOFF_MIN).min(LANDING_BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::super::time::MINUTE;
    use super::*;

    #[test]
    fn landings_wait_twice_as_long_each_time_and_never_longer_than_half_an_hour() {
        let waits: Vec<Millis> = (1..=7).map(|n| wait(n) / MINUTE).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(wait(u32::MAX), LANDING_BACKOFF_MAX);
    }
}
