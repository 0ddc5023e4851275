//! The container's control server (`protocol.md` 4) behind one trait.
//!
//! `CONTAINER_URL` names a control server; without it there is none until the container object exists, and every call
//! says so in words that an operator can act on.

use super::{
    http::{self, Outgoing},
    settings::Settings,
};
use crate::town::{
    effect::{Answer, Health, StartRequest},
    id::{AgentId, AttemptId},
    policy::{LOOK_TIMEOUT, STOP_TIMEOUT},
    time::{Millis, SECOND},
};
use futures_util::future::LocalBoxFuture;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;

/// How long `GET /health` may take: `protocol.md` 4.3.
const HEALTH_TIMEOUT: Millis = 5 * SECOND;

/// A call that is made when it is first polled.
pub type Call = LocalBoxFuture<'static, Answer>;

/// What a town asks of its container.
pub trait ContainerClient {
    /// `POST /agents/start`.
    fn start(&self, request: &StartRequest, timeout: Millis) -> Call;
    /// `POST /agents/:id/stop`, naming the attempt whose process is meant.
    fn stop(&self, agent: &AgentId, attempt: &AttemptId) -> Call;
    /// `GET /agents/:id/status`.
    fn status(&self, agent: &AgentId) -> Call;
    /// `GET /health`.
    fn health(&self, town_id: &str) -> Call;
    /// False if there is nothing that could ever answer.
    fn exists(&self) -> bool;
}

/// The client that the deployment has.
#[must_use]
pub fn client(settings: &Settings) -> Box<dyn ContainerClient> {
    match &settings.container_url {
        Some(base) => Box::new(ControlServer { base: base.clone(), api_url: settings.api_url.clone() }),
        None => Box::new(NoContainer),
    }
}

/// A control server at a url.
#[derive(Debug)]
struct ControlServer {
    base: String,
    api_url: String,
}

impl ControlServer {
    fn call(
        &self,
        method: &'static str,
        path: &str,
        headers: Vec<(&'static str, String)>,
        body: Option<String>,
        timeout: Millis,
    ) -> Call {
        let url = format!("{}{path}", self.base);
        Box::pin(http::call(Outgoing { method, url, headers, body, timeout }))
    }
    /// `X-Town-Config` (`protocol.md` 4.2). The variables of an agent travel in its start's `envVars`, so the header
    /// carries no secret: only which town this is and whom to call back.
    fn town_config(&self, town_id: &str) -> Vec<(&'static str, String)> {
        let config = json!({ "town_id": town_id, "gastown_api_url": self.api_url }).to_string();
        // A header is ASCII; JSON can say everything in ASCII.
        let mut ascii = String::with_capacity(config.len());
        for unit in config.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => ascii.push(char::from(byte)),
                // Writing to a string cannot fail.
                _ => drop(write!(ascii, "\\u{unit:04x}")),
            }
        }
        vec![("X-Town-Config", ascii)]
    }
}

impl ContainerClient for ControlServer {
    fn start(&self, request: &StartRequest, timeout: Millis) -> Call {
        match serde_json::to_string(request) {
            Ok(body) => {
                let headers = self.town_config(&request.town_id);
                self.call("POST", "/agents/start", headers, Some(body), timeout)
            }
            Err(e) => unanswered(format!("the start request could not be encoded: {e}")),
        }
    }
    fn stop(&self, agent: &AgentId, attempt: &AttemptId) -> Call {
        let body = json!({ "dispatchId": attempt }).to_string();
        let path = format!("/agents/{}/stop", segment(agent));
        self.call("POST", &path, Vec::new(), Some(body), STOP_TIMEOUT)
    }
    fn status(&self, agent: &AgentId) -> Call {
        let path = format!("/agents/{}/status", segment(agent));
        self.call("GET", &path, Vec::new(), None, LOOK_TIMEOUT)
    }
    fn health(&self, town_id: &str) -> Call {
        self.call("GET", "/health", self.town_config(town_id), None, HEALTH_TIMEOUT)
    }
    fn exists(&self) -> bool {
        true
    }
}

/// No container at all.
#[derive(Debug)]
struct NoContainer;

impl ContainerClient for NoContainer {
    fn start(&self, _: &StartRequest, _: Millis) -> Call {
        nowhere()
    }
    fn stop(&self, _: &AgentId, _: &AttemptId) -> Call {
        nowhere()
    }
    fn status(&self, _: &AgentId) -> Call {
        nowhere()
    }
    fn health(&self, _: &str) -> Call {
        nowhere()
    }
    fn exists(&self) -> bool {
        false
    }
}

/// Why nothing answers.
pub const NO_CONTAINER: &str =
    "no container is configured: set CONTAINER_URL to the base URL of a control server (see README, Deploy)";

fn nowhere() -> Call {
    unanswered(NO_CONTAINER.to_owned())
}

fn unanswered(detail: String) -> Call {
    Box::pin(async move { Answer::Unreachable { detail } })
}

/// What RFC 3986 leaves as it is in a path segment: a UUID travels unescaped.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn segment(agent: &AgentId) -> String {
    utf8_percent_encode(agent.as_str(), RESERVED).to_string()
}

/// What a health answer says. `Err` has the words for a person if nothing healthy answered.
pub fn health(answer: &Answer) -> Result<Health, String> {
    match answer {
        Answer::Http { status: 200..=299, body, .. } => {
            // A body that cannot be read is still an answer of a container.
            let body: Json = serde_json::from_str(body).unwrap_or(Json::Null);
            let text = |key: &str| body.get(key).and_then(Json::as_str).filter(|t| !t.is_empty()).map(str::to_owned);
            let features = body.get("features").and_then(Json::as_array);
            Ok(Health {
                instance_id: text("containerInstanceId").or_else(|| text("startedAt")),
                draining: body.get("draining").and_then(Json::as_bool).unwrap_or(false),
                dispatch_id: features.is_some_and(|f| f.iter().any(|v| v == "dispatch-id")),
            })
        }
        Answer::Http { status, body, .. } => Err(format!("GET /health answered {status}: {}", body.trim())),
        Answer::Unreachable { detail } => Err(format!("GET /health was not answered: {detail}")),
        Answer::TimedOut { after } => Err(format!("GET /health was not answered within {after} ms")),
    }
}
