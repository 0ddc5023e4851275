//! Pulses: the heartbeats that the object remembers, so that a healthy agent costs no row.
//!
//! A heartbeat of a proven agent says nothing new but the time. The object keeps that time here and hands this memory to
//! every verb with its [`Ctx`]; the row follows when it is [`HEARTBEAT_STORE_EVERY`] old, or when a heartbeat does say
//! something new (proof, another instance, an answer to a look).
//!
//! *Guarantees.*
//! * The memory only ever moves the deadline of a live, proven attempt, and never decides how one ends: past the deadline
//!   the container is asked, as ever.
//! * What is known of the rows is trusted only until the next row is written by anybody: [`Usage::rows_written`] is the
//!   stamp. A verb that is undone leaves no trust behind ([`Pulses::doubt`]).
//! * A memory that is lost makes no deadline earlier, so no alarm is missed (`deadline` below says why).
//!
//! *Assumptions.* One instance of the object at a time serves all requests, and every row goes through one [`Sql`].
//!
//! The table changes behind a shared reference: every verb reads it with its context, and one of them writes it. No borrow
//! outlives a call of this file.
//!
//! [`Usage::rows_written`]: super::sql::Usage::rows_written

use super::Ctx;
use super::agent::Agent;
use super::command::Heartbeat;
use super::config::Config;
use super::dispatch::attempt::{self, Attempt, Quiet};
use super::error::TownError;
use super::id::{AgentId, AttemptId};
use super::policy::HEARTBEAT_STORE_EVERY;
use super::reconcile::inactivity::{self, Activity};
use super::sorted::Sorted;
use super::sql::{Columns, Sql};
use super::state::State;
use super::time::{Millis, Timestamp};
use std::cell::RefCell;

/// The memory of one object. It dies with the object.
#[derive(Debug)]
pub struct Pulses {
    born: Timestamp,
    heard: RefCell<Sorted<AgentId, Heard>>,
    roll: RefCell<Option<Roll>>,
}

/// The last heartbeat of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The attempt it spoke for.
    pub attempt: AttemptId,
    /// When.
    pub at: Timestamp,
    /// The deadline of the next one.
    pub lease_until: Timestamp,
    /// The last thing that the agent did, as far as its heartbeats told.
    pub event_at: Option<Timestamp>,
}

/// The live attempts as the rows had them when so many rows had been written.
#[derive(Debug)]
struct Roll {
    written: u64,
    timeout: Millis,
    instance: Option<String>,
    drained: Option<String>,
    live: Sorted<AgentId, Live>,
}

/// A live attempt, as far as heartbeats go.
#[derive(Clone, Debug)]
struct Live {
    attempt: AttemptId,
    proven: bool,
    lease_until: Option<Timestamp>,
    heartbeat_at: Option<Timestamp>,
    looks: u32,
    look_until: Option<Timestamp>,
    instance: Option<String>,
    event_at: Option<Timestamp>,
    activity: Activity,
}

impl Live {
    fn of(attempt: &Attempt) -> Self {
        Self {
            attempt: attempt.id.clone(),
            proven: attempt.proven_at.is_some() && !attempt.reviving,
            lease_until: attempt.lease_until,
            heartbeat_at: attempt.last_heartbeat_at,
            looks: attempt.looks,
            look_until: attempt.look_until,
            instance: attempt.instance_id.clone(),
            event_at: attempt.last_event_at,
            activity: Activity::of(attempt),
        }
    }
}

/// When somebody has to look at a live attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its agent.
    pub agent: AgentId,
    /// The end of its lease, by rows and memory; `None` = never.
    pub at: Option<Timestamp>,
    /// A look at it is under way until then.
    pub look_until: Option<Timestamp>,
}

impl Pulses {
    /// The memory of an object that is made now.
    #[must_use]
    pub const fn new(born: Timestamp) -> Self {
        Self { born, heard: RefCell::new(Sorted::new()), roll: RefCell::new(None) }
    }

