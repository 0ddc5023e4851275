//! The breaker over a whole town: when it opens and for whom, how it probes, what closes it, what masks it, and whom it
//! tells. Every expectation is `design.md` 5.5, 5.6 and 6.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Command, Heartbeat, NewBead};
use gastown::town::effect::{Effect, Outcome};
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{DAY, HOUR, MINUTE, Millis, SECOND, Timestamp};
use gastown_host::behaviour::{Behaviour, Says};
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::owner;
use gastown_host::world::{Fate, World};
use serde_json::{Value as Json, json};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use support::*;

fn state(w: &World) -> String {
    text(&w.breaker("town"), "state").to_owned()
}

fn rig_state(w: &World, rig: &RigId) -> String {
    text(&w.breaker(&format!("rig:{rig}")), "state").to_owned()
}

fn next_probe(w: &World) -> Timestamp {
    time(&w.breaker("town")["next_probe_at"])
}

/// How far the next probe is from now.
fn probe_in(w: &World) -> Millis {
    next_probe(w).since(w.now())
}

fn is_wait(ms: Millis, minutes: Millis) -> bool {
    // 0–20 % of jitter, never earlier.
    (minutes * MINUTE..=minutes * MINUTE * 12 / 10).contains(&ms)
}

/// Runs until the town breaker is in `wanted`.
fn until(w: &mut World, wanted: &str, within: Millis) {
    let came = w.run_while_not(within, |w| state(w) == wanted);
    assert!(came, "not {wanted} within {within} ms but {}\n{}", w.breaker("town"), w.journal());
}

/// When health checks were booked.
fn health_checks(w: &World) -> Vec<Timestamp> {
    let asked = |(at, e): &(Timestamp, Effect)| matches!(e, Effect::ProbeContainer { .. }).then_some(*at);
    w.effects.iter().filter_map(asked).collect()
}

/// When they ended, and whether well.
fn health_results(w: &World) -> Vec<(Timestamp, bool)> {
    let ended = |(at, o): &(Timestamp, Outcome)| match o {
        Outcome::Probed { result, .. } => Some((*at, result.is_ok())),
        _ => None,
    };
    w.outcomes.iter().filter_map(ended).collect()
}

fn probes(w: &World) -> Vec<Json> {
    attempts(w).into_iter().filter(|a| a["probe"] == true).collect()
}

/// A town whose breaker has just opened over refused connections, and its beads; the container itself looks well.
fn open_town(seed: u64, beads: usize) -> (World, RigId, Vec<BeadId>) {
    let (mut w, rig) = World::founded(seed);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    let beads = sling_many(&mut w, &rig, beads);
    until(&mut w, "open", HOUR);
    (w, rig, beads)
}

fn put(w: &mut World, scope: &str, mode: &str, expires_in_ms: Option<i64>) -> Json {
    let (scope, mode) = (scope.to_owned(), mode.to_owned());
    w.must(Command::OverrideBreaker { scope, mode, reason: Some("a test".to_owned()), expires_in_ms })
}

// ── when it opens ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn it_opens_at_the_twenty_first_counted_failure_of_half_an_hour_though_each_agent_proved_itself() {
    let (mut w, rig) = World::founded(1);
    polecats(&mut w, Behaviour::fails(10 * SECOND, "no"));
    let wrong = Rc::new(RefCell::new(Vec::new()));
    let notes = Rc::clone(&wrong);
    w.watch(move |w| {
        let ended = |a: &&Json| !a["finished_at"].is_null();
        let recent = |a: &&Json| w.now().since(time(&a["finished_at"])) < 30 * MINUTE;
        let n = attempts(w).iter().filter(ended).filter(recent).count();
        if (n > 20) != (state(w) == "open") {
            notes.borrow_mut().push(format!("{n} failures and {}", state(w)));
        }
    });
    for n in 0..30 {
        w.sling(&rig, &format!("bead {n}"));
        w.run_for(MINUTE);
        if state(&w) == "open" {
            break;
        }
    }
    assert_eq!((state(&w).as_str(), wrong.borrow().as_slice()), ("open", [].as_slice()));
    let breaker = w.breaker("town");
    assert_eq!((&breaker["threshold"], &breaker["generation"]), (&json!(20), &json!(1)));
    assert_eq!(breaker["cause"]["code"], "agent.exited");
    assert_eq!(w.notified("breaker.opened"), 1);
}

#[test]
fn failures_that_spread_over_hours_never_open_it() {
    let (mut w, rig) = World::founded(2);
    polecats(&mut w, Behaviour::fails(10 * SECOND, "no"));
    for n in 0..16 {
        w.sling(&rig, &format!("bead {n}"));
        w.run_for(15 * MINUTE);
        assert_eq!(state(&w), "closed", "{}", w.journal());
    }
    assert!(failures(&w, "agent.exited").len() > 60);
}

#[test]
fn five_infra_failures_in_a_row_open_it_even_on_a_single_bead() {
    let (mut w, rig) = World::founded(3);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    let begun = w.now();
    let bead = w.sling(&rig, "alone");
    w.run_for(46 * MINUTE);
    assert_eq!((state(&w).as_str(), w.attempts(&bead).len()), ("closed", 4));
    until(&mut w, "open", 10 * MINUTE);
    assert_eq!(w.attempts(&bead).len(), 5);
    assert!(w.now().since(begun) >= 47 * MINUTE);
    assert_eq!((charged(&w, &bead), w.status(&bead).as_str()), (0, "open"));
}

