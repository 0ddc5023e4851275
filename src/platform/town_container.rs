//! The container that belongs to an object: the platform's own, behind `ctx.container`.
//!
//! Two traps of `worker` 0.8.7 are dealt with here. Its options carry the environment as a JavaScript `Map`, of which the
//! runtime reads nothing, so the options are a plain object made by hand. And what `monitor()` rejects with is an error
//! with the exit code as a property, which `worker` does not read.

use super::{
    errors,
    http::{self, Outgoing, Via},
};
use crate::town::{effect::Answer, time::Millis};
use js_sys::{Object, Reflect};
use wasm_bindgen::{JsCast, JsValue, prelude::wasm_bindgen};
use worker::{Container, Error, Request, Response, Result};

#[wasm_bindgen]
extern "C" {
    type RawContainer;
    #[wasm_bindgen(method, catch)]
    fn start(this: &RawContainer, options: &JsValue) -> std::result::Result<(), JsValue>;
}

/// Where the control server listens (`protocol.md` 4).
const PORT: u16 = 8080;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, if the platform knows one.
    pub code: Option<i32>,
    /// The platform's words.
    pub reason: String,
}

/// True if a process runs.
#[must_use]
pub fn running(container: &Container) -> bool {
    container.running()
}

/// Starts a process with this environment, given as a JSON object of texts. It may reach the internet: agents clone, push and
/// ask their models.
pub fn start(container: &Container, environment: &str) -> Result<()> {
    let options = Object::new();
    Reflect::set(&options, &"env".into(), &js_sys::JSON::parse(environment)?)?;
    Reflect::set(&options, &"enableInternet".into(), &true.into())?;
    let raw: &RawContainer = AsRef::<JsValue>::as_ref(container).unchecked_ref();
    Ok(raw.start(&options)?)
}

/// Waits for its end.
pub async fn ended(container: &Container) -> Exit {
    match container.wait_for_exit().await {
        Ok(()) => Exit { code: Some(0), reason: "it ended by itself".to_owned() },
        Err(e) => Exit { code: exit_code(&e), reason: errors::words(&e) },
    }
}

/// Asks it to end.
pub fn terminate(container: &Container) -> Result<()> {
    const SIGTERM: i32 = 15;
    container.signal(SIGTERM)
}

/// Ends it by force and waits until it has ended.
pub async fn destroy(container: &Container) -> Result<()> {
    if container.running() { container.destroy(None).await } else { Ok(()) }
}

/// Hands a request to its control server, without one of its headers. A WebSocket comes back as one.
pub async fn pass(container: &Container, request: &Request, without: &str) -> Result<Response> {
    // A copy: the headers of a request that came in cannot be changed.
    let copy = web_sys::Request::new_with_request(request.inner())?;
    copy.headers().delete(without)?;
    Via::Port(container.get_tcp_port(PORT)?).send(Request::from(copy)).await
}

/// `GET /health`.
pub async fn health(container: &Container, timeout: Millis) -> Answer {
    let url = format!("{}/health", super::container::INSIDE);
    let outgoing = Outgoing { method: "GET", url, headers: Vec::new(), body: None, timeout };
    match container.get_tcp_port(PORT) {
        Ok(port) => http::call(outgoing, &Via::Port(port)).await,
        Err(e) => Answer::Unreachable { detail: errors::words(&e) },
    }
}

fn exit_code(error: &Error) -> Option<i32> {
    let Error::UnknownJsError { original, .. } = error else { return None };
    #[allow(clippy::cast_possible_truncation, reason = "an exit code has eight bits")]
    Reflect::get(original, &"exitCode".into()).ok()?.as_f64().map(|code| code as i32)
}
