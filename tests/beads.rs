//! Beads and agents as people and agents change them: transitions by hand, updates, dependencies, labels, texts, lists,
//! hooks (`api.md`, `domain.md` 2, `protocol.md` 2 and 3).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{AttemptFilter, BeadFilter, BeadPatch, Command, NewBead};
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown_host::behaviour::Behaviour;
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

fn create(w: &mut World, rig: &RigId, bead: NewBead) -> BeadId {
    let made = w.must(Command::CreateBead { rig_id: rig.clone(), bead });
    text(&made, "bead_id").into()
}

fn titled(title: &str) -> NewBead {
    NewBead { title: title.to_owned(), ..NewBead::default() }
}

fn labelled(title: &str, label: &str) -> NewBead {
    NewBead { labels: vec![label.to_owned()], ..titled(title) }
}

fn waiting_for(title: &str, others: &[&BeadId]) -> NewBead {
    NewBead { depends_on: others.iter().map(|b| b.0.clone()).collect(), ..titled(title) }
}

fn set(rig: &RigId, bead: &BeadId, status: &str) -> Command {
    Command::SetBeadStatus { rig_id: rig.clone(), bead_id: bead.clone(), status: status.to_owned() }
}

fn update(rig: &RigId, bead: &BeadId, patch: &Json) -> Command {
    let word = |key: &str| patch.get(key).map(|v| v.as_str().unwrap().to_owned());
    let words = |key: &str| {
        let list = patch.get(key)?.as_array().unwrap();
        Some(list.iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>())
    };
    let clearable = |key: &str| patch.get(key).map(|v| v.as_str().map(str::to_owned));
    let patch = BeadPatch {
        title: word("title"),
        body: clearable("body"),
        priority: word("priority"),
        labels: words("labels"),
        status: word("status"),
        metadata: patch.get("metadata").cloned(),
        rig_id: clearable("rig_id"),
        parent_bead_id: clearable("parent_bead_id"),
        depends_on: words("depends_on"),
    };
    Command::UpdateBead { rig_id: rig.clone(), bead_id: bead.clone(), patch }
}

fn beads_of(rig: &RigId, filter: &Json) -> Command {
    let word = |key: &str| filter.get(key).map(|v| v.as_str().unwrap().to_owned());
    let number = |key: &str| filter.get(key).map(|v| u32::try_from(v.as_u64().unwrap()).unwrap());
    let filter = BeadFilter {
        status: word("status"),
        kind: word("type"),
        assignee: word("assignee"),
        limit: number("limit"),
        offset: number("offset"),
    };
    Command::ListBeads { rig_id: rig.clone(), filter }
}

fn list(w: &mut World, rig: &RigId, filter: &Json) -> Vec<Json> {
    w.must(beads_of(rig, filter)).as_array().unwrap().clone()
}

fn events(w: &mut World, bead: &BeadId) -> Vec<Json> {
    let all = w.must(Command::ListEvents { bead_id: Some(bead.clone()), since: None, limit: Some(500) });
    all.as_array().unwrap().clone()
}

/// A town with one bead in this status.
fn in_status(status: &str) -> (World, RigId, BeadId) {
    let (mut w, rig) = World::founded(1);
    w.container.behave(|start| match start.request.role.as_str() {
        "polecat" if start.request.prompt.contains("hangs") => Behaviour::hangs(),
        "polecat" => Behaviour::done(10 * SECOND),
        _ => Behaviour::hangs(),
    });
    let bead = match status {
        "open" => create(&mut w, &rig, labelled("held", "gt:held")),
        "in_review" => w.sling(&rig, "is done"),
        _ => w.sling(&rig, "hangs"),
    };
    w.run_for(MINUTE);
    match status {
        "closed" | "failed" => {
            w.must(set(&rig, &bead, status));
        }
        _ => {}
    }
    w.run_for(MINUTE);
    assert_eq!(w.status(&bead), status);
    (w, rig, bead)
}

