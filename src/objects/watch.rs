//! Whoever watches a town: the status socket of `protocol.md` 3.5, over sockets that the object may sleep over.
//!
//! A watcher is told how the town stands when it comes, and again after whatever changed it; between two of these come the
//! frames of [`crate::town::frame`]. Nothing is sent that says nothing new, and nothing wakes a town on a watcher's account.
//! While nobody watches, all this costs the question whether somebody does.

use super::{response::response, town_do::TownDO};
use crate::town::json::json;
use crate::{
    edge::envelope::Refusal,
    platform::{alarm, sockets},
    town::{
        command::{Actor, Command},
        effect::Effect,
        policy::{SOCKETS_MAX, SOCKETS_RETRY},
        sql::Sql,
        time::Timestamp,
    },
};
use serde_json::Value as Json;
use std::cell::{Cell, RefCell};
use worker::{Request, Response, Result, State};

/// What watchers were told last. In memory only: an object that was made anew tells them once more.
#[derive(Debug, Default)]
pub struct Shown {
    /// The snapshot, without the alarm: that moves with every heartbeat, which is no news.
    snapshot: RefCell<String>,
    /// Rows written by then.
    written: Cell<u64>,
}

/// Why a client gets no socket, if so: there are too many, or its ticket holds one already.
pub fn refused(state: &State, ticket: &str) -> Option<Refusal> {
    if sockets::open(state) >= SOCKETS_MAX {
        let text = format!("There are {SOCKETS_MAX} sockets open already: close one, or come back later");
        return Some(Refusal::new(429, "too_many_sockets", text).after(SOCKETS_RETRY));
    }
    sockets::holds(state, ticket)
        .then(|| Refusal::unauthorized("ticket_used", "This ticket holds an open socket: ask for another ticket"))
}

/// The id of the ticket that a client came with.
pub fn ticket(req: &Request) -> String {
    req.headers().get(sockets::TICKET_HEADER).ok().flatten().unwrap_or_default()
}

impl TownDO {
    /// A new watcher. Everything after the one await is one synchronous section: nothing can happen between the snapshot
    /// and the first frame.
    pub(super) async fn watch(&self, req: &Request) -> Result<Response> {
        let alarm = alarm::get(&self.storage()).await.ok().flatten();
        let refusal = self.refused().or_else(|| refused(&self.state, &ticket(req)));
        let snapshot = match refusal {
            Some(refusal) => return response(&refusal.answer()),
            None => self.handle(SNAPSHOT, &Actor::System, Command::Snapshot),
        };
        match snapshot {
            Ok(reply) => {
                let (socket, answer) = sockets::accept(&self.state, &ticket(req))?;
                socket.send_with_str(with_alarm(reply.data, alarm).to_string())?;
                Ok(answer)
            }
            Err(e) => response(&self.failure(SNAPSHOT, e)),
        }
    }

    /// True if anybody watches.
    pub(super) fn watched(&self) -> bool {
        sockets::open(&self.state) > 0
    }

    /// Says what is only to be said: a data point, a frame. False for effects that want something done.
    pub(super) fn say(&self, effect: &Effect) -> bool {
        match effect {
            Effect::Emit(point) => self.performer.emit(&self.town_id(), point),
            Effect::Broadcast(frame) => sockets::send_all(&self.state, &frame.to_string()),
            Effect::StartAgent(_)
            | Effect::StopAgent(_)
            | Effect::MessageAgent(_)
            | Effect::ObserveAgents(_)
            | Effect::ProbeContainer { .. }
            | Effect::TellContainer { .. }
            | Effect::PostWebhook(_)
            | Effect::CallForge(_)
            | Effect::EraseAgent(_)
            | Effect::ReportToFleet(_) => return false,
        }
        true
    }

    /// Tells watchers how the town stands, if that has changed. `alarm`: when the town will wake.
    pub(super) fn show(&self, alarm: Option<Timestamp>) {
        let written = self.sql.usage().rows_written;
        if self.shown.written.replace(written) == written || !self.watched() {
            return;
        }
        // What fails here has failed in the log; the next change tries again.
        let Ok(reply) = self.handle(SNAPSHOT, &Actor::System, Command::Snapshot) else { return };
        let text = reply.data.to_string();
        if *self.shown.snapshot.borrow() != text {
            sockets::send_all(&self.state, &with_alarm(reply.data, alarm).to_string());
            self.shown.snapshot.replace(text);
        }
    }
}

const SNAPSHOT: &str = "snapshot";

/// The object's part of a snapshot (`protocol.md` 2.12). There is no interval: a town is woken by its deadlines.
pub fn with_alarm(mut snapshot: Json, alarm: Option<Timestamp>) -> Json {
    if let Some(map) = snapshot.as_object_mut() {
        let next = json!({ "nextFireAt": alarm, "intervalMs": 0, "intervalLabel": "on demand" });
        map.insert("alarm".to_owned(), next);
    }
    snapshot
}
