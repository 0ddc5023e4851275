//! Convoys (`domain.md` 5): plans and what is wrong with them, the order of work, starting, both merge modes, landing
//! and its retries, and who comes and goes meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Batch, BeadFilter, BeadPatch, Command, NewBead, Task};
use gastown::town::effect::{Effect, StartRequest};
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::{Behaviour, Ending};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::owner;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use support::*;

fn task(title: &str, depends_on: &[usize]) -> Task {
    Task { bead: NewBead { title: title.to_owned(), ..NewBead::default() }, depends_on: depends_on.to_vec() }
}

fn batch(rig_id: &RigId, tasks: Vec<Task>) -> Command {
    let batch = Batch { title: "Add user auth".to_owned(), tasks, staged: Some(false), ..Batch::default() };
    Command::SlingBatch { rig_id: rig_id.clone(), batch }
}

/// A convoy that was slung: its id, and its beads in the order of the plan.
struct Slung {
    id: BeadId,
    beads: Vec<BeadId>,
}

fn slung(data: &Json) -> Slung {
    let beads = data["beads"].as_array().unwrap();
    assert!(beads.iter().all(|b| b["agent"].is_null()), "who does it is decided when it starts");
    Slung {
        id: text(&data["convoy"], "id").into(),
        beads: beads.iter().map(|b| text(&b["bead"], "bead_id").into()).collect(),
    }
}

fn sling(w: &mut World, rig: &RigId, tasks: Vec<Task>) -> Slung {
    slung(&w.must(batch(rig, tasks)))
}

fn convoy(w: &mut World, id: &BeadId) -> Json {
    w.must(Command::GetConvoy { convoy_id: id.clone() })
}

/// (total, closed, failed)
fn progress(w: &mut World, id: &BeadId) -> (i64, i64, i64) {
    let c = convoy(w, id);
    let n = |key: &str| c[key].as_i64().unwrap();
    (n("total_beads"), n("closed_beads"), n("failed_beads"))
}

/// The starts of a role, in order.
fn requests(w: &World, role: &str) -> Vec<StartRequest> {
    let starts = w.effects.iter().filter_map(|(_, e)| match e {
        Effect::StartAgent(s) if s.request.role == role => Some(s.request.clone()),
        _ => None,
    });
    starts.collect()
}

/// The merge requests whose source is this bead, oldest first.
fn reviews_of(w: &mut World, rig: &RigId, source: &BeadId) -> Vec<Json> {
    let filter = BeadFilter { kind: Some("merge_request".to_owned()), limit: Some(500), ..BeadFilter::default() };
    let list = w.must(Command::ListBeads { rig_id: rig.clone(), filter });
    let of = |m: &&Json| text(&m["metadata"], "source_bead_id") == source.as_str();
    let mut mine: Vec<Json> = list.as_array().unwrap().iter().filter(of).cloned().collect();
    mine.reverse();
    mine
}

/// Refineries judge: landings (into `main`) by the first, everything else by the second.
fn judges(w: &mut World, landing: &'static str, others: &'static str) {
    w.container.behave(move |start| match &start.request.review {
        Some(review) => {
            let status = if review.target_branch == "main" { landing } else { others };
            let message = format!("{status}, says the judge");
            Behaviour::ends(20 * SECOND, Ending::Verdict { status: status.to_owned(), message })
        }
        None => Behaviour::good(&start.request.role),
    });
}

// ── plans ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_plan_that_could_never_be_done_is_refused_with_the_tasks_that_make_it_so() {
    let (mut w, rig) = World::founded(1);
    for (tasks, words) in [
        (vec![task("A", &[0])], "task 0 «A» depends on itself"),
        (vec![task("A", &[]), task("B", &[7])], "task 1 «B» depends on task 7, and there is none"),
        (vec![task("A", &[1]), task("B", &[0])], "0 «A» → 1 «B» → 0 «A»"),
        (
            vec![task("A", &[4]), task("B", &[3]), task("C", &[1]), task("D", &[2, 4]), task("E", &[])],
            "1 «B» → 3 «D» → 2 «C» → 1 «B»",
        ),
    ] {
        let (status, field, message) = refused(&mut w, batch(&rig, tasks));
        assert_eq!((status, field.as_str()), (422, "tasks"), "{message}");
        assert!(message.contains(words), "{message}");
    }
    let circle = (0..50).map(|i| task(&"x".repeat(500), &[(i + 1) % 50])).collect();
    let (.., message) = refused(&mut w, batch(&rig, circle));
    assert!(message.len() < 1_000 && message.contains(" → (41 more) → "), "{message}");
    let long = "x".repeat(501);
    assert_eq!(refused(&mut w, batch(&rig, vec![task(&long, &[])])).0, 422);
    assert_eq!(refused(&mut w, batch(&RigId::from("nowhere"), vec![task("A", &[])])).0, 404);
}

