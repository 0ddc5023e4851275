//! The container's control server (`protocol.md` 4) behind one trait.
//!
//! `CONTAINER_URL` names a control server; without it calls go to the container object of the town (`TOWN_CONTAINER`), and
//! where there is neither, every call says so in words that an operator can act on.

use super::{
    http::{self, Outgoing, Via},
    settings::Settings,
};
use crate::town::json::{self, json};
use crate::town::{
    effect::{Answer, Health, StartRequest, Tell},
    id::{AgentId, AttemptId},
    policy::{LOOK_TIMEOUT, MESSAGE_TIMEOUT, STOP_TIMEOUT, TOWN_CONFIG_BYTES},
    time::{Millis, SECOND},
};
use futures_util::future::LocalBoxFuture;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value as Json;
use std::{collections::BTreeMap, fmt::Write as _};
use worker::{Env, Request, Response, Result};

/// How long `GET /health` may take: `protocol.md` 4.3.
pub const HEALTH_TIMEOUT: Millis = 5 * SECOND;

/// The base of a container's addresses behind its object. Only the path matters.
pub const INSIDE: &str = "http://container";

/// The header with the environment of a container that may be started for this call: a JSON object of texts.
pub const BOOT: &str = "X-Gastown-Boot";

/// What a call brings along beside its body.
pub type Headers = Vec<(&'static str, String)>;

/// A call that is made when it is first polled.
pub type Call = LocalBoxFuture<'static, Answer>;

/// What a town asks of its container.
pub trait ContainerClient {
    /// `POST /agents/start`.
    fn start(&self, request: &StartRequest, headers: Headers, timeout: Millis) -> Call;
    /// `POST /agents/:id/stop`, naming the attempt whose process is meant.
    fn stop(&self, agent: &AgentId, attempt: &AttemptId) -> Call;
    /// `POST /agents/:id/message`.
    fn message(&self, agent: &AgentId, prompt: &str) -> Call;
    /// `GET /agents/:id/status`.
    fn status(&self, agent: &AgentId) -> Call;
    /// `GET /health`.
    fn health(&self, headers: Headers, timeout: Millis) -> Call;
    /// `POST /refresh-token` with this token, or `POST /sync-config`, which reads its headers only.
    fn tell(&self, what: Tell, token: String, headers: Headers) -> Call;
    /// False if there is nothing that could ever answer.
    fn exists(&self) -> bool;
}

/// Where the container of a town is, and which way it is reached; `None` if there is none.
fn way(env: &Env, settings: &Settings, town: &str) -> Option<(String, Via)> {
    match &settings.container_url {
        Some(base) => Some((base.clone(), Via::Internet)),
        None if env.durable_object("TOWN_CONTAINER").is_ok() => {
            Some((INSIDE.to_owned(), Via::Object(env.clone(), town.to_owned())))
        }
        None => None,
    }
}

/// The client of a town.
#[must_use]
pub fn client(env: &Env, settings: &Settings, town: &str) -> Box<dyn ContainerClient> {
    match way(env, settings, town) {
        Some((base, via)) => Box::new(ControlServer { base, via }),
        None => Box::new(NoContainer),
    }
}

/// Hands a person's request on, and the answer back as it comes; a WebSocket comes back as one. `Err(None)`: there is no
/// container. Never starts one.
pub async fn pass(
    env: &Env,
    settings: &Settings,
    town: &str,
    request: impl FnOnce(&str) -> Result<Request>,
) -> std::result::Result<Response, Option<worker::Error>> {
    let (base, via) = way(env, settings, town).ok_or(None)?;
    via.send(request(&base)?).await.map_err(Some)
}

/// Ends the container of a town that is being deleted, if an object has it.
pub async fn end(env: Env, settings: &Settings, town: &str) {
    let Some((base, via @ Via::Object(..))) = way(&env, settings, town) else { return };
    let url = format!("{base}/delete");
    let (headers, timeout) = (Vec::new(), STOP_TIMEOUT);
    http::call(Outgoing { method: "POST", url, headers, body: None, timeout }, &via).await;
}

/// `X-Town-Config` (`protocol.md` 4.2): which town this is, whom to call back, and the settings that are to be told. There are
/// secrets among them, so they travel only where they are what is told; an agent's start carries its own in its body.
#[must_use]
pub fn town_config(settings: Json, town: &str, api_url: &str) -> Headers {
    let Json::Object(mut told) = settings else { return Vec::new() };
    told.insert("town_id".to_owned(), json!(town));
    told.insert("gastown_api_url".to_owned(), json!(api_url));
    let mut text = ascii(&json!(told));
    if text.len() > TOWN_CONFIG_BYTES {
        told.remove("env_vars");
        text = ascii(&json!(told));
    }
    vec![("X-Town-Config", text)]
}

/// The environment of a container that may be started for a call. The object keeps it from the container's requests.
#[must_use]
pub fn environment(
    mut variables: BTreeMap<String, String>,
    town: &str,
    api_url: &str,
    token: String,
) -> (&'static str, String) {
    let own = [("GASTOWN_API_URL", api_url.to_owned()), ("GASTOWN_TOWN_ID", town.to_owned()), (TOKEN, token)];
    variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
    (BOOT, ascii(&json!(variables)))
}

/// The variable in which agents and their container find their token.
pub const TOKEN: &str = "GASTOWN_CONTAINER_TOKEN";

/// A header is ASCII; JSON can say everything in ASCII.
fn ascii(value: &Json) -> String {
    let text = value.to_string();
    let mut ascii = String::with_capacity(text.len());
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if byte.is_ascii() => ascii.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(ascii, "\\u{unit:04x}")),
        }
    }
    ascii
}

