//! The body of `POST agent-events`: one event as the predecessor sends it, `{agent_id, event_type, data}`, or a batch of one
//! agent, `{agent_id?, events: [{agent_id?, event_type, data}]}`.

use super::parts::{Parts, valid};
use crate::town::{
    error::TownError,
    policy::{SETTING_BYTES, TRANSCRIPT_BATCH},
};

/// Events to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Whose they are.
    pub agent: String,
    /// At least one, in the order in which they happened.
    pub events: Vec<Event<'a>>,
}

/// One event, as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its type: whatever the runtime calls it.
    pub kind: String,
    /// Its data: any JSON.
    pub data: &'a str,
}

/// What one object of the body says. Of a key that stands twice the last value counts, as everywhere.
#[derive(Default)]
struct Said<'a> {
    agent: Option<&'a str>,
    kind: Option<&'a str>,
    data: Option<&'a str>,
    events: Option<&'a str>,
}

impl<'a> Said<'a> {
    fn of(object: &'a str) -> Self {
        let mut said = Self::default();
        for (key, value) in Parts::of(object) {
            let value = Some(value).filter(|v| *v != "null");
            // A key may be written with escapes.
            match serde_json::from_str::<String>(key).unwrap_or_default().as_str() {
                "agent_id" => said.agent = value,
                "event_type" => said.kind = value,
                "data" => said.data = value,
                "events" => said.events = value,
                _ => {}
            }
        }
        said
    }
}

fn wrong(at: &str, key: &str, what: &str) -> TownError {
    TownError::malformed(format!("{at}{key} {what}"))
}

/// A text that is not empty.
fn text(at: &str, key: &str, value: Option<&str>) -> Result<String, TownError> {
    value
        .and_then(|v| serde_json::from_str::<String>(v).ok())
        .filter(|t| !t.is_empty())
        .ok_or_else(|| wrong(at, key, "must be a string and not empty"))
}

/// Reads a body, or says the first thing that is wrong with it.
pub fn read(body: &str) -> Result<Batch<'_>, TownError> {
    if !valid(body) {
        return Err(TownError::malformed("the body is not valid JSON"));
    }
    let said = Said::of(body);
    let Some(list) = said.events else {
        let agent = text("", "agent_id", said.agent)?;
        return Ok(Batch { agent, events: vec![event("", &said)?] });
    };
    if !list.starts_with('[') {
        return Err(wrong("", "events", "must be an array of events"));
    }
    let mut agent = said.agent.map(|a| text("", "agent_id", Some(a))).transpose()?;
    let mut events = Vec::new();
    for (n, (_, object)) in Parts::of(list).enumerate() {
        if n >= TRANSCRIPT_BATCH {
            return Err(TownError::invalid("events", format!("at most {TRANSCRIPT_BATCH} events in one batch")));
        }
        let (at, said) = (format!("events.{n}."), Said::of(object));
        events.push(event(&at, &said)?);
        let Some(named) = said.agent else { continue };
        let named = text(&at, "agent_id", Some(named))?;
        if *agent.get_or_insert_with(|| named.clone()) != named {
            return Err(TownError::invalid(&format!("{at}agent_id"), "a batch holds the events of one agent"));
        }
    }
    if events.is_empty() {
        return Err(wrong("", "events", "must not be empty"));
    }
    Ok(Batch { agent: agent.ok_or_else(|| wrong("", "agent_id", "must be a string and not empty"))?, events })
}

fn event<'a>(at: &str, said: &Said<'a>) -> Result<Event<'a>, TownError> {
    let kind = text(at, "event_type", said.kind)?;
    if kind.len() > SETTING_BYTES {
        let text = format!("event_type has {} bytes; at most {SETTING_BYTES} are kept", kind.len());
        return Err(TownError::invalid(&format!("{at}event_type"), text));
    }
    Ok(Event { kind, data: said.data.unwrap_or("{}") })
}
