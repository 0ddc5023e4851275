//! Mail: a message from one agent to another, undelivered until it was handed to its recipient.
//!
//! A mail is marked delivered when *it* was handed over, by its id, in the savepoint that builds the answer: mail that
//! arrives meanwhile stays undelivered, and nothing is delivered twice.

use super::Ctx;
use super::audit;
use super::command::Page;
use super::error::TownError;
use super::event::{self, Happening};
use super::id::{AgentId, BeadId};
use super::json::json;
use super::live;
use super::notify;
use super::policy::{MAIL_AT_ONCE, MESSAGE_BYTES, NOTIFICATION_RETENTION, RULE_ROWS, TITLE_BYTES};
use super::sql::{Columns, Row, Sql, SqlError, any, each, first};
use super::state::{self, State};
use super::time::Timestamp;
use serde::Serialize;
use serde_json::Value as Json;

/// Who writes the town's own mail.
pub const SYSTEM: &str = "system";
/// The name by which anyone may address the town's mayor.
pub const MAYOR: &str = "mayor";

/// One mail, as on the wire (`protocol.md` 2.4).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mail {
    /// Its id.
    pub id: String,
    /// An agent's id, or who else wrote it: `system`, `user:…`.
    pub from_agent_id: String,
    /// Its recipient.
    pub to_agent_id: AgentId,
    /// At most 500 bytes.
    pub subject: String,
    /// At most 16 KB.
    pub body: String,
    /// Whether it has been handed over.
    pub delivered: bool,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it was handed over.
    pub delivered_at: Option<Timestamp>,
}

fn read(r: &Row) -> Result<Mail, SqlError> {
    let c = Columns::of(r);
    let delivered_at = c.opt_at(6);
    let read = Mail {
        id: c.text(0),
        from_agent_id: c.text(1),
        to_agent_id: AgentId(c.text(2)),
        subject: c.text(3),
        body: c.text(4),
        delivered: delivered_at.is_some(),
        created_at: c.at(5),
        delivered_at,
    };
    c.done(read)
}

/// Whose id an address is: an agent's id stands for itself, `mayor` for the town's mayor.
pub fn address(sql: &dyn Sql, to: &str) -> Result<AgentId, TownError> {
    if to == MAYOR { Ok(State::load(sql)?.mayor) } else { Ok(to.into()) }
}

/// Writes a mail and returns its id. Whether there is such a recipient is not checked (`protocol.md` 3.1).
pub fn send(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    from: &str,
    to: &AgentId,
    subject: &str,
    body: &str,
) -> Result<String, TownError> {
    let id = ctx.ids.uuid();
    post(sql, ctx, &id, from, to, subject, body)?;
    Ok(id)
}