// ── transitions by hand ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn by_hand_a_bead_goes_where_the_table_says_and_nowhere_else() {
    let table = [
        ("open", "in_progress", 422),
        ("open", "in_review", 422),
        ("open", "closed", 200),
        ("open", "failed", 200),
        ("in_progress", "open", 200),
        ("in_progress", "in_review", 422),
        ("in_progress", "closed", 200),
        ("in_progress", "failed", 200),
        ("in_review", "open", 200),
        ("in_review", "in_progress", 422),
        ("in_review", "closed", 200),
        ("in_review", "failed", 200),
        ("closed", "open", 409),
        ("closed", "in_progress", 409),
        ("closed", "in_review", 409),
        ("closed", "failed", 409),
        ("failed", "open", 409),
        ("failed", "in_progress", 409),
        ("failed", "in_review", 409),
        ("failed", "closed", 409),
    ];
    for (from, to, wanted) in table {
        let (mut w, rig, bead) = in_status(from);
        if wanted != 200 {
            let (status, detail, message) = refused(&mut w, set(&rig, &bead, to));
            assert_eq!(status, wanted, "{from} → {to}");
            assert_eq!(detail, if wanted == 409 { from } else { "status" }, "{from} → {to}");
            assert!(from != "failed" || message.contains("redrive"), "{message}");
            continue;
        }
        let seen = events(&mut w, &bead).len();
        let shown = w.must(set(&rig, &bead, to));
        assert_eq!(text(&shown, "status"), to, "{from} → {to}");
        assert!(events(&mut w, &bead).len() > seen, "{from} → {to}");
        assert_eq!(shown["closed_at"].is_null(), to != "closed");
        assert_eq!(shown["failure_reason"].is_null(), to != "failed", "{from} → {to}");
        if from == "in_progress" {
            let attempt = w.attempts(&bead).remove(0);
            assert_eq!((text(&attempt, "outcome"), text(&attempt, "code")), ("cancelled", "dispatch.cancelled"));
            let live = text(&attempt, "attempt_id").to_owned();
            w.run_for(SECOND);
            assert!(w.container.running().iter().all(|(_, a)| *a != live), "{from} → {to}: its process is stopped");
        }
        if from == "in_review" {
            let mr = list(&mut w, &rig, &json!({"type": "merge_request"})).remove(0);
            assert!(matches!(text(&mr, "status"), "closed" | "failed"), "{from} → {to}: {}", mr["status"]);
            w.run_for(SECOND);
            assert!(
                w.container
                    .running()
                    .iter()
                    .all(|(_, a)| w.starts().iter().all(|s| s.attempt_id != *a || s.role != "refinery"))
            );
        }
    }
}

#[test]
fn the_same_status_again_is_no_event_and_an_unknown_one_is_refused() {
    for status in ["open", "in_progress", "in_review", "closed", "failed"] {
        let (mut w, rig, bead) = in_status(status);
        let before = w.sql.dump();
        assert_eq!(text(&w.must(set(&rig, &bead, status)), "status"), status);
        assert_eq!(w.sql.dump(), before, "{status}");
        assert!(matches!(refused(&mut w, set(&rig, &bead, "nonsense")).0, 400 | 422));
    }
}

#[test]
fn cancelling_says_why_and_by_whom_and_may_be_repeated() {
    for status in ["open", "in_progress", "in_review"] {
        let (mut w, _, bead) = in_status(status);
        let cancel = |reason: &str| Command::CancelBead { bead_id: bead.clone(), reason: reason.to_owned() };
        assert_eq!(refused(&mut w, cancel("")).0, 422, "a reason is wanted");
        let shown = w.must(cancel("the customer left"));
        assert_eq!(shown["status"], "failed");
        let why = &shown["failure_reason"];
        assert_eq!((text(why, "code"), text(why, "source")), ("cancelled", "user:owner"));
        assert!(text(why, "message").contains("the customer left"));
        assert_eq!(w.notified("bead.failed"), 0, "who did it knows");
        w.must(cancel("again"));
    }
    let (mut w, _, bead) = in_status("closed");
    assert_eq!(refused(&mut w, Command::CancelBead { bead_id: bead, reason: "x".to_owned() }).1, "closed");
}