#[test]
fn a_batch_becomes_a_convoy_of_beads_that_track_it_and_wait_for_each_other() {
    let (mut w, rig) = World::founded(2);
    let slung = sling(&mut w, &rig, vec![task("A", &[]), task("B", &[0]), task("C", &[0, 1, 1])]);
    let c = convoy(&mut w, &slung.id);
    let feature = format!("convoy/add-user-auth/{}/head", slung.id.short());
    assert_eq!(text(&c, "feature_branch"), feature);
    assert_eq!(
        (text(&c, "status"), text(&c, "merge_mode"), &c["staged"]),
        ("active", "review-then-land", &json!(false))
    );
    assert_eq!((&c["created_by"], &c["landed_at"]), (&json!(owner().label()), &Json::Null));
    let shown: Vec<_> = c["beads"].as_array().unwrap().iter().map(|b| text(b, "title")).collect();
    assert_eq!(shown, ["A", "B", "C"]);
    let edges = c["dependency_edges"].as_array().unwrap();
    assert_eq!(edges.len(), 3, "an edge named twice is one edge");
    for bead in &slung.beads {
        let metadata = &w.bead(bead)["metadata"];
        assert_eq!(
            (text(metadata, "convoy_id"), text(metadata, "feature_branch")),
            (slung.id.as_str(), feature.as_str())
        );
    }
    assert_eq!(w.holds(&slung.beads[2]).iter().filter(|h| *h == "blocked").count(), 2);
    assert_eq!(text(&w.bead(&slung.id), "type"), "convoy");
    assert_eq!(w.must(Command::ListConvoys).as_array().unwrap().len(), 1);
    let list = w.must(Command::ListConvoys);
    assert_eq!(text(&list[0], "id"), slung.id.as_str());
}

#[test]
fn what_a_batch_does_not_say_is_the_rigs_or_the_towns_to_say() {
    let (mut w, rig) = World::founded(3);
    let plain = |rig: &RigId| Command::SlingBatch {
        rig_id: rig.clone(),
        batch: Batch { title: "x".to_owned(), tasks: vec![task("A", &[])], ..Batch::default() },
    };
    let made = |w: &mut World| {
        let data = w.must(plain(&rig));
        (text(&data["convoy"], "merge_mode").to_owned(), data["convoy"]["staged"].clone())
    };
    assert_eq!(made(&mut w), ("review-then-land".to_owned(), json!(true)), "a new town stages");
    w.patch_config(json!({"convoy_merge_mode": "review-and-merge", "staged_convoys_default": false}));
    assert_eq!(made(&mut w), ("review-and-merge".to_owned(), json!(false)));
    let patch = json!({"convoy_merge_mode": "review-then-land"});
    w.must(Command::PatchRigConfig { rig_id: rig.clone(), patch });
    assert_eq!(made(&mut w).0, "review-then-land");
}

