//! `TownContainerDO`: the container of one town. It starts it for whoever may, hands calls on to the control server in it,
//! watches it while it runs, stops it when the town has no use for it, and tells the town when it has ended. What to do is
//! decided by [`crate::container`]; here it is done.
//!
//! # Guarantees
//! * Only a call that carries an environment ([`BOOT`]) starts anything. Every other call to a container that does not run is
//!   answered at once, with the mark [`DOWN`] and the reason.
//! * There is an alarm exactly while something runs.
//! * The environment is kept nowhere: it holds tokens, and is made anew for each start.
//!
//! # Why the awaits are safe
//! The machine takes each event in one synchronous section and is saved before anything is done about it. During an await
//! other requests, the alarm and the watch over the process bring events of their own; each is judged by the machine as it
//! is then. What an await comes back with may be about a process that is gone by then: `run` counts processes, and words
//! about another one are dropped. An object that dies in an await wakes by its alarm or its next request, finds what the
//! platform has (`look_around`) and goes on from there.

use super::response::response;
use crate::town::json::{self, json};
use crate::{
    container::{self as machine, Act, Event, Machine, Phase},
    edge::{
        admission::Lane,
        envelope::{Answer, Refusal, Style},
        errand::{Errand, What},
        route::Route,
    },
    platform::{
        alarm, clock,
        container::{self, BOOT},
        errors,
        http::DOWN,
        log, panics,
        sql::ObjectSql,
        stub, town_container as platform,
    },
    town::{
        command::Actor,
        migrate,
        policy::{CONTAINER_BOOT_LIMIT, CONTAINER_READY_EVERY, CONTAINER_WATCH_EVERY, LOOK_TIMEOUT},
        time::{Millis, SECOND, Timestamp},
    },
};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    panic::RefUnwindSafe,
    rc::Rc,
    time::Duration,
};
use worker::{
    Container, Delay, DurableObject, Env, Request, Response, Result, State, durable_object, wasm_bindgen_futures,
};

/// The alarm rings no sooner than this: while a container boots, whoever waits for it asks more often anyway.
const ALARM_LEAST: Millis = 5 * SECOND;

/// A town's container.
#[durable_object(alarm)]
#[derive(Debug)]
pub struct TownContainerDO(Rc<Room>);

/// The object, shared with the watch over its process.
#[derive(Debug)]
struct Room {
    state: State,
    env: Env,
    sql: ObjectSql,
    /// Whose it is, and how far. `None`: the rows could not be read, and nothing is done.
    known: RefCell<Option<(String, Machine)>>,
    container: Option<Container>,
    /// Counts processes.
    run: Cell<u64>,
    /// The process that is being watched.
    watched: Cell<u64>,
    armed: Cell<Option<Timestamp>>,
}

/// Its cells are replaced whole, and its row is written in one statement.
impl RefUnwindSafe for TownContainerDO {}

impl DurableObject for TownContainerDO {
    fn new(state: State, env: Env) -> Self {
        let sql = ObjectSql::new(state.storage());
        let now = clock::now();
        let town = state.id().name().unwrap_or_default();
        let known = migrate::migrate_with(&sql, now, machine::MIGRATIONS, &migrate::RECORDED)
            .map_err(|e| e.to_string())
            .and_then(|()| machine::load(&sql).map_err(|e| *e.message));
        let known = match known {
            Ok(known) => Some(known.unwrap_or_else(|| (town, Machine::new(now)))),
            Err(why) => {
                log::error("container.load", &town, &why);
                None
            }
        };
        let (known, container) = (RefCell::new(known), state.container());
        let (run, watched, armed) = (Cell::new(1), Cell::new(0), Cell::new(None));
        Self(Rc::new(Room { state, env, sql, known, container, run, watched, armed }))
    }

    async fn fetch(&self, req: Request) -> Result<Response> {
        match panics::caught(self.0.answer(req)).await {
            Ok(answer) => answer,
            Err(panics::Panicked) => response(&Refusal::internal().answer()),
        }
    }

    async fn alarm(&self) -> Result<Response> {
        // Never an error: the runtime would try six times and then forget the alarm for good.
        if panics::caught(self.0.ring()).await.is_err() {
            log::error("container.alarm", &self.0.town(), "panicked");
        }
        Response::empty()
    }
}

impl Room {
    fn town(&self) -> String {
        self.known.borrow().as_ref().map(|(town, _)| town.clone()).unwrap_or_default()
    }

