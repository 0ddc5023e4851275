//! Booking: a permit becomes an attempt, and the attempt a `StartAgent` effect.
//!
//! `book` is the only place that raises `dispatch_attempts`. Everything it writes lies in the savepoint of its tick, and
//! the effect leaves after the commit: an object that dies in between has a booked attempt whose lease will be looked at,
//! never a start that nobody knows of.

use super::super::Ctx;
use super::super::agent::{self, Agent, AgentStatus, NewAgent, Role};
use super::super::bead::{self, Bead, Because, Kind, Status};
use super::super::breakers::{self, Scope};
use super::super::config::{code_review, gates, resolve_model, small_model};
use super::super::convoy;
use super::super::effect::{Effect, ReviewRequest, StartAgent, StartRequest};
use super::super::error::TownError;
use super::super::event::{self, Happening};
use super::super::handle::check_branch;
use super::super::id::{AttemptId, BeadId, RigId};
use super::super::prompts;
use super::super::review;
use super::super::rig::Rig;
use super::super::sql::Sql;
use super::super::state;
use super::super::time::Timestamp;
use super::super::triage;
use super::attempt::Attempt;
use super::breaker::{Event, Trial};
use super::gate::{Permit, View};
use super::{mayor, stops};
use crate::town::json::json;
use std::collections::BTreeMap;

/// Books the attempt that `permit` allows, and says what to start.
pub fn book(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View, permit: Permit) -> Result<Effect, TownError> {
    let Permit { mut bead, rig, role, agent, trial_of } = permit;
    let agent = match agent {
        Some(agent) => agent,
        None => make_agent(sql, ctx, view, &rig, role)?,
    };
    take_hook(sql, ctx, &bead, &agent)?;

    let new = New { bead: Some(&bead.id), agent: &agent, rig: Some(&rig.id), role, trial_of: &trial_of };
    let id = write(sql, ctx, view, &new)?;
    sql.execute(
        "UPDATE beads
         SET dispatch_attempts = dispatch_attempts + 1, last_dispatch_attempt_at = ?2, next_dispatch_at = NULL,
             not_before = NULL, review_not_before = NULL, probes = probes + ?3
         WHERE bead_id = ?1",
        &[(&bead.id).into(), ctx.now.into(), (!trial_of.is_empty()).into()],
    )?;
    let because = Because { agent: Some(&agent.id), ..Because::of("system", "dispatched") };
    bead::transition(sql, ctx, &mut bead, Status::InProgress, because)?;
    agent::set_status(sql, ctx, &agent.id, AgentStatus::Working)?;
    event::record(
        sql,
        ctx,
        &bead.id,
        Happening {
            kind: "dispatch_booked",
            agent: Some(&agent.id),
            new: Some(id.as_str()),
            metadata: Some(json!({"attempt": bead.dispatch_attempts + 1, "probe": !trial_of.is_empty()})),
            ..Happening::default()
        },
    )?;
    count_in(view, &rig, role);
    Ok(Effect::StartAgent(Box::new(StartAgent {
        timeout: view.config.dispatch.start_timeout_ms,
        request: request(sql, view, &bead, &agent, &rig, &id)?,
        stop_first: stops::before_start(sql, ctx, Some(&bead.id), &agent.id)?,
        attempt_id: id,
        agent_id: agent.id,
        repeat: false,
    })))
}

/// What a new attempt is about.
pub(super) struct New<'a> {
    /// Its bead; the mayor's has none.
    pub bead: Option<&'a BeadId>,
    /// Who does it.
    pub agent: &'a Agent,
    /// Where; the mayor belongs to no rig.
    pub rig: Option<&'a RigId>,
    /// As what.
    pub role: Role,
    /// The scopes whose breakers it tries.
    pub trial_of: &'a [Scope],
}

/// Writes an attempt's row with its lease, and names it to the breakers that it tries.
pub(super) fn write(sql: &dyn Sql, ctx: &Ctx<'_>, view: &mut View, new: &New<'_>) -> Result<AttemptId, TownError> {
    let id = AttemptId(ctx.ids.uuid());
    let lease = lease(ctx, view);
    let generation = view.breakers.get(&Scope::Town).map_or(0, |b| b.generation);
    sql.execute(
        "INSERT INTO attempts
           (attempt_id, seq, bead_id, agent_id, agent_name, rig_id, role, booked_at, lease_until, outcome, charged,
            probe, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'pending', 1, ?10, ?11)",
        &[
            (&id).into(),
            state::next_seq(sql)?.into(),
            new.bead.into(),
            (&new.agent.id).into(),
            (&new.agent.name).into(),
            new.rig.into(),
            new.role.as_str().into(),
            ctx.now.into(),
            lease.into(),
            (!new.trial_of.is_empty()).into(),
            generation.into(),
        ],
    )?;
    for scope in new.trial_of {
        let trial = Trial {
            attempt: id.clone(),
            bead: new.bead.cloned(),
            booked_at: ctx.now,
            proven: false,
            lease_until: lease,
        };
        breakers::apply(sql, ctx, &view.state, &view.config, scope, Event::TrialBooked(trial))?;
        view.breakers.insert(scope.clone(), breakers::load(sql, scope)?);
    }
    Ok(id)
}

