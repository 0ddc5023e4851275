//! What people's commands ask of the worker.

use crate::fake_worker::Reply;
use crate::world::{AGENT, BEAD, OTHER, RIG, TOWN, World};
use serde_json::{Value, json};

fn town(rest: &str) -> String {
    format!("/api/towns/{TOWN}/{rest}")
}

fn mayor(rest: &str) -> String {
    format!("/api/mayor/{TOWN}/tools/{rest}")
}

#[test]
#[allow(clippy::too_many_lines, reason = "one case per command; splitting the table would hide what is missing")]
fn every_command_of_people_asks_what_the_protocol_says() {
    let bead = json!({"bead_id": BEAD, "status": "open", "title": "Do it"});
    let breaker =
        json!({"scope": "town", "state": "open", "effective": "open", "failures_in_window": 3, "threshold": 20});
    let convoy = json!({"id": OTHER, "title": "Log in", "status": "active", "total_beads": 2, "closed_beads": 1});
    // Arguments, method and path with query, body, answer, a part of what is printed.
    let cases: Vec<(&[&str], String, Value, Value, &str)> = vec![
        (
            &[
                "sling",
                "Do it",
                "--body",
                "All",
                "--priority",
                "high",
                "--label",
                "a",
                "--after",
                BEAD,
                "--metadata",
                "{}",
            ],
            format!("POST {}", town(&format!("rigs/{RIG}/sling"))),
            json!({"title": "Do it", "body": "All", "priority": "high", "labels": ["a"], "depends_on": [BEAD], "metadata": {}}),
            json!({"bead": bead, "agent": {"name": "Toast"}}),
            "gt watch --bead 44444444-",
        ),
        (
            &["beads", "--status", "open", "--type", "issue", "--limit", "7"],
            format!("GET {}?status=open&type=issue&limit=7&offset=0", town(&format!("rigs/{RIG}/beads"))),
            Value::Null,
            json!([bead]),
            "44444444  open",
        ),
        (
            &["bead", "close", BEAD],
            format!("POST {}", town(&format!("rigs/{RIG}/beads/{BEAD}/close"))),
            json!({"agent_id": "user:alice"}),
            bead.clone(),
            "44444444 is open",
        ),
        (
            &["agents", "--status", "working"],
            format!("GET {}?status=working", town(&format!("rigs/{RIG}/agents"))),
            Value::Null,
            json!([{"id": AGENT, "name": "Toast", "role": "polecat", "status": "working"}]),
            "33333333  Toast",
        ),
        (
            &["explain", BEAD],
            format!("GET {}", town(&format!("beads/{BEAD}/explain"))),
            Value::Null,
            json!({"bead_id": BEAD, "verdict": "ready", "summary": "It is next."}),
            "It is next.",
        ),
        (
            &["attempts", BEAD, "--outcome", "failed"],
            format!("GET {}?outcome=failed&limit=20", town(&format!("beads/{BEAD}/attempts"))),
            Value::Null,
            json!({"attempts": [{"attempt_id": OTHER, "outcome": "failed", "code": "container.timeout"}], "next": null}),
            "container.timeout",
        ),
        (
            &["attempts", "--class", "infra", "--since", "2026-01-01T00:00:00Z", "--rig", RIG],
            format!("GET {}?class=infra&rig_id={RIG}&since=2026-01-01T00:00:00Z&limit=20", town("attempts")),
            Value::Null,
            json!({"attempts": [], "next": null}),
            "no attempts",
        ),
        (
            &["redrive", BEAD, "--reason", "again"],
            format!("POST {}", town(&format!("beads/{BEAD}/redrive"))),
            json!({"reason": "again"}),
            bead.clone(),
            "44444444 is open again",
        ),
        (
            &["redrive", "--fingerprint", "f1", "--reason", "again", "--limit", "5", "--dry-run"],
            format!("POST {}", town("redrive")),
            json!({"fingerprint": "f1", "reason": "again", "limit": 5, "dry_run": true}),
            json!({"matched": 9, "redriven": 0, "remaining": 9}),
            "9 failed by this cause, 0 redriven, 9 remaining",
        ),
        (
            &["cancel", BEAD, "--reason", "no"],
            format!("POST {}", town(&format!("beads/{BEAD}/cancel"))),
            json!({"reason": "no"}),
            bead.clone(),
            "cancelled",
        ),
        (
            &["breaker", "show"],
            format!("GET {}", town("breakers")),
            Value::Null,
            json!({"breakers": [breaker]}),
            "3 of 20",
        ),
        (
            &["breaker", "override", "rig:r1", "forced_open", "--reason", "deploy", "--for", "30m"],
            format!("PUT {}", town("breakers/rig:r1")),
            json!({"mode": "forced_open", "reason": "deploy", "expires_in_ms": 1_800_000}),
            breaker.clone(),
            "state     open",
        ),
        (
            &["breaker", "probe"],
            format!("POST {}", town("breakers/town/probe")),
            Value::Null,
            breaker,
            "a probe is asked for",
        ),
        (
            &["mail", "list", "--to", "mayor"],
            format!("GET {}?to=mayor&limit=50", town("mail")),
            Value::Null,
            json!({"mail": [{"id": OTHER, "subject": "Hello"}], "next": null}),
            "Hello",
        ),
        (
            &["mail", "send", "mayor", "--subject", "S", "B"],
            format!("POST {}", town(&format!("rigs/{RIG}/mail"))),
            json!({"from_agent_id": "user:alice", "to_agent_id": "mayor", "subject": "S", "body": "B"}),
            json!({"sent": true}),
            "sent",
        ),
        (
            &["nudge", AGENT, "Stop"],
            format!("POST {}", town(&format!("rigs/{RIG}/nudge"))),
            json!({"target_agent_id": AGENT, "message": "Stop"}),
            json!({"nudge_id": "n"}),
            "nudged",
        ),
        (
            &["escalations", "--open"],
            format!("GET {}?acknowledged=false", town("escalations")),
            Value::Null,
            json!([{"id": OTHER, "severity": "high", "acknowledged": 0, "message": "No access"}]),
            "55555555    high      open",
        ),
        (
            &["escalations", "ack", OTHER],
            format!("POST {}", town(&format!("escalations/{OTHER}/acknowledge"))),
            Value::Null,
            json!({"id": OTHER, "message": "No access"}),
            "acknowledged: No access",
        ),
        (
            &["mayor", "message", "Split it"],
            format!("POST {}", town("mayor/message")),
            json!({"message": "Split it"}),
            json!({"agentId": AGENT, "sessionStatus": "starting"}),
            "is being started",
        ),
        (
            &["mayor", "status"],
            format!("GET {}", town("mayor/status")),
            Value::Null,
            json!({"configured": true, "townId": TOWN, "session": null}),
            "the mayor sleeps",
        ),
        (&["convoy", "list"], format!("GET {}", mayor("convoys")), Value::Null, json!([convoy]), "active  1/2"),
        (
            &["convoy", "start", OTHER],
            format!("POST {}", mayor(&format!("convoys/{OTHER}/start"))),
            json!({}),
            json!({"convoy": convoy, "beads": [{}, {}]}),
            "Log in has started with 2 beads",
        ),
        (
            &["convoy", "close", OTHER],
            format!("POST {}", mayor(&format!("convoys/{OTHER}/close"))),
            Value::Null,
            convoy,
            "Log in is active",
        ),
        (
            &["convoy", "add", OTHER, BEAD, "--after", AGENT],
            format!("POST {}", mayor(&format!("convoys/{OTHER}/add-bead"))),
            json!({"bead_id": BEAD, "depends_on": [AGENT]}),
            json!({"total_beads": 3}),
            "3 beads",
        ),
        (
            &["convoy", "remove", OTHER, BEAD],
            format!("POST {}", mayor(&format!("convoys/{OTHER}/remove-bead"))),
            json!({"bead_id": BEAD}),
            json!({"total_beads": 2}),
            "2 beads",
        ),
        (
            &["towns", "create", "New"],
            "POST /api/users/alice/towns".to_owned(),
            json!({"name": "New"}),
            json!({"id": OTHER, "name": "New"}),
            "founded 55555555-",
        ),
        (
            &["rigs", "create", "site", "https://h/r.git", "--branch", "trunk"],
            "POST /api/users/alice/rigs".to_owned(),
            json!({"town_id": TOWN, "name": "site", "git_url": "https://h/r.git", "default_branch": "trunk"}),
            json!({"id": OTHER, "name": "site"}),
            "site is attached as 55555555-",
        ),
        (
            &["dispatch"],
            format!("GET {}", town("dispatch")),
            Value::Null,
            json!({"ready": 2, "running": 1, "breakers": [{"scope": "town", "state": "open", "effective": "closed"}], "holds":
                [{"code": "backoff", "beads": 4}], "in_flight": [], "failures": []}),
            "town open (obeyed: closed)",
        ),
    ];
    for (arguments, request, body, data, printed) in cases {
        let world = World::person();
        let route = request.split('?').next().unwrap();
        world.worker.gives(route, &data);
        let ended = world.run(arguments).ok();
        assert!(ended.out.contains(printed), "{arguments:?}: {ended:?}");
        assert!(world.worker.asked().contains(&request), "{arguments:?}: {:?}", world.worker.asked());
        assert_eq!(world.worker.last().json(), body, "{arguments:?}");
        assert_eq!(world.worker.last().header("x-gastown-agent-id"), None);
    }
}

