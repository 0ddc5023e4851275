//! The one way to the worker: a call with its token and headers, one refresh of a container's token, bounded patience.
//!
//! An agent may be at work for longer than any token lives. The container keeps the newest in a file ([`TOKEN_FILE`]): what
//! stands there goes before what the agent was started with, and a refused token is compared with it before one is asked for.
//!
//! What is repeated: a call that changes nothing the second time ([`Repeat::Safe`]) after a lost answer; any call after
//! the 503 `overloaded`, which says that nothing was done. Everything else is sent once: a bead slung twice is worse
//! than an error.

use crate::failure::{Failure, Refusal};
use serde_json::{Value as Json, json};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use ureq::{
    Agent,
    http::{Request, Response, header::RETRY_AFTER},
    tls::{RootCerts, TlsConfig},
};

/// Names the file of the container's newest token.
const TOKEN_FILE: &str = "GASTOWN_CONTAINER_TOKEN_FILE";
/// The longest that one call may take: the worker answers in milliseconds or sends away.
const CALL: Duration = Duration::from_secs(30);
/// How often a call is sent at most.
const TURNS: u32 = 4;
/// The pause after a lost answer; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause a server may ask for and get: somebody waits for this command.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer that is read, in bytes.
const ANSWER: u64 = 64 << 20;
/// How much of an unreadable answer is shown, in characters.
const SHOWN: usize = 200;

/// Whether a call may be sent again when nobody knows how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It reads, or doing it twice is doing it once.
    Safe,
    /// It makes or delivers something.
    Once,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    method: &'static str,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Json>,
    repeat: Repeat,
}

impl Call {
    /// Reads.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), query: Vec::new(), body: None, repeat: Repeat::Safe }
    }

    /// Says something, once.
    pub fn post(path: impl Into<String>, body: Json) -> Self {
        Self { method: "POST", body: Some(body), repeat: Repeat::Once, ..Self::get(path) }
    }

    /// The same without a body.
    pub fn post_empty(path: impl Into<String>) -> Self {
        Self { method: "POST", repeat: Repeat::Once, ..Self::get(path) }
    }

    /// Sets to what it shall be.
    pub fn put(path: impl Into<String>, body: Json) -> Self {
        Self { method: "PUT", body: Some(body), ..Self::get(path) }
    }

    /// Changes what is named.
    pub fn patch(path: impl Into<String>, body: Json) -> Self {
        Self { method: "PATCH", body: Some(body), ..Self::get(path) }
    }

    /// Removes.
    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: "DELETE", repeat: Repeat::Once, ..Self::get(path) }
    }

    /// Doing it twice is doing it once.
    pub fn safe(self) -> Self {
        Self { repeat: Repeat::Safe, ..self }
    }

    /// It delivers something even though it reads.
    pub fn once(self) -> Self {
        Self { repeat: Repeat::Once, ..self }
    }

    /// Asks for a part only.
    pub fn with(mut self, key: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (key, value.to_string())));
        self
    }

    fn url(&self, api: &str) -> String {
        let mut url = format!("{api}{}", self.path);
        for (index, (key, value)) in self.query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(key);
            url.push('=');
            url.push_str(&segment(value));
        }
        url
    }
}

/// A part of a path or a query, escaped: what a caller names may hold anything.
pub fn segment(part: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b':').remove(b'@');
    utf8_percent_encode(part, ESCAPED).to_string()
}

