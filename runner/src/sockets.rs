//! Events for whoever watches: `GET /agents/:a/events`, and the sockets `/ws` and `…/agents/:a/stream` (protocol 4.9).

use crate::{runner::Runner, transcript::Event, url::is_id};
use axum::{
    Json,
    extract::{
        RawQuery, State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::{sync::broadcast::error::RecvError, time::timeout};

/// The longest message of a client: it only ever asks for another agent.
const ASKED_BYTES: usize = 4096;

/// How long a client may take to read a frame.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may come instead of a request for a socket.
pub type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// A value of a query. Ids and tickets need no decoding.
#[must_use]
pub fn asked<'a>(query: &'a RawQuery, name: &str) -> Option<&'a str> {
    let pairs = query.0.as_deref()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back().filter(|value| !value.is_empty())
}

/// `GET /agents/:a/events?after=N`.
pub fn events(runner: &Runner, agent: &str, query: &RawQuery) -> (StatusCode, Json<Value>) {
    let after = match asked(query, "after").map(str::parse) {
        None => 0,
        Some(Ok(after)) => after,
        Some(Err(_)) => {
            let error = "after must be the id of an event: a number that is not negative";
            return (StatusCode::BAD_REQUEST, Json(json!({ "error": error })));
        }
    };
    let events: Vec<Value> = runner.transcripts.after(agent, after).iter().map(|event| event.entry()).collect();
    (StatusCode::OK, Json(json!({ "events": events })))
}

/// `/ws[?agentId=]`.
pub async fn all(State(runner): State<Arc<Runner>>, query: RawQuery, upgrade: Upgrade) -> Response {
    let agent = asked(&query, "agentId").map(str::to_owned);
    if agent.as_deref().is_some_and(|agent| !is_id(agent)) {
        return refuse(StatusCode::BAD_REQUEST, "agentId is not an agent's id");
    }
    open(runner, agent, &query, upgrade)
}

/// Opens a socket for an agent's events, or for all.
#[must_use]
pub fn open(runner: Arc<Runner>, agent: Option<String>, query: &RawQuery, upgrade: Upgrade) -> Response {
    let Ok(upgrade) = upgrade else {
        return refuse(StatusCode::BAD_REQUEST, "this is a WebSocket: ask for an upgrade, or for /agents/:a/events");
    };
    if let Some(ticket) = asked(query, "ticket")
        && !runner.tickets.admits(ticket, agent.as_deref())
    {
        return refuse(StatusCode::FORBIDDEN, "the ticket is not good: ask for a new one");
    }
    upgrade.max_message_size(ASKED_BYTES).on_upgrade(move |socket| serve(socket, runner, agent))
}

fn refuse(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

async fn serve(mut socket: WebSocket, runner: Arc<Runner>, mut agent: Option<String>) {
    let (kept, mut live) = runner.transcripts.follow(agent.as_deref());
    for event in kept {
        if !send(&mut socket, &event.frame()).await {
            return;
        }
    }
    loop {
        let frame = tokio::select! {
            event = live.recv() => match event {
                Ok(event) => wanted(&event, agent.as_deref()).then(|| event.frame()),
                Err(RecvError::Lagged(count)) => Some(json!({
                    "agentId": agent, "event": "events.dropped", "data": { "count": count }, "timestamp": crate::text::now(),
                })),
                Err(RecvError::Closed) => return,
            },
            asked = socket.recv() => match asked {
                Some(Ok(Message::Text(text))) => {
                    if let Some(other) = subscription(&text) {
                        agent = Some(other);
                    }
                    None
                }
                Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_))) => None,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
        };
        if let Some(frame) = frame
            && !send(&mut socket, &frame).await
        {
            return;
        }
    }
}

fn wanted(event: &Event, agent: Option<&str>) -> bool {
    agent.is_none_or(|agent| agent == event.agent)
}

/// The agent of `{type: "subscribe", agentId}`.
fn subscription(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    if value.get("type")?.as_str()? != "subscribe" {
        return None;
    }
    value.get("agentId")?.as_str().filter(|agent| is_id(agent)).map(str::to_owned)
}

/// False if the client is gone, or too slow to be served.
async fn send(socket: &mut WebSocket, frame: &Value) -> bool {
    matches!(timeout(PATIENCE, socket.send(Message::text(frame.to_string()))).await, Ok(Ok(())))
}
