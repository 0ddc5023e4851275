//! Triage: what is done about stuck agents, and by whom (`domain.md` 7).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

mod support_host;

use gastown::town::command::{Actor, BeadPatch, Command, NewBead};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::{Behaviour, Ending, Started};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::operator;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support_host::*;

fn is_triage(start: &Started<'_>) -> bool {
    start.request.lightweight == Some(true)
}

/// Polecats that do nothing, and triage agents that do this.
fn stuck(w: &mut World, triage: Behaviour) {
    w.container.behave(move |start| match start.request.role.as_str() {
        "polecat" if is_triage(&start) => triage.clone(),
        "polecat" => Behaviour::hangs().quiet_after(0),
        role => Behaviour::good(role),
    });
}

/// A town with a stuck agent, an hour later: the bead, the request, the agent.
fn asked() -> (World, BeadId, BeadId, AgentId) {
    let (mut w, rig) = World::founded(7);
    stuck(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "Think");
    w.run_for(HOUR + MINUTE);
    let request = open(&w).pop().expect("somebody is asked");
    let agent = text(&w.bead(&request)["metadata"], "agent_bead_id").into();
    (w, bead, request, agent)
}

fn ids(w: &World, sql: &str) -> Vec<BeadId> {
    w.sql.peek(sql, &[]).iter().map(|r| r.text(0).unwrap().into()).collect()
}
fn open(w: &World) -> Vec<BeadId> {
    ids(w, "SELECT bead_id FROM beads WHERE triage_request > 0 AND status = 'open' ORDER BY seq")
}
fn batches(w: &World) -> Vec<BeadId> {
    ids(w, "SELECT bead_id FROM beads WHERE created_by = 'patrol' ORDER BY seq")
}
fn choose(request: &BeadId, action: &str) -> Command {
    Command::ResolveTriage { request_id: request.clone(), action: action.to_owned(), notes: "it loops".to_owned() }
}
fn live(w: &World, bead: &BeadId) -> bool {
    w.attempts(bead).last().is_some_and(|a| a["finished_at"].is_null())
}

#[test]
fn a_request_says_who_is_stuck_on_what_and_what_can_be_done() {
    let (w, bead, request, agent) = asked();
    let shown = w.bead(&request);
    assert_eq!((text(&shown, "type"), &shown["labels"]), ("issue", &json!(["gt:triage-request"])));
    let metadata = &shown["metadata"];
    assert_eq!((text(metadata, "triage_type"), text(metadata, "hooked_bead_id")), ("stuck_agent", bead.as_str()));
    assert_eq!(text(metadata, "agent_bead_id"), agent.as_str());
    assert!(!text(metadata, "context").is_empty());
    for option in ["RESTART", "CLOSE_BEAD", "ESCALATE_TO_MAYOR"] {
        assert!(metadata["options"].as_array().unwrap().contains(&json!(option)), "{metadata}");
    }
    assert!(w.starts_of(&request).is_empty(), "a question is not dispatched");
}

#[test]
fn a_resolved_request_is_closed_tells_how_and_by_whom_and_stays_so() {
    let (mut w, _, request, _) = asked();
    let answer = w.must(choose(&request, "discard"));
    assert_eq!((text(&answer, "status"), text(&answer, "bead_id")), ("closed", request.as_str()));
    let wanted =
        json!({"resolution_action": "DISCARD", "resolution_notes": "it loops", "resolved_by": "user:sim-user"});
    for (key, value) in wanted.as_object().unwrap() {
        let said = &answer["metadata"][key];
        assert!(
            said == value || (key == "resolved_by" && said.as_str().unwrap().starts_with("user:")),
            "{key}: {said}"
        );
    }
    let events = w.must(Command::ListEvents { bead_id: Some(request.clone()), since: None, limit: None });
    let told = |e: &Json| text(e, "event_type") == "triage_resolved" && text(e, "new_value") == "DISCARD";
    assert!(events.as_array().unwrap().iter().any(told), "{events}");
    assert_eq!(audit(&mut w)[0]["action"], "triage.resolve");
    let (status, state, _) = refused(&mut w, choose(&request, "RESTART"));
    assert_eq!((status, state.as_str()), (409, "closed"));
}

