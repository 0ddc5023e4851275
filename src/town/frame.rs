//! Frames: what whoever watches the town is told at once (`protocol.md` 3.5, the status socket).
//!
//! *Guarantees*: a frame tells of rows that were committed, in the order in which they were written; while nobody watches
//! ([`Ctx::watched`]) none is built and nothing is read for one.
//! *Assumptions*: none is booked. A frame that nobody hears is lost; the snapshot with which each watcher begins says all.

use super::Ctx;
use super::error::TownError;
use super::id::{AgentId, BeadId};
use super::json::json;
use super::sql::{Sql, first};
use serde_json::{Map, Value as Json};

/// A bead was made, or has another status: `new`.
pub fn bead(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &BeadId, kind: &str, new: Option<&str>) -> Result<(), TownError> {
    if !ctx.watched || !matches!(kind, "created" | "status_changed") {
        return Ok(());
    }
    let row = first(
        sql,
        "SELECT title, rig_id,
                (SELECT d.depends_on_bead_id
                 FROM bead_dependencies d
                 JOIN beads c ON c.bead_id = d.depends_on_bead_id
                 WHERE d.bead_id = beads.bead_id AND d.kind = 'tracks' AND c.type = 'convoy'
                 LIMIT 1)
         FROM beads
         WHERE bead_id = ?1",
        &[bead.into()],
    )?;
    let Some(row) = row else { return Ok(()) };
    let kind = match (kind, new) {
        ("created", _) => "bead.created",
        (_, Some("closed")) => "bead.closed",
        (_, Some("failed")) => "bead.failed",
        _ => "bead.status_changed",
    };
    let mut frame = Map::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            frame.insert(key.to_owned(), Json::String(value));
        }
    };
    put("channel", Some("bead".to_owned()));
    put("type", Some(kind.to_owned()));
    put("beadId", Some(bead.0.clone()));
    put("title", row.opt_text(0)?);
    put("status", new.map(str::to_owned));
    put("rigId", row.opt_text(1)?);
    put("convoyId", row.opt_text(2)?);
    put("ts", Some(ctx.now.to_string()));
    ctx.broadcast(Json::Object(frame));
    Ok(())
}

/// A convoy has come further.
pub fn convoy(ctx: &Ctx<'_>, convoy: &BeadId, total: u32, closed: u32) {
    ctx.broadcast(
        json!({"channel": "convoy", "convoyId": convoy, "totalBeads": total, "closedBeads": closed, "ts": ctx.now}),
    );
}

/// An agent says what it is doing.
pub fn agent_status(ctx: &Ctx<'_>, agent: &AgentId, message: &str) {
    ctx.broadcast(json!({"type": "agent_status", "agentId": agent, "message": message, "timestamp": ctx.now}));
}

/// The mayor wants something shown (`UiAction` of `protocol.md` 2.12).
pub fn ui_action(ctx: &Ctx<'_>, action: &Json) {
    ctx.broadcast(json!({"channel": "ui_action", "action": action, "ts": ctx.now}));
}