// ── the way of a convoy ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn tasks_start_when_those_they_wait_for_are_closed_and_the_whole_lands_once() {
    let (mut w, rig) = World::founded(4);
    w.patch_config(json!({"refinery": {"gates": ["make test"]}}));
    let plan = vec![task("A", &[]), task("B", &[0]), task("C", &[0]), task("D", &[1, 2]), task("E", &[])];
    let on: Vec<Vec<usize>> = plan.iter().map(|t| t.depends_on.clone()).collect();
    let slung = sling(&mut w, &rig, plan);
    let feature = format!("convoy/add-user-auth/{}/head", slung.id.short());
    let order = slung.beads.clone();
    w.watch(move |w| {
        for start in w.starts().iter().filter(|s| s.role == "polecat") {
            let at = order.iter().position(|b| Some(b.short()) == start.bead8.as_deref()).unwrap();
            for blocker in &on[at] {
                let rows = w.sql.peek("SELECT status FROM beads WHERE bead_id = ?1", &[(&order[*blocker]).into()]);
                assert_eq!(rows[0].text(0).unwrap(), "closed", "{at} started before {blocker} was closed");
            }
        }
    });
    assert!(w.run_while_not(4 * HOUR, |w| w.status(&slung.id) == "closed"), "{}", convoy(&mut w, &slung.id));
    assert_eq!(progress(&mut w, &slung.id), (5, 5, 0));
    let c = convoy(&mut w, &slung.id);
    assert_eq!((text(&c, "status"), c["landed_at"].is_string()), ("landed", true));
    assert_eq!(w.must(Command::ListConvoys), json!([]), "a landed convoy is listed no more");
    for start in requests(&w, "polecat") {
        let (stem, _) = feature.rsplit_once("/head").unwrap();
        assert!(start.branch.starts_with(&format!("{stem}/gt/")), "{}", start.branch);
        assert_eq!(start.start_point.as_deref(), Some(format!("origin/{feature}").as_str()));
        assert_eq!(start.default_branch, "main");
    }
    let reviews: Vec<_> = requests(&w, "refinery").into_iter().map(|s| s.review.unwrap()).collect();
    let (last, tasks) = reviews.split_last().unwrap();
    assert_eq!(tasks.len(), 5);
    assert!(tasks.iter().all(|r| r.target_branch == feature));
    assert_eq!((last.branch.as_str(), last.target_branch.as_str()), (feature.as_str(), "main"));
    assert_eq!((last.source_bead_id.as_str(), &last.gates), (slung.id.as_str(), &vec!["make test".to_owned()]));
    let landing = reviews_of(&mut w, &rig, &slung.id);
    assert_eq!((landing.len(), text(&landing[0], "created_by"), text(&landing[0], "status")), (1, "system", "closed"));
    assert_eq!(mail_with(&w, "Convoy landed: Add user auth"), 1, "the mayor is told once");
    w.run_for(HOUR);
    assert_eq!(w.alarm(), None, "nothing of it is due any more");
}

#[test]
fn in_review_and_merge_each_task_lands_alone_and_the_convoy_closes_with_the_last() {
    let (mut w, rig) = World::founded(5);
    let Command::SlingBatch { rig_id, batch } = batch(&rig, vec![task("A", &[]), task("B", &[0])]) else { panic!() };
    let batch = Batch { merge_mode: Some("review-and-merge".to_owned()), ..batch };
    let slung = slung(&w.must(Command::SlingBatch { rig_id, batch }));
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
    assert!(requests(&w, "refinery").iter().all(|s| s.review.as_ref().unwrap().target_branch == "main"));
    assert!(requests(&w, "polecat").iter().all(|s| s.branch.starts_with("gt/") && s.start_point.is_none()));
    assert_eq!(reviews_of(&mut w, &rig, &slung.id).len(), 0, "nothing lands for it");
    assert_eq!(mail_with(&w, "Convoy landed"), 1);
}

#[test]
fn a_convoy_without_a_change_has_nothing_to_land() {
    let (mut w, rig) = World::founded(6);
    polecats(&mut w, quick(MINUTE));
    let slung = sling(&mut w, &rig, vec![task("A", &[]), task("B", &[])]);
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
    assert_eq!(reviews_of(&mut w, &rig, &slung.id).len(), 0);
}

#[test]
fn a_staged_convoy_waits_for_its_start_and_says_so() {
    let (mut w, rig) = World::founded(7);
    let Command::SlingBatch { rig_id, batch } = batch(&rig, vec![task("A", &[]), task("B", &[0])]) else { panic!() };
    let slung = slung(&w.must(Command::SlingBatch { rig_id, batch: Batch { staged: Some(true), ..batch } }));
    w.run_for(HOUR);
    assert_eq!((w.starts().len(), w.alarm()), (0, None), "it costs nothing");
    assert_eq!(w.holds(&slung.beads[0]), ["convoy_staged"]);
    assert!(text(&convoy(&mut w, &slung.id), "progress").contains("staged"));
    let start = Command::StartConvoy { convoy_id: slung.id.clone() };
    let data = w.must(start.clone());
    assert_eq!((data["convoy"]["staged"].clone(), data["beads"].as_array().unwrap().len()), (json!(false), 2));
    assert_eq!(refused(&mut w, start).2, "Convoy not found or not staged");
    let unknown = Command::StartConvoy { convoy_id: BeadId::from("x") };
    assert_eq!(refused(&mut w, unknown), (404, String::new(), "Convoy not found or not staged".to_owned()));
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
}

