//! One dispatch is one process: repeated, replaced and stopped starts.

use crate::bench::{Bench, alive, eventually};
use serde_json::json;
use std::fs;

#[tokio::test]
async fn the_same_dispatch_repeated_at_once_is_one_process_and_one_answer() {
    let bench = Bench::new().await;
    let runs = bench.path("out/runs");
    let request = bench.polecat("a1", &format!("echo run >> {}\nexec sleep 60", runs.display()));
    let (first, second, third) = tokio::join!(bench.start(&request), bench.start(&request), bench.start(&request));
    assert_eq!(first.0, 201, "{}", first.1);
    assert_eq!(first, second);
    assert_eq!(first, third);
    assert_eq!(bench.start(&request).await, first);
    bench.worker.beat("a1").await;
    assert_eq!(bench.file("out/runs").await, "run\n");
    assert_eq!(bench.get("/health").await.1["agents"], 1);
}

#[tokio::test]
async fn a_dispatch_that_has_ended_is_never_run_again() {
    let bench = Bench::new().await;
    let runs = bench.path("out/runs");
    let request = bench.polecat("a1", &format!("echo run >> {}", runs.display()));
    let first = bench.start(&request).await;
    bench.becomes("a1", "exited").await;
    assert_eq!(bench.start(&request).await, first, "the same start, the same answer");
    assert_eq!(bench.status("a1").await["status"], "exited");
    assert_eq!(fs::read_to_string(&runs).unwrap(), "run\n");

    let mut stranger = request.clone();
    stranger["agentId"] = json!("a2");
    assert_eq!(bench.start(&stranger).await.0, 400, "an id belongs to one agent");
}

#[tokio::test]
async fn a_failed_start_repeated_fails_with_the_same_words() {
    let bench = Bench::new().await;
    let mut request = bench.polecat("a1", "true");
    request["gitUrl"] = json!("/nowhere/at/all");
    let first = bench.start(&request).await;
    assert_eq!(first.0, 500);
    assert_eq!(bench.start(&request).await, first);
}

#[tokio::test]
async fn another_dispatch_of_a_live_agent_takes_its_place() {
    let bench = Bench::new().await;
    let pid = bench.path("out/pid");
    bench.started(&bench.polecat("a1", &format!("echo $$ > {}\nexec sleep 300", pid.display()))).await;
    let old = bench.pid("out/pid").await;
    let overlap = format!("if kill -0 {old} 2>/dev/null; then echo overlap; exit 9; fi\necho new > new.txt");
    let mut request = bench.polecat("a1", &overlap);
    request["dispatchId"] = json!("a1-d2");
    let record = bench.started(&request).await;
    assert_eq!(record["dispatchId"], "a1-d2");
    let done = bench.worker.verb("a1", "done").await;
    assert_eq!(done.header("x-gastown-dispatch-id"), "a1-d2");
    assert!(!alive(old));
    assert_eq!(bench.worker.count(|call| call.is("a1", "completed")), 0, "the replaced one says nothing");
}

#[tokio::test]
async fn a_stop_kills_the_whole_group_and_reports_nothing() {
    let bench = Bench::with(&[("GASTOWN_STOP_GRACE_MS", "200")]).await;
    let pid = bench.path("out/pid");
    // A grandchild that ignores SIGTERM.
    let script = format!("sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 1; done' &\nwait", pid.display());
    bench.started(&bench.polecat("a1", &script)).await;
    let grandchild = bench.pid("out/pid").await;
    assert!(alive(grandchild));
    assert_eq!(bench.post("/agents/a1/stop", &json!({})).await, (200, json!({ "stopped": true })));
    assert!(!alive(grandchild));
    let record = bench.status("a1").await;
    assert_eq!((&record["status"], &record["exitReason"]), (&json!("exited"), &json!("stopped")));
    assert_eq!(bench.post("/agents/a1/stop", &json!({})).await.0, 200, "stopping twice is fine");
    assert_eq!(bench.worker.count(|call| call.is("a1", "completed") || call.is("a1", "done")), 0);
}

