//! What a booking writes and what it sends: the rows, the event, the limits within one tick, and every word of the start
//! request (`protocol.md` 4.4, 5.1, 6.1).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Command, NewBead};
use gastown::town::effect::{Effect, StartRequest};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::{MINUTE, SECOND};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

/// A town whose agents run for ever.
fn busy(seed: u64) -> (World, RigId) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(Behaviour::hangs());
    (w, rig)
}

/// The last start request of a bead.
fn request(w: &World, bead: &BeadId) -> StartRequest {
    let attempt = text(&last(w, bead), "attempt_id").to_owned();
    let of = |(_, e): &(_, Effect)| match e {
        Effect::StartAgent(start) if start.attempt_id.0 == attempt => Some(start.request.clone()),
        _ => None,
    };
    w.effects.iter().find_map(of).unwrap()
}

fn events(w: &mut World, bead: &BeadId, kind: &str) -> Vec<Json> {
    let all = w.must(Command::ListEvents { bead_id: Some(bead.clone()), since: None, limit: Some(500) });
    all.as_array().unwrap().iter().filter(|e| e["event_type"] == kind).cloned().collect()
}

fn create(w: &mut World, rig: &RigId, title: &str) -> BeadId {
    let bead = NewBead { title: title.to_owned(), ..NewBead::default() };
    text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead }), "bead_id").into()
}

fn agent(w: &mut World, rig: &RigId, name: &str) -> AgentId {
    let (role, identity) = ("polecat".to_owned(), format!("{name}@here"));
    let made = w.must(Command::CreateAgent { rig_id: rig.clone(), role, name: name.to_owned(), identity });
    text(&made, "id").into()
}

fn hook(w: &World, agent: &str) -> (String, Option<String>) {
    let rows = w.sql.peek("SELECT status, current_hook_bead_id FROM agents WHERE agent_id = ?1", &[agent.into()]);
    (rows[0].text(0).unwrap(), rows[0].opt_text(1).unwrap())
}

fn patch(w: &mut World, patch: Json) {
    w.must(Command::PatchConfig { patch });
}

#[test]
fn a_booking_hooks_an_agent_to_a_bead_that_nobody_was_given() {
    let (mut w, rig) = busy(1);
    let bead = create(&mut w, &rig, "Nobody's yet");
    w.run_for(SECOND);
    let attempt = last(&w, &bead);
    assert_eq!(hook(&w, text(&attempt, "agent_id")), ("working".to_owned(), Some(bead.0.clone())));
    assert_eq!(w.bead(&bead)["assignee_agent_bead_id"], attempt["agent_id"]);
}

#[test]
fn a_booking_leaves_an_event_that_names_agent_attempt_and_how_often() {
    let (mut w, rig) = busy(2);
    w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
    let bead = w.sling(&rig, "Twice");
    w.run_for(5 * MINUTE);
    let tries = w.attempts(&bead);
    assert_eq!(tries.len(), 2, "{}", w.journal());
    let booked = events(&mut w, &bead, "dispatch_booked");
    for (n, attempt) in tries.iter().enumerate() {
        let event = &booked[tries.len() - 1 - n];
        assert_eq!((&event["agent_id"], &event["new_value"]), (&attempt["agent_id"], &attempt["attempt_id"]));
        assert_eq!(event["metadata"], json!({"attempt": n + 1, "probe": false}));
    }
    let moved = events(&mut w, &bead, "status_changed");
    assert_eq!(moved[0]["agent_id"], tries[1]["agent_id"], "{moved:?}");
    assert_eq!(row(&w, &bead, "probes"), Some(0), "an ordinary dispatch is no probe");
}

#[test]
fn a_trial_is_counted_as_a_probe_of_its_bead() {
    let (mut w, rig) = busy(3);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    sling_many(&mut w, &rig, 5);
    assert!(w.run_while_not(60 * MINUTE, |w| w.breaker("town")["state"] == "open"), "{}", w.journal());
    w.container.faults.clear_all();
    assert!(w.run_while_not(10 * MINUTE, |w| attempts(w).iter().any(|a| a["probe"] == true)), "{}", w.journal());
    let trial = attempts(&w).into_iter().find(|a| a["probe"] == true).unwrap();
    let bead = BeadId::from(text(&trial, "bead_id"));
    assert_eq!(row(&w, &bead, "probes"), Some(1));
    assert_eq!(trial["generation"], w.breaker("town")["generation"]);
    let booked = events(&mut w, &bead, "dispatch_booked");
    assert_eq!(booked[0]["metadata"]["probe"], true);
}

