//! Conversations: the turns of a model's tool, taken down by a fake of it on the path.

use crate::{
    bench::{Bench, eventually},
    fake_worker::{Call, FILE, FakeWorker},
};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;

/// A `claude` that writes down each turn: its arguments, then its prompt. A turn whose prompt names a file waits for that
/// file. What it is to do besides stands in `$OUT/do`.
const CLAUDE: &str = r#"#!/bin/sh
n=1; while test -f "$OUT/turn-$n"; do n=$((n + 1)); done
prompt=$(cat)
printf '%s\n' "$*" > "$OUT/args-$n"
env > "$OUT/env-$n"
printf '%s\n' "$prompt" > "$OUT/turn-$n"
if test -f "$OUT/do"; then . "$OUT/do"; fi
case $prompt in "wait for "*) while ! test -f "$OUT/${prompt#wait for }"; do sleep 0.02; done ;; esac
echo '{"type":"result","subtype":"success","is_error":false,"result":"answer '$n'"}'
"#;

/// A bench whose agents of this role are a `claude`.
async fn bench(role: &str, variables: &[(&str, &str)]) -> Bench {
    let preset = format!("GASTOWN_{role}_AGENT");
    let mut all = vec![(preset.as_str(), "claude")];
    all.extend(variables);
    let bench = Bench::with(&all).await;
    bench.program("claude", CLAUDE);
    bench
}

fn out(bench: &Bench, mut request: Value) -> Value {
    request["envVars"]["OUT"] = json!(bench.path("out"));
    request
}

async fn say(bench: &Bench, agent: &str, prompt: &str) {
    let said = bench.post(&format!("/agents/{agent}/message"), &json!({ "prompt": prompt })).await;
    assert_eq!(said, (200, json!({ "sent": true })));
}

/// The worker answers this agent's question after its nudges like this.
fn nudges(worker: &FakeWorker, agent: &'static str, nudges: Value) {
    worker.rule(move |call| {
        let asked = call.method == "GET" && call.is(agent, "pending-nudges");
        asked.then(|| (200, json!({ "success": true, "data": nudges })))
    });
}

/// The worker says that nothing is left to do for this agent.
fn unhooked(worker: &FakeWorker, agent: &'static str) {
    worker.rule(move |call| {
        let asked = call.method == "GET" && call.path.ends_with(&format!("/agents/{agent}"));
        asked.then(|| (200, json!({ "success": true, "data": { "current_hook_bead_id": null } })))
    });
}

#[tokio::test]
async fn a_mayor_says_that_it_waits_after_each_turn_and_a_message_is_its_next_turn() {
    let bench = bench("MAYOR", &[("AGENT_IDLE_TIMEOUT_MS", "1")]).await;
    let mut request = out(&bench, bench.mayor("You are ready."));
    request["systemPrompt"] = json!("You are the mayor.");
    let record = bench.started(&request).await;
    assert!(record["serverPort"].as_u64().unwrap() > 0 && record["sessionId"] != "", "warm: {record}");
    assert_eq!(bench.out("turn-1").await, "You are ready.");
    let instructions = fs::read_to_string(format!("{}/AGENTS.md", record["workdir"].as_str().unwrap())).unwrap();
    assert_eq!(instructions, "You are the mayor.");
    let waits = |call: &Call| call.is("m1", "waiting");
    let first = bench.worker.call("waiting", waits).await;
    assert_eq!(first.path, "/api/towns/town-1/rigs/mayor-town-1/agents/m1/waiting");
    assert_eq!(first.body["agentId"], "m1");
    say(&bench, "m1", "What is going on?").await;
    assert_eq!(bench.out("turn-2").await, "What is going on?");
    assert!(!bench.out("args-1").await.contains("--continue") && bench.out("args-2").await.contains("--continue"));
    eventually("it waits again", || bench.worker.count(waits) == 2).await;
    let fired: Vec<_> =
        bench.worker.calls().into_iter().filter(waits).map(|c| c.body["firedAt"].as_i64().unwrap()).collect();
    assert!(fired[0] < fired[1], "{fired:?}");
    assert_eq!(bench.status("m1").await["status"], "running", "a mayor never idles out");
    assert_eq!(bench.worker.count(|call| call.is("m1", "completed") || call.is("m1", "pending-nudges")), 0);
}

