//! Reviews: what wants in waits for the rig's refinery, one at a time, and what its verdict does to the source
//! (`domain.md` 4).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{BeadFilter, Command, NewBead};
use gastown::town::effect::Effect;
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use support::*;

fn verdict(status: &str, message: &str) -> Behaviour {
    Behaviour::ends(20 * SECOND, Ending::Verdict { status: status.to_owned(), message: message.to_owned() })
}

/// The merge requests of a rig, oldest first.
fn mrs(w: &mut World, rig: &RigId) -> Vec<Json> {
    let filter = BeadFilter { kind: Some("merge_request".to_owned()), limit: Some(500), ..BeadFilter::default() };
    let mut list = w.must(Command::ListBeads { rig_id: rig.clone(), filter }).as_array().cloned().unwrap_or_default();
    list.reverse();
    list
}

fn id(bead: &Json) -> BeadId {
    text(bead, "bead_id").into()
}

fn source(mr: &Json) -> BeadId {
    text(&mr["metadata"], "source_bead_id").into()
}

fn complete(mr: &BeadId, status: &str) -> Command {
    let (status, message) = (status.to_owned(), "by hand".to_owned());
    Command::CompleteReview { entry_id: mr.clone(), status, message, commit_sha: None }
}

/// A bead in review whose refinery only looks at it.
fn in_review(seed: u64) -> (World, RigId, BeadId, Json) {
    let (mut w, rig) = World::founded(seed);
    refineries(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(10 * MINUTE, |w| w.starts().len() == 2));
    w.run_for(SECOND);
    let mr = mrs(&mut w, &rig).remove(0);
    assert_eq!((w.status(&bead).as_str(), text(&mr, "status")), ("in_review", "in_progress"));
    (w, rig, bead, mr)
}

#[test]
fn done_with_a_branch_asks_for_a_review_once_per_branch() {
    let (mut w, rig) = World::founded(1);
    w.patch_config(json!({"refinery": {"gates": ["make test"]}}));
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(MINUTE);
    let agent = text(&last(&w, &bead), "agent_id").to_owned();
    let submit = |branch: &str| Command::SubmitReview {
        rig_id: rig.clone(),
        agent_id: agent.as_str().into(),
        bead_id: bead.clone(),
        branch: branch.to_owned(),
        pr_url: None,
        summary: None,
    };
    let done = Command::Done {
        agent_id: agent.as_str().into(),
        branch: Some("gt/toast/x".to_owned()),
        pr_url: None,
        summary: Some("did it".to_owned()),
    };
    w.command(&voice(&agent, None), done.clone()).unwrap();
    w.command(&voice(&agent, None), done).unwrap();
    w.must(submit("gt/toast/x"));
    let all = mrs(&mut w, &rig);
    assert_eq!((w.status(&bead).as_str(), all.len()), ("in_review", 1));
    let mr = &all[0];
    assert_eq!((text(mr, "title"), text(mr, "body"), text(mr, "status")), ("Review: gt/toast/x", "did it", "open"));
    assert_eq!((source(mr), &mr["labels"]), (bead.clone(), &json!(["gt:merge-request"])));
    w.must(submit("gt/toast/y"));
    assert_eq!(mrs(&mut w, &rig).len(), 2, "another branch is another request");
    w.run_for(SECOND);
    let review = w.effects.iter().rev().find_map(|(_, e)| match e {
        Effect::StartAgent(s) => s.request.review.clone(),
        _ => None,
    });
    let review = review.unwrap();
    assert_eq!((review.entry_id.as_str(), review.source_bead_id.as_str()), (text(mr, "bead_id"), bead.as_str()));
    assert_eq!((review.branch.as_str(), review.target_branch.as_str()), ("gt/toast/x", "main"));
    assert_eq!(review.gates, ["make test"]);
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
    assert!(mrs(&mut w, &rig).iter().all(|m| m["status"] == "closed"), "its sibling closes with it");
    assert_eq!(w.starts().iter().filter(|s| s.role == "refinery").count(), 1);
}

#[test]
fn done_without_a_branch_and_beads_that_need_no_second_review_close_at_once() {
    let (mut w, rig) = World::founded(2);
    for label in ["gt:rework", "gt:triage", "gt:pr-fixup", "gt:pr-feedback", "gt:pr-conflict"] {
        let (title, labels) = ("one".to_owned(), vec![label.to_owned()]);
        let bead = sling_with(&mut w, &rig, NewBead { title, labels, ..NewBead::default() });
        w.run_for(3 * MINUTE);
        assert_eq!(w.status(&bead), "closed", "{label}");
    }
    polecats(&mut w, quick(MINUTE));
    let bead = w.sling(&rig, "nothing to change");
    w.run_for(3 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), mrs(&mut w, &rig).len()), ("closed", 0));
}

