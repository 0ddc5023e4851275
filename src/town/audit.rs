//! The audit: who changed what by hand, and why, written in the savepoint in which it was changed.
//!
//! Values are what the caller hands in, so they hold no secrets as long as callers hand in what an API would answer
//! (masked). Each is capped: the audit says that something changed, it is no backup.

use super::Ctx;
use super::command::{Actor, Page};
use super::error::TownError;
use super::json::{self, json};
use super::policy::{AUDIT_RETENTION, AUDIT_VALUE_BYTES, LIST_DEFAULT, LIST_MAX, REASON_BYTES, RULE_ROWS};
use super::sql::{Arg, Columns, Row, Sql, SqlError, each, first};
use super::state;
use super::text;
use super::time::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

/// One change by hand, as on the wire (`api.md`).
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Entry {
    /// The page's key; not told.
    #[serde(skip)]
    id: String,
    at: Timestamp,
    actor: String,
    action: String,
    subject: String,
    reason: String,
    before: Option<Json>,
    after: Option<Json>,
}

/// Writes one entry. `before` and `after` are as an API would answer them: masked.
#[allow(clippy::too_many_arguments, reason = "an entry is these eight things, and every caller has all of them")]
pub fn record(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    action: &str,
    subject: &str,
    reason: &str,
    before: Option<&Json>,
    after: Option<&Json>,
) -> Result<(), TownError> {
    sql.execute(
        "INSERT INTO audit
           (audit_id, seq, at, actor, action, subject, reason, before, after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        &[
            (&ctx.ids.uuid()).into(),
            state::next_seq(sql)?.into(),
            ctx.now.into(),
            (&actor.label()).into(),
            action.into(),
            subject.into(),
            text::cut(reason, REASON_BYTES).into(),
            before.map(capped).as_deref().into(),
            after.map(capped).as_deref().into(),
        ],
    )?;
    Ok(())
}

/// `value` as JSON text within the cap: one that is too long is told by its beginning and its size.
fn capped(value: &Json) -> String {
    let full = value.to_string();
    if full.len() <= AUDIT_VALUE_BYTES {
        return full;
    }
    // A third of the cap for the beginning: as a JSON string every quote and backslash in it takes two bytes.
    json!({"truncated": true, "original_bytes": full.len(), "beginning": text::cut(&full, AUDIT_VALUE_BYTES / 3)})
        .to_string()
}

/// Entries newest first: `{entries, next}`.
pub fn list(sql: &dyn Sql, page: &Page) -> Result<Json, TownError> {
    let window = window(sql, page, "SELECT seq FROM audit WHERE audit_id = ?1")?;
    let rows = sql.query(
        "SELECT audit_id, at, actor, action, subject, reason, before, after
         FROM audit
         WHERE seq < ?1
         ORDER BY seq DESC
         LIMIT ?2",
        &window.args(),
    )?;
    let entries: Vec<Entry> = each(&rows, read)?;
    let (entries, next) = window.turn(entries, |e| &e.id);
    Ok(json!({"entries": entries, "next": next}))
}

fn read(r: &Row) -> Result<Entry, SqlError> {
    let c = Columns::of(r);
    let value = |i| c.opt_text(i).and_then(|t| json::read(&t));
    let read = Entry {
        id: c.text(0),
        at: c.at(1),
        actor: c.text(2),
        action: c.text(3),
        subject: c.text(4),
        reason: c.text(5),
        before: value(6),
        after: value(7),
    };
    c.done(read)
}

/// Drops what is past retention, oldest first, at most [`RULE_ROWS`] rows. Arms nothing: it rides along.
pub fn prune(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let keep_from = now.plus(-AUDIT_RETENTION);
    // Usually nothing is old enough, and one row says so.
    let oldest = first(sql, "SELECT at FROM audit ORDER BY seq LIMIT 1", &[])?;
    if oldest.map_or(Ok(keep_from.0), |r| r.int(0))? >= keep_from.0 {
        return Ok(());
    }
    sql.execute(
        "DELETE FROM audit
         WHERE audit_id IN (SELECT audit_id FROM audit ORDER BY seq LIMIT ?2)
           AND at < ?1",
        &[keep_from.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}

/// The part of a list, newest first by `seq`, that a page asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    before: i64,
    limit: u32,
}

/// Greater than every `seq`, and still a number that workerd passes through unharmed.
const END: i64 = (1 << 53) - 1;

/// Reads a page. `seq_of` selects the `seq` of one id of the list; an id that is not in it is a 422.
pub fn window(sql: &dyn Sql, page: &Page, seq_of: &'static str) -> Result<Window, TownError> {
    let limit = page.limit.unwrap_or(LIST_DEFAULT);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(TownError::invalid("limit", format!("limit must be between 1 and {LIST_MAX}")));
    }
    let before = match &page.before {
        None => END,
        Some(id) => first(sql, seq_of, &[id.into()])?
            .ok_or_else(|| TownError::invalid("before", "before must be the next of an earlier page of this list"))?
            .int(0)?,
    };
    Ok(Window { before, limit })
}

impl Window {
    /// The `seq` that the list stays below.
    #[must_use]
    pub fn before(&self) -> Arg<'_> {
        self.before.into()
    }
    /// How many rows to read: one more than asked for, to see whether there is a next page.
    #[must_use]
    pub fn limit(&self) -> Arg<'_> {
        (self.limit + 1).into()
    }
    /// [`Self::before`] as `?1` and [`Self::limit`] as `?2`.
    #[must_use]
    pub fn args(&self) -> [Arg<'_>; 2] {
        [self.before(), self.limit()]
    }
    /// The page itself, and the id to pass as `before` for the next one if there is one.
    pub fn turn<T>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(|r| id(r).to_owned()) } else { None };
        (rows, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_within_the_cap_is_kept_as_it_is() {
        let value = json!({"mode": "forced_open"});
        assert_eq!(serde_json::from_str::<Json>(&capped(&value)).unwrap(), value);
    }

    #[test]
    fn a_value_over_the_cap_is_told_by_its_beginning_and_its_size() {
        for filler in ["\"", "ä", "\u{1}", "x"] {
            let value = json!({"text": filler.repeat(AUDIT_VALUE_BYTES)});
            let stored: Json = serde_json::from_str(&capped(&value)).unwrap();
            assert_eq!(stored["truncated"], true);
            assert_eq!(stored["original_bytes"], value.to_string().len());
            assert!(value.to_string().starts_with(stored["beginning"].as_str().unwrap()));
        }
    }

    #[test]
    fn a_page_that_is_not_full_has_no_next() {
        let window = Window { before: END, limit: 2 };
        let id = |s: &&'static str| -> &'static str { s };
        assert_eq!(window.turn(vec!["a", "b"], |s| id(s)), (vec!["a", "b"], None));
        assert_eq!(window.turn(vec!["a", "b", "c"], |s| id(s)), (vec!["a", "b"], Some("b".to_owned())));
    }
}
