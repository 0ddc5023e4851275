//! The life of one town's container: a pure state machine. It is told what happened and what time it is, and says what to
//! do and when to be woken; `objects/container_do` does it.
//!
//! ```text
//!             wanted                 /health answers
//!   Stopped ──────────▶ Starting ──────────────────▶ Ready
//!      ▲                   │  no answer in time         │  nobody needs it        ended
//!      │                   ├────────────────────────────┤────────────▶ Stopping ────────▶ Stopped
//!      │  seldom           ▼                            ▼
//!      └──────────────── fallen: crashed, hung, or never ready ──── too often ──▶ Down ── in time ──▶ Stopped
//! ```
//!
//! # Guarantees
//! * It starts only for somebody who wants it. A fall starts nothing by itself: the town dispatches again through its gate.
//! * At most [`CONTAINER_FALLS`] falls in [`CONTAINER_FALLS_WINDOW`]; then it stays down until the oldest has passed out of
//!   the window, and says so.
//! * It is stopped only if the town has said, and said last, that it needs it not, for as long as the town lets it idle.
//! * A stopped or fallen container has no wake-up.
//!
//! # Assumptions
//! Who holds it saves it after each step, before acting: an object that dies then knows no less than what it did.

mod row;

pub use row::{MIGRATIONS, load, save};

use crate::town::{
    policy::{
        CONTAINER_ASK_EVERY, CONTAINER_BOOT_LIMIT, CONTAINER_FALLS, CONTAINER_FALLS_WINDOW, CONTAINER_MISSES,
        CONTAINER_READY_EVERY, CONTAINER_STOP_GRACE, CONTAINER_WATCH_EVERY,
    },
    time::{Millis, Timestamp, in_words},
};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs, and it may be started.
    Stopped,
    /// The process was started and has not answered yet.
    Starting,
    /// It answers.
    Ready,
    /// It was asked to end.
    Stopping,
    /// Nothing runs, and it has fallen too often to be started again so soon.
    Down,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody needs it, and may start it.
    Wanted,
    /// Somebody used it.
    Used,
    /// Time has passed.
    Time,
    /// `/health` was asked: which instance answered, or why none did.
    Health(Result<Option<String>, String>),
    /// The town was asked whether it needs it, and how long it may idle.
    Town {
        /// It does.
        busy: bool,
        /// How long it may idle.
        sleep_after: Millis,
    },
    /// The process has ended; `code` is unknown if nobody was watching.
    Exited {
        /// Its exit code.
        code: Option<i32>,
        /// The platform's words.
        reason: String,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Start the process.
    Start,
    /// Ask `/health`.
    Check,
    /// Ask the town whether it needs it.
    Ask,
    /// SIGTERM.
    Terminate,
    /// End it by force.
    Destroy,
    /// Tell the town that this instance has ended.
    Report {
        /// Which; unknown if it never answered.
        instance: Option<String>,
        /// Its exit code, if one is known.
        code: Option<i32>,
        /// Why, in words.
        reason: String,
    },
}

/// The container as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// How far it is.
    pub phase: Phase,
    /// Since when.
    since: Timestamp,
    /// Who answers, as its `/health` tells.
    instance: Option<String>,
    /// Its health is asked next.
    check_at: Timestamp,
    /// Checks in a row without an answer.
    misses: u32,
    /// The town is asked next.
    ask_at: Timestamp,
    /// It was last known to be needed.
    needed_at: Timestamp,
    /// The falls of the window, oldest first.
    falls: Vec<Timestamp>,
    /// How it ended last.
    ended: String,
}

