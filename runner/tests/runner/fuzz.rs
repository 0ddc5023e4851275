//! Poisoned and oversized input on every route of the control server, over raw sockets: no panic, no 5xx, and nothing
//! is written where an agent has no business. The corpus is that of the worker, `tests/fuzz`.

#[path = "../../../tests/fuzz/corpus.rs"]
mod corpus;

use crate::bench::Bench;
use corpus::Dice;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// The control server's table, as it stands in its source.
fn table() -> Vec<(String, String)> {
    let source = include_str!("../../src/server.rs");
    let router = source.split("fn router").nth(1).unwrap().split("\n}").next().unwrap();
    let lines = router.lines().filter_map(|line| line.trim().strip_prefix(".route(\""));
    let read = |line: &str| {
        let (path, handler) = line.split_once("\", ").unwrap();
        let method = handler.split('(').next().unwrap().to_uppercase();
        (method, path.to_owned())
    };
    lines.map(read).collect()
}

/// Sends exactly these bytes; the answer, or nothing if the connection ended without one.
async fn raw(bench: &Bench, request: &[u8]) -> Option<(u16, Vec<u8>)> {
    let address = bench.url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    // A server that has heard enough may close before everything was sent; what it said still counts.
    let sent = stream.write_all(request).await;
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "no answer and no end to {}", shown(request));
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let Some(head) = head else {
        assert!(answer.is_empty(), "half an answer ({sent:?}) to {}", shown(request));
        return None;
    };
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    Some((status, answer[head + 4..].to_vec()))
}

fn shown(request: &[u8]) -> String {
    String::from_utf8_lossy(request).chars().take(700).collect()
}

fn request(method: &str, target: &[u8], line: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\nHost: runner\r\nConnection: close\r\n"].concat();
    if !line.is_empty() {
        out.extend([line, b"\r\n"].concat());
    }
    out.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
    out.extend(body);
    out
}

/// The right request of a route: path and body.
fn right(bench: &Bench, method: &str, pattern: &str) -> (String, Value) {
    let body = match (method, pattern) {
        ("GET", _) => Value::Null,
        (_, "/agents/start") => {
            let mut body = bench.polecat("a1", "true");
            body["lightweight"] = json!(true);
            body["startPoint"] = json!("origin/main");
            body["systemPrompt"] = json!("Be good");
            body["review"] =
                json!({"entryId": "e", "branch": "b", "targetBranch": "main", "sourceBeadId": "s", "gates": ["true"]});
            body
        }
        (_, "/agents/{agent}/stop") => json!({ "dispatchId": "a1-d1" }),
        (_, "/agents/{agent}/message") => json!({ "prompt": "Go on" }),
        (_, "/agents/{agent}/model") => json!({ "model": "anthropic/claude-x", "smallModel": "s" }),
        (_, "/agents/{agent}/system-prompt") => json!({ "systemPrompt": "Be better" }),
        (_, "/agents/{agent}/nudge-delivered") => json!({ "nudge_id": "n1" }),
        (_, "/agents/{agent}/stream-ticket" | "/sync-config" | "/git/merge") => json!({}),
        (_, "/refresh-token") => json!({ "token": crate::bench::TOKEN }),
        (_, "/dashboard-context") => json!({ "context": "the convoy page" }),
        (_, "/repos/setup") => {
            json!({ "rigId": "rig-2", "gitUrl": bench.origin(), "defaultBranch": "main", "envVars": { "A": "b" } })
        }
        other => panic!("no right request for {other:?}: add it here"),
    };
    (pattern.replace("{agent}", "a1").replace("{pty}", "p1"), body)
}

