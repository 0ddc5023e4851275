//! One attempt's events on their way to the worker: `POST …/agent-events {events: […]}`.
//!
//! Guarantees: putting an event in never waits; what waits is bounded, and beyond the bound the oldest are dropped and
//! counted, which the worker is told by an event of its own; one call is in the air at a time; a worker that fails is asked
//! again with growing pauses, or when it says; the attempt's end is waited for some seconds and no longer.
//! Caveat: a call whose answer is lost is made again, so the worker may keep its events twice.
//! Lines of output that wait together travel as one event: the worker pays by the row.

use crate::{
    text,
    transcript::Event,
    voice::{SHORT_CALL, Voice, jittered},
};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

/// Events that may wait.
const WAITING: usize = 1000;

/// Their bytes.
const WAITING_BYTES: usize = 1_000_000;

/// Events of one call.
const BATCH: usize = 100;

/// Their bytes.
const BATCH_BYTES: usize = 200_000;

/// Lines of output are joined up to so many bytes.
const JOINED_BYTES: usize = 16 * 1024;

/// How long the first event of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);

/// The first pause after a failed call; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How long what is left is offered after the attempt's end.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// What waits.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    /// Rings when there is something to do for the one who delivers.
    bell: Notify,
    /// Nothing more will come.
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Events that nobody will be told, since the last time somebody was told so.
    dropped: u64,
}

impl Outbox {
    /// An event is to be told.
    pub fn push(&self, event: Arc<Event>) {
        let mut state = text::lock(&self.state);
        state.bytes += event.bytes;
        state.events.push_back(event);
        while state.events.len() > WAITING || state.bytes > WAITING_BYTES {
            let Some(oldest) = state.events.pop_front() else { break };
            state.bytes -= oldest.bytes;
            state.dropped += 1;
        }
        drop(state);
        self.bell.notify_one();
    }

    /// Nothing more will come.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.bell.notify_one();
    }

    async fn closing(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The next events, and how many were dropped before them; nothing if none wait.
    fn take(&self) -> Option<(Vec<Arc<Event>>, u64)> {
        let mut state = text::lock(&self.state);
        let mut bytes = 0;
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(event) = state.events.front()
            && (batch.is_empty() || bytes + event.bytes <= BATCH_BYTES)
        {
            bytes += event.bytes;
            batch.extend(state.events.pop_front());
        }
        state.bytes -= bytes;
        let dropped = std::mem::take(&mut state.dropped);
        (!batch.is_empty() || dropped > 0).then_some((batch, dropped))
    }

    /// Waits until something waits; false once nothing more will come.
    async fn filled(&self) -> bool {
        loop {
            {
                let state = text::lock(&self.state);
                if !state.events.is_empty() || state.dropped > 0 {
                    return true;
                }
                if *self.closed.borrow() {
                    return false;
                }
            }
            self.bell.notified().await;
        }
    }

    /// Waits, but no longer than until nothing more will come.
    async fn pause(&self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.closing() => {}
        }
    }

    /// Tells the worker until the box is closed and empty, or time is up.
    pub async fn deliver(&self, agent: &str, rig: &str, voice: &Voice) {
        if voice.api.is_none() {
            return;
        }
        let tell = self.tell_all(agent, rig, voice);
        tokio::pin!(tell);
        tokio::select! {
            () = &mut tell => return,
            () = self.closing() => {}
        }
        let _ = timeout_at(Instant::now() + LAST_WORDS, tell).await;
    }

    async fn tell_all(&self, agent: &str, rig: &str, voice: &Voice) {
        let path = voice.rig_path(rig, "agent-events");
        while self.filled().await {
            self.pause(GATHER).await;
            let Some((batch, dropped)) = self.take() else { continue };
            let body = json!({ "events": wire(agent, &batch, dropped) });
            let mut pause = FIRST_PAUSE;
            loop {
                let Err(error) = voice.call(&path, Some(&body), SHORT_CALL).await else { break };
                if !error.may_pass() {
                    crate::journal::note(&format!("{} events of {agent} are lost: {error}", batch.len()));
                    text::lock(&self.state).dropped += dropped + u64::try_from(batch.len()).unwrap_or_default();
                    // Whatever it refuses, it is not asked again at once.
                    self.pause(pause).await;
                    break;
                }
                self.pause(jittered(error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE))).await;
                if *self.closed.borrow() {
                    // The pause ends early then; a worker that is down is still not asked in a loop without one.
                    sleep(FIRST_PAUSE).await;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The events of one call: lines of output that follow each other are one.
fn wire(agent: &str, batch: &[Arc<Event>], dropped: u64) -> Vec<Value> {
    let entry = |name: &str, data: Value, at: &str| json!({ "agent_id": agent, "event_type": name, "data": data, "timestamp": at });
    let mut entries = Vec::new();
    if dropped > 0 {
        entries.push(entry("events.dropped", json!({ "count": dropped }), &text::now()));
    }
    let mut joined: Option<(String, &str)> = None;
    for event in batch {
        let line = event.data.get("text").and_then(Value::as_str).filter(|_| event.name == "output");
        match (&mut joined, line) {
            (Some((lines, _)), Some(line)) if lines.len() + line.len() <= JOINED_BYTES => lines.push_str(line),
            (before, line) => {
                if let Some((lines, at)) = before.take() {
                    entries.push(entry("output", json!({ "text": lines }), at));
                }
                match line {
                    Some(line) => *before = Some((line.to_owned(), &event.timestamp)),
                    None => entries.push(entry(&event.name, event.data.clone(), &event.timestamp)),
                }
            }
        }
    }
    if let Some((lines, at)) = joined {
        entries.push(entry("output", json!({ "text": lines }), at));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::{BATCH, Outbox, WAITING, wire};
    use crate::transcript::{Feed, Transcripts};
    use serde_json::json;
    use std::sync::Arc;

    fn feed() -> Feed {
        Feed::new("a1", Arc::new(Transcripts::default()))
    }

    #[test]
    fn the_oldest_are_dropped_and_the_worker_hears_how_many() {
        let feed = feed();
        for number in 0..WAITING + 7 {
            feed.tell("text", json!({ "text": number.to_string() }));
        }
        let (batch, dropped) = feed.outbox.take().unwrap();
        assert_eq!((batch.len(), dropped), (BATCH, 7));
        assert_eq!(batch[0].data["text"], "7", "the newest survive");
        let entries = wire("a1", &batch, dropped);
        assert_eq!((&entries[0]["event_type"], &entries[0]["data"]["count"]), (&json!("events.dropped"), &json!(7)));
        assert_eq!(feed.outbox.take().unwrap().1, 0, "and is told so once");
    }

    #[test]
    fn lines_of_output_travel_as_one_event() {
        let feed = feed();
        feed.tell("output", json!({ "text": "one\n" }));
        feed.tell("output", json!({ "text": "two\n" }));
        feed.tell("tool", json!({ "tool": "Bash" }));
        feed.tell("output", json!({ "text": "three\n" }));
        let (batch, _) = feed.outbox.take().unwrap();
        let told: Vec<_> = wire("a1", &batch, 0).iter().map(|e| format!("{} {}", e["event_type"], e["data"])).collect();
        let wanted =
            [r#""output" {"text":"one\ntwo\n"}"#, r#""tool" {"tool":"Bash"}"#, r#""output" {"text":"three\n"}"#];
        assert_eq!(told, wanted);
        assert!(Outbox::default().take().is_none());
    }
}
