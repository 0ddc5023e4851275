//! Tests of `auth`: who gets in where.

use super::*;
use crate::edge::route;
use serde_json::json;

const SECRET: &str = "a-secret-of-tests";
const NOW: Timestamp = Timestamp(1_800_000_000_000);
const S: i64 = 1_800_000_000;
const LIVE: Policy<'_> = Policy { secret: Some(SECRET), environment: "production", auth: "", internal_secret: None };
const RIG: &str = "/api/towns/t/rigs/r/beads";
const AGENT: &str = "/api/towns/t/rigs/r/agents/a/prime";
const CONFIG: &str = "/api/towns/t/config";

fn user(sub: &str) -> String {
    bearer_of(&json!({"sub": sub, "scope": "user", "iat": S, "exp": S + 60}))
}
fn operator() -> String {
    bearer_of(&json!({"sub": "op", "scope": "operator", "iat": S, "exp": S + 60}))
}
fn of_town(town: &str) -> String {
    bearer_of(&json!({"townId": town, "userId": "u", "scope": "container", "iat": S, "exp": S + 60}))
}
fn legacy(agent: &str, rig: &str, town: &str) -> String {
    bearer_of(&json!({"agentId": agent, "rigId": rig, "townId": town, "userId": "u", "iat": S, "exp": S + 60}))
}
fn bearer_of(claims: &serde_json::Value) -> String {
    format!("Bearer {}", token::sign(claims, SECRET))
}
fn at(method: &str, path: &str) -> Matched {
    route::find(method, path).unwrap_or_else(|| panic!("{method} {path}"))
}
fn try_in(method: &str, path: &str, authorization: &str, agent: &str) -> Result<Admitted, Refusal> {
    let caller = Credentials {
        authorization: Some(authorization),
        agent_id: Some(agent),
        dispatch_id: Some("d1"),
        ..Credentials::default()
    };
    admit(&at(method, path), caller, LIVE, NOW)
}
fn text(r: Result<Admitted, Refusal>) -> (u16, String) {
    let e = r.unwrap_err();
    (e.status, e.message.clone())
}

#[test]
fn without_a_secret_nobody_gets_in_not_even_with_auth_off() {
    for secret in [None, Some(""), Some("  ")] {
        let policy = Policy { secret, environment: "development", auth: "off", internal_secret: None };
        for (_, method, pattern, _) in route::TABLE {
            let e = admit(&at(method, &pattern.replace(':', "x-")), Credentials::default(), policy, NOW);
            assert_eq!(e.unwrap_err().status, 503, "{method} {pattern}");
        }
    }
}

#[test]
fn without_a_token_every_route_is_401() {
    for (kind, method, pattern, _) in route::TABLE {
        let e = admit(&at(method, &pattern.replace(':', "x-")), Credentials::default(), LIVE, NOW);
        let wanted = if *kind == Kind::Internal { "Unauthorized" } else { "Authentication required" };
        assert_eq!(text(e), (401, wanted.into()), "{method} {pattern}");
    }
    assert_eq!(text(try_in("GET", RIG, "Basic abc", "")), (401, "Authentication required".into()));
    assert_eq!(text(try_in("GET", RIG, "Bearer ", "")), (401, "Authentication required".into()));
}

#[test]
fn environment_alone_turns_nothing_off_and_neither_does_auth_alone() {
    for (environment, auth) in [("development", ""), ("production", "off"), ("development", "on")] {
        let policy = Policy { secret: Some(SECRET), environment, auth, internal_secret: None };
        assert!(admit(&at("GET", CONFIG), Credentials::default(), policy, NOW).is_err());
    }
    let off = Policy { secret: Some(SECRET), environment: "development", auth: "off", internal_secret: None };
    let got = admit(&at("GET", CONFIG), Credentials::default(), off, NOW).unwrap();
    assert_eq!(got.actor.label(), "operator:development");
}

#[test]
fn with_auth_off_the_agent_is_the_headers_and_the_user_is_the_paths() {
    let off = Policy { secret: Some(SECRET), environment: "development", auth: "off", internal_secret: None };
    let header = Credentials { agent_id: Some("a9"), ..Credentials::default() };
    let got = admit(&at("GET", RIG), header, off, NOW).unwrap();
    assert_eq!(got.actor.agent().unwrap().as_str(), "a9");
    let got = admit(&at("GET", "/api/users/ann/towns"), header, off, NOW).unwrap();
    assert_eq!(got.actor.label(), "user:ann");
    let got = admit(&at("PUT", "/api/towns/t/breakers/town"), header, off, NOW).unwrap();
    assert_eq!(got.actor.label(), "operator:development", "a person's route is never an agent's");
}

