//! The circuit breaker of one scope, as a pure function: `step(breaker, event, now) → changes`.
//!
//! It holds no SQL and reads no clock, so what ships is what is model-checked. States are *closed*, *open* and
//! *half-open*; an **episode** begins when a closed breaker opens and ends when its closing has been announced.
//! `generation` counts episodes. Only the attempt named in the trial can decide a half-open breaker.
//!
//! ```text
//!            Tripped                 HealthOk                TrialBooked
//!  closed ────────────▶ open ───────────────▶ half-open (permit) ─────▶ half-open (trial)
//!     ▲                  ▲  ◀── NoCandidate ────┘  ▲                       │   │
//!     │                  │                         └── inconclusive (< 3) ─┤   │
//!     │                  └──────── failed, or inconclusive 3 times ────────┘   │
//!     └───────────── succeeded, or proven and running longer than failures do ─┘
//! ```

use super::super::id::{AttemptId, BeadId, RigId};
use super::super::policy::{
    CLOSED_ANNOUNCE, INSTANCE_PROBES_PER_HOUR, PROBE_TRIAL_CAP, PROBES_PER_TRIAL, REOPEN_WINDOW,
};
use super::super::time::{HOUR, Millis, Timestamp};

/// The automatic state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Dispatch as ever.
    Closed,
    /// Every dispatch in scope is held.
    Open,
    /// One trial may run, or runs.
    HalfOpen,
}

impl State {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
    /// Reads a state.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Closed, Self::Open, Self::HalfOpen].into_iter().find(|s| s.as_str() == text)
    }
}

/// What a person has ordered; it masks the automatic state, which goes on being computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Hold everything, probes too.
    ForcedOpen,
    /// Hold nothing.
    ForcedClosed,
    /// Hold nothing, but count and report.
    Shadow,
}

impl Mode {
    /// As stored and as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::Shadow => "shadow",
        }
    }
    /// Reads a mode (not `auto`, which is the absence of one).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::ForcedOpen, Self::ForcedClosed, Self::Shadow].into_iter().find(|m| m.as_str() == text)
    }
}

/// An override in force. Its expiry is mandatory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Override {
    /// What is ordered.
    pub mode: Mode,
    /// By whom.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Until when.
    pub until: Timestamp,
}

/// The one attempt that may decide a half-open breaker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Trial {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its bead; none for a mayor.
    pub bead: Option<BeadId>,
    /// When it was booked: its run is measured from here.
    pub booked_at: Timestamp,
    /// It gave a first sign of life.
    pub proven: bool,
    /// The lease it was booked with; the attempt's own lease rules afterwards.
    pub lease_until: Timestamp,
}

/// What opened an episode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    /// The code that most opening failures had, or `by_hand`.
    pub code: String,
    /// In words: how many, in how long, and a sample.
    pub text: String,
}

/// One breaker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "four facts that change one by one")]
pub struct Breaker {
    /// The automatic state.
    pub state: State,
    /// Episodes so far.
    pub generation: u32,
    /// When the present or last episode began.
    pub opened_at: Option<Timestamp>,
    /// Why.
    pub cause: Option<Cause>,
    /// The role that most opening failures had: probed first.
    pub blamed_role: Option<String>,
    /// The rig of the opening failures, if all were one rig's: probed first.
    pub blamed_rig: Option<RigId>,
    /// A proven trial must run longer than this to close the breaker.
    pub trial_ms: Millis,
    /// People were told that the episode began.
    pub told: bool,
    /// People were told that it lasts.
    pub still_open_told: bool,
    /// The scheduled probe. Some while open.
    pub next_probe_at: Option<Timestamp>,
    /// Which delay of the table is next.
    pub delay_step: u32,
    /// Failed probes of this episode.
    pub failed_probes: u32,
    /// A health check is under way until then (its lease).
    pub health_until: Option<Timestamp>,
    /// The running trial; none while half-open means that a permit is free.
    pub trial: Option<Trial>,
    /// Inconclusive trials of the present probe.
    pub trials: u32,
    /// The scheduled probe was already brought forward by a new instance.
    pub forwarded: bool,
    /// When probes were brought forward within the last hour.
    pub forwards: Vec<Timestamp>,
    /// When a person last asked for a probe.
    pub asked_at: Option<Timestamp>,
    /// When it last closed.
    pub closed_at: Option<Timestamp>,
    /// The last closing was announced, which ended its episode.
    pub settled: bool,
    /// A person's order.
    pub override_: Option<Override>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            generation: 0,
            opened_at: None,
            cause: None,
            blamed_role: None,
            blamed_rig: None,
            trial_ms: 0,
            told: false,
            still_open_told: false,
            next_probe_at: None,
            delay_step: 0,
            failed_probes: 0,
            health_until: None,
            trial: None,
            trials: 0,
            forwarded: false,
            forwards: Vec::new(),
            asked_at: None,
            closed_at: None,
            settled: true,
            override_: None,
        }
    }
}