#[test]
fn a_deleted_bead_is_gone_its_process_stopped_and_its_attempts_stay_on_record() {
    let (mut w, rig, bead) = in_status("in_progress");
    let waits = create(&mut w, &rig, waiting_for("waits", &[&bead]));
    assert_eq!(w.holds(&waits), ["blocked"]);
    w.must(Command::DeleteBead { rig_id: rig.clone(), bead_id: bead.clone() });
    w.run_for(SECOND);
    assert!(w.starts()[0].ended_at.is_some());
    assert_eq!(refused(&mut w, Command::GetBead { rig_id: None, bead_id: bead.clone() }).0, 404);
    assert_eq!(attempts(&w).iter().filter(|a| a["bead_id"] == bead.as_str()).count(), 1);
    w.run_for(10 * MINUTE);
    assert_ne!(w.attempts(&waits).len(), 0, "nothing to wait for any more");
    assert_eq!(refused(&mut w, Command::DeleteBead { rig_id: rig, bead_id: bead }).0, 404);
}

// ── making and changing ──────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_sling_answers_with_an_open_bead_and_the_idle_polecat_that_will_do_it() {
    let (mut w, rig) = World::founded(2);
    let bead = NewBead {
        body: Some("the whole story".to_owned()),
        priority: Some("critical".to_owned()),
        labels: vec!["x".to_owned()],
        metadata: Some(json!({"k": 1})),
        ..titled("one")
    };
    let slung = w.must(Command::Sling { rig_id: rig.clone(), bead });
    let (bead, agent) = (&slung["bead"], &slung["agent"]);
    assert_eq!((text(bead, "status"), text(agent, "status")), ("open", "idle"));
    assert_eq!(
        (text(bead, "type"), text(bead, "priority"), text(bead, "body")),
        ("issue", "critical", "the whole story")
    );
    assert_eq!((&bead["labels"], &bead["metadata"]), (&json!(["x"]), &json!({"k": 1})));
    assert_eq!((text(agent, "role"), text(agent, "name")), ("polecat", "Toast"));
    assert_eq!(agent["current_hook_bead_id"], bead["bead_id"]);
    assert_eq!(bead["assignee_agent_bead_id"], agent["id"]);
    let second = w.must(Command::Sling { rig_id: rig, bead: titled("two") });
    assert_eq!(second["agent"]["name"], "Maple", "Toast has its bead");
}

#[test]
fn a_bead_that_was_made_and_not_slung_is_dispatched_all_the_same() {
    let (mut w, rig) = World::founded(3);
    let bead = create(&mut w, &rig, titled("made"));
    let request = create(&mut w, &rig, labelled("a question", "gt:triage-request"));
    w.run_for(10 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), w.status(&request).as_str()), ("closed", "open"));
    assert_eq!((w.attempts(&request).len(), w.holds(&request).len()), (0, 1));
}