#[test]
fn a_task_whose_work_an_eviction_saved_goes_on_where_it_was_saved() {
    let (mut w, rig) = World::founded(8);
    polecats(&mut w, Behaviour::hangs());
    let slung = sling(&mut w, &rig, vec![task("A", &[])]);
    w.run_for(MINUTE);
    let agent = text(&last(&w, &slung.beads[0]), "agent_id").to_owned();
    let saved = Command::EvictionContext {
        agent_id: agent.as_str().into(),
        branch: "convoy/add-user-auth/x/gt/toast/y".to_owned(),
        agent_name: "Toast".to_owned(),
        saved_at: w.now().to_string(),
    };
    w.command(&voice(&agent, None), saved).unwrap();
    w.must(Command::SetBeadStatus { rig_id: rig.clone(), bead_id: slung.beads[0].clone(), status: "open".to_owned() });
    w.run_for(10 * MINUTE);
    let again = requests(&w, "polecat").pop().unwrap();
    assert_eq!((again.branch.as_str(), again.start_point), ("convoy/add-user-auth/x/gt/toast/y", None));
}

// ── landing ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_landing_that_fails_is_tried_again_after_1_2_4_8_and_16_minutes_and_then_the_convoy_has_failed() {
    let (mut w, rig) = World::founded(9);
    judges(&mut w, "failed", "merged");
    let slung = sling(&mut w, &rig, vec![task("A", &[])]);
    assert!(w.run_while_not(4 * HOUR, |w| w.status(&slung.id) == "failed"));
    let mrs = reviews_of(&mut w, &rig, &slung.id);
    assert_eq!(mrs.len(), 6, "one and five more");
    let ended = |mr: &Json| time(&mr["updated_at"]);
    let waits: Vec<i64> = mrs.windows(2).map(|p| time(&p[1]["created_at"]).since(ended(&p[0])) / SECOND).collect();
    assert_eq!(waits, [60, 120, 240, 480, 960]);
    assert!(mrs.iter().all(|m| m["status"] == "failed"));
    let failure = &w.bead(&slung.id)["failure_reason"];
    assert_eq!((text(failure, "code"), text(failure, "source")), ("convoy.exhausted", "convoy"));
    assert!(text(failure, "message").contains("failed, says the judge"), "{failure}");
    assert_eq!(mail_with(&w, "The convoy «Add user auth» failed"), 1, "the mayor is told");
    let c = convoy(&mut w, &slung.id);
    assert_eq!((text(&c, "status"), w.must(Command::ListConvoys).as_array().unwrap().len()), ("active", 1));
    w.run_for(12 * HOUR);
    assert_eq!(reviews_of(&mut w, &rig, &slung.id).len(), 6, "it is over");

    judges(&mut w, "merged", "merged");
    w.must(Command::RedriveBead { bead_id: slung.id.clone(), reason: None });
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"), "a redrive is its way back");
    assert_eq!(progress(&mut w, &slung.id), (1, 1, 0), "its merge requests are no tasks of it");
    assert_eq!(reviews_of(&mut w, &rig, &slung.id).len(), 7);
}

#[test]
fn a_landing_gets_in_at_a_later_try_and_says_when_that_is() {
    let (mut w, rig) = World::founded(10);
    judges(&mut w, "conflict", "merged");
    let slung = sling(&mut w, &rig, vec![task("A", &[])]);
    let id = slung.id.clone();
    assert!(w.run_while_not(HOUR, |w| reviews(w, &id, "failed") == 2));
    let c = convoy(&mut w, &slung.id);
    let due = time(&c["next_landing_at"]);
    assert_eq!(due.since(w.now()), 2 * MINUTE);
    assert_eq!(w.alarm(), Some(due), "the alarm stands for it");
    assert!(text(&c, "progress").contains("failed 2 times"), "{c}");
    let explained = w.explain(&slung.id);
    assert!(text(&explained, "summary").contains("its landing failed 2 times"), "{explained}");
    judges(&mut w, "merged", "merged");
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
    assert_eq!(reviews(&w, &slung.id, "closed"), 1);
}

