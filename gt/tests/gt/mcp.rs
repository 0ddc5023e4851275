//! `gt mcp`: a real session over standard input and output.

use crate::{
    fake_worker::Reply,
    world::{AGENT, BEAD, OTHER, RIG, TOWN, World},
};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

const RIG_TOOLS: [&str; 14] = [
    "gt_prime",
    "gt_done",
    "gt_request_changes",
    "gt_checkpoint",
    "gt_status",
    "gt_mail_check",
    "gt_mail_send",
    "gt_bead_status",
    "gt_bead_close",
    "gt_escalate",
    "gt_nudge",
    "gt_triage_resolve",
    "gt_mol_current",
    "gt_mol_advance",
];
const MAYOR_TOOLS: [&str; 18] = [
    "gt_sling",
    "gt_sling_batch",
    "gt_list_rigs",
    "gt_list_beads",
    "gt_list_agents",
    "gt_list_convoys",
    "gt_convoy_status",
    "gt_convoy_start",
    "gt_convoy_close",
    "gt_convoy_update",
    "gt_mail_send",
    "gt_bead_update",
    "gt_bead_reassign",
    "gt_bead_delete",
    "gt_agent_reset",
    "gt_escalation_acknowledge",
    "gt_ui_action",
    "gt_nudge",
];

/// A client of the protocol, as simple as it gets.
struct Session {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    next: u64,
}

impl Session {
    /// Starts the program and shakes hands.
    fn open(world: &World) -> (Self, Value) {
        let mut command = world.command(&["mcp"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut session = Self { child, to, from, next: 0 };
        let client = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let hello = session.ask("initialize", &client);
        session.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        (session, hello["result"].clone())
    }

    fn say(&mut self, message: &Value) {
        let to = self.to.as_mut().unwrap();
        writeln!(to, "{message}").unwrap();
        to.flush().unwrap();
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        self.say(&json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params}));
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{method}: {error}: {line:?}"));
        assert_eq!(answer["id"], self.next, "{answer}");
        answer
    }

    /// Calls a tool: whether it went well, and its text.
    fn call(&mut self, tool: &str, arguments: &Value) -> (bool, String) {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        let result = &answer["result"];
        assert_eq!(result["content"][0]["type"], "text", "{answer}");
        (result["isError"] != json!(true), result["content"][0]["text"].as_str().unwrap().to_owned())
    }

    fn tools(&mut self) -> Vec<Value> {
        self.ask("tools/list", &json!({}))["result"]["tools"].as_array().unwrap().clone()
    }

    /// Hangs up; the program must end well by itself.
    fn close(mut self) {
        drop(self.to.take());
        assert!(self.child.wait().unwrap().success());
    }
}

