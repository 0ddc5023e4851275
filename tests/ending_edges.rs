//! The end of an attempt at its edges: what it tells, what it leaves in the rows, and whom it blames (`design.md` 5.2, 5.3).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::Command;
use gastown::town::effect::{Answer, DataPoint, Effect, Outcome};
use gastown::town::id::{BeadId, RigId};
use gastown::town::sql::Sql as _;
use gastown::town::time::{HOUR, MINUTE, SECOND};
use gastown::town::{Ctx, Town};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::{Value as Json, json};
use support::*;

fn edit(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

fn events(w: &mut World, bead: &BeadId, kind: &str) -> Vec<Json> {
    let all = w.must(Command::ListEvents { bead_id: Some(bead.clone()), since: None, limit: Some(500) });
    all.as_array().unwrap().iter().filter(|e| e["event_type"] == kind).cloned().collect()
}

fn moves(w: &mut World, bead: &BeadId) -> Vec<(String, String)> {
    let of = |e: &Json| (text(e, "old_value").to_owned(), text(e, "new_value").to_owned());
    events(w, bead, "status_changed").iter().rev().map(of).collect()
}

fn started(w: &World, attempt: &Json, answer: Answer) -> Vec<Effect> {
    let outcome = Outcome::Started { attempt_id: text(attempt, "attempt_id").into(), answer, stops: Vec::new() };
    Town::new(&w.sql).settle(&Ctx::new(w.now(), &w.ids), outcome).unwrap()
}

fn http(status: u16, body: &str) -> Answer {
    Answer::Http { status, body: body.to_owned(), retry_after: None }
}

/// A running bead.
fn running(seed: u64) -> (World, RigId, BeadId) {
    let (mut w, rig) = World::founded(seed);
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    (w, rig, bead)
}

// ── what it tells ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_end_tells_analytics_whose_it_was_how_long_it_took_and_with_which_status() {
    let (mut w, rig) = World::founded(1);
    w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    let attempt = last(&w, &bead);
    let DataPoint { event, error, rig_id, agent_id, bead_id, label, role, reason, duration_ms, status_code, .. } =
        w.points_of("agent.dispatch_failed")[0].clone();
    assert_eq!((event, label.as_str(), role.as_str()), ("agent.dispatch_failed", "container.error", "polecat"));
    assert_eq!((rig_id.as_str(), agent_id.as_str()), (rig.as_str(), text(&attempt, "agent_id")));
    assert_eq!((bead_id.as_str(), error.as_str(), &reason), (bead.as_str(), text(&attempt, "reason"), &error));
    let ran = attempt["duration_ms"].as_f64().unwrap();
    assert_eq!([duration_ms, status_code].map(f64::to_bits), [ran, 500.0].map(f64::to_bits));
    assert!(ran > 0.0);
}

#[test]
fn a_failure_leaves_an_event_with_attempt_code_and_cost_and_a_move_in_its_agents_name() {
    let (mut w, rig) = World::founded(2);
    w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    let attempt = last(&w, &bead);
    let failed = events(&mut w, &bead, "dispatch_failed");
    assert_eq!(failed.len(), 1);
    assert_eq!((&failed[0]["old_value"], &failed[0]["new_value"]), (&attempt["attempt_id"], &attempt["code"]));
    assert_eq!(failed[0]["metadata"]["charged"], true);
    let back = events(&mut w, &bead, "status_changed").remove(0);
    assert_eq!((text(&back, "new_value"), &back["agent_id"]), ("open", &attempt["agent_id"]));
    assert_eq!(row(&w, &bead, "last_failure_charged"), Some(1));
    w.container.faults.once(Endpoint::Start, Fault::Refuse);
    assert!(w.run_while_not(10 * MINUTE, |w| w.attempts(&bead).len() == 2 && streak(w, &bead) == 2));
    assert_eq!(row(&w, &bead, "last_failure_charged"), Some(0), "the last one was not");
}

#[test]
fn a_bead_or_review_that_fails_by_dispatch_is_told_by_name_and_in_its_agents_name() {
    let (mut w, rig) = World::founded(3);
    w.container.faults.once(Endpoint::Start, Fault::answer(400, error("bad body")));
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    assert_eq!(w.status(&bead), "failed");
    let end = events(&mut w, &bead, "status_changed").remove(0);
    assert_eq!((text(&end, "new_value"), &end["agent_id"]), ("failed", &last(&w, &bead)["agent_id"]));
    assert!(told(&w, "bead.failed").iter().any(|n| text(n, "text").contains("The bead «one» failed")));

    let (mut w, rig) = World::founded(4);
    let bead = w.sling(&rig, "two");
    assert!(w.run_while_not(10 * MINUTE, |w| w.status(&bead) == "in_review"));
    w.container.faults.set(Endpoint::Start, Fault::answer(400, error("bad body")));
    w.run_for(MINUTE);
    assert!(told(&w, "bead.failed").iter().any(|n| text(n, "text").contains("The review «")), "{}", w.journal());
}

