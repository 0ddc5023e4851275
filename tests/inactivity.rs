//! Agents that do nothing: nudged, asked about, stopped (`domain.md` 6).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

mod support_host;

use gastown::town::command::{Command, NewBead};
use gastown::town::id::{BeadId, RigId};
use gastown::town::time::{HOUR, MINUTE, Millis, Timestamp};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::world::World;
use support_host::*;

/// A town whose one agent does nothing any more after so long, and when it was started.
fn quiet(after: Millis) -> (World, RigId, BeadId, Timestamp) {
    let (mut w, rig) = World::founded(6);
    w.container.behave(move |start| match (start.request.role.as_str(), start.request.lightweight) {
        ("polecat", None) => Behaviour::hangs().quiet_after(after),
        ("polecat", _) => quick(MINUTE), // a triage agent
        (role, _) => Behaviour::good(role),
    });
    let bead = w.sling(&rig, "Think");
    let begun = w.now();
    (w, rig, bead, begun)
}

fn count(w: &World, sql: &str) -> i64 {
    w.sql.peek(sql, &[])[0].int(0).unwrap()
}
fn nudges(w: &World) -> i64 {
    count(w, "SELECT count(*) FROM nudges WHERE source = 'reconciler' AND mode = 'immediate'")
}
fn requests(w: &World) -> i64 {
    count(w, "SELECT count(*) FROM beads WHERE triage_request > 0")
}
fn status(w: &World, name: &str) -> String {
    w.sql.peek("SELECT status FROM agents WHERE name = ?1", &[name.into()])[0].text(0).unwrap()
}
/// When the first row that `sql` reads was made, in minutes.
fn minute(w: &World, sql: &str, begun: Timestamp) -> i64 {
    Timestamp(w.sql.peek(sql, &[])[0].int(0).unwrap()).since(begun) / MINUTE
}

#[test]
fn an_agent_that_does_nothing_is_nudged_asked_about_and_stopped() {
    let (mut w, _, bead, begun) = quiet(0);
    w.run_for(14 * MINUTE);
    assert_eq!(nudges(&w), 0);
    w.run_for(2 * MINUTE);
    assert_eq!((nudges(&w), requests(&w)), (1, 0));
    w.run_for(43 * MINUTE);
    assert_eq!((nudges(&w), requests(&w)), (1, 0), "59 minutes: once an hour at most");
    w.run_for(2 * MINUTE);
    assert_eq!((nudges(&w), requests(&w)), (2, 1));
    w.run_for(HOUR - 2 * MINUTE);
    assert_eq!((w.status(&bead).as_str(), nudges(&w), requests(&w)), ("in_progress", 2, 1));
    w.run_for(2 * MINUTE);
    let ended = &w.attempts(&bead)[0];
    assert_eq!((text(ended, "outcome"), text(ended, "code")), ("failed", "agent.no_progress"));
    assert!(text(ended, "reason").contains("2 h 0 min"), "{ended}");
    assert_eq!(time(&ended["finished_at"]).since(begun) / MINUTE, 120);
    assert!(w.starts()[0].ended_at.is_some(), "its process was stopped");
    assert_eq!((charged(&w, &bead), streak(&w, &bead)), (1, 1));
}

#[test]
fn its_bead_is_done_by_another_attempt() {
    let (mut w, _, bead, _) = quiet(0);
    w.run_for(2 * HOUR + MINUTE);
    polecats(&mut w, quick(MINUTE));
    assert!(w.run_while_not(HOUR, |w| w.status(&bead) == "closed"), "{}", w.journal());
}

#[test]
fn every_thing_that_it_does_begins_the_count_anew() {
    let (mut w, _, bead, begun) = quiet(50 * MINUTE);
    w.run_for(64 * MINUTE);
    assert_eq!(nudges(&w), 0);
    w.run_for(2 * MINUTE);
    assert_eq!(nudges(&w), 1, "50 and 15 minutes");
    w.run_for(2 * HOUR);
    assert_eq!(minute(&w, "SELECT created_at FROM beads WHERE triage_request > 0", begun), 110);
    assert_eq!(time(&w.attempts(&bead)[0]["finished_at"]).since(begun) / MINUTE, 170);
}

#[test]
fn a_tool_that_runs_is_waited_for_but_not_for_an_hour() {
    let (mut w, rig) = World::founded(6);
    polecats(&mut w, Behaviour::hangs().quiet_after(0).busy());
    w.sling(&rig, "Build");
    w.run_for(59 * MINUTE);
    assert_eq!(nudges(&w), 0);
    w.run_for(2 * MINUTE);
    assert_eq!((nudges(&w), requests(&w)), (1, 1));
}

