//! The gate at its edges: until when each reason holds, to the millisecond, how many are told, who takes a bead, and what
//! a mask lets through (`design.md` 5.6, `api.md`, *Explanation*).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Command, NewBead};
use gastown::town::effect::Effect;
use gastown::town::id::{AgentId, BeadId, RigId};
use gastown::town::policy::{BLOCKERS_SHOWN, DRAIN_LIMIT};
use gastown::town::sql::Sql as _;
use gastown::town::time::{HOUR, MINUTE, SECOND, Timestamp};
use gastown::town::{Ctx, Town};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

/// The hold of this kind, if the bead has it.
fn hold(w: &World, bead: &BeadId, code: &str) -> Option<Json> {
    let told = w.explain(bead);
    told["holds"].as_array().unwrap().iter().find(|h| h["code"] == code).cloned()
}

fn until(w: &World, bead: &BeadId, code: &str) -> Timestamp {
    time(&hold(w, bead, code).unwrap_or_else(|| panic!("no {code}: {}", w.explain(bead)))["until"])
}

fn create(w: &mut World, rig: &RigId, bead: NewBead) -> BeadId {
    text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead }), "bead_id").into()
}

fn titled(title: &str) -> NewBead {
    NewBead { title: title.to_owned(), ..NewBead::default() }
}

fn force(w: &mut World, scope: &str, mode: &str) {
    let (scope, mode, reason) = (scope.to_owned(), mode.to_owned(), Some("a test".to_owned()));
    w.must(Command::OverrideBreaker { scope, mode, reason, expires_in_ms: Some(HOUR) });
}

fn edit(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

/// Who would be started by a tick now: (bead, agent).
fn starts_now(w: &World) -> Vec<(String, String)> {
    let effects = Town::new(&w.sql).tick(&Ctx::new(w.now(), &w.ids)).unwrap();
    let start = |e: Effect| match e {
        Effect::StartAgent(s) => {
            let bead = w.sql.peek("SELECT bead_id FROM attempts WHERE attempt_id = ?1", &[(&s.attempt_id).into()]);
            Some((bead[0].text(0).unwrap(), s.agent_id.0))
        }
        _ => None,
    };
    effects.into_iter().filter_map(start).collect()
}

/// Opens the town's breaker by a refused key, which takes one failure.
fn refuse_the_key(w: &mut World, rig: &RigId) -> BeadId {
    let refused = r#"{"error":"no credit","phase":"initial_prompt","status":402}"#;
    w.container.faults.once(Endpoint::Start, Fault::answer(500, refused));
    let bead = w.sling(rig, "opens the town");
    assert!(w.run_while_not(MINUTE, |w| w.breaker("town")["state"] == "open"), "{}", w.journal());
    bead
}

// ── until when ───────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_backoff_holds_until_its_very_millisecond() {
    let (mut w, rig) = World::founded(1);
    w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    let due = Timestamp(row(&w, &bead, "next_dispatch_at").unwrap());
    assert_eq!(until(&w, &bead, "backoff"), due);
    w.clock.set(due.plus(-1));
    assert!(hold(&w, &bead, "backoff").is_some());
    w.clock.set(due);
    assert!(hold(&w, &bead, "backoff").is_none());
}

#[test]
fn a_refused_review_holds_until_its_very_millisecond() {
    let (mut w, rig) = World::founded(2);
    let bead = create(&mut w, &rig, titled("one"));
    let at = w.now().plus(MINUTE);
    w.sql.execute("UPDATE beads SET review_not_before = ?1, not_before = ?1, review_rounds = 1", &[at.into()]).unwrap();
    assert_eq!(until(&w, &bead, "review_backoff"), at);
    w.clock.set(at.plus(-1));
    assert!(hold(&w, &bead, "review_backoff").is_some());
    w.clock.set(at);
    assert!(hold(&w, &bead, "review_backoff").is_none());
}

