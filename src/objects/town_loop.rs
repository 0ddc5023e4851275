//! The alarm as a loop (`design.md` 7): settle what ended, tick, start what is new, wait for the first of *an effect
//! ended*, *a command arrived*, *the next deadline*; until nothing is in the air.
//!
//! # Guarantees
//! * A dead-man alarm is armed before anything is done and moves along while the loop runs. Whatever happens below it (a
//!   crash, a deploy, an eviction), the town wakes at most [`DEAD_MAN`] later.
//! * When the loop ends, the alarm is the town's next deadline, or there is none.
//! * It cannot spin: a town whose rules fail, or whose next deadline does not move, is asked ever more slowly.
//! * Effects that name the same agent are performed in the order in which they were emitted.
//! * A panic in a call costs that call's outcome, which its lease makes up for. One in the loop itself costs what an object
//!   that dies would cost: the calls in the air are looked at.
//!
//! # Why the awaits are safe
//! Every access to the rows is one synchronous section ([`TownDO::tick`], `settle`, `next_wake`, a command), atomic by
//! its savepoint and never split by an await. The loop awaits in three places:
//! 1. arming the alarm: a storage operation. A command that comes in between finds the loop running and rings the bell,
//!    which keeps the ring until the loop listens.
//! 2. waiting for the first of three events: commands come and go meanwhile. Nothing that was read before is used
//!    after: the loop begins again with a tick that reads the rows as they are. What the loop holds over the wait is
//!    in memory only and is about calls already booked; if the object dies here, their rows carry leases, and `resume`
//!    has them looked at.
//! 3. arming or clearing the alarm at the end: the loop has said that it is over *before* this await, so a command
//!    that comes in between sees to the alarm itself, after ours has been issued, and with a deadline that is fresh.

use super::{
    perform::{Performer, Whose, agents_of, needs_outfit},
    town_do::{TownDO, Who},
};
use crate::{
    platform::{alarm, clock, log, panic_probe, panics},
    town::{
        effect::{Effect, Outcome},
        id::AgentId,
        time::{MINUTE, Millis, SECOND, Timestamp},
    },
};
use futures_util::{
    FutureExt, StreamExt,
    future::{Either, LocalBoxFuture, poll_fn, select},
    pin_mut,
    stream::FuturesUnordered,
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};
use tokio::sync::Notify;
use worker::Delay;

/// How long after the last sign of life of a loop the dead-man alarm rings. It costs a row to move, so it is not short;
/// it is how long a town sleeps after a crash, so it is not long.
const DEAD_MAN: Millis = 30 * SECOND;
/// When the dead-man alarm has come this near, it is moved.
const DEAD_MAN_NEAR: Millis = DEAD_MAN / 2;
/// The runtime ends an alarm handler after 15 minutes. Well before, the loop ends by itself and arms the alarm for the
/// next millisecond; what is in the air stays there and is taken over.
const LOOP_LIMIT: Millis = 10 * MINUTE;
/// Ticks in a row that may leave something due without being slowed down: work that comes in batches.
const FREE_TICKS: u32 = 20;
/// The first pause of a town that makes no progress, doubled each time.
const PAUSE_MIN: Millis = 100;
/// Its longest pause.
const PAUSE_MAX: Millis = MINUTE;

/// What the loop knows between its turns. In memory only: see the module's word on awaits.
#[derive(Debug)]
pub struct Turns {
    /// Rung by commands.
    bell: Notify,
    /// Counts loops, so that one that was given up for dead notices when it wakes after all.
    epoch: Cell<u64>,
    /// When the running loop last showed a sign of life; `None` if none runs.
    beat: Cell<Option<Timestamp>>,
    /// Ticks in a row that failed, or left something due and started nothing.
    stuck: Cell<u32>,
    /// Loops in a row that a panic ended.
    falls: Cell<u32>,
    flight: RefCell<Flight>,
}

/// What is in the air, and what waits for its agent to be free. It belongs to the object, not to one alarm: a loop that
/// takes over finds everything. The borrow never outlives a poll.
#[derive(Debug, Default)]
struct Flight {
    waiting: VecDeque<Waiting>,
    running: FuturesUnordered<LocalBoxFuture<'static, Landed>>,
    busy: Vec<AgentId>,
}

#[derive(Debug)]
struct Waiting {
    effect: Effect,
    agents: Vec<AgentId>,
}

struct Landed {
    agents: Vec<AgentId>,
    outcome: Option<Outcome>,
}