#[test]
fn in_an_update_absent_keys_stay_null_clears_and_a_value_replaces() {
    let (mut w, rig) = World::founded(4);
    let bead = create(
        &mut w,
        &rig,
        NewBead {
            body: Some("old".to_owned()),
            metadata: Some(json!({"a": 1, "b": 2})),
            labels: vec!["gt:held".to_owned(), "x".to_owned()],
            ..titled("old")
        },
    );
    let parent = create(&mut w, &rig, labelled("parent", "gt:held"));
    let shown = w.must(update(&rig, &bead, &json!({"title": "new"})));
    assert_eq!((text(&shown, "title"), text(&shown, "body")), ("new", "old"));
    assert_eq!((&shown["metadata"], &shown["labels"]), (&json!({"a": 1, "b": 2}), &json!(["gt:held", "x"])));
    let all =
        json!({"body": null, "metadata": {"c": 3}, "labels": ["gt:held"], "priority": "low", "parent_bead_id": parent});
    let shown = w.must(update(&rig, &bead, &all));
    assert_eq!((&shown["body"], &shown["metadata"], text(&shown, "priority")), (&Json::Null, &json!({"c": 3}), "low"));
    assert_eq!((&shown["labels"], text(&shown, "parent_bead_id")), (&json!(["gt:held"]), parent.as_str()));
    assert_eq!(w.must(update(&rig, &bead, &json!({"parent_bead_id": null})))["parent_bead_id"], Json::Null);
    assert!(events(&mut w, &bead).iter().any(|e| e["event_type"] == "fields_updated"));
    assert_eq!(w.must(update(&rig, &bead, &json!({"status": "closed"})))["status"], "closed");

    let bead = create(&mut w, &rig, labelled("held", "gt:held"));
    let other = w.add_rig("other");
    assert_eq!(refused(&mut w, update(&rig, &bead, &json!({}))).0, 400);
    assert_eq!(refused(&mut w, update(&other, &bead, &json!({"title": "x"}))).0, 403);
    assert_eq!(refused(&mut w, update(&rig, &"nobody".into(), &json!({"title": "x"}))).0, 404);
    for (patch, field) in [
        (json!({"title": ""}), "title"),
        (json!({"priority": "urgent"}), "priority"),
        (json!({"metadata": [1]}), "metadata"),
        (json!({"rig_id": "nowhere"}), "rig_id"),
        (json!({"parent_bead_id": bead}), "parent_bead_id"),
        (json!({"depends_on": ["x"]}), "depends_on"),
    ] {
        let (status, detail, _) = refused(&mut w, update(&rig, &bead, &patch));
        assert_eq!((status, detail.as_str()), (422, field), "{patch}");
    }
}

#[test]
fn a_bead_moves_to_another_rig_and_one_without_a_rig_says_so() {
    let (mut w, rig) = World::founded(5);
    let other = w.add_rig("other");
    let bead = create(&mut w, &rig, labelled("moves", "gt:held"));
    w.must(update(&rig, &bead, &json!({"rig_id": null, "labels": []})));
    w.run_for(MINUTE);
    assert_eq!((w.holds(&bead), w.attempts(&bead).len()), (vec!["no_rig_config".to_owned()], 0));
    w.must(update(&other, &bead, &json!({"rig_id": other})));
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
    assert!(w.starts().iter().all(|s| s.rig_id == other.0));
}

#[test]
fn texts_have_caps_and_the_refusal_names_the_field() {
    let (mut w, rig) = World::founded(6);
    let held = |bead: NewBead| NewBead { labels: vec!["gt:held".to_owned()], ..bead };
    let make = |bead| Command::CreateBead { rig_id: rig.clone(), bead };
    let big = |n: usize| json!({"k": "x".repeat(n - 8)});
    assert_eq!(big(64 * 1024).to_string().len(), 64 * 1024);
    w.must(make(held(titled(&"ü".repeat(250)))));
    w.must(make(held(NewBead { body: Some("x".repeat(64 * 1024)), ..titled("x") })));
    w.must(make(held(NewBead { metadata: Some(big(64 * 1024)), ..titled("x") })));
    for (bead, field) in [
        (titled(&"ü".repeat(251)), "title"),
        (titled(""), "title"),
        (NewBead { body: Some("x".repeat(64 * 1024 + 1)), ..titled("x") }, "body"),
        (NewBead { metadata: Some(big(64 * 1024 + 1)), ..titled("x") }, "metadata"),
        (NewBead { metadata: Some(json!("text")), ..titled("x") }, "metadata"),
        (NewBead { priority: Some("urgent".to_owned()), ..titled("x") }, "priority"),
    ] {
        let told = format!("{:.60}", format!("{bead:?}"));
        for command in [make(bead.clone()), Command::Sling { rig_id: rig.clone(), bead }] {
            let (status, detail, _) = refused(&mut w, command);
            assert_eq!((status, detail.as_str()), (422, field), "{told}");
        }
    }
    let mail = |n: usize| Command::SendMail {
        from_agent_id: "a".to_owned(),
        to_agent_id: "mayor".to_owned(),
        subject: "s".to_owned(),
        body: "x".repeat(n),
    };
    w.must(mail(16 * 1024));
    assert_eq!(refused(&mut w, mail(16 * 1024 + 1)).1, "body");
}

