//! How the object performs an effect: which calls, in which order, with which time limits, and what it makes of the
//! answers. One [`Job`] is one effect on its way; the world moves it through simulated time.
//!
//! | effect | calls |
//! |---|---|
//! | `StartAgent` | each stop that goes first (its failure stops nothing), then `POST /agents/start` |
//! | `StopAgent` | `POST /agents/:id/stop {dispatchId}` |
//! | `ObserveAgents` | `GET /health`; if it answered, `GET /agents/:id/status` of each, as many at once as are free |
//! | `ProbeContainer` | `GET /health` every 2 s until it answers 2xx or the boot timeout ends |
//! | `TellContainer` | `POST /refresh-token` or `POST /sync-config` |
//! | `MessageAgent` | `POST /agents/:id/message {prompt}` |
//! | `PostWebhook` | `POST` |
//! | `CallForge` | the one call |
//!
//! Time limits are those of `policy.rs`; a start brings its own.

use crate::fault::{Said, SimAnswer};
use gastown::town::effect::{
    Answer, CallForge, Effect, Health, MessageAgent, Observe, Outcome, PostWebhook, StartAgent, StopAgent, Tell,
};
use gastown::town::id::AttemptId;
use gastown::town::policy::{
    ANSWER_BYTES, FORGE_TIMEOUT, LOOK_TIMEOUT, MESSAGE_TIMEOUT, STOP_TIMEOUT, WEBHOOK_TIMEOUT,
};
use gastown::town::time::{Millis, SECOND, Timestamp};
use serde_json::{Value as Json, json};
use std::collections::VecDeque;

/// Between two questions of a health probe.
const PROBE_PAUSE: Millis = 2 * SECOND;

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Container,
    Webhook { url: String, signature: Option<String> },
    Forge { github: bool },
}

/// One HTTP call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub target: Target,
    pub method: &'static str,
    pub path: String,
    pub body: String,
    pub timeout: Millis,
}

/// One call on its way.
#[derive(Debug)]
pub(crate) enum Flight {
    /// The request travels; the other side has not seen it yet.
    Out { call: Call, arrives: Timestamp, gives_up: Timestamp },
    /// The other side has seen it; the answer, or the end of patience, comes then.
    Back { lands: Timestamp, answer: Answer },
}

impl Flight {
    pub(crate) fn new(call: Call, now: Timestamp, travel: Millis) -> Self {
        let gives_up = now.plus(call.timeout);
        Self::Out { call, arrives: now.plus(travel).min(gives_up), gives_up }
    }
    pub(crate) const fn at(&self) -> Timestamp {
        match self {
            Self::Out { arrives, .. } => *arrives,
            Self::Back { lands, .. } => *lands,
        }
    }
    /// What the caller will learn, and when, from what the other side did at `now`.
    pub(crate) fn back(answer: SimAnswer, now: Timestamp, timeout: Millis, gives_up: Timestamp) -> Self {
        let (lands, answer) = match answer {
            SimAnswer::Http { after, said: Said { status, mut body, retry_after } } => {
                body.truncate(body.floor_char_boundary(ANSWER_BYTES));
                (now.plus(after), Answer::Http { status, body, retry_after })
            }
            SimAnswer::Lost { after, detail } => (now.plus(after), Answer::Unreachable { detail }),
            SimAnswer::Never => (gives_up, Answer::TimedOut { after: timeout }),
        };
        if lands >= gives_up {
            Self::Back { lands: gives_up, answer: Answer::TimedOut { after: timeout } }
        } else {
            Self::Back { lands, answer }
        }
    }
}

/// What an effect wants next.
pub(crate) enum Next {
    /// Make these calls at once; come back when all are answered.
    Call(Vec<Call>),
    /// Come back then.
    Pause(Timestamp),
    /// It has ended.
    End(Outcome),
}

/// How far an effect is.
#[derive(Debug)]
enum Script {
    Start { start: Box<StartAgent>, left: VecDeque<StopAgent>, stops: Vec<(String, Answer)>, sent: Sent },
    Stop(StopAgent),
    Observe { agents: Vec<Observe>, stage: Look, health: Option<Health>, seen: Vec<(AttemptId, Answer)> },
    Probe { scope: String, generation: u32, until: Timestamp },
    Tell { what: Tell, until: Timestamp },
    Webhook(PostWebhook),
    Message(MessageAgent),
    Forge(Box<CallForge>),
}

/// What the calls on their way are about.
#[derive(Debug, PartialEq)]
enum Sent {
    Nothing,
    Stop(String),
    Start,
}

/// How far a look is: what its calls on their way ask.
#[derive(Debug)]
enum Look {
    Begins,
    Health,
    Agents,
}

/// One effect on its way.
#[derive(Debug)]
pub(crate) struct Job {
    /// In the order of emission.
    pub id: u64,
    /// It occupies one of the places for starts.
    pub is_start: bool,
    /// The agents it names: effects of one agent are performed in order.
    pub agents: Vec<String>,
    /// Calls on their way.
    pub flights: Vec<Flight>,
    /// Not before then, if no call is on its way.
    pub paused_until: Option<Timestamp>,
    script: Script,
}

