//! `gt watch`: by the status socket, and by asking where there is none.

use crate::{
    fake_worker::Reply,
    world::{BEAD, OTHER, RIG, TOWN, World},
};
use serde_json::{Value, json};

fn town(method: &str, rest: &str) -> String {
    format!("{method} /api/towns/{TOWN}/{rest}")
}

fn explained(verdict: &str, status: &str) -> Reply {
    Reply::data(&json!({"bead_id": BEAD, "status": status, "verdict": verdict, "summary": format!("It is {verdict}.")}))
}

fn event(id: &str, at: &str, bead: &str, new: &str) -> Value {
    json!({"bead_event_id": id, "created_at": at, "bead_id": bead, "event_type": "status_changed", "old_value": "open",
           "new_value": new, "metadata": {}})
}

const EVENTS: &str = "GET /api/users/alice/towns/11111111-1111-4111-8111-111111111111/events";

#[test]
fn a_bead_is_followed_by_the_socket_until_it_is_closed() {
    let world = World::person();
    let ticket = json!({"url": format!("/api/towns/{TOWN}/status/ws"), "ticket": "t 1", "expires_at": "x"});
    world.worker.gives(&town("POST", "status/ticket"), &ticket);
    let mine =
        json!({"channel": "bead", "type": "bead.status_changed", "beadId": BEAD, "status": "in_progress", "ts": "T"});
    let other = json!({"channel": "bead", "type": "bead.closed", "beadId": OTHER, "status": "closed", "ts": "T"});
    world.worker.answer(&town("GET", "status/ws"), &[Reply::frames(&[mine, other])]);
    let explain = town("GET", &format!("beads/{BEAD}/explain"));
    let answers = [
        explained("ready", "open"),
        explained("ready", "open"),
        explained("running", "in_progress"),
        explained("finished", "closed"),
    ];
    world.worker.answer(&explain, &answers);

    let ended = world.run(&["watch", "--bead", BEAD]).ok();
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines[0], "ready  It is ready.");
    assert!(lines[1].contains("44444444  bead.status_changed  in_progress"), "{ended:?}");
    assert_eq!(lines[2..], ["running  It is running.", "finished  It is finished."], "others' frames are not told");
    assert!(world.worker.asked().contains(&format!("GET /api/towns/{TOWN}/status/ws?ticket=t%201")));
    let upgrade = world.worker.requests().into_iter().find(|r| r.header("upgrade").is_some()).unwrap();
    assert_eq!(upgrade.header("authorization"), None, "the ticket is the credential");
}

#[test]
fn with_json_the_frames_come_as_they_are_and_then_how_it_ended() {
    let world = World::person();
    world
        .worker
        .gives(&town("POST", "status/ticket"), &json!({"url": format!("/api/towns/{TOWN}/status/ws"), "ticket": "t"}));
    let frame = json!({"channel": "bead", "type": "bead.failed", "beadId": BEAD, "ts": "T", "extra": {"kept": true}});
    world.worker.answer(&town("GET", "status/ws"), &[Reply::frames(std::slice::from_ref(&frame))]);
    let explain = town("GET", &format!("beads/{BEAD}/explain"));
    world
        .worker
        .answer(&explain, &[explained("ready", "open"), explained("ready", "open"), explained("failed", "failed")]);
    let ended = world.run(&["watch", "--bead", BEAD, "--json"]).ends(1);
    let lines: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0], frame);
    assert_eq!((lines.len(), lines[1]["status"].clone()), (2, json!("failed")));
}

#[test]
fn without_a_socket_it_asks_and_tells_each_event_once() {
    let world = World::person();
    let old = event("e1", "2026-01-01T00:00:01.000Z", BEAD, "open");
    let new = event("e2", "2026-01-01T00:00:02.000Z", BEAD, "in_progress");
    let twin = event("e3", "2026-01-01T00:00:02.000Z", BEAD, "in_review");
    let others = event("e4", "2026-01-01T00:00:03.000Z", OTHER, "closed");
    world.worker.answer(
        EVENTS,
        &[
            Reply::data(&json!([old])),
            Reply::data(&json!([new, old])),
            // Newest first; the twin came in the same millisecond as what was told already.
            Reply::data(&json!([others, twin, new])),
            Reply::data(&json!([others])),
        ],
    );
    let explain = town("GET", &format!("beads/{BEAD}/explain"));
    let running = explained("running", "in_progress");
    world.worker.answer(
        &explain,
        &[running.clone(), running.clone(), running.clone(), running, explained("finished", "closed")],
    );

    let ended = world.run(&["watch", "--bead", BEAD, "--interval", "0.1"]).ok();
    assert!(ended.err.contains("no status socket (Not found): asking instead"), "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines[0], "running  It is running.");
    assert_eq!(lines[1], "2026-01-01 00:00:02  44444444  status_changed  open -> in_progress");
    assert_eq!(lines[2], "2026-01-01 00:00:02  44444444  status_changed  open -> in_review");
    assert_eq!(lines[3..], ["finished  It is finished."]);
    let asked: Vec<String> = world.worker.asked().into_iter().filter(|a| a.starts_with(EVENTS)).collect();
    assert!(asked[2].contains("since=2026-01-01T00:00:01.000Z"), "the last moment is asked for again: {asked:?}");
}

#[test]
fn a_refused_upgrade_falls_back_to_asking_and_a_failed_bead_exits_with_one() {
    let world = World::person();
    world
        .worker
        .gives(&town("POST", "status/ticket"), &json!({"url": format!("/api/towns/{TOWN}/status/ws"), "ticket": "t"}));
    world.worker.answer(&town("GET", "status/ws"), &[Reply::refusal(403, "forbidden", "no")]);
    world.worker.gives(EVENTS, &json!([]));
    let explain = town("GET", &format!("beads/{BEAD}/explain"));
    world.worker.answer(&explain, &[explained("ready", "open"), explained("failed", "failed")]);
    let ended = world.run(&["watch", "--bead", BEAD]).ends(1);
    assert!(ended.err.contains("asking instead"), "{ended:?}");
    assert!(ended.out.contains("It is failed."), "{ended:?}");
}

#[test]
fn a_bead_that_is_final_already_ends_the_watch_at_once() {
    let world = World::person();
    let explain = town("GET", &format!("beads/{BEAD}/explain"));
    world.worker.answer(&explain, &[explained("finished", "closed")]);
    world.run(&["watch", "--bead", BEAD]).ok();
    assert_eq!(world.worker.asked().last(), Some(&explain));
    let unknown = World::person().run(&["watch", "--bead", OTHER]).ends(1);
    assert!(unknown.err.contains("Not found (HTTP 404)"), "{unknown:?}");
}

#[test]
fn an_agent_asks_its_rig_for_events() {
    let world = World::agent("polecat");
    let explain = town("GET", &format!("beads/{BEAD}/explain"));
    world.worker.answer(&explain, &[explained("ready", "open"), explained("finished", "closed")]);
    world.worker.gives(&town("GET", &format!("rigs/{RIG}/events")), &json!([]));
    world.run(&["watch", "--bead", BEAD, "--poll"]).ok();
    assert!(world.worker.asked().iter().any(|a| a.contains(&format!("rigs/{RIG}/events"))));
}
