//! `gt watch`: what happens in a town, as it happens; or one bead, until it is final.
//!
//! The status socket tells it at once. Where it is not to be had, the town is asked every two seconds: its dispatch, and
//! the events since the last one seen. A bead's end is always read from `explain`: frames only say when to look.

use crate::{
    caller::{Caller, Who},
    client::{Call, segment, sleep},
    dispatch::{dispatch, explain},
    failure::{Failure, OK, REFUSED},
    output::{harmless, items, line, note, short, time, word},
    resolve,
    socket::{Came, Socket},
};
use clap::Args;
use serde_json::Value as Json;
use std::{collections::VecDeque, process::ExitCode, time::Duration};

/// How many rounds in a row may find nobody before the watch ends.
const PATIENT: u32 = 10;
/// How many events are asked for at once: the most that the server gives.
const EVENTS: u32 = 500;
/// How many events are remembered, so that none is told twice.
const REMEMBERED: usize = 1_000;

/// `gt watch`
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only this bead, until it is closed (exit code 0) or failed (exit code 1)
    #[arg(long)]
    bead: Option<String>,
    /// Ask again and again instead of using the status socket
    #[arg(long)]
    poll: bool,
    /// How often is asked, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    interval: f64,
}

/// At least a tenth of a second, at most an hour: what a `Duration` and a server can bear.
fn seconds(given: &str) -> Result<f64, String> {
    let seconds: f64 = given.parse().map_err(|_| "give a number of seconds".to_owned())?;
    if (0.1..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err("between 0.1 and 3600".to_owned()) }
}

/// A watch under way.
struct Watch<'a> {
    caller: &'a Caller,
    bead: Option<String>,
    json: bool,
    /// The last thing that was said about the bead or the town, so that it is said once.
    said: String,
}

impl WatchArgs {
    /// Runs it, until the bead is final or somebody ends it.
    pub fn run(&self, caller: &Caller, json: bool) -> Result<ExitCode, Failure> {
        let bead = self.bead.as_deref().map(|given| resolve::bead(caller, given)).transpose()?;
        let mut watch = Watch { caller, bead, json, said: String::new() };
        if let Some(code) = watch.look()? {
            return Ok(code);
        }
        if !self.poll
            && let Some(code) = watch.listen()?
        {
            return Ok(code);
        }
        watch.ask(Duration::from_secs_f64(self.interval))
    }
}

impl Watch<'_> {
    /// Listens at the socket for as long as it can be had. `None`: it cannot be, or no longer.
    fn listen(&mut self) -> Result<Option<ExitCode>, Failure> {
        loop {
            let mut socket = match Socket::open(self.caller) {
                Ok(socket) => socket,
                Err(error) => {
                    note(&format!("gt: no status socket ({error}): asking instead"));
                    return Ok(None);
                }
            };
            // Between the first look and the opening something may have happened.
            if let Some(code) = self.look()? {
                return Ok(Some(code));
            }
            let mut heard = false;
            loop {
                match socket.next() {
                    Came::Frame(frame) => {
                        heard = true;
                        if self.concerns(&frame) {
                            self.tell(&frame, &frame_text(&frame));
                        }
                    }
                    Came::Silence => {}
                    Came::Closed => break,
                }
                if let Some(code) = self.look()? {
                    return Ok(Some(code));
                }
            }
            // A socket that never said anything would be opened for ever.
            if !heard {
                return Ok(None);
            }
        }
    }

    /// Asks again and again.
    fn ask(&mut self, interval: Duration) -> Result<ExitCode, Failure> {
        let mut events = Events::default();
        let mut lost = 0;
        loop {
            match self.round(&mut events) {
                Ok(Some(code)) => return Ok(code),
                Ok(None) => lost = 0,
                Err(failure @ Failure::Unreachable { .. }) if lost < PATIENT && events.known => {
                    lost += 1;
                    note(&format!("gt: {failure}"));
                }
                Err(failure) => return Err(failure),
            }
            sleep(interval);
        }
    }

    fn round(&mut self, events: &mut Events) -> Result<Option<ExitCode>, Failure> {
        if self.bead.is_none() {
            let state = dispatch(self.caller)?;
            let text = state_text(&state);
            if text != self.said {
                self.tell(&state, &text);
                self.said = text;
            }
        }
        for event in events.fresh(self.caller)? {
            if self.bead.as_ref().is_none_or(|bead| word(&event, "bead_id") == *bead) {
                self.tell(&event, &event_text(&event));
            }
        }
        self.look()
    }

    /// The bead's state, said when it changed; an exit code once it is final.
    fn look(&mut self) -> Result<Option<ExitCode>, Failure> {
        let Some(bead) = &self.bead else { return Ok(None) };
        let state = explain(self.caller, bead)?;
        let text = format!("{}  {}", word(&state, "verdict"), word(&state, "summary"));
        let code = match word(&state, "status").as_str() {
            "closed" => Some(ExitCode::from(OK)),
            "failed" => Some(ExitCode::from(REFUSED)),
            _ => None,
        };
        // Programs read the events, and how it ended.
        if text != self.said && (!self.json || code.is_some()) {
            self.tell(&state, &text);
            self.said = text;
        }
        Ok(code)
    }

    fn concerns(&self, frame: &Json) -> bool {
        self.bead.as_ref().is_none_or(|bead| word(frame, "beadId") == *bead)
    }

    fn tell(&self, data: &Json, text: &str) {
        if self.json {
            line(&data.to_string());
        } else if !text.is_empty() {
            line(&harmless(text));
        }
    }
}