#[test]
fn a_rigs_refinery_takes_one_request_at_a_time_the_oldest_first_and_rigs_do_not_wait_for_each_other() {
    let (mut w, first) = World::founded(3);
    let second = w.add_rig("second");
    w.container.behave(|start| match start.request.role.as_str() {
        "refinery" => Behaviour::done(3 * MINUTE),
        role => Behaviour::good(role),
    });
    w.watch(|w| {
        let rows = w.sql.peek(
            "SELECT rig_id, count(*) FROM beads WHERE type = 'merge_request' AND status = 'in_progress' GROUP BY rig_id",
            &[],
        );
        assert!(rows.iter().all(|r| r.int(1).unwrap() == 1));
    });
    let mut beads = sling_many(&mut w, &first, 5);
    beads.extend(sling_many(&mut w, &second, 3));
    w.run_for(8 * MINUTE);
    let busy: std::collections::BTreeSet<_> =
        w.starts().iter().filter(|s| s.role == "refinery").map(|s| s.rig_id.clone()).collect();
    assert_eq!(busy.len(), 2);
    let waiting = mrs(&mut w, &first).into_iter().find(|m| m["status"] == "open").unwrap();
    assert_eq!(w.holds(&id(&waiting)), ["rig_refinery_busy"]);
    w.run_for(HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
    for rig in [&first, &second] {
        let order: Vec<_> = mrs(&mut w, rig).iter().map(|m| id(m).short().to_owned()).collect();
        let reviews = w.starts().iter().filter(|s| s.role == "refinery" && s.rig_id == rig.0);
        let served: Vec<_> = reviews.map(|s| s.bead8.clone().unwrap()).collect();
        assert_eq!(served, order);
    }
}

#[test]
fn a_request_behind_an_open_breaker_stays_open() {
    let (mut w, rig) = World::founded(4);
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(MINUTE, |w| w.starts().len() == 1));
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: "forced_open".to_owned(),
        reason: Some("a test".to_owned()),
        expires_in_ms: Some(HOUR),
    });
    w.run_for(30 * MINUTE);
    let mr = mrs(&mut w, &rig).remove(0);
    assert_eq!((w.status(&bead).as_str(), text(&mr, "status")), ("in_review", "open"));
    assert_eq!((w.holds(&id(&mr)), w.attempts(&id(&mr)).len()), (vec!["breaker_open".to_owned()], 0));
    w.run_for(HOUR);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn merged_by_the_refinerys_done_or_by_its_report_closes_everything_and_frees_who_waited() {
    for by_report in [true, false] {
        let (mut w, rig, bead, mr) = in_review(5);
        let waits = sling_with(
            &mut w,
            &rig,
            NewBead { title: "waits".to_owned(), depends_on: vec![bead.0.clone()], ..NewBead::default() },
        );
        assert_eq!(w.holds(&waits), ["blocked"]);
        let attempt = last(&w, &id(&mr));
        let agent = voice(text(&attempt, "agent_id"), Some(text(&attempt, "attempt_id")));
        let done =
            Command::Done { agent_id: text(&attempt, "agent_id").into(), branch: None, pr_url: None, summary: None };
        if by_report {
            w.command(&agent, complete(&id(&mr), "merged")).unwrap();
            let before = w.sql.dump();
            w.command(&agent, done).unwrap();
            assert_eq!(w.sql.dump(), before, "its done after its own verdict changes nothing");
        } else {
            w.command(&agent, done).unwrap();
        }
        assert_eq!((w.status(&bead).as_str(), w.status(&id(&mr)).as_str()), ("closed", "closed"));
        assert_eq!(last(&w, &id(&mr))["outcome"], "succeeded");
        assert_eq!(w.holds(&waits), Vec::<String>::new());
        let events = w.must(Command::ListEvents { bead_id: Some(bead.clone()), since: None, limit: None });
        assert!(events.as_array().unwrap().iter().any(|e| e["event_type"] == "review_completed"));
    }
}

