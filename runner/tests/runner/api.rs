//! The shapes of the control API.

use crate::bench::{Bench, eventually};
use serde_json::{Value, json};

#[tokio::test]
async fn health_says_who_this_is_and_what_it_can_do() {
    let bench = Bench::new().await;
    let (status, health) = bench.get("/health").await;
    assert_eq!(status, 200);
    assert_eq!((&health["status"], &health["agents"], &health["servers"]), (&json!("ok"), &json!(0), &json!(0)));
    assert_eq!(health["features"], json!(["dispatch-id", "prompt-on-resume"]));
    assert!(health["uptime"].is_u64() && health["startedAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(health["containerInstanceId"].as_str().unwrap().len(), 36);
    assert_eq!(health.get("draining"), None, "only when it is true");

    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    let (_, health) = bench.get("/health").await;
    assert_eq!((&health["agents"], &health["servers"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_bad_body_is_answered_with_every_issue() {
    let bench = Bench::new().await;
    let (status, body) = bench.start(&json!({ "agentId": "../x", "role": "witness" })).await;
    assert_eq!((status, &body["error"]), (400, &json!("Invalid request body")));
    assert!(body["issues"].as_array().unwrap().len() > 5, "{body}");
    let raw = bench.http.post(format!("{}/agents/start", bench.url)).body("{").send().await.unwrap();
    assert_eq!(raw.status(), 400);
    let body: Value = raw.json().await.unwrap();
    assert_eq!(body["issues"].as_array().unwrap().len(), 1);
    let mut request = bench.polecat("a1", "true");
    for url in ["ext::sh -c id", "-x", "relative"] {
        request["gitUrl"] = json!(url);
        assert_eq!(bench.start(&request).await.0, 400, "{url}");
    }
    let huge = bench.http.post(format!("{}/agents/start", bench.url)).body("x".repeat(1_100_000)).send().await.unwrap();
    assert_eq!(huge.status(), 413);
    assert!(huge.json::<Value>().await.unwrap()["error"].is_string());
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let bench = Bench::new().await;
    let nothing = (404, json!({ "error": "Not found" }));
    assert_eq!(bench.get("/").await, nothing);
    assert_eq!(bench.get("/agents/start").await, nothing, "another method is another route");
    assert_eq!(bench.post("/agents/a1/undo", &json!({})).await, nothing);
    let nobody = (404, json!({ "error": "Agent a9 not found" }));
    assert_eq!(bench.get("/agents/a9/status").await, nobody);
    assert_eq!(bench.post("/agents/a9/stop", &json!({})).await, nobody);
    assert_eq!(bench.post("/agents/a9/message", &json!({ "prompt": "x" })).await, nobody);
}

#[tokio::test]
async fn a_message_reaches_the_running_process_through_its_inbox() {
    let bench = Bench::new().await;
    let script = format!(
        "while ! test -s \"$GASTOWN_INBOX\"; do sleep 0.02; done\ncp \"$GASTOWN_INBOX\" {}",
        bench.path("out/got").display()
    );
    bench.started(&bench.polecat("a1", &script)).await;
    assert_eq!(bench.post("/agents/a1/message", &json!({})).await.0, 400);
    assert_eq!(
        bench.post("/agents/a1/message", &json!({ "prompt": "two\nlines" })).await,
        (200, json!({ "sent": true }))
    );
    let got: Value = serde_json::from_str(&bench.file("out/got").await).unwrap();
    assert_eq!(got["prompt"], "two\nlines");
    bench.becomes("a1", "exited").await;
    let (status, body) = bench.post("/agents/a1/message", &json!({ "prompt": "x" })).await;
    assert_eq!((status, &body["error"]), (500, &json!("Agent a1 is not running (status: exited)")));
}

#[tokio::test]
async fn the_built_in_mayor_is_there_until_it_is_stopped() {
    let bench = Bench::new().await;
    let record = bench.started(&bench.mayor("You are ready.")).await;
    assert!(record["workdir"].as_str().unwrap().ends_with("/rigs/mayor-town-1/mayor-workspace"), "{record}");
    assert!(record["serverPort"].as_u64().unwrap() > 0 && record["sessionId"] != "", "warm: it takes messages");
    assert_eq!(bench.worker.beat("m1").await["rigId"], "mayor-town-1");
    let waiting = |call: &crate::fake_worker::Call| call.is("m1", "waiting");
    bench.worker.call("waiting", waiting).await;
    assert_eq!(bench.post("/agents/m1/message", &json!({ "prompt": "hello" })).await.0, 200);
    eventually("it waits again", || bench.worker.count(waiting) == 2).await;
    bench.post("/agents/m1/stop", &json!({})).await;
    assert_eq!(bench.status("m1").await["exitReason"], "stopped");
}

#[tokio::test]
async fn a_health_check_may_ask_for_the_acknowledgement_of_a_drain() {
    let bench = Bench::with(&[("GASTOWN_CONTAINER_TOKEN", "boot-token"), ("GASTOWN_TOWN_ID", "town-1")]).await;
    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    let request = bench.http.get(format!("{}/health", bench.url));
    request.header("X-Drain-Nonce", "n-7").header("X-Town-Id", "town-1").send().await.unwrap();
    let ready = bench.worker.call("container-ready", |call| call.path == "/api/towns/town-1/container-ready").await;
    assert_eq!(ready.body, json!({ "nonce": "n-7" }));
}