fn names(tools: &[Value]) -> Vec<&str> {
    tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

fn sorted<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

#[test]
fn an_agent_gets_the_tools_of_its_role_with_schemas_that_say_what_is_needed() {
    let world = World::agent("polecat");
    let (mut session, hello) = Session::open(&world);
    assert_eq!(hello["serverInfo"]["name"], "gastown");
    assert!(hello["instructions"].as_str().unwrap().contains("Begin with gt_prime"));
    assert!(hello["capabilities"]["tools"].is_object());
    let tools = session.tools();
    assert_eq!(sorted(&names(&tools)), sorted(&RIG_TOOLS));
    for tool in &tools {
        assert!(tool["description"].as_str().unwrap().len() > 20, "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object");
        for (name, field) in tool["inputSchema"]["properties"].as_object().unwrap() {
            assert!(field["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name} of {tool}");
        }
    }
    let send = tools.iter().find(|tool| tool["name"] == "gt_mail_send").unwrap();
    assert_eq!(send["inputSchema"]["required"], json!(["to_agent_id", "subject", "body"]));
    assert_eq!(send["annotations"]["readOnlyHint"], json!(false));
    session.close();
    assert!(world.worker.requests().is_empty(), "listing asks nobody");
}

#[test]
fn the_mayor_and_a_person_who_logged_in_get_the_mayors_tools() {
    for world in [World::agent("mayor"), World::person()] {
        let (mut session, _) = Session::open(&world);
        assert_eq!(sorted(&names(&session.tools())), sorted(&MAYOR_TOOLS));
        session.close();
    }
}

#[test]
fn a_tool_does_what_the_command_does() {
    let world = World::agent("polecat");
    let own = |rest: &str| format!("/api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/{rest}");
    let rig = |rest: &str| format!("/api/towns/{TOWN}/rigs/{RIG}/{rest}");
    let (mut session, _) = Session::open(&world);
    let cases = [
        ("gt_prime", json!({}), format!("GET {}", own("prime")), Value::Null),
        (
            "gt_done",
            json!({"branch": "b", "summary": "s", "invented": 1}),
            format!("POST {}", own("done")),
            json!({"branch": "b", "summary": "s"}),
        ),
        (
            "gt_done",
            json!({"no_changes": true, "pr_url": null, "summary": ""}),
            format!("POST {}", own("done")),
            json!({}),
        ),
        (
            "gt_request_changes",
            json!({"feedback": "f", "files": ["a"]}),
            format!("POST {}", own("request-changes")),
            json!({"feedback": "f", "files": ["a"]}),
        ),
        (
            "gt_checkpoint",
            json!({"data": {"a": [1]}}),
            format!("POST {}", own("checkpoint")),
            json!({"data": {"a": [1]}}),
        ),
        ("gt_checkpoint", json!({"data": null}), format!("POST {}", own("checkpoint")), json!({"data": null})),
        ("gt_status", json!({"message": "m"}), format!("POST {}", own("status")), json!({"message": "m"})),
        ("gt_mail_check", json!({}), format!("GET {}", own("mail")), Value::Null),
        (
            "gt_mail_send",
            json!({"to_agent_id": OTHER, "subject": "s", "body": "b"}),
            format!("POST {}", rig("mail")),
            json!({"from_agent_id": AGENT, "to_agent_id": OTHER, "subject": "s", "body": "b"}),
        ),
        ("gt_bead_status", json!({"bead_id": BEAD}), format!("GET {}", rig(&format!("beads/{BEAD}"))), Value::Null),
        (
            "gt_bead_close",
            json!({"bead_id": BEAD}),
            format!("POST {}", rig(&format!("beads/{BEAD}/close"))),
            json!({"agent_id": AGENT}),
        ),
        (
            "gt_escalate",
            json!({"title": "t", "priority": "high"}),
            format!("POST {}", rig("escalations")),
            json!({"title": "t", "priority": "high"}),
        ),
        (
            "gt_nudge",
            json!({"target_agent_id": OTHER, "message": "m"}),
            format!("POST {}", rig("nudge")),
            json!({"target_agent_id": OTHER, "message": "m"}),
        ),
        (
            "gt_triage_resolve",
            json!({"triage_request_bead_id": BEAD, "action": "close", "resolution_notes": ""}),
            format!("POST {}", rig("triage/resolve")),
            json!({"triage_request_bead_id": BEAD, "action": "close", "resolution_notes": ""}),
        ),
        ("gt_mol_current", json!({}), format!("GET {}", own("molecule/current")), Value::Null),
        (
            "gt_mol_advance",
            json!({"summary": "s"}),
            format!("POST {}", own("molecule/advance")),
            json!({"summary": "s"}),
        ),
    ];
    for (tool, arguments, route, body) in cases {
        world.worker.gives(&route, &json!({"answer": tool}));
        let (well, text) = session.call(tool, &arguments);
        assert!(well, "{tool}: {text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"answer": tool}));
        let asked = world.worker.last();
        assert_eq!((format!("{} {}", asked.method, asked.path), asked.json()), (route, body), "{tool}");
        assert_eq!(asked.header("x-gastown-agent-id"), Some(AGENT));
    }
    session.close();
}

#[test]
fn the_mayors_tools_speak_to_the_mayors_routes() {
    let world = World::agent("mayor");
    let base = format!("/api/mayor/{TOWN}/tools");
    let rig = format!("{base}/rigs/{RIG}");
    let (mut session, _) = Session::open(&world);
    let task = json!([{"title": "a"}, {"title": "b", "depends_on": [0]}]);
    let cases = [
        (
            "gt_sling",
            json!({"rig_id": RIG, "title": "t", "labels": ["x"]}),
            format!("POST {base}/sling"),
            json!({"rig_id": RIG, "title": "t", "labels": ["x"]}),
        ),
        (
            "gt_sling_batch",
            json!({"rig_id": RIG, "convoy_title": "c", "tasks": task, "staged": true}),
            format!("POST {base}/sling-batch"),
            json!({"rig_id": RIG, "convoy_title": "c", "tasks": task, "staged": true}),
        ),
        ("gt_list_rigs", json!({}), format!("GET {base}/rigs"), Value::Null),
        (
            "gt_list_beads",
            json!({"rig_id": RIG, "status": "open", "limit": 5}),
            format!("GET {rig}/beads?status=open&limit=5"),
            Value::Null,
        ),
        ("gt_list_agents", json!({"rig_id": RIG}), format!("GET {rig}/agents"), Value::Null),
        ("gt_list_convoys", json!({}), format!("GET {base}/convoys"), Value::Null),
        ("gt_convoy_status", json!({"convoy_id": OTHER}), format!("GET {base}/convoys/{OTHER}"), Value::Null),
        ("gt_convoy_start", json!({"convoy_id": OTHER}), format!("POST {base}/convoys/{OTHER}/start"), json!({})),
        ("gt_convoy_close", json!({"convoy_id": OTHER}), format!("POST {base}/convoys/{OTHER}/close"), Value::Null),
        (
            "gt_convoy_update",
            json!({"convoy_id": OTHER, "merge_mode": "review-and-merge"}),
            format!("PATCH {base}/convoys/{OTHER}"),
            json!({"merge_mode": "review-and-merge"}),
        ),
        (
            "gt_mail_send",
            json!({"rig_id": RIG, "to_agent_id": OTHER, "subject": "s", "body": "b"}),
            format!("POST {base}/mail"),
            json!({"rig_id": RIG, "to_agent_id": OTHER, "subject": "s", "body": "b", "from_agent_id": AGENT}),
        ),
        (
            "gt_bead_update",
            json!({"rig_id": RIG, "bead_id": BEAD, "body": null, "priority": "low", "new_rig_id": OTHER}),
            format!("PATCH {rig}/beads/{BEAD}"),
            json!({"body": null, "priority": "low", "rig_id": OTHER}),
        ),
        (
            "gt_bead_reassign",
            json!({"rig_id": RIG, "bead_id": BEAD, "agent_id": OTHER}),
            format!("POST {rig}/beads/{BEAD}/reassign"),
            json!({"agent_id": OTHER}),
        ),
        ("gt_bead_delete", json!({"rig_id": RIG, "bead_id": BEAD}), format!("DELETE {rig}/beads/{BEAD}"), Value::Null),
        (
            "gt_bead_delete",
            json!({"rig_id": RIG, "bead_ids": [BEAD, OTHER]}),
            format!("POST {rig}/beads/bulk-delete"),
            json!({"bead_ids": [BEAD, OTHER]}),
        ),
        (
            "gt_agent_reset",
            json!({"rig_id": RIG, "agent_id": OTHER}),
            format!("POST {rig}/agents/{OTHER}/reset"),
            Value::Null,
        ),
        (
            "gt_escalation_acknowledge",
            json!({"escalation_id": OTHER}),
            format!("POST {base}/escalations/{OTHER}/acknowledge"),
            Value::Null,
        ),
        (
            "gt_ui_action",
            json!({"action": {"type": "navigate", "page": "beads"}}),
            format!("POST {base}/ui-action"),
            json!({"action": {"type": "navigate", "page": "beads"}}),
        ),
    ];
    for (tool, arguments, request, body) in cases {
        world.worker.gives(request.split('?').next().unwrap(), &json!({"answer": tool}));
        let (well, text) = session.call(tool, &arguments);
        assert!(well, "{tool}: {text}");
        let asked = world.worker.last();
        assert_eq!((format!("{} {}", asked.method, asked.path), asked.json()), (request, body), "{tool}");
    }
    // A rig by its name, as people say it.
    world
        .worker
        .gives(&format!("GET {base}/rigs"), &json!([{"id": RIG, "name": "app"}, {"id": OTHER, "name": "site"}]));
    assert!(session.call("gt_sling", &json!({"rig_id": "app", "title": "t"})).0);
    assert_eq!(world.worker.last().json()["rig_id"], RIG);
    session.close();
}

#[test]
fn whatever_goes_wrong_is_the_tools_error_and_the_session_goes_on() {
    let world = World::agent("polecat");
    let (mut session, _) = Session::open(&world);
    let done = format!("POST /api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/done");
    let status = format!("POST /api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/status");
    world.worker.answer(&done, &[Reply::refusal(409, "conflict", "Your attempt has ended")]);
    let (well, text) = session.call("gt_done", &json!({"branch": "b"}));
    assert!(!well && text.contains("Your attempt has ended (HTTP 409)"), "{text}");

    let before = world.worker.requests().len();
    for (tool, arguments, said) in [
        ("gt_status", json!({}), "message is missing: a text"),
        ("gt_status", json!({"message": 7}), "message must be a text"),
        ("gt_status", json!({"message": " "}), "message must be a text"),
        ("gt_done", json!({}), "no branch is named"),
        ("gt_mail_send", json!({"to_agent_id": "x"}), "subject is missing: a text; body is missing: a text"),
        ("gt_fly", json!({}), "no tool is called gt_fly; there are gt_prime"),
        ("gt_escalate", json!({"title": "t", "metadata": "no"}), "metadata must be an object"),
    ] {
        let (well, text) = session.call(tool, &arguments);
        assert!(!well && text.contains(said), "{tool}: {text}");
    }
    assert_eq!(world.worker.requests().len(), before, "nothing of that was sent");

    world.worker.answer(&status, &[Reply::of(502, "Bad gateway")]);
    let (well, text) = session.call("gt_status", &json!({"message": "m"}));
    assert!(!well && text.contains("Bad gateway"), "{text}");
    world.worker.gives(&status, &json!({"ok": true}));
    assert!(session.call("gt_status", &json!({"message": "m"})).0);
    session.close();
}

#[test]
fn what_is_no_message_does_not_end_the_session() {
    let world = World::agent("polecat");
    let (mut session, _) = Session::open(&world);
    for line in ["no json", "{\"jsonrpc\": \"2.0\"", "[]", ""] {
        writeln!(session.to.as_mut().unwrap(), "{line}").unwrap();
    }
    let mut answers = 0;
    session.say(&json!({"jsonrpc": "2.0", "id": "last", "method": "ping"}));
    loop {
        let mut line = String::new();
        assert_ne!(session.from.read_line(&mut line).unwrap(), 0, "the session ended after {answers} answers");
        let answer: Value = serde_json::from_str(&line).unwrap();
        if answer["id"] == "last" {
            break;
        }
        assert!(answer["error"].is_object(), "{answer}");
        answers += 1;
    }
    session.close();
}

#[test]
fn a_token_renewed_in_a_session_is_kept() {
    let world = World::agent("polecat");
    let status = format!("POST /api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/status");
    let expired = Reply::refusal(401, "token_expired", "Token expired");
    world.worker.answer(&status, &[expired, Reply::data(&json!({"ok": true}))]);
    world.worker.gives(&format!("POST /api/towns/{TOWN}/refresh-container-token"), &json!({"token": "new"}));
    let (mut session, _) = Session::open(&world);
    assert!(session.call("gt_status", &json!({"message": "1"})).0);
    assert!(session.call("gt_status", &json!({"message": "2"})).0);
    assert_eq!(world.worker.requests().len(), 4);
    assert_eq!(world.worker.last().header("authorization"), Some("Bearer new"));
    session.close();
}

#[test]
fn a_session_of_days_takes_a_pushed_token_before_it_asks_for_one() {
    let mut world = World::agent("polecat");
    let file = world.home.path().join("token");
    world.set("GASTOWN_CONTAINER_TOKEN_FILE", file.to_str().unwrap());
    let status = format!("POST /api/towns/{TOWN}/rigs/{RIG}/agents/{AGENT}/status");
    let (well, expired) = (Reply::data(&json!({"ok": true})), Reply::refusal(401, "token_expired", "Token expired"));
    world.worker.answer(&status, &[well.clone(), expired, well]);
    let (mut session, _) = Session::open(&world);
    assert!(session.call("gt_status", &json!({"message": "1"})).0);
    std::fs::write(&file, "pushed").unwrap();
    assert!(session.call("gt_status", &json!({"message": "2"})).0);
    let tokens: Vec<_> =
        world.worker.requests().iter().map(|r| r.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(tokens, ["Bearer old-token", "Bearer old-token", "Bearer pushed"]);
    session.close();
}

#[test]
fn without_its_variables_it_says_so_and_ends() {
    let mut world = World::agent("polecat");
    world.unset("GASTOWN_CONTAINER_TOKEN");
    let ended = world.run(&["mcp"]).ends(2);
    assert!(ended.err.contains("Missing required Gastown environment variables: GASTOWN_CONTAINER_TOKEN"), "{ended:?}");
    assert_eq!(ended.out, "", "standard output is the protocol's");
}
