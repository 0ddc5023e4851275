//! Tests of `request`: what each body may look like.

use super::*;
use crate::edge::{
    envelope::About,
    route::{self, Kind},
};
use serde_json::json;

const UUID: &str = "0b7f7d0a-3b1e-4c55-9d6e-2f1d8c6a5b40";

fn agent(id: &str) -> Actor {
    Actor::Container { agent_id: Some(id.into()), dispatch_id: None }
}
fn person() -> Actor {
    Actor::User { sub: "u".into() }
}
fn ask(actor: &Actor, method: &str, path: &str, body: &Json) -> Result<Command, Refusal> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let matched = route::find(method, path).unwrap_or_else(|| panic!("{method} {path}"));
    let body = Body::parse(body.to_string().as_bytes());
    command(&matched, &Query::parse(query), &body, actor).map(|c| c.unwrap())
}
fn refused(method: &str, path: &str, body: &Json) -> Vec<(&'static str, String)> {
    let e = ask(&Actor::Container { agent_id: None, dispatch_id: None }, method, path, body).unwrap_err();
    assert_eq!((e.status, e.code, e.message.as_str()), (400, "malformed", "Invalid request body"), "{method} {path}");
    e.issues.iter().map(|i| (i.code, i.path.clone())).collect()
}

#[test]
fn every_route_ends_somewhere() {
    // With no body at all, every route gives a command, a 400, a 403, or belongs to the registry, to an agent's store, to
    // the container or to a socket; none panics.
    for (kind, method, pattern, route) in route::TABLE {
        let matched = route::find(method, &pattern.replace(':', "x-")).unwrap();
        let got = command(&matched, &Query::default(), &Body::Empty, &agent("x-agent"));
        let containers = pattern.starts_with("/api/towns/:town/container/") || *route == Route::ContainerEvents;
        let store = matches!(
            route,
            Route::AppendEvents | Route::AgentEvents | Route::GetSnapshot | Route::PutSnapshot | Route::DeleteSnapshot
        );
        let ticket = matches!(route, Route::StatusTicket | Route::StreamTicket);
        let registry = matches!(kind, Kind::Public | Kind::Refresh | Kind::User) && *route != Route::TownEvents;
        let elsewhere = containers || registry || store || ticket || *kind == Kind::Socket;
        match got {
            Ok(c) => assert_eq!(c.is_none(), elsewhere, "{method} {pattern}"),
            Err(e) => assert!(matches!(e.status, 400 | 403) && !elsewhere, "{method} {pattern}"),
        }
    }
}

#[test]
fn a_sling_takes_what_the_wire_allows() {
    let body = json!({"title": "T", "body": "B", "priority": "high", "labels": ["x"], "metadata": {"k": 1},
        "depends_on": [UUID], "unknown": true});
    let command = ask(&person(), "POST", "/api/towns/t/rigs/r/sling", &body).unwrap();
    let Command::Sling { rig_id, bead } = command else { panic!("{command:?}") };
    assert_eq!((rig_id.as_str(), bead.title.as_str(), bead.depends_on.len()), ("r", "T", 1));
}

#[test]
fn a_wrong_type_never_reaches_the_town() {
    let wrong = [json!(1), json!(true), json!([]), json!({})];
    let routes = [
        ("POST", "/api/towns/t/rigs/r/sling", "title"),
        ("POST", "/api/towns/t/rigs/r/agents/a/hook", "bead_id"),
        ("POST", "/api/towns/t/rigs/r/agents/a/done", "branch"),
        ("POST", "/api/towns/t/rigs/r/agents/a/completed", "status"),
        ("POST", "/api/towns/t/rigs/r/agents/a/status", "message"),
        ("POST", "/api/towns/t/rigs/r/agents/get-or-create", "role"),
        ("POST", "/api/towns/t/rigs/r/escalations", "title"),
        ("POST", "/api/towns/t/rigs/r/review-queue/e/complete", "message"),
        ("POST", "/api/towns/t/beads/b/cancel", "reason"),
        ("PUT", "/api/towns/t/breakers/town", "mode"),
    ];
    for (method, path, key) in routes {
        for value in &wrong {
            let issues = refused(method, path, &json!({ key: value }));
            assert!(issues.iter().any(|(c, p)| *c == "invalid_type" && p == key), "{path} {value}: {issues:?}");
        }
    }
}

#[test]
fn an_unknown_word_is_a_400_that_lists_the_known_ones() {
    assert_eq!(
        refused("POST", "/api/towns/t/rigs/r/beads", &json!({"type": "epic", "title": "T", "priority": "urgent"})),
        [("invalid_value", "type".into()), ("invalid_value", "priority".into())]
    );
    assert_eq!(
        refused("POST", "/api/towns/t/rigs/r/review-queue/e/complete", &json!({"status": "done", "message": ""})),
        [("invalid_value", "status".to_owned())]
    );
    for (path, text) in [
        ("/api/towns/t/rigs/r/beads?status=x", "Invalid status or type filter"),
        ("/api/towns/t/rigs/r/beads?type=x", "Invalid status or type filter"),
        ("/api/towns/t/rigs/r/beads?limit=-1", "limit and offset must be non-negative integers"),
        ("/api/towns/t/rigs/r/beads?offset=x", "limit and offset must be non-negative integers"),
        ("/api/towns/t/rigs/r/agents?role=x", "Invalid role or status filter"),
        ("/api/towns/t/attempts?limit=501", "limit must be 1 to 500"),
    ] {
        let e = ask(&person(), "GET", path, &Json::Null).unwrap_err();
        assert_eq!((e.status, e.message.as_str()), (400, text), "{path}");
    }
}