#[test]
fn every_hold_of_the_town_says_when_it_ends_and_what_lifts_it() {
    let (mut w, rig) = World::founded(3);
    let bead = create(&mut w, &rig, titled("one"));
    force(&mut w, "town", "forced_open");
    let forced = hold(&w, &bead, "breaker_open").unwrap();
    assert_eq!(
        (time(&forced["until"]), text(&forced, "lifts")),
        (w.now().plus(HOUR), "set the breaker's mode to auto")
    );
    assert!(text(&forced, "text").contains("forced the breaker of town open: a test"), "{forced}");
    w.must(Command::ContainerEviction);
    assert_eq!(until(&w, &bead, "draining"), w.now().plus(DRAIN_LIMIT));

    let (mut w, rig) = World::founded(4);
    let bead = refuse_the_key(&mut w, &rig);
    let open = hold(&w, &bead, "breaker_open").unwrap();
    assert_eq!(open["until"], w.breaker("town")["next_probe_at"]);
    assert!(!open["until"].is_null() && text(&open, "text").contains("is open: "), "{open}");

    let (mut w, rig) = World::founded(5);
    w.container.faults.once(Endpoint::Start, Fault::Answer(throttled()));
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    assert_eq!(until(&w, &bead, "town_hold"), time(&w.dispatch()["hold"]["until"]));
}

fn throttled() -> gastown_host::fault::Said {
    gastown_host::fault::Said { status: 429, body: String::new(), retry_after: Some(5 * MINUTE) }
}

// ── how many ─────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn of_many_blockers_twenty_are_named() {
    let (mut w, rig) = World::founded(6);
    force(&mut w, "town", "forced_open");
    let blockers: Vec<_> = (0..25).map(|n| create(&mut w, &rig, titled(&format!("blocker {n}"))).0).collect();
    let labels = vec!["gt:held".to_owned()];
    let bead = create(&mut w, &rig, NewBead { depends_on: blockers, labels, ..titled("waits") });
    let holds = w.holds(&bead);
    assert_eq!(holds.iter().filter(|h| *h == "blocked").count(), BLOCKERS_SHOWN, "{holds:?}");
    assert!(holds.contains(&"held_label".to_owned()));
}

#[test]
fn a_failed_blocker_that_is_allowed_is_no_reason_beside_one_that_is_open() {
    let (mut w, rig) = World::founded(7);
    force(&mut w, "town", "forced_open");
    let blockers = [create(&mut w, &rig, titled("fails")), create(&mut w, &rig, titled("open"))];
    let depends_on: Vec<_> = blockers.iter().map(|b| b.0.clone()).collect();
    let metadata = Some(json!({"allow_failed_blockers": true}));
    let tolerant = create(&mut w, &rig, NewBead { depends_on: depends_on.clone(), metadata, ..titled("tolerant") });
    let strict = create(&mut w, &rig, NewBead { depends_on, ..titled("strict") });
    w.must(Command::CancelBead { bead_id: blockers[0].clone(), reason: "no".to_owned() });
    let of = |w: &World, bead: &BeadId| -> Vec<String> {
        w.holds(bead).into_iter().filter(|h| h.starts_with("block")).collect()
    };
    assert_eq!(of(&w, &tolerant), ["blocked"]);
    let mut both = of(&w, &strict);
    both.sort();
    assert_eq!(both, ["blocked", "blocker_failed"]);
}

// ── who takes it ─────────────────────────────────────────────────────────────────────────────────────────────────

/// A bead hooked to an idle polecat, held back by hand until the test lets go.
fn hooked(seed: u64) -> (World, RigId, BeadId, AgentId) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    let agent = text(&w.bead(&bead), "assignee_agent_bead_id").into();
    (w, rig, bead, agent)
}

#[test]
fn the_agent_that_is_hooked_takes_its_bead() {
    let (w, _, bead, agent) = hooked(8);
    assert_eq!(starts_now(&w), [(bead.0, agent.0)]);
}

