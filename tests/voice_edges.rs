//! What agents say, at the edges: whose word it is, what counts as a sign of life, what moves the alarm, and what becomes
//! of work and of ends that are reported at odd moments (`design.md` 5.2, `domain.md` 9).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::Reply;
use gastown::town::command::{Command, Heartbeat};
use gastown::town::error::TownError;
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{MINUTE, SECOND};
use gastown_host::behaviour::Behaviour;
use gastown_host::world::{Fate, World};
use serde_json::{Value as Json, json};
use support::*;

/// A running agent that says nothing by itself any more, its bead and its attempt.
fn silent(seed: u64, behaviour: Behaviour) -> (World, RigId, BeadId, Json) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(behaviour);
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    w.filter_voices(|_| Fate::Lost);
    let attempt = last(&w, &bead);
    (w, rig, bead, attempt)
}

fn beat(w: &mut World, attempt: &Json, body: Heartbeat) -> Result<Reply, TownError> {
    let agent = text(attempt, "agent_id").to_owned();
    w.command(&voice(&agent, None), Command::Heartbeat { agent_id: agent.as_str().into(), body })
}

fn naming(dispatch: &str) -> Heartbeat {
    Heartbeat { dispatch_id: Some(dispatch.to_owned()), status: Some("running".to_owned()), ..Heartbeat::default() }
}

fn says(w: &mut World, attempt: &Json, command: Command) -> Reply {
    let (agent, id) = (text(attempt, "agent_id").to_owned(), text(attempt, "attempt_id").to_owned());
    w.command(&voice(&agent, Some(&id)), command).unwrap()
}

fn fails(attempt: &Json, reason: &str) -> Command {
    let (agent_id, status, reason) = (text(attempt, "agent_id").into(), "failed".to_owned(), Some(reason.to_owned()));
    Command::Completed { agent_id, status, reason, phase: None, model_status: None }
}

fn ends(bead: &BeadId, w: &World) -> (String, String) {
    let a = last(w, bead);
    (text(&a, "outcome").to_owned(), text(&a, "code").to_owned())
}

// ── whose word it is ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn nobody_speaks_for_another_agents_dispatch() {
    let (mut w, rig, _, mine) = silent(1, Behaviour::hangs());
    let other = w.sling(&rig, "another");
    w.run_for(10 * SECOND);
    let theirs = last(&w, &other);
    let before = w.sql.dump();
    let refused = beat(&mut w, &mine, naming(text(&theirs, "attempt_id"))).unwrap_err();
    assert_eq!(refused.status(), 403, "{refused}");
    assert_eq!(w.sql.dump(), before);
    assert_eq!(beat(&mut w, &mine, naming(text(&mine, "attempt_id"))).unwrap().status, 200);
}

#[test]
fn without_a_name_the_live_attempt_speaks() {
    let (mut w, _, bead, attempt) = silent(2, Behaviour::hangs().mute());
    assert_eq!(attempt["outcome"], "accepted");
    beat(&mut w, &attempt, naming("")).unwrap();
    assert_eq!(last(&w, &bead)["outcome"], "proven");
}

// ── signs of life ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn whatever_an_agent_changes_proves_it_and_only_what_it_says_itself() {
    let (mut w, rig, bead, attempt) = silent(3, Behaviour::hangs().mute());
    let other = w.sling(&rig, "another");
    w.run_for(SECOND);
    assert!(w.attempts(&other).is_empty(), "one unproven start at a time");
    let message = Command::StatusMessage { agent_id: text(&attempt, "agent_id").into(), message: "at it".to_owned() };
    w.command(&voice("somebody else", None), message.clone()).unwrap();
    assert_eq!(last(&w, &bead)["outcome"], "accepted", "another agent's word is none of its own");
    says(&mut w, &attempt, message);
    let after = last(&w, &bead);
    assert_eq!((&after["outcome"], time(&after["proven_at"])), (&json!("proven"), w.now()));
    assert_eq!(time(&after["lease_until"]).since(w.now()), 90 * SECOND, "a sign of life is as good as a heartbeat");
}

// ── what moves the alarm ─────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_heartbeat_is_quiet_unless_it_proves_something_or_owes_a_stop() {
    let (mut w, _, bead, attempt) = silent(4, Behaviour::hangs().mute());
    let id = text(&attempt, "attempt_id").to_owned();
    assert!(!beat(&mut w, &attempt, naming(&id)).unwrap().quiet, "the first one is a proof: another start may go");
    assert!(beat(&mut w, &attempt, naming(&id)).unwrap().quiet, "it only moves a lease later");
    assert!(beat(&mut w, &json!({"agent_id": "unknown"}), Heartbeat::default()).unwrap().quiet);
    w.must(Command::CancelBead { bead_id: bead.clone(), reason: "not wanted".to_owned() });
    w.run_for(10 * MINUTE);
    assert!(!beat(&mut w, &attempt, naming(&id)).unwrap().quiet, "its process is to be stopped");
    w.run_for(MINUTE - 1);
    assert!(beat(&mut w, &attempt, naming(&id)).unwrap().quiet, "it was told within this minute");
    w.run_for(1);
    assert!(!beat(&mut w, &attempt, naming(&id)).unwrap().quiet, "a minute later it is told again");
}