/// The newest token of the container in which this runs, if it keeps one.
pub fn pushed_token() -> Option<String> {
    let token = std::fs::read_to_string(std::env::var_os(TOKEN_FILE)?).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// A caller's connection to one worker.
#[derive(Debug)]
pub struct Client {
    http: Agent,
    api: String,
    token: Mutex<String>,
    headers: Vec<(&'static str, String)>,
    /// The town whose container's token this is: it can be renewed.
    container_of: Option<String>,
    of_agent: bool,
}

impl Client {
    /// For a person: a token, nothing else.
    pub fn of_person(api: String, token: String) -> Self {
        Self::new(api, token, Vec::new(), None, false)
    }

    /// For an agent. `town` is given if the token is a container's, which can be renewed and needs the headers.
    pub fn of_agent(api: String, token: String, headers: Vec<(&'static str, String)>, town: Option<String>) -> Self {
        Self::new(api, token, headers, town, true)
    }

    fn new(
        api: String,
        token: String,
        headers: Vec<(&'static str, String)>,
        town: Option<String>,
        of_agent: bool,
    ) -> Self {
        trust();
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A token is for this worker alone: no redirect is followed.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(CALL))
            .user_agent(concat!("gt/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Self { http: config.into(), api, token: Mutex::new(token), headers, container_of: town, of_agent }
    }

    /// The worker's base url, without a slash at the end.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Makes a call, with as much patience as is safe, and returns the `data` of its answer.
    pub fn call(&self, call: &Call) -> Result<Json, Failure> {
        let mut turn = 1;
        loop {
            let answer = self.authenticated(call);
            let Some(pause) = answer.as_ref().err().and_then(|failure| again(failure, call.repeat, turn)) else {
                return answer;
            };
            sleep(pause);
            turn += 1;
        }
    }

    /// Makes a call; a container's token that is refused is renewed once.
    fn authenticated(&self, call: &Call) -> Result<Json, Failure> {
        let token = self.token();
        let first = self.send(call, &token);
        let (Err(Failure::Refused(refusal)), Some(town)) = (&first, &self.container_of) else { return first };
        if refusal.status != 401 {
            return first;
        }
        if let Some(newer) = pushed_token().filter(|newer| *newer != token) {
            let second = self.send(call, &newer);
            if !matches!(&second, Err(Failure::Refused(refusal)) if refusal.status == 401) {
                self.keep(&newer);
                return second;
            }
        }
        let path = format!("/api/towns/{}/refresh-container-token", segment(town));
        let renewed = self.send(&Call::post(path, json!({})), &token);
        match renewed.as_ref().ok().and_then(|data| data.get("token")).and_then(Json::as_str) {
            Some(fresh) if !fresh.is_empty() => {
                self.keep(fresh);
                self.send(call, fresh)
            }
            // The first refusal says more than that of the renewal.
            _ => first,
        }
    }

    fn token(&self) -> String {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, token: &str) {
        token.clone_into(&mut self.token.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn send(&self, call: &Call, token: &str) -> Result<Json, Failure> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.url(&self.api))
            .header("Authorization", format!("Bearer {token}"))
            .header("Content-Type", "application/json");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let wrong = |error: ureq::http::Error| {
            Failure::usage(format!("{}: {error}", self.api), "The server's address looks like https://gastown.example.")
        };
        let answer = match &call.body {
            Some(body) => self.http.run(request.body(body.to_string()).map_err(wrong)?),
            None => self.http.run(request.body(()).map_err(wrong)?),
        };
        self.read(answer.map_err(|error| self.lost(&error))?)
    }

    fn read(&self, mut answer: Response<ureq::Body>) -> Result<Json, Failure> {
        let status = answer.status().as_u16();
        let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let text = answer.body_mut().with_config().limit(ANSWER).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| self.lost(&error))?;
        if status == 204 {
            return Ok(Json::Null);
        }
        let Ok(body) = serde_json::from_str::<Json>(&text) else { return Err(self.odd(status, &text)) };
        match body.get("success").and_then(Json::as_bool) {
            Some(true) => Ok(data_of(body)),
            Some(false) => {
                let word = |key: &str| body.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
                let milliseconds = body.get("retry_after_ms").and_then(Json::as_u64).map(Duration::from_millis);
                let (code, message) = (word("code"), word("error"));
                let retry_after = milliseconds.or(seconds.map(Duration::from_secs));
                Err(Failure::Refused(Box::new(Refusal {
                    status,
                    code,
                    message,
                    retry_after,
                    body,
                    of_agent: self.of_agent,
                })))
            }
            None => Err(self.odd(status, &text)),
        }
    }

    fn lost(&self, error: &ureq::Error) -> Failure {
        match error {
            ureq::Error::BadUri(_) => Failure::usage(
                format!("{} is no address of a server", self.api),
                "It looks like https://gastown.example.",
            ),
            _ => Failure::Unreachable {
                what: format!("{} cannot be reached: {error}", self.api),
                next: "Check the address (gt whoami shows it) and the network, then try again.".to_owned(),
            },
        }
    }

    fn odd(&self, status: u16, text: &str) -> Failure {
        let shown: String = text.trim().chars().take(SHOWN).collect();
        let shown = if shown.is_empty() { "an empty answer".to_owned() } else { shown };
        Failure::Unreachable {
            what: format!("what answers at {} is no Gastown worker, or not well: HTTP {status}, {shown}", self.api),
            next: "Check the address (gt whoami shows it); else try again later.".to_owned(),
        }
    }
}

/// The data of a success. One answer (`mayor-id`) has its fields beside `success`, some have none at all.
fn data_of(body: Json) -> Json {
    let Json::Object(mut fields) = body else { return Json::Null };
    fields.remove("success");
    match fields.remove("data") {
        Some(data) => data,
        None if fields.is_empty() => Json::Null,
        None => Json::Object(fields),
    }
}

/// How long to wait before the same call is sent again; `None`: not at all.
fn again(failure: &Failure, repeat: Repeat, turn: u32) -> Option<Duration> {
    if turn >= TURNS {
        return None;
    }
    match failure {
        Failure::Refused(refusal) if refusal.status == 503 => {
            let nothing_done = refusal.code == "overloaded" || repeat == Repeat::Safe;
            refusal.retry_after.filter(|pause| nothing_done && *pause <= PATIENCE)
        }
        Failure::Unreachable { .. } if repeat == Repeat::Safe => Some(PAUSE * 2_u32.pow(turn - 1)),
        Failure::Refused(_) | Failure::Unreachable { .. } | Failure::Usage { .. } => None,
    }
}

/// The provider of TLS, as the runner has it. Fails when one is installed already, which is as good.
pub fn trust() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Waits.
#[allow(clippy::disallowed_methods, reason = "a program on the host, where nobody waits but its caller")]
pub fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(code: &str, retry_after: Option<u64>) -> Failure {
        let retry_after = retry_after.map(Duration::from_millis);
        Failure::Refused(Box::new(Refusal { status: 503, code: code.to_owned(), retry_after, ..Refusal::default() }))
    }

    fn lost() -> Failure {
        Failure::Unreachable { what: String::new(), next: String::new() }
    }

    #[test]
    fn what_makes_something_is_repeated_only_if_nothing_was_done() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(again(&busy("overloaded", Some(1_000)), Repeat::Once, 1), second);
        assert_eq!(again(&busy("unavailable", Some(1_000)), Repeat::Once, 1), None);
        assert_eq!(again(&busy("unavailable", Some(1_000)), Repeat::Safe, 1), second);
        assert_eq!(again(&lost(), Repeat::Once, 1), None);
        assert_eq!(again(&lost(), Repeat::Safe, 3), Some(Duration::from_millis(800)));
    }

    #[test]
    fn data_is_found_wherever_the_worker_puts_it() {
        assert_eq!(data_of(json!({"success": true, "data": [1]})), json!([1]));
        assert_eq!(data_of(json!({"success": true, "data": null})), Json::Null);
        assert_eq!(data_of(json!({"success": true, "agentId": "a"})), json!({"agentId": "a"}));
        assert_eq!(data_of(json!({"success": true})), Json::Null);
    }

    #[test]
    fn patience_ends() {
        assert_eq!(again(&lost(), Repeat::Safe, TURNS), None);
        assert_eq!(again(&busy("overloaded", Some(1)), Repeat::Safe, TURNS), None);
        assert_eq!(again(&busy("overloaded", Some(60_000)), Repeat::Safe, 1), None, "nobody waits a minute in silence");
        assert_eq!(again(&busy("not_configured", None), Repeat::Safe, 1), None, "it does not say that it passes");
    }

    #[test]
    fn whatever_a_caller_names_stays_one_part_of_the_path() {
        assert_eq!(segment("../a?b c/ä"), "..%2Fa%3Fb%20c%2F%C3%A4");
        assert_eq!(segment("rig:r-1_2@x"), "rig:r-1_2@x");
        let call = Call::get("/x").with("status", Some("a&b")).with("limit", None::<u32>).with("n", Some(3));
        assert_eq!(call.url("http://h"), "http://h/x?status=a%26b&n=3");
    }
}
