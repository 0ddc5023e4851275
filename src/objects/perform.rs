//! Performs effects: turns what the town wants done into calls, and how they ended into outcomes.
//!
//! Guarantees: at most [`CALLS_AT_ONCE`] calls at once, at most [`STARTS_AT_ONCE`] of them starts, so that five hanging
//! starts leave a slot for a look, a stop, a probe or a webhook. Every effect ends with an outcome in bounded time,
//! because every call has a limit. Nothing here reads or writes a row: what an effect means was booked before it was
//! handed over, and what its outcome means is for `settle`.
//!
//! If the object dies during any await of this file, the call may or may not have happened and its outcome is lost.
//! The rows know: every effect was booked with a lease or a moved due time, and `resume` makes what was in the air due
//! for a look.

use super::town_do::Who;
use crate::town::json::json;
use crate::{
    edge::{
        fleet::FleetRequest,
        token::{self, ContainerClaims},
    },
    platform::{
        analytics, clock,
        container::{self, Call, ContainerClient, HEALTH_TIMEOUT, Headers, NoContainer},
        errors, forge, log, panic_probe,
        settings::Settings,
        stub, webhook,
    },
    town::{
        container::Outfit,
        effect::{Answer, DataPoint, Effect, FleetReport, Observe, Outcome, StartAgent, StopAgent, Tell},
        id::{AgentId, AttemptId},
        policy::{CALLS_AT_ONCE, STARTS_AT_ONCE},
        time::{Millis, SECOND},
    },
};
use futures_util::future::{LocalBoxFuture, join_all};
use serde_json::Value as Json;
use std::{
    cell::{Cell, OnceCell},
    rc::Rc,
    time::Duration,
};
use tokio::sync::Semaphore;
use worker::{Delay, Env};

/// How long a probe waits before it asks again, at first; doubled each time.
const PROBE_PAUSE_MIN: Millis = SECOND / 2;
/// How long a probe waits before it asks again, at most: a container that comes up is noticed within this time.
const PROBE_PAUSE_MAX: Millis = 8 * SECOND;

/// For whom an effect is performed.
#[derive(Clone, Debug, Default)]
pub struct Whose {
    /// The town.
    pub town_id: String,
    /// Whom the container's token speaks for.
    pub owner: String,
    /// What a container is given or told ([`needs_outfit`]).
    pub outfit: Option<Outfit>,
}

/// Performs the effects of one town.
pub struct Performer {
    env: Env,
    settings: Settings,
    /// The town's container, found when the town is known.
    container: OnceCell<Box<dyn ContainerClient>>,
    calls: Semaphore,
    starts: Semaphore,
    container_calls: Cell<u64>,
}

impl std::fmt::Debug for Performer {
    /// Says nothing: the settings hold the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Performer")
    }
}

impl Performer {
    /// A performer with the deployment's bindings.
    #[must_use]
    pub fn new(env: Env) -> Self {
        let settings = Settings::read(&env);
        Self {
            container: OnceCell::new(),
            calls: Semaphore::new(CALLS_AT_ONCE),
            starts: Semaphore::new(STARTS_AT_ONCE),
            container_calls: Cell::new(0),
            settings,
            env,
        }
    }

    /// Calls made to the container since the object was made.
    #[must_use]
    pub const fn container_calls(&self) -> u64 {
        self.container_calls.get()
    }

    /// Writes a data point, at once and without waiting.
    pub fn emit(&self, town_id: &str, point: &DataPoint) {
        analytics::write(&self.env, town_id, point);
    }

