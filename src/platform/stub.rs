//! Calls between the worker and its objects: always a POST of JSON, never repeated by us.
//!
//! The runtime itself may repeat a call that it lost, so every receiver treats a repetition as harmless.

use super::{
    errors::{self, Fault},
    http, ids,
};
use crate::edge::{
    envelope::Refusal,
    fleet::{FleetAnswer, FleetRequest},
};
use worker::{Env, Error, Request, Response, Result};

/// The one registry.
const FLEET_NAME: &str = "fleet";

/// The name by which an agent's store is addressed. No id has a slash in it, so no town can name another's.
#[must_use]
pub fn agent_name(town: &str, agent: &str) -> String {
    format!("{town}/{agent}")
}

/// What an object answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
    /// The `Retry-After` header.
    pub retry_after: Option<String>,
}

/// Posts to an object. A new stub each time: one that has thrown stays broken.
pub async fn post(env: &Env, binding: &str, name: &str, path: &str, body: &str) -> Result<Answered> {
    let request = http::request("POST", &format!("https://object{path}"), &[], Some(body))?;
    let mut response = pass(env, binding, name, request).await?;
    let retry_after = response.headers().get("Retry-After")?;
    Ok(Answered { status: response.status_code(), body: response.text().await?, retry_after })
}

/// Hands a request to an object, and its answer back unread: either may be large, and the answer a socket.
pub async fn pass(env: &Env, binding: &str, name: &str, request: Request) -> Result<Response> {
    env.durable_object(binding)?.id_from_name(name)?.get_stub()?.fetch_with_request(request).await
}

/// Asks the registry.
pub async fn fleet(env: &Env, request: &FleetRequest) -> Result<FleetAnswer> {
    let answered = post(env, "FLEET", FLEET_NAME, "/registry", &request.write()).await?;
    if answered.status != 200 {
        return Err(Error::RustError(format!("the registry answered {}", answered.status)));
    }
    FleetAnswer::read(&answered.body).ok_or_else(|| Error::RustError("the registry's answer is unreadable".to_owned()))
}

/// What a caller is told about a call to an object that failed; the rest goes to the log.
#[must_use]
pub fn refusal(at: &str, town: &str, error: &Error) -> Refusal {
    super::log::error(at, town, &errors::words(error));
    match errors::fault(error) {
        // Never asked again by us: a retry is the last thing that an overloaded object needs.
        Fault::Overloaded => Refusal::overloaded(ids::byte()),
        Fault::Retryable => Refusal::unavailable(ids::byte()),
        Fault::Other => Refusal::internal(),
    }
}
