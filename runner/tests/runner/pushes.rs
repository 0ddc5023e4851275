//! What the worker pushes to a container whose agents run.

use crate::{
    bench::{Bench, TOKEN, eventually},
    fake_worker::Call,
};
use serde_json::{Value, json};
use std::fs;

async fn sync(bench: &Bench, settings: &Value) {
    let request = bench.http.post(format!("{}/sync-config", bench.url)).header("X-Town-Config", settings.to_string());
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer, json!({ "synced": true }));
}

#[tokio::test]
async fn a_pushed_token_is_swapped_in_place_and_a_running_process_finds_it() {
    let bench = Bench::with(&[("GASTOWN_HEARTBEAT_MS", "50")]).await;
    let script = format!(
        "cat \"$GASTOWN_CONTAINER_TOKEN_FILE\" > {0}; echo >> {0}\necho $$ > {1}\nwhile ! test -f {2}; do sleep 0.02; done\n\
         cat \"$GASTOWN_CONTAINER_TOKEN_FILE\" > {3}; echo >> {3}",
        bench.path("out/before").display(),
        bench.path("out/pid").display(),
        bench.path("out/go").display(),
        bench.path("out/after").display(),
    );
    bench.started(&bench.polecat("a1", &script)).await;
    assert_eq!(bench.out("before").await, TOKEN);
    let pid = bench.out("pid").await;
    let (status, body) = bench.post("/refresh-token", &json!({ "token": "pushed-token" })).await;
    let wanted = json!({ "refreshed": true, "agentsRestarted": 0, "agentsFailed": 0, "results": [] });
    assert_eq!((status, body), (200, wanted));
    let beats = |call: &Call| call.beats("a1") && call.header("authorization") == "Bearer pushed-token";
    bench.worker.call("a heartbeat with the pushed token", beats).await;
    fs::write(bench.path("out/go"), "").unwrap();
    assert_eq!(bench.out("after").await, "pushed-token");
    assert_eq!(bench.out("pid").await, pid, "the process is the same");
    for body in [json!({}), json!({ "token": "" }), json!({ "token": "two\nlines" })] {
        assert_eq!(bench.post("/refresh-token", &body).await.0, 400, "{body}");
    }
}

#[tokio::test]
async fn a_token_of_nobody_is_refused_with_what_is_missing() {
    let bench = Bench::new().await;
    let (status, body) = bench.post("/refresh-token", &json!({ "token": "opaque" })).await;
    assert!(status == 400 && body["error"].as_str().unwrap().contains("names no town"), "{body}");
}

#[tokio::test]
async fn settings_stand_in_for_what_a_later_start_does_not_bring() {
    let bench = Bench::new().await;
    let settings = json!({ "env_vars": { "FLAG": "pushed" }, "git_auth": { "github_token": "pushed-git-token" } });
    sync(&bench, &settings).await;
    let out = bench.path("out/env");
    let mut request = bench.polecat("a1", &format!("env > {0}; echo >> {0}", out.display()));
    request["envVars"]["OWN"] = json!("1");
    bench.started(&request).await;
    let env = bench.out("env").await;
    for line in ["FLAG=pushed", "GIT_TOKEN=pushed-git-token", "OWN=1"] {
        assert!(env.lines().any(|found| found == line), "{line} in {env}");
    }
    let request = bench.http.post(format!("{}/sync-config", bench.url)).header("X-Town-Config", "{no json");
    assert_eq!(request.send().await.unwrap().status(), 200, "a header that cannot be read is a warning");
}

#[tokio::test]
async fn a_repository_is_prepared_before_anybody_works_in_it() {
    let bench = Bench::new().await;
    let body = json!({ "rigId": "rig-9", "gitUrl": bench.origin(), "defaultBranch": "main" });
    let (status, accepted) = bench.post("/repos/setup", &body).await;
    assert_eq!((status, &accepted["status"]), (202, &json!("accepted")));
    let file = bench.path("workspace/rigs/rig-9/browse/README.md");
    eventually("it is cloned", || file.exists()).await;
    let (status, issues) = bench.post("/repos/setup", &json!({ "rigId": "rig-9" })).await;
    assert!(status == 400 && issues["issues"].as_array().unwrap().len() == 2, "{issues}");
}

#[tokio::test]
async fn what_this_runner_does_not_serve_says_so() {
    let bench = Bench::new().await;
    for path in ["/agents/a1/pty", "/git/merge"] {
        let (status, body) = bench.post(path, &json!({})).await;
        assert!(status == 501 && body["error"].is_string(), "{body}");
    }
    let missing = (503, json!({ "error": "Missing gastown configuration" }));
    assert_eq!(bench.get("/agents/a1/pending-nudges").await, missing);
}