#[test]
fn a_request_whose_metadata_somebody_replaces_asks_what_it_asked_and_is_not_asked_again() {
    let (mut w, bead, request, agent) = asked();
    let rig_id = RigId(text(&w.bead(&request), "rig_id").to_owned());
    let patch =
        BeadPatch { metadata: Some(json!({"note": "seen", "agent_bead_id": "somebody else"})), ..BeadPatch::default() };
    let metadata = w.must(Command::UpdateBead { rig_id, bead_id: request.clone(), patch })["metadata"].take();
    assert_eq!((text(&metadata, "agent_bead_id"), text(&metadata, "hooked_bead_id")), (agent.as_str(), bead.as_str()));
    assert_eq!((text(&metadata, "triage_type"), text(&metadata, "note")), ("stuck_agent", "seen"));
}

#[test]
fn an_unknown_action_and_what_is_no_request_are_422() {
    let (mut w, bead, request, _) = asked();
    let (status, field, words) = refused(&mut w, choose(&request, "EXPLODE"));
    assert_eq!((status, field.as_str()), (422, "action"));
    for name in ["RESTART", "RESTART_WITH_BACKOFF", "CLOSE_BEAD", "CLOSE", "ESCALATE", "REASSIGN_BEAD", "DISCARD"] {
        assert!(words.contains(name), "{words}");
    }
    assert_eq!(refused(&mut w, choose(&bead, "RESTART")).0, 422);
    assert_eq!(refused(&mut w, choose(&BeadId::from("nothing"), "RESTART")).0, 404);
}

#[test]
fn only_people_the_mayor_and_triage_agents_may_choose() {
    let (mut w, _, request, agent) = asked();
    let mayor = w.sql.peek("SELECT mayor_agent_id FROM town", &[])[0].text(0).unwrap();
    let nobody = Actor::Container { agent_id: None, dispatch_id: None };
    let (status, _, words) = refused_by(&mut w, &nobody, choose(&request, "DISCARD"));
    assert_eq!((status, words.as_str()), (403, "Agent authentication required"));
    let (status, _, words) = refused_by(&mut w, &voice(agent.as_str(), None), choose(&request, "DISCARD"));
    assert_eq!((status, words.as_str()), (403, "Only triage agents can resolve triage requests"));
    for actor in [operator(), voice(&mayor, None)] {
        let (mut w, _, request, _) = asked();
        w.command(&actor, choose(&request, "DISCARD")).unwrap();
    }
    let triage = w.sql.peek("SELECT agent_id FROM attempts WHERE bead_id = ?1", &[(&batches(&w)[0]).into()]);
    w.command(&voice(&triage[0].text(0).unwrap(), None), choose(&request, "DISCARD")).unwrap();
}

#[test]
fn restart_stops_the_agent_and_its_bead_is_due_now_with_its_charge_kept() {
    let (mut w, bead, request, _) = asked();
    w.must(choose(&request, "restart"));
    let ended = last(&w, &bead);
    assert_eq!((text(&ended, "outcome"), text(&ended, "code")), ("cancelled", "dispatch.cancelled"));
    assert_eq!((charged(&w, &bead), streak(&w, &bead), due_in(&w, &bead)), (1, 1, None));
    w.run_for(SECOND);
    assert!(live(&w, &bead), "{}", w.journal());
    assert_eq!(charged(&w, &bead), 2);
    assert!(w.starts_of(&bead)[0].ended_at.is_some());
}

#[test]
fn restart_with_backoff_counts_the_wait_from_now_and_resets_nothing() {
    for (failures, least) in [(0, 2), (1, 2), (2, 5), (3, 10)] {
        let (mut w, rig) = World::founded(7);
        for _ in 0..failures {
            w.container.faults.once(Endpoint::Start, Fault::answer(500, error("it broke")));
        }
        stuck(&mut w, Behaviour::hangs());
        let bead = w.sling(&rig, "Think");
        assert!(w.run_while_not(3 * HOUR, |w| !open(w).is_empty()), "{}", w.journal());
        let (attempts, before) = (charged(&w, &bead), streak(&w, &bead));
        let request = open(&w).remove(0);
        w.must(choose(&request, "RESTART_WITH_BACKOFF"));
        let wait = due_in(&w, &bead).unwrap();
        assert!((least * MINUTE..=least * MINUTE * 11 / 10).contains(&wait), "after {failures}: {wait} ms");
        assert_eq!((charged(&w, &bead), streak(&w, &bead)), (attempts, before + 1));
        w.run_for(MINUTE);
        assert!(!live(&w, &bead), "the next tick cannot dispatch at once");
    }
}

#[test]
fn at_the_cap_a_restart_fails_the_bead() {
    for action in ["RESTART", "RESTART_WITH_BACKOFF", "REASSIGN_BEAD"] {
        let (mut w, rig) = World::founded(7);
        w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
        stuck(&mut w, Behaviour::hangs());
        let bead = w.sling(&rig, "Think");
        w.run_for(HOUR + MINUTE);
        let request = open(&w).remove(0);
        w.must(choose(&request, action));
        assert_eq!(w.status(&bead), "failed", "{action}");
        assert_eq!(text(&w.bead(&bead)["failure_reason"], "code"), "dispatch.cancelled");
    }
}