#[test]
fn five_failures_in_a_row_of_any_class_open_it_if_they_are_of_two_beads() {
    let (mut w, rig) = World::founded(4);
    every_start(&mut w, 500, &error("no"));
    sling_many(&mut w, &rig, 2);
    w.run_for(6 * MINUTE);
    assert_eq!((state(&w).as_str(), attempts(&w).len()), ("closed", 4));
    until(&mut w, "open", 4 * MINUTE);
    assert_eq!(attempts(&w).len(), 5);
}

#[test]
fn a_proof_in_between_begins_the_count_in_a_row_anew() {
    let (mut w, rig) = World::founded(5);
    let n = Cell::new(0);
    w.container.faults.script(move |_, endpoint, _, _| {
        if endpoint != Endpoint::Start {
            return None;
        }
        n.set(n.get() + 1);
        (n.get() % 5 != 0).then(|| Fault::answer(500, error("now and then")))
    });
    polecats(&mut w, quick(30 * MINUTE));
    sling_many(&mut w, &rig, 6);
    w.watch(|w| assert_eq!(state(w), "closed", "{}", w.journal()));
    w.run_for(30 * MINUTE);
    let all = attempts(&w);
    assert!(all.iter().filter(|a| a["outcome"] == "failed").count() >= 12, "{}", all.len());
}

#[test]
fn a_rig_opens_at_three_failures_of_its_repository_and_the_others_go_on() {
    let (mut w, sick) = World::founded(6);
    let good = w.add_rig("good");
    let name = sick.0.clone();
    w.container.faults.script(move |_, endpoint, _, body| {
        (endpoint == Endpoint::Start && body.contains(&name))
            .then(|| Fault::answer(500, r#"{"error":"clone failed","phase":"repository"}"#))
    });
    let bead = w.sling(&sick, "unclonable");
    w.run_for(3 * MINUTE);
    assert_eq!((w.attempts(&bead).len(), rig_state(&w, &sick).as_str()), (2, "closed"));
    w.run_for(6 * MINUTE);
    assert_eq!((w.attempts(&bead).len(), rig_state(&w, &sick).as_str()), (3, "open"));
    assert_eq!((state(&w).as_str(), charged(&w, &bead), w.status(&bead).as_str()), ("closed", 0, "open"));
    let explained = w.explain(&bead);
    assert!(explained["holds"].as_array().unwrap().iter().any(|h| {
        h["code"] == "breaker_open" && h["ref"]["scope"] == format!("rig:{sick}") && !h["until"].is_null()
    }));
    let other = w.sling(&good, "fine");
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&other), "closed");
    let opened = told(&w, "breaker.opened");
    assert_eq!((opened.len(), text(&opened[0], "scope")), (1, format!("rig:{sick}").as_str()));

    w.container.faults.clear_all();
    w.run_for(2 * HOUR);
    assert_eq!((w.status(&bead).as_str(), rig_state(&w, &sick).as_str()), ("closed", "closed"));
    assert_eq!(w.notified("breaker.closed"), 1);
}

/// Beads of one rig fail; `with_proof` = another rig was proven half an hour ago at most.
fn one_rig_fails(with_proof: bool) -> (World, RigId, RigId) {
    let (mut w, bad) = World::founded(7);
    let good = w.add_rig("good");
    if with_proof {
        let proof = w.sling(&good, "proof");
        w.run_for(5 * MINUTE);
        assert_eq!(w.status(&proof), "closed");
    }
    let name = bad.0.clone();
    w.container.faults.script(move |_, endpoint, _, body| {
        (endpoint == Endpoint::Start && body.contains(&name)).then(|| Fault::answer(500, error("no")))
    });
    sling_many(&mut w, &bad, 6);
    w.run_for(MINUTE);
    (w, bad, good)
}

#[test]
fn a_rig_is_blamed_alone_if_another_was_proven_meanwhile() {
    let (mut w, bad, good) = one_rig_fails(true);
    assert_eq!((state(&w).as_str(), rig_state(&w, &bad).as_str()), ("closed", "open"));
    let failed = failures(&w, "container.error").len();
    assert!((5..=6).contains(&failed), "five, and one that was on its way: {failed}");
    let other = w.sling(&good, "goes on");
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&other), "closed");
}

#[test]
fn without_such_a_proof_the_town_is_to_blame() {
    let (w, bad, _) = one_rig_fails(false);
    assert_eq!((state(&w).as_str(), rig_state(&w, &bad).as_str()), ("open", "closed"));
}

// ── probing ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_open_breaker_holds_everything_and_probes_after_2_5_10_20_30_and_30_minutes() {
    let (mut w, rig) = World::founded(8);
    w.container.kill(w.now());
    let beads = sling_many(&mut w, &rig, 8);
    until(&mut w, "open", MINUTE);
    let opened = w.now();
    assert_eq!(attempts(&w).len(), 5);
    w.run_for(4 * HOUR);
    assert_eq!(attempts(&w).len(), 5, "a failed health check costs no bead");
    let (checks, results) = (health_checks(&w), health_results(&w));
    let mut from = opened;
    for ((asked, (ended, well)), wait) in checks.iter().zip(&results).zip([2, 5, 10, 20, 30, 30, 30]) {
        assert!(is_wait(asked.since(from), wait), "{} ms instead of {wait} min", asked.since(from));
        assert!(!well && ended.since(*asked) <= 2 * MINUTE + 10 * SECOND, "polls for two minutes");
        from = *ended;
    }
    assert!(results.len() >= 6);
    assert_eq!(w.breaker("town")["failed_probes"], results.len());
    assert_eq!(w.breaker("town")["generation"], 1);
    for bead in &beads {
        assert!(w.holds(bead).contains(&"breaker_open".to_owned()));
    }
    assert_eq!(w.alarm().unwrap(), next_probe(&w).min(w.alarm().unwrap()));
}

