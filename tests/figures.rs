//! The figures of the project's promise, counted over simulated time and through the public verbs only: what an outage
//! costs, that it loses nothing, that people hear of it once, and that health is never mistaken for one.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::NewBead;
use gastown::town::effect::Effect;
use gastown::town::id::BeadId;
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::Value as Json;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use support::*;

#[test]
fn a_container_that_answers_500_gets_one_bead_five_times_within_an_hour_and_then_never_again() {
    let (mut w, rig) = World::founded(1);
    every_start(&mut w, 500, &error("the disk is full"));
    let begun = w.now();
    let bead = w.sling(&rig, "Never works");
    for n in 1..=5_u64 {
        assert!(w.run_while_not(HOUR, |w| w.container.calls.get(&Endpoint::Start) == Some(&n)));
        w.run_for(SECOND);
        assert_eq!(w.attempts(&bead).len() as u64, n);
        assert_eq!(w.breaker("town")["in_a_row"], n, "each is counted once");
        assert_eq!(charged(&w, &bead), i64::try_from(n).unwrap());
    }
    w.run_for(3 * DAY);
    let attempts = w.attempts(&bead);
    // 2, 5, 10 and 30 minutes after the end of the one before, each with 0–10 % of jitter.
    let mut earliest = 0.0;
    for (attempt, wait) in attempts.iter().zip([0.0, 2.0, 5.0, 10.0, 30.0]) {
        earliest += wait;
        let at = minutes(&attempt["booked_at"], begun);
        assert!(earliest <= at && at <= earliest * 1.1 + 0.1, "{at} min, not about {earliest}");
        let fields = (text(attempt, "outcome"), text(attempt, "class"), text(attempt, "code"));
        assert_eq!(fields, ("failed", "unknown", "container.error"));
        assert_eq!((&attempt["charged"], &attempt["status_code"]), (&Json::Bool(true), &Json::from(500)));
        assert!(text(attempt, "reason").contains("the disk is full"));
    }
    assert_eq!((attempts.len(), w.status(&bead).as_str()), (5, "failed"));
    assert_eq!(w.bead(&bead)["failure_reason"]["code"], "container.error");
    assert_eq!(w.container.calls[&Endpoint::Start], 5);
    assert_eq!(w.points_of("agent.dispatch_failed").len(), 5);
    let causes = w.dispatch()["failures"].clone();
    assert_eq!((causes.as_array().unwrap().len(), &causes[0]["count"], &causes[0]["beads"]), (1, &5.into(), &1.into()));
    assert_eq!(w.notified("breaker.opened"), 0, "one bad bead does not open a town");
    assert_eq!((w.notified("bead.failed"), w.alarm()), (1, None));
}

/// How the connection of a start drops.
enum Drop {
    /// The container is dead: nothing answers.
    Dead,
    /// Only starts are lost, before anything happened; the container says of itself that it is well.
    StartsOnly,
    /// The same, with the predecessor's program in the container.
    StartsOnlyOfThePredecessor,
}