#[tokio::test]
async fn a_polite_process_ends_within_the_grace_period() {
    let bench = Bench::with(&[("GASTOWN_STOP_GRACE_MS", "60000")]).await;
    let (ready, bye) = (bench.path("out/ready"), bench.path("out/bye"));
    let script = format!(
        "trap 'echo bye > {}; exit 0' TERM\necho ready > {}\nwhile :; do sleep 0.05; done",
        bye.display(),
        ready.display()
    );
    bench.started(&bench.polecat("a1", &script)).await;
    bench.file("out/ready").await;
    bench.post("/agents/a1/stop", &json!({})).await;
    assert_eq!(fs::read_to_string(&bye).unwrap(), "bye\n");
}

#[tokio::test]
async fn a_stop_that_names_a_dispatch_stops_only_that_one() {
    let bench = Bench::new().await;
    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    let stopped = (200, json!({ "stopped": true }));
    assert_eq!(bench.post("/agents/a1/stop", &json!({ "dispatchId": "another" })).await, stopped);
    assert_eq!(bench.status("a1").await["status"], "running");
    assert_eq!(bench.post("/agents/a1/stop", &json!({ "dispatchId": "a1-d1" })).await, stopped);
    assert_eq!(bench.status("a1").await["status"], "exited");

    let mut late = bench.polecat("a1", "true");
    late["dispatchId"] = json!("another");
    let (status, body) = bench.start(&late).await;
    assert_eq!(status, 500, "a stop that overtook its start holds: {body}");
    assert_eq!(body["error"], "Startup aborted for agent a1");
}

#[tokio::test]
async fn a_start_is_known_as_starting_while_it_clones_and_can_be_stopped() {
    let bench = Bench::with(&[("GIT_SSH_COMMAND", "hang")]).await;
    bench.program("hang", &format!("#!/bin/sh\necho $$ > {}\nexec sleep 300\n", bench.path("out/ssh").display()));
    let mut request = bench.polecat("a1", "true");
    request["gitUrl"] = json!("git@example.invalid:o/r.git");
    let (answer, ()) = tokio::join!(bench.start(&request), async {
        let ssh = bench.pid("out/ssh").await;
        let record = bench.status("a1").await;
        assert_eq!((&record["status"], &record["dispatchId"]), (&json!("starting"), &json!("a1-d1")));
        let (status, refused) = bench.post("/agents/a1/message", &json!({ "prompt": "hello" })).await;
        assert_eq!((status, &refused["error"]), (500, &json!("Agent a1 is not running (status: starting)")));
        bench.post("/agents/a1/stop", &json!({})).await;
        assert!(!alive(ssh), "git's helpers end with it");
    });
    assert_eq!(answer, (500, json!({ "error": "Startup aborted for agent a1" })));
    assert_eq!(bench.status("a1").await["exitReason"], "stopped");
}

#[tokio::test]
async fn a_start_that_fails_when_nobody_listens_any_more_is_reported() {
    let bench = Bench::with(&[("GIT_SSH_COMMAND", "hang")]).await;
    let go = bench.path("out/go");
    bench.program(
        "hang",
        &format!(
            "#!/bin/sh\necho $$ > {}\nwhile ! test -f {}; do sleep 0.02; done\nexit 1\n",
            bench.path("out/ssh").display(),
            go.display()
        ),
    );
    let mut request = bench.polecat("a1", "true");
    request["gitUrl"] = json!("git@example.invalid:o/r.git");
    tokio::select! {
        answer = bench.start(&request) => panic!("{answer:?}"),
        _ = bench.pid("out/ssh") => {}
    }
    // The caller has hung up; let the runner see that before the clone fails.
    let mut seen = 0;
    eventually("the runner to see it", || {
        seen += 1;
        seen > 20
    })
    .await;
    fs::write(&go, "").unwrap();
    let body = bench.worker.verb("a1", "completed").await.body;
    assert_eq!((&body["status"], &body["phase"]), (&json!("failed"), &json!("repository")));
}

#[tokio::test]
async fn two_agents_do_not_share_a_branch() {
    let bench = Bench::new().await;
    bench.started(&bench.polecat("a1", "exec sleep 60")).await;
    let mut request = bench.polecat("a2", "true");
    request["branch"] = json!("gt/toast/a1");
    let (status, body) = bench.start(&request).await;
    assert_eq!(status, 500);
    assert!(body["error"].as_str().unwrap().contains("works on branch gt/toast/a1 already"), "{body}");
}
