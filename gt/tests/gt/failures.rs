//! What goes wrong: the exit code, the text, what is tried again and what is not.

use crate::{
    fake_worker::{FakeWorker, Reply},
    world::{BEAD, RIG, TOKEN, TOWN, World},
};
use serde_json::{Value, json};
use std::net::TcpListener;

fn dispatch() -> String {
    format!("GET /api/towns/{TOWN}/dispatch")
}

fn sling() -> String {
    format!("POST /api/towns/{TOWN}/rigs/{RIG}/sling")
}

/// How often a route was asked.
fn asked(world: &World, route: &str) -> usize {
    world.worker.asked().iter().filter(|asked| *asked == route).count()
}

#[test]
fn a_refusal_exits_with_one_and_says_what_the_server_said_and_what_to_do() {
    let world = World::person();
    let body = json!({"success": false, "error": "Invalid request body", "code": "malformed",
        "issues": [{"code": "too_small", "path": ["title"], "message": "must not be empty"}]});
    world.worker.answer(&sling(), &[Reply::of(400, &body.to_string())]);
    let ended = world.run(&["sling", ""]).ends(1);
    assert_eq!(ended.out, "");
    assert_eq!(
        ended.err,
        "gt: Invalid request body (HTTP 400)\n  title: must not be empty\n  Correct what the server names, and try again.\n"
    );
    let json: Value = serde_json::from_str(&world.run(&["sling", "", "--json"]).ends(1).err).unwrap();
    assert_eq!((json["status"].clone(), json["code"].clone()), (json!(400), json!("malformed")));
    assert_eq!(json["issues"], body["issues"], "the server's answer as it came");
}

#[test]
fn wrong_usage_exits_with_two_and_asks_nobody() {
    let world = World::person();
    let before = world.worker.requests().len();
    for arguments in [
        &["fly"][..],
        &["sling"],
        &["redrive"],
        &["cancel", BEAD],
        &["sling", "x", "--metadata", "[1]"],
        &["breaker", "override", "town", "auto", "--reason", "r", "--for", "soon"],
        &["watch", "--interval", "0"],
        &["dispatch", "--api", "not an address"],
        &["redrive", "--fingerprint", "f"],
    ] {
        let ended = world.run(arguments).ends(2);
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{arguments:?}: {ended:?}");
    }
    assert_eq!(world.worker.requests().len(), before);
}

#[test]
fn a_server_that_cannot_be_reached_exits_with_three() {
    let mut world = World::person();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world
        .set("GASTOWN_API_URL", &format!("http://127.0.0.1:{port}"))
        .set("GASTOWN_TOKEN", TOKEN)
        .set("GASTOWN_TOWN_ID", TOWN);
    let ended = world.run(&["dispatch"]).ends(3);
    assert!(ended.err.contains("cannot be reached") && ended.err.contains("Check the address"), "{ended:?}");
    let json: Value = serde_json::from_str(&world.run(&["dispatch", "--json"]).ends(3).err).unwrap();
    assert_eq!(json["code"], "unreachable");
}

#[test]
fn what_is_no_worker_of_ours_is_told_from_one() {
    let world = World::person();
    for (status, body) in
        [(200, "<html>Welcome</html>"), (502, "Bad gateway"), (200, "[]"), (200, "{\"ok\": true}"), (500, "")]
    {
        world.worker.answer(&sling(), &[Reply::of(status, body)]);
        let ended = world.run(&["sling", "x"]).ends(3);
        assert!(ended.err.contains("is no Gastown worker, or not well"), "{ended:?}");
        assert!(ended.err.contains(&format!("HTTP {status}")), "{ended:?}");
    }
}

#[test]
fn no_redirect_is_followed_with_a_token() {
    let world = World::person();
    let elsewhere = FakeWorker::start();
    let away = Reply::of(307, "").with("Location", &format!("{}/api/towns/{TOWN}/rigs/{RIG}/sling", elsewhere.url));
    world.worker.answer(&sling(), &[away]);
    world.run(&["sling", "x"]).ends(3);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn what_makes_something_is_sent_again_only_if_nothing_was_done() {
    let world = World::person();
    let done = Reply::data(&json!({"bead": {}, "agent": {}}));
    world.worker.answer(&sling(), &[Reply::busy("overloaded", 1), Reply::busy("overloaded", 1), done.clone()]);
    world.run(&["sling", "x"]).ok();
    assert_eq!(asked(&world, &sling()), 3);

    for reply in [Reply::busy("unavailable", 1), Reply::silence(), Reply::of(502, "Bad gateway")] {
        let world = World::person();
        world.worker.answer(&sling(), &[reply, done.clone()]);
        world.run(&["sling", "x"]).ends(3);
        assert_eq!(asked(&world, &sling()), 1, "it may have been slung");
    }
}

#[test]
fn what_reads_is_sent_again_after_a_lost_answer_but_not_for_ever() {
    let world = World::person();
    let data = Reply::data(&json!({"ready": 0}));
    world.worker.answer(&dispatch(), &[Reply::silence(), Reply::busy("unavailable", 1), data]);
    world.run(&["dispatch"]).ok();
    assert_eq!(asked(&world, &dispatch()), 3);

    let world = World::person();
    world.worker.answer(&dispatch(), &[Reply::busy("overloaded", 1)]);
    let ended = world.run(&["dispatch"]).ends(3);
    assert!(ended.err.contains("busy (HTTP 503)"), "{ended:?}");
    assert_eq!(asked(&world, &dispatch()), 4);

    // Nobody waits for minutes in silence.
    let world = World::person();
    world.worker.answer(&dispatch(), &[Reply::busy("overloaded", 600_000)]);
    world.run(&["dispatch"]).ends(3);
    assert_eq!(asked(&world, &dispatch()), 1);
}

#[test]
fn mail_that_a_lost_answer_delivered_is_not_hidden_by_asking_again() {
    let world = World::agent("polecat");
    let path = format!("GET /api/towns/{TOWN}/rigs/{RIG}/agents/{}/mail", crate::world::AGENT);
    world.worker.answer(&path, &[Reply::silence(), Reply::data(&json!([]))]);
    let ended = world.run(&["mail", "check"]).ends(3);
    assert!(ended.err.contains("cannot be reached"), "an empty list would say that there was none: {ended:?}");
}

#[test]
fn what_an_agent_wrote_does_not_steer_the_terminal() {
    let world = World::person();
    let beads = json!([{"bead_id": BEAD, "status": "open", "title": "\u{1b}]0;owned\u{7}"}]);
    world.worker.gives(&format!("GET /api/towns/{TOWN}/rigs/{RIG}/beads"), &beads);
    let ended = world.run(&["beads"]).ok();
    assert!(!ended.out.contains('\u{1b}') && ended.out.contains("owned"), "{ended:?}");
    assert_eq!(world.run(&["beads", "--json"]).ok().json(), beads, "JSON escapes it");
    world.worker.answer(&format!("GET /api/towns/{TOWN}/rigs/{RIG}/beads"), &[Reply::refusal(500, "x", "\u{1b}[2J")]);
    assert!(!world.run(&["beads"]).ends(1).err.contains('\u{1b}'));
}

#[test]
fn the_token_is_in_no_output() {
    let world = World::person();
    world.worker.answer(&dispatch(), &[Reply::refusal(403, "forbidden", "Forbidden")]);
    for arguments in [&["dispatch"][..], &["whoami"], &["whoami", "--json"], &["dispatch", "--json"]] {
        let ended = world.run(arguments);
        assert!(!ended.out.contains(TOKEN) && !ended.err.contains(TOKEN), "{ended:?}");
    }
}