impl Machine {
    /// Nothing has ever run.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            phase: Phase::Stopped,
            since: now,
            instance: None,
            check_at: now,
            misses: 0,
            ask_at: now,
            needed_at: now,
            falls: Vec::new(),
            ended: String::new(),
        }
    }

    /// Takes what happened and says what to do, in this order.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Act> {
        match (self.phase, event) {
            (Phase::Stopped, Event::Wanted) => self.start(now),
            (Phase::Down, Event::Wanted) => {
                self.forget_falls(now);
                if self.falls.len() < CONTAINER_FALLS { self.start(now) } else { Vec::new() }
            }
            (Phase::Ready, Event::Wanted | Event::Used) => {
                self.needed_at = now;
                Vec::new()
            }
            (Phase::Starting, Event::Health(Ok(instance))) => {
                self.phase = Phase::Ready;
                self.since = now;
                self.instance = instance;
                self.misses = 0;
                self.check_at = now.plus(CONTAINER_WATCH_EVERY);
                self.needed_at = now;
                self.ask_at = now.plus(CONTAINER_ASK_EVERY);
                Vec::new()
            }
            (Phase::Ready, Event::Health(Ok(instance))) => {
                self.misses = 0;
                self.instance = instance.or_else(|| self.instance.take());
                Vec::new()
            }
            (Phase::Ready, Event::Health(Err(why))) => {
                self.misses = self.misses.saturating_add(1);
                if self.misses < CONTAINER_MISSES {
                    return Vec::new();
                }
                self.fell(format!("it did not answer {CONTAINER_MISSES} health checks in a row: {why}"), now)
            }
            (Phase::Starting, Event::Health(Err(why))) if now.since(self.since) >= CONTAINER_BOOT_LIMIT => {
                self.fell(format!("it was not ready {} after its start: {why}", in_words(CONTAINER_BOOT_LIMIT)), now)
            }
            (Phase::Ready, Event::Town { busy: true, .. }) => {
                self.needed_at = now;
                self.ask_at = now.plus(CONTAINER_ASK_EVERY);
                Vec::new()
            }
            (Phase::Ready, Event::Town { busy: false, sleep_after }) => {
                let ends = self.needed_at.plus(sleep_after);
                if ends <= now {
                    self.phase = Phase::Stopping;
                    self.since = now;
                    return vec![Act::Terminate];
                }
                self.ask_at = ends.min(now.plus(CONTAINER_ASK_EVERY));
                Vec::new()
            }
            (Phase::Starting | Phase::Ready | Phase::Stopping, Event::Time) => self.due(now),
            (Phase::Starting | Phase::Ready, Event::Exited { code, reason }) => self.exited(code, reason, now),
            (Phase::Stopping, Event::Exited { code, reason }) => {
                self.ended.clone_from(&reason);
                vec![self.end(Phase::Stopped, code, reason, now)]
            }
            // Nobody needs to be told that what does not run has ended, and what is ending is neither used nor checked.
            (
                Phase::Stopped | Phase::Down,
                Event::Used | Event::Time | Event::Health(_) | Event::Town { .. } | Event::Exited { .. },
            )
            | (Phase::Starting, Event::Wanted | Event::Used | Event::Health(Err(_)) | Event::Town { .. })
            | (Phase::Stopping, Event::Wanted | Event::Used | Event::Health(_) | Event::Town { .. }) => Vec::new(),
        }
    }

    /// When time itself has something to say; none if nothing runs.
    #[must_use]
    pub fn wake(&self) -> Option<Timestamp> {
        match self.phase {
            Phase::Stopped | Phase::Down => None,
            Phase::Starting => Some(self.check_at),
            Phase::Ready => Some(self.check_at.min(self.ask_at)),
            Phase::Stopping => Some(self.since.plus(CONTAINER_STOP_GRACE)),
        }
    }

    /// True if what must outlive the object has changed since it was like `before`. Due times need not: one that is lost is
    /// due at once.
    #[must_use]
    pub fn is_news_to(&self, before: &Self) -> bool {
        (self.phase, self.since, self.misses, self.ask_at) != (before.phase, before.since, before.misses, before.ask_at)
            || self.instance != before.instance
            || self.falls != before.falls
    }

    /// True if the platform should have a process.
    #[must_use]
    pub const fn runs(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Ready | Phase::Stopping)
    }

    /// Why it answers nothing, in words for an operator.
    #[must_use]
    pub fn says(&self) -> String {
        let last =
            if self.ended.is_empty() { String::new() } else { format!("; it ended last because {}", self.ended) };
        match self.phase {
            Phase::Stopped => format!("the container is not running{last}"),
            Phase::Starting | Phase::Ready => "the container is not ready".to_owned(),
            Phase::Stopping => "the container is stopping, because the town did not need it".to_owned(),
            Phase::Down => format!(
                "the container fell {} times within {} and stays down for now{last}",
                self.falls.len(),
                in_words(CONTAINER_FALLS_WINDOW)
            ),
        }
    }

    fn start(&mut self, now: Timestamp) -> Vec<Act> {
        self.phase = Phase::Starting;
        self.since = now;
        self.instance = None;
        self.misses = 0;
        self.check_at = now.plus(CONTAINER_READY_EVERY);
        vec![Act::Start]
    }

    /// What the time has come for. The due time moves first, so that nothing is asked twice at once.
    fn due(&mut self, now: Timestamp) -> Vec<Act> {
        let mut acts = Vec::new();
        let every = match self.phase {
            Phase::Starting => CONTAINER_READY_EVERY,
            Phase::Ready => CONTAINER_WATCH_EVERY,
            Phase::Stopping => {
                if self.since.plus(CONTAINER_STOP_GRACE) <= now {
                    self.since = now;
                    acts.push(Act::Destroy);
                }
                return acts;
            }
            Phase::Stopped | Phase::Down => return acts,
        };
        if self.check_at <= now {
            self.check_at = now.plus(every);
            acts.push(Act::Check);
        }
        if self.phase == Phase::Ready && self.ask_at <= now {
            self.ask_at = now.plus(CONTAINER_ASK_EVERY);
            acts.push(Act::Ask);
        }
        acts
    }

    /// It ended, and nobody here had asked it to. A good end is the platform's doing: it sent SIGTERM.
    fn exited(&mut self, code: Option<i32>, reason: String, now: Timestamp) -> Vec<Act> {
        if self.phase == Phase::Ready && code == Some(0) {
            self.ended.clone_from(&reason);
            return vec![self.end(Phase::Stopped, code, reason, now)];
        }
        let reason = match code {
            Some(code) => format!("it exited with code {code}: {reason}"),
            None => reason,
        };
        self.fall(code, reason, now)
    }

    /// It runs and is of no use.
    fn fell(&mut self, why: String, now: Timestamp) -> Vec<Act> {
        let mut acts = vec![Act::Destroy];
        acts.extend(self.fall(None, why, now));
        acts
    }

    fn fall(&mut self, code: Option<i32>, reason: String, now: Timestamp) -> Vec<Act> {
        self.forget_falls(now);
        self.falls.push(now);
        let phase = if self.falls.len() < CONTAINER_FALLS { Phase::Stopped } else { Phase::Down };
        self.ended.clone_from(&reason);
        vec![self.end(phase, code, reason, now)]
    }

    fn end(&mut self, phase: Phase, code: Option<i32>, reason: String, now: Timestamp) -> Act {
        self.phase = phase;
        self.since = now;
        Act::Report { instance: self.instance.take(), code, reason }
    }

    fn forget_falls(&mut self, now: Timestamp) {
        self.falls.retain(|at| now.since(*at) < CONTAINER_FALLS_WINDOW);
    }
}
