//! `AgentDO`: the store of one agent, addressed `town/agent`, so that no town can read another's. Transcript and snapshot;
//! the core is [`crate::transcript`].
//!
//! Guarantees: a store is made only for an agent that its town knows, which the town is asked once, and is erased as a whole.
//! Each request is decided in one synchronous section after its body was read; a snapshot alone is written as it comes, and
//! is of no effect before its last byte is there. A new client of the live stream is shown what is stored in the same
//! section in which it begins to hear what is appended: nothing is missing between the two, and nothing comes twice.

use super::{
    response::{announced, response},
    watch::{refused, ticket},
};
use crate::town::json::json;
use crate::{
    edge::{
        admission::{Hand, Lane},
        body::MAX_DISCARDED_BYTES,
        envelope::{Answer, Refusal, Style},
        errand::{Errand, What},
        fields::Query,
    },
    platform::{
        clock, errors,
        http::REQUEST_HEADER,
        ids, log,
        panics::{self, Panicked},
        sockets,
        sql::ObjectSql,
        stub,
    },
    town::{
        command::Actor,
        error::{Cause, TownError},
        policy::{SNAPSHOT_BYTES, TRANSCRIPT_LIST},
        sql::{SqlError, atomically},
    },
    transcript::{
        self, events, read,
        snapshot::{self, Upload},
    },
};
use futures_util::{StreamExt, stream};
use std::{cell::Cell, panic::RefUnwindSafe, rc::Rc};
use worker::{DurableObject, Env, Error, Method, Request, Response, Result, State, durable_object};

type Answered<T> = std::result::Result<T, Refusal>;

/// An agent's object.
#[durable_object(fetch)]
#[derive(Debug)]
pub struct AgentDO {
    state: State,
    env: Env,
    sql: Rc<ObjectSql>,
    /// There is a store, and it is up to date.
    ready: Cell<bool>,
    /// The last upload that began: an older one that is still on its way is of no effect.
    upload: Cell<i64>,
    /// How often the store was erased.
    erasures: Cell<u32>,
    hand: Hand,
}

/// Its cells are numbers; the rest is rows, which a savepoint keeps whole.
impl RefUnwindSafe for AgentDO {}

impl DurableObject for AgentDO {
    /// Makes no store: asking an agent that has none must not leave one behind.
    fn new(state: State, env: Env) -> Self {
        Self {
            sql: Rc::new(ObjectSql::new(state.storage())),
            state,
            env,
            ready: Cell::new(false),
            upload: Cell::new(0),
            erasures: Cell::new(0),
            hand: Hand::new(),
        }
    }

    async fn fetch(&self, mut req: Request) -> Result<Response> {
        let served = panics::caught(self.serve(&mut req)).await;
        match served.unwrap_or_else(|Panicked| Err(Refusal::internal())) {
            Ok(answer) => Ok(answer),
            Err(refusal) => response(&refusal.answer()),
        }
    }
}

impl AgentDO {
    async fn serve(&self, req: &mut Request) -> Answered<Response> {
        let _place = self.hand.take(Lane::Ordinary, announced(req)).map_err(|_| Refusal::overloaded(ids::byte()))?;
        match (req.method(), req.path().as_str()) {
            (Method::Get, "/events") => self.list(req),
            (Method::Post, "/events") => self.append(req).await,
            (Method::Get, "/stream") => self.stream(req),
            (Method::Get, "/snapshot") => self.send_snapshot(),
            (Method::Post, "/snapshot") => self.take_snapshot(req).await,
            (Method::Delete, "/snapshot") => self.drop_snapshot(),
            (Method::Post, "/erase") => self.erase().await,
            _ => Err(Refusal::unknown_route()),
        }
    }

    /// The town and the agent, by which the object was addressed.
    fn address(&self) -> Answered<(String, String)> {
        let name = self.state.id().name().unwrap_or_default();
        let address = name.split_once('/').map(|(town, agent)| (town.to_owned(), agent.to_owned()));
        address.ok_or_else(Refusal::internal)
    }

    /// True if there is a store; it is up to date then.
    fn store(&self) -> Answered<bool> {
        if !self.ready.get() {
            if !transcript::exists(&*self.sql).map_err(|e| self.failed(&e.into()))? {
                return Ok(false);
            }
            self.migrate()?;
        }
        Ok(true)
    }

