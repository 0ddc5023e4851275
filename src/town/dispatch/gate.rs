//! The one gate. Only [`admit`] can build a [`Permit`], only a permit can be booked, and only a booked attempt becomes a
//! `StartAgent` effect. The gate's refusal is the list of *all* reasons, which is what `explain` shows.

use super::super::agent::{self, Agent, AgentStatus, Role};
use super::super::bead::{self, Bead, Kind, Status};
use super::super::breakers::{self, Scope};
use super::super::config::{Config, effective_max_polecats};
use super::super::convoy;
use super::super::dependency;
use super::super::error::TownError;
use super::super::id::RigId;
use super::super::policy::{BLOCKERS_SHOWN, DRAIN_LIMIT};
use super::super::rig::{self, Rig};
use super::super::sorted::Sorted;
use super::super::sql::{Sql, first};
use super::super::state::State;
use super::super::time::Timestamp;
use super::attempt::{self, Load};
use super::breaker::{Breaker, Mode, State as BreakerState};
use crate::town::json::json;
use serde::Serialize;
use serde_json::Value as Json;

/// One reason why a bead is not dispatched (`api.md`, *Explanation*).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hold {
    /// The code.
    pub code: HoldCode,
    /// In words.
    pub text: String,
    /// When it ends by itself, if it does.
    pub until: Option<Timestamp>,
    /// What lifts it.
    pub lifts: String,
    /// What it is about: `{scope?, bead_id?, rig_id?, limit?}`.
    #[serde(rename = "ref")]
    pub about: Json,
}

/// The hold codes of `api.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the codes are api.md's; their texts are in `holds`")]
pub enum HoldCode {
    NotOpen,
    HeldLabel,
    Blocked,
    BlockerFailed,
    ConvoyStaged,
    Backoff,
    ReviewBackoff,
    BreakerOpen,
    ProbeRunning,
    TownHold,
    Draining,
    TownAgents,
    RigPolecats,
    RigRefineryBusy,
    StartsInFlight,
    NoRigConfig,
}

/// What the gate looks at beside the bead: read once per tick, kept up to date as attempts are booked.
pub struct View {
    /// The time.
    pub now: Timestamp,
    /// The town.
    pub state: State,
    /// Its configuration.
    pub config: Config,
    /// Its rigs, by id.
    pub rigs: Sorted<RigId, Rig>,
    /// Breakers that have a row.
    pub breakers: Sorted<Scope, Breaker>,
    /// Who is busy.
    pub load: Load,
}

impl View {
    /// Reads it.
    pub fn load(sql: &dyn Sql, now: Timestamp) -> Result<Self, TownError> {
        Self::of(sql, now, State::load(sql)?, Config::load(sql)?)
    }

    /// Reads the rest, for a town whose own row and configuration were read just now.
    pub fn of(sql: &dyn Sql, now: Timestamp, state: State, config: Config) -> Result<Self, TownError> {
        Ok(Self {
            now,
            state,
            config,
            rigs: rig::all(sql)?.into_iter().map(|r| (r.id.clone(), r)).collect(),
            breakers: breakers::all(sql)?,
            load: attempt::load(sql, now)?,
        })
    }

    /// What the gate obeys in `scope`.
    #[must_use]
    pub fn effective(&self, scope: &Scope) -> BreakerState {
        self.breakers.get(scope).map_or(BreakerState::Closed, |b| b.effective(self.now))
    }

    /// How many more starts may be in flight.
    #[must_use]
    pub fn starts_left(&self) -> u32 {
        self.starts_limit().saturating_sub(self.load.in_flight)
    }

    /// How many starts may be in flight.
    #[must_use]
    pub fn starts_limit(&self) -> u32 {
        self.state.slow_start.min(self.config.dispatch.max_starts_in_flight).max(1)
    }

    /// How many polecats may be live in a rig.
    #[must_use]
    pub fn polecat_limit(&self, rig: &Rig) -> u32 {
        effective_max_polecats(&self.config, &rig.config)
    }

