//! Live delivery: what waits for an agent is sent to its process while it lives, as one message at a time.
//!
//! A message is booked before it is sent: the agent's line names it, holds the ids of all that it carries, and is due
//! again when its lease ends. [`settle`] is compare-and-set on the message's name.
//!
//! *Guarantees.*
//! * What the container took (2xx and JSON) is never sent again. What it did not take stays pending and is sent again, ever
//!   more slowly, while the agent lives; no container is ever started here.
//! * What is in the air, or travels with a start, is handed out by no other way: mail and nudges leave it out.
//! * An answer that was lost counts as no answer: the message may arrive twice. The other choice could lose what a person
//!   wrote, and an agent that reads the same words again does less harm than one that never reads them.
//!
//! *Assumptions.* Effects that name the same agent are performed in the order in which they were emitted.

use super::Ctx;
use super::agent::{self, AgentStatus};
use super::dispatch::attempt::Attempt;
use super::effect::{Answer, Effect, MessageAgent};
use super::error::TownError;
use super::id::AgentId;
use super::json::{self, json};
use super::mail::{self, Mail};
use super::policy::{
    MAIL_AT_ONCE, MESSAGE_BACKOFF_MAX, MESSAGE_BACKOFF_MIN, MESSAGE_LEASE, MESSAGES_AT_ONCE, PROMPT_BYTES, REASON_BYTES,
};
use super::sql::{Row, Sql, any, first};
use super::text;
use super::time::{Millis, Timestamp};
use super::{mayor, nudge};
use serde_json::Value as Json;

/// Something was written for an agent: if it lives, it is due now. A line that waits for its next try goes on waiting.
pub fn wanted(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId) -> Result<(), TownError> {
    if !listens(sql, agent)? {
        return Ok(());
    }
    sql.execute(
        "INSERT INTO lines (agent_id, due_at)
         VALUES (?1, ?2)
         ON CONFLICT (agent_id) DO UPDATE SET due_at = excluded.due_at WHERE due_at IS NULL",
        &[agent.into(), ctx.now.into()],
    )?;
    Ok(())
}

/// True if the agent's process takes messages: it was proven; a mayor's, which has no repository to fetch, as soon as its
/// start was accepted.
fn listens(sql: &dyn Sql, agent: &AgentId) -> Result<bool, TownError> {
    Ok(any(
        sql,
        "SELECT 1
         FROM attempts
         WHERE agent_id = ?1 AND finished_at IS NULL
           AND (proven_at IS NOT NULL OR role = 'mayor' AND accepted_at IS NOT NULL)",
        &[agent.into()],
    )?)
}

// ── with a start ─────────────────────────────────────────────────────────────────────────────────────────────────

/// What people wrote to the mayor, as the prompt of a start; none if its container is not known to read it.
pub fn carry(sql: &dyn Sql, agent: &AgentId, attempt: &str) -> Result<Option<String>, TownError> {
    let known = any(sql, "SELECT 1 FROM lines WHERE agent_id = ?1 AND takes_prompt = 1", &[agent.into()])?;
    if !known {
        return Ok(None);
    }
    // What an earlier sending carried (its start is repeated) waits again.
    sql.execute("UPDATE lines SET carried_by = NULL, carried = '[]' WHERE agent_id = ?1", &[agent.into()])?;
    let Some(said) = compose(sql, agent, true, None)? else { return Ok(None) };
    sql.execute(
        "UPDATE lines SET carried_by = ?2, carried = ?3 WHERE agent_id = ?1",
        &[agent.into(), attempt.into(), (&said.items).into()],
    )?;
    Ok(Some(said.prompt))
}

