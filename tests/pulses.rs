//! What the object remembers of heartbeats, and what becomes of a town whose memory is lost (`docs/decisions/008`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a broken promise must stop the test"
)]

mod support_host;

use gastown::town::Town;
use gastown::town::command::{Actor, Command, Heartbeat};
use gastown::town::effect::Effect;
use gastown::town::id::{BeadId, RigId};
use gastown::town::policy::{HEARTBEAT_STORE_EVERY, HEARTBEAT_TIMEOUT_MS};
use gastown::town::sql::Sql as _;
use gastown::town::time::{HOUR, MINUTE, Millis, SECOND, Timestamp};
use gastown_host::behaviour::Behaviour;
use gastown_host::fault::{Endpoint, Fault};
use gastown_host::owner;
use gastown_host::sqlite::SqlFault;
use gastown_host::world::{Fate, World};
use serde_json::{Value as Json, json};
use support_host::*;

const CONTAINER: Actor = Actor::Container { agent_id: None, dispatch_id: None };

/// A town with so many agents at work, each of them proven.
fn at_work(n: usize) -> (World, Vec<BeadId>) {
    let (mut w, rig): (World, RigId) = World::founded(8);
    w.patch_config(json!({"dispatch": {"max_agents": 500, "max_polecats_per_rig": 500}}));
    w.container.behave_all(Behaviour::hangs());
    let beads = sling_many(&mut w, &rig, n);
    let all = |w: &World| beads.iter().all(|b| w.attempts(b).last().is_some_and(|a| a["outcome"] == "proven"));
    assert!(w.run_while_not(30 * MINUTE, all), "{}", w.journal());
    w.run_for(MINUTE);
    (w, beads)
}

fn looks(w: &World) -> Vec<Timestamp> {
    w.effects.iter().filter(|(_, e)| matches!(e, Effect::ObserveAgents(_))).map(|(at, _)| *at).collect()
}

/// When the worker last heard the agent of this bead: by the object's memory and by the row.
fn heard(w: &World, bead: &BeadId) -> (Timestamp, Timestamp) {
    let rows = w.sql.peek(
        "SELECT agent_id, last_heartbeat_at FROM attempts WHERE bead_id = ?1 AND finished_at IS NULL",
        &[bead.into()],
    );
    let agent = rows[0].text(0).unwrap().as_str().into();
    (w.pulses.last(&agent).expect("it was heard").at, Timestamp(rows[0].int(1).unwrap()))
}

/// What our runner sends for all agents of its container.
fn batch(w: &World) -> Vec<Heartbeat> {
    let beat = |a: &Json| Heartbeat {
        agent_id: Some(text(a, "agent_id").to_owned()),
        dispatch_id: Some(text(a, "attempt_id").to_owned()),
        status: Some("running".to_owned()),
        ..Heartbeat::default()
    };
    attempts(w).iter().filter(|a| a["finished_at"].is_null()).map(beat).collect()
}

fn send(w: &mut World, agents: Vec<Heartbeat>) -> Json {
    let container_instance_id = Some(w.container.instance_id().to_owned());
    w.command(&CONTAINER, Command::Heartbeats { container_instance_id, agents }).unwrap().data
}

fn silence(w: &mut World) {
    w.filter_voices(|_| Fate::Lost);
}

// ── the memory holds ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_healthy_agent_costs_a_row_every_five_minutes_and_is_never_looked_at() {
    let (mut w, beads) = at_work(5);
    let (rows, calls, alarms) = (w.sql.usage().rows_written, w.counts.container_calls, w.counts.alarms);
    w.run_for(HOUR);
    let written = w.sql.usage().rows_written - rows;
    let expected = 5 * u64::try_from(HOUR / HEARTBEAT_STORE_EVERY).unwrap();
    assert!((expected - 5..=expected).contains(&written), "{written} rows written for 600 heartbeats");
    assert_eq!(w.counts.container_calls, calls, "{}", w.journal());
    assert!(w.counts.alarms - alarms <= 60, "the alarm rang {} times", w.counts.alarms - alarms);
    assert!(beads.iter().all(|b| w.attempts(b).len() == 1));
}

