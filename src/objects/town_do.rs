//! `TownDO`: one town's object. It owns the database and the alarm, hands commands to the core, and sees to it that
//! the alarm rings when the core wants to be woken. The loop behind the alarm is in [`super::town_loop`].
//!
//! # Why the awaits are safe
//! A command is applied in one synchronous section: read, decide and write happen with no await in between, inside a
//! savepoint, and the answer leaves only after the rows are durable (the output gate). Before it there is one await,
//! reading the request, after which everything is looked at afresh. After it there are two, both on the alarm: the
//! rows are committed by then, so if the object dies there the next request, or the alarm that was set before, repairs
//! the alarm; the deadline that is armed is computed *after* reading the alarm, so a command that came in between is
//! part of it.
//!
//! # Why a panic is survived
//! [`TownDO::fetch`] and [`TownDO::alarm`] catch it, so the object stays, and what it holds must be whole. The rows are: a
//! command, a tick and a settling are one savepoint each, which a panic rolls back. Of what is in memory, the ledger and
//! the settings cannot be left half done; a panic in the loop is treated as the object's death would be
//! ([`TownDO::fallen`]); and one between a commit and the alarm is followed by seeing to the alarm.

use super::{
    ledger::{Ledger, TICK},
    perform::{Performer, Whose},
    response::{announced, response},
    town_loop::Turns,
    watch::{Shown, with_alarm},
};
use crate::town::json::json;
use crate::{
    edge::{
        admission::{Full, Hand, Lane},
        envelope::{Answer, Refusal, Style},
        errand::{Errand, Order},
        route::Route,
    },
    platform::{
        alarm, clock, errors,
        ids::{self, RandomIds},
        log, panic_probe, panics, sockets,
        sql::ObjectSql,
    },
    town::{
        Ctx, Reply, Town,
        command::{Actor, Command},
        container::Outfit,
        departed,
        effect::{Effect, Outcome},
        error::{Cause, TownError},
        id::RigId,
        migrate,
        pulse::Pulses,
        reconcile::TICK_EVENT,
        sql::Sql,
        state::State as TownState,
        time::{Millis, SECOND, Timestamp},
    },
};
use futures_util::future::{join, join_all, select};
use serde_json::Value as Json;
use std::{
    cell::{Cell, OnceCell},
    panic::RefUnwindSafe,
    rc::Rc,
    time::Duration,
};
use worker::{Delay, DurableObject, Env, Error, Request, Response, Result, State, Storage, durable_object};

/// An alarm that should have rung this long ago is stuck, not late (cloudflare-docs #18324).
const ALARM_GRACE: Millis = 5 * SECOND;
/// How long a town that is being deleted waits for its agents to be stopped.
const FAREWELL: Millis = 15 * SECOND;

/// A town's object.
#[durable_object(alarm)]
#[derive(Debug)]
pub struct TownDO {
    pub(super) state: State,
    pub(super) sql: ObjectSql,
    migrated: std::result::Result<(), String>,
    pub(super) resumed: Cell<bool>,
    pub(super) deleted: Cell<bool>,
    who: OnceCell<Who>,
    ledger: Ledger,
    /// The requests that are being served.
    hand: Hand,
    /// What is known of the agents' heartbeats beyond the rows.
    pulses: Pulses,
    pub(super) performer: Rc<Performer>,
    pub(super) turns: Turns,
    pub(super) shown: Shown,
}

/// Whose town this is.
#[derive(Clone, Debug, Default)]
pub(super) struct Who {
    pub town_id: String,
    pub owner_user_id: String,
}

/// Its cells are whole after a panic: see the module's word on panics.
impl RefUnwindSafe for TownDO {}

impl DurableObject for TownDO {
    fn new(state: State, env: Env) -> Self {
        let sql = ObjectSql::new(state.storage());
        let now = clock::now();
        // `new` cannot fail, so a refusal is kept. It has touched nothing, and nothing else will.
        let migrated = migrate::migrate(&sql, now).map_err(|e| e.to_string());
        Self {
            state,
            sql,
            migrated,
            resumed: Cell::new(false),
            deleted: Cell::new(false),
            who: OnceCell::new(),
            ledger: Ledger::new(now),
            hand: Hand::new(),
            pulses: Pulses::new(now),
            performer: Rc::new(Performer::new(env)),
            turns: Turns::new(),
            shown: Shown::default(),
        }
    }

