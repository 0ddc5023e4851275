//! Escalations that nobody acknowledges are raised (`domain.md` 8).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

mod support_host;

use gastown::town::command::{Actor, Command};
use gastown::town::id::RigId;
use gastown::town::time::{HOUR, MINUTE, Timestamp};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support_host::*;

/// A quiet town in which an agent has asked for help.
fn raised(severity: &str) -> (World, String) {
    let (mut w, rig) = World::founded(9);
    let id = raise(&mut w, &rig, severity, None);
    (w, id)
}
fn raise(w: &mut World, rig: &RigId, severity: &str, actor: Option<Actor>) -> String {
    let command = Command::Escalate {
        rig_id: rig.clone(),
        title: "It is stuck".to_owned(),
        body: Some("The tests hang.".to_owned()),
        priority: Some(severity.to_owned()),
        metadata: Some(json!({"try": 3})),
    };
    let actor = actor.unwrap_or_else(|| voice("toast", None));
    text(&w.command(&actor, command).unwrap().data, "id").to_owned()
}
fn shown(w: &mut World) -> Json {
    w.must(Command::ListEscalations { acknowledged: None })[0].clone()
}
fn severity(w: &mut World) -> (String, u64) {
    let e = shown(w);
    (text(&e, "severity").to_owned(), e["re_escalation_count"].as_u64().unwrap())
}

#[test]
fn it_keeps_body_metadata_and_caller_and_answers_what_both_kinds_of_reader_expect() {
    let (mut w, id) = raised("medium");
    let e = shown(&mut w);
    let wanted = json!({"id": id, "bead_id": id, "type": "escalation", "severity": "medium", "priority": "medium",
                        "message": "It is stuck", "source_agent_id": "toast", "acknowledged": 0, "status": "open"});
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&e[key], value, "{key}");
    }
    let bead = w.bead(&id.as_str().into());
    assert_eq!((text(&bead, "body"), &bead["metadata"]), ("The tests hang.", &json!({"try": 3})));
    assert_eq!(text(&bead, "created_by"), "toast");
}

#[test]
fn it_is_raised_one_step_every_four_hours_three_times_and_the_mayor_is_told_each_time() {
    let (mut w, id) = raised("low");
    assert_eq!(mail_with(&w, "It is stuck"), 0, "low");
    w.run_for(4 * HOUR - MINUTE);
    assert_eq!(severity(&mut w), ("low".to_owned(), 0));
    for (n, word) in [(1, "medium"), (2, "high"), (3, "critical")] {
        w.run_for(if n == 1 { 2 * MINUTE } else { 4 * HOUR });
        assert_eq!(severity(&mut w), (word.to_owned(), n));
        assert_eq!(mail_with(&w, &format!("Escalation ({word})")), 1);
        let bead = w.bead(&id.as_str().into());
        assert_eq!(
            (text(&bead, "priority"), &bead["labels"]),
            (word, &json!(["gt:escalation", format!("severity:{word}")]))
        );
    }
    assert_eq!(w.alarm(), None, "and then nothing is due any more");
    w.run_for(24 * HOUR);
    assert_eq!((severity(&mut w).1, mail_with(&w, "It is stuck")), (3, 3));
}

#[test]
fn what_cannot_become_more_urgent_is_told_again() {
    let (mut w, _) = raised("critical");
    w.run_for(5 * HOUR);
    assert_eq!(severity(&mut w), ("critical".to_owned(), 1));
    assert_eq!(mail_with(&w, "Escalation (critical)"), 2);
}

#[test]
fn the_alarm_stands_at_the_next_step_and_an_acknowledgement_ends_it() {
    let (mut w, id) = raised("high");
    let at = time(&shown(&mut w)["created_at"]).plus(4 * HOUR);
    assert_eq!(w.alarm(), Some(at));
    w.must(Command::AcknowledgeEscalation { escalation_id: id.as_str().into() });
    assert_eq!(w.alarm(), None::<Timestamp>);
    w.run_for(24 * HOUR);
    assert_eq!(severity(&mut w), ("high".to_owned(), 0));
}

#[test]
fn what_the_mayor_itself_asks_people_is_not_told_to_the_mayor() {
    let (mut w, rig) = World::founded(9);
    let mayor = w.sql.peek("SELECT mayor_agent_id FROM town", &[])[0].text(0).unwrap();
    raise(&mut w, &rig, "high", Some(voice(&mayor, None)));
    w.run_for(13 * HOUR);
    assert_eq!((severity(&mut w), mail_with(&w, "It is stuck")), (("critical".to_owned(), 3), 0));
}

#[test]
fn an_escalation_whose_bead_was_deleted_is_raised_no_more() {
    let (mut w, id) = raised("high");
    let rig_id = RigId(format!("mayor-{}", w.town_id));
    w.must(Command::DeleteBead { rig_id, bead_id: id.as_str().into() });
    assert_eq!(w.alarm(), None);
}