    fn phase(&self) -> Option<Phase> {
        self.known.borrow().as_ref().map(|(_, m)| m.phase)
    }

    async fn answer(self: &Rc<Self>, req: Request) -> Result<Response> {
        if req.path() == "/delete" {
            return self.delete().await;
        }
        self.look_around().await;
        match req.headers().get(BOOT)? {
            Some(environment) => self.boot(&environment).await,
            None => self.take(Event::Used, None).await,
        }
        let (Some(container), Some(Phase::Ready)) = (&self.container, self.phase()) else { return self.down(None) };
        // The environment goes no further.
        match platform::pass(container, &req, BOOT).await {
            Ok(response) => Ok(response),
            Err(e) => self.down(Some(&errors::words(&e))),
        }
    }

    /// An answer of the object's own.
    fn down(&self, why: Option<&str>) -> Result<Response> {
        let says = match (&self.container, &*self.known.borrow(), why) {
            (None, ..) => "TOWN_CONTAINER has no container: see docs/deploy.md".to_owned(),
            (_, None, _) => "the container's state could not be read; see the log".to_owned(),
            (_, _, Some(why)) => format!("the container did not answer: {why}"),
            (_, Some((_, m)), None) => m.says(),
        };
        let response = Response::ok(says)?.with_status(503);
        response.headers().set(DOWN, "1")?;
        Ok(response)
    }

    /// Starts the container if it does not run, and waits until it is ready, or is not going to be.
    async fn boot(self: &Rc<Self>, environment: &str) {
        let until = clock::now().plus(CONTAINER_BOOT_LIMIT + CONTAINER_WATCH_EVERY);
        let mut wanted = false;
        loop {
            match self.phase() {
                None => return,
                Some(Phase::Ready) => return self.take(Event::Used, None).await,
                Some(Phase::Stopped | Phase::Down) if wanted => return,
                Some(Phase::Stopped | Phase::Down) => {
                    wanted = true;
                    self.take(Event::Wanted, Some(environment)).await;
                }
                Some(Phase::Starting | Phase::Stopping) if clock::now() >= until => return,
                Some(Phase::Starting | Phase::Stopping) => {
                    pause(CONTAINER_READY_EVERY).await;
                    self.take(Event::Time, None).await;
                }
            }
        }
    }

    async fn ring(self: &Rc<Self>) {
        self.armed.set(None);
        // First of all, so that no crash below leaves a container that nobody watches.
        self.arm(Some(clock::now().plus(CONTAINER_WATCH_EVERY))).await;
        self.look_around().await;
        self.take(Event::Time, None).await;
    }

    /// What the platform has decides over what was known: a process that was not seen to end has ended, one that runs is
    /// watched, and one that nobody knows of is ended.
    async fn look_around(self: &Rc<Self>) {
        let Some(container) = &self.container else { return };
        let Some(should) = self.known.borrow().as_ref().map(|(_, m)| m.runs()) else { return };
        match (should, platform::running(container)) {
            (true, true) => self.watch(),
            (true, false) => {
                self.run.set(self.run.get().wrapping_add(1));
                let reason = "it ended while nobody was watching".to_owned();
                self.take(Event::Exited { code: None, reason }, None).await;
            }
            (false, true) => self.destroy().await,
            (false, false) => {}
        }
    }

    /// Watches over the process, once.
    fn watch(self: &Rc<Self>) {
        let run = self.run.get();
        if self.watched.replace(run) == run {
            return;
        }
        let room = Rc::clone(self);
        wasm_bindgen_futures::spawn_local(async move {
            let watched = panics::caught(async {
                let Some(container) = &room.container else { return };
                let exit = platform::ended(container).await;
                if room.run.get() == run {
                    room.run.set(run.wrapping_add(1));
                    room.take(Event::Exited { code: exit.code, reason: exit.reason }, None).await;
                }
            });
            // A panic has told the log; the alarm looks around.
            let _ = watched.await;
        });
    }

