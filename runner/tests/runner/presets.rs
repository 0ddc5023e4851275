//! Each preset's command line, taken down by a fake of its tool on the path.

use crate::bench::Bench;
use serde_json::{Value, json};
use std::process::Command;

/// Writes its arguments, one per line, its input, and its environment.
const RECORDER: &str = "#!/bin/sh\nfor arg in \"$@\"; do printf '[%s]\\n' \"$arg\"; done > \"$OUT/args\"\ncat > \"$OUT/input\"\n\
                        env > \"$OUT/env\"\necho fixed > fixed.txt\necho recorded > \"$OUT/done\"\n";

struct Record {
    args: String,
    input: String,
    env: String,
}

async fn record(variable: &str, preset: &str, edit: impl FnOnce(&mut Value)) -> Record {
    let keys = [
        (variable, preset),
        ("ANTHROPIC_API_KEY", "anthropic-key"),
        ("OPENAI_API_KEY", "openai-key"),
        ("AWS_TOKEN", "x-secret"),
    ];
    let bench = Bench::with(&keys).await;
    bench.program(preset, RECORDER);
    let mut request = bench.polecat("a1", "true");
    request["prompt"] = json!("--help\n\nmake it work");
    request["systemPrompt"] = json!("You are a polecat.");
    request["envVars"]["OUT"] = json!(bench.path("out"));
    edit(&mut request);
    // A worker that says that nothing is left to do: nobody waits for the end of the idle time.
    bench.worker.rule(|call| {
        let asked = call.method == "GET" && call.path.ends_with("/agents/a1");
        asked.then(|| (200, json!({ "success": true, "data": { "current_hook_bead_id": null } })))
    });
    bench.started(&request).await;
    bench.file("out/done").await;
    let read = |name: &str| std::fs::read_to_string(bench.path("out").join(name)).unwrap();
    let record = Record { args: read("args"), input: read("input"), env: read("env") };
    assert!(!record.env.contains("x-secret"), "{}", record.env);
    if request["role"] == "polecat" {
        let done = bench.worker.verb("a1", "done").await;
        assert_eq!(done.body["branch"], "gt/toast/a1");
    } else {
        let completed = bench.worker.verb("a1", "completed").await;
        assert_eq!(completed.body["status"], "completed", "a model's refinery gives its verdict itself");
    }
    record
}

const POLECAT: &str = "GASTOWN_POLECAT_AGENT";

#[tokio::test]
async fn claude_prints_and_reads_its_prompt_from_standard_input() {
    let record = record(POLECAT, "claude", |_| {}).await;
    let args = "[-p]\n[--dangerously-skip-permissions]\n[--output-format]\n[stream-json]\n[--verbose]\n[--model]\n[claude-x]\n\
                [--append-system-prompt]\n[You are a polecat.]\n";
    assert_eq!(record.args, args);
    assert_eq!(record.input, "--help\n\nmake it work");
    assert!(
        record.env.contains("ANTHROPIC_API_KEY=anthropic-key") && !record.env.contains("openai-key"),
        "{}",
        record.env
    );
}

#[tokio::test]
async fn codex_executes_what_it_reads_from_standard_input() {
    let record = record(POLECAT, "codex", |request| request["model"] = json!("openai/gpt-x")).await;
    let args = "[exec]\n[--json]\n[--dangerously-bypass-approvals-and-sandbox]\n[--skip-git-repo-check]\n[--model]\n[gpt-x]\n[-]\n";
    assert_eq!(record.args, args);
    assert_eq!(record.input, "You are a polecat.\n\n--help\n\nmake it work");
    assert!(
        record.env.contains("OPENAI_API_KEY=openai-key") && !record.env.contains("anthropic-key"),
        "{}",
        record.env
    );
}

#[tokio::test]
async fn opencode_runs_a_message_behind_the_end_of_its_options() {
    let record = record(POLECAT, "opencode", |_| {}).await;
    let args = "[run]\n[--auto]\n[--format]\n[json]\n[--model]\n[anthropic/claude-x]\n[--]\n[You are a polecat.\n\n--help\n\nmake it work]\n";
    assert_eq!(record.args, args);
    assert_eq!(record.input, "");
}

#[tokio::test]
async fn kilo_runs_a_message_behind_the_end_of_its_options() {
    let record = record(POLECAT, "kilo", |request| request["model"] = json!("")).await;
    assert_eq!(
        record.args,
        "[run]\n[--auto]\n[--format]\n[json]\n[--]\n[You are a polecat.\n\n--help\n\nmake it work]\n"
    );
}

#[tokio::test]
async fn a_refinery_can_be_a_models_tool() {
    let record = record("GASTOWN_REFINERY_AGENT", "claude", |request| request["role"] = json!("refinery")).await;
    assert!(record.args.starts_with("[-p]\n"), "{}", record.args);
}

#[tokio::test]
async fn a_tool_that_is_not_installed_is_named_in_the_answer() {
    let bench = Bench::with(&[(POLECAT, "codex"), ("PATH", "/usr/bin:/bin")]).await;
    let (status, body) = bench.start(&bench.polecat("a1", "true")).await;
    assert_eq!((status, &body["phase"]), (500, &json!("run")), "{body}");
    assert!(body["error"].as_str().unwrap().starts_with("codex could not be started"), "{body}");
}

#[test]
fn an_unknown_preset_refuses_to_start_and_says_what_would_do() {
    let output = Command::new(env!("CARGO_BIN_EXE_gastown-runner"))
        .env_clear()
        .env("GASTOWN_POLECAT_AGENT", "gpt")
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("GASTOWN_POLECAT_AGENT") && text.contains("\"gpt\"") && text.contains("opencode"), "{text}");
}
