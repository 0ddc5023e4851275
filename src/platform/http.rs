//! One outgoing call with a time limit, answered in the town's terms.
//!
//! The platform does not tell a refused connection from one that was lost after the request was sent, so every failed
//! call reads "may have happened"; what to do about that is the town's decision, not this file's.
//!
//! A call goes to the internet, to a town's container object, or to a port of the container that an object has.

use super::errors;
use crate::town::{
    effect::Answer,
    policy::ANSWER_BYTES,
    time::{Millis, SECOND},
};
use futures_util::StreamExt;
use wasm_bindgen::JsValue;
use worker::{Env, Fetch, Fetcher, Headers, Request, Response, Result};

/// The header by which a container's object says that the answer is its own: there is no container that could have given
/// one. The body says why.
pub const DOWN: &str = "X-Gastown-Down";

/// Which way a call goes.
#[derive(Clone, Debug)]
pub enum Via {
    /// To its url's host.
    Internet,
    /// To the container's object of this town.
    Object(Env, String),
    /// To a port.
    Port(Fetcher),
}

impl Via {
    const fn is_object(&self) -> bool {
        matches!(self, Self::Object(..))
    }

    /// Sends a request. A new stub each time: one that has thrown stays broken.
    pub async fn send(&self, request: Request) -> Result<Response> {
        match self {
            Self::Internet => Fetch::Request(request).send().await,
            Self::Object(env, town) => {
                let stub = env.durable_object("TOWN_CONTAINER")?.id_from_name(town)?.get_stub()?;
                stub.fetch_with_request(request).await
            }
            Self::Port(port) => port.fetch_request(request).await,
        }
    }
}

/// A call to be made.
#[derive(Debug)]
pub struct Outgoing {
    /// The method.
    pub method: &'static str,
    /// The absolute url.
    pub url: String,
    /// Headers beside `Content-Type`.
    pub headers: Vec<(&'static str, String)>,
    /// A JSON body.
    pub body: Option<String>,
    /// How long to wait for the answer, its body included.
    pub timeout: Millis,
}

/// Makes the call. Never fails: not being answered is an answer.
pub async fn call(outgoing: Outgoing, via: &Via) -> Answer {
    call_for(outgoing, via, ANSWER_BYTES).await
}

/// The same, with so many bytes of the answer's body.
pub async fn call_for(outgoing: Outgoing, via: &Via, bytes: usize) -> Answer {
    let limit = u32::try_from(outgoing.timeout.max(1)).unwrap_or(u32::MAX);
    // The signal is made here, when the call is really made: waiting for a free slot does not count.
    let signal = web_sys::AbortSignal::timeout_with_u32(limit);
    let body = outgoing.body.as_deref();
    let sent = match built(outgoing.method, &outgoing.url, &outgoing.headers, body, Some(&signal)) {
        Ok(request) => via.send(request).await,
        Err(e) => Err(e),
    };
    match sent {
        Ok(mut response) if via.is_object() && response.headers().has(DOWN).unwrap_or(false) => {
            Answer::Unreachable { detail: text(&mut response, bytes).await }
        }
        Ok(mut response) => {
            let status = response.status_code();
            let header = response.headers().get("Retry-After").ok().flatten();
            let retry_after = header.as_deref().and_then(|v| retry_after(v, super::clock::now().0));
            // The status has arrived, so the call is answered whatever becomes of the body.
            Answer::Http { status, body: text(&mut response, bytes).await, retry_after }
        }
        Err(e) if errors::is_timeout(&e) => Answer::TimedOut { after: outgoing.timeout },
        Err(e) => Answer::Unreachable { detail: errors::words(&e) },
    }
}

/// The header that names a request which must not be carried out twice.
pub const REQUEST_HEADER: &str = "X-Gastown-Request";

/// A request with the body of `from` as it comes in: it is never held as a whole.
pub fn handed_on(method: &str, url: &str, from: &Request) -> worker::Result<Request> {
    let init = web_sys::RequestInit::new();
    init.set_method(method);
    if let Some(body) = from.inner().body() {
        init.set_body(&body);
    }
    Ok(Request::from(web_sys::Request::new_with_str_and_init(url, &init)?))
}

/// Builds a request. By hand, because `worker`'s own builder brings the whole of its `cf` properties along.
pub fn request(method: &str, url: &str, headers: &[(&str, String)], body: Option<&str>) -> Result<Request> {
    built(method, url, headers, body, None)
}

fn built(
    method: &str,
    url: &str,
    headers: &[(&str, String)],
    body: Option<&str>,
    signal: Option<&web_sys::AbortSignal>,
) -> Result<Request> {
    let map = Headers::new();
    for (name, value) in headers {
        map.set(name, value)?;
    }
    let init = web_sys::RequestInit::new();
    init.set_method(method);
    // A control server or a webhook that redirects is misconfigured; following would send tokens somewhere else.
    init.set_redirect(web_sys::RequestRedirect::Manual);
    init.set_signal(signal);
    if let Some(body) = body {
        map.set("Content-Type", "application/json")?;
        init.set_body(&JsValue::from_str(body));
    }
    init.set_headers(&map.0);
    Ok(Request::from(web_sys::Request::new_with_str_and_init(url, &init)?))
}

/// At most `cap` bytes of a body, cut at a character boundary. Dropping the stream cancels the rest.
async fn text(response: &mut Response, cap: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut stream) = response.stream() {
        while let Some(Ok(piece)) = stream.next().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() >= cap {
                break;
            }
        }
    }
    bytes.truncate(cap);
    // A character that was cut in two at the end goes; bytes that never were UTF-8 are shown as such.
    if let Err(e) = std::str::from_utf8(&bytes)
        && e.error_len().is_none()
    {
        bytes.truncate(e.valid_up_to());
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `Retry-After` in milliseconds from `now`: seconds, or a date.
fn retry_after(value: &str, now: i64) -> Option<Millis> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(i64::from(seconds).saturating_mul(SECOND));
    }
    let at = js_sys::Date::parse(value);
    #[allow(clippy::cast_possible_truncation, reason = "a date in milliseconds; not a number is filtered out")]
    at.is_finite().then(|| (at as i64).saturating_sub(now).max(0))
}
