//! Bead events: one row per thing that happened to a bead, written in the savepoint in which it happened.

use super::Ctx;
use super::error::TownError;
use super::frame;
use super::id::{AgentId, BeadId};
use super::json::{self, json};
use super::policy::{EVENT_RETENTION, EVENTS_KEPT, LIST_DEFAULT, LIST_MAX, RULE_ROWS};
use super::sql::{Columns, Row, Sql, SqlError, each, first};
use super::time::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

/// One event, as on the wire (`protocol.md` 2.9).
#[derive(Clone, Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the wire's own names")]
pub struct BeadEvent {
    bead_event_id: String,
    bead_id: String,
    agent_id: Option<String>,
    event_type: String,
    old_value: Option<String>,
    new_value: Option<String>,
    metadata: Json,
    created_at: Timestamp,
}

impl BeadEvent {
    /// `{time, type, message}`, as the status snapshot shows it.
    #[must_use]
    pub fn line(&self) -> Json {
        let (old, new) = (self.old_value.as_deref().unwrap_or("-"), self.new_value.as_deref().unwrap_or("-"));
        let message = format!("bead {}: {old} → {new}", self.bead_id);
        json!({"time": self.created_at, "type": self.event_type, "message": message})
    }
}

/// What happened, before it has an id and a time.
#[derive(Clone, Debug, Default)]
pub struct Happening<'a> {
    /// One of the types of `domain.md` 11.
    pub kind: &'static str,
    /// The agent concerned, if one is.
    pub agent: Option<&'a AgentId>,
    /// The value before.
    pub old: Option<&'a str>,
    /// The value after.
    pub new: Option<&'a str>,
    /// A JSON object.
    pub metadata: Option<Json>,
}

/// Writes one event.
pub fn record(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &BeadId, what: Happening<'_>) -> Result<(), TownError> {
    let metadata = what.metadata.map_or_else(|| "{}".to_owned(), |m| m.to_string());
    sql.execute(
        "INSERT INTO bead_events
           (bead_event_id, bead_id, agent_id, event_type, old_value, new_value, metadata, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        &[
            (&ctx.ids.uuid()).into(),
            bead.into(),
            what.agent.into(),
            what.kind.into(),
            what.old.into(),
            what.new.into(),
            (&metadata).into(),
            ctx.now.into(),
        ],
    )?;
    frame::bead(sql, ctx, bead, what.kind, what.new)
}

fn read(r: &Row) -> Result<BeadEvent, SqlError> {
    let c = Columns::of(r);
    let read = BeadEvent {
        bead_event_id: c.text(0),
        bead_id: c.text(1),
        agent_id: c.opt_text(2),
        event_type: c.text(3),
        old_value: c.opt_text(4),
        new_value: c.opt_text(5),
        metadata: json::read(&c.text(6)).unwrap_or(Json::Null),
        created_at: c.at(7),
    };
    c.done(read)
}

/// Events newest first, of one bead or of the town, strictly later than `since`.
pub fn list(
    sql: &dyn Sql,
    bead: Option<&BeadId>,
    since: Option<Timestamp>,
    limit: Option<u32>,
) -> Result<Vec<BeadEvent>, TownError> {
    let since = since.unwrap_or(Timestamp(i64::MIN >> 11));
    let limit = limit.unwrap_or(LIST_DEFAULT).min(LIST_MAX);
    let rows = match bead {
        Some(bead) => sql.query(
            "SELECT bead_event_id, bead_id, agent_id, event_type, old_value, new_value, metadata, created_at
             FROM bead_events
             WHERE bead_id = ?1 AND created_at > ?2
             ORDER BY seq DESC
             LIMIT ?3",
            &[bead.into(), since.into(), limit.into()],
        )?,
        None => sql.query(
            // Limited before it is filtered, or a `since` that few are later than would read them all.
            "SELECT bead_event_id, bead_id, agent_id, event_type, old_value, new_value, metadata, created_at
             FROM (SELECT * FROM bead_events ORDER BY seq DESC LIMIT ?2)
             WHERE created_at > ?1
             ORDER BY seq DESC",
            &[since.into(), limit.into()],
        )?,
    };
    Ok(each(&rows, read)?)
}

/// Drops what is past retention, oldest first, at most [`RULE_ROWS`] rows. Arms nothing: it rides along.
pub fn prune(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let keep_from = now.plus(-EVENT_RETENTION);
    // Usually nothing is old enough, and two rows say so.
    let oldest = first(
        sql,
        "SELECT seq, created_at, (SELECT max(seq) FROM bead_events) FROM bead_events ORDER BY seq LIMIT 1",
        &[],
    )?;
    let Some(oldest) = oldest else { return Ok(()) };
    let too_many = oldest.int(2)? - oldest.int(0)? >= i64::from(EVENTS_KEPT);
    if oldest.int(1)? >= keep_from.0 && !too_many {
        return Ok(());
    }
    sql.execute(
        "DELETE FROM bead_events
         WHERE seq IN (SELECT seq FROM bead_events ORDER BY seq LIMIT ?2)
           AND (created_at < ?1 OR seq <= (SELECT max(seq) FROM bead_events) - ?3)",
        &[keep_from.into(), RULE_ROWS.into(), EVENTS_KEPT.into()],
    )?;
    Ok(())
}