// ── what it leaves ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_dispatch_that_somebody_stops_is_no_failure_of_its_bead() {
    let (mut w, rig, bead) = running(5);
    let agent_id = text(&last(&w, &bead), "agent_id").into();
    w.must(Command::Unhook { rig_id: rig, agent_id });
    assert_eq!((w.status(&bead).as_str(), charged(&w, &bead), streak(&w, &bead)), ("open", 1, 1));
    assert_eq!((row(&w, &bead, "next_dispatch_at"), row(&w, &bead, "last_failed_at")), (None, None), "due at once");
    assert!(events(&mut w, &bead, "dispatch_failed").is_empty());

    let (mut w, _, bead) = running(6);
    w.must(Command::CancelBead { bead_id: bead.clone(), reason: "not wanted".to_owned() });
    assert_eq!((w.status(&bead).as_str(), streak(&w, &bead)), ("failed", 1));
    assert_eq!((row(&w, &bead, "next_dispatch_at"), row(&w, &bead, "last_failed_at")), (None, None));
    assert_eq!(w.bead(&bead)["failure_reason"]["code"], "cancelled");
    let way: Vec<_> = moves(&mut w, &bead).into_iter().map(|m| m.1).collect();
    assert_eq!(way, ["in_progress", "failed"], "straight on, and once");
}

#[test]
fn a_cancelled_bead_at_its_cap_is_cancelled_not_exhausted() {
    let (mut w, rig) = World::founded(7);
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    w.container.behave_all(Behaviour::hangs());
    let bead = w.sling(&rig, "one");
    w.run_for(10 * SECOND);
    w.must(Command::CancelBead { bead_id: bead.clone(), reason: "not wanted".to_owned() });
    assert_eq!(w.bead(&bead)["failure_reason"]["code"], "cancelled");
    assert_eq!(w.notified("bead.failed"), 0, "who did it knows");
}

#[test]
fn an_agent_that_was_stalled_stays_so_when_its_attempt_ends() {
    let (mut w, _, bead) = running(8);
    edit(&w, "UPDATE agents SET status = 'stalled' WHERE role = 'polecat'");
    w.must(Command::CancelBead { bead_id: bead, reason: "x".to_owned() });
    let rows = w.sql.peek("SELECT status FROM agents WHERE role = 'polecat'", &[]);
    assert_eq!(rows[0].text(0).unwrap(), "stalled");
}

// ── whom it blames ───────────────────────────────────────────────────────────────────────────────────────────────

/// What the `n`-th failure of a bead cost, if another bead was proven `after` its first failure.
fn second_failure(first: &Fault, second: &Fault, after: i64) -> Json {
    let (mut w, rig) = World::founded(9);
    w.container.behave_all(Behaviour::hangs());
    w.container.faults.once(Endpoint::Start, first.clone());
    let bead = w.sling(&rig, "one");
    assert!(w.run_while_not(MINUTE, |w| streak(w, &bead) == 1), "{}", w.journal());
    let at = row(&w, &bead, "last_failed_at").unwrap() + after;
    let proven = "UPDATE town SET last_proven_bead = 'another', last_proven_at = ?1, hold_until = NULL";
    w.sql.execute(proven, &[at.into()]).unwrap();
    w.container.faults.once(Endpoint::Start, second.clone());
    assert!(w.run_while_not(10 * MINUTE, |w| streak(w, &bead) == 2), "{}", w.journal());
    last(&w, &bead)["charged"].clone()
}

#[test]
fn a_bead_that_kills_containers_pays_once_another_one_got_through_after_it() {
    let refused = Fault::Refuse;
    assert_eq!(second_failure(&refused, &refused, 1), true);
    assert_eq!(second_failure(&refused, &refused, 0), false, "not later than its failure");
    assert_eq!(second_failure(&refused, &refused, -1), false);
    let refused_key = Fault::answer(401, "");
    assert_eq!(second_failure(&refused, &refused_key, 1), false, "only what kills containers");
}

#[test]
fn a_cause_counts_its_failures_and_its_beads() {
    let (mut w, rig) = World::founded(10);
    let fails = |w: &mut World, bead: &BeadId, n: i64| {
        w.container.faults.once(Endpoint::Start, Fault::answer(500, error("the same")));
        assert!(w.run_while_not(10 * MINUTE, |w| streak(w, bead) == n), "{}", w.journal());
    };
    let counted = |w: &World| {
        let rows = w.sql.peek("SELECT failures, beads FROM causes", &[]);
        assert_eq!(rows.len(), 1);
        (rows[0].int(0).unwrap(), rows[0].int(1).unwrap())
    };
    let one = w.sling(&rig, "one");
    fails(&mut w, &one, 1);
    assert_eq!(counted(&w), (1, 1));
    fails(&mut w, &one, 2);
    assert_eq!(counted(&w), (2, 1), "the same bead again");
    let two = w.sling(&rig, "two");
    fails(&mut w, &two, 1);
    assert_eq!(counted(&w), (3, 2));
}