#[tokio::test]
async fn messages_that_come_during_a_turn_are_the_next_turns_in_their_order() {
    let bench = bench("MAYOR", &[]).await;
    bench.started(&out(&bench, bench.mayor("wait for go"))).await;
    bench.out("turn-1").await;
    say(&bench, "m1", "second").await;
    say(&bench, "m1", "third").await;
    assert!(!bench.path("out/turn-2").exists(), "one turn at a time");
    fs::write(bench.path("out/go"), "").unwrap();
    assert_eq!((bench.out("turn-2").await, bench.out("turn-3").await), ("second".to_owned(), "third".to_owned()));
    assert_eq!(bench.status("m1").await["messageCount"], 2);
}

#[tokio::test]
async fn a_pending_nudge_is_a_turn_once_and_then_an_idle_agent_ends() {
    let bench = bench("POLECAT", &[("AGENT_IDLE_TIMEOUT_MS", "50")]).await;
    let nudge = |id: &str, text: &str| json!({ "nudge_id": id, "message": text, "mode": "wait-idle", "priority": "normal", "source": "agent" });
    nudges(&bench.worker, "a1", json!([nudge("n1", "Look again"), nudge("n2", "And again")]));
    bench.started(&out(&bench, bench.polecat("a1", "true"))).await;
    let completed = bench.worker.verb("a1", "completed").await;
    assert_eq!(completed.body["status"], "completed");
    assert_eq!(bench.out("turn-2").await, "Look again");
    assert_eq!(bench.out("turn-3").await, "And again");
    assert!(!bench.path("out/turn-4").exists(), "the worker lists them still, but they have been said");
    let told: Vec<_> = bench.worker.calls().into_iter().filter(|call| call.is("a1", "nudge-delivered")).collect();
    let ids: Vec<_> = told.iter().map(|call| call.body["nudge_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["n1", "n2"]);
    bench.becomes("a1", "exited").await;
}

#[tokio::test]
async fn an_idle_agent_takes_a_message_and_ends_when_its_work_is_settled() {
    let bench = bench("POLECAT", &[("AGENT_IDLE_TIMEOUT_MS", "600000")]).await;
    bench.started(&out(&bench, bench.polecat("a1", "true"))).await;
    bench.worker.call("the question after its bead", |call| call.path.ends_with("/agents/a1")).await;
    assert_eq!(bench.status("a1").await["status"], "running", "it waits");
    unhooked(&bench.worker, "a1");
    say(&bench, "a1", "You may go").await;
    assert_eq!(bench.out("turn-2").await, "You may go");
    bench.worker.verb("a1", "completed").await;
    bench.becomes("a1", "exited").await;
    let late = bench.post("/agents/a1/message", &json!({ "prompt": "Wait" })).await;
    assert_eq!(late, (500, json!({ "error": "Agent a1 is not running (status: exited)" })));
}

#[tokio::test]
async fn a_turn_that_leaves_work_is_delivered_without_waiting() {
    let bench = bench("POLECAT", &[("AGENT_IDLE_TIMEOUT_MS", "600000")]).await;
    fs::write(bench.path("out/do"), "echo new > new.txt\n").unwrap();
    bench.started(&out(&bench, bench.polecat("a1", "true"))).await;
    let done = bench.worker.verb("a1", "done").await;
    assert_eq!(done.body, json!({ "branch": "gt/toast/a1", "summary": "answer 1" }));
}

#[tokio::test]
async fn a_drain_cuts_idle_times_and_asks_for_no_nudges() {
    let mut bench = bench("POLECAT", &[("AGENT_IDLE_TIMEOUT_MS", "600000"), ("GASTOWN_DRAIN_IDLE_MS", "50")]).await;
    bench.started(&out(&bench, bench.polecat("a1", "true"))).await;
    bench.worker.call("the question after its bead", |call| call.path.ends_with("/agents/a1")).await;
    bench.signal(Signal::SIGTERM);
    assert!(bench.exit().await.success());
    assert_eq!(bench.worker.verb("a1", "completed").await.body["status"], "completed");
    let paths: Vec<_> = bench.worker.calls().into_iter().map(|call| call.path).collect();
    let evicted = paths.iter().position(|path| path.ends_with("/container-eviction")).unwrap();
    assert!(!paths[evicted..].iter().any(|path| path.ends_with("/pending-nudges")), "{paths:?}");
}

#[tokio::test]
async fn a_mayor_remembers_in_the_next_container_and_its_start_is_heard() {
    let mut bench = bench("MAYOR", &[]).await;
    let remember =
        "echo secret > \"$CLAUDE_CONFIG_DIR/.credentials.json\"\necho said >> \"$CLAUDE_CONFIG_DIR/session\"\n";
    fs::write(bench.path("out/do"), remember).unwrap();
    bench.started(&out(&bench, bench.mayor("My name is Ada."))).await;
    bench.worker.call("waiting", |call| call.is("m1", "waiting")).await;
    bench.signal(Signal::SIGTERM);
    assert!(bench.exit().await.success());
    let sent: Vec<_> =
        bench.worker.calls().into_iter().filter(|c| c.method == "POST" && c.is("m1", "db-snapshot")).collect();
    let snapshot = sent.last().expect("no snapshot was sent");
    assert_eq!(snapshot.header("content-type"), "application/octet-stream");
    assert_eq!(snapshot.path, "/api/towns/town-1/rigs/mayor-town-1/agents/m1/db-snapshot");
    let completed = bench.worker.verb("m1", "completed").await;
    assert_eq!(completed.body["reason"], "container eviction");

    // Another container: nothing on its disk, and the worker has the snapshot.
    let file = bench.path("snapshot");
    fs::write(&file, &snapshot.bytes).unwrap();
    let listed = std::process::Command::new("tar").arg("-tzf").arg(&file).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains(".claude/session") && !listed.contains("credentials"), "{listed}");
    fs::remove_dir_all(bench.path("workspace")).unwrap();
    bench.worker.rule(move |call| {
        let asked = call.method == "GET" && call.is("m1", "db-snapshot");
        asked.then(|| (200, json!({ FILE: file })))
    });
    bench.boot().await;
    let mut request = out(&bench, bench.mayor("What is my name?"));
    request["dispatchId"] = json!("m1-d2");
    bench.started(&request).await;
    assert_eq!(bench.out("turn-2").await, "What is my name?", "the prompt of the start is not lost");
    assert!(bench.out("args-2").await.contains("--continue"));
    let session = bench.path("workspace/agents/m1/home/.claude/session");
    eventually("its session is there", || fs::read_to_string(&session).is_ok_and(|text| text == "said\nsaid\n")).await;
}

#[tokio::test]
async fn a_session_that_its_tool_has_forgotten_begins_afresh_with_the_same_prompt() {
    let bench = bench("MAYOR", &[]).await;
    bench.started(&out(&bench, bench.mayor("one"))).await;
    bench.worker.call("waiting", |call| call.is("m1", "waiting")).await;
    bench.post("/agents/m1/stop", &json!({})).await;
    fs::write(bench.path("out/do"), "case $* in *--continue*) echo No conversation found; exit 1 ;; esac\n").unwrap();
    let mut request = out(&bench, bench.mayor("two"));
    request["dispatchId"] = json!("m1-d2");
    bench.started(&request).await;
    assert_eq!((bench.out("turn-2").await, bench.out("turn-3").await), ("two".to_owned(), "two".to_owned()));
    assert!(!bench.out("args-3").await.contains("--continue"));
    eventually("it waits", || bench.worker.count(|call| call.is("m1", "waiting")) == 2).await;
}

#[tokio::test]
async fn a_model_refinery_is_told_what_it_reviews() {
    let bench = bench("REFINERY", &[]).await;
    unhooked(&bench.worker, "ref");
    bench.commit("gt/toast/a1", "new.txt", "new\n");
    bench.started(&out(&bench, bench.refinery("gt/toast/a1", &["make test", "make lint"]))).await;
    let prompt = bench.out("turn-1").await;
    for words in
        ["Review it", "entry-1", "branch under review: gt/toast/a1", "target branch: main", "bead-1", "make lint"]
    {
        assert!(prompt.contains(words), "{words} in {prompt}");
    }
    bench.worker.verb("ref", "completed").await;
    bench.becomes("ref", "exited").await;
    assert_eq!(bench.worker.count(|call| call.path.contains("/review-queue/")), 0, "the verdict is the model's");
    assert!(
        !bench.path("workspace/rigs/rig-1/worktrees/gt__toast__ref").exists(),
        "its worktree is of no use any more"
    );
}

#[tokio::test]
async fn the_towns_tools_are_on_the_path_and_named_to_the_model() {
    let bench = bench("POLECAT", &[]).await;
    unhooked(&bench.worker, "a1");
    bench.program("gt", "#!/bin/sh\necho gt\n");
    bench.started(&out(&bench, bench.polecat("a1", "true"))).await;
    bench.worker.verb("a1", "completed").await;
    let args = bench.out("args-1").await;
    let config = args.split("--mcp-config ").nth(1).unwrap().split(' ').next().unwrap();
    let config: Value = serde_json::from_str(&fs::read_to_string(config).unwrap()).unwrap();
    assert_eq!(config["mcpServers"]["gt"]["command"], json!(bench.path("bin/gt")));
    assert_eq!(config["mcpServers"]["gt"]["args"], json!(["mcp"]));
    let env = bench.out("env-1").await;
    let path = env.lines().find_map(|line| line.strip_prefix("PATH=")).unwrap();
    assert!(path.starts_with(&format!("{}:", bench.path("bin").display())), "{path}");
}

#[tokio::test]
async fn a_model_a_prompt_and_what_the_user_looks_at_hold_from_the_next_turn_on() {
    let bench = bench("MAYOR", &[]).await;
    let record = bench.started(&out(&bench, bench.mayor("one"))).await;
    bench.worker.call("waiting", |call| call.is("m1", "waiting")).await;
    let updated = (200, json!({ "updated": true }));
    let model = json!({ "model": "anthropic/claude-y" });
    assert_eq!(bench.send(Method::PATCH, "/agents/m1/model", &model).await, updated);
    let prompt = json!({ "systemPrompt": "Be brief." });
    assert_eq!(bench.send(Method::PUT, "/agents/m1/system-prompt", &prompt).await, updated);
    let instructions = fs::read_to_string(format!("{}/AGENTS.md", record["workdir"].as_str().unwrap())).unwrap();
    assert_eq!(instructions, "Be brief.", "at once: its tool may read it any time");
    let pushed = bench.post("/dashboard-context", &json!({ "context": "the convoys" })).await;
    assert_eq!(pushed, (200, json!({ "pushed": true })));
    say(&bench, "m1", "two").await;
    assert_eq!(bench.out("turn-2").await, "<system-reminder>\nthe convoys\n</system-reminder>\n\ntwo");
    let args = bench.out("args-2").await;
    assert!(args.contains("--model claude-y") && args.contains("--append-system-prompt Be brief."), "{args}");
    say(&bench, "m1", "three").await;
    assert_eq!(bench.out("turn-3").await, "three", "it is told once");

    for (method, path) in [(Method::PATCH, "model"), (Method::PUT, "system-prompt")] {
        assert_eq!(bench.send(method.clone(), &format!("/agents/m1/{path}"), &json!({})).await.0, 400);
        let body = json!({ "model": "m", "systemPrompt": "s" });
        assert_eq!(bench.send(method, &format!("/agents/m9/{path}"), &body).await.0, 404);
    }
}

#[tokio::test]
async fn a_refusal_is_a_failure_whatever_the_tool_exits_with_unless_it_got_over_it() {
    let bench = bench("POLECAT", &[]).await;
    unhooked(&bench.worker, "a1");
    let refused = "{\"type\":\"result\",\"is_error\":true,\"result\":\"API Error: 503\"}";
    fs::write(bench.path("out/do"), format!("echo '{refused}'\n")).unwrap();
    bench.started(&out(&bench, bench.polecat("a1", "true"))).await;
    assert_eq!(bench.worker.verb("a1", "completed").await.body["status"], "completed", "an answer came after it");
    fs::write(bench.path("out/do"), format!("echo '{refused}'\nexit 0\n")).unwrap();
    bench.started(&out(&bench, bench.polecat("a2", "true"))).await;
    let body = bench.worker.verb("a2", "completed").await.body;
    assert_eq!((&body["status"], &body["model_status"]), (&json!("failed"), &json!(503)));
}

#[tokio::test]
async fn the_rigs_that_a_mayor_may_look_into_are_prepared() {
    let bench = bench("MAYOR", &[]).await;
    let mut request = out(&bench, bench.mayor("You are ready."));
    request["rigs"] = json!([{ "rigId": "rig-1", "gitUrl": bench.origin(), "defaultBranch": "main" }, "odd"]);
    bench.started(&request).await;
    let file = bench.path("workspace/rigs/rig-1/browse/README.md");
    eventually("it is there", || file.exists()).await;
}

#[tokio::test]
async fn a_turn_that_fails_ends_the_agent_with_what_it_said() {
    let bench = bench("POLECAT", &[]).await;
    fs::write(
        bench.path("out/do"),
        "echo '{\"type\":\"result\",\"is_error\":true,\"result\":\"API Error: 429 rate_limit_error\"}'\nexit 1\n",
    )
    .unwrap();
    bench.started(&out(&bench, bench.polecat("a1", "true"))).await;
    let body = bench.worker.verb("a1", "completed").await.body;
    assert_eq!(body["reason"], "exited with status 1:\nAPI Error: 429 rate_limit_error");
    assert_eq!(body["model_status"], 429, "a refusal of the model is not the bead's fault");
}
