//! Limits, wake-ups and reports at their edges: what is in flight, what is full, what the alarm waits for, and when people
//! and the fleet are told (`design.md` 5.5, 5.6, 7).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a broken promise must stop the test")]

#[path = "support_host/mod.rs"]
mod support;

use gastown::town::command::{Command, NewBead};
use gastown::town::dispatch::gate::View;
use gastown::town::effect::Effect;
use gastown::town::id::{BeadId, RigId};
use gastown::town::policy::DRAIN_LIMIT;
use gastown::town::sql::Sql as _;
use gastown::town::time::{DAY, HOUR, MINUTE, SECOND, Timestamp};
use gastown::town::{Ctx, Town};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use serde_json::json;
use support::*;

fn edit(w: &World, sql: &'static str) {
    w.sql.execute(sql, &[]).unwrap();
}

fn next_wake(w: &World) -> Option<Timestamp> {
    Town::new(&w.sql).next_wake(&Ctx::new(w.now(), &w.ids)).unwrap()
}

fn tick(w: &World) -> Vec<Effect> {
    Town::new(&w.sql).tick(&Ctx::new(w.now(), &w.ids)).unwrap()
}

fn create(w: &mut World, rig: &RigId, title: &str) -> BeadId {
    let bead = NewBead { title: title.to_owned(), ..NewBead::default() };
    text(&w.must(Command::CreateBead { rig_id: rig.clone(), bead }), "bead_id").into()
}

fn refuse_the_key(w: &mut World, rig: &RigId) -> BeadId {
    let refused = r#"{"error":"no credit","phase":"initial_prompt","status":402}"#;
    w.container.faults.once(Endpoint::Start, Fault::answer(500, refused));
    let bead = w.sling(rig, "opens the town");
    assert!(w.run_while_not(MINUTE, |w| w.breaker("town")["state"] == "open"), "{}", w.journal());
    bead
}

// ── what is in flight ────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_start_is_in_flight_until_it_is_proven_or_its_lease_is_over() {
    let (mut w, rig) = World::founded(1);
    w.container.behave_all(Behaviour::hangs().mute());
    let bead = w.sling(&rig, "one");
    w.run_for(SECOND);
    let attempt = last(&w, &bead);
    let counted = |w: &World| {
        let told = w.dispatch();
        let listed = told["in_flight"].as_array().unwrap().len();
        let load = View::load(&w.sql, w.now()).unwrap().load;
        assert_eq!((usize::try_from(load.in_flight).unwrap(), &told["running"]), (listed, &json!(load.live)));
        (listed, load.live)
    };
    assert_eq!(counted(&w), (1, 1));
    let lease = time(&attempt["lease_until"]);
    w.clock.set(lease.plus(-1));
    assert_eq!(counted(&w), (1, 1));
    w.clock.set(lease);
    assert_eq!(counted(&w), (0, 1));
    w.clock.set(time(&attempt["booked_at"]));
    edit(&w, "UPDATE attempts SET proven_at = booked_at");
    assert_eq!(counted(&w), (0, 1));
    edit(&w, "UPDATE attempts SET proven_at = NULL, finished_at = booked_at");
    assert_eq!(counted(&w), (0, 0));
}

#[test]
fn polecats_are_counted_by_rig_and_a_full_rig_takes_no_more() {
    let (mut w, rig) = World::founded(2);
    let other = w.add_rig("other");
    w.container.behave_all(Behaviour::hangs());
    w.patch_config(json!({"dispatch": {"max_polecats_per_rig": 2}}));
    for n in 0..4 {
        w.sling(&rig, &format!("bead {n}"));
        w.run_for(MINUTE);
    }
    w.sling(&other, "elsewhere");
    w.run_for(SECOND);
    let load = View::load(&w.sql, w.now()).unwrap().load;
    assert_eq!((load.polecats.get(&rig), load.polecats.get(&other), load.polecats_in_town), (Some(&2), Some(&1), 3));
    assert_eq!((attempts(&w).len(), load.live), (3, 3));
}

// ── what the alarm waits for ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_backoff_behind_a_full_rig_or_a_full_slow_start_arms_nothing() {
    let waiting = |limit: &str| {
        let (mut w, rig) = World::founded(3);
        w.container.faults.once(Endpoint::Start, Fault::answer(500, error("no")));
        let waits = w.sling(&rig, "waits");
        w.run_for(SECOND);
        w.container.behave_all(Behaviour::hangs().mute());
        w.sling(&rig, "works");
        w.run_for(SECOND);
        match limit {
            "rig" => {
                edit(&w, "UPDATE attempts SET proven_at = booked_at, lease_until = 9000000000000");
                w.patch_config(json!({"dispatch": {"max_polecats_per_rig": 1}}));
                tick(&w);
            }
            "starts" => edit(&w, "UPDATE attempts SET lease_until = 9000000000000 WHERE finished_at IS NULL"),
            _ => edit(&w, "UPDATE attempts SET proven_at = booked_at, lease_until = 9000000000000"),
        }
        // The token of the agent that works is to be renewed in six hours, whatever waits.
        edit(&w, "UPDATE town SET push_at = NULL");
        let due = Timestamp(row(&w, &waits, "next_dispatch_at").unwrap());
        (next_wake(&w), due)
    };
    let (wake, due) = waiting("nothing");
    assert_eq!(wake, Some(due));
    for full in ["rig", "starts"] {
        assert_eq!(waiting(full).0, Some(Timestamp(9_000_000_000_000)), "{full}: only the lease");
    }
}