// ── dependencies and labels ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_bead_waits_for_all_its_blockers() {
    let (mut w, rig) = World::founded(7);
    let (a, b) = (create(&mut w, &rig, titled("a")), create(&mut w, &rig, labelled("b", "gt:held")));
    let waits = sling_with(&mut w, &rig, waiting_for("waits", &[&a, &b]));
    assert_eq!(w.holds(&waits), ["blocked", "blocked"]);
    let refs: Vec<_> =
        w.explain(&waits)["holds"].as_array().unwrap().iter().map(|h| h["ref"]["bead_id"].clone()).collect();
    assert!(refs.contains(&json!(a)) && refs.contains(&json!(b)));
    w.run_for(10 * MINUTE);
    assert_eq!((w.status(&a).as_str(), w.holds(&waits)), ("closed", vec!["blocked".to_owned()]));
    w.must(update(&rig, &b, &json!({"labels": []})));
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&waits), "closed");
    let started = |b: &BeadId| w.starts_of(b)[0].at;
    assert!(started(&waits) > started(&b) && started(&b) > started(&a));
}

#[test]
fn a_cycle_is_refused_with_its_path_and_changes_nothing() {
    let (mut w, rig) = World::founded(8);
    let held = |t: &str| labelled(t, "gt:held");
    let a = create(&mut w, &rig, held("a"));
    let b = create(&mut w, &rig, NewBead { labels: held("").labels, ..waiting_for("b", &[&a]) });
    let c = create(&mut w, &rig, NewBead { labels: held("").labels, ..waiting_for("c", &[&b]) });
    let (status, field, message) = refused(&mut w, update(&rig, &a, &json!({"depends_on": [c]})));
    assert_eq!((status, field.as_str()), (422, "depends_on"));
    assert!([&a, &b, &c].iter().all(|id| message.contains(id.as_str())), "{message}");
    let (status, field, _) = refused(&mut w, update(&rig, &a, &json!({"depends_on": [a]})));
    assert_eq!((status, field.as_str()), (422, "depends_on"));
    let unknown = "00000000-0000-4000-8000-000000000000";
    assert_eq!(refused(&mut w, update(&rig, &a, &json!({"depends_on": [unknown]}))).1, "depends_on");
    // Replaced edges no longer count.
    w.must(update(&rig, &b, &json!({"depends_on": []})));
    w.must(update(&rig, &a, &json!({"depends_on": [c]})));
    assert!(w.holds(&a).contains(&"blocked".to_owned()) && !w.holds(&b).contains(&"blocked".to_owned()));
}

#[test]
fn a_failed_blocker_holds_unless_the_bead_says_otherwise() {
    let (mut w, rig) = World::founded(9);
    let blocker = create(&mut w, &rig, labelled("fails", "gt:held"));
    let waits = create(&mut w, &rig, waiting_for("waits", &[&blocker]));
    let does_not = create(
        &mut w,
        &rig,
        NewBead { metadata: Some(json!({"allow_failed_blockers": true})), ..waiting_for("does not", &[&blocker]) },
    );
    w.must(Command::CancelBead { bead_id: blocker.clone(), reason: "x".to_owned() });
    w.run_for(10 * MINUTE);
    assert_eq!((w.status(&waits).as_str(), w.holds(&waits)), ("open", vec!["blocker_failed".to_owned()]));
    assert_eq!(w.status(&does_not), "closed");
    // It may change its mind, and so may the blocker.
    w.must(Command::RedriveBead { bead_id: blocker.clone(), reason: None });
    assert_eq!(w.holds(&waits), ["blocked"]);
    w.must(Command::CancelBead { bead_id: blocker, reason: "x".to_owned() });
    w.must(update(&rig, &waits, &json!({"metadata": {"allow_failed_blockers": true}})));
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&waits), "closed");
}

#[test]
fn a_held_bead_waits_until_its_label_is_removed() {
    let (mut w, rig) = World::founded(10);
    let bead = sling_with(&mut w, &rig, labelled("held", "gt:held"));
    w.run_for(24 * HOUR);
    assert_eq!((w.attempts(&bead).len(), w.holds(&bead), w.alarm()), (0, vec!["held_label".to_owned()], None));
    w.must(update(&rig, &bead, &json!({"labels": ["other"]})));
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&bead), "closed");
}

