//! The mayor's start: an attempt without a bead. It takes the same way as any other, permit, booking, lease; its streak and
//! backoff are the agent's, and it has no cap.

use super::super::Ctx;
use super::super::agent::{self, Agent, AgentStatus, Role};
use super::super::breakers::Scope;
use super::super::config::{RigConfig, custom_instructions, resolve_model, small_model};
use super::super::effect::{BrowsedRig, Effect, StartAgent, StartRequest};
use super::super::error::TownError;
use super::super::id::{AttemptId, RigId};
use super::super::sql::Sql;
use super::super::time::Timestamp;
use super::super::{live, mail, prompts};
use super::attempt::Attempt;
use super::candidates::town_open_for_work;
use super::gate::{MayorPermit, View};
use super::{start, stops};

/// The mayor, if a message waits for it and it sleeps.
fn wanted(sql: &dyn Sql, view: &View) -> Result<Option<Agent>, TownError> {
    if view.load.mayor || !mail::wakes(sql)? {
        return Ok(None);
    }
    Ok(Some(agent::get(sql, &view.state.mayor)?))
}

/// The mayor, if it is to be started now.
pub fn due(sql: &dyn Sql, view: &View) -> Result<Option<Agent>, TownError> {
    if !town_open_for_work(view) {
        return Ok(None);
    }
    Ok(wanted(sql, view)?.filter(|m| m.next_dispatch_at.is_none_or(|at| at <= view.now)))
}

/// The mayor, if it could be the trial of this scope's breaker: the town's only, since it belongs to no rig.
pub fn trial(sql: &dyn Sql, view: &View, scope: &Scope) -> Result<Option<Agent>, TownError> {
    if *scope != Scope::Town || !view.town_admits() || view.starts_left() == 0 {
        return Ok(None);
    }
    wanted(sql, view)
}

/// The end of the backoff of a mayor that the gate, as it stands, could admit then.
pub fn backoff_ends(sql: &dyn Sql, view: &View) -> Result<Option<Timestamp>, TownError> {
    if !town_open_for_work(view) {
        return Ok(None);
    }
    Ok(wanted(sql, view)?.and_then(|m| m.next_dispatch_at))
}

/// True if a mayor that sleeps is wanted, whatever stands against it.
pub fn waits(sql: &dyn Sql, view: &View) -> Result<bool, TownError> {
    Ok(!view.load.mayor && mail::wakes(sql)?)
}

/// Books the attempt that `permit` allows, and says what to start.
pub fn book(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View, permit: MayorPermit) -> Result<Effect, TownError> {
    let MayorPermit { mayor, trial_of } = permit;
    let new = start::New { bead: None, agent: &mayor, rig: None, role: Role::Mayor, trial_of: &trial_of };
    let id = start::write(sql, ctx, view, &new)?;
    let attempts = mayor.dispatch_attempts.saturating_add(1);
    agent::set_streak(sql, &mayor.id, attempts, mayor.failure_streak, None)?;
    agent::set_status(sql, ctx, &mayor.id, AgentStatus::Working)?;
    view.load.in_flight += 1;
    view.load.live += 1;
    view.load.mayor = true;
    effect(sql, ctx, view, mayor, id, false)
}

/// Sends the start of a pending attempt again ([`start::again`]).
pub fn again(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt) -> Result<Vec<Effect>, TownError> {
    let view = View::load(sql, ctx.now)?;
    let Some(mayor) = agent::find(sql, &attempt.agent)? else { return Ok(Vec::new()) };
    start::repeat(sql, ctx, &view, &attempt.id)?;
    Ok(vec![effect(sql, ctx, &view, mayor, attempt.id.clone(), true)?])
}

fn effect(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    view: &View,
    mayor: Agent,
    id: AttemptId,
    repeat: bool,
) -> Result<Effect, TownError> {
    let prompt = live::carry(sql, &mayor.id, id.as_str())?.unwrap_or_else(|| prompts::READY.to_owned());
    let first = view.rigs.values().next();
    let defaults = RigConfig::defaults();
    let rig_id = RigId(format!("mayor-{}", view.state.town_id));
    let request = StartRequest {
        agent_id: mayor.id.0.clone(),
        town_id: view.state.town_id.clone(),
        role: Role::Mayor.as_str().to_owned(),
        name: mayor.name.clone(),
        identity: mayor.identity.clone(),
        prompt,
        model: resolve_model(Role::Mayor.as_str(), &view.config, &defaults),
        small_model: small_model(&view.config),
        system_prompt: start::instructed(
            prompts::of(Role::Mayor),
            custom_instructions(Role::Mayor.as_str(), &view.config, &defaults),
        ),
        git_url: first.map(|r| r.git_url.clone()).unwrap_or_default(),
        branch: "gt/mayor".to_owned(),
        default_branch: first.map_or_else(|| "main".to_owned(), |r| r.default_branch.clone()),
        env_vars: start::environment(view, &mayor, &rig_id),
        dispatch_id: id.0.clone(),
        rigs: view
            .rigs
            .values()
            .map(|r| BrowsedRig {
                rig_id: r.id.0.clone(),
                git_url: r.git_url.clone(),
                default_branch: r.default_branch.clone(),
            })
            .collect(),
        rig_id: rig_id.0,
        ..StartRequest::default()
    };
    Ok(Effect::StartAgent(Box::new(StartAgent {
        timeout: view.config.dispatch.start_timeout_ms,
        request,
        // Those that the first sending carried may have been lost with it.
        stop_first: stops::before_start(sql, ctx, None, &mayor.id)?,
        attempt_id: id,
        agent_id: mayor.id,
        repeat,
    })))
}