    /// When the object was made.
    #[must_use]
    pub const fn born(&self) -> Timestamp {
        self.born
    }

    /// The last heartbeat of an agent, if this object heard one.
    #[must_use]
    pub fn last(&self, agent: &AgentId) -> Option<Heard> {
        self.heard.borrow().get(agent).cloned()
    }

    /// What was known of the rows is trusted no more: a verb was undone.
    pub fn doubt(&self) {
        self.roll.replace(None);
    }

    /// A look at this agent has begun: from now on its row rules.
    pub fn forget(&self, agent: &AgentId) {
        self.heard.borrow_mut().remove(agent);
    }

    /// The heartbeat timeout was lowered: no deadline is later than `until`.
    pub fn cap(&self, until: Timestamp) {
        for heard in self.heard.borrow_mut().values_mut() {
            heard.lease_until = heard.lease_until.min(until);
        }
    }

    /// Takes a heartbeat that says nothing new but the time, without a statement; false if the rows must be asked.
    pub fn takes(&self, sql: &dyn Sql, now: Timestamp, agent: &AgentId, said: &Heartbeat) -> bool {
        let roll = self.roll.borrow();
        let Some(roll) = roll.as_ref().filter(|roll| roll.written == sql.usage().rows_written) else { return false };
        let Some(live) = roll.live.get(agent) else { return false };
        let speaks_for_it = said.dispatch_id.as_deref().is_none_or(|id| id.is_empty() || id == live.attempt.0);
        let known_instance = said.container_instance_id.as_deref().is_none_or(|id| {
            roll.instance.as_deref() == Some(id)
                && live.instance.as_deref() == Some(id)
                && roll.drained.as_deref() != Some(id)
        });
        let nothing_new = live.proven
            && live.looks == 0
            && live.look_until.is_none()
            && said.status.as_deref() != Some("starting")
            && speaks_for_it
            && known_instance;
        let lease_until = now.plus(roll.timeout);
        // A deadline that moves earlier, since the clock was set back, is news: the alarm stands at the later one.
        let moves_on = self.deadline(agent, live, roll.timeout).is_some_and(|was| was <= lease_until);
        let event_at = self.event_at(agent, &live.attempt, live.event_at, live.activity.event_of(said, now));
        let too_quiet = live.activity.due(event_at, inactivity::is_busy(said), now).is_some();
        if !nothing_new || !moves_on || too_quiet || !fresh(live.heartbeat_at, now) {
            return false;
        }
        self.hear(agent, &live.attempt, now, lease_until, event_at);
        true
    }

    fn hear(
        &self,
        agent: &AgentId,
        attempt: &AttemptId,
        at: Timestamp,
        lease_until: Timestamp,
        event_at: Option<Timestamp>,
    ) {
        let heard = Heard { attempt: attempt.clone(), at, lease_until, event_at };
        self.heard.borrow_mut().insert(agent.clone(), heard);
    }

    /// The last thing that an agent did: what it says now, else what is remembered, else what its row has. Nothing that
    /// was done is undone by a voice that came late.
    fn event_at(
        &self,
        agent: &AgentId,
        attempt: &AttemptId,
        stored: Option<Timestamp>,
        said: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let remembered = self.heard.borrow().get(agent).filter(|h| h.attempt == *attempt).and_then(|h| h.event_at);
        stored.max(remembered).max(said)
    }

    /// The row was written by [`beat`]: what is known stays known.
    fn stored(
        &self,
        sql: &dyn Sql,
        agent: &AgentId,
        at: Timestamp,
        lease_until: Timestamp,
        instance: Option<&str>,
        event_at: Option<Timestamp>,
    ) {
        if let Some(roll) = self.roll.borrow_mut().as_mut()
            && let Some(live) = roll.live.get_mut(agent)
        {
            roll.written = sql.usage().rows_written;
            live.heartbeat_at = Some(at);
            live.lease_until = Some(lease_until);
            live.looks = 0;
            live.look_until = None;
            live.instance = instance.map(str::to_owned).or_else(|| live.instance.take());
            live.event_at = live.event_at.max(event_at);
        }
    }