    async fn fetch(&self, mut req: Request) -> Result<Response> {
        let path = req.path();
        if path == "/watch" {
            return panics::caught(self.watch(&req)).await.unwrap_or_else(|_| response(&Refusal::internal().answer()));
        }
        if let Ok(answer) = panics::caught(self.answer(&path, &mut req)).await {
            return response(&answer?);
        }
        if path == "/delete" {
            // Not deleted after all: let it be asked for again.
            self.deleted.set(false);
        }
        // What was committed before the panic may be due.
        if panics::caught(self.see_to_alarm(false)).await.is_err() {
            log::error("alarm.repair", &self.town_id(), "panicked, too");
        }
        response(&Refusal::internal().answer())
    }

    async fn alarm(&self) -> Result<Response> {
        // Never an error: the runtime would count it, retry six times and then forget the alarm for good.
        if self.refused().is_none() {
            let turned = panics::caught(async {
                if let Err(e) = self.resume() {
                    // Without it attempts whose calls were lost would wait for their leases; better late than never.
                    log::error("town.resume", &self.town_id(), &words(&e));
                }
                self.turn().await;
            });
            if turned.await.is_err() {
                self.fallen().await;
            }
        }
        Response::empty()
    }
}

impl TownDO {
    async fn answer(&self, path: &str, req: &mut Request) -> Result<Answer> {
        if let Some(refusal) = self.refused() {
            return Ok(refusal.answer());
        }
        Ok(match (path, Lane::of_path(path)) {
            (_, Some(lane)) => match self.hand.take(lane, announced(req)) {
                Ok(_place) => {
                    let text = req.text().await?;
                    panic_probe::at("object", &text);
                    self.command(text).await
                }
                Err(full) => self.sent_away(full),
            },
            ("/delete", _) => self.delete().await,
            _ => Refusal::unknown_route().answer(),
        })
    }

    pub(super) fn storage(&self) -> Storage {
        self.state.storage()
    }

    /// The town's id: what the object was addressed by. A runtime may not know it in an alarm, but the town does.
    pub(super) fn town_id(&self) -> String {
        self.who().town_id
    }

    /// Whose town this is, read once: neither changes while a town lives.
    pub(super) fn who(&self) -> Who {
        if let Some(who) = self.who.get() {
            return who.clone();
        }
        match TownState::find(&self.sql) {
            Ok(Some(state)) => {
                self.who.get_or_init(|| Who { town_id: state.town_id, owner_user_id: state.owner_user_id }).clone()
            }
            // Not founded yet, or the database is in trouble; both may be over at the next call.
            Ok(None) | Err(_) => Who { town_id: self.state.id().name().unwrap_or_default(), ..Who::default() },
        }
    }

    /// Why nothing can be asked of this object, if so.
    pub(super) fn refused(&self) -> Option<Refusal> {
        if let Err(why) = &self.migrated {
            let text = format!("migration refused: {why}");
            log::error("town.migrate", &self.state.id().name().unwrap_or_default(), &text);
            return Some(Refusal::new(500, "migration_refused", text));
        }
        self.deleted.get().then(|| Refusal::missing("Town"))
    }

    /// Tells the core, once, that effects which were in the air have lost their owner. True if that changed a row just
    /// now: then deadlines may have moved. (What the memory knew was lost with it, too; that moves none earlier.)
    fn resume(&self) -> std::result::Result<bool, TownError> {
        if self.resumed.get() {
            return Ok(false);
        }
        let ids = RandomIds;
        let ctx = Ctx::new(clock::now(), &ids).remembering(&self.pulses);
        let before = self.sql.usage().rows_written;
        self.ledger.measure(&self.sql, "resume", || Town::new(&self.sql).resume(&ctx))?;
        self.resumed.set(true);
        Ok(self.sql.usage().rows_written > before)
    }

    /// 503, before anything of the request was read.
    fn sent_away(&self, full: Full) -> Answer {
        if full.first {
            log::error("town.overloaded", &self.town_id(), "too many requests in hand: some are answered 503");
        }
        Refusal::overloaded(ids::byte()).answer()
    }