/// The container took a mayor's start. `named`: it told the dispatch, as ours does, which reads the prompt of every start;
/// the predecessor's does not, and may have ignored it.
pub fn started(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt, named: bool) -> Result<(), TownError> {
    sql.execute(
        "INSERT INTO lines (agent_id, takes_prompt)
         VALUES (?1, ?2)
         ON CONFLICT (agent_id) DO UPDATE SET takes_prompt = excluded.takes_prompt",
        &[(&attempt.agent).into(), named.into()],
    )?;
    if !named {
        // A heartbeat that overtook this answer may have counted it as read.
        sql.execute(
            "UPDATE mail
             SET delivered_at = NULL
             WHERE id IN (SELECT j.value FROM lines l, json_each(l.carried) j
                          WHERE l.agent_id = ?1 AND l.carried_by = ?2)",
            &[(&attempt.agent).into(), (&attempt.id).into()],
        )?;
        put_down(sql, attempt)?;
    }
    if mail::waits_for(sql, &attempt.agent)? {
        wanted(sql, ctx, &attempt.agent)?;
    }
    Ok(())
}

/// An agent was proven: the prompt of its start was read, and what else waits is due.
pub fn proven(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt) -> Result<(), TownError> {
    read(sql, ctx, attempt)?;
    if mail::waits_for(sql, &attempt.agent)? || nudge::immediate(sql, ctx.now, &attempt.agent)?.is_some() {
        wanted(sql, ctx, &attempt.agent)?;
    }
    Ok(())
}

/// What the start of this attempt carried was read.
pub fn read(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt) -> Result<(), TownError> {
    let carried = first(
        sql,
        "SELECT carried FROM lines WHERE agent_id = ?1 AND carried_by = ?2",
        &[(&attempt.agent).into(), (&attempt.id).into()],
    )?;
    match carried {
        Some(r) => handed_over(sql, ctx, &r.text(0)?, attempt.booked_at),
        None => Ok(()),
    }
}

/// An attempt has ended: nothing is due for its agent, and what its start carried waits again unless it was read. A message
/// in the air is left to its answer.
pub fn ended(sql: &dyn Sql, attempt: &Attempt) -> Result<(), TownError> {
    put_down(sql, attempt)?;
    let waits = "SELECT 1 FROM lines WHERE agent_id = ?1 AND message_id IS NULL AND due_at IS NOT NULL";
    if any(sql, waits, &[(&attempt.agent).into()])? {
        sql.execute("UPDATE lines SET due_at = NULL, tries = 0 WHERE agent_id = ?1", &[(&attempt.agent).into()])?;
    }
    Ok(())
}

fn put_down(sql: &dyn Sql, attempt: &Attempt) -> Result<(), TownError> {
    let args = [(&attempt.agent).into(), (&attempt.id).into()];
    if any(sql, "SELECT 1 FROM lines WHERE agent_id = ?1 AND carried_by = ?2", &args)? {
        sql.execute(
            "UPDATE lines SET carried_by = NULL, carried = '[]' WHERE agent_id = ?1 AND carried_by = ?2",
            &args,
        )?;
    }
    Ok(())
}

// ── by message ───────────────────────────────────────────────────────────────────────────────────────────────────

/// Part of rule 9: books the messages that are due and returns them as effects.
///
/// *Guarantees*: at most [`MESSAGES_AT_ONCE`] are in the air, one per agent; a booked one is not booked again before its
/// lease ends, and none for an agent that does not live.
pub fn book(sql: &dyn Sql, ctx: &Ctx<'_>, mayor: &AgentId) -> Result<Vec<Effect>, TownError> {
    let due = sql.query(
        "SELECT agent_id
         FROM lines
         WHERE due_at IS NOT NULL AND due_at <= ?1
         ORDER BY due_at
         LIMIT ?2",
        &[ctx.now.into(), MESSAGES_AT_ONCE.into()],
    )?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let free = MESSAGES_AT_ONCE.saturating_sub(flying(sql, ctx.now)?.0);
    let mut effects = Vec::new();
    for r in due.iter().take(usize::try_from(free).unwrap_or(0)) {
        effects.extend(send(sql, ctx, &AgentId(r.text(0)?), mayor)?);
    }
    Ok(effects)
}