impl Turns {
    /// No loop, nothing in the air.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bell: Notify::new(),
            epoch: Cell::new(0),
            beat: Cell::new(None),
            stuck: Cell::new(0),
            falls: Cell::new(0),
            flight: RefCell::new(Flight::default()),
        }
    }
    /// True if a loop runs. One that has shown no sign of life while two dead-man alarms could have rung is dead.
    #[must_use]
    pub fn running(&self, now: Timestamp) -> bool {
        self.beat.get().is_some_and(|beat| now.since(beat) < 2 * DEAD_MAN)
    }
    /// Tells a running loop that the rows have changed. A ring is kept until it is heard.
    pub fn ring(&self) {
        self.bell.notify_one();
    }
    /// Ends whatever runs and forgets what is in the air (the town is being deleted).
    pub fn stop(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.beat.set(None);
        self.flight.replace(Flight::default());
        self.ring();
    }
    /// The earliest moment at which the town may be woken again: the next millisecond (an alarm set to the one that is
    /// ringing can be lost, workerd #6866), later if it makes no progress.
    #[must_use]
    pub fn not_before(&self, now: Timestamp) -> Timestamp {
        let over = self.stuck.get().saturating_sub(FREE_TICKS).max(self.falls.get());
        let pause = match over {
            0 => 1,
            n => PAUSE_MIN.saturating_mul(1_i64 << n.saturating_sub(1).min(16)).min(PAUSE_MAX),
        };
        now.plus(pause)
    }
    /// A panic has ended the loop, anywhere: what it knew of the calls in the air is not to be trusted.
    fn fall(&self) {
        self.falls.set(self.falls.get().saturating_add(1));
        self.beat.set(None);
        self.flight.replace(Flight::default());
    }
    /// Nothing is due: nothing fails, and nothing is stuck.
    fn rest(&self) {
        self.stuck.set(0);
        self.falls.set(0);
    }
    fn begin(&self, now: Timestamp) -> u64 {
        let epoch = self.epoch.get().wrapping_add(1);
        self.epoch.set(epoch);
        self.beat.set(Some(now));
        epoch
    }
    fn progress(&self, stuck: bool, failed: bool) {
        let count = match (failed, stuck) {
            // A failure is not a batch: it is slowed down from the first.
            (true, _) => self.stuck.get().saturating_add(1).max(FREE_TICKS.saturating_add(1)),
            (false, true) => self.stuck.get().saturating_add(1),
            (false, false) => 0,
        };
        self.stuck.set(count);
    }
}

impl TownDO {
    /// One alarm: runs until nothing is in the air, or its time is up.
    pub(super) async fn turn(&self) {
        let began = clock::now();
        if self.turns.running(began) {
            // Alarms of an object do not overlap, so this is a harness, or a clock that jumped. The loop will see to it.
            self.turns.ring();
            return;
        }
        if let Some(wake) = self.nothing_is_due(began) {
            // Whatever kept the town from making progress is over: what comes next is not slowed down for it.
            self.turns.rest();
            if self.arm(wake).await {
                return;
            }
        }
        let epoch = self.turns.begin(began);
        let mut dead_man: Option<Timestamp> = None;
        let wake = loop {
            let now = clock::now();
            self.turns.beat.set(Some(now));
            if dead_man.is_none_or(|at| at.since(now) < DEAD_MAN_NEAR) {
                let at = now.plus(DEAD_MAN);
                match alarm::set(&self.storage(), at).await {
                    Ok(()) => dead_man = Some(at),
                    // Without it the loop still runs and ends by arming the alarm; it is tried again next time.
                    Err(e) => self.log("alarm.dead_man", &crate::platform::errors::words(&e)),
                }
            }
            let started = self.tick_and_launch();
            let now = clock::now();
            let wake = self.wake_after_tick(now, started);
            self.show(wake);
            if self.turns.flight.borrow().running.is_empty() || now.since(began) > LOOP_LIMIT {
                break wake;
            }
            let limit = dead_man.map_or(now, |at| at.plus(-DEAD_MAN_NEAR));
            let until = wake.map_or(limit, |at| at.min(limit)).max(self.turns.not_before(now));
            let landed = self.first_of(until.since(now)).await;
            if self.turns.epoch.get() != epoch {
                // Given up for dead, or the town is being deleted. Another loop may have been meant by the ring that
                // woke this one, and an outcome that this one happened to catch must not be lost.
                if !self.deleted.get() {
                    self.land(landed);
                    self.turns.ring();
                }
                return;
            }
            self.land(landed);
        };
        // From here on commands see to the alarm themselves; ours is issued before any of theirs can be.
        self.turns.beat.set(None);
        self.turns.falls.set(0);
        self.arm(wake).await;
    }

    /// The next deadline, if nothing is due now: the alarm was set for a lease that heartbeats have moved on since. It is
    /// set anew without a tick, and without a dead-man alarm: no await stands between this and setting it.
    #[allow(clippy::option_option, reason = "no deadline at all is an answer, too")]
    fn nothing_is_due(&self, now: Timestamp) -> Option<Option<Timestamp>> {
        if !self.turns.flight.borrow().running.is_empty() {
            return None;
        }
        // What fails here fails in the loop again, which slows down.
        self.next_wake(now).ok().filter(|wake| wake.is_none_or(|at| at > now))
    }

    /// After a panic in the loop: begins anew with the next alarm, as after a crash, ever more slowly if it happens again.
    /// The dead-man alarm stands behind it.
    pub(super) async fn fallen(&self) {
        self.turns.fall();
        self.resumed.set(false);
        self.arm(Some(clock::now())).await;
    }

