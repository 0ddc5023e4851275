//! The town: a pure, synchronous state machine over its own database.
//!
//! It sees four things: a [`Sql`] connection, the time, a source of ids, and the command. It never awaits, never logs,
//! never names the `worker` crate, so the whole town runs on the host under a simulated clock with the SQL text that
//! runs in production. Five verbs are all there is:
//!
//! * [`Town::handle`] applies a command in one savepoint: all or nothing;
//! * [`Town::tick`] fires every rule that is due and books what it starts;
//! * [`Town::settle`] records how an effect ended;
//! * [`Town::next_wake`] is the one deadline, `None` if nothing can become due;
//! * [`Town::explain`] says why a bead is not running: the gate, read-only.

pub mod agent;
pub mod audit;
pub mod bead;
pub mod breakers;
pub mod command;
pub mod config;
pub mod container;
pub mod convoy;
pub mod debug;
pub mod departed;
pub mod dependency;
pub mod dispatch;
pub mod drain;
pub mod effect;
pub mod error;
pub mod escalation;
pub mod event;
pub mod explain;
pub mod frame;
pub mod handle;
pub mod id;
pub(crate) mod json;
pub mod live;
pub mod mail;
pub mod mayor;
pub mod migrate;
pub mod molecule;
pub mod notify;
pub mod nudge;
pub mod overview;
pub mod policy;
pub mod prime;
pub mod prompts;
pub mod pulse;
pub mod reconcile;
pub mod redrive;
pub mod registry;
pub mod review;
pub mod rig;
pub mod sorted;
pub mod sql;
pub mod state;
pub mod text;
pub mod time;
pub mod triage;
pub mod ui_action;

use command::{Actor, Command};
use effect::{DataPoint, Effect, Outcome};
use error::TownError;
use id::{BeadId, Ids};
use pulse::Pulses;
use serde::Serialize;
use serde_json::Value as Json;
use sql::{Sql, atomically};
use std::cell::RefCell;
use time::Timestamp;

/// What a verb is given beside its arguments: the time, a source of ids, the memory of its object, and a place for data
/// points and frames.
pub struct Ctx<'a> {
    /// The time of this call.
    pub now: Timestamp,
    /// Where new ids come from.
    pub ids: &'a dyn Ids,
    /// Heartbeats that the object remembers; without it every one is written into its row.
    pub pulses: Option<&'a Pulses>,
    /// Somebody watches the town: frames are worth building.
    pub watched: bool,
    said: RefCell<Vec<Effect>>,
}