#[test]
fn what_is_more_urgent_goes_first_and_then_what_is_older() {
    let (mut w, rig) = World::founded(11);
    w.patch_config(json!({"dispatch": {"max_polecats_per_rig": 1}}));
    polecats(&mut w, quick(10 * SECOND));
    let with = |title: &str, priority: &str| NewBead { priority: Some(priority.to_owned()), ..titled(title) };
    let made: Vec<BeadId> = [("a", "low"), ("b", "medium"), ("c", "critical"), ("d", "high"), ("e", "medium")]
        .map(|(t, p)| create(&mut w, &rig, with(t, p)))
        .into();
    w.run_for(30 * MINUTE);
    let order: Vec<_> = w.starts().iter().map(|s| s.bead8.clone().unwrap()).collect();
    let wanted: Vec<_> = [2, 3, 1, 4, 0].iter().map(|i| made[*i].short().to_owned()).collect();
    assert_eq!(order, wanted);
}

// ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn beads_are_listed_newest_first_by_status_type_and_assignee_in_pages() {
    let (mut w, rig) = World::founded(12);
    let other = w.add_rig("other");
    let made: Vec<BeadId> = (0..5).map(|n| create(&mut w, &rig, labelled(&format!("{n}"), "gt:held"))).collect();
    create(&mut w, &other, labelled("elsewhere", "gt:held"));
    let ids = |list: Vec<Json>| -> Vec<BeadId> { list.iter().map(|b| text(b, "bead_id").into()).collect() };
    let newest: Vec<BeadId> = made.iter().rev().cloned().collect();
    assert_eq!(ids(list(&mut w, &rig, &json!({}))), newest);
    assert_eq!(ids(list(&mut w, &rig, &json!({"limit": 2, "offset": 1}))), newest[1..3]);
    w.must(set(&rig, &made[0], "closed"));
    assert_eq!(ids(list(&mut w, &rig, &json!({"status": "closed"}))), [made[0].clone()]);
    assert_eq!(list(&mut w, &rig, &json!({"type": "issue"})).len(), 5);
    for kind in ["message", "agent", "merge_request", "convoy"] {
        assert_eq!(list(&mut w, &rig, &json!({"type": kind})), Vec::<Json>::new());
    }
    let agent = w.must(Command::GetOrCreateAgent { rig_id: rig.clone(), role: "polecat".to_owned() });
    w.must(Command::Hook { rig_id: rig.clone(), agent_id: text(&agent, "id").into(), bead_id: made[2].clone() });
    assert_eq!(ids(list(&mut w, &rig, &json!({"assignee": agent["id"]}))), [made[2].clone()]);
    for wrong in [json!({"status": "x"}), json!({"type": "x"})] {
        assert_eq!(refused(&mut w, beads_of(&rig, &wrong)).0, 400);
    }
    let elsewhere = Command::GetBead { rig_id: Some(other), bead_id: made[0].clone() };
    assert_eq!(refused(&mut w, elsewhere).0, 404, "another rig's bead is not there");
}