/// The events told so far. Their times are texts that compare like times; `since` takes what is strictly later, so the
/// last moment is asked for again, and what was told of it is told from memory.
#[derive(Default)]
struct Events {
    known: bool,
    seen: VecDeque<String>,
    /// The newest moment, and the one before it.
    newest: String,
    before: Option<String>,
}

impl Events {
    /// What happened since the last time, oldest first. The first time: nothing, it only remembers.
    fn fresh(&mut self, caller: &Caller) -> Result<Vec<Json>, Failure> {
        let path = match caller.who {
            Who::Person { .. } => caller.user_path(&format!("towns/{}/events", segment(&caller.town()?)))?,
            Who::Agent { .. } => caller.rig_path("events")?,
        };
        let list = caller.call(&Call::get(path).with("since", self.before.as_ref()).with("limit", Some(EVENTS)))?;
        let mut fresh: Vec<Json> = items(&list, "")
            .into_iter()
            .filter(|event| !self.seen.contains(&word(event, "bead_event_id")))
            .cloned()
            .collect();
        fresh.reverse();
        for event in &fresh {
            let at = word(event, "created_at");
            if at > self.newest {
                let before = std::mem::replace(&mut self.newest, at);
                self.before = Some(before).filter(|before| !before.is_empty());
            }
            self.seen.push_back(word(event, "bead_event_id"));
        }
        let forgotten = self.seen.len().saturating_sub(REMEMBERED);
        self.seen.drain(..forgotten);
        Ok(if std::mem::replace(&mut self.known, true) { fresh } else { Vec::new() })
    }
}

/// The town in a line.
fn state_text(state: &Json) -> String {
    let breakers: Vec<String> = items(state, "breakers")
        .iter()
        .filter(|b| word(b, "effective") != "closed")
        .map(|b| format!("; breaker {} {}", word(b, "scope"), word(b, "effective")))
        .collect();
    let hold = if state.get("hold").is_none_or(Json::is_null) { "" } else { "; the town holds" };
    let draining = if state.get("draining") == Some(&Json::Bool(true)) { "; draining" } else { "" };
    let numbers = format!("{} ready, {} running", word(state, "ready"), word(state, "running"));
    format!("town  {numbers}{}{hold}{draining}", breakers.concat())
}

fn event_text(event: &Json) -> String {
    let change = match (word(event, "old_value").as_str(), word(event, "new_value").as_str()) {
        ("-", "-") => String::new(),
        ("-", new) => new.to_owned(),
        (old, "-") => format!("was {old}"),
        (old, new) => format!("{old} -> {new}"),
    };
    let about = word(event, "metadata/title").replace('-', "");
    let text = format!(
        "{}  {}  {}  {change} {about}",
        time(event, "created_at"),
        short(event, "bead_id"),
        word(event, "event_type")
    );
    text.trim_end().to_owned()
}

/// A frame in a line.
fn frame_text(frame: &Json) -> String {
    match (word(frame, "channel").as_str(), word(frame, "type").as_str()) {
        ("bead", kind) => {
            let (bead, status) = (short(frame, "beadId"), word(frame, "status"));
            format!("{}  {bead}  {kind}  {status}  {}", time(frame, "ts"), word(frame, "title")).replace("  -", "")
        }
        ("convoy", _) => {
            let progress = format!("{}/{}", word(frame, "closedBeads"), word(frame, "totalBeads"));
            format!("{}  {}  convoy  {progress} closed", time(frame, "ts"), short(frame, "convoyId"))
        }
        ("ui_action", _) => String::new(),
        (_, "agent_status") => {
            format!("{}  {}  says  {}", time(frame, "timestamp"), short(frame, "agentId"), word(frame, "message"))
        }
        _ if frame.get("beads").is_some() => {
            let count = |path: &str| word(frame, path);
            format!(
                "town  {} open, {} in progress, {} in review, {} failed; {} agents working",
                count("beads/open"),
                count("beads/inProgress"),
                count("beads/inReview"),
                count("beads/failed"),
                count("agents/working")
            )
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_of_frame_has_a_line() {
        let bead = json!({"channel": "bead", "type": "bead.closed", "beadId": "0b5e1f2a-1", "status": "closed",
                          "ts": "2026-01-02T03:04:05.000Z"});
        assert_eq!(frame_text(&bead), "2026-01-02 03:04:05  0b5e1f2a  bead.closed  closed");
        let convoy =
            json!({"channel": "convoy", "convoyId": "0b5e1f2a-1", "totalBeads": 5, "closedBeads": 2, "ts": "x"});
        assert_eq!(frame_text(&convoy), "x  0b5e1f2a  convoy  2/5 closed");
        let says = json!({"type": "agent_status", "agentId": "0b5e1f2a-1", "message": "reading", "timestamp": "x"});
        assert_eq!(frame_text(&says), "x  0b5e1f2a  says  reading");
        let town = json!({"beads": {"open": 1, "inProgress": 2, "inReview": 3, "failed": 4}, "agents": {"working": 5}});
        assert_eq!(frame_text(&town), "town  1 open, 2 in progress, 3 in review, 4 failed; 5 agents working");
    }

    #[test]
    fn an_interval_is_neither_a_hammer_nor_for_ever() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for odd in ["0", "-1", "NaN", "inf", "1e9", "x"] {
            assert!(seconds(odd).is_err(), "{odd}");
        }
    }
}
