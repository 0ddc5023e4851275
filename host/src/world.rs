//! One town in a whole simulated world, and the driver that lets time pass.
//!
//! *Guarantees.* [`World::run_for`] does what the object does, and nothing else: it performs effects after the rows
//! that booked them are committed, at most [`CALLS_AT_ONCE`] calls at once and [`STARTS_AT_ONCE`] starts among them,
//! effects that name the same agent in order; it feeds every outcome to `settle`, ticks when `next_wake` says so and at
//! no other time, and delivers what agents say as commands. It skips from event to event, so that an hour in which
//! nothing is due costs nothing, and the same seed and calls give the same history.
//!
//! *Time.* A request travels [`World::travel`] milliseconds before the other side sees it: that is the moment at which
//! a crash may fall between booking and call. An alarm is never armed for the millisecond in which the town ticked
//! (`design.md` 7); only an outcome or a command can make it tick in the same millisecond again.

use crate::alarm::Bell;
pub use crate::alarm::{Ring, RingFilter};
use crate::behaviour::Voice;
use crate::calls::{Call, Flight, Job, Next, Target};
use crate::clock::Clock;
use crate::container::Container;
use crate::fault::SimAnswer;
use crate::forge::Forge;
use crate::ids::SeededIds;
use crate::sqlite::Sqlite;
use crate::watchdog::{Watchdog, cut};
use crate::webhook::{Post, Webhook};
use gastown::town::command::{Actor, Command};
use gastown::town::effect::{Answer, DataPoint, Effect, FleetReport, Outcome};
use gastown::town::error::TownError;
use gastown::town::id::{AgentId, RigId};
use gastown::town::policy::{CALLS_AT_ONCE, STARTS_AT_ONCE};
use gastown::town::pulse::Pulses;
use gastown::town::time::{Millis, SECOND, Timestamp};
use gastown::town::{Ctx, Reply, Town, migrate};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

/// The dead-man alarm: when the object tries again after an error in a tick.
pub const DEAD_MAN: Millis = 30 * SECOND;

/// What the world counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `tick`.
    pub ticks: u64,
    /// Alarms that fired: ticks that began while nothing was in the air.
    pub alarms: u64,
    /// Times the alarm was set to another time, or deleted.
    pub alarm_sets: u64,
    /// Calls made to the container, whether they arrived or not.
    pub container_calls: u64,
    /// Calls made to the forge, whether they arrived or not.
    pub forge_calls: u64,
    /// Posts made to the webhook, whether they arrived or not.
    pub webhook_calls: u64,
    /// Commands given by tests.
    pub commands: u64,
    /// Voices that reached the town.
    pub voices: u64,
    /// Outcomes settled.
    pub outcomes: u64,
    /// Crashes.
    pub crashes: u64,
    /// Verbs in which a statement was made to fail.
    pub failed_verbs: u64,
    /// Most calls in the air at once.
    pub most_calls: usize,
    /// Most starts in the air at once.
    pub most_starts: usize,
}

/// What becomes of something that an agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It is lost.
    Lost,
    /// It arrives twice.
    Twice,
    /// It arrives so much later.
    Late(Millis),
}

/// Looks at the world after every step.
pub type Sentinel = Box<dyn FnMut(&World)>;
/// Decides about every voice.
pub type VoiceFilter = Box<dyn FnMut(&Voice) -> Fate>;