#[test]
fn a_drain_or_a_hold_arms_nothing_while_nothing_waits_and_nothing_runs() {
    let (mut w, rig) = World::founded(4);
    w.must(Command::ContainerEviction);
    assert_eq!(next_wake(&w), None, "nobody would notice its end");
    let since = w.now();
    let bead = create(&mut w, &rig, "waits");
    assert_eq!(next_wake(&w), Some(since.plus(DRAIN_LIMIT)));
    w.must(Command::CancelBead { bead_id: bead, reason: "x".to_owned() });
    assert_eq!(next_wake(&w), None);

    let (mut w, rig) = World::founded(5);
    edit(&w, "UPDATE town SET hold_until = 9000000000000, hold_cause = 'container.throttled'");
    assert_eq!(next_wake(&w), None);
    create(&mut w, &rig, "waits");
    assert_eq!(next_wake(&w), Some(Timestamp(9_000_000_000_000)));
}

#[test]
fn a_draining_container_is_asked_who_it_is_only_while_something_waits() {
    let asks = |waits: bool| {
        let (mut w, rig) = World::founded(6);
        w.container.behave_all(Behaviour::hangs());
        w.sling(&rig, "makes the instance known");
        w.run_for(SECOND);
        w.must(Command::ContainerEviction);
        if waits {
            create(&mut w, &rig, "waits");
        }
        w.clock.set(w.now().plus(MINUTE));
        tick(&w).iter().any(|e| matches!(e, Effect::ObserveAgents(asked) if asked.is_empty()))
    };
    assert!(asks(true) && !asks(false));
}

#[test]
fn whatever_changes_the_towns_breaker_is_told_to_the_fleet_and_nothing_else_is() {
    let (mut w, rig) = World::founded(7);
    w.run_for(DAY);
    assert!(w.reports.is_empty(), "closed is what the fleet takes for granted");
    refuse_the_key(&mut w, &rig);
    let states = |w: &World| -> Vec<String> { w.reports.iter().map(|(_, r)| r.breaker.clone()).collect() };
    assert_eq!(states(&w), ["open"]);
    tick(&w);
    assert_eq!(next_wake(&w).filter(|t| *t <= w.now()), None, "it was told");
    // A command moves the breaker, too, and has no effects of its own: the tick that it wakes tells.
    edit(&w, "UPDATE breakers SET state = 'closed', next_probe_at = NULL, settled = 1, told = 0 WHERE scope = 'town'");
    assert_eq!(next_wake(&w), Some(w.now()));
    let told = |effects: Vec<Effect>| -> Vec<String> {
        let report = |e| match e {
            Effect::ReportToFleet(report) => Some(report.breaker),
            _ => None,
        };
        effects.into_iter().filter_map(report).collect()
    };
    assert_eq!(told(tick(&w)), ["closed"]);
    assert!(told(tick(&w)).is_empty());
}

// ── when people are told that it is over ─────────────────────────────────────────────────────────────────────────

#[test]
fn the_end_of_an_outage_is_told_as_soon_as_the_slow_start_has_reached_its_limit() {
    for (limit, told) in [(2, 1), (3, 0), (6, 0)] {
        let (mut w, rig) = World::founded(8);
        w.patch_config(json!({"dispatch": {"max_starts_in_flight": limit}}));
        w.container.behave_all(Behaviour::hangs());
        refuse_the_key(&mut w, &rig);
        assert!(w.run_while_not(HOUR, |w| w.breaker("town")["state"] == "closed"), "{}", w.journal());
        w.run_for(SECOND);
        assert_eq!(w.notified("breaker.closed"), told, "{limit}: one start was proven, two may be in flight");
        w.run_for(HOUR);
        assert_eq!(w.notified("breaker.closed"), 1, "at the latest after half an hour");
    }
}

// ── retention ────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_redrive_that_is_over_stays_on_record_for_ninety_days() {
    let (mut w, rig) = World::founded(9);
    w.container.faults.once(Endpoint::Start, Fault::answer(400, error("bad body")));
    w.container.behave_all(Behaviour::hangs());
    w.sling(&rig, "one");
    w.run_for(SECOND);
    w.must(Command::Redrive {
        fingerprint: None,
        rig_id: None,
        limit: None,
        dry_run: false,
        reason: "a test".to_owned(),
    });
    let kept = |w: &World| w.sql.peek("SELECT 1 FROM redrives WHERE state = 'finished'", &[]).len();
    assert_eq!(kept(&w), 1);
    let begun = w.now();
    w.clock.set(begun.plus(90 * DAY));
    tick(&w);
    assert_eq!(kept(&w), 1);
    w.clock.set(w.now().plus(1));
    tick(&w);
    assert_eq!(kept(&w), 0);
}