    async fn command(&self, text: String) -> Answer {
        let errand = Errand::read(&text);
        let probed = panic_probe::asked("answer", &text);
        // A body of a megabyte must not be held while the alarm is seen to.
        drop(text);
        let Some(Errand { actor, what }) = errand else {
            return Refusal::bad_query("unreadable errand").answer();
        };
        if let Some(refusal) = self.refused() {
            // The town was deleted while the request was read.
            return refusal.answer();
        }
        let Order { verb, command, route, mayors, bare } = match what.read(&actor) {
            Ok(order) => order,
            Err(refusal) => return refusal.answer(),
        };
        let style = if bare { Style::Bare } else { Style::Enveloped };
        let shows_cost = matches!(route, Some(Route::GetDispatch | Route::DebugStatus));
        let resumed = match self.resume() {
            Ok(resumed) => resumed,
            Err(e) => return self.failure("resume", e),
        };
        match self.handle(&verb, &actor, command) {
            Ok(mut reply) => {
                panic_probe::go("answer", probed);
                let alarm = self.see_to_alarm(reply.quiet && !resumed).await;
                self.show(alarm);
                if shows_cost {
                    self.add_cost(&mut reply.data, alarm);
                }
                if route == Some(Route::ReadRegistry) {
                    self.performer.equip_again(&mut reply.data, self.who());
                }
                Answer::reply(reply, style)
            }
            Err(e) => {
                // Refused, so no deadline has moved; but an alarm that is stuck is repaired on every request.
                self.see_to_alarm(!resumed).await;
                self.failure(&verb, if mayors { e.to_the_mayor() } else { e })
            }
        }
    }

    pub(super) fn handle(&self, verb: &str, actor: &Actor, command: Command) -> std::result::Result<Reply, TownError> {
        let ids = RandomIds;
        let ctx = Ctx::new(clock::now(), &ids).remembering(&self.pulses).watched(self.watched());
        let reply = self.ledger.measure(&self.sql, verb, || Town::new(&self.sql).handle(&ctx, actor, command))?;
        for effect in &reply.effects {
            self.say(effect);
        }
        Ok(reply)
    }

    pub(super) fn tick(&self) -> std::result::Result<Vec<Effect>, String> {
        let ids = RandomIds;
        let ctx = Ctx::new(clock::now(), &ids).remembering(&self.pulses).watched(self.watched());
        let mut effects =
            self.ledger.measure(&self.sql, TICK, || Town::new(&self.sql).tick(&ctx)).map_err(|e| words(&e))?;
        for effect in &mut effects {
            if let Effect::Emit(point) = effect
                && point.event == TICK_EVENT
            {
                #[allow(clippy::cast_precision_loss, reason = "a tick is no 2^53 milliseconds long")]
                let wall = clock::now().since(ctx.now) as f64;
                point.duration_ms = wall;
            }
        }
        Ok(effects)
    }

    pub(super) fn settle(&self, outcome: Outcome) -> std::result::Result<Vec<Effect>, String> {
        let ids = RandomIds;
        let ctx = Ctx::new(clock::now(), &ids).remembering(&self.pulses).watched(self.watched());
        self.ledger.measure(&self.sql, "settle", || Town::new(&self.sql).settle(&ctx, outcome)).map_err(|e| words(&e))
    }

    /// What the town gives its container.
    pub(super) fn outfit(&self) -> Option<Outfit> {
        let outfit = self.ledger.measure(&self.sql, "outfit", || Town::new(&self.sql).outfit());
        outfit.map_err(|e| log::error("town.outfit", &self.town_id(), &words(&e))).ok()
    }

    pub(super) fn next_wake(&self, now: Timestamp) -> std::result::Result<Option<Timestamp>, String> {
        let ids = RandomIds;
        let ctx = Ctx::new(now, &ids).remembering(&self.pulses);
        self.ledger.measure(&self.sql, "next_wake", || Town::new(&self.sql).next_wake(&ctx)).map_err(|e| words(&e))
    }

    /// Sees to it that the town is woken in time, and repairs an alarm that is missing or stuck in the past. `quiet`:
    /// no deadline has moved. Returns when the alarm will ring.
    async fn see_to_alarm(&self, quiet: bool) -> Option<Timestamp> {
        let storage = self.storage();
        let armed = match alarm::get(&storage).await {
            Ok(armed) => armed,
            Err(e) => {
                log::error("alarm.get", &self.town_id(), &errors::words(&e));
                None
            }
        };
        // From here to the next await nothing can come in between.
        let now = clock::now();
        if self.deleted.get() {
            return None;
        }
        if self.turns.running(now) {
            // The loop arms the alarm when it ends, by the rows as they are then.
            if !quiet {
                self.turns.ring();
            }
            return armed;
        }
        let stuck = armed.is_some_and(|at| now.since(at) > ALARM_GRACE);
        if quiet && armed.is_some() && !stuck {
            return armed;
        }
        let wake = self.next_wake(now).unwrap_or_else(|e| {
            log::error("town.next_wake", &self.town_id(), &e);
            Some(now.plus(SECOND))
        });
        let Some(wake) = wake else {
            // A town with nothing due has no alarm: one left over from a lease that ended well would ring for nothing.
            // If the object dies before this is done, it rings once.
            return match alarm::clear(&storage).await {
                Ok(()) => None,
                Err(e) => {
                    log::error("alarm.clear", &self.town_id(), &errors::words(&e));
                    armed
                }
            };
        };
        let wanted = wake.max(self.turns.not_before(now));
        if !stuck && armed.is_some_and(|at| at <= wanted) {
            return armed;
        }
        match alarm::set(&storage, wanted).await {
            Ok(()) => Some(wanted),
            Err(e) => {
                log::error("alarm.set", &self.town_id(), &errors::words(&e));
                armed
            }
        }
    }

