//! Escalations: calls for help. A bead that shows wherever beads do, with a satellite row that says how loud it is.
//!
//! From severity medium up the mayor is told by mail. One raised by a notification sends no mail of its own: the
//! notification has told the mayor already, and people must not hear of one thing twice.

use super::Ctx;
use super::bead::{self, Because, Draft, Kind, Priority, Status};
use super::command::Actor;
use super::effect::DataPoint;
use super::error::TownError;
use super::event::{self, Happening};
use super::id::{AgentId, BeadId, RigId};
use super::json::json;
use super::mail;
use super::policy::{
    BODY_BYTES, ESCALATE_EVERY, ESCALATE_TIMES, ESCALATIONS_SHOWN, EXCERPT_CHARS, MESSAGE_BYTES, METADATA_BYTES,
    RULE_ROWS,
};
use super::sql::{Arg, Columns, Row, Sql, SqlError, each, first};
use super::state::{self, State};
use super::text;
use super::time::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

/// What is to be raised.
#[derive(Clone, Debug)]
pub struct Raise<'a> {
    /// Where the trouble is; the mayor's pseudo rig counts as none.
    pub rig_id: Option<&'a RigId>,
    /// Who asks for help.
    pub agent: Option<&'a AgentId>,
    /// How urgent it is.
    pub severity: Priority,
    /// A word for the kind of trouble.
    pub category: Option<&'a str>,
    /// What is wrong.
    pub message: &'a str,
    /// More about it.
    pub body: Option<&'a str>,
    /// A JSON object.
    pub metadata: Option<Json>,
    /// A notification raises it: no mail of its own, never raised again.
    pub by_notification: bool,
}

/// One escalation as on the wire: `protocol.md` 2.7, and what its readers expect of a bead beside it (section 7, 1).
#[derive(Clone, Debug, Serialize)]
struct Escalation {
    id: String,
    source_rig_id: String,
    source_agent_id: Option<String>,
    severity: String,
    category: Option<String>,
    message: String,
    /// 0 or 1: a number on the wire.
    acknowledged: u8,
    re_escalation_count: u32,
    created_at: Timestamp,
    acknowledged_at: Option<Timestamp>,
    bead_id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    title: String,
    status: String,
    priority: String,
}

fn read(r: &Row) -> Result<Escalation, SqlError> {
    let c = Columns::of(r);
    let acknowledged_at = c.opt_at(8);
    let read = Escalation {
        id: c.text(0),
        source_rig_id: c.text(1),
        source_agent_id: c.opt_text(2),
        severity: c.text(3),
        category: c.opt_text(4),
        message: c.text(5),
        acknowledged: u8::from(acknowledged_at.is_some()),
        re_escalation_count: c.count(6),
        created_at: c.at(7),
        acknowledged_at,
        bead_id: c.text(0),
        kind: Kind::Escalation.as_str(),
        title: c.text(9),
        status: c.text(10),
        priority: c.text(11),
    };
    c.done(read)
}

/// Column list of every `SELECT` that [`read`] decodes. A macro, because statement text is constant.
macro_rules! escalation_columns {
    ($($rest:literal)*) => {
        concat!(
            "SELECT e.bead_id, e.source_rig_id, e.source_agent_id, e.severity, e.category, e.message,
                    e.re_escalation_count, e.created_at, e.acknowledged_at, b.title, b.status, b.priority
             FROM escalations e
             JOIN beads b ON b.bead_id = e.bead_id ",
            $($rest)*
        )
    };
}

