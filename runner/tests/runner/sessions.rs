//! A polecat's process from its start to the report of its end.

use crate::bench::{Bench, TOKEN, alive, eventually};
use serde_json::{Value, json};
use std::fs;

#[tokio::test]
async fn a_script_that_changes_something_ends_as_done_with_its_branch_pushed() {
    let bench = Bench::new().await;
    let record = bench.started(&bench.polecat("a1", "echo new > new.txt\necho all is well")).await;
    assert_eq!(record["status"], "running");
    assert!(record["workdir"].as_str().unwrap().ends_with("/rigs/rig-1/worktrees/gt__toast__a1"), "{record}");
    assert!(!record.to_string().contains(TOKEN), "{record}");

    let done = bench.worker.verb("a1", "done").await;
    assert_eq!(done.path, "/api/towns/town-1/rigs/rig-1/agents/a1/done");
    assert_eq!(done.body, json!({ "branch": "gt/toast/a1", "summary": "all is well" }));
    assert_eq!(done.header("authorization"), format!("Bearer {TOKEN}"));
    assert_eq!(done.header("x-gastown-agent-id"), "a1");
    assert_eq!(done.header("x-gastown-rig-id"), "rig-1");
    assert_eq!(done.header("x-gastown-dispatch-id"), "a1-d1");

    let ended = bench.becomes("a1", "exited").await;
    assert_eq!(ended["exitReason"], "completed");
    assert_eq!(ended["dispatchId"], "a1-d1");
    assert_eq!(bench.in_origin(&["show", "gt/toast/a1:new.txt"]), "new");
    let log = bench.in_origin(&["log", "-1", "--format=%s|%an|%ae", "gt/toast/a1"]);
    assert_eq!(log, "Fix it|Toast (gastown)|Toast@gastown.local");
    assert_eq!(bench.worker.count(|call| call.is("a1", "completed")), 0, "done says it all");
    assert!(!bench.path("workspace/rigs/rig-1/worktrees/gt__toast__a1").exists(), "pushed work needs no worktree");
}

#[tokio::test]
async fn a_heartbeat_tells_at_once_that_the_process_runs() {
    let bench = Bench::new().await;
    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    let call = bench.worker.call("heartbeat", |call| call.beats("a1")).await;
    let beat = bench.worker.beat("a1").await;
    let (_, health) = bench.get("/health").await;
    assert_eq!(beat["status"], "running");
    assert_eq!(call.body["containerInstanceId"], health["containerInstanceId"]);
    for (name, value) in [("agentId", "a1"), ("rigId", "rig-1"), ("townId", "town-1"), ("dispatchId", "a1-d1")] {
        assert_eq!(beat[name], value);
    }
    assert!(beat["timestamp"].is_string() && beat["lastEventAt"].is_string());
    assert!(beat["activeTools"].is_array() && beat["messageCount"].is_number());
    assert_eq!(call.path, "/api/towns/town-1/heartbeats");
    assert_eq!(call.header("x-gastown-agent-id"), "", "the container speaks");
    assert_eq!(call.header("authorization"), format!("Bearer {TOKEN}"));
}

#[tokio::test]
async fn heartbeats_go_on_and_a_drain_nonce_in_the_answer_is_acknowledged_once() {
    let bench = Bench::with(&[("GASTOWN_HEARTBEAT_MS", "30")]).await;
    bench
        .worker
        .rule(|call| call.beats("a1").then(|| (200, json!({ "success": true, "data": { "drainNonce": "n-1" } }))));
    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    let ready = bench.worker.call("container-ready", |call| call.path.ends_with("/container-ready")).await;
    assert_eq!(ready.path, "/api/towns/town-1/container-ready");
    assert_eq!(ready.body, json!({ "nonce": "n-1" }));
    eventually("five heartbeats", || bench.worker.count(|call| call.beats("a1")) >= 5).await;
    assert_eq!(bench.worker.count(|call| call.path.ends_with("/container-ready")), 1);
}

#[tokio::test]
async fn a_script_that_changes_nothing_ends_as_completed() {
    let bench = Bench::new().await;
    bench.started(&bench.polecat("a1", "true")).await;
    let completed = bench.worker.verb("a1", "completed").await;
    assert_eq!(completed.body["status"], "completed");
    assert!(completed.body["reason"].as_str().unwrap().contains("without a change"));
    bench.becomes("a1", "exited").await;
    assert_eq!(bench.worker.count(|call| call.is("a1", "done")), 0);
}

