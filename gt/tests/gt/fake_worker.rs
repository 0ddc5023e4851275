//! A worker made of answers: it remembers what it was asked, and says what it was told to say.
//!
//! Answers of one route are given in order, the last one again and again. What no answer was given for is a 404.

use serde_json::{Value, json};
use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};
use tungstenite::{Message, WebSocket, handshake::derive_accept_key, protocol::Role};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    headers: HashMap<String, String>,
    pub text: String,
}

impl Request {
    /// A header, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }
    /// The body.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }
}

/// What is said to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    /// Frames of a socket: the request is upgraded, they are sent, and it is closed.
    frames: Option<Vec<Value>>,
    /// Nothing is said at all: the connection is closed.
    silent: bool,
}

impl Reply {
    /// A success with data.
    pub fn data(data: &Value) -> Self {
        Self::of(200, &json!({"success": true, "data": data}).to_string())
    }
    /// A refusal in the worker's words.
    pub fn refusal(status: u16, code: &str, error: &str) -> Self {
        Self::of(status, &json!({"success": false, "error": error, "code": code}).to_string())
    }
    /// A 503 that says when to come back, in milliseconds.
    pub fn busy(code: &str, milliseconds: u64) -> Self {
        let body = json!({"success": false, "error": "busy", "code": code, "retry_after_ms": milliseconds});
        let mut reply = Self::of(503, &body.to_string());
        reply.headers.push(("Retry-After".to_owned(), "1".to_owned()));
        reply
    }
    /// Anything.
    pub fn of(status: u16, body: &str) -> Self {
        Self { status, headers: Vec::new(), body: body.to_owned(), frames: None, silent: false }
    }
    /// With a header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
    /// No answer.
    pub fn silence() -> Self {
        Self { silent: true, ..Self::of(0, "") }
    }
    /// A socket with these frames.
    pub fn frames(frames: &[Value]) -> Self {
        Self { frames: Some(frames.to_vec()), ..Self::of(101, "") }
    }
}

#[derive(Default)]
struct State {
    answers: HashMap<String, VecDeque<Reply>>,
    requests: Vec<Request>,
}

/// The worker.
pub struct FakeWorker {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl FakeWorker {
    /// Listens.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { url, state }
    }

    /// Answers a route (without its query) with these, in order.
    pub fn answer(&self, route: &str, replies: &[Reply]) -> &Self {
        self.state.lock().unwrap().answers.insert(route.to_owned(), replies.iter().cloned().collect());
        self
    }

    /// Answers a route with data.
    pub fn gives(&self, route: &str, data: &Value) -> &Self {
        self.answer(route, &[Reply::data(data)])
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    /// The same as `METHOD path?query`.
    pub fn asked(&self) -> Vec<String> {
        self.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// The last request.
    pub fn last(&self) -> Request {
        self.requests().pop().expect("the worker was asked nothing")
    }
}

fn serve(mut stream: &TcpStream, state: &Mutex<State>) {
    let Some(request) = read(stream) else { return };
    let route = format!("{} {}", request.method, request.path.split('?').next().unwrap_or_default());
    let reply = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        match state.answers.get_mut(&route) {
            Some(replies) if replies.len() > 1 => replies.pop_front().unwrap(),
            Some(replies) => replies[0].clone(),
            None => Reply::refusal(404, "not_found", "Not found"),
        }
    };
    if reply.silent {
        return;
    }
    if let Some(frames) = &reply.frames {
        return upgrade(stream, &request, frames);
    }
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = stream.write_all(format!("{head}\r\n{}", reply.body).as_bytes());
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, text: String::from_utf8_lossy(&body).into_owned() })
}

fn upgrade(mut stream: &TcpStream, request: &Request, frames: &[Value]) {
    let accept = derive_accept_key(request.header("sec-websocket-key").unwrap_or_default().as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
    for frame in frames {
        let _ = socket.send(Message::text(frame.to_string()));
    }
    let _ = socket.close(None);
    // Until the other side has gone, too.
    while socket.read().is_ok() {}
}
