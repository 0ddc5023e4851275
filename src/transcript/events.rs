//! Events: appended, listed, replayed. Their ids ascend by one, so that the newest [`TRANSCRIPT_KEPT`] are known from the
//! newest alone.
//!
//! *Guarantees*: exactly the newest [`TRANSCRIPT_KEPT`] are shown. What is older goes in steps of [`TRANSCRIPT_STEP`], by its
//! key, so that appending reads the same few rows whatever is stored. Memory is bounded whatever the events weigh.

use super::{cut, read::Event};
use crate::town::{
    error::TownError,
    policy::{TRANSCRIPT_ANSWER_BYTES, TRANSCRIPT_KEPT, TRANSCRIPT_PAGE, TRANSCRIPT_REPLAYED, TRANSCRIPT_STEP},
    sql::{Arg, Row, Sql, SqlError, first},
    time::Timestamp,
};
use serde_json::Value as Json;

/// An event as it goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// In a list (`protocol.md` 2.10).
    Listed,
    /// In a frame of the live stream (`protocol.md` 4.9), with its id, by which a client can tell what it has.
    Frame,
}

/// Appends events, and returns the id of the first. `None` if this very request was carried out just before: the runtime
/// repeats a call whose answer it has lost. To be run in a savepoint.
pub fn append(sql: &dyn Sql, now: Timestamp, request: &str, events: &[Event<'_>]) -> Result<Option<i64>, TownError> {
    let mut newest = 0;
    for row in sql.query("SELECT id, request FROM events ORDER BY id DESC LIMIT 2", &[])? {
        newest = newest.max(row.int(0)?);
        if row.opt_text(1)?.as_deref() == Some(request) {
            return Ok(None);
        }
    }
    let first = newest + 1;
    for (n, event) in events.iter().enumerate() {
        newest += 1;
        let last = n + 1 == events.len();
        sql.execute(
            "INSERT INTO events (id, event_type, data, request, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            &[
                newest.into(),
                (&event.kind).into(),
                (&cut::stored(event.data).into_owned()).into(),
                Arg::from(last.then_some(request)),
                now.into(),
            ],
        )?;
        // One step's worth is dropped whenever one has come: what it costs, each event has paid a part of.
        if newest % TRANSCRIPT_STEP == 0 && newest > TRANSCRIPT_KEPT {
            sql.execute("DELETE FROM events WHERE id <= ?1", &[(newest - TRANSCRIPT_KEPT).into()])?;
        }
    }
    Ok(Some(first))
}

/// The id below which nothing is shown, and the newest.
fn bounds(sql: &dyn Sql) -> Result<(i64, i64), SqlError> {
    let newest = first(sql, "SELECT id FROM events ORDER BY id DESC LIMIT 1", &[])?;
    let newest = newest.map_or(Ok(0), |r| r.int(0))?;
    Ok((newest - TRANSCRIPT_KEPT, newest))
}

/// Events after `after`, oldest first, at most `limit`, as the text of a JSON array. It ends early when it has grown to
/// [`TRANSCRIPT_ANSWER_BYTES`]; only an empty one says that there are no more.
pub fn list(sql: &dyn Sql, agent: &str, after: i64, limit: usize) -> Result<String, TownError> {
    let (floor, newest) = bounds(sql)?;
    let mut after = after.clamp(floor, newest);
    let mut out = "[".to_owned();
    let mut left = limit;
    while left > 0 && out.len() < TRANSCRIPT_ANSWER_BYTES {
        let rows = sql.query(
            "SELECT id, event_type, data, created_at FROM events WHERE id > ?1 ORDER BY id LIMIT ?2",
            &[after.into(), i64::try_from(left.min(TRANSCRIPT_PAGE)).unwrap_or(1).into()],
        )?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            if out.len() > 1 {
                out.push(',');
            }
            after = row.int(0)?;
            out.push_str(&shown(row, agent, Shape::Listed)?);
            left = left.saturating_sub(1);
        }
    }
    out.push(']');
    Ok(out)
}

/// The newest events after `after`, oldest first, as frames: at most [`TRANSCRIPT_REPLAYED`], and some
/// [`TRANSCRIPT_ANSWER_BYTES`]. Nothing is missing between the last of them and whatever is appended next.
pub fn replay(sql: &dyn Sql, agent: &str, after: i64) -> Result<Vec<String>, TownError> {
    let (floor, newest) = bounds(sql)?;
    let after = after.clamp(floor, newest).max(newest - TRANSCRIPT_REPLAYED);
    let (mut before, mut bytes, mut frames) = (newest + 1, 0, Vec::new());
    while before > after + 1 && bytes < TRANSCRIPT_ANSWER_BYTES {
        let rows = sql.query(
            "SELECT id, event_type, data, created_at
             FROM events
             WHERE id > ?1 AND id < ?2
             ORDER BY id DESC
             LIMIT ?3",
            &[after.into(), before.into(), i64::try_from(TRANSCRIPT_PAGE).unwrap_or(1).into()],
        )?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            before = row.int(0)?;
            let frame = shown(row, agent, Shape::Frame)?;
            bytes += frame.len();
            frames.push(frame);
        }
    }
    frames.reverse();
    Ok(frames)
}

/// Events just appended, from the id `first` on, as frames.
#[must_use]
pub fn frames(agent: &str, now: Timestamp, first: i64, events: &[Event<'_>]) -> Vec<String> {
    let frame =
        |(id, event): (i64, &Event<'_>)| json(Shape::Frame, id, agent, &event.kind, &cut::stored(event.data), now);
    (first..).zip(events).map(frame).collect()
}

fn shown(row: &Row, agent: &str, shape: Shape) -> Result<String, SqlError> {
    Ok(json(shape, row.int(0)?, agent, &row.text(1)?, &row.text(2)?, Timestamp(row.int(3)?)))
}

/// The data is JSON already; it is put in as it stands.
fn json(shape: Shape, id: i64, agent: &str, kind: &str, data: &str, at: Timestamp) -> String {
    let [agent, kind] = [agent, kind].map(|text| Json::from(text).to_string());
    match shape {
        Shape::Listed => {
            format!(r#"{{"id":{id},"agent_id":{agent},"event_type":{kind},"data":{data},"created_at":"{at}"}}"#)
        }
        Shape::Frame => {
            format!(r#"{{"agentId":{agent},"event":{kind},"data":{data},"timestamp":"{at}","id":{id}}}"#)
        }
    }
}
