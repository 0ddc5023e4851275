//! What random histories found, each once more in its smallest form.

#![allow(
    clippy::similar_names,
    clippy::struct_excessive_bools,
    clippy::too_many_lines,
    clippy::manual_is_multiple_of,
    clippy::unused_self,
    clippy::enum_variant_names,
    clippy::single_match_else,
    reason = "an oracle reads like the paper it was written from"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

use gastown::town::command::{Actor, Command, Heartbeat, NewBead};
use gastown::town::id::AgentId;
use gastown::town::time::{MINUTE, SECOND};
use gastown_host::behaviour::{Behaviour, Says};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::{Fate, World};
use serde_json::json;

/// A late `done` undoes the failure that the silence was taken for. Were it remembered, the next infra failure would be
/// charged although nothing speaks against the bead (`domain.md` 10, 4).
#[test]
fn a_failure_undone_by_a_late_done_is_no_evidence_against_its_bead() {
    let (mut w, rig) = World::founded(1);
    w.filter_voices(|voice| match voice.says {
        // Its process has ended, and the word that it was done is still on its way.
        Says::Done { .. } => Fate::Late(3 * MINUTE),
        _ => Fate::Arrives,
    });
    let bead = w.sling(&rig, "Late");
    assert!(w.run_while_not(10 * MINUTE, |w| w.status(&bead) == "in_review"), "{}", w.journal());
    w.unfilter_voices();
    // Another bead is proven, and the first one is refused by its review.
    w.container.behave_all(Behaviour::hangs());
    w.sling(&rig, "Other");
    w.run_for(SECOND);
    let mr = w.sql.peek("SELECT bead_id FROM beads WHERE type = 'merge_request'", &[])[0].text(0).unwrap();
    w.must(Command::CompleteReview {
        entry_id: mr.as_str().into(),
        status: "failed".to_owned(),
        message: "a gate said no".to_owned(),
        commit_sha: None,
    });
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    w.run_for(4 * MINUTE);
    let last = w.attempts(&bead).pop().unwrap();
    assert_eq!(last["code"], "container.unreachable", "{}", w.journal());
    assert_eq!(last["charged"], false, "it has never failed: {}", w.journal());
}

/// The object's clock steps back (it moved to another machine). A heartbeat then renews its lease to an earlier time than
/// before, so the alarm must move, although a heartbeat otherwise only moves deadlines later.
#[test]
fn a_heartbeat_after_the_clock_stepped_back_moves_the_alarm_to_the_lease() {
    let (mut w, rig) = World::founded(1);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "Long");
    let proven = |w: &World| w.attempts(&bead).last().is_some_and(|a| a["outcome"] == "proven");
    assert!(w.run_while_not(MINUTE, proven), "{}", w.journal());
    w.run_for(5 * MINUTE);
    w.step_clock(-3 * MINUTE);
    w.run_for(31 * SECOND);
    let lease = w.attempts(&bead)[0]["lease_until"].clone();
    assert_eq!(serde_json::json!(w.alarm()), lease, "{}", w.journal());
}

/// While a look is in the air its own end is the only deadline of all leases. A heartbeat that answers it brings the
/// others back, so the alarm must move, although that heartbeat itself only renews a lease.
#[test]
fn a_heartbeat_that_overtakes_a_look_brings_the_other_leases_back() {
    let (mut w, rig) = World::founded(1);
    w.container.behave_all(Behaviour::hangs());
    for _ in 0..2 {
        w.sling(&rig, "Work");
        w.run_for(10 * SECOND);
    }
    // From now on nobody is heard, and no status is answered: the older lease ends first, and its look hangs.
    w.filter_voices(|_| Fate::Lost);
    w.container.faults.set(Endpoint::Status, Fault::HangBefore);
    assert!(w.run_while_not(5 * MINUTE, |w| w.in_the_air() > 0), "{}", w.journal());
    let looked = w.sql.peek("SELECT agent_id, attempt_id FROM attempts WHERE look_until IS NOT NULL", &[]);
    let other = w.sql.peek("SELECT lease_until FROM attempts WHERE look_until IS NULL AND finished_at IS NULL", &[]);
    let (agent, attempt) = (looked[0].text(0).unwrap(), looked[0].text(1).unwrap());
    let body = Heartbeat {
        status: Some("running".to_owned()),
        container_instance_id: Some(w.container.instance_id().to_owned()),
        dispatch_id: Some(attempt.clone()),
        ..Heartbeat::default()
    };
    let agent_id = AgentId(agent);
    let actor = Actor::Container { agent_id: Some(agent_id.clone()), dispatch_id: Some(attempt) };
    w.command(&actor, Command::Heartbeat { agent_id, body }).unwrap();
    assert_eq!(w.alarm().map(|t| t.0), Some(other[0].int(0).unwrap()), "{}", w.journal());
}

