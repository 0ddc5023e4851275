//! What is answered by the container, and what it tells of itself.
//!
//! A person's requests are handed on to the control server as they are, and its answers come back unwrapped
//! (`protocol.md` 3.5). They start no container, and no agent: a dispatch that did not pass the gate does not exist
//! (`docs/decisions/012-no-start-past-the-gate.md`). The caller's token stays here.

use super::{
    envelope::Refusal,
    fields::{Body, Fields},
    route::{Matched, Route},
    serve::{Door, Sent},
};
use crate::{
    platform::{
        analytics,
        container::{NO_CONTAINER, pass as hand_on},
        errors,
        http::{self, DOWN},
        log,
    },
    town::{effect::DataPoint, text},
};
use serde_json::Value as Json;
use worker::{Method, Request};

/// True if a route is one of the container's.
#[must_use]
pub fn passes(matched: &Matched) -> bool {
    matched.pattern.starts_with("/api/towns/:town/container/")
}

/// Hands a request on.
pub async fn pass(door: Door<'_>, req: &Request, body: &[u8]) -> Result<Sent, Refusal> {
    if door.matched.route == Route::StartInContainer {
        if !Body::parse(body).json().is_object() {
            return Err(Refusal::bad_query("Invalid JSON body"));
        }
        return Err(Refusal::new(
            409,
            "past_the_gate",
            "Agents are not started past the town's gate, where a start is counted and can be held. Sling a bead instead \
             (POST /api/towns/:town/rigs/:rig/sling): its agent starts as soon as nothing holds it, and explain says what does",
        ));
    }
    let town = door.matched.param("town");
    let path = req.path();
    // What follows `/api/towns/:town/container`; the route table has seen each part of it.
    let rest = path.splitn(6, '/').nth(5).unwrap_or_default();
    let mut headers = Vec::new();
    for name in ["Upgrade", "Sec-WebSocket-Protocol"] {
        headers.extend(req.headers().get(name).ok().flatten().map(|value| (name, value)));
    }
    let body = String::from_utf8_lossy(body);
    // A question has no body: the runtime lets none travel with it.
    let body = (!body.is_empty() && req.method() != Method::Get).then_some(&*body);
    let request = |base: &str| http::request(req.method().as_ref(), &format!("{base}/{rest}"), &headers, body);
    let mut response = match hand_on(door.env, door.settings, town, request).await {
        Ok(response) => response,
        Err(None) => return Err(Refusal::new(503, "no_container", NO_CONTAINER)),
        Err(Some(e)) => {
            log::error(door.matched.pattern, town, &errors::words(&e));
            return Err(Refusal::new(502, "container_unreachable", "The container could not be reached"));
        }
    };
    if response.headers().has(DOWN).unwrap_or(false) {
        let why = response.text().await.unwrap_or_default();
        return Err(Refusal::new(503, "container_down", format!("No answer: {why}")));
    }
    Ok(Sent::passed(response))
}

/// `POST container-events`: one data point, which costs the town nothing.
pub fn event(door: Door<'_>, body: &Body) -> Result<Sent, Refusal> {
    Fields::required(body).done(())?;
    let body = body.json();
    let said = |key: &str| body.get(key).and_then(Json::as_str).unwrap_or_default();
    let number = |key: &str| body.get(key).and_then(Json::as_f64).unwrap_or_default();
    if said("event").is_empty() {
        return Err(Refusal::bad_query("Missing event name"));
    }
    let mut own = [0.0; 8];
    [own[0], own[1]] = [number("phaseMs"), number("elapsedMs")];
    let point = DataPoint {
        event: "container.event",
        label: text::redact(said("event")),
        reason: text::redact(said("label")),
        agent_id: text::redact(said("agentId")),
        role: text::redact(said("role")),
        duration_ms: number("durationMs"),
        own,
        ..DataPoint::default()
    };
    analytics::write(door.env, door.matched.param("town"), &point);
    Ok(Sent { status: 200, body: r#"{"success":true}"#.to_owned(), retry_after: None, passed: None })
}