/// How a trial ended, as this scope sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did its work.
    Succeeded,
    /// It failed with a class that counts in this scope, after so long.
    Failed(Millis),
    /// It ended for reasons that say nothing about the scope.
    Inconclusive,
}

/// What happens to a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its counted failures crossed a threshold.
    Tripped {
        /// What to tell.
        cause: Cause,
        /// The longest opening failure.
        longest: Millis,
        /// The role that most had.
        role: Option<String>,
        /// The rig, if all were one rig's.
        rig: Option<RigId>,
    },
    /// A health check was booked, with this lease.
    HealthBooked(Timestamp),
    /// The container answered its health check.
    HealthOk,
    /// It did not.
    HealthFailed,
    /// A permit is free and nothing wants it.
    NoCandidate,
    /// This attempt is the trial.
    TrialBooked(Trial),
    /// This attempt gave a first sign of life.
    Proven(AttemptId),
    /// This attempt ended.
    Ended(AttemptId, Verdict),
    /// A new container instance reported.
    NewInstance,
    /// A person asked for a probe.
    Asked,
    /// A person ordered a mode, or `None` = automatic again.
    Ordered(Option<Override>),
    /// The slow start reached its limit.
    UpToSpeed,
    /// Time passed.
    Tick,
}

/// What the caller must do about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Closed → open.
    Opened,
    /// A new episode: bead probe counts start anew.
    EpisodeBegan,
    /// A trial may run.
    HalfOpened,
    /// A probe failed.
    ProbeFailed,
    /// Closed again: beads that were not to blame become due.
    Closed,
    /// Tell people that it opened.
    TellOpened,
    /// Tell people that it is still open.
    TellStillOpen,
    /// Tell people that it is over.
    TellClosed,
    /// An override ended by itself.
    OverrideEnded,
}

/// The numbers and the hash that a step needs; the rest of the policy is the caller's.
pub struct Rules<'a> {
    /// The delay before probe number `step` of episode `generation`, jitter included.
    pub delay: &'a dyn Fn(u32, u32) -> Millis,
    /// Tell people after this long that it is still open.
    pub still_open: Millis,
}

impl Breaker {
    /// The override in force at `now`.
    #[must_use]
    pub fn order(&self, now: Timestamp) -> Option<&Override> {
        self.override_.as_ref().filter(|o| o.until > now)
    }

    /// What the gate obeys.
    #[must_use]
    pub fn effective(&self, now: Timestamp) -> State {
        match self.order(now).map(|o| o.mode) {
            Some(Mode::ForcedOpen) => State::Open,
            Some(Mode::ForcedClosed | Mode::Shadow) => State::Closed,
            None => self.state,
        }
    }

    /// True while real traffic runs although the automatic state is not closed: trials are taken from it.
    #[must_use]
    pub fn masked(&self, now: Timestamp) -> bool {
        self.state != State::Closed && self.effective(now) == State::Closed
    }

    /// When the running trial, if proven, has run long enough.
    #[must_use]
    pub fn trial_deadline(&self) -> Option<Timestamp> {
        // "Longer than", hence one millisecond more.
        self.trial.as_ref().filter(|t| t.proven).map(|t| t.booked_at.plus(self.trial_ms).plus(1))
    }

    /// When the closing must be announced at the latest.
    #[must_use]
    pub fn announce_deadline(&self) -> Option<Timestamp> {
        if self.state != State::Closed || self.settled {
            return None;
        }
        self.closed_at.map(|t| t.plus(CLOSED_ANNOUNCE))
    }

