//! `POST …/triage/resolve`: what is done about a stuck agent.

use super::super::Ctx;
use super::super::Reply;
use super::super::agent;
use super::super::bead::{self, Bead, Because, Priority, Status};
use super::super::command::Actor;
use super::super::config::Config;
use super::super::dispatch::attempt::{self, Attempt};
use super::super::dispatch::backoff;
use super::super::dispatch::finish::{End, Then, finish};
use super::super::dispatch::late;
use super::super::dispatch::stops::{self, When};
use super::super::error::TownError;
use super::super::escalation::{self, Raise};
use super::super::event::{self, Happening};
use super::super::id::{AgentId, BeadId};
use super::super::nudge::{self, Mode, Source, Urgency};
use super::super::policy::MESSAGE_BYTES;
use super::super::sql::Sql;
use super::super::state::State;
use super::super::{audit, text, triage};
use super::{by_hand, capped};
use crate::town::json::json;

/// What may be done (`domain.md` 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Restart,
    RestartWithBackoff,
    CloseBead,
    EscalateToMayor,
    Nudge,
    ReassignBead,
    Discard,
    ProvideGuidance,
}

/// Every action by its name, and the names that it goes by as well.
const ACTIONS: [(&str, Action); 10] = [
    ("RESTART", Action::Restart),
    ("RESTART_WITH_BACKOFF", Action::RestartWithBackoff),
    ("CLOSE_BEAD", Action::CloseBead),
    ("CLOSE", Action::CloseBead),
    ("ESCALATE_TO_MAYOR", Action::EscalateToMayor),
    ("ESCALATE", Action::EscalateToMayor),
    ("NUDGE", Action::Nudge),
    ("REASSIGN_BEAD", Action::ReassignBead),
    ("DISCARD", Action::Discard),
    ("PROVIDE_GUIDANCE", Action::ProvideGuidance),
];

/// The name under which the action is kept: the first that it has.
fn name(action: Action) -> &'static str {
    ACTIONS.iter().find(|(_, a)| *a == action).map_or("", |(name, _)| name)
}

fn parse(word: &str) -> Result<Action, TownError> {
    let found = ACTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word.trim()));
    found.map(|(_, action)| *action).ok_or_else(|| {
        let names: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
        TownError::invalid("action", format!("action must be one of {}", names.join(", ")))
    })
}

/// People, the mayor, and an agent that the town has set to it.
fn may_resolve(sql: &dyn Sql, actor: &Actor) -> Result<(), TownError> {
    if !matches!(actor, Actor::Container { .. }) {
        return Ok(());
    }
    let Some(id) = actor.agent() else {
        return Err(TownError::forbidden("Agent authentication required"));
    };
    let hook = agent::find(sql, id)?.and_then(|a| a.hook);
    if *id == State::load(sql)?.mayor || triage::answers(sql, hook.as_ref())? {
        return Ok(());
    }
    Err(TownError::forbidden("Only triage agents can resolve triage requests"))
}

/// Resolves an open request: does what was chosen, if the agent is still on its bead, and closes the request.
pub fn resolve(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    id: &BeadId,
    action: &str,
    notes: &str,
) -> Result<Reply, TownError> {
    may_resolve(sql, actor)?;
    let action = parse(action)?;
    capped("resolution_notes", notes, MESSAGE_BYTES)?;
    let request = bead::get(sql, id)?;
    if !request.triage_request {
        let text = format!("Bead {id} is no triage request");
        return Err(TownError::invalid("triage_request_bead_id", text));
    }
    if request.status != Status::Open {
        return Err(TownError::conflict(request.status.as_str(), format!("Triage request {id} is resolved already")));
    }
    // What agents write must not carry keys.
    let notes = text::redact(notes);
    act(sql, ctx, actor, &request, action, &notes)?;
    close(sql, ctx, actor, id, action, &notes)?;
    if let Some(agent) = actor.agent() {
        late::acted(sql, ctx, agent, actor)?;
    }
    Reply::ok(bead::get(sql, id)?)
}

fn close(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    id: &BeadId,
    action: Action,
    notes: &str,
) -> Result<(), TownError> {
    let (who, action) = (actor.label(), name(action));
    let mut request = bead::get(sql, id)?;
    let resolution = [("resolution_action", action), ("resolution_notes", notes), ("resolved_by", who.as_str())];
    if let Some(map) = request.metadata.as_object_mut() {
        map.extend(resolution.map(|(key, value)| (key.to_owned(), json!(value))));
    }
    sql.execute(
        "UPDATE beads SET metadata = ?2 WHERE bead_id = ?1",
        &[id.into(), (&request.metadata.to_string()).into()],
    )?;
    let because = Because { agent: actor.agent(), ..Because::of(&who, action) };
    bead::transition(sql, ctx, &mut request, Status::Closed, because)?;
    let what = Happening {
        kind: "triage_resolved",
        agent: actor.agent(),
        new: Some(action),
        metadata: Some(json!({"resolution_notes": notes, "resolved_by": who})),
        ..Happening::default()
    };
    event::record(sql, ctx, id, what)?;
    if actor.is_person() {
        audit::record(sql, ctx, actor, "triage.resolve", id.as_str(), notes, None, Some(&json!({"action": action})))?;
    }
    Ok(())
}