#[test]
fn attempts_are_listed_newest_first_in_pages_and_by_every_filter() {
    let (mut w, rig) = World::founded(13);
    every_start(&mut w, 500, &error("no"));
    let bead = w.sling(&rig, "one");
    let begun = w.now();
    w.run_for(2 * HOUR);
    let all: Vec<Json> = w.attempts(&bead).into_iter().rev().collect();
    assert_eq!(all.len(), 5);
    let page = |w: &mut World, filter: AttemptFilter| w.must(Command::ListAttempts { filter });
    let first = page(&mut w, AttemptFilter { limit: Some(2), ..AttemptFilter::default() });
    assert_eq!((first["attempts"].as_array().unwrap().as_slice(), &first["next"]), (&all[..2], &all[1]["attempt_id"]));
    let before = Some(text(&first, "next").to_owned());
    let second = page(&mut w, AttemptFilter { limit: Some(3), before, ..AttemptFilter::default() });
    assert_eq!((second["attempts"].as_array().unwrap().as_slice(), &second["next"]), (&all[2..], &Json::Null));
    let text_of = |key: &str| Some(text(&all[0], key).to_owned());
    let f = AttemptFilter::default;
    for (filter, wanted) in [
        (AttemptFilter { outcome: Some("failed".to_owned()), ..f() }, 5),
        (AttemptFilter { outcome: Some("succeeded".to_owned()), ..f() }, 0),
        (AttemptFilter { class: Some("unknown".to_owned()), ..f() }, 5),
        (AttemptFilter { class: Some("infra".to_owned()), ..f() }, 0),
        (AttemptFilter { code: Some("container.error".to_owned()), ..f() }, 5),
        (AttemptFilter { fingerprint: text_of("fingerprint"), ..f() }, 5),
        (AttemptFilter { rig_id: Some(rig.0.clone()), ..f() }, 5),
        (AttemptFilter { bead_id: Some(bead.0.clone()), ..f() }, 5),
        (AttemptFilter { since: Some(begun.plus(5 * MINUTE).to_string()), ..f() }, 3),
    ] {
        let told = format!("{filter:?}");
        assert_eq!(page(&mut w, filter)["attempts"].as_array().unwrap().len(), wanted, "{told}");
    }
    for limit in [0, 501] {
        let filter = AttemptFilter { limit: Some(limit), ..f() };
        assert_eq!(refused(&mut w, Command::ListAttempts { filter }).1, "limit");
    }
    let keys = [
        "attempt_id",
        "bead_id",
        "agent_id",
        "agent_name",
        "rig_id",
        "role",
        "outcome",
        "class",
        "code",
        "reason",
        "status_code",
        "fingerprint",
        "charged",
        "probe",
        "generation",
        "booked_at",
        "lease_until",
        "accepted_at",
        "proven_at",
        "finished_at",
        "duration_ms",
    ];
    assert!(keys.iter().all(|k| all[0].get(k).is_some()), "every key is always present: {}", all[0]);
}

// ── agents ───────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_hook_binds_one_agent_to_one_bead_and_starts_nothing_by_itself() {
    let (mut w, rig) = World::founded(14);
    let held = |w: &mut World, t: &str| create(w, &rig, labelled(t, "gt:held"));
    let (one, two) = (held(&mut w, "one"), held(&mut w, "two"));
    let agent = w.must(Command::GetOrCreateAgent { rig_id: rig.clone(), role: "polecat".to_owned() });
    let agent: gastown::town::id::AgentId = text(&agent, "id").into();
    let hook = |bead: &BeadId| Command::Hook { rig_id: rig.clone(), agent_id: agent.clone(), bead_id: bead.clone() };
    w.must(hook(&one));
    let shown = w.must(Command::GetAgent { rig_id: rig.clone(), agent_id: agent.clone() });
    assert_eq!((text(&shown, "status"), text(&shown, "current_hook_bead_id")), ("idle", one.as_str()));
    assert_eq!((w.status(&one).as_str(), text(&w.bead(&one), "assignee_agent_bead_id")), ("open", agent.as_str()));
    let before = w.sql.dump();
    w.must(hook(&one));
    assert_eq!(w.sql.dump(), before, "the same again is nothing");
    assert_eq!(refused(&mut w, hook(&two)).0, 409, "it has another");
    let other = w.must(Command::CreateAgent {
        rig_id: rig.clone(),
        role: "polecat".to_owned(),
        name: "Zed".to_owned(),
        identity: "zed".to_owned(),
    });
    let other: gastown::town::id::AgentId = text(&other, "id").into();
    let taken = Command::Hook { rig_id: rig.clone(), agent_id: other, bead_id: one.clone() };
    assert_eq!(refused(&mut w, taken).0, 409, "another has it");
    w.must(Command::Unhook { rig_id: rig.clone(), agent_id: agent.clone() });
    assert_eq!(w.bead(&one)["assignee_agent_bead_id"], Json::Null, "hook and assignee go together");
    let request = create(&mut w, &rig, labelled("?", "gt:triage-request"));
    assert!(matches!(refused(&mut w, hook(&request)).0, 409 | 422));
}