    /// When people are told that it is still open.
    #[must_use]
    pub fn still_open_deadline(&self, still_open: Millis) -> Option<Timestamp> {
        if self.state == State::Closed || self.still_open_told || !self.told {
            return None;
        }
        self.opened_at.map(|t| t.plus(still_open))
    }

    fn open(&mut self, at: Timestamp) {
        self.state = State::Open;
        self.next_probe_at = Some(at);
        self.health_until = None;
        self.trial = None;
        self.trials = 0;
        self.forwarded = false;
    }

    fn close(&mut self, now: Timestamp) {
        self.state = State::Closed;
        self.closed_at = Some(now);
        self.settled = false;
        self.next_probe_at = None;
        self.health_until = None;
        self.trial = None;
        self.trials = 0;
        self.forwarded = false;
    }

    /// Begins an episode, or continues one whose end was not announced.
    fn begin(&mut self, now: Timestamp, rules: &Rules<'_>, changes: &mut Vec<Change>) {
        let recent = self.closed_at.is_some_and(|t| now.since(t) <= REOPEN_WINDOW);
        // Whoever re-opens soon after closing has not learnt from the last delay: it takes the next one.
        self.delay_step = if recent { self.delay_step.saturating_add(1) } else { 0 };
        if self.settled {
            self.generation = self.generation.saturating_add(1);
            self.opened_at = Some(now);
            self.failed_probes = 0;
            self.told = false;
            self.still_open_told = false;
            changes.push(Change::EpisodeBegan);
        }
        // While open an episode is under way, whatever came before.
        self.settled = true;
        let delay = (rules.delay)(self.generation, self.delay_step);
        self.open(now.plus(delay));
        changes.push(Change::Opened);
    }

    fn tell_opened(&mut self, changes: &mut Vec<Change>) {
        if !self.told {
            self.told = true;
            changes.push(Change::TellOpened);
        }
    }

    fn probe_failed(&mut self, now: Timestamp, rules: &Rules<'_>, changes: &mut Vec<Change>) {
        self.failed_probes = self.failed_probes.saturating_add(1);
        self.delay_step = self.delay_step.saturating_add(1);
        let delay = (rules.delay)(self.generation, self.delay_step);
        self.open(now.plus(delay));
        changes.push(Change::ProbeFailed);
        self.tell_opened(changes);
    }

    /// The probe decided nothing: again after the same delay.
    fn retry_probe(&mut self, now: Timestamp, rules: &Rules<'_>) {
        let delay = (rules.delay)(self.generation, self.delay_step);
        self.open(now.plus(delay));
    }

    fn leave_forced_open(&mut self, now: Timestamp, changes: &mut Vec<Change>) {
        match self.state {
            State::Closed => {
                // An episode whose end was not announced goes on: people who were told of it must hear of its end.
                if self.settled {
                    // Nobody is told unless the trial fails: a person opened it, and knows.
                    self.generation = self.generation.saturating_add(1);
                    self.opened_at = Some(now);
                    self.cause = Some(Cause {
                        code: "by_hand".to_owned(),
                        text: "it was forced open by hand; one trial decides before dispatch goes on".to_owned(),
                    });
                    (self.blamed_role, self.blamed_rig, self.trial_ms) = (None, None, 0);
                    (self.told, self.still_open_told) = (false, false);
                    (self.delay_step, self.failed_probes) = (0, 0);
                    changes.push(Change::EpisodeBegan);
                }
                self.settled = true;
                self.open(now);
            }
            State::Open => self.next_probe_at = Some(now),
            State::HalfOpen => {}
        }
    }

    fn trial_ended(&mut self, verdict: Verdict, now: Timestamp, rules: &Rules<'_>, changes: &mut Vec<Change>) {
        match verdict {
            Verdict::Succeeded => {
                self.close(now);
                changes.push(Change::Closed);
            }
            Verdict::Failed(ran) => {
                self.trial_ms = self.trial_ms.max(ran).min(PROBE_TRIAL_CAP);
                self.probe_failed(now, rules, changes);
            }
            Verdict::Inconclusive => {
                self.trial = None;
                self.trials = self.trials.saturating_add(1);
                if self.trials >= PROBES_PER_TRIAL {
                    self.retry_probe(now, rules);
                }
            }
        }
    }

