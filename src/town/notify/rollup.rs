//! Failed beads, rolled up: the first is told at once, what fails within the window that it opens is told together.

use super::super::Ctx;
use super::super::config::Config;
use super::super::error::TownError;
use super::super::id::BeadId;
use super::super::policy::{ROLLUP_SHOWN, ROLLUP_TEXT_BYTES};
use super::super::sql::{Sql, first};
use super::super::state::State;
use super::super::text;
use super::super::time::{Millis, Timestamp, in_words};
use super::{Notice, NoticeKind, notify};
use crate::town::json::{self, json};
use serde::Serialize;
use serde_json::Value as Json;
use std::fmt::Write;

/// One of the failures that wait to be told together.
#[derive(Clone, Debug, Serialize)]
struct Failure {
    bead_id: String,
    text: String,
}

impl Failure {
    /// What was written of some.
    fn list(text: &str) -> Option<Vec<Self>> {
        let list = json::read(text)?;
        let field = |f: &Json, key: &str| f.get(key)?.as_str().map(str::to_owned);
        list.as_array()?.iter().map(|f| Some(Self { bead_id: field(f, "bead_id")?, text: field(f, "text")? })).collect()
    }
}

/// What waits to be told together.
struct Rollup {
    /// When the last notice about failed beads went out.
    last_at: Option<Timestamp>,
    /// Failures since.
    count: u32,
    /// The first of them, at most [`ROLLUP_SHOWN`].
    beads: Vec<Failure>,
}

impl Rollup {
    fn load(sql: &dyn Sql) -> Result<Self, TownError> {
        let row = first(sql, "SELECT rollup_last_at, rollup_count, rollup_beads FROM town WHERE id = 1", &[])?;
        let r = row.ok_or_else(|| TownError::missing("Town"))?;
        Ok(Self {
            last_at: r.opt_int(0)?.map(Timestamp),
            count: r.count(1)?,
            beads: Failure::list(&r.text(2)?).unwrap_or_default(),
        })
    }
    fn save(&self, sql: &dyn Sql) -> Result<(), TownError> {
        sql.execute(
            "UPDATE town
             SET rollup_last_at = ?1, rollup_count = ?2, rollup_beads = ?3
             WHERE id = 1",
            &[self.last_at.into(), self.count.into(), (&json!(self.beads).to_string()).into()],
        )?;
        Ok(())
    }
}

/// A bead failed otherwise than by hand. The first failure is told at once and opens a window; what fails within it is
/// told together when it ends ([`flush_rollup`]). So at most one notice per window goes out, with the count.
pub fn bead_failed(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    config: &Config,
    bead: &BeadId,
    text: &str,
    facts: Json,
) -> Result<(), TownError> {
    let mut rollup = Rollup::load(sql)?;
    let window_over = rollup.last_at.is_none_or(|at| at.plus(config.notify.rollup_ms) <= ctx.now);
    if rollup.count == 0 && window_over {
        let notice = Notice {
            kind: NoticeKind::BeadFailed,
            // A bead fails at most once at a time; after a redrive it may fail again, and that is news.
            dedupe_key: format!("bead:{bead}:failed:{}", ctx.now.0),
            severity: "medium",
            scope: None,
            bead_id: Some(bead.clone()),
            text: text.to_owned(),
            facts,
        };
        if notify(sql, ctx, config, notice)? {
            rollup.last_at = Some(ctx.now);
            rollup.save(sql)?;
        }
        return Ok(());
    }
    rollup.count = rollup.count.saturating_add(1);
    if rollup.beads.len() < ROLLUP_SHOWN {
        rollup.beads.push(Failure { bead_id: bead.0.clone(), text: text::cut(text, ROLLUP_TEXT_BYTES).to_owned() });
    }
    rollup.save(sql)
}

/// Tells what failed within a window that has ended.
///
/// *Guarantees*: at most one notice about failed beads per `rollup_ms`; every failure is counted in exactly one.
pub fn flush_rollup(sql: &dyn Sql, ctx: &Ctx<'_>, config: &Config, state: &State) -> Result<(), TownError> {
    if next_deadline(config, state, ctx.now).is_none_or(|at| at > ctx.now) {
        return Ok(());
    }
    let rollup = Rollup::load(sql)?;
    let since = rollup.last_at.unwrap_or(ctx.now);
    let one = if rollup.count == 1 { rollup.beads.first() } else { None };
    notify(
        sql,
        ctx,
        config,
        Notice {
            kind: NoticeKind::BeadFailed,
            dedupe_key: format!("bead.failed:since:{}", since.0),
            severity: "medium",
            scope: None,
            bead_id: one.map(|f| BeadId::from(f.bead_id.as_str())),
            text: one.map_or_else(|| together(&rollup, ctx.now.since(since)), |f| f.text.clone()),
            facts: json!({"count": rollup.count, "since": since, "beads": rollup.beads}),
        },
    )?;
    Rollup { last_at: Some(ctx.now), count: 0, beads: Vec::new() }.save(sql)
}

/// The text of several failures.
fn together(rollup: &Rollup, over: Millis) -> String {
    let mut text = format!("{} more beads failed within {}:", rollup.count, in_words(over));
    for failure in &rollup.beads {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n• {}", failure.text);
    }
    let told = u32::try_from(rollup.beads.len()).unwrap_or(u32::MAX);
    if rollup.count > told {
        let _ = write!(text, "\n… and {} more", rollup.count - told);
    }
    text
}

/// When failures that wait to be told together are told.
pub(super) fn next_deadline(config: &Config, state: &State, now: Timestamp) -> Option<Timestamp> {
    let ends = state.rollup_last_at.map_or(now, |at| at.plus(config.notify.rollup_ms));
    state.rollup_waits.then_some(ends)
}

#[cfg(test)]
mod tests {
    use super::super::super::policy::{FACTS_BYTES, MESSAGE_BYTES};
    use super::super::super::time::DAY;
    use super::*;

    #[test]
    fn a_roll_up_that_shows_all_it_can_fits_into_a_mail() {
        let failure = Failure { bead_id: "b".repeat(36), text: "x".repeat(ROLLUP_TEXT_BYTES) };
        let rollup = Rollup { last_at: None, count: u32::MAX, beads: vec![failure; ROLLUP_SHOWN] };
        let text = together(&rollup, DAY);
        assert!(text.len() <= MESSAGE_BYTES);
        assert!(text.ends_with("… and 4294967275 more"), "{text}");
        assert!(json!(rollup.beads).to_string().len() + 100 <= FACTS_BYTES);
    }
}