/// [`send`] under an id that the caller chose: a notification's mail has the notification's id, so that each finds the
/// other by its key.
pub(super) fn post(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    id: &str,
    from: &str,
    to: &AgentId,
    subject: &str,
    body: &str,
) -> Result<(), TownError> {
    for (field, text, cap) in [("subject", subject, TITLE_BYTES), ("body", body, MESSAGE_BYTES)] {
        if text.len() > cap {
            return Err(TownError::invalid(field, format!("{field} must be at most {cap} bytes, not {}", text.len())));
        }
    }
    sql.execute(
        "INSERT INTO mail
           (id, seq, from_agent_id, to_agent_id, subject, body, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        &[id.into(), state::next_seq(sql)?.into(), from.into(), to.into(), subject.into(), body.into(), ctx.now.into()],
    )?;
    let hook = first(sql, "SELECT current_hook_bead_id FROM agents WHERE agent_id = ?1", &[to.into()])?;
    if let Some(bead) = hook.map(|r| r.opt_text(0)).transpose()?.flatten() {
        event::record(
            sql,
            ctx,
            &BeadId(bead),
            Happening {
                kind: "mail_sent",
                agent: Some(to),
                metadata: Some(json!({"subject": subject, "to": to, "from": from})),
                ..Happening::default()
            },
        )?;
    }
    live::wanted(sql, ctx, to)
}

/// Hands an agent its undelivered mail, oldest first, and marks exactly that delivered.
///
/// The answer is the snapshot before delivery: `delivered` is false in it. What exceeds the bound comes next time.
pub fn take(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId) -> Result<Vec<Mail>, TownError> {
    let mail: Vec<Mail> = waiting(sql, agent, MAIL_AT_ONCE)?.into_iter().map(|(mail, _)| mail).collect();
    let ids: Vec<&str> = mail.iter().map(|m| m.id.as_str()).collect();
    delivered(sql, ctx, &ids)?;
    Ok(mail)
}

/// The oldest mail that waits for an agent, and of each whether it is a person's message to the mayor. What a message in
/// the air or a start holds is not among it.
pub fn waiting(sql: &dyn Sql, agent: &AgentId, limit: u32) -> Result<Vec<(Mail, bool)>, TownError> {
    let rows = sql.query(
        "SELECT id, from_agent_id, to_agent_id, subject, body, created_at, delivered_at, wakes
         FROM mail
         WHERE to_agent_id = ?1
           AND delivered_at IS NULL
           AND id NOT IN (SELECT j.value FROM lines l, json_each(l.items) j WHERE l.agent_id = ?1
                          UNION ALL
                          SELECT j.value FROM lines l, json_each(l.carried) j WHERE l.agent_id = ?1)
         ORDER BY seq
         LIMIT ?2",
        &[agent.into(), limit.into()],
    )?;
    Ok(each(&rows, |r| Ok((read(r)?, r.flag(7)?)))?)
}

/// Writes a person's message to the mayor: mail that starts it if it sleeps.
pub fn wake(sql: &dyn Sql, ctx: &Ctx<'_>, from: &str, mayor: &AgentId, message: &str) -> Result<(), TownError> {
    let id = send(sql, ctx, from, mayor, "message", message)?;
    sql.execute("UPDATE mail SET wakes = 1 WHERE id = ?1", &[(&id).into()])?;
    Ok(())
}

/// True if a person's message waits for the mayor and is neither in the air nor travels with a start.
pub fn wakes(sql: &dyn Sql) -> Result<bool, TownError> {
    Ok(any(
        sql,
        "SELECT 1
         FROM mail INDEXED BY mail_wakes
         WHERE wakes = 1 AND delivered_at IS NULL
           AND id NOT IN (SELECT j.value FROM lines l, json_each(l.items) j WHERE l.agent_id = mail.to_agent_id
                          UNION ALL
                          SELECT j.value FROM lines l, json_each(l.carried) j WHERE l.agent_id = mail.to_agent_id)
         LIMIT 1",
        &[],
    )?)
}

/// Marks mail delivered, by id, and with it the `mayor` deliveries of the notifications it belongs to.
pub fn delivered(sql: &dyn Sql, ctx: &Ctx<'_>, ids: &[&str]) -> Result<(), TownError> {
    if ids.is_empty() {
        return Ok(());
    }
    sql.execute(
        "UPDATE mail
         SET delivered_at = ?2
         WHERE id IN (SELECT value FROM json_each(?1))
           AND delivered_at IS NULL",
        &[(&json!(ids).to_string()).into(), ctx.now.into()],
    )?;
    notify::mail_delivered(sql, ctx, ids)
}

/// True if mail waits for the agent.
pub fn waits_for(sql: &dyn Sql, agent: &AgentId) -> Result<bool, TownError> {
    Ok(any(sql, "SELECT 1 FROM mail WHERE to_agent_id = ?1 AND delivered_at IS NULL LIMIT 1", &[agent.into()])?)
}

/// Mail newest first, of one recipient or of the town, with its true state: `{mail, next}`. Delivers nothing.
pub fn list(sql: &dyn Sql, to: Option<&AgentId>, page: &Page) -> Result<Json, TownError> {
    let window = audit::window(sql, page, "SELECT seq FROM mail WHERE id = ?1")?;
    let rows = match to {
        Some(to) => sql.query(
            "SELECT id, from_agent_id, to_agent_id, subject, body, created_at, delivered_at
             FROM mail
             WHERE to_agent_id = ?1
               AND seq < ?2
             ORDER BY seq DESC
             LIMIT ?3",
            &[to.into(), window.before(), window.limit()],
        )?,
        None => sql.query(
            "SELECT id, from_agent_id, to_agent_id, subject, body, created_at, delivered_at
             FROM mail
             WHERE seq < ?1
             ORDER BY seq DESC
             LIMIT ?2",
            &window.args(),
        )?,
    };
    let mail: Vec<Mail> = each(&rows, read)?;
    let (mail, next) = window.turn(mail, |m| &m.id);
    Ok(json!({"mail": mail, "next": next}))
}

/// Drops mail as old as notifications may become, oldest first, at most [`RULE_ROWS`] rows. Undelivered mail, too: its
/// recipient has been gone for months. Arms nothing: it rides along.
pub fn prune(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let keep_from = now.plus(-NOTIFICATION_RETENTION);
    let oldest = first(sql, "SELECT created_at FROM mail ORDER BY seq LIMIT 1", &[])?;
    if oldest.map_or(Ok(keep_from.0), |r| r.int(0))? >= keep_from.0 {
        return Ok(());
    }
    sql.execute(
        "DELETE FROM mail
         WHERE id IN (SELECT id FROM mail ORDER BY seq LIMIT ?2)
           AND created_at < ?1",
        &[keep_from.into(), RULE_ROWS.into()],
    )?;
    Ok(())
}