/// One town, its clock, its container, its webhook receiver, and what happened so far.
#[allow(clippy::struct_excessive_bools, reason = "each is a switch that a test turns by itself")]
pub struct World {
    /// The town's database.
    pub sql: Sqlite,
    /// The time.
    pub clock: Clock,
    /// Where the town's ids come from.
    pub ids: SeededIds,
    /// What the object remembers; lost with it.
    pub pulses: Pulses,
    /// The container.
    pub container: Container,
    /// The receiver of the webhook.
    pub webhook: Webhook,
    /// The forge.
    pub forge: Forge,
    /// The town's id; empty before [`Self::found_town`].
    pub town_id: String,
    /// How long a request takes to reach the other side.
    pub travel: Millis,
    /// Keep points, effects, outcomes, reports and refusals; a simulation of months switches it off.
    pub keep_history: bool,
    /// Every data point so far.
    pub points: Vec<(Timestamp, DataPoint)>,
    /// Every effect so far, data points aside.
    pub effects: Vec<(Timestamp, Effect)>,
    /// How each effect ended, so far.
    pub outcomes: Vec<(Timestamp, Outcome)>,
    /// Reports to the registry get lost.
    pub deaf_fleet: bool,
    /// Stores of agents cannot be erased.
    pub stubborn_stores: bool,
    /// Every agent whose store was erased so far.
    pub erased: Vec<AgentId>,
    /// Every report to the fleet so far.
    pub reports: Vec<(Timestamp, FleetReport)>,
    /// What agents said and the town refused.
    pub refused: Vec<(Voice, TownError)>,
    /// A verb that fails with `Storage` stops the test unless this is set (as it is for injected failures); then it is
    /// noted here and, in a tick, tried again by the dead-man alarm.
    pub tolerate_errors: bool,
    /// The failures that were tolerated.
    pub errors: Vec<(Timestamp, TownError)>,
    /// What was counted.
    pub counts: Counts,
    /// How far the object's clock has stepped back in all.
    pub stepped_back: Millis,
    /// When leases may last have ended behind the town's back: it died, froze, failed, or its clock stepped.
    pub jolted_at: Option<Timestamp>,
    /// What was in the air when the object died, and how far it was: (effect, how far) → how often.
    pub interrupted: BTreeMap<(&'static str, &'static str), u64>,
    pub(crate) waiting: VecDeque<Job>,
    pub(crate) air: Vec<Job>,
    /// Requests whose sender is gone; they still arrive.
    orphans: Vec<Flight>,
    /// Voices on their way, by arrival.
    voices: BTreeMap<(Timestamp, u64), Voice>,
    pub(crate) wake: Option<Timestamp>,
    pub(crate) bell: Bell,
    /// How far the object's clock is ahead of ours.
    pub(crate) skew: Millis,
    /// The core knows that the object was made anew.
    resumed: bool,
    next_id: u64,
    sentinel: Option<Sentinel>,
    filter: Option<VoiceFilter>,
    pub(crate) watchdog: Watchdog,
}

impl World {
    // ── beginning ────────────────────────────────────────────────────────────────────────────────────────────────

