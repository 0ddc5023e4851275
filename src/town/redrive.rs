//! Redrive: the one way back for a failed bead. One at a time at once, many at a pace that a bad cause cannot abuse.

use super::Ctx;
use super::audit;
use super::bead::{self, Bead, Because, Kind, Status};
use super::command::Actor;
use super::error::TownError;
use super::event::{self, Happening};
use super::id::{BeadId, RigId};
use super::json::json;
use super::policy::{
    MAYOR_REDRIVES, REDRIVE_EVERY, REDRIVE_FIRST, REDRIVE_IDS_SHOWN, REDRIVE_LIMIT, REDRIVE_STOP_AFTER, REDRIVE_THEN,
    REDRIVE_TRIAL,
};
use super::review::{self, pull_request};
use super::sql::{Arg, Sql, each, first};
use super::state::{self, State};
use super::time::Timestamp;
use super::triage;
use serde_json::Value as Json;

/// Brings one failed bead back: open, its counters 0. 409 unless it is failed.
///
/// People have no limit; of agents only the mayor may, twice per bead.
pub fn one(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &BeadId, reason: &str) -> Result<Bead, TownError> {
    let bead = bead::get(sql, id)?;
    let by_agent = matches!(actor, Actor::Container { .. });
    if by_agent {
        let state = State::load(sql)?;
        if actor.agent() != Some(&state.mayor) {
            return Err(TownError::forbidden("Of all agents only the mayor may redrive a bead"));
        }
        if bead.agent_redrives >= MAYOR_REDRIVES {
            return Err(TownError::conflict(
                bead.status.as_str(),
                format!("The mayor has redriven bead {id} {MAYOR_REDRIVES} times already; ask a person"),
            ));
        }
    }
    if bead.status != Status::Failed {
        return Err(TownError::conflict(
            bead.status.as_str(),
            format!("Bead {id} is {}; only a failed bead can be redriven", bead.status.as_str()),
        ));
    }
    if let Some(why) = pointless(sql, &bead)? {
        return Err(TownError::conflict("failed", why));
    }
    back(sql, ctx, actor, bead, reason, by_agent)
}

/// Why redriving it would be wrong: a merge request whose verdict stands and whose source has moved on, the repair of one
/// that is over, a question, or a triage agent when another one has been set to work.
fn pointless(sql: &dyn Sql, bead: &Bead) -> Result<Option<String>, TownError> {
    if bead.triage_request {
        return Ok(Some("A triage request is answered, not redriven".to_owned()));
    }
    if triage::is_superseded(sql, bead)? {
        return Ok(Some("Another triage agent was asked since, and a town has one at a time".to_owned()));
    }
    if bead.kind == Kind::Issue {
        let Some(mr) = bead.parent.as_ref().filter(|_| bead.closes_on_done()) else { return Ok(None) };
        let decided = bead::find(sql, mr)?.is_none_or(|mr| mr.kind == Kind::MergeRequest && mr.status.is_final());
        return Ok(decided.then(|| format!("Merge request {mr}, whose branch it was to repair, needs it no more")));
    }
    if bead.kind == Kind::Convoy && bead.failure_reason.as_ref().is_some_and(|f| f.code == "convoy.exhausted") {
        return Ok(None);
    }
    if bead.kind != Kind::MergeRequest {
        return Ok(Some(format!("A bead of type {} is not dispatched and cannot be redriven", bead.kind.as_str())));
    }
    let Some(mr) = review::find(sql, &bead.id)? else { return Ok(None) };
    let source = bead::find(sql, &mr.source_bead_id)?;
    if mr.verdict.is_none() && source.is_some_and(|s| s.status == Status::InReview) {
        return Ok(None);
    }
    Ok(Some(format!("Merge request {} was decided; redrive its source {}", bead.id, mr.source_bead_id)))
}