    fn knows(&self, sql: &dyn Sql) -> bool {
        self.roll.borrow().as_ref().is_some_and(|roll| roll.written == sql.usage().rows_written)
    }

    /// Reads the live attempts again if any row was written since they were read.
    pub fn refresh(&self, sql: &dyn Sql) -> Result<(), TownError> {
        if self.knows(sql) {
            return Ok(());
        }
        let roll = read(sql)?;
        // Who has no live attempt is nobody's to remember: the table is never larger than the town at work.
        if let Some(roll) = &roll {
            let lives =
                |agent: &AgentId, heard: &Heard| roll.live.get(agent).is_some_and(|l| l.attempt == heard.attempt);
            self.heard.borrow_mut().retain(|agent, heard| lives(agent, heard));
        }
        self.roll.replace(roll);
        Ok(())
    }

    /// The end of a lease, by row and memory.
    ///
    /// With no memory of a proven agent's last heartbeat the row may be up to [`HEARTBEAT_STORE_EVERY`] behind: the agent
    /// gets one heartbeat timeout from the object's birth to be heard, but no more than it would have got if it had been
    /// heard just before its row was due. Without that, an object that the platform puts to sleep between two heartbeats
    /// (after 10 s) would ask the container after every healthy agent whenever its alarm rings. Either bound is at or
    /// beyond what the lost memory said: heard at `h` before birth, `h + timeout` is below both.
    fn deadline(&self, agent: &AgentId, live: &Live, timeout: Millis) -> Option<Timestamp> {
        if !live.proven || live.looks > 0 || live.look_until.is_some() {
            return live.lease_until;
        }
        if let Some(heard) = self.heard.borrow().get(agent).filter(|heard| heard.attempt == live.attempt) {
            return Some(heard.lease_until);
        }
        let at_the_latest = live.heartbeat_at.map(|at| at.plus(HEARTBEAT_STORE_EVERY).plus(timeout));
        let grace = at_the_latest.map(|latest| latest.min(self.born.plus(timeout)));
        live.lease_until.max(grace.filter(|_| live.lease_until.is_some()))
    }
}

/// A stored time that need not be written again. One that lies ahead is none: the clock was set back.
fn fresh(stored: Option<Timestamp>, now: Timestamp) -> bool {
    stored.is_some_and(|at| (0..HEARTBEAT_STORE_EVERY).contains(&now.since(at)))
}

/// The live attempts, by agent: as many as the limits allow.
fn read(sql: &dyn Sql) -> Result<Option<Roll>, TownError> {
    let Some(state) = State::find(sql)? else { return Ok(None) };
    let timeout = Config::load(sql)?.dispatch.heartbeat_timeout_ms;
    let rows = sql.query(
        "SELECT agent_id, attempt_id, proven_at IS NOT NULL AND reviving = 0, lease_until, last_heartbeat_at, looks,
                look_until, instance_id, last_event_at, role = 'mayor', max(booked_at, coalesce(revived_at, 0)),
                quiet_since, quiet_step, nudged_at
         FROM attempts
         WHERE finished_at IS NULL",
        &[],
    )?;
    let mut live = Sorted::new();
    for r in &rows {
        let c = Columns::of(r);
        let attempt = Live {
            attempt: AttemptId(c.text(1)),
            proven: c.flag(2),
            lease_until: c.opt_at(3),
            heartbeat_at: c.opt_at(4),
            looks: c.count(5),
            look_until: c.opt_at(6),
            instance: c.opt_text(7),
            event_at: c.opt_at(8),
            activity: Activity {
                watched: !c.flag(9),
                began: c.at(10),
                quiet: Quiet { since: c.opt_at(11), step: c.count(12), nudged_at: c.opt_at(13) },
            },
        };
        let agent = AgentId(c.text(0));
        live.insert(agent, c.done(attempt)?);
    }
    let written = sql.usage().rows_written;
    Ok(Some(Roll { written, timeout, instance: state.instance_id, drained: state.drained_instance, live }))
}

