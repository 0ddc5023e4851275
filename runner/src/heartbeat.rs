//! Heartbeats: one call for all agents of the container, every interval and at once for an agent that has just started.
//!
//! Guarantees: the first heartbeat of an agent goes out the moment its process runs, together with those of agents that
//! start within the same moment; then one every interval, while starting and running; none once the drain has begun or the
//! dispatch is told to end. One call to a worker is in the air at a time, so that a worker that is slow is not asked more.
//! A worker that says `503` with `Retry-After` is left alone for as long, and a little longer, so that containers do not
//! come back in step; what waited is then told in one call.
//!
//! A worker without `POST heartbeats` (404, 405) is told agent by agent, and asked again for the call later.

use crate::{
    dispatch::Dispatch,
    runner::Runner,
    text,
    voice::{CallError, SHORT_CALL, Voice, data_text, jittered},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until},
};

/// How long an agent that has just started waits for others that start with it.
const GATHER: Duration = Duration::from_millis(20);

/// How long a busy worker is left alone at least: `Retry-After: 0` must not make a loop without a pause.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// The most agents that one call may carry (`api.md`).
const AGENTS_PER_CALL: usize = 500;

/// How long a worker without the call is told agent by agent before it is asked for the call again: it may be a newer one
/// by then.
const OLDER_FOR: Duration = Duration::from_mins(10);

/// Agents whose first heartbeat is due.
#[derive(Debug, Default)]
pub struct Due {
    agents: Mutex<Vec<Arc<Dispatch>>>,
    bell: Notify,
}

impl Due {
    /// The process of this dispatch runs: tell the worker now.
    pub fn now(&self, dispatch: Arc<Dispatch>) {
        text::lock(&self.agents).push(dispatch);
        self.bell.notify_one();
    }

    /// May be given up at any time: whoever was gathered is still due then, though the bell has been heard.
    async fn gathered(&self) -> Vec<Arc<Dispatch>> {
        if text::lock(&self.agents).is_empty() {
            self.bell.notified().await;
        }
        sleep(GATHER).await;
        std::mem::take(&mut *text::lock(&self.agents))
    }
}

/// Whom heartbeats go to: the worker's url and the town.
type Destination = (Option<String>, String);

/// One destination, and what it has not been told yet.
#[derive(Debug, Default)]
struct Lane {
    waiting: Vec<Arc<Dispatch>>,
    /// It asked to be left alone until then.
    not_before: Option<Instant>,
    /// It does not know the call for all agents; until then it is not asked for it.
    older_until: Option<Instant>,
}

/// How a worker took heartbeats.
#[derive(Debug, Default)]
struct Taken {
    /// It does not know the call.
    older: bool,
    /// It asked for so much patience, and has not heard these.
    refused: Option<(Duration, Vec<Arc<Dispatch>>)>,
}

/// Sends heartbeats until the drain begins.
pub async fn run(runner: Arc<Runner>) {
    tokio::select! {
        () = runner.drained() => {}
        () = beat_for_ever(&runner) => {}
    }
}

async fn beat_for_ever(runner: &Arc<Runner>) {
    let every = runner.config.heartbeat;
    let mut round = interval_at(Instant::now() + every, every);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lanes: HashMap<Destination, Lane> = HashMap::new();
    loop {
        let held = lanes.values().filter(|lane| !lane.waiting.is_empty()).filter_map(|lane| lane.not_before).min();
        let due = tokio::select! {
            _ = round.tick() => runner.live(),
            due = runner.due.gathered() => due,
            () = until(held) => Vec::new(),
        };
        for dispatch in due {
            let lane = lanes.entry((dispatch.voice.api.clone(), dispatch.town.clone())).or_default();
            if !lane.waiting.iter().any(|other| other.attempt == dispatch.attempt) {
                lane.waiting.push(dispatch);
            }
        }
        tell_all(runner, &mut lanes).await;
    }
}

/// A moment, or never.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Tells every destination that may be told, all at the same time.
async fn tell_all(runner: &Arc<Runner>, lanes: &mut HashMap<Destination, Lane>) {
    let now = Instant::now();
    let mut calls = JoinSet::new();
    for (destination, lane) in lanes.iter_mut() {
        if lane.not_before.is_some_and(|at| at > now) {
            continue;
        }
        let mut agents = std::mem::take(&mut lane.waiting);
        agents.retain(|dispatch| dispatch.status().is_alive());
        if agents.is_empty() {
            continue;
        }
        let (runner, destination) = (Arc::clone(runner), destination.clone());
        let older = lane.older_until.is_some_and(|until| until > now);
        calls.spawn(async move {
            let taken = if older { one_by_one(&runner, agents).await } else { together(&runner, agents).await };
            (destination, taken)
        });
    }
    while let Some(told) = calls.join_next().await {
        let Ok((destination, taken)) = told else { continue };
        let lane = lanes.entry(destination).or_default();
        lane.not_before = None;
        if taken.older {
            lane.older_until = Some(Instant::now() + OLDER_FOR);
        }
        if let Some((patience, agents)) = taken.refused {
            // Never longer than a heartbeat may be away: the worker asks after agents that stay silent.
            let patience = patience.max(LEAST_PATIENCE).min(runner.config.heartbeat);
            lane.not_before = Some(Instant::now() + jittered(patience));
            lane.waiting = agents;
        }
    }
    lanes.retain(|_, lane| !lane.waiting.is_empty() || lane.older_until.is_some_and(|until| until > now));
}