/// Until when a start that leaves now may be unheard of.
fn lease(ctx: &Ctx<'_>, view: &View) -> Timestamp {
    ctx.now.plus(view.config.dispatch.start_timeout_ms).plus(view.config.dispatch.heartbeat_timeout_ms)
}

/// Notes that the start of a pending attempt is sent again.
pub(super) fn repeat(sql: &dyn Sql, ctx: &Ctx<'_>, view: &View, id: &AttemptId) -> Result<(), TownError> {
    sql.execute(
        "UPDATE attempts SET repeated = 1, lease_until = ?2 WHERE attempt_id = ?1",
        &[id.into(), lease(ctx, view).into()],
    )?;
    Ok(())
}

/// Sends the start of a pending attempt again, once: a look said that the container does not know it, so it never left,
/// or never arrived. The attempt, its charge and its idempotency key stay the same.
pub fn again(sql: &dyn Sql, ctx: &Ctx<'_>, attempt: &Attempt) -> Result<Vec<Effect>, TownError> {
    if attempt.bead.is_none() {
        return mayor::again(sql, ctx, attempt);
    }
    let view = View::load(sql, ctx.now)?;
    let bead = attempt.bead.as_ref().map(|id| bead::find(sql, id)).transpose()?.flatten();
    let agent = agent::find(sql, &attempt.agent)?;
    let rig = attempt.rig.as_ref().and_then(|id| view.rigs.get(id));
    let (Some(bead), Some(agent), Some(rig)) = (bead, agent, rig) else { return Ok(Vec::new()) };
    repeat(sql, ctx, &view, &attempt.id)?;
    Ok(vec![Effect::StartAgent(Box::new(StartAgent {
        timeout: view.config.dispatch.start_timeout_ms,
        request: request(sql, &view, &bead, &agent, rig, &attempt.id)?,
        // Those that the first sending carried may have been lost with it.
        stop_first: stops::before_start(sql, ctx, Some(&bead.id), &agent.id)?,
        attempt_id: attempt.id.clone(),
        agent_id: attempt.agent.clone(),
        repeat: true,
    }))])
}

fn make_agent(sql: &dyn Sql, ctx: &Ctx<'_>, view: &View, rig: &Rig, role: Role) -> Result<Agent, TownError> {
    match role {
        Role::Polecat => agent::new_polecat(sql, ctx, &rig.id, &view.state.town_id),
        Role::Refinery => agent::refinery(sql, ctx, &rig.id, &view.state.town_id),
        Role::Mayor => agent::create(
            sql,
            ctx,
            &NewAgent {
                rig_id: None,
                role,
                name: "mayor".to_owned(),
                identity: agent::identity("mayor", role, None, &view.state.town_id),
            },
        ),
    }
}

/// Hooks the agent to the bead; whoever else was hooked to it is freed first.
fn take_hook(sql: &dyn Sql, ctx: &Ctx<'_>, bead: &Bead, agent: &Agent) -> Result<(), TownError> {
    if agent.hook.as_ref() == Some(&bead.id) {
        return Ok(());
    }
    if let Some(other) = agent::hooked_to(sql, &bead.id)? {
        agent::unhook(sql, ctx, &other.id, &bead.id, "another agent takes it")?;
    }
    // A refinery that a person hooked to a later merge request serves the older one first.
    if let Some(later) = &agent.hook {
        agent::unhook(sql, ctx, &agent.id, later, "its agent takes another one first")?;
    }
    agent::hook(sql, ctx, &agent.id, &bead.id)
}

fn count_in(view: &mut View, rig: &Rig, role: Role) {
    view.load.in_flight += 1;
    view.load.live += 1;
    match role {
        Role::Polecat => {
            view.load.polecats_in_town += 1;
            view.load.polecats.count(rig.id.clone());
        }
        Role::Refinery => {
            view.load.refineries.push(rig.id.clone());
        }
        Role::Mayor => {}
    }
}

/// `gt/<slug>/<bead8>` (`protocol.md` 6.1): lower-case, every other character becomes `-`, runs collapse.
#[must_use]
pub fn branch(agent: &Agent, bead: &Bead) -> String {
    let mut slug = String::new();
    for c in agent.name.to_ascii_lowercase().chars() {
        let c = if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
        if c != '-' || !slug.ends_with('-') {
            slug.push(c);
        }
    }
    format!("gt/{slug}/{}", bead.id.short())
}

