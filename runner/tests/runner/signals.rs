//! How the runner ends, and that nothing outlives it.

use crate::bench::{Bench, alive, eventually};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;

#[tokio::test]
async fn sigterm_waits_for_the_agents_and_takes_no_more() {
    let mut bench = Bench::with(&[("GASTOWN_HEARTBEAT_MS", "30")]).await;
    let go = bench.path("out/go");
    let script = format!("while ! test -f {}; do sleep 0.02; done\necho new > new.txt", go.display());
    let request = bench.polecat("a1", &script);
    let first = bench.start(&request).await;
    bench.signal(Signal::SIGTERM);
    let eviction = bench.worker.call("eviction", |call| call.path == "/api/towns/town-1/container-eviction").await;
    assert_eq!(eviction.header("authorization"), format!("Bearer {}", crate::bench::TOKEN));
    assert_eq!(bench.get("/health").await.1["draining"], true);
    let refused = (503, json!({ "error": "Container is draining, cannot start new agents" }));
    assert_eq!(bench.start(&bench.polecat("a2", "true")).await, refused);
    assert_eq!(bench.start(&request).await, first, "a repeated start is no new one");
    assert_eq!(bench.status("a1").await["status"], "running");
    fs::write(&go, "").unwrap();
    assert!(bench.exit().await.success());
    bench.worker.verb("a1", "done").await;
    let calls = bench.worker.calls();
    let evicted = calls.iter().position(|call| call.path.ends_with("container-eviction")).unwrap();
    assert!(!calls[evicted..].iter().any(|call| call.beats("a1")), "no heartbeat during a drain");
    assert_eq!(bench.worker.count(|call| call.is("a1", "completed")), 0);
}

#[tokio::test]
async fn a_straggler_of_a_drain_is_saved_and_reported_as_evicted() {
    let mut bench = Bench::with(&[("GASTOWN_DRAIN_MS", "200")]).await;
    let ready = bench.path("out/ready");
    let script = format!("echo half > half.txt\necho ready > {}\nexec sleep 300", ready.display());
    bench.started(&bench.polecat("a1", &script)).await;
    bench.file("out/ready").await;
    bench.signal(Signal::SIGTERM);
    assert!(bench.exit().await.success());
    let context = bench.worker.verb("a1", "eviction-context").await.body;
    assert_eq!((&context["branch"], &context["agent_name"]), (&json!("gt/toast/a1"), &json!("Toast")));
    assert!(context["saved_at"].is_string());
    let completed = bench.worker.verb("a1", "completed").await.body;
    assert_eq!((&completed["status"], &completed["reason"]), (&json!("completed"), &json!("container eviction")));
    assert_eq!(bench.in_origin(&["log", "-1", "--format=%s", "gt/toast/a1"]), "WIP: container eviction save");
    assert_eq!(bench.in_origin(&["show", "gt/toast/a1:half.txt"]), "half");
    let order: Vec<_> =
        bench.worker.calls().into_iter().map(|call| call.path).filter(|path| !is_of_the_background(path)).collect();
    assert!(order[0].ends_with("container-eviction"), "{order:?}");
}

#[tokio::test]
async fn a_straggler_without_work_names_no_branch_to_go_on_from() {
    let mut bench = Bench::with(&[("GASTOWN_DRAIN_MS", "200")]).await;
    let ready = bench.path("out/ready");
    bench.started(&bench.polecat("a1", &format!("echo ready > {}\nexec sleep 300", ready.display()))).await;
    bench.file("out/ready").await;
    bench.signal(Signal::SIGTERM);
    assert!(bench.exit().await.success());
    let completed = bench.worker.verb("a1", "completed").await.body;
    assert_eq!(completed["reason"], "container eviction");
    assert_eq!(bench.worker.count(|call| call.is("a1", "eviction-context")), 0, "the origin has no such branch");
}

/// What is told beside the course of things.
fn is_of_the_background(path: &str) -> bool {
    ["heartbeats", "agent-events", "container-registry"].iter().any(|end| path.ends_with(end))
}

#[tokio::test]
async fn an_unused_runner_drains_at_once_and_tells_nobody() {
    let mut bench = Bench::with(&[("GASTOWN_TOWN_ID", "town-1")]).await;
    bench.signal(Signal::SIGTERM);
    assert!(bench.exit().await.success());
    assert!(bench.worker.calls().is_empty());
}

/// A process, and one that left its group.
async fn two_processes(bench: &Bench) -> (nix::unistd::Pid, nix::unistd::Pid) {
    let (here, away) = (bench.path("out/here"), bench.path("out/away"));
    let script = format!(
        "setsid sh -c 'echo $$ > {}; exec sleep 300' &\nsh -c 'trap \"\" TERM INT HUP; echo $$ > {}; while :; do sleep 1; done' &\nwait",
        away.display(),
        here.display()
    );
    bench.started(&bench.polecat("a1", &script)).await;
    (bench.pid("out/here").await, bench.pid("out/away").await)
}

#[tokio::test]
async fn sigint_ends_everything_at_once() {
    let mut bench = Bench::new().await;
    let (here, away) = two_processes(&bench).await;
    bench.signal(Signal::SIGINT);
    assert_eq!(bench.exit().await.code(), Some(130));
    eventually("both are gone", || !alive(here) && !alive(away)).await;
    assert_eq!(bench.worker.count(|call| call.is("a1", "completed")), 0);
}

#[tokio::test]
async fn sigkill_leaves_no_agent_running_and_the_next_runner_tidies_up() {
    let mut bench = Bench::new().await;
    let (here, away) = two_processes(&bench).await;
    bench.signal(Signal::SIGKILL);
    bench.exit().await;
    eventually("the guard kills the group", || !alive(here)).await;
    // What a killed git leaves behind.
    let rig = bench.path("workspace/rigs/rig-1");
    fs::write(rig.join("repo/.git/packed-refs.lock"), "").unwrap();
    fs::create_dir_all(rig.join("repo.new-1/.git")).unwrap();
    fs::create_dir_all(rig.join("merge-tmp/merge-1")).unwrap();
    bench.boot().await;
    eventually("the next runner kills what left its group", || !alive(away)).await;
    assert!(!rig.join("repo.new-1").exists() && !rig.join("merge-tmp").exists());
    let mut request = bench.polecat("a1", "echo new > new.txt");
    request["dispatchId"] = json!("a1-d2");
    bench.started(&request).await;
    bench.worker.verb("a1", "done").await;
}

#[tokio::test]
async fn two_runners_do_not_share_a_workspace() {
    let bench = Bench::new().await;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_gastown-runner"))
        .env("GASTOWN_WORKSPACE", bench.path("workspace"))
        .env("GASTOWN_RUNNER_ADDR", "127.0.0.1:0")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("another runner works in"));
}