/// A control server at a url, or behind an object.
#[derive(Debug)]
struct ControlServer {
    base: String,
    via: Via,
}

impl ControlServer {
    fn call(&self, method: &'static str, path: &str, headers: Headers, body: Option<String>, timeout: Millis) -> Call {
        let (url, via) = (format!("{}{path}", self.base), self.via.clone());
        Box::pin(async move { http::call(Outgoing { method, url, headers, body, timeout }, &via).await })
    }
}

impl ContainerClient for ControlServer {
    fn start(&self, request: &StartRequest, headers: Headers, timeout: Millis) -> Call {
        match serde_json::to_string(request) {
            Ok(body) => self.call("POST", "/agents/start", headers, Some(body), timeout),
            Err(e) => unanswered(format!("the start request could not be encoded: {e}")),
        }
    }
    fn stop(&self, agent: &AgentId, attempt: &AttemptId) -> Call {
        let body = json!({ "dispatchId": attempt }).to_string();
        let path = format!("/agents/{}/stop", segment(agent));
        self.call("POST", &path, Vec::new(), Some(body), STOP_TIMEOUT)
    }
    fn message(&self, agent: &AgentId, prompt: &str) -> Call {
        let body = json!({ "prompt": prompt }).to_string();
        let path = format!("/agents/{}/message", segment(agent));
        self.call("POST", &path, Vec::new(), Some(body), MESSAGE_TIMEOUT)
    }
    fn status(&self, agent: &AgentId) -> Call {
        let path = format!("/agents/{}/status", segment(agent));
        self.call("GET", &path, Vec::new(), None, LOOK_TIMEOUT)
    }
    fn health(&self, headers: Headers, timeout: Millis) -> Call {
        self.call("GET", "/health", headers, None, timeout)
    }
    fn tell(&self, what: Tell, token: String, headers: Headers) -> Call {
        let (path, body) = match what {
            Tell::Token => ("/refresh-token", json!({ "token": token }).to_string()),
            Tell::Settings => ("/sync-config", "{}".to_owned()),
        };
        self.call("POST", path, headers, Some(body), LOOK_TIMEOUT)
    }
    fn exists(&self) -> bool {
        true
    }
}

/// No container at all.
#[derive(Debug)]
pub struct NoContainer;

impl ContainerClient for NoContainer {
    fn start(&self, _: &StartRequest, _: Headers, _: Millis) -> Call {
        nowhere()
    }
    fn stop(&self, _: &AgentId, _: &AttemptId) -> Call {
        nowhere()
    }
    fn message(&self, _: &AgentId, _: &str) -> Call {
        nowhere()
    }
    fn status(&self, _: &AgentId) -> Call {
        nowhere()
    }
    fn health(&self, _: Headers, _: Millis) -> Call {
        nowhere()
    }
    fn tell(&self, _: Tell, _: String, _: Headers) -> Call {
        nowhere()
    }
    fn exists(&self) -> bool {
        false
    }
}

/// Why nothing answers.
pub const NO_CONTAINER: &str = "no container is configured: bind TOWN_CONTAINER, or set CONTAINER_URL to the base URL of a control server (see README, Deploy)";

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
            let body = json::read(body).unwrap_or(Json::Null);
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
