//! The mayor's tools for beads and agents (`protocol.md` 3.4): reassigning, deleting many, resetting an agent.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{BeadPatch, Command, NewBead};
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE};
use gastown_host::behaviour::Behaviour;
use gastown_host::world::World;
use serde_json::json;
use support::*;

fn held(w: &mut World, rig: &RigId, title: &str) -> BeadId {
    let bead = NewBead { title: title.to_owned(), labels: vec!["gt:held".to_owned()], ..NewBead::default() };
    text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead }), "bead_id").into()
}

fn polecat(w: &mut World, rig: &RigId, name: &str) -> AgentId {
    let (role, identity) = ("polecat".to_owned(), format!("{name}@here"));
    let made = w.must(Command::CreateAgent { rig_id: rig.clone(), role, name: name.to_owned(), identity });
    text(&made, "id").into()
}

#[test]
fn a_bead_is_taken_from_who_works_on_it_and_given_to_another() {
    let (mut w, rig) = World::founded(1);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let first = text(&last(&w, &bead), "agent_id").to_owned();
    let second = polecat(&mut w, &rig, "Second");
    let to = |agent_id: &AgentId| Command::Reassign {
        rig_id: rig.clone(),
        bead_id: bead.clone(),
        agent_id: agent_id.clone(),
    };
    let said = w.must(to(&second));
    assert_eq!((text(&said, "status"), text(&said, "assignee_agent_bead_id")), ("open", second.as_str()));
    assert_eq!((text(&last(&w, &bead), "outcome"), charged(&w, &bead)), ("cancelled", 1), "it keeps its charge");
    w.must(to(&second));
    w.run_for(MINUTE);
    assert_eq!(text(&last(&w, &bead), "agent_id"), second.as_str());
    assert!(w.starts().iter().any(|s| s.agent_id == first && s.ended_at.is_some()), "the first was stopped");
    let busy = w.sling(&rig, "two");
    let busy = Command::Reassign { rig_id: rig.clone(), bead_id: busy, agent_id: second };
    assert_eq!(refused(&mut w, busy).1, "hooked");
    assert_eq!(refused(&mut w, to(&AgentId::from("nobody"))).2, "Target agent not found");
    let other = w.add_rig("other");
    let stranger = polecat(&mut w, &other, "Stranger");
    assert_eq!(refused(&mut w, to(&stranger)).0, 403);
    let foreign = Command::Reassign { rig_id: other, bead_id: bead, agent_id: stranger };
    assert_eq!(refused(&mut w, foreign), (403, String::new(), "Bead does not belong to this rig".to_owned()));
}

#[test]
fn a_bead_at_its_cap_fails_when_it_is_taken_away() {
    let (mut w, rig) = World::founded(2);
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let agent_id = polecat(&mut w, &rig, "Second");
    let said = w.must(Command::Reassign { rig_id: rig, bead_id: bead, agent_id });
    assert_eq!((text(&said, "status"), &said["assignee_agent_bead_id"]), ("failed", &json!(null)));
}

#[test]
fn many_beads_go_at_once_with_their_children_and_free_those_that_waited() {
    let (mut w, rig) = World::founded(3);
    let other = w.add_rig("other");
    let (parent, child, grandchild) = (held(&mut w, &rig, "a"), held(&mut w, &rig, "b"), held(&mut w, &rig, "c"));
    let (foreign, waits) = (held(&mut w, &other, "d"), held(&mut w, &rig, "e"));
    for (of, is) in [(&child, &parent), (&grandchild, &child), (&parent, &grandchild)] {
        let patch = BeadPatch { parent_bead_id: Some(Some(is.0.clone())), ..BeadPatch::default() };
        w.must(Command::UpdateBead { rig_id: rig.clone(), bead_id: of.clone(), patch });
    }
    let patch = BeadPatch { depends_on: Some(vec![child.0.clone()]), ..BeadPatch::default() };
    w.must(Command::UpdateBead { rig_id: rig.clone(), bead_id: waits.clone(), patch });
    let bead_ids = vec![parent.0.clone(), parent.0.clone(), foreign.0.clone(), "unknown".to_owned()];
    assert_eq!(w.must(Command::DeleteBeads { rig_id: rig.clone(), bead_ids }), json!({"deleted": 3}));
    for gone in [&parent, &child, &grandchild] {
        assert_eq!(refused(&mut w, Command::GetBead { rig_id: None, bead_id: gone.clone() }).0, 404);
    }
    assert_eq!((w.status(&foreign).as_str(), row(&w, &waits, "open_blockers")), ("open", Some(0)));
    let one = Command::MayorDeleteBead { rig_id: rig.clone(), bead_id: foreign };
    assert_eq!(refused(&mut w, one).2, "Bead does not belong to this rig");
    let one = Command::MayorDeleteBead { rig_id: rig, bead_id: waits };
    assert_eq!(w.must(one), json!({"deleted": true}));
}

#[test]
fn all_beads_in_a_status_go_with_their_merge_requests_and_nothing_that_only_becomes_like_them() {
    let (mut w, rig) = World::founded(4);
    let beads = sling_many(&mut w, &rig, 3);
    w.run_for(HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
    refineries(&mut w, Behaviour::hangs());
    let reviewed = sling_many(&mut w, &rig, 2);
    assert!(w.run_while_not(HOUR, |w| reviewed.iter().all(|b| w.status(b) == "in_review")));
    w.run_for(MINUTE);
    let delete = |status: &str, kind: Option<&str>| Command::DeleteByStatus {
        rig_id: rig.clone(),
        status: status.to_owned(),
        kind: kind.map(str::to_owned),
    };
    assert_eq!(w.must(delete("open", Some("merge_request"))), json!({"deleted": 1, "remaining": false}));
    let states: Vec<_> = reviewed.iter().map(|b| w.status(b)).collect();
    assert!(states.contains(&"open".to_owned()), "a source whose review is gone is open again, and stays: {states:?}");
    assert_eq!(w.must(delete("closed", Some("issue"))), json!({"deleted": 6, "remaining": false}));
    assert_eq!(w.must(delete("closed", None)), json!({"deleted": 0, "remaining": false}));
    assert_eq!(refused(&mut w, delete("done", None)).0, 400);
}

#[test]
fn an_agent_that_is_reset_is_free_and_its_bead_is_due_again() {
    let (mut w, rig) = World::founded(5);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let agent_id: AgentId = text(&last(&w, &bead), "agent_id").into();
    let reset =
        |rig: &RigId, agent_id: &AgentId| Command::ResetAgent { rig_id: rig.clone(), agent_id: agent_id.clone() };
    assert_eq!(w.must(reset(&rig, &agent_id)), json!({"reset": true}));
    let agent = w.must(Command::GetAgent { rig_id: rig.clone(), agent_id: agent_id.clone() });
    assert_eq!((text(&agent, "status"), &agent["current_hook_bead_id"]), ("idle", &json!(null)));
    assert_eq!((w.status(&bead).as_str(), text(&last(&w, &bead), "outcome")), ("open", "cancelled"));
    w.must(reset(&rig, &agent_id));
    let other = w.add_rig("other");
    assert_eq!(refused(&mut w, reset(&other, &agent_id)).2, "Agent does not belong to this rig");
    assert_eq!(refused(&mut w, reset(&rig, &AgentId::from("nobody"))).2, "Agent not found");
    w.run_for(5 * MINUTE);
    assert_eq!(w.status(&bead), "in_progress");
    assert_eq!(audit(&mut w).iter().filter(|e| e["action"] == "agent.reset").count(), 2);
}