#[test]
fn close_cancels_the_bead_under_either_name() {
    for action in ["CLOSE_BEAD", "close"] {
        let (mut w, bead, request, _) = asked();
        let answer = w.must(choose(&request, action));
        assert_eq!(text(&answer["metadata"], "resolution_action"), "CLOSE_BEAD");
        assert_eq!(w.status(&bead), "failed");
        assert_eq!(text(&w.bead(&bead)["failure_reason"], "code"), "cancelled");
    }
}

#[test]
fn reassign_gives_the_bead_to_another_polecat() {
    let (mut w, bead, request, agent) = asked();
    w.must(choose(&request, "REASSIGN_BEAD"));
    let assigned = text(&w.bead(&bead), "assignee_agent_bead_id").to_owned();
    assert!(!assigned.is_empty() && assigned != agent.as_str());
    w.run_for(SECOND);
    assert_eq!(text(&last(&w, &bead), "agent_id"), assigned);
}

#[test]
fn escalating_tells_the_mayor_and_leaves_the_agent_alone() {
    let (mut w, bead, request, _) = asked();
    w.must(choose(&request, "ESCALATE"));
    let escalations = w.must(Command::ListEscalations { acknowledged: Some(false) });
    assert_eq!((text(&escalations[0], "severity"), text(&escalations[0], "category")), ("high", "triage"));
    assert_eq!(mail_with(&w, "it loops"), 1);
    assert!(live(&w, &bead));
}

#[test]
fn nudge_sends_the_notes_to_the_agent() {
    let (mut w, bead, request, agent) = asked();
    w.must(choose(&request, "NUDGE"));
    let sql = "SELECT message FROM nudges WHERE agent_id = ?1 AND source = 'triage'";
    assert_eq!(w.sql.peek(sql, &[(&agent).into()])[0].text(0).unwrap(), "it loops");
    assert!(live(&w, &bead));
}

#[test]
fn nothing_happens_to_a_bead_that_the_agent_has_left() {
    for action in ["RESTART", "CLOSE_BEAD", "REASSIGN_BEAD", "NUDGE"] {
        let (mut w, bead, request, agent) = asked();
        let done = Command::Done { agent_id: agent.clone(), branch: None, pr_url: None, summary: None };
        w.command(&voice(agent.as_str(), None), done).unwrap();
        let before = w.bead(&bead);
        w.must(choose(&request, action));
        assert_eq!((w.bead(&bead), w.status(&request).as_str()), (before, "closed"), "{action}");
    }
}

#[test]
fn no_more_than_five_are_asked_about_and_each_once() {
    let (mut w, rig) = World::founded(7);
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    stuck(&mut w, Behaviour::exits(MINUTE));
    sling_many(&mut w, &rig, 8);
    w.run_for(HOUR + 5 * MINUTE);
    assert_eq!(open(&w).len(), 5);
    w.run_for(20 * MINUTE);
    assert_eq!(open(&w).len(), 5);
}

#[test]
fn one_triage_agent_answers_all_requests_and_is_done_without_a_review() {
    let (mut w, rig) = World::founded(7);
    let action = "CLOSE".to_owned();
    stuck(&mut w, Behaviour::ends(5 * MINUTE, Ending::Triaged { action }));
    let beads = sling_many(&mut w, &rig, 3);
    w.run_for(HOUR + 20 * MINUTE);
    assert!(open(&w).is_empty(), "{}", w.journal());
    let batches = batches(&w);
    // The three fall silent within a minute of each other, so the first batch may have missed some.
    assert!((1..=2).contains(&batches.len()));
    for batch in &batches {
        let shown = w.bead(batch);
        assert_eq!((text(&shown, "status"), &shown["labels"]), ("closed", &json!(["gt:triage"])));
    }
    assert!(beads.iter().all(|b| w.status(b) == "failed"));
    assert!(ids(&w, "SELECT bead_id FROM beads WHERE type = 'merge_request'").is_empty());
}

#[test]
fn what_a_triage_agent_leaves_open_waits_for_people() {
    let (mut w, rig) = World::founded(7);
    stuck(&mut w, quick(MINUTE));
    w.sling(&rig, "Think");
    w.run_for(HOUR + 30 * MINUTE);
    assert_eq!((batches(&w).len(), open(&w).len()), (1, 1), "one question, one triage agent");
}

