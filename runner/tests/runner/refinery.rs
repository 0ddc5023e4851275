//! The built-in refinery: verdicts on a branch, and what is not the branch's fault.

use crate::bench::{Bench, TOKEN};
use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt};

const VERDICT: &str = "/api/towns/town-1/rigs/rig-1/review-queue/entry-1/complete";

async fn verdict(bench: &Bench) -> serde_json::Value {
    let call = bench.worker.call("verdict", |call| call.path == VERDICT).await;
    assert_eq!(call.header("x-gastown-dispatch-id"), "ref-d1");
    bench.becomes("ref", "exited").await;
    let left = fs::read_dir(bench.path("workspace/rigs/rig-1/merge-tmp")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "the scratch worktree is removed");
    assert_eq!(bench.worker.count(|call| call.is("ref", "completed") || call.is("ref", "done")), 0);
    call.body
}

#[tokio::test]
async fn a_branch_that_passes_its_gates_is_merged_with_a_merge_commit() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/1", "new.txt", "new\n");
    bench.commit("main", "other.txt", "other\n");
    let env = bench.path("out/env");
    let gates = ["test -f new.txt", "test -f other.txt", &format!("env > {}", env.display())];
    let mut request = bench.refinery("gt/toast/1", &gates);
    request["envVars"]["MY_FLAG"] = json!("1");
    bench.started(&request).await;
    let body = verdict(&bench).await;
    assert_eq!(body["status"], "merged", "{body}");
    assert_eq!(body["commit_sha"], bench.in_origin(&["rev-parse", "main"]));
    assert_eq!(bench.in_origin(&["rev-list", "--parents", "-1", "main"]).split(' ').count(), 3, "two parents");
    assert_eq!(bench.in_origin(&["show", "main:new.txt"]), "new");
    assert!(bench.in_origin(&["log", "-1", "--format=%B", "main"]).contains("Bead: bead-1"));
    let env = fs::read_to_string(env).unwrap();
    assert!(env.contains("MY_FLAG=1") && !env.contains(TOKEN), "a gate gets no token:\n{env}");
}

#[tokio::test]
async fn a_branch_with_a_pull_request_is_tested_as_merged_and_left_to_its_forge() {
    let url = "https://github.com/acme/app/pull/7";
    for (gate, good) in [("test -f new.txt", true), ("exit 3", false)] {
        let bench = Bench::new().await;
        bench.commit("gt/toast/1", "new.txt", "new\n");
        let before = bench.in_origin(&["rev-parse", "main"]);
        let mut request = bench.refinery("gt/toast/1", &[gate]);
        request["review"]["prUrl"] = json!(url);
        bench.started(&request).await;
        if good {
            let done = bench.worker.call("done", |call| call.is("ref", "done")).await.body;
            assert_eq!((&done["pr_url"], &done["branch"]), (&json!(url), &json!("gt/toast/1")));
            bench.becomes("ref", "exited").await;
            assert_eq!(bench.worker.count(|call| call.path == VERDICT), 0);
        } else {
            assert_eq!(verdict(&bench).await["status"], "failed");
        }
        assert_eq!(bench.in_origin(&["rev-parse", "main"]), before, "the forge merges, not the refinery");
    }
}

#[tokio::test]
async fn a_failing_gate_fails_the_review_with_its_output_and_merges_nothing() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/1", "new.txt", "new\n");
    let before = bench.in_origin(&["rev-parse", "main"]);
    let gates = ["echo output of the first", "echo 2 tests failed; exit 7", "echo never > never"];
    bench.started(&bench.refinery("gt/toast/1", &gates)).await;
    let body = verdict(&bench).await;
    assert_eq!(body["status"], "failed");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("exited with status 7") && message.contains("2 tests failed"), "{message}");
    assert!(!message.contains("output of the first"), "{message}");
    assert_eq!(bench.in_origin(&["rev-parse", "main"]), before);
}