    /// `alarm` and `cost` of `api.md`: the object's part of an answer.
    fn add_cost(&self, data: &mut Json, alarm: Option<Timestamp>) {
        let cost = self.ledger.cost(self.sql.usage(), self.performer.container_calls());
        if let Some(status) = data.get_mut("alarmStatus") {
            *status = with_alarm(status.take(), alarm);
        }
        let dispatch = if data.get("dispatch").is_some() { data.get_mut("dispatch") } else { Some(data) };
        if let Some(dispatch) = dispatch.and_then(Json::as_object_mut) {
            dispatch.insert("alarm".to_owned(), json!(alarm));
            dispatch.insert("cost".to_owned(), cost);
        }
    }

    pub(super) fn failure(&self, verb: &str, e: TownError) -> Answer {
        if e.is_storage() {
            log::error(&format!("town.{verb}"), &self.town_id(), &words(&e));
        }
        Refusal::from(e).answer()
    }

    /// Ends the town: stops its agents as well as it can, then removes every row and the alarm. The registry forgets
    /// the town afterwards, so a deletion that failed half-way can be asked for again.
    async fn delete(&self) -> Answer {
        // From here on every request is answered 404, also during the awaits below, and no alarm loop acts any more.
        self.deleted.set(true);
        self.turns.stop();
        sockets::close_all(&self.state, "the town was deleted");
        let stops = self.last_stops();
        let town = self.who();
        panic_probe::at("delete", &town.owner_user_id);
        let whose = Whose { town_id: town.town_id.clone(), owner: town.owner_user_id.clone(), outfit: None };
        let stopped = join(
            join_all(stops.into_iter().map(|effect| Rc::clone(&self.performer).perform(effect, whose.clone()))),
            self.performer.end_container(&town.town_id),
        );
        // What cannot be stopped in time runs until it calls back and finds no town.
        select(Box::pin(stopped), Delay::from(Duration::from_millis(FAREWELL.unsigned_abs()))).await;
        let storage = self.storage();
        let gone = match self.erase_stores(&town.town_id).await {
            Ok(()) => alarm::clear(&storage).await,
            Err(e) => Err(e),
        };
        let gone = match gone {
            Ok(()) => storage.delete_all().await,
            Err(e) => Err(e),
        };
        match gone {
            Ok(()) => Answer::data(200, json!({ "deleted": true }), Style::Enveloped),
            Err(e) => {
                // Not deleted after all: let it be asked for again.
                self.deleted.set(false);
                log::error("town.delete", &town.town_id, &errors::words(&e));
                Refusal::internal().answer()
            }
        }
    }

    /// Erases the store of every agent that is here or was removed; what cannot be erased keeps the town from being
    /// forgotten, since nobody else knows of it.
    async fn erase_stores(&self, town_id: &str) -> Result<()> {
        let mut after = String::new();
        loop {
            let agents = departed::everybody(&self.sql, &after).map_err(|e| Error::RustError(words(&e)))?;
            let Some(last) = agents.last() else { return Ok(()) };
            after.clone_from(&last.0);
            for agent in &agents {
                if !self.performer.erase(town_id, agent).await {
                    return Err(Error::RustError("an agent's store could not be erased".to_owned()));
                }
            }
        }
    }

    /// Removing the rigs ends every attempt and owes every stop; one tick hands the stops out.
    fn last_stops(&self) -> Vec<Effect> {
        let rigs = self.handle("list_rigs", &Actor::System, Command::ListRigs).map_or(Json::Null, |r| r.data);
        for rig in rigs.as_array().into_iter().flatten() {
            if let Some(id) = rig.get("id").and_then(Json::as_str) {
                let command = Command::RemoveRig { rig_id: RigId::from(id) };
                if let Err(e) = self.handle("remove_rig", &Actor::System, command) {
                    log::error("town.delete", &self.town_id(), &words(&e));
                }
            }
        }
        let effects = self.tick().unwrap_or_default();
        effects.into_iter().filter(|e| matches!(e, Effect::StopAgent(_))).collect()
    }
}

/// An error's own words, SQLite's included: for the log.
fn words(e: &TownError) -> String {
    match e.cause() {
        Cause::Storage(sql) => format!("storage: {}", sql.message),
        other => other.to_string(),
    }
}
