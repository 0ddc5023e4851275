//! Attempts, listed.

use super::super::Ctx;
use super::super::Reply;
use super::super::audit;
use super::super::bead;
use super::super::command::{AttemptFilter, Page};
use super::super::dispatch::attempt;
use super::super::error::TownError;
use super::super::id::BeadId;
use super::super::pulse;
use super::super::sql::{Arg, Sql, each};
use super::moment;
use crate::attempt_columns;
use crate::town::json::json;

/// Attempts of the town or of one bead, newest first. `before` is the id of an attempt.
pub fn list(sql: &dyn Sql, ctx: &Ctx<'_>, filter: &AttemptFilter) -> Result<Reply, TownError> {
    let page = Page { before: filter.before.clone(), limit: filter.limit };
    let window = audit::window(sql, &page, "SELECT seq FROM attempts WHERE attempt_id = ?1")?;
    let since = filter.since.as_deref().map(|s| moment("since", s)).transpose()?;
    if let Some(outcome) = &filter.outcome
        && attempt::Outcome::parse(outcome).is_none()
    {
        return Err(TownError::invalid("outcome", "outcome is no outcome of an attempt"));
    }
    let args = [
        window.before(),
        window.limit(),
        Arg::from(filter.bead_id.as_ref()),
        Arg::from(filter.outcome.as_ref()),
        Arg::from(filter.class.as_ref()),
        Arg::from(filter.code.as_ref()),
        Arg::from(filter.fingerprint.as_ref()),
        Arg::from(filter.rig_id.as_ref()),
        since.into(),
    ];
    let rows = match &filter.bead_id {
        Some(id) => {
            bead::get(sql, &BeadId::from(id.as_str()))?;
            sql.query(
                attempt_columns!(
                    "WHERE bead_id = ?3 AND seq < ?1
                       AND (?4 IS NULL OR outcome = ?4) AND (?5 IS NULL OR class = ?5) AND (?6 IS NULL OR code = ?6)
                       AND (?7 IS NULL OR fingerprint = ?7) AND (?8 IS NULL OR rig_id = ?8)
                       AND (?9 IS NULL OR booked_at >= ?9)
                     ORDER BY seq DESC
                     LIMIT ?2"
                ),
                &args,
            )?
        }
        None => sql.query(
            attempt_columns!(
                "WHERE seq < ?1 AND ?3 IS NULL
                   AND (?4 IS NULL OR outcome = ?4) AND (?5 IS NULL OR class = ?5) AND (?6 IS NULL OR code = ?6)
                   AND (?7 IS NULL OR fingerprint = ?7) AND (?8 IS NULL OR rig_id = ?8)
                   AND (?9 IS NULL OR booked_at >= ?9)
                 ORDER BY seq DESC
                 LIMIT ?2"
            ),
            &args,
        )?,
    };
    let mut attempts = each(&rows, attempt::read)?;
    for attempt in &mut attempts {
        pulse::freshen(ctx, attempt);
    }
    let (attempts, next) = window.turn(attempts, |a| a.id.as_str());
    Reply::quiet(json!({"attempts": attempts, "next": next}))
}
