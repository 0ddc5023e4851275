//! Transcripts: what agents print and do, at the worker, in the runner's own record, and on sockets.

use crate::{
    bench::{Bench, TOKEN, eventually},
    fake_worker::{PATIENCE, RETRY_AFTER},
};
use serde_json::{Value, json};
use std::fs;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

fn texts(events: &[Value], name: &str) -> String {
    let named = events.iter().filter(|event| event["event_type"] == name);
    named.map(|event| event["data"]["text"].as_str().unwrap_or_default()).collect()
}

#[tokio::test]
async fn what_a_script_prints_reaches_the_worker_in_batches_and_without_secrets() {
    let bench = Bench::new().await;
    bench.started(&bench.polecat("a1", &format!("seq 1 300\necho the token is {TOKEN}"))).await;
    bench.worker.verb("a1", "completed").await;
    let ended = || bench.worker.events().iter().any(|event| event["event_type"] == "agent.exited");
    eventually("its end is told", ended).await;
    let events = bench.worker.events();
    let wanted = (1..=300).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
    assert_eq!(texts(&events, "output"), format!("{wanted}\nthe token is ***\n"));
    assert!(events.len() < 30, "lines that wait together travel together: {}", events.len());
    assert!(events.iter().all(|event| event["agent_id"] == "a1" && event["timestamp"].is_string()));
    let call = bench.worker.call("events", |call| call.path.ends_with("/agent-events")).await;
    assert_eq!(call.path, "/api/towns/town-1/rigs/rig-1/agent-events");
    assert_eq!(call.header("x-gastown-agent-id"), "a1");
    assert!(!bench.worker.calls().iter().any(|call| call.body.to_string().contains(TOKEN)));
}

#[tokio::test]
async fn a_worker_that_takes_no_events_holds_no_agent_up_and_hears_them_later() {
    let bench = Bench::new().await;
    let mut refusals = 1;
    bench.worker.rule(move |call| {
        if call.path.ends_with("/agent-events") && refusals > 0 {
            refusals -= 1;
            return Some((503, json!({ "success": false, RETRY_AFTER: 1 })));
        }
        None
    });
    bench.started(&bench.polecat("a1", "echo first\nexec sleep 60")).await;
    let offered = |call: &crate::fake_worker::Call| call.path.ends_with("/agent-events");
    eventually("they are offered again", || bench.worker.count(offered) >= 2).await;
    assert_eq!(bench.status("a1").await["status"], "running");
    let told = bench.worker.calls().into_iter().filter(offered);
    let batches: Vec<_> = told.map(|call| call.body).collect();
    assert_eq!(batches[0], batches[1], "the same again");
    assert!(batches[1].to_string().contains("first"), "{}", batches[1]);
}

#[tokio::test]
async fn events_are_read_from_where_the_reader_stopped() {
    let bench = Bench::new().await;
    bench.started(&bench.polecat("a1", "echo one\necho two")).await;
    bench.becomes("a1", "exited").await;
    let all = bench.get("/agents/a1/events").await.1["events"].as_array().cloned().unwrap();
    let names: Vec<_> = all.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["agent.started", "output", "output", "agent.exited"]);
    let second = all[1]["id"].as_u64().unwrap();
    let rest = bench.get(&format!("/agents/a1/events?after={second}")).await.1;
    assert_eq!(rest["events"], json!(all[2..]));
    assert_eq!(bench.get("/agents/nobody/events").await, (200, json!({ "events": [] })), "never 404");
    assert_eq!(bench.get("/agents/a1/events?after=x").await.0, 400);
}

#[tokio::test]
async fn the_tools_that_a_model_runs_are_events_and_stand_in_its_heartbeat() {
    let bench = Bench::with(&[("GASTOWN_POLECAT_AGENT", "claude"), ("GASTOWN_HEARTBEAT_MS", "50")]).await;
    let tool = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"I look"},{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls","env":"ghp_0123456789abcdef"}}]}}"#;
    let result = r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"x"}]}}"#;
    let script = "#!/bin/sh\ncat > /dev/null\ncat \"$OUT/tool\"\nwhile ! test -f \"$OUT/go\"; do sleep 0.02; done\n\
                  cat \"$OUT/result\"\necho x > x\n";
    bench.program("claude", script);
    for (name, line) in [("tool", tool), ("result", result)] {
        fs::write(bench.path("out").join(name), format!("{line}\n")).unwrap();
    }
    let mut request = bench.polecat("a1", "true");
    request["envVars"]["OUT"] = json!(bench.path("out"));
    bench.started(&request).await;
    let runs = |call: &crate::fake_worker::Call| call.beat("a1").is_some_and(|b| b["activeTools"] == json!(["Bash"]));
    let call = bench.worker.call("a heartbeat with the tool", runs).await;
    assert_eq!(call.beat("a1").unwrap()["lastEventType"], "tool");
    assert_eq!(bench.status("a1").await["activeTools"], json!(["Bash"]));
    fs::write(bench.path("out/go"), "").unwrap();
    bench.becomes("a1", "exited").await;
    assert_eq!(bench.status("a1").await["activeTools"], json!([]));
    let events = bench.get("/agents/a1/events").await.1["events"].as_array().cloned().unwrap();
    let named = |name: &str| events.iter().find(|event| event["event"] == name).unwrap()["data"].clone();
    assert_eq!(named("text"), json!({ "text": "I look" }));
    assert_eq!(named("tool")["input"], json!({ "command": "ls", "env": "***" }));
    assert_eq!(named("tool.result"), json!({ "id": "t1", "failed": false }));
}