impl Job {
    /// The job of an effect; `None` for those that need no call.
    pub(crate) fn of(id: u64, effect: Effect, now: Timestamp) -> Option<Self> {
        let (is_start, agents, script) = match effect {
            Effect::StartAgent(start) => {
                let agents = start.stop_first.iter().map(|s| s.agent_id.0.clone()).chain([start.agent_id.0.clone()]);
                let agents = agents.collect();
                let left = start.stop_first.iter().cloned().collect();
                (true, agents, Script::Start { start, left, stops: Vec::new(), sent: Sent::Nothing })
            }
            Effect::StopAgent(stop) => (false, vec![stop.agent_id.0.clone()], Script::Stop(stop)),
            Effect::ObserveAgents(agents) => {
                let names = agents.iter().map(|a| a.agent_id.0.clone()).collect();
                (false, names, Script::Observe { agents, stage: Look::Begins, health: None, seen: Vec::new() })
            }
            Effect::ProbeContainer { scope, generation, boot_timeout } => {
                let until = now.plus(boot_timeout);
                (false, Vec::new(), Script::Probe { scope, generation, until })
            }
            Effect::TellContainer { what, until } => (false, Vec::new(), Script::Tell { what, until }),
            Effect::PostWebhook(post) => (false, Vec::new(), Script::Webhook(post)),
            Effect::CallForge(call) => (false, Vec::new(), Script::Forge(call)),
            Effect::MessageAgent(message) => (false, vec![message.agent_id.0.clone()], Script::Message(message)),
            Effect::ReportToFleet(_) | Effect::EraseAgent(_) | Effect::Emit(_) | Effect::Broadcast(_) => return None,
        };
        Some(Self { id, is_start, agents, flights: Vec::new(), paused_until: None, script })
    }

    /// What it performs.
    pub(crate) const fn kind(&self) -> &'static str {
        match self.script {
            Script::Start { .. } => "StartAgent",
            Script::Stop(_) => "StopAgent",
            Script::Observe { .. } => "ObserveAgents",
            Script::Probe { .. } => "ProbeContainer",
            Script::Tell { .. } => "TellContainer",
            Script::Webhook(_) => "PostWebhook",
            Script::Message(_) => "MessageAgent",
            Script::Forge(_) => "CallForge",
        }
    }

    /// How far it is.
    pub(crate) fn phase(&self) -> &'static str {
        let out = self.flights.iter().any(|f| matches!(f, Flight::Out { .. }));
        match (&self.script, out) {
            (Script::Start { sent: Sent::Stop(_), .. }, true) => "a stop before it travels",
            (Script::Start { sent: Sent::Stop(_), .. }, false) => "a stop before it is being answered",
            (_, true) => "its request travels",
            (_, false) if self.flights.is_empty() => "it pauses",
            (_, false) => "its answer travels",
        }
    }

    /// When something happens to it next; `None` if it has not begun.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.flights.iter().map(Flight::at).min().or(self.paused_until)
    }

    /// Its calls are all answered: what next? `free` is how many calls may be made at once.
    pub(crate) fn next(&mut self, landed: Vec<Answer>, now: Timestamp, free: usize) -> Next {
        self.paused_until = None;
        match &mut self.script {
            Script::Start { start, left, stops, sent } => {
                let answer = landed.into_iter().next();
                match (std::mem::replace(sent, Sent::Nothing), answer) {
                    (Sent::Stop(stop_id), Some(answer)) => stops.push((stop_id, answer)),
                    (Sent::Start, Some(answer)) => {
                        let attempt_id = start.attempt_id.clone();
                        return Next::End(Outcome::Started { attempt_id, answer, stops: std::mem::take(stops) });
                    }
                    _ => {}
                }
                if let Some(stop) = left.pop_front() {
                    *sent = Sent::Stop(stop.stop_id.clone());
                    return Next::Call(vec![stop_call(&stop)]);
                }
                *sent = Sent::Start;
                Next::Call(vec![start_call(start)])
            }
            Script::Stop(stop) => match landed.into_iter().next() {
                None => Next::Call(vec![stop_call(stop)]),
                Some(answer) => Next::End(Outcome::Stopped { stop_id: stop.stop_id.clone(), answer }),
            },
            Script::Observe { agents, stage, health, seen } => observe(agents, stage, health, seen, landed, free),
            Script::Probe { scope, generation, until } => {
                let end = |result| Next::End(Outcome::Probed { scope: scope.clone(), generation: *generation, result });
                let answer = landed.into_iter().next();
                let why = match answer {
                    Some(answer) => match health_in(&answer) {
                        Some(health) => return end(Ok(health)),
                        None => Some(in_words(&answer)),
                    },
                    None => None,
                };
                match why {
                    Some(why) if now.plus(PROBE_PAUSE) >= *until => end(Err(why)),
                    Some(_) => Next::Pause(now.plus(PROBE_PAUSE)),
                    None => Next::Call(vec![health_call(LOOK_TIMEOUT.min(until.since(now).max(1)))]),
                }
            }
            Script::Tell { what, until } => match landed.into_iter().next() {
                None => {
                    let path = match what {
                        Tell::Token => "/refresh-token",
                        Tell::Settings => "/sync-config",
                    };
                    Next::Call(vec![to_container("POST", path.to_owned(), "{}".to_owned(), LOOK_TIMEOUT)])
                }
                Some(answer) => Next::End(Outcome::Told { what: *what, until: *until, answer }),
            },
            Script::Message(message) => match landed.into_iter().next() {
                None => Next::Call(vec![to_container(
                    "POST",
                    format!("/agents/{}/message", message.agent_id),
                    json!({"prompt": message.prompt}).to_string(),
                    MESSAGE_TIMEOUT,
                )]),
                Some(answer) => Next::End(Outcome::Messaged {
                    agent_id: message.agent_id.clone(),
                    message_id: message.message_id.clone(),
                    answer,
                }),
            },
            Script::Webhook(post) => match landed.into_iter().next() {
                None => Next::Call(vec![Call {
                    target: Target::Webhook { url: post.url.clone(), signature: post.signature.clone() },
                    method: "POST",
                    path: String::new(),
                    body: post.body.clone(),
                    timeout: WEBHOOK_TIMEOUT,
                }]),
                Some(answer) => Next::End(Outcome::Posted { delivery_id: post.delivery_id.clone(), answer }),
            },
            Script::Forge(call) => match landed.into_iter().next() {
                None => Next::Call(vec![Call {
                    target: Target::Forge { github: call.github },
                    method: call.method,
                    path: call.path.clone(),
                    body: call.body.clone().unwrap_or_default(),
                    timeout: FORGE_TIMEOUT,
                }]),
                Some(answer) => Next::End(Outcome::ForgeAnswered {
                    bead_id: call.bead_id.clone(),
                    call: call.call,
                    step: call.step.clone(),
                    answer,
                }),
            },
        }
    }
}

