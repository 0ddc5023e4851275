//! Commands about the mayor, and nudges.

use super::super::Ctx;
use super::super::Reply;
use super::super::agent;
use super::super::command::Actor;
use super::super::dispatch::late::{self, Completion};
use super::super::error::TownError;
use super::super::id::AgentId;
use super::super::nudge::{self, Mode, Source, Urgency};
use super::super::policy::{MESSAGE_BYTES, SETTING_BYTES};
use super::super::sql::Sql;
use super::super::state::State;
use super::super::{mail, mayor};
use super::{capped, filled};
use crate::town::json::json;

/// `POST mayor/message`.
pub fn message(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    message: &str,
    shown: Option<&str>,
) -> Result<Reply, TownError> {
    filled("message", message, MESSAGE_BYTES)?;
    Reply::ok(mayor::message(sql, ctx, actor, message, shown)?)
}

/// `POST mayor/completed`: as the mayor's own `completed`.
pub fn completed(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    status: &str,
    reason: Option<&str>,
) -> Result<Reply, TownError> {
    let said = Completion { status, reason, phase: None, model_status: None };
    late::completed(sql, ctx, actor, &State::load(sql)?.mayor, &said)?;
    Reply::ok(json!({"acknowledged": true}))
}

/// `POST mail` of both bases. Whether there is such a recipient is not checked (`protocol.md` 3.1).
pub fn send(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    from: String,
    to: &str,
    subject: &str,
    body: &str,
) -> Result<(), TownError> {
    capped("from_agent_id", &from, SETTING_BYTES)?;
    capped("to_agent_id", to, SETTING_BYTES)?;
    let to = mail::address(sql, to)?;
    mail::send(sql, ctx, &from, &to, subject, body)?;
    late::acted(sql, ctx, &AgentId(from), actor)
}

/// `POST nudge`: by an agent or a person, for an agent of the town.
pub fn nudge(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    target: &AgentId,
    message: &str,
    mode: Option<&str>,
) -> Result<Reply, TownError> {
    let mode = match mode {
        None => Mode::default(),
        Some(word) => {
            Mode::parse(word).ok_or_else(|| TownError::invalid("mode", "mode must be wait-idle, immediate or queue"))?
        }
    };
    agent::get(sql, target)?;
    let id = nudge::create(sql, ctx, target, message, mode, Urgency::Normal, Source::Agent)?;
    if let Some(speaker) = actor.agent() {
        late::acted(sql, ctx, speaker, actor)?;
    }
    Reply::ok(json!({"nudge_id": id}))
}