#[test]
fn a_review_that_fails_sends_its_source_back_after_2_5_10_and_30_minutes_and_exhausts_it_at_the_fifth() {
    for status in ["failed", "conflict"] {
        let (mut w, rig) = World::founded(6);
        let n = Cell::new(0);
        w.container.behave(move |start| match start.request.role.as_str() {
            "refinery" => {
                n.set(n.get() + 1);
                verdict(status, &format!("gate output no {}", n.get()))
            }
            role => Behaviour::good(role),
        });
        let bead = w.sling(&rig, "never passes");
        for (round, wait) in [(1, 2), (2, 5), (3, 10), (4, 30)] {
            let reviewed = |w: &World| row(w, &bead, "review_rounds") == Some(round);
            assert!(w.run_while_not(HOUR, reviewed), "{}", w.journal());
            assert_eq!((w.status(&bead).as_str(), w.holds(&bead)), ("open", vec!["review_backoff".to_owned()]));
            let held = row(&w, &bead, "review_not_before").unwrap() - w.now().0;
            assert!((wait * MINUTE..=wait * MINUTE * 11 / 10).contains(&held), "round {round}: {held} ms");
            assert_eq!(w.explain(&bead)["review_rounds"], round);
            assert!(mrs(&mut w, &rig).iter().all(|m| m["status"] == "failed"));
        }
        w.run_for(DAY);
        let shown = w.bead(&bead);
        assert_eq!((text(&shown, "status"), &shown["failure_reason"]["code"]), ("failed", &json!("review.exhausted")));
        assert!(text(&shown["failure_reason"], "message").contains("gate output no 5"));
        assert_eq!(shown["failure_reason"]["source"], "review");
        let all = mrs(&mut w, &rig);
        assert_eq!((all.len(), text(&all[4], "status")), (5, "failed"));
        assert_eq!(all[4]["failure_reason"]["code"], "review.exhausted");
        // A conflict asks for help beside that, every time, and three times more since nobody acknowledges it.
        let mails = if status == "conflict" { 5 } else { 1 };
        assert_eq!((mail_with(&w, "gate output no 5"), w.notified("bead.failed"), w.alarm()), (mails, 1, None));
        // The verdict judges the source, not the dispatch.
        assert!(attempts(&w).iter().all(|a| a["outcome"] == "succeeded"));
        assert_eq!((charged(&w, &bead), w.breaker("town")["failures_in_window"].as_i64()), (0, Some(0)));
        let escalations = w.must(Command::ListEscalations { acknowledged: None });
        let asked = if status == "conflict" { 5 } else { 0 };
        assert_eq!(escalations.as_array().unwrap().len(), asked, "{escalations}");
        // Redrive forgets the rounds.
        w.container.behave(|start| Behaviour::good(&start.request.role));
        w.must(Command::RedriveBead { bead_id: bead.clone(), reason: None });
        assert_eq!(row(&w, &bead, "review_rounds"), Some(0));
        w.run_for(HOUR);
        assert_eq!(w.status(&bead), "closed");
    }
}

#[test]
fn fewer_rounds_may_be_configured() {
    let (mut w, rig) = World::founded(7);
    w.patch_config(json!({"dispatch": {"max_review_rounds": 2}}));
    refineries(&mut w, verdict("failed", "no"));
    let bead = w.sling(&rig, "one");
    w.run_for(3 * HOUR);
    assert_eq!((w.status(&bead).as_str(), mrs(&mut w, &rig).len()), ("failed", 2));
}

#[test]
fn a_request_that_fails_by_dispatch_keeps_its_source_in_review_and_comes_back_by_redrive() {
    let (mut w, rig) = World::founded(8);
    w.patch_config(json!({"dispatch": {"max_attempts": 2}}));
    w.container.faults.script(|_, endpoint, _, body| {
        (endpoint == Endpoint::Start && body.contains(r#""role":"refinery""#))
            .then(|| Fault::answer(500, error("no space left")))
    });
    let bead = w.sling(&rig, "one");
    w.run_for(HOUR);
    let mr = mrs(&mut w, &rig).remove(0);
    assert_eq!((w.status(&bead).as_str(), text(&mr, "status")), ("in_review", "failed"));
    assert_eq!((w.attempts(&id(&mr)).len(), &mr["failure_reason"]["code"]), (2, &json!("container.error")));
    assert_eq!((w.notified("bead.failed"), mail_with(&w, "no space left")), (1, 1), "the mayor is told");
    assert_eq!(row(&w, &bead, "review_rounds"), Some(0), "no review, no round");
    assert_eq!(refused(&mut w, Command::RedriveBead { bead_id: bead.clone(), reason: None }).1, "in_review");
    w.container.faults.clear_all();
    w.must(Command::RedriveBead { bead_id: id(&mr), reason: None });
    w.run_for(10 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), w.status(&id(&mr)).as_str()), ("closed", "closed"));
    assert_eq!(mrs(&mut w, &rig).len(), 1);
}

