//! What an agent's commands ask of the worker.

use crate::{
    fake_worker::Reply,
    world::{AGENT, BEAD, DISPATCH, OTHER, RIG, TOWN, World},
};
use serde_json::{Value, json};
use std::process::Command;

fn rig(rest: &str) -> String {
    format!("/api/towns/{TOWN}/rigs/{RIG}/{rest}")
}

fn own(rest: &str) -> String {
    rig(&format!("agents/{AGENT}/{rest}"))
}

#[test]
fn an_agent_says_who_it_is_and_which_attempt_speaks() {
    let world = World::agent("polecat");
    let prime = json!({"agent": {"id": AGENT, "name": "Toast", "role": "polecat"}, "hooked_bead": {"bead_id": BEAD,
        "title": "Do it", "body": "All of it."}, "undelivered_mail": [{"from_agent_id": "mayor", "subject": "Hi", "body": "Hello"}],
        "open_beads": [], "rework_context": null});
    world.worker.gives(&format!("GET {}", own("prime")), &prime);

    let text = world.run(&["prime"]).ok().out;
    for part in ["Toast (polecat)", BEAD, "Do it", "All of it.", "mail from mayor: Hi\nHello"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let request = world.worker.last();
    assert_eq!(request.header("authorization"), Some("Bearer old-token"));
    assert_eq!(request.header("x-gastown-agent-id"), Some(AGENT));
    assert_eq!(request.header("x-gastown-rig-id"), Some(RIG));
    assert_eq!(request.header("x-gastown-dispatch-id"), Some(DISPATCH));
    assert_eq!(request.header("content-type"), Some("application/json"), "also on GET: protocol.md 1.1");

    assert_eq!(world.run(&["prime", "--json"]).ok().json(), prime, "the data as it came");
}

#[test]
fn the_mayor_belongs_to_no_rig() {
    let mut world = World::agent("mayor");
    world.unset("GASTOWN_RIG_ID");
    world.worker.gives(&format!("GET /api/towns/{TOWN}/rigs/mayor-{TOWN}/agents/{AGENT}/mail"), &json!([]));
    assert_eq!(world.run(&["mail", "check"]).ok().out, "no new mail\n");
    assert_eq!(world.worker.last().header("x-gastown-rig-id"), None);
}

#[test]
fn a_legacy_token_travels_without_headers_and_is_not_renewed() {
    let mut world = World::agent("polecat");
    world.unset("GASTOWN_CONTAINER_TOKEN").set("GASTOWN_SESSION_TOKEN", "legacy");
    world.worker.answer(&format!("GET {}", own("mail")), &[Reply::refusal(401, "token_expired", "Token expired")]);
    let ended = world.run(&["mail", "check"]).ends(1);
    assert!(ended.err.contains("Token expired"), "{ended:?}");
    assert_eq!(world.worker.requests().len(), 1);
    assert_eq!(world.worker.last().header("authorization"), Some("Bearer legacy"));
    assert_eq!(world.worker.last().header("x-gastown-agent-id"), None);
}

#[test]
#[allow(clippy::too_many_lines, reason = "one case per command; splitting the table would hide what is missing")]
fn every_command_of_an_agent_asks_what_the_protocol_says() {
    let bead = json!({"bead_id": BEAD, "status": "closed", "title": "Do it"});
    // Arguments, method and path, body, answer, a part of what is printed.
    let cases: &[(&[&str], String, Value, Value, &str)] = &[
        (
            &["done", "--branch", "gt/toast/1", "--summary", "All of it"],
            format!("POST {}", own("done")),
            json!({"branch": "gt/toast/1", "summary": "All of it"}),
            json!({"done": true}),
            "handed in",
        ),
        (
            &["done", "--branch", "b", "--pr-url", "https://h/1"],
            format!("POST {}", own("done")),
            json!({"branch": "b", "pr_url": "https://h/1"}),
            json!({"done": true}),
            "handed in",
        ),
        (&["done", "--no-changes"], format!("POST {}", own("done")), json!({}), json!({"done": true}), "handed in"),
        (
            &["checkpoint", "{\"step\": 3}"],
            format!("POST {}", own("checkpoint")),
            json!({"data": {"step": 3}}),
            json!({"written": true}),
            "written",
        ),
        (
            &["checkpoint", "half way"],
            format!("POST {}", own("checkpoint")),
            json!({"data": "half way"}),
            json!({"written": true}),
            "written",
        ),
        (
            &["checkpoint", "--clear"],
            format!("POST {}", own("checkpoint")),
            json!({"data": null}),
            json!({"written": true}),
            "cleared",
        ),
        (
            &["status", "Running the tests"],
            format!("POST {}", own("status")),
            json!({"message": "Running the tests"}),
            json!({"ok": true}),
            "status set",
        ),
        (
            &["mail", "send", OTHER, "--subject", "Question", "Which branch?"],
            format!("POST {}", rig("mail")),
            json!({"from_agent_id": AGENT, "to_agent_id": OTHER, "subject": "Question", "body": "Which branch?"}),
            json!({"sent": true}),
            "sent",
        ),
        (
            &["mail", "send", "mayor", "-s", "Q", "B"],
            format!("POST {}", rig("mail")),
            json!({"from_agent_id": AGENT, "to_agent_id": "mayor", "subject": "Q", "body": "B"}),
            json!({"sent": true}),
            "sent",
        ),
        (
            &["nudge", OTHER, "Stop", "--mode", "immediate"],
            format!("POST {}", rig("nudge")),
            json!({"target_agent_id": OTHER, "message": "Stop", "mode": "immediate"}),
            json!({"nudge_id": "n"}),
            "nudged",
        ),
        (
            &["escalate", "No access", "--body", "401", "--priority", "high", "--metadata", "{\"a\": 1}"],
            format!("POST {}", rig("escalations")),
            json!({"title": "No access", "body": "401", "priority": "high", "metadata": {"a": 1}}),
            json!({"id": OTHER, "severity": "high"}),
            "escalated as 55555555-5555-4555-8555-555555555555 (high)",
        ),
        (
            &["bead", "show", BEAD],
            format!("GET {}", rig(&format!("beads/{BEAD}"))),
            Value::Null,
            bead.clone(),
            "status  closed",
        ),
        (
            &["bead", "close", BEAD],
            format!("POST {}", rig(&format!("beads/{BEAD}/close"))),
            json!({"agent_id": AGENT}),
            bead.clone(),
            "44444444 is closed: Do it",
        ),
        (
            &["bead", "create", "New", "--label", "gt:held", "--after", BEAD],
            format!("POST {}", rig("beads")),
            json!({"type": "issue", "title": "New", "labels": ["gt:held"], "depends_on": [BEAD]}),
            json!({"bead_id": OTHER, "title": "New"}),
            "created 55555555-",
        ),
        (
            &["request-changes", "No test", "--file", "a.rs", "--file", "b.rs"],
            format!("POST {}", own("request-changes")),
            json!({"feedback": "No test", "files": ["a.rs", "b.rs"]}),
            json!({"rework_bead_id": OTHER}),
            OTHER,
        ),
        (
            &["triage", "resolve", BEAD, "RESTART", "--notes", "It hangs"],
            format!("POST {}", rig("triage/resolve")),
            json!({"triage_request_bead_id": BEAD, "action": "RESTART", "resolution_notes": "It hangs"}),
            bead,
            "resolved: Do it",
        ),
        (
            &["mol", "current"],
            format!("GET {}", own("molecule/current")),
            Value::Null,
            json!({"molecule": {"id": OTHER, "status": "active"}, "step": {"title": "Migrate", "instructions": "The schema"},
                "currentStep": 1, "totalSteps": 3}),
            "closed    1 of 3\nstep      Migrate\nto do     The schema",
        ),
        (
            &["mol", "advance", "Migrated"],
            format!("POST {}", own("molecule/advance")),
            json!({"summary": "Migrated"}),
            json!({"id": OTHER, "status": "active", "current_step": 2}),
            "active, at step 2",
        ),
    ];
    for (arguments, route, body, data, printed) in cases {
        let world = World::agent("polecat");
        world.worker.gives(route, data);
        let ended = world.run(arguments).ok();
        assert!(ended.out.contains(printed), "{arguments:?}: {ended:?}");
        assert_eq!(world.worker.asked(), std::slice::from_ref(route), "{arguments:?}");
        assert_eq!(world.worker.last().json(), *body, "{arguments:?}");
        assert_eq!(world.run(&[*arguments, &["--json"]].concat()).ok().json(), *data, "{arguments:?}");
    }
}

#[test]
fn done_takes_the_branch_that_is_checked_out_and_never_forgets_one() {
    let world = World::agent("polecat");
    world.worker.gives(&format!("POST {}", own("done")), &json!({"done": true}));
    let lost = world.run(&["done"]).ends(2);
    assert!(lost.err.contains("no branch is named"), "{lost:?}");
    assert!(world.worker.requests().is_empty(), "without a branch the bead would be closed and the work lost");

    let git =
        Command::new("git").args(["init", "-q", "-b", "gt/toast/44444444"]).current_dir(world.home.path()).output();
    assert!(git.unwrap().status.success());
    world.run(&["done"]).ok();
    assert_eq!(world.worker.last().json(), json!({"branch": "gt/toast/44444444"}));
}

#[test]
fn long_texts_come_from_standard_input_or_a_file() {
    let world = World::agent("polecat");
    world.worker.gives(&format!("POST {}", rig("escalations")), &json!({"id": OTHER, "severity": "medium"}));
    world.run_with(&["escalate", "T", "--body", "-"], "line 1\nline 2").ok();
    assert_eq!(world.worker.last().json()["body"], "line 1\nline 2");

    world.worker.gives(&format!("POST {}", own("checkpoint")), &json!({"written": true}));
    std::fs::write(world.home.path().join("c.json"), "[1, 2]").unwrap();
    world.run(&["checkpoint", "--file", "c.json"]).ok();
    assert_eq!(world.worker.last().json(), json!({"data": [1, 2]}));
    assert!(world.run(&["checkpoint", "--file", "none"]).ends(2).err.contains("none: No such file"));
}

#[test]
fn a_refused_container_token_is_renewed_once_and_the_call_made_again() {
    let world = World::agent("polecat");
    let expired = Reply::refusal(401, "token_expired", "Token expired");
    world.worker.answer(&format!("POST {}", own("status")), &[expired.clone(), Reply::data(&json!({"ok": true}))]);
    let refresh = format!("POST /api/towns/{TOWN}/refresh-container-token");
    world.worker.gives(&refresh, &json!({"token": "new-token", "expiredInbound": true}));
    world.run(&["status", "x"]).ok();
    let tokens: Vec<_> =
        world.worker.requests().iter().map(|r| r.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(tokens, ["Bearer old-token", "Bearer old-token", "Bearer new-token"]);

    // And never more than once.
    let world = World::agent("polecat");
    world.worker.answer(&format!("POST {}", own("status")), &[expired]);
    world.worker.gives(&refresh, &json!({"token": "new-token"}));
    let ended = world.run(&["status", "x"]).ends(1);
    assert!(ended.err.contains("Token expired") && ended.err.contains("Stop here"), "{ended:?}");
    assert_eq!(world.worker.requests().len(), 3);
}

#[test]
fn an_agent_that_outlives_its_token_uses_the_one_that_its_container_was_given() {
    let mut world = World::agent("polecat");
    let file = world.home.path().join("token");
    std::fs::write(&file, "pushed\n").unwrap();
    world.set("GASTOWN_CONTAINER_TOKEN_FILE", file.to_str().unwrap());
    world.worker.gives(&format!("POST {}", own("status")), &json!({"ok": true}));
    world.run(&["status", "x"]).ok();
    assert_eq!(world.worker.last().header("authorization"), Some("Bearer pushed"));

    // One that is gone, or empty, is as none.
    for text in [Some(" "), None] {
        match text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        world.run(&["status", "x"]).ok();
        assert_eq!(world.worker.last().header("authorization"), Some("Bearer old-token"));
    }
}

#[test]
fn missing_variables_are_named_and_a_token_goes_nowhere_else() {
    let mut world = World::agent("polecat");
    world.unset("GASTOWN_API_URL").unset("GASTOWN_TOWN_ID");
    let ended = world.run(&["prime"]).ends(2);
    assert!(
        ended.err.contains("Missing required Gastown environment variables: GASTOWN_API_URL, GASTOWN_TOWN_ID"),
        "{ended:?}"
    );
    let world = World::agent("polecat");
    let elsewhere = world.run(&["prime", "--api", "https://elsewhere.example"]).ends(2);
    assert!(elsewhere.err.contains("an agent's token is for"), "{elsewhere:?}");
    assert!(world.worker.requests().is_empty());
}

#[test]
fn an_agent_reads_the_dispatch_of_its_town_too() {
    let world = World::agent("polecat");
    let data = json!({"bead_id": BEAD, "status": "open", "verdict": "waiting", "summary": "It waits.", "holds": [
        {"code": "blocked", "text": "Waits for 5555", "until": null, "lifts": "When that closes."}], "attempts":
        {"charged": 1, "free": 0, "cap": 5}, "last_attempts": []});
    world.worker.gives(&format!("GET /api/towns/{TOWN}/beads/{BEAD}/explain"), &data);
    let text = world.run(&["explain", BEAD]).ok().out;
    assert!(text.contains("It waits.") && text.contains("blocked") && text.contains("1 of 5 count"), "{text}");
}