/// The next step of a look. A container that does not answer `/health` at all is not asked about
/// each agent: the same answer stands for all.
fn observe(
    agents: &[Observe],
    stage: &mut Look,
    health: &mut Option<Health>,
    seen: &mut Vec<(AttemptId, Answer)>,
    landed: Vec<Answer>,
    free: usize,
) -> Next {
    match std::mem::replace(stage, Look::Agents) {
        Look::Begins => {
            *stage = Look::Health;
            return Next::Call(vec![health_call(LOOK_TIMEOUT)]);
        }
        Look::Health => {
            for answer in landed {
                *health = health_in(&answer);
                if !matches!(answer, Answer::Http { .. }) {
                    seen.extend(agents.iter().map(|a| (a.attempt_id.clone(), answer.clone())));
                }
            }
        }
        Look::Agents => {
            let asked = agents.iter().skip(seen.len());
            let answers: Vec<_> = asked.zip(landed).map(|(a, answer)| (a.attempt_id.clone(), answer)).collect();
            seen.extend(answers);
        }
    }
    let left: Vec<Call> = agents.iter().skip(seen.len()).take(free.max(1)).map(status_call).collect();
    if left.is_empty() {
        Next::End(Outcome::Observed { health: health.take(), agents: std::mem::take(seen) })
    } else {
        Next::Call(left)
    }
}

fn to_container(method: &'static str, path: String, body: String, timeout: Millis) -> Call {
    Call { target: Target::Container, method, path, body, timeout }
}

fn health_call(timeout: Millis) -> Call {
    to_container("GET", "/health".to_owned(), String::new(), timeout)
}

fn status_call(agent: &Observe) -> Call {
    to_container("GET", format!("/agents/{}/status", agent.agent_id), String::new(), LOOK_TIMEOUT)
}

fn stop_call(stop: &StopAgent) -> Call {
    let body = json!({"dispatchId": stop.attempt_id}).to_string();
    to_container("POST", format!("/agents/{}/stop", stop.agent_id), body, STOP_TIMEOUT)
}

/// The shell adds the container's token to what the town has put into `envVars`.
fn start_call(start: &StartAgent) -> Call {
    let mut request = start.request.clone();
    request.env_vars.insert("GASTOWN_CONTAINER_TOKEN".to_owned(), "simulated".to_owned());
    let body = serde_json::to_string(&request).expect("a start request is JSON");
    to_container("POST", "/agents/start".to_owned(), body, start.timeout)
}

/// A 2xx answer of `/health`, as far as the town reads it.
fn health_in(answer: &Answer) -> Option<Health> {
    let Answer::Http { status: 200..=299, body, .. } = answer else { return None };
    let body: Json = serde_json::from_str(body).unwrap_or_default();
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    Some(Health {
        instance_id: text("containerInstanceId").or_else(|| text("startedAt")),
        draining: body["draining"] == true,
        dispatch_id: body["features"].as_array().is_some_and(|f| f.iter().any(|f| f == "dispatch-id")),
    })
}

fn in_words(answer: &Answer) -> String {
    match answer {
        Answer::Http { status, body, .. } => format!("{status}: {body}"),
        Answer::Unreachable { detail } => detail.clone(),
        Answer::TimedOut { after } => format!("no answer in {after} ms"),
    }
}
