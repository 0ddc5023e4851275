//! The control server: routes and bodies of protocol 4, as far as the worker calls them.

use crate::{
    config::Config,
    heartbeat,
    request::{StartRequest, parse_message, parse_stop},
    runner::{Reply, Runner},
    url::is_id,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequestParts, Path, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
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
    /// Opens workspace and port, and begins to send heartbeats.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(&config.addr).await?;
        let addr = listener.local_addr()?;
        let runner = Runner::new(config)?;
        runner.port.store(addr.port(), Ordering::Relaxed);
        tokio::spawn(heartbeat::run(Arc::clone(&runner)));
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
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(runner)
}

fn answer((status, body): Reply) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}

fn bad(body: Value) -> Response {
    answer((400, body))
}

fn unread(rejection: &BytesRejection) -> Response {
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

async fn start(State(runner): State<Arc<Runner>>, body: Result<Bytes, BytesRejection>) -> Response {
    match body.map(|body| StartRequest::parse(&body, runner.config.dev)) {
        Ok(Ok(request)) => answer(runner.start(request).await),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

/// The agent that a path names. What cannot be an agent's id names nothing: 404 in our words, whether it is too long, no
/// UTF-8, or another path in disguise.
struct Agent(String);

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

async fn stop(State(runner): State<Arc<Runner>>, Agent(agent): Agent, body: Result<Bytes, BytesRejection>) -> Response {
    match body.map(|body| parse_stop(&body)) {
        Ok(Ok(id)) => answer(runner.stop(&agent, id.as_deref()).await),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

async fn message(
    State(runner): State<Arc<Runner>>,
    Agent(agent): Agent,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match body.map(|body| parse_message(&body)) {
        Ok(Ok(prompt)) => answer(runner.message(&agent, &prompt)),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}