/// One call for all, or one for every so many.
async fn together(runner: &Arc<Runner>, agents: Vec<Arc<Dispatch>>) -> Taken {
    let Some(first) = agents.first() else { return Taken::default() };
    // The container speaks, not one of its agents.
    let voice = Voice { headers: Vec::new(), ..first.voice.clone() };
    let path = voice.town_path("heartbeats");
    let mut rest = agents.as_slice();
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(rest.len().min(AGENTS_PER_CALL));
        let said: Vec<Value> = chunk.iter().map(|dispatch| dispatch.heartbeat(&runner.instance)).collect();
        let body = json!({ "containerInstanceId": runner.instance, "agents": said });
        match voice.call(&path, Some(&body), SHORT_CALL).await {
            Ok(said) => heard(runner, &voice, &said).await,
            Err(CallError::Refused { status: 404 | 405, .. }) => {
                return Taken { older: true, ..one_by_one(runner, rest.to_vec()).await };
            }
            Err(CallError::Refused { status: 503, retry_after: Some(patience), .. }) => {
                return Taken { older: false, refused: Some((patience, rest.to_vec())) };
            }
            // The next round tells it again.
            Err(error) => crate::journal::note(&format!("heartbeats of {} agents: {error}", chunk.len())),
        }
        rest = others;
    }
    Taken::default()
}

/// One call per agent, side by side: a slow answer for one delays no other.
async fn one_by_one(runner: &Arc<Runner>, agents: Vec<Arc<Dispatch>>) -> Taken {
    let mut calls = JoinSet::new();
    for dispatch in agents {
        let runner = Arc::clone(runner);
        calls.spawn(async move {
            let path = dispatch.voice.rig_path(&dispatch.rig, &format!("agents/{}/heartbeat", dispatch.agent));
            match dispatch.voice.call(&path, Some(&dispatch.heartbeat(&runner.instance)), SHORT_CALL).await {
                Ok(said) => heard(&runner, &dispatch.voice, &said).await,
                Err(CallError::Refused { status: 503, retry_after: Some(patience), .. }) => {
                    return Some((patience, dispatch));
                }
                Err(error) => crate::journal::note(&format!("heartbeat of {}: {error}", dispatch.agent)),
            }
            None
        });
    }
    let mut refused: Option<(Duration, Vec<Arc<Dispatch>>)> = None;
    while let Some(told) = calls.join_next().await {
        if let Ok(Some((patience, dispatch))) = told {
            let (longest, agents) = refused.get_or_insert_default();
            *longest = (*longest).max(patience);
            agents.push(dispatch);
        }
    }
    Taken { older: false, refused }
}

async fn heard(runner: &Arc<Runner>, voice: &Voice, said: &Value) {
    if let Some(nonce) = data_text(said, "drainNonce") {
        runner.acknowledge(voice, nonce).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        request::StartRequest,
        voice::{Tokens, client},
    };
    use tokio::time::timeout;

    fn dispatch(agent: &str) -> Arc<Dispatch> {
        let request = json!({
            "agentId": agent, "rigId": "r1", "townId": "t1", "role": "polecat", "name": agent, "identity": agent,
            "prompt": "p", "model": "m", "systemPrompt": "s", "gitUrl": "https://git.example.com/r.git", "branch": "b",
            "defaultBranch": "main", "dispatchId": "d1",
        });
        let request = StartRequest::parse(request.to_string().as_bytes(), true).unwrap();
        let (tokens, town) = (Tokens::default(), "t1".to_owned());
        let voice = Voice { http: client().unwrap(), api: None, town, tokens, headers: Vec::new() };
        Dispatch::new(&request, voice, &Arc::default())
    }

    #[tokio::test]
    async fn an_agent_that_starts_while_something_else_is_due_is_told_next() {
        let due = Due::default();
        due.now(dispatch("a1"));
        // A busy worker may be asked again just now: the loop turns to that, with the bell heard and nobody gathered.
        assert!(timeout(GATHER / 4, due.gathered()).await.is_err());
        let told = timeout(Duration::from_secs(5), due.gathered()).await.expect("its first heartbeat is lost");
        assert_eq!(told.len(), 1);
    }
}