    /// Performs an effect. The future does nothing until polled and owns all it needs, so it outlives the alarm that began
    /// it.
    pub fn perform(self: Rc<Self>, effect: Effect, whose: Whose) -> LocalBoxFuture<'static, Option<Outcome>> {
        let container = || container::client(&self.env, &self.settings, &whose.town_id);
        // One town has one performer, which learns with its first effect whose it is.
        self.container.get_or_init(container);
        Box::pin(async move {
            match effect {
                Effect::StartAgent(start) => Some(self.start(*start, whose).await),
                Effect::StopAgent(stop) => {
                    let answer = self.stop(&stop).await;
                    Some(Outcome::Stopped { stop_id: stop.stop_id, answer })
                }
                Effect::ObserveAgents(agents) => Some(self.observe(agents).await),
                Effect::ProbeContainer { scope, generation, boot_timeout } => {
                    let result = self.probe(whose, boot_timeout).await;
                    Some(Outcome::Probed { scope, generation, result })
                }
                Effect::TellContainer { what, until } => {
                    let answer = self.tell(what, whose).await;
                    Some(Outcome::Told { what, until, answer })
                }
                Effect::MessageAgent(message) => {
                    let call = self.container().message(&message.agent_id, &message.prompt);
                    let answer = self.ask(call).await;
                    Some(Outcome::Messaged { agent_id: message.agent_id, message_id: message.message_id, answer })
                }
                Effect::PostWebhook(hook) => {
                    let delivery_id = hook.delivery_id.clone();
                    let answer = self.in_turn(webhook::post(hook)).await;
                    Some(Outcome::Posted { delivery_id, answer })
                }
                Effect::CallForge(call) => {
                    let (bead_id, number, step) = (call.bead_id.clone(), call.call, call.step.clone());
                    let answer = self.in_turn(forge::call(*call, &self.settings)).await;
                    Some(Outcome::ForgeAnswered { bead_id, call: number, step, answer })
                }
                Effect::ReportToFleet(report) => {
                    let delivered = self.report(report).await;
                    Some(Outcome::Reported { delivered })
                }
                Effect::EraseAgent(agent_id) => {
                    let erased = self.erase(&whose.town_id, &agent_id).await;
                    Some(Outcome::Erased { agent_id, erased })
                }
                Effect::Emit(point) => {
                    self.emit(&whose.town_id, &point);
                    None
                }
                // The object itself holds the sockets, and has told them.
                Effect::Broadcast(_) => None,
            }
        })
    }

    fn container(&self) -> &dyn ContainerClient {
        self.container.get().map_or(&NoContainer, AsRef::as_ref)
    }

    /// Makes a call when a slot is free.
    async fn in_turn(&self, call: impl Future<Output = Answer>) -> Answer {
        let slot = self.calls.acquire().await;
        let answer = call.await;
        drop(slot);
        answer
    }

    /// Makes a call to the container when a slot is free. Its time limit begins with the call, not with the waiting.
    async fn ask(&self, call: Call) -> Answer {
        // The semaphore is never closed, so the only answer is a permit.
        let slot = self.calls.acquire().await;
        if self.container().exists() {
            self.container_calls.set(self.container_calls.get().saturating_add(1));
        }
        let answer = call.await;
        drop(slot);
        answer
    }

    async fn start(&self, mut start: StartAgent, whose: Whose) -> Outcome {
        // Stops first and one by one: the start must not meet the process that it replaces.
        let mut stops = Vec::with_capacity(start.stop_first.len());
        for stop in std::mem::take(&mut start.stop_first) {
            let answer = self.stop(&stop).await;
            stops.push((stop.stop_id, answer));
        }
        let attempt_id = start.attempt_id.clone();
        let answer = match self.equip(&mut start, &whose) {
            Ok(()) => {
                let slot = self.starts.acquire().await;
                panic_probe::at("call", &start.request.prompt);
                let headers = self.dressed(whose);
                let answer = self.ask(self.container().start(&start.request, headers, start.timeout)).await;
                drop(slot);
                answer
            }
            Err(detail) => Answer::Unreachable { detail },
        };
        Outcome::Started { attempt_id, answer, stops }
    }

    /// Adds what the agent needs to call back. The token is made here, for this start, and stored nowhere.
    fn equip(&self, start: &mut StartAgent, whose: &Whose) -> Result<(), String> {
        let made = self.credentials(whose).ok_or(
            "the agent was not started, because GASTOWN_JWT_SECRET is not set and it could not have called back",
        )?;
        start.request.env_vars.extend(made.map(|(key, value)| (key.to_owned(), value)));
        Ok(())
    }

    /// The token and the address for a call back; `None` without a secret to sign with. An empty value is left out.
    fn credentials(&self, whose: &Whose) -> Option<impl Iterator<Item = (&'static str, String)> + use<>> {
        let made = [(container::TOKEN, self.token(whose)?), ("GASTOWN_API_URL", self.settings.api_url.clone())];
        Some(made.into_iter().filter(|(_, value)| !value.is_empty()))
    }

    /// The same for agents that a booting container goes on with: the entries of the registry's answer.
    pub fn equip_again(&self, entries: &mut Json, town: Who) {
        let whose = Whose { town_id: town.town_id, owner: town.owner_user_id, outfit: None };
        for entry in entries.as_array_mut().into_iter().flatten() {
            for place in ["/env", "/request/envVars"] {
                if let (Some(made), Some(Json::Object(env))) = (self.credentials(&whose), entry.pointer_mut(place)) {
                    env.extend(made.map(|(key, value)| (key.to_owned(), Json::String(value))));
                }
            }
        }
    }

    /// A fresh token of the town's container; none without the secret.
    fn token(&self, whose: &Whose) -> Option<String> {
        let claims = ContainerClaims { town_id: whose.town_id.clone(), user_id: whose.owner.clone() };
        self.settings.secret.as_deref().map(|secret| token::sign_container(&claims, secret, clock::now()))
    }

    /// True if a call can start the container: it has an object that does.
    const fn boots(&self) -> bool {
        self.settings.container_url.is_none()
    }

    /// The headers of a call that may start the container.
    fn dressed(&self, whose: Whose) -> Headers {
        let (town, api_url) = (&whose.town_id, &self.settings.api_url);
        let mut headers = container::town_config(json!({}), town, api_url);
        let token = if self.boots() { self.token(&whose) } else { None };
        if let (Some(token), Some(outfit)) = (token, whose.outfit) {
            headers.push(container::environment(outfit.variables, town, api_url, token));
        }
        headers
    }

    async fn tell(&self, what: Tell, whose: Whose) -> Answer {
        let token = self.token(&whose).unwrap_or_default();
        let headers = match (what, whose.outfit) {
            (Tell::Settings, Some(outfit)) => {
                container::town_config(outfit.settings, &whose.town_id, &self.settings.api_url)
            }
            _ => Vec::new(),
        };
        self.ask(self.container().tell(what, token, headers)).await
    }

    /// Ends the container of a town that is being deleted, if it is ours to end.
    pub async fn end_container(&self, town_id: &str) {
        container::end(self.env.clone(), &self.settings, town_id).await;
    }

    async fn stop(&self, stop: &StopAgent) -> Answer {
        self.ask(self.container().stop(&stop.agent_id, &stop.attempt_id)).await
    }

    async fn observe(&self, agents: Vec<Observe>) -> Outcome {
        // Bare: a look starts no container.
        let answer = self.ask(self.container().health(Vec::new(), HEALTH_TIMEOUT)).await;
        let health = container::health(&answer).ok();
        let mut seen: Vec<(AttemptId, Answer)> = Vec::with_capacity(agents.len());
        let mut agents = agents.into_iter();
        // A container that does not answer its health is asked once more, about one agent; if that is not answered
        // either, twenty more questions of ten seconds each would say the same.
        if health.is_none()
            && let Some(first) = agents.next()
        {
            let answer = self.ask(self.container().status(&first.agent_id)).await;
            let silent = !matches!(answer, Answer::Http { .. });
            seen.push((first.attempt_id, answer.clone()));
            if silent {
                seen.extend(agents.by_ref().map(|o| (o.attempt_id, answer.clone())));
            }
        }
        let rest = agents.map(|o| async move { (o.attempt_id, self.ask(self.container().status(&o.agent_id)).await) });
        seen.extend(join_all(rest).await);
        Outcome::Observed { health, agents: seen }
    }

    async fn probe(&self, whose: Whose, boot_timeout: Millis) -> Result<crate::town::effect::Health, String> {
        let until = clock::now().plus(boot_timeout);
        let mut pause = PROBE_PAUSE_MIN;
        let headers = self.dressed(whose);
        loop {
            // A call that may start the container waits for its boot.
            let left = if self.boots() { until.since(clock::now()) } else { 0 };
            let (headers, timeout) = (headers.clone(), left.max(HEALTH_TIMEOUT));
            match container::health(&self.ask(self.container().health(headers, timeout)).await) {
                Ok(health) => return Ok(health),
                Err(why) if !self.container().exists() || clock::now().plus(pause) >= until => return Err(why),
                Err(_) => {}
            }
            Delay::from(Duration::from_millis(pause.unsigned_abs())).await;
            pause = pause.saturating_mul(2).min(PROBE_PAUSE_MAX);
        }
    }

    /// True if the agent's store is gone; one that is not is tried again (`departed`).
    pub async fn erase(&self, town: &str, agent: &AgentId) -> bool {
        let slot = self.calls.acquire().await;
        let answer = stub::post(&self.env, "AGENT", &stub::agent_name(town, agent.as_str()), "/erase", "").await;
        drop(slot);
        match answer {
            Ok(answered) => answered.status == 200,
            Err(e) => {
                log::error("agent.erase", town, &errors::words(&e));
                false
            }
        }
    }

    /// True if the registry took it; a lost one is made again (`reconcile::fleet_forgets`).
    async fn report(&self, report: FleetReport) -> bool {
        let town = report.town_id.clone();
        let slot = self.calls.acquire().await;
        let answer = stub::fleet(&self.env, &FleetRequest::Report { report }).await;
        drop(slot);
        if let Err(e) = &answer {
            log::error("fleet.report", &town, &errors::words(e));
        }
        answer.is_ok()
    }
}