#[test]
fn an_instance_that_is_news_moves_the_alarm_and_one_that_is_not_does_not() {
    let (mut w, _, _, attempt) = silent(5, Behaviour::hangs());
    let id = text(&attempt, "attempt_id").to_owned();
    let of = |instance: &str| Heartbeat { container_instance_id: Some(instance.to_owned()), ..naming(&id) };
    let known = w.container.instance_id().to_owned();
    assert!(beat(&mut w, &attempt, of(&known)).unwrap().quiet);
    assert!(beat(&mut w, &attempt, of("")).unwrap().quiet, "no id is no news");
    assert!(beat(&mut w, &attempt, of(&"x".repeat(129))).unwrap().quiet, "nor is one that is too long");
    assert!(!beat(&mut w, &attempt, of(&"x".repeat(128))).unwrap().quiet);
}

#[test]
fn a_starting_agent_renews_its_lease_up_to_fifteen_minutes_after_its_booking() {
    let (mut w, _, bead, attempt) = silent(6, Behaviour::hangs().mute());
    let booked = time(&attempt["booked_at"]);
    let starting = Heartbeat { status: Some("starting".to_owned()), ..naming(text(&attempt, "attempt_id")) };
    let mut reply = None;
    while w.now().since(booked) < 14 * MINUTE {
        reply = Some(beat(&mut w, &attempt, starting.clone()).unwrap());
        assert_eq!(time(&last(&w, &bead)["lease_until"]).since(w.now()), 90 * SECOND);
        w.run_for(MINUTE);
    }
    assert!(reply.unwrap().quiet, "its lease moved later");
    assert!(beat(&mut w, &attempt, starting.clone()).unwrap().quiet, "cut at the grace's end, and still later");
    assert_eq!(time(&last(&w, &bead)["lease_until"]).since(booked), 15 * MINUTE);
    assert_eq!(last(&w, &bead)["outcome"], "accepted", "starting proves nothing");
}

// ── work and ends ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn what_an_agent_hands_in_is_told_in_its_name_and_without_keys() {
    let (mut w, rig, bead, attempt) = silent(7, Behaviour::hangs());
    let key = "ghp_0123456789abcdefghijABCDEFGHIJ012345";
    let summary = Some(format!("pushed with {key}"));
    let agent_id: gastown::town::id::AgentId = text(&attempt, "agent_id").into();
    let nothing = Command::Done { agent_id: agent_id.clone(), branch: None, pr_url: None, summary: summary.clone() };
    says(&mut w, &attempt, nothing);
    assert_eq!(w.status(&bead), "closed");
    let events = w.must(Command::ListEvents { bead_id: Some(bead.clone()), since: None, limit: None });
    let closed = events.as_array().unwrap().iter().find(|e| e["new_value"] == "closed").unwrap().clone();
    assert_eq!(closed["agent_id"], attempt["agent_id"]);
    let second = w.sling(&rig, "two");
    w.run_for(10 * SECOND);
    let attempt = last(&w, &second);
    let agent_id = text(&attempt, "agent_id").into();
    let work = Command::Done { agent_id, branch: Some("gt/x/1".to_owned()), pr_url: None, summary };
    says(&mut w, &attempt, work);
    assert_eq!(w.status(&second), "in_review");
    assert!(!w.sql.dump().contains(key), "a key reached the rows");
}

#[test]
fn an_end_is_an_eviction_only_while_its_container_goes_away() {
    let reason = "container eviction: shutting down";
    let (mut w, _, bead, attempt) = silent(8, Behaviour::hangs());
    says(&mut w, &attempt, fails(&attempt, reason));
    assert_eq!(ends(&bead, &w), ("failed".to_owned(), "agent.exited".to_owned()), "nobody drains");

    // A drain of a container that has no name, and an agent of an older one: only its own word can tell.
    for (said, code) in [(reason, "agent.evicted"), ("it crashed", "agent.exited")] {
        let (mut w, _, bead, attempt) = silent(9, Behaviour::hangs());
        assert!(w.sql.peek("SELECT instance_id FROM attempts", &[])[0].opt_text(0).unwrap().is_some());
        let nonce = text(&w.must(Command::ContainerEviction), "drainNonce").to_owned();
        w.must(Command::ContainerReady { nonce });
        w.must(Command::ContainerEviction);
        says(&mut w, &attempt, fails(&attempt, said));
        assert_eq!(ends(&bead, &w).1, code, "{said}");
    }
}