#[test]
fn an_agent_that_never_told_of_anything_is_active_as_long_as_it_is_heard() {
    let (mut w, rig) = World::founded(6);
    polecats(&mut w, Behaviour::hangs());
    let bead = w.sling(&rig, "Think");
    w.run_for(5 * HOUR);
    assert_eq!((w.status(&bead).as_str(), nudges(&w)), ("in_progress", 0));
}

#[test]
fn a_memory_that_is_lost_repeats_no_step_and_forgets_none() {
    let (mut w, _, bead, begun) = quiet(0);
    for _ in 0..(2 * 60) {
        w.run_for(MINUTE + 1);
        w.crash();
    }
    w.run_for(2 * MINUTE);
    assert_eq!((nudges(&w), requests(&w)), (2, 1));
    assert_eq!(time(&w.attempts(&bead)[0]["finished_at"]).since(begun) / MINUTE, 120);
}

#[test]
fn a_quiet_agent_costs_a_row_every_five_minutes_as_any_other() {
    let (mut w, _, _, _) = quiet(0);
    w.run_for(16 * MINUTE);
    let before = gastown::town::sql::Sql::usage(&w.sql).rows_written;
    w.run_for(30 * MINUTE);
    let rows = gastown::town::sql::Sql::usage(&w.sql).rows_written - before;
    assert!(rows <= 7, "{rows} rows in half an hour");
    assert_eq!(count(&w, "SELECT count(*) FROM attempts WHERE quiet_step = 1"), 1);
}

#[test]
fn while_the_container_drains_nobody_is_taken_for_inactive() {
    let (mut w, _, bead, _) = quiet(0);
    w.run_for(13 * MINUTE);
    let evicting = gastown::town::command::Actor::Container { agent_id: None, dispatch_id: None };
    w.command(&evicting, Command::ContainerEviction).unwrap();
    w.run_for(6 * MINUTE);
    assert_eq!((nudges(&w), w.status(&bead).as_str()), (0, "in_progress"));
}

#[test]
fn a_stalled_agent_is_idle_when_its_process_is_gone() {
    let (mut w, _, _, _) = quiet(0);
    w.container.faults.set(Endpoint::Stop, Fault::answer(500, error("busy")));
    w.run_for(2 * HOUR + MINUTE);
    assert_eq!(status(&w, "Toast"), "stalled");
    w.container.faults.clear_all();
    w.run_for(5 * MINUTE);
    assert_ne!(status(&w, "Toast"), "stalled");
}

#[test]
fn a_stalled_agent_is_idle_after_half_an_hour_whatever_has_become_of_its_process() {
    let (mut w, _, bead, _) = quiet(0);
    w.container.faults.set(Endpoint::Stop, Fault::answer(500, error("busy")));
    w.run_for(2 * HOUR + MINUTE);
    w.must(Command::CancelBead { bead_id: bead, reason: "enough".to_owned() });
    w.run_for(27 * MINUTE);
    assert_eq!(status(&w, "Toast"), "stalled");
    w.run_for(3 * MINUTE);
    assert_eq!(status(&w, "Toast"), "idle");
}

#[test]
fn a_stalled_agent_is_idle_when_another_container_has_taken_over() {
    let (mut w, rig, _, _) = quiet(0);
    w.container.faults.set(Endpoint::Stop, Fault::answer(500, error("busy")));
    w.run_for(2 * HOUR + MINUTE);
    w.container.restart(w.clock.now());
    let bead = NewBead { title: "Other".to_owned(), priority: Some("critical".to_owned()), ..NewBead::default() };
    sling_with(&mut w, &rig, bead);
    w.run_for(2 * MINUTE);
    assert_ne!(status(&w, "Toast"), "stalled");
}

#[test]
fn a_stalled_refinery_takes_no_review_until_its_process_is_gone() {
    let (mut w, rig) = World::founded(6);
    refineries(&mut w, Behaviour::hangs().quiet_after(0));
    w.sling(&rig, "Work");
    w.container.faults.set(Endpoint::Stop, Fault::answer(500, error("busy")));
    w.run_for(2 * HOUR + 3 * MINUTE);
    assert_eq!(status(&w, "refinery"), "stalled");
    w.run_for(3 * MINUTE);
    assert_eq!(status(&w, "refinery"), "stalled", "its backoff is over, but its process may run still");
    let mr: BeadId =
        w.sql.peek("SELECT bead_id FROM beads WHERE type = 'merge_request'", &[])[0].text(0).unwrap().into();
    assert!(w.holds(&mr).iter().any(|h| h == "rig_refinery_busy"), "{:?}", w.holds(&mr));
    w.container.behave(|start| Behaviour::good(&start.request.role));
    w.container.faults.clear_all();
    assert!(w.run_while_not(HOUR, |w| w.status(&mr) == "closed"), "{}", w.journal());
}