    /// How many more polecats may start in a rig, the town's limit included.
    #[must_use]
    pub fn polecats_left(&self, rig: &Rig) -> u32 {
        let live = self.load.polecats.get(&rig.id).copied().unwrap_or(0);
        let in_rig = self.polecat_limit(rig).saturating_sub(live);
        in_rig.min(self.config.dispatch.max_agents.saturating_sub(self.load.polecats_in_town))
    }

    /// True if nothing of the town itself (hold, drain) stands against any dispatch.
    #[must_use]
    pub fn town_admits(&self) -> bool {
        self.state.hold(self.now).is_none() && !self.state.draining(self.now)
    }
}

/// Why the gate is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Ordinary dispatch.
    Work,
    /// A trial for these scopes: their breakers and the bead's backoff do not hold it.
    Trial(Vec<Scope>),
}

impl Purpose {
    fn tries(&self, scope: &Scope) -> bool {
        matches!(self, Self::Trial(scopes) if scopes.contains(scope))
    }
}

/// The right to book one attempt. Only [`admit`] makes one.
pub struct Permit {
    pub(super) bead: Bead,
    pub(super) rig: Rig,
    pub(super) role: Role,
    /// The agent that will do it; none yet = one is made at booking.
    pub(super) agent: Option<Agent>,
    pub(super) trial_of: Vec<Scope>,
}

/// The right to book one start of the mayor. Only [`admit_mayor`] makes one.
pub struct MayorPermit {
    pub(super) mayor: Agent,
    pub(super) trial_of: Vec<Scope>,
}

/// The role that does a bead of this kind; none if the kind is not dispatched.
#[must_use]
pub const fn role_for(kind: Kind) -> Option<Role> {
    match kind {
        Kind::Issue => Some(Role::Polecat),
        Kind::MergeRequest => Some(Role::Refinery),
        Kind::Escalation | Kind::Convoy | Kind::Molecule => None,
    }
}

/// Lets a bead through, or says everything that stands against it.
pub fn admit(
    sql: &dyn Sql,
    view: &View,
    bead: Bead,
    purpose: &Purpose,
) -> Result<Result<Permit, Vec<Hold>>, TownError> {
    let held = holds(sql, view, &bead, purpose)?;
    if !held.is_empty() {
        return Ok(Err(held));
    }
    let (Some(role), Some(rig)) = (role_for(bead.kind), bead.rig_id.as_ref().and_then(|r| view.rigs.get(r))) else {
        return Ok(Err(held));
    };
    let agent = choose(sql, &bead, rig, role)?;
    let trial_of = match purpose {
        Purpose::Work => due_by_mask(view, bead.rig_id.as_ref()),
        Purpose::Trial(scopes) => scopes.clone(),
    };
    Ok(Ok(Permit { rig: rig.clone(), role, agent, trial_of, bead }))
}

/// Lets the mayor through, or says everything that stands against it.
pub fn admit_mayor(view: &View, mayor: Agent, purpose: &Purpose) -> Result<MayorPermit, Vec<Hold>> {
    let held = mayor_holds(view, &mayor, purpose);
    if !held.is_empty() {
        return Err(held);
    }
    let trial_of = match purpose {
        Purpose::Work => due_by_mask(view, None),
        Purpose::Trial(scopes) => scopes.clone(),
    };
    Ok(MayorPermit { mayor, trial_of })
}

/// Everything that stands against starting the mayor now. It has a slot of its own, so no limit but that on starts in flight.
/// A stop on its way to it is no hold, since nobody could take its place: calls that name one agent are made in order, so
/// the stop ends before the start begins.
#[must_use]
pub fn mayor_holds(view: &View, mayor: &Agent, purpose: &Purpose) -> Vec<Hold> {
    let mut holds = Vec::new();
    if view.load.mayor {
        holds.push(hold(HoldCode::NotOpen, "it lives", "nothing: it is told by message", json!({})));
    }
    if let Some(until) = mayor.next_dispatch_at.filter(|t| *t > view.now && *purpose == Purpose::Work) {
        holds.push(Hold {
            until: Some(until),
            ..hold(
                HoldCode::Backoff,
                format!("its last {} attempts failed; it is tried again at {until}", mayor.failure_streak),
                "wait",
                json!({}),
            )
        });
    }
    breaker_holds(view, None, purpose, &mut holds);
    town_holds(view, &mut holds);
    start_holds(view, &mut holds);
    holds
}

