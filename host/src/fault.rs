//! Everything that can happen to a call on its way to the container and back.
//!
//! What counts is which side of the deed a fault is on: *before* means the container never did what it was asked,
//! *after* means that it did and the caller does not know. The caller cannot tell them apart, and must not need to.

use gastown::town::time::{Millis, Timestamp};
use std::collections::{BTreeMap, VecDeque};

/// The calls of the control API that the simulated container knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// `POST /agents/start`.
    Start,
    /// `GET /agents/:id/status`.
    Status,
    /// `POST /agents/:id/stop`.
    Stop,
    /// `POST /agents/:id/message`.
    Message,
    /// `GET /health`.
    Health,
    /// `POST /refresh-token`, `POST /sync-config`.
    Tell,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Start, Self::Status, Self::Stop, Self::Message, Self::Health, Self::Tell];
}

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody listens.
    Refuse,
    /// The connection is lost before the container did anything.
    DropBefore,
    /// The connection is lost after the container did it.
    DropAfter,
    /// No answer ever, and nothing was done.
    HangBefore,
    /// No answer ever, but it was done.
    HangAfter,
    /// This answer, and nothing was done.
    Answer(Said),
    /// It was done, and this answer nevertheless.
    AnswerAfter(Said),
    /// Done at once, answered truthfully, but only after so long.
    Slow(Millis),
}

/// An HTTP answer as a fault scripts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// `Retry-After`.
    pub retry_after: Option<Millis>,
}

impl Fault {
    /// Answers with this status and body, and does nothing.
    #[must_use]
    pub fn answer(status: u16, body: impl Into<String>) -> Self {
        Self::Answer(Said { status, body: body.into(), retry_after: None })
    }
    /// The same with `Retry-After`.
    #[must_use]
    pub fn retry_after(status: u16, body: impl Into<String>, retry_after: Millis) -> Self {
        Self::Answer(Said { status, body: body.into(), retry_after: Some(retry_after) })
    }
    /// Does it, then answers this.
    #[must_use]
    pub fn answer_after(status: u16, body: impl Into<String>) -> Self {
        Self::AnswerAfter(Said { status, body: body.into(), retry_after: None })
    }
}

/// Decides per call: time, endpoint, path, body → what goes wrong, if anything.
pub type FaultScript = Box<dyn FnMut(Timestamp, Endpoint, &str, &str) -> Option<Fault>>;

/// Which faults stand. A script is asked first, then what was queued for one call, then what stands until cleared.
#[derive(Default)]
pub struct Faults {
    standing: BTreeMap<Endpoint, Fault>,
    queued: BTreeMap<Endpoint, VecDeque<Fault>>,
    script: Option<FaultScript>,
}

impl Faults {
    /// Every call to this endpoint fails like this until cleared.
    pub fn set(&mut self, endpoint: Endpoint, fault: Fault) {
        self.standing.insert(endpoint, fault);
    }
    /// Every call to any endpoint fails like this until cleared.
    pub fn set_all(&mut self, fault: &Fault) {
        for endpoint in Endpoint::ALL {
            self.set(endpoint, fault.clone());
        }
    }
    /// The next call to this endpoint that has no older one queued fails like this.
    pub fn once(&mut self, endpoint: Endpoint, fault: Fault) {
        self.queued.entry(endpoint).or_default().push_back(fault);
    }
    /// Asks `script` about every call.
    pub fn script(&mut self, script: impl FnMut(Timestamp, Endpoint, &str, &str) -> Option<Fault> + 'static) {
        self.script = Some(Box::new(script));
    }
    /// This endpoint works again.
    pub fn clear(&mut self, endpoint: Endpoint) {
        self.standing.remove(&endpoint);
        self.queued.remove(&endpoint);
    }
    /// Everything works again.
    pub fn clear_all(&mut self) {
        *self = Self::default();
    }
    pub(crate) fn next(&mut self, now: Timestamp, endpoint: Endpoint, path: &str, body: &str) -> Option<Fault> {
        self.script
            .as_mut()
            .and_then(|script| script(now, endpoint, path, body))
            .or_else(|| self.queued.get_mut(&endpoint).and_then(VecDeque::pop_front))
            .or_else(|| self.standing.get(&endpoint).cloned())
    }
}

/// What became of a call, as seen from the other side. `after` counts from the call's arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SimAnswer {
    /// An HTTP answer leaves after so long.
    Http {
        /// How long it takes.
        after: Millis,
        /// What it says.
        said: Said,
    },
    /// The connection is refused or lost after so long.
    Lost {
        /// How long it takes.
        after: Millis,
        /// The platform's words.
        detail: String,
    },
    /// Nothing ever comes back.
    Never,
}

impl SimAnswer {
    /// An HTTP answer.
    #[must_use]
    pub fn http(after: Millis, status: u16, body: impl Into<String>) -> Self {
        Self::Http { after, said: Said { status, body: body.into(), retry_after: None } }
    }
    /// A lost connection, in workerd's words.
    #[must_use]
    pub fn lost(after: Millis) -> Self {
        Self::Lost { after, detail: "Network connection lost.".to_owned() }
    }
}

/// Puts a fault around a deed: decides whether it is done, and what the caller learns.
pub(crate) fn through(fault: Option<Fault>, latency: Millis, deed: impl FnOnce() -> SimAnswer) -> SimAnswer {
    match fault {
        None => deed(),
        Some(Fault::Refuse) => SimAnswer::lost(0),
        Some(Fault::DropBefore) => SimAnswer::lost(latency),
        Some(Fault::HangBefore) => SimAnswer::Never,
        Some(Fault::Answer(said)) => SimAnswer::Http { after: latency, said },
        Some(Fault::DropAfter) => {
            deed();
            SimAnswer::lost(latency)
        }
        Some(Fault::HangAfter) => {
            deed();
            SimAnswer::Never
        }
        Some(Fault::AnswerAfter(said)) => {
            deed();
            SimAnswer::Http { after: latency, said }
        }
        Some(Fault::Slow(ms)) => match deed() {
            SimAnswer::Http { said, .. } => SimAnswer::Http { after: ms, said },
            other => other,
        },
    }
}