fn back(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    mut bead: Bead,
    reason: &str,
    by_agent: bool,
) -> Result<Bead, TownError> {
    let before = json!({"status": "failed", "failure_reason": bead.failure_reason,
                        "dispatch_attempts": bead.dispatch_attempts});
    sql.execute(
        "UPDATE beads
         SET dispatch_attempts = 0, failure_streak = 0, next_dispatch_at = NULL, review_rounds = 0,
             review_not_before = NULL, not_before = NULL, failed_fingerprint = NULL, last_failure_charged = 0,
             last_failed_at = NULL, agent_redrives = agent_redrives + ?2
         WHERE bead_id = ?1",
        &[(&bead.id).into(), by_agent.into()],
    )?;
    let label = actor.label();
    let of_forge = bead.failure_reason.as_ref().is_some_and(|f| f.source == pull_request::FORGE);
    bead::transition(sql, ctx, &mut bead, Status::Open, Because::of(&label, reason))?;
    event::record(
        sql,
        ctx,
        &bead.id,
        Happening {
            kind: "redriven",
            metadata: Some(json!({"actor": label, "reason": reason})),
            ..Happening::default()
        },
    )?;
    audit::record(
        sql,
        ctx,
        actor,
        "redrive",
        bead.id.as_str(),
        reason,
        Some(&before),
        Some(&json!({"status": "open"})),
    )?;
    pull_request::resumed(sql, ctx, &mut bead, of_forge)?;
    bead::get(sql, &bead.id)
}

/// Brings a bead back on the town's own account, if it is failed: a rule found that it was not to blame.
pub fn by_system(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId, reason: &str) -> Result<(), TownError> {
    // A landing among them is not brought back: its convoy has made the next one due already.
    if let Some(bead) = bead::find(sql, id)?.filter(|b| b.status == Status::Failed)
        && pointless(sql, &bead)?.is_none()
    {
        back(sql, ctx, &Actor::System, bead, reason, false)?;
    }
    Ok(())
}

/// What `POST /redrive` asks for.
#[derive(Clone, Copy, Debug)]
pub struct Many<'a> {
    /// Only beads that failed with this cause.
    pub fingerprint: Option<&'a str>,
    /// Only beads of this rig.
    pub rig_id: Option<&'a RigId>,
    /// At most so many (1 … 5000).
    pub limit: Option<u32>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Why; goes into the audit.
    pub reason: &'a str,
}

/// Books a paced redrive of many beads, oldest first; beads cancelled by hand stay cancelled. The first goes at once.
pub fn many(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, ask: &Many<'_>) -> Result<Json, TownError> {
    if !actor.is_person() {
        return Err(TownError::forbidden("Only people may redrive many beads at once"));
    }
    let limit = ask.limit.unwrap_or(REDRIVE_LIMIT);
    if limit == 0 || limit > REDRIVE_LIMIT {
        return Err(TownError::invalid("limit", format!("limit must be 1 … {REDRIVE_LIMIT}")));
    }
    if ask.reason.trim().is_empty() {
        return Err(TownError::invalid("reason", "say why; it goes into the audit"));
    }
    let rows = sql.query(
        "SELECT bead_id
         FROM beads
         WHERE status = 'failed' AND type IN ('issue', 'merge_request')
           AND (?1 IS NULL OR failed_fingerprint = ?1)
           AND (?2 IS NULL OR rig_id = ?2)
           AND coalesce(json_extract(failure_reason, '$.code'), '') <> 'cancelled'
           AND (type = 'issue'
                OR EXISTS (SELECT 1
                           FROM merge_requests m
                           JOIN beads s ON s.bead_id = m.source_bead_id
                           WHERE m.bead_id = beads.bead_id AND m.verdict IS NULL AND s.status = 'in_review'))
         ORDER BY seq
         LIMIT ?3",
        &[ask.fingerprint.into(), ask.rig_id.into(), limit.into()],
    )?;
    let ids = each(&rows, |r| r.text(0))?;
    let shown: Vec<_> = ids.iter().take(REDRIVE_IDS_SHOWN as usize).collect();
    let mut redriven = 0;
    if !ask.dry_run && !ids.is_empty() {
        let redrive = ctx.ids.uuid();
        sql.execute(
            "INSERT INTO redrives (redrive_id, seq, actor, reason, fingerprint, state, next_at, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, 'running', ?6, ?6)",
            &[
                (&redrive).into(),
                state::next_seq(sql)?.into(),
                (&actor.label()).into(),
                ask.reason.into(),
                ask.fingerprint.into(),
                ctx.now.into(),
            ],
        )?;
        sql.execute(
            "INSERT INTO redrive_beads (redrive_id, position, bead_id, state)
             SELECT ?1, j.key, j.value, 'waiting'
             FROM json_each(?2) j",
            &[(&redrive).into(), (&json!(ids).to_string()).into()],
        )?;
        audit::record(
            sql,
            ctx,
            actor,
            "redrive.many",
            &redrive,
            ask.reason,
            None,
            Some(&json!({"matched": ids.len(), "fingerprint": ask.fingerprint, "rig_id": ask.rig_id})),
        )?;
        redriven = go_on(sql, ctx, &redrive)?;
    }
    let matched = ids.len();
    Ok(json!({
        "matched": matched,
        "redriven": redriven,
        "dry_run": ask.dry_run,
        "bead_ids": shown,
        "remaining": matched.saturating_sub(redriven),
    }))
}

