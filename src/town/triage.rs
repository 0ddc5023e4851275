//! Triage: questions about stuck agents, and the one agent that may be set to answer them.
//!
//! A *request* is a bead that carries `gt:triage-request`: people, the mayor or a triage agent resolve it
//! (`handle/triage.rs`); it is never dispatched. While requests wait that no triage agent was given yet, the town makes one
//! *batch*: a bead of `patrol` that goes through the gate like any other, to a polecat without a clone.
//!
//! *Guarantees.* At most [`TRIAGE_OPEN`] open requests that the town has made, one per agent and cause. One unfinished batch
//! at a time, and no request causes a second one: what a batch leaves open waits for people. So triage ends with its beads'
//! caps, however long an outage lasts.

use super::Ctx;
use super::bead::{self, Bead, Because, Draft, Kind, Priority, Status, label};
use super::dispatch::gate::View;
use super::error::TownError;
use super::id::{AgentId, BeadId, RigId};
use super::json::json;
use super::policy::{REASON_BYTES, TITLE_BYTES, TRIAGE_OPEN, TRIAGE_SHOWN};
use super::sql::{Sql, first};
use super::text;
use super::time::Timestamp;
use crate::bead_columns;
use serde_json::Value as Json;
use std::fmt::Write as _;

/// Who makes batches.
const PATROL: &str = "patrol";
/// The cause of a request about an agent that does nothing.
pub const STUCK_AGENT: &str = "stuck_agent";
/// What a request offers.
const OPTIONS: [&str; 6] =
    ["RESTART", "RESTART_WITH_BACKOFF", "REASSIGN_BEAD", "CLOSE_BEAD", "ESCALATE_TO_MAYOR", "NUDGE"];

/// A text among a request's metadata; empty if there is none.
#[must_use]
pub fn word<'a>(request: &'a Bead, key: &str) -> &'a str {
    request.metadata.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// What a request asks: it stays, whatever else becomes of the metadata, for by it the town knows that it has asked.
pub const QUESTION: [&str; 3] = ["triage_type", "agent_bead_id", "hooked_bead_id"];

/// True for the bead of a triage agent.
#[must_use]
pub fn is_batch(bead: &Bead) -> bool {
    bead.created_by.as_deref() == Some(PATROL)
}

/// Open requests, oldest first.
fn open(sql: &dyn Sql, limit: u32) -> Result<Vec<Bead>, TownError> {
    let rows = sql.query(
        bead_columns!("INDEXED BY beads_triage WHERE triage_request > 0 AND status = 'open' ORDER BY seq LIMIT ?1"),
        &[limit.into()],
    )?;
    Ok(rows.iter().map(bead::read).collect::<Result<_, _>>()?)
}

/// The batch that is not finished, if there is one.
fn batch(sql: &dyn Sql) -> Result<Option<Bead>, TownError> {
    let row = first(
        sql,
        bead_columns!(
            "INDEXED BY beads_batch
             WHERE created_by = 'patrol' AND status IN ('open', 'in_progress', 'in_review')
             ORDER BY seq
             LIMIT 1"
        ),
        &[],
    )?;
    Ok(row.as_ref().map(bead::read).transpose()?)
}

/// Asks what to do about an agent, unless that has been asked already, or too much is open.
///
/// Nobody is asked about a triage agent: its bead has its cap, like any other.
pub fn ask(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    agent: &AgentId,
    bead: Option<&Bead>,
    cause: &str,
    context: &str,
) -> Result<(), TownError> {
    if bead.is_some_and(is_batch) {
        return Ok(());
    }
    let open = open(sql, TRIAGE_OPEN)?;
    let same = |r: &Bead| word(r, "agent_bead_id") == agent.as_str() && word(r, "triage_type") == cause;
    if open.len() >= TRIAGE_OPEN as usize || open.iter().any(same) {
        return Ok(());
    }
    let about = bead.map_or("nothing", |b| b.title.as_str());
    bead::create(
        sql,
        ctx,
        Draft {
            kind: Kind::Issue,
            title: text::cut(&format!("Triage: an agent is stuck on «{about}»"), TITLE_BYTES).to_owned(),
            body: Some(context.to_owned()),
            rig_id: bead.and_then(|b| b.rig_id.clone()),
            parent: None,
            priority: Priority::High,
            labels: vec![label::TRIAGE_REQUEST.to_owned()],
            metadata: json!({
                "triage_type": cause,
                "agent_bead_id": agent,
                "hooked_bead_id": bead.map(|b| &b.id),
                "context": context,
                "options": OPTIONS,
            }),
            created_by: Some("system".to_owned()),
            depends_on: Vec::new(),
        },
    )?;
    Ok(())
}

