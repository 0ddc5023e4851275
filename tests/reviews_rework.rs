//! A refinery that asks for changes (`domain.md` 4, `protocol.md` 6.3): the rework bead blocks the merge request, the
//! source stays in review, and rounds have an end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{BeadFilter, Command};
use gastown::town::effect::{Effect, StartRequest};
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use std::cell::Cell;
use std::rc::Rc;
use support::*;

fn beads(w: &mut World, rig: &RigId, kind: &str) -> Vec<Json> {
    let filter = BeadFilter { kind: Some(kind.to_owned()), limit: Some(500), ..BeadFilter::default() };
    let mut list = w.must(Command::ListBeads { rig_id: rig.clone(), filter }).as_array().cloned().unwrap();
    list.reverse();
    list
}

fn labelled(w: &mut World, rig: &RigId, label: &str) -> Vec<Json> {
    let all = beads(w, rig, "issue").into_iter();
    all.filter(|b| b["labels"].as_array().unwrap().iter().any(|l| l == label)).collect()
}

fn id(bead: &Json) -> BeadId {
    text(bead, "bead_id").into()
}

fn asks(feedback: &str) -> Behaviour {
    Behaviour::ends(20 * SECOND, Ending::RequestsChanges { feedback: feedback.to_owned() })
}

/// Refineries ask for changes `times` times, then merge.
fn picky(w: &mut World, times: u32) {
    let left = Rc::new(Cell::new(times));
    w.container.behave(move |start| match start.request.role.as_str() {
        "refinery" if left.get() > 0 => {
            left.set(left.get() - 1);
            asks("tests are missing")
        }
        role => Behaviour::good(role),
    });
}

fn starts(w: &World, role: &str) -> Vec<StartRequest> {
    let started = w.effects.iter().filter_map(|(_, e)| match e {
        Effect::StartAgent(s) if s.request.role == role => Some(s.request.clone()),
        _ => None,
    });
    started.collect()
}

fn request(agent: &str) -> Command {
    Command::RequestChanges {
        agent_id: agent.into(),
        feedback: "tests are missing".to_owned(),
        files: vec!["a.rs".to_owned()],
    }
}

/// A bead whose merge request a refinery reads just now: the world, the rig, the bead, the refinery.
fn in_review(seed: u64) -> (World, RigId, BeadId, String) {
    let (mut w, rig) = World::founded(seed);
    refineries(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(10 * MINUTE, |w| w.starts().len() == 2));
    w.run_for(SECOND);
    let refinery = starts(&w, "refinery")[0].agent_id.clone();
    (w, rig, bead, refinery)
}

#[test]
fn a_request_for_changes_makes_a_bead_that_blocks_the_merge_request_and_the_source_stays_in_review() {
    let (mut w, rig, bead, refinery) = in_review(1);
    let reply = w.command(&voice(&refinery, None), request(&refinery)).unwrap();
    assert_eq!(reply.status, 201);
    let rework = labelled(&mut w, &rig, "gt:rework").remove(0);
    assert_eq!(reply.data["rework_bead_id"], rework["bead_id"]);
    let mr = beads(&mut w, &rig, "merge_request").remove(0);
    assert_eq!((text(&rework, "title"), text(&rework, "body")), ("Rework: one", "tests are missing"));
    let branch = starts(&w, "polecat")[0].branch.clone();
    assert_eq!(
        rework["metadata"],
        json!({"rework_for": bead, "mr_bead_id": mr["bead_id"], "branch": branch, "target_branch": "main", "files": ["a.rs"]})
    );
    assert_eq!((&rework["parent_bead_id"], &rework["created_by"]), (&mr["bead_id"], &json!(refinery)));
    assert_eq!((w.status(&bead).as_str(), text(&mr, "status")), ("in_review", "open"));
    assert_eq!(text(&last(&w, &id(&mr)), "outcome"), "succeeded", "its verdict is its success");
    assert_eq!(row(&w, &bead, "review_rounds"), Some(1));
    assert_eq!((w.holds(&id(&mr)), w.holds(&bead)), (vec!["blocked".to_owned()], vec!["blocked".to_owned()]));
    let events = w.must(Command::ListEvents { bead_id: Some(bead), since: None, limit: None });
    let told = events.as_array().unwrap().iter().find(|e| e["event_type"] == "rework_requested").unwrap();
    assert_eq!(told["new_value"], rework["bead_id"]);
    assert_eq!(told["metadata"], json!({"feedback": "tests are missing", "files": ["a.rs"]}));
}

