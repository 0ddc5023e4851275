//! What agents did and said, as events: kept for `GET /agents/:a/events`, shown live to sockets, and sent to the worker.
//!
//! Guarantees: ids are one counter over all agents, so that a reader never sees one event twice; per agent the newest 2000
//! events are kept, and no more than 4 MB of them; telling an event never waits for anybody. Callers pass what has been
//! redacted already.

use crate::{outbox::Outbox, text};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
};
use tokio::sync::broadcast;

/// Events kept per agent (protocol 4.3).
const KEPT_EVENTS: usize = 2000;

/// Their bytes, at most.
const KEPT_BYTES: usize = 4_000_000;

/// Agents whose events are kept; beyond it, those of the agent that was quiet for longest go.
const KEPT_AGENTS: usize = 200;

/// One event's data, at most. The worker would cut at 256 KB (`domain.md` 11); a tool call is understood from much less.
const DATA_BYTES: usize = 32 * 1024;

/// How many events a slow socket may lag behind before it loses some.
const LAG: usize = 4096;

/// One event.
#[derive(Debug)]
pub struct Event {
    /// Its place among all events of this runner.
    pub id: u64,
    /// Whose it is.
    pub agent: String,
    /// What happened: `output`, `text`, `tool`, `tool.result`, `session.idle`, `agent.started`, `agent.exited`, …
    pub name: String,
    /// The particulars.
    pub data: Value,
    /// When.
    pub timestamp: String,
    /// How much it weighs.
    pub bytes: usize,
}

impl Event {
    /// The frame of a socket.
    #[must_use]
    pub fn frame(&self) -> Value {
        json!({ "agentId": self.agent, "event": self.name, "data": self.data, "timestamp": self.timestamp })
    }

    /// The entry of `GET /agents/:a/events`.
    #[must_use]
    pub fn entry(&self) -> Value {
        json!({ "id": self.id, "event": self.name, "data": self.data, "timestamp": self.timestamp })
    }
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    agents: HashMap<String, Kept>,
}

/// The events of all agents.
#[derive(Debug)]
pub struct Transcripts {
    state: Mutex<State>,
    live: broadcast::Sender<Arc<Event>>,
}

impl Default for Transcripts {
    fn default() -> Self {
        Self { state: Mutex::default(), live: broadcast::Sender::new(LAG) }
    }
}

impl Transcripts {
    fn append(&self, agent: &str, name: &str, data: Value) -> Arc<Event> {
        let data = bounded(data);
        let bytes = data.to_string().len() + name.len() + agent.len();
        let mut state = text::lock(&self.state);
        state.last += 1;
        let event = Event {
            id: state.last,
            agent: agent.to_owned(),
            name: name.to_owned(),
            data,
            timestamp: text::now(),
            bytes,
        };
        let event = Arc::new(event);
        if !state.agents.contains_key(agent) && state.agents.len() >= KEPT_AGENTS {
            let quiet = state.agents.iter().min_by_key(|(_, kept)| kept.events.back().map(|event| event.id));
            if let Some(quiet) = quiet.map(|(agent, _)| agent.clone()) {
                state.agents.remove(&quiet);
            }
        }
        let kept = state.agents.entry(agent.to_owned()).or_default();
        kept.bytes += bytes;
        kept.events.push_back(Arc::clone(&event));
        while kept.events.len() > KEPT_EVENTS || kept.bytes > KEPT_BYTES {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.bytes;
        }
        // Under the lock: whoever begins to follow has an event either among the kept ones or live, and never in both.
        let _ = self.live.send(Arc::clone(&event));
        event
    }

    /// The agent's kept events with a greater id.
    #[must_use]
    pub fn after(&self, agent: &str, id: u64) -> Vec<Arc<Event>> {
        let state = text::lock(&self.state);
        let kept = state.agents.get(agent).into_iter().flat_map(|kept| &kept.events);
        kept.filter(|event| event.id > id).cloned().collect()
    }

    /// The agent's kept events, if one is named, and all that will come, of every agent.
    #[must_use]
    pub fn follow(&self, agent: Option<&str>) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let state = text::lock(&self.state);
        let kept = agent.and_then(|agent| state.agents.get(agent)).into_iter().flat_map(|kept| &kept.events);
        (kept.cloned().collect(), self.live.subscribe())
    }
}

