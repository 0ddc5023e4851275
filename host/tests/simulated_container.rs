//! The simulated container over HTTP: what the contract suite will talk to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken promise must stop the test")]

use serde_json::{Value as Json, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

struct Served {
    child: Child,
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve() -> Served {
    let mut child = Command::new(env!("CARGO_BIN_EXE_simulated-container")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").expect("it says where").to_owned();
    Served { child, address }
}

fn call(at: &Served, method: &str, path: &str, body: &Json) -> (u16, Json) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut stream = TcpStream::connect(&at.address).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}")))
}

#[test]
fn an_agent_is_started_asked_told_and_stopped_over_http() {
    let served = serve();
    let (status, health) = call(&served, "GET", "/health", &Json::Null);
    assert_eq!((status, &health["status"], &health["features"]), (200, &json!("ok"), &json!(["dispatch-id"])));

    let start = |agent: &str, prompt: &str| {
        json!({
            "agentId": agent, "rigId": "r", "townId": "t", "role": "polecat", "name": "Toast", "identity": "i",
            "prompt": prompt, "model": "m", "gitUrl": "https://example.com/x.git", "branch": "gt/toast/0123abcd",
            "defaultBranch": "main", "dispatchId": format!("d-{agent}"),
        })
    };
    let (status, record) = call(&served, "POST", "/agents/start", &start("a", "Run."));
    assert_eq!((status, &record["status"], &record["dispatchId"]), (201, &json!("running"), &json!("d-a")));
    assert_eq!(call(&served, "POST", "/agents/start", &start("b", "Do it.\nexit")).0, 201);
    assert_eq!(call(&served, "GET", "/agents/b/status", &Json::Null).1["status"], "exited");
    assert_eq!(call(&served, "POST", "/agents/a/message", &json!({"prompt": "hello"})), (200, json!({"sent": true})));
    assert_eq!(call(&served, "GET", "/agents/a/status", &Json::Null).1["status"], "running");
    assert_eq!(call(&served, "POST", "/agents/a/stop", &json!({})), (200, json!({"stopped": true})));
    assert_eq!(call(&served, "GET", "/agents/a/status", &Json::Null).1["exitReason"], "stopped");
    assert_eq!(call(&served, "GET", "/agents/c/status", &Json::Null).0, 404);
    assert_eq!(call(&served, "POST", "/agents/start", &json!({"role": 1})).0, 400);
    assert_eq!(call(&served, "GET", "/nothing", &Json::Null), (404, json!({"error": "Not found"})));
}