#[test]
fn an_internal_route_opens_for_its_own_secret_only_and_for_nobody_where_there_is_none() {
    const INTERNAL: &str = "/api/internal/towns/t/mayor/message";
    let try_in = |configured: Option<&'static str>, given: Option<&'static str>, auth: &'static str| {
        let bearer = operator();
        let policy = Policy { secret: Some(SECRET), environment: "development", auth, internal_secret: configured };
        let caller = Credentials { authorization: Some(&bearer), internal_secret: given, ..Credentials::default() };
        admit(&at("POST", INTERNAL), caller, policy, NOW)
    };
    let got = try_in(Some("s3cret"), Some("s3cret"), "").unwrap();
    assert_eq!((got.actor.label().as_str(), got.ownership), ("operator:internal", Ownership::Exists));
    for (configured, given) in [
        (Some("s3cret"), None),
        (Some("s3cret"), Some("")),
        (Some("s3cret"), Some("s3cret ")),
        (Some("s3cret"), Some("S3cret")),
        (None, Some("s3cret")),
        (None, None),
        (Some(""), Some("")),
        (Some(" "), Some(" ")),
    ] {
        for auth in ["", "off"] {
            assert_eq!(text(try_in(configured, given, auth)), (401, "Unauthorized".into()), "{configured:?} {given:?}");
        }
    }
}

#[test]
fn a_user_must_be_the_one_in_the_path_and_an_operator_need_not() {
    assert_eq!(text(try_in("GET", "/api/users/bob/towns", &user("ann"), "")), (403, "Forbidden".into()));
    assert!(try_in("GET", "/api/users/ann/towns", &user("ann"), "").is_ok());
    assert!(try_in("GET", "/api/users/bob/towns", &operator(), "").is_ok());
}

#[test]
fn a_user_must_own_the_town_and_an_operator_only_needs_it_to_exist() {
    let row = |owner: &str| TownRow {
        id: "t".into(),
        name: "n".into(),
        owner_user_id: owner.into(),
        created_at: String::new(),
        updated_at: String::new(),
    };
    for path in [CONFIG, RIG, "/debug/towns/t/status", "/api/mayor/t/tools/rigs", "/api/towns/t/dispatch"] {
        let mine = try_in("GET", path, &user("ann"), "").unwrap().ownership;
        assert_eq!(mine.check(Some(&row("ann"))), Ok(()), "{path}");
        assert_eq!(mine.check(Some(&row("bob"))).unwrap_err().message, "Forbidden", "{path}");
        assert_eq!(mine.check(None).unwrap_err().message, "Town not found", "{path}");
        let any = try_in("GET", path, &operator(), "").unwrap().ownership;
        assert_eq!(any.check(Some(&row("bob"))), Ok(()), "{path}");
        assert_eq!(any.check(None).unwrap_err().status, 404, "{path}");
    }
}

#[test]
fn a_containers_town_is_its_tokens_and_no_other() {
    assert!(try_in("GET", RIG, &of_town("t"), "").is_ok());
    assert_eq!(text(try_in("GET", RIG, &of_town("t2"), "")), (403, "Cross-town access denied".into()));
    assert_eq!(
        text(try_in("GET", "/api/mayor/t/tools/rigs", &of_town("t2"), "")),
        (403, "Token townId does not match route".into())
    );
    assert_eq!(
        text(try_in("POST", "/api/towns/t/container-eviction", &of_town("t2"), "")),
        (403, "Cross-town access denied".into())
    );
}

#[test]
fn a_persons_routes_are_closed_to_containers() {
    for (kind, method, pattern, _) in route::TABLE {
        if matches!(kind, Kind::User | Kind::Town) {
            let path = pattern.replace(":town", "t").replace(":user", "u").replace(':', "x-");
            for token in [of_town("t"), legacy("a", "r", "t")] {
                assert_eq!(try_in(method, &path, &token, "a").unwrap_err().status, 403, "{method} {pattern}");
            }
        }
    }
}

#[test]
fn a_containers_routes_are_closed_to_people() {
    for path in ["/api/towns/t/container-eviction", "/api/towns/t/container-ready", "/api/towns/t/heartbeats"] {
        for token in [operator(), user("u")] {
            assert_eq!(try_in("POST", path, &token, "").unwrap_err().status, 403, "{path}");
        }
    }
}

#[test]
fn a_container_may_read_why_a_bead_waits() {
    for path in ["/api/towns/t/dispatch", "/api/towns/t/attempts", "/api/towns/t/beads/b/explain"] {
        assert!(try_in("GET", path, &of_town("t"), "").is_ok(), "{path}");
    }
}

#[test]
fn the_header_must_name_the_routes_agent_or_nobody() {
    assert_eq!(text(try_in("GET", AGENT, &of_town("t"), "b")), (403, "Token agentId does not match route".into()));
    for header in ["a", ""] {
        let got = try_in("GET", AGENT, &of_town("t"), header).unwrap().actor;
        assert_eq!((got.agent().unwrap().as_str(), got.dispatch()), ("a", Some("d1")), "{header}");
    }
    // A, not A+: the agent in the path is somebody else's business.
    let other = try_in("GET", "/api/towns/t/rigs/r/agents/a", &of_town("t"), "b").unwrap().actor;
    assert_eq!(other.agent().unwrap().as_str(), "b");
}