#[test]
fn with_nothing_to_probe_there_is_no_probe_and_no_alarm_and_what_becomes_ready_brings_it() {
    let (mut w, rig, beads) = open_town(9, 6);
    for bead_id in &beads {
        let reason = "not now".to_owned();
        w.must(Command::CancelBead { bead_id: bead_id.clone(), reason });
    }
    w.run_for(2 * HOUR);
    let (checks, counts) = (health_checks(&w).len(), w.counts);
    assert_eq!((state(&w).as_str(), w.alarm()), ("open", None));
    w.run_for(30 * DAY);
    assert_eq!(w.counts, counts);
    w.container.faults.clear_all();
    let bead = w.sling(&rig, "at last");
    w.run_for(MINUTE);
    assert_eq!(health_checks(&w).len(), checks + 1, "the probe was long due");
    w.run_for(HOUR);
    assert_eq!(w.status(&bead).as_str(), "closed");
    assert_eq!((state(&w).as_str(), w.alarm()), ("closed", None));
}

#[test]
fn a_probe_is_one_bead_and_its_proof_frees_the_others_with_their_streaks_forgotten() {
    let (mut w, _, beads) = open_town(10, 10);
    w.container.faults.clear_all();
    polecats(&mut w, Behaviour { first_heartbeat: Some(20 * SECOND), ..quick(5 * MINUTE) });
    until(&mut w, "half_open", 3 * MINUTE);
    w.run_for(10 * SECOND);
    let tried = probes(&w);
    assert_eq!((tried.len(), w.starts().len()), (1, 1));
    assert_eq!(w.breaker("town")["probe"]["attempt_id"], tried[0]["attempt_id"]);
    assert_eq!(w.breaker("town")["probe"]["bead_id"], tried[0]["bead_id"]);
    let others: Vec<_> = beads.iter().filter(|b| b.0 != text(&tried[0], "bead_id")).collect();
    assert!(others.iter().all(|b| w.holds(b).contains(&"probe_running".to_owned())));
    until(&mut w, "closed", 15 * SECOND);
    assert_eq!(time(&w.breaker("town")["closed_at"]).since(time(&tried[0]["booked_at"])) / SECOND, 20);
    assert!(others.iter().all(|b| streak(&w, b) == 0 && w.holds(b).iter().all(|h| h != "backoff")));
    w.run_for(HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
    assert!(beads.iter().all(|b| charged(&w, b) == 0));
}

#[test]
fn after_recovery_one_then_two_then_four_then_six_starts_are_in_flight() {
    let (mut w, _, beads) = open_town(11, 30);
    w.patch_config(json!({"dispatch": {"max_polecats_per_rig": 30, "max_agents": 30}}));
    w.container.faults.clear_all();
    polecats(&mut w, Behaviour { first_heartbeat: Some(15 * SECOND), ..quick(10 * MINUTE) });
    assert_eq!(w.dispatch()["slow_start"], 1);
    let limits = Rc::new(RefCell::new(vec![1]));
    let most = Rc::new(Cell::new(0));
    let (seen, peak) = (Rc::clone(&limits), Rc::clone(&most));
    w.watch(move |w| {
        let counted = w.sql.peek(
            "SELECT slow_start, (SELECT count(*) FROM attempts WHERE proven_at IS NULL AND finished_at IS NULL)
             FROM town",
            &[],
        );
        let (limit, flying) = (counted[0].int(0).unwrap(), counted[0].int(1).unwrap());
        if seen.borrow().last() != Some(&limit) {
            seen.borrow_mut().push(limit);
        }
        assert!(flying <= limit, "{flying} starts in flight, {limit} allowed");
        peak.set(peak.get().max(flying));
    });
    let up_to_speed = |w: &World| w.starts().len() == 30;
    assert!(w.run_while_not(30 * MINUTE, up_to_speed), "{}", w.journal());
    assert_eq!((limits.borrow().as_slice(), most.get()), ([1, 2, 4, 6].as_slice(), 6));
    w.run_for(HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
}

#[test]
fn an_infra_failure_brings_the_slow_start_back_to_one() {
    let (mut w, rig) = World::founded(12);
    polecats(&mut w, quick(MINUTE));
    sling_many(&mut w, &rig, 8);
    w.run_for(10 * MINUTE);
    assert_eq!(w.dispatch()["slow_start"], 6);
    w.container.faults.once(Endpoint::Start, Fault::Refuse);
    w.sling(&rig, "unlucky");
    w.run_for(SECOND);
    assert_eq!(w.dispatch()["slow_start"], 1);
}

#[test]
fn a_probe_that_fails_takes_the_next_delay_and_holds_the_others() {
    let (mut w, _, _) = open_town(13, 8);
    until(&mut w, "half_open", 3 * MINUTE);
    until(&mut w, "open", MINUTE);
    assert_eq!((probes(&w).len(), w.breaker("town")["failed_probes"].as_u64()), (1, Some(1)));
    assert!(is_wait(probe_in(&w), 5), "{}", probe_in(&w));
    until(&mut w, "half_open", 7 * MINUTE);
    until(&mut w, "open", MINUTE);
    assert!(is_wait(probe_in(&w), 10), "{}", probe_in(&w));
    assert_eq!((attempts(&w).len(), w.notified("breaker.opened")), (7, 1));
    assert_eq!(w.breaker("town")["generation"], 1, "an episode, whatever its probes do");
}

#[test]
fn the_bead_with_the_fewest_probes_is_tried_then_by_priority_then_by_age() {
    let (mut w, rig) = World::founded(14);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    let bead = |title: &str, priority: &str| NewBead {
        title: title.to_owned(),
        priority: Some(priority.to_owned()),
        ..NewBead::default()
    };
    let low = sling_with(&mut w, &rig, bead("low", "low"));
    let medium = sling_with(&mut w, &rig, bead("medium", "medium"));
    let younger = sling_with(&mut w, &rig, bead("younger", "medium"));
    let critical = sling_with(&mut w, &rig, bead("critical", "critical"));
    until(&mut w, "open", HOUR);
    assert!(w.run_while_not(4 * HOUR, |w| probes(w).len() == 5));
    let order: Vec<BeadId> = probes(&w).iter().map(|a| text(a, "bead_id").into()).collect();
    assert_eq!(order, [&critical, &medium, &younger, &low, &critical].map(Clone::clone));
}

#[test]
fn results_that_say_nothing_pass_the_permit_on_three_times_and_leave_the_delay() {
    let (mut w, a) = World::founded(15);
    let rigs = [a, w.add_rig("b"), w.add_rig("c"), w.add_rig("d")];
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    for rig in &rigs {
        sling_many(&mut w, rig, 2);
    }
    until(&mut w, "open", MINUTE);
    every_start(&mut w, 500, r#"{"error":"clone failed","phase":"repository"}"#);
    until(&mut w, "half_open", 3 * MINUTE);
    until(&mut w, "open", MINUTE);
    let tried = probes(&w);
    assert_eq!(tried.len(), 3, "three beads at most");
    assert!(tried.iter().all(|a| a["code"] == "repo.unavailable"));
    assert_eq!(tried.iter().map(|a| text(a, "bead_id")).collect::<std::collections::BTreeSet<_>>().len(), 3);
    assert_eq!(w.breaker("town")["failed_probes"], 0);
    assert!(is_wait(probe_in(&w), 2), "the delay stays: {}", probe_in(&w));
}

#[test]
fn a_cancelled_probe_decides_nothing_and_the_next_bead_tries() {
    let (mut w, _, _) = open_town(16, 6);
    w.container.faults.clear_all();
    polecats(&mut w, Behaviour::hangs().mute());
    assert!(w.run_while_not(3 * MINUTE, |w| w.starts().len() == 1));
    let first = w.breaker("town")["probe"]["bead_id"].clone();
    let bead_id: BeadId = first.as_str().unwrap().into();
    w.must(Command::CancelBead { bead_id, reason: "changed my mind".to_owned() });
    w.run_for(10 * SECOND);
    assert_eq!((state(&w).as_str(), probes(&w).len()), ("half_open", 2));
    assert_ne!(w.breaker("town")["probe"]["bead_id"], first);
    assert_eq!(w.breaker("town")["failed_probes"], 0);
}

#[test]
fn a_probe_whose_agent_never_speaks_fails_when_its_lease_ends() {
    let (mut w, _, _) = open_town(17, 6);
    w.container.faults.clear_all();
    polecats(&mut w, Behaviour::hangs().mute());
    assert!(w.run_while_not(3 * MINUTE, |w| w.starts().len() == 1));
    let booked = w.now();
    w.container.kill(booked.plus(SECOND));
    until(&mut w, "open", 5 * MINUTE);
    let lease = w.now().since(booked);
    assert!((90 * SECOND..=110 * SECOND).contains(&lease), "{lease}");
    assert_eq!(probes(&w)[0]["code"], "container.lost");
    assert_eq!(w.breaker("town")["failed_probes"], 1);
    assert!(is_wait(probe_in(&w), 5));
}

#[test]
fn a_health_check_that_died_with_the_object_is_made_again_and_counts_as_nothing() {
    let (mut w, _, _) = open_town(18, 6);
    assert!(w.run_while_not(3 * MINUTE, |w| health_checks(w).len() == 1));
    w.crash_losing_requests();
    w.container.faults.clear_all();
    w.run_for(10 * SECOND);
    assert_eq!((health_checks(&w).len(), w.breaker("town")["failed_probes"].as_u64()), (2, Some(0)));
    assert_eq!(probes(&w).len(), 1);
}

#[test]
fn what_an_old_probe_says_late_changes_nothing() {
    let (mut w, rig) = World::founded(19);
    let first = w.sling(&rig, "the town knows its container");
    w.run_for(10 * MINUTE);
    assert_eq!(w.status(&first), "closed");
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    sling_many(&mut w, &rig, 6);
    until(&mut w, "open", MINUTE);
    // The probe starts, and then nobody hears of anybody.
    w.container.faults.clear(Endpoint::Start);
    polecats(&mut w, Behaviour::hangs());
    w.filter_voices(|_| Fate::Lost);
    let started = w.starts().len();
    assert!(w.run_while_not(3 * MINUTE, |w| w.starts().len() > started));
    w.container.faults.set_all(&Fault::Refuse);
    until(&mut w, "open", 5 * MINUTE);
    let probe = probes(&w).pop().unwrap();
    assert_eq!((text(&probe, "code"), w.breaker("town")["failed_probes"].as_u64()), ("container.lost", Some(1)));
    // Its voice comes back.
    let before = w.breaker("town");
    w.unfilter_voices();
    w.run_for(2 * MINUTE);
    assert_eq!(w.breaker("town"), before);
    let (agent, attempt) = (text(&probe, "agent_id"), text(&probe, "attempt_id"));
    let end = Command::Completed {
        agent_id: agent.into(),
        status: "completed".to_owned(),
        reason: None,
        phase: None,
        model_status: None,
    };
    assert!(w.command(&voice(agent, Some(attempt)), end).is_ok());
    let done = Command::Done { agent_id: agent.into(), branch: None, pr_url: None, summary: None };
    assert!(w.command(&voice(agent, Some(attempt)), done).is_ok(), "finished work is not thrown away");
    assert_eq!(w.status(&text(&probe, "bead_id").into()), "closed");
    let after = w.breaker("town");
    assert_eq!((&after["state"], &after["next_probe_at"]), (&json!("open"), &before["next_probe_at"]));
}

// ── closing ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// Agents die after `life`; then they live, and what closes the breaker is measured from the probe's booking.
fn closes_after(life: Millis) -> Millis {
    let (mut w, rig) = World::founded(20);
    w.container.behave_all(Behaviour::fails(life, "expired"));
    sling_many(&mut w, &rig, 12);
    until(&mut w, "open", 4 * HOUR);
    // Those still running die; the next ones live.
    w.container.behave_all(Behaviour::hangs());
    let alive = |w: &World| attempts(w).iter().filter(|a| a["probe"] == true && !a["proven_at"].is_null()).count();
    assert!(w.run_while_not(2 * HOUR, |w| alive(w) == 1), "{}", w.journal());
    assert_eq!(state(&w), "half_open", "one heartbeat is not enough");
    until(&mut w, "closed", 3 * HOUR);
    let probe = probes(&w).pop().unwrap();
    time(&w.breaker("town")["closed_at"]).since(time(&probe["booked_at"]))
}

#[test]
fn a_proven_probe_must_outlive_the_failures_that_opened_the_breaker() {
    let ran = closes_after(3 * MINUTE);
    assert!((3 * MINUTE..=3 * MINUTE + 5 * SECOND).contains(&ran), "{ran}");
}

#[test]
fn but_never_longer_than_fifteen_minutes() {
    let ran = closes_after(25 * MINUTE);
    assert!((15 * MINUTE..=15 * MINUTE + 5 * SECOND).contains(&ran), "{ran}");
}

#[test]
fn a_probe_that_succeeds_closes_it_however_soon() {
    let (mut w, rig) = World::founded(21);
    w.container.behave_all(Behaviour::fails(10 * MINUTE, "expired"));
    sling_many(&mut w, &rig, 8);
    until(&mut w, "open", 2 * HOUR);
    polecats(&mut w, quick(5 * SECOND));
    until(&mut w, "closed", 30 * MINUTE);
    let probe = probes(&w).pop().unwrap();
    assert_eq!(probe["outcome"], "succeeded");
    assert!(time(&w.breaker("town")["closed_at"]).since(time(&probe["booked_at"])) < 10 * SECOND);
}

#[test]
fn reopening_before_the_end_was_announced_goes_on_with_the_episode_and_its_delays() {
    let (mut w, _, _) = open_town(22, 12);
    w.container.faults.clear_all();
    polecats(&mut w, Behaviour::hangs());
    until(&mut w, "closed", 3 * MINUTE);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    until(&mut w, "open", MINUTE);
    assert_eq!(w.breaker("town")["generation"], 1);
    assert!(is_wait(probe_in(&w), 5), "the next delay, not the first: {}", probe_in(&w));
    w.run_for(HOUR);
    assert_eq!((w.notified("breaker.opened"), w.notified("breaker.closed")), (1, 0));
    w.container.faults.clear_all();
    w.run_for(2 * HOUR);
    assert_eq!((state(&w).as_str(), w.notified("breaker.closed")), ("closed", 1));
}

#[test]
fn reopening_within_half_an_hour_after_it_was_announced_is_a_new_episode_with_the_next_delay() {
    let (mut w, rig, _) = open_town(23, 8);
    w.container.faults.clear_all();
    polecats(&mut w, quick(MINUTE));
    until(&mut w, "closed", 3 * MINUTE);
    assert!(w.run_while_not(10 * MINUTE, |w| w.notified("breaker.closed") == 1), "slow start reached its limit");
    w.run_for(5 * MINUTE);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    sling_many(&mut w, &rig, 6);
    until(&mut w, "open", MINUTE);
    assert_eq!((w.breaker("town")["generation"].as_u64(), w.notified("breaker.opened")), (Some(2), 2));
    assert!(is_wait(probe_in(&w), 5), "{}", probe_in(&w));
}

#[test]
fn reopening_later_begins_with_the_first_delay() {
    let (mut w, rig, _) = open_town(24, 8);
    w.container.faults.clear_all();
    polecats(&mut w, quick(MINUTE));
    until(&mut w, "closed", 3 * MINUTE);
    w.run_for(45 * MINUTE);
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    sling_many(&mut w, &rig, 6);
    until(&mut w, "open", MINUTE);
    assert_eq!(w.breaker("town")["generation"], 2);
    assert!(is_wait(probe_in(&w), 2), "{}", probe_in(&w));
}

#[test]
fn with_too_little_work_for_a_full_slow_start_the_end_is_announced_after_half_an_hour_and_once() {
    let (mut w, _, _) = open_town(25, 1);
    w.container.faults.clear_all();
    polecats(&mut w, quick(MINUTE));
    until(&mut w, "closed", 40 * MINUTE);
    let closed = time(&w.breaker("town")["closed_at"]);
    w.run_for(29 * MINUTE);
    assert_eq!(w.notified("breaker.closed"), 0);
    w.run_for(2 * MINUTE);
    let said = told(&w, "breaker.closed");
    assert_eq!((said.len(), time(&said[0]["created_at"]).since(closed)), (1, 30 * MINUTE));
    w.run_for(DAY);
    assert_eq!((w.notified("breaker.closed"), w.alarm()), (1, None));
}

// ── brought forward ──────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_new_container_instance_brings_a_probe_forward_three_times_an_hour() {
    let (mut w, rig) = World::founded(26);
    polecats(&mut w, Behaviour::hangs());
    let alive = w.sling(&rig, "alive throughout");
    w.run_for(MINUTE);
    let live = last(&w, &alive);
    w.filter_voices(|v| if matches!(v.says, Says::Heartbeat { .. }) { Fate::Lost } else { Fate::Arrives });
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    w.container.faults.set(Endpoint::Health, Fault::answer(503, "no"));
    sling_many(&mut w, &rig, 6);
    until(&mut w, "open", MINUTE);
    let opened = w.now();
    let beat = |w: &mut World, instance: &str| {
        let body = Heartbeat {
            agent_id: Some(text(&live, "agent_id").to_owned()),
            status: Some("running".to_owned()),
            container_instance_id: Some(instance.to_owned()),
            dispatch_id: Some(text(&live, "attempt_id").to_owned()),
            ..Heartbeat::default()
        };
        let actor = voice(text(&live, "agent_id"), Some(text(&live, "attempt_id")));
        w.command(&actor, Command::Heartbeat { agent_id: text(&live, "agent_id").into(), body }).unwrap();
    };
    let same = w.container.instance_id().to_owned();
    beat(&mut w, &same);
    assert!(is_wait(next_probe(&w).since(opened), 2), "the same instance says nothing");
    for n in 1..=3 {
        let checks = health_checks(&w).len();
        beat(&mut w, &format!("instance-{n}"));
        w.run_for(SECOND);
        assert_eq!(health_checks(&w).len(), checks + 1, "instance {n}");
        // Its health check fails, which the next instance may try anew.
        for _ in 0..3 {
            w.run_for(50 * SECOND);
            beat(&mut w, &format!("instance-{n}"));
        }
        assert_eq!(health_results(&w).len(), checks + 1);
    }
    let scheduled = next_probe(&w);
    beat(&mut w, "instance-4");
    w.run_for(SECOND);
    assert_eq!(next_probe(&w), scheduled, "a fourth within the hour changes nothing");
    assert_eq!((state(&w).as_str(), w.breaker("town")["failed_probes"].as_u64()), ("open", Some(3)));
}

#[test]
fn a_person_may_ask_for_a_probe_once_a_minute_unless_it_is_closed() {
    let (mut w, rig) = World::founded(27);
    let ask = || Command::ProbeBreaker { scope: "town".to_owned() };
    let (status, is, _) = refused(&mut w, ask());
    assert_eq!((status, is.as_str()), (409, "closed"));
    w.container.kill(w.now());
    sling_many(&mut w, &rig, 6);
    until(&mut w, "open", MINUTE);
    let reply = w.command(&owner(), ask()).unwrap();
    assert_eq!(reply.status, 202);
    w.run_for(SECOND);
    assert_eq!(health_checks(&w).len(), 1, "at once");
    let error = w.command(&owner(), ask()).unwrap_err();
    assert_eq!(error.status(), 429);
    assert!(format!("{error:?}").contains("retry_after: 59"), "{error:?}");
    assert_eq!(state(&w), "open", "asking closes nothing");
    w.run_for(59 * SECOND);
    assert!(w.command(&owner(), ask()).is_ok());
    let (status, ..) = refused(&mut w, Command::ProbeBreaker { scope: "nonsense".to_owned() });
    assert_eq!(status, 404);
    assert_eq!(refused_by(&mut w, &voice("somebody", None), ask()).0, 403);
}

// ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn forced_open_holds_probes_too_and_is_left_through_half_open() {
    let (mut w, rig, beads) = open_town(28, 6);
    w.container.faults.clear_all();
    put(&mut w, "town", "forced_open", Some(3 * HOUR));
    w.run_for(3 * HOUR - SECOND);
    assert_eq!((health_checks(&w).len(), probes(&w).len()), (0, 0));
    assert!(beads.iter().all(|b| w.holds(b).contains(&"breaker_open".to_owned())));
    assert_eq!(
        refused(
            &mut w,
            Command::OverrideBreaker {
                scope: "town".to_owned(),
                mode: "nonsense".to_owned(),
                reason: Some("x".to_owned()),
                expires_in_ms: Some(1_000),
            }
        )
        .1,
        "mode"
    );
    w.run_for(10 * SECOND);
    assert_eq!((health_checks(&w).len(), probes(&w).len()), (1, 1), "through a probe");
    w.run_for(2 * HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
    assert_eq!(w.breaker("town")["override"], Json::Null);
    // The same over a closed breaker, ended by hand.
    put(&mut w, "town", "forced_open", Some(DAY));
    let bead = w.sling(&rig, "waits");
    w.run_for(HOUR);
    let breaker = w.breaker("town");
    assert_eq!((text(&breaker, "state"), text(&breaker, "effective")), ("closed", "open"));
    assert_eq!((w.status(&bead).as_str(), w.attempts(&bead).len()), ("open", 0));
    put(&mut w, "town", "auto", None);
    w.run_for(HOUR);
    assert_eq!((w.status(&bead).as_str(), &w.attempts(&bead)[0]["probe"]), ("closed", &json!(true)));
    assert_eq!(state(&w), "closed");
    // And ended by its expiry.
    put(&mut w, "town", "forced_open", Some(HOUR));
    let bead = w.sling(&rig, "waits, too");
    w.run_for(HOUR + 10 * SECOND);
    assert_eq!((w.attempts(&bead).len(), &w.attempts(&bead)[0]["probe"]), (1, &json!(true)));
    w.run_for(HOUR);
    assert_eq!((w.status(&bead).as_str(), state(&w).as_str()), ("closed", "closed"));
    assert_eq!(w.notified("breaker.opened"), 1, "who forced it open knows");
}

#[test]
fn forced_closed_lets_everything_through_for_an_hour_at_most_and_then_the_automatic_state_rules() {
    let (mut w, _, beads) = open_town(29, 10);
    assert_eq!(
        refused(
            &mut w,
            Command::OverrideBreaker {
                scope: "town".to_owned(),
                mode: "forced_closed".to_owned(),
                reason: Some("x".to_owned()),
                expires_in_ms: Some(HOUR + 1),
            }
        )
        .1,
        "expires_in_ms"
    );
    let shown = put(&mut w, "town", "forced_closed", Some(HOUR));
    assert_eq!((text(&shown, "state"), text(&shown, "effective")), ("open", "closed"));
    let before = attempts(&w).len();
    w.run_for(HOUR - SECOND);
    let under = attempts(&w).len() - before;
    assert!(under >= 20, "{under} attempts");
    assert!(beads.iter().all(|b| w.holds(b).iter().all(|h| h != "breaker_open" && h != "probe_running")));
    w.run_for(2 * SECOND);
    assert_eq!(w.breaker("town")["override"], Json::Null);
    assert_ne!(text(&w.breaker("town"), "effective"), "closed");
    let before = attempts(&w).len();
    w.run_for(HOUR);
    assert!(attempts(&w).len() - before <= 3, "it holds again");
}

#[test]
fn shadow_counts_and_reports_for_a_week_at_most_and_holds_nothing() {
    let (mut w, rig) = World::founded(30);
    assert_eq!(
        refused(
            &mut w,
            Command::OverrideBreaker {
                scope: "town".to_owned(),
                mode: "shadow".to_owned(),
                reason: Some("x".to_owned()),
                expires_in_ms: Some(7 * DAY + 1),
            }
        )
        .1,
        "expires_in_ms"
    );
    put(&mut w, "town", "shadow", Some(7 * DAY));
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    let beads = sling_many(&mut w, &rig, 10);
    w.run_for(HOUR);
    let breaker = w.breaker("town");
    assert_ne!(text(&breaker, "state"), "closed", "the state goes on being computed");
    assert_eq!(text(&breaker, "effective"), "closed");
    assert!(attempts(&w).len() >= 40, "{}", attempts(&w).len());
    assert_eq!(w.notified("breaker.opened"), 1, "and is reported");
    assert!(beads.iter().all(|b| w.holds(b) == ["backoff"]));
    // Healed, real traffic closes it.
    w.container.faults.clear_all();
    w.run_for(2 * HOUR);
    assert_eq!((state(&w).as_str(), w.notified("breaker.closed")), ("closed", 1));
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
}

#[test]
fn an_override_needs_a_person_a_reason_and_an_expiry_and_is_audited() {
    let (mut w, _) = World::founded(31);
    let order = |mode: &str, reason: Option<&str>, expires_in_ms| Command::OverrideBreaker {
        scope: "town".to_owned(),
        mode: mode.to_owned(),
        reason: reason.map(str::to_owned),
        expires_in_ms,
    };
    for mode in ["forced_open", "forced_closed", "shadow"] {
        for expiry in [None, Some(0), Some(-5)] {
            let (status, field, _) = refused(&mut w, order(mode, Some("why"), expiry));
            assert_eq!((status, field.as_str()), (422, "expires_in_ms"), "{mode} {expiry:?}");
        }
        for reason in [None, Some(""), Some("  "), Some("x".repeat(501).as_str())] {
            let (status, field, _) = refused(&mut w, order(mode, reason, Some(MINUTE)));
            assert_eq!((status, field.as_str()), (422, "reason"), "{mode}");
        }
    }
    assert_eq!(refused_by(&mut w, &voice("mayor", None), order("shadow", Some("why"), Some(MINUTE))).0, 403);
    w.must(order("forced_open", Some("why"), Some(MINUTE)));
    let entry = audit(&mut w)[0].clone();
    assert_eq!((text(&entry, "actor"), text(&entry, "reason")), ("user:owner", "why"));
    assert_eq!(entry["after"]["mode"], "forced_open");
    let breaker = w.breaker("town");
    assert_eq!((text(&breaker["override"], "actor"), text(&breaker["override"], "reason")), ("user:owner", "why"));
    assert_eq!(time(&breaker["override"]["expires_at"]).since(w.now()), MINUTE);
    w.run_for(DAY);
    assert_eq!(w.breaker("town")["override"], Json::Null, "it ends by itself");
    assert_eq!(w.alarm(), None);
}

// ── telling people ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_episode_is_told_by_mail_escalation_and_signed_webhook_when_it_begins_lasts_and_ends() {
    let (mut w, rig) = World::founded(32);
    w.patch_config(json!({"notify": {"webhook_url": "https://hooks.example.com/x", "webhook_secret": "s3cret"}}));
    w.container.kill(w.now());
    sling_many(&mut w, &rig, 10);
    w.run_for(20 * HOUR);
    w.container.restart(w.now());
    w.run_for(5 * HOUR);
    let kinds: Vec<Json> = w.notifications().iter().map(|n| n["kind"].clone()).collect();
    assert_eq!(kinds, ["breaker.opened", "breaker.still_open", "breaker.closed"]);
    let keys: Vec<Json> = w.notifications().iter().map(|n| n["dedupe_key"].clone()).collect();
    assert_eq!(keys[0], "breaker:town:1:opened");
    for n in w.notifications() {
        let text_ = text(&n, "text");
        assert!(!text_.is_empty());
        assert_eq!(w.mail().iter().filter(|m| text(m, "body").contains(text_)).count(), 1, "{text_}");
        assert!(
            n["deliveries"].as_array().unwrap().iter().any(|d| d["channel"] == "webhook" && d["state"] == "delivered")
        );
    }
    let opened = &told(&w, "breaker.opened")[0];
    let still = &told(&w, "breaker.still_open")[0];
    assert!(time(&still["created_at"]).since(time(&opened["created_at"])).abs_diff(HOUR) < 1_000);
    assert_eq!(w.webhook.posts.len(), 3);
    for (post, kind) in w.webhook.posts.iter().zip(&kinds) {
        assert!(post.signed_by("s3cret") && !post.signed_by("other"));
        let body = post.body();
        assert_eq!((&body["kind"], text(&body, "town_id")), (kind, w.town_id.as_str()));
        assert!(["id", "kind", "town_id", "text", "facts", "created_at"].iter().all(|k| !body[*k].is_null()));
    }
    assert_eq!(w.webhook.posts[0].body()["facts"]["scope"], "town");
    let escalations = w.must(Command::ListEscalations { acknowledged: None });
    let escalations = escalations.as_array().unwrap();
    assert_eq!((escalations.len(), text(&escalations[0], "severity")), (1, "high"));
    assert_eq!(w.mail().len(), 3, "one mail for each, none for the escalation");
    assert_eq!(w.alarm(), None);
}

#[test]
fn a_webhook_that_refuses_is_tried_again_and_its_state_is_visible() {
    let (mut w, rig) = World::founded(33);
    w.patch_config(json!({"notify": {"webhook_url": "https://hooks.example.com/x", "webhook_secret": "s"}}));
    w.webhook.fault = Some(Fault::answer(500, "not today"));
    w.container.faults.set(Endpoint::Start, Fault::Refuse);
    sling_many(&mut w, &rig, 6);
    w.run_for(5 * MINUTE);
    let hook = |w: &World| {
        let n = told(w, "breaker.opened").remove(0);
        n["deliveries"].as_array().unwrap().iter().find(|d| d["channel"] == "webhook").unwrap().clone()
    };
    let d = hook(&w);
    assert_eq!(text(&d, "state"), "pending");
    assert!((4..=6).contains(&d["attempts"].as_i64().unwrap()), "10 s × 2ⁿ: {d}");
    assert!(text(&d, "last_error").contains("500"));
    w.webhook.fault = None;
    w.run_for(HOUR);
    assert_eq!(text(&hook(&w), "state"), "delivered");
    assert_eq!(w.webhook.posts.iter().filter(|p| p.body()["kind"] == "breaker.opened").count(), 1);
}

#[test]
fn many_failed_beads_are_told_at_most_once_in_ten_minutes_with_their_count_and_never_if_failed_by_hand() {
    let (mut w, rig) = World::founded(34);
    put(&mut w, "town", "shadow", Some(DAY));
    w.patch_config(json!({"dispatch": {"max_attempts": 1}}));
    every_start(&mut w, 500, &error("no"));
    sling_many(&mut w, &rig, 15);
    let by_hand = sling_with(
        &mut w,
        &rig,
        NewBead { title: "by hand".to_owned(), labels: vec!["gt:held".to_owned()], ..NewBead::default() },
    );
    w.must(Command::CancelBead { bead_id: by_hand, reason: "not needed".to_owned() });
    w.run_for(HOUR);
    let said = told(&w, "bead.failed");
    assert_eq!(said.len(), 2);
    assert!(time(&said[1]["created_at"]).since(time(&said[0]["created_at"])) >= 10 * MINUTE);
    assert!(text(&said[1], "text").contains("14"), "{}", text(&said[1], "text"));
    assert_eq!(said[1]["facts"]["count"], 14);
}

#[test]
fn a_refused_key_opens_at_once_and_is_told_as_a_configuration_error() {
    let (mut w, rig) = World::founded(35);
    every_start(&mut w, 500, r#"{"error":"invalid key","phase":"initial_prompt","status":401}"#);
    let beads = sling_many(&mut w, &rig, 6);
    w.run_for(MINUTE);
    assert_eq!((state(&w).as_str(), attempts(&w).len()), ("open", 1));
    assert_eq!((w.notified("config.error"), w.notified("breaker.opened")), (1, 1));
    assert_eq!(charged(&w, &beads[0]), 0);
    let severities = w.must(Command::ListEscalations { acknowledged: None });
    assert!(severities.as_array().unwrap().iter().all(|e| e["severity"] == "high"));
    assert_eq!(severities.as_array().unwrap().len(), 2, "opened and configuration");
    w.run_for(10 * HOUR);
    assert_eq!(w.notified("config.error"), 1, "told once");
    w.container.faults.clear_all();
    w.run_for(3 * HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"), "it resets by itself");
}