/// Open with nothing probe-ready there is no probe and no alarm, *and the next bead that becomes ready brings it*: also
/// one that becomes so by time alone, at the end of its review's backoff (`design.md` 5.5, 7).
#[test]
fn a_bead_whose_review_backoff_ends_behind_an_open_breaker_brings_the_probe() {
    let (mut w, rig) = World::founded(1);
    w.container.behave(|start| match start.request.role.as_str() {
        "refinery" => Behaviour::hangs(),
        role => Behaviour::good(role),
    });
    let bead = w.sling(&rig, "Refused by its review");
    assert!(w.run_while_not(10 * MINUTE, |w| w.starts().len() == 2), "{}", w.journal());
    // The town opens over another bead, which is then put away; the refusal leaves the first one waiting for time alone.
    let refused = r#"{"error":"no credit","phase":"initial_prompt","status":402}"#;
    w.container.faults.once(Endpoint::Start, Fault::answer(500, refused));
    let other = w.sling(&rig, "Opens the town");
    w.run_for(SECOND);
    assert_eq!(w.breaker("town")["state"], "open", "{}", w.journal());
    w.must(Command::CancelBead { bead_id: other, reason: "not wanted".to_owned() });
    w.run_for(8 * MINUTE);
    let mr = w.sql.peek("SELECT bead_id FROM beads WHERE type = 'merge_request'", &[])[0].text(0).unwrap();
    w.must(Command::CompleteReview {
        entry_id: mr.as_str().into(),
        status: "failed".to_owned(),
        message: "a gate said no".to_owned(),
        commit_sha: None,
    });
    w.run_for(10 * MINUTE);
    assert_eq!(w.breaker("town")["state"], "closed", "{}", w.journal());
    assert_eq!(w.starts_of(&bead).len(), 2, "{}", w.journal());
}

/// `in_review` ⇒ a merge request of it is open, in progress or failed by dispatch (`domain.md` 10, 2): also when somebody
/// deletes the one that failed, after which nobody could redrive it any more.
#[test]
fn deleting_a_review_that_failed_by_dispatch_opens_its_source_again() {
    let (mut w, rig) = World::founded(1);
    let bead = w.sling(&rig, "Reviewed by nobody");
    w.run_for(MINUTE);
    w.container.faults.set(Endpoint::Start, Fault::answer(400, r#"{"error":"Invalid request body"}"#));
    w.run_for(MINUTE);
    let mr = w.sql.peek("SELECT bead_id FROM beads WHERE type = 'merge_request' AND status = 'failed'", &[]);
    assert_eq!(w.status(&bead), "in_review", "{}", w.journal());
    w.must(Command::DeleteBead { rig_id: rig, bead_id: mr[0].text(0).unwrap().as_str().into() });
    assert_eq!(w.status(&bead), "open", "{}", w.journal());
}

/// `GET …/events?since=` reads as many rows as it may answer, not the whole history.
#[test]
fn events_since_a_moment_are_the_newest_ones_after_it() {
    let (mut w, rig) = World::founded(1);
    w.sling(&rig, "First");
    w.run_for(10 * MINUTE);
    let since = Some(w.now().to_string());
    w.run_for(MINUTE);
    w.sling(&rig, "Second");
    w.run_for(10 * MINUTE);
    let all = w.must(Command::ListEvents { bead_id: None, since: None, limit: Some(500) });
    let after = w.must(Command::ListEvents { bead_id: None, since: since.clone(), limit: Some(500) });
    let later: Vec<_> =
        all.as_array().unwrap().iter().filter(|e| e["created_at"].as_str() > since.as_deref()).collect();
    assert_eq!(after.as_array().unwrap().iter().collect::<Vec<_>>(), later);
    assert!(!later.is_empty() && later.len() < all.as_array().unwrap().len());
    let few = w.must(Command::ListEvents { bead_id: None, since, limit: Some(3) });
    assert_eq!(few.as_array().unwrap()[..], after.as_array().unwrap()[..3]);
}

/// A backoff ends while the town is full, and then the object's clock steps back before that end. The bead has joined the
/// ready queue; a gate that still read its old backoff would refuse it at every tick, and the town would spin.
#[test]
fn a_backoff_that_has_ended_does_not_begin_again_when_the_clock_steps_back() {
    let (mut w, rig) = World::founded(1);
    w.patch_config(json!({"dispatch": {"max_agents": 1}}));
    w.container.behave(|start| match start.nth {
        0 => Behaviour::fails(0, "at once"),
        _ => Behaviour::hangs(),
    });
    let bead = w.sling(&rig, "Fails once");
    w.run_for(SECOND);
    let long = w.sling(&rig, "Takes the only place");
    w.run_for(10 * MINUTE);
    // A second place goes to a bead that is more urgent.
    let urgent = NewBead { title: "Urgent".to_owned(), priority: Some("critical".to_owned()), ..NewBead::default() };
    w.must(Command::Sling { rig_id: rig, bead: urgent });
    w.patch_config(json!({"dispatch": {"max_agents": 2}}));
    w.run_for(SECOND);
    let due = w.sql.peek("SELECT bead_id FROM beads WHERE status = 'open' AND not_before IS NULL ORDER BY seq", &[]);
    assert_eq!(due.first().map(|r| r.text(0).unwrap()), Some(bead.0.clone()), "{}", w.journal());
    w.step_clock(-20 * MINUTE);
    w.must(Command::CancelBead { bead_id: long, reason: "not wanted".to_owned() });
    w.run_for(MINUTE);
    assert_eq!(w.attempts(&bead).len(), 2, "{}", w.journal());
}