#[test]
fn a_legacy_agent_is_who_its_token_says_whatever_its_headers_say() {
    for path in [AGENT, RIG, "/api/mayor/t/tools/rigs", "/api/towns/t/dispatch"] {
        let got = try_in("GET", path, &legacy("a", "r", "t"), "b").unwrap();
        let (actor, ownership) = (got.actor, got.ownership);
        assert_eq!((actor.agent().unwrap().as_str(), actor.dispatch()), ("a", Some("d1")), "{path}");
        assert_eq!(ownership, Ownership::Settled, "{path}");
    }
}

#[test]
fn a_legacy_agent_is_held_to_its_rig_then_its_town_then_itself() {
    let refused = |path: &str, token: String| {
        let (status, message) = text(try_in("GET", path, &token, ""));
        assert_eq!(status, 403, "{path}: {message}");
        message
    };
    assert_eq!(refused(AGENT, legacy("b", "r2", "t2")), "Token rigId does not match route");
    assert_eq!(refused(AGENT, legacy("b", "r", "t2")), "Cross-town access denied");
    assert_eq!(refused(AGENT, legacy("b", "r", "t")), "Token agentId does not match route");
    assert_eq!(refused(RIG, legacy("b", "r2", "t")), "Token rigId does not match route");
    // The mayor's tools are the town's; its rig is `mayor-<town>` (M). At a rig's own route that is another rig.
    assert_eq!(refused("/api/mayor/t/tools/rigs", legacy("m", "mayor-t", "t2")), "Token townId does not match route");
    assert!(try_in("GET", "/api/mayor/t/tools/rigs", &legacy("m", "mayor-t", "t"), "").is_ok());
    assert!(try_in("PATCH", "/api/mayor/t/tools/rigs/r/beads/b", &legacy("m", "mayor-t", "t"), "").is_ok());
    assert_eq!(refused(RIG, legacy("m", "mayor-t", "t")), "Token rigId does not match route");
}

#[test]
fn a_header_that_is_no_id_is_refused() {
    assert_eq!(try_in("GET", RIG, &of_town("t"), &"x".repeat(129)).unwrap_err().status, 400);
    assert_eq!(try_in("GET", RIG, &of_town("t"), "a b").unwrap_err().status, 400);
}

#[test]
fn a_body_must_not_speak_for_another_agent() {
    let actor = |agent_id: Option<&str>| Actor::Container { agent_id: agent_id.map(Into::into), dispatch_id: None };
    assert_eq!(
        speaks_for(&actor(Some("a")), "from_agent_id", "b").unwrap_err().message,
        "from_agent_id does not match authenticated agent"
    );
    assert!(speaks_for(&actor(Some("a")), "agent_id", "a").is_ok());
    assert!(speaks_for(&actor(None), "agent_id", "b").is_ok());
    assert!(speaks_for(&Actor::User { sub: "u".into() }, "agent_id", "b").is_ok());
}

#[test]
fn the_words_of_a_refusal_are_the_predecessors() {
    let expired = bearer_of(&json!({"townId": "t", "userId": "u", "scope": "container", "iat": S - 9, "exp": S}));
    let half = bearer_of(&json!({"agentId": "a", "townId": "t", "userId": "u", "iat": S, "exp": S + 9}));
    let old = bearer_of(&json!({"agentId": "a", "rigId": "r", "townId": "t", "userId": "u", "iat": S - 9, "exp": S}));
    assert_eq!(text(try_in("GET", RIG, &expired, "")), (401, "Token expired".into()));
    assert_eq!(text(try_in("GET", CONFIG, &expired, "")), (401, "Invalid token".into()));
    assert_eq!(text(try_in("GET", RIG, &half, "")), (401, "Invalid token payload".into()));
    assert_eq!(text(try_in("GET", RIG, &old, "")), (401, "Token expired".into()));
    assert_eq!(
        text(try_in("POST", "/api/towns/t/container-eviction", &legacy("a", "r", "t"), "")),
        (401, "Invalid container token payload".into())
    );
    assert_eq!(text(try_in("GET", RIG, "bearer a.b.c", "")), (401, "Token validation failed".into()));
    let forged = format!("{}x", user("ann").rsplit_once('.').unwrap().0) + "." + "AAAA";
    assert_eq!(try_in("GET", RIG, &forged, "").unwrap_err().status, 401);
}

#[test]
fn a_refresh_forgives_the_expiry_and_nothing_else() {
    let route = at("POST", "/api/towns/t/refresh-container-token");
    let go = |authorization: &str| {
        admit_refresh(&route, Credentials { authorization: Some(authorization), ..Credentials::default() }, LIVE, NOW)
    };
    let old = bearer_of(&json!({"townId": "t", "userId": "u", "scope": "container", "iat": 1, "exp": S - 9}));
    let (claims, expired) = go(&old).unwrap();
    assert!(expired && claims.user_id == "u");
    assert_eq!(go(&of_town("t2")).unwrap_err().message, "Cross-town access denied");
    assert_eq!(go(&user("ann")).unwrap_err().message, "Invalid token payload");
}