#[test]
fn malformed_json_is_refused_even_where_no_body_is_needed() {
    let agents_own = "/api/towns/t/rigs/r/agents/a/done";
    for path in ["/api/towns/t/rigs/r/sling", agents_own, "/api/towns/t/beads/b/redrive"] {
        let matched = route::find("POST", path).unwrap();
        let e = command(&matched, &Query::default(), &Body::parse(b"{\"title\": "), &person()).unwrap_err();
        assert_eq!((e.status, e.issues[0].path.as_str()), (400, ""), "{path}");
    }
    assert!(ask(&agent("a"), "POST", agents_own, &Json::Null).is_ok());
}

#[test]
fn bodies_that_demand_uuids_get_uuids() {
    let issues = refused("POST", "/api/towns/t/rigs/r/sling", &json!({"title": "T", "depends_on": [UUID, "x"]}));
    assert_eq!(issues, [("invalid_format", "depends_on.1".to_owned())]);
}

#[test]
fn an_agent_speaks_for_itself_only() {
    let cases = [
        ("PATCH", "/api/towns/t/rigs/r/beads/b/status", json!({"status": "closed", "agent_id": "other"}), "agent_id"),
        ("POST", "/api/towns/t/rigs/r/beads/b/close", json!({"agent_id": "other"}), "agent_id"),
        (
            "POST",
            "/api/towns/t/rigs/r/review-queue",
            json!({"agent_id": "other", "bead_id": "b", "branch": "x"}),
            "agent_id",
        ),
        (
            "POST",
            "/api/towns/t/rigs/r/mail",
            json!({"from_agent_id": "other", "to_agent_id": "x", "subject": "s", "body": "b"}),
            "from_agent_id",
        ),
    ];
    for (method, path, body, key) in cases {
        let e = ask(&agent("me"), method, path, &body).unwrap_err();
        assert_eq!((e.status, e.message.clone()), (403, format!("{key} does not match authenticated agent")), "{path}");
        assert!(ask(&agent("other"), method, path, &body).is_ok(), "{path}");
        assert!(ask(&person(), method, path, &body).is_ok(), "{path}");
    }
}

#[test]
fn who_closes_a_bead_need_not_say_so_twice() {
    let path = "/api/towns/t/rigs/r/beads/b/close";
    let by = |c: Command| match c {
        Command::CloseBead { agent_id, .. } => agent_id,
        other => panic!("{other:?}"),
    };
    assert_eq!(by(ask(&agent("me"), "POST", path, &json!({})).unwrap()), "me");
    assert_eq!(by(ask(&agent("me"), "POST", path, &Json::Null).unwrap()), "me");
    assert_eq!(by(ask(&person(), "POST", path, &json!({"agent_id": "x"})).unwrap()), "x");
    assert_eq!(refused("POST", path, &json!({})), [("invalid_type", "agent_id".to_owned())]);
}

#[test]
fn of_agents_only_a_named_one_may_ask_for_a_redrive() {
    let nobody = Actor::Container { agent_id: None, dispatch_id: None };
    let path = "/api/towns/t/beads/b/redrive";
    assert_eq!(ask(&nobody, "POST", path, &Json::Null).unwrap_err().status, 403);
    assert!(ask(&agent("mayor"), "POST", path, &Json::Null).is_ok());
    assert!(ask(&person(), "POST", path, &json!({"reason": "again"})).is_ok());
}

#[test]
fn a_heartbeat_is_never_refused_for_its_body() {
    for body in [Json::Null, json!([]), json!({"status": 7, "activeTools": ["a", 1]})] {
        assert!(ask(&agent("a"), "POST", "/api/towns/t/rigs/r/agents/a/heartbeat", &body).is_ok());
    }
    let many: Vec<Json> = (0..501).map(|_| json!({"agentId": "a"})).collect();
    let e = ask(&agent("a"), "POST", "/api/towns/t/heartbeats", &json!({"agents": many})).unwrap_err();
    assert_eq!((e.status, e.about.clone()), (422, About::Field("agents".into())));
    assert_eq!(refused("POST", "/api/towns/t/heartbeats", &json!({})), [("invalid_type", "agents".to_owned())]);
}

#[test]
fn a_patch_needs_something_to_change_and_tells_null_from_absent() {
    let path = "/api/mayor/t/tools/rigs/r/beads/b";
    assert_eq!(refused("PATCH", path, &json!({"color": "red"}))[0].0, "too_small");
    let Command::UpdateBead { patch, .. } = ask(&person(), "PATCH", path, &json!({"body": null})).unwrap() else {
        panic!("not an update")
    };
    assert_eq!((patch.body, patch.rig_id), (Some(None), None));
}

#[test]
fn a_status_message_is_trimmed_and_at_most_280_characters_long() {
    let path = "/api/towns/t/rigs/r/agents/a/status";
    assert_eq!(refused("POST", path, &json!({"message": "  "})), [("too_small", "message".to_owned())]);
    assert_eq!(refused("POST", path, &json!({"message": "ä".repeat(281)})), [("too_big", "message".to_owned())]);
    assert!(ask(&agent("a"), "POST", path, &json!({"message": "ä".repeat(280)})).is_ok());
}

#[test]
fn a_container_that_is_ready_must_say_its_nonce() {
    let e = ask(&agent("a"), "POST", "/api/towns/t/container-ready", &json!({"nonce": ""})).unwrap_err();
    assert_eq!((e.status, e.message.as_str()), (400, "Missing required field: nonce"));
}