#[test]
fn the_beginning_of_an_id_is_enough_where_it_fits_one() {
    let world = World::person();
    let beads =
        json!([{"bead_id": BEAD, "title": "One"}, {"bead_id": "4444ffff-4444-4444-8444-444444444444", "title": "Two"}]);
    world.worker.gives(&format!("GET {}", town(&format!("rigs/{RIG}/beads"))), &beads);
    world.worker.gives(&format!("GET {}", town(&format!("beads/{BEAD}/explain"))), &json!({"summary": "Found."}));
    assert!(world.run(&["explain", "44444444"]).ok().out.contains("Found."));
    assert!(world.worker.asked().contains(&format!("GET {}?limit=500&offset=0", town(&format!("rigs/{RIG}/beads")))));

    let several = world.run(&["explain", "4444"]).ends(2);
    assert!(several.err.contains("fits several beads") && several.err.contains("(Two)"), "{several:?}");
    assert!(world.run(&["explain", "abcd1234"]).ends(2).err.contains("no bead is called or begins with"));
    assert!(world.run(&["explain", "444"]).ends(2).err.contains("at least its first 4 characters"));
    assert!(world.run(&["explain", "../config"]).ends(2).err.contains("is no bead's id"));
}

#[test]
fn agents_and_convoys_are_found_by_name() {
    let world = World::person();
    let agents = json!([{"id": AGENT, "name": "Toast", "rig_id": RIG}, {"id": OTHER, "name": "Maple", "rig_id": RIG}]);
    world.worker.gives(&format!("GET {}", town(&format!("rigs/{RIG}/agents"))), &agents);
    world.worker.gives(&format!("POST {}", town(&format!("rigs/{RIG}/nudge"))), &json!({"nudge_id": "n"}));
    world.run(&["nudge", "Maple", "Hello"]).ok();
    assert_eq!(world.worker.last().json()["target_agent_id"], OTHER);

    world
        .worker
        .gives(&format!("POST {}", mayor(&format!("rigs/{RIG}/agents/{AGENT}/reset"))), &json!({"reset": true}));
    assert_eq!(world.run(&["agents", "reset", "Toast"]).ok().out, "Toast is reset\n");
    assert!(world.run(&["agents", "show", "Toast"]).ok().out.contains(AGENT));

    world.worker.gives(&format!("GET {}", mayor("convoys")), &json!([{"id": OTHER, "title": "Log in"}]));
    let detail = json!({"id": OTHER, "title": "Log in", "beads": [{"bead_id": BEAD, "title": "Form", "status": "open"},
        {"bead_id": AGENT, "title": "Schema", "status": "closed"}], "dependency_edges":
        [{"bead_id": BEAD, "depends_on_bead_id": AGENT}]});
    world.worker.gives(&format!("GET {}", mayor(&format!("convoys/{OTHER}"))), &detail);
    let text = world.run(&["convoy", "show", "Log in"]).ok().out;
    assert!(text.ends_with("33333333  closed  Schema\n  44444444  open  Form  <- 33333333\n"), "{text}");
}