    fn ripened(&mut self, now: Timestamp, changes: &mut Vec<Change>) {
        if self.state == State::HalfOpen && self.trial_deadline().is_some_and(|t| t <= now) {
            self.close(now);
            changes.push(Change::Closed);
        }
    }

    fn tick(&mut self, now: Timestamp, rules: &Rules<'_>, changes: &mut Vec<Change>) {
        if let Some(o) = self.override_.take_if(|o| o.until <= now) {
            changes.push(Change::OverrideEnded);
            if o.mode == Mode::ForcedOpen {
                self.leave_forced_open(now, changes);
            }
        }
        if self.health_until.is_some_and(|t| t <= now) {
            // Its owner died with the object: nothing was learnt, the probe is due as before.
            self.health_until = None;
        }
        self.ripened(now, changes);
        if self.still_open_deadline(rules.still_open).is_some_and(|t| t <= now) {
            self.still_open_told = true;
            changes.push(Change::TellStillOpen);
        }
        if self.announce_deadline().is_some_and(|t| t <= now) {
            self.announce(changes);
        }
    }

    fn announce(&mut self, changes: &mut Vec<Change>) {
        self.settled = true;
        if self.told {
            changes.push(Change::TellClosed);
        }
    }
}

/// Applies one event. Events that do not fit the state change nothing: late voices are harmless.
pub fn step(b: &mut Breaker, event: Event, now: Timestamp, rules: &Rules<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    match event {
        Event::Tripped { cause, longest, role, rig } => {
            if b.state == State::Closed {
                b.begin(now, rules, &mut changes);
                b.cause = Some(cause);
                b.trial_ms = longest.min(PROBE_TRIAL_CAP);
                (b.blamed_role, b.blamed_rig) = (role, rig);
                b.tell_opened(&mut changes);
            }
        }
        Event::HealthBooked(until) => {
            if b.state == State::Open {
                b.health_until = Some(until);
            }
        }
        Event::HealthOk => {
            if b.state == State::Open && b.health_until.take().is_some() {
                b.state = State::HalfOpen;
                (b.trial, b.trials) = (None, 0);
                changes.push(Change::HalfOpened);
            }
        }
        Event::HealthFailed => {
            if b.state == State::Open && b.health_until.take().is_some() {
                b.probe_failed(now, rules, &mut changes);
            }
        }
        Event::NoCandidate => {
            if b.state == State::HalfOpen && b.trial.is_none() {
                b.retry_probe(now, rules);
            }
        }
        Event::TrialBooked(trial) => {
            if b.state != State::Closed && b.trial.is_none() {
                if b.state == State::Open {
                    b.state = State::HalfOpen;
                    b.health_until = None;
                    changes.push(Change::HalfOpened);
                }
                b.trial = Some(trial);
            }
        }
        Event::Proven(attempt) => {
            if let Some(t) = b.trial.as_mut().filter(|t| t.attempt == attempt) {
                t.proven = true;
                b.ripened(now, &mut changes);
            }
        }
        Event::Ended(attempt, verdict) => {
            if b.state == State::HalfOpen && b.trial.as_ref().is_some_and(|t| t.attempt == attempt) {
                b.trial_ended(verdict, now, rules, &mut changes);
            }
        }
        Event::NewInstance => {
            b.forwards.retain(|t| now.since(*t) < HOUR);
            let scheduled = b.next_probe_at.is_some_and(|t| t > now);
            let allowed = !b.forwarded && b.forwards.len() < INSTANCE_PROBES_PER_HOUR as usize;
            if b.state == State::Open && b.health_until.is_none() && scheduled && allowed {
                b.next_probe_at = Some(now);
                b.forwarded = true;
                b.forwards.push(now);
            }
        }
        Event::Asked => {
            if b.state == State::Open {
                b.asked_at = Some(now);
                b.next_probe_at = Some(now);
            }
        }
        Event::Ordered(order) => {
            let was = b.order(now).map(|o| o.mode);
            let is = order.as_ref().map(|o| o.mode);
            b.override_ = order;
            if was == Some(Mode::ForcedOpen) && is != Some(Mode::ForcedOpen) {
                b.leave_forced_open(now, &mut changes);
            }
        }
        Event::UpToSpeed => {
            if b.state == State::Closed && !b.settled {
                b.announce(&mut changes);
            }
        }
        Event::Tick => b.tick(now, rules, &mut changes),
    }
    changes
}