fn act(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    actor: &Actor,
    request: &Bead,
    action: Action,
    notes: &str,
) -> Result<(), TownError> {
    let agent = AgentId::from(triage::word(request, "agent_bead_id"));
    let bead_id = BeadId::from(triage::word(request, "hooked_bead_id"));
    let live = attempt::live_of_agent(sql, &agent)?.filter(|a| a.bead.as_ref() == Some(&bead_id));
    match (action, live) {
        (Action::EscalateToMayor, _) => escalate(sql, ctx, actor, request, notes),
        // Without its bead the agent has gone on to something else, which was not asked about.
        (Action::Discard | Action::ProvideGuidance, _) | (_, None) => Ok(()),
        (Action::Restart, Some(live)) => end(sql, ctx, &live, notes, None),
        (Action::RestartWithBackoff, Some(live)) => {
            let streak = bead::get(sql, &bead_id)?.failure_streak.max(1);
            let (config, state) = (Config::load(sql)?, State::load(sql)?);
            let wait = backoff::bead_backoff(&config.dispatch, &state.town_id, bead_id.as_str(), streak);
            end(sql, ctx, &live, notes, Some(wait))
        }
        (Action::CloseBead, Some(_)) => {
            let reason = format!("cancelled by triage: {notes}");
            by_hand::cancel(sql, ctx, actor, &bead_id, text::cut(&reason, MESSAGE_BYTES)).map(|_| ())
        }
        (Action::Nudge, Some(_)) => {
            let words = if notes.trim().is_empty() { "Go on with your bead, or say what stops you." } else { notes };
            let words = text::cut(words, MESSAGE_BYTES);
            nudge::create(sql, ctx, &agent, words, Mode::Immediate, Urgency::Urgent, Source::Triage).map(|_| ())
        }
        (Action::ReassignBead, Some(live)) => reassign(sql, ctx, &live, &bead_id, notes),
    }
}

/// Stops the process; its bead is due now or after `wait`, or has failed if that was its last attempt.
fn end(sql: &dyn Sql, ctx: &Ctx<'_>, live: &Attempt, notes: &str, wait: Option<i64>) -> Result<(), TownError> {
    stops::owe(sql, ctx, live, When::Now)?;
    let reason = format!("restarted by triage: {}", text::cut(notes, super::super::policy::REASON_BYTES));
    let then = Then::Requeue(wait.map(|ms| ctx.now.plus(ms)));
    finish(sql, ctx, live, End::Cancelled(reason, then)).map(|_| ())
}

/// The same, for another polecat. A merge request goes back to the one refinery of its rig.
fn reassign(sql: &dyn Sql, ctx: &Ctx<'_>, live: &Attempt, bead_id: &BeadId, notes: &str) -> Result<(), TownError> {
    let rig = live.rig.as_ref().filter(|_| live.role == agent::Role::Polecat);
    // While the old one is at work it is not idle, so this is another.
    let idle = rig.map(|rig| agent::idle_polecat(sql, rig)).transpose()?.flatten();
    end(sql, ctx, live, notes, None)?;
    let Some(rig) = rig else { return Ok(()) };
    if bead::get(sql, bead_id)?.status != Status::Open {
        return Ok(());
    }
    let other = match idle {
        Some(idle) => idle,
        None => agent::new_polecat(sql, ctx, rig, &State::load(sql)?.town_id)?,
    };
    agent::hook(sql, ctx, &other.id, bead_id)
}

fn escalate(sql: &dyn Sql, ctx: &Ctx<'_>, actor: &Actor, request: &Bead, notes: &str) -> Result<(), TownError> {
    let body = format!("{}\n\n{notes}", triage::word(request, "context"));
    let raise = Raise {
        rig_id: request.rig_id.as_ref(),
        agent: actor.agent(),
        severity: Priority::High,
        category: Some("triage"),
        message: &request.title,
        body: Some(text::cut(&body, MESSAGE_BYTES)),
        metadata: Some(json!({
            "triage_request_bead_id": request.id,
            "agent_bead_id": triage::word(request, "agent_bead_id"),
            "hooked_bead_id": triage::word(request, "hooked_bead_id"),
        })),
        by_notification: false,
    };
    escalation::raise(sql, ctx, raise).map(|_| ())
}
