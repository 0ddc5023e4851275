//! What the runner says to the worker: authenticated calls, one token refresh on 401, patience for what must arrive.

use crate::{stop::Stop, text};
use reqwest::{
    Client, Method, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
    redirect::Policy,
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The longest a call may take, unless it says otherwise.
pub const CALL: Duration = Duration::from_secs(30);

/// The longest a heartbeat, a refresh, or a call of the drain may take (protocol 4.13).
pub const SHORT_CALL: Duration = Duration::from_secs(10);

/// The pause before the first repetition; it doubles up to the configured one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How much of the worker's answer goes into an error.
const SAID_BYTES: usize = 300;

/// The largest answer that is read: a snapshot (`memory.rs`) and a little more.
const ANSWER_BYTES: usize = 33_000_000;

/// What a call carries.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// JSON.
    Json(&'a Value),
    /// `application/octet-stream`.
    Bytes(&'a [u8]),
}

/// Why a call did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// There is nobody to call.
    #[error("no GASTOWN_API_URL is known")]
    Nobody,
    /// No answer.
    #[error("the worker cannot be reached: {0}")]
    Unreachable(String),
    /// An answer other than 2xx.
    #[error("the worker answered {status}: {said}")]
    Refused {
        /// The status.
        status: u16,
        /// The beginning of the body.
        said: String,
        /// How long it asks to be left alone: `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The attempt was stopped while it waited for an answer.
    #[error("stopped")]
    Stopped,
}

impl CallError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // 429 asks for patience, too: a finished piece of work must not be lost to a rate limit.
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::Nobody | Self::Stopped => false,
        }
    }
    /// How long the worker asks to be left alone, if it does.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Nobody | Self::Unreachable(_) | Self::Stopped => None,
        }
    }
}

/// The newest token of each town: a start's, one that was pushed, or one that was refreshed.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    known: Arc<Mutex<HashMap<String, String>>>,
    /// Where each town's token lies for the processes of agents, which read it while they run. None = nowhere.
    directory: Option<PathBuf>,
}

impl Tokens {
    /// Tokens that are also kept as files, one per town, which only the runner's user can read.
    #[must_use]
    pub fn kept_in(directory: PathBuf) -> Self {
        Self { known: Arc::default(), directory: Some(directory) }
    }

    /// The file of a town's token.
    #[must_use]
    pub fn file(&self, town: &str) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(town))
    }

    /// Remembers a token. Whoever asks next, also a process that reads the file, gets this one.
    pub fn put(&self, town: &str, token: String) {
        let mut known = text::lock(&self.known);
        if let Some(path) = self.file(town)
            && let Err(error) = write_whole(&path, &token)
        {
            crate::journal::note(&format!("{}: {error}", path.display()));
        }
        known.insert(town.to_owned(), token);
    }

    /// The newest one.
    #[must_use]
    pub fn get(&self, town: &str) -> Option<String> {
        text::lock(&self.known).get(town).cloned()
    }
}

/// Writes under another name first: a reader sees the old text or the new one, never half of it.
fn write_whole(path: &std::path::Path, content: &str) -> io::Result<()> {
    // No town's id has a tilde in it.
    let half = PathBuf::from(format!("{}~", path.display()));
    match fs::remove_file(&half) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?.write_all(content.as_bytes())?;
    fs::rename(half, path)
}

/// The HTTP client for all calls. It follows no redirect: a token is for the worker alone.
pub fn client() -> Result<Client, reqwest::Error> {
    // Fails when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().redirect(Policy::none()).connect_timeout(SHORT_CALL).build()
}

/// Somebody the runner speaks for: an agent's attempt, or the container itself.
#[derive(Clone, Debug)]
pub struct Voice {
    /// The client.
    pub http: Client,
    /// The worker's base url, without a slash at the end.
    pub api: Option<String>,
    /// The town.
    pub town: String,
    /// Whose token it is.
    pub tokens: Tokens,
    /// `X-Gastown-Agent-Id`, `X-Gastown-Rig-Id`, `X-Gastown-Dispatch-Id`.
    pub headers: Vec<(&'static str, String)>,
}

impl Voice {
    /// The path of a rig's routes.
    #[must_use]
    pub fn rig_path(&self, rig: &str, rest: &str) -> String {
        format!("/api/towns/{}/rigs/{rig}/{rest}", self.town)
    }

    /// The path of a town's route.
    #[must_use]
    pub fn town_path(&self, rest: &str) -> String {
        format!("/api/towns/{}/{rest}", self.town)
    }

    /// Posts, refreshing the token once if it is refused.
    pub async fn call(&self, path: &str, body: Option<&Value>, limit: Duration) -> Result<Value, CallError> {
        let body = body.map_or(Body::Empty, Body::Json);
        self.exchange(Method::POST, path, body, limit).await.map(|said| json_of(&said))
    }