impl<'a> Ctx<'a> {
    /// A context for one call, without a memory.
    #[must_use]
    pub const fn new(now: Timestamp, ids: &'a dyn Ids) -> Self {
        Self { now, ids, pulses: None, watched: false, said: RefCell::new(Vec::new()) }
    }
    /// The same with the memory of the object. Who gives it to one verb must give it to every verb.
    #[must_use]
    pub const fn remembering(mut self, pulses: &'a Pulses) -> Self {
        self.pulses = Some(pulses);
        self
    }
    /// The same while somebody watches, or nobody does.
    #[must_use]
    pub const fn watched(mut self, watched: bool) -> Self {
        self.watched = watched;
        self
    }
    /// Runs a verb in a savepoint; if it is undone, what it had read of the rows is forgotten.
    fn atomically<T>(&self, sql: &dyn Sql, verb: impl FnOnce() -> Result<T, TownError>) -> Result<T, TownError> {
        let done = atomically(sql, verb);
        if let (Err(_), Some(pulses)) = (&done, self.pulses) {
            pulses.doubt();
        }
        done
    }
    /// Notes a data point; it becomes an effect of the verb that is running, if that succeeds.
    pub fn emit(&self, point: DataPoint) {
        self.said.borrow_mut().push(Effect::Emit(point));
    }
    /// Notes a frame for whoever watches ([`frame`]); an effect like a data point. While nobody watches it is dropped.
    pub fn broadcast(&self, frame: Json) {
        if self.watched {
            self.said.borrow_mut().push(Effect::Broadcast(frame));
        }
    }
    fn drain_said(&self) -> Vec<Effect> {
        self.said.take()
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// 200, 201 or 202.
    pub status: u16,
    /// The `data` of the envelope.
    pub data: Json,
    /// Nothing that a rule compares with the time has moved earlier: the shell need not ask for `next_wake`.
    pub quiet: bool,
    /// Data points and frames only; everything else a command causes is booked in rows and found by the next tick.
    pub effects: Vec<Effect>,
}

impl Reply {
    /// 200 with data.
    pub fn ok(data: impl Serialize) -> Result<Self, TownError> {
        Self::with(200, data)
    }
    /// 200 with data, after which no deadline has moved earlier.
    pub fn quiet(data: impl Serialize) -> Result<Self, TownError> {
        Self::with(200, data).map(Self::quietly)
    }
    /// 201 with data.
    pub fn created(data: impl Serialize) -> Result<Self, TownError> {
        Self::with(201, data)
    }
    fn with(status: u16, data: impl Serialize) -> Result<Self, TownError> {
        let data = serde_json::to_value(data).map_err(|e| sql::SqlError::new(e.to_string()))?;
        Ok(Self { status, data, quiet: false, effects: Vec::new() })
    }
    /// Marks an answer after which no deadline has moved earlier.
    #[must_use]
    pub const fn quietly(mut self) -> Self {
        self.quiet = true;
        self
    }
}

/// One town over its database.
#[derive(Clone, Copy)]
pub struct Town<'a> {
    sql: &'a dyn Sql,
}

impl<'a> Town<'a> {
    /// A town over a database that [`migrate::migrate`] has brought up to date.
    #[must_use]
    pub const fn new(sql: &'a dyn Sql) -> Self {
        Self { sql }
    }

    /// Applies a command, or refuses it and changes nothing.
    pub fn handle(&self, ctx: &Ctx<'_>, actor: &Actor, command: Command) -> Result<Reply, TownError> {
        let mut reply = ctx.atomically(self.sql, || handle::handle(self.sql, ctx, actor, command))?;
        reply.effects.extend(ctx.drain_said());
        Ok(reply)
    }

    /// Fires every rule that is due, books what it starts, and returns the effects to perform.
    pub fn tick(&self, ctx: &Ctx<'_>) -> Result<Vec<Effect>, TownError> {
        let mut effects = ctx.atomically(self.sql, || reconcile::tick(self.sql, ctx))?;
        effects.extend(ctx.drain_said());
        Ok(effects)
    }

    /// Records how an effect ended. Late and repeated outcomes change nothing.
    pub fn settle(&self, ctx: &Ctx<'_>, outcome: Outcome) -> Result<Vec<Effect>, TownError> {
        let mut effects = ctx.atomically(self.sql, || dispatch::settle::settle(self.sql, ctx, outcome))?;
        effects.extend(ctx.drain_said());
        Ok(effects)
    }

    /// The earliest moment at which a rule has something to do; `None` if nothing can become due by itself.
    pub fn next_wake(&self, ctx: &Ctx<'_>) -> Result<Option<Timestamp>, TownError> {
        reconcile::wake::next_wake(self.sql, ctx)
    }

    /// Why a bead is, or is not, running.
    pub fn explain(&self, ctx: &Ctx<'_>, bead: &BeadId) -> Result<explain::Explanation, TownError> {
        explain::explain(self.sql, ctx, bead)
    }

    /// What a container is given with its start or told about the town's settings.
    pub fn outfit(&self) -> Result<container::Outfit, TownError> {
        container::outfit(self.sql)
    }

    /// To be called once when the object was made anew: effects that were in the air have lost their owner, so whatever
    /// they had leased is due for a look at once.
    pub fn resume(&self, ctx: &Ctx<'_>) -> Result<(), TownError> {
        ctx.atomically(self.sql, || reconcile::leases::resume(self.sql, ctx))
    }
}