/// Part of rule 6: redrives whose minute has passed go on.
///
/// *Guarantees*: one bead a minute until one of them was proven, then twenty; a redrive whose first beads fail with one
/// cause has stopped for good.
pub fn due(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    let rows = sql.query(
        "SELECT redrive_id FROM redrives WHERE state = 'running' AND next_at <= ?1 ORDER BY next_at LIMIT 10",
        &[ctx.now.into()],
    )?;
    for r in &rows {
        go_on(sql, ctx, &r.text(0)?)?;
    }
    Ok(())
}

fn go_on(sql: &dyn Sql, ctx: &Ctx<'_>, redrive: &str) -> Result<usize, TownError> {
    let Some(row) = first(
        sql,
        "SELECT actor, reason, proven FROM redrives WHERE redrive_id = ?1 AND state = 'running'",
        &[redrive.into()],
    )?
    else {
        return Ok(0);
    };
    let (actor, reason) = (row.text(0)?, row.text(1)?);
    let actor = match actor.strip_prefix("operator:") {
        Some(sub) => Actor::Operator { sub: sub.to_owned() },
        None => Actor::User { sub: actor.strip_prefix("user:").unwrap_or(&actor).to_owned() },
    };
    let pace = if row.flag(2)? { REDRIVE_THEN } else { REDRIVE_FIRST };
    let rows = sql.query(
        "SELECT position, bead_id
         FROM redrive_beads
         WHERE redrive_id = ?1 AND state = 'waiting'
         ORDER BY position
         LIMIT ?2",
        &[redrive.into(), pace.into()],
    )?;
    let mut done = 0;
    for r in &rows {
        let id = BeadId(r.text(1)?);
        let back_again = match bead::find(sql, &id)? {
            Some(bead) if bead.status == Status::Failed && pointless(sql, &bead)?.is_none() => {
                back(sql, ctx, &actor, bead, &reason, false)?;
                done += 1;
                "redriven"
            }
            _ => "skipped",
        };
        sql.execute(
            "UPDATE redrive_beads SET state = ?3 WHERE redrive_id = ?1 AND position = ?2",
            &[redrive.into(), r.int(0)?.into(), back_again.into()],
        )?;
    }
    let left = first(
        sql,
        "SELECT 1 FROM redrive_beads WHERE redrive_id = ?1 AND state = 'waiting' LIMIT 1",
        &[redrive.into()],
    )?;
    if left.is_none() {
        set_state(sql, redrive, "finished")?;
    } else {
        sql.execute(
            "UPDATE redrives SET next_at = ?2 WHERE redrive_id = ?1",
            &[redrive.into(), ctx.now.plus(REDRIVE_EVERY).into()],
        )?;
    }
    Ok(done)
}