/// Scopes whose automatic breaker is open under an override that holds nothing: the next attempt after the probe's time
/// is its trial, so that the state goes on being computed.
fn due_by_mask(view: &View, rig: Option<&RigId>) -> Vec<Scope> {
    let scopes = [Some(Scope::Town), rig.cloned().map(Scope::Rig)];
    scopes
        .into_iter()
        .flatten()
        .filter(|scope| {
            view.breakers.get(scope).is_some_and(|b| {
                b.masked(view.now) && b.trial.is_none() && b.next_probe_at.is_none_or(|t| t <= view.now)
            })
        })
        .collect()
}

/// The agent of a bead: the one hooked to it, else an idle one of the rig; none = make one.
///
/// An agent that is just being told to stop is passed over: the stop could reach its next process.
fn choose(sql: &dyn Sql, bead: &Bead, rig: &Rig, role: Role) -> Result<Option<Agent>, TownError> {
    if let Some(hooked) = agent::hooked_to(sql, &bead.id)? {
        let fits = hooked.rig_id.as_ref() == Some(&rig.id) && hooked.role == role;
        if fits && hooked.status == AgentStatus::Idle && !being_stopped(sql, &hooked)? {
            return Ok(Some(hooked));
        }
    }
    match role {
        Role::Polecat => agent::idle_polecat(sql, &rig.id),
        Role::Refinery | Role::Mayor => Ok(None),
    }
}

fn being_stopped(sql: &dyn Sql, agent: &Agent) -> Result<bool, TownError> {
    let row = first(
        sql,
        "SELECT 1 FROM stops WHERE agent_id = ?1 AND sent_until IS NOT NULL LIMIT 1",
        &[(&agent.id).into()],
    )?;
    Ok(row.is_some())
}

/// Everything that stands against dispatching `bead` now.
pub fn holds(sql: &dyn Sql, view: &View, bead: &Bead, purpose: &Purpose) -> Result<Vec<Hold>, TownError> {
    let mut holds = Vec::new();
    own_holds(sql, view, bead, purpose, &mut holds)?;
    breaker_holds(view, bead.rig_id.as_ref(), purpose, &mut holds);
    town_holds(view, &mut holds);
    limit_holds(sql, view, bead, &mut holds)?;
    Ok(holds)
}

fn hold(code: HoldCode, text: impl Into<String>, lifts: impl Into<String>, about: Json) -> Hold {
    Hold { code, text: text.into(), until: None, lifts: lifts.into(), about }
}

