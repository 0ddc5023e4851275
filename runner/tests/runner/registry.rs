//! The list of agents that the worker keeps for the next container, and what a container does with it when it boots.

use crate::{
    bench::{Bench, TOKEN, eventually},
    fake_worker::Call,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

fn lists(bench: &Bench) -> Vec<Value> {
    let calls = bench.worker.calls().into_iter();
    calls.filter(|c| c.method == "POST" && c.path == "/api/towns/town-1/container-registry").map(|c| c.body).collect()
}

/// The runner's environment is that of a real container from now on.
fn in_a_town(bench: &mut Bench, token: &str) {
    for (name, value) in [
        ("GASTOWN_API_URL", bench.worker.url.clone()),
        ("GASTOWN_TOWN_ID", "town-1".to_owned()),
        ("GASTOWN_CONTAINER_TOKEN", token.to_owned()),
    ] {
        bench.variables.push((name.to_owned(), value));
    }
}

#[tokio::test]
async fn the_worker_hears_who_lives_here_without_their_secrets() {
    let bench = Bench::new().await;
    let mut request = bench.polecat("a1", "exec sleep 60");
    request["envVars"]["GIT_TOKEN"] = json!("git-token-of-the-test");
    request["envVars"]["MY_FLAG"] = json!("1");
    bench.started(&request).await;
    eventually("the list is told", || lists(&bench).iter().any(|list| list[0]["agentId"] == "a1")).await;
    let list = lists(&bench).pop().unwrap();
    let entry = &list[0];
    assert_eq!((&entry["request"]["dispatchId"], &entry["env"]["MY_FLAG"]), (&json!("a1-d1"), &json!("1")));
    assert!(entry["workdir"].as_str().unwrap().ends_with("gt__toast__a1"), "{entry}");
    for secret in [TOKEN, "git-token-of-the-test"] {
        assert!(!list.to_string().contains(secret), "{list}");
    }
    bench.post("/agents/a1/stop", &json!({})).await;
    eventually("nobody is left", || lists(&bench).last() == Some(&json!([]))).await;
}

#[tokio::test]
async fn a_drain_ends_with_an_empty_list() {
    let mut bench = Bench::with(&[("GASTOWN_DRAIN_MS", "100")]).await;
    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    eventually("the list is told", || !lists(&bench).is_empty()).await;
    bench.signal(Signal::SIGTERM);
    assert!(bench.exit().await.success());
    assert_eq!(lists(&bench).last(), Some(&json!([])));
}

#[tokio::test]
async fn a_container_that_boots_restarts_what_the_worker_lists_as_the_same_attempts() {
    let mut bench = Bench::new().await;
    let mut request = bench.polecat("a1", "echo run $SAYS >> \"$OUT\"\nexec sleep 60");
    request["envVars"]["OUT"] = json!(bench.path("out/runs"));
    bench.started(&request).await;
    eventually("the list is told", || lists(&bench).iter().any(|list| list[0]["agentId"] == "a1")).await;
    let mut entry = lists(&bench).pop().unwrap()[0].clone();
    // The worker makes the start anew: what it says counts more than what the last container had.
    entry["request"]["envVars"] = json!({ "SAYS": "anew", "GASTOWN_CONTAINER_TOKEN": "token-of-the-answer" });
    entry["env"]["SAYS"] = json!("before");
    bench.signal(Signal::SIGKILL);
    bench.exit().await;
    bench.worker.rule(move |call| {
        let asked = call.method == "GET" && call.path == "/api/towns/town-1/container-registry";
        asked.then(|| (200, json!({ "success": true, "data": [{ "agentId": "odd" }, entry, 3] })))
    });
    in_a_town(&mut bench, TOKEN);
    bench.boot().await;
    let record = bench.becomes("a1", "running").await;
    assert_eq!(record["dispatchId"], "a1-d1");
    eventually("it runs again", || {
        fs::read_to_string(bench.path("out/runs")).is_ok_and(|runs| runs == "run\nrun anew\n")
    })
    .await;
    let (_, health) = bench.get("/health").await;
    let asked = bench.worker.call("the question", |call| call.method == "GET" && call.path.ends_with("registry")).await;
    assert_eq!(asked.query, format!("containerInstanceId={}", health["containerInstanceId"].as_str().unwrap()));
    assert_eq!(asked.header("x-gastown-container-instance-id"), health["containerInstanceId"]);
    // The worker's own start of the same attempt is the same start.
    let (status, again) = bench.start(&bench.polecat("a1", "echo never")).await;
    assert_eq!((status, &again["startedAt"]), (201, &record["startedAt"]));
}

#[tokio::test]
async fn a_token_that_ends_soon_is_refreshed_before_anything_is_asked() {
    let mut bench = Bench::new().await;
    bench.signal(Signal::SIGKILL);
    bench.exit().await;
    bench.worker.rule(|call| {
        let asked = call.path.ends_with("/refresh-container-token");
        asked.then(|| (200, json!({ "success": true, "data": { "token": "fresh-token" } })))
    });
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 600;
    let claims = URL_SAFE_NO_PAD.encode(json!({ "exp": soon, "townId": "town-1" }).to_string());
    in_a_town(&mut bench, &format!("e30.{claims}.x"));
    bench.boot().await;
    let fresh = |call: &Call| {
        call.path.ends_with("/container-registry") && call.header("authorization") == "Bearer fresh-token"
    };
    bench.worker.call("the question with the fresh token", fresh).await;
    let file = bench.path("workspace/tokens/town-1");
    assert_eq!(fs::read_to_string(file).unwrap(), "fresh-token");
}