#[tokio::test]
async fn a_script_that_fails_is_reported_with_its_status_and_its_last_output() {
    let bench = Bench::new().await;
    let script =
        format!("yes 'a long line of output ß' | head -n 1000\necho the token is {TOKEN} >&2\necho last words\nexit 3");
    bench.started(&bench.polecat("a1", &script)).await;
    let body = bench.worker.verb("a1", "completed").await.body;
    assert_eq!((&body["status"], &body["phase"]), (&json!("failed"), &json!("run")));
    let reason = body["reason"].as_str().unwrap();
    assert!(reason.starts_with("exited with status 3:\n"), "{reason}");
    assert!(reason.contains("last words") && reason.contains("the token is ***"), "{reason}");
    assert!(reason.len() <= 4096 && reason.len() > 4000 && !reason.contains(TOKEN), "{}", reason.len());
    let ended = bench.becomes("a1", "failed").await;
    assert!(ended["exitReason"].as_str().unwrap().contains("status 3"));
    let log = fs::read_to_string(bench.path("workspace/agents/a1/attempts/a1-d1/output.log")).unwrap();
    assert!(log.contains("last words") && !log.contains(TOKEN));
}

#[tokio::test]
async fn a_silent_death_still_has_a_reason() {
    let bench = Bench::new().await;
    bench.started(&bench.polecat("a1", "kill -9 $$")).await;
    let body = bench.worker.verb("a1", "completed").await.body;
    assert_eq!(body["reason"], "killed by signal 9 (SIGKILL) and printed nothing");
}

#[tokio::test]
async fn a_bead_without_a_script_starts_and_fails() {
    let bench = Bench::new().await;
    let mut request = bench.polecat("a1", "");
    request["prompt"] = json!("Fix it\n\nPlease.");
    bench.started(&request).await;
    let body = bench.worker.verb("a1", "completed").await.body;
    assert_eq!((&body["status"], &body["reason"]), (&json!("failed"), &json!("no fenced sh block in the bead's body")));
}

#[tokio::test]
async fn a_failing_repository_is_named_as_such_and_leaks_no_credentials() {
    let bench = Bench::new().await;
    let mut request = bench.polecat("a1", "true");
    request["gitUrl"] = json!("http://me:hunter2pw@127.0.0.1:9/x.git");
    request["envVars"]["GIT_TOKEN"] = json!("git-token-of-the-test");
    let (status, body) = bench.start(&request).await;
    assert_eq!((status, &body["phase"]), (500, &json!("repository")), "{body}");
    let text = body["error"].as_str().unwrap();
    assert!(text.contains("git clone") && text.contains("127.0.0.1"), "{text}");
    let record = bench.becomes("a1", "failed").await;
    assert_eq!(record["exitReason"], body["error"]);
    for text in [body.to_string(), record.to_string(), bench.said()] {
        assert!(!text.contains("hunter2pw") && !text.contains("git-token-of-the-test"), "{text}");
    }
    assert_eq!(bench.worker.count(|call| call.is("a1", "completed")), 0, "the answer said it");
    let store = fs::metadata(bench.path("workspace/agents/a1/git-credentials")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&store.permissions()) & 0o777, 0o600);
}

#[tokio::test]
async fn a_push_that_is_refused_is_the_repositorys_failure() {
    let bench = Bench::new().await;
    let hook = bench.path("origin.git/hooks/pre-receive");
    fs::write(&hook, "#!/bin/sh\necho this branch is frozen\nexit 1\n").unwrap();
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench.started(&bench.polecat("a1", "echo new > new.txt")).await;
    let body = bench.worker.verb("a1", "completed").await.body;
    assert_eq!((&body["status"], &body["phase"]), (&json!("failed"), &json!("repository")));
    assert!(body["reason"].as_str().unwrap().contains("this branch is frozen"), "{body}");
    assert_eq!(bench.worker.count(|call| call.is("a1", "done")), 0);
}