fn own_holds(
    sql: &dyn Sql,
    view: &View,
    bead: &Bead,
    purpose: &Purpose,
    holds: &mut Vec<Hold>,
) -> Result<(), TownError> {
    let about = json!({"bead_id": bead.id});
    if !bead.is_work() || bead.triage_request {
        holds.push(hold(
            HoldCode::NotOpen,
            match bead.kind {
                Kind::Convoy => convoy::get(sql, &bead.id)?.progress(),
                kind => format!("a bead of type {} is answered by people or the mayor, not dispatched", kind.as_str()),
            },
            "nothing: acknowledge or resolve it",
            about.clone(),
        ));
    } else if bead.status != Status::Open {
        let lifts = match bead.status {
            Status::Failed => "redrive it",
            Status::Closed => "nothing: it is finished",
            Status::InProgress => "nothing: it is being worked on",
            Status::InReview | Status::Open => "nothing: its merge request decides",
        };
        holds.push(hold(HoldCode::NotOpen, format!("it is {}, not open", bead.status.as_str()), lifts, about.clone()));
    }
    if bead.held {
        holds.push(hold(
            HoldCode::HeldLabel,
            "it carries the label gt:held",
            "remove the label gt:held",
            about.clone(),
        ));
    }
    if bead.open_blockers > 0 {
        holds.extend(blocker_holds(sql, bead)?);
    }
    if bead.staged {
        holds.push(hold(HoldCode::ConvoyStaged, "its convoy is staged", "start the convoy", about.clone()));
    }
    if bead.rig_id.as_ref().is_none_or(|r| !view.rigs.contains_key(r)) {
        holds.push(hold(
            HoldCode::NoRigConfig,
            "its rig is missing or was removed",
            "move the bead to a rig of this town",
            json!({"bead_id": bead.id, "rig_id": bead.rig_id}),
        ));
    }
    if let Some(until) = bead.next_dispatch_at.filter(|t| *t > view.now && *purpose == Purpose::Work) {
        holds.push(Hold {
            until: Some(until),
            ..hold(
                HoldCode::Backoff,
                match bead.failure_streak {
                    1 => format!("its last attempt failed; it is tried again at {until}"),
                    n => format!("its last {n} attempts failed; it is tried again at {until}"),
                },
                "wait, or cancel and redrive it",
                about.clone(),
            )
        });
    }
    if let Some(until) = bead.review_not_before.filter(|t| *t > view.now) {
        holds.push(Hold {
            until: Some(until),
            ..hold(
                HoldCode::ReviewBackoff,
                match bead.review_rounds {
                    1 => format!("its review was refused; it is tried again at {until}"),
                    n => format!("its review was refused {n} times; it is tried again at {until}"),
                },
                "wait, or cancel and redrive it",
                about,
            )
        });
    }
    Ok(())
}

/// The beads that it waits for, as far as they stand in its way.
pub fn blocker_holds(sql: &dyn Sql, bead: &Bead) -> Result<Vec<Hold>, TownError> {
    let mut named = Vec::new();
    for id in dependency::blockers(sql, &bead.id)? {
        if named.len() == BLOCKERS_SHOWN {
            break;
        }
        let Some(blocker) = bead::find(sql, &id)? else { continue };
        let about = json!({"bead_id": blocker.id, "rig_id": blocker.rig_id});
        let title = &blocker.title;
        match blocker.status {
            Status::Closed => {}
            Status::Failed if bead.allows_failed_blockers() => {}
            Status::Failed => named.push(hold(
                HoldCode::BlockerFailed,
                format!("it waits for «{title}», which failed"),
                "redrive the blocker, drop the dependency, or set metadata.allow_failed_blockers",
                about,
            )),
            Status::Open | Status::InProgress | Status::InReview => named.push(hold(
                HoldCode::Blocked,
                format!("it waits for «{title}», which is {}", blocker.status.as_str()),
                "close the blocker or drop the dependency",
                about,
            )),
        }
    }
    Ok(named)
}

fn breaker_holds(view: &View, rig: Option<&RigId>, purpose: &Purpose, holds: &mut Vec<Hold>) {
    for scope in [Some(Scope::Town), rig.cloned().map(Scope::Rig)].into_iter().flatten() {
        if purpose.tries(&scope) {
            continue;
        }
        let Some(b) = view.breakers.get(&scope) else { continue };
        let about = json!({"scope": scope.text()});
        let ordered = b.order(view.now).filter(|o| o.mode == Mode::ForcedOpen);
        match (b.effective(view.now), ordered) {
            (BreakerState::Closed, _) => {}
            (_, Some(o)) => holds.push(Hold {
                until: Some(o.until),
                ..hold(
                    HoldCode::BreakerOpen,
                    format!("{} forced the breaker of {} open: {}", o.actor, scope.text(), o.reason),
                    "set the breaker's mode to auto",
                    about,
                )
            }),
            (BreakerState::HalfOpen, None) => holds.push(hold(
                HoldCode::ProbeRunning,
                format!("one bead is trying whether {} can start agents again", scope.text()),
                "wait for the trial, or force the breaker closed",
                about,
            )),
            (BreakerState::Open, None) => {
                let why = b.cause.as_ref().map_or("", |c| c.text.as_str());
                holds.push(Hold {
                    until: b.next_probe_at,
                    ..hold(
                        HoldCode::BreakerOpen,
                        format!("the breaker of {} is open: {why}", scope.text()),
                        "wait for the next probe, ask for one, or force the breaker closed",
                        about,
                    )
                });
            }
        }
    }
}