fn reviews(w: &World, source: &BeadId, status: &str) -> i64 {
    let rows = w.sql.peek(
        "SELECT count(*) FROM merge_requests m JOIN beads b ON b.bead_id = m.bead_id
         WHERE m.source_bead_id = ?1 AND b.status = ?2",
        &[source.into(), status.into()],
    );
    rows[0].int(0).unwrap()
}

#[test]
fn a_landing_waits_out_an_outage_behind_the_breaker_and_costs_no_try() {
    let (mut w, rig) = World::founded(11);
    let slung = sling(&mut w, &rig, vec![task("A", &[])]);
    let task = slung.beads[0].clone();
    assert!(w.run_while_not(HOUR, |w| w.status(&task) == "closed"));
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    w.run_for(10 * HOUR);
    assert_eq!(
        reviews(&w, &slung.id, "open") + reviews(&w, &slung.id, "in_progress"),
        1,
        "the same merge request still"
    );
    w.container.faults.clear_all();
    assert!(w.run_while_not(2 * HOUR, |w| w.status(&slung.id) == "closed"));
}

#[test]
fn a_landing_whose_dispatch_fails_at_its_cap_is_a_failed_landing() {
    let (mut w, rig) = World::founded(12);
    w.patch_config(json!({"dispatch": {"max_attempts": 2}, "breaker": {"consecutive": 500, "failures": 500}}));
    w.container.behave(|start| match &start.request.review {
        Some(r) if r.target_branch == "main" => Behaviour::fails(10 * SECOND, "out of ideas"),
        _ => Behaviour::good(&start.request.role),
    });
    let slung = sling(&mut w, &rig, vec![task("A", &[])]);
    assert!(w.run_while_not(6 * HOUR, |w| w.status(&slung.id) == "failed"));
    assert_eq!(reviews(&w, &slung.id, "failed"), 6);
}

#[test]
fn landings_that_the_container_rejects_are_not_brought_back_beside_the_next_one() {
    let (mut w, rig) = World::founded(25);
    let slung = sling(&mut w, &rig, vec![task("A", &[])]);
    let bead = slung.beads[0].clone();
    assert!(w.run_while_not(HOUR, |w| w.status(&bead) == "closed"));
    // Three rejected in a row are the container's fault: the town opens, and redrives what it rejected.
    every_start(&mut w, 400, &error("Invalid request body"));
    w.run_for(HOUR);
    let id = slung.id.clone();
    assert!(reviews(&w, &id, "open") + reviews(&w, &id, "in_progress") <= 1, "one landing at a time");
    w.container.faults.clear_all();
    assert!(w.run_while_not(3 * HOUR, |w| w.status(&id) != "open"));
    // Each rejection was a failed landing: they may have been all there were.
    if w.status(&id) == "failed" {
        w.must(Command::RedriveBead { bead_id: id.clone(), reason: None });
    }
    assert!(w.run_while_not(3 * HOUR, |w| w.status(&id) == "closed"));
}

#[test]
fn a_landing_that_a_person_ends_is_made_again_after_its_wait() {
    let (mut w, rig) = World::founded(13);
    w.container.behave(|start| match &start.request.review {
        Some(r) if r.target_branch == "main" => Behaviour::hangs(),
        _ => Behaviour::good(&start.request.role),
    });
    let slung = sling(&mut w, &rig, vec![task("A", &[])]);
    let id = slung.id.clone();
    assert!(w.run_while_not(HOUR, |w| reviews(w, &id, "in_progress") == 1));
    let mr: BeadId = text(&reviews_of(&mut w, &rig, &slung.id)[0], "bead_id").into();
    w.must(Command::CancelBead { bead_id: mr, reason: "not now".to_owned() });
    assert_eq!(convoy(&mut w, &slung.id)["next_landing_at"], json!(w.now().plus(MINUTE)));
    w.run_for(2 * MINUTE);
    let mr: BeadId = text(&reviews_of(&mut w, &rig, &slung.id)[1], "bead_id").into();
    w.must(Command::DeleteBead { rig_id: rig.clone(), bead_id: mr });
    assert_eq!(convoy(&mut w, &slung.id)["next_landing_at"], json!(w.now().plus(2 * MINUTE)));
    w.container.behave(|start| Behaviour::good(&start.request.role));
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
}

// ── failed tasks, and who comes and goes ─────────────────────────────────────────────────────────────────────────