#[tokio::test]
async fn the_first_merge_into_a_convoys_feature_branch_makes_it_where_the_default_branch_is() {
    let bench = Bench::new().await;
    bench.commit("main", "base.txt", "base\n");
    bench.commit("convoy/x/gt/toast/1", "one.txt", "one\n");
    bench.commit("convoy/x/gt/toast/2", "two.txt", "two\n");
    let main = bench.in_origin(&["rev-parse", "main"]);
    for (n, gates) in
        [("1", vec!["test -f base.txt", "test -f one.txt"]), ("2", vec!["test -f one.txt", "test -f two.txt"])]
    {
        let mut request = bench.refinery(&format!("convoy/x/gt/toast/{n}"), &gates);
        request["review"]["targetBranch"] = json!("convoy/x/head");
        request["review"]["entryId"] = json!(format!("entry-{n}"));
        request["dispatchId"] = json!(format!("ref-d{n}"));
        bench.started(&request).await;
        let path = format!("/api/towns/town-1/rigs/rig-1/review-queue/entry-{n}/complete");
        let call = bench.worker.call("verdict", |call| call.path == path).await;
        assert_eq!(call.body["status"], "merged", "{}", call.body);
        assert_eq!(call.body["commit_sha"], bench.in_origin(&["rev-parse", "convoy/x/head"]));
        bench.becomes("ref", "exited").await;
    }
    assert_eq!(bench.in_origin(&["rev-parse", "main"]), main, "the default branch waits for the landing");
    assert_eq!(bench.in_origin(&["show", "convoy/x/head:one.txt"]), "one");

    let mut request = bench.refinery("convoy/x/head", &["test -f one.txt", "test -f two.txt"]);
    request["dispatchId"] = json!("ref-d3");
    request["review"]["entryId"] = json!("entry-3");
    bench.started(&request).await;
    let landed = bench.worker.call("verdict", |call| call.path.contains("entry-3")).await;
    assert_eq!(landed.body["status"], "merged", "{}", landed.body);
    assert_eq!(bench.in_origin(&["show", "main:two.txt"]), "two");
}

#[tokio::test]
async fn a_branch_that_does_not_exist_fails_its_review_and_makes_no_target() {
    let bench = Bench::new().await;
    let mut request = bench.refinery("gt/toast/gone", &["true"]);
    request["review"]["targetBranch"] = json!("convoy/x/head");
    bench.started(&request).await;
    let body = verdict(&bench).await;
    assert_eq!(body["status"], "failed");
    assert!(body["message"].as_str().unwrap().contains("gt/toast/gone"), "{body}");
    assert_eq!(bench.in_origin(&["branch", "--list", "convoy/*"]), "");
}

#[tokio::test]
async fn a_conflict_names_its_files() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/1", "README.md", "one\n");
    bench.commit("main", "README.md", "two\n");
    bench.started(&bench.refinery("gt/toast/1", &["true"])).await;
    let body = verdict(&bench).await;
    assert_eq!(body["status"], "conflict");
    assert!(body["message"].as_str().unwrap().contains("README.md"), "{body}");
}

#[tokio::test]
async fn a_branch_that_is_merged_already_is_merged_with_that_commit() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/1", "new.txt", "new\n");
    let request = bench.refinery("gt/toast/1", &[]);
    bench.started(&request).await;
    let first = verdict(&bench).await;
    bench.commit("main", "later.txt", "later\n");
    // The report was lost, and the worker sends the review again.
    let mut again = request.clone();
    again["dispatchId"] = json!("ref-d2");
    bench.started(&again).await;
    let call = bench
        .worker
        .call("second verdict", |call| call.path == VERDICT && call.header("x-gastown-dispatch-id") == "ref-d2")
        .await;
    assert_eq!((&call.body["status"], &call.body["commit_sha"]), (&json!("merged"), &first["commit_sha"]));
}