/// Seventy hours in which 100 beads wait behind starts whose connection drops, and what follows.
fn starts_whose_connection_drops(how: &Drop) {
    let (mut w, rig) = World::founded(2);
    match how {
        Drop::Dead => w.container.kill(w.now()),
        Drop::StartsOnly => w.container.faults.set(Endpoint::Start, Fault::DropBefore),
        Drop::StartsOnlyOfThePredecessor => {
            w.container.features.clear();
            w.container.faults.set(Endpoint::Start, Fault::DropBefore);
        }
    }
    let begun = w.now();
    let beads = sling_many(&mut w, &rig, 100);
    w.run_for(70 * HOUR);

    let failed = attempts(&w);
    assert!(failed.iter().all(|a| a["outcome"] == "failed" || a["finished_at"].is_null()));
    assert!(failed.iter().all(|a| a["finished_at"].is_null() || !text(a, "reason").is_empty()));
    let hours: Vec<usize> = (0..70).map(|n| booked_in_hour(&failed, begun, n)).collect();
    assert!(hours[0] <= 12, "{hours:?}");
    assert!(hours[0] >= 5, "the town did not even try: {hours:?}");
    assert!(hours[1..].iter().all(|n| *n <= 2), "{hours:?}");
    assert!(beads.iter().all(|b| w.status(b) == "open"), "an outage loses no bead");
    assert!(beads.iter().all(|b| charged(&w, b) == 0), "an outage costs no bead an attempt");
    assert_eq!((w.notified("breaker.opened"), w.notified("breaker.closed")), (1, 0));
    assert_eq!(w.notified("breaker.still_open"), 1);
    assert!(w.starts().is_empty());
    assert!(beads.iter().all(|b| !w.holds(b).is_empty()));

    w.container.faults.clear_all();
    match how {
        Drop::Dead => w.container.restart(w.now()),
        // Work without reviews, which take as long to simulate as all the rest.
        Drop::StartsOnly | Drop::StartsOnlyOfThePredecessor => polecats(&mut w, quick(MINUTE)),
    }
    let healed = w.now();
    // The longest wait for a probe, then the ramp.
    assert!(w.run_while_not(36 * MINUTE + SECOND, |w| !w.starts().is_empty()), "{}", w.journal());
    assert!(w.run_while_not(6 * HOUR, |w| beads.iter().all(|b| w.status(b) == "closed")), "{}", w.journal());
    w.run_for(DAY);
    assert_eq!((w.notified("breaker.opened"), w.notified("breaker.closed")), (1, 1));
    let closed = told(&w, "breaker.closed");
    assert!(time(&closed[0]["created_at"]) > healed);
    assert_eq!((w.breaker("town")["state"].as_str(), w.alarm()), (Some("closed"), None));
    assert_eq!(w.container.twice(), Vec::<String>::new());
    assert_eq!(w.starts().iter().filter(|s| s.role == "polecat").count(), 100);
}

#[test]
fn a_dead_container_costs_a_town_of_100_beads_12_failed_starts_in_an_hour_then_2_and_loses_none_in_70_hours() {
    starts_whose_connection_drops(&Drop::Dead);
}

#[test]
fn a_container_that_looks_well_and_starts_nothing_costs_no_more_than_a_dead_one() {
    starts_whose_connection_drops(&Drop::StartsOnly);
}

#[test]
fn the_predecessors_container_that_looks_well_and_starts_nothing_costs_no_more_either() {
    starts_whose_connection_drops(&Drop::StartsOnlyOfThePredecessor);
}

#[test]
fn agents_that_fail_after_three_minutes_cost_100_beads_40_starts_in_an_hour_then_3_and_are_announced_once() {
    let (mut w, rig) = World::founded(3);
    w.container.behave_all(Behaviour::fails(3 * MINUTE, "the key expired"));
    let begun = w.now();
    let beads = sling_many(&mut w, &rig, 100);
    w.run_for(24 * HOUR);
    let all = attempts(&w);
    let hours: Vec<usize> = (0..24).map(|n| booked_in_hour(&all, begun, n)).collect();
    assert!(hours[0] <= 40, "{hours:?}");
    assert!(hours[1..].iter().all(|n| *n <= 3), "{hours:?}");
    assert!(hours[1..].iter().any(|n| *n > 0), "it must go on probing: {hours:?}");
    let real = w.starts().iter().filter(|s| s.at.since(begun) < HOUR).count();
    assert!(real <= 40, "{real} processes in the first hour");
    assert_eq!(w.starts().len(), all.len(), "one process for each attempt");
    assert_eq!((w.notified("breaker.opened"), w.notified("breaker.closed")), (1, 0));
    assert!(all.iter().all(|a| a["finished_at"].is_null() || a["code"] == "agent.exited"));

    w.container.behave_all(Behaviour::done(MINUTE));
    w.run_for(DAY);
    let settled = |b: &_| matches!(w.status(b).as_str(), "closed" | "failed");
    assert!(beads.iter().all(settled), "healed, everything that may run has run");
    assert!(beads.iter().filter(|b| w.status(b) == "failed").count() <= 14, "24 h of probes cost few beads their cap");
    assert_eq!((w.notified("breaker.opened"), w.notified("breaker.closed")), (1, 1));
}