    fn migrate(&self) -> Answered<()> {
        transcript::migrate(&*self.sql, clock::now()).map_err(|why| {
            let text = format!("migration refused: {why}");
            log::error("agent.migrate", &self.state.id().name().unwrap_or_default(), &text);
            Refusal::new(500, "migration_refused", text)
        })?;
        self.ready.set(true);
        Ok(())
    }

    /// Makes sure that there is a store, if the town knows the agent.
    async fn found(&self) -> Answered<()> {
        if self.store()? {
            return Ok(());
        }
        let (town, agent_id) = self.address()?;
        let before = self.erasures.get();
        let text = Errand { actor: Actor::System, what: What::KnowsAgent { agent_id } }.write();
        let answered = stub::post(&self.env, "TOWN", &town, Lane::Ordinary.path(), &text).await;
        match answered.map_err(|e| stub::refusal("agent.found", &town, &e))?.status {
            200 => {}
            404 => return Err(Refusal::missing("Agent")),
            _ => return Err(Refusal::unavailable(ids::byte())),
        }
        // While the town was asked, the agent may have been removed.
        if self.erasures.get() != before {
            return Err(Refusal::missing("Agent"));
        }
        self.migrate()
    }

    // ── events ───────────────────────────────────────────────────────────────────────────────────────────────────

    async fn append(&self, req: &mut Request) -> Answered<Response> {
        let text = req.text().await.map_err(|_| Refusal::bad_query("The body could not be read"))?;
        self.found().await?;
        let (_, agent) = self.address()?;
        let request = req.headers().get(REQUEST_HEADER).ok().flatten().unwrap_or_default();
        let batch = read::read(&text)?;
        let now = clock::now();
        let appended = atomically(&*self.sql, || events::append(&*self.sql, now, &request, &batch.events));
        // `None`: the runtime has repeated the request, and whoever listens has heard it.
        if let Some(first) = appended.map_err(|e| self.failed(&e))?
            && sockets::open(&self.state) > 0
        {
            for frame in events::frames(&agent, now, first, &batch.events) {
                sockets::send_all(&self.state, &frame);
            }
        }
        answer(201, json!({ "appended": true, "events": batch.events.len() }))
    }

