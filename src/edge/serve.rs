//! The way of a request through the worker: route, caller, body, owner, town. Each step can end it with an answer.
//!
//! The order matters. Nothing of the body is read before the caller is known; nothing is asked of the registry for a
//! caller who would be refused anyway; and the town sees only what has passed all of it. Nothing is cached between
//! requests, so a town that is deleted is gone with the next one.

use super::{
    admission::Lane,
    auth::{self, Credentials, Ownership},
    body::{Bounded, MAX_BODY_BYTES},
    container, cors,
    envelope::{Answer, Refusal, Style},
    errand::{Errand, What},
    fields::{Body, Query},
    fleet::{FleetAnswer, FleetRequest, TownRow},
    request,
    route::{self, Kind, Matched, Route},
    sockets, store,
    token::{self, ContainerClaims},
    users,
};
use crate::town::json::json;
use crate::{
    platform::{
        clock, panic_probe,
        panics::{self, Panicked},
        settings::Settings,
        stub::{self, Answered},
    },
    town::command::Actor,
};
use futures_util::StreamExt;
use worker::{Env, Headers, Request, Response, Result};

/// Answers a request. `Err` only if the runtime cannot even build an answer.
pub async fn serve(mut req: Request, env: Env) -> Result<Response> {
    let settings = Settings::read(&env);
    let path = req.path();
    let origin = req.headers().get("Origin")?;
    let development = settings.policy().is_development();
    let cors = cors::headers(&path, origin.as_deref(), &settings.allowed_origins, development);

    if req.method() == worker::Method::Options && cors::applies(&path) {
        let headers = header_map(&cors)?;
        for (name, value) in cors::preflight() {
            headers.set(name, value)?;
        }
        return Ok(Response::empty()?.with_status(204).with_headers(headers));
    }

    let sent = panics::caught(async {
        panic_probe::at("edge", &path);
        let matched = route::find(req.method().as_ref(), &path).ok_or_else(Refusal::unknown_route)?;
        let door = Door { env: &env, settings: &settings, matched: &matched };
        door.answer(&mut req).await
    })
    .await;
    // Nothing is shared between requests, so a panic has left nothing behind.
    let sent = sent.unwrap_or_else(|Panicked| Err(Refusal::internal()));
    let mut sent = sent.unwrap_or_else(|refusal| Sent::from(refusal.answer()));
    discard(&mut req).await;
    if let Some(answer) = sent.passed.take_if(|answer| answer.status_code() == SWITCHING) {
        // A socket has no use for headers.
        return Ok(answer);
    }
    let headers = header_map(&cors)?;
    headers.set("Content-Type", "application/json")?;
    // What a town says is true now and nobody else's business.
    headers.set("Cache-Control", "no-store")?;
    if let Some(value) = &sent.retry_after {
        headers.set("Retry-After", value)?;
    }
    if let Some(answer) = sent.passed {
        for name in ["Content-Type", "Retry-After"] {
            if let Some(value) = answer.headers().get(name)? {
                headers.set(name, &value)?;
            }
        }
        return Ok(answer.with_headers(headers));
    }
    Ok(Response::from_bytes(sent.body.into_bytes())?.with_status(sent.status).with_headers(headers))
}

fn header_map(pairs: &[(&str, String)]) -> Result<Headers> {
    let headers = Headers::new();
    for (name, value) in pairs {
        headers.set(name, value)?;
    }
    Ok(headers)
}

/// The status of an answer that is a WebSocket.
const SWITCHING: u16 = 101;

/// An answer as it goes out.
#[derive(Debug)]
pub struct Sent {
    /// The HTTP status.
    pub status: u16,
    /// The JSON text.
    pub body: String,
    /// The `Retry-After` header.
    pub retry_after: Option<String>,
    /// An object's or the container's own answer, which goes out unread, in place of `status` and `body`.
    pub passed: Option<Response>,
}

impl Sent {
    /// An object's answer, unread.
    #[must_use]
    pub const fn passed(answer: Response) -> Self {
        Self { status: 0, body: String::new(), retry_after: None, passed: Some(answer) }
    }
}

impl From<Answer> for Sent {
    fn from(answer: Answer) -> Self {
        let retry_after = answer.retry_after_seconds().map(|s| s.to_string());
        Self { status: answer.status, body: answer.body.to_string(), retry_after, passed: None }
    }
}

impl From<Answered> for Sent {
    fn from(a: Answered) -> Self {
        Self { status: a.status, body: a.body, retry_after: a.retry_after, passed: None }
    }
}

/// 200 with data.
pub fn data(status: u16, value: impl serde::Serialize) -> Result<Sent, Refusal> {
    let value = serde_json::to_value(value).map_err(|_| Refusal::internal())?;
    Ok(Answer::data(status, value, Style::Enveloped).into())
}

/// One request at its route.
#[derive(Clone, Copy)]
pub struct Door<'a> {
    /// The bindings.
    pub env: &'a Env,
    /// The variables.
    pub settings: &'a Settings,
    /// The route.
    pub matched: &'a Matched,
}