/// When each live attempt has to be looked at.
pub fn dues(sql: &dyn Sql, ctx: &Ctx<'_>) -> Result<Vec<Due>, TownError> {
    let due = |at: Option<Timestamp>, agent: &AgentId, live: &Live| Due {
        attempt: live.attempt.clone(),
        agent: agent.clone(),
        at,
        look_until: live.look_until,
    };
    let Some(pulses) = ctx.pulses else {
        let roll = read(sql)?;
        return Ok(roll
            .iter()
            .flat_map(|r| r.live.iter())
            .map(|(agent, live)| due(live.lease_until, agent, live))
            .collect());
    };
    pulses.refresh(sql)?;
    let roll = pulses.roll.borrow();
    let Some(roll) = roll.as_ref() else { return Ok(Vec::new()) };
    Ok(roll.live.iter().map(|(agent, live)| due(pulses.deadline(agent, live, roll.timeout), agent, live)).collect())
}

/// A heartbeat of a proven attempt, whose row was read: the row is written only if it is old, or if this is news to it.
/// Returns the last thing that the agent did, as far as anybody knows.
pub fn beat(
    sql: &dyn Sql,
    ctx: &Ctx<'_>,
    attempt: &Attempt,
    lease_until: Timestamp,
    instance: Option<&str>,
    said: &Heartbeat,
) -> Result<Option<Timestamp>, TownError> {
    let event_at = Activity::of(attempt).event_of(said, ctx.now);
    let Some(pulses) = ctx.pulses else {
        let event_at = attempt.last_event_at.max(event_at);
        attempt::heard(sql, &attempt.id, lease_until, Some(ctx.now), instance, event_at)?;
        return Ok(event_at);
    };
    let event_at = pulses.event_at(&attempt.agent, &attempt.id, attempt.last_event_at, event_at);
    let news = attempt.looks > 0
        || attempt.reviving
        || attempt.look_until.is_some()
        || instance.is_some_and(|id| attempt.instance_id.as_deref() != Some(id));
    if news || !fresh(attempt.last_heartbeat_at, ctx.now) {
        let known = pulses.knows(sql);
        attempt::heard(sql, &attempt.id, lease_until, Some(ctx.now), instance, event_at)?;
        // What was being revived is known to be proven only when it is read again.
        if known && !attempt.reviving {
            pulses.stored(sql, &attempt.agent, ctx.now, lease_until, instance, event_at);
        }
    }
    pulses.hear(&attempt.agent, &attempt.id, ctx.now, lease_until, event_at);
    Ok(event_at)
}

/// When a live attempt has to be looked at, by its row and the memory; `None` = never.
pub fn deadline(ctx: &Ctx<'_>, attempt: &Attempt, timeout: Millis) -> Option<Timestamp> {
    let Some(pulses) = ctx.pulses else { return attempt.lease_until };
    pulses.deadline(&attempt.agent, &Live::of(attempt), timeout)
}

/// Shows an attempt as it is known, not as its row has it.
pub fn freshen(ctx: &Ctx<'_>, attempt: &mut Attempt) {
    let heard = ctx.pulses.and_then(|p| p.last(&attempt.agent)).filter(|heard| heard.attempt == attempt.id);
    if let Some(heard) = heard.filter(|_| attempt.is_live()) {
        attempt.lease_until = attempt.lease_until.max(Some(heard.lease_until));
        attempt.last_heartbeat_at = attempt.last_heartbeat_at.max(Some(heard.at));
    }
}

/// Shows an agent with its last heartbeat, not with the one that its attempt's row has.
pub fn freshen_agent(ctx: &Ctx<'_>, agent: &mut Agent) {
    if let Some(heard) = ctx.pulses.and_then(|p| p.last(&agent.id)) {
        agent.last_activity_at = agent.last_activity_at.max(Some(heard.at));
    }
}