/// Makes the escalation, its bead and, from severity medium up, a mail to the mayor; answers the escalation.
pub fn raise(sql: &dyn Sql, ctx: &Ctx<'_>, raise: Raise<'_>) -> Result<Json, TownError> {
    check(&raise)?;
    let severity = raise.severity.as_str();
    let excerpt: String = raise.message.chars().take(EXCERPT_CHARS).collect();
    let bead = bead::create(
        sql,
        ctx,
        Draft {
            kind: Kind::Escalation,
            title: format!("Escalation: {excerpt}"),
            body: Some(raise.body.unwrap_or(raise.message).to_owned()),
            rig_id: raise.rig_id.filter(|r| !r.as_str().starts_with("mayor-")).cloned(),
            parent: None,
            // As the predecessor had it: only what cannot wait keeps its urgency.
            priority: match raise.severity {
                Priority::Critical | Priority::High => raise.severity,
                Priority::Medium | Priority::Low => Priority::Medium,
            },
            labels: vec!["gt:escalation".to_owned(), format!("severity:{severity}")],
            metadata: raise.metadata.unwrap_or_else(|| json!({})),
            created_by: raise.agent.map(|a| a.0.clone()).or_else(|| raise.by_notification.then(|| mail::SYSTEM.into())),
            depends_on: Vec::new(),
        },
    )?;
    sql.execute(
        "INSERT INTO escalations
           (bead_id, seq, source_rig_id, source_agent_id, severity, category, message, by_notification, created_at,
            next_escalation_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        &[
            (&bead.id).into(),
            state::next_seq(sql)?.into(),
            raise.rig_id.map_or("", RigId::as_str).into(),
            raise.agent.into(),
            severity.into(),
            Arg::from(raise.category),
            raise.message.into(),
            raise.by_notification.into(),
            ctx.now.into(),
            (!raise.by_notification).then(|| ctx.now.plus(ESCALATE_EVERY)).into(),
        ],
    )?;
    emit(ctx, "escalation.created", &bead.id, raise.rig_id, severity);
    if raise.severity != Priority::Low && !raise.by_notification {
        tell_mayor(sql, ctx, raise.agent, severity, &excerpt, raise.message, raise.body)?;
    }
    answer(sql, &bead.id)
}

fn check(raise: &Raise<'_>) -> Result<(), TownError> {
    // The caller's `title` becomes the message (`protocol.md` 3.1).
    let texts = [
        ("title", raise.message.len(), MESSAGE_BYTES),
        ("body", raise.body.map_or(0, str::len), BODY_BYTES),
        ("metadata", raise.metadata.as_ref().map_or(0, |m| m.to_string().len()), METADATA_BYTES),
    ];
    for (field, len, cap) in texts {
        if len > cap {
            return Err(TownError::invalid(field, format!("{field} must be at most {cap} bytes, not {len}")));
        }
    }
    if raise.metadata.as_ref().is_some_and(|m| !m.is_object()) {
        return Err(TownError::invalid("metadata", "metadata must be a JSON object"));
    }
    Ok(())
}

/// One mail to the mayor, unless the mayor itself asks for help: then it is for people.
fn tell_mayor(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    agent: Option<&AgentId>,
    severity: &str,
    excerpt: &str,
    message: &str,
    body: Option<&str>,
) -> Result<(), TownError> {
    let mayor = State::load(sql)?.mayor;
    if agent == Some(&mayor) {
        return Ok(());
    }
    let from = agent.map_or(mail::SYSTEM, AgentId::as_str);
    let words = body.map_or_else(|| message.to_owned(), |b| format!("{message}\n\n{b}"));
    let subject = format!("Escalation ({severity}): {excerpt}");
    mail::send(sql, ctx, from, &mayor, &subject, text::cut(&words, MESSAGE_BYTES))?;
    Ok(())
}

fn emit(ctx: &Ctx<'_>, event: &'static str, bead: &BeadId, rig: Option<&RigId>, severity: &str) {
    ctx.emit(DataPoint {
        event,
        bead_id: bead.0.clone(),
        rig_id: rig.map(|r| r.0.clone()).unwrap_or_default(),
        bead_type: Kind::Escalation.as_str().to_owned(),
        label: severity.to_owned(),
        ..DataPoint::default()
    });
}

fn find(sql: &dyn Sql, id: &BeadId) -> Result<Option<Escalation>, TownError> {
    let row = first(sql, escalation_columns!("WHERE e.bead_id = ?1"), &[id.into()])?;
    Ok(row.as_ref().map(read).transpose()?)
}

fn answer(sql: &dyn Sql, id: &BeadId) -> Result<Json, TownError> {
    let escalation = find(sql, id)?.ok_or_else(|| TownError::missing("Escalation"))?;
    Ok(json!(escalation))
}

/// Escalations newest first, at most [`ESCALATIONS_SHOWN`]: all, or only (un)acknowledged ones.
pub fn list(sql: &dyn Sql, acknowledged: Option<bool>) -> Result<Json, TownError> {
    let limit = [Arg::from(ESCALATIONS_SHOWN)];
    let rows = match acknowledged {
        None => sql.query(escalation_columns!("ORDER BY e.seq DESC LIMIT ?1"), &limit)?,
        Some(false) => {
            sql.query(escalation_columns!("WHERE e.acknowledged_at IS NULL ORDER BY e.seq DESC LIMIT ?1"), &limit)?
        }
        Some(true) => {
            sql.query(escalation_columns!("WHERE e.acknowledged_at IS NOT NULL ORDER BY e.seq DESC LIMIT ?1"), &limit)?
        }
    };
    let escalations: Vec<Escalation> = each(&rows, read)?;
    Ok(json!(escalations))
}

/// Rule 7, too: raises what nobody acknowledged by one step, and tells the mayor once more.
///
/// *Guarantees*: [`ESCALATE_TIMES`] times an escalation, [`ESCALATE_EVERY`] apart, a hundred a tick; nothing that a
/// notification raised, since that has deliveries of its own.
pub fn raise_due(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<(), TownError> {
    let rows = sql.query(
        "SELECT bead_id, source_agent_id, severity, message, re_escalation_count
         FROM escalations INDEXED BY escalations_due
         WHERE next_escalation_at IS NOT NULL AND next_escalation_at <= ?1
         ORDER BY next_escalation_at
         LIMIT ?2",
        &[ctx.now.into(), RULE_ROWS.into()],
    )?;
    for r in &rows {
        let (id, agent, times) = (BeadId(r.text(0)?), r.opt_text(1)?.map(AgentId), r.count(4)?.saturating_add(1));
        let (was, message) = (r.text(2)?, r.text(3)?);
        let severity = match Priority::parse(&was) {
            Some(Priority::Low) => Priority::Medium,
            Some(Priority::Medium) => Priority::High,
            _ => Priority::Critical,
        };
        let next = (times < ESCALATE_TIMES).then(|| ctx.now.plus(ESCALATE_EVERY));
        sql.execute(
            "UPDATE escalations
             SET severity = ?2, re_escalation_count = ?3, next_escalation_at = ?4
             WHERE bead_id = ?1",
            &[(&id).into(), severity.as_str().into(), times.into(), next.into()],
        )?;
        let bead = bead::get(sql, &id)?;
        let word = severity.as_str();
        let label = |l: String| if l.starts_with("severity:") { format!("severity:{word}") } else { l };
        let labels: Vec<String> = bead.labels.into_iter().map(label).collect();
        sql.execute(
            "UPDATE beads SET labels = ?2, priority = ?3, rank = ?5, updated_at = ?4 WHERE bead_id = ?1",
            &[
                (&id).into(),
                (&json!(labels).to_string()).into(),
                severity.as_str().into(),
                ctx.now.into(),
                severity.rank().into(),
            ],
        )?;
        let what = Happening {
            kind: "escalated",
            old: Some(&was),
            new: Some(word),
            metadata: Some(json!({"re_escalation_count": times})),
            ..Happening::default()
        };
        event::record(sql, ctx, &id, what)?;
        emit(ctx, "escalation.raised", &id, bead.rig_id.as_ref(), word);
        let excerpt: String = message.chars().take(EXCERPT_CHARS).collect();
        let body = bead.body.as_deref().filter(|b| *b != message);
        tell_mayor(sql, ctx, agent.as_ref(), word, &excerpt, &message, body)?;
    }
    Ok(())
}

/// When the next escalation is raised.
pub fn next_deadline(sql: &dyn Sql) -> Result<Option<Timestamp>, TownError> {
    let row = first(
        sql,
        "SELECT min(next_escalation_at)
         FROM escalations INDEXED BY escalations_due
         WHERE next_escalation_at IS NOT NULL",
        &[],
    )?;
    Ok(row.map_or(Ok(None), |r| r.opt_int(0))?.map(Timestamp))
}

/// Its bead has ended: it falls silent with it. True if it had not been acknowledged yet.
pub fn silence(sql: &dyn Sql, ctx: &Ctx<'_>, id: &BeadId) -> Result<bool, TownError> {
    let changed = sql.execute(
        "UPDATE escalations
         SET acknowledged_at = ?2, next_escalation_at = NULL
         WHERE bead_id = ?1
           AND acknowledged_at IS NULL",
        &[id.into(), ctx.now.into()],
    )?;
    Ok(changed > 0)
}

/// Somebody has taken note: the escalation falls silent and its bead is closed. Repeating it changes nothing.
pub fn acknowledge(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, id: &BeadId) -> Result<Json, TownError> {
    let Some(escalation) = find(sql, id)? else { return Err(TownError::missing("Escalation")) };
    if silence(sql, ctx, id)? {
        let mut bead = bead::get(sql, id)?;
        if !bead.status.is_final() {
            let who = actor.label();
            let because = Because { agent: actor.agent(), ..Because::of(&who, "acknowledged") };
            bead::transition(sql, ctx, &mut bead, Status::Closed, because)?;
        }
        emit(ctx, "escalation.acknowledged", id, bead.rig_id.as_ref(), &escalation.severity);
    }
    answer(sql, id)
}