#[tokio::test]
async fn the_process_sees_the_systems_variables_and_none_of_the_runners_secrets() {
    let bench = Bench::with(&[
        ("AWS_SECRET_ACCESS_KEY", "runners-secret"),
        ("ANTHROPIC_API_KEY", "runners-model-key"),
        ("GASTOWN_CONTAINER_TOKEN", "boot-token"),
        ("LANG", "C.UTF-8"),
    ])
    .await;
    let out = bench.path("out/env");
    let mut request = bench.polecat("a1", &format!("env > {}\necho >> {0}", out.display()));
    request["envVars"]["MY_FLAG"] = json!("1");
    request["envVars"]["GASTOWN_AGENT_ID"] = json!("somebody-else");
    bench.started(&request).await;
    bench.worker.verb("a1", "completed").await;
    let env = bench.file("out/env").await;
    for line in [
        "GASTOWN_AGENT_ID=a1",
        "GASTOWN_RIG_ID=rig-1",
        "GASTOWN_TOWN_ID=town-1",
        "GASTOWN_AGENT_ROLE=polecat",
        "GASTOWN_DISPATCH_ID=a1-d1",
        &format!("GASTOWN_API_URL={}", bench.worker.url),
        &format!("GASTOWN_CONTAINER_TOKEN={TOKEN}"),
        "GIT_AUTHOR_NAME=Toast (gastown)",
        "GIT_TERMINAL_PROMPT=0",
        "MY_FLAG=1",
        "LANG=C.UTF-8",
    ] {
        assert!(env.lines().any(|found| found == line), "{line} in\n{env}");
    }
    for secret in ["runners-secret", "runners-model-key", "boot-token", "GASTOWN_WORKSPACE"] {
        assert!(!env.contains(secret), "{secret} in\n{env}");
    }
}

#[tokio::test]
async fn a_convoys_bead_is_cut_from_its_start_point_and_measured_against_it() {
    let bench = Bench::new().await;
    bench.commit("convoy/x/head", "convoy.txt", "c\n");
    let mut request = bench.polecat("a1", "test -f convoy.txt");
    request["startPoint"] = json!("origin/convoy/x/head");
    bench.started(&request).await;
    assert_eq!(bench.worker.verb("a1", "completed").await.body["status"], "completed", "not ahead of the convoy");

    let mut request = bench.polecat("a2", "test ! -e convoy.txt\necho first > first.txt");
    request["branch"] = json!("convoy/new/gt/toast/a2");
    request["startPoint"] = json!("origin/convoy/new/head");
    bench.started(&request).await;
    let done = bench.worker.verb("a2", "done").await;
    assert_eq!(
        done.body["branch"], "convoy/new/gt/toast/a2",
        "a feature branch that nobody has made yet is main still"
    );
    assert_eq!(done.body["summary"], "Fix it", "what the runner says is no summary of the work");
    assert_eq!(bench.in_origin(&["rev-list", "--count", "main..convoy/new/gt/toast/a2"]), "1");
    let log = std::fs::read_to_string(bench.path("workspace/agents/a2/attempts/a2-d1/output.log")).unwrap();
    assert!(log.contains("origin/convoy/new/head is not there (yet)"), "{log}");
}

#[tokio::test]
async fn a_new_dispatch_continues_on_the_pushed_branch() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/a1", "half.txt", "half\n");
    bench.started(&bench.polecat("a1", "test -f half.txt\necho done > whole.txt")).await;
    bench.worker.verb("a1", "done").await;
    assert_eq!(bench.in_origin(&["rev-list", "--count", "main..gt/toast/a1"]), "2");
}

#[tokio::test]
async fn an_empty_repository_gets_a_first_commit() {
    let bench = Bench::new().await;
    bench.git(bench.path(""), &["init", "--quiet", "--bare", "empty.git"]);
    let mut request = bench.polecat("a1", "echo x > x");
    request["gitUrl"] = json!(bench.path("empty.git"));
    bench.started(&request).await;
    bench.worker.verb("a1", "done").await;
    let log = bench.git(bench.path("empty.git"), &["log", "--format=%s", "gt/toast/a1"]);
    assert_eq!(log, "Fix it\nInitial commit");
    assert_eq!(bench.git(bench.path("empty.git"), &["rev-list", "--count", "main"]), "1");
}