#[test]
fn the_refinerys_done_after_its_request_gets_200_and_changes_nothing() {
    let (mut w, _, _, refinery) = in_review(2);
    let first = w.command(&voice(&refinery, None), request(&refinery)).unwrap();
    let before = w.sql.dump();
    let done = Command::Done { agent_id: refinery.as_str().into(), branch: None, pr_url: None, summary: None };
    w.command(&voice(&refinery, None), done).unwrap();
    assert_eq!(w.sql.dump(), before);
    let again = w.command(&voice(&refinery, None), request(&refinery)).unwrap();
    assert_eq!((again.status, again.data), (201, first.data), "its answer was lost: the same words, the same bead");
    assert_eq!(w.sql.dump(), before);
}

#[test]
fn rework_starts_on_the_branch_under_review_closes_without_a_review_and_brings_the_merge_request_back() {
    let (mut w, rig) = World::founded(3);
    picky(&mut w, 1);
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(HOUR, |w| starts(w, "polecat").len() == 2));
    let polecats = starts(&w, "polecat");
    assert_eq!(polecats[1].branch, polecats[0].branch, "it goes on where the work is");
    assert!(polecats[1].prompt.starts_with("Rework: one\n\ntests are missing"), "{}", polecats[1].prompt);
    let agent = polecats[1].agent_id.clone();
    let prime = w.command(&voice(&agent, None), Command::Prime { agent_id: agent.as_str().into() }).unwrap().data;
    let mr = beads(&mut w, &rig, "merge_request").remove(0);
    assert_eq!(
        prime["rework_context"],
        json!({"feedback": "tests are missing", "branch": polecats[0].branch, "target_branch": "main", "files": [],
               "original_bead_title": "one", "mr_bead_id": mr["bead_id"]})
    );
    w.run_for(HOUR);
    assert_eq!(w.status(&bead), "closed");
    assert_eq!(beads(&mut w, &rig, "merge_request").len(), 1, "rework asks for no review of its own");
    assert!(labelled(&mut w, &rig, "gt:rework").iter().all(|b| b["status"] == "closed"));
    assert_eq!(starts(&w, "refinery").len(), 2);
}

#[test]
fn a_branch_that_is_never_good_enough_fails_after_its_rounds_and_the_mayor_hears_it_once() {
    let (mut w, rig) = World::founded(4);
    picky(&mut w, 1_000);
    let bead = w.sling(&rig, "one");
    w.run_for(6 * HOUR);
    let mr = beads(&mut w, &rig, "merge_request").remove(0);
    let source = w.bead(&bead);
    for failed in [&source, &mr] {
        assert_eq!((text(failed, "status"), text(&failed["failure_reason"], "code")), ("failed", "review.exhausted"));
        assert!(text(&failed["failure_reason"], "message").contains("tests are missing"), "{failed}");
    }
    assert_eq!((starts(&w, "refinery").len(), labelled(&mut w, &rig, "gt:rework").len()), (5, 4));
    assert_eq!(mail_with(&w, "refused 5 times"), 1);
    let (alarm, calls) = (w.alarm(), w.counts.container_calls);
    w.run_for(HOUR);
    assert_eq!((alarm, w.counts.container_calls), (None, calls), "and then there is quiet");
}