#[tokio::test]
async fn poisoned_requests_are_refused_in_words_and_leave_no_trace() {
    let bench = Bench::new().await;
    let (seed, rounds) = corpus::asked();
    let mut dice = Dice::new(seed);
    let (values, bodies, segments) = (corpus::values(), corpus::bodies(), corpus::segments());
    let (queries, headers) = (corpus::queries(), corpus::headers());
    let before = names(&bench);
    let mut answered = BTreeMap::<u16, u32>::new();
    let routes = table();
    assert!(routes.len() >= 5, "the table could not be read: {routes:?}");
    for (method, pattern) in routes.iter().cycle().take(routes.len() * usize::try_from(rounds).unwrap()) {
        let (path, body) = right(&bench, method, pattern);
        let right_body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut requests = vec![request(method, path.as_bytes(), b"", &right_body)];
        for field in corpus::fields(&body) {
            for _ in 0..3 {
                let spoilt = corpus::with_field(&body, &field, &dice.one(&values));
                requests.push(request(method, path.as_bytes(), b"", &spoilt));
            }
        }
        for _ in 0..12 {
            requests.push(request(method, path.as_bytes(), b"", &dice.one(&bodies)));
            requests.push(request(method, path.as_bytes(), b"", &dice.bent(&right_body)));
            let query = [path.as_bytes(), b"?", &dice.one(&queries)].concat();
            requests.push(request(method, &query, b"", &right_body));
            let (name, value) = dice.one(&headers);
            requests.push(request(method, path.as_bytes(), &[name.as_bytes(), b": ", &value].concat(), &right_body));
            requests.push(request(method, path.as_bytes(), &[b"X-Town-Config: ", &value[..]].concat(), &right_body));
            for name in ["X-Drain-Nonce: n\r\nX-Town-Id: ", "X-Town-Id: t\r\nX-Drain-Nonce: "] {
                requests.push(request(method, path.as_bytes(), &[name.as_bytes(), &value].concat(), &right_body));
            }
            if pattern.contains("{agent}") {
                let target = pattern.replace("{agent}", "\u{1}");
                let at = target.find('\u{1}').unwrap();
                let target = [&target.as_bytes()[..at], &dice.one(&segments), &target.as_bytes()[at + 1..]].concat();
                requests.push(request(method, &target, b"", &right_body));
            }
        }
        requests.push(request(method, path.as_bytes(), b"", &vec![b'x'; 1_000_001]));
        for request in requests {
            let status = well_formed(raw(&bench, &request).await, &request);
            *answered.entry(status / 100).or_default() += 1;
        }
    }
    assert!(answered[&2] > 100 && answered[&4] > 100, "seed {seed}: {answered:?}");
    for (what, line, body) in [
        ("a body that is shorter than it says", "Content-Length: -5", "{}"),
        ("no number", "Content-Length: lots", "{}"),
        ("too much", "Content-Length: 99999999999999999999", "{}"),
        ("chunks that are none", "Transfer-Encoding: chunked", "zz\r\n{}\r\n"),
    ] {
        let request = format!("POST /agents/start HTTP/1.1\r\nHost: r\r\nConnection: close\r\n{line}\r\n\r\n{body}");
        if let Some((status, _)) = raw(&bench, request.as_bytes()).await {
            assert!((400..500).contains(&status), "{what}: {status}");
        }
    }
    assert_eq!(bench.get("/health").await.0, 200, "none the worse for it");
    assert!(!bench.said().contains("panicked"), "{}", bench.said());
    assert_eq!(names(&bench), before, "something was written outside the workspace");
}

/// A refusal says why, in JSON and briefly, unless the HTTP library refused it before the runner was asked. Returns the
/// status, 0 if there was none.
fn well_formed(answer: Option<(u16, Vec<u8>)>, sent: &[u8]) -> u16 {
    // Closed without a word: hyper does so with a request it cannot read, and with one whose sender it left waiting.
    let Some((status, body)) = answer else { return 0 };
    let told = || format!("{status} {}\n{}", String::from_utf8_lossy(&body), shown(sent));
    // The wire's own 500s (protocol 4): a message for an agent that has ended, a start that a stop has overtaken.
    let words = ["is not running", "Startup aborted", "messages wait"];
    let said = |words: &[&str]| words.iter().any(|words| String::from_utf8_lossy(&body).contains(words));
    // What is not served says so, and so does an agent whose worker is not known.
    let ours = match status {
        500 => said(&words),
        501 => said(&["no terminals", "start a refinery"]),
        503 => said(&["Missing gastown configuration", "the worker"]),
        _ => false,
    };
    assert!(status < 500 || ours, "{}", told());
    if status < 300 || body.is_empty() {
        assert!(!body.is_empty() || status >= 400, "{}", told());
        return status;
    }
    let json: Value = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{e}: {}", told()));
    let error = json["error"].as_str().unwrap_or_default();
    assert!(!error.trim().is_empty() && error.len() <= 1_000 && body.len() <= 16 * 1024, "{}", told());
    status
}

/// What lies beside the workspace, and in the home directory.
fn names(bench: &Bench) -> BTreeSet<String> {
    let list = |directory: &str| {
        let entries = std::fs::read_dir(bench.path(directory)).into_iter().flatten();
        let directory = directory.to_owned();
        entries.map(move |entry| format!("{directory}/{}", entry.unwrap().file_name().to_string_lossy()))
    };
    list("").chain(list("home")).chain(list("out")).filter(|name| !name.ends_with("/workspace")).collect()
}