#[tokio::test]
async fn a_lightweight_agent_has_a_workspace_without_a_remote() {
    let bench = Bench::new().await;
    let mut request = bench.polecat("a1", "test -z \"$(git remote)\" && git rev-parse HEAD && echo x > x");
    request["lightweight"] = json!(true);
    request["gitUrl"] = json!("");
    bench.started(&request).await;
    let completed = bench.worker.verb("a1", "completed").await;
    assert_eq!(completed.body["status"], "completed", "{}", completed.body);
    assert_eq!(bench.worker.count(|call| call.is("a1", "done")), 0);
}

#[tokio::test]
async fn nothing_that_a_script_leaves_in_the_background_survives_it() {
    let bench = Bench::new().await;
    let (left, fled) = (bench.path("out/left"), bench.path("out/fled"));
    let script = format!(
        "sleep 300 & echo $! > {}\nsetsid sh -c 'echo $$ > {}; exec sleep 300' &\nwhile ! test -s {1}; do sleep 0.01; done",
        left.display(),
        fled.display()
    );
    bench.started(&bench.polecat("a1", &script)).await;
    bench.worker.verb("a1", "completed").await;
    let (left, fled) = (bench.pid("out/left").await, bench.pid("out/fled").await);
    assert!(!alive(left), "a member of the group");
    assert!(!alive(fled), "one that left the group");
    // The runner inherits what an agent leaves behind: as zombies they would stay for ever.
    eventually("reaped", || !crate::bench::exists(left) && !crate::bench::exists(fled)).await;
}

#[tokio::test]
async fn done_is_repeated_until_the_worker_takes_it_and_the_agent_runs_until_then() {
    let bench = Bench::new().await;
    let mut refusals = 2;
    bench.worker.rule(move |call| {
        if call.is("a1", "done") && refusals > 0 {
            refusals -= 1;
            return Some((503, json!({ "success": false, "error": "overloaded" })));
        }
        None
    });
    bench.started(&bench.polecat("a1", "echo new > new.txt")).await;
    bench.worker.verb("a1", "done").await;
    assert_eq!(bench.status("a1").await["status"], "running", "a look must not find it exited before its done arrived");
    bench.becomes("a1", "exited").await;
    assert_eq!(bench.worker.count(|call| call.is("a1", "done")), 3);
}

#[tokio::test]
async fn a_refused_done_is_not_repeated_but_reported() {
    let bench = Bench::new().await;
    bench
        .worker
        .rule(|call| call.is("a1", "done").then(|| (422, json!({ "success": false, "error": "no such branch" }))));
    bench.started(&bench.polecat("a1", "echo new > new.txt")).await;
    let body = bench.worker.verb("a1", "completed").await.body;
    assert!(body["reason"].as_str().unwrap().contains("no such branch"), "{body}");
    assert_eq!(bench.worker.count(|call| call.is("a1", "done")), 1);
}

#[tokio::test]
async fn an_expired_token_is_refreshed_once_and_the_call_repeated() {
    let bench = Bench::new().await;
    bench.worker.rule(|call| {
        if call.path == "/api/towns/town-1/refresh-container-token" {
            return Some((200, json!({ "success": true, "data": { "token": "fresh-token" } })));
        }
        let expired = call.header("authorization") == format!("Bearer {TOKEN}");
        expired.then(|| (401, json!({ "success": false, "error": "Token expired" })))
    });
    bench.started(&bench.polecat("a1", "echo new > new.txt")).await;
    let fresh =
        |call: &crate::fake_worker::Call| call.is("a1", "done") && call.header("authorization") == "Bearer fresh-token";
    bench.worker.call("done with the fresh token", fresh).await;
    bench.becomes("a1", "exited").await;
    let refresh = bench.worker.call("refresh", |call| call.path.ends_with("/refresh-container-token")).await;
    assert_eq!((refresh.header("authorization"), &refresh.body), (format!("Bearer {TOKEN}").as_str(), &json!({})));
}

