//! The routes by which the worker changes what runs, and those that this runner does not serve.

use crate::{
    bodies::{parse_context, parse_model, parse_setup, parse_system_prompt, parse_token},
    runner::Runner,
    server::{Agent, answer, bad, unread},
    setup,
    town_config::TownConfig,
    voice::SHORT_CALL,
};
use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// A body, as far as it could be read.
pub type Body = Result<Bytes, BytesRejection>;

/// The settings of `X-Town-Config`. A header that cannot be read is a warning, not an error (protocol 4.2).
#[must_use]
pub fn settings(headers: &HeaderMap) -> Option<TownConfig> {
    let header = headers.get("x-town-config")?;
    let read = header.to_str().ok().and_then(TownConfig::parse);
    if read.is_none() {
        crate::journal::note("X-Town-Config is no JSON object");
    }
    read
}

/// `POST /refresh-token`.
pub async fn refresh_token(State(runner): State<Arc<Runner>>, body: Body) -> Response {
    match body.map(|body| parse_token(&body)) {
        Ok(Ok(token)) => answer(runner.refresh_token(token)),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

/// `POST /sync-config`.
pub async fn sync_config(State(runner): State<Arc<Runner>>, headers: HeaderMap) -> Response {
    if let Some(town) = settings(&headers) {
        runner.sync(town);
    }
    answer((200, json!({ "synced": true })))
}

/// `POST /dashboard-context`.
pub async fn dashboard_context(State(runner): State<Arc<Runner>>, body: Body) -> Response {
    match body.map(|body| parse_context(&body)) {
        Ok(Ok(context)) => {
            runner.pushed.put_context(context);
            answer((200, json!({ "pushed": true })))
        }
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

/// `PATCH /agents/:a/model`.
pub async fn model(State(runner): State<Arc<Runner>>, Agent(agent): Agent, headers: HeaderMap, body: Body) -> Response {
    match body.map(|body| parse_model(&body)) {
        Ok(Ok(model)) => {
            if let Some(town) = settings(&headers) {
                runner.sync(town);
            }
            answer(runner.set_model(&agent, model))
        }
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

/// `PUT /agents/:a/system-prompt`.
pub async fn system_prompt(State(runner): State<Arc<Runner>>, Agent(agent): Agent, body: Body) -> Response {
    match body.map(|body| parse_system_prompt(&body)) {
        Ok(Ok(prompt)) => answer(runner.set_system_prompt(&agent, &prompt)),
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

/// `POST /repos/setup`.
pub async fn setup_repository(State(runner): State<Arc<Runner>>, headers: HeaderMap, body: Body) -> Response {
    let town = runner.own_town().unwrap_or_else(|| "unknown".to_owned());
    match body.map(|body| parse_setup(&body, &town, runner.config.dev)) {
        Ok(Ok(mut request)) => {
            let pushed = settings(&headers).map_or_else(|| runner.pushed.town(), |town| runner.pushed.remember(town));
            for (name, value) in &pushed.variables {
                request.env_vars.entry(name.clone()).or_insert_with(|| value.clone());
            }
            setup::begin(&runner, request);
            answer((202, json!({ "status": "accepted", "message": "the repository is being prepared" })))
        }
        Ok(Err(issues)) => bad(issues),
        Err(rejection) => unread(&rejection),
    }
}

/// `GET /agents/:a/pending-nudges`: asks the worker on behalf of the agent.
pub async fn pending_nudges(State(runner): State<Arc<Runner>>, Agent(agent): Agent) -> Response {
    let Some((voice, rig)) = runner.voice_for(&agent).filter(|(voice, _)| voice.api.is_some()) else {
        return unconfigured();
    };
    match voice.get(&voice.rig_path(&rig, &format!("agents/{agent}/pending-nudges")), SHORT_CALL).await {
        Ok(said) => answer((200, said)),
        Err(error) => answer((503, json!({ "error": error.to_string() }))),
    }
}

/// `POST /agents/:a/nudge-delivered`: tells the worker on behalf of the agent.
pub async fn nudge_delivered(State(runner): State<Arc<Runner>>, Agent(agent): Agent, body: Body) -> Response {
    let body: Value = body.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
    let Some(nudge) = body.get("nudge_id").and_then(Value::as_str).filter(|nudge| !nudge.is_empty()) else {
        let issue = json!({ "code": "invalid", "path": ["nudge_id"], "message": "nudge_id is required" });
        return bad(json!({ "error": "Invalid request body", "issues": [issue] }));
    };
    let Some((voice, rig)) = runner.voice_for(&agent).filter(|(voice, _)| voice.api.is_some()) else {
        return unconfigured();
    };
    let path = voice.rig_path(&rig, &format!("agents/{agent}/nudge-delivered"));
    match voice.call(&path, Some(&json!({ "nudge_id": nudge })), SHORT_CALL).await {
        Ok(said) => answer((200, said)),
        Err(error) => answer((503, json!({ "error": error.to_string() }))),
    }
}

fn unconfigured() -> Response {
    answer((503, json!({ "error": "Missing gastown configuration" })))
}

/// Terminals: an agent here is a process without one.
pub async fn no_terminal() -> Response {
    answer((
        501,
        json!({ "error": "this runner's agents have no terminals: read /agents/:a/events or /agents/:a/stream" }),
    ))
}

/// `POST /git/merge`: nobody calls it any more.
pub async fn no_merge() -> Response {
    answer((501, json!({ "error": "start a refinery with a review instead" })))
}