#[test]
fn unhooking_or_deleting_an_agent_at_work_ends_its_attempt() {
    for delete in [false, true] {
        let (mut w, rig, bead) = in_status("in_progress");
        let attempt = last(&w, &bead);
        let agent_id = text(&attempt, "agent_id").into();
        w.must(if delete {
            Command::DeleteAgent { rig_id: rig, agent_id }
        } else {
            Command::Unhook { rig_id: rig, agent_id }
        });
        assert_eq!(w.attempts(&bead)[0]["outcome"], "cancelled");
        w.run_for(SECOND);
        assert!(w.starts()[0].ended_at.is_some(), "stopped");
        assert_eq!(w.container.twice(), Vec::<String>::new());
    }
}

#[test]
fn agents_are_made_named_found_and_limited_as_the_protocol_says() {
    let (mut w, rig) = World::founded(15);
    let make = |role: &str, name: &str, identity: &str| Command::CreateAgent {
        rig_id: rig.clone(),
        role: role.to_owned(),
        name: name.to_owned(),
        identity: identity.to_owned(),
    };
    let get = |role: &str| Command::GetOrCreateAgent { rig_id: rig.clone(), role: role.to_owned() };
    let refinery = w.must(get("refinery"));
    assert_eq!((text(&refinery, "role"), text(&refinery, "name")), ("refinery", "refinery"));
    assert_eq!(w.must(get("refinery"))["id"], refinery["id"]);
    assert_eq!(refused(&mut w, make("refinery", "r", "r")).0, 409, "a rig has one");
    w.must(make("polecat", "Zed", "zed"));
    assert_eq!(refused(&mut w, make("polecat", "Zed", "zed")).0, 409, "an identity is unique");
    assert!(matches!(refused(&mut w, make("witness", "x", "x")).0, 400 | 422));
    assert!(matches!(refused(&mut w, make("mayor", "x", "x")).0, 400 | 422));
    let polecats = w.must(Command::ListAgents { rig_id: rig.clone(), role: Some("polecat".to_owned()), status: None });
    assert_eq!(polecats.as_array().unwrap().len(), 1);
    // Whoever is idle first, then twenty names, then numbers.
    let names: Vec<String> = (0..22)
        .map(|n| {
            let slung = w.must(Command::Sling { rig_id: rig.clone(), bead: labelled(&format!("{n}"), "gt:held") });
            text(&slung["agent"], "name").to_owned()
        })
        .collect();
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 22);
    assert_eq!((names[0].as_str(), names[1].as_str()), ("Zed", "Toast"));
    assert!(names[21].starts_with("Polecat-"), "{names:?}");
}

#[test]
fn a_rig_that_is_removed_takes_its_beads_agents_and_processes_with_it_and_no_others() {
    let (mut w, rig) = World::founded(16);
    let other = w.add_rig("other");
    polecats(&mut w, Behaviour::hangs());
    let beads = sling_many(&mut w, &rig, 2);
    let stays = w.sling(&other, "stays");
    w.run_for(5 * MINUTE);
    assert_eq!(w.container.running().len(), 3);
    w.must(Command::RemoveRig { rig_id: rig.clone() });
    w.run_for(MINUTE);
    let left: Vec<String> = w.container.running().iter().map(|(_, a)| (*a).to_owned()).collect();
    assert_eq!(left, [text(&last(&w, &stays), "attempt_id")]);
    for bead_id in beads {
        assert_eq!(refused(&mut w, Command::GetBead { rig_id: None, bead_id }).0, 404);
    }
    let rigs = w.must(Command::ListRigs);
    assert_eq!(rigs.as_array().unwrap().len(), 1);
    assert_eq!(refused(&mut w, Command::Sling { rig_id: rig.clone(), bead: titled("x") }).0, 404);
    assert_eq!(refused(&mut w, Command::RemoveRig { rig_id: rig }).0, 404);
    w.run_for(HOUR);
    assert_eq!(w.status(&stays), "in_progress");
}
