//! Tickets for event sockets: a browser cannot send a token with a socket, so it brings a ticket that it asked for before.
//!
//! The container's network is private: a socket without a ticket is served. One that brings a ticket brings a valid one.

use crate::text;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

/// How long a ticket is good for (protocol 4.3).
const GOOD_FOR: Duration = Duration::from_mins(1);

/// How many tickets are good at a time; beyond it the oldest are not.
const GOOD: usize = 1000;

/// The tickets that were issued.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<HashMap<String, (String, Instant)>>);

impl Tickets {
    /// A ticket for this agent's events; the agent need not exist.
    #[must_use]
    pub fn issue(&self, agent: &str) -> Value {
        let ticket = uuid::Uuid::new_v4().to_string();
        let mut tickets = text::lock(&self.0);
        tickets.retain(|_, (_, issued)| issued.elapsed() < GOOD_FOR);
        if tickets.len() >= GOOD
            && let Some(oldest) =
                tickets.iter().min_by_key(|(_, (_, issued))| *issued).map(|(ticket, _)| ticket.clone())
        {
            tickets.remove(&oldest);
        }
        tickets.insert(ticket.clone(), (agent.to_owned(), Instant::now()));
        let end = chrono::Utc::now() + chrono::TimeDelta::seconds(60);
        json!({ "ticket": ticket, "expiresAt": end.to_rfc3339_opts(chrono::SecondsFormat::Millis, true) })
    }

    /// Whether the ticket is good for this agent's events. It is used up by asking.
    #[must_use]
    pub fn admits(&self, ticket: &str, agent: Option<&str>) -> bool {
        let found = text::lock(&self.0).remove(ticket);
        found.is_some_and(|(owner, issued)| issued.elapsed() < GOOD_FOR && Some(owner.as_str()) == agent)
    }
}

#[cfg(test)]
mod tests {
    use super::Tickets;

    #[test]
    fn a_ticket_admits_its_own_agent_once() {
        let tickets = Tickets::default();
        let issued = |agent| tickets.issue(agent)["ticket"].as_str().unwrap().to_owned();
        let ticket = issued("a1");
        assert!(tickets.admits(&ticket, Some("a1")) && !tickets.admits(&ticket, Some("a1")));
        assert!(!tickets.admits(&issued("a1"), Some("a2")) && !tickets.admits(&issued("a1"), None));
    }
}