    /// Takes an event, does what is to be done about it, and takes what comes of that.
    async fn take(self: &Rc<Self>, event: Event, environment: Option<&str>) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for act in self.step(event) {
                events.extend(self.act(act, environment).await);
            }
        }
        let wake = self.known.borrow().as_ref().and_then(|(_, m)| m.wake());
        self.arm(wake.map(|at| at.max(clock::now().plus(ALARM_LEAST)))).await;
    }

    fn step(&self, event: Event) -> Vec<Act> {
        let mut known = self.known.borrow_mut();
        let Some((town, m)) = known.as_mut() else { return Vec::new() };
        let before = m.clone();
        let acts = m.step(event, clock::now());
        if m.is_news_to(&before)
            && let Err(e) = machine::save(&self.sql, town, m)
        {
            log::error("container.save", town, &e.message);
        }
        acts
    }

    async fn act(self: &Rc<Self>, act: Act, environment: Option<&str>) -> Option<Event> {
        let container = self.container.as_ref()?;
        match act {
            Act::Start => {
                // From here on a process that still runs is another one than is spoken of.
                self.run.set(self.run.get().wrapping_add(1));
                self.destroy().await;
                if let Err(e) = platform::start(container, environment.unwrap_or("{}")) {
                    let reason = format!("the platform did not start it: {}", errors::words(&e));
                    return Some(Event::Exited { code: None, reason });
                }
                self.watch();
                None
            }
            Act::Check => {
                let run = self.run.get();
                let answer = platform::health(container, LOOK_TIMEOUT).await;
                let health = container::health(&answer).map(|h| h.instance_id);
                (run == self.run.get()).then_some(Event::Health(health))
            }
            Act::Ask => self.ask_town().await,
            Act::Terminate => {
                if let Err(e) = platform::terminate(container) {
                    log::error("container.terminate", &self.town(), &errors::words(&e));
                }
                None
            }
            Act::Destroy => {
                let run = self.run.get();
                self.destroy().await;
                let reason = "it was ended by force".to_owned();
                (run == self.run.get()).then_some(Event::Exited { code: None, reason })
            }
            Act::Report { instance, code, reason } => {
                log::error("container.exited", &self.town(), &reason);
                self.tell_town(What::ContainerExited { instance, exit_code: code, reason }).await;
                None
            }
        }
    }

    async fn destroy(&self) {
        if let Some(container) = &self.container
            && let Err(e) = platform::destroy(container).await
        {
            log::error("container.destroy", &self.town(), &errors::words(&e));
        }
    }

    /// A town that is gone needs nothing; one that cannot be asked is asked again.
    async fn ask_town(&self) -> Option<Event> {
        match self.tell_town(What::ContainerNeeded).await? {
            stub::Answered { status: 404, .. } => Some(Event::Town { busy: false, sleep_after: 0 }),
            answered => {
                let body = json::read(&answered.body)?;
                let said = body.get("data")?;
                let (busy, sleep_after) = (said.get("busy")?.as_bool()?, said.get("sleepAfterMs")?.as_i64()?);
                Some(Event::Town { busy, sleep_after })
            }
        }
    }

    async fn tell_town(&self, what: What) -> Option<stub::Answered> {
        let town = self.town();
        let errand = Errand { actor: Actor::System, what }.write();
        // With what agents report: it must not wait behind a burst of slings.
        let path = Lane::of(Route::Completed).path();
        match stub::post(&self.env, "TOWN", &town, path, &errand).await {
            Ok(answered) => Some(answered),
            Err(e) => {
                log::error("container.town", &town, &errors::words(&e));
                None
            }
        }
    }

    /// Arms the alarm, or clears it.
    async fn arm(&self, wake: Option<Timestamp>) {
        let (storage, armed, now) = (self.state.storage(), self.armed.get(), clock::now());
        let done = match wake {
            Some(at) if armed.is_none_or(|armed| armed > at || armed <= now) => {
                self.armed.set(Some(at));
                alarm::set(&storage, at).await
            }
            Some(_) => return,
            None if self.armed.take().is_none() => return,
            None => alarm::clear(&storage).await,
        };
        if let Err(e) = done {
            self.armed.set(None);
            log::error("container.alarm", &self.town(), &errors::words(&e));
        }
    }

    /// The town is deleted: nothing of its container stays.
    async fn delete(&self) -> Result<Response> {
        self.run.set(self.run.get().wrapping_add(1));
        // From here on nothing is started any more, also during the awaits below.
        self.known.replace(None);
        self.destroy().await;
        let storage = self.state.storage();
        alarm::clear(&storage).await?;
        storage.delete_all().await?;
        response(&Answer::data(200, json!({ "deleted": true }), Style::Enveloped))
    }
}

async fn pause(ms: Millis) {
    Delay::from(Duration::from_millis(ms.unsigned_abs())).await;
}
