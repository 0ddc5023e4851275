//! One outgoing call with a time limit, answered in the town's terms.
//!
//! The platform does not tell a refused connection from one that was lost after the request was sent, so every failed
//! call reads "may have happened"; what to do about that is the town's decision, not this file's.

use super::errors;
use crate::town::{
    effect::Answer,
    policy::ANSWER_BYTES,
    time::{Millis, SECOND},
};
use futures_util::StreamExt;
use wasm_bindgen::JsValue;
use worker::{AbortSignal, Fetch, Headers, Request, Response};

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
pub async fn call(outgoing: Outgoing) -> Answer {
    let limit = u32::try_from(outgoing.timeout.max(1)).unwrap_or(u32::MAX);
    // The signal is made here, when the call is really made: waiting for a free slot does not count.
    let signal = AbortSignal::from(web_sys::AbortSignal::timeout_with_u32(limit));
    let sent = match request(outgoing.method, &outgoing.url, &outgoing.headers, outgoing.body.as_deref()) {
        Ok(request) => Fetch::Request(request).send_with_signal(&signal).await,
        Err(e) => Err(e),
    };
    match sent {
        Ok(mut response) => {
            let status = response.status_code();
            let header = response.headers().get("Retry-After").ok().flatten();
            let retry_after = header.as_deref().and_then(|v| retry_after(v, super::clock::now().0));
            // The status has arrived, so the call is answered whatever becomes of the body.
            Answer::Http { status, body: text(&mut response).await, retry_after }
        }
        Err(e) if errors::is_timeout(&e) => Answer::TimedOut { after: outgoing.timeout },
        Err(e) => Answer::Unreachable { detail: errors::words(&e) },
    }
}

/// Builds a request. By hand, because `worker`'s own builder brings the whole of its `cf` properties along.
pub fn request(method: &str, url: &str, headers: &[(&str, String)], body: Option<&str>) -> worker::Result<Request> {
    let map = Headers::new();
    for (name, value) in headers {
        map.set(name, value)?;
    }
    let init = web_sys::RequestInit::new();
    init.set_method(method);
    // A control server or a webhook that redirects is misconfigured; following would send tokens somewhere else.
    init.set_redirect(web_sys::RequestRedirect::Manual);
    if let Some(body) = body {
        map.set("Content-Type", "application/json")?;
        init.set_body(&JsValue::from_str(body));
    }
    init.set_headers(&map.0);
    Ok(Request::from(web_sys::Request::new_with_str_and_init(url, &init)?))
}

/// At most [`ANSWER_BYTES`] of a body, cut at a character boundary. Dropping the stream cancels the rest.
async fn text(response: &mut Response) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut stream) = response.stream() {
        while let Some(Ok(piece)) = stream.next().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() >= ANSWER_BYTES {
                break;
            }
        }
    }
    bytes.truncate(ANSWER_BYTES);
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