/// The agents that an effect names: effects that share one are performed in the order in which they were emitted.
#[must_use]
pub fn agents_of(effect: &Effect) -> Vec<AgentId> {
    match effect {
        Effect::StartAgent(start) => {
            let stops = start.stop_first.iter().map(|s| s.agent_id.clone());
            std::iter::once(start.agent_id.clone()).chain(stops).collect()
        }
        Effect::StopAgent(stop) => vec![stop.agent_id.clone()],
        Effect::MessageAgent(message) => vec![message.agent_id.clone()],
        Effect::EraseAgent(agent) => vec![agent.clone()],
        Effect::ObserveAgents(agents) => agents.iter().map(|o| o.agent_id.clone()).collect(),
        Effect::ProbeContainer { .. }
        | Effect::TellContainer { .. }
        | Effect::PostWebhook(_)
        | Effect::CallForge(_)
        | Effect::ReportToFleet(_)
        | Effect::Emit(_)
        | Effect::Broadcast(_) => Vec::new(),
    }
}

/// True if an effect gives or tells the container what the town knows.
#[must_use]
pub const fn needs_outfit(effect: &Effect) -> bool {
    matches!(effect, Effect::StartAgent(_) | Effect::ProbeContainer { .. } | Effect::TellContainer { .. })
}