fn send(sql: &dyn Sql, ctx: &Ctx<'_>, agent: &AgentId, mayor: &AgentId) -> Result<Option<Effect>, TownError> {
    // A message whose lease has ended lost its owner: all that it held waits again.
    sql.execute(
        "UPDATE lines SET message_id = NULL, items = '[]', due_at = NULL WHERE agent_id = ?1",
        &[agent.into()],
    )?;
    if !listens(sql, agent)? {
        return Ok(None);
    }
    let Some(said) = compose(sql, agent, agent == mayor, Some(ctx.now))? else { return Ok(None) };
    let message_id = ctx.ids.uuid();
    sql.execute(
        "UPDATE lines SET message_id = ?2, items = ?3, due_at = ?4, spoken_at = ?5 WHERE agent_id = ?1",
        &[agent.into(), (&message_id).into(), (&said.items).into(), ctx.now.plus(MESSAGE_LEASE).into(), ctx.now.into()],
    )?;
    if agent::find(sql, agent)?.is_some_and(|a| a.status == AgentStatus::Waiting) {
        agent::set_status(sql, ctx, agent, AgentStatus::Working)?;
    }
    Ok(Some(Effect::MessageAgent(MessageAgent { message_id, agent_id: agent.clone(), prompt: said.prompt })))
}

/// Records how a message ended. Late and repeated outcomes change nothing.
pub fn settle(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    agent: &AgentId,
    message_id: &str,
    answer: &Answer,
) -> Result<(), TownError> {
    let row = first(
        sql,
        "SELECT items, tries, spoken_at FROM lines WHERE agent_id = ?1 AND message_id = ?2",
        &[agent.into(), message_id.into()],
    )?;
    let Some(r) = row else { return Ok(()) };
    if is_taken(answer) {
        handed_over(sql, ctx, &r.text(0)?, Timestamp(r.int(2)?))?;
        sql.execute(
            "UPDATE lines
             SET message_id = NULL, items = '[]', due_at = NULL, tries = 0, last_error = NULL
             WHERE agent_id = ?1",
            &[agent.into()],
        )?;
        if mail::waits_for(sql, agent)? || nudge::immediate(sql, ctx.now, agent)?.is_some() {
            wanted(sql, ctx, agent)?;
        }
        return Ok(());
    }
    let next = listens(sql, agent)?.then(|| ctx.now.plus(wait_after(&r)));
    sql.execute(
        "UPDATE lines
         SET message_id = NULL, items = '[]', due_at = ?2, tries = tries + 1, last_error = ?3
         WHERE agent_id = ?1",
        &[agent.into(), next.into(), (&refusal(answer)).into()],
    )?;
    Ok(())
}

/// True if the container took the message. A 2xx in another language than its own came from something in between.
fn is_taken(answer: &Answer) -> bool {
    let Answer::Http { status: 200..=299, body, .. } = answer else { return false };
    serde_json::from_str::<Json>(body).is_ok_and(|said| said.is_object())
}

/// The wait after a failed try: doubles from the first on, up to its end.
fn wait_after(line: &Row) -> Millis {
    let tries = line.count(1).unwrap_or(0).min(30);
    MESSAGE_BACKOFF_MIN.saturating_mul(1 << tries).min(MESSAGE_BACKOFF_MAX)
}

/// Why an answer is no delivery, in words without secrets and never empty.
fn refusal(answer: &Answer) -> String {
    let words = match answer {
        Answer::Http { status, body, .. } => format!("the container answered {status}: {}", body.trim()),
        Answer::Unreachable { detail } => format!("the container could not be reached: {}", detail.trim()),
        Answer::TimedOut { after } => format!("the container did not answer within {after} ms"),
    };
    text::cut(&text::redact(&words), REASON_BYTES).to_owned()
}

/// Marks what a message held: mail, nudges, and what the mayor was shown until it was composed.
fn handed_over(sql: &dyn Sql, ctx: &Ctx<'_>, items: &str, composed: Timestamp) -> Result<(), TownError> {
    let ids = json::texts(items).unwrap_or_default();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    mail::delivered(sql, ctx, &ids)?;
    nudge::told(sql, ctx, &ids)?;
    mayor::context_told(sql, composed)
}