/// A rig whose breaker is open, and its trial has just ended with this answer to its start.
fn rig_trial(answer: Fault) -> Json {
    let (mut w, rig) = World::founded(11);
    w.container.behave_all(Behaviour::hangs());
    w.container.faults.set(Endpoint::Start, Fault::answer(500, r#"{"error":"clone failed","phase":"repository"}"#));
    let scope = format!("rig:{rig}");
    sling_many(&mut w, &rig, 3);
    assert!(w.run_while_not(HOUR, |w| w.breaker(&scope)["state"] == "open"), "{}", w.journal());
    w.container.faults.set(Endpoint::Start, answer);
    let ended = |w: &World| attempts(w).iter().any(|a| a["probe"] == true && !a["finished_at"].is_null());
    assert!(w.run_while_not(HOUR, ended), "{}", w.journal());
    w.breaker(&scope)
}

#[test]
fn the_trial_of_a_rig_is_failed_by_its_agent_and_not_by_a_container_that_is_away() {
    let failed = |answer| rig_trial(answer)["failed_probes"].as_i64().unwrap();
    assert_eq!(failed(Fault::answer(500, error("boom"))), 1);
    assert_eq!(failed(Fault::Refuse), 0, "that is the town's matter");
    assert_eq!(failed(Fault::answer(429, "")), 0);
}

// ── a container that refuses everything ──────────────────────────────────────────────────────────────────────────

/// Three beads in flight at once, refused one after the other by hand of the test; before the third, `between`.
fn three_refused(between: impl FnOnce(&World)) -> World {
    let (mut w, rig) = World::founded(12);
    w.container.behave_all(Behaviour::hangs());
    w.sling(&rig, "proves");
    w.run_for(SECOND);
    edit(&w, "UPDATE town SET slow_start = 6");
    w.clock.set(w.now().plus(MINUTE));
    let beads = sling_many(&mut w, &rig, 3);
    let effects = Town::new(&w.sql).tick(&Ctx::new(w.now(), &w.ids)).unwrap();
    assert_eq!(effects.iter().filter(|e| matches!(e, Effect::StartAgent(_))).count(), 3);
    let mut between = Some(between);
    for (n, bead) in beads.iter().enumerate() {
        w.clock.set(w.now().plus(SECOND));
        let attempt = last(&w, bead);
        if n == 2 {
            between.take().unwrap()(&w);
        }
        started(&w, &attempt, http(400, &error("bad body")));
    }
    w
}

#[test]
fn three_rejections_in_a_row_are_the_containers_fault_unless_something_was_accepted_in_between() {
    let accepted = "UPDATE attempts SET accepted_at = ?1 WHERE accepted_at IS NOT NULL";
    let state = |w: &World| text(&w.breaker("town"), "state").to_owned();
    let failed = |w: &World| w.sql.peek("SELECT 1 FROM beads WHERE status = 'failed'", &[]).len();
    let w = three_refused(|_| ());
    assert_eq!((state(&w).as_str(), failed(&w)), ("open", 0), "all three come back");
    assert_eq!(w.breaker("town")["cause"]["code"], "container.rejected");
    let first = |w: &World| {
        w.sql.peek("SELECT min(finished_at) FROM attempts WHERE code = 'container.rejected'", &[])[0].int(0).unwrap()
    };
    for (after_first, opens) in [(-1, true), (0, false), (1, false)] {
        let w = three_refused(|w| {
            w.sql.execute(accepted, &[(first(w) + after_first).into()]).unwrap();
        });
        assert_eq!((state(&w) == "open", failed(&w)), (opens, if opens { 0 } else { 3 }), "{after_first}");
    }
}

#[test]
fn after_three_rejections_a_trial_that_says_nothing_says_nothing_and_a_rejected_one_fails() {
    for (answer, failed_probes) in [(http(429, ""), 0), (http(400, &error("bad body")), 1)] {
        let mut w = three_refused(|_| ());
        edit(&w, "UPDATE town SET hold_until = NULL");
        let Answer::Http { status, body, .. } = answer else { panic!() };
        w.container.faults.set(Endpoint::Start, Fault::answer(status, body));
        w.must(Command::ProbeBreaker { scope: "town".to_owned() });
        let ended = |w: &World| attempts(w).iter().any(|a| a["probe"] == true && !a["finished_at"].is_null());
        assert!(w.run_while_not(HOUR, ended), "{}", w.journal());
        assert_eq!(w.breaker("town")["failed_probes"], failed_probes, "{status}: {}", w.journal());
    }
}