#[test]
fn an_agent_that_falls_silent_is_looked_at_one_timeout_after_it_was_last_heard_not_stored() {
    let (mut w, beads) = at_work(1);
    w.run_for(2 * MINUTE + 17 * SECOND);
    let (at, stored) = heard(&w, &beads[0]);
    assert!(at > stored.plus(MINUTE), "the row is behind");
    assert_eq!(time(&last(&w, &beads[0])["lease_until"]), at.plus(HEARTBEAT_TIMEOUT_MS), "and the answer is not");
    silence(&mut w);
    w.container.faults.set(Endpoint::Health, Fault::Refuse);
    w.run_for(3 * MINUTE);
    assert_eq!(looks(&w), [at.plus(HEARTBEAT_TIMEOUT_MS)], "{}", w.journal());
    assert_eq!(w.attempts(&beads[0])[0]["code"], "container.lost");
}

#[test]
fn a_lowered_timeout_counts_for_what_is_remembered_too() {
    let (mut w, _) = at_work(2);
    silence(&mut w);
    w.patch_config(json!({"dispatch": {"heartbeat_timeout_ms": 10_000}}));
    let changed = w.now();
    w.run_for(MINUTE);
    assert_eq!(looks(&w).first(), Some(&changed.plus(10 * SECOND)), "{}", w.journal());
}

#[test]
fn a_batch_of_heartbeats_without_news_runs_no_statement() {
    let (mut w, _) = at_work(30);
    let said = batch(&w);
    assert_eq!(said.len(), 30);
    send(&mut w, said.clone());
    let before = w.sql.usage();
    assert_eq!(send(&mut w, said), json!({"heartbeat": true}));
    assert_eq!(w.sql.usage(), before);
}

#[test]
fn what_others_wrote_is_read_again_before_the_next_heartbeat_counts() {
    let (mut w, beads) = at_work(2);
    let said = batch(&w);
    send(&mut w, said.clone());
    // Stopped by hand: its process does not know yet, and goes on saying that it runs.
    w.must(Command::CancelBead { bead_id: beads[0].clone(), reason: "not needed".to_owned() });
    send(&mut w, said);
    w.run_for(SECOND);
    assert_eq!(w.attempts(&beads[0])[0]["outcome"], "cancelled");
    let stops = w.effects.iter().filter(|(_, e)| matches!(e, Effect::StopAgent(_))).count();
    assert!(stops >= 1, "{}", w.journal());
    assert_eq!(w.status(&beads[1]), "in_progress");
}

/// The object awaits its alarm between applying a command and asking for the next deadline.
#[test]
fn a_heartbeat_that_comes_between_a_command_and_its_alarm_is_a_late_voice_already() {
    let (w, beads) = at_work(1);
    let said = batch(&w).remove(0);
    w.clock.set(w.now().plus(SECOND));
    let cancel = Command::CancelBead { bead_id: beads[0].clone(), reason: "not needed".to_owned() };
    Town::new(&w.sql).handle(&w.ctx(), &owner(), cancel).unwrap();
    let agent_id = said.agent_id.clone().unwrap().into();
    let before = w.pulses.last(&agent_id);
    let heartbeat = Command::Heartbeat { agent_id: agent_id.clone(), body: said };
    Town::new(&w.sql).handle(&w.ctx(), &CONTAINER, heartbeat).unwrap();
    assert_eq!(w.pulses.last(&agent_id), before, "nobody waits for it any more");
}

#[test]
fn an_unknown_a_retired_and_a_mistaken_agent_spoil_no_other_heartbeat() {
    let (mut w, beads) = at_work(4);
    let mut said = batch(&w);
    w.must(Command::CancelBead { bead_id: beads[0].clone(), reason: "not needed".to_owned() });
    let mistaken = said[2].dispatch_id.clone();
    said[1].dispatch_id = mistaken;
    said.insert(0, Heartbeat { agent_id: Some("nobody".to_owned()), ..Heartbeat::default() });
    w.clock.set(w.now().plus(7));
    send(&mut w, said);
    let now = w.now();
    assert_eq!((heard(&w, &beads[2]).0, heard(&w, &beads[3]).0), (now, now), "{}", w.journal());
    assert!(heard(&w, &beads[1]).0 < now, "it named another agent's dispatch");
}