#[test]
fn an_outage_cannot_multiply_triage_agents() {
    let (mut w, rig) = World::founded(7);
    stuck(&mut w, Behaviour::hangs());
    sling_many(&mut w, &rig, 5);
    w.run_for(50 * MINUTE);
    every_start(&mut w, 500, &error("it broke"));
    w.run_for(6 * HOUR);
    let batches = batches(&w);
    let unfinished = batches.iter().filter(|b| !["closed", "failed"].contains(&w.status(b).as_str())).count();
    assert!(unfinished <= 1 && batches.len() <= 2, "{} batches", batches.len());
    for batch in &batches {
        assert!(charged(&w, batch) <= 5 && w.attempts(batch).len() <= 5, "its cap holds");
    }
}

#[test]
fn a_batch_is_closed_when_people_were_faster() {
    let (mut w, rig) = World::founded(7);
    stuck(&mut w, Behaviour::hangs());
    w.sling(&rig, "Think");
    w.run_for(50 * MINUTE);
    let scope = "town".to_owned();
    let reason = Some("maintenance".to_owned());
    let order = |mode: &str| Command::OverrideBreaker {
        scope: scope.clone(),
        mode: mode.to_owned(),
        reason: reason.clone(),
        expires_in_ms: (mode != "auto").then_some(HOUR),
    };
    w.must(order("forced_open"));
    w.run_for(11 * MINUTE);
    let (batch, request) = (batches(&w).remove(0), open(&w).remove(0));
    assert_eq!(
        (w.status(&batch).as_str(), w.holds(&batch)),
        ("open", vec!["breaker_open".to_owned()]),
        "it passes the gate"
    );
    w.must(choose(&request, "DISCARD"));
    w.run_for(SECOND);
    assert_eq!(w.status(&batch), "closed");
}

#[test]
fn a_triage_agent_works_without_a_clone_and_is_told_what_to_answer() {
    let (mut w, _, request, _) = asked();
    let seen = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let notes = std::rc::Rc::clone(&seen);
    w.container.behave(move |start| {
        notes.borrow_mut().push((start.request.lightweight, start.request.prompt.clone(), start.request.role.clone()));
        Behaviour::hangs()
    });
    let batch = batches(&w).remove(0);
    let rig: RigId = text(&w.bead(&batch), "rig_id").into();
    w.must(Command::SetBeadStatus { rig_id: rig, bead_id: batch, status: "open".to_owned() });
    w.run_for(MINUTE);
    let seen = seen.borrow();
    let (lightweight, prompt, role) = seen.first().expect("it was started again");
    assert_eq!((*lightweight, role.as_str()), (Some(true), "polecat"));
    assert!(prompt.contains(request.as_str()) && prompt.contains("RESTART"), "{prompt}");
}

#[test]
fn nobody_is_asked_about_a_triage_agent() {
    let (mut w, _, _, _) = asked();
    w.container.behave(|_| Behaviour::hangs().quiet_after(0));
    let batch = batches(&w).remove(0);
    let rig: RigId = text(&w.bead(&batch), "rig_id").into();
    w.must(Command::SetBeadStatus { rig_id: rig, bead_id: batch.clone(), status: "open".to_owned() });
    w.run_for(90 * MINUTE);
    let about = |r: &BeadId| text(&w.bead(r)["metadata"], "hooked_bead_id") == batch.as_str();
    assert!(!open(&w).iter().any(about));
}

#[test]
fn a_request_is_not_redriven_and_neither_is_a_batch_beside_another() {
    let (mut w, _, request, _) = asked();
    let again = |bead_id: &BeadId| Command::RedriveBead { bead_id: bead_id.clone(), reason: None };
    let batch = batches(&w).remove(0);
    w.must(Command::CancelBead { bead_id: batch.clone(), reason: "not this one".to_owned() });
    // A question of a person's brings the next one.
    let rig = RigId::from(text(&w.bead(&batch), "rig_id"));
    let bead =
        NewBead { title: "Stuck, too".to_owned(), labels: vec!["gt:triage-request".to_owned()], ..NewBead::default() };
    w.must(Command::CreateBead { rig_id: rig, bead });
    w.run_for(SECOND);
    assert_eq!(batches(&w).len(), 2);
    let (status, _, words) = refused(&mut w, again(&batch));
    assert_eq!((status, words.contains("one at a time")), (409, true));
    w.must(Command::CancelBead { bead_id: request.clone(), reason: "nobody cares".to_owned() });
    let (status, _, words) = refused(&mut w, again(&request));
    assert_eq!((status, words.contains("answered")), (409, true));
}