/// Data that is too large is replaced by its beginning, and says so.
fn bounded(data: Value) -> Value {
    let whole = data.to_string();
    if whole.len() <= DATA_BYTES {
        return data;
    }
    json!({ "truncated": true, "original_bytes": whole.len(), "text": text::head(&whole, DATA_BYTES / 2) })
}

/// Where one attempt tells its events.
#[derive(Debug)]
pub struct Feed {
    agent: String,
    transcripts: Arc<Transcripts>,
    /// On their way to the worker.
    pub outbox: Arc<Outbox>,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// Name and time of the last event.
    last: Option<(String, String)>,
    /// Tool calls that run, by their id.
    tools: BTreeMap<String, String>,
    /// With which status the model's gateway refused, in this turn.
    refusal: Option<u16>,
}

impl Feed {
    /// A feed for an agent's attempt.
    #[must_use]
    pub fn new(agent: &str, transcripts: Arc<Transcripts>) -> Self {
        Self { agent: agent.to_owned(), transcripts, outbox: Arc::default(), now: Mutex::default() }
    }

    /// Something happened.
    pub fn tell(&self, name: &str, data: Value) {
        let event = self.transcripts.append(&self.agent, name, data);
        text::lock(&self.now).last = Some((event.name.clone(), event.timestamp.clone()));
        self.outbox.push(event);
    }

    /// A tool call began.
    pub fn tool_started(&self, id: &str, tool: &str) {
        text::lock(&self.now).tools.insert(id.to_owned(), tool.to_owned());
    }

    /// A tool call ended.
    pub fn tool_ended(&self, id: &str) {
        text::lock(&self.now).tools.remove(id);
    }

    /// A new turn: what happened to the last one is over.
    pub fn begin_turn(&self) {
        text::lock(&self.now).refusal = None;
    }

    /// The model's gateway refused, with this status if it is known.
    pub fn refused(&self, status: Option<u16>) {
        text::lock(&self.now).refusal = status;
    }

    /// With which status the model's gateway refused, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<u16> {
        text::lock(&self.now).refusal
    }

    /// The process has ended, and with it whatever tool it ran.
    pub fn no_tools(&self) {
        text::lock(&self.now).tools.clear();
    }

    /// The tools that run.
    #[must_use]
    pub fn tools(&self) -> Vec<String> {
        text::lock(&self.now).tools.values().cloned().collect()
    }

    /// Name and time of the last event.
    #[must_use]
    pub fn last(&self) -> Option<(String, String)> {
        text::lock(&self.now).last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::{DATA_BYTES, Feed, KEPT_EVENTS, Transcripts};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn the_newest_two_thousand_are_kept_under_one_counter() {
        let transcripts = Arc::new(Transcripts::default());
        let (one, two) = (Feed::new("a1", Arc::clone(&transcripts)), Feed::new("a2", Arc::clone(&transcripts)));
        two.tell("agent.started", json!({}));
        for number in 0..=KEPT_EVENTS {
            one.tell("output", json!({ "text": number.to_string() }));
        }
        let kept = transcripts.after("a1", 0);
        assert_eq!((kept.len(), kept[0].id), (KEPT_EVENTS, 3), "the oldest of a1 went, a2's has the first id");
        let last = kept.last().unwrap().id;
        assert_eq!(transcripts.after("a1", last - 1).len(), 1);
        assert!(transcripts.after("nobody", 0).is_empty());
    }

    #[test]
    fn an_event_that_is_too_large_says_how_large_it_was() {
        let transcripts = Arc::new(Transcripts::default());
        Feed::new("a1", Arc::clone(&transcripts)).tell("tool", json!({ "input": "ß".repeat(DATA_BYTES) }));
        let data = &transcripts.after("a1", 0)[0].data;
        assert_eq!(data["truncated"], true);
        assert!(data["original_bytes"].as_u64().unwrap() > 64 * 1024 && data.to_string().len() <= DATA_BYTES);
    }

    #[test]
    fn who_begins_to_follow_misses_nothing_and_sees_nothing_twice() {
        let transcripts = Arc::new(Transcripts::default());
        let feed = Feed::new("a1", Arc::clone(&transcripts));
        feed.tell("one", json!({}));
        let (kept, mut live) = transcripts.follow(Some("a1"));
        feed.tell("two", json!({}));
        assert_eq!(kept.iter().map(|event| event.name.as_str()).collect::<Vec<_>>(), ["one"]);
        assert_eq!(live.try_recv().unwrap().name, "two");
        assert!(live.try_recv().is_err());
    }
}