/// A socket of the control server, read by hand: frames of a server are short and not masked.
struct Socket(TcpStream);

impl Socket {
    /// The status of the answer, and the socket if it is one.
    async fn open(bench: &Bench, path: &str) -> (u16, Self) {
        let mut stream = TcpStream::connect(bench.url.strip_prefix("http://").unwrap()).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        let status = std::str::from_utf8(&head[9..12]).unwrap().parse().unwrap();
        (status, Self(stream))
    }

    async fn frame(&mut self) -> Value {
        let read = async {
            let _text = self.0.read_u8().await.unwrap();
            let length = match self.0.read_u8().await.unwrap() {
                126 => usize::from(self.0.read_u16().await.unwrap()),
                length => usize::from(length),
            };
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            serde_json::from_slice(&body).unwrap()
        };
        timeout(PATIENCE, read).await.expect("no frame came")
    }

    async fn say(&mut self, text: &str) {
        let length = 0x80 | u8::try_from(text.len()).unwrap();
        // Masked with zeros, as a client must.
        let frame = [&[0x81, length, 0, 0, 0, 0], text.as_bytes()].concat();
        self.0.write_all(&frame).await.unwrap();
    }
}

#[tokio::test]
async fn a_socket_replays_an_agents_events_and_goes_on_live() {
    let bench = Bench::new().await;
    let script = |go: &str| {
        format!(
            "echo before\nwhile ! test -f {}; do sleep 0.02; done\necho after\nexec sleep 60",
            bench.path(go).display()
        )
    };
    bench.started(&bench.polecat("a1", &script("out/go"))).await;
    let (status, mut socket) = Socket::open(&bench, "/api/towns/t/container/agents/a1/stream").await;
    assert_eq!(status, 101, "any path that ends so");
    assert_eq!(socket.frame().await["event"], "agent.started");
    let replayed = socket.frame().await;
    assert_eq!((&replayed["agentId"], &replayed["data"]), (&json!("a1"), &json!({ "text": "before\n" })));
    assert!(replayed.get("id").is_none() && replayed["timestamp"].is_string());
    let (_, mut all) = Socket::open(&bench, "/ws").await;
    fs::write(bench.path("out/go"), "").unwrap();
    assert_eq!(socket.frame().await["data"]["text"], "after\n");
    assert_eq!(all.frame().await["data"]["text"], "after\n", "without a filter all agents, from now on");

    all.say(r#"{"type":"subscribe","agentId":"a3"}"#).await;
    // Events of the other agent may come until that has been heard.
    bench.started(&bench.polecat("a2", "echo two\nexec sleep 60")).await;
    bench.started(&bench.polecat("a3", "echo three\nexec sleep 60")).await;
    let mut seen = all.frame().await;
    while seen["agentId"] == "a2" {
        seen = all.frame().await;
    }
    assert_eq!(seen["agentId"], "a3");
}

#[tokio::test]
async fn a_ticket_opens_its_own_agents_stream_once() {
    let bench = Bench::new().await;
    let (status, issued) = bench.post("/agents/a1/stream-ticket", &json!({})).await;
    assert!(status == 200 && issued["expiresAt"].as_str().unwrap().ends_with('Z'), "{issued}");
    let path = format!("/agents/a1/stream?ticket={}", issued["ticket"].as_str().unwrap());
    assert_eq!(Socket::open(&bench, &path).await.0, 101);
    assert_eq!(Socket::open(&bench, &path).await.0, 403, "used");
    assert_eq!(Socket::open(&bench, "/agents/a1/stream").await.0, 101, "the network is private");
    let (status, body) = bench.get("/agents/a1/stream").await;
    assert!(status == 400 && body["error"].as_str().unwrap().contains("WebSocket"), "{body}");
}