#[test]
fn only_a_refinery_at_work_on_a_merge_request_can_ask_for_changes() {
    let (mut w, rig) = World::founded(5);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let polecat = text(&last(&w, &bead), "agent_id").to_owned();
    let (status, _, words) = refused_by(&mut w, &voice(&polecat, None), request(&polecat));
    assert!(status == 403 && words.contains("report done"), "{status} {words}");
    let refinery = w.must(Command::GetOrCreateAgent { rig_id: rig, role: "refinery".to_owned() });
    let refinery = text(&refinery, "id").to_owned();
    let (status, _, words) = refused_by(&mut w, &voice(&refinery, None), request(&refinery));
    assert!(status == 409 && words.contains("wait for the next"), "{status} {words}");
    let unknown = "11111111-2222-4333-8444-555555555555";
    assert_eq!(refused_by(&mut w, &voice(unknown, None), request(unknown)).0, 404);
    let (mut w, _, _, refinery) = in_review(6);
    let agent_id = || refinery.as_str().into();
    let empty = Command::RequestChanges { agent_id: agent_id(), feedback: " ".to_owned(), files: Vec::new() };
    assert_eq!(refused_by(&mut w, &voice(&refinery, None), empty).1, "feedback");
    let long = Command::RequestChanges { agent_id: agent_id(), feedback: "x".repeat(70_000), files: Vec::new() };
    assert_eq!(refused_by(&mut w, &voice(&refinery, None), long).1, "feedback");
    let files = vec!["f".to_owned(); 501];
    let many = Command::RequestChanges { agent_id: agent_id(), feedback: "x".to_owned(), files };
    assert_eq!(refused_by(&mut w, &voice(&refinery, None), many).1, "files");
}

#[test]
fn rework_that_fails_for_good_is_explained_and_told_and_its_redrive_brings_everything_back() {
    let (mut w, rig) = World::founded(7);
    w.container.behave(|start| match start.request.role.as_str() {
        "refinery" => asks("tests are missing"),
        _ if start.request.prompt.starts_with("Rework") => Behaviour::fails(3 * MINUTE, "out of ideas"),
        role => Behaviour::good(role),
    });
    w.patch_config(json!({"dispatch": {"max_attempts": 2}}));
    let bead = w.sling(&rig, "one");
    w.run_for(HOUR);
    let rework = labelled(&mut w, &rig, "gt:rework").remove(0);
    assert_eq!(text(&rework, "status"), "failed");
    assert_eq!((w.status(&bead).as_str(), w.holds(&bead)), ("in_review", vec!["blocker_failed".to_owned()]));
    assert_eq!(mail_with(&w, "Rework: one"), 1);
    assert_eq!(w.alarm(), None);
    picky(&mut w, 0);
    w.must(Command::RedriveBead { bead_id: id(&rework), reason: None });
    w.run_for(HOUR);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn rework_is_called_off_when_its_merge_request_is_decided_otherwise() {
    for end in ["cancelled", "merged", "deleted"] {
        let (mut w, rig, bead, refinery) = in_review(8);
        polecats(&mut w, Behaviour::hangs());
        w.command(&voice(&refinery, None), request(&refinery)).unwrap();
        w.run_for(5 * MINUTE);
        let (mr, rework) =
            (beads(&mut w, &rig, "merge_request").remove(0), labelled(&mut w, &rig, "gt:rework").remove(0));
        assert_eq!(text(&rework, "status"), "in_progress", "{end}");
        w.must(match end {
            "cancelled" => Command::CancelBead { bead_id: bead.clone(), reason: "not needed".to_owned() },
            "deleted" => Command::DeleteBead { rig_id: rig.clone(), bead_id: id(&mr) },
            _ => Command::CompleteReview {
                entry_id: id(&mr),
                status: "merged".to_owned(),
                message: "by hand".to_owned(),
                commit_sha: None,
            },
        });
        w.run_for(MINUTE);
        assert_eq!(w.status(&id(&rework)), "closed", "{end}");
        let attempt = text(&last(&w, &id(&rework)), "attempt_id").to_owned();
        let gone = w.starts().iter().filter(|s| s.attempt_id == attempt).all(|s| s.ended_at.is_some());
        assert!(gone, "{end}: nobody works for nothing");
    }
}

#[test]
fn without_code_review_a_refinery_is_told_to_merge_without_reading() {
    let (mut w, rig) = World::founded(9);
    w.patch_config(json!({"refinery": {"code_review": false}}));
    let bead = w.sling(&rig, "one");
    w.run_for(10 * MINUTE);
    let first = starts(&w, "refinery").remove(0);
    assert!(!first.review.as_ref().unwrap().code_review && first.prompt.contains("Do not read the change"));
    assert_eq!(w.status(&bead), "closed");
    w.must(Command::PatchRigConfig { rig_id: rig.clone(), patch: json!({"code_review": true}) });
    w.sling(&rig, "two");
    w.run_for(10 * MINUTE);
    let second = starts(&w, "refinery").remove(1);
    assert!(second.review.as_ref().unwrap().code_review && !second.prompt.contains("Do not read"));
}