fn town_holds(view: &View, holds: &mut Vec<Hold>) {
    if let Some(until) = view.state.hold(view.now) {
        let cause = view.state.hold_cause.as_deref().unwrap_or("throttled");
        holds.push(Hold {
            until: Some(until),
            ..hold(
                HoldCode::TownHold,
                format!("the town is throttled ({cause})"),
                "wait until the hold ends",
                json!({}),
            )
        });
    }
    if view.state.draining(view.now) {
        holds.push(Hold {
            until: view.state.draining_since.map(|t| t.plus(DRAIN_LIMIT)),
            ..hold(
                HoldCode::Draining,
                "the container is going away",
                "a new container instance reports, or the drain limit passes",
                json!({}),
            )
        });
    }
}

fn limit_holds(sql: &dyn Sql, view: &View, bead: &Bead, holds: &mut Vec<Hold>) -> Result<(), TownError> {
    let rig = bead.rig_id.as_ref().and_then(|r| view.rigs.get(r));
    match (role_for(bead.kind), rig) {
        (Some(Role::Polecat), rig) => {
            let limit = view.config.dispatch.max_agents;
            if view.load.polecats_in_town >= limit {
                holds.push(hold(
                    HoldCode::TownAgents,
                    format!("{limit} polecats are at work in this town, which is its limit"),
                    "wait for one to end, or raise dispatch.max_agents",
                    json!({"limit": limit}),
                ));
            }
            if let Some(rig) = rig {
                let limit = view.polecat_limit(rig);
                if view.load.polecats.get(&rig.id).copied().unwrap_or(0) >= limit {
                    holds.push(hold(
                        HoldCode::RigPolecats,
                        format!("{limit} polecats are at work in rig {}, which is its limit", rig.name),
                        "wait for one to end, or raise the rig's max_concurrent_polecats",
                        json!({"rig_id": rig.id, "limit": limit}),
                    ));
                }
            }
        }
        (Some(Role::Refinery), Some(rig))
            if view.load.refineries.contains(&rig.id) || refinery_being_stopped(sql, &rig.id)? =>
        {
            holds.push(hold(
                HoldCode::RigRefineryBusy,
                format!("the refinery of rig {} is at work; it takes one merge request at a time", rig.name),
                "wait for it to end",
                json!({"rig_id": rig.id, "limit": 1}),
            ));
        }
        _ => {}
    }
    start_holds(view, holds);
    Ok(())
}

fn start_holds(view: &View, holds: &mut Vec<Hold>) {
    if view.starts_left() == 0 {
        let limit = view.starts_limit();
        holds.push(hold(
            HoldCode::StartsInFlight,
            format!("{} starts are in flight and not yet proven; {limit} may be", view.load.in_flight),
            "wait for one to prove itself or end",
            json!({"limit": limit}),
        ));
    }
}

/// True while a stop is on its way to the rig's refinery, which could reach the next process, or while it is stalled.
pub fn refinery_being_stopped(sql: &dyn Sql, rig: &RigId) -> Result<bool, TownError> {
    let row = first(
        sql,
        "SELECT 1
         FROM agents a
         WHERE a.rig_id = ?1 AND a.role = 'refinery'
           AND (a.status = 'stalled'
                OR EXISTS (SELECT 1 FROM stops s WHERE s.agent_id = a.agent_id AND s.sent_until IS NOT NULL))
         LIMIT 1",
        &[rig.into()],
    )?;
    Ok(row.is_some())
}