#[test]
fn an_agent_that_is_not_idle_of_another_rig_or_role_or_just_being_stopped_takes_nothing() {
    for edit_ in [
        "UPDATE agents SET status = 'stalled' WHERE role = 'polecat'",
        "UPDATE agents SET rig_id = 'elsewhere' WHERE role = 'polecat'",
        "UPDATE agents SET role = 'refinery' WHERE role = 'polecat'",
        "INSERT INTO stops (stop_id, attempt_id, agent_id, booked_at, due_at, sent_until)
         SELECT 's', 'a', agent_id, 0, 0, 9000000000000 FROM agents WHERE role = 'polecat'",
    ] {
        let (w, _, bead, agent) = hooked(9);
        edit(&w, edit_);
        let started = starts_now(&w);
        assert_eq!((started.len(), started[0].0.as_str()), (1, bead.as_str()), "{edit_}");
        assert_ne!(started[0].1, agent.0, "{edit_}");
        let hooks = "SELECT count(*) FROM agents WHERE current_hook_bead_id IS NOT NULL";
        assert_eq!(w.sql.peek(hooks, &[])[0].int(0).unwrap(), 1, "the hook went with the bead");
    }
}

#[test]
fn a_review_waits_for_the_refinery_at_work_and_for_one_that_is_being_stopped() {
    let reviews = |w: &World| -> Vec<BeadId> {
        let rows = w.sql.peek("SELECT bead_id FROM beads WHERE type = 'merge_request' ORDER BY seq", &[]);
        rows.iter().map(|r| BeadId(r.text(0).unwrap())).collect()
    };
    let (mut w, rig) = World::founded(10);
    refineries(&mut w, Behaviour::hangs());
    w.sling(&rig, "one");
    w.sling(&rig, "two");
    assert!(w.run_while_not(10 * MINUTE, |w| reviews(w).len() == 2), "{}", w.journal());
    w.run_for(SECOND);
    let waits = reviews(&w).remove(1);
    assert_eq!(w.holds(&waits), ["rig_refinery_busy"]);
    // It ends, and a stop for its process is on its way.
    let at_work = last(&w, &reviews(&w)[0]);
    w.container.faults.set(Endpoint::Stop, Fault::HangBefore);
    w.must(Command::CancelBead { bead_id: reviews(&w)[0].clone(), reason: "no".to_owned() });
    w.run_for(SECOND);
    let sent = "SELECT count(*) FROM stops WHERE sent_until IS NOT NULL AND agent_id = ?1";
    assert_eq!(w.sql.peek(sent, &[text(&at_work, "agent_id").into()])[0].int(0).unwrap(), 1, "{}", w.journal());
    assert_eq!(w.holds(&waits), ["rig_refinery_busy"], "the stop could reach the next process");
    assert!(w.attempts(&waits).is_empty());
    w.container.faults.clear_all();
    assert!(w.run_while_not(MINUTE, |w| w.attempts(&waits).len() == 1), "{}", w.journal());
}

// ── what a mask lets through ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn under_a_mask_the_first_attempt_after_the_probes_time_is_the_trial_and_only_that_one() {
    let (mut w, rig) = World::founded(11);
    w.container.behave_all(Behaviour::hangs());
    w.sling(&rig, "makes the instance known");
    w.run_for(SECOND);
    refuse_the_key(&mut w, &rig);
    let due = time(&w.breaker("town")["next_probe_at"]);
    force(&mut w, "town", "shadow");
    let early = w.sling(&rig, "early");
    w.run_for(SECOND);
    assert_eq!(last(&w, &early)["probe"], false, "the probe is not due yet: {}", w.journal());
    w.clock.set(due.plus(-1));
    let just_before = create(&mut w, &rig, titled("just before"));
    starts_now(&w);
    assert_eq!(last(&w, &just_before)["probe"], false);
    w.clock.set(due);
    let on_time = create(&mut w, &rig, titled("on time"));
    starts_now(&w);
    assert_eq!(last(&w, &on_time)["probe"], true);
    edit(&w, "UPDATE attempts SET proven_at = 1 WHERE finished_at IS NULL");
    let later = create(&mut w, &rig, titled("later"));
    starts_now(&w);
    assert_eq!(last(&w, &later)["probe"], false, "one trial at a time");
}

#[test]
fn a_closed_breaker_under_a_mask_tries_nothing() {
    let (mut w, rig) = World::founded(12);
    w.container.behave_all(Behaviour::hangs());
    force(&mut w, "town", "shadow");
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    assert_eq!(last(&w, &bead)["probe"], false);
    assert_eq!(w.breaker("town")["state"], "closed");
}