#[test]
fn reviews_and_work_of_one_tick_share_the_starts_that_may_be_in_flight() {
    let (mut w, rig) = World::founded(4);
    polecats(&mut w, Behaviour::done(10 * SECOND));
    w.sling(&rig, "To review");
    assert!(w.run_while_not(MINUTE, |w| reviews_open(w) > 0), "{}", w.journal());
    // One proof: two starts may be in flight. One review and three beads want one.
    w.container.behave_all(Behaviour::hangs().mute());
    for n in 0..3 {
        w.sling(&rig, &format!("bead {n}"));
    }
    w.run_for(SECOND);
    let roles: Vec<_> = attempts(&w)[1..].iter().map(|a| text(a, "role").to_owned()).collect();
    assert_eq!(roles, ["refinery", "polecat"], "{}", w.journal());
}

fn reviews_open(w: &World) -> i64 {
    w.sql.peek("SELECT count(*) FROM beads WHERE type = 'merge_request'", &[])[0].int(0).unwrap()
}

#[test]
fn rigs_of_one_tick_share_the_polecats_of_the_town() {
    let (mut w, rig) = busy(5);
    let other = w.add_rig("other");
    w.sling(&rig, "proves the container");
    w.run_for(SECOND);
    patch(&mut w, json!({"dispatch": {"max_agents": 2}}));
    let beads = [w.sling(&rig, "here"), w.sling(&other, "there")];
    w.run_for(SECOND);
    assert_eq!(attempts(&w).len(), 2, "{}", w.journal());
    let held: Vec<_> = beads.iter().map(|b| w.holds(b)).filter(|h| h.contains(&"town_agents".to_owned())).collect();
    assert_eq!(held.len(), 1);
}

#[test]
fn the_branch_of_a_start_is_made_of_the_agents_name_and_the_beads_id() {
    let (mut w, rig) = busy(6);
    for (name, slug) in [("Ann  Lee_2nd", "ann-lee-2nd"), ("Zoë", "zo-"), ("a--b", "a-b"), ("Axe9", "axe9")] {
        let agent = agent(&mut w, &rig, name);
        let assignee_agent_id = Some(agent.0.clone());
        let bead = NewBead { title: "Work".to_owned(), assignee_agent_id, ..NewBead::default() };
        let made = w.must(Command::CreateBead { rig_id: rig.clone(), bead });
        let bead = BeadId::from(text(&made, "bead_id"));
        w.run_for(SECOND);
        assert_eq!(text(&last(&w, &bead), "agent_id"), agent.as_str());
        assert_eq!(request(&w, &bead).branch, format!("gt/{slug}/{}", bead.short()));
    }
}

#[test]
fn the_prompt_is_the_title_the_body_and_the_checkpoint() {
    let (mut w, rig) = busy(7);
    let bead = w.sling(&rig, "Only a title");
    let with_body = NewBead { title: "Title".to_owned(), body: Some("Body".to_owned()), ..NewBead::default() };
    let with_body = sling_with(&mut w, &rig, with_body);
    let empty = NewBead { title: "Empty".to_owned(), body: Some(String::new()), ..NewBead::default() };
    let empty = sling_with(&mut w, &rig, empty);
    w.run_for(SECOND);
    assert_eq!(request(&w, &bead).prompt, "Only a title");
    assert_eq!(request(&w, &with_body).prompt, "Title\n\nBody");
    assert_eq!(request(&w, &empty).prompt, "Empty");
}

#[test]
fn the_system_prompt_says_what_the_role_is_and_what_the_town_adds() {
    let (mut w, rig) = busy(8);
    let plain = w.sling(&rig, "Plain");
    w.run_for(SECOND);
    let own = request(&w, &plain).system_prompt;
    assert!(own.starts_with("You are a polecat"), "{own}");
    patch(&mut w, json!({"custom_instructions": {"polecat": "Write tests first."}}));
    let more = w.sling(&rig, "More");
    w.run_for(SECOND);
    assert_eq!(request(&w, &more).system_prompt, format!("{own}\n\nWrite tests first."));
}

#[test]
fn the_environment_names_the_town_the_rig_the_agent_and_what_the_town_was_given() {
    let (mut w, rig) = busy(9);
    patch(&mut w, json!({"env_vars": {"COLOUR": "red"}}));
    let bead = w.sling(&rig, "Work");
    w.run_for(SECOND);
    let (sent, attempt) = (request(&w, &bead), last(&w, &bead));
    let expected = [
        ("COLOUR", "red"),
        ("GASTOWN_TOWN_ID", &w.town_id),
        ("GASTOWN_RIG_ID", rig.as_str()),
        ("GASTOWN_AGENT_ID", text(&attempt, "agent_id")),
        ("GASTOWN_AGENT_ROLE", "polecat"),
    ];
    for (key, value) in expected {
        assert_eq!(sent.env_vars.get(key).map(String::as_str), Some(value), "{key}");
    }
}