fn set_state(sql: &dyn Sql, redrive: &str, state: &str) -> Result<(), TownError> {
    sql.execute(
        "UPDATE redrives SET state = ?2, next_at = NULL WHERE redrive_id = ?1",
        &[redrive.into(), state.into()],
    )?;
    Ok(())
}

/// A bead was proven: the redrive that brought it back may go faster.
pub fn proven(sql: &dyn Sql, _ctx: &Ctx<'_>, bead: &BeadId) -> Result<(), TownError> {
    let rows = sql.query(
        "SELECT redrive_id FROM redrive_beads WHERE bead_id = ?1 AND state IN ('redriven', 'proven') AND state = 'redriven'",
        &[bead.into()],
    )?;
    for r in &rows {
        sql.execute("UPDATE redrives SET proven = 1 WHERE redrive_id = ?1", &[(&r.text(0)?).into()])?;
    }
    if !rows.is_empty() {
        sql.execute(
            "UPDATE redrive_beads SET state = 'proven' WHERE bead_id = ?1 AND state IN ('redriven', 'proven')",
            &[bead.into()],
        )?;
    }
    Ok(())
}

/// A redriven bead failed again: three of the first ten with one cause stop their redrive.
pub fn failed(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &BeadId, fingerprint: &str) -> Result<(), TownError> {
    let rows = sql.query(
        "SELECT redrive_id FROM redrive_beads WHERE bead_id = ?1 AND state IN ('redriven', 'proven')",
        &[bead.into()],
    )?;
    for r in &rows {
        let redrive = r.text(0)?;
        sql.execute(
            "UPDATE redrive_beads
             SET state = 'failed', fingerprint = ?3
             WHERE bead_id = ?2 AND state IN ('redriven', 'proven') AND redrive_id = ?1",
            &[(&redrive).into(), bead.into(), fingerprint.into()],
        )?;
        let same = first(
            sql,
            "SELECT count(*)
             FROM redrive_beads
             WHERE redrive_id = ?1 AND position < ?2 AND state = 'failed' AND fingerprint = ?3",
            &[(&redrive).into(), REDRIVE_TRIAL.into(), fingerprint.into()],
        )?;
        if same.map_or(Ok(0), |r| r.count(0))? >= REDRIVE_STOP_AFTER {
            set_state(sql, &redrive, "stopped")?;
            let why = format!("{REDRIVE_STOP_AFTER} of its first {REDRIVE_TRIAL} beads failed with one cause again");
            let facts = json!({"fingerprint": fingerprint});
            audit::record(sql, ctx, &Actor::System, "redrive.stopped", &redrive, &why, None, Some(&facts))?;
        }
    }
    Ok(())
}

/// When the next redrive goes on.
pub fn next_deadline(sql: &dyn Sql) -> Result<Option<Timestamp>, TownError> {
    let row = first(sql, "SELECT next_at FROM redrives WHERE state = 'running' ORDER BY next_at LIMIT 1", &[])?;
    Ok(row.map_or(Ok(None), |r| r.opt_int(0))?.map(Timestamp))
}

/// Drops redrives that ended before `before`. Arms nothing: it rides along.
pub fn prune(sql: &dyn Sql, before: Timestamp) -> Result<(), TownError> {
    let old = first(
        sql,
        "SELECT redrive_id FROM redrives WHERE state <> 'running' AND created_at < ?1 ORDER BY created_at LIMIT 1",
        &[before.into()],
    )?;
    if let Some(r) = old {
        let id = r.text(0)?;
        let id = Arg::from(&id);
        sql.execute("DELETE FROM redrive_beads WHERE redrive_id = ?1", &[id])?;
        sql.execute("DELETE FROM redrives WHERE redrive_id = ?1", &[id])?;
    }
    Ok(())
}