/// A convoy of two of which the first has failed and the second is closed.
fn half_failed(seed: u64) -> (World, RigId, Slung) {
    let (mut w, rig) = World::founded(seed);
    let slung = sling(&mut w, &rig, vec![task("A", &[]), task("B", &[])]);
    w.must(Command::CancelBead { bead_id: slung.beads[0].clone(), reason: "too hard".to_owned() });
    let second = slung.beads[1].clone();
    assert!(w.run_while_not(HOUR, |w| w.status(&second) == "closed"));
    w.run_for(HOUR);
    (w, rig, slung)
}

#[test]
fn a_convoy_does_not_land_over_a_failed_task_until_it_is_redriven() {
    let (mut w, _, slung) = half_failed(14);
    assert_eq!(progress(&mut w, &slung.id), (2, 2, 1), "failed ones count as closed on the wire");
    let c = convoy(&mut w, &slung.id);
    assert!(text(&c, "progress").contains("1 of them failed: redrive or remove"), "{c}");
    assert_eq!((text(&c, "status"), w.alarm()), ("active", None));
    w.must(Command::RedriveBead { bead_id: slung.beads[0].clone(), reason: None });
    assert_eq!(progress(&mut w, &slung.id), (2, 1, 0));
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
}

#[test]
fn removing_the_failed_task_lets_the_rest_land() {
    let (mut w, rig, slung) = half_failed(15);
    let remove = Command::RemoveFromConvoy { convoy_id: slung.id.clone(), bead_id: slung.beads[0].clone() };
    assert_eq!(w.must(remove.clone()), json!({"total_beads": 1}));
    assert_eq!(refused(&mut w, remove).0, 404);
    assert_eq!(w.bead(&slung.beads[0])["metadata"], json!({}));
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
    assert_eq!(reviews_of(&mut w, &rig, &slung.id).len(), 1);
}

#[test]
fn a_task_that_is_removed_takes_the_edges_of_the_plan_with_it() {
    let (mut w, rig) = World::founded(16);
    let slung = sling(&mut w, &rig, vec![task("A", &[]), task("B", &[0]), task("C", &[1])]);
    w.must(Command::CancelBead { bead_id: slung.beads[1].clone(), reason: "no".to_owned() });
    w.run_for(HOUR);
    assert_eq!(w.holds(&slung.beads[2]), ["blocker_failed"]);
    w.must(Command::RemoveFromConvoy { convoy_id: slung.id.clone(), bead_id: slung.beads[1].clone() });
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
}

#[test]
fn a_bead_joins_a_running_convoy_and_is_landed_with_it() {
    let (mut w, rig) = World::founded(17);
    let slung = sling(&mut w, &rig, vec![task("A", &[]), task("B", &[0])]);
    let held = NewBead { title: "late".to_owned(), labels: vec!["gt:held".to_owned()], ..NewBead::default() };
    let late: BeadId = text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead: held }), "bead_id").into();
    let add = |bead: &BeadId, on: &[&BeadId]| Command::AddToConvoy {
        convoy_id: slung.id.clone(),
        bead_id: bead.clone(),
        depends_on: on.iter().map(|b| b.0.clone()).collect(),
    };
    assert_eq!(w.must(add(&late, &[&slung.beads[1]])), json!({"total_beads": 3}));
    assert_eq!(w.must(add(&late, &[])), json!({"total_beads": 3}), "again changes nothing");
    let (status, field, message) = refused(&mut w, add(&slung.beads[0], &[&late]));
    assert_eq!((status, field.as_str()), (422, "depends_on"));
    for bead in [&slung.beads[0], &slung.beads[1], &late] {
        assert!(message.contains(bead.as_str()), "the path is told: {message}");
    }
    let patch = BeadPatch { labels: Some(Vec::new()), ..BeadPatch::default() };
    w.must(Command::UpdateBead { rig_id: rig.clone(), bead_id: late.clone(), patch });
    assert!(w.run_while_not(2 * HOUR, |w| w.status(&slung.id) == "closed"));
    assert_eq!(progress(&mut w, &slung.id), (3, 3, 0));
    assert_eq!(w.status(&late), "closed");
    let bead = w.sling(&rig, "one more");
    let (status, state, _) = refused(&mut w, add(&bead, &[]));
    assert_eq!((status, state.as_str()), (409, "closed"), "a closed convoy takes nobody");
}