#[test]
fn the_mayor_is_asked_for_where_only_an_id_will_do() {
    let world = World::person();
    world.worker.answer(
        &format!("GET {}", town("mayor-id")),
        &[
            Reply::of(200, &json!({"success": true, "agentId": OTHER, "model": null}).to_string()),
            Reply::of(200, &json!({"success": true, "agentId": null}).to_string()),
        ],
    );
    world.worker.gives(&format!("POST {}", town(&format!("rigs/{RIG}/nudge"))), &json!({"nudge_id": "n"}));
    world.run(&["nudge", "mayor", "Look"]).ok();
    assert_eq!(world.worker.last().json(), json!({"target_agent_id": OTHER, "message": "Look"}));
    assert!(world.run(&["nudge", "mayor", "Look"]).ends(2).err.contains("the town has no mayor yet"));
}

#[test]
fn with_several_rigs_a_bead_is_sought_in_each_and_work_needs_to_be_told_where() {
    let world = World::person();
    let rigs = json!([{"id": RIG, "name": "app"}, {"id": OTHER, "name": "site"}]);
    world.worker.gives(&format!("GET {}", mayor("rigs")), &rigs);
    world.worker.gives(
        &format!("GET {}", town(&format!("rigs/{OTHER}/beads/{BEAD}"))),
        &json!({"bead_id": BEAD, "title": "Here"}),
    );
    assert!(world.run(&["bead", "show", BEAD]).ok().out.contains("Here"), "the second rig has it");

    let ended = world.run(&["sling", "Do it"]).ends(2);
    assert!(ended.err.contains("there are several rigs") && ended.err.contains("--rig NAME"), "{ended:?}");
    world.worker.gives(&format!("POST {}", town(&format!("rigs/{OTHER}/sling"))), &json!({"bead": {}, "agent": {}}));
    world.run(&["sling", "Do it", "--rig", "site"]).ok();
    // Where the town does not look at the rig, nobody has to name one.
    world.worker.gives(&format!("POST {}", town(&format!("rigs/{RIG}/mail"))), &json!({"sent": true}));
    world.run(&["mail", "send", "mayor", "-s", "S", "B"]).ok();
}

#[test]
fn commands_of_agents_say_so_to_people() {
    let world = World::person();
    for arguments in [&["prime"][..], &["done", "--branch", "b"], &["mol", "current"], &["status", "x"]] {
        let ended = world.run(arguments).ends(2);
        assert!(ended.err.contains("for an agent in a town's container"), "{ended:?}");
    }
}