    /// Reads, refreshing the token once if it is refused.
    pub async fn get(&self, path: &str, limit: Duration) -> Result<Value, CallError> {
        self.exchange(Method::GET, path, Body::Empty, limit).await.map(|said| json_of(&said))
    }

    /// Makes a call of any kind, refreshing the token once if it is refused.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        limit: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let token = self.tokens.get(&self.town);
        let first = self.send(method.clone(), path, body, token.as_deref(), limit).await;
        let Err(CallError::Refused { status: 401, .. }) = &first else { return first };
        match self.renew(token.as_deref()).await {
            Some(token) => self.send(method, path, body, Some(&token), limit).await,
            None => first,
        }
    }

    /// Makes a call that must arrive: repeats it, with growing pauses, while the worker may come back.
    pub async fn insist(&self, path: &str, body: &Value, patience: Patience, stop: &Stop) -> Result<Value, CallError> {
        let deadline = Instant::now() + patience.total;
        let mut pause = FIRST_PAUSE.min(patience.pause);
        loop {
            let said = tokio::select! {
                said = self.call(path, Some(body), CALL) => said,
                _ = stop.fired() => return Err(CallError::Stopped),
            };
            // A worker that says how long it needs knows better; but what must arrive is not put off for ever.
            let asked = said.as_ref().err().and_then(CallError::retry_after);
            let wait = asked.map_or(pause, |asked| jittered(asked.min(patience.pause)).max(pause));
            match said {
                Err(error) if error.may_pass() && Instant::now() + wait < deadline => {
                    crate::journal::note(&format!("{path}: {error}; again in {} ms", wait.as_millis()));
                }
                said => return said,
            }
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop.fired() => return Err(CallError::Stopped),
            }
            pause = (pause * 2).min(patience.pause);
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let api = self.api.as_deref().ok_or(CallError::Nobody)?;
        let mut request = self.http.request(method, format!("{api}{path}")).timeout(limit);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request = match body {
            Body::Empty => request,
            Body::Json(value) => request.json(value),
            Body::Bytes(bytes) => request.header(CONTENT_TYPE, "application/octet-stream").body(bytes.to_vec()),
        };
        let mut answer = request.send().await.map_err(|error| unreachable_worker(&error))?;
        let status = answer.status();
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let retry_after = retry_after.map(Duration::from_secs);
        let mut said = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| unreachable_worker(&error))? {
            if said.len() + piece.len() > ANSWER_BYTES {
                return Err(CallError::Unreachable(format!("an answer of more than {ANSWER_BYTES} bytes")));
            }
            said.extend_from_slice(&piece);
        }
        if status.is_success() {
            return Ok(said);
        }
        let said = String::from_utf8_lossy(&said);
        let mut said = text::head(said.trim(), SAID_BYTES).to_owned();
        if said.is_empty() {
            said.push_str("an empty body");
        }
        Err(CallError::Refused { status: status.as_u16(), said, retry_after })
    }

    /// Refreshes the token, whatever it is worth still.
    pub async fn refresh(&self) -> Option<String> {
        self.renew(self.tokens.get(&self.town).as_deref()).await
    }

    /// A token other than `used`: one that came in meanwhile, else a refreshed one.
    async fn renew(&self, used: Option<&str>) -> Option<String> {
        let newest = self.tokens.get(&self.town);
        if newest.as_deref() != used {
            return newest;
        }
        let path = self.town_path("refresh-container-token");
        match self.send(Method::POST, &path, Body::Json(&json!({})), used, SHORT_CALL).await {
            Ok(said) => {
                let token = data_text(&json_of(&said), "token")?;
                self.tokens.put(&self.town, token.clone());
                Some(token)
            }
            Err(error) => {
                crate::journal::note(&format!("the container token could not be refreshed: {error}"));
                None
            }
        }
    }
}

/// A wait and up to a quarter more, at random: what was sent away together does not come back together.
#[must_use]
pub fn jittered(wait: Duration) -> Duration {
    // The first byte of a random id is as random as it gets.
    let [random, ..] = *uuid::Uuid::new_v4().as_bytes();
    wait + wait * u32::from(random) / 1024
}

/// How long a call is repeated, and how far apart at most.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first call to the last.
    pub total: Duration,
    /// The longest pause between two.
    pub pause: Duration,
}

/// An answer as JSON; what is none is null.
fn json_of(said: &[u8]) -> Value {
    serde_json::from_slice(said).unwrap_or(Value::Null)
}

/// A text of an answer's `data`, unless it is empty.
#[must_use]
pub fn data_text(said: &Value, name: &str) -> Option<String> {
    let text = said.get("data")?.get(name)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// Without the url, which the log line names already.
fn unreachable_worker(error: &reqwest::Error) -> CallError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let what = if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() };
    CallError::Unreachable(what)
}

/// Whether a refusal says that the caller is late: its attempt has been settled otherwise.
#[must_use]
pub fn is_late(error: &CallError) -> bool {
    matches!(error, CallError::Refused { status, .. } if *status == StatusCode::CONFLICT.as_u16())
}