impl Door<'_> {
    async fn answer(self, req: &mut Request) -> Result<Sent, Refusal> {
        match self.matched.route {
            Route::Root => {
                return Ok(Answer::data(200, json!({ "service": "gastown", "status": "ok" }), Style::Bare).into());
            }
            Route::Health => return Ok(Answer::data(200, json!({ "status": "ok" }), Style::Bare).into()),
            _ => {}
        }
        let header = |name: &str| req.headers().get(name).ok().flatten();
        let (authorization, agent_id) = (header("Authorization"), header("X-Gastown-Agent-Id"));
        let (dispatch_id, length) = (header("X-Gastown-Dispatch-Id"), header("Content-Length"));
        let internal_secret = header("X-Internal-Secret");
        let caller = Credentials {
            authorization: authorization.as_deref(),
            agent_id: agent_id.as_deref(),
            dispatch_id: dispatch_id.as_deref(),
            internal_secret: internal_secret.as_deref(),
        };
        if self.matched.kind == Kind::Refresh {
            return self.refresh(caller).await;
        }
        if self.matched.kind == Kind::Socket {
            return sockets::open(self, req, caller).await;
        }
        let admitted = auth::admit(self.matched, caller, self.settings.policy(), clock::now())?;
        if store::serves(self.matched.route) {
            self.confirm(&admitted.ownership).await?;
            return store::answer(self, req, &admitted.actor, length.as_deref()).await;
        }
        let bytes = read(req, length.as_deref(), MAX_BODY_BYTES).await?;
        let body = Body::parse(&bytes);
        self.confirm(&admitted.ownership).await?;

        if matches!(self.matched.route, Route::StatusTicket | Route::StreamTicket) {
            return sockets::ticket(self, admitted.actor).await;
        }
        let url = req.inner().url();
        let raw_query = Query::of_url(&url);
        // Read here to refuse what is malformed; read again by the object to be carried out.
        if request::command(self.matched, &Query::parse(raw_query), &body, &admitted.actor)?.is_none() {
            if self.matched.route == Route::ContainerEvents {
                return container::event(self, &body);
            }
            if container::passes(self.matched) {
                return container::pass(self, req, &bytes).await;
            }
            return users::answer(self, &admitted, &body).await;
        }
        if self.matched.kind == Kind::User {
            self.town_of_user(self.matched.param("user"), self.matched.param("town")).await?;
        }
        let what = What::Route {
            method: req.method().as_ref().to_owned(),
            path: req.path(),
            query: raw_query.to_owned(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
        };
        self.town(self.matched.param("town"), admitted.actor, what).await
    }

    /// Hands an errand to a town and its answer back.
    pub async fn town(self, town: &str, actor: Actor, what: What) -> Result<Sent, Refusal> {
        let text = Errand { actor, what }.write();
        let answered = stub::post(self.env, "TOWN", town, Lane::of(self.matched.route).path(), &text).await;
        answered.map(Sent::from).map_err(|e| stub::refusal(self.matched.pattern, town, &e))
    }

    /// Asks the registry.
    pub async fn fleet(self, request: &FleetRequest) -> Result<FleetAnswer, Refusal> {
        let town = self.matched.param("town");
        stub::fleet(self.env, request).await.map_err(|e| stub::refusal("fleet", town, &e))
    }

    /// The town, if it is this user's.
    pub async fn town_of_user(self, user: &str, town: &str) -> Result<TownRow, Refusal> {
        let request = FleetRequest::GetTown { user_id: user.to_owned(), id: town.to_owned() };
        match self.fleet(&request).await? {
            FleetAnswer::Town(row) => Ok(row),
            _ => Err(Refusal::missing("Town")),
        }
    }

    /// Confirms with the registry what the token could not say.
    pub async fn confirm(self, ownership: &Ownership) -> Result<(), Refusal> {
        if *ownership == Ownership::Settled {
            return Ok(());
        }
        let row = self.find_town().await?;
        ownership.check(row.as_ref())
    }

    async fn find_town(self) -> Result<Option<TownRow>, Refusal> {
        let request = FleetRequest::FindTown { id: self.matched.param("town").to_owned() };
        match self.fleet(&request).await? {
            FleetAnswer::Town(row) => Ok(Some(row)),
            _ => Ok(None),
        }
    }

    /// `POST refresh-container-token`. A town that was deleted gets none, so that its tokens die out within hours.
    async fn refresh(self, caller: Credentials<'_>) -> Result<Sent, Refusal> {
        let (policy, now) = (self.settings.policy(), clock::now());
        let secret = policy.required_secret()?;
        let admitted = if policy.is_off() && caller.authorization.is_none() {
            None
        } else {
            Some(auth::admit_refresh(self.matched, caller, policy, now)?)
        };
        let row = self.find_town().await?.ok_or_else(|| Refusal::missing("Town"))?;
        let (claims, expired) =
            admitted.unwrap_or((ContainerClaims { town_id: row.id, user_id: row.owner_user_id }, false));
        let token = token::sign_container(&claims, secret, now);
        data(200, json!({ "token": token, "expiredInbound": expired }))
    }
}

/// Reads a body within its limit, piece by piece: what is too large is never held.
pub async fn read(req: &mut Request, length: Option<&str>, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut body = Bounded::announced(length, limit)?;
    if req.inner().body().is_some() {
        let mut pieces = req.stream().map_err(|_| Refusal::bad_query("The body could not be read"))?;
        while let Some(piece) = pieces.next().await {
            body.push(&piece.map_err(|_| Refusal::bad_query("The body could not be read"))?)?;
        }
    }
    body.into_bytes()
}

/// Throws a body away that nobody read, because the request was refused or has no use for one: see
/// [`MAX_DISCARDED_BYTES`](super::body::MAX_DISCARDED_BYTES). Whether it can be read does not matter any more.
async fn discard(req: &mut Request) {
    if req.inner().body_used() {
        return;
    }
    let length = req.headers().get("Content-Length").ok().flatten();
    let _ = read(req, length.as_deref(), 0).await;
}