/// The object was made anew: messages in the air have lost their owner. What starts carried is settled by their attempts.
pub fn resume(sql: &dyn Sql, now: Timestamp) -> Result<(), TownError> {
    let flying = "SELECT 1 FROM lines WHERE due_at IS NOT NULL AND message_id IS NOT NULL LIMIT 1";
    if any(sql, flying, &[])? {
        sql.execute(
            "UPDATE lines
             SET message_id = NULL, items = '[]', due_at = ?1
             WHERE due_at IS NOT NULL AND message_id IS NOT NULL",
            &[now.into()],
        )?;
    }
    Ok(())
}

/// Messages in the air, and when the first lease among them ends.
fn flying(sql: &dyn Sql, now: Timestamp) -> Result<(u32, Option<Timestamp>), TownError> {
    let row = first(
        sql,
        "SELECT count(*), min(due_at) FROM lines WHERE due_at IS NOT NULL AND due_at > ?1 AND message_id IS NOT NULL",
        &[now.into()],
    )?;
    let Some(r) = row else { return Ok((0, None)) };
    Ok((r.count(0)?, r.opt_int(1)?.map(Timestamp)))
}

/// When a message is due, or the lease of one in the air ends.
pub fn next_deadline(sql: &dyn Sql, now: Timestamp) -> Result<Option<Timestamp>, TownError> {
    let row = first(sql, "SELECT due_at FROM lines WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1", &[])?;
    let due = row.map(|r| r.int(0)).transpose()?.map(Timestamp);
    if due.is_some_and(|at| at <= now) {
        // Due, but perhaps it has to wait for one in the air.
        let (count, first_end) = flying(sql, now)?;
        if count >= MESSAGES_AT_ONCE {
            return Ok(first_end);
        }
    }
    Ok(due)
}

// ── the words ────────────────────────────────────────────────────────────────────────────────────────────────────

/// One message, and the ids of what it holds, as a JSON list.
struct Said {
    prompt: String,
    items: String,
}

/// What waits for an agent as one text: for the mayor first what people look at and what they wrote, then nudges, then
/// mail. None if nothing waits. `now` is that of a message; a start carries only what people wrote.
fn compose(sql: &dyn Sql, agent: &AgentId, mayor: bool, now: Option<Timestamp>) -> Result<Option<Said>, TownError> {
    let (mut spoken, mut letters): (Vec<Mail>, Vec<Mail>) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for (mail, wakes) in mail::waiting(sql, agent, MAIL_AT_ONCE)? {
        bytes += mail.subject.len() + mail.body.len();
        // The first always fits; the rest follows with the next message.
        if bytes > PROMPT_BYTES && !(spoken.is_empty() && letters.is_empty()) {
            break;
        }
        if mayor && wakes { spoken.push(mail) } else { letters.push(mail) }
    }
    let nudge = now.map(|now| nudge::immediate(sql, now, agent)).transpose()?.flatten();
    if now.is_none() {
        letters.clear();
    }
    if spoken.is_empty() && letters.is_empty() && nudge.is_none() {
        return Ok(None);
    }
    let mut parts = Vec::new();
    if mayor && !spoken.is_empty() {
        parts.extend(mayor::context(sql)?);
    }
    let mut ids: Vec<&str> = spoken.iter().chain(&letters).map(|m| m.id.as_str()).collect();
    parts.extend(spoken.iter().map(|m| m.body.clone()));
    if let Some(nudge) = &nudge {
        ids.push(&nudge.nudge_id);
        parts.push(nudge.message.clone());
    }
    if !letters.is_empty() {
        let letter = |m: &Mail| format!("[MAIL from {}] {}\n{}", m.from_agent_id, m.subject, m.body);
        let all: Vec<String> = letters.iter().map(letter).collect();
        parts.push(format!("You have new mail: {}.\n\n{}", letters.len(), all.join("\n\n---\n\n")));
    }
    Ok(Some(Said { prompt: parts.join("\n\n"), items: json!(ids).to_string() }))
}