#[test]
fn a_refinery_that_dies_gives_its_request_back_at_once() {
    let (mut w, rig) = World::founded(9);
    let n = Cell::new(0);
    w.container.behave(move |start| match (start.request.role.as_str(), n.replace(n.get() + 1)) {
        ("refinery", 1) => Behaviour::fails(30 * SECOND, "out of memory"),
        (role, _) => Behaviour::good(role),
    });
    let bead = w.sling(&rig, "one");
    let failed = |w: &World| !failures(w, "agent.exited").is_empty();
    assert!(w.run_while_not(10 * MINUTE, failed));
    let mr = mrs(&mut w, &rig).remove(0);
    assert_eq!((text(&mr, "status"), w.status(&bead).as_str()), ("open", "in_review"));
    assert_eq!(w.holds(&id(&mr)), ["backoff"]);
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn verdicts_are_checked_and_given_once() {
    let (mut w, rig, bead, mr) = in_review(10);
    let entry = id(&mr);
    assert!(matches!(refused(&mut w, complete(&entry, "maybe")).0, 400 | 422));
    assert_eq!(refused(&mut w, complete(&bead, "merged")).0, 404, "no merge request");
    assert_eq!(refused(&mut w, complete(&"nobody".into(), "merged")).0, 404);
    w.must(complete(&entry, "failed"));
    assert_eq!(refused(&mut w, complete(&entry, "merged")).0, 409);
    let events = |w: &mut World| w.must(Command::ListEvents { bead_id: None, since: None, limit: Some(500) });
    let before = events(&mut w);
    w.must(complete(&entry, "failed"));
    assert_eq!((row(&w, &bead, "review_rounds"), events(&mut w)), (Some(1), before), "the same again is no news");
    let _ = rig;
}

#[test]
fn a_verdict_without_a_refinery_counts_all_the_same() {
    let (mut w, rig) = World::founded(11);
    w.must(Command::PatchConfig { patch: json!({"dispatch": {"max_starts_in_flight": 1}}) });
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(MINUTE, |w| w.starts().len() == 1));
    w.must(Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: "forced_open".to_owned(),
        reason: Some("a person reviews".to_owned()),
        expires_in_ms: Some(DAY),
    });
    w.run_for(5 * MINUTE);
    let mr = mrs(&mut w, &rig).remove(0);
    w.must(complete(&id(&mr), "merged"));
    assert_eq!((w.status(&bead).as_str(), w.status(&id(&mr)).as_str()), ("closed", "closed"));
    assert_eq!(w.attempts(&id(&mr)).len(), 0);
}

#[test]
fn cancelling_a_source_ends_its_review() {
    let (mut w, _, bead, mr) = in_review(12);
    w.must(Command::CancelBead { bead_id: bead.clone(), reason: "not needed".to_owned() });
    assert_eq!((w.status(&bead).as_str(), w.status(&id(&mr)).as_str()), ("failed", "failed"));
    assert_eq!(text(&last(&w, &id(&mr)), "code"), "dispatch.cancelled");
    w.run_for(MINUTE);
    assert!(w.container.running().is_empty(), "the refinery was stopped");
}

#[test]
fn reviews_go_before_new_work() {
    let (mut w, rig) = World::founded(14);
    w.patch_config(json!({"dispatch": {"max_starts_in_flight": 1, "max_polecats_per_rig": 1}}));
    // Ten beads, one start at a time: no request ever waits for more than the start before it.
    sling_many(&mut w, &rig, 10);
    w.run_for(2 * HOUR);
    let mut began: BTreeMap<String, i64> = BTreeMap::new();
    for s in w.starts().iter().filter(|s| s.role == "refinery") {
        began.insert(s.bead8.clone().unwrap(), s.at.0);
    }
    let all = mrs(&mut w, &rig);
    assert_eq!((all.len(), began.len()), (10, 10));
    for mr in &all {
        let waited = began[id(mr).short()] - time(&mr["created_at"]).0;
        assert!(waited < 5 * SECOND, "{waited} ms");
    }
}