#[test]
fn who_cannot_belong_to_a_convoy_is_told_why() {
    let (mut w, rig) = World::founded(18);
    let other = w.add_rig("other");
    polecats(&mut w, Behaviour::hangs());
    let small = sling(&mut w, &rig, vec![task("A", &[])]);
    let tasks = (0..50).map(|i| task(&format!("t{i}"), &[])).collect();
    let full = sling(&mut w, &rig, tasks);
    let add = |convoy: &BeadId, bead: &BeadId| Command::AddToConvoy {
        convoy_id: convoy.clone(),
        bead_id: bead.clone(),
        depends_on: Vec::new(),
    };
    let (elsewhere, free) = (w.sling(&other, "elsewhere"), w.sling(&rig, "free"));
    assert_eq!(refused(&mut w, add(&full.id, &free)).2, "a convoy has at most 50 tasks");
    assert_eq!(refused(&mut w, add(&small.id, &elsewhere)).0, 422);
    assert_eq!(refused(&mut w, add(&small.id, &full.beads[0])).0, 409, "it has a convoy");
    assert_eq!(refused(&mut w, add(&small.id, &full.id)).0, 422, "a convoy is no task");
    assert_eq!(refused(&mut w, add(&free, &free)), (404, String::new(), "Convoy not found".to_owned()));
    let patch = BeadPatch { rig_id: Some(Some(other.0)), ..BeadPatch::default() };
    let moved = Command::UpdateBead { rig_id: rig.clone(), bead_id: small.beads[0].clone(), patch };
    assert_eq!(refused(&mut w, moved).0, 409, "its feature branch is in this rig");
    let bead = small.beads[0].clone();
    assert!(w.run_while_not(HOUR, |w| w.status(&bead) == "in_progress"));
    let remove = Command::RemoveFromConvoy { convoy_id: small.id.clone(), bead_id: bead };
    assert_eq!(refused(&mut w, remove).1, "in_progress", "its branch is cut from the feature branch");
}

#[test]
fn a_deleted_task_is_counted_no_more() {
    let (mut w, rig, slung) = half_failed(19);
    w.must(Command::DeleteBead { rig_id: rig.clone(), bead_id: slung.beads[0].clone() });
    assert_eq!(progress(&mut w, &slung.id), (1, 1, 0));
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
    let gone = w.must(Command::DeleteBead { rig_id: rig.clone(), bead_id: slung.id.clone() });
    assert_eq!(gone, json!({"deleted": true}));
    assert_eq!(refused(&mut w, Command::GetConvoy { convoy_id: slung.id }).0, 404);
}

#[test]
fn closing_a_convoy_ends_what_it_still_has() {
    let (mut w, rig) = World::founded(20);
    polecats(&mut w, Behaviour::hangs());
    let slung = sling(&mut w, &rig, vec![task("A", &[]), task("B", &[0]), task("C", &[])]);
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&slung.beads[0]), "in_progress");
    assert_eq!(refused(&mut w, Command::DeleteBead { rig_id: rig.clone(), bead_id: slung.id.clone() }).0, 409);
    let close = Command::CloseConvoy { convoy_id: slung.id.clone() };
    assert_eq!(text(&w.must(close.clone()), "status"), "landed");
    w.must(close);
    assert!(slung.beads.iter().all(|b| w.status(b) == "closed"));
    assert_eq!(mail_with(&w, "Convoy landed"), 0, "it did not land");
    w.run_for(HOUR);
    assert!(w.starts().iter().all(|s| s.ended_at.is_some()), "its agents were stopped");
    assert_eq!(w.alarm(), None);
}

#[test]
fn a_rig_that_is_removed_takes_its_convoys_with_it() {
    let (mut w, rig, slung) = half_failed(21);
    w.must(Command::RemoveRig { rig_id: rig });
    assert_eq!(refused(&mut w, Command::GetConvoy { convoy_id: slung.id }).0, 404);
    assert_eq!(w.must(Command::ListConvoys), json!([]));
    w.run_for(HOUR);
    assert_eq!(w.alarm(), None);
}

