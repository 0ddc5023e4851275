//! The control server: routes and bodies of protocol 4.

use crate::{
    bodies::{parse_message, parse_stop},
    config::Config,
    heartbeat, registry,
    request::StartRequest,
    runner::{Reply, Runner},
    sockets::{self, Upgrade},
    town_routes::{self, Body, no_merge, no_terminal},
    url::is_id,
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequestParts, Path, RawQuery, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, patch, post, put},
};
use serde_json::{Value, json};
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};
use tokio::net::TcpListener;

/// The largest body: a prompt, a system prompt and variables are well below.
const BODY_BYTES: usize = 1_000_000;

/// A runner that listens.
#[derive(Debug)]
pub struct Server {
    /// Where.
    pub addr: SocketAddr,
    /// What it controls.
    pub runner: Arc<Runner>,
    listener: TcpListener,
}

impl Server {
    /// Opens workspace and port, restarts what the last container had, and begins to tell the worker what lives here.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(&config.addr).await?;
        let addr = listener.local_addr()?;
        let runner = Runner::new(config)?;
        runner.port.store(addr.port(), Ordering::Relaxed);
        tokio::spawn(heartbeat::run(Arc::clone(&runner)));
        tokio::spawn(registry::run(Arc::clone(&runner)));
        tokio::spawn(registry::resurrect(Arc::clone(&runner)));
        Ok(Self { addr, runner, listener })
    }

    /// Serves for ever.
    pub async fn serve(self) -> io::Result<()> {
        axum::serve(self.listener, router(self.runner)).await
    }
}

/// The routes.
fn router(runner: Arc<Runner>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/agents/start", post(start))
        .route("/agents/{agent}/status", get(status))
        .route("/agents/{agent}/stop", post(stop))
        .route("/agents/{agent}/message", post(message))
        .route("/agents/{agent}/model", patch(town_routes::model))
        .route("/agents/{agent}/system-prompt", put(town_routes::system_prompt))
        .route("/agents/{agent}/events", get(events))
        .route("/agents/{agent}/stream-ticket", post(stream_ticket))
        .route("/agents/{agent}/pending-nudges", get(town_routes::pending_nudges))
        .route("/agents/{agent}/nudge-delivered", post(town_routes::nudge_delivered))
        .route("/agents/{agent}/pty", get(no_terminal).post(no_terminal))
        .route("/agents/{agent}/pty/{pty}", get(no_terminal).put(no_terminal).delete(no_terminal))
        .route("/agents/{agent}/pty/{pty}/connect", get(no_terminal))
        .route("/ws", get(sockets::all))
        .route("/refresh-token", post(town_routes::refresh_token))
        .route("/sync-config", post(town_routes::sync_config))
        .route("/dashboard-context", post(town_routes::dashboard_context))
        .route("/repos/setup", post(town_routes::setup_repository))
        .route("/git/merge", post(no_merge))
        .fallback(stream)
        .method_not_allowed_fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(runner)
}

/// A reply as the server sends it.
#[must_use]
pub fn answer((status, body): Reply) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}

/// A 400.
#[must_use]
pub fn bad(body: Value) -> Response {
    answer((400, body))
}

/// A body that could not be read.
#[must_use]
pub fn unread(rejection: &BytesRejection) -> Response {
    answer((rejection.status().as_u16(), json!({ "error": rejection.body_text() })))
}

async fn not_found() -> Response {
    answer((404, json!({ "error": "Not found" })))
}

async fn health(State(runner): State<Arc<Runner>>, headers: HeaderMap) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    if let (Some(nonce), Some(town)) = (header("x-drain-nonce"), header("x-town-id"))
        && is_id(&town)
        && let Some(voice) = runner.own_voice(Some(&town))
    {
        let runner = Arc::clone(&runner);
        tokio::spawn(async move { runner.acknowledge(&voice, nonce).await });
    }
    answer((200, runner.health()))
}

async fn start(State(runner): State<Arc<Runner>>, headers: HeaderMap, body: Body) -> Response {
    if let Some(town) = town_routes::settings(&headers) {
        runner.pushed.remember(town);
    }
    match body.map(|body| StartRequest::parse(&body, runner.config.dev)) {
        Ok(Ok(request)) => answer(runner.start(request).await),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

/// The agent that a path names. What cannot be an agent's id names nothing: 404 in our words, whether it is too long, no
/// UTF-8, or another path in disguise.
pub struct Agent(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Agent {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(agent)) if is_id(&agent) => Ok(Self(agent)),
            Ok(_) | Err(_) => Err(not_found().await),
        }
    }
}

async fn status(State(runner): State<Arc<Runner>>, Agent(agent): Agent) -> Response {
    answer(runner.status(&agent))
}

async fn stop(State(runner): State<Arc<Runner>>, Agent(agent): Agent, body: Body) -> Response {
    match body.map(|body| parse_stop(&body)) {
        Ok(Ok(id)) => answer(runner.stop(&agent, id.as_deref()).await),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

async fn message(State(runner): State<Arc<Runner>>, Agent(agent): Agent, body: Body) -> Response {
    match body.map(|body| parse_message(&body)) {
        Ok(Ok(prompt)) => answer(runner.message(&agent, &prompt)),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

async fn events(State(runner): State<Arc<Runner>>, Agent(agent): Agent, query: RawQuery) -> Response {
    sockets::events(&runner, &agent, &query).into_response()
}

async fn stream_ticket(State(runner): State<Arc<Runner>>, Agent(agent): Agent) -> Response {
    answer((200, runner.tickets.issue(&agent)))
}

/// A socket at any path that ends in `/agents/:a/stream` (protocol 4.3); everything else is not found.
async fn stream(State(runner): State<Arc<Runner>>, uri: Uri, query: RawQuery, upgrade: Upgrade) -> Response {
    let mut parts = uri.path().rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("stream"), Some(agent), Some("agents")) if is_id(agent) => {
            sockets::open(runner, Some(agent.to_owned()), &query, upgrade)
        }
        _ => not_found().await,
    }
}