#[test]
fn forty_successful_starts_in_thirty_minutes_leave_the_breaker_closed() {
    let (mut w, rig) = World::founded(4);
    let opened = Rc::new(Cell::new(0));
    let seen = Rc::clone(&opened);
    w.watch(move |w| {
        let b = w.breaker("town");
        if b["state"] != "closed" || b["failures_in_window"] != 0 {
            seen.set(seen.get() + 1);
        }
    });
    polecats(&mut w, quick(20 * SECOND));
    let begun = w.now();
    let mut beads = Vec::new();
    for n in 0..40 {
        beads.push(w.sling(&rig, &format!("bead {n}")));
        w.run_for(40 * SECOND);
    }
    w.run_until(begun.plus(30 * MINUTE));
    assert_eq!(opened.get(), 0);
    assert_eq!(w.starts().iter().filter(|s| s.at.since(begun) <= 30 * MINUTE).count(), 40);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
    assert!(w.notifications().is_empty());
}

#[test]
fn a_town_in_which_nothing_is_due_has_no_alarm_and_never_ticks() {
    let (mut w, rig) = World::founded(5);
    assert_eq!(w.alarm(), None, "a new town");
    w.run_for(DAY);
    assert_eq!(w.counts.ticks, 0);
    let beads = sling_many(&mut w, &rig, 5);
    w.run_for(2 * HOUR);
    assert!(beads.iter().all(|b| w.status(b) == "closed"));
    assert_eq!(w.alarm(), None, "all work is done");
    let counts = w.counts;
    w.run_for(1_000 * HOUR);
    assert_eq!(w.counts, counts, "nothing happened in a thousand hours");
}

#[test]
fn a_town_whose_only_bead_waits_for_a_person_has_no_alarm() {
    let (mut w, rig) = World::founded(5);
    let bead = NewBead { title: "later".to_owned(), labels: vec!["gt:held".to_owned()], ..NewBead::default() };
    let bead = sling_with(&mut w, &rig, bead);
    w.run_for(MINUTE);
    let counts = w.counts;
    assert_eq!((w.alarm(), w.holds(&bead)), (None, vec!["held_label".to_owned()]));
    w.run_for(1_000 * HOUR);
    assert_eq!(w.counts, counts);
}

#[test]
fn a_thousand_beads_slung_in_one_millisecond_have_distinct_branches() {
    let (mut w, rig) = World::founded(6);
    polecats(&mut w, quick(10 * SECOND));
    let now = w.now();
    let beads = sling_many(&mut w, &rig, 1_000);
    assert_eq!(w.now(), now);
    // A branch ends in the first eight characters of its bead's id, so it is these that must differ …
    assert_eq!(beads.iter().map(BeadId::short).collect::<BTreeSet<_>>().len(), 1_000);
    // … and it does, as far as a test has the patience to see branches go out.
    w.run_for(3 * MINUTE);
    let starts = w.effects.iter().filter_map(|(_, effect)| match effect {
        Effect::StartAgent(start) => Some((start.attempt_id.clone(), start.request.branch.clone())),
        _ => None,
    });
    let starts: Vec<_> = starts.collect();
    assert!(starts.len() > 100, "{}", starts.len());
    let booked = attempts(&w);
    for (attempt, branch) in &starts {
        let attempt = booked.iter().find(|a| a["attempt_id"] == attempt.0.as_str()).unwrap();
        let bead = BeadId::from(text(attempt, "bead_id"));
        assert!(branch.starts_with("gt/") && branch.ends_with(&format!("/{}", bead.short())), "{branch}");
    }
    assert_eq!(starts.iter().map(|s| &s.1).collect::<BTreeSet<_>>().len(), starts.len());
    assert_eq!(w.container.twice(), Vec::<String>::new());
}