/// What rule 7 has to do about the batch.
enum Wanted {
    /// Requests wait that no triage agent was given: a batch, in this rig.
    Batch(RigId),
    /// All of them were answered before the batch began.
    Close(Box<Bead>),
}

fn wanted(sql: &dyn Sql, view: &View) -> Result<Option<Wanted>, TownError> {
    if let Some(batch) = batch(sql)? {
        let idle = batch.status == Status::Open && open(sql, 1)?.is_empty();
        return Ok(idle.then(|| Wanted::Close(Box::new(batch))));
    }
    let waiting = first(
        sql,
        "SELECT rig_id
         FROM beads INDEXED BY beads_triage
         WHERE triage_request > 0 AND status = 'open' AND triage_request = 1
         ORDER BY seq
         LIMIT 1",
        &[],
    )?;
    let Some(row) = waiting else { return Ok(None) };
    let rig = row.opt_text(0)?.map(RigId).filter(|id| view.rigs.contains_key(id));
    // A request without a rig is answered from any.
    Ok(rig.or_else(|| view.rigs.keys().next().cloned()).map(Wanted::Batch))
}

/// Part of rule 7: makes the batch, or closes it if nothing is left to answer.
pub fn run(sql: &dyn Sql, ctx: &Ctx<'_>, view: &View) -> Result<(), TownError> {
    match wanted(sql, view)? {
        None => Ok(()),
        Some(Wanted::Batch(rig)) => make_batch(sql, ctx, rig),
        Some(Wanted::Close(mut batch)) => {
            if let Some(agent) = super::agent::hooked_to(sql, &batch.id)? {
                super::agent::unhook(sql, ctx, &agent.id, &batch.id, "nothing is left to answer")?;
            }
            bead::transition(sql, ctx, &mut batch, Status::Closed, Because::of("system", "nothing is left to answer"))
        }
    }
}

/// Now, if there is something to do about the batch.
pub fn next_deadline(sql: &dyn Sql, view: &View) -> Result<Option<Timestamp>, TownError> {
    Ok(wanted(sql, view)?.map(|_| view.now))
}

fn make_batch(sql: &dyn Sql, ctx: &Ctx<'_>, rig: RigId) -> Result<(), TownError> {
    bead::create(
        sql,
        ctx,
        Draft {
            kind: Kind::Issue,
            title: "Triage: answer the open requests".to_owned(),
            body: None,
            rig_id: Some(rig),
            parent: None,
            priority: Priority::High,
            labels: vec!["gt:triage".to_owned()],
            metadata: json!({}),
            created_by: Some(PATROL.to_owned()),
            depends_on: Vec::new(),
        },
    )?;
    // Given to this batch, whatever becomes of it. What is asked from now on waits for the next one.
    sql.execute(
        "UPDATE beads
         SET triage_request = 2
         WHERE bead_id IN (SELECT bead_id
                           FROM beads INDEXED BY beads_triage
                           WHERE triage_request > 0 AND status = 'open' AND triage_request = 1
                           LIMIT ?1)",
        &[TRIAGE_SHOWN.into()],
    )?;
    Ok(())
}

/// True for a batch that may not come back, because another one has been made since.
pub fn is_superseded(sql: &dyn Sql, bead: &Bead) -> Result<bool, TownError> {
    Ok(is_batch(bead) && batch(sql)?.is_some())
}

/// What a triage agent is asked to do: the requests as they are now.
pub fn brief(sql: &dyn Sql) -> Result<String, TownError> {
    let mut text = "Answer each of these triage requests with gt_triage_resolve, then report done.".to_owned();
    for request in open(sql, TRIAGE_SHOWN)? {
        let options = request.metadata.get("options").map_or_else(String::new, Json::to_string);
        let _ = write!(
            text,
            "\n\ntriage_request_bead_id: {}\ntype: {}\nagent: {}\nbead: {}\noptions: {options}\n{}",
            request.id,
            word(&request, "triage_type"),
            word(&request, "agent_bead_id"),
            word(&request, "hooked_bead_id"),
            text::cut(word(&request, "context"), REASON_BYTES)
        );
    }
    Ok(text)
}

/// Whether this agent has been set to answer requests.
pub fn answers(sql: &dyn Sql, hook: Option<&BeadId>) -> Result<bool, TownError> {
    let bead = hook.map(|id| bead::find(sql, id)).transpose()?.flatten();
    Ok(bead.is_some_and(|b| is_batch(&b)))
}