    /// Arms the alarm for `wake`, or removes it; true if that was done.
    async fn arm(&self, wake: Option<Timestamp>) -> bool {
        let storage = self.storage();
        let now = clock::now();
        let in_the_air = !self.turns.flight.borrow().running.is_empty();
        let armed = match wake {
            // The loop's time was up: the next one takes over at once.
            _ if in_the_air => alarm::set(&storage, now.plus(1)).await,
            Some(at) => alarm::set(&storage, at.max(self.turns.not_before(now))).await,
            None => alarm::clear(&storage).await,
        };
        if let Err(e) = &armed {
            // After a loop the dead-man alarm is still set, and will bring us back here.
            self.log("alarm.arm", &crate::platform::errors::words(e));
        }
        armed.is_ok()
    }

    /// Ticks and starts what is new; true if a call was started. `None` if the tick failed.
    fn tick_and_launch(&self) -> Option<bool> {
        match self.tick() {
            Ok(effects) => {
                let before = self.turns.flight.borrow().running.len();
                self.launch(effects);
                Some(self.turns.flight.borrow().running.len() > before)
            }
            Err(e) => {
                self.log("town.tick", &e);
                None
            }
        }
    }

    /// The next deadline, and a note of whether the town makes progress.
    fn wake_after_tick(&self, now: Timestamp, started: Option<bool>) -> Option<Timestamp> {
        let wake = self.next_wake(now);
        let due = wake.as_ref().is_ok_and(|at| at.is_some_and(|at| at <= now));
        self.turns.progress(due && started == Some(false), started.is_none() || wake.is_err());
        match wake {
            // A failed tick may have left anything due.
            Ok(wake) if started.is_some() => wake,
            Ok(_) => Some(now),
            Err(e) => {
                self.log("town.next_wake", &e);
                Some(now)
            }
        }
    }

    /// Waits for the first of: an effect ended, the bell, `pause` milliseconds.
    async fn first_of(&self, pause: Millis) -> Option<Landed> {
        let bell = self.turns.bell.notified();
        let delay = Delay::from(Duration::from_millis(pause.max(1).unsigned_abs()));
        // Polled through the cell, so that the borrow ends with each poll. What is polled in there performs calls and
        // never touches the flight.
        let landed = poll_fn(|cx| self.turns.flight.borrow_mut().running.poll_next_unpin(cx));
        pin_mut!(bell, delay);
        match select(landed, select(bell, delay)).await {
            Either::Left((landed, _)) => landed,
            Either::Right(_) => None,
        }
    }

    /// Settles what ended: the one that was waited for, and those that ended with it.
    fn land(&self, first: Option<Landed>) {
        let mut next = first;
        while let Some(landed) = next {
            self.turns.flight.borrow_mut().busy.retain(|a| !landed.agents.contains(a));
            if let Some(outcome) = landed.outcome {
                match self.settle(outcome) {
                    Ok(effects) => self.launch(effects),
                    // The outcome is lost, the booking is not: its lease ends, and the rules find out by looking.
                    Err(e) => self.log("town.settle", &e),
                }
            }
            next = poll_fn(|cx| self.turns.flight.borrow_mut().running.poll_next_unpin(cx)).now_or_never().flatten();
        }
        // Agents that are free now may have something waiting.
        self.launch(Vec::new());
    }

    /// Queues effects and starts all whose agents are free, in order.
    fn launch(&self, effects: Vec<Effect>) {
        let who = self.who();
        let mut flight = self.turns.flight.borrow_mut();
        for effect in effects {
            if !self.say(&effect) {
                let agents = agents_of(&effect);
                flight.waiting.push_back(Waiting { effect, agents });
            }
        }
        // An agent is blocked by what is running and by what waits before: that is what keeps the order.
        let mut blocked = flight.busy.clone();
        for waiting in std::mem::take(&mut flight.waiting) {
            let free = waiting.agents.iter().all(|a| !blocked.contains(a));
            blocked.extend(waiting.agents.iter().cloned());
            if free {
                let Waiting { effect, agents } = waiting;
                if let Effect::StartAgent(start) = &effect {
                    panic_probe::at("loop", &start.request.prompt);
                }
                flight.busy.extend(agents.iter().cloned());
                let whose = self.whose(&who, &effect);
                let performed = Performer::perform(Rc::clone(&self.performer), effect, whose);
                // A call that panics ends without an outcome, and its agents are free again.
                let landed = panics::caught(performed).map(|done| Landed { agents, outcome: done.ok().flatten() });
                flight.running.push(Box::pin(landed));
            } else {
                flight.waiting.push_back(waiting);
            }
        }
    }

    /// For whom an effect is performed, with what the container is to be given as it is now. If that cannot be read the call
    /// is made without: a container that runs needs none of it.
    fn whose(&self, who: &Who, effect: &Effect) -> Whose {
        let outfit = if needs_outfit(effect) { self.outfit() } else { None };
        Whose { town_id: who.town_id.clone(), owner: who.owner_user_id.clone(), outfit }
    }

    fn log(&self, at: &str, message: &str) {
        log::error(at, &self.town_id(), message);
    }
}