    fn list(&self, req: &Request) -> Answered<Response> {
        let url = req.inner().url();
        let query = Query::parse(Query::of_url(&url));
        let (_, agent) = self.address()?;
        let mut text = "[]".to_owned();
        if self.store()? {
            let limit = query.number("limit")?.and_then(|n| usize::try_from(n).ok()).unwrap_or(TRANSCRIPT_LIST);
            let after = query.number("after")?.unwrap_or(0);
            text = events::list(&*self.sql, &agent, after, limit).map_err(|e| self.failed(&e))?;
        }
        // The events are JSON already; reading and writing them again would take a tree of megabytes.
        let mut answer = Response::from_bytes(format!(r#"{{"success":true,"data":{text}}}"#).into_bytes())
            .map_err(|_| Refusal::internal())?;
        let typed = answer.headers_mut().set("Content-Type", "application/json");
        typed.map(|()| answer).map_err(|_| Refusal::internal())
    }

    fn stream(&self, req: &Request) -> Answered<Response> {
        let ticket = ticket(req);
        if let Some(refusal) = refused(&self.state, &ticket) {
            return Err(refusal);
        }
        let url = req.inner().url();
        let after = Query::parse(Query::of_url(&url)).number("after")?.unwrap_or(0);
        let (_, agent) = self.address()?;
        let mut frames = Vec::new();
        if self.store()? {
            frames = events::replay(&*self.sql, &agent, after).map_err(|e| self.failed(&e))?;
        }
        let (socket, answer) = sockets::accept(&self.state, &ticket).map_err(|_| Refusal::internal())?;
        for frame in frames {
            // Whoever is gone already hears nothing.
            let _ = socket.send_with_str(frame);
        }
        Ok(answer)
    }

    // ── the snapshot ─────────────────────────────────────────────────────────────────────────────────────────────

    /// Part by part, as the client takes it.
    fn send_snapshot(&self) -> Answered<Response> {
        let missing = || Refusal::missing("Snapshot");
        if !self.store()? {
            return Err(missing());
        }
        let whole = snapshot::whole(&*self.sql).map_err(|e| self.failed(&e.into()))?.ok_or_else(missing)?;
        let sql = Rc::clone(&self.sql);
        let parts = stream::iter(0..whole.parts).map(move |n| match snapshot::part(&*sql, whole.upload, n) {
            Ok(Some(bytes)) => Ok(bytes),
            // Half of one and half of another would be worse than an answer that breaks off.
            Ok(None) => Err(Error::RustError("the snapshot was replaced while it was read".to_owned())),
            Err(e) => Err(Error::RustError(*e.message)),
        });
        let mut answer = Response::from_stream(parts).map_err(|_| Refusal::internal())?;
        let typed = answer.headers_mut().set("Content-Type", "application/octet-stream");
        typed.map(|()| answer).map_err(|_| Refusal::internal())
    }

    /// Written as it comes: nothing but one part of it is in memory, and nobody sees it before it is whole.
    async fn take_snapshot(&self, req: &mut Request) -> Answered<Response> {
        let mut upload = match self.found().await {
            Ok(()) => Upload::begin(&*self.sql, self.upload.get()).map_err(|e| self.failed(&e)),
            Err(refusal) => Err(refusal),
        };
        let id = upload.as_ref().map_or(0, Upload::id);
        if id > 0 {
            self.upload.set(id);
        }
        let (erasures, mut arrived) = (self.erasures.get(), 0);
        if req.inner().body().is_some() {
            let broken = || Refusal::bad_query("The body could not be read");
            let mut pieces = req.stream().map_err(|_| broken())?;
            // What is refused is read to its end all the same, within bounds: else the client would not hear why.
            while arrived <= SNAPSHOT_BYTES.saturating_add(MAX_DISCARDED_BYTES)
                && let Some(piece) = pieces.next().await
            {
                let Ok(piece) = piece else {
                    upload = upload.and_then(|_| Err(broken()));
                    break;
                };
                arrived += piece.len();
                upload = upload.and_then(|upload| self.store_piece(upload, erasures, &piece));
            }
        }
        let stored = upload.and_then(|upload| {
            let upload = self.store_piece(upload, erasures, &[])?;
            atomically(&*self.sql, || upload.finish(&*self.sql, clock::now())).map_err(|e| self.failed(&e))
        });
        if stored.is_err() && id > 0 && self.upload.get() == id && self.erasures.get() == erasures {
            // If this fails, the next upload does it.
            let _ = snapshot::sweep(&*self.sql);
        }
        stored.and_then(|()| plain())
    }

    /// Stores what came, unless a newer upload has begun meanwhile, or the agent was removed.
    fn store_piece(&self, mut upload: Upload, erasures: u32, piece: &[u8]) -> Answered<Upload> {
        if self.erasures.get() != erasures {
            return Err(Refusal::missing("Agent"));
        }
        if self.upload.get() != upload.id() {
            let e = TownError::conflict("superseded", "A newer snapshot is being stored: this one is of no effect");
            return Err(e.into());
        }
        upload.push(&*self.sql, piece).map_err(|e| self.failed(&e))?;
        Ok(upload)
    }

    fn drop_snapshot(&self) -> Answered<Response> {
        if self.store()? {
            // An upload on its way is of no effect any more.
            self.upload.set(self.upload.get().saturating_add(1));
            atomically(&*self.sql, || snapshot::remove(&*self.sql)).map_err(|e| self.failed(&e))?;
        }
        plain()
    }

    // ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// The agent was removed: nothing of it is left, and whoever listens is told.
    async fn erase(&self) -> Answered<Response> {
        self.erasures.set(self.erasures.get().wrapping_add(1));
        self.ready.set(false);
        sockets::close_all(&self.state, "the agent was removed");
        match self.state.storage().delete_all().await {
            Ok(()) => plain(),
            Err(e) => Err(self.failed(&SqlError::new(errors::words(&e)).into())),
        }
    }

    fn failed(&self, e: &TownError) -> Refusal {
        if let Cause::Storage(sql) = e.cause() {
            log::error("agent.store", &self.state.id().name().unwrap_or_default(), &sql.message);
        }
        Refusal::from(e.clone())
    }
}

fn answer(status: u16, data: serde_json::Value) -> Answered<Response> {
    response(&Answer::data(status, data, Style::Enveloped)).map_err(|_| Refusal::internal())
}

/// `{success: true}`, as the predecessor answers about snapshots.
fn plain() -> Answered<Response> {
    response(&Answer::data(200, json!({ "success": true }), Style::Bare)).map_err(|_| Refusal::internal())
}