#[tokio::test]
async fn a_target_that_moves_during_the_gates_is_merged_anew() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/1", "new.txt", "new\n");
    // The first run of the gate pushes to main itself.
    let (clone, once) = (bench.path("racer"), bench.path("out/once"));
    let gate = format!(
        "echo run >> {runs}; if mkdir {once} 2>/dev/null; then git clone -q {origin} {clone} && cd {clone} && echo r > race.txt && \
         git add -A && git commit -q -m race && git push -q origin main; fi",
        runs = bench.path("out/runs").display(),
        once = once.display(),
        origin = bench.path("origin.git").display(),
        clone = clone.display(),
    );
    bench.started(&bench.refinery("gt/toast/1", &[&gate])).await;
    let body = verdict(&bench).await;
    assert_eq!(body["status"], "merged", "{body}");
    assert_eq!(bench.in_origin(&["show", "main:race.txt"]), "r");
    assert_eq!(bench.in_origin(&["show", "main:new.txt"]), "new");
    assert_eq!(bench.file("out/runs").await, "run\nrun\n", "the gates judge what is pushed");
}

#[tokio::test]
async fn a_branch_that_does_not_exist_fails_its_review() {
    let bench = Bench::new().await;
    bench.started(&bench.refinery("gt/toast/gone", &[])).await;
    let body = verdict(&bench).await;
    assert_eq!(body["status"], "failed");
    assert!(body["message"].as_str().unwrap().contains("gt/toast/gone"), "{body}");
}

#[tokio::test]
async fn a_push_that_the_repository_refuses_is_not_the_branchs_fault() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/1", "new.txt", "new\n");
    let hook = bench.path("origin.git/hooks/pre-receive");
    fs::write(&hook, "#!/bin/sh\necho main is protected\nexit 1\n").unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    bench.started(&bench.refinery("gt/toast/1", &[])).await;
    let body = bench.worker.verb("ref", "completed").await.body;
    assert_eq!((&body["status"], &body["phase"]), (&json!("failed"), &json!("repository")));
    assert!(body["reason"].as_str().unwrap().contains("main is protected"), "{body}");
    assert_eq!(bench.worker.count(|call| call.path == VERDICT), 0);
}

#[tokio::test]
async fn a_stop_during_the_gates_ends_them_and_says_nothing() {
    let bench = Bench::new().await;
    bench.commit("gt/toast/1", "new.txt", "new\n");
    let gate = format!("echo $$ > {}; sleep 300", bench.path("out/gate").display());
    bench.started(&bench.refinery("gt/toast/1", &[&gate])).await;
    let pid = bench.pid("out/gate").await;
    bench.post("/agents/ref/stop", &json!({})).await;
    assert!(!crate::bench::alive(pid));
    assert_eq!(fs::read_dir(bench.path("workspace/rigs/rig-1/merge-tmp")).unwrap().count(), 0);
    assert_eq!(bench.worker.count(|call| call.path == VERDICT || call.is("ref", "completed")), 0);
}

#[tokio::test]
async fn a_gate_that_takes_too_long_fails_the_review() {
    let bench = Bench::with(&[("GASTOWN_GATE_TIMEOUT_MS", "300")]).await;
    bench.commit("gt/toast/1", "new.txt", "new\n");
    bench.started(&bench.refinery("gt/toast/1", &["echo waiting; exec sleep 300"])).await;
    let body = verdict(&bench).await;
    assert_eq!(body["status"], "failed");
    assert!(body["message"].as_str().unwrap().contains("took longer than 0.3 s"), "{body}");
}

#[tokio::test]
async fn a_refinery_without_a_review_fails() {
    let bench = Bench::new().await;
    let mut request = bench.refinery("x", &[]);
    request.as_object_mut().unwrap().remove("review");
    let (status, body) = bench.start(&request).await;
    assert_eq!(status, 500, "{body}");
    assert!(body["error"].as_str().unwrap().contains("review"), "{body}");
}