#[tokio::test]
async fn a_custom_author_is_named_with_the_agent_beside_it() {
    let bench = Bench::new().await;
    let mut request: Value = bench.polecat("a1", "echo new > new.txt");
    request["envVars"]["GASTOWN_GIT_AUTHOR_NAME"] = json!("Ada");
    request["envVars"]["GASTOWN_GIT_AUTHOR_EMAIL"] = json!("ada@example.com");
    bench.started(&request).await;
    bench.worker.verb("a1", "done").await;
    let log =
        bench.in_origin(&["log", "-1", "--format=%an|%ae|%(trailers:key=Co-authored-by,valueonly)", "gt/toast/a1"]);
    assert_eq!(log, "Ada|ada@example.com|Toast (gastown) <Toast@gastown.local>");
}

#[tokio::test]
async fn a_git_token_that_is_refused_is_renewed_once() {
    let bench = Bench::new().await;
    bench.worker.rule(|call| call.path.starts_with("/git/").then(|| (401, json!({}))));
    bench.worker.rule(|call| {
        let renewal = call.path == "/api/towns/town-1/rigs/rig-1/refresh-git-token";
        renewal.then(|| (200, json!({ "success": true, "data": { "token": "fresh-git-token" } })))
    });
    let mut request = bench.polecat("a1", "true");
    request["gitUrl"] = json!(format!("{}/git/x.git", bench.worker.url));
    request["envVars"]["GIT_TOKEN"] = json!("stale-git-token");
    let (status, body) = bench.start(&request).await;
    assert_eq!((status, &body["phase"]), (500, &json!("repository")), "{body}");
    let shown: Vec<String> = bench.worker.calls().iter().map(|call| call.header("authorization").to_owned()).collect();
    for token in ["Basic eC1hY2Nlc3MtdG9rZW46c3RhbGUtZ2l0LXRva2Vu", "Basic eC1hY2Nlc3MtdG9rZW46ZnJlc2gtZ2l0LXRva2Vu"] {
        assert!(shown.iter().any(|header| header == token), "{token} in {shown:#?}");
    }
    assert_eq!(bench.worker.count(|call| call.path.ends_with("/refresh-git-token")), 1);
}

/// `Authorization` of `x-access-token` with `fresh-git-token`.
const FRESH: &str = "Basic eC1hY2Nlc3MtdG9rZW46ZnJlc2gtZ2l0LXRva2Vu";

#[tokio::test]
async fn a_push_that_is_refused_for_its_token_is_repeated_once_with_a_fresh_one() {
    let bench = Bench::new().await;
    let url = crate::http_git::serve(bench.path(""), FRESH).await;
    bench.worker.rule(|call| {
        let renewal = call.path.ends_with("/refresh-git-token");
        renewal.then(|| (200, json!({ "success": true, "data": { "token": "fresh-git-token" } })))
    });
    let mut request = bench.polecat("a1", "echo new > new.txt");
    request["gitUrl"] = json!(format!("{url}/origin.git"));
    request["envVars"]["GIT_TOKEN"] = json!("stale-git-token");
    bench.started(&request).await;
    bench.worker.verb("a1", "done").await;
    assert_eq!(bench.in_origin(&["show", "gt/toast/a1:new.txt"]), "new");
    assert_eq!(bench.worker.count(|call| call.path.ends_with("/refresh-git-token")), 1);
}

#[tokio::test]
async fn pushed_settings_bring_gits_credentials_to_an_agent_that_runs() {
    let bench = Bench::new().await;
    let url = crate::http_git::serve(bench.path(""), FRESH).await;
    let script = format!("while ! test -f {}; do sleep 0.02; done\necho new > new.txt", bench.path("out/go").display());
    let mut request = bench.polecat("a1", &script);
    request["gitUrl"] = json!(format!("{url}/origin.git"));
    request["envVars"]["GIT_TOKEN"] = json!("stale-git-token");
    bench.started(&request).await;
    let settings = json!({ "git_auth": { "github_token": "fresh-git-token" } }).to_string();
    let sync = bench.http.post(format!("{}/sync-config", bench.url)).header("X-Town-Config", settings);
    assert_eq!(sync.send().await.unwrap().status(), 200);
    fs::write(bench.path("out/go"), "").unwrap();
    bench.worker.verb("a1", "done").await;
    assert_eq!(bench.worker.count(|call| call.path.ends_with("/refresh-git-token")), 0, "the pushed one was good");
}