#[test]
fn a_batch_that_was_undone_is_believed_in_nothing_that_it_wrote() {
    let (mut w, beads) = at_work(3);
    silence(&mut w);
    w.run_for(30 * SECOND);
    let said = batch(&w);
    // The rows are due to be written, and the second one cannot be.
    w.clock.set(w.now().plus(HEARTBEAT_STORE_EVERY));
    let before = w.sql.dump();
    w.tolerate_errors = true;
    w.sql.fail_statement(8, SqlFault::Once);
    let container_instance_id = Some(w.container.instance_id().to_owned());
    let failed = w.command(&CONTAINER, Command::Heartbeats { container_instance_id, agents: said.clone() });
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(w.sql.dump(), before);
    let rows = w.sql.usage().rows_written;
    send(&mut w, said);
    assert_eq!(w.sql.usage().rows_written - rows, 3, "each row is written after all");
    assert!(beads.iter().all(|b| heard(&w, b).1 == w.now()));
}

// ── the memory is lost ───────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_lost_memory_costs_a_healthy_agent_nothing() {
    let (mut w, beads) = at_work(3);
    w.run_for(4 * MINUTE);
    let before = w.now();
    w.crash();
    w.run_for(HOUR);
    assert_eq!(looks(&w).iter().filter(|at| **at >= before).count(), 0, "{}", w.journal());
    assert!(beads.iter().all(|b| w.status(b) == "in_progress"));
}

#[test]
fn a_lost_memory_and_an_agent_that_stays_silent_cause_a_look_and_no_verdict() {
    let (mut w, beads) = at_work(1);
    w.run_for(3 * MINUTE);
    silence(&mut w);
    w.crash();
    let born = w.now();
    w.run_for(HEARTBEAT_TIMEOUT_MS + SECOND);
    assert_eq!(looks(&w), [born.plus(HEARTBEAT_TIMEOUT_MS)], "{}", w.journal());
    // The container says that it runs: that is as good as a heartbeat.
    assert_eq!((w.status(&beads[0]).as_str(), w.attempts(&beads[0]).len()), ("in_progress", 1));
    assert!(time(&last(&w, &beads[0])["lease_until"]) >= looks(&w)[0].plus(HEARTBEAT_TIMEOUT_MS));
}

/// The platform puts an object to sleep after ten seconds without a request: between any two heartbeats.
fn sleepless(w: &mut World, how_long: Millis) {
    let end = w.now().plus(how_long);
    while w.now() < end {
        w.run_for(15 * SECOND);
        w.crash();
    }
}

#[test]
fn an_object_that_sleeps_between_any_two_heartbeats_looks_at_no_healthy_agent() {
    let (mut w, beads) = at_work(3);
    let (rows, before) = (w.sql.usage().rows_written, w.now());
    sleepless(&mut w, HOUR);
    assert_eq!(looks(&w).iter().filter(|at| **at >= before).count(), 0, "{}", w.journal());
    let written = w.sql.usage().rows_written - rows;
    assert!(written <= 3 * 13, "{written} rows written for 360 heartbeats");
    assert!(beads.iter().all(|b| w.status(b) == "in_progress"));
}

#[test]
fn an_object_that_forgets_everything_all_the_time_still_finds_its_dead_container() {
    let (mut w, beads) = at_work(2);
    w.run_for(MINUTE);
    let (at, stored) = heard(&w, &beads[0]);
    assert!(at >= stored);
    w.container.kill(w.now());
    sleepless(&mut w, HEARTBEAT_STORE_EVERY + HEARTBEAT_TIMEOUT_MS + MINUTE);
    let found = looks(&w)[0];
    assert!(found <= stored.plus(HEARTBEAT_STORE_EVERY + HEARTBEAT_TIMEOUT_MS + SECOND), "{found}: {}", w.journal());
    assert_eq!(w.attempts(&beads[0])[0]["code"], "container.lost", "{}", w.journal());
}