#[test]
fn the_way_of_merging_changes_only_while_no_work_went_the_old_way() {
    let (mut w, rig) = World::founded(22);
    let Command::SlingBatch { rig_id, batch } = batch(&rig, vec![task("A", &[]), task("B", &[0])]) else { panic!() };
    let slung = slung(&w.must(Command::SlingBatch { rig_id, batch: Batch { staged: Some(true), ..batch } }));
    let patch = |mode: Option<&str>, branch: Option<&str>| Command::PatchConvoy {
        convoy_id: slung.id.clone(),
        merge_mode: mode.map(str::to_owned),
        feature_branch: branch.map(str::to_owned),
    };
    let c = w.must(patch(Some("review-and-merge"), Some("release/2")));
    assert_eq!((text(&c, "merge_mode"), text(&c, "feature_branch")), ("review-and-merge", "release/2"));
    assert_eq!(text(&w.bead(&slung.beads[0])["metadata"], "feature_branch"), "release/2");
    w.must(patch(Some("review-then-land"), None));
    assert_eq!(refused(&mut w, patch(None, Some("main"))).1, "feature_branch");
    assert_eq!(refused(&mut w, patch(None, Some("a b"))).1, "feature_branch");
    w.must(Command::StartConvoy { convoy_id: slung.id.clone() });
    w.run_for(SECOND);
    let start = requests(&w, "polecat").pop().unwrap();
    assert!(start.branch.starts_with("gt/"), "below a branch of that name git has no room: {}", start.branch);
    assert_eq!(start.start_point.as_deref(), Some("origin/release/2"));
    assert_eq!(refused(&mut w, patch(Some("review-and-merge"), None)).0, 409);
    assert!(w.run_while_not(2 * HOUR, |w| w.status(&slung.id) == "closed"));
}

#[test]
fn people_make_convoys_of_beads_that_are_there_and_each_lands_by_itself() {
    let (mut w, rig) = World::founded(23);
    let other = w.add_rig("other");
    let beads = vec![(w.sling(&rig, "one"), rig.clone()), (w.sling(&other, "two"), other.clone())];
    let make = |beads: Vec<(BeadId, RigId)>| Command::CreateConvoy { title: "Both".to_owned(), beads };
    let wrong = vec![(beads[0].0.clone(), other)];
    assert_eq!(refused(&mut w, make(wrong)).1, "beads");
    let c = w.must(make(beads.clone()));
    assert_eq!(
        (&c["feature_branch"], text(&c, "merge_mode"), &c["total_beads"]),
        (&Json::Null, "review-and-merge", &json!(2))
    );
    let id: BeadId = text(&c, "id").into();
    assert_eq!(refused(&mut w, make(beads.clone())).0, 409, "a bead has one convoy");
    let together = Command::PatchConvoy {
        convoy_id: id.clone(),
        merge_mode: Some("review-then-land".to_owned()),
        feature_branch: None,
    };
    assert_eq!(refused(&mut w, together).1, "merge_mode", "two rigs have no branch in common");
    assert!(w.run_while_not(HOUR, |w| w.status(&beads[0].0) == "closed"));
    let said = w.must(Command::ConvoyBeadClosed { convoy_id: id.clone(), bead_id: beads[0].0.clone() });
    assert_eq!(said["closed_beads"], convoy(&mut w, &id)["closed_beads"]);
    assert!(w.run_while_not(HOUR, |w| w.status(&id) == "closed"));
}

#[test]
fn every_step_of_progress_is_an_event_and_a_data_point() {
    let (mut w, rig) = World::founded(24);
    let slung = sling(&mut w, &rig, vec![task("A", &[]), task("B", &[0])]);
    assert!(w.run_while_not(HOUR, |w| w.status(&slung.id) == "closed"));
    let events = w.must(Command::ListEvents { bead_id: Some(slung.id.clone()), since: None, limit: None });
    let mut counts: Vec<_> = events.as_array().unwrap().iter().filter(|e| e["new_value"] == "progress").collect();
    counts.reverse();
    let counts: Vec<_> = counts.iter().map(|e| e["metadata"]["closed_beads"].as_i64().unwrap()).collect();
    assert_eq!(counts, [0, 1, 2]);
    let mut points: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, point) in w.points.iter().filter(|(_, p)| p.event.starts_with("convoy.")) {
        assert_eq!((point.bead_id.as_str(), point.bead_type.as_str()), (slung.id.as_str(), "convoy"));
        *points.entry(point.event).or_default() += 1;
    }
    assert_eq!(
        points.into_iter().collect::<Vec<_>>(),
        [("convoy.landed", 1), ("convoy.landing", 1), ("convoy.progress", 3)]
    );
}