/// The body of the start of an attempt.
pub fn request(
    sql: &dyn Sql,
    view: &View,
    bead: &Bead,
    agent: &Agent,
    rig: &Rig,
    id: &AttemptId,
) -> Result<StartRequest, TownError> {
    let town_id = &view.state.town_id;
    let review = match bead.kind {
        Kind::MergeRequest => review::find(sql, &bead.id)?.map(|mr| ReviewRequest {
            entry_id: bead.id.0.clone(),
            branch: mr.branch,
            target_branch: mr.target_branch,
            source_bead_id: mr.source_bead_id.0,
            gates: gates(&view.config, &rig.config),
            code_review: code_review(&view.config, &rig.config),
            pr_url: mr.pr_url,
        }),
        _ => None,
    };
    let triage = triage::is_batch(bead);
    let prompt = if triage { triage::brief(sql)? } else { prompt(bead, agent, review.as_ref()) };
    // Work saved by an eviction goes on where it was saved.
    let saved = named_branch(bead, "resume_branch");
    // Rework goes on where the branch under review is; who hands it in pushes that branch.
    let reviewed = if bead.closes_on_done() { named_branch(bead, "branch") } else { None };
    let convoy = if bead.kind == Kind::Issue { convoy::of_task(sql, &bead.id)? } else { None };
    let own = branch(agent, bead);
    let (branch, start_point) = match (saved.or(reviewed), convoy.as_ref().and_then(convoy::Convoy::feature)) {
        (Some(known), _) => (known, None),
        (None, None) => (own, None),
        (None, Some(feature)) => {
            let (branch, start) = convoy::branch_of_task(feature, &own);
            (branch, Some(start))
        }
    };
    Ok(StartRequest {
        agent_id: agent.id.0.clone(),
        rig_id: rig.id.0.clone(),
        town_id: town_id.clone(),
        role: agent.role.as_str().to_owned(),
        name: agent.name.clone(),
        identity: agent.identity.clone(),
        prompt,
        model: resolve_model(agent.role.as_str(), &view.config, &rig.config),
        small_model: small_model(&view.config),
        system_prompt: if triage { prompts::TRIAGE.to_owned() } else { system_prompt(view, agent.role, rig) },
        git_url: rig.git_url.clone(),
        branch,
        default_branch: rig.default_branch.clone(),
        env_vars: environment(view, agent, &rig.id),
        start_point,
        // It looks at others' work and does none of its own: no clone.
        lightweight: triage.then_some(true),
        rigs: Vec::new(),
        dispatch_id: id.0.clone(),
        review,
    })
}

/// A branch among the metadata of a bead, if git would take it.
fn named_branch(bead: &Bead, key: &str) -> Option<String> {
    let named = bead.metadata.get(key).and_then(serde_json::Value::as_str)?;
    check_branch(key, named).ok().map(|()| named.to_owned())
}

/// Title, body and checkpoint, joined by blank lines (`protocol.md` 4.4).
fn prompt(bead: &Bead, agent: &Agent, review: Option<&ReviewRequest>) -> String {
    let mut parts = vec![bead.title.clone()];
    parts.extend(bead.body.clone().filter(|b| !b.is_empty()));
    if let Some(r) = review {
        let (branch, target) = (&r.branch, &r.target_branch);
        let how = if r.code_review { "Review" } else { "Do not read the change, but run the gates on" };
        parts.push(match &r.pr_url {
            Some(url) => format!(
                "{how} branch {branch} for {target}. Do not merge it: its pull request {url} does. If it is good, report \
                 done with pr_url {url}; else request changes or report failed."
            ),
            None => format!(
                "{how} branch {branch} and, if it is good, merge it into {target}. Report merged, failed or conflict, or \
                 request changes."
            ),
        });
    }
    if let Some(checkpoint) = &agent.checkpoint {
        parts.push(format!("Resume from checkpoint:\n{checkpoint}"));
    }
    parts.join("\n\n")
}

fn system_prompt(view: &View, role: Role, rig: &Rig) -> String {
    let instructions = super::super::config::custom_instructions(role.as_str(), &view.config, &rig.config);
    instructed(prompts::of(role), instructions)
}

/// A role's own words, and the town's or rig's after them.
pub(super) fn instructed(own: &str, more: Option<String>) -> String {
    more.map_or_else(|| own.to_owned(), |more| format!("{own}\n\n{more}"))
}

/// What the town knows of `protocol.md` 5.1; the shell adds the container token and its own address.
pub(super) fn environment(view: &View, agent: &Agent, rig: &RigId) -> BTreeMap<String, String> {
    let mut env = view.config.user_env();
    env.extend(super::super::config::system_env(&view.config));
    for (key, value) in [
        ("GASTOWN_TOWN_ID", view.state.town_id.as_str()),
        ("GASTOWN_RIG_ID", rig.as_str()),
        ("GASTOWN_AGENT_ID", agent.id.as_str()),
        ("GASTOWN_AGENT_ROLE", agent.role.as_str()),
    ] {
        env.insert(key.to_owned(), value.to_owned());
    }
    env
}