    /// An empty, migrated town in memory.
    ///
    /// # Panics
    /// If the migrations fail.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::over(Sqlite::memory(), seed)
    }

    /// The same on a file; an existing town goes on.
    ///
    /// # Panics
    /// If the migrations fail.
    #[must_use]
    pub fn on_file(path: &Path, seed: u64) -> Self {
        Self::over(Sqlite::open(path), seed)
    }

    /// A town with its name and its mayor, and a rig.
    ///
    /// # Panics
    /// If the town refuses to be founded.
    #[must_use]
    pub fn founded(seed: u64) -> (Self, RigId) {
        let mut world = Self::new(seed);
        world.found_town();
        let rig = world.add_rig("main");
        (world, rig)
    }

    fn over(sql: Sqlite, seed: u64) -> Self {
        let clock = Clock::default();
        let clock_now = clock.now();
        let container = Container::new(seed ^ 0xc0_47a1_4e12, clock_now);
        let mut world = Self {
            sql,
            clock,
            ids: SeededIds::new(seed),
            pulses: Pulses::new(clock_now),
            container,
            webhook: Webhook::default(),
            forge: Forge::default(),
            town_id: String::new(),
            travel: 5,
            keep_history: true,
            points: Vec::new(),
            effects: Vec::new(),
            outcomes: Vec::new(),
            deaf_fleet: false,
            stubborn_stores: false,
            erased: Vec::new(),
            reports: Vec::new(),
            refused: Vec::new(),
            tolerate_errors: false,
            errors: Vec::new(),
            counts: Counts::default(),
            stepped_back: 0,
            jolted_at: None,
            interrupted: BTreeMap::new(),
            waiting: VecDeque::new(),
            air: Vec::new(),
            orphans: Vec::new(),
            voices: BTreeMap::new(),
            wake: None,
            bell: Bell::default(),
            skew: 0,
            resumed: false,
            next_id: 0,
            sentinel: None,
            filter: None,
            watchdog: Watchdog::default(),
        };
        world.awake();
        world
    }

    /// What the object hands to every verb.
    #[must_use]
    pub const fn ctx(&self) -> Ctx<'_> {
        Ctx::new(self.town_now(), &self.ids).remembering(&self.pulses)
    }

    /// What a new object does first.
    fn awake(&mut self) {
        self.pulses = Pulses::new(self.town_now());
        migrate::migrate(&self.sql, self.town_now()).unwrap_or_else(|e| panic!("the migrations failed: {e}"));
        self.resumed = false;
        if let Err(e) = self.resume() {
            self.failed("resume", e);
        }
        self.rearm(self.town_now());
    }

    /// Tells the core, once, that the object was made anew; an error is told, and it is told again by the next verb.
    fn resume(&mut self) -> Result<bool, TownError> {
        if self.resumed {
            return Ok(false);
        }
        self.verb("resume", |w, ctx| Town::new(&w.sql).resume(ctx))?;
        self.resumed = true;
        Ok(true)
    }

    /// Runs a verb of the town. If a statement was made to fail in it, the verb must say so and have changed nothing.
    fn verb<T>(
        &mut self,
        name: &str,
        body: impl FnOnce(&Self, &Ctx<'_>) -> Result<T, TownError>,
    ) -> Result<T, TownError> {
        let before = self.sql.fault_is_armed().then(|| self.sql.dump());
        let out = body(self, &self.ctx());
        if let Some(before) = before.filter(|_| !self.sql.fault_is_armed()) {
            self.counts.failed_verbs += 1;
            self.jolted_at = Some(self.now());
            assert!(out.as_ref().is_err_and(TownError::is_storage), "{name}: a statement failed, and nobody was told");
            assert!(self.sql.dump() == before, "{name}: a statement failed, and rows have changed all the same");
        }
        out
    }

    // ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Calls `sentinel` after every step from now on: the place for invariants.
    pub fn watch(&mut self, sentinel: impl FnMut(&Self) + 'static) {
        self.sentinel = Some(Box::new(sentinel));
    }
    /// Asks `filter` what becomes of everything that agents say from now on.
    pub fn filter_voices(&mut self, filter: impl FnMut(&Voice) -> Fate + 'static) {
        self.filter = Some(Box::new(filter));
    }
    /// Everything that agents say arrives again.
    pub fn unfilter_voices(&mut self) {
        self.filter = None;
    }

    // ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.clock.now()
    }
    /// Lets `ms` pass.
    pub fn run_for(&mut self, ms: Millis) {
        self.run_until(self.now().plus(ms));
    }
    /// Lets time pass until `end`, what is due at `end` included.
    pub fn run_until(&mut self, end: Timestamp) {
        while self.step(end) {}
        if self.now() < end {
            self.clock.set(end);
        }
    }
    /// Lets time pass until `done` holds, `ms` at most; tells whether it does. Time stands where it came true.
    pub fn run_while_not(&mut self, ms: Millis, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now().plus(ms);
        while !done(self) {
            if !self.step(end) {
                self.clock.set(self.now().max(end));
                return done(self);
            }
        }
        true
    }
    /// When anything happens next, if nobody interferes.
    #[must_use]
    pub fn next_event(&self) -> Option<Timestamp> {
        let launch = self.can_launch().then(|| self.now());
        self.air
            .iter()
            .filter_map(Job::due)
            .chain(self.orphans.iter().map(Flight::at))
            .chain(self.voices.keys().next().map(|k| k.0))
            .chain(self.container.due())
            .chain(self.rings_at())
            .chain(launch)
            .min()
    }
    /// When the town's alarm fires, by its own clock; `None` = it has none.
    #[must_use]
    pub const fn alarm(&self) -> Option<Timestamp> {
        self.wake
    }
    /// Effects on their way or waiting for a free place.
    #[must_use]
    pub fn in_the_air(&self) -> usize {
        self.air.len() + self.waiting.len()
    }

    /// Does the next thing that happens until `end`; false if nothing does.
    ///
    /// Within one millisecond: effects that wait begin, then requests arrive and answers land, then agents speak, then
    /// the town ticks.
    pub fn step(&mut self, end: Timestamp) -> bool {
        let Some(next) = self.next_event().filter(|at| *at <= end) else { return false };
        let now = self.now().max(next);
        self.clock.set(now);
        if self.can_launch() {
            self.launch();
        } else if let Some(at) = self.orphans.iter().position(|f| f.at() <= now) {
            if let Flight::Out { call, gives_up, .. } = self.orphans.swap_remove(at) {
                let _ = self.arrive(&call, gives_up);
            }
        } else if let Some(at) = self.next_job(now) {
            self.move_job(at);
        } else if self.container.due().is_some_and(|at| at <= now) {
            for voice in self.container.run_until(now) {
                self.speak(&voice);
            }
        } else if self.voices.keys().next().is_some_and(|k| k.0 <= now) {
            if let Some((_, voice)) = self.voices.pop_first() {
                self.deliver(&voice);
            }
        } else if self.rings_at().is_some_and(|at| at <= now) {
            self.rung();
        }
        if let Some(mut sentinel) = self.sentinel.take() {
            sentinel(self);
            self.sentinel = Some(sentinel);
        }
        true
    }

    /// The object dies here and a new one takes over, over the same rows; injected failures of its database end. Requests that have left still arrive; nobody hears the answers.
    /// Effects that were waiting for a place never happen.
    pub fn crash(&mut self) {
        self.note_interrupted();
        let leaving = self.air.drain(..).flat_map(|job| job.flights).filter(|f| matches!(f, Flight::Out { .. }));
        self.orphans.extend(leaving);
        self.crash_losing_requests();
    }

    /// The same, but requests that have not arrived yet are lost with it: the crash fell between booking and call.
    pub fn crash_losing_requests(&mut self) {
        self.note_interrupted();
        self.air.clear();
        self.waiting.clear();
        (self.bell.again, self.bell.late_until) = (false, None);
        self.counts.crashes += 1;
        self.jolted_at = Some(self.now());
        self.sql.heal();
        let now = self.now();
        self.watchdog.something();
        self.watchdog.note(now, || "crash".to_owned());
        self.awake();
    }

    fn note_interrupted(&mut self) {
        let waiting = self.waiting.iter().map(|job| (job.kind(), "waits for its place"));
        let on_its_way = self.air.iter().map(|job| (job.kind(), job.phase()));
        for what in waiting.chain(on_its_way) {
            *self.interrupted.entry(what).or_default() += 1;
        }
    }

    // ── the object's loop ────────────────────────────────────────────────────────────────────────────────────────

    pub(crate) fn tick(&mut self) {
        let now = self.now();
        self.watchdog.tick(now);
        if let Err(e) = self.resume() {
            self.failed("resume", e);
        }
        if self.air.is_empty() && self.waiting.is_empty() {
            self.counts.alarms += 1;
            // The alarm was set for a lease that heartbeats have moved on since: it is set anew, without a tick.
            let wake = self.verb("next_wake", |w, ctx| Town::new(&w.sql).next_wake(ctx));
            if let Ok(wake) = wake
                && wake.is_none_or(|at| at > self.town_now())
            {
                self.watchdog.note(now, || "nothing is due".to_owned());
                self.bell.astray = false;
                return self.arm(wake);
            }
        }
        self.watchdog.note(now, || "tick".to_owned());
        self.counts.ticks += 1;
        match self.verb("tick", |w, ctx| Town::new(&w.sql).tick(ctx)) {
            Ok(effects) => {
                self.perform(effects);
                self.rearm(self.town_now().plus(1));
            }
            Err(e) => {
                self.failed("tick", e);
                self.arm(Some(self.town_now().plus(DEAD_MAN)));
                self.bell.astray = true;
            }
        }
    }

    /// Asks for the deadline; it is never armed before `earliest`.
    pub(crate) fn rearm(&mut self, earliest: Timestamp) {
        match self.verb("next_wake", |w, ctx| Town::new(&w.sql).next_wake(ctx)) {
            Ok(wake) => {
                self.arm(wake.map(|at| at.max(earliest)));
                self.bell.astray = false;
            }
            Err(e) => {
                self.failed("next_wake", e);
                self.arm(Some(self.town_now().plus(DEAD_MAN)));
                self.bell.astray = true;
            }
        }
    }

    fn arm(&mut self, wake: Option<Timestamp>) {
        if wake != self.wake {
            self.counts.alarm_sets += 1;
            self.wake = wake;
        }
    }

    fn failed(&mut self, verb: &str, error: TownError) {
        assert!(self.tolerate_errors, "{verb} failed: {error:?}. Last of all:\n{}", self.watchdog.told());
        self.errors.push((self.now(), error));
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let now = self.now();
        for effect in effects {
            match effect {
                Effect::Emit(point) => {
                    if self.keep_history {
                        self.points.push((now, point));
                    }
                }
                effect => {
                    self.watchdog.effect(now, &effect);
                    if self.keep_history {
                        self.effects.push((now, effect.clone()));
                    }
                    if let Effect::ReportToFleet(report) = &effect {
                        if self.keep_history {
                            self.reports.push((now, report.clone()));
                        }
                        self.report(now);
                    }
                    if let Effect::EraseAgent(agent) = &effect {
                        self.erase(now, agent.clone());
                    }
                    self.next_id += 1;
                    self.waiting.extend(Job::of(self.next_id, effect, now));
                }
            }
        }
    }

    /// The store of an agent is erased at once, or not at all.
    fn erase(&mut self, now: Timestamp, agent_id: AgentId) {
        let erased = !self.stubborn_stores;
        if erased {
            self.erased.push(agent_id.clone());
        }
        if let Err(e) = Town::new(&self.sql).settle(&Ctx::new(now, &self.ids), Outcome::Erased { agent_id, erased }) {
            self.failed("settle", e);
        }
    }

    /// The registry hears a report at once, or loses it.
    fn report(&mut self, now: Timestamp) {
        let outcome = Outcome::Reported { delivered: !self.deaf_fleet };
        if let Err(e) = Town::new(&self.sql).settle(&Ctx::new(now, &self.ids), outcome) {
            self.failed("settle", e);
        }
    }

    /// The place in `waiting` of the next job that may begin.
    fn launchable(&self) -> Option<usize> {
        let calls: usize = self.air.iter().map(|j| j.flights.len().max(1)).sum();
        let starts = self.air.iter().filter(|j| j.is_start).count();
        if calls >= CALLS_AT_ONCE {
            return None;
        }
        self.waiting.iter().enumerate().position(|(at, job)| {
            let mut earlier = self.air.iter().chain(self.waiting.iter().take(at));
            let blocked = earlier.any(|other| other.agents.iter().any(|a| job.agents.contains(a)));
            let full = job.is_start && starts >= STARTS_AT_ONCE;
            !blocked && !full
        })
    }

    fn can_launch(&self) -> bool {
        !self.waiting.is_empty() && self.launchable().is_some()
    }

    fn launch(&mut self) {
        if let Some(job) = self.launchable().and_then(|at| self.waiting.remove(at)) {
            self.air.push(job);
            self.advance(self.air.len() - 1, Vec::new());
        }
    }

    /// The job in the air whose turn it is.
    fn next_job(&self, now: Timestamp) -> Option<usize> {
        let due = |job: &Job| job.due().filter(|at| *at <= now).map(|at| (at, job.id));
        let (at, _) =
            self.air.iter().enumerate().filter_map(|(i, j)| Some((i, due(j)?))).min_by_key(|(_, due)| *due)?;
        Some(at)
    }

    /// One request arrives, or all answers have landed, or a pause is over.
    fn move_job(&mut self, at: usize) {
        let now = self.now();
        let due = |f: &Flight| matches!(f, Flight::Out { arrives, .. } if *arrives <= now);
        if let Some(flight) = self.air[at].flights.iter().position(due) {
            let Flight::Out { call, gives_up, .. } = &self.air[at].flights[flight] else { return };
            let (call, gives_up) = (call.clone(), *gives_up);
            let answer = self.arrive(&call, gives_up);
            self.air[at].flights[flight] = Flight::back(answer, now, call.timeout, gives_up);
            return;
        }
        // Answers that landed wait for the slowest of their batch.
        let slowest = self.air[at].flights.iter().map(Flight::at).max();
        if let Some(slowest) = slowest.filter(|s| *s > now) {
            for flight in &mut self.air[at].flights {
                if let Flight::Back { lands, .. } = flight {
                    *lands = slowest;
                }
            }
            return;
        }
        let landed = std::mem::take(&mut self.air[at].flights);
        let landed = landed.into_iter().filter_map(|f| match f {
            Flight::Back { answer, .. } => Some(answer),
            Flight::Out { .. } => None,
        });
        self.advance(at, landed.collect());
    }

    fn advance(&mut self, at: usize, landed: Vec<Answer>) {
        let now = self.now();
        let others = self.air.iter().enumerate().filter(|(i, _)| *i != at);
        let free = CALLS_AT_ONCE.saturating_sub(others.map(|(_, j)| j.flights.len().max(1)).sum());
        match self.air[at].next(landed, now, free) {
            Next::Pause(until) => self.air[at].paused_until = Some(until),
            Next::Call(calls) => {
                for call in &calls {
                    match call.target {
                        Target::Container => self.counts.container_calls += 1,
                        Target::Webhook { .. } => self.counts.webhook_calls += 1,
                        Target::Forge { .. } => self.counts.forge_calls += 1,
                    }
                }
                self.air[at].flights = calls.into_iter().map(|c| Flight::new(c, now, self.travel)).collect();
                let calls = self.air.iter().map(|j| j.flights.len()).sum();
                let starts = self.air.iter().filter(|j| j.is_start).count();
                self.counts.most_calls = self.counts.most_calls.max(calls);
                self.counts.most_starts = self.counts.most_starts.max(starts);
            }
            Next::End(outcome) => {
                self.air.remove(at);
                self.watchdog.something();
                self.watchdog.note(now, || cut(format!("{outcome:?}")));
                self.counts.outcomes += 1;
                if self.keep_history {
                    self.outcomes.push((now, outcome.clone()));
                }
                match self.verb("settle", |w, ctx| Town::new(&w.sql).settle(ctx, outcome)) {
                    Ok(effects) => self.perform(effects),
                    // The outcome is lost, as it is in production: the lease of what was booked brings it back.
                    Err(e) => self.failed("settle", e),
                }
                self.rearm(self.town_now());
            }
        }
    }

    fn arrive(&mut self, call: &Call, gives_up: Timestamp) -> SimAnswer {
        let now = self.now();
        match &call.target {
            Target::Container => self.container.call(now, call.method, &call.path, &call.body),
            Target::Forge { github } => self.forge.call(now, *github, call.method, &call.path, &call.body),
            Target::Webhook { url, signature } => {
                let (url, signature) = (url.clone(), signature.clone());
                let sent = gives_up.plus(-call.timeout);
                self.webhook.receive(Post { at: now, sent, url, raw: call.body.clone(), signature })
            }
        }
    }

    /// An agent says something; the filter decides what becomes of it.
    fn speak(&mut self, voice: &Voice) {
        let now = self.now();
        let fate = self.filter.as_mut().map_or(Fate::Arrives, |filter| filter(voice));
        let (times, at) = match fate {
            Fate::Lost => return,
            Fate::Arrives => (1, now),
            Fate::Twice => (2, now),
            Fate::Late(ms) => (1, now.plus(ms)),
        };
        for _ in 0..times {
            self.next_id += 1;
            self.voices.insert((at, self.next_id), voice.clone());
        }
    }

    fn deliver(&mut self, voice: &Voice) {
        let now = self.now();
        self.watchdog.something();
        self.watchdog.note(now, || {
            let agent = voice.agent_id.as_ref().map_or("container", |a| a.short());
            cut(format!("{agent}: {:?}", voice.says))
        });
        self.counts.voices += 1;
        match self.apply(&voice.actor(), voice.command()) {
            Ok(reply) => self.container.heard(now, voice, &reply.data),
            Err(e) if e.is_storage() => self.failed("a voice", e),
            Err(refusal) => {
                self.watchdog.note(now, || format!("  refused: {refusal}"));
                if self.keep_history {
                    self.refused.push((voice.clone(), refusal));
                }
            }
        }
    }

    pub(crate) fn apply(&mut self, actor: &Actor, command: Command) -> Result<Reply, TownError> {
        let resumed = self.resume()?;
        let reply = self.verb("handle", |w, ctx| Town::new(&w.sql).handle(ctx, actor, command));
        if let Ok(reply) = &reply {
            self.perform(reply.effects.clone());
        }
        self.see_to_alarm(!resumed && reply.as_ref().map_or(true, |r| r.quiet));
        reply
    }
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
