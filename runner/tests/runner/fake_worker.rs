//! A worker that records every call and answers 200, unless a test says otherwise.

use axum::{
    Json, Router,
    body::{Bytes, to_bytes},
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, time::Instant};

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// One call of the runner.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    pub query: String,
    /// The body as it came.
    pub bytes: Bytes,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Whether this is the agent's call of that name.
    pub fn is(&self, agent: &str, verb: &str) -> bool {
        self.path.ends_with(&format!("/agents/{agent}/{verb}"))
    }

    /// The agent's heartbeat, if this is the call for all agents and brings it.
    pub fn beat(&self, agent: &str) -> Option<&Value> {
        let agents = self.body["agents"].as_array().filter(|_| self.is_heartbeats())?;
        agents.iter().find(|beat| beat["agentId"] == agent)
    }

    pub fn beats(&self, agent: &str) -> bool {
        self.beat(agent).is_some()
    }

    /// The agents whose heartbeats this call brings.
    pub fn agents(&self) -> Vec<String> {
        let agents = self.body["agents"].as_array().filter(|_| self.is_heartbeats());
        agents.into_iter().flatten().map(|beat| beat["agentId"].as_str().unwrap().to_owned()).collect()
    }

    pub fn is_heartbeats(&self) -> bool {
        self.path.ends_with("/heartbeats")
    }
}

type Rule = Box<dyn FnMut(&Call) -> Option<(u16, Value)> + Send>;

/// An answer's header that a rule asks for by this key of its body.
pub const RETRY_AFTER: &str = "retryAfterSeconds";

/// A rule that answers with the bytes of a file names it by this key of its body.
pub const FILE: &str = "fileToSend";

#[derive(Default)]
struct Heard {
    calls: Vec<Call>,
    rules: Vec<Rule>,
}

#[derive(Clone)]
pub struct FakeWorker {
    pub url: String,
    heard: Arc<Mutex<Heard>>,
}

impl FakeWorker {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let ear = Arc::clone(&heard);
        let app = Router::new().fallback(move |request: Request| hear(Arc::clone(&ear), request));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, heard }
    }

    /// Answers differently: the first rule that has an answer gives it.
    pub fn rule(&self, rule: impl FnMut(&Call) -> Option<(u16, Value)> + Send + 'static) {
        self.heard.lock().unwrap().rules.push(Box::new(rule));
    }

    pub fn calls(&self) -> Vec<Call> {
        self.heard.lock().unwrap().calls.clone()
    }

    pub fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.calls().iter().filter(|call| wanted(call)).count()
    }

    /// The first call that is wanted, once it has come.
    pub async fn call(&self, what: &str, wanted: impl Fn(&Call) -> bool) -> Call {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(call) = self.calls().into_iter().find(&wanted) {
                return call;
            }
            let heard = || self.calls().iter().map(|call| format!("{} {}", call.path, call.body)).collect::<Vec<_>>();
            assert!(Instant::now() < deadline, "no {what} came, only {:#?}", heard());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The events that the worker was told of, in the order in which they came.
    pub fn events(&self) -> Vec<Value> {
        let calls = self.calls().into_iter().filter(|call| call.path.ends_with("/agent-events"));
        calls.flat_map(|call| call.body["events"].as_array().cloned().unwrap_or_default()).collect()
    }

    /// What the agent's first heartbeat said, once it has come.
    pub async fn beat(&self, agent: &str) -> Value {
        let call = self.call("heartbeat", |call| call.beats(agent)).await;
        call.beat(agent).cloned().unwrap()
    }

    /// The agent's call of that name, once it has come.
    pub async fn verb(&self, agent: &str, verb: &str) -> Call {
        self.call(verb, |call| call.is(agent, verb)).await
    }
}

async fn hear(heard: Arc<Mutex<Heard>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let bytes: Bytes = to_bytes(body, 40_000_000).await.unwrap();
    let call = Call {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        bytes,
    };
    let mut heard = heard.lock().unwrap();
    let answer = heard.rules.iter_mut().find_map(|rule| rule(&call));
    heard.calls.push(call);
    let (status, body) = answer.unwrap_or_else(|| (200, json!({ "success": true, "data": {} })));
    if let Some(file) = body[FILE].as_str() {
        return std::fs::read(file).unwrap().into_response();
    }
    let patience = body[RETRY_AFTER].as_u64().map(|seconds| [("retry-after", seconds.to_string())]);
    // What git wants to see before it shows credentials.
    let basic = [("www-authenticate", "Basic realm=\"git\"")];
    let mut answer = (StatusCode::from_u16(status).unwrap(), basic, Json(body)).into_response();
    for (name, value) in patience.into_iter().flatten() {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer
}
